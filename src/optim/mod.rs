//! The optimiser and the learning rate.
//!
//! - [`sgd`]: stochastic gradient descent with momentum, Nesterov's variant and weight decay, bit-identical to PyTorch's;
//! - [`average`]: a moving average of the weights, for evaluation;
//! - [`schedule`]: the learning rate as a pure function of the position in the run.
//!
//! Optimiser and schedule are independent: the training loop gets the rate of a step from [`Schedule::lr`] and passes
//! it to [`Sgd::step`]. The only state of the optimiser is its momentum buffers, and the schedule has none, so a
//! resumed run has the same learning rates.

pub mod average;
pub mod schedule;
pub mod sgd;

pub use average::WeightAverage;
pub use schedule::{Anneal, Decay, OneCycle, Schedule, TimeUnit, TrainingTime, Warmup, WarmupShape};
pub use sgd::{DecayExemption, Sgd, SgdConfig};
