//! The pre-activation block of He et al. 2016 (arXiv 1603.05027, figure 1b and section 4.1); with wide stages also the
//! block of Zagoruyko & Komodakis (arXiv 1605.07146).
//!
//! ```text
//! h₁ = relu(bn₁(x))     F(x) = conv_k( relu(bn_k( … conv₁(h₁) )) )
//! y  = F(x) + S(x)      S(x) = x, its zero-padded subsampling (option A), or projection(h₁)
//! ```
//!
//! Nothing follows the addition, so from one block to the next the signal is a plain sum,
//! x_L = x_l + Σ F(x_i), and so is its gradient. A projection (a bare 1x1 convolution) reads the activated h₁, as in
//! the authors' code; the identity and option A read x.
//!
//! # Backward
//!
//! h₁ is used twice if there is a projection, x is used twice if there is none; the two gradients add:
//!
//! ```text
//! dh₁ = conv₁ᵀ(…) + projectionᵀ(dy)        dx = bn₁ᵀ(relu'(·) dh₁) + dy  (through the identity)
//! ```

use super::{Cost, add};
use crate::layers::batch_norm::{BatchNorm2dCache, BatchNorm2dGrads};
use crate::layers::conv2d::{Conv2dCache, Conv2dGrads};
use crate::layers::relu::ReluCache;
use crate::layers::zero_pad_shortcut::ZeroPadShortcutCache;
use crate::layers::{BatchNorm2d, Conv2d, Mode, Relu, ZeroPadShortcut};
use crate::parameters::{Gradients, Parameters, Role, join};
use crate::{Activation, Result, Scalar};
use ndarray::{ArrayViewD, ArrayViewMutD};

/// y = F(x) + S(x), normalisation first; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct PreActivationBlock<T> {
    /// bn₁ … bn_k.
    pub norms: Vec<BatchNorm2d<T>>,
    /// conv₁ … conv_k.
    pub convs: Vec<Conv2d<T>>,
    /// The 1x1 convolution of the shortcut, if there is one: `downsample.0` in the state dict.
    pub projection: Option<Conv2d<T>>,
    /// Option A, if the shape changes and there is no projection.
    pub zero_pad: Option<ZeroPadShortcut>,
    /// The ReLU before every convolution.
    pub activation: Relu<T>,
}

/// What [`PreActivationBlock::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct PreActivationCache<T> {
    layers: Vec<(BatchNorm2dCache<T>, ReluCache<T>, Conv2dCache<T>)>,
    projection: Option<Conv2dCache<T>>,
    zero_pad: Option<ZeroPadShortcutCache>,
}

/// Gradients of a [`PreActivationBlock`]'s parameters.
#[derive(Clone, Debug)]
pub struct PreActivationGrads<T> {
    /// The gradients of (bn_k, conv_k).
    pub layers: Vec<(BatchNorm2dGrads<T>, Conv2dGrads<T>)>,
    /// The gradients of the projection, if there is one.
    pub projection: Option<Conv2dGrads<T>>,
}

impl<T: Scalar> PreActivationBlock<T> {
    /// Returns y and the cache.
    ///
    /// # Errors
    /// The errors of the layers.
    pub fn forward(&self, x: &Activation<T>, mode: Mode) -> Result<(Activation<T>, PreActivationCache<T>)> {
        let mut cache = PreActivationCache { layers: Vec::new(), projection: None, zero_pad: None };
        let mut shortcut = x.clone();
        let mut h = x.clone();
        for (bn, conv) in self.norms.iter().zip(&self.convs) {
            let (normal, bn_cache) = bn.forward(&h, mode)?;
            let (active, relu_cache) = self.activation.forward(&normal);
            if let (Some(projection), true) = (&self.projection, cache.layers.is_empty()) {
                let (s, projection_cache) = projection.forward(&active)?; // S reads h₁
                (shortcut, cache.projection) = (s, Some(projection_cache));
            }
            let (y, conv_cache) = conv.forward(&active)?;
            h = y;
            cache.layers.push((bn_cache, relu_cache, conv_cache));
        }
        if let Some(layer) = &self.zero_pad {
            let (s, zero_pad_cache) = layer.forward(x)?;
            (shortcut, cache.zero_pad) = (s, Some(zero_pad_cache));
        }
        Ok((add(h, &shortcut), cache))
    }

    /// `(dx, grads)` for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(
        &self,
        dy: &Activation<T>,
        cache: &PreActivationCache<T>,
    ) -> Result<(Activation<T>, PreActivationGrads<T>)> {
        let mut grads = PreActivationGrads { layers: Vec::new(), projection: None };
        let mut dx = dy.clone();
        let layers = self.norms.iter().zip(&self.convs).zip(&cache.layers).enumerate();
        for (index, ((bn, conv), (bn_cache, relu_cache, conv_cache))) in layers.rev() {
            let (mut dh, conv_grads) = conv.backward(&dx, conv_cache)?;
            if let (Some(projection), Some(projection_cache), 0) = (&self.projection, &cache.projection, index) {
                let (dh_shortcut, projection_grads) = projection.backward(dy, projection_cache)?;
                dh = add(dh, &dh_shortcut); // h₁ was used twice
                grads.projection = Some(projection_grads);
            }
            let (dh, bn_grads) = bn.backward(&self.activation.backward(&dh, relu_cache)?, bn_cache)?;
            dx = dh;
            grads.layers.push((bn_grads, conv_grads));
        }
        grads.layers.reverse();
        if self.projection.is_none() {
            // x was used twice
            dx = match (&self.zero_pad, &cache.zero_pad) {
                (Some(layer), Some(cache)) => add(dx, &layer.backward(dy, cache)?),
                _ => add(dx, dy),
            };
        }
        Ok((dx, grads))
    }

    /// Updates the running statistics with those of the batch of a training pass.
    pub fn update_running_statistics(&mut self, cache: &PreActivationCache<T>) {
        for (bn, (bn_cache, ..)) in self.norms.iter_mut().zip(&cache.layers) {
            bn.update_running_statistics(bn_cache);
        }
    }

    pub(crate) fn cost(&self, x: [usize; 4], cost: &mut Cost) -> Result<[usize; 4]> {
        let mut y = x;
        for conv in &self.convs {
            cost.kept(y); // relu(bn(·)), kept in addition to the batch norm's input
            y = cost.conv(conv, y)?;
        }
        if let Some(projection) = &self.projection {
            cost.conv(projection, x)?;
        }
        Ok(y)
    }
}

/// Names of the i-th batch norm and convolution of a block, counted from 1 as in torchvision.
fn names(path: &str, index: usize) -> [String; 2] {
    [join(path, &format!("bn{}", index + 1)), join(path, &format!("conv{}", index + 1))]
}

impl<T: Scalar> Parameters<T> for PreActivationBlock<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        for (index, (bn, conv)) in self.norms.iter().zip(&self.convs).enumerate() {
            let [bn_name, conv_name] = names(path, index);
            bn.visit(&bn_name, visitor);
            conv.visit(&conv_name, visitor);
        }
        if let Some(projection) = &self.projection {
            projection.visit(&join(path, "downsample.0"), visitor);
        }
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        for (index, (bn, conv)) in self.norms.iter_mut().zip(&mut self.convs).enumerate() {
            let [bn_name, conv_name] = names(path, index);
            bn.visit_mut(&bn_name, visitor);
            conv.visit_mut(&conv_name, visitor);
        }
        if let Some(projection) = &mut self.projection {
            projection.visit_mut(&join(path, "downsample.0"), visitor);
        }
    }
}

impl<T: Scalar> PreActivationGrads<T> {
    /// Adds these gradients to `gradients` under the names of the block at `path`.
    pub fn collect(self, path: &str, gradients: &mut Gradients<T>) {
        for (index, (bn, conv)) in self.layers.into_iter().enumerate() {
            let [bn_name, conv_name] = names(path, index);
            bn.collect(&bn_name, gradients);
            conv.collect(&conv_name, gradients);
        }
        if let Some(projection) = self.projection {
            projection.collect(&join(path, "downsample.0"), gradients);
        }
    }
}
