//! A convolution split into tiles.

use crate::engine::conv::padded::Padded;

/// Approximate tiles per chunk; a chunk consists of whole images.
pub(super) const CHUNK_TILES: usize = 64;

/// Up to this many values, V and M (or V and dM) are computed for all images at once: 32 MB.
pub(super) const AT_ONCE: usize = 1 << 23;

/// Input channels of a band of U or dU: with 32 output channels and F(4x4) 300 KB.
pub(super) const SLICE_INPUTS: usize = 64;

/// A tile of one image: where its window begins in the padded image, where it begins in the output, and how many of its
/// rows and columns are inside the output.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub window: usize,
    pub output: usize,
    pub rows: usize,
    pub columns: usize,
}

/// A convolution split into tiles: y (h_out, w_out, c_out) of x (h, w, c_in). y may be stored with zeros around it.
pub(super) struct Plan {
    pub padded: Padded,
    /// The tiles of `images` images.
    pub tiles: Vec<Tile>,
    /// Images per chunk.
    pub images: usize,
    pub tiles_per_image: usize,
    /// Tiles of y transformed at once.
    pub band: usize,
    /// Values of an image and of a row of y, as y is stored.
    pub y_image: usize,
    pub y_row: usize,
    pub c_in: usize,
    pub c_out: usize,
}

impl Plan {
    /// `n`: images of the longest shard; `align`: a chunk has a multiple of this many images.
    pub fn new<const M: usize>(
        [h, w, c_in]: [usize; 3],
        y: &Padded,
        padding: [usize; 2],
        n: usize,
        [chunk, band, align]: [usize; 3],
    ) -> Self {
        let ([h_out, w_out], c_out) = (y.image, y.channels);
        let [down, across] = [h_out.div_ceil(M), w_out.div_ceil(M)];
        // Chunks of nearly equal size, so that no thread gets a short one.
        let chunks = n.div_ceil((chunk / (down * across)).max(1)).max(n.min(2)).max(1);
        let images = n.div_ceil(chunks).max(1).next_multiple_of(align);
        let padded = Padded { image: [h, w], before: padding, size: [down * M + 2, across * M + 2], channels: c_in };
        let mut tiles = Vec::with_capacity(images * down * across);
        for image in 0..images {
            for (i, j) in (0..down).flat_map(|i| (0..across).map(move |j| (i * M, j * M))) {
                tiles.push(Tile {
                    window: image * padded.values() + padded.offset(i, j),
                    output: image * y.values() + y.offset(y.before[0] + i, y.before[1] + j),
                    rows: M.min(h_out - i),
                    columns: M.min(w_out - j),
                });
            }
        }
        let bands = tiles.len().div_ceil(band).max(1);
        Plan {
            band: tiles.len().div_ceil(bands).max(1),
            tiles,
            images,
            tiles_per_image: down * across,
            y_image: y.values(),
            y_row: y.size[1] * c_out,
            c_in,
            c_out,
            padded,
        }
    }
}

/// Distance between two points of V or M, each `values` long: slightly more, so that the points do not map to the same
/// cache lines when `values` is a power of two.
pub(super) fn plane(values: usize) -> usize {
    values + 16
}
