//! TIFF, with the crate `tiff`: the first picture of a file, not compressed or with PackBits, LZW or Deflate; grey and palettes
//! of 1 to 16 bits, RGB, CMYK.
//!
//! The crate looks no palette up, and has no grey where 0 is white for every depth. So it reads both as grey where 0 is
//! black; the colours are made here.

use super::exif::{entry, orientation, outside, place_of};
use super::{Decoded, Fault, MOST_BYTES, MOST_PIXELS, broken, check_size, mix, room};
use std::borrow::Cow;
use std::io::Cursor;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::{ColorType, TiffError};

/// Tags.
const PHOTOMETRIC: u16 = 262;
const BIT_ORDER: u16 = 266;
const SAMPLES: u16 = 277;
const COLOUR_MAP: u16 = 320;
const EXTRA_SAMPLES: u16 = 338;
/// Those that the crate reads. It allocates memory for as many values as an entry claims.
const READ: [u16; 19] = [
    254,
    256,
    257,
    258,
    259,
    PHOTOMETRIC,
    273,
    SAMPLES,
    278,
    279,
    284,
    317,
    322,
    323,
    324,
    325,
    EXTRA_SAMPLES,
    339,
    347,
];

/// The samples of a file.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let value = |tag| entry(bytes, tag).and_then(|values| values.first().copied());
    if let Some(tag) = outside(bytes, &READ) {
        return Err(broken(format!("not a whole TIFF image: the values of its tag {tag} are not in the file")));
    }
    // 0: grey, 0 is white; 1: grey; 2: RGB; 3: palette; 5: CMYK.
    let photometric = value(PHOTOMETRIC);
    if value(BIT_ORDER) == Some(2) {
        return Err(broken("a TIFF image with the lowest bit first, which is not supported; convert it to PNG"));
    }
    let mut file = Cow::Borrowed(bytes);
    if let (Some(0 | 3), 1, Some(place)) = (photometric, value(SAMPLES).unwrap_or(1), place_of(bytes, PHOTOMETRIC)) {
        let one: [u8; 2] = if bytes.starts_with(b"II") { [1, 0] } else { [0, 1] };
        file.to_mut()[place..place + 2].copy_from_slice(&one);
    }
    let mut decoder = Decoder::new(Cursor::new(&file[..]))?.with_limits({
        let mut limits = Limits::default();
        limits.decoding_buffer_size = 8 * MOST_PIXELS;
        limits.intermediate_buffer_size = MOST_BYTES as usize;
        limits
    });
    let (width, height) = decoder.dimensions()?;
    let [height, width] = [height, width].map(|side| side as usize);
    check_size(height, width)?;
    let colours = decoder.colortype()?;
    let mut values = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut values)?;
    let (bits, channels) = (usize::from(colours.bit_depth()), usize::from(colours.num_samples()));
    let row = layout.row_stride.map_or(0, |stride| stride.get());
    let plane = layout.plane_stride.map_or(0, |stride| stride.get());
    // A sample, of more than 8 bits its upper 8.
    let sample = |i: usize, j: usize, c: usize| -> Option<usize> {
        let (start, k) = if layout.planes > 1 { (c * plane + i * row, j) } else { (i * row, j * channels + c) };
        match &values {
            DecodingResult::U8(values) if matches!(bits, 1 | 2 | 4 | 8) => {
                let byte = usize::from(*values.get(start + k * bits / 8)?);
                Some(byte >> (8 - bits - k * bits % 8) & ((1 << bits) - 1))
            }
            DecodingResult::U16(values) if bits == 16 => Some(usize::from(*values.get(start / 2 + k)? >> 8)),
            _ => None,
        }
    };
    let most = if bits < 8 { (1 << bits) - 1 } else { 255 };
    let map: Vec<u8> = entry(bytes, COLOUR_MAP).unwrap_or_default().iter().map(|value| (value >> 8) as u8).collect();
    let is_multiplied = entry(bytes, EXTRA_SAMPLES).is_some_and(|extra| extra.first() == Some(&1));
    let pixel = |i: usize, j: usize| -> Option<[u8; 3]> {
        let byte = |c: usize| Some((sample(i, j, c)? * 255 / most) as u8);
        Some(match (colours, photometric) {
            (ColorType::Gray(1..=8), Some(3)) => {
                let index = sample(i, j, 0)?;
                let channel = |c: usize| map.get(c * map.len() / 3 + index).copied();
                [channel(0)?, channel(1)?, channel(2)?]
            }
            (ColorType::Gray(_), Some(0)) => [255 - byte(0)?; 3],
            (ColorType::Gray(_), _) | (ColorType::Multiband { num_samples: 2, .. }, Some(1)) => [byte(0)?; 3],
            (ColorType::RGBA(8), _) if is_multiplied => {
                let alpha = u32::from(byte(3)?);
                let divided = |value: u8| (255 * u32::from(value)).checked_div(alpha).unwrap_or(0).min(255) as u8;
                [divided(byte(0)?), divided(byte(1)?), divided(byte(2)?)]
            }
            (ColorType::RGB(_) | ColorType::RGBA(_), _) => [byte(0)?, byte(1)?, byte(2)?],
            (ColorType::CMYK(8), _) => mix([255 - byte(0)?, 255 - byte(1)?, 255 - byte(2)?], 255 - byte(3)?),
            _ => return None,
        })
    };
    let mut samples = room(height, width, 3)?;
    for (i, mut row) in samples.outer_iter_mut().enumerate() {
        for (j, mut place) in row.outer_iter_mut().enumerate() {
            let pixel = pixel(i, j).ok_or_else(|| {
                broken(format!("a TIFF image with {colours:?} samples, which is not supported; convert it to PNG"))
            })?;
            place.assign(&ndarray::arr1(&pixel));
        }
    }
    Ok(Decoded { samples, orientation: orientation(bytes, b"") })
}

impl From<TiffError> for Fault {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::LimitsExceeded => Fault::TooLarge,
            TiffError::UnsupportedError(error) => {
                Fault::Broken(format!("a kind of TIFF image that is not read ({error}); convert it to PNG"))
            }
            error => Fault::Broken(format!("not a whole TIFF image: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::decode;
    use super::*;
    use ndarray::Array3;
    use std::path::Path;
    use tiff::encoder::{Compression, DeflateLevel, Predictor, TiffEncoder, colortype};

    type Writer<'a> = TiffEncoder<Cursor<&'a mut Vec<u8>>>;

    /// A file that is not compressed, of one sample for each pixel, in either order of bytes.
    fn file(
        order: &[u8; 2],
        [height, width]: [u32; 2],
        bits: u32,
        photometric: u32,
        map: &[u16],
        rows: &[u8],
    ) -> Vec<u8> {
        let number = |value: u32, bytes: usize| {
            let little = value.to_le_bytes()[..bytes].to_vec();
            if order == b"II" { little } else { little.into_iter().rev().collect() }
        };
        let start = 8 + 2 + 12 * 11 + 4;
        let map: Vec<u8> = map.iter().flat_map(|&value| number(value.into(), 2)).collect();
        let pixels = start + map.len() as u32;
        let entries = [
            (256, 3, 1, width),
            (257, 3, 1, height),
            (258, 3, 1, bits),
            (259, 3, 1, 1),
            (262, 3, 1, photometric),
            (273, 4, 1, pixels),
            (274, 3, 1, 1),
            (277, 3, 1, 1),
            (278, 3, 1, height),
            (279, 4, 1, rows.len() as u32),
            (320, 3, map.len() as u32 / 2, start),
        ];
        let entry = |(tag, kind, count, value): (u32, u32, u32, u32)| {
            let value =
                if kind == 3 && count == 1 { [number(value, 2), vec![0; 2]].concat() } else { number(value, 4) };
            [number(tag, 2), number(kind, 2), number(count, 4), value].concat()
        };
        let directory: Vec<u8> = entries.into_iter().flat_map(entry).collect();
        [order.to_vec(), number(42, 2), number(8, 4), number(11, 2), directory, vec![0; 4], map, rows.to_vec()].concat()
    }

    #[test]
    fn grey_and_palettes_of_every_depth() {
        let grey = |bytes: [u8; 3]| bytes.map(|byte| [byte; 3]).concat();
        // The upper bytes of red, then green, then blue.
        let map = |n: usize| -> Vec<u16> { (0..3 * n).map(|k| (k as u16 * 7 % 251) << 8 | 0xff).collect() };
        let looked_up = |n: usize, indices: [usize; 3]| -> Vec<u8> {
            indices.iter().flat_map(|index| [0, 1, 2].map(|c| ((c * n + index) * 7 % 251) as u8)).collect()
        };
        for order in [b"II", b"MM"] {
            for (bits, photometric, row, expected) in [
                (1, 0, vec![0b0110_0000], grey([255, 0, 0])),
                (1, 1, vec![0b0110_0000], grey([0, 255, 255])),
                (2, 1, vec![0b00_10_11_00], grey([0, 170, 255])),
                (4, 0, vec![0x0f, 0x10], grey([255, 0, 238])),
                (4, 1, vec![0x0f, 0x10], grey([0, 255, 17])),
                (8, 0, vec![0, 200, 255], grey([255, 55, 0])),
                (8, 1, vec![0, 200, 255], grey([0, 200, 255])),
                (1, 3, vec![0b0110_0000], looked_up(2, [0, 1, 1])),
                (4, 3, vec![0x0f, 0x10], looked_up(16, [0, 15, 1])),
                (8, 3, vec![0, 200, 255], looked_up(256, [0, 200, 255])),
            ] {
                let file = file(order, [1, 3], bits, photometric, &map(1 << bits), &row);
                let y = decode(Path::new("x.tif"), &file).unwrap();
                assert_eq!((y.dim(), y.as_slice().unwrap()), ((1, 3, 3), &expected[..]), "{bits} {photometric}");
                assert!(decode(Path::new("x.tif"), &file[..file.len() - 1]).is_err());
            }
        }
    }

    /// The fuzz target found five bits, which no division of a byte has.
    #[test]
    fn other_depths_are_rejected() {
        for bits in [0, 3, 5, 7, 12, 24, 64] {
            let message =
                decode(Path::new("x.tif"), &file(b"II", [1, 3], bits, 1, &[], &[0; 64])).unwrap_err().to_string();
            assert!(
                ["not supported", "not read", "not a whole TIFF image"].iter().any(|part| message.contains(part)),
                "{bits}: {message}"
            );
        }
    }

    /// The fuzz target found a file of 701 bytes for which the crate allocated 218 megabytes.
    #[test]
    fn values_that_are_not_in_the_file_are_rejected() {
        let whole = file(b"II", [1, 3], 8, 1, &[], &[0, 200, 255]);
        assert!(decode(Path::new("x.tif"), &whole).is_ok());
        let mut long = whole.clone();
        // The count and the place of the third entry, of the bits of each sample.
        long[8 + 2 + 2 * 12 + 4..][..8].copy_from_slice(&[0, 0, 104, 0, 8, 0, 0, 0]);
        let message = decode(Path::new("x.tif"), &long).unwrap_err().to_string();
        assert_eq!(message, "x.tif: not a whole TIFF image: the values of its tag 258 are not in the file");
        // A tag without a meaning here may be broken.
        let mut other = whole;
        other[8 + 2 + 6 * 12..][..2].copy_from_slice(&[0x3e, 1]);
        other[8 + 2 + 6 * 12 + 4..][..8].copy_from_slice(&[0, 0, 104, 0, 8, 0, 0, 0]);
        assert!(decode(Path::new("x.tif"), &other).is_ok());
    }

    /// What is read here besides the crate is read in files with offsets of eight bytes as well.
    #[test]
    fn large_files_have_the_same_colours_and_orientation() {
        let mut big = Vec::new();
        let mut encoder = TiffEncoder::new_big(Cursor::new(&mut big)).unwrap();
        let mut image = encoder.new_image::<colortype::Gray8>(3, 1).unwrap();
        image.encoder().write_tag(tiff::tags::Tag::Orientation, 6u16).unwrap();
        image.write_data(&[0, 200, 255]).unwrap();
        let read = |file: &[u8]| super::super::decode(Path::new("x.tif"), file).unwrap();
        let picture = read(&big);
        assert_eq!(picture.orientation.number(), 6);
        assert_eq!(picture.pixels.as_slice().unwrap(), [0, 0, 0, 200, 200, 200, 255, 255, 255]);
        // 0 is white.
        let place = place_of(&big, PHOTOMETRIC).unwrap();
        assert_eq!(big[place], 1);
        big[place] = 0;
        assert_eq!(read(&big).pixels.as_slice().unwrap(), [255, 255, 255, 55, 55, 55, 0, 0, 0]);
    }

    #[test]
    fn colours_with_every_compression() {
        let picture = Array3::from_shape_fn((5, 7, 4), |(i, j, c)| (i * 50 + j * 11 + c * 3) as u8);
        let rgb: Vec<u8> = picture.slice(ndarray::s![.., .., ..3]).iter().copied().collect();
        let deep: Vec<u16> = rgb.iter().map(|&byte| u16::from(byte) << 8 | 0xc0).collect();
        for (name, compression) in [
            ("none", Compression::Uncompressed),
            ("LZW", Compression::Lzw),
            ("PackBits", Compression::Packbits),
            ("Deflate", Compression::Deflate(DeflateLevel::Fast)),
        ] {
            for predictor in [Predictor::None, Predictor::Horizontal] {
                let written = |write: &dyn Fn(&mut Writer)| {
                    let mut file = Vec::new();
                    let encoder = TiffEncoder::new(Cursor::new(&mut file)).unwrap();
                    write(&mut encoder.with_compression(compression).with_predictor(predictor));
                    decode(Path::new("x.tif"), &file).unwrap().into_raw_vec_and_offset().0
                };
                let pixels = written(&|encoder| encoder.write_image::<colortype::RGB8>(7, 5, &rgb).unwrap());
                assert_eq!(pixels, rgb, "{name} {predictor:?}");
                let pixels = written(&|encoder| encoder.write_image::<colortype::RGB16>(7, 5, &deep).unwrap());
                assert_eq!(pixels, rgb, "{name} {predictor:?}");
                let rgba = picture.as_slice().unwrap();
                let pixels = written(&|encoder| encoder.write_image::<colortype::RGBA8>(7, 5, rgba).unwrap());
                assert_eq!(pixels, rgb, "{name} {predictor:?}");
                // 255 − 225 · 195 / 255 and so on, with 30, 90, 200 and 60 of ink.
                let inks = [30, 90, 200, 60].repeat(35);
                let pixels = written(&|encoder| encoder.write_image::<colortype::CMYK8>(7, 5, &inks).unwrap());
                assert_eq!(pixels, [172, 126, 42].repeat(35), "{name} {predictor:?}");
            }
        }
        let mut file = Vec::new();
        TiffEncoder::new(Cursor::new(&mut file)).unwrap().write_image::<colortype::Gray32Float>(1, 1, &[0.5]).unwrap();
        let message = decode(Path::new("x.tif"), &file).unwrap_err().to_string();
        assert!(message.contains("Gray(32) samples, which is not supported"), "{message}");
    }
}
