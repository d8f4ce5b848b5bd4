//! `resnet oracle`, one file per subcommand. This file contains what they share.

mod check;
mod compare;
mod diagnose;
mod fuzz;
mod html;
mod layer;
mod model;
mod pack;
mod score;
mod serve;

use super::args::{self, Float};
use super::{Failure, Result, text};
use crate::Error;
use crate::error::nearest;
use crate::formats::{self, Format};
use crate::oracle::dump::tolerance_of;
use crate::oracle::expected::Lines;
use crate::oracle::{Arithmetic, ComputedIn, Expected};
use crate::tensors::{Tensor, Tensors};
use clap::Subcommand;
use std::io::Write;
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
    Check(check::Args),
    Layer(layer::Args),
    Model(Box<model::Args>),
    Compare(compare::Args),
    Diagnose(diagnose::Args),
    Fuzz(fuzz::Args),
    Pack(pack::Args),
    Score(score::Args),
    Serve(serve::Args),
}

impl Args {
    /// Whether the command reads lines from stdin.
    fn reads_stdin(&self) -> bool {
        matches!(self.command, Command::Serve(_) | Command::Fuzz(fuzz::Args { .. }))
    }
}

pub fn run(args: &Args) -> Result<()> {
    run_to(args, &mut std::io::stdout().lock())
}

/// The same, printing to `out`.
fn run_to(args: &Args, out: &mut dyn Write) -> Result<()> {
    match &args.command {
        Command::Check(args) => check::run(args, out),
        Command::Layer(args) => layer::run(args, out),
        Command::Model(args) => model::run(args, out),
        Command::Compare(args) => compare::run(args, out),
        Command::Diagnose(args) => diagnose::run(args, out),
        Command::Fuzz(args) => fuzz::run(args, out),
        Command::Pack(args) => pack::run(args, out),
        Command::Score(args) => score::run(args, out),
        Command::Serve(args) => serve::run(args, out),
    }
}

/// How THEIRS was computed.
#[derive(Debug, clap::Args)]
struct ComputedInArgs {
    /// The arithmetic of THEIRS: f64, f32, tf32, bf16 or fp16, with ,sums=same ,stored=TYPE ,winograd;
    /// default: the coarsest type that it contains. PATTERN:ARITHMETIC for the tensors or modules whose
    /// whole name matches, in which * stands for any text; may be repeated
    #[arg(long, value_name = "[PATTERN:]ARITHMETIC", value_parser = computed_in)]
    computed_in: Vec<(Option<String>, Arithmetic)>,
}

impl ComputedInArgs {
    fn stated(&self) -> ComputedIn {
        let mut stated = ComputedIn::default();
        for (pattern, arithmetic) in &self.computed_in {
            match pattern {
                None => stated.all = Some(*arithmetic),
                Some(pattern) => stated.patterns.push((pattern.clone(), *arithmetic)),
            }
        }
        stated
    }

    /// Rejects a pattern that selects none of the tensors that can be judged: it would change nothing, silently.
    fn check<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<()> {
        const SHOWN: usize = 40;
        let (stated, names) = (self.stated(), names.collect::<Vec<_>>());
        let Some(pattern) = stated.without_tensor(&names) else { return Ok(()) };
        let all: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let hint = nearest(pattern, &all).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let more = match all.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let shown = all[..all.len().min(SHOWN)].join(", ");
        Err(Failure::Usage(format!(
            "--computed-in: no tensor or module has a name like `{pattern}`{hint}\nthe tensors are {shown}{more}"
        )))
    }
}

/// The results in a dump, without their tolerances.
fn results(dump: &Tensors) -> impl Iterator<Item = &str> {
    dump.names().filter(|name| tolerance_of(name).is_none())
}

fn computed_in(text: &str) -> std::result::Result<(Option<String>, Arithmetic), Error> {
    match text.rsplit_once(':') {
        Some((pattern, arithmetic)) => Ok((Some(pattern.to_string()), arithmetic.parse()?)),
        None => Ok((None, text.parse()?)),
    }
}

/// What THEIRS is known not to do.
#[derive(Debug, clap::Args)]
struct ExpectedArgs {
    /// File of expected failures, one per line: KIND [SETTING=VALUE | TENSOR]... # reason. What does not
    /// fail is reported, and the exit code is 1, unless the line has strict=false
    #[arg(long, value_name = "FILE")]
    xfail: Option<PathBuf>,
}

impl ExpectedArgs {
    fn read(&self) -> Result<Expected> {
        let Some(path) = &self.xfail else { return Ok(Expected::default()) };
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))?;
        text.parse().map_err(in_file(path))
    }

    /// Reports the lines of which nothing fails any more, and, if `all` that they could apply to was judged, those for this kind
    /// that match nothing.
    fn print(&self, out: &mut dyn Write, expected: &Expected, lines: &Lines, all: Option<&str>) -> std::io::Result<()> {
        let Some(path) = &self.xfail else { return Ok(()) };
        for line in lines.superfluous() {
            let line = expected.line(line);
            writeln!(out, "EXPECTED TO FAIL, PASSED: {}, {line}", path.display())?;
            writeln!(out, "  remove the line, or add strict=false if it fails sometimes")?;
        }
        for line in all.map_or(Vec::new(), |kind| expected.idle(kind, lines)) {
            writeln!(out, "note: nothing matches {}, {}", path.display(), expected.line(line))?;
        }
        Ok(())
    }
}

/// Where the result is written, and the number type of the computation.
#[derive(Debug, clap::Args)]
struct OutArgs {
    /// File to write: .safetensors (keeps the order and what is known of whole tensors), .npz, .pth
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Number type to compute in
    #[arg(long, value_name = "TYPE", default_value = "f64")]
    dtype: Float,

    /// Compute the tolerances for results computed in this arithmetic, instead of the usual ones; may be
    /// repeated: f64, f32, tf32, bf16, fp16, each with ,sums=same ,stored=TYPE ,winograd
    #[arg(long, value_name = "ARITHMETIC")]
    computed_in: Vec<Arithmetic>,

    /// Do not compute tolerances, which take up to eight more passes of a network for each arithmetic
    #[arg(long, conflicts_with = "computed_in")]
    no_tolerances: bool,

    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

impl OutArgs {
    /// The arithmetics for which to compute tolerances.
    fn arithmetics(&self, usual: &[Arithmetic]) -> Vec<Arithmetic> {
        match (self.no_tolerances, self.computed_in.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => usual.to_vec(),
            (false, false) => self.computed_in.clone(),
        }
    }
}

/// Rejects an invalid output before anything is computed.
fn check_output(args: &OutArgs) -> Result<()> {
    Format::of_extension(&args.out).map_err(|error| Failure::Usage(error.to_string()))?;
    args::check_output(&args.out, args.force)
}

fn write(args: &OutArgs, result: &Tensors, out: &mut dyn Write) -> Result<()> {
    formats::write(&args.out, result)?;
    let results = || result.iter().filter(|(name, _)| tolerance_of(name).is_none());
    let numbers: usize = results().map(|(_, tensor)| tensor.len()).sum();
    let (tensors, numbers) = (text::count(results().count(), "tensor"), text::count(numbers, "element"));
    if let Some(loss) = result.get("loss") {
        writeln!(out, "loss   {:?}", loss.to_f64().sum())?;
    }
    let mut arithmetics: Vec<&str> = Vec::new();
    for (arithmetic, _) in result.names().filter_map(tolerance_of) {
        if !arithmetics.contains(&arithmetic) {
            arithmetics.push(arithmetic);
        }
    }
    let tolerances = match arithmetics.as_slice() {
        [] => String::new(),
        all => format!(", and the tolerance of each for results computed in {}", all.join(", ")),
    };
    writeln!(out, "wrote  {}: {tensors}, {numbers}{tolerances}", args.out.display())?;
    let not_finite = |tensor: &Tensor| tensor.to_f64().iter().any(|x| !x.is_finite());
    let broken: Vec<&str> = results().filter(|(_, tensor)| not_finite(tensor)).map(|(name, _)| name).collect();
    if let Some(first) = broken.first() {
        let count = text::count(broken.len(), "tensor");
        writeln!(out, "note   {count} with NaN or infinity, first `{first}`: only the same value will fit there")?;
    }
    Ok(())
}

/// Adds the path to the error of a computation on the tensors of a file; a wrong setting is not the file's.
fn in_file(path: &Path) -> impl Fn(Error) -> Failure + '_ {
    move |error| match error {
        Error::Argument { op: "settings", message } => Failure::Usage(format!("--set: {message}")),
        error => Failure::Failed(format!("{}: {error}", path.display())),
    }
}
