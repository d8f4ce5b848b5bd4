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
//! measures it, and the tests hold it to an a-priori bound. The weight's transforms are computed in f64.
//!
//! # Files
//!
//! `transforms.rs` has the matrices Bᵀ, G, Aᵀ; `plan.rs` cuts images into tiles; `convolve.rs` is y and dx, `correlate.rs` is
//! dweight: which arrays exist, and which thread computes what; `kernels.rs` is what runs on one thread.

mod convolve;
mod correlate;
mod kernels;
mod plan;
mod transforms;

use super::operands::{AsIs, Epilogue, Prologue, Shifted};
use super::{Geometry, indirect};
use crate::engine::buffers::Shelf;
use crate::engine::kernels::simd::wide;
use convolve::convolve;
use correlate::correlate;
use ndarray::Array4;
use transforms::{F2, F4};

/// The size of a tile of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
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
pub fn fastest(g: &Geometry) -> Option<Size> {
    let tiles = |m: usize| g.h_out.div_ceil(m) * g.w_out.div_ceil(m);
    let choices = [(9 * g.pixels_out(), None), (36 * tiles(4), Some(Size::Four)), (16 * tiles(2), Some(Size::Two))];
    let fewest = choices.into_iter().min_by_key(|(products, _)| *products);
    fewest.and_then(|(_, size)| size).filter(|_| g.c_in.min(g.c_out) >= 16)
}

/// y without the bias.
pub fn forward(
    shelf: &Shelf,
    size: Size,
    g: &Geometry,
    x: &dyn Prologue,
    weight: &Array4<f32>,
    y: &mut [f32],
    epilogue: &dyn Epilogue,
) {
    let w = |o, i, p, q| weight[[o, i, p, q]];
    let plainly = |[first, count]: [usize; 2], y: &mut [f32]| {
        let x = Shifted { prologue: x, by: first * g.h * g.w * g.c_in };
        indirect::forward(shelf, &Geometry { n: count, ..*g }, &x, weight, y, &AsIs);
    };
    let (from, to) = ([g.h, g.w, g.c_in], [g.h_out, g.w_out, g.c_out]);
    match size {
        Size::Two => convolve(shelf, F2, g.n, x, from, to, g.padding, w, y, epilogue, plainly),
        Size::Four => convolve(shelf, F4, g.n, x, from, to, g.padding, w, y, epilogue, plainly),
    }
}

/// dx: the convolution of dy with the weight turned by 180 degrees.
pub fn input_gradient(
    shelf: &Shelf,
    size: Size,
    g: &Geometry,
    dy: &dyn Prologue,
    weight: &Array4<f32>,
    dx: &mut [f32],
    epilogue: &dyn Epilogue,
) {
    let w = |i, o, p, q| weight[[o, i, 2 - p, 2 - q]];
    let plainly = |[first, count]: [usize; 2], dx: &mut [f32]| {
        let dy = Shifted { prologue: dy, by: first * g.pixels_out() * g.c_out };
        indirect::input_gradient(shelf, &Geometry { n: count, ..*g }, &dy, weight, dx, &AsIs);
    };
    let (from, to) = ([g.h_out, g.w_out, g.c_out], [g.h, g.w, g.c_in]);
    let padding = g.padding.map(|padding| 2 - padding);
    match size {
        Size::Two => convolve(shelf, F2, g.n, dy, from, to, padding, w, dx, epilogue, plainly),
        Size::Four => convolve(shelf, F4, g.n, dy, from, to, padding, w, dx, epilogue, plainly),
    }
}

/// dweight.
pub fn weight_gradient(shelf: &Shelf, size: Size, g: &Geometry, dy: &dyn Prologue, x: &dyn Prologue) -> Array4<f32> {
    // V and dM of a whole image at once: not of one that is far larger than anybody trains on.
    if g.pixels_out().saturating_mul(g.c_in + g.c_out) > MOST_VALUES {
        return indirect::weight_gradient(shelf, g, dy, x);
    }
    let dw = match size {
        Size::Two => correlate(shelf, F2, g, x, dy),
        Size::Four => correlate(shelf, F4, g, x, dy),
    };
    if all_finite(dw.as_slice().expect("contiguous")) { dw } else { indirect::weight_gradient(shelf, g, dy, x) }
}

/// Whether no value is infinite or NaN. A tile mixes its inputs, so that one infinity makes NaN of all its outputs; and it
/// can overflow where the definition does not. Where that happens the definition's sum is computed instead.
fn all_finite(values: &[f32]) -> bool {
    // 0 · ∞ and 0 · NaN are NaN, and stay.
    let mut sums = [0.0; 64];
    wide(|| {
        for values in values.chunks(64) {
            sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += value * 0.0);
        }
    });
    sums.iter().all(|sum| *sum == 0.0)
}

/// Channels times pixels of an image from which its V and dM would take hundreds of megabytes.
const MOST_VALUES: usize = 1 << 24;
