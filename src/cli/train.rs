//! `resnet train`.

use super::config::Config;
use super::images::{About, DataArgs, DEFAULT_SIZE};
use super::progress::{Plan, Progress};
use super::run_folder::{check_out, RunFolder};
use super::{args, init_from, interrupt, memory, text, Failure, Result};
use resnet_by_hand::data::{Augmentation, Dataset};
use resnet_by_hand::formats::{state_dict, weights::Metadata};
use resnet_by_hand::layers::{Conv2dAlgorithm, Mode};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{DecayExemption, Schedule};
use resnet_by_hand::parameters::fingerprint;
use resnet_by_hand::train::checkpoint::{data_hash, Best, Checkpoint};
use resnet_by_hand::train::{evaluate_with, recipe, EpochMetrics, Evaluation, Position, Recipe, Trainer};
use resnet_by_hand::Error;
use serde_json::json;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  resnet train                                            about a minute, nothing to download
  resnet train --data cifar10/                            recipe `quick`: resnet20, ten epochs
  resnet train --data cifar10/ --model resnet56 --epochs 30 --seed 7
  resnet train --data cifar10/ --recipe paper --out runs/paper
  resnet train --config runs/paper/config.toml --seed 2   the same with another seed
  resnet train --resume runs/paper                        go on where it was broken off
  resnet train --data photos/ --image-size 64             a folder of pictures, one folder a class
  resnet train --data photos/ --model resnet18 --image-size 224 --init-from resnet18.pth
  resnet train --schedule warmup:2@0.1+cosine --lr 0.1 --label-smoothing 0.1";

/// Train a network
///
/// Flags override the recipe, and the recipe names the model unless --model does.
///
/// The run folder gets the weights after every epoch (weights.safetensors, what `resnet eval` reads),
/// a line of metrics.csv, metrics.jsonl and times.csv for each, the norms of every layer (layers.csv),
/// all of these for TensorBoard (`tensorboard --logdir runs`), the configuration (config.toml), and
/// checkpoints. The test images are looked at once, at the end.
///
/// Ctrl-C (or SIGTERM) finishes the step, saves a checkpoint and stops; a second one stops at once.
/// A run that ended in any way, killed or without power, goes on with --resume at its last checkpoint,
/// and ends with the same bits as if there had been no break, on any number of threads.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES, after_long_help = format!("{}\n\n{EXAMPLES}", recipes()))]
pub struct Args {
    /// The network, see `resnet models` [default: the recipe's]
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Option<Architecture>,

    /// Everything below at once: paper, system1, system2, quick, demo
    ///
    /// [default: demo for the embedded images, otherwise quick]
    #[arg(long, value_name = "NAME", value_parser = Recipe::by_name)]
    recipe: Option<Recipe>,

    /// TOML file with any of the settings below; flags override it
    ///
    /// Keys are the names of the flags with `_` for `-`; config.toml of a run starts it again.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,

    /// Folder to write to, new or empty [default: runs/MODEL-RECIPE-N]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,

    /// Go on with the run in this folder, from its last checkpoint
    ///
    /// It goes on as it began: other settings are refused. --data may say where the same images are now.
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    resume: Option<PathBuf>,

    /// Save a checkpoint this often, besides after every epoch: 90s, 10m, 1.5h
    #[arg(long, value_name = "TIME", value_parser = args::duration, allow_negative_numbers = true)]
    checkpoint_every: Option<Duration>,

    /// How many checkpoints to keep
    #[arg(long, value_name = "N", default_value = "2", value_parser = args::count(1, 1000), allow_negative_numbers = true)]
    keep_checkpoints: usize,

    /// Seed of the first weights, the order of the images, crops and flips, and the validation images
    #[arg(long, value_name = "N", value_parser = args::seed, allow_negative_numbers = true)]
    seed: Option<u64>,

    #[command(flatten)]
    data: DataArgs,

    /// Use only the first N training images
    #[arg(long, value_name = "N", value_parser = args::count(1, usize::MAX), allow_negative_numbers = true, help_heading = "Data")]
    train_images: Option<usize>,

    /// Hold N of the training images out to choose the best epoch by
    ///
    /// With N above 0, best.safetensors holds the weights with the highest accuracy on these
    /// images, and they are the ones that are tested.
    #[arg(long, value_name = "N", value_parser = args::count(0, usize::MAX), allow_negative_numbers = true, verbatim_doc_comment, help_heading = "Data")]
    validation: Option<usize>,

    /// Look at the validation images every N epochs, and after the last [default: 1]
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Data")]
    validate_every: Option<usize>,

    /// Stop when N epochs have not raised the validation accuracy; 0 never does [default: 0]
    #[arg(long, value_name = "N", value_parser = args::count(0, args::MOST), allow_negative_numbers = true, help_heading = "Data")]
    early_stopping: Option<usize>,

    /// Cut training images out at random, after adding N black pixels on each side
    #[arg(long, value_name = "N", value_parser = args::count(0, 32), allow_negative_numbers = true, help_heading = "Data")]
    crop_padding: Option<usize>,

    /// Mirror training images at random; --flip=false does not
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Data")]
    flip: Option<bool>,

    /// Hide a square of N pixels' side at a random place of every training image (cutout) [default: 0]
    #[arg(long, value_name = "N", value_parser = args::count(0, args::MOST), allow_negative_numbers = true, help_heading = "Data")]
    cutout: Option<usize>,

    /// Neither cut nor mirror nor hide
    #[arg(long, conflicts_with_all = ["crop_padding", "flip", "cutout"], help_heading = "Data")]
    no_augment: bool,

    #[command(flatten)]
    normalization: args::NormalizationArgs,

    /// Passes over the training images
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    epochs: Option<usize>,

    /// Images per step
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    batch_size: Option<usize>,

    /// Learning rate the schedule starts from (onecycle: its top)
    #[arg(long, value_name = "X", value_parser = args::positive, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    lr: Option<f64>,

    /// Learning rate over time, e.g. constant, cosine, onecycle, multistep:80,110@0.1
    ///
    /// constant                  the same throughout
    /// multistep:80,110,130@0.1  a tenth from each of these epochs on (32000s counts steps)
    /// step:10@0.1               a tenth after every ten epochs
    /// cosine, cosine@0.001      half a cosine down to 0, or to 0.001
    /// onecycle                  up, then down; onecycle:pct_start=0.3,div_factor=25
    /// warmup:5@0.1+cosine       in front of any: five epochs up from a tenth of it
    /// hold:400s@0.1+constant    in front of any: 400 steps at a tenth of it
    #[arg(long, value_name = "S", verbatim_doc_comment, help_heading = "Optimisation")]
    schedule: Option<Schedule>,

    /// Momentum
    #[arg(long, value_name = "X", value_parser = args::share, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    momentum: Option<f64>,

    /// Nesterov's momentum; --nesterov=false for plain momentum
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    nesterov: Option<bool>,

    /// Weight decay, coupled as in PyTorch's SGD
    #[arg(long, value_name = "X", value_parser = args::not_negative, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    weight_decay: Option<f64>,

    /// Spare batch norm and biases the weight decay
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    no_decay_norm_bias: Option<bool>,

    /// Share of the target spread over all classes, 0 to 1
    #[arg(long, value_name = "X", value_parser = args::share, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    label_smoothing: Option<f64>,

    /// Shorten the gradient of all parameters together to this length; 0 does not [default: 0]
    #[arg(long, value_name = "X", value_parser = args::not_negative, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    clip_norm: Option<f64>,

    /// Start every block as its shortcut: gamma = 0 in its last batch norm
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    zero_init_residual: Option<bool>,

    /// Begin with the weights of this file where they fit (fine-tuning)
    ///
    /// safetensors, PyTorch's .pth, .pt, .th, or .npz. Tensors whose name or shape is another stay as they
    /// are initialised, and are named: the last layer, when there are other classes.
    #[arg(long, value_name = "FILE", verbatim_doc_comment, help_heading = "Optimisation")]
    init_from: Option<PathBuf>,

    /// Images per step of an evaluation; changes speed and memory only
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    eval_batch_size: Option<usize>,

    /// Compute the convolutions with this algorithm
    ///
    /// For comparison: it changes speed and memory, and the results by rounding only. A layer whose
    /// shape the algorithm cannot compute uses the one `auto` would take. [default: auto]
    #[arg(long, value_name = "NAME", value_parser = args::algorithm(), verbatim_doc_comment, help_heading = "Computation")]
    conv: Option<Conv2dAlgorithm>,
}

/// The recipes with their values, for `--help`.
fn recipes() -> String {
    let mut help = "Recipes:\n".to_string();
    for (name, about) in recipe::RECIPES {
        let recipe = Recipe::by_name(name).expect("a known recipe");
        let held_out = match recipe.validation {
            0 => String::new(),
            n => format!("; {n} images held out"),
        };
        help += &format!(
            "  {name}: {about}\n      {}, {}\n      {}; {}{held_out}\n      {}\n",
            recipe.model,
            steps(&recipe),
            optimiser(&recipe),
            augmentation(recipe.augmentation),
            normalization(&recipe)
        );
    }
    help.trim_end().to_string()
}

fn steps(recipe: &Recipe) -> String {
    format!("{} epochs in batches of {}, lr {} {}", recipe.epochs, recipe.batch_size, recipe.lr, recipe.schedule)
}

fn optimiser(recipe: &Recipe) -> String {
    let sgd = &recipe.sgd;
    let nesterov = if sgd.nesterov { " (Nesterov)" } else { "" };
    let spared = match sgd.decay_exemption {
        DecayExemption::None => "",
        DecayExemption::NormAndBias => " except on batch norm and biases",
    };
    let mut text = format!("momentum {}{nesterov}, weight decay {}{spared}", sgd.momentum, sgd.weight_decay);
    if recipe.label_smoothing > 0.0 {
        text += &format!(", label smoothing {}", recipe.label_smoothing);
    }
    if recipe.clip_norm > 0.0 {
        text += &format!(", gradients clipped to {}", recipe.clip_norm);
    }
    if recipe.zero_init_residual {
        text += ", blocks start as their shortcut";
    }
    text
}

fn augmentation(augmentation: Augmentation) -> String {
    let mut text = match (augmentation.crop_padding, augmentation.flip) {
        (0, false) => "no crops or flips".to_string(),
        (0, true) => "flips".to_string(),
        (padding, false) => format!("crops with padding {padding}"),
        (padding, true) => format!("crops with padding {padding}, flips"),
    };
    if augmentation.cutout > 0 {
        text += &format!(", squares of {} pixels hidden", augmentation.cutout);
    }
    text
}

fn normalization(recipe: &Recipe) -> String {
    let (mean, std) = (recipe.normalization.mean(), recipe.normalization.std());
    format!("mean {}, std {}", args::write_three(mean), args::write_three(std))
}

impl Args {
    /// What the flags say, and nothing else.
    fn flags(&self) -> Result<Config> {
        let (crop_padding, flip, cutout) = match self.no_augment {
            true => (Some(0), Some(false), Some(0)),
            false => (self.crop_padding, self.flip, self.cutout),
        };
        self.normalization.given()?;
        Ok(Config {
            model: self.model.as_ref().map(|architecture| architecture.name.clone()),
            recipe: self.recipe.as_ref().map(|recipe| recipe.name.clone()),
            seed: self.seed,
            data: self.data.data.clone(),
            image_size: self.data.image_size,
            train_images: self.train_images,
            validation: self.validation,
            validate_every: self.validate_every,
            early_stopping: self.early_stopping,
            crop_padding,
            flip,
            cutout,
            mean: self.normalization.mean,
            std: self.normalization.std,
            epochs: self.epochs,
            batch_size: self.batch_size,
            eval_batch_size: self.eval_batch_size,
            lr: self.lr,
            schedule: self.schedule.as_ref().map(Schedule::to_string),
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
            no_decay_norm_bias: self.no_decay_norm_bias,
            label_smoothing: self.label_smoothing,
            clip_norm: self.clip_norm,
            zero_init_residual: self.zero_init_residual,
            init_from: self.init_from.clone(),
            conv: self.conv.map(|algorithm| algorithm.name().to_string()),
        })
    }
}

/// Training, validation (perhaps none) and test images.
struct Images {
    train: Dataset,
    validation: Option<Dataset>,
    test: Dataset,
    about: About,
}

impl Images {
    fn load(config: &Config, recipe: &Recipe) -> Result<Self> {
        let (splits, about) = config.data().load(DEFAULT_SIZE)?;
        let (mut train, test) = (splits.train, splits.test);
        if let Some(n) = config.train_images {
            if n > train.len() {
                let message = format!("--train-images is {n}, but there are only {} training images", train.len());
                return Err(Failure::Usage(message));
            }
            train = train.subset(&(0..n).collect::<Vec<_>>())?;
        }
        if recipe.validation == 0 {
            return Ok(Images { train, validation: None, test, about });
        }
        if recipe.validation >= train.len() {
            return Err(Failure::Usage(format!(
                "cannot hold {} of {} training images out; give a smaller --validation, 0 for none",
                recipe.validation,
                train.len()
            )));
        }
        let (train, validation) = train.split_validation(recipe.validation, recipe.seed)?;
        Ok(Images { train, validation: Some(validation), test, about })
    }
}

/// A run that is about to begin or to go on.
struct Run {
    /// All of it.
    config: Config,
    folder: RunFolder,
    trainer: Trainer<f32>,
    best: Option<Best>,
    train: Arc<Dataset>,
    validation: Option<Arc<Dataset>>,
    test: Arc<Dataset>,
    about: About,
    /// What was done with the weights of `--init-from`.
    initialised: Vec<String>,
    /// [`data_hash`] of the training images.
    data: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let mut run = match &args.resume {
        Some(path) => {
            let Some(run) = resume(args, path)? else { return Ok(()) };
            run
        }
        None => begin(args)?,
    };
    let mut progress = run.progress()?;
    run.describe(&mut progress)?;
    interrupt::listen()?;
    let ended = run.epochs(args.checkpoint_every, &mut progress).map_err(|failure| match failure {
        Failure::Failed(message) => Failure::Failed(format!("{message}\n\n{}", run.folder.kept())),
        Failure::Diverged(message) => Failure::Failed(format!("{message}\n\n{}", run.folder.kept_good())),
        other => other,
    });
    let ended = ended.and_then(|()| run.report(&mut progress));
    progress.finish();
    ended
}

/// The model of a configuration, held against the images.
fn prepare(config: &Config, recipe: &Recipe, train: &Dataset) -> Result<ResNet<f32>> {
    let architecture = Architecture::by_name(&recipe.model)?.with_classes(train.classes.len());
    let mut model = ResNet::<f32>::new(&architecture, recipe.seed)?;
    if recipe.zero_init_residual {
        model.zero_init_residual().map_err(|error| Failure::Usage(error.to_string()))?;
    }
    let algorithm = config.conv()?;
    model.convs_mut().into_iter().for_each(|conv| conv.algorithm = algorithm);
    let (_, height, width, _) = train.pixels.dim();
    model.cost(1, [height, width]).map_err(|error| {
        Failure::Usage(format!("`{}` cannot take images of {height}x{width}: {error}", recipe.model))
    })?;
    if train.len() % recipe.batch_size == 1 || recipe.batch_size == 1 {
        let one = ndarray::Array4::zeros((1, height, width, 3)).into_shared();
        model.forward(&one, Mode::Train).map_err(|error| {
            Failure::Usage(format!(
                "the last batch of an epoch would hold a single image ({} images in batches of {}), which `{}` cannot \
                 train on: {error}; give another --batch-size",
                train.len(),
                recipe.batch_size,
                recipe.model
            ))
        })?;
    }
    fits_in_memory(&model, recipe, train)?;
    Ok(model)
}

/// Refuses a step that cannot fit into the memory there is, with the batch size that would.
fn fits_in_memory(model: &ResNet<f32>, recipe: &Recipe, train: &Dataset) -> Result<()> {
    let Some(available) = memory::available() else { return Ok(()) };
    let (_, height, width, _) = train.pixels.dim();
    let needed =
        |batch: usize| Ok::<u64, Failure>(model.cost(batch.min(train.len()), [height, width])?.training_bytes(4));
    let bytes = needed(recipe.batch_size)?;
    if bytes <= available {
        return Ok(());
    }
    // The largest that fits: bytes grow with the batch.
    let (mut fits, mut too_large) = (0, recipe.batch_size);
    while too_large - fits > 1 {
        let middle = fits + (too_large - fits) / 2;
        if needed(middle)? <= available {
            fits = middle;
        } else {
            too_large = middle;
        }
    }
    let advice = match fits {
        0 => "not even a batch of one image fits".to_string(),
        fits => format!("--batch-size {fits} would fit"),
    };
    Err(Failure::Failed(format!(
        "a step of `{}` with {} images needs about {}, and {} are available; {advice}",
        recipe.model,
        recipe.batch_size,
        text::bytes(bytes),
        text::bytes(available)
    )))
}

fn begin(args: &Args) -> Result<Run> {
    let flags = args.flags()?;
    let mut given = match &args.config {
        Some(path) => flags.or(Config::read(path)?),
        None => flags,
    };
    let recipe = given.recipe()?;
    if let Some(out) = &args.out {
        check_out(out)?;
    }
    let Images { train, validation, test, about } = Images::load(&given, &recipe)?;
    if given.mean.is_none() {
        let derived = about.normalization(&train)?;
        (given.mean, given.std) = (derived.map(|d| d.mean()), derived.map(|d| d.std()));
    }
    let recipe = given.recipe()?;
    let config = given.effective(&recipe)?;
    let mut model = prepare(&config, &recipe, &train)?;
    let initialised = match &config.init_from {
        Some(path) => init_from::apply(path, &mut model)?,
        None => Vec::new(),
    };
    let stem = format!("{}-{}", recipe.model, recipe.name);
    let mut folder = RunFolder::create(args.out.as_deref(), &stem, args.keep_checkpoints)?;
    folder.write_text("config.toml", &config.to_toml())?;
    let data = data_hash(&train);
    let train = Arc::new(train);
    let trainer = Trainer::new(model, recipe, train.clone())?;
    // The first one at once: a folder that cannot be written to is noticed now, and every run can be gone on with.
    folder.checkpoint(&trainer, None, &config.to_toml(), data)?;
    let (validation, test) = (validation.map(Arc::new), Arc::new(test));
    Ok(Run { config, folder, trainer, best: None, train, validation, test, about, initialised, data })
}

/// The run in a folder at its last checkpoint; `None` if it is over.
fn resume(args: &Args, path: &Path) -> Result<Option<Run>> {
    let (folder, latest) = RunFolder::open(path, args.keep_checkpoints)?;
    let mut out = std::io::stdout().lock();
    for (file, problem) in &latest.damaged {
        writeln!(out, "note           {} is of no use, going on from the one before: {problem}", file.display())?;
    }
    let checkpoint = latest.checkpoint;
    let wrong = |message: String| Failure::Failed(format!("{}: {message}", latest.path.display()));
    let mut config = Config::parse(&checkpoint.config).map_err(wrong)?;
    let mut flags = args.flags()?;
    // Where the images are is no setting of the run; that they are the same is checked.
    if let Some(data) = flags.data.take() {
        config.data = Some(data);
    }
    if let [(key, given, saved), ..] = flags.conflicts(&config).as_slice() {
        return Err(Failure::Usage(format!(
            "--{} is {given}, but the run began with {saved}, and a run goes on as it began; for another one: \
             resnet train --config {} --{} {}",
            key.replace('_', "-"),
            path.join("config.toml").display(),
            key.replace('_', "-"),
            given.trim_matches('"')
        )));
    }
    if folder.is_complete() {
        writeln!(out, "{} is complete: nothing is left to do", path.display())?;
        return Ok(None);
    }
    drop(out);
    let recipe = config.recipe()?;
    let Images { train, validation, test, about } = Images::load(&config, &recipe)?;
    let mut model = prepare(&config, &recipe, &train)?;
    let data = data_hash(&train);
    if data != checkpoint.data {
        return Err(Failure::Failed(format!(
            "the training images are not those the run began with: {}; say with --data where those are",
            about.description
        )));
    }
    Checkpoint::load(&latest.path, &checkpoint.model, &mut model)?;
    folder.rewind(&checkpoint)?;
    let train = Arc::new(train);
    let trainer = Trainer::resume(model, checkpoint.buffers(), recipe, train.clone(), checkpoint.position)?;
    let (validation, test) = (validation.map(Arc::new), Arc::new(test));
    let (best, initialised) = (checkpoint.best, Vec::new());
    Ok(Some(Run { config, folder, trainer, best, train, validation, test, about, initialised, data }))
}

impl Run {
    /// The display of what is left of the run.
    fn progress(&self) -> Result<Progress> {
        let (trainer, recipe) = (&self.trainer, self.trainer.recipe());
        let (_, height, width, _) = self.train.pixels.dim();
        let multiply_adds = trainer.model().cost(1, [height, width])?.multiply_adds;
        let plan = Plan {
            epochs: recipe.epochs,
            training_images: self.train.len(),
            validation_images: self.validation.as_ref().map_or(0, |images| images.len()),
            validate_every: recipe.validate_every,
            test_images: self.test.len(),
        };
        Ok(Progress::new(plan, trainer.position(), multiply_adds, recipe.early_stopping > 0))
    }

    /// What is going to happen, for people.
    fn describe(&self, progress: &mut Progress) -> Result<()> {
        let recipe = self.trainer.recipe();
        let (_, height, width, _) = self.train.pixels.dim();
        let cost = self.trainer.model().cost(1, [height, width])?;
        let batch = recipe.batch_size.min(self.train.len());
        let step_bytes = self.trainer.model().cost(batch, [height, width])?.training_bytes(4);
        let held_out = self.validation.as_ref();
        let held_out =
            held_out.map_or(String::new(), |v| format!(", {} for validation", text::thousands(v.len() as u64)));
        let count = |dataset: &Dataset| text::thousands(dataset.len() as u64);
        let position = self.trainer.position();
        let mut lines = vec![
            (
                "model",
                format!(
                    "{}, {} parameters, {} multiply-adds per image",
                    recipe.model,
                    text::thousands(cost.parameters),
                    text::short(cost.multiply_adds)
                ),
            ),
            ("memory", format!("about {} for a training step", text::bytes(step_bytes))),
            (
                "data",
                format!(
                    "{} images for training{held_out}, {} for testing: {}",
                    count(&self.train),
                    count(&self.test),
                    self.about.description
                ),
            ),
            ("recipe", format!("{}: {}", recipe.name, steps(recipe))),
            ("", optimiser(recipe)),
            ("augmentation", augmentation(recipe.augmentation)),
            ("normalisation", normalization(recipe)),
            ("threads", rayon::current_num_threads().to_string()),
            ("seed", recipe.seed.to_string()),
            ("run folder", self.folder.path().display().to_string()),
        ];
        if position != Position::default() {
            let place = match position.step {
                0 => format!("after epoch {} of {}", position.epoch, recipe.epochs),
                step => format!(
                    "in epoch {} of {}, after step {step} of {}",
                    position.epoch + 1,
                    recipe.epochs,
                    self.trainer.steps_per_epoch()
                ),
            };
            lines.push(("resumed", place));
        }
        lines.extend(self.about.notes.iter().map(|note| ("note", note.clone())));
        let keys = std::iter::once("initialised").chain(std::iter::repeat(""));
        lines.extend(keys.zip(self.initialised.iter().cloned()));
        for (key, value) in lines {
            progress.line(&format!("{key:<14} {value}"));
        }
        let validation_header = if self.validation.is_some() { "  validation loss, top-1" } else { "" };
        progress.header(&format!(
            "    epoch        lr    loss    top-1    top-5  gradient  images/s      time{validation_header}"
        ));
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<()> {
        let config = self.config.to_toml();
        Ok(self.folder.checkpoint(&self.trainer, self.best.as_ref(), &config, self.data)?)
    }

    /// Every epoch that is left: train, validate, save, tell.
    fn epochs(&mut self, checkpoint_every: Option<Duration>, progress: &mut Progress) -> Result<()> {
        let mut last_checkpoint = Instant::now();
        while !self.trainer.is_done() && !self.is_stopped_early() {
            if self.trainer.position().step == 0 {
                progress.begin_epoch();
            }
            let trained = self.trainer.train_epoch(&mut |step| {
                progress.step(step);
                let due = checkpoint_every.is_some_and(|every| last_checkpoint.elapsed() >= every);
                if interrupt::requested() || due {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            let trained = trained.map_err(|error| match error {
                Error::NotFinite { message } => Failure::Diverged(message),
                error => error.into(),
            })?;
            if let Some(epoch) = trained {
                self.end_of_epoch(&epoch, progress)?;
            }
            self.checkpoint()?;
            last_checkpoint = Instant::now();
            if interrupt::requested() && !self.trainer.is_done() && !self.is_stopped_early() {
                progress.finish();
                let place = match self.trainer.position() {
                    Position { epoch, step: 0, .. } => format!("after epoch {epoch}"),
                    Position { epoch, step, .. } => format!("in epoch {}, after step {step}", epoch + 1),
                };
                progress.line(&format!("stopped {place}; go on with `{}`", self.folder.resume_command()));
                return Err(Failure::Interrupted);
            }
        }
        Ok(())
    }

    /// Whether the validation accuracy has not risen for as many epochs as the recipe waits.
    fn is_stopped_early(&self) -> bool {
        let (wait, epoch) = (self.trainer.recipe().early_stopping, self.trainer.epoch());
        wait > 0 && self.best.as_ref().is_some_and(|best| epoch - best.epoch >= wait)
    }

    fn end_of_epoch(&mut self, epoch: &EpochMetrics, progress: &mut Progress) -> Result<()> {
        let (recipe, model) = (self.trainer.recipe(), self.trainer.model());
        let mut evaluate = |images: &Arc<Dataset>| {
            let mut observe = |seen| progress.evaluated(epoch.epoch + 1, "validating", seen, images.len());
            evaluate_with(model, images, recipe.normalization, recipe.eval_batch_size, &mut observe)
        };
        let due = (epoch.epoch + 1).is_multiple_of(recipe.validate_every) || self.trainer.is_done();
        let validated = self.validation.as_ref().filter(|_| due).map(&mut evaluate).transpose()?;
        let about = metadata(recipe, &self.test, epoch, validated.as_ref());
        self.folder.save_weights(model, &about)?;
        if let Some(validated) = &validated {
            let correct = [validated.top1, validated.images()];
            // Of equal epochs the first.
            if self.best.as_ref().is_none_or(|best| correct[0] > best.correct[0]) {
                let weights = state_dict::collect(model);
                resnet_by_hand::formats::weights::save(&self.folder.best(), model, &about)?;
                self.best = Some(Best { epoch: self.trainer.epoch(), correct, weights });
            }
        }
        self.folder.append(epoch, validated.as_ref(), self.trainer.layers())?;
        progress.row(&line(epoch, recipe.epochs, validated.as_ref()));
        Ok(())
    }
}

fn line(epoch: &EpochMetrics, epochs: usize, validation: Option<&Evaluation>) -> String {
    let validation = validation.map_or(String::new(), |v| format!("  {:.4} {:6.2} %", v.loss, 100.0 * v.accuracy()));
    format!(
        "{:>9} {:>9.2e} {:>7.4} {:>6.2} % {:>6.2} % {:>9.3} {:>9.0} {:>9}{validation}",
        format!("{}/{epochs}", epoch.epoch + 1),
        epoch.lr,
        epoch.loss,
        100.0 * epoch.top1,
        100.0 * epoch.top5,
        epoch.gradient_norm,
        epoch.images_per_second(),
        text::duration(epoch.seconds)
    )
}

impl Run {
    /// The test set, once, and the end of the run.
    fn report(&self, progress: &mut Progress) -> Result<()> {
        let (trainer, folder, test) = (&self.trainer, &self.folder, &self.test);
        let recipe = trainer.recipe();
        let training_seconds = folder.seconds()?;
        let mut model = trainer.model().clone();
        let (file, epoch) = match &self.best {
            Some(best) => {
                Checkpoint::load(&folder.best(), &best.weights, &mut model)?;
                (folder.best(), best.epoch)
            }
            None => (folder.weights(), trainer.epoch()),
        };
        let best = &self.best;
        let model = &model;
        let mut observe = |seen| progress.evaluated(trainer.epoch(), "testing", seen, test.len());
        let tested = evaluate_with(model, test, recipe.normalization, recipe.eval_batch_size, &mut observe)?;
        progress.finish();
        let hash = format!("{:016x}", fingerprint(trainer.model()));
        let peak = memory::peak();
        let result = json!({
            "test_accuracy": tested.accuracy(),
            "test_correct": tested.top1,
            "test_images": tested.images(),
            "test_loss": tested.loss,
            "test_top5": tested.top5,
            "epochs": trainer.epoch(),
            "tested_weights_of_epoch": epoch,
            "seconds": training_seconds,
            "peak_memory_bytes": peak,
            "fingerprint": hash,
        });
        folder.write_json("result.json", &result)?;

        let mut lines = vec![
            (
                "test accuracy",
                format!(
                    "{}; guessing gets {}",
                    text::share(tested.top1, tested.images()),
                    text::chance(test.classes.len())
                ),
            ),
            ("test loss", format!("{:.4}", tested.loss)),
            (
                "time",
                format!(
                    "{} an epoch, {} in all",
                    text::duration(training_seconds / trainer.epoch() as f64),
                    text::duration(training_seconds)
                ),
            ),
        ];
        if let Some(best) = best {
            let found = format!("epoch {} with {:.2} % on the validation images", best.epoch, 100.0 * best.accuracy());
            lines.insert(0, ("tested", found));
        }
        if !trainer.is_done() {
            let found = format!("after epoch {}: the validation accuracy rose last in epoch {epoch}", trainer.epoch());
            lines.insert(0, ("stopped early", found));
        }
        if let Some(peak) = peak {
            lines.push(("peak memory", text::bytes(peak)));
        }
        lines.push(("fingerprint", format!("{hash} (of the weights after the last epoch)")));
        lines.push(("weights", file.display().to_string()));
        progress.line("");
        for (key, value) in lines {
            progress.line(&format!("{key:<14} {value}"));
        }
        // After the result: a run that can be resumed has not told of its test.
        folder.append_test(trainer.epoch(), &tested)?;
        if !tested.loss.is_finite() {
            return Err(Failure::Failed(format!("the test loss is {}; {}", tested.loss, folder.kept())));
        }
        Ok(())
    }
}

/// What the weights need to be used, and where they come from. No times: the same run writes the same bytes.
fn metadata(recipe: &Recipe, test: &Dataset, epoch: &EpochMetrics, validation: Option<&Evaluation>) -> Metadata {
    let classes = &test.classes;
    let mut about = Metadata::from(
        [
            ("model", recipe.model.clone()),
            ("classes", classes.len().to_string()),
            ("class_names", json!(classes).to_string()),
            ("image_size", test.pixels.dim().1.to_string()),
            ("mean", args::write_three(recipe.normalization.mean())),
            ("std", args::write_three(recipe.normalization.std())),
            ("recipe", recipe.name.clone()),
            ("seed", recipe.seed.to_string()),
            ("epoch", (epoch.epoch + 1).to_string()),
            ("epochs", recipe.epochs.to_string()),
            ("train_loss", epoch.loss.to_string()),
            ("train_accuracy", epoch.top1.to_string()),
        ]
        .map(|(key, value)| (key.to_string(), value)),
    );
    if let Some(validation) = validation {
        about.insert("validation_loss".to_string(), validation.loss.to_string());
        about.insert("validation_accuracy".to_string(), validation.accuracy().to_string());
    }
    about
}
