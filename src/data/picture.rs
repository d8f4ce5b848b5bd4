//! A picture of any size, as a network takes it: a PNG or JPEG file to `(S, S, 3)`.
//!
//! What torchvision's `Resize(S)` and `CenterCrop(S)` do to an image of Pillow, in this order:
//!
//! ```text
//! decode        red, green, blue from 0 to 255                                     (h, w, 3)
//! resize        the shorter side to S, the longer one to ⌊S · longer / shorter⌋    (h', w', 3)
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
//! treated as colours are. JPEG leaves a decoder some freedom: its pixels differ from those of Pillow's libjpeg by a few
//! units (`docs/data.md` has numbers). The orientation that a camera writes into EXIF is not applied; torchvision's
//! `ImageFolder` does not either.
//!
//! # Trust
//!
//! A file is at most [`MOST_BYTES`] long, a picture at most [`MOST_SIDE`] pixels wide and high, and decoding may
//! allocate [`MOST_BYTES`]; a claim beyond is refused before memory is asked for. A JPEG that ends early is an error
//! (its decoder would fill the rest with grey).

use super::Dataset;
use crate::formats::atomic;
use crate::{Error, Result};
use image::{DynamicImage, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use ndarray::{Array3, ArrayView3, s};
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

/// The most bytes of a file, and the most that decoding it may allocate.
pub const MOST_BYTES: u64 = 1 << 28;
/// The most pixels in a row or a column.
pub const MOST_SIDE: u32 = 16_384;
/// Extensions of the files that can be read, in lower case.
pub const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Reads a file as `(S, S, 3)`, S = `size`; see the [module documentation](self).
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is not a whole PNG or JPEG file or too large.
pub fn read(path: &Path, size: usize) -> Result<Array3<u8>> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "read", error))?;
    if metadata.is_dir() {
        return Err(Error::format(path, None, "expected a PNG or JPEG image, found a folder"));
    }
    let length = metadata.len();
    if length > MOST_BYTES {
        return Err(Error::format(path, None, format!("expected at most {MOST_BYTES} bytes, found {length}")));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
    Ok(resize_and_crop(decode(path, &bytes)?.view(), size))
}

/// The pixels `(h, w, 3)` of a PNG or JPEG file, which is recognised by its content; `path` stands in messages.
///
/// # Errors
/// [`Error::Format`] when it is not one, not whole, or too large.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Array3<u8>> {
    let refuse = |message: String| Error::format(path, None, message);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().expect("memory can be read");
    match reader.format() {
        Some(ImageFormat::Png) => {}
        Some(ImageFormat::Jpeg) if is_whole_jpeg(bytes) => {}
        Some(ImageFormat::Jpeg) => return Err(refuse("truncated: the end of the JPEG image is missing".to_string())),
        _ if bytes.is_empty() => return Err(refuse("expected a PNG or JPEG image, found an empty file".to_string())),
        _ => {
            let start = &bytes[..bytes.len().min(8)];
            return Err(refuse(format!("expected a PNG or JPEG image, found a file that starts {start:02x?}")));
        }
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    (limits.max_image_width, limits.max_image_height) = (Some(MOST_SIDE), Some(MOST_SIDE));
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| match error {
        ImageError::Limits(_) => refuse(format!(
            "expected an image of at most {MOST_SIDE}x{MOST_SIDE} pixels and {MOST_BYTES} bytes in memory, found a \
             larger one"
        )),
        error => refuse(format!("not a whole image: {error}")),
    })?;
    let picture = rgb(picture);
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return Err(refuse(format!("expected an image with pixels, found one of {height}x{width}")));
    }
    let shape = (height as usize, width as usize, 3);
    Ok(Array3::from_shape_vec(shape, picture.into_raw()).expect("three bytes a pixel"))
}

/// Three bytes a pixel; see "Colours" above.
fn rgb(picture: DynamicImage) -> RgbImage {
    // The upper byte: `to_rgb8` would round, and differ by one.
    let upper = |size: (u32, u32), samples: Vec<u16>, channels: usize| {
        let colour = |pixel: &[u16]| if channels < 3 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] };
        let bytes = samples.chunks_exact(channels).flat_map(colour).map(|sample| (sample >> 8) as u8).collect();
        RgbImage::from_raw(size.0, size.1, bytes).expect("three bytes a pixel")
    };
    let size = (picture.width(), picture.height());
    match picture {
        DynamicImage::ImageLuma16(picture) => upper(size, picture.into_raw(), 1),
        DynamicImage::ImageLumaA16(picture) => upper(size, picture.into_raw(), 2),
        DynamicImage::ImageRgb16(picture) => upper(size, picture.into_raw(), 3),
        DynamicImage::ImageRgba16(picture) => upper(size, picture.into_raw(), 4),
        picture => picture.into_rgb8(),
    }
}

/// Whether the coded pixels of a JPEG file have an end.
///
/// Segments are `ff xx`, then their length in two bytes, until the scan begins (`ff da`). Within the scan `ff` stands
/// before 0 or a restart marker, so `ff d9` is the end; a preview inside a segment, which has an end too, is passed over.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        match bytes.get(at..) {
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, 0xda, scan @ ..]) => return scan.windows(2).any(|pair| pair == [0xff, 0xd9]),
            Some([0xff, _, high, low, ..]) => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false,
        }
    }
}

/// The middle `(S, S, 3)` of `picture (h, w, 3)` after its shorter side was made S = `size`.
///
/// # Panics
/// If the picture or `size` is empty.
pub fn resize_and_crop(picture: ArrayView3<'_, u8>, size: usize) -> Array3<u8> {
    let (h, w, _) = picture.dim();
    let shorter = h.min(w);
    let window = |side: usize| {
        let resized = size * side / shorter;
        let first = centre(resized, size);
        Axis::new(side, resized, first..first + size)
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
/// [`Error::Argument`] when it would be wider or higher than [`MOST_SIDE`] or take more than [`MOST_BYTES`].
pub fn grid(dataset: &Dataset, columns: usize) -> Result<Array3<u8>> {
    const LINE: usize = 2;
    let (_, h, w, _) = dataset.pixels.dim();
    let (height, width) = (dataset.classes.len() * (h + LINE) + LINE, columns * (w + LINE) + LINE);
    let fits = height.max(width) <= MOST_SIDE as usize && (3 * height * width) as u64 <= MOST_BYTES;
    if !fits {
        let message = format!("a picture of {height}x{width} pixels is too large; fewer columns would make it smaller");
        return Err(Error::argument("grid", message));
    }
    let mut picture = Array3::from_elem((height, width, 3), 255);
    let mut shown = vec![0; dataset.classes.len()];
    for (i, &label) in dataset.labels.iter().enumerate() {
        let row = usize::from(label);
        let column = shown[row];
        if column < columns {
            shown[row] += 1;
            let (top, left) = (LINE + row * (h + LINE), LINE + column * (w + LINE));
            picture.slice_mut(s![top..top + h, left..left + w, ..]).assign(&dataset.image(i));
        }
    }
    Ok(picture)
}

/// Writes `picture (h, w, 3)` to `path` as PNG, whole or not at all.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn write_png(path: &Path, picture: ArrayView3<'_, u8>) -> Result<()> {
    let (height, width, _) = picture.dim();
    let picture = RgbImage::from_raw(width as u32, height as u32, picture.iter().copied().collect());
    let mut bytes = Cursor::new(Vec::new());
    let written = picture.expect("three bytes a pixel").write_to(&mut bytes, ImageFormat::Png);
    written.map_err(|error| Error::format(path, None, format!("cannot be made a PNG image: {error}")))?;
    atomic::write(path, bytes.get_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array;

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

    /// Sums Σ (k + 1) y[k] of what `CenterCrop(S)(Resize(S)(image))` of torchvision 0.29.2 gives with Pillow 12.0.0 and
    /// 13.0.0; made smaller, larger, and cut.
    #[test]
    fn sums_of_what_torchvision_gives() {
        for (h, w, size, expected) in [(51, 37, 20, 90191920), (23, 37, 32, 576073082), (97, 201, 24, 186809303)] {
            let byte = |(i, j, c)| ((i * 71 + j * 31 + c * 101 + (i * j) % 17 * 9) % 251) as u8;
            let y = resize_and_crop(Array::from_shape_fn((h, w, 3), byte).view(), size);
            let sum: u64 = (1..).zip(&y).map(|(k, &y)| k * u64::from(y)).sum();
            assert_eq!(sum, expected, "{h}x{w} to {size}");
        }
    }

    /// Of 16 bits the upper 8, not the nearest; grey three times; alpha dropped, not blended.
    #[test]
    fn colours_of_every_kind_of_png() {
        use image::{ImageBuffer, Luma, LumaA, Rgb, Rgba};
        // Rounded, 0x12ff and 0x7fc0 would be 0x13 and 0x80.
        let [red, green, blue] = [0x12ff, 0x7fc0, 0xfe00_u16];
        for (name, picture, expected) in [
            ("grey", ImageBuffer::from_pixel(1, 1, Luma([200u8])).into(), [200; 3]),
            ("grey, alpha", ImageBuffer::from_pixel(1, 1, LumaA([200u8, 100])).into(), [200; 3]),
            ("colour", ImageBuffer::from_pixel(1, 1, Rgb([1u8, 2, 3])).into(), [1, 2, 3]),
            ("colour, alpha", ImageBuffer::from_pixel(1, 1, Rgba([10u8, 20, 30, 100])).into(), [10, 20, 30]),
            ("grey of 16 bits", ImageBuffer::from_pixel(1, 1, Luma([red])).into(), [0x12; 3]),
            ("grey of 16 bits, alpha", ImageBuffer::from_pixel(1, 1, LumaA([red, 0x8000])).into(), [0x12; 3]),
            ("colour of 16 bits", ImageBuffer::from_pixel(1, 1, Rgb([red, green, blue])).into(), [0x12, 0x7f, 0xfe]),
            (
                "colour of 16 bits, alpha",
                ImageBuffer::from_pixel(1, 1, Rgba([red, green, blue, 0x8000])).into(),
                [0x12, 0x7f, 0xfe],
            ),
        ] as [(&str, DynamicImage, [u8; 3]); 8]
        {
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
            let pixels = decode(Path::new(name), bytes.get_ref()).unwrap();
            assert_eq!(pixels.as_slice().unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn a_preview_in_a_segment_is_not_the_end_of_a_jpeg() {
        let preview = [0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 1, 2, 0xff, 0xda, 0, 2, 7, 0xff, 0, 8];
        assert!(!is_whole_jpeg(&preview));
        assert!(is_whole_jpeg(&[&preview[..], &[0xff, 0xd9]].concat()));
        // Any number of ff may stand before a marker.
        assert!(is_whole_jpeg(&[0xff, 0xd8, 0xff, 0xff, 0xff, 0xda, 0, 2, 7, 0xff, 0xd9]));
        assert!(!is_whole_jpeg(&[0xff, 0xd8]) && !is_whole_jpeg(&[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff]));
    }
}
