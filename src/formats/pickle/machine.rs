//! The stack machine that executes a pickle's opcodes.
//!
//! The functions and the opcodes they handle, with the names of CPython's `Lib/pickletools.py`. An opcode is one byte: a
//! printable character, or a value written in hexadecimal.
//!
//! ```text
//! run              . STOP
//! framing          80 PROTO, 95 FRAME
//! constants        N NONE, 88 NEWTRUE, 89 NEWFALSE, G BINFLOAT, F FLOAT
//! integers         K BININT1, M BININT2, J BININT, 8a LONG1, 8b LONG4, I INT, L LONG
//! byte_strings     U SHORT_BINSTRING, C SHORT_BINBYTES, T BINSTRING, B BINBYTES, 8e BINBYTES8, 96 BYTEARRAY8, S STRING
//! texts            8c SHORT_BINUNICODE, X BINUNICODE, 8d BINUNICODE8, V UNICODE
//! containers       ( MARK, ] EMPTY_LIST, ) EMPTY_TUPLE, } EMPTY_DICT, l LIST, t TUPLE, d DICT, 85 TUPLE1, 86 TUPLE2,
//!                  87 TUPLE3, a APPEND, e APPENDS, s SETITEM, u SETITEMS, 8f EMPTY_SET, 90 ADDITEMS, 91 FROZENSET
//! top_of_stack     0 POP, 1 POP_MARK, 2 DUP
//! memo_entries     p PUT, q BINPUT, r LONG_BINPUT, 94 MEMOIZE, g GET, h BINGET, j LONG_BINGET
//! names            c GLOBAL, 93 STACK_GLOBAL, 82 EXT1, 83 EXT2, 84 EXT4
//! calls            R REDUCE, 81 NEWOBJ, 92 NEWOBJ_EX, i INST, o OBJ, b BUILD, P PERSID, Q BINPERSID
//! unsupported      97 NEXT_BUFFER, 98 READONLY_BUFFER
//! ```

use super::text::{unescape_unicode, unquote};
use super::{CallData, Data, Id, MAX_OPERATIONS, Node};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// The description of an integer that is not represented: a random generator's state has them.
const LONG: &str = "a whole number of more than 16 bytes";

/// The outcome of a pickle: all nodes, which of them is the result, and the offset of the first byte after `STOP`.
pub(super) struct Outcome<'a> {
    pub nodes: Vec<Node<'a>>,
    pub root: Id,
    pub end: usize,
}

/// Executes the pickle that starts at `start` in `bytes`; the arguments are those of [`super::Pickle::parse`].
pub(super) fn run<'a>(bytes: &'a [u8], start: usize, path: &Path) -> Result<Outcome<'a>> {
    let mut machine = Machine {
        input: bytes,
        at: start,
        operation: start,
        path,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = machine.run()?;
    let Machine { at: end, nodes, .. } = machine;
    Ok(Outcome { nodes, root, end })
}

/// The stack machine.
struct Machine<'a, 'm> {
    input: &'a [u8],
    /// The next byte to read.
    at: usize,
    /// The opcode being executed.
    operation: usize,
    path: &'m Path,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at each open `MARK`.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a, '_> {
    /// Executes opcodes up to `STOP` and returns the result. The function of a group returns whether `opcode` is in it.
    fn run(&mut self) -> Result<Id> {
        for _ in 0..MAX_OPERATIONS {
            self.operation = self.at;
            let opcode = self.take::<1>()?[0];
            if opcode == b'.' {
                return self.stop();
            }
            let done = self.framing(opcode)?
                || self.constants(opcode)?
                || self.integers(opcode)?
                || self.byte_strings(opcode)?
                || self.texts(opcode)?
                || self.containers(opcode)?
                || self.top_of_stack(opcode)?
                || self.memo_entries(opcode)?
                || self.names(opcode)?
                || self.calls(opcode)?;
            if !done {
                return Err(self.unsupported(opcode));
            }
        }
        Err(self.error(format!("the pickle has more than {MAX_OPERATIONS} opcodes")))
    }

    /// `STOP`: the one value that remains.
    fn stop(&mut self) -> Result<Id> {
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(self.error("the pickle stops with values left over"));
        }
        Ok(root)
    }

    /// The protocol and the lengths of frames: checked, then ignored.
    fn framing(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `None`, `True`, `False` and floats.
    fn constants(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            b'N' => self.push(Data::None),
            0x88 => self.push(Data::Bool(true)),
            0x89 => self.push(Data::Bool(false)),
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Integers, and the bools of protocol 0, which are written 00 and 01.
    fn integers(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn long(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        if length > 16 {
            self.push(Data::Opaque(LONG));
            return Ok(());
        }
        // Little-endian two's complement: extend the sign.
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut all = [if negative { 0xff } else { 0 }; 16];
        all[..length].copy_from_slice(bytes);
        self.push(Data::Int(i128::from_le_bytes(all)));
        Ok(())
    }

    fn decimal(&mut self, digits: &[u8]) -> Result<()> {
        let value = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        let unsigned = digits.strip_prefix(b"-").unwrap_or(digits);
        match value {
            Some(value) => self.push(Data::Int(value)),
            None if unsigned.len() > 30 && unsigned.iter().all(u8::is_ascii_digit) => self.push(Data::Opaque(LONG)),
            None => return Err(self.error("expected a whole number in decimal")),
        }
        Ok(())
    }

    /// Byte strings, those of Python 2 included.
    fn byte_strings(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn bytes(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        self.push(Data::Bytes(Cow::Borrowed(bytes)));
        Ok(())
    }

    /// Text: UTF-8 after its length, or an escaped line in protocol 0.
    fn texts(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn text(&mut self, length: usize) -> Result<()> {
        let bytes = self.slice(length)?;
        // Python writes half of a surrogate pair, as in the name of a file that is not UTF-8, like any other character.
        self.push(match std::str::from_utf8(bytes) {
            Ok(text) => Data::Text(Cow::Borrowed(text)),
            Err(_) => Data::Opaque("a text that is not UTF-8"),
        });
        Ok(())
    }

    /// Lists, tuples and dicts, and the opcodes that add values to them.
    fn containers(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
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
            0x8f => self.push(Data::Set(Vec::new())),
            0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Data::Set(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' | 0x90 => {
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>> {
        if !items.len().is_multiple_of(2) {
            return Err(self.error("a dict expects as many values as keys"));
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// Appends to the list, set or object on top of the stack.
    fn append(&mut self, items: &[Id]) -> Result<()> {
        let list = self.top()?;
        match &mut self.nodes[list].data {
            Data::List(ids) | Data::Set(ids) => ids.extend(items),
            Data::Call(call) => call.items.extend(items),
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

    /// The opcodes that drop or duplicate the top of the stack.
    fn top_of_stack(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            b'0' => {
                // As in Python, POP directly after a MARK removes the mark.
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The memo: storing the top of the stack and fetching it again.
    fn memo_entries(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
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
            _ => return Ok(false),
        }
        Ok(true)
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

    /// Names. Nothing is looked up: a name is the two texts module and name.
    fn names(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            b'c' => {
                let global = self.global()?;
                self.push(global);
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Data::Text(_), Data::Text(_)) = (&self.nodes[module].data, &self.nodes[name].data) else {
                    return Err(self.error("STACK_GLOBAL expects the texts module and name"));
                };
                self.push(Data::Global { module, name });
            }
            0x82..=0x84 => {
                self.slice(1 << (opcode - 0x82))?;
                self.push(Data::Opaque("a name in Python's extension registry"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The name on the next two lines.
    fn global(&mut self) -> Result<Data<'a>> {
        let module = String::from_utf8_lossy(self.line()?);
        let name = String::from_utf8_lossy(self.line()?);
        Ok(Data::Global { module: self.add(Data::Text(module)), name: self.add(Data::Text(name)) })
    }

    /// Calls, of which none is executed, the state of objects, and persistent ids.
    fn calls(&mut self, opcode: u8) -> Result<bool> {
        match opcode {
            b'R' | 0x81 => {
                let (args, function) = (self.pop()?, self.pop()?);
                self.call(function, args)?;
            }
            0x92 => {
                // The keyword arguments, a dict, are not recorded.
                let (_, args, function) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(function, args)?;
            }
            b'i' => {
                let global = self.global()?;
                let (items, function) = (self.pop_to_mark()?, self.add(global));
                let args = self.add(Data::Tuple(items));
                self.call(function, args)?;
            }
            b'o' => {
                let mut items = self.pop_to_mark()?;
                if items.is_empty() {
                    return Err(self.error("OBJ expects a class"));
                }
                let function = items.remove(0);
                let args = self.add(Data::Tuple(items));
                self.call(function, args)?;
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
                let id = self.add(Data::Text(text));
                self.push(Data::Persistent(id));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Data::Persistent(id));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Records a call of anything: a name, or the result of another call.
    fn call(&mut self, function: Id, args: Id) -> Result<()> {
        let Data::Tuple(_) = self.nodes[args].data else {
            return Err(self.error("a call expects a tuple of arguments"));
        };
        let call = CallData { function, args, state: None, items: Vec::new(), entries: Vec::new() };
        self.push(Data::Call(Box::new(call)));
        Ok(())
    }

    /// The error for any other byte.
    fn unsupported(&self, opcode: u8) -> Error {
        let name = match opcode {
            0x97 => "NEXT_BUFFER",
            0x98 => "READONLY_BUFFER",
            _ => return self.error(format!("expected a pickle opcode, found byte {opcode:#04x}")),
        };
        self.error(format!("the pickle opcode {name} is not supported: its data is not in the file"))
    }

    // The stack.

    fn push(&mut self, data: Data<'a>) {
        let id = self.add(data);
        self.stack.push(id);
    }

    /// A node that is not on the stack.
    fn add(&mut self, data: Data<'a>) -> Id {
        self.nodes.push(Node { offset: self.operation, data });
        self.nodes.len() - 1
    }

    /// The top of the stack, which must be above the last mark.
    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > floor => Ok(id),
            _ => Err(self.error("the pickle pops more values from its stack than it pushed")),
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

    // The input.

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

    /// A length of four bytes. Python reads some of them as signed and rejects negative ones; here they are simply longer
    /// than the rest of the input.
    fn length4(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.take()?) as usize)
    }

    fn length8(&mut self) -> Result<usize> {
        let length = u64::from_le_bytes(self.take()?);
        usize::try_from(length)
            .map_err(|_| self.error(format!("expected a length that memory can hold, found {length} bytes")))
    }

    /// The bytes up to the next newline, which is skipped.
    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = self.slice(self.input.len().saturating_sub(self.at))?;
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.ok_or_else(|| self.error("truncated pickle: expected a line"))?;
        self.at = self.input.len() - rest.len() + length + 1;
        Ok(&rest[..length])
    }
}
