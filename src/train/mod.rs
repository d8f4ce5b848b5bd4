//! The training loop.
//!
//! ```text
//! for each epoch:
//!     for each batch (x, t) of a random order:
//!         logits, pass       = executor.forward(model, x)
//!         loss, loss_cache   = softmax_cross_entropy.forward(logits, t)
//!         dlogits            = softmax_cross_entropy.backward(loss_cache)
//!                              pass.update_running_statistics(model)
//!         gradients          = pass.parameter_gradients(model, dlogits)
//!         model             ← model − lr · momentum(gradients + weight decay)
//!     evaluate on the validation images
//! evaluate once on the test images
//! ```
//!
//! - [`recipe`]: the settings of a run, as plain data, and the named recipes;
//! - [`trainer`]: the loop above, epoch by epoch;
//! - `checkpoint` (feature `formats`): a run on disk, which can be resumed with bit-identical results;
//! - [`metrics`]: loss, top-1, top-5, gradient norm, confusion matrix;
//! - [`executor`]: computes the passes, by the reference or the engine; [`trace`]: the reference, printing every value;
//! - [`layers`]: the effect of a step on every trained tensor.
//!
//! The test images are never used for selection, neither of the epoch whose weights are kept nor of a learning rate.
//! Optionally, a validation set for this is held out of the training images (45,000 + 5,000 in the paper), or the data set
//! has one: [`Validation`].

#[cfg(feature = "formats")]
pub mod checkpoint;
pub mod executor;
pub mod layers;
pub mod metrics;
pub mod recipe;
pub mod trace;
pub mod trainer;
mod validation;

pub use executor::{Executor, Pass, Reference};
pub use layers::LayerMetrics;
pub use metrics::{EpochMetrics, Evaluation, EvaluationOptions, Prediction, StepMetrics, evaluate, evaluate_each};
pub use recipe::Recipe;
pub use trace::Trace;
pub use trainer::{Position, Snapshot, Trainer};
pub use validation::Validation;
