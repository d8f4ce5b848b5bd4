//! Every operation computed wrongly, in many ways: what a conformance pack has to notice.
//!
//! A [`Mutant`] is one operation with one fault, in a layer, a block or a network, wherever the operation occurs. There are four
//! sorts:
//!
//! - **a classic misunderstanding**, as `resnet oracle diagnose` knows them ([`Mistake`]);
//! - **another layer** in its place: height and width of its stride exchanged, its dilation forgotten;
//! - **a wrong formula**: a term of the gradient missing, a window's gradient overwritten where windows overlap, a gradient for each
//!   of several equal maxima;
//! - **wrong numbers**, for each of the operation's results and gradients: nothing there; the last image, a channel or the last
//!   column forgotten; two channels exchanged; everything one pixel to the right; everything too large by a thousandth.

use super::diagnose::{made, Mistake, WrongNorm};
use super::dump::{dump_disturbed, Goal, Request};
use super::layer::{name_loss, sgd_request, Settings, Task};
use super::pack::{Case, Subject};
use crate::layers::{AvgPool2d, BatchNorm2d, Conv2d, MaxPool2d, Mode, Relu, SoftmaxCrossEntropy};
use crate::parameters::Gradients;
use crate::program::{Disturb, Layer, Passage, Step, Value};
use crate::tensors::{Tensor, Tensors};
use crate::Activation;
use ndarray::{s, Array2, Array4, ArrayD, ArrayViewMutD, Axis};

/// One operation with one fault.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// The operation, as the oracle's layers are called; `sgd` for the optimiser.
    pub operation: &'static str,
    /// Which of what it computes is wrong: `result`, `grad_input`, `grad_weight`, or `all` for a fault of the whole.
    pub part: &'static str,
    /// What is wrong with it.
    pub what: &'static str,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A classic misunderstanding.
    Classic(Mistake),
    /// Another layer; `false` if it would be the same.
    Layer(fn(&mut Layer<f64>) -> bool),
    /// Another loss; `false` if it would be the same.
    Loss(fn(&mut SoftmaxCrossEntropy<f64>, &mut Vec<usize>, usize) -> bool),
    /// Another result than this, of the values that were read.
    Result(fn(&Layer<f64>, &Activation<f64>, &mut Activation<f64>)),
    /// Another gradient of the input.
    Gradient(fn(&Layer<f64>, &Passing<'_>) -> Option<Activation<f64>>),
    /// Parameter gradients as they are for another gradient of the result.
    Parameters(fn(&Activation<f64>) -> Activation<f64>),
    /// A batch norm that forgets a part of its gradient.
    Norm(WrongNorm),
    /// Another loss and gradient of the logits.
    Logits(fn(&Array2<f64>, &[usize], &mut f64, &mut Array2<f64>)),
    /// Wrong numbers in what the part is.
    Numbers(Change),
    /// Another step of SGD.
    Sgd(fn(&mut SgdTerms)),
}

/// What goes through a step with images.
struct Passing<'a> {
    x: &'a Activation<f64>,
    dy: &'a Activation<f64>,
    dx: &'a Activation<f64>,
}

/// Wrong numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Nothing,
    Thousandth,
    LastImage,
    MiddleChannel,
    Exchanged,
    LastColumn,
    Shifted,
}

impl Change {
    const ALL: [Change; 7] = [
        Change::Nothing,
        Change::Thousandth,
        Change::LastImage,
        Change::MiddleChannel,
        Change::Exchanged,
        Change::LastColumn,
        Change::Shifted,
    ];

    fn what(self) -> &'static str {
        match self {
            Change::Nothing => "is 0",
            Change::Thousandth => "is larger by a thousandth",
            Change::LastImage => "is 0 for the last image",
            Change::MiddleChannel => "is 0 in one channel",
            Change::Exchanged => "has two channels exchanged",
            Change::LastColumn => "is 0 in the last column",
            Change::Shifted => "is shifted by a column",
        }
    }

    /// On images `(N, H, W, C)`, rows `(N, F)`, or the gradient of a parameter, whose channels are its first axis.
    fn make(self, mut numbers: ArrayViewMutD<'_, f64>, parameter: bool) {
        let channels = Axis(if parameter { 0 } else { numbers.ndim() - 1 });
        let count = numbers.len_of(channels);
        let images = !parameter && numbers.ndim() == 4;
        match self {
            Change::Nothing => numbers.fill(0.0),
            Change::Thousandth => numbers.map_inplace(|x| *x *= 1.0 + 1.0 / 1024.0),
            Change::LastImage => {
                let last = numbers.len_of(Axis(0)) - 1;
                numbers.index_axis_mut(Axis(0), last).fill(0.0);
            }
            Change::MiddleChannel => numbers.index_axis_mut(channels, count / 2).fill(0.0),
            Change::Exchanged => {
                let (middle, before) = (count / 2, (count / 2).saturating_sub(1));
                let one = numbers.index_axis(channels, middle).to_owned();
                let other = numbers.index_axis(channels, before).to_owned();
                numbers.index_axis_mut(channels, middle).assign(&other);
                numbers.index_axis_mut(channels, before).assign(&one);
            }
            Change::LastColumn if images => {
                let last = numbers.len_of(Axis(2)) - 1;
                numbers.index_axis_mut(Axis(2), last).fill(0.0);
            }
            Change::Shifted if images => {
                let before = numbers.to_owned();
                let width = numbers.len_of(Axis(2));
                for column in 0..width {
                    let from = before.index_axis(Axis(2), (column + width - 1) % width);
                    numbers.index_axis_mut(Axis(2), column).assign(&from);
                }
            }
            Change::LastColumn | Change::Shifted => {}
        }
    }

    fn make_in(self, value: &mut Value<f64>) {
        match value {
            Value::Images(x) => {
                let mut changed = x.to_owned();
                self.make(changed.view_mut().into_dyn(), false);
                *x = changed.into_shared();
            }
            Value::Rows(x) => self.make(x.view_mut().into_dyn(), false),
        }
    }
}

/// Every mutant.
pub fn mutants() -> Vec<Mutant> {
    let mut all = Vec::new();
    all.extend(Mistake::ALL.map(|mistake| Mutant {
        operation: operation_of(mistake),
        part: "all",
        what: mistake.name(),
        fault: Fault::Classic(mistake),
    }));
    let mut add = |operation, part, what, fault| all.push(Mutant { operation, part, what, fault });
    other_layers(&mut add);
    wrong_formulas(&mut add);
    sgd_steps(&mut add);
    wrong_numbers(&mut add);
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

fn operation_of(mistake: Mistake) -> &'static str {
    match mistake {
        Mistake::RunningVariance
        | Mistake::MomentumComplement
        | Mistake::NormalizesUnbiased
        | Mistake::EpsOutsideRoot
        | Mistake::StatisticsPerSample
        | Mistake::StatisticsConstant
        | Mistake::StatisticsOfEvaluation => "batch_norm",
        Mistake::StrideOnOtherConvolution
        | Mistake::InputNhwc
        | Mistake::ChannelsReversed
        | Mistake::WeightHwio
        | Mistake::KernelFlipped
        | Mistake::KernelTransposed
        | Mistake::PaddingIgnored => "conv2d",
        Mistake::ReluGradientAtZero => "relu",
        Mistake::LeakySlope => "leaky_relu",
        Mistake::PaddingInAverage => "avg_pool",
        Mistake::NoResidual | Mistake::NoShortcutGradient => "add",
        Mistake::LossSummed | Mistake::LossAveraged | Mistake::GradientTimesBatch | Mistake::GradientOverBatch => {
            "softmax_cross_entropy"
        }
        Mistake::DecayDecoupled | Mistake::NoDecay | Mistake::Nesterov => "sgd",
    }
}

type Add<'a> = &'a mut dyn FnMut(&'static str, &'static str, &'static str, Fault);

fn differs(pair: &mut [usize; 2]) -> bool {
    pair.swap(0, 1);
    pair[0] != pair[1]
}

fn of_conv(layer: &mut Layer<f64>, change: fn(&mut Conv2d<f64>) -> bool) -> bool {
    if let Layer::Conv2d(conv) = layer {
        change(conv)
    } else {
        false
    }
}

fn of_norm(layer: &mut Layer<f64>, change: fn(&mut BatchNorm2d<f64>) -> bool) -> bool {
    if let Layer::BatchNorm2d(bn) = layer {
        change(bn)
    } else {
        false
    }
}

fn of_max(layer: &mut Layer<f64>, change: fn(&mut MaxPool2d) -> bool) -> bool {
    if let Layer::MaxPool2d(pool) = layer {
        change(pool)
    } else {
        false
    }
}

fn of_avg(layer: &mut Layer<f64>, change: fn(&mut AvgPool2d) -> bool) -> bool {
    if let Layer::AvgPool2d(pool) = layer {
        change(pool)
    } else {
        false
    }
}

fn other_layers(add: Add) {
    let mut conv = |what, change: fn(&mut Layer<f64>) -> bool| add("conv2d", "all", what, Fault::Layer(change));
    conv("strides of height and width are exchanged", |layer| of_conv(layer, |conv| differs(&mut conv.stride)));
    conv("paddings of height and width are exchanged", |layer| of_conv(layer, |conv| differs(&mut conv.padding)));
    conv("dilations of height and width are exchanged", |layer| of_conv(layer, |conv| differs(&mut conv.dilation)));
    conv("the dilation is forgotten", |layer| {
        of_conv(layer, |conv| std::mem::replace(&mut conv.dilation, [1, 1]) != [1, 1])
    });
    conv("the stride is forgotten", |layer| {
        of_conv(layer, |conv| std::mem::replace(&mut conv.stride, [1, 1]) != [1, 1])
    });
    conv("the bias is forgotten", |layer| of_conv(layer, |conv| conv.bias.take().is_some()));
    conv("the groups read each other's channels", |layer| {
        of_conv(layer, |conv| {
            let group = conv.weight.len_of(Axis(0)) / conv.groups.max(1);
            let (first, rest) =
                (conv.weight.slice(s![..group, .., .., ..]), conv.weight.slice(s![group.., .., .., ..]));
            conv.weight = ndarray::concatenate(Axis(0), &[rest, first]).expect("the same kernels");
            conv.groups > 1
        })
    });

    let mut norm = |what, change: fn(&mut Layer<f64>) -> bool| add("batch_norm", "all", what, Fault::Layer(change));
    norm("eps is forgotten", |layer| of_norm(layer, |bn| std::mem::replace(&mut bn.eps, 0.0) != 0.0));
    norm("eps is 1e-3", |layer| of_norm(layer, |bn| std::mem::replace(&mut bn.eps, 1e-3) != 1e-3));
    norm("weight and bias are exchanged", |layer| {
        of_norm(layer, |bn| {
            std::mem::swap(&mut bn.gamma, &mut bn.beta);
            true
        })
    });
    norm("the running statistics stay what they are", |layer| {
        of_norm(layer, |bn| std::mem::replace(&mut bn.momentum, 0.0) != 0.0)
    });
    norm("the running mean is taken for 0", |layer| {
        of_norm(layer, |bn| {
            bn.running_mean.fill(0.0);
            true
        })
    });
    norm("the running variance is taken for the deviation", |layer| {
        of_norm(layer, |bn| {
            bn.running_var.mapv_inplace(|var| var * var);
            true
        })
    });

    add(
        "relu",
        "all",
        "leaks a hundredth",
        Fault::Layer(|layer| {
            let Layer::Relu(relu) = layer else { return false };
            *relu = Relu::leaky(0.01).expect("a slope from 0 to 1");
            true
        }),
    );
    add(
        "leaky_relu",
        "all",
        "does not leak",
        Fault::Layer(|layer| {
            let Layer::Relu(relu) = layer else { return false };
            *relu = Relu::new();
            true
        }),
    );

    let mut max = |what, change: fn(&mut Layer<f64>) -> bool| add("max_pool", "all", what, Fault::Layer(change));
    max("kernel's height and width are exchanged", |layer| of_max(layer, |pool| differs(&mut pool.kernel)));
    max("strides of height and width are exchanged", |layer| of_max(layer, |pool| differs(&mut pool.stride)));
    max("paddings of height and width are exchanged", |layer| of_max(layer, |pool| differs(&mut pool.padding)));
    max("dilations of height and width are exchanged", |layer| of_max(layer, |pool| differs(&mut pool.dilation)));
    max("the dilation is forgotten", |layer| {
        of_max(layer, |pool| std::mem::replace(&mut pool.dilation, [1, 1]) != [1, 1])
    });
    max("the padding is forgotten", |layer| of_max(layer, |pool| std::mem::take(&mut pool.padding) != [0, 0]));
    max("sizes are rounded the other way", |layer| {
        of_max(layer, |pool| {
            pool.ceil_mode = !pool.ceil_mode;
            true
        })
    });
    let mut avg = |what, change: fn(&mut Layer<f64>) -> bool| add("avg_pool", "all", what, Fault::Layer(change));
    avg("kernel's height and width are exchanged", |layer| of_avg(layer, |pool| differs(&mut pool.kernel)));
    avg("strides of height and width are exchanged", |layer| of_avg(layer, |pool| differs(&mut pool.stride)));
    avg("paddings of height and width are exchanged", |layer| of_avg(layer, |pool| differs(&mut pool.padding)));
    avg("the padding is forgotten", |layer| of_avg(layer, |pool| std::mem::take(&mut pool.padding) != [0, 0]));
    avg("the divisor is ignored", |layer| of_avg(layer, |pool| pool.divisor_override.take().is_some()));
    avg("sizes are rounded the other way", |layer| {
        of_avg(layer, |pool| {
            pool.ceil_mode = !pool.ceil_mode;
            true
        })
    });

    let mut linear = |what, change: fn(&mut Layer<f64>) -> bool| add("linear", "all", what, Fault::Layer(change));
    linear("the weight is transposed", |layer| {
        let Layer::Linear(linear) = layer else { return false };
        linear.weight.swap_axes(0, 1);
        linear.weight = linear.weight.as_standard_layout().into_owned();
        true
    });
    linear("the bias is forgotten", |layer| {
        let Layer::Linear(linear) = layer else { return false };
        linear.bias.fill(0.0);
        true
    });
    add(
        "zero_pad_shortcut",
        "all",
        "takes every pixel",
        Fault::Layer(|layer| {
            let Layer::ZeroPadShortcut(shortcut) = layer else { return false };
            std::mem::replace(&mut shortcut.stride, 1) != 1
        }),
    );

    let mut loss = |what, change| add("softmax_cross_entropy", "all", what, Fault::Loss(change));
    loss("the smoothing is ignored", |loss, _, _| std::mem::take(&mut loss.label_smoothing) != 0.0);
    loss("the smoothing is spread over the other classes only", |loss, _, classes| {
        let spread = loss.label_smoothing != 0.0;
        loss.label_smoothing *= classes as f64 / (classes as f64 - 1.0);
        spread
    });
    loss("classes are counted from 1", |_, target, classes| {
        target.iter_mut().for_each(|class| *class = (*class + 1) % classes);
        true
    });
}

fn wrong_formulas(add: Add) {
    add(
        "conv2d",
        "grad_input",
        "is made with the kernel not turned",
        Fault::Gradient(|layer, passing| {
            let Layer::Conv2d(conv) = layer else { return None };
            let mut turned = conv.clone();
            turned.weight.invert_axis(Axis(2));
            turned.weight.invert_axis(Axis(3));
            turned.weight = turned.weight.as_standard_layout().into_owned();
            let (_, cache) = turned.forward(passing.x).ok()?;
            Some(turned.backward(passing.dy, &cache).ok()?.0)
        }),
    );
    for operation in ["conv2d", "max_pool", "avg_pool"] {
        let what = "overwrites where windows overlap, instead of adding";
        add(operation, "grad_input", what, Fault::Gradient(last_window));
    }
    for operation in ["conv2d", "linear"] {
        for part in ["grad_weight", "grad_bias"] {
            add(
                operation,
                part,
                "is that of the last image",
                Fault::Parameters(|dy| {
                    let mut last = Array4::zeros(dy.raw_dim());
                    let image = dy.len_of(Axis(0)) - 1;
                    last.index_axis_mut(Axis(0), image).assign(&dy.index_axis(Axis(0), image));
                    last.into_shared()
                }),
            );
        }
    }
    add(
        "conv2d",
        "grad_weight",
        "leaves out the border of the result",
        Fault::Parameters(|dy| {
            let mut inner = dy.to_owned();
            let (_, h, w, _) = dy.dim();
            for row in [0, h - 1] {
                inner.slice_mut(s![.., row, .., ..]).fill(0.0);
            }
            for column in [0, w - 1] {
                inner.slice_mut(s![.., .., column, ..]).fill(0.0);
            }
            inner.into_shared()
        }),
    );

    let right = WrongNorm::RIGHT;
    let mut norm = |part, what, wrong| add("batch_norm", part, what, Fault::Norm(wrong));
    norm("grad_input", "takes the mean for a constant", WrongNorm { mean_term: false, ..right });
    norm("grad_input", "takes the variance for a constant", WrongNorm { variance_term: false, ..right });
    norm("grad_input", "is not multiplied by the weight", WrongNorm { gamma: false, ..right });
    norm("grad_weight", "is not divided by the deviation", WrongNorm { rstd: false, ..right });

    let gate = |add: Add, what, gradient| add("relu", "grad_input", what, Fault::Gradient(gradient));
    gate(add, "passes everywhere", |_, passing| Some(passing.dy.clone()));
    gate(add, "is gated by its own sign", |_, passing| Some(passing.dy.mapv(|dy| dy.max(0.0)).into_shared()));

    add(
        "max_pool",
        "result",
        "pads with 0",
        Fault::Result(|layer, x, y| {
            let Layer::MaxPool2d(pool) = layer else { return };
            for_windows(pool, x, y, |y, window| {
                if window.padded {
                    *y = y.max(0.0);
                }
            });
        }),
    );
    add(
        "max_pool",
        "grad_input",
        "goes to the last of equal values",
        Fault::Gradient(|layer, passing| {
            let Layer::MaxPool2d(pool) = layer else { return None };
            Some(of_equal(pool, passing, |equal| equal.drain(..equal.len() - 1).for_each(drop)))
        }),
    );
    add(
        "max_pool",
        "grad_input",
        "goes to all of equal values",
        Fault::Gradient(|layer, passing| {
            let Layer::MaxPool2d(pool) = layer else { return None };
            Some(of_equal(pool, passing, |_| {}))
        }),
    );
    add(
        "avg_pool",
        "grad_input",
        "is not divided by the window",
        Fault::Gradient(|layer, passing| {
            let Layer::AvgPool2d(pool) = layer else { return None };
            let count = (pool.kernel[0] * pool.kernel[1]) as f64;
            Some(passing.dx.mapv(|dx| dx * count).into_shared())
        }),
    );
    add(
        "avg_pool",
        "result",
        "is the largest value",
        Fault::Result(|layer, x, y| {
            let Layer::AvgPool2d(pool) = layer else { return };
            let max = MaxPool2d { ceil_mode: pool.ceil_mode, ..MaxPool2d::new(pool.kernel, pool.stride, pool.padding) };
            if let Ok((largest, _)) = max.forward(x) {
                *y = largest;
            }
        }),
    );
    add(
        "global_avg_pool",
        "grad_input",
        "is not divided by the number of pixels",
        Fault::Gradient(|_, passing| {
            let (_, h, w, _) = passing.x.dim();
            Some(passing.dx.mapv(|dx| dx * (h * w) as f64).into_shared())
        }),
    );
    add(
        "add",
        "grad_input",
        "is given out twice",
        Fault::Gradient(|_, passing| Some(passing.dy.mapv(|dy| 2.0 * dy).into_shared())),
    );

    let mut logits = |part, what, wrong| add("softmax_cross_entropy", part, what, Fault::Logits(wrong));
    logits("grad_input", "is p/N, without the target", |logits, target, _, dlogits| {
        let layer = SoftmaxCrossEntropy::<f64>::new();
        if let Ok((_, cache)) = layer.forward(logits, target) {
            *dlogits = cache.probabilities / target.len() as f64;
        }
    });
    logits("result", "is in bits", |_, _, loss, _| *loss /= std::f64::consts::LN_2);
    logits("result", "overflows: the largest logit is not subtracted", |logits, target, loss, dlogits| {
        let sums = logits.mapv(f64::exp).sum_axis(Axis(1));
        if sums.iter().any(|sum| sum.is_infinite()) {
            let of_row = |(n, &class): (usize, &usize)| sums[n].ln() - logits[[n, class]];
            *loss = target.iter().enumerate().map(of_row).sum::<f64>() / target.len() as f64;
            dlogits.fill(f64::NAN);
        }
    });
}

/// A window of a pool: the pixels of the image in it, and whether it reaches over the border.
struct Window {
    pixels: Vec<[usize; 2]>,
    padded: bool,
}

/// Calls `each` for every value of `y` with its window.
fn for_windows(
    pool: &MaxPool2d,
    x: &Activation<f64>,
    y: &mut Activation<f64>,
    mut each: impl FnMut(&mut f64, &Window),
) {
    let (_, h, w, _) = x.dim();
    for ((_, i, j, _), y) in y.indexed_iter_mut() {
        each(y, &window(pool, [i, j], [h, w]));
    }
}

fn window(pool: &MaxPool2d, at: [usize; 2], size: [usize; 2]) -> Window {
    let mut window = Window { pixels: Vec::new(), padded: false };
    for p in 0..pool.kernel[0] {
        for q in 0..pool.kernel[1] {
            let place = |axis: usize, tap: usize| {
                let place = at[axis] * pool.stride[axis] + tap * pool.dilation[axis];
                place.checked_sub(pool.padding[axis]).filter(|place| *place < size[axis])
            };
            match (place(0, p), place(1, q)) {
                (Some(row), Some(column)) => window.pixels.push([row, column]),
                _ => window.padded = true,
            }
        }
    }
    window
}

/// The gradient of a max pool that sends each dy to those of its equal values that `choose` leaves.
fn of_equal(pool: &MaxPool2d, passing: &Passing<'_>, choose: impl Fn(&mut Vec<[usize; 2]>)) -> Activation<f64> {
    let (x, mut dx) = (passing.x, Array4::zeros(passing.x.raw_dim()));
    let (_, h, w, _) = x.dim();
    for ((n, i, j, c), &dy) in passing.dy.indexed_iter() {
        let window = window(pool, [i, j], [h, w]);
        let largest =
            window.pixels.iter().fold(f64::NEG_INFINITY, |max, &[row, column]| max.max(x[[n, row, column, c]]));
        let mut equal = window.pixels;
        equal.retain(|&[row, column]| x[[n, row, column, c]] == largest);
        choose(&mut equal);
        for [row, column] in equal {
            dx[[n, row, column, c]] += dy;
        }
    }
    dx.into_shared()
}

/// dx where every pixel keeps the contribution of the last window that reads it. One backward pass a window: for small images.
fn last_window(layer: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    const MOST: usize = 120;
    let (_, h, w, _) = passing.dy.dim();
    if h * w > MOST {
        return None;
    }
    type Backward<'a> = Box<dyn Fn(&Activation<f64>) -> Option<Activation<f64>> + 'a>;
    let backward: Backward<'_> = match layer {
        Layer::Conv2d(conv) => {
            let (_, cache) = conv.forward(passing.x).ok()?;
            Box::new(move |dy| Some(conv.backward(dy, &cache).ok()?.0))
        }
        Layer::MaxPool2d(pool) => {
            let (_, cache) = pool.forward(passing.x).ok()?;
            Box::new(move |dy| pool.backward(dy, &cache).ok())
        }
        Layer::AvgPool2d(pool) => {
            let (_, cache) = pool.forward(passing.x).ok()?;
            Box::new(move |dy| pool.backward(dy, &cache).ok())
        }
        _ => return None,
    };
    let mut dx = Array4::<f64>::zeros(passing.x.raw_dim());
    for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
        let mut one = Array4::zeros(passing.dy.raw_dim());
        one.slice_mut(s![.., i, j, ..]).assign(&passing.dy.slice(s![.., i, j, ..]));
        let part = backward(&one.into_shared())?;
        dx.zip_mut_with(&part, |dx, &part| {
            if part != 0.0 {
                *dx = part;
            }
        });
    }
    Some(dx.into_shared())
}

/// The terms of a step of SGD, each to be left out or changed.
#[derive(Clone, Copy, Debug)]
struct SgdTerms {
    lr: f64,
    momentum: f64,
    /// Weight of the gradient in the buffer, and in the first one.
    gradient: [f64; 2],
    decay: f64,
    nesterov: bool,
    /// Whether the decay joins the gradient behind the buffer.
    late_decay: bool,
    /// Whether the learning rate is in the buffer.
    lr_in_buffer: bool,
}

impl SgdTerms {
    fn of(request: &Request) -> Self {
        let sgd = &request.sgd;
        SgdTerms {
            lr: request.lr,
            momentum: sgd.momentum,
            gradient: [1.0 - sgd.dampening, 1.0],
            decay: sgd.weight_decay,
            nesterov: sgd.nesterov,
            late_decay: false,
            lr_in_buffer: false,
        }
    }

    /// `param` and `momentum_buffer` after a step.
    fn step(&self, input: &Tensors) -> Tensors {
        let real = |name: &str| input.get(name).map(Tensor::to_f64);
        let (mut param, grad) = (real("param").expect("given"), real("grad").expect("given"));
        let (early, late) = if self.late_decay { (0.0, self.decay) } else { (self.decay, 0.0) };
        let scale = if self.lr_in_buffer { self.lr } else { 1.0 };
        let gradient: ArrayD<f64> = (&grad + &(&param * early)) * scale;
        let buffer = match real("momentum_buffer") {
            Some(buffer) => buffer * self.momentum + &gradient * self.gradient[0],
            None => &gradient * self.gradient[1],
        };
        let mut result = Tensors::new();
        let mut step = if self.momentum == 0.0 { gradient.clone() } else { buffer.clone() };
        if self.nesterov {
            step = &gradient + &(&buffer * self.momentum);
        }
        step = step + &param * late;
        param = param - step * if self.lr_in_buffer { 1.0 } else { self.lr };
        result.insert("param", param);
        if self.momentum != 0.0 {
            result.insert("momentum_buffer", buffer);
        }
        result
    }
}

fn sgd_steps(add: Add) {
    let mut sgd = |what, change| add("sgd", "all", what, Fault::Sgd(change));
    sgd("uphill", |terms| terms.lr = -terms.lr);
    sgd("no momentum", |terms| (terms.momentum, terms.nesterov) = (0.0, false));
    sgd("the momentum is its complement", |terms| terms.momentum = 1.0 - terms.momentum);
    sgd("no dampening", |terms| terms.gradient[0] = 1.0);
    sgd("the first step is dampened too", |terms| terms.gradient[1] = terms.gradient[0]);
    sgd("the gradient's weight is 1 − momentum", |terms| terms.gradient[0] = 1.0 - terms.momentum);
    sgd("the decay pushes outwards", |terms| terms.decay = -terms.decay);
    sgd("the decay is halved, λ/2 for the derivative of λ/2 θ²", |terms| terms.decay /= 2.0);
    sgd("the decay does not enter the buffer", |terms| terms.late_decay = true);
    sgd("the learning rate is in the buffer", |terms| terms.lr_in_buffer = true);
    sgd("plain momentum for Nesterov's", |terms| terms.nesterov = false);
    sgd("the learning rate is off by a thousandth", |terms| terms.lr *= 1.0 + 1.0 / 1024.0);
}

fn wrong_numbers(add: Add) {
    for operation in OPERATIONS {
        let parts: &[&str] = match operation {
            "conv2d" | "batch_norm" | "linear" => &["result", "grad_input", "grad_weight", "grad_bias"],
            "sgd" => &[],
            _ => &["result", "grad_input"],
        };
        for &part in parts {
            let parameter = part.starts_with("grad_") && part != "grad_input";
            let images = match operation {
                "linear" | "softmax_cross_entropy" => false,
                "global_avg_pool" => part == "grad_input",
                _ => true,
            };
            for change in Change::ALL {
                let meaningful = match change {
                    Change::LastImage => !parameter,
                    Change::LastColumn => images && !parameter,
                    // The gradient of an image's mean is the same in every pixel.
                    Change::Shifted => images && !parameter && operation != "global_avg_pool",
                    // A loss is one number.
                    Change::MiddleChannel | Change::Exchanged => {
                        (operation, part) != ("softmax_cross_entropy", "result")
                    }
                    Change::Nothing | Change::Thousandth => true,
                };
                let scalar = (operation, part) == ("softmax_cross_entropy", "result");
                if meaningful && !(scalar && change == Change::LastImage) {
                    add(operation, part, change.what(), Fault::Numbers(change));
                }
            }
        }
    }
}

impl Mutant {
    /// What comes out of a case with this fault in it. `None` if the case has nothing to do with it; an empty result if nothing can
    /// be computed any more.
    pub fn compute(&self, case: &Case) -> Option<Tensors> {
        if let Subject::Layer("sgd", settings) = case.subject {
            return self.step(case, settings);
        }
        let mut task = case.task().expect("everything but SGD is made of layers");
        let right = task.clone();
        let made = match self.fault {
            Fault::Classic(mistake) => return made(&right, mistake).map(Result::unwrap_or_default),
            Fault::Sgd(_) => false,
            Fault::Layer(change) => {
                let own = |step: &&mut Step<f64>| step.layer.name() == self.operation;
                task.program.steps.iter_mut().filter(own).fold(false, |made, step| change(&mut step.layer) | made)
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

    /// Whether the operation is in a task.
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
                made.then(|| super::layer::sgd::<f64>(&request, &case.input).unwrap_or_default())
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
            (Fault::Numbers(change), ..) => change.make_in(value),
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
            (Fault::Numbers(change), "result") => {
                let mut one = ArrayD::from_elem(vec![1], *loss);
                change.make(one.view_mut(), true);
                *loss = one[[0]];
            }
            (Fault::Numbers(change), _) => change.make(dlogits.view_mut().into_dyn(), false),
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
            (Fault::Numbers(change), ..) if self.part_is("grad_input") => {
                gradients.iter_mut().for_each(|gradient| change.make_in(gradient));
            }
            (Fault::Numbers(change), ..) => {
                let parameters = parameters.iter_mut().filter(|(name, _)| own(name, self.part));
                parameters.for_each(|(_, gradient)| change.make(gradient.view_mut(), true));
            }
            (Fault::Gradient(wrong), Value::Images(x), Value::Images(dy)) => {
                for gradient in gradients {
                    if let Value::Images(dx) = gradient {
                        if let Some(other) = wrong(&step.layer, &Passing { x, dy, dx }) {
                            *dx = other;
                        }
                    }
                }
            }
            (Fault::Gradient(wrong), Value::Images(x), Value::Rows(_)) => {
                if let Value::Images(dx) = &mut gradients[0] {
                    // A global average pool, whose gradient needs nothing but dx.
                    if let Some(other) = wrong(&step.layer, &Passing { x, dy: x, dx }) {
                        *dx = other;
                    }
                }
            }
            (Fault::Parameters(wrong), Value::Images(x), Value::Images(dy)) => {
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
