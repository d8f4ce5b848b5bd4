//! CIFAR-10, in any of the forms in which it is published.
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
//! The crate keeps channels last, so the three planes are interleaved once, here.
//!
//! # Trust
//!
//! A file is read only after its size is known to be the right one (binary) or at most what such a file can take
//! (pickle), archives are read as a stream and never unpacked to disk, and every error names the file (the archive and
//! its member), the byte, what was expected and what was found.

use super::{Dataset, Splits};
use crate::{Error, Result};
use ndarray::Array4;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

#[cfg(feature = "formats")]
mod archive;
#[cfg(feature = "formats")]
mod python;

/// The names of the classes, in the order of the labels.
pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
/// Height and width of the images in pixels.
pub const SIZE: usize = 32;
/// Images in each of the six files.
pub const BATCH_IMAGES: usize = 10_000;
/// Bytes of an image: three planes of 32x32.
#[doc(hidden)]
pub const IMAGE_BYTES: usize = 3 * PLANE;
const PLANE: usize = SIZE * SIZE;
/// Bytes of a binary record: the label and the image.
pub const RECORD_BYTES: usize = 1 + IMAGE_BYTES;
/// The six files in the order of the data set, as the python folder names them; the binary ones end in `.bin`.
const BATCHES: [&str; 6] =
    ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];

/// The two folders that are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Binary,
    Python,
}

impl Layout {
    const ALL: [Layout; 2] = [Layout::Binary, Layout::Python];

    fn folder(self) -> &'static str {
        match self {
            Layout::Binary => "cifar-10-batches-bin",
            Layout::Python => "cifar-10-batches-py",
        }
    }

    fn archive(self) -> &'static str {
        match self {
            Layout::Binary => "cifar-10-binary.tar.gz",
            Layout::Python => "cifar-10-python.tar.gz",
        }
    }

    /// The file of batch 0 to 5.
    fn file(self, batch: usize) -> String {
        match self {
            Layout::Binary => format!("{}.bin", BATCHES[batch]),
            Layout::Python => BATCHES[batch].into(),
        }
    }

    fn files(self) -> impl Iterator<Item = String> {
        (0..BATCHES.len()).map(move |batch| self.file(batch))
    }

    /// The layout and batch a file of this name belongs to.
    #[cfg(feature = "formats")]
    fn of_file(name: &str) -> Option<(Layout, usize)> {
        Layout::ALL.into_iter().find_map(|layout| Some((layout, layout.files().position(|file| file == name)?)))
    }

    /// The most bytes a file of `images` images can have.
    fn most(self, images: usize) -> u64 {
        let bytes = match self {
            Layout::Binary => images * RECORD_BYTES,
            // A byte takes at most two (as UTF-8 text, protocol 2 from Python 3), a label and a file name 256.
            Layout::Python => images * (2 * IMAGE_BYTES + 256) + 4096,
        };
        bytes as u64
    }

    /// Refuses a file of `size` bytes that cannot hold exactly `images` images, before it is read.
    fn check_size(self, path: &Path, size: u64, images: usize) -> Result<()> {
        match self {
            Layout::Binary => {
                let expected = self.most(images);
                if size != expected {
                    let message =
                        format!("expected {expected} bytes ({images} records of {RECORD_BYTES}), found {size}");
                    return Err(Error::format(path, Some(size.min(expected)), message));
                }
            }
            Layout::Python => {
                let most = self.most(images);
                if size > most {
                    let message = format!("expected at most {most} bytes for {images} images, found {size}");
                    return Err(Error::format(path, Some(most), message));
                }
            }
        }
        Ok(())
    }

    /// The images in the bytes of one file.
    fn read(self, path: &Path, bytes: &[u8], images: usize) -> Result<Images> {
        match self {
            Layout::Binary => {
                self.check_size(path, bytes.len() as u64, images)?;
                read_records(path, bytes, 0)
            }
            #[cfg(feature = "formats")]
            Layout::Python => python::read(path, bytes, images),
            #[cfg(not(feature = "formats"))]
            Layout::Python => Err(needs_formats(path, "pickled batches")),
        }
    }
}

/// Loads CIFAR-10 from `path`: one of the two folders, one of the two archives, or a folder that holds one of them
/// (of several, the first in the order of the table above).
///
/// # Errors
/// [`Error::Io`] when a file cannot be read; [`Error::Format`] when nothing that looks like CIFAR-10 is found (the
/// message lists what was looked for and what is there), when a batch is missing, or when a file is not what its form
/// promises.
pub fn load(path: impl AsRef<Path>) -> Result<Splits> {
    load_batches(path.as_ref(), BATCH_IMAGES)
}

/// [`load`] with `images` images in a file, so that tests need not write 180 MB.
fn load_batches(path: &Path, images: usize) -> Result<Splits> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
    if !metadata.is_dir() {
        return load_archive(path, images);
    }
    // The folder itself, then a folder in it, then an archive in it.
    for folder in [path.to_path_buf()].into_iter().chain(Layout::ALL.map(|layout| path.join(layout.folder()))) {
        for layout in Layout::ALL {
            if layout.files().any(|file| folder.join(file).is_file()) {
                return load_folder(&folder, layout, images);
            }
        }
    }
    for layout in Layout::ALL {
        let archive = path.join(layout.archive());
        if archive.is_file() {
            return load_archive(&archive, images);
        }
    }
    let names = Layout::ALL.map(|layout| format!("{}/, {}", layout.folder(), layout.archive()));
    let message = format!(
        "expected CIFAR-10 here: {}, or the files {} or {} themselves; found {}",
        names.join(", "),
        Layout::Binary.file(0),
        Layout::Python.file(0),
        list(path)?
    );
    Err(Error::format(path, None, message))
}

/// The names in a folder, for a message.
fn list(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, "list", e))? {
        let entry = entry.map_err(|e| Error::io(folder, "list", e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let more = names.len().saturating_sub(20);
    names.truncate(20);
    Ok(match (names.is_empty(), more) {
        (true, _) => "an empty folder".into(),
        (_, 0) => names.join(", "),
        (_, more) => format!("{} and {more} more", names.join(", ")),
    })
}

fn load_folder(folder: &Path, layout: Layout, images: usize) -> Result<Splits> {
    // All six first: a missing batch should not be noticed after a minute of reading.
    let missing: Vec<String> = layout.files().filter(|file| !folder.join(file).is_file()).collect();
    if !missing.is_empty() {
        return Err(missing_batches(folder, &missing, &list(folder)?));
    }
    let mut batches = Vec::new();
    for file in layout.files() {
        let path = folder.join(file);
        let file = File::open(&path).map_err(|e| Error::io(&path, "open", e))?;
        let size = file.metadata().map_err(|e| Error::io(&path, "read", e))?.len();
        layout.check_size(&path, size, images)?;
        let bytes = read_exactly(&path, file, size)?;
        batches.push(layout.read(&path, &bytes, images)?);
    }
    join(batches, folder)
}

fn missing_batches(path: &Path, missing: &[String], found: &str) -> Error {
    Error::format(path, None, format!("expected six batches, missing {}; found {found}", missing.join(", ")))
}

/// Reads `size` bytes, which the caller has checked to be a size worth allocating.
fn read_exactly(path: &Path, reader: impl Read, size: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size as usize);
    reader.take(size).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    if (bytes.len() as u64) < size {
        let found = bytes.len() as u64;
        return Err(Error::format(path, Some(found), format!("truncated: expected {size} bytes, found {found}")));
    }
    Ok(bytes)
}

fn load_archive(path: &Path, images: usize) -> Result<Splits> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    file.take(2).read_to_end(&mut start).map_err(|e| Error::io(path, "read", e))?;
    if start != [0x1f, 0x8b] {
        let message =
            format!("expected a folder or a .tar.gz archive (bytes 1f 8b), found a file that starts {start:02x?}");
        return Err(Error::format(path, Some(0), message));
    }
    #[cfg(feature = "formats")]
    {
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        read_archive(path, std::io::BufReader::new(file), images)
    }
    #[cfg(not(feature = "formats"))]
    Err(needs_formats(path, &format!("archives (of {images} images a batch)")))
}

/// The data set in the `.tar.gz` archive that `compressed` reads, with `images` images in a file. Public for
/// `tests/fuzz`, as what follows is.
///
/// # Errors
/// As [`load`].
#[cfg(feature = "formats")]
#[doc(hidden)]
pub fn read_archive(path: &Path, compressed: impl std::io::BufRead, images: usize) -> Result<Splits> {
    archive::read(path, compressed, images)
}

/// The most bytes that are read from an archive of such files, unpacked.
#[cfg(feature = "formats")]
#[doc(hidden)]
pub fn most_unpacked(images: usize) -> usize {
    archive::most(images) as usize
}

/// The images of one pickled file.
///
/// # Errors
/// As [`load`].
#[cfg(feature = "formats")]
#[doc(hidden)]
pub fn read_python_batch(path: &Path, bytes: &[u8], images: usize) -> Result<Dataset> {
    python::read(path, bytes, images)?.into_dataset("")
}

/// The images of binary records.
///
/// # Errors
/// As [`load`].
#[doc(hidden)]
pub fn read_binary_records(path: &Path, bytes: &[u8]) -> Result<Dataset> {
    read_records(path, bytes, 0)?.into_dataset("")
}

#[cfg(not(feature = "formats"))]
fn needs_formats(path: &Path, what: &str) -> Error {
    let message = format!(
        "reading {what} needs the crate feature `formats`, which this program was built without; \
         unpack {} and name its folder, or build with `--features formats`",
        Layout::Binary.archive()
    );
    Error::format(path, None, message)
}

/// The content of one file: `pixels` holds N images (32, 32, 3) one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Images {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Images {
    fn with_capacity(images: usize) -> Self {
        Images { pixels: Vec::with_capacity(images * IMAGE_BYTES), labels: Vec::with_capacity(images) }
    }

    /// Adds an image given as three planes.
    fn push(&mut self, label: u8, planes: &[u8]) {
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        for ((&r, &g), &b) in red.iter().zip(green).zip(blue) {
            self.pixels.extend([r, g, b]);
        }
        self.labels.push(label);
    }

    fn into_dataset(self, source: impl Into<String>) -> Result<Dataset> {
        let shape = (self.labels.len(), SIZE, SIZE, 3);
        let pixels = Array4::from_shape_vec(shape, self.pixels).expect("push adds 3·32·32 bytes a label");
        Dataset::new(pixels, self.labels, CLASSES.map(String::from).to_vec(), source)
    }
}

/// Reads whole records; `start` is where `bytes` stand in the file, for errors.
fn read_records(path: &Path, bytes: &[u8], start: usize) -> Result<Images> {
    let mut images = Images::with_capacity(bytes.len() / RECORD_BYTES);
    for (i, record) in bytes.chunks(RECORD_BYTES).enumerate() {
        let offset = (start + i * RECORD_BYTES) as u64;
        if record.len() < RECORD_BYTES {
            let message = format!("truncated record: expected {RECORD_BYTES} bytes, found {}", record.len());
            return Err(Error::format(path, Some(offset), message));
        }
        images.push(check_label(path, offset, record[0].into())?, &record[1..]);
    }
    Ok(images)
}

fn check_label(path: &Path, offset: u64, label: i128) -> Result<u8> {
    match u8::try_from(label) {
        Ok(label) if usize::from(label) < CLASSES.len() => Ok(label),
        _ => Err(Error::format(path, Some(offset), format!("expected a label from 0 to 9, found {label}"))),
    }
}

/// The data set of six batches, the test batch last.
fn join(batches: Vec<Images>, source: &Path) -> Result<Splits> {
    let mut batches = batches.into_iter();
    let mut train = batches.next().expect("six batches");
    // Each batch is freed once copied: the peak is one data set and the batches not yet copied.
    let mut test = None;
    for batch in batches {
        if let Some(next) = test.replace(batch) {
            train.pixels.extend_from_slice(&next.pixels);
            train.labels.extend_from_slice(&next.labels);
        }
    }
    let source = source.display();
    Ok(Splits {
        train: train.into_dataset(format!("CIFAR-10 training images, {source}"))?,
        test: test.expect("six batches").into_dataset(format!("CIFAR-10 test images, {source}"))?,
    })
}

/// Data sets from records already in memory: the first `train` of them, and the rest. `name` stands for the file in
/// errors and in [`Dataset::source`].
pub(super) fn from_records(bytes: &[u8], train: usize, name: &str) -> Result<Splits> {
    let path = PathBuf::from(name);
    let split = (train * RECORD_BYTES).min(bytes.len());
    let images = [read_records(&path, &bytes[..split], 0)?, read_records(&path, &bytes[split..], split)?];
    let [train, test] = images;
    Ok(Splits {
        train: train.into_dataset(format!("{name}, training images"))?,
        test: test.into_dataset(format!("{name}, test images"))?,
    })
}

/// Writes the images of `dataset` as binary records: the inverse of reading them.
///
/// # Errors
/// [`Error::Shape`] unless the images are 32x32, [`Error::Io`] when writing fails (`path` stands for `to` in it).
pub fn write_records(dataset: &Dataset, to: &mut impl Write, path: impl AsRef<Path>) -> Result<()> {
    if dataset.pixels.shape()[1..] != [SIZE, SIZE, 3] {
        return Err(Error::shape("write_records", "pixels", "(N, 32, 32, 3)", dataset.pixels.shape()));
    }
    for (image, &label) in dataset.pixels.outer_iter().zip(&dataset.labels) {
        let mut record = Vec::with_capacity(RECORD_BYTES);
        record.push(label);
        record.extend(image.permuted_axes([2, 0, 1]).iter()); // (3, 32, 32): plane after plane.
        to.write_all(&record).map_err(|e| Error::io(&path, "write", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
