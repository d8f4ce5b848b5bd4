//! Convolution as matrix multiplication, for every geometry.
//!
//! ```text
//! cols (P, K)    the K = kh·kw·c inputs under the kernel, for each of P output pixels; c = C_in/groups
//! W    (K, c_o)  weight[o, i, p, q] at row (p·kw + q)·c + i, column o;                 c_o = C_out/groups
//!
//! y     (P, c_o) = cols (P, K)  · W (K, c_o)
//! dW    (K, c_o) = colsᵀ (K, P) · dy (P, c_o)
//! dcols (P, K)   = dy (P, c_o)  · Wᵀ (c_o, K)        dx = col2im(dcols)
//! ```
//!
//! Because the channels are last, one tap's c inputs are contiguous in x and in `cols`: im2col is kh·kw copies a pixel.
//! The batch is cut into pieces of a few images ([`images_per_piece`], from the geometry alone); `cols` exists for one
//! piece per thread at a time, never for the batch. A 1x1 convolution with stride 1 and no padding needs no `cols`: x
//! itself is that matrix.

use super::frame::{Finish, Frame, Source};
use super::Geometry;
use crate::gemm::gemm;
use crate::parallel::{add_slices, tree_sum};
use crate::Scalar;
use ndarray::{s, Array3, Array4, ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

/// Output pixels that make a GEMM tall enough to be efficient; more would push `cols` out of the caches.
const PIECE_PIXELS: usize = 1024;

/// Images per piece of the forward pass and of dx: as many as have about [`PIECE_PIXELS`] output pixels.
fn images_per_piece(g: &Geometry) -> usize {
    (PIECE_PIXELS / g.pixels_out()).clamp(1, g.n.max(1))
}

/// Pieces whose dW is accumulated into one array before the fixed tree takes over: fewer, larger terms in the sum keep
/// the memory for partial sums small where the weight is large.
const PIECES_PER_SUM: usize = 4;

/// y without the bias.
pub fn forward<T: Scalar>(g: &Geometry, x: &dyn Source<T>, weight: &Array4<T>, y: &mut [T], finish: &dyn Finish<T>) {
    let matrices = weight_matrices(g, weight);
    let (images, frame) = (images_per_piece(g).next_multiple_of(finish.images()), Frame::none([g.h, g.w], g.c_in));
    let y_image = g.pixels_out() * g.c_out;
    let pieces = y.par_chunks_mut((images * y_image).max(1)).enumerate();
    pieces.for_each_init(Default::default, |(cols, buffer): &mut (Vec<T>, Vec<T>), (piece, numbers)| {
        let x = frame.fill(x, [piece * images, numbers.len() / y_image], buffer);
        let pixels = numbers.len() / g.c_out;
        let mut y = ArrayViewMut2::from_shape((pixels, g.c_out), &mut *numbers).expect("a whole number of pixels");
        for (group, w) in matrices.outer_iter().enumerate() {
            let cols = im2col(g, x, group, cols);
            // y (P, c_o) = cols (P, K) · W (K, c_o)
            gemm(T::one(), cols, w, T::zero(), y.slice_mut(s![.., channels(g.c_out, g.groups, group)]));
        }
        finish.piece(piece * images * y_image, numbers);
    });
}

/// dx: dcols = dy · Wᵀ, then col2im.
pub fn input_gradient<T: Scalar>(
    g: &Geometry,
    dy: &dyn Source<T>,
    weight: &Array4<T>,
    dx: &mut [T],
    finish: &dyn Finish<T>,
) {
    let matrices = weight_matrices(g, weight);
    let images = images_per_piece(g).next_multiple_of(finish.images());
    let (frame, x_image) = (Frame::none([g.h_out, g.w_out], g.c_out), g.h * g.w * g.c_in);
    let pieces = dx.par_chunks_mut((images * x_image).max(1)).enumerate();
    pieces.for_each_init(Default::default, |(dcols, buffer): &mut (Vec<T>, Vec<T>), (piece, dx)| {
        dx.fill(T::zero());
        let dy = frame.fill(dy, [piece * images, dx.len() / x_image], buffer);
        let dy = ArrayView2::from_shape((dy.len() / g.c_out, g.c_out), dy).expect("a whole number of pixels");
        for (group, w) in matrices.outer_iter().enumerate() {
            let dy = dy.slice(s![.., channels(g.c_out, g.groups, group)]);
            // dcols (P, K) = dy (P, c_o) · Wᵀ (c_o, K)
            dcols.resize(dy.nrows() * g.taps(), T::zero());
            let mut matrix = ArrayViewMut2::from_shape((dy.nrows(), g.taps()), dcols).expect("P x K");
            gemm(T::one(), dy, w.t(), T::zero(), matrix.view_mut());
            col2im(g, dcols, group, dx);
        }
        finish.piece(piece * images * x_image, dx);
    });
}

/// dweight: dW = colsᵀ · dy, summed over the pieces in a fixed tree.
pub fn weight_gradient<T: Scalar>(g: &Geometry, dy: &dyn Source<T>, x: &dyn Source<T>) -> Array4<T> {
    let images = images_per_piece(g);
    let (x_frame, dy_frame) = (Frame::none([g.h, g.w], g.c_in), Frame::none([g.h_out, g.w_out], g.c_out));
    let shape = (g.groups, g.taps(), g.c_out / g.groups);

    let group_of_pieces = |index: usize| {
        let (mut dw, mut cols) = (Array3::zeros(shape), Vec::new());
        let (mut x_buffer, mut dy_buffer) = (Vec::new(), Vec::new());
        let first = index * PIECES_PER_SUM * images;
        for start in (first..g.n.min(first + PIECES_PER_SUM * images)).step_by(images) {
            let piece = [start, images.min(g.n - start)];
            let (x, dy) = (x_frame.fill(x, piece, &mut x_buffer), dy_frame.fill(dy, piece, &mut dy_buffer));
            let dy = ArrayView2::from_shape((dy.len() / g.c_out, g.c_out), dy).expect("a whole number of pixels");
            for (group, dw) in dw.outer_iter_mut().enumerate() {
                let cols = im2col(g, x, group, &mut cols);
                // dW (K, c_o) += colsᵀ (K, P) · dy (P, c_o)
                gemm(T::one(), cols.t(), dy.slice(s![.., channels(g.c_out, g.groups, group)]), T::one(), dw);
            }
        }
        dw
    };
    let add = |left: &mut Array3<T>, right: Array3<T>| {
        add_slices(left.as_slice_mut().expect("contiguous"), right.as_slice().expect("contiguous"));
    };
    let dw = tree_sum(g.n.div_ceil(PIECES_PER_SUM * images), &group_of_pieces, &add);
    // (groups, (p, q, i), o) back to (groups · o, i, p, q)
    let dw = dw.unwrap_or_else(|| Array3::zeros(shape));
    let (c, c_o) = (g.c_in / g.groups, g.c_out / g.groups);
    let dw = dw.into_shape_with_order((g.groups, g.kh, g.kw, c, c_o)).expect("K = kh kw c");
    let dweight = dw.permuted_axes([0, 4, 3, 1, 2]);
    let dweight = dweight.as_standard_layout().into_owned();
    dweight.into_shape_with_order((g.c_out, c, g.kh, g.kw)).expect("C_out = groups c_o")
}

/// The channels `0..total` that belong to `group`.
pub(crate) fn channels(total: usize, groups: usize, group: usize) -> std::ops::Range<usize> {
    group * (total / groups)..(group + 1) * (total / groups)
}

/// W of every group, `(groups, K, c_o)`: weight[o, i, p, q] to row (p·kw + q)·c + i, column o.
pub(crate) fn weight_matrices<T: Scalar>(g: &Geometry, weight: &Array4<T>) -> Array3<T> {
    let (c, c_o) = (g.c_in / g.groups, g.c_out / g.groups);
    let weight = weight.to_shape((g.groups, c_o, c, g.kh, g.kw)).expect("C_out = groups c_o");
    let weight = weight.view().permuted_axes([0, 3, 4, 2, 1]);
    weight.as_standard_layout().into_owned().into_shape_with_order((g.groups, g.taps(), c_o)).expect("K = kh kw c")
}

/// `cols` of the images in `x` for one group: a view of x where x already is that matrix, else of `buffer`.
fn im2col<'a, T: Scalar>(g: &Geometry, x: &'a [T], group: usize, buffer: &'a mut Vec<T>) -> ArrayView2<'a, T> {
    let images = x.len() / (g.h * g.w * g.c_in);
    let is_matrix = (g.kh, g.kw) == (1, 1) && g.stride == [1, 1] && g.padding == [0, 0];
    if is_matrix {
        let x = ArrayView2::from_shape((images * g.h * g.w, g.c_in), x).expect("(N H W, C_in)");
        return x.slice_move(s![.., channels(g.c_in, g.groups, group)]);
    }
    let c = g.c_in / g.groups;
    buffer.resize(images * g.pixels_out() * g.taps(), T::zero());
    for_each_tap(g, images, group, |tap, source| {
        let tap = &mut buffer[tap..tap + c];
        match source {
            Some(source) => tap.copy_from_slice(&x[source..source + c]),
            None => tap.fill(T::zero()),
        }
    });
    ArrayView2::from_shape((images * g.pixels_out(), g.taps()), buffer).expect("P x K")
}

/// The transpose of [`im2col`]: adds every entry of `dcols` to the pixel it was copied from.
fn col2im<T: Scalar>(g: &Geometry, dcols: &[T], group: usize, dx: &mut [T]) {
    let c = g.c_in / g.groups;
    let images = dx.len() / (g.h * g.w * g.c_in);
    for_each_tap(g, images, group, |tap, source| {
        if let Some(source) = source {
            add_slices(&mut dx[source..source + c], &dcols[tap..tap + c]);
        }
    });
}

/// Calls `visit(offset in cols, offset in x)` for every run of C_in/groups numbers that im2col copies, in the order of
/// `cols`; the offset in x is `None` where the tap falls into the padding.
pub(crate) fn for_each_tap(g: &Geometry, images: usize, group: usize, mut visit: impl FnMut(usize, Option<usize>)) {
    let c = g.c_in / g.groups;
    // The pixel under tap `k` of window `o`, or None outside the image.
    let pixel = |axis: usize, size: usize, o: usize, k: usize| {
        (o * g.stride[axis] + k * g.dilation[axis]).checked_sub(g.padding[axis]).filter(|&i| i < size)
    };
    let mut tap = 0;
    for n in 0..images {
        for ho in 0..g.h_out {
            for wo in 0..g.w_out {
                for p in 0..g.kh {
                    let row = pixel(0, g.h, ho, p);
                    for q in 0..g.kw {
                        let column = pixel(1, g.w, wo, q);
                        let source = row.zip(column).map(|(h, w)| ((n * g.h + h) * g.w + w) * g.c_in + group * c);
                        visit(tap, source);
                        tap += c;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    /// ⟨im2col x, p⟩ = ⟨x, col2im p⟩ for whole numbers, exactly: col2im is the adjoint of im2col.
    #[test]
    fn col2im_is_the_adjoint_of_im2col() {
        let (stride, padding, dilation) = ([2, 1], [1, 2], [1, 2]);
        let (n, h, w, c_in, kh, kw) = (2, 7, 6, 6, 3, 2);
        let (h_out, w_out) = (4, 8);
        for groups in [1, 2, 3] {
            let g = Geometry { n, h, w, c_in, c_out: 6, kh, kw, h_out, w_out, stride, padding, dilation, groups };
            let x: Vec<f64> = (0..n * h * w * c_in).map(|i| (i * 31 % 17) as f64 - 8.0).collect();
            for group in 0..groups {
                let mut buffer = Vec::new();
                let cols: Array2<f64> = im2col(&g, &x, group, &mut buffer).to_owned();
                let p = Array2::from_shape_fn(cols.dim(), |(i, j)| ((i * 13 + j * 7) % 11) as f64 - 5.0);
                let mut dx = vec![0.0; x.len()];
                col2im(&g, p.as_slice().unwrap(), group, &mut dx);
                let left: f64 = (&cols * &p).sum();
                let right: f64 = x.iter().zip(&dx).map(|(a, b)| a * b).sum();
                assert_eq!(left, right);
                assert_ne!(left, 0.0);
            }
        }
    }
}
