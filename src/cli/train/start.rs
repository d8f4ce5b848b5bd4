//! Creates a run from a configuration, or from the last checkpoint of an earlier run.

use super::{Args, Run};
use crate::cli::args::EngineKind;
use crate::cli::config::Config;
use crate::cli::images::{About, DEFAULT_SIZE};
use crate::cli::run_folder::{RunFolder, check_out};
use crate::cli::{Failure, Result, init_from, memory, text};
use crate::data::Dataset;
use crate::layers::Mode;
use crate::model::{Architecture, ResNet};
use crate::train::checkpoint::{Checkpoint, data_hash};
use crate::train::{Executor, Recipe, Trace, Trainer};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Training, validation (optional) and test images.
struct Images {
    train: Dataset,
    validation: Option<Dataset>,
    test: Dataset,
    about: About,
}

impl Images {
    fn load(config: &Config, recipe: &Recipe) -> Result<Self> {
        let (splits, about) = config.data().load(DEFAULT_SIZE)?;
        let (train, validation) = train_and_validation(splits.train, config.train_images, recipe)?;
        Ok(Images { train, validation, test: splits.test, about })
    }
}

/// Splits the first `first` training images (or all) into those to train on and those held out for validation.
pub fn train_and_validation(
    mut train: Dataset,
    first: Option<usize>,
    recipe: &Recipe,
) -> Result<(Dataset, Option<Dataset>)> {
    if let Some(n) = first {
        if n > train.len() {
            let message = format!("--train-images is {n}, but there are only {} training images", train.len());
            return Err(Failure::Usage(message));
        }
        train = train.subset(&(0..n).collect::<Vec<_>>())?;
    }
    if recipe.validation == 0 {
        return Ok((train, None));
    }
    if recipe.validation >= train.len() {
        return Err(Failure::Usage(format!(
            "cannot hold out {} of {} training images for validation; give a smaller --validation, or 0 for none",
            recipe.validation,
            train.len()
        )));
    }
    let (train, validation) = train.split_validation(recipe.validation, recipe.seed)?;
    Ok((train, Some(validation)))
}

/// The model of a recipe, after a check that it can be trained on the images.
fn prepare(recipe: &Recipe, train: &Dataset) -> Result<ResNet<f32>> {
    let architecture = Architecture::by_name(&recipe.model)?.with_classes(train.classes.len());
    let mut model = ResNet::<f32>::new(&architecture, recipe.seed)?;
    if recipe.zero_init_residual {
        model.zero_init_residual().map_err(|error| Failure::Usage(error.to_string()))?;
    }
    let (_, height, width, _) = train.pixels.dim();
    model.cost(1, [height, width]).map_err(|error| {
        Failure::Usage(format!("`{}` cannot process images of {height}x{width}: {error}", recipe.model))
    })?;
    if train.len() % recipe.batch_size == 1 || recipe.batch_size == 1 {
        let one = ndarray::Array4::zeros((1, height, width, 3)).into_shared();
        model.forward(&one, Mode::Train).map_err(|error| {
            Failure::Usage(format!(
                "the last batch of an epoch would contain a single image ({}, batch size {}), and `{}` cannot \
                 train on that: {error}; give another --batch-size",
                text::count(train.len(), "image"),
                recipe.batch_size,
                recipe.model
            ))
        })?;
    }
    fits_in_memory(&model, recipe, train)?;
    Ok(model)
}

/// Rejects a step that does not fit into the available memory; the error names a batch size that does.
fn fits_in_memory(model: &ResNet<f32>, recipe: &Recipe, train: &Dataset) -> Result<()> {
    let Some(available) = memory::available() else { return Ok(()) };
    let (_, height, width, _) = train.pixels.dim();
    let needed =
        |batch: usize| Ok::<u64, Failure>(model.cost(batch.min(train.len()), [height, width])?.training_bytes(4));
    let bytes = needed(recipe.batch_size)?;
    if bytes <= available {
        return Ok(());
    }
    // Bisection for the largest batch that fits: memory grows with the batch.
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
        fits => format!("--batch-size {fits} fits"),
    };
    Err(Failure::Failed(format!(
        "not enough memory: a step of `{}` with {} needs about {}, but {} is available; {advice}",
        recipe.model,
        text::count(recipe.batch_size, "image"),
        text::bytes(bytes),
        text::bytes(available)
    )))
}

/// The executor of a run.
fn executor(config: &Config, args: &Args) -> Result<Arc<dyn Executor<f32>>> {
    let executor = config.executor()?;
    match (args.trace, config.engine()?) {
        (false, _) => Ok(executor),
        (true, EngineKind::Reference) => Ok(Arc::new(Trace::new(|line| println!("{line}")))),
        (true, EngineKind::Fast) => {
            let message = "--trace works only with the reference; add --engine reference";
            Err(Failure::Usage(message.to_string()))
        }
    }
}

/// Starts a new run, in the folder `out` if it is given.
pub fn begin(mut given: Config, out: Option<&Path>, args: &Args) -> Result<Run> {
    let recipe = given.recipe()?;
    let executor = executor(&given, args)?;
    if let Some(out) = out {
        check_out(out)?;
    }
    let Images { train, validation, test, about } = Images::load(&given, &recipe)?;
    if given.mean.is_none() {
        let derived = about.normalization(&train)?;
        (given.mean, given.std) = (derived.map(|d| d.mean()), derived.map(|d| d.std()));
    }
    let recipe = given.recipe()?;
    let config = given.effective(&recipe)?;
    let mut model = prepare(&recipe, &train)?;
    let initialised = match &config.init_from {
        Some(path) => init_from::apply(path, &mut model)?,
        None => Vec::new(),
    };
    let stem = format!("{}-{}", recipe.model, recipe.name);
    let mut folder = RunFolder::create(out, &stem, &config.to_toml(), args.keep_checkpoints)?;
    let data = data_hash(&train);
    let train = Arc::new(train);
    let trainer = Trainer::new(model, executor, recipe, train.clone())?;
    // The first checkpoint is saved at once: an unwritable folder is an error now, and every run can be resumed.
    folder.checkpoint(&trainer, None, &config.to_toml(), data)?;
    let (validation, test) = (validation.map(Arc::new), Arc::new(test));
    Ok(Run { config, folder, trainer, best: None, train, validation, test, about, initialised, data })
}

/// The run in a folder, at its last checkpoint; `None` if the run is complete.
pub fn resume(mut flags: Config, path: &Path, args: &Args) -> Result<Option<Run>> {
    let (folder, latest) = RunFolder::open(path, args.keep_checkpoints)?;
    let mut out = std::io::stdout().lock();
    for (file, problem) in &latest.damaged {
        writeln!(out, "note           {} is unusable, using the previous checkpoint: {problem}", file.display())?;
    }
    let checkpoint = latest.checkpoint;
    let wrong = |message: String| Failure::Failed(format!("{}: {message}", latest.path.display()));
    let mut config = Config::parse(&checkpoint.config).map_err(wrong)?;
    // The location of the images is not a setting of the run. A hash checks that the images are the same.
    if let Some(data) = flags.data.take() {
        config.data = Some(data);
    }
    // Neither is which weights are kept.
    if let Some(every) = flags.save_every.take() {
        config.save_every = Some(every);
    }
    if config.engine.is_none() {
        writeln!(
            out,
            "note           started by a version with a single engine; --engine fast gives bit-identical results"
        )?;
        config.engine = Some(EngineKind::Fast.name().to_string());
        config.conv = config.conv()?.map(|algorithm| algorithm.name().to_string());
    }
    flags.refuse_conflicts(&config, path)?;
    if folder.is_complete() {
        writeln!(out, "{} is complete: nothing to do", path.display())?;
        return Ok(None);
    }
    drop(out);
    let (recipe, executor) = (config.recipe()?, executor(&config, args)?);
    let Images { train, validation, test, about } = Images::load(&config, &recipe)?;
    let mut model = prepare(&recipe, &train)?;
    let data = data_hash(&train);
    if data != checkpoint.data {
        return Err(Failure::Failed(format!(
            "the training images are not those that the run started with: {}; give their location with --data",
            about.description
        )));
    }
    Checkpoint::load(&latest.path, &checkpoint.model, &mut model)?;
    folder.rewind(&checkpoint)?;
    let train = Arc::new(train);
    let trainer = Trainer::resume(model, executor, checkpoint.snapshot(), recipe, train.clone())?;
    let (validation, test) = (validation.map(Arc::new), Arc::new(test));
    let (best, initialised) = (checkpoint.best, Vec::new());
    Ok(Some(Run { config, folder, trainer, best, train, validation, test, about, initialised, data }))
}
