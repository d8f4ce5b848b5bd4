//! The header of an npy file: a Python literal, `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.

use super::{MAGIC, MOST_AXES};
use crate::formats::numbers;
use crate::tensors::Dtype;
use crate::{Error, Result};
use std::path::Path;

/// The longest header that is read. NumPy itself rejects more than 10,000 bytes.
const LONGEST_HEADER: usize = 10_000;
/// The most bytes before the elements.
pub(super) const LONGEST_START: usize = 12 + LONGEST_HEADER;

/// The element type of an array.
pub(super) enum Element {
    /// Numbers that are read.
    Number {
        dtype: Dtype,
        big_endian: bool,
        /// Whether the file does not name the type: elements of two bytes without a type are bfloat16 (`V2`).
        is_guess: bool,
    },
    /// What could be weights, but is not read: a description.
    Unreadable(String),
    /// What cannot be weights: a description.
    Other(String),
}

impl Element {
    /// The element type of `<f4`: byte order, kind, bytes.
    fn of(descr: &[u8]) -> Self {
        let known = || {
            let (&order, kind) = descr.split_first()?;
            let (dtype, is_guess) = match kind {
                b"f2" => (Dtype::F16, false),
                b"f4" => (Dtype::F32, false),
                b"f8" => (Dtype::F64, false),
                b"i4" => (Dtype::I32, false),
                b"i8" => (Dtype::I64, false),
                b"u1" => (Dtype::U8, false),
                b"b1" => (Dtype::Bool, false),
                // NumPy has no bfloat16; the package ml_dtypes, with which JAX and others write it, has no name in the file.
                b"V2" => (Dtype::BF16, true),
                _ => return None,
            };
            // `|` is for elements of one byte, which have no byte order, and for those without a type.
            let is_order = matches!((order, dtype.size()), (b'<' | b'>', _) | (b'|', 1)) || order == b'|' && is_guess;
            is_order.then_some(Element::Number { dtype, big_endian: order == b'>', is_guess })
        };
        known().unwrap_or_else(|| {
            let text = String::from_utf8_lossy(descr).chars().take(40).collect::<String>();
            match descr.get(1) {
                Some(b'f' | b'c' | b'V') => Element::Unreadable(format!(
                    "an array of `{text}`, which is not read: save `array.astype(\"float32\")`"
                )),
                Some(b'O') => Element::Other("an array of Python objects, which are not unpickled".into()),
                Some(b'U' | b'S' | b'T') => Element::Other("an array of texts".into()),
                Some(b'M' | b'm') => Element::Other("an array of times".into()),
                _ => Element::Other(format!("an array of `{text}`, which is not read")),
            }
        })
    }
}

pub(super) struct Header {
    pub element: Element,
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Where the elements begin.
    pub end: usize,
}

impl Header {
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let refuse = |at: usize, message: String| Error::format(path, Some(at as u64), message);
        let found = &bytes[..bytes.len().min(8)];
        if !bytes.starts_with(MAGIC) {
            return Err(refuse(0, format!("expected an npy file, found the bytes {found:02x?}")));
        }
        let (width, length) = match bytes[MAGIC.len()..] {
            [1, 0, a, b, ..] => (2, u16::from_le_bytes([a, b]).into()),
            [2 | 3, 0, a, b, c, d, ..] => (4, u32::from_le_bytes([a, b, c, d]) as usize),
            _ => return Err(refuse(6, format!("expected npy version 1.0, 2.0 or 3.0, found {:02x?}", &found[6..]))),
        };
        let start = MAGIC.len() + 2 + width;
        if length > LONGEST_HEADER {
            return Err(refuse(8, format!("expected a header of at most {LONGEST_HEADER} bytes, found {length}")));
        }
        let end = start + length;
        let text = bytes.get(start..end).ok_or_else(|| {
            refuse(start, format!("expected a header of {length} bytes, found {}", bytes.len() - start))
        })?;
        let mut literal = Literal { text, at: 0 };
        let (element, fortran, shape) = literal.header().map_err(|expected| {
            let rest = String::from_utf8_lossy(&text[literal.at..]).chars().take(40).collect::<String>();
            refuse(start + literal.at, format!("expected {expected}, found {rest:?}"))
        })?;
        Ok(Header { element, fortran, shape, end })
    }

    /// Rejects an array of this type whose length does not match its header.
    pub fn check_size(&self, path: &Path, dtype: Dtype, size: usize) -> Result<()> {
        let bytes = numbers::len(&self.shape).and_then(|len| len.checked_mul(dtype.size()));
        let found = size.saturating_sub(self.end);
        if bytes != Some(found) {
            let Header { shape, end, .. } = self;
            let expected = bytes.map_or("too many to allocate".to_string(), |bytes| format!("{bytes} bytes"));
            let message = format!("expected the elements of {shape:?} {dtype}, {expected}, found {found} bytes");
            return Err(Error::format(path, Some(*end as u64), message));
        }
        Ok(())
    }
}

/// A parser of npy's header; an error is the description of what was expected.
struct Literal<'a> {
    text: &'a [u8],
    at: usize,
}

type Described = (Element, bool, Vec<usize>);
type Expected<T> = std::result::Result<T, String>;

impl<'a> Literal<'a> {
    fn header(&mut self) -> Expected<Described> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.token(b"{")?;
        while !self.takes(b"}") {
            match self.string()? {
                b"descr" if descr.is_none() => descr = Some(self.value(Self::descr)?),
                b"fortran_order" if fortran.is_none() => fortran = Some(self.value(Self::bool)?),
                b"shape" if shape.is_none() => shape = Some(self.value(Self::shape)?),
                _ => return Err("the keys descr, fortran_order and shape, each once".into()),
            }
            if !self.takes(b",") {
                self.token(b"}")?;
                break;
            }
        }
        self.skip_spaces();
        if self.at < self.text.len() {
            return Err("the end of the header".into());
        }
        match (descr, fortran, shape) {
            (Some(element), Some(fortran), Some(shape)) => Ok((element, fortran, shape)),
            _ => Err("the keys descr, fortran_order and shape, each once".into()),
        }
    }

    fn value<T>(&mut self, value: impl Fn(&mut Self) -> Expected<T>) -> Expected<T> {
        self.token(b":")?;
        value(self)
    }

    /// `'<f4'`, or the list of the fields of a record: `[('a', '<f4'), ('b', '<i4', (2,))]`.
    fn descr(&mut self) -> Expected<Element> {
        let start = self.at;
        if !self.takes(b"[") {
            return self.string().map(Element::of).map_err(|_| {
                self.at = start;
                "an element type, such as '<f4'".into()
            });
        }
        let mut depth = 1;
        while depth > 0 {
            self.skip_spaces();
            match self.text.get(self.at) {
                Some(b'[' | b'(') => depth += 1,
                Some(b']' | b')') => depth -= 1,
                Some(b'\'' | b'"') => {
                    self.string()?;
                    continue;
                }
                Some(_) => {}
                None => return Err("the end of a list of fields".into()),
            }
            self.at += 1;
        }
        Ok(Element::Other("an array of records".into()))
    }

    fn bool(&mut self) -> Expected<bool> {
        match () {
            () if self.takes(b"True") => Ok(true),
            () if self.takes(b"False") => Ok(false),
            () => Err("True or False".into()),
        }
    }

    /// `()`, `(3,)`, `(3, 4)`; Python 2 wrote `(3L, 4L)`.
    fn shape(&mut self) -> Expected<Vec<usize>> {
        let mut shape = Vec::new();
        self.token(b"(")?;
        while !self.takes(b")") {
            self.skip_spaces();
            let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let digits = &self.text[self.at..self.at + digits];
            let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            if shape.len() == MOST_AXES {
                return Err(format!("at most {MOST_AXES} axes"));
            }
            shape.push(length.ok_or("the length of an axis")?);
            self.at += digits.len();
            self.takes(b"L");
            if !self.takes(b",") {
                self.token(b")")?;
                break;
            }
        }
        Ok(shape)
    }

    /// The text between quotes; a header never contains an escape.
    fn string(&mut self) -> Expected<&'a [u8]> {
        let quote = if self.takes(b"\"") { b'"' } else { b'\'' };
        if quote == b'\'' {
            self.token(b"'")?;
        }
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|&byte| byte == quote).ok_or("a closing quote")?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn token(&mut self, token: &[u8]) -> Expected<()> {
        if self.takes(token) {
            return Ok(());
        }
        Err(format!("`{}`", String::from_utf8_lossy(token)))
    }

    /// Skips spaces and then `token`, if it comes next.
    fn takes(&mut self, token: &[u8]) -> bool {
        self.skip_spaces();
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn skip_spaces(&mut self) {
        self.at += self.text[self.at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    }
}
