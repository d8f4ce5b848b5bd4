//! 3x3 convolution with fewer multiplications (Winograd 1980; Lavin & Gray 2015, arXiv 1509.09308).
//!
//! F(m, 3) computes m outputs of a one-dimensional 3-tap filter w from the m + 2 inputs d under it with m + 2
//! multiplications instead of 3m. Input, filter and output are polynomials; each is evaluated at m + 2 points (0, 1, −1,
//! 2, −2, ∞ for m = 4), the *values* are multiplied, and the outputs are the coefficients that fit the products:
//!
//! ```text
//! y = Aᵀ [ (G w) ⊙ (Bᵀ d) ]                         one dimension:  Bᵀ (m+2, m+2)   G (m+2, 3)   Aᵀ (m, m+2)
//! y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A                  two dimensions: rows, then columns
//! ```
//!
//! A tile of 4x4 outputs then costs 36 multiplications instead of 144, one of 2x2 outputs 16 instead of 36. The sum over
//! input channels is taken before the output transform, which is linear, so that for each of the (m + 2)² points k the
//! products are one matrix product over all tiles:
//!
//! ```text
//! V[k] (tiles, c_in) = Bᵀ d B        U[k] (c_in, c_out) = G w Gᵀ        M[k] = V[k] · U[k]        y = Aᵀ M A
//! ```
//!
//! # Backward
//!
//! dx of a convolution with stride 1 is a convolution: of dy, padded with 2 − padding, with the weight turned by 180
//! degrees and its channels exchanged. So dx is the code of y. dweight is the adjoint of the map w ↦ y, read from right to
//! left:
//!
//! ```text
//! dM = A dy Aᵀ        dU[k] (c_in, c_out) = Σ_tiles V[k]ᵀ · dM[k]        dw = Gᵀ dU G
//! ```
//!
//! # Precision
//!
//! The transforms add and subtract numbers of different size and the output transform takes small differences of large
//! products: in f32 an error of F(4x4) is about ten times that of a plain sum, of F(2x2) about twice; `docs/speed.md`
//! measures it, and the tests hold it to an a-priori bound. The weight's transforms are computed in f64. f64 never comes
//! here of itself: it is the oracle.

use super::frame::{AsIs, Finish, Frame, Shifted, Source};
use super::{implicit, Conv2dAlgorithm, Geometry};
use crate::kernels::buffers::{dirty_array, Buffer};
use crate::kernels::gather_gemm::{Product, Segment, Segments, Strided, NR};
use crate::kernels::simd::{dispatch, wide, Arithmetic, Kernel};
use crate::kernels::vector::Vector;
use crate::parallel::{add_slices, tree_sum};
use crate::Scalar;
use ndarray::Array4;
use rayon::prelude::*;
use std::ops::Range;

/// The size of a tile of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 2x2, F(2x2, 3x3): 16 multiplications for 4 outputs.
    Two,
    /// 4x4, F(4x4, 3x3): 36 multiplications for 16 outputs.
    Four,
}

/// Whether a geometry can be computed this way: a 3x3 kernel, everything else 1, and no more padding than dx can undo.
pub fn applies(g: &Geometry) -> bool {
    [g.kh, g.kw] == [3, 3]
        && g.stride == [1, 1]
        && g.dilation == [1, 1]
        && g.groups == 1
        && g.padding.iter().all(|&padding| padding <= 2)
}

/// The tile that needs the fewest multiplications, if it is fewer than without tiles. With few channels the transforms
/// cost more than is saved.
pub fn fastest(g: &Geometry) -> Option<Conv2dAlgorithm> {
    let tiles = |m: usize| g.h_out.div_ceil(m) * g.w_out.div_ceil(m);
    let choices = [
        (9 * g.pixels_out(), None),
        (36 * tiles(4), Some(Conv2dAlgorithm::Winograd4)),
        (16 * tiles(2), Some(Conv2dAlgorithm::Winograd2)),
    ];
    let fewest = choices.into_iter().min_by_key(|(products, _)| *products);
    fewest.and_then(|(_, algorithm)| algorithm).filter(|_| g.c_in.min(g.c_out) >= 16)
}

/// y without the bias.
pub fn forward<T: Scalar>(
    size: Size,
    g: &Geometry,
    x: &dyn Source<T>,
    weight: &Array4<T>,
    y: &mut [T],
    finish: &dyn Finish<T>,
) {
    let w = |o, i, p, q| weight[[o, i, p, q]];
    let plainly = |[first, count]: [usize; 2], y: &mut [T]| {
        let x = Shifted { source: x, by: first * g.h * g.w * g.c_in };
        implicit::forward(&Geometry { n: count, ..*g }, &x, weight, y, &AsIs);
    };
    let (from, to) = ([g.h, g.w, g.c_in], [g.h_out, g.w_out, g.c_out]);
    match size {
        Size::Two => convolve(F2, g.n, x, from, to, g.padding, w, y, finish, plainly),
        Size::Four => convolve(F4, g.n, x, from, to, g.padding, w, y, finish, plainly),
    }
}

/// dx: the convolution of dy with the weight turned by 180 degrees.
pub fn input_gradient<T: Scalar>(
    size: Size,
    g: &Geometry,
    dy: &dyn Source<T>,
    weight: &Array4<T>,
    dx: &mut [T],
    finish: &dyn Finish<T>,
) {
    let w = |i, o, p, q| weight[[o, i, 2 - p, 2 - q]];
    let plainly = |[first, count]: [usize; 2], dx: &mut [T]| {
        let dy = Shifted { source: dy, by: first * g.pixels_out() * g.c_out };
        implicit::input_gradient(&Geometry { n: count, ..*g }, &dy, weight, dx, &AsIs);
    };
    let (from, to) = ([g.h_out, g.w_out, g.c_out], [g.h, g.w, g.c_in]);
    let padding = g.padding.map(|padding| 2 - padding);
    match size {
        Size::Two => convolve(F2, g.n, dy, from, to, padding, w, dx, finish, plainly),
        Size::Four => convolve(F4, g.n, dy, from, to, padding, w, dx, finish, plainly),
    }
}

/// dweight.
pub fn weight_gradient<T: Scalar>(size: Size, g: &Geometry, dy: &dyn Source<T>, x: &dyn Source<T>) -> Array4<T> {
    // V and dM of a whole image at once: not of one that is far larger than anybody trains on.
    if g.pixels_out().saturating_mul(g.c_in + g.c_out) > MOST_NUMBERS {
        return implicit::weight_gradient(g, dy, x);
    }
    let dw = match size {
        Size::Two => correlate(F2, g, x, dy),
        Size::Four => correlate(F4, g, x, dy),
    };
    if all_finite(dw.as_slice().expect("contiguous")) {
        dw
    } else {
        implicit::weight_gradient(g, dy, x)
    }
}

/// Whether no number is infinite or NaN. A tile mixes its inputs, so that one infinity makes NaN of all its outputs; and it
/// can overflow where the definition does not. Where that happens the definition's sum is computed instead.
fn all_finite<T: Scalar>(numbers: &[T]) -> bool {
    // 0 · ∞ and 0 · NaN are NaN, and stay.
    let mut sums = [T::zero(); 64];
    wide(|| {
        for numbers in numbers.chunks(64) {
            sums.iter_mut().zip(numbers).for_each(|(sum, &number)| *sum += number * T::zero());
        }
    });
    sums.iter().all(|sum| *sum == T::zero())
}

#[expect(clippy::too_many_arguments, reason = "y and dx differ in every one of them")]
fn convolve<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    n: usize,
    x: &dyn Source<T>,
    from: [usize; 3],
    to: [usize; 3],
    padding: [usize; 2],
    w: impl Fn(usize, usize, usize, usize) -> T + Sync,
    y: &mut [T],
    finish: &dyn Finish<T>,
    plainly: impl Fn([usize; 2], &mut [T]) + Sync,
) {
    let plan = Plan::new::<M>(from, to, padding, n, [PIECE_TILES, block_tiles(from[2], to[2]), finish.images()]);
    let numbers = S * S * plane(plan.tiles_per_image * n).saturating_mul(plan.c_in + plan.c_out);
    if n > 0 && plan.c_in * plan.c_out >= VERY_LARGE && numbers <= AT_ONCE {
        return convolve_at_once(transforms, n, &plan, x, w, y, finish, plainly);
    }
    let u = transform_weight(transforms, [from[2], to[2]], w);
    let channels = Segments::new(1, [Segment { offset: 0, len: plan.c_in }]);
    let pieces = y.par_chunks_mut((plan.images * plan.y_image).max(1)).enumerate();
    let scratch = || {
        let numbers = |channels: usize| Buffer::dirty(S * S * plane(plan.block * channels));
        (Buffer::empty(plan.images * plan.frame.numbers()), numbers(plan.c_in), numbers(plan.c_out))
    };
    pieces.for_each_init(scratch, |(frame, v, m), (piece, y)| {
        let (first, count) = (piece * plan.images, y.len() / plan.y_image);
        let x = plan.frame.fill(x, [first, count], frame);
        for tiles in plan.tiles[..count * plan.tiles_per_image].chunks(plan.block) {
            dispatch(Convolve { transforms, plan: &plan, tiles, x, u: &u, channels: &channels, v, m, y });
        }
        if !all_finite(y) {
            plainly([first, count], y);
        }
        finish.piece(first * plan.y_image, y);
    });
}

/// The same, with the same bits, where V and M of all images fit into a cache but U, (m + 2)²/9 times as large as the
/// weight, does not: U is made in blocks of a few input and output channels, and each is used up where it is.
#[expect(clippy::too_many_arguments, reason = "as `convolve`")]
fn convolve_at_once<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    n: usize,
    plan: &Plan,
    x: &dyn Source<T>,
    w: impl Fn(usize, usize, usize, usize) -> T + Sync,
    y: &mut [T],
    finish: &dyn Finish<T>,
    plainly: impl Fn([usize; 2], &mut [T]) + Sync,
) {
    let (c_in, c_out) = (plan.c_in, plan.c_out);
    let images = |piece: usize| [piece * plan.images, plan.images.min(n - piece * plan.images)];
    let transformed: Vec<_> = (0..n.div_ceil(plan.images))
        .into_par_iter()
        .map(|piece| {
            let tiles = &plan.tiles[..images(piece)[1] * plan.tiles_per_image];
            let mut frame = Buffer::empty(images(piece)[1] * plan.frame.numbers());
            let mut v = Buffer::dirty(S * S * plane(tiles.len() * c_in));
            let x = plan.frame.fill(x, images(piece), &mut frame);
            dispatch(TransformInput { transforms, plan, tiles, x, v: &mut v });
            (tiles, v)
        })
        .collect();
    // M: (two panels of output channels, piece, point, tile, 32).
    let m_piece = S * S * plane(plan.images * plan.tiles_per_image * 2 * NR);
    let m_pair = transformed.len() * m_piece;
    let mut m = Buffer::dirty(c_out.div_ceil(2 * NR) * m_pair);
    m.par_chunks_mut(m_pair).enumerate().for_each_init(
        || Buffer::dirty(S * S * BLOCK_INPUTS * 2 * NR),
        |u, (pair, m)| {
            let columns = (c_out - pair * 2 * NR).min(2 * NR);
            for first in (0..c_in).step_by(BLOCK_INPUTS) {
                let inputs = first..c_in.min(first + BLOCK_INPUTS);
                let panel = S * S * inputs.len() * NR;
                for (index, u) in u.chunks_exact_mut(panel).enumerate().take(columns.div_ceil(NR)) {
                    let (panel, inputs) = (2 * pair + index, inputs.clone());
                    dispatch(Panel::<T, F, _, M, S> { transforms, panel, inputs, c_out, w: &w, u });
                }
                let channels = &Segments::new(1, [Segment { offset: 0, len: inputs.len() }]);
                for ((tiles, v), m) in transformed.iter().zip(m.chunks_exact_mut(m_piece)) {
                    dispatch(Points::<T, S> { tiles: tiles.len(), v, c_in, channels, first, u, panel, columns, m });
                }
            }
        },
    );
    let pieces = y.par_chunks_mut(plan.images * plan.y_image).zip(&transformed).enumerate();
    pieces.for_each(|(piece, (y, (tiles, _)))| {
        dispatch(OutputOfPairs { transforms, plan, tiles, m: &m[piece * m_piece..], m_pair, y });
        if !all_finite(y) {
            plainly(images(piece), y);
        }
        finish.piece(piece * plan.images * plan.y_image, y);
    });
}

fn correlate<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    g: &Geometry,
    x: &dyn Source<T>,
    dy: &dyn Source<T>,
) -> Array4<T> {
    let (from, to) = ([g.h, g.w, g.c_in], [g.h_out, g.w_out, g.c_out]);
    let plan = Plan::new::<M>(from, to, g.padding, g.n, [PIECE_TILES, PIECE_TILES, 1]);
    let dy_frame = Frame::none([g.h_out, g.w_out], g.c_out);
    let pieces = g.n.div_ceil(plan.images);
    let panels = g.c_out.div_ceil(NR);
    let numbers = S * S * plane(plan.tiles_per_image * g.n).saturating_mul(g.c_in + panels * NR);
    if g.n > 0 && g.c_in * g.c_out >= LARGE && numbers <= AT_ONCE {
        return correlate_at_once(transforms, g, &plan, x, dy);
    }
    // Many small dU are summed in a tree, each on its thread; of a large one there is one only, and the threads share it.
    let (leaves, together) = if g.c_in * g.c_out < LARGE { (pieces.clamp(1, MOST_LEAVES), 1) } else { (1, 4) };
    let pieces_per_leaf = pieces.div_ceil(leaves).max(1);

    let leaf = |index: usize| {
        let mut du = Buffer::dirty(S * S * g.c_in * g.c_out);
        let mut scratch: Vec<_> = (0..together)
            .map(|_| {
                let numbers = |channels: usize| Buffer::dirty(S * S * plane(plan.tiles.len() * channels));
                (
                    (Buffer::empty(plan.images * plan.frame.numbers()), Buffer::empty(plan.images * plan.y_image)),
                    numbers(g.c_in),
                    numbers(panels * NR),
                )
            })
            .collect();
        let first = index * pieces_per_leaf;
        let last = pieces.min(first + pieces_per_leaf);
        for group in (first..last).step_by(together) {
            let images = |piece: usize| [piece * plan.images, plan.images.min(g.n - piece * plan.images)];
            scratch.par_iter_mut().zip(group..last).for_each(|(((frame, dy_buffer), v, dm), piece)| {
                let x = plan.frame.fill(x, images(piece), frame);
                let dy = dy_frame.fill(dy, images(piece), dy_buffer);
                let tiles = &plan.tiles[..images(piece)[1] * plan.tiles_per_image];
                dispatch(TransformBoth { transforms, plan: &plan, tiles, x, dy, v, dm });
            });
            du.par_chunks_mut(g.c_in * g.c_out).enumerate().for_each(|(point, du)| {
                for (piece, (_, v, dm)) in (group..last).zip(&scratch) {
                    let tiles = images(piece)[1] * plan.tiles_per_image;
                    let v = &v[point * plane(tiles * g.c_in)..][..tiles * g.c_in];
                    let dm = &dm[point * plane(tiles * panels * NR)..][..tiles * panels * NR];
                    let (segments, channels) = (&channel_by_channel(g.c_in, tiles), [g.c_in, g.c_out]);
                    dispatch(Correlate { tiles, segments, v, dm, du, channels, accumulate: piece > first });
                }
            });
        }
        du
    };
    let du = tree_sum(pieces.div_ceil(pieces_per_leaf), &leaf, &|a: &mut Buffer<T>, b: Buffer<T>| {
        wide(|| add_slices(a, &b))
    });
    let Some(du) = du else { return Array4::zeros((g.c_out, g.c_in, 3, 3)) };
    let mut dw = dirty_array((g.c_out, g.c_in, 3, 3));
    let outputs = dw.as_slice_mut().expect("contiguous").par_chunks_mut(NR * g.c_in * 9).enumerate();
    outputs.for_each(|(panel, dw)| {
        let columns = panel * NR..g.c_out.min((panel + 1) * NR);
        dispatch(WeightAdjoint { transforms, du: &du, row: g.c_out, columns, inputs: 0..g.c_in, c_in: g.c_in, dw });
    });
    dw
}

/// The same, with the same bits, where V and dM of all images fit into a cache but dU, (m + 2)²/9 times as large as the
/// weight, does not: dU is made in blocks of a few input and output channels, and each is turned into dw where it is.
fn correlate_at_once<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    g: &Geometry,
    plan: &Plan,
    x: &dyn Source<T>,
    dy: &dyn Source<T>,
) -> Array4<T> {
    let dy_frame = Frame::none([g.h_out, g.w_out], g.c_out);
    let padded = g.c_out.next_multiple_of(NR);
    let transformed: Vec<_> = (0..g.n.div_ceil(plan.images))
        .into_par_iter()
        .map(|piece| {
            let images = [piece * plan.images, plan.images.min(g.n - piece * plan.images)];
            let tiles = &plan.tiles[..images[1] * plan.tiles_per_image];
            let numbers = |channels: usize| Buffer::dirty(S * S * plane(tiles.len() * channels));
            let (mut v, mut dm) = (numbers(g.c_in), numbers(padded));
            let (mut frame, mut dy_buffer) =
                (Buffer::empty(images[1] * plan.frame.numbers()), Buffer::empty(images[1] * plan.y_image));
            let (x, dy) = (plan.frame.fill(x, images, &mut frame), dy_frame.fill(dy, images, &mut dy_buffer));
            dispatch(TransformBoth { transforms, plan, tiles, x, dy, v: &mut v, dm: &mut dm });
            (tiles.len(), channel_by_channel(g.c_in, tiles.len()), v, dm)
        })
        .collect();
    let mut dw = dirty_array((g.c_out, g.c_in, 3, 3));
    // Two panels: as many columns as the widest tile of a product has.
    let outputs = dw.as_slice_mut().expect("contiguous").par_chunks_mut(2 * NR * g.c_in * 9).enumerate();
    outputs.for_each_init(
        || Buffer::dirty(S * S * BLOCK_INPUTS * 2 * NR),
        |du, (pair, dw)| {
            let outputs = 2 * pair * NR..g.c_out.min(2 * (pair + 1) * NR);
            for first in (0..g.c_in).step_by(BLOCK_INPUTS) {
                let inputs = first..g.c_in.min(first + BLOCK_INPUTS);
                let block = inputs.len() * outputs.len();
                for (point, du) in du[..S * S * block].chunks_exact_mut(block).enumerate() {
                    for (piece, (tiles, segments, v, dm)) in transformed.iter().enumerate() {
                        let v = &v[point * plane(tiles * g.c_in) + first..][..tiles * g.c_in - first];
                        let dm = &dm[point * plane(tiles * padded) + outputs.start * tiles..];
                        let channels = [inputs.len(), outputs.len()];
                        let accumulate = piece > 0;
                        dispatch(Correlate { tiles: *tiles, segments, v, dm, du, channels, accumulate });
                    }
                }
                for (panel, dw) in dw.chunks_mut(NR * g.c_in * 9).enumerate() {
                    let columns = panel * NR..outputs.len().min((panel + 1) * NR);
                    let (du, inputs) = (&du[..S * S * block], inputs.clone());
                    dispatch(WeightAdjoint { transforms, du, row: outputs.len(), columns, inputs, c_in: g.c_in, dw });
                }
            }
        },
    );
    dw
}

/// Channels in times channels out from which reading U takes longer than multiplying with it, few tiles given.
const VERY_LARGE: usize = 1 << 18;

/// Input channels of a block of U or dU: with 32 output channels and F(4x4) 300 KB.
const BLOCK_INPUTS: usize = 64;

/// Numbers of V and M, or V and dM, up to which they are made for all images at once: 32 MB.
const AT_ONCE: usize = 1 << 23;

/// Tiles in a piece of work, about; a piece is made of whole images.
const PIECE_TILES: usize = 64;

/// Tiles transformed at once: V and M should stay in the second-level cache, and U, read once a block, be used often.
fn block_tiles(c_in: usize, c_out: usize) -> usize {
    if c_in * c_out < 1 << 16 {
        32
    } else {
        64
    }
}

/// Channels in times channels out from which dU no longer fits a cache.
const LARGE: usize = 1 << 14;

/// Channels times pixels of an image from which its V and dM would take hundreds of megabytes.
const MOST_NUMBERS: usize = 1 << 24;

/// The most partial sums of dU: the fewer, the less there is to add; the more, the more threads have work.
const MOST_LEAVES: usize = 16;

/// The one-dimensional transforms of F(M, 3) with S = M + 2 points.
trait Transforms<const M: usize, const S: usize>: Copy + Sync {
    /// Bᵀ d
    fn input<T: Scalar, V: Vector<T>>(self, d: [V; S]) -> [V; S];
    /// Aᵀ m
    fn output<T: Scalar, V: Vector<T>>(self, m: [V; S]) -> [V; M];
    /// A y
    fn output_adjoint<T: Scalar, V: Vector<T>>(self, y: [V; M]) -> [V; S];
    /// G w
    fn weight<V: Vector<f64>>(self, w: [V; 3]) -> [V; S];
    /// Gᵀ u
    fn weight_adjoint<V: Vector<f64>>(self, u: [V; S]) -> [V; 3];
}

/// F(2, 3): the points 0, 1, −1, ∞.
///
/// ```text
///      1  0 -1  0          1   0   0
/// Bᵀ = 0  1  1  0     G = 1/2 1/2 1/2     Aᵀ = 1  1  1  0
///      0 -1  1  0         1/2-1/2 1/2          0  1 -1  1
///      0 -1  0  1          0   0   1
/// ```
#[derive(Clone, Copy)]
struct F2;

impl Transforms<2, 4> for F2 {
    #[inline(always)]
    fn input<T: Scalar, V: Vector<T>>(self, [d0, d1, d2, d3]: [V; 4]) -> [V; 4] {
        [d0 - d2, d1 + d2, d2 - d1, d3 - d1]
    }

    #[inline(always)]
    fn output<T: Scalar, V: Vector<T>>(self, [m0, m1, m2, m3]: [V; 4]) -> [V; 2] {
        [m0 + (m1 + m2), (m1 - m2) + m3]
    }

    #[inline(always)]
    fn output_adjoint<T: Scalar, V: Vector<T>>(self, [y0, y1]: [V; 2]) -> [V; 4] {
        [y0, y0 + y1, y0 - y1, y1]
    }

    #[inline(always)]
    fn weight<V: Vector<f64>>(self, [w0, w1, w2]: [V; 3]) -> [V; 4] {
        let (ends, zero) = (w0 + w2, V::zero());
        [w0, (ends + w1).times(0.5, zero), (ends - w1).times(0.5, zero), w2]
    }

    #[inline(always)]
    fn weight_adjoint<V: Vector<f64>>(self, [u0, u1, u2, u3]: [V; 4]) -> [V; 3] {
        let middle = u1 + u2;
        [middle.times(0.5, u0), (u1 - u2).times(0.5, V::zero()), middle.times(0.5, u3)]
    }
}

/// F(4, 3): the points 0, 1, −1, 2, −2, ∞.
///
/// ```text
///      4  0 -5  0  1  0          1/4    0    0
///      0 -4 -4  1  1  0         -1/6 -1/6 -1/6          1  1  1  1  1  0
/// Bᵀ = 0  4 -4 -1  1  0     G = -1/6  1/6 -1/6     Aᵀ = 0  1 -1  2 -2  0
///      0 -2 -1  2  1  0         1/24 1/12  1/6          0  1  1  4  4  0
///      0  2 -1 -2  1  0         1/24-1/12  1/6          0  1 -1  8 -8  1
///      0  4  0 -5  0  1            0    0    1
/// ```
#[derive(Clone, Copy)]
struct F4;

impl Transforms<4, 6> for F4 {
    #[inline(always)]
    fn input<T: Scalar, V: Vector<T>>(self, [d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
        let (even, odd) = (d2.times(-4.0, d4), d1.times(-4.0, d3));
        let (even_2, odd_2) = (d4 - d2, d3 - d1);
        [
            d0.times(4.0, d2.times(-5.0, d4)),
            even + odd,
            even - odd,
            odd_2.times(2.0, even_2),
            odd_2.times(-2.0, even_2),
            d1.times(4.0, d3.times(-5.0, d5)),
        ]
    }

    #[inline(always)]
    fn output<T: Scalar, V: Vector<T>>(self, [m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
        let (sum, difference) = (m1 + m2, m1 - m2);
        let (sum_2, difference_2) = (m3 + m4, m3 - m4);
        [
            m0 + (sum + sum_2),
            difference_2.times(2.0, difference),
            sum_2.times(4.0, sum),
            difference_2.times(8.0, difference) + m5,
        ]
    }

    #[inline(always)]
    fn output_adjoint<T: Scalar, V: Vector<T>>(self, [y0, y1, y2, y3]: [V; 4]) -> [V; 6] {
        let (even, odd) = (y0 + y2, y1 + y3);
        let (even_2, odd_2) = (y2.times(4.0, y0), y3.times(4.0, y1));
        [y0, even + odd, even - odd, odd_2.times(2.0, even_2), odd_2.times(-2.0, even_2), y3]
    }

    #[inline(always)]
    fn weight<V: Vector<f64>>(self, [w0, w1, w2]: [V; 3]) -> [V; 6] {
        let zero = V::zero();
        let (ends, ends_2) = (w0 + w2, w2.times(4.0, w0));
        let middle_2 = w1.times(2.0, zero);
        [
            w0.times(0.25, zero),
            (ends + w1).times(-1.0 / 6.0, zero),
            (ends - w1).times(-1.0 / 6.0, zero),
            (ends_2 + middle_2).times(1.0 / 24.0, zero),
            (ends_2 - middle_2).times(1.0 / 24.0, zero),
            w2,
        ]
    }

    #[inline(always)]
    fn weight_adjoint<V: Vector<f64>>(self, [u0, u1, u2, u3, u4, u5]: [V; 6]) -> [V; 3] {
        let (sum, sum_2, zero) = (u1 + u2, u3 + u4, V::zero());
        let (difference, difference_2) = (u1 - u2, u3 - u4);
        [
            u0.times(0.25, sum.times(-1.0 / 6.0, sum_2.times(1.0 / 24.0, zero))),
            difference.times(-1.0 / 6.0, difference_2.times(1.0 / 12.0, zero)),
            sum.times(-1.0 / 6.0, sum_2.times(1.0 / 6.0, u5)),
        ]
    }
}

/// A tile of one image: where its window begins in the framed image, where it begins in the output, and how many of its
/// rows and columns lie inside the output.
#[derive(Clone, Copy)]
struct Tile {
    window: usize,
    output: usize,
    rows: usize,
    columns: usize,
}

/// A convolution cut into tiles: y (h_out, w_out, c_out) of x (h, w, c_in).
struct Plan {
    frame: Frame,
    /// The tiles of `images` images.
    tiles: Vec<Tile>,
    /// Images in a piece of work.
    images: usize,
    tiles_per_image: usize,
    /// Tiles of y transformed at once.
    block: usize,
    /// Numbers of an image and of a row of y.
    y_image: usize,
    y_row: usize,
    c_in: usize,
    c_out: usize,
}

impl Plan {
    fn new<const M: usize>(
        [h, w, c_in]: [usize; 3],
        [h_out, w_out, c_out]: [usize; 3],
        padding: [usize; 2],
        n: usize,
        [piece, block, align]: [usize; 3],
    ) -> Self {
        let [down, across] = [h_out.div_ceil(M), w_out.div_ceil(M)];
        // Pieces as equal as possible, so that no thread is left with a short one.
        let pieces = n.div_ceil((piece / (down * across)).max(1)).max(n.min(2)).max(1);
        let images = n.div_ceil(pieces).max(1).next_multiple_of(align);
        let frame = Frame { image: [h, w], before: padding, size: [down * M + 2, across * M + 2], channels: c_in };
        let mut tiles = Vec::with_capacity(images * down * across);
        for image in 0..images {
            for (i, j) in (0..down).flat_map(|i| (0..across).map(move |j| (i * M, j * M))) {
                tiles.push(Tile {
                    window: image * frame.numbers() + frame.offset(i, j),
                    output: ((image * h_out + i) * w_out + j) * c_out,
                    rows: M.min(h_out - i),
                    columns: M.min(w_out - j),
                });
            }
        }
        let blocks = tiles.len().div_ceil(block).max(1);
        Plan {
            block: tiles.len().div_ceil(blocks).max(1),
            tiles,
            images,
            tiles_per_image: down * across,
            y_image: h_out * w_out * c_out,
            y_row: w_out * c_out,
            c_in,
            c_out,
            frame,
        }
    }
}

/// Distance between two points of V or M, each `numbers` long: a few more, so that the points do not fall on the same
/// cache lines when `numbers` is a power of two.
fn plane(numbers: usize) -> usize {
    numbers + 16
}

/// y of one block of tiles.
struct Convolve<'a, T, F, const M: usize, const S: usize> {
    transforms: F,
    plan: &'a Plan,
    tiles: &'a [Tile],
    /// Framed images.
    x: &'a [T],
    /// U: (panel of 16 output channels, point, c_in, 16).
    u: &'a [T],
    channels: &'a Segments,
    v: &'a mut [T],
    m: &'a mut [T],
    y: &'a mut [T],
}

impl<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize> Kernel for Convolve<'_, T, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let Convolve { transforms, plan, tiles, x, u, channels, v, m, y } = self;
        let (c, c_out, count) = (plan.c_in, plan.c_out, tiles.len());
        transform_input::<T, A, F, M, S>(transforms, plan, tiles, x, v);
        let (v_plane, m_plane) = (plane(count * c), plane(count * c_out));
        for point in 0..S * S {
            let product = Product {
                a: &v[point * v_plane..][..count * c],
                segments: channels,
                b: &u[point * c * NR..],
                n: c_out,
                panel: S * S * c * NR,
                accumulate: false,
            };
            let m = &mut m[point * m_plane..][..count * c_out];
            product.run::<A, ROWS>(Strided { count, stride: c }, m, Strided { count, stride: c_out });
        }
        transform_output::<T, A, F, M, S>(transforms, plan, tiles, (m, m_plane), [c_out, 0], y);
    }
}

/// V of a piece.
struct TransformInput<'a, T, F, const M: usize, const S: usize> {
    transforms: F,
    plan: &'a Plan,
    tiles: &'a [Tile],
    x: &'a [T],
    v: &'a mut [T],
}

impl<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize> Kernel for TransformInput<'_, T, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let TransformInput { transforms, plan, tiles, x, v } = self;
        transform_input::<T, A, F, M, S>(transforms, plan, tiles, x, v);
    }
}

/// `M[k] ← [M[k] +] V[k] · U[k]` for every point k, some input channels and up to 32 output channels.
struct Points<'a, T, const S: usize> {
    tiles: usize,
    v: &'a [T],
    c_in: usize,
    channels: &'a Segments,
    /// The first of the input channels.
    first: usize,
    u: &'a [T],
    /// Distance between two panels of U.
    panel: usize,
    columns: usize,
    m: &'a mut [T],
}

impl<T: Scalar, const S: usize> Kernel for Points<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let Points { tiles, v, c_in, channels, first, u, panel, columns, m } = self;
        let (v_plane, m_plane) = (plane(tiles * c_in), plane(tiles * 2 * NR));
        for point in 0..S * S {
            let a = &v[point * v_plane + first..][..tiles * c_in - first];
            let b = &u[point * (panel / (S * S))..];
            let product = Product { a, segments: channels, b, n: columns, panel, accumulate: first > 0 };
            let (rows, m_rows) = (Strided { count: tiles, stride: c_in }, Strided { count: tiles, stride: 2 * NR });
            product.run::<A, ROWS>(rows, &mut m[point * m_plane..][..tiles * 2 * NR], m_rows);
        }
    }
}

/// y = Aᵀ M A of a piece, M in pairs of panels.
struct OutputOfPairs<'a, T, F, const M: usize, const S: usize> {
    transforms: F,
    plan: &'a Plan,
    tiles: &'a [Tile],
    m: &'a [T],
    /// Distance between two pairs.
    m_pair: usize,
    y: &'a mut [T],
}

impl<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize> Kernel for OutputOfPairs<'_, T, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let OutputOfPairs { transforms, plan, tiles, m, m_pair, y } = self;
        let m_plane = plane(tiles.len() * 2 * NR);
        transform_output::<T, A, F, M, S>(transforms, plan, tiles, (m, m_plane), [2 * NR, m_pair], y);
    }
}

/// V = Bᵀ d B of every tile.
#[inline(always)]
fn transform_input<T: Scalar, A: Arithmetic, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    plan: &Plan,
    tiles: &[Tile],
    x: &[T],
    v: &mut [T],
) {
    let c = plan.c_in;
    let (row, v_plane, lanes) = (plan.frame.size[1] * c, plane(tiles.len() * c), A::Vector::<T>::LANES);
    let whole = c / lanes * lanes;
    let (mut half, mut half_single) = ([[A::Vector::zero(); S]; S], [[A::Single::zero(); S]; S]);
    for (index, tile) in tiles.iter().enumerate() {
        for i in (0..whole).step_by(lanes) {
            let (x, v) = ((&x[tile.window + i..], row, c), (&mut v[index * c + i..], v_plane));
            input_tile::<T, A::Vector<T>, F, M, S>(transforms, x, &mut half, v);
        }
        for i in whole..c {
            let (x, v) = ((&x[tile.window + i..], row, c), (&mut v[index * c + i..], v_plane));
            input_tile::<T, A::Single<T>, F, M, S>(transforms, x, &mut half_single, v);
        }
    }
}

/// y = Aᵀ M A of every tile. M comes in groups of channels, of so many channels and at such a distance:
/// (group, point, tile, channels), with the distance of the points beside it.
#[inline(always)]
fn transform_output<T: Scalar, A: Arithmetic, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    plan: &Plan,
    tiles: &[Tile],
    (m, m_plane): (&[T], usize),
    [group, distance]: [usize; 2],
    y: &mut [T],
) {
    let (c_out, lanes) = (plan.c_out, A::Vector::<T>::LANES);
    let (mut half, mut half_single) = ([[A::Vector::zero(); S]; M], [[A::Single::zero(); S]; M]);
    for (index, tile) in tiles.iter().enumerate() {
        let mut from = index * group;
        for first in (0..c_out).step_by(group) {
            let (channels, to) = (group.min(c_out - first), tile.output + first);
            let whole = channels / lanes * lanes;
            for o in (0..whole).step_by(lanes) {
                let (m, y) = ((&m[from + o..], m_plane), (&mut y[to + o..], plan.y_row, c_out));
                output_tile::<T, A::Vector<T>, F, M, S>(transforms, m, &mut half, tile, y);
            }
            for o in whole..channels {
                let (m, y) = ((&m[from + o..], m_plane), (&mut y[to + o..], plan.y_row, c_out));
                output_tile::<T, A::Single<T>, F, M, S>(transforms, m, &mut half_single, tile, y);
            }
            from += distance;
        }
    }
}

// In the three functions below everything is a loop over indices. A closure would be compiled by itself, for every processor,
// and its vectors with it; an array that is iterated by value would be copied first, and one made here cleared first. `half`,
// what is between the two one-dimensional transforms, is therefore the caller's, and overwritten for every tile.

/// Bᵀ d B of one tile and a vector of channels; x with the distances of its rows and columns, V with that of its points.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "see above")]
fn input_tile<T: Scalar, V: Vector<T>, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    (x, row, column): (&[T], usize, usize),
    half: &mut [[V; S]; S],
    (v, plane): (&mut [T], usize),
) {
    for j in 0..S {
        let mut d = [V::zero(); S];
        for i in 0..S {
            d[i] = V::load(x, i * row + j * column);
        }
        let values = transforms.input::<T, V>(d);
        for i in 0..S {
            half[i][j] = values[i];
        }
    }
    for i in 0..S {
        let values = transforms.input::<T, V>(half[i]);
        for j in 0..S {
            values[j].store(v, (i * S + j) * plane);
        }
    }
}

/// Aᵀ M A of one tile and a vector of channels, the part of it inside y.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "see above")]
fn output_tile<T: Scalar, V: Vector<T>, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    (m, plane): (&[T], usize),
    half: &mut [[V; S]; M],
    tile: &Tile,
    (y, row, column): (&mut [T], usize, usize),
) {
    for j in 0..S {
        let mut points = [V::zero(); S];
        for i in 0..S {
            points[i] = V::load(m, (i * S + j) * plane);
        }
        let values = transforms.output::<T, V>(points);
        for i in 0..M {
            half[i][j] = values[i];
        }
    }
    for i in 0..tile.rows.min(M) {
        let values = transforms.output::<T, V>(half[i]);
        for j in 0..M {
            if j < tile.columns {
                values[j].store(y, i * row + j * column);
            }
        }
    }
}

/// A dy Aᵀ of one tile and a vector of channels, 0 in place of what is outside dy.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "see above")]
fn adjoint_tile<T: Scalar, V: Vector<T>, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    (dy, row, column): (&[T], usize, usize),
    half: &mut [[V; M]; S],
    tile: &Tile,
    (dm, plane): (&mut [T], usize),
) {
    for j in 0..M {
        let mut values = [V::zero(); M];
        for i in 0..M {
            if i < tile.rows && j < tile.columns {
                values[i] = V::load(dy, i * row + j * column);
            }
        }
        let values = transforms.output_adjoint::<T, V>(values);
        for i in 0..S {
            half[i][j] = values[i];
        }
    }
    for i in 0..S {
        let values = transforms.output_adjoint::<T, V>(half[i]);
        for j in 0..S {
            values[j].store(dm, (i * S + j) * plane);
        }
    }
}

/// V and dM of a piece, for dU.
struct TransformBoth<'a, T, F, const M: usize, const S: usize> {
    transforms: F,
    plan: &'a Plan,
    tiles: &'a [Tile],
    x: &'a [T],
    dy: &'a [T],
    v: &'a mut [T],
    /// dM: (point, panel of 16 output channels, tile, 16). Columns behind the last channel are never looked at.
    dm: &'a mut [T],
}

impl<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize> Kernel for TransformBoth<'_, T, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let TransformBoth { transforms, plan, tiles, x, dy, v, dm } = self;
        let (c_out, count) = (plan.c_out, tiles.len());
        let dm_plane = plane(count * c_out.next_multiple_of(NR));
        transform_input::<T, A, F, M, S>(transforms, plan, tiles, x, v);
        let (mut half, mut half_single) = ([[A::Vector::zero(); M]; S], [[A::Single::zero(); M]; S]);
        for (index, tile) in tiles.iter().enumerate() {
            let lanes = A::Vector::<T>::LANES;
            let whole = c_out / lanes * lanes;
            for o in (0..whole).step_by(lanes) {
                let (dy, to) = (&dy[tile.output + o..], (o / NR * count + index) * NR + o % NR);
                let (dy, dm) = ((dy, plan.y_row, c_out), (&mut dm[to..], dm_plane));
                adjoint_tile::<T, A::Vector<T>, F, M, S>(transforms, dy, &mut half, tile, dm);
            }
            for o in whole..c_out {
                let (dy, to) = (&dy[tile.output + o..], (o / NR * count + index) * NR + o % NR);
                let (dy, dm) = ((dy, plan.y_row, c_out), (&mut dm[to..], dm_plane));
                adjoint_tile::<T, A::Single<T>, F, M, S>(transforms, dy, &mut half_single, tile, dm);
            }
        }
    }
}

/// A row of Vᵀ: it begins at a channel of the first tile and goes on from tile to tile.
fn channel_by_channel(c_in: usize, tiles: usize) -> Segments {
    Segments::new(c_in, [Segment { offset: 0, len: tiles }])
}

/// `dU[k] ← [dU[k] +] V[k]ᵀ · dM[k]`, `channels` in and out, for one point k.
struct Correlate<'a, T> {
    tiles: usize,
    channels: [usize; 2],
    /// See [`channel_by_channel`].
    segments: &'a Segments,
    /// From the first of the input channels on.
    v: &'a [T],
    /// From the panel of the first of the output channels on.
    dm: &'a [T],
    du: &'a mut [T],
    accumulate: bool,
}

impl<T: Scalar> Kernel for Correlate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let Correlate { tiles, channels: [inputs, outputs], segments, v, dm, du, accumulate } = self;
        let product = Product { a: v, segments, b: dm, n: outputs, panel: tiles * NR, accumulate };
        product.run::<A, ROWS>(Strided { count: inputs, stride: 1 }, du, Strided { count: inputs, stride: outputs });
    }
}

/// U = G w Gᵀ in panels (panel of 16 output channels, point, c_in, 16), of the weight `w(o, i, p, q)`.
fn transform_weight<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    [c_in, c_out]: [usize; 2],
    w: impl Fn(usize, usize, usize, usize) -> T + Sync,
) -> Buffer<T> {
    let panels = c_out.div_ceil(NR);
    let mut u = Buffer::dirty(panels * S * S * c_in * NR);
    u.par_chunks_mut(S * S * c_in * NR).enumerate().for_each(|(panel, u)| {
        dispatch(Panel::<T, F, _, M, S> { transforms, panel, inputs: 0..c_in, c_out, w: &w, u });
    });
    u
}

/// One panel of U for some input channels.
struct Panel<'a, T, F, W, const M: usize, const S: usize> {
    transforms: F,
    panel: usize,
    inputs: Range<usize>,
    c_out: usize,
    w: &'a W,
    /// (point, input channel of `inputs`, 16)
    u: &'a mut [T],
}

impl<T, F, W, const M: usize, const S: usize> Kernel for Panel<'_, T, F, W, M, S>
where
    T: Scalar,
    F: Transforms<M, S>,
    W: Fn(usize, usize, usize, usize) -> T,
{
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let Panel { transforms, panel, inputs, c_out, w, u } = self;
        let (rows, columns) = (inputs.len(), NR.min(c_out - panel * NR));
        for (row, input) in inputs.enumerate() {
            let mut read = [[[0.0; NR]; 3]; 3];
            for (p, q) in (0..3).flat_map(|p| (0..3).map(move |q| (p, q))) {
                for (j, value) in read[p][q].iter_mut().enumerate().take(columns) {
                    *value = w(panel * NR + j, input, p, q).as_f64();
                }
            }
            let mut points = [[[0.0; NR]; S]; S];
            for first in (0..NR).step_by(A::Vector::<f64>::LANES) {
                let mut half = [[A::Vector::<f64>::zero(); 3]; S];
                for q in 0..3 {
                    let mut taps = [A::Vector::<f64>::zero(); 3];
                    for (tap, read) in taps.iter_mut().zip(&read) {
                        *tap = A::Vector::<f64>::load(&read[q], first);
                    }
                    for (half, value) in half.iter_mut().zip(transforms.weight(taps)) {
                        half[q] = value;
                    }
                }
                for (points, half) in points.iter_mut().zip(half) {
                    for (point, value) in points.iter_mut().zip(transforms.weight(half)) {
                        value.store(point, first);
                    }
                }
            }
            // One whole line of the cache at a time.
            for (point, values) in points.iter().flatten().enumerate() {
                let u = &mut u[(point * rows + row) * NR..][..NR];
                u.iter_mut().zip(values).for_each(|(u, &value)| *u = T::of(value));
            }
        }
    }
}

/// dw = Gᵀ dU G for some input channels and up to 16 output channels.
struct WeightAdjoint<'a, T, F, const M: usize, const S: usize> {
    transforms: F,
    /// (point, input channel of `inputs`, `row` output channels)
    du: &'a [T],
    row: usize,
    /// The output channels of `dw`, as columns of dU.
    columns: Range<usize>,
    inputs: Range<usize>,
    c_in: usize,
    /// (output channel, c_in, 3, 3)
    dw: &'a mut [T],
}

impl<T: Scalar, F: Transforms<M, S>, const M: usize, const S: usize> Kernel for WeightAdjoint<'_, T, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let WeightAdjoint { transforms, du, row, columns, inputs, c_in, dw } = self;
        let (rows, first_column, columns) = (inputs.len(), columns.start, columns.len());
        for (index, input) in inputs.enumerate() {
            let mut read = [[[0.0; NR]; S]; S];
            for (i, j) in (0..S).flat_map(|i| (0..S).map(move |j| (i, j))) {
                let du = &du[((i * S + j) * rows + index) * row + first_column..][..columns];
                read[i][j].iter_mut().zip(du).for_each(|(lane, value)| *lane = value.as_f64());
            }
            for first in (0..columns).step_by(A::Vector::<f64>::LANES) {
                let mut half = [[A::Vector::<f64>::zero(); S]; 3];
                for j in 0..S {
                    let mut points = [A::Vector::<f64>::zero(); S];
                    for (point, read) in points.iter_mut().zip(&read) {
                        *point = A::Vector::<f64>::load(&read[j], first);
                    }
                    for (half, value) in half.iter_mut().zip(transforms.weight_adjoint(points)) {
                        half[j] = value;
                    }
                }
                for (p, half) in half.into_iter().enumerate() {
                    for (q, value) in transforms.weight_adjoint(half).into_iter().enumerate() {
                        let mut lanes = [0.0; NR];
                        value.store(&mut lanes, 0);
                        for (o, value) in (first..columns).zip(lanes).take(A::Vector::<f64>::LANES) {
                            dw[((o * c_in + input) * 3 + p) * 3 + q] = T::of(value);
                        }
                    }
                }
            }
        }
    }
}
