//! `resnet train`.

use super::progress::Progress;
use super::run_folder::{check_out, RunFolder};
use super::{args, interrupt, memory, text, Failure, Result};
use resnet_by_hand::data::{Augmentation, Dataset};
use resnet_by_hand::formats::weights::Metadata;
use resnet_by_hand::layers::Mode;
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{DecayExemption, Schedule, Sgd};
use resnet_by_hand::parameters::fingerprint;
use resnet_by_hand::train::{evaluate, recipe, EpochMetrics, Evaluation, Recipe, Trainer};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  resnet train                                            about a minute, nothing to download
  resnet train --data cifar10/                            recipe `quick`: resnet20, ten epochs
  resnet train --data cifar10/ --model resnet56 --epochs 30 --seed 7
  resnet train --data cifar10/ --recipe paper --out runs/paper
  resnet train --schedule warmup:2@0.1+cosine --lr 0.1 --label-smoothing 0.1";

/// Train a network
///
/// Flags override the recipe, and the recipe names the model unless --model does.
///
/// The run folder gets the weights after every epoch (weights.safetensors, what `resnet eval` reads),
/// a line of metrics.csv and metrics.jsonl for each, and the configuration (config.json). The test
/// images are looked at once, at the end.
///
/// Ctrl-C finishes the step and stops; the weights after the last complete epoch stay.
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

    /// Folder to write to, new or empty [default: runs/MODEL-RECIPE-N]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Seed of the first weights, the order of the images, crops and flips, and the validation images
    #[arg(long, value_name = "N", value_parser = args::seed, allow_negative_numbers = true)]
    seed: Option<u64>,

    #[command(flatten)]
    data: args::DataArgs,

    /// Use only the first N training images
    #[arg(long, value_name = "N", value_parser = args::count(1, usize::MAX), allow_negative_numbers = true, help_heading = "Data")]
    train_images: Option<usize>,

    /// Hold N of the training images out to choose the best epoch by
    ///
    /// With N above 0, best.safetensors holds the weights with the highest accuracy on these
    /// images, and they are the ones that are tested.
    #[arg(long, value_name = "N", value_parser = args::count(0, usize::MAX), allow_negative_numbers = true, verbatim_doc_comment, help_heading = "Data")]
    validation: Option<usize>,

    /// Cut training images out at random, after adding N black pixels on each side
    #[arg(long, value_name = "N", value_parser = args::count(0, 32), allow_negative_numbers = true, help_heading = "Data")]
    crop_padding: Option<usize>,

    /// Mirror training images at random; --flip=false does not
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Data")]
    flip: Option<bool>,

    /// Neither cut nor mirror
    #[arg(long, conflicts_with_all = ["crop_padding", "flip"], help_heading = "Data")]
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

    /// Start every block as its shortcut: gamma = 0 in its last batch norm
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          help_heading = "Optimisation")]
    zero_init_residual: Option<bool>,

    /// Images per step of an evaluation; changes speed and memory only
    #[arg(long, value_name = "N", value_parser = args::count(1, args::MOST), allow_negative_numbers = true, help_heading = "Optimisation")]
    eval_batch_size: Option<usize>,

    #[command(flatten)]
    conv: args::ConvArgs,
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
    if recipe.zero_init_residual {
        text += ", blocks start as their shortcut";
    }
    text
}

fn augmentation(augmentation: Augmentation) -> String {
    match (augmentation.crop_padding, augmentation.flip) {
        (0, false) => "no crops or flips".to_string(),
        (0, true) => "flips".to_string(),
        (padding, false) => format!("crops with padding {padding}"),
        (padding, true) => format!("crops with padding {padding}, flips"),
    }
}

fn normalization(recipe: &Recipe) -> String {
    let (mean, std) = (recipe.normalization.mean(), recipe.normalization.std());
    format!("mean {}, std {}", args::write_three(mean), args::write_three(std))
}

impl Args {
    /// The recipe with everything the flags say.
    fn recipe(&self) -> Result<Recipe> {
        let default = if self.data.is_embedded() { "demo" } else { "quick" };
        let base = self.recipe.clone().map_or_else(|| Recipe::by_name(default), Ok)?;
        let augmentation = if self.no_augment { Augmentation::NONE } else { base.augmentation };
        let mut sgd = base.sgd;
        sgd.momentum = self.momentum.unwrap_or(sgd.momentum);
        sgd.weight_decay = self.weight_decay.unwrap_or(sgd.weight_decay);
        sgd.nesterov = self.nesterov.unwrap_or(sgd.nesterov);
        sgd.decay_exemption = match self.no_decay_norm_bias {
            Some(true) => DecayExemption::NormAndBias,
            Some(false) => DecayExemption::None,
            None => sgd.decay_exemption,
        };
        if sgd.nesterov && sgd.momentum == 0.0 {
            return Err(Failure::Usage(
                "Nesterov's momentum needs a --momentum above 0; give --nesterov=false for none at all".to_string(),
            ));
        }
        let recipe = Recipe {
            model: self.model.as_ref().map_or(base.model, |architecture| architecture.name.clone()),
            epochs: self.epochs.unwrap_or(base.epochs),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            eval_batch_size: self.eval_batch_size.unwrap_or(base.eval_batch_size),
            lr: self.lr.unwrap_or(base.lr),
            schedule: self.schedule.clone().unwrap_or(base.schedule),
            sgd,
            label_smoothing: self.label_smoothing.unwrap_or(base.label_smoothing),
            augmentation: Augmentation {
                crop_padding: self.crop_padding.unwrap_or(augmentation.crop_padding),
                flip: self.flip.unwrap_or(augmentation.flip),
            },
            normalization: self.normalization.given()?.unwrap_or(base.normalization),
            validation: self.validation.unwrap_or(base.validation),
            zero_init_residual: self.zero_init_residual.unwrap_or(base.zero_init_residual),
            seed: self.seed.unwrap_or(base.seed),
            name: base.name,
        };
        let usage = |error: resnet_by_hand::Error| Failure::Usage(error.to_string());
        recipe.check().map_err(usage)?;
        Sgd::<f32>::new(recipe.sgd).map_err(usage)?;
        Ok(recipe)
    }

    /// Training, validation (perhaps none) and test images.
    fn load(&self, recipe: &Recipe) -> Result<(Dataset, Option<Dataset>, Dataset)> {
        let splits = self.data.load()?;
        let mut train = splits.train;
        if let Some(n) = self.train_images {
            if n > train.len() {
                let message = format!("--train-images is {n}, but there are only {} training images", train.len());
                return Err(Failure::Usage(message));
            }
            train = train.subset(&(0..n).collect::<Vec<_>>())?;
        }
        if recipe.validation == 0 {
            return Ok((train, None, splits.test));
        }
        if recipe.validation >= train.len() {
            return Err(Failure::Usage(format!(
                "cannot hold {} of {} training images out; give a smaller --validation, 0 for none",
                recipe.validation,
                train.len()
            )));
        }
        let (train, validation) = train.split_validation(recipe.validation, recipe.seed)?;
        Ok((train, Some(validation), splits.test))
    }
}

/// The best weights so far, by validation.
struct Best {
    epoch: usize,
    accuracy: f64,
    model: ResNet<f32>,
}

pub fn run(args: &Args) -> Result<()> {
    let recipe = args.recipe()?;
    if let Some(out) = &args.out {
        check_out(out)?;
    }
    let (train, validation, test) = args.load(&recipe)?;
    let architecture = Architecture::by_name(&recipe.model)?.with_classes(train.classes.len());
    let mut model = ResNet::<f32>::new(&architecture, recipe.seed)?;
    if recipe.zero_init_residual {
        model.zero_init_residual().map_err(|error| Failure::Usage(error.to_string()))?;
    }
    args.conv.apply(&mut model);
    let (_, height, width, _) = train.pixels.dim();
    let cost = model.cost(1, [height, width]).map_err(|error| {
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
    let step_bytes = model.cost(recipe.batch_size.min(train.len()), [height, width])?.training_bytes(4);
    let mut folder = RunFolder::create(args.out.as_deref(), &format!("{}-{}", recipe.model, recipe.name))?;
    let config = config(args, &recipe, &train, validation.as_ref(), &test);
    folder.write_json("config.json", &config)?;

    let held_out =
        validation.as_ref().map_or(String::new(), |v| format!(", {} for validation", text::thousands(v.len() as u64)));
    let count = |dataset: &Dataset| text::thousands(dataset.len() as u64);
    let mut progress = Progress::new(recipe.epochs);
    for (key, value) in [
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
                count(&train),
                count(&test),
                args.data.describe()
            ),
        ),
        ("recipe", format!("{}: {}", recipe.name, steps(&recipe))),
        ("", optimiser(&recipe)),
        ("augmentation", augmentation(recipe.augmentation)),
        ("normalisation", normalization(&recipe)),
        ("threads", rayon::current_num_threads().to_string()),
        ("seed", recipe.seed.to_string()),
        ("run folder", folder.path().display().to_string()),
    ] {
        progress.line(&format!("{key:<14} {value}"));
    }
    progress.line("");
    let validation_header = if validation.is_some() { "  validation loss, top-1" } else { "" };
    progress.line(&format!(
        "    epoch        lr    loss    top-1    top-5  gradient  images/s      time{validation_header}"
    ));

    interrupt::listen()?;
    let start = Instant::now();
    let validation = validation.map(Arc::new);
    let mut trainer = Trainer::new(model, recipe, Arc::new(train))?;
    let ended = epochs(&mut trainer, validation.as_ref(), &mut folder, &mut progress, &test.classes);
    progress.finish();
    let best = ended.map_err(|failure| match failure {
        Failure::Failed(message) => Failure::Failed(format!("{message}\n\n{}", folder.kept())),
        other => other,
    })?;
    report(&trainer, best, &folder, &mut progress, &Arc::new(test), start)
}

/// Every epoch: train, validate, save, tell.
fn epochs(
    trainer: &mut Trainer<f32>,
    validation: Option<&Arc<Dataset>>,
    folder: &mut RunFolder,
    progress: &mut Progress,
    classes: &[String],
) -> Result<Option<Best>> {
    let mut best: Option<Best> = None;
    while !trainer.is_done() {
        progress.begin_epoch();
        let mut stopped_at = None;
        let trained = trainer.train_epoch(&mut |step| {
            progress.step(step);
            // After the last step the epoch is complete and worth saving.
            if interrupt::requested() && step.step + 1 < step.steps_per_epoch {
                stopped_at = Some(format!("stopped in epoch {} after step {}", step.epoch + 1, step.step + 1));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(epoch) = trained {
            let recipe = trainer.recipe();
            let evaluate = |v| evaluate(trainer.model(), v, recipe.normalization, recipe.eval_batch_size);
            let validated = validation.map(evaluate).transpose()?;
            let about = metadata(recipe, classes, &epoch, validated.as_ref());
            folder.save_weights(trainer.model(), &about, trainer.epoch())?;
            if let Some(accuracy) = validated.as_ref().map(Evaluation::accuracy) {
                // Of equal epochs the first.
                if best.as_ref().is_none_or(|best| accuracy > best.accuracy) {
                    resnet_by_hand::formats::weights::save(&folder.best(), trainer.model(), &about)?;
                    best = Some(Best { epoch: trainer.epoch(), accuracy, model: trainer.model().clone() });
                }
            }
            folder.append(&epoch, validated.as_ref())?;
            progress.line(&line(&epoch, recipe.epochs, validated.as_ref()));
        }
        if interrupt::requested() && !trainer.is_done() {
            progress.finish();
            let place = stopped_at.unwrap_or_else(|| format!("stopped after epoch {}", trainer.epoch()));
            progress.line(&format!("{place}; {}", folder.kept()));
            return Err(Failure::Interrupted);
        }
    }
    Ok(best)
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

/// The test set, once, and the end of the run.
fn report(
    trainer: &Trainer<f32>,
    best: Option<Best>,
    folder: &RunFolder,
    progress: &mut Progress,
    test: &Arc<Dataset>,
    start: Instant,
) -> Result<()> {
    let training_seconds = start.elapsed().as_secs_f64();
    let recipe = trainer.recipe();
    let (model, file, epoch) = match &best {
        Some(best) => (&best.model, folder.best(), best.epoch),
        None => (trainer.model(), folder.weights(), trainer.epoch()),
    };
    let tested = evaluate(model, test, recipe.normalization, recipe.eval_batch_size)?;
    let hash = format!("{:016x}", fingerprint(trainer.model()));
    let peak = memory::peak();
    let result = json!({
        "test_accuracy": tested.accuracy(),
        "test_correct": tested.top1,
        "test_images": tested.images(),
        "test_loss": tested.loss,
        "test_top5": tested.top5,
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
                text::duration(training_seconds / recipe.epochs as f64),
                text::duration(training_seconds)
            ),
        ),
    ];
    if let Some(best) = &best {
        let found = format!("epoch {} with {:.2} % on the validation images", best.epoch, 100.0 * best.accuracy);
        lines.insert(0, ("tested", found));
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
    if !tested.loss.is_finite() {
        return Err(Failure::Failed(format!("the test loss is {}; {}", tested.loss, folder.kept())));
    }
    Ok(())
}

/// Everything that decides the result, and what it was run on.
fn config(
    args: &Args,
    recipe: &Recipe,
    train: &Dataset,
    validation: Option<&Dataset>,
    test: &Dataset,
) -> serde_json::Value {
    let data = args.data.data.as_ref().map_or("embedded".to_string(), |path| path.display().to_string());
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": recipe.model,
        "classes": train.classes,
        "data": data,
        "train_images": train.len(),
        "validation_images": validation.map_or(0, Dataset::len),
        "test_images": test.len(),
        "recipe": recipe.name,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "eval_batch_size": recipe.eval_batch_size,
        "lr": recipe.lr,
        "schedule": recipe.schedule.to_string(),
        "momentum": recipe.sgd.momentum,
        "dampening": recipe.sgd.dampening,
        "nesterov": recipe.sgd.nesterov,
        "weight_decay": recipe.sgd.weight_decay,
        "no_decay_norm_bias": recipe.sgd.decay_exemption == DecayExemption::NormAndBias,
        "label_smoothing": recipe.label_smoothing,
        "crop_padding": recipe.augmentation.crop_padding,
        "flip": recipe.augmentation.flip,
        "mean": recipe.normalization.mean(),
        "std": recipe.normalization.std(),
        "zero_init_residual": recipe.zero_init_residual,
        "conv": args.conv.conv.name(),
        "seed": recipe.seed,
        "threads": rayon::current_num_threads(),
    })
}

/// What the weights need to be used, and where they come from. No times: the same run writes the same bytes.
fn metadata(recipe: &Recipe, classes: &[String], epoch: &EpochMetrics, validation: Option<&Evaluation>) -> Metadata {
    let mut about = Metadata::from(
        [
            ("model", recipe.model.clone()),
            ("classes", classes.len().to_string()),
            ("class_names", json!(classes).to_string()),
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
