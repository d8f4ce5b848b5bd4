//! `resnet data`: inspects a data set, or downloads one.

mod download;
pub mod fetch;
mod http;

use super::images::{About, DEFAULT_SIZE, DataArgs};
use super::{Failure, Result, args, text};
use crate::data::{Dataset, Kind, picture};
use clap::Subcommand;
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Examples:
  resnet data fetch                               CIFAR-10, 170 MB
  resnet data info --data cifar-10-binary.tar.gz  images, classes, mean and standard deviation
  resnet data info --data photos --image-size 64  your own pictures, one folder per class
  resnet data grid --data photos --out photos.png";

/// Inspect a data set, or download one
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Info(InfoArgs),
    Grid(GridArgs),
    Fetch(fetch::Args),
}

const INFO_EXAMPLES: &str = "\
Examples:
  resnet data info                                the images embedded in this program
  resnet data info --data cifar-10-binary.tar.gz --json
  resnet data info --data photos --image-size 64";

/// Show the number of images, the classes, and the mean and standard deviation of the colours
///
/// The mean and the (population) standard deviation are over all pixels of all images, on the scale 0
/// to 1. `resnet train` takes them as --mean and --std.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = INFO_EXAMPLES)]
struct InfoArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

const GRID_EXAMPLES: &str = "\
Examples:
  resnet data grid --out embedded.png
  resnet data grid --data photos --image-size 64 --columns 6 --out photos.png --force";

/// Write a picture with one row of training images per class
#[derive(Debug, clap::Args)]
#[command(after_help = GRID_EXAMPLES)]
struct GridArgs {
    #[command(flatten)]
    data: DataArgs,

    /// PNG file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Number of images per class; the first ones are taken
    #[arg(long, value_name = "N", default_value = "10", value_parser = args::count(1, 1000), allow_negative_numbers = true)]
    columns: usize,

    /// Replace FILE if it exists
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Info(args) => info(args),
        Command::Grid(args) => grid(args),
        Command::Fetch(args) => fetch::run(args),
    }
}

fn info(args: &InfoArgs) -> Result<()> {
    let (splits, about) = args.data.load(DEFAULT_SIZE)?;
    let validation = splits.validation.as_ref().map(|validation| ("validation", "validation", validation));
    let mut all = vec![("training", "train", &splits.train)];
    all.extend(validation);
    all.push(("test", "test", &splits.test));
    let (splits, classes) = (all, &splits.train.classes);
    let mut out = std::io::stdout().lock();
    if args.json {
        let split = |&(_, key, dataset): &(&str, &str, &Dataset)| Ok((key.to_string(), to_json(dataset)?));
        let value = json!({
            "data": about.description,
            "kind": kind(&about),
            "notes": about.notes,
            "classes": classes,
            "splits": splits.iter().map(split).collect::<Result<Map<String, Value>>>()?,
        });
        return Ok(writeln!(out, "{value:#}")?);
    }
    writeln!(out, "{:<14} {}", "data", about.description)?;
    for note in &about.notes {
        writeln!(out, "{:<14} {note}", "note")?;
    }
    for (name, _, dataset) in &splits {
        let (_, height, width, _) = dataset.pixels.dim();
        let (mean, std) = dataset.mean_and_std()?;
        writeln!(out, "\n{name:<14} {} of {height}x{width} pixels", text::count(dataset.len(), "image"))?;
        writeln!(out, "{:<14} {}", "mean", mean.map(|value| format!("{value:.6}")).join(","))?;
        writeln!(out, "{:<14} {}", "std", std.map(|value| format!("{value:.6}")).join(","))?;
    }
    let width = classes.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("class".len());
    let counts: Vec<Vec<usize>> = splits.iter().map(|(_, _, dataset)| dataset.counts()).collect();
    let header: String = splits.iter().map(|(name, ..)| format!("  {name:>9}")).collect();
    writeln!(out, "\n{:<width$}{header}", "class")?;
    for (class, name) in classes.iter().enumerate() {
        let cell = |(split, counts): (&(&str, &str, &Dataset), &Vec<usize>)| {
            format!("  {:>1$}", text::thousands(counts[class] as u64), split.0.len().max(9))
        };
        writeln!(out, "{name:<width$}{}", splits.iter().zip(&counts).map(cell).collect::<String>())?;
    }
    Ok(())
}

fn kind(about: &About) -> &'static str {
    match about.kind {
        Kind::Cifar10 => "cifar10",
        Kind::Cifar100 => "cifar100",
        Kind::Folder => "folder",
    }
}

fn to_json(dataset: &Dataset) -> Result<Value> {
    let (_, height, width, _) = dataset.pixels.dim();
    let (mean, std) = dataset.mean_and_std()?;
    Ok(json!({
        "images": dataset.len(),
        "height": height,
        "width": width,
        "counts": dataset.counts(),
        "mean": mean,
        "std": std,
        "source": dataset.source,
    }))
}

fn grid(args: &GridArgs) -> Result<()> {
    if !args.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        let message =
            format!("--out must be a PNG file: expected a name that ends in .png, got {}", args.out.display());
        return Err(Failure::Usage(message));
    }
    args::check_output(&args.out, args.force)?;
    let (splits, about) = args.data.load(DEFAULT_SIZE)?;
    let train = splits.train;
    picture::write_png(&args.out, picture::grid(&train, args.columns)?.view())?;
    let mut out = std::io::stdout().lock();
    for note in &about.notes {
        writeln!(out, "{:<14} {note}", "note")?;
    }
    writeln!(out, "{:<14} training images of {}", "data", about.description)?;
    writeln!(out, "{:<14} {}", "rows", train.classes.join(", "))?;
    Ok(writeln!(out, "{:<14} {}", "picture", args.out.display())?)
}
