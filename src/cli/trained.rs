//! Trained weights and the metadata of their file, as `eval` and `predict` use them.

use super::{Failure, Result, args};
use crate::data::Normalization;
use crate::formats::{self, Contents, Format};
use crate::model::{Architecture, ResNet};
use crate::weights::{self, Metadata};
use crate::weights::{pretrained, state_dict};
use crate::{Error, Scalar};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The trained weights.
#[derive(Debug, clap::Args)]
pub struct WeightsArgs {
    /// Weights file: safetensors, PyTorch (.pth, .pt, .th) or .npz [default: pretrained]
    ///
    /// `pretrained` is a ResNet-20 embedded in this program, trained on the ten classes of CIFAR-10.
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    weights: Option<PathBuf>,

    /// The tensors under this key of a PyTorch checkpoint, keys joined by points, such as model_ema.module
    #[arg(long, value_name = "PATH", requires = "weights")]
    key: Option<String>,

    /// The network, see `resnet models` [default: from the weights file]
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Option<Architecture>,
}

/// A weights file that was read.
pub struct Trained {
    /// Path of the file.
    pub path: PathBuf,
    /// The network that the weights are for, with its published number of classes.
    pub architecture: Architecture,
    contents: Contents,
    about: Metadata,
}

/// The tensors of a file under `key`, or those embedded in the program.
pub fn read(path: &Path, key: Option<&str>) -> Result<Contents> {
    Ok(match pretrained::is_meant(path) {
        true => Contents { tensors: pretrained::tensors(), ..Contents::new(Format::Safetensors) },
        false => formats::open_at(path, key)?,
    })
}

impl WeightsArgs {
    /// Reads the file.
    pub fn open(&self) -> Result<Trained> {
        let path = self.weights.as_deref().unwrap_or(Path::new(pretrained::NAME));
        let contents = read(path, self.key.as_deref())?;
        // On stderr: stdout has the results.
        contents.notes("--key").iter().try_for_each(|(key, line)| writeln!(std::io::stderr(), "{key}: {line}"))?;
        Trained::of(path, contents, self.model.as_ref())
    }
}

impl Trained {
    /// Reads a weights file for `model`, or for the network that the file names.
    pub fn read(path: &Path, model: Option<&Architecture>) -> Result<Self> {
        Trained::of(path, read(path, None)?, model)
    }

    fn of(path: &Path, contents: Contents, model: Option<&Architecture>) -> Result<Self> {
        let about = weights::metadata_of(path, &contents.tensors)?;
        let architecture = match (model, about.get("model")) {
            (Some(architecture), _) => architecture.clone(),
            (None, Some(name)) => Architecture::by_name(name).map_err(|error| unusable(path, &error.to_string()))?,
            (None, None) => {
                return Err(Failure::Usage(format!(
                    "{} does not name the network of its weights; give --model NAME",
                    path.display()
                )));
            }
        };
        Ok(Trained { path: path.to_path_buf(), architecture, contents, about })
    }

    /// The metadata of the file under `key`.
    pub fn about(&self, key: &str) -> Option<&str> {
        self.about.get(key).map(String::as_str)
    }

    /// The normalisation and its origin.
    pub fn normalization(&self, args: &args::NormalizationArgs) -> Result<(Normalization, &'static str)> {
        if let Some(given) = args.given()? {
            return Ok((given, "given by --mean and --std"));
        }
        let (Some(mean), Some(std)) = (self.about.get("mean"), self.about.get("std")) else {
            return Err(Failure::Usage(format!(
                "{} does not contain the normalisation of its images; give --mean R,G,B and --std R,G,B as in \
                 training",
                self.path.display()
            )));
        };
        let read = |text: &str| args::three(text).map_err(|error| self.unusable(&format!("`{text}`: {error}")));
        let normalization = Normalization::new(read(mean)?, read(std)?);
        Ok((normalization.map_err(|error| self.unusable(&error.to_string()))?, "from the weights file"))
    }

    /// Height and width of the images in training, if the file contains it.
    pub fn image_size(&self) -> Result<Option<usize>> {
        let read = |text: &String| {
            args::count(1, 2048)(text).map_err(|error| self.unusable(&format!("`image_size` = `{text}`: {error}")))
        };
        Ok(self.about.get("image_size").map(read).transpose()?)
    }

    /// The number of classes, and their names if the file has them.
    pub fn classes(&self) -> Result<(usize, Option<Vec<String>>)> {
        let classes = state_dict::classes(&self.contents.tensors).ok_or_else(|| {
            let message = "expected the weight of the last layer, `fc.weight` (classes, features), found none";
            Error::format(&self.path, None, message)
        })?;
        let Some(text) = self.about.get("class_names") else { return Ok((classes, None)) };
        let names: Vec<String> = serde_json::from_str(text)
            .map_err(|error| self.unusable(&format!("`class_names` is not a list of strings: {error}")))?;
        if names.len() != classes {
            let message = format!("`class_names` has {} names, but the last layer has {classes} classes", names.len());
            return Err(self.unusable(&message).into());
        }
        Ok((classes, Some(names)))
    }

    /// The network with these weights.
    pub fn model<T: Scalar>(&self, classes: usize) -> Result<ResNet<T>> {
        let mut model = ResNet::<T>::zeroed(&self.architecture.clone().with_classes(classes))?;
        state_dict::assign(&self.path, &self.contents.tensors, &mut model)
            .map_err(|error| self.contents.explain(error))?;
        Ok(model)
    }

    /// ` (epoch 10 of 10, recipe quick, seed 1)`, as far as the file contains it.
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
    Error::format(path, None, format!("invalid metadata: {message}"))
}
