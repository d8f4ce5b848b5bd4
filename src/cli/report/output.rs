//! Writes the files of a report. A file is replaced only if an earlier report wrote it.

use super::chart::{raster, svg};
use super::figures::{Figure, STEMS};
use super::markup::Markup;
use super::png;
use crate::formats::atomic;
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;

/// A text that every file of a report contains near its beginning.
const MARK: &[u8] = b"resnet report";

/// The number of bytes at the beginning that are searched for it.
const NEAR: u64 = 400;

/// Writes the page and every chart into `folder`, each file whole or not at all, and removes charts of an earlier
/// report that this one does not have.
pub fn write(folder: &Path, page: &Markup, figures: &[Figure]) -> Result<()> {
    let mut files = Vec::new();
    for figure in figures {
        files.push((format!("{}.svg", figure.stem), svg::document(&figure.scene).as_str().as_bytes().to_vec()));
        files.push((format!("{}.png", figure.stem), png::encode(raster::draw(&figure.scene).view())));
    }
    // The page is last: if it is new, everything is.
    files.push(("report.html".to_string(), page.as_str().as_bytes().to_vec()));
    check(folder)?;
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create", error))?;
    files.iter().try_for_each(|(name, _)| check_ours(&folder.join(name)))?;
    files.iter().try_for_each(|(name, bytes)| atomic::write(&folder.join(name), bytes))?;
    remove_others(folder, &files)
}

/// Rejects a path that is not a folder, and a page that no report wrote, before anything is computed.
pub fn check(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        return Err(Error::format(folder, None, "expected a folder, found a file; give another folder with --out"));
    }
    check_ours(&folder.join("report.html"))
}

fn check_ours(path: &Path) -> Result<()> {
    match is_ours(path)? {
        false => {
            let message = "already exists and was not made by `resnet report`; nothing was changed. Give another folder with \
                           --out";
            Err(Error::format(path, None, message))
        }
        true => Ok(()),
    }
}

/// Whether a report wrote the file, or it does not exist.
fn is_ours(path: &Path) -> Result<bool> {
    let mut beginning = Vec::new();
    match File::open(path).and_then(|file| file.take(NEAR).read_to_end(&mut beginning)) {
        Ok(_) => Ok(beginning.windows(MARK.len()).any(|part| part == MARK)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(false),
        Err(error) => Err(Error::io(path, "read", error)),
    }
}

/// Removes the charts of earlier reports.
fn remove_others(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| Error::io(folder, "list", error))? {
        let entry = entry.map_err(|error| Error::io(folder, "list", error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_new = files.iter().any(|(new, _)| *new == name);
        if !is_new && is_chart(&name) && is_ours(&entry.path())? {
            fs::remove_file(entry.path()).map_err(|error| Error::io(entry.path(), "remove", error))?;
        }
    }
    Ok(())
}

/// Whether this can be the name of a chart: `train_loss.svg`, `confusion_matrix_run2.png`.
fn is_chart(name: &str) -> bool {
    let Some((stem, "svg" | "png")) = name.rsplit_once('.') else { return false };
    let stem = match stem.rsplit_once("_run") {
        Some((stem, number)) if number.parse::<usize>().is_ok() => stem,
        _ => stem,
    };
    STEMS.contains(&stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_known_by_their_names() {
        for name in ["train_loss.svg", "confusion_matrix.png", "confusion_matrix_run12.png"] {
            assert!(is_chart(name), "{name}");
        }
        for name in ["train_loss.txt", "train_loss", "my_loss.svg", "train_loss_run.svg", "train_loss.svg.png"] {
            assert!(!is_chart(name), "{name}");
        }
    }
}
