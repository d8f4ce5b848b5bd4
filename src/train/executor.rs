//! Computes the passes of a run: by the reference or by the engine.
//!
//! An [`Executor`] is selected once and passed to the [`Trainer`](super::Trainer) and to [`evaluate`](super::evaluate).
//! [`Reference`] calls the network itself, in `f32` or `f64`; an [`Engine`] computes the same values faster, in `f32`;
//! [`Trace`](super::Trace) is the reference, and prints the values of a pass.

use crate::engine::{self, Engine};
use crate::layers::Mode;
use crate::model::{ResNet, ResNetCache};
use crate::parameters::Gradients;
use crate::shards::Shards;
use crate::{Activation, Error, Result, Scalar};
use ndarray::Array2;
use std::fmt::Debug;

/// Computes the passes of a network.
pub trait Executor<T: Scalar>: Debug + Send + Sync {
    /// `fast` or `reference`, as on the command line.
    fn name(&self) -> &'static str;

    /// Logits `(N, classes)` of images `x (N, H, W, 3)` in training mode, and the pass, for backward. `shards` is how the
    /// batch is split; x and the logits are the part of this process.
    ///
    /// # Errors
    /// As [`ResNet::forward`]; or for more shards than the executor supports.
    fn forward(&self, model: &ResNet<T>, x: &Activation<T>, shards: &Shards) -> Result<(Array2<T>, Box<dyn Pass<T>>)>;

    /// Logits in evaluation mode.
    ///
    /// # Errors
    /// As [`ResNet::predict`].
    fn predict(&self, model: &ResNet<T>, x: &Activation<T>) -> Result<Array2<T>>;

    /// Frees the memory of earlier passes that is kept for the next ones: before something else needs it.
    fn release(&self) {}

    /// Reuses the memory of gradients that are no longer needed.
    fn recycle(&self, gradients: Gradients<T>) {
        drop(gradients);
    }
}

/// A completed forward pass in training mode, with the cache for its backward pass.
pub trait Pass<T: Scalar> {
    /// Updates the running statistics of every batch norm with those of this pass. Several processes do this together.
    fn update_running_statistics(&self, model: &mut ResNet<T>);

    /// The gradients of the parameters for `dlogits`.
    ///
    /// # Errors
    /// If the shape of `dlogits` is not that of the logits.
    fn parameter_gradients(self: Box<Self>, model: &ResNet<T>, dlogits: &Array2<T>) -> Result<Gradients<T>>;
}

/// The network itself: every layer as written in [`crate::layers`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl<T: Scalar> Executor<T> for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn forward(&self, model: &ResNet<T>, x: &Activation<T>, shards: &Shards) -> Result<(Array2<T>, Box<dyn Pass<T>>)> {
        expect_one(shards)?;
        let (logits, cache) = model.forward(x, Mode::Train)?;
        Ok((logits, Box::new(cache)))
    }

    fn predict(&self, model: &ResNet<T>, x: &Activation<T>) -> Result<Array2<T>> {
        model.predict(x)
    }
}

/// Rejects a batch in several shards: the reference adds over the whole batch.
pub(super) fn expect_one(shards: &Shards) -> Result<()> {
    match shards.count() {
        1 => Ok(()),
        count => {
            Err(Error::argument("reference", format!("expects a batch in one shard, got {count}; use the engine")))
        }
    }
}

impl<T: Scalar> Pass<T> for ResNetCache<T> {
    fn update_running_statistics(&self, model: &mut ResNet<T>) {
        model.update_running_statistics(self);
    }

    fn parameter_gradients(self: Box<Self>, model: &ResNet<T>, dlogits: &Array2<T>) -> Result<Gradients<T>> {
        model.parameter_gradients(dlogits, *self)
    }
}

impl Executor<f32> for Engine {
    fn name(&self) -> &'static str {
        "fast"
    }

    fn forward(
        &self,
        model: &ResNet<f32>,
        x: &Activation<f32>,
        shards: &Shards,
    ) -> Result<(Array2<f32>, Box<dyn Pass<f32>>)> {
        let (logits, cache) = self.forward_shards(model, x, shards)?;
        Ok((logits, Box::new(EnginePass { engine: self.clone(), cache })))
    }

    fn predict(&self, model: &ResNet<f32>, x: &Activation<f32>) -> Result<Array2<f32>> {
        Engine::predict(self, model, x)
    }

    fn release(&self) {
        Engine::release(self);
    }

    fn recycle(&self, gradients: Gradients<f32>) {
        Engine::recycle(self, gradients);
    }
}

struct EnginePass {
    engine: Engine,
    cache: engine::Cache,
}

impl Pass<f32> for EnginePass {
    fn update_running_statistics(&self, model: &mut ResNet<f32>) {
        self.engine.update_running_statistics(model, &self.cache);
    }

    fn parameter_gradients(self: Box<Self>, model: &ResNet<f32>, dlogits: &Array2<f32>) -> Result<Gradients<f32>> {
        let EnginePass { engine, cache } = *self;
        engine.parameter_gradients(model, dlogits, cache)
    }
}
