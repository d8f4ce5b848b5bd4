//! A folder of pictures, one folder per class.
//!
//! ```text
//! DIR/train/CLASS/*.png with DIR/test/CLASS/*.png and/or DIR/valid/CLASS/*.png      torchvision's ImageFolder
//! DIR/CLASS/*.jpg                                                                   every fifth picture is a test image
//! ```
//!
//! The splits may be called in any usual way (`Training Set`, `test_images`, `seg_train`), and the data set may be some
//! folders further inside: `layout` decides which folder is which by names and contents, and the notes report it.
//! Validation images without test images are the test images.
//!
//! Classes are the names of the folders, sorted. The pictures of a class are those in its folder and its subfolders,
//! sorted; of any size and of the kinds that [`picture`] reads, which converts them to `(S, S, 3)`. Entries whose names
//! begin with a dot (hidden) and files of other kinds are left out and counted.
//!
//! In the second layout pictures 5, 10, 15, … of each class (of fewer than five, the last, if there are two) are the
//! test images: the same ones every time, independent of the other classes.
//!
//! The data set contains the first image of each class, then the second of each, and so on: its first n images are as
//! balanced as the classes are. Pictures are decoded on all threads, each into its place. If not all fit into the memory
//! given, the first ones are kept, and the others are decoded again whenever they are used.

mod layout;
mod messages;
mod role;
mod tree;

use super::{Dataset, Framing, Splits, picture};
use crate::{Error, Result};
use layout::Layout;
use messages::{Places, shortened};
use ndarray::Array4;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use tree::Folder;

/// Labels are `u16`.
const MOST_CLASSES: usize = 1 << 16;
/// Unreadable pictures that one error names.
const MOST_NAMED: usize = 10;
/// Without a folder of test images, every fifth picture of each class is held out.
const HELD_OUT: usize = 5;

/// Pictures and their labels.
type Files = Vec<(PathBuf, u16)>;

/// The pictures found in a folder, before any is read.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    path: PathBuf,
    classes: Vec<String>,
    train: Files,
    validation: Option<Files>,
    test: Files,
    notes: Vec<String>,
}

/// A class and its pictures.
type Class = (String, Vec<PathBuf>);

impl ImageFolder {
    /// Looks for pictures in `path`; `None` if it contains none.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be listed; [`Error::Format`] when it is not clear which folders are splits and
    /// which are classes, one split is missing, a class has no pictures, there are fewer than two classes or more than
    /// 65,536, or the splits have different classes.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let top = Folder::read(path)?;
        if top.count == 0 {
            return Ok(None);
        }
        let Layout { train, validation, test, mut notes } = Layout::of(&top)?;
        let places = Places { top: &top };
        let others: Vec<&Folder> = [validation, test].into_iter().flatten().collect();
        check_filled(&places, train)?;
        others.iter().try_for_each(|other| check_same(&places, train, other))?;
        others.iter().try_for_each(|other| check_filled(&places, other))?;
        let training = classes(train)?;
        let pictures = |folder: &Folder| Ok::<_, Error>(in_turn(classes(folder)?));
        let names = training.iter().map(|(name, _)| name.clone()).collect();
        let validation = validation.map(pictures).transpose()?;
        let (train, test) = match test {
            Some(test) => (in_turn(training), pictures(test)?),
            None => {
                let (train, test) = hold_out(training);
                if test.is_empty() {
                    let message = "expected at least two images of some class: one for training, one for testing";
                    return Err(places.error(message.to_string()));
                }
                notes.push(format!(
                    "no test/ or val/: every fifth image of each class, {} in all, is held out for testing",
                    test.len()
                ));
                (train, test)
            }
        };
        notes.extend(top.left_out().note());
        Ok(Some(ImageFolder { path: path.to_path_buf(), classes: names, train, validation, test, notes }))
    }

    /// Notes for the user: what was recognised, what was held out, what was left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of pictures.
    fn count(&self) -> usize {
        self.train.len() + self.validation.as_ref().map_or(0, Vec::len) + self.test.len()
    }

    /// Number of bytes of the images as `(S, S, 3)`, S = `size`.
    pub fn bytes(&self, size: usize) -> u64 {
        (self.count() * size * size * 3) as u64
    }

    /// Reads every picture as `(S, S, 3)`, and keeps at most `memory` bytes of pixels: first training images,
    /// which are used most often.
    ///
    /// # Errors
    /// [`Error::Format`] when pictures cannot be read; the message names up to ten of them, with the reasons.
    pub fn load(&self, framing: impl Into<Framing>, memory: u64) -> Result<Splits> {
        let framing = framing.into();
        let mut broken = Vec::new();
        let mut room = usize::try_from(memory / (3 * framing.crop * framing.crop) as u64).unwrap_or(usize::MAX);
        let mut read = |files: &Files, what| {
            let source = format!("{what} images, {}", self.path.display());
            let kept = files.len().min(room);
            room -= kept;
            self.read(files, kept, framing, source, &mut broken)
        };
        let train = read(&self.train, "training")?;
        let validation = self.validation.as_ref().map(|files| read(files, "validation")).transpose()?;
        let test = read(&self.test, "test")?;
        if broken.is_empty() {
            return Ok(Splits { train, validation, test });
        }
        let more = broken.len().saturating_sub(MOST_NAMED);
        let named: Vec<String> = broken.iter().take(MOST_NAMED).map(Error::to_string).collect();
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        let message = format!(
            "{} of {} images cannot be read; repair or remove them:\n  {}{more}",
            broken.len(),
            self.count(),
            named.join("\n  ")
        );
        Err(Error::format(&self.path, None, message))
    }

    /// Reads `files` and keeps the pixels of the first `kept`.
    fn read(
        &self,
        files: &Files,
        kept: usize,
        framing: Framing,
        source: String,
        broken: &mut Vec<Error>,
    ) -> Result<Dataset> {
        let size = framing.crop;
        let mut pixels = vec![0; kept * size * size * 3];
        let keep = |(place, (path, _)): (&mut [u8], &(PathBuf, u16))| match picture::read(path, framing) {
            Ok(image) => {
                place.copy_from_slice(image.as_slice().expect("standard layout"));
                None
            }
            Err(error) => Some(error),
        };
        let errors: Vec<Option<Error>> = pixels.par_chunks_mut(size * size * 3).zip(&files[..kept]).map(keep).collect();
        broken.extend(errors.into_iter().flatten());
        // A picture that cannot be read is an error now, not after hours of training.
        let check = |(path, _): &(PathBuf, u16)| picture::read(path, framing).err();
        broken.extend(files[kept..].par_iter().filter_map(check).collect::<Vec<_>>());
        let pixels = Array4::from_shape_vec((kept, size, size, 3), pixels).expect("one place a file");
        let (paths, labels) = files.iter().cloned().unzip();
        Dataset::partly_in_memory(pixels, labels, self.classes.clone(), source, paths, framing)
    }
}

/// The files in `path` that are left out, for the error about a folder without pictures.
///
/// # Errors
/// [`Error::Io`] when a folder cannot be listed.
pub fn left_out(path: &Path) -> Result<Option<String>> {
    Ok(Folder::read(path)?.left_out().note())
}

/// Rejects a split that has not the classes of `train`.
fn check_same(places: &Places, train: &Folder, other: &Folder) -> Result<()> {
    let names = |folder: &Folder| folder.folders.iter().map(Folder::name).collect::<Vec<_>>();
    let (here, there) = (names(train), names(other));
    let only = |of: &[String], these: &[String], folder| {
        let names: Vec<String> = of.iter().filter(|name| !these.contains(name)).cloned().collect();
        (!names.is_empty()).then(|| format!("; only in {}: {}", places.of(folder), shortened(&names)))
    };
    let differences = [only(&here, &there, train), only(&there, &here, other)];
    let differences: String = differences.into_iter().flatten().collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(places.error(format!(
        "expected the same classes in {} and {}{differences}",
        places.of(train),
        places.of(other)
    )))
}

/// Rejects classes without pictures.
fn check_filled(places: &Places, folder: &Folder) -> Result<()> {
    let empty = folder.folders.iter().filter(|class| class.count == 0);
    let empty: Vec<String> = empty.map(|class| places.of(class)).collect();
    if empty.is_empty() {
        return Ok(());
    }
    let found = format!("found none in {}{}", shortened(&empty), places.left_out());
    Err(places.error(format!("expected {} images in the folder of every class, {found}", picture::KINDS)))
}

/// The classes in `folder`.
fn classes(folder: &Folder) -> Result<Vec<Class>> {
    let class = |folder: &Folder| {
        let mut files = Vec::with_capacity(folder.count);
        folder.add_pictures(&mut files);
        (folder.name(), files)
    };
    let classes: Vec<Class> = folder.folders.iter().map(class).collect();
    if let [(name, _)] = &classes[..] {
        let message = format!(
            "expected a folder for each of two or more classes, found only {name}/; if the data set is in {name}/, give \
             that folder"
        );
        return Err(Error::format(&folder.path, None, message));
    }
    if classes.len() > MOST_CLASSES {
        let message = format!("expected at most {MOST_CLASSES} classes, found {} folders", classes.len());
        return Err(Error::format(&folder.path, None, message));
    }
    let mut names: Vec<&String> = classes.iter().map(|(name, _)| name).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let message =
            format!("expected folders of different names, found {} twice, once as bytes; rename one", twice[0]);
        return Err(Error::format(&folder.path, None, message));
    }
    Ok(classes)
}

/// Every fifth picture of each class, or the last of two to four, apart from the others: `(kept, held out)`.
fn hold_out(classes: Vec<Class>) -> (Files, Files) {
    let (mut kept, mut held_out) = (Vec::new(), Vec::new());
    for (name, files) in classes {
        let count = files.len();
        let is_held_out =
            |i: usize| if count < HELD_OUT { i > 0 && i == count - 1 } else { i % HELD_OUT == HELD_OUT - 1 };
        let (out, rest): (Vec<_>, Vec<_>) = files.into_iter().enumerate().partition(|&(i, _)| is_held_out(i));
        let paths = |files: Vec<(usize, PathBuf)>| files.into_iter().map(|(_, path)| path).collect();
        kept.push((name.clone(), paths(rest)));
        held_out.push((name, paths(out)));
    }
    (in_turn(kept), in_turn(held_out))
}

/// The first of each class, then the second of each, …, with their labels.
fn in_turn(classes: Vec<Class>) -> Files {
    let mut files: Vec<(usize, u16, PathBuf)> = Vec::new();
    for (label, (_, paths)) in classes.into_iter().enumerate() {
        files.extend(paths.into_iter().enumerate().map(|(i, path)| (i, label as u16, path)));
    }
    files.sort_by_key(|&(i, label, _)| (i, label));
    files.into_iter().map(|(_, label, path)| (path, label)).collect()
}

#[cfg(test)]
mod tests;
