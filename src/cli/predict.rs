//! `resnet predict`.
//!
//! [`files`]: the pictures; this file: the network, and one picture after the other; [`shares`]: the parts of several processes;
//! [`output`]: what is printed.

mod files;
mod output;
mod shares;

use super::train::kernels;
use super::trained::{Trained, WeightsArgs};
use super::{Failure, Result, args, imagenet, processes, progress, text};
use crate::Error;
use crate::data::picture::{self, Exif, Orientation};
use crate::data::{Framing, Normalization};
use crate::model::ResNet;
use crate::parameters::fingerprint;
use crate::processes::Communicator;
use crate::rng::{FNV_OFFSET, fnv1a};
use crate::train::Executor;
use crate::train::metrics::logits;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use files::Files;
use indicatif::ProgressBar;
use ndarray::Axis;
use output::{Format, Output};
use serde_json::{Value, json};
use shares::Shares;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// From this many pictures on, a terminal shows a progress bar.
const MANY: usize = 20;

const AFTER_HELP: &str = "\
Examples:
  resnet predict photo.jpg                        with the pretrained network, classes of CIFAR-10
  resnet predict --weights runs/resnet20-quick-1/weights.safetensors photo.jpg
  resnet predict --weights weights.safetensors --top 1 photos/*.png
  resnet predict --weights weights.safetensors --format json photo.jpg
  resnet predict --weights weights.safetensors --format csv photos/ > photos.csv
  resnet predict --weights resnet50-11ad3fa6.pth photo.jpg        weights of torchvision for ImageNet";

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
/// Weights written by `resnet train` contain the model, the classes, the normalisation and N. The
/// network of other weights is recognised by its tensors. If it is one of ImageNet, with 1,000 classes,
/// everything else is as in torchvision: the shorter side is resized to 256 pixels (232 for the V2
/// weights, known by the hash in the file's name), the centre 224 x 224 is used, and the classes have
/// torchvision's names. For other weights give --mean and --std, and --image-size if it is not that of
/// `resnet models`.
///
/// In a folder, all pictures are classified, including those in its subfolders, sorted by name. The result
/// for a picture does not depend on the other pictures, and several processes (mpirun, srun) share them.
///
/// A picture that cannot be read is named on stderr and skipped; --strict stops at it instead. The exit
/// code is 0 if at least one picture was classified, and otherwise 1.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// PNG, JPEG, WebP, BMP, GIF or TIFF files, and folders with such files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,

    #[command(flatten)]
    weights: WeightsArgs,

    /// Print the K most likely classes [default: 5; 1 in a table or CSV]
    #[arg(long, value_name = "K", value_parser = args::count(1, args::MOST), allow_negative_numbers = true)]
    top: Option<usize>,

    /// Average the logits of each picture and its mirror image
    #[arg(long)]
    test_flip: bool,

    /// How to print the results [default: list; table if a folder is given]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Stop at the first picture that cannot be read
    #[arg(long)]
    strict: bool,

    /// Resize pictures to N x N pixels [default: from the weights file, or that of the network]
    #[arg(long, value_name = "N", value_parser = args::count(1, 2048), allow_negative_numbers = true)]
    image_size: Option<usize>,

    /// Resize the shorter side of pictures to R pixels, then cut out N x N [default: N; ImageNet: 256 or 232]
    #[arg(long, value_name = "R", value_parser = args::count(1, 4096), allow_negative_numbers = true)]
    resize_size: Option<usize>,

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
    framing: Framing,
    exif: Exif,
    classes: Vec<String>,
    path: PathBuf,
}

/// A class and its probability.
#[derive(Debug, PartialEq)]
struct Guess {
    class: usize,
    probability: f64,
}

/// The classes, the most likely first, and how the picture becomes upright.
#[derive(Debug, PartialEq)]
struct Prediction {
    guesses: Vec<Guess>,
    orientation: Orientation,
}

pub fn run(args: &Args) -> Result<()> {
    let processes = processes::join()?;
    let result = run_among(args, &*processes);
    processes::end(processes, result)
}

/// A predictor and the notes about its weights.
fn prepare(args: &Args) -> Result<(Predictor, Trained)> {
    let mut trained = args.weights.open()?;
    let predictor = Predictor::new(args, &trained)?;
    if let Some(preset) = &trained.preset {
        let known = trained.about("image_size").is_some();
        let names = "ImageNet, because of the 1,000 classes: class names of torchvision";
        trained.notes.push(if known { names.to_string() } else { preset.line.clone() });
    }
    Ok((predictor, trained))
}

/// Several processes share the pictures, and the first of them prints the results.
fn run_among(args: &Args, processes: &dyn Communicator) -> Result<()> {
    let (predictor, trained) = processes::agree(processes, prepare(args))?;
    let is_first = processes.rank() == 0;
    if is_first {
        trained.print_notes();
    }
    let Files { pictures, left_out, empty, errors } = Files::find(&args.images);
    if let Some(note) = left_out.note() {
        progress::say(&note);
    }
    let mut skipped = Skipped { stops: args.strict, errors: Vec::new() };
    let listed = errors.into_iter().try_for_each(|(folder, error)| skipped.add(&folder, error.to_string()));
    processes::agree(processes, listed)?;
    expect_same(args, &predictor, &pictures, processes)?;
    if pictures.is_empty() {
        let places: Vec<String> = args.images.iter().map(|path| output::name(path)).collect();
        let message = format!("{}: expected {} files, found none", places.join(", "), picture::KINDS);
        return processes::agree(processes, Err(Failure::Failed(message)));
    }
    for folder in empty {
        progress::say(&format!("note: no {} files in {}", picture::KINDS, output::name(&folder)));
    }

    let (format, top) = (args.format(), args.top());
    let begin = || {
        let out = io::BufWriter::new(io::stdout().lock());
        Output::begin(out, format, top, &predictor.classes, &pictures)
    };
    let output = is_first.then(begin).transpose();
    let mut output = processes::agree(processes, output.map_err(Failure::from))?;
    let has_bar = is_first && pictures.len() >= MANY;
    let bar = if has_bar { progress::counter("pictures", pictures.len()) } else { ProgressBar::hidden() };
    let shares = Shares::new(processes);
    for paths in pictures.chunks(shares.most_at_once()) {
        let predictions = shares.predict(paths, |path| predictor.predict(path, top));
        // All output of both streams, in the order of the pictures, above the bar.
        let printed = bar.suspend(|| {
            let Some(output) = &mut output else { return Ok(()) };
            for (path, prediction) in paths.iter().zip(predictions) {
                match prediction {
                    Ok(prediction) => {
                        if let Some(note) = prediction.note(path).filter(|_| args.exif == Exif::Apply) {
                            output.flush()?;
                            progress::say(&note);
                        }
                        output.picture(path, &prediction)?;
                    }
                    Err(error) => {
                        output.flush()?;
                        skipped.add(path, error)?;
                    }
                }
            }
            Ok::<(), Failure>(output.flush()?)
        });
        processes::agree(processes, printed)?;
        bar.inc(paths.len() as u64);
    }
    bar.finish_and_clear();
    let Some(output) = output else { return Ok(()) };
    let classified = output.pictures();
    output.end(json!({
        "model": predictor.model.architecture().name,
        "weights": predictor.path.display().to_string(),
        "image_size": predictor.framing.crop,
        "resize_size": predictor.framing.resize,
        "mean": predictor.normalization.mean(),
        "std": predictor.normalization.std(),
        "classes": predictor.classes,
        "errors": skipped.errors,
    }))?;
    match (classified, skipped.errors.len()) {
        (0, _) => return Err(Failure::Verdict),
        (_, 0) => {}
        (_, some) => progress::say(&format!("note: {} classified, {some} skipped", text::count(classified, "picture"))),
    }
    Ok(())
}

/// Rejects processes that would print something else.
fn expect_same(args: &Args, predictor: &Predictor, pictures: &[PathBuf], processes: &dyn Communicator) -> Result<()> {
    if processes.size() == 1 {
        return Ok(());
    }
    let Predictor { model, normalization, test_flip, framing, exif, classes, .. } = predictor;
    let engine = args.engine.engine.unwrap_or(args::EngineKind::Fast);
    let settings = [
        format!("image_size = {}, resize_size = {}", framing.crop, framing.resize),
        format!("mean = {:?}, std = {:?}", normalization.mean(), normalization.std()),
        format!("test_flip = {test_flip}, exif = {exif:?}, top = {}, strict = {}", args.top(), args.strict),
        format!("engine = {}, conv = {}", engine.name(), args.engine.conv.unwrap_or_default().name()),
        classes.join(", "),
    ];
    let mut hash = FNV_OFFSET;
    for path in pictures {
        hash = fnv1a(fnv1a(hash, path.as_os_str().as_encoded_bytes()), &[0]);
    }
    let list = format!("{}, hash {hash:016x}", text::count(pictures.len(), "picture"));
    processes::expect_same(
        processes,
        &[
            ("network", format!("{:016x}", fingerprint(model)), "these are hashes of the weights: copy the file again"),
            ("configuration", settings.join("\n"), "give all processes the same flags"),
            ("set of kernels", kernels(engine), "RESNET_KERNELS chooses it; AVX2 and AVX-512 are one set"),
            ("list of pictures", list, "they must be on a file system that all processes share"),
        ],
    )
}

/// Pictures that cannot be read.
struct Skipped {
    /// Whether the first one ends the command.
    stops: bool,
    errors: Vec<Value>,
}

impl Skipped {
    fn add(&mut self, path: &Path, error: String) -> Result<()> {
        if self.stops {
            return Err(Failure::Failed(error));
        }
        progress::say(&format!("error: {error}"));
        self.errors.push(json!({ "image": output::name(path), "error": error }));
        Ok(())
    }
}

impl Args {
    fn format(&self) -> Format {
        let default = if self.images.iter().any(|path| path.is_dir()) { Format::Table } else { Format::List };
        if self.json { Format::Json } else { self.format.unwrap_or(default) }
    }

    /// The number of classes printed for each picture, if the network has as many.
    fn top(&self) -> usize {
        self.top.unwrap_or(self.format().top())
    }
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
        Ok(Predictor { model, executor, normalization, test_flip, framing, exif: args.exif, classes, path })
    }

    /// The `top` classes, the most likely first; equal ones in their order.
    ///
    /// With logits z, p = exp(z − max z) / Σ exp(z − max z), in `f64`.
    fn predict(&self, path: &Path, top: usize) -> std::result::Result<Prediction, Error> {
        let picture = picture::load(path)?;
        let pixels = picture::resize_and_crop(picture.view(self.exif), self.framing);
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
        guesses.truncate(top);
        Ok(Prediction { guesses, orientation: picture.orientation })
    }
}

impl Prediction {
    /// What was done to make the picture upright, if anything.
    fn note(&self, path: &Path) -> Option<String> {
        let (path, number) = (output::name(path), self.orientation.number());
        let change = self.orientation.change()?;
        Some(format!("note: {path}: {change} by EXIF orientation {number}; --exif ignore reads the pixels as stored"))
    }
}
