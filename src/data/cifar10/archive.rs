//! The published archives: gzip around tar around six files, read as one stream.
//!
//! Nothing is unpacked to disk, so names in the archive cannot point anywhere. A member's claimed size is checked before
//! it is allocated, and everything together may not be longer than six batches and [`SLACK`] bytes can be: a small
//! archive that unpacks to terabytes is refused after a few megabytes. Tar's own extensions (long names, sparse files)
//! are not interpreted; the published archives have none.

use super::{join, missing_batches, Images, Layout, BATCHES};
use crate::data::Splits;
use crate::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::cell::Cell;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How many bytes tar headers, padding, readme.html and batches.meta may take together.
const SLACK: u64 = 1 << 20;

/// The most that a member may take in either layout, six times.
pub(super) fn most(images: usize) -> u64 {
    6 * Layout::ALL.map(|layout| layout.most(images)).into_iter().max().unwrap_or(0) + SLACK
}

pub(super) fn read(path: &Path, compressed: impl BufRead, images: usize) -> Result<Splits> {
    let consumed = Rc::new(Cell::new(0));
    let compressed = Counting { inner: compressed, consumed: Rc::clone(&consumed) };
    // A failure below is one of the compressed stream; the offset tells how far into the file it was understood.
    let corrupt = |member: &Path, e: std::io::Error| {
        let message =
            format!("expected the rest of a gzip-compressed tar archive, found a corrupt or truncated one ({e})");
        Error::format(member, Some(consumed.get()), message)
    };

    let most = most(images);
    let mut archive = tar::Archive::new(MultiGzDecoder::new(compressed));
    let mut batches: [Option<Images>; 6] = Default::default();
    let mut found: Option<Layout> = None;
    let mut names = Vec::new();
    for entry in archive.entries().map_err(|e| corrupt(path, e))?.raw(true) {
        let entry = entry.map_err(|e| corrupt(path, e))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let member = PathBuf::from(format!("{}: {name}", path.display()));
        let size = entry.header().entry_size().map_err(|e| corrupt(&member, e))?;
        if entry.raw_file_position().saturating_add(size) > most {
            let message =
                format!("expected an archive of at most {most} bytes unpacked, found a member of {size} bytes");
            return Err(Error::format(member, Some(consumed.get()), message));
        }
        let file_name = name.rsplit('/').next().unwrap_or_default();
        let Some((layout, batch)) = Layout::of_file(file_name) else { continue };
        let kind = entry.header().entry_type();
        if !kind.is_file() {
            return Err(Error::format(member, None, format!("expected a regular file, found a {kind:?}")));
        }
        if *found.get_or_insert(layout) != layout {
            return Err(Error::format(member, None, "expected one layout, found binary and python batches mixed"));
        }
        if batches[batch].is_some() {
            return Err(Error::format(member, None, "expected every batch once, found this one twice"));
        }
        layout.check_size(&member, size, images)?;
        let mut bytes = Vec::with_capacity(size as usize);
        entry.take(size).read_to_end(&mut bytes).map_err(|e| corrupt(&member, e))?;
        batches[batch] = Some(layout.read(&member, &bytes, images)?);
        names.push(file_name.to_string());
    }
    // The end of a tar archive comes before the end of the gzip stream, and gzip's checksum comes last.
    let mut rest = archive.into_inner().take(most);
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(|e| corrupt(path, e))?;
    if rest.limit() == 0 {
        return Err(Error::format(path, Some(consumed.get()), "expected the end of the archive, found more data"));
    }

    let layout = found.unwrap_or(Layout::Binary);
    let missing: Vec<String> = (0..BATCHES.len()).filter(|&i| batches[i].is_none()).map(|i| layout.file(i)).collect();
    if !missing.is_empty() {
        let found = if names.is_empty() { "none of them".into() } else { names.join(", ") };
        return Err(missing_batches(path, &missing, &found));
    }
    join(batches.into_iter().flatten().collect(), path)
}

/// Counts the bytes that a decoder has consumed, as opposed to those its buffer has read ahead.
struct Counting<R> {
    inner: R,
    consumed: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.consumed.set(self.consumed.get() + count as u64);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counting<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }
    fn consume(&mut self, count: usize) {
        self.consumed.set(self.consumed.get() + count as u64);
        self.inner.consume(count);
    }
}
