//! Copies the tensors of a file into a model.
//!
//! Our names are torchvision's; [`names`] translates those of other programs. Then the file must contain every
//! tensor of the model, with its shape and as floats, and no other. Otherwise the error names the network that the tensors
//! are for, if there is one ([`recognise`]), and lists the first problems, and nothing is changed. Only
//! [`assign_matching`], with which fine-tuning begins, takes the tensors that fit.

mod compare;

use super::names::{self, Entry, Reading};
use super::recognise;
use crate::model::{Architecture, ResNet};
use crate::parameters::Parameters;
pub use crate::parameters::{is_counter, our_name};
use crate::tensors::{Tensor, Tensors};
use crate::{Error, Result, Scalar};
use compare::twice;
pub use compare::{Comparison, compare};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The most problems that an error lists; [`compare()`] returns all of them.
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
/// [`MOST_LISTED`] of them. Or if the metadata is ours and names another network.
pub fn fit<'a, T: Scalar>(path: &Path, tensors: &'a Tensors, model: &ResNet<T>) -> Result<Vec<(String, &'a Tensor)>> {
    let reading = names::read(path, tensors)?;
    let Comparison { fitting, problems } = compare(&reading, model);
    let architecture = model.architecture();
    if problems.is_empty() {
        return match super::network_of(tensors) {
            // With tensors that look alike: `plain20` and `resnet20`.
            Some(other) if other.name != architecture.name => Err(Error::format(
                path,
                None,
                format!(
                    "expected weights of `{}`; by the metadata of the file these are the weights of `{}` (leave --model out, or \
                     convert them from their source again)",
                    architecture.name, other.name
                ),
            )),
            _ => Ok(fitting),
        };
    }
    let message = format!(
        "these are not the weights of {}{}:{}",
        expected(&reading, architecture),
        recognise::hint(&reading, architecture),
        listed(&problems)
    );
    Err(Error::format(path, None, message))
}

/// The network that is expected: `` `resnet20` with 10 classes ``. The classes are those of the file, if it has a last layer.
pub fn expected(reading: &Reading, architecture: &Architecture) -> String {
    match reading.no_last_layer() {
        None => format!("`{}` with {} classes", architecture.name, architecture.classes),
        Some(_) => format!("`{}`", architecture.name),
    }
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

/// Rejects a model with values that are not finite, after its tensors were read from `path`.
///
/// # Errors
/// If there are such values; the message names the tensors.
pub fn expect_finite<T: Scalar>(path: &Path, model: &ResNet<T>) -> Result<()> {
    let mut problems = Vec::new();
    model.visit("", &mut |name, _, tensor| {
        let count = tensor.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            problems.push(format!("{name}: {count} of {} values", tensor.len()));
        }
    });
    if problems.is_empty() {
        return Ok(());
    }
    let message = format!("expected finite values, found NaN, infinity or values too large for {}:", T::NAME);
    Err(Error::format(path, None, message + &listed(&problems)))
}

/// The number of classes of the weights: the rows of the last layer, whatever its name.
pub fn classes(tensors: &Tensors) -> Option<usize> {
    names::read(Path::new(""), tensors).ok()?.classes()
}

#[cfg(test)]
mod tests;
