//! One residual block of every kind against the same block in PyTorch: output, all gradients, new running statistics.

use super::MULTIPLE;
use super::check::{Allowed, Report, nchw, wide};
use super::fixture::{Case, Fixture, nhwc, numbers, parameter};
use ndarray::ArrayD;
use resnet_by_hand::Scalar;
use resnet_by_hand::layers::Mode;
use resnet_by_hand::model::{
    Architecture, Block, BlockKind, BottleneckStride, Order, ResNet, ShortcutOption, Stage, Stem,
};
use resnet_by_hand::parameters::{Gradients, Parameters};

/// The only block of a network of one stage, so that the code that chooses strides and shortcuts is tested, too.
fn build<T: Scalar>(case: &Case) -> Block<T> {
    let x = case.list("x");
    let options = [ShortcutOption::A, ShortcutOption::B, ShortcutOption::EveryStage, ShortcutOption::Absent];
    let architecture = Architecture {
        name: case.name.clone(),
        block: if case.flag("bottleneck") { BlockKind::Bottleneck } else { BlockKind::Basic },
        order: if case.flag("pre_activation") { Order::PreActivation } else { Order::PostActivation },
        bottleneck_stride: if case.flag("v1") { BottleneckStride::Conv1x1 } else { BottleneckStride::Conv3x3 },
        shortcut: options[case.number("option") as usize],
        stem: Stem::Cifar,
        stem_channels: x[1],
        stages: vec![Stage {
            channels: case.number("channels") as usize,
            blocks: 1,
            stride: case.number("stride") as usize,
        }],
        groups: case.number("groups") as usize,
        width_per_group: case.number("width_per_group") as usize,
        classes: 10,
        image: [x[2], x[3]],
    };
    ResNet::zeroed(&architecture).unwrap().stages.remove(0).remove(0)
}

/// Tolerance: `MULTIPLE` times the change that the model of rounding (`Noise` in `make_fixtures.py`) causes in the block's
/// most sensitive tensor, relative to its largest entry; no ReLU input of these blocks is within 2e-4 of its kink.
fn blocks<T: Scalar>() {
    let mut report = Report::new(format!("residual block {}", T::NAME));
    let fixture = Fixture::open("blocks.safetensors");
    for case in fixture.cases("block/", 20) {
        let prefix = format!("{}/{}", case.name, case.number("salt"));
        let mut block = build::<T>(&case);
        let mut names = Vec::new();
        block.visit_mut("", &mut |name, _, mut tensor| {
            names.push(name.to_string());
            let value = parameter(&prefix, name, tensor.shape());
            tensor.assign(&value.mapv(T::of));
        });
        assert_eq!(names, fixture.words(&format!("names:{}", case.name)), "{}: state dict", case.name);

        let rounding = case.tensor("rounding")[usize::from(T::NAME == "float64")];
        let mut check = |name: &str, got: ArrayD<f64>| {
            let expected = case.tensor(name);
            let largest = expected.iter().fold(0.0f64, |a, v| a.max(v.abs()));
            let allowed = Allowed::Each(MULTIPLE * rounding * largest);
            report.check(&format!("{}/{name}", case.name), &got, &expected, allowed);
        };
        let mode = if case.flag("train") { Mode::Train } else { Mode::Eval };
        let x = nhwc::<T>(&numbers(&format!("{prefix}/x"), &case.list("x"), 2.0, 0.0));
        let (y, cache) = block.forward(&x, mode).unwrap();
        check("y", nchw(&y));
        let dy = nhwc::<T>(&numbers(&format!("{prefix}/dy"), case.tensor("y").shape(), 1.0, 0.0));
        let (dx, grads) = block.backward(&dy, &cache).unwrap();
        check("dx", nchw(&dx));
        let mut gradients = Gradients::new();
        grads.collect(&block, "", &mut gradients);
        block.update_running_statistics(&cache);
        block.visit("", &mut |name, role, tensor| {
            if role.is_trained() {
                check(&format!("grad/{name}"), wide(gradients.get(name).expect("every parameter has a gradient")));
            } else if mode == Mode::Train {
                check(&format!("stat/{name}"), tensor.mapv(Scalar::as_f64));
            }
        });
    }
}

#[test]
fn every_kind_of_residual_block_agrees() {
    blocks::<f64>();
    blocks::<f32>();
}
