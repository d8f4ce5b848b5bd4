//! Which of the classic misunderstandings explains somebody's numbers?
//!
//! A comparison says *that* and *where* two computations part. The same few reasons come up again and again, so [`diagnose`]
//! makes each of these mistakes in turn, on purpose and in `f64`, and compares: if theirs fit one of the wrong results as
//! well as they would have to fit the right one, that is the mistake. A result that fits the right one is never
//! accused: then nothing else is tried.
//!
//! A mistake is made where it belongs: in the program (`stride` on the wrong convolution), in the tensors (`OIHW` read as
//! `HWIO`), in the request (a sum of losses), or as a [`Disturb`] that replaces what a step returns (statistics per
//! sample). None of it touches the layers.

use super::compare::{compare, Outcome, Report, Verdict};
use super::dump::{dump, dump_disturbed, largest, tolerance_key, with_tolerances, Goal, Request};
use super::layer::{name_loss, sgd, sgd_request, Settings, Task};
use crate::layers::{BatchNorm2d, Mode, Reduction, Relu, RunningVariance};
use crate::parameters::Gradients;
use crate::program::{Disturb, Layer, Passage, Program, Step, Value};
use crate::tensors::{Dtype, Tensor, Tensors};
use crate::{Activation, Result};
use ndarray::{Array1, Array2, Array4, ArrayD, Axis, Ix4};

/// A classic misunderstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`Mistake::explanation` says what each is")]
pub enum Mistake {
    RunningVariance,
    MomentumComplement,
    NormalizesUnbiased,
    EpsOutsideRoot,
    StatisticsPerSample,
    StatisticsConstant,
    StatisticsOfEvaluation,
    StrideOnOtherConvolution,
    InputNhwc,
    ChannelsReversed,
    WeightHwio,
    KernelFlipped,
    KernelTransposed,
    PaddingIgnored,
    ReluGradientAtZero,
    LeakySlope,
    PaddingInAverage,
    NoResidual,
    NoShortcutGradient,
    LossSummed,
    LossAveraged,
    GradientTimesBatch,
    GradientOverBatch,
    DecayDecoupled,
    NoDecay,
    Nesterov,
}

impl Mistake {
    /// Every one, the more specific before the more general.
    pub const ALL: [Mistake; 26] = [
        Mistake::RunningVariance,
        Mistake::MomentumComplement,
        Mistake::NormalizesUnbiased,
        Mistake::EpsOutsideRoot,
        Mistake::StatisticsPerSample,
        Mistake::StatisticsConstant,
        Mistake::StatisticsOfEvaluation,
        Mistake::StrideOnOtherConvolution,
        Mistake::InputNhwc,
        Mistake::ChannelsReversed,
        Mistake::WeightHwio,
        Mistake::KernelFlipped,
        Mistake::KernelTransposed,
        Mistake::PaddingIgnored,
        Mistake::ReluGradientAtZero,
        Mistake::LeakySlope,
        Mistake::PaddingInAverage,
        Mistake::NoResidual,
        Mistake::NoShortcutGradient,
        Mistake::LossSummed,
        Mistake::LossAveraged,
        Mistake::GradientTimesBatch,
        Mistake::GradientOverBatch,
        Mistake::DecayDecoupled,
        Mistake::NoDecay,
        Mistake::Nesterov,
    ];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Mistake::RunningVariance => "running-variance",
            Mistake::MomentumComplement => "momentum-complement",
            Mistake::NormalizesUnbiased => "normalizes-unbiased",
            Mistake::EpsOutsideRoot => "eps-outside-root",
            Mistake::StatisticsPerSample => "statistics-per-sample",
            Mistake::StatisticsConstant => "statistics-constant",
            Mistake::StatisticsOfEvaluation => "statistics-of-evaluation",
            Mistake::StrideOnOtherConvolution => "stride-on-other-convolution",
            Mistake::InputNhwc => "input-nhwc",
            Mistake::ChannelsReversed => "channels-reversed",
            Mistake::WeightHwio => "weight-hwio",
            Mistake::KernelFlipped => "kernel-flipped",
            Mistake::KernelTransposed => "kernel-transposed",
            Mistake::PaddingIgnored => "padding-ignored",
            Mistake::ReluGradientAtZero => "relu-gradient-at-zero",
            Mistake::LeakySlope => "leaky-slope",
            Mistake::PaddingInAverage => "padding-in-average",
            Mistake::NoResidual => "no-residual",
            Mistake::NoShortcutGradient => "no-shortcut-gradient",
            Mistake::LossSummed => "loss-summed",
            Mistake::LossAveraged => "loss-averaged",
            Mistake::GradientTimesBatch => "gradient-times-batch",
            Mistake::GradientOverBatch => "gradient-over-batch",
            Mistake::DecayDecoupled => "decay-decoupled",
            Mistake::NoDecay => "no-decay",
            Mistake::Nesterov => "nesterov",
        }
    }

    /// What is done wrong, and what is right.
    pub fn explanation(self) -> &'static str {
        match self {
            Mistake::RunningVariance => {
                "the running variance moves towards the biased variance Σ(x − mean)²/m; PyTorch's towards the unbiased, /(m − 1) \
                 (normalisation itself uses the biased one)"
            }
            Mistake::MomentumComplement => {
                "running ← momentum · running + (1 − momentum) · batch; PyTorch's momentum is the weight of the new value"
            }
            Mistake::NormalizesUnbiased => "x̂ is made with the unbiased variance, /(m − 1); it takes the biased one, /m",
            Mistake::EpsOutsideRoot => "x̂ = (x − mean)/(√var + eps); eps belongs under the root",
            Mistake::StatisticsPerSample => {
                "mean and variance are those of each image (instance norm); a batch norm takes them over the whole batch"
            }
            Mistake::StatisticsConstant => {
                "the backward pass of the batch norm treats mean and variance as constants; in training they depend on x"
            }
            Mistake::StatisticsOfEvaluation => {
                "the batch norm normalises with the running statistics in training; it takes those of the batch"
            }
            Mistake::StrideOnOtherConvolution => {
                "the bottleneck's stride sits on the other convolution: torchvision (v1.5) has it on the 3x3, the paper (v1) on \
                 the first 1x1"
            }
            Mistake::InputNhwc => "the input's memory is (N, C, H, W) and was read as (N, H, W, C)",
            Mistake::ChannelsReversed => "the channels of the input come in reverse, BGR for RGB",
            Mistake::WeightHwio => "the weight's memory is (O, I, kh, kw) and was read as (kh, kw, I, O)",
            Mistake::KernelFlipped => {
                "the kernel is turned by 180 degrees, a convolution in the mathematician's sense; this one is a cross-correlation"
            }
            Mistake::KernelTransposed => "height and width of the kernel are exchanged",
            Mistake::PaddingIgnored => "there is no padding",
            Mistake::ReluGradientAtZero => "the gradient passes where the ReLU's input is exactly 0; PyTorch's is 0 there",
            Mistake::LeakySlope => "the slope of the leaky ReLU is 0.1 or 0.01, the other one than was asked for",
            Mistake::PaddingInAverage => "the average pool divides by another count: with the padding, or without (count_include_pad)",
            Mistake::NoResidual => "the shortcut is not added",
            Mistake::NoShortcutGradient => "the gradient does not return through the shortcut; an addition hands it to both",
            Mistake::LossSummed => "the loss is the sum over the batch; the mean was asked for",
            Mistake::LossAveraged => "the loss is the mean over the batch; the sum was asked for",
            Mistake::GradientTimesBatch => "gradients are larger by the number of images: the mean's 1/N was forgotten in backward",
            Mistake::GradientOverBatch => "gradients are smaller by the number of images: divided by N once too often",
            Mistake::DecayDecoupled => {
                "weight decay is taken off the parameter by itself (as in AdamW); PyTorch's SGD adds it to the gradient"
            }
            Mistake::NoDecay => "there is no weight decay",
            Mistake::Nesterov => "the step is Nesterov's; plain momentum was asked for",
        }
    }

    /// Changes the task so that its result is wrong in this way; `false` if there is nothing it could change.
    fn make(self, task: &mut Task) -> bool {
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
            Mistake::DecayDecoupled | Mistake::NoDecay | Mistake::Nesterov => self.make_in_step(&mut task.request),
        }
    }

    /// Changes how the optimiser steps; `false` if there is nothing it could change.
    pub(super) fn make_in_step(self, request: &mut Request) -> bool {
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

    /// Images as this mistake reads them; and back, since it is made again when the result is written.
    fn of_images(self, images: &Tensor) -> Option<Tensor> {
        let images = images.to_f64().into_dimensionality::<Ix4>().ok()?;
        let (n, c, h, w) = images.dim();
        let other: ArrayD<f64> = match self {
            Mistake::InputNhwc => {
                let flat: Vec<f64> = images.iter().copied().collect();
                let misread = Array4::from_shape_vec((n, h, w, c), flat).expect("as many numbers");
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
                Some(Array4::from_shape_vec((n, c, h, w), flat).expect("as many numbers").into())
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
                let misread = Array4::from_shape_vec((kh, kw, i, o), flat).expect("as many numbers");
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
                Some(Array4::from_shape_vec(gradient.raw_dim(), flat).expect("as many numbers"))
            }
            _ => self.of_weight(gradient),
        }
    }

    /// What is wrong with the tensors only once they are written.
    fn write(self, task: &Task, result: &mut Tensors) {
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
                // The running statistics stay what they were.
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

/// v1 ↔ v1.5 in every bottleneck: a 1x1 and the 3x3 behind it of which one has a stride.
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

/// Whoever reads a sum reads its first summand, the branch; the shortcut's steps go on into nothing.
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

/// A batch norm that takes its statistics in another way: x̂ = (x − mean) r(var), where
///
/// ```text
/// dx = gamma (r (dy − mean(dy)) − (x − mean) r k mean(dy (x − mean)))        k = −2 r'(var)/r
/// dgamma = Σ r dy (x − mean)
/// ```
///
/// or that forgets a part of the gradient.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrongNorm {
    /// r and k for a biased variance of m values and eps.
    pub r: fn(f64, f64, f64) -> [f64; 2],
    /// Whether every image has statistics of its own.
    pub per_sample: bool,
    /// Whether dx has mean(dy) in it: how the mean depends on x.
    pub mean_term: bool,
    /// Whether dx has the term with k in it: how the variance depends on x.
    pub variance_term: bool,
    /// Whether dx is multiplied by gamma.
    pub gamma: bool,
    /// Whether dgamma is multiplied by r.
    pub rstd: bool,
}

impl WrongNorm {
    /// Nothing wrong with it yet.
    pub const RIGHT: WrongNorm = WrongNorm {
        r: |var, _, eps| [1.0 / (var + eps).sqrt(), 1.0 / (var + eps)],
        per_sample: false,
        mean_term: true,
        variance_term: true,
        gamma: true,
        rstd: true,
    };

    fn of(mistake: Mistake) -> Option<Self> {
        let wrong = WrongNorm::RIGHT;
        Some(match mistake {
            Mistake::NormalizesUnbiased => WrongNorm {
                r: |var, m, eps| {
                    let bessel = m / (m - 1.0);
                    [1.0 / (bessel * var + eps).sqrt(), bessel / (bessel * var + eps)]
                },
                ..wrong
            },
            Mistake::EpsOutsideRoot => WrongNorm {
                r: |var, _, eps| {
                    let r = 1.0 / (var.sqrt() + eps);
                    [r, r / var.sqrt()]
                },
                ..wrong
            },
            Mistake::StatisticsPerSample => WrongNorm { per_sample: true, ..wrong },
            Mistake::StatisticsConstant => WrongNorm { mean_term: false, variance_term: false, ..wrong },
            _ => return None,
        })
    }

    /// Calls `each(images, channel, mean, var)` for every set of values with statistics of its own.
    fn sets(&self, x: &Activation<f64>, mut each: impl FnMut(std::ops::Range<usize>, usize, f64, f64)) {
        let (n, _, _, c) = x.dim();
        let size = if self.per_sample { 1 } else { n };
        for images in (0..n).step_by(size.max(1)).map(|first| first..first + size) {
            for channel in 0..c {
                let values = x.slice(ndarray::s![images.clone(), .., .., channel]);
                let mean = values.mean().unwrap_or(0.0);
                let var = values.mapv(|x| (x - mean).powi(2)).mean().unwrap_or(0.0);
                each(images.clone(), channel, mean, var);
            }
        }
    }

    fn forward(&self, bn: &BatchNorm2d<f64>, x: &Activation<f64>) -> Activation<f64> {
        let mut y = x.to_owned();
        self.sets(x, |images, c, mean, var| {
            let mut y = y.slice_mut(ndarray::s![images, .., .., c]);
            let [r, _] = (self.r)(var, y.len() as f64, bn.eps);
            y.mapv_inplace(|x| bn.gamma[c] * (x - mean) * r + bn.beta[c]);
        });
        y.into_shared()
    }

    pub fn backward(
        &self,
        bn: &BatchNorm2d<f64>,
        x: &Activation<f64>,
        dy: &Activation<f64>,
    ) -> (Activation<f64>, Array1<f64>) {
        let (mut dx, mut dgamma) = (dy.to_owned(), Array1::zeros(bn.gamma.len()));
        self.sets(x, |images, c, mean, var| {
            let at = ndarray::s![images, .., .., c];
            let (x, dy) = (x.slice(at), dy.slice(at));
            let m = x.len() as f64;
            let [r, k] = (self.r)(var, m, bn.eps);
            let mean_dy = dy.sum() / m;
            let product = ndarray::Zip::from(x).and(dy).fold(0.0, |sum, &x, &dy| sum + (x - mean) * dy);
            dgamma[c] += if self.rstd { r * product } else { product };
            let gamma = if self.gamma { bn.gamma[c] } else { 1.0 };
            let mean_term = if self.mean_term { r * mean_dy } else { 0.0 };
            let variance_term = if self.variance_term { r * k * product / m } else { 0.0 };
            ndarray::Zip::from(dx.slice_mut(at)).and(x).and(dy).for_each(|dx, &x, &dy| {
                *dx = gamma * (r * dy - mean_term - (x - mean) * variance_term);
            });
        });
        (dx.into_shared(), dgamma)
    }
}

/// A mistake that was made on purpose, and how theirs compare with it.
#[derive(Clone, Debug)]
pub struct Suspicion {
    /// The mistake.
    pub mistake: Mistake,
    /// Theirs against a result with this mistake.
    pub report: Report,
}

/// What [`diagnose`] found.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// Theirs against the right result.
    pub right: Report,
    /// Every mistake that could be made here; none if theirs are right.
    pub tried: Vec<Suspicion>,
}

impl Diagnosis {
    /// The mistakes that explain everything theirs hold.
    pub fn explains(&self) -> impl Iterator<Item = Mistake> + '_ {
        self.tried.iter().filter(|suspicion| suspicion.report.passed()).map(|suspicion| suspicion.mistake)
    }
}

/// The same for a step of SGD.
///
/// # Errors
/// For a wrong setting, or tensors that are missing.
pub fn diagnose_sgd(settings: &Settings, tensors: &Tensors, theirs: &Tensors) -> Result<Diagnosis> {
    let request = sgd_request(settings)?;
    let ours = sgd::<f64>(&request, tensors)?;
    let right = compare(&ours, theirs, None)?;
    let mut tried = Vec::new();
    for mistake in Mistake::ALL.into_iter().filter(|_| !right.passed()) {
        let mut wrong = request.clone();
        if mistake.make_in_step(&mut wrong) {
            let mut result = sgd::<f64>(&wrong, tensors)?;
            result.metadata = ours.metadata.clone();
            tried.push(Suspicion { mistake, report: compare(&result, theirs, None)? });
        }
    }
    Ok(Diagnosis { right, tried })
}

/// A task with a mistake in it, ready to be computed.
struct Wrong<'a> {
    task: &'a Task,
    wrong: Task,
    mistake: Mistake,
}

impl<'a> Wrong<'a> {
    /// `None` if there is nothing the mistake could change.
    fn new(task: &'a Task, mistake: Mistake) -> Option<Self> {
        let mut wrong = task.clone();
        mistake.make(&mut wrong).then_some(Wrong { task, wrong, mistake })
    }

    fn result(&self) -> Result<Tensors> {
        let Task { program, input, request } = &self.wrong;
        let mut result = dump_disturbed(program, input, request, &mut self.mistake.clone())?;
        name_loss(&self.task.program, &mut result);
        self.mistake.write(&self.wrong, &mut result);
        Ok(result)
    }

    /// What rounding does to the mistaken computation, for numbers of `dtypes`: entries of the metadata.
    fn tolerances(&self, dtypes: &[Dtype]) -> Result<Vec<(String, String)>> {
        let Task { program, input, request } = &self.wrong;
        let (mut result, tolerances) = with_tolerances(program, input, request, Some(self.mistake), dtypes)?;
        result.metadata.extend(tolerances);
        name_loss(&self.task.program, &mut result);
        let mut written = result.clone();
        self.mistake.write(&self.wrong, &mut written);
        // What is written larger than it was computed has larger errors.
        let size = |tensors: &Tensors, name: &str| tensors.get(name).map_or(0.0, |tensor| largest(&tensor.to_f64()));
        let scaled = |line: &str| match line.rsplit_once(' ').map(|(name, value)| (name, value.parse::<f64>())) {
            Some((name, Ok(tolerance))) if size(&result, name) > 0.0 => {
                format!("{name} {:e}\n", tolerance * size(&written, name) / size(&result, name))
            }
            _ => format!("{line}\n"),
        };
        let keys = dtypes.iter().map(|&dtype| tolerance_key(dtype));
        let lines = |key: &String| result.metadata.get(key).map_or("", String::as_str).lines().map(scaled).collect();
        Ok(keys.map(|key| (key.clone(), lines(&key))).collect())
    }
}

/// The result of `task` with a mistake in it; `None` if there is nothing it could change, or if what it leads to cannot be
/// computed at all.
pub fn mistaken(task: &Task, mistake: Mistake) -> Option<Tensors> {
    made(task, mistake)?.ok()
}

/// The same, with the error of what cannot be computed.
pub(super) fn made(task: &Task, mistake: Mistake) -> Option<Result<Tensors>> {
    Some(Wrong::new(task, mistake)?.result())
}

/// Compares theirs with the right result of `task`, and if they do not fit, with the result of every mistake.
///
/// # Errors
/// Those of the layers on the right result.
pub fn diagnose(task: &Task, theirs: &Tensors) -> Result<Diagnosis> {
    let mut request = task.request.clone();
    request.tolerances = true;
    let mut ours = dump::<f64>(&task.program, &task.input, &request)?;
    name_loss(&task.program, &mut ours);
    let right = compare(&ours, theirs, None)?;
    let mut dtypes = vec![Dtype::F32, Dtype::F64];
    dtypes.retain(|dtype| theirs.iter().any(|(_, tensor)| tensor.dtype().widened() == *dtype));
    // The tolerances are those of the right computation, and a mistaken one may amplify rounding more: a ResNet without its shortcuts
    // does, by far.
    let closer = |wrong: &Wrong<'_>| -> Result<Report> {
        let mut result = wrong.result()?;
        result.metadata = ours.metadata.clone();
        result.metadata.extend(wrong.tolerances(&dtypes)?);
        compare(&result, theirs, None)
    };
    let mut tried: Vec<Suspicion> = Vec::new();
    for mistake in Mistake::ALL.into_iter().filter(|_| !right.passed()) {
        let Some(wrong) = Wrong::new(task, mistake) else { continue };
        let Ok(mut result) = wrong.result() else { continue };
        result.metadata = ours.metadata.clone();
        let mut report = compare(&result, theirs, None)?;
        if !report.passed() && report.tensors.iter().all(near) && report.unknown.is_empty() {
            report = closer(&wrong)?;
        }
        tried.push(Suspicion { mistake, report });
    }
    if !tried.iter().any(|suspicion| suspicion.report.passed()) {
        // In float32 the gradients of a deep network may have lost nearly all digits: then the likeliest is looked at.
        let fitting = |report: &Report| report.tensors.iter().filter(|v| v.tried() && v.passed()).count();
        let likeliest = tried.iter_mut().rev().max_by_key(|suspicion| fitting(&suspicion.report));
        let likeliest = likeliest.filter(|likeliest| fitting(&likeliest.report) > fitting(&right));
        if let Some(likeliest) = likeliest {
            if let Some(wrong) = Wrong::new(task, likeliest.mistake) {
                likeliest.report = closer(&wrong)?;
            }
        }
    }
    Ok(Diagnosis { right, tried })
}

/// Whether the tensors are the same to a quarter of their digits: |theirs − ours| ≤ ⁴√u · max |ours|. No rounding that is worth the
/// name leads further, and few mistakes stay within it, so that only those few are looked at more closely.
fn near(verdict: &Verdict) -> bool {
    let u = verdict.dtypes[1].unit_roundoff().unwrap_or(0.0);
    match verdict.outcome {
        Outcome::Fits | Outcome::NotGiven => true,
        Outcome::Leaves(_) => verdict.absolute.error <= u.powf(0.25) * verdict.scale,
        Outcome::Shape(_) => false,
    }
}
