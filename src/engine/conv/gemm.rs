//! Convolution as matrix multiplication with `cols`, for every geometry: the equations of `layers/conv2d/im2col.rs`,
//! with reused buffers and with prologues and epilogues.
//!
//! A shard is split into chunks of a few images ([`images_per_chunk`], by its shape alone); `cols` exists for one
//! chunk per thread at a time, never for the whole batch. A 1x1 convolution with stride 1 and no padding needs no
//! `cols`: x itself is that matrix.

use super::Geometry;
use super::operands::{Epilogue, Prologue};
use super::padded::Padded;
use crate::gemm::gemm;
use crate::layers::conv2d::im2col::{channels, for_each_tap, weight_matrices};
use crate::parallel::{add_slices, tree_sum};
use crate::shards::Shards;
use ndarray::{Array3, Array4, ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;

/// This many output pixels make a GEMM tall enough to be efficient; with more, `cols` would not fit into the caches.
const CHUNK_PIXELS: usize = 1024;

/// Images per chunk of a shard of `images`: together they have about [`CHUNK_PIXELS`] output pixels.
fn images_per_chunk(g: &Geometry, images: usize) -> usize {
    (CHUNK_PIXELS / g.pixels_out()).clamp(1, images.max(1))
}

/// The dW of this many chunks is accumulated into one array; the fixed tree adds these arrays. Fewer, larger terms need
/// less memory for partial sums if the weight is large.
const CHUNKS_PER_LEAF: usize = 4;

/// y without the bias.
pub fn forward(
    shards: &Shards,
    g: &Geometry,
    x: &dyn Prologue,
    weight: &Array4<f32>,
    y: &mut [f32],
    epilogue: &dyn Epilogue,
) {
    let matrices = weight_matrices(g, weight);
    let images = images_per_chunk(g, shards.longest()).next_multiple_of(epilogue.images());
    let (padded, y_image) = (Padded::none([g.h, g.w], g.c_in), g.pixels_out() * g.c_out);
    let chunks = shards.chunks(y, y_image, images).into_par_iter();
    chunks.for_each_init(Default::default, |(cols, buffer): &mut (Vec<f32>, Vec<f32>), (first, values)| {
        let x = padded.fill(x, [first, values.len() / y_image], buffer);
        let pixels = values.len() / g.c_out;
        let mut y = ArrayViewMut2::from_shape((pixels, g.c_out), &mut *values).expect("a whole number of pixels");
        for (group, w) in matrices.outer_iter().enumerate() {
            let cols = im2col(g, x, group, cols);
            // y (P, c_o) = cols (P, K) · W (K, c_o)
            gemm(1.0, cols, w, 0.0, y.slice_mut(s![.., channels(g.c_out, g.groups, group)]));
        }
        epilogue.apply(first * y_image, values);
    });
}

/// dx: dcols = dy · Wᵀ, then col2im.
pub fn input_gradient(
    shards: &Shards,
    g: &Geometry,
    dy: &dyn Prologue,
    weight: &Array4<f32>,
    dx: &mut [f32],
    epilogue: &dyn Epilogue,
) {
    let matrices = weight_matrices(g, weight);
    let images = images_per_chunk(g, shards.longest()).next_multiple_of(epilogue.images());
    let (padded, x_image) = (Padded::none([g.h_out, g.w_out], g.c_out), g.h * g.w * g.c_in);
    let chunks = shards.chunks(dx, x_image, images).into_par_iter();
    chunks.for_each_init(Default::default, |(dcols, buffer): &mut (Vec<f32>, Vec<f32>), (first, dx)| {
        dx.fill(0.0);
        let dy = padded.fill(dy, [first, dx.len() / x_image], buffer);
        let dy = ArrayView2::from_shape((dy.len() / g.c_out, g.c_out), dy).expect("a whole number of pixels");
        for (group, w) in matrices.outer_iter().enumerate() {
            let dy = dy.slice(s![.., channels(g.c_out, g.groups, group)]);
            // dcols (P, K) = dy (P, c_o) · Wᵀ (c_o, K)
            dcols.resize(dy.nrows() * g.taps(), 0.0);
            let mut matrix = ArrayViewMut2::from_shape((dy.nrows(), g.taps()), dcols).expect("P x K");
            gemm(1.0, dy, w.t(), 0.0, matrix.view_mut());
            col2im(g, dcols, group, dx);
        }
        epilogue.apply(first * x_image, dx);
    });
}

/// dweight: dW = colsᵀ · dy, summed over the chunks in a fixed tree.
pub fn weight_gradient(g: &Geometry, dy: &dyn Prologue, x: &dyn Prologue) -> Array4<f32> {
    let images = images_per_chunk(g, g.n);
    let (x_padded, dy_padded) = (Padded::none([g.h, g.w], g.c_in), Padded::none([g.h_out, g.w_out], g.c_out));
    let shape = (g.groups, g.taps(), g.c_out / g.groups);

    let leaf = |index: usize| {
        let (mut dw, mut cols) = (Array3::zeros(shape), Vec::new());
        let (mut x_buffer, mut dy_buffer) = (Vec::new(), Vec::new());
        let first = index * CHUNKS_PER_LEAF * images;
        for start in (first..g.n.min(first + CHUNKS_PER_LEAF * images)).step_by(images) {
            let chunk = [start, images.min(g.n - start)];
            let (x, dy) = (x_padded.fill(x, chunk, &mut x_buffer), dy_padded.fill(dy, chunk, &mut dy_buffer));
            let dy = ArrayView2::from_shape((dy.len() / g.c_out, g.c_out), dy).expect("a whole number of pixels");
            for (group, dw) in dw.outer_iter_mut().enumerate() {
                let cols = im2col(g, x, group, &mut cols);
                // dW (K, c_o) += colsᵀ (K, P) · dy (P, c_o)
                gemm(1.0, cols.t(), dy.slice(s![.., channels(g.c_out, g.groups, group)]), 1.0, dw);
            }
        }
        dw
    };
    let add = |left: &mut Array3<f32>, right: Array3<f32>| {
        add_slices(left.as_slice_mut().expect("contiguous"), right.as_slice().expect("contiguous"));
    };
    let dw = tree_sum(g.n.div_ceil(CHUNKS_PER_LEAF * images), &leaf, &add);
    // (groups, (p, q, i), o) back to (groups · o, i, p, q)
    let dw = dw.unwrap_or_else(|| Array3::zeros(shape));
    let (c, c_o) = (g.c_in / g.groups, g.c_out / g.groups);
    let dw = dw.into_shape_with_order((g.groups, g.kh, g.kw, c, c_o)).expect("K = kh kw c");
    let dweight = dw.permuted_axes([0, 4, 3, 1, 2]);
    let dweight = dweight.as_standard_layout().into_owned();
    dweight.into_shape_with_order((g.c_out, c, g.kh, g.kw)).expect("C_out = groups c_o")
}

/// `cols` of the images in `x` for one group: a view of x if x already is that matrix, otherwise of `buffer`.
fn im2col<'a>(g: &Geometry, x: &'a [f32], group: usize, buffer: &'a mut Vec<f32>) -> ArrayView2<'a, f32> {
    let images = x.len() / (g.h * g.w * g.c_in);
    let is_matrix = (g.kh, g.kw) == (1, 1) && g.stride == [1, 1] && g.padding == [0, 0];
    if is_matrix {
        let x = ArrayView2::from_shape((images * g.h * g.w, g.c_in), x).expect("(N H W, C_in)");
        return x.slice_move(s![.., channels(g.c_in, g.groups, group)]);
    }
    let c = g.c_in / g.groups;
    buffer.resize(images * g.pixels_out() * g.taps(), 0.0);
    for_each_tap(g, images, group, |tap, source| {
        let tap = &mut buffer[tap..tap + c];
        match source {
            Some(source) => tap.copy_from_slice(&x[source..source + c]),
            None => tap.fill(0.0),
        }
    });
    ArrayView2::from_shape((images * g.pixels_out(), g.taps()), buffer).expect("P x K")
}

/// The transpose of [`im2col`]: adds every entry of `dcols` to the pixel it was copied from.
fn col2im(g: &Geometry, dcols: &[f32], group: usize, dx: &mut [f32]) {
    let c = g.c_in / g.groups;
    let images = dx.len() / (g.h * g.w * g.c_in);
    for_each_tap(g, images, group, |tap, source| {
        if let Some(source) = source {
            add_slices(&mut dx[source..source + c], &dcols[tap..tap + c]);
        }
    });
}
