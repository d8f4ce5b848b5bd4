//! Exercise 3: a linear layer. Chapter 4, docs/linear.md.
//!
//! ```text
//! y       (N, F_out)     y[n,o] = bias[o] + Σ_i x[n,i] · weight[o,i]          y = x · weightᵀ + bias
//! x       (N, F_in)
//! weight  (F_out, F_in)
//! bias    (F_out)
//! ```
//!
//! Given dy (N, F_out), backward returns ∂loss/∂ of x, weight and bias, each in the shape of its array.
//! `a.dot(&b)` is the product of two matrices, `a.t()` is transposed, `a.sum_axis(Axis(0))` adds the rows.

use ndarray::{Array1, Array2, Axis};

pub fn forward(x: &Array2<f64>, weight: &Array2<f64>, bias: &Array1<f64>) -> Array2<f64> {
    // <solution>
    x.dot(&weight.t()) + bias
    // </solution>
}

/// (dx, dweight, dbias)
pub fn backward(dy: &Array2<f64>, x: &Array2<f64>, weight: &Array2<f64>) -> (Array2<f64>, Array2<f64>, Array1<f64>) {
    // <solution>
    let dx = dy.dot(weight);
    let dweight = dy.t().dot(x);
    let dbias = dy.sum_axis(Axis(0));
    (dx, dweight, dbias)
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use ndarray::array;

    /// One row with two features, three outputs: the example of chapter 4.
    #[test]
    fn by_hand() {
        let (x, weight) = (array![[1.0, 1.0]], array![[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]]);
        assert_abs_diff_eq!(forward(&x, &weight, &array![0.5, 0.0, 0.0]), array![[3.5, -1.0, 3.0]]);
        let (dx, dweight, dbias) = backward(&array![[1.0, 0.0, 2.0]], &x, &weight);
        assert_abs_diff_eq!(dx, array![[7.0, 2.0]]);
        assert_abs_diff_eq!(dweight, array![[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]);
        assert_abs_diff_eq!(dbias, array![1.0, 0.0, 2.0]);
    }
}
