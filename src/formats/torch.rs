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
//! A state dict (a dict of tensors), bare or under one of the keys [`WRAPPERS`] of a checkpoint; or one tensor, which
//! is then called [`UNNAMED`](super::npy::UNNAMED). Other entries of such a dict (`epoch`, `best_prec1`) are left out and
//! listed in [`Checkpoint::dropped`]. [`super::pickle`] reads the pickle without executing anything. It accepts the names in
//! `ALLOWED` and rejects any other. `object.rs` finds the tensors in it.
//!
//! # Bounds
//!
//! A storage must have its stated length in the file, and every element of a tensor must be inside its storage. Because
//! strides may be 0 and storages shared, a small file can still describe large tensors: all tensors of a file together
//! may take at most [`MOST_PER_BYTE`] bytes for every byte of the storages they use, and [`SPARE`] bytes more. That is
//! enough for an expanded scalar of a hundred thousand elements.
//!
//! # What is written
//!
//! [`super::write()`] writes the zip format with an `OrderedDict`, which `torch.load(.., weights_only=True)` accepts.

mod object;
mod write;

pub(super) use write::to_bytes;

use super::archive::Archive;
use super::pickle::Pickle;
use crate::tensors::{Dtype, Tensors};
use crate::{Error, Result};
use object::{Object, Storage, text_of};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// The keys under which checkpoints keep their state dict, in the order they are tried.
pub const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "net"];

/// The most bytes that the tensors of a file may take for every byte of their storages.
pub const MOST_PER_BYTE: usize = 16;
/// This many bytes are allowed in addition, for files of very small storages.
pub const SPARE: usize = 1 << 20;

const REBUILD_TENSOR: [&str; 2] = ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"];
const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";
const ORDERED_DICT: &str = "collections.OrderedDict";

/// Every name that a checkpoint may mention.
const ALLOWED: [&str; 19] = [
    ORDERED_DICT,
    REBUILD_TENSOR[0],
    REBUILD_TENSOR[1],
    REBUILD_PARAMETER,
    "torch.FloatStorage",
    "torch.DoubleStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
    // Plain values beside a state dict, which are left out.
    "torch.Size",
    "torch.device",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    "collections.defaultdict",
];

/// The tensors of a file, and where they were in it.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// The state dict.
    pub tensors: Tensors,
    /// The keys under which it was found, the outermost first.
    pub unwrapped: Vec<String>,
    /// What was left out: key and description.
    pub dropped: Vec<(String, String)>,
}

/// `0x1950a86a20f9469cfc6c`, the first pickle of the older format.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;
/// The member of the zip format that contains the pickle.
const PICKLE: &str = "data.pkl";

/// Reads either format from the bytes of a file; `path` is in every message.
///
/// # Errors
/// If it is neither, or not complete, or contains anything but plain values and tensors of supported types.
pub fn read_bytes(path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
    if bytes.starts_with(b"PK") {
        read_archive(path, &mut Archive::open(path, bytes)?)
    } else {
        read_stream(path, bytes)
    }
}

/// Whether an archive is one of PyTorch's.
pub(super) fn is_checkpoint(archive: &Archive<'_>) -> bool {
    archive.names().iter().any(|name| is_pickle(name))
}

fn is_pickle(name: &str) -> bool {
    name.strip_suffix(PICKLE).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
}

/// The zip format.
pub(super) fn read_archive(path: &Path, archive: &mut Archive<'_>) -> Result<Checkpoint> {
    let pickles: Vec<&String> = archive.names().iter().filter(|name| is_pickle(name)).collect();
    let [name] = pickles[..] else {
        let message = format!("expected one member {PICKLE}, as PyTorch writes it, found {}", pickles.len());
        return Err(Error::format(path, None, message));
    };
    let (name, folder) = (name.clone(), name[..name.len() - PICKLE.len()].to_string());
    if archive.names().iter().any(|name| name.starts_with(&format!("{folder}code/"))) {
        let message = "expected a state dict, found a TorchScript program; save `model.state_dict()` instead";
        return Err(Error::format(path, None, message));
    }
    let order = format!("{folder}byteorder");
    let big_endian = match archive.names().contains(&order).then(|| archive.read(&order)).transpose()?.as_deref() {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(_) => return Err(Error::format(archive.path_of(&order), None, "expected `little` or `big`")),
    };
    let member = archive.path_of(&name);
    let bytes = archive.read(&name)?;
    let pickle = Pickle::parse(&bytes, 0, &ALLOWED, &member)?;
    if pickle.end() != bytes.len() {
        let message = format!("expected the end of the pickle, found {} more bytes", bytes.len() - pickle.end());
        return Err(Error::format(member, Some(pickle.end() as u64), message));
    }
    Object::new(&pickle)?.load(big_endian, |view| {
        let name = format!("{folder}data/{}", view.key);
        let size = archive.size(&name)?;
        view.check_storage(size)?;
        Ok(Cow::Owned(archive.read(&name)?))
    })
}

/// Whether the bytes begin like the older format: with a pickle of the magic number.
pub(super) fn is_stream(bytes: &[u8]) -> bool {
    Pickle::parse(&bytes[..bytes.len().min(64)], 0, &[], "")
        .is_ok_and(|pickle| pickle.root().int().is_ok_and(|int| int == MAGIC))
}

/// The format before zip.
pub(super) fn read_stream(path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
    let magic = Pickle::parse(bytes, 0, &[], path)?;
    if !magic.root().int().is_ok_and(|int| int == MAGIC) {
        return Err(magic.root().unexpected("the magic number of PyTorch's checkpoints"));
    }
    let protocol = Pickle::parse(bytes, magic.end(), &[], path)?;
    if protocol.root().int()? != PROTOCOL {
        return Err(protocol.root().unexpected(format!("the protocol number {PROTOCOL}")));
    }
    let system = Pickle::parse(bytes, protocol.end(), &[], path)?;
    let big_endian = !system.root().get("little_endian")?.bool()?;
    let pickle = Pickle::parse(bytes, system.end(), &ALLOWED, path)?;
    let keys = Pickle::parse(bytes, pickle.end(), &[], path)?;

    // A storage does not state the size of its elements; the tensors that refer to it do.
    let mut dtypes: HashMap<&str, Dtype> = HashMap::new();
    for mention in pickle.persistent_ids() {
        let storage = Storage::parse(mention)?;
        if *dtypes.entry(storage.key).or_insert(storage.dtype) != storage.dtype {
            return Err(mention.error(format!("expected one element type of the storage {:?}, found two", storage.key)));
        }
    }
    let mut storages: HashMap<&str, &[u8]> = HashMap::new();
    let mut at = keys.end();
    for value in keys.root().list()? {
        let key = text_of(value)?;
        let dtype = dtypes.get(key).ok_or_else(|| value.unexpected("the key of a storage that is mentioned"))?;
        let left = bytes.len() - at;
        let refuse = |message: String| Error::format(path, Some(at as u64), message);
        let count = bytes
            .get(at..at + 8)
            .ok_or_else(|| refuse(format!("expected the size of the storage {key:?}, 8 bytes, found {left}")))?;
        let count: [u8; 8] = count.try_into().expect("eight bytes");
        let count = if big_endian { i64::from_be_bytes(count) } else { i64::from_le_bytes(count) };
        let size = usize::try_from(count).ok().and_then(|count| count.checked_mul(dtype.size()));
        let size = size.filter(|&size| size <= left - 8).ok_or_else(|| {
            refuse(format!("expected {count} {dtype} of the storage {key:?}, found {} bytes", left - 8))
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
    Object::new(&pickle)?.load(big_endian, |view| {
        let bytes = storages.get(view.key);
        let bytes = bytes.ok_or_else(|| view.at.error(format!("there is no storage {:?} in the file", view.key)))?;
        view.check_storage(bytes.len())?;
        Ok(Cow::Borrowed(bytes))
    })
}
