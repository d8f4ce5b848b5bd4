//! Batch norm, ReLU and addition as prologues and epilogues of the convolutions, without passes over memory of their own.
//!
//! Each of these layers performs few operations per element and is memory-bound. The convolutions before and after them
//! have the same values in the cache anyway. So
//!
//! - the moments of a batch norm are computed while the convolution before it writes ([`TakeMoments`]);
//! - `relu(batch_norm(x))` is computed from x while the next convolution reads ([`Normalized`]), and never stored;
//! - in the backward pass, the convolution after the batch norm writes dx: meanwhile the ReLU's gate is applied to dx
//!   and the sums of the batch norm are computed ([`GateAndSum`]); the gradient of x is computed while the convolution
//!   before the batch norm reads it ([`NormGradient`]);
//! - the gradient that reaches a block's input through its shortcut is added while the first convolution writes dx
//!   ([`Add`]); and then the ReLU's gate at the end of the block before is applied ([`GateOfOutput`]);
//! - in evaluation mode all of this is done to the convolution's output at once ([`Normalize`]).
//!
//! No equation is new, and every value is rounded as in a separate pass over memory: the results are bit-identical,
//! which the tests in `engine/composed.rs` verify.

use super::Pass;
use super::buffers::Recycled;
use super::conv::operands::{Epilogue, Prologue, apply_to_all};
use super::groups::PerGroup;
use super::kernels::simd::{wide, wide_add};
use super::leaves::PerLeaf;
use super::norm::{Affine, Moments, NormBackward, NormCache, PairSums, Strip, pair_sums};
use crate::Activation;
use crate::layers::Relu;

/// The values `at..at + len` of stored activations.
pub(super) fn part(x: &Activation<f32>, at: usize, len: usize) -> &[f32] {
    &x.as_slice().expect("contiguous")[at..at + len]
}

/// `relu(batch_norm(x))`, or without ReLU, computed while it is read.
pub(super) struct Normalized<'a> {
    pub x: &'a Activation<f32>,
    pub affine: &'a PerGroup<Affine>,
    pub relu: Option<Relu<f32>>,
}

impl Prologue for Normalized<'_> {
    fn read(&self, at: usize, out: &mut [f32]) {
        let x = part(self.x, at, out.len());
        for (range, affine) in self.affine.within(at, out.len()) {
            let (x, out, strip) = (&x[range.clone()], &mut out[range], affine.strip.len());
            wide(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_mut(strip).zip(x.chunks(strip)) {
                        affine.apply(x, out);
                        if let Some(relu) = self.relu {
                            out.iter_mut().for_each(|y| *y = relu.of(*y));
                        }
                    }
                },
            );
        }
    }
}

/// The gradient of x, computed from that of `batch_norm(x)` while it is read.
pub(super) struct NormGradient<'a> {
    pub dy: &'a Activation<f32>,
    pub x: &'a Activation<f32>,
    pub backward: &'a PerGroup<NormBackward>,
}

impl Prologue for NormGradient<'_> {
    fn read(&self, at: usize, out: &mut [f32]) {
        let (dy, x) = (part(self.dy, at, out.len()), part(self.x, at, out.len()));
        for (range, backward) in self.backward.within(at, out.len()) {
            let (dy, x) = (&dy[range.clone()], &x[range.clone()]);
            let (out, strip) = (&mut out[range], backward.strip.len());
            wide(
                #[inline(always)]
                || {
                    for ((out, dy), x) in out.chunks_mut(strip).zip(dy.chunks(strip)).zip(x.chunks(strip)) {
                        backward.apply(dy, x, out);
                    }
                },
            );
        }
    }
}

/// Computes the moments of an output.
pub(super) struct TakeMoments<'a> {
    pub c: usize,
    pub moments: &'a PerLeaf<Moments>,
}

impl Epilogue for TakeMoments<'_> {
    fn images(&self) -> usize {
        self.moments.leaves.images()
    }

    fn apply(&self, at: usize, y: &mut [f32]) {
        for (leaf, range) in self.moments.leaves.within(at, y.len()) {
            self.moments.put(leaf, Moments::of(&y[range], self.c));
        }
    }
}

/// Computes the gradient of `batch_norm(x)` from that of `relu(batch_norm(x))`, and the sums of the batch norm's
/// backward pass.
pub(super) struct GateAndSum<'a> {
    pub x: &'a Activation<f32>,
    pub affine: &'a PerGroup<Affine>,
    pub relu: Option<Relu<f32>>,
    pub sums: &'a PerLeaf<PairSums>,
}

impl Epilogue for GateAndSum<'_> {
    fn images(&self) -> usize {
        self.sums.leaves.images()
    }

    fn apply(&self, at: usize, dy: &mut [f32]) {
        // A chunk has images of one group.
        let affine = self.affine.at(at);
        let strip = affine.strip;
        let x = part(self.x, at, dy.len());
        let mut y = vec![0.0; strip.len()];
        for (leaf, range) in self.sums.leaves.within(at, dy.len()) {
            let (dy, x) = (&mut dy[range.clone()], &x[range]);
            if let Some(relu) = self.relu {
                wide(
                    #[inline(always)]
                    || {
                        for (dy, x) in dy.chunks_mut(strip.len()).zip(x.chunks(strip.len())) {
                            affine.apply(x, &mut y);
                            dy.iter_mut().zip(&y).for_each(|(dy, &y)| *dy = relu.pull(*dy, y));
                        }
                    },
                );
            }
            self.sums.put(leaf, pair_sums(strip, dy, x, &affine.means));
        }
    }
}

/// The gradient of a sum of batch norms' results (and of a shortcut), and for each batch norm the sums of its backward pass.
pub(super) struct Gated {
    pub ds: Recycled,
    pub sums: Vec<PerLeaf<PairSums>>,
}

/// Computes ds from the gradient of y = relu(s), s = bn(h) \[+ …\], and the sums of the batch norms that are added in s.
pub(super) struct GateOfOutput<'a> {
    y: &'a Activation<f32>,
    relu: Option<Relu<f32>>,
    strip: Strip,
    /// Of each batch norm: its input and means.
    norms: Vec<(&'a Activation<f32>, PerGroup<Vec<f32>>)>,
    sums: Vec<PerLeaf<PairSums>>,
}

impl<'a> GateOfOutput<'a> {
    pub fn new(
        pass: &Pass,
        y: &'a Activation<f32>,
        relu: Option<Relu<f32>>,
        norms: impl IntoIterator<Item = &'a NormCache>,
    ) -> Self {
        let strip = Strip::of(y.dim().3);
        let norms: Vec<_> = norms.into_iter().map(|norm| (&*norm.x, norm.means(strip))).collect();
        let sums = norms.iter().map(|_| PerLeaf::new(&pass.shards, y.dim())).collect();
        GateOfOutput { y, relu, strip, norms, sums }
    }

    /// For a dy that has left the cache: a pass over memory.
    pub fn pull(self, pass: &Pass, dy: Activation<f32>) -> Gated {
        let mut ds = dy.into_owned();
        apply_to_all(&pass.shards, ds.as_slice_mut().expect("contiguous"), self.y.dim(), &self);
        self.pulled(pass, ds.into_shared())
    }

    /// For a ds that was written with this epilogue.
    pub fn pulled(self, pass: &Pass, ds: Activation<f32>) -> Gated {
        Gated { ds: pass.shelf.recycled(ds), sums: self.sums }
    }
}

impl Epilogue for GateOfOutput<'_> {
    fn images(&self) -> usize {
        self.sums[0].leaves.images()
    }

    fn apply(&self, at: usize, dy: &mut [f32]) {
        let y = part(self.y, at, dy.len());
        for (leaf, range) in self.sums[0].leaves.within(at, dy.len()) {
            let (ds, y) = (&mut dy[range.clone()], &y[range.clone()]);
            if let Some(relu) = self.relu {
                wide(
                    #[inline(always)]
                    || ds.iter_mut().zip(y).for_each(|(ds, &y)| *ds = relu.pull(*ds, y)),
                );
            }
            for ((h, means), sums) in self.norms.iter().zip(&self.sums) {
                let h = part(h, at + range.start, ds.len());
                // A chunk has images of one group.
                sums.put(leaf, pair_sums(self.strip, ds, h, means.at(at)));
            }
        }
    }
}

/// Adds stored values.
pub(super) struct Add<'a>(pub &'a Activation<f32>);

impl Epilogue for Add<'_> {
    fn apply(&self, at: usize, y: &mut [f32]) {
        let summand = part(self.0, at, y.len());
        wide_add(y, summand);
    }
}

/// One epilogue, then another.
pub(super) struct Then<'a>(pub &'a dyn Epilogue, pub &'a dyn Epilogue);

impl Epilogue for Then<'_> {
    fn images(&self) -> usize {
        self.0.images() * self.1.images()
    }

    fn apply(&self, at: usize, y: &mut [f32]) {
        self.0.apply(at, y);
        self.1.apply(at, y);
    }
}

/// y ← relu(batch_norm(y) + shortcut), with or without the shortcut; the batch norm's statistics are fixed.
pub(super) struct Normalize<'a> {
    pub affine: &'a Affine,
    pub plus: Option<&'a Activation<f32>>,
    pub relu: Option<Relu<f32>>,
}

impl Epilogue for Normalize<'_> {
    fn apply(&self, at: usize, y: &mut [f32]) {
        let strip = self.affine.strip.len();
        let mut normal = vec![0.0; strip];
        let mut plus = self.plus.map(|plus| part(plus, at, y.len()).chunks(strip));
        wide(
            #[inline(always)]
            || {
                for y in y.chunks_mut(strip) {
                    let normal = &mut normal[..y.len()];
                    self.affine.apply(y, normal);
                    match plus.as_mut().and_then(Iterator::next) {
                        Some(plus) => y.iter_mut().zip(&*normal).zip(plus).for_each(|((y, &n), &s)| *y = n + s),
                        None => y.copy_from_slice(normal),
                    }
                    if let Some(relu) = self.relu {
                        y.iter_mut().for_each(|y| *y = relu.of(*y));
                    }
                }
            },
        );
    }
}
