//! Exercise 9: a convolution as one matrix product. Chapter 8, docs/conv2d.md.
//!
//! ```text
//! x (N, H, W, C_in)      P = N·H_out·W_out output pixels, K = kh·kw·C_in values under the kernel
//!
//! cols (P, K)            row (n·H_out + ho)·W_out + wo, column (p·kw + q)·C_in + i:
//!                        x[n, ho·stride + p − padding, wo·stride + q − padding, i], 0 outside the picture
//! W (K, C_out)           the weight (C_out, C_in, kh, kw) with its axes in the order of the columns
//!
//! y = cols · W           dcols = dy · Wᵀ           dx = col2im(dcols)
//! ```
//!
//! col2im is the backward pass of im2col: im2col copies a pixel to several places, col2im adds these places.

use ndarray::{Array2, Array4};

/// The picture and the kernel of a convolution.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c_in: usize,
    pub kh: usize,
    pub kw: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Sizes {
    pub fn h_out(&self) -> usize {
        (self.h + 2 * self.padding - self.kh) / self.stride + 1
    }

    pub fn w_out(&self) -> usize {
        (self.w + 2 * self.padding - self.kw) / self.stride + 1
    }
}

/// The row (or column) of x that tap p of output row `out` reads, in a picture of `size` rows; `None` outside the picture.
pub fn pixel(out: usize, p: usize, stride: usize, padding: usize, size: usize) -> Option<usize> {
    (out * stride + p).checked_sub(padding).filter(|&at| at < size)
}

/// cols (P, K)
pub fn im2col(x: &Array4<f64>, s: Sizes) -> Array2<f64> {
    // <solution>
    Array2::from_shape_fn((s.n * s.h_out() * s.w_out(), s.kh * s.kw * s.c_in), |(row, column)| {
        let (n, ho, wo) = (row / s.w_out() / s.h_out(), row / s.w_out() % s.h_out(), row % s.w_out());
        let (p, q, i) = (column / s.c_in / s.kw, column / s.c_in % s.kw, column % s.c_in);
        let at = (pixel(ho, p, s.stride, s.padding, s.h), pixel(wo, q, s.stride, s.padding, s.w));
        if let (Some(h), Some(w)) = at { x[[n, h, w, i]] } else { 0.0 }
    })
    // </solution>
}

/// W (K, C_out)
pub fn as_matrix(weight: &Array4<f64>) -> Array2<f64> {
    let (c_out, c_in, kh, kw) = weight.dim();
    // <solution>
    Array2::from_shape_fn((kh * kw * c_in, c_out), |(row, o)| weight[[o, row % c_in, row / c_in / kw, row / c_in % kw]])
    // </solution>
}

/// dx (N, H, W, C_in)
pub fn col2im(dcols: &Array2<f64>, s: Sizes) -> Array4<f64> {
    let mut dx = Array4::<f64>::zeros((s.n, s.h, s.w, s.c_in));
    // <solution>
    for ((row, column), &dcol) in dcols.indexed_iter() {
        let (n, ho, wo) = (row / s.w_out() / s.h_out(), row / s.w_out() % s.h_out(), row % s.w_out());
        let (p, q, i) = (column / s.c_in / s.kw, column / s.c_in % s.kw, column % s.c_in);
        let at = (pixel(ho, p, s.stride, s.padding, s.h), pixel(wo, q, s.stride, s.padding, s.w));
        if let (Some(h), Some(w)) = at {
            dx[[n, h, w, i]] += dcol;
        }
    }
    dx
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// A picture of one row and three columns, a kernel of one row and two: two windows.
    #[test]
    fn by_hand() {
        let s = Sizes { n: 1, h: 1, w: 3, c_in: 1, kh: 1, kw: 2, stride: 1, padding: 0 };
        let x = Array4::from_shape_vec((1, 1, 3, 1), vec![1.0, 2.0, 3.0]).unwrap();
        assert_eq!(im2col(&x, s), array![[1.0, 2.0], [2.0, 3.0]]);
        assert_eq!(col2im(&array![[1.0, 10.0], [100.0, 1000.0]], s).into_raw_vec_and_offset().0, [1.0, 110.0, 1000.0]);
    }
}
