//! The shards of a batch: sums over images whose result does not depend on the number of processes.
//!
//! A batch of N images is split into S consecutive parts of ⌊N/S⌋ or ⌈N/S⌉ images, the *shards*; process r of p has the
//! shards from ⌊rS/p⌋ to ⌊(r+1)S/p⌋. Every sum over the batch is first computed inside a shard, in an order that depends
//! on the shard's shape alone, and then over the shards in the tree of [`parallel`](super::parallel). So its bits depend on
//! S, and not on which process computed what. With S = 1 there is only the sum inside the shard.
//!
//! ```text
//!          Σ                   S = 8 shards on p = 3 processes
//!      ┌───┴───┐
//!    ┌─┴─┐   ┌─┴─┐             process 0 sends the sum of {0, 1},
//!   ┌┴┐ ┌┴┐ ┌┴┐ ┌┴┐            process 1 those of {2, 3} and of {4},
//!   0 1 2 3 4 5 6 7            process 2 those of {5} and of {6, 7}
//!   └─┘ └───┘ └───┘
//! ```
//!
//! What a process can add alone are its *subtrees*, the largest subtrees of the tree whose shards it has; only their sums
//! are exchanged. There are two ways:
//!
//! - `Shards::sum`, for the few values of a batch norm: every process gets the sums of all subtrees, and adds them;
//! - `Shards::complete`, for the many values of the weights' gradients: each process gets its part of every subtree's
//!   sum, adds these, and then every process gets all parts. Of n values, p = 2ᵏ processes with equal shares send
//!   2n(p − 1)/p values each, which is the least that is possible; in general a process with k subtrees sends
//!   (k + 1) n (p − 1)/p.
//!
//! The shards can be split further, into *groups* of images that a batch norm normalises together (`BatchNorm2d::group`). Then
//! the sums of a batch norm are those of a group, which no other process needs, and what is summed over the groups is added in
//! a tree over those of each shard, and then over the shards.

use super::parallel::{add_slices, groups, left_pieces, tree_sum};
use super::processes::{Alone, Communicator};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

/// How a batch is split, and which part of it this process has.
#[derive(Clone, Debug)]
pub struct Shards {
    images: usize,
    count: usize,
    /// Images per group, if the shards are split into groups.
    group: Option<NonZeroUsize>,
    processes: Arc<dyn Communicator>,
}

/// A sum of one shard, as values that can be exchanged.
pub(crate) trait Exchanged: Send + Sized {
    fn into_values(self) -> Vec<f32>;
    fn from_values(values: Vec<f32>) -> Self;
}

impl Exchanged for Vec<f32> {
    fn into_values(self) -> Vec<f32> {
        self
    }

    fn from_values(values: Vec<f32>) -> Self {
        values
    }
}

impl Shards {
    /// A batch of `images` in `count` shards, of which this process has those of its rank. A batch of fewer images has as many
    /// shards as images.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn new(images: usize, count: usize, processes: Arc<dyn Communicator>) -> Self {
        assert!(count > 0, "a batch has at least one shard");
        Shards { images, count: count.min(images).max(1), group: None, processes }
    }

    /// A batch that is one shard of one process.
    pub fn one(images: usize) -> Self {
        Shards::new(images, 1, Arc::new(Alone))
    }

    /// The same batch with its shards split into groups of `group` images; `None`: not split. A shard whose images are not a
    /// multiple of that is split into groups of nearly equal length, none of them longer.
    pub(crate) fn in_groups(self, group: Option<NonZeroUsize>) -> Self {
        Shards { group, ..self }
    }

    /// Images of the batch, those of all processes.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The number of shards.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The processes that have the shards.
    pub fn processes(&self) -> &Arc<dyn Communicator> {
        &self.processes
    }

    /// Where shard `i` begins.
    fn first_image(&self, shard: usize) -> usize {
        shard * self.images / self.count
    }

    /// Images of the longest shard, or of the longest group.
    pub fn longest(&self) -> usize {
        self.lengths().into_iter().max().unwrap_or(0)
    }

    /// The fewest images that a batch norm normalises together: all, or those of the shortest group of any process.
    pub(crate) fn together(&self) -> usize {
        match self.group {
            None => self.images,
            Some(_) => self.lengths().into_iter().min().unwrap_or(0),
        }
    }

    /// The lengths of shards, or of groups, that occur in the batch.
    fn lengths(&self) -> Vec<usize> {
        let shards = [self.images / self.count, self.images.div_ceil(self.count)];
        match self.group {
            None => shards.to_vec(),
            Some(group) => {
                shards.iter().flat_map(|&length| groups(0..length, group)).map(|group| group.len()).collect()
            }
        }
    }

    /// Whether the shards are split into groups.
    pub(crate) fn has_groups(&self) -> bool {
        self.group.is_some()
    }

    /// The number of groups in the batch, those of all processes.
    pub(crate) fn group_count(&self) -> usize {
        let of_shard = |shard: usize| self.pieces_of(self.first_image(shard)..self.first_image(shard + 1)).len();
        (0..self.count).map(of_shard).sum()
    }

    /// The groups of a shard; itself without groups.
    fn pieces_of(&self, shard: Range<usize>) -> Vec<Range<usize>> {
        match self.group {
            None => vec![shard],
            Some(group) => groups(shard, group).collect(),
        }
    }

    /// The shards of rank `rank`.
    fn of(&self, rank: usize) -> Range<usize> {
        let first = |rank: usize| rank * self.count / self.processes.size();
        first(rank)..first(rank + 1)
    }

    /// The images of this process, as a range of the batch.
    pub fn own(&self) -> Range<usize> {
        let shards = self.of(self.processes.rank());
        self.first_image(shards.start)..self.first_image(shards.end)
    }

    /// The shards of this process: ranges of its images, counted from the first of them.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let first = self.own().start;
        let range = |shard: usize| self.first_image(shard) - first..self.first_image(shard + 1) - first;
        self.of(self.processes.rank()).map(range).collect()
    }

    /// The shards of this process, or the groups of all of them: what chunks and leaves are cut from.
    pub(crate) fn pieces(&self) -> Vec<Range<usize>> {
        self.ranges().into_iter().flat_map(|shard| self.pieces_of(shard)).collect()
    }

    /// Splits an array of this process, with `image` values per image, into chunks of `images` images, each within a shard
    /// (or within a group): the index of a chunk's first image, and its values. Only the last chunk of a shard (or group) may
    /// have fewer images.
    ///
    /// ```
    /// use resnet_by_hand::shards::Shards;
    /// use resnet_by_hand::processes::Alone;
    /// use std::sync::Arc;
    /// let mut values = [0.0; 10]; // two values per image
    /// let shards = Shards::new(5, 2, Arc::new(Alone)); // the images 0, 1 and 2, 3, 4
    /// let firsts: Vec<_> = shards.chunks(&mut values, 2, 2).into_iter().map(|(first, chunk)| (first, chunk.len())).collect();
    /// assert_eq!(firsts, [(0, 4), (2, 4), (4, 2)]);
    /// ```
    pub fn chunks<'a>(&self, values: &'a mut [f32], image: usize, images: usize) -> Vec<(usize, &'a mut [f32])> {
        let (mut rest, mut chunks) = (values, Vec::new());
        for piece in self.pieces() {
            let (own, others) = rest.split_at_mut(piece.len() * image);
            rest = others;
            let firsts = piece.step_by(images.max(1));
            chunks.extend(firsts.zip(own.chunks_mut((images * image).max(1))));
        }
        assert!(rest.is_empty(), "an array of {} images has another length", self.own().len());
        chunks
    }

    /// The subtrees: ranges of shards, from left to right.
    fn subtrees(&self) -> Vec<Range<usize>> {
        let mut subtrees = Vec::new();
        self.split(0..self.count, &mut subtrees);
        subtrees
    }

    fn split(&self, shards: Range<usize>, subtrees: &mut Vec<Range<usize>>) {
        if self.is_of_one_process(&shards) {
            subtrees.push(shards);
        } else {
            let middle = middle(&shards);
            self.split(shards.start..middle, subtrees);
            self.split(middle..shards.end, subtrees);
        }
    }

    fn is_of_one_process(&self, shards: &Range<usize>) -> bool {
        (0..self.processes.size()).any(|rank| self.of(rank).start <= shards.start && shards.end <= self.of(rank).end)
    }

    /// How many subtrees each process has.
    fn subtrees_per_process(&self) -> Vec<usize> {
        let subtrees = self.subtrees();
        let of = |rank| subtrees.iter().filter(|shards| self.of(rank).contains(&shards.start)).count();
        (0..self.processes.size()).map(of).collect()
    }

    /// The subtrees of this process: for each the images of its shards, as in [`ranges`](Self::ranges).
    pub(crate) fn own_subtrees(&self) -> Vec<Vec<Range<usize>>> {
        let (own, ranges) = (self.of(self.processes.rank()), self.ranges());
        let subtrees = self.subtrees().into_iter().filter(|shards| own.contains(&shards.start));
        subtrees.map(|shards| ranges[shards.start - own.start..shards.end - own.start].to_vec()).collect()
    }

    /// The sums of the subtrees of this process. `leaf` computes the sum of a shard, given its index among those of this
    /// process and the range of its images, as in [`ranges`](Self::ranges).
    pub(crate) fn own_sums<A: Send>(
        &self,
        leaf: &(impl Fn(usize, Range<usize>) -> A + Sync),
        add: &(impl Fn(&mut A, A) + Sync),
    ) -> Vec<A> {
        let (own, ranges) = (self.of(self.processes.rank()), self.ranges());
        let subtrees = self.subtrees().into_iter().filter(|shards| own.contains(&shards.start));
        let sum = |shards: Range<usize>| {
            let first = shards.start - own.start;
            tree_sum(shards.len(), &|i| leaf(first + i, ranges[first + i].clone()), add).expect("a subtree has a shard")
        };
        subtrees.map(sum).collect()
    }

    /// The sum over the batch, which every process gets. `leaf` as in [`own_sums`](Self::own_sums); every sum consists of
    /// `length` values.
    pub(crate) fn sum<A: Exchanged>(
        &self,
        length: usize,
        leaf: &(impl Fn(usize, Range<usize>) -> A + Sync),
        add: &(impl Fn(&mut A, A) + Sync),
    ) -> A {
        let mut own = self.own_sums(leaf, add);
        if self.processes.size() == 1 {
            return own.pop().expect("the whole tree");
        }
        let own: Vec<f32> = own.into_iter().flat_map(Exchanged::into_values).collect();
        let lengths: Vec<usize> = self.subtrees_per_process().iter().map(|count| count * length).collect();
        let all = self.processes.all_gather(&own, &lengths);
        self.join(0..self.count, &mut all.chunks_exact(length).map(|sum| A::from_values(sum.to_vec())), add)
    }

    /// As [`own_sums`](Self::own_sums), over groups: `of_group` computes the summand of a group, given its index in
    /// [`pieces`](Self::pieces).
    pub(crate) fn own_sums_over_groups<A: Send>(
        &self,
        of_group: &(impl Fn(usize) -> A + Sync),
        add: &(impl Fn(&mut A, A) + Sync),
    ) -> Vec<A> {
        self.own_sums(&self.over_groups(of_group, add), add)
    }

    /// As [`sum`](Self::sum), over groups.
    pub(crate) fn sum_over_groups<A: Exchanged>(
        &self,
        length: usize,
        of_group: &(impl Fn(usize) -> A + Sync),
        add: &(impl Fn(&mut A, A) + Sync),
    ) -> A {
        self.sum(length, &self.over_groups(of_group, add), add)
    }

    /// The sum over the groups of a shard, as [`own_sums`](Self::own_sums) needs it.
    fn over_groups<A: Send>(
        &self,
        of_group: &(impl Fn(usize) -> A + Sync),
        add: &(impl Fn(&mut A, A) + Sync),
    ) -> impl Fn(usize, Range<usize>) -> A + Sync {
        let lengths = self.ranges().into_iter().map(|shard| self.pieces_of(shard).len());
        let firsts = lengths.scan(0, |next, length| {
            let first = *next;
            *next += length;
            Some(first..*next)
        });
        let of_shard: Vec<Range<usize>> = firsts.collect();
        move |shard, _| {
            let groups = of_shard[shard].clone();
            tree_sum(groups.len(), &|i| of_group(groups.start + i), add).expect("a shard has images")
        }
    }

    /// The sum of the given shards from those of the subtrees in it, from left to right.
    fn join<A>(&self, shards: Range<usize>, sums: &mut impl Iterator<Item = A>, add: &impl Fn(&mut A, A)) -> A {
        if self.is_of_one_process(&shards) {
            return sums.next().expect("a sum for every subtree");
        }
        let middle = middle(&shards);
        let mut left = self.join(shards.start..middle, sums, add);
        add(&mut left, self.join(middle..shards.end, sums, add));
        left
    }

    /// The same sum, of many values. `stack` are the [`own_sums`](Self::own_sums) of this process, each of `length` values, one
    /// after the other; the sum takes their place. A process gets its part of the sums, adds them, and passes on the result.
    /// All of this is done piece by piece, so that the pieces stay in a cache.
    pub(crate) fn complete(&self, processes: &dyn Communicator, stack: &mut Vec<f32>, length: usize) {
        if processes.size() == 1 {
            return;
        }
        let own = self.own_subtrees().len();
        // A process without shards has nothing to add.
        stack.resize(length * own.max(1), 0.0);
        for first in (0..length).step_by(PIECE) {
            let piece = first..length.min(first + PIECE);
            let sums: Vec<&[f32]> =
                (0..own).map(|sum| &stack[sum * length + piece.start..sum * length + piece.end]).collect();
            let complete = self.complete_piece(processes, &sums, piece.len());
            stack[piece].copy_from_slice(&complete);
        }
        stack.truncate(length);
    }

    fn complete_piece(&self, processes: &dyn Communicator, own: &[&[f32]], length: usize) -> Vec<f32> {
        let (size, rank) = (processes.size(), processes.rank());
        let part = |rank: usize| rank * length / size..(rank + 1) * length / size;
        let to: Vec<usize> = (0..size).map(|rank| own.len() * part(rank).len()).collect();
        let from: Vec<usize> = self.subtrees_per_process().iter().map(|count| count * part(rank).len()).collect();
        let of_all = match own {
            [only] => processes.all_to_all(only, &to, &from),
            _ => {
                let mut parts = Vec::with_capacity(own.len() * length);
                (0..size).for_each(|rank| own.iter().for_each(|sum| parts.extend_from_slice(&sum[part(rank)])));
                processes.all_to_all(&parts, &to, &from)
            }
        };
        let sums = &mut of_all.chunks_exact(part(rank).len().max(1)).map(<[f32]>::to_vec);
        let own = match part(rank).is_empty() {
            true => Vec::new(),
            false => self.join(0..self.count, sums, &|a: &mut Vec<f32>, b: Vec<f32>| add_slices(a, &b)),
        };
        let lengths: Vec<usize> = (0..size).map(|rank| part(rank).len()).collect();
        processes.all_gather(&own, &lengths)
    }
}

/// Values that are exchanged together (1 MB).
pub(crate) const PIECE: usize = 1 << 18;

/// Where [`tree_sum`] splits these shards.
fn middle(shards: &Range<usize>) -> usize {
    shards.start + left_pieces(shards.len())
}

#[cfg(test)]
mod tests {
    use super::super::processes::threads;
    use super::*;

    /// A text, padded with zeros.
    impl Exchanged for String {
        fn into_values(self) -> Vec<f32> {
            let mut values: Vec<f32> = self.bytes().map(f32::from).collect();
            values.resize(64, 0.0);
            values
        }
        fn from_values(values: Vec<f32>) -> Self {
            values.iter().filter(|&&value| value > 0.0).map(|&value| value as u8 as char).collect()
        }
    }

    /// The tree as text, for every number of processes.
    #[test]
    fn every_number_of_processes_adds_in_the_same_tree() {
        let add = |a: &mut String, b: String| *a = format!("({a}{b})");
        for (images, count, expected) in [
            (8, 1, "0"),
            (8, 2, "(04)"),
            (8, 4, "((02)(46))"),
            (8, 8, "(((01)(23))((45)(67)))"),
            // As many shards as images.
            (5, 8, "(((01)(23))4)"),
        ] {
            for size in 1..=8 {
                let sums = threads::run(size, 1, |processes| {
                    let shards = Shards::new(images, count, processes);
                    let first = shards.own().start;
                    shards.sum(64, &|_, images| (first + images.start).to_string(), &add)
                });
                assert!(sums.iter().all(|sum| sum == expected), "{count} shards, {size} processes: {sums:?}");
            }
        }
    }

    /// A group of several images is written as its first and its last.
    #[test]
    fn every_number_of_processes_adds_groups_in_the_same_tree() {
        let add = |a: &mut String, b: String| *a = format!("({a}{b})");
        for (images, count, group, expected, lengths) in [
            (8, 1, 2, "((0-1 2-3)(4-5 6-7))", [2, 2]),
            (8, 2, 4, "(0-3 4-7)", [4, 4]),
            (16, 4, 2, "(((0-1 2-3)(4-5 6-7))((8-9 10-11)(12-13 14-15)))", [2, 2]),
            // Shards of 4, 5, 4 and 5 images.
            (18, 4, 4, "((0-3 (4-5 6-8))(9-12 (13-14 15-17)))", [2, 4]),
        ] {
            for size in 1..=count {
                let all = threads::run(size, 1, |processes| {
                    let shards = Shards::new(images, count, processes).in_groups(NonZeroUsize::new(group));
                    let (first, pieces) = (shards.own().start, shards.pieces());
                    let of_group = |i: usize| format!("{}-{}", first + pieces[i].start, first + pieces[i].end - 1);
                    let own = shards.own_sums_over_groups(&of_group, &add).len();
                    assert_eq!(
                        (own, shards.group_count()),
                        (shards.own_subtrees().len(), expected.matches('-').count())
                    );
                    assert_eq!([shards.together(), shards.longest()], lengths);
                    shards.sum_over_groups(64, &of_group, &add)
                });
                let expected = expected.replace(' ', "");
                assert!(all.iter().all(|sum| *sum == expected), "{count} shards, {size} processes: {all:?}");
            }
        }
    }

    #[test]
    fn processes_have_every_image_once_in_shards_of_nearly_equal_length() {
        for (images, count, size) in [(128, 8, 3), (72, 8, 8), (13, 4, 2), (3, 8, 4), (1, 1, 1), (0, 4, 2), (9, 8, 5)] {
            let all = threads::run(size, 1, |processes| {
                let shards = Shards::new(images, count, processes);
                let first = shards.own().start;
                let ranges: Vec<_> = shards.ranges().into_iter().map(|r| first + r.start..first + r.end).collect();
                assert!(ranges.iter().all(|r| r.len() == images / shards.count() || r.len() == shards.longest()));
                ranges
            });
            let images_seen: Vec<usize> = all.into_iter().flatten().flatten().collect();
            assert_eq!(images_seen, (0..images).collect::<Vec<_>>());
        }
    }

    /// The parts that are exchanged give the same bits as the sums that everyone adds, and their volume is the one that the
    /// module states: k subtrees of n values to the owners of the other parts, and one part to each of the others.
    #[test]
    fn large_sums_have_the_bits_of_small_ones_and_the_stated_volume() {
        let value = |shard: usize, i: usize| ((shard * 7919 + i * 104_729) % 1013) as f32 * 1e-3 + 1e-7;
        let add = |a: &mut Vec<f32>, b: Vec<f32>| add_slices(a, &b);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let mut alone = None;
        for (size, subtrees) in [
            (1, vec![1]),
            (2, vec![1, 1]),
            (3, vec![1, 2, 2]),
            (4, vec![1; 4]),
            (5, vec![1, 2, 1, 1, 1]),
            (8, vec![1; 8]),
        ] {
            for n in [1, 3, 840] {
                let results = threads::run(size, 1, |processes| {
                    let shards = Shards::new(16, 8, processes.clone());
                    let first = shards.own().start;
                    let leaf =
                        |_: usize, images: Range<usize>| (0..n).map(|i| value(first + images.start, i)).collect();
                    let mut complete: Vec<f32> = shards.own_sums(&leaf, &add).concat();
                    shards.complete(&*processes, &mut complete, n);
                    let sent = processes.traffic().bytes;
                    (bits(&complete), bits(&shards.sum(n, &leaf, &add)), sent)
                });
                for (rank, (complete, sum, sent)) in results.into_iter().enumerate() {
                    assert_eq!(complete, sum);
                    if n == 840 {
                        assert_eq!(
                            sent,
                            (4 * 840 * (subtrees[rank] + 1) * (size - 1) / size) as u64,
                            "{rank} of {size}"
                        );
                        assert_eq!(alone.get_or_insert(complete.clone()), &complete);
                    }
                }
            }
        }
    }
}
