//! A parser for ONNX's files: protobuf's wire format, and the fields of ONNX's messages that a case of one node has.
//!
//! ```text
//! message = (key value)*      key = varint, field number · 8 + wire type
//! wire type 0  varint               7 bits a byte, the lowest first, the highest bit is set if another byte follows
//!           1  64-bit               8 bytes, little-endian
//!           2  length-delimited     varint n, n bytes: text, bytes, a message, or packed numbers
//!           5  32-bit               4 bytes, little-endian
//! ```
//!
//! Field numbers are those of onnx.proto (ONNX 1.22). An unknown field is skipped, as protobuf requires;
//! anything else unexpected is an error that names the field or the byte.

use ndarray::{ArrayD, IxDyn};

pub type Result<T> = std::result::Result<T, String>;

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Bits64(u64),
    Bytes(&'a [u8]),
    Bits32(u32),
}

/// The fields of one message, in the order of the file.
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Fields { bytes, at: 0 }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        let count = usize::try_from(count).ok().filter(|&count| count <= left);
        let count = count.ok_or_else(|| format!("byte {}: the message ends after {left} more bytes", self.at))?;
        self.at += count;
        Ok(&self.bytes[self.at - count..self.at])
    }

    fn varint(&mut self) -> Result<u64> {
        let (start, mut value) = (self.at, 0u64);
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("byte {start}: a varint of more than 64 bits"))
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let start = self.at;
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Bits64(u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes"))),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Bits32(u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes"))),
            other => return Err(format!("byte {start}: wire type {other} of field {} is not in use", key >> 3)),
        };
        match key >> 3 {
            0 => Err(format!("byte {start}: field number 0")),
            number => Ok((number, value)),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.bytes.len()).then(|| {
            let field = self.field();
            if field.is_err() {
                self.at = self.bytes.len();
            }
            field
        })
    }
}

impl<'a> Value<'a> {
    fn bytes(self, field: &str) -> Result<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(format!("{field} expects bytes, got {other:?}")),
        }
    }

    fn text(self, field: &str) -> Result<String> {
        String::from_utf8(self.bytes(field)?.to_vec()).map_err(|_| format!("{field} is not UTF-8"))
    }

    fn int(self, field: &str) -> Result<i64> {
        match self {
            // Negative numbers are written in two's complement, as ten bytes.
            Value::Varint(value) => Ok(value as i64),
            other => Err(format!("{field} expects a whole number, got {other:?}")),
        }
    }

    fn float(self, field: &str) -> Result<f32> {
        match self {
            Value::Bits32(bits) => Ok(f32::from_bits(bits)),
            other => Err(format!("{field} expects a float, got {other:?}")),
        }
    }

    /// A repeated whole number: a single one, or packed ones.
    fn ints(self, field: &str) -> Result<Vec<i64>> {
        let Value::Bytes(bytes) = self else { return Ok(vec![self.int(field)?]) };
        let (mut packed, mut values) = (Fields::new(bytes), Vec::new());
        while packed.at < bytes.len() {
            values.push(packed.varint().map_err(|e| format!("{field}: {e}"))? as i64);
        }
        Ok(values)
    }

    /// A repeated float: a single one, or packed ones.
    fn floats(self, field: &str) -> Result<Vec<f32>> {
        let Value::Bytes(bytes) = self else { return Ok(vec![self.float(field)?]) };
        if bytes.len() % 4 != 0 {
            return Err(format!("{field}: {} bytes are not a whole number of floats", bytes.len()));
        }
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect())
    }
}

/// The attributes that occur.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Float(f32),
    Int(i64),
    Text(String),
    Ints(Vec<i64>),
}

/// NodeProto: one operation.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub op: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: Vec<(String, Attribute)>,
}

/// ModelProto with its GraphProto.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// (domain, version).
    pub opsets: Vec<(String, i64)>,
    pub nodes: Vec<Node>,
    pub parameters: Vec<Tensor>,
    /// Names and shapes.
    pub inputs: Vec<(String, Vec<usize>)>,
    pub outputs: Vec<(String, Vec<usize>)>,
}

/// TensorProto. Every type that occurs fits `f64` exactly.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub values: ArrayD<f64>,
}

impl Model {
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut model = Model::default();
        for field in Fields::new(bytes) {
            match field? {
                (7, graph) => model.read_graph(graph.bytes("ModelProto.graph")?)?,
                (8, opset) => {
                    let (mut domain, mut version) = (String::new(), 0);
                    for field in Fields::new(opset.bytes("ModelProto.opset_import")?) {
                        match field? {
                            (1, value) => domain = value.text("OperatorSetIdProto.domain")?,
                            (2, value) => version = value.int("OperatorSetIdProto.version")?,
                            _ => {}
                        }
                    }
                    model.opsets.push((domain, version));
                }
                _ => {}
            }
        }
        Ok(model)
    }

    fn read_graph(&mut self, bytes: &[u8]) -> Result<()> {
        for field in Fields::new(bytes) {
            match field? {
                (1, node) => self.nodes.push(Node::read(node.bytes("GraphProto.node")?)?),
                (5, tensor) => self.parameters.push(Tensor::read(tensor.bytes("GraphProto.initializer")?)?),
                (11, value) => self.inputs.push(read_value_info(value.bytes("GraphProto.input")?)?),
                (12, value) => self.outputs.push(read_value_info(value.bytes("GraphProto.output")?)?),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Node {
    fn read(bytes: &[u8]) -> Result<Self> {
        let mut node = Node::default();
        for field in Fields::new(bytes) {
            match field? {
                (1, value) => node.inputs.push(value.text("NodeProto.input")?),
                (2, value) => node.outputs.push(value.text("NodeProto.output")?),
                (4, value) => node.op = value.text("NodeProto.op_type")?,
                (5, value) => node.attributes.push(read_attribute(value.bytes("NodeProto.attribute")?)?),
                _ => {}
            }
        }
        Ok(node)
    }
}

fn read_attribute(bytes: &[u8]) -> Result<(String, Attribute)> {
    let (mut name, mut kind, mut float, mut int, mut text, mut ints) =
        (String::new(), 0, 0.0, 0, String::new(), Vec::new());
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => name = value.text("AttributeProto.name")?,
            (2, value) => float = value.float("AttributeProto.f")?,
            (3, value) => int = value.int("AttributeProto.i")?,
            (4, value) => text = value.text("AttributeProto.s")?,
            (8, value) => ints.extend(value.ints("AttributeProto.ints")?),
            (20, value) => kind = value.int("AttributeProto.type")?,
            _ => {}
        }
    }
    let attribute = match kind {
        1 => Attribute::Float(float),
        2 => Attribute::Int(int),
        3 => Attribute::Text(text),
        7 => Attribute::Ints(ints),
        other => return Err(format!("attribute `{name}`: type {other} is not supported")),
    };
    Ok((name, attribute))
}

fn size(value: i64) -> Result<usize> {
    usize::try_from(value).map_err(|_| format!("{value} is not a size"))
}

/// ValueInfoProto of a tensor: its name and shape. A size that is a name, not a number, is an error.
fn read_value_info(bytes: &[u8]) -> Result<(String, Vec<usize>)> {
    let (mut name, mut shape) = (String::new(), Vec::new());
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => name = value.text("ValueInfoProto.name")?,
            (2, value) => {
                let tensor = only(value, 1, "TypeProto.tensor_type")?;
                for field in Fields::new(only(Value::Bytes(tensor), 2, "TypeProto.Tensor.shape")?) {
                    let (1, dim) = field? else { continue };
                    let mut fields = Fields::new(dim.bytes("TensorShapeProto.dim")?);
                    let Some((1, value)) = fields.next().transpose()? else {
                        return Err(format!("value `{name}`: a size that is not a number"));
                    };
                    shape.push(size(value.int("Dimension.dim_value")?)?);
                }
            }
            _ => {}
        }
    }
    Ok((name, shape))
}

/// The message in field `number` of the message `outer`.
fn only<'a>(outer: Value<'a>, number: u64, name: &str) -> Result<&'a [u8]> {
    for field in Fields::new(outer.bytes(name)?) {
        let (found, value) = field?;
        if found == number {
            return value.bytes(name);
        }
    }
    Err(format!("{name} is missing"))
}

impl Tensor {
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let (mut name, mut dims, mut kind, mut raw) = (String::new(), Vec::new(), 0, None);
        let (mut floats, mut ints) = (Vec::new(), Vec::new());
        for field in Fields::new(bytes) {
            match field? {
                (1, value) => dims.extend(value.ints("TensorProto.dims")?),
                (2, value) => kind = value.int("TensorProto.data_type")?,
                (4, value) => floats.extend(value.floats("TensorProto.float_data")?),
                (5, value) => ints.extend(value.ints("TensorProto.int32_data")?),
                (7, value) => ints.extend(value.ints("TensorProto.int64_data")?),
                (8, value) => name = value.text("TensorProto.name")?,
                (9, value) => raw = Some(value.bytes("TensorProto.raw_data")?),
                (number @ (3 | 6 | 10 | 11 | 13 | 14), _) => {
                    return Err(format!(
                        "tensor `{name}`: field {number} (segments, text, other types, external data)"
                    ));
                }
                _ => {}
            }
        }
        let dims = dims.into_iter().map(size).collect::<Result<Vec<_>>>()?;
        let count = dims.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let count = count.ok_or_else(|| format!("tensor `{name}`: the shape {dims:?} overflows"))?;
        let values: Vec<f64> = match (kind, raw) {
            (1, None) => floats.into_iter().map(f64::from).collect(),
            (1, Some(raw)) => numbers(raw, |b| f64::from(f32::from_le_bytes(b))),
            (2, Some(raw)) => raw.iter().map(|&b| f64::from(b)).collect(),
            (6, Some(raw)) => numbers(raw, |b| f64::from(i32::from_le_bytes(b))),
            (7, Some(raw)) => numbers(raw, |b| i64::from_le_bytes(b) as f64),
            (2 | 6 | 7, None) => ints.into_iter().map(|i| i as f64).collect(),
            (other, _) => return Err(format!("tensor `{name}`: data_type {other} is not supported")),
        };
        if let Some(value) = values.iter().find(|value| kind == 7 && value.abs() >= 2f64.powi(53)) {
            return Err(format!("tensor `{name}`: {value} may not be exact in f64"));
        }
        let width =
            [(1, 4), (2, 1), (6, 4), (7, 8)].into_iter().find(|(k, _)| *k == kind).map_or(1, |(_, width)| width);
        if values.len() != count || raw.is_some_and(|raw| raw.len() != count * width) {
            return Err(format!("tensor `{name}`: {} elements for the shape {dims:?}", values.len()));
        }
        Ok(Tensor { name, values: ArrayD::from_shape_vec(IxDyn(&dims), values).expect("checked") })
    }
}

fn numbers<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    raw.chunks_exact(N).map(|bytes| read(bytes.try_into().expect("N bytes"))).collect()
}

#[test]
fn every_wire_type_is_read() {
    // The examples of protobuf's own description: field 1 = 150, field 2 = "testing"; then 64 and 32 bits, and −1.
    let mut bytes = vec![0x08, 0x96, 0x01, 0x12, 0x07];
    bytes.extend(b"testing");
    bytes.extend([0x19, 1, 0, 0, 0, 0, 0, 0, 0x80, 0x25, 0, 0, 0x80, 0x3f, 0x28]);
    bytes.extend([0xff; 9]);
    bytes.push(0x01);
    let fields: Vec<_> = Fields::new(&bytes).map(|field| field.unwrap()).collect();
    let expected = [
        (1, Value::Varint(150)),
        (2, Value::Bytes(b"testing")),
        (3, Value::Bits64(1 << 63 | 1)),
        (4, Value::Bits32(0x3f80_0000)),
        (5, Value::Varint(u64::MAX)),
    ];
    assert_eq!(fields, expected);
    assert_eq!((fields[4].1.int("x"), fields[3].1.float("x")), (Ok(-1), Ok(1.0)));
    assert_eq!(Value::Bytes(&[0x03, 0x8e, 0x02]).ints("x"), Ok(vec![3, 270]));
}

#[test]
fn damaged_messages_are_refused_with_the_byte() {
    let message = |bytes: &[u8]| Fields::new(bytes).find_map(|field| field.err()).expect("an error");
    assert_eq!(message(&[0x08, 0x80]), "byte 2: the message ends after 0 more bytes");
    assert_eq!(message(&[0x12, 0x05, 1, 2]), "byte 2: the message ends after 2 more bytes");
    let huge = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(message(&huge), "byte 11: the message ends after 0 more bytes");
    assert_eq!(message(&[&[0x08][..], &[0xff; 10]].concat()), "byte 1: a varint of more than 64 bits");
    assert_eq!(message(&[0x08, 0x00, 0x0b]), "byte 2: wire type 3 of field 1 is not in use");
    assert_eq!(message(&[0x00, 0x00]), "byte 0: field number 0");
}

#[test]
fn tensors_are_read_from_either_field_and_must_fill_their_shape() {
    let tensor = |bytes: &[u8]| Tensor::read(bytes).map(|tensor| tensor.values);
    let expected = ArrayD::from_shape_vec(IxDyn(&[2, 1]), vec![1.0, -2.0]).unwrap();
    // dims [2, 1], one at a time and packed; float 1 and −2 as raw_data, as packed and as single float_data.
    let floats = [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0];
    assert_eq!(tensor(&[&[0x08, 2, 0x08, 1, 0x10, 1, 0x4a, 8][..], &floats].concat()).unwrap(), expected);
    assert_eq!(tensor(&[&[0x0a, 2, 2, 1, 0x10, 1, 0x22, 8][..], &floats].concat()).unwrap(), expected);
    let single = [&[0x0a, 2, 2, 1, 0x10, 1, 0x25][..], &floats[..4], &[0x25], &floats[4..]].concat();
    assert_eq!(tensor(&single).unwrap(), expected);
    // int64_data 1, −2.
    let ints = [&[0x0a, 2, 2, 1, 0x10, 7, 0x3a, 11, 1, 0xfe][..], &[0xff; 8], &[1]].concat();
    assert_eq!(tensor(&ints).unwrap(), expected);

    let error = |bytes: &[u8]| tensor(bytes).unwrap_err();
    assert!(error(&[&[0x08, 3, 0x10, 1, 0x4a, 8][..], &floats].concat()).contains("2 elements for the shape [3]"));
    assert!(error(&[0x08, 1, 0x10, 1, 0x4a, 5, 0, 0, 0, 0, 0]).contains("1 elements for the shape [1]"));
    assert!(error(&[0x08, 1, 0x10, 10, 0x4a, 2, 0, 0]).contains("data_type 10"));
    assert!(error(&[&[0x08][..], &[0xff; 9], &[1]].concat()).contains("-1 is not a size"));
    assert!(error(&[0x10, 1, 0x70, 1]).contains("field 14"));
    assert!(error(&[0x12, 0]).contains("TensorProto.data_type expects a whole number"));
}
