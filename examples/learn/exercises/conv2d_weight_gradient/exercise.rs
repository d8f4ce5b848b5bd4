//! Exercise 8: dweight and dbias of a convolution. Chapter 8, docs/conv2d.md.
//!
//! ```text
//! y[n,ho,wo,o] = bias[o] + Σ_{i,p,q} weight[o,i,p,q] · x[n, ho·stride + p − padding, wo·stride + q − padding, i]
//!
//! x       (N, H, W, C_in)            dy    (N, H_out, W_out, C_out)
//! dweight (C_out, C_in, kh, kw)      dbias (C_out)
//! ```
//!
//! Read the sum as a function of weight: one weight is used at every output pixel of every image.

use ndarray::{Array1, Array4};

/// The row (or column) of x that tap p of output row `out` reads, in a picture of `size` rows; `None` outside the picture.
pub fn pixel(out: usize, p: usize, stride: usize, padding: usize, size: usize) -> Option<usize> {
    (out * stride + p).checked_sub(padding).filter(|&at| at < size)
}

/// (dweight, dbias); `kernel` is (kh, kw).
pub fn weight_gradient(
    dy: &Array4<f64>,
    x: &Array4<f64>,
    kernel: (usize, usize),
    stride: usize,
    padding: usize,
) -> (Array4<f64>, Array1<f64>) {
    let (_, h, w, c_in) = x.dim();
    let (kh, kw) = kernel;
    let c_out = dy.dim().3;
    let mut dweight = Array4::<f64>::zeros((c_out, c_in, kh, kw));
    let mut dbias = Array1::<f64>::zeros(c_out);
    // <solution>
    for ((n, ho, wo, o), &dy) in dy.indexed_iter() {
        dbias[o] += dy;
        for p in 0..kh {
            for q in 0..kw {
                let row = pixel(ho, p, stride, padding, h);
                let column = pixel(wo, q, stride, padding, w);
                if let (Some(row), Some(column)) = (row, column) {
                    for i in 0..c_in {
                        dweight[[o, i, p, q]] += x[[n, row, column, i]] * dy;
                    }
                }
            }
        }
    }
    (dweight, dbias)
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// dy is 1 at the lower right output alone: the weight gets its window.
    #[test]
    fn by_hand() {
        let x = Array4::from_shape_vec((1, 3, 3, 1), vec![1., 2., 3., 4., 5., 6., 7., 8., 9.]).unwrap();
        let dy = Array4::from_shape_vec((1, 2, 2, 1), vec![0., 0., 0., 1.]).unwrap();
        let (dweight, dbias) = weight_gradient(&dy, &x, (2, 2), 1, 0);
        assert_eq!(dweight.into_raw_vec_and_offset().0, [5., 6., 8., 9.]);
        assert_eq!(dbias, array![1.0]);
    }
}
