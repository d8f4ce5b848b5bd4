//! The crate against PyTorch: every layer, every kind of residual block, two whole networks and ten steps of training.
//!
//! The fixtures and the script that made them are in `tests/library/golden/`; the tests need no Python. Run with
//! `cargo test --lib library::golden -- --nocapture` to see the worst error of every kind and how much of its tolerance it uses.

mod blocks;
mod check;
mod fixture;
mod layers;
mod networks;

/// By how many times the deviation in the model of rounding an implementation may be off. The model shows how rounding
/// spreads through blocks and networks, from a few samples of Gaussian noise; it does not know the constant of an
/// implementation's sums (order, blocking, fused or not), which is between 1/10 and a few. Mistakes are off by 10⁶ and
/// more in `f64`.
const MULTIPLE: f64 = 8.0;
