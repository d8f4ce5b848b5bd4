//! The work of one thread: transforms of tiles and products of points. Each is one function that is compiled for the
//! vector instructions of the processor.

use super::plan::{Plan, Tile, plane};
use super::sixteen;
use super::transforms::Transforms;
use crate::engine::kernels::indirect_gemm::{NR, Product, Segment, Segments, Strided};
use crate::engine::kernels::simd::{Arithmetic, Kernel};
use crate::engine::kernels::vector::Vector;
use std::ops::Range;

/// y of one band of tiles.
pub(super) struct Convolve<'a, F, const M: usize, const S: usize> {
    pub transforms: F,
    pub plan: &'a Plan,
    pub tiles: &'a [Tile],
    /// Padded images.
    pub x: &'a [f32],
    /// U: (panel of 16 output channels, point, c_in, 16).
    pub u: &'a [f32],
    pub channels: &'a Segments,
    pub v: &'a mut [f32],
    pub m: &'a mut [f32],
    pub y: &'a mut [f32],
}

impl<F: Transforms<M, S>, const M: usize, const S: usize> Kernel for Convolve<'_, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let Convolve { transforms, plan, tiles, x, u, channels, v, m, y } = self;
        let (c, c_out, count) = (plan.c_in, plan.c_out, tiles.len());
        transform_input::<A, F, M, S>(transforms, plan, tiles, x, v);
        let (v_plane, m_plane) = (plane(count * c), plane(count * c_out));
        for point in 0..S * S {
            if sixteen::applies::<A::V>([c, c_out]) {
                let (v, m) = (&v[point * v_plane..][..count * c], &mut m[point * m_plane..][..count * c_out]);
                sixteen::product::<A::V>(v, &u[point * c * NR..], m);
                continue;
            }
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
        transform_output::<A, F, M, S>(transforms, plan, tiles, (m, m_plane), [c_out, 0], y);
    }
}

/// V of a chunk.
pub(super) struct TransformInput<'a, F, const M: usize, const S: usize> {
    pub transforms: F,
    pub plan: &'a Plan,
    pub tiles: &'a [Tile],
    pub x: &'a [f32],
    pub v: &'a mut [f32],
}

impl<F: Transforms<M, S>, const M: usize, const S: usize> Kernel for TransformInput<'_, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let TransformInput { transforms, plan, tiles, x, v } = self;
        transform_input::<A, F, M, S>(transforms, plan, tiles, x, v);
    }
}

/// `M[k] ← [M[k] +] V[k] · U[k]` for every point k, some input channels and up to 32 output channels.
pub(super) struct Points<'a, const S: usize> {
    pub tiles: usize,
    pub v: &'a [f32],
    pub c_in: usize,
    pub channels: &'a Segments,
    /// The first input channel.
    pub first: usize,
    pub u: &'a [f32],
    /// Distance between two panels of U.
    pub panel: usize,
    pub columns: usize,
    pub m: &'a mut [f32],
}

impl<const S: usize> Kernel for Points<'_, S> {
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

/// y = Aᵀ M A of a chunk, M in pairs of panels.
pub(super) struct OutputOfPairs<'a, F, const M: usize, const S: usize> {
    pub transforms: F,
    pub plan: &'a Plan,
    pub tiles: &'a [Tile],
    pub m: &'a [f32],
    /// Distance between two pairs.
    pub m_pair: usize,
    pub y: &'a mut [f32],
}

impl<F: Transforms<M, S>, const M: usize, const S: usize> Kernel for OutputOfPairs<'_, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let OutputOfPairs { transforms, plan, tiles, m, m_pair, y } = self;
        let m_plane = plane(tiles.len() * 2 * NR);
        transform_output::<A, F, M, S>(transforms, plan, tiles, (m, m_plane), [2 * NR, m_pair], y);
    }
}

/// V = Bᵀ d B of every tile.
#[inline(always)]
fn transform_input<A: Arithmetic, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    plan: &Plan,
    tiles: &[Tile],
    x: &[f32],
    v: &mut [f32],
) {
    let c = plan.c_in;
    let (row, v_plane, lanes) = (plan.padded.size[1] * c, plane(tiles.len() * c), A::V::LANES);
    let whole = c / lanes * lanes;
    let (mut half, mut half_single) = ([[A::V::zero(); S]; S], [[A::S::zero(); S]; S]);
    for (index, tile) in tiles.iter().enumerate() {
        for i in (0..whole).step_by(lanes) {
            let (x, v) = ((&x[tile.window + i..], row, c), (&mut v[index * c + i..], v_plane));
            input_tile::<A::V, F, M, S>(transforms, x, &mut half, v);
        }
        for i in whole..c {
            let (x, v) = ((&x[tile.window + i..], row, c), (&mut v[index * c + i..], v_plane));
            input_tile::<A::S, F, M, S>(transforms, x, &mut half_single, v);
        }
    }
}

/// y = Aᵀ M A of every tile. M is (group of channels, point, tile, channels); `m_plane` is the distance of two points,
/// `group` the number of channels in a group and `distance` the distance of two groups.
#[inline(always)]
fn transform_output<A: Arithmetic, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    plan: &Plan,
    tiles: &[Tile],
    (m, m_plane): (&[f32], usize),
    [group, distance]: [usize; 2],
    y: &mut [f32],
) {
    let (c_out, lanes) = (plan.c_out, A::V::LANES);
    let (mut half, mut half_single) = ([[A::V::zero(); S]; M], [[A::S::zero(); S]; M]);
    for (index, tile) in tiles.iter().enumerate() {
        let mut from = index * group;
        for first in (0..c_out).step_by(group) {
            let (channels, to) = (group.min(c_out - first), tile.output + first);
            let whole = channels / lanes * lanes;
            for o in (0..whole).step_by(lanes) {
                let (m, y) = ((&m[from + o..], m_plane), (&mut y[to + o..], plan.y_row, c_out));
                output_tile::<A::V, F, M, S>(transforms, m, &mut half, tile, y);
            }
            for o in whole..channels {
                let (m, y) = ((&m[from + o..], m_plane), (&mut y[to + o..], plan.y_row, c_out));
                output_tile::<A::S, F, M, S>(transforms, m, &mut half_single, tile, y);
            }
            from += distance;
        }
    }
}

// From here on everything is a loop over indices. A closure, or a function of the standard library that takes one (`map` of
// an array), may be compiled separately, for every processor, so that its vectors do not use the instructions of this one; an
// array iterated by value would first be copied, and one created here would first be cleared. So the caller provides `half`, the result of the first of the
// two one-dimensional transforms; it is overwritten for every tile.

/// Bᵀ d B of one tile and a vector of channels; x comes with the distances of its rows and columns, V of its points.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "see above")]
fn input_tile<V: Vector<f32>, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    (x, row, column): (&[f32], usize, usize),
    half: &mut [[V; S]; S],
    (v, plane): (&mut [f32], usize),
) {
    for j in 0..S {
        let mut d = [V::zero(); S];
        for i in 0..S {
            d[i] = V::load(x, i * row + j * column);
        }
        let values = transforms.input::<V>(d);
        for i in 0..S {
            half[i][j] = values[i];
        }
    }
    for i in 0..S {
        let values = transforms.input::<V>(half[i]);
        for j in 0..S {
            values[j].store(v, (i * S + j) * plane);
        }
    }
}

/// Aᵀ M A of one tile and a vector of channels: the part inside y.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "see above")]
fn output_tile<V: Vector<f32>, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    (m, plane): (&[f32], usize),
    half: &mut [[V; S]; M],
    tile: &Tile,
    (y, row, column): (&mut [f32], usize, usize),
) {
    for j in 0..S {
        let mut points = [V::zero(); S];
        for i in 0..S {
            points[i] = V::load(m, (i * S + j) * plane);
        }
        let values = transforms.output::<V>(points);
        for i in 0..M {
            half[i][j] = values[i];
        }
    }
    for i in 0..tile.rows.min(M) {
        let values = transforms.output::<V>(half[i]);
        for j in 0..M {
            if j < tile.columns {
                values[j].store(y, i * row + j * column);
            }
        }
    }
}

/// A dy Aᵀ of one tile and a vector of channels; values outside dy are 0.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "see above")]
fn adjoint_tile<V: Vector<f32>, F: Transforms<M, S>, const M: usize, const S: usize>(
    transforms: F,
    (dy, row, column): (&[f32], usize, usize),
    half: &mut [[V; M]; S],
    tile: &Tile,
    (dm, plane): (&mut [f32], usize),
) {
    for j in 0..M {
        let mut values = [V::zero(); M];
        for i in 0..M {
            if i < tile.rows && j < tile.columns {
                values[i] = V::load(dy, i * row + j * column);
            }
        }
        let values = transforms.output_adjoint::<V>(values);
        for i in 0..S {
            half[i][j] = values[i];
        }
    }
    for i in 0..S {
        let values = transforms.output_adjoint::<V>(half[i]);
        for j in 0..S {
            values[j].store(dm, (i * S + j) * plane);
        }
    }
}

/// V and dM of a chunk, for dU.
pub(super) struct TransformBoth<'a, F, const M: usize, const S: usize> {
    pub transforms: F,
    pub plan: &'a Plan,
    pub tiles: &'a [Tile],
    pub x: &'a [f32],
    pub dy: &'a [f32],
    pub v: &'a mut [f32],
    /// dM: (point, panel of 16 output channels, tile, 16). Columns after the last channel are never read.
    pub dm: &'a mut [f32],
}

impl<F: Transforms<M, S>, const M: usize, const S: usize> Kernel for TransformBoth<'_, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let TransformBoth { transforms, plan, tiles, x, dy, v, dm } = self;
        let (c_out, count) = (plan.c_out, tiles.len());
        let dm_plane = plane(count * c_out.next_multiple_of(NR));
        transform_input::<A, F, M, S>(transforms, plan, tiles, x, v);
        let (mut half, mut half_single) = ([[A::V::zero(); M]; S], [[A::S::zero(); M]; S]);
        for (index, tile) in tiles.iter().enumerate() {
            let lanes = A::V::LANES;
            let whole = c_out / lanes * lanes;
            for o in (0..whole).step_by(lanes) {
                let (dy, to) = (&dy[tile.output + o..], (o / NR * count + index) * NR + o % NR);
                let (dy, dm) = ((dy, plan.y_row, c_out), (&mut dm[to..], dm_plane));
                adjoint_tile::<A::V, F, M, S>(transforms, dy, &mut half, tile, dm);
            }
            for o in whole..c_out {
                let (dy, to) = (&dy[tile.output + o..], (o / NR * count + index) * NR + o % NR);
                let (dy, dm) = ((dy, plan.y_row, c_out), (&mut dm[to..], dm_plane));
                adjoint_tile::<A::S, F, M, S>(transforms, dy, &mut half_single, tile, dm);
            }
        }
    }
}

/// A row of Vᵀ: it begins at a channel of the first tile and continues from tile to tile.
pub(super) fn channel_by_channel(c_in: usize, tiles: usize) -> Segments {
    Segments::new(c_in, [Segment { offset: 0, len: tiles }])
}

/// `dU[k] ← [dU[k] +] V[k]ᵀ · dM[k]`, `channels` in and out, for one point k.
pub(super) struct Correlate<'a> {
    pub tiles: usize,
    pub channels: [usize; 2],
    /// See [`channel_by_channel`].
    pub segments: &'a Segments,
    /// Begins at the first input channel.
    pub v: &'a [f32],
    /// Begins at the panel of the first output channel.
    pub dm: &'a [f32],
    pub du: &'a mut [f32],
    pub accumulate: bool,
}

impl Kernel for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let Correlate { tiles, channels: [inputs, outputs], segments, v, dm, du, accumulate } = self;
        if sixteen::applies::<A::V>([inputs, outputs]) && segments.step() == inputs {
            return sixteen::correlate::<A::V>(&v[..tiles * inputs], dm, du, accumulate);
        }
        let product = Product { a: v, segments, b: dm, n: outputs, panel: tiles * NR, accumulate };
        product.run::<A, ROWS>(Strided { count: inputs, stride: 1 }, du, Strided { count: inputs, stride: outputs });
    }
}

/// One panel of U for some input channels.
pub(super) struct Panel<'a, F, W, const M: usize, const S: usize> {
    pub transforms: F,
    pub panel: usize,
    pub inputs: Range<usize>,
    pub c_out: usize,
    /// The taps between an output and an input channel, row by row.
    pub w: &'a W,
    /// (point, input channel of `inputs`, 16)
    pub u: &'a mut [f32],
}

impl<F, W, const M: usize, const S: usize> Kernel for Panel<'_, F, W, M, S>
where
    F: Transforms<M, S>,
    W: Fn(usize, usize) -> [f32; 9],
{
    type Output = ();

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "as in `input_tile`")]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let Panel { transforms, panel, inputs, c_out, w, u } = self;
        let (rows, columns) = (inputs.len(), NR.min(c_out - panel * NR));
        // Outside the loop, because a new array is cleared first; columns after the last channel stay 0.
        let (mut taps, mut points) = ([[[0.0; NR]; 3]; 3], [[[0.0; NR]; S]; S]);
        for (row, input) in inputs.enumerate() {
            for column in 0..columns {
                let of_pair = w(panel * NR + column, input);
                for p in 0..3 {
                    for q in 0..3 {
                        taps[p][q][column] = f64::from(of_pair[3 * p + q]);
                    }
                }
            }
            for first in (0..NR).step_by(A::D::LANES) {
                let mut half = [[A::D::zero(); 3]; S];
                for q in 0..3 {
                    let mut column = [A::D::zero(); 3];
                    for p in 0..3 {
                        column[p] = A::D::load(&taps[p][q], first);
                    }
                    let values = transforms.weight(column);
                    for i in 0..S {
                        half[i][q] = values[i];
                    }
                }
                for i in 0..S {
                    let values = transforms.weight(half[i]);
                    for j in 0..S {
                        values[j].store(&mut points[i][j], first);
                    }
                }
            }
            // One whole cache line at a time.
            for (point, values) in points.iter().flatten().enumerate() {
                let u = &mut u[(point * rows + row) * NR..][..NR];
                u.iter_mut().zip(values).for_each(|(u, &value)| *u = value as f32);
            }
        }
    }
}

/// dw = Gᵀ dU G for `inputs` input channels and up to 16 output channels.
pub(super) struct WeightAdjoint<'a, F, const M: usize, const S: usize> {
    pub transforms: F,
    /// (point, input channel, `row` output channels)
    pub du: &'a [f32],
    pub row: usize,
    /// The output channels of `dw`, as columns of dU.
    pub columns: Range<usize>,
    pub inputs: usize,
    /// (output channel, input channel, 3, 3)
    pub dw: &'a mut [f32],
    /// Distance between two output channels of `dw`.
    pub stride: usize,
}

impl<F: Transforms<M, S>, const M: usize, const S: usize> Kernel for WeightAdjoint<'_, F, M, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic, const ROWS: usize>(self) {
        let WeightAdjoint { transforms, du, row, columns, inputs, dw, stride } = self;
        let (first_column, columns) = (columns.start, columns.len());
        // Outside the loop, as above.
        let (mut points, mut taps) = ([[[0.0; NR]; S]; S], [[0.0; NR]; 9]);
        for input in 0..inputs {
            for i in 0..S {
                for j in 0..S {
                    let du = &du[((i * S + j) * inputs + input) * row + first_column..][..columns];
                    points[i][j].iter_mut().zip(du).for_each(|(lane, value)| *lane = f64::from(*value));
                }
            }
            for first in (0..NR).step_by(A::D::LANES) {
                let mut half = [[A::D::zero(); S]; 3];
                for j in 0..S {
                    let mut column = [A::D::zero(); S];
                    for i in 0..S {
                        column[i] = A::D::load(&points[i][j], first);
                    }
                    let values = transforms.weight_adjoint(column);
                    for p in 0..3 {
                        half[p][j] = values[p];
                    }
                }
                for p in 0..3 {
                    let values = transforms.weight_adjoint(half[p]);
                    for q in 0..3 {
                        values[q].store(&mut taps[3 * p + q], first);
                    }
                }
            }
            for (column, dw) in dw.chunks_mut(stride).take(columns).enumerate() {
                let dw = &mut dw[input * 9..][..9];
                dw.iter_mut().zip(&taps).for_each(|(dw, tap)| *dw = tap[column] as f32);
            }
        }
    }
}
