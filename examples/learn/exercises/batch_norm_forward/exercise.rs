//! Exercise 11: batch norm, forward. Chapter 10, docs/batch_norm.md.
//!
//! ```text
//! x, y (N, H, W, C)      for every channel c by itself, over its m = N·H·W values:
//!
//! mean = 1/m Σ x         var = 1/m Σ (x − mean)²
//! x̂    = (x − mean)/√(var + eps)                       y = gamma · x̂ + beta
//!
//! running_mean ← (1 − momentum) · running_mean + momentum · mean
//! running_var  ← (1 − momentum) · running_var  + momentum · var · m/(m − 1)
//! ```
//!
//! In evaluation x̂ = (x − running_mean)/√(running_var + eps), and nothing is updated.
//! `x.index_axis(Axis(3), c)` is channel c of all images, `x.index_axis_mut(Axis(3), c)` the same to write to.

use ndarray::{Array1, Array4, Axis};

/// Updates the running statistics and returns y, and what backward needs: x̂ and rstd = 1/√(var + eps) of every channel.
pub fn train(
    x: &Array4<f64>,
    gamma: &Array1<f64>,
    beta: &Array1<f64>,
    running_mean: &mut Array1<f64>,
    running_var: &mut Array1<f64>,
    eps: f64,
    momentum: f64,
) -> (Array4<f64>, Array4<f64>, Array1<f64>) {
    let (mut y, mut x_hat, mut rstd) = (x.clone(), x.clone(), Array1::<f64>::zeros(gamma.len()));
    // <solution>
    for c in 0..gamma.len() {
        let mut channel = x_hat.index_axis_mut(Axis(3), c);
        let m = channel.len() as f64;
        let mean = channel.sum() / m;
        let var = channel.mapv(|x| (x - mean) * (x - mean)).sum() / m;
        rstd[c] = 1.0 / (var + eps).sqrt();
        channel.mapv_inplace(|x| (x - mean) * rstd[c]);
        y.index_axis_mut(Axis(3), c).assign(&channel.mapv(|x_hat| gamma[c] * x_hat + beta[c]));
        running_mean[c] = (1.0 - momentum) * running_mean[c] + momentum * mean;
        running_var[c] = (1.0 - momentum) * running_var[c] + momentum * var * m / (m - 1.0);
    }
    (y, x_hat, rstd)
    // </solution>
}

/// y in evaluation
pub fn evaluate(
    x: &Array4<f64>,
    gamma: &Array1<f64>,
    beta: &Array1<f64>,
    running_mean: &Array1<f64>,
    running_var: &Array1<f64>,
    eps: f64,
) -> Array4<f64> {
    let mut y = x.clone();
    // <solution>
    for c in 0..gamma.len() {
        let rstd = 1.0 / (running_var[c] + eps).sqrt();
        y.index_axis_mut(Axis(3), c).mapv_inplace(|x| gamma[c] * (x - running_mean[c]) * rstd + beta[c]);
    }
    y
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use ndarray::array;

    /// The mean of 1, 3, 5 and 7 is 4, the variance 5; with eps = 4 the root is 3. The unbiased variance is 20/3.
    #[test]
    fn by_hand() {
        let x = Array4::from_shape_vec((2, 1, 2, 1), vec![1.0, 3.0, 5.0, 7.0]).unwrap();
        let (mut mean, mut var) = (array![0.0], array![0.0]);
        let (y, x_hat, rstd) = train(&x, &array![3.0], &array![10.0], &mut mean, &mut var, 4.0, 0.5);
        assert_abs_diff_eq!(
            y.into_raw_vec_and_offset().0.as_slice(),
            [7.0, 9.0, 11.0, 13.0].as_slice(),
            epsilon = 1e-12
        );
        assert_abs_diff_eq!(
            x_hat.into_raw_vec_and_offset().0.as_slice(),
            [-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0].as_slice(),
            epsilon = 1e-12
        );
        assert_abs_diff_eq!(rstd, array![1.0 / 3.0], epsilon = 1e-12);
        assert_abs_diff_eq!(mean, array![2.0]);
        assert_abs_diff_eq!(var, array![10.0 / 3.0], epsilon = 1e-12);
    }
}
