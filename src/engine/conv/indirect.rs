//! Convolution by indirect GEMM: matrix multiplication without building `cols`.
//!
//! The equations are those of `layers/conv2d/im2col.rs`; the only difference is where the values of `cols` are read.
//! With channels last, the inputs under one tap of the kernel are contiguous in x, and for every output pixel the taps
//! are at the same offsets from the window's first pixel. So two short lists, row starts and tap offsets, describe
//! `cols`, and [`indirect_gemm`] reads x itself. Each image is padded with zeros for the taps beyond the border.
//!
//! ```text
//! y   (pixels, c_o)  = cols (pixels, K) · W (K, c_o)       rows: output pixels         segments: taps
//! dW  (K, c_o)       = colsᵀ (K, pixels) · dy              rows: (tap, input channel)  segments: rows of output pixels
//! dx  (pixels, c)    = the same kind of product            rows: input pixels          segments: taps, see below
//! ```
//!
//! # dx without col2im
//!
//! col2im scatters; here dx gathers instead. Input pixel h receives a term from every (ho, p) with
//! `h = ho·stride + p·dilation − padding`, so from the taps p for which `h + padding − p·dilation` is divisible by the
//! stride. These taps depend only on h modulo the stride: the input pixels fall into stride² *phases*, and within one
//! phase dx is an ordinary convolution of dy, stride 1, with the phase's own taps. For stride 1 there is one phase, and
//! its kernel is the weight rotated by 180 degrees; for a 3x3 kernel with stride 2 the four phases have 1, 2, 2 and 4
//! taps: 9 in total, without work on zeros.

use super::Geometry;
use super::operands::{Epilogue, Prologue};
use super::padded::{Filled, Padded};
use crate::engine::buffers::{Buffer, Shelf};
use crate::engine::kernels::indirect_gemm::{NR, Panels, Segment, Segments, indirect_gemm};
use crate::engine::kernels::simd::wide_add;
use crate::parallel::{arrays_beside, tree_sum, tree_sum_into};
use crate::shards::Shards;
use ndarray::Array4;
use rayon::prelude::*;
use std::ops::Range;

/// Approximate output pixels per chunk: enough rows to reuse a slice of the weight while it is in the cache.
const CHUNK_PIXELS: usize = 256;

/// The dW of this many output pixels is accumulated in place; the fixed tree adds the results.
const LEAF_PIXELS: usize = 512;

/// Rows of dW that a thread computes at once.
const DW_ROWS: usize = 96;

/// Rows and columns of a block of dW: 24 KB.
const BLOCK_ROWS: usize = 48;
const BLOCK_COLUMNS: usize = 128;

/// A dW with fewer values stays in a cache as a whole.
const LARGE: usize = 1 << 15;

/// Up to this many values, x and dy are prepared for all images at once: 32 MB.
const AT_ONCE: usize = 1 << 23;

/// y without the bias.
pub fn forward(
    shelf: &Shelf,
    shards: &Shards,
    g: &Geometry,
    x: &dyn Prologue,
    weight: &Array4<f32>,
    y: &mut [f32],
    epilogue: &dyn Epilogue,
) {
    let weight = weight.as_standard_layout();
    let weight = weight.as_slice().expect("contiguous");
    let padded = Padded::input(g);
    let images = chunk_images(shards, g.pixels_out(), epilogue);
    let (c, c_o) = (g.c_in / g.groups, g.c_out / g.groups);

    let rows: Vec<usize> = padded.starts(images, g.h_out, g.w_out, g.stride);
    let y_rows: Vec<usize> = (0..images * g.pixels_out()).map(|pixel| pixel * g.c_out).collect();
    let taps = Segments::new(1, padded.taps(g).map(|offset| Segment { offset, len: c }));
    // W (K, c_o) of each group: weight[o, i, p, q] at row (p·kw + q)·c + i, column o
    let kernel = g.kh * g.kw;
    let weights: Vec<Panels> = (0..g.groups)
        .map(|group| pack_weight(shelf, &weight[group * c_o * g.taps()..], 0..kernel, [c, c_o], [kernel, g.taps()]))
        .collect();

    let y_image = g.pixels_out() * g.c_out;
    let chunks = shards.chunks(y, y_image, images).into_par_iter();
    let buffer = || shelf.empty_buffer(images * padded.values());
    chunks.for_each_init(buffer, |buffer, (first, y)| {
        let count = y.len() / y_image;
        let x = padded.fill(x, [first, count], buffer);
        let pixels = count * g.pixels_out();
        for (group, w) in weights.iter().enumerate() {
            let (x, y) = (&x[group * c..], &mut y[group * c_o..]);
            indirect_gemm((x, &rows[..pixels], &taps), w.all(), (y, &y_rows[..pixels]), false);
        }
        epilogue.apply(first * y_image, y);
    });
}

/// Images per chunk, for images with `pixels` each.
fn chunk_images(shards: &Shards, pixels: usize, epilogue: &dyn Epilogue) -> usize {
    (CHUNK_PIXELS / pixels).clamp(1, shards.longest().div_ceil(2).max(1)).next_multiple_of(epilogue.images())
}

/// dx, phase by phase.
pub fn input_gradient(
    shelf: &Shelf,
    shards: &Shards,
    g: &Geometry,
    dy: &dyn Prologue,
    weight: &Array4<f32>,
    dx: &mut [f32],
    epilogue: &dyn Epilogue,
) {
    let weight = weight.as_standard_layout();
    let weight = weight.as_slice().expect("contiguous");
    let images = chunk_images(shards, g.h * g.w, epilogue);
    let (c, c_o) = (g.c_in / g.groups, g.c_out / g.groups);
    let vertical = phases(g.h, g.h_out, g.kh, g.stride[0], g.padding[0], g.dilation[0]);
    let horizontal = phases(g.w, g.w_out, g.kw, g.stride[1], g.padding[1], g.dilation[1]);
    let padded = Padded {
        image: [g.h_out, g.w_out],
        before: [vertical.before, horizontal.before],
        size: [vertical.size, horizontal.size],
        channels: g.c_out,
    };
    struct Phase {
        rows: Vec<usize>,
        dx_rows: Vec<usize>,
        taps: Segments,
        weights: Vec<Panels>,
        /// Pixels of one image.
        pixels: usize,
    }
    let pairs = vertical.phases.iter().flat_map(|v| horizontal.phases.iter().map(move |h| (v, h)));
    let phases: Vec<Phase> = pairs
        .filter(|(v, h)| !v.taps.is_empty() && !h.taps.is_empty())
        .map(|(v, h)| {
            let taps: Vec<[(usize, usize); 2]> =
                v.taps.iter().flat_map(|&p| h.taps.iter().map(move |&q| [p, q])).collect();
            let offsets = taps.iter().map(|[(_, row), (_, column)]| padded.offset(*row, *column));
            let dx_row = |n: usize, i: usize, j: usize| {
                ((n * g.h + v.first + i * g.stride[0]) * g.w + h.first + j * g.stride[1]) * g.c_in
            };
            let pixels = (0..images).flat_map(|n| (0..v.count).flat_map(move |i| (0..h.count).map(move |j| (n, i, j))));
            Phase {
                rows: padded.starts(images, v.count, h.count, [1, 1]),
                dx_rows: pixels.map(|(n, i, j)| dx_row(n, i, j)).collect(),
                taps: Segments::new(1, offsets.map(|offset| Segment { offset, len: c_o })),
                // rows (tap, o), columns i
                weights: (0..g.groups)
                    .map(|group| {
                        let taps = taps.iter().map(|[(p, _), (q, _)]| p * g.kw + q);
                        let weight = &weight[group * c_o * g.taps()..];
                        pack_weight(shelf, weight, taps, [c_o, c], [g.taps(), g.kh * g.kw])
                    })
                    .collect(),
                pixels: v.count * h.count,
            }
        })
        .collect();
    // Pixels under no window, or only under windows without a tap there.
    let covered: usize = phases.iter().map(|phase| phase.pixels).sum();

    let x_image = g.h * g.w * g.c_in;
    let chunks = shards.chunks(dx, x_image, images).into_par_iter();
    let buffer = || shelf.empty_buffer(images * padded.values());
    chunks.for_each_init(buffer, |buffer, (first, dx)| {
        let count = dx.len() / x_image;
        let dy = padded.fill(dy, [first, count], buffer);
        if covered < g.h * g.w {
            dx.fill(0.0);
        }
        for phase in &phases {
            let pixels = count * phase.pixels;
            for (group, w) in phase.weights.iter().enumerate() {
                let (dy, dx) = (&dy[group * c_o..], &mut dx[group * c..]);
                indirect_gemm((dy, &phase.rows[..pixels], &phase.taps), w.all(), (dx, &phase.dx_rows[..pixels]), false);
            }
        }
        epilogue.apply(first * x_image, dx);
    });
}

/// dweight: dW = colsᵀ · dy, summed over leaves of the batch in a fixed tree.
pub fn weight_gradient(shelf: &Shelf, g: &Geometry, dy: &dyn Prologue, x: &dyn Prologue) -> Array4<f32> {
    let (products, c_o) = (Products::new(g), g.c_out / g.groups);
    let dw_rows: Vec<usize> = (0..DW_ROWS).map(|k| k * c_o).collect();
    let leaf = |index: usize| {
        let leaf = products.leaf(shelf, &(0..g.n), index, dy, x);
        let mut dw = shelf.buffer(g.groups * g.taps() * c_o);
        for (group, dw) in dw.chunks_exact_mut(g.taps() * c_o).enumerate() {
            // If there is only one leaf, the threads share its rows.
            dw.par_chunks_mut(DW_ROWS * c_o).zip(products.rows.par_chunks(DW_ROWS)).for_each(|(dw, rows)| {
                leaf.product(group, rows, 0..c_o, (dw, &dw_rows[..rows.len()]));
            });
        }
        dw
    };
    let add = |left: &mut Buffer, right: Buffer| wide_add(left, &right);
    let dw = tree_sum(g.n.div_ceil(products.images), &leaf, &add);
    dw.map_or_else(|| Array4::zeros((g.c_out, g.c_in / g.groups, g.kh, g.kw)), |dw| dweight(shelf, g, &dw))
}

/// dweight, summed over some shards in their tree, with the bits of [`weight_gradient`], but in blocks of dW: the sums of
/// all leaves of a block stay in the cache. `None` if that is of no use.
pub fn weight_gradient_in_blocks(
    shelf: &Shelf,
    g: &Geometry,
    shards: &[Range<usize>],
    dy: &dyn Prologue,
    x: &dyn Prologue,
) -> Option<Array4<f32>> {
    let (products, c_o) = (Products::new(g), g.c_out / g.groups);
    let leaves: Vec<usize> = shards.iter().map(|shard| shard.len().div_ceil(products.images)).collect();
    let images: usize = shards.iter().map(Range::len).sum();
    let values = images.saturating_mul(products.padded.values() + g.pixels_out() * g.c_out);
    if leaves.iter().sum::<usize>() < 2 || g.taps() * g.c_out < LARGE || values > AT_ONCE {
        return None;
    }
    let of_shard = |(shard, &leaves): (&Range<usize>, &usize)| -> Vec<Leaf> {
        (0..leaves).into_par_iter().map(|leaf| products.leaf(shelf, shard, leaf, dy, x)).collect()
    };
    let leaves: Vec<Vec<Leaf>> = shards.par_iter().zip(&leaves).map(of_shard).collect();

    let block = BLOCK_ROWS * BLOCK_COLUMNS;
    let beside_leaf = leaves.iter().map(|leaves| arrays_beside(leaves.len())).max().unwrap_or(0) * block;
    let blocks = beside_leaf + (1 + arrays_beside(shards.len())) * block;
    let mut dw = shelf.buffer(g.groups * g.taps() * c_o);
    for (group, dw) in dw.chunks_exact_mut(g.taps() * c_o).enumerate() {
        let parts = dw.par_chunks_mut(BLOCK_ROWS * c_o).zip(products.rows.par_chunks(BLOCK_ROWS));
        parts.for_each_init(
            || shelf.buffer(blocks),
            |blocks, (dw, rows)| {
                let (beside_leaf, of_shards) = blocks.split_at_mut(beside_leaf);
                for first in (0..c_o).step_by(BLOCK_COLUMNS) {
                    let columns = first..c_o.min(first + BLOCK_COLUMNS);
                    let block_rows: Vec<usize> = (0..rows.len()).map(|k| k * columns.len()).collect();
                    let mut of_shard = |shard: usize, block: &mut [f32]| {
                        let leaves = &leaves[shard];
                        let mut of_leaf = |leaf: usize, block: &mut [f32]| {
                            leaves[leaf].product(group, rows, columns.clone(), (block, &block_rows));
                        };
                        tree_sum_into(0..leaves.len(), &mut of_leaf, &wide_add, block, beside_leaf);
                    };
                    let (sum, others) = of_shards.split_at_mut(rows.len() * columns.len());
                    tree_sum_into(0..shards.len(), &mut of_shard, &wide_add, sum, others);
                    for (dw, sum) in dw.chunks_exact_mut(c_o).zip(sum.chunks_exact(columns.len())) {
                        dw[columns.clone()].copy_from_slice(sum);
                    }
                }
            },
        );
    }
    Some(dweight(shelf, g, &dw))
}

/// The products dW = colsᵀ · dy of the leaves of a batch.
struct Products<'a> {
    g: &'a Geometry,
    /// Images per leaf.
    images: usize,
    padded: Padded,
    /// Row (tap, i) of colsᵀ begins at the tap's input channel i of the first window.
    rows: Vec<usize>,
}

impl<'a> Products<'a> {
    fn new(g: &'a Geometry) -> Self {
        let padded = Padded::input(g);
        let rows = padded.taps(g).flat_map(|tap| (0..g.c_in / g.groups).map(move |i| tap + i)).collect();
        Products { g, images: (LEAF_PIXELS / g.pixels_out()).max(1), rows, padded }
    }

    /// The operands of leaf `index` of a shard.
    fn leaf<'x>(
        &self,
        shelf: &Shelf,
        shard: &Range<usize>,
        index: usize,
        dy: &dyn Prologue,
        x: &'x dyn Prologue,
    ) -> Leaf<'x> {
        let (g, c, c_o) = (self.g, self.g.c_in / self.g.groups, self.g.c_out / self.g.groups);
        let start = shard.start + index * self.images;
        let images = [start, self.images.min(shard.end - start)];
        let dy_padded = Padded::none([g.h_out, g.w_out], g.c_out);
        let dy = dy_padded.filled(dy, images, shelf);
        let pack = |group: usize| {
            let mut panels = Panels::empty(shelf);
            panels.repack(shelf, images[1] * g.pixels_out(), c_o, |pixel, first, out| {
                out.copy_from_slice(&dy[pixel * g.c_out + group * c_o + first..][..out.len()]);
            });
            panels
        };
        let panels = (0..g.groups).map(pack).collect();
        // A row of colsᵀ continues from window to window.
        let starts = self.padded.starts(images[1], g.h_out, 1, g.stride).into_iter();
        let windows = Segments::new(g.stride[1] * g.c_in, starts.map(|offset| Segment { offset, len: g.w_out }));
        Leaf { x: self.padded.filled(x, images, shelf), windows, panels, c }
    }
}

/// The operands of a product: a few images of x, and dy of them for each group.
struct Leaf<'x> {
    x: Filled<'x>,
    windows: Segments,
    panels: Vec<Panels>,
    /// Input channels of a group.
    c: usize,
}

impl Leaf<'_> {
    /// Some rows and columns of a group's dW.
    fn product(&self, group: usize, rows: &[usize], columns: Range<usize>, dw: (&mut [f32], &[usize])) {
        let x = &self.x[group * self.c..];
        indirect_gemm((x, rows, &self.windows), self.panels[group].columns(columns), dw, false);
    }
}

/// From (group, tap, i, o) to (group · o, i, tap): 16 output channels at a time.
fn dweight(shelf: &Shelf, g: &Geometry, dw: &[f32]) -> Array4<f32> {
    let (c, c_o) = (g.c_in / g.groups, g.c_out / g.groups);
    let mut dweight = shelf.dirty_array((g.c_out, c, g.kh, g.kw));
    let values = dweight.as_slice_mut().expect("contiguous");
    for (dw, dweight) in dw.chunks_exact(g.taps() * c_o).zip(values.chunks_exact_mut(c_o * g.taps())) {
        dweight.par_chunks_mut(NR * g.taps()).enumerate().for_each(|(panel, dweight)| {
            let kernel = g.kh * g.kw;
            for (k, row) in dw.chunks_exact(c_o).enumerate() {
                let to = k % c * kernel + k / c;
                let columns = dweight[to..].iter_mut().step_by(g.taps());
                columns.zip(&row[panel * NR..]).for_each(|(to, &from)| *to = from);
            }
        });
    }
    dweight
}

/// Rows (tap, o) and columns i of one group's weight, or rows (tap, i) and columns o: `strides` are the distances in
/// the weight between neighbouring channels of a row and between neighbouring columns; `taps` are the indices of the
/// taps.
fn pack_weight(
    shelf: &Shelf,
    weight: &[f32],
    taps: impl Iterator<Item = usize> + Clone + Sync,
    [channels, columns]: [usize; 2],
    [row_stride, column_stride]: [usize; 2],
) -> Panels {
    let k = taps.clone().count() * channels;
    // Transposed in blocks of about a square: source and destination of a block stay in the cache.
    const ROWS: usize = 64;
    Panels::pack(shelf, k, columns, |columns, panel| {
        for (tap, rows) in taps.clone().zip(panel.chunks_exact_mut(channels * NR)) {
            for (square, rows) in rows.chunks_mut(ROWS * NR).enumerate() {
                for (lane, column) in columns.clone().enumerate() {
                    let first = column * column_stride + square * ROWS * row_stride + tap;
                    let weight = weight[first..].iter().step_by(row_stride);
                    rows[lane..].iter_mut().step_by(NR).zip(weight).for_each(|(to, &from)| *to = from);
                }
            }
        }
    })
}

/// The phases of dx along one axis.
struct AxisPhases {
    /// Zeros before dy, and the length of dy with zeros on both sides.
    before: usize,
    size: usize,
    phases: Vec<AxisPhase>,
}

/// The input pixels `first, first + stride, …` (`count` of them): pixel i receives, through each tap (p, shift), the
/// value at position i + shift of the padded dy.
struct AxisPhase {
    first: usize,
    count: usize,
    taps: Vec<(usize, usize)>,
}

fn phases(input: usize, output: usize, kernel: usize, stride: usize, padding: usize, dilation: usize) -> AxisPhases {
    let (stride_i, output_i) = (stride as isize, output as isize);
    // h = first + i·stride receives through tap p from ho = i + (first + padding − p·dilation) / stride, if that is an
    // integer.
    let taps_of = |first: usize| -> Vec<(usize, isize)> {
        let distance = |p: usize| first as isize + padding as isize - (p * dilation) as isize;
        let whole = (0..kernel).filter(|&p| distance(p).rem_euclid(stride_i) == 0);
        whole.map(|p| (p, distance(p) / stride_i)).collect()
    };
    let firsts: Vec<usize> = (0..stride.min(input)).collect();
    let count = |first: usize| (input - first).div_ceil(stride);
    let (mut lowest, mut highest) = (0, output_i - 1);
    for &first in &firsts {
        for (_, shift) in taps_of(first) {
            lowest = lowest.min(shift);
            highest = highest.max(count(first) as isize - 1 + shift);
        }
    }
    let before = lowest.unsigned_abs();
    let phase = |first: usize| AxisPhase {
        first,
        count: count(first),
        taps: taps_of(first).into_iter().map(|(p, shift)| (p, (shift - lowest) as usize)).collect(),
    };
    AxisPhases { before, size: (highest - lowest + 1) as usize, phases: firsts.into_iter().map(phase).collect() }
}
