//! How a fast convolution reads its input and hands over its output: image by image, while they are in the cache.
//!
//! - A [`Source`] says where the numbers of an input come from. Usually they are stored; but a convolution can as well
//!   read `relu(batch_norm(h))` and compute it from h on the way, so that it is never written to memory.
//! - A [`Frame`] puts zeros around them.
//! - A [`Finish`] is what happens to the output, piece by piece, before it leaves the cache: gathering its mean and
//!   variance, adding the shortcut.
//!
//! `layers/fused.rs` has the sources and finishes that are not trivial.

use crate::kernels::buffers::dirty;
use crate::{Activation, Scalar};
use ndarray::Array4;
use rayon::prelude::*;

/// Where numbers `(N, H, W, C)` come from.
pub(crate) trait Source<T>: Sync {
    /// `out ← numbers[at..at + out.len()]`; both ends are ends of pixels.
    fn read(&self, at: usize, out: &mut [T]);

    /// The numbers themselves, where they are stored.
    fn stored(&self) -> Option<&[T]> {
        None
    }

    /// All of them as an array of this shape.
    fn collect(&self, shape: [usize; 4]) -> Activation<T>;
}

impl<T: Scalar> Source<T> for Activation<T> {
    fn read(&self, at: usize, out: &mut [T]) {
        out.copy_from_slice(&self.as_slice().expect("contiguous")[at..at + out.len()]);
    }

    fn stored(&self) -> Option<&[T]> {
        self.as_slice()
    }

    fn collect(&self, shape: [usize; 4]) -> Activation<T> {
        assert_eq!(self.shape(), shape, "the shape of the source");
        self.clone()
    }
}

/// All numbers of a source that are not stored.
pub(crate) fn collect<T: Scalar>(source: &(impl Source<T> + ?Sized), shape: [usize; 4]) -> Activation<T> {
    let image = shape[1..].iter().product::<usize>();
    let mut numbers = dirty(shape[0] * image);
    numbers.par_chunks_mut(image.max(1)).enumerate().for_each(|(n, out)| source.read(n * image, out));
    Array4::from_shape_vec(shape, numbers).expect("the product of the shape").into_shared()
}

/// A source without its first numbers.
pub(crate) struct Shifted<'a, T> {
    pub source: &'a dyn Source<T>,
    pub by: usize,
}

impl<T: Scalar> Source<T> for Shifted<'_, T> {
    fn read(&self, at: usize, out: &mut [T]) {
        self.source.read(self.by + at, out);
    }

    fn stored(&self) -> Option<&[T]> {
        self.source.stored().map(|numbers| &numbers[self.by..])
    }

    fn collect(&self, shape: [usize; 4]) -> Activation<T> {
        collect(self, shape)
    }
}

/// What happens to an output `(N, H, W, C)` before it leaves the cache.
pub(crate) trait Finish<T>: Sync {
    /// A piece holds a multiple of so many images, unless it is the last.
    fn images(&self) -> usize {
        1
    }

    /// Called once for every piece, the numbers from number `at` on, by whichever thread computed it.
    fn piece(&self, at: usize, y: &mut [T]);
}

/// Nothing happens to it.
pub(crate) struct AsIs;

impl<T> Finish<T> for AsIs {
    fn piece(&self, _: usize, _: &mut [T]) {}
}

/// Finishes an output that has left the cache already.
pub(crate) fn finish_all<T: Scalar>(y: &mut [T], image: usize, finish: &dyn Finish<T>) {
    let piece = (finish.images() * image).max(1);
    y.par_chunks_mut(piece).enumerate().for_each(|(i, y)| finish.piece(i * piece, y));
}

/// Images with zeros around them: `(image, size[0], size[1], channels)`, the image from `before` on.
pub(crate) struct Frame {
    pub image: [usize; 2],
    pub before: [usize; 2],
    pub size: [usize; 2],
    pub channels: usize,
}

impl Frame {
    /// No zeros at all.
    pub fn none(image: [usize; 2], channels: usize) -> Self {
        Frame { image, before: [0, 0], size: image, channels }
    }

    /// Numbers of one framed image.
    pub fn numbers(&self) -> usize {
        self.size[0] * self.size[1] * self.channels
    }

    /// Offset of a framed pixel from the image's first.
    pub fn offset(&self, row: usize, column: usize) -> usize {
        (row * self.size[1] + column) * self.channels
    }

    /// Starts of `rows` x `columns` windows, `stride` apart, in each of `images` images.
    pub fn starts(&self, images: usize, rows: usize, columns: usize, stride: [usize; 2]) -> Vec<usize> {
        let window = |n: usize, i: usize, j: usize| n * self.numbers() + self.offset(i * stride[0], j * stride[1]);
        let all = (0..images).flat_map(|n| (0..rows).flat_map(move |i| (0..columns).map(move |j| (n, i, j))));
        all.map(|(n, i, j)| window(n, i, j)).collect()
    }

    /// Images `first..first + count` of a source, framed: its own memory where that is what is wanted, else a copy in
    /// `buffer`, which may be used again and again for the same frame.
    pub fn fill<'a, T: Scalar>(
        &self,
        source: &'a dyn Source<T>,
        [first, count]: [usize; 2],
        buffer: &'a mut Vec<T>,
    ) -> &'a [T] {
        let [height, width] = self.image;
        let row = width * self.channels;
        let image = height * row;
        let empty = self.image == self.size;
        if let (true, Some(numbers)) = (empty, source.stored()) {
            return &numbers[first * image..][..count * image];
        }
        // New numbers are zeros. Old ones are of the same frame: its border is zero already, the inside is overwritten.
        buffer.resize(count * self.numbers(), T::zero());
        if empty {
            source.read(first * image, buffer);
            return buffer;
        }
        for (n, framed) in (first..).zip(buffer.chunks_exact_mut(self.numbers())) {
            for h in 0..height {
                let inside = &mut framed[self.offset(self.before[0] + h, self.before[1])..][..row];
                source.read(n * image + h * row, inside);
            }
        }
        buffer
    }
}
