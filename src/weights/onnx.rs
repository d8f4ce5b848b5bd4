//! A network as an ONNX model, in evaluation mode.
//!
//! Every step of the network's [`Program`] becomes one operator of the same name, and every tensor of its state dict a constant
//! of the same name:
//!
//! | layer | operators |
//! |---|---|
//! | [`Conv2d`] | `Conv` |
//! | [`BatchNorm2d`](crate::layers::BatchNorm2d) | `BatchNormalization`, with the running statistics |
//! | [`Relu`](crate::layers::Relu) | `Relu`, `LeakyRelu` |
//! | [`MaxPool2d`] | `MaxPool` |
//! | global average pool | `GlobalAveragePool`, `Flatten` |
//! | [`ZeroPadShortcut`] | `Slice` with steps, `Pad` of the channels |
//! | [`Linear`](crate::layers::Linear) | `Gemm` |
//! | addition | `Add` |
//!
//! The input `images` is `(N, 3, H, W)` for any N, red, green and blue; the output `logits` is `(N, classes)`. The values of an
//! image are normalised as in training, unless the normalisation is part of the graph: then they are 0 to 1, and
//! x = (images − mean)/std are its first two operators.

use crate::formats::onnx::{Attribute, Constant, Data, Dimension, Graph, Node};
use crate::layers::{Conv2d, MaxPool2d, ZeroPadShortcut};
use crate::model::ResNet;
use crate::parameters::{Parameters as _, join};
use crate::program::{Layer, Program, Step};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// The names of the graph's input and output.
pub const INPUT: &str = "images";
/// See [`INPUT`].
pub const OUTPUT: &str = "logits";

/// The graph of `model` for images of `[height, width]`, with `mean` and `std` of its normalisation as its first operators if
/// they are given.
///
/// # Errors
/// If images of this size are too small for the network, or it has a layer that no network of the zoo has (an average pool).
pub fn graph(
    model: &ResNet<f32>,
    [height, width]: [usize; 2],
    normalization: Option<[[f64; 3]; 2]>,
    metadata: BTreeMap<String, String>,
) -> Result<Graph> {
    model.cost(1, [height, width])?;
    let program = Program::of_network(model);
    let architecture = model.architecture();
    let batch = Dimension::Any("N");
    let mut builder = Builder { nodes: Vec::new(), constants: Vec::new() };
    // Name and channels of every value of the program.
    let mut values = vec![(INPUT.to_string(), 3)];
    if let Some([mean, std]) = normalization {
        values[0].0 = builder.normalize(mean, std);
    }
    for step in &program.steps {
        let channels = builder.step(step, &values)?;
        values.push((step.name.clone(), channels));
    }
    let last = builder.nodes.last_mut().expect("a network has layers");
    last.name = OUTPUT.to_string();
    Ok(Graph {
        name: architecture.name.clone(),
        input: (
            INPUT.to_string(),
            vec![batch.clone(), Dimension::Fixed(3), Dimension::Fixed(height), Dimension::Fixed(width)],
        ),
        output: (OUTPUT.to_string(), vec![batch, Dimension::Fixed(architecture.classes)]),
        nodes: builder.nodes,
        constants: builder.constants,
        metadata,
    })
}

struct Builder {
    nodes: Vec<Node>,
    constants: Vec<Constant>,
}

impl Builder {
    /// Adds the operators and constants of a step; returns the number of channels of its result.
    fn step(&mut self, step: &Step<f32>, values: &[(String, usize)]) -> Result<usize> {
        let name = step.name.as_str();
        let reads: Vec<String> = step.reads.iter().map(|&at| values[at].0.clone()).collect();
        let channels = values[step.reads[0]].1;
        let parameters = self.parameters(step);
        let with = |reads: Vec<String>| reads.into_iter().chain(parameters).collect::<Vec<_>>();
        match &step.layer {
            Layer::Conv2d(conv) => self.push("Conv", name, with(reads), convolution(conv)),
            Layer::BatchNorm2d(bn) => {
                self.push("BatchNormalization", name, with(reads), vec![("epsilon", Attribute::Float(bn.eps))]);
            }
            Layer::Relu(relu) if relu.is_leaky() => {
                self.push("LeakyRelu", name, reads, vec![("alpha", Attribute::Float(relu.slope()))]);
            }
            Layer::Relu(_) => self.push("Relu", name, reads, vec![]),
            Layer::MaxPool2d(pool) => self.push("MaxPool", name, reads, window(pool)),
            Layer::GlobalAvgPool => {
                let pooled = join(name, "mean");
                self.push("GlobalAveragePool", &pooled, reads, vec![]);
                self.push("Flatten", name, vec![pooled], vec![]);
            }
            Layer::ZeroPadShortcut(shortcut) => self.zero_pad(name, reads, shortcut, channels),
            // y = x · weightᵀ + bias.
            Layer::Linear(_) => self.push("Gemm", name, with(reads), vec![("transB", Attribute::Int(1))]),
            Layer::Add => self.push("Add", name, reads, vec![]),
            Layer::AvgPool2d(_) => {
                return Err(Error::argument("onnx", format!("{name}: an average pool is not exported")));
            }
        }
        Ok(match &step.layer {
            Layer::Conv2d(conv) => conv.weight.dim().0,
            Layer::ZeroPadShortcut(shortcut) => shortcut.c_out,
            Layer::Linear(linear) => linear.weight.dim().0,
            _ => channels,
        })
    }

    fn push(&mut self, op: &'static str, name: &str, inputs: Vec<String>, attributes: Vec<(&'static str, Attribute)>) {
        self.nodes.push(Node { op, name: name.to_string(), inputs, attributes });
    }

    fn constant(&mut self, name: String, shape: &[usize], data: Data) -> String {
        self.constants.push(Constant { name: name.clone(), shape: shape.to_vec(), data });
        name
    }

    /// The tensors of a step as constants, in the order of the state dict, which is that of ONNX's operators too.
    fn parameters(&mut self, step: &Step<f32>) -> Vec<String> {
        let mut names = Vec::new();
        step.visit("", &mut |name, _, tensor| {
            let values = tensor.iter().copied().collect();
            names.push(self.constant(name.to_string(), tensor.shape(), Data::Float(values)));
        });
        names
    }

    /// (images − mean) / std; returns the name of the result.
    fn normalize(&mut self, mean: [f64; 3], std: [f64; 3]) -> String {
        let mut constant = |name: &str, values: [f64; 3]| {
            let values = values.iter().map(|&value| value as f32).collect();
            self.constant(name.to_string(), &[1, 3, 1, 1], Data::Float(values))
        };
        let (mean, std) = (constant("mean", mean), constant("std", std));
        self.push("Sub", "images.centred", vec![INPUT.to_string(), mean], vec![]);
        self.push("Div", "images.normalized", vec!["images.centred".to_string(), std], vec![]);
        "images.normalized".to_string()
    }

    /// Option A: every `stride`-th pixel of both axes, zero channels before and after.
    fn zero_pad(&mut self, name: &str, reads: Vec<String>, shortcut: &ZeroPadShortcut, c_in: usize) {
        let (stride, kept) = (shortcut.stride as i64, shortcut.kept(c_in));
        let (before, after) = (kept.start as i64, (shortcut.c_out - kept.end) as i64);
        let mut vector = |what: &str, values: Vec<i64>| {
            let shape = [values.len()];
            self.constant(join(name, what), &shape, Data::Int64(values))
        };
        let range = [
            vector("starts", vec![0, 0]),
            vector("ends", vec![i64::MAX, i64::MAX]),
            vector("axes", vec![2, 3]),
            vector("steps", vec![stride, stride]),
        ];
        // Zeros before and after each of the four axes.
        let pads = vector("pads", vec![0, before, 0, 0, 0, after, 0, 0]);
        let pixels = join(name, "pixels");
        self.push("Slice", &pixels, reads.into_iter().chain(range).collect(), vec![]);
        self.push("Pad", name, vec![pixels, pads], vec![]);
    }
}

fn ints(values: impl IntoIterator<Item = usize>) -> Attribute {
    Attribute::Ints(values.into_iter().map(|value| value as i64).collect())
}

/// `pads` are those before both axes, then those after.
fn both_sides([vertical, horizontal]: [usize; 2]) -> Attribute {
    ints([vertical, horizontal, vertical, horizontal])
}

fn convolution(conv: &Conv2d<f32>) -> Vec<(&'static str, Attribute)> {
    let (_, _, kh, kw) = conv.weight.dim();
    vec![
        ("dilations", ints(conv.dilation)),
        ("group", Attribute::Int(conv.groups as i64)),
        ("kernel_shape", ints([kh, kw])),
        ("pads", both_sides(conv.padding)),
        ("strides", ints(conv.stride)),
    ]
}

fn window(pool: &MaxPool2d) -> Vec<(&'static str, Attribute)> {
    vec![
        ("ceil_mode", Attribute::Int(i64::from(pool.ceil_mode))),
        ("dilations", ints(pool.dilation)),
        ("kernel_shape", ints(pool.kernel)),
        ("pads", both_sides(pool.padding)),
        ("strides", ints(pool.stride)),
    ]
}
