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

mod header;

use super::archive::{self, Archive};
use super::numbers::{self, MOST_AXES, Placed};
use super::{Contents, Format};
use crate::Result;
use crate::tensors::{Tensor, Tensors, Values};
use header::{Element, Header, LONGEST_START};
use std::borrow::Cow;
use std::path::Path;

/// The name given to an array without a name, as by NumPy's `savez`.
pub const UNNAMED: &str = "arr_0";

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// The elements start at a multiple of this.
const ALIGNMENT: usize = 64;

/// The array of an npy file, called [`UNNAMED`].
///
/// # Errors
/// If it is not a complete npy file of a supported element type; `path` appears in the message.
pub fn read_bytes(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let mut contents = Contents::new(Format::Npy);
    contents.add(path, UNNAMED, Header::parse(path, bytes)?, bytes.len(), || Ok(bytes.into()))?;
    contents.expect_tensors(path)
}

/// The arrays of an npz file in the order of its directory. Those that are not numbers, and members that are not arrays, are
/// left out.
///
/// # Errors
/// If it is not an archive of complete npy files; `path` appears in the message.
pub fn read_npz_bytes(path: &Path, bytes: &[u8]) -> Result<Contents> {
    arrays(path, &mut Archive::open(path, bytes)?)
}

pub(super) fn arrays(file: &Path, archive: &mut Archive<'_>) -> Result<Contents> {
    let mut contents = Contents::new(Format::Npz);
    for member in archive.names().to_vec() {
        let path = archive.path_of(&member);
        let Some(name) = member.strip_suffix(".npy") else {
            contents.dropped.push((member, "a member that is not an array NAME.npy, as NumPy writes them".into()));
            continue;
        };
        // First only the header: its description must agree with the size in the directory before the member is unpacked.
        let header = Header::parse(&path, &archive.start(&member, LONGEST_START)?)?;
        let size = archive.size(&member)?;
        contents.add(&path, name, header, size, || Ok(archive.read(&member)?.into()))?;
    }
    contents.expect_tensors(file)
}

impl Contents {
    /// Adds an array of `size` bytes, header included, which `read` returns.
    fn add<'a>(
        &mut self,
        path: &Path,
        name: &str,
        header: Header,
        size: usize,
        read: impl FnOnce() -> Result<Cow<'a, [u8]>>,
    ) -> Result<()> {
        let (dtype, big_endian) = match header.element {
            Element::Number { dtype, big_endian, is_guess } => {
                if is_guess {
                    self.guessed.push(name.to_string());
                }
                (dtype, big_endian)
            }
            Element::Unreadable(what) => {
                self.unreadable.push((name.to_string(), what));
                return Ok(());
            }
            Element::Other(what) => {
                self.dropped.push((name.to_string(), what));
                return Ok(());
            }
        };
        header.check_size(path, dtype, size)?;
        let (shape, bytes) = (&header.shape, read()?);
        let strides = if header.fortran { numbers::column_major(shape) } else { numbers::row_major(shape) };
        let placed = Placed { dtype, big_endian, offset: 0, shape, strides: &strides };
        self.tensors.insert(name, numbers::read(&bytes[header.end..], &placed).expect("the size was checked"));
        Ok(())
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
        let contents = read_bytes(Path::new("a.npy"), bytes)?;
        Ok(contents.tensors.get(UNNAMED).expect("the array").clone())
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
            (
                "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }",
                "found arr_0, an array of `<i2`, which is not read",
            ),
            ("{'descr': '|f2', 'fortran_order': False, 'shape': (2,), }", "an array of `|f2`, which is not read"),
            ("{'descr': '<V1', 'fortran_order': False, 'shape': (2,), }", "save `array.astype(\"float32\")`"),
            ("{'descr': '', 'fortran_order': False, 'shape': (2,), }", "an array of ``, which is not read"),
            (
                "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
                "an array of Python objects, which are not unpickled",
            ),
            ("{'descr': '|f4', 'fortran_order': False, 'shape': (2,), }", "an array of `|f4`, which is not read"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", "an array of records"),
            ("{'descr': [('a', '<f4', 'fortran_order': False, 'shape': (2,), }", "the end of a list of fields"),
            ("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,), }", "expected True or False"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "expected the length of an axis"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ((2,),), }", "expected the length of an axis"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': [2], }", "expected `(`"),
            ("{'descr': '<f4', 'fortran_order': False, }", "each once"),
            ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "each once"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", "each once"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } __import__('os')", "the end of the header"),
            ("__import__('os').system('id')", "expected `{`"),
            ("{'descr': '<f4", "expected an element type, such as '<f4'"),
            ("", "expected `{`"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "12 bytes, found 8 bytes"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "4 bytes, found 8 bytes"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", "too many to allocate"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952,), }", "too many to allocate"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", "the length of an axis"),
        ] {
            let message = message(header, &[0; 8]);
            assert!(message.starts_with("a.npy") && message.contains(expected), "{header}: {message}");
        }
        let nested = format!("{{'descr': {}", "(".repeat(9000));
        assert!(message(&nested, &[]).contains("expected an element type"));
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
