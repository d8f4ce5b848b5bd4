use super::*;
use crate::parameters::fingerprint;
use ndarray::array;

fn model(name: &str, seed: u64) -> ResNet<f32> {
    ResNet::new(&Architecture::by_name(name).unwrap(), seed).unwrap()
}

/// The tensors of `model` under other names.
fn renamed(model: &ResNet<f32>, name: impl Fn(&str) -> String) -> Tensors {
    let mut tensors = Tensors::new();
    collect(model).iter().for_each(|(own, tensor)| tensors.insert(name(own), tensor.clone()));
    tensors
}

fn problems(tensors: &Tensors, model: &mut ResNet<f32>) -> String {
    let before = fingerprint(model);
    let message = assign(Path::new("f"), tensors, model).unwrap_err().to_string();
    assert_eq!(fingerprint(model), before, "nothing is changed");
    message
}

#[test]
fn names_of_others_are_understood() {
    for (network, theirs) in [
        ("resnet8", (|name| name.to_string()) as fn(&str) -> String),
        ("resnet8", |name| format!("module.{}", name.replace("fc.", "linear."))),
        ("resnet18", |name| format!("_orig_mod.module.{}", name.replace(".downsample.", ".shortcut."))),
    ] {
        let saved = model(network, 1);
        let mut tensors = renamed(&saved, theirs);
        tensors.insert("module.bn1.num_batches_tracked", array![100i64]);
        let mut loaded = model(network, 2);
        assign(Path::new("f"), &tensors, &mut loaded).unwrap();
        assert_eq!(fingerprint(&saved), fingerprint(&loaded), "{network}");
    }
}

#[test]
fn everything_that_is_wrong_is_listed_at_once() {
    let mut resnet8 = model("resnet8", 1);
    let mut tensors = collect(&resnet8);
    tensors.remove("conv1.weight");
    tensors.insert("conv1.wieght", ndarray::Array4::<f32>::zeros((16, 3, 3, 3)));
    tensors.insert("module.bn1.bias", array![1.0f32]);
    tensors.insert("fc.bias", array![1i64, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    tensors.insert("bn1.weight", array![1.0f32]);
    tensors.insert("something.else", array![[1.0f32]]);
    let message = problems(&tensors, &mut resnet8);
    for part in [
        "f: these are not the weights of `resnet8` with 10 classes:\n",
        "\n  missing conv1.weight [16, 3, 3, 3] (found `conv1.wieght`)",
        "\n  bn1.weight expects shape [16], got [1]",
        "\n  fc.bias expects floats, got int64",
        "\n  bn1.bias occurs twice, as `bn1.bias` and as `module.bn1.bias`",
        "\n  extra conv1.wieght [16, 3, 3, 3] (near `conv1.weight`)",
        "\n  extra something.else [1, 1]",
    ] {
        assert!(message.contains(part), "`{part}` is missing in {message}");
    }
    assert_eq!(message.lines().count(), 7);
}

/// Of 162 problems the first ten, of every kind, and the network that the file is for.
#[test]
fn a_long_list_is_shortened() {
    let tensors = renamed(&model("resnet20-b", 1), |name| format!("net.{}", name.replace("layer3", "stage3")));
    let message = problems(&tensors, &mut model("resnet56", 1));
    assert_eq!(message.lines().count(), 1 + MOST_LISTED + 1, "{message}");
    assert!(message.contains("\n  missing ") && message.contains("\n  extra net.layer2.0.downsample"), "{message}");
    assert!(message.ends_with(" more (`convert`, `eval` and `predict` list all with --all)"), "{message}");
    let message = problems(&collect(&model("resnet20-b", 1)), &mut model("resnet20", 1));
    let first = "f: these are not the weights of `resnet20` with 10 classes; this file is a resnet20 with option-B \
                 shortcuts (`--model resnet20-b`):";
    assert_eq!(message.lines().next(), Some(first));
    assert_eq!(message.lines().count(), 11);
}

/// A vector is not the last layer's matrix, and a matrix not the weights of a batch norm, however near the names are.
#[test]
fn a_similar_name_is_shown_only_where_the_tensor_could_be_the_same() {
    let mut resnet8 = model("resnet8", 1);
    let mut tensors = collect(&resnet8);
    for gone in ["bn1.weight", "layer1.0.bn1.weight"] {
        tensors.remove(gone);
    }
    tensors.insert("bn.weight", array![[1.0f32]]);
    tensors.insert("head1.weight", array![[1.0f32]]);
    tensors.insert("layer1.0.bn_1.weight", array![1.0f32]);
    tensors.insert("layer1.3.conv1.weight", ndarray::Array4::<f32>::zeros((1, 1, 1, 1)));
    let message = problems(&tensors, &mut resnet8);
    for line in [
        "missing bn1.weight [16]",
        "missing layer1.0.bn1.weight [16] (found `layer1.0.bn_1.weight`)",
        "extra bn.weight [1, 1]",
        "extra layer1.0.bn_1.weight [1] (near `layer1.0.bn1.weight`)",
        "extra head1.weight [1, 1]",
        "extra layer1.3.conv1.weight [1, 1, 1, 1]",
    ] {
        assert!(message.lines().any(|other| other.trim() == line), "`{line}` is missing in {message}");
    }
}

/// So many names that comparing each with each would take minutes; the hints are at the first lines only.
#[test]
fn many_names_are_compared_in_no_time() {
    let mut resnet8 = model("resnet8", 1);
    let mut tensors = Tensors::new();
    for i in 0..60_000 {
        tensors.insert(format!("layer{i}.0.conv1.weight"), ndarray::Array4::<f32>::zeros((1, 1, 1, 1)));
    }
    let reading = names::read(Path::new("f"), &tensors).unwrap();
    let lines = compare(&reading, &resnet8).problems;
    // Three names are those of both; one line is about the two tensors of the last layer.
    assert_eq!(lines.len(), 60_000 + collect(&resnet8).len() - 3 - 1);
    let hints = lines.iter().filter(|line| line.contains("(near ") || line.contains("(found ")).count();
    assert!((1..=MOST_LISTED).contains(&hints), "{hints}");
    problems(&tensors, &mut resnet8);
}

#[test]
fn a_tensor_that_is_there_twice_is_refused_where_a_part_would_do() {
    let mut resnet8 = model("resnet8", 1);
    let mut tensors = collect(&model("resnet8", 2));
    tensors.insert("module.conv1.weight", tensors.get("conv1.weight").unwrap().clone());
    let before = fingerprint(&resnet8);
    let message = assign_matching(Path::new("f"), &tensors, &mut resnet8).unwrap_err().to_string();
    let expected = "conv1.weight occurs twice, as `conv1.weight` and as `module.conv1.weight`";
    assert!(message.contains(expected), "{message}");
    assert_eq!(fingerprint(&resnet8), before, "nothing is changed");
}

/// A number too large for `f32` becomes infinite.
#[test]
fn values_that_are_not_finite_are_named() {
    let path = Path::new("f");
    let mut resnet8 = model("resnet8", 1);
    expect_finite(path, &resnet8).unwrap();
    let mut tensors = collect(&resnet8);
    tensors.insert("fc.bias", array![1e300, f64::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    assign_matching(path, &tensors, &mut resnet8).unwrap();
    let message = expect_finite(path, &resnet8).unwrap_err().to_string();
    let expected =
        "f: expected finite values, found NaN, infinity or values too large for float32:\n  fc.bias: 2 of 10 values";
    assert_eq!(message, expected);
}

/// `plain20` has the tensors of `resnet20`: only the metadata tells them apart.
#[test]
fn weights_are_not_those_of_another_network_than_the_metadata_names() {
    let mut tensors = collect(&model("plain8", 1));
    let about = |name: &str| crate::weights::Metadata::from([("model".into(), name.into())]);
    crate::weights::set_metadata(&mut tensors, &about("plain8"));
    let message = problems(&tensors, &mut model("resnet8", 2));
    let expected = "f: expected weights of `resnet8`; by the metadata of the file these are the weights of `plain8`";
    assert!(message.starts_with(expected), "{message}");
    assign(Path::new("f"), &tensors, &mut model("plain8", 2)).unwrap();
    // A name that nobody knows contradicts nothing.
    crate::weights::set_metadata(&mut tensors, &about("mine"));
    assign(Path::new("f"), &tensors, &mut model("resnet8", 2)).unwrap();
}

#[test]
fn the_number_of_classes_is_that_of_rows_that_are_there() {
    assert_eq!(classes(&collect(&model("resnet8", 1))), Some(10));
    let mut tensors = Tensors::new();
    assert_eq!(classes(&tensors), None);
    tensors.insert("module.linear.weight", ndarray::Array2::<f32>::zeros((1 << 40, 0)));
    assert_eq!(classes(&tensors), None);
}
