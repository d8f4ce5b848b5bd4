//! File formats.
pub mod pickle;
