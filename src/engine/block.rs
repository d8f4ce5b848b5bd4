//! The residual block y = relu(F(x) + S(x)) of [`crate::model::block`], with fused passes over memory.
//!
//! ```text
//! forward    h₁ = conv₁(x)                  computing the moments of h₁
//!            h₂ = conv₂(relu(bn₁(h₁)))      reading h₁, computing the moments of h₂
//!            y  = relu(bn₂(h₂) + S(x))      one pass
//! backward   d₁ = gate₁ · conv₂ᵀ dh₂        reading ds and h₂, computing the sums of bn₁
//!            dx = conv₁ᵀ dh₁ + ds           reading d₁ and h₁
//!            ds = relu'(x) dx               of the block before, while dx is written, computing the sums of its bn₂
//! ```

use super::buffers::Recycled;
use super::conv::operands::{AsIs, Epilogue, Prologue};
use super::fused::{Add, GateAndSum, GateOfOutput, Gated, Normalized, Then};
use super::kernels::simd::wide;
use super::leaves::PerLeaf;
use super::norm::{NormCache, Strip};
use super::unit::{self, Incoming};
use super::{Pass, pool, shape};
use crate::model::block::{ResidualBlock, ResidualGrads};
use crate::model::shortcut::Shortcut;
use crate::{Activation, Result};

/// What the backward pass of a block needs.
#[derive(Clone, Debug)]
pub(super) struct ResidualCache {
    x: Recycled,
    pub branch: Vec<NormCache>,
    pub projection: Option<NormCache>,
    pub y: Recycled,
}

/// y in evaluation mode, without a cache.
pub(super) fn predict(pass: &Pass, block: &ResidualBlock<f32>, x: &Activation<f32>) -> Result<Activation<f32>> {
    let s = match &block.shortcut {
        Shortcut::Absent => None,
        Shortcut::Identity => Some(x.clone()),
        Shortcut::ZeroPad(layer) => Some(pool::zero_pad(&pass.shelf, layer, x)?),
        Shortcut::Projection(unit) => Some(unit::predict(pass, unit, x, None, None)?),
    };
    let s = s.map(|s| pass.shelf.recycled(s));
    let (last, others) = block.branch.split_last().expect("a branch has units");
    let mut h = pass.shelf.recycled(x.clone());
    for unit in others {
        h = pass.shelf.recycled(unit::predict(pass, unit, &h, None, unit.activation)?);
    }
    unit::predict(pass, last, &h, s.as_deref(), Some(block.activation))
}

/// y and the cache, in training mode.
pub(super) fn forward(
    pass: &Pass,
    block: &ResidualBlock<f32>,
    x: &Activation<f32>,
) -> Result<(Activation<f32>, ResidualCache)> {
    let mut branch: Vec<NormCache> = Vec::with_capacity(block.branch.len());
    for (i, unit) in block.branch.iter().enumerate() {
        let cache = match i.checked_sub(1) {
            None => unit::forward(pass, &unit.conv, &unit.bn, x, shape(x))?,
            Some(before) => {
                let (before, cache) = (&block.branch[before], &branch[before]);
                let affine = cache.affine(&before.bn);
                let input = Normalized { x: &cache.x, affine: &affine, relu: before.activation };
                unit::forward(pass, &unit.conv, &unit.bn, &input, shape(&cache.x))?
            }
        };
        branch.push(cache);
    }
    let (mut projection, mut s) = (None, None);
    match &block.shortcut {
        Shortcut::Absent => {}
        Shortcut::Identity => s = Some(x.clone()),
        Shortcut::ZeroPad(layer) => s = Some(pool::zero_pad(&pass.shelf, layer, x)?),
        Shortcut::Projection(unit) => projection = Some(unit::forward(pass, &unit.conv, &unit.bn, x, shape(x))?),
    }
    let s = s.map(|s| pass.shelf.recycled(s));
    let last = branch.last().expect("a branch has units");
    let y = add_and_activate(pass, block, last, projection.as_ref(), s.as_deref());
    let [x, kept] = [x, &y].map(|array| pass.shelf.recycled(array.clone()));
    Ok((y, ResidualCache { x, branch, projection, y: kept }))
}

/// relu(bn(h) + S(x)) in one pass; S(x) is stored, or is the batch norm of a projection.
fn add_and_activate(
    pass: &Pass,
    block: &ResidualBlock<f32>,
    last: &NormCache,
    projection: Option<&NormCache>,
    s: Option<&Activation<f32>>,
) -> Activation<f32> {
    let (unit, h) = (block.branch.last().expect("a branch has units"), &*last.x);
    let affine = last.affine(&unit.bn);
    let projected = match (&block.shortcut, projection) {
        (Shortcut::Projection(unit), Some(cache)) => Some((cache.affine(&unit.bn), &*cache.x)),
        _ => None,
    };
    let summand = projected.as_ref().map(|(_, h)| *h).or(s);
    let arrays = [h, summand.unwrap_or(h)].map(|array| array.as_slice().expect("contiguous"));
    let mut y = pass.shelf.dirty_array(h.dim());
    let strip = Strip::of(h.dim().3);
    strip.for_each_chunk(y.as_slice_mut().expect("contiguous"), arrays, |at, y, [h, s]| {
        let mut buffer = vec![0.0; strip.len()];
        for (range, affine) in affine.within(at, y.len()) {
            let projected = projected.as_ref().map(|(affine, _)| affine.at(at + range.start));
            let [h, s] = [h, s].map(|values| values[range.clone()].chunks(strip.len()));
            let y = y[range].chunks_mut(strip.len());
            wide(
                #[inline(always)]
                || {
                    let activation = block.activation;
                    for ((y, h), s) in y.zip(h).zip(s) {
                        affine.apply(h, y);
                        match projected {
                            Some(affine) => {
                                affine.apply(s, &mut buffer);
                                y.iter_mut().zip(&buffer).for_each(|(y, &s)| *y = activation.of(*y + s));
                            }
                            None if summand.is_none() => y.iter_mut().for_each(|y| *y = activation.of(*y)),
                            None => y.iter_mut().zip(s).for_each(|(y, &s)| *y = activation.of(*y + s)),
                        }
                    }
                },
            );
        }
    });
    y.into_shared()
}

impl ResidualCache {
    /// The gate at the end of the block: relu'(y), and the sums of the batch norms that are added there.
    pub fn gate(&self, pass: &Pass, block: &ResidualBlock<f32>) -> GateOfOutput<'_> {
        let last = self.branch.last().expect("a branch has units");
        GateOfOutput::new(pass, &self.y, Some(block.activation), std::iter::once(last).chain(&self.projection))
    }

    /// The input of the block.
    pub fn x(&self) -> &Activation<f32> {
        &self.x
    }
}

/// `(dx, grads)` for the gradient of the sum F(x) + S(x). `before` processes dx: it is the gate of the block before.
pub(super) fn backward(
    pass: &Pass,
    block: &ResidualBlock<f32>,
    Gated { ds, sums }: Gated,
    cache: &ResidualCache,
    before: &dyn Epilogue,
) -> Result<(Activation<f32>, ResidualGrads<f32>)> {
    let input = (&*cache.x as &dyn Prologue, shape(&cache.x));
    // The addition passes its gradient ds to both summands.
    let mut sums = sums.into_iter();
    let (sums, projection_sums) = (sums.next().expect("of the branch"), sums.next());
    let (mut through_shortcut, mut projection_grads) = (None, None);
    match (&block.shortcut, &cache.projection, projection_sums) {
        (Shortcut::Projection(unit), Some(cache), Some(sums)) => {
            let incoming = Incoming { dy: ds.clone(), sums };
            let (dx, grads) = unit::backward(pass, unit, cache, incoming, input, Some(&AsIs))?;
            (through_shortcut, projection_grads) = (dx.map(|dx| pass.shelf.recycled(dx)), Some(grads));
        }
        (Shortcut::ZeroPad(layer), ..) => {
            let dx = pool::zero_pad_backward(&pass.shelf, layer, &ds, cache.x.dim());
            through_shortcut = Some(pass.shelf.recycled(dx));
        }
        (Shortcut::Absent, ..) => {}
        _ => through_shortcut = Some(ds.clone()), // dS/dx = 1
    }
    let mut branch = Vec::with_capacity(block.branch.len());
    let mut incoming = Incoming { dy: ds, sums };
    for i in (1..block.branch.len()).rev() {
        let (before, kept) = (&block.branch[i - 1], &cache.branch[i - 1]);
        let (h, affine, sums) = (&*kept.x, kept.affine(&before.bn), PerLeaf::new(&pass.shards, kept.x.dim()));
        let epilogue = GateAndSum { x: h, affine: &affine, relu: before.activation, sums: &sums };
        let input = Normalized { x: h, affine: &affine, relu: before.activation };
        let input = (&input as &dyn Prologue, shape(h));
        let (dh, grads) = unit::backward(pass, &block.branch[i], &cache.branch[i], incoming, input, Some(&epilogue))?;
        branch.push(grads);
        incoming = Incoming { dy: pass.shelf.recycled(dh.expect("an epilogue was given")), sums };
    }
    // x was used twice: its gradients add.
    let add = through_shortcut.as_deref().map(Add);
    let add_and_gate = add.as_ref().map(|add| Then(add, before));
    let epilogue: &dyn Epilogue = match &add_and_gate {
        Some(both) => both,
        None => before,
    };
    let (dx, grads) = unit::backward(pass, &block.branch[0], &cache.branch[0], incoming, input, Some(epilogue))?;
    branch.push(grads);
    branch.reverse();
    Ok((dx.expect("an epilogue was given"), ResidualGrads { branch, shortcut: projection_grads }))
}
