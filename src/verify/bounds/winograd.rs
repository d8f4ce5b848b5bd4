//! The bound of a convolution computed by Winograd's algorithm.
//!
//! It adds and subtracts terms that the definition does not contain, so its error is not relative to Σ |w| |x| but to the
//! same sum with the absolute values of the transforms:
//!
//! ```text
//! |ŷ − y| ≤ γ_n |Aᵀ| [ Σ_c (|G| |w| |Gᵀ|) ⊙ (|Bᵀ| |d| |B|) ] |A|         n = c_in + 14
//! |dŵ − dw| ≤ γ_n |Gᵀ| [ Σ_tiles (|Bᵀ| |d| |B|) ⊙ (|A| |dy| |Aᵀ|) ] |G|     n = tiles + 14
//! ```
//!
//! n counts the roundings on the path of a value from input to output: at most 3 in a one-dimensional transform of x, of M
//! or of dy, twice each, one when the weight's transform is rounded (its own arithmetic, in f64, is covered by another), and
//! one for each term of the sum. The matrices are those of Lavin & Gray, not the engine's factored form: the
//! bound shares no code with what it checks. dx is the y of dy with the weight rotated by 180 degrees.

use super::{LinearMapBounds, SECOND_ORDER, absolute, gamma};
use crate::layers::Conv2d;
use crate::{Activation, Error, Result, Scalar};
use ndarray::{Array2, Array4, Axis, arr2, s};

/// Bounds of y, dx and dweight for tiles of `m` x `m` outputs, m = 2 or 4, computed with unit roundoff `u`. The layer has
/// no bias.
///
/// # Errors
/// As the layer itself, and if it is not 3x3 with stride 1, dilation 1, one group and at most 2 of padding.
pub fn conv2d_winograd<T: Scalar>(
    conv: &Conv2d<T>,
    x: &Activation<T>,
    dy: &Activation<T>,
    m: usize,
    u: f64,
) -> Result<LinearMapBounds<Array4<f64>, Array4<f64>>> {
    let shape = conv.output_shape(&x.dim().into())?;
    let (c_out, c_in, kh, kw) = conv.weight.dim();
    let plain = conv.stride == [1, 1] && conv.dilation == [1, 1] && conv.groups == 1 && conv.bias.is_none();
    if (kh, kw) != (3, 3) || !plain || conv.padding.iter().any(|&padding| padding > 2) || ![2, 4].contains(&m) {
        return Err(Error::argument("winograd bound", "expects a plain 3x3 convolution and m = 2 or 4"));
    }
    let [bt, g, at] = matrices(m);
    let (x, dy, weight) = (absolute(x), absolute(dy), absolute(&conv.weight));
    let turned = weight.slice(s![.., .., ..;-1, ..;-1]).permuted_axes([1, 0, 2, 3]).to_owned();
    let extra = 14;
    let y = convolve(&x, &weight, conv.padding, [shape[1], shape[2]], [&bt, &g, &at]);
    let dx = convolve(&dy, &turned, conv.padding.map(|p| 2 - p), [x.dim().1, x.dim().2], [&bt, &g, &at]);
    let (dw, tiles) = correlate(&x, &dy, conv.padding, [&bt, &g, &at]);
    Ok(LinearMapBounds {
        y: y * (gamma(c_in + extra, u) * SECOND_ORDER),
        dx: dx * (gamma(c_out + extra, u) * SECOND_ORDER),
        weight: dw * (gamma(tiles + extra, u) * SECOND_ORDER),
        bias: None,
    })
}

/// How much larger the rounding errors of Winograd's algorithm are *on average* than its sums: for networks, where the
/// worst case of every layer would be useless as a tolerance.
///
/// Let x, weight and dy be independent noise of variance 1, and rᵢ, gᵢ, aᵢ the sums of squares of row i of Bᵀ, row i of G
/// and column i of Aᵀ. Then an element (i, j) of the transformed x has the variance rᵢrⱼ, of the transformed weight gᵢgⱼ, and
/// their sum over `c_in` channels c_in·rᵢrⱼgᵢgⱼ. That sum rounds c_in times, its terms at most 14 times before and after (as
/// in the bound), each time by about u of it; the last transform adds up the squares:
///
/// ```text
/// y, dx    error² = u² (c + 14) · c · s̄²     s̄  = mean over a of Σᵢ Aᵀ[a,i]² gᵢ rᵢ      c = c_in, c_out
/// dweight  error² = u² (t + 14) · t · s̄'²    s̄' = mean over k of Σᵢ G[i,k]² rᵢ aᵢ       t tiles
/// ```
///
/// over all elements of a tile. The results themselves have the variance 9 c and m² t. So the error is
/// `u √(growth · (c + 14))` in units of y or dx, and `u √(growth · (t + 14))` in units of dweight, with the two growths
/// returned: `[s̄²/9, s̄'²/m²]`. The definition has the error u √(9 c).
///
/// ```
/// use resnet_by_hand::verify::bounds::winograd_growth;
/// // F(2x2): r = 2, g = 1, 3/4, 3/4, 1 and a = 1, 2, 2, 1. s = 5, 5 and s' = 4, 2, 4.
/// let [y, weight] = winograd_growth(2);
/// assert!((y - 25.0 / 9.0).abs() < 1e-12 && (weight - 25.0 / 9.0).abs() < 1e-12);
/// // F(4x4): against the definition's √(9 · 64) of 64 channels, 3.96 times the error.
/// let [y, _] = winograd_growth(4);
/// assert!(((y * (64.0 + 14.0)).sqrt() / (9.0f64 * 64.0).sqrt() - 3.96).abs() < 0.005);
/// ```
///
/// # Panics
/// If m is neither 2 nor 4.
pub fn winograd_growth(m: usize) -> [f64; 2] {
    assert!([2, 4].contains(&m), "winograd growth: expects m = 2 or 4, got {m}");
    let [bt, g, at] = matrices(m).map(|matrix| matrix.mapv(|v| v * v));
    let [r, gs, a] = [bt.sum_axis(Axis(1)), g.sum_axis(Axis(1)), at.sum_axis(Axis(0))];
    let y = at.dot(&(&gs * &r)).mean().expect("m rows");
    let weight = g.t().dot(&(&r * &a)).mean().expect("three columns");
    [y * y / 9.0, weight * weight / (m * m) as f64]
}

/// |Bᵀ|, |G|, |Aᵀ|
fn matrices(m: usize) -> [Array2<f64>; 3] {
    let [bt, g, at] = match m {
        2 => [
            arr2(&[[1., 0., -1., 0.], [0., 1., 1., 0.], [0., -1., 1., 0.], [0., -1., 0., 1.]]),
            arr2(&[[1., 0., 0.], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0., 0., 1.]]),
            arr2(&[[1., 1., 1., 0.], [0., 1., -1., 1.]]),
        ],
        _ => [
            arr2(&[
                [4., 0., -5., 0., 1., 0.],
                [0., -4., -4., 1., 1., 0.],
                [0., 4., -4., -1., 1., 0.],
                [0., -2., -1., 2., 1., 0.],
                [0., 2., -1., -2., 1., 0.],
                [0., 4., 0., -5., 0., 1.],
            ]),
            arr2(&[[6., 0., 0.], [-4., -4., -4.], [-4., 4., -4.], [1., 2., 4.], [1., -2., 4.], [0., 0., 24.]]) / 24.0,
            arr2(&[
                [1., 1., 1., 1., 1., 0.],
                [0., 1., -1., 2., -2., 0.],
                [0., 1., 1., 4., 4., 0.],
                [0., 1., -1., 8., -8., 1.],
            ]),
        ],
    };
    [bt, g, at].map(|matrix| matrix.mapv(f64::abs))
}

/// Image n, channel c of x with zeros around it, from (row, column) on.
fn window(
    x: &Array4<f64>,
    [n, c]: [usize; 2],
    [row, column]: [usize; 2],
    padding: [usize; 2],
    size: usize,
) -> Array2<f64> {
    Array2::from_shape_fn((size, size), |(i, j)| {
        let at = [(row + i).checked_sub(padding[0]), (column + j).checked_sub(padding[1])];
        match at {
            [Some(h), Some(w)] => x.get((n, h, w, c)).copied().unwrap_or(0.0),
            _ => 0.0,
        }
    })
}

fn convolve(
    x: &Array4<f64>,
    weight: &Array4<f64>,
    padding: [usize; 2],
    [h_out, w_out]: [usize; 2],
    [bt, g, at]: [&Array2<f64>; 3],
) -> Array4<f64> {
    let ((n, _, _, c_in), c_out, m) = (x.dim(), weight.dim().0, at.nrows());
    let u: Vec<Vec<Array2<f64>>> =
        weight.outer_iter().map(|filters| filters.outer_iter().map(|w| g.dot(&w).dot(&g.t())).collect()).collect();
    let mut y = Array4::zeros((n, h_out, w_out, c_out));
    for (image, row, column) in tiles([n, h_out, w_out], m) {
        let v: Vec<Array2<f64>> =
            (0..c_in).map(|c| bt.dot(&window(x, [image, c], [row, column], padding, m + 2)).dot(&bt.t())).collect();
        for (o, u) in u.iter().enumerate() {
            let products = u.iter().zip(&v).fold(Array2::zeros((m + 2, m + 2)), |sum, (u, v)| sum + u * v);
            let tile = at.dot(&products).dot(&at.t());
            for ((i, j), &value) in tile.indexed_iter() {
                if let Some(y) = y.get_mut((image, row + i, column + j, o)) {
                    *y = value;
                }
            }
        }
    }
    y
}

/// |dw| and the number of tiles.
fn correlate(
    x: &Array4<f64>,
    dy: &Array4<f64>,
    padding: [usize; 2],
    [bt, g, at]: [&Array2<f64>; 3],
) -> (Array4<f64>, usize) {
    let ((n, h_out, w_out, c_out), c_in, m) = (dy.dim(), x.dim().3, at.nrows());
    let mut du = Array4::<f64>::zeros((c_out, c_in, m + 2, m + 2));
    let mut count = 0;
    for (image, row, column) in tiles([n, h_out, w_out], m) {
        count += 1;
        let v: Vec<Array2<f64>> =
            (0..c_in).map(|c| bt.dot(&window(x, [image, c], [row, column], padding, m + 2)).dot(&bt.t())).collect();
        for (o, mut du) in du.outer_iter_mut().enumerate() {
            let dm = at.t().dot(&window(dy, [image, o], [row, column], [0, 0], m)).dot(at);
            du.outer_iter_mut().zip(&v).for_each(|(mut du, v)| du += &(v * &dm));
        }
    }
    let mut dw = Array4::zeros((c_out, c_in, 3, 3));
    for (mut dw, du) in dw.outer_iter_mut().zip(du.axis_iter(Axis(0))) {
        for (mut dw, du) in dw.outer_iter_mut().zip(du.outer_iter()) {
            dw.assign(&g.t().dot(&du).dot(g));
        }
    }
    (dw, count)
}

fn tiles([n, h, w]: [usize; 3], m: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let rows = move || (0..h).step_by(m);
    let corners = move || rows().flat_map(move |i| (0..w).step_by(m).map(move |j| (i, j)));
    (0..n).flat_map(move |image| corners().map(move |(i, j)| (image, i, j)))
}
