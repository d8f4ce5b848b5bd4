//! A batch of the python layout: a pickled dict.
//!
//! ```text
//! {'data': uint8 array (N, 3072), 'labels': [N whole numbers], 'filenames': .., 'batch_label': ..}
//! ```
//!
//! In CIFAR-100 the key of the labels is `fine_labels`, and a separate file has the names: `{'fine_label_names': [..], ..}`.
//! A row of `data` is a record's three planes. The published files were written by Python 2 (protocol 2, keys are its
//! `str`); files written again by Python 3 have `bytes` or `str` as keys and may have any protocol. NumPy pickles an
//! array in two ways:
//!
//! ```text
//! protocol 0 to 4   numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b'b')
//!                   with state (version, shape, dtype, is_fortran, bytes)
//! protocol 5        numpy.core.numeric._frombuffer(bytes, dtype, shape, 'C' or 'F')
//! dtype             numpy.dtype('u1', ..), its state, byte order and alignment, is irrelevant for one byte
//! ```
//!
//! and since version 2 the module is called `numpy._core`.

use super::{IMAGE_BYTES, Images, Published};
use crate::formats::pickle::{Kind, Pickle, Value};
use crate::{Error, Result};
use std::borrow::Cow;
use std::path::Path;

const RECONSTRUCT: [&str; 2] = ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"];
const FROM_BUFFER: [&str; 2] = ["numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"];

/// The longest name of a class that is read, in bytes, and the most of them.
const LONGEST_NAME: usize = 1024;
const MOST_NAMES: usize = 1024;

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Pickle<'a>> {
    let pickle = Pickle::parse(bytes, 0, path)?;
    if pickle.end() != bytes.len() {
        let message = format!("expected the end of the file, found {} more bytes", bytes.len() - pickle.end());
        return Err(Error::format(path, Some(pickle.end() as u64), message));
    }
    Ok(pickle)
}

/// Reads the list of names under `key`.
pub(super) fn read_names(path: &Path, bytes: &[u8], key: &str) -> Result<Vec<String>> {
    let pickle = parse(path, bytes)?;
    let names = pickle.root().get(key)?;
    // Python 3 writes a `bytes` name in protocol 2 as a call.
    let name = |name: Value<'_>| match name.text() {
        Ok(text) if text.len() <= LONGEST_NAME => Ok(text.to_string()),
        Ok(_) => Err(name.unexpected(format!("a name of at most {LONGEST_NAME} bytes"))),
        Err(error) => name.bytes().ok().and_then(|bytes| String::from_utf8(bytes.into_owned()).ok()).ok_or(error),
    };
    // One long text may be listed any number of times.
    if names.list()?.len() > MOST_NAMES {
        return Err(names.unexpected(format!("a list of at most {MOST_NAMES} names")));
    }
    names.list()?.map(name).collect()
}

/// Reads a batch of exactly `images` images.
pub(in crate::data) fn read(set: &Published, path: &Path, bytes: &[u8], images: usize) -> Result<Images> {
    let pickle = parse(path, bytes)?;
    let batch = pickle.root();
    let labels = batch.get(set.labels)?;
    let matrix = Matrix::read(batch.get("data")?)?;
    for (what, found, at) in [("rows", matrix.rows, batch.get("data")?), ("labels", labels.list()?.len(), labels)] {
        if found != images {
            return Err(at.error(format!("expected {images} {what}, found {found}")));
        }
    }
    if matrix.columns != IMAGE_BYTES {
        let message = format!("expected rows of {IMAGE_BYTES} bytes, found {}", matrix.columns);
        return Err(batch.get("data")?.error(message));
    }

    let mut all = Images::with_capacity(images);
    for (i, label) in labels.list()?.enumerate() {
        all.push(set.check_label(path, label.offset(), label.int()?)?, &matrix.row(i));
    }
    Ok(all)
}

/// A two-dimensional array of bytes.
struct Matrix<'p> {
    bytes: Cow<'p, [u8]>,
    rows: usize,
    columns: usize,
    /// Whether it is stored column by column instead of row by row.
    fortran: bool,
}

impl<'p> Matrix<'p> {
    fn read(array: Value<'p>) -> Result<Self> {
        let expected: Vec<&str> = RECONSTRUCT.into_iter().chain(FROM_BUFFER).collect();
        let call = array.call(&expected)?;
        let (bytes, dtype, shape, fortran) = if RECONSTRUCT.iter().any(|name| call.is(name)) {
            let state = call.state.ok_or_else(|| array.error("expected an array, found one without content"))?;
            let [_version, shape, dtype, fortran, bytes] = state.tuple()?;
            (bytes, dtype, shape, fortran.bool()?)
        } else {
            let mut args = call.args;
            let (Some(bytes), Some(dtype), Some(shape), Some(order), None) =
                (args.next(), args.next(), args.next(), args.next(), args.next())
            else {
                return Err(array.error(format!("expected 4 arguments of the array, found {}", call.args.len())));
            };
            let fortran = match order.text()? {
                "C" => false,
                "F" => true,
                _ => return Err(order.unexpected("the order 'C' or 'F'")),
            };
            (bytes, dtype, shape, fortran)
        };

        let name = dtype.call(&["numpy.dtype"])?.args.get(0);
        match name.map(|name| name.kind()) {
            Some(Kind::Text("u1" | "|u1" | "uint8") | Kind::Bytes(b"u1" | b"|u1" | b"uint8")) => {}
            _ => return Err(name.unwrap_or(dtype).unexpected("the element type 'u1' (uint8)")),
        }
        let [rows, columns] = shape.tuple()?;
        let (rows, columns) = (rows.usize()?, columns.usize()?);
        let bytes_at = bytes;
        let bytes = bytes.bytes()?;
        if rows.checked_mul(columns) != Some(bytes.len()) {
            let message = format!("expected {rows} x {columns} bytes, found {}", bytes.len());
            return Err(bytes_at.error(message));
        }
        Ok(Matrix { bytes, rows, columns, fortran })
    }

    fn row(&self, i: usize) -> Cow<'_, [u8]> {
        if self.fortran {
            self.bytes.iter().skip(i).step_by(self.rows).copied().collect()
        } else {
            Cow::Borrowed(&self.bytes[i * self.columns..(i + 1) * self.columns])
        }
    }
}
