//! The tensors that a pickle describes: found in it, checked, and then read from their storages.

use super::{Checkpoint, MOST_PER_BYTE, ORDERED_DICT, REBUILD_PARAMETER, REBUILD_TENSOR, SPARE, WRAPPERS};
use crate::Result;
use crate::formats::npy::UNNAMED;
use crate::formats::numbers::{self, MOST_AXES, Placed};
use crate::formats::pickle::{Kind, Pickle, Value};
use crate::tensors::{Dtype, Tensors};
use std::borrow::Cow;
use std::collections::HashMap;

/// The longest name of a tensor, key of a dict or key of a storage, in bytes.
const LONGEST_NAME: usize = 1024;

/// The element type of a storage class.
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

/// A storage as a pickle mentions it.
pub(super) struct Storage<'p> {
    pub dtype: Dtype,
    pub key: &'p str,
    len: usize,
}

impl<'p> Storage<'p> {
    /// `('storage', class, key, device, numel)`; the older format adds None, or a part of another storage.
    pub fn parse(id: Value<'p>) -> Result<Self> {
        let expected = "('storage', class, key, device, numel)";
        let Kind::Tuple(mut items) = id.kind() else { return Err(id.unexpected(expected)) };
        let (Some(tag), Some(class), Some(key), Some(_device), Some(len)) =
            (items.next(), items.next(), items.next(), items.next(), items.next())
        else {
            return Err(id.unexpected(expected));
        };
        if tag.text()? != "storage" {
            return Err(tag.unexpected("the text \"storage\""));
        }
        if let Some(part) = items.next()
            && !matches!(part.kind(), Kind::None)
        {
            return Err(part.unexpected("None: parts of storages are not supported"));
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
pub(super) struct View<'p> {
    pub at: Value<'p>,
    dtype: Dtype,
    pub key: &'p str,
    /// Number of elements in the storage.
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
                "expected a tensor inside its storage of {} elements, found shape {sizes:?}, \
                 strides {steps:?}, offset {offset}",
                storage.len
            );
            return Err(at.error(message));
        }
        let Storage { dtype, key, len } = storage;
        Ok(Some(View { at, dtype, key, storage_len: len, offset, shape: sizes, strides: steps }))
    }

    /// Bytes of this tensor in memory.
    fn bytes(&self) -> usize {
        // What View::parse accepts has at most isize::MAX / 8 elements.
        numbers::len(&self.shape).unwrap_or(0) * self.dtype.widened().size()
    }

    /// Rejects a storage whose length in the file is not the stated one.
    pub fn check_storage(&self, size: usize) -> Result<()> {
        if self.storage_len.checked_mul(self.dtype.size()) != Some(size) {
            let View { key, dtype, storage_len, .. } = self;
            let message = format!("expected {storage_len} {dtype} in the storage {key:?}, found {size} bytes");
            return Err(self.at.error(message));
        }
        Ok(())
    }
}

/// Sizes or strides: a tuple of integers that are not negative.
fn lengths(value: Value) -> Result<Vec<usize>> {
    let Kind::Tuple(items) = value.kind() else { return Err(value.unexpected("a tuple of sizes")) };
    if items.len() > MOST_AXES {
        return Err(value.unexpected(format!("at most {MOST_AXES} axes")));
    }
    items.map(|item| item.usize()).collect()
}

/// The tensors of a pickle, found and checked but not yet read.
pub(super) struct Object<'p> {
    views: Vec<(String, View<'p>)>,
    unwrapped: Vec<String>,
    dropped: Vec<(String, String)>,
}

impl<'p> Object<'p> {
    pub fn new(pickle: &'p Pickle<'p>) -> Result<Self> {
        let mut object = Object { views: Vec::new(), unwrapped: Vec::new(), dropped: Vec::new() };
        let mut at = pickle.root();
        if let Some(view) = View::parse(at)? {
            object.views.push((UNNAMED.to_string(), view));
            return Ok(object);
        }
        // The innermost dict: every iteration goes one level down in a tree of bounded depth.
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

    /// Reads the elements; `storage` finds and checks the bytes of a tensor's storage.
    pub fn load(
        self,
        big_endian: bool,
        mut storage: impl FnMut(&View<'p>) -> Result<Cow<'p, [u8]>>,
    ) -> Result<Checkpoint> {
        // Check the sizes in the pickle before anything is unpacked or copied. Each is compared with the size in the file
        // when its storage is read, before the tensor is created.
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
        // All storages first: after a wrong claim no other tensor may be created.
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

/// Keys and values of a dict or `OrderedDict`, every key once: as in Python, equal keys have the position of the first and
/// the value of the last.
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

/// A key as a name; one that is not text is described.
fn name_of(key: Value<'_>) -> Result<Cow<'_, str>> {
    check_length(key)?;
    Ok(key.text().map_or_else(|_| key.describe().into(), Cow::Borrowed))
}

/// The text expected here, short enough for a name.
pub(super) fn text_of(value: Value<'_>) -> Result<&str> {
    check_length(value)?;
    value.text()
}

/// Rejects a long name or key: all entries of a dict may share one, and each of them reads it.
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
