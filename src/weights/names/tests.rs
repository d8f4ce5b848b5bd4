use super::*;
use crate::model::{Architecture, ResNet};
use crate::weights::state_dict::{collect, fit};
use ndarray::{Array1, Array2, array};

fn model(name: &str, classes: usize) -> ResNet<f32> {
    ResNet::new(&Architecture::by_name(name).unwrap().with_classes(classes), 1).unwrap()
}

/// The tensors of `model` under other names.
fn renamed(model: &ResNet<f32>, name: impl Fn(&str) -> String) -> Tensors {
    let mut tensors = Tensors::new();
    collect(model).iter().for_each(|(own, tensor)| tensors.insert(name(own), tensor.clone()));
    tensors
}

fn line(tensors: &Tensors) -> Option<String> {
    read(Path::new("f"), tensors).unwrap().line()
}

fn floats(n: usize) -> Array1<f32> {
    Array1::ones(n)
}

/// The names of a program, made of ours, and what is reported.
type Spelling<'a> = (&'a dyn Fn(&str) -> String, Option<&'a str>);

/// Every spelling gives the same tensors, and the line says what was changed.
#[test]
fn spellings_of_other_programs_are_translated_and_said() {
    let of_list = |name: &str| {
        let (first, rest) = name.split_once('.').unwrap();
        let modules = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"];
        format!("{}.{rest}", modules.iter().position(|module| *module == first).unwrap())
    };
    let head = |name: &str, before: &str, last: &str| match name.strip_prefix("fc.") {
        Some(rest) => format!("{last}.{rest}"),
        None => format!("{before}{name}"),
    };
    let spellings: [Spelling; 13] = [
        (&|name| name.into(), None),
        (&|name| format!("module.{name}"), Some("`module.` removed")),
        (&|name| format!("model._orig_mod.{name}"), Some("`_orig_mod.` removed, `model.` removed")),
        (&|name| name.replace("layer1.", "layer1._orig_mod."), Some("`_orig_mod.` removed")),
        (&|name| format!("net.{}", name.replace("fc.", "linear.")), Some("`net.` removed, `linear.*` is `fc.*`")),
        (&|name| head(name, "backbone.", "head"), Some("`backbone.` removed, `head.*` is `fc.*`")),
        (&|name| head(name, "backbone.", "fc"), Some("`backbone.` removed")),
        (&|name| format!("module.encoder_q.{name}"), Some("`module.` removed, `encoder_q.` removed")),
        (&|name| head(name, "", "fc.1"), Some("`fc.1.*` is `fc.*`")),
        (&|name| head(name, "", "head.fc"), Some("`head.fc.*` is `fc.*`")),
        (&|name| head(name, "", "last_linear"), Some("`last_linear.*` is `fc.*`")),
        (&|name| name.replace("downsample", "shortcut"), Some("`shortcut.*` is `downsample.*`")),
        (&|name| format!("features.{}", of_list(name)), None),
    ];
    let saved = model("resnet18", 3);
    for (i, (spelling, expected)) in spellings.iter().enumerate() {
        let mut theirs = renamed(&saved, spelling);
        theirs.insert("module.bn1.num_batches_tracked", array![100i64]);
        let fitting = fit(Path::new("f"), &theirs, &saved).unwrap_or_else(|error| panic!("spelling {i}: {error}"));
        for ((name, tensor), (own_name, own)) in fitting.into_iter().zip(collect(&saved).iter()) {
            assert_eq!((name.as_str(), tensor), (own_name, own), "spelling {i}");
        }
        if i + 1 < spellings.len() {
            // The counter's own prefix is not the file's.
            assert_eq!(line(&theirs).as_deref(), *expected, "spelling {i}");
        }
    }
}

#[test]
fn state_that_no_layer_uses_is_left_out_and_said() {
    let mut theirs = renamed(&model("resnet8", 10), |name| format!("model.{name}"));
    theirs.insert("n_averaged", array![7i64]);
    theirs.insert("criterion.weight", floats(10));
    theirs.insert("model.total_ops", array![1.0f64]);
    theirs.insert("epoch", array![3i64]);
    fit(Path::new("f"), &theirs, &model("resnet8", 10)).unwrap();
    assert_eq!(
        line(&theirs).unwrap(),
        "`model.` removed, `n_averaged` left out, `model.total_ops` left out, `criterion.weight` left out, \
         `epoch` left out"
    );
}

/// A layer that this network does not have is never dropped.
#[test]
fn other_layers_are_errors() {
    let resnet8 = model("resnet8", 10);
    let with = |name: &str, tensor: Tensor| {
        let mut theirs = renamed(&resnet8, |name| format!("model.{name}"));
        theirs.insert(name, tensor);
        fit(Path::new("f"), &theirs, &resnet8).unwrap_err().to_string()
    };
    assert!(with("neck.weight", floats(64).into()).contains("extra neck.weight [64]"));
    // A second linear layer: neither of them is taken for the last one.
    let message = with("head.weight", Array2::<f32>::zeros((3, 10)).into());
    assert!(message.contains("extra head.weight [3, 10]"), "{message}");
    let theirs = renamed(&resnet8, |name| name.replace("fc.", "head.0."));
    let mut two = theirs.clone();
    two.insert("head.2.weight", Array2::<f32>::zeros((10, 10)));
    let message = fit(Path::new("f"), &two, &resnet8).unwrap_err().to_string();
    assert!(message.contains("missing fc.weight") && message.contains("extra head.0.weight"), "{message}");
    fit(Path::new("f"), &theirs, &resnet8).unwrap();
}

#[test]
fn two_networks_in_a_file_are_an_error_until_one_is_chosen() {
    let resnet8 = model("resnet8", 10);
    let mut theirs = renamed(&resnet8, |name| format!("student.{name}"));
    renamed(&resnet8, |name| format!("teacher.{name}")).iter().for_each(|(n, t)| theirs.insert(n, t.clone()));
    let path = Path::new("f");
    let message = read(path, &theirs).unwrap_err().to_string();
    assert!(message.contains("found 2, under `student.` and `teacher.`"), "{message}");
    for prefix in ["teacher", "teacher."] {
        let chosen = under(path, &theirs, prefix).unwrap();
        fit(path, &chosen, &resnet8).unwrap();
    }
    let message = under(path, &theirs, "teach").unwrap_err().to_string();
    assert!(message.contains("begin with `teach.`, found none (the first is `student.conv1.weight`)"), "{message}");
}
