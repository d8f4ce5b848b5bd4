//! From bytes to batches.
//!
//! Reading order, following one image:
//!
//! 1. [`cifar10`] finds the data set in any of its four published forms and converts its records to a [`Dataset`]:
//!    bytes in `(N, H, W, 3)`, channels last. [`embedded`] is a small real part of it inside the program; [`cifar100`]
//!    reads CIFAR-100, and with the feature `formats` the module `folder` reads pictures of any size. [`open()`] detects
//!    what is at a path;
//! 2. [`augment`] cuts a randomly shifted window out of an image and may mirror it;
//! 3. [`Normalization`] converts bytes to floats around zero;
//! 4. [`loader`] does 2 and 3 for one batch after another on a separate thread, while the network computes.
//!
//! Pictures that do not fit into memory are decoded when they are used (`on_disk`), with the same results.
//!
//! Everything random is a function of (seed, purpose, epoch, image), see [`crate::rng`]: an image looks the same in
//! epoch 7 whatever the batch size, the order, the number of threads, or the epoch the run was resumed in.

pub mod augment;
mod cifar;
pub mod cifar10;
pub mod cifar100;
pub mod embedded;
#[cfg(feature = "formats")]
pub mod folder;
mod framing;
pub mod loader;
pub mod mixup;
mod normalization;
mod on_disk;
mod open;
#[cfg(feature = "formats")]
pub mod picture;

pub use augment::Augmentation;
pub use framing::Framing;
pub use loader::{Batch, Epoch, Loader};
pub use normalization::{Normalization, NormalizationTable};
pub use open::{Kind, Opened, open};

use on_disk::OnDisk;

use crate::rng::{Purpose, stream};
use crate::{Error, Result};
use ndarray::{Array4, ArrayView3, Axis};

/// Images and their classes.
///
/// ```
/// let splits = resnet_by_hand::data::embedded::load();
/// let first = splits.train.image(0);
/// assert_eq!(first.shape(), [32, 32, 3]);
/// assert_eq!(splits.train.classes[usize::from(splits.train.labels[0])], "airplane");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Pixels `(N, H, W, 3)`: red, green, blue from 0 to 255. Of a folder of pictures that is larger than the memory given to
    /// [`open()`] only those of the first images; [`images`](Self::images) returns any.
    pub pixels: Array4<u8>,
    /// The class of every image, an index into `classes`.
    pub labels: Vec<u16>,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// The source of the images, for messages.
    pub source: String,
    /// The files, if not all images are in memory.
    on_disk: Option<OnDisk>,
}

/// A data set, split as its authors did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits {
    /// The images for training.
    pub train: Dataset,
    /// The images to choose by, such as the best epoch; most data sets have none, and a part of `train` can be held out.
    pub validation: Option<Dataset>,
    /// The images for the final evaluation; choosing anything by them invalidates it.
    pub test: Dataset,
}

impl Dataset {
    /// Creates a data set.
    ///
    /// # Errors
    /// [`Error::Shape`] when the pixels do not have three channels or the labels are not one per image,
    /// [`Error::Argument`] when a label is not a class.
    pub fn new(pixels: Array4<u8>, labels: Vec<u16>, classes: Vec<String>, source: impl Into<String>) -> Result<Self> {
        // The loader reads images as slices.
        let contiguous = pixels.is_standard_layout();
        let pixels = if contiguous { pixels } else { pixels.as_standard_layout().into_owned() };
        let dataset = Dataset { pixels, labels, classes, source: source.into(), on_disk: None };
        dataset.check()?;
        Ok(dataset)
    }

    /// Rejects a data set that [`new`](Self::new) cannot return.
    fn check(&self) -> Result<()> {
        let (in_memory, _, _, channels) = self.pixels.dim();
        let n = self.on_disk.as_ref().map_or(in_memory, OnDisk::len);
        if channels != 3 || !self.pixels.is_standard_layout() {
            return Err(Error::shape("Dataset", "pixels", "contiguous (N, H, W, 3)", self.pixels.shape()));
        }
        if self.labels.len() != n {
            return Err(Error::shape("Dataset", "labels", format!("N = {n}"), &[self.labels.len()]));
        }
        if let Some(i) = self.labels.iter().position(|&label| usize::from(label) >= self.classes.len()) {
            let message = format!("label {} of image {i} is not one of {} classes", self.labels[i], self.classes.len());
            return Err(Error::argument("Dataset", message));
        }
        Ok(())
    }

    /// Number of images N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The number of images of each class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        self.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
        counts
    }

    /// The i-th image `(H, W, 3)`.
    ///
    /// # Panics
    /// If there are not more than `i` images in memory.
    pub fn image(&self, i: usize) -> ArrayView3<'_, u8> {
        self.pixels.index_axis(Axis(0), i)
    }

    /// The images with these indices, in this order; an index may occur more than once.
    ///
    /// # Errors
    /// [`Error::Argument`] for an index out of range.
    pub fn subset(&self, indices: &[usize]) -> Result<Dataset> {
        if let Some(index) = indices.iter().find(|&&index| index >= self.len()) {
            let message = format!("expected indices below {}, got {index}", self.len());
            return Err(Error::argument("Dataset::subset", message));
        }
        // In memory are the first images of a data set, here as there.
        let kept = indices.iter().take_while(|&&i| i < self.in_memory()).count();
        let on_disk = self.on_disk.as_ref().filter(|_| kept < indices.len());
        Ok(Dataset {
            pixels: self.pixels.select(Axis(0), &indices[..kept]),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            classes: self.classes.clone(),
            source: format!("{} of {} images of {}", indices.len(), self.len(), self.source),
            on_disk: on_disk.map(|files| files.subset(indices)),
        })
    }

    /// Holds `count` images out for validation: `(train, validation)`.
    ///
    /// The last `count` of a random permutation that depends on `seed` alone; both parts keep the order of the data
    /// set.
    ///
    /// # Errors
    /// [`Error::Argument`] when no images would be left for training, `count >= len`.
    pub fn split_validation(&self, count: usize, seed: u64) -> Result<(Dataset, Dataset)> {
        if count >= self.len() {
            let message = format!("expected fewer than {} images held out, got {count}", self.len());
            return Err(Error::argument("Dataset::split_validation", message));
        }
        let mut order = permutation(self.len(), &mut stream(seed, Purpose::Validation, &[]));
        let mut held_out = order.split_off(self.len() - count);
        order.sort_unstable();
        held_out.sort_unstable();
        Ok((self.subset(&order)?, self.subset(&held_out)?))
    }

    /// Mean and (population) standard deviation of every channel over all pixels of all images, on the scale 0 to 1, to
    /// normalize with.
    ///
    /// # Errors
    /// [`Error::Argument`] when there is no pixel or a channel has the same value everywhere; as [`images`](Self::images).
    pub fn channel_statistics(&self) -> Result<Normalization> {
        let (mean, std) = self.mean_and_std()?;
        Normalization::new(mean, std)
    }

    /// The same as plain floats, without checks: NaN when there is no pixel, a deviation of 0 for a channel that has the same
    /// value everywhere.
    ///
    /// With S = Σp and Q = Σp² over the M = N·H·W bytes p of a channel,
    ///
    /// ```text
    /// mean = S / (255 M)        std = √(M·Q − S²) / (255 M)
    /// ```
    ///
    /// S, Q and M·Q − S² are integers and computed as such, so there is no cancellation: each result is within a
    /// few units in the last place.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn mean_and_std(&self) -> Result<([f64; 3], [f64; 3])> {
        let mut sums = [0u64; 3];
        let mut squares = [0u64; 3]; // 255² · M < 2⁶⁴ for any M below 2.8e14.
        let mut m: u128 = 0;
        self.for_each_image(|image| {
            for pixel in image.chunks_exact(3) {
                for (c, &p) in pixel.iter().enumerate() {
                    let p = u64::from(p);
                    sums[c] += p;
                    squares[c] += p * p;
                }
            }
            m += image.len() as u128 / 3;
        })?;
        let scale = 255.0 * m as f64;
        let mean = sums.map(|s| s as f64 / scale);
        let std = [0, 1, 2].map(|c| {
            let (s, q) = (u128::from(sums[c]), u128::from(squares[c]));
            // Not negative: Cauchy-Schwarz.
            ((m * q - s * s) as f64).sqrt() / scale
        });
        Ok((mean, std))
    }
}

/// A random order of `0..n`: Fisher & Yates, every order equally likely.
///
/// Written here, like [`below`], because a seed must give the same order in every future version of the crate, which
/// libraries guarantee for their generators but not for the functions built on them.
pub(crate) fn permutation(n: usize, rng: &mut crate::rng::Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, below(last as u64 + 1, rng) as usize);
    }
    order
}

/// An integer in `0..bound`, each equally likely (Lemire 2019, arXiv:1805.10941, algorithm 5).
///
/// r uniform in [0, 2⁶⁴) gives ⌊r·bound/2⁶⁴⌋. Each result then corresponds to ⌊2⁶⁴/bound⌋ values of r or one more; drawing
/// again when the fraction is below 2⁶⁴ mod bound removes the extra one.
pub(crate) fn below(bound: u64, rng: &mut crate::rng::Rng) -> u64 {
    loop {
        let product = u128::from(rng.next_u64()) * u128::from(bound);
        // wrapping_neg(bound) = 2⁶⁴ − bound, which is 2⁶⁴ mod bound after the division.
        if product as u64 >= bound.wrapping_neg() % bound {
            return (product >> 64) as u64;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ndarray::Array;

    /// `n` images of `h` x `w`; every byte is a different function of its position, as far as a byte allows.
    pub(crate) fn counting(n: usize, h: usize, w: usize) -> Dataset {
        let pixels =
            Array::from_shape_fn((n, h, w, 3), |(i, y, x, c)| ((i * 71 + y * 31 + x * 7 + c * 101) % 251) as u8);
        let labels = (0..n).map(|i| (i % 10) as u16).collect();
        let classes = cifar10::CLASSES.map(String::from).to_vec();
        Dataset::new(pixels, labels, classes, "counting").unwrap()
    }

    #[test]
    fn a_dataset_must_be_consistent() {
        let classes = vec!["a".to_string(), "b".to_string()];
        let new = |shape, labels: &[u16]| Dataset::new(Array4::zeros(shape), labels.to_vec(), classes.clone(), "");
        assert!(new((2, 4, 4, 3), &[0, 1]).is_ok());
        let message = |result: Result<Dataset>| result.unwrap_err().to_string();
        assert!(message(new((2, 4, 4, 1), &[0, 1])).contains("(N, H, W, 3), got shape [2, 4, 4, 1]"));
        assert!(message(new((2, 4, 4, 3), &[0])).contains("N = 2, got shape [1]"));
        assert!(message(new((2, 4, 4, 3), &[0, 2])).contains("label 2 of image 1 is not one of 2 classes"));
    }

    #[test]
    fn subsets_keep_image_and_label_together() {
        let dataset = counting(12, 2, 3);
        let subset = dataset.subset(&[11, 3, 3]).unwrap();
        assert_eq!(subset.labels, [1, 3, 3]);
        for (position, index) in [11, 3, 3].into_iter().enumerate() {
            assert_eq!(subset.image(position), dataset.image(index));
        }
        assert!(dataset.subset(&[12]).unwrap_err().to_string().contains("expected indices below 12, got 12"));
        assert!(dataset.subset(&[]).unwrap().is_empty());
    }

    #[test]
    fn validation_is_a_disjoint_reproducible_part() {
        // Labelled by index: 200 one-pixel images whose red is the index.
        let pixels = Array::from_shape_fn((200, 1, 1, 3), |(i, _, _, _)| i as u8);
        let dataset = Dataset::new(pixels, vec![0; 200], vec!["a".into()], "").unwrap();
        let reds = |d: &Dataset| d.pixels.outer_iter().map(|image| image[[0, 0, 0]]).collect::<Vec<_>>();
        let (train, validation) = dataset.split_validation(50, 1).unwrap();
        assert_eq!((train.len(), validation.len()), (150, 50));
        let mut all = [reds(&train), reds(&validation)].concat();
        all.sort_unstable();
        assert_eq!(all, (0..200).collect::<Vec<u8>>());
        let held_out = |seed| reds(&dataset.split_validation(50, seed).unwrap().1);
        assert_eq!(held_out(1), held_out(1));
        assert_ne!(held_out(1), held_out(2));
        // Random, not simply the first or last 50.
        assert!(reds(&validation).iter().any(|&i| i < 100) && reds(&validation).iter().any(|&i| i >= 100));
        assert!(dataset.split_validation(200, 1).is_err() && dataset.split_validation(199, 1).is_ok());
    }

    #[test]
    fn statistics_of_two_pixels_by_hand() {
        // Channel values (0, 255), (51, 153), (100, 101): means 1/2, 2/5, 201/510; deviations 1/2, 1/5, 1/510.
        let pixels = Array::from_shape_vec((2, 1, 1, 3), vec![0, 51, 100, 255, 153, 101]).unwrap();
        let dataset = Dataset::new(pixels, vec![0, 0], vec!["a".into()], "").unwrap();
        let statistics = dataset.channel_statistics().unwrap();
        assert_eq!(statistics.mean(), [0.5, 0.4, 201.0 / 510.0]);
        assert_eq!(statistics.std(), [0.5, 0.2, 1.0 / 510.0]);
        assert!(dataset.subset(&[0]).unwrap().channel_statistics().is_err(), "a constant channel has no scale");
        assert!(dataset.subset(&[]).unwrap().channel_statistics().is_err());
    }

    #[test]
    fn statistics_of_the_embedded_images_against_two_passes() {
        let train = embedded::load().train;
        let statistics = train.channel_statistics().unwrap();
        for c in 0..3 {
            let values: Vec<f64> = train.pixels.index_axis(Axis(3), c).iter().map(|&p| f64::from(p) / 255.0).collect();
            let m = values.len() as f64;
            let mean = values.iter().sum::<f64>() / m;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / m;
            // A plain sum of M = 1.4e6 terms in [0, 1] is off by at most M·u relative: 1.6e-10.
            assert!((statistics.mean()[c] - mean).abs() <= 1.6e-10);
            assert!((statistics.std()[c] - variance.sqrt()).abs() <= 1.6e-10);
            // They are photographs of CIFAR-10: close to the statistics of all 50,000.
            assert!((statistics.mean()[c] - Normalization::CIFAR10.mean()[c]).abs() < 0.02);
            assert!((statistics.std()[c] - Normalization::CIFAR10.std()[c]).abs() < 0.02);
        }
    }

    #[test]
    fn permutations_are_permutations_and_evenly_distributed() {
        // 6000 orders of three: each of the six about 1000 times, standard deviation 29.
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            *counts.entry(permutation(3, &mut stream(seed, Purpose::Shuffle, &[0]))).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&count: &i32| (count - 1000).abs() < 150), "{counts:?}");
        assert_eq!(permutation(0, &mut stream(0, Purpose::Shuffle, &[])), [0usize; 0]);
        assert_eq!(permutation(1, &mut stream(0, Purpose::Shuffle, &[])), [0]);
    }

    /// A seed determines this order, in every version of every crate that is compiled in.
    #[test]
    fn seed_1_means_this_order() {
        let order = permutation(12, &mut stream(1, Purpose::Shuffle, &[2]));
        assert_eq!(order, [4, 6, 10, 3, 2, 5, 0, 1, 8, 9, 7, 11]);
    }
}
