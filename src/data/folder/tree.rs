//! What a folder contains: folders, pictures, and files that are left out.

use crate::data::picture;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Depth of nested folders.
pub const MOST_DEPTH: usize = 16;
/// Folders that systems and programs add, as names in lower case.
const SYSTEM: [&str; 6] =
    ["__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"];

/// A folder and everything in it, sorted by name.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub folders: Vec<Folder>,
    /// The pictures in the folder itself.
    pub pictures: Vec<PathBuf>,
    /// The number of pictures in it and in its subfolders.
    pub count: usize,
    left_out: LeftOut,
}

/// The number of files that are left out, by extension.
#[derive(Clone, Debug, Default)]
pub struct LeftOut(BTreeMap<String, usize>);

impl Folder {
    /// Lists `path` and its subfolders. Entries whose names begin with a dot (hidden) and those of [`SYSTEM`] are left out.
    pub fn read(path: &Path) -> Result<Self> {
        Self::below(path, &mut Vec::new())
    }

    fn below(path: &Path, outer: &mut Vec<PathBuf>) -> Result<Self> {
        let fault = |error| Error::io(path, "list", error);
        if outer.len() > MOST_DEPTH {
            return Err(Error::format(path, None, format!("expected at most {MOST_DEPTH} nested folders, found more")));
        }
        let own = path.canonicalize().map_err(fault)?;
        if outer.contains(&own) {
            let message = format!("a link leads back to {}; remove it", own.display());
            return Err(Error::format(path, None, message));
        }
        outer.push(own);
        let mut folder = Folder {
            path: path.to_path_buf(),
            folders: Vec::new(),
            pictures: Vec::new(),
            count: 0,
            left_out: LeftOut::default(),
        };
        let mut entries = fs::read_dir(path).map_err(fault)?.collect::<std::io::Result<Vec<_>>>().map_err(fault)?;
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let (name, path) = (entry.file_name(), entry.path());
            let lower = name.to_string_lossy().to_lowercase();
            let kind = entry.file_type().map_err(|error| Error::io(&path, "read", error))?;
            if lower.starts_with('.') {
                folder.left_out.add("hidden");
            } else if SYSTEM.contains(&lower.as_str()) {
                folder.left_out.add(&name.to_string_lossy());
            } else if kind.is_dir() || kind.is_symlink() && path.is_dir() {
                folder.folders.push(Self::below(&path, outer)?);
            } else {
                match extension(&path) {
                    Some(extension) if picture::EXTENSIONS.contains(&extension.as_str()) => folder.pictures.push(path),
                    Some(extension) => folder.left_out.add(&format!(".{extension}")),
                    None => folder.left_out.add("no extension"),
                }
            }
        }
        outer.pop();
        folder.count = folder.pictures.len() + folder.folders.iter().map(|inner| inner.count).sum::<usize>();
        Ok(folder)
    }

    /// The name, in which bytes that are not UTF-8 are written as `\xE9`: two such names stay different.
    pub fn name(&self) -> String {
        let mut text = String::new();
        for chunk in self.path.file_name().unwrap_or_default().as_encoded_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
        }
        text
    }

    /// The folders with pictures in them or in their subfolders.
    pub fn filled(&self) -> Vec<&Folder> {
        self.folders.iter().filter(|folder| folder.count > 0).collect()
    }

    /// The number of pictures in subfolders.
    pub fn deeper(&self) -> usize {
        self.count - self.pictures.len()
    }

    /// Adds the pictures in the folder, then those of its subfolders.
    pub fn add_pictures(&self, found: &mut Vec<PathBuf>) {
        found.extend_from_slice(&self.pictures);
        self.folders.iter().for_each(|folder| folder.add_pictures(found));
    }

    /// What is left out here and in all subfolders.
    pub fn left_out(&self) -> LeftOut {
        let mut all = self.left_out.clone();
        for inner in &self.folders {
            inner.left_out().0.into_iter().for_each(|(kind, count)| *all.0.entry(kind).or_insert(0) += count);
        }
        all
    }
}

impl LeftOut {
    fn add(&mut self, kind: &str) {
        *self.0.entry(kind.to_string()).or_insert(0) += 1;
    }

    /// `3 files left out, hidden or not PNG, JPEG, WebP, BMP, GIF or TIFF: .db 1, .txt 2`; `None` if nothing is.
    pub fn note(&self) -> Option<String> {
        let count: usize = self.0.values().sum();
        let kinds: Vec<String> = self.0.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let files = if count == 1 { "file" } else { "files" };
        (count > 0).then(|| format!("{count} {files} left out, hidden or not {}: {}", picture::KINDS, kinds.join(", ")))
    }

    /// Whether there are files with this extension, such as `.csv`.
    pub fn has(&self, extension: &str) -> bool {
        self.0.contains_key(extension)
    }
}

/// The extension of a file in lower case.
fn extension(path: &Path) -> Option<String> {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase())
}
