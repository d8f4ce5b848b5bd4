//! Another size, as torchvision gives it to an image of Pillow.
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

use crate::data::Framing;
use ndarray::{Array3, ArrayView3, s};
use std::ops::Range;

/// The middle `(S, S, 3)` of `picture (h, w, 3)` after its shorter side was made R.
///
/// # Panics
/// If the picture or the square is empty, or the square larger than the resized picture.
pub fn resize_and_crop(picture: ArrayView3<'_, u8>, framing: impl Into<Framing>) -> Array3<u8> {
    let Framing { resize, crop } = framing.into();
    let (h, w, _) = picture.dim();
    let shorter = h.min(w);
    let window = |side: usize| {
        let resized = resize * side / shorter;
        let first = centre(resized, crop);
        Axis::new(side, resized, first..first + crop)
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
    /// Fractional bits of a weight.
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

#[cfg(test)]
mod tests {
    use super::super::tests::sum;
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

    /// Sums Σ (k + 1) y[k] of what `CenterCrop(S)(Resize(R)(image))` of torchvision 0.29.2 gives with Pillow 12.0.0 and
    /// 13.0.0; made smaller, larger, and cut.
    #[test]
    fn sums_of_what_torchvision_gives() {
        for (h, w, resize, crop, expected) in [
            (51, 37, 20, 20, 90191920),
            (23, 37, 32, 32, 576073082),
            (97, 201, 24, 24, 186809303),
            (97, 201, 29, 24, 186622330),
            (51, 37, 32, 28, 346226663),
            (301, 240, 256, 224, 1414344640994),
        ] {
            let byte = |(i, j, c)| ((i * 71 + j * 31 + c * 101 + (i * j) % 17 * 9) % 251) as u8;
            let y = resize_and_crop(Array::from_shape_fn((h, w, 3), byte).view(), Framing { resize, crop });
            assert_eq!(sum(y.view()), expected, "{h}x{w} to {resize}, {crop}");
        }
    }
}
