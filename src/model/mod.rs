//! Residual blocks and the networks built from them.
//!
//! - [`mod@unit`]: convolution, batch norm, activation, in this order;
//! - [`shortcut`]: the path around a block's branch: He et al.'s options A, B, C, or none;
//! - [`block`]: y = relu(F(x) + S(x)), basic and bottleneck (He et al. 2015, arXiv 1512.03385);
//! - [`pre_activation`]: y = F(x) + S(x), normalisation first (He et al. 2016, arXiv 1603.05027);
//! - [`resnet`]: stem, stages of blocks, global average pool, linear layer;
//! - [`architecture`]: a network as plain data, and all named networks;
//! - [`init`]: the initial parameters of a network; [`cost`]: the cost of a pass.

pub mod architecture;
pub mod block;
pub mod cost;
pub mod init;
pub mod pre_activation;
pub mod resnet;
pub mod shortcut;
pub mod unit;

pub use architecture::{Architecture, BlockKind, BottleneckStride, Order, ShortcutOption, Stage, Stem};
pub use block::Block;
pub use cost::Cost;
pub use resnet::{ResNet, ResNetCache};

use crate::{Activation, Scalar};

/// a + b: the residual addition, and the sum of the gradients of a value that is used twice.
pub(crate) fn add<T: Scalar>(a: Activation<T>, b: &Activation<T>) -> Activation<T> {
    assert_eq!(a.shape(), b.shape(), "the two summands must have the same shape");
    (a.into_owned() + b).into_shared()
}
