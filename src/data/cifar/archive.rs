//! The published archives: gzip-compressed tar files, read as one stream.
//!
//! Nothing is unpacked to disk, so names in the archive cannot point anywhere. A member's claimed size is checked before
//! it is allocated, and the total may not exceed the largest sizes of all files plus [`SLACK`] bytes: a small
//! archive that unpacks to terabytes is rejected after a few megabytes. Tar's own extensions (long names, sparse files)
//! are not interpreted; the published archives have none.

use super::{Layout, Part, Published};
use crate::data::Splits;
use crate::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::cell::Cell;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The most bytes of tar headers, padding, readme.html and other small files together.
const SLACK: u64 = 1 << 20;

/// The most bytes of the files of one of `sets` in either layout.
pub(in crate::data) fn most(sets: &[&Published], images: usize) -> u64 {
    let all = |set: &Published, layout| (0..set.parts()).map(|part| set.most(layout, part, images)).sum::<u64>();
    let largest = sets.iter().flat_map(|set| Layout::ALL.map(|layout| all(set, layout))).max();
    largest.unwrap_or(0) + SLACK
}

/// What to do with other archives.
const OF_PICTURES: &str = "; if it contains pictures, unpack it and give its folder";

pub(in crate::data) fn read<'a>(
    path: &Path,
    compressed: impl BufRead,
    sets: &[&'a Published],
    images: usize,
) -> Result<(Splits, &'a Published)> {
    let consumed = Rc::new(Cell::new(0));
    let compressed = Counting { inner: compressed, consumed: Rc::clone(&consumed) };
    // A failure below is one of the compressed stream; the offset is how far the file could be decoded.
    let corrupt = |member: &Path, e: std::io::Error| {
        let message =
            format!("expected the rest of a gzip-compressed tar archive, found a corrupt or truncated one ({e})");
        Error::format(member, Some(consumed.get()), message)
    };

    let most = most(sets, images);
    let mut archive = tar::Archive::new(MultiGzDecoder::new(compressed));
    let mut parts: Vec<Option<Part>> = Vec::new();
    let mut found: Option<(&'a Published, Layout)> = None;
    let mut names = Vec::new();
    for entry in archive.entries().map_err(|e| corrupt(path, e))?.raw(true) {
        let entry = entry.map_err(|e| corrupt(path, e))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let member = PathBuf::from(format!("{}: {name}", path.display()));
        let size = entry.header().entry_size().map_err(|e| corrupt(&member, e))?;
        if entry.raw_file_position().saturating_add(size) > most {
            let hint = if found.is_none() { OF_PICTURES } else { "" };
            let message =
                format!("expected an archive of at most {most} bytes unpacked, found a member of {size} bytes{hint}");
            return Err(Error::format(member, Some(consumed.get()), message));
        }
        let file_name = name.rsplit('/').next().unwrap_or_default();
        let of_set = |set: &&'a Published| set.of_file(file_name).map(|(layout, part)| (*set, layout, part));
        let Some((set, layout, part)) = sets.iter().find_map(of_set) else { continue };
        let kind = entry.header().entry_type();
        if !kind.is_file() {
            return Err(Error::format(member, None, format!("expected a regular file, found a {kind:?}")));
        }
        let (first_set, first_layout) = *found.get_or_insert((set, layout));
        if first_set.name != set.name {
            let message = format!("expected one data set, found files of {} and {}", first_set.name, set.name);
            return Err(Error::format(member, None, message));
        }
        if first_layout != layout {
            return Err(Error::format(member, None, "expected one layout, found binary and python batches mixed"));
        }
        parts.resize(set.parts(), None);
        if parts[part].is_some() {
            return Err(Error::format(member, None, "expected every batch once, found this one twice"));
        }
        set.check_size(layout, part, &member, size, images)?;
        let mut bytes = Vec::with_capacity(size as usize);
        entry.take(size).read_to_end(&mut bytes).map_err(|e| corrupt(&member, e))?;
        parts[part] = Some(set.read(layout, part, &member, &bytes, images)?);
        names.push(file_name.to_string());
    }
    // The end of a tar archive comes before the end of the gzip stream, and gzip's checksum comes last.
    let mut rest = archive.into_inner().take(most);
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(|e| corrupt(path, e))?;
    if rest.limit() == 0 {
        return Err(Error::format(path, Some(consumed.get()), "expected the end of the archive, found more data"));
    }

    let Some((set, layout)) = found else {
        let sets = sets.iter().map(|set| set.name).collect::<Vec<_>>().join(" or ");
        return Err(Error::format(
            path,
            None,
            format!("expected the files of {sets}, found none of them{OF_PICTURES}"),
        ));
    };
    parts.resize(set.parts(), None);
    let missing = (0..parts.len()).filter(|&part| parts[part].is_none());
    let missing: Vec<String> = missing.map(|part| set.file(layout, part)).collect();
    if !missing.is_empty() {
        return Err(set.missing(path, &missing, &names.join(", ")));
    }
    Ok((set.join(parts.into_iter().flatten().collect(), path)?, set))
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
