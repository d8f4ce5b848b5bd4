//! Dicts, and objects that have items like a dict.

use crate::Result;
use crate::formats::contents::{escaped, is_printable};
use crate::formats::pickle::{Kind, Value};
use std::collections::HashMap;

/// The longest name of a tensor, key of a dict or key of a storage, in bytes: a pickle can refer to one any number of
/// times.
pub(super) const LONGEST_NAME: usize = 1024;

/// Why a tensor under another key is left out.
pub(super) const NOT_A_NAME: &str = ", whose key is not a printable name of at most 1024 bytes";

const ORDERED_DICT: &str = "collections.OrderedDict";

/// A key and its value.
#[derive(Clone, Copy)]
pub(super) struct Entry<'p> {
    key: Value<'p>,
    /// The key, if it is a text that is short enough for a name, and printable: it is in many messages.
    pub name: Option<&'p str>,
    pub value: Value<'p>,
}

impl Entry<'_> {
    /// The key for messages.
    pub fn shown(&self) -> String {
        match (self.name, self.key.kind()) {
            (Some(name), _) => name.to_string(),
            (None, Kind::Text(text)) if text.len() <= LONGEST_NAME => escaped(text),
            (None, Kind::Text(text)) => format!("a key of {} bytes instead of at most {LONGEST_NAME}", text.len()),
            (None, _) => self.key.describe(),
        }
    }

    /// Whether the key is written `text` in a path: a text, or a whole number.
    pub fn is(&self, text: &str) -> bool {
        match self.key.kind() {
            Kind::Int(int) => text.parse() == Ok(int),
            _ => self.name == Some(text),
        }
    }
}

/// The keys and values of a dict, of a subclass (`OrderedDict`, `defaultdict`, `Counter`, a class of the user's), or of any
/// other object into which the pickle puts items by key; `None` for another value. Python would call a method of the
/// class for each item; here they are only listed.
///
/// Every key occurs once: as in Python, equal keys have the position of the first and the value of the last.
pub(super) fn entries_of(value: Value<'_>) -> Option<Vec<Entry<'_>>> {
    let entries = match value.kind() {
        Kind::Dict(entries) => entries,
        Kind::Call(call) if call.entries.len() > 0 => call.entries,
        Kind::Call(call) => match (call.args.get(0).map(|first| first.kind()), call.args.len()) {
            // Python 2 wrote OrderedDict([[key, value], ..]).
            (Some(Kind::List(items)), 1) if call.is(ORDERED_DICT) => return unique(items.map(pair_of)),
            // Counter({key: value, ..})
            (Some(Kind::Dict(entries)), 1) => entries,
            _ if call.is(ORDERED_DICT) || call.is("collections.defaultdict") => call.entries,
            _ => return None,
        },
        _ => return None,
    };
    unique(entries.map(Some))
}

fn pair_of(item: Value<'_>) -> Option<(Value<'_>, Value<'_>)> {
    let (Kind::List(pair) | Kind::Tuple(pair)) = item.kind() else { return None };
    (pair.len() == 2).then_some((pair.get(0)?, pair.get(1)?))
}

fn unique<'p>(entries: impl Iterator<Item = Option<(Value<'p>, Value<'p>)>>) -> Option<Vec<Entry<'p>>> {
    let mut all: Vec<Entry<'p>> = Vec::new();
    let mut places: HashMap<&'p str, usize> = HashMap::new();
    for entry in entries {
        let (key, value) = entry?;
        let name = name_of(key).ok();
        match name.and_then(|name| places.get(name)) {
            Some(&place) => all[place].value = value,
            None => {
                places.extend(name.map(|name| (name, all.len())));
                all.push(Entry { key, name, value });
            }
        }
    }
    Some(all)
}

/// The text expected here, printable and short enough for a name: all entries of a dict may share one, and each of them reads it.
pub(super) fn name_of(value: Value<'_>) -> Result<&str> {
    match value.kind() {
        Kind::Text(text) if text.len() > LONGEST_NAME => {}
        Kind::Bytes(bytes) if bytes.len() > LONGEST_NAME => {}
        _ => match value.text()? {
            text if is_printable(text) => return Ok(text),
            _ => {}
        },
    }
    Err(value.unexpected(format!("a name of at most {LONGEST_NAME} bytes, all of them printable")))
}
