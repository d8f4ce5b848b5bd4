//! Exercise 7: dx of a convolution. Chapter 8, docs/conv2d.md.
//!
//! ```text
//! y[n,ho,wo,o] = bias[o] + Σ_{i,p,q} weight[o,i,p,q] · x[n, ho·stride + p − padding, wo·stride + q − padding, i]
//!
//! dy (N, H_out, W_out, C_out)        dx (N, H, W, C_in), the shape of x
//! ```
//!
//! Read the sum as a function of x: every term `weight · x` gives a contribution to dx at the place where x was read.

use ndarray::Array4;

/// The row (or column) of x that tap p of output row `out` reads, in a picture of `size` rows; `None` outside the picture.
pub fn pixel(out: usize, p: usize, stride: usize, padding: usize, size: usize) -> Option<usize> {
    (out * stride + p).checked_sub(padding).filter(|&at| at < size)
}

/// dx; `x` is the shape (N, H, W, C_in).
pub fn input_gradient(
    dy: &Array4<f64>,
    weight: &Array4<f64>,
    x: (usize, usize, usize, usize),
    stride: usize,
    padding: usize,
) -> Array4<f64> {
    let (_, h, w, c_in) = x;
    let (_, _, kh, kw) = weight.dim();
    let mut dx = Array4::<f64>::zeros(x);
    // <solution>
    for ((n, ho, wo, o), &dy) in dy.indexed_iter() {
        for p in 0..kh {
            for q in 0..kw {
                let row = pixel(ho, p, stride, padding, h);
                let column = pixel(wo, q, stride, padding, w);
                if let (Some(row), Some(column)) = (row, column) {
                    for i in 0..c_in {
                        dx[[n, row, column, i]] += weight[[o, i, p, q]] * dy;
                    }
                }
            }
        }
    }
    dx
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;

    /// dy is 1 at the lower right output alone: its window gets the kernel.
    #[test]
    fn by_hand() {
        let dy = Array4::from_shape_vec((1, 2, 2, 1), vec![0., 0., 0., 1.]).unwrap();
        let weight = Array4::from_shape_vec((1, 1, 2, 2), vec![1., 2., 3., 4.]).unwrap();
        let dx = input_gradient(&dy, &weight, (1, 3, 3, 1), 1, 0);
        assert_eq!(dx.into_raw_vec_and_offset().0, [0., 0., 0., 0., 1., 2., 0., 3., 4.]);
    }
}
