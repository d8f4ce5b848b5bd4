//! Zip archives in memory, for PyTorch and npz files, through the crate `zip`.
//!
//! An archive states its size in three places: the number of members in its end record, the size of each in its directory,
//! and again in the members themselves. All of it is checked before memory is allocated:
//!
//! * a directory has no more entries than the file has entry signatures;
//! * a stored member is as long as its bytes in the file, and one byte of deflate unpacks to at most 1032 ([`RATIO`]:
//!   258 bytes for two bits), so a directory that claims more is rejected;
//! * the bytes of two members do not overlap, so together they unpack to at most 1032 times the file;
//! * the deflated members that are read unpack together to at most [`MOST_UNPACKED`] bytes for every byte of the file, and
//!   [`ROOM`] in addition: weights do not become that much smaller, but a file of zeros that fills the memory does;
//! * the directory contains a name only once: programs differ in which of two members with the same name they read.
//!
//! A member's checksum is checked when it is read.

use crate::{Error, Result};
use std::collections::HashMap;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// The most bytes that one byte of deflate unpacks to: its shortest code for its longest copy, 258 bytes, has two bits.
const RATIO: u64 = 1032;
/// The most bytes that deflated members may unpack to for every byte of the file. Of a network with nine zeros in ten weights
/// they are seven.
const MOST_UNPACKED: usize = 32;
/// As many bytes are allowed in addition, for networks of constant weights: those of examples and tests.
const ROOM: usize = 1 << 27;
/// What to do with a file beyond these bounds.
pub(super) const SAVE_STORED: &str = "if it is trusted, unpack it and save it without compression";
/// The most bytes that a member like a pickle may unpack to for each of its bytes, and in addition.
const MOST_DESCRIBED: usize = 8;
const ROOM_DESCRIBED: usize = 1 << 20;
/// Alignment of the elements in the archives written here, the same as PyTorch's.
const ALIGNMENT: u16 = 64;
/// How the last record of an archive begins.
const END: &[u8] = b"PK\x05\x06";
/// From this size on a member needs zip's 64-bit extension.
const LARGE: usize = u32::MAX as usize;

/// A zip archive.
pub(super) struct Archive<'a> {
    path: PathBuf,
    zip: ZipArchive<Cursor<&'a [u8]>>,
    names: Vec<String>,
    /// The index of each name in the directory.
    places: HashMap<String, usize>,
    /// How many bytes all deflated members may unpack to, and those that are left of them.
    most: usize,
    left: usize,
}

impl<'a> Archive<'a> {
    /// Reads the directory of the archive `bytes`.
    pub fn open(path: &Path, bytes: &'a [u8]) -> Result<Self> {
        let corrupt = |error: zip::result::ZipError| {
            let found = match bytes.windows(4).any(|window| window == END) {
                true => format!("a corrupt one ({error})"),
                false => "one without its end: it was not copied or downloaded completely".to_string(),
            };
            Error::format(path, None, format!("expected a complete zip archive, found {found}"))
        };
        check_entry_count(path, bytes)?;
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(corrupt)?;
        if zip.has_overlapping_files().map_err(corrupt)? {
            return Err(Error::format(path, None, "expected members that do not overlap, found two that share bytes"));
        }
        let names = zip.file_names().map(|name| name.map(|name| name.into_owned()));
        let names = names.collect::<std::result::Result<Vec<String>, _>>().map_err(corrupt)?;
        let places: HashMap<String, usize> = names.iter().cloned().zip(0..).collect();
        if zip.has_duplicate_names() || places.len() < names.len() {
            return Err(Error::format(path, None, "expected every member of the archive once, found a name twice"));
        }
        let most = bytes.len().saturating_mul(MOST_UNPACKED).saturating_add(ROOM);
        Ok(Archive { path: path.to_path_buf(), zip, names, places, most, left: most })
    }

    /// Every member in the order of the directory.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// `archive.zip: member`, for messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        let name: String = name.chars().take(200).flat_map(char::escape_debug).collect();
        PathBuf::from(format!("{}: {name}", self.path.display()))
    }

    /// How many bytes the members that are not stored may unpack to, together.
    pub fn most_unpacked(&self) -> usize {
        self.most
    }

    fn place(&self, name: &str) -> Result<usize> {
        let place = self.places.get(name).copied();
        place.ok_or_else(|| Error::format(self.path_of(name), None, "expected this member in the archive, found none"))
    }

    /// How many bytes the member `name` unpacks to: the size in the directory, checked to be at most what its bytes can
    /// unpack to.
    pub fn size(&mut self, name: &str) -> Result<usize> {
        self.sizes(name).map(|[size, _]| size)
    }

    /// [`size`](Self::size), and the bytes in the file.
    fn sizes(&mut self, name: &str) -> Result<[usize; 2]> {
        let path = self.path_of(name);
        let place = self.place(name)?;
        let member = self.zip.by_index_raw(place).map_err(|error| cannot_read(&path, &error))?;
        let (size, packed) = (member.size(), member.compressed_size());
        let most = match member.compression() {
            CompressionMethod::Stored => packed,
            CompressionMethod::Deflated => packed.saturating_mul(RATIO),
            other => {
                let message = format!("expected a stored or deflated member, found {other:?}");
                return Err(Error::format(path, None, message));
            }
        };
        match (usize::try_from(size), usize::try_from(packed)) {
            (Ok(size), Ok(packed)) if size as u64 <= most => Ok([size, packed]),
            _ => {
                let message =
                    format!("expected at most {most} bytes in {packed} packed ones, found a claimed size of {size}");
                Err(Error::format(path, None, message))
            }
        }
    }

    /// The first bytes of a member, `most` or all of them.
    pub fn start(&mut self, name: &str, most: usize) -> Result<Vec<u8>> {
        let size = self.size(name)?.min(most);
        self.unpack(name, size)
    }

    /// All bytes of a member.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>> {
        let [size, packed] = self.sizes(name)?;
        if size > packed {
            self.left = self.left.checked_sub(size).ok_or_else(|| {
                let others = self.most - self.left;
                self.too_dense(name, self.most, others.saturating_add(size))
            })?;
        }
        // One byte more than claimed, so that the end is reached and the checksum is checked.
        let bytes = self.unpack(name, size.saturating_add(1))?;
        if bytes.len() != size {
            let message = format!("expected {size} bytes, found {}", bytes.len());
            return Err(Error::format(self.path_of(name), None, message));
        }
        Ok(bytes)
    }

    /// [`read`](Self::read) for a member that takes many times its size in memory, such as a pickle.
    pub fn read_description(&mut self, name: &str) -> Result<Vec<u8>> {
        let [size, packed] = self.sizes(name)?;
        let most = packed.saturating_mul(MOST_DESCRIBED).saturating_add(ROOM_DESCRIBED);
        if size > packed && size > most {
            return Err(self.too_dense(name, most, size));
        }
        self.read(name)
    }

    fn too_dense(&self, name: &str, most: usize, found: usize) -> Error {
        let message =
            format!("expected at most {most} unpacked bytes in a file of this size, found {found}: {SAVE_STORED}");
        Error::format(self.path_of(name), None, message)
    }

    fn unpack(&mut self, name: &str, most: usize) -> Result<Vec<u8>> {
        let path = self.path_of(name);
        let place = self.place(name)?;
        let member = self.zip.by_index(place).map_err(|error| cannot_read(&path, &error))?;
        let mut bytes = Vec::with_capacity(most);
        member.take(most as u64).read_to_end(&mut bytes).map_err(|error| cannot_read(&path, &error))?;
        Ok(bytes)
    }
}

fn cannot_read(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::format(path, None, format!("expected a readable member of the archive: {error}"))
}

/// Rejects an end record that claims more entries than there are entry signatures in the file: the crate allocates
/// memory for as many as are claimed. The short record has 16 bits for the number; that of the 64-bit extension ends
/// where its locator begins.
fn check_entry_count(path: &Path, bytes: &[u8]) -> Result<()> {
    let ends = |at: usize| {
        let field = |from: usize| Some(u64::from_le_bytes(bytes.get(at + from..at + from + 8)?.try_into().ok()?));
        let locator = usize::try_from(field(4)?).ok()?.checked_add(at + 12)?;
        bytes.get(locator..)?.starts_with(b"PK\x06\x07").then(|| field(32))?
    };
    let claims =
        bytes.windows(4).enumerate().filter(|(_, window)| window == b"PK\x06\x06").filter_map(|(at, _)| ends(at));
    if let Some(most) = claims.max() {
        let entries = bytes.windows(4).filter(|window| window == b"PK\x01\x02").count() as u64;
        if most > entries {
            let message =
                format!("expected a zip archive of at most {entries} members, found a claimed number of {most}");
            return Err(Error::format(path, None, message));
        }
    }
    Ok(())
}

/// An archive of stored members with these names and bytes; the same members always give the same bytes.
pub(super) fn write(path: &Path, members: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let size: usize = members.iter().map(|(name, bytes)| bytes.len() + 2 * name.len() + 300).sum();
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(size)));
    let failed =
        |error: &dyn std::fmt::Display| Error::format(path, None, format!("cannot be written as zip: {error}"));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT)
            .large_file(bytes.len() >= LARGE);
        zip.start_file(name, options).map_err(|error| failed(&error))?;
        zip.write_all(bytes).map_err(|error| failed(&error))?;
    }
    Ok(zip.finish().map_err(|error| failed(&error))?.into_inner())
}
