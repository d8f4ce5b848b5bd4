//! Residual blocks and the networks built of them.
//!
//! - [`mod@unit`]: convolution, batch norm, activation, in this order;
//! - [`shortcut`]: the other way round a block, He et al.'s options A, B, C, or none at all;
//! - [`block`]: y = relu(F(x) + S(x)), basic and bottleneck (He et al. 2015, arXiv 1512.03385);
//! - [`pre_activation`]: y = F(x) + S(x), normalisation first (He et al. 2016, arXiv 1603.05027);
//! - [`resnet`]: stem, stages of blocks, global average pool, linear layer;
//! - [`architecture`]: a network as plain data, and every network that has a name;
//! - [`init`]: the numbers a network starts with; [`cost`]: what a pass costs.

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

/// a + b: the residual addition, and the sum of the gradients of a value that was used twice.
pub(crate) fn add<T: Scalar>(a: Activation<T>, b: &Activation<T>) -> Activation<T> {
    assert_eq!(a.shape(), b.shape(), "the two summands have one shape");
    (a.into_owned() + b).into_shared()
}
