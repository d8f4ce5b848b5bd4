//! The oracle: somebody else's numbers in, a verdict they can act on out.
//!
//! - [`mod@dump`]: a pass through a [`program`](crate::program) as named tensors, with how far an implementation may be off ([`rounding`]);
//! - [`layer`]: the same for one layer, one block, one step of SGD;
//! - [`mod@compare`]: two dumps, and the first module in the order of execution where they part;
//! - [`mod@diagnose`]: which classic misunderstanding explains the difference;
//! - [`pack`]: inputs and expected results of every layer, for whoever cannot run this; [`mod@score`] shows with [`mutants`] that
//!   the pack notices mistakes.
//!
//! Everything works in `f64` unless asked otherwise: `f32` is what is being judged. `docs/oracle.md` shows the use of it.

pub mod compare;
pub mod diagnose;
pub mod dump;
pub mod layer;
pub mod mutants;
pub mod pack;
pub mod rounding;
pub mod score;

pub use compare::{Report, Tolerance, Verdict, compare};
pub use diagnose::{Diagnosis, Mistake, diagnose};
pub use dump::{Goal, Request, dump};
pub use layer::Settings;
