//! The oracle checks another implementation's results and reports where they are wrong.
//!
//! - [`arithmetic`]: what the other implementation computes in, as its user states it;
//! - [`mod@dump`]: a pass through a [`program`](crate::program) as named tensors, each element with its tolerance: the
//!   [`rounding`] of one step, and the [`simulation`] of many;
//! - [`layer`]: the same for one layer, one block or one step of SGD;
//! - [`mod@compare`]: compares two dumps and finds the first module, in the order of execution, where they differ;
//! - [`mod@isolate`]: judges every module of a dump with its own inputs;
//! - [`mod@diagnose`]: which classic mistake explains the difference;
//! - [`expected`]: failures that are known and excused;
//! - [`mod@fuzz`]: tries an implementation on random geometries and values, and shrinks what fails;
//! - [`pack`]: inputs and expected results of every layer, for use without this program; [`mod@score`] shows with [`mutants`]
//!   that the pack detects mistakes.
//!
//! Everything is computed in `f64` unless another type is chosen: `f32` is what is being checked. `docs/oracle.md` shows
//! how to use it.

pub mod arithmetic;
pub mod compare;
pub mod diagnose;
pub mod dump;
pub mod expected;
pub mod fuzz;
pub mod isolate;
pub mod layer;
pub mod loss;
pub mod mutants;
mod names;
pub mod pack;
pub mod pattern;
pub mod profile;
pub mod rounding;
pub mod score;
pub mod simulation;
mod tolerance;

pub use arithmetic::{Arithmetic, ComputedIn};
pub use compare::{Report, Tolerance, Verdict, compare, compare_as};
pub use diagnose::{Diagnosis, Mistake, diagnose};
pub use dump::{Goal, Request, dump};
pub use expected::Expected;
pub use layer::Settings;
