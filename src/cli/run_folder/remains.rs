//! What a process that was killed leaves in the folder of a run: temporary files, and a run without a checkpoint.

use super::{GROWING, RESULT, checkpoints};
use crate::cli::events;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that are replaced as a whole, beside those of [`GROWING`].
const REPLACED: [&str; 5] = ["config.toml", RESULT, "weights.safetensors", "best.safetensors", "repeat.json"];

/// What the names of entries are.
#[derive(Clone, Copy, PartialEq)]
enum Entry {
    /// The temporary file of [`atomic::write`](crate::formats::atomic::write).
    Temporary,
    /// Written before the first checkpoint.
    Early,
    Other,
}

fn entry(name: &str) -> Entry {
    let whole = name.strip_suffix(".tmp");
    let is_checkpoint = |name: &str| name.starts_with("epoch-") && name.ends_with(".safetensors");
    match whole {
        Some(whole) if REPLACED.contains(&whole) || GROWING.contains(&whole) || is_checkpoint(whole) => {
            Entry::Temporary
        }
        _ if ["lock", "config.toml"].contains(&name) || GROWING.contains(&name) => Entry::Early,
        _ if events::is_name(name) => Entry::Early,
        _ => Entry::Other,
    }
}

/// The entries of a folder, sorted; none if it cannot be listed.
fn entries(folder: &Path) -> Vec<(PathBuf, Entry)> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|found| (found.path(), found.file_name().to_str().map_or(Entry::Other, entry)))
        .collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries
}

/// Removes the temporary files of interrupted writes and returns them. Links are kept: no run makes them.
pub fn remove_temporary(run: &Path) -> Vec<PathBuf> {
    let all = entries(run).into_iter().chain(entries(&run.join("checkpoints")));
    let is_ours = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let temporary = all.filter(|(path, entry)| *entry == Entry::Temporary && is_ours(path));
    // One that cannot be removed is harmless.
    temporary.map(|(path, _)| path).filter(|path| fs::remove_file(path).is_ok()).collect()
}

/// Whether the folder contains what a run writes before its first checkpoint, and nothing else. Without a `lock` it is not
/// the folder of a run.
pub fn is_unbegun(run: &Path) -> bool {
    let folder = run.join("checkpoints");
    let is_empty = || folder.is_dir() && entries(&folder).iter().all(|(_, entry)| *entry == Entry::Temporary);
    run.join("lock").is_file()
        && entries(run).iter().all(|(path, entry)| *entry != Entry::Other || (*path == folder && is_empty()))
}

/// Empties the folder of such a run, except for the lock, which the caller holds.
pub fn clear(run: &Path) -> Result<()> {
    for (path, _) in entries(run) {
        let removed = match path.file_name() {
            Some(name) if name == "lock" => Ok(()),
            Some(name) if name == "checkpoints" => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.map_err(|error| Error::io(&path, "remove", error))?;
    }
    Ok(())
}

/// Whether the folder `path` contains a run that can be resumed: its first checkpoint is written before its first step.
pub fn has_begun(path: &Path) -> bool {
    checkpoints(path, 1).files().is_ok_and(|files| !files.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_run_writes_is_removed() {
        let run = std::env::temp_dir().join(format!("resnet-by-hand-remains-{}", std::process::id()));
        let _ = fs::remove_dir_all(&run);
        fs::create_dir_all(run.join("checkpoints")).unwrap();
        let write = |name: &str| fs::write(run.join(name), "x").unwrap();
        assert!(!is_unbegun(&run), "no lock");
        let early =
            ["lock", "config.toml", "metrics.csv", "layers.csv.tmp", "checkpoints/epoch-0-step-0.safetensors.tmp"];
        early.iter().for_each(|name| write(name));
        write(&events::new_name(&run).unwrap());
        assert!(is_unbegun(&run) && !has_begun(&run));
        for other in ["notes.txt", "weights.safetensors", "checkpoints/epoch-0-step-0.safetensors", "checkpoints/mine"]
        {
            write(other);
            assert!(!is_unbegun(&run), "{other}");
            fs::remove_file(run.join(other)).unwrap();
        }
        ["mine.tmp", "result.json.tmp"].iter().for_each(|name| write(name));
        let removed: Vec<_> =
            remove_temporary(&run).iter().map(|path| path.strip_prefix(&run).unwrap().to_path_buf()).collect();
        let expected = ["layers.csv.tmp", "result.json.tmp", "checkpoints/epoch-0-step-0.safetensors.tmp"];
        assert_eq!(removed, expected.map(PathBuf::from));
        assert!(run.join("mine.tmp").exists() && run.join("metrics.csv").exists());
        fs::remove_file(run.join("mine.tmp")).unwrap();
        clear(&run).unwrap();
        let left: Vec<_> = entries(&run).into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, [run.join("lock")]);
        fs::remove_dir_all(&run).unwrap();
    }
}
