//! File formats.
//!
//! - [`weights`]: a model's tensors as safetensors, with what is needed to use them in the file's metadata;
//! - [`pickle`]: Python's pickles as plain values, without running them;
//! - [`atomic`]: writing a file so that it is there whole or not at all.

pub mod atomic;
pub mod pickle;
pub mod weights;
