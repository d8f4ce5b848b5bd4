//! dweight: dU = Σ V ⊗ dM over all tiles, then Gᵀ dU G.

use super::kernels::{Correlate, TransformBoth, WeightAdjoint, channel_by_channel};
use super::plan::{AT_ONCE, CHUNK_TILES, Plan, SLICE_INPUTS, plane};
use super::transforms::Transforms;
use crate::engine::buffers::{Buffer, Shelf};
use crate::engine::conv::Geometry;
use crate::engine::conv::operands::Prologue;
use crate::engine::conv::padded::Padded;
use crate::engine::kernels::indirect_gemm::NR;
use crate::engine::kernels::simd::{dispatch, wide};
use crate::parallel::{add_slices, tree_sum};
use ndarray::Array4;
use rayon::prelude::*;

/// From this C_in · C_out on, dU no longer fits into a cache.
const LARGE: usize = 1 << 14;

/// The most partial sums of dU: fewer mean fewer additions; more keep more threads busy.
const MOST_LEAVES: usize = 16;

pub(super) fn correlate<F: Transforms<M, S>, const M: usize, const S: usize>(
    shelf: &Shelf,
    transforms: F,
    g: &Geometry,
    x: &dyn Prologue,
    dy: &dyn Prologue,
) -> Array4<f32> {
    let (from, to) = ([g.h, g.w, g.c_in], [g.h_out, g.w_out, g.c_out]);
    let plan = Plan::new::<M>(from, to, g.padding, g.n, [CHUNK_TILES, CHUNK_TILES, 1]);
    let dy_padded = Padded::none([g.h_out, g.w_out], g.c_out);
    let chunks = g.n.div_ceil(plan.images);
    let panels = g.c_out.div_ceil(NR);
    let values = S * S * plane(plan.tiles_per_image * g.n).saturating_mul(g.c_in + panels * NR);
    if g.n > 0 && g.c_in * g.c_out >= LARGE && values <= AT_ONCE {
        return correlate_at_once(shelf, transforms, g, &plan, x, dy);
    }
    // Small dU: several, one per thread at a time, summed in a tree. Large dU: only one, shared by the threads.
    let (leaves, together) = if g.c_in * g.c_out < LARGE { (chunks.clamp(1, MOST_LEAVES), 1) } else { (1, 4) };
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
    let du = tree_sum(chunks.div_ceil(chunks_per_leaf), &leaf, &|a: &mut Buffer, b: Buffer| wide(|| add_slices(a, &b)));
    let Some(du) = du else { return Array4::zeros((g.c_out, g.c_in, 3, 3)) };
    let mut dw = shelf.dirty_array((g.c_out, g.c_in, 3, 3));
    let outputs = dw.as_slice_mut().expect("contiguous").par_chunks_mut(NR * g.c_in * 9).enumerate();
    outputs.for_each(|(panel, dw)| {
        let columns = panel * NR..g.c_out.min((panel + 1) * NR);
        dispatch(WeightAdjoint { transforms, du: &du, row: g.c_out, columns, inputs: 0..g.c_in, c_in: g.c_in, dw });
    });
    dw
}

/// The same with bit-identical results, for the case that V and dM of all images fit into a cache but dU, (m + 2)²/9
/// times as large as the weight, does not: dU is computed in bands of a few input and output channels, and each band is
/// transformed into dw while it is in the cache.
fn correlate_at_once<F: Transforms<M, S>, const M: usize, const S: usize>(
    shelf: &Shelf,
    transforms: F,
    g: &Geometry,
    plan: &Plan,
    x: &dyn Prologue,
    dy: &dyn Prologue,
) -> Array4<f32> {
    let dy_padded = Padded::none([g.h_out, g.w_out], g.c_out);
    let padded = g.c_out.next_multiple_of(NR);
    let transformed: Vec<_> = (0..g.n.div_ceil(plan.images))
        .into_par_iter()
        .map(|chunk| {
            let images = [chunk * plan.images, plan.images.min(g.n - chunk * plan.images)];
            let tiles = &plan.tiles[..images[1] * plan.tiles_per_image];
            let values = |channels: usize| shelf.buffer(S * S * plane(tiles.len() * channels));
            let (mut v, mut dm) = (values(g.c_in), values(padded));
            let (mut padded, mut dy_buffer) =
                (shelf.empty_buffer(images[1] * plan.padded.values()), shelf.empty_buffer(images[1] * plan.y_image));
            let (x, dy) = (plan.padded.fill(x, images, &mut padded), dy_padded.fill(dy, images, &mut dy_buffer));
            dispatch(TransformBoth { transforms, plan, tiles, x, dy, v: &mut v, dm: &mut dm });
            (tiles.len(), channel_by_channel(g.c_in, tiles.len()), v, dm)
        })
        .collect();
    let mut dw = shelf.dirty_array((g.c_out, g.c_in, 3, 3));
    // Two panels: the columns of the widest tile of a product.
    let outputs = dw.as_slice_mut().expect("contiguous").par_chunks_mut(2 * NR * g.c_in * 9).enumerate();
    outputs.for_each_init(
        || shelf.buffer(S * S * SLICE_INPUTS * 2 * NR),
        |du, (pair, dw)| {
            let outputs = 2 * pair * NR..g.c_out.min(2 * (pair + 1) * NR);
            for first in (0..g.c_in).step_by(SLICE_INPUTS) {
                let inputs = first..g.c_in.min(first + SLICE_INPUTS);
                let band = inputs.len() * outputs.len();
                for (point, du) in du[..S * S * band].chunks_exact_mut(band).enumerate() {
                    for (chunk, (tiles, segments, v, dm)) in transformed.iter().enumerate() {
                        let v = &v[point * plane(tiles * g.c_in) + first..][..tiles * g.c_in - first];
                        let dm = &dm[point * plane(tiles * padded) + outputs.start * tiles..];
                        let channels = [inputs.len(), outputs.len()];
                        let accumulate = chunk > 0;
                        dispatch(Correlate { tiles: *tiles, segments, v, dm, du, channels, accumulate });
                    }
                }
                for (panel, dw) in dw.chunks_mut(NR * g.c_in * 9).enumerate() {
                    let columns = panel * NR..outputs.len().min((panel + 1) * NR);
                    let (du, inputs) = (&du[..S * S * band], inputs.clone());
                    dispatch(WeightAdjoint { transforms, du, row: outputs.len(), columns, inputs, c_in: g.c_in, dw });
                }
            }
        },
    );
    dw
}
