//! The residual block of He et al. 2015 (arXiv 1512.03385, section 3.2, equations 1 and 2).
//!
//! ```text
//! y = relu(F(x) + S(x))
//!
//! basic:       F = bn₂(conv₂ 3x3( relu(bn₁(conv₁ 3x3(x))) ))                        stride on conv₁
//! bottleneck:  F = bn₃(conv₃ 1x1( relu(bn₂(conv₂ 3x3( relu(bn₁(conv₁ 1x1(x))) ))) ))
//! ```
//!
//! The bottleneck's stride is on its 3x3 convolution ("v1.5", as in torchvision) or on its first 1x1 (v1, the paper),
//! never on both. The addition comes *before* the last ReLU: with a ReLU on F(x) alone a block could only add, never
//! subtract.
//!
//! # Backward
//!
//! x is used twice, so its gradient is the sum of two:
//!
//! ```text
//! ds = relu'(·) dy                 the gradient of the sum F(x) + S(x)
//! dx = (∂F/∂x)ᵀ ds + (∂S/∂x)ᵀ ds   with S = identity:  dx = (∂F/∂x)ᵀ ds + ds
//! ```
//!
//! The second term does not pass through any weight. In a stack of blocks it reaches the first one however small the
//! ∂F/∂x are: this is the main idea of the paper.

use super::pre_activation::{PreActivationBlock, PreActivationCache, PreActivationGrads};
use super::shortcut::{Shortcut, ShortcutCache};
use super::unit::{Unit, UnitCache, UnitGrads};
use super::{Cost, add};
use crate::layers::relu::ReluCache;
use crate::layers::{BatchNorm2d, Conv2d, Mode, Relu};
use crate::parameters::{Gradients, Parameters, Role};
use crate::{Activation, Result, Scalar};
use ndarray::{ArrayViewD, ArrayViewMutD};

/// y = relu(F(x) + S(x)); see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct ResidualBlock<T> {
    /// F: units in sequence; all but the last end in a ReLU.
    pub branch: Vec<Unit<T>>,
    /// S.
    pub shortcut: Shortcut<T>,
    /// The ReLU after the addition.
    pub activation: Relu<T>,
}

/// What [`ResidualBlock::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct ResidualCache<T> {
    branch: Vec<UnitCache<T>>,
    shortcut: ShortcutCache<T>,
    activation: ReluCache<T>,
}

/// Gradients of a [`ResidualBlock`]'s parameters.
#[derive(Clone, Debug)]
pub struct ResidualGrads<T> {
    /// The gradients of the units of F.
    pub branch: Vec<UnitGrads<T>>,
    /// The gradients of the projection, if S is one.
    pub shortcut: Option<UnitGrads<T>>,
}

impl<T: Scalar> ResidualBlock<T> {
    /// Returns y and the cache.
    ///
    /// # Errors
    /// The errors of the layers.
    pub fn forward(&self, x: &Activation<T>, mode: Mode) -> Result<(Activation<T>, ResidualCache<T>)> {
        let (mut h, mut branch) = (x.clone(), Vec::with_capacity(self.branch.len()));
        for unit in &self.branch {
            let (y, cache) = unit.forward(&h, mode)?;
            h = y;
            branch.push(cache);
        }
        let (s, shortcut) = self.shortcut.forward(x, mode)?;
        if let Some(s) = &s {
            h = add(h, s);
        }
        let (y, activation) = self.activation.forward(&h);
        Ok((y, ResidualCache { branch, shortcut, activation }))
    }

    /// `(dx, grads)` for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(&self, dy: &Activation<T>, cache: &ResidualCache<T>) -> Result<(Activation<T>, ResidualGrads<T>)> {
        // y = relu(F(x) + S(x)): the addition passes its gradient ds to both summands.
        let ds = self.activation.backward(dy, &cache.activation)?;
        let (dx_shortcut, shortcut) = self.shortcut.backward(&ds, &cache.shortcut)?;
        // F(x) = unit_k(… unit_1(x)): the units in reverse.
        let (mut dx, mut branch) = (ds, Vec::with_capacity(self.branch.len()));
        for (unit, cache) in self.branch.iter().zip(&cache.branch).rev() {
            let (dh, grads) = unit.backward(&dx, cache)?;
            dx = dh;
            branch.push(grads);
        }
        branch.reverse();
        // x was used twice: its gradients add.
        if let Some(dx_shortcut) = &dx_shortcut {
            dx = add(dx, dx_shortcut);
        }
        Ok((dx, ResidualGrads { branch, shortcut }))
    }

    /// Updates the running statistics with those of the batch of a training pass.
    pub fn update_running_statistics(&mut self, cache: &ResidualCache<T>) {
        for (unit, cache) in self.branch.iter_mut().zip(&cache.branch) {
            unit.update_running_statistics(cache);
        }
        self.shortcut.update_running_statistics(&cache.shortcut);
    }
}

impl<T: Scalar> Parameters<T> for ResidualBlock<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        self.branch.iter().for_each(|unit| unit.visit(path, visitor));
        if let Shortcut::Projection(unit) = &self.shortcut {
            unit.visit(path, visitor);
        }
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        self.branch.iter_mut().for_each(|unit| unit.visit_mut(path, visitor));
        if let Shortcut::Projection(unit) = &mut self.shortcut {
            unit.visit_mut(path, visitor);
        }
    }
}

/// A block of either order.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has few of them, and they own far larger arrays")]
pub enum Block<T> {
    /// y = relu(F(x) + S(x)).
    Residual(ResidualBlock<T>),
    /// y = F(x) + S(x), normalisation first.
    PreActivation(PreActivationBlock<T>),
}

/// What [`Block::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub enum BlockCache<T> {
    /// The cache of a [`ResidualBlock`].
    Residual(ResidualCache<T>),
    /// The cache of a [`PreActivationBlock`].
    PreActivation(PreActivationCache<T>),
}

/// Gradients of a [`Block`]'s parameters.
#[derive(Clone, Debug)]
pub enum BlockGrads<T> {
    /// The gradients of a [`ResidualBlock`].
    Residual(ResidualGrads<T>),
    /// The gradients of a [`PreActivationBlock`].
    PreActivation(PreActivationGrads<T>),
}

const MIXED: &str = "the cache or gradients belong to a block of another kind";

impl<T: Scalar> Block<T> {
    /// Returns y and the cache.
    ///
    /// # Errors
    /// The errors of the layers.
    pub fn forward(&self, x: &Activation<T>, mode: Mode) -> Result<(Activation<T>, BlockCache<T>)> {
        match self {
            Block::Residual(block) => block.forward(x, mode).map(|(y, c)| (y, BlockCache::Residual(c))),
            Block::PreActivation(block) => block.forward(x, mode).map(|(y, c)| (y, BlockCache::PreActivation(c))),
        }
    }

    /// `(dx, grads)` for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(&self, dy: &Activation<T>, cache: &BlockCache<T>) -> Result<(Activation<T>, BlockGrads<T>)> {
        match (self, cache) {
            (Block::Residual(block), BlockCache::Residual(cache)) => {
                block.backward(dy, cache).map(|(dx, g)| (dx, BlockGrads::Residual(g)))
            }
            (Block::PreActivation(block), BlockCache::PreActivation(cache)) => {
                block.backward(dy, cache).map(|(dx, g)| (dx, BlockGrads::PreActivation(g)))
            }
            _ => panic!("{MIXED}"),
        }
    }

    /// Updates the running statistics with those of the batch of a training pass.
    pub fn update_running_statistics(&mut self, cache: &BlockCache<T>) {
        match (self, cache) {
            (Block::Residual(block), BlockCache::Residual(cache)) => {
                block.update_running_statistics(cache);
            }
            (Block::PreActivation(block), BlockCache::PreActivation(cache)) => block.update_running_statistics(cache),
            _ => panic!("{MIXED}"),
        }
    }

    /// Every convolution, in forward order, the projection last.
    pub fn convs_mut(&mut self) -> Vec<&mut Conv2d<T>> {
        match self {
            Block::Residual(block) => {
                let mut convs: Vec<_> = block.branch.iter_mut().map(|unit| &mut unit.conv).collect();
                if let Shortcut::Projection(unit) = &mut block.shortcut {
                    convs.push(&mut unit.conv);
                }
                convs
            }
            Block::PreActivation(block) => block.convs.iter_mut().chain(&mut block.projection).collect(),
        }
    }

    /// Every batch norm, in the order of [`norms_mut`](Self::norms_mut).
    pub fn norms(&self) -> Vec<&BatchNorm2d<T>> {
        match self {
            Block::Residual(block) => {
                let mut norms: Vec<_> = block.branch.iter().map(|unit| &unit.bn).collect();
                if let Shortcut::Projection(unit) = &block.shortcut {
                    norms.push(&unit.bn);
                }
                norms
            }
            Block::PreActivation(block) => block.norms.iter().collect(),
        }
    }

    /// Every batch norm, in forward order, the projection's last.
    pub fn norms_mut(&mut self) -> Vec<&mut BatchNorm2d<T>> {
        match self {
            Block::Residual(block) => {
                let mut norms: Vec<_> = block.branch.iter_mut().map(|unit| &mut unit.bn).collect();
                if let Shortcut::Projection(unit) = &mut block.shortcut {
                    norms.push(&mut unit.bn);
                }
                norms
            }
            Block::PreActivation(block) => block.norms.iter_mut().collect(),
        }
    }

    /// The batch norm at the end of F, if there is one.
    pub fn last_norm_of_branch(&mut self) -> Option<&mut BatchNorm2d<T>> {
        match self {
            Block::Residual(block) => block.branch.last_mut().map(|unit| &mut unit.bn),
            Block::PreActivation(_) => None,
        }
    }

    /// Adds the block's cost for an input of shape `x` and returns the shape of y.
    pub(crate) fn cost(&self, x: [usize; 4], cost: &mut Cost) -> Result<[usize; 4]> {
        match self {
            Block::Residual(block) => {
                let mut y = x;
                for unit in &block.branch {
                    y = cost.unit(unit, y)?;
                }
                if let Shortcut::Projection(unit) = &block.shortcut {
                    cost.unit(unit, x)?;
                }
                cost.kept(y);
                Ok(y)
            }
            Block::PreActivation(block) => block.cost(x, cost),
        }
    }
}

impl<T: Scalar> Parameters<T> for Block<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        match self {
            Block::Residual(block) => block.visit(path, visitor),
            Block::PreActivation(block) => block.visit(path, visitor),
        }
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        match self {
            Block::Residual(block) => block.visit_mut(path, visitor),
            Block::PreActivation(block) => block.visit_mut(path, visitor),
        }
    }
}

impl<T: Scalar> BlockGrads<T> {
    /// Adds these gradients to `gradients` under the names of `block` at `path`.
    pub fn collect(self, block: &Block<T>, path: &str, gradients: &mut Gradients<T>) {
        match (self, block) {
            (BlockGrads::Residual(grads), Block::Residual(block)) => {
                for (unit, grads) in block.branch.iter().zip(grads.branch) {
                    grads.collect(unit, path, gradients);
                }
                if let (Some(grads), Shortcut::Projection(unit)) = (grads.shortcut, &block.shortcut) {
                    grads.collect(unit, path, gradients);
                }
            }
            (BlockGrads::PreActivation(grads), Block::PreActivation(_)) => grads.collect(path, gradients),
            _ => panic!("{MIXED}"),
        }
    }
}
