//! One pass of a program as named tensors: what `resnet oracle` writes and other implementations are compared with.
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
//!
//! Beside each tensor there are its tolerances, element by element, for every [`Arithmetic`] that was requested:
//! `tolerance.f32.grad_conv1.weight` ([`tolerance_name`]; [`super::rounding`] and [`super::simulation`] derive them). A
//! tolerance is infinite if there is no bound: rounding can make a finite element NaN or infinite, or the other way round.
//! Elements that are not finite match only the same value.

use super::arithmetic::Arithmetic;
use super::tolerance::with_tolerances;
use crate::layers::{Mode, SoftmaxCrossEntropy, nchw_to_nhwc, nhwc_to_nchw};
use crate::optim::{Sgd, SgdConfig};
use crate::parameters::{Gradients, Parameters, Role, join};
use crate::program::{Backward, Disturb, Forward, Program, Undisturbed, Value};
use crate::tensors::{Tensor, Tensors, Values};
use crate::{Error, Result, Scalar};
use ndarray::{ArrayD, Axis, Ix2, Ix4, Slice, arr0};
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
    /// Training uses batch statistics and updates the running ones.
    pub mode: Mode,
    /// What backward starts from.
    pub goal: Goal,
    /// Whether to dump the results between the input and the output.
    pub activations: bool,
    /// How many rows and columns `[[above, below], [left, right]]` of the input are padding that the caller added: they are cut
    /// off its gradient.
    pub padding: [[usize; 2]; 2],
    /// The shape of the input and of the result, if the caller made images of an input that is none.
    pub shape: Option<Vec<usize>>,
    /// SGD steps to take on the batch.
    pub steps: usize,
    /// Their configuration.
    pub sgd: SgdConfig,
    /// Their learning rate.
    pub lr: f64,
    /// Whether weight decay is decoupled, θ ← (1 − η λ) θ before the step (SGDW, Loshchilov & Hutter 2019), instead of added to
    /// the gradient.
    pub decoupled: bool,
    /// For which arithmetics to compute tolerances ([`super::rounding`]). For many steps each takes up to eight passes
    /// ([`super::simulation`]).
    pub computed_in: Vec<Arithmetic>,
}

impl Request {
    /// A pass in `mode` from `goal`: with activations and the tolerances for `f64` and `f32`, without SGD.
    pub fn new(mode: Mode, goal: Goal) -> Self {
        Request {
            mode,
            goal,
            activations: true,
            padding: [[0; 2]; 2],
            shape: None,
            steps: 0,
            sgd: SgdConfig::default(),
            lr: 0.1,
            decoupled: false,
            computed_in: vec![Arithmetic::F64, Arithmetic::F32],
        }
    }
}

/// The name under which a dump has the tolerance of every element of a tensor, for results computed in `arithmetic`.
pub fn tolerance_name(arithmetic: &Arithmetic, name: &str) -> String {
    format!("{TOLERANCE}{arithmetic}.{name}")
}

/// The arithmetic and the tensor to which a tensor of this name is the tolerance; `None` if it is no tolerance.
pub fn tolerance_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(TOLERANCE)?.split_once('.')
}

const TOLERANCE: &str = "tolerance.";

/// The names of the tensors that a dump of `program` can have, whatever is requested.
pub fn names_of(program: &Program<f64>) -> Vec<String> {
    let mut names: Vec<String> = ["output", "logits", "loss", "grad_input", "grad_output"].map(str::to_string).into();
    let mut add = |prefix: &str, name: &str| {
        let name = join(prefix, name);
        if !names.contains(&name) {
            names.push(name);
        }
    };
    let steps = program.steps.iter().map(|step| step.name.as_str());
    for name in steps.chain(program.aliases.iter().map(|(name, _)| name.as_str())) {
        ["output", "grad_output"].iter().for_each(|prefix| add(prefix, name));
    }
    program.visit("", &mut |name, role, _| {
        if role.is_trained() {
            add("", &format!("grad_{name}"));
        }
        add("", name);
    });
    names
}

/// The metadata key of the tolerances of whole tensors, `what` being `factor` or `mean`: lines of `name tolerance`.
pub(super) fn whole_key(what: &str, arithmetic: &str) -> String {
    format!("{what}.{arithmetic}")
}

/// The metadata key of other names of tensors: lines of `alias name`.
pub(super) const ALIASES: &str = "aliases";

/// The metadata key of the parameters and statistics that the pass does not change, a name per line: beside the results in
/// another implementation's dump they are no mistake.
pub(super) const UNCHANGED: &str = "unchanged";

/// Computes `request` in `T` and returns the results under the names above, and with each its tolerances, computed in `f64`.
///
/// # Errors
/// Those of the layers, and if the goal does not fit the result.
pub fn dump<T: Scalar>(program: &Program<f64>, input: &Tensor, request: &Request) -> Result<Tensors> {
    let mut result;
    if request.computed_in.is_empty() {
        result = collected(&program.cast::<T>(), input, request, &mut Undisturbed)?;
    } else {
        let (exact, tolerances) = with_tolerances(program, input, request, None, &request.computed_in)?;
        result = match T::NAME {
            "float64" => exact,
            _ => collected(&program.cast::<T>(), input, request, &mut Undisturbed)?,
        };
        tolerances.iter().for_each(|tolerances| tolerances.attach(&mut result));
    }
    let mut aliases = String::new();
    let mut alias = |name: &str, own: &str| writeln!(aliases, "{name} {own}").expect("a text can grow");
    for (name, value) in &program.aliases {
        let own = &program.steps[value - 1].name;
        alias(&format!("output.{name}"), &format!("output.{own}"));
        alias(&format!("grad_output.{name}"), &format!("grad_output.{own}"));
    }
    match (program.steps.last(), &request.goal) {
        (Some(last), Goal::CrossEntropy { .. }) => {
            alias("output", "logits");
            alias("grad_output", &format!("grad_output.{}", last.name));
        }
        (Some(_), _) => alias("logits", "output"),
        (None, _) => {}
    }
    if !aliases.is_empty() {
        result.metadata.insert(ALIASES.to_string(), aliases);
    }
    let mut unchanged = String::new();
    program.visit("", &mut |name, _, _| {
        if result.get(name).is_none() {
            writeln!(unchanged, "{name}").expect("a text can grow");
        }
    });
    if !unchanged.is_empty() {
        result.metadata.insert(UNCHANGED.to_string(), unchanged);
    }
    Ok(result)
}

/// A gradient of images without the padding.
fn without(padding: [[usize; 2]; 2], gradient: Tensor) -> Tensor {
    match (padding, gradient.values()) {
        ([[0, 0], [0, 0]], _) => gradient,
        (_, Values::F32(array)) => inner(padding, array.clone()).into(),
        (_, Values::F64(array)) => inner(padding, array.clone()).into(),
        _ => gradient,
    }
}

/// A result or gradient in the shape that the caller gave.
pub(super) fn in_shape(request: &Request, tensor: Tensor) -> Tensor {
    match (&request.shape, tensor.values()) {
        (Some(shape), Values::F32(array)) => reshaped(array, shape).into(),
        (Some(shape), Values::F64(array)) => reshaped(array, shape).into(),
        _ => tensor,
    }
}

/// The same elements in another shape, in row-major order.
pub(super) fn reshaped<T: Clone>(array: &ArrayD<T>, shape: &[usize]) -> ArrayD<T> {
    ArrayD::from_shape_vec(shape, array.iter().cloned().collect()).expect("as many elements")
}

/// The images without their padding.
pub(super) fn inner<T: Clone>(padding: [[usize; 2]; 2], mut images: ArrayD<T>) -> ArrayD<T> {
    for (axis, [before, after]) in padding.into_iter().enumerate() {
        if [before, after] != [0, 0] && images.ndim() == 4 {
            images.slice_axis_inplace(
                Axis(2 + axis),
                Slice::new(before as isize, Some(-(after as isize)).filter(|end| *end < 0), 1),
            );
        }
    }
    images.as_standard_layout().into_owned()
}

/// Forward, loss, backward of a batch.
pub(super) struct Step<T: Scalar> {
    pub forward: Forward<T>,
    pub loss: Option<T>,
    pub backward: Option<Backward<T>>,
}

pub(super) fn step<T: Scalar>(
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

/// Receives each tensor of a dump, with its name, as soon as it is computed.
pub(super) type Sink<'a> = dyn FnMut(String, Tensor) + 'a;

/// Emits the whole dump that begins with `first`, in its order, without its metadata.
pub(super) fn emit<T: Scalar>(
    program: &Program<T>,
    input: &Tensor,
    request: &Request,
    first: &Step<T>,
    disturb: &mut dyn Disturb<T>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let Step { forward, loss, backward } = first;
    let whole = forward.values.last().expect("x at least");
    if request.activations {
        for (step, y) in program.steps.iter().zip(&forward.values[1..]) {
            // A program of one step has one result, and its name is `output`.
            if !step.name.is_empty() {
                sink(format!("output.{}", step.name), tensor(y));
            }
        }
    }
    match loss {
        None => sink("output".to_string(), in_shape(request, tensor(whole))),
        Some(loss) => {
            sink("logits".to_string(), tensor(whole));
            sink("loss".to_string(), Tensor::real(arr0(*loss).view().into_dyn()));
        }
    }
    let mut own = program.clone();
    if request.mode == Mode::Train {
        own.update_running_statistics(forward);
    }
    if let Some(backward) = backward {
        for (index, step) in program.steps.iter().enumerate().rev() {
            if let (true, false, Some(dy)) = (request.activations, step.name.is_empty(), &backward.values[index + 1]) {
                sink(format!("grad_output.{}", step.name), tensor(dy));
            }
            step.visit("", &mut |name, role, _| {
                if let (true, Some(gradient)) = (role.is_trained(), backward.parameters.get(name)) {
                    sink(format!("grad_{name}"), Tensor::real(gradient.view()));
                }
            });
        }
        if let Some(dx) = &backward.values[0] {
            sink("grad_input".to_string(), in_shape(request, without(request.padding, tensor(dx))));
        }
    }
    if request.steps > 0 {
        let backward = backward.as_ref().ok_or_else(|| {
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
            sink(name.to_string(), Tensor::real(tensor));
        }
    });
    Ok(())
}

/// The whole dump without its metadata.
fn collected<T: Scalar>(
    program: &Program<T>,
    input: &Tensor,
    request: &Request,
    disturb: &mut dyn Disturb<T>,
) -> Result<Tensors> {
    let mut result = Tensors::new();
    let first = step(program, input, request, disturb)?;
    emit(program, input, request, &first, disturb, &mut |name, tensor| result.insert(name, tensor))?;
    Ok(result)
}

/// SGD, with either kind of weight decay.
pub(super) struct Stepper<T> {
    sgd: Sgd<T>,
    lr: f64,
    /// 1 − η λ, if decay is decoupled.
    keep: T,
}

impl<T: Scalar> Stepper<T> {
    pub fn new(request: &Request) -> Result<Self> {
        let coupled = if request.decoupled { 0.0 } else { request.sgd.weight_decay };
        let decoupled = request.sgd.weight_decay - coupled;
        let sgd = Sgd::new(SgdConfig { weight_decay: coupled, ..request.sgd })?;
        Ok(Stepper { sgd, lr: request.lr, keep: T::one() - T::of(request.lr * decoupled) })
    }

    /// The optimiser itself, to set and read its buffers.
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

/// What [`dump`] returns, without metadata; `disturb` changes results during the pass.
///
/// # Errors
/// As [`dump`].
pub(super) fn dump_disturbed(
    program: &Program<f64>,
    input: &Tensor,
    request: &Request,
    disturb: &mut dyn Disturb<f64>,
) -> Result<Tensors> {
    collected(program, input, request, disturb)
}

/// Converts `(N, C, H, W)` or `(N, F)` to this crate's layout.
pub(super) fn value<T: Scalar>(name: &'static str, tensor: &Tensor) -> Result<Value<T>> {
    let expected = "float32 or float64 of shape (N, C, H, W) or (N, F)";
    let refuse = || Error::shape("oracle", name, expected, tensor.shape());
    let array = tensor.to_real::<T>().ok_or_else(refuse)?;
    match array.ndim() {
        4 => Ok(Value::Images(nchw_to_nhwc(array.into_dimensionality::<Ix4>().expect("four axes").view()))),
        2 => Ok(Value::Rows(array.into_dimensionality::<Ix2>().expect("two axes"))),
        _ => Err(refuse()),
    }
}

/// Converts a value to PyTorch's layout.
pub(super) fn tensor<T: Scalar>(value: &Value<T>) -> Tensor {
    match value {
        Value::Images(x) => Tensor::real(nhwc_to_nchw(x).view().into_dyn()),
        Value::Rows(x) => Tensor::real(x.view().into_dyn()),
    }
}
