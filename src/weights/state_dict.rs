//! Copies the tensors of a file into a model.
//!
//! Our names are torchvision's; [`names`](super::names) translates those of other programs. Then the file must contain every
//! tensor of the model, with its shape and as floats, and no other. Otherwise the error names the network that the tensors
//! are for, if there is one ([`recognise`](super::recognise)), and lists the first problems, and nothing is changed. Only
//! [`assign_matching`], with which fine-tuning begins, takes the tensors that fit.

use super::names::{self, Entry, Reading};
use super::recognise;
use crate::error::nearest;
use crate::model::ResNet;
use crate::parameters::Parameters;
pub use crate::parameters::{is_counter, our_name};
use crate::tensors::{Tensor, Tensors};
use crate::{Error, Result, Scalar};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The most problems that an error lists; [`compare`] returns all of them.
pub const MOST_LISTED: usize = 10;

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
/// If one is missing, there is an extra one, or one has another shape or is not of floats; the message lists the first
/// [`MOST_LISTED`] of them.
pub fn fit<'a, T: Scalar>(path: &Path, tensors: &'a Tensors, model: &ResNet<T>) -> Result<Vec<(String, &'a Tensor)>> {
    let reading = names::read(path, tensors)?;
    let Comparison { fitting, problems } = compare(&reading, model);
    if problems.is_empty() {
        return Ok(fitting);
    }
    let architecture = model.architecture();
    let message = format!(
        "these are not the weights of `{}` with {} classes{}:{}",
        architecture.name,
        architecture.classes,
        recognise::hint(&reading, architecture),
        listed(&problems)
    );
    Err(Error::format(path, None, message))
}

/// Indented lines with the first problems, and the number of the others.
pub fn listed(problems: &[String]) -> String {
    let (first, rest) = problems.split_at(problems.len().min(MOST_LISTED));
    let mut text: String = first.iter().map(|problem| format!("\n  {problem}")).collect();
    if !rest.is_empty() {
        text += &format!("\n  and {} more (`convert`, `eval` and `predict` list all with --all)", rest.len());
    }
    text
}

/// What a file and a model have in common.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    /// The tensors of the model, those without a problem, in its order.
    pub fitting: Vec<(String, &'a Tensor)>,
    /// Every other tensor of the model or the file: `missing conv1.weight [16, 3, 3, 3]`.
    pub problems: Vec<String>,
}

/// Compares the tensors of a file with those of `model`.
pub fn compare<'a, T: Scalar>(reading: &Reading<'a>, model: &ResNet<T>) -> Comparison<'a> {
    let mut own: Vec<(String, Vec<usize>)> = Vec::new();
    model.visit("", &mut |name, _, tensor| own.push((name.to_string(), tensor.shape().to_vec())));
    let own_names: Vec<String> = own.iter().map(|(name, _)| name.clone()).collect();
    let is_own: HashSet<&str> = own_names.iter().map(String::as_str).collect();

    let (mut wrong, mut missing) = (Vec::new(), Vec::new());
    let mut given: HashMap<&str, &Entry<'a>> = HashMap::new();
    let mut extra: Vec<&Entry<'a>> = Vec::new();
    for entry in &reading.entries {
        if !is_own.contains(entry.name.as_str()) {
            extra.push(entry);
        } else if let Some(first) = given.get(entry.name.as_str()) {
            wrong.push(twice(first, entry));
        } else {
            given.insert(&entry.name, entry);
        }
    }
    let extra_names: Vec<String> = extra.iter().map(|entry| entry.theirs.to_string()).collect();
    let mut fitting = Vec::with_capacity(own.len());
    for (name, shape) in own {
        match given.get(name.as_str()).map(|entry| entry.tensor) {
            None => {
                let hint = nearest(&name, &extra_names).map_or(String::new(), |near| format!(" (found `{near}`)"));
                missing.push(format!("missing {name} {shape:?}{hint}"));
            }
            Some(tensor) if tensor.shape() != shape => {
                wrong.push(format!("{name} expects shape {shape:?}, got {:?}", tensor.shape()));
            }
            Some(tensor) if tensor.dtype().unit_roundoff().is_none() => {
                wrong.push(format!("{name} expects floats, got {}", tensor.dtype()));
            }
            Some(tensor) => fitting.push((name, tensor)),
        }
    }
    let extra = extra.into_iter().map(|Entry { name, theirs, tensor }| {
        let hint = nearest(name, &own_names).map_or(String::new(), |near| format!(" (near `{near}`)"));
        format!("extra {theirs} {:?}{hint}", tensor.shape())
    });
    Comparison { fitting, problems: in_turn(in_turn(wrong, missing), extra.collect()) }
}

/// One of `a`, one of `b`, and so on, so that the first lines of a long list show both kinds.
fn in_turn(a: Vec<String>, b: Vec<String>) -> Vec<String> {
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut all = Vec::with_capacity(a.len() + b.len());
    while a.len() + b.len() > 0 {
        all.extend(a.next());
        all.extend(b.next());
    }
    all
}

fn twice(first: &Entry, second: &Entry) -> String {
    format!("{} occurs twice, as `{}` and as `{}`", first.name, first.theirs, second.theirs)
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
    /// The number of trained parameters that were taken, and of all in the model.
    pub parameters: [usize; 2],
    /// Whether everything before the last layer was taken.
    pub has_trunk: bool,
}

/// Copies every tensor that was read from `path` and whose name and shape fit into `model`, and does not change the others:
/// the start of fine-tuning, whose last layer has other classes.
///
/// # Errors
/// If nothing fits, or two tensors have the same translated name; then the model is not changed.
pub fn assign_matching<T: Scalar>(path: &Path, tensors: &Tensors, model: &mut ResNet<T>) -> Result<Partial> {
    let reading = names::read(path, tensors)?;
    let mut own: HashSet<String> = HashSet::new();
    model.visit("", &mut |name, _, _| {
        own.insert(name.to_string());
    });
    let mut given: HashMap<&str, &Entry> = HashMap::new();
    let mut unused = Vec::new();
    for entry in &reading.entries {
        if !own.contains(&entry.name) {
            unused.push(entry.theirs.to_string());
        } else if let Some(first) = given.insert(&entry.name, entry) {
            return Err(Error::format(path, None, twice(first, entry)));
        }
    }
    let fits = |name: &str, shape: &[usize]| {
        let tensor = given.get(name)?.tensor;
        (tensor.shape() == shape && tensor.dtype().unit_roundoff().is_some()).then_some(tensor)
    };
    let shown = |shape: &[usize]| {
        let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
        format!("({})", sides.join(", "))
    };
    let mut partial = Partial { taken: Vec::new(), left: Vec::new(), unused, parameters: [0; 2], has_trunk: true };
    model.visit_mut("", &mut |name, role, mut own| {
        let trained = if role.is_trained() { own.len() } else { 0 };
        partial.parameters[1] += trained;
        if let Some(tensor) = fits(name, own.shape()) {
            own.assign(&tensor.to_real().expect("floats"));
            partial.parameters[0] += trained;
            partial.taken.push(name.to_string());
            return;
        }
        let there = match given.get(name).map(|entry| entry.tensor) {
            None => "missing in the file".to_string(),
            Some(other) if other.shape() == own.shape() => {
                format!("{} in the file, floats in the model", other.dtype())
            }
            Some(other) => format!("{} in the file, {} in the model", shown(other.shape()), shown(own.shape())),
        };
        partial.has_trunk &= name.starts_with("fc.");
        partial.left.push(format!("{name}: {there}"));
    });
    if partial.taken.is_empty() {
        let architecture = model.architecture();
        let message = format!(
            "expected weights of which some fit `{}` with {} classes, found none with a matching name and shape{}:{}",
            architecture.name,
            architecture.classes,
            recognise::hint(&reading, architecture),
            listed(&partial.left)
        );
        return Err(Error::format(path, None, message));
    }
    Ok(partial)
}

/// The number of classes of the weights: the rows of the last layer, whatever its name.
pub fn classes(tensors: &Tensors) -> Option<usize> {
    names::read(Path::new(""), tensors).ok()?.classes()
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

    /// Of 162 problems the first ten, of every kind, and the network that the file is for.
    #[test]
    fn a_long_list_is_shortened() {
        let tensors = renamed(&model("resnet20-b", 1), |name| format!("net.{}", name.replace("layer3", "stage3")));
        let message = problems(&tensors, &mut model("resnet56", 1));
        assert_eq!(message.lines().count(), 1 + MOST_LISTED + 1, "{message}");
        assert!(message.contains("\n  missing ") && message.contains("\n  extra net.layer2.0.downsample"), "{message}");
        assert!(message.ends_with(" more (`convert`, `eval` and `predict` list all with --all)"), "{message}");
        let message = problems(&collect(&model("resnet20-b", 1)), &mut model("resnet20", 1));
        let first = "f: these are not the weights of `resnet20` with 10 classes; this file is a resnet20 with option-B \
                     shortcuts (`--model resnet20-b`):";
        assert_eq!(message.lines().next(), Some(first));
        assert_eq!(message.lines().count(), 11);
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
