//! The list: what can be wrong with each operation, in the order of the report.
//!
//! Before these come the classic mistakes ([`Mistake`](crate::oracle::Mistake)), after them the wrong values (`values.rs`).

use super::sgd::SgdTerms;
use super::{Fault, OtherLayer, Passing, WeightGradient, formulas};
use crate::Activation;
use crate::layers::{AvgPool2d, BatchNorm2d, Conv2d, Linear, MaxPool2d, Relu, SoftmaxCrossEntropy, ZeroPadShortcut};
use crate::oracle::diagnose::WrongNorm;
use crate::program::Layer;
use ndarray::Array2;

const RIGHT: WrongNorm = WrongNorm::RIGHT;

/// A fault of an operation.
pub(super) struct Entry {
    /// Which of its outputs is wrong.
    pub part: &'static str,
    /// What is wrong with it.
    pub what: &'static str,
    /// What is right instead.
    pub right: &'static str,
    pub fault: Fault,
}

pub(super) const LIST: [(&str, &[Entry]); 12] = [
    ("conv2d", CONV2D),
    ("batch_norm", BATCH_NORM),
    ("relu", RELU),
    ("leaky_relu", LEAKY_RELU),
    ("max_pool", MAX_POOL),
    ("avg_pool", AVG_POOL),
    ("global_avg_pool", GLOBAL_AVG_POOL),
    ("linear", LINEAR),
    ("add", ADD),
    ("zero_pad_shortcut", ZERO_PAD_SHORTCUT),
    ("softmax_cross_entropy", SOFTMAX_CROSS_ENTROPY),
    ("sgd", SGD),
];

const CONV2D: &[Entry] = &[
    conv("strides of height and width are exchanged", "[vertical, horizontal], height before width", |conv| {
        differs(&mut conv.stride)
    }),
    conv("paddings of height and width are exchanged", "[vertical, horizontal], height before width", |conv| {
        differs(&mut conv.padding)
    }),
    conv("dilations of height and width are exchanged", "[vertical, horizontal], height before width", |conv| {
        differs(&mut conv.dilation)
    }),
    conv("the dilation is forgotten", "neighbouring taps are `dilation` pixels apart", |conv| {
        std::mem::replace(&mut conv.dilation, [1, 1]) != [1, 1]
    }),
    conv("the stride is forgotten", "output pixel ho reads the rows from ho · stride − padding on", |conv| {
        std::mem::replace(&mut conv.stride, [1, 1]) != [1, 1]
    }),
    conv("the bias is forgotten", "bias[o] is added to every pixel of channel o", |conv| conv.bias.take().is_some()),
    conv(
        "the groups read each other's channels",
        "group g reads the C_in/groups channels from g · C_in/groups on",
        formulas::groups_exchanged,
    ),
    conv(
        "input and output channels of the weight are exchanged",
        "weight is (C_out, C_in, kh, kw)",
        formulas::channels_exchanged,
    ),
    grad_input(
        "is computed without rotating the kernel",
        "as a convolution of dy, dx needs the kernel rotated by 180 degrees: x[h + p] met weight[p], so dy[h − p] does",
        formulas::kernel_not_turned,
    ),
    grad_input(
        "overwrites where windows overlap, instead of adding",
        "a pixel is in several windows and gets the sum of their gradients: +=",
        formulas::last_window,
    ),
    grad_input(
        "ignores the stride",
        "output pixel ho has read from ho · stride + p − padding, and its gradient goes there",
        formulas::input_gradient_of_stride_1,
    ),
    grad_input(
        "ignores the padding",
        "output pixel ho has read from ho · stride + p − padding, and its gradient goes there",
        formulas::input_gradient_without_padding,
    ),
    parameter("grad_weight", "is that of the last image alone", OVERWRITTEN, formulas::of_last_image),
    parameter("grad_bias", "is that of the last image alone", OVERWRITTEN, formulas::of_last_image),
    parameter("grad_weight", "is that of the last pixel alone", OVERWRITTEN, formulas::of_last_pixel),
    parameter("grad_bias", "is that of the last pixel alone", OVERWRITTEN, formulas::of_last_pixel),
    parameter("grad_weight", "is averaged over the batch", AVERAGED, formulas::averaged),
    parameter("grad_bias", "is averaged over the batch", AVERAGED, formulas::averaged),
    parameter(
        "grad_weight",
        "leaves out the border of the result",
        "the pixels of y at the border count like all others",
        formulas::without_border,
    ),
    weight_gradient(
        "ignores the stride",
        "output pixel ho has read the pixel ho · stride + p − padding",
        formulas::weight_gradient_of_stride_1,
    ),
    weight_gradient(
        "ignores the padding",
        "output pixel ho has read the pixel ho · stride + p − padding",
        formulas::weight_gradient_without_padding,
    ),
];

/// What is right where a gradient is that of the last use alone.
const OVERWRITTEN: &str =
    "a parameter is used many times and gets the sum of the gradients from all its uses: +=, not =";

/// What is right where a gradient is averaged.
const AVERAGED: &str = "a layer adds; the 1/N of a mean loss is in dlogits, once, and nowhere else";

const BATCH_NORM: &[Entry] = &[
    norm("eps is forgotten", "x̂ = (x − mean)/√(var + eps)", |bn| std::mem::replace(&mut bn.eps, 0.0) != 0.0),
    norm("eps is 1e-3", "eps is given: 1e-5 in PyTorch", |bn| std::mem::replace(&mut bn.eps, 1e-3) != 1e-3),
    norm("weight and bias are exchanged", "y = weight · x̂ + bias", |bn| {
        std::mem::swap(&mut bn.gamma, &mut bn.beta);
        true
    }),
    norm(
        "the running statistics are not updated",
        "running ← (1 − momentum) · running + momentum · batch",
        |bn| std::mem::replace(&mut bn.momentum, 0.0) != 0.0,
    ),
    norm("the running mean is taken as 0", "in evaluation x̂ = (x − running mean)/√(running var + eps)", |bn| {
        bn.running_mean.fill(0.0);
        true
    }),
    norm("the running variance is taken as the deviation", "the deviation is its root, √(running var + eps)", |bn| {
        bn.running_var.mapv_inplace(|var| var * var);
        true
    }),
    result(
        "is divided by the variance, not by the deviation",
        "x̂ = (x − mean)/√(var + eps): the deviation is the root of the variance",
        formulas::divided_by_variance,
    ),
    wrong_norm(
        "grad_input",
        "treats the mean as a constant",
        "every x also moves the mean: the term − mean(dy) is missing",
        WrongNorm { mean_term: false, ..RIGHT },
    ),
    wrong_norm(
        "grad_input",
        "treats the variance as a constant",
        "every x also moves the variance: the term − x̂ · mean(dy · x̂) is missing",
        WrongNorm { variance_term: false, ..RIGHT },
    ),
    wrong_norm(
        "grad_input",
        "is not multiplied by the weight",
        "y = weight · x̂ + bias, so dx has the factor weight",
        WrongNorm { gamma: false, ..RIGHT },
    ),
    wrong_norm(
        "grad_input",
        "is not divided by the deviation",
        "x̂ = (x − mean) · rstd, so dx has the factor rstd",
        WrongNorm { dx_rstd: false, ..RIGHT },
    ),
    wrong_norm(
        "grad_input",
        "misses the factor 1/m",
        "the mean and the variance are means over m values: their gradients are means, not sums",
        WrongNorm { averages: false, ..RIGHT },
    ),
    wrong_norm(
        "grad_weight",
        "is not divided by the deviation",
        "dweight = Σ dy · x̂, with x̂ = (x − mean) · rstd",
        WrongNorm { rstd: false, ..RIGHT },
    ),
    wrong_norm(
        "grad_weight",
        "does not subtract the mean",
        "dweight = Σ dy · x̂, with x̂ = (x − mean) · rstd",
        WrongNorm { centred: false, ..RIGHT },
    ),
    parameter(
        "grad_bias",
        "is averaged over the channel",
        "bias is added to m values and gets the sum of their gradients",
        formulas::averaged_over_channel,
    ),
];

const RELU: &[Entry] = &[
    relu("has the slope 0.01", "y = 0 for x ≤ 0", |relu| {
        *relu = Relu::leaky(0.01).expect("a slope from 0 to 1");
        true
    }),
    result("is the absolute value", "y = 0 for x ≤ 0", |_, x, y| *y = x.mapv(f64::abs).into_shared()),
    grad_input("is dy everywhere", "dx = 0 where x ≤ 0: there y does not depend on x", |_, passing| {
        Some(passing.dy.clone())
    }),
    grad_input("is gated by the sign of dy", "the gate is decided by x, in the forward pass", |_, passing| {
        Some(passing.dy.mapv(|dy| dy.max(0.0)).into_shared())
    }),
    grad_input(
        "is y instead of dy",
        "dx = dy where x > 0: upstream gradient times local derivative, 1",
        |_, passing| Some(passing.x.mapv(|x| x.max(0.0)).into_shared()),
    ),
];

const LEAKY_RELU: &[Entry] = &[relu("has the slope 0", "y = slope · x for x < 0", |relu| {
    *relu = Relu::new();
    true
})];

const MAX_POOL: &[Entry] = &[
    max("kernel's height and width are exchanged", "[vertical, horizontal], height before width", |pool| {
        differs(&mut pool.kernel)
    }),
    max("strides of height and width are exchanged", "[vertical, horizontal], height before width", |pool| {
        differs(&mut pool.stride)
    }),
    max("paddings of height and width are exchanged", "[vertical, horizontal], height before width", |pool| {
        differs(&mut pool.padding)
    }),
    max("dilations of height and width are exchanged", "[vertical, horizontal], height before width", |pool| {
        differs(&mut pool.dilation)
    }),
    max("the dilation is forgotten", "neighbouring taps are `dilation` pixels apart", |pool| {
        std::mem::replace(&mut pool.dilation, [1, 1]) != [1, 1]
    }),
    max("the padding is forgotten", "window ho begins at row ho · stride − padding", |pool| {
        std::mem::take(&mut pool.padding) != [0, 0]
    }),
    max("sizes are rounded the other way", "a window that does not fit is left out, or kept with ceil_mode", |pool| {
        pool.ceil_mode = !pool.ceil_mode;
        true
    }),
    grad_input(
        "overwrites where windows overlap, instead of adding",
        "a pixel can be the maximum of several windows and gets the sum of their gradients: +=",
        formulas::last_window,
    ),
    result("pads with 0", "padding never wins: the maximum of negative values is negative", formulas::padded_with_0),
    grad_input(
        "goes to the last of equal values",
        "of several equal maxima the first in row order gets the gradient",
        formulas::to_last_of_equal,
    ),
    grad_input(
        "goes to all of equal values",
        "of several equal maxima the first in row order gets the gradient",
        formulas::to_all_of_equal,
    ),
];

const AVG_POOL: &[Entry] = &[
    avg("kernel's height and width are exchanged", "[vertical, horizontal], height before width", |pool| {
        differs(&mut pool.kernel)
    }),
    avg("strides of height and width are exchanged", "[vertical, horizontal], height before width", |pool| {
        differs(&mut pool.stride)
    }),
    avg("paddings of height and width are exchanged", "[vertical, horizontal], height before width", |pool| {
        differs(&mut pool.padding)
    }),
    avg("the padding is forgotten", "window ho begins at row ho · stride − padding", |pool| {
        std::mem::take(&mut pool.padding) != [0, 0]
    }),
    avg("the divisor is ignored", "divisor_override replaces the number of pixels", |pool| {
        pool.divisor_override.take().is_some()
    }),
    avg("sizes are rounded the other way", "a window that does not fit is left out, or kept with ceil_mode", |pool| {
        pool.ceil_mode = !pool.ceil_mode;
        true
    }),
    grad_input(
        "overwrites where windows overlap, instead of adding",
        "a pixel is in several windows and gets the sum of their gradients: +=",
        formulas::last_window,
    ),
    grad_input("is not divided by the window", "y is a mean, so dx = dy/divisor", formulas::times_window),
    result("is the largest value", "an average pool computes the mean", formulas::largest),
];

const GLOBAL_AVG_POOL: &[Entry] = &[grad_input(
    "is not divided by the number of pixels",
    "y is a mean of H · W pixels, so dx = dy/(H · W)",
    formulas::times_pixels,
)];

const LINEAR: &[Entry] = &[
    linear("the weight is transposed", "y = x · weightᵀ + bias with weight (F_out, F_in)", |linear| {
        linear.weight.swap_axes(0, 1);
        linear.weight = linear.weight.as_standard_layout().into_owned();
        true
    }),
    linear("the bias is forgotten", "y = x · weightᵀ + bias", |linear| {
        linear.bias.fill(0.0);
        true
    }),
    parameter("grad_weight", "is that of the last image alone", OVERWRITTEN, formulas::of_last_image),
    parameter("grad_bias", "is that of the last image alone", OVERWRITTEN, formulas::of_last_image),
    parameter("grad_weight", "is averaged over the batch", AVERAGED, formulas::averaged),
    parameter("grad_bias", "is averaged over the batch", AVERAGED, formulas::averaged),
];

const ADD: &[Entry] = &[grad_input("is doubled", "an addition passes its gradient on unchanged", |_, passing| {
    Some(passing.dy.mapv(|dy| 2.0 * dy).into_shared())
})];

const ZERO_PAD_SHORTCUT: &[Entry] =
    &[zero_pad("ignores the stride", "every second pixel of every second row", |shortcut| {
        std::mem::replace(&mut shortcut.stride, 1) != 1
    })];

const SOFTMAX_CROSS_ENTROPY: &[Entry] = &[
    loss("the smoothing is ignored", "the target is (1 − ε) for the class, plus ε/K for all", |loss, _, _| {
        std::mem::take(&mut loss.label_smoothing) != 0.0
    }),
    loss("the smoothing is spread over the other classes only", "ε/K goes to all K classes", |loss, _, classes| {
        let spread = loss.label_smoothing != 0.0;
        loss.label_smoothing *= classes as f64 / (classes as f64 - 1.0);
        spread
    }),
    loss("classes are counted from 1", "the classes are 0 to K − 1", |_, target, classes| {
        target.iter_mut().for_each(|class| *class = (*class + 1) % classes);
        true
    }),
    logits(
        "grad_input",
        "is p/N, without the target",
        "dlogits = (p − q)/N: 1 is subtracted at the target",
        formulas::without_target,
    ),
    logits(
        "grad_input",
        "has the wrong sign",
        "dlogits = (p − q)/N: what the network says minus what is right",
        formulas::negated,
    ),
    logits(
        "grad_input",
        "is divided by the number of classes",
        "the mean is over the batch: dlogits = (p − q)/N",
        formulas::over_classes,
    ),
    logits("result", "is in bits", "the logarithm is the natural one", |_, _, loss, _| *loss /= std::f64::consts::LN_2),
    logits(
        "result",
        "overflows: the largest logit is not subtracted",
        "subtract the largest logit of a row first: p does not change, and exp does not overflow",
        formulas::without_largest,
    ),
];

const SGD: &[Entry] = &[
    sgd("uphill", "θ ← θ − lr · d: against the gradient", |terms| terms.lr = -terms.lr),
    sgd("no momentum", "b ← momentum · b + g, and the step is along b", |terms| {
        (terms.momentum, terms.nesterov) = (0.0, false);
    }),
    sgd("the momentum is its complement", "b ← momentum · b + g", |terms| terms.momentum = 1.0 - terms.momentum),
    sgd("no dampening", "b ← momentum · b + (1 − dampening) · g", |terms| terms.gradient[0] = 1.0),
    sgd("the first step is dampened too", "the first b is g itself", |terms| terms.gradient[1] = terms.gradient[0]),
    sgd("the gradient's weight is 1 − momentum", "b ← momentum · b + g: g has the weight 1", |terms| {
        terms.gradient[0] = 1.0 - terms.momentum;
    }),
    sgd("the decay has the wrong sign", "g = gradient + weight_decay · θ: θ shrinks", |terms| {
        terms.decay = -terms.decay
    }),
    sgd("the decay is halved, λ/2 for the derivative of λ/2 θ²", "the derivative of λ/2 θ² is λ θ", |terms| {
        terms.decay /= 2.0;
    }),
    sgd("the decay does not enter the buffer", "the decay is added to the gradient, before the momentum", |terms| {
        terms.late_decay = true;
    }),
    sgd("the learning rate is in the buffer", "b ← momentum · b + g, and lr multiplies the step", |terms| {
        terms.lr_in_buffer = true;
    }),
    sgd("plain momentum instead of Nesterov's", "Nesterov's step is along g + momentum · b", |terms| {
        terms.nesterov = false;
    }),
    sgd("the learning rate is off by a thousandth", "θ ← θ − lr · d", |terms| terms.lr *= 1.0 + 1.0 / 1024.0),
];

/// Exchanges height and width; `false` if they are the same.
fn differs(pair: &mut [usize; 2]) -> bool {
    pair.swap(0, 1);
    pair[0] != pair[1]
}

// Entries by the kind of their fault: another layer.

const fn layer(what: &'static str, right: &'static str, other: OtherLayer) -> Entry {
    Entry { part: "all", what, right, fault: Fault::Layer(other) }
}

const fn conv(what: &'static str, right: &'static str, change: fn(&mut Conv2d<f64>) -> bool) -> Entry {
    layer(what, right, OtherLayer::Conv2d(change))
}

const fn norm(what: &'static str, right: &'static str, change: fn(&mut BatchNorm2d<f64>) -> bool) -> Entry {
    layer(what, right, OtherLayer::BatchNorm2d(change))
}

const fn relu(what: &'static str, right: &'static str, change: fn(&mut Relu<f64>) -> bool) -> Entry {
    layer(what, right, OtherLayer::Relu(change))
}

const fn max(what: &'static str, right: &'static str, change: fn(&mut MaxPool2d) -> bool) -> Entry {
    layer(what, right, OtherLayer::MaxPool2d(change))
}

const fn avg(what: &'static str, right: &'static str, change: fn(&mut AvgPool2d) -> bool) -> Entry {
    layer(what, right, OtherLayer::AvgPool2d(change))
}

const fn linear(what: &'static str, right: &'static str, change: fn(&mut Linear<f64>) -> bool) -> Entry {
    layer(what, right, OtherLayer::Linear(change))
}

const fn zero_pad(what: &'static str, right: &'static str, change: fn(&mut ZeroPadShortcut) -> bool) -> Entry {
    layer(what, right, OtherLayer::ZeroPadShortcut(change))
}

// Another loss, or another step.

const fn loss(
    what: &'static str,
    right: &'static str,
    change: fn(&mut SoftmaxCrossEntropy<f64>, &mut Vec<usize>, usize) -> bool,
) -> Entry {
    Entry { part: "all", what, right, fault: Fault::Loss(change) }
}

const fn sgd(what: &'static str, right: &'static str, change: fn(&mut SgdTerms)) -> Entry {
    Entry { part: "all", what, right, fault: Fault::Sgd(change) }
}

// A wrong formula.

const fn result(
    what: &'static str,
    right: &'static str,
    wrong: fn(&Layer<f64>, &Activation<f64>, &mut Activation<f64>),
) -> Entry {
    Entry { part: "result", what, right, fault: Fault::Result(wrong) }
}

const fn grad_input(
    what: &'static str,
    right: &'static str,
    wrong: fn(&Layer<f64>, &Passing<'_>) -> Option<Activation<f64>>,
) -> Entry {
    Entry { part: "grad_input", what, right, fault: Fault::Gradient(wrong) }
}

const fn parameter(
    part: &'static str,
    what: &'static str,
    right: &'static str,
    wrong: fn(&Activation<f64>) -> Activation<f64>,
) -> Entry {
    Entry { part, what, right, fault: Fault::Parameters(wrong) }
}

const fn weight_gradient(what: &'static str, right: &'static str, wrong: WeightGradient) -> Entry {
    Entry { part: "grad_weight", what, right, fault: Fault::Weight(wrong) }
}

const fn wrong_norm(part: &'static str, what: &'static str, right: &'static str, wrong: WrongNorm) -> Entry {
    Entry { part, what, right, fault: Fault::Norm(wrong) }
}

const fn logits(
    part: &'static str,
    what: &'static str,
    right: &'static str,
    wrong: fn(&Array2<f64>, &[usize], &mut f64, &mut Array2<f64>),
) -> Entry {
    Entry { part, what, right, fault: Fault::Logits(wrong) }
}
