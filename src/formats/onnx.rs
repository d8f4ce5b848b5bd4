//! ONNX models: a graph of operators with its weights, which is only written.
//!
//! A file is one message of Protocol Buffers (`onnx.proto`, version 8 of the intermediate representation). Of its messages
//! these fields are written:
//!
//! | message | fields |
//! |---|---|
//! | `ModelProto` | 1 `ir_version`, 2 `producer_name`, 3 `producer_version`, 7 `graph`, 8 `opset_import`, 14 `metadata_props` |
//! | `GraphProto` | 1 `node`, 2 `name`, 5 `initializer`, 11 `input`, 12 `output` |
//! | `NodeProto` | 1 `input`, 2 `output`, 3 `name`, 4 `op_type`, 5 `attribute` |
//! | `AttributeProto` | 1 `name`, one of 2 `f`, 3 `i`, 8 `ints`, and 20 `type` |
//! | `TensorProto` | 1 `dims`, 2 `data_type`, 8 `name`, 9 `raw_data` (little-endian) |
//! | `ValueInfoProto` | 1 `name`, 2 `type`: the element type and the dimensions, a number or a name each |
//!
//! Which operators a network becomes is [`crate::weights::onnx`]'s.

use super::protobuf::Message;
use std::collections::BTreeMap;

/// The version of ONNX's operators that a model names (`opset`): the first in which all operators of these networks have their
/// present form; published in 2020, so every runtime in use has it.
pub const OPSET: u64 = 13;

/// The version of the format.
const IR_VERSION: u64 = 8;

/// `TensorProto.DataType`.
const FLOAT: u64 = 1;
const INT64: u64 = 7;

/// The value of a node's attribute.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names of ONNX")]
pub enum Attribute {
    Float(f32),
    Int(i64),
    Ints(Vec<i64>),
}

/// The elements of a constant.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names of ONNX")]
pub enum Data {
    Float(Vec<f32>),
    Int64(Vec<i64>),
}

/// A constant of the graph: a weight, or what an operator takes as an input and never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, the last index fastest.
    pub data: Data,
}

/// One operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `Conv`.
    pub op: &'static str,
    /// `layer1.0.conv1`; the name of the value it computes, too.
    pub name: String,
    /// The names of values and constants that it reads.
    pub inputs: Vec<String>,
    /// Its attributes; those left out have ONNX's defaults.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A dimension of the graph's input or output.
#[derive(Clone, Debug, PartialEq)]
pub enum Dimension {
    /// Always this many.
    Fixed(usize),
    /// Any number, under this name.
    Any(&'static str),
}

/// A graph with one input and one output, both of 32-bit floats.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// The input.
    pub input: (String, Vec<Dimension>),
    /// The output, which a node computes.
    pub output: (String, Vec<Dimension>),
    /// The operators, each after those whose results it reads.
    pub nodes: Vec<Node>,
    /// The constants.
    pub constants: Vec<Constant>,
    /// What else to say about the model; ONNX Runtime calls it `custom_metadata_map`.
    pub metadata: BTreeMap<String, String>,
}

impl Graph {
    /// The bytes of a model file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let graph = self.nodes.iter().fold(Message::default(), |graph, node| graph.message(1, &node.message()));
        let graph = graph.text(2, &self.name);
        let graph = self.constants.iter().fold(graph, |graph, constant| graph.message(5, &constant.message()));
        let graph = graph.message(11, &value(&self.input)).message(12, &value(&self.output));
        let opset = Message::default().text(1, "").varint(2, OPSET);
        let model = Message::default()
            .varint(1, IR_VERSION)
            .text(2, env!("CARGO_PKG_NAME"))
            .text(3, env!("CARGO_PKG_VERSION"))
            .message(7, &graph)
            .message(8, &opset);
        let model = self
            .metadata
            .iter()
            .fold(model, |model, (key, value)| model.message(14, &Message::default().text(1, key).text(2, value)));
        model.into_bytes()
    }
}

impl Node {
    fn message(&self) -> Message {
        let node = self.inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, &self.name).text(3, &self.name).text(4, self.op);
        self.attributes.iter().fold(node, |node, (name, attribute)| {
            let message = Message::default().text(1, name);
            let message = match attribute {
                Attribute::Float(value) => message.float(2, *value).varint(20, 1),
                Attribute::Int(value) => message.varint(3, *value as u64).varint(20, 2),
                Attribute::Ints(values) => message.varints(8, values.iter().copied()).varint(20, 7),
            };
            node.message(5, &message)
        })
    }
}

impl Constant {
    fn message(&self) -> Message {
        let tensor = Message::default().varints(1, self.shape.iter().map(|&side| side as i64));
        let (data_type, bytes): (u64, Vec<u8>) = match &self.data {
            Data::Float(values) => (FLOAT, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Data::Int64(values) => (INT64, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        };
        tensor.varint(2, data_type).text(8, &self.name).data(9, &bytes)
    }
}

/// `ValueInfoProto` of a tensor of 32-bit floats.
fn value((name, shape): &(String, Vec<Dimension>)) -> Message {
    let shape = shape.iter().fold(Message::default(), |shape, side| {
        let side = match side {
            Dimension::Fixed(side) => Message::default().varint(1, *side as u64),
            Dimension::Any(name) => Message::default().text(2, name),
        };
        shape.message(1, &side)
    });
    let tensor = Message::default().varint(1, FLOAT).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}
