//! `resnet predict`.

use super::trained::{Trained, WeightsArgs};
use super::{Failure, Result, args, imagenet};
use crate::Error;
use crate::data::Normalization;
use crate::data::picture::{self, Framing};
use crate::model::ResNet;
use crate::train::Executor;
use crate::train::metrics::logits;
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
resnet predict --weights resnet50-11ad3fa6.pth photo.jpg          weights of torchvision for ImageNet";

/// Classify pictures
///
/// Prints the most likely classes of each picture with their probabilities (softmax). A picture is a
/// PNG or JPEG file of any size: its shorter side is resized to N pixels, and the centre N x N is used.
///
/// Without --weights, a ResNet-20 embedded in this program classifies the pictures into the ten classes
/// of CIFAR-10: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck. Every picture is
/// assigned to one of these classes, whatever it shows.
///
/// Weights written by `resnet train` contain the model, the classes, the normalisation and N. The
/// network of other weights is recognised by its tensors. If it is one of ImageNet, with 1,000 classes,
/// everything else is as in torchvision: the shorter side is resized to 256 pixels (232 for the V2
/// weights, known by the hash in the file's name), the centre 224 x 224 is used, and the classes have
/// torchvision's names. For other weights give --mean and --std, and --image-size if it is not that of
/// `resnet models`.
///
/// If a picture cannot be read, an error is printed on stderr, the other pictures are classified, and
/// the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// PNG or JPEG files
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

    /// Resize pictures to N x N pixels [default: from the weights file, or that of the network]
    #[arg(long, value_name = "N", value_parser = args::count(1, 2048), allow_negative_numbers = true)]
    image_size: Option<usize>,

    /// Resize the shorter side of pictures to R pixels, then cut out N x N [default: N; ImageNet: 256 or 232]
    #[arg(long, value_name = "R", value_parser = args::count(1, 4096), allow_negative_numbers = true)]
    resize_size: Option<usize>,

    #[command(flatten)]
    normalization: args::NormalizationArgs,

    #[command(flatten)]
    engine: args::EngineArgs,
}

/// A network, its input format and its classes.
struct Predictor {
    model: ResNet<f32>,
    executor: Arc<dyn Executor<f32>>,
    normalization: Normalization,
    test_flip: bool,
    framing: Framing,
    classes: Vec<String>,
    path: PathBuf,
}

/// A class and its probability.
struct Guess {
    class: usize,
    probability: f64,
}

pub fn run(args: &Args) -> Result<()> {
    let mut trained = args.weights.open()?;
    let predictor = Predictor::new(args, &trained)?;
    if let Some(preset) = &trained.preset {
        let known = trained.about("image_size").is_some();
        let names = "ImageNet, because of the 1,000 classes: class names of torchvision";
        trained.notes.push(if known { names.to_string() } else { preset.line.clone() });
    }
    trained.print_notes();
    let mut out = io::stdout().lock();
    let (mut predictions, mut errors) = (Vec::new(), Vec::new());
    // One by one, so that the result for a picture does not depend on the others.
    for path in &args.images {
        match predictor.predict(path) {
            Ok(guesses) => {
                let top = &guesses[..args.top.min(guesses.len())];
                match args.json {
                    true => predictions.push(predictor.to_json(path, top)),
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
            "image_size": predictor.framing.crop,
            "resize_size": predictor.framing.resize,
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
        let framing = trained.framing(args.image_size, args.resize_size)?;
        let size = framing.crop;
        let (count, names) = trained.classes()?;
        if count == 1 {
            let message = "the last layer has one output, so the softmax would always be 100 %; this command needs an output \
                           for every class (two for a yes-or-no question)";
            return Err(Error::format(&trained.path, None, message).into());
        }
        let classes = match (names, &trained.preset) {
            (Some(names), _) => names,
            (None, Some(_)) => imagenet::classes().map(String::from).collect(),
            (None, None) => (0..count).map(|class| format!("class {class}")).collect(),
        };
        let model = trained.model::<f32>(count)?;
        model.cost(1, [size, size]).map_err(|error| {
            let name = &model.architecture().name;
            Failure::Usage(format!(
                "`{name}` cannot process images of {size}x{size}: {error}; give another --image-size"
            ))
        })?;
        let (test_flip, path, executor) = (args.test_flip, trained.path.clone(), args.engine.executor()?);
        Ok(Predictor { model, executor, normalization, test_flip, framing, classes, path })
    }

    /// Every class, the most likely first; equal ones in their order.
    ///
    /// With logits z, p = exp(z − max z) / Σ exp(z − max z), in `f64`.
    fn predict(&self, path: &Path) -> std::result::Result<Vec<Guess>, Error> {
        let pixels = picture::read(path, self.framing)?;
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

    fn to_json(&self, path: &Path, guesses: &[Guess]) -> Value {
        let guess = |Guess { class, probability }: &Guess| json!({ "label": class, "class": self.classes[*class], "probability": probability });
        json!({ "image": path.display().to_string(), "top": guesses.iter().map(guess).collect::<Vec<_>>() })
    }
}
