//! y and dx: a convolution with stride 1, tile by tile.

use super::all_finite;
use super::kernels::{Convolve, OutputOfPairs, Panel, Points, TransformInput};
use super::plan::{AT_ONCE, CHUNK_TILES, Plan, SLICE_INPUTS, plane};
use super::transforms::Transforms;
use crate::engine::buffers::{Buffer, Shelf};
use crate::engine::conv::operands::{Epilogue, Prologue};
use crate::engine::conv::padded::Padded;
use crate::engine::kernels::indirect_gemm::{NR, Segment, Segments};
use crate::engine::kernels::simd::dispatch;
use crate::shards::Shards;
use rayon::prelude::*;

/// From this C_in · C_out on, reading U takes longer than multiplying with it, if there are few tiles.
const VERY_LARGE: usize = 1 << 18;

/// Tiles transformed at once: V and M should stay in the second-level cache, and U, read once per band, be used often.
fn band_tiles(c_in: usize, c_out: usize) -> usize {
    if c_in * c_out < 1 << 16 { 32 } else { 64 }
}

#[expect(clippy::too_many_arguments, reason = "y and dx differ in every one of them")]
pub(super) fn convolve<F: Transforms<M, S>, const M: usize, const S: usize>(
    shelf: &Shelf,
    transforms: F,
    shards: &Shards,
    x: &dyn Prologue,
    from: [usize; 3],
    to: [usize; 3],
    padding: [usize; 2],
    w: impl Fn(usize, usize) -> [f32; 9] + Sync,
    y: &mut [f32],
    epilogue: &dyn Epilogue,
    plainly: impl Fn([usize; 2], &mut [f32]) + Sync,
) {
    let n = shards.own().len();
    let plan = plan::<M>(from, to, padding, shards.longest(), epilogue);
    let values = S * S * plane(plan.tiles_per_image * n).saturating_mul(plan.c_in + plan.c_out);
    if n > 0 && plan.c_in * plan.c_out >= VERY_LARGE && values <= AT_ONCE {
        return convolve_at_once(shelf, transforms, shards, &plan, x, w, y, epilogue, plainly);
    }
    let u = transform_weight(shelf, transforms, [from[2], to[2]], w);
    let channels = Segments::new(1, [Segment { offset: 0, len: plan.c_in }]);
    let chunks = shards.chunks(y, plan.y_image, plan.images).into_par_iter();
    let scratch = || {
        let values = |channels: usize| shelf.buffer(S * S * plane(plan.band * channels));
        (shelf.empty_buffer(plan.images * plan.padded.values()), values(plan.c_in), values(plan.c_out))
    };
    let chunk = Chunk { transforms, plan: &plan, u: &u, channels: &channels, plainly: &plainly, epilogue };
    chunks.for_each_init(scratch, |(padded, v, m), (first, y)| {
        let x = plan.padded.fill(x, [first, y.len() / plan.y_image], padded);
        chunk.compute(x, first, [v, m], y);
    });
}

/// The tiles of a convolution from `from` to `to` (both height, width, channels), in chunks of images of one shard.
pub(super) fn plan<const M: usize>(
    from: [usize; 3],
    to: [usize; 3],
    padding: [usize; 2],
    longest: usize,
    epilogue: &dyn Epilogue,
) -> Plan {
    let [h, w, channels] = to;
    let sizes = [CHUNK_TILES, band_tiles(from[2], channels), epilogue.images()];
    Plan::new::<M>(from, &Padded::none([h, w], channels), padding, longest, sizes)
}

/// How a chunk of images is computed.
pub(super) struct Chunk<'a, F, P> {
    pub transforms: F,
    pub plan: &'a Plan,
    pub u: &'a [f32],
    pub channels: &'a Segments,
    /// Computes images in another way, if they are not finite.
    pub plainly: &'a P,
    pub epilogue: &'a dyn Epilogue,
}

impl<F, P: Fn([usize; 2], &mut [f32])> Chunk<'_, F, P> {
    /// y of the images from `first` on, whose padded x this is; V and M have room for a band.
    pub fn compute<const M: usize, const S: usize>(
        &self,
        x: &[f32],
        first: usize,
        [v, m]: [&mut [f32]; 2],
        y: &mut [f32],
    ) where
        F: Transforms<M, S>,
    {
        let Chunk { transforms, plan, u, channels, plainly, epilogue } = *self;
        let count = y.len() / plan.y_image;
        for tiles in plan.tiles[..count * plan.tiles_per_image].chunks(plan.band) {
            dispatch(Convolve { transforms, plan, tiles, x, u, channels, v, m, y });
        }
        if !all_finite(y) {
            plainly([first, count], y);
        }
        epilogue.apply(first * plan.y_image, y);
    }
}

/// The same with bit-identical results, for the case that V and M of all images fit into a cache but U, (m + 2)²/9
/// times as large as the weight, does not: U is computed in bands of a few input and output channels, and each band is
/// used while it is in the cache.
#[expect(clippy::too_many_arguments, reason = "as `convolve`")]
fn convolve_at_once<F: Transforms<M, S>, const M: usize, const S: usize>(
    shelf: &Shelf,
    transforms: F,
    shards: &Shards,
    plan: &Plan,
    x: &dyn Prologue,
    w: impl Fn(usize, usize) -> [f32; 9] + Sync,
    y: &mut [f32],
    epilogue: &dyn Epilogue,
    plainly: impl Fn([usize; 2], &mut [f32]) + Sync,
) {
    let (c_in, c_out) = (plan.c_in, plan.c_out);
    let chunks = shards.chunks(y, plan.y_image, plan.images);
    let images = |(first, y): &(usize, &mut [f32])| [*first, y.len() / plan.y_image];
    let transformed: Vec<_> = chunks
        .par_iter()
        .map(|chunk| {
            let tiles = &plan.tiles[..images(chunk)[1] * plan.tiles_per_image];
            let mut padded = shelf.empty_buffer(images(chunk)[1] * plan.padded.values());
            let mut v = shelf.buffer(S * S * plane(tiles.len() * c_in));
            let x = plan.padded.fill(x, images(chunk), &mut padded);
            dispatch(TransformInput { transforms, plan, tiles, x, v: &mut v });
            (tiles, v)
        })
        .collect();
    // M: (two panels of output channels, chunk, point, tile, 32).
    let m_chunk = S * S * plane(plan.images * plan.tiles_per_image * 2 * NR);
    let m_pair = transformed.len() * m_chunk;
    let mut m = shelf.buffer(c_out.div_ceil(2 * NR) * m_pair);
    m.par_chunks_mut(m_pair).enumerate().for_each_init(
        || shelf.buffer(S * S * SLICE_INPUTS * 2 * NR),
        |u, (pair, m)| {
            let columns = (c_out - pair * 2 * NR).min(2 * NR);
            for first in (0..c_in).step_by(SLICE_INPUTS) {
                let inputs = first..c_in.min(first + SLICE_INPUTS);
                let panel = S * S * inputs.len() * NR;
                for (index, u) in u.chunks_exact_mut(panel).enumerate().take(columns.div_ceil(NR)) {
                    let (panel, inputs) = (2 * pair + index, inputs.clone());
                    dispatch(Panel::<F, _, M, S> { transforms, panel, inputs, c_out, w: &w, u });
                }
                let channels = &Segments::new(1, [Segment { offset: 0, len: inputs.len() }]);
                for ((tiles, v), m) in transformed.iter().zip(m.chunks_exact_mut(m_chunk)) {
                    dispatch(Points::<S> { tiles: tiles.len(), v, c_in, channels, first, u, panel, columns, m });
                }
            }
        },
    );
    chunks.into_par_iter().zip(&transformed).enumerate().for_each(|(chunk, ((first, y), (tiles, _)))| {
        dispatch(OutputOfPairs { transforms, plan, tiles, m: &m[chunk * m_chunk..], m_pair, y });
        if !all_finite(y) {
            plainly([first, y.len() / plan.y_image], y);
        }
        epilogue.apply(first * plan.y_image, y);
    });
}

/// U = G w Gᵀ in panels (panel of 16 output channels, point, c_in, 16), of the weight, `w(o, i)` its taps.
pub(super) fn transform_weight<F: Transforms<M, S>, const M: usize, const S: usize>(
    shelf: &Shelf,
    transforms: F,
    [c_in, c_out]: [usize; 2],
    w: impl Fn(usize, usize) -> [f32; 9] + Sync,
) -> Buffer {
    let panels = c_out.div_ceil(NR);
    let mut u = shelf.buffer(panels * S * S * c_in * NR);
    u.par_chunks_mut(S * S * c_in * NR).enumerate().for_each(|(panel, u)| {
        dispatch(Panel::<F, _, M, S> { transforms, panel, inputs: 0..c_in, c_out, w: &w, u });
    });
    u
}
