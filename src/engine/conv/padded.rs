//! Images with zeros around them, so that a window at the border is not a special case.

use super::Geometry;
use super::operands::Prologue;
use crate::engine::buffers::{Buffer, Shelf};
use std::ops::Deref;

/// Images with zeros around them: `(image, size[0], size[1], channels)`, the image begins at `before`.
pub(crate) struct Padded {
    pub image: [usize; 2],
    pub before: [usize; 2],
    pub size: [usize; 2],
    pub channels: usize,
}

/// Padded images.
pub(crate) enum Filled<'a> {
    /// They are stored.
    Stored(&'a [f32]),
    /// A copy.
    Copied(Buffer),
}

impl Deref for Filled<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Filled::Stored(values) => values,
            Filled::Copied(values) => values,
        }
    }
}

impl Padded {
    /// No padding.
    pub fn none(image: [usize; 2], channels: usize) -> Self {
        Padded { image, before: [0, 0], size: image, channels }
    }

    /// Values per padded image.
    pub fn values(&self) -> usize {
        self.size[0] * self.size[1] * self.channels
    }

    /// Offset of a padded pixel from the image's first.
    pub fn offset(&self, row: usize, column: usize) -> usize {
        (row * self.size[1] + column) * self.channels
    }

    /// Starts of `rows` x `columns` windows, `stride` apart, in each of `images` images.
    pub fn starts(&self, images: usize, rows: usize, columns: usize, stride: [usize; 2]) -> Vec<usize> {
        let window = |n: usize, i: usize, j: usize| n * self.values() + self.offset(i * stride[0], j * stride[1]);
        let all = (0..images).flat_map(|n| (0..rows).flat_map(move |i| (0..columns).map(move |j| (n, i, j))));
        all.map(|(n, i, j)| window(n, i, j)).collect()
    }

    /// Images `first..first + count` of a prologue, padded: its own memory if that needs no change, otherwise a copy in
    /// `buffer`, which can be reused for the same geometry.
    pub fn fill<'a>(
        &self,
        prologue: &'a dyn Prologue,
        [first, count]: [usize; 2],
        buffer: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        if let Some(values) = self.stored(prologue, [first, count]) {
            return values;
        }
        let [height, width] = self.image;
        let row = width * self.channels;
        let image = height * row;
        // New values are zero. Old ones have the same geometry: the border is already zero, the inside is overwritten.
        buffer.resize(count * self.values(), 0.0);
        if self.image == self.size {
            prologue.read(first * image, buffer);
            return buffer;
        }
        for (n, padded) in (first..).zip(buffer.chunks_exact_mut(self.values())) {
            for h in 0..height {
                let inside = &mut padded[self.offset(self.before[0] + h, self.before[1])..][..row];
                prologue.read(n * image + h * row, inside);
            }
        }
        buffer
    }

    /// The memory of a prologue, if the images need no change.
    fn stored<'a>(&self, prologue: &'a dyn Prologue, [first, count]: [usize; 2]) -> Option<&'a [f32]> {
        let values = prologue.stored().filter(|_| self.image == self.size)?;
        Some(&values[first * self.values()..][..count * self.values()])
    }

    /// The same as [`fill`](Self::fill), to be kept: with a buffer of its own.
    pub fn filled<'a>(&self, prologue: &'a dyn Prologue, images: [usize; 2], shelf: &Shelf) -> Filled<'a> {
        self.stored(prologue, images).map(Filled::Stored).unwrap_or_else(|| {
            let mut buffer = shelf.empty_buffer(images[1] * self.values());
            self.fill(prologue, images, &mut buffer);
            Filled::Copied(buffer)
        })
    }

    /// x with the padding of a convolution.
    pub fn input(g: &Geometry) -> Self {
        Padded {
            image: [g.h, g.w],
            before: g.padding,
            size: [g.h + 2 * g.padding[0], g.w + 2 * g.padding[1]],
            channels: g.c_in,
        }
    }

    /// Offsets of the kernel's taps from the window's start, row by row.
    pub fn taps<'a>(&'a self, g: &'a Geometry) -> impl Iterator<Item = usize> + 'a {
        let all = (0..g.kh).flat_map(move |p| (0..g.kw).map(move |q| (p, q)));
        all.map(move |(p, q)| self.offset(p * g.dilation[0], q * g.dilation[1]))
    }
}
