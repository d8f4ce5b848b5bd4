//! PyTorch's `torch.save` files: `.pth`, `.pt`, `.th`, in both of its formats.
//!
//! A checkpoint is a pickle in which a tensor is a call, and its elements are stored elsewhere:
//!
//! ```text
//! torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)
//! storage = persistent id ('storage', torch.FloatStorage, key, device, numel)
//! value[i₀, i₁, …] = element offset + Σ i_a · stride_a of the storage called key
//! ```
//!
//! Several tensors may share one storage, in any order of axes. Since version 1.6 the file is a zip archive:
//!
//! ```text
//! NAME/data.pkl      the pickle
//! NAME/data/KEY      the bytes of the storage called KEY
//! NAME/byteorder     `little` or `big`; little if it is missing
//! ```
//!
//! The older format is five pickles and the storages, one after the other:
//!
//! ```text
//! magic number, protocol 1001, {'little_endian': True, ..}, the object, [key, ..]
//! for every key:     how many elements, as i64, then their bytes
//! ```
//!
//! # What is read
//!
//! One dict of tensors, the state dict: the checkpoint itself, or the dict under one of its keys that `choose.rs` takes or the
//! caller names; or one tensor, which is then called [`UNNAMED`](super::npy::UNNAMED). A subclass of dict counts as a dict.
//! All else is left out and listed in [`Contents::dropped`]; so are the entries of the state dict that are not tensors.
//! Tensors that are not read (sparse, quantized, of 8-bit floats) are in [`Contents::unreadable`], and it is for the caller
//! to decide whether they are needed.
//!
//! [`super::pickle`] reads the pickle without executing anything, and without understanding what is beside the tensors: an
//! object of any class is data without a meaning. `view.rs` recognises the calls that make a tensor, `storage.rs` storages
//! and element types, `mapping.rs` dicts.
//!
//! # Bounds
//!
//! A storage must have its stated length in the file, and every element of a tensor must be inside its storage. Because
//! strides may be 0 and storages shared, a small file can still describe large tensors: all tensors of a file together
//! may take at most [`MOST_PER_BYTE`] bytes for every byte of the storages they use, and [`SPARE`] bytes more. That is
//! enough for an expanded scalar of a hundred thousand elements. In an archive with deflated members they may also take at
//! most what all of those may unpack to (`archive.rs`).
//!
//! # What is written
//!
//! [`super::write()`] writes the zip format with an `OrderedDict`, which `torch.load(.., weights_only=True)` accepts.

mod choose;
mod mapping;
mod object;
mod storage;
mod view;
mod write;

pub use choose::KEYS;
pub(super) use write::to_bytes;

use super::archive::Archive;
use super::pickle::Pickle;
use super::{Contents, Format};
use crate::{Error, Result};
use mapping::name_of;
use object::{Object, save_state_dict};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use storage::{Element, Storage};

/// The most bytes that the tensors of a file may take for every byte of their storages.
pub const MOST_PER_BYTE: usize = 16;
/// This many bytes are allowed in addition, for files of very small storages.
pub const SPARE: usize = 1 << 20;

/// `0x1950a86a20f9469cfc6c`, the first pickle of the older format.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;
/// The member of the zip format that contains the pickle.
const PICKLE: &str = "data.pkl";

/// Reads either format from the bytes of a file; `path` is in every message. The tensors are those under `key`, keys joined
/// by points such as `model_ema.module`, or else of the dict that `choose.rs` takes.
///
/// # Errors
/// If it is neither, or not complete, or contains no tensors.
pub fn read_bytes(path: &Path, bytes: &[u8], key: Option<&str>) -> Result<Contents> {
    if bytes.starts_with(b"PK") {
        read_archive(path, &mut Archive::open(path, bytes)?, key)
    } else {
        read_stream(path, bytes, key)
    }
}

/// Whether an archive is one of PyTorch's.
pub(super) fn is_checkpoint(archive: &Archive<'_>) -> bool {
    archive.names().iter().any(|name| is_pickle(name))
}

fn is_pickle(name: &str) -> bool {
    name.strip_suffix(PICKLE).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
}

/// The error for a program that `torch.export` or TorchScript wrote, if the archive is one.
pub(super) fn program(path: &Path, archive: &Archive<'_>) -> Option<Error> {
    // An array of an npz may have any name, after which there is `.npy`.
    let has = |part: &str| {
        let starts = |name: &str| name.starts_with(part) && (part.ends_with('/') || name == part);
        archive.names().iter().any(|name| {
            let mut slashes = name.match_indices('/');
            starts(name) || slashes.any(|(at, _)| starts(&name[at + 1..]))
        })
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (what, load) = if has("code/") && is_checkpoint(archive) {
        ("a TorchScript program", format!("torch.jit.load({name:?}, map_location=\"cpu\")"))
    } else if has("models/model.json") || has("serialized_exported_program.json") {
        ("an exported program", format!("torch.export.load({name:?}).module()"))
    } else {
        return None;
    };
    let message = format!("expected a state dict, found {what}");
    Some(Error::format(path, None, message + &save_state_dict(path, &load)))
}

/// The zip format.
pub(super) fn read_archive(path: &Path, archive: &mut Archive<'_>, key: Option<&str>) -> Result<Contents> {
    if let Some(error) = program(path, archive) {
        return Err(error);
    }
    let pickles: Vec<&String> = archive.names().iter().filter(|name| is_pickle(name)).collect();
    let [name] = pickles[..] else {
        let message = format!("expected one member {PICKLE}, as PyTorch writes it, found {}", pickles.len());
        return Err(Error::format(path, None, message));
    };
    let (name, folder) = (name.clone(), name[..name.len() - PICKLE.len()].to_string());
    let order = format!("{folder}byteorder");
    let big_endian = match archive.names().contains(&order).then(|| archive.read(&order)).transpose()?.as_deref() {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(_) => return Err(Error::format(archive.path_of(&order), None, "expected `little` or `big`")),
    };
    let member = archive.path_of(&name);
    let bytes = archive.read_description(&name)?;
    let pickle = Pickle::parse(&bytes, 0, &member)?;
    if pickle.end() != bytes.len() {
        let message = format!("expected the end of the pickle, found {} more bytes", bytes.len() - pickle.end());
        return Err(Error::format(member, Some(pickle.end() as u64), message));
    }
    Object::new(path, &pickle, key)?.load(Format::Torch, big_endian, archive.most_unpacked(), |view| {
        let name = format!("{folder}data/{}", view.key);
        let size = archive.size(&name)?;
        view.check_storage(size)?;
        Ok(Cow::Owned(archive.read(&name)?))
    })
}

/// Whether the bytes begin like the older format: with a pickle of the magic number.
pub(super) fn is_stream(bytes: &[u8]) -> bool {
    Pickle::parse(&bytes[..bytes.len().min(64)], 0, "")
        .is_ok_and(|pickle| pickle.root().int().is_ok_and(|int| int == MAGIC))
}

/// The format before zip.
pub(super) fn read_stream(path: &Path, bytes: &[u8], key: Option<&str>) -> Result<Contents> {
    let magic = Pickle::parse(bytes, 0, path)?;
    if !magic.root().int().is_ok_and(|int| int == MAGIC) {
        return Err(magic.root().unexpected("the magic number of PyTorch's checkpoints"));
    }
    let protocol = Pickle::parse(bytes, magic.end(), path)?;
    if protocol.root().int()? != PROTOCOL {
        return Err(protocol.root().unexpected(format!("the protocol number {PROTOCOL}")));
    }
    let system = Pickle::parse(bytes, protocol.end(), path)?;
    let big_endian = !system.root().get("little_endian")?.bool()?;
    let pickle = Pickle::parse(bytes, system.end(), path)?;
    let keys = Pickle::parse(bytes, pickle.end(), path)?;

    // A storage does not state the size of its elements; the tensors that refer to it do. Other persistent ids are classes of
    // models.
    let mut elements: HashMap<&str, &Element> = HashMap::new();
    for mention in pickle.persistent_ids() {
        let Ok(storage) = Storage::parse(mention) else { continue };
        if elements.entry(storage.key).or_insert(storage.element).size != storage.element.size {
            return Err(mention.error(format!("expected one element type of the storage {:?}, found two", storage.key)));
        }
    }
    let mut storages: HashMap<&str, &[u8]> = HashMap::new();
    let mut at = keys.end();
    for value in keys.root().list()? {
        let key = name_of(value)?;
        let element = elements.get(key);
        let element =
            element.ok_or_else(|| value.unexpected("the key of a storage that is mentioned, of a known type"))?;
        let left = bytes.len() - at;
        let refuse = |message: String| Error::format(path, Some(at as u64), message);
        let count = bytes
            .get(at..at + 8)
            .ok_or_else(|| refuse(format!("expected the size of the storage {key:?}, 8 bytes, found {left}")))?;
        let count: [u8; 8] = count.try_into().expect("eight bytes");
        let count = if big_endian { i64::from_be_bytes(count) } else { i64::from_le_bytes(count) };
        let size = usize::try_from(count).ok().and_then(|count| count.checked_mul(element.size));
        let size = size.filter(|&size| size <= left - 8).ok_or_else(|| {
            refuse(format!("expected {count} {} of the storage {key:?}, found {} bytes", element.name, left - 8))
        })?;
        at += 8;
        if storages.insert(key, &bytes[at..at + size]).is_some() {
            return Err(value.unexpected("every storage once"));
        }
        at += size;
    }
    if at != bytes.len() {
        let message = format!("expected the end of the file, found {} more bytes", bytes.len() - at);
        return Err(Error::format(path, Some(at as u64), message));
    }
    Object::new(path, &pickle, key)?.load(Format::OldTorch, big_endian, usize::MAX, |view| {
        let bytes = storages.get(view.key);
        let bytes = bytes.ok_or_else(|| view.at.error(format!("there is no storage {:?} in the file", view.key)))?;
        view.check_storage(bytes.len())?;
        Ok(Cow::Borrowed(bytes))
    })
}
