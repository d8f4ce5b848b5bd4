//! [safetensors](https://github.com/huggingface/safetensors): a header in JSON, then the elements.
//!
//! ```text
//! length of the header, u64 | {"__metadata__": {..}, "fc.bias": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}, ..}
//! elements of every tensor, row by row, little-endian, without gaps
//! ```
//!
//! Read: F16, BF16, F32, F64, I32, I64, U8 and BOOL. The crate `safetensors` checks that the offsets cover the rest of
//! the file exactly, so nothing is allocated for elements that it does not contain.
//!
//! The format sorts tensors by type and name. If our order is different, the metadata entry [`ORDER`] lists
//! the names in that order, and reading restores it; a list that does not name exactly the tensors of the file is
//! ignored. The entries of the metadata are written in order, so that the same tensors give the same bytes.

use super::numbers::{self, MOST_AXES, Placed};
use super::{Contents, Format};
use crate::tensors::{Dtype, Tensor, Tensors};
use crate::{Error, Result};
use safetensors::tensor::{Dtype as Stored, SafeTensors, TensorView, View, serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// The entry of the metadata with the names in their order, as a JSON list.
pub const ORDER: &str = "resnet-by-hand.order";

/// The header's key of the metadata.
const METADATA: &str = "__metadata__";

/// Reads the bytes of a safetensors file; `path` appears in messages.
///
/// # Errors
/// If it is not a complete safetensors file of supported element types.
pub fn read_bytes(path: &Path, bytes: &[u8]) -> Result<Tensors> {
    let contents = open_bytes(path, bytes)?;
    if let Some((name, what)) = contents.dropped.first() {
        return Err(Error::format(path, None, format!("{name}: expected an element type that is read, found {what}")));
    }
    contents.complete(path)
}

/// Reads the bytes of a safetensors file of any program: tensors of other element types are left out.
pub(super) fn open_bytes(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let incomplete = |error| Error::format(path, None, format!("expected a complete safetensors file: {error}"));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(incomplete)?;
    let file = SafeTensors::deserialize(bytes).map_err(incomplete)?;
    let mut contents = Contents::new(Format::Safetensors);
    let tensors = &mut contents.tensors;
    if let Some(metadata) = header.metadata() {
        tensors.metadata.extend(metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let mut stored = file.tensors();
    // Empty tensors share an offset; the name makes the order unique.
    stored.sort_by_cached_key(|(name, _)| (header.info(name).map(|info| info.data_offsets), name.clone()));
    let stored: BTreeMap<usize, (String, TensorView<'_>)> = match order(tensors, &stored) {
        Some(places) => places.into_iter().zip(stored).collect(),
        None => stored.into_iter().enumerate().collect(),
    };
    tensors.metadata.remove(ORDER);
    for (name, view) in stored.into_values() {
        match dtype_of(view.dtype()) {
            Some(dtype) => tensors.insert(name.as_str(), tensor(path, &name, dtype, &view)?),
            None => {
                let what = format!("a tensor of {:?}, which is not read", view.dtype());
                let is_whole =
                    matches!(view.dtype(), Stored::I8 | Stored::I16 | Stored::U16 | Stored::U32 | Stored::U64);
                let list = if is_whole { &mut contents.dropped } else { &mut contents.unreadable };
                list.push((name, what));
            }
        }
    }
    contents.expect_tensors(path)
}

/// The place of every tensor in the list [`ORDER`], if there is one that names exactly these.
fn order(tensors: &Tensors, stored: &[(String, TensorView<'_>)]) -> Option<Vec<usize>> {
    let names: Vec<String> = serde_json::from_str(tensors.metadata.get(ORDER)?).ok()?;
    let places: BTreeMap<&str, usize> = names.iter().map(String::as_str).zip(0..).collect();
    let found: Vec<usize> = stored.iter().map_while(|(name, _)| places.get(name.as_str()).copied()).collect();
    (names.len() == stored.len() && found.len() == stored.len()).then_some(found)
}

/// Our element type, if it is read.
fn dtype_of(stored: Stored) -> Option<Dtype> {
    Some(match stored {
        Stored::F16 => Dtype::F16,
        Stored::BF16 => Dtype::BF16,
        Stored::F32 => Dtype::F32,
        Stored::F64 => Dtype::F64,
        Stored::I32 => Dtype::I32,
        Stored::I64 => Dtype::I64,
        Stored::U8 => Dtype::U8,
        Stored::BOOL => Dtype::Bool,
        _ => return None,
    })
}

fn tensor(path: &Path, name: &str, dtype: Dtype, view: &TensorView<'_>) -> Result<Tensor> {
    let (shape, strides) = (view.shape(), numbers::row_major(view.shape()));
    let placed = Placed { dtype, big_endian: false, offset: 0, shape, strides: &strides };
    numbers::read(view.data(), &placed).ok_or_else(|| {
        let message = format!("{name}: expected a shape of at most {MOST_AXES} axes that memory can hold, found ");
        let found = if shape.len() > MOST_AXES { format!("{} axes", shape.len()) } else { format!("{shape:?}") };
        Error::format(path, None, message + &found)
    })
}

/// A safetensors file.
pub(crate) fn to_bytes(path: &Path, tensors: &Tensors) -> Result<Vec<u8>> {
    let failed =
        |error: &dyn std::fmt::Display| Error::format(path, None, format!("cannot be written as safetensors: {error}"));
    if tensors.get(METADATA).is_some() {
        return Err(failed(&format!("no tensor may be called {METADATA}")));
    }
    let views = tensors.iter().map(|(name, tensor)| (name, Lazy(tensor)));
    let mut bytes = serialize(views, None).map_err(|error| failed(&error))?;

    let mut metadata = tensors.metadata.clone();
    let read_back = SafeTensors::read_metadata(&bytes).map_err(|error| failed(&error))?.1;
    // As `read_bytes` sorts them. The crate's own order of empty tensors, which share an offset, changes every time.
    let mut stored: Vec<_> =
        tensors.names().map(|name| (read_back.info(name).map(|info| info.data_offsets), name)).collect();
    stored.sort_unstable();
    if !stored.iter().map(|(_, name)| *name).eq(tensors.names()) {
        let names: Vec<&str> = tensors.names().collect();
        metadata.insert(ORDER.to_string(), serde_json::to_string(&names).expect("text is always JSON"));
    }
    if !metadata.is_empty() {
        insert_metadata(&mut bytes, &metadata);
    }
    Ok(bytes)
}

/// A tensor whose bytes are produced when they are written: those of a whole dump could take gigabytes.
struct Lazy<'a>(&'a Tensor);

impl View for Lazy<'_> {
    fn dtype(&self) -> Stored {
        match self.0.values().dtype() {
            Dtype::F64 => Stored::F64,
            Dtype::I64 => Stored::I64,
            Dtype::U8 => Stored::U8,
            _ => Stored::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        numbers::little_endian(self.0.values()).into()
    }

    fn data_len(&self) -> usize {
        self.0.len() * self.0.values().dtype().size()
    }
}

/// Puts this metadata into the file, entries in the order of their keys: the crate's own order changes every time.
fn insert_metadata(bytes: &mut Vec<u8>, metadata: &BTreeMap<String, String>) {
    let (length, rest) = bytes.split_at(8);
    let header = &rest[..u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize];
    let end = 8 + header.len();
    // {"fc.bias": ..} becomes {"__metadata__": {..}, "fc.bias": ..}, padded with spaces to a multiple of eight.
    let about = serde_json::to_string(metadata).expect("text is always JSON");
    let entries = header.trim_ascii_end().strip_prefix(b"{").expect("an object");
    let comma: &[u8] = if entries == b"}" { b"" } else { b"," };
    let mut header = [b"{\"", METADATA.as_bytes(), b"\":", about.as_bytes(), comma, entries].concat();
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = header.len() as u64;
    bytes.splice(..end, length.to_le_bytes().into_iter().chain(header));
}

/// Whether the bytes begin like the format: a length, then an object.
pub(super) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn example() -> Tensors {
        let mut tensors = Tensors::new();
        tensors.insert("b", array![[1.0f32, -2.0]]);
        tensors.insert("a", array![0.1f64]);
        tensors.insert("e", array![7i64, -7]);
        tensors.insert("c", array![1u8, 2, 3]);
        tensors.insert("d", ndarray::arr0(f32::INFINITY));
        tensors.metadata.extend(["x", "z", "y", "format"].map(|key| (key.to_string(), format!("value of {key}"))));
        tensors
    }

    #[test]
    fn order_and_metadata_come_back_and_the_bytes_are_always_the_same() {
        let path = Path::new("e.safetensors");
        let bytes = to_bytes(path, &example()).unwrap();
        assert_eq!(read_bytes(path, &bytes).unwrap(), example());
        assert_eq!(to_bytes(path, &read_bytes(path, &bytes).unwrap()).unwrap(), bytes);
        let header = String::from_utf8_lossy(&bytes[8..200]).into_owned();
        assert!(
            header.starts_with(r#"{"__metadata__":{"format":"value of format","resnet-by-hand.order":"["#),
            "{header}"
        );
        assert_eq!(bytes.len() % 8, (8 + 8 + 16 + 8 + 3 + 4) % 8);
        // Empty tensors share an offset.
        for names in [["a", "b"], ["b", "a"]] {
            let mut empty = Tensors::new();
            names.into_iter().for_each(|name| empty.insert(name, Tensor::from(ndarray::Array1::<f32>::zeros(0))));
            let bytes = to_bytes(path, &empty).unwrap();
            assert_eq!(read_bytes(path, &bytes).unwrap(), empty);
            (0..20).for_each(|_| assert!(to_bytes(path, &empty).unwrap() == bytes));
        }
        let none = to_bytes(path, &Tensors::new()).unwrap();
        assert_eq!(read_bytes(path, &none).unwrap(), Tensors::new());
        let mut only_text = Tensors::new();
        only_text.metadata.insert("k".into(), "v".into());
        assert_eq!(read_bytes(path, &to_bytes(path, &only_text).unwrap()).unwrap(), only_text);
    }

    #[test]
    fn an_order_of_other_names_is_ignored() {
        let path = Path::new("e.safetensors");
        for list in ["", "[]", r#"["a"]"#, r#"["b","a","a"]"#, r#"["c","a","b"]"#, r#"{"b":"a"}"#, "[1,2]"] {
            let mut tensors = Tensors::new();
            tensors.insert("a", array![1.0f32]);
            tensors.insert("b", array![2.0f32]);
            tensors.metadata.insert(ORDER.into(), list.into());
            let names: Vec<String> =
                read_bytes(path, &to_bytes(path, &tensors).unwrap()).unwrap().names().map(String::from).collect();
            assert_eq!(names, ["a", "b"], "{list}");
        }
    }
}
