//! Tests of the library as a whole, written against its public interface, as any other crate would use it.
//!
//! In `tests/` Cargo would build one crate per file, and each would compile the generic layers again for every type it uses.
//! So these files are a module of the library's own tests (see `lib.rs`), where the layers are already compiled.
//! `cargo test --lib library::golden` runs one file.

#[cfg(feature = "formats")]
mod checkpoints;
#[cfg(feature = "formats")]
mod formats;
mod fuzz;
mod golden;
mod gradients;
mod isolate;
mod judge;
mod onnx;
#[cfg(feature = "formats")]
mod onnx_export;
mod oracle;
#[cfg(feature = "formats")]
mod pack;
mod processes;
mod thread_count;
mod tolerances;
mod zoo;
