//! A trained network inside the program: ResNet-20 on CIFAR-10, for predictions without training, and as a start for
//! fine-tuning.
//!
//! `pretrained-resnet20.md` beside the file describes how it was trained and its accuracy. Wherever the command takes a file of
//! weights, [`NAME`] denotes it.
//!
//! ```
//! use resnet_by_hand::data::{embedded, Normalization};
//! use resnet_by_hand::engine::Engine;
//! use resnet_by_hand::weights::{self, pretrained, state_dict};
//! use resnet_by_hand::model::{Architecture, ResNet};
//! use resnet_by_hand::train::{evaluate, EvaluationOptions};
//! use std::path::Path;
//!
//! let tensors = pretrained::tensors();
//! let about = weights::metadata_of(Path::new(pretrained::NAME), &tensors)?;
//! let mut model = ResNet::<f32>::zeroed(&Architecture::by_name(&about["model"])?)?;
//! state_dict::assign(Path::new(pretrained::NAME), &tensors, &mut model)?;
//! let test = std::sync::Arc::new(embedded::load().test);
//! let evaluation = evaluate(&Engine::default(), &model, &test, EvaluationOptions::new(Normalization::CIFAR10, 250))?;
//! assert!(evaluation.accuracy() > 0.88);
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use crate::formats::safetensors;
use crate::tensors::Tensors;
use std::path::Path;

/// The name of these weights in the command.
pub const NAME: &str = "pretrained";

const FILE: &[u8] = include_bytes!("pretrained-resnet20.safetensors");

/// Whether a path denotes the weights inside the program.
pub fn is_meant(path: &Path) -> bool {
    path.as_os_str() == NAME
}

/// The weights, with their metadata.
pub fn tensors() -> Tensors {
    safetensors::read_bytes(Path::new(NAME), FILE).expect("the file compiled into the program is complete")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// The file is the one that the page beside it describes.
    #[test]
    fn the_hash_is_the_one_in_its_description() {
        let description = include_str!("pretrained-resnet20.md");
        let hash = crate::formats::hex(&Sha256::digest(FILE));
        assert!(description.contains(&hash), "{hash}");
    }
}
