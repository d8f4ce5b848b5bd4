//! Layouts as people have them: `layouts.rs` those that are read, `rejected.rs` those that are not, `files.rs` what is made of
//! the files.

mod files;
mod layouts;
mod rejected;

use super::tree::MOST_DEPTH;
use super::*;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A temporary folder with files of these names; they are empty unless a test reads pictures.
struct Files(PathBuf);

impl Files {
    fn new(name: &str, files: &[&str]) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("resnet-by-hand-folder-{}-{number}-{name}", std::process::id()));
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
    fn names(&self, pictures: &[(PathBuf, u16)]) -> Vec<String> {
        let name = |path: &Path| path.strip_prefix(&self.0).unwrap().display().to_string();
        pictures.iter().map(|(path, label)| format!("{} {label}", name(path))).collect()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The notes about these pictures.
fn notes(pictures: &[&str]) -> Vec<String> {
    Files::new("notes", pictures).found().notes().to_vec()
}

/// Rejects these pictures with a message that contains the parts.
fn rejected(pictures: &[&str], parts: &[&str]) {
    let message = Files::new("rejected", pictures).refused();
    parts.iter().for_each(|part| assert!(message.contains(part), "{part}: {message}"));
}
