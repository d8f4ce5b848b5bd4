//! The list: what can be wrong with each operation, in the order of the report.
//!
//! Before these come the classic mistakes ([`Mistake`](crate::oracle::Mistake)), after them the wrong values (`values.rs`).

use super::sgd::SgdTerms;
use super::{Fault, OtherLayer, Passing, formulas};
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
    conv("strides of height and width are exchanged", |conv| differs(&mut conv.stride)),
    conv("paddings of height and width are exchanged", |conv| differs(&mut conv.padding)),
    conv("dilations of height and width are exchanged", |conv| differs(&mut conv.dilation)),
    conv("the dilation is forgotten", |conv| std::mem::replace(&mut conv.dilation, [1, 1]) != [1, 1]),
    conv("the stride is forgotten", |conv| std::mem::replace(&mut conv.stride, [1, 1]) != [1, 1]),
    conv("the bias is forgotten", |conv| conv.bias.take().is_some()),
    conv("the groups read each other's channels", formulas::groups_exchanged),
    grad_input("is computed without rotating the kernel", formulas::kernel_not_turned),
    grad_input("overwrites where windows overlap, instead of adding", formulas::last_window),
    parameter("grad_weight", "is that of the last image alone", formulas::of_last_image),
    parameter("grad_bias", "is that of the last image alone", formulas::of_last_image),
    parameter("grad_weight", "leaves out the border of the result", formulas::without_border),
];

const BATCH_NORM: &[Entry] = &[
    norm("eps is forgotten", |bn| std::mem::replace(&mut bn.eps, 0.0) != 0.0),
    norm("eps is 1e-3", |bn| std::mem::replace(&mut bn.eps, 1e-3) != 1e-3),
    norm("weight and bias are exchanged", |bn| {
        std::mem::swap(&mut bn.gamma, &mut bn.beta);
        true
    }),
    norm("the running statistics are not updated", |bn| std::mem::replace(&mut bn.momentum, 0.0) != 0.0),
    norm("the running mean is taken as 0", |bn| {
        bn.running_mean.fill(0.0);
        true
    }),
    norm("the running variance is taken as the deviation", |bn| {
        bn.running_var.mapv_inplace(|var| var * var);
        true
    }),
    wrong_norm("grad_input", "treats the mean as a constant", WrongNorm { mean_term: false, ..RIGHT }),
    wrong_norm("grad_input", "treats the variance as a constant", WrongNorm { variance_term: false, ..RIGHT }),
    wrong_norm("grad_input", "is not multiplied by the weight", WrongNorm { gamma: false, ..RIGHT }),
    wrong_norm("grad_weight", "is not divided by the deviation", WrongNorm { rstd: false, ..RIGHT }),
];

const RELU: &[Entry] = &[
    relu("has the slope 0.01", |relu| {
        *relu = Relu::leaky(0.01).expect("a slope from 0 to 1");
        true
    }),
    grad_input("is dy everywhere", |_, passing| Some(passing.dy.clone())),
    grad_input("is gated by the sign of dy", |_, passing| Some(passing.dy.mapv(|dy| dy.max(0.0)).into_shared())),
];

const LEAKY_RELU: &[Entry] = &[relu("has the slope 0", |relu| {
    *relu = Relu::new();
    true
})];

const MAX_POOL: &[Entry] = &[
    max("kernel's height and width are exchanged", |pool| differs(&mut pool.kernel)),
    max("strides of height and width are exchanged", |pool| differs(&mut pool.stride)),
    max("paddings of height and width are exchanged", |pool| differs(&mut pool.padding)),
    max("dilations of height and width are exchanged", |pool| differs(&mut pool.dilation)),
    max("the dilation is forgotten", |pool| std::mem::replace(&mut pool.dilation, [1, 1]) != [1, 1]),
    max("the padding is forgotten", |pool| std::mem::take(&mut pool.padding) != [0, 0]),
    max("sizes are rounded the other way", |pool| {
        pool.ceil_mode = !pool.ceil_mode;
        true
    }),
    grad_input("overwrites where windows overlap, instead of adding", formulas::last_window),
    result("pads with 0", formulas::padded_with_0),
    grad_input("goes to the last of equal values", formulas::to_last_of_equal),
    grad_input("goes to all of equal values", formulas::to_all_of_equal),
];

const AVG_POOL: &[Entry] = &[
    avg("kernel's height and width are exchanged", |pool| differs(&mut pool.kernel)),
    avg("strides of height and width are exchanged", |pool| differs(&mut pool.stride)),
    avg("paddings of height and width are exchanged", |pool| differs(&mut pool.padding)),
    avg("the padding is forgotten", |pool| std::mem::take(&mut pool.padding) != [0, 0]),
    avg("the divisor is ignored", |pool| pool.divisor_override.take().is_some()),
    avg("sizes are rounded the other way", |pool| {
        pool.ceil_mode = !pool.ceil_mode;
        true
    }),
    grad_input("overwrites where windows overlap, instead of adding", formulas::last_window),
    grad_input("is not divided by the window", formulas::times_window),
    result("is the largest value", formulas::largest),
];

const GLOBAL_AVG_POOL: &[Entry] = &[grad_input("is not divided by the number of pixels", formulas::times_pixels)];

const LINEAR: &[Entry] = &[
    linear("the weight is transposed", |linear| {
        linear.weight.swap_axes(0, 1);
        linear.weight = linear.weight.as_standard_layout().into_owned();
        true
    }),
    linear("the bias is forgotten", |linear| {
        linear.bias.fill(0.0);
        true
    }),
    parameter("grad_weight", "is that of the last image alone", formulas::of_last_image),
    parameter("grad_bias", "is that of the last image alone", formulas::of_last_image),
];

const ADD: &[Entry] = &[grad_input("is doubled", |_, passing| Some(passing.dy.mapv(|dy| 2.0 * dy).into_shared()))];

const ZERO_PAD_SHORTCUT: &[Entry] =
    &[zero_pad("ignores the stride", |shortcut| std::mem::replace(&mut shortcut.stride, 1) != 1)];

const SOFTMAX_CROSS_ENTROPY: &[Entry] = &[
    loss("the smoothing is ignored", |loss, _, _| std::mem::take(&mut loss.label_smoothing) != 0.0),
    loss("the smoothing is spread over the other classes only", |loss, _, classes| {
        let spread = loss.label_smoothing != 0.0;
        loss.label_smoothing *= classes as f64 / (classes as f64 - 1.0);
        spread
    }),
    loss("classes are counted from 1", |_, target, classes| {
        target.iter_mut().for_each(|class| *class = (*class + 1) % classes);
        true
    }),
    logits("grad_input", "is p/N, without the target", formulas::without_target),
    logits("result", "is in bits", |_, _, loss, _| *loss /= std::f64::consts::LN_2),
    logits("result", "overflows: the largest logit is not subtracted", formulas::without_largest),
];

const SGD: &[Entry] = &[
    sgd("uphill", |terms| terms.lr = -terms.lr),
    sgd("no momentum", |terms| (terms.momentum, terms.nesterov) = (0.0, false)),
    sgd("the momentum is its complement", |terms| terms.momentum = 1.0 - terms.momentum),
    sgd("no dampening", |terms| terms.gradient[0] = 1.0),
    sgd("the first step is dampened too", |terms| terms.gradient[1] = terms.gradient[0]),
    sgd("the gradient's weight is 1 − momentum", |terms| terms.gradient[0] = 1.0 - terms.momentum),
    sgd("the decay has the wrong sign", |terms| terms.decay = -terms.decay),
    sgd("the decay is halved, λ/2 for the derivative of λ/2 θ²", |terms| terms.decay /= 2.0),
    sgd("the decay does not enter the buffer", |terms| terms.late_decay = true),
    sgd("the learning rate is in the buffer", |terms| terms.lr_in_buffer = true),
    sgd("plain momentum instead of Nesterov's", |terms| terms.nesterov = false),
    sgd("the learning rate is off by a thousandth", |terms| terms.lr *= 1.0 + 1.0 / 1024.0),
];

/// Exchanges height and width; `false` if they are the same.
fn differs(pair: &mut [usize; 2]) -> bool {
    pair.swap(0, 1);
    pair[0] != pair[1]
}

// Entries by the kind of their fault: another layer.

const fn layer(what: &'static str, other: OtherLayer) -> Entry {
    Entry { part: "all", what, fault: Fault::Layer(other) }
}

const fn conv(what: &'static str, change: fn(&mut Conv2d<f64>) -> bool) -> Entry {
    layer(what, OtherLayer::Conv2d(change))
}

const fn norm(what: &'static str, change: fn(&mut BatchNorm2d<f64>) -> bool) -> Entry {
    layer(what, OtherLayer::BatchNorm2d(change))
}

const fn relu(what: &'static str, change: fn(&mut Relu<f64>) -> bool) -> Entry {
    layer(what, OtherLayer::Relu(change))
}

const fn max(what: &'static str, change: fn(&mut MaxPool2d) -> bool) -> Entry {
    layer(what, OtherLayer::MaxPool2d(change))
}

const fn avg(what: &'static str, change: fn(&mut AvgPool2d) -> bool) -> Entry {
    layer(what, OtherLayer::AvgPool2d(change))
}

const fn linear(what: &'static str, change: fn(&mut Linear<f64>) -> bool) -> Entry {
    layer(what, OtherLayer::Linear(change))
}

const fn zero_pad(what: &'static str, change: fn(&mut ZeroPadShortcut) -> bool) -> Entry {
    layer(what, OtherLayer::ZeroPadShortcut(change))
}

// Another loss, or another step.

const fn loss(what: &'static str, change: fn(&mut SoftmaxCrossEntropy<f64>, &mut Vec<usize>, usize) -> bool) -> Entry {
    Entry { part: "all", what, fault: Fault::Loss(change) }
}

const fn sgd(what: &'static str, change: fn(&mut SgdTerms)) -> Entry {
    Entry { part: "all", what, fault: Fault::Sgd(change) }
}

// A wrong formula.

const fn result(what: &'static str, wrong: fn(&Layer<f64>, &Activation<f64>, &mut Activation<f64>)) -> Entry {
    Entry { part: "result", what, fault: Fault::Result(wrong) }
}

const fn grad_input(what: &'static str, wrong: fn(&Layer<f64>, &Passing<'_>) -> Option<Activation<f64>>) -> Entry {
    Entry { part: "grad_input", what, fault: Fault::Gradient(wrong) }
}

const fn parameter(part: &'static str, what: &'static str, wrong: fn(&Activation<f64>) -> Activation<f64>) -> Entry {
    Entry { part, what, fault: Fault::Parameters(wrong) }
}

const fn wrong_norm(part: &'static str, what: &'static str, wrong: WrongNorm) -> Entry {
    Entry { part, what, fault: Fault::Norm(wrong) }
}

const fn logits(
    part: &'static str,
    what: &'static str,
    wrong: fn(&Array2<f64>, &[usize], &mut f64, &mut Array2<f64>),
) -> Entry {
    Entry { part, what, fault: Fault::Logits(wrong) }
}
