//! One file per layer, forward directly above backward, the equations in the header.
//!
//! | layer | file | y = | dx = |
//! |---|---|---|---|
//! | convolution | [`conv2d`] | x ∗ weight + bias | dy ∗ᵀ weight |
//! | batch norm | [`batch_norm`] | γ x̂ + β | γ rstd (dy − mean(dy) − x̂ mean(dy x̂)) |
//! | ReLU, leaky ReLU | [`relu`] | max(x, 0) | dy where y > 0 |
//! | pooling | [`pool`] | max or mean of a window | dy to the maximum, or shared out |
//! | shortcut without parameters | [`zero_pad_shortcut`] | subsampled, zero channels added | the adjoint |
//! | linear | [`linear`] | x Wᵀ + b | dy W |
//! | loss | [`softmax_cross_entropy`] | −log softmax(logits)ₜ | softmax − onehot |
//!
//! All share one shape of interface: `forward(x, ..) -> (y, cache)` and `backward(dy, &cache) -> (dx, grads)`, both on
//! `&self`. The cache holds what backward needs and nothing else. Gradients are *returned*, never added to hidden
//! state: where a value is used twice, the caller writes the sum.

pub mod batch_norm;
pub mod conv2d;
pub(crate) mod fused;
pub mod gates;
pub mod linear;
pub mod pool;
pub mod relu;
pub mod softmax_cross_entropy;
pub mod zero_pad_shortcut;

pub use batch_norm::{BatchNorm2d, Mode, RunningVariance};
pub use conv2d::{Conv2d, Conv2dAlgorithm};
pub use gates::Gates;
pub use linear::Linear;
pub use pool::{AvgPool2d, GlobalAvgPool, MaxPool2d};
pub use relu::Relu;
pub use softmax_cross_entropy::{Reduction, SoftmaxCrossEntropy};
pub use zero_pad_shortcut::ZeroPadShortcut;

use crate::{Error, Result, Scalar};
use ndarray::{ArcArray, Array4, ArrayView4, Ix4};

/// Activations `(N, H, W, C)`: a batch of N images of H x W pixels with C channels, channels last and contiguous.
///
/// Reference-counted: a layer that keeps its input for the backward pass clones the handle, not the numbers.
pub type Activation<T> = ArcArray<T, Ix4>;

/// `x (N, C, H, W)`, as PyTorch has it, to `(N, H, W, C)`, as this crate has it.
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

/// `x (N, H, W, C)` to `(N, C, H, W)`, contiguous.
pub fn nhwc_to_nchw<T: Scalar>(x: &Activation<T>) -> Array4<T> {
    x.view().permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned()
}

/// The same activations in contiguous memory: the handle itself where they already are.
pub(crate) fn contiguous<T: Scalar>(x: &Activation<T>) -> Activation<T> {
    if x.is_standard_layout() {
        x.clone()
    } else {
        x.as_standard_layout().into_owned().into_shared()
    }
}

/// Refuses a `dy` whose shape is not that of the `y` it is the gradient of.
pub(crate) fn check_dy(op: &'static str, dy: &[usize], y: &[usize]) -> Result<()> {
    if dy == y {
        Ok(())
    } else {
        Err(Error::shape(op, "dy", format!("the output's shape {y:?}"), dy))
    }
}
