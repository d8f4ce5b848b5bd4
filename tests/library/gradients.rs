//! Every gradient of the crate, verified in four ways: equal to differences on integers, adjoint to the forward
//! map, within the a-priori bound in `f32`, and, for whole networks, equal to kink-locked differences.
//!
//! `cargo test --lib library::gradients -- --nocapture` prints the worst error of every tensor.

use ndarray::{Array, Array1, Array2, Array4, Dimension, ShapeBuilder, array, s};
use rand::RngExt as _;
use resnet_by_hand::engine::{Algorithm, Engine};
use resnet_by_hand::layers::conv2d::direct;
use resnet_by_hand::layers::{
    AvgPool2d, BatchNorm2d, Conv2d, GlobalAvgPool, Linear, MaxPool2d, Mode, Reduction, Relu, RunningVariance,
    SoftmaxCrossEntropy, ZeroPadShortcut,
};
use resnet_by_hand::model::{Architecture, BlockKind, BottleneckStride, Order, ShortcutOption, Stage, Stem};
use resnet_by_hand::rng::{Purpose, name_hash, stream};
use resnet_by_hand::verify::{
    NetworkCheck, TensorReport, Tolerance, bounds, check_layer, check_network, compare, known_layers,
};
use resnet_by_hand::{Activation, Scalar};
use std::num::NonZeroUsize;

const U32: f64 = f32::UNIT_ROUNDOFF;
const U64: f64 = f64::UNIT_ROUNDOFF;

/// Integers from −3 to 3.
fn whole<D: Dimension>(name: &str, shape: impl ShapeBuilder<Dim = D>) -> Array<f64, D> {
    let mut rng = stream(1, Purpose::Verify, &[name_hash(name)]);
    Array::from_shape_simple_fn(shape, || f64::from(rng.random_range(-3..=3)))
}

/// Uniform in (−2, 2), in `f32`.
fn real<D: Dimension>(name: &str, shape: impl ShapeBuilder<Dim = D>) -> Array<f32, D> {
    let mut rng = stream(2, Purpose::Verify, &[name_hash(name)]);
    Array::from_shape_simple_fn(shape, || rng.random_range(-2.0..2.0))
}

/// The same values in `f64`.
fn wide<D: Dimension>(x: &Array<f32, D>) -> Array<f64, D> {
    x.mapv(f64::from)
}

/// ⟨a, b⟩
fn dot<D: Dimension>(a: &Array<f64, D>, b: &Array<f64, D>) -> f64 {
    assert_eq!(a.shape(), b.shape());
    (a * b).sum()
}

/// Asserts |got − reference| ≤ bound elementwise and prints how much of the bound was used.
#[track_caller]
fn within<T: Scalar, D: Dimension>(what: &str, got: &Array<T, D>, reference: &Array<f64, D>, bound: &Array<f64, D>) {
    let comparison = compare(got, reference, Tolerance::Elementwise(bound.view().into_dyn()));
    println!("{what:<44} {comparison}");
    comparison.assert_passed(what);
}

#[track_caller]
fn equal<T: Scalar, D: Dimension>(what: &str, got: &Array<T, D>, reference: &Array<f64, D>) {
    compare(got, reference, Tolerance::Exact).assert_passed(what);
}

// ---------------------------------------------------------------------------------------------- differences

#[test]
fn every_layer_equals_its_differences() {
    println!("{}", TensorReport::table_header());
    for seed in [1, 2] {
        for layer in known_layers() {
            for report in check_layer(layer, seed).unwrap() {
                println!("{report}");
                assert!(report.passed(), "seed {seed}\n{report}");
                let curved = ["batch_norm", "softmax_cross_entropy"].contains(&layer);
                // The model never allows more than this; see `finite_difference::CONCLUSIVE` and the rounding term.
                let most = if curved { 1e-8 } else { 0.0 };
                assert!(report.tolerance <= most, "seed {seed}: the tolerance itself is too wide\n{report}");
            }
        }
    }
}

fn check(architecture: &Architecture, check: NetworkCheck) {
    let report = check_network(architecture, &check).unwrap();
    println!("{report}\n");
    assert!(report.passed(), "{report}");
    // The accuracy required of kink-locked differences; the tolerances above are derived, this is their purpose.
    assert!(report.worst_relative() < 1e-9, "{report}");
}

#[test]
fn resnet20_in_training() {
    // Every tensor has its direction, which is wrong if any entry is; `resnet gradcheck --model resnet20` tries more entries.
    let small = NetworkCheck { image: [9, 7], entries: 1, ..NetworkCheck::default() };
    check(&Architecture::by_name("resnet20").unwrap(), small);
}

/// Two stages of few channels, everything else as given.
fn small(name: &str, block: BlockKind, shortcut: ShortcutOption) -> Architecture {
    Architecture {
        name: name.to_string(),
        block,
        order: Order::PostActivation,
        bottleneck_stride: BottleneckStride::Conv3x3,
        shortcut,
        stem: Stem::Cifar,
        stem_channels: 5,
        stages: vec![Stage { channels: 6, blocks: 2, stride: 1 }, Stage { channels: 8, blocks: 1, stride: 2 }],
        groups: 1,
        width_per_group: 64,
        classes: 4,
        image: [9, 7],
    }
}

/// An entry and a direction per tensor; odd sides leave rows over at every stride.
const SMALL: NetworkCheck = NetworkCheck { batch: 3, image: [9, 7], mode: Mode::Train, seed: 3, entries: 1 };

#[test]
fn bottlenecks_in_training() {
    check(&small("bottleneck, option B", BlockKind::Bottleneck, ShortcutOption::B), SMALL);
    let v1 = small("bottleneck, stride on the 1x1", BlockKind::Bottleneck, ShortcutOption::C);
    check(&Architecture { bottleneck_stride: BottleneckStride::Conv1x1, ..v1 }, SMALL);
    let resnext = small("ResNeXt, 2 groups", BlockKind::Bottleneck, ShortcutOption::EveryStage);
    check(&Architecture { groups: 2, width_per_group: 32, ..resnext }, SMALL);
}

#[test]
fn basic_blocks_with_every_shortcut_in_training() {
    use ShortcutOption::{A, Absent, B, C, EveryStage};
    for (name, shortcut) in [("A", A), ("B", B), ("C", C), ("every stage", EveryStage), ("none", Absent)] {
        check(&small(&format!("basic, shortcut {name}"), BlockKind::Basic, shortcut), SMALL);
    }
}

#[test]
fn stems_with_a_max_pool_in_training() {
    let base = small("7x7 stem, stride 1, max pool", BlockKind::Basic, ShortcutOption::EveryStage);
    check(&Architecture { stem: Stem::Cifar7x7, ..base.clone() }, SMALL);
    let imagenet = Architecture { name: "ImageNet stem".to_string(), stem: Stem::ImageNet, ..base };
    check(&imagenet, NetworkCheck { image: [21, 18], ..SMALL });
}

#[test]
fn pre_activation_in_training() {
    use ShortcutOption::{A, B};
    for (name, block, shortcut) in [
        ("pre-activation basic, option A", BlockKind::Basic, A),
        ("pre-activation basic, option B", BlockKind::Basic, B),
        ("pre-activation bottleneck", BlockKind::Bottleneck, B),
    ] {
        check(&Architecture { order: Order::PreActivation, ..small(name, block, shortcut) }, SMALL);
    }
}

#[test]
fn evaluation_mode() {
    let eval = NetworkCheck { mode: Mode::Eval, ..SMALL };
    check(&small("basic, evaluation", BlockKind::Basic, ShortcutOption::A), eval);
    let bottleneck = small("bottleneck, evaluation", BlockKind::Bottleneck, ShortcutOption::B);
    check(&Architecture { order: Order::PreActivation, ..bottleneck }, eval);
}

#[test]
fn the_report_does_not_depend_on_the_number_of_threads() {
    let architecture = small("threads", BlockKind::Basic, ShortcutOption::B);
    let report = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| check_network(&architecture, &SMALL).unwrap())
    };
    assert_eq!(report(1), report(3));
}

// ---------------------------------------------------------------------------------------------- adjoints

/// ⟨A x, p⟩ = ⟨x, Aᵀ p⟩, exactly: everything is an integer far below 2⁵³.
#[test]
fn backward_is_the_adjoint_of_every_linear_map() {
    let x = whole("x", (3, 9, 7, 6));
    for (label, kernel, stride, padding, dilation, groups) in [
        ("3x3", [3, 3], [1, 1], [1, 1], [1, 1], 1),
        ("3x2, stride 2x3", [3, 2], [2, 3], [0, 1], [1, 1], 1),
        ("5x3, dilation 1x2, padding 3x1", [5, 3], [2, 1], [3, 1], [1, 2], 2),
        ("1x1, stride 2", [1, 1], [2, 2], [0, 0], [1, 1], 3),
        ("depthwise", [3, 3], [2, 2], [1, 1], [1, 1], 6),
    ] {
        let weight = whole(label, (12, 6 / groups, kernel[0], kernel[1]));
        let conv = Conv2d { stride, padding, dilation, groups, ..Conv2d::new(weight) };
        let (y, cache) = conv.forward(&x.to_shared()).unwrap();
        let p = whole("p", y.dim());
        let (dx, grads) = conv.backward(&p.to_shared(), &cache).unwrap();
        let left = dot(&y.into_owned(), &p);
        assert_ne!(left, 0.0);
        // The convolution is linear in x for fixed weight, and in weight for fixed x.
        assert_eq!(left, dot(&x, &dx.into_owned()), "conv2d, input, {label}");
        assert_eq!(left, dot(&conv.weight, &grads.weight), "conv2d, weight, {label}");
    }
    // Averages: multiples of the divisor stay integers.
    let x12 = whole("x", (3, 9, 7, 6)) * 27720.0;
    for pool in [
        AvgPool2d::new([3, 2], [2, 1], [1, 0]),
        AvgPool2d { ceil_mode: true, count_include_pad: false, ..AvgPool2d::new([2, 4], [2, 3], [1, 2]) },
    ] {
        let (y, cache) = pool.forward(&x12.to_shared()).unwrap();
        let p = whole("p", y.dim()) * 27720.0;
        let dx = pool.backward(&p.to_shared(), &cache).unwrap();
        assert_eq!(dot(&y.into_owned(), &p), dot(&x12, &dx.into_owned()), "{pool:?}");
    }
    let x63 = whole("x", (3, 9, 7, 6)) * 63.0;
    let (y, cache) = GlobalAvgPool.forward(&x63.to_shared()).unwrap();
    let p = whole("p", y.dim()) * 63.0;
    let dx = GlobalAvgPool.backward(&p, &cache).unwrap();
    assert_eq!(dot(&y, &p), dot(&x63, &dx.into_owned()), "global average pool");
    for (stride, c_out) in [(2, 13), (1, 8), (3, 6)] {
        let shortcut = ZeroPadShortcut { stride, c_out };
        let (y, cache) = shortcut.forward(&x.to_shared()).unwrap();
        let p = whole("p", y.dim());
        let dx = shortcut.backward(&p.to_shared(), &cache).unwrap();
        assert_eq!(dot(&y.into_owned(), &p), dot(&x, &dx.into_owned()), "{shortcut:?}");
    }
    let linear = Linear { weight: whole("weight", (5, 7)), bias: Array1::zeros(5) };
    let x = whole("x", (4, 7));
    let (y, cache) = linear.forward(&x).unwrap();
    let p = whole("p", y.dim());
    let (dx, grads) = linear.backward(&p, &cache).unwrap();
    assert_eq!(dot(&y, &p), dot(&x, &dx), "linear, input");
    assert_eq!(dot(&y, &p), dot(&linear.weight, &grads.weight), "linear, weight");
}

// ---------------------------------------------------------------------------------------------- f32 against f64

#[test]
fn conv2d_in_f32_is_within_its_bound() {
    for (label, [n, h, w, c_in, c_out], [kh, kw], stride, padding, groups) in [
        ("3x3, 64 channels", [2, 9, 7, 64, 32], [3, 3], [1, 1], [1, 1], 1),
        ("3x3, stride 2", [3, 8, 11, 16, 24], [3, 3], [2, 2], [1, 1], 1),
        ("1x1, stride 2", [2, 9, 6, 48, 20], [1, 1], [2, 2], [0, 0], 1),
        ("7x7 stem", [2, 17, 14, 3, 16], [7, 7], [2, 2], [3, 3], 1),
        ("3x2, 4 groups", [2, 7, 6, 16, 8], [3, 2], [1, 2], [1, 0], 4),
    ] {
        let (weight, bias) = (real(label, (c_out, c_in / groups, kh, kw)), real("bias", c_out));
        let conv = Conv2d { bias: Some(bias.clone()), stride, padding, groups, ..Conv2d::new(weight.clone()) };
        let exact = Conv2d { bias: Some(wide(&bias)), stride, padding, groups, ..Conv2d::new(wide(&weight)) };
        let x = real("x", (n, h, w, c_in));
        let (y, cache) = conv.forward(&x.to_shared()).unwrap();
        let (y64, cache64) = exact.forward(&wide(&x).into_shared()).unwrap();
        let dy = real("dy", y.dim());
        let (dx, grads) = conv.backward(&dy.to_shared(), &cache).unwrap();
        let (dx64, grads64) = exact.backward(&wide(&dy).into_shared(), &cache64).unwrap();
        let bound = bounds::conv2d(&conv, &x.to_shared(), &dy.to_shared(), U32).unwrap();
        within(&format!("conv2d {label}: y"), &y.into_owned(), &y64.into_owned(), &bound.y);
        within(&format!("conv2d {label}: dx"), &dx.into_owned(), &dx64.into_owned(), &bound.dx);
        within(&format!("conv2d {label}: dweight"), &grads.weight, &grads64.weight, &bound.weight);
        let (dbias, dbias64) = (grads.bias.unwrap(), grads64.bias.unwrap());
        within(&format!("conv2d {label}: dbias"), &dbias, &dbias64, &bound.bias.unwrap());
    }
}

/// 3x3 convolutions over sizes and channels that are not multiples of tiles, vectors or panels, every padding, one image.
#[test]
fn winograd_in_f32_is_within_its_bound() {
    let sizes = [
        (1, 1, 1, 1, 1, [1, 1]),
        (1, 5, 7, 3, 17, [1, 1]),
        (2, 7, 5, 17, 3, [0, 2]),
        (3, 9, 4, 16, 33, [2, 1]),
        (2, 32, 32, 16, 16, [1, 1]),
        (5, 8, 8, 64, 64, [1, 1]),
        (3, 4, 4, 130, 136, [1, 1]),
        (2, 3, 3, 8, 8, [0, 0]),
    ];
    for (m, algorithm) in [(2, Algorithm::Winograd2), (4, Algorithm::Winograd4)] {
        let engine = Engine::new(algorithm);
        for (n, h, w, c_in, c_out, padding) in sizes {
            let label = format!("F({m}) {n}x{h}x{w}, {c_in} to {c_out}, padding {padding:?}");
            let weight = real("weight", (c_out, c_in, 3, 3));
            let conv = Conv2d { padding, ..Conv2d::new(weight.clone()) };
            assert_eq!(engine.algorithm_for(&conv, [n, h, w, c_in]).unwrap(), algorithm);
            let exact = Conv2d { padding, ..Conv2d::new(wide(&weight)) };
            let x = real("x", (n, h, w, c_in));
            let y = engine.conv2d_forward(&conv, &x.to_shared()).unwrap();
            let (y64, cache64) = exact.forward(&wide(&x).into_shared()).unwrap();
            let dy = real("dy", y.dim());
            let dx = engine.conv2d_input_gradient(&conv, &dy.to_shared(), x.dim().into()).unwrap();
            let grads = engine.conv2d_parameter_gradients(&conv, &dy.to_shared(), &x.to_shared()).unwrap();
            let (dx64, grads64) = exact.backward(&wide(&dy).into_shared(), &cache64).unwrap();
            let bound = bounds::conv2d_winograd(&conv, &x.to_shared(), &dy.to_shared(), m, U32).unwrap();
            within(&format!("{label}: y"), &y.into_owned(), &y64.into_owned(), &bound.y);
            within(&format!("{label}: dx"), &dx.into_owned(), &dx64.into_owned(), &bound.dx);
            within(&format!("{label}: dweight"), &grads.weight, &grads64.weight, &bound.weight);
        }
    }
}

/// NaN and infinity occur exactly where the definition produces them, although a tile mixes its inputs; what overflows only
/// in a tile is finite.
#[test]
fn winograd_sends_what_is_not_finite_where_the_definition_does() {
    let kind = |v: f32| match v {
        v if v.is_nan() => 'n',
        v if v == f32::INFINITY => '+',
        v if v == f32::NEG_INFINITY => '-',
        _ => 'f',
    };
    for algorithm in [Algorithm::Winograd2, Algorithm::Winograd4] {
        let engine = Engine::new(algorithm);
        let conv = Conv2d { padding: [1, 1], ..Conv2d::new(real("weight", (16, 16, 3, 3))) };
        let mut x = real("x", (3, 11, 10, 16));
        x[[0, 4, 5, 3]] = f32::NAN;
        x[[1, 0, 0, 0]] = f32::INFINITY;
        x[[1, 9, 9, 1]] = f32::NEG_INFINITY;
        x.slice_mut(ndarray::s![2, .., .., ..]).mapv_inplace(|v| v.signum() * 1e36);
        let mut dy = real("dy", (3, 11, 10, 16));
        // Inside the image: at its border a gradient is also multiplied by padding, and 0 · NaN is NaN, or skipped by a loop.
        dy[[2, 5, 4, 7]] = f32::NAN;
        dy[[1, 6, 6, 2]] = f32::INFINITY;
        let (x, dy) = (x.into_shared(), dy.into_shared());
        let fast = [
            engine.conv2d_forward(&conv, &x).unwrap().into_owned().into_dyn(),
            engine.conv2d_input_gradient(&conv, &dy, x.dim().into()).unwrap().into_owned().into_dyn(),
            engine.conv2d_parameter_gradients(&conv, &dy, &x).unwrap().weight.into_dyn(),
        ];
        let defined = [
            direct::forward(&conv, &x).into_dyn(),
            direct::input_gradient(&conv, x.dim(), &dy).into_dyn(),
            direct::weight_gradient(&conv, &x, &dy).into_dyn(),
        ];
        for ((name, fast), direct) in ["y", "dx", "dweight"].into_iter().zip(fast).zip(defined) {
            assert!(direct.iter().any(|v| v.is_finite()) || name == "dweight");
            for ((at, &fast), &direct) in fast.indexed_iter().zip(&direct) {
                assert_eq!(
                    kind(fast),
                    kind(direct),
                    "{algorithm:?}: {name} at {at:?} is {fast}, by definition {direct}"
                );
            }
        }
    }
}

/// Large batches are cut into chunks of some images; integers make every cut exact. The sizes give: one image per
/// chunk, in the engine's GEMM the last leaf of four chunks short; two images per chunk, the last chunk short.
#[test]
fn conv2d_over_many_chunks_equals_the_definition() {
    for (n, h, w, groups) in [(6, 36, 35, 1), (11, 20, 24, 3)] {
        let narrow = |x: Array4<f64>| x.mapv(|x| x as f32);
        let weight = narrow(whole("weight", (6, 3 / groups, 3, 3)));
        let conv = Conv2d { padding: [1, 1], groups, ..Conv2d::new(weight) };
        let x = narrow(whole("x", (n, h, w, 3))).into_shared();
        let y = direct::forward(&conv, &x);
        let dy = narrow(whole("dy", y.dim())).into_shared();
        let (dx, dweight) = (direct::input_gradient(&conv, x.dim(), &dy), direct::weight_gradient(&conv, &x, &dy));
        let (own, cache) = conv.forward(&x).unwrap();
        let (own_dx, grads) = conv.backward(&dy, &cache).unwrap();
        assert!(own == y && own_dx == dx && grads.weight == dweight, "the reference, {n} images of {h}x{w}");
        for algorithm in [Algorithm::Gemm, Algorithm::Indirect] {
            let (engine, case) = (Engine::new(algorithm), format!("{algorithm:?}, {n} images of {h}x{w}"));
            assert_eq!(engine.conv2d_forward(&conv, &x).unwrap(), y, "y, {case}");
            assert_eq!(engine.conv2d_input_gradient(&conv, &dy, x.dim().into()).unwrap(), dx, "dx, {case}");
            let grads = engine.conv2d_parameter_gradients(&conv, &dy, &x).unwrap();
            assert_eq!(grads.weight, dweight, "dweight, {case}");
        }
    }
}

/// Batch norm from its equations, in `f64` and in nested loops: (y, mean, biased variance).
fn batch_norm_reference(
    x: &Array4<f64>,
    (gamma, beta, eps): (&Array1<f64>, &Array1<f64>, f64),
) -> (Array4<f64>, Vec<f64>, Vec<f64>) {
    let (n, h, w, c) = x.dim();
    let m = (n * h * w) as f64;
    let (mut y, mut means, mut vars) = (Array4::zeros(x.dim()), Vec::new(), Vec::new());
    for k in 0..c {
        let pixels = || (0..n).flat_map(|i| (0..h).flat_map(move |r| (0..w).map(move |q| [i, r, q, k])));
        let mean = pixels().map(|at| x[at]).sum::<f64>() / m;
        let var = pixels().map(|at| (x[at] - mean) * (x[at] - mean)).sum::<f64>() / m;
        for at in pixels() {
            y[at] = gamma[k] * ((x[at] - mean) / (var + eps).sqrt()) + beta[k];
        }
        means.push(mean);
        vars.push(var);
    }
    (y, means, vars)
}

#[test]
fn batch_norm_is_within_its_bound_in_both_types_and_moves_its_statistics() {
    for (label, (n, h, w, c), offset, eps) in [
        ("m = 24", (2, 3, 4, 5), 0.0, 1e-5),
        ("m = 1260, five leaves", (4, 15, 21, 3), 0.0, 1e-5),
        ("mean 100", (2, 9, 17, 4), 100.0, 1e-5),
        ("eps 1/2", (3, 2, 5, 2), 0.0, 0.5),
    ] {
        let x = real("x", (n, h, w, c)) + offset;
        let layer = BatchNorm2d { gamma: real("gamma", c), beta: real("beta", c), eps, ..BatchNorm2d::<f32>::new(c) };
        let exact = BatchNorm2d::<f64> {
            gamma: wide(&layer.gamma),
            beta: wide(&layer.beta),
            eps: f64::from(eps),
            ..BatchNorm2d::new(c)
        };
        let (dy, x64) = (real("dy", x.dim()), wide(&x).into_shared());
        let dy64 = wide(&dy).into_shared();

        let (y, cache) = layer.forward(&x.to_shared(), Mode::Train).unwrap();
        let (y64, cache64) = exact.forward(&x64, Mode::Train).unwrap();
        let (dx, grads) = layer.backward(&dy.to_shared(), &cache).unwrap();
        let (dx64, grads64) = exact.backward(&dy64, &cache64).unwrap();
        let bound = bounds::batch_norm(&layer, &x.to_shared(), &dy.to_shared(), Mode::Train, U32);
        within(&format!("batch_norm {label}: y"), &y.into_owned(), &y64.to_owned(), &bound.y);
        within(&format!("batch_norm {label}: dx"), &dx.into_owned(), &dx64.into_owned(), &bound.dx);
        within(&format!("batch_norm {label}: dgamma"), &grads.gamma, &grads64.gamma, &bound.gamma);
        within(&format!("batch_norm {label}: dbeta"), &grads.beta, &grads64.beta, &bound.beta);

        // The f64 layer against the equations: both are within the bound of the exact result, so within twice of each other.
        let parameters = (&exact.gamma, &exact.beta, exact.eps);
        let (reference, means, vars) = batch_norm_reference(&x64.to_owned(), parameters);
        let bound = bounds::batch_norm(&exact, &x64, &dy64, Mode::Train, U64);
        within(&format!("batch_norm {label}: y in f64"), &y64.into_owned(), &reference, &(bound.y * 2.0));

        // running ← 0.75 running + 0.25 batch, from 3 and 5; the variance unbiased or not.
        let m = (n * h * w) as f64;
        for (kind, bessel) in [(RunningVariance::Unbiased, m / (m - 1.0)), (RunningVariance::Biased, 1.0)] {
            let mut moved = BatchNorm2d {
                running_mean: Array1::from_elem(c, 3.0),
                running_var: Array1::from_elem(c, 5.0),
                momentum: 0.25,
                running_variance: kind,
                ..exact.clone()
            };
            moved.update_running_statistics(&cache64);
            for k in 0..c {
                // γ of the m-term sums, relative to values of at most |offset| + 5.
                let tolerance = 4.0 * bounds::gamma(n * h * w + 100, U64) * (f64::from(offset) + 5.0);
                let (mean, var) = (0.75 * 3.0 + 0.25 * means[k], 0.75 * 5.0 + 0.25 * vars[k] * bessel);
                assert!((moved.running_mean[k] - mean).abs() <= tolerance, "{label}: {}", moved.running_mean[k]);
                assert!((moved.running_var[k] - var).abs() <= tolerance, "{label}: {} {var}", moved.running_var[k]);
            }
        }
    }
}

/// Every group of images, bit for bit, as a batch norm of its own; sums and means of what they give.
#[test]
fn groups_of_images_are_normalised_each_by_itself() {
    let (h, w, c) = (3, 5, 4);
    for (n, group, lengths) in
        [(6, 2, vec![2, 2, 2]), (6, 3, vec![3, 3]), (3, 1, vec![1, 1, 1]), (7, 3, vec![2, 2, 3]), (2, 5, vec![2])]
    {
        let [x, dy] = ["x", "dy"].map(|name| wide(&real(name, (n, h, w, c))).into_shared());
        let plain = BatchNorm2d {
            gamma: wide(&real("gamma", c)),
            beta: wide(&real("beta", c)),
            running_mean: wide(&real("mean", c)),
            ..BatchNorm2d::<f64>::new(c)
        };
        let mut layer = BatchNorm2d { group: NonZeroUsize::new(group), ..plain.clone() };
        let (y, cache) = layer.forward(&x, Mode::Train).unwrap();
        let (dx, grads) = layer.backward(&dy, &cache).unwrap();
        let [mut gamma, mut beta, mut mean, mut var] = [(); 4].map(|()| Array1::<f64>::zeros(c));
        let (mut first, groups) = (0, lengths.len() as f64);
        for &length in &lengths {
            let images = s![first..first + length, .., .., ..];
            let [own_x, own_dy] = [&x, &dy].map(|array| array.slice(images).to_owned().into_shared());
            let (own_y, cache) = plain.forward(&own_x, Mode::Train).unwrap();
            let (own_dx, own) = plain.backward(&own_dy, &cache).unwrap();
            assert_eq!(y.slice(images), own_y, "y of {n} images in groups of {group}");
            assert_eq!(dx.slice(images), own_dx, "dx of {n} images in groups of {group}");
            let m = (length * h * w) as f64;
            (gamma, beta) = (gamma + own.gamma, beta + own.beta);
            (mean, var) = (mean + &cache.groups[0].mean, var + &cache.groups[0].var * (m / (m - 1.0)));
            first += length;
        }
        layer.update_running_statistics(&cache);
        let running = |from: &Array1<f64>, sum: Array1<f64>| from * 0.9 + sum / groups * 0.1;
        for (name, got, expected) in [
            ("dgamma", &grads.gamma, gamma),
            ("dbeta", &grads.beta, beta),
            ("running mean", &layer.running_mean, running(&plain.running_mean, mean)),
            ("running variance", &layer.running_var, running(&plain.running_var, var)),
        ] {
            // The same few numbers of at most a few tens in another order.
            let near = got.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() <= 1e-13);
            assert!(near, "{name} of {n} images in groups of {group}: {got} {expected}");
        }
        // Evaluation has no groups.
        let alone = plain.forward(&x, Mode::Eval).unwrap().0;
        let grouped = BatchNorm2d { group: NonZeroUsize::new(group), ..plain }.forward(&x, Mode::Eval).unwrap().0;
        assert_eq!(grouped, alone);
    }
}

/// The whole batch as one group is batch norm, bit for bit.
#[test]
fn one_group_of_all_images_changes_nothing() {
    let [x, dy] = ["x", "dy"].map(|name| real(name, (5, 9, 13, 3)).into_shared());
    let results = [None, NonZeroUsize::new(5), NonZeroUsize::new(9)].map(|group| {
        let mut layer = BatchNorm2d::<f32> { gamma: real("gamma", 3), group, ..BatchNorm2d::new(3) };
        let (y, cache) = layer.forward(&x, Mode::Train).unwrap();
        let (dx, grads) = layer.backward(&dy, &cache).unwrap();
        layer.update_running_statistics(&cache);
        let vectors = [grads.gamma, grads.beta, layer.running_mean, layer.running_var];
        let all = y.iter().chain(&dx).chain(vectors.iter().flatten());
        all.map(|value| value.to_bits()).collect::<Vec<_>>()
    });
    assert!(results[1] == results[0] && results[2] == results[0]);
}

#[test]
fn batch_norm_in_evaluation_is_within_its_bound_and_leaves_its_statistics_alone() {
    let (x, dy) = (real("x", (2, 3, 5, 4)), real("dy", (2, 3, 5, 4)));
    let layer = BatchNorm2d {
        gamma: real("gamma", 4),
        beta: real("beta", 4),
        running_mean: real("mean", 4),
        running_var: real("var", 4).mapv(|v: f32| v.abs() + 0.25),
        eps: 0.125,
        ..BatchNorm2d::<f32>::new(4)
    };
    let (mean, var) = (wide(&layer.running_mean), wide(&layer.running_var));
    let (gamma, beta) = (wide(&layer.gamma), wide(&layer.beta));
    let (y, cache) = layer.forward(&x.to_shared(), Mode::Eval).unwrap();
    let (dx, grads) = layer.backward(&dy.to_shared(), &cache).unwrap();
    let bound = bounds::batch_norm(&layer, &x.to_shared(), &dy.to_shared(), Mode::Eval, U32);
    let x_hat =
        Array4::from_shape_fn(x.dim(), |(n, h, w, c)| (f64::from(x[[n, h, w, c]]) - mean[c]) / (var[c] + 0.125).sqrt());
    let dx_reference =
        Array4::from_shape_fn(x.dim(), |(n, h, w, c)| f64::from(dy[[n, h, w, c]]) * gamma[c] / (var[c] + 0.125).sqrt());
    within("batch_norm_eval: y", &y.into_owned(), &(&x_hat * &gamma + &beta), &bound.y);
    within("batch_norm_eval: dx", &dx.into_owned(), &dx_reference, &bound.dx);
    let over_pixels = |a: Array4<f64>| a.into_shape_with_order((30, 4)).unwrap().sum_axis(ndarray::Axis(0));
    within("batch_norm_eval: dgamma", &grads.gamma, &over_pixels(&x_hat * &wide(&dy)), &bound.gamma);
    within("batch_norm_eval: dbeta", &grads.beta, &over_pixels(wide(&dy)), &bound.beta);
    let mut moved = layer.clone();
    moved.update_running_statistics(&cache);
    assert_eq!((moved.running_mean, moved.running_var), (layer.running_mean, layer.running_var));
}

#[test]
fn relu_in_f32_is_exact_and_leaky_relu_rounds_once() {
    let (x, dy) = (real("x", (2, 3, 4, 5)), real("dy", (2, 3, 4, 5)));
    for slope in [0.0f32, 0.1] {
        let relu = Relu::leaky(slope).unwrap();
        let (y, cache) = relu.forward(&x.to_shared());
        let dx = relu.backward(&dy.to_shared(), &cache).unwrap();
        let slope = f64::from(slope);
        let y_reference = wide(&x).mapv(|x| if x > 0.0 { x } else { slope * x });
        let dx_reference =
            ndarray::Zip::from(&wide(&x)).and(&wide(&dy)).map_collect(|&x, &dy| if x > 0.0 { dy } else { slope * dy });
        // slope · x is one product: u |y|.
        within(
            "relu: y",
            &y.into_owned(),
            &y_reference,
            &y_reference.mapv(|y| if slope > 0.0 { U32 * y.abs() } else { 0.0 }),
        );
        within(
            "relu: dx",
            &dx.into_owned(),
            &dx_reference,
            &dx_reference.mapv(|d| if slope > 0.0 { U32 * d.abs() } else { 0.0 }),
        );
    }
}

/// A pooling window from its definition: every pixel (ho·stride + p·dilation − padding, ..) that is in the image.
fn window(
    at: [usize; 2],
    kernel: [usize; 2],
    [stride, padding, dilation]: [[usize; 2]; 3],
    size: [usize; 2],
) -> Vec<[usize; 2]> {
    let axis = |a: usize| -> Vec<usize> {
        let place = |k: usize| (at[a] * stride[a] + k * dilation[a]) as isize - padding[a] as isize;
        (0..kernel[a]).map(place).filter(|&i| i >= 0 && i < size[a] as isize).map(|i| i as usize).collect()
    };
    axis(0).into_iter().flat_map(|r| axis(1).into_iter().map(move |q| [r, q]).collect::<Vec<_>>()).collect()
}

#[test]
fn max_pool_equals_its_definition_and_sums_gradients_within_the_bound() {
    for (h, w, pool) in [
        (9, 8, MaxPool2d::new([3, 3], [2, 2], [1, 1])),
        (7, 10, MaxPool2d::new([2, 3], [1, 2], [1, 0])),
        (11, 9, MaxPool2d { dilation: [2, 3], ..MaxPool2d::new([3, 2], [2, 1], [1, 1]) }),
        (8, 6, MaxPool2d { ceil_mode: true, ..MaxPool2d::new([3, 2], [2, 3], [0, 1]) }),
    ] {
        let x = real("x", (2, h, w, 3));
        let (y, cache) = pool.forward(&x.to_shared()).unwrap();
        let (n, h_out, w_out, c) = y.dim();
        let geometry = [pool.stride, pool.padding, pool.dilation];
        let reference = Array4::from_shape_fn((n, h_out, w_out, c), |(n, ho, wo, c)| {
            let pixels = window([ho, wo], pool.kernel, geometry, [h, w]);
            pixels.iter().map(|&[r, q]| f64::from(x[[n, r, q, c]])).fold(f64::NEG_INFINITY, f64::max)
        });
        equal("max_pool: y", &y.into_owned(), &reference);
        let dy = real("dy", (n, h_out, w_out, c));
        let dx = pool.backward(&dy.to_shared(), &cache).unwrap();
        let dx64 = pool.backward(&wide(&dy).into_shared(), &cache).unwrap();
        let bound = bounds::max_pool(&pool, &x.to_shared(), &dy.to_shared(), U32).unwrap();
        within("max_pool: dx", &dx.into_owned(), &dx64.into_owned(), &bound);
    }
}

#[test]
fn averages_in_f32_are_within_their_bounds_of_the_definition() {
    for (h, w, pool) in [
        (9, 8, AvgPool2d::new([3, 3], [2, 2], [1, 1])),
        (7, 10, AvgPool2d { count_include_pad: false, ..AvgPool2d::new([2, 3], [1, 2], [1, 1]) }),
        (7, 10, AvgPool2d { divisor_override: Some(7), ..AvgPool2d::new([2, 5], [1, 2], [0, 2]) }),
    ] {
        let x = real("x", (2, h, w, 3));
        let (y, cache) = pool.forward(&x.to_shared()).unwrap();
        let dy = real("dy", y.dim());
        let dx = pool.backward(&dy.to_shared(), &cache).unwrap();
        let mut dx_reference = Array4::<f64>::zeros(x.dim());
        let reference = Array4::from_shape_fn(y.dim(), |(n, ho, wo, c)| {
            let pixels = window([ho, wo], pool.kernel, [pool.stride, pool.padding, [1, 1]], [h, w]);
            let divisor = match (pool.divisor_override, pool.count_include_pad) {
                (Some(divisor), _) => divisor,
                (None, true) => pool.kernel[0] * pool.kernel[1],
                (None, false) => pixels.len(),
            } as f64;
            pixels.iter().for_each(|&[r, q]| dx_reference[[n, r, q, c]] += f64::from(dy[[n, ho, wo, c]]) / divisor);
            pixels.iter().map(|&[r, q]| f64::from(x[[n, r, q, c]])).sum::<f64>() / divisor
        });
        let (y_bound, dx_bound) = bounds::avg_pool(&pool, &x.to_shared(), &dy.to_shared(), U32).unwrap();
        within("avg_pool: y", &y.into_owned(), &reference, &y_bound);
        within("avg_pool: dx", &dx.into_owned(), &dx_reference, &dx_bound);
    }
    let (x, dy) = (real("x", (3, 5, 7, 4)), real("dy", (3, 4)));
    let (y, cache) = GlobalAvgPool.forward(&x.to_shared()).unwrap();
    let dx = GlobalAvgPool.backward(&dy, &cache).unwrap();
    let reference = Array2::from_shape_fn((3, 4), |(n, c)| {
        x.slice(ndarray::s![n, .., .., c]).iter().map(|&v| f64::from(v)).sum::<f64>() / 35.0
    });
    let dx_reference = Array4::from_shape_fn(x.dim(), |(n, _, _, c)| f64::from(dy[[n, c]]) / 35.0);
    let (y_bound, dx_bound) = bounds::global_avg_pool(&x.to_shared(), &dy, U32).unwrap();
    within("global_avg_pool: y", &y, &reference, &y_bound);
    within("global_avg_pool: dx", &dx.into_owned(), &dx_reference, &dx_bound);
}

#[test]
fn zero_pad_shortcut_moves_numbers_unchanged() {
    let x = real("x", (2, 5, 7, 3));
    let (y, cache) = ZeroPadShortcut { stride: 2, c_out: 8 }.forward(&x.to_shared()).unwrap();
    // ⌊(8 − 3)/2⌋ = 2 channels of zeros before, 3 after.
    let reference = Array4::from_shape_fn((2, 3, 4, 8), |(n, h, w, c)| {
        if (2..5).contains(&c) { f64::from(x[[n, 2 * h, 2 * w, c - 2]]) } else { 0.0 }
    });
    equal("zero_pad_shortcut: y", &y.into_owned(), &reference);
    let dy = real("dy", (2, 3, 4, 8));
    let dx = ZeroPadShortcut { stride: 2, c_out: 8 }.backward(&dy.to_shared(), &cache).unwrap();
    let reference = Array4::from_shape_fn(x.dim(), |(n, h, w, c)| {
        if h % 2 == 0 && w % 2 == 0 { f64::from(dy[[n, h / 2, w / 2, c + 2]]) } else { 0.0 }
    });
    equal("zero_pad_shortcut: dx", &dx.into_owned(), &reference);
}

#[test]
fn linear_in_f32_is_within_its_bound_of_the_definition() {
    let layer = Linear { weight: real("weight", (10, 300)), bias: real("bias", 10) };
    let (x, dy) = (real("x", (7, 300)), real("dy", (7, 10)));
    let (y, cache) = layer.forward(&x).unwrap();
    let (dx, grads) = layer.backward(&dy, &cache).unwrap();
    let (x64, dy64, weight, bias) = (wide(&x), wide(&dy), wide(&layer.weight), wide(&layer.bias));
    let bound = bounds::linear(&layer, &x, &dy, U32).unwrap();
    let sum = |terms: usize, term: &dyn Fn(usize) -> f64| (0..terms).map(term).sum::<f64>();
    let y64 = Array2::from_shape_fn((7, 10), |(n, o)| bias[o] + sum(300, &|i| weight[[o, i]] * x64[[n, i]]));
    let dx64 = Array2::from_shape_fn((7, 300), |(n, i)| sum(10, &|o| weight[[o, i]] * dy64[[n, o]]));
    let dweight64 = Array2::from_shape_fn((10, 300), |(o, i)| sum(7, &|n| x64[[n, i]] * dy64[[n, o]]));
    let dbias64 = Array1::from_shape_fn(10, |o| sum(7, &|n| dy64[[n, o]]));
    within("linear: y", &y, &y64, &bound.y);
    within("linear: dx", &dx, &dx64, &bound.dx);
    within("linear: dweight", &grads.weight, &dweight64, &bound.weight);
    within("linear: dbias", &grads.bias, &dbias64, &bound.bias.unwrap());
}

#[test]
fn softmax_cross_entropy_in_f32_is_within_its_bound_of_the_definition() {
    let logits = real("logits", (5, 10)) * 4.0;
    let targets = [3, 9, 0, 3, 7];
    for (label_smoothing, reduction) in [(0.0f32, Reduction::Mean), (0.125, Reduction::Mean), (0.25, Reduction::Sum)] {
        let layer = SoftmaxCrossEntropy { label_smoothing, reduction };
        let (loss, cache) = layer.forward(&logits, &targets).unwrap();
        let dlogits = layer.backward(&cache);
        let (epsilon, share) = (f64::from(label_smoothing), if reduction == Reduction::Mean { 0.2 } else { 1.0 });
        let p = |n: usize, k: usize| {
            let z = |k: usize| f64::from(logits[[n, k]]);
            z(k).exp() / (0..10).map(|j| z(j).exp()).sum::<f64>()
        };
        let q = |n: usize, k: usize| (1.0 - epsilon) * f64::from(u8::from(k == targets[n])) + epsilon / 10.0;
        let mut loss64 = 0.0;
        let dlogits64 = Array2::from_shape_fn((5, 10), |(n, k)| {
            loss64 -= share * q(n, k) * p(n, k).ln();
            share * (p(n, k) - q(n, k))
        });
        let (loss_bound, dlogits_bound) = bounds::softmax_cross_entropy(&layer, &logits, &targets, U32).unwrap();
        within("softmax_cross_entropy: loss", &array![loss], &array![loss64], &array![loss_bound]);
        within("softmax_cross_entropy: dlogits", &dlogits, &dlogits64, &dlogits_bound);
    }
}

// ---------------------------------------------------------------------------------------------- kinks

fn row(values: &[f64]) -> Activation<f64> {
    Array4::from_shape_vec((1, 1, values.len(), 1), values.to_vec()).unwrap().into_shared()
}

/// At 0 the convention is the slope of the closed side: ReLU'(0) = 0, whatever the sign of the zero.
#[test]
fn relu_is_closed_at_zero() {
    let x = row(&[0.0, -0.0, f64::MIN_POSITIVE, -f64::MIN_POSITIVE, 1.0]);
    let (_, cache) = Relu::new().forward(&x);
    assert_eq!(Relu::new().backward(&row(&[1.0; 5]), &cache).unwrap(), row(&[0.0, 0.0, 1.0, 0.0, 1.0]));
    let leaky = Relu::leaky(0.25).unwrap();
    let (_, cache) = leaky.forward(&x);
    assert_eq!(leaky.backward(&row(&[1.0; 5]), &cache).unwrap(), row(&[0.25, 0.25, 1.0, 0.25, 1.0]));
}

/// In a tie the first in row order gets the whole gradient; each overlapping window decides independently.
#[test]
fn a_tie_of_the_max_pool_goes_to_the_first() {
    let x =
        Array4::from_shape_vec((1, 3, 3, 1), vec![1.0, 7.0, 7.0, 7.0, 7.0, 7.0, 2.0, 7.0, 7.0]).unwrap().into_shared();
    let pool = MaxPool2d::new([2, 2], [1, 1], [0, 0]);
    let (_, cache) = pool.forward(&x).unwrap();
    assert_eq!(cache.argmax(), [1, 1, 3, 4]);
    let dy = Array4::from_shape_vec((1, 2, 2, 1), vec![1.0, 2.0, 4.0, 8.0]).unwrap().into_shared();
    let dx = pool.backward(&dy, &cache).unwrap();
    assert_eq!(dx.as_slice().unwrap(), [0.0, 3.0, 0.0, 4.0, 8.0, 0.0, 0.0, 0.0, 0.0]);
}

/// The basis of kink-locking: replayed at the base point, the choices give the same values and the same gradients.
#[test]
fn replaying_the_choices_of_the_base_point_changes_nothing_there() {
    use resnet_by_hand::model::ResNet;
    use resnet_by_hand::program::{Disturb, Program, Record, Replay, Undisturbed, Value};
    let architecture = Architecture { stem: Stem::Cifar7x7, ..small("replay", BlockKind::Basic, ShortcutOption::A) };
    let model = ResNet::<f64>::new(&architecture, 5).unwrap();
    let x = wide(&real("x", (2, 9, 7, 3))).into_shared();
    let (logits, cache) = model.forward(&x, Mode::Train).unwrap();
    let dy = wide(&real("dy", logits.dim()));
    let (dx, gradients) = model.backward(&dy, cache).unwrap();

    let program = Program::of_network(&model);
    let mut record = Record::default();
    program.forward(Value::Images(x.clone()), Mode::Train, &mut record).unwrap();
    let mut replay = Replay::new(&program, &record.choices);
    for disturb in [&mut Undisturbed as &mut dyn Disturb<f64>, &mut replay] {
        let forward = program.forward(Value::Images(x.clone()), Mode::Train, disturb).unwrap();
        assert!(matches!(forward.values.last(), Some(Value::Rows(own)) if *own == logits));
        let backward = program.backward(Value::Rows(dy.clone()), &forward, disturb).unwrap();
        assert!(matches!(&backward.values[0], Some(Value::Images(own)) if *own == dx));
        for (name, gradient) in gradients.iter() {
            assert_eq!(backward.parameters.get(name), Some(gradient), "{name}");
        }
    }
}
