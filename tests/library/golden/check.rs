//! Comparison with a fixture: shape first, then every element against its own bound.

use ndarray::{Array, ArrayD, Dimension, Zip};
use resnet_by_hand::Scalar;
use resnet_by_hand::layers::{Activation, nhwc_to_nchw};

/// How far a value may be from the fixture's.
pub enum Allowed<'a> {
    /// Not at all: the same value, NaN for NaN.
    Exact,
    /// The same for every element.
    Each(f64),
    /// One bound per element.
    Bound(&'a ArrayD<f64>),
}

/// Collects comparisons, keeps the worst, and prints it at the end of the test.
pub struct Report {
    title: String,
    comparisons: usize,
    worst_error: (f64, String),
    worst_share: (f64, String),
}

impl Report {
    pub fn new(title: impl Into<String>) -> Self {
        let none = (0.0, String::from("-"));
        Report { title: title.into(), comparisons: 0, worst_error: none.clone(), worst_share: none }
    }

    /// Panics with the first index and the worst error unless `got` is as close to `expected` as `allowed`.
    #[track_caller]
    pub fn check(&mut self, what: &str, got: &ArrayD<f64>, expected: &ArrayD<f64>, allowed: Allowed) {
        assert_eq!(got.shape(), expected.shape(), "{}: {what}: shape", self.title);
        let bounds = match allowed {
            Allowed::Exact => ArrayD::zeros(got.raw_dim()),
            Allowed::Each(bound) => ArrayD::from_elem(got.raw_dim(), bound),
            Allowed::Bound(bounds) => bounds.clone(),
        };
        assert_eq!(bounds.shape(), expected.shape(), "{}: {what}: shape of the bound", self.title);
        let errors = Zip::from(got).and(expected).map_collect(|&got, &expected| error(got, expected));
        let mut failures = Vec::new();
        for ((index, &error), &bound) in errors.indexed_iter().zip(&bounds) {
            // `!(… <= …)`: a NaN on either side fails.
            #[allow(clippy::neg_cmp_op_on_partial_ord)]
            if !(error <= bound) {
                failures.push(format!(
                    "{:?}: got {:e}, expected {:e}, error {error:.2e}, allowed {bound:.2e}",
                    index.slice(),
                    got[&index],
                    expected[&index]
                ));
            }
            let share = if error == 0.0 { 0.0 } else { error / bound };
            if error > self.worst_error.0 {
                self.worst_error = (error, what.to_string());
            }
            if share > self.worst_share.0 {
                self.worst_share = (share, what.to_string());
            }
        }
        if let Some(first) = failures.first() {
            let worst = errors.iter().copied().fold(0.0, |a: f64, b| if b.is_nan() { b } else { a.max(b) });
            let title = &self.title;
            panic!("{title}: {what}: {} of {} wrong, worst {worst:.2e}; first {first}", failures.len(), got.len());
        }
        self.comparisons += 1;
    }

    #[track_caller]
    pub fn check_number(&mut self, what: &str, got: f64, expected: f64, allowed: f64) {
        let scalar = |v: f64| ArrayD::from_elem(ndarray::IxDyn(&[]), v);
        self.check(what, &scalar(got), &scalar(expected), Allowed::Each(allowed));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let (error, at) = &self.worst_error;
        print!("{:34} {:4} tensors, worst error {error:.1e} ({at})", self.title, self.comparisons);
        let (share, at) = &self.worst_share;
        if *error > 0.0 {
            println!("; at most {:.1} % of the tolerance ({at})", 100.0 * share);
        } else {
            println!(": equal");
        }
    }
}

/// |got − expected|; 0 for equal infinities and for two NaN.
fn error(got: f64, expected: f64) -> f64 {
    if got == expected || got.is_nan() && expected.is_nan() { 0.0 } else { (got - expected).abs() }
}

/// Any array as `f64`.
pub fn wide<T: Scalar, D: Dimension>(values: &Array<T, D>) -> ArrayD<f64> {
    values.mapv(Scalar::as_f64).into_dyn()
}

/// Activations as NCHW in `f64`, the fixtures' order.
pub fn nchw<T: Scalar>(values: &Activation<T>) -> ArrayD<f64> {
    wide(&nhwc_to_nchw(values))
}

/// γ_k = k u/(1 − k u): bound of the relative error of k roundings in a row (Higham, Accuracy and Stability, §3.1). A sum
/// of k products is off by at most γ_k Σ |a| |b|, whatever the order, fused or not.
pub fn gamma(k: usize, u: f64) -> f64 {
    let ku = k as f64 * u;
    assert!(ku < 0.1, "γ_{k} with u = {u:e} is no useful bound");
    ku / (1.0 - ku)
}

#[test]
fn wrong_numbers_are_found() {
    let array = |values: &[f64]| ArrayD::from_shape_vec(ndarray::IxDyn(&[values.len()]), values.to_vec()).unwrap();
    let fails = |got: &[f64], expected: &[f64], allowed: f64| {
        let (got, expected) = (array(got), array(expected));
        std::panic::catch_unwind(|| Report::new("self-test").check("x", &got, &expected, Allowed::Each(allowed)))
            .is_err()
    };
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    assert!(!fails(&[1.0, 2.0], &[1.0, 2.25], 0.25));
    assert!(fails(&[1.0, 2.0], &[1.0, 2.5], 0.25), "one wrong element");
    assert!(fails(&[1.0], &[-1.0], 0.25), "sign");
    assert!(fails(&[1.0], &[1.0, 1.0], 0.25), "shape");
    assert!(fails(&[nan], &[1.0], inf) && fails(&[1.0], &[nan], inf), "NaN for a finite value");
    assert!(!fails(&[nan, -inf], &[nan, -inf], 0.0), "NaN and infinity where expected");
    assert!(fails(&[inf], &[-inf], 1.0) && fails(&[inf], &[1.0], 1.0), "infinity");
    assert!(fails(&[1.0], &[2.0], nan), "a tolerance of NaN");
}
