//! The output of a layer for a case, and how far from the expected output it may be.
//!
//! The inputs are exact in `f32`, the outputs expected were computed in `f32`: by NumPy for `node/`, by PyTorch for the
//! others. In exact arithmetic there is one right output, and
//!
//! ```text
//! |ours − expected| ≤ |ours − exact| + |exact − expected| ≤ own + theirs
//! ```
//!
//! *theirs* is the bound of the operation with u = 2⁻²⁴ over the length of its sums, from [`resnet_by_hand::verify::bounds`]:
//! those of inner products hold for any order, so also for NumPy's and PyTorch's. Where theirs computes differently from our
//! layer (softmax, batch statistics, attributes rounded to `f32` that the generator had as doubles), the bound is derived
//! beside the operation. *own* is the bound of our layer: where it computes the same sums, in `f32` as large as theirs (so the
//! total is twice the bound), and in `f64` at most 2⁻²⁹ times that (γ grows faster than u). No constant here was chosen from
//! an observed error.

use ndarray::{Array, ArrayD, Dimension};
use resnet_by_hand::Scalar;
use resnet_by_hand::layers::{Activation, nhwc_to_nchw};

/// u of `f32`, the type of all expected outputs.
pub const U: f64 = f32::UNIT_ROUNDOFF;

/// One output computed in one way.
pub struct Computed {
    /// Which output of the node.
    pub output: usize,
    /// The way of computation, if there are several.
    pub how: String,
    pub got: ArrayD<f64>,
    /// theirs + own.
    pub tolerance: ArrayD<f64>,
}

impl Computed {
    /// Computed with the same sums as theirs: own is theirs with the u of `T`.
    pub fn new<T: Scalar>(output: usize, got: ArrayD<f64>, theirs: ArrayD<f64>) -> Self {
        let own = theirs.clone();
        Computed::with_own::<T>(output, "", got, theirs, own)
    }

    /// Copied, not computed: the same value.
    pub fn exact(output: usize, got: ArrayD<f64>) -> Self {
        let tolerance = ArrayD::zeros(got.raw_dim());
        Computed { output, how: String::new(), got, tolerance }
    }

    /// With a different bound of our own, given for u = 2⁻²⁴.
    pub fn with_own<T: Scalar>(
        output: usize,
        how: impl Into<String>,
        got: ArrayD<f64>,
        theirs: ArrayD<f64>,
        own: ArrayD<f64>,
    ) -> Self {
        let tolerance = theirs + own * (T::UNIT_ROUNDOFF / U);
        Computed { output, how: how.into(), got, tolerance }
    }

    /// In the shape of the expected output; the elements are in the same order.
    pub fn shaped(self, shape: &[usize]) -> Self {
        let reshape = |array: ArrayD<f64>| array.into_shape_with_order(shape).expect("as many elements");
        Computed { got: reshape(self.got), tolerance: reshape(self.tolerance), ..self }
    }
}

/// Any array as `f64`.
pub fn wide<T: Scalar, D: Dimension>(values: &Array<T, D>) -> ArrayD<f64> {
    values.mapv(Scalar::as_f64).into_dyn()
}

/// Activations as (N, C, H, W) in `f64`.
pub fn nchw<T: Scalar>(values: &Activation<T>) -> ArrayD<f64> {
    wide(&nhwc_to_nchw(values))
}

/// Values in `T`, where each must be exact.
pub fn exact<T: Scalar>(values: &ArrayD<f64>) -> ArrayD<T> {
    values.mapv(|value| {
        let rounded = T::of(value);
        assert_eq!(rounded.as_f64(), value, "exact in {}", T::NAME);
        rounded
    })
}
