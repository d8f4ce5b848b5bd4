//! Statistics of runs.

use super::run::Run;
use crate::cli::config::Config;

/// The standard error of an accuracy of `correct` out of `images`: √(p (1 − p) / n) for a share p of n independent draws.
pub fn standard_error(correct: usize, images: usize) -> f64 {
    let p = correct as f64 / images as f64;
    (p * (1.0 - p) / images as f64).sqrt()
}

/// Mean, and standard deviation with n − 1 in the denominator.
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// The median of the values (of an even number, the mean of the middle two), the smallest and the largest.
pub fn median_and_range(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    Some([median, first, last])
}

/// Groups of two or more finished runs that differ only in the seed. Of runs with the same seed only the first counts:
/// the others are the same run again.
pub fn by_seed(runs: &[&Run]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, run) in runs.iter().enumerate().filter(|(_, run)| run.result.is_some()) {
        let alike = |j: usize| {
            let repeated = run.repeated.is_some() && runs[j].repeated == run.repeated;
            common(run, repeated) == common(runs[j], repeated)
        };
        match groups.iter_mut().find(|group| alike(group[0])) {
            Some(group) if group.iter().any(|&j| runs[j].recipe.seed == run.recipe.seed) => {}
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// The settings that runs must have in common to differ only in the seed. Those of repeated runs may differ in mean and
/// standard deviation of the images: if validation images are held out, the seed decides which ones.
fn common(run: &Run, repeated: bool) -> Config {
    let mut config = run.config.clone();
    config.take_without_effect();
    config.seed = None;
    if repeated {
        (config.mean, config.std) = (None, None);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::super::run::{Layers, Outcome};
    use super::*;
    use std::path::PathBuf;

    /// A finished run with these settings, perhaps one of the repeated runs in a folder.
    fn run(config: &str, repeated: Option<&str>) -> Run {
        let config = Config::parse(config).unwrap();
        let result = Outcome {
            test_correct: 1,
            test_images: 2,
            test_top5: 2,
            test_loss: None,
            epochs: 1,
            tested_weights_of_epoch: 1,
            seconds: 1.0,
            peak_memory_bytes: None,
            fingerprint: String::new(),
        };
        Run {
            path: PathBuf::new(),
            repeated: repeated.map(PathBuf::from),
            name: String::new(),
            config_text: config.to_toml(),
            recipe: config.recipe().unwrap(),
            config,
            epochs: Vec::new(),
            layers: Layers::default(),
            times: Vec::new(),
            result: Some(result),
        }
    }

    #[test]
    fn runs_are_alike_by_what_can_change_their_results() {
        let groups = |runs: &[Run]| by_seed(&runs.iter().collect::<Vec<_>>());
        let none: [Vec<usize>; 0] = [];
        let plain = || run("seed = 1", None);
        let saved = "seed = 2\nsave_every = 3\nkeep_checkpoints = 9\ncheckpoint_every = \"1m\"\neval_batch_size = 7";
        assert_eq!(groups(&[plain(), run(saved, None)]), [[0, 1]]);
        assert_eq!(groups(&[plain(), run("seed = 2\nlr = 0.3", None)]), none);
        assert_eq!(groups(&[plain(), run("seed = 2\ndata = \"other\"", None)]), none);
        let mean = "seed = 2\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]";
        assert_eq!(groups(&[plain(), run(mean, None)]), none);
        assert_eq!(groups(&[run("seed = 1", Some("all")), run(mean, Some("all"))]), [[0, 1]]);
        // One of the repeated runs was lengthened.
        assert_eq!(groups(&[run("seed = 1\nepochs = 2", Some("all")), run("seed = 2", Some("all"))]), none);
    }

    #[test]
    fn by_hand() {
        // p = 0.9, n = 100: √(0.09 / 100) = 0.03.
        assert!((standard_error(90, 100) - 0.03).abs() < 1e-15);
        assert_eq!(standard_error(7, 7), 0.0);
        // 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, over 2.
        assert_eq!(mean_and_deviation(&[1.0, 2.0, 6.0]), (3.0, 7f64.sqrt()));
        assert_eq!(median_and_range(&[3.0, 1.0, 2.0]), Some([2.0, 1.0, 3.0]));
        assert_eq!(median_and_range(&[3.0, 1.0]), Some([2.0, 1.0, 3.0]));
        assert_eq!(median_and_range(&[]), None);
    }
}
