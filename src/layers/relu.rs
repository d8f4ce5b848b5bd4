//! ReLU and leaky ReLU.
//!
//! ```text
//! y = x            where x > 0                 dx = dy                     where y > 0
//!     slope · x    elsewhere                        slope · dy             elsewhere
//! ```
//!
//! ReLU is slope 0; the leaky ReLU's usual slope is 0.01.
//!
//! At x = 0 the function has no derivative; the convention, as in PyTorch, is ReLU'(0) = slope, so 0 for ReLU. The
//! convention 1 would change gradients wherever an input is exactly 0, which is frequent after padding and other ReLUs.
//! Forward propagates NaN, as in PyTorch; backward gives `dy` at a NaN for ReLU and `slope · dy` for the leaky ReLU, as
//! PyTorch's two kernels do.
//!
//! Cache: the handle of y. With slope ≥ 0, y > 0 exactly where x > 0, and the next layer keeps y anyway.
//!
//! ```
//! use ndarray::Array4;
//! use resnet_by_hand::layers::Relu;
//! let x = Array4::from_shape_vec((1, 1, 3, 1), vec![-2.0, 0.0, 3.0])?.into_shared();
//! let (y, cache) = Relu::new().forward(&x);
//! assert_eq!(y.as_slice().unwrap(), [0.0, 0.0, 3.0]);
//! let dy = Array4::from_elem((1, 1, 3, 1), 5.0).into_shared();
//! assert_eq!(Relu::new().backward(&dy, &cache)?.as_slice().unwrap(), [0.0, 0.0, 5.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::{Activation, check_dy, contiguous};
use crate::{Error, Result, Scalar};

/// y = max(x, slope · x); see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relu<T> {
    slope: T,
    leaky: bool,
}

/// What [`Relu::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct ReluCache<T> {
    y: Activation<T>,
}

impl<T: Scalar> Relu<T> {
    /// The ReLU, slope 0.
    pub fn new() -> Self {
        Relu { slope: T::zero(), leaky: false }
    }

    /// The leaky ReLU.
    ///
    /// # Errors
    /// If the slope is not in [0, 1]: backward takes the sign of x from y.
    pub fn leaky(slope: T) -> Result<Self> {
        if slope >= T::zero() && slope <= T::one() {
            Ok(Relu { slope, leaky: true })
        } else {
            Err(Error::argument("leaky_relu", format!("slope must be in [0, 1], got {slope}")))
        }
    }

    /// The factor of negative values.
    pub fn slope(&self) -> T {
        self.slope
    }

    /// Whether this is a leaky ReLU. With slope 0 it is a ReLU but for infinities: 0 · (−∞) is NaN, and max(−∞, 0) is 0.
    pub fn is_leaky(&self) -> bool {
        self.leaky
    }

    /// The same function in another number type.
    pub(crate) fn cast<S: Scalar>(&self) -> Relu<S> {
        Relu { slope: S::of(self.slope.as_f64()), leaky: self.leaky }
    }

    /// Returns y and the cache.
    pub fn forward(&self, x: &Activation<T>) -> (Activation<T>, ReluCache<T>) {
        let y = contiguous(x).mapv(|x| self.of(x)).into_shared();
        (y.clone(), ReluCache { y })
    }

    /// dx for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(&self, dy: &Activation<T>, cache: &ReluCache<T>) -> Result<Activation<T>> {
        check_dy("relu", dy.shape(), cache.y.shape())?;
        let mut dx = contiguous(dy).into_owned();
        dx.zip_mut_with(&cache.y, |dx, &y| *dx = self.pull(*dx, y));
        Ok(dx.into_shared())
    }

    /// y of one x.
    #[inline(always)]
    pub(crate) fn of(&self, x: T) -> T {
        // `<=` is false for NaN, so NaN is returned.
        if x <= T::zero() { self.scale(x) } else { x }
    }

    /// dx of one dy, given y.
    #[inline(always)]
    pub(crate) fn pull(&self, dy: T, y: T) -> T {
        let closed = y <= T::zero() || (self.leaky && y.is_nan());
        if closed { self.scale(dy) } else { dy }
    }

    /// slope · value; 0 for a ReLU, even if the value is infinite (0 · ∞ would be NaN).
    #[inline(always)]
    fn scale(&self, value: T) -> T {
        if self.leaky { self.slope * value } else { T::zero() }
    }
}

impl<T: Scalar> Default for Relu<T> {
    fn default() -> Self {
        Relu::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::check_layer;
    use ndarray::Array4;

    fn row(values: &[f64]) -> Activation<f64> {
        Array4::from_shape_vec((1, 1, values.len(), 1), values.to_vec()).unwrap().into_shared()
    }

    #[test]
    fn leaky_scales_the_negative_side_and_its_gradient() {
        let relu = Relu::leaky(0.25).unwrap();
        let (y, cache) = relu.forward(&row(&[-4.0, 0.0, 8.0]));
        assert_eq!(y, row(&[-1.0, 0.0, 8.0]));
        assert_eq!(relu.backward(&row(&[4.0, 4.0, 4.0]), &cache).unwrap(), row(&[1.0, 1.0, 4.0]));
    }

    #[test]
    fn nan_passes_as_in_pytorch() {
        let (y, cache) = Relu::new().forward(&row(&[f64::NAN, -1.0]));
        assert!(y[[0, 0, 0, 0]].is_nan());
        assert_eq!(Relu::new().backward(&row(&[2.0, 2.0]), &cache).unwrap(), row(&[2.0, 0.0]));
        let leaky = Relu::leaky(0.5).unwrap();
        let (_, cache) = leaky.forward(&row(&[f64::NAN]));
        assert_eq!(leaky.backward(&row(&[2.0]), &cache).unwrap(), row(&[1.0]));
    }

    #[test]
    fn infinities_behind_a_closed_gate_are_zero() {
        let (y, cache) = Relu::new().forward(&row(&[f64::NEG_INFINITY, f64::INFINITY, -1.0]));
        assert_eq!(y, row(&[0.0, f64::INFINITY, 0.0]));
        let dy = row(&[1.0, 2.0, f64::INFINITY]);
        assert_eq!(Relu::new().backward(&dy, &cache).unwrap(), row(&[0.0, 2.0, 0.0]));
        let leaky = Relu::leaky(0.5).unwrap();
        assert_eq!(leaky.forward(&row(&[f64::NEG_INFINITY])).0, row(&[f64::NEG_INFINITY]));
    }

    #[test]
    fn shared_input_is_left_alone() {
        let x = row(&[-1.0, 1.0]);
        let (y, _) = Relu::new().forward(&x);
        assert_eq!((x, y), (row(&[-1.0, 1.0]), row(&[0.0, 1.0])));
    }

    #[test]
    fn slopes_outside_the_unit_interval_are_refused() {
        for slope in [-0.1, 1.5, f64::NAN] {
            assert!(Relu::leaky(slope).unwrap_err().to_string().contains("[0, 1]"));
        }
    }

    /// Verifies the backward pass: every gradient against finite differences in `f64`.
    #[test]
    fn gradients_equal_finite_differences() {
        for layer in ["relu", "leaky_relu"] {
            for report in check_layer(layer, 1).unwrap() {
                assert!(report.passed(), "{report}");
            }
        }
    }
}
