//! A small real part of CIFAR-10 inside the program: for tests, examples and first steps without a download.
//!
//! 1,400 training images (140 per class) and 500 test images (50 per class) in CIFAR-10's own binary records, 5.84 MB:
//! the first of each class in the order of the training batches and the test batch. They are interleaved by class, so
//! that any prefix is balanced to within one image per class. `cifar10-subset.md` beside the file describes its source;
//! `examples/make_embedded_subset.rs` generates it again from the published files.
//!
//! It is enough to see a network learn and to check every step. It is not enough for an accuracy worth
//! reporting: for that, [`cifar10::load`] the whole data set.

use super::{Splits, cifar10};

/// Training images: 140 of each class.
pub const TRAIN_IMAGES: usize = 1_400;
/// Test images: 50 of each class.
pub const TEST_IMAGES: usize = 500;

const RECORDS: &[u8; (TRAIN_IMAGES + TEST_IMAGES) * cifar10::RECORD_BYTES] = include_bytes!("cifar10-subset.bin");

/// The embedded images.
pub fn load() -> Splits {
    cifar10::from_records(RECORDS, TRAIN_IMAGES, "embedded part of CIFAR-10")
        .expect("the records compiled into the program are complete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_is_balanced_and_no_image_occurs_twice() {
        let Splits { train, test } = load();
        assert_eq!((train.len(), test.len()), (1400, 500));
        for dataset in [&train, &test] {
            for (i, &label) in dataset.labels.iter().enumerate() {
                assert_eq!(usize::from(label), i % 10, "image {i}");
            }
        }
        let images = train.pixels.outer_iter().chain(test.pixels.outer_iter());
        let distinct: std::collections::HashSet<Vec<u8>> =
            images.map(|image| image.iter().copied().collect()).collect();
        assert_eq!(distinct.len(), 1900);
    }

    #[test]
    fn the_records_are_those_the_example_makes() {
        // FNV-1a of the file: different if a checkout or an editor changed it.
        let hash = RECORDS.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        assert_eq!(hash, FNV1A);
    }
    const FNV1A: u64 = 0x7659_6a17_0e95_723b;
}
