//! Creates a run from a configuration.

use super::resume::kernels;
use super::{Args, Run};
use crate::cli::args::EngineKind;
use crate::cli::config::Config;
use crate::cli::images::{About, DEFAULT_SIZE};
use crate::cli::memory::estimate::Plan;
use crate::cli::processes::DEFAULT_SHARDS;
use crate::cli::run_folder::{RunFolder, check_out};
use crate::cli::{Failure, Result, init_from, memory, processes, text};
use crate::data::{Augmentation, Dataset};
use crate::layers::Mode;
use crate::model::{Architecture, ResNet};
use crate::parameters::fingerprint;
use crate::processes::{Alone, Communicator};
use crate::rng::{FNV_OFFSET, fnv1a};
use crate::shards::Shards;
use crate::train::checkpoint::{Best, Checkpoint, ImageHashes};
use crate::train::{Executor, Recipe, Trace, Trainer, Validation};
use std::num::NonZeroUsize;
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
    pub fn memory<'a>(
        &self,
        config: &Config,
        recipe: &'a Recipe,
        model: &'a ResNet<f32>,
        processes: usize,
    ) -> Result<Plan<'a>> {
        memory_plan(config, recipe, model, [&self.train, &self.test], self.validation.as_ref(), processes)
    }

    fn hashes(&self) -> Result<ImageHashes> {
        Ok(ImageHashes::of(&self.train, self.validation.as_ref(), &self.test)?)
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
    if fewest_together(recipe, train.len()) == 1 {
        let one = ndarray::Array4::zeros((1, height, width, 3)).into_shared();
        model.forward(&one, Mode::Train).map_err(|error| {
            let (images, Recipe { batch_size, norm_group, model, .. }) = (text::count(train.len(), "image"), recipe);
            Failure::Usage(match norm_group {
                0 => format!(
                    "the last batch of an epoch would contain a single image ({images}, batch size {batch_size}), and \
                     `{model}` cannot train on that: {error}; give another --batch-size"
                ),
                _ => format!(
                    "a group of batch norm would contain a single image ({images}, batch size {batch_size}, {}, norm_group \
                     {norm_group}), and `{model}` cannot train on that: {error}; give another --norm-group or --batch-size",
                    text::count(recipe.shards, "shard")
                ),
            })
        })?;
    }
    Ok(model)
}

/// The fewest images that a batch norm normalises together, in a full batch and in the last one of an epoch of `images`.
fn fewest_together(recipe: &Recipe, images: usize) -> usize {
    let group = NonZeroUsize::new(recipe.norm_group);
    let together = |batch: usize| Shards::new(batch, recipe.shards, Arc::new(Alone)).in_groups(group).together();
    let full = recipe.batch_size.min(images);
    match images % recipe.batch_size {
        0 => together(full),
        last => together(full).min(together(last)),
    }
}

/// What decides about the memory of a run with these images.
pub fn memory_plan<'a>(
    config: &Config,
    recipe: &'a Recipe,
    model: &'a ResNet<f32>,
    [train, test]: [&Dataset; 2],
    validation: Option<&Dataset>,
    processes: usize,
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
        processes,
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
pub fn begin(given: Config, out: Option<&Path>, args: &Args, processes: &Arc<dyn Communicator>) -> Result<Run> {
    let prepared = processes::agree(&**processes, Prepared::new(given, out, args, processes))?;
    expect_same(&**processes, &prepared.config, &prepared.trainer, prepared.data)?;
    // One process writes, and only if all are ready.
    let begun = match processes.rank() {
        0 => prepared.begin(out),
        _ => Ok(prepared.within(RunFolder::of_the_first_process(Path::new("")), None)),
    };
    processes::agree(&**processes, begun)
}

/// Sets the number of shards of a new run on `size` processes. Returns a note about it.
fn choose_shards(given: &mut Config, size: usize) -> Result<Option<String>> {
    if size == 1 {
        return Ok(None);
    }
    if given.engine()? == EngineKind::Reference {
        let message = format!("the reference trains on one process, and there are {size}; remove --engine reference");
        return Err(Failure::Usage(message));
    }
    let note = given.shards.is_none().then(|| note_about_shards(size));
    let shards = *given.shards.get_or_insert(DEFAULT_SHARDS);
    if size > shards {
        let message = format!(
            "{size} processes cannot share {}; add --shards {} (the result depends on this number), or start at most {}",
            text::count(shards, "shard"),
            size.next_power_of_two(),
            text::count(shards, "process"),
        );
        return Err(Failure::Usage(message));
    }
    Ok(note)
}

/// Says that the number of shards is not the one of a single process.
pub fn note_about_shards(size: usize) -> String {
    format!("every batch is split into {DEFAULT_SHARDS} shards, because there are {size} processes (--shards)")
}

/// A run without its folder.
pub struct Prepared {
    config: Config,
    trainer: Trainer<f32>,
    train: Arc<Dataset>,
    validation: Option<Arc<Dataset>>,
    test: Arc<Dataset>,
    about: About,
    initialised: Vec<String>,
    data: ImageHashes,
    processes: Arc<dyn Communicator>,
}

impl Prepared {
    /// A new run.
    fn new(mut given: Config, out: Option<&Path>, args: &Args, processes: &Arc<dyn Communicator>) -> Result<Self> {
        let note = choose_shards(&mut given, processes.size())?;
        let mut recipe = given.recipe()?;
        let executor = executor(&given, args)?;
        if let Some(out) = out.filter(|_| processes.rank() == 0) {
            check_out(out)?;
        }
        let mut images = Images::load(&given, &mut recipe)?;
        images.about.notes.extend(note);
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
        images.memory(&config, &recipe, &model, processes.size())?.check(memory::room())?;
        let initialised = init_from::apply(&given, &mut model, images.train.pixels.dim().1)?;
        let data = images.hashes()?;
        let train = Arc::new(images.train);
        let trainer = Trainer::new(model, executor, recipe, train.clone())?.among(processes.clone())?;
        let (validation, test) = (images.validation.map(Arc::new), Arc::new(images.test));
        let (about, processes) = (images.about, processes.clone());
        Ok(Prepared { config, trainer, train, validation, test, about, initialised, data, processes })
    }

    /// A run that continues from the `checkpoint` in `file`, with the settings of `config`.
    pub fn from_checkpoint(
        config: Config,
        (file, checkpoint): (&Path, &Checkpoint),
        args: &Args,
        processes: &Arc<dyn Communicator>,
    ) -> Result<Self> {
        let (mut recipe, executor) = (config.recipe()?, executor(&config, args)?);
        let (size, shards) = (processes.size(), recipe.shards);
        if size > shards {
            return Err(Failure::Usage(format!(
                "{size} processes cannot share {}, the number with which the run started, and a resumed run keeps its \
                 settings; start at most {}",
                text::count(shards, "shard"),
                text::count(shards, "process"),
            )));
        }
        let images = Images::load(&config, &mut recipe)?;
        let mut model = prepare(&recipe, &images.train)?;
        images.memory(&config, &recipe, &model, size)?.check(memory::room())?;
        let data = images.hashes()?;
        if let Some(which) = data.different_from(&checkpoint.data) {
            return Err(Failure::Failed(format!(
                "the {which} images are not those that the run started with: {}; give their location with --data",
                images.about.description
            )));
        }
        Checkpoint::load(file, &checkpoint.model, &mut model)?;
        let train = Arc::new(images.train);
        let trainer = Trainer::resume(model, executor, checkpoint.snapshot(), recipe, train.clone())?;
        let trainer = trainer.among(processes.clone())?;
        let (validation, test) = (images.validation.map(Arc::new), Arc::new(images.test));
        let (about, initialised, processes) = (images.about, Vec::new(), processes.clone());
        Ok(Prepared { config, trainer, train, validation, test, about, initialised, data, processes })
    }

    pub fn trainer(&self) -> &Trainer<f32> {
        &self.trainer
    }

    pub fn test(&self) -> &Dataset {
        &self.test
    }

    /// Creates the folder of a new run.
    fn begin(self, out: Option<&Path>) -> Result<Run> {
        let (config, recipe) = (self.config.to_toml(), self.trainer.recipe());
        let stem = format!("{}-{}", recipe.model, recipe.name);
        let mut folder = RunFolder::create(out, &stem, &config, self.config.keep_checkpoints())?;
        folder.compute_with(kernels(self.config.engine()?));
        // The first checkpoint is saved at once: an unwritable folder is an error now, and every run can be resumed.
        folder.checkpoint(&self.trainer, None, &config, self.data)?;
        Ok(self.within(folder, None))
    }

    pub fn within(self, folder: RunFolder, best: Option<Best>) -> Run {
        let Prepared { config, trainer, train, validation, test, about, initialised, data, processes } = self;
        let together = None;
        Run { config, folder, trainer, best, train, validation, test, about, initialised, data, processes, together }
    }
}

impl Run {
    /// Rejects processes that would not compute the same run.
    pub fn expect_same(&self) -> Result<()> {
        expect_same(&*self.processes, &self.config, &self.trainer, self.data)
    }
}

/// Rejects processes that would not compute the same run.
fn expect_same(processes: &dyn Communicator, config: &Config, trainer: &Trainer<f32>, data: ImageHashes) -> Result<()> {
    if processes.size() == 1 {
        return Ok(());
    }
    expect_same_settings(processes, config)?;
    let hash = |hash: Option<u64>| hash.map_or("none".to_string(), |hash| format!("{hash:016x}"));
    let ImageHashes { train, validation, test } = data;
    let images = [Some(train), validation, test].map(hash).join(", ");
    let weights = format!("{:016x}", fingerprint(trainer.model()));
    processes::expect_same(
        processes,
        &[
            ("data set", images, "these are hashes of the training, validation and test images: copy them again"),
            ("network", weights, "these are hashes of the weights before the next step: --init-from is another file"),
        ],
    )
}

/// Rejects processes with another program or other settings.
pub fn expect_same_settings(processes: &dyn Communicator, config: &Config) -> Result<()> {
    if processes.size() == 1 {
        return Ok(());
    }
    processes::expect_same(
        processes,
        &[
            ("program", program()?, "install the same one on every machine"),
            ("configuration", config.to_toml(), "give all processes the same flags and files"),
            ("set of kernels", kernels(config.engine()?), "RESNET_KERNELS chooses it; AVX2 and AVX-512 are one set"),
        ],
    )
}

/// Version and hash of this program.
fn program() -> Result<String> {
    let failed = |error| Failure::Failed(format!("cannot read this program: {error}"));
    let bytes = std::env::current_exe().and_then(std::fs::read).map_err(failed)?;
    Ok(format!("version {}, hash {:016x}", env!("CARGO_PKG_VERSION"), fnv1a(FNV_OFFSET, &bytes)))
}
