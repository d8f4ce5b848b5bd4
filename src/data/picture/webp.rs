//! WebP, with the crate `image-webp`; of an animation, the first frame.

use super::exif::orientation;
use super::{Decoded, Fault, MOST_BYTES, room};
use image_webp::{DecodingError, WebPDecoder};
use std::io::Cursor;

/// The samples of a file.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes))?;
    decoder.set_memory_limit(MOST_BYTES as usize);
    let (width, height) = decoder.dimensions();
    let mut samples = room(height as usize, width as usize, if decoder.has_alpha() { 4 } else { 3 })?;
    decoder.read_image(samples.as_slice_mut().expect("standard layout"))?;
    // Whatever is wrong with them does not spoil the pixels.
    let exif = decoder.exif_metadata().ok().flatten().unwrap_or_default();
    let xmp = decoder.xmp_metadata().ok().flatten().unwrap_or_default();
    Ok(Decoded { samples, orientation: orientation(&exif, &xmp) })
}

impl From<DecodingError> for Fault {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::MemoryLimitExceeded | DecodingError::ImageTooLarge => Fault::TooLarge,
            error => Fault::Broken(format!("not a whole WebP image: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exif::tests::exif;
    use super::super::tests::sum;
    use super::super::{Exif, decode};
    use image_webp::{ColorType, WebPEncoder};
    use ndarray::Array3;
    use std::path::Path;

    #[test]
    fn lossless_pictures_keep_their_bytes_and_lose_their_alpha() {
        let picture = Array3::from_shape_fn((5, 7, 4), |(i, j, c)| (i * 50 + j * 11 + c * 3) as u8);
        for (colours, channels) in [(ColorType::Rgb8, 3), (ColorType::Rgba8, 4)] {
            let samples: Vec<u8> = picture.slice(ndarray::s![.., .., ..channels]).iter().copied().collect();
            let mut file = Vec::new();
            let mut encoder = WebPEncoder::new(&mut file);
            encoder.set_exif_metadata(exif(b"MM", 6));
            encoder.encode(&samples, 7, 5, colours).unwrap();
            let found = decode(Path::new("x.jpg"), &file).unwrap();
            assert_eq!(found.pixels, picture.slice(ndarray::s![.., .., ..3]));
            assert_eq!((found.orientation.number(), found.view(Exif::Apply).dim()), (6, (7, 5, 3)));
            let message = decode(Path::new("x.webp"), &file[..60]).unwrap_err().to_string();
            assert!(message.contains("not a whole WebP image"), "{message}");
        }
    }

    /// A lossy file of 12x9 pixels that Pillow 13.0.0 (libwebp 1.6.0) wrote, and the sum of what it reads from it.
    #[test]
    fn a_lossy_picture_is_that_of_libwebp() {
        let file = [
            0x52, 0x49, 0x46, 0x46, 0x3e, 0x00, 0x00, 0x00, 0x57, 0x45, 0x42, 0x50, 0x56, 0x50, 0x38, 0x20, 0x32, 0x00,
            0x00, 0x00, 0xd0, 0x01, 0x00, 0x9d, 0x01, 0x2a, 0x0c, 0x00, 0x09, 0x00, 0x02, 0xc0, 0x4c, 0x25, 0xb0, 0x02,
            0x74, 0x00, 0xdd, 0xa8, 0x7e, 0xc1, 0x00, 0x00, 0xfe, 0xf8, 0xa0, 0xbd, 0xe6, 0x6e, 0x51, 0x8c, 0xf4, 0x2b,
            0x7b, 0xe3, 0xec, 0x2e, 0x7f, 0xe1, 0xbf, 0x3c, 0xfb, 0xe1, 0xff, 0xd4, 0xc1, 0x91, 0x60, 0x00,
        ];
        let pixels = decode(Path::new("x.webp"), &file).unwrap().pixels;
        assert_eq!((pixels.dim(), sum(pixels.view())), ((9, 12, 3), 5524508));
    }
}
