//! From planes to pixels: samples between samples, and red, green and blue, as `jdsample.c` and `jdcolor.c` of libjpeg
//! compute them.

use super::{Colours, Component, Frame};
use crate::data::picture::mix;

/// The pixels of the picture, row by row: one byte for each of a grey one, else three.
pub fn convert(frame: &Frame, pixels: &mut [u8]) {
    let mut lines = [const { Vec::new() }; 4].map(|mut line: Vec<u8>| {
        line.resize(frame.width, 0);
        line
    });
    let channels = if frame.colours == Colours::Grey { 1 } else { 3 };
    for (i, row) in pixels.chunks_mut(frame.width * channels).enumerate() {
        for (component, line) in frame.components.iter().zip(&mut lines) {
            component.line(i, frame.most, line);
        }
        match frame.colours {
            Colours::Grey => row.copy_from_slice(&lines[0]),
            Colours::Rgb => each(row, &lines, |[r, g, b, _]| [r, g, b]),
            Colours::YCbCr => each(row, &lines, |[y, cb, cr, _]| rgb(y, cb, cr)),
            Colours::Cmyk => each(row, &lines, |[c, m, y, k]| mix([c, m, y], k)),
            Colours::Ycck => each(row, &lines, |[y, cb, cr, k]| mix(rgb(y, cb, cr).map(|ink| 255 - ink), k)),
        }
    }
}

/// The three bytes of each pixel of a row, from one sample of each line.
fn each(row: &mut [u8], lines: &[Vec<u8>; 4], pixel: impl Fn([u8; 4]) -> [u8; 3]) {
    let [a, b, c, d] = lines;
    for ((((place, &a), &b), &c), &d) in row.chunks_exact_mut(3).zip(a).zip(b).zip(c).zip(d) {
        place.copy_from_slice(&pixel([a, b, c, d]));
    }
}

/// YCbCr of JFIF; constants with 16 bits after the point.
///
/// ```text
/// R = Y + 1.402 (Cr − 128)
/// G = Y − 0.344136 (Cb − 128) − 0.714136 (Cr − 128)
/// B = Y + 1.772 (Cb − 128)
/// ```
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let [y, cb, cr] = [i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128];
    const HALF: i32 = 1 << 15;
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

impl Component {
    /// Row `i` of the picture, as wide as it is; `most` are the largest sampling factors.
    ///
    /// Where the component has half as many rows or columns, a sample lies a quarter from one of its own, three quarters
    /// from another: ¾ and ¼ of them. The halves are rounded up and down in turn. Other ratios repeat samples, and so do
    /// rows of one or two of them.
    fn line(&self, i: usize, most: [usize; 2], line: &mut [u8]) {
        let [down, right] = [0, 1].map(|axis| most[axis] / self.sampling[axis]);
        let row = |i: usize| &self.samples[i * 8 * self.blocks[1]..][..self.size[1]];
        let near = row(i / down);
        let far = || match i % 2 {
            0 => row((i / 2).saturating_sub(1)),
            _ => row((i / 2 + 1).min(self.size[0] - 1)),
        };
        let is_wide = self.size[1] > 2;
        match (down, right) {
            (1, 1) => line.copy_from_slice(near),
            (1, 2) if is_wide => between(|j| u32::from(near[j]), self.size[1], 2, [1, 2], line),
            (2, 1) => {
                let half = 1 + (i % 2) as u32;
                for ((y, &near), &far) in line.iter_mut().zip(near).zip(far()) {
                    *y = ((3 * u32::from(near) + u32::from(far) + half) >> 2) as u8;
                }
            }
            (2, 2) if is_wide => {
                let far = far();
                between(|j| 3 * u32::from(near[j]) + u32::from(far[j]), self.size[1], 4, [8, 7], line);
            }
            _ => line.iter_mut().enumerate().for_each(|(j, y)| *y = near[j / right]),
        }
    }
}

/// Twice as many values as the `n` of `x`, rounded at `bits` after the addition of `halves`, the first to those on the left.
fn between(x: impl Fn(usize) -> u32, n: usize, bits: u32, halves: [u32; 2], line: &mut [u8]) {
    for (k, pair) in line.chunks_mut(2).enumerate() {
        let neighbours = [x(k.saturating_sub(1)), x((k + 1).min(n - 1))];
        for ((y, neighbour), half) in pair.iter_mut().zip(neighbours).zip(halves) {
            *y = ((3 * x(k) + neighbour + half) >> bits) as u8;
        }
    }
}
