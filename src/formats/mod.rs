//! File formats: containers of named tensors. What the tensors mean to a network is [`crate::weights`]'.
//!
//! - [`safetensors`], [`torch`], [`npy`]: named tensors in the formats of other programs;
//! - [`pickle`]: Python's pickles as plain values, without running them;
//! - [`tensorboard`], [`onnx`]: event files and models, which are only written;
//! - [`atomic`]: writing a file whole or not at all.
//!
//! [`read`] recognises each by its content; [`write()`] chooses by extension:
//!
//! | extension | what | read | written |
//! |---|---|---|---|
//! | `.safetensors` | safetensors | yes | yes |
//! | `.pth`, `.pt`, `.th` | PyTorch, as a zip archive (since 1.6) | yes | yes |
//! | | PyTorch, before that | yes | no |
//! | `.npz` | NumPy, several arrays | yes | yes |
//! | `.npy` | NumPy, one array | yes | yes |
//!
//! ```
//! use ndarray::array;
//! use resnet_by_hand::{formats, tensors::Tensors};
//! let mut tensors = Tensors::new();
//! tensors.insert("weight", array![[1.0f32, 2.0], [3.0, 4.0]]);
//! tensors.insert("bias", array![0.5f64]);
//!
//! let folder = std::env::temp_dir().join(format!("resnet-by-hand-doc-{}", std::process::id()));
//! std::fs::create_dir_all(&folder).unwrap();
//! for name in ["a.safetensors", "a.pth", "a.npz"] {
//!     formats::write(&folder.join(name), &tensors)?;
//!     assert_eq!(formats::read(&folder.join(name))?, tensors);
//! }
//! # std::fs::remove_dir_all(&folder).unwrap();
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```
//!
//! # Untrusted files
//!
//! Nothing in a file is ever executed. Every reader allocates memory in proportion to what the file really contains, not to
//! what it claims: to the bytes of the tensors in the file, to 32 times the file plus 128 MiB where they are deflated, and in
//! PyTorch's formats, whose tensors may share bytes, to 16 times those plus a megabyte; for their description at most 512 bytes for
//! each byte of a pickle or a directory. `tests/fuzz` measures it.

pub mod atomic;
pub mod npy;
pub mod onnx;
pub mod pickle;
pub mod safetensors;
pub mod tensorboard;
pub mod torch;

mod archive;
mod contents;
mod foreign;
mod numbers;
mod protobuf;

pub use contents::Contents;

use crate::tensors::Tensors;
use crate::{Error, Result};
use archive::Archive;
use std::fmt;
use std::path::Path;

/// A file format for tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// PyTorch's zip archive.
    Torch,
    /// PyTorch's format before 1.6, which is only read.
    OldTorch,
    /// Several arrays of NumPy.
    Npz,
    /// One array of NumPy.
    Npy,
}

/// The extensions that [`write()`] knows.
pub const EXTENSIONS: [&str; 6] = ["safetensors", "pth", "pt", "th", "npz", "npy"];

impl Format {
    /// The format in which [`write()`] writes to `path`.
    ///
    /// # Errors
    /// If its extension is not one of [`EXTENSIONS`].
    pub fn of_extension(path: &Path) -> Result<Self> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("safetensors") => Ok(Format::Safetensors),
            Some("pth" | "pt" | "th") => Ok(Format::Torch),
            Some("npz") => Ok(Format::Npz),
            Some("npy") => Ok(Format::Npy),
            found => {
                let found = found.map_or("none".to_string(), |extension| format!(".{extension}"));
                let message = format!("expected one of the extensions .{}, found {found}", EXTENSIONS.join(", ."));
                Err(Error::format(path, None, message))
            }
        }
    }

    /// Whether the format has room for metadata.
    pub fn has_metadata(self) -> bool {
        self == Format::Safetensors
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Safetensors => "safetensors",
            Format::Torch => "PyTorch",
            Format::OldTorch => "PyTorch before 1.6",
            Format::Npz => "npz",
            Format::Npy => "npy",
        })
    }
}

/// The tensors of a file of any format, recognised by its content.
///
/// # Errors
/// If the file cannot be read, has no known format, is not complete, or has a tensor that cannot be read.
pub fn read(path: &Path) -> Result<Tensors> {
    open(path)?.complete(path)
}

/// Bytes as hexadecimal digits, as hashes are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The tensors of a file of any format, and what else the file contains.
///
/// # Errors
/// If the file cannot be read, has no known format, or is not complete.
pub fn open(path: &Path) -> Result<Contents> {
    open_at(path, None)
}

/// [`open`] for the tensors under `key` of a checkpoint of PyTorch, keys joined by points: `model_ema.module`.
///
/// # Errors
/// As [`open`], and if there is no such key.
pub fn open_at(path: &Path, key: Option<&str>) -> Result<Contents> {
    let bytes = crate::base::input::read(path).map_err(|error| Error::io(path, "read", error))?;
    read_bytes(path, &bytes, key)
}

/// [`open_at`] for the bytes of a file; `path` appears in messages.
///
/// # Errors
/// If the bytes have no known format or are not a complete file.
pub fn read_bytes(path: &Path, bytes: &[u8], key: Option<&str>) -> Result<Contents> {
    let flat = |contents: Result<Contents>| match key {
        None => contents,
        Some(key) => Err(Error::format(path, None, no_keys(key))),
    };
    match bytes {
        _ if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") => {
            let mut archive = Archive::open(path, bytes)?;
            if torch::is_checkpoint(&archive) {
                torch::read_archive(path, &mut archive, key)
            } else {
                torch::program(path, &archive).map_or(Ok(()), Err)?;
                flat(npy::arrays(path, &mut archive))
            }
        }
        _ if bytes.starts_with(npy::MAGIC) => flat(npy::read_bytes(path, bytes)),
        _ if torch::is_stream(bytes) => torch::read_stream(path, bytes, key),
        _ if safetensors::is_safetensors(bytes) => flat(safetensors::open_bytes(path, bytes)),
        _ => {
            let found = foreign::describe(bytes);
            let message = format!("expected safetensors, a checkpoint of PyTorch, npz or npy, found {found}");
            Err(Error::format(path, Some(0), message))
        }
    }
}

/// Why a file of another format has no tensors under `key`.
pub(crate) fn no_keys(key: &str) -> String {
    format!("expected a checkpoint of PyTorch with the key `{key}`, found a file without keys")
}

/// Writes `tensors` to `path`, whole or not at all, in the format of its extension and in the types they have in
/// memory. Only safetensors has room for their metadata.
///
/// # Errors
/// If the extension is not one of [`EXTENSIONS`], an npy file would contain a number of tensors other than one, or the
/// file cannot be written.
pub fn write(path: &Path, tensors: &Tensors) -> Result<()> {
    atomic::write(path, &to_bytes(path, tensors)?)
}

/// The bytes that [`write()`] writes to a file of this name.
///
/// # Errors
/// As [`write()`], without those of the file.
pub fn to_bytes(path: &Path, tensors: &Tensors) -> Result<Vec<u8>> {
    match Format::of_extension(path)? {
        Format::Safetensors => safetensors::to_bytes(path, tensors),
        Format::Torch | Format::OldTorch => torch::to_bytes(path, tensors),
        Format::Npz => npy::to_npz_bytes(path, tensors),
        Format::Npy => {
            let mut all = tensors.iter();
            match (all.next(), all.next()) {
                (Some((_, tensor)), None) => Ok(npy::to_bytes(tensor)),
                _ => {
                    let message = format!("an npy file holds one array, not {}; npz holds several", tensors.len());
                    Err(Error::format(path, None, message))
                }
            }
        }
    }
}
