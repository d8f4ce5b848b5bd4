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
//! - [`recipe`]: everything that can be chosen, as plain data, and the recipes that have a name;
//! - [`trainer`]: the loop above, epoch by epoch;
//! - `checkpoint` (feature `formats`): a run on disk, to go on with to the bit;
//! - [`metrics`]: what is measured on the way: loss, top-1, top-5, gradient norm, confusion matrix;
//! - [`executor`]: what computes the passes, the reference or the engine; [`trace`]: the reference, printing every value;
//! - [`layers`]: what a step does to every learned tensor.
//!
//! The test images never select anything: neither the epoch whose weights are kept nor a learning rate. By choice a
//! validation set is held out of the training images for that (45,000 + 5,000 in the paper).

#[cfg(feature = "formats")]
pub mod checkpoint;
pub mod executor;
pub mod layers;
pub mod metrics;
pub mod recipe;
pub mod trace;
pub mod trainer;

pub use executor::{Executor, Pass, Reference};
pub use layers::LayerMetrics;
pub use metrics::{EpochMetrics, Evaluation, EvaluationOptions, Prediction, StepMetrics, evaluate, evaluate_each};
pub use recipe::Recipe;
pub use trace::Trace;
pub use trainer::{Position, Snapshot, Trainer};
