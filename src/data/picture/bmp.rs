//! BMP: palettes of 1, 4 and 8 bits, also run-length encoded, and colours of 16, 24 and 32 bits with any masks.
//!
//! ```text
//! "BM"  size, 0, offset of the pixels     header: its size, width, height, planes, bits, …     palette     rows
//! ```
//!
//! Rows are padded to four bytes, the lowest one first unless the height is negative.

use super::exif::Orientation;
use super::{Decoded, Fault, broken, check_size, room};
use ndarray::Array2;

/// What the pixels are.
struct Header {
    height: usize,
    width: usize,
    is_upside_down: bool,
    bits: usize,
    compression: u32,
    /// Where the palette is, how many colours it has and the bytes of one.
    palette: [usize; 3],
    /// Which bits are red, green and blue.
    masks: [u32; 3],
    /// Where the pixels are.
    offset: usize,
}

/// Kinds of compression.
const NONE: u32 = 0;
const RUNS_OF_BYTES: u32 = 1;
const RUNS_OF_NIBBLES: u32 = 2;
const MASKS: u32 = 3;
const MASKS_WITH_ALPHA: u32 = 6;

/// The samples of a file.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let header = Header::read(bytes)?;
    let Header { height, width, bits, .. } = header;
    let mut samples = room(height, width, 3)?;
    let data = bytes.get(header.offset..).ok_or_else(truncated)?;
    let row = |i: usize| if header.is_upside_down { height - 1 - i } else { i };
    if let RUNS_OF_BYTES | RUNS_OF_NIBBLES = header.compression {
        let indices = runs(data, height, width, header.compression)?;
        for ((i, j), &index) in indices.indexed_iter() {
            samples.slice_mut(ndarray::s![row(i), j, ..]).assign(&ndarray::arr1(&header.colour(bytes, index.into())));
        }
    } else {
        let (used, stride) = ((width * bits).div_ceil(8), (width * bits).div_ceil(32) * 4);
        for i in 0..height {
            let line = data.get(i * stride..i * stride + used).ok_or_else(truncated)?;
            for (j, mut place) in samples.index_axis_mut(ndarray::Axis(0), row(i)).outer_iter_mut().enumerate() {
                let bytes_of =
                    |n: usize| line[j * n..][..n].iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
                let colour = match bits {
                    1 | 4 | 8 => {
                        let byte = usize::from(line[j * bits / 8]);
                        header.colour(bytes, byte >> (8 - bits - j * bits % 8) & ((1 << bits) - 1))
                    }
                    _ => header.masks.map(|mask| masked(bytes_of(bits / 8), mask)),
                };
                place.assign(&ndarray::arr1(&colour));
            }
        }
    }
    Ok(Decoded { samples, orientation: Orientation::NORMAL })
}

fn truncated() -> Fault {
    broken("truncated: the end of the BMP image is missing")
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let number = |at: usize, n: usize| -> Result<u32, Fault> {
            let value = bytes.get(at..at + n).ok_or_else(truncated)?;
            Ok(value.iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
        };
        let size = number(14, 4)? as usize;
        // The header of OS/2 has sides of two bytes.
        let is_short = size == 12;
        let (width, height, bits) = match size {
            12 => (number(18, 2)? as i32, number(20, 2)? as i32, number(24, 2)?),
            16 | 40 | 52 | 56 | 64 | 108 | 124 => (number(18, 4)? as i32, number(22, 4)? as i32, number(28, 2)?),
            _ => return Err(broken(format!("a BMP header of {size} bytes, which is not known"))),
        };
        let [compression, used] = match size {
            12 | 16 => [NONE, 0],
            _ => [number(30, 4)?, number(46, 4)?],
        };
        let is_known = match compression {
            NONE => matches!(bits, 1 | 4 | 8 | 16 | 24 | 32),
            RUNS_OF_BYTES => bits == 8,
            RUNS_OF_NIBBLES => bits == 4,
            MASKS | MASKS_WITH_ALPHA => matches!(bits, 16 | 32),
            _ => false,
        };
        if !is_known {
            return Err(broken(format!(
                "a BMP image of {bits} bits with compression {compression}, which is not supported"
            )));
        }
        let sides = [height.unsigned_abs() as usize, usize::try_from(width).unwrap_or(0)];
        check_size(sides[0], sides[1])?;
        let masks = match (compression, bits) {
            (MASKS | MASKS_WITH_ALPHA, _) => [number(54, 4)?, number(58, 4)?, number(62, 4)?],
            (_, 16) => [0x7c00, 0x03e0, 0x001f],
            _ => [0xff_0000, 0xff00, 0xff],
        };
        // Masks follow a header of 40 bytes; longer ones contain them.
        let after = 14 + size + if compression == MASKS && size == 40 { 12 } else { 0 };
        let colours = match (bits, used) {
            (1 | 4 | 8, 1..=256) => used as usize,
            (1 | 4 | 8, _) => 1 << bits,
            _ => 0,
        };
        let palette = [after, colours, if is_short { 3 } else { 4 }];
        let offset = match number(10, 4)? as usize {
            // Some programs forget the palette.
            offset if offset == after => offset + colours * palette[2],
            offset => offset,
        };
        Ok(Header {
            height: sides[0],
            width: sides[1],
            is_upside_down: height > 0,
            bits: bits as usize,
            compression,
            palette,
            masks,
            offset,
        })
    }

    /// A colour of the palette, which has blue first; black where it has none.
    fn colour(&self, bytes: &[u8], index: usize) -> [u8; 3] {
        let [at, count, size] = self.palette;
        let colour = bytes.get(at + index * size..).and_then(|rest| rest.first_chunk::<3>());
        match colour {
            Some(&[blue, green, red]) if index < count => [red, green, blue],
            _ => [0; 3],
        }
    }
}

/// The bits of `value` in `mask`, from 0 to 255.
fn masked(value: u32, mask: u32) -> u8 {
    let shift = mask.trailing_zeros().min(31);
    let [value, most] = [value & mask, mask].map(|bits| u64::from(bits >> shift));
    (255 * value).checked_div(most).unwrap_or(0) as u8
}

/// Indices of colours, in the order of the file's rows; those that no run covers are 0.
///
/// ```text
/// n  index        n pixels               0 n  index …   n pixels, n > 2, padded to two bytes
/// 0 0 the next row    0 1 the end    0 2 right up   the pixel so many columns to the right and rows up
/// ```
fn runs(data: &[u8], height: usize, width: usize, compression: u32) -> Result<Array2<u8>, Fault> {
    let mut indices = Array2::zeros((height, width));
    let (mut i, mut j, mut at) = (0, 0, 0);
    let is_nibbles = compression == RUNS_OF_NIBBLES;
    // Two indices of four bits are in turn the high and the low half of a byte.
    let half = |byte: u8, k: usize| if !is_nibbles { byte } else { byte >> (4 * (1 - k % 2)) & 15 };
    let mut put = |i: usize, j: usize, index: u8| indices.get_mut([i, j]).into_iter().for_each(|place| *place = index);
    while i < height {
        let &[count, value] = data.get(at..).and_then(|rest| rest.first_chunk::<2>()).ok_or_else(truncated)?;
        at += 2;
        match (usize::from(count), usize::from(value)) {
            (0, 0) => (i, j) = (i + 1, 0),
            (0, 1) => break,
            (0, 2) => {
                let &[right, up] = data.get(at..).and_then(|rest| rest.first_chunk::<2>()).ok_or_else(truncated)?;
                (i, j, at) = (i + usize::from(up), j + usize::from(right), at + 2);
            }
            (0, count) => {
                let length = if is_nibbles { count.div_ceil(2) } else { count };
                let values = data.get(at..at + length).ok_or_else(truncated)?;
                (0..count).for_each(|k| put(i, j + k, half(values[if is_nibbles { k / 2 } else { k }], k)));
                (j, at) = (j + count, at + length.next_multiple_of(2));
            }
            (count, _) => {
                (0..count).for_each(|k| put(i, j + k, half(value, k)));
                j += count;
            }
        }
    }
    Ok(indices)
}

#[cfg(test)]
mod tests {
    use super::super::tests::decode;
    use std::path::Path;

    /// A file with a header of 40 bytes; the palette of `colours` has blue first and a fourth byte.
    fn file([height, width]: [i32; 2], bits: u16, compression: u32, colours: &[u8], rows: &[u8]) -> Vec<u8> {
        let offset = 54 + colours.len() as u32;
        [
            &b"BM\0\0\0\0\0\0\0\0"[..],
            &offset.to_le_bytes(),
            &40u32.to_le_bytes(),
            &width.to_le_bytes(),
            &height.to_le_bytes(),
            &[1, 0],
            &bits.to_le_bytes(),
            &compression.to_le_bytes(),
            &[0; 20],
            colours,
            rows,
        ]
        .concat()
    }

    fn pixels(file: &[u8]) -> Vec<u8> {
        decode(Path::new("x.bmp"), file).unwrap_or_else(|error| panic!("{error}")).into_raw_vec_and_offset().0
    }

    /// Blue, green and red of colour k are 3 k + 1, 3 k + 2, 3 k + 3.
    fn palette(n: u8) -> Vec<u8> {
        (0..n).flat_map(|k| [3 * k + 1, 3 * k + 2, 3 * k + 3, 0]).collect()
    }

    fn colours(indices: &[u8]) -> Vec<u8> {
        indices.iter().flat_map(|k| [3 * k + 3, 3 * k + 2, 3 * k + 1]).collect()
    }

    #[test]
    fn colours_of_every_depth() {
        // Two rows of three pixels, the lower one first.
        for (bits, rows, expected) in [
            (1, vec![0b0110_0000, 0, 0, 0, 0b1000_0000, 0, 0, 0], [1, 0, 0, 0, 1, 1]),
            (4, vec![0x12, 0x30, 0, 0, 0x45, 0x60, 0, 0], [4, 5, 6, 1, 2, 3]),
            (8, vec![1, 2, 3, 0, 4, 5, 6, 0], [4, 5, 6, 1, 2, 3]),
        ] {
            let palette = palette(if bits == 1 { 2 } else { 16 });
            let mut whole = file([2, 3], bits, 0, &palette, &rows);
            // The number of colours, which would be 256 of 8 bits.
            whole[46] = palette.len() as u8 / 4;
            assert_eq!(pixels(&whole), colours(&expected), "{bits} bits");
            // From the top.
            whole[22..26].copy_from_slice(&(-2i32).to_le_bytes());
            let expected = [&expected[3..], &expected[..3]].concat();
            assert_eq!(pixels(&whole), colours(&expected), "{bits} bits, from the top");
            let message = decode(Path::new("x.bmp"), &whole[..whole.len() - 4]).unwrap_err().to_string();
            assert!(message.contains("truncated: the end of the BMP image is missing"), "{message}");
        }
        let masks = |masks: [u32; 3]| masks.map(u32::to_le_bytes).concat();
        for (bits, compression, masks, row, expected) in [
            (24, 0, vec![], vec![3, 2, 1, 6, 5, 4, 0, 0], [1, 2, 3, 4, 5, 6]),
            (32, 0, vec![], vec![3, 2, 1, 9, 6, 5, 4, 9], [1, 2, 3, 4, 5, 6]),
            (32, 3, masks([0xff, 0xff00, 0xff_0000]), vec![1, 2, 3, 9, 4, 5, 6, 9], [1, 2, 3, 4, 5, 6]),
            // Of 5 bits 1 is 255 / 31, rounded down; of 6 bits 255 / 63.
            (16, 0, vec![], vec![0x21, 0x04, 0xff, 0x7f], [8, 8, 8, 255, 255, 255]),
            (16, 3, masks([0xf800, 0x7e0, 0x1f]), vec![0x21, 0x08, 0xff, 0xff], [8, 4, 8, 255, 255, 255]),
        ] {
            let mut whole = file([1, 2], bits, compression, &masks, &row);
            assert_eq!(pixels(&whole), expected, "{bits} bits, compression {compression}");
            whole[30] = 4;
            assert!(decode(Path::new("x.bmp"), &whole).unwrap_err().to_string().contains("compression 4"));
        }
    }

    #[test]
    fn runs_of_bytes_and_of_nibbles() {
        // Below: three times 1, then 2 and 3 one by one with what follows; above, two to the right: 4; the rest is 0.
        let bytes = [3, 1, 0, 3, 2, 3, 2, 0, 0, 0, 0, 2, 2, 0, 1, 4, 0, 1];
        let expected = [0, 0, 4, 0, 0, 0, 1, 1, 1, 2, 3, 2];
        assert_eq!(pixels(&file([2, 6], 8, 1, &palette(16).repeat(16), &bytes)), colours(&expected));
        let nibbles = [3, 0x11, 0, 3, 0x23, 0x20, 0, 0, 0, 2, 2, 0, 1, 0x40, 0, 1];
        assert_eq!(pixels(&file([2, 6], 4, 2, &palette(16), &nibbles)), colours(&expected));
        // A run takes the high and the low half in turn, and ends with the row.
        let nibbles = [7, 0x12, 0, 0, 6, 0x34, 0, 1];
        let expected = [3, 4, 3, 4, 3, 4, 1, 2, 1, 2, 1, 2];
        assert_eq!(pixels(&file([2, 6], 4, 2, &palette(16), &nibbles)), colours(&expected));
        let message =
            decode(Path::new("x.bmp"), &file([2, 6], 4, 2, &palette(16), &[3, 0x11])).unwrap_err().to_string();
        assert!(message.contains("truncated"), "{message}");
    }
}
