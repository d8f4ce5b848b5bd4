//! `resnet oracle`, one file per subcommand; here is what they share.

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

/// Compute what a layer or network should, and judge what somebody else's computed
///
/// Tensors go in and out as .safetensors, .npz or PyTorch files, in PyTorch's shapes and under its
/// names. `docs/oracle.md` shows the way from a Python session to a verdict and back.
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

/// Where the result goes, and in what type it is computed.
#[derive(Debug, clap::Args)]
struct OutArgs {
    /// File to write: .safetensors (keeps order and tolerances), .npz, .pth
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Number type to compute in
    #[arg(long, value_name = "TYPE", default_value = "f64")]
    dtype: Float,

    /// Leave out how far an implementation may be off, which takes up to ten passes more
    #[arg(long)]
    no_tolerances: bool,

    /// Replace the output if it is there
    #[arg(long)]
    force: bool,
}

/// Refuses an output that cannot be, before anything is computed.
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
    writeln!(out, "wrote  {}: {tensors} tensors, {numbers} numbers", args.out.display())?;
    let not_finite = |tensor: &Tensor| tensor.to_f64().iter().any(|x| !x.is_finite());
    let broken: Vec<&str> = result.iter().filter(|(_, tensor)| not_finite(tensor)).map(|(name, _)| name).collect();
    if let Some(first) = broken.first() {
        let count = text::thousands(broken.len() as u64);
        writeln!(out, "note   {count} tensors hold NaN or infinities, first `{first}`: there only the same will fit")?;
    }
    if !args.no_tolerances && !Format::of_extension(&args.out)?.has_metadata() {
        writeln!(
            out,
            "note   only .safetensors has room for the tolerances; `compare` will use those usual for the type"
        )?;
    }
    Ok(())
}

/// An error of a computation on the tensors of a file.
fn in_file(path: &Path) -> impl Fn(Error) -> Failure + '_ {
    move |error| Failure::Failed(format!("{}: {error}", path.display()))
}
