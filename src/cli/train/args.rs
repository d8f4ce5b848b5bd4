//! The flags of `resnet train`.

use super::words;
use crate::cli::config::Config;
use crate::cli::images::DataArgs;
use crate::cli::{Result, args};
use crate::model::Architecture;
use crate::optim::Schedule;
use crate::train::Recipe;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  resnet train                                            about a minute, nothing to download
  resnet train --data cifar10/                            recipe `quick`: resnet20, ten epochs
  resnet train --data cifar10/ --model resnet56 --epochs 30 --seed 7
  resnet train --data cifar10/ --recipe paper --out runs/paper
  resnet train --config runs/paper/config.toml --seed 2   the same with another seed
  resnet train --resume runs/paper                        go on where it was broken off
  resnet train --data cifar10/ --repeat 3                 three seeds: mean and standard deviation
  resnet train --data photos/ --image-size 64             a folder of pictures, one folder a class
  resnet train --data photos/ --model resnet20 --init-from pretrained --lr 0.02
  resnet train --data photos/ --model resnet18 --image-size 224 --init-from resnet18.pth
  resnet train --schedule warmup:2@0.1+cosine --lr 0.1 --label-smoothing 0.1
  resnet train --engine reference --steps 3 --trace       every value of three steps";

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
#[command(verbatim_doc_comment, after_help = EXAMPLES, after_long_help = format!("{}\n\n{EXAMPLES}", words::recipes()))]
pub struct Args {
    /// The network, see `resnet models` [default: the recipe's]
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Option<Architecture>,

    /// Everything below at once: paper, resnet34-150, resnet50-10, quick, demo
    ///
    /// [default: demo for the embedded images, otherwise quick]
    #[arg(long, value_name = "NAME", value_parser = Recipe::by_name)]
    recipe: Option<Recipe>,

    /// TOML file with any of the settings below; flags override it
    ///
    /// Keys are the names of the flags with `_` for `-`; config.toml of a run starts it again.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,

    /// Folder to write to, new or empty [default: runs/MODEL-RECIPE-N]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,

    /// Go on with the run in this folder, from its last checkpoint
    ///
    /// It goes on as it began: other settings are refused. --data may say where the same images are now.
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub resume: Option<PathBuf>,

    /// Save a checkpoint this often, besides after every epoch: 90s, 10m, 1.5h
    #[arg(long, value_name = "TIME", value_parser = args::duration, allow_negative_numbers = true)]
    pub checkpoint_every: Option<Duration>,

    /// How many checkpoints to keep
    #[arg(long, value_name = "N", default_value = "2", value_parser = args::count(1, 1000), allow_negative_numbers = true)]
    pub keep_checkpoints: usize,

    /// Seed of the first weights, the order of the images, crops and flips, and the validation images
    #[arg(long, value_name = "N", value_parser = args::seed, allow_negative_numbers = true)]
    seed: Option<u64>,

    /// Train K times, with the seed and the K - 1 after it; tell mean and standard deviation
    ///
    /// The folder then holds one run for each seed (seed-1, seed-2, ...) and repeat.json. --resume
    /// takes it, too: runs that are complete stay, the one that was broken off goes on.
    #[arg(long, value_name = "K", value_parser = args::count(1, args::MOST_RUNS), allow_negative_numbers = true, verbatim_doc_comment)]
    repeat: Option<usize>,

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

    /// Mix every image with another of its batch, shares from Beta(A, A) (mixup); 0 does not [default: 0]
    #[arg(long, value_name = "A", value_parser = args::alpha, allow_negative_numbers = true, help_heading = "Data")]
    mixup: Option<f64>,

    /// In evaluations, average the logits of an image and of its mirror image
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Data")]
    test_flip: Option<bool>,

    /// Neither cut nor mirror nor hide nor mix
    #[arg(long, conflicts_with_all = ["crop_padding", "flip", "cutout", "mixup"], help_heading = "Data")]
    no_augment: bool,

    #[command(flatten)]
    normalization: args::NormalizationArgs,

    /// Passes over the training images
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    epochs: Option<usize>,

    /// Images per batch
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    batch_size: Option<usize>,

    /// Batches to a step: K times the images with the memory of one batch [default: 1]
    #[arg(long, value_name = "K", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    accumulate: Option<usize>,

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

    /// Evaluate and save a moving average of the weights, such as 0.999; 0 does not [default: 0]
    #[arg(long, value_name = "D", value_parser = args::decay, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    ema_decay: Option<f64>,

    /// Start every block as its shortcut: gamma = 0 in its last batch norm
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    zero_init_residual: Option<bool>,

    /// Begin with the weights of this file where they fit (fine-tuning)
    ///
    /// safetensors, PyTorch's .pth, .pt, .th, .npz, or `pretrained`, a ResNet-20 for CIFAR-10 inside this
    /// program. Tensors whose name or shape is another stay as they
    /// are initialised, and are named: the last layer, when there are other classes.
    #[arg(long, value_name = "FILE", verbatim_doc_comment, help_heading = "Optimisation")]
    init_from: Option<PathBuf>,

    /// Images per step of an evaluation; changes speed and memory only
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    eval_batch_size: Option<usize>,

    #[command(flatten)]
    engine: args::EngineArgs,

    /// Stop after this many steps and save a checkpoint
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, conflicts_with = "repeat",
          help_heading = "Computation")]
    pub steps: Option<usize>,

    /// Print the shape and size of every y, dy and gradient of every step (needs --engine reference)
    ///
    /// A line for every value, in the order of the computation: what it is, its shape (N, H, W, C), its
    /// root mean square and its largest absolute value. For someone with a debugger or a pencil:
    /// `resnet train --engine reference --steps 3 --trace`.
    #[arg(long, verbatim_doc_comment, conflicts_with = "repeat", help_heading = "Computation")]
    pub trace: bool,
}

impl Args {
    /// What the flags say, and nothing else.
    pub fn flags(&self) -> Result<Config> {
        let (crop_padding, flip, cutout, mixup) = match self.no_augment {
            true => (Some(0), Some(false), Some(0), Some(0.0)),
            false => (self.crop_padding, self.flip, self.cutout, self.mixup),
        };
        self.normalization.given()?;
        Ok(Config {
            model: self.model.as_ref().map(|architecture| architecture.name.clone()),
            recipe: self.recipe.as_ref().map(|recipe| recipe.name.clone()),
            seed: self.seed,
            repeat: self.repeat,
            data: self.data.data.clone(),
            image_size: self.data.image_size,
            train_images: self.train_images,
            validation: self.validation,
            validate_every: self.validate_every,
            early_stopping: self.early_stopping,
            crop_padding,
            flip,
            cutout,
            mixup,
            test_flip: self.test_flip,
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
            accumulate: self.accumulate,
            ema_decay: self.ema_decay,
            zero_init_residual: self.zero_init_residual,
            init_from: self.init_from.clone(),
            engine: self.engine.engine.map(|engine| engine.name().to_string()),
            conv: self.engine.conv.map(|algorithm| algorithm.name().to_string()),
        })
    }
}
