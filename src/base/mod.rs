//! The base of every other module: number types, arrays, names, random numbers, parallel sums, errors.
//!
//! - [`scalar`]: `f32` and `f64`; [`activation`]: the arrays between layers;
//! - [`parameters`]: named tensors of a model, and their gradients; [`tensors`]: named tensors of any program;
//! - [`parallel`]: sums whose result does not depend on the number of threads; [`shards`] and [`processes`]: nor on the number
//!   of processes; [`gemm`]: matrix multiplication;
//! - `input`: files that the user names, and pipes in their place;
//! - [`rng`]: random numbers that depend on their purpose, not on the order of draws; [`error`]: one error type.

pub mod activation;
pub mod error;
pub mod gemm;
pub(crate) mod input;
pub mod parallel;
pub mod parameters;
pub mod processes;
pub mod rng;
pub mod scalar;
pub mod shards;
pub mod tensors;
