//! The matrices of a convolution, for every geometry.
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
//! Because the channels are last, one tap's c inputs are contiguous in x and in `cols`: im2col makes kh·kw copies per
//! pixel. The batch is split into chunks of a few images by the geometry alone; `cols` exists for one chunk per thread
//! at a time, never for the whole batch.

use super::Geometry;
use crate::parallel::add_slices;
use crate::{Activation, Scalar};
use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use std::ops::Range;

/// This many output pixels make a GEMM tall enough to be efficient; with more, `cols` would not fit into the caches.
const CHUNK_PIXELS: usize = 1024;

impl Geometry {
    /// Images per chunk: together they have about [`CHUNK_PIXELS`] output pixels.
    fn images_per_chunk(&self) -> usize {
        (CHUNK_PIXELS / self.pixels_out()).clamp(1, self.n.max(1))
    }

    /// Number of chunks of the batch; the last may be shorter.
    pub fn chunks(&self) -> usize {
        self.n.div_ceil(self.images_per_chunk())
    }

    /// The values of chunk `index` of an array `(N, …)`.
    pub fn chunk<'a, T: Scalar>(&self, array: &'a Activation<T>, index: usize) -> &'a [T] {
        let values = array.as_slice().expect("contiguous");
        let chunk = self.images_per_chunk() * values.len() / self.n;
        &values[index * chunk..values.len().min((index + 1) * chunk)]
    }

    /// Calls `write(chunk of out, chunk of array)` for every chunk, in parallel.
    pub fn for_each_chunk<T: Scalar>(
        &self,
        out: &mut Array4<T>,
        array: &Activation<T>,
        write: impl Fn(&mut [T], &[T]) + Sync,
    ) {
        let chunk = self.images_per_chunk() * out.len() / self.n.max(1);
        let out = out.as_slice_mut().expect("contiguous").par_chunks_mut(chunk.max(1)).enumerate();
        out.for_each(|(index, out)| write(out, self.chunk(array, index)));
    }
}

/// The images `values (n, h, w, channels)` as a matrix `(P, channels)` of their pixels.
pub(crate) fn as_pixels<T: Scalar>(values: &[T], channels: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((values.len() / channels, channels), values).expect("a whole number of pixels")
}

/// [`as_pixels`], mutable.
pub(crate) fn as_pixels_mut<T: Scalar>(values: &mut [T], channels: usize) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((values.len() / channels, channels), values).expect("a whole number of pixels")
}

/// The channels `0..total` that belong to `group`.
pub(crate) fn channels(total: usize, groups: usize, group: usize) -> Range<usize> {
    group * (total / groups)..(group + 1) * (total / groups)
}

/// W of every group, `(groups, K, c_o)`: weight[o, i, p, q] is at row (p·kw + q)·c + i, column o.
pub(crate) fn weight_matrices<T: Scalar>(g: &Geometry, weight: &Array4<T>) -> Array3<T> {
    let (c, c_o) = (g.c_in / g.groups, g.c_out / g.groups);
    let weight = weight.to_shape((g.groups, c_o, c, g.kh, g.kw)).expect("C_out = groups c_o");
    let weight = weight.view().permuted_axes([0, 3, 4, 2, 1]);
    weight.as_standard_layout().into_owned().into_shape_with_order((g.groups, g.taps(), c_o)).expect("K = kh kw c")
}

/// The inverse of [`weight_matrices`].
pub(crate) fn weight_of_matrices<T: Scalar>(g: &Geometry, w: Array3<T>) -> Array4<T> {
    let (c, c_o) = (g.c_in / g.groups, g.c_out / g.groups);
    let w = w.into_shape_with_order((g.groups, g.kh, g.kw, c, c_o)).expect("K = kh kw c");
    let weight = w.permuted_axes([0, 4, 3, 1, 2]).as_standard_layout().into_owned();
    weight.into_shape_with_order((g.c_out, c, g.kh, g.kw)).expect("C_out = groups c_o")
}

/// `cols (P, K)` of the images in `x` for one group.
pub(crate) fn im2col<T: Scalar>(g: &Geometry, x: &[T], group: usize) -> Array2<T> {
    let c = g.c_in / g.groups;
    let images = x.len() / (g.h * g.w * g.c_in);
    // Taps in the padding stay 0.
    let mut cols = Array2::zeros((images * g.pixels_out(), g.taps()));
    let values = cols.as_slice_mut().expect("contiguous");
    for_each_tap(g, images, group, |tap, source| {
        if let Some(source) = source {
            values[tap..tap + c].copy_from_slice(&x[source..source + c]);
        }
    });
    cols
}

/// The transpose of [`im2col`]: adds every entry of `dcols` to the pixel it was copied from.
pub(crate) fn col2im<T: Scalar>(g: &Geometry, dcols: &Array2<T>, group: usize, dx: &mut [T]) {
    let c = g.c_in / g.groups;
    let images = dx.len() / (g.h * g.w * g.c_in);
    let dcols = dcols.as_standard_layout();
    let dcols = dcols.as_slice().expect("contiguous");
    for_each_tap(g, images, group, |tap, source| {
        if let Some(source) = source {
            add_slices(&mut dx[source..source + c], &dcols[tap..tap + c]);
        }
    });
}

/// Calls `visit(offset in cols, offset in x)` for every C_in/groups values that im2col copies at once, in the order of
/// `cols`; the offset in x is `None` if the tap is in the padding.
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
                        let source = match (row, column) {
                            (Some(h), Some(w)) => Some(((n * g.h + h) * g.w + w) * g.c_in + group * c),
                            _ => None,
                        };
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
                let cols: Array2<f64> = im2col(&g, &x, group);
                let p = Array2::from_shape_fn(cols.dim(), |(i, j)| ((i * 13 + j * 7) % 11) as f64 - 5.0);
                let mut dx = vec![0.0; x.len()];
                col2im(&g, &p, group, &mut dx);
                let left: f64 = (&cols * &p).sum();
                let right: f64 = x.iter().zip(&dx).map(|(a, b)| a * b).sum();
                assert_eq!(left, right);
                assert_ne!(left, 0.0);
            }
        }
    }
}
