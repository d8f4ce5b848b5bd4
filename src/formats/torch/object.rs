//! The tensors that a pickle describes: found in it, checked, and then read from their storages.

use super::choose::{self, Choice, ITSELF};
use super::mapping::{NOT_A_NAME, entries_of};
use super::view::{Found, View};
use super::{KEYS, MOST_PER_BYTE, SPARE};
use crate::formats::archive::SAVE_STORED;
use crate::formats::npy::UNNAMED;
use crate::formats::numbers::{self, Placed};
use crate::formats::pickle::{Call, Kind, Name, Pickle, Value};
use crate::formats::{Contents, Format};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// The functions that make a NumPy array.
const NUMPY: [&str; 2] = ["_reconstruct", "_frombuffer"];

/// The tensors of a pickle, found and checked but not yet read.
pub(super) struct Object<'p> {
    file: &'p Path,
    views: Vec<(String, View<'p>)>,
    unwrapped: Vec<String>,
    dropped: Vec<(String, String)>,
    unreadable: Vec<(String, String)>,
    others: Vec<(String, usize)>,
}

impl<'p> Object<'p> {
    /// The tensors of the dict that [`choose`] takes, in the whole checkpoint or in what `key` leads to; a key that ends with
    /// [`ITSELF`] takes that dict. `file` is the checkpoint.
    pub fn new(file: &'p Path, pickle: &'p Pickle<'p>, key: Option<&str>) -> Result<Self> {
        let key = key.unwrap_or_default();
        let itself = key.strip_suffix(ITSELF);
        let (start, mut unwrapped) = choose::follow(pickle.root(), itself.unwrap_or(key))?;
        let mut object = Object {
            file,
            views: Vec::new(),
            unwrapped: Vec::new(),
            dropped: Vec::new(),
            unreadable: Vec::new(),
            others: Vec::new(),
        };
        match Found::of(start) {
            Found::Tensor(view) => {
                object.views.push((UNNAMED.to_string(), view));
                object.unwrapped = unwrapped;
                return Ok(object);
            }
            Found::Malformed(error) => return Err(error),
            Found::Unreadable(what) | Found::Whole(what) => {
                return Err(start.error(format!("expected a state dict, or one tensor, found {what}")));
            }
            Found::Other => {}
        }
        let Choice { taken, path, others, module } = match itself {
            Some(_) => Choice { taken: entries_of(start).map(|_| start), path: vec![], others: vec![], module: None },
            None => choose::choose(start),
        };
        // The path to the dict in which the search began would begin it again.
        let inside = |path: &str| match (unwrapped.join("."), path) {
            (outside, "") => outside + ITSELF,
            (outside, path) if outside.is_empty() => path.to_string(),
            (outside, path) => format!("{outside}.{path}"),
        };
        object.others = others.into_iter().map(|(path, tensors)| (inside(&path), tensors)).collect();
        let Some(taken) = taken else { return Err(no_tensor(file, start, &unwrapped, module, &object.others)) };
        unwrapped.extend(path);
        // What is beside the way to the state dict.
        let mut at = pickle.root();
        for key in &unwrapped {
            let (next, _) = choose::follow(at, key)?;
            object.leave_out(at, next);
            at = next;
        }
        object.unwrapped = unwrapped;
        object.take(taken)?;
        Ok(object)
    }

    /// Lists the entries of a dict, except that one.
    fn leave_out(&mut self, dict: Value<'p>, except: Value<'p>) {
        let entries = entries_of(dict).unwrap_or_default();
        let left = entries.iter().filter(|entry| entry.value.id() != except.id());
        self.dropped.extend(left.map(|entry| (entry.shown(), describe(entry.value))));
    }

    /// Takes the tensors of a state dict.
    fn take(&mut self, dict: Value<'p>) -> Result<()> {
        for entry in entries_of(dict).unwrap_or_default() {
            let found = Found::of(entry.value);
            let Some(name) = entry.name else {
                let why = if matches!(found, Found::Other) { "" } else { NOT_A_NAME };
                self.dropped.push((entry.shown(), describe(entry.value) + why));
                continue;
            };
            match found {
                Found::Tensor(view) => self.views.push((name.to_string(), view)),
                Found::Unreadable(what) => self.unreadable.push((name.to_string(), what)),
                Found::Malformed(error) => return Err(error),
                Found::Whole(what) => self.dropped.push((name.to_string(), what)),
                Found::Other => self.dropped.push((name.to_string(), describe(entry.value))),
            }
        }
        Ok(())
    }

    /// Reads the elements, of at most `limit` bytes; `storage` finds and checks the bytes of a tensor's storage.
    pub fn load(
        self,
        format: Format,
        big_endian: bool,
        limit: usize,
        mut storage: impl FnMut(&View<'p>) -> Result<Cow<'p, [u8]>>,
    ) -> Result<Contents> {
        // Check the sizes in the pickle before anything is unpacked or copied. Each is compared with the size in the file
        // when its storage is read, before the tensor is created.
        let mut used: HashMap<&str, usize> = HashMap::new();
        let (mut bytes, mut most) = (0usize, SPARE);
        for (_, view) in &self.views {
            let claimed = view.storage_bytes();
            let first = !used.contains_key(view.key);
            if *used.entry(view.key).or_insert(claimed) != claimed {
                return Err(view.at.error(format!("expected one size of the storage {:?}, found two", view.key)));
            }
            if first {
                most = most.saturating_add(claimed.saturating_mul(MOST_PER_BYTE));
            }
            bytes = bytes.saturating_add(view.bytes());
        }
        if let (true, Some((_, view))) = (bytes > most, self.views.first()) {
            return Err(view.at.error(format!(
                "expected tensors of at most {most} bytes ({MOST_PER_BYTE} for every byte of their storages, and \
                 {SPARE}), found {bytes}: storages shared or expanded too often"
            )));
        }
        if let (true, Some((_, view))) = (bytes > limit, self.views.first()) {
            return Err(view.at.error(format!(
                "expected tensors of at most {limit} bytes in a file of this size, found {bytes}: {SAVE_STORED}"
            )));
        }
        let mut storages: HashMap<&str, Cow<'p, [u8]>> = HashMap::new();
        // All storages first: after a wrong claim no other tensor may be created.
        for (_, view) in &self.views {
            if !storages.contains_key(view.key) {
                storages.insert(view.key, storage(view)?);
            }
        }
        let mut contents = Contents::new(format);
        for (name, view) in &self.views {
            let View { dtype, offset, shape, strides, .. } = view;
            let placed = Placed { dtype: *dtype, big_endian, offset: *offset, shape, strides };
            let tensor = numbers::read(&storages[view.key], &placed).expect("inside its storage, which was checked");
            contents.tensors.insert(name.as_str(), if view.negative { numbers::negated(tensor) } else { tensor });
        }
        let Object { file, unwrapped, dropped, unreadable, others, .. } = self;
        Contents { unwrapped, dropped, unreadable, others, ..contents }.expect_tensors(file)
    }
}

/// A value that is left out, for messages.
fn describe(value: Value<'_>) -> String {
    match (Found::of(value), value.kind()) {
        (Found::Other, Kind::Call(call)) if call.name().is_some_and(|name| NUMPY.contains(&name.name)) => {
            "a NumPy array".to_string()
        }
        (Found::Other, _) => value.describe(),
        _ => "a tensor".to_string(),
    }
}

/// Entries of a dict for messages.
fn list(value: Value<'_>) -> String {
    let entries = entries_of(value).unwrap_or_default();
    let found = entries.iter().take(20).map(|entry| format!("{} ({})", entry.shown(), describe(entry.value)));
    let found: Vec<String> = found.collect();
    if found.is_empty() { "an empty dict".to_string() } else { found.join(", ") }
}

/// The class of an object. The older format keeps the source of a model's class beside it: ('module', class, file, source).
fn class_of(call: Call<'_>) -> Option<Name<'_>> {
    match call.function.kind() {
        Kind::Persistent(id) => match id.kind() {
            Kind::Tuple(items) => items.get(1)?.name(),
            _ => None,
        },
        _ => call.name(),
    }
}

/// The error of a checkpoint without a state dict: what it contains instead, and what to do.
fn no_tensor(
    file: &Path,
    start: Value<'_>,
    unwrapped: &[String],
    module: Option<(Vec<String>, Value<'_>)>,
    others: &[(String, usize)],
) -> Error {
    let script = |path: &[String]| {
        // A number is the index in a list.
        let key =
            |key: &String| key.parse::<usize>().map_or_else(|_| format!("[{key:?}]"), |index| format!("[{index}]"));
        let keys: String = path.iter().map(key).collect();
        save_state_dict(
            file,
            &format!("torch.load({:?}, map_location=\"cpu\", weights_only=False){keys}", name_of(file)),
        )
    };
    if let Some((path, model)) = module {
        let path = [unwrapped, &path[..]].concat();
        let place = if path.is_empty() { String::new() } else { format!(" under `{}`", path.join(".")) };
        let what = match model.kind() {
            Kind::Call(call) => class_of(call).map(|name| format!(", `{name}`")).unwrap_or_default(),
            _ => String::new(),
        };
        let beside = others.first().map(|(key, tensors)| {
            format!("\nOther tensors are under the key `{key}` ({tensors}); they are read only if that key is given.")
        });
        let message = format!("expected a state dict, found a whole model{what}{place}");
        return model.error(message + &script(&path) + &beside.unwrap_or_default());
    }
    let Some(entries) = entries_of(start) else {
        let message = format!("expected a state dict, or one tensor, found {}", start.describe());
        return match start.kind() {
            Kind::Call(_) => start.error(message + "; objects are not run here: save a plain dict of its tensors"),
            _ => start.error(message),
        };
    };
    // What is in the dict that should have been the state dict.
    let usual =
        KEYS.iter().find_map(|key| entries.iter().find(|entry| entry.is(key) && entries_of(entry.value).is_some()));
    let usual = usual.map_or(String::new(), |entry| format!("; in {}: {}", entry.shown(), list(entry.value)));
    start.error(format!(
        "expected a state dict, bare or under a key such as {}, found no tensor: {}{usual}",
        KEYS[..6].join(", "),
        list(start)
    ))
}

/// The name of a file without its folder.
fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The lines of Python that save the state dict of a whole model, which `load` loads.
pub(super) fn save_state_dict(file: &Path, load: &str) -> String {
    let to = file.with_extension("");
    let to = format!("{}-state-dict.pth", name_of(&to));
    format!(
        "; a model is a program, which is not run here: save model.state_dict() instead. In Python, where the file is \
         trusted:\n    import torch\n    model = {load}\n    torch.save(model.state_dict(), {to:?})"
    )
}
