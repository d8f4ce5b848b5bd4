//! Sums over the batch, channel by channel, in an order that depends on the shape alone.
//!
//! The pixels are split into the *leaves* of the fixed tree of [`crate::parallel`], at most 256 pixels each: a part of
//! a large image or a few small images, never parts of several. The sum of a leaf is computed while it is in the cache,
//! by a pass over memory or by the epilogue of the convolution that has just computed it ([`PerLeaf`] accepts the
//! leaves in any order, from any thread). [`tree_sum`] combines the sums of the leaves, so the results are
//! bit-identical either way.

use crate::parallel::tree_sum;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Mutex;

/// The most pixels per leaf.
pub(crate) const LEAF_PIXELS: usize = 256;

/// The leaves of `(N, H, W, C)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaves {
    /// Number of values in total, per image, and per leaf.
    total: usize,
    image: usize,
    leaf: usize,
    /// Images per leaf, and leaves per image; one of the two is 1.
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

    /// The values of leaf `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        let start = i / self.per_image * self.image * self.images;
        let end = self.total.min(start + self.image * self.images);
        let from = end.min(start + i % self.per_image * self.leaf);
        from..end.min(from + self.leaf)
    }

    /// Splits a chunk that begins at value `at` and contains a multiple of [`Leaves::images`] images into leaves: their
    /// indices and their ranges in the chunk.
    pub fn within(self, at: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = at / (self.image * self.images) * self.per_image;
        let ranges = (first..self.count()).map(move |i| (i, self.range(i)));
        ranges.take_while(move |(_, range)| range.start < at + len).map(move |(i, range)| {
            assert!(range.end <= at + len, "a chunk must not end inside a leaf");
            (i, range.start - at..range.end - at)
        })
    }
}

/// A result for every leaf, stored in any order.
pub(crate) struct PerLeaf<A> {
    pub leaves: Leaves,
    slots: Vec<Mutex<Option<A>>>,
}

impl<A: Send> PerLeaf<A> {
    pub fn new(shape: (usize, usize, usize, usize)) -> Self {
        let leaves = Leaves::of(shape);
        PerLeaf { leaves, slots: (0..leaves.count()).map(|_| Mutex::new(None)).collect() }
    }

    /// Computes every leaf's result from its range of values, in parallel.
    pub fn fill(&self, of: impl Fn(Range<usize>) -> A + Sync) {
        (0..self.leaves.count()).into_par_iter().for_each(|leaf| self.put(leaf, of(self.leaves.range(leaf))));
    }

    pub fn put(&self, leaf: usize, result: A) {
        *self.slots[leaf].lock().expect("no thread panics while it holds a slot") = Some(result);
    }

    /// All results, combined in the fixed tree. `None` without leaves.
    ///
    /// # Panics
    /// If a leaf is missing.
    pub fn total(self, add: &(impl Fn(&mut A, A) + Sync)) -> Option<A> {
        let take = |leaf: usize| {
            let mut slot = self.slots[leaf].lock().expect("no thread panics while it holds a slot");
            slot.take().expect("every leaf has a result")
        };
        tree_sum(self.slots.len(), &take, add)
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
            // Chunks of whole groups of images are split into the same leaves.
            let chunk = 2 * leaves.images() * h * w * c;
            let cut: Vec<_> = (0..next)
                .step_by(chunk.max(1))
                .flat_map(|at| leaves.within(at, chunk.min(next - at)).map(move |(i, r)| (i, r.start + at..r.end + at)))
                .collect();
            let whole: Vec<_> = (0..leaves.count()).map(|i| (i, leaves.range(i))).collect();
            assert_eq!(cut, whole, "{shape:?}");
        }
    }
}
