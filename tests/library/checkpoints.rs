//! The public CIFAR-10 checkpoints on the real test images, against values computed independently, outside this crate.
//!
//! Neither is part of the repository. Two environment variables give their locations:
//!
//! | variable | what |
//! |---|---|
//! | `RESNET_CIFAR10` | CIFAR-10 in any of its four forms, or a folder that contains one |
//! | `RESNET_CHECKPOINTS` | a folder with `resnet20-12fca82f.th` and `resnet32-d509ac18.th` (Y. Idelbayev's) |
//!
//! Without them nothing is tested here, and a message says so.

use ndarray::s;
use resnet_by_hand::data::{Dataset, Normalization, cifar10};
use resnet_by_hand::formats;
use resnet_by_hand::layers::batch_norm::RunningVariance;
use resnet_by_hand::layers::{Mode, SoftmaxCrossEntropy, nhwc_to_nchw};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::oracle::{Goal, Request, dump};
use resnet_by_hand::program::Program;
use resnet_by_hand::tensors::Tensors;
use resnet_by_hand::train::{EvaluationOptions, Reference, evaluate};
use resnet_by_hand::weights::state_dict;
use std::path::PathBuf;
use std::sync::Arc;

/// The expected values are given with all digits. Two orders of summation in `f64` differ by about √K u of the value; with
/// K = 10⁴ terms, 20 layers and cancellation that is 10⁻¹³ or less. Every known mistake differs by more than 10⁻⁶.
const RELATIVE: f64 = 1e-10;

/// The test images and the folder of checkpoints; without them, `None` and a loud message.
fn files() -> Option<(Dataset, PathBuf)> {
    let find = |variable: &str, what: &str| {
        let path = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
        if path.is_none() {
            eprintln!("\n!! SKIPPED: the public checkpoints were NOT tested. Set {variable} to {what}\n");
        }
        path
    };
    let images = find("RESNET_CIFAR10", "CIFAR-10: cifar-10-batches-bin, cifar-10-binary.tar.gz, ...");
    let checkpoints = find("RESNET_CHECKPOINTS", "a folder with resnet20-12fca82f.th and resnet32-d509ac18.th");
    let (images, checkpoints) = (images?, checkpoints?);
    // A variable that is set but wrong is an error, not a reason to skip.
    Some((cifar10::load(&images).unwrap().test, checkpoints))
}

fn network(name: &str, path: PathBuf) -> ResNet<f64> {
    let mut model = ResNet::<f64>::zeroed(&Architecture::by_name(name).unwrap()).unwrap();
    state_dict::assign(&path, &formats::read(&path).unwrap(), &mut model).unwrap();
    model
}

#[track_caller]
fn assert_close(what: &str, got: f64, expected: f64) {
    let error = (got / expected - 1.0).abs();
    println!("{what:32} {got:?}, expected {expected:?}: off by {error:.1e}");
    assert!(error <= RELATIVE, "{what}: {got:?}, expected {expected:?}, off by {error:.1e}");
}

/// √Σ x² of tensors.
fn norm(tensors: &Tensors, which: impl Fn(&str) -> bool) -> f64 {
    let chosen = tensors.iter().filter(|(name, _)| which(name));
    chosen.map(|(_, tensor)| tensor.to_f64().mapv(|x| x * x).sum()).sum::<f64>().sqrt()
}

/// ResNet-20 on the first eight test images in training mode: against JAX, in `f64`.
#[test]
fn a_training_pass_of_a_public_checkpoint() {
    let Some((test, checkpoints)) = files() else { return };
    let x = Normalization::IMAGENET.apply::<f64>(test.pixels.slice(s![..8, .., .., ..])).unwrap();
    let target = test.labels[..8].iter().map(|&label| label.into()).collect();
    let mut request = Request::new(Mode::Train, Goal::CrossEntropy { target, loss: SoftmaxCrossEntropy::new() });
    request.computed_in.clear();
    let mut model = network("resnet20", checkpoints.join("resnet20-12fca82f.th"));
    let run =
        |model: &ResNet<f64>| dump::<f64>(&Program::of_network(model), &nhwc_to_nchw(&x).into(), &request).unwrap();
    let result = run(&model);
    let first = |tensors: &Tensors, name: &str| *tensors.get(name).unwrap().to_f64().first().unwrap();
    assert_close("loss", first(&result, "loss"), 0.5965438303834351);
    let is_parameter =
        |name: &str| name.starts_with("grad_") && !name.starts_with("grad_output.") && name != "grad_input";
    assert_close("all gradients", norm(&result, is_parameter), 17.21194952214626);
    for (name, expected) in [
        ("grad_conv1.weight", 1.9874269765498274),
        ("grad_layer2.0.conv1.weight", 2.6639453986539343),
        ("grad_fc.weight", 1.6041765897529165),
        ("grad_input", 5.823370589391225),
    ] {
        assert_close(name, norm(&result, |other| other == name), expected);
    }
    assert_close("bn1.running_var[0]", first(&result, "bn1.running_var"), 2.143057019915101);
    model.norms_mut().into_iter().for_each(|norm| norm.running_variance = RunningVariance::Biased);
    assert_close("bn1.running_var[0], biased", first(&run(&model), "bn1.running_var"), 2.1430376552149473);
}

/// All 10,000 test images, in `f64`.
#[test]
fn the_public_checkpoints_have_their_published_accuracy() {
    let Some((test, checkpoints)) = files() else { return };
    let test = Arc::new(test);
    for (name, file, correct, loss) in [
        ("resnet20", "resnet20-12fca82f.th", 9_173, 0.37266122689480874),
        ("resnet32", "resnet32-d509ac18.th", 9_263, 0.3741028159378853),
    ] {
        let evaluation = evaluate(
            &Reference,
            &network(name, checkpoints.join(file)),
            &test,
            EvaluationOptions::new(Normalization::IMAGENET, 250),
        )
        .unwrap();
        assert_eq!(evaluation.top1, correct, "{name}: right of {}", evaluation.images());
        assert_close(&format!("{name}: loss"), evaluation.loss, loss);
    }
}
