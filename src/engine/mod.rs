//! The engine: the network of [`crate::model`] in `f32`, as fast as the processor allows.
//!
//! People read the reference, [`crate::layers`] and [`crate::model`]; the engine trains. The two compute the same
//! equations. The engine is verified against the reference: exactly on whole numbers, within a-priori bounds otherwise,
//! and on whole networks with its own ReLU and max-pool choices replayed in `f64` (`tests/library/judge.rs`). The
//! reference does not depend on the engine.
//!
//! ```
//! use ndarray::Array4;
//! use resnet_by_hand::engine::Engine;
//! use resnet_by_hand::layers::SoftmaxCrossEntropy;
//! use resnet_by_hand::model::{Architecture, ResNet};
//!
//! let (engine, mut model) = (Engine::default(), ResNet::<f32>::new(&Architecture::by_name("resnet8")?, 0)?);
//! let images = Array4::from_shape_fn((2, 8, 8, 3), |(n, h, w, c)| ((n + 2 * h + 3 * w + 5 * c) % 7) as f32).into_shared();
//! let loss_layer = SoftmaxCrossEntropy::new();
//!
//! let (logits, cache) = engine.forward(&model, &images)?;
//! let (loss, loss_cache) = loss_layer.forward(&logits, &[3, 7])?;
//! engine.update_running_statistics(&mut model, &cache);
//! let gradients = engine.parameter_gradients(&model, &loss_layer.backward(&loss_cache), cache)?;
//! assert_eq!(gradients.get("conv1.weight").unwrap().shape(), [16, 3, 3, 3]);
//! # assert!(loss > 0.0);
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```
//!
//! # What makes it fast
//!
//! - Winograd's algorithm for 3x3 convolutions and indirect GEMM for all others ([`Algorithm`]);
//! - batch norm, ReLU and addition within the passes of the convolutions (`fused.rs`);
//! - reuse of large arrays (`buffers.rs`);
//! - microkernels for AVX-512, AVX2 and any processor ([`kernels`]), the only `unsafe`.
//!
//! # Reproducibility
//!
//! Work is split by shapes, never by the number of threads, and sums over the batch use the fixed tree of
//! [`crate::parallel`]: results are bit-identical for any number of threads, and on AVX2 and AVX-512. A batch in several
//! [`Shards`] gives the same bits for any number of processes: what a process computes, an image's activations and sums
//! inside a shard, depends on no other shard's images, and the sums of the shards are added in the tree.
//!
//! # Files, in the order of an image
//!
//! `network.rs` calls `unit.rs`, `block.rs` and `pre_activation.rs`; these call the convolutions of `conv/` with prologues
//! and epilogues from `fused.rs`, whose arithmetic is `norm.rs`; `leaves.rs` splits sums over the batch, `groups.rs` has what
//! differs from group to group in "ghost" batch norm; `pool.rs` has the layers that are not convolutions, `linear.rs` the last
//! one; `completion.rs` exchanges gradients between processes; `memory.rs` estimates the memory of a pass.

mod block;
mod buffers;
mod completion;
#[cfg(test)]
mod composed;
mod conv;
mod fused;
mod groups;
pub mod kernels;
mod leaves;
mod linear;
mod memory;
mod network;
mod norm;
mod pool;
mod pre_activation;
mod unit;

pub use conv::Algorithm;
pub use memory::{Arrays, PassMemory};
pub use network::{Cache, Chosen};

use crate::Activation;
use crate::parameters::Gradients;
use crate::shards::Shards;
use buffers::Shelf;

/// The engine: how convolutions are computed, and the arrays of earlier passes.
///
/// It contains no part of a model: every call takes one by reference. Clones share their arrays.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    algorithm: Algorithm,
    shelf: Shelf,
}

impl Engine {
    /// An engine that computes convolutions by `algorithm` if it applies.
    pub fn new(algorithm: Algorithm) -> Self {
        Engine { algorithm, shelf: Shelf::default() }
    }

    /// The algorithm of the convolutions.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Frees the arrays of earlier passes that are kept for the next ones.
    pub fn release(&self) {
        self.shelf.clear();
    }

    /// Reuses the memory of gradients that are no longer needed in the next step.
    pub fn recycle(&self, gradients: Gradients<f32>) {
        gradients.into_entries().into_iter().for_each(|(_, gradient)| self.shelf.recycle(gradient.into_shared()));
    }
}

/// What every part of a pass needs.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    algorithm: Algorithm,
    shelf: Shelf,
    /// How the batch is split.
    shards: Shards,
}

impl Engine {
    fn pass(&self, shards: &Shards) -> Pass {
        Pass { algorithm: self.algorithm, shelf: self.shelf.clone(), shards: shards.clone() }
    }
}

impl Pass {
    /// The shape of the fewest activations that a batch norm normalises together, from that of this process.
    fn together(&self, (_, h, w, c): (usize, usize, usize, usize)) -> (usize, usize, usize, usize) {
        (self.shards.together(), h, w, c)
    }
}

fn shape(x: &Activation<f32>) -> [usize; 4] {
    x.dim().into()
}
