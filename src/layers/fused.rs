//! Batch norm, ReLU and addition without passes over memory of their own.
//!
//! Each of these layers does a few operations a number and must wait for the memory to bring it. The convolutions beside
//! them hold the same numbers in the cache a moment earlier or later. So
//!
//! - the moments of a batch norm are gathered as the convolution before it writes ([`GatherMoments`]);
//! - `relu(batch_norm(h))` is computed from h as the next convolution reads ([`Normalized`]), and never stored;
//! - backward, the ReLU's gate is applied to dx and the sums of the batch norm are taken as the convolution behind
//!   writes dx ([`GatherPairs`]), and the gradient of h is computed as the convolution before reads it ([`Pulled`]);
//! - what reaches a block's input through its shortcut is added as the first convolution writes dx ([`Plus`]);
//! - in evaluation all of it happens to the convolution's output at once ([`Normalize`]).
//!
//! Nothing here is a new equation, and every number is rounded as in the plain layers ([`BatchNorm2d`], [`Relu`]): the
//! results are the same to the bit, which the tests of `model/fused.rs` demand.
//!
//! [`BatchNorm2d`]: super::BatchNorm2d

use super::batch_norm::sums::{pair_sums, Gather, Moments, PairSums};
use super::batch_norm::{Normalization, Pullback};
use super::conv2d::frame::{collect, Finish, Source};
use super::relu::Relu;
use super::Activation;
use crate::kernels::simd::wide;
use crate::Scalar;

/// Gathers the moments of an output.
pub(crate) struct GatherMoments<'a, T> {
    pub c: usize,
    pub gather: &'a Gather<Moments<T>>,
}

impl<T: Scalar> Finish<T> for GatherMoments<'_, T> {
    fn images(&self) -> usize {
        self.gather.leaves.images()
    }

    fn piece(&self, at: usize, y: &mut [T]) {
        for (leaf, range) in self.gather.leaves.within(at, y.len()) {
            self.gather.put(leaf, Moments::of(&y[range], self.c));
        }
    }
}

/// `relu(batch_norm(h))`, or without ReLU, computed as it is read.
pub(crate) struct Normalized<'a, T> {
    pub h: &'a Activation<T>,
    pub normal: &'a Normalization<T>,
    pub relu: Option<Relu<T>>,
}

impl<T: Scalar> Source<T> for Normalized<'_, T> {
    fn read(&self, at: usize, out: &mut [T]) {
        let run = self.normal.run.len();
        let h = &self.h.as_slice().expect("contiguous")[at..at + out.len()];
        wide(|| {
            for (out, h) in out.chunks_mut(run).zip(h.chunks(run)) {
                self.normal.apply(h, out);
                if let Some(relu) = self.relu {
                    out.iter_mut().for_each(|y| *y = relu.of(*y));
                }
            }
        });
    }

    fn collect(&self, shape: [usize; 4]) -> Activation<T> {
        collect(self, shape)
    }
}

/// The gradient of h, computed from that of `batch_norm(h)` as it is read.
pub(crate) struct Pulled<'a, T> {
    pub dy: &'a Activation<T>,
    pub h: &'a Activation<T>,
    pub pullback: &'a Pullback<T>,
}

impl<T: Scalar> Source<T> for Pulled<'_, T> {
    fn read(&self, at: usize, out: &mut [T]) {
        let run = self.pullback.run.len();
        let [dy, h] = [self.dy, self.h].map(|array| &array.as_slice().expect("contiguous")[at..at + out.len()]);
        wide(|| {
            for ((out, dy), h) in out.chunks_mut(run).zip(dy.chunks(run)).zip(h.chunks(run)) {
                self.pullback.apply(dy, h, out);
            }
        });
    }

    fn collect(&self, shape: [usize; 4]) -> Activation<T> {
        collect(self, shape)
    }
}

/// Turns the gradient of `relu(batch_norm(h))` into that of `batch_norm(h)`, and gathers the sums of the batch norm's
/// backward pass.
pub(crate) struct GatherPairs<'a, T> {
    pub h: &'a Activation<T>,
    pub normal: &'a Normalization<T>,
    pub relu: Option<Relu<T>>,
    pub gather: &'a Gather<PairSums<T>>,
}

impl<T: Scalar> Finish<T> for GatherPairs<'_, T> {
    fn images(&self) -> usize {
        self.gather.leaves.images()
    }

    fn piece(&self, at: usize, dy: &mut [T]) {
        let run = self.normal.run;
        let h = &self.h.as_slice().expect("contiguous")[at..at + dy.len()];
        let mut y = vec![T::zero(); run.len()];
        for (leaf, range) in self.gather.leaves.within(at, dy.len()) {
            let (dy, h) = (&mut dy[range.clone()], &h[range]);
            if let Some(relu) = self.relu {
                wide(|| {
                    for (dy, h) in dy.chunks_mut(run.len()).zip(h.chunks(run.len())) {
                        self.normal.apply(h, &mut y);
                        dy.iter_mut().zip(&y).for_each(|(dy, &y)| *dy = relu.pull(*dy, y));
                    }
                });
            }
            self.gather.put(leaf, pair_sums(run, dy, h, &self.normal.means));
        }
    }
}

/// Adds what is already there.
pub(crate) struct Plus<'a, T>(pub &'a Activation<T>);

impl<T: Scalar> Finish<T> for Plus<'_, T> {
    fn piece(&self, at: usize, y: &mut [T]) {
        let summand = &self.0.as_slice().expect("contiguous")[at..at + y.len()];
        wide(|| crate::parallel::add_slices(y, summand));
    }
}

/// y ← relu(batch_norm(y) + shortcut), with or without the shortcut, the batch norm's statistics fixed.
pub(crate) struct Normalize<'a, T> {
    pub normal: &'a Normalization<T>,
    pub plus: Option<&'a Activation<T>>,
    pub relu: Option<Relu<T>>,
}

impl<T: Scalar> Finish<T> for Normalize<'_, T> {
    fn piece(&self, at: usize, y: &mut [T]) {
        let run = self.normal.run.len();
        let mut normal = vec![T::zero(); run];
        let mut plus = self.plus.map(|plus| plus.as_slice().expect("contiguous")[at..at + y.len()].chunks(run));
        wide(|| {
            for y in y.chunks_mut(run) {
                let normal = &mut normal[..y.len()];
                self.normal.apply(y, normal);
                match plus.as_mut().and_then(Iterator::next) {
                    Some(plus) => y.iter_mut().zip(&*normal).zip(plus).for_each(|((y, &n), &s)| *y = n + s),
                    None => y.copy_from_slice(normal),
                }
                if let Some(relu) = self.relu {
                    y.iter_mut().for_each(|y| *y = relu.of(*y));
                }
            }
        });
    }
}
