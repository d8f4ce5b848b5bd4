//! The arrays between layers, and their conversion at the border.
//!
//! Inside the crate images are channels-last, `(N, H, W, C)`: the channels of a pixel are contiguous, so the inner
//! loops of every layer run over them. Callers pass and receive `(N, C, H, W)`, as in PyTorch; the conversion happens
//! once, at the border.

use crate::Scalar;
use ndarray::{ArcArray, Array4, ArrayView4, Ix4};

/// Activations `(N, H, W, C)`: a batch of N images of H x W pixels with C channels, channels last and contiguous.
///
/// Reference-counted: a layer that keeps its input for the backward pass clones the handle, not the values.
pub type Activation<T> = ArcArray<T, Ix4>;

/// Converts `x (N, C, H, W)`, the layout of PyTorch, to `(N, H, W, C)`, the layout of this crate.
///
/// ```
/// use ndarray::Array4;
/// use resnet_by_hand::layers::{nchw_to_nhwc, nhwc_to_nchw};
/// let x = Array4::from_shape_fn((2, 3, 4, 5), |(n, c, h, w)| (n * 1000 + c * 100 + h * 10 + w) as f32);
/// let y = nchw_to_nhwc(x.view());
/// assert_eq!(y[[1, 3, 4, 2]], 1234.0);
/// assert_eq!(nhwc_to_nchw(&y), x);
/// ```
pub fn nchw_to_nhwc<T: Scalar>(x: ArrayView4<T>) -> Activation<T> {
    x.permuted_axes([0, 2, 3, 1]).as_standard_layout().into_owned().into_shared()
}

/// Converts `x (N, H, W, C)` to `(N, C, H, W)`, contiguous.
pub fn nhwc_to_nchw<T: Scalar>(x: &Activation<T>) -> Array4<T> {
    x.view().permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned()
}

/// The same activations in contiguous memory; a clone of the handle if they already are.
pub(crate) fn contiguous<T: Scalar>(x: &Activation<T>) -> Activation<T> {
    if x.is_standard_layout() { x.clone() } else { x.as_standard_layout().into_owned().into_shared() }
}
