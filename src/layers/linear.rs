//! The linear (fully connected) layer.
//!
//! ```text
//! x (N, F_in)    weight (F_out, F_in)    bias (F_out)    y (N, F_out)
//!
//! y = x · weightᵀ + bias
//! dx = dy · weight          dweight = dyᵀ · x          dbias = Σ_n dy
//! ```
//!
//! The shapes determine each line of the backward pass: dx (N, F_in) can only be dy (N, F_out) · weight (F_out, F_in).
//!
//! Cost: N·F_in·F_out multiply-adds forward, twice that backward. Cache: x.
//!
//! ```
//! use ndarray::array;
//! use resnet_by_hand::layers::Linear;
//! let linear = Linear { weight: array![[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]], bias: array![0.5, 0.0, 0.0] };
//! let (y, cache) = linear.forward(&array![[1.0, 1.0]])?;
//! assert_eq!(y, array![[3.5, -1.0, 3.0]]);
//! let (dx, grads) = linear.backward(&array![[1.0, 0.0, 2.0]], &cache)?;
//! assert_eq!(dx, array![[7.0, 2.0]]); // 1 · (1, 2) + 2 · (3, 0)
//! assert_eq!(grads.weight, array![[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::check_dy;
use crate::gemm::gemm;
use crate::parameters::{Gradients, Parameters, Role, join};
use crate::{Error, Result, Scalar};
use ndarray::{Array1, Array2, ArrayViewD, ArrayViewMutD, Axis};

/// A linear layer; see the [module documentation](self) for the equations.
#[derive(Clone, Debug)]
pub struct Linear<T> {
    /// `(F_out, F_in)`.
    pub weight: Array2<T>,
    /// `(F_out)`.
    pub bias: Array1<T>,
}

/// What [`Linear::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct LinearCache<T> {
    x: Array2<T>,
}

/// Gradients of a [`Linear`]'s parameters.
#[derive(Clone, Debug)]
pub struct LinearGrads<T> {
    /// ∂loss/∂weight `(F_out, F_in)`.
    pub weight: Array2<T>,
    /// ∂loss/∂bias `(F_out)`.
    pub bias: Array1<T>,
}

impl<T: Scalar> Linear<T> {
    /// Returns y and the cache.
    ///
    /// # Errors
    /// If the features of `x` do not fit the weight.
    pub fn forward(&self, x: &Array2<T>) -> Result<(Array2<T>, LinearCache<T>)> {
        let (f_out, f_in) = self.weight.dim();
        if x.ncols() != f_in {
            return Err(Error::shape("linear", "x", format!("F_in = {f_in}"), x.shape()));
        }
        if self.bias.len() != f_out {
            return Err(Error::shape("linear", "bias", format!("({f_out},)"), self.bias.shape()));
        }
        let mut y = Array2::zeros((x.nrows(), f_out));
        y += &self.bias;
        // y (N, F_out) = bias + x (N, F_in) · weightᵀ (F_in, F_out)
        gemm(T::one(), x.view(), self.weight.t(), T::one(), y.view_mut());
        Ok((y, LinearCache { x: x.clone() }))
    }

    /// `(dx, grads)` for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(&self, dy: &Array2<T>, cache: &LinearCache<T>) -> Result<(Array2<T>, LinearGrads<T>)> {
        let (n, (f_out, f_in)) = (cache.x.nrows(), self.weight.dim());
        check_dy("linear", dy.shape(), &[n, f_out])?;
        let (mut dx, mut dweight) = (Array2::zeros((n, f_in)), Array2::zeros((f_out, f_in)));
        // dx (N, F_in) = dy (N, F_out) · weight (F_out, F_in)
        gemm(T::one(), dy.view(), self.weight.view(), T::zero(), dx.view_mut());
        // dweight (F_out, F_in) = dyᵀ (F_out, N) · x (N, F_in)
        gemm(T::one(), dy.t(), cache.x.view(), T::zero(), dweight.view_mut());
        Ok((dx, LinearGrads { weight: dweight, bias: dy.sum_axis(Axis(0)) }))
    }
}

impl<T: Scalar> Parameters<T> for Linear<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        visitor(&join(path, "weight"), Role::Weight, self.weight.view().into_dyn());
        visitor(&join(path, "bias"), Role::Bias, self.bias.view().into_dyn());
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        visitor(&join(path, "weight"), Role::Weight, self.weight.view_mut().into_dyn());
        visitor(&join(path, "bias"), Role::Bias, self.bias.view_mut().into_dyn());
    }
}

impl<T: Scalar> LinearGrads<T> {
    /// Adds these gradients to `gradients` under the names of the layer at `path`.
    pub fn collect(self, path: &str, gradients: &mut Gradients<T>) {
        gradients.push(path, "weight", self.weight);
        gradients.push(path, "bias", self.bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::check_layer;

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let linear = Linear { weight: Array2::<f64>::zeros((3, 4)), bias: Array1::zeros(3) };
        let message = linear.forward(&Array2::zeros((2, 5))).unwrap_err().to_string();
        assert_eq!(message, "linear: x expects F_in = 4, got shape [2, 5]");
        let (_, cache) = linear.forward(&Array2::zeros((2, 4))).unwrap();
        let message = linear.backward(&Array2::zeros((2, 4)), &cache).unwrap_err().to_string();
        assert_eq!(message, "linear: dy expects the output's shape [2, 3], got shape [2, 4]");
    }

    /// Verifies the backward pass: every gradient against finite differences in `f64`.
    #[test]
    fn gradients_equal_finite_differences() {
        for report in check_layer("linear", 1).unwrap() {
            assert!(report.passed(), "{report}");
        }
    }
}
