//! A checksum of everything that a file of weights contains, kept in its metadata.
//!
//! A safetensors file is plain bytes: a flipped bit in a weight leaves a valid file of another network, and one in the mean
//! of the normalisation another accuracy. Files of other programs have no checksum; they are read as they are.

use super::Metadata;
use crate::formats::hex;
use crate::tensors::{Tensors, Values};
use ndarray::ArrayD;
use sha2::{Digest as _, Sha256};

/// The key of the checksum in the metadata.
pub const KEY: &str = "checksum";

/// Values that are hashed at once: the buffer stays small.
const CHUNK: usize = 1 << 14;

/// SHA-256 of the metadata without [`KEY`] and of names, types in memory, shapes and values of all tensors, in the order of names.
pub(super) fn of(tensors: &Tensors, metadata: &Metadata) -> String {
    let mut hash = Sha256::new();
    // With its length, so that the end of one text cannot be the start of the next one.
    let text = |hash: &mut Sha256, text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    for (key, value) in metadata.iter().filter(|(key, _)| *key != KEY) {
        text(&mut hash, key);
        text(&mut hash, value);
    }
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    for (name, tensor) in sorted {
        text(&mut hash, name);
        text(&mut hash, &format!("{} {:?}", tensor.values().dtype(), tensor.shape()));
        match tensor.values() {
            Values::F32(array) => values(&mut hash, array, |v| v.to_le_bytes()),
            Values::F64(array) => values(&mut hash, array, |v| v.to_le_bytes()),
            Values::I64(array) => values(&mut hash, array, |v| v.to_le_bytes()),
            Values::U8(array) => values(&mut hash, array, |v| v.to_le_bytes()),
        }
    }
    hex(&hash.finalize())
}

/// Hashes values in row-major order.
fn values<V: Copy, const N: usize>(hash: &mut Sha256, array: &ArrayD<V>, bytes: impl Fn(V) -> [u8; N]) {
    let mut buffer = Vec::with_capacity(CHUNK * N);
    for &value in array {
        buffer.extend(bytes(value));
        if buffer.len() == CHUNK * N {
            hash.update(&buffer);
            buffer.clear();
        }
    }
    hash.update(&buffer);
}
