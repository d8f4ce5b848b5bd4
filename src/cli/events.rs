//! A run for TensorBoard: files `events.out.tfevents.SECONDS.resnet-by-hand` in the run's folder and in three subfolders.
//!
//! TensorBoard treats a folder with event files as a run of its own, and shows values of the same name from several runs in
//! one card. So training, validation and test are in a folder each, with the same names:
//!
//! | folder | name | what |
//! |---|---|---|
//! | `train/` | `epoch/loss`, `epoch/accuracy`, `epoch/top5` | of the epoch, measured while the weights change |
//! | | `epoch_details/learning_rate`, `…/gradient_norm`, `…/images_per_second` | the last step's; the mean over the steps; speed |
//! | | `weight_norm/NAME`, `gradient_norm/NAME`, `update_ratio/NAME` | of every learned tensor: see [`LayerMetrics`] |
//! | `validation/` | `epoch/loss`, `epoch/accuracy`, `epoch/top5` | where it was measured |
//! | `test/` | the same | of the weights that were tested, at the end |
//! | the run's folder | | the settings, for the tab HPARAMS, and at the end that the run is complete |
//!
//! TensorBoard groups names by the part before the first `/` and sorts the groups, so `epoch` comes first and the norms of the
//! layers last.
//!
//! There is one record after every epoch, whose step is the number of epochs completed. A file is written by one process
//! only. A resumed run starts new files, and TensorBoard then ignores the records of the earlier files for the epochs that
//! are trained again; the earlier files do not change. An event file contains wall-clock times, so, like `times.csv`, it
//! differs from run to run. The record of the test is written after `result.json`, so no run has two of them; a run that is
//! killed between the two has none.

use crate::formats::tensorboard::hparams::{self, Metric, Setting};
use crate::formats::tensorboard::{self, scalars};
use crate::train::{EpochMetrics, Evaluation, LayerMetrics};
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const BEFORE: &str = "events.out.tfevents.";
const BEHIND: &str = ".resnet-by-hand";

/// A name for a new event file in `folder`. TensorBoard reads files in the order of their names, so this name sorts after
/// the existing ones, even if the clock has been set back.
pub fn new_name(folder: &Path) -> Result<String> {
    let failed = |error| Error::io(folder, "list", error);
    let mut seconds = now() as u64;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let earlier = name.to_str().and_then(seconds_of);
        seconds = seconds.max(earlier.map_or(0, |earlier| earlier.saturating_add(1)));
    }
    Ok(format!("{BEFORE}{seconds:010}{BEHIND}"))
}

/// Whether a file of this name is one of a run.
pub fn is_name(name: &str) -> bool {
    seconds_of(name).is_some()
}

fn seconds_of(name: &str) -> Option<u64> {
    name.strip_prefix(BEFORE)?.strip_suffix(BEHIND)?.parse().ok()
}

/// Settings that change no result.
const NO_HYPERPARAMETERS: [&str; 5] = ["data", "eval_batch_size", "save_every", "checkpoint_every", "keep_checkpoints"];

/// The settings in the first columns; TensorBoard hides most of the others at first.
const FIRST: [&str; 5] = ["model", "lr", "batch_size", "epochs", "seed"];

/// The results beside the settings.
const METRICS: [Metric; 6] = [
    Metric { run: "test", tag: "epoch/accuracy", title: "test accuracy" },
    Metric { run: "test", tag: "epoch/loss", title: "test loss" },
    Metric { run: "validation", tag: "epoch/accuracy", title: "validation accuracy" },
    Metric { run: "validation", tag: "epoch/loss", title: "validation loss" },
    Metric { run: "train", tag: "epoch/accuracy", title: "training accuracy" },
    Metric { run: "train", tag: "epoch/loss", title: "training loss" },
];

/// The event files of this process.
pub struct Events {
    folder: PathBuf,
    /// The same in every folder.
    name: String,
}

impl Events {
    /// New files for the run in `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        Ok(Events { folder: folder.to_path_buf(), name: new_name(folder)? })
    }

    /// Writes the settings: those of `config.toml`.
    pub fn begin(&self, config: &str) -> Result<()> {
        let table: toml::Table = toml::from_str(config).unwrap_or_default();
        let settings = table.into_iter().filter(|(name, _)| !NO_HYPERPARAMETERS.contains(&name.as_str()));
        let mut settings: Vec<_> = settings.map(|(name, value)| (name, setting(value))).collect();
        settings.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
        // Without a temporary file: TensorBoard would read that one too, and then ignore all files that sort before it.
        let bytes = [tensorboard::version(now()), hparams::begin(now(), &settings, &METRICS)].concat();
        write(&self.folder.join(&self.name), &bytes)
    }

    /// Writes an epoch.
    pub fn epoch(&self, epoch: &EpochMetrics, validation: Option<&Evaluation>, layers: &[LayerMetrics]) -> Result<()> {
        let mut values = vec![
            ("epoch/loss".to_string(), epoch.loss),
            ("epoch/accuracy".to_string(), epoch.top1),
            ("epoch/top5".to_string(), epoch.top5),
            ("epoch_details/learning_rate".to_string(), epoch.lr),
            ("epoch_details/gradient_norm".to_string(), epoch.gradient_norm),
            ("epoch_details/images_per_second".to_string(), epoch.images_per_second()),
        ];
        for LayerMetrics { parameter, weight_norm, gradient_norm, update_ratio } in layers {
            values.push((format!("weight_norm/{parameter}"), *weight_norm));
            values.push((format!("gradient_norm/{parameter}"), *gradient_norm));
            values.extend(update_ratio.map(|ratio| (format!("update_ratio/{parameter}"), ratio)));
        }
        self.add("train", epoch.epoch + 1, values)?;
        validation.map_or(Ok(()), |found| self.add("validation", epoch.epoch + 1, evaluation(found)))
    }

    /// Writes the test, after `epochs` epochs, and that the run is complete.
    pub fn test(&self, epochs: usize, found: &Evaluation) -> Result<()> {
        self.add("test", epochs, evaluation(found))?;
        write(&self.folder.join(&self.name), &hparams::end(now()))
    }

    /// Adds a record to this process's file in the folder `run`. Its first one marks the step from which the files of earlier
    /// processes no longer count.
    fn add(&self, run: &str, step: usize, values: Vec<(String, f64)>) -> Result<()> {
        let (folder, step) = (self.folder.join(run), step as u64);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Error::io(folder, "create", error)),
            _ => {}
        }
        let (path, mut bytes) = (folder.join(&self.name), Vec::new());
        if !path.exists() {
            bytes = [tensorboard::version(now()), tensorboard::start(now(), step)].concat();
        }
        let values: Vec<_> = values.into_iter().map(|(name, value)| (name, value as f32)).collect();
        bytes.extend(scalars(now(), step, &values));
        write(&path, &bytes)
    }
}

/// A single write for a whole epoch, so that a reader of the file never sees half an epoch. It is synced: unlike the other
/// files of a run, this one is not in the checkpoint that follows.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = File::options().append(true).create(true).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_data()));
    written.map_err(|error| Error::io(path, "append to", error))
}

fn setting(value: toml::Value) -> Setting {
    match value {
        toml::Value::Boolean(yes) => Setting::Bool(yes),
        toml::Value::Integer(number) => Setting::Number(number as f64),
        toml::Value::Float(number) => Setting::Number(number),
        toml::Value::String(text) => Setting::Text(text),
        other => Setting::Text(other.to_string()),
    }
}

fn evaluation(found: &Evaluation) -> Vec<(String, f64)> {
    let top5 = found.top5 as f64 / found.images() as f64;
    [("loss", found.loss), ("accuracy", found.accuracy()), ("top5", top5)]
        .map(|(name, value)| (format!("epoch/{name}"), value))
        .to_vec()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_name_is_behind_those_that_are_there() {
        let folder = std::env::temp_dir().join(format!("resnet-by-hand-events-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let name = |seconds: u64| format!("events.out.tfevents.{seconds:010}.resnet-by-hand");
        fs::write(folder.join(name(1)), "").unwrap();
        fs::write(folder.join("events.out.tfevents.9000000009.other"), "").unwrap();
        let first = new_name(&folder).unwrap();
        assert!(first > name(1_700_000_000) && first < name(9_000_000_000), "{first}");
        // A clock that was set back.
        fs::write(folder.join(name(9_000_000_000)), "").unwrap();
        assert_eq!(new_name(&folder).unwrap(), name(9_000_000_001));
        fs::remove_dir_all(&folder).unwrap();
    }
}
