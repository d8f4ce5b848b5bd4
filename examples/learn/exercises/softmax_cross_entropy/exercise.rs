//! Exercise 5: softmax and cross-entropy. Chapter 6, docs/softmax_cross_entropy.md.
//!
//! ```text
//! p[n,k]  = exp(z[n,k]) / Σⱼ exp(z[n,j])        z: the logits (N, K)
//! loss    = 1/N Σ_n −ln p[n, target[n]]
//! dlogits = ∂loss/∂z                            (N, K)
//! ```
//!
//! Logits may be as large as ±1000: subtract the largest of a row before exp. `z.rows()` iterates over rows.

use ndarray::Array2;

/// (loss, dlogits)
pub fn loss_and_gradient(logits: &Array2<f64>, target: &[usize]) -> (f64, Array2<f64>) {
    // <solution>
    let n = target.len() as f64;
    let (mut loss, mut dlogits) = (0.0, logits.clone());
    for (mut row, &class) in dlogits.rows_mut().into_iter().zip(target) {
        let max = row.fold(f64::NEG_INFINITY, |max, &z| max.max(z));
        row -= max;
        let log_sum = row.mapv(f64::exp).sum().ln();
        // row is now ln p
        row -= log_sum;
        loss -= row[class] / n;
        row.mapv_inplace(f64::exp);
        row[class] -= 1.0;
        row /= n;
    }
    (loss, dlogits)
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use ndarray::array;

    /// z = (0, ln 2, 0): p = (¼, ½, ¼).
    #[test]
    fn by_hand() {
        let (loss, dlogits) = loss_and_gradient(&array![[0.0, 2f64.ln(), 0.0]], &[0]);
        assert_abs_diff_eq!(loss, 4f64.ln(), epsilon = 1e-12);
        assert_abs_diff_eq!(dlogits, array![[-0.75, 0.5, 0.25]], epsilon = 1e-12);
    }
}
