//! One error type for the whole library. Every message says what was expected, what was found, where, and, if the user
//! can do something about it, what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// A `Result` whose error is the library's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Every error of the library.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An array whose shape does not fit the operation: `conv2d: x expects C = 16, got 3 (x: [2, 32, 32, 3])`.
    Shape {
        /// The operation, e.g. `conv2d`.
        op: &'static str,
        /// The argument that does not fit, e.g. `x`.
        argument: &'static str,
        /// The expected shape, in words.
        expected: String,
        /// The shape found.
        got: Vec<usize>,
    },
    /// A parameter outside its domain: `conv2d: groups must divide C_in = 6, got 4`.
    Argument {
        /// The operation or type that rejected it.
        op: &'static str,
        /// What was expected and what was found.
        message: String,
    },
    /// A name that is not in a list of known names.
    Unknown {
        /// The kind of name, e.g. `model`.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// Every accepted name.
        known: Vec<String>,
    },
    /// Reading or writing a file failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, e.g. `read`.
        action: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file was read but its content does not follow its format.
    Format {
        /// The file (for a member of an archive: `archive.tar.gz: member`).
        path: PathBuf,
        /// Offset in bytes at which the content becomes invalid, if known.
        offset: Option<u64>,
        /// What was expected and what was found.
        message: String,
    },
    /// A value that must be finite is not, e.g. the loss during training.
    NotFinite {
        /// What it is and where it happened.
        message: String,
    },
}

impl Error {
    pub(crate) fn shape(op: &'static str, argument: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Error::Shape { op, argument, expected: expected.into(), got: got.to_vec() }
    }

    pub(crate) fn argument(op: &'static str, message: impl Into<String>) -> Self {
        Error::Argument { op, message: message.into() }
    }

    /// An [`Error::Io`] on `path` while doing `action` (`"read"`, `"create"`, ...).
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), action, source }
    }

    /// An [`Error::Format`] in `path`, at `offset` bytes if that is known.
    pub fn format(path: impl AsRef<Path>, offset: Option<u64>, message: impl Into<String>) -> Self {
        Error::Format { path: path.as_ref().to_path_buf(), offset, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Shape { op, argument, expected, got } => {
                write!(f, "{op}: {argument} expects {expected}, got shape {got:?}")
            }
            Error::Argument { op, message } => write!(f, "{op}: {message}"),
            Error::Unknown { kind, name, known } => {
                write!(f, "unknown {kind} `{name}`")?;
                if let Some(near) = nearest(name, known) {
                    write!(f, "; did you mean `{near}`?")?;
                }
                write!(f, "\nknown {kind}s: {}", known.join(", "))
            }
            Error::Io { path, action, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            Error::Format { path, offset: Some(offset), message } => {
                write!(f, "{}, at byte {offset}: {message}", path.display())
            }
            Error::Format { path, offset: None, message } => write!(f, "{}: {message}", path.display()),
            Error::NotFinite { message } => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The longest name for which [`nearest`] looks for others, in bytes, and the most names that it compares: names can come
/// from a file, as many and as long as it likes.
const LONGEST: usize = 100;
const MOST_COMPARED: usize = 5000;

/// The known name at the smallest edit distance from `name`, if it is close enough for `name` to be a likely typo.
pub fn nearest<'a, S: AsRef<str> + ?Sized + 'a>(name: &str, known: impl IntoIterator<Item = &'a S>) -> Option<&'a str> {
    let most = 1 + name.len() / 4;
    let is_similar = |other: &&str| name.len() <= LONGEST && name.len().abs_diff(other.len()) <= most;
    let similar = known.into_iter().map(AsRef::as_ref).filter(is_similar).take(MOST_COMPARED);
    let closest = similar.map(|candidate| (edit_distance(name, candidate), candidate)).min()?;
    (closest.0 <= most).then_some(closest.1)
}

/// Levenshtein distance: the least number of insertions, deletions and substitutions that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // previous[j] is the distance between the part of `a` read so far and b[..j].
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    let mut current = previous.clone();
    for (i, ca) in a.chars().enumerate() {
        current[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substitute = previous[j] + usize::from(ca != cb);
            current[j + 1] = substitute.min(previous[j + 1] + 1).min(current[j] + 1);
        }
        std::mem::swap(&mut previous, &mut current);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_by_hand() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("resnet20", "resnet20"), 0);
    }

    #[test]
    fn unknown_names_suggest_only_near_ones() {
        let known = vec!["resnet18".to_string(), "resnet50".to_string()];
        assert_eq!(nearest("resent50", &known), Some("resnet50"));
        assert_eq!(nearest("vgg", &known), None);
        // A long name, and a name of another length, are not compared.
        assert_eq!(nearest(&"a".repeat(LONGEST + 1), &["a".repeat(LONGEST + 1)]), None);
        let mut many = vec!["resnet5x".to_string(); MOST_COMPARED];
        many.push("resnet50".to_string());
        assert_eq!(nearest("resnet50", &many), Some("resnet5x"));
    }
}
