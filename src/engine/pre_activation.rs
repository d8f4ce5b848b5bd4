//! The pre-activation block y = F(x) + S(x) of [`crate::model::pre_activation`], with fused passes over memory.
//!
//! ```text
//! forward    h₂ = conv₁(relu(bn₁(x)))              reading x, computing the moments of h₂
//!            y  = conv₂(relu(bn₂(h₂))) + S(x)      reading h₂, adding S(x), computing the moments of y
//! backward   d₂ = gate₂ · conv₂ᵀ dy                computing the sums of bn₂
//!            d₁ = gate₁ · (conv₁ᵀ dh₂ [+ projectionᵀ dy])    reading d₂ and h₂, computing the sums of bn₁
//!            dx = bn₁ᵀ d₁ [+ Sᵀ dy]                one pass
//! ```
//!
//! A block receives its input together with its moments, and returns its output in the same way: the pass that writes
//! values computes their moments.

use super::buffers::Recycled;
use super::conv::Convolution;
use super::conv::operands::{AsIs, Prologue, apply_to_all, collect};
use super::fused::{Add, GateAndSum, NormGradient, Normalized, TakeMoments, Then};
use super::groups::PerGroup;
use super::leaves::PerLeaf;
use super::norm::{Affine, Moments, NormBackward, NormCache};
use super::{Pass, pool, shape};
use crate::layers::conv2d::Conv2dGrads;
use crate::layers::{Mode, check_dy};
use crate::model::pre_activation::{PreActivationBlock, PreActivationGrads};
use crate::{Activation, Result};

/// Activations and their moments.
pub(super) struct Measured {
    pub x: Recycled,
    pub moments: PerLeaf<Moments>,
}

impl Measured {
    /// The moments of stored activations, in a separate pass over memory.
    pub fn of(pass: &Pass, x: &Activation<f32>) -> Self {
        let moments = PerLeaf::new(&pass.shards, x.dim());
        let values = x.as_slice().expect("contiguous");
        moments.fill(|range| Moments::of(&values[range], x.dim().3));
        Measured { x: pass.shelf.recycled(x.clone()), moments }
    }
}

/// What the backward pass of a block needs.
#[derive(Clone, Debug)]
pub(super) struct PreActivationCache {
    /// The inputs of bn₁, bn₂, …
    pub norms: Vec<NormCache>,
    y: [usize; 4],
}

/// S(x) if it is stored: option A, or the projection of h₁ = relu(bn₁(x)).
fn shortcut(pass: &Pass, block: &PreActivationBlock<f32>, x: &Activation<f32>, h1: &dyn Prologue) -> Result<Recycled> {
    let s = match (&block.projection, &block.zero_pad) {
        (Some(projection), _) => Convolution::new(pass, projection, shape(x))?.forward(h1, &AsIs),
        (None, Some(layer)) => pool::zero_pad(&pass.shelf, layer, x)?,
        (None, None) => x.clone(),
    };
    Ok(pass.shelf.recycled(s))
}

/// y with its moments, and the cache, in training mode.
pub(super) fn forward(
    pass: &Pass,
    block: &PreActivationBlock<f32>,
    input: Measured,
) -> Result<(Measured, PreActivationCache)> {
    let relu = Some(block.activation);
    block.norms[0].check(pass.together(input.x.dim()), Mode::Train)?;
    let mut norms = vec![NormCache::new(&block.norms[0], input.x, input.moments)];
    let mut s = None;
    for (i, conv) in block.convs.iter().enumerate() {
        let x = norms[i].x.clone();
        let affine = norms[i].affine(&block.norms[i]);
        let h = Normalized { x: &x, affine: &affine, relu };
        if i == 0 {
            s = Some(shortcut(pass, block, &x, &h)?);
        }
        let convolution = Convolution::new(pass, conv, shape(&x))?;
        let moments = PerLeaf::new(&pass.shards, convolution.output());
        let take = TakeMoments { c: convolution.g.c_out, moments: &moments };
        match block.norms.get(i + 1) {
            Some(bn) => {
                bn.check(pass.together(convolution.output()), Mode::Train)?;
                let y = pass.shelf.recycled(convolution.forward(&h, &take));
                norms.push(NormCache::new(bn, y, moments));
            }
            None => {
                let s = s.take().expect("computed with the first convolution");
                check_dy("pre-activation block", s.shape(), &<[usize; 4]>::from(convolution.output()))?;
                let y = pass.shelf.recycled(convolution.forward(&h, &Then(&Add(&s), &take)));
                let cache = PreActivationCache { norms, y: shape(&y) };
                return Ok((Measured { x: y, moments }, cache));
            }
        }
    }
    unreachable!("a block has as many batch norms as convolutions")
}

/// y in evaluation mode, without a cache.
pub(super) fn predict(pass: &Pass, block: &PreActivationBlock<f32>, x: &Activation<f32>) -> Result<Activation<f32>> {
    let relu = Some(block.activation);
    let (mut h, mut s) = (pass.shelf.recycled(x.clone()), None);
    for (i, (bn, conv)) in block.norms.iter().zip(&block.convs).enumerate() {
        let affine = PerGroup::one(Affine::running(bn, h.dim())?);
        let input = Normalized { x: &h, affine: &affine, relu };
        if i == 0 {
            s = Some(shortcut(pass, block, &h, &input)?);
        }
        let convolution = Convolution::new(pass, conv, shape(&h))?;
        let y = match (&s, i + 1 == block.convs.len()) {
            (Some(s), true) => {
                check_dy("pre-activation block", s.shape(), &<[usize; 4]>::from(convolution.output()))?;
                convolution.forward(&input, &Add(s))
            }
            _ => convolution.forward(&input, &AsIs),
        };
        h = pass.shelf.recycled(y);
    }
    Ok((*h).clone())
}

/// The gradient of `bn(x)`, and the map from it to the gradient of x.
struct Upstream {
    gated: Recycled,
    backward: PerGroup<NormBackward>,
}

impl Upstream {
    fn gradient<'a>(&'a self, norm: &'a NormCache) -> NormGradient<'a> {
        NormGradient { dy: &self.gated, x: &norm.x, backward: &self.backward }
    }
}

/// `(dx, grads)` for `dy`.
pub(super) fn backward(
    pass: &Pass,
    block: &PreActivationBlock<f32>,
    dy: Activation<f32>,
    cache: &PreActivationCache,
) -> Result<(Activation<f32>, PreActivationGrads<f32>)> {
    check_dy("pre-activation block", dy.shape(), &cache.y)?;
    let mut grads = PreActivationGrads { layers: Vec::new(), projection: None };
    let dy = pass.shelf.recycled(dy);
    let mut upstream: Option<Upstream> = None;
    for i in (0..block.convs.len()).rev() {
        let (bn, kept) = (&block.norms[i], &cache.norms[i]);
        let (x, affine, sums) = (&*kept.x, kept.affine(bn), PerLeaf::new(&pass.shards, kept.x.dim()));
        let relu = Some(block.activation);
        let h = Normalized { x, affine: &affine, relu };
        let convolution = Convolution::new(pass, &block.convs[i], shape(x))?;
        let of_norm = upstream.as_ref().map(|upstream| upstream.gradient(&cache.norms[i + 1]));
        let dh: &dyn Prologue = match &of_norm {
            Some(gradient) => gradient,
            None => &*dy,
        };
        // h₁ is used twice if there is a projection.
        let through_projection = match (&block.projection, i) {
            (Some(projection), 0) => {
                let projection = Convolution::new(pass, projection, shape(x))?;
                let weight = projection.weight_gradient(&*dy, &h);
                grads.projection = Some(Conv2dGrads { weight, bias: None });
                Some(pass.shelf.recycled(projection.input_gradient(&*dy, &AsIs)))
            }
            _ => None,
        };
        let gate = GateAndSum { x, affine: &affine, relu, sums: &sums };
        let (weight, gated) = match through_projection.as_deref().map(Add) {
            Some(add) => convolution.gradients(dh, &h, &Then(&add, &gate)),
            None => convolution.gradients(dh, &h, &gate),
        };
        let bn_grads = kept.gradients(sums);
        let backward = kept.backward(bn, &bn_grads);
        upstream = Some(Upstream { gated: pass.shelf.recycled(gated), backward });
        grads.layers.push((kept.of_parameters(&bn_grads), Conv2dGrads { weight, bias: None }));
    }
    grads.layers.reverse();
    let x = &*cache.norms[0].x;
    let gradient = upstream.as_ref().map(|upstream| upstream.gradient(&cache.norms[0]));
    let gradient = gradient.expect("a block has convolutions");
    let mut dx = collect(&gradient, shape(x), &pass.shelf);
    if block.projection.is_none() {
        // x was used twice.
        let through_shortcut = match &block.zero_pad {
            Some(layer) => pass.shelf.recycled(pool::zero_pad_backward(&pass.shelf, layer, &dy, x.dim())),
            None => dy,
        };
        let values = dx.as_slice_mut().expect("contiguous");
        apply_to_all(&pass.shards, values, x.dim(), &Add(&through_shortcut));
    }
    Ok((dx, grads))
}
