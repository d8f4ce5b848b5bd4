//! The two number types: `f32` for training, `f64` for verification. Every layer of the reference is generic over both.

use ndarray::{LinalgScalar, ScalarOperand};
use num_traits::{Float, FromPrimitive, NumAssign};
use std::fmt::{Debug, Display, LowerExp};
use std::iter::Sum;

/// `f32` or `f64`.
///
/// ```
/// use resnet_by_hand::Scalar;
/// assert_eq!(f32::UNIT_ROUNDOFF, 2f64.powi(-24));
/// assert_eq!(<f64 as Scalar>::of(0.5), 0.5);
/// ```
pub trait Scalar:
    sealed::Sealed
    + Float
    + NumAssign
    + FromPrimitive
    + LinalgScalar
    + ScalarOperand
    + Sum
    + Default
    + Debug
    + Display
    + LowerExp
    + Send
    + Sync
    + 'static
{
    /// The type's name as NumPy and PyTorch write it: `float32` or `float64`.
    const NAME: &'static str;
    /// The unit roundoff u: half the distance between 1 and the next larger number, 2⁻²⁴ or 2⁻⁵³.
    const UNIT_ROUNDOFF: f64;

    /// `value` rounded to this type.
    fn of(value: f64) -> Self;
    /// `self` as `f64`, exact for both types.
    fn as_f64(self) -> f64;
    /// `value` rounded to this type; exact below 2²⁴.
    fn of_usize(value: usize) -> Self {
        Self::of(value as f64)
    }
}

/// Restricts [`Scalar`] to the two types.
mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

impl Scalar for f32 {
    const NAME: &'static str = "float32";
    const UNIT_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;
    fn of(value: f64) -> Self {
        value as f32
    }
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Scalar for f64 {
    const NAME: &'static str = "float64";
    const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;
    fn of(value: f64) -> Self {
        value
    }
    fn as_f64(self) -> f64 {
        self
    }
}
