//! 3x3 convolution with fewer multiplications (Winograd 1980; Lavin & Gray 2015, arXiv 1509.09308).
//!
//! F(m, 3) computes m outputs of a one-dimensional 3-tap filter w from the m + 2 inputs d under it with m + 2
//! multiplications instead of 3m. Input, filter and output are polynomials; each is evaluated at m + 2 points (0, 1, −1,
//! 2, −2, ∞ for m = 4), the *values* are multiplied, and the outputs are the coefficients that interpolate the products:
//!
//! ```text
//! y = Aᵀ [ (G w) ⊙ (Bᵀ d) ]                         one dimension:  Bᵀ (m+2, m+2)   G (m+2, 3)   Aᵀ (m, m+2)
//! y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A                  two dimensions: rows, then columns
//! ```
//!
//! A tile of 4x4 outputs then costs 36 multiplications instead of 144, one of 2x2 outputs 16 instead of 36. The sum
//! over input channels is computed before the output transform, which is linear, so for each of the (m + 2)² points k
//! the products are one matrix product over all tiles:
//!
//! ```text
//! V[k] (tiles, c_in) = Bᵀ d B        U[k] (c_in, c_out) = G w Gᵀ        M[k] = V[k] · U[k]        y = Aᵀ M A
//! ```
//!
//! # Backward
//!
//! dx of a convolution with stride 1 is itself a convolution: of dy, padded with 2 − padding, with the weight rotated
//! by 180 degrees and its channels exchanged. So dx uses the code of y. dweight is the adjoint of the map w ↦ y, read
//! from right to left:
//!
//! ```text
//! dM = A dy Aᵀ        dU[k] (c_in, c_out) = Σ_tiles V[k]ᵀ · dM[k]        dw = Gᵀ dU G
//! ```
//!
//! # Precision
//!
//! The transforms add and subtract numbers of different magnitude, and the output transform computes small differences
//! of large products: in f32 the error of F(4x4) is about ten times that of a plain sum, that of F(2x2) about twice.
//! `docs/speed.md` measures it, and the tests check it against an a-priori bound. The weight's transforms are computed
//! in f64.
//!
//! # Files
//!
//! `transforms.rs` contains the matrices Bᵀ, G, Aᵀ; `plan.rs` splits images into tiles; `convolve.rs` computes y and
//! dx, `correlate.rs` dweight, `gradients.rs` both at once: they decide which arrays exist and which thread computes what; `kernels.rs` contains the
//! work of one thread, and `sixteen.rs` its products for 16 channels.

mod convolve;
mod correlate;
mod gradients;
mod kernels;
mod plan;
mod sixteen;
mod transforms;

use super::operands::{AsIs, Epilogue, Prologue, Shifted};
use super::{Geometry, indirect};
use crate::engine::Pass;
use crate::engine::buffers::Shelf;
use crate::engine::kernels::simd::wide;
use crate::shards::Shards;
use convolve::convolve;
use correlate::{correlate, correlate_in_blocks};
use ndarray::Array4;
use std::ops::Range;
use transforms::{F2, F4};

/// The size of a tile of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// 2x2, F(2x2, 3x3): 16 multiplications for 4 outputs.
    Two,
    /// 4x4, F(4x4, 3x3): 36 multiplications for 16 outputs.
    Four,
}

/// Whether a geometry can be computed this way: a 3x3 kernel, stride, dilation and groups 1, and padding of at most 2.
pub fn applies(g: &Geometry) -> bool {
    [g.kh, g.kw] == [3, 3]
        && g.stride == [1, 1]
        && g.dilation == [1, 1]
        && g.groups == 1
        && g.padding.iter().all(|&padding| padding <= 2)
}

/// The tile that needs the fewest multiplications, if they are fewer than without tiles. With few channels the
/// transforms cost more than they save.
pub fn fastest(g: &Geometry) -> Option<Size> {
    let tiles = |m: usize| g.h_out.div_ceil(m) * g.w_out.div_ceil(m);
    let choices = [(9 * g.pixels_out(), None), (36 * tiles(4), Some(Size::Four)), (16 * tiles(2), Some(Size::Two))];
    let fewest = choices.into_iter().min_by_key(|(products, _)| *products);
    fewest.and_then(|(_, size)| size).filter(|_| g.c_in.min(g.c_out) >= 16)
}

/// The taps of a weight (C_out, c_in, 3, 3) between an output and an input channel, row by row.
fn taps_of(weight: &[f32], c_in: usize) -> impl Fn(usize, usize) -> [f32; 9] + Copy {
    move |o, i| weight[(o * c_in + i) * 9..][..9].try_into().expect("nine taps")
}

/// y without the bias.
pub fn forward(
    Pass { shelf, shards, .. }: &Pass,
    size: Size,
    g: &Geometry,
    x: &dyn Prologue,
    weight: &Array4<f32>,
    y: &mut [f32],
    epilogue: &dyn Epilogue,
) {
    let standard = weight.as_standard_layout();
    let w = taps_of(standard.as_slice().expect("contiguous"), g.c_in);
    let plainly = |[first, count]: [usize; 2], y: &mut [f32]| {
        let x = Shifted { prologue: x, by: first * g.h * g.w * g.c_in };
        indirect::forward(shelf, &Shards::one(count), &Geometry { n: count, ..*g }, &x, weight, y, &AsIs);
    };
    let (from, to) = ([g.h, g.w, g.c_in], [g.h_out, g.w_out, g.c_out]);
    match size {
        Size::Two => convolve(shelf, F2, shards, x, from, to, g.padding, w, y, epilogue, plainly),
        Size::Four => convolve(shelf, F4, shards, x, from, to, g.padding, w, y, epilogue, plainly),
    }
}

/// dx: the convolution of dy with the weight rotated by 180 degrees.
pub fn input_gradient(
    Pass { shelf, shards, .. }: &Pass,
    size: Size,
    g: &Geometry,
    dy: &dyn Prologue,
    weight: &Array4<f32>,
    dx: &mut [f32],
    epilogue: &dyn Epilogue,
) {
    let standard = weight.as_standard_layout();
    let w = rotated(standard.as_slice().expect("contiguous"), g.c_in);
    let plainly = plain_input_gradient(shelf, g, dy, weight);
    let (from, to) = ([g.h_out, g.w_out, g.c_out], [g.h, g.w, g.c_in]);
    let padding = g.padding.map(|padding| 2 - padding);
    match size {
        Size::Two => convolve(shelf, F2, shards, dy, from, to, padding, w, dx, epilogue, plainly),
        Size::Four => convolve(shelf, F4, shards, dy, from, to, padding, w, dx, epilogue, plainly),
    }
}

/// The taps of the weight of dx, between an output and an input channel of it: rotated by 180 degrees.
fn rotated(weight: &[f32], c_in: usize) -> impl Fn(usize, usize) -> [f32; 9] + Copy {
    let taps = taps_of(weight, c_in);
    move |i, o| {
        let mut taps = taps(o, i);
        taps.reverse();
        taps
    }
}

/// dx of some images, without tiles.
fn plain_input_gradient<'a>(
    shelf: &'a Shelf,
    g: &'a Geometry,
    dy: &'a dyn Prologue,
    weight: &'a Array4<f32>,
) -> impl Fn([usize; 2], &mut [f32]) + 'a {
    move |[first, count], dx| {
        let dy = Shifted { prologue: dy, by: first * g.pixels_out() * g.c_out };
        indirect::input_gradient(shelf, &Shards::one(count), &Geometry { n: count, ..*g }, &dy, weight, dx, &AsIs);
    }
}

/// dweight summed over the shards of each subtree of this process, and dx, in one pass over dy, with the bits of
/// [`weight_gradient`] and [`input_gradient`]. `None` where that is of no use.
pub fn gradients(
    pass: &Pass,
    size: Size,
    g: &Geometry,
    [dy, x]: [&dyn Prologue; 2],
    weight: &Array4<f32>,
    epilogue: &dyn Epilogue,
) -> Option<(Vec<Array4<f32>>, Array4<f32>)> {
    if needs_too_much_memory(g) {
        return None;
    }
    let standard = weight.as_standard_layout();
    let w = rotated(standard.as_slice().expect("contiguous"), g.c_in);
    let plainly = plain_input_gradient(&pass.shelf, g, dy, weight);
    let dweight_plainly = |shard: &Range<usize>| {
        let dy = Shifted { prologue: dy, by: shard.start * g.pixels_out() * g.c_out };
        let x = Shifted { prologue: x, by: shard.start * g.h * g.w * g.c_in };
        indirect::weight_gradient(&pass.shelf, &Geometry { n: shard.len(), ..*g }, &dy, &x)
    };
    let dy_and_x = [dy, x];
    match size {
        Size::Two => gradients::gradients(pass, F2, g, dy_and_x, w, epilogue, plainly, dweight_plainly),
        Size::Four => gradients::gradients(pass, F4, g, dy_and_x, w, epilogue, plainly, dweight_plainly),
    }
}

/// dweight of one of `shards` shards.
pub fn weight_gradient(
    shelf: &Shelf,
    size: Size,
    g: &Geometry,
    shards: usize,
    dy: &dyn Prologue,
    x: &dyn Prologue,
) -> Array4<f32> {
    if needs_too_much_memory(g) {
        return indirect::weight_gradient(shelf, g, dy, x);
    }
    let dw = match size {
        Size::Two => correlate(shelf, F2, g, shards, x, dy),
        Size::Four => correlate(shelf, F4, g, shards, x, dy),
    };
    if all_finite(dw.as_slice().expect("contiguous")) { dw } else { indirect::weight_gradient(shelf, g, dy, x) }
}

/// dweight, summed over some shards in their tree, with the bits of [`weight_gradient`], but in blocks. `None` if that is of
/// no use, or if a value is not finite: then it must be found out which shard has it.
pub fn weight_gradient_in_blocks(
    shelf: &Shelf,
    size: Size,
    g: &Geometry,
    shards: &[Range<usize>],
    dy: &dyn Prologue,
    x: &dyn Prologue,
) -> Option<Array4<f32>> {
    let dw = match size {
        _ if needs_too_much_memory(g) => None,
        Size::Two => correlate_in_blocks(shelf, F2, g, shards, x, dy),
        Size::Four => correlate_in_blocks(shelf, F4, g, shards, x, dy),
    };
    dw.filter(|dw| all_finite(dw.as_slice().expect("contiguous")))
}

/// V and dM are computed for a whole image at once, which needs too much memory for a very large one.
fn needs_too_much_memory(g: &Geometry) -> bool {
    g.pixels_out().saturating_mul(g.c_in + g.c_out) > MOST_VALUES
}

/// Whether no value is infinite or NaN. A tile mixes its inputs, so one infinity makes all its outputs NaN; and a tile
/// can overflow where the definition does not. In these cases the definition's sum is computed instead.
fn all_finite(values: &[f32]) -> bool {
    // 0 · ∞ and 0 · NaN are NaN, and so is every sum with them.
    let mut sums = [0.0; 64];
    wide(
        #[inline(always)]
        || {
            for values in values.chunks(64) {
                sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value * 0.0);
            }
        },
    );
    sums.iter().all(|sum| *sum == 0.0)
}

/// With more channels times pixels in an image, its V and dM would need hundreds of megabytes.
const MOST_VALUES: usize = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::conv::tests::WINOGRAD_CASES;
    use crate::layers::Conv2d;
    use crate::layers::conv2d::tests::whole;
    use transforms::Transforms;

    /// Small whole numbers, so that nothing overflows.
    fn stays_in_tiles<F: Transforms<M, S>, const M: usize, const S: usize>(transforms: F) {
        let shelf = Shelf::default();
        for &(n, h, w, c_in, c_out, padding) in WINOGRAD_CASES {
            let case = format!("F({M}), {n} images of {h}x{w}, {c_in} to {c_out} channels, padding {padding:?}");
            let conv = Conv2d { padding, ..Conv2d::new(whole((c_out, c_in, 3, 3), 1)) };
            let (g, x) = (conv.geometry([n, h, w, c_in]).unwrap(), whole((n, h, w, c_in), 2).into_shared());
            let dy = whole((n, g.h_out, g.w_out, c_out), 3).into_shared();
            let (from, to) = ([h, w, c_in], [g.h_out, g.w_out, c_out]);
            let weight = taps_of(conv.weight.as_slice().unwrap(), c_in);
            let plainly = |_: [usize; 2], _: &mut [f32]| panic!("y is not finite: {case}");
            let mut y = shelf.dirty(dy.len());
            convolve(&shelf, transforms, &Shards::one(n), &x, from, to, padding, weight, &mut y, &AsIs, plainly);
            let dweight = correlate(&shelf, transforms, &g, 1, &x, &dy);
            assert!(all_finite(dweight.as_slice().unwrap()), "dweight is not finite: {case}");
            let batch = Shards::one(n).ranges();
            if let Some(in_blocks) = correlate_in_blocks(&shelf, transforms, &g, &batch, &x, &dy) {
                assert!(in_blocks == dweight, "dweight in blocks: {case}");
            }
        }
    }

    /// In debug builds a buffer starts as NaN. If a value of it were read before it is written, the result would be NaN, the
    /// definition would replace it, and every comparison with the definition would pass: so here nothing replaces it.
    #[test]
    fn finite_values_are_computed_in_tiles_alone() {
        stays_in_tiles(F2);
        stays_in_tiles(F4);
    }
}
