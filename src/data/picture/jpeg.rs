//! JPEG: baseline, extended and progressive, Huffman coding, 8 bits per sample (ITU-T T.81), to the bytes of libjpeg-turbo.
//!
//! ```text
//! segments   tables, frame header, scan headers                                    segments.rs
//! scans      Huffman codes to coefficients of blocks of 8 x 8                      huffman.rs, scan.rs
//! planes     the inverse discrete cosine transform of each block                   idct.rs
//! pixels     planes of fewer samples are enlarged, YCbCr and CMYK become RGB       colour.rs
//! ```
//!
//! The standard leaves the rounding of the transform and the whole of the last step to the decoder. Nearly every program
//! leaves both to libjpeg, and networks are trained on what comes out of it; so this is libjpeg's arithmetic, in whole
//! numbers. No crate has it for every file (`docs/architecture.md` has the comparison), and wrong pixels come without an
//! error.
//!
//! # Trust
//!
//! A file that ends early is an error, and so are a code that no table has, a missing restart marker, and scans that leave
//! out a component or coefficients: libjpeg warns, and fills with grey or smooths. Bytes between segments that belong to
//! none are skipped, as there.
//!
//! Beside the pixels a sequential picture needs memory for its planes, one byte for each sample; a progressive one two
//! bytes more, for its coefficients.

mod colour;
mod huffman;
mod idct;
mod scan;
mod segments;
mod standard;
#[cfg(test)]
mod tests;

use super::exif::orientation;
use super::{Decoded, Fault, broken, room};

/// How every file starts: "start of image", and the first byte of the next marker.
pub(super) const START: &[u8] = &[0xff, 0xd8, 0xff];

/// The samples of a file: grey, or red, green and blue, which YCbCr, CMYK and YCCK become.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let frame = segments::read(bytes)?;
    let mut samples = room(frame.height, frame.width, if frame.components.len() == 1 { 1 } else { 3 })?;
    colour::convert(&frame, samples.as_slice_mut().expect("standard layout"));
    Ok(Decoded { samples, orientation: orientation(&frame.exif, &frame.xmp) })
}

/// What the segments before the first scan describe, and what the scans fill.
struct Frame {
    height: usize,
    width: usize,
    progressive: bool,
    /// The largest sampling factors of all components.
    most: [usize; 2],
    components: Vec<Component>,
    colours: Colours,
    exif: Vec<u8>,
    xmp: Vec<u8>,
}

/// What the components are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Colours {
    Grey,
    YCbCr,
    Rgb,
    Cmyk,
    /// CMYK with C, M and Y as YCbCr.
    Ycck,
}

/// A component: a plane of samples, coarser than the picture if its sampling factors are less than the largest ones.
struct Component {
    id: u8,
    /// Sampling factors, vertical and horizontal: blocks of a unit of an interleaved scan.
    sampling: [usize; 2],
    /// Which quantisation table, and, from its first scan on, that table.
    table: usize,
    quantization: Option<[u16; 64]>,
    /// Rows and columns of samples, without what fills the last blocks.
    size: [usize; 2],
    /// Rows and columns of blocks, with those that fill the last units.
    blocks: [usize; 2],
    /// `(8 · blocks[0], 8 · blocks[1])`.
    samples: Vec<u8>,
    /// Of a progressive picture: block by block, in rows and columns of frequencies.
    coefficients: Vec<[i16; 64]>,
    /// Of a progressive picture: how many low bits of each coefficient are missing; `None` where no scan had it.
    missing_bits: [Option<u8>; 64],
}

impl Component {
    /// The inverse transform of a block, into its place among the samples.
    fn transform(&mut self, block: &[i16; 64], [i, j]: [usize; 2]) {
        let stride = 8 * self.blocks[1];
        let place = 8 * i * stride + 8 * j;
        let rows = idct::inverse(block, self.quantization.as_ref().expect("taken at the first scan"));
        for (row, samples) in rows.iter().zip(self.samples[place..].chunks_mut(stride)) {
            samples[..8].copy_from_slice(row);
        }
    }
}

fn truncated() -> Fault {
    broken("truncated: the end of the JPEG image is missing")
}
