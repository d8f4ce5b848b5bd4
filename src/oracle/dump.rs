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
//! The metadata contains the tolerance of every tensor ([`super::rounding`]) for either element type. It is `inf` if there is
//! no bound: noise of the size of rounding makes a finite element NaN or infinite, or the other way round. Elements that are
//! not finite with and without noise do not count: they match only the same value.

use super::diagnose::Mistake;
use super::rounding::{Kinks, MULTIPLE, RUNS, Rounding};
use crate::layers::{Mode, SoftmaxCrossEntropy, nchw_to_nhwc, nhwc_to_nchw};
use crate::optim::{Sgd, SgdConfig};
use crate::parameters::{Gradients, Parameters, Role};
use crate::program::{Backward, Both, Disturb, Forward, Program, Undisturbed, Value};
use crate::tensors::{Dtype, Tensor, Tensors, Values};
use crate::{Error, Result, Scalar};
use ndarray::{ArrayD, Ix2, Ix4, arr0};
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
    /// SGD steps to take on the batch.
    pub steps: usize,
    /// Their configuration.
    pub sgd: SgdConfig,
    /// Their learning rate.
    pub lr: f64,
    /// Whether weight decay is decoupled, θ ← (1 − η λ) θ before the step (SGDW, Loshchilov & Hutter 2019), instead of added to
    /// the gradient.
    pub decoupled: bool,
    /// Whether to compute the tolerances ([`super::rounding`]): up to eleven passes instead of one.
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

/// The metadata key of the tolerances for comparison with elements of this type: lines of `name tolerance`.
pub(super) fn tolerance_key(dtype: Dtype) -> String {
    format!("tolerance.{}", dtype.name())
}

/// The metadata key of other names of tensors: lines of `alias name`.
pub(super) const ALIASES: &str = "aliases";

/// Computes `request` in `T` and returns the results under the names above; the metadata contains the tolerances, computed in
/// `f64`.
///
/// # Errors
/// Those of the layers, and if the goal does not fit the result.
pub fn dump<T: Scalar>(program: &Program<f64>, input: &Tensor, request: &Request) -> Result<Tensors> {
    let exact = match request.tolerances {
        true => Some(with_tolerances(program, input, request, None, &[Dtype::F32, Dtype::F64])?),
        false => None,
    };
    let mut metadata = Vec::new();
    let mut result = match exact {
        Some((tensors, tolerances)) => {
            metadata = tolerances;
            match T::NAME {
                "float64" => tensors,
                _ => collected(&program.cast::<T>(), input, request, &mut Undisturbed)?,
            }
        }
        None => collected(&program.cast::<T>(), input, request, &mut Undisturbed)?,
    };
    result.metadata.extend(metadata);
    let mut aliases = String::new();
    let mut alias = |name: &str, own: &str| writeln!(aliases, "{name} {own}").expect("a text can grow");
    for (name, value) in &program.aliases {
        let own = &program.steps[value - 1].name;
        alias(&format!("output.{name}"), &format!("output.{own}"));
        alias(&format!("grad_output.{name}"), &format!("grad_output.{own}"));
    }
    if let (Some(last), Goal::CrossEntropy { .. }) = (program.steps.last(), &request.goal) {
        alias("output", "logits");
        alias("grad_output", &format!("grad_output.{}", last.name));
    }
    if !aliases.is_empty() {
        result.metadata.insert(ALIASES.to_string(), aliases);
    }
    Ok(result)
}

/// The dump in `f64`, with or without a mistake, and the entries of its metadata with the tolerances for `dtypes`.
///
/// # Errors
/// As [`dump`].
pub(super) fn with_tolerances(
    program: &Program<f64>,
    input: &Tensor,
    request: &Request,
    mistake: Option<Mistake>,
    dtypes: &[Dtype],
) -> Result<(Tensors, Vec<(String, String)>)> {
    Exact::new(&program.cast(), input, request, mistake)?.tolerances(dtypes)
}

/// The pass without noise, its dump, and what is needed to repeat the backward pass.
struct Exact<'a> {
    program: &'a Program<f64>,
    input: &'a Tensor,
    request: &'a Request,
    /// The mistake made in every pass.
    mistake: Option<Mistake>,
    tensors: Tensors,
    forward: Forward<f64>,
    loss: Option<f64>,
    /// The gradient of the result, if there is a backward pass.
    dy: Option<Value<f64>>,
}

impl<'a> Exact<'a> {
    fn new(
        program: &'a Program<f64>,
        input: &'a Tensor,
        request: &'a Request,
        mistake: Option<Mistake>,
    ) -> Result<Self> {
        let first = with(mistake, &mut Undisturbed, |disturb| step(program, input, request, disturb))?;
        let (forward, loss) = (first.forward.clone(), first.loss);
        let dy = first.backward.as_ref().map(|backward| backward.values.last().cloned().flatten().expect("dy itself"));
        let mut tensors = Tensors::new();
        let sink = &mut |name, tensor| tensors.insert(name, tensor);
        with(mistake, &mut Undisturbed, |disturb| emit(program, input, request, first, disturb, None, sink))?;
        Ok(Exact { program, input, request, mistake, tensors, forward, loss, dy })
    }

    /// The dump, and the entries of its metadata with the tolerances: a line `name tolerance` for every tensor.
    fn tolerances(self, dtypes: &[Dtype]) -> Result<(Tensors, Vec<(String, String)>)> {
        let mut entries = Vec::new();
        for &dtype in dtypes {
            let u = dtype.unit_roundoff().expect("a float");
            let mut lines = String::new();
            for ((name, tensor), deviation) in self.tensors.iter().zip(self.deviations(u)?) {
                // Every implementation rounds at least the result.
                let tolerance = deviation + MULTIPLE * u * largest(float64(tensor));
                let tolerance = if tolerance.is_finite() { tolerance } else { f64::INFINITY };
                writeln!(lines, "{name} {tolerance:e}").expect("a text can grow");
            }
            entries.push((tolerance_key(dtype), lines));
        }
        Ok((self.tensors, entries))
    }

    /// The deviation of every tensor by rounding with unit roundoff `u`: by noise and by kinks.
    fn deviations(&self, u: f64) -> Result<Vec<f64>> {
        let mut by_noise = vec![0.0; self.tensors.len()];
        let mut kinks = Kinks::new(self.program, &self.forward);
        for run in 0..RUNS {
            let mut rounding = Rounding::new(u, run);
            let first =
                with(self.mistake, &mut rounding, |disturb| step(self.program, self.input, self.request, disturb))?;
            kinks.observe(self.program, &first.forward);
            self.compare(first, &mut rounding, Some(&mut Rounding::new(u, RUNS + run)), &mut by_noise)?;
        }
        let Some(dy) = self.dy.as_ref().filter(|_| kinks.any(self.program)) else { return Ok(by_noise) };
        let mut by_kinks = vec![0.0; self.tensors.len()];
        for open in [true, false] {
            kinks.open = open;
            let backward =
                with(self.mistake, &mut kinks, |disturb| self.program.backward(dy.clone(), &self.forward, disturb))?;
            let first = Step { forward: self.forward.clone(), loss: self.loss, backward: Some(backward) };
            self.compare(first, &mut kinks, None, &mut by_kinks)?;
        }
        Ok(by_noise.into_iter().zip(by_kinks).map(|(noise, kinks)| noise + kinks).collect())
    }

    /// Raises `worst` to the deviations of the dump that begins with `first`. Each tensor is compared as soon as it is
    /// computed: a second dump beside the first could take gigabytes.
    fn compare(
        &self,
        first: Step<f64>,
        disturb: &mut dyn Disturb<f64>,
        statistics: Option<&mut Rounding>,
        worst: &mut [f64],
    ) -> Result<()> {
        let mut places = self.tensors.iter().zip(worst);
        let sink = &mut |name: String, tensor: Tensor| {
            let ((expected, exact), worst) = places.next().expect("as many tensors as without noise");
            assert_eq!(name, expected, "the order of the tensors");
            *worst = larger(*worst, largest_difference(exact, &tensor));
        };
        with(self.mistake, disturb, |disturb| {
            emit(self.program, self.input, self.request, first, disturb, statistics, sink)
        })
    }
}

/// Calls `run` with a [`Disturb`] that makes the mistake, if there is one, before `other` changes anything.
fn with<R>(mistake: Option<Mistake>, other: &mut dyn Disturb<f64>, run: impl FnOnce(&mut dyn Disturb<f64>) -> R) -> R {
    match mistake {
        Some(mut mistake) => run(&mut Both(&mut mistake, other)),
        None => run(other),
    }
}

/// The largest |x| of the finite elements.
pub(super) fn largest<'a>(numbers: impl IntoIterator<Item = &'a f64>) -> f64 {
    numbers.into_iter().filter(|x| x.is_finite()).fold(0.0, |largest, x| x.abs().max(largest))
}

/// The larger of two values, or NaN if one is NaN: `f64::max` would return the other.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The largest |a − b|; NaN or infinite if only one of two elements is finite. Equal infinities and two NaN do not differ.
fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
    let differences = float64(a).iter().zip(float64(b)).map(|(&a, &b)| if same(a, b) { 0.0 } else { (a - b).abs() });
    differences.fold(0.0, larger)
}

/// The elements of a tensor that was computed in `f64`.
fn float64(tensor: &Tensor) -> &ArrayD<f64> {
    match tensor.values() {
        Values::F64(array) => array,
        other => panic!("expected float64, got {}", other.dtype()),
    }
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

/// Receives each tensor of a dump, with its name, as soon as it is computed.
type Sink<'a> = dyn FnMut(String, Tensor) + 'a;

/// Emits the whole dump that begins with `first`, in its order, without its metadata. `statistics` disturbs the running
/// statistics.
fn emit<T: Scalar>(
    program: &Program<T>,
    input: &Tensor,
    request: &Request,
    first: Step<T>,
    disturb: &mut dyn Disturb<T>,
    mut statistics: Option<&mut Rounding>,
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
        None => sink("output".to_string(), tensor(whole)),
        Some(loss) => {
            sink("logits".to_string(), tensor(whole));
            sink("loss".to_string(), Tensor::real(arr0(loss).view().into_dyn()));
        }
    }
    let mut own = program.clone();
    if request.mode == Mode::Train {
        own.update_running_statistics(&forward);
    }
    if let Some(backward) = &backward {
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
            sink("grad_input".to_string(), tensor(dx));
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
            sink(name.to_string(), Tensor::real(tensor.view()));
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
    emit(program, input, request, first, disturb, None, &mut |name, tensor| result.insert(name, tensor))?;
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

/// Converts a value to PyTorch's layout.
fn tensor<T: Scalar>(value: &Value<T>) -> Tensor {
    match value {
        Value::Images(x) => Tensor::real(nhwc_to_nchw(x).view().into_dyn()),
        Value::Rows(x) => Tensor::real(x.view().into_dyn()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr1;

    #[test]
    fn what_is_not_finite_is_no_small_difference() {
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        let difference = |a: [f64; 3], b: [f64; 3]| largest_difference(&arr1(&a).into(), &arr1(&b).into());
        assert_eq!(difference([1.0, 2.0, 3.0], [1.5, 2.0, 2.0]), 1.0);
        assert_eq!(difference([nan, infinite, 1.0], [nan, infinite, 1.25]), 0.25);
        assert!(difference([nan, 1.0, 2.0], [1.0, 1.0, 2.0]).is_nan());
        assert!(difference([1.0, 1.0, 2.0], [1.0, nan, 5.0]).is_nan());
        assert_eq!(difference([1.0, infinite, 2.0], [1.0, 1.0, 2.0]), infinite);
        assert_eq!(difference([1.0, infinite, 2.0], [1.0, -infinite, 2.0]), infinite);
        assert!(larger(nan, 1.0).is_nan() && larger(1.0, nan).is_nan() && larger(1.0, 2.0) == 2.0);
        assert_eq!(largest(&[1.0, -3.0, nan, infinite]), 3.0);
    }
}
