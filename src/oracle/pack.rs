//! The backward conformance pack: inputs for every layer and the expected results, gradients included.
//!
//! It checks a kernel where this program is not available. So the pack is plain data: for each [`Case`] a file of inputs and
//! a file of expected results, with PyTorch's names and shapes and a tolerance for each tensor (`folder` writes it).
//! [`mod@super::score`] shows what the pack is worth: it injects faults into every operation and counts how many of them the
//! pack detects.
//!
//! Properties of the cases:
//!
//! - **Inputs are exact.** They are multiples of 2⁻⁹ (weights: of a smaller power of two), most of them below 2, the same
//!   values in `float32` and `float64`, drawn as integers. In `float64` every product and every sum of a convolution of them
//!   is exact, too, so the expected value is *the* exact value.
//! - **Sizes are all different** (batch, channels, height, width, kernel), so that no two can be exchanged
//!   unnoticed. Many are no multiple of the stride: windows leave rows over.
//! - **`grad_output` is random.** With ones a batch norm has no gradient at all.
//! - **Kinks and extremes are included**: zeros at a ReLU, equal values in a max pool, images of one pixel, logits of 1000.

#[cfg(feature = "formats")]
pub mod folder;

use super::arithmetic::Arithmetic;
use super::dump::{Goal, Request};
use super::layer::{Settings, Task, prepare, run};
use crate::Result;
use crate::layers::{Mode, SoftmaxCrossEntropy};
use crate::model::{Architecture, ResNet, Stage};
use crate::parameters::{Parameters as _, Role};
use crate::program::Program;
use crate::rng::{Purpose, name_hash, stream};
use crate::tensors::{Tensor, Tensors};
use ndarray::{Array1, ArrayD, Axis, IxDyn};

/// The arithmetics for which the pack has tolerances.
pub const ARITHMETICS: [Arithmetic; 5] =
    [Arithmetic::F64, Arithmetic::F32, Arithmetic::TF32, Arithmetic::BF16, Arithmetic::F16];

/// What is computed in a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// A layer, a block or a step of SGD of this kind, with these settings ([`super::layer`]).
    Layer(&'static str, &'static str),
    /// A network, in training or evaluation.
    Network(Box<Architecture>, Mode),
}

/// How large a part a case checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// One layer, or a step of SGD.
    Layer,
    /// A residual block.
    Block,
    /// A network.
    Network,
}

/// Inputs, and what is to be computed from them.
#[derive(Clone, Debug)]
pub struct Case {
    /// `conv2d-3x3-stride2`
    pub name: String,
    /// What is special about it.
    pub about: &'static str,
    /// What is computed.
    pub subject: Subject,
    /// The inputs, parameters included.
    pub input: Tensors,
}

impl Case {
    /// How large a part it checks.
    pub fn level(&self) -> Level {
        match &self.subject {
            Subject::Layer(kind, _) if kind.ends_with("block") || kind.ends_with("bottleneck") => Level::Block,
            Subject::Layer(..) => Level::Layer,
            Subject::Network(..) => Level::Network,
        }
    }

    /// The case as a task of the oracle; `None` for a step of SGD, which is not made of layers.
    pub fn task(&self) -> Option<Task> {
        let task = match &self.subject {
            Subject::Layer("sgd", _) => return None,
            Subject::Layer(kind, settings) => prepare(kind, &parsed(settings), &self.input),
            Subject::Network(architecture, mode) => network_task(architecture, *mode, &self.input),
        };
        Some(task.unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }

    /// All expected results, with the tolerances for results computed in each of `computed_in`.
    pub fn expected(&self, computed_in: &[Arithmetic]) -> Tensors {
        let result = match &self.subject {
            Subject::Layer(kind, settings) => run::<f64>(kind, &parsed(settings), &self.input, computed_in),
            Subject::Network(..) => {
                let mut task = self.task().expect("a network is made of layers");
                task.request.computed_in = computed_in.to_vec();
                super::dump::<f64>(&task.program, &task.input, &task.request)
            }
        };
        result.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

fn parsed(settings: &str) -> Settings {
    settings.parse().expect("settings of the pack are well-formed")
}

/// SGD steps that a training case of a network takes; their settings are those of [`Request::new`].
const STEPS: usize = 2;

fn network_task(architecture: &Architecture, mode: Mode, input: &Tensors) -> Result<Task> {
    let mut model = ResNet::<f64>::zeroed(architecture)?;
    model.visit_mut("", &mut |name, _, mut own| {
        own.assign(&input.get(name).expect("every parameter is in the input").to_f64());
    });
    let target = input.get("target").and_then(Tensor::to_indices).expect("classes");
    let mut request = Request::new(mode, Goal::CrossEntropy { target, loss: SoftmaxCrossEntropy::new() });
    if mode == Mode::Train {
        request.steps = STEPS;
    }
    let image = input.get("input").expect("images").clone();
    Ok(Task { program: Program::of_network(&model), input: image, request })
}

/// The values of an input. All are multiples of a power of two and exact in `float32`.
#[derive(Clone, Copy)]
enum Draw {
    /// −2 to 2 in steps of 2⁻⁹.
    Fine,
    /// −2 to 2 in steps of ½: zeros and equal values.
    Coarse,
    /// Below zero, in steps of 2⁻⁹.
    Negative,
    /// 14 to 18, in steps of 2⁻⁹: the mean is fourteen times the standard deviation.
    Offset,
    /// −1024 to 1024, in steps of 256.
    Thousands,
    /// [`Draw::Fine`] divided by about √(fan in).
    Weight,
    /// ½ to 1½ in steps of 2⁻¹¹: scales and variances.
    Positive,
    /// −2 to 2 in steps of 2⁻⁵: numbers of bfloat16 and float16.
    Short,
    /// [`Draw::Fine`], but the second half of every plane of the last two axes is the first one reversed and negated: sums
    /// over it are 0.
    Antisymmetric,
    /// [`Draw::Fine`], but every other channel is constant.
    Constant,
}

impl Draw {
    /// A tensor of this kind, determined by its shape and the names.
    fn tensor(self, case: &str, name: &str, shape: &[usize]) -> ArrayD<f64> {
        let mut rng = stream(0, Purpose::Verify, &[name_hash("pack"), name_hash(case), name_hash(name)]);
        let fan_in: usize = shape.iter().skip(1).product();
        let mut tensor = ArrayD::from_shape_simple_fn(IxDyn(shape), || {
            // A whole number from −1024 to 1023.
            let whole = (rng.next_u64() >> 53) as f64 - 1024.0;
            let fine = whole / 512.0;
            match self {
                Draw::Fine | Draw::Antisymmetric | Draw::Constant => fine,
                Draw::Short => (32.0 * fine).round() / 32.0,
                Draw::Coarse => (2.0 * fine).round() / 2.0,
                Draw::Negative => -(fine.abs() + 1.0 / 512.0),
                Draw::Offset => 16.0 + fine,
                Draw::Thousands => (2.0 * fine).round() * 256.0,
                Draw::Weight => fine / f64::from(1u32 << (fan_in.max(1).ilog2() / 2)),
                Draw::Positive => 1.0 + fine / 4.0,
            }
        });
        let last = Axis(tensor.ndim().saturating_sub(1));
        match self {
            Draw::Antisymmetric => {
                let plane: usize = shape.iter().rev().take(2).product();
                let flat = tensor.as_slice_mut().expect("in row-major order");
                for plane in flat.chunks_exact_mut(plane) {
                    let half = plane.len() / 2;
                    plane[half] = 0.0;
                    for i in 0..half {
                        plane[plane.len() - 1 - i] = -plane[i];
                    }
                }
            }
            Draw::Constant => {
                let channels = if last.index() > 1 { Axis(1) } else { last };
                for (index, mut channel) in
                    tensor.axis_iter_mut(channels).enumerate().filter(|(index, _)| index % 2 == 0)
                {
                    channel.fill(0.375 * (index + 1) as f64);
                }
            }
            _ => {}
        }
        tensor
    }
}

/// All cases, the same at every call.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    convolutions(&mut cases);
    norms_and_gates(&mut cases);
    pools(&mut cases);
    heads(&mut cases);
    cancelling(&mut cases);
    short(&mut cases);
    blocks(&mut cases);
    steps(&mut cases);
    networks(&mut cases);
    cases
}

/// A case of a layer or block: inputs as drawn, and a `grad_output` of the shape of its result.
fn layer(
    name: &str,
    about: &'static str,
    (kind, settings): (&'static str, &'static str),
    inputs: &[(&str, &[usize], Draw)],
) -> Case {
    let mut input = Tensors::new();
    for (tensor, shape, draw) in inputs {
        input.insert(*tensor, draw.tensor(name, tensor, shape));
    }
    let output = || -> Result<Vec<usize>> {
        let output = run::<f64>(kind, &parsed(settings), &input, &[])?;
        Ok(output.get("output").expect("a layer has a result").shape().to_vec())
    };
    let shape = output().unwrap_or_else(|error| panic!("{name}: {error}"));
    input.insert("grad_output", Draw::Fine.tensor(name, "grad_output", &shape));
    Case { name: name.to_string(), about, subject: Subject::Layer(kind, settings), input }
}

fn convolutions(cases: &mut Vec<Case>) {
    let mut conv = |name: &str, about, settings, x: [usize; 4], weight: [usize; 4], bias: bool| {
        let mut inputs: Vec<(&str, &[usize], Draw)> =
            vec![("input", &x, Draw::Fine), ("weight", &weight, Draw::Fine), ("bias", &weight[..1], Draw::Fine)];
        inputs.truncate(if bias { 3 } else { 2 });
        cases.push(layer(&format!("conv2d-{name}"), about, ("conv2d", settings), &inputs));
    };
    conv("1x1", "a matrix product per pixel", "", [2, 5, 4, 3], [3, 5, 1, 1], false);
    conv("1x1-stride2", "three of four pixels are never read", "stride=2", [2, 4, 7, 6], [3, 4, 1, 1], false);
    conv("1x1-padding", "the border of the result is the bias", "padding=2x1", [2, 3, 3, 4], [5, 3, 1, 1], true);
    conv("3x3", "the convolution of a residual block", "padding=1", [2, 3, 7, 6], [4, 3, 3, 3], true);
    conv("3x3-no-padding", "the result is smaller", "", [3, 2, 6, 7], [4, 2, 3, 3], true);
    conv("3x3-stride2", "the first of a stage", "stride=2,padding=1", [3, 2, 8, 9], [5, 2, 3, 3], true);
    conv("3x3-stride3", "rows and columns are left over", "stride=3", [1, 2, 8, 10], [3, 2, 3, 3], false);
    conv("3x3-one", "one image, one channel", "padding=1", [1, 1, 5, 4], [1, 1, 3, 3], true);
    conv("3x3-one-pixel", "all but the middle of the kernel is padding", "padding=1", [3, 2, 1, 1], [4, 2, 3, 3], true);
    conv("3x3-17-channels", "not a multiple of a vector", "padding=1", [2, 17, 6, 5], [19, 17, 3, 3], false);
    conv("3x3-64-channels", "a long sum", "padding=1", [1, 64, 9, 7], [16, 64, 3, 3], false);
    conv("3x3-groups", "each half reads its half", "padding=1,groups=2", [2, 6, 5, 7], [4, 3, 3, 3], true);
    conv("3x3-depthwise", "two kernels per channel", "padding=1,groups=5", [2, 5, 6, 7], [10, 1, 3, 3], true);
    conv("2x2", "an even kernel", "padding=1", [2, 3, 5, 4], [4, 3, 2, 2], true);
    conv("5x5-dilated", "holes in the kernel", "dilation=2,padding=4", [2, 2, 9, 7], [3, 2, 5, 5], false);
    conv("7x7-stride2", "the stem", "stride=2,padding=3", [2, 3, 16, 15], [8, 3, 7, 7], false);
    let different = "stride=2x1,padding=1x3,dilation=1x2";
    conv("3x5-all-different", "height and width differ in everything", different, [2, 3, 9, 11], [4, 3, 3, 5], true);
}

fn norms_and_gates(cases: &mut Vec<Case>) {
    let mut norm = |name: &str, about, settings, x: [usize; 4], draw: Draw| {
        let c = [x[1]];
        let inputs: [(&str, &[usize], Draw); 5] = [
            ("input", &x, draw),
            ("weight", &c, Draw::Positive),
            ("bias", &c, Draw::Fine),
            ("running_mean", &c, Draw::Fine),
            ("running_var", &c, Draw::Positive),
        ];
        cases.push(layer(&format!("batch_norm-{name}"), about, ("batch_norm", settings), &inputs));
    };
    norm("train", "batch statistics, running ones are updated", "mode=train", [4, 3, 5, 6], Draw::Fine);
    let other = "mode=train,eps=0.25,momentum=0.75";
    norm("eps-momentum", "an eps that matters, a momentum that is not its complement", other, [3, 4, 5, 2], Draw::Fine);
    norm("one-image", "as many values as pixels", "mode=train", [1, 5, 6, 4], Draw::Fine);
    norm("two-values", "the gradient cancels except for the effect of eps", "mode=train", [2, 3, 1, 1], Draw::Fine);
    norm("17-channels", "not a multiple of a vector", "mode=train", [2, 17, 3, 4], Draw::Fine);
    norm("offset", "E[x²] − E[x]² loses 8 bits", "mode=train", [3, 2, 7, 6], Draw::Offset);
    norm("eval", "running statistics, constants in backward", "mode=eval", [3, 4, 5, 6], Draw::Fine);

    let mut gate = |name: &str, about, subject, x: &[usize]| {
        cases.push(layer(name, about, subject, &[("input", x, Draw::Coarse)]));
    };
    gate("relu", "about half of the input is at most 0, some of it exactly", ("relu", ""), &[2, 3, 5, 4]);
    gate("leaky_relu", "slope 0.01", ("leaky_relu", ""), &[3, 2, 4, 5]);
    gate("leaky_relu-slope", "another slope", ("leaky_relu", "negative_slope=0.25"), &[2, 5, 3, 4]);
}

fn pools(cases: &mut Vec<Case>) {
    let mut pool = |name: &str, about, subject, x: [usize; 4], draw: Draw| {
        cases.push(layer(name, about, subject, &[("input", &x, draw)]));
    };
    let max = |settings| ("max_pool", settings);
    pool("max_pool-2x2", "windows do not overlap", max("kernel_size=2"), [2, 3, 6, 8], Draw::Fine);
    let stem = "kernel_size=3,stride=2,padding=1";
    pool("max_pool-3x3", "the stem's: windows overlap", max(stem), [2, 3, 8, 7], Draw::Fine);
    pool("max_pool-negative", "padding is −∞ and not 0", max(stem), [3, 2, 5, 6], Draw::Negative);
    pool(
        "max_pool-ties",
        "of equal values the first in reading order gets the gradient",
        max(stem),
        [2, 4, 7, 8],
        Draw::Coarse,
    );
    let all = "kernel_size=3x2,stride=1x2,padding=1x0,dilation=1x2";
    pool("max_pool-all-different", "height and width differ in everything", max(all), [2, 3, 6, 9], Draw::Fine);
    let ceil = "kernel_size=3,stride=2,ceil_mode=true";
    pool("max_pool-ceil", "the last window extends beyond the border", max(ceil), [2, 3, 6, 8], Draw::Fine);

    let avg = |settings| ("avg_pool", settings);
    pool("avg_pool-2x2", "windows do not overlap", avg("kernel_size=2"), [2, 3, 6, 8], Draw::Fine);
    pool("avg_pool-3x3", "padding is counted", avg(stem), [3, 2, 5, 7], Draw::Fine);
    let inside = "kernel_size=3,stride=2,padding=1,count_include_pad=false";
    pool("avg_pool-inside", "padding is not counted", avg(inside), [2, 3, 5, 8], Draw::Fine);
    let ceil = "kernel_size=3,stride=2,padding=1,ceil_mode=true";
    pool("avg_pool-ceil", "positions beyond the padding are never counted", avg(ceil), [2, 3, 6, 8], Draw::Fine);
    let divisor = "kernel_size=2x3,stride=1x2,padding=1x0,divisor_override=5";
    pool("avg_pool-divisor", "a given divisor", avg(divisor), [2, 3, 4, 7], Draw::Fine);
    pool("global_avg_pool", "the mean of an image", ("global_avg_pool", ""), [3, 4, 5, 6], Draw::Fine);
    pool("global_avg_pool-one-pixel", "nothing to average", ("global_avg_pool", ""), [2, 5, 1, 1], Draw::Fine);
}

fn heads(cases: &mut Vec<Case>) {
    let mut linear = |name: &str, about, rows: usize, weight: [usize; 2], bias: bool| {
        let (x, out) = ([rows, weight[1]], [weight[0]]);
        let mut inputs: Vec<(&str, &[usize], Draw)> =
            vec![("input", &x, Draw::Fine), ("weight", &weight, Draw::Fine), ("bias", &out, Draw::Fine)];
        inputs.truncate(if bias { 3 } else { 2 });
        cases.push(layer(name, about, ("linear", ""), &inputs));
    };
    linear("linear", "five rows of seven features, three classes", 5, [3, 7], true);
    linear("linear-square", "a square weight, whose transpose has the same shape", 4, [6, 6], true);
    linear("linear-one-row", "a batch of one", 1, [5, 9], true);

    let mut loss = |name: &str, about, settings, logits: [usize; 2], draw: Draw| {
        let name = format!("softmax_cross_entropy-{name}");
        let mut input = Tensors::new();
        input.insert("input", draw.tensor(&name, "input", &logits));
        input.insert("target", classes(&name, logits));
        cases.push(Case { name, about, subject: Subject::Layer("softmax_cross_entropy", settings), input });
    };
    loss("mean", "divided by the number of rows", "", [5, 7], Draw::Fine);
    loss("sum", "not divided", "reduction=sum", [4, 6], Draw::Fine);
    loss("smoothing", "an eighth is spread over all classes", "label_smoothing=0.125", [6, 5], Draw::Fine);
    loss("one-row", "a batch of one, two classes", "", [1, 2], Draw::Fine);
    loss("thousands", "exp(1000) overflows", "", [5, 4], Draw::Thousands);
}

/// Sums whose terms are far larger than their result: rounding has the size of the terms.
fn cancelling(cases: &mut Vec<Case>) {
    let filter: [(&str, &[usize], Draw); 2] =
        [("input", &[2, 3, 7, 6], Draw::Offset), ("weight", &[4, 3, 3, 3], Draw::Antisymmetric)];
    cases.push(layer(
        "conv2d-high-pass",
        "weights that add up to 0, on large pixels",
        ("conv2d", "padding=1"),
        &filter,
    ));
    let mut before_a_norm = layer(
        "conv2d-before-a-norm",
        "the gradient of a bias before a batch norm is 0: nothing but rounding",
        ("conv2d", "padding=1"),
        &[("input", &[3, 2, 5, 7], Draw::Fine), ("weight", &[5, 2, 3, 3], Draw::Fine), ("bias", &[5], Draw::Fine)],
    );
    let gradient = Draw::Antisymmetric.tensor(&before_a_norm.name, "grad_output", &[3, 5, 5, 7]);
    before_a_norm.input.insert("grad_output", gradient);
    cases.push(before_a_norm);
    let image: [(&str, &[usize], Draw); 1] = [("input", &[3, 4, 5, 7], Draw::Antisymmetric)];
    cases.push(layer("global_avg_pool-zero", "the mean of every image is 0", ("global_avg_pool", ""), &image));
    let channels: [(&str, &[usize], Draw); 5] = [
        ("input", &[4, 5, 3, 6], Draw::Constant),
        ("weight", &[5], Draw::Positive),
        ("bias", &[5], Draw::Fine),
        ("running_mean", &[5], Draw::Fine),
        ("running_var", &[5], Draw::Positive),
    ];
    let norm = ("batch_norm", "mode=train");
    cases.push(layer("batch_norm-constant", "channels without variance: only eps is under the root", norm, &channels));

    let (name, logits) = ("softmax_cross_entropy-learnt", [6, 5]);
    let target = classes(name, logits);
    let mut learnt = Draw::Fine.tensor(name, "input", &logits);
    target.iter().enumerate().for_each(|(row, &class)| learnt[[row, class as usize]] += 14.0);
    let mut input = Tensors::new();
    input.insert("input", learnt);
    input.insert("target", target);
    let subject = Subject::Layer("softmax_cross_entropy", "");
    let about = "images that have been learnt: p − target is 10⁻⁶ of its terms";
    cases.push(Case { name: name.to_string(), about, subject, input });
}

/// Inputs that every 16-bit type has: nothing is lost before the computation.
fn short(cases: &mut Vec<Case>) {
    let all = |inputs: &[(&'static str, &'static [usize])]| -> Vec<(&'static str, &'static [usize], Draw)> {
        inputs.iter().map(|&(name, shape)| (name, shape, Draw::Short)).collect()
    };
    let mut short = |name: &str, about, subject, inputs: &[(&str, &[usize], Draw)]| {
        let mut case = layer(name, about, subject, inputs);
        let shape = case.input.get("grad_output").expect("just drawn").shape().to_vec();
        case.input.insert("grad_output", Draw::Short.tensor(name, "grad_output", &shape));
        cases.push(case);
    };
    let inputs = all(&[("input", &[2, 5, 7, 6]), ("weight", &[4, 5, 3, 3]), ("bias", &[4])]);
    short("conv2d-16-bit", "exact in every 16-bit type", ("conv2d", "stride=2,padding=1"), &inputs);
    let mut inputs = all(&[("input", &[3, 4, 6, 5]), ("weight", &[4]), ("bias", &[4])]);
    inputs.extend([("running_mean", &[4][..], Draw::Short), ("running_var", &[4], Draw::Positive)]);
    short("batch_norm-16-bit", "exact in every 16-bit type", ("batch_norm", "mode=train"), &inputs);
    let inputs = all(&[("input", &[5, 12]), ("weight", &[7, 12]), ("bias", &[7])]);
    short("linear-16-bit", "exact in every 16-bit type", ("linear", ""), &inputs);
}

/// A class for every row.
fn classes(case: &str, [rows, classes]: [usize; 2]) -> Array1<i64> {
    let draws = Draw::Fine.tensor(case, "target", &[rows]);
    draws.iter().map(|draw| (((draw + 2.0) * 512.0) as i64).rem_euclid(classes as i64)).collect()
}

fn blocks(cases: &mut Vec<Case>) {
    type Convs<'a> = &'a [(&'a str, [usize; 4])];
    let mut block = |name: &str, about, subject: (&'static str, &'static str), x: [usize; 4], convs: Convs| {
        let pre_activation = subject.0.starts_with("preact");
        let mut inputs: Vec<(String, Vec<usize>, Draw)> = vec![("input".into(), x.to_vec(), Draw::Fine)];
        for (conv, weight) in convs {
            inputs.push((format!("{conv}.weight"), weight.to_vec(), Draw::Weight));
            let (norm, channels) = match (*conv, pre_activation) {
                ("downsample.0", true) => continue,
                ("downsample.0", false) => ("downsample.1".to_string(), weight[0]),
                (_, false) => (conv.replace("conv", "bn"), weight[0]),
                // A pre-activation block normalises the input of a convolution, all groups of it.
                (_, true) => (conv.replace("conv", "bn"), weight[1]),
            };
            for (tensor, draw) in [
                ("weight", Draw::Positive),
                ("bias", Draw::Fine),
                ("running_mean", Draw::Fine),
                ("running_var", Draw::Positive),
            ] {
                inputs.push((format!("{norm}.{tensor}"), vec![channels], draw));
            }
        }
        let inputs: Vec<(&str, &[usize], Draw)> =
            inputs.iter().map(|(name, shape, draw)| (name.as_str(), shape.as_slice(), *draw)).collect();
        cases.push(layer(name, about, subject, &inputs));
    };
    let same: Convs = &[("conv1", [4, 4, 3, 3]), ("conv2", [4, 4, 3, 3])];
    let wider: Convs = &[("conv1", [6, 4, 3, 3]), ("conv2", [6, 6, 3, 3])];
    let projected: Convs = &[("conv1", [6, 4, 3, 3]), ("conv2", [6, 6, 3, 3]), ("downsample.0", [6, 4, 1, 1])];
    let x = [3, 4, 6, 5];
    block("basic_block", "the shortcut is the identity", ("basic_block", ""), x, same);
    block("basic_block-eval", "running statistics", ("basic_block", "mode=eval"), x, same);
    block("basic_block-plain", "no shortcut", ("basic_block", "shortcut=none"), x, same);
    block(
        "basic_block-zero_pad",
        "option A: every other pixel, channels of zeros",
        ("basic_block", "stride=2"),
        [3, 4, 7, 6],
        wider,
    );
    block("basic_block-projection", "option B", ("basic_block", "stride=2"), [3, 4, 7, 6], projected);
    let inner = |c: usize, width: usize, groups: usize| {
        [("conv1", [width, c, 1, 1]), ("conv2", [width, width / groups, 3, 3]), ("conv3", [8, width, 1, 1])]
    };
    let [one, two, three] = inner(6, 4, 1);
    let projected = [one, two, three, ("downsample.0", [8, 6, 1, 1])];
    let x = [3, 6, 7, 5];
    block("bottleneck", "the shortcut is the identity", ("bottleneck", ""), [3, 8, 5, 6], &inner(8, 4, 1));
    block("bottleneck-stride2", "the stride is on the 3x3 (v1.5)", ("bottleneck", "stride=2"), x, &projected);
    block("bottleneck-v1", "the stride is on the first 1x1", ("bottleneck", "stride=2,stride_on=conv1"), x, &projected);
    block("bottleneck-groups", "as in ResNeXt", ("bottleneck", "groups=2"), [2, 8, 5, 6], &inner(8, 6, 2));
    block("preact_basic_block", "the shortcut is the identity", ("preact_basic_block", ""), [3, 4, 6, 5], same);
    block("preact_basic_block-zero_pad", "option A", ("preact_basic_block", "stride=2"), [3, 4, 6, 7], wider);
    let bottleneck = "preact_bottleneck";
    block("preact_bottleneck", "the shortcut is the identity", (bottleneck, ""), [3, 8, 6, 5], &inner(8, 4, 1));
    block(
        "preact_bottleneck-stride2",
        "the projection reads the normalised input",
        (bottleneck, "stride=2"),
        x,
        &projected,
    );
}

fn steps(cases: &mut Vec<Case>) {
    let mut step = |name: &str, about, settings, buffer: bool| {
        let mut input = Tensors::new();
        for tensor in ["param", "grad", "momentum_buffer"].into_iter().take(if buffer { 3 } else { 2 }) {
            input.insert(tensor, Draw::Fine.tensor(name, tensor, &[3, 5]));
        }
        cases.push(Case { name: name.to_string(), about, subject: Subject::Layer("sgd", settings), input });
    };
    step("sgd", "without momentum", "lr=0.125", false);
    step(
        "sgd-first",
        "the first step's buffer is the gradient, not dampened",
        "lr=0.125,momentum=0.75,dampening=0.5",
        false,
    );
    step("sgd-momentum", "a buffer from earlier steps", "lr=0.125,momentum=0.75", true);
    step("sgd-dampening", "the gradient has the weight one half", "lr=0.125,momentum=0.75,dampening=0.5", true);
    step("sgd-decay", "weight decay is part of the gradient", "lr=0.125,momentum=0.75,weight_decay=0.25", true);
    step("sgd-nesterov", "Nesterov momentum", "lr=0.125,momentum=0.75,weight_decay=0.25,nesterov=true", true);
}

fn networks(cases: &mut Vec<Case>) {
    let mut network = |name: &str, about, architecture: &Architecture, mode, images: [usize; 4]| {
        let model = ResNet::<f64>::zeroed(architecture).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut input = Tensors::new();
        input.insert("input", Draw::Fine.tensor(name, "input", &images));
        input.insert("target", classes(name, [images[0], architecture.classes]));
        model.visit("", &mut |tensor, role, own| {
            let draw = match role {
                Role::Weight => Draw::Weight,
                Role::Gamma => Draw::Positive,
                Role::Statistic if tensor.ends_with("running_var") => Draw::Positive,
                Role::Bias | Role::Beta | Role::Statistic => Draw::Fine,
            };
            input.insert(tensor, draw.tensor(name, tensor, own.shape()));
        });
        let subject = Subject::Network(Box::new(architecture.clone()), mode);
        cases.push(Case { name: name.to_string(), about, subject, input });
    };
    let named = |name: &str| Architecture::by_name(name).expect("a known name");
    let resnet20 = named("resnet20");
    network("resnet20", "He et al. 2015, section 4.2; two steps of SGD", &resnet20, Mode::Train, [3, 3, 16, 16]);
    network("resnet20-eval", "the same with running statistics", &resnet20, Mode::Eval, [3, 3, 16, 16]);
    let stage = |channels, blocks, stride| Stage { channels, blocks, stride };
    let thin = Architecture {
        name: "bottleneck-network".to_string(),
        stem_channels: 12,
        stages: vec![stage(4, 1, 1), stage(6, 2, 2), stage(8, 1, 2)],
        classes: 7,
        image: [40, 36],
        ..named("resnet50")
    };
    network(
        "bottleneck-network",
        "a thin ResNet-50: its stem, its pool, its blocks",
        &thin,
        Mode::Train,
        [4, 3, 40, 36],
    );
    let thin = Architecture {
        name: "preact-network".to_string(),
        stem_channels: 6,
        stages: vec![stage(4, 1, 1), stage(6, 1, 2)],
        classes: 5,
        image: [14, 12],
        ..named("preact164")
    };
    network("preact-network", "a thin pre-activation network", &thin, Mode::Train, [4, 3, 14, 12]);
}
