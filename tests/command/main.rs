//! The command `resnet` as people and scripts use it: its output, its exit codes, the files it writes.
//!
//! One crate for all of it, because every crate is linked separately. `cargo test --test command report::` runs one file.
#![cfg(feature = "cli")]

mod book;
mod cli;
mod common;
mod data;
mod fetch;
mod fuzz;
mod reader;
mod report;
#[cfg(unix)]
mod resume;
mod tensorboard;
