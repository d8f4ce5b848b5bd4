//! Sums over the batch, channel by channel, in an order that depends on the shape alone.
//!
//! The pixels are cut into *leaves* of at most 256: a part of a large image or a few small ones, never parts of several.
//! Whoever has the numbers of a leaf in the cache may sum it: a pass over memory, or the convolution that has just
//! computed them ([`Gather`] takes the leaves in any order, from any thread). The leaves' sums are combined by
//! [`tree_sum`], so the result has the same bits either way.

use crate::kernels::simd::wide;
use crate::parallel::{add_slices, tree_sum};
use crate::Scalar;
use ndarray::Array1;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Mutex;

/// The most pixels of a leaf.
const LEAF_PIXELS: usize = 256;

/// The leaves of `(N, H, W, C)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaves {
    /// Numbers in all, of an image, and of a leaf.
    total: usize,
    image: usize,
    leaf: usize,
    /// Images in a leaf, or leaves in an image; one of the two is 1.
    images: usize,
    per_image: usize,
}

impl Leaves {
    pub fn of((n, h, w, c): (usize, usize, usize, usize)) -> Self {
        let pixels = (h * w).max(1);
        let images = (LEAF_PIXELS / pixels).max(1);
        Leaves {
            total: n * h * w * c,
            image: (pixels * c).max(1),
            leaf: (pixels * images).clamp(1, LEAF_PIXELS) * c.max(1),
            images,
            per_image: pixels.div_ceil(LEAF_PIXELS),
        }
    }

    /// Images that must not be separated.
    pub fn images(&self) -> usize {
        self.images
    }

    pub fn count(&self) -> usize {
        self.total.div_ceil(self.image * self.images) * self.per_image
    }

    /// The numbers of leaf `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        let start = i / self.per_image * self.image * self.images;
        let end = self.total.min(start + self.image * self.images);
        let from = end.min(start + i % self.per_image * self.leaf);
        from..end.min(from + self.leaf)
    }

    /// Cuts a piece that begins at number `at` and holds a multiple of [`Leaves::images`] images into leaves: their
    /// numbers and where they are in the piece.
    pub fn within(self, at: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = at / (self.image * self.images) * self.per_image;
        let ranges = (first..self.count()).map(move |i| (i, self.range(i)));
        ranges.take_while(move |(_, range)| range.start < at + len).map(move |(i, range)| {
            assert!(range.end <= at + len, "a piece cuts a leaf");
            (i, range.start - at..range.end - at)
        })
    }
}

/// The results of leaves, handed in in any order.
pub(crate) struct Gather<A> {
    pub leaves: Leaves,
    slots: Vec<Mutex<Option<A>>>,
}

impl<A: Send> Gather<A> {
    pub fn new(shape: (usize, usize, usize, usize)) -> Self {
        let leaves = Leaves::of(shape);
        Gather { leaves, slots: (0..leaves.count()).map(|_| Mutex::new(None)).collect() }
    }

    pub fn put(&self, leaf: usize, result: A) {
        *self.slots[leaf].lock().expect("no thread panics while it holds a slot") = Some(result);
    }

    /// All of them, combined in the fixed tree. `None` without leaves.
    ///
    /// # Panics
    /// If a leaf is missing.
    pub fn total(self, add: &(impl Fn(&mut A, A) + Sync)) -> Option<A> {
        let take = |leaf: usize| {
            let mut slot = self.slots[leaf].lock().expect("no thread panics while it holds a slot");
            slot.take().expect("every leaf was handed in")
        };
        tree_sum(self.slots.len(), &take, add)
    }
}

/// Per channel: number of values, their mean, and m2 = Σ (x − mean)². The mean is kept as its distance from a pivot, one
/// of the values, so that a mean far from 0 costs no digits.
pub(crate) struct Moments<T> {
    pub count: usize,
    pivot: Vec<T>,
    offset: Vec<T>,
    pub m2: Vec<T>,
}

impl<T: Scalar> Moments<T> {
    /// Of a leaf `x (m, c)`, m ≥ 1: two passes while it is in the cache.
    pub fn of(x: &[T], c: usize) -> Self {
        let run = Run::of(c);
        let (pivot, count) = (x[..c].to_vec(), x.len() / c);
        let pivots = pivot.repeat(run.times);
        let mut offset = vec![T::zero(); run.len()];
        wide(|| {
            for x in x.chunks(run.len()) {
                for ((offset, &x), &pivot) in offset.iter_mut().zip(x).zip(&pivots) {
                    *offset += x - pivot;
                }
            }
        });
        let mut offset = run.fold(offset);
        offset.iter_mut().for_each(|sum| *sum /= T::of_usize(count));
        let offsets = offset.repeat(run.times);
        let mut m2 = vec![T::zero(); run.len()];
        wide(|| {
            for x in x.chunks(run.len()) {
                for (((m2, &x), &pivot), &offset) in m2.iter_mut().zip(x).zip(&pivots).zip(&offsets) {
                    let centred = (x - pivot) - offset;
                    *m2 += centred * centred;
                }
            }
        });
        Moments { count, pivot, offset, m2: run.fold(m2) }
    }

    /// Of the union of two sets (Chan, Golub & LeVeque 1979): with δ = mean_b − mean_a, the joint mean is mean_a + δ n_b/n
    /// and m2 grows by δ² n_a n_b/n.
    pub fn merge(&mut self, b: Moments<T>) {
        let (n_a, n_b, n) = (T::of_usize(self.count), T::of_usize(b.count), T::of_usize(self.count + b.count));
        let (share, cross) = (n_b / n, n_a * (n_b / n));
        for c in 0..self.m2.len() {
            let delta = (b.pivot[c] - self.pivot[c]) + (b.offset[c] - self.offset[c]);
            self.offset[c] += delta * share;
            self.m2[c] += b.m2[c] + delta * delta * cross;
        }
        self.count += b.count;
    }

    pub fn mean(&self) -> Array1<T> {
        self.pivot.iter().zip(&self.offset).map(|(&pivot, &offset)| pivot + offset).collect()
    }
}

/// (Σ dy · (x − mean), Σ dy) per channel.
pub(crate) type PairSums<T> = (Vec<T>, Vec<T>);

/// [`PairSums`] of a leaf; `means` is repeated to a [`Run`].
pub(crate) fn pair_sums<T: Scalar>(run: Run, dy: &[T], x: &[T], means: &[T]) -> PairSums<T> {
    let (mut centred, mut plain) = (vec![T::zero(); run.len()], vec![T::zero(); run.len()]);
    wide(|| {
        for (x, dy) in x.chunks(run.len()).zip(dy.chunks(run.len())) {
            let sums = centred.iter_mut().zip(&mut plain);
            for ((((centred, plain), &x), &dy), &mean) in sums.zip(x).zip(dy).zip(means) {
                *centred += dy * (x - mean);
                *plain += dy;
            }
        }
    });
    (run.fold(centred), run.fold(plain))
}

/// Adds two [`PairSums`].
pub(crate) fn add_pairs<T: Scalar>(left: &mut PairSums<T>, right: PairSums<T>) {
    add_slices(&mut left.0, &right.0);
    add_slices(&mut left.1, &right.1);
}

/// A run of pixels that the inner loops treat as one: per-channel constants are repeated to its length, so that a loop
/// over 16 channels becomes one over 128 numbers, long enough for the vector unit. Sums keep one partial sum per place in
/// the run and add those up at the end.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    c: usize,
    /// Pixels in a run: a power of two.
    times: usize,
}

impl Run {
    pub fn of(c: usize) -> Self {
        let mut times = 1;
        while 2 * times * c <= 128 {
            times *= 2;
        }
        Run { c, times }
    }

    /// Numbers in a run.
    pub fn len(self) -> usize {
        self.times * self.c
    }

    pub fn repeat<T: Scalar>(self, constants: &Array1<T>) -> Vec<T> {
        constants.to_vec().repeat(self.times)
    }

    /// The sum of each channel over the run's pixels.
    fn fold<T: Scalar>(self, mut sums: Vec<T>) -> Vec<T> {
        let (first, others) = sums.split_at_mut(self.c);
        others.chunks_exact(self.c).for_each(|pixel| add_slices(first, pixel));
        sums.truncate(self.c);
        sums
    }

    /// Calls `write(run of out, [run of a, run of b])` for every run, in parallel. The last run may be shorter.
    pub fn for_each<T: Scalar>(self, out: &mut [T], [a, b]: [&[T]; 2], write: impl Fn(&mut [T], [&[T]; 2]) + Sync) {
        let run = self.len();
        self.for_each_piece(out, [a, b], |out, [a, b]| {
            wide(|| {
                for ((out, a), b) in out.chunks_mut(run).zip(a.chunks(run)).zip(b.chunks(run)) {
                    write(out, [a, b]);
                }
            });
        });
    }

    /// Calls `write(piece of out, [piece of a, piece of b])` for pieces of many runs, in parallel.
    pub fn for_each_piece<T: Scalar>(
        self,
        out: &mut [T],
        [a, b]: [&[T]; 2],
        write: impl Fn(&mut [T], [&[T]; 2]) + Sync,
    ) {
        let piece = LEAF_PIXELS * self.c;
        let pieces = out.par_chunks_mut(piece).zip(a.par_chunks(piece)).zip(b.par_chunks(piece));
        pieces.for_each(|((out, a), b)| write(out, [a, b]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large images, whole and with a remainder; small ones, several to a leaf, the last leaf short; none.
    #[test]
    fn leaves_cover_everything_once_and_keep_images_together() {
        for shape in
            [(3, 32, 32, 2), (2, 20, 15, 3), (7, 8, 8, 5), (9, 7, 7, 1), (3, 1, 1, 4), (0, 4, 4, 2), (5, 16, 16, 2)]
        {
            let (n, h, w, c) = shape;
            let leaves = Leaves::of(shape);
            let mut next = 0;
            for i in 0..leaves.count() {
                let range = leaves.range(i);
                assert!(range.start == next && range.len() <= 256 * c && !range.is_empty(), "leaf {i} of {shape:?}");
                next = range.end;
            }
            assert_eq!(next, n * h * w * c, "{shape:?}");
            // Pieces of whole groups of images are cut into the same leaves.
            let piece = 2 * leaves.images() * h * w * c;
            let cut: Vec<_> = (0..next)
                .step_by(piece.max(1))
                .flat_map(|at| leaves.within(at, piece.min(next - at)).map(move |(i, r)| (i, r.start + at..r.end + at)))
                .collect();
            let whole: Vec<_> = (0..leaves.count()).map(|i| (i, leaves.range(i))).collect();
            assert_eq!(cut, whole, "{shape:?}");
        }
    }
}
