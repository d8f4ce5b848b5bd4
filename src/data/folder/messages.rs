//! Words about folders.

use super::tree::Folder;
use crate::Error;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Names the folders in `top`.
pub struct Places<'a> {
    pub top: &'a Folder,
}

impl Places<'_> {
    pub fn error(&self, message: String) -> Error {
        Error::format(&self.top.path, None, message)
    }

    /// `train/cats/`.
    pub fn of(&self, folder: &Folder) -> String {
        format!("{}/", self.inside(&folder.path))
    }

    /// A path as seen from the top folder, with `/` on every system.
    fn inside(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.top.path).ok().filter(|inside| !inside.as_os_str().is_empty());
        let parts = inside.unwrap_or(path).iter().map(|part| part.to_string_lossy().into_owned());
        parts.collect::<Vec<_>>().join("/")
    }

    /// A note about the pictures beside the folders of the classes, in `read` and in the folders around them.
    pub fn strays(&self, read: &[&Folder]) -> Option<String> {
        let mut found = Vec::new();
        self.add_strays(self.top, read, &mut found);
        let pictures = if found.len() == 1 { "picture" } else { "pictures" };
        let note = format!("{} {pictures} beside the folders of the classes left out: ", found.len());
        (!found.is_empty()).then(|| note + &shortened(&found))
    }

    fn add_strays(&self, folder: &Folder, read: &[&Folder], found: &mut Vec<String>) {
        if read.iter().any(|read| read.path.starts_with(&folder.path)) {
            found.extend(folder.pictures.iter().map(|picture| self.inside(picture)));
            folder.folders.iter().for_each(|inner| self.add_strays(inner, read, found));
        }
    }

    /// The error about pictures in `folders` that have no class; the training images in `train` do have one.
    pub fn without_classes(&self, folders: &[&Folder], train: Option<&Folder>) -> Error {
        let found = joined(folders.iter().map(|folder| {
            let place = if std::ptr::eq(*folder, self.top) { "the folder itself".to_string() } else { self.of(folder) };
            let count = if folder.pictures.is_empty() { folder.count } else { folder.pictures.len() };
            format!("{place} ({count})")
        }));
        let mut message = format!(
            "expected a folder for each class (train/CLASS/ and test/CLASS/, or CLASS/), found pictures without classes \
             in {found}; move them into folders named like their classes"
        );
        let prefixes = folders.iter().find_map(|folder| prefixes(folder));
        if let Some(prefixes) = prefixes {
            message += &format!(" (the names of the pictures begin with {})", shortened(&prefixes));
        }
        if let Some(train) = train {
            message += &format!(
                "; or give {} alone: every fifth image of each class is then held out for testing",
                train.path.display()
            );
        }
        if self.top.left_out().has(".csv") {
            message += "; labels in a table (.csv) are not read";
        }
        self.error(message)
    }
}

/// The letters that the names of the pictures begin with, if these look like classes: `cat.0.jpg` and `dog.0.jpg`.
fn prefixes(folder: &Folder) -> Option<Vec<String>> {
    let mut pictures = Vec::new();
    folder.add_pictures(&mut pictures);
    let prefix = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        let letters: String = name.chars().take_while(|letter| letter.is_alphabetic()).collect();
        (!letters.is_empty()).then_some(letters)
    };
    let found: Option<BTreeSet<String>> = pictures.iter().map(prefix).collect();
    found.filter(|found| found.len() > 1 && 2 * found.len() <= pictures.len()).map(|found| found.into_iter().collect())
}

/// `a, b and c`.
pub fn joined(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    match names.pop() {
        Some(last) if !names.is_empty() => format!("{} and {last}", shortened(&names)),
        last => last.unwrap_or_default(),
    }
}

/// Names, at most twenty.
pub fn shortened(names: &[String]) -> String {
    let more = names.len().saturating_sub(20);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}
