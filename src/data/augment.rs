//! Random crop and flip: the same picture, slightly different every epoch.
//!
//! A photograph of a frog shifted by three pixels is a photograph of a frog, and so is its mirror image. Training on
//! such variants teaches the network to ignore shift and mirroring (He et al. 2015 §4.2: "4 pixels are padded on each
//! side, and a 32x32 crop is randomly sampled from the padded image or its horizontal flip").
//!
//! With padding P, an image p (H, W, 3) and random whole numbers top, left in 0..=2P:
//!
//! ```text
//! padded[i, j] = p[i − P, j − P] inside the image, 0 outside          (H + 2P, W + 2P, 3)
//! crop[i, j]   = padded[i + top, j + left]                            (H, W, 3)
//! y[i, j]      = normalize(crop[i, j])            not flipped
//!              = normalize(crop[i, W − 1 − j])    flipped, with probability 1/2
//! ```
//!
//! The padding is black *before* normalization, as in torchvision's `RandomCrop` of an image: after it, padded pixels
//! are (0 − mean)/std, about −2, not 0. (Padding the normalized image with 0 would pad with the mean colour instead:
//! a different recipe, which looks almost the same in code.) Flipping after the crop is torchvision's order, too; as top
//! and left are uniform, the other order gives the same distribution.
//!
//! *Cutout* (DeVries & Taylor 2017, arXiv 1708.04552) then hides a square of side L of every image, so that the network
//! cannot rely on one detail alone, such as the eyes of a frog:
//!
//! ```text
//! y[i, j] = 0     for i − r + L/2 and j − s + L/2 in 0..L, with a random pixel (r, s) of the image (L/2 rounded down)
//! ```
//!
//! The middle of the square is inside the image, the square need not be. 0 *after* normalization is the mean colour, as in
//! the authors' code.
//!
//! A [`Variant`] depends only on (seed, epoch, index of the image); the crop is written directly into the
//! batch through the [`NormalizationTable`], without a padded copy.

use super::{NormalizationTable, below};
use crate::Scalar;
use crate::rng::{Purpose, stream};
use std::ops::Range;

/// Which random variants of an image are generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// P: pixels of black added on each side before a window of the original size is cut out.
    pub crop_padding: usize,
    /// Whether half of the images are mirrored left to right.
    pub flip: bool,
    /// L: side of the hidden square; 0 hides nothing.
    pub cutout: usize,
}

impl Augmentation {
    /// Every image unchanged.
    pub const NONE: Augmentation = Augmentation { crop_padding: 0, flip: false, cutout: 0 };
    /// The recipe of the paper: padding 4 and flips.
    pub const STANDARD: Augmentation = Augmentation { crop_padding: 4, flip: true, cutout: 0 };

    /// The variant in `epoch` of image `index`, which has `height` x `width` pixels.
    ///
    /// Independent draws, in the order top, left, flip, r, s. All are always drawn, so an image's flips do not change when
    /// crops are switched off.
    pub fn variant(&self, seed: u64, epoch: u64, index: usize, [height, width]: [usize; 2]) -> Variant {
        let mut rng = stream(seed, Purpose::Augment, &[epoch, index as u64]);
        let offsets = 2 * self.crop_padding as u64 + 1;
        let top = below(offsets, &mut rng) as usize;
        let left = below(offsets, &mut rng) as usize;
        let flip = below(2, &mut rng) == 1 && self.flip;
        let middle = [height, width].map(|pixels| below(pixels.max(1) as u64, &mut rng) as usize);
        let hole = (self.cutout > 0).then_some(Hole { middle, side: self.cutout });
        Variant { padding: self.crop_padding, top, left, flip, hole }
    }
}

/// One window into a padded image, perhaps mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// P: pixels of black on each side.
    pub padding: usize,
    /// First row of the window in the padded image; P is the centre.
    pub top: usize,
    /// First column of the window in the padded image; P is the centre.
    pub left: usize,
    /// Whether the window is mirrored left to right.
    pub flip: bool,
    /// The hidden square, if any.
    pub hole: Option<Hole>,
}

/// A square of an image, part of which may lie outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// (r, s): the pixel in its middle, or below and to the right of the middle if the side is even.
    pub middle: [usize; 2],
    /// L.
    pub side: usize,
}

impl Hole {
    /// Its rows (axis 0) or columns (axis 1) in an image with this many of them.
    fn range(&self, axis: usize, len: usize) -> Range<usize> {
        let end = (self.middle[axis] + self.side).saturating_sub(self.side / 2);
        self.middle[axis].saturating_sub(self.side / 2)..end.min(len)
    }
}

impl Variant {
    /// Writes this variant of `image (H, W, 3)`, normalized, to `y (H, W, 3)`, both contiguous; `width` is W.
    ///
    /// # Panics
    /// If `y` is not as long as `image`, or neither is whole rows of W pixels.
    pub fn write<T: Scalar>(&self, image: &[u8], width: usize, table: &NormalizationTable<T>, y: &mut [T]) {
        assert_eq!(image.len(), y.len(), "Variant::write: y is not as long as the image");
        assert_eq!(image.len() % (3 * width).max(1), 0, "Variant::write: not whole rows of {width} pixels");
        let (pixels, _) = image.as_chunks::<3>();
        let (y, _) = y.as_chunks_mut::<3>();
        let height = pixels.len() / width.max(1);
        let black = table.pixel(&[0; 3]);

        for (i, y_row) in y.chunks_exact_mut(width.max(1)).enumerate() {
            // Row of the image under row i of the window, if there is one.
            let row = (i + self.top).checked_sub(self.padding).filter(|&row| row < height);
            let Some(row) = row.map(|row| &pixels[row * width..(row + 1) * width]) else {
                y_row.fill(black);
                continue;
            };
            for (j, y_pixel) in y_row.iter_mut().enumerate() {
                let j = if self.flip { width - 1 - j } else { j };
                let column = (j + self.left).checked_sub(self.padding);
                *y_pixel = column.and_then(|column| row.get(column)).map_or(black, |pixel| table.pixel(pixel));
            }
        }
        if let Some(hole) = self.hole {
            for i in hole.range(0, height) {
                y[i * width..(i + 1) * width][hole.range(1, width)].fill([T::zero(); 3]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Normalization;
    use super::super::tests::counting;
    use super::*;
    use ndarray::{Array3, s};

    /// The header's equations, step by step with whole arrays: pad, crop, flip, normalize.
    fn naive(image: &Array3<u8>, variant: Variant) -> Array3<f64> {
        let (h, w, _) = image.dim();
        let p = variant.padding;
        let mut padded = Array3::<u8>::zeros((h + 2 * p, w + 2 * p, 3));
        padded.slice_mut(s![p..p + h, p..p + w, ..]).assign(image);
        let (top, left) = (variant.top, variant.left);
        let mut crop = padded.slice(s![top..top + h, left..left + w, ..]).to_owned();
        if variant.flip {
            crop.invert_axis(ndarray::Axis(1));
        }
        let (mean, std) = (Normalization::CIFAR10.mean(), Normalization::CIFAR10.std());
        let hidden = |i: usize, j: usize| {
            variant.hole.is_some_and(|Hole { middle: [r, s], side }| {
                let (i, j) = (i + side / 2, j + side / 2);
                (r..r + side).contains(&i) && (s..s + side).contains(&j)
            })
        };
        Array3::from_shape_fn((h, w, 3), |(i, j, c)| match hidden(i, j) {
            true => 0.0,
            false => (f64::from(crop[[i, j, c]]) / 255.0 - mean[c]) / std[c],
        })
    }

    #[test]
    fn every_window_and_its_mirror_image_equal_the_naive_ones() {
        // Height, width and padding differ; the largest padding leaves windows that contain nothing of the image.
        let table = Normalization::CIFAR10.table::<f64>();
        for (h, w, padding) in [(5, 7, 2), (3, 2, 4), (4, 4, 0)] {
            let image = counting(1, h, w).image(0).to_owned();
            for top in 0..=2 * padding {
                for left in 0..=2 * padding {
                    for flip in [false, true] {
                        let variant = Variant { padding, top, left, flip, hole: None };
                        let mut y = Array3::from_elem((h, w, 3), f64::NAN);
                        variant.write(image.as_slice().unwrap(), w, &table, y.as_slice_mut().unwrap());
                        assert_eq!(y, naive(&image, variant), "{variant:?}");
                    }
                }
            }
        }
    }

    /// Squares of even and odd sides, inside, across every border and larger than the image.
    #[test]
    fn a_hole_hides_the_pixels_that_its_definition_names() {
        let table = Normalization::CIFAR10.table::<f64>();
        let image = counting(1, 4, 6).image(0).to_owned();
        for side in [1, 2, 3, 4, 13] {
            for middle in (0..4).flat_map(|r| (0..6).map(move |s| [r, s])) {
                let hole = Some(Hole { middle, side });
                let variant = Variant { padding: 1, top: 0, left: 2, flip: true, hole };
                let mut y = Array3::from_elem((4, 6, 3), f64::NAN);
                variant.write(image.as_slice().unwrap(), 6, &table, y.as_slice_mut().unwrap());
                assert_eq!(y, naive(&image, variant), "{variant:?}");
            }
        }
    }

    /// 1,024 middles, 50 of each expected, standard deviation 7.
    #[test]
    fn the_middle_of_a_hole_is_uniform() {
        let cutout = Augmentation { cutout: 16, ..Augmentation::STANDARD };
        let mut counts = [[0i32; 32]; 32];
        for index in 0..1024 * 50 {
            let variant = cutout.variant(3, 1, index, [32, 32]);
            let Hole { middle: [r, s], side } = variant.hole.unwrap();
            assert_eq!(side, 16);
            counts[r][s] += 1;
            assert_eq!(Variant { hole: None, ..variant }, Augmentation::STANDARD.variant(3, 1, index, [32, 32]));
        }
        assert!(counts.iter().flatten().all(|count| (count - 50).abs() < 42), "{counts:?}");
    }

    #[test]
    fn offsets_and_flips_are_uniform() {
        // 81 windows and their mirror images: 162 outcomes, 200 of each expected, standard deviation 14.
        let mut counts = std::collections::HashMap::new();
        for index in 0..162 * 200 {
            let variant = Augmentation::STANDARD.variant(7, index as u64 % 5, index / 5, [32, 32]);
            *counts.entry((variant.top, variant.left, variant.flip)).or_insert(0i32) += 1;
        }
        assert_eq!(counts.len(), 162);
        assert!(counts.values().all(|count| (count - 200).abs() < 85), "{counts:?}");
        assert!(counts.keys().all(|&(top, left, _)| top <= 8 && left <= 8));
    }

    #[test]
    fn variants_depend_on_seed_epoch_and_image() {
        let series = |seed, epoch| -> Vec<Variant> {
            (0..20).map(|index| Augmentation::STANDARD.variant(seed, epoch, index, [32, 32])).collect()
        };
        assert_eq!(series(1, 2), series(1, 2));
        assert_ne!(series(1, 2), series(2, 2));
        assert_ne!(series(1, 2), series(1, 3));
        let flips_only = Augmentation { crop_padding: 0, ..Augmentation::STANDARD };
        for (index, variant) in series(1, 2).into_iter().enumerate() {
            assert_eq!(flips_only.variant(1, 2, index, [32, 32]).flip, variant.flip);
            let none = Augmentation::NONE.variant(1, 2, index, [32, 32]);
            assert_eq!(none, Variant { padding: 0, top: 0, left: 0, flip: false, hole: None });
        }
    }

    /// A seed determines these windows, in every version of every crate that is compiled in.
    #[test]
    fn seed_1_means_these_windows() {
        let cutout = Augmentation { cutout: 8, ..Augmentation::STANDARD };
        let windows = [0, 1, 2, 3, 4].map(|index| {
            let Variant { top, left, flip, hole, .. } = cutout.variant(1, 2, index, [32, 32]);
            (top, left, flip, hole.unwrap().middle)
        });
        let expected = [
            (1, 1, true, [2, 13]),
            (7, 6, false, [29, 20]),
            (4, 7, false, [17, 28]),
            (3, 6, true, [12, 21]),
            (7, 8, false, [26, 11]),
        ];
        assert_eq!(windows, expected);
    }
}
