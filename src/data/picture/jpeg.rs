//! JPEG, with the crate `zune-jpeg`; nothing outside this file depends on which crate it is.
//!
//! The coefficients of a progressive picture, two bytes for each, take memory beside its samples, in proportion to them.

use super::{Fault, room};
use ndarray::Array3;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// How every file starts: "start of image", and the first byte of the next marker.
pub(super) const START: &[u8] = &[0xff, 0xd8, 0xff];

/// The samples of a file: grey, or red, green and blue, which YCbCr, CMYK and YCCK become.
pub(super) fn decode(bytes: &[u8]) -> Result<Array3<u8>, Fault> {
    if !is_whole(bytes) {
        return Err(Fault::Broken("truncated: the end of the JPEG image is missing".to_string()));
    }
    // Many pictures violate the standard a little. The size is checked below, before there is memory for it.
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    let colours = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => ColorSpace::Luma,
        _ => ColorSpace::RGB,
    };
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    let (width, height) = decoder.dimensions().expect("the headers are decoded");
    let mut samples = room(height, width, colours.num_components())?;
    decoder.decode_into(samples.as_slice_mut().expect("standard layout"))?;
    Ok(samples)
}

impl From<DecodeErrors> for Fault {
    fn from(error: DecodeErrors) -> Self {
        Fault::Broken(format!("not a whole image: {error}"))
    }
}

/// Whether the coded pixels of a JPEG file have an end.
///
/// Segments are `ff xx`, then their length in two bytes, until the scan begins (`ff da`). Within the scan `ff` stands
/// before 0 or a restart marker, so `ff d9` is the end; a preview inside a segment, which has an end too, is passed over.
fn is_whole(bytes: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::super::decode;
    use super::*;
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
    use std::path::Path;

    /// A file of `pixels`, whose colours are `colours`; `how` sets what is to be different from usual.
    fn file(
        [height, width]: [u16; 2],
        pixels: &[u8],
        colours: ColorType,
        how: impl Fn(&mut Encoder<&mut Vec<u8>>),
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, 100);
        how(&mut encoder);
        encoder.encode(pixels, width, height, colours).unwrap();
        bytes
    }

    /// At quality 100 the coefficients are whole numbers, and that of a constant block is eight times its sample, so a
    /// constant picture loses only what conversion to YCbCr and back rounds: ½ in each of Y, Cb and Cr, which makes at
    /// most ½ (1 + 1.772) in a colour, and ½ in the colour itself, together less than 2.
    #[test]
    fn colours_of_every_kind_of_jpeg() {
        let cmyk = [30, 90, 200, 60];
        // (255 − ink)(255 − black) / 255: 225 · 195 / 255, 165 · 195 / 255 and 55 · 195 / 255.
        let inks = [172, 126, 42];
        for (name, colours, colour, expected) in [
            ("grey", ColorType::Luma, &[77][..], [77; 3]),
            ("YCbCr", ColorType::Rgb, &[200, 100, 50], [200, 100, 50]),
            ("CMYK", ColorType::Cmyk, &cmyk, inks),
            ("YCCK", ColorType::CmykAsYcck, &cmyk, inks),
        ] {
            let bytes = file([11, 19], &colour.repeat(11 * 19), colours, |_| {});
            let pixels = decode(Path::new(name), &bytes).unwrap();
            assert_eq!(pixels.dim(), (11, 19, 3), "{name}");
            for ((i, j, c), &byte) in pixels.indexed_iter() {
                assert!(byte.abs_diff(expected[c]) <= 2, "{name}: {byte} for {} at {i}, {j}, {c}", expected[c]);
            }
        }
    }

    /// The same coefficients in another order.
    #[test]
    fn a_progressive_picture_is_the_one_that_is_not() {
        let pixels: Vec<u8> = (0..37 * 53 * 3).map(|k: u32| (k * k % 251) as u8).collect();
        for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2] {
            let [baseline, progressive] = [false, true].map(|progressive| {
                let bytes = file([37, 53], &pixels, ColorType::Rgb, |encoder| {
                    encoder.set_sampling_factor(sampling);
                    encoder.set_progressive(progressive);
                });
                decode(Path::new("progressive"), &bytes).unwrap()
            });
            assert_eq!(baseline, progressive, "{sampling:?}");
        }
    }

    /// Of the size that the header claims there is nothing in the file.
    #[test]
    fn a_picture_that_claims_to_be_too_large_is_rejected() {
        for (colours, height, width) in
            [(ColorType::Luma, 16_385, 1), (ColorType::Luma, 1, 65_535), (ColorType::Rgb, 16_000, 16_000)]
        {
            let mut bytes = file([1, 1], &[0; 3], colours, |_| {});
            // Start of frame: marker, length in two bytes, bits of a sample, height, width.
            let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
            let size = [u16::to_be_bytes(height), u16::to_be_bytes(width)].concat();
            bytes[frame + 5..frame + 9].copy_from_slice(&size);
            let message = decode(Path::new("claim.jpg"), &bytes).unwrap_err().to_string();
            assert!(message.contains("expected an image of at most 16384x16384 pixels"), "{message}");
        }
    }

    #[test]
    fn a_preview_in_a_segment_is_not_the_end_of_a_jpeg() {
        let preview = [0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 1, 2, 0xff, 0xda, 0, 2, 7, 0xff, 0, 8];
        assert!(!is_whole(&preview));
        assert!(is_whole(&[&preview[..], &[0xff, 0xd9]].concat()));
        // Any number of ff may stand before a marker.
        assert!(is_whole(&[0xff, 0xd8, 0xff, 0xff, 0xff, 0xda, 0, 2, 7, 0xff, 0xd9]));
        assert!(!is_whole(&[0xff, 0xd8]) && !is_whole(&[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff]));
    }
}
