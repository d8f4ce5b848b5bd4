//! Makes each mistake on purpose: in the program, the tensors or the request, or within a step ([`Disturb`]).

use super::{Mistake, WrongNorm};
use crate::layers::{BatchNorm2d, Mode, Reduction, Relu, RunningVariance};
use crate::oracle::dump::{Goal, Request};
use crate::oracle::layer::Task;
use crate::parameters::Gradients;
use crate::program::{Disturb, Layer, Passage, Program, Step, Value};
use crate::tensors::{Tensor, Tensors};
use ndarray::{Array2, Array4, ArrayD, Axis, Ix4};

impl Mistake {
    /// Changes the task so that its result is wrong in this way; `false` if the mistake can change nothing.
    pub(super) fn make(self, task: &mut Task) -> bool {
        let batch = task.input.shape().first().copied().unwrap_or(0);
        let training = task.request.mode == Mode::Train;
        let layers = |task: &mut Task, change: &mut dyn FnMut(&mut Layer<f64>) -> bool| {
            task.program.steps.iter_mut().fold(false, |any, step| change(&mut step.layer) | any)
        };
        let backward = !matches!(task.request.goal, Goal::Forward);
        match self {
            Mistake::RunningVariance => {
                training
                    && layers(task, &mut |layer| {
                        each_norm(layer, |bn| {
                            bn.running_variance = match bn.running_variance {
                                RunningVariance::Unbiased => RunningVariance::Biased,
                                RunningVariance::Biased => RunningVariance::Unbiased,
                            };
                        })
                    })
            }
            Mistake::MomentumComplement => {
                training && layers(task, &mut |layer| each_norm(layer, |bn| bn.momentum = 1.0 - bn.momentum))
            }
            Mistake::NormalizesUnbiased | Mistake::EpsOutsideRoot | Mistake::StatisticsPerSample => {
                training && layers(task, &mut |layer| each_norm(layer, |_| {}))
            }
            Mistake::StatisticsConstant => training && backward && layers(task, &mut |layer| each_norm(layer, |_| {})),
            Mistake::StatisticsOfEvaluation => {
                task.request.mode = Mode::Eval;
                training && layers(task, &mut |layer| each_norm(layer, |_| {}))
            }
            Mistake::StrideOnOtherConvolution => exchange_strides(&mut task.program),
            Mistake::InputNhwc | Mistake::ChannelsReversed => {
                if let Some(other) = self.of_images(&task.input) {
                    task.input = other;
                    return true;
                }
                false
            }
            Mistake::WeightHwio | Mistake::KernelFlipped | Mistake::KernelTransposed => layers(task, &mut |layer| {
                let Layer::Conv2d(conv) = layer else { return false };
                match self.of_weight(&conv.weight) {
                    Some(weight) if weight != conv.weight => {
                        conv.weight = weight;
                        true
                    }
                    _ => false,
                }
            }),
            Mistake::PaddingIgnored => layers(task, &mut |layer| match layer {
                Layer::Conv2d(conv) => std::mem::take(&mut conv.padding) != [0, 0],
                Layer::MaxPool2d(pool) => std::mem::take(&mut pool.padding) != [0, 0],
                Layer::AvgPool2d(pool) => std::mem::take(&mut pool.padding) != [0, 0],
                _ => false,
            }),
            Mistake::ReluGradientAtZero => backward && layers(task, &mut |layer| matches!(layer, Layer::Relu(_))),
            Mistake::LeakySlope => layers(task, &mut |layer| {
                let Layer::Relu(relu) = layer else { return false };
                let other = if relu.slope() == 0.1 { 0.01 } else { 0.1 };
                let leaky = relu.is_leaky();
                if leaky {
                    *relu = Relu::leaky(other).expect("a slope from 0 to 1");
                }
                leaky
            }),
            Mistake::PaddingInAverage => layers(task, &mut |layer| {
                let Layer::AvgPool2d(pool) = layer else { return false };
                pool.count_include_pad = !pool.count_include_pad;
                pool.padding != [0, 0]
            }),
            Mistake::NoResidual => remove_additions(&mut task.program),
            Mistake::NoShortcutGradient => backward && layers(task, &mut |layer| matches!(layer, Layer::Add)),
            Mistake::LossSummed | Mistake::LossAveraged => {
                let Goal::CrossEntropy { loss, .. } = &mut task.request.goal else { return false };
                let other = if self == Mistake::LossSummed { Reduction::Sum } else { Reduction::Mean };
                std::mem::replace(&mut loss.reduction, other) != other
            }
            Mistake::GradientTimesBatch | Mistake::GradientOverBatch => backward && batch > 1,
            Mistake::ParametersTimesBatch | Mistake::ParametersOverBatch => {
                let trained = |layer: &mut Layer<f64>| {
                    matches!(layer, Layer::Conv2d(_) | Layer::BatchNorm2d(_) | Layer::Linear(_))
                };
                backward && batch > 1 && layers(task, &mut |layer| trained(layer))
            }
            Mistake::UpstreamOnes => {
                let Goal::GradOutput(gradient) = &mut task.request.goal else { return false };
                let ones = Tensor::from(ArrayD::<f64>::ones(gradient.shape()));
                std::mem::replace(gradient, ones).to_f64().iter().any(|&dy| dy != 1.0)
            }
            Mistake::DecayDecoupled | Mistake::NoDecay | Mistake::Nesterov => self.make_in_step(&mut task.request),
        }
    }

    /// Changes how the optimiser steps; `false` if the mistake can change nothing.
    pub(in crate::oracle) fn make_in_step(self, request: &mut Request) -> bool {
        let decays = request.sgd.weight_decay != 0.0;
        request.steps > 0
            && match self {
                Mistake::DecayDecoupled => decays && !std::mem::replace(&mut request.decoupled, true),
                Mistake::NoDecay => std::mem::replace(&mut request.sgd.weight_decay, 0.0) != 0.0,
                Mistake::Nesterov => {
                    let usable = request.sgd.momentum > 0.0 && request.sgd.dampening == 0.0;
                    usable && !std::mem::replace(&mut request.sgd.nesterov, true)
                }
                _ => false,
            }
    }

    /// Images as this mistake reads them. Reversed channels are written in the same way.
    fn of_images(self, images: &Tensor) -> Option<Tensor> {
        let images = images.to_f64().into_dimensionality::<Ix4>().ok()?;
        let (n, c, h, w) = images.dim();
        let other: ArrayD<f64> = match self {
            Mistake::InputNhwc => {
                let flat: Vec<f64> = images.iter().copied().collect();
                let misread = Array4::from_shape_vec((n, h, w, c), flat).expect("as many values");
                misread.permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned().into_dyn()
            }
            Mistake::ChannelsReversed => {
                let mut reversed = images;
                reversed.invert_axis(Axis(1));
                reversed.as_standard_layout().into_owned().into_dyn()
            }
            _ => return None,
        };
        Some(other.into())
    }

    /// A gradient of images as this mistake writes it.
    fn of_image_gradient(self, gradient: &Tensor) -> Option<Tensor> {
        match self {
            Mistake::InputNhwc => {
                let gradient = gradient.to_f64().into_dimensionality::<Ix4>().ok()?;
                let (n, c, h, w) = gradient.dim();
                let flat: Vec<f64> = gradient.permuted_axes([0, 2, 3, 1]).iter().copied().collect();
                Some(Array4::from_shape_vec((n, c, h, w), flat).expect("as many values").into())
            }
            _ => self.of_images(gradient),
        }
    }

    /// A weight as this mistake reads it.
    fn of_weight(self, weight: &Array4<f64>) -> Option<Array4<f64>> {
        let (o, i, kh, kw) = weight.dim();
        match self {
            Mistake::WeightHwio => {
                let flat: Vec<f64> = weight.iter().copied().collect();
                let misread = Array4::from_shape_vec((kh, kw, i, o), flat).expect("as many values");
                Some(misread.permuted_axes([3, 2, 0, 1]).as_standard_layout().into_owned())
            }
            Mistake::KernelFlipped => {
                let mut flipped = weight.clone();
                flipped.invert_axis(Axis(2));
                flipped.invert_axis(Axis(3));
                Some(flipped.as_standard_layout().into_owned())
            }
            Mistake::KernelTransposed if kh == kw => {
                Some(weight.view().permuted_axes([0, 1, 3, 2]).as_standard_layout().into_owned())
            }
            _ => None,
        }
    }

    /// A gradient of a weight as this mistake writes it.
    fn of_weight_gradient(self, gradient: &Array4<f64>) -> Option<Array4<f64>> {
        match self {
            Mistake::WeightHwio => {
                let flat: Vec<f64> = gradient.view().permuted_axes([2, 3, 1, 0]).iter().copied().collect();
                Some(Array4::from_shape_vec(gradient.raw_dim(), flat).expect("as many values"))
            }
            _ => self.of_weight(gradient),
        }
    }

    /// Applies what the mistake changes when the tensors are written.
    pub(super) fn write(self, task: &Task, result: &mut Tensors) {
        let replace = |result: &mut Tensors, name: &str, other: Option<Tensor>| {
            if let Some(other) = other {
                result.insert(name, other);
            }
        };
        match self {
            Mistake::InputNhwc | Mistake::ChannelsReversed => {
                if let Some(gradient) = result.get("grad_input").cloned() {
                    replace(result, "grad_input", self.of_image_gradient(&gradient));
                }
            }
            Mistake::WeightHwio | Mistake::KernelFlipped | Mistake::KernelTransposed => {
                for step in task.program.steps.iter().filter(|step| matches!(step.layer, Layer::Conv2d(_))) {
                    let name = format!("grad_{}", crate::parameters::join(&step.name, "weight"));
                    let Some(gradient) = result.get(&name) else { continue };
                    let gradient = gradient.to_f64().into_dimensionality::<Ix4>().expect("of a convolution");
                    let other = self.of_weight_gradient(&gradient).map(Tensor::from);
                    replace(result, &name, other);
                }
            }
            Mistake::GradientTimesBatch | Mistake::GradientOverBatch => {
                let batch = task.input.shape()[0] as f64;
                let factor = if self == Mistake::GradientTimesBatch { batch } else { 1.0 / batch };
                let names: Vec<String> =
                    result.names().filter(|name| name.starts_with("grad_")).map(String::from).collect();
                for name in names {
                    let scaled = result.get(&name).map(|gradient| Tensor::from(gradient.to_f64() * factor));
                    replace(result, &name, scaled);
                }
            }
            Mistake::StatisticsOfEvaluation => {
                // The running statistics do not change.
                use crate::parameters::{Parameters as _, Role};
                task.program.visit("", &mut |name, role, tensor| {
                    if role == Role::Statistic {
                        result.insert(name, Tensor::real(tensor));
                    }
                });
            }
            _ => {}
        }
    }
}

fn each_norm(layer: &mut Layer<f64>, change: impl Fn(&mut BatchNorm2d<f64>)) -> bool {
    match layer {
        Layer::BatchNorm2d(bn) => {
            change(bn);
            true
        }
        _ => false,
    }
}

/// v1 ↔ v1.5 in every bottleneck: a 1x1 and the 3x3 after it, one of which has a stride.
fn exchange_strides(program: &mut Program<f64>) -> bool {
    let convs: Vec<usize> = (0..program.steps.len())
        .filter(|&i| {
            matches!(program.steps[i].layer, Layer::Conv2d(_)) && !program.steps[i].name.contains("downsample")
        })
        .collect();
    let mut changed = false;
    for pair in convs.windows(2) {
        let (before, behind) = program.steps.split_at_mut(pair[1]);
        if let (Layer::Conv2d(first), Layer::Conv2d(second)) = (&mut before[pair[0]].layer, &mut behind[0].layer) {
            let kernels = [first.weight.dim(), second.weight.dim()].map(|(_, _, kh, kw)| [kh, kw]);
            if kernels == [[1, 1], [3, 3]] && first.stride != second.stride {
                std::mem::swap(&mut first.stride, &mut second.stride);
                changed = true;
            }
        }
    }
    changed
}

/// Every step that reads a sum reads its first summand, the branch, instead; no step reads the shortcut.
fn remove_additions(program: &mut Program<f64>) -> bool {
    let mut changed = false;
    for sum in 0..program.steps.len() {
        if matches!(program.steps[sum].layer, Layer::Add) {
            let branch = program.steps[sum].reads[0];
            for step in &mut program.steps[sum + 1..] {
                step.reads.iter_mut().filter(|value| **value == sum + 1).for_each(|value| *value = branch);
            }
            changed = true;
        }
    }
    changed
}

/// Mistakes within a step.
impl Disturb<f64> for Mistake {
    fn result(&mut self, step: &Step<f64>, reads: &[&Value<f64>], value: &mut Value<f64>) {
        if let (Layer::BatchNorm2d(bn), Value::Images(x), Value::Images(y), Some(wrong)) =
            (&step.layer, reads[0], value, WrongNorm::of(*self))
        {
            *y = wrong.forward(bn, x);
        }
    }

    fn logits(&mut self, _: &mut Array2<f64>) {}

    fn gradients(
        &mut self,
        step: &Step<f64>,
        Passage { reads, dy, .. }: Passage<'_, f64>,
        gradients: &mut [Value<f64>],
        parameters: &mut Gradients<f64>,
    ) {
        let batch = reads[0].shape()[0] as f64;
        let factor = match self {
            Mistake::ParametersTimesBatch => batch,
            Mistake::ParametersOverBatch => 1.0 / batch,
            _ => 1.0,
        };
        if factor != 1.0 {
            parameters.iter_mut().for_each(|(_, gradient)| *gradient *= factor);
        }
        match (&step.layer, reads[0], dy) {
            (Layer::BatchNorm2d(bn), Value::Images(x), Value::Images(dy)) => {
                if let Some(wrong) = WrongNorm::of(*self) {
                    let (dx, dgamma) = wrong.backward(bn, x, dy);
                    gradients[0] = Value::Images(dx);
                    for (name, gradient) in parameters.iter_mut().filter(|(name, _)| name.ends_with("weight")) {
                        debug_assert!(name.starts_with(&step.name));
                        gradient.assign(&dgamma.view().into_dyn());
                    }
                }
            }
            (Layer::Relu(relu), Value::Images(x), Value::Images(dy)) if *self == Mistake::ReluGradientAtZero => {
                let gate = |x: f64, dy: f64| if x >= 0.0 { dy } else { relu.slope() * dy };
                let dx = ndarray::Zip::from(x).and(dy).map_collect(|&x, &dy| gate(x, dy));
                gradients[0] = Value::Images(dx.into_shared());
            }
            (Layer::Add, ..) if *self == Mistake::NoShortcutGradient => {
                if let Value::Images(gradient) = &mut gradients[1] {
                    *gradient = Array4::zeros(gradient.raw_dim()).into_shared();
                }
            }
            _ => {}
        }
    }
}
