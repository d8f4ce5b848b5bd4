//! The command `resnet`, one file a subcommand:
//!
//! - [`train`], [`eval`], [`predict`], [`report`], [`data`], [`convert`], [`models`], [`gradcheck`], [`mod@bench`],
//!   [`oracle`]: the flags of each, its help, and what it does;
//! - [`args`], [`images`], [`trained`]: the flags they share, how their values are read, and what they stand for;
//! - [`init_from`]: where fine-tuning begins;
//! - [`config`]: what decides a run, as a TOML file;
//! - [`run_folder`], [`events`], [`progress`], [`interrupt`], [`text`]: what long commands write, show and listen to;
//! - [`memory`]: what a run has needed.
//!
//! # Exit codes
//! 0: done. 1: it failed (a file, the data, a loss that is not finite). 2: it was called wrongly. 130: stopped by Ctrl-C.

mod args;
mod bench;
mod config;
mod convert;
mod data;
mod eval;
mod events;
mod gradcheck;
mod images;
mod init_from;
mod interrupt;
mod memory;
mod models;
mod oracle;
mod predict;
mod progress;
mod report;
mod run_folder;
mod text;
mod train;
mod trained;

use crate::Error;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use std::io;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  resnet train                                    about a minute, nothing to download
  resnet data fetch                               CIFAR-10, 170 MB
  resnet train --data cifar-10-binary.tar.gz      ten epochs of it
  resnet eval --weights runs/resnet8-demo-1/weights.safetensors
  resnet predict --weights runs/resnet8-demo-1/weights.safetensors photo.jpg
  resnet report runs/resnet8-demo-1               curves, mistakes, filters, as a page
  resnet data info --data photos/                 pictures in a folder for each class
  resnet convert other.pth other.safetensors      PyTorch's and NumPy's files, in and out
  resnet models --batch-size 64                   what would fit into memory
  resnet gradcheck --layer conv2d                 is the backward pass right?

`resnet help train` shows every recipe with its values.";

/// Residual networks for CIFAR-10, every backward pass written by hand.
///
/// Trains on the CPU, in 32-bit floats. The same seed gives the same weights, bit for bit, whatever
/// the number of threads.
#[derive(Debug, Parser)]
#[command(name = "resnet", version, verbatim_doc_comment, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Threads to compute with [default: one for each core]
    ///
    /// Changes the time, never the result.
    #[arg(long, global = true, value_name = "N", value_parser = args::count(1, 4096), allow_negative_numbers = true)]
    threads: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::Args>),
    Eval(eval::Args),
    Predict(predict::Args),
    Report(report::Args),
    Data(data::Args),
    Convert(convert::Args),
    Models(models::Args),
    Gradcheck(gradcheck::Args),
    Bench(bench::Args),
    Oracle(oracle::Args),
}

/// Why a subcommand ended early.
#[derive(Debug)]
enum Failure {
    /// It was called wrongly: the flags do not fit together.
    Usage(String),
    /// It could not do what it was asked for.
    Failed(String),
    /// The numbers of a run are not finite any more.
    Diverged(String),
    /// It did what it was asked for, and the answer is no; that has been printed.
    Verdict,
    /// Ctrl-C; what was kept has been said already.
    Interrupted,
    /// Whoever read the output has seen enough (`resnet models | head -1`).
    PipeClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// Only for writing to stdout: every file goes through the library's [`Error`], which knows its path.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::Failed(format!("cannot write to stdout: {error}")),
        }
    }
}

type Result<T> = std::result::Result<T, Failure>;

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    // A wrong call ends here, with exit code 2 and clap's message.
    let cli = Cli::parse();
    let name = match cli.command {
        Command::Train(_) => "train",
        Command::Eval(_) => "eval",
        Command::Predict(_) => "predict",
        Command::Report(_) => "report",
        Command::Data(_) => "data",
        Command::Convert(_) => "convert",
        Command::Models(_) => "models",
        Command::Gradcheck(_) => "gradcheck",
        Command::Bench(_) => "bench",
        Command::Oracle(_) => "oracle",
    };
    match dispatch(cli) {
        Ok(()) | Err(Failure::PipeClosed) => ExitCode::SUCCESS,
        Err(Failure::Verdict) => ExitCode::FAILURE,
        Err(Failure::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Err(Failure::Failed(message) | Failure::Diverged(message)) => {
            // stderr may be closed too, and then there is no one to tell.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("error: {message}\n"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(message)) => {
            let mut command = Cli::command();
            command.build();
            let subcommand = command.find_subcommand_mut(name).expect("it was just parsed");
            subcommand.error(ErrorKind::ValueValidation, message).exit()
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    crate::engine::kernels::simd::requested_isa().map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(threads) = cli.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global().map_err(|error| Failure::Failed(format!("cannot start {threads} threads: {error}")))?;
    }
    // On a thread of the pool: from any other, each of the thousands of small parallel loops of a step would have to wake
    // the pool and wait to be woken.
    rayon::scope(|_| match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Gradcheck(args) => gradcheck::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Oracle(args) => oracle::run(&args),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
