//! A folder of pictures, one folder per class.
//!
//! ```text
//! DIR/train/CLASS/*.png   and   DIR/test/CLASS/*.png or DIR/val/CLASS/*.png      torchvision's ImageFolder
//! DIR/CLASS/*.jpg                                                                 every fifth picture is a test image
//! ```
//!
//! Classes are the names of the folders, sorted. The pictures of a class are those in its folder and its subfolders,
//! sorted; PNG and JPEG, of any size: [`picture`] converts them to `(S, S, 3)`. Entries whose names begin with a dot
//! (hidden) and files of other kinds are left out and counted.
//!
//! In the second layout pictures 5, 10, 15, … of each class (of fewer than five, the last, if there are two) are the
//! test images: the same ones every time, independent of the other classes.
//!
//! The data set contains the first image of each class, then the second of each, and so on: its first n images are as
//! balanced as the classes are. Pictures are decoded on all threads, each into its place.

use super::{Dataset, Splits, picture};
use crate::{Error, Result};
use ndarray::Array4;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Labels are bytes.
const MOST_CLASSES: usize = 256;
/// Depth of nested folders; links can form cycles.
const MOST_DEPTH: usize = 16;
/// Unreadable pictures that one error names.
const MOST_NAMED: usize = 10;
/// Without a `test` folder, every fifth picture of each class is held out.
const HELD_OUT: usize = 5;

/// The pictures found in a folder, before any is read.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    path: PathBuf,
    classes: Vec<String>,
    train: Vec<(PathBuf, u8)>,
    test: Vec<(PathBuf, u8)>,
    notes: Vec<String>,
}

/// A class and its pictures.
type Class = (String, Vec<PathBuf>);

/// Files that are left out, by extension.
#[derive(Default)]
struct Skipped(BTreeMap<String, usize>);

impl ImageFolder {
    /// Looks for pictures in `path`; `None` if it has neither layout.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be listed; [`Error::Format`] when one split is missing, a class has no
    /// pictures, there are fewer than two classes or more than 256, or the splits have different classes.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let is_split =
            |name: &str| Ok::<bool, Error>(path.join(name).is_dir() && holds_folders_only(&path.join(name))?);
        let (train, test, val) = (is_split("train")?, is_split("test")?, is_split("val")?);
        if train && (test || val) {
            return Self::of_splits(path, if test { "test" } else { "val" }, test && val).map(Some);
        }
        if train || test || val {
            let found = ["train", "test", "val"].iter().zip([train, test, val]).filter(|(_, is_there)| *is_there);
            let found: Vec<String> = found.map(|(name, _)| format!("{name}/")).collect();
            let message = format!(
                "expected train/ and test/ (or val/) with a folder for each class, found only {}; to hold every fifth \
                 image of a class out for testing, give the folder that contains the classes",
                found.join(" and ")
            );
            return Err(Error::format(path, None, message));
        }
        Self::of_classes(path)
    }

    fn of_splits(path: &Path, test: &str, both: bool) -> Result<Self> {
        let mut skipped = Skipped::default();
        let (train_path, test_path) = (path.join("train"), path.join(test));
        let (train, held_out) = (classes(&train_path, &mut skipped)?, classes(&test_path, &mut skipped)?);
        check_classes(&train_path, &train)?;
        check_classes(&test_path, &held_out)?;
        let names = |classes: &[Class]| classes.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let (here, there) = (names(&train), names(&held_out));
        if here != there {
            let without = |of: &[String], these: &[String]| {
                let names: Vec<String> = of.iter().filter(|name| !these.contains(name)).cloned().collect();
                if names.is_empty() { "none".to_string() } else { shortened(&names) }
            };
            let message = format!(
                "expected the classes of train/; only in train/: {}; only in {test}/: {}",
                without(&here, &there),
                without(&there, &here)
            );
            return Err(Error::format(test_path, None, message));
        }
        let mut notes = Vec::new();
        if both {
            notes.push("val/ is not read, because test/ exists".to_string());
        }
        notes.extend(skipped.note());
        Ok(ImageFolder {
            path: path.to_path_buf(),
            classes: here,
            train: in_turn(train.into_iter().map(|(_, files)| files).collect()),
            test: in_turn(held_out.into_iter().map(|(_, files)| files).collect()),
            notes,
        })
    }

    fn of_classes(path: &Path) -> Result<Option<Self>> {
        let mut skipped = Skipped::default();
        let classes = classes(path, &mut skipped)?;
        if classes.iter().all(|(_, files)| files.is_empty()) {
            return Ok(None);
        }
        check_classes(path, &classes)?;
        let (mut train, mut test) = (Vec::new(), Vec::new());
        let mut names = Vec::new();
        for (name, files) in classes {
            let count = files.len();
            let is_held_out =
                |i: usize| if count < HELD_OUT { i > 0 && i == count - 1 } else { i % HELD_OUT == HELD_OUT - 1 };
            let (held_out, kept): (Vec<_>, Vec<_>) = files.into_iter().enumerate().partition(|&(i, _)| is_held_out(i));
            let paths = |files: Vec<(usize, PathBuf)>| files.into_iter().map(|(_, path)| path).collect::<Vec<_>>();
            train.push(paths(kept));
            test.push(paths(held_out));
            names.push(name);
        }
        let (train, test) = (in_turn(train), in_turn(test));
        if test.is_empty() {
            let message = "expected at least two images of some class: one for training, one for testing";
            return Err(Error::format(path, None, message));
        }
        let mut notes = vec![format!(
            "no test/ or val/: every fifth image of each class, {} in all, is held out for testing",
            test.len()
        )];
        notes.extend(skipped.note());
        Ok(Some(ImageFolder { path: path.to_path_buf(), classes: names, train, test, notes }))
    }

    /// Notes for the user: what was held out, what was left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of bytes of the images as `(S, S, 3)`, S = `size`.
    pub fn bytes(&self, size: usize) -> u64 {
        ((self.train.len() + self.test.len()) * size * size * 3) as u64
    }

    /// Reads every picture as `(S, S, 3)`, S = `size`.
    ///
    /// # Errors
    /// [`Error::Format`] when pictures cannot be read; the message names up to ten of them, with the reasons.
    pub fn load(&self, size: usize) -> Result<Splits> {
        let mut broken = Vec::new();
        let source = |what: &str| format!("{what} images, {}", self.path.display());
        let train = self.read(&self.train, size, source("training"), &mut broken)?;
        let test = self.read(&self.test, size, source("test"), &mut broken)?;
        if broken.is_empty() {
            return Ok(Splits { train, test });
        }
        let more = broken.len().saturating_sub(MOST_NAMED);
        let named: Vec<String> = broken.iter().take(MOST_NAMED).map(Error::to_string).collect();
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        let message = format!(
            "{} of {} images cannot be read; repair or remove them:\n  {}{more}",
            broken.len(),
            self.train.len() + self.test.len(),
            named.join("\n  ")
        );
        Err(Error::format(&self.path, None, message))
    }

    fn read(&self, files: &[(PathBuf, u8)], size: usize, source: String, broken: &mut Vec<Error>) -> Result<Dataset> {
        let mut pixels = vec![0; files.len() * size * size * 3];
        let read = |(place, (path, _)): (&mut [u8], &(PathBuf, u8))| match picture::read(path, size) {
            Ok(image) => {
                place.copy_from_slice(image.as_slice().expect("standard layout"));
                None
            }
            Err(error) => Some(error),
        };
        let errors: Vec<Option<Error>> = pixels.par_chunks_mut(size * size * 3).zip(files).map(read).collect();
        broken.extend(errors.into_iter().flatten());
        let pixels = Array4::from_shape_vec((files.len(), size, size, 3), pixels).expect("one place a file");
        Dataset::new(pixels, files.iter().map(|&(_, label)| label).collect(), self.classes.clone(), source)
    }
}

/// The entries of a folder that are not hidden, sorted by name: folders, and files. The number of hidden ones is added to
/// `skipped`.
fn entries(folder: &Path, skipped: &mut Skipped) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| Error::io(folder, "list", error))? {
        let entry = entry.map_err(|error| Error::io(folder, "list", error))?;
        match entry.file_name().as_encoded_bytes().first() {
            Some(b'.') => skipped.add("hidden"),
            _ => paths.push(entry.path()),
        }
    }
    paths.sort();
    Ok(paths.into_iter().partition(|path| path.is_dir()))
}

/// Whether a folder looks like a split: it contains folders, and no picture beside them.
fn holds_folders_only(folder: &Path) -> Result<bool> {
    let (folders, files) = entries(folder, &mut Skipped::default())?;
    Ok(!folders.is_empty() && !files.iter().any(|file| is_picture(file)))
}

/// The extension of a file in lower case, with its dot.
fn extension(path: &Path) -> Option<String> {
    path.extension().map(|extension| format!(".{}", extension.to_string_lossy().to_lowercase()))
}

fn is_picture(path: &Path) -> bool {
    extension(path).is_some_and(|extension| picture::EXTENSIONS.contains(&&extension[1..]))
}

/// The folders in `path` and the pictures in each.
fn classes(path: &Path, skipped: &mut Skipped) -> Result<Vec<Class>> {
    let (folders, files) = entries(path, skipped)?;
    files.iter().for_each(|file| skipped.add_file(file));
    if folders.len() > MOST_CLASSES {
        let message = format!("expected at most {MOST_CLASSES} classes, found {} folders", folders.len());
        return Err(Error::format(path, None, message));
    }
    let class = |folder: PathBuf| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut files = Vec::new();
        pictures(&folder, 0, &mut files, skipped)?;
        Ok((name, files))
    };
    folders.into_iter().map(class).collect()
}

/// Adds the pictures in `folder`, then those of its subfolders.
fn pictures(folder: &Path, depth: usize, found: &mut Vec<PathBuf>, skipped: &mut Skipped) -> Result<()> {
    if depth == MOST_DEPTH {
        let message = format!("expected at most {MOST_DEPTH} nested folders, found more (a link that forms a cycle?)");
        return Err(Error::format(folder, None, message));
    }
    let (folders, files) = entries(folder, skipped)?;
    for file in files {
        if is_picture(&file) {
            found.push(file);
        } else {
            skipped.add_file(&file);
        }
    }
    folders.iter().try_for_each(|folder| pictures(folder, depth + 1, found, skipped))
}

fn check_classes(path: &Path, classes: &[Class]) -> Result<()> {
    if let [(name, _)] = classes {
        let message = format!(
            "expected a folder for each of two or more classes, found only {name}/; if the data set is in {name}/, give \
             that folder"
        );
        return Err(Error::format(path, None, message));
    }
    let empty: Vec<String> =
        classes.iter().filter(|(_, files)| files.is_empty()).map(|(name, _)| format!("{name}/")).collect();
    if classes.is_empty() || !empty.is_empty() {
        let found = if empty.is_empty() { "no folder".to_string() } else { format!("none in {}", shortened(&empty)) };
        let message = format!("expected PNG or JPEG images in the folder of every class, found {found}");
        return Err(Error::format(path, None, message));
    }
    Ok(())
}

/// The first of each class, then the second of each, …, with their labels.
fn in_turn(classes: Vec<Vec<PathBuf>>) -> Vec<(PathBuf, u8)> {
    let mut files: Vec<(usize, u8, PathBuf)> = Vec::new();
    for (label, paths) in classes.into_iter().enumerate() {
        files.extend(paths.into_iter().enumerate().map(|(i, path)| (i, label as u8, path)));
    }
    files.sort_by_key(|&(i, label, _)| (i, label));
    files.into_iter().map(|(_, label, path)| (path, label)).collect()
}

/// Names for a message, at most twenty.
fn shortened(names: &[String]) -> String {
    let more = names.len().saturating_sub(20);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

impl Skipped {
    fn add(&mut self, kind: &str) {
        *self.0.entry(kind.to_string()).or_insert(0) += 1;
    }

    fn add_file(&mut self, path: &Path) {
        self.add(extension(path).as_deref().unwrap_or("no extension"));
    }

    /// `3 files left out, hidden or not PNG or JPEG: .db 1, .txt 2`.
    fn note(&self) -> Option<String> {
        let count: usize = self.0.values().sum();
        let kinds: Vec<String> = self.0.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let files = if count == 1 { "file" } else { "files" };
        (count > 0).then(|| format!("{count} {files} left out, hidden or not PNG or JPEG: {}", kinds.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A temporary folder with files of these names; they are empty unless a test reads pictures.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str, files: &[&str]) -> Self {
            let path = std::env::temp_dir().join(format!("resnet-by-hand-folder-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            let new = Files(path);
            files.iter().for_each(|file| new.add(file));
            new
        }

        fn add(&self, file: &str) {
            let path = self.0.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }

        fn found(&self) -> ImageFolder {
            ImageFolder::find(&self.0).unwrap().expect("a folder of pictures")
        }

        fn refused(&self) -> String {
            ImageFolder::find(&self.0).unwrap_err().to_string()
        }

        /// Pictures and labels as text: `a/1.png 0`.
        fn names(&self, pictures: &[(PathBuf, u8)]) -> Vec<String> {
            let name = |path: &Path| path.strip_prefix(&self.0).unwrap().display().to_string();
            pictures.iter().map(|(path, label)| format!("{} {label}", name(path))).collect()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn test_goes_before_val_and_that_is_told() {
        let files = ["train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png"];
        let files = Files::new("splits", &files);
        assert_eq!(files.names(&files.found().test), ["val/a/2.png 0", "val/b/2.png 1"]);
        assert_eq!(files.found().notes(), [""; 0]);
        files.add("test/a/3.png");
        files.add("test/b/3.png");
        assert_eq!(files.names(&files.found().test), ["test/a/3.png 0", "test/b/3.png 1"]);
        assert_eq!(files.found().notes(), ["val/ is not read, because test/ exists"]);
    }

    #[test]
    fn classes_take_turns_and_what_is_held_out_is_left_out_before() {
        let files =
            ["b/x/9.png", "b/1.png", "a/1.png", "c/1.png", "c/2.png", "c/3.png", "c/4.png", "c/5.png", "c/6.png"];
        let files = Files::new("turns", &files);
        let found = files.found();
        assert_eq!(found.classes(), ["a", "b", "c"]);
        // Of b the last of two, of c the fifth; a has only one.
        let train = ["a/1.png 0", "b/1.png 1", "c/1.png 2", "c/2.png 2", "c/3.png 2", "c/4.png 2", "c/6.png 2"];
        assert_eq!(files.names(&found.train), train);
        assert_eq!(files.names(&found.test), ["b/x/9.png 1", "c/5.png 2"]);
        files.add("a/2.png");
        files.add("a/3.png");
        assert_eq!(files.names(&files.found().train)[..4], ["a/1.png 0", "b/1.png 1", "c/1.png 2", "a/2.png 0"]);
    }

    #[test]
    fn a_class_may_be_called_train() {
        let files = ["train/1.png", "train/steam/2.png", "plane/1.png", "plane/jet/2.png"];
        let files = Files::new("train", &files);
        assert_eq!(files.found().classes(), ["plane", "train"]);
    }

    #[test]
    fn one_picture_of_each_class_leaves_nothing_to_test_on() {
        let files = Files::new("one", &["a/1.png", "b/1.png"]);
        assert!(files.refused().contains("expected at least two images of some class"), "{}", files.refused());
    }

    #[test]
    fn folders_in_folders_have_an_end() {
        let deep = |depth: usize| format!("a/{}x.png", "in/".repeat(depth));
        let files = Files::new("deep", &[&deep(MOST_DEPTH - 1), "a/1.png", "b/1.png"]);
        assert_eq!(files.found().train.len(), 2);
        files.add(&deep(MOST_DEPTH));
        assert!(files.refused().contains("expected at most 16 nested folders"), "{}", files.refused());
    }

    #[test]
    fn labels_are_bytes() {
        let files = Files::new("many", &["000/extra.png"]);
        (0..256).for_each(|class| files.add(&format!("{class:03}/1.png")));
        let found = files.found();
        assert_eq!(found.classes().len(), 256);
        assert_eq!(files.names(&found.train).last().unwrap(), "255/1.png 255");
        files.add("256/1.png");
        assert!(files.refused().contains("expected at most 256 classes, found 257 folders"), "{}", files.refused());
    }

    #[test]
    fn ten_broken_pictures_are_named() {
        let files = Files::new("broken", &[]);
        (0..12).for_each(|i| files.add(&format!("a/{i:02}.png")));
        (0..2).for_each(|i| files.add(&format!("b/{i:02}.png")));
        let pixels = ndarray::Array3::zeros((4, 4, 3));
        picture::write_png(&files.0.join("b/00.png"), pixels.view()).unwrap();
        let message = files.found().load(4).unwrap_err().to_string();
        assert!(message.contains("13 of 14 images cannot be read") && message.ends_with("\n  and 3 more"), "{message}");
        assert_eq!(message.matches("found an empty file").count(), 10, "{message}");
    }
}
