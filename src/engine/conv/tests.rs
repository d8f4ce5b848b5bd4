//! Every algorithm against the definition, exactly, on whole numbers: all sums and products below 2²⁴ are exact in
//! `f32`, in any order.

use super::{Algorithm, Convolution};
use crate::Activation;
use crate::engine::Engine;
use crate::engine::fused::Add;
use crate::layers::Conv2d;
use crate::layers::conv2d::direct;
use crate::layers::conv2d::tests::{CASES, of, pixel_sums, whole};
use crate::parallel::tree_sum;
use crate::processes::Alone;
use crate::shards::Shards;
use ndarray::Array4;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// y, dx, dweight and dbias of the engine and of the definition. Winograd's dweight ends in a product with G, which
/// divides by 6 and 24, in `f64`: it is rounded to whole numbers.
fn equals_the_definition(engine: &Engine, conv: &Conv2d<f32>, x: &Activation<f32>, dy: &Activation<f32>) {
    let case = format!("{}, x {:?}, {conv:?}", engine.algorithm().name(), x.dim());
    // The definition takes a minute for hundreds of channels. `Conv2d`, which is compared with it in every other case, is as
    // exact on whole numbers.
    let (y, dx, dweight) = if dy.len() * conv.weight.len() / conv.weight.dim().0 < 1 << 23 {
        let dx = direct::input_gradient(conv, x.dim(), dy);
        (direct::forward(conv, x), dx, direct::weight_gradient(conv, x, dy))
    } else {
        let (y, cache) = conv.forward(x).unwrap();
        let (dx, grads) = conv.backward(dy, &cache).unwrap();
        (y.into_owned(), dx.into_owned(), grads.weight)
    };
    assert_eq!(engine.conv2d_forward(conv, x).unwrap(), y, "y of {case}");
    assert_eq!(engine.conv2d_input_gradient(conv, dy, x.dim().into()).unwrap(), dx, "dx of {case}");
    let grads = engine.conv2d_parameter_gradients(conv, dy, x).unwrap();
    assert_eq!(grads.weight.mapv(f32::round), dweight, "dweight of {case}");
    assert!(
        grads.weight.iter().all(|dw| (dw - dw.round()).abs() <= dw.abs() * f32::EPSILON + 1e-9),
        "dweight of {case}"
    );
    assert_eq!(grads.bias, conv.bias.as_ref().map(|_| pixel_sums(dy)), "dbias of {case}");
}

fn dy_of(conv: &Conv2d<f32>, x: &Activation<f32>) -> [usize; 4] {
    conv.output_shape(&x.dim().into()).unwrap()
}

#[test]
fn every_algorithm_equals_the_definition_exactly() {
    for algorithm in [Algorithm::Gemm, Algorithm::Indirect, Algorithm::Winograd2] {
        let engine = Engine::new(algorithm);
        for case in CASES {
            let (conv, x) = of(case);
            let dy = whole(dy_of(&conv, &x), 3).into_dimensionality().unwrap().into_shared();
            equals_the_definition(&engine, &conv, &x, &dy);
        }
    }
}

/// (n, h, w, c_in, c_out, padding) for the 3x3 convolutions that Winograd computes: tiles cut by the border, images of one
/// pixel, one channel, several chunks, channels that are not a multiple of a vector or a panel.
pub(super) type WinogradCase = (usize, usize, usize, usize, usize, [usize; 2]);
pub(super) const WINOGRAD_CASES: &[WinogradCase] = &[
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
    (3, 5, 2, 530, 520, [1, 1]), // so many channels that the weight is transformed in slices
    (0, 5, 2, 530, 520, [1, 1]),
];

/// F(4x4) divides the weight by 576 = 24² = 9 · 2⁶. If the weights are multiples of 9, G w Gᵀ is a multiple of 2⁻⁶, and
/// everything after it is a sum of products of such numbers: exact while it is below 2¹⁸ = 2²⁴ · 2⁻⁶. If anything were
/// rounded, the result would not be a whole number.
#[test]
fn winograd_equals_the_definition_exactly_on_whole_numbers() {
    for algorithm in [Algorithm::Winograd2, Algorithm::Winograd4] {
        let engine = Engine::new(algorithm);
        for &(n, h, w, c_in, c_out, padding) in WINOGRAD_CASES {
            // −1, 0, 1
            let small = |shape: [usize; 4], seed| {
                let x = whole(shape, seed).mapv(|x| (x / 2.0).trunc());
                x.into_dimensionality::<ndarray::Ix4>().unwrap()
            };
            let conv = Conv2d { padding, ..Conv2d::new(9.0 * small([c_out, c_in, 3, 3], 1)) };
            let x = small([n, h, w, c_in], 2).into_shared();
            assert_eq!(engine.algorithm_for(&conv, x.dim().into()).unwrap(), algorithm);
            let dy = small(dy_of(&conv, &x), 3).into_shared();
            equals_the_definition(&engine, &conv, &x, &dy);
        }
    }
}

/// A large dweight is computed in blocks. It has the bits of the dweights of the shards, each computed by itself, added in the
/// tree; also if one shard has an infinity, for which the products are computed by the definition.
#[test]
fn blocks_of_a_weight_gradient_have_the_bits_of_the_sums_of_the_shards() {
    let f4 = (Algorithm::Winograd4, 3, 1);
    for (case, (algorithm, kernel, groups), n, size, [c_in, c_out]) in [
        ("whole panels", f4, 8, 4, [128, 128]),
        ("a remainder of every kind", f4, 5, 5, [130, 137]),
        ("F(2x2)", (Algorithm::Winograd2, 3, 1), 5, 2, [129, 150]),
        ("one leaf per shard", (Algorithm::Indirect, 1, 1), 9, 1, [260, 150]),
        ("leaves of several images, the last one short", (Algorithm::Indirect, 1, 1), 50, 7, [260, 130]),
        ("taps and groups", (Algorithm::Indirect, 3, 2), 6, 3, [130, 140]),
    ] {
        let padding = [kernel / 2; 2];
        let weight = whole((c_out, c_in / groups, kernel, kernel), 1);
        let conv = Conv2d { padding, groups, ..Conv2d::new(weight) };
        // Not whole numbers: the order of a sum must change its bits.
        let (mut x, dy) = (whole((n, size, size, c_in), 2) * 0.1, whole((n, size, size, c_out), 3) / 7.0);
        for finite in [true, false] {
            if !finite {
                x[[n - 1, 0, 0, 1]] = f32::INFINITY;
            }
            let (x, dy) = (x.clone().into_shared(), dy.clone().into_shared());
            for count in [1, 2, 3, 5] {
                let pass = Engine::new(algorithm).pass(&Shards::new(n, count, Arc::new(Alone)));
                let convolution = Convolution::new(&pass, &conv, x.dim().into()).unwrap();
                let shards = &pass.shards.own_subtrees()[0];
                let of_shard = |i: usize| convolution.of_shard(&shards[i], &dy, &x);
                let expected = tree_sum(count, &of_shard, &|sum: &mut Array4<f32>, dw| *sum += &dw).unwrap();
                let bits = |dw: &Array4<f32>| dw.iter().map(|dw| dw.to_bits()).collect::<Vec<_>>();
                let dweight = convolution.weight_gradient(&dy, &x);
                assert!(bits(&dweight) == bits(&expected), "{case}, {count} shards, finite: {finite}");
                let blocks = convolution.in_blocks(shards, &dy, &x);
                let one_leaf = algorithm == Algorithm::Indirect && count == 1 && n * size * size <= 512;
                let not_finite = algorithm != Algorithm::Indirect && !finite;
                assert_eq!(blocks.is_some(), !one_leaf && !not_finite, "{case}, {count} shards, finite: {finite}");
            }
        }
    }
}

/// dweight and dx in one pass over dy have the bits of the two passes: with leaves of several chunks, the last one short, with
/// several shards, with unequal channels, and if values are not finite.
#[test]
fn gradients_in_one_pass_have_the_bits_of_two() {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (algorithm, n, size, [c_in, c_out], group, in_one_pass) in [
        (Algorithm::Winograd4, 21, 32, [16, 16], 0, [true, true, true]),
        (Algorithm::Winograd4, 9, 17, [20, 40], 0, [true, true, false]),
        (Algorithm::Winograd2, 11, 8, [33, 17], 0, [true, true, false]),
        // Shards of 7 and 6 images have chunks of 4 and 3; so do those of 3 and 2 images above, of 2 and 1.
        (Algorithm::Winograd4, 13, 16, [8, 8], 0, [true, false, true]),
        // One leaf; many channels; groups of images.
        (Algorithm::Winograd4, 1, 32, [16, 16], 0, [false, false, false]),
        (Algorithm::Winograd4, 4, 8, [128, 128], 0, [false, false, false]),
        (Algorithm::Winograd4, 8, 16, [8, 8], 2, [false, false, false]),
    ] {
        let conv = Conv2d { padding: [1, 1], ..Conv2d::new(whole((c_out, c_in, 3, 3), 1) / 3.0) };
        let (mut x, dy) = (whole((n, size, size, c_in), 2) * 0.1, whole((n, size, size, c_out), 3) / 7.0);
        for finite in [true, false] {
            let mut dy = dy.clone();
            if !finite {
                x[[n - 1, 0, 0, 1]] = f32::INFINITY;
                dy[[0, size - 1, 0, 2]] = f32::NAN;
            }
            let (x, dy) = (x.clone().into_shared(), dy.into_shared());
            for (count, expected) in [1, 2, 4].into_iter().zip(in_one_pass) {
                let case = format!("{n} images, {c_in} to {c_out} channels, {count} shards, finite: {finite}");
                let shards = Shards::new(n, count, Arc::new(Alone)).in_groups(NonZeroUsize::new(group));
                let pass = Engine::new(algorithm).pass(&shards);
                let convolution = Convolution::new(&pass, &conv, x.dim().into()).unwrap();
                let add = Add(&x);
                let bits = |values: &Array4<f32>| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                let (dweight, dx) = one_thread.install(|| convolution.gradients(&dy, &x, &add));
                assert!(bits(&dweight) == bits(&convolution.weight_gradient(&dy, &x)), "dweight of {case}");
                let dx_alone = convolution.input_gradient(&dy, &add);
                assert!(bits(&dx.into_owned()) == bits(&dx_alone.into_owned()), "dx of {case}");
                let found = one_thread.install(|| convolution.in_one_pass(&dy, &x, &add)).is_some();
                assert_eq!(found, expected, "{case}");
            }
        }
    }
}

#[test]
fn the_engine_rejects_what_the_reference_rejects() {
    let x = ndarray::Array4::<f32>::zeros((2, 8, 8, 3)).into_shared();
    let conv = Conv2d::new(ndarray::Array4::<f32>::zeros((4, 16, 3, 3)));
    let engine = Engine::default();
    let message = engine.conv2d_forward(&conv, &x).unwrap_err().to_string();
    assert_eq!(message, "conv2d: x expects C_in = 16 (16 x 1 groups), got shape [2, 8, 8, 3]");
    let conv = Conv2d::new(ndarray::Array4::<f32>::zeros((4, 3, 3, 3)));
    let message = engine.conv2d_input_gradient(&conv, &x, x.dim().into()).unwrap_err().to_string();
    assert_eq!(message, "conv2d: dy expects the output's shape [2, 6, 6, 4], got shape [2, 8, 8, 3]");
}
