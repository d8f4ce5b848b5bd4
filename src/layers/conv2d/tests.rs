//! The fast versions against the definition, exactly, on whole numbers.

use super::*;
use ndarray::Array;

fn whole<D: ndarray::Dimension, S: ndarray::ShapeBuilder<Dim = D>>(shape: S, seed: u64) -> Array<f32, D> {
    let mut i = seed;
    Array::from_shape_simple_fn(shape, || {
        i = i.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((i >> 33) % 7) as f32 - 3.0
    })
}

/// (n, h, w, c_in, c_out, kernel, stride, padding, dilation, groups): different numbers everywhere, leftover rows, even
/// kernels, 1x1 with stride 2, windows wholly in the padding, depthwise.
type Case = (usize, usize, usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 2], usize);
const CASES: &[Case] = &[
    (3, 7, 5, 4, 6, [3, 3], [1, 1], [1, 1], [1, 1], 1),
    (2, 8, 11, 3, 5, [3, 2], [2, 3], [0, 1], [1, 1], 1),
    (2, 9, 7, 5, 4, [1, 1], [2, 2], [0, 0], [1, 1], 1),
    (5, 6, 4, 3, 7, [1, 1], [1, 1], [0, 0], [1, 1], 1),
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
    (7, 10, 10, 2, 3, [3, 3], [1, 1], [1, 1], [1, 1], 1), // several pieces of several images, the last one short
];

/// Every product and every partial sum is a whole number below 2²⁴: all orders of summation give the same bits.
#[test]
fn every_algorithm_equals_the_definition_exactly() {
    for algorithm in [Conv2dAlgorithm::Gemm, Conv2dAlgorithm::Implicit, Conv2dAlgorithm::Winograd2] {
        equals_the_definition_exactly(algorithm);
    }
}

fn equals_the_definition_exactly(algorithm: Conv2dAlgorithm) {
    for &(n, h, w, c_in, c_out, [kh, kw], stride, padding, dilation, groups) in CASES {
        let fast = Conv2d {
            bias: Some(whole(c_out, 4)),
            stride,
            padding,
            dilation,
            groups,
            algorithm,
            ..Conv2d::new(whole((c_out, c_in / groups, kh, kw), 1))
        };
        let direct = Conv2d { algorithm: Conv2dAlgorithm::Direct, ..fast.clone() };
        let x = whole((n, h, w, c_in), 2).into_shared();
        let (y, cache) = fast.forward(&x).unwrap();
        let (y_direct, _) = direct.forward(&x).unwrap();
        assert_eq!(y, y_direct, "y of {fast:?}");
        let dy = whole(y.dim(), 3).into_shared();
        let (dx, grads) = fast.backward(&dy, &cache).unwrap();
        let (dx_direct, grads_direct) = direct.backward(&dy, &cache).unwrap();
        assert_eq!(dx, dx_direct, "dx of {fast:?}");
        assert_eq!(grads.weight, grads_direct.weight, "dweight of {fast:?}");
        assert_eq!(
            grads.bias.unwrap(),
            dy.sum_axis(ndarray::Axis(0)).sum_axis(ndarray::Axis(0)).sum_axis(ndarray::Axis(0))
        );
    }
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
    assert!(message(Conv2d::new(Array4::zeros((0, 3, 3, 3)))).contains("at least one channel"));
    let no_pixels = Array4::zeros((2, 0, 8, 3)).into_shared();
    let padded = Conv2d { padding: [2, 2], ..conv.clone() };
    assert!(padded.forward(&no_pixels).unwrap_err().to_string().contains("at least one pixel"));
    let (_, cache) = conv.forward(&x).unwrap();
    let dy = Array4::zeros((2, 8, 8, 4)).into_shared();
    let message = conv.backward(&dy, &cache).unwrap_err().to_string();
    assert_eq!(message, "conv2d: dy expects the output's shape [2, 6, 6, 4], got shape [2, 8, 8, 4]");
}

/// (n, h, w, c_in, c_out, padding) for the 3x3 convolutions Winograd computes: tiles cut by the border, images of one
/// pixel, one channel, several pieces, channels that are no multiple of a vector or a panel.
type WinogradCase = (usize, usize, usize, usize, usize, [usize; 2]);
const WINOGRAD_CASES: &[WinogradCase] = &[
    (1, 1, 1, 1, 1, [1, 1]),
    (2, 5, 7, 3, 17, [1, 1]),
    (1, 7, 5, 17, 3, [0, 2]),
    (3, 3, 3, 2, 2, [0, 0]),
    (2, 9, 4, 16, 33, [2, 1]),
    (1, 1, 2, 4, 1, [2, 2]),
    (37, 6, 6, 8, 16, [1, 1]),
    (2, 33, 34, 1, 8, [1, 1]),
    (5, 4, 4, 130, 136, [1, 1]),
    (0, 8, 8, 4, 4, [1, 1]),
    (3, 5, 2, 530, 520, [1, 1]), // so many channels that the weight is transformed in blocks
    (0, 5, 2, 530, 520, [1, 1]),
];

/// In f64, with weights that are multiples of 24² = 576: then G w Gᵀ is whole and every number below 2⁵³.
#[test]
fn winograd_equals_the_definition_exactly_on_whole_numbers() {
    for algorithm in [Conv2dAlgorithm::Winograd2, Conv2dAlgorithm::Winograd4] {
        for &(n, h, w, c_in, c_out, padding) in WINOGRAD_CASES {
            let whole = |shape, seed| whole(shape, seed).mapv(f64::from);
            let weight = 576.0 * whole((c_out, c_in, 3, 3), 1);
            let fast = Conv2d { padding, algorithm, ..Conv2d::new(weight) };
            assert_eq!(fast.algorithm_for(&[n, h, w, c_in]).unwrap(), algorithm);
            let direct = Conv2d { algorithm: Conv2dAlgorithm::Direct, ..fast.clone() };
            let x = whole((n, h, w, c_in), 2).into_shared();
            let (y, cache) = fast.forward(&x).unwrap();
            assert_eq!(y, direct.forward(&x).unwrap().0, "y, {algorithm:?}, {:?}", (n, h, w, c_in, c_out, padding));
            let dy = 576.0 * whole(y.dim(), 3);
            let dy = dy.into_shared();
            let (dx, grads) = fast.backward(&dy, &cache).unwrap();
            let (dx_direct, grads_direct) = direct.backward(&dy, &cache).unwrap();
            assert_eq!(dx, dx_direct, "dx, {algorithm:?}, {:?}", (n, h, w, c_in, c_out, padding));
            assert_eq!(
                grads.weight.mapv(f64::round), // Gᵀ dU G divides by 6 and 24 and rounds
                grads_direct.weight,
                "dweight, {algorithm:?}, {:?}",
                (n, h, w, c_in, c_out, padding)
            );
        }
    }
}
