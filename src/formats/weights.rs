//! A model's tensors as a [safetensors](https://github.com/huggingface/safetensors) file, under torchvision's names.
//!
//! The file's metadata has one entry, `resnet-by-hand`: a JSON object with sorted keys (`model`, `classes`,
//! `normalization`, …), so that the weights carry what is needed to use them, and the same weights are the same bytes.

use super::atomic;
use crate::error::nearest;
use crate::model::ResNet;
use crate::parameters::Parameters;
use crate::{Error, Result, Scalar};
use ndarray::{ArrayD, ArrayViewD};
use safetensors::tensor::{serialize, Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What a weights file says about itself: keys and values as text.
pub type Metadata = BTreeMap<String, String>;

/// The one key of the file's own metadata.
const KEY: &str = "resnet-by-hand";

/// Writes every tensor of `model`, running statistics included, and `metadata` to `path`, whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn save<T: Scalar>(path: &Path, model: &ResNet<T>, metadata: &Metadata) -> Result<()> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    model.visit("", &mut |name, _, tensor| {
        tensors.push((name.to_string(), tensor.shape().to_vec(), little_endian(tensor)));
    });
    let dtype = if T::NAME == "float32" { Dtype::F32 } else { Dtype::F64 };
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.clone(), bytes).expect("as many bytes as the shape asks for");
        (name.as_str(), view)
    });
    let about = serde_json::to_string(metadata).expect("text is always JSON");
    let bytes = serialize(views, Some(HashMap::from([(KEY.to_string(), about)])))
        .map_err(|error| Error::format(path, None, format!("cannot be written as safetensors: {error}")))?;
    atomic::write(path, &bytes)
}

fn little_endian<T: Scalar>(tensor: ArrayViewD<T>) -> Vec<u8> {
    let values = tensor.iter().map(|value| value.as_f64());
    if T::NAME == "float32" {
        // Exact: the value was an f32.
        values.flat_map(|value| (value as f32).to_le_bytes()).collect()
    } else {
        values.flat_map(f64::to_le_bytes).collect()
    }
}

/// What a weights file says about itself; empty for a file of another program.
///
/// # Errors
/// If the file cannot be read or is not safetensors.
pub fn read_metadata(path: &Path) -> Result<Metadata> {
    let bytes = read(path)?;
    metadata_of(path, &bytes)
}

/// Reads the tensors of `model` from `path` (`f32` or `f64`, rounded to the model's type) and returns the metadata.
///
/// # Errors
/// If the file cannot be read, or its tensors are not exactly those of the model; the message lists every missing, extra
/// and wrongly shaped one, and the model is left as it was.
pub fn load<T: Scalar>(path: &Path, model: &mut ResNet<T>) -> Result<Metadata> {
    let bytes = read(path)?;
    let file = parse(path, &bytes)?;
    let mut given: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
    // torchvision's counters of batches; nothing here depends on them.
    given.retain(|name, _| !name.ends_with("num_batches_tracked"));
    let names: Vec<String> = given.keys().cloned().collect();

    let (mut tensors, mut problems) = (Vec::new(), Vec::new());
    model.visit("", &mut |name, _, own| match given.remove(name) {
        None => {
            let hint = nearest(name, &names).filter(|near| *near != name);
            problems.push(format!(
                "missing {name} {:?}{}",
                own.shape(),
                hint.map_or(String::new(), |h| format!(" (there is `{h}`)"))
            ));
        }
        Some(view) if view.shape() != own.shape() => {
            problems.push(format!("{name} expects shape {:?}, got {:?}", own.shape(), view.shape()));
        }
        Some(view) => match decode(&view) {
            Some(tensor) => tensors.push(tensor),
            None => problems.push(format!("{name} expects F32 or F64, got {:?}", view.dtype())),
        },
    });
    problems.extend(given.iter().map(|(name, view)| format!("extra {name} {:?}", view.shape())));
    if !problems.is_empty() {
        let name = &model.architecture().name;
        let classes = model.architecture().classes;
        let message =
            format!("these are not the weights of `{name}` with {classes} classes:\n  {}", problems.join("\n  "));
        return Err(Error::format(path, None, message));
    }
    let mut tensors = tensors.into_iter();
    model.visit_mut("", &mut |_, _, mut own| own.assign(&tensors.next().expect("one for each")));
    metadata_of(path, &bytes)
}

fn decode<T: Scalar>(view: &TensorView<'_>) -> Option<ArrayD<T>> {
    let values: Vec<T> = match view.dtype() {
        Dtype::F32 => {
            view.data().chunks_exact(4).map(|b| T::of(f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())).collect()
        }
        Dtype::F64 => {
            view.data().chunks_exact(8).map(|b| T::of(f64::from_le_bytes(b.try_into().expect("eight bytes")))).collect()
        }
        _ => return None,
    };
    ArrayD::from_shape_vec(view.shape(), values).ok()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::io(path, "read", error))
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| Error::format(path, None, format!("expected a complete safetensors file: {error}")))
}

fn metadata_of(path: &Path, bytes: &[u8]) -> Result<Metadata> {
    let (_, header) = SafeTensors::read_metadata(bytes)
        .map_err(|error| Error::format(path, None, format!("expected a complete safetensors file: {error}")))?;
    let Some(about) = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY)) else {
        return Ok(Metadata::new());
    };
    serde_json::from_str(about).map_err(|error| {
        Error::format(path, None, format!("the entry `{KEY}` of its metadata is not an object of texts: {error}"))
    })
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
        for cut in [0, 7, 100, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let message = load(&path, &mut model("resnet8", 1)).unwrap_err().to_string();
            assert!(message.contains("expected a complete safetensors file"), "{message}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(load(&path, &mut model("resnet8", 1)).unwrap_err().to_string().starts_with("cannot read"));
    }
}
