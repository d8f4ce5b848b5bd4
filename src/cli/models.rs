//! `resnet models`.

use super::{Failure, Result, args, text};
use crate::engine::Engine;
use crate::model::{Architecture, Cost, ResNet, architecture};
use serde_json::json;
use std::io::Write as _;

const AFTER_HELP: &str = "\
Examples:
  resnet models                                image size and classes as published
  resnet models --image 32x32 --classes 10     all of them on CIFAR-10
  resnet models --batch-size 32 --json         output for scripts";

/// List every model with its size and cost
///
/// Multiply-adds are those of the convolutions and the linear layer in the forward pass of one image;
/// training needs three times as many. Memory is an estimate for a training step of --batch-size images
/// by the engine: its arrays, the weights, their gradients and momentum. `resnet train` adds the images,
/// the program and the evaluation, and prints its own estimate.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// Images in a training step
    #[arg(long, value_name = "N", default_value = "128", value_parser = args::count(1, args::MOST), allow_negative_numbers = true)]
    batch_size: usize,

    /// Size of the images [default: what each model was designed for]
    #[arg(long, value_name = "HxW", value_parser = args::image_size)]
    image: Option<[usize; 2]>,

    /// Number of classes [default: what each model was designed for]
    #[arg(long, value_name = "N", value_parser = args::count(1, 100_000), allow_negative_numbers = true)]
    classes: Option<usize>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Row {
    architecture: Architecture,
    image: [usize; 2],
    one: Cost,
    step_bytes: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let rows = architecture::NAMES.iter().map(|name| row(name, args)).collect::<Result<Vec<Row>>>()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows: Vec<_> = rows.iter().map(|row| row.json(args.batch_size)).collect();
        return Ok(writeln!(out, "{:#}", serde_json::Value::from(rows))?);
    }
    let memory = format!("memory, batch {}", args.batch_size);
    writeln!(
        out,
        "{:<20} {:>12} {:>16} {:>9} {:>8} {memory:>18}",
        "model", "parameters", "multiply-adds", "image", "classes"
    )?;
    for row in &rows {
        let Row { architecture, image: [height, width], one, step_bytes } = row;
        writeln!(
            out,
            "{:<20} {:>12} {:>16} {:>9} {:>8} {:>18}",
            architecture.name,
            text::thousands(one.parameters),
            text::thousands(one.multiply_adds),
            format!("{height}x{width}"),
            architecture.classes,
            text::bytes(*step_bytes),
        )?;
    }
    Ok(())
}

fn row(name: &str, args: &Args) -> Result<Row> {
    let architecture = Architecture::by_name(name)?;
    let classes = args.classes.unwrap_or(architecture.classes);
    let architecture = architecture.with_classes(classes);
    let image = args.image.unwrap_or(architecture.image);
    let model = ResNet::<f32>::zeroed(&architecture)?;
    let cost = |batch| {
        let [height, width] = image;
        model.cost(batch, image).map_err(|error| {
            Failure::Usage(format!(
                "`{name}` cannot process images of {height}x{width}; give a larger --image\n  {error}"
            ))
        })
    };
    let one = cost(1)?;
    // The weights and their momentum are there throughout.
    let step = Engine::default().memory(&model, args.batch_size, image, rayon::current_num_threads())?.training.bytes;
    Ok(Row { step_bytes: step + 2 * 4 * one.parameters, one, architecture, image })
}

impl Row {
    fn json(&self, batch_size: usize) -> serde_json::Value {
        json!({
            "model": self.architecture.name,
            "parameters": self.one.parameters,
            "multiply_adds": self.one.multiply_adds,
            "image": self.image,
            "classes": self.architecture.classes,
            "batch_size": batch_size,
            "training_step_bytes": self.step_bytes,
        })
    }
}
