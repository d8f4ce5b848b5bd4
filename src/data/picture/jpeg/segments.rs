//! The segments of a file (T.81, annex B): tables, the frame header, and the scans.
//!
//! ```text
//! ff xx  length (2 bytes, with itself)  content        xx = c0 frame header, c4 Huffman tables, da scan header, …
//! ```

use super::huffman::{Table, next_marker};
use super::{Colours, Component, Fault, Frame, broken, scan, standard, truncated};
use crate::data::picture::check_size;

/// In which order a file lists the 64 frequencies of a block: the place of each in rows and columns.
pub const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// What the next scan uses; four of each table.
pub struct Tables {
    pub quantization: [Option<[u16; 64]>; 4],
    pub dc: [Option<Table>; 4],
    pub ac: [Option<Table>; 4],
    /// Units between two restart markers, or 0.
    pub restart_interval: usize,
}

/// Reads the whole file, to the samples of every component.
pub fn read(bytes: &[u8]) -> Result<Frame, Fault> {
    let [dc, ac] = standard::tables();
    let mut tables = Tables { quantization: [None; 4], dc, ac, restart_interval: 0 };
    let mut frame: Option<Frame> = None;
    let (mut jfif, mut adobe, mut first_scan) = (false, None, true);
    let (mut exif, mut xmp) = (Vec::new(), Vec::new());
    let mut at = 2;
    loop {
        let (marker, start) = next_marker(bytes, at).ok_or_else(truncated)?;
        let content = match marker {
            // End of image.
            0xd9 => break,
            // Restart, and a marker for encoders: without a length.
            0x01 | 0xd0..=0xd7 => &[],
            0x02..=0xbf | 0xd8 | 0xf0..=0xfd => {
                return Err(broken(format!("damaged: an unknown segment ff {marker:02x}")));
            }
            _ => {
                let length = bytes.get(start..start + 2).ok_or_else(truncated)?;
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                if length < 2 {
                    return Err(broken(format!("damaged: segment ff {marker:02x} has length {length}")));
                }
                bytes.get(start + 2..start + length).ok_or_else(truncated)?
            }
        };
        at = match content.len() {
            0 if matches!(marker, 0x01 | 0xd0..=0xd7) => start,
            length => start + 2 + length,
        };
        match marker {
            0xc0..=0xc2 if frame.is_none() => frame = Some(Frame::new(content, marker == 0xc2)?),
            0xc0..=0xc2 => return Err(broken("damaged: two frame headers")),
            0xc3 | 0xc7 => return Err(unsupported("a lossless")),
            0xc5 | 0xc6 | 0xde => return Err(unsupported("a hierarchical")),
            0xc9..=0xcf => return Err(unsupported("an arithmetic-coded")),
            0xc4 => tables.huffman(content)?,
            0xdb => tables.quantization(content)?,
            0xdd => match content {
                [high, low] => tables.restart_interval = u16::from_be_bytes([*high, *low]).into(),
                _ => return Err(broken("damaged: a restart interval without its two bytes")),
            },
            0xe0 => jfif |= first_scan && content.len() >= 14 && content.starts_with(b"JFIF\0"),
            0xee if first_scan && content.len() >= 12 && content.starts_with(b"Adobe") => adobe = Some(content[11]),
            0xe1 if first_scan => {
                // EXIF of more than 64 KiB continues in the next segment.
                if let Some(more) = content.strip_prefix(b"Exif\0\0") {
                    exif.extend(more);
                } else if let Some(whole) = content.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
                    xmp = whole.to_vec();
                }
            }
            0xda => {
                let frame = frame.as_mut().ok_or_else(|| broken("damaged: a scan before the frame header"))?;
                if first_scan {
                    frame.colours = frame.choose_colours(jfif, adobe);
                    first_scan = false;
                }
                let is_all;
                (at, is_all) = scan::read(bytes, at, content, &tables, frame)?;
                if is_all {
                    break;
                }
            }
            // Other programs' data, comments, …
            _ => {}
        }
    }
    let mut frame = frame.ok_or_else(|| broken("truncated: there is no frame header"))?;
    frame.finish()?;
    (frame.exif, frame.xmp) = (exif, xmp);
    Ok(frame)
}

fn unsupported(kind: &str) -> Fault {
    broken(format!(
        "expected a JPEG image with Huffman codes and 8 bits, found {kind} one; convert it with another program"
    ))
}

impl Tables {
    /// Each: class and number, how many codes there are of 1 to 16 bits, their symbols.
    fn huffman(&mut self, mut content: &[u8]) -> Result<(), Fault> {
        while let [what, rest @ ..] = content {
            let Some((counts, rest)) = rest.split_first_chunk::<16>() else { return Err(damaged_table()) };
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let Some((symbols, rest)) = rest.split_at_checked(total) else { return Err(damaged_table()) };
            let tables = match what >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(damaged_table()),
            };
            *tables.get_mut(usize::from(what & 15)).ok_or_else(damaged_table)? = Some(Table::new(counts, symbols)?);
            content = rest;
        }
        Ok(())
    }

    /// Each: bytes of a value (0: one, 1: two) and number, 64 values.
    fn quantization(&mut self, mut content: &[u8]) -> Result<(), Fault> {
        while let [what, rest @ ..] = content {
            let bytes = if what >> 4 == 0 { 1 } else { 2 };
            let Some((values, rest)) = rest.split_at_checked(64 * bytes) else { return Err(damaged_table()) };
            let table = self.quantization.get_mut(usize::from(what & 15)).ok_or_else(damaged_table)?;
            let table = table.insert([0; 64]);
            for (&place, value) in ZIGZAG.iter().zip(values.chunks(bytes)) {
                table[usize::from(place)] = value.iter().fold(0, |sum, &byte| sum << 8 | u16::from(byte));
            }
            content = rest;
        }
        Ok(())
    }
}

fn damaged_table() -> Fault {
    broken("damaged: a segment that does not hold its tables")
}

impl Frame {
    /// The frame header: bits of a sample, height, width, and of every component number, sampling factors and table.
    fn new(content: &[u8], progressive: bool) -> Result<Self, Fault> {
        let Some((&[bits, h1, h0, w1, w0, count], parts)) = content.split_first_chunk::<6>() else {
            return Err(broken("damaged: a frame header of less than six bytes"));
        };
        let size = [[h1, h0], [w1, w0]].map(|side| usize::from(u16::from_be_bytes(side)));
        if bits != 8 {
            return Err(unsupported(&format!("a {bits}-bit")));
        }
        if !matches!(count, 1 | 3 | 4) || parts.len() != 3 * usize::from(count) {
            return Err(broken(format!("expected a JPEG image with 1, 3 or 4 components, found {count}")));
        }
        if size.contains(&0) {
            return Err(broken(format!("expected an image with pixels, found one of {}x{}", size[0], size[1])));
        }
        check_size(size[0], size[1])?;
        let samplings: Vec<[usize; 2]> =
            parts.chunks(3).map(|part| [part[1] & 15, part[1] >> 4].map(usize::from)).collect();
        let most = [0, 1].map(|axis| samplings.iter().map(|sampling| sampling[axis]).max().unwrap_or(1));
        let fits =
            |axis: usize| samplings.iter().all(|s| matches!(s[axis], 1..=4) && most[axis].is_multiple_of(s[axis]));
        if !fits(0) || !fits(1) {
            return Err(broken("the sampling factors of a component do not divide those of another"));
        }
        let component = |(part, sampling): (&[u8], [usize; 2])| {
            // Units of an interleaved scan: one block of the coarsest component.
            let units = [0, 1].map(|axis| size[axis].div_ceil(8 * most[axis]));
            let blocks = [0, 1].map(|axis| units[axis] * sampling[axis]);
            let count = blocks[0] * blocks[1];
            Component {
                id: part[0],
                sampling,
                table: part[2].into(),
                quantization: None,
                size: [0, 1].map(|axis| (size[axis] * sampling[axis]).div_ceil(most[axis])),
                blocks,
                samples: vec![0; 64 * count],
                coefficients: vec![[0; 64]; if progressive { count } else { 0 }],
                missing_bits: [None; 64],
            }
        };
        let components = parts.chunks(3).zip(samplings.iter().copied()).map(component).collect();
        Ok(Frame {
            height: size[0],
            width: size[1],
            progressive,
            most,
            components,
            colours: Colours::Grey,
            exif: Vec::new(),
            xmp: Vec::new(),
        })
    }

    /// What the components are; the standard does not say. As libjpeg guesses: first by JFIF, which allows only YCbCr, then
    /// by the number in Adobe's segment, then by the names of the components.
    fn choose_colours(&self, jfif: bool, adobe: Option<u8>) -> Colours {
        let ids: Vec<u8> = self.components.iter().map(|component| component.id).collect();
        match (ids.len(), adobe) {
            (1, _) => Colours::Grey,
            (3, _) if jfif => Colours::YCbCr,
            (3, Some(0)) => Colours::Rgb,
            (3, None) if ids == *b"RGB" => Colours::Rgb,
            (3, _) => Colours::YCbCr,
            (_, None | Some(0)) => Colours::Cmyk,
            (_, Some(_)) => Colours::Ycck,
        }
    }

    /// After the last scan: whether every component is there, and the transform of what was collected.
    fn finish(&mut self) -> Result<(), Fault> {
        for component in &mut self.components {
            // Without one of the first ten frequencies, libjpeg smooths the blocks.
            let is_known = |missing: &Option<u8>| *missing == Some(0);
            let is_whole = !self.progressive || component.missing_bits[..10].iter().all(is_known);
            if component.quantization.is_none() || !is_whole {
                return Err(broken(format!("truncated: scans of component {} are missing", component.id)));
            }
            let blocks = std::mem::take(&mut component.coefficients);
            for (k, block) in blocks.iter().enumerate() {
                let columns = component.blocks[1];
                component.transform(block, [k / columns, k % columns]);
            }
        }
        Ok(())
    }
}
