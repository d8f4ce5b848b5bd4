//! `resnet eval`.

use super::images::{About, DataArgs};
use super::trained::{Trained, WeightsArgs};
use super::{Failure, Result, args, processes, text};
use crate::data::{Dataset, Normalization};
use crate::model::ResNet;
use crate::parameters::{Parameters as _, fingerprint};
use crate::processes::Communicator;
use crate::train::checkpoint::data_hash;
use crate::train::metrics::evaluate_among;
use crate::train::{Evaluation, EvaluationOptions, Executor};
use crate::{Error, Scalar};
use indicatif::ProgressBar;
use serde_json::json;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// With more classes the confusion matrix is too wide to print; `--json` contains it.
const MATRIX_CLASSES: usize = 20;

const AFTER_HELP: &str = "\
Examples:
  resnet eval --data cifar10/                     the pretrained network
  resnet eval --weights runs/resnet8-demo-1/weights.safetensors
  resnet eval --weights runs/resnet20-quick-1/weights.safetensors --data cifar10/ --json
  resnet eval --weights other.pth --model resnet20 --data cifar10/ \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225";

/// Evaluate trained weights
///
/// Prints accuracy, loss, the accuracy of every class and the confusion matrix. Every image counts
/// exactly once, including those of the smaller last batch. Several processes (mpirun, srun) share them.
///
/// Weights written by `resnet train` contain the model, the normalisation and the image size. The
/// network of other weights is recognised by its tensors; give --mean and --std and, for pictures in
/// folders, --image-size if it is not that of `resnet models`.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    weights: WeightsArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    data: DataArgs,

    /// Evaluate on the training images instead of the test images
    #[arg(long, help_heading = "Data")]
    train_set: bool,

    /// Evaluate on the data set's own validation images (folder valid/ or val/) instead of the test images
    #[arg(long, conflicts_with = "train_set", help_heading = "Data")]
    validation_set: bool,

    /// Average the logits of each image and its mirror image
    #[arg(long, help_heading = "Data")]
    test_flip: bool,

    /// Images per batch; changes only speed and memory
    #[arg(long, value_name = "N", default_value = "250", value_parser = args::count(1, args::MOST), allow_negative_numbers = true,
          help_heading = "Data")]
    batch_size: usize,

    /// Number type to compute in
    #[arg(long, value_name = "TYPE", default_value = "f32", help_heading = "Computation")]
    dtype: args::Float,

    #[command(flatten)]
    engine: args::EngineArgs,

    #[command(flatten)]
    normalization: args::NormalizationArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let processes = processes::join()?;
    let result = match args.dtype {
        args::Float::F32 => args.engine.executor().and_then(|executor| run_in(args, &*executor, &*processes)),
        args::Float::F64 => args.engine.executor_in_f64().and_then(|executor| run_in(args, &*executor, &*processes)),
    };
    processes::end(processes, result)
}

fn no_validation() -> Failure {
    let message = "--validation-set needs a data set with its own validation images, in valid/ or val/ beside train/ and \
                   test/, and this one has none";
    Failure::Usage(message.to_string())
}

/// What is evaluated on what.
struct Task<T: Scalar> {
    trained: Trained,
    model: ResNet<T>,
    dataset: Arc<Dataset>,
    set: &'static str,
    about: About,
    normalization: Normalization,
    /// Where the normalisation is from.
    origin: &'static str,
}

fn prepare<T: Scalar>(args: &Args) -> Result<Task<T>> {
    let mut trained = args.weights.open()?;
    let (normalization, origin) = trained.normalization(&args.normalization)?;
    if let Some(preset) = &trained.preset {
        trained.notes.push(preset.line.clone());
    }
    let (splits, about) = args.data.load(trained.framing(args.data.image_size, None)?)?;
    let (dataset, set) = match (args.train_set, args.validation_set) {
        (true, _) => (splits.train, "training"),
        (false, false) => (splits.test, "test"),
        (false, true) => (splits.validation.ok_or_else(no_validation)?, "validation"),
    };
    let dataset = Arc::new(dataset);

    let model = trained.model::<T>(dataset.classes.len())?;
    // The same number of classes, but other ones, or in another order: every image would count as wrong.
    if let (_, Some(names)) = trained.classes()?
        && names != dataset.classes
    {
        let message = format!(
            "these weights are for the classes {}, but the images have the classes {}",
            names.join(", "),
            dataset.classes.join(", ")
        );
        return Err(Error::format(&trained.path, None, message).into());
    }
    Ok(Task { trained, model, dataset, set, about, normalization, origin })
}

/// Several processes share the images, and the first of them prints the result.
fn run_in<T: Scalar>(args: &Args, executor: &dyn Executor<T>, processes: &dyn Communicator) -> Result<()> {
    let Task { trained, model, dataset, set, about, normalization, origin } =
        processes::agree(processes, prepare::<T>(args))?;
    let hashes = [fingerprint(&model), if processes.size() > 1 { data_hash(&dataset)? } else { 0 }];
    let [weights, images] = hashes.map(|hash| format!("{hash:016x}"));
    let hint = "these are hashes: copy the file again";
    processes::expect_same(processes, &[("network", weights, hint), ("data set", images, hint)])?;
    let spinner =
        ProgressBar::new_spinner().with_message(format!("classifying {}", text::count(dataset.len(), "image")));
    spinner.enable_steady_tick(Duration::from_millis(100));
    let options = EvaluationOptions { normalization, batch_size: args.batch_size, test_flip: args.test_flip };
    let evaluated = evaluate_among(processes, executor, &model, &dataset, options, &mut |_| ());
    spinner.finish_and_clear();
    let evaluation = evaluated?;
    if processes.rank() > 0 {
        return Ok(());
    }
    if !evaluation.loss.is_finite() {
        let message = format!("the loss with these weights is {}: check the weights and --std", evaluation.loss);
        return Err(Error::format(&trained.path, None, message).into());
    }

    let mut out = std::io::stdout().lock();
    if args.json {
        trained.print_notes();
        let value = to_json(&model, &dataset, set, normalization, &evaluation);
        return Ok(writeln!(out, "{value:#}")?);
    }
    let (mean, std) = (args::write_three(normalization.mean()), args::write_three(normalization.std()));
    let images = evaluation.images();
    for (key, value) in [
        (
            "model",
            format!("{}, {} parameters", model.architecture().name, text::thousands(model.parameter_count() as u64)),
        ),
        ("weights", format!("{}{}", trained.path.display(), trained.training())),
        ("fingerprint", format!("{:016x}", fingerprint(&model))),
        ("normalisation", format!("mean {mean}, std {std} ({origin})")),
        ("data", format!("{}: {}", text::count(images, &format!("{set} image")), about.description)),
        ("", String::new()),
        (
            "accuracy",
            format!("{}; guessing: {}", text::share(evaluation.top1, images), text::chance(dataset.classes.len())),
        ),
        ("top-5", text::share(evaluation.top5, images)),
        ("loss", format!("{:.4}", evaluation.loss)),
        ("", String::new()),
    ] {
        writeln!(out, "{}", format!("{key:<14} {value}").trim_end())?;
        if key == "weights" {
            trained.notes.iter().try_for_each(|note| writeln!(out, "{:<14} {note}", "note"))?;
        }
        if key == "data" {
            about.notes.iter().try_for_each(|note| writeln!(out, "{:<14} {note}", "note"))?;
        }
    }
    Ok(write_classes(&mut out, &dataset.classes, &evaluation)?)
}

fn write_classes(out: &mut impl std::io::Write, classes: &[String], evaluation: &Evaluation) -> std::io::Result<()> {
    // Names of folders.
    let classes: Vec<String> = classes.iter().map(|name| text::printable(name)).collect();
    let names = classes.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("class".len());
    let with_matrix = classes.len() <= MATRIX_CLASSES;
    let largest = evaluation.confusion.iter().max().map_or(1, |most| most.to_string().len());
    let widths: Vec<usize> = classes.iter().map(|name| name.chars().count().max(largest)).collect();
    if with_matrix {
        writeln!(out, "{:names$}   accuracy   classified as", "")?;
    }
    write!(out, "{:names$}           ", "class")?;
    if with_matrix {
        for (name, width) in classes.iter().zip(&widths) {
            write!(out, "  {name:>width$}")?;
        }
    } else {
        write!(out, "accuracy")?;
    }
    writeln!(out)?;
    for ((name, accuracy), row) in
        classes.iter().zip(evaluation.class_accuracy()).zip(evaluation.confusion.outer_iter())
    {
        let accuracy = accuracy.map_or("no images".to_string(), |share| format!("{:.2} %", 100.0 * share));
        write!(out, "{name:names$}  {accuracy:>9}")?;
        if with_matrix {
            for (count, width) in row.iter().zip(&widths) {
                write!(out, "  {count:>width$}")?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn to_json<T: Scalar>(
    model: &ResNet<T>,
    dataset: &Dataset,
    set: &str,
    normalization: Normalization,
    evaluation: &Evaluation,
) -> serde_json::Value {
    let confusion: Vec<Vec<usize>> = evaluation.confusion.outer_iter().map(|row| row.to_vec()).collect();
    json!({
        "model": model.architecture().name,
        "dtype": T::NAME,
        "parameters": model.parameter_count(),
        "fingerprint": format!("{:016x}", fingerprint(model)),
        "mean": normalization.mean(),
        "std": normalization.std(),
        "data": dataset.source,
        "set": set,
        "images": evaluation.images(),
        "correct": evaluation.top1,
        "accuracy": evaluation.accuracy(),
        "top5_correct": evaluation.top5,
        "loss": evaluation.loss,
        "classes": dataset.classes,
        "class_accuracy": evaluation.class_accuracy(),
        "confusion": confusion,
    })
}
