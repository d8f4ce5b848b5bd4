//! Indirect GEMM: matrix multiplication whose left matrix is read through a list of offsets.
//!
//! ```text
//! C (m, n) ← [C +] A (m, K) · B (K, n)
//!
//! A[i, k] = a[rows[i] + offset of k]      k runs through segments: (offset, offset + step, …), `len` values each
//! C[i, j] = c[c_rows[i] + j]
//! B       packed in panels of 16 columns
//! ```
//!
//! In a convolution, the row of `cols` that belongs to an output pixel is already in x, in a few contiguous pieces at
//! offsets that are the same for every pixel. So nothing needs to be copied: a list of row starts and a list of
//! segments *is* the matrix. All three products of the convolution (y, dx, dW) have this form, for every stride,
//! dilation and padding, with different lists; see `engine/conv/indirect.rs`.
//!
//! # How it is computed
//!
//! As in Goto & van de Geijn 2008, but without the copies: K is cut into slices of about 256, so that a slice of a
//! panel (16 KiB) stays in the first-level cache while all rows are processed; the *microkernel* keeps a few rows by
//! two vectors of C in registers and adds one rank-1 product per k: 6 broadcasts times 2 vectors of 8 columns, with
//! AVX-512 8 broadcasts times 2 vectors of 16, which are two panels. Every C[i, j] is summed over k in ascending order,
//! within slices and slice after slice: the order depends on the shapes alone, and the result does not depend on the
//! microkernel.

use super::simd::{Arithmetic, Kernel, dispatch};
use super::vector::Vector;
use crate::engine::buffers::{Buffer, Shelf};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of a panel: the length of the longest vector. The shorter lengths divide it.
pub(crate) const NR: usize = 16;
/// Rows of a microtile at the end of a matrix, if fewer rows remain.
const TAIL: usize = 4;
/// Approximate values of K per slice.
const K_SLICE: usize = 256;

/// The right matrix B (K, n), packed: panel after panel of 16 columns, row after row, the last panel padded with 0.
#[derive(Debug)]
pub(crate) struct Panels {
    data: Buffer,
    k: usize,
    n: usize,
}

impl Panels {
    /// B (0, 0), to be packed later.
    pub fn empty(shelf: &Shelf) -> Self {
        Panels { data: shelf.buffer(0), k: 0, n: 0 }
    }

    /// Packs B (k, n), in parallel over panels. `write(columns, panel)` fills a panel, row after row of 16, with these
    /// columns; if they are fewer than 16, the others are already 0.
    pub fn pack(shelf: &Shelf, k: usize, n: usize, write: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Self {
        let mut panels = Panels::empty(shelf);
        panels.resize(shelf, k, n);
        panels.data.par_chunks_exact_mut((k * NR).max(1)).enumerate().for_each(|(panel, data)| {
            let columns = panel * NR..n.min((panel + 1) * NR);
            if columns.len() < NR {
                data.fill(0.0);
            }
            write(columns, data);
        });
        panels
    }

    /// Packs B (k, n) into the memory of `self`, on this thread. `write(row, first column, out)` fills `out` with the
    /// row's entries, beginning at that column.
    pub fn repack(&mut self, shelf: &Shelf, k: usize, n: usize, write: impl Fn(usize, usize, &mut [f32])) {
        self.resize(shelf, k, n);
        for (panel, data) in self.data.chunks_exact_mut((k * NR).max(1)).enumerate() {
            pack_panel(panel, n, data, &write);
        }
    }

    /// Some columns of B, the first of which begins a panel.
    pub fn columns(&self, columns: Range<usize>) -> Columns<'_> {
        assert!(columns.start.is_multiple_of(NR) && columns.end <= self.n, "Panels: columns {columns:?}");
        let (first, end) = (columns.start / NR, columns.end.div_ceil(NR));
        Columns { data: &self.data[first * self.k * NR..end * self.k * NR], k: self.k, n: columns.len() }
    }

    /// All columns.
    pub fn all(&self) -> Columns<'_> {
        self.columns(0..self.n)
    }

    fn resize(&mut self, shelf: &Shelf, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
        let len = packed_len(k, n);
        if self.data.capacity() < len {
            self.data = shelf.buffer(len);
        }
        self.data.resize(len, 0.0);
    }
}

/// A right matrix (K, n): some columns of [`Panels`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    data: &'a [f32],
    k: usize,
    n: usize,
}

/// Values of a packed B (k, n).
fn packed_len(k: usize, n: usize) -> usize {
    n.div_ceil(NR).checked_mul(NR).and_then(|columns| columns.checked_mul(k)).expect("Panels: the size overflows")
}

fn pack_panel(panel: usize, n: usize, data: &mut [f32], write: &impl Fn(usize, usize, &mut [f32])) {
    let first = panel * NR;
    let columns = NR.min(n - first);
    for (row, out) in data.chunks_exact_mut(NR).enumerate() {
        write(row, first, &mut out[..columns]);
        out[columns..].fill(0.0);
    }
}

/// A part of K: `len` values of a row of A, the first at `offset` from the row's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Offset of the first value.
    pub offset: usize,
    /// Number of values.
    pub len: usize,
}

/// Where the K values of every row of A are, relative to the row's start.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    list: Vec<Segment>,
    /// Distance between two values of a segment.
    step: usize,
    /// For each slice of K the segments in it and the number of k before it.
    slices: Vec<(Range<usize>, usize)>,
    k: usize,
    /// The largest offset of a value; exact, because every read is checked against it.
    reach: usize,
}

impl Segments {
    /// Joins adjacent segments, cuts long ones, and groups them into slices.
    ///
    /// # Panics
    /// If an offset overflows.
    pub fn new(step: usize, segments: impl IntoIterator<Item = Segment>) -> Self {
        let mut joined: Vec<Segment> = Vec::new();
        for segment in segments.into_iter().filter(|segment| segment.len > 0) {
            match joined.last_mut() {
                Some(last) if offset_of(last, last.len, step) == segment.offset => last.len += segment.len,
                _ => joined.push(segment),
            }
        }
        // The microkernel relies on this: no offset of any k is larger.
        let reach = joined.iter().map(|s| offset_of(s, s.len - 1, step)).max().unwrap_or(0);
        let list: Vec<Segment> = joined
            .into_iter()
            .flat_map(|s| {
                (0..s.len)
                    .step_by(K_SLICE)
                    .map(move |start| Segment { offset: s.offset + start * step, len: K_SLICE.min(s.len - start) })
            })
            .collect();
        let (mut slices, mut k, mut first, mut in_slice) = (Vec::new(), 0, 0, 0);
        for (index, segment) in list.iter().enumerate() {
            if in_slice > 0 && in_slice + segment.len > K_SLICE {
                slices.push((first..index, k - in_slice));
                (first, in_slice) = (index, 0);
            }
            in_slice += segment.len;
            k += segment.len;
        }
        if in_slice > 0 {
            slices.push((first..list.len(), k - in_slice));
        }
        Segments { list, step, slices, k, reach }
    }

    /// Distance between two values of a segment.
    pub fn step(&self) -> usize {
        self.step
    }
}

/// Offset of the value after `count` values of a segment.
fn offset_of(segment: &Segment, count: usize, step: usize) -> usize {
    let end = count.checked_mul(step).and_then(|distance| distance.checked_add(segment.offset));
    end.expect("Segments: an offset overflows")
}

/// C ← A · B, or C ← C + A · B with `accumulate`; see the [module documentation](self). Runs on the calling thread.
///
/// # Panics
/// If a list points outside its array or the sizes do not fit.
pub(crate) fn indirect_gemm(
    (a, rows, segments): (&[f32], &[usize], &Segments),
    b: Columns,
    (c, c_rows): (&mut [f32], &[usize]),
    accumulate: bool,
) {
    struct Indirect<'a> {
        product: Product<'a>,
        rows: &'a [usize],
        c_rows: &'a [usize],
        c: &'a mut [f32],
    }
    impl Kernel for Indirect<'_> {
        type Output = ();
        #[inline(always)]
        fn run<A: Arithmetic, const ROWS: usize>(self) {
            self.product.run::<A, ROWS>(self.rows, self.c, self.c_rows);
        }
    }
    assert_eq!((segments.k, b.data.len()), (b.k, packed_len(b.k, b.n)), "indirect_gemm: K of A and of B");
    let product = Product { a, segments, b: b.data, n: b.n, panel: b.k * NR, accumulate };
    dispatch(Indirect { product, rows, c_rows, c });
}

/// The starts of the rows of a matrix.
pub(crate) trait Rows: Copy {
    /// Number of rows.
    fn count(self) -> usize;
    /// The start of row `i`.
    fn start(self, i: usize) -> usize;
    /// The largest start; 0 without rows.
    fn last(self) -> usize;
}

impl Rows for &[usize] {
    #[inline(always)]
    fn count(self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn start(self, i: usize) -> usize {
        self[i]
    }
    #[inline(always)]
    fn last(self) -> usize {
        let mut last = 0;
        for &start in self {
            last = last.max(start);
        }
        last
    }
}

/// `count` rows, each `stride` after the one before: the rows of a matrix that *is* stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided {
    /// Number of rows.
    pub count: usize,
    /// Distance between two rows.
    pub stride: usize,
}

impl Rows for Strided {
    #[inline(always)]
    fn count(self) -> usize {
        self.count
    }
    #[inline(always)]
    fn start(self, i: usize) -> usize {
        i * self.stride
    }
    #[inline(always)]
    fn last(self) -> usize {
        // Saturating: a product that wraps around would pass the check for which it is computed.
        self.count.saturating_sub(1).saturating_mul(self.stride)
    }
}

/// The matrices of a product, without C and the rows. For use inside a [`Kernel`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a> {
    /// The array that contains the values of A.
    pub a: &'a [f32],
    /// The offsets of the K values of a row.
    pub segments: &'a Segments,
    /// B (K, n), packed as in [`Panels`].
    pub b: &'a [f32],
    /// Columns of B and C.
    pub n: usize,
    /// Distance between two panels of B.
    pub panel: usize,
    /// C ← C + A · B instead of C ← A · B.
    pub accumulate: bool,
}

impl Product<'_> {
    /// Computes it, with microtiles of `MR` rows.
    ///
    /// # Panics
    /// If rows or segments point outside the arrays or the sizes do not fit.
    #[inline(always)]
    pub fn run<A: Arithmetic, const MR: usize>(&self, rows: impl Rows, c: &mut [f32], c_rows: impl Rows) {
        let (n, k) = (self.n, self.segments.k);
        assert_eq!(rows.count(), c_rows.count(), "indirect_gemm: m of A and of C");
        if rows.count() == 0 || n == 0 {
            return;
        }
        if k == 0 {
            if !self.accumulate {
                for i in 0..c_rows.count() {
                    c[c_rows.start(i)..][..n].fill(0.0);
                }
            }
            return;
        }
        // The microkernel relies on this, checked once: no index into `a` is beyond its end.
        assert!(
            rows.last().checked_add(self.segments.reach).is_some_and(|i| i < self.a.len()),
            "indirect_gemm: A reaches beyond its array"
        );
        assert!(
            c_rows.last().checked_add(n).is_some_and(|end| end <= c.len()),
            "indirect_gemm: C reaches beyond its array"
        );
        let last_panel = (n.div_ceil(NR) - 1).checked_mul(self.panel).and_then(|start| start.checked_add(k * NR));
        assert!(last_panel.is_some_and(|end| end <= self.b.len()), "indirect_gemm: B reaches beyond its array");
        let wide = 2 * A::V::LANES;
        for (index, slice) in self.segments.slices.iter().enumerate() {
            let load = self.accumulate || index > 0;
            for column in (0..n).step_by(wide) {
                // If the remaining columns fit into one vector, a second one would compute nothing.
                let vectors = if n - column > wide / 2 { 2 } else { 1 };
                let mut first = 0;
                while first < rows.count() {
                    let left = rows.count() - first;
                    let count = if left > TAIL { left.min(MR) } else { left };
                    let place = Place { slice, column, first, count, load };
                    // SAFETY: checked above: every start + reach is inside `a`, and reach is the largest offset of any
                    // k; every panel of B holds k rows.
                    unsafe {
                        match (vectors, left > TAIL) {
                            (2, true) => self.microtile::<A::V, MR, 2>(place, rows, c, c_rows),
                            (2, false) => self.microtile::<A::V, TAIL, 2>(place, rows, c, c_rows),
                            (_, true) => self.microtile::<A::V, MR, 1>(place, rows, c, c_rows),
                            (_, false) => self.microtile::<A::V, TAIL, 1>(place, rows, c, c_rows),
                        }
                    }
                    first += count;
                }
            }
        }
    }

    /// A microtile of C, `count ≤ MR` rows by `N` vectors, through one slice of K. With fewer than `MR` rows it
    /// computes the last row several times and stores it once; columns after the last are computed from the zeros that
    /// pad B, and not stored.
    ///
    /// # Safety
    /// Every start of a row + reach is an index of `a`; the panels of B that hold the columns lie inside `b`.
    #[inline(always)]
    unsafe fn microtile<V: Vector<f32>, const MR: usize, const N: usize>(
        &self,
        Place { slice: (slice, k_before), column, first, count, load }: Place,
        rows: impl Rows,
        c: &mut [f32],
        c_rows: impl Rows,
    ) {
        let segments = &self.segments.list[slice.clone()];
        // Loops over indices: `map` and `from_fn` of an array stay calls if the compiler puts them into another unit than this.
        // Where a vector's columns begin in B; they are never in two panels.
        let (mut columns, mut b, mut starts) = ([column; N], [self.b; N], [0; MR]);
        for v in 0..N {
            columns[v] += v * V::LANES;
            b[v] = &self.b[columns[v] / NR * self.panel + k_before * NR + columns[v] % NR..];
        }
        for (i, start) in starts.iter_mut().enumerate() {
            *start = rows.start(first + i.min(count - 1));
        }
        let mut sums = [[V::zero(); N]; MR];
        let whole = column + N * V::LANES <= self.n;
        let mut part = [0.0; NR];
        // `i < count` inside loops of fixed length: they are unrolled, and `sums` stays in registers.
        if load {
            for i in 0..MR {
                if i < count {
                    let c = &c[c_rows.start(first + i)..][..self.n];
                    for v in 0..N {
                        sums[i][v] = if whole {
                            V::load(c, columns[v])
                        } else {
                            let c = &c[columns[v]..];
                            let len = c.len().min(V::LANES);
                            part[..len].copy_from_slice(&c[..len]);
                            V::load(&part, 0)
                        };
                    }
                }
            }
        }
        // SAFETY: the caller's promise; `b` begins at row `k_before` of a panel with k rows, and the segments of this
        // slice have at most k - k_before values in all.
        unsafe { microkernel::<V, MR, N>(self.a, &starts, segments, self.segments.step, b, &mut sums) };
        for i in 0..MR {
            if i < count {
                let c = &mut c[c_rows.start(first + i)..][..self.n];
                for v in 0..N {
                    if whole {
                        sums[i][v].store(c, columns[v]);
                    } else {
                        let c = &mut c[columns[v]..];
                        let len = c.len().min(V::LANES);
                        sums[i][v].store(&mut part, 0);
                        c[..len].copy_from_slice(&part[..len]);
                    }
                }
            }
        }
    }
}

/// A microtile of C and a slice of K.
#[derive(Clone, Copy)]
struct Place<'a> {
    slice: &'a (Range<usize>, usize),
    column: usize,
    first: usize,
    count: usize,
    /// Whether C already contains a sum.
    load: bool,
}

/// `sums[i][v] += Σ_k A[i, k] · B[k, the columns of v]` over the segments: the innermost loop.
///
/// # Safety
/// Every `rows[i] + offset of k` is an index of `a`; each of `b` holds a vector at a distance of 16 for every k of the
/// segments.
#[inline(always)]
unsafe fn microkernel<V: Vector<f32>, const MR: usize, const N: usize>(
    a: &[f32],
    rows: &[usize; MR],
    segments: &[Segment],
    step: usize,
    b: [&[f32]; N],
    sums: &mut [[V; N]; MR],
) {
    let mut acc = *sums;
    let mut next = [a.as_ptr(); N];
    for v in 0..N {
        next[v] = b[v].as_ptr();
    }
    for segment in segments {
        let mut a = a.as_ptr().wrapping_add(segment.offset);
        for _ in 0..segment.len {
            // SAFETY: the caller's promise. The pointers are advanced with `wrapping_add`, so that leaving the array
            // after the last k is no read.
            let mut b_row = [V::zero(); N];
            for v in 0..N {
                b_row[v] = V::load(unsafe { std::slice::from_raw_parts(next[v], V::LANES) }, 0);
                next[v] = next[v].wrapping_add(NR);
            }
            for i in 0..MR {
                let a_value = unsafe { *a.wrapping_add(rows[i]) };
                for v in 0..N {
                    acc[i][v] = b_row[v].multiply_add(a_value, acc[i][v]);
                }
            }
            a = a.wrapping_add(step);
        }
    }
    *sums = acc;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes that are not divisible by the microtile, and K beyond one slice.
    #[test]
    fn equals_the_definition_exactly_on_whole_numbers() {
        let shelf = Shelf::default();
        for (m, n, lens, step) in [
            (1, 1, vec![1], 1),
            (6, 16, vec![3, 4], 1),
            (13, 17, vec![5, 1, 2], 3),
            (7, 33, vec![256, 300, 10], 1),
            (20, 5, vec![700], 2),
            (4, 16, vec![], 1),
        ] {
            let mut offset = 0;
            let list: Vec<Segment> = lens
                .iter()
                .map(|&len| {
                    let segment = Segment { offset, len };
                    offset += len * step + 1; // a gap, so that segments are not joined
                    segment
                })
                .collect();
            let k: usize = lens.iter().sum();
            let a: Vec<f32> = (0..offset + 3 * m).map(|i| (i * 7 % 5) as f32 - 2.0).collect();
            let rows: Vec<usize> = (0..m).map(|i| (i * 5) % (3 * m)).collect();
            let b = |k: usize, j: usize| ((k * 3 + j * 5) % 7) as f32 - 3.0;
            let panels = Panels::pack(&shelf, k, n, |columns, panel| {
                for (row, out) in panel.chunks_exact_mut(NR).enumerate() {
                    out.iter_mut().zip(columns.clone()).for_each(|(out, j)| *out = b(row, j));
                }
            });
            let c_rows: Vec<usize> = (0..m).map(|i| (m - 1 - i) * (n + 2)).collect();
            let before: Vec<f32> = (0..m * (n + 2)).map(|i| i as f32).collect();
            for accumulate in [false, true] {
                let mut c = before.clone();
                let segments = Segments::new(step, list.iter().copied());
                indirect_gemm((&a, &rows, &segments), panels.all(), (&mut c, &c_rows), accumulate);
                let mut expected = before.clone();
                for i in 0..m {
                    for j in 0..n {
                        let offsets = list.iter().flat_map(|s| (0..s.len).map(|l| s.offset + l * step));
                        let sum: f32 = offsets.enumerate().map(|(k, offset)| a[rows[i] + offset] * b(k, j)).sum();
                        let start = if accumulate { before[c_rows[i] + j] } else { 0.0 };
                        expected[c_rows[i] + j] = start + sum;
                    }
                }
                assert_eq!(c, expected, "m {m}, n {n}, segments {lens:?}, step {step}, accumulate {accumulate}");
            }
        }
    }

    #[test]
    fn segments_that_continue_one_another_are_joined_and_long_ones_cut() {
        let segments = Segments::new(2, [(0, 3), (6, 2), (11, 600)].map(|(offset, len)| Segment { offset, len }));
        let lens: Vec<_> = segments.list.iter().map(|s| (s.offset, s.len)).collect();
        assert_eq!(lens, [(0, 5), (11, 256), (523, 256), (1035, 88)]);
        assert_eq!(segments.slices, [(0..1, 0), (1..2, 5), (2..3, 261), (3..4, 517)]);
        assert_eq!((segments.k, segments.reach), (605, 11 + 599 * 2));
    }

    #[test]
    #[should_panic(expected = "an offset overflows")]
    fn an_offset_that_wraps_round_is_refused() {
        Segments::new(1, [Segment { offset: usize::MAX, len: 2 }]);
    }

    #[test]
    #[should_panic(expected = "A reaches beyond its array")]
    fn a_list_that_points_outside_is_refused() {
        let segments = Segments::new(1, [Segment { offset: 0, len: 4 }]);
        let panels = Panels::pack(&Shelf::default(), 4, 16, |_, panel: &mut [f32]| panel.fill(1.0));
        indirect_gemm((&[0.0; 8], &[0, 5], &segments), panels.all(), (&mut [0.0; 32], &[0, 16]), false);
    }
}
