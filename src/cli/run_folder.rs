//! The folder of a run.
//!
//! | file | when | what |
//! |---|---|---|
//! | `config.json` | before the first step | everything that decides the result |
//! | `metrics.csv`, `metrics.jsonl` | a line after every epoch | loss, accuracy, learning rate, speed |
//! | `weights.safetensors` | replaced after every epoch | the weights, with what is needed to use them |
//! | `best.safetensors` | when the validation accuracy rises | the same, only with `--validation` |
//! | `result.json` | at the end | the test set's accuracy and loss |
//!
//! Nothing that was there before is ever written to: the folder is new, or was empty.

use resnet_by_hand::formats::{atomic, weights};
use resnet_by_hand::model::ResNet;
use resnet_by_hand::train::{EpochMetrics, Evaluation};
use resnet_by_hand::{Error, Result};
use serde_json::{json, Value};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// The columns of `metrics.csv` and the keys of `metrics.jsonl`.
const COLUMNS: [&str; 11] = [
    "epoch",
    "lr",
    "train_loss",
    "train_top1",
    "train_top5",
    "gradient_norm",
    "images",
    "seconds",
    "images_per_second",
    "validation_loss",
    "validation_top1",
];

/// A run's folder, existing and ours.
pub struct RunFolder {
    path: PathBuf,
    csv: File,
    jsonl: File,
    /// The last checkpoint: after how many epochs, and which files are there.
    saved_epochs: Option<usize>,
}

/// Refuses a folder given with `--out` that has something in it.
pub fn check_out(path: &Path) -> Result<()> {
    let in_use = |what: &str| {
        let message = format!("{what}; nothing was changed. Give another folder with --out, or remove this one");
        Err(Error::format(path, None, message))
    };
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => in_use("expected a new or empty folder, found files in it"),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => in_use("expected a folder, found a file"),
        Err(error) => Err(Error::io(path, "list", error)),
    }
}

impl RunFolder {
    /// Makes the folder `out`, or else `runs/<stem>-<n>` with the first free n.
    pub fn create(out: Option<&Path>, stem: &str) -> Result<Self> {
        let path = match out {
            Some(out) => {
                check_out(out)?;
                fs::create_dir_all(out).map_err(|error| Error::io(out, "create", error))?;
                out.to_path_buf()
            }
            None => first_free(Path::new("runs"), stem)?,
        };
        let create = |name: &str| {
            let path = path.join(name);
            File::create_new(&path).map_err(|error| Error::io(&path, "create", error))
        };
        let (csv, jsonl) = (create("metrics.csv")?, create("metrics.jsonl")?);
        let mut folder = RunFolder { path, csv, jsonl, saved_epochs: None };
        let header = COLUMNS.join(",");
        folder.append_csv(&header)?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn weights(&self) -> PathBuf {
        self.path.join("weights.safetensors")
    }

    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// What is safe on disk, for whoever has to be told that the run has ended.
    pub fn kept(&self) -> String {
        match self.saved_epochs {
            Some(epochs) => format!("the weights after epoch {epochs} are in {}", self.weights().display()),
            None => "no epoch was completed, so no weights were saved".to_string(),
        }
    }

    /// Writes `value` to the file `name`, whole or not at all.
    pub fn write_json(&self, name: &str, value: &Value) -> Result<()> {
        atomic::write(&self.path.join(name), format!("{value:#}\n").as_bytes())
    }

    /// Replaces `weights.safetensors`.
    pub fn save_weights(&mut self, model: &ResNet<f32>, about: &weights::Metadata, epochs: usize) -> Result<()> {
        weights::save(&self.weights(), model, about)?;
        self.saved_epochs = Some(epochs);
        Ok(())
    }

    /// Appends an epoch to both metrics files.
    pub fn append(&mut self, epoch: &EpochMetrics, validation: Option<&Evaluation>) -> Result<()> {
        let values = [
            json!(epoch.epoch + 1),
            json!(epoch.lr),
            json!(epoch.loss),
            json!(epoch.top1),
            json!(epoch.top5),
            json!(epoch.gradient_norm),
            json!(epoch.images),
            json!(epoch.seconds),
            json!(epoch.images_per_second()),
            json!(validation.map(|v| v.loss)),
            json!(validation.map(Evaluation::accuracy)),
        ];
        // Numbers and null: as text they are the same in both formats, but for a missing one.
        let row = values.each_ref().map(|value| if value.is_null() { String::new() } else { value.to_string() });
        self.append_csv(&row.join(","))?;
        let entries = COLUMNS.iter().zip(&values).map(|(key, value)| format!("\"{key}\":{value}"));
        let line = format!("{{{}}}\n", entries.collect::<Vec<_>>().join(","));
        let written = self.jsonl.write_all(line.as_bytes());
        written.map_err(|error| Error::io(self.path.join("metrics.jsonl"), "append to", error))
    }

    fn append_csv(&mut self, line: &str) -> Result<()> {
        // One write for a whole line, and a `File` has no buffer: whoever follows the file never sees half an epoch.
        let written = self.csv.write_all(format!("{line}\n").as_bytes());
        written.map_err(|error| Error::io(self.path.join("metrics.csv"), "append to", error))
    }
}

fn first_free(parent: &Path, stem: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).map_err(|error| Error::io(parent, "create", error))?;
    for n in 1.. {
        let path = parent.join(format!("{stem}-{n}"));
        // Creating is the test: two runs started together get two folders.
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(path, "create", error)),
        }
    }
    unreachable!("some number is free")
}
