//! The configuration of a run as a TOML file: `resnet train --config run.toml`.
//!
//! Every key has a flag of the same name and is optional; its default comes from the recipe. A run writes its complete
//! configuration into its folder (`config.toml`), so that the file starts the same run again. Every checkpoint also
//! contains it.

use super::args::{self, EngineKind};
use super::images::{DEFAULT_SIZE, DataArgs};
use super::{Failure, Result, text};
use crate::Error;
use crate::base::input;
use crate::data::{Augmentation, Normalization};
use crate::engine::Algorithm;
use crate::model::Architecture;
use crate::optim::{DecayExemption, Sgd, SgdConfig};
use crate::train::{Executor, Recipe, Validation};
use crate::weights::pretrained;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The keys of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub model: Option<String>,
    pub recipe: Option<String>,
    pub seed: Option<u64>,
    /// Number of runs, with consecutive seeds from `seed`.
    pub repeat: Option<usize>,
    /// A path, or `embedded`.
    pub data: Option<PathBuf>,
    pub image_size: Option<usize>,
    pub train_images: Option<usize>,
    /// A number of images, or `folder`.
    pub validation: Option<Validation>,
    pub validate_every: Option<usize>,
    pub early_stopping: Option<usize>,
    pub crop_padding: Option<usize>,
    pub flip: Option<bool>,
    pub cutout: Option<usize>,
    pub mixup: Option<f64>,
    pub test_flip: Option<bool>,
    pub mean: Option<[f64; 3]>,
    pub std: Option<[f64; 3]>,
    pub epochs: Option<usize>,
    pub batch_size: Option<usize>,
    pub eval_batch_size: Option<usize>,
    pub lr: Option<f64>,
    pub schedule: Option<String>,
    pub momentum: Option<f64>,
    pub nesterov: Option<bool>,
    pub weight_decay: Option<f64>,
    pub no_decay_norm_bias: Option<bool>,
    pub label_smoothing: Option<f64>,
    pub clip_norm: Option<f64>,
    pub accumulate: Option<usize>,
    pub shards: Option<usize>,
    /// Images per group of a batch norm; 0: the whole batch.
    pub norm_group: Option<usize>,
    pub ema_decay: Option<f64>,
    pub zero_init_residual: Option<bool>,
    /// A weights file.
    pub init_from: Option<PathBuf>,
    /// Which of its tensors, if it is a checkpoint of PyTorch: keys joined by points.
    pub init_key: Option<String>,
    /// Whether a part of its tensors is enough.
    pub init_partial: Option<bool>,
    /// Every so many epochs a weights file of its own is kept; 0: none.
    pub save_every: Option<usize>,
    /// `fast` or `reference`.
    pub engine: Option<String>,
    pub conv: Option<String>,
    /// A duration, such as `10m`.
    pub checkpoint_every: Option<String>,
    pub keep_checkpoints: Option<usize>,
}

/// Default number of checkpoints to keep.
const KEEP_CHECKPOINTS: usize = 2;

/// Calls `$each!(field)` for every key.
macro_rules! for_keys {
    ($each:ident) => {
        $each!(
            model,
            recipe,
            seed,
            repeat,
            data,
            image_size,
            train_images,
            validation,
            validate_every,
            early_stopping,
            crop_padding,
            flip,
            cutout,
            mixup,
            test_flip,
            mean,
            std,
            epochs,
            batch_size,
            eval_batch_size,
            lr,
            schedule,
            momentum,
            nesterov,
            weight_decay,
            no_decay_norm_bias,
            label_smoothing,
            clip_norm,
            accumulate,
            shards,
            norm_group,
            ema_decay,
            zero_init_residual,
            init_from,
            init_key,
            init_partial,
            save_every,
            engine,
            conv,
            checkpoint_every,
            keep_checkpoints
        )
    };
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = input::read(path).map_err(|error| Error::io(path, "read", error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            Error::format(path, Some(error.utf8_error().valid_up_to() as u64), "expected a text in UTF-8")
        })?;
        Self::parse(&text).map_err(|message| Failure::Usage(format!("{}: {message}", path.display())))
    }

    /// Parses the text of a file; the error gives the line.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let message = in_plain_words(error.message());
            error.to_string().replace(error.message(), &message).trim_end().to_string()
        })
    }

    /// The text of a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain values can be written")
    }

    /// The values of `self`, and those of `other` for missing ones.
    pub fn or(self, other: Config) -> Config {
        macro_rules! merged {
            ($($key:ident),*) => { Config { $($key: self.$key.or(other.$key)),* } };
        }
        for_keys!(merged)
    }

    /// The settings that a resumed run may change, which are removed from `self`: those without effect on the result, and the
    /// place of the images.
    pub fn take_changeable(&mut self) -> Config {
        Config { data: self.data.take(), ..self.take_without_effect() }
    }

    /// The settings that cannot change the result, which are removed from `self`.
    pub fn take_without_effect(&mut self) -> Config {
        Config {
            eval_batch_size: self.eval_batch_size.take(),
            checkpoint_every: self.checkpoint_every.take(),
            keep_checkpoints: self.keep_checkpoints.take(),
            save_every: self.save_every.take(),
            ..Config::default()
        }
    }

    /// Makes the paths absolute, so that the run can be resumed in any folder.
    pub fn make_paths_absolute(&mut self) -> Result<()> {
        let is_path = |path: &&mut PathBuf| path.as_os_str() != "embedded" && !pretrained::is_meant(path);
        for path in [&mut self.data, &mut self.init_from].into_iter().flatten().filter(is_path) {
            let absolute = std::path::absolute(&path).map_err(|error| Error::io(&path, "find", error))?;
            // It is written into config.toml, which is UTF-8.
            if absolute.to_str().is_none() {
                let message =
                    "expected a path in UTF-8, because config.toml contains it; rename the folder or the file";
                return Err(Error::format(absolute, None, message).into());
            }
            *path = absolute;
        }
        Ok(())
    }

    /// The interval of checkpoints within an epoch.
    pub fn checkpoint_every(&self) -> Result<Option<Duration>> {
        let read = |text: &String| {
            let wrong = |expected| Failure::Usage(format!("`checkpoint_every` = {text}: {expected}"));
            args::duration(text).map_err(wrong)
        };
        self.checkpoint_every.as_ref().map(read).transpose()
    }

    /// The number of checkpoints to keep.
    pub fn keep_checkpoints(&self) -> usize {
        self.keep_checkpoints.unwrap_or(KEEP_CHECKPOINTS)
    }

    /// Every key that has different values in `self` and `other`: key, value here, value there.
    pub fn differences(&self, other: &Config) -> Vec<(&'static str, String, String)> {
        let missing = other.conflicts(self).into_iter().filter(|(_, _, here)| here == NO_VALUE);
        let missing = missing.map(|(key, there, here)| (key, here, there));
        self.conflicts(other).into_iter().chain(missing).collect()
    }

    /// Every key of `self` that has another value, or none, in `other`: key, value here, value there.
    pub fn conflicts(&self, other: &Config) -> Vec<(&'static str, String, String)> {
        let mut conflicts = Vec::new();
        macro_rules! compare {
            ($($key:ident),*) => {
                $(if let Some(own) = &self.$key {
                    if other.$key.as_ref() != Some(own) {
                        let there = other.$key.as_ref().map_or(NO_VALUE.to_string(), |there| shown(there));
                        conflicts.push((stringify!($key), shown(own), there));
                    }
                })*
            };
        }
        for_keys!(compare);
        conflicts
    }

    /// Rejects settings that differ from those of the run in the folder `run`, which are `saved`. `lengthening` says under
    /// which conditions its number of epochs can change.
    pub fn refuse_conflicts(&self, saved: &Config, run: &Path, lengthening: &str) -> Result<()> {
        let conflicts = self.conflicts(saved);
        let Some((key, given, saved)) = conflicts.first() else { return Ok(()) };
        let flag = key.replace('_', "-");
        let reason = match *key {
            // Not those that it started with, if it has been lengthened.
            "epochs" => format!("but the run has {saved}; {lengthening}"),
            _ => format!("but the run started with {saved}, and a resumed run keeps its settings"),
        };
        Err(Failure::Usage(format!(
            "--{flag} is {given}, {reason}; to start a new run: resnet train --config {} --{flag} {}",
            text::shell(run.join("config.toml")),
            text::shell(given.trim_matches('"'))
        )))
    }

    /// The recipe, with the values given here.
    pub fn recipe(&self) -> Result<Recipe> {
        let usage = |error: Error| Failure::Usage(error.to_string());
        let default = if self.data().is_embedded() { "demo" } else { "quick" };
        let base = Recipe::by_name(self.recipe.as_deref().unwrap_or(default)).map_err(usage)?;
        if let Some(model) = &self.model {
            Architecture::by_name(model).map_err(usage)?;
        }
        let schedule = self.schedule.as_ref().map(|text| text.parse()).transpose().map_err(usage)?;
        let normalization = match (self.mean, self.std) {
            (Some(mean), Some(std)) => Normalization::new(mean, std).map_err(usage)?,
            (None, None) => base.normalization,
            _ => return Err(Failure::Usage("`mean` and `std` must be given together, or neither of them".to_string())),
        };
        check("momentum", self.momentum, args::share)?;
        check("label_smoothing", self.label_smoothing, args::smoothing)?;
        check("lr", self.lr, args::positive)?;
        check("weight_decay", self.weight_decay, args::not_negative)?;
        check("clip_norm", self.clip_norm, args::not_negative)?;
        check("mixup", self.mixup, args::alpha)?;
        check("ema_decay", self.ema_decay, args::decay)?;
        check("accumulate", self.accumulate, args::count(1, args::MOST))?;
        check("shards", self.shards, args::shards)?;
        check("norm_group", self.norm_group, args::count(0, args::MOST))?;
        check("repeat", self.repeat, args::count(1, args::MOST_RUNS))?;
        check("validate_every", self.validate_every, args::count(1, args::MOST))?;
        check("save_every", self.save_every, args::count(0, args::MOST))?;
        check("cutout", self.cutout, args::count(0, args::MOST))?;
        check("crop_padding", self.crop_padding, args::count(0, 32))?;
        check("image_size", self.image_size, args::count(1, 2048))?;
        check("keep_checkpoints", self.keep_checkpoints, args::count(1, args::MOST_CHECKPOINTS))?;
        self.checkpoint_every()?;
        for (key, value) in
            [("epochs", self.epochs), ("batch_size", self.batch_size), ("eval_batch_size", self.eval_batch_size)]
        {
            check(key, value, args::count(1, args::MOST))?;
        }
        let sgd = SgdConfig {
            momentum: self.momentum.unwrap_or(base.sgd.momentum),
            weight_decay: self.weight_decay.unwrap_or(base.sgd.weight_decay),
            nesterov: self.nesterov.unwrap_or(base.sgd.nesterov),
            decay_exemption: match self.no_decay_norm_bias {
                Some(true) => DecayExemption::NormAndBias,
                Some(false) => DecayExemption::None,
                None => base.sgd.decay_exemption,
            },
            ..base.sgd
        };
        if sgd.nesterov && sgd.momentum == 0.0 {
            return Err(Failure::Usage(
                "Nesterov momentum needs a --momentum above 0; use --nesterov=false to train without momentum"
                    .to_string(),
            ));
        }
        let recipe = Recipe {
            model: self.model.clone().unwrap_or(base.model),
            epochs: self.epochs.unwrap_or(base.epochs),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            eval_batch_size: self.eval_batch_size.unwrap_or(base.eval_batch_size),
            lr: self.lr.unwrap_or(base.lr),
            schedule: schedule.unwrap_or(base.schedule),
            sgd,
            label_smoothing: self.label_smoothing.unwrap_or(base.label_smoothing),
            clip_norm: self.clip_norm.unwrap_or(base.clip_norm),
            mixup: self.mixup.unwrap_or(base.mixup),
            accumulate: self.accumulate.unwrap_or(base.accumulate),
            shards: self.shards.unwrap_or(base.shards),
            norm_group: self.norm_group.unwrap_or(base.norm_group),
            ema_decay: self.ema_decay.unwrap_or(base.ema_decay),
            augmentation: Augmentation {
                crop_padding: self.crop_padding.unwrap_or(base.augmentation.crop_padding),
                flip: self.flip.unwrap_or(base.augmentation.flip),
                cutout: self.cutout.unwrap_or(base.augmentation.cutout),
            },
            normalization,
            test_flip: self.test_flip.unwrap_or(base.test_flip),
            validation: self.validation.unwrap_or(base.validation),
            validate_every: self.validate_every.unwrap_or(base.validate_every),
            early_stopping: self.early_stopping.unwrap_or(base.early_stopping),
            zero_init_residual: self.zero_init_residual.unwrap_or(base.zero_init_residual),
            seed: self.seed.unwrap_or(base.seed),
            name: base.name,
        };
        recipe.check().map_err(usage)?;
        if recipe.shards > 1 && self.engine()? == EngineKind::Reference {
            let message = "--shards splits the batches of the engine; the reference adds over whole batches: remove --shards or \
                           --engine reference";
            return Err(Failure::Usage(message.to_string()));
        }
        Sgd::<f32>::new(recipe.sgd).map_err(usage)?;
        Ok(recipe)
    }

    /// The location of the images.
    pub fn data(&self) -> DataArgs {
        DataArgs { data: self.data.clone(), image_size: self.image_size }
    }

    /// Which implementation computes: by default the engine.
    pub fn engine(&self) -> Result<EngineKind> {
        self.engine.as_deref().map_or(Ok(EngineKind::Fast), EngineKind::by_name)
    }

    /// The algorithm of the engine's convolutions.
    pub fn conv(&self) -> Result<Option<Algorithm>> {
        let Some(name) = self.conv.as_deref() else { return Ok(None) };
        if name == "direct" {
            let message = "`conv` = \"direct\" is no longer supported in training; use --engine reference (its results \
                           differ by rounding), or remove `conv`";
            return Err(Failure::Usage(message.to_string()));
        }
        Algorithm::by_name(name).map(Some).map_err(|error| Failure::Usage(error.to_string()))
    }

    /// The executor of the run.
    pub fn executor(&self) -> Result<Arc<dyn Executor<f32>>> {
        self.engine()?.executor(self.conv()?)
    }

    /// The complete configuration of one run: data and computation from `self`, everything else from the recipe.
    pub fn effective(&self, recipe: &Recipe) -> Result<Config> {
        Ok(Config {
            model: Some(recipe.model.clone()),
            recipe: Some(recipe.name.clone()),
            seed: Some(recipe.seed),
            repeat: None,
            data: Some(self.data.clone().unwrap_or_else(|| "embedded".into())),
            image_size: Some(self.image_size.unwrap_or(DEFAULT_SIZE)),
            train_images: self.train_images,
            validation: Some(recipe.validation),
            validate_every: Some(recipe.validate_every),
            early_stopping: Some(recipe.early_stopping),
            crop_padding: Some(recipe.augmentation.crop_padding),
            flip: Some(recipe.augmentation.flip),
            cutout: Some(recipe.augmentation.cutout),
            mixup: Some(recipe.mixup),
            test_flip: Some(recipe.test_flip),
            mean: Some(recipe.normalization.mean()),
            std: Some(recipe.normalization.std()),
            epochs: Some(recipe.epochs),
            batch_size: Some(recipe.batch_size),
            eval_batch_size: Some(recipe.eval_batch_size),
            lr: Some(recipe.lr),
            schedule: Some(recipe.schedule.to_string()),
            momentum: Some(recipe.sgd.momentum),
            nesterov: Some(recipe.sgd.nesterov),
            weight_decay: Some(recipe.sgd.weight_decay),
            no_decay_norm_bias: Some(recipe.sgd.decay_exemption == DecayExemption::NormAndBias),
            label_smoothing: Some(recipe.label_smoothing),
            clip_norm: Some(recipe.clip_norm),
            accumulate: Some(recipe.accumulate),
            shards: Some(recipe.shards),
            norm_group: Some(recipe.norm_group),
            ema_decay: Some(recipe.ema_decay),
            zero_init_residual: Some(recipe.zero_init_residual),
            init_from: self.init_from.clone(),
            init_key: self.init_key.clone(),
            init_partial: self.init_partial,
            save_every: Some(self.save_every.unwrap_or(0)),
            engine: Some(self.engine()?.name().to_string()),
            conv: match self.engine()? {
                EngineKind::Fast => Some(self.conv()?.unwrap_or_default().name().to_string()),
                EngineKind::Reference => None,
            },
            checkpoint_every: self.checkpoint_every.clone(),
            keep_checkpoints: Some(self.keep_checkpoints()),
        })
    }
}

/// The message of an error without the names of types.
fn in_plain_words(message: &str) -> String {
    let types = [
        ("usize", "a whole number, 0 or above"),
        ("u64", "a whole number, 0 or above"),
        ("f64", "a number"),
        ("path string", "a path as a string"),
        ("an array of length 3", "three numbers, [R, G, B]"),
    ];
    let name = types.into_iter().find_map(|(name, words)| {
        let start = message.strip_suffix(name)?.strip_suffix("expected ")?;
        Some(format!("{start}expected {words}"))
    });
    name.unwrap_or_else(|| message.to_string())
}

/// The value of a key that a file does not contain, in messages.
const NO_VALUE: &str = "no value";

/// Checks a value of a file with the parser of its flag.
fn check<V: Display, R>(
    key: &str,
    value: Option<V>,
    read: impl Fn(&str) -> std::result::Result<R, String>,
) -> Result<()> {
    let Some(value) = value else { return Ok(()) };
    let wrong = |expected| Failure::Usage(format!("`{key}` = {value}: {expected}"));
    read(&value.to_string()).map_err(wrong)?;
    Ok(())
}

/// A number or a word, as the flag.
impl Serialize for Validation {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Validation::HeldOut(images) => images.serialize(serializer),
            Validation::Folder => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Validation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Words;
        impl de::Visitor<'_> for Words {
            type Value = Validation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of images or \"folder\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<Validation, E> {
                let images = usize::try_from(number);
                images.map(Validation::HeldOut).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Validation, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

fn shown(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_configuration_says_everything_and_starts_the_same_run_again() {
        let config = Config::parse("recipe = \"paper\"\nlr = 0.05\nmomentum = 0.85\nseed = 9").unwrap();
        let recipe = config.recipe().unwrap();
        assert_eq!(
            (recipe.lr, recipe.sgd.momentum, recipe.seed, recipe.validation),
            (0.05, 0.85, 9, Validation::HeldOut(5000))
        );
        let effective = config.effective(&recipe).unwrap();
        let again = Config::parse(&effective.to_toml()).unwrap();
        assert_eq!(again, effective);
        assert_eq!(again.recipe().unwrap(), recipe);
        assert!(config.conflicts(&effective).is_empty());
        let folder = Config::parse("validation = \"folder\"").unwrap();
        assert_eq!(folder.recipe().unwrap().validation, Validation::Folder);
        assert_eq!(Config::parse(&folder.to_toml()).unwrap(), folder);
        for text in ["validation = \"none\"", "validation = -1", "validation = true"] {
            assert!(Config::parse(text).unwrap_err().contains("expected a number of images or \"folder\""), "{text}");
        }
        let other = Config { epochs: Some(3), ..Config::default() };
        assert_eq!(other.conflicts(&effective), [("epochs", "3".to_string(), "182".to_string())]);
        assert_eq!(other.clone().or(effective.clone()).epochs, Some(3));
        assert_eq!(Config::default().or(effective.clone()), effective);
        // Both directions, and a key that is missing on one side.
        let edited = Config { epochs: Some(3), seed: None, ..effective.clone() };
        let value = |key, here: &str, there: &str| (key, here.to_string(), there.to_string());
        let expected = [value("epochs", "3", "182"), value("seed", "no value", "9")];
        assert_eq!(edited.differences(&effective), expected);
        assert!(effective.differences(&effective).is_empty());
    }

    #[test]
    fn paths_are_kept_absolute() {
        let text = "data = \"a/b\"\ninit_from = \"pretrained\"";
        let mut config = Config::parse(text).unwrap();
        config.make_paths_absolute().unwrap();
        assert_eq!(config.data.unwrap(), std::env::current_dir().unwrap().join("a/b"));
        assert_eq!(config.init_from.unwrap(), Path::new("pretrained"));
        let mut config = Config::parse("data = \"embedded\"").unwrap();
        config.make_paths_absolute().unwrap();
        assert_eq!(config.data.unwrap(), Path::new("embedded"));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt as _;
            let name = Path::new(std::ffi::OsStr::from_bytes(b"a\xff")).to_path_buf();
            let mut config = Config { data: Some(name), ..Config::default() };
            assert!(config.make_paths_absolute().is_err());
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said_with_its_place() {
        let message = Config::parse("epochs = 3\nlearning_rate = 1\n").unwrap_err();
        assert!(message.contains("line 2") && message.contains("learning_rate"), "{message}");
        for (text, expected) in [
            ("epochs = -1", "integer `-1`, expected a whole number, 0 or above"),
            ("epochs = \"3\"", "string \"3\", expected a whole number, 0 or above"),
            ("epochs = 1.5", "expected a whole number, 0 or above"),
            ("seed = -1", "expected a whole number, 0 or above"),
            ("lr = \"fast\"", "expected a number"),
            ("flip = 1", "expected a boolean"),
            ("mean = 0.5", "expected three numbers, [R, G, B]"),
            ("mean = [0.5]", "expected three numbers, [R, G, B]"),
            ("data = 3", "expected a path as a string"),
        ] {
            let message = Config::parse(text).unwrap_err();
            assert!(message.contains("line 1") && message.ends_with(expected), "{message}");
        }
        let refused = |text: &str| match Config::parse(text).unwrap().recipe() {
            Err(Failure::Usage(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(refused("lr = -1.0").contains("`lr` = -1: expected a number above 0"));
        assert!(refused("model = \"resnt20\"").contains("did you mean `resnet20`?"));
        assert!(refused("schedule = \"cosin\"").contains("cosine"));
        assert!(refused("mean = [0.5, 0.5, 0.5]").contains("together"));
        assert!(refused("epochs = 0").contains("`epochs` = 0"));
        assert!(refused("label_smoothing = 1").contains("`label_smoothing` = 1: expected a number from 0 to below 1"));
        assert!(refused("checkpoint_every = \"10\"").contains("`checkpoint_every` = 10: expected a duration"));
        assert!(refused("keep_checkpoints = 0").contains("`keep_checkpoints` = 0"));
    }
}
