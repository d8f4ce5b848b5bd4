//! The weights files of a run: what they contain about their origin, and how they are written again from a checkpoint.

use crate::cli::Result;
use crate::cli::args::write_three;
use crate::cli::run_folder::{COLUMNS, RunFolder};
use crate::data::Dataset;
use crate::train::checkpoint::Checkpoint;
use crate::train::{EpochMetrics, Evaluation, Recipe, Trainer};
use crate::weights::{self, Metadata};
use serde_json::json;
use std::path::PathBuf;

/// What a weights file contains about its epoch.
#[derive(Debug, PartialEq)]
pub struct Scores {
    /// Counted from 1.
    epoch: usize,
    loss: f64,
    top1: f64,
    /// Loss and accuracy on the validation images.
    validation: Option<[f64; 2]>,
}

impl Scores {
    pub fn of(epoch: &EpochMetrics, validated: Option<&Evaluation>) -> Self {
        let validation = validated.map(|found| [found.loss, found.accuracy()]);
        Scores { epoch: epoch.epoch + 1, loss: epoch.loss, top1: epoch.top1, validation }
    }

    /// Those of an epoch, counted from 1, in the text of `metrics.csv`.
    fn read(metrics: &str, epoch: usize) -> Option<Self> {
        let cells: Vec<&str> = metrics.lines().nth(epoch)?.split(',').collect();
        let value = |name: &str| {
            let column = COLUMNS.iter().position(|column| *column == name)?;
            cells.get(column)?.parse::<f64>().ok()
        };
        let validation = value("validation_loss").zip(value("validation_top1")).map(|(loss, top1)| [loss, top1]);
        let (loss, top1) = (value("train_loss")?, value("train_top1")?);
        Some(Scores { epoch, loss, top1, validation })
    }

    /// What is needed to use the weights, and their origin. No times, so that the same run writes the same bytes.
    pub fn metadata(&self, recipe: &Recipe, test: &Dataset) -> Metadata {
        let classes = &test.classes;
        let mut about = Metadata::from(
            [
                ("model", recipe.model.clone()),
                ("classes", classes.len().to_string()),
                ("class_names", json!(classes).to_string()),
                ("image_size", test.pixels.dim().1.to_string()),
                ("mean", write_three(recipe.normalization.mean())),
                ("std", write_three(recipe.normalization.std())),
                ("recipe", recipe.name.clone()),
                ("seed", recipe.seed.to_string()),
                ("epoch", self.epoch.to_string()),
                ("epochs", recipe.epochs.to_string()),
                ("train_loss", self.loss.to_string()),
                ("train_accuracy", self.top1.to_string()),
            ]
            .map(|(key, value)| (key.to_string(), value)),
        );
        if let Some([loss, accuracy]) = self.validation {
            about.insert("validation_loss".to_string(), loss.to_string());
            about.insert("validation_accuracy".to_string(), accuracy.to_string());
        }
        about
    }
}

/// The weights files that are not in the folder although the checkpoint contains their weights. Within an epoch it contains
/// those of no file but the best ones.
pub fn missing(folder: &RunFolder, checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let position = checkpoint.position;
    let weights = (position.step == 0 && position.epoch > 0).then(|| folder.weights());
    let best = checkpoint.best.as_ref().map(|_| folder.best());
    [weights, best].into_iter().flatten().filter(|file| !file.exists()).collect()
}

/// Writes them again, with the same bytes, and returns them. The trainer is at the position of the checkpoint.
pub fn restore(
    folder: &RunFolder,
    checkpoint: &Checkpoint,
    trainer: &Trainer<f32>,
    test: &Dataset,
) -> Result<Vec<PathBuf>> {
    let missing = missing(folder, checkpoint);
    let metrics = checkpoint.files.iter().find(|(name, _)| name == "metrics.csv");
    let metrics = metrics.map_or("", |(_, content)| content);
    for file in &missing {
        let mut model = trainer.result();
        let epoch = match &checkpoint.best {
            Some(best) if *file == folder.best() => {
                Checkpoint::load(file, &best.weights, &mut model)?;
                best.epoch
            }
            _ => trainer.epoch(),
        };
        let about = Scores::read(metrics, epoch).map(|scores| scores.metadata(trainer.recipe(), test));
        weights::save(file, &model, &about.unwrap_or_default())?;
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scores_of_an_epoch_are_those_in_the_metrics() {
        let metrics =
            format!("{}\n1,0.1,2.25,0.5,1.0,3.0,40,,\n2,0.1,1e-7,0.1,1.0,3.0,40,0.75,0.3\n", COLUMNS.join(","));
        let first = Scores { epoch: 1, loss: 2.25, top1: 0.5, validation: None };
        assert_eq!(Scores::read(&metrics, 1), Some(first));
        let second = Scores { epoch: 2, loss: 1e-7, top1: 0.1, validation: Some([0.75, 0.3]) };
        assert_eq!(Scores::read(&metrics, 2), Some(second));
        assert_eq!(Scores::read(&metrics, 0), None);
        assert_eq!(Scores::read(&metrics, 3), None);
    }
}
