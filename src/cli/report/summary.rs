//! Statistics of runs.

use super::run::Run;

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
        // The configurations of repeated runs may differ in mean and standard deviation of the images: if validation images
        // are held out, the seed decides which ones.
        let alike = |j: usize| {
            if run.repeated.is_some() {
                return runs[j].repeated == run.repeated;
            }
            let mut config = runs[j].config.clone();
            config.seed = run.config.seed;
            config == run.config
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

#[cfg(test)]
mod tests {
    use super::*;

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
