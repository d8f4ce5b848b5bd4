//! A small real part of CIFAR-10 inside the program: for tests, examples and first steps without a download.
//!
//! 1,400 training images (140 per class) and 500 test images (50 per class), 5.84 MB: the first of each class in the order
//! of the training batches and the test batch. They are interleaved by class, so that any prefix is balanced to within one
//! image per class. `cifar10-subset.md` beside the file describes its source; `examples/make_embedded_subset.rs` generates it
//! again from the published files.
//!
//! # How they are stored
//!
//! CIFAR-10's binary records, but of every byte only what its neighbours do not say already, modulo 256. Most of these
//! differences are small, so the compressed package is 1.8 MB smaller than with the records themselves. With e one of
//! the planes red − green, green, blue − green, and zeros outside it,
//!
//! ```text
//! d[i, j] = e[i, j] − e[i, j−1] − e[i−1, j] + e[i−1, j−1]          stored
//! e[i, j] = d[i, j] + e[i, j−1] + e[i−1, j] − e[i−1, j−1]          decoded, row by row
//! ```
//!
//! It is enough to see a network learn and to check every step. It is not enough for an accuracy worth
//! reporting: for that, [`cifar10::load`] the whole data set.

use super::cifar::SIZE;
use super::{Splits, cifar10};

/// Training images: 140 of each class.
pub const TRAIN_IMAGES: usize = 1_400;
/// Test images: 50 of each class.
pub const TEST_IMAGES: usize = 500;

const STORED: &[u8; (TRAIN_IMAGES + TEST_IMAGES) * cifar10::RECORD_BYTES] = include_bytes!("cifar10-subset.bin");

/// The embedded images.
pub fn load() -> Splits {
    cifar10::from_records(&records(), TRAIN_IMAGES, "embedded part of CIFAR-10")
        .expect("the records compiled into the program are complete")
}

/// CIFAR-10's records of the embedded images.
fn records() -> Vec<u8> {
    let mut records = STORED.to_vec();
    for record in records.chunks_exact_mut(cifar10::RECORD_BYTES) {
        let planes = &mut record[1..];
        for e in planes.chunks_exact_mut(SIZE * SIZE) {
            for at in 0..SIZE * SIZE {
                e[at] = e[at].wrapping_add(prediction(e, at));
            }
        }
        combine_with_green(planes, u8::wrapping_add);
    }
    records
}

/// Turns CIFAR-10's records into what is stored; see the [module documentation](self).
///
/// # Panics
/// If `records` is not a whole number of records.
pub fn encode(records: &mut [u8]) {
    assert_eq!(records.len() % cifar10::RECORD_BYTES, 0, "encode: expected whole records");
    for record in records.chunks_exact_mut(cifar10::RECORD_BYTES) {
        let planes = &mut record[1..];
        combine_with_green(planes, u8::wrapping_sub);
        for e in planes.chunks_exact_mut(SIZE * SIZE) {
            // From the end: a prediction reads the neighbours before it, which must not be differences yet.
            for at in (0..SIZE * SIZE).rev() {
                e[at] = e[at].wrapping_sub(prediction(e, at));
            }
        }
    }
}

/// `e[i, j−1] + e[i−1, j] − e[i−1, j−1]` modulo 256, for element `at` of a plane.
fn prediction(e: &[u8], at: usize) -> u8 {
    let (i, j) = (at / SIZE, at % SIZE);
    let left = if j > 0 { e[at - 1] } else { 0 };
    let above = if i > 0 { e[at - SIZE] } else { 0 };
    let diagonal = if i > 0 && j > 0 { e[at - SIZE - 1] } else { 0 };
    left.wrapping_add(above).wrapping_sub(diagonal)
}

/// Red and blue, each with green added to it or subtracted from it.
fn combine_with_green(planes: &mut [u8], combine: impl Fn(u8, u8) -> u8) {
    let [red, green, blue] =
        planes.get_disjoint_mut([0, 1, 2].map(|c| c * SIZE * SIZE..(c + 1) * SIZE * SIZE)).expect("three planes");
    for plane in [red, blue] {
        plane.iter_mut().zip(&*green).for_each(|(e, &g)| *e = combine(*e, g));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_is_balanced_and_no_image_occurs_twice() {
        let Splits { train, test, .. } = load();
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
        // FNV-1a of the records: different if a checkout or an editor changed the file.
        let mut records = records();
        let hash = records.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        assert_eq!(hash, FNV1A);
        encode(&mut records);
        assert!(records == STORED);
    }
    const FNV1A: u64 = 0x7659_6a17_0e95_723b;
}
