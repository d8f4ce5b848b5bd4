//! Trained weights and the metadata of their file, as `eval` and `predict` use them.

use super::config::Config;
use super::imagenet::{self, Preset};
use super::{Failure, Result, args, text};
use crate::data::{Framing, Normalization};
use crate::formats::{self, Contents, Format};
use crate::model::{Architecture, ResNet};
use crate::tensors::Tensors;
use crate::train::checkpoint::Checkpoint;
use crate::weights::{self, Metadata};
use crate::weights::{names, pretrained, recognise, state_dict};
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
    ///
    /// If the file does not name its network, the network is recognised by its tensors.
    #[arg(long, value_name = "NAME", value_parser = args::model, verbatim_doc_comment)]
    model: Option<Architecture>,

    /// If the weights do not fit the network, list every problem, not only the first ten
    #[arg(long)]
    all: bool,
}

/// A weights file that was read.
pub struct Trained {
    /// Path of the file.
    pub path: PathBuf,
    /// The network that the weights are for, with its published number of classes.
    pub architecture: Architecture,
    /// What was recognised in the file, for people.
    pub notes: Vec<String>,
    contents: Contents,
    about: Metadata,
    all: bool,
    /// If the weights are of ImageNet, and the file does not say how they are used.
    pub preset: Option<Preset>,
}

/// The tensors of a file under `key`, or those embedded in the program.
pub fn read(path: &Path, key: Option<&str>) -> Result<Contents> {
    match (pretrained::is_meant(path), key) {
        (false, key) => Ok(formats::open_at(path, key)?),
        (true, None) => Ok(Contents { tensors: pretrained::tensors(), ..Contents::new(Format::Safetensors) }),
        (true, Some(key)) => Err(Error::format(path, None, formats::no_keys(key)).into()),
    }
}

impl WeightsArgs {
    /// Reads the file.
    pub fn open(&self) -> Result<Trained> {
        let path = self.weights.as_deref().unwrap_or(Path::new(pretrained::NAME));
        let contents = read(path, self.key.as_deref())?;
        Ok(Trained { all: self.all, ..Trained::of(path, contents, self.model.as_ref())? })
    }
}

impl Trained {
    /// Reads a weights file for `model`, or for the network that the file names.
    pub fn read(path: &Path, model: Option<&Architecture>) -> Result<Self> {
        Trained::of(path, read(path, None)?, model)
    }

    /// [`read`](Self::read) for what the file contains.
    pub fn of(path: &Path, contents: Contents, model: Option<&Architecture>) -> Result<Self> {
        let tensors = &contents.tensors;
        check_no_checkpoint(path, tensors)?;
        let about = weights::metadata_of(path, tensors)?;
        let reading = names::read(path, tensors)?;
        let mut notes: Vec<String> =
            contents.notes("--key").into_iter().map(|(key, line)| format!("{key}: {line}")).collect();
        notes.extend(reading.line().map(|line| format!("names: {line}")));
        let architecture = match (model, about.get("model")) {
            (Some(architecture), _) => architecture.clone(),
            (None, Some(name)) => Architecture::by_name(name).map_err(|error| unusable(path, &error.to_string()))?,
            (None, None) => {
                let candidates = recognise::candidates(&reading);
                notes.extend(recognised(&candidates));
                // With --model it would fail as well: the tensors are those of none of the networks.
                let error = || Error::format(path, None, recognise::describe(&reading));
                candidates.into_iter().next().ok_or_else(|| explain(&contents, "--key", error()))?
            }
        };
        // Our own weights contain the names of their classes.
        let preset = match about.contains_key("class_names") {
            true => None,
            false => imagenet::preset(path, &architecture, reading.classes().unwrap_or(0)),
        };
        Ok(Trained { path: path.to_path_buf(), architecture, notes, contents, about, all: false, preset })
    }

    /// Prints the notes on stderr: stdout has the results.
    pub fn print_notes(&self) {
        self.notes.iter().for_each(|note| drop(writeln!(std::io::stderr(), "note: {note}")));
    }

    /// The metadata of the file under `key`.
    pub fn about(&self, key: &str) -> Option<&str> {
        self.about.get(key).map(String::as_str)
    }

    /// The metadata of the file.
    pub fn metadata(&self) -> &Metadata {
        &self.about
    }

    /// The normalisation and its origin.
    pub fn normalization(&self, args: &args::NormalizationArgs) -> Result<(Normalization, &'static str)> {
        if let Some(given) = args.given()? {
            return Ok((given, "given by --mean and --std"));
        }
        let (Some(mean), Some(std)) = (self.about.get("mean"), self.about.get("std")) else {
            if self.preset.is_some() {
                return Ok((Normalization::IMAGENET, "of ImageNet"));
            }
            let usual = match imagenet::is_meant(&self.architecture) {
                true => {
                    "; usual for networks that began with ImageNet's weights: --mean 0.485,0.456,0.406 --std \
                         0.229,0.224,0.225"
                }
                false => "",
            };
            return Err(Failure::Usage(format!(
                "{} does not contain the normalisation of its images; give --mean R,G,B and --std R,G,B as in \
                 training{usual}",
                self.path.display()
            )));
        };
        let read = |text: &str| args::three(text).map_err(|error| self.unusable(&format!("`{text}`: {error}")));
        let normalization = Normalization::new(read(mean)?, read(std)?);
        Ok((normalization.map_err(|error| self.unusable(&error.to_string()))?, "from the weights file"))
    }

    /// How pictures are cut for the network: as in training, if the file contains it, otherwise to the size for which the
    /// network was designed. `size` and `resize` are what flags give for the square and for the shorter side before it.
    pub fn framing(&self, size: Option<usize>, resize: Option<usize>) -> Result<Framing> {
        let read = |key: &str| {
            let wrong = |text: &str, error| self.unusable(&format!("`{key}` = `{text}`: {error}"));
            let read = |text: &String| args::count(1, 2048)(text).map_err(|error| wrong(text, error));
            self.about.get(key).map(read).transpose()
        };
        let (crop, from) = (read("image_size")?, read("resize_size")?);
        let mut framing = match (crop, &self.preset) {
            (Some(crop), _) => Framing { resize: from.unwrap_or(crop), crop },
            (None, Some(preset)) => preset.framing,
            (None, None) => self.architecture.image[0].into(),
        };
        // Another square is not cut out of a larger picture, unless that is given too.
        if let Some(size) = size.filter(|&size| size != framing.crop) {
            framing = size.into();
        }
        framing.resize = resize.unwrap_or(framing.resize);
        if framing.resize < framing.crop {
            let Framing { resize, crop } = framing;
            return Err(Failure::Usage(format!(
                "a square of {crop}x{crop} pixels cannot be cut from a picture whose shorter side is {resize}; give a larger \
                 --resize-size, or a smaller --image-size"
            )));
        }
        Ok(framing)
    }

    /// The number of classes, and their names if the file has them.
    pub fn classes(&self) -> Result<(usize, Option<Vec<String>>)> {
        let reading = names::read(&self.path, &self.contents.tensors)?;
        let classes = reading.classes().ok_or_else(|| {
            let why = reading.no_last_layer().unwrap_or("expected a last layer with features, found none".to_string());
            Error::format(&self.path, None, why)
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
        let assigned = state_dict::assign(&self.path, &self.contents.tensors, &mut model);
        if self.all && assigned.is_err() {
            return Err(every_problem(&self.path, &self.contents.tensors, &model)?);
        }
        assigned.map_err(|error| explain(&self.contents, "--key", error))?;
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

/// Rejects a checkpoint of a run, which contains more than weights, with the command that writes its weights.
pub fn check_no_checkpoint(path: &Path, tensors: &Tensors) -> Result<()> {
    let Some(config) = Checkpoint::config_in(tensors) else { return Ok(()) };
    let config = Config::parse(&config).unwrap_or_default();
    let model = config.model.map(|model| format!(" --model {model}")).unwrap_or_default();
    let normalization = match (config.mean, config.std) {
        (Some(mean), Some(std)) => format!(" --mean {} --std {}", args::write_three(mean), args::write_three(std)),
        _ => String::new(),
    };
    let message = format!(
        "this is a checkpoint of `resnet train`, for --resume; the weights after the last epoch are in weights.safetensors in the \
         folder of the run. Those of this checkpoint become a file by\n  resnet convert {} weights.safetensors --prefix \
         model{model}{normalization}",
        text::shell(path)
    );
    Err(Error::format(path, None, message).into())
}

/// What `--all` prints in place of the first problems.
pub fn every_problem<T: Scalar>(path: &Path, tensors: &Tensors, model: &ResNet<T>) -> Result<Failure> {
    let reading = names::read(path, tensors)?;
    let problems = state_dict::compare(&reading, model).problems;
    Ok(Failure::Failed(format!(
        "{}: these are not the weights of {}:\n  {}",
        path.display(),
        state_dict::expected(&reading, model.architecture()),
        problems.join("\n  ")
    )))
}

/// `error`, that these are not the tensors of a network, with what was recognised in the file: where other tensors could have
/// been meant, with the `flag` that takes them.
pub fn explain(contents: &Contents, flag: &str, error: Error) -> Error {
    match contents.explain(error) {
        Error::Format { path, offset, mut message } if !contents.others.is_empty() => {
            contents.notes(flag).into_iter().for_each(|(key, line)| message += &format!("\n  {key}: {line}"));
            Error::Format { path, offset, message }
        }
        error => error,
    }
}

/// A line that reports which of the networks that fit is used.
pub fn recognised(candidates: &[Architecture]) -> Option<String> {
    let (first, others) = candidates.split_first()?;
    let others: Vec<&str> = others.iter().map(|other| other.name.as_str()).collect();
    let twins = match others.first() {
        Some(other) => format!("; {} has the same tensors (--model {other})", others.join(", ")),
        None => String::new(),
    };
    Some(format!("network: {}, recognised by its tensors{twins}", first.name))
}

fn unusable(path: &Path, message: &str) -> Error {
    Error::format(path, None, format!("invalid metadata: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another entry of the checkpoint could be the network: its key is named, and no --model is asked for, because none fits.
    #[test]
    fn tensors_that_could_have_been_meant_are_named() {
        let mut contents = Contents::new(Format::Torch);
        contents.tensors.insert("w", ndarray::array![[1.0f32]]);
        contents.unwrapped.push("model".into());
        contents.others.push(("net".into(), 116));
        let Err(Failure::Failed(error)) = Trained::of(Path::new("f"), contents, None) else {
            panic!("expected an error that is none of usage");
        };
        let expected = "f: this file does not have the tensors of a residual network (conv1, layer1.0.conv1, …)\n  unwrapped: model\n  \
                        not taken: net (116 tensors); --key net takes it instead";
        assert_eq!(error, expected);
    }
}
