//! CIFAR-10, in each of its published forms.
//!
//! 60,000 colour photographs of 32x32 pixels in ten classes, 50,000 for training in five batches and 10,000 for testing
//! (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
//! <https://www.cs.toronto.edu/~kriz/cifar.html>). [`load`] reads
//!
//! | form | what it is |
//! |---|---|
//! | `cifar-10-batches-bin/` | `data_batch_1.bin` .. `data_batch_5.bin`, `test_batch.bin`: the records below |
//! | `cifar-10-batches-py/` | `data_batch_1` .. `data_batch_5`, `test_batch`: pickled dicts (feature `formats`) |
//! | `cifar-10-binary.tar.gz` | the first folder (feature `formats`) |
//! | `cifar-10-python.tar.gz` | the second folder (feature `formats`) |
//!
//! # The binary record
//!
//! 3,073 bytes: the label, then three planes of 1,024 bytes, each row by row:
//!
//! ```text
//! byte            0        1 ..= 1024    1025 ..= 2048    2049 ..= 3072
//!                 label    red           green            blue
//! p[i, j, c] = record[1 + 1024 c + 32 i + j]                               (32, 32, 3)
//! ```
//!
//! The crate keeps channels last, so the three planes are interleaved once, in `cifar.rs`, which also reads CIFAR-100.
//!
//! # Untrusted files
//!
//! A file is read only after its size is known to be the right one (binary) or at most the maximum of such a
//! file (pickle), archives are read as a stream and never unpacked to disk, and every error names the file (the archive and
//! its member), the byte, what was expected and what was found.

#[cfg(feature = "formats")]
use super::cifar::Layout;
use super::cifar::{self, ClassNames, Published};
use super::{Dataset, Splits};
use crate::{Error, Result};
use std::io::Write;
use std::path::Path;

pub use super::cifar::SIZE;

#[doc(hidden)]
pub use super::cifar::IMAGE_BYTES;

/// The names of the classes, in the order of the labels.
pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
/// Images in each of the six files.
pub const BATCH_IMAGES: usize = 10_000;
/// Bytes of a binary record: the label and the image.
pub const RECORD_BYTES: usize = 1 + IMAGE_BYTES;

/// Its published forms.
pub(super) const PUBLISHED: Published = Published {
    name: "CIFAR-10",
    folders: ["cifar-10-batches-bin", "cifar-10-batches-py"],
    archives: ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"],
    files: &[
        ("data_batch_1", 1),
        ("data_batch_2", 1),
        ("data_batch_3", 1),
        ("data_batch_4", 1),
        ("data_batch_5", 1),
        ("test_batch", 1),
    ],
    all_files: "six batches",
    label_bytes: 1,
    labels: "labels",
    class_names: ClassNames::Known(&CLASSES),
    classes: CLASSES.len(),
};

/// Loads CIFAR-10 from `path`: one of the two folders, one of the two archives, or a folder that contains one of them
/// (of several, the first in the order of the table above).
///
/// # Errors
/// [`Error::Io`] when a file cannot be read; [`Error::Format`] when nothing that looks like CIFAR-10 is found (the
/// message lists what was expected and what was found), when a batch is missing, or when a file does not have the expected
/// form.
pub fn load(path: impl AsRef<Path>) -> Result<Splits> {
    cifar::load_only(path.as_ref(), &PUBLISHED, BATCH_IMAGES)
}

/// The data set in the `.tar.gz` archive that `compressed` reads, with `images` images in a file. Public for
/// `tests/fuzz`, like the next functions.
///
/// # Errors
/// As [`load`].
#[cfg(feature = "formats")]
#[doc(hidden)]
pub fn read_archive(path: &Path, compressed: impl std::io::BufRead, images: usize) -> Result<Splits> {
    Ok(cifar::archive::read(path, compressed, &[&PUBLISHED], images)?.0)
}

/// The most bytes that are read from an archive of such files, unpacked.
#[cfg(feature = "formats")]
#[doc(hidden)]
pub fn most_unpacked(images: usize) -> usize {
    cifar::archive::most(&[&PUBLISHED], images) as usize
}

/// The images of one pickled file.
///
/// # Errors
/// As [`load`].
#[cfg(feature = "formats")]
#[doc(hidden)]
pub fn read_python_batch(path: &Path, bytes: &[u8], images: usize) -> Result<Dataset> {
    PUBLISHED.check_size(Layout::Python, 0, path, bytes.len() as u64, images)?;
    cifar::python::read(&PUBLISHED, path, bytes, images)?.into_dataset(PUBLISHED.known_names(), "")
}

/// The images of binary records.
///
/// # Errors
/// As [`load`].
#[doc(hidden)]
pub fn read_binary_records(path: &Path, bytes: &[u8]) -> Result<Dataset> {
    PUBLISHED.read_records(path, bytes, 0)?.into_dataset(PUBLISHED.known_names(), "")
}

/// Data sets from records already in memory: the first `train` of them, and the rest. `name` replaces the file in
/// errors and in [`Dataset::source`].
pub(super) fn from_records(bytes: &[u8], train: usize, name: &str) -> Result<Splits> {
    let path = Path::new(name);
    let split = (train * RECORD_BYTES).min(bytes.len());
    let train = PUBLISHED.read_records(path, &bytes[..split], 0)?;
    let test = PUBLISHED.read_records(path, &bytes[split..], split)?;
    Ok(Splits {
        train: train.into_dataset(PUBLISHED.known_names(), format!("{name}, training images"))?,
        validation: None,
        test: test.into_dataset(PUBLISHED.known_names(), format!("{name}, test images"))?,
    })
}

/// Writes the images of `dataset` as binary records: the inverse of reading them.
///
/// # Errors
/// [`Error::Shape`] unless the images are 32x32, [`Error::Argument`] for a label above 255, [`Error::Io`] when writing fails (`path` is the name of `to` in it).
pub fn write_records(dataset: &Dataset, to: &mut impl Write, path: impl AsRef<Path>) -> Result<()> {
    if dataset.pixels.shape()[1..] != [SIZE, SIZE, 3] {
        return Err(Error::shape("write_records", "pixels", "(N, 32, 32, 3)", dataset.pixels.shape()));
    }
    if dataset.in_memory() < dataset.len() {
        return Err(Error::argument("write_records", "expected all images in memory"));
    }
    for (image, &label) in dataset.pixels.outer_iter().zip(&dataset.labels) {
        let mut record = Vec::with_capacity(RECORD_BYTES);
        record.push(u8::try_from(label).map_err(|_| {
            Error::argument("write_records", format!("a label is one byte, expected at most 255, got {label}"))
        })?);
        record.extend(image.permuted_axes([2, 0, 1]).iter()); // (3, 32, 32): plane after plane.
        to.write_all(&record).map_err(|e| Error::io(&path, "write", e))?;
    }
    Ok(())
}
