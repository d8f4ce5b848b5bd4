//! A model's tensors in a file, under torchvision's names.
//!
//! [`save`] writes [safetensors](https://github.com/huggingface/safetensors), [`load`] reads every format that
//! [`formats::read`] does. A safetensors file has room for metadata, and we use one entry of it, `resnet-by-hand`: a JSON
//! object with sorted keys (`model`, `classes`, `mean`, `std`, …), so that the file contains what is needed to use the
//! weights, and the same weights give the same bytes. It includes a checksum of everything in the file, which [`metadata_of`]
//! compares.
//!
//! - [`names`]: the names of other programs;
//! - [`recognise`]: which network the tensors are for;
//! - [`state_dict`]: which tensors belong to a model;
//! - [`pretrained`]: a trained network inside the program;
//! - [`onnx`]: a network as an ONNX model.

mod checksum;
pub mod names;
pub mod onnx;
pub mod pretrained;
pub mod recognise;
pub mod state_dict;

pub use checksum::KEY as CHECKSUM;

use crate::formats::{self, atomic, safetensors};
use crate::model::ResNet;
use crate::tensors::Tensors;
use crate::{Error, Result, Scalar};
use std::collections::BTreeMap;
use std::path::Path;

/// The description of the weights in their file: keys and values as text.
pub type Metadata = BTreeMap<String, String>;

/// Our entry of the file's own metadata.
const KEY: &str = "resnet-by-hand";

/// Writes every tensor of `model`, running statistics included, and `metadata` to `path`, whole or not at all, as
/// safetensors.
///
/// # Errors
/// If the file cannot be written.
pub fn save<T: Scalar>(path: &Path, model: &ResNet<T>, metadata: &Metadata) -> Result<()> {
    let mut tensors = state_dict::collect(model);
    set_metadata(&mut tensors, metadata);
    atomic::write(path, &safetensors::to_bytes(path, &tensors)?)
}

/// The description of the weights in a file; empty for a file of another program, and for formats without metadata.
///
/// # Errors
/// If the file cannot be read or has no known format.
pub fn read_metadata(path: &Path) -> Result<Metadata> {
    metadata_of(path, &formats::open(path)?.tensors)
}

/// Reads the tensors of `model` from `path`, in any format and rounded to the model's type, and returns the metadata.
///
/// # Errors
/// If the file cannot be read, or its tensors are not exactly those of the model ([`state_dict::fit`]); the message
/// lists every missing, extra and wrongly shaped one, and the model is not changed.
pub fn load<T: Scalar>(path: &Path, model: &mut ResNet<T>) -> Result<Metadata> {
    let contents = formats::open(path)?;
    let metadata = metadata_of(path, &contents.tensors)?;
    state_dict::assign(path, &contents.tensors, model).map_err(|error| contents.explain(error))?;
    Ok(metadata)
}

/// The description of the weights in the metadata of tensors that were read from `path`, all of them.
///
/// # Errors
/// If our entry exists but does not have our format, or it contains a checksum that is not that of the tensors and the
/// metadata. Files of other programs, and our older ones, have no checksum.
pub fn metadata_of(path: &Path, tensors: &Tensors) -> Result<Metadata> {
    let Some(about) = tensors.metadata.get(KEY) else {
        return Ok(Metadata::new());
    };
    let mut metadata: Metadata = serde_json::from_str(about).map_err(|error| {
        Error::format(path, None, format!("the entry `{KEY}` of its metadata is not an object of texts: {error}"))
    })?;
    if let Some(written) = metadata.remove(checksum::KEY) {
        let found = checksum::of(tensors, &metadata);
        if found != written {
            let message = format!(
                "the tensors or the metadata are not those that were written: expected the checksum {written}, found {found}; \
                 the file is damaged, or another program has changed it (then it must remove `{}` from `{KEY}`)",
                checksum::KEY
            );
            return Err(Error::format(path, None, message));
        }
    }
    Ok(metadata)
}

/// Adds `metadata` to `tensors` as our entry, with their checksum; the tensors must not be changed afterwards.
pub fn set_metadata(tensors: &mut Tensors, metadata: &Metadata) {
    let mut metadata = metadata.clone();
    metadata.insert(checksum::KEY.into(), checksum::of(tensors, &metadata));
    let about = serde_json::to_string(&metadata).expect("text is always JSON");
    tensors.metadata.insert(KEY.to_string(), about);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;
    use crate::parameters::fingerprint;

    fn model(name: &str, seed: u64) -> ResNet<f32> {
        ResNet::new(&Architecture::by_name(name).unwrap(), seed).unwrap()
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("resnet-by-hand-weights-{}-{name}.safetensors", std::process::id()))
    }

    #[test]
    fn what_is_saved_is_loaded_to_the_bit_and_saved_again_as_the_same_bytes() {
        let path = scratch("round-trip");
        let metadata = Metadata::from([("model".into(), "resnet8".into()), ("classes".into(), "10".into())]);
        let saved = model("resnet8", 1);
        save(&path, &saved, &metadata).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let mut loaded = model("resnet8", 2);
        assert_ne!(fingerprint(&saved), fingerprint(&loaded));
        assert_eq!(load(&path, &mut loaded).unwrap(), metadata);
        assert_eq!(fingerprint(&saved), fingerprint(&loaded));
        save(&path, &loaded, &metadata).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        std::fs::remove_file(path).unwrap();
    }

    /// In any byte of a tensor, and in the metadata; a file without a checksum is read as it is.
    #[test]
    fn a_flipped_bit_is_noticed() {
        let path = scratch("flipped");
        let metadata = Metadata::from([("mean".into(), "0.5,0.5,0.5".into())]);
        save(&path, &model("resnet8", 1), &metadata).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let mean = bytes.windows(3).position(|part| part == b"0.5").unwrap() + 2;
        let load_changed = |place: usize| {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            std::fs::write(&path, changed).unwrap();
            load(&path, &mut model("resnet8", 2)).map(drop)
        };
        for place in [mean, bytes.len() - 1, bytes.len() - 4 * 1000, bytes.len() / 2] {
            let message = load_changed(place).unwrap_err().to_string();
            assert!(message.contains("not those that were written: expected the checksum "), "{place}: {message}");
        }
        let mut without = formats::read(&path).unwrap();
        without.metadata.clear();
        formats::write(&path, &without).unwrap();
        load(&path, &mut model("resnet8", 2)).unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_wrong_tensor_is_listed_and_nothing_is_changed() {
        let path = scratch("wrong");
        save(&path, &model("resnet14", 1), &Metadata::new()).unwrap();
        let mut other = ResNet::<f64>::new(&Architecture::by_name("resnet8").unwrap().with_classes(7), 3).unwrap();
        let before = fingerprint(&other);
        let message = load(&path, &mut other).unwrap_err().to_string();
        assert!(message.contains("extra layer1.1.conv1.weight [16, 16, 3, 3]"), "{message}");
        assert!(message.contains("fc.weight expects shape [7, 64], got [10, 64]"), "{message}");
        assert!(message.contains("fc.bias expects shape [7], got [10]"), "{message}");
        assert_eq!(fingerprint(&other), before);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn damaged_files_are_refused() {
        let path = scratch("damaged");
        save(&path, &model("resnet8", 1), &Metadata::new()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for (cut, expected) in [
            (0, "found an empty file"),
            (7, "expected safetensors, "),
            (100, "expected a complete safetensors file"),
            (bytes.len() - 1, "expected a complete safetensors file"),
        ] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let message = load(&path, &mut model("resnet8", 1)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(load(&path, &mut model("resnet8", 1)).unwrap_err().to_string().starts_with("cannot read"));
    }
}
