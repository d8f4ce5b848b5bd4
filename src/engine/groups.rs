//! The images that a batch norm normalises together: usually all of the batch, in "ghost" batch norm groups of a few
//! ([`BatchNorm2d::group`](crate::layers::BatchNorm2d::group)).
//!
//! What belongs to a group, its statistics and the maps that follow from them, is found by the place of a value in the array
//! ([`PerGroup`]). Chunks and leaves are cut from groups, so their images have the same statistics; a convolution may read
//! images of several groups at once.

use std::ops::Range;

/// Something for each group of this process, or one for the whole batch.
#[derive(Clone, Debug)]
pub(crate) struct PerGroup<T> {
    /// Where the values of a group end in an array `(N, H, W, C)` of this process, and what belongs to it.
    groups: Vec<(usize, T)>,
}

impl<T> PerGroup<T> {
    /// One for the whole batch.
    pub fn one(of_all: T) -> Self {
        PerGroup { groups: vec![(usize::MAX, of_all)] }
    }

    /// The ends of the groups' values, in order, and what belongs to each.
    pub fn new(groups: Vec<(usize, T)>) -> Self {
        PerGroup { groups }
    }

    fn position(&self, at: usize) -> usize {
        self.groups.partition_point(|(end, _)| *end <= at)
    }

    /// That of the group that contains value `at`.
    pub fn at(&self, at: usize) -> &T {
        &self.groups[self.position(at)].1
    }

    /// Splits the values `at..at + len` into parts of one group each: their ranges, counted from `at`, and what belongs to the
    /// group.
    pub fn within(&self, at: usize, len: usize) -> impl Iterator<Item = (Range<usize>, &T)> {
        let mut next = 0;
        self.groups[self.position(at)..].iter().map_while(move |(end, of_group)| {
            let part = next..len.min(end - at);
            next = part.end;
            (!part.is_empty()).then_some((part, of_group))
        })
    }

    /// That of each group.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        self.groups.iter().map(|(_, of_group)| of_group)
    }

    /// That of the `i`-th group.
    pub fn get(&self, i: usize) -> &T {
        &self.groups[i].1
    }

    pub fn map<U>(&self, of: impl Fn(&T) -> U) -> PerGroup<U> {
        PerGroup { groups: self.groups.iter().map(|(end, of_group)| (*end, of(of_group))).collect() }
    }

    /// As [`map`](Self::map), of two.
    pub fn map_with<U, V>(&self, other: &PerGroup<U>, of: impl Fn(&T, &U) -> V) -> PerGroup<V> {
        let both = self.groups.iter().zip(other.iter());
        PerGroup { groups: both.map(|((end, of_group), other)| (*end, of(of_group, other))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_find_their_group() {
        let three = PerGroup::new(vec![(4, 'a'), (10, 'b'), (12, 'c')]);
        let parts = |at, len| three.within(at, len).map(|(range, of)| (range, *of)).collect::<Vec<_>>();
        assert_eq!(parts(0, 12), [(0..4, 'a'), (4..10, 'b'), (10..12, 'c')]);
        assert_eq!(parts(4, 6), [(0..6, 'b')]);
        assert_eq!(parts(3, 8), [(0..1, 'a'), (1..7, 'b'), (7..8, 'c')]);
        assert!(parts(5, 0).is_empty());
        assert_eq!([0, 3, 4, 9, 11].map(|at| *three.at(at)), ['a', 'a', 'b', 'b', 'c']);
        let one = PerGroup::one('x');
        assert_eq!((one.within(5, 7).collect::<Vec<_>>(), one.at(99)), (vec![(0..7, &'x')], &'x'));
        assert!(PerGroup::<char>::new(Vec::new()).within(0, 0).next().is_none());
        let pairs = three.map_with(&three.map(|of| of.to_ascii_uppercase()), |a, b| format!("{a}{b}"));
        assert_eq!(pairs.iter().collect::<Vec<_>>(), ["aA", "bB", "cC"]);
        assert_eq!(pairs.within(9, 2).map(|(range, _)| range).collect::<Vec<_>>(), [0..1, 1..2]);
    }
}
