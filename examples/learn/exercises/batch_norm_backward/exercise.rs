//! Exercise 12: batch norm, backward. Chapter 10, docs/batch_norm.md.
//!
//! ```text
//! mean = 1/m Σ x          var = 1/m Σ (x − mean)²          rstd = 1/√(var + eps)
//! x̂    = (x − mean) · rstd                                 y = gamma · x̂ + beta
//! ```
//!
//! Every channel is by itself; its sums run over the m = N·H·W values of the channel. The forward pass has kept x̂ (N, H, W, C)
//! and rstd (C). Every x moves its own x̂, and also mean and var, and through them every other x̂ of the channel.

use ndarray::{Array1, Array4, Axis, Zip};

/// (dx, dgamma, dbeta)
pub fn backward(
    dy: &Array4<f64>,
    x_hat: &Array4<f64>,
    rstd: &Array1<f64>,
    gamma: &Array1<f64>,
) -> (Array4<f64>, Array1<f64>, Array1<f64>) {
    let channels = gamma.len();
    let mut dx = Array4::<f64>::zeros(dy.raw_dim());
    let (mut dgamma, mut dbeta) = (Array1::<f64>::zeros(channels), Array1::<f64>::zeros(channels));
    // <solution>
    for c in 0..channels {
        let (dy, x_hat) = (dy.index_axis(Axis(3), c), x_hat.index_axis(Axis(3), c));
        let m = dy.len() as f64;
        dbeta[c] = dy.sum();
        dgamma[c] = (&dy * &x_hat).sum();
        let mean_dy = dbeta[c] / m;
        let mean_product = dgamma[c] / m;
        let scale = gamma[c] * rstd[c];
        Zip::from(dx.index_axis_mut(Axis(3), c)).and(dy).and(x_hat).for_each(|dx, &dy, &x_hat| {
            *dx = scale * (dy - mean_dy - x_hat * mean_product);
        });
    }
    (dx, dgamma, dbeta)
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use ndarray::array;

    /// x̂ = (−1, 1, −1, 1), rstd = ½, gamma = 2. The mean of dy is 1, that of dy · x̂ is ½.
    #[test]
    fn by_hand() {
        let image = |values: [f64; 4]| Array4::from_shape_vec((2, 1, 2, 1), values.to_vec()).unwrap();
        let dy = image([0.0, 1.0, 1.0, 2.0]);
        let (dx, dgamma, dbeta) = backward(&dy, &image([-1.0, 1.0, -1.0, 1.0]), &array![0.5], &array![2.0]);
        assert_abs_diff_eq!(dx, image([-0.5, -0.5, 0.5, 0.5]));
        assert_abs_diff_eq!(dgamma, array![2.0]);
        assert_abs_diff_eq!(dbeta, array![4.0]);
    }
}
