use super::conv2d_forward::{CONV2D, inputs, pixel};
use crate::lesson::{Mistake, mistake};
use crate::protocol::Case;
use ndarray::{Array2, Array4, Ix2, Ix4};

pub fn cases() -> Vec<Case> {
    inputs()
}

/// How the places are computed; the right way by default.
#[derive(Clone, Copy)]
struct Ways {
    /// `[p, q, i]` of a column.
    tap: fn(column: usize, taps: [usize; 3]) -> [usize; 3],
    /// `[i, p, q]` of a row of W.
    weight: fn(row: usize, taps: [usize; 3]) -> [usize; 3],
    /// `[ho, wo]` of a row, from the row within its image.
    row: fn(row: usize, out: [usize; 2]) -> [usize; 2],
    /// Stride and padding of cols and of dx.
    place: [fn([usize; 2]) -> [usize; 2]; 2],
    adds: bool,
}

const RIGHT: Ways = Ways {
    tap: |column, [_, kw, c_in]| [column / c_in / kw, column / c_in % kw, column % c_in],
    weight: |row, [_, kw, c_in]| [row % c_in, row / c_in / kw, row / c_in % kw],
    row: |row, [_, w_out]| [row / w_out, row % w_out],
    place: [|place| place, |place| place],
    adds: true,
};

const STRIDE_1: fn([usize; 2]) -> [usize; 2] = |[_, padding]| [1, padding];
const NO_PADDING: fn([usize; 2]) -> [usize; 2] = |[stride, _]| [stride, 0];

impl Ways {
    fn compute(self, case: &Case) -> Case {
        let (x, weight, dy) = (case.array::<Ix4>("x"), case.array::<Ix4>("weight"), case.array::<Ix4>("dy"));
        let ((n, h, w, c_in), (c_out, _, kh, kw)) = (x.dim(), weight.dim());
        let (_, h_out, w_out, _) = dy.dim();
        let shape = [case.count("stride"), case.count("padding")];
        let at = |row: usize, column: usize, row_of: fn(usize, [usize; 2]) -> [usize; 2], tap: fn(usize, [usize; 3]) -> [usize; 3], place: fn([usize; 2]) -> [usize; 2]| {
            let [ho, wo] = row_of(row % (h_out * w_out), [h_out, w_out]);
            let [p, q, i] = tap(column, [kh, kw, c_in]);
            let [stride, padding] = place(shape);
            let (h, w) = (pixel(ho, p, stride, padding, h)?, pixel(wo, q, stride, padding, w)?);
            Some([row / (h_out * w_out), h, w, i])
        };
        let (rows, columns) = (n * h_out * w_out, kh * kw * c_in);
        let cols = Array2::from_shape_fn((rows, columns), |(row, column)| {
            at(row, column, self.row, self.tap, self.place[0]).map_or(0.0, |at| x[at])
        });
        let matrix = Array2::from_shape_fn((columns, c_out), |(row, o)| {
            let [i, p, q] = (self.weight)(row, [kh, kw, c_in]);
            weight[[o, i, p, q]]
        });
        let y = cols.dot(&matrix);
        let dcols = dy.into_shape_with_order((rows, c_out)).expect("as many values").dot(&matrix.t());
        let mut dx = Array4::zeros(x.raw_dim());
        for ((row, column), &dcol) in dcols.indexed_iter() {
            // A mistake in cols is not one in col2im.
            if let Some(at) = at(row, column, RIGHT.row, RIGHT.tap, self.place[1]) {
                dx[at] = if self.adds { dx[at] + dcol } else { dcol };
            }
        }
        Case::default().with("cols", cols).with("W", matrix).with("y", y).with("dx", dx)
    }
}

pub fn right(case: &Case) -> Case {
    let right = RIGHT.compute(case);
    // Both ways of computing a convolution agree, or the grader itself is wrong.
    let y = CONV2D.right(&case.clone().with("bias", ndarray::Array1::<f64>::zeros(case.array::<Ix4>("weight").dim().0)));
    let y = y.array::<Ix4>("y").into_shape_with_order(right.array::<Ix2>("y").dim()).expect("as many values");
    assert!((&y - &right.array::<Ix2>("y")).iter().all(|error| error.abs() < 1e-9), "im2col is not a convolution");
    right
}

pub fn mistakes() -> Vec<Mistake> {
    let of = |what, right, ways: Ways| mistake(what, right, move |case| ways.compute(case));
    let place = "tap p of output row ho reads row ho · stride + p − padding";
    vec![
        of("cols has the order of the weight, (i·kh + p)·kw + q", "column (p·kw + q)·C_in + i: the channel is the fastest", Ways {
            tap: |column, [kh, kw, _]| [column / kw % kh, column % kw, column / kw / kh],
            ..RIGHT
        }),
        of("cols has rows and columns of the kernel exchanged", "column (p·kw + q)·C_in + i", Ways {
            tap: |column, [kh, _, c_in]| [column / c_in % kh, column / c_in / kh, column % c_in],
            ..RIGHT
        }),
        of("W is the weight reshaped, without exchanging its axes", "row (p·kw + q)·C_in + i of W is weight[o, i, p, q]", Ways {
            weight: |row, [kh, kw, _]| [row / kw / kh, row / kw % kh, row % kw],
            ..RIGHT
        }),
        of("cols has the rows of an image in the order wo, ho", "row (n·H_out + ho)·W_out + wo", Ways {
            row: |row, [h_out, _]| [row % h_out, row / h_out],
            ..RIGHT
        }),
        of("cols ignores the stride", place, Ways { place: [STRIDE_1, RIGHT.place[1]], ..RIGHT }),
        of("cols ignores the padding", place, Ways { place: [NO_PADDING, RIGHT.place[1]], ..RIGHT }),
        of("dx ignores the stride", place, Ways { place: [RIGHT.place[0], STRIDE_1], ..RIGHT }),
        of("dx ignores the padding", place, Ways { place: [RIGHT.place[0], NO_PADDING], ..RIGHT }),
        of("dx overwrites where windows overlap, instead of adding", "im2col copies a pixel to several places: add them", Ways {
            adds: false,
            ..RIGHT
        }),
    ]
}
