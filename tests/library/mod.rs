//! Tests of the library as a whole, written against its public names as any other crate would use them.
//!
//! Cargo would make a crate of each file. Every such crate would compile the generic layers again, for every type it uses; so
//! these files are a module of the library's own tests (see `lib.rs`), where the layers are compiled already.
//! `cargo test --lib library::golden` runs one file.

#[cfg(feature = "formats")]
mod checkpoints;
#[cfg(feature = "formats")]
mod formats;
mod golden;
mod gradients;
mod judge;
mod onnx;
mod oracle;
#[cfg(feature = "formats")]
mod pack;
mod thread_count;
mod zoo;
