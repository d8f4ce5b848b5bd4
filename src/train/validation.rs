//! The images that decide which epoch is the best.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Where the validation images come from.
///
/// ```
/// use resnet_by_hand::train::Validation;
/// assert_eq!("500".parse::<Validation>()?, Validation::HeldOut(500));
/// assert_eq!("folder".parse::<Validation>()?, Validation::Folder);
/// # Ok::<(), resnet_by_hand::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// This many of the training images; 0: no validation.
    HeldOut(usize),
    /// The data set's own validation images, those of its folder `valid` for example.
    Folder,
}

impl Validation {
    /// No validation.
    pub const NONE: Validation = Validation::HeldOut(0);
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Validation::HeldOut(images) => write!(f, "{images}"),
            Validation::Folder => f.write_str("folder"),
        }
    }
}

impl FromStr for Validation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(images) => Ok(Validation::HeldOut(images)),
            Err(_) if text == "folder" => Ok(Validation::Folder),
            Err(_) => {
                Err(Error::argument("validation", format!("expected a number of images or `folder`, got `{text}`")))
            }
        }
    }
}
