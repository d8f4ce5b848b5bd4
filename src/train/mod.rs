//! The training loop.
//!
//! ```text
//! for each epoch:
//!     for each batch (x, t) of a random order:
//!         logits, cache      = model.forward(x, Train)
//!         loss, loss_cache   = softmax_cross_entropy.forward(logits, t)
//!         dlogits            = softmax_cross_entropy.backward(loss_cache)
//!         gradients          = model.parameter_gradients(dlogits, cache)
//!         model             ← model − lr · momentum(gradients + weight decay)
//!     evaluate on the validation images
//! evaluate once on the test images
//! ```
//!
//! - [`recipe`]: everything that can be chosen, as plain data, and the recipes that have a name;
//! - [`trainer`]: the loop above, epoch by epoch;
//! - `checkpoint` (feature `formats`): a run on disk, to go on with to the bit;
//! - [`metrics`]: what is measured on the way: loss, top-1, top-5, gradient norm, confusion matrix;
//! - [`layers`]: what a step does to every learned tensor.
//!
//! The test images never select anything: neither the epoch whose weights are kept nor a learning rate. By choice a
//! validation set is held out of the training images for that (45,000 + 5,000 in the paper).

#[cfg(feature = "formats")]
pub mod checkpoint;
pub mod layers;
pub mod metrics;
pub mod recipe;
pub mod trainer;

pub use layers::LayerMetrics;
pub use metrics::{evaluate, evaluate_with, EpochMetrics, Evaluation, StepMetrics};
pub use recipe::Recipe;
pub use trainer::{Position, Trainer};
