//! The pictures to classify: files, and what is in folders.
//!
//! A folder stands for the pictures in it and in its subfolders: sorted by name, those of a folder before those of its
//! subfolders. Hidden files and folders, and files whose extension is not that of a picture, are left out and counted. A file
//! that is named itself is taken as it is.

use crate::Error;
use crate::data::picture::EXTENSIONS;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, Default)]
pub struct Files {
    pub pictures: Vec<PathBuf>,
    pub left_out: LeftOut,
    /// Folders without pictures, of those that were named.
    pub empty: Vec<PathBuf>,
    /// Folders that cannot be listed.
    pub errors: Vec<(PathBuf, Error)>,
}

/// How many files of which kind were left out.
#[derive(Debug, Default)]
pub struct LeftOut(BTreeMap<String, usize>);

impl Files {
    /// Looks for the pictures in `paths`, in this order.
    pub fn find(paths: &[PathBuf]) -> Self {
        let mut found = Files::default();
        for path in paths {
            if !path.is_dir() {
                found.pictures.push(path.clone());
                continue;
            }
            let before = (found.pictures.len(), found.errors.len());
            found.walk(path, &mut Vec::new());
            if (found.pictures.len(), found.errors.len()) == before {
                found.empty.push(path.clone());
            }
        }
        found
    }

    /// Adds the pictures in `folder`, which is inside the folders `above`.
    fn walk(&mut self, folder: &Path, above: &mut Vec<PathBuf>) {
        let listed = fs::canonicalize(folder).and_then(|real| {
            let paths: Vec<PathBuf> =
                fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
            Ok((real, paths))
        });
        let (real, mut paths) = match listed {
            Ok(listed) => listed,
            Err(error) => return self.errors.push((folder.to_path_buf(), Error::io(folder, "list", error))),
        };
        // A link to a folder that contains it.
        if above.contains(&real) {
            return;
        }
        paths.sort();
        let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
            paths.into_iter().filter(|path| !self.hides(path)).partition(|path| path.is_dir());
        for file in files {
            match extension(&file) {
                Some(extension) if EXTENSIONS.contains(&extension.as_str()) => self.pictures.push(file),
                Some(extension) => self.left_out.add(&format!(".{extension}")),
                None => self.left_out.add("no extension"),
            }
        }
        above.push(real);
        folders.iter().for_each(|folder| self.walk(folder, above));
        above.pop();
    }

    /// Counts `path` as left out if it is hidden.
    fn hides(&mut self, path: &Path) -> bool {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden {
            self.left_out.add("hidden");
        }
        is_hidden
    }
}

impl LeftOut {
    fn add(&mut self, kind: &str) {
        *self.0.entry(kind.to_string()).or_insert(0) += 1;
    }

    /// `note: left out: .csv 1, .txt 2, hidden 1`.
    pub fn note(&self) -> Option<String> {
        let kinds: Vec<String> = self.0.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        (!kinds.is_empty()).then(|| format!("note: left out: {}", kinds.join(", ")))
    }
}

/// In lower case.
fn extension(path: &Path) -> Option<String> {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_walked_in_order() {
        let root = std::env::temp_dir().join(format!("resnet-by-hand-predict-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for file in
            ["b.JPG", "a.png", "notes.txt", "README", ".DS_Store", "sub/deep/c.jpeg", "sub/d.png", ".hidden/e.png"]
        {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(&root, root.join("sub/again")).unwrap();
        // What is named is taken, whatever it is called and whether it exists.
        let named = root.join("README");
        let found = Files::find(&[named.clone(), root.clone(), root.join("absent.png")]);
        let names: Vec<_> =
            found.pictures.iter().map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["README", "a.png", "b.JPG", "sub/d.png", "sub/deep/c.jpeg", "absent.png"]);
        assert_eq!(found.left_out.note().unwrap(), "note: left out: .txt 1, hidden 2, no extension 1");
        assert!(found.errors.is_empty() && found.empty.is_empty());
        fs::create_dir(root.join("empty")).unwrap();
        assert_eq!(Files::find(&[root.clone(), root.join("empty")]).empty, [root.join("empty")]);
        assert!(Files::find(&[named]).left_out.note().is_none());
        fs::remove_dir_all(&root).unwrap();
    }
}
