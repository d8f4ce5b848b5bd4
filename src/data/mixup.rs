//! Mixup: training on weighted means of two images (Zhang et al. 2018, arXiv 1710.09412, section 2).
//!
//! ```text
//! λ ~ Beta(α, α)     π a random permutation of the batch
//!
//! x[n]  ← λ x[n] + (1 − λ) x[π(n)]
//! loss  = λ L(logits, t) + (1 − λ) L(logits, t ∘ π)
//! ```
//!
//! The labels are mixed in the same proportion as the images, so the prediction is to change linearly between them. α = 1
//! draws λ uniformly, a small α mixes most batches hardly at all, α = 0 disables mixup. As in the authors' code there is one
//! λ per batch, and the partners come from the batch itself.
//!
//! λ is replaced by max(λ, 1 − λ). That changes nothing: λ and 1 − λ are equally likely, and swapping them exchanges π for
//! π⁻¹, which is equally likely, too. So image n has the larger weight at position n, and its class is the one that the
//! accuracy of an epoch is measured by.
//!
//! The loss is linear in the target, hence the two losses; the trainer adds them and their gradients.
//!
//! λ and π depend on the seed, the epoch and the first image of the batch.

use super::permutation;
use crate::rng::{Purpose, beta, stream};
use crate::{Activation, Error, Result, Scalar};
use ndarray::Axis;
use std::ops::Range;

/// The largest α: with it λ is within 0.07 of 1/2 in 19 of 20 cases.
pub const LARGEST_ALPHA: f64 = 100.0;

/// How the images of a batch are mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// λ in [1/2, 1]: the weight of the image itself.
    pub lambda: f64,
    /// π: the index of the other image in the batch.
    pub partners: Vec<usize>,
}

/// What the loss of mixed images needs.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedTargets {
    /// λ.
    pub lambda: f64,
    /// t ∘ π: the class of the image that each is mixed with.
    pub labels: Vec<usize>,
}

/// Rejects an α that is not in 0..=[`LARGEST_ALPHA`].
///
/// # Errors
/// [`Error::Argument`] with the value found.
pub fn check_alpha(alpha: f64) -> Result<()> {
    if (0.0..=LARGEST_ALPHA).contains(&alpha) {
        return Ok(());
    }
    Err(Error::argument("mixup", format!("expects an alpha from 0 to {LARGEST_ALPHA}, got {alpha}")))
}

impl Mix {
    /// The mix of the `n` images of a batch of `epoch` that begins with image `first` of the data set.
    ///
    /// # Panics
    /// If α is 0 or less, or more than [`LARGEST_ALPHA`].
    pub fn draw(alpha: f64, seed: u64, epoch: u64, first: usize, n: usize) -> Self {
        let mut rng = stream(seed, Purpose::Mixup, &[epoch, first as u64]);
        let lambda = beta(alpha, &mut rng);
        Mix { lambda: lambda.max(1.0 - lambda), partners: permutation(n, &mut rng) }
    }

    /// The images of the batch that the mixed images of `part` are made of, in ascending order.
    pub fn needs(&self, part: Range<usize>) -> Vec<usize> {
        let mut places: Vec<usize> = part.clone().chain(self.partners[part].iter().copied()).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// `λ x[n] + (1 − λ) x[π(n)]` for n in `part`. `x (N, H, W, 3)` are the images that this [`needs`](Self::needs).
    pub fn images<T: Scalar>(&self, x: &Activation<T>, part: Range<usize>) -> Activation<T> {
        let (lambda, rest) = (T::of(self.lambda), T::of(1.0 - self.lambda));
        let places = self.needs(part.clone());
        let image = |n: &usize| x.index_axis(Axis(0), places.binary_search(n).expect("the images that are needed"));
        let (_, h, w, channels) = x.dim();
        let mut mixed = ndarray::Array4::zeros((part.len(), h, w, channels));
        for (n, mut mixed) in part.zip(mixed.outer_iter_mut()) {
            let (own, other) = (image(&n), image(&self.partners[n]));
            ndarray::Zip::from(&mut mixed).and(&own).and(&other).for_each(|y, &a, &b| *y = lambda * a + rest * b);
        }
        mixed.into_shared()
    }

    /// The loss's part of the mix for the images of `part`, of a batch with these classes.
    pub fn targets(&self, labels: &[usize], part: Range<usize>) -> MixedTargets {
        let labels = self.partners[part].iter().map(|&partner| labels[partner]).collect();
        MixedTargets { lambda: self.lambda, labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array4;

    #[test]
    fn images_and_labels_by_hand() {
        let mix = Mix { lambda: 0.75, partners: vec![2, 0, 1] };
        let x = Array4::from_shape_fn((3, 1, 2, 1), |(n, _, w, _)| (4 * n + w) as f64).into_shared();
        let mixed = mix.images(&x, 0..3);
        // 0.75 · [0, 4, 8] + 0.25 · [8, 0, 4], and one more in the second pixel.
        assert_eq!(mixed.iter().copied().collect::<Vec<_>>(), [2.0, 3.0, 3.0, 4.0, 7.0, 8.0]);
        assert_eq!(mix.targets(&[5, 6, 7], 0..3), MixedTargets { lambda: 0.75, labels: vec![7, 5, 6] });
        // The last image alone, which is mixed with the second.
        assert_eq!(mix.needs(2..3), [1, 2]);
        let rest = x.slice(ndarray::s![1.., .., .., ..]).to_owned().into_shared();
        assert_eq!(mix.images(&rest, 2..3).iter().copied().collect::<Vec<_>>(), [7.0, 8.0]);
        assert_eq!(mix.targets(&[5, 6, 7], 2..3).labels, [6]);
    }

    /// E[max(λ, 1 − λ)] is 3/4 for α = 1, and the variance of a uniform number on [1/2, 1] is 1/48; for α towards 0 it is 1, for
    /// a large α it is 1/2.
    #[test]
    fn lambda_has_the_distribution_of_alpha() {
        const DRAWS: usize = 4000;
        let mean = |alpha: f64| {
            let lambda = |i| Mix::draw(alpha, 3, 1, i, 1).lambda;
            let lambdas: Vec<f64> = (0..DRAWS).map(lambda).collect();
            assert!(lambdas.iter().all(|lambda| (0.5..=1.0).contains(lambda)), "{alpha}");
            lambdas.iter().sum::<f64>() / DRAWS as f64
        };
        // Four standard deviations of the mean.
        let tolerance = 4.0 * (1.0 / 48.0 / DRAWS as f64).sqrt();
        assert!((mean(1.0) - 0.75).abs() <= tolerance, "{}", mean(1.0));
        // E|λ − 1/2| ≤ the standard deviation of Beta(α, α), 1/(2√(2α + 1)) = 0.0353 for α = 100.
        assert!(mean(LARGEST_ALPHA) - 0.5 <= 0.0353, "{}", mean(LARGEST_ALPHA));
        // P(0.01 < λ < 0.99) is about α ln(99) = 0.046 for α = 0.01: the mean is above 0.95.
        assert!(mean(0.01) > 0.95 && mean(1e-9) > 0.99, "{} {}", mean(0.01), mean(1e-9));
    }

    #[test]
    fn other_batches_and_epochs_are_mixed_otherwise() {
        let draw = |epoch, first| Mix::draw(1.0, 7, epoch, first, 20);
        assert_eq!(draw(1, 5), draw(1, 5));
        assert!(draw(1, 5) != draw(2, 5) && draw(1, 5) != draw(1, 6));
        let mut partners = draw(1, 5).partners;
        partners.sort_unstable();
        assert_eq!(partners, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn an_alpha_out_of_its_domain_is_refused() {
        for wrong in [-0.1, 101.0, f64::NAN, f64::INFINITY] {
            assert!(check_alpha(wrong).unwrap_err().to_string().contains("from 0 to 100"), "{wrong}");
        }
        assert!([0.0, 1e-9, 1.0, 100.0].into_iter().all(|alpha| check_alpha(alpha).is_ok()));
    }

    /// A seed determines these mixes, on both sides of α = 1, where the algorithm changes. λ is computed with exp and ln, which
    /// C libraries round differently: it may be off by a few units in the last place.
    #[test]
    fn seed_1_means_these_mixes() {
        let expected: [(f64, f64, [usize; 7]); 6] = [
            (0.01, 0.999999999999991, [4, 1, 0, 3, 5, 6, 2]),
            (0.2, 0.8344213690041495, [4, 1, 0, 3, 5, 6, 2]),
            (1.0, 0.815273168894379, [6, 5, 2, 3, 1, 4, 0]),
            (1.5, 0.7706893321480575, [6, 5, 2, 3, 1, 4, 0]),
            (8.0, 0.6282931392325332, [6, 5, 2, 3, 1, 4, 0]),
            (100.0, 0.5370481019018609, [6, 5, 2, 3, 1, 4, 0]),
        ];
        for (alpha, lambda, partners) in expected {
            let mix = Mix::draw(alpha, 1, 2, 3, 7);
            assert!((mix.lambda - lambda).abs() <= 8.0 * f64::EPSILON, "{alpha}: {} instead of {lambda}", mix.lambda);
            assert_eq!(mix.partners, partners, "{alpha}");
        }
    }
}
