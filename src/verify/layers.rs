//! Every layer's backward pass against differences of its forward pass, entry by entry.
//!
//! The geometries are chosen to expose mistakes: n, h, w, channels and kernel sides all different, strides with leftover
//! rows, asymmetric padding and dilation, groups, one value per channel. Every entry of the input and of every parameter
//! is probed.
//!
//! How the points stay away from kinks: wherever a layer has them, values are multiples of 4 (ReLU: none of them 0; max
//! pooling: all different), and the step is 1. So every value is at least 4 from the kink or tie at which something flips,
//! more than the 2h by which two values can approach each other; the layer is linear on the whole step and the
//! difference is exact. What the layers do *at* a kink is a convention, tested separately.
//!
//! ```
//! for report in resnet_by_hand::verify::check_layer("linear", 1)? {
//!     println!("{report}");
//!     assert!(report.passed() && report.worst_absolute == 0.0);
//! }
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use super::compare::{Tolerance, compare, exceeds};
use super::finite_difference::{Step, derivative};
use crate::layers::{
    AvgPool2d, BatchNorm2d, Conv2d, GlobalAvgPool, Linear, MaxPool2d, Mode, Reduction, Relu, SoftmaxCrossEntropy,
    ZeroPadShortcut,
};
use crate::rng::{Purpose, Rng, name_hash, stream};
use crate::{Activation, Error, Result};
use ndarray::{Array, Array1, Array2, Array4, Dimension, ShapeBuilder};
use rand::RngExt as _;
use std::fmt;
use std::num::NonZeroUsize;

/// Every layer with a check, in the order of reading.
const LAYERS: &[(&str, Check)] = &[
    ("conv2d", conv2d),
    ("batch_norm", batch_norm),
    ("batch_norm_eval", batch_norm_eval),
    ("relu", relu),
    ("leaky_relu", leaky_relu),
    ("max_pool", max_pool),
    ("avg_pool", avg_pool),
    ("global_avg_pool", global_avg_pool),
    ("linear", linear),
    ("zero_pad_shortcut", zero_pad_shortcut),
    ("softmax_cross_entropy", softmax_cross_entropy),
];

type Check = fn(&mut Draw) -> Result<Vec<TensorReport>>;

/// The names [`check_layer`] knows.
pub fn known_layers() -> Vec<&'static str> {
    LAYERS.iter().map(|(name, _)| *name).collect()
}

/// Checks the gradients of the layer called `name` at random points drawn from `seed`: one report per geometry and tensor.
///
/// # Errors
/// If there is no such layer.
pub fn check_layer(name: &str, seed: u64) -> Result<Vec<TensorReport>> {
    let Some((_, check)) = LAYERS.iter().find(|(known, _)| *known == name) else {
        let known = known_layers().into_iter().map(str::to_string).collect();
        return Err(Error::Unknown { kind: "layer", name: name.to_string(), known });
    };
    check(&mut Draw(stream(seed, Purpose::Verify, &[name_hash(name)])))
}

/// How the gradient of one tensor compares with differences.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorReport {
    /// The layer, e.g. `conv2d`.
    pub layer: String,
    /// The geometry.
    pub case: String,
    /// The tensor: `input`, `weight`, ...
    pub tensor: String,
    /// Number of derivatives measured.
    pub probes: usize,
    /// Largest |analytic − measured|; NaN if any is, or if the gradient does not have the tensor's shape.
    pub worst_absolute: f64,
    /// The same relative to the largest entry of the gradient.
    pub worst_relative: f64,
    /// The largest error the model of [`super::finite_difference`] admits; 0 where the difference is exact.
    pub tolerance: f64,
}

impl TensorReport {
    /// Whether the worst error is within the tolerance.
    pub fn passed(&self) -> bool {
        !exceeds(self.worst_absolute, self.tolerance)
    }

    /// The header of the table whose rows [`Display`](fmt::Display) writes.
    pub fn table_header() -> String {
        format!(
            "{:<22} {:<44} {:<8} {:>6} {:>10} {:>10} {:>10}",
            "layer", "case", "tensor", "probes", "error", "relative", "tolerance"
        )
    }
}

impl fmt::Display for TensorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TensorReport { layer, case, tensor, probes, .. } = self;
        write!(f, "{layer:<22} {case:<44} {tensor:<8} {probes:>6} ")?;
        write!(f, "{:>10.1e} {:>10.1e} {:>10.1e}", self.worst_absolute, self.worst_relative, self.tolerance)?;
        f.write_str(if self.passed() { "  ok" } else { "  WRONG" })
    }
}

/// Random points.
pub(super) struct Draw(pub(super) Rng);

impl Draw {
    /// Integers from −6 to 6 times `unit`.
    fn whole<D: Dimension>(&mut self, shape: impl ShapeBuilder<Dim = D>, unit: i32) -> Array<f64, D> {
        Array::from_shape_simple_fn(shape, || f64::from(unit * self.0.random_range(-6..=6)))
    }

    /// Multiples of 4 from −24 to 24 without 0.
    fn away_from_zero<D: Dimension>(&mut self, shape: impl ShapeBuilder<Dim = D>) -> Array<f64, D> {
        let mut one = || f64::from(4 * self.0.random_range(1..=6) * (2 * self.0.random_range(0..=1) - 1));
        Array::from_shape_simple_fn(shape, &mut one)
    }

    /// Multiples of 4, positive and negative, all different.
    fn all_different<D: Dimension>(&mut self, shape: impl ShapeBuilder<Dim = D>) -> Array<f64, D> {
        let mut x = Array::zeros(shape);
        let mut values: Vec<f64> = (0..x.len()).map(|i| 4.0 * (i as f64 - (x.len() / 2) as f64)).collect();
        // Fisher–Yates
        for i in (1..values.len()).rev() {
            values.swap(i, self.0.random_range(0..=i));
        }
        x.iter_mut().zip(values).for_each(|(x, value)| *x = value);
        x
    }

    /// Uniform in (−2, 2), on a grid of 2⁻²⁰ so that adding a step that is a power of two above 2⁻³⁰ is exact.
    pub(super) fn real<D: Dimension>(&mut self, shape: impl ShapeBuilder<Dim = D>) -> Array<f64, D> {
        let grid = 2f64.powi(-20);
        Array::from_shape_simple_fn(shape, || f64::from(self.0.random_range(-(1 << 21) + 1..1 << 21)) * grid)
    }
}

/// A layer at one point: what is needed to probe its tensors.
struct Case {
    layer: &'static str,
    case: String,
    dy: Vec<f64>,
    step: Step,
}

impl Case {
    fn new<D: Dimension>(layer: &'static str, case: String, dy: &Array<f64, D>, step: Step) -> Self {
        Case { layer, case, dy: dy.iter().copied().collect(), step }
    }

    /// Probes every entry of `tensor`, at which the layer's outputs are `y(&tensor)`.
    fn check<D: Dimension>(
        &self,
        name: &str,
        tensor: &Array<f64, D>,
        gradient: &Array<f64, D>,
        y: impl Fn(Array<f64, D>) -> Result<Vec<f64>>,
    ) -> Result<TensorReport> {
        let scale = gradient.iter().fold(0.0, |scale: f64, g| scale.max(g.abs()));
        let mut tolerance = 0.0f64;
        let mut measured = Vec::with_capacity(tensor.len());
        for entry in 0..tensor.len() {
            let moved = |t: f64| {
                let mut tensor = tensor.clone();
                *tensor.iter_mut().nth(entry).expect("an entry of the tensor") += t;
                y(tensor)
            };
            let estimate = derivative(&self.dy, &moved, self.step)?;
            measured.push(estimate.value);
            if exceeds(estimate.tolerance(scale), tolerance) {
                tolerance = estimate.tolerance(scale);
            }
        }
        let measured = Array::from_shape_vec(tensor.raw_dim(), measured).expect("one value per entry");
        let comparison = compare(gradient, &measured, Tolerance::Absolute(tolerance));
        Ok(TensorReport {
            layer: self.layer.to_string(),
            case: self.case.clone(),
            tensor: name.to_string(),
            probes: tensor.len(),
            worst_absolute: comparison.worst_absolute,
            worst_relative: comparison.worst_scaled,
            tolerance,
        })
    }
}

/// The elements of an activation in memory order.
fn flat<D: Dimension>(y: &ndarray::ArcArray<f64, D>) -> Vec<f64> {
    y.iter().copied().collect()
}

const EXACT: Step = Step::Exact { h: 1.0 };

fn conv2d(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    // label, (n, h, w, c_in, c_out), kernel, stride, padding, dilation, groups, bias
    type Row = (&'static str, [usize; 5], [usize; 2], [usize; 2], [usize; 2], [usize; 2], usize, bool);
    const ROWS: &[Row] = &[
        ("3x3, padding 1", [2, 6, 5, 3, 4], [3, 3], [1, 1], [1, 1], [1, 1], 1, false),
        ("3x3, stride 2, leftover row, bias", [2, 6, 7, 3, 5], [3, 3], [2, 2], [1, 1], [1, 1], 1, true),
        ("3x2, stride 2x3, padding 0x1", [2, 8, 7, 3, 4], [3, 2], [2, 3], [0, 1], [1, 1], 1, false),
        ("2x4, stride 1x2, padding 3x2, dilation 2x1", [2, 5, 7, 2, 3], [2, 4], [1, 2], [3, 2], [2, 1], 1, true),
        ("3x3, dilation 2, padding 2", [2, 6, 7, 2, 3], [3, 3], [1, 1], [2, 2], [2, 2], 1, false),
        ("1x1, stride 2", [3, 5, 4, 3, 4], [1, 1], [2, 2], [0, 0], [1, 1], 1, false),
        ("1x1, stride 1x2", [2, 3, 5, 3, 4], [1, 1], [1, 2], [0, 0], [1, 1], 1, false),
        ("1x1, padding 1x0", [2, 3, 4, 3, 2], [1, 1], [1, 1], [1, 0], [1, 1], 1, true),
        ("1x1", [3, 5, 4, 2, 5], [1, 1], [1, 1], [0, 0], [1, 1], 1, true),
        ("3x2, 2 groups, stride 2x1", [2, 5, 4, 6, 4], [3, 2], [2, 1], [1, 0], [1, 1], 2, false),
        ("1x1, 3 groups", [2, 3, 4, 6, 9], [1, 1], [1, 1], [0, 0], [1, 1], 3, false),
        ("depthwise 3x3, multiplier 2, dilation 1x2", [2, 5, 6, 3, 6], [3, 3], [1, 1], [1, 2], [1, 2], 3, true),
        ("7x7, stride 2, padding 3", [1, 9, 8, 2, 3], [7, 7], [2, 2], [3, 3], [1, 1], 1, false),
        ("3x3 on one pixel", [2, 1, 1, 3, 2], [3, 3], [1, 1], [1, 1], [1, 1], 1, false),
    ];
    let mut reports = Vec::new();
    for &(label, [n, h, w, c_in, c_out], [kh, kw], stride, padding, dilation, groups, bias) in ROWS {
        let weight = draw.whole((c_out, c_in / groups, kh, kw), 1);
        let bias = bias.then(|| draw.whole(c_out, 1));
        let layer = Conv2d { bias, stride, padding, dilation, groups, ..Conv2d::new(weight) };
        let x = draw.whole((n, h, w, c_in), 1);
        let (y, cache) = layer.forward(&x.to_shared())?;
        let dy = draw.whole(y.dim(), 1);
        let (dx, grads) = layer.backward(&dy.to_shared(), &cache)?;
        let case = Case::new("conv2d", label.to_string(), &dy, EXACT);
        let at = |layer: &Conv2d<f64>, x: &Array4<f64>| Ok(flat(&layer.forward(&x.to_shared())?.0));
        reports.push(case.check("input", &x, &dx.into_owned(), |x| at(&layer, &x))?);
        reports.push(
            case.check("weight", &layer.weight, &grads.weight, |weight| at(&Conv2d { weight, ..layer.clone() }, &x))?,
        );
        if let (Some(bias), Some(dbias)) = (&layer.bias, &grads.bias) {
            reports
                .push(case.check("bias", bias, dbias, |bias| at(&Conv2d { bias: Some(bias), ..layer.clone() }, &x))?);
        }
    }
    Ok(reports)
}

/// Probes input, gamma and beta of a batch norm.
fn check_batch_norm(
    draw: &mut Draw,
    (name, label): (&'static str, &str),
    layer: &BatchNorm2d<f64>,
    x: &Array4<f64>,
    (mode, step): (Mode, Step),
) -> Result<Vec<TensorReport>> {
    let (y, cache) = layer.forward(&x.to_shared(), mode)?;
    let dy = if mode == Mode::Eval { draw.whole(y.dim(), 1) } else { draw.real(y.dim()) };
    let (dx, grads) = layer.backward(&dy.to_shared(), &cache)?;
    let case = Case::new(name, label.to_string(), &dy, step);
    let at = |layer: &BatchNorm2d<f64>, x: &Array4<f64>| Ok(flat(&layer.forward(&x.to_shared(), mode)?.0));
    Ok(vec![
        case.check("input", x, &dx.into_owned(), |x| at(layer, &x))?,
        case.check("gamma", &layer.gamma, &grads.gamma, |gamma| at(&BatchNorm2d { gamma, ..layer.clone() }, x))?,
        case.check("beta", &layer.beta, &grads.beta, |beta| at(&BatchNorm2d { beta, ..layer.clone() }, x))?,
    ])
}

/// Training: curved in x, through mean and variance. K of the error model: m values in each mean and variance.
fn batch_norm(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    let mut reports = Vec::new();
    for (label, (n, h, w, c), eps, group) in [
        ("4x3x2 values a channel", (4, 3, 2, 5), 1e-5, 0),
        ("large eps: its place in the root shows", (3, 2, 5, 2), 0.5, 0),
        ("two values a channel", (2, 1, 1, 3), 0.5, 0),
        ("two leaves of the sum, the second short", (2, 10, 13, 2), 1e-5, 0),
        ("one channel", (1, 3, 7, 1), 1e-3, 0),
        ("three groups of two images", (6, 3, 2, 4), 1e-5, 2),
        ("groups of one, two and two images", (5, 2, 3, 3), 0.5, 2),
    ] {
        let group = NonZeroUsize::new(group);
        let layer = BatchNorm2d { gamma: draw.real(c), beta: draw.real(c), eps, group, ..BatchNorm2d::new(c) };
        let x = draw.real((n, h, w, c));
        let step = Step::Smooth { h: 2f64.powi(-7), terms: n * h * w };
        reports.extend(check_batch_norm(draw, ("batch_norm", label), &layer, &x, (Mode::Train, step))?);
    }
    Ok(reports)
}

/// Evaluation: linear in x. With var + eps = 4ᵏ the reciprocal root is a power of two, and everything is exact.
fn batch_norm_eval(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    let mut reports = Vec::new();
    for (label, (n, h, w, c)) in [("2x3x4 values a channel", (2, 3, 4, 5)), ("one value a channel", (1, 1, 1, 3))] {
        let eps = 2f64.powi(-10);
        let layer = BatchNorm2d {
            gamma: draw.whole(c, 1),
            beta: draw.whole(c, 1),
            running_mean: draw.whole(c, 1),
            running_var: Array1::from_shape_fn(c, |k| 4f64.powi(k as i32 - 1) - eps),
            eps,
            ..BatchNorm2d::new(c)
        };
        let x = draw.whole((n, h, w, c), 1);
        reports.extend(check_batch_norm(draw, ("batch_norm_eval", label), &layer, &x, (Mode::Eval, EXACT))?);
    }
    Ok(reports)
}

fn relu(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    check_relu(draw, "relu", "slope 0", Relu::new())
}

fn leaky_relu(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    check_relu(draw, "leaky_relu", "slope 1/8", Relu::leaky(0.125)?)
}

fn check_relu(draw: &mut Draw, name: &'static str, label: &str, layer: Relu<f64>) -> Result<Vec<TensorReport>> {
    let x = draw.away_from_zero((2, 3, 4, 5));
    let (y, cache) = layer.forward(&x.to_shared());
    let dy = draw.whole(y.dim(), 1);
    let dx = layer.backward(&dy.to_shared(), &cache)?;
    let case = Case::new(name, label.to_string(), &dy, EXACT);
    Ok(vec![case.check("input", &x, &dx.into_owned(), |x| Ok(flat(&layer.forward(&x.into_shared()).0)))?])
}

fn max_pool(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    let plain = MaxPool2d::new;
    let mut reports = Vec::new();
    for (label, (n, h, w, c), layer) in [
        ("3x3, stride 2, padding 1", (2, 7, 6, 3), plain([3, 3], [2, 2], [1, 1])),
        ("3x3, stride 1, padding 1", (2, 4, 5, 3), plain([3, 3], [1, 1], [1, 1])),
        ("2x3, stride 3x2, padding 1x0", (3, 8, 7, 2), plain([2, 3], [3, 2], [1, 0])),
        ("3x2, dilation 2x3", (2, 8, 9, 2), MaxPool2d { dilation: [2, 3], ..plain([3, 2], [1, 2], [1, 1]) }),
        ("3x2, stride 2x3, ceil", (2, 6, 9, 3), MaxPool2d { ceil_mode: true, ..plain([3, 2], [2, 3], [1, 0]) }),
    ] {
        let x = draw.all_different((n, h, w, c));
        let (y, cache) = layer.forward(&x.to_shared())?;
        let dy = draw.whole(y.dim(), 1);
        let dx = layer.backward(&dy.to_shared(), &cache)?;
        let case = Case::new("max_pool", label.to_string(), &dy, EXACT);
        reports.push(case.check("input", &x, &dx.into_owned(), |x| Ok(flat(&layer.forward(&x.into_shared())?.0)))?);
    }
    Ok(reports)
}

fn avg_pool(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    // The least common multiple of 1..=12: every divisor divides every sum exactly.
    const UNIT: i32 = 27720;
    let plain = AvgPool2d::new;
    let mut reports = Vec::new();
    for (label, (n, h, w, c), layer) in [
        ("2x2, stride 2, leftover column", (2, 4, 5, 3), plain([2, 2], [2, 2], [0, 0])),
        ("3x4, stride 2x3, padding 1x2", (2, 6, 7, 3), plain([3, 4], [2, 3], [1, 2])),
        (
            "3x3, padding 1, not counted",
            (2, 4, 5, 3),
            AvgPool2d { count_include_pad: false, ..plain([3, 3], [1, 1], [1, 1]) },
        ),
        (
            "3x2, stride 2x3, padding 1x0, ceil",
            (2, 6, 9, 2),
            AvgPool2d { ceil_mode: true, ..plain([3, 2], [2, 3], [1, 0]) },
        ),
        (
            "3x2, ceil, padding not counted",
            (2, 6, 9, 2),
            AvgPool2d { ceil_mode: true, count_include_pad: false, ..plain([3, 2], [2, 3], [1, 1]) },
        ),
        ("2x3, divisor 5", (1, 4, 5, 2), AvgPool2d { divisor_override: Some(5), ..plain([2, 3], [1, 2], [1, 1]) }),
    ] {
        let x = draw.whole((n, h, w, c), UNIT);
        let (y, cache) = layer.forward(&x.to_shared())?;
        let dy = draw.whole(y.dim(), UNIT);
        let dx = layer.backward(&dy.to_shared(), &cache)?;
        let case = Case::new("avg_pool", label.to_string(), &dy, Step::Exact { h: f64::from(UNIT) });
        reports.push(case.check("input", &x, &dx.into_owned(), |x| Ok(flat(&layer.forward(&x.into_shared())?.0)))?);
    }
    Ok(reports)
}

fn global_avg_pool(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    // Multiples of the number of pixels, so that every mean is an integer.
    let (n, h, w, c) = (2, 3, 5, 4);
    let pixels = 15;
    let x = draw.whole((n, h, w, c), pixels);
    let (y, cache) = GlobalAvgPool.forward(&x.to_shared())?;
    let dy = draw.whole(y.dim(), pixels);
    let dx = GlobalAvgPool.backward(&dy, &cache)?;
    let case = Case::new("global_avg_pool", "3x5 pixels".to_string(), &dy, Step::Exact { h: f64::from(pixels) });
    let at = |x: Array4<f64>| Ok(GlobalAvgPool.forward(&x.into_shared())?.0.into_iter().collect());
    Ok(vec![case.check("input", &x, &dx.into_owned(), at)?])
}

fn linear(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    let layer = Linear { weight: draw.whole((5, 7), 1), bias: draw.whole(5, 1) };
    let x = draw.whole((3, 7), 1);
    let (y, cache) = layer.forward(&x)?;
    let dy = draw.whole(y.dim(), 1);
    let (dx, grads) = layer.backward(&dy, &cache)?;
    let case = Case::new("linear", "3 rows, 7 to 5 features".to_string(), &dy, EXACT);
    let at = |layer: &Linear<f64>, x: &Array2<f64>| Ok(layer.forward(x)?.0.into_iter().collect());
    Ok(vec![
        case.check("input", &x, &dx, |x| at(&layer, &x))?,
        case.check("weight", &layer.weight, &grads.weight, |weight| at(&Linear { weight, ..layer.clone() }, &x))?,
        case.check("bias", &layer.bias, &grads.bias, |bias| at(&Linear { bias, ..layer.clone() }, &x))?,
    ])
}

fn zero_pad_shortcut(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    let mut reports = Vec::new();
    for (label, (n, h, w, c), layer) in [
        ("stride 2, 3 to 8 channels, odd sides", (2, 5, 7, 3), ZeroPadShortcut { stride: 2, c_out: 8 }),
        ("stride 1, 2 to 5 channels", (2, 3, 4, 2), ZeroPadShortcut { stride: 1, c_out: 5 }),
        ("stride 3, same channels", (2, 7, 8, 4), ZeroPadShortcut { stride: 3, c_out: 4 }),
    ] {
        let x = draw.whole((n, h, w, c), 1);
        let (y, cache) = layer.forward(&x.to_shared())?;
        let dy = draw.whole(y.dim(), 1);
        let dx: Activation<f64> = layer.backward(&dy.to_shared(), &cache)?;
        let case = Case::new("zero_pad_shortcut", label.to_string(), &dy, EXACT);
        reports.push(case.check("input", &x, &dx.into_owned(), |x| Ok(flat(&layer.forward(&x.into_shared())?.0)))?);
    }
    Ok(reports)
}

/// Curved. K of the error model: the classes in each logarithm and the rows in the loss. The last layer of every
/// network: its dy is 1.
fn softmax_cross_entropy(draw: &mut Draw) -> Result<Vec<TensorReport>> {
    let mut reports = Vec::new();
    for (label, targets, classes, label_smoothing, reduction) in [
        ("mean over 4 rows, 5 classes", vec![3, 0, 4, 0], 5, 0.0, Reduction::Mean),
        ("sum over 3 rows", vec![1, 2, 0], 7, 0.0, Reduction::Sum),
        ("label smoothing 0.1, mean", vec![2, 0, 5], 6, 0.1, Reduction::Mean),
        ("label smoothing 1, sum", vec![2, 1], 3, 1.0, Reduction::Sum),
        ("one row of two", vec![1], 2, 0.0, Reduction::Mean),
    ] {
        let layer = SoftmaxCrossEntropy { label_smoothing, reduction };
        let logits = draw.real((targets.len(), classes));
        let (_, cache) = layer.forward(&logits, &targets)?;
        let step = Step::Smooth { h: 2f64.powi(-6), terms: classes + targets.len() };
        let case = Case::new("softmax_cross_entropy", label.to_string(), &Array1::ones(1), step);
        let at = |logits: Array2<f64>| Ok(vec![layer.forward(&logits, &targets)?.0]);
        reports.push(case.check("logits", &logits, &layer.backward(&cache), at)?);
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_layer_is_named_and_the_nearest_suggested() {
        let message = check_layer("conv2", 1).unwrap_err().to_string();
        assert!(message.contains("did you mean `conv2d`?") && message.contains("zero_pad_shortcut"), "{message}");
    }

    /// The check itself must fail for a wrong gradient: a sign, a factor, one entry, zeros, a NaN.
    #[test]
    fn wrong_gradients_do_not_pass() {
        let mut draw = Draw(stream(1, Purpose::Verify, &[]));
        let x = draw.real(6);
        let dy = draw.real(6);
        let y = |x: Array1<f64>| Ok(x.mapv(|x| x * x * x).to_vec());
        let right = ndarray::Zip::from(&x).and(&dy).map_collect(|x, dy| 3.0 * x * x * dy);
        let case = Case::new("cube", String::new(), &dy, Step::Smooth { h: 0.0078125, terms: 2 });
        let check = |gradient: &Array1<f64>| case.check("x", &x, gradient, y).unwrap();
        let report = check(&right);
        assert!(report.passed() && report.worst_relative < 1e-12, "{report}");
        let mut one = right.clone();
        one[3] += 1e-7;
        let mut nan = right.clone();
        nan[5] = f64::NAN;
        for wrong in [-&right, &right * 0.999999, one, Array1::zeros(6), nan] {
            let report = check(&wrong);
            assert!(!report.passed() && report.to_string().ends_with("WRONG"), "{report}");
        }
    }

    #[test]
    fn points_are_as_far_from_kinks_as_documented() {
        let mut draw = Draw(stream(3, Purpose::Verify, &[]));
        assert!(draw.away_from_zero(100).iter().all(|x| x.abs() >= 4.0 && x % 4.0 == 0.0));
        let mut values = draw.all_different(101).to_vec();
        values.sort_by(f64::total_cmp);
        assert!(values.windows(2).all(|pair| pair[1] - pair[0] == 4.0));
    }

    /// A seed determines these points. They are the only values of the crate that `rand` derives from the generator, and it
    /// does not guarantee the same ones in every version: if a version changes them, the printed errors of every check change.
    #[test]
    fn seed_1_means_these_points() {
        let mut draw = Draw(stream(1, Purpose::Verify, &[]));
        assert_eq!(draw.whole(5, 1).to_vec(), [3.0, -6.0, 3.0, -1.0, 0.0]);
        assert_eq!(draw.away_from_zero(5).to_vec(), [-12.0, 24.0, 20.0, 20.0, -16.0]);
        assert_eq!(draw.all_different(5).to_vec(), [8.0, -4.0, -8.0, 0.0, 4.0]);
        assert_eq!((draw.real(5) * 1048576.0).to_vec(), [1721331.0, 903897.0, -1493704.0, 1069199.0, -1022320.0]);
    }
}
