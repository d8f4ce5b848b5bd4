//! Exercise 10: a max pool. Chapter 9, docs/pooling.md.
//!
//! ```text
//! x (N, H, W, C)      window (ho, wo): the rows ho·stride … ho·stride + kernel − 1, the columns likewise
//! y (N, H_out, W_out, C), H_out = ⌊(H − kernel)/stride⌋ + 1:   the largest value of the window, for each channel
//! ```
//!
//! There is no padding. Of several equal values the first in row order is the maximum.

use ndarray::Array4;

/// y
pub fn forward(x: &Array4<f64>, kernel: usize, stride: usize) -> Array4<f64> {
    let (n, h, w, c) = x.dim();
    // <solution>
    Array4::from_shape_fn((n, (h - kernel) / stride + 1, (w - kernel) / stride + 1, c), |(n, ho, wo, c)| {
        let (row, column) = maximum(x, kernel, stride, (n, ho, wo, c));
        x[[n, row, column, c]]
    })
    // </solution>
}

/// dx, in the shape of x
pub fn backward(dy: &Array4<f64>, x: &Array4<f64>, kernel: usize, stride: usize) -> Array4<f64> {
    let mut dx = Array4::<f64>::zeros(x.raw_dim());
    // <solution>
    for ((n, ho, wo, c), &dy) in dy.indexed_iter() {
        let (row, column) = maximum(x, kernel, stride, (n, ho, wo, c));
        dx[[n, row, column, c]] += dy;
    }
    dx
    // </solution>
}

/// Row and column of the maximum of a window. (You may use it, or do without.)
pub fn maximum(
    x: &Array4<f64>,
    kernel: usize,
    stride: usize,
    (n, ho, wo, c): (usize, usize, usize, usize),
) -> (usize, usize) {
    // <solution>
    let mut best = (ho * stride, wo * stride);
    for row in ho * stride..ho * stride + kernel {
        for column in wo * stride..wo * stride + kernel {
            if x[[n, row, column, c]] > x[[n, best.0, best.1, c]] {
                best = (row, column);
            }
        }
    }
    best
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two overlapping windows with the same maximum.
    #[test]
    fn by_hand() {
        let x = Array4::from_shape_vec((1, 2, 3, 1), vec![1., 5., 5., 4., 2., 3.]).unwrap();
        assert_eq!(forward(&x, 2, 1).into_raw_vec_and_offset().0, [5., 5.]);
        let dx = backward(&Array4::ones((1, 1, 2, 1)), &x, 2, 1);
        assert_eq!(dx.into_raw_vec_and_offset().0, [0., 2., 0., 0., 0., 0.]);
    }
}
