//! Shows that every forward and backward pass of the crate is right.
//!
//! Four kinds of evidence, from the strongest to the widest:
//!
//! 1. **Equality.** Where a map is linear in what is probed (convolution, pooling, linear layer, shortcut, and ReLU or max
//!    away from their kinks), integers and a step of 1 make the finite difference *equal* to the gradient;
//!    [`layers`] requires `==`.
//! 2. **Bounds.** A result in `f32` may differ from `f64` only by what rounding can do; [`bounds`] computes that for
//!    every element in advance.
//! 3. **Finite differences** in `f64` for nonlinear maps (batch norm, the loss), with an error model that determines how
//!    close they must be, [`finite_difference`].
//! 4. **Whole networks** with the choices of every ReLU and max pool fixed at the base point, [`network`].
//!
//! [`compare()`] is the one comparison used everywhere.

pub mod bounds;
pub mod compare;
pub mod finite_difference;
pub mod layers;
pub mod network;

pub use compare::{Comparison, Tolerance, compare};
pub use finite_difference::{Estimate, Step, derivative};
pub use layers::{TensorReport, check_layer, known_layers};
pub use network::{NetworkCheck, NetworkReport, NetworkTensorReport, check_network};
