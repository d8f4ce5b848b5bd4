//! The parameter-free shortcut between stages, option A of He et al. 2015 (section 3.3 and 4.2).
//!
//! ```text
//! x (N, H, W, C_in)     y (N, ⌈H/stride⌉, ⌈W/stride⌉, C_out)     before = ⌊(C_out − C_in)/2⌋
//!
//! y[n,h,w,c] = x[n, h·stride, w·stride, c − before]      where 0 ≤ c − before < C_in
//!              0                                         elsewhere
//! dx[n, h·stride, w·stride, c − before] = dy[n,h,w,c],   0 at the skipped pixels
//! ```
//!
//! The paper says "extra zero entries padded" without saying where. This layer pads half before and half after, as the
//! widely used public CIFAR checkpoints do (`F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, C_out/4, C_out/4))`); Torch7's code
//! pads at the end. The two are the same network up to a permutation of channels.
//!
//! Cost: one pass over y. Cache: the shape of x.
//!
//! ```
//! use ndarray::Array4;
//! use resnet_by_hand::layers::ZeroPadShortcut;
//! let x = Array4::from_shape_fn((1, 2, 2, 2), |(_, h, w, c)| (1 + 4 * h + 2 * w + c) as f64).into_shared();
//! let (y, _) = ZeroPadShortcut { stride: 2, c_out: 4 }.forward(&x)?;
//! assert_eq!(y.as_slice().unwrap(), [0.0, 1.0, 2.0, 0.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::{Activation, check_dy};
use crate::{Error, Result, Scalar};
use ndarray::{Array4, s};

/// Subsampling by `stride` and zero channels up to `c_out`; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroPadShortcut {
    /// Distance between kept pixels, at least 1.
    pub stride: usize,
    /// Channels of y, at least those of x.
    pub c_out: usize,
}

/// What [`ZeroPadShortcut::backward`] needs from the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct ZeroPadShortcutCache {
    x: (usize, usize, usize, usize),
}

impl ZeroPadShortcut {
    /// Returns y and the cache.
    ///
    /// # Errors
    /// If x has more channels than y or the stride is 0.
    pub fn forward<T: Scalar>(&self, x: &Activation<T>) -> Result<(Activation<T>, ZeroPadShortcutCache)> {
        let (mut y, step) = (Array4::zeros(self.output_shape(x.dim())?), self.stride as isize);
        y.slice_mut(s![.., .., .., self.kept(x.dim().3)]).assign(&x.slice(s![.., ..;step, ..;step, ..]));
        Ok((y.into_shared(), ZeroPadShortcutCache { x: x.dim() }))
    }

    /// dx for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward<T: Scalar>(&self, dy: &Activation<T>, cache: &ZeroPadShortcutCache) -> Result<Activation<T>> {
        check_dy("zero_pad_shortcut", dy.shape(), &<[usize; 4]>::from(self.output_shape(cache.x)?))?;
        let (mut dx, step) = (Array4::zeros(cache.x), self.stride as isize);
        dx.slice_mut(s![.., ..;step, ..;step, ..]).assign(&dy.slice(s![.., .., .., self.kept(cache.x.3)]));
        Ok(dx.into_shared())
    }

    /// Shape of y for an x of shape `(N, H, W, C_in)`.
    ///
    /// # Errors
    /// As [`ZeroPadShortcut::forward`].
    pub fn output_shape(&self, x: (usize, usize, usize, usize)) -> Result<(usize, usize, usize, usize)> {
        let (n, h, w, c_in) = x;
        if self.stride == 0 {
            return Err(Error::argument("zero_pad_shortcut", "stride must be at least 1, got 0"));
        }
        if c_in > self.c_out {
            let expected = format!("at most C_out = {}", self.c_out);
            return Err(Error::shape("zero_pad_shortcut", "x", expected, &[n, h, w, c_in]));
        }
        Ok((n, h.div_ceil(self.stride), w.div_ceil(self.stride), self.c_out))
    }

    /// The channels of y that contain x.
    pub(crate) fn kept(&self, c_in: usize) -> std::ops::Range<usize> {
        let before = (self.c_out - c_in) / 2;
        before..before + c_in
    }
}

#[cfg(test)]
mod tests {
    use crate::verify::check_layer;

    /// Verifies the backward pass: every gradient against finite differences in `f64`.
    #[test]
    fn gradients_equal_finite_differences() {
        for report in check_layer("zero_pad_shortcut", 1).unwrap() {
            assert!(report.passed(), "{report}");
        }
    }
}
