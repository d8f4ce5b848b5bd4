//! Writes a file whole or not at all.

use crate::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path`: to a temporary file beside it, synced to disk, then renamed over it. Whatever happens in
/// between, `path` has either its old content or the new one.
///
/// # Errors
/// If the folder cannot be written to or the disk is full; the temporary file is then removed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = beside(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let result = written.map_err(|error| Error::io(&temporary, "write", error)).and_then(|()| rename(&temporary, path));
    if result.is_err() {
        // Nothing depends on this: at worst an incomplete `.tmp` is left.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// The last step of [`write()`]: renames `temporary`, complete and synced to disk, to `path` in the same folder.
///
/// # Errors
/// If the folder cannot be written to, or `path` is a folder.
pub fn rename(temporary: &Path, path: &Path) -> Result<()> {
    std::fs::rename(temporary, path).map_err(|error| Error::io(path, "replace", error))?;
    sync_folder(path);
    Ok(())
}

/// `weights.safetensors` → `weights.safetensors.tmp`, in the same folder, so that the rename cannot cross file systems.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Makes the rename itself durable. Not every system can sync a folder; the content is safe without it.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_behind_and_the_old_content_in_place() {
        let folder = std::env::temp_dir().join(format!("resnet-by-hand-atomic-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        // The target is a folder that is not empty: the rename fails after the temporary file was written.
        std::fs::create_dir_all(folder.join("taken").join("inner")).unwrap();
        let message = write(&folder.join("taken"), b"x").unwrap_err().to_string();
        assert!(message.contains("taken"), "{message}");
        assert!(!folder.join("taken.tmp").exists());
        let message = write(&folder.join("missing").join("file"), b"x").unwrap_err().to_string();
        assert!(message.starts_with("cannot write"), "{message}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
