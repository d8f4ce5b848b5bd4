//! Deep residual networks for CIFAR-10, with every forward and backward pass written by hand.
//!
//! The crate has two implementations. The **reference** is written to be read, and it verifies everything else: plain
//! layers in `f32` or `f64`, whose code contains every equation of the documentation. The **engine** trains: it
//! computes the same values in `f32`, faster. The reference does not depend on the engine.
//!
//! Reading order, following one image through the reference:
//!
//! 1. [`data`] turns bytes into a batch of images `x (N, H, W, 3)`;
//! 2. [`layers`] holds one file per layer, forward directly above backward;
//! 3. [`model`] composes layers into residual blocks and blocks into networks;
//! 4. [`optim`] updates the parameters, [`train`] contains the training loop;
//! 5. [`program`] runs a network as a list of named steps, so that every value can be observed;
//! 6. [`verify`] verifies every gradient above;
//! 7. [`oracle`] checks another implementation's results.
//!
//! The other modules: [`engine`], the fast implementation; [`base`], which all of them use; with the feature `formats`,
//! `formats` and `weights`, which read and write the files of other programs; with the feature `cli`, `cli`, the
//! command `resnet`.
//!
//! # Conventions
//!
//! Activations are channels-last inside the crate, [`Activation`] `(N, H, W, C)`; parameters have PyTorch's shapes
//! (`weight (C_out, C_in/groups, kh, kw)`, `(out_features, in_features)`). A `d` prefix means ∂loss/∂: `dy` is the
//! gradient of the loss with respect to `y`. Every layer is plain data with
//! `forward(x, ..) -> (y, cache)` and `backward(dy, &cache) -> (dx, grads)`; both take `&self` and change nothing.
//! Only functions that take a model as `&mut` change it: in training [`optim::Sgd::step`] and
//! `update_running_statistics`, otherwise for example the loading of weights.
//!
//! Every result is a function of its inputs alone: work is split by the shape of the data, never by the number of
//! threads, and sums are combined in a fixed tree (see [`parallel`]). So results are bit-identical for any number of
//! threads.
#![forbid(unsafe_op_in_unsafe_fn)]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod base;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod engine;
pub mod layers;
pub mod model;
pub mod optim;
pub mod oracle;
pub mod program;
pub mod train;
pub mod verify;

#[cfg(feature = "formats")]
pub mod formats;
#[cfg(feature = "formats")]
pub mod weights;

pub use base::activation::Activation;
pub use base::error::{Error, Result};
pub use base::parameters::{Gradients, Parameters};
pub use base::scalar::Scalar;
pub use base::{activation, error, gemm, parallel, parameters, processes, rng, scalar, shards, tensors};

#[cfg(test)]
mod docs_test;
#[cfg(test)]
mod structure;

/// The tests of the library as a whole. They use its public names only, but are compiled here, because a crate of their
/// own would compile the generic layers once more.
#[cfg(test)]
#[path = "../tests/library/mod.rs"]
mod library;
#[cfg(test)]
extern crate self as resnet_by_hand;

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
        notation = "notation.md",
        conv2d = "conv2d.md",
        batch_norm = "batch_norm.md",
        relu = "relu.md",
        pooling = "pooling.md",
        linear = "linear.md",
        softmax_cross_entropy = "softmax_cross_entropy.md",
        residual_block = "residual_block.md",
        sgd = "sgd.md",
        where_next = "where_next.md",
        training = "training.md",
        checking_gradients = "checking_gradients.md",
        verification = "verification.md",
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
