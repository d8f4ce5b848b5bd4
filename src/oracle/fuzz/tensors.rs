//! The values of a case: random, and of a sort that shows mistakes.

use super::{Case, Value};
use crate::oracle::arithmetic::{ComputedIn, Float};
use crate::oracle::layer;
use crate::rng::{Purpose, Rng, name_hash, normal, stream};
use crate::tensors::{Tensor, Tensors};
use crate::{Error, Result};
use ndarray::{Array1, ArrayD, Axis, IxDyn};
use rand::RngExt as _;
use std::str::FromStr;

/// A sort of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Whole numbers from -3 to 3: sums are exact, maxima have ties, and a wrong result can be read.
    Small,
    /// Standard normal.
    Normal,
    /// Of very different sizes.
    Wide,
    /// A thousandth of normal ones.
    Tiny,
    /// Around 100: variances and differences cancel.
    LargeMean,
    /// Filters, gradients and images whose sums are almost 0; logits of images that have been learnt.
    Cancelling,
    /// Some channels are constant.
    Constant,
    /// Many elements and whole channels are 0.
    Zeros,
    /// At the lower end of the type, where numbers lose digits.
    Denormal,
    /// A few elements are NaN or infinite.
    NonFinite,
}

/// The sorts that every implementation must compute correctly.
pub const USUAL: [Values; 8] = [
    Values::Small,
    Values::Normal,
    Values::Wide,
    Values::Tiny,
    Values::LargeMean,
    Values::Cancelling,
    Values::Constant,
    Values::Zeros,
];

impl Values {
    /// Every sort.
    pub const ALL: [Values; 10] = [
        Values::Small,
        Values::Normal,
        Values::Wide,
        Values::Tiny,
        Values::LargeMean,
        Values::Cancelling,
        Values::Constant,
        Values::Zeros,
        Values::Denormal,
        Values::NonFinite,
    ];

    /// `large-mean`
    pub fn name(self) -> &'static str {
        match self {
            Values::Small => "small",
            Values::Normal => "normal",
            Values::Wide => "wide",
            Values::Tiny => "tiny",
            Values::LargeMean => "large-mean",
            Values::Cancelling => "cancelling",
            Values::Constant => "constant",
            Values::Zeros => "zeros",
            Values::Denormal => "denormal",
            Values::NonFinite => "non-finite",
        }
    }
}

impl FromStr for Values {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Values::ALL.into_iter().find(|values| values.name() == text).ok_or_else(|| {
            let known = Values::ALL.iter().map(|values| values.name().to_string()).collect();
            Error::Unknown { kind: "value sort", name: text.to_string(), known }
        })
    }
}

/// Draws the geometry of a seed.
pub(super) fn generator(seed: u64, kind: &str, attempt: u64) -> Rng {
    stream(seed, Purpose::Verify, &[name_hash("fuzz"), name_hash(kind), attempt])
}

/// A whole number below `end`.
pub(super) fn below(rng: &mut Rng, end: usize) -> usize {
    rng.random_range(0..end)
}

/// The inputs of a case. Each tensor is drawn from a stream of its own, so that it stays much the same while others shrink.
pub(super) fn of(case: &Case) -> Result<Tensors> {
    let mut tensors = shapes(case).into_iter().fold(Tensors::new(), |mut tensors, (name, shape)| {
        let mut drawn = draw(case, &name, &shape);
        if name.ends_with("running_var") {
            drawn.mapv_inplace(|x| x.abs() + 0.1);
        }
        tensors.insert(name, drawn);
        tensors
    });
    if case.kind == "softmax_cross_entropy" {
        loss(case, &mut tensors);
    }
    let settings = case.settings();
    let results = layer::run::<f64>(case.kind, &settings, &tensors, &[])?;
    if case.kind == "batch_norm" || case.kind.ends_with("block") || case.kind.ends_with("bottleneck") {
        several_values(case, &tensors)?;
    }
    let none = case.get("reduction") == Some(Value::Word("none"));
    if let Some(output) = results.get("output").filter(|_| case.kind != "softmax_cross_entropy" || none) {
        let mut gradient = draw(case, "grad_output", output.shape());
        if case.values == Values::Cancelling && gradient.ndim() == 4 {
            // As after a batch norm: the gradient of a bias is a sum that cancels.
            without_mean(&mut gradient, &[0, 2, 3]);
        }
        tensors.insert("grad_output", gradient);
    }
    Ok(tensors)
}

/// A batch norm in training needs more than one value per channel, as in PyTorch.
fn several_values(case: &Case, tensors: &Tensors) -> Result<()> {
    let shape = tensors.get("input").map_or(&[][..], Tensor::shape);
    let one = shape.len() == 4 && shape[0] * shape[2] * shape[3] == 1;
    match case.get("mode") == Some(Value::Word("train")) && one {
        true => Err(Error::argument("fuzz", format!("{}: one value per channel has no variance", case.kind))),
        false => Ok(()),
    }
}

/// Names and shapes of the floating-point inputs.
fn shapes(case: &Case) -> Vec<(String, Vec<usize>)> {
    let count = |name: &str| match case.get(name) {
        Some(Value::Count(count)) => count,
        _ => 1,
    };
    let given = |name: &str| case.get(name) == Some(Value::Flag(true));
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: &str, shape: &[usize]| shapes.push((name.to_string(), shape.to_vec()));
    let n = count("n");
    match case.kind {
        "conv2d" => {
            let (c_in, c_out) = (count("c_in"), count("c_out"));
            let Some(Value::Pair([kh, kw])) = case.get("kernel") else { unreachable!("a pair") };
            add("input", &[n, c_in, count("h"), count("w")]);
            // A number of groups that does not divide the channels is impossible, and the layer says so.
            add("weight", &[c_out, c_in / count("groups").max(1), kh, kw]);
            if given("bias") {
                add("bias", &[c_out]);
            }
        }
        "linear" => {
            add("input", &[n, count("features_in")]);
            add("weight", &[count("features_out"), count("features_in")]);
            if given("bias") {
                add("bias", &[count("features_out")]);
            }
        }
        "softmax_cross_entropy" => {
            add("input", &[n, count("classes")]);
            if given("weight") {
                add("weight", &[count("classes")]);
            }
        }
        "sgd" => {
            let shape = [count("rows"), count("columns")];
            add("param", &shape);
            add("grad", &shape);
            if given("momentum_buffer") {
                add("momentum_buffer", &shape);
            }
        }
        "batch_norm" => {
            add("input", &[n, count("c"), count("h"), count("w")]);
            norm(&mut add, "", count("c"), given("affine"));
        }
        "basic_block" | "bottleneck" | "preact_basic_block" | "preact_bottleneck" => {
            let (c_in, c_out, width) = (count("c_in"), count("c_out"), count("width"));
            add("input", &[n, c_in, count("h"), count("w")]);
            let convs: &[[usize; 3]] = match case.kind.ends_with("bottleneck") {
                true => &[[c_in, width, 1], [width, width, 3], [width, c_out, 1]],
                false => &[[c_in, c_out, 3], [c_out, c_out, 3]],
            };
            let before = case.kind.starts_with("preact");
            for (index, &[from, to, k]) in convs.iter().enumerate() {
                add(&format!("conv{}.weight", index + 1), &[to, from, k, k]);
                norm(&mut add, &format!("bn{}.", index + 1), if before { from } else { to }, true);
            }
            if case.get("shortcut") == Some(Value::Word("projection")) {
                add("downsample.0.weight", &[c_out, c_in, 1, 1]);
                if !before {
                    norm(&mut add, "downsample.1.", c_out, true);
                }
            }
        }
        _ => add("input", &[n, count("c"), count("h"), count("w")]),
    }
    shapes
}

fn norm(add: &mut impl FnMut(&str, &[usize]), prefix: &str, channels: usize, affine: bool) {
    let parameters: &[&str] = if affine { &["weight", "bias"] } else { &[] };
    for name in parameters.iter().chain(&["running_mean", "running_var"]) {
        add(&format!("{prefix}{name}"), &[channels]);
    }
}

/// A tensor with values of the case's sort.
fn draw(case: &Case, name: &str, shape: &[usize]) -> ArrayD<f64> {
    let mut rng = stream(case.seed, Purpose::Verify, &[name_hash("fuzz"), name_hash(name)]);
    let mut array = ArrayD::from_shape_simple_fn(IxDyn(shape), || normal(&mut rng));
    let image = array.ndim() == 4;
    let of_filter = name.ends_with("weight") && image;
    match case.values {
        Values::Normal => {}
        Values::Small => array.mapv_inplace(|x| (1.5 * x).round().clamp(-3.0, 3.0)),
        Values::Wide => array.mapv_inplace(|x| x * (1.5 * normal(&mut rng)).exp()),
        Values::Tiny => array.mapv_inplace(|x| 1e-3 * x),
        Values::LargeMean if name == "input" => array.mapv_inplace(|x| x + 100.0),
        Values::Cancelling if of_filter => without_mean(&mut array, &[1, 2, 3]),
        Values::Cancelling if name == "input" && image => without_mean(&mut array, &[2, 3]),
        Values::Constant if name == "input" || name == "grad_output" => {
            for (index, mut channel) in array.axis_iter_mut(Axis(1.min(shape.len() - 1))).enumerate() {
                if index % 2 == 0 {
                    channel.fill(normal(&mut rng));
                }
            }
        }
        Values::Zeros => {
            let channel = below(&mut rng, 3);
            for (index, mut slice) in array.axis_iter_mut(Axis(1.min(shape.len() - 1))).enumerate() {
                slice.mapv_inplace(|x| if index % 3 == channel || below(&mut rng, 3) == 0 { 0.0 } else { x });
            }
        }
        // Around the smallest normal number of float32, bfloat16 and TF32.
        Values::Denormal if name == "input" || name == "grad_output" => array.mapv_inplace(|x| x * 2f64.powi(-127)),
        Values::NonFinite if name == "input" || name == "grad_output" => {
            let all = array.len();
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter().take(1 + below(&mut rng, 3)) {
                let at = below(&mut rng, all);
                *array.iter_mut().nth(at).expect("below the end") = value;
            }
        }
        _ => {}
    }
    if name.ends_with("momentum_buffer") || !of_filter {
        return array;
    }
    // As a trained filter: results have the size of the inputs.
    if case.values == Values::Normal {
        let terms: usize = shape[1..].iter().product();
        array.mapv_inplace(|x| x / (terms as f64).sqrt());
    }
    array
}

/// Subtracts the mean over `axes`.
fn without_mean(array: &mut ArrayD<f64>, axes: &[usize]) {
    if array.is_empty() {
        return;
    }
    let mut mean = array.clone();
    for &axis in axes {
        mean = mean.mean_axis(Axis(axis)).expect("not empty").insert_axis(Axis(axis));
    }
    *array -= &mean;
}

/// Targets and weights of a loss.
fn loss(case: &Case, tensors: &mut Tensors) {
    let mut rng = stream(case.seed, Purpose::Verify, &[name_hash("fuzz"), name_hash("target")]);
    let mut logits = tensors.get("input").expect("just drawn").to_f64();
    let (n, classes) = (logits.shape()[0], logits.shape()[1]);
    let mut target = Array1::from_shape_simple_fn(n, || below(&mut rng, classes) as i64);
    if case.values == Values::Cancelling {
        // Learnt: p - target is nearly 0.
        target.iter().enumerate().for_each(|(image, &class)| logits[[image, class as usize]] += 12.0);
        tensors.insert("input", logits);
    }
    if case.get("ignored") == Some(Value::Flag(true)) && n > 1 {
        target[below(&mut rng, n)] = -100;
    }
    tensors.insert("target", target);
    if let Some(weight) = tensors.get("weight") {
        tensors.insert("weight", weight.to_f64().mapv(|x| x.abs() + 0.1));
    }
}

/// The inputs as an implementation is given them: numbers of the type in which it stores its results; float32 if nothing is
/// stated. Every number of a narrower type is one of float32, so they are stored as float32 or float64.
pub(super) fn rounded(inputs: &Tensors, stated: &ComputedIn) -> Tensors {
    let float = stated.all.map_or(Float::F32, |arithmetic| arithmetic.stored);
    let mut rounded = Tensors::new();
    for (name, tensor) in inputs.iter() {
        match tensor.to_real::<f64>() {
            Some(array) if float == Float::F64 => rounded.insert(name, array),
            Some(array) => rounded.insert(name, array.mapv(|x| float.round(x) as f32)),
            None => rounded.insert(name, tensor.clone()),
        }
    }
    rounded
}
