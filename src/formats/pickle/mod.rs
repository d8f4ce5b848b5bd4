//! Python's pickle, read without running it.
//!
//! A pickle is a program for a small stack machine: its opcodes push constants, gather them into lists, tuples and
//! dicts, and call Python functions by name. Loading one in Python runs those calls, so a pickle from a stranger is a
//! program from a stranger. This reader is the same stack machine with the calls taken out:
//!
//! * a name (`GLOBAL`, `STACK_GLOBAL`) is looked up in a list the caller supplies, by exact `module.name`; any other
//!   name is refused with its offset. The result is only the name, [`Kind::Global`];
//! * calling it (`REDUCE`, `NEWOBJ`) and handing it state (`BUILD`) only note what was asked for, [`Kind::Call`]. The
//!   caller decides what `numpy.dtype('u1')` means;
//! * what remains is a tree of plain data, [`Value`].
//!
//! # What the caller may rely on
//!
//! A pickle can name one value many times (`BINPUT` stores it in the *memo*, `BINGET` fetches it), so the data is in
//! truth a graph: k nested pairs of memo references stand for 2ᵏ values in about 4k bytes, and a list can contain
//! itself. Values are therefore nodes of an arena, a memo reference is an index, and nothing here recurses, neither
//! reading nor dropping. After the last opcode one walk over the arena checks that the graph, *written out as a tree*,
//!
//! * is finite (no value contains itself),
//! * is at most [`MAX_DEPTH`] deep,
//! * has at most [`MAX_VALUES`] nodes;
//!
//! so a caller that recurses over a [`Value`] can neither overflow its stack nor hang. Every opcode adds at most one
//! node, stack entry, mark or memo entry, and there may be at most [`MAX_OPERATIONS`] of them: memory is linear in the
//! input and bounded. Strings stay where they are, in the input; their claimed length is checked against what is left
//! of it before anything is done.
//!
//! # Coverage
//!
//! Protocols 0 to 5, without what builds objects behind the caller's back or needs data from elsewhere: `INST`, `OBJ`,
//! `NEWOBJ_EX`, `EXT1/2/4`, sets and out-of-band buffers are refused by name. The opcodes are those of CPython's
//! `Lib/pickletools.py`, which documents each.
//!
//! ```
//! use resnet_by_hand::formats::pickle::Pickle;
//! // pickle.dumps({"epoch": 7}, protocol=2)
//! let bytes = b"\x80\x02}q\x00X\x05\x00\x00\x00epochq\x01K\x07s.";
//! let pickle = Pickle::parse(bytes, 0, &[], "example.pkl")?;
//! assert_eq!(pickle.root().get("epoch")?.int()?, 7);
//!
//! // os.system('id'): refused at the name, before anything could be done with it.
//! let error = Pickle::parse(b"cos\nsystem\n(S'id'\ntR.", 0, &[], "bad.pkl").unwrap_err();
//! assert!(error.to_string().starts_with("bad.pkl, at byte 0: global `os.system` is not allowed"));
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The most opcodes a pickle may have. CIFAR-10 batches and the state dicts of large networks have some ten thousand.
pub const MAX_OPERATIONS: usize = 1 << 21;
/// The most nodes a pickle may have when shared values are counted once for every place they stand in.
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
    /// Where the opcode that made it stands.
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
    /// Reads the pickle that starts at `start` in `bytes`; `path` and offsets from the start of `bytes` stand in every
    /// error. `allowed` holds every `module.name` that may be mentioned.
    ///
    /// The pickle ends at its `STOP`, [`end`](Self::end) says where; what follows is the caller's (PyTorch's old
    /// format puts five pickles and the tensors' bytes into one file).
    ///
    /// # Errors
    /// [`Error::Format`] for anything that is not a complete pickle of the opcodes above, a name that is not allowed,
    /// or a limit exceeded.
    pub fn parse(bytes: &'a [u8], start: usize, allowed: &'a [&'a str], path: impl AsRef<Path>) -> Result<Pickle<'a>> {
        let mut machine = Machine {
            input: bytes,
            at: start,
            operation: start,
            path: path.as_ref(),
            allowed,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run()?;
        let Machine { at: end, nodes, .. } = machine;
        let pickle = Pickle { path: path.as_ref().to_path_buf(), nodes, root, end };
        pickle.check_tree()?;
        Ok(pickle)
    }

    /// The value the pickle stands for.
    pub fn root(&self) -> Value<'_> {
        Value { pickle: self, id: self.root }
    }

    /// Offset of the first byte after the pickle.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Every persistent id that is mentioned, in the order of the file, also where the result does not hold it.
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
                // A missing state counts as a second mention of the arguments: harmless, and keeps the numbering.
                1 => Some(call.state.unwrap_or(call.args)),
                _ => of_entry(&call.entries, i - 2),
            },
            Data::Persistent(inner) => (i == 0).then_some(*inner),
            _ => None,
        }
    }

    /// Checks that what the root stands for is a finite tree within the limits: a depth-first walk with its own stack.
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
                            let message = format!("shared values, written out, are more than {MAX_VALUES}");
                            return Err(refuse(id, message));
                        }
                    }
                    Visit::Unseen => {
                        // Not only where a value is done: the path would grow with the file.
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

/// A value of a pickle: a light handle, copied freely.
///
/// [`kind`](Self::kind) is for matching; the methods named after a type are for a caller who knows what has to stand
/// there, and whose error names file, offset, expected and found.
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
    /// A whole number; one of more than 16 bytes is refused while reading.
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
    /// A call that was asked for and not made.
    Call(Call<'p>),
    /// A persistent id: an object that the file's owner keeps elsewhere (PyTorch: a tensor's storage).
    Persistent(Value<'p>),
}

/// `global(*args)`, then `__setstate__(state)`, then `object[key] = value` for each of `entries`.
#[derive(Clone, Copy, Debug)]
pub struct Call<'p> {
    /// The allowed `module.name`.
    pub global: &'p str,
    /// The arguments.
    pub args: Items<'p>,
    /// What `BUILD` hands to the object.
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

/// The `(key, value)` pairs of a dict in the order they were set. A key set twice stands here twice; as in Python, the
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

    /// The error "expected so and so, found this value", at its place in the file.
    pub fn unexpected(&self, expected: impl std::fmt::Display) -> Error {
        self.error(format!("expected {expected}, found {}", self.describe()))
    }

    /// An error with a message of the caller's, at this value's place in the file.
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
            // Not a count of all: many values may share one long text.
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

    /// The bool that must stand here; 0 and 1 count, as old NumPy writes them.
    pub fn bool(&self) -> Result<bool> {
        match self.kind() {
            Kind::Bool(value) => Ok(value),
            Kind::Int(0) => Ok(false),
            Kind::Int(1) => Ok(true),
            _ => Err(self.unexpected("True or False")),
        }
    }

    /// The whole number that must stand here.
    pub fn int(&self) -> Result<i128> {
        match self.kind() {
            Kind::Int(value) => Ok(value),
            _ => Err(self.unexpected("a whole number")),
        }
    }

    /// The size, count or index that must stand here.
    pub fn usize(&self) -> Result<usize> {
        usize::try_from(self.int()?).map_err(|_| self.unexpected("a size"))
    }

    /// The text that must stand here: `str`, or bytes that are UTF-8, as Python 2 wrote its strings.
    pub fn text(&self) -> Result<&'p str> {
        match self.kind() {
            Kind::Text(text) => Ok(text),
            Kind::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| self.unexpected("a text")),
            _ => Err(self.unexpected("a text")),
        }
    }

    /// The bytes that must stand here.
    ///
    /// Protocols 0 to 2 have no opcode for Python 3's `bytes`; there they stand as `_codecs.encode(text, 'latin1')`,
    /// each byte as the character of that number. That call is understood here, if the caller allowed its name.
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
                // A byte is at most two of text.
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

    /// The elements of the list that must stand here.
    pub fn list(&self) -> Result<Items<'p>> {
        match self.kind() {
            Kind::List(items) => Ok(items),
            _ => Err(self.unexpected("a list")),
        }
    }

    /// The `N` elements of the tuple that must stand here.
    pub fn tuple<const N: usize>(&self) -> Result<[Value<'p>; N]> {
        let Kind::Tuple(items) = self.kind() else { return Err(self.unexpected(format!("a tuple of {N}"))) };
        let values: Vec<Value<'p>> = items.take(N + 1).collect();
        values.try_into().map_err(|_| self.unexpected(format!("a tuple of {N}")))
    }

    /// The entries of the dict that must stand here.
    pub fn dict(&self) -> Result<Entries<'p>> {
        match self.kind() {
            Kind::Dict(entries) => Ok(entries),
            _ => Err(self.unexpected("a dict")),
        }
    }

    /// The call of a function among `globals` that must stand here.
    pub fn call(&self, globals: &[&str]) -> Result<Call<'p>> {
        match self.kind() {
            Kind::Call(call) if globals.contains(&call.global) => Ok(call),
            _ => Err(self.unexpected(format!("a call of `{}`", globals.join("` or `")))),
        }
    }

    /// The value under `key` of the dict that must stand here.
    pub fn get(&self, key: &str) -> Result<Value<'p>> {
        let entries = self.dict()?;
        entries.get(key).ok_or_else(|| {
            let keys = entries.take(20).filter_map(|(key, _)| key.short_key());
            let keys: Vec<String> = keys.collect();
            self.error(format!("expected the key {key:?}, found {keys:?}"))
        })
    }
}

/// The stack machine.
struct Machine<'a, 'm> {
    input: &'a [u8],
    /// The next byte to read.
    at: usize,
    /// The opcode being carried out.
    operation: usize,
    path: &'m Path,
    allowed: &'a [&'a str],
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at each open `MARK`.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a, '_> {
    /// Carries out opcodes up to `STOP` and returns the result.
    fn run(&mut self) -> Result<Id> {
        for _ in 0..MAX_OPERATIONS {
            self.operation = self.at;
            let opcode = self.take::<1>()?[0];
            match opcode {
                b'.' => {
                    let root = self.pop()?;
                    if !self.stack.is_empty() || !self.marks.is_empty() {
                        return Err(self.error("the pickle stops with values left over"));
                    }
                    return Ok(root);
                }

                // Framing.
                0x80 => {
                    let [version] = self.take()?;
                    if version > 5 {
                        return Err(self.error(format!("expected protocol 0 to 5, found {version}")));
                    }
                }
                0x95 => {
                    let frame = self.length8()?;
                    self.check_left(frame)?;
                }

                // Constants.
                b'N' => self.push(Data::None),
                0x88 => self.push(Data::Bool(true)),
                0x89 => self.push(Data::Bool(false)),
                b'K' => {
                    let [value] = self.take()?;
                    self.push(Data::Int(value.into()));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.take()?);
                    self.push(Data::Int(value.into()));
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.take()?);
                    self.push(Data::Int(value.into()));
                }
                0x8a => {
                    let length = self.take::<1>()?[0].into();
                    self.long(length)?;
                }
                0x8b => {
                    let length = self.length4()?;
                    self.long(length)?;
                }
                b'I' => match self.line()? {
                    b"00" => self.push(Data::Bool(false)),
                    b"01" => self.push(Data::Bool(true)),
                    digits => self.decimal(digits)?,
                },
                b'L' => {
                    let line = self.line()?;
                    self.decimal(line.strip_suffix(b"L").unwrap_or(line))?;
                }
                b'G' => {
                    let value = f64::from_be_bytes(self.take()?);
                    self.push(Data::Float(value));
                }
                b'F' => {
                    let line = self.line()?;
                    let value = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
                    let value = value.ok_or_else(|| self.error("expected a decimal float"))?;
                    self.push(Data::Float(value));
                }

                // Byte strings, those of Python 2 included.
                b'U' | b'C' => {
                    let length = self.take::<1>()?[0].into();
                    self.bytes(length)?;
                }
                b'T' | b'B' => {
                    let length = self.length4()?;
                    self.bytes(length)?;
                }
                0x8e | 0x96 => {
                    let length = self.length8()?;
                    self.bytes(length)?;
                }
                b'S' => {
                    let line = self.line()?;
                    let bytes = unquote(line).ok_or_else(|| self.error("expected a quoted string"))?;
                    self.push(Data::Bytes(bytes));
                }

                // Text.
                0x8c => {
                    let length = self.take::<1>()?[0].into();
                    self.text(length)?;
                }
                b'X' => {
                    let length = self.length4()?;
                    self.text(length)?;
                }
                0x8d => {
                    let length = self.length8()?;
                    self.text(length)?;
                }
                b'V' => {
                    let line = self.line()?;
                    let text = unescape_unicode(line).ok_or_else(|| self.error("expected raw-unicode-escape text"))?;
                    self.push(Data::Text(text.into()));
                }

                // Containers.
                b'(' => self.marks.push(self.stack.len()),
                b']' => self.push(Data::List(Vec::new())),
                b')' => self.push(Data::Tuple(Vec::new())),
                b'}' => self.push(Data::Dict(Vec::new())),
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push(Data::List(items));
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Data::Tuple(items));
                }
                b'd' => {
                    let items = self.pop_to_mark()?;
                    let entries = self.pairs(&items)?;
                    self.push(Data::Dict(entries));
                }
                0x85..=0x87 => {
                    let mut items = Vec::with_capacity(usize::from(opcode - 0x84));
                    for _ in 0x85..=opcode {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Data::Tuple(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set(&items)?;
                }

                // The stack itself.
                b'0' => {
                    // As in Python, POP right after a MARK takes the mark away.
                    if self.marks.last() == Some(&self.stack.len()) {
                        self.marks.pop();
                    } else {
                        self.pop()?;
                    }
                }
                b'1' => {
                    self.pop_to_mark()?;
                }
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }

                // The memo.
                b'p' => {
                    let key = self.memo_key()?;
                    self.store(key)?;
                }
                b'q' => {
                    let [key] = self.take()?;
                    self.store(key.into())?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.take()?);
                    self.store(key.into())?;
                }
                0x94 => self.store(self.memo.len() as u64)?,
                b'g' => {
                    let key = self.memo_key()?;
                    self.fetch(key)?;
                }
                b'h' => {
                    let [key] = self.take()?;
                    self.fetch(key.into())?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.take()?);
                    self.fetch(key.into())?;
                }

                // Names and calls.
                b'c' => {
                    let module = String::from_utf8_lossy(self.line()?);
                    let name = String::from_utf8_lossy(self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.nodes[module].data, &self.nodes[name].data) {
                        (Data::Text(module), Data::Text(name)) => {
                            let (module, name) = (module.clone(), name.clone());
                            self.global(&module, &name)?;
                        }
                        _ => return Err(self.error("STACK_GLOBAL expects the texts module and name")),
                    }
                }
                b'R' | 0x81 => {
                    let (args, function) = (self.pop()?, self.pop()?);
                    let Data::Global(global) = self.nodes[function].data else {
                        return Err(self.error("a call expects the name of a function, found another value"));
                    };
                    let Data::Tuple(_) = self.nodes[args].data else {
                        return Err(self.error(format!("the call of `{global}` expects a tuple of arguments")));
                    };
                    self.push(Data::Call(Box::new(CallData { global, args, state: None, entries: Vec::new() })));
                }
                b'b' => {
                    let state = self.pop()?;
                    let object = self.top()?;
                    match &mut self.nodes[object].data {
                        Data::Call(call) if call.state.is_none() => call.state = Some(state),
                        _ => return Err(self.error("BUILD expects an object without state")),
                    }
                }
                b'P' => {
                    let text = String::from_utf8_lossy(self.line()?);
                    self.push(Data::Text(text));
                    let id = self.pop()?;
                    self.push(Data::Persistent(id));
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Data::Persistent(id));
                }

                other => {
                    let name = match other {
                        b'i' => "INST",
                        b'o' => "OBJ",
                        0x82 => "EXT1",
                        0x83 => "EXT2",
                        0x84 => "EXT4",
                        0x8f => "EMPTY_SET",
                        0x90 => "ADDITEMS",
                        0x91 => "FROZENSET",
                        0x92 => "NEWOBJ_EX",
                        0x97 => "NEXT_BUFFER",
                        0x98 => "READONLY_BUFFER",
                        _ => return Err(self.error(format!("expected a pickle opcode, found byte {other:#04x}"))),
                    };
                    return Err(self.error(format!("the pickle opcode {name} is not supported")));
                }
            }
        }
        Err(self.error(format!("the pickle has more than {MAX_OPERATIONS} opcodes")))
    }

    /// An error at the current opcode.
    fn error(&self, message: impl Into<String>) -> Error {
        Error::format(self.path, Some(self.operation as u64), message)
    }

    fn check_left(&self, length: usize) -> Result<()> {
        let left = self.input.len().saturating_sub(self.at);
        if length > left {
            let message = format!("truncated or corrupt pickle: expected {length} more bytes, found {left}");
            return Err(self.error(message));
        }
        Ok(())
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        self.check_left(length)?;
        let bytes = &self.input[self.at..self.at + length];
        self.at += length;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    /// A length of four bytes. Python reads some of them as signed and refuses negative ones; here they are merely
    /// longer than what is left.
    fn length4(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.take()?) as usize)
    }

    fn length8(&mut self) -> Result<usize> {
        let length = u64::from_le_bytes(self.take()?);
        usize::try_from(length).map_err(|_| self.error(format!("a length of {length} bytes")))
    }

    /// The bytes up to the next newline, which is skipped.
    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = self.slice(self.input.len().saturating_sub(self.at))?;
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.ok_or_else(|| self.error("truncated pickle: expected a line"))?;
        self.at = self.input.len() - rest.len() + length + 1;
        Ok(&rest[..length])
    }

    fn push(&mut self, data: Data<'a>) {
        self.stack.push(self.nodes.len());
        self.nodes.push(Node { offset: self.operation, data });
    }

    /// The top of the stack, which must lie above the last mark.
    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > floor => Ok(id),
            _ => Err(self.error("the pickle takes more values from its stack than it put there")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.error("expected a MARK on the stack"))?;
        Ok(self.stack.split_off(mark))
    }

    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        if length > 16 {
            return Err(self.error(format!("expected a whole number of at most 16 bytes, found {length}")));
        }
        // Little-endian two's complement: fill up with the sign.
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut all = [if negative { 0xff } else { 0 }; 16];
        all[..length].copy_from_slice(bytes);
        self.push(Data::Int(i128::from_le_bytes(all)));
        Ok(())
    }

    fn decimal(&mut self, digits: &[u8]) -> Result<()> {
        let value = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        let value = value.ok_or_else(|| self.error("expected a whole number of at most 16 bytes in decimal"))?;
        self.push(Data::Int(value));
        Ok(())
    }

    fn bytes(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        self.push(Data::Bytes(Cow::Borrowed(bytes)));
        Ok(())
    }

    fn text(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.error("expected text in UTF-8"))?;
        self.push(Data::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>> {
        if !items.len().is_multiple_of(2) {
            return Err(self.error("a dict expects as many values as keys"));
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// Appends to the list on top of the stack.
    fn append(&mut self, items: &[Id]) -> Result<()> {
        let list = self.top()?;
        match &mut self.nodes[list].data {
            Data::List(ids) => ids.extend(items),
            _ => return Err(self.error("APPEND expects a list")),
        }
        Ok(())
    }

    /// Sets `[key, value, key, value, ..]` in the dict or object on top of the stack.
    fn set(&mut self, items: &[Id]) -> Result<()> {
        let pairs = self.pairs(items)?;
        let target = self.top()?;
        match &mut self.nodes[target].data {
            Data::Dict(entries) => entries.extend(pairs),
            Data::Call(call) => call.entries.extend(pairs),
            _ => return Err(self.error("SETITEM expects a dict")),
        }
        Ok(())
    }

    /// The number of a memo entry, in decimal on a line.
    fn memo_key(&mut self) -> Result<u64> {
        let line = self.line()?;
        let key = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
        key.ok_or_else(|| self.error("expected the number of a memo entry"))
    }

    fn store(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn fetch(&mut self, key: u64) -> Result<()> {
        let id = self.memo.get(&key).copied();
        let id = id.ok_or_else(|| self.error(format!("memo entry {key} is fetched before it is stored")))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let full = format!("{module}.{name}");
        match self.allowed.iter().find(|&&allowed| allowed == full) {
            Some(&allowed) => self.push(Data::Global(allowed)),
            None => {
                let known = if self.allowed.is_empty() { "none".into() } else { self.allowed.join(", ") };
                let full: String = full.chars().take(200).flat_map(char::escape_debug).collect();
                return Err(self.error(format!("global `{full}` is not allowed (allowed: {known})")));
            }
        }
        Ok(())
    }
}

/// The bytes of a Python 2 string literal as `repr` writes it: `'a\n\x00'`.
fn unquote(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (&quote, rest) = line.split_first()?;
    let body = rest.strip_suffix(&[quote])?;
    if !matches!(quote, b'\'' | b'"') {
        return None;
    }
    if !body.contains(&b'\\') {
        return Some(Cow::Borrowed(body));
    }
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [*rest.next()?, *rest.next()?];
                    hexadecimal(&digits)? as u8
                }
                &other @ (b'\\' | b'\'' | b'"') => other,
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(Cow::Owned(bytes))
}

/// Python's `raw-unicode-escape`: Latin-1, with `\uXXXX` and `\UXXXXXXXX` for the rest.
fn unescape_unicode(line: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = match (byte, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(byte));
                rest = after;
                continue;
            }
        };
        text.push(char::from_u32(hexadecimal(after.get(1..=digits)?)?)?);
        rest = &after[1 + digits..];
    }
    Some(text)
}

/// The value of hexadecimal digits (and nothing else: no sign).
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] = &["collections.OrderedDict", "_codecs.encode", "numpy.dtype"];

    fn parse(bytes: &[u8]) -> Result<Pickle<'_>> {
        Pickle::parse(bytes, 0, ALLOWED, "p")
    }

    fn message(bytes: &[u8]) -> String {
        parse(bytes).expect_err("this pickle must be refused").to_string()
    }

    /// `{'a': [1, -2, 300, 70000], 'b': (True, None, 0.5), 'c': 2**70}` written by Python 3's pickle.dumps in each
    /// protocol it knows (0 to 5).
    const SAME_VALUE: [&[u8]; 6] = [
        b"(dp0\nVa\np1\n(lp2\nI1\naI-2\naI300\naI70000\nasVb\np3\n(I01\nNF0.5\ntp4\nsVc\np5\nL1180591620717411303424L\ns.",
        b"}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00eX\x01\x00\x00\x00bq\x03(I01\nNG?\xe0\x00\x00\x00\x00\x00\x00tq\x04X\x01\x00\x00\x00cq\x05L1180591620717411303424L\nu.",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00eX\x01\x00\x00\x00bq\x03\x88NG?\xe0\x00\x00\x00\x00\x00\x00\x87q\x04X\x01\x00\x00\x00cq\x05\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@u.",
        b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00eX\x01\x00\x00\x00bq\x03\x88NG?\xe0\x00\x00\x00\x00\x00\x00\x87q\x04X\x01\x00\x00\x00cq\x05\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@u.",
        b"\x80\x04\x95<\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00e\x8c\x01b\x94\x88NG?\xe0\x00\x00\x00\x00\x00\x00\x87\x94\x8c\x01c\x94\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@u.",
        b"\x80\x05\x95<\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00e\x8c\x01b\x94\x88NG?\xe0\x00\x00\x00\x00\x00\x00\x87\x94\x8c\x01c\x94\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00@u.",
    ];

    #[test]
    fn every_protocol_gives_the_same_value() {
        for bytes in SAME_VALUE {
            let pickle = parse(bytes).unwrap();
            assert_eq!(pickle.end(), bytes.len());
            let root = pickle.root();
            let list: Vec<i128> = root.get("a").unwrap().list().unwrap().map(|v| v.int().unwrap()).collect();
            assert_eq!(list, [1, -2, 300, 70000]);
            let [yes, none, half] = root.get("b").unwrap().tuple().unwrap();
            assert!(yes.bool().unwrap() && matches!(none.kind(), Kind::None));
            assert!(matches!(half.kind(), Kind::Float(value) if value == 0.5));
            assert_eq!(root.get("c").unwrap().int().unwrap(), 1 << 70);
            assert_eq!(root.dict().unwrap().len(), 3);
        }
    }

    #[test]
    fn long_integers_have_a_sign() {
        // pickle.dumps of -2**70, -1 (as a LONG1 and a LONG4), 0 and the least number of 16 bytes.
        let least = [&b"\x8a\x10"[..], &[0; 15], b"\x80."].concat();
        let cases: [(&[u8], i128); 5] = [
            (b"\x8a\t\x00\x00\x00\x00\x00\x00\x00\x00\xc0.", -(1 << 70)),
            (b"\x8a\x01\xff.", -1),
            (b"\x8b\x01\x00\x00\x00\xff.", -1),
            (b"\x8a\x00.", 0),
            (&least, i128::MIN),
        ];
        for (bytes, value) in cases {
            assert_eq!(parse(bytes).unwrap().root().int().unwrap(), value);
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        for bytes in SAME_VALUE {
            for length in 0..bytes.len() {
                message(&bytes[..length]);
            }
        }
    }

    #[test]
    fn no_byte_changed_anywhere_panics() {
        for bytes in SAME_VALUE {
            for position in 0..bytes.len() {
                for value in 0..=255 {
                    let mut changed = bytes.to_vec();
                    changed[position] = value;
                    let _ = parse(&changed);
                }
            }
        }
    }

    #[test]
    fn python_2_strings_are_bytes_and_read_as_text() {
        // pickle.dumps({'k': u'\xe9\u20ac', 'raw': '\x00\n'}) of Python 2, protocols 0 and 2.
        let old = parse(b"(dp0\nS'k'\np1\nV\xe9\\u20ac\np2\nsS'raw'\np3\nS'\\x00\\n'\np4\ns.").unwrap();
        let new = parse(b"\x80\x02}q\x00(U\x01kq\x01X\x05\x00\x00\x00\xc3\xa9\xe2\x82\xacq\x02U\x03rawq\x03T\x02\x00\x00\x00\x00\nu.").unwrap();
        for pickle in [old, new] {
            assert_eq!(pickle.root().get("k").unwrap().text().unwrap(), "é€");
            assert_eq!(pickle.root().get("raw").unwrap().bytes().unwrap().as_ref(), b"\x00\n");
        }
    }

    #[test]
    fn bytes_of_python_3_in_protocol_2() {
        // pickle.dumps(b"\xff\x00", 2)
        let bytes = b"\x80\x02c_codecs\nencode\nq\x00X\x03\x00\x00\x00\xc3\xbf\x00q\x01X\x06\x00\x00\x00latin1q\x02\x86q\x03Rq\x04.";
        assert_eq!(parse(bytes).unwrap().root().bytes().unwrap().as_ref(), b"\xff\x00");
        let too_wide = b"c_codecs\nencode\n(V\\u20ac\nVlatin1\ntR.";
        let error = parse(too_wide).unwrap().root().bytes().unwrap_err().to_string();
        assert!(error.contains("expected characters up to U+00FF"), "{error}");
    }

    #[test]
    fn calls_are_noted_and_not_made() {
        // OrderedDict([('w', 1)]) with an attribute: the shape of PyTorch's state dicts; pickles may follow each other.
        let bytes = b"N.\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00wK\x01u}X\x01\x00\x00\x00mNsb.rest";
        let pickle = Pickle::parse(bytes, 2, ALLOWED, "p").unwrap();
        let call = pickle.root().call(&["collections.OrderedDict"]).unwrap();
        assert_eq!((call.args.len(), call.entries.len()), (0, 1));
        assert_eq!(call.entries.get("w").unwrap().int().unwrap(), 1);
        assert!(matches!(call.state.unwrap().get("m").unwrap().kind(), Kind::None));
        assert_eq!(&bytes[pickle.end()..], b"rest");
        let pickle = parse(b"K\x05Q.").unwrap();
        assert!(matches!(pickle.root().kind(), Kind::Persistent(id) if id.int().unwrap() == 5));
    }

    #[test]
    fn names_outside_the_list_are_refused_with_name_and_offset() {
        let cases: [(&[u8], u64, &str); 6] = [
            (b"cos\nsystem\n(S'true'\ntR.", 0, "os.system"),
            (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", 2, "__builtin__.eval"),
            (b"\x80\x04\x8c\x08builtins\x94\x8c\x04eval\x94\x93\x8c\x011\x85R.", 20, "builtins.eval"),
            (b"ccollections\nOrderedDict2\n.", 0, "collections.OrderedDict2"),
            (b"Nccollections.OrderedDict\n__class__\n.", 1, "collections.OrderedDict.__class__"),
            (b"ccollections\nordereddict\n.", 0, "collections.ordereddict"),
        ];
        for (bytes, at, name) in cases {
            match parse(bytes).unwrap_err() {
                Error::Format { offset, message, .. } => {
                    assert_eq!(offset, Some(at), "{message}");
                    assert!(message.starts_with(&format!("global `{name}` is not allowed")), "{message}");
                }
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn other_ways_to_make_objects_are_refused() {
        assert!(message(b"(S'true'\nios\nsystem\n.").contains("INST"));
        assert!(message(b"(cnumpy\ndtype\no.").contains("OBJ"));
        assert!(message(b"\x80\x02\x82\x01.").contains("EXT1"));
        assert!(message(b"\x80\x04cnumpy\ndtype\n)}\x92.").contains("NEWOBJ_EX"));
        assert!(message(b"\x80\x05\x97.").contains("NEXT_BUFFER"));
        assert!(message(b"\x80\x06N.").contains("protocol 0 to 5"));
        // Only a name can be called: neither a string nor the result of another call.
        assert!(message(b"S'os.system'\n(tR.").contains("expects the name of a function"));
        assert!(message(b"cnumpy\ndtype\n(tR(tR.").contains("expects the name of a function"));
        assert!(message(b"cnumpy\ndtype\nNR.").contains("tuple of arguments"));
        // BUILD would set attributes: only once, and only on the result of a call.
        assert!(message(b"}Nb.").contains("BUILD"));
        assert!(message(b"cnumpy\ndtype\n)RNbNb.").contains("BUILD"));
        assert!(message(b")NA.").contains("0x41"));
        assert!(message(b")Na.").contains("APPEND expects a list"));
    }

    #[test]
    fn claimed_lengths_are_checked_before_anything_is_allocated() {
        for bytes in [
            &b"T\xff\xff\xff\xffabc."[..],
            b"X\xff\xff\xff\x7fabc.",
            b"B\xff\xff\xff\x7fabc.",
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
            b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
            b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
            b"\x8b\xff\xff\xff\x7fabc.",
        ] {
            let message = message(bytes);
            assert!(message.starts_with("p, at byte 0: truncated or corrupt pickle: expected"), "{message}");
        }
        assert!(message(&[&b"\x8a\xff"[..], &[1; 255], b"."].concat()).contains("at most 16 bytes, found 255"));
        // The largest memo number costs one entry, not four thousand million.
        assert!(parse(b"Nr\xff\xff\xff\xff.").is_ok());
        assert!(message(b"h\x07.").contains("memo entry 7 is fetched before it is stored"));
    }

    #[test]
    fn sharing_bombs_are_refused_and_plain_sharing_is_not() {
        // x = (); then 60 times x = (x, x): 2⁶⁰ values in 5 bytes each.
        let pairs = |levels: usize| {
            let mut bytes = b")q\x00".to_vec();
            for _ in 0..levels {
                bytes.extend(b"h\x00\x86q\x00");
            }
            bytes.push(b'.');
            bytes
        };
        assert!(message(&pairs(60)).contains("written out, are more than 4194304"));
        assert!(message(&pairs(22)).contains("written out"));
        assert!(parse(&pairs(20)).is_ok());
    }

    #[test]
    fn deep_nesting_and_self_reference_neither_overflow_nor_hang() {
        // Depth a million, written as nested one-element tuples and lists.
        let deep = |opcode: u8, levels: usize| {
            let mut bytes = b")".to_vec();
            bytes.resize(1 + levels, opcode);
            bytes.push(b'.');
            bytes
        };
        assert!(message(&deep(0x85, 1_000_000)).contains("nest more than 64 deep"));
        assert!(parse(&deep(0x85, 63)).is_ok());
        assert!(message(&deep(0x85, 64)).contains("nest more than 64 deep"));
        assert!(message(&deep(b'N', MAX_OPERATIONS)).contains("opcodes"));
        let nested_lists = [vec![b']'; 1_000_000], vec![b'a'; 999_999], b".".to_vec()].concat();
        assert!(message(&nested_lists).contains("nest more than 64 deep"));
        // l = []; l.append(l)   and   t = ([t],)   and a dict that is its own value.
        for bytes in [&b"]q\x00h\x00a."[..], b"]q\x00(h\x00\x85e.", b"}q\x00Nh\x00s.", b"]q\x00h\x00\x85ah\x00\x86."] {
            assert!(message(bytes).contains("contains itself"));
        }
        // Unreachable garbage may be what it likes.
        assert!(parse(b"]q\x00h\x00a0N.").is_ok());
    }

    #[test]
    fn the_stack_is_respected() {
        for bytes in
            [&b"."[..], b"0.", b"K\x01\x86.", b"t.", b"N(s.", b"(N(.", b"NN.", b"(N.", b"}(Nu.", b"(Nd.", b"q\x00."]
        {
            message(bytes);
        }
        assert!(parse(b"(0N.").is_ok() && parse(b"(NN1N.").is_ok());
        assert_eq!(parse(b"K\x012\x86.").unwrap().root().tuple::<2>().unwrap()[1].int().unwrap(), 1);
    }

    #[test]
    fn unexpected_values_say_what_was_found_and_where() {
        let pickle = parse(b"]K\x07a.").unwrap();
        let first = pickle.root().list().unwrap().get(0).unwrap();
        assert_eq!(first.text().unwrap_err().to_string(), "p, at byte 1: expected a text, found the number 7");
        assert_eq!(
            pickle.root().tuple::<2>().unwrap_err().to_string(),
            "p, at byte 0: expected a tuple of 2, found a list of 1"
        );
        // A key is not repeated at length, and not decoded to be compared: this would take minutes.
        let shared = |key: &[u8]| {
            let entries = b"h\x00N".repeat(200_000);
            [b"}(", key, b"q\x00N", &entries[..], b"c_codecs\nencode\n(Vz\nVlatin1\ntRK\x05u."].concat()
        };
        let long = "k".repeat(1 << 20);
        for key in [format!("V{long}\n"), format!("c_codecs\nencode\n(V{long}\nVlatin1\ntR")] {
            let bytes = shared(key.as_bytes());
            let pickle = parse(&bytes).unwrap();
            let start = std::time::Instant::now();
            assert_eq!(pickle.root().get("z").unwrap().int().unwrap(), 5);
            assert!(pickle.root().get("y").unwrap_err().to_string().len() < 2000);
            assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
        }
        // As in Python, the last of two equal keys counts.
        let twice = parse(b"}(S'k'\nK\x01S'k'\nK\x02u.").unwrap();
        assert_eq!(twice.root().get("k").unwrap().int().unwrap(), 2);
        assert!(twice.root().get("z").unwrap_err().to_string().contains(r#"expected the key "z", found ["k", "k"]"#));
    }
}
