//! Derivatives by differences, in `f64`, with an error model.
//!
//! The quantity probed is L(t) = Σ dy ⊙ y(t): the outputs of a map at the point x + t·v, weighted with *random* dy. Its
//! derivative at t = 0 is ⟨dx, v⟩ with dx = backward(dy). (dy = 1 is not enough: the sum of a batch norm's outputs does not
//! depend on its input at all, and a backward pass that returned zeros would pass.)
//!
//! # The central difference and its error
//!
//! D(h) = (L(h) − L(−h)) / 2h. Taylor's series leaves even powers of h, rounding a term in 1/h:
//!
//! ```text
//! D(h) = L′ + h² L‴/6 + h⁴ L⁽⁵⁾/120 + ...  ± ρ/h        ρ: rounding error of one evaluation of L
//! ```
//!
//! With ρ = ε|L| the best h is about ε^⅓ = 2⁻¹⁷ and the best error about ε^⅔ = 4e-11, if L‴ is of size 1. A batch norm over
//! few values, or a deep network, is not of this kind; so the h² and h⁴ terms are removed and a larger h is used:
//!
//! # Richardson's extrapolation
//!
//! ```text
//! R(h) = (4 D(h/2) − D(h)) / 3 = L′ − h⁴ L⁽⁵⁾/480 + ...
//! ```
//!
//! An estimate takes D at h, h/2, h/4 and returns R(h/2). Two Rs also *measure* the truncation: R(h) − R(h/2) =
//! −15/16 · h⁴ L⁽⁵⁾/480 + O(h⁶), so the error of R(h/2) is a fifteenth of their difference. The tolerance allows
//!
//! ```text
//! |R(h) − R(h/2)|     the truncation, 15 times over, for the terms in h⁶ that R(h/2) keeps
//! + 6 ρ/h             the rounding: R(h/2) = (4 D(h/4) − D(h/2))/3 ± (4 · 4ρ/h + 2ρ/h)/3
//! ```
//!
//! and nothing that depends on the gradient under test. If the steps cross a kink, the first term grows with the error and
//! would excuse it: callers cap it, see [`Estimate::tolerance`].
//!
//! # Rounding
//!
//! L(h) − L(−h) is computed as Σ dy ⊙ (y(h) − y(−h)): the subtraction is exact for neighbours (Sterbenz), the sum is of
//! small values, and what remains is the rounding of the y themselves. Its worst case, all errors in the same direction,
//! does not occur; treated as independent, errors of a sum of K terms grow like √K rather than K (Higham & Mary 2019, *A new
//! approach to probabilistic rounding error analysis*): ρ = √K u Σ |dy ⊙ y|, where the sum of absolute values
//! assumes the worst case again, over all *outputs*. K is the number of terms in an output, given by the caller.
//!
//! # Exact differences
//!
//! Where y is linear in t on [−h, h] and everything is a whole number, D(h) has no error at all: [`Step::Exact`].
//!
//! ```
//! use resnet_by_hand::verify::{derivative, Step};
//! // y = (t³, e^t) around t = 1 and dy = (2, −1): L′ = 6 − e.
//! let y = |t: f64| Ok(vec![(1.0 + t).powi(3), (1.0 + t).exp()]);
//! let estimate = derivative(&[2.0, -1.0], &y, Step::Smooth { h: 2f64.powi(-7), terms: 1 })?;
//! let error = (estimate.value - (6.0 - 1f64.exp())).abs();
//! assert!(error <= estimate.tolerance(1.0) && estimate.tolerance(1.0) < 1e-8);
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use crate::{Error, Result, Scalar};

/// How a derivative is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// One central difference, expected to be exact: y is linear on [−h, h] and all values are integers.
    Exact {
        /// The step.
        h: f64,
    },
    /// Three central differences, extrapolated.
    Smooth {
        /// The largest step; h, h/2 and h/4 are used. The caller ensures that x ± h·v etc. are exact.
        h: f64,
        /// K: the number of rounded terms in one output.
        terms: usize,
    },
}

/// A derivative and how far it may be from the exact one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The derivative.
    pub value: f64,
    /// Allowance for truncation, |R(h) − R(h/2)|.
    pub truncation: f64,
    /// Allowance for rounding, 6 ρ/h.
    pub rounding: f64,
}

/// The largest allowance for truncation relative to the size of the gradient: a difference that is less
/// accurate than this proves too little to count.
pub const CONCLUSIVE: f64 = 1e-8;

impl Estimate {
    /// The largest admissible |value − analytic| for a gradient of size `scale`: truncation + rounding, truncation capped
    /// at [`CONCLUSIVE`]` · scale`.
    pub fn tolerance(&self, scale: f64) -> f64 {
        // A NaN truncation (a NaN in y) must not vanish in `min`.
        let cap = CONCLUSIVE * scale;
        let truncation = if self.truncation > cap { cap } else { self.truncation };
        truncation + self.rounding
    }
}

/// The derivative at t = 0 of L(t) = Σ dy ⊙ y(t).
///
/// # Errors
/// If `y` fails, or does not return one value per `dy`.
pub fn derivative(dy: &[f64], y: &dyn Fn(f64) -> Result<Vec<f64>>, step: Step) -> Result<Estimate> {
    let checked = |t: f64| {
        let y = y(t)?;
        if y.len() == dy.len() {
            Ok(y)
        } else {
            Err(Error::shape("derivative", "dy", format!("one value for each of the {} outputs", y.len()), &[dy.len()]))
        }
    };
    let mut size = 0.0f64;
    let mut central = |h: f64| -> Result<f64> {
        let (above, below) = (checked(h)?, checked(-h)?);
        size = size.max(dy.iter().zip(&above).map(|(dy, y)| (dy * y).abs()).sum());
        Ok(dy.iter().zip(above.iter().zip(&below)).map(|(dy, (a, b))| dy * (a - b)).sum::<f64>() / (2.0 * h))
    };
    match step {
        Step::Exact { h } => Ok(Estimate { value: central(h)?, truncation: 0.0, rounding: 0.0 }),
        Step::Smooth { h, terms } => {
            let (d1, d2, d4) = (central(h)?, central(h / 2.0)?, central(h / 4.0)?);
            let (coarse, fine) = ((4.0 * d2 - d1) / 3.0, (4.0 * d4 - d2) / 3.0);
            let rho = (terms as f64).sqrt() * f64::UNIT_ROUNDOFF * size;
            Ok(Estimate { value: fine, truncation: (coarse - fine).abs(), rounding: 6.0 * rho / h })
        }
    }
}

/// The power of two nearest below `size` (1 for 0): steps that are powers of two times a power of two stay exact.
///
/// ```
/// use resnet_by_hand::verify::finite_difference::power_of_two_below;
/// assert_eq!(power_of_two_below(0.3), 0.25);
/// assert_eq!(power_of_two_below(0.0), 1.0);
/// ```
pub fn power_of_two_below(size: f64) -> f64 {
    if size > 0.0 && size.is_finite() { size.log2().floor().exp2() } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step = Step::Smooth { h: 0.0078125, terms: 1 };

    /// Quartic: h² and h⁴ terms of the odd part vanish after extrapolation, so only rounding is left.
    #[test]
    fn a_polynomial_of_degree_four_has_no_truncation() {
        let y = |t: f64| Ok(vec![3.0 + 2.0 * t - t.powi(2) + 5.0 * t.powi(3) - 7.0 * t.powi(4)]);
        let estimate = derivative(&[1.0], &y, STEP).unwrap();
        assert!((estimate.value - 2.0).abs() <= estimate.rounding, "{estimate:?}");
        assert!(estimate.truncation <= 2.0 * estimate.rounding && estimate.rounding < 1e-12);
    }

    /// With frequency ω the error terms grow as ω⁵: the measured truncation must cover the error all along.
    #[test]
    fn the_model_covers_the_error_of_curved_functions() {
        for omega in [1.0f64, 4.0, 16.0, 32.0] {
            let y = |t: f64| Ok(vec![(omega * t + 0.3).sin(), (omega * t).exp()]);
            let exact = omega * 0.3f64.cos() - 2.0 * omega;
            let estimate = derivative(&[1.0, -2.0], &y, STEP).unwrap();
            let error = (estimate.value - exact).abs();
            assert!(error <= estimate.truncation + estimate.rounding, "{omega}: {error} {estimate:?}");
        }
    }

    /// |t − 0.001| has its kink inside the step: the difference is off by about 0.5 and reports that, but the cap rejects
    /// it.
    #[test]
    fn a_kink_is_not_excused() {
        let y = |t: f64| Ok(vec![(t - 0.001).abs()]);
        let estimate = derivative(&[1.0], &y, STEP).unwrap();
        let error = (estimate.value + 1.0).abs();
        assert!(error > 0.1 && error > estimate.tolerance(1.0), "{estimate:?}");
    }

    #[test]
    fn nan_and_a_wrong_number_of_weights_do_not_pass() {
        let nan = derivative(&[1.0], &|_| Ok(vec![f64::NAN]), STEP).unwrap();
        assert!(nan.value.is_nan());
        assert!(nan.tolerance(1.0).is_nan());
        assert!(derivative(&[1.0, 2.0], &|t| Ok(vec![t]), STEP).unwrap_err().to_string().contains("dy"));
    }

    #[test]
    fn whole_numbers_are_exact() {
        let y = |t: f64| Ok(vec![5.0 + 3.0 * t, 1.0 - t]);
        let estimate = derivative(&[2.0, -4.0], &y, Step::Exact { h: 1.0 }).unwrap();
        assert_eq!((estimate.value, estimate.tolerance(1.0)), (10.0, 0.0));
    }
}
