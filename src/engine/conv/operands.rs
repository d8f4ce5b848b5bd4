//! How a convolution reads its input and passes on its output: chunk by chunk, while they are in the cache.
//!
//! - A [`Prologue`] provides the values of an input. Usually they are stored; but it can also compute
//!   `relu(batch_norm(h))` from h while the convolution reads, so that the result is never written to memory.
//! - An [`Epilogue`] processes the output, chunk by chunk, before it leaves the cache: it computes its moments, or adds
//!   the shortcut.
//!
//! The prologues and epilogues that compute something are in `engine/fused.rs`.

use crate::Activation;
use crate::engine::buffers::Shelf;
use crate::shards::Shards;
use ndarray::Array4;
use rayon::prelude::*;

/// Provides values `(N, H, W, C)`.
pub(crate) trait Prologue: Sync {
    /// `out ← values[at..at + out.len()]`; both ends are at pixel boundaries.
    fn read(&self, at: usize, out: &mut [f32]);

    /// The values themselves, if they are stored.
    fn stored(&self) -> Option<&[f32]> {
        None
    }
}

impl Prologue for Activation<f32> {
    fn read(&self, at: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.as_slice().expect("contiguous")[at..at + out.len()]);
    }

    fn stored(&self) -> Option<&[f32]> {
        self.as_slice()
    }
}

/// Every value of an input, written to memory.
pub(crate) fn collect(prologue: &dyn Prologue, shape: [usize; 4], shelf: &Shelf) -> Activation<f32> {
    let image = shape[1..].iter().product::<usize>();
    let mut values = shelf.dirty(shape[0] * image);
    values.par_chunks_mut(image.max(1)).enumerate().for_each(|(n, out)| prologue.read(n * image, out));
    Array4::from_shape_vec(shape, values).expect("the product of the shape").into_shared()
}

/// An input without its first values.
pub(crate) struct Shifted<'a> {
    pub prologue: &'a dyn Prologue,
    pub by: usize,
}

impl Prologue for Shifted<'_> {
    fn read(&self, at: usize, out: &mut [f32]) {
        self.prologue.read(self.by + at, out);
    }

    fn stored(&self) -> Option<&[f32]> {
        self.prologue.stored().map(|values| &values[self.by..])
    }
}

/// Processes an output `(N, H, W, C)` before it leaves the cache.
pub(crate) trait Epilogue: Sync {
    /// A chunk contains a multiple of this many images of one shard (or of one group, if shards have groups), or its last
    /// images.
    fn images(&self) -> usize {
        1
    }

    /// Called once per chunk, whose values begin at value `at`, by the thread that computed it.
    fn apply(&self, at: usize, y: &mut [f32]);
}

/// Does nothing.
pub(crate) struct AsIs;

impl Epilogue for AsIs {
    fn apply(&self, _: usize, _: &mut [f32]) {}
}

/// An epilogue as a pass over an output `(N, H, W, C)` that has already left the cache.
pub(crate) fn apply_to_all(
    shards: &Shards,
    y: &mut [f32],
    (_, h, w, c): (usize, usize, usize, usize),
    epilogue: &dyn Epilogue,
) {
    let image = h * w * c;
    let chunks = shards.chunks(y, image, epilogue.images()).into_par_iter();
    chunks.for_each(|(first, y)| epilogue.apply(first * image, y));
}
