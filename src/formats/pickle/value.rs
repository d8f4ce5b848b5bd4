//! The values of a pickle as a caller sees them.

use super::{Data, Id, Pickle};
use crate::{Error, Result};
use std::borrow::Cow;
use std::fmt;

/// A value of a pickle: a small handle, cheap to copy.
///
/// [`kind`](Self::kind) is for matching; the methods named after a type are for a caller who expects that type;
/// their error reports file, offset, expected and found.
#[derive(Clone, Copy, Debug)]
pub struct Value<'p> {
    pub(super) pickle: &'p Pickle<'p>,
    pub(super) id: Id,
}

/// What a [`Value`] is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'p> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 16 bytes.
    Int(i128),
    /// A float.
    Float(f64),
    /// `bytes`, `bytearray`, and the `str` of Python 2.
    Bytes(&'p [u8]),
    /// `str` (`unicode` in Python 2).
    Text(&'p str),
    /// A list.
    List(Items<'p>),
    /// A tuple.
    Tuple(Items<'p>),
    /// A dict.
    Dict(Entries<'p>),
    /// A set or frozenset.
    Set(Items<'p>),
    /// The name of a function or class.
    Global(Name<'p>),
    /// A call that was requested but not executed.
    Call(Call<'p>),
    /// A persistent id: an object that is stored elsewhere (PyTorch: a tensor's storage).
    Persistent(Value<'p>),
    /// A value that this reader does not represent, and its description: an integer of more than 16 bytes, a text that is
    /// not UTF-8.
    Opaque(&'static str),
}

/// A function or class, as the texts module and name: nothing is looked up.
#[derive(Clone, Copy, Debug)]
pub struct Name<'p> {
    /// `torch._utils`
    pub module: &'p str,
    /// `_rebuild_tensor_v2`
    pub name: &'p str,
}

impl Name<'_> {
    /// Whether this is `full`, such as `torch._utils._rebuild_tensor_v2`.
    pub fn is(&self, full: &str) -> bool {
        full.strip_prefix(self.module).and_then(|rest| rest.strip_prefix('.')) == Some(self.name)
    }
}

/// `module.name`, escaped and cut to what a message has room for.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (text, end) in [(self.module, "."), (self.name, "")] {
            text.chars().take(100).flat_map(char::escape_debug).try_for_each(|c| write!(f, "{c}"))?;
            f.write_str(end)?;
        }
        Ok(())
    }
}

/// `function(*args)`, then `__setstate__(state)`, then `object.append(item)` for each of `items` and `object[key] = value`
/// for each of `entries`. None of it was executed.
#[derive(Clone, Copy, Debug)]
pub struct Call<'p> {
    /// What is called: a [`Kind::Global`], or in odd pickles any other value.
    pub function: Value<'p>,
    /// The arguments.
    pub args: Items<'p>,
    /// What `BUILD` passes to the object.
    pub state: Option<Value<'p>>,
    /// What `APPEND(S)` and `ADDITEMS` put into the object (a `collections.deque`).
    pub items: Items<'p>,
    /// What `SETITEM(S)` puts into the object (a `collections.OrderedDict`).
    pub entries: Entries<'p>,
}

impl<'p> Call<'p> {
    /// The name of what is called, if it is a name.
    pub fn name(&self) -> Option<Name<'p>> {
        self.function.name()
    }

    /// Whether the function of this name is called, such as `torch._utils._rebuild_tensor_v2`.
    pub fn is(&self, full: &str) -> bool {
        self.name().is_some_and(|name| name.is(full))
    }
}

/// The elements of a list, tuple or set, in order.
#[derive(Clone, Copy, Debug)]
pub struct Items<'p> {
    pickle: &'p Pickle<'p>,
    ids: &'p [Id],
}

impl<'p> Items<'p> {
    /// The i-th element.
    pub fn get(&self, i: usize) -> Option<Value<'p>> {
        self.ids.get(i).map(|&id| Value { pickle: self.pickle, id })
    }
}

impl<'p> Iterator for Items<'p> {
    type Item = Value<'p>;
    fn next(&mut self) -> Option<Value<'p>> {
        let (&id, rest) = self.ids.split_first()?;
        self.ids = rest;
        Some(Value { pickle: self.pickle, id })
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.ids.len(), Some(self.ids.len()))
    }
}

impl ExactSizeIterator for Items<'_> {}

/// The `(key, value)` pairs of a dict in the order they were set. A key set twice occurs twice; as in Python, the
/// later one counts ([`Value::get`]).
#[derive(Clone, Copy, Debug)]
pub struct Entries<'p> {
    pickle: &'p Pickle<'p>,
    ids: &'p [(Id, Id)],
}

impl<'p> Entries<'p> {
    /// The value under a text key, however it was written ([`Value::text`], [`Value::bytes`]).
    pub fn get(&self, key: &str) -> Option<Value<'p>> {
        let is_key = |id| Value { pickle: self.pickle, id }.is_key(key);
        let &(_, id) = self.ids.iter().rev().find(|&&(id, _)| is_key(id))?;
        Some(Value { pickle: self.pickle, id })
    }
}

impl<'p> Iterator for Entries<'p> {
    type Item = (Value<'p>, Value<'p>);
    fn next(&mut self) -> Option<Self::Item> {
        let (&(key, value), rest) = self.ids.split_first()?;
        self.ids = rest;
        Some((Value { pickle: self.pickle, id: key }, Value { pickle: self.pickle, id: value }))
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.ids.len(), Some(self.ids.len()))
    }
}

impl ExactSizeIterator for Entries<'_> {}

impl<'p> Value<'p> {
    /// What this value is.
    pub fn kind(&self) -> Kind<'p> {
        let pickle = self.pickle;
        match &pickle.nodes[self.id].data {
            Data::None => Kind::None,
            Data::Bool(value) => Kind::Bool(*value),
            Data::Int(value) => Kind::Int(*value),
            Data::Float(value) => Kind::Float(*value),
            Data::Bytes(bytes) => Kind::Bytes(bytes),
            Data::Text(text) => Kind::Text(text),
            Data::List(ids) => Kind::List(Items { pickle, ids }),
            Data::Tuple(ids) => Kind::Tuple(Items { pickle, ids }),
            Data::Dict(ids) => Kind::Dict(Entries { pickle, ids }),
            Data::Set(ids) => Kind::Set(Items { pickle, ids }),
            Data::Global { module, name } => match (&pickle.nodes[*module].data, &pickle.nodes[*name].data) {
                (Data::Text(module), Data::Text(name)) => Kind::Global(Name { module, name }),
                _ => Kind::Opaque("a name"), // Not reached: STACK_GLOBAL accepts only texts.
            },
            Data::Call(call) => {
                let args = match &pickle.nodes[call.args].data {
                    Data::Tuple(ids) => Items { pickle, ids },
                    _ => Items { pickle, ids: &[] }, // Not reached: REDUCE accepts only tuples.
                };
                Kind::Call(Call {
                    function: Value { pickle, id: call.function },
                    args,
                    state: call.state.map(|id| Value { pickle, id }),
                    items: Items { pickle, ids: &call.items },
                    entries: Entries { pickle, ids: &call.entries },
                })
            }
            Data::Persistent(id) => Kind::Persistent(Value { pickle, id: *id }),
            Data::Opaque(what) => Kind::Opaque(what),
        }
    }

    /// A number of this value in its pickle: two values with the same number are the same one. A caller that searches a pickle
    /// keeps the numbers it has seen, because a value may contain itself.
    pub fn id(&self) -> usize {
        self.id
    }

    /// The name, if this is one.
    pub fn name(&self) -> Option<Name<'p>> {
        match self.kind() {
            Kind::Global(name) => Some(name),
            _ => None,
        }
    }

    /// Offset of the opcode that made this value.
    pub fn offset(&self) -> u64 {
        self.pickle.nodes[self.id].offset as u64
    }

    /// The error "expected {expected}, found this value", with its offset in the file.
    pub fn unexpected(&self, expected: impl std::fmt::Display) -> Error {
        self.error(format!("expected {expected}, found {}", self.describe()))
    }

    /// An error with the caller's message, at this value's offset in the file.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::format(&self.pickle.path, Some(self.offset()), message)
    }

    /// A short description for messages.
    pub fn describe(&self) -> String {
        match self.kind() {
            Kind::None => "None".into(),
            Kind::Bool(value) => (if value { "True" } else { "False" }).into(),
            Kind::Int(value) => format!("the number {value}"),
            Kind::Float(value) => format!("the float {value}"),
            Kind::Bytes(bytes) => format!("{} bytes", bytes.len()),
            // Do not count all characters: many values may share one long text.
            Kind::Text(text) if text.chars().nth(40).is_none() => format!("the text {text:?}"),
            Kind::Text(text) => format!("a text of {} bytes", text.len()),
            Kind::List(items) => format!("a list of {}", items.len()),
            Kind::Tuple(items) => format!("a tuple of {}", items.len()),
            Kind::Dict(entries) => format!("a dict of {}", entries.len()),
            Kind::Global(name) => format!("the name `{name}`"),
            Kind::Set(items) => format!("a set of {}", items.len()),
            Kind::Call(call) => match call.name() {
                Some(name) => format!("an object made by `{name}`"),
                None => "an object made by a function without a name".into(),
            },
            Kind::Persistent(_) => "a persistent id".into(),
            Kind::Opaque(what) => what.into(),
        }
    }

    /// The bool expected here; 0 and 1 count, as old NumPy writes them.
    pub fn bool(&self) -> Result<bool> {
        match self.kind() {
            Kind::Bool(value) => Ok(value),
            Kind::Int(0) => Ok(false),
            Kind::Int(1) => Ok(true),
            _ => Err(self.unexpected("True or False")),
        }
    }

    /// The integer expected here.
    pub fn int(&self) -> Result<i128> {
        match self.kind() {
            Kind::Int(value) => Ok(value),
            _ => Err(self.unexpected("a whole number")),
        }
    }

    /// The size, count or index expected here.
    pub fn usize(&self) -> Result<usize> {
        usize::try_from(self.int()?).map_err(|_| self.unexpected("a size"))
    }

    /// The text expected here: `str`, or bytes that are UTF-8, as Python 2 wrote its strings.
    pub fn text(&self) -> Result<&'p str> {
        match self.kind() {
            Kind::Text(text) => Ok(text),
            Kind::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| self.unexpected("a text")),
            _ => Err(self.unexpected("a text")),
        }
    }

    /// The bytes expected here.
    ///
    /// Protocols 0 to 2 have no opcode for Python 3's `bytes`; there they are `_codecs.encode(text, 'latin1')`,
    /// each byte as the character of that number. That call is evaluated here.
    pub fn bytes(&self) -> Result<Cow<'p, [u8]>> {
        match self.kind() {
            Kind::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Kind::Call(call) if call.is("_codecs.encode") && call.args.len() == 2 => {
                let mut args = call.args;
                let (Some(text), Some(encoding)) = (args.next(), args.next()) else {
                    return Err(self.unexpected("bytes"));
                };
                match encoding.kind() {
                    Kind::Text("latin1" | "latin-1") | Kind::Bytes(b"latin1" | b"latin-1") => {}
                    _ => return Err(encoding.unexpected("the encoding 'latin1'")),
                }
                let latin1 = |c: char| u8::try_from(u32::from(c));
                let bytes = text.text()?.chars().map(latin1).collect::<std::result::Result<Vec<u8>, _>>();
                Ok(Cow::Owned(bytes.map_err(|_| text.unexpected("characters up to U+00FF"))?))
            }
            _ => Err(self.unexpected("bytes")),
        }
    }

    /// Whether this is `key`, as a text or byte string. A dict may share one long key among all its entries, so nothing
    /// is decoded that is longer than `key`.
    fn is_key(&self, key: &str) -> bool {
        match self.kind() {
            Kind::Text(text) => text == key,
            Kind::Bytes(bytes) => bytes == key.as_bytes(),
            Kind::Call(call) => match call.args.get(0).map(|text| text.kind()) {
                // One byte becomes at most two bytes of text.
                Some(Kind::Text(text)) if text.len() <= 2 * key.len() => {
                    self.bytes().is_ok_and(|bytes| *bytes == *key.as_bytes())
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// A key for messages: its first forty characters.
    fn short_key(&self) -> Option<String> {
        let start = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(160)]).chars().take(40).collect();
        match self.kind() {
            Kind::Text(text) => Some(text.chars().take(40).collect()),
            Kind::Bytes(bytes) => Some(start(bytes)),
            Kind::Call(_) => self.bytes().ok().map(|bytes| start(&bytes)),
            _ => None,
        }
    }

    /// The elements of the list expected here.
    pub fn list(&self) -> Result<Items<'p>> {
        match self.kind() {
            Kind::List(items) => Ok(items),
            _ => Err(self.unexpected("a list")),
        }
    }

    /// The `N` elements of the tuple expected here.
    pub fn tuple<const N: usize>(&self) -> Result<[Value<'p>; N]> {
        let Kind::Tuple(items) = self.kind() else { return Err(self.unexpected(format!("a tuple of {N}"))) };
        let values: Vec<Value<'p>> = items.take(N + 1).collect();
        values.try_into().map_err(|_| self.unexpected(format!("a tuple of {N}")))
    }

    /// The entries of the dict expected here.
    pub fn dict(&self) -> Result<Entries<'p>> {
        match self.kind() {
            Kind::Dict(entries) => Ok(entries),
            _ => Err(self.unexpected("a dict")),
        }
    }

    /// The call of a function among `names` expected here.
    pub fn call(&self, names: &[&str]) -> Result<Call<'p>> {
        match self.kind() {
            Kind::Call(call) if names.iter().any(|name| call.is(name)) => Ok(call),
            _ => Err(self.unexpected(format!("a call of `{}`", names.join("` or `")))),
        }
    }

    /// The value under `key` of the dict expected here.
    pub fn get(&self, key: &str) -> Result<Value<'p>> {
        let entries = self.dict()?;
        entries.get(key).ok_or_else(|| {
            let keys = entries.take(20).filter_map(|(key, _)| key.short_key());
            let keys: Vec<String> = keys.collect();
            self.error(format!("expected the key {key:?}, found {keys:?}"))
        })
    }
}
