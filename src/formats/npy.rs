//! NumPy's `.npy`, one array without a name, and `.npz`, a zip archive of them.
//!
//! ```text
//! 93 'N' 'U' 'M' 'P' 'Y'   magic
//! major minor              version: 1.0, 2.0 or 3.0
//! length                   of the header in bytes, little-endian: u16 in version 1.0, u32 since 2.0
//! header                   {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, spaces, a newline
//! elements                 row by row, or column by column if fortran_order; `<` little-endian, `>` big-endian
//! ```
//!
//! Read: float16, float32, float64, int32, int64, uint8 and bool, in both orders of axes and of bytes, stored or
//! deflated. Written: the types of [`Values`], row by row, little-endian, stored, as version 1.0. The elements must
//! fill the rest of the file exactly, so nothing is allocated for elements that it does not contain; for a deflated member
//! `formats/archive.rs` bounds the size.
//!
//! The header is a Python literal. A parser for this one form reads it, not a crate: `npyz` and `ndarray-npy` both
//! allocate the claimed length of the header before they read it, and accept any literal, nested to any depth.

use super::archive::{self, Archive};
use super::numbers::{self, MOST_AXES, Placed};
use crate::tensors::{Dtype, Tensor, Tensors, Values};
use crate::{Error, Result};
use std::path::Path;

/// The name given to an array without a name, as by NumPy's `savez`.
pub const UNNAMED: &str = "arr_0";

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header that is read. NumPy itself rejects more than 10,000 bytes.
const LONGEST_HEADER: usize = 10_000;
/// The most bytes before the elements.
const LONGEST_START: usize = 12 + LONGEST_HEADER;
/// The elements start at a multiple of this.
const ALIGNMENT: usize = 64;

/// The array of an npy file, called [`UNNAMED`].
///
/// # Errors
/// If it is not a complete npy file of a supported element type; `path` appears in the message.
pub fn read_bytes(path: &Path, bytes: &[u8]) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    tensors.insert(UNNAMED, array(path, bytes)?);
    Ok(tensors)
}

/// The arrays of an npz file in the order of its directory.
///
/// # Errors
/// If it is not an archive of complete npy files; `path` appears in the message.
pub fn read_npz_bytes(path: &Path, bytes: &[u8]) -> Result<Tensors> {
    arrays(&mut Archive::open(path, bytes)?)
}

pub(super) fn arrays(archive: &mut Archive<'_>) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    for member in archive.names().to_vec() {
        let path = archive.path_of(&member);
        let name = member.strip_suffix(".npy").ok_or_else(|| {
            Error::format(&path, None, "expected a member NAME.npy, as NumPy writes them, found another name")
        })?;
        // First only the header: its description must agree with the size in the directory before the member is unpacked.
        let (start, size) = (archive.start(&member, LONGEST_START)?, archive.size(&member)?);
        Header::parse(&path, &start)?.check_size(&path, size)?;
        tensors.insert(name, array(&path, &archive.read(&member)?)?);
    }
    Ok(tensors)
}

fn array(path: &Path, bytes: &[u8]) -> Result<Tensor> {
    let header = Header::parse(path, bytes)?;
    header.check_size(path, bytes.len())?;
    let Header { dtype, big_endian, fortran, shape, end } = header;
    let strides = if fortran { numbers::column_major(&shape) } else { numbers::row_major(&shape) };
    let placed = Placed { dtype, big_endian, offset: 0, shape: &shape, strides: &strides };
    Ok(numbers::read(&bytes[end..], &placed).expect("the size was checked"))
}

struct Header {
    dtype: Dtype,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
    /// Where the elements begin.
    end: usize,
}

impl Header {
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
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
        let (dtype, big_endian, fortran, shape) = literal.header().map_err(|expected| {
            let rest = String::from_utf8_lossy(&text[literal.at..]).chars().take(40).collect::<String>();
            refuse(start + literal.at, format!("expected {expected}, found {rest:?}"))
        })?;
        Ok(Header { dtype, big_endian, fortran, shape, end })
    }

    /// Rejects a file whose length does not match its header.
    fn check_size(&self, path: &Path, size: usize) -> Result<()> {
        let bytes = numbers::len(&self.shape).and_then(|len| len.checked_mul(self.dtype.size()));
        let found = size.saturating_sub(self.end);
        if bytes != Some(found) {
            let Header { shape, dtype, end, .. } = self;
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

type Described = (Dtype, bool, bool, Vec<usize>);
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
            (Some((dtype, big_endian)), Some(fortran), Some(shape)) => Ok((dtype, big_endian, fortran, shape)),
            _ => Err("the keys descr, fortran_order and shape, each once".into()),
        }
    }

    fn value<T>(&mut self, value: impl Fn(&mut Self) -> Expected<T>) -> Expected<T> {
        self.token(b":")?;
        value(self)
    }

    /// `'<f4'`: byte order, kind, bytes.
    fn descr(&mut self) -> Expected<(Dtype, bool)> {
        let start = self.at;
        let known = |text: &[u8]| {
            let (&order, kind) = text.split_first()?;
            let dtype = match kind {
                b"f2" => Dtype::F16,
                b"f4" => Dtype::F32,
                b"f8" => Dtype::F64,
                b"i4" => Dtype::I32,
                b"i8" => Dtype::I64,
                b"u1" => Dtype::U8,
                b"b1" => Dtype::Bool,
                _ => return None,
            };
            // `|` is for elements of one byte, which have no byte order.
            matches!((order, dtype.size()), (b'<' | b'>', _) | (b'|', 1)).then_some((dtype, order == b'>'))
        };
        self.string().ok().and_then(known).ok_or_else(|| {
            self.at = start;
            "one of the element types f2, f4, f8, i4, i8, u1, b1 after `<`, `>` or `|`".into()
        })
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

/// An npy file.
pub(super) fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    let descr = match tensor.values() {
        Values::F32(_) => "<f4",
        Values::F64(_) => "<f8",
        Values::I64(_) => "<i8",
        Values::U8(_) => "|u1",
    };
    let lengths: String = tensor.shape().iter().map(|length| format!("{length}, ")).collect();
    // `(3,)` ends with a comma, `(3, 4)` does not.
    let lengths = if tensor.shape().len() == 1 { lengths.trim_end() } else { lengths.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({lengths}), }}");
    let start = MAGIC.len() + 4;
    let padding = (start + header.len() + 1).next_multiple_of(ALIGNMENT) - (start + header.len() + 1);
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let length = u16::try_from(header.len()).expect("an array has far fewer than a thousand axes");
    [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), &numbers::little_endian(tensor.values())].concat()
}

/// An npz file.
pub(super) fn to_npz_bytes(path: &Path, tensors: &Tensors) -> Result<Vec<u8>> {
    let members = tensors.iter().map(|(name, tensor)| (format!("{name}.npy"), to_bytes(tensor)));
    archive::write(path, &members.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array4, array};

    fn npy(header: &str, numbers: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), numbers].concat()
    }

    fn read(bytes: &[u8]) -> Result<Tensor> {
        array(Path::new("a.npy"), bytes)
    }

    #[test]
    fn written_as_numpy_writes_it() {
        let bytes = to_bytes(&array![[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]].into());
        assert_eq!(bytes.len(), 128 + 24);
        assert!(
            bytes[..128]
                .starts_with(b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  ")
        );
        assert_eq!(bytes[127], b'\n');
        for tensor in [
            Tensor::from(ndarray::arr0(7i64)),
            array![1u8, 2].into(),
            array![[0.1f64]].into(),
            Array4::<f32>::zeros((2, 0, 3, 1)).into(),
        ] {
            assert_eq!(read(&to_bytes(&tensor)).unwrap(), tensor);
        }
    }

    #[test]
    fn headers_as_others_write_them() {
        for header in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}",
            " { \"shape\" :( 2 , ) , 'fortran_order':False,'descr':'<f4'}   \n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }",
        ] {
            assert_eq!(read(&npy(header, &[0, 0, 128, 63, 0, 0, 0, 64])).unwrap(), array![1.0f32, 2.0].into());
        }
    }

    #[test]
    fn other_headers_are_refused_with_what_was_expected() {
        let message = |header: &str, numbers: &[u8]| read(&npy(header, numbers)).unwrap_err().to_string();
        for (header, expected) in [
            ("{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }", "expected one of the element types f2, f4"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "found \" '|O', "),
            ("{'descr': '|f4', 'fortran_order': False, 'shape': (2,), }", "expected one of the element types"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", "found \" [('a', "),
            ("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,), }", "expected True or False"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "expected the length of an axis"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ((2,),), }", "expected the length of an axis"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': [2], }", "expected `(`"),
            ("{'descr': '<f4', 'fortran_order': False, }", "each once"),
            ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "each once"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", "each once"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } __import__('os')", "the end of the header"),
            ("__import__('os').system('id')", "expected `{`"),
            ("{'descr': '<f4", "expected one of the element types"),
            ("", "expected `{`"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "12 bytes, found 8 bytes"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "4 bytes, found 8 bytes"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", "too many to allocate"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952,), }", "too many to allocate"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", "the length of an axis"),
        ] {
            let message = message(header, &[0; 8]);
            assert!(message.starts_with("a.npy, at byte ") && message.contains(expected), "{header}: {message}");
        }
        let nested = format!("{{'descr': {}", "(".repeat(9000));
        assert!(message(&nested, &[]).contains("expected one of the element types"));
        for (bytes, expected) in [
            (&b"\x93NUMPZ\x01\x00"[..], "expected an npy file, found the bytes [93, 4e"),
            (b"\x93NUMPY\x04\x00\x00\x00", "version 1.0, 2.0 or 3.0, found [04, 00]"),
            (b"\x93NUMPY", "version"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "at most 10000 bytes, found 4294967295"),
            (b"\x93NUMPY\x01\x00\x09\x00{}", "a header of 9 bytes, found 2"),
        ] {
            let message = read(bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
