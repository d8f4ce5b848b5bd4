//! Python's pickle, read without executing it.
//!
//! A pickle is a program for a small stack machine: its opcodes push constants, collect them into lists, tuples and
//! dicts, and call Python functions by name. Loading one in Python executes those calls, so an untrusted pickle is an
//! untrusted program. This reader is the same stack machine without the calls:
//!
//! * a name (`GLOBAL`, `STACK_GLOBAL`) must be in a list that the caller supplies, as the exact `module.name`; any other
//!   name is rejected with its offset. The result is only the name, [`Kind::Global`];
//! * calling it (`REDUCE`, `NEWOBJ`) and passing it state (`BUILD`) only record what was requested, [`Kind::Call`]. The
//!   caller decides what `numpy.dtype('u1')` means;
//! * the result is a tree of plain data, [`Value`].
//!
//! # What the caller may rely on
//!
//! A pickle can name one value many times (`BINPUT` stores it in the *memo*, `BINGET` fetches it), so the data is
//! really a graph: k nested pairs of memo references represent 2ᵏ values in about 4k bytes, and a list can contain
//! itself. Values are therefore nodes of an arena, a memo reference is an index, and nothing here recurses, neither
//! reading nor dropping. After the last opcode one walk over the arena checks that the graph, *expanded to a tree*,
//!
//! * is finite (no value contains itself),
//! * is at most [`MAX_DEPTH`] deep,
//! * has at most [`MAX_VALUES`] nodes;
//!
//! so a caller that recurses over a [`Value`] can neither overflow its stack nor hang. Every opcode adds at most one
//! node, stack entry, mark or memo entry, and there may be at most [`MAX_OPERATIONS`] of them: memory is linear in the
//! input and bounded. Strings stay in the input; their claimed length is first checked against the rest
//! of it.
//!
//! `machine.rs` executes the opcodes, and `text.rs` decodes the escapes of protocol 0.
//!
//! # Coverage
//!
//! Protocols 0 to 5, except for opcodes that build objects unnoticed by the caller or need data from elsewhere: `INST`,
//! `OBJ`, `NEWOBJ_EX`, `EXT1/2/4`, sets and out-of-band buffers are rejected by name. The opcodes are those of CPython's
//! `Lib/pickletools.py`, which documents each.
//!
//! ```
//! use resnet_by_hand::formats::pickle::Pickle;
//! // pickle.dumps({"epoch": 7}, protocol=2)
//! let bytes = b"\x80\x02}q\x00X\x05\x00\x00\x00epochq\x01K\x07s.";
//! let pickle = Pickle::parse(bytes, 0, &[], "example.pkl")?;
//! assert_eq!(pickle.root().get("epoch")?.int()?, 7);
//!
//! // os.system('id'): rejected at the name, before anything could be done with it.
//! let error = Pickle::parse(b"cos\nsystem\n(S'id'\ntR.", 0, &[], "bad.pkl").unwrap_err();
//! assert!(error.to_string().starts_with("bad.pkl, at byte 0: global `os.system` is not allowed"));
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

mod machine;
#[cfg(test)]
mod tests;
mod text;

use crate::{Error, Result};
use machine::Outcome;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The most opcodes a pickle may have. CIFAR-10 batches and the state dicts of large networks have about ten thousand.
pub const MAX_OPERATIONS: usize = 1 << 21;
/// The most nodes a pickle may have when shared values are counted once for every place they occur in.
pub const MAX_VALUES: u64 = 1 << 22;
/// The deepest nesting: a number has depth 1, a list of numbers 2.
pub const MAX_DEPTH: u32 = 64;

/// Index of a node in the arena.
type Id = usize;

/// A pickle that has been read: an arena of values and which of them is the result.
#[derive(Debug)]
pub struct Pickle<'a> {
    path: PathBuf,
    nodes: Vec<Node<'a>>,
    root: Id,
    end: usize,
}

#[derive(Debug)]
struct Node<'a> {
    /// Offset of the opcode that made it.
    offset: usize,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Bytes(Cow<'a, [u8]>),
    Text(Cow<'a, str>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(&'a str),
    Call(Box<CallData<'a>>),
    Persistent(Id),
}

#[derive(Debug)]
struct CallData<'a> {
    global: &'a str,
    /// A tuple.
    args: Id,
    state: Option<Id>,
    entries: Vec<(Id, Id)>,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that starts at `start` in `bytes`; `path` and offsets from the start of `bytes` are in every
    /// error. `allowed` lists every `module.name` that may occur.
    ///
    /// The pickle ends at its `STOP`, at the offset [`end`](Self::end); what follows is left to the caller (PyTorch's old
    /// format puts five pickles and the tensors' bytes into one file).
    ///
    /// # Errors
    /// [`Error::Format`] for anything that is not a complete pickle of the opcodes above, a name that is not allowed,
    /// or a limit exceeded.
    pub fn parse(bytes: &'a [u8], start: usize, allowed: &'a [&'a str], path: impl AsRef<Path>) -> Result<Pickle<'a>> {
        let Outcome { nodes, root, end } = machine::run(bytes, start, allowed, path.as_ref())?;
        let pickle = Pickle { path: path.as_ref().to_path_buf(), nodes, root, end };
        pickle.check_tree()?;
        Ok(pickle)
    }

    /// The value of the pickle.
    pub fn root(&self) -> Value<'_> {
        Value { pickle: self, id: self.root }
    }

    /// Offset of the first byte after the pickle.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Every persistent id, in the order of the file, even if the result does not contain it.
    pub fn persistent_ids(&self) -> impl Iterator<Item = Value<'_>> {
        self.nodes.iter().filter_map(|node| match node.data {
            Data::Persistent(id) => Some(Value { pickle: self, id }),
            _ => None,
        })
    }

    /// The i-th child of a node.
    fn child(&self, id: Id, i: usize) -> Option<Id> {
        let of_entry = |entries: &[(Id, Id)], i: usize| {
            entries.get(i / 2).map(|&(key, value)| if i.is_multiple_of(2) { key } else { value })
        };
        match &self.nodes[id].data {
            Data::List(ids) | Data::Tuple(ids) => ids.get(i).copied(),
            Data::Dict(entries) => of_entry(entries, i),
            Data::Call(call) => match i {
                0 => Some(call.args),
                // A missing state counts as a second reference to the arguments: harmless, and keeps the numbering.
                1 => Some(call.state.unwrap_or(call.args)),
                _ => of_entry(&call.entries, i - 2),
            },
            Data::Persistent(inner) => (i == 0).then_some(*inner),
            _ => None,
        }
    }

    /// Checks that the root, expanded, is a finite tree within the limits: a depth-first walk with its own stack.
    fn check_tree(&self) -> Result<()> {
        #[derive(Clone, Copy)]
        enum Visit {
            Unseen,
            Open,
            Done { depth: u32, values: u64 },
        }
        struct Step {
            id: Id,
            next_child: usize,
            depth: u32,
            values: u64,
        }
        let refuse = |id: Id, message: String| Error::format(&self.path, Some(self.nodes[id].offset as u64), message);

        let mut visits = vec![Visit::Unseen; self.nodes.len()];
        let mut path = vec![Step { id: self.root, next_child: 0, depth: 1, values: 1 }];
        visits[self.root] = Visit::Open;
        while let Some(step) = path.last_mut() {
            let id = step.id;
            if let Some(child) = self.child(id, step.next_child) {
                match visits[child] {
                    Visit::Open => return Err(refuse(child, "this value contains itself".into())),
                    Visit::Done { depth, values } => {
                        step.next_child += 1;
                        step.depth = step.depth.max(depth + 1);
                        step.values += values; // Both are at most MAX_VALUES: no overflow.
                        if step.depth > MAX_DEPTH {
                            return Err(refuse(id, format!("values nest more than {MAX_DEPTH} deep")));
                        }
                        if step.values > MAX_VALUES {
                            let message =
                                format!("expected at most {MAX_VALUES} values with shared ones expanded, found more");
                            return Err(refuse(id, message));
                        }
                    }
                    Visit::Unseen => {
                        // Not only when a value is complete: the path would grow with the file.
                        if path.len() >= MAX_DEPTH as usize {
                            return Err(refuse(child, format!("values nest more than {MAX_DEPTH} deep")));
                        }
                        visits[child] = Visit::Open;
                        path.push(Step { id: child, next_child: 0, depth: 1, values: 1 });
                    }
                }
            } else {
                visits[id] = Visit::Done { depth: step.depth, values: step.values };
                path.pop();
            }
        }
        Ok(())
    }
}

/// A value of a pickle: a small handle, cheap to copy.
///
/// [`kind`](Self::kind) is for matching; the methods named after a type are for a caller who expects that type;
/// their error reports file, offset, expected and found.
#[derive(Clone, Copy, Debug)]
pub struct Value<'p> {
    pickle: &'p Pickle<'p>,
    id: Id,
}

/// What a [`Value`] is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'p> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer; one of more than 16 bytes is rejected while reading.
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
    /// An allowed `module.name`.
    Global(&'p str),
    /// A call that was requested but not executed.
    Call(Call<'p>),
    /// A persistent id: an object that is stored elsewhere (PyTorch: a tensor's storage).
    Persistent(Value<'p>),
}

/// `global(*args)`, then `__setstate__(state)`, then `object[key] = value` for each of `entries`.
#[derive(Clone, Copy, Debug)]
pub struct Call<'p> {
    /// The allowed `module.name`.
    pub global: &'p str,
    /// The arguments.
    pub args: Items<'p>,
    /// What `BUILD` passes to the object.
    pub state: Option<Value<'p>>,
    /// What `SETITEM(S)` puts into the object (a `collections.OrderedDict`).
    pub entries: Entries<'p>,
}

/// The elements of a list or tuple, in order.
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
            Data::Global(name) => Kind::Global(name),
            Data::Call(call) => {
                let args = match &pickle.nodes[call.args].data {
                    Data::Tuple(ids) => Items { pickle, ids },
                    _ => Items { pickle, ids: &[] }, // Not reached: REDUCE accepts only tuples.
                };
                let state = call.state.map(|id| Value { pickle, id });
                Kind::Call(Call { global: call.global, args, state, entries: Entries { pickle, ids: &call.entries } })
            }
            Data::Persistent(id) => Kind::Persistent(Value { pickle, id: *id }),
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
            Kind::Call(call) => format!("a call of `{}`", call.global),
            Kind::Persistent(_) => "a persistent id".into(),
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
    /// each byte as the character of that number. That call is evaluated here if the caller allowed its name.
    pub fn bytes(&self) -> Result<Cow<'p, [u8]>> {
        match self.kind() {
            Kind::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Kind::Call(Call { global: "_codecs.encode", args, .. }) if args.len() == 2 => {
                let mut args = args;
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

    /// The call of a function among `globals` expected here.
    pub fn call(&self, globals: &[&str]) -> Result<Call<'p>> {
        match self.kind() {
            Kind::Call(call) if globals.contains(&call.global) => Ok(call),
            _ => Err(self.unexpected(format!("a call of `{}`", globals.join("` or `")))),
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
