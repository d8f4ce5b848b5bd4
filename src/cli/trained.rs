//! Trained weights and what their file says about itself: what `eval` and `predict` start from.

use super::{Failure, Result, args};
use crate::data::Normalization;
use crate::formats;
use crate::model::{Architecture, ResNet};
use crate::tensors::Tensors;
use crate::weights::{self, Metadata};
use crate::weights::{pretrained, state_dict};
use crate::{Error, Scalar};
use std::path::{Path, PathBuf};

/// Which weights.
#[derive(Debug, clap::Args)]
pub struct WeightsArgs {
    /// File of weights: safetensors, PyTorch's .pth, .pt, .th, or .npz [default: pretrained]
    ///
    /// `pretrained` is a ResNet-20 inside this program that tells the ten classes of CIFAR-10 apart.
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    weights: Option<PathBuf>,

    /// The network, see `resnet models` [default: what the file says]
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Option<Architecture>,
}

/// A file of weights that was read.
pub struct Trained {
    /// Its name.
    pub path: PathBuf,
    /// The network they are for, with as many classes as it was published with.
    pub architecture: Architecture,
    tensors: Tensors,
    about: Metadata,
}

/// The tensors of a file, or those inside the program.
pub fn read(path: &Path) -> Result<Tensors> {
    Ok(if pretrained::is_meant(path) { pretrained::tensors() } else { formats::read(path)? })
}

impl WeightsArgs {
    /// Reads the file.
    pub fn open(&self) -> Result<Trained> {
        Trained::read(self.weights.as_deref().unwrap_or(Path::new(pretrained::NAME)), self.model.as_ref())
    }
}

impl Trained {
    /// Reads a file of weights for `model`, or for the network that the file names.
    pub fn read(path: &Path, model: Option<&Architecture>) -> Result<Self> {
        let tensors = read(path)?;
        let about = weights::metadata_of(path, &tensors)?;
        let architecture = match (model, about.get("model")) {
            (Some(architecture), _) => architecture.clone(),
            (None, Some(name)) => Architecture::by_name(name).map_err(|error| unusable(path, &error.to_string()))?,
            (None, None) => {
                return Err(Failure::Usage(format!(
                    "{} does not say which network its weights are for; give --model NAME",
                    path.display()
                )));
            }
        };
        Ok(Trained { path: path.to_path_buf(), architecture, tensors, about })
    }

    /// What the file says of itself under `key`.
    pub fn about(&self, key: &str) -> Option<&str> {
        self.about.get(key).map(String::as_str)
    }

    /// The normalisation and who chose it.
    pub fn normalization(&self, args: &args::NormalizationArgs) -> Result<(Normalization, &'static str)> {
        if let Some(given) = args.given()? {
            return Ok((given, "given by --mean and --std"));
        }
        let (Some(mean), Some(std)) = (self.about.get("mean"), self.about.get("std")) else {
            return Err(Failure::Usage(format!(
                "{} does not say how its images were normalised; give --mean R,G,B and --std R,G,B as they were in \
                 training",
                self.path.display()
            )));
        };
        let read = |text: &str| args::three(text).map_err(|error| self.unusable(&format!("`{text}`: {error}")));
        let normalization = Normalization::new(read(mean)?, read(std)?);
        Ok((normalization.map_err(|error| self.unusable(&error.to_string()))?, "from the file of weights"))
    }

    /// Height and width of the images in training, if the file says so.
    pub fn image_size(&self) -> Result<Option<usize>> {
        let read = |text: &String| {
            args::count(1, 2048)(text).map_err(|error| self.unusable(&format!("`image_size` = `{text}`: {error}")))
        };
        Ok(self.about.get("image_size").map(read).transpose()?)
    }

    /// The number of classes, and their names if the file has them.
    pub fn classes(&self) -> Result<(usize, Option<Vec<String>>)> {
        let classes = state_dict::classes(&self.tensors).ok_or_else(|| {
            let message = "expected the weight of the last layer, `fc.weight` (classes, features), found none";
            Error::format(&self.path, None, message)
        })?;
        let Some(text) = self.about.get("class_names") else { return Ok((classes, None)) };
        let names: Vec<String> = serde_json::from_str(text)
            .map_err(|error| self.unusable(&format!("`class_names` is not a list of texts: {error}")))?;
        if names.len() != classes {
            let message = format!("`class_names` has {} names, the last layer {classes} classes", names.len());
            return Err(self.unusable(&message).into());
        }
        Ok((classes, Some(names)))
    }

    /// The network with these weights.
    pub fn model<T: Scalar>(&self, classes: usize) -> Result<ResNet<T>> {
        let mut model = ResNet::<T>::zeroed(&self.architecture.clone().with_classes(classes))?;
        state_dict::assign(&self.path, &self.tensors, &mut model)?;
        Ok(model)
    }

    /// ` (epoch 10 of 10, recipe quick, seed 1)`, as far as the file says so.
    pub fn training(&self) -> String {
        let get = |key| self.about.get(key).map_or("?", String::as_str);
        match self.about.contains_key("recipe") {
            true => format!(
                " (epoch {} of {}, recipe {}, seed {})",
                get("epoch"),
                get("epochs"),
                get("recipe"),
                get("seed")
            ),
            false => String::new(),
        }
    }

    fn unusable(&self, message: &str) -> Error {
        unusable(&self.path, message)
    }
}

fn unusable(path: &Path, message: &str) -> Error {
    Error::format(path, None, format!("its metadata cannot be used: {message}"))
}
