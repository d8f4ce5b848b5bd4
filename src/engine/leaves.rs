//! Sums over the batch, channel by channel, in an order that depends on the shapes alone.
//!
//! The pixels of a shard ([`Shards`]), or of a group of its images, are split into the *leaves* of the fixed tree of
//! [`crate::parallel`], at most 256 pixels each: a part of a large image or a few small images, never parts of several, and
//! never images of two shards or groups. The sum of a leaf is computed while it is in the cache, by a pass over memory or by the epilogue of the convolution that has
//! just computed it ([`PerLeaf`] accepts the leaves in any order, from any thread). [`tree_sum`] combines the sums of the
//! leaves, and [`Shards::sum`] those of the shards, so the results are bit-identical either way.

use super::groups::PerGroup;
use crate::parallel::tree_sum;
use crate::shards::{Exchanged, Shards};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Mutex;

/// The most pixels per leaf.
pub(crate) const LEAF_PIXELS: usize = 256;

/// The leaves of the `(N, H, W, C)` of this process.
#[derive(Clone, Debug)]
pub(crate) struct Leaves {
    /// Images per leaf of small images; otherwise 1.
    images: usize,
    /// The values of every leaf.
    ranges: Vec<Range<usize>>,
    /// The leaves of every shard, or of every group.
    pieces: Vec<Range<usize>>,
}

impl Leaves {
    pub fn of(shards: &Shards, (_, h, w, c): (usize, usize, usize, usize)) -> Self {
        let (pixels, c) = ((h * w).max(1), c.max(1));
        let images = (LEAF_PIXELS / pixels).max(1);
        // A leaf is a part of this many values, or the last and shorter part of it.
        let (group, leaf) = (images * pixels * c, LEAF_PIXELS.min(images * pixels) * c);
        let (mut ranges, mut leaves_of) = (Vec::new(), Vec::new());
        for piece in shards.pieces() {
            let (first, end) = (ranges.len(), piece.end * h * w * c);
            for start in (piece.start * h * w * c..end).step_by(group) {
                let end = end.min(start + group);
                ranges.extend((start..end).step_by(leaf).map(|at| at..end.min(at + leaf)));
            }
            leaves_of.push(first..ranges.len());
        }
        Leaves { images, ranges, pieces: leaves_of }
    }

    /// Images that must not be separated.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Splits a chunk that begins at value `at` and contains a multiple of [`Leaves::images`] images of one shard or group, or
    /// its last images, into leaves: their indices and their ranges in the chunk.
    pub fn within(&self, at: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = self.ranges.partition_point(|range| range.start < at);
        let ranges = self.ranges[first..].iter().take_while(move |range| range.start < at + len);
        (first..).zip(ranges).map(move |(i, range)| {
            assert!(range.end <= at + len, "a chunk must not end inside a leaf");
            (i, range.start - at..range.end - at)
        })
    }
}

/// A sum that is computed leaf by leaf.
pub(crate) trait LeafSum: Exchanged {
    fn add(&mut self, other: Self);

    /// Values of a sum over `channels` channels.
    fn length(channels: usize) -> usize;
}

/// A result for every leaf, stored in any order.
pub(crate) struct PerLeaf<A> {
    pub leaves: Leaves,
    pub shards: Shards,
    channels: usize,
    slots: Vec<Mutex<Option<A>>>,
}

impl<A: LeafSum> PerLeaf<A> {
    pub fn new(shards: &Shards, shape: (usize, usize, usize, usize)) -> Self {
        let leaves = Leaves::of(shards, shape);
        let slots = leaves.ranges.iter().map(|_| Mutex::new(None)).collect();
        PerLeaf { leaves, shards: shards.clone(), channels: shape.3, slots }
    }

    /// Computes every leaf's result from its range of values, in parallel.
    pub fn fill(&self, of: impl Fn(Range<usize>) -> A + Sync) {
        let leaves = self.leaves.ranges.par_iter().enumerate();
        leaves.for_each(|(leaf, range)| self.put(leaf, of(range.clone())));
    }

    pub fn put(&self, leaf: usize, result: A) {
        *self.slots[leaf].lock().expect("no thread panics while it holds a slot") = Some(result);
    }

    /// The sum over the whole batch, of all processes; with groups, that of each group of this process, without an exchange.
    ///
    /// # Panics
    /// If a leaf is missing, or there are no images.
    pub fn sums(self) -> PerGroup<A> {
        let take = |leaf: usize| {
            let mut slot = self.slots[leaf].lock().expect("no thread panics while it holds a slot");
            slot.take().expect("every leaf has a result")
        };
        let of_piece = |piece: usize| {
            let leaves = self.leaves.pieces[piece].clone();
            tree_sum(leaves.len(), &|i| take(leaves.start + i), &A::add).expect("a shard has images")
        };
        if !self.shards.has_groups() {
            let of_shard = |shard: usize, _| of_piece(shard);
            return PerGroup::one(self.shards.sum(A::length(self.channels), &of_shard, &A::add));
        }
        let groups = self.leaves.pieces.par_iter().enumerate();
        let sums = groups.map(|(group, leaves)| (self.leaves.ranges[leaves.end - 1].end, of_piece(group)));
        PerGroup::new(sums.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::Alone;
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    /// Large images, whole and with a remainder; small ones, several to a leaf, the last leaf short; none.
    #[test]
    fn leaves_cover_everything_once_and_keep_images_together() {
        for shape in
            [(3, 32, 32, 2), (2, 20, 15, 3), (7, 8, 8, 5), (9, 7, 7, 1), (3, 1, 1, 4), (0, 4, 4, 2), (5, 16, 16, 2)]
        {
            let (n, h, w, c) = shape;
            for (count, group) in [(1, 0), (2, 0), (4, 0), (1, 2), (2, 1), (2, 3)] {
                let case = format!("{shape:?} in {count} shards, groups of {group}");
                let shards = Shards::new(n, count, Arc::new(Alone)).in_groups(NonZeroUsize::new(group));
                let leaves = Leaves::of(&shards, shape);
                let mut next = 0;
                for range in &leaves.ranges {
                    assert!(range.start == next && range.len() <= 256 * c && !range.is_empty(), "{range:?} of {case}");
                    next = range.end;
                }
                assert_eq!(next, n * h * w * c, "{case}");
                // No leaf has images of two shards or groups.
                assert_eq!(leaves.pieces.len(), shards.pieces().len(), "{case}");
                for (piece, leaves_of) in shards.pieces().into_iter().zip(&leaves.pieces) {
                    let values = &leaves.ranges[leaves_of.clone()];
                    assert_eq!(
                        values.first().map(|leaf| leaf.start),
                        (n > 0).then_some(piece.start * h * w * c),
                        "{case}"
                    );
                    assert_eq!(values.last().map(|leaf| leaf.end), (n > 0).then_some(piece.end * h * w * c), "{case}");
                }
                // Chunks of whole groups of images are split into the same leaves.
                let mut values = vec![0.0; next];
                let chunks = shards.chunks(&mut values, h * w * c, 2 * leaves.images());
                let parts = chunks.iter().flat_map(|(first, chunk)| {
                    let at = first * h * w * c;
                    leaves.within(at, chunk.len()).map(move |(i, r)| (i, r.start + at..r.end + at))
                });
                let parts: Vec<_> = parts.collect();
                let whole: Vec<_> = leaves.ranges.iter().cloned().enumerate().collect();
                assert_eq!(parts, whole, "{case}");
            }
        }
    }
}
