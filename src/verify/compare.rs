//! One comparison for every test: shape first, then the absolute error of every element.
//!
//! The condition is `!(error <= tolerance)`, not `error > tolerance`: a NaN satisfies neither, and must fail. For the same
//! reason ∞ against ∞ fails (∞ − ∞ is NaN): a comparison of values that are not finite proves nothing.
//!
//! ```
//! use ndarray::array;
//! use resnet_by_hand::verify::{compare, Tolerance};
//! let reference = array![[1.0, 2.0], [3.0, 4.0]];
//! let got = array![[1.0f32, 2.0], [3.5, 4.0]];
//! let comparison = compare(&got, &reference, Tolerance::Absolute(0.25));
//! assert!(!comparison.passed());
//! assert_eq!(comparison.worst_absolute, 0.5);
//! assert_eq!(comparison.worst_scaled, 0.5 / 4.0);
//! assert_eq!(comparison.worst_at, [1, 0]);
//! ```

use crate::Scalar;
use ndarray::{ArrayBase, ArrayViewD, Data, Dimension, IntoDimension};
use std::fmt;

/// How far an element may be from its reference.
#[derive(Clone, Debug)]
pub enum Tolerance<'a> {
    /// Not at all: `==`, for integers.
    Exact,
    /// |got − reference| ≤ this, the same for every element.
    Absolute(f64),
    /// |got − reference| ≤ the element of this array with the same index, e.g. a bound from [`super::bounds`].
    Elementwise(ArrayViewD<'a, f64>),
}

/// What [`compare`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Shape of the tested array.
    pub shape: Vec<usize>,
    /// Shape of the reference (and, if it differs, of the elementwise tolerance).
    pub reference_shape: Vec<usize>,
    /// Elements beyond the tolerance. Every element, if the shapes differ.
    pub failures: usize,
    /// Index of the first element beyond the tolerance.
    pub first_failure: Option<Vec<usize>>,
    /// Largest |got − reference|; NaN if any is.
    pub worst_absolute: f64,
    /// `worst_absolute` / max |reference|; the absolute error itself where the reference is 0 everywhere.
    pub worst_scaled: f64,
    /// Largest |got − reference| / tolerance: the share of the tolerance that was used. 0 where the error is 0.
    pub worst_share: f64,
    /// Index of the largest error (of the first NaN, if there is one).
    pub worst_at: Vec<usize>,
    /// Tested and reference value there.
    pub worst_pair: (f64, f64),
}

impl Comparison {
    /// Whether the shapes agree and no element is beyond the tolerance.
    pub fn passed(&self) -> bool {
        self.shape == self.reference_shape && self.failures == 0
    }

    /// Panics with the whole comparison unless it passed.
    ///
    /// # Panics
    /// If the comparison did not pass.
    #[track_caller]
    pub fn assert_passed(&self, what: &str) {
        assert!(self.passed(), "{what}: {self}");
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shape != self.reference_shape {
            return write!(f, "shape {:?}, expected {:?}", self.shape, self.reference_shape);
        }
        let (got, reference) = self.worst_pair;
        write!(f, "worst error {:.2e} (scaled {:.2e}) at {:?}", self.worst_absolute, self.worst_scaled, self.worst_at)?;
        write!(f, ": {got:e}, expected {reference:e}; {:.1} % of the tolerance", 100.0 * self.worst_share)?;
        if let Some(first) = &self.first_failure {
            write!(f, "; {} of {} elements fail", self.failures, self.shape.iter().product::<usize>())?;
            write!(f, ", the first at {first:?}")?;
        }
        Ok(())
    }
}

/// Compares `got`, of either element type, with a reference in `f64`.
pub fn compare<T: Scalar, D: Dimension, E: Dimension>(
    got: &ArrayBase<impl Data<Elem = T>, D>,
    reference: &ArrayBase<impl Data<Elem = f64>, E>,
    tolerance: Tolerance<'_>,
) -> Comparison {
    let (got, reference) = (got.view().into_dyn(), reference.view().into_dyn());
    let mut found = Comparison {
        shape: got.shape().to_vec(),
        reference_shape: reference.shape().to_vec(),
        failures: 0,
        first_failure: None,
        worst_absolute: 0.0,
        worst_scaled: 0.0,
        worst_share: 0.0,
        worst_at: vec![0; got.ndim()],
        worst_pair: (0.0, 0.0),
    };
    if let Tolerance::Elementwise(allowed) = &tolerance
        && allowed.shape() != got.shape()
    {
        found.reference_shape = allowed.shape().to_vec();
    }
    if found.shape != found.reference_shape {
        found.failures = got.len();
        (found.worst_absolute, found.worst_scaled, found.worst_share) = (f64::NAN, f64::NAN, f64::NAN);
        return found;
    }
    let mut largest_reference = 0.0f64;
    for (i, ((index, &got), &reference)) in got.indexed_iter().zip(&reference).enumerate() {
        let got = got.as_f64();
        let error = (got - reference).abs();
        let allowed = match &tolerance {
            Tolerance::Exact => 0.0,
            Tolerance::Absolute(allowed) => *allowed,
            Tolerance::Elementwise(allowed) => allowed[index.clone().into_dimension()],
        };
        if exceeds(error, allowed) {
            found.failures += 1;
            found.first_failure.get_or_insert_with(|| index.slice().to_vec());
        }
        // Once NaN, the worst stays NaN.
        if i == 0 || exceeds(error, found.worst_absolute) && !found.worst_absolute.is_nan() {
            found.worst_absolute = error;
            found.worst_at = index.slice().to_vec();
            found.worst_pair = (got, reference);
        }
        let share = if error == 0.0 { 0.0 } else { error / allowed };
        if exceeds(share, found.worst_share) {
            found.worst_share = share;
        }
        largest_reference = largest_reference.max(reference.abs());
    }
    let scale = if largest_reference > 0.0 { largest_reference } else { 1.0 };
    found.worst_scaled = found.worst_absolute / scale;
    found
}

/// Whether `error` exceeds `allowed`; also true if either is NaN.
#[allow(clippy::neg_cmp_op_on_partial_ord)] // `error > allowed` is false for NaN: exactly what must not happen.
pub(super) fn exceeds(error: f64, allowed: f64) -> bool {
    !(error <= allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2, array};

    fn reference() -> Array2<f64> {
        array![[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]]
    }

    #[test]
    fn equal_arrays_pass_with_every_tolerance() {
        let got = reference().mapv(|v| v as f32);
        let zero = Array2::zeros((2, 3));
        for tolerance in [Tolerance::Exact, Tolerance::Absolute(0.0), Tolerance::Elementwise(zero.view().into_dyn())] {
            let comparison = compare(&got, &reference(), tolerance);
            assert!(comparison.passed());
            assert_eq!((comparison.worst_absolute, comparison.worst_share), (0.0, 0.0));
        }
    }

    #[test]
    fn a_nan_fails_wherever_it_is_and_whatever_is_allowed() {
        for at in 0..6 {
            for in_reference in [false, true] {
                let (mut got, mut wanted) = (reference(), reference());
                let target = if in_reference { &mut wanted } else { &mut got };
                target.as_slice_mut().unwrap()[at] = f64::NAN;
                let comparison = compare(&got, &wanted, Tolerance::Absolute(f64::INFINITY));
                assert!(!comparison.passed());
                assert_eq!(comparison.first_failure, Some(vec![at / 3, at % 3]));
                assert_eq!(comparison.worst_at, [at / 3, at % 3]);
                assert!(comparison.worst_absolute.is_nan() && comparison.worst_scaled.is_nan());
                assert!(comparison.to_string().contains("NaN"));
            }
        }
        let all = Array1::from_elem(3, f64::NAN);
        assert!(!compare(&all, &all, Tolerance::Exact).passed());
        let infinite = array![f64::INFINITY];
        assert!(!compare(&infinite, &infinite, Tolerance::Absolute(1.0)).passed());
        // A NaN tolerance allows nothing.
        assert!(!compare(&reference(), &reference(), Tolerance::Absolute(f64::NAN)).passed());
    }

    #[test]
    fn a_flipped_sign_fails_and_is_twice_the_value() {
        let comparison = compare(&-reference(), &reference(), Tolerance::Absolute(1.0));
        assert_eq!((comparison.failures, comparison.first_failure), (6, Some(vec![0, 0])));
        assert_eq!((comparison.worst_absolute, comparison.worst_scaled), (12.0, 2.0));
        assert_eq!((comparison.worst_at, comparison.worst_pair), (vec![1, 2], (6.0, -6.0)));
    }

    #[test]
    fn one_wrong_element_is_found_and_named() {
        let mut got = reference();
        got[[1, 0]] += 0.5;
        let comparison = compare(&got, &reference(), Tolerance::Absolute(0.25));
        assert_eq!((comparison.failures, comparison.first_failure.clone()), (1, Some(vec![1, 0])));
        assert_eq!((comparison.worst_absolute, comparison.worst_share), (0.5, 2.0));
        let text = comparison.to_string();
        assert!(text.contains("5.00e-1") && text.contains("1 of 6") && text.contains("[1, 0]"), "{text}");
        // The same error, allowed at that element alone.
        let mut allowed = Array2::zeros((2, 3));
        allowed[[1, 0]] = 0.5;
        assert!(compare(&got, &reference(), Tolerance::Elementwise(allowed.view().into_dyn())).passed());
        allowed = allowed.slice(ndarray::s![.., ..;-1]).to_owned();
        assert!(!compare(&got, &reference(), Tolerance::Elementwise(allowed.view().into_dyn())).passed());
    }

    #[test]
    fn another_shape_fails_before_any_number_is_read() {
        let transposed = reference().reversed_axes();
        let comparison = compare(&transposed, &reference(), Tolerance::Absolute(f64::INFINITY));
        assert!(!comparison.passed());
        assert_eq!(comparison.to_string(), "shape [3, 2], expected [2, 3]");
        assert!(!compare(&Array1::<f64>::zeros(6), &Array2::<f64>::zeros((2, 3)), Tolerance::Exact).passed());
        let allowed = Array1::zeros(1);
        let comparison = compare(&reference(), &reference(), Tolerance::Elementwise(allowed.view().into_dyn()));
        assert!(!comparison.passed());
    }

    #[test]
    #[should_panic(expected = "dx: shape [1], expected [2]")]
    fn a_failed_assertion_says_what_was_compared() {
        compare(&array![1.0], &array![1.0, 2.0], Tolerance::Exact).assert_passed("dx");
    }
}
