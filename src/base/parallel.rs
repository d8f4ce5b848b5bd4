//! Parallel loops and sums whose result does not depend on the number of threads.
//!
//! Floating-point addition is not associative: `(a + b) + c` and `a + (b + c)` round differently. So a sum whose
//! grouping depends on which thread finishes first differs from run to run. Two rules prevent this:
//!
//! 1. work is split into *pieces* whose size follows from the data's shape alone;
//! 2. the results of the pieces are combined by [`tree_sum`], a binary tree over the piece indices that is the same for
//!    any number of threads. `rayon::join` decides *which thread* computes a subtree, never *what* is added to what.
//!
//! A subtree's sum is a function of its own pieces, so it does not matter which thread computes it. All threads belong
//! to this process.

use std::num::NonZeroUsize;
use std::ops::Range;

/// Computes `leaf(i)` for every piece `0..pieces` and adds the results with `add(left, right)` in a fixed binary tree.
///
/// At most about `threads · log₂(pieces)` partial sums exist at once. Returns `None` if there are no pieces.
///
/// ```
/// use resnet_by_hand::parallel::tree_sum;
/// // Four pieces: (0 + 1) + (2 + 3), whatever the number of threads.
/// let shape = tree_sum(4, &|i| i.to_string(), &|a, b| *a = format!("({a}+{b})"));
/// assert_eq!(shape.unwrap(), "((0+1)+(2+3))");
/// ```
pub fn tree_sum<A: Send>(
    pieces: usize,
    leaf: &(impl Fn(usize) -> A + Sync),
    add: &(impl Fn(&mut A, A) + Sync),
) -> Option<A> {
    (pieces > 0).then(|| subtree_sum(0, pieces, leaf, add))
}

fn subtree_sum<A: Send>(
    first: usize,
    pieces: usize,
    leaf: &(impl Fn(usize) -> A + Sync),
    add: &(impl Fn(&mut A, A) + Sync),
) -> A {
    if pieces == 1 {
        return leaf(first);
    }
    let of_left = left_pieces(pieces);
    let (mut left, right) = rayon::join(
        || subtree_sum(first, of_left, leaf, add),
        || subtree_sum(first + of_left, pieces - of_left, leaf, add),
    );
    add(&mut left, right);
    left
}

/// The pieces of the left subtree: the largest power of two below `pieces`, so that appending pieces never regroups a
/// complete subtree.
pub(crate) fn left_pieces(pieces: usize) -> usize {
    pieces.next_power_of_two() / 2
}

/// [`tree_sum`] of arrays that this thread computes one after the other: `leaf(i, array)` writes the values of piece i. The
/// sum is written to `sum`; `others` has room for [`arrays_beside`] further arrays. If all of them stay in a cache, a sum of
/// many pieces costs no more memory traffic than one of them.
pub(crate) fn tree_sum_into<T>(
    pieces: Range<usize>,
    leaf: &mut impl FnMut(usize, &mut [T]),
    add: &impl Fn(&mut [T], &[T]),
    sum: &mut [T],
    others: &mut [T],
) {
    if pieces.len() == 1 {
        return leaf(pieces.start, sum);
    }
    let middle = pieces.start + left_pieces(pieces.len());
    tree_sum_into(pieces.start..middle, leaf, add, sum, others);
    let (right, others) = others.split_at_mut(sum.len());
    tree_sum_into(middle..pieces.end, leaf, add, right, others);
    add(sum, right);
}

/// The arrays that [`tree_sum_into`] needs beside the sum: the depth of the tree.
pub(crate) fn arrays_beside(pieces: usize) -> usize {
    pieces.next_power_of_two().trailing_zeros() as usize
}

/// Splits `all` into consecutive ranges of at most `most`, whose lengths differ by at most one: ⌈n / most⌉ of them. If n is a
/// multiple of `most`, all have this length.
pub(crate) fn groups(all: Range<usize>, most: NonZeroUsize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let (n, count) = (all.len(), all.len().div_ceil(most.get()));
    (0..count).map(move |i| all.start + i * n / count..all.start + (i + 1) * n / count)
}

/// Adds `right` to `left` element by element: the usual `add` of [`tree_sum`].
#[inline(always)]
pub fn add_slices<T: crate::Scalar>(left: &mut [T], right: &[T]) {
    assert_eq!(left.len(), right.len(), "add_slices: lengths differ");
    for (l, &r) in left.iter_mut().zip(right) {
        *l += r;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appending_pieces_keeps_complete_subtrees() {
        let shape = |n| tree_sum(n, &|i| i.to_string(), &|a: &mut String, b| *a = format!("({a}{b})")).unwrap();
        assert_eq!(shape(1), "0");
        assert_eq!(shape(3), "((01)2)");
        assert_eq!(shape(5), "(((01)(23))4)");
        assert!(tree_sum(0, &|i| i, &|_, _| ()).is_none());
    }

    #[test]
    fn arrays_are_added_in_the_same_tree() {
        for pieces in 1..=9 {
            let mut arrays = vec![String::new(); 1 + arrays_beside(pieces)];
            let (sum, others) = arrays.split_at_mut(1);
            let leaf = &mut |i: usize, array: &mut [String]| array[0] = i.to_string();
            let add = |left: &mut [String], right: &[String]| left[0] = format!("({}{})", left[0], right[0]);
            tree_sum_into(0..pieces, leaf, &add, sum, others);
            let expected = tree_sum(pieces, &|i| i.to_string(), &|a: &mut String, b| *a = format!("({a}{b})"));
            assert_eq!(Some(&sum[0]), expected.as_ref());
        }
    }

    #[test]
    fn groups_have_the_given_length_or_nearly_equal_ones() {
        let of = |all, most| groups(all, NonZeroUsize::new(most).unwrap()).collect::<Vec<_>>();
        assert_eq!(of(2..10, 4), [2..6, 6..10]);
        // Not 4, 4 and 1.
        assert_eq!(of(0..9, 4), [0..3, 3..6, 6..9]);
        assert_eq!(of(0..5, 2), [0..1, 1..3, 3..5]);
        assert_eq!(of(5..8, 4), [5..8; 1]);
        assert!(of(0..0, 4).is_empty());
    }

    #[test]
    fn the_sum_has_the_same_bits_for_every_thread_count() {
        let terms: Vec<f32> = (0..1000u32).map(|i| ((i * 7919) % 1013) as f32 * 1e-3 + 1e-7).collect();
        let sum = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| tree_sum(terms.len(), &|i| terms[i], &|a: &mut f32, b| *a += b)).unwrap().to_bits()
        };
        let one = sum(1);
        assert!([2, 3, 8].into_iter().all(|threads| sum(threads) == one));
    }
}
