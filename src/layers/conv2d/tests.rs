//! im2col and its products against the definition, exactly, on whole numbers.

use super::*;
use ndarray::Array;

pub(crate) fn whole<D: ndarray::Dimension, S: ndarray::ShapeBuilder<Dim = D>>(shape: S, seed: u64) -> Array<f32, D> {
    let mut i = seed;
    Array::from_shape_simple_fn(shape, || {
        i = i.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((i >> 33) % 7) as f32 - 3.0
    })
}

/// (n, h, w, c_in, c_out, kernel, stride, padding, dilation, groups): different numbers everywhere, leftover rows, even
/// kernels, 1x1 with stride 2, windows wholly in the padding, depthwise.
pub(crate) type Case = (usize, usize, usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 2], usize);
pub(crate) const CASES: &[Case] = &[
    (3, 7, 5, 4, 6, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (2, 8, 11, 3, 5, [3, 2], [2, 3], [0, 1], [1, 1], 1),
    (2, 9, 7, 5, 4, [1, 1], [2, 2], [0, 0], [1, 1], 1),
    (5, 6, 4, 3, 7, [1, 1], [1, 1], [0, 0], [1, 1], 1),
    (3, 5, 8, 4, 9, [1, 1], [1, 2], [0, 0], [1, 1], 1), // x is `cols` only if neither stride skips a pixel
    (1, 9, 8, 2, 3, [2, 4], [1, 2], [3, 2], [2, 1], 1),
    (2, 7, 6, 6, 4, [3, 3], [2, 1], [2, 1], [1, 2], 2),
    (2, 5, 6, 4, 8, [3, 2], [1, 1], [1, 0], [1, 1], 4),
    (2, 4, 5, 6, 6, [1, 1], [1, 1], [0, 0], [1, 1], 3),
    (1, 1, 1, 2, 3, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (2, 12, 13, 3, 4, [7, 7], [2, 2], [3, 3], [1, 1], 1),
    (3, 4, 3, 5, 4, [2, 2], [3, 4], [1, 1], [1, 1], 1),
    (2, 3, 2, 2, 5, [1, 1], [1, 1], [2, 1], [1, 1], 1),
    (40, 5, 4, 19, 18, [3, 3], [2, 2], [1, 1], [1, 1], 1),
    (2, 5, 4, 70, 72, [3, 3], [2, 2], [1, 1], [1, 1], 1), // more channels than the weight is packed by at once
    (7, 10, 10, 2, 3, [3, 3], [1, 1], [1, 1], [1, 1], 1), // several chunks of several images, the last one short
    (23, 10, 10, 2, 3, [3, 3], [1, 1], [1, 1], [1, 1], 1), // and of the reference, whose chunks are larger
];

/// Every product and every partial sum is a whole number below 2²⁴: every order of summation gives the same result.
#[test]
fn equals_the_definition_exactly() {
    for case in CASES {
        let (conv, x) = of(case);
        let (y, cache) = conv.forward(&x).unwrap();
        assert_eq!(y, direct::forward(&conv, &x), "y of {conv:?}");
        let dy = whole(y.dim(), 3).into_shared();
        let (dx, grads) = conv.backward(&dy, &cache).unwrap();
        assert_eq!(dx, direct::input_gradient(&conv, x.dim(), &dy), "dx of {conv:?}");
        assert_eq!(grads.weight, direct::weight_gradient(&conv, &x, &dy), "dweight of {conv:?}");
        assert_eq!(grads.bias.unwrap(), pixel_sums(&dy));
    }
}

/// The convolution of a case, and its input.
pub(crate) fn of(case: &Case) -> (Conv2d<f32>, Activation<f32>) {
    let &(n, h, w, c_in, c_out, [kh, kw], stride, padding, dilation, groups) = case;
    let weight = whole((c_out, c_in / groups, kh, kw), 1);
    let conv = Conv2d { bias: Some(whole(c_out, 4)), stride, padding, dilation, groups, ..Conv2d::new(weight) };
    (conv, whole((n, h, w, c_in), 2).into_shared())
}

/// dbias, by its definition.
pub(crate) fn pixel_sums(dy: &Activation<f32>) -> Array1<f32> {
    dy.sum_axis(Axis(0)).sum_axis(Axis(0)).sum_axis(Axis(0))
}

#[test]
fn views_in_any_memory_order_are_accepted() {
    let conv = Conv2d { padding: [1, 0], ..Conv2d::new(whole((4, 3, 3, 2), 1)) };
    let x = whole((2, 3, 5, 6), 2).into_shared(); // NCHW
    let permuted = x.clone().permuted_axes([0, 2, 3, 1]);
    let (y, _) = conv.forward(&permuted).unwrap();
    assert_eq!(y, conv.forward(&crate::layers::nchw_to_nhwc(x.view())).unwrap().0);
}

#[test]
fn every_wrong_argument_is_named() {
    let x = Array4::<f32>::zeros((2, 8, 8, 3)).into_shared();
    let conv = Conv2d::new(Array4::<f32>::zeros((4, 3, 3, 3)));
    let message = |conv: Conv2d<f32>| conv.forward(&x).unwrap_err().to_string();
    let wrong_channels = message(Conv2d::new(Array4::zeros((4, 16, 3, 3))));
    assert_eq!(wrong_channels, "conv2d: x expects C_in = 16 (16 x 1 groups), got shape [2, 8, 8, 3]");
    assert!(message(Conv2d { groups: 3, ..conv.clone() }).contains("groups must divide C_out = 4, got 3"));
    assert!(message(Conv2d { groups: 0, ..conv.clone() }).contains("got 0"));
    assert!(message(Conv2d { stride: [0, 1], ..conv.clone() }).contains("stride 0"));
    assert!(
        message(Conv2d { dilation: [5, 1], ..conv.clone() }).contains("extent 11 (size 3, dilation 5) does not fit")
    );
    assert!(message(Conv2d { padding: [usize::MAX, 0], ..conv.clone() }).contains("overflows"));
    assert!(message(Conv2d { padding: [usize::MAX / 4, usize::MAX / 4], ..conv.clone() }).contains("address space"));
    assert!(
        message(Conv2d { stride: [1 << 62, 1 << 62], padding: [1 << 40, 1 << 40], ..conv.clone() }).contains("address")
    );
    assert!(message(Conv2d { bias: Some(Array1::zeros(3)), ..conv.clone() }).contains("bias"));
    assert!(message(Conv2d::new(Array4::zeros((0, 3, 3, 3)))).contains("at least one input channel"));
    let no_pixels = Array4::zeros((2, 0, 8, 3)).into_shared();
    let padded = Conv2d { padding: [2, 2], ..conv.clone() };
    assert!(padded.forward(&no_pixels).unwrap_err().to_string().contains("at least one pixel"));
    let (_, cache) = conv.forward(&x).unwrap();
    let dy = Array4::zeros((2, 8, 8, 4)).into_shared();
    let message = conv.backward(&dy, &cache).unwrap_err().to_string();
    assert_eq!(message, "conv2d: dy expects the output's shape [2, 6, 6, 4], got shape [2, 8, 8, 4]");
}

/// Verifies the backward pass: every gradient against finite differences in `f64`.
#[test]
fn gradients_equal_finite_differences() {
    for report in crate::verify::check_layer("conv2d", 1).unwrap() {
        assert!(report.passed(), "{report}");
    }
}
