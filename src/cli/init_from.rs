//! `resnet train --init-from`: the initial weights of fine-tuning.

use super::trained::read;
use super::{Result, text};
use crate::model::ResNet;
use crate::weights::state_dict;
use std::path::Path;

/// Loads those tensors of the file that fit into `model`; returns lines that report what happened to the others.
pub fn apply(path: &Path, model: &mut ResNet<f32>) -> Result<Vec<String>> {
    let tensors = read(path)?;
    let partial = state_dict::assign_matching(path, &tensors, model)?;
    let (taken, left) = (partial.taken.len(), partial.left.len());
    let fresh = match left {
        0 => "all tensors of the network".to_string(),
        1 => "1 keeps its initial values:".to_string(),
        left => format!("{left} keep their initial values:"),
    };
    let mut lines = vec![format!("{} from {}, {fresh}", text::count(taken, "tensor"), path.display())];
    lines.extend(partial.left.iter().map(|line| format!("  {line}")));
    if !partial.unused.is_empty() {
        let are = if partial.unused.len() == 1 { "is" } else { "are" };
        let unused = text::count(partial.unused.len(), "tensor");
        lines.push(format!("{unused} of the file {are} not in the network:"));
        lines.extend(partial.unused.iter().map(|name| format!("  {name}")));
    }
    Ok(lines)
}
