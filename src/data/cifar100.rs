//! CIFAR-100, in each of its published forms.
//!
//! 60,000 colour photographs of 32x32 pixels in a hundred classes (the fine labels; the twenty coarse ones are
//! ignored), 50,000 for training and 10,000 for testing, from the same page as [CIFAR-10](super::cifar10). [`load`] reads
//!
//! | form | what it is |
//! |---|---|
//! | `cifar-100-binary/` | `train.bin`, `test.bin`: the records below; `fine_label_names.txt` |
//! | `cifar-100-python/` | `train`, `test`, `meta`: pickled dicts (feature `formats`) |
//! | `cifar-100-binary.tar.gz` | the first folder (feature `formats`) |
//! | `cifar-100-python.tar.gz` | the second folder (feature `formats`) |
//!
//! A binary record is that of CIFAR-10 with one more label before it:
//!
//! ```text
//! byte            0         1        2 ..= 1025    1026 ..= 2049    2050 ..= 3073
//!                 coarse    fine     red           green            blue
//! ```

use super::cifar::{self, ClassNames, Published};
use super::{Splits, cifar10};
use crate::Result;
use std::path::Path;

/// Number of classes, by the fine labels.
pub const CLASSES: usize = 100;

/// Its published forms.
pub(super) const PUBLISHED: Published = Published {
    name: "CIFAR-100",
    folders: ["cifar-100-binary", "cifar-100-python"],
    archives: ["cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"],
    files: &[("train", 5), ("test", 1)],
    all_files: "images for training and testing, and the names of the classes",
    label_bytes: 2,
    labels: "fine_labels",
    class_names: ClassNames::File { files: ["fine_label_names.txt", "meta"], key: "fine_label_names" },
    classes: CLASSES,
};

/// Loads CIFAR-100 from `path`: one of the two folders, one of the two archives, or a folder that contains one of them
/// (of several, the first in the order of the table above).
///
/// # Errors
/// As [`cifar10::load`].
pub fn load(path: impl AsRef<Path>) -> Result<Splits> {
    cifar::load_only(path.as_ref(), &PUBLISHED, cifar10::BATCH_IMAGES)
}
