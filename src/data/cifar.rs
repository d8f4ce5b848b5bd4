//! What CIFAR-10 and CIFAR-100 have in common: folders and archives of files that hold labels and images.
//!
//! A [`Published`] describes the layout of one of them; all other code is shared. In the binary layout a file is a sequence
//! of records: `label_bytes` labels, of which the last is used, and three planes. In the python layout it is a pickled
//! dict ([`python`]).

use super::{Dataset, Splits};
use crate::base::input;
use crate::{Error, Result};
use ndarray::Array4;
use std::fs::File;
use std::io::Read;
use std::path::Path;

#[cfg(feature = "formats")]
pub(super) mod archive;
#[cfg(feature = "formats")]
pub(super) mod python;

/// Height and width of the images in pixels.
pub const SIZE: usize = 32;
const PLANE: usize = SIZE * SIZE;
/// Bytes of an image: three planes of 32x32.
pub const IMAGE_BYTES: usize = 3 * PLANE;
/// The most bytes of a file of names.
const NAMES_BYTES: u64 = 1 << 16;

/// How a data set is published.
pub(super) struct Published {
    pub name: &'static str,
    /// By [`Layout`], like the next field.
    pub folders: [&'static str; 2],
    pub archives: [&'static str; 2],
    /// The files of images, as the python folder names them (the binary ones end in `.bin`), and how many batches of
    /// images each has. The last is the test set.
    pub files: &'static [(&'static str, usize)],
    /// A description of all files, for messages.
    pub all_files: &'static str,
    /// Labels of a binary record; the last one is used.
    pub label_bytes: usize,
    /// The key of the labels in a pickled dict.
    #[cfg_attr(not(feature = "formats"), expect(dead_code, reason = "pickles are read with the feature only"))]
    pub labels: &'static str,
    pub class_names: ClassNames,
    pub classes: usize,
}

/// Where the names of the classes come from.
pub(super) enum ClassNames {
    /// Listed here.
    Known(&'static [&'static str]),
    /// In one more file: lines of text, or a pickled dict with a list under `key`.
    File {
        files: [&'static str; 2],
        #[cfg_attr(not(feature = "formats"), expect(dead_code, reason = "as `labels`"))]
        key: &'static str,
    },
}

/// The two folders that are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Binary,
    Python,
}

impl Layout {
    const ALL: [Layout; 2] = [Layout::Binary, Layout::Python];
}

/// The content of one of the files.
#[derive(Clone, Debug)]
enum Part {
    Images(Images),
    Names(Vec<String>),
}

impl Published {
    fn folder(&self, layout: Layout) -> &'static str {
        self.folders[layout as usize]
    }

    fn archive(&self, layout: Layout) -> &'static str {
        self.archives[layout as usize]
    }

    /// The number of files: those of images, and perhaps one of names.
    fn parts(&self) -> usize {
        self.files.len() + usize::from(matches!(self.class_names, ClassNames::File { .. }))
    }

    /// The name of a file.
    fn file(&self, layout: Layout, part: usize) -> String {
        match (self.files.get(part), &self.class_names) {
            (Some((stem, _)), _) if layout == Layout::Binary => format!("{stem}.bin"),
            (Some((stem, _)), _) => stem.to_string(),
            (None, ClassNames::File { files, .. }) => files[layout as usize].to_string(),
            (None, ClassNames::Known(_)) => unreachable!("all parts are files of images"),
        }
    }

    fn all(&self, layout: Layout) -> impl Iterator<Item = String> + '_ {
        (0..self.parts()).map(move |part| self.file(layout, part))
    }

    /// The layout and part that a file of this name belongs to.
    #[cfg(feature = "formats")]
    fn of_file(&self, name: &str) -> Option<(Layout, usize)> {
        Layout::ALL.into_iter().find_map(|layout| Some((layout, self.all(layout).position(|file| file == name)?)))
    }

    /// The places where it can be, for a message.
    pub fn where_it_is(&self) -> String {
        let names = Layout::ALL.map(|layout| format!("{}/, {}", self.folder(layout), self.archive(layout)));
        format!(
            "{} here: {}, or the files {} or {} themselves",
            self.name,
            names.join(", "),
            self.file(Layout::Binary, 0),
            self.file(Layout::Python, 0)
        )
    }

    fn record_bytes(&self) -> usize {
        self.label_bytes + IMAGE_BYTES
    }

    /// Images in a part, of `images` in a batch.
    fn images(&self, part: usize, images: usize) -> usize {
        self.files.get(part).map_or(0, |(_, batches)| batches * images)
    }

    /// The largest size of a file in bytes.
    fn most(&self, layout: Layout, part: usize, images: usize) -> u64 {
        let images = self.images(part, images);
        match layout {
            _ if part >= self.files.len() => NAMES_BYTES,
            Layout::Binary => (images * self.record_bytes()) as u64,
            // A byte takes at most two (as UTF-8 text, protocol 2 from Python 3), labels and a file name 256.
            Layout::Python => (images * (2 * IMAGE_BYTES + 256) + 4096) as u64,
        }
    }

    /// Rejects a file of `size` bytes that cannot be this one, before it is read.
    pub fn check_size(&self, layout: Layout, part: usize, path: &Path, size: u64, images: usize) -> Result<()> {
        let most = self.most(layout, part, images);
        let images = self.images(part, images);
        let message = match layout {
            _ if part >= self.files.len() => {
                format!("expected at most {most} bytes for the names of the classes, found {size}")
            }
            Layout::Binary if size == most => return Ok(()),
            Layout::Binary => {
                let found = format!("{images} records of {}), found {size}", self.record_bytes());
                return Err(Error::format(path, Some(size.min(most)), format!("expected {most} bytes ({found}")));
            }
            Layout::Python => format!("expected at most {most} bytes for {images} images, found {size}"),
        };
        match size > most {
            true => Err(Error::format(path, Some(most), message)),
            false => Ok(()),
        }
    }

    /// Parses the bytes of a file.
    fn read(&self, layout: Layout, part: usize, path: &Path, bytes: &[u8], images: usize) -> Result<Part> {
        self.check_size(layout, part, path, bytes.len() as u64, images)?;
        match (layout, &self.class_names) {
            (Layout::Binary, _) if part < self.files.len() => self.read_records(path, bytes, 0).map(Part::Images),
            (Layout::Binary, _) => self.read_names(path, bytes).map(Part::Names),
            #[cfg(feature = "formats")]
            (Layout::Python, ClassNames::File { key, .. }) if part >= self.files.len() => {
                let names = python::read_names(path, bytes, key)?;
                self.check_names(path, names).map(Part::Names)
            }
            #[cfg(feature = "formats")]
            (Layout::Python, _) => python::read(self, path, bytes, self.images(part, images)).map(Part::Images),
            #[cfg(not(feature = "formats"))]
            (Layout::Python, _) => Err(self.needs_formats(path, "pickled batches")),
        }
    }

    /// Reads whole records; `start` is the offset of `bytes` in the file, for errors.
    pub fn read_records(&self, path: &Path, bytes: &[u8], start: usize) -> Result<Images> {
        let length = self.record_bytes();
        let mut images = Images::with_capacity(bytes.len() / length);
        for (i, record) in bytes.chunks(length).enumerate() {
            let offset = (start + i * length) as u64;
            if record.len() < length {
                let message = format!("truncated record: expected {length} bytes, found {}", record.len());
                return Err(Error::format(path, Some(offset), message));
            }
            let (labels, planes) = record.split_at(self.label_bytes);
            let last = self.label_bytes - 1;
            images.push(self.check_label(path, offset + last as u64, labels[last].into())?, planes);
        }
        Ok(images)
    }

    fn check_label(&self, path: &Path, offset: u64, label: i128) -> Result<u8> {
        match u8::try_from(label) {
            Ok(label) if usize::from(label) < self.classes => Ok(label),
            _ => {
                let message = format!("expected a label from 0 to {}, found {label}", self.classes - 1);
                Err(Error::format(path, Some(offset), message))
            }
        }
    }

    /// The names in a text file, one per line.
    fn read_names(&self, path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let message = "expected text in UTF-8 with the name of a class in each line";
            Error::format(path, Some(error.valid_up_to() as u64), message)
        })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        self.check_names(path, lines.map(String::from).collect())
    }

    fn check_names(&self, path: &Path, names: Vec<String>) -> Result<Vec<String>> {
        if names.len() != self.classes {
            let message = format!("expected the names of {} classes, found {}", self.classes, names.len());
            return Err(Error::format(path, None, message));
        }
        Ok(names)
    }

    /// The names of the classes, if no file contains them.
    pub fn known_names(&self) -> Vec<String> {
        match self.class_names {
            ClassNames::Known(names) => names.iter().map(|name| name.to_string()).collect(),
            ClassNames::File { .. } => Vec::new(),
        }
    }

    /// The data set of all parts, in the order of the files.
    fn join(&self, parts: Vec<Part>, source: &Path) -> Result<Splits> {
        let mut names = self.known_names();
        let mut train: Option<Images> = None;
        let mut test: Option<Images> = None;
        for part in parts {
            match part {
                Part::Names(found) => names = found,
                // Each batch is freed once copied: the peak is one data set and the batches not yet copied.
                Part::Images(next) => match (test.replace(next), &mut train) {
                    (Some(last), Some(train)) => train.extend(&last),
                    (Some(last), None) => train = Some(last),
                    (None, _) => {}
                },
            }
        }
        let source = |what| format!("{} {what} images, {}", self.name, source.display());
        Ok(Splits {
            train: train.expect("a file to train on").into_dataset(names.clone(), source("training"))?,
            validation: None,
            test: test.expect("a file to test on").into_dataset(names, source("test"))?,
        })
    }

    fn missing(&self, path: &Path, missing: &[String], found: &str) -> Error {
        let message = format!("expected {}, missing {}; found {found}", self.all_files, missing.join(", "));
        Error::format(path, None, message)
    }

    fn load_folder(&self, folder: &Path, layout: Layout, images: usize) -> Result<Splits> {
        // Look for all files first, so that a missing one is reported before a minute of reading.
        let missing: Vec<String> = self.all(layout).filter(|file| !folder.join(file).is_file()).collect();
        if !missing.is_empty() {
            return Err(self.missing(folder, &missing, &list(folder)?));
        }
        let mut parts = Vec::new();
        for (part, file) in self.all(layout).enumerate() {
            let path = folder.join(file);
            let file = File::open(&path).map_err(|e| Error::io(&path, "open", e))?;
            let size = file.metadata().map_err(|e| Error::io(&path, "read", e))?.len();
            self.check_size(layout, part, &path, size, images)?;
            let bytes = read_exactly(&path, file, size)?;
            parts.push(self.read(layout, part, &path, &bytes, images)?);
        }
        self.join(parts, folder)
    }

    #[cfg(not(feature = "formats"))]
    fn needs_formats(&self, path: &Path, what: &str) -> Error {
        let message = format!(
            "reading {what} needs the crate feature `formats`, which this program was built without; \
             unpack {} and name its folder, or build with `--features formats`",
            self.archive(Layout::Binary)
        );
        Error::format(path, None, message)
    }
}

/// Loads the one of `sets` that is at `path`, with `images` images in a batch (so that tests need not write 180 MB); `None`
/// for a folder that contains none of them.
pub(super) fn load<'a>(path: &Path, sets: &[&'a Published], images: usize) -> Result<Option<(Splits, &'a Published)>> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
    if !metadata.is_dir() {
        return load_archive(path, sets, images).map(Some);
    }
    for set in sets {
        // The folder itself, then a folder in it, then an archive in it.
        let inner = Layout::ALL.map(|layout| path.join(set.folder(layout)));
        for folder in [path.to_path_buf()].into_iter().chain(inner) {
            for layout in Layout::ALL {
                if (0..set.files.len()).any(|part| folder.join(set.file(layout, part)).is_file()) {
                    return Ok(Some((set.load_folder(&folder, layout, images)?, set)));
                }
            }
        }
        for layout in Layout::ALL {
            let archive = path.join(set.archive(layout));
            if archive.is_file() {
                return load_archive(&archive, &[set], images).map(Some);
            }
        }
    }
    Ok(None)
}

/// [`load`] for one set; anything else is an error.
pub(super) fn load_only(path: &Path, set: &Published, images: usize) -> Result<Splits> {
    match load(path, &[set], images)? {
        Some((splits, _)) => Ok(splits),
        None => Err(Error::format(path, None, format!("expected {}; found {}", set.where_it_is(), list(path)?))),
    }
}

/// The names in a folder, for a message.
pub(super) fn list(folder: &Path) -> Result<String> {
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

/// Reads `size` bytes, a size that the caller has checked before it is allocated.
fn read_exactly(path: &Path, reader: impl Read, size: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size as usize);
    reader.take(size).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    if (bytes.len() as u64) < size {
        let found = bytes.len() as u64;
        return Err(Error::format(path, Some(found), format!("truncated: expected {size} bytes, found {found}")));
    }
    Ok(bytes)
}

/// The first two bytes of archives that are not read.
const ARCHIVES: [(&[u8; 2], &str); 5] =
    [(b"PK", "zip"), (b"BZ", "bzip2"), (b"\xfd7", "xz"), (b"Ra", "rar"), (b"7z", "7z")];

fn load_archive<'a>(path: &Path, sets: &[&'a Published], images: usize) -> Result<(Splits, &'a Published)> {
    let mut start = Vec::new();
    // Once: it may be a pipe.
    let mut file = input::open(path).map_err(|e| Error::io(path, "open", e))?;
    file.by_ref().take(2).read_to_end(&mut start).map_err(|e| Error::io(path, "read", e))?;
    if start != [0x1f, 0x8b] {
        let kind = ARCHIVES.iter().find(|(first, _)| start == **first).map(|(_, kind)| *kind);
        let kind = kind
            .or_else(|| path.extension().filter(|extension| extension.eq_ignore_ascii_case("tar")).and(Some("tar")));
        let hint = kind.map_or(String::new(), |kind| format!("; unpack the {kind} archive and give its folder"));
        let message = format!(
            "expected a folder or a .tar.gz archive (bytes 1f 8b), found a file that starts {start:02x?}{hint}"
        );
        return Err(Error::format(path, Some(0), message));
    }
    #[cfg(feature = "formats")]
    {
        archive::read(path, std::io::BufReader::new(start.as_slice().chain(file)), sets, images)
    }
    #[cfg(not(feature = "formats"))]
    Err(sets[0].needs_formats(path, &format!("archives (of {images} images a batch)")))
}

/// The content of one file: `pixels` contains N images (32, 32, 3) one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Images {
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

    /// Appends the images of `other`.
    fn extend(&mut self, other: &Images) {
        self.pixels.extend_from_slice(&other.pixels);
        self.labels.extend_from_slice(&other.labels);
    }

    pub fn into_dataset(self, classes: Vec<String>, source: impl Into<String>) -> Result<Dataset> {
        let shape = (self.labels.len(), SIZE, SIZE, 3);
        let pixels = Array4::from_shape_vec(shape, self.pixels).expect("push adds 3·32·32 bytes a label");
        Dataset::new(pixels, self.labels.into_iter().map(u16::from).collect(), classes, source)
    }
}

#[cfg(test)]
mod tests;
