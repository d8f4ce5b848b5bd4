//! The optimiser and the learning rate: what turns gradients into better parameters.
//!
//! - [`sgd`]: stochastic gradient descent with momentum, Nesterov's variant and weight decay, to the bit of PyTorch's;
//! - [`average`]: a moving average of the weights, for evaluation;
//! - [`schedule`]: the learning rate as a pure function of the position in the run.
//!
//! The two meet only in a number: the training loop asks [`Schedule::lr`] for the rate of this step and hands it to
//! [`Sgd::step`]. The optimiser's whole state is its momentum buffers, the schedule has none, and a resumed run
//! cannot disagree with itself about the learning rate.

pub mod average;
pub mod schedule;
pub mod sgd;

pub use average::WeightAverage;
pub use schedule::{Anneal, Decay, OneCycle, Schedule, TimeUnit, TrainingTime, Warmup, WarmupShape};
pub use sgd::{DecayExemption, Sgd, SgdConfig};
