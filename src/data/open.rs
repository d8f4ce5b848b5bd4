//! Opens the data set at a path: CIFAR-10, CIFAR-100, or a folder of pictures.

#[cfg(feature = "formats")]
use super::{Dataset, folder::ImageFolder};
use super::{Framing, Splits, cifar, cifar10, cifar100};
use crate::{Error, Result};
use std::path::Path;

/// The kind of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CIFAR-10, or a part of it.
    Cifar10,
    /// CIFAR-100 with its fine labels.
    Cifar100,
    /// Pictures in a folder for each class.
    Folder,
}

/// A data set, and how it was read.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The images.
    pub splits: Splits,
    /// Its kind.
    pub kind: Kind,
    /// What it is and where, for messages.
    pub description: String,
    /// Notes for the user about how it was read.
    pub notes: Vec<String>,
}

/// Opens the data set at `path`. Pictures in folders (feature `formats`) are converted to `(S, S, 3)`; those of
/// CIFAR keep their 32x32 pixels. If the pictures take more than half of `memory` bytes, a quarter of `memory` is used for
/// them, and those that do not fit are decoded whenever they are used.
///
/// # Errors
/// As [`cifar10::load`] and `ImageFolder::load` (feature `formats`).
pub fn open(path: &Path, framing: impl Into<Framing>, memory: Option<u64>) -> Result<Opened> {
    let sets = [&cifar10::PUBLISHED, &cifar100::PUBLISHED];
    if let Some((splits, set)) = cifar::load(path, &sets, cifar10::BATCH_IMAGES)? {
        let kind = if set.name == cifar10::PUBLISHED.name { Kind::Cifar10 } else { Kind::Cifar100 };
        let description = format!("{} from {}", set.name, path.display());
        return Ok(Opened { splits, kind, description, notes: Vec::new() });
    }
    open_folder(path, framing.into(), memory)?.ok_or_else(|| {
        let folders = "images in train/CLASS/ and test/CLASS/ (or val/CLASS/), or in CLASS/";
        if let Some(left_out) = left_out(path) {
            let message = format!("expected {folders}, or the files of CIFAR-10 or CIFAR-100, found none: {left_out}");
            return Error::format(path, None, message);
        }
        let sets = sets.map(cifar::Published::where_it_is).join(", or ");
        match cifar::list(path) {
            Ok(found) => Error::format(path, None, format!("expected {sets}, or {folders}; found {found}")),
            Err(error) => error,
        }
    })
}

#[cfg(feature = "formats")]
fn open_folder(path: &Path, framing: Framing, memory: Option<u64>) -> Result<Option<Opened>> {
    let Some(folder) = ImageFolder::find(path)? else { return Ok(None) };
    let (bytes, mut notes) = (folder.bytes(framing.crop), folder.notes().to_vec());
    // Dividing a data set copies it, and training needs memory, too.
    let kept = match memory {
        Some(memory) if bytes > memory / 2 => memory / 4,
        _ => bytes,
    };
    let description = format!("{} classes of images from {}, as {framing}", folder.classes().len(), path.display());
    let splits = folder.load(framing, kept)?;
    if kept < bytes {
        let all = [Some(&splits.train), splits.validation.as_ref(), Some(&splits.test)];
        let count = |of: fn(&Dataset) -> usize| all.into_iter().flatten().map(of).sum::<usize>();
        notes.push(format!(
            "the images do not fit into memory: {} of {} are kept, the others are decoded from their files whenever they \
             are used; a smaller image size needs less memory",
            count(Dataset::in_memory),
            count(Dataset::len)
        ));
    }
    Ok(Some(Opened { splits, kind: Kind::Folder, description, notes }))
}

/// The files of other kinds in a folder without pictures.
#[cfg(feature = "formats")]
fn left_out(path: &Path) -> Option<String> {
    super::folder::left_out(path).ok().flatten()
}

#[cfg(not(feature = "formats"))]
fn left_out(_: &Path) -> Option<String> {
    None
}

#[cfg(not(feature = "formats"))]
fn open_folder(_: &Path, _: Framing, _: Option<u64>) -> Result<Option<Opened>> {
    Ok(None)
}
