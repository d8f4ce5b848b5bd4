//! What PyTorch's `torch.save` writes: `.pth`, `.pt`, `.th`, in both of its formats.
//!
//! A checkpoint is a pickle in which a tensor stands as a call, and its numbers are elsewhere:
//!
//! ```text
//! torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)
//! storage = persistent id ('storage', torch.FloatStorage, key, device, numbers)
//! value[i₀, i₁, …] = number offset + Σ i_a · stride_a of the storage called key
//! ```
//!
//! Several tensors may look at one storage, in any order of axes. Since version 1.6 the file is a zip archive:
//!
//! ```text
//! NAME/data.pkl      the pickle
//! NAME/data/KEY      the bytes of the storage called KEY
//! NAME/byteorder     `little` or `big`; little where it is missing
//! ```
//!
//! The older format is five pickles and the storages, one behind the other:
//!
//! ```text
//! magic number, protocol 1001, {'little_endian': True, ..}, the object, [key, ..]
//! for every key:     how many numbers, as i64, then their bytes
//! ```
//!
//! # What is read
//!
//! A state dict (a dict of tensors), bare or under one of the keys [`WRAPPERS`] of a checkpoint; or one tensor, which
//! is then called [`UNNAMED`]. What else is in such a dict (`epoch`, `best_prec1`) is left out, and named in
//! [`Checkpoint::dropped`]. The pickle is read by [`super::pickle`], which runs nothing, with the names in `ALLOWED`;
//! any other name is refused.
//!
//! # Bounds
//!
//! A storage must be in the file as long as it is said to be, and every number of a tensor inside its storage. Because
//! strides may be 0 and storages shared, a small file can still describe large tensors: all tensors of a file together
//! may take at most [`MOST_PER_BYTE`] bytes for every byte of the storages they use, and [`SPARE`] bytes more. That is
//! enough for an expanded scalar of a hundred thousand numbers.
//!
//! # What is written
//!
//! [`super::write()`]: the zip format with an `OrderedDict`, which `torch.load(.., weights_only=True)` accepts.

use super::archive::{self, Archive};
use super::npy::UNNAMED;
use super::numbers::{self, Placed, MOST_AXES};
use super::pickle::{Kind, Pickle, Value};
use crate::tensors::{Dtype, Tensor, Tensors};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// The keys under which checkpoints keep their state dict, in the order they are tried.
pub const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "net"];

/// The most bytes that the tensors of a file may take for every byte of their storages.
pub const MOST_PER_BYTE: usize = 16;
/// And how many bytes more, for files of very small storages.
pub const SPARE: usize = 1 << 20;

/// The longest name of a tensor, key of a dict or key of a storage, in bytes.
const LONGEST_NAME: usize = 1024;

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
    // Plain values that stand beside a state dict, and are left out.
    "torch.Size",
    "torch.device",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    "collections.defaultdict",
];

/// The number type of a storage class.
fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "torch.FloatStorage" => Dtype::F32,
        "torch.DoubleStorage" => Dtype::F64,
        "torch.HalfStorage" => Dtype::F16,
        "torch.BFloat16Storage" => Dtype::BF16,
        "torch.LongStorage" => Dtype::I64,
        "torch.IntStorage" => Dtype::I32,
        "torch.ByteStorage" => Dtype::U8,
        "torch.BoolStorage" => Dtype::Bool,
        _ => return None,
    })
}

/// The tensors of a file, and what was around them.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// The state dict.
    pub tensors: Tensors,
    /// The keys under which it was found, the outermost first.
    pub unwrapped: Vec<String>,
    /// What was left out: key and what it is.
    pub dropped: Vec<(String, String)>,
}

/// `0x1950a86a20f9469cfc6c`, the first pickle of the older format.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;
/// The file of the zip format that holds the pickle.
const PICKLE: &str = "data.pkl";

/// Reads either format from the bytes of a file; `path` stands in messages.
///
/// # Errors
/// If it is neither, or not whole, or holds anything but plain values and tensors of the types that are read.
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

/// Whether the bytes begin as the older format does: a pickle of the magic number.
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

    // A storage does not say how long its numbers are; who mentions it does.
    let mut dtypes: HashMap<&str, Dtype> = HashMap::new();
    for mention in pickle.persistent_ids() {
        let storage = Storage::parse(mention)?;
        if *dtypes.entry(storage.key).or_insert(storage.dtype) != storage.dtype {
            return Err(mention.error(format!("expected one number type of the storage {:?}, found two", storage.key)));
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

/// A storage as a pickle mentions it.
struct Storage<'p> {
    dtype: Dtype,
    key: &'p str,
    len: usize,
}

impl<'p> Storage<'p> {
    /// `('storage', class, key, device, numbers)`; the older format adds None, or a part of another storage.
    fn parse(id: Value<'p>) -> Result<Self> {
        let expected = "('storage', class, key, device, numbers)";
        let Kind::Tuple(mut items) = id.kind() else { return Err(id.unexpected(expected)) };
        let (Some(tag), Some(class), Some(key), Some(_device), Some(len)) =
            (items.next(), items.next(), items.next(), items.next(), items.next())
        else {
            return Err(id.unexpected(expected));
        };
        if tag.text()? != "storage" {
            return Err(tag.unexpected("the text \"storage\""));
        }
        if let Some(part) = items.next() {
            if !matches!(part.kind(), Kind::None) {
                return Err(part.unexpected("None: parts of storages are not supported"));
            }
        }
        let dtype = match class.kind() {
            Kind::Global(name) => storage_dtype(name),
            _ => None,
        };
        let dtype = dtype.ok_or_else(|| class.unexpected("a class of storages, such as torch.FloatStorage"))?;
        Ok(Storage { dtype, key: text_of(key)?, len: len.usize()? })
    }
}

/// A tensor as a pickle describes it.
struct View<'p> {
    at: Value<'p>,
    dtype: Dtype,
    key: &'p str,
    /// Numbers of the storage.
    storage_len: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'p> View<'p> {
    /// The tensor that `value` is, if it is one.
    fn parse(value: Value<'p>) -> Result<Option<Self>> {
        let mut at = value;
        let call = loop {
            match at.kind() {
                // (tensor, requires_grad, hooks)
                Kind::Call(call) if call.global == REBUILD_PARAMETER => {
                    at =
                        call.args.get(0).ok_or_else(|| at.error("expected a parameter, found one without a tensor"))?;
                }
                Kind::Call(call) if REBUILD_TENSOR.contains(&call.global) => break call,
                _ if at.offset() != value.offset() => return Err(at.unexpected("the tensor of a parameter")),
                _ => return Ok(None),
            }
        };
        let mut args = call.args;
        let (Some(storage), Some(offset), Some(shape), Some(strides)) =
            (args.next(), args.next(), args.next(), args.next())
        else {
            return Err(at.error(format!("expected at least 4 arguments of `{}`", call.global)));
        };
        let Kind::Persistent(id) = storage.kind() else { return Err(storage.unexpected("a storage")) };
        let storage = Storage::parse(id)?;
        let (offset, sizes, steps) = (offset.usize()?, lengths(shape)?, lengths(strides)?);
        if sizes.len() != steps.len() {
            return Err(strides.error(format!("expected {} strides, found {}", sizes.len(), steps.len())));
        }
        let inside = numbers::extent(offset, &sizes, &steps).filter(|&(_, extent)| extent <= storage.len);
        if inside.is_none() {
            let message = format!(
                "expected a tensor inside its storage of {} numbers, found shape {sizes:?}, \
                 strides {steps:?} from {offset} on",
                storage.len
            );
            return Err(at.error(message));
        }
        let Storage { dtype, key, len } = storage;
        Ok(Some(View { at, dtype, key, storage_len: len, offset, shape: sizes, strides: steps }))
    }

    /// Bytes of this tensor in memory.
    fn bytes(&self) -> usize {
        // What View::parse accepts has at most isize::MAX / 8 numbers.
        numbers::len(&self.shape).unwrap_or(0) * self.dtype.widened().size()
    }

    /// Refuses a storage that is not as long in the file as it is said to be.
    fn check_storage(&self, size: usize) -> Result<()> {
        if self.storage_len.checked_mul(self.dtype.size()) != Some(size) {
            let View { key, dtype, storage_len, .. } = self;
            let message = format!("expected {storage_len} {dtype} in the storage {key:?}, found {size} bytes");
            return Err(self.at.error(message));
        }
        Ok(())
    }
}

/// Sizes or strides: a tuple of whole numbers from 0 on.
fn lengths(value: Value) -> Result<Vec<usize>> {
    let Kind::Tuple(items) = value.kind() else { return Err(value.unexpected("a tuple of sizes")) };
    if items.len() > MOST_AXES {
        return Err(value.unexpected(format!("at most {MOST_AXES} axes")));
    }
    items.map(|item| item.usize()).collect()
}

/// The tensors of a pickle, found and checked, and not yet read.
struct Object<'p> {
    views: Vec<(String, View<'p>)>,
    unwrapped: Vec<String>,
    dropped: Vec<(String, String)>,
}

impl<'p> Object<'p> {
    fn new(pickle: &'p Pickle<'p>) -> Result<Self> {
        let mut object = Object { views: Vec::new(), unwrapped: Vec::new(), dropped: Vec::new() };
        let mut at = pickle.root();
        if let Some(view) = View::parse(at)? {
            object.views.push((UNNAMED.to_string(), view));
            return Ok(object);
        }
        // The innermost dict: every round goes one level down in a tree of bounded depth.
        let mut entries = entries_of(at)?;
        while let Some((key, inner)) = wrapped(&entries) {
            object.unwrapped.push(key.to_string());
            object.dropped.extend(entries.iter().filter(|(name, _)| name != key).map(describe));
            at = inner;
            entries = entries_of(at)?;
        }
        for entry in entries {
            match View::parse(entry.1)? {
                Some(view) => object.views.push((entry.0.into_owned(), view)),
                None => object.dropped.push(describe(&entry)),
            }
        }
        if object.views.is_empty() {
            let keys = object.dropped.iter().take(20).map(|(name, what)| format!("{name} ({what})"));
            let keys = keys.collect::<Vec<_>>().join(", ");
            return Err(at.error(format!(
                "expected a state dict, bare or under one of the keys {}, found no tensor: {}",
                WRAPPERS.join(", "),
                if keys.is_empty() { "an empty dict" } else { &keys }
            )));
        }
        Ok(object)
    }

    /// Reads the numbers; `storage` finds and checks the bytes of the storage a tensor looks at.
    fn load(self, big_endian: bool, mut storage: impl FnMut(&View<'p>) -> Result<Cow<'p, [u8]>>) -> Result<Checkpoint> {
        // Before anything is unpacked or copied: the sizes, from what the pickle says. Each is compared with the file's
        // when its storage is read, and that happens before the tensor is made.
        let mut used: HashMap<&str, (usize, Dtype)> = HashMap::new();
        let (mut bytes, mut most) = (0usize, SPARE);
        for (_, view) in &self.views {
            let claimed = (view.storage_len, view.dtype);
            let first = !used.contains_key(view.key);
            if *used.entry(view.key).or_insert(claimed) != claimed {
                return Err(view.at.error(format!("expected one size of the storage {:?}, found two", view.key)));
            }
            if first {
                let size = view.storage_len.saturating_mul(view.dtype.size());
                most = most.saturating_add(size.saturating_mul(MOST_PER_BYTE));
            }
            bytes = bytes.saturating_add(view.bytes());
        }
        if let (true, Some((_, view))) = (bytes > most, self.views.first()) {
            return Err(view.at.error(format!(
                "expected tensors of at most {most} bytes ({MOST_PER_BYTE} for every byte of their storages, and \
                 {SPARE}), found {bytes}: storages shared or expanded too often"
            )));
        }
        let mut storages: HashMap<&str, Cow<'p, [u8]>> = HashMap::new();
        // All of them first: a claim that is wrong must not let another tensor be made.
        for (_, view) in &self.views {
            if !storages.contains_key(view.key) {
                storages.insert(view.key, storage(view)?);
            }
        }
        let mut tensors = Tensors::new();
        for (name, view) in &self.views {
            let View { dtype, offset, shape, strides, .. } = view;
            let placed = Placed { dtype: *dtype, big_endian, offset: *offset, shape, strides };
            let tensor = numbers::read(&storages[view.key], &placed).expect("inside its storage, which was checked");
            tensors.insert(name.as_str(), tensor);
        }
        Ok(Checkpoint { tensors, unwrapped: self.unwrapped, dropped: self.dropped })
    }
}

/// A key of a dict, as text, and its value.
type Entry<'p> = (Cow<'p, str>, Value<'p>);

/// Keys and values of a dict or `OrderedDict`, every key once: as in Python, in the place of the first of equal ones and
/// with the value of the last.
fn entries_of(value: Value<'_>) -> Result<Vec<Entry<'_>>> {
    match value.kind() {
        Kind::Dict(entries) => unique(entries.map(Ok)),
        Kind::Call(call) if call.global == ORDERED_DICT => {
            // Python 2 wrote OrderedDict([[key, value], ..]).
            match call.args.get(0).map(|list| list.kind()) {
                Some(Kind::List(items)) => unique(items.map(pair_of)),
                _ => unique(call.entries.map(Ok)),
            }
        }
        _ => Err(value.unexpected("a state dict, or one tensor")),
    }
}

fn pair_of(item: Value<'_>) -> Result<(Value<'_>, Value<'_>)> {
    let (Kind::List(pair) | Kind::Tuple(pair)) = item.kind() else { return Err(item.unexpected("a pair")) };
    match (pair.get(0), pair.get(1), pair.len()) {
        (Some(key), Some(value), 2) => Ok((key, value)),
        _ => Err(item.unexpected("a key and a value")),
    }
}

fn unique<'p>(entries: impl Iterator<Item = Result<(Value<'p>, Value<'p>)>>) -> Result<Vec<Entry<'p>>> {
    let mut all: Vec<Entry<'p>> = Vec::new();
    let mut places: HashMap<Cow<'p, str>, usize> = HashMap::new();
    for entry in entries {
        let (key, value) = entry?;
        let name = name_of(key)?;
        match places.get(&name) {
            Some(&place) => all[place].1 = value,
            None => {
                places.insert(name.clone(), all.len());
                all.push((name, value));
            }
        }
    }
    Ok(all)
}

/// The name that a key is; one that is no text is described.
fn name_of(key: Value<'_>) -> Result<Cow<'_, str>> {
    check_length(key)?;
    Ok(key.text().map_or_else(|_| key.describe().into(), Cow::Borrowed))
}

/// The text that must stand here, short enough for a name.
fn text_of(value: Value<'_>) -> Result<&str> {
    check_length(value)?;
    value.text()
}

/// Refuses a long name or key: all entries of a dict may share one, and each of them looks at it.
fn check_length(value: Value<'_>) -> Result<()> {
    match value.kind() {
        Kind::Text(text) if text.len() > LONGEST_NAME => {}
        Kind::Bytes(bytes) if bytes.len() > LONGEST_NAME => {}
        _ => return Ok(()),
    }
    Err(value.unexpected(format!("a name of at most {LONGEST_NAME} bytes")))
}

/// The first of [`WRAPPERS`] under which there is a dict.
fn wrapped<'p>(entries: &[Entry<'p>]) -> Option<(&'static str, Value<'p>)> {
    WRAPPERS.into_iter().find_map(|key| {
        let &(_, value) = entries.iter().find(|(name, _)| name == key)?;
        let is_dict = match value.kind() {
            Kind::Dict(_) => true,
            Kind::Call(call) => call.global == ORDERED_DICT,
            _ => false,
        };
        is_dict.then_some((key, value))
    })
}

fn describe((name, value): &Entry<'_>) -> (String, String) {
    let what = match value.kind() {
        Kind::Call(call) if REBUILD_TENSOR.contains(&call.global) || call.global == REBUILD_PARAMETER => {
            "a tensor".to_string()
        }
        _ => value.describe(),
    };
    (name.to_string(), what)
}

/// The folder of the archives written here; PyTorch takes any.
const FOLDER: &str = "archive/";

/// A file in the zip format.
pub(super) fn to_bytes(path: &Path, tensors: &Tensors) -> Result<Vec<u8>> {
    // As in `Lib/pickletools.py`: PROTO 2, then OrderedDict() and its entries between MARK and SETITEMS, STOP.
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        rebuild(&mut pickle, index, tensor);
    }
    pickle.extend(b"u.");
    let member = |name: String, bytes: Vec<u8>| (format!("{FOLDER}{name}"), bytes);
    let mut members = vec![
        member(PICKLE.into(), pickle),
        member(".format_version".into(), b"1".to_vec()),
        member("byteorder".into(), b"little".to_vec()),
    ];
    members.extend(
        tensors
            .iter()
            .enumerate()
            .map(|(index, (_, tensor))| member(format!("data/{index}"), numbers::little_endian(tensor.values()))),
    );
    members.push(member("version".into(), b"3\n".to_vec()));
    archive::write(path, &members)
}

/// `_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())`.
fn rebuild(pickle: &mut Vec<u8>, index: usize, tensor: &Tensor) {
    let class: &[u8] = match tensor.values().dtype() {
        Dtype::F64 => b"DoubleStorage",
        Dtype::I64 => b"LongStorage",
        Dtype::U8 => b"ByteStorage",
        _ => b"FloatStorage",
    };
    // GLOBAL, MARK of the arguments, MARK of the persistent id.
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend([b"ctorch\n", class, b"\n"].concat());
    text(pickle, &index.to_string());
    text(pickle, "cpu");
    whole(pickle, tensor.len());
    // TUPLE, BINPERSID, the offset.
    pickle.extend(b"tQK\x00");
    for sizes in [tensor.shape(), &numbers::row_major(tensor.shape())] {
        pickle.push(b'(');
        sizes.iter().for_each(|&size| whole(pickle, size));
        pickle.push(b't');
    }
    // NEWFALSE, OrderedDict(), TUPLE, REDUCE.
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// BINUNICODE.
fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend(u32::try_from(text.len()).expect("a name").to_le_bytes());
    pickle.extend(text.as_bytes());
}

/// BININT1 or LONG1.
fn whole(pickle: &mut Vec<u8>, value: usize) {
    match u8::try_from(value) {
        Ok(value) => pickle.extend([b'K', value]),
        Err(_) => {
            pickle.extend([0x8a, 8]);
            pickle.extend((value as i64).to_le_bytes());
        }
    }
}
