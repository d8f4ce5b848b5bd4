//! Reads the folder of a run, finished or not. See [`run_folder`](crate::cli::run_folder) for its files.

use super::csv::{self, Line};
use crate::Error;
use crate::cli::config::Config;
use crate::cli::run_folder::{COLUMNS, LAYERS, TIMES};
use crate::cli::{Failure, Result};
use crate::train::{Recipe, Validation};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A run.
pub struct Run {
    pub path: PathBuf,
    /// The folder of the repeated runs that it belongs to, if that folder was given.
    pub repeated: Option<PathBuf>,
    /// Its name among the others.
    pub name: String,
    pub config: Config,
    /// The text of `config.toml`.
    pub config_text: String,
    pub recipe: Recipe,
    pub epochs: Vec<Epoch>,
    pub layers: Layers,
    pub times: Vec<Time>,
    /// `None`: the run is still running, or was interrupted.
    pub result: Option<Outcome>,
}

/// A line of `metrics.csv`.
#[derive(Debug, PartialEq)]
pub struct Epoch {
    pub lr: f64,
    pub train_loss: Option<f64>,
    pub train_top1: f64,
    pub gradient_norm: Option<f64>,
    pub images: usize,
    pub validation_loss: Option<f64>,
    pub validation_top1: Option<f64>,
}

/// `layers.csv`.
#[derive(Debug, Default, PartialEq)]
pub struct Layers {
    /// The learned tensors, in the order of the model.
    pub names: Vec<String>,
    /// `[epoch][tensor]`.
    pub gradient_norm: Vec<Vec<Option<f64>>>,
    pub update_ratio: Vec<Vec<Option<f64>>>,
}

/// A line of `times.csv`.
#[derive(Debug, PartialEq)]
pub struct Time {
    pub seconds: f64,
    pub images_per_second: f64,
}

/// `result.json`.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub test_correct: usize,
    pub test_images: usize,
    pub test_top5: usize,
    /// `None`: it was not finite.
    pub test_loss: Option<f64>,
    pub epochs: usize,
    pub tested_weights_of_epoch: usize,
    pub seconds: f64,
    pub peak_memory_bytes: Option<u64>,
    pub fingerprint: String,
}

impl Run {
    /// Reads the folder.
    pub fn read(path: &Path) -> Result<Self> {
        check_folder(path)?;
        // A run in progress writes these files in the opposite order: an epoch that has a time also has its layers and
        // metrics.
        let times = parse(&path.join("times.csv"), TIMES, |line| {
            Ok(Time { seconds: line.number(1)?, images_per_second: line.number(2)? })
        })?;
        let mut layers = Layers::parse(&path.join("layers.csv"), &read(&path.join("layers.csv"))?)?;
        layers.gradient_norm.truncate(times.len());
        layers.update_ratio.truncate(times.len());
        let epochs = parse(&path.join("metrics.csv"), &COLUMNS.join(","), |line| {
            Ok(Epoch {
                lr: line.number(1)?,
                train_loss: line.maybe(2)?,
                train_top1: line.number(3)?,
                gradient_norm: line.maybe(5)?,
                images: line.count(6)?,
                validation_loss: line.maybe(7)?,
                validation_top1: line.maybe(8)?,
            })
        })?;
        let config_path = path.join("config.toml");
        let config_text = read(&config_path)?;
        let wrong = |message: String| Failure::Failed(format!("{}: {message}", config_path.display()));
        let config = Config::parse(&config_text).map_err(wrong)?;
        let recipe = config.recipe().map_err(|failure| wrong(super::message(failure)))?;
        let result = Outcome::read(&path.join("result.json"))?;
        let name = path.canonicalize().map_err(|error| Error::io(path, "open", error))?;
        let name = name.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into());
        Ok(Run {
            path: path.to_path_buf(),
            repeated: None,
            name,
            config,
            config_text,
            recipe,
            epochs,
            layers,
            times,
            result,
        })
    }

    /// Whether its weights are selected by their accuracy on validation images.
    pub fn has_validation(&self) -> bool {
        self.recipe.validation != Validation::NONE
    }

    /// The epoch with the best validation accuracy so far, counted from 1, and this accuracy.
    pub fn best_epoch(&self) -> Option<(usize, f64)> {
        best(self.epochs.iter().map(|epoch| epoch.validation_top1))
    }

    /// Seconds of all epochs.
    pub fn seconds(&self) -> f64 {
        self.result.as_ref().map_or_else(|| self.times.iter().map(|time| time.seconds).sum(), |result| result.seconds)
    }
}

/// The largest accuracy and its place from 1; the first of equal ones, whose weights are kept.
fn best(accuracies: impl Iterator<Item = Option<f64>>) -> Option<(usize, f64)> {
    let mut best: Option<(usize, f64)> = None;
    for (epoch, accuracy) in (1..).zip(accuracies) {
        if let Some(accuracy) = accuracy.filter(|accuracy| best.is_none_or(|(_, most)| *accuracy > most)) {
            best = Some((epoch, accuracy));
        }
    }
    best
}

fn check_folder(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Failure::Failed(format!("{} does not exist; expected the folder of a run", path.display())));
        }
        Err(error) => return Err(Error::io(path, "open", error).into()),
        Ok(_) => {}
    }
    let missing = ["config.toml", "metrics.csv", "layers.csv", "times.csv"];
    match missing.into_iter().find(|name| !path.join(name).is_file()) {
        None => Ok(()),
        Some(name) => {
            let message = format!("expected the folder of a run of `resnet train`, found no {name} in it");
            Err(Error::format(path, None, message).into())
        }
    }
}

fn read(path: &Path) -> std::result::Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| Error::io(path, "read", error))
}

/// The lines of a file, one for each epoch from the first.
fn parse<T>(path: &Path, columns: &str, value: impl Fn(&Line) -> crate::Result<T>) -> crate::Result<Vec<T>> {
    let text = read(path)?;
    let mut values = Vec::new();
    for line in csv::lines(path, &text, columns)? {
        if line.count(0)? != values.len() + 1 {
            return Err(line.wrong(&format!("epoch {}", values.len() + 1)));
        }
        values.push(value(&line)?);
    }
    Ok(values)
}

impl Layers {
    /// Every tensor for every epoch, except an incomplete last epoch, which is still being written.
    fn parse(path: &Path, text: &str) -> crate::Result<Self> {
        let mut layers = Layers::default();
        let (mut gradients, mut ratios) = (Vec::new(), Vec::new());
        for line in csv::lines(path, text, LAYERS)? {
            let epoch = line.count(0)?;
            // The lines of the first epoch give the names of the tensors.
            let first = layers.gradient_norm.is_empty() && epoch == 1;
            if !first && gradients.len() == layers.names.len() {
                layers.gradient_norm.push(std::mem::take(&mut gradients));
                layers.update_ratio.push(std::mem::take(&mut ratios));
            }
            if first {
                layers.names.push(line.text(1).to_string());
            }
            let (done, next) = (layers.gradient_norm.len(), gradients.len());
            match layers.names.get(next) {
                Some(name) if epoch == done + 1 && name == line.text(1) => {}
                Some(name) => return Err(line.wrong(&format!("`{name}` in epoch {}", done + 1))),
                None => return Err(line.wrong("the lines of epoch 1 first")),
            }
            line.number(2)?;
            gradients.push(line.maybe(3)?);
            ratios.push(line.maybe(4)?);
        }
        if !gradients.is_empty() && gradients.len() == layers.names.len() {
            layers.gradient_norm.push(gradients);
            layers.update_ratio.push(ratios);
        }
        Ok(layers)
    }
}

impl Outcome {
    fn read(path: &Path) -> crate::Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| Error::io(path, "read", error))?,
        };
        let value: Value = serde_json::from_str(&text).map_err(|error| Error::format(path, None, error.to_string()))?;
        let wrong = |key: &str, expected: &str| {
            Error::format(path, None, format!("expected {expected} as `{key}`, found {}", value[key]))
        };
        let whole = |key: &str| value[key].as_u64().ok_or_else(|| wrong(key, "a whole number"));
        let count = |key: &str| Ok::<_, Error>(whole(key)? as usize);
        let outcome = Outcome {
            test_correct: count("test_correct")?,
            test_images: count("test_images")?,
            test_top5: count("test_top5")?,
            test_loss: value["test_loss"].as_f64(),
            epochs: count("epochs")?,
            tested_weights_of_epoch: count("tested_weights_of_epoch")?,
            seconds: value["seconds"].as_f64().ok_or_else(|| wrong("seconds", "a number"))?,
            peak_memory_bytes: value["peak_memory_bytes"].as_u64(),
            fingerprint: value["fingerprint"].as_str().ok_or_else(|| wrong("fingerprint", "a string"))?.to_string(),
        };
        if outcome.test_images == 0 || outcome.test_correct > outcome.test_images {
            return Err(wrong("test_correct", "at most as many images as there are in `test_images`"));
        }
        Ok(Some(outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(rows: &str) -> std::result::Result<Layers, String> {
        let text = format!("{LAYERS}\n{rows}");
        Layers::parse(Path::new("layers.csv"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_best_epoch_is_the_first_of_the_best() {
        let found = best([None, Some(0.25), Some(0.5), None, Some(0.5), Some(0.375)].into_iter());
        assert_eq!(found, Some((3, 0.5)));
        assert_eq!(best([None, None].into_iter()), None);
    }

    #[test]
    fn layers_are_read_epoch_by_epoch() {
        let read = layers("1,a,1,2,\n1,b,1,3,0.5\n2,a,1,4,0.25\n2,b,1,0,0.125\n").unwrap();
        assert_eq!(read.names, ["a", "b"]);
        assert_eq!(read.gradient_norm, [[Some(2.0), Some(3.0)], [Some(4.0), Some(0.0)]]);
        assert_eq!(read.update_ratio, [[None, Some(0.5)], [Some(0.25), Some(0.125)]]);
        // An epoch that is still being written.
        let part = layers("1,a,1,2,\n1,b,1,3,0.5\n2,a,1,4,0.25\n2,b,1,").unwrap();
        assert_eq!((part.names.len(), part.gradient_norm.len(), part.update_ratio.len()), (2, 1, 1));
        assert_eq!(layers("").unwrap(), Layers::default());
    }

    #[test]
    fn layers_in_another_order_are_refused() {
        let message = |rows| layers(rows).unwrap_err();
        assert!(message("1,a,1,2,\n1,b,1,3,\n2,b,1,4,\n").contains("line 4: expected `a` in epoch 2"));
        assert!(message("1,a,1,2,\n1,b,1,3,\n3,a,1,4,\n").contains("line 4: expected `a` in epoch 2"));
        assert!(message("1,a,1,2,\n1,b,1,3,\n2,a,1,4,\n3,a,1,4,\n").contains("line 5: expected `b` in epoch 2"));
        assert!(message("2,a,1,2,\n").contains("line 2: expected the lines of epoch 1 first"));
    }
}
