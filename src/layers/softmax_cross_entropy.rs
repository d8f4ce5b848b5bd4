//! Softmax and cross-entropy, the loss of every network in this crate.
//!
//! ```text
//! logits z (N, K)     targets t (N), each in 0..K     ε label smoothing
//!
//! p[n,k]   = exp(z[n,k]) / Σⱼ exp(z[n,j])                               softmax
//! q[n,k]   = (1 − ε) [k = t[n]] + ε/K                                   smoothed one-hot target
//! loss[n]  = −Σ_k q[n,k] log p[n,k]
//! loss     = 1/N Σ_n loss[n]   (mean)      or   Σ_n loss[n]   (sum)
//! ```
//!
//! # Backward
//!
//! `log p[n,k] = z[n,k] − logsumexp(z[n])`, and `∂ logsumexp(z[n]) / ∂z[n,k] = p[n,k]`; with Σ_k q = 1,
//!
//! ```text
//! dlogits = (p − q) / N   (mean)      or   p − q   (sum)
//! ```
//!
//! The exponential of the softmax and the logarithm of the loss cancel, so the two are one layer.
//!
//! # Numerics
//!
//! log p = (z − M) − log Σ exp(z − M) with M = max z: the largest exponent is 0, nothing overflows, and the sum is at
//! least 1. The order of the subtractions matters: z − (M + log Σ) would round M + log Σ to the spacing of numbers near
//! M, at M = 1000 in `f32` to 6e-5; z − M is exact for z near M, and only these matter. So logits of ±1000 lose no
//! precision. A NaN or +∞ logit gives a NaN loss. Label smoothing: Szegedy et al. 2015 (arXiv 1512.00567, section 7),
//! in PyTorch's form.
//!
//! ```
//! use ndarray::array;
//! use resnet_by_hand::layers::SoftmaxCrossEntropy;
//! // Two equal logits: p = 1/2 each, loss = log 2.
//! let (loss, cache) = SoftmaxCrossEntropy::new().forward(&array![[1000.0f64, 1000.0]], &[0])?;
//! assert!((loss - 2f64.ln()).abs() < 1e-15);
//! assert_eq!(SoftmaxCrossEntropy::new().backward(&cache), array![[-0.5f64, 0.5]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::parallel::tree_sum;
use crate::{Error, Result, Scalar};
use ndarray::{Array2, Axis};

/// How the losses of a batch are reduced to one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Divide by the number of images: the gradient does not grow with the batch.
    #[default]
    Mean,
    /// Add the losses.
    Sum,
}

/// The loss; see the [module documentation](self) for the equations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxCrossEntropy<T> {
    /// ε in [0, 1]: the share of the target that is spread over all classes.
    pub label_smoothing: T,
    /// Mean or sum over the batch.
    pub reduction: Reduction,
}

/// What [`SoftmaxCrossEntropy::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct SoftmaxCrossEntropyCache<T> {
    /// p `(N, K)`: the class probabilities.
    pub probabilities: Array2<T>,
    targets: Vec<usize>,
}

impl<T: Scalar> SoftmaxCrossEntropy<T> {
    /// No smoothing, mean over the batch.
    pub fn new() -> Self {
        SoftmaxCrossEntropy { label_smoothing: T::zero(), reduction: Reduction::Mean }
    }

    /// Returns the loss and the cache.
    ///
    /// # Errors
    /// If there is not one target per row, a target is not a class, the batch is empty, or ε is outside [0, 1].
    pub fn forward(&self, logits: &Array2<T>, targets: &[usize]) -> Result<(T, SoftmaxCrossEntropyCache<T>)> {
        let (n, classes) = logits.dim();
        if n == 0 || classes == 0 || targets.len() != n {
            let expected = format!("({}, classes), one row per target, both at least 1", targets.len().max(1));
            return Err(Error::shape("softmax_cross_entropy", "logits", expected, logits.shape()));
        }
        if let Some((row, &target)) = targets.iter().enumerate().find(|&(_, &target)| target >= classes) {
            let message = format!("target {target} of row {row} is not one of the {classes} classes 0..{classes}");
            return Err(Error::argument("softmax_cross_entropy", message));
        }
        let epsilon = self.label_smoothing;
        if !(epsilon >= T::zero() && epsilon <= T::one()) {
            return Err(Error::argument(
                "softmax_cross_entropy",
                format!("label_smoothing must be in [0, 1], got {epsilon}"),
            ));
        }
        let log_p = log_softmax(logits);
        let row_loss = |n: usize| {
            let log_p = log_p.row(n);
            let smooth = if epsilon > T::zero() { epsilon * log_p.sum() / T::of_usize(classes) } else { T::zero() };
            -((T::one() - epsilon) * log_p[targets[n]] + smooth)
        };
        let sum = tree_sum(n, &row_loss, &|left: &mut T, right| *left += right).expect("at least one row");
        let loss = match self.reduction {
            Reduction::Mean => sum / T::of_usize(n),
            Reduction::Sum => sum,
        };
        let probabilities = log_p.mapv(T::exp);
        Ok((loss, SoftmaxCrossEntropyCache { probabilities, targets: targets.to_vec() }))
    }

    /// dlogits, for dloss = 1: the loss is the end of the computation.
    pub fn backward(&self, cache: &SoftmaxCrossEntropyCache<T>) -> Array2<T> {
        let (n, classes) = cache.probabilities.dim();
        let (epsilon, mut dlogits) = (self.label_smoothing, cache.probabilities.clone());
        // dlogits = p − q
        for (mut row, &target) in dlogits.outer_iter_mut().zip(&cache.targets) {
            row -= epsilon / T::of_usize(classes);
            row[target] -= T::one() - epsilon;
        }
        if self.reduction == Reduction::Mean {
            dlogits /= T::of_usize(n);
        }
        dlogits
    }
}

impl<T: Scalar> Default for SoftmaxCrossEntropy<T> {
    fn default() -> Self {
        SoftmaxCrossEntropy::new()
    }
}

/// log p `(N, K)`: (z − M) − log Σ exp(z − M), M = max z, row by row.
pub fn log_softmax<T: Scalar>(logits: &Array2<T>) -> Array2<T> {
    let mut log_p = logits.clone();
    for mut row in log_p.outer_iter_mut() {
        let max = row.fold(T::neg_infinity(), |max, &z| max.max(z));
        row -= max;
        let log_sum = row.mapv(T::exp).sum_axis(Axis(0)).into_scalar().ln();
        row -= log_sum;
    }
    log_p
}

/// p `(N, K)`: the class probabilities of `logits`.
pub fn softmax<T: Scalar>(logits: &Array2<T>) -> Array2<T> {
    log_softmax(logits).mapv_into(T::exp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::check_layer;
    use ndarray::array;

    #[test]
    fn is_stable_for_logits_of_a_thousand() {
        let (loss, cache) =
            SoftmaxCrossEntropy::new().forward(&array![[1000.0f32, -1000.0], [-1000.0, 1000.0]], &[1, 1]).unwrap();
        assert_eq!(loss, 1000.0); // (2000 + 0) / 2
        assert_eq!(SoftmaxCrossEntropy::new().backward(&cache), array![[0.5, -0.5], [0.0, 0.0]]);
    }

    /// p depends only on differences of logits, so an exact shift must not change any bit.
    #[test]
    fn a_shift_of_all_logits_changes_nothing() {
        let logits = array![[0.25f32, -1.5, 2.0, 0.0]];
        let expected = log_softmax(&logits);
        for shift in [1024.0f32, -1024.0, 65536.0] {
            assert_eq!(log_softmax(&(&logits + shift)), expected);
        }
    }

    #[test]
    fn a_nan_logit_is_not_hidden() {
        let (loss, _) = SoftmaxCrossEntropy::new().forward(&array![[f64::NAN, 0.0]], &[1]).unwrap();
        assert!(loss.is_nan());
    }

    #[test]
    fn smoothing_and_sum_follow_the_definition() {
        let logits = array![[0.3f64, -1.2, 2.0], [0.0, 0.5, -0.5]];
        let layer = SoftmaxCrossEntropy { label_smoothing: 0.3, reduction: Reduction::Sum };
        let (loss, cache) = layer.forward(&logits, &[2, 0]).unwrap();
        let (p, targets) = (softmax(&logits), [2, 0]);
        let q = |n: usize, k: usize| 0.7 * f64::from(k == targets[n]) + 0.1;
        let expected: f64 =
            (0..2).flat_map(|n| (0..3).map(move |k| (n, k))).map(|(n, k)| -q(n, k) * p[[n, k]].ln()).sum();
        assert!((loss - expected).abs() < 1e-14, "{loss} {expected}");
        let dlogits = layer.backward(&cache);
        for ((n, k), &d) in dlogits.indexed_iter() {
            assert!((d - (p[[n, k]] - q(n, k))).abs() < 1e-15);
        }
    }

    #[test]
    fn wrong_targets_are_named() {
        let message = |targets: &[usize]| {
            SoftmaxCrossEntropy::new().forward(&array![[0.0f32, 1.0]], targets).unwrap_err().to_string()
        };
        assert!(message(&[2]).contains("target 2 of row 0 is not one of the 2 classes"));
        assert!(message(&[0, 1]).contains("logits"));
    }

    /// Verifies the backward pass: every gradient against finite differences in `f64`.
    #[test]
    fn gradients_equal_finite_differences() {
        for report in check_layer("softmax_cross_entropy", 1).unwrap() {
            assert!(report.passed(), "{report}");
        }
    }
}
