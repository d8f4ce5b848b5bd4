//! GIF, with the crate `gif`: the first frame of an animation, on the whole picture.
//!
//! As Pillow has it: what the frame does not cover has its transparent colour, or the first one; a transparent colour is the
//! one that the palette has; and the picture is as large as the frame needs.

use super::exif::Orientation;
use super::{Decoded, Fault, MOST_BYTES, broken, room};
use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use ndarray::s;
use std::num::NonZeroU64;

/// The samples of the first frame.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(NonZeroU64::new(MOST_BYTES).expect("not 0")));
    options.allow_unknown_blocks(true);
    let mut decoder = options.read_info(bytes)?;
    let screen = [decoder.height(), decoder.width()].map(usize::from);
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame()?.ok_or_else(|| broken("a GIF file without a picture"))?;
    let [top, left, height, width] = [frame.top, frame.left, frame.height, frame.width].map(usize::from);
    // Without any palette, grey.
    let grey = || (0..=255).flat_map(|value| [value; 3]).collect();
    let palette = frame.palette.clone().or(global).unwrap_or_else(grey);
    let colour = |index: u8| {
        palette.get(3 * usize::from(index)..).and_then(|rest| rest.first_chunk::<3>()).copied().unwrap_or([0; 3])
    };
    let mut samples = room(screen[0].max(top + height), screen[1].max(left + width), 3)?;
    if samples.dim() != (height, width, 3) {
        let outside = colour(frame.transparent.unwrap_or(0));
        samples.lanes_mut(ndarray::Axis(2)).into_iter().for_each(|mut pixel| pixel.assign(&ndarray::arr1(&outside)));
    }
    let mut inside = samples.slice_mut(s![top..top + height, left..left + width, ..]);
    for (mut pixel, &index) in inside.lanes_mut(ndarray::Axis(2)).into_iter().zip(frame.buffer.iter()) {
        pixel.assign(&ndarray::arr1(&colour(index)));
    }
    Ok(Decoded { samples, orientation: Orientation::NORMAL })
}

impl From<DecodingError> for Fault {
    fn from(error: DecodingError) -> Self {
        Fault::Broken(format!("not a whole GIF image: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::decode;
    use gif::{Encoder, Frame};
    use std::borrow::Cow;
    use std::path::Path;

    const GLOBAL: [u8; 12] = [1, 2, 3, 40, 50, 60, 70, 80, 90, 250, 240, 230];

    fn file(screen: [u16; 2], frames: &[Frame<'_>]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), screen[1], screen[0], &GLOBAL).unwrap();
        frames.iter().for_each(|frame| encoder.write_frame(frame).unwrap());
        encoder.into_inner().unwrap()
    }

    fn frame([top, left, height, width]: [u16; 4], indices: &[u8]) -> Frame<'_> {
        Frame { top, left, height, width, buffer: Cow::Borrowed(indices), ..Frame::default() }
    }

    #[test]
    fn the_first_frame_is_on_the_whole_picture() {
        let [first, second, third, last] = [[1, 2, 3], [40, 50, 60], [70, 80, 90], [250, 240, 230]];
        let pixels = |file: &[u8]| decode(Path::new("x.gif"), file).unwrap();
        let whole = frame([0, 0, 2, 2], &[3, 2, 1, 0]);
        let other = frame([0, 0, 2, 2], &[0; 4]);
        let y = pixels(&file([2, 2], &[whole.clone(), other]));
        assert_eq!((y.dim(), y.as_slice().unwrap()), ((2, 2, 3), &[last, third, second, first].concat()[..]));
        // A palette of its own; a transparent colour keeps its colour.
        let local = Frame { palette: Some(GLOBAL.iter().rev().copied().collect()), transparent: Some(3), ..whole };
        let y = pixels(&file([2, 2], &[local]));
        assert_eq!(y.as_slice().unwrap(), [[3, 2, 1], [60, 50, 40], [90, 80, 70], [230, 240, 250]].concat());
        // A part of the picture, and one that is larger than it.
        for (transparent, outside) in [(None, first), (Some(2), third)] {
            let part = Frame { transparent, ..frame([1, 0, 1, 2], &[3, 2]) };
            let y = pixels(&file([2, 3], std::slice::from_ref(&part)));
            assert_eq!(y.as_slice().unwrap(), [outside, outside, outside, last, third, outside].concat());
            let y = pixels(&file([1, 1], &[part]));
            assert_eq!((y.dim(), y.as_slice().unwrap()), ((2, 2, 3), &[outside, outside, last, third].concat()[..]));
        }
    }

    #[test]
    fn what_is_missing_is_not_made_up() {
        let whole = file([2, 2], &[frame([0, 0, 2, 2], &[3, 2, 1, 0])]);
        for end in 6..whole.len() - 4 {
            let message = decode(Path::new("x.gif"), &whole[..end]).unwrap_err().to_string();
            assert!(message.contains("GIF"), "{end}: {message}");
        }
    }
}
