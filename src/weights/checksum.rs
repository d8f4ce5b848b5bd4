//! A checksum of everything that a file of weights contains, kept in its metadata.
//!
//! A safetensors file is plain bytes: a flipped bit in a weight leaves a valid file of another network, and one in the mean
//! of the normalisation another accuracy. Files of other programs have no checksum; they are read as they are.

use super::Metadata;
use crate::formats::hex;
use crate::tensors::{Tensor, Tensors, Values};
use ndarray::ArrayD;
use sha2::{Digest as _, Sha256};

/// The entry of the file's metadata that contains the checksum.
pub(super) const ENTRY: &str = "resnet-by-hand.checksum";

/// The key in our entry that says that there is [`ENTRY`]: a file that has lost one of them is damaged.
pub(super) const MARK: &str = "checksum_entry";

/// The key in our entry with the checksum of our older files, which covers neither the order of the tensors nor the other
/// entries.
pub const OLDER: &str = "checksum";

/// Values that are hashed at once: the buffer stays small.
const CHUNK: usize = 1 << 14;

/// SHA-256 of every entry of the metadata without [`ENTRY`], and of names, types in memory, shapes and values of all
/// tensors, in their order.
pub(super) fn of(tensors: &Tensors) -> String {
    let mut hash = Sha256::new();
    let entries: Vec<_> = tensors.metadata.iter().filter(|(key, _)| *key != ENTRY).collect();
    hash.update((entries.len() as u64).to_le_bytes());
    entries.into_iter().for_each(|(key, value)| texts(&mut hash, [key, value]));
    tensors.iter().for_each(|named| add(&mut hash, named));
    hex(&hash.finalize())
}

/// The checksum [`OLDER`]: of our own metadata without it and of the tensors, in the order of names.
pub(super) fn older(tensors: &Tensors, metadata: &Metadata) -> String {
    let mut hash = Sha256::new();
    metadata.iter().for_each(|(key, value)| texts(&mut hash, [key, value]));
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    sorted.into_iter().for_each(|named| add(&mut hash, named));
    hex(&hash.finalize())
}

/// Texts with their lengths, so that the end of one cannot be the start of the next one.
fn texts(hash: &mut Sha256, texts: [&str; 2]) {
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
}

fn add(hash: &mut Sha256, (name, tensor): (&str, &Tensor)) {
    texts(hash, [name, &format!("{} {:?}", tensor.values().dtype(), tensor.shape())]);
    match tensor.values() {
        Values::F32(array) => values(hash, array, |v| v.to_le_bytes()),
        Values::F64(array) => values(hash, array, |v| v.to_le_bytes()),
        Values::I64(array) => values(hash, array, |v| v.to_le_bytes()),
        Values::U8(array) => values(hash, array, |v| v.to_le_bytes()),
    }
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
