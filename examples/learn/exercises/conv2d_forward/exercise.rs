//! Exercise 6: the sums of a convolution. Chapter 8, docs/conv2d.md.
//!
//! ```text
//! x       (N, H, W, C_in)            weight (C_out, C_in, kh, kw)            bias (C_out)
//! y       (N, H_out, W_out, C_out)   H_out = ⌊(H + 2·padding − kh)/stride⌋ + 1, and W_out in the same way
//!
//! y[n,ho,wo,o] = bias[o] + Σ_{i,p,q} weight[o,i,p,q] · x[n, ho·stride + p − padding, wo·stride + q − padding, i]
//! ```
//!
//! x is 0 outside the picture. `pixel` computes the index, or `None` outside.

use ndarray::{Array1, Array4};

/// The row (or column) of x that tap p of output row `out` reads, in a picture of `size` rows; `None` outside the picture.
pub fn pixel(out: usize, p: usize, stride: usize, padding: usize, size: usize) -> Option<usize> {
    (out * stride + p).checked_sub(padding).filter(|&at| at < size)
}

pub fn forward(
    x: &Array4<f64>,
    weight: &Array4<f64>,
    bias: &Array1<f64>,
    stride: usize,
    padding: usize,
) -> Array4<f64> {
    let (n, h, w, c_in) = x.dim();
    let (c_out, _, kh, kw) = weight.dim();
    // <solution>
    let h_out = (h + 2 * padding - kh) / stride + 1;
    let w_out = (w + 2 * padding - kw) / stride + 1;
    Array4::from_shape_fn((n, h_out, w_out, c_out), |(n, ho, wo, o)| {
        let mut sum = bias[o];
        for p in 0..kh {
            for q in 0..kw {
                let row = pixel(ho, p, stride, padding, h);
                let column = pixel(wo, q, stride, padding, w);
                if let (Some(row), Some(column)) = (row, column) {
                    for i in 0..c_in {
                        sum += weight[[o, i, p, q]] * x[[n, row, column, i]];
                    }
                }
            }
        }
        sum
    })
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// A 3x3 picture and a 2x2 kernel that adds the diagonal of its window.
    #[test]
    fn by_hand() {
        let x = Array4::from_shape_vec((1, 3, 3, 1), vec![1., 2., 3., 4., 5., 6., 7., 8., 9.]).unwrap();
        let weight = Array4::from_shape_vec((1, 1, 2, 2), vec![1., 0., 0., 1.]).unwrap();
        let y = forward(&x, &weight, &array![0.0], 1, 0);
        assert_eq!(y.into_raw_vec_and_offset().0, [6., 8., 12., 14.]);
    }
}
