//! The crate against PyTorch: every layer, every kind of residual block, two whole networks and ten steps of training.
//!
//! The fixtures and the script that made them stand in `tests/golden/`; no Python is needed here. Run with
//! `cargo test --test golden -- --nocapture` to see the worst error of every kind and how much of its tolerance it uses.

#[path = "golden/check.rs"]
mod check;
#[path = "golden/fixture.rs"]
mod fixture;
#[path = "golden/layers.rs"]
mod layers;
