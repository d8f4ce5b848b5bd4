//! Exported networks: one small file, bit by bit, and every network of the zoo as a graph.
//!
//! `onnx_in_onnxruntime.py` runs all of them, and the golden file, in ONNX Runtime.

use ndarray::Array;
use resnet_by_hand::formats::onnx::{Attribute, Data, Graph};
use resnet_by_hand::layers::Mode;
use resnet_by_hand::model::{Architecture, BlockKind, BottleneckStride, Order, ResNet, ShortcutOption, Stage, Stem};
use resnet_by_hand::parameters::{Parameters as _, Role};
use resnet_by_hand::weights::onnx::graph;
use std::collections::{BTreeMap, BTreeSet};

/// What the network of the golden file makes of the two images of [`images`], as ONNX Runtime printed it.
const LOGITS: [[f64; 3]; 2] = [[0.400180, 0.522154, -0.337349], [0.283004, 0.488805, -0.200518]];

/// Two basic blocks, an identity and an option-A shortcut.
fn small() -> ResNet<f32> {
    let architecture = Architecture {
        name: "small".to_string(),
        block: BlockKind::Basic,
        order: Order::PostActivation,
        bottleneck_stride: BottleneckStride::Conv3x3,
        shortcut: ShortcutOption::A,
        stem: Stem::Cifar,
        stem_channels: 2,
        stages: vec![Stage { channels: 2, blocks: 1, stride: 1 }, Stage { channels: 5, blocks: 1, stride: 2 }],
        groups: 1,
        width_per_group: 64,
        classes: 3,
        image: [8, 8],
    };
    let mut model = ResNet::new(&architecture, 1).unwrap();
    let mut count = 0;
    model.visit_mut("", &mut |name, role, mut tensor| {
        // No tensor is all 0 or all 1, and no two are equal.
        count += 1;
        let around = if name.ends_with("running_var") || role == Role::Gamma { 1.0 } else { 0.0 };
        if role != Role::Weight {
            (0..).zip(&mut tensor).for_each(|(k, x)| *x = around + ((7 * count + 3 * k) % 8) as f32 / 16.0);
        }
    });
    model
}

/// Images `(2, 3, 8, 8)` of values 0, 0.1, …, 1; returned as `(2, 8, 8, 3)`.
fn images() -> resnet_by_hand::Activation<f32> {
    let nchw = Array::from_shape_fn((2, 3, 8, 8), |(n, c, h, w)| (((n * 3 + c) * 64 + h * 8 + w) % 11) as f32 / 10.0);
    nchw.permuted_axes([0, 2, 3, 1]).as_standard_layout().into_owned().into_shared()
}

fn golden() -> Graph {
    let logits: Vec<String> = LOGITS.as_flattened().iter().map(f64::to_string).collect();
    let metadata = BTreeMap::from([("logits".to_string(), logits.join(","))]);
    graph(&small(), [8, 8], Some([[0.5, 0.25, 0.125], [0.25, 0.5, 1.0]]), metadata).unwrap()
}

#[test]
fn the_golden_file() {
    let bytes = golden().to_bytes();
    if let Some(path) = std::env::var_os("RESNET_WRITE_GOLDEN_ONNX") {
        std::fs::write(path, &bytes).unwrap();
    }
    assert_eq!(bytes, include_bytes!("onnx/exported.onnx"), "of this network another file is written");
    let (mean, std) = ([0.5, 0.25, 0.125], [0.25, 0.5, 1.0]);
    let mut x = images().to_owned();
    x.indexed_iter_mut().for_each(|((_, _, _, c), x)| *x = (*x - mean[c]) / std[c]);
    let (logits, _) = small().forward(&x.into_shared(), Mode::Eval).unwrap();
    for (ours, theirs) in logits.iter().zip(LOGITS.as_flattened()) {
        assert!((f64::from(*ours) - theirs).abs() < 1e-5, "{logits} for {LOGITS:?}");
    }
}

/// Every operator reads what exists, every tensor of the state dict is a constant with its bits, and the attributes of each
/// kind of layer are those of the layer.
#[test]
fn graphs_of_every_family() {
    for (name, image, operators) in [
        (
            "resnet8",
            32,
            &["Add", "BatchNormalization", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "Pad", "Relu", "Slice"][..],
        ),
        ("plain20", 32, &["BatchNormalization", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "Relu"]),
        ("preact164", 32, &["Add", "BatchNormalization", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "Relu"]),
        (
            "resnet18",
            224,
            &["Add", "BatchNormalization", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Relu"],
        ),
        (
            "resnext50_32x4d",
            64,
            &["Add", "BatchNormalization", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Relu"],
        ),
    ] {
        let model = ResNet::<f32>::new(&Architecture::by_name(name).unwrap(), 1).unwrap();
        let graph = graph(&model, [image; 2], None, BTreeMap::new()).unwrap();
        let found: BTreeSet<&str> = graph.nodes.iter().map(|node| node.op).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), operators, "{name}");

        let mut known: BTreeSet<&str> = graph.constants.iter().map(|constant| constant.name.as_str()).collect();
        assert_eq!(known.len(), graph.constants.len(), "{name}: constants of one name");
        known.insert(&graph.input.0);
        for node in &graph.nodes {
            let missing = node.inputs.iter().find(|input| !known.contains(input.as_str()));
            assert_eq!(missing, None, "{name}: {} reads it", node.name);
            assert!(known.insert(&node.name), "{name}: {} twice", node.name);
        }
        assert_eq!(graph.nodes.last().unwrap().name, graph.output.0);

        let constants: BTreeMap<&str, _> =
            graph.constants.iter().map(|c| (c.name.as_str(), (&c.shape, &c.data))).collect();
        let mut tensors = 0;
        model.visit("", &mut |tensor_name, _, tensor| {
            let values = Data::Float(tensor.iter().copied().collect());
            assert!(constants[tensor_name] == (&tensor.shape().to_vec(), &values), "{name}: {tensor_name}");
            tensors += 1;
        });
        let floats = graph.constants.iter().filter(|constant| matches!(constant.data, Data::Float(_))).count();
        assert_eq!(floats, tensors, "{name}");
        let strided = |node: &&resnet_by_hand::formats::onnx::Node| {
            node.attributes.contains(&("strides", Attribute::Ints(vec![2, 2])))
        };
        let expected = match name {
            "plain20" | "resnet8" => 2,
            "preact164" => 4,
            "resnet18" => 8,
            _ => 8,
        };
        assert_eq!(graph.nodes.iter().filter(strided).count(), expected, "{name}: operators of stride 2");
        let grouped =
            |node: &&resnet_by_hand::formats::onnx::Node| node.attributes.contains(&("group", Attribute::Int(32)));
        let expected = if name == "resnext50_32x4d" { 16 } else { 0 };
        assert_eq!(graph.nodes.iter().filter(grouped).count(), expected, "{name}: operators of 32 groups");
    }
}

#[test]
fn images_that_are_too_small_are_rejected() {
    let model = ResNet::<f32>::zeroed(&Architecture::by_name("resnet8").unwrap()).unwrap();
    assert!(graph(&model, [0, 8], None, BTreeMap::new()).is_err());
}
