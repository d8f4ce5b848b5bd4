//! The location of the images, `--data` and `--image-size`, and the description of what was found.

use super::data::fetch::PAGE;
use super::{Failure, Result, args, memory};
use crate::Error;
use crate::data::{self, Dataset, Framing, Kind, Normalization, Opened, Splits, cifar10, embedded};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Default height and width of the images.
pub const DEFAULT_SIZE: usize = cifar10::SIZE;

/// The location of the images.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// CIFAR-10, CIFAR-100, a folder of pictures, or `embedded` [default: embedded]
    ///
    /// CIFAR as published: a folder cifar-10-batches-bin, cifar-10-batches-py, cifar-100-binary or
    /// cifar-100-python, one of the .tar.gz archives of these, or a folder that contains one of them.
    /// Pictures of any size: DIR/train/CLASS/ with DIR/test/CLASS/ or DIR/val/CLASS/ (or
    /// Training, test_set, valid, ...), or only DIR/CLASS/, where every fifth picture of a class
    /// becomes a test image.
    /// `embedded` is a part of CIFAR-10 embedded in this program: 1,400 training and 500 test images.
    #[arg(long, value_name = "PATH", verbatim_doc_comment)]
    pub data: Option<PathBuf>,

    /// Resize pictures in folders to N x N pixels [default: 32]
    ///
    /// The shorter side is resized to N, then the centre is cropped, like torchvision's Resize(N) and
    /// CenterCrop(N).
    #[arg(long, value_name = "N", value_parser = args::count(1, 2048), allow_negative_numbers = true, verbatim_doc_comment)]
    pub image_size: Option<usize>,
}

/// The description of images that were read.
#[derive(Debug)]
pub struct About {
    /// Which kind of data set.
    pub kind: Kind,
    /// What they are and where they are, for people.
    pub description: String,
    /// Notes on how they were read, for people.
    pub notes: Vec<String>,
}

impl About {
    /// The default normalisation: for CIFAR-10 that of the recipe (`None`), for other images their own mean and standard
    /// deviation.
    pub fn normalization(&self, train: &Dataset) -> Result<Option<Normalization>> {
        if self.kind == Kind::Cifar10 {
            return Ok(None);
        }
        let (mean, std) = train.mean_and_std()?;
        let derived = Normalization::new(mean, std).map_err(|_| {
            Failure::Failed(format!(
                "{}: the images cannot be normalised by their own statistics, because a channel is constant (standard \
                 deviation {}); give --mean and --std",
                train.source,
                args::write_three(std)
            ))
        })?;
        Ok(Some(derived))
    }
}

impl DataArgs {
    /// Whether it means the embedded images.
    pub fn is_embedded(&self) -> bool {
        self.data.as_ref().is_none_or(|path| path.as_os_str() == "embedded")
    }

    /// Loads the images. Pictures in folders become squares by `framing` unless the flag gives another size.
    pub fn load(&self, framing: impl Into<Framing>) -> Result<(Splits, About)> {
        let framing = framing.into();
        let framing = self.image_size.filter(|&size| size != framing.crop).map_or(framing, Framing::from);
        let Opened { splits, kind, description, notes } = match &self.data {
            Some(path) if !self.is_embedded() => {
                data::open(path, framing, memory::available()).map_err(|error| explain(path, error))?
            }
            _ => Opened {
                splits: embedded::load(),
                kind: Kind::Cifar10,
                description: "embedded part of CIFAR-10".to_string(),
                notes: Vec::new(),
            },
        };
        match self.image_size {
            Some(size) if kind != Kind::Folder && size != cifar10::SIZE => Err(Failure::Usage(format!(
                "--image-size is for pictures in folders; the images of the {description} are 32x32, got {size}"
            ))),
            _ => Ok((splits, About { kind, description, notes })),
        }
    }
}

fn explain(path: &Path, error: Error) -> Failure {
    match error {
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound && !path.exists() => Failure::Failed(format!(
            "{} does not exist; expected the images there. If they were moved, give their location with --data\n\n\
             `resnet data fetch` downloads CIFAR-10 from {PAGE}; `--data embedded` needs no download",
            path.display()
        )),
        error => error.into(),
    }
}
