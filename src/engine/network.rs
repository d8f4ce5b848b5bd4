//! Whole networks: the passes of [`ResNet`], block after block.

use super::block::{self, ResidualCache};
use super::buffers::{Recycled, Shelf};
use super::completion::Completion;
use super::conv::Convolution;
use super::conv::operands::{AsIs, Epilogue, collect};
use super::fused::{GateOfOutput, Gated, NormGradient, Normalized};
use super::groups::PerGroup;
use super::norm::{self, Affine, NormCache};
use super::pool::{self, MaxPoolCache};
use super::pre_activation::{self, Measured, PreActivationCache};
use super::unit::{self, Incoming, StemCache};
use super::{Engine, Pass, linear, shape};
use crate::layers::linear::LinearCache;
use crate::layers::{GlobalAvgPool, Mode, Relu, contiguous};
use crate::model::block::BlockGrads;
use crate::model::resnet::{StemLayers, block_path, check_channels};
use crate::model::{Block, ResNet};
use crate::parameters::{Gradients, Parameters as _};
use crate::shards::Shards;
use crate::{Activation, Error, Result};
use ndarray::Array2;
use std::num::NonZeroUsize;

/// What the backward pass needs of a forward pass in training mode. Backward consumes it, so the activations of a block
/// are freed as soon as its gradient has been computed.
#[derive(Debug)]
pub struct Cache {
    stem: Stem,
    max_pool: Option<MaxPoolCache>,
    stages: Vec<Vec<BlockCache>>,
    final_norm: Option<NormCache>,
    /// Shape of the last activations.
    last: (usize, usize, usize, usize),
    /// Of every shard.
    fc: Vec<LinearCache<f32>>,
    shards: Shards,
}

#[derive(Debug)]
enum Stem {
    Unit(Box<StemCache>),
    /// The images.
    Conv(Recycled),
}

#[derive(Debug)]
enum BlockCache {
    Residual(Box<ResidualCache>),
    PreActivation(PreActivationCache),
}

/// The choices of a forward pass at one ReLU or max pool, one per value of its result in memory order (N, H, W, C).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// Whether each ReLU is open.
    Open(Vec<bool>),
    /// The pixel h·W + w of its image from which each maximum was taken.
    Pixel(Vec<u32>),
}

impl Cache {
    /// The choices of the pass at every ReLU and max pool, in the order of execution. A pass in other arithmetic with
    /// the same choices can be compared even where an input is so near 0 that rounding decides its sign.
    pub fn chosen(&self, model: &ResNet<f32>) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        let open = |bn, cache: &NormCache| {
            let y = collect(
                &Normalized { x: &cache.x, affine: &cache.affine(bn), relu: None },
                shape(&cache.x),
                &Shelf::default(),
            );
            Chosen::Open(y.iter().map(|&y| y > 0.0).collect())
        };
        if let (StemLayers::Unit(unit), Stem::Unit(cache)) = (&model.stem, &self.stem) {
            chosen.extend(unit.activation.map(|_| open(&unit.bn, &cache.norm)));
        }
        chosen.extend(self.max_pool.as_ref().map(|cache| Chosen::Pixel(cache.argmax.clone())));
        for (block, cache) in model.stages.iter().flatten().zip(self.stages.iter().flatten()) {
            match (block, cache) {
                (Block::Residual(block), BlockCache::Residual(cache)) => {
                    for (unit, cache) in block.branch.iter().zip(&cache.branch) {
                        chosen.extend(unit.activation.map(|_| open(&unit.bn, cache)));
                    }
                    chosen.push(Chosen::Open(cache.y.iter().map(|&y| y > 0.0).collect()));
                }
                (Block::PreActivation(block), BlockCache::PreActivation(cache)) => {
                    chosen.extend(block.norms.iter().zip(&cache.norms).map(|(bn, cache)| open(bn, cache)));
                }
                _ => panic!("{MIXED}"),
            }
        }
        chosen.extend(model.final_norm.as_ref().zip(self.final_norm.as_ref()).map(|(bn, cache)| open(bn, cache)));
        chosen
    }
}

/// A gradient on its way back, between two blocks.
enum Upstream {
    /// That of the output of what comes next.
    Output(Activation<f32>),
    /// The same after the ReLU with which what comes next ends.
    Gated(Gated),
}

impl Upstream {
    /// After the ReLU, whose gate this is.
    fn gated<'a>(self, pass: &Pass, gate: impl FnOnce() -> GateOfOutput<'a>) -> Gated {
        match self {
            Upstream::Output(dy) => gate().pull(pass, dy),
            Upstream::Gated(gated) => gated,
        }
    }

    /// Before what does not end in a ReLU.
    fn output(self) -> Activation<f32> {
        match self {
            Upstream::Output(dy) => dy,
            Upstream::Gated(_) => unreachable!("only the gate of what comes next is applied"),
        }
    }
}

const MIXED: &str = "the cache belongs to a network of another kind";

impl Engine {
    /// Logits `(N, classes)` for images `x (N, H, W, 3)` in training mode, and the cache. Does not change the model;
    /// [`Engine::update_running_statistics`] does.
    ///
    /// # Errors
    /// As [`ResNet::forward`]; or if a convolution before a batch norm has a bias, which the batch norm would cancel, or the
    /// batch norms do not all have the same [`group`](crate::layers::BatchNorm2d::group).
    pub fn forward(&self, model: &ResNet<f32>, x: &Activation<f32>) -> Result<(Array2<f32>, Cache)> {
        self.forward_shards(model, x, &Shards::one(x.dim().0))
    }

    /// The same for a batch in shards: `x` are the images of this process, and so are the logits. All processes must call
    /// this together, then [`update_running_statistics`](Self::update_running_statistics), if at all, and then
    /// [`parameter_gradients`](Self::parameter_gradients), which returns the gradients of the sum of their losses. Groups of
    /// images are groups within a shard.
    ///
    /// # Errors
    /// As [`Engine::forward`]; or if `x` does not have the images of this process.
    pub fn forward_shards(
        &self,
        model: &ResNet<f32>,
        x: &Activation<f32>,
        shards: &Shards,
    ) -> Result<(Array2<f32>, Cache)> {
        check(model)?;
        check_channels(x)?;
        if x.dim().0 != shards.own().len() {
            let expected = format!("the {} images of this process", shards.own().len());
            return Err(Error::shape("engine", "x", expected, x.shape()));
        }
        let shards = shards.clone().in_groups(group(model)?);
        let pass = &self.pass(&shards);
        let x = contiguous(x);
        let (mut h, stem) = match &model.stem {
            StemLayers::Unit(unit) => {
                let (h, cache) = unit::forward_stem(pass, unit, &x)?;
                (h, Stem::Unit(Box::new(cache)))
            }
            StemLayers::Conv(conv) => {
                let h = Convolution::new(pass, conv, shape(&x))?.forward(&x, &AsIs);
                (h, Stem::Conv(self.shelf.recycled(x)))
            }
        };
        let mut max_pool = None;
        if let Some(pool) = &model.max_pool {
            let (y, cache) = pool::max_pool(&self.shelf, pool, &h)?;
            self.shelf.recycle(std::mem::replace(&mut h, y));
            max_pool = Some(cache);
        }
        // Pre-activation blocks pass on activations together with their moments.
        let mut measured = model.final_norm.is_some().then(|| Measured::of(pass, &h));
        let mut stages = Vec::with_capacity(model.stages.len());
        for stage in &model.stages {
            let mut caches = Vec::with_capacity(stage.len());
            for block in stage {
                match block {
                    Block::Residual(block) => {
                        let (y, cache) = block::forward(pass, block, &h)?;
                        h = y;
                        caches.push(BlockCache::Residual(Box::new(cache)));
                    }
                    Block::PreActivation(block) => {
                        let input = measured.take().unwrap_or_else(|| Measured::of(pass, &h));
                        let (y, cache) = pre_activation::forward(pass, block, input)?;
                        h = (*y.x).clone();
                        measured = Some(y);
                        caches.push(BlockCache::PreActivation(cache));
                    }
                }
            }
            stages.push(caches);
        }
        let mut final_norm = None;
        if let Some(bn) = &model.final_norm {
            bn.check(pass.together(h.dim()), Mode::Train)?;
            let input = measured.take().unwrap_or_else(|| Measured::of(pass, &h));
            let cache = NormCache::new(bn, input.x, input.moments);
            let affine = cache.affine(bn);
            let y = Normalized { x: &cache.x, affine: &affine, relu: Some(Relu::new()) };
            h = collect(&y, shape(&cache.x), &self.shelf);
            final_norm = Some(cache);
        }
        let (features, _) = GlobalAvgPool.forward(&h)?;
        let (logits, fc) = linear::forward(pass, &model.fc, &features)?;
        let last = h.dim();
        if final_norm.is_some() {
            self.shelf.recycle(h);
        }
        Ok((logits, Cache { stem, max_pool, stages, final_norm, last, fc, shards }))
    }

    /// `(dx, gradients)` for `dlogits`, the gradient of the loss with respect to the logits.
    ///
    /// # Errors
    /// If the shape of `dlogits` is not that of the logits.
    pub fn backward(
        &self,
        model: &ResNet<f32>,
        dlogits: &Array2<f32>,
        cache: Cache,
    ) -> Result<(Activation<f32>, Gradients<f32>)> {
        let (dx, gradients) = self.backward_to_stem(model, dlogits, cache, true)?;
        Ok((dx.expect("wanted"), gradients))
    }

    /// Only the gradients of the parameters: training needs no others, and this saves the gradient of the images.
    ///
    /// # Errors
    /// If the shape of `dlogits` is not that of the logits.
    pub fn parameter_gradients(
        &self,
        model: &ResNet<f32>,
        dlogits: &Array2<f32>,
        cache: Cache,
    ) -> Result<Gradients<f32>> {
        self.backward_to_stem(model, dlogits, cache, false).map(|(_, gradients)| gradients)
    }

    fn backward_to_stem<'m>(
        &self,
        model: &'m ResNet<f32>,
        dlogits: &Array2<f32>,
        cache: Cache,
        input_gradient: bool,
    ) -> Result<(Option<Activation<f32>>, Gradients<f32>)> {
        let Cache { stem, max_pool, stages, final_norm, last, fc, shards } = cache;
        let pass = &self.pass(&shards);
        let (mut gradients, mut completion) = (Gradients::new(), Completion::new(&shards, model));
        let (dfeatures, grads) = linear::backward(pass, &model.fc, dlogits, &fc)?;
        grads.collect("fc", &mut gradients);
        let mut dy = pool::global_average_backward(&self.shelf, &dfeatures, last);
        if let (Some(bn), Some(cache)) = (&model.final_norm, &final_norm) {
            let Incoming { dy: gated, sums } = Incoming::gated(pass, dy, bn, cache, Some(Relu::new()));
            let grads = cache.gradients(sums);
            let backward = cache.backward(bn, &grads);
            cache.of_parameters(&grads).collect("bn1", &mut gradients);
            let dx = NormGradient { dy: &gated, x: &cache.x, backward: &backward };
            dy = collect(&dx, shape(&cache.x), &self.shelf);
        }
        drop(final_norm);
        let of_stage = |(stage, (blocks, caches)): (usize, (&'m Vec<Block<f32>>, Vec<BlockCache>))| {
            let named = blocks.iter().zip(caches).enumerate();
            named.map(move |(i, (block, cache))| (block_path(stage, i), block, cache))
        };
        let mut blocks: Vec<_> = model.stages.iter().zip(stages).enumerate().flat_map(of_stage).collect();
        let mut upstream = Upstream::Output(dy);
        // Last block first; each cache is dropped after its use.
        while let Some((path, block, cache)) = blocks.pop() {
            let (dx, grads) = match (block, &cache) {
                (Block::Residual(block), BlockCache::Residual(cache)) => {
                    let gated = upstream.gated(pass, || cache.gate(pass, block));
                    // The block before ends in a ReLU, and so does a stem without a max pool.
                    let gate = match (blocks.last(), &model.stem, &stem, &max_pool) {
                        (Some((_, Block::Residual(block), BlockCache::Residual(before))), ..) => {
                            Some(before.gate(pass, block))
                        }
                        (None, StemLayers::Unit(unit), Stem::Unit(stem), None) => {
                            Some(GateOfOutput::new(pass, cache.x(), unit.activation, [&stem.norm]))
                        }
                        _ => None,
                    };
                    let epilogue = gate.as_ref().map_or(&AsIs as &dyn Epilogue, |gate| gate);
                    let (dx, grads) = block::backward(pass, block, gated, cache, epilogue)?;
                    let dx = match gate {
                        Some(gate) => Upstream::Gated(gate.pulled(pass, dx)),
                        None => Upstream::Output(dx),
                    };
                    (dx, BlockGrads::Residual(grads))
                }
                (Block::PreActivation(block), BlockCache::PreActivation(cache)) => {
                    let (dx, grads) = pre_activation::backward(pass, block, upstream.output(), cache)?;
                    (Upstream::Output(dx), BlockGrads::PreActivation(grads))
                }
                _ => panic!("{MIXED}"),
            };
            grads.collect(block, &path, &mut gradients);
            completion.take(std::mem::take(&mut gradients));
            upstream = dx;
        }
        if let Some(cache) = &max_pool {
            let dy = pass.shelf.recycled(upstream.output());
            upstream = Upstream::Output(pool::max_pool_backward(&self.shelf, &dy, cache));
        }
        let dx = match (&model.stem, &stem) {
            (StemLayers::Unit(unit), Stem::Unit(cache)) => {
                let incoming = match upstream {
                    Upstream::Output(dy) => Incoming::gated(pass, dy, &unit.bn, &cache.norm, unit.activation),
                    Upstream::Gated(Gated { ds, mut sums }) => Incoming { dy: ds, sums: sums.remove(0) },
                };
                let (dx, grads) = unit::backward_stem(pass, unit, incoming, cache, input_gradient)?;
                grads.collect(unit, "", &mut gradients);
                dx
            }
            (StemLayers::Conv(conv), Stem::Conv(x)) => {
                let convolution = Convolution::new(pass, conv, shape(x))?;
                let dy = pass.shelf.recycled(upstream.output());
                gradients.push("conv1", "weight", convolution.weight_gradient(&*dy, &**x));
                input_gradient.then(|| convolution.input_gradient(&*dy, &AsIs))
            }
            _ => panic!("{MIXED}"),
        };
        completion.take(gradients);
        Ok((dx, completion.finish()))
    }

    /// Updates the running statistics of every batch norm with those of the batch of a forward pass.
    pub fn update_running_statistics(&self, model: &mut ResNet<f32>, cache: &Cache) {
        // In the order of `ResNet::norms_mut`: of a block the branch's, then the projection's.
        let mut caches: Vec<&NormCache> = match &cache.stem {
            Stem::Unit(cache) => vec![&cache.norm],
            Stem::Conv(_) => Vec::new(),
        };
        for cache in cache.stages.iter().flatten() {
            match cache {
                BlockCache::Residual(cache) => caches.extend(cache.branch.iter().chain(&cache.projection)),
                BlockCache::PreActivation(cache) => caches.extend(&cache.norms),
            }
        }
        caches.extend(&cache.final_norm);
        norm::update(&cache.shards, model.norms_mut().into_iter().zip(caches).collect());
    }

    /// Logits in evaluation mode, without a cache: activations are freed after their use.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn predict(&self, model: &ResNet<f32>, x: &Activation<f32>) -> Result<Array2<f32>> {
        check(model)?;
        check_channels(x)?;
        let pass = &self.pass(&Shards::one(x.dim().0));
        let x = contiguous(x);
        let mut h = match &model.stem {
            StemLayers::Unit(unit) => unit::predict(pass, unit, &x, None, unit.activation)?,
            StemLayers::Conv(conv) => Convolution::new(pass, conv, shape(&x))?.forward(&x, &AsIs),
        };
        let recycle = |h: &mut Activation<f32>, y| self.shelf.recycle(std::mem::replace(h, y));
        if let Some(pool) = &model.max_pool {
            let (y, _) = pool::max_pool(&self.shelf, pool, &h)?;
            recycle(&mut h, y);
        }
        for block in model.stages.iter().flatten() {
            let y = match block {
                Block::Residual(block) => block::predict(pass, block, &h)?,
                Block::PreActivation(block) => pre_activation::predict(pass, block, &h)?,
            };
            recycle(&mut h, y);
        }
        if let Some(bn) = &model.final_norm {
            let affine = PerGroup::one(Affine::running(bn, h.dim())?);
            let y = collect(&Normalized { x: &h, affine: &affine, relu: Some(Relu::new()) }, shape(&h), &self.shelf);
            recycle(&mut h, y);
        }
        let (features, _) = GlobalAvgPool.forward(&h)?;
        self.shelf.recycle(h);
        Ok(model.fc.forward(&features)?.0)
    }
}

/// Images per group of the batch norms.
fn group(model: &ResNet<f32>) -> Result<Option<NonZeroUsize>> {
    let mut groups = model.norms().into_iter().map(|bn| bn.group);
    let first = groups.next().flatten();
    if groups.any(|group| group != first) {
        let why = "expects the same `group` in all batch norms; use the reference for different ones";
        return Err(Error::argument("engine", why));
    }
    Ok(first)
}

/// Rejects a network that the fused passes do not support.
fn check(model: &ResNet<f32>) -> Result<()> {
    let mut bias = None;
    model.visit("", &mut |name, role, _| {
        if role == crate::parameters::Role::Bias && !name.starts_with("fc.") {
            bias.get_or_insert_with(|| name.to_string());
        }
    });
    match bias {
        None => Ok(()),
        Some(name) => {
            let why = "the engine does not support a bias before a batch norm, which would cancel it";
            Err(Error::argument("engine", format!("`{name}`: {why}; remove it or use the reference")))
        }
    }
}
