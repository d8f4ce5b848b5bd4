//! One layer, one block or one step of the optimiser on given tensors: `resnet oracle layer`.
//!
//! | kind | reads | settings |
//! |---|---|---|
//! | `conv2d` | `input` `weight` (`bias`) | `stride` `padding` `dilation` `groups`; `padding` is also `same`, `valid` or `1:2x0:1`, before:after |
//! | `batch_norm` | `input` (`weight` `bias` `running_mean` `running_var` `num_batches_tracked`) | `mode` (`train`, `eval`; or `training`, a flag) `eps` `momentum` (a number, or `none`: the average of all batches) |
//! | `relu` `leaky_relu` | `input`, of any shape | `negative_slope` of the leaky one |
//! | `max_pool` | `input` | `kernel_size` `stride` `padding` `dilation` `ceil_mode` |
//! | `avg_pool` | `input` | `kernel_size` `stride` `padding` `ceil_mode` `count_include_pad` `divisor_override` |
//! | `global_avg_pool` | `input` | |
//! | `linear` | `input` (N, F) `weight` (`bias`) | |
//! | `softmax_cross_entropy` | `input` (N, classes) `target` (`weight`): classes, or probabilities (N, classes) | `reduction` (`mean` `sum` `none`) `label_smoothing` `ignore_index` |
//! | `basic_block` `bottleneck` `preact_basic_block` `preact_bottleneck` | `input` and the block's state dict | `stride` `stride_on` `groups` `shortcut` `mode` `eps` `momentum` |
//! | `sgd` | `param` `grad` (`momentum_buffer`) | `lr` `momentum` `dampening` `weight_decay` `nesterov` |
//!
//! Names, shapes, settings and their defaults are PyTorch's: `input (N, C, H, W)`, `weight (C_out, C_in/groups, kh, kw)`.
//! With `grad_output` there is also a backward pass. Results are named as in [`mod@super::dump`]. Inputs in parentheses are
//! optional.

use super::arithmetic::{Arithmetic, matches};
use super::dump::{Goal, Request, Stepper, dump, reshaped, tolerance_of};
use super::loss::{Loss, LossSettings, Rows};
use super::rounding::{Allowed, MULTIPLE};
use super::tolerance::Tolerances;
use crate::error::nearest;
use crate::layers::{
    AvgPool2d, BatchNorm2d, Conv2d, Linear, MaxPool2d, Mode, Reduction, Relu, SoftmaxCrossEntropy, ZeroPadShortcut,
};
use crate::model::Block;
use crate::model::block::ResidualBlock;
use crate::model::pre_activation::PreActivationBlock;
use crate::model::shortcut::Shortcut;
use crate::model::unit::Unit;
use crate::optim::SgdConfig;
use crate::parameters::{Gradients, Parameters, Role, is_counter};
use crate::program::{Layer, Program};
use crate::tensors::{Tensor, Tensors};
use crate::{Error, Result, Scalar};
use ndarray::{Array1, Array2, ArrayD, ArrayViewD, ArrayViewMutD, Dimension, Ix1, Ix2, Ix4, Zip, s};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// Every kind that [`run`] knows.
pub const KINDS: [&str; 14] = [
    "conv2d",
    "batch_norm",
    "relu",
    "leaky_relu",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "linear",
    "softmax_cross_entropy",
    "basic_block",
    "bottleneck",
    "preact_basic_block",
    "preact_bottleneck",
    "sgd",
];

/// `stride=2,padding=1x0`: names and values. A pair is written height x width; a single number means both.
///
/// ```
/// use resnet_by_hand::oracle::Settings;
/// let settings: Settings = "stride=2,padding=1x0".parse()?;
/// assert!("stride".parse::<Settings>().is_err());
/// # let _ = settings;
/// # Ok::<(), resnet_by_hand::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(BTreeMap<String, String>);

impl FromStr for Settings {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut settings = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(Error::argument("settings", format!("expected NAME=VALUE, got `{part}`")));
            };
            if settings.insert(key.trim().to_string(), value.trim().to_string()).is_some() {
                return Err(Error::argument("settings", format!("`{}` is given twice", key.trim())));
            }
        }
        Ok(Settings(settings))
    }
}

impl Settings {
    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Settings {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Settings(pairs.into_iter().collect())
    }
}

/// Reads settings and records which were read: a setting that is never read is an error.
struct Reader<'a> {
    kind: &'a str,
    settings: &'a Settings,
    asked: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.asked.insert(key);
        self.settings.0.get(key).map(String::as_str)
    }

    fn read<V>(&mut self, key: &'static str, expected: &str, read: impl Fn(&str) -> Option<V>) -> Result<Option<V>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let value = read(text);
        let wrong = || Error::argument("settings", format!("{}: `{key}` expects {expected}, got `{text}`", self.kind));
        value.ok_or_else(wrong).map(Some)
    }

    fn number(&mut self, key: &'static str, default: f64) -> Result<f64> {
        let read = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
        Ok(self.read(key, "a number", read)?.unwrap_or(default))
    }

    fn count(&mut self, key: &'static str) -> Result<Option<usize>> {
        self.read(key, "a whole number", |text| text.parse().ok())
    }

    fn flag(&mut self, key: &'static str, default: bool) -> Result<bool> {
        let read = |text: &str| match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        };
        Ok(self.read(key, "true or false", read)?.unwrap_or(default))
    }

    fn pair(&mut self, key: &'static str) -> Result<Option<[usize; 2]>> {
        let read = |text: &str| match text.split_once('x') {
            Some((height, width)) => Some([height.parse().ok()?, width.parse().ok()?]),
            None => text.parse().ok().map(|side| [side, side]),
        };
        self.read(key, "a whole number or height x width, such as 2 or 2x1", read)
    }

    fn choice<V: Copy>(&mut self, key: &'static str, choices: &[(&str, V)]) -> Result<Option<V>> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let read = |text: &str| choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        self.read(key, &names.join(" or "), read)
    }

    fn mode(&mut self) -> Result<Mode> {
        let training = self.flag("training", true)?;
        let default = if training { Mode::Train } else { Mode::Eval };
        Ok(self.choice("mode", &[("train", Mode::Train), ("eval", Mode::Eval)])?.unwrap_or(default))
    }

    /// Rejects settings that were not read.
    fn done(self) -> Result<()> {
        let Some(unknown) = self.settings.0.keys().find(|key| !self.asked.contains(key.as_str())) else {
            return Ok(());
        };
        let known: Vec<String> = self.asked.iter().map(|key| key.to_string()).collect();
        let hint = nearest(unknown, &known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let list = if known.is_empty() { "it has none".to_string() } else { format!("known: {}", known.join(", ")) };
        Err(Error::argument("settings", format!("{} has no setting `{unknown}`{hint} ({list})", self.kind)))
    }
}

/// Whether a result of this kind can have a name like `pattern`, whatever its inputs and settings are; in a block any module may.
pub(super) fn can_have(kind: &str, pattern: &str) -> bool {
    let names: &[&str] = match kind {
        "conv2d" | "linear" => &["output", "grad_input", "grad_weight", "grad_bias"],
        "batch_norm" => &["output", "grad_input", "grad_weight", "grad_bias", "running_mean", "running_var"],
        "sgd" => &["param", "momentum_buffer"],
        "basic_block" | "bottleneck" | "preact_basic_block" | "preact_bottleneck" => return true,
        _ => &["output", "grad_input"],
    };
    names.iter().any(|name| matches(pattern, name))
}

/// The settings of a kind, and `model` of a network.
pub(super) fn settings_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "conv2d" => &["stride", "padding", "dilation", "groups"],
        "batch_norm" => &["mode", "training", "eps", "momentum"],
        "leaky_relu" => &["negative_slope"],
        "max_pool" => &["kernel_size", "stride", "padding", "dilation", "ceil_mode"],
        "avg_pool" => &["kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"],
        "softmax_cross_entropy" => &["reduction", "label_smoothing", "ignore_index"],
        "basic_block" | "bottleneck" | "preact_basic_block" | "preact_bottleneck" => {
            &["stride", "stride_on", "groups", "shortcut", "mode", "training", "eps", "momentum"]
        }
        "sgd" => &["lr", "momentum", "dampening", "weight_decay", "nesterov"],
        "model" => &["model"],
        _ => &[],
    }
}

/// A layer with its tensors, ready to be computed.
#[derive(Clone, Debug)]
pub struct Task {
    /// The layer, as steps.
    pub program: Program<f64>,
    /// Its `input`.
    pub input: Tensor,
    /// What to compute.
    pub request: Request,
}

/// Computes a layer of the given kind on `tensors`, in `T`, with the tolerances for results computed in each of
/// `computed_in`.
///
/// # Errors
/// For an unknown kind or setting or a missing tensor, and those of the layer.
pub fn run<T: Scalar>(
    kind: &str,
    settings: &Settings,
    tensors: &Tensors,
    computed_in: &[Arithmetic],
) -> Result<Tensors> {
    if kind == "sgd" {
        known_tensors(kind, tensors)?;
        return sgd::<T>(&sgd_request(settings)?, tensors, computed_in);
    }
    if kind == "softmax_cross_entropy" {
        let (logits, loss) = loss(settings, tensors)?;
        return Ok(loss.run::<T>(&logits, computed_in));
    }
    let mut task = prepare(kind, settings, tensors)?;
    task.request.computed_in = computed_in.to_vec();
    dump::<T>(&task.program, &task.input, &task.request)
}

/// The logits and the loss that is computed of them.
fn loss(settings: &Settings, tensors: &Tensors) -> Result<(Array2<f64>, Loss)> {
    let kind = "softmax_cross_entropy";
    known_tensors(kind, tensors)?;
    let mut settings = Reader { kind, settings, asked: BTreeSet::new() };
    let reductions = [("mean", Rows::Mean), ("sum", Rows::Sum), ("none", Rows::None)];
    let own = LossSettings {
        rows: settings.choice("reduction", &reductions)?.unwrap_or(Rows::Mean),
        label_smoothing: settings.number("label_smoothing", 0.0)?,
        ignore_index: settings.read("ignore_index", "a whole number", |text| text.parse().ok())?.unwrap_or(-100),
    };
    settings.done()?;
    let target = needed(kind, tensors, "target")?;
    let logits = array::<Ix2>(kind, "input", needed(kind, tensors, "input")?)?;
    let shape: [usize; 2] = logits.dim().into();
    if shape.contains(&0) {
        return Err(Error::shape("softmax_cross_entropy", "input", "(N, classes), both at least 1", &shape));
    }
    let loss = Loss::new(own, shape, target, tensors.get("weight"), tensors.get("grad_output"))?;
    Ok((logits, loss))
}

/// Rejects a tensor that this kind does not read: most likely its name is misspelt. Results of a layer may stand beside its
/// inputs.
fn known_tensors(kind: &str, tensors: &Tensors) -> Result<()> {
    let known: &[&str] = match kind {
        "conv2d" | "linear" => &["input", "weight", "bias", "grad_output"],
        "batch_norm" => {
            &["input", "weight", "bias", "running_mean", "running_var", "num_batches_tracked", "grad_output"]
        }
        "softmax_cross_entropy" => &["input", "target", "weight", "grad_output"],
        "sgd" => &["param", "grad", "momentum_buffer"],
        _ => &["input", "grad_output"],
    };
    let of_block = |name: &str| {
        let module = name.split('.').next().unwrap_or(name);
        name.contains('.')
            && ["conv", "bn", "downsample", "shortcut"].iter().any(|start| module.starts_with(start))
            && (kind.ends_with("block") || kind.ends_with("bottleneck"))
    };
    let result = |name: &str| {
        let start = ["output", "grad_input", "grad_weight", "grad_bias", "loss", "logits", "tolerance."];
        start.iter().any(|start| name.starts_with(start))
    };
    let reads = |name: &str| known.contains(&name) || of_block(name) || result(name) || is_counter(name);
    let Some(unknown) = tensors.names().find(|name| !reads(name)) else { return Ok(()) };
    let names: Vec<String> = known.iter().map(|name| name.to_string()).collect();
    let hint = nearest(unknown, &names).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    let message = format!("{kind} does not read `{unknown}`{hint} (it reads {})", names.join(", "));
    Err(Error::argument("oracle", message))
}

/// A program without steps is a loss: its input is the logits, its output is the loss.
pub(super) fn name_loss(program: &Program<f64>, result: &mut Tensors) {
    if program.steps.is_empty() {
        result.remove("logits");
        let names: Vec<String> = result.names().map(str::to_string).collect();
        for name in names {
            match tolerance_of(&name) {
                Some((arithmetic, "loss")) => result.rename(&name, &format!("tolerance.{arithmetic}.output")),
                Some((_, "logits")) => drop(result.remove(&name)),
                None if name == "loss" => result.rename("loss", "output"),
                _ => {}
            }
        }
        for lines in result.metadata.values_mut() {
            *lines = lines.replace("loss ", "output ");
        }
    }
}

/// Whether a kind consists of several layers.
pub(crate) fn is_block(kind: &str) -> bool {
    kind.ends_with("_block") || kind.ends_with("bottleneck")
}

/// The layer of the given kind with its parameters from `tensors`; every kind except `sgd`.
///
/// # Errors
/// For an unknown kind or setting or a missing tensor.
pub fn prepare(kind: &str, settings: &Settings, tensors: &Tensors) -> Result<Task> {
    if !KINDS.contains(&kind) || kind == "sgd" {
        let known = KINDS.iter().map(|kind| kind.to_string()).collect();
        return Err(Error::Unknown { kind: "layer", name: kind.to_string(), known });
    }
    known_tensors(kind, tensors)?;
    let mut settings = Reader { kind, settings, asked: BTreeSet::new() };
    let mut input = needed(kind, tensors, "input")?.clone();
    let mut mode = Mode::Eval;
    let mut padding = [[0; 2]; 2];
    let mut shape = None;
    let mut goal = tensors.get("grad_output").map_or(Goal::Forward, |gradient| Goal::GradOutput(gradient.clone()));
    let program = match kind {
        "softmax_cross_entropy" => {
            let reductions = [("mean", Reduction::Mean), ("sum", Reduction::Sum)];
            let loss = SoftmaxCrossEntropy {
                label_smoothing: settings.number("label_smoothing", 0.0)?,
                reduction: settings.choice("reduction", &reductions)?.unwrap_or_default(),
            };
            let target = needed(kind, tensors, "target")?;
            let plain = tensors.get("weight").is_none() && tensors.get("grad_output").is_none();
            let target = target.to_indices().filter(|_| plain).ok_or_else(|| {
                let message = "only the plain loss of classes from 0 can be taken apart: without class weights, ignored rows, \
                               given probabilities and grad_output";
                Error::argument("oracle", message)
            })?;
            goal = Goal::CrossEntropy { target, loss };
            Program::new()
        }
        "basic_block" | "bottleneck" | "preact_basic_block" | "preact_bottleneck" => {
            mode = settings.mode()?;
            Program::of_block(&block(&mut settings, tensors, &input)?)
        }
        _ => {
            let mut layer = layer(&mut settings, tensors, &mut mode)?;
            match (&mut layer, &mut goal) {
                (Layer::Conv2d(conv), _) => {
                    let (own, groups) = (conv.weight.shape()[1], conv.groups);
                    if let &[_, c, _, _] = input.shape()
                        && c != own * groups
                    {
                        let expected =
                            format!("(N, {}, H, W): {groups} groups of the weight's {own} channels", own * groups);
                        return Err(Error::shape("conv2d", "input", expected, input.shape()));
                    }
                    padding = pad(&mut settings, conv, &mut input)?;
                }
                (Layer::Relu(_), _) => shape = as_images(kind, &mut input, &mut goal)?,
                // PyTorch's AdaptiveAvgPool2d(1) has a result (N, C, 1, 1).
                (Layer::GlobalAvgPool, Goal::GradOutput(gradient)) => *gradient = rows_of_pixels(gradient),
                _ => {}
            }
            let mut program = Program::new();
            program.push("", layer, 0);
            program
        }
    };
    settings.done()?;
    Ok(Task { program, input, request: Request { padding, shape, ..Request::new(mode, goal) } })
}

/// A ReLU takes an array of any shape: makes images of one that is none, (N, C, the others, 1), and of the gradient of its result.
/// Returns its shape.
fn as_images(kind: &str, input: &mut Tensor, goal: &mut Goal) -> Result<Option<Vec<usize>>> {
    let shape = input.shape().to_vec();
    if shape.len() == 4 {
        return Ok(None);
    }
    let images = match shape.as_slice() {
        [] => [1, 1, 1, 1],
        &[count] => [1, 1, count, 1],
        [n, c, others @ ..] => [*n, *c, others.iter().product(), 1],
    };
    let reshape = |name: &str, tensor: &mut Tensor| {
        let wrong = |expected: &str, found: String| {
            Error::argument("oracle", format!("{kind}: `{name}` expects {expected}, got {found}"))
        };
        let array = tensor.to_real::<f64>();
        let array = array.ok_or_else(|| wrong("float32 or float64", tensor.dtype().to_string()))?;
        if array.shape() != shape {
            return Err(wrong(&format!("the output's shape {shape:?}"), format!("{:?}", array.shape())));
        }
        *tensor = reshaped(&array, &images).into();
        Ok(())
    };
    reshape("input", input)?;
    if let Goal::GradOutput(gradient) = goal {
        reshape("grad_output", gradient)?;
    }
    Ok(Some(shape))
}

/// `(N, C)` of a gradient `(N, C, 1, 1)`.
fn rows_of_pixels(gradient: &Tensor) -> Tensor {
    match (gradient.shape(), gradient.to_real::<f64>()) {
        (&[n, c, 1, 1], Some(array)) => array.into_shape_with_order(vec![n, c]).expect("as many elements").into(),
        _ => gradient.clone(),
    }
}

/// The most values of a padded input or of the result: 16 GiB in `f64`.
const MOST_VALUES: usize = 1 << 31;

/// Reads `padding`. Where it differs before and after, the input is padded here, and the convolution is not.
fn pad(settings: &mut Reader, conv: &mut Conv2d<f64>, input: &mut Tensor) -> Result<[[usize; 2]; 2]> {
    let read = |text: &str| -> Option<[[usize; 2]; 2]> {
        let side = |text: &str| match text.split_once(':') {
            Some((before, after)) => Some([before.parse().ok()?, after.parse().ok()?]),
            None => text.parse().ok().map(|both| [both, both]),
        };
        match text.split_once('x') {
            Some((vertical, horizontal)) => Some([side(vertical)?, side(horizontal)?]),
            None => side(text).map(|both| [both, both]),
        }
    };
    let padding = match settings.text("padding") {
        None | Some("valid") => return Ok([[0; 2]; 2]),
        Some("same") => {
            if conv.stride != [1, 1] {
                return Err(Error::argument("settings", "conv2d: padding=same needs stride 1, as in PyTorch"));
            }
            [0, 1].map(|axis| {
                let all = (conv.weight.shape()[2 + axis].max(1) - 1) * conv.dilation[axis];
                [all / 2, all - all / 2]
            })
        }
        Some(text) => read(text).ok_or_else(|| {
            let expected = "a number, height x width such as 1x0, before:after of each such as 1:2x0:1, same or valid";
            Error::argument("settings", format!("conv2d: `padding` expects {expected}, got `{text}`"))
        })?,
    };
    if let &[n, c, h, w] = input.shape() {
        let size = |size: usize, [before, after]: [usize; 2]| size.checked_add(before)?.checked_add(after);
        let values = size(h, padding[0])
            .zip(size(w, padding[1]))
            .and_then(|(h, w)| h.checked_mul(w)?.checked_mul(n)?.checked_mul(c.max(conv.weight.shape()[0])));
        if values.is_none_or(|values| values > MOST_VALUES) {
            let text = settings.text("padding").unwrap_or_default();
            let message =
                format!("conv2d: `padding` {text} makes more than 2³¹ values of an input {:?}", input.shape());
            return Err(Error::argument("settings", message));
        }
    }
    if padding.iter().all(|[before, after]| before == after) {
        conv.padding = padding.map(|[before, _]| before);
        return Ok([[0; 2]; 2]);
    }
    let x = array::<Ix4>("conv2d", "input", input)?;
    let (n, c, h, w) = x.dim();
    let [[above, below], [left, right]] = padding;
    let (height, width) = (h + above + below, w + left + right);
    let mut padded = ndarray::Array4::zeros((n, c, height, width));
    padded.slice_mut(s![.., .., above..above + h, left..left + w]).assign(&x);
    *input = padded.into();
    Ok(padding)
}

/// The number under the root of a batch norm.
fn eps(settings: &mut Reader) -> Result<f64> {
    let eps = settings.number("eps", 1e-5)?;
    match eps >= 0.0 {
        true => Ok(eps),
        false => Err(Error::argument("settings", format!("{}: `eps` must be at least 0, got {eps}", settings.kind))),
    }
}

fn layer(settings: &mut Reader, tensors: &Tensors, mode: &mut Mode) -> Result<Layer<f64>> {
    let kind = settings.kind;
    Ok(match kind {
        "conv2d" => Layer::Conv2d(Conv2d {
            weight: array::<Ix4>(kind, "weight", needed(kind, tensors, "weight")?)?,
            bias: optional::<Ix1>(kind, tensors, "bias")?,
            stride: settings.pair("stride")?.unwrap_or([1, 1]),
            padding: [0, 0],
            dilation: settings.pair("dilation")?.unwrap_or([1, 1]),
            groups: settings.count("groups")?.unwrap_or(1),
        }),
        "batch_norm" => {
            *mode = settings.mode()?;
            let [gamma, beta] = ["weight", "bias"].map(|name| optional::<Ix1>(kind, tensors, name));
            let [running_mean, running_var] =
                ["running_mean", "running_var"].map(|name| optional::<Ix1>(kind, tensors, name));
            let channels = needed(kind, tensors, "input")?.shape().get(1).copied().unwrap_or(0);
            let plain = BatchNorm2d::new(channels);
            let (running_mean, running_var) = (running_mean?, running_var?);
            if *mode == Mode::Eval && (running_mean.is_none() || running_var.is_none()) {
                return Err(missing(kind, "running_mean and running_var for mode=eval", tensors));
            }
            Layer::BatchNorm2d(BatchNorm2d {
                gamma: gamma?.unwrap_or(plain.gamma),
                beta: beta?.unwrap_or(plain.beta),
                running_mean: running_mean.unwrap_or(plain.running_mean),
                running_var: running_var.unwrap_or(plain.running_var),
                eps: eps(settings)?,
                momentum: match settings.text("momentum") {
                    // The average of all batches: each has the weight 1/n in the mean of n.
                    Some("none" | "None") => {
                        let earlier = tensors.get("num_batches_tracked").map_or(0.0, |count| count.to_f64().sum());
                        1.0 / (earlier + 1.0)
                    }
                    _ => settings.number("momentum", plain.momentum)?,
                },
                running_variance: plain.running_variance,
                group: None,
            })
        }
        "relu" => Layer::Relu(Relu::new()),
        "leaky_relu" => Layer::Relu(Relu::leaky(settings.number("negative_slope", 0.01)?)?),
        "max_pool" | "avg_pool" => {
            let Some(kernel) = settings.pair("kernel_size")? else {
                let message = format!("{kind} needs the setting `kernel_size`, such as kernel_size=3");
                return Err(Error::argument("settings", message));
            };
            let stride = settings.pair("stride")?.unwrap_or(kernel);
            let padding = settings.pair("padding")?.unwrap_or([0, 0]);
            let ceil_mode = settings.flag("ceil_mode", false)?;
            if kind == "max_pool" {
                let dilation = settings.pair("dilation")?.unwrap_or([1, 1]);
                Layer::MaxPool2d(MaxPool2d { dilation, ceil_mode, ..MaxPool2d::new(kernel, stride, padding) })
            } else {
                Layer::AvgPool2d(AvgPool2d {
                    ceil_mode,
                    count_include_pad: settings.flag("count_include_pad", true)?,
                    divisor_override: settings.count("divisor_override")?,
                    ..AvgPool2d::new(kernel, stride, padding)
                })
            }
        }
        "global_avg_pool" => Layer::GlobalAvgPool,
        "linear" => {
            let weight = array::<Ix2>(kind, "weight", needed(kind, tensors, "weight")?)?;
            let bias = optional::<Ix1>(kind, tensors, "bias")?;
            Layer::Linear(Linear { bias: bias.unwrap_or_else(|| Array1::zeros(weight.nrows())), weight })
        }
        _ => unreachable!("every kind of a single layer is above"),
    })
}

/// A block with its parameters from `tensors`. Their shapes determine its width.
fn block(settings: &mut Reader, tensors: &Tensors, input: &Tensor) -> Result<Block<f64>> {
    let kind = settings.kind;
    let bottleneck = kind.ends_with("bottleneck");
    let pre_activation = kind.starts_with("preact");
    let stride = settings.count("stride")?.unwrap_or(1);
    let groups = settings.count("groups")?.unwrap_or(1);
    if stride == 0 || groups == 0 {
        return Err(Error::argument("settings", format!("{kind}: `stride` and `groups` must be at least 1")));
    }
    let strided = match bottleneck {
        // v1.5 as in torchvision, or v1 as in the paper
        true => settings.choice("stride_on", &[("conv1", 0), ("conv2", 1)])?.unwrap_or(1),
        false => 0,
    };
    let count = if bottleneck { 3 } else { 2 };
    let (mut shapes, mut problems) = (Vec::new(), Vec::new());
    for index in 0..count {
        let name = format!("conv{}.weight", index + 1);
        match tensors.get(&name).map(Tensor::shape) {
            Some(&[c_out, c_in, kh, kw]) if kh == kw && kh % 2 == 1 => shapes.push([c_in, c_out, kh]),
            Some(shape) => problems.push(format!("`{name}` expects (C_out, C_in, k, k) with odd k, got {shape:?}")),
            None => problems.push(format!("`{name}` is missing")),
        }
    }
    if !problems.is_empty() {
        return Err(Error::argument("oracle", format!("{kind}: {}", problems.join("; "))));
    }
    // Only a bottleneck's 3x3 has groups.
    let groups_of = |index: usize| if bottleneck && index == 1 { groups } else { 1 };
    let (c_in, c_out) = (input.shape().get(1).copied().unwrap_or(0), shapes[count - 1][1]);
    let changes = stride != 1 || c_in != c_out;
    let projected = tensors.get("downsample.0.weight").is_some();
    let default = match (projected, changes) {
        (true, _) => "projection",
        (false, true) => "zero_pad",
        (false, false) => "identity",
    };
    let choices = ["none", "identity", "zero_pad", "projection"].map(|name| (name, name));
    let shortcut = settings.choice("shortcut", &choices)?.unwrap_or(default);
    if shortcut == "identity" && changes {
        let message =
            format!("{kind}: shortcut=identity needs stride 1 and equal channels, got {stride}, {c_in} and {c_out}");
        return Err(Error::argument("settings", message));
    }
    let unit = |names: [&str; 2], [c_in, c_out, k]: [usize; 3], stride: usize, groups: usize| {
        Unit::new(names, [c_in * groups, c_out], k, stride, groups)
    };
    let units = shapes.iter().enumerate().map(|(index, &shape)| {
        let names = [format!("conv{}", index + 1), format!("bn{}", index + 1)];
        let stride = if index == strided { stride } else { 1 };
        let unit = unit([&names[0], &names[1]], shape, stride, groups_of(index));
        if index + 1 < count { unit.with_relu() } else { unit }
    });
    let branch: Vec<Unit<f64>> = units.collect();
    let projection = || unit(["downsample.0", "downsample.1"], [c_in, c_out, 1], stride, 1);
    let zero_pad = ZeroPadShortcut { stride, c_out };
    let mut block = if pre_activation {
        if shortcut == "none" {
            return Err(Error::argument("settings", format!("{kind}: a pre-activation block must have a shortcut")));
        }
        Block::PreActivation(PreActivationBlock {
            norms: branch.iter().map(|unit| BatchNorm2d::new(unit.conv.weight.shape()[1] * unit.conv.groups)).collect(),
            convs: branch.into_iter().map(|unit| unit.conv).collect(),
            projection: (shortcut == "projection").then(|| projection().conv),
            zero_pad: (shortcut == "zero_pad").then_some(zero_pad),
            activation: Relu::new(),
        })
    } else {
        Block::Residual(ResidualBlock {
            branch,
            shortcut: match shortcut {
                "projection" => Shortcut::Projection(Box::new(projection())),
                "zero_pad" => Shortcut::ZeroPad(zero_pad),
                "identity" => Shortcut::Identity,
                _ => Shortcut::Absent,
            },
            activation: Relu::new(),
        })
    };
    let (eps, momentum) = (eps(settings)?, settings.number("momentum", 0.1)?);
    for norm in block.norms_mut() {
        (norm.eps, norm.momentum) = (eps, momentum);
    }
    assign(kind, &mut block, tensors)?;
    Ok(block)
}

/// Fills the parameters of `model` from the tensors of the same names; reports every problem at once.
fn assign(kind: &str, model: &mut impl Parameters<f64>, tensors: &Tensors) -> Result<()> {
    let mut problems = Vec::new();
    model.visit_mut("", &mut |name, role, mut own| match tensors.get(name) {
        // In training they are only the initial running statistics.
        None if role == Role::Statistic => {}
        None => problems.push(format!("`{name}` {:?} is missing", own.shape())),
        Some(tensor) if tensor.shape() != own.shape() => {
            problems.push(format!("`{name}` expects shape {:?}, got {:?}", own.shape(), tensor.shape()));
        }
        Some(tensor) => match tensor.to_real::<f64>() {
            Some(array) => own.assign(&array),
            None => problems.push(format!("`{name}` expects floats, got {}", tensor.dtype())),
        },
    });
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::argument("oracle", format!("{kind}: {}", problems.join("; ")))),
    }
}

/// One tensor, as a model of one parameter.
struct One<T>(ArrayD<T>);

impl<T: Scalar> Parameters<T> for One<T> {
    fn visit(&self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        visitor("param", Role::Weight, self.0.view());
    }

    fn visit_mut(&mut self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        visitor("param", Role::Weight, self.0.view_mut());
    }
}

/// The settings of a step of SGD, as a request.
pub(super) fn sgd_request(settings: &Settings) -> Result<Request> {
    let mut settings = Reader { kind: "sgd", settings, asked: BTreeSet::new() };
    let mut request = Request::new(Mode::Eval, Goal::Forward);
    request.lr = settings.number("lr", 1e-3)?;
    request.sgd = SgdConfig {
        momentum: settings.number("momentum", 0.0)?,
        dampening: settings.number("dampening", 0.0)?,
        weight_decay: settings.number("weight_decay", 0.0)?,
        nesterov: settings.flag("nesterov", false)?,
        ..SgdConfig::default()
    };
    request.steps = 1;
    settings.done()?;
    Ok(request)
}

/// `param` and `momentum_buffer` after a step.
pub(super) fn sgd<T: Scalar>(request: &Request, tensors: &Tensors, computed_in: &[Arithmetic]) -> Result<Tensors> {
    let real = |name: &str| {
        let tensor = needed("sgd", tensors, name)?;
        let wrong = || Error::argument("oracle", format!("sgd: `{name}` expects floats, got {}", tensor.dtype()));
        tensor.to_real::<T>().ok_or_else(wrong)
    };
    let mut model = One(real("param")?);
    let mut gradients = Gradients::new();
    gradients.push("", "param", real("grad")?);
    let mut stepper = Stepper::new(request)?;
    if tensors.get("momentum_buffer").is_some() {
        stepper.sgd().restore(&model, [("param".to_string(), real("momentum_buffer")?)])?;
    }
    let before = model.0.mapv(Scalar::as_f64);
    let gradient = real("grad")?.mapv(Scalar::as_f64);
    let earlier = stepper.sgd().buffers().next().map(|(_, buffer)| buffer.mapv(Scalar::as_f64));
    stepper.step(&mut model, &gradients)?;
    let mut result = Tensors::new();
    result.insert("param", Tensor::real(model.0.view()));
    // A handful of products and sums, each rounded once: the error has the size of the terms, not of their sum.
    let SgdConfig { momentum, weight_decay, .. } = request.sgd;
    let mut terms = Zip::from(&gradient).and(&before).map_collect(|g, p| g.abs() + weight_decay * p.abs());
    if let Some(earlier) = &earlier {
        terms.zip_mut_with(earlier, |terms, buffer| *terms += momentum * buffer.abs());
    }
    let buffer = stepper.sgd().buffers().next().map(|(_, buffer)| buffer.mapv(Scalar::as_f64));
    if let Some(buffer) = &buffer {
        result.insert("momentum_buffer", Tensor::real(buffer.mapv(T::of).view()));
    }
    for arithmetic in computed_in {
        // Each of them may be stored before the next.
        let (u, floor) = (MULTIPLE * arithmetic.stored.unit_roundoff(), 4.0 * arithmetic.stored.underflow());
        let of = |terms: &ArrayD<f64>| terms.mapv(|terms| u * terms + floor);
        let steps = Zip::from(&terms).and(&before).map_collect(|terms, p| request.lr * terms + p.abs());
        let mut tolerances = vec![("param".to_string(), of(&steps))];
        if buffer.is_some() {
            tolerances.push(("momentum_buffer".to_string(), of(&terms)));
        }
        let allowed = |each: ArrayD<f64>| Allowed { each, factor: f64::INFINITY, mean: f64::INFINITY };
        let of_tensors = tolerances.into_iter().map(|(name, each)| (name, allowed(each))).collect();
        Tolerances { arithmetic: *arithmetic, of_tensors }.attach(&mut result);
    }
    Ok(result)
}

fn needed<'a>(kind: &str, tensors: &'a Tensors, name: &str) -> Result<&'a Tensor> {
    tensors.get(name).ok_or_else(|| missing(kind, &format!("`{name}`"), tensors))
}

fn missing(kind: &str, what: &str, tensors: &Tensors) -> Error {
    let found: Vec<&str> = tensors.names().collect();
    let found = if found.is_empty() { "nothing".to_string() } else { found.join(", ") };
    Error::argument("oracle", format!("{kind} needs {what}; the input has {found}"))
}

fn optional<D: Dimension>(kind: &str, tensors: &Tensors, name: &str) -> Result<Option<ndarray::Array<f64, D>>> {
    tensors.get(name).map(|tensor| array::<D>(kind, name, tensor)).transpose()
}

fn array<D: Dimension>(kind: &str, name: &str, tensor: &Tensor) -> Result<ndarray::Array<f64, D>> {
    let wrong = || {
        let axes = D::NDIM.expect("a fixed number of axes");
        let message =
            format!("{kind}: `{name}` expects floats in {axes} axes, got {} {:?}", tensor.dtype(), tensor.shape());
        Error::argument("oracle", message)
    };
    tensor.to_real::<f64>().ok_or_else(wrong)?.into_dimensionality::<D>().map_err(|_| wrong())
}
