//! Translates the names in a file to those of a model and copies the values into it.
//!
//! Our names are torchvision's. If the model has no tensor of a name, the name is translated from those that other programs
//! use:
//!
//! | in the file | here | whose |
//! |---|---|---|
//! | `module.conv1.weight` | `conv1.weight` | `DataParallel`, which wraps a model |
//! | `_orig_mod.conv1.weight` | `conv1.weight` | `torch.compile`, which does the same |
//! | `linear.weight`, `linear.bias` | `fc.weight`, `fc.bias` | the public CIFAR checkpoints |
//! | `layer2.0.shortcut.0.weight` | `layer2.0.downsample.0.weight` | CIFAR code: the projection |
//! | `layer2.0.shortcut.1.weight`, … | `layer2.0.downsample.1.weight`, … | CIFAR code: its batch norm |
//! | `bn1.num_batches_tracked` | left out | a counter that is not needed here |
//!
//! Then the file must contain every tensor of the model, with its shape and as floats, and no other. Otherwise the error lists
//! every problem, and nothing is changed. Only [`assign_matching`], with which fine-tuning begins, takes the tensors that fit.

use crate::error::nearest;
use crate::model::ResNet;
use crate::parameters::Parameters;
pub use crate::parameters::{is_counter, our_name};
use crate::tensors::{Tensor, Tensors};
use crate::{Error, Result, Scalar};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Every tensor of `model`, running statistics included, under torchvision's names.
pub fn collect<T: Scalar>(model: &ResNet<T>) -> Tensors {
    let mut tensors = Tensors::new();
    model.visit("", &mut |name, _, tensor| tensors.insert(name, Tensor::real(tensor)));
    tensors
}

/// Copies the tensors that were read from `path` into `model`, rounded to its type.
///
/// # Errors
/// As [`fit`]; then the model is not changed.
pub fn assign<T: Scalar>(path: &Path, tensors: &Tensors, model: &mut ResNet<T>) -> Result<()> {
    let mut fitting = fit(path, tensors, model)?.into_iter();
    model.visit_mut("", &mut |_, _, mut own| {
        let (_, tensor) = fitting.next().expect("one for each");
        own.assign(&tensor.to_real().expect("floats"));
    });
    Ok(())
}

/// The tensors of `model` among those that were read from `path`, with the model's names and in its order.
///
/// # Errors
/// If one is missing, there is an extra one, or one has another shape or is not of floats; the message lists all of them.
pub fn fit<'a, T: Scalar>(path: &Path, tensors: &'a Tensors, model: &ResNet<T>) -> Result<Vec<(String, &'a Tensor)>> {
    let mut own: Vec<(String, Vec<usize>)> = Vec::new();
    model.visit("", &mut |name, _, tensor| own.push((name.to_string(), tensor.shape().to_vec())));
    let own_names: Vec<String> = own.iter().map(|(name, _)| name.clone()).collect();
    let is_own: HashSet<&str> = own_names.iter().map(String::as_str).collect();

    let mut problems = Vec::new();
    let mut given: HashMap<String, (&str, &Tensor)> = HashMap::new();
    let mut extra: Vec<(&str, &Tensor)> = Vec::new();
    for (name, tensor) in tensors.iter().filter(|(name, _)| !is_counter(name)) {
        let here = if is_own.contains(name) { name.to_string() } else { our_name(name) };
        if !is_own.contains(here.as_str()) {
            extra.push((name, tensor));
        } else if let Some((first, _)) = given.get(&here) {
            problems.push(format!("{here} occurs twice, as `{first}` and as `{name}`"));
        } else {
            given.insert(here, (name, tensor));
        }
    }
    let extra_names: Vec<String> = extra.iter().map(|(name, _)| name.to_string()).collect();
    let mut fitting = Vec::with_capacity(own.len());
    for (name, shape) in own {
        match given.get(&name) {
            None => {
                let hint = nearest(&name, &extra_names).map_or(String::new(), |near| format!(" (found `{near}`)"));
                problems.push(format!("missing {name} {shape:?}{hint}"));
            }
            Some((_, tensor)) if tensor.shape() != shape => {
                problems.push(format!("{name} expects shape {shape:?}, got {:?}", tensor.shape()));
            }
            Some((_, tensor)) if tensor.dtype().unit_roundoff().is_none() => {
                problems.push(format!("{name} expects floats, got {}", tensor.dtype()));
            }
            Some((_, tensor)) => fitting.push((name, *tensor)),
        }
    }
    problems.extend(extra.into_iter().map(|(name, tensor)| {
        let hint = nearest(&our_name(name), &own_names).map_or(String::new(), |near| format!(" (near `{near}`)"));
        format!("extra {name} {:?}{hint}", tensor.shape())
    }));
    if problems.is_empty() {
        return Ok(fitting);
    }
    let architecture = model.architecture();
    let message = format!(
        "these are not the weights of `{}` with {} classes:\n  {}",
        architecture.name,
        architecture.classes,
        problems.join("\n  ")
    );
    Err(Error::format(path, None, message))
}

/// The tensors of a model that were taken from a file, and those that were not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Names of those that were taken.
    pub taken: Vec<String>,
    /// Those that were not changed: `fc.weight: (1000, 512) in the file, (10, 512) in the model`.
    pub left: Vec<String>,
    /// The other tensors of the file, under their names in it.
    pub unused: Vec<String>,
}

/// Copies every tensor that was read from `path` and whose name and shape fit into `model`, and does not change the others:
/// the start of fine-tuning, whose last layer has other classes.
///
/// # Errors
/// If nothing fits, or two tensors have the same translated name; then the model is not changed.
pub fn assign_matching<T: Scalar>(path: &Path, tensors: &Tensors, model: &mut ResNet<T>) -> Result<Partial> {
    let mut own: HashMap<String, Vec<usize>> = HashMap::new();
    model.visit("", &mut |name, _, tensor| {
        own.insert(name.to_string(), tensor.shape().to_vec());
    });
    let mut given: HashMap<String, (&str, &Tensor)> = HashMap::new();
    let mut unused = Vec::new();
    for (name, tensor) in tensors.iter().filter(|(name, _)| !is_counter(name)) {
        let here = if own.contains_key(name) { name.to_string() } else { our_name(name) };
        if !own.contains_key(&here) {
            unused.push(name.to_string());
        } else if let Some((first, _)) = given.insert(here.clone(), (name, tensor)) {
            let message = format!("{here} occurs twice, as `{first}` and as `{name}`");
            return Err(Error::format(path, None, message));
        }
    }
    let fits = |name: &str, shape: &[usize]| {
        let (_, tensor) = given.get(name)?;
        (tensor.shape() == shape && tensor.dtype().unit_roundoff().is_some()).then_some(*tensor)
    };
    let shown = |shape: &[usize]| {
        let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
        format!("({})", sides.join(", "))
    };
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    model.visit_mut("", &mut |name, _, mut tensor| {
        if let Some(fitting) = fits(name, tensor.shape()) {
            tensor.assign(&fitting.to_real().expect("floats"));
            taken.push(name.to_string());
            return;
        }
        let there = match given.get(name) {
            None => "missing in the file".to_string(),
            Some((_, other)) if other.shape() == tensor.shape() => {
                format!("{} in the file, floats in the model", other.dtype())
            }
            Some((_, other)) => {
                format!("{} in the file, {} in the model", shown(other.shape()), shown(tensor.shape()))
            }
        };
        left.push(format!("{name}: {there}"));
    });
    if taken.is_empty() {
        let architecture = model.architecture();
        let message = format!(
            "expected weights of which some fit `{}` with {} classes, found none with a matching name and shape:\n  {}",
            architecture.name,
            architecture.classes,
            left.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ")
        );
        return Err(Error::format(path, None, message));
    }
    Ok(Partial { taken, left, unused })
}

/// The number of classes of the weights: the rows of the last layer, whatever its name.
pub fn classes(tensors: &Tensors) -> Option<usize> {
    let (_, weight) = tensors.iter().find(|(name, _)| our_name(name) == "fc.weight")?;
    match weight.shape() {
        // The caller creates a network of that many classes: accept only rows that contain values.
        &[classes, features] if features > 0 => Some(classes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;
    use crate::parameters::fingerprint;
    use ndarray::array;

    fn model(name: &str, seed: u64) -> ResNet<f32> {
        ResNet::new(&Architecture::by_name(name).unwrap(), seed).unwrap()
    }

    /// The tensors of `model` under other names.
    fn renamed(model: &ResNet<f32>, name: impl Fn(&str) -> String) -> Tensors {
        let mut tensors = Tensors::new();
        collect(model).iter().for_each(|(own, tensor)| tensors.insert(name(own), tensor.clone()));
        tensors
    }

    fn problems(tensors: &Tensors, model: &mut ResNet<f32>) -> String {
        let before = fingerprint(model);
        let message = assign(Path::new("f"), tensors, model).unwrap_err().to_string();
        assert_eq!(fingerprint(model), before, "nothing is changed");
        message
    }

    #[test]
    fn names_of_others_are_understood() {
        for (network, theirs) in [
            ("resnet8", (|name| name.to_string()) as fn(&str) -> String),
            ("resnet8", |name| format!("module.{}", name.replace("fc.", "linear."))),
            ("resnet18", |name| format!("_orig_mod.module.{}", name.replace(".downsample.", ".shortcut."))),
        ] {
            let saved = model(network, 1);
            let mut tensors = renamed(&saved, theirs);
            tensors.insert("module.bn1.num_batches_tracked", array![100i64]);
            let mut loaded = model(network, 2);
            assign(Path::new("f"), &tensors, &mut loaded).unwrap();
            assert_eq!(fingerprint(&saved), fingerprint(&loaded), "{network}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_listed_at_once() {
        let mut resnet8 = model("resnet8", 1);
        let mut tensors = collect(&resnet8);
        tensors.remove("conv1.weight");
        tensors.insert("conv1.wieght", array![1.0f32]);
        tensors.insert("module.bn1.bias", array![1.0f32]);
        tensors.insert("fc.bias", array![1i64, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        tensors.insert("bn1.weight", array![1.0f32]);
        tensors.insert("something.else", array![[1.0f32]]);
        let message = problems(&tensors, &mut resnet8);
        for part in [
            "f: these are not the weights of `resnet8` with 10 classes:\n",
            "\n  missing conv1.weight [16, 3, 3, 3] (found `conv1.wieght`)",
            "\n  bn1.weight expects shape [16], got [1]",
            "\n  fc.bias expects floats, got int64",
            "\n  bn1.bias occurs twice, as `bn1.bias` and as `module.bn1.bias`",
            "\n  extra conv1.wieght [1] (near `conv1.weight`)",
            "\n  extra something.else [1, 1]",
        ] {
            assert!(message.contains(part), "`{part}` is missing in {message}");
        }
        assert_eq!(message.lines().count(), 7);
    }

    #[test]
    fn a_tensor_that_is_there_twice_is_refused_where_a_part_would_do() {
        let mut resnet8 = model("resnet8", 1);
        let mut tensors = collect(&model("resnet8", 2));
        tensors.insert("module.conv1.weight", tensors.get("conv1.weight").unwrap().clone());
        let before = fingerprint(&resnet8);
        let message = assign_matching(Path::new("f"), &tensors, &mut resnet8).unwrap_err().to_string();
        let expected = "conv1.weight occurs twice, as `conv1.weight` and as `module.conv1.weight`";
        assert!(message.contains(expected), "{message}");
        assert_eq!(fingerprint(&resnet8), before, "nothing is changed");
    }

    #[test]
    fn the_number_of_classes_is_that_of_rows_that_are_there() {
        assert_eq!(classes(&collect(&model("resnet8", 1))), Some(10));
        let mut tensors = Tensors::new();
        assert_eq!(classes(&tensors), None);
        tensors.insert("module.linear.weight", ndarray::Array2::<f32>::zeros((1 << 40, 0)));
        assert_eq!(classes(&tensors), None);
    }
}
