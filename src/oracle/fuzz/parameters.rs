//! The sizes and settings of each kind of layer, and what they may be.

use super::tensors::below;
use crate::rng::Rng;
use crate::{Error, Result};
use std::fmt;

/// A size or a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Count(usize),
    /// Height and width.
    Pair([usize; 2]),
    /// Yes or no.
    Flag(bool),
    /// One of several words or decimal numbers.
    Word(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Count(count) => write!(f, "{count}"),
            Value::Pair([height, width]) => write!(f, "{height}x{width}"),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Word(word) => write!(f, "{word}"),
        }
    }
}

/// What a parameter may be. A value that is listed twice is drawn twice as often; the first is the simplest.
#[derive(Debug)]
enum Choice {
    Count(&'static [usize]),
    Pair(&'static [usize]),
    Flag,
    Word(&'static [&'static str]),
}

#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// Whether it is a setting of the layer, and not only a size of its tensors.
    pub(super) setting: bool,
    choice: Choice,
}

const fn size(name: &'static str, choices: &'static [usize]) -> Parameter {
    Parameter { name, setting: false, choice: Choice::Count(choices) }
}

const fn given(name: &'static str) -> Parameter {
    Parameter { name, setting: false, choice: Choice::Flag }
}

const fn pair(name: &'static str, choices: &'static [usize]) -> Parameter {
    Parameter { name, setting: true, choice: Choice::Pair(choices) }
}

const fn flag(name: &'static str) -> Parameter {
    Parameter { name, setting: true, choice: Choice::Flag }
}

const fn word(name: &'static str, choices: &'static [&'static str]) -> Parameter {
    Parameter { name, setting: true, choice: Choice::Word(choices) }
}

const IMAGES: Parameter = size("n", &[1, 2, 2, 3, 5]);
const CHANNELS: Parameter = size("c", &[1, 2, 3, 4, 5, 7]);
const SIDES: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13];
const HEIGHT: Parameter = size("h", SIDES);
const WIDTH: Parameter = size("w", SIDES);
const MODE: Parameter = word("mode", &["eval", "train", "train"]);

const CONV2D: &[Parameter] = &[
    IMAGES,
    Parameter { name: "groups", setting: true, choice: Choice::Count(&[1, 1, 1, 2, 3]) },
    size("c_in", &[1, 2, 3, 4, 6, 6, 12]),
    size("c_out", &[1, 2, 3, 4, 5, 6, 6, 9, 12]),
    HEIGHT,
    WIDTH,
    Parameter { name: "kernel", setting: false, choice: Choice::Pair(&[1, 1, 2, 3, 3, 4, 5]) },
    pair("stride", &[1, 1, 2, 2, 3]),
    pair("padding", &[0, 1, 1, 2, 3]),
    pair("dilation", &[1, 1, 1, 2, 3]),
    given("bias"),
];

const BATCH_NORM: &[Parameter] = &[
    IMAGES,
    CHANNELS,
    HEIGHT,
    WIDTH,
    MODE,
    word("eps", &["1e-5", "1e-5", "1e-3", "0.1"]),
    word("momentum", &["0.1", "0.9", "1", "none"]),
    given("affine"),
];

const RELU: &[Parameter] = &[IMAGES, CHANNELS, HEIGHT, WIDTH];
const LEAKY_RELU: &[Parameter] = &[IMAGES, CHANNELS, HEIGHT, WIDTH, word("negative_slope", &["0.5", "0.01", "0.2"])];
const WINDOW: Parameter = pair("kernel_size", &[1, 2, 2, 3, 3, 4]);
const WINDOW_STRIDE: Parameter = pair("stride", &[1, 2, 2, 3]);
const WINDOW_PADDING: Parameter = pair("padding", &[0, 0, 1, 2]);

const MAX_POOL: &[Parameter] = &[
    IMAGES,
    CHANNELS,
    HEIGHT,
    WIDTH,
    WINDOW,
    WINDOW_STRIDE,
    WINDOW_PADDING,
    pair("dilation", &[1, 1, 1, 2]),
    flag("ceil_mode"),
];

const AVG_POOL: &[Parameter] = &[
    IMAGES,
    CHANNELS,
    HEIGHT,
    WIDTH,
    WINDOW,
    WINDOW_STRIDE,
    WINDOW_PADDING,
    flag("ceil_mode"),
    flag("count_include_pad"),
];

const LINEAR: &[Parameter] =
    &[IMAGES, size("features_in", &[1, 2, 5, 16, 33, 64]), size("features_out", &[1, 2, 3, 10, 20]), given("bias")];

const LOSS: &[Parameter] = &[
    IMAGES,
    size("classes", &[1, 2, 3, 10, 19]),
    word("reduction", &["mean", "sum", "none"]),
    word("label_smoothing", &["0", "0", "0.1"]),
    given("weight"),
    given("ignored"),
];

/// A residual block; the 1x1 convolutions of a bottleneck go to `width` channels and back.
const BASIC_BLOCK: &[Parameter] = &[
    IMAGES,
    size("c_in", &[1, 2, 3, 4]),
    size("c_out", &[1, 2, 3, 4, 6]),
    size("h", &[1, 2, 3, 4, 5, 7]),
    size("w", &[1, 2, 3, 4, 5, 7]),
    BLOCK_STRIDE,
    SHORTCUT,
    MODE,
];

const BOTTLENECK: &[Parameter] = &[
    IMAGES,
    size("c_in", &[1, 2, 3, 4]),
    size("width", &[1, 2, 3]),
    size("c_out", &[1, 2, 3, 4, 6]),
    size("h", &[1, 2, 3, 4, 5, 7]),
    size("w", &[1, 2, 3, 4, 5, 7]),
    BLOCK_STRIDE,
    word("stride_on", &["conv2", "conv1"]),
    SHORTCUT,
    MODE,
];

const BLOCK_STRIDE: Parameter = Parameter { name: "stride", setting: true, choice: Choice::Count(&[1, 1, 2]) };
const SHORTCUT: Parameter = word("shortcut", &["identity", "projection", "zero_pad"]);

const SGD: &[Parameter] = &[
    size("rows", &[1, 2, 3, 5]),
    size("columns", &[1, 2, 4, 7]),
    word("lr", &["0.5", "0.1", "1e-3"]),
    word("momentum", &["0", "0.9", "0.9"]),
    word("dampening", &["0", "0", "0.5"]),
    word("weight_decay", &["0", "1e-4", "0.1"]),
    flag("nesterov"),
    given("momentum_buffer"),
];

/// The parameters of a kind.
pub(super) fn of(kind: &str) -> &'static [Parameter] {
    match kind {
        "conv2d" => CONV2D,
        "batch_norm" => BATCH_NORM,
        "relu" | "global_avg_pool" => RELU,
        "leaky_relu" => LEAKY_RELU,
        "max_pool" => MAX_POOL,
        "avg_pool" => AVG_POOL,
        "linear" => LINEAR,
        "softmax_cross_entropy" => LOSS,
        "basic_block" | "preact_basic_block" => BASIC_BLOCK,
        "bottleneck" | "preact_bottleneck" => BOTTLENECK,
        "sgd" => SGD,
        _ => unreachable!("every kind is above"),
    }
}

impl Parameter {
    pub(super) fn draw(&self, rng: &mut Rng) -> Value {
        match self.choice {
            Choice::Count(choices) => Value::Count(choices[below(rng, choices.len())]),
            Choice::Pair(choices) => {
                // Half of all windows are square.
                let [height, width] = [(); 2].map(|()| choices[below(rng, choices.len())]);
                Value::Pair(if below(rng, 2) == 0 { [height, height] } else { [height, width] })
            }
            Choice::Flag => Value::Flag(below(rng, 2) == 1),
            Choice::Word(words) => Value::Word(words[below(rng, words.len())]),
        }
    }

    pub(super) fn parse(&self, text: &str) -> Result<Value> {
        let (value, expected) = match self.choice {
            Choice::Count(_) => (text.parse().ok().map(Value::Count), "a whole number".to_string()),
            Choice::Pair(_) => {
                let sides = match text.split_once('x') {
                    Some((height, width)) => height.parse().ok().zip(width.parse().ok()),
                    None => text.parse().ok().map(|side| (side, side)),
                };
                (
                    sides.map(|(height, width)| Value::Pair([height, width])),
                    "a whole number or height x width".to_string(),
                )
            }
            Choice::Flag => (text.parse().ok().map(Value::Flag), "true or false".to_string()),
            Choice::Word(words) => {
                let word = words.iter().find(|word| **word == text);
                (word.map(|word| Value::Word(word)), format!("one of {}", words.join(", ")))
            }
        };
        value.ok_or_else(|| Error::argument("fuzz", format!("`{}` expects {expected}, got `{text}`", self.name)))
    }

    /// Smaller or simpler values, the simplest first.
    pub(super) fn smaller(&self, value: Value) -> Vec<Value> {
        match (&self.choice, value) {
            (Choice::Count(choices), Value::Count(count)) => {
                below_it(choices[0], count).into_iter().map(Value::Count).collect()
            }
            (Choice::Pair(choices), Value::Pair([height, width])) => {
                let least = choices[0];
                let both = (height > least && width > least).then_some(Value::Pair([least; 2]));
                let heights = below_it(least, height).into_iter().map(|height| Value::Pair([height, width]));
                let widths = below_it(least, width).into_iter().map(|width| Value::Pair([height, width]));
                both.into_iter().chain(heights).chain(widths).collect()
            }
            (Choice::Flag, Value::Flag(true)) => vec![Value::Flag(false)],
            (Choice::Word(words), Value::Word(word)) => {
                let place = words.iter().position(|known| *known == word).unwrap_or(0);
                let simpler = words[..place].iter().filter(|other| **other != word);
                let mut simpler: Vec<Value> = simpler.map(|word| Value::Word(word)).collect();
                simpler.dedup();
                simpler
            }
            _ => Vec::new(),
        }
    }
}

/// The least value, the one in the middle, and the one before.
fn below_it(least: usize, value: usize) -> Vec<usize> {
    if value <= least {
        return Vec::new();
    }
    let mut smaller = vec![least, least + (value - least) / 2, value - 1];
    smaller.dedup();
    smaller
}
