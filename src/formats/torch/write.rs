//! Writes the zip format: the pickle of an `OrderedDict`, and a file for each storage.

use super::PICKLE;
use super::mapping::LONGEST_NAME;
use crate::formats::{archive, numbers};
use crate::tensors::{Dtype, Tensor, Tensors};
use crate::{Error, Result};
use std::path::Path;

/// The folder in the archives written here; PyTorch accepts any.
const FOLDER: &str = "archive/";

/// A file in the zip format.
pub(in crate::formats) fn to_bytes(path: &Path, tensors: &Tensors) -> Result<Vec<u8>> {
    if let Some(name) = tensors.names().find(|name| name.len() > LONGEST_NAME) {
        let bytes = name.len();
        let message = format!("expected names of at most {LONGEST_NAME} bytes, as they are read, found one of {bytes}");
        return Err(Error::format(path, None, message));
    }
    // As in `Lib/pickletools.py`: PROTO 2, then OrderedDict() and its entries between MARK and SETITEMS, STOP.
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        rebuild(&mut pickle, index, tensor);
    }
    pickle.extend(b"u.");
    let member = |name: String, bytes: Vec<u8>| (format!("{FOLDER}{name}"), bytes);
    let mut members = vec![
        member(PICKLE.into(), pickle),
        member(".format_version".into(), b"1".to_vec()),
        member("byteorder".into(), b"little".to_vec()),
    ];
    members.extend(
        tensors
            .iter()
            .enumerate()
            .map(|(index, (_, tensor))| member(format!("data/{index}"), numbers::little_endian(tensor.values()))),
    );
    members.push(member("version".into(), b"3\n".to_vec()));
    archive::write(path, &members)
}

/// `_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())`.
fn rebuild(pickle: &mut Vec<u8>, index: usize, tensor: &Tensor) {
    let class: &[u8] = match tensor.values().dtype() {
        Dtype::F64 => b"DoubleStorage",
        Dtype::I64 => b"LongStorage",
        Dtype::U8 => b"ByteStorage",
        _ => b"FloatStorage",
    };
    // GLOBAL, MARK of the arguments, MARK of the persistent id.
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend([b"ctorch\n", class, b"\n"].concat());
    text(pickle, &index.to_string());
    text(pickle, "cpu");
    whole(pickle, tensor.len());
    // TUPLE, BINPERSID, the offset.
    pickle.extend(b"tQK\x00");
    for sizes in [tensor.shape(), &numbers::row_major(tensor.shape())] {
        pickle.push(b'(');
        sizes.iter().for_each(|&size| whole(pickle, size));
        pickle.push(b't');
    }
    // NEWFALSE, OrderedDict(), TUPLE, REDUCE.
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// BINUNICODE.
fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend(u32::try_from(text.len()).expect("a name").to_le_bytes());
    pickle.extend(text.as_bytes());
}

/// BININT1 or LONG1.
fn whole(pickle: &mut Vec<u8>, value: usize) {
    match u8::try_from(value) {
        Ok(value) => pickle.extend([b'K', value]),
        Err(_) => {
            pickle.extend([0x8a, 8]);
            pickle.extend((value as i64).to_le_bytes());
        }
    }
}
