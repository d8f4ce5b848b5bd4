//! `resnet train --init-from`: the initial weights of fine-tuning.

use super::trained::read;
use super::{Failure, Result, imagenet, text};
use crate::model::ResNet;
use crate::weights::state_dict::MOST_LISTED;
use crate::weights::{self, names, recognise, state_dict};
use std::path::Path;

/// Loads those tensors of the file that fit into `model`; returns lines that report what happened to the others.
///
/// Everything but the last layer must fit, unless `partial`: a run that begins with a few tensors of a file is training from
/// random weights, and the user expects something else. `image` is the height of the images.
pub fn apply(path: &Path, model: &mut ResNet<f32>, partial: bool, image: usize) -> Result<Vec<String>> {
    let contents = read(path, None)?;
    let tensors = &contents.tensors;
    // Compares the checksum.
    weights::metadata_of(path, tensors)?;
    let reading = names::read(path, tensors)?;
    let found = state_dict::assign_matching(path, tensors, model).map_err(|error| contents.explain(error))?;
    let (taken, left) = (found.taken.len(), found.left.len());
    let [from, all] = found.parameters;
    let share = format!("{:.2} % of the parameters", 100.0 * from as f64 / all as f64);
    if !found.has_trunk && !partial {
        let architecture = model.architecture();
        return Err(Failure::Failed(format!(
            "{}: {taken} of {} tensors fit `{}` with {} classes, {share}, but --init-from needs all of them except for the \
             last layer's{}; --init-partial begins with those that fit:{}",
            path.display(),
            taken + left,
            architecture.name,
            architecture.classes,
            recognise::hint(&reading, architecture),
            state_dict::listed(&found.left)
        )));
    }
    let fresh = match left {
        0 => "all tensors of the network".to_string(),
        1 => format!("{share}, 1 keeps its initial values:"),
        left => format!("{share}, {left} keep their initial values:"),
    };
    let mut lines = vec![format!("{} from {}, {fresh}", text::count(taken, "tensor"), path.display())];
    lines.extend(found.left.iter().map(|line| format!("  {line}")));
    lines.extend(reading.line().map(|line| format!("names: {line}")));
    let designed_for = model.architecture().image[0];
    if imagenet::preset(path, model.architecture(), reading.classes().unwrap_or(0)).is_some() && image < designed_for {
        lines.push(format!(
            "ImageNet's weights are for images of {designed_for}x{designed_for}, these are {image}x{image}: for pictures in \
             folders give --image-size {designed_for}"
        ));
    }
    if !found.unused.is_empty() {
        let are = if found.unused.len() == 1 { "is" } else { "are" };
        lines.push(format!("{} of the file {are} not in the network:", text::count(found.unused.len(), "tensor")));
        lines.extend(found.unused.iter().take(MOST_LISTED).map(|name| format!("  {name}")));
        let more = found.unused.len().saturating_sub(MOST_LISTED);
        lines.extend((more > 0).then(|| format!("  and {more} more")));
    }
    lines.extend(contents.notes("resnet convert --key").into_iter().map(|(key, line)| format!("{key}: {line}")));
    lines.extend(contents.not_read().into_iter().map(|(key, line)| format!("{key}: {line}")));
    Ok(lines)
}
