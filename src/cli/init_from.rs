//! `resnet train --init-from`: where fine-tuning begins.

use super::Result;
use super::trained::read;
use crate::model::ResNet;
use crate::weights::state_dict;
use std::path::Path;

/// Puts the tensors of the file into `model` that fit, and says in lines for people what was done with the others.
pub fn apply(path: &Path, model: &mut ResNet<f32>) -> Result<Vec<String>> {
    let tensors = read(path)?;
    let partial = state_dict::assign_matching(path, &tensors, model)?;
    let (taken, left) = (partial.taken.len(), partial.left.len());
    let fresh = match left {
        0 => "all there are".to_string(),
        left => format!("{left} stay as they are initialised:"),
    };
    let mut lines = vec![format!("{taken} tensors from {}, {fresh}", path.display())];
    lines.extend(partial.left.iter().map(|line| format!("  {line}")));
    if !partial.unused.is_empty() {
        lines.push(format!("{} tensors of the file have no place here:", partial.unused.len()));
        lines.extend(partial.unused.iter().map(|name| format!("  {name}")));
    }
    Ok(lines)
}
