//! `resnet train --init-from`: the initial weights of fine-tuning.

use super::config::Config;
use super::trained::{check_no_checkpoint, explain, read};
use super::{Failure, Result, imagenet, text};
use crate::model::ResNet;
use crate::weights::state_dict::MOST_LISTED;
use crate::weights::{self, names, recognise, state_dict};

/// Rejects settings about a file that is not given.
pub fn check(config: &Config) -> Result<()> {
    let flag = match (&config.init_from, &config.init_key, config.init_partial) {
        (None, Some(_), _) => "init-key",
        (None, None, Some(true)) => "init-partial",
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!(
        "--{flag} needs the weights with which to begin; add --init-from FILE, or remove --{flag}"
    )))
}

/// Loads those tensors of the file that fit into `model`, if the configuration has a file; returns lines that report what
/// happened to the others.
///
/// Everything but the last layer must fit, unless a part is enough: a run that begins with a few tensors of a file is training
/// from random weights, and the user expects something else. `image` is the height of the images.
pub fn apply(config: &Config, model: &mut ResNet<f32>, image: usize) -> Result<Vec<String>> {
    let Some(path) = config.init_from.as_deref() else { return Ok(Vec::new()) };
    let contents = read(path, config.init_key.as_deref())?;
    let tensors = &contents.tensors;
    check_no_checkpoint(path, tensors)?;
    // Compares the checksum.
    let about = weights::metadata_of(path, tensors)?;
    let reading = names::read(path, tensors)?;
    let found =
        state_dict::assign_matching(path, tensors, model).map_err(|error| explain(&contents, "--init-key", error))?;
    state_dict::expect_finite(path, model)?;
    let (taken, left) = (found.taken.len(), found.left.len());
    let [from, all] = found.parameters;
    let share = format!("{:.2} % of the parameters", 100.0 * from as f64 / all as f64);
    if !found.has_trunk && config.init_partial != Some(true) {
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
    let named = about.get("model").filter(|name| **name != model.architecture().name);
    lines.extend(named.map(|name| format!("network: {}, from weights of {name}", model.architecture().name)));
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
    lines.extend(contents.notes("--init-key").into_iter().map(|(key, line)| format!("{key}: {line}")));
    lines.extend(contents.not_read().into_iter().map(|(key, line)| format!("{key}: {line}")));
    Ok(lines)
}
