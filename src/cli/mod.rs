//! The command `resnet`, one file per subcommand:
//!
//! - `train`, `eval`, `predict`, `report`, `data`, `convert`, `models`, `gradcheck`, `bench`,
//!   `oracle`: the flags, the help and the implementation of each subcommand;
//! - `args`, `images`, `trained`: flags that several subcommands share, and how their values are parsed;
//! - `imagenet`: how torchvision prepares pictures for ImageNet's networks, and its class names;
//! - `init_from`: the initial weights of fine-tuning;
//! - `config`: the configuration of a run, as a TOML file;
//! - `run_folder`, `events`, `progress`, `interrupt`, `text`: files, display and signals of long commands;
//! - `memory`: peak and available memory;
//! - `processes`, `mpi`: the processes that `mpirun` or `srun` started together.
//!
//! # Exit codes
//! 0: success. 1: failure (a file, the data, a loss that is not finite). 2: usage error. 129, 130, 143: stopped by SIGHUP,
//! Ctrl-C, SIGTERM.

mod args;
mod bench;
mod config;
mod convert;
mod data;
mod eval;
mod events;
mod gradcheck;
mod imagenet;
mod images;
mod init_from;
mod interrupt;
mod memory;
mod models;
#[cfg(feature = "mpi")]
mod mpi;
mod oracle;
mod predict;
mod processes;
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
  resnet train --data cifar-10-binary.tar.gz      train on it for ten epochs
  resnet eval --weights runs/resnet8-demo-1/weights.safetensors
  resnet predict --weights runs/resnet8-demo-1/weights.safetensors photo.jpg
  resnet report runs/resnet8-demo-1               an HTML page: curves, mistakes, filters
  resnet data info --data photos/                 your own pictures, one folder per class
  resnet convert other.pth other.safetensors      read and write PyTorch and NumPy files
  resnet models --batch-size 64                   the memory that each network needs
  resnet gradcheck --layer conv2d                 check a backward pass

`resnet help train` lists every recipe with its values.";

/// Residual networks for CIFAR-10 with every backward pass written by hand.
///
/// Trains on the CPU, in 32-bit floats. The same seed gives bit-identical weights, for any number of
/// threads.
#[derive(Debug, Parser)]
#[command(name = "resnet", version, verbatim_doc_comment, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Number of threads [default: one per core; of several processes on a machine, a share of them]
    ///
    /// It changes the time, never the result.
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
    /// Usage error: an invalid combination of flags.
    Usage(String),
    /// The operation failed.
    Failed(String),
    /// A run has a loss or a result that is not finite.
    Diverged(String),
    /// The command ran, and its answer is no; the answer is already printed.
    Verdict,
    /// A signal, or the end of `--max-hours`; the message about what is saved is already printed.
    Interrupted(interrupt::Cause),
    /// The first process of the run prints why, and has the exit code: a launcher that sees another one may end the first process
    /// before it has printed anything.
    Elsewhere,
    /// The reader of stdout has closed the pipe (`resnet models | head -1`).
    PipeClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// Only for writing to stdout. Errors of files are the library's [`Error`], which contains the path.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::Failed(format!("cannot write to stdout: {error}")),
        }
    }
}

type Result<T> = std::result::Result<T, Failure>;

/// Parses the command line and runs the subcommand.
pub fn run() -> ExitCode {
    // A usage error ends the program here, with exit code 2 and clap's message.
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
        Ok(()) | Err(Failure::PipeClosed | Failure::Elsewhere) => ExitCode::SUCCESS,
        Err(Failure::Verdict) => ExitCode::FAILURE,
        Err(Failure::Interrupted(cause)) => ExitCode::from(cause.exit_code()),
        Err(Failure::Failed(message) | Failure::Diverged(message)) => {
            // stderr may be closed too; then the message is lost.
            let _ =
                io::Write::write_fmt(&mut io::stderr(), format_args!("error: {}\n", text::printable_lines(&message)));
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
    if let Some(threads) = cli.threads.or_else(processes::threads) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global()
            .map_err(|error| Failure::Failed(format!("cannot start {}: {error}", text::count(threads, "thread"))))?;
    }
    // Runs on a thread of the pool. From any other thread, each of the thousands of small parallel loops of a step would
    // have to wake the pool and then wait for it.
    if !matches!(cli.command, Command::Train(_) | Command::Eval(_) | Command::Predict(_) | Command::Bench(_)) {
        processes::expect_one()?;
    }
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
