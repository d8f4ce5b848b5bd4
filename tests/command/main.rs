//! The command `resnet` as people and scripts use it: what it prints, its exit codes, what it leaves on disk.
//!
//! One crate for all of it, for each would be linked by itself. `cargo test --test command report::` runs one file.
#![cfg(feature = "cli")]

mod cli;
mod common;
mod data;
mod fetch;
mod reader;
mod report;
#[cfg(unix)]
mod resume;
mod tensorboard;
