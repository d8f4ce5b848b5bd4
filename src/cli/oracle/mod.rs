//! `resnet oracle`, one file per subcommand. This file contains what they share.

mod compare;
mod diagnose;
mod layer;
mod model;
mod pack;
mod score;

use super::args::{self, Float};
use super::{Failure, Result, text};
use crate::Error;
use crate::formats::{self, Format};
use crate::tensors::{Tensor, Tensors};
use clap::Subcommand;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Check the results of another implementation of a layer or network
///
/// Computes the correct results, compares yours with them and names classic mistakes. Tensors are read
/// from and written to .safetensors, .npz or PyTorch files, with PyTorch's shapes and names.
/// docs/oracle.md explains every step, starting from a Python session.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Layer(layer::Args),
    Model(Box<model::Args>),
    Compare(compare::Args),
    Diagnose(diagnose::Args),
    Pack(pack::Args),
    Score(score::Args),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Layer(args) => layer::run(args),
        Command::Model(args) => model::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Diagnose(args) => diagnose::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Score(args) => score::run(args),
    }
}

/// Where the result is written, and the number type of the computation.
#[derive(Debug, clap::Args)]
struct OutArgs {
    /// File to write: .safetensors (keeps order and tolerances), .npz, .pth
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Number type to compute in
    #[arg(long, value_name = "TYPE", default_value = "f64")]
    dtype: Float,

    /// Do not compute tolerances, which take up to ten more passes
    #[arg(long)]
    no_tolerances: bool,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

/// Rejects an invalid output before anything is computed.
fn check_output(args: &OutArgs) -> Result<()> {
    Format::of_extension(&args.out).map_err(|error| Failure::Usage(error.to_string()))?;
    args::check_output(&args.out, args.force)
}

fn write(args: &OutArgs, result: &Tensors) -> Result<()> {
    formats::write(&args.out, result)?;
    let numbers: usize = result.iter().map(|(_, tensor)| tensor.len()).sum();
    let (tensors, numbers) = (text::thousands(result.len() as u64), text::thousands(numbers as u64));
    let mut out = std::io::stdout().lock();
    if let Some(loss) = result.get("loss") {
        writeln!(out, "loss   {:?}", loss.to_f64().sum())?;
    }
    writeln!(out, "wrote  {}: {tensors} tensors, {numbers} elements", args.out.display())?;
    let not_finite = |tensor: &Tensor| tensor.to_f64().iter().any(|x| !x.is_finite());
    let broken: Vec<&str> = result.iter().filter(|(_, tensor)| not_finite(tensor)).map(|(name, _)| name).collect();
    if let Some(first) = broken.first() {
        let count = text::thousands(broken.len() as u64);
        writeln!(
            out,
            "note   {count} tensors contain NaN or infinity, first `{first}`: only the same value will fit there"
        )?;
    }
    if !args.no_tolerances && !Format::of_extension(&args.out)?.has_metadata() {
        writeln!(
            out,
            "note   only .safetensors can store the tolerances; `compare` will use defaults for the number type"
        )?;
    }
    Ok(())
}

/// Adds the path to the error of a computation on the tensors of a file.
fn in_file(path: &Path) -> impl Fn(Error) -> Failure + '_ {
    move |error| Failure::Failed(format!("{}: {error}", path.display()))
}
