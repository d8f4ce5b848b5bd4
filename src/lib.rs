//!
//! Reading order, following one image through the crate:
//!
//! 1. [`data`] turns bytes into a batch of images `x (N, H, W, 3)`;
//! 2. [`layers`] holds one file per layer, forward directly above backward;
//! 3. [`model`] composes layers into residual blocks and blocks into networks;
//! 4. [`optim`] updates the parameters, [`train`] closes the loop;
//! 5. [`verify`] shows that every gradient above is right;
//! 6. [`tensors`] and, with the feature `formats`, the module `formats` exchange numbers with other programs.
//!
//! # Conventions
//!
//! Activations are channels-last inside the crate, [`Activation`] `(N, H, W, C)`; parameters have PyTorch's shapes
//! (`weight (C_out, C_in/groups, kh, kw)`, `(out_features, in_features)`). A `d` prefix means ∂loss/∂: `dy` is the
//! gradient of the loss with respect to `y`. Every layer is plain data with
//! `forward(x, ..) -> (y, cache)` and `backward(dy, &cache) -> (dx, grads)`; both take `&self` and change nothing.
//! The only two things that change a model are [`optim::Sgd::step`] and
//! [`model::ResNet::update_running_statistics`].
//!
//! Every result is a function of its inputs alone: work is cut by data, never by thread count, and sums are combined
//! in a fixed tree (see [`parallel`]), so one thread and eight give the same bits.
#![forbid(unsafe_op_in_unsafe_fn)]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod data;
pub mod engine;
pub mod error;
pub mod gemm;
pub mod kernels;
pub mod layers;
pub mod model;
pub mod optim;
pub mod oracle;
pub mod parallel;
pub mod parameters;
pub mod rng;
pub mod scalar;
pub mod tensors;
pub mod train;
pub mod verify;

#[cfg(feature = "formats")]
pub mod formats;

pub use error::{Error, Result};
pub use layers::Activation;
pub use parameters::{Gradients, Parameters};
pub use scalar::Scalar;

/// The code in `README.md` and `docs/` compiles and runs.
#[cfg(doctest)]
mod docs {
    #[doc = include_str!("../README.md")]
    mod front_page {}

    macro_rules! pages {
        ($($name:ident = $file:literal),+ $(,)?) => { $(
            #[doc = include_str!(concat!("../docs/", $file))]
            mod $name {}
        )+ };
    }
    pages! {
        readme = "README.md",
        conv2d = "conv2d.md",
        batch_norm = "batch_norm.md",
        relu = "relu.md",
        pooling = "pooling.md",
        linear = "linear.md",
        softmax_cross_entropy = "softmax_cross_entropy.md",
        residual_block = "residual_block.md",
        sgd = "sgd.md",
        training = "training.md",
        checking_gradients = "checking_gradients.md",
        oracle = "oracle.md",
        onnx = "onnx.md",
        known_errors = "known_errors.md",
        architecture = "architecture.md",
        speed = "speed.md",
    }
    #[cfg(feature = "formats")]
    pages! {
        data = "data.md",
        formats = "formats.md",
    }
}
