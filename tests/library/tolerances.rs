//! The tolerances of the oracle, from both sides: what a correct implementation in f32, TF32, bfloat16 or float16 returns
//! fits, and what is wrong does not.
//!
//! The implementation is written here, sum by sum: operands are rounded to their type, products are exact, sums are formed in
//! `f32`, in order, and results are rounded to the type in which they are stored.

use ndarray::{Array1, Array4, ArrayD, IxDyn};
use resnet_by_hand::layers::{Conv2d, Mode, Relu};
use resnet_by_hand::oracle::arithmetic::Float;
use resnet_by_hand::oracle::compare::Outcome;
use resnet_by_hand::oracle::{Arithmetic, ComputedIn, Goal, Report, Request, compare_as, dump, layer};
use resnet_by_hand::program::{Layer, Program};
use resnet_by_hand::rng::{Purpose, Rng, name_hash, normal, stream};
use resnet_by_hand::tensors::Tensors;

/// Rounds to nearest, ties to even.
fn rounded(x: f64, float: Float) -> f64 {
    let u = float.unit_roundoff();
    if x == 0.0 || !x.is_finite() || u < 1e-15 {
        return x;
    }
    let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(if float == Float::F16 { -14 } else { -126 });
    let unit = 2f64.powi(exponent) * 2.0 * u;
    let whole = (x / unit).round_ties_even() * unit;
    if whole.abs() > float.largest() { f64::INFINITY.copysign(x) } else { whole }
}

/// TF32 as hardware may have it: the last bits are cut off.
fn cut(x: f64) -> f64 {
    f64::from(f32::from_bits((x as f32).to_bits() & !0x1fff))
}

fn drawn(rng: &mut Rng, shape: &[usize], float: Float) -> ArrayD<f64> {
    ArrayD::from_shape_simple_fn(IxDyn(shape), || rounded(normal(rng), float))
}

fn random(name: &str) -> Rng {
    stream(0, Purpose::Verify, &[name_hash("tolerances"), name_hash(name)])
}

/// A convolution with stride 1 and padding 1, forward and backward, in an arithmetic.
struct Kernel {
    operand: Box<dyn Fn(f64) -> f64>,
    stored: Float,
}

impl Kernel {
    fn new(arithmetic: &Arithmetic, cuts: bool) -> Self {
        let operands = arithmetic.operands;
        let operand: Box<dyn Fn(f64) -> f64> =
            if cuts { Box::new(cut) } else { Box::new(move |x| rounded(x, operands)) };
        Kernel { operand, stored: arithmetic.stored }
    }

    fn sum(&self, products: impl Iterator<Item = (f64, f64)>) -> f64 {
        let sum = products.fold(0.0f32, |sum, (a, b)| (f64::from(sum) + (self.operand)(a) * (self.operand)(b)) as f32);
        rounded(sum.into(), self.stored)
    }

    /// `output`, `grad_input`, `grad_weight`, `grad_bias`.
    fn run(&self, input: &Tensors) -> Tensors {
        let get = |name: &str| -> Array4<f64> { input.get(name).unwrap().to_f64().into_dimensionality().unwrap() };
        let (x, w, dy) = (get("input"), get("weight"), get("grad_output"));
        let bias = input.get("bias").unwrap().to_f64();
        let ((n, c, height, width), out) = (x.dim(), w.shape()[0]);
        let taps = || (0..3usize).flat_map(|p| (0..3usize).map(move |q| (p, q)));
        let at = move |i: usize, p: usize, size: usize| (i + p).checked_sub(1).filter(|&i| i < size);
        let mut result = Tensors::new();
        let y = Array4::from_shape_fn((n, out, height, width), |(n, o, i, j)| {
            let products = (0..c)
                .flat_map(|c| taps().map(move |(p, q)| (c, p, q)))
                .filter_map(|(c, p, q)| Some((x[[n, c, at(i, p, height)?, at(j, q, width)?]], w[[o, c, p, q]])));
            let sum = self.sum(products);
            rounded((sum as f32 + bias[[o]] as f32).into(), self.stored)
        });
        let dx = Array4::from_shape_fn((n, c, height, width), |(n, c, h, v)| {
            let products = (0..out).flat_map(|o| taps().map(move |(p, q)| (o, p, q))).filter_map(|(o, p, q)| {
                let (i, j) = ((h + 1).checked_sub(p)?, (v + 1).checked_sub(q)?);
                (i < height && j < width).then(|| (dy[[n, o, i, j]], w[[o, c, p, q]]))
            });
            self.sum(products)
        });
        let pixels = || ndarray::indices((n, height, width)).into_iter();
        let dw = Array4::from_shape_fn(w.dim(), |(o, c, p, q)| {
            let products = pixels()
                .filter_map(|(n, i, j)| Some((x[[n, c, at(i, p, height)?, at(j, q, width)?]], dy[[n, o, i, j]])));
            self.sum(products)
        });
        let db = Array1::from_shape_fn(out, |o| {
            let sum = pixels().fold(0.0f32, |sum, (n, i, j)| sum + dy[[n, o, i, j]] as f32);
            rounded(sum.into(), self.stored)
        });
        result.insert("output", y);
        result.insert("grad_weight", dw);
        result.insert("grad_bias", db);
        result.insert("grad_input", dx);
        result
    }
}

/// Inputs as a user has them: numbers of the type, or (TF32, and the weights of automatic mixed precision) of float32.
fn convolution(name: &str, float: Float, weight: Float) -> Tensors {
    let mut rng = random(name);
    let mut input = Tensors::new();
    input.insert("input", drawn(&mut rng, &[3, 20, 7, 6], float));
    input.insert("weight", drawn(&mut rng, &[24, 20, 3, 3], weight));
    input.insert("bias", drawn(&mut rng, &[24], weight));
    input.insert("grad_output", drawn(&mut rng, &[3, 24, 7, 6], float));
    input
}

fn judged(kind: &str, settings: &str, input: &Tensors, theirs: &Tensors, arithmetic: &Arithmetic) -> Report {
    let ours = layer::run::<f64>(kind, &settings.parse().unwrap(), input, &[*arithmetic]).unwrap();
    compare_as(&ours, theirs, None, &ComputedIn::all(*arithmetic)).unwrap()
}

fn share(report: &Report) -> f64 {
    report.tensors.iter().map(|verdict| verdict.share()).fold(0.0, f64::max)
}

/// The tensor with every element multiplied.
fn scaled(theirs: &Tensors, name: &str, factor: f64) -> Tensors {
    let mut other = Tensors::new();
    other.insert(name, theirs.get(name).unwrap().to_f64() * factor);
    other
}

#[test]
fn a_convolution_fits_in_every_arithmetic_and_a_wrong_one_in_none() {
    for (text, stored, weights, cuts) in [
        ("f32", Float::F32, Float::F32, false),
        ("tf32", Float::F32, Float::F32, false),
        ("tf32", Float::F32, Float::F32, true),
        ("bf16", Float::BF16, Float::BF16, false),
        ("bf16", Float::BF16, Float::F32, false),
        ("fp16", Float::F16, Float::F16, false),
        ("bf16,stored=f32", Float::BF16, Float::BF16, false),
    ] {
        let arithmetic: Arithmetic = text.parse().unwrap();
        let input = convolution(text, stored, weights);
        let theirs = Kernel::new(&arithmetic, cuts).run(&input);
        let judge = |theirs: &Tensors| judged("conv2d", "padding=1", &input, theirs, &arithmetic);
        let report = judge(&theirs);
        assert!(report.passed() && report.tried() == 4, "{text}: {:?}", report.first());
        // Bits that are cut off are twice the error of rounding.
        let most = if cuts { 1.0 } else { 0.51 };
        assert!(share(&report) < most && share(&report) > 0.01, "{text}: {:?}", report.tensors);

        // Gradients scaled by 0.98, or 0.999 in f32, zeros, and one tap forgotten.
        let factor = if text == "f32" { 0.999 } else { 0.98 };
        for name in ["output", "grad_weight", "grad_input"] {
            for factor in [factor, 2.0 - factor, 0.0, -1.0] {
                assert!(!judge(&scaled(&theirs, name, factor)).passed(), "{text}: {name} times {factor}");
            }
        }
        let dw: Array4<f64> = theirs.get("grad_weight").unwrap().to_f64().into_dimensionality().unwrap();
        let dw = Array4::from_shape_fn(dw.dim(), |(o, c, p, q)| if p + q == 0 { 0.0 } else { dw[[o, c, p, q]] });
        let mut wrong = theirs.clone();
        wrong.insert("grad_weight", dw);
        assert!(matches!(judge(&wrong).first().unwrap().outcome, Outcome::Leaves(count) if count > 400), "{text}");
        // What was computed in a narrower type does not pass for the wider one.
        if text != "f32" && text != "bf16,stored=f32" {
            assert!(!judged("conv2d", "padding=1", &input, &theirs, &Arithmetic::F32).passed(), "{text}");
        }
    }
}

/// Where terms cancel, the tolerance has the size of the terms: the gradient of a bias before a batch norm, p − target of an
/// image that has been learnt, the mean of a standardised image, a constant channel.
#[test]
fn what_cancels_is_judged_by_the_size_of_its_terms() {
    let one = |x: &[f64], shape: &[usize]| ArrayD::from_shape_vec(shape, x.to_vec()).unwrap();
    let tensors = |entries: &[(&str, ArrayD<f64>)]| {
        let mut tensors = Tensors::new();
        entries.iter().for_each(|(name, tensor)| tensors.insert(*name, tensor.clone()));
        tensors
    };
    let single = |x: f64| f64::from(x as f32);
    // 0.1 + 0.2 − 0.3 in float32.
    let terms = [single(0.1), single(0.2), single(-0.3)];
    let sum = (0.1f32 + 0.2) - 0.3;
    let mut linear = tensors(&[("input", one(&[1.0, 2.0, 3.0], &[3, 1])), ("weight", one(&[1.0], &[1, 1]))]);
    linear.insert("bias", one(&[0.0], &[1]));
    linear.insert("grad_output", one(&terms, &[3, 1]));
    let pool = tensors(&[("input", one(&terms, &[1, 1, 1, 3]))]);
    for (kind, input, name, theirs) in [
        ("linear", &linear, "grad_bias", one(&[sum.into()], &[1])),
        ("global_avg_pool", &pool, "output", one(&[(sum / 3.0).into()], &[1, 1])),
    ] {
        let judge = |theirs: ArrayD<f64>| judged(kind, "", input, &tensors(&[(name, theirs)]), &Arithmetic::F32);
        assert!(judge(theirs.clone()).passed(), "{kind}");
        assert!(!judge(theirs + 1e-6).passed(), "{kind}");
    }
    // p = 1 − 3.4e-4 of an image whose loss is 3.4e-4, computed in float32.
    let mut learnt = tensors(&[("input", one(&[8.0, 0.0], &[1, 2]))]);
    learnt.insert("target", ndarray::arr1(&[0i64]));
    let (p, q) = (1.0f32 / (1.0 + (-8.0f32).exp()), (-8.0f32).exp() / (1.0 + (-8.0f32).exp()));
    let theirs = |more: f32| tensors(&[("grad_input", one(&[(p - 1.0 + more).into(), q.into()], &[1, 2]))]);
    assert!(judged("softmax_cross_entropy", "", &learnt, &theirs(0.0), &Arithmetic::F32).passed());
    assert!(!judged("softmax_cross_entropy", "", &learnt, &theirs(3e-5), &Arithmetic::F32).passed());
    // A constant channel: x − mean is the rounding error of the mean, times 1/√eps.
    let norm = tensors(&[("input", ArrayD::from_elem(vec![1, 1, 7, 7], single(137.7)))]);
    let error = 316.0 * f64::from(2f32.powi(-17));
    let theirs = |x: f64| tensors(&[("output", ArrayD::from_elem(vec![1, 1, 7, 7], x))]);
    assert!(judged("batch_norm", "", &norm, &theirs(error), &Arithmetic::F32).passed());
    assert!(!judged("batch_norm", "", &norm, &theirs(1.0), &Arithmetic::F32).passed());
}

/// Terms that are alike one after another: x is constant and dy smooth, with the sum 0. The partial sums are far larger than Σ t
/// and than √Σ t², and so are their errors. A module after one that returns zeros has such an input.
#[test]
fn partial_sums_may_be_larger_than_the_sum() {
    let (mut rng, side) = (random("smooth"), 64);
    let wave = |i: usize| (std::f64::consts::TAU * (i as f64 + 0.5) / side as f64).cos();
    let mut input = convolution("smooth", Float::F32, Float::F32);
    let constants = drawn(&mut rng, &[6], Float::F32);
    input.insert("input", ArrayD::from_shape_fn(vec![1, 4, side, side], |at| constants[[at[1]]]));
    input.insert("weight", drawn(&mut rng, &[2, 4, 3, 3], Float::F32));
    input.insert("bias", drawn(&mut rng, &[2], Float::F32));
    let dy = |at: IxDyn| constants[[4 + at[1]]] * wave(at[2]) + 1e-3 * normal(&mut rng);
    let dy = ArrayD::from_shape_fn(vec![1, 2, side, side], dy).mapv(|x| rounded(x, Float::F32));
    input.insert("grad_output", dy.clone());
    let theirs = Kernel::new(&Arithmetic::F32, false).run(&input);
    let report = judged("conv2d", "padding=1", &input, &theirs, &Arithmetic::F32);
    assert!(report.passed() && share(&report) < 0.6, "{:?}", report.tensors);

    let sum = dy.iter().take(side * side).fold(0.0f32, |sum, &dy| sum + dy as f32);
    let (mut pool, mut mean) = (Tensors::new(), Tensors::new());
    pool.insert(
        "input",
        dy.slice_each_axis(|axis| (0..if axis.axis.index() == 1 { 1 } else { axis.len as isize }).into()).to_owned(),
    );
    mean.insert("output", ArrayD::from_elem(vec![1, 1], f64::from(sum / (side * side) as f32)));
    assert!(judged("global_avg_pool", "", &pool, &mean, &Arithmetic::F32).passed());
    // Nothing else has become wider: a thousandth of a gradient that is no rounding error is seen.
    for name in ["output", "grad_input"] {
        let wrong = scaled(&theirs, name, 0.999);
        assert!(!judged("conv2d", "padding=1", &input, &wrong, &Arithmetic::F32).passed(), "{name}");
    }
}

/// Equal terms are all rounded in the same direction. They are equal within a channel of x and of dy, however many channels there are.
#[test]
fn equal_terms_of_a_channel_are_rounded_alike() {
    let (mut rng, rows, features) = (random("equal"), 4096, 32);
    let (of_x, of_dy) = (drawn(&mut rng, &[features], Float::F32), drawn(&mut rng, &[features], Float::F32));
    let mut input = Tensors::new();
    input.insert("input", ArrayD::from_shape_fn(vec![rows, features], |at| of_x[[at[1]]]));
    input.insert("weight", drawn(&mut rng, &[features, features], Float::F32));
    input.insert("grad_output", ArrayD::from_shape_fn(vec![rows, features], |at| of_dy[[at[1]]]));
    let kernel = Kernel::new(&Arithmetic::F32, false);
    let sum = |at: IxDyn| kernel.sum(std::iter::repeat_n((of_dy[[at[0]]], of_x[[at[1]]]), rows));
    let mut theirs = Tensors::new();
    theirs.insert("grad_weight", ArrayD::from_shape_fn(vec![features, features], sum));
    let report = judged("linear", "", &input, &theirs, &Arithmetic::F32);
    assert!(report.passed(), "{:?}", report.first());
}

/// Two gates within rounding of 0 that open by chance change dx by dy and by −dy. Turned together in one group they would cancel,
/// and one of them alone would be more than is allowed.
/// Terms of one sign that are smaller than half a unit in the last place of a large partial sum are lost, all of them.
#[test]
fn lost_terms_are_allowed_for() {
    let mut rng = random("lost terms");
    // The first image makes the sum large, about 5,000, where a unit in the last place is 4.9e-4; in the others x is nearly 0, and
    // its products with dy, 1.4e-4, are less than half of that.
    let shape = [8, 1, 32, 32];
    let (mut x, mut dy) = (drawn(&mut rng, &shape, Float::F32), drawn(&mut rng, &shape, Float::F32));
    for ((n, ..), x) in x.view_mut().into_dimensionality::<ndarray::Ix4>().unwrap().indexed_iter_mut() {
        *x = if n == 0 { x.abs() } else { f64::from((0.002 + 1e-4 * *x) as f32) };
    }
    for ((n, ..), dy) in dy.view_mut().into_dimensionality::<ndarray::Ix4>().unwrap().indexed_iter_mut() {
        *dy = if n == 0 { 8.0 * dy.abs() } else { f64::from((0.07 + 1e-3 * *dy) as f32) };
    }
    let sum = x.iter().zip(&dy).fold(0f32, |sum, (x, dy)| sum + (x * dy) as f32);
    let mut input = Tensors::new();
    for (name, values) in [("input", x), ("weight", ArrayD::ones(vec![1, 1, 1, 1])), ("grad_output", dy)] {
        input.insert(name, values);
    }
    let theirs = |sum: f32| {
        let mut theirs = Tensors::new();
        theirs.insert("grad_weight", ArrayD::from_elem(vec![1, 1, 1, 1], sum));
        theirs
    };
    let judge = |sum| judged("conv2d", "", &input, &theirs(sum), &Arithmetic::F32);
    let report = judge(sum);
    assert!(report.passed() && share(&report) > 0.2, "{:?}", report.first());
    assert!(!judge(0.999 * sum).passed());
}

/// In evaluation the gradient of a batch norm's input is that of its result times one number in each channel, whose rounding all
/// elements share: with many of them, their mean error is this one.
#[test]
fn a_channel_in_evaluation_has_one_factor() {
    let mut rng = random("one factor");
    let (mut most, f32s) = (0.0f64, |x: f64| f64::from(x as f32));
    for _ in 0..50 {
        let mut input = Tensors::new();
        input.insert("input", drawn(&mut rng, &[1, 2, 40, 50], Float::F32));
        input.insert("grad_output", drawn(&mut rng, &[1, 2, 40, 50], Float::F32));
        let [weight, mean] = [0; 2].map(|_| drawn(&mut rng, &[2], Float::F32));
        let var = drawn(&mut rng, &[2], Float::F32).mapv(|x| f32s(x * x) + 1.0);
        let mut theirs = input.get("grad_output").unwrap().to_f64();
        for (c, mut dx) in theirs.axis_iter_mut(ndarray::Axis(1)).enumerate() {
            let factor = f32s(weight[[c]] * f32s(1.0 / f32s(f32s(var[[c]] + f32s(1e-5)).sqrt())));
            dx.mapv_inplace(|dy| f32s(dy * factor));
        }
        let mut results = Tensors::new();
        results.insert("grad_input", theirs.mapv(|x| x as f32));
        for (name, values) in [("weight", weight), ("running_mean", mean), ("running_var", var)] {
            input.insert(name, values);
        }
        most = most.max(share(&judged("batch_norm", "mode=eval", &input, &results, &Arithmetic::F32)));
    }
    assert!((0.05..0.5).contains(&most), "{most}");
}

#[test]
fn gates_that_cancel_are_allowed_for_one_by_one() {
    let images = |value: &dyn Fn(usize) -> f64, shape: [usize; 4]| Array4::from_shape_fn(shape, |at| value(at.1));
    let signs = |channel: usize| if channel == 0 { 1.0 } else { -1.0 };
    let conv = |weight: Array4<f64>| {
        Layer::Conv2d(Conv2d { weight, bias: None, stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 })
    };
    let mut program = Program::new();
    // x − x twice, two ReLUs, and the difference of their results.
    let both = program.push("conv1", conv(images(&signs, [2, 2, 1, 1])), 0);
    let relu = program.push("relu", Layer::Relu(Relu::new()), both);
    program.push("conv2", conv(images(&signs, [1, 2, 1, 1])), relu);
    let (x, dy) = (images(&|_| 1.5, [1, 2, 24, 24]), images(&|_| 1.0, [1, 1, 24, 24]));
    let mut request = Request::new(Mode::Train, Goal::GradOutput(dy.into()));
    request.computed_in = vec![Arithmetic::BF16];
    let ours = dump::<f64>(&program, &x.into(), &request).unwrap();
    assert!(ours.get("grad_input").unwrap().to_f64().iter().all(|&dx| dx == 0.0));
    let allowed = ours.get("tolerance.bf16.grad_input").unwrap().to_f64();
    let narrow = allowed.iter().filter(|&&allowed| allowed < 1.0).count();
    assert_eq!(narrow, 0, "of {}", allowed.len());
}

/// Copies have no tolerance, and a kink concerns only the elements that its gate reaches.
#[test]
fn exact_values_stay_exact() {
    let mut rng = random("exact");
    let mut input = Tensors::new();
    input.insert("input", drawn(&mut rng, &[2, 3, 6, 6], Float::F32));
    input.insert("grad_output", drawn(&mut rng, &[2, 3, 6, 6], Float::F32));
    let ours = layer::run::<f64>("relu", &"".parse().unwrap(), &input, &[Arithmetic::F32]).unwrap();
    for name in ["output", "grad_input"] {
        let tolerance = ours.get(&format!("tolerance.f32.{name}")).unwrap().to_f64();
        assert!(tolerance.iter().all(|&tolerance| tolerance == 0.0), "{name}");
    }
    // In bfloat16 these numbers have to be rounded first.
    let ours = layer::run::<f64>("relu", &"".parse().unwrap(), &input, &[Arithmetic::BF16]).unwrap();
    assert!(ours.get("tolerance.bf16.output").unwrap().to_f64().iter().any(|&tolerance| tolerance > 0.0));
}
