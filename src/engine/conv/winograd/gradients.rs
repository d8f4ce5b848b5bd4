//! dweight and dx in one pass over dy.
//!
//! Both products read dy, which is itself computed from two arrays while it is read (`fused.rs`); and x, which dweight reads,
//! is often computed from what the epilogue of dx reads again. Chunk by chunk, all of these are in a cache for their second use:
//!
//! ```text
//! dy ──A dy Aᵀ──▶ dM ──Σ Vᵀ dM──▶ dU ──▶ dweight       V = Bᵀ d B of x
//!  └───Bᵀ d B───▶ V′ ──V′ · U′──▶ M′ ──Aᵀ M A──▶ dx
//! ```
//!
//! The products and their order are those of `correlate.rs` and `convolve.rs`, and so are the bits.

use super::all_finite;
use super::convolve::{self, transform_weight};
use super::correlate::{from_points, is_small, leaves, plan_with};
use super::kernels::{Correlate, TransformBoth, channel_by_channel};
use super::plan::{Plan, plane};
use super::transforms::Transforms;
use crate::engine::Pass;
use crate::engine::buffers::Buffer;
use crate::engine::conv::Geometry;
use crate::engine::conv::operands::{Epilogue, Prologue};
use crate::engine::kernels::indirect_gemm::{NR, Segment, Segments};
use crate::engine::kernels::simd::{dispatch, wide_add};
use crate::parallel::tree_sum;
use ndarray::Array4;
use std::ops::Range;
use std::sync::Mutex;

/// dweight summed over the shards of each subtree of this process, and dx. `w` are the taps of the rotated weight; `plainly`
/// computes images of dx, and `dweight_plainly` the dweight of a shard, if a value is not finite.
///
/// `None` if the two are not split into the same chunks, or if one dU is shared by the threads; or if there are too few leaves,
/// which are computed in parallel here, to keep the threads busy: a dx by itself is computed chunk by chunk in parallel.
#[expect(clippy::too_many_arguments, reason = "those of two products")]
pub(super) fn gradients<F: Transforms<M, S>, const M: usize, const S: usize>(
    Pass { shelf, shards, .. }: &Pass,
    transforms: F,
    g: &Geometry,
    [dy, x]: [&dyn Prologue; 2],
    w: impl Fn(usize, usize) -> [f32; 9] + Sync,
    epilogue: &dyn Epilogue,
    plainly: impl Fn([usize; 2], &mut [f32]) + Sync,
    dweight_plainly: impl Fn(&Range<usize>) -> Array4<f32> + Sync,
) -> Option<(Vec<Array4<f32>>, Array4<f32>)> {
    let (from, to, subtrees) = ([g.h_out, g.w_out, g.c_out], [g.h, g.w, g.c_in], shards.own_subtrees());
    // With this padding the tiles of x and of dy are at the same places.
    if g.padding != [1, 1] || !is_small(g) || shards.has_groups() {
        return None;
    }
    let back = convolve::plan::<M>(from, to, g.padding, shards.longest(), epilogue);
    let images_per_chunk = |shard: &Range<usize>| plan_with::<M>(g, &back.padded, shard.len()).images;
    let images_per_leaf = |shard: &Range<usize>| {
        let chunks = shard.len().div_ceil(back.images);
        chunks.div_ceil(leaves(chunks, shards.count())).max(1) * back.images
    };
    let leaves_of = |subtree: &Vec<Range<usize>>| -> usize {
        subtree.iter().map(|shard| shard.len().div_ceil(images_per_leaf(shard))).sum()
    };
    if subtrees.iter().flatten().any(|shard| images_per_chunk(shard) != back.images)
        || subtrees.iter().any(|subtree| leaves_of(subtree) < 2 * rayon::current_num_threads())
    {
        return None;
    }
    let forth = plan_with::<M>(g, &back.padded, shards.longest());
    let u = transform_weight(shelf, transforms, [g.c_out, g.c_in], w);
    let channels = Segments::new(1, [Segment { offset: 0, len: g.c_out }]);
    let of_dx = convolve::Chunk { transforms, plan: &back, u: &u, channels: &channels, plainly: &plainly, epilogue };
    let columns = g.c_out.next_multiple_of(NR);

    // dU of the images from `first` on, and their dx.
    let leaf = |first: usize, dx: &mut [f32]| {
        let mut du = shelf.buffer(S * S * g.c_in * g.c_out);
        let padded = |plan: &Plan| shelf.empty_buffer(plan.images * plan.padded.values());
        let (mut x_padded, mut dy_padded) = (padded(&forth), padded(&back));
        // V and dM of a chunk, then V′ and M′ of a band.
        let values =
            |of_chunk: usize, of_band: usize| S * S * plane((forth.tiles.len() * of_chunk).max(back.band * of_band));
        let mut v = shelf.buffer(values(g.c_in, g.c_out));
        let mut m = shelf.buffer(values(columns, g.c_in));
        for (index, dx) in dx.chunks_mut(back.images * back.y_image).enumerate() {
            let images = [first + index * back.images, dx.len() / back.y_image];
            let x = forth.padded.fill(x, images, &mut x_padded);
            let dy = back.padded.fill(dy, images, &mut dy_padded);
            let tiles = &forth.tiles[..images[1] * forth.tiles_per_image];
            dispatch(TransformBoth { transforms, plan: &forth, tiles, x, dy, v: &mut v, dm: &mut m });
            let (tiles, segments) = (tiles.len(), &channel_by_channel(g.c_in, tiles.len()));
            for (point, du) in du.chunks_exact_mut(g.c_in * g.c_out).enumerate() {
                let v = &v[point * plane(tiles * g.c_in)..][..tiles * g.c_in];
                let dm = &m[point * plane(tiles * columns)..][..tiles * columns];
                dispatch(Correlate { tiles, segments, v, dm, du, channels: [g.c_in, g.c_out], accumulate: index > 0 });
            }
            of_dx.compute(dy, images[0], [&mut v, &mut m], dx);
        }
        du
    };
    let shard = |shard: &Range<usize>, dx: &mut [f32]| {
        let images = images_per_leaf(shard);
        let parts: Vec<_> = dx.chunks_mut(images * back.y_image).map(Mutex::new).collect();
        let leaf = |index: usize| leaf(shard.start + index * images, take(&parts[index]));
        let du = tree_sum(parts.len(), &leaf, &|a: &mut Buffer, b: Buffer| wide_add(a, &b));
        let dw = from_points(shelf, transforms, g, du);
        if all_finite(dw.as_slice().expect("contiguous")) { dw } else { dweight_plainly(shard) }
    };
    let add = |left: &mut Array4<f32>, right: Array4<f32>| {
        wide_add(left.as_slice_mut().expect("contiguous"), right.as_slice().expect("contiguous"));
        shelf.recycle(right.into_shared());
    };
    let mut dx = shelf.dirty_array((g.n, g.h, g.w, g.c_in));
    let mut rest = dx.as_slice_mut().expect("contiguous");
    let mut sums = Vec::with_capacity(subtrees.len());
    for subtree in &subtrees {
        let part = |shard: &Range<usize>| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(shard.len() * back.y_image);
            rest = others;
            Mutex::new(part)
        };
        let parts: Vec<_> = subtree.iter().map(part).collect();
        let sum = tree_sum(subtree.len(), &|i| shard(&subtree[i], take(&parts[i])), &add);
        sums.push(sum.expect("a subtree has a shard"));
    }
    Some((sums, dx))
}

/// A part of dx, which one thread takes once.
fn take<'a>(part: &Mutex<&'a mut [f32]>) -> &'a mut [f32] {
    std::mem::take(&mut *part.lock().expect("no thread panics while it takes its part"))
}
