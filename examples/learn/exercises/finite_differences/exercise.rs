//! Exercise 2: measure a gradient. Chapter 3, docs/checking_gradients.md.
//!
//! ```text
//! dx[i] ≈ (loss(x with x[i] + h) − loss(x with x[i] − h)) / 2h          the central difference, for every i
//! ```

use ndarray::Array1;

/// The measured gradient of `loss` at `x (F)`, with the step h. Everything but x[i] stays where it is.
pub fn measured_gradient(loss: &dyn Fn(&Array1<f64>) -> f64, x: &Array1<f64>, h: f64) -> Array1<f64> {
    // <solution>
    let mut moved = x.clone();
    let mut dx = Array1::zeros(x.len());
    for i in 0..x.len() {
        moved[i] = x[i] + h;
        let above = loss(&moved);
        moved[i] = x[i] - h;
        let below = loss(&moved);
        moved[i] = x[i];
        dx[i] = (above - below) / (2.0 * h);
    }
    dx
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use ndarray::array;

    /// The derivative of x² + 3y at (2, 5) is (4, 3), and a parabola is measured without error.
    #[test]
    fn by_hand() {
        let loss = |x: &Array1<f64>| x[0] * x[0] + 3.0 * x[1];
        assert_abs_diff_eq!(measured_gradient(&loss, &array![2.0, 5.0], 0.5), array![4.0, 3.0]);
    }
}
