//! dweight: dU = Σ V ⊗ dM over all tiles, then Gᵀ dU G.

use super::kernels::{Correlate, TransformBoth, WeightAdjoint, channel_by_channel};
use super::plan::{AT_ONCE, CHUNK_TILES, Plan, SLICE_INPUTS, plane};
use super::transforms::Transforms;
use crate::engine::buffers::{Buffer, Shelf};
use crate::engine::conv::Geometry;
use crate::engine::conv::operands::Prologue;
use crate::engine::conv::padded::Padded;
use crate::engine::kernels::indirect_gemm::{NR, Segments};
use crate::engine::kernels::simd::{dispatch, wide_add};
use crate::parallel::{arrays_beside, tree_sum, tree_sum_into};
use ndarray::Array4;
use rayon::prelude::*;
use std::ops::Range;

/// From this C_in · C_out on, dU no longer fits into a cache.
const LARGE: usize = 1 << 14;

/// With more tiles in a shard, reading V and dM of all shards for every block takes longer than writing and reading the dw of
/// every shard: V of one shard stays in a cache.
const FEW_TILES: usize = 12;

/// The most partial sums of dU: fewer mean fewer additions; more keep more threads busy.
const MOST_LEAVES: usize = 16;

/// dweight of one of `shards` shards.
pub(super) fn correlate<F: Transforms<M, S>, const M: usize, const S: usize>(
    shelf: &Shelf,
    transforms: F,
    g: &Geometry,
    shards: usize,
    x: &dyn Prologue,
    dy: &dyn Prologue,
) -> Array4<f32> {
    let plan = plan::<M>(g, g.n);
    let dy_padded = Padded::none([g.h_out, g.w_out], g.c_out);
    let chunks = g.n.div_ceil(plan.images);
    let panels = g.c_out.div_ceil(NR);
    // Small dU: several, one per thread at a time, summed in a tree. Large dU: only one, shared by the threads.
    let (leaves, together) = if is_small(g) { (leaves(chunks, shards), 1) } else { (1, 4) };
    let chunks_per_leaf = chunks.div_ceil(leaves).max(1);

    let leaf = |index: usize| {
        let mut du = shelf.buffer(S * S * g.c_in * g.c_out);
        let mut scratch: Vec<_> = (0..together)
            .map(|_| {
                let values = |channels: usize| shelf.buffer(S * S * plane(plan.tiles.len() * channels));
                (
                    (
                        shelf.empty_buffer(plan.images * plan.padded.values()),
                        shelf.empty_buffer(plan.images * plan.y_image),
                    ),
                    values(g.c_in),
                    values(panels * NR),
                )
            })
            .collect();
        let first = index * chunks_per_leaf;
        let last = chunks.min(first + chunks_per_leaf);
        for group in (first..last).step_by(together) {
            let images = |chunk: usize| [chunk * plan.images, plan.images.min(g.n - chunk * plan.images)];
            scratch.par_iter_mut().zip(group..last).for_each(|(((padded, dy_buffer), v, dm), chunk)| {
                let x = plan.padded.fill(x, images(chunk), padded);
                let dy = dy_padded.fill(dy, images(chunk), dy_buffer);
                let tiles = &plan.tiles[..images(chunk)[1] * plan.tiles_per_image];
                dispatch(TransformBoth { transforms, plan: &plan, tiles, x, dy, v, dm });
            });
            du.par_chunks_mut(g.c_in * g.c_out).enumerate().for_each(|(point, du)| {
                for (chunk, (_, v, dm)) in (group..last).zip(&scratch) {
                    let tiles = images(chunk)[1] * plan.tiles_per_image;
                    let v = &v[point * plane(tiles * g.c_in)..][..tiles * g.c_in];
                    let dm = &dm[point * plane(tiles * panels * NR)..][..tiles * panels * NR];
                    let (segments, channels) = (&channel_by_channel(g.c_in, tiles), [g.c_in, g.c_out]);
                    dispatch(Correlate { tiles, segments, v, dm, du, channels, accumulate: chunk > first });
                }
            });
        }
        du
    };
    let du = tree_sum(chunks.div_ceil(chunks_per_leaf), &leaf, &|a: &mut Buffer, b: Buffer| wide_add(a, &b));
    from_points(shelf, transforms, g, du)
}

/// Whether dU is small enough for several copies of it.
pub(super) fn is_small(g: &Geometry) -> bool {
    g.c_in * g.c_out < LARGE
}

/// The most leaves of one of `shards` shards with this many chunks. Each has a dU of its own.
pub(super) fn leaves(chunks: usize, shards: usize) -> usize {
    chunks.clamp(1, MOST_LEAVES.div_ceil(shards))
}

/// dw = Gᵀ dU G; 0 without images.
pub(super) fn from_points<F: Transforms<M, S>, const M: usize, const S: usize>(
    shelf: &Shelf,
    transforms: F,
    g: &Geometry,
    du: Option<Buffer>,
) -> Array4<f32> {
    let Some(du) = du else { return Array4::zeros((g.c_out, g.c_in, 3, 3)) };
    let mut dw = shelf.dirty_array((g.c_out, g.c_in, 3, 3));
    let outputs = dw.as_slice_mut().expect("contiguous").par_chunks_mut(NR * g.c_in * 9).enumerate();
    outputs.for_each(|(panel, dw)| {
        let columns = panel * NR..g.c_out.min((panel + 1) * NR);
        let stride = g.c_in * 9;
        dispatch(WeightAdjoint { transforms, du: &du, row: g.c_out, columns, inputs: g.c_in, dw, stride });
    });
    dw
}

/// The tiles of `g`, in chunks of images of one shard, whose longest has `images`.
fn plan<const M: usize>(g: &Geometry, images: usize) -> Plan {
    plan_with::<M>(g, &Padded::none([g.h_out, g.w_out], g.c_out), images)
}

/// The same for dy as it is stored in `dy`.
pub(super) fn plan_with<const M: usize>(g: &Geometry, dy: &Padded, images: usize) -> Plan {
    Plan::new::<M>([g.h, g.w, g.c_in], dy, g.padding, images, [CHUNK_TILES, CHUNK_TILES, 1])
}

/// V and dM of a few images.
struct Chunk {
    tiles: usize,
    segments: Segments,
    v: Buffer,
    dm: Buffer,
}

/// The sum over shards, with the bits of [`correlate`], for the case that V and dM of all images fit into a cache but dU,
/// (m + 2)²/9 times as large as the weight, does not: dU of a shard is computed in bands of a few input and output
/// channels, and each band is transformed into dw while it is in the cache. Then the shards are added.
pub(super) fn correlate_in_blocks<F: Transforms<M, S>, const M: usize, const S: usize>(
    shelf: &Shelf,
    transforms: F,
    g: &Geometry,
    shards: &[Range<usize>],
    x: &dyn Prologue,
    dy: &dyn Prologue,
) -> Option<Array4<f32>> {
    let longest = shards.iter().map(Range::len).max()?;
    let plan = plan::<M>(g, longest);
    let images: usize = shards.iter().map(Range::len).sum();
    let padded = g.c_out.next_multiple_of(NR);
    let values = S * S * plane(plan.tiles_per_image * images).saturating_mul(g.c_in + padded);
    let many_tiles = shards.len() > 1 && plan.tiles_per_image * longest > FEW_TILES;
    if images == 0 || g.c_in * g.c_out < LARGE || values > AT_ONCE || many_tiles {
        return None;
    }
    let dy_padded = Padded::none([g.h_out, g.w_out], g.c_out);
    let chunk = |images: [usize; 2]| {
        let tiles = &plan.tiles[..images[1] * plan.tiles_per_image];
        let values = |channels: usize| shelf.buffer(S * S * plane(tiles.len() * channels));
        let (mut v, mut dm) = (values(g.c_in), values(padded));
        let (mut padded, mut dy_buffer) =
            (shelf.empty_buffer(images[1] * plan.padded.values()), shelf.empty_buffer(images[1] * plan.y_image));
        let (x, dy) = (plan.padded.fill(x, images, &mut padded), dy_padded.fill(dy, images, &mut dy_buffer));
        dispatch(TransformBoth { transforms, plan: &plan, tiles, x, dy, v: &mut v, dm: &mut dm });
        Chunk { tiles: tiles.len(), segments: channel_by_channel(g.c_in, tiles.len()), v, dm }
    };
    let of_shard = |shard: &Range<usize>| -> Vec<Chunk> {
        let firsts: Vec<usize> = shard.clone().step_by(plan.images).collect();
        firsts.into_par_iter().map(|first| chunk([first, plan.images.min(shard.end - first)])).collect()
    };
    let chunks: Vec<Vec<Chunk>> = shards.par_iter().map(of_shard).collect();

    let mut dw = shelf.dirty_array((g.c_out, g.c_in, 3, 3));
    // Two panels: the columns of the widest tile of a product.
    let outputs = dw.as_slice_mut().expect("contiguous").par_chunks_mut(2 * NR * g.c_in * 9).enumerate();
    let scratch = || {
        let blocks = (1 + arrays_beside(shards.len())) * SLICE_INPUTS * 2 * NR * 9;
        (shelf.buffer(S * S * SLICE_INPUTS * 2 * NR), shelf.buffer(blocks))
    };
    outputs.for_each_init(scratch, |(du, blocks), (pair, dw)| {
        let outputs = 2 * pair * NR..g.c_out.min(2 * (pair + 1) * NR);
        for first in (0..g.c_in).step_by(SLICE_INPUTS) {
            let inputs = SLICE_INPUTS.min(g.c_in - first);
            let band = inputs * outputs.len();
            // dw of one shard and `inputs` channels, with `stride` values from output channel to output channel.
            let mut of_shard = |shard: usize, dw: &mut [f32], stride: usize| {
                for (point, du) in du[..S * S * band].chunks_exact_mut(band).enumerate() {
                    for (index, Chunk { tiles, segments, v, dm }) in chunks[shard].iter().enumerate() {
                        let v = &v[point * plane(tiles * g.c_in) + first..][..tiles * g.c_in - first];
                        let dm = &dm[point * plane(tiles * padded) + outputs.start * tiles..];
                        let (channels, accumulate) = ([inputs, outputs.len()], index > 0);
                        dispatch(Correlate { tiles: *tiles, segments, v, dm, du, channels, accumulate });
                    }
                }
                for (panel, dw) in dw.chunks_mut(NR * stride).enumerate() {
                    let columns = panel * NR..outputs.len().min((panel + 1) * NR);
                    let du = &du[..S * S * band];
                    dispatch(WeightAdjoint { transforms, du, row: outputs.len(), columns, inputs, dw, stride });
                }
            };
            if shards.len() == 1 {
                of_shard(0, &mut dw[first * 9..], g.c_in * 9);
                continue;
            }
            let (sum, others) = blocks.split_at_mut(band * 9);
            let mut block = |shard: usize, block: &mut [f32]| of_shard(shard, block, inputs * 9);
            tree_sum_into(0..shards.len(), &mut block, &wide_add, sum, others);
            for (dw, sum) in dw.chunks_exact_mut(g.c_in * 9).zip(sum.chunks_exact(inputs * 9)) {
                dw[first * 9..][..sum.len()].copy_from_slice(sum);
            }
        }
    });
    Some(dw)
}
