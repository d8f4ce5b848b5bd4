//! `resnet predict`.

use super::trained::{Trained, WeightsArgs};
use super::{Failure, Result, args, images};
use crate::Error;
use crate::data::Normalization;
use crate::data::picture::{self, Exif, Picture};
use crate::model::ResNet;
use crate::train::Executor;
use crate::train::metrics::logits;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ndarray::Axis;
use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const AFTER_HELP: &str = "\
Examples:
  resnet predict photo.jpg                        with the pretrained network, classes of CIFAR-10
  resnet predict --weights runs/resnet20-quick-1/weights.safetensors photo.jpg
  resnet predict --weights weights.safetensors --top 1 photos/*.png
  resnet predict --weights weights.safetensors --json photo.jpg
  resnet predict --weights resnet18.pth --model resnet18 --image-size 224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 photo.jpg";

/// Classify pictures
///
/// Prints the most likely classes of each picture with their probabilities (softmax). A picture is a
/// PNG, JPEG, WebP, BMP, GIF or TIFF file of any size: its shorter side is resized to N pixels, and the
/// centre N x N is used. If a camera noted an orientation (EXIF), the picture is turned upright first.
///
/// Without --weights, a ResNet-20 embedded in this program classifies the pictures into the ten classes
/// of CIFAR-10: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck. Every picture is
/// assigned to one of these classes, whatever it shows.
///
/// Weights written by `resnet train` contain the model, the classes, the normalisation and N. For
/// other weights give --model, --mean, --std and --image-size.
///
/// If a picture cannot be read, an error is printed on stderr, the other pictures are classified, and
/// the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// PNG, JPEG, WebP, BMP, GIF or TIFF files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,

    #[command(flatten)]
    weights: WeightsArgs,

    /// Print the K most likely classes
    #[arg(long, value_name = "K", default_value = "5", value_parser = args::count(1, args::MOST), allow_negative_numbers = true)]
    top: usize,

    /// Average the logits of each picture and its mirror image
    #[arg(long)]
    test_flip: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Resize pictures to N x N pixels [default: from the weights file, or 32]
    #[arg(long, value_name = "N", value_parser = args::count(1, 2048), allow_negative_numbers = true)]
    image_size: Option<usize>,

    /// Whether the orientation that a camera noted (EXIF) turns a picture, as in training
    #[arg(long, value_name = "WHAT", default_value = "apply", value_parser = exif())]
    exif: Exif,

    #[command(flatten)]
    normalization: args::NormalizationArgs,

    #[command(flatten)]
    engine: args::EngineArgs,
}

/// `apply` or `ignore`.
fn exif() -> impl TypedValueParser<Value = Exif> {
    let words = PossibleValuesParser::new(["apply", "ignore"]);
    words.map(|word| if word == "ignore" { Exif::Ignore } else { Exif::Apply })
}

/// A network, its input format and its classes.
struct Predictor {
    model: ResNet<f32>,
    executor: Arc<dyn Executor<f32>>,
    normalization: Normalization,
    test_flip: bool,
    size: usize,
    exif: Exif,
    classes: Vec<String>,
    path: PathBuf,
}

/// A class and its probability.
struct Guess {
    class: usize,
    probability: f64,
}

pub fn run(args: &Args) -> Result<()> {
    let trained = args.weights.open()?;
    let predictor = Predictor::new(args, &trained)?;
    let mut out = io::stdout().lock();
    let (mut predictions, mut errors) = (Vec::new(), Vec::new());
    // One by one, so that the result for a picture does not depend on the others.
    for path in &args.images {
        let result = picture::load(path).and_then(|picture| Ok((predictor.predict(path, &picture)?, picture)));
        match result {
            Ok((guesses, picture)) => {
                if let (Some(note), Exif::Apply) = (note(path, &picture), args.exif) {
                    out.flush()?;
                    let _ = writeln!(io::stderr(), "{note}");
                }
                let top = &guesses[..args.top.min(guesses.len())];
                match args.json {
                    true => predictions.push(predictor.to_json(path, &picture, top)),
                    false => predictor.write(&mut out, path, top)?,
                }
            }
            Err(error) => {
                // Keeps the order of the pictures if both streams go to the same terminal.
                out.flush()?;
                let _ = writeln!(io::stderr(), "error: {error}");
                errors.push(json!({ "image": path.display().to_string(), "error": error.to_string() }));
            }
        }
    }
    if args.json {
        let value = json!({
            "model": predictor.model.architecture().name,
            "weights": predictor.path.display().to_string(),
            "image_size": predictor.size,
            "mean": predictor.normalization.mean(),
            "std": predictor.normalization.std(),
            "classes": predictor.classes,
            "predictions": predictions,
            "errors": errors,
        });
        writeln!(out, "{value:#}")?;
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::Verdict) }
}

impl Predictor {
    fn new(args: &Args, trained: &Trained) -> Result<Self> {
        let (normalization, _) = trained.normalization(&args.normalization)?;
        let size = match args.image_size {
            Some(size) => size,
            None => trained.image_size()?.unwrap_or(images::DEFAULT_SIZE),
        };
        let (count, names) = trained.classes()?;
        let classes = names.unwrap_or_else(|| (0..count).map(|class| format!("class {class}")).collect());
        let model = trained.model::<f32>(count)?;
        model.cost(1, [size, size]).map_err(|error| {
            let name = &model.architecture().name;
            Failure::Usage(format!(
                "`{name}` cannot process images of {size}x{size}: {error}; give another --image-size"
            ))
        })?;
        let (test_flip, path, executor) = (args.test_flip, trained.path.clone(), args.engine.executor()?);
        Ok(Predictor { model, executor, normalization, test_flip, size, exif: args.exif, classes, path })
    }

    /// Every class, the most likely first; equal ones in their order.
    ///
    /// With logits z, p = exp(z − max z) / Σ exp(z − max z), in `f64`.
    fn predict(&self, path: &Path, picture: &Picture) -> std::result::Result<Vec<Guess>, Error> {
        let pixels = picture::resize_and_crop(picture.view(self.exif), self.size);
        let x = self.normalization.apply(pixels.view().insert_axis(Axis(0)))?;
        let logits = logits(&*self.executor, &self.model, &x, self.test_flip)?;
        let logits: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
        if let Some(z) = logits.iter().find(|z| !z.is_finite()) {
            let message =
                format!("with these weights a logit of {} is {z}: check the weights and --std", path.display());
            return Err(Error::format(&self.path, None, message));
        }
        let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = logits.iter().map(|z| (z - most).exp()).collect();
        let sum: f64 = shares.iter().sum();
        let guess = |(class, share)| Guess { class, probability: share / sum };
        let mut guesses: Vec<Guess> = shares.into_iter().enumerate().map(guess).collect();
        guesses.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        Ok(guesses)
    }

    fn write(&self, out: &mut impl io::Write, path: &Path, guesses: &[Guess]) -> io::Result<()> {
        writeln!(out, "{}", path.display())?;
        for Guess { class, probability } in guesses {
            writeln!(out, "  {:>6.2} %  {}", 100.0 * probability, self.classes[*class])?;
        }
        Ok(())
    }

    fn to_json(&self, path: &Path, picture: &Picture, guesses: &[Guess]) -> Value {
        let guess = |Guess { class, probability }: &Guess| json!({ "label": class, "class": self.classes[*class], "probability": probability });
        json!({
            "image": path.display().to_string(),
            "exif_orientation": picture.orientation.number(),
            "top": guesses.iter().map(guess).collect::<Vec<_>>(),
        })
    }
}

/// What was done to make the picture upright, if anything.
fn note(path: &Path, picture: &Picture) -> Option<String> {
    let (path, number) = (path.display(), picture.orientation.number());
    let change = picture.orientation.change()?;
    Some(format!("note: {path}: {change} by EXIF orientation {number}; --exif ignore reads the pixels as stored"))
}
