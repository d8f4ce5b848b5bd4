//! One file per layer, forward directly above backward, the equations in the header.
//!
//! | layer | file | y = | dx = |
//! |---|---|---|---|
//! | convolution | [`conv2d`] | x ∗ weight + bias | dy ∗ᵀ weight |
//! | batch norm | [`batch_norm`] | γ x̂ + β | γ rstd (dy − mean(dy) − x̂ mean(dy x̂)) |
//! | ReLU, leaky ReLU | [`relu`] | max(x, 0) | dy where y > 0 |
//! | pooling | [`pool`] | max or mean of a window | dy to the maximum, or distributed |
//! | shortcut without parameters | [`zero_pad_shortcut`] | subsampled, zero channels added | the adjoint |
//! | linear | [`linear`] | x Wᵀ + b | dy W |
//! | loss | [`softmax_cross_entropy`] | −log softmax(logits)ₜ | softmax − onehot |
//!
//! All have the same interface: `forward(x, ..) -> (y, cache)` and `backward(dy, &cache) -> (dx, grads)`, both on
//! `&self`. The cache contains only what backward needs. Gradients are *returned*, never added to hidden state: where a
//! value is used twice, the caller adds the gradients.

pub mod batch_norm;
pub mod conv2d;
pub mod linear;
pub mod pool;
pub mod relu;
pub mod softmax_cross_entropy;
pub mod zero_pad_shortcut;

pub use batch_norm::{BatchNorm2d, Mode, RunningVariance};
pub use conv2d::Conv2d;
pub use linear::Linear;
pub use pool::{AvgPool2d, GlobalAvgPool, MaxPool2d};
pub use relu::Relu;
pub use softmax_cross_entropy::{Reduction, SoftmaxCrossEntropy};
pub use zero_pad_shortcut::ZeroPadShortcut;

pub use crate::Activation;
pub use crate::activation::{nchw_to_nhwc, nhwc_to_nchw};

pub(crate) use crate::activation::contiguous;
use crate::parallel::{add_slices, tree_sum};
use crate::{Error, Result, Scalar};
use ndarray::Array1;

/// Σ over images and pixels of each channel of `x (N, H, W, C)`: leaves of 256 pixels, added in the fixed tree.
pub(crate) fn channel_sums<T: Scalar>(x: &Activation<T>) -> Array1<T> {
    let c = x.dim().3;
    let leaves: Vec<&[T]> = x.as_slice().expect("contiguous").chunks((256 * c).max(1)).collect();
    let leaf_sum = |leaf: usize| {
        let mut sum = vec![T::zero(); c];
        leaves[leaf].chunks_exact(c).for_each(|pixel| add_slices(&mut sum, pixel));
        sum
    };
    tree_sum(leaves.len(), &leaf_sum, &|a, b| add_slices(a, &b)).map_or_else(|| Array1::zeros(c), Array1::from)
}

/// Rejects a `dy` whose shape is not that of its `y`.
pub(crate) fn check_dy(op: &'static str, dy: &[usize], y: &[usize]) -> Result<()> {
    if dy == y { Ok(()) } else { Err(Error::shape(op, "dy", format!("the output's shape {y:?}"), dy)) }
}
