//! A picture of any size, as a network takes it: a file to `(S, S, 3)`.
//!
//! What torchvision's `Resize(R)` and `CenterCrop(S)` do to an image of Pillow, in this order; usually R = S
//! ([`Framing`]):
//!
//! ```text
//! decode        red, green, blue from 0 to 255                                     (h, w, 3)
//! turn          by the orientation that a camera noted in EXIF                     (h, w, 3)
//! resize        the shorter side to R, the longer one to ⌊R · longer / shorter⌋    (h', w', 3)
//! centre crop   S x S, its corner at (h' − S)/2, (w' − S)/2, halves to even        (S, S, 3)
//! ```
//!
//! # Colours, as `convert("RGB")` of Pillow has them
//!
//! Grey is repeated three times, a palette is looked up, alpha is dropped (not blended), of 16 bits the upper 8 are
//! taken. One difference: Pillow clips *grey* of 16 bits at 255, which makes nearly every such picture white; here it is
//! treated as colours are. JPEG leaves a decoder some freedom; here its pixels are those of Pillow's libjpeg.
//!
//! # Orientation
//!
//! Pictures are turned upright, in data sets and in prediction, so that a network predicts what it was trained on.
//! torchvision's `ImageFolder` leaves them as they are stored.
//!
//! # Trust
//!
//! A file is at most [`MOST_BYTES`] long, a picture at most [`MOST_SIDE`] pixels wide and high, of at most
//! [`MOST_PIXELS`]; a larger claim is rejected before memory is allocated. A picture that ends early is an error, and so
//! is a file on which a decoder panics.
//!
//! # Decoders
//!
//! A file for each format, `picture/png.rs` and so on, with at most one crate for each. What differs between them ends
//! there; limits, messages and colours are here. Which one it is, `picture/kind.rs` finds in a file's content.

mod bmp;
mod exif;
mod gif;
mod jpeg;
mod kind;
pub(crate) mod png;
mod resize;
mod tiff;
mod webp;

use super::{Dataset, Framing};
use crate::base::input;
use crate::formats::atomic;
use crate::{Error, Result};
pub use exif::{Exif, Orientation};
use ndarray::{Array3, ArrayView3, s};
pub use resize::{resize, resize_and_crop};
use std::any::Any;
use std::panic;
use std::path::Path;

/// The most bytes of a file, and of a decoder's tables and buffers. Fuzzing claims large sizes all the time.
pub const MOST_BYTES: u64 = if cfg!(fuzzing) { 1 << 24 } else { 1 << 30 };
/// The most pixels in a row or a column.
pub const MOST_SIDE: usize = 65_535;
/// The most pixels.
pub const MOST_PIXELS: usize = if cfg!(fuzzing) { 1 << 16 } else { 1 << 28 };
/// The kinds of files that can be read, in words.
pub const KINDS: &str = kind::READ;
/// Extensions of the files that can be read, in lower case.
pub const EXTENSIONS: [&str; 11] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff"];

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Picture {
    /// `(h, w, 3)`, as stored.
    pub pixels: Array3<u8>,
    /// How it becomes upright.
    pub orientation: Orientation,
}

impl Picture {
    /// The pixels, upright or as stored.
    pub fn view(&self, exif: Exif) -> ArrayView3<'_, u8> {
        match exif {
            Exif::Apply => self.orientation.upright(self.pixels.view()),
            Exif::Ignore => self.pixels.view(),
        }
    }
}

/// Reads a file as `(S, S, 3)`, upright; see the [module documentation](self).
///
/// # Errors
/// As [`load`].
pub fn read(path: &Path, framing: impl Into<Framing>) -> Result<Array3<u8>> {
    Ok(resize_and_crop(load(path)?.view(Exif::Apply), framing))
}

/// Reads a file.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is not a whole picture of a known format or too large.
pub fn load(path: &Path) -> Result<Picture> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "read", error))?;
    if metadata.is_dir() {
        return Err(Error::format(path, None, format!("expected a {} image, found a folder", kind::READ)));
    }
    let length = metadata.len();
    if length > MOST_BYTES {
        return Err(Error::format(path, None, format!("expected at most {MOST_BYTES} bytes, found {length}")));
    }
    let bytes = input::read(path).map_err(|error| Error::io(path, "read", error))?;
    // Of a pipe the length was not known.
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::format(path, None, format!("expected at most {MOST_BYTES} bytes, found {}", bytes.len())));
    }
    decode(path, &bytes)
}

/// The picture in a file with these bytes, whose format is recognised by its content; `path` appears in messages.
///
/// # Errors
/// [`Error::Format`] when it is not a whole picture of a known format, or too large.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Picture> {
    let decoder = kind::of(bytes);
    let expected = |found| Error::format(path, None, format!("expected a {} image, found {found}", kind::READ));
    decode_with(decoder.map_err(expected)?, path, bytes)
}

/// What the decoder of a format gives.
struct Decoded {
    /// `(h, w, channels)`, where the channels are grey; grey and alpha; red, green and blue; or these and alpha.
    samples: Array3<u8>,
    orientation: Orientation,
}

type Decoder = fn(&[u8]) -> std::result::Result<Decoded, Fault>;

/// Why a decoder gives nothing.
#[derive(Debug)]
enum Fault {
    /// A side is longer than [`MOST_SIDE`], or there are more than [`MOST_PIXELS`].
    TooLarge,
    /// Anything else, in words.
    Broken(String),
}

fn broken(message: impl Into<String>) -> Fault {
    Fault::Broken(message.into())
}

/// The picture that `decoder` makes of `bytes`; see "Colours" above.
fn decode_with(decoder: Decoder, path: &Path, bytes: &[u8]) -> Result<Picture> {
    // Anybody may have made the file, and a decoder is a large program: where it has a bug, this file is an error like any
    // other, which names it, and the other files are read. No state that the panic interrupted is used afterwards.
    let decoded = panic::catch_unwind(|| decoder(bytes)).unwrap_or_else(|panic| {
        let reason = words(&*panic);
        Err(Fault::Broken(format!("a bug in the decoder ({reason}); convert the image with another program")))
    });
    let Decoded { samples, orientation } = decoded.map_err(|fault| {
        let message = match fault {
            Fault::Broken(message) => message,
            Fault::TooLarge => format!(
                "expected an image of at most {MOST_PIXELS} pixels and {MOST_SIDE} in a row or column, found a larger one"
            ),
        };
        Error::format(path, None, message)
    })?;
    let (h, w, channels) = samples.dim();
    if h == 0 || w == 0 {
        return Err(Error::format(path, None, format!("expected an image with pixels, found one of {h}x{w}")));
    }
    let pixels = match channels {
        3 => samples,
        1 | 2 => samples.slice(s![.., .., ..1]).broadcast((h, w, 3)).expect("one channel").to_owned(),
        _ => samples.slice(s![.., .., ..3]).to_owned(),
    };
    Ok(Picture { pixels, orientation })
}

/// Inks on paper, each 255 where there is none, as Pillow mixes them: the paper that the black ink leaves, less of it what
/// the other ink covers.
fn mix(inks: [u8; 3], black: u8) -> [u8; 3] {
    inks.map(|ink| {
        let product = u32::from(255 - ink) * u32::from(black) + 128;
        black - ((product + (product >> 8)) >> 8) as u8
    })
}

/// The message of a panic.
fn words(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(words), _) => words,
        (_, Some(words)) => words,
        _ => "no message",
    }
}

/// Whether a picture may be so large; asked before there is memory for it.
fn check_size(height: usize, width: usize) -> std::result::Result<(), Fault> {
    let fits = height.max(width) <= MOST_SIDE && height * width <= MOST_PIXELS;
    if fits { Ok(()) } else { Err(Fault::TooLarge) }
}

/// Zeros `(height, width, channels)` for a decoder to write to, if a picture may be so large.
fn room(height: usize, width: usize, channels: usize) -> std::result::Result<Array3<u8>, Fault> {
    check_size(height, width)?;
    Ok(Array3::zeros((height, width, channels)))
}

/// A picture with a row for each class and its first `columns` images in it, white lines between them: `(h, w, 3)`.
///
/// # Errors
/// [`Error::Argument`] when it would be wider or higher than [`MOST_SIDE`] or have more than [`MOST_PIXELS`]; as
/// [`Dataset::images`].
pub fn grid(dataset: &Dataset, columns: usize) -> Result<Array3<u8>> {
    const LINE: usize = 2;
    let (_, h, w, _) = dataset.pixels.dim();
    let (height, width) = (dataset.classes.len() * (h + LINE) + LINE, columns * (w + LINE) + LINE);
    if check_size(height, width).is_err() {
        let message = format!("a picture of {height}x{width} pixels is too large; fewer columns would make it smaller");
        return Err(Error::argument("grid", message));
    }
    let mut picture = Array3::from_elem((height, width, 3), 255);
    let mut shown = vec![0; dataset.classes.len()];
    let (mut indices, mut corners) = (Vec::new(), Vec::new());
    for (i, &label) in dataset.labels.iter().enumerate() {
        let row = usize::from(label);
        let column = shown[row];
        if column < columns {
            shown[row] += 1;
            indices.push(i);
            corners.push((LINE + row * (h + LINE), LINE + column * (w + LINE)));
        }
    }
    for (image, (top, left)) in dataset.images(&indices)?.iter().zip(corners) {
        let image = ArrayView3::from_shape((h, w, 3), image).expect("(H, W, 3)");
        picture.slice_mut(s![top..top + h, left..left + w, ..]).assign(&image);
    }
    Ok(picture)
}

/// Writes `picture (h, w, 3)` to `path` as PNG, whole or not at all.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn write_png(path: &Path, picture: ArrayView3<'_, u8>) -> Result<()> {
    let bytes = png::encode(picture, "resnet-by-hand");
    let bytes = bytes.map_err(|error| Error::format(path, None, format!("cannot be made a PNG image: {error}")))?;
    atomic::write(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pixels of a file, as stored.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Array3<u8>> {
        super::decode(path, bytes).map(|picture| picture.pixels)
    }

    /// Σ (k + 1) y[k], which another program can compute too.
    pub fn sum(y: ArrayView3<'_, u8>) -> u64 {
        (1..).zip(y).map(|(k, &y)| k * u64::from(y)).sum()
    }

    #[test]
    fn a_panic_of_a_decoder_names_the_file() {
        let decoders: [(Decoder, &str); 3] = [
            (|bytes| panic!("byte {} of {}", 7, bytes.len()), "byte 7 of 2"),
            (|_| panic!("no number"), "no number"),
            (|_| panic::panic_any(7), "no message"),
        ];
        for (decoder, reason) in decoders {
            let message = decode_with(decoder, Path::new("photos/odd.png"), &[1, 2]).unwrap_err().to_string();
            let expected =
                format!("photos/odd.png: a bug in the decoder ({reason}); convert the image with another program");
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn channels_become_red_green_and_blue() {
        fn of(rows: usize, channels: usize, sample: fn((usize, usize, usize)) -> usize) -> Decoded {
            let samples = Array3::from_shape_fn((rows, 1, channels), |index| sample(index) as u8);
            Decoded { samples, orientation: Orientation::NORMAL }
        }
        for (decoder, expected) in [
            (|_: &[u8]| Ok(of(2, 1, |(i, ..)| i + 5)), [5, 5, 5, 6, 6, 6]),
            (|_: &[u8]| Ok(of(2, 2, |(i, _, c)| 2 * i + 9 * c)), [0, 0, 0, 2, 2, 2]),
            (|_: &[u8]| Ok(of(2, 3, |(i, _, c)| 3 * i + c)), [0, 1, 2, 3, 4, 5]),
            (|_: &[u8]| Ok(of(2, 4, |(i, _, c)| 4 * i + c)), [0, 1, 2, 4, 5, 6]),
        ] as [(Decoder, [u8; 6]); 4]
        {
            let pixels = decode_with(decoder, Path::new("channels"), &[]).unwrap().pixels;
            assert_eq!((pixels.dim(), pixels.as_slice().unwrap()), ((2, 1, 3), &expected[..]));
        }
        let none: Decoder = |_| Ok(of(0, 7, |_| 0));
        let message = decode_with(none, Path::new("none"), &[]).unwrap_err().to_string();
        assert!(message.contains("expected an image with pixels, found one of 0x1"), "{message}");
    }
}
