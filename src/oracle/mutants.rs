//! Faults in every operation, which the conformance pack must detect.
//!
//! A [`Mutant`] is one operation with one fault, in a layer, a block or a network, wherever the operation occurs. There are four
//! kinds:
//!
//! - **a classic mistake**, one of those that `resnet oracle diagnose` knows ([`Mistake`]);
//! - **another layer** in its place: height and width of its stride exchanged, its dilation forgotten;
//! - **a wrong formula**: a term of the gradient missing, a window's gradient overwritten where windows overlap, a gradient for each
//!   of several equal maxima;
//! - **wrong values**, for each of the operation's results and gradients: all zeros; the last image, a channel or the last
//!   column zero; two channels exchanged; everything shifted one pixel to the right; everything too large by a thousandth.
//!
//! `list.rs` lists the faults of each operation, `formulas.rs` contains the wrong formulas it names, `sgd.rs` the step of SGD,
//! and `values.rs` the wrong values. This file injects a fault and computes the results.

mod formulas;
mod list;
mod sgd;
mod values;

use super::diagnose::{Mistake, WrongNorm, made};
use super::dump::{Goal, dump_disturbed};
use super::layer::{Settings, Task, name_loss, sgd_request};
use super::pack::{Case, Subject};
use crate::Activation;
use crate::layers::{
    AvgPool2d, BatchNorm2d, Conv2d, Linear, MaxPool2d, Mode, Relu, SoftmaxCrossEntropy, ZeroPadShortcut,
};
use crate::parameters::Gradients;
use crate::program::{Disturb, Layer, Passage, Step, Value};
use crate::tensors::Tensors;
use list::{Entry, LIST};
use ndarray::{Array2, Array4, ArrayD, Axis};
use sgd::SgdTerms;
use values::{Change, wrong_values};

/// One operation with one fault.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// The operation, named as the oracle's layers; `sgd` for the optimiser.
    pub operation: &'static str,
    /// Which of its outputs is wrong: `result`, `grad_input`, `grad_weight`, `grad_bias`, or `all` for a fault of the whole.
    pub part: &'static str,
    /// What is wrong with it.
    pub what: &'static str,
    /// What is right instead; empty for wrong values.
    pub right: &'static str,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A classic mistake.
    Classic(Mistake),
    /// Another layer.
    Layer(OtherLayer),
    /// Another loss; the function returns `false` if it is the same.
    Loss(fn(&mut SoftmaxCrossEntropy<f64>, &mut Vec<usize>, usize) -> bool),
    /// Another result, given the values that were read.
    Result(fn(&Layer<f64>, &Activation<f64>, &mut Activation<f64>)),
    /// Another gradient of the input.
    Gradient(fn(&Layer<f64>, &Passing<'_>) -> Option<Activation<f64>>),
    /// Parameter gradients computed from another gradient of the result.
    Parameters(fn(&Activation<f64>) -> Activation<f64>),
    /// Another gradient of a convolution's weight.
    Weight(WeightGradient),
    /// A batch norm that forgets a part of its gradient.
    Norm(WrongNorm),
    /// Another loss and gradient of the logits.
    Logits(fn(&Array2<f64>, &[usize], &mut f64, &mut Array2<f64>)),
    /// Wrong values in the given part.
    Values(Change),
    /// Another step of SGD.
    Sgd(fn(&mut SgdTerms)),
}

/// Computes a convolution's gradient of the weight from x and dy; `None` if it is the right one.
type WeightGradient = fn(&Conv2d<f64>, &Activation<f64>, &Activation<f64>) -> Option<Array4<f64>>;

/// Another layer in place of one; the function returns `false` if it is the same.
#[derive(Clone, Copy, Debug)]
enum OtherLayer {
    Conv2d(fn(&mut Conv2d<f64>) -> bool),
    BatchNorm2d(fn(&mut BatchNorm2d<f64>) -> bool),
    Relu(fn(&mut Relu<f64>) -> bool),
    MaxPool2d(fn(&mut MaxPool2d) -> bool),
    AvgPool2d(fn(&mut AvgPool2d) -> bool),
    Linear(fn(&mut Linear<f64>) -> bool),
    ZeroPadShortcut(fn(&mut ZeroPadShortcut) -> bool),
}

impl OtherLayer {
    fn make(self, layer: &mut Layer<f64>) -> bool {
        match (self, layer) {
            (OtherLayer::Conv2d(change), Layer::Conv2d(conv)) => change(conv),
            (OtherLayer::BatchNorm2d(change), Layer::BatchNorm2d(bn)) => change(bn),
            (OtherLayer::Relu(change), Layer::Relu(relu)) => change(relu),
            (OtherLayer::MaxPool2d(change), Layer::MaxPool2d(pool)) => change(pool),
            (OtherLayer::AvgPool2d(change), Layer::AvgPool2d(pool)) => change(pool),
            (OtherLayer::Linear(change), Layer::Linear(linear)) => change(linear),
            (OtherLayer::ZeroPadShortcut(change), Layer::ZeroPadShortcut(shortcut)) => change(shortcut),
            _ => false,
        }
    }
}

/// The arrays of a step on images.
struct Passing<'a> {
    x: &'a Activation<f64>,
    dy: &'a Activation<f64>,
    dx: &'a Activation<f64>,
}

/// Every mutant.
pub fn mutants() -> Vec<Mutant> {
    let mut all = Vec::new();
    all.extend(Mistake::ALL.map(|mistake| Mutant {
        operation: mistake.operation(),
        part: "all",
        what: mistake.name(),
        right: mistake.explanation(),
        fault: Fault::Classic(mistake),
    }));
    for (operation, entries) in LIST {
        all.extend(entries.iter().map(|&Entry { part, what, right, fault }| Mutant {
            operation,
            part,
            what,
            right,
            fault,
        }));
    }
    wrong_values(&mut all);
    all.sort_by_key(|mutant| OPERATIONS.iter().position(|operation| *operation == mutant.operation));
    all
}

/// Every operation, in the order of the report.
pub const OPERATIONS: [&str; 12] = [
    "conv2d",
    "batch_norm",
    "relu",
    "leaky_relu",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "linear",
    "add",
    "zero_pad_shortcut",
    "softmax_cross_entropy",
    "sgd",
];

impl Mutant {
    /// Whether its error is a factor of about 1.001.
    pub fn is_a_thousandth(&self) -> bool {
        self.what.ends_with("by a thousandth")
    }

    /// The results of a case with this fault. `None` if the fault does not apply to the case; empty if nothing can be computed.
    pub fn compute(&self, case: &Case) -> Option<Tensors> {
        if let Subject::Layer("sgd", settings) = case.subject {
            return self.step(case, settings);
        }
        let mut task = case.task().expect("everything but SGD is made of layers");
        let right = task.clone();
        let made = match self.fault {
            Fault::Classic(mistake) => return made(&right, mistake).map(Result::unwrap_or_default),
            Fault::Sgd(_) => false,
            Fault::Layer(other) => {
                let own = |step: &&mut Step<f64>| step.layer.name() == self.operation;
                task.program.steps.iter_mut().filter(own).fold(false, |made, step| other.make(&mut step.layer) | made)
            }
            Fault::Loss(change) => match &mut task.request.goal {
                Goal::CrossEntropy { target, loss } => change(loss, target, classes(&right)),
                _ => false,
            },
            Fault::Norm(_) => task.request.mode == Mode::Train && self.occurs(&task),
            _ => self.occurs(&task),
        };
        if !made {
            return None;
        }
        let mut disturb = *self;
        let result = dump_disturbed(&task.program, &task.input, &task.request, &mut disturb);
        let mut result = result.unwrap_or_default();
        if !result.is_empty() {
            name_loss(&right.program, &mut result);
        }
        Some(result)
    }

    /// Whether the operation occurs in a task.
    fn occurs(&self, task: &Task) -> bool {
        match self.operation {
            "softmax_cross_entropy" => matches!(task.request.goal, Goal::CrossEntropy { .. }),
            _ => task.program.steps.iter().any(|step| step.layer.name() == self.operation),
        }
    }

    fn step(&self, case: &Case, settings: &str) -> Option<Tensors> {
        let settings: Settings = settings.parse().expect("settings of the pack are well-formed");
        let mut request = sgd_request(&settings).expect("settings of the pack are right");
        match self.fault {
            Fault::Classic(mistake) => {
                let made = mistake.make_in_step(&mut request);
                made.then(|| super::layer::sgd::<f64>(&request, &case.input, &[]).unwrap_or_default())
            }
            Fault::Sgd(change) => {
                let mut terms = SgdTerms::of(&request);
                change(&mut terms);
                Some(terms.step(&case.input))
            }
            _ => None,
        }
    }

    fn part_is(&self, part: &str) -> bool {
        self.part == part
    }
}

fn classes(task: &Task) -> usize {
    task.program
        .steps
        .iter()
        .rev()
        .find_map(|step| match &step.layer {
            Layer::Linear(linear) => Some(linear.bias.len()),
            _ => None,
        })
        .unwrap_or_else(|| task.input.shape().get(1).copied().unwrap_or(1))
}

impl Disturb<f64> for Mutant {
    fn result(&mut self, step: &Step<f64>, reads: &[&Value<f64>], value: &mut Value<f64>) {
        if step.layer.name() != self.operation || !self.part_is("result") {
            return;
        }
        match (self.fault, reads[0], &mut *value) {
            (Fault::Values(change), ..) => change.make_in(value),
            (Fault::Result(wrong), Value::Images(x), Value::Images(y)) => wrong(&step.layer, x, y),
            _ => {}
        }
    }

    fn logits(&mut self, _: &mut Array2<f64>) {}

    fn loss(&mut self, logits: &Array2<f64>, target: &[usize], loss: &mut f64, dlogits: &mut Array2<f64>) {
        if self.operation != "softmax_cross_entropy" {
            return;
        }
        match (self.fault, self.part) {
            (Fault::Logits(wrong), _) => wrong(logits, target, loss, dlogits),
            (Fault::Values(change), "result") => {
                let mut one = ArrayD::from_elem(vec![1], *loss);
                change.make(one.view_mut(), true);
                *loss = one[[0]];
            }
            (Fault::Values(change), _) => change.make(dlogits.view_mut().into_dyn(), false),
            _ => {}
        }
    }

    fn gradients(
        &mut self,
        step: &Step<f64>,
        passage: Passage<'_, f64>,
        gradients: &mut [Value<f64>],
        parameters: &mut Gradients<f64>,
    ) {
        if step.layer.name() != self.operation {
            return;
        }
        let own = |name: &str, part: &str| {
            part.strip_prefix("grad_").is_some_and(|parameter| name.rsplit('.').next() == Some(parameter))
        };
        match (self.fault, passage.reads[0], passage.dy) {
            (Fault::Values(change), ..) if self.part_is("grad_input") => {
                gradients.iter_mut().for_each(|gradient| change.make_in(gradient));
            }
            (Fault::Values(change), ..) => {
                let parameters = parameters.iter_mut().filter(|(name, _)| own(name, self.part));
                parameters.for_each(|(_, gradient)| change.make(gradient.view_mut(), true));
            }
            (Fault::Gradient(wrong), Value::Images(x), Value::Images(dy)) => {
                for gradient in gradients {
                    if let Value::Images(dx) = gradient
                        && let Some(other) = wrong(&step.layer, &Passing { x, dy, dx })
                    {
                        *dx = other;
                    }
                }
            }
            (Fault::Gradient(wrong), Value::Images(x), Value::Rows(_)) => {
                if let Value::Images(dx) = &mut gradients[0] {
                    // A global average pool, whose gradient needs only dx.
                    if let Some(other) = wrong(&step.layer, &Passing { x, dy: x, dx }) {
                        *dx = other;
                    }
                }
            }
            (Fault::Parameters(wrong), Value::Images(x), Value::Images(dy)) => {
                if let Layer::BatchNorm2d(_) = &step.layer {
                    // grad_bias = Σ dy, over images and pixels.
                    let other =
                        wrong(dy).fold_axis(Axis(0), 0.0, |sum, dy| sum + dy).sum_axis(Axis(0)).sum_axis(Axis(0));
                    let bias = parameters.iter_mut().filter(|(name, _)| own(name, self.part));
                    bias.for_each(|(_, gradient)| gradient.assign(&other));
                    return;
                }
                let Layer::Conv2d(conv) = &step.layer else { return };
                let Ok((_, cache)) = conv.forward(x) else { return };
                let Ok(other) = conv.parameter_gradients(&wrong(dy), &cache) else { return };
                for (_, gradient) in parameters.iter_mut().filter(|(name, _)| own(name, self.part)) {
                    match (self.part, &other.bias) {
                        ("grad_weight", _) => gradient.assign(&other.weight),
                        (_, Some(bias)) => gradient.assign(bias),
                        _ => {}
                    }
                }
            }
            (Fault::Parameters(wrong), Value::Rows(x), Value::Rows(dy)) => {
                // Rows are images of one pixel.
                let rows = dy.view().insert_axis(Axis(1)).insert_axis(Axis(1)).to_shared();
                let dy = wrong(&rows).index_axis_move(Axis(1), 0).index_axis_move(Axis(1), 0);
                for (_, gradient) in parameters.iter_mut().filter(|(name, _)| own(name, self.part)) {
                    match self.part {
                        "grad_weight" => gradient.assign(&dy.t().dot(x)),
                        _ => gradient.assign(&dy.sum_axis(Axis(0))),
                    }
                }
            }
            (Fault::Weight(wrong), Value::Images(x), Value::Images(dy)) => {
                let Layer::Conv2d(conv) = &step.layer else { return };
                let Some(other) = wrong(conv, x, dy) else { return };
                let weight = parameters.iter_mut().filter(|(name, _)| own(name, self.part));
                weight.for_each(|(_, gradient)| gradient.assign(&other));
            }
            (Fault::Norm(wrong), Value::Images(x), Value::Images(dy)) => {
                let Layer::BatchNorm2d(bn) = &step.layer else { return };
                let (dx, dgamma) = wrong.backward(bn, x, dy);
                gradients[0] = Value::Images(dx);
                for (_, gradient) in parameters.iter_mut().filter(|(name, _)| own(name, "grad_weight")) {
                    gradient.assign(&dgamma);
                }
            }
            _ => {}
        }
    }
}
