//! The flags of `resnet train`.

use super::words;
use crate::cli::config::Config;
use crate::cli::images::DataArgs;
use crate::cli::{Result, args};
use crate::model::Architecture;
use crate::optim::Schedule;
use crate::train::{Recipe, Validation};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  resnet train                                            about a minute, nothing to download
  resnet train --data cifar10/                            recipe `quick`: resnet20, ten epochs
  resnet train --data cifar10/ --model resnet56 --epochs 30 --seed 7
  resnet train --data cifar10/ --recipe paper --out runs/paper
  resnet train --config runs/paper/config.toml --seed 2   the same settings, another seed
  resnet train --resume runs/paper                        resume an interrupted run
  resnet train --data cifar10/ --repeat 3                 three seeds: mean and standard deviation
  resnet train --data photos/ --image-size 64             your own pictures, one folder per class
  resnet train --data photos/ --model resnet20 --init-from pretrained --lr 0.02
  resnet train --data photos/ --model resnet18 --image-size 224 --init-from resnet18.pth
  resnet train --schedule warmup:2@0.1+cosine --lr 0.1 --label-smoothing 0.1
  resnet train --engine reference --steps 3 --trace       a line for every array of three steps";

/// Train a network
///
/// A recipe sets every option of a run, including the model. Flags override the recipe. The recipes and
/// their values are listed at the end of this help.
///
/// A run writes a folder. After every epoch it saves the weights (weights.safetensors, the input of
/// `resnet eval`), the metrics (metrics.csv, metrics.jsonl, times.csv), the norms of every layer
/// (layers.csv) and a checkpoint. The folder also contains the configuration (config.toml) and the
/// metrics for TensorBoard (`tensorboard --logdir runs`). The test images are evaluated once, at
/// the end.
///
/// Ctrl-C, SIGTERM and, on Linux, SIGHUP complete the step, save a checkpoint and stop, with exit code
/// 130, 143 or 129; a second signal stops at once, and so does the first one during an evaluation,
/// where everything is saved already. Under nohup, SIGHUP is ignored. A run that was interrupted in any
/// way, even by a kill or a power cut, continues from its last checkpoint with --resume. It ends with
/// bit-identical weights, with any number of threads, and of processes (mpirun, with --shards).
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES, after_long_help = format!("{}\n\n{EXAMPLES}", words::recipes()))]
pub struct Args {
    /// Network to train, see `resnet models` [default: the model of the recipe]
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Option<Architecture>,

    /// Recipe that sets every option: paper, resnet34-150, resnet50-10, quick, demo
    ///
    /// [default: demo for the embedded images, otherwise quick]
    #[arg(long, value_name = "NAME", value_parser = Recipe::by_name)]
    recipe: Option<Recipe>,

    /// TOML file with settings; flags override it
    ///
    /// The keys are the flags with `_` instead of `-`. The config.toml of a run repeats it.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,

    /// Folder of the run, new or empty [default: runs/MODEL-RECIPE-N]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,

    /// Resume the run in this folder from its last checkpoint
    ///
    /// A run keeps its settings: different ones are rejected. What does not change the result may be
    /// given again, and is kept from then on: --data (if the images were moved), --eval-batch-size,
    /// --checkpoint-every, --keep-checkpoints. With a larger --epochs, a complete run is lengthened.
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub resume: Option<PathBuf>,

    /// Save a checkpoint after every epoch and at this interval, such as 90s, 10m or 1.5h
    #[arg(long, value_name = "TIME", value_parser = args::duration, allow_negative_numbers = true)]
    checkpoint_every: Option<Duration>,

    /// Number of checkpoints to keep [default: 2]
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST_CHECKPOINTS), allow_negative_numbers = true)]
    keep_checkpoints: Option<usize>,

    /// Keep the weights of every Nth epoch: weights-epoch-001.safetensors, ...; 0: none [default: 0]
    #[arg(long, value_name = "N", value_parser = args::count(0, args::MOST), allow_negative_numbers = true)]
    save_every: Option<usize>,

    /// Seed of the initial weights, the order of the images, the augmentation and the validation split
    #[arg(long, value_name = "N", value_parser = args::seed, allow_negative_numbers = true)]
    seed: Option<u64>,

    /// Train K times, with the seeds from --seed on; report mean and standard deviation
    ///
    /// The folder then contains one run per seed (seed-1, seed-2, ...) and repeat.json. With --resume,
    /// complete runs are kept, the interrupted runs are resumed and the missing ones are started. Several
    /// processes (mpirun, srun) train several of them at the same time.
    #[arg(long, value_name = "K", value_parser = args::count(1, args::MOST_RUNS), allow_negative_numbers = true, verbatim_doc_comment)]
    repeat: Option<usize>,

    #[command(flatten)]
    data: DataArgs,

    /// Use only the first N training images
    #[arg(long, value_name = "N", value_parser = args::count(1, usize::MAX), allow_negative_numbers = true, help_heading = "Data")]
    train_images: Option<usize>,

    /// Hold out N of the training images for validation; 0: none; `folder`: those of the data set
    ///
    /// With validation images, best.safetensors contains the weights of the epoch with the highest
    /// accuracy on them, and these weights are evaluated on the test images. `folder` is the default
    /// for pictures in folders with train/, valid/ (or val/) and test/.
    #[arg(long, value_name = "N", value_parser = args::validation, allow_negative_numbers = true, verbatim_doc_comment, help_heading = "Data")]
    validation: Option<Validation>,

    /// Evaluate on the validation images every N epochs, and after the last [default: 1]
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Data")]
    validate_every: Option<usize>,

    /// Stop after N epochs without a higher validation accuracy; 0: never [default: 0]
    #[arg(long, value_name = "N", value_parser = args::count(0, args::MOST), allow_negative_numbers = true, help_heading = "Data")]
    early_stopping: Option<usize>,

    /// Crop training images at random, after padding them with N black pixels on each side
    #[arg(long, value_name = "N", value_parser = args::count(0, 32), allow_negative_numbers = true, help_heading = "Data")]
    crop_padding: Option<usize>,

    /// Mirror training images at random; off with --flip=false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Data")]
    flip: Option<bool>,

    /// Hide a random N x N square of every training image (cutout), smaller than it; 0: off [default: 0]
    #[arg(long, value_name = "N", value_parser = args::count(0, args::MOST), allow_negative_numbers = true, help_heading = "Data")]
    cutout: Option<usize>,

    /// Mix every image with another one, in a proportion from Beta(A, A) (mixup); 0: off [default: 0]
    #[arg(long, value_name = "A", value_parser = args::alpha, allow_negative_numbers = true, help_heading = "Data")]
    mixup: Option<f64>,

    /// In evaluations, average the logits of each image and its mirror image
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Data")]
    test_flip: Option<bool>,

    /// Turn off crops, flips, cutout and mixup
    #[arg(long, conflicts_with_all = ["crop_padding", "flip", "cutout", "mixup"], help_heading = "Data")]
    no_augment: bool,

    #[command(flatten)]
    normalization: args::NormalizationArgs,

    /// Number of passes over the training images
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    epochs: Option<usize>,

    /// Images per batch
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    batch_size: Option<usize>,

    /// Batches per step: a step uses K times the images with the memory of one batch [default: 1]
    #[arg(long, value_name = "K", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    accumulate: Option<usize>,

    /// Split every batch into S parts, a power of two, whose sums are added in a fixed tree [default: 1]
    ///
    /// Several processes (mpirun, srun) can then train one network together, up to one for each part.
    /// The result depends on S, and not on the number of processes or threads. On several processes
    /// the default is 8.
    #[arg(long, value_name = "S", value_parser = args::shards, allow_negative_numbers = true, verbatim_doc_comment,
          help_heading = "Optimisation")]
    shards: Option<usize>,

    /// Batch norm over groups of N images instead of the whole batch ("ghost"); 0: off [default: 0]
    ///
    /// N divides the images of a shard. Every group is normalised with its own mean and variance, which
    /// is another function than batch norm. Several processes exchange nothing for it.
    #[arg(long, value_name = "N", value_parser = args::count(0, args::MOST), allow_negative_numbers = true, verbatim_doc_comment,
          help_heading = "Optimisation")]
    norm_group: Option<usize>,

    /// Base learning rate, which the schedule multiplies by a factor; with onecycle, the maximum
    #[arg(long, value_name = "X", value_parser = args::positive, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    lr: Option<f64>,

    /// Schedule of the learning rate, such as constant, cosine, onecycle, multistep:80,110@0.1
    ///
    /// constant                  the same rate throughout
    /// multistep:80,110,130@0.1  times 0.1 at each of these epochs (32000s: at step 32,000)
    /// step:10@0.1               times 0.1 after every ten epochs
    /// cosine, cosine@0.001      along half a cosine wave down to 0, or to 0.001
    /// onecycle                  up, then down; onecycle:pct_start=0.3,div_factor=25
    /// warmup:5@0.1+cosine       before any schedule: five epochs up from 0.1 times its rate
    /// hold:400s@0.1+constant    before any schedule: 400 steps at 0.1 times its rate
    #[arg(long, value_name = "S", verbatim_doc_comment, help_heading = "Optimisation")]
    schedule: Option<Schedule>,

    /// Momentum
    #[arg(long, value_name = "X", value_parser = args::share, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    momentum: Option<f64>,

    /// Nesterov momentum; --nesterov=false for plain momentum
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    nesterov: Option<bool>,

    /// Weight decay, added to the gradient as in PyTorch's SGD
    #[arg(long, value_name = "X", value_parser = args::not_negative, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    weight_decay: Option<f64>,

    /// Exclude batch norm and biases from weight decay
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    no_decay_norm_bias: Option<bool>,

    /// Label smoothing: the share of the target that is spread over all classes, 0 to below 1
    #[arg(long, value_name = "X", value_parser = args::smoothing, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    label_smoothing: Option<f64>,

    /// Clip the gradient of all parameters together to this norm; 0: off [default: 0]
    #[arg(long, value_name = "X", value_parser = args::not_negative, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    clip_norm: Option<f64>,

    /// Evaluate and save a moving average of the weights, decay D (e.g. 0.999); 0: off [default: 0]
    #[arg(long, value_name = "D", value_parser = args::decay, allow_negative_numbers = true,
          help_heading = "Optimisation")]
    ema_decay: Option<f64>,

    /// Start every block as the identity of its shortcut: gamma = 0 in its last batch norm
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    zero_init_residual: Option<bool>,

    /// Start from the weights of this file where they fit (fine-tuning)
    ///
    /// A safetensors file, a PyTorch file (.pth, .pt, .th), an .npz file, or `pretrained`, a ResNet-20
    /// for CIFAR-10 embedded in this program. If the classes are different, the last layer keeps its
    /// random initial values. Every other tensor of the network must be in the file.
    #[arg(long, value_name = "FILE", verbatim_doc_comment, help_heading = "Optimisation")]
    init_from: Option<PathBuf>,

    /// With --init-from: the tensors under this key of a PyTorch checkpoint, such as model_ema.module
    ///
    /// Keys joined by points, as --key of `resnet eval`.
    #[arg(long, value_name = "PATH", alias = "key", verbatim_doc_comment, help_heading = "Optimisation")]
    init_key: Option<String>,

    /// With --init-from: begin with those tensors of the file that fit, however few
    ///
    /// The others keep their random initial values and are listed.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    init_partial: Option<bool>,

    /// Images per batch of an evaluation; changes only speed and memory
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Computation")]
    eval_batch_size: Option<usize>,

    #[command(flatten)]
    engine: args::EngineArgs,

    /// Stop after N steps and save a checkpoint
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, conflicts_with = "repeat",
          help_heading = "Computation")]
    pub steps: Option<usize>,

    /// Stop after X hours, save a checkpoint and exit with code 0
    ///
    /// For a batch system that ends a job after a fixed time, or for the night on a laptop. The step
    /// in progress is completed. The time counts from the start of this command; give the flag again
    /// to limit the resumed run.
    #[arg(long, value_name = "X", value_parser = args::hours, allow_negative_numbers = true, verbatim_doc_comment,
          help_heading = "Computation")]
    pub max_hours: Option<Duration>,

    /// Print shape and magnitude of every array of every step (needs --engine reference)
    ///
    /// Prints one line per array, in the order of the computation: its name, its shape (N, H, W, C),
    /// its root mean square and its largest absolute value. For example:
    /// `resnet train --engine reference --steps 3 --trace`.
    #[arg(long, verbatim_doc_comment, conflicts_with = "repeat", help_heading = "Computation")]
    pub trace: bool,
}

impl Args {
    /// The configuration that the flags give, without the recipe.
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
            shards: self.shards,
            norm_group: self.norm_group,
            ema_decay: self.ema_decay,
            zero_init_residual: self.zero_init_residual,
            init_from: self.init_from.clone(),
            init_key: self.init_key.clone(),
            init_partial: self.init_partial,
            save_every: self.save_every,
            engine: self.engine.engine.map(|engine| engine.name().to_string()),
            conv: self.engine.conv.map(|algorithm| algorithm.name().to_string()),
            checkpoint_every: self.checkpoint_every.map(args::write_duration),
            keep_checkpoints: self.keep_checkpoints,
        })
    }
}
