//! A run for TensorBoard: `events.out.tfevents.SECONDS.resnet-by-hand` in the run's folder.
//!
//! One record after every epoch, whose step is the number of epochs completed, and one for the test:
//!
//! | name | what |
//! |---|---|
//! | `train/loss`, `train/accuracy`, `train/top5` | of the epoch, measured while the weights change |
//! | `train/learning_rate`, `train/gradient_norm`, `train/images_per_second` | the last step's; the mean over the steps; speed |
//! | `validation/loss`, `validation/accuracy` | where it was measured |
//! | `weight_norm/NAME`, `gradient_norm/NAME`, `update_ratio/NAME` | of every learned tensor: see [`LayerMetrics`] |
//! | `test/loss`, `test/accuracy` | of the weights that were tested |
//!
//! A file is written by one process only. A resumed run starts a new file, and TensorBoard then ignores the records of the
//! earlier files for the epochs that are trained again; the earlier files do not change. An event file contains wall-clock
//! times, so, like `times.csv`, it differs from run to run. The record of the test is written after `result.json`, so no run
//! has two of them; a run that is killed between the two has none.

use crate::formats::tensorboard;
use crate::train::{EpochMetrics, Evaluation, LayerMetrics};
use crate::{Error, Result};
use std::fs;
use std::path::Path;
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

/// The first records of a file that starts after `epochs` epochs.
pub fn beginning(epochs: usize) -> Vec<u8> {
    [tensorboard::version(now()), tensorboard::start(now(), epochs as u64 + 1)].concat()
}

/// The record of an epoch.
pub fn epoch(epoch: &EpochMetrics, validation: Option<&Evaluation>, layers: &[LayerMetrics]) -> Vec<u8> {
    let mut values = vec![
        ("train/loss".to_string(), epoch.loss),
        ("train/accuracy".to_string(), epoch.top1),
        ("train/top5".to_string(), epoch.top5),
        ("train/learning_rate".to_string(), epoch.lr),
        ("train/gradient_norm".to_string(), epoch.gradient_norm),
        ("train/images_per_second".to_string(), epoch.images_per_second()),
    ];
    values.extend(validation.into_iter().flat_map(|found| evaluation("validation", found)));
    for LayerMetrics { parameter, weight_norm, gradient_norm, update_ratio } in layers {
        values.push((format!("weight_norm/{parameter}"), *weight_norm));
        values.push((format!("gradient_norm/{parameter}"), *gradient_norm));
        values.extend(update_ratio.map(|ratio| (format!("update_ratio/{parameter}"), ratio)));
    }
    scalars(epoch.epoch + 1, values)
}

/// The record of the test, after `epochs` epochs.
pub fn test(epochs: usize, found: &Evaluation) -> Vec<u8> {
    scalars(epochs, evaluation("test", found).to_vec())
}

fn evaluation(set: &str, found: &Evaluation) -> [(String, f64); 2] {
    [(format!("{set}/loss"), found.loss), (format!("{set}/accuracy"), found.accuracy())]
}

fn scalars(step: usize, values: Vec<(String, f64)>) -> Vec<u8> {
    let values: Vec<_> = values.into_iter().map(|(name, value)| (name, value as f32)).collect();
    tensorboard::scalars(now(), step as u64, &values)
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
