//! PNG, both ways, with the crate `png`.

use super::exif::orientation;
use super::{Decoded, Fault, MOST_BYTES, broken, check_size, room};
use ndarray::ArrayView3;
use png::{BitDepth, ColorType, Decoder, DecodingError, Encoder, EncodingError, Limits, Transformations};
use std::io::Cursor;

/// How every file starts.
pub(super) const START: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The samples of a file; of an animation, those of the picture that programs without animation show.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MOST_BYTES as usize });
    // Palettes are looked up, samples of 1, 2 and 4 bits are scaled to 8, and of 16 bits the upper 8 are taken.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    // Nothing here reads them, so they are not unpacked either.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Before the decoder makes room for a row; how many channels there are depends on chunks that follow the header.
    let (width, height) = decoder.read_header_info()?.size();
    check_size(height as usize, width as usize)?;
    let mut reader = decoder.read_info()?;
    // The decoder panics (png 0.18.1).
    if let Some(palette) = reader.info().palette.as_ref().filter(|palette| !palette.len().is_multiple_of(3)) {
        return Err(broken(format!("damaged: a palette of {} bytes, which are not whole colours", palette.len())));
    }
    let (colours, _) = reader.output_color_type();
    let mut samples = room(height as usize, width as usize, colours.samples())?;
    reader.next_frame(samples.as_slice_mut().expect("standard layout"))?;
    // EXIF may follow the pixels; whatever else is wrong after them does not spoil them.
    let _ = reader.finish();
    let exif = reader.info().exif_metadata.as_deref().unwrap_or_default();
    Ok(Decoded { orientation: orientation(exif, b""), samples })
}

impl From<DecodingError> for Fault {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::LimitsExceeded => Fault::TooLarge,
            error => Fault::Broken(format!("not a whole image: {error}")),
        }
    }
}

/// The bytes of a file with `pixels (h, w, 3)`, which names the program that made it.
pub fn encode(pixels: ArrayView3<'_, u8>, software: &str) -> Result<Vec<u8>, EncodingError> {
    let (height, width, _) = pixels.dim();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.add_text_chunk("Software".to_string(), software.to_string())?;
    encoder.write_header()?.write_image_data(&pixels.iter().copied().collect::<Vec<u8>>())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::decode;
    use super::*;
    use flate2::{Compression, write::ZlibEncoder};
    use ndarray::{Array3, s};
    use png::{Info, chunk};
    use std::io::Write as _;
    use std::path::Path;

    /// Colours of a palette; a file has as many of them as its bits can name.
    const PALETTE: [[u8; 3]; 4] = [[1, 2, 3], [40, 50, 60], [70, 80, 90], [255, 254, 253]];

    /// A file of rows as they are in a file, each preceded by 0 for "not filtered".
    fn file(info: Info<'_>, rows: &[u8]) -> Vec<u8> {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
        packed.write_all(rows).unwrap();
        let mut bytes = Vec::new();
        let mut writer = Encoder::with_info(&mut bytes, info).unwrap().write_header().unwrap();
        writer.write_chunk(chunk::IDAT, &packed.finish().unwrap()).unwrap();
        drop(writer);
        bytes
    }

    fn info(color_type: ColorType, bit_depth: BitDepth, [height, width]: [u32; 2]) -> Info<'static> {
        let mut info = Info::with_size(width, height);
        (info.color_type, info.bit_depth) = (color_type, bit_depth);
        if color_type == ColorType::Indexed {
            info.palette = Some(PALETTE[..PALETTE.len().min(1 << bit_depth as u8)].concat().into());
        }
        info
    }

    /// Every colour type with every depth that PNG has for it. Of 16 bits the upper 8, not the nearest; grey three times;
    /// alpha dropped, not blended; and a colour that tRNS makes transparent stays what it is.
    #[test]
    fn colours_of_every_kind_of_png() {
        use BitDepth::{Eight, Four, One, Sixteen, Two};
        use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        let grey = |bytes: [u8; 4]| bytes.map(|byte| [byte; 3]).to_vec();
        let [first, second, third, last] = PALETTE;
        // Rounded, 0x12ff and 0x7fc0 would be 0x13 and 0x80.
        let deep = [[0x12, 0x7f, 0xfe], [0x00, 0xff, 0x80]];
        let none: &[u8] = &[];
        for (color_type, depth, row, transparent, expected) in [
            (Grayscale, One, &[0b0110_0000][..], &[0, 1][..], grey([0, 255, 255, 0])),
            (Grayscale, Two, &[0b00_01_10_11], &[0, 2], grey([0, 85, 170, 255])),
            (Grayscale, Four, &[0x01, 0x8f], &[0, 8], grey([0, 17, 136, 255])),
            (Grayscale, Eight, &[0, 1, 200, 255], &[0, 200], grey([0, 1, 200, 255])),
            (
                Grayscale,
                Sixteen,
                &[0, 0xff, 0x12, 0xff, 0x7f, 0xc0, 0xff, 0xff],
                &[0x12, 0xff],
                grey([0, 0x12, 0x7f, 0xff]),
            ),
            (Rgb, Eight, &[1, 2, 3, 200, 100, 50], &[0, 200, 0, 100, 0, 50], vec![[1, 2, 3], [200, 100, 50]]),
            (
                Rgb,
                Sixteen,
                &[0x12, 0xff, 0x7f, 0xc0, 0xfe, 0x00, 0x00, 0x80, 0xff, 0xff, 0x80, 0x00],
                &[0x12, 0xff, 0x7f, 0xc0, 0xfe, 0x00],
                deep.to_vec(),
            ),
            (Indexed, One, &[0b0100_0000], &[255, 0], vec![first, second]),
            (Indexed, Two, &[0b11_10_01_00], &[255, 255, 0], vec![last, third, second, first]),
            (Indexed, Four, &[0x03, 0x21], &[255, 255, 0], vec![first, last, third, second]),
            (Indexed, Eight, &[2, 0, 1, 3], &[255, 255, 0], vec![third, first, second, last]),
            (GrayscaleAlpha, Eight, &[200, 100, 7, 0], none, vec![[200; 3], [7; 3]]),
            (GrayscaleAlpha, Sixteen, &[0x12, 0xff, 0x80, 0, 0x7f, 0xc0, 0, 0], none, vec![[0x12; 3], [0x7f; 3]]),
            (Rgba, Eight, &[10, 20, 30, 100, 1, 2, 3, 0], none, vec![[10, 20, 30], [1, 2, 3]]),
            (
                Rgba,
                Sixteen,
                &[0x12, 0xff, 0x7f, 0xc0, 0xfe, 0x00, 0x80, 0, 0x00, 0x80, 0xff, 0xff, 0x80, 0x00, 0, 0],
                none,
                deep.to_vec(),
            ),
        ] {
            let name = format!("{color_type:?} of {depth:?} bits");
            let mut info = info(color_type, depth, [1, expected.len() as u32]);
            let rows = [&[0], row].concat();
            let pixels = decode(Path::new(&name), &file(info.clone(), &rows)).unwrap();
            assert_eq!(pixels.dim(), (1, expected.len(), 3), "{name}");
            assert_eq!(pixels.as_slice().unwrap(), expected.concat(), "{name}");
            if !transparent.is_empty() {
                info.trns = Some(transparent.into());
                assert_eq!(decode(Path::new(&name), &file(info, &rows)).unwrap(), pixels, "{name}, tRNS");
            }
        }
    }

    /// Found by the fuzz target.
    #[test]
    fn a_palette_of_parts_of_colours_is_rejected() {
        let mut info = info(ColorType::Indexed, BitDepth::Eight, [1, 1]);
        info.palette = Some(vec![1, 2, 3, 4].into());
        let message = decode(Path::new("x.png"), &file(info, &[0, 0])).unwrap_err().to_string();
        assert!(message.contains("a palette of 4 bytes"), "{message}");
    }

    /// Seven passes, one after the other, each with every so many rows and columns from a first one on.
    #[test]
    fn an_interlaced_picture_is_the_one_that_is_not() {
        const PASSES: [([usize; 2], [usize; 2]); 7] = [
            ([0, 0], [8, 8]),
            ([0, 4], [8, 8]),
            ([4, 0], [8, 4]),
            ([0, 2], [4, 4]),
            ([2, 0], [4, 2]),
            ([0, 1], [2, 2]),
            ([1, 0], [2, 1]),
        ];
        for (height, width) in [(1, 1), (3, 2), (9, 13)] {
            let pixels =
                Array3::from_shape_fn((height, width, 3), |(i, j, c)| (i * 71 + j * 31 + c * 101 + i * j) as u8);
            let mut rows = Vec::new();
            for ([top, left], [down, right]) in PASSES {
                for i in (top..height).step_by(down) {
                    let row: Vec<u8> =
                        (left..width).step_by(right).flat_map(|j| pixels.slice(s![i, j, ..]).to_vec()).collect();
                    // A row of a pass without columns is not in the file.
                    if !row.is_empty() {
                        rows.push(0);
                        rows.extend(row);
                    }
                }
            }
            let mut info = info(ColorType::Rgb, BitDepth::Eight, [height as u32, width as u32]);
            info.interlaced = true;
            assert_eq!(decode(Path::new("interlaced"), &file(info, &rows)).unwrap(), pixels, "{height}x{width}");
        }
    }

    #[test]
    fn the_orientation_is_found_before_and_after_the_pixels() {
        let exif = super::super::exif::tests::exif(b"II", 6);
        for is_first in [true, false] {
            let mut bytes = Vec::new();
            let info = info(ColorType::Grayscale, BitDepth::Eight, [1, 2]);
            let mut writer = Encoder::with_info(&mut bytes, info).unwrap().write_header().unwrap();
            if is_first {
                writer.write_chunk(chunk::eXIf, &exif).unwrap();
            }
            writer.write_image_data(&[1, 2]).unwrap();
            if !is_first {
                writer.write_chunk(chunk::eXIf, &exif).unwrap();
            }
            drop(writer);
            let found = super::super::decode(Path::new("x.png"), &bytes).unwrap();
            assert_eq!((found.orientation.number(), found.pixels.dim()), (6, (1, 2, 3)), "{is_first}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_names_the_program() {
        let pixels = Array3::from_shape_fn((5, 7, 3), |(i, j, c)| (i * 40 + j * 11 + c) as u8);
        let bytes = encode(pixels.view(), "a program").unwrap();
        assert_eq!(decode(Path::new("written"), &bytes).unwrap(), pixels);
        assert!(bytes.windows(18).any(|part| part == b"Software\0a program"));
        // What is not in standard layout is written by its indices.
        let transposed = pixels.view().permuted_axes([1, 0, 2]);
        assert_eq!(decode(Path::new("written"), &encode(transposed, "").unwrap()).unwrap(), transposed);
        assert!(encode(Array3::zeros((0, 7, 3)).view(), "").is_err());
    }
}
