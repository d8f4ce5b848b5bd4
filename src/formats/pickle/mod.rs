//! Python's pickle, read without executing it.
//!
//! A pickle is a program for a small stack machine: its opcodes push constants, collect them into lists, tuples and
//! dicts, and call Python functions by name. Loading one in Python executes those calls, so an untrusted pickle is an
//! untrusted program. This reader is the same stack machine without the calls:
//!
//! * a name (`GLOBAL`, `STACK_GLOBAL`) is only the two texts module and name, [`Kind::Global`]. Nothing is looked up;
//! * calling it (`REDUCE`, `NEWOBJ`, `INST`, `OBJ`), passing it state (`BUILD`) and putting items into the result
//!   (`SETITEMS`, `APPENDS`, `ADDITEMS`) only record what was requested, [`Kind::Call`]. The caller decides what
//!   `numpy.dtype('u1')` means, and may ignore `os.system('id')`, which is as harmless as a text;
//! * the result is plain data, [`Value`].
//!
//! So an object that the caller does not need need not be understood: a checkpoint may contain objects of any class beside
//! its weights.
//!
//! # What the caller may rely on
//!
//! A pickle can name one value many times (`BINPUT` stores it in the *memo*, `BINGET` fetches it), so the data is a graph:
//! k nested pairs of memo references represent 2ᵏ values in about 4k bytes, and a list can contain itself, as a Python
//! object that refers to its parent does. Values are therefore nodes of an arena, a memo reference is an index, and nothing
//! here recurses, neither reading nor dropping. **A caller does not recurse either**: it follows a fixed path of bounded
//! length, or visits every value once ([`Value::id`]).
//!
//! Every opcode of n bytes adds at most 2 n nodes and one stack entry, mark or memo entry, and there may be at most
//! [`MAX_OPERATIONS`] of them: memory is linear in the input and bounded. Strings and long integers stay in the input; their
//! claimed length is first checked against the rest of it.
//!
//! `machine.rs` executes the opcodes, `text.rs` decodes the escapes of protocol 0, and `value.rs` is the caller's view.
//!
//! # Coverage
//!
//! Protocols 0 to 5, without out-of-band buffers, whose data is in another file. The opcodes are those of CPython's
//! `Lib/pickletools.py`, which documents each.
//!
//! ```
//! use resnet_by_hand::formats::pickle::{Kind, Pickle};
//! // pickle.dumps({"epoch": 7}, protocol=2)
//! let bytes = b"\x80\x02}q\x00X\x05\x00\x00\x00epochq\x01K\x07s.";
//! let pickle = Pickle::parse(bytes, 0, "example.pkl")?;
//! assert_eq!(pickle.root().get("epoch")?.int()?, 7);
//!
//! // os.system('id') is the name of a function and a tuple of one text.
//! let pickle = Pickle::parse(b"cos\nsystem\n(S'id'\ntR.", 0, "bad.pkl")?;
//! let Kind::Call(call) = pickle.root().kind() else { panic!("a call that was not made") };
//! assert!(call.is("os.system") && call.args.len() == 1);
//! let error = pickle.root().list().unwrap_err().to_string();
//! assert_eq!(error, "bad.pkl, at byte 19: expected a list, found an object made by `os.system`");
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

mod machine;
#[cfg(test)]
mod tests;
mod text;
mod value;

pub use value::{Call, Entries, Items, Kind, Name, Value};

use crate::Result;
use machine::Outcome;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The most opcodes a pickle may have. CIFAR-10 batches and the state dicts of large networks have about ten thousand, the
/// losses of every step of a long training a million.
pub const MAX_OPERATIONS: usize = 1 << 21;

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
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global {
        /// A text, as is the name: a name of a thousand bytes may be fetched from the memo a thousand times.
        module: Id,
        name: Id,
    },
    Call(Box<CallData>),
    Persistent(Id),
    /// A value that is not represented, and its description.
    Opaque(&'static str),
}

#[derive(Debug)]
struct CallData {
    function: Id,
    /// A tuple.
    args: Id,
    state: Option<Id>,
    items: Vec<Id>,
    entries: Vec<(Id, Id)>,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that starts at `start` in `bytes`; `path` and offsets from the start of `bytes` are in every
    /// error.
    ///
    /// The pickle ends at its `STOP`, at the offset [`end`](Self::end); what follows is left to the caller (PyTorch's old
    /// format puts five pickles and the tensors' bytes into one file).
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) for anything that is not a complete pickle of the opcodes above, or a limit
    /// exceeded.
    pub fn parse(bytes: &'a [u8], start: usize, path: impl AsRef<Path>) -> Result<Pickle<'a>> {
        let Outcome { nodes, root, end } = machine::run(bytes, start, path.as_ref())?;
        Ok(Pickle { path: path.as_ref().to_path_buf(), nodes, root, end })
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
}
