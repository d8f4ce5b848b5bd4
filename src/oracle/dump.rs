//! One pass of a program as named tensors: what `resnet oracle` writes and everybody else is compared with.
//!
//! Names, in the order of execution (which is the order of the tensors in the dump):
//!
//! | tensor | name |
//! |---|---|
//! | result of a module | `output.layer1.0.conv1`; of the whole program also `output` (a network: `logits`) |
//! | the loss | `loss` |
//! | gradient of a module's result, last module first | `grad_output.layer1.0.conv1` |
//! | gradient of a parameter | `grad_layer1.0.conv1.weight` |
//! | gradient of the input | `grad_input` |
//! | running statistics after the pass, parameters after SGD steps | their names in the state dict |
//!
//! Images are `(N, C, H, W)`, as PyTorch has them.

use super::program::{Backward, Disturb, Forward, Program, Undisturbed, Value};
use super::rounding::{Rounding, MULTIPLE, RUNS};
use crate::layers::{nchw_to_nhwc, nhwc_to_nchw, Mode, SoftmaxCrossEntropy};
use crate::optim::{Sgd, SgdConfig};
use crate::parameters::{Gradients, Parameters, Role};
use crate::tensors::{Dtype, Tensor, Tensors};
use crate::{Error, Result, Scalar};
use ndarray::{arr0, ArrayD, Ix2, Ix4};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What backward starts from.
#[derive(Clone, Debug)]
pub enum Goal {
    /// Nothing: forward only.
    Forward,
    /// This gradient of the result.
    GradOutput(Tensor),
    /// The cross-entropy of the result with these classes.
    CrossEntropy {
        /// Classes of the images.
        target: Vec<usize>,
        /// Mean or sum, label smoothing.
        loss: SoftmaxCrossEntropy<f64>,
    },
}

/// What to compute.
#[derive(Clone, Debug)]
pub struct Request {
    /// Train: batch statistics, and the running ones move.
    pub mode: Mode,
    /// What backward starts from.
    pub goal: Goal,
    /// Whether to dump what is between the input and the result.
    pub activations: bool,
    /// SGD steps to take on the batch.
    pub steps: usize,
    /// Their configuration.
    pub sgd: SgdConfig,
    /// Their learning rate.
    pub lr: f64,
    /// Whether weight decay is taken off the parameters by itself, θ ← (1 − η λ) θ before the step (SGDW, Loshchilov & Hutter
    /// 2019), instead of being added to the gradient.
    pub decoupled: bool,
    /// Whether to work out how far an implementation may be off ([`super::rounding`]): seven passes instead of one.
    pub tolerances: bool,
}

impl Request {
    /// A pass in `mode` from `goal`: with activations and tolerances, without SGD.
    pub fn new(mode: Mode, goal: Goal) -> Self {
        Request {
            mode,
            goal,
            activations: true,
            steps: 0,
            sgd: SgdConfig::default(),
            lr: 0.1,
            decoupled: false,
            tolerances: true,
        }
    }
}

/// The key of the metadata with the tolerances for comparison with numbers of this type: lines of `name tolerance`.
pub(super) fn tolerance_key(dtype: Dtype) -> String {
    format!("tolerance.{}", dtype.name())
}

/// The key of the metadata with other names of tensors: lines of `name other`.
pub(super) const ALIASES: &str = "aliases";

/// Computes in `T` what `request` asks for and returns it under the names above; in the metadata are the tolerances,
/// worked out in `f64`.
///
/// # Errors
/// Those of the layers; a goal that does not fit the result.
pub fn dump<T: Scalar>(program: &Program<f64>, input: &Tensor, request: &Request) -> Result<Tensors> {
    let mut result = pass::<T>(&program.cast(), input, request, &mut Undisturbed, None)?;
    if request.tolerances {
        let exact = pass::<f64>(program, input, request, &mut Undisturbed, None)?;
        for dtype in [Dtype::F32, Dtype::F64] {
            let lines = tolerances(&exact, dtype, |rounding, statistics| {
                pass::<f64>(program, input, request, rounding, Some(statistics))
            })?;
            result.metadata.insert(tolerance_key(dtype), lines);
        }
    }
    let aliases = program.aliases.iter().flat_map(|(alias, value)| {
        let name = &program.steps[value - 1].name;
        [format!("output.{alias} output.{name}\n"), format!("grad_output.{alias} grad_output.{name}\n")]
    });
    if !program.aliases.is_empty() {
        result.metadata.insert(ALIASES.to_string(), aliases.collect());
    }
    Ok(result)
}

/// How far each tensor of `exact` may be off in numbers of type `dtype`, as lines of `name tolerance`. `disturbed` repeats the pass
/// that made it with rounding on every result and on the running statistics.
///
/// # Errors
/// Those of `disturbed`.
pub(super) fn tolerances(
    exact: &Tensors,
    dtype: Dtype,
    mut disturbed: impl FnMut(&mut Rounding, &mut Rounding) -> Result<Tensors>,
) -> Result<String> {
    let u = dtype.unit_roundoff().expect("a float");
    let mut deviations: BTreeMap<&str, f64> = BTreeMap::new();
    for run in 0..RUNS {
        let disturbed = disturbed(&mut Rounding::new(u, run), &mut Rounding::new(u, RUNS + run))?;
        for ((name, a), (_, b)) in exact.iter().zip(disturbed.iter()) {
            let deviation = largest_difference(&a.to_f64(), &b.to_f64());
            let worst = deviations.entry(name).or_default();
            *worst = worst.max(deviation);
        }
    }
    let mut lines = String::new();
    for (name, tensor) in exact.iter() {
        // Whoever does nothing else still rounds the result.
        let largest = tensor.to_f64().iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let tolerance = deviations[name] + MULTIPLE * u * largest;
        writeln!(lines, "{name} {tolerance:e}").expect("a text can grow");
    }
    Ok(lines)
}

fn largest_difference(a: &ArrayD<f64>, b: &ArrayD<f64>) -> f64 {
    a.iter().zip(b).fold(0.0f64, |largest, (a, b)| largest.max((a - b).abs()))
}

/// Forward, loss, backward of a batch.
struct Step<T: Scalar> {
    forward: Forward<T>,
    loss: Option<T>,
    backward: Option<Backward<T>>,
}

fn step<T: Scalar>(
    program: &Program<T>,
    input: &Tensor,
    request: &Request,
    disturb: &mut dyn Disturb<T>,
) -> Result<Step<T>> {
    let forward = program.forward(value("input", input)?, request.mode, disturb)?;
    let result = forward.values.last().expect("x at least");
    let (loss, dy) = match &request.goal {
        Goal::Forward => return Ok(Step { forward, loss: None, backward: None }),
        Goal::GradOutput(gradient) => {
            let dy: Value<T> = value("grad_output", gradient)?;
            if dy.shape() != result.shape() {
                let expected = format!("the output's shape {:?}", tensor(result).shape());
                return Err(Error::shape("oracle", "grad_output", expected, gradient.shape()));
            }
            (None, dy)
        }
        Goal::CrossEntropy { target, loss } => {
            let Value::Rows(logits) = result else {
                return Err(Error::shape("oracle", "output", "logits (N, classes) for a loss", tensor(result).shape()));
            };
            let layer = SoftmaxCrossEntropy { label_smoothing: T::of(loss.label_smoothing), reduction: loss.reduction };
            let mut logits = logits.clone();
            disturb.logits(&mut logits);
            let (mut loss, cache) = layer.forward(&logits, target)?;
            let mut dlogits = layer.backward(&cache);
            disturb.loss(&logits, target, &mut loss, &mut dlogits);
            (Some(loss), Value::Rows(dlogits))
        }
    };
    let backward = program.backward(dy, &forward, disturb)?;
    Ok(Step { forward, loss, backward: Some(backward) })
}

/// The whole dump but its metadata. `statistics` disturbs the running statistics.
fn pass<T: Scalar>(
    program: &Program<T>,
    input: &Tensor,
    request: &Request,
    disturb: &mut dyn Disturb<T>,
    mut statistics: Option<&mut Rounding>,
) -> Result<Tensors> {
    let Step { forward, loss, backward } = step(program, input, request, disturb)?;
    let mut result = Tensors::new();
    let whole = forward.values.last().expect("x at least");
    if request.activations {
        for (step, y) in program.steps.iter().zip(&forward.values[1..]) {
            // A program of one step has one result, and its name is `output`.
            if !step.name.is_empty() {
                result.insert(format!("output.{}", step.name), tensor(y));
            }
        }
    }
    match loss {
        None => result.insert("output", tensor(whole)),
        Some(loss) => {
            result.insert("logits", tensor(whole));
            result.insert("loss", Tensor::real(arr0(loss).view().into_dyn()));
        }
    }
    let mut own = program.clone();
    if request.mode == Mode::Train {
        own.update_running_statistics(&forward);
    }
    if let Some(backward) = &backward {
        for (index, step) in program.steps.iter().enumerate().rev() {
            if let (true, false, Some(dy)) = (request.activations, step.name.is_empty(), &backward.values[index + 1]) {
                result.insert(format!("grad_output.{}", step.name), tensor(dy));
            }
            step.visit("", &mut |name, role, _| {
                if let (true, Some(gradient)) = (role.is_trained(), backward.parameters.get(name)) {
                    result.insert(format!("grad_{name}"), Tensor::real(gradient.view()));
                }
            });
        }
        if let Some(dx) = &backward.values[0] {
            result.insert("grad_input", tensor(dx));
        }
    }
    drop((forward, loss));
    if request.steps > 0 {
        let backward = backward.ok_or_else(|| {
            Error::argument("oracle", "SGD steps need gradients: give `target` or `grad_output` in the input")
        })?;
        let mut sgd = Stepper::new(request)?;
        sgd.step(&mut own, &backward.parameters)?;
        for _ in 1..request.steps {
            let Step { forward, backward, .. } = step(&own, input, request, disturb)?;
            if request.mode == Mode::Train {
                own.update_running_statistics(&forward);
            }
            sgd.step(&mut own, &backward.expect("as the first").parameters)?;
        }
    }
    own.visit("", &mut |name, role, tensor| {
        let moved = if role == Role::Statistic { request.mode == Mode::Train } else { request.steps > 0 };
        if moved {
            let mut tensor = tensor.to_owned();
            if let (Some(statistics), Role::Statistic) = (&mut statistics, role) {
                // As the batch norm itself: two sums of many terms.
                statistics.disturb(&mut tensor, super::rounding::BATCH_NORM_TERMS);
            }
            result.insert(name, Tensor::real(tensor.view()));
        }
    });
    Ok(result)
}

/// SGD, with either kind of weight decay.
pub(super) struct Stepper<T> {
    sgd: Sgd<T>,
    lr: f64,
    /// 1 − η λ, where decay is decoupled.
    keep: T,
}

impl<T: Scalar> Stepper<T> {
    pub fn new(request: &Request) -> Result<Self> {
        let coupled = if request.decoupled { 0.0 } else { request.sgd.weight_decay };
        let decoupled = request.sgd.weight_decay - coupled;
        let sgd = Sgd::new(SgdConfig { weight_decay: coupled, ..request.sgd })?;
        Ok(Stepper { sgd, lr: request.lr, keep: T::one() - T::of(request.lr * decoupled) })
    }

    /// The optimiser itself, to hand it its buffers and to look at them.
    pub fn sgd(&mut self) -> &mut Sgd<T> {
        &mut self.sgd
    }

    pub fn step(&mut self, model: &mut impl Parameters<T>, gradients: &Gradients<T>) -> Result<()> {
        if self.keep != T::one() {
            model.visit_mut("", &mut |_, role, mut tensor| {
                if role.is_trained() {
                    tensor.mapv_inplace(|value| value * self.keep);
                }
            });
        }
        self.sgd.step(model, gradients, self.lr)
    }
}

/// What [`dump`] returns, without metadata, with somebody changing results on the way, and the rounding of `statistics` on the
/// running statistics.
///
/// # Errors
/// As [`dump`].
pub(super) fn dump_disturbed(
    program: &Program<f64>,
    input: &Tensor,
    request: &Request,
    disturb: &mut dyn Disturb<f64>,
    statistics: Option<&mut Rounding>,
) -> Result<Tensors> {
    pass::<f64>(program, input, request, disturb, statistics)
}

/// `(N, C, H, W)` or `(N, F)`, in this crate's order.
fn value<T: Scalar>(name: &'static str, tensor: &Tensor) -> Result<Value<T>> {
    let expected = "float32 or float64 of shape (N, C, H, W) or (N, F)";
    let refuse = || Error::shape("oracle", name, expected, tensor.shape());
    let array = tensor.to_real::<T>().ok_or_else(refuse)?;
    match array.ndim() {
        4 => Ok(Value::Images(nchw_to_nhwc(array.into_dimensionality::<Ix4>().expect("four axes").view()))),
        2 => Ok(Value::Rows(array.into_dimensionality::<Ix2>().expect("two axes"))),
        _ => Err(refuse()),
    }
}

/// A value as others have it.
fn tensor<T: Scalar>(value: &Value<T>) -> Tensor {
    match value {
        Value::Images(x) => Tensor::real(nhwc_to_nchw(x).view().into_dyn()),
        Value::Rows(x) => Tensor::real(x.view().into_dyn()),
    }
}
