//! The cases in `cases.safetensors`: files of the package `onnx`, unchanged (see `cases.md`).

use super::protobuf::{Attribute, Model, Node, Tensor};
use ndarray::ArrayD;
use safetensors::SafeTensors;
use std::collections::BTreeSet;

/// One graph of one node, and one set of data for it.
pub struct Case {
    /// `node/test_relu`.
    pub name: String,
    /// Version of the node's operator set.
    pub opset: i64,
    pub node: Node,
    /// Shapes of the node's inputs as the model declares them, in the node's order; `None` for an input left out.
    pub shapes: Vec<Option<Vec<usize>>>,
    /// Number of elements that the model declares, inputs and outputs together.
    pub numbers: usize,
    /// `None` for a case that was packed without its data.
    pub data: Option<CaseData>,
}

/// The node's inputs, parameters of the model among them, and the outputs expected.
pub struct CaseData {
    pub inputs: Vec<Option<ArrayD<f64>>>,
    pub outputs: Vec<ArrayD<f64>>,
}

/// Every case of the fixture, in the order of their names.
pub fn all() -> Vec<Case> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/library/onnx/cases.safetensors");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let count = header.metadata().as_ref().expect("metadata")["cases"].clone();
    let files = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let names = files.names();
    let folders: BTreeSet<_> = names.iter().filter_map(|name| name.strip_suffix("/model.onnx")).collect();
    assert_eq!(folders.len().to_string(), count, "cases in the fixture");
    folders.into_iter().map(|folder| Case::read(&files, folder).unwrap_or_else(|e| panic!("{folder}: {e}"))).collect()
}

impl Case {
    fn read(files: &SafeTensors, name: &str) -> Result<Self, String> {
        let file = |name: &str| files.tensor(name).ok().map(|file| file.data().to_vec());
        let model = Model::read(&file(&format!("{name}/model.onnx")).expect("listed"))?;
        let [(_, opset)] = model.opsets[..] else { return Err(format!("operator sets {:?}", model.opsets)) };
        let [node] = &model.nodes[..] else { return Err(format!("{} nodes", model.nodes.len())) };

        // The data are those of the graph's inputs in order, without the parameters that the model contains.
        let is_parameter = |name: &str| model.parameters.iter().any(|tensor| tensor.name == name);
        let fed: Vec<_> = model.inputs.iter().filter(|(name, _)| !is_parameter(name)).collect();
        let read = |kind: &str, list: &[&(String, Vec<usize>)]| -> Result<Option<Vec<Tensor>>, String> {
            let mut tensors = Vec::new();
            for (k, (value, shape)) in list.iter().enumerate() {
                let path = format!("{name}/test_data_set_0/{kind}_{k}.pb");
                let Some(bytes) = file(&path) else { return Ok(None) };
                let tensor = Tensor::read(&bytes).map_err(|e| format!("{path}: {e}"))?;
                if tensor.values.shape() != shape {
                    return Err(format!("{path}: `{value}` has shape {:?}, not {shape:?}", tensor.values.shape()));
                }
                tensors.push(Tensor { name: value.clone(), ..tensor });
            }
            let further = format!("{name}/test_data_set_0/{kind}_{}.pb", list.len());
            if file(&further).is_some() {
                return Err(format!("{further} belongs to nothing"));
            }
            Ok(Some(tensors))
        };
        let outputs: Vec<_> = model.outputs.iter().collect();
        let data = match (read("input", &fed)?, read("output", &outputs)?) {
            (Some(inputs), Some(outputs)) => {
                let by_name = |name: &String| {
                    let mut tensors = inputs.iter().chain(&model.parameters);
                    tensors.find(|tensor| tensor.name == *name).map(|tensor| tensor.values.clone())
                };
                let inputs = node.inputs.iter().map(by_name).collect();
                Some(CaseData { inputs, outputs: outputs.into_iter().map(|tensor| tensor.values).collect() })
            }
            (None, None) => None,
            _ => return Err("inputs without outputs, or outputs without inputs".to_string()),
        };
        let declared = |name: &String| model.inputs.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
        Ok(Case {
            name: name.to_string(),
            opset,
            node: node.clone(),
            shapes: node.inputs.iter().map(declared).collect(),
            numbers: model.inputs.iter().chain(&model.outputs).map(|(_, s)| s.iter().product::<usize>()).sum(),
            data,
        })
    }

    /// `node/test_relu` without `test_`, as in the documentation.
    pub fn title(&self) -> String {
        self.name.replacen("/test_", "/", 1)
    }

    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.node.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attribute(name) {
            None => default,
            Some(Attribute::Int(value)) => *value,
            Some(other) => panic!("{}: {name} expects a whole number, got {other:?}", self.name),
        }
    }

    /// A float, with its default, rounded to `f32` like every ONNX attribute.
    pub fn float(&self, name: &str, default: f32) -> f64 {
        f64::from(match self.attribute(name) {
            None => default,
            Some(Attribute::Float(value)) => *value,
            Some(other) => panic!("{}: {name} expects a float, got {other:?}", self.name),
        })
    }

    pub fn text(&self, name: &str, default: &'static str) -> String {
        match self.attribute(name) {
            None => default.to_string(),
            Some(Attribute::Text(value)) => value.clone(),
            Some(other) => panic!("{}: {name} expects text, got {other:?}", self.name),
        }
    }

    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|attribute| match attribute {
            Attribute::Ints(values) => values.clone(),
            other => panic!("{}: {name} expects whole numbers, got {other:?}", self.name),
        })
    }

    /// Panics if the node has an attribute that is not among these: an unknown attribute must not be ignored.
    pub fn knows(&self, names: &[&str]) {
        for (name, value) in &self.node.attributes {
            assert!(names.contains(&name.as_str()), "{}: attribute {name} = {value:?} is not understood", self.name);
        }
    }
}
