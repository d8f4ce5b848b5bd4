//! A picture of any size, as a network takes it: a PNG or JPEG file to `(S, S, 3)`.
//!
//! What torchvision's `Resize(R)` and `CenterCrop(S)` do to an image of Pillow, in this order; usually R = S
//! ([`Framing`]):
//!
//! ```text
//! decode        red, green, blue from 0 to 255                                     (h, w, 3)
//! resize        the shorter side to R, the longer one to ⌊R · longer / shorter⌋    (h', w', 3)
//! centre crop   S x S, its corner at (h' − S)/2, (w' − S)/2, halves to even        (S, S, 3)
//! ```
//!
//! # Resizing
//!
//! Bilinear with antialias: a triangle filter that is as wide as what an output pixel covers. With s = inputs / outputs
//! along one axis and f = max(s, 1),
//!
//! ```text
//! y[j] = Σᵢ k[j, i] x[i] / Σᵢ k[j, i]        k[j, i] = max(0, 1 − |i + ½ − (j + ½) s| / f)
//! ```
//!
//! first along the rows, then along the columns, each result rounded to a byte. Pillow computes the sum in whole
//! numbers, with the weights rounded to 22 bits, and so does this: the bytes are Pillow's (`docs/data.md` says on what
//! that was seen, and the one case in which Pillow 13 takes the columns first). An axis whose size does not change is
//! left as it is. Only what the crop keeps is computed, so memory does not grow with the picture's proportions.
//!
//! # Colours, as `convert("RGB")` of Pillow has them
//!
//! Grey is repeated three times, a palette is looked up, alpha is dropped (not blended), of 16 bits the upper 8 are
//! taken. One difference: Pillow clips *grey* of 16 bits at 255, which makes nearly every such picture white; here it is
//! treated as colours are. JPEG leaves a decoder some freedom; here its pixels are those of Pillow's libjpeg. The orientation that a camera writes into EXIF is not applied; torchvision's
//! `ImageFolder` does not either.
//!
//! # Trust
//!
//! A file is at most [`MOST_BYTES`] long, a picture at most [`MOST_SIDE`] pixels wide and high, of at most
//! [`MOST_PIXELS`]; a larger claim is rejected before memory is allocated. A picture that ends early is an error, and so
//! is a file on which a decoder panics.
//!
//! # Decoders
//!
//! One crate for each format, and a file for each crate: `picture/png.rs`, `picture/jpeg.rs`. What differs between them
//! ends there; limits, messages and colours are here.

mod jpeg;
pub(crate) mod png;

use super::Dataset;
use crate::formats::atomic;
use crate::{Error, Result};
use ndarray::{Array3, ArrayView3, s};
use std::any::Any;
use std::ops::Range;
use std::panic;
use std::path::Path;

/// The most bytes of a file.
pub const MOST_BYTES: u64 = 1 << 30;
/// The most pixels in a row or a column.
pub const MOST_SIDE: usize = 65_535;
/// The most pixels.
pub const MOST_PIXELS: usize = 1 << 28;
/// The kinds of files that can be read, in words.
pub const KINDS: &str = "PNG or JPEG";
/// Their extensions, in lower case.
pub const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "jpe", "jfif"];

/// How a picture becomes a square; a `usize` is both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Length of the shorter side after resizing, R.
    pub resize: usize,
    /// Side of the square that is cut from the centre, S; at most R.
    pub crop: usize,
}

impl From<usize> for Framing {
    fn from(size: usize) -> Self {
        Framing { resize: size, crop: size }
    }
}

/// Reads a file as `(S, S, 3)`; see the [module documentation](self).
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is not a whole PNG or JPEG file or too large.
pub fn read(path: &Path, framing: impl Into<Framing>) -> Result<Array3<u8>> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "read", error))?;
    if metadata.is_dir() {
        return Err(Error::format(path, None, "expected a PNG or JPEG image, found a folder"));
    }
    let length = metadata.len();
    if length > MOST_BYTES {
        return Err(Error::format(path, None, format!("expected at most {MOST_BYTES} bytes, found {length}")));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
    Ok(resize_and_crop(decode(path, &bytes)?.view(), framing))
}

/// The pixels `(h, w, 3)` of a PNG or JPEG file, which is recognised by its content; `path` stands in messages.
///
/// # Errors
/// [`Error::Format`] when it is not one, not whole, or too large.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Array3<u8>> {
    let decoder = if bytes.starts_with(png::START) {
        png::decode
    } else if bytes.starts_with(jpeg::START) {
        jpeg::decode
    } else {
        let found = match &bytes[..bytes.len().min(8)] {
            [] => "an empty file".to_string(),
            start => format!("a file that starts {start:02x?}"),
        };
        return Err(Error::format(path, None, format!("expected a PNG or JPEG image, found {found}")));
    };
    decode_with(decoder, path, bytes)
}

/// What the decoder of a format gives: `(h, w, channels)` where the channels are grey; grey and alpha; red, green and
/// blue; or these and alpha.
type Decoder = fn(&[u8]) -> std::result::Result<Array3<u8>, Fault>;

/// Why a decoder gives nothing.
#[derive(Debug)]
enum Fault {
    /// A side is longer than [`MOST_SIDE`], or there are more than [`MOST_PIXELS`].
    TooLarge,
    /// Anything else, in words.
    Broken(String),
}

/// The pixels `(h, w, 3)` that `decoder` makes of `bytes`; see "Colours" above.
fn decode_with(decoder: Decoder, path: &Path, bytes: &[u8]) -> Result<Array3<u8>> {
    // Anybody may have made the file, and a decoder is a large program: where it has a bug, this file is an error like any
    // other, which names it, and the other files are read. No state that the panic interrupted is used afterwards.
    let samples = panic::catch_unwind(|| decoder(bytes)).unwrap_or_else(|panic| {
        let reason = words(&*panic);
        Err(Fault::Broken(format!("a bug in the decoder ({reason}); convert the image with another program")))
    });
    let samples = samples.map_err(|fault| {
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
    Ok(match channels {
        3 => samples,
        1 | 2 => samples.slice(s![.., .., ..1]).broadcast((h, w, 3)).expect("one channel").to_owned(),
        _ => samples.slice(s![.., .., ..3]).to_owned(),
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

/// The middle `(S, S, 3)` of `picture (h, w, 3)` after its shorter side was made R.
///
/// # Panics
/// If the picture or the square is empty, or the square larger than the resized picture.
pub fn resize_and_crop(picture: ArrayView3<'_, u8>, framing: impl Into<Framing>) -> Array3<u8> {
    let Framing { resize, crop } = framing.into();
    let (h, w, _) = picture.dim();
    let shorter = h.min(w);
    let window = |side: usize| {
        let resized = resize * side / shorter;
        let first = centre(resized, crop);
        Axis::new(side, resized, first..first + crop)
    };
    resample(picture, &window(h), &window(w))
}

/// `picture (h, w, 3)` as `(height, width, 3)`, its proportions changed where these are others.
///
/// # Panics
/// If the picture or what it becomes is empty.
pub fn resize(picture: ArrayView3<'_, u8>, height: usize, width: usize) -> Array3<u8> {
    let (h, w, _) = picture.dim();
    resample(picture, &Axis::new(h, height, 0..height), &Axis::new(w, width, 0..width))
}

/// Along the rows, then along the columns.
fn resample(picture: ArrayView3<'_, u8>, rows: &Axis, columns: &Axis) -> Array3<u8> {
    let (height, width) = (rows.taps.len(), columns.taps.len());
    // Only the rows of the picture that the window sees.
    let seen = rows.inputs();
    let mut narrow = Array3::zeros((seen.len(), width, 3));
    for (i, mut row) in narrow.outer_iter_mut().enumerate() {
        let from = picture.slice(s![seen.start + i, .., ..]);
        for c in 0..3 {
            columns.apply(|x| from[[x, c]], |j, value| row[[j, c]] = value);
        }
    }
    let mut y = Array3::zeros((height, width, 3));
    for j in 0..width {
        for c in 0..3 {
            rows.apply(|i| narrow[[i - seen.start, j, c]], |i, value| y[[i, j, c]] = value);
        }
    }
    y
}

/// Where a window of `size` begins in `side` pixels: Python's `round((side − size) / 2)`, halves to even.
fn centre(side: usize, size: usize) -> usize {
    let (half, odd) = ((side - size) / 2, (side - size) % 2);
    half + odd * (half % 2)
}

/// Resizing along one axis: for every pixel of the window, the first input and the weights from it on.
struct Axis {
    taps: Vec<(usize, Vec<i32>)>,
}

impl Axis {
    /// Bits of a weight behind the point.
    const BITS: u32 = 22;

    /// `inputs` pixels to `outputs`, of which those in `window` are kept.
    fn new(inputs: usize, outputs: usize, window: Range<usize>) -> Self {
        let scale = inputs as f64 / outputs as f64;
        let wide = scale.max(1.0);
        let tap = |j: usize| {
            if inputs == outputs {
                return (j, vec![1 << Self::BITS]);
            }
            let centre = (j as f64 + 0.5) * scale;
            // Rounded as a conversion to `int` does: towards 0, and then not below it.
            let from = (centre - wide + 0.5).max(0.0) as usize;
            let to = ((centre + wide + 0.5) as usize).min(inputs);
            let inverse = 1.0 / wide;
            let weight = |i: usize| (1.0 - ((i as f64 - centre + 0.5) * inverse).abs()).max(0.0);
            let weights: Vec<f64> = (from..to).map(weight).collect();
            // In order, as the reference adds them.
            let sum: f64 = weights.iter().sum();
            let whole = |weight: &f64| (0.5 + weight / sum * f64::from(1 << Self::BITS)) as i32;
            (from, weights.iter().map(whole).collect())
        };
        Axis { taps: window.map(tap).collect() }
    }

    /// The inputs that the window sees.
    fn inputs(&self) -> Range<usize> {
        let ends = self.taps.iter().map(|(from, weights)| from + weights.len());
        let starts = self.taps.iter().map(|(from, _)| *from);
        starts.min().unwrap_or(0)..ends.max().unwrap_or(0)
    }

    /// Calls `y(j, value)` with the weighted mean of `x` for every pixel of the window.
    fn apply(&self, x: impl Fn(usize) -> u8, mut y: impl FnMut(usize, u8)) {
        for (j, (from, weights)) in self.taps.iter().enumerate() {
            let half = 1 << (Self::BITS - 1);
            let sum = weights.iter().enumerate().fold(half, |sum, (i, weight)| sum + weight * i32::from(x(from + i)));
            y(j, (sum >> Self::BITS).clamp(0, 255) as u8);
        }
    }
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
    use ndarray::Array;

    /// Σ (k + 1) y[k], which another program can compute too.
    pub fn sum(y: ArrayView3<'_, u8>) -> u64 {
        (1..).zip(y).map(|(k, &y)| k * u64::from(y)).sum()
    }

    #[test]
    fn halves_go_to_even_as_in_python() {
        // round(0.5), round(1), round(1.5), round(2), round(2.5), round(3.5) are 0, 1, 2, 2, 2, 4.
        assert_eq!([1, 2, 3, 4, 5, 7].map(|rest| centre(10 + rest, 10)), [0, 1, 2, 2, 2, 4]);
    }

    #[test]
    fn a_picture_of_the_right_size_is_left_as_it_is_and_a_larger_one_is_averaged() {
        let picture = Array::from_shape_fn((4, 4, 3), |(i, j, c)| (i * 50 + j * 11 + c) as u8);
        assert_eq!(resize_and_crop(picture.view(), 4), picture);
        // Half the size: of a row of four, output 0 sees inputs 0, 1, 2 with weights 3/4, 3/4, 1/4 (1 − 0.25, …),
        // divided by their sum 7/4.
        let row = Array::from_shape_fn((4, 4, 3), |(_, j, _)| [0u8, 70, 140, 210][j]);
        let y = resize_and_crop(row.view(), 2);
        // (3·70 + 140) / 7, and from the other end (70 + 3·140 + 3·210) / 7.
        assert_eq!([y[[0, 0, 0]], y[[1, 1, 2]]], [50, 160]);
        // Extreme proportions take no memory to speak of.
        assert_eq!(resize_and_crop(Array3::zeros((1, 16_384, 3)).view(), 64).dim(), (64, 64, 3));
    }

    #[test]
    fn a_picture_becomes_any_rectangle() {
        let picture = Array::from_shape_fn((4, 6, 3), |(i, j, c)| (i * 50 + j * 11 + c) as u8);
        assert_eq!(resize(picture.view(), 4, 6), picture);
        // The shorter side to 3, the longer one to 4, of which the crop keeps columns 0 to 2: round(½) = 0.
        let y = resize(picture.view(), 3, 4);
        assert_eq!(resize_and_crop(picture.view(), 3), y.slice(s![.., ..3, ..]));
        // One axis alone: two of four columns, as above, and the rows as they were.
        let row = Array::from_shape_fn((3, 4, 3), |(i, j, _)| [0u8, 70, 140, 210][j] + i as u8);
        let y = resize(row.view(), 3, 2);
        assert_eq!(y.slice(s![.., .., 1]), ndarray::array![[50, 160], [51, 161], [52, 162]]);
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
        for (decoder, expected) in [
            (|_: &[u8]| Ok(Array3::from_shape_fn((2, 1, 1), |(i, ..)| i as u8 + 5)), [5, 5, 5, 6, 6, 6]),
            (|_: &[u8]| Ok(Array3::from_shape_fn((2, 1, 2), |(i, _, c)| (2 * i + 9 * c) as u8)), [0, 0, 0, 2, 2, 2]),
            (|_: &[u8]| Ok(Array3::from_shape_fn((2, 1, 3), |(i, _, c)| (3 * i + c) as u8)), [0, 1, 2, 3, 4, 5]),
            (|_: &[u8]| Ok(Array3::from_shape_fn((2, 1, 4), |(i, _, c)| (4 * i + c) as u8)), [0, 1, 2, 4, 5, 6]),
        ] as [(Decoder, [u8; 6]); 4]
        {
            let pixels = decode_with(decoder, Path::new("channels"), &[]).unwrap();
            assert_eq!((pixels.dim(), pixels.as_slice().unwrap()), ((2, 1, 3), &expected[..]));
        }
        let none: Decoder = |_| Ok(Array3::zeros((0, 7, 3)));
        let message = decode_with(none, Path::new("none"), &[]).unwrap_err().to_string();
        assert!(message.contains("expected an image with pixels, found one of 0x7"), "{message}");
    }

    /// Sums Σ (k + 1) y[k] of what `CenterCrop(S)(Resize(R)(image))` of torchvision 0.29.2 gives with Pillow 12.0.0 and
    /// 13.0.0; made smaller, larger, and cut.
    #[test]
    fn sums_of_what_torchvision_gives() {
        for (h, w, resize, crop, expected) in [
            (51, 37, 20, 20, 90191920),
            (23, 37, 32, 32, 576073082),
            (97, 201, 24, 24, 186809303),
            (97, 201, 29, 24, 186622330),
            (51, 37, 32, 28, 346226663),
            (301, 240, 256, 224, 1414344640994),
        ] {
            let byte = |(i, j, c)| ((i * 71 + j * 31 + c * 101 + (i * j) % 17 * 9) % 251) as u8;
            let y = resize_and_crop(Array::from_shape_fn((h, w, 3), byte).view(), Framing { resize, crop });
            let sum: u64 = (1..).zip(&y).map(|(k, &y)| k * u64::from(y)).sum();
            assert_eq!(sum, expected, "{h}x{w} to {resize}, {crop}");
        }
    }
}
