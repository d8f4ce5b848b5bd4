//! `resnet train --init-from`: the initial weights of fine-tuning.

use super::Result;
use super::trained::read;
use crate::model::ResNet;
use crate::weights::state_dict;
use std::path::Path;

/// Loads those tensors of the file that fit into `model`; returns lines that report what happened to the others.
pub fn apply(path: &Path, model: &mut ResNet<f32>) -> Result<Vec<String>> {
    let contents = read(path, None)?;
    let partial =
        state_dict::assign_matching(path, &contents.tensors, model).map_err(|error| contents.explain(error))?;
    let (taken, left) = (partial.taken.len(), partial.left.len());
    let fresh = match left {
        0 => "all tensors of the network".to_string(),
        left => format!("{left} keep their initial values:"),
    };
    let mut lines = vec![format!("{taken} tensors from {}, {fresh}", path.display())];
    lines.extend(partial.left.iter().map(|line| format!("  {line}")));
    if !partial.unused.is_empty() {
        lines.push(format!("{} tensors of the file are not in the network:", partial.unused.len()));
        lines.extend(partial.unused.iter().map(|name| format!("  {name}")));
    }
    lines.extend(contents.notes("resnet convert --key").into_iter().map(|(key, line)| format!("{key}: {line}")));
    lines.extend(contents.not_read().into_iter().map(|(key, line)| format!("{key}: {line}")));
    Ok(lines)
}
