//! Creates a run from a configuration.

use super::resume::kernels;
use super::{Args, Run};
use crate::cli::args::EngineKind;
use crate::cli::config::Config;
use crate::cli::images::{About, DEFAULT_SIZE};
use crate::cli::memory::estimate::Plan;
use crate::cli::run_folder::{RunFolder, check_out};
use crate::cli::{Failure, Result, init_from, memory, text};
use crate::data::{Augmentation, Dataset};
use crate::layers::Mode;
use crate::model::{Architecture, ResNet};
use crate::train::checkpoint::ImageHashes;
use crate::train::{Executor, Recipe, Trace, Trainer, Validation};
use std::path::Path;
use std::sync::Arc;

/// Training, validation (optional) and test images.
pub struct Images {
    pub train: Dataset,
    pub validation: Option<Dataset>,
    pub test: Dataset,
    pub about: About,
}

impl Images {
    /// Loads the images of a run. The data set's own validation images are used if the configuration does not say
    /// otherwise: then the recipe is changed.
    pub fn load(config: &Config, recipe: &mut Recipe) -> Result<Self> {
        let (splits, mut about) = config.data().load(DEFAULT_SIZE)?;
        if config.validation.is_none() && splits.validation.is_some() {
            recipe.validation = Validation::Folder;
        }
        about.notes.extend(splits.validation.as_ref().map(|_| {
            match recipe.validation {
                Validation::Folder => {
                    "the best epoch is chosen by the validation images of the data set (--validation 0: \
                                   they are not used)"
                        .to_string()
                }
                held_out => {
                    format!("the validation images of the data set are not used, because --validation is {held_out}")
                }
            }
        }));
        let (train, validation) = train_and_validation(splits.train, splits.validation, config.train_images, recipe)?;
        Ok(Images { train, validation, test: splits.test, about })
    }

    /// What decides about the memory of a run with them.
    pub fn memory<'a>(&self, config: &Config, recipe: &'a Recipe, model: &'a ResNet<f32>) -> Result<Plan<'a>> {
        memory_plan(config, recipe, model, &self.train, self.validation.as_ref(), &self.test)
    }
}

/// The first `first` training images (or all) without those held out for validation, and the validation images: these or
/// the data set's `own`.
pub fn train_and_validation(
    mut train: Dataset,
    own: Option<Dataset>,
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
    let held_out = match recipe.validation {
        Validation::NONE => return Ok((train, None)),
        Validation::HeldOut(images) => images,
        Validation::Folder if own.is_some() => return Ok((train, own)),
        Validation::Folder => {
            let message = "--validation folder needs a data set with its own validation images, in valid/ or val/ beside \
                           train/ and test/, and this one has none; give --validation N to hold out N training images";
            return Err(Failure::Usage(message.to_string()));
        }
    };
    if held_out >= train.len() {
        return Err(Failure::Usage(format!(
            "cannot hold out {held_out} of {} training images for validation; give a smaller --validation, or 0 for none",
            train.len()
        )));
    }
    let (train, validation) = train.split_validation(held_out, recipe.seed)?;
    Ok((train, Some(validation)))
}

/// Rejects an augmentation that can hide training images entirely.
fn check_augmentation(augmentation: &Augmentation, train: &Dataset) -> Result<()> {
    let (_, height, width, _) = train.pixels.dim();
    let side = height.min(width);
    // A crop that is moved by less than the side contains a part of the image.
    let limits =
        [("cutout", augmentation.cutout, side.saturating_sub(1)), ("crop-padding", augmentation.crop_padding, side)];
    match limits.into_iter().find(|(_, value, most)| value > most) {
        None => Ok(()),
        Some((flag, value, most)) => Err(Failure::Usage(format!(
            "--{flag} is {value}, which can hide images of {height}x{width} entirely; expected at most {most}"
        ))),
    }
}

/// The model of a recipe, after a check that it can be trained on the images.
pub fn prepare(recipe: &Recipe, train: &Dataset) -> Result<ResNet<f32>> {
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
    Ok(model)
}

/// What decides about the memory of a run with these images.
pub fn memory_plan<'a>(
    config: &Config,
    recipe: &'a Recipe,
    model: &'a ResNet<f32>,
    train: &Dataset,
    validation: Option<&Dataset>,
    test: &Dataset,
) -> Result<Plan<'a>> {
    let (_, height, width, _) = train.pixels.dim();
    let bytes = |dataset: &Dataset| dataset.pixels.len() as u64;
    Ok(Plan {
        model,
        recipe,
        engine: config.engine()?,
        conv: config.conv()?.unwrap_or_default(),
        size: [height, width],
        training_images: train.len(),
        evaluated_images: test.len().max(validation.map_or(0, Dataset::len)),
        images: bytes(train) + validation.map_or(0, bytes) + bytes(test),
        threads: rayon::current_num_threads(),
    })
}

/// The executor of a run.
pub fn executor(config: &Config, args: &Args) -> Result<Arc<dyn Executor<f32>>> {
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
    let mut recipe = given.recipe()?;
    let executor = executor(&given, args)?;
    if let Some(out) = out {
        check_out(out)?;
    }
    let images = Images::load(&given, &mut recipe)?;
    check_augmentation(&recipe.augmentation, &images.train)?;
    given.validation = Some(recipe.validation);
    if given.mean.is_none() {
        let derived = images.about.normalization(&images.train)?;
        (given.mean, given.std) = (derived.map(|d| d.mean()), derived.map(|d| d.std()));
    }
    let recipe = given.recipe()?;
    let mut config = given.effective(&recipe)?;
    config.make_paths_absolute()?;
    let mut model = prepare(&recipe, &images.train)?;
    images.memory(&config, &recipe, &model)?.check(memory::room())?;
    let initialised = init_from::apply(&given, &mut model, images.train.pixels.dim().1)?;
    let Images { train, validation, test, about } = images;
    let stem = format!("{}-{}", recipe.model, recipe.name);
    let mut folder = RunFolder::create(out, &stem, &config.to_toml(), config.keep_checkpoints())?;
    folder.compute_with(kernels(config.engine()?));
    let data = ImageHashes::of(&train, validation.as_ref(), &test)?;
    let train = Arc::new(train);
    let trainer = Trainer::new(model, executor, recipe, train.clone())?;
    // The first checkpoint is saved at once: an unwritable folder is an error now, and every run can be resumed.
    folder.checkpoint(&trainer, None, &config.to_toml(), data)?;
    let (validation, test) = (validation.map(Arc::new), Arc::new(test));
    Ok(Run { config, folder, trainer, best: None, train, validation, test, about, initialised, data })
}
