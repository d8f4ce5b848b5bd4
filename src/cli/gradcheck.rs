//! `resnet gradcheck`.

use super::{Failure, Result, args, text};
use crate::Error;
use crate::model::Architecture;
use crate::verify::{NetworkCheck, TensorReport, check_layer, check_network, known_layers};
use std::io::{IsTerminal as _, Write as _};

const AFTER_HELP: &str = "\
Examples:
  resnet gradcheck                           every layer, in a few seconds
  resnet gradcheck --layer conv2d --seed 7   one layer at other random points
  resnet gradcheck --model resnet20          a whole network, batch norm in training mode";

/// Check the backward passes with finite differences
///
/// Compares the gradient of every tensor with finite differences of the forward pass, in 64-bit floats,
/// at random points and for a random dy. The columns are the largest error, the same relative to the
/// largest element of the gradient, and the error that rounding and the finite difference itself can
/// explain (0 where the difference is exact). Exit code 1 if any error is larger than that.
///
/// In a network, every ReLU and max pool keeps its choices during the differences; `plain` is the
/// error without this, and `kinks` is the number of choices that changed.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// Check one layer [default: all]
    #[arg(long, value_name = "NAME", value_parser = layer, conflicts_with = "model")]
    layer: Option<String>,

    /// Check a whole network, see `resnet models`
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Option<Architecture>,

    /// Seed of the random points
    #[arg(long, value_name = "N", default_value = "1", value_parser = args::seed, allow_negative_numbers = true)]
    seed: u64,

    /// Images per batch of the network [default: 3]
    #[arg(long, value_name = "N", value_parser = args::count(1, 1024), allow_negative_numbers = true, requires = "model")]
    batch_size: Option<usize>,

    /// Size of the images of the network [default: 12x16]
    #[arg(long, value_name = "HxW", value_parser = args::image_size, requires = "model")]
    image: Option<[usize; 2]>,

    /// Elements to check per tensor of the network, besides one random direction [default: 2]
    #[arg(long, value_name = "N", value_parser = args::count(0, args::MOST), allow_negative_numbers = true, requires = "model")]
    entries: Option<usize>,
}

fn layer(name: &str) -> std::result::Result<String, Error> {
    let known = known_layers();
    if known.contains(&name) {
        return Ok(name.to_string());
    }
    let known = known.into_iter().map(String::from).collect();
    Err(Error::Unknown { kind: "layer", name: name.to_string(), known })
}

pub fn run(args: &Args) -> Result<()> {
    match &args.model {
        Some(architecture) => network(args, architecture),
        None => layers(args),
    }
}

fn layers(args: &Args) -> Result<()> {
    let names = match &args.layer {
        Some(name) => vec![name.as_str()],
        None => known_layers(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", TensorReport::table_header())?;
    let (mut checks, mut wrong) = (0, 0);
    for name in names {
        for report in check_layer(name, args.seed)? {
            writeln!(out, "{report}")?;
            checks += 1;
            wrong += usize::from(!report.passed());
        }
    }
    verdict(&mut out, checks, wrong)
}

fn network(args: &Args, architecture: &Architecture) -> Result<()> {
    let default = NetworkCheck::default();
    let check = NetworkCheck {
        batch: args.batch_size.unwrap_or(default.batch),
        image: args.image.unwrap_or(default.image),
        seed: args.seed,
        entries: args.entries.unwrap_or(default.entries),
        ..default
    };
    if std::io::stderr().is_terminal() {
        eprintln!("checking {}; deep networks take longer", architecture.name);
    }
    let report = check_network(architecture, &check).map_err(|error| match error {
        Error::Shape { .. } | Error::Argument { .. } => Failure::Usage(format!(
            "`{}` cannot be checked with {} of {}x{}; give a larger --image or --batch-size\n  {error}",
            architecture.name,
            text::count(check.batch, "image"),
            check.image[0],
            check.image[1]
        )),
        error => error.into(),
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{report}")?;
    let wrong = report.tensors.iter().filter(|tensor| !tensor.passed()).count();
    verdict(&mut out, report.tensors.len(), wrong)
}

fn verdict(out: &mut impl std::io::Write, checks: usize, wrong: usize) -> Result<()> {
    if checks == 0 || wrong > 0 {
        return Err(Failure::Failed(format!("{wrong} of {checks} gradients are wrong: see the lines marked WRONG")));
    }
    Ok(writeln!(out, "all {checks} gradients agree with finite differences")?)
}
