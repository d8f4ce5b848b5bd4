//! The definition of the convolution: seven loops written from the equation, which share no index arithmetic with the
//! other versions. The other versions are tested against it.

use super::Conv2d;
use crate::{Activation, Scalar};
use ndarray::Array4;

/// y.
pub fn forward<T: Scalar>(conv: &Conv2d<T>, x: &Activation<T>) -> Array4<T> {
    let mut y = Array4::zeros(output_shape(conv, x.dim()));
    for_each_term(conv, x.dim(), |at_y, at_weight, at_x| y[at_y] += conv.weight[at_weight] * x[at_x]);
    if let Some(bias) = &conv.bias {
        y += bias;
    }
    y
}

/// dx, for an x of shape `(N, H, W, C_in)`: every term of y adds weight · dy to its pixel.
pub fn input_gradient<T: Scalar>(conv: &Conv2d<T>, x: (usize, usize, usize, usize), dy: &Activation<T>) -> Array4<T> {
    let mut dx = Array4::zeros(x);
    for_each_term(conv, x, |at_y, at_weight, at_x| dx[at_x] += conv.weight[at_weight] * dy[at_y]);
    dx
}

/// dweight: every term of y adds x · dy to its weight.
pub fn weight_gradient<T: Scalar>(conv: &Conv2d<T>, x: &Activation<T>, dy: &Activation<T>) -> Array4<T> {
    let mut dweight = Array4::zeros(conv.weight.dim());
    for_each_term(conv, x.dim(), |at_y, at_weight, at_x| dweight[at_weight] += x[at_x] * dy[at_y]);
    dweight
}

/// Calls `term(index of y, index of weight, index of x)` for every product of the defining sum.
fn for_each_term<T>(
    conv: &Conv2d<T>,
    x: (usize, usize, usize, usize),
    mut term: impl FnMut([usize; 4], [usize; 4], [usize; 4]),
) {
    let (batch, height, width, channels_in) = x;
    let (_, height_out, width_out, channels_out) = output_shape(conv, x);
    let (_, channels_per_group, kernel_height, kernel_width) = conv.weight.dim();
    for image in 0..batch {
        for row_out in 0..height_out {
            for column_out in 0..width_out {
                for channel_out in 0..channels_out {
                    let group = channel_out / (channels_out / conv.groups);
                    for i in 0..channels_per_group {
                        let channel_in = group * (channels_in / conv.groups) + i;
                        for p in 0..kernel_height {
                            for q in 0..kernel_width {
                                let row = (row_out * conv.stride[0] + p * conv.dilation[0]) as isize
                                    - conv.padding[0] as isize;
                                let column = (column_out * conv.stride[1] + q * conv.dilation[1]) as isize
                                    - conv.padding[1] as isize;
                                let inside =
                                    (0..height as isize).contains(&row) && (0..width as isize).contains(&column);
                                if inside {
                                    term(
                                        [image, row_out, column_out, channel_out],
                                        [channel_out, i, p, q],
                                        [image, row as usize, column as usize, channel_in],
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Counts the windows instead of dividing: one at every multiple of the stride at which the last tap of the kernel is
/// still inside the padded image.
fn output_shape<T>(conv: &Conv2d<T>, (n, h, w, _): (usize, usize, usize, usize)) -> (usize, usize, usize, usize) {
    let (c_out, _, kh, kw) = conv.weight.dim();
    let count = |axis: usize, input: usize, kernel: usize| {
        let last_tap = |window: usize| window * conv.stride[axis] + (kernel - 1) * conv.dilation[axis];
        (0..).take_while(|&window| last_tap(window) < input + 2 * conv.padding[axis]).count()
    };
    (n, count(0, h, kh), count(1, w, kw), c_out)
}
