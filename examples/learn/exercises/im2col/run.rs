use super::exercise::{Sizes, as_matrix, col2im, im2col};
use crate::protocol::Case;
use ndarray::Ix4;

pub fn run(case: &Case) -> Case {
    let (x, weight, dy) = (case.array::<Ix4>("x"), case.array::<Ix4>("weight"), case.array::<Ix4>("dy"));
    let ((n, h, w, c_in), (c_out, _, kh, kw)) = (x.dim(), weight.dim());
    let sizes = Sizes { n, h, w, c_in, kh, kw, stride: case.count("stride"), padding: case.count("padding") };
    let (cols, matrix) = (im2col(&x, sizes), as_matrix(&weight));
    let y = cols.dot(&matrix);
    let dy = dy.into_shape_with_order((n * sizes.h_out() * sizes.w_out(), c_out)).unwrap();
    let dx = col2im(&dy.dot(&matrix.t()), sizes);
    Case::default().with("cols", cols).with("W", matrix).with("y", y).with("dx", dx)
}
