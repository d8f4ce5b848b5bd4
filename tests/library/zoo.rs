//! Every named network has the parameters and multiply-adds of its paper or of torchvision.

use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::parameters::Parameters;

/// (name, parameters, forward multiply-adds of one image of the size the network was designed for), counted with
/// PyTorch. The pre-activation and wide networks: from their papers' tables, with the digits given there.
const ZOO: &[(&str, usize, u64)] = &[
    ("resnet18", 11_689_512, 1_814_073_344),
    ("resnet34", 21_797_672, 3_663_761_408),
    ("resnet50", 25_557_032, 4_089_184_256),
    ("resnet101", 44_549_160, 7_801_405_440),
    ("resnet152", 60_192_808, 11_513_626_624),
    ("resnext50_32x4d", 25_028_904, 4_230_479_872),
    ("resnext101_32x8d", 88_791_336, 16_414_015_488),
    ("resnext101_64x4d", 83_455_272, 15_460_270_080),
    ("wide_resnet50_2", 68_883_240, 11_398_021_120),
    ("wide_resnet101_2", 126_886_696, 22_753_050_624),
    ("resnet20", 269_722, 40_551_040),
    ("resnet32", 464_154, 68_862_592),
    ("resnet44", 658_586, 97_174_144),
    ("resnet56", 853_018, 125_485_696),
    ("resnet110", 1_727_962, 252_887_680),
    ("resnet1202", 19_421_274, 2_829_238_912),
    ("resnet20-b", 272_474, 40_813_184),
    ("resnet56-b", 855_770, 125_747_840),
    ("resnet18-cifar", 11_173_962, 555_422_720),
    ("resnet34-cifar", 21_282_122, 1_159_402_496),
    ("resnet34-cifar7x7", 21_294_026, 1_171_461_120),
    ("resnet34-as-written", 11_185_866, 567_481_344),
];

#[test]
fn parameters_and_multiply_adds_equal_the_table() {
    for &(name, parameters, multiply_adds) in ZOO {
        let architecture = Architecture::by_name(name).unwrap();
        let model = ResNet::<f32>::zeroed(&architecture).unwrap();
        assert_eq!(model.parameter_count(), parameters, "parameters of {name}");
        let cost = model.cost(1, architecture.image).unwrap();
        assert_eq!(cost.multiply_adds, multiply_adds, "multiply-adds of {name}");
    }
}

#[test]
fn plain_networks_have_the_parameters_of_their_residual_twins() {
    // Option A has no parameters, so removing the shortcuts removes none.
    for depth in [20, 32, 44, 56, 110] {
        let count = |family: &str| {
            let architecture = Architecture::by_name(&format!("{family}{depth}")).unwrap();
            ResNet::<f32>::zeroed(&architecture).unwrap().parameter_count()
        };
        assert_eq!(count("plain"), count("resnet"), "depth {depth}");
    }
}

#[test]
fn pre_activation_and_wide_networks_have_the_size_their_papers_give() {
    let millions = |name: &str| {
        ResNet::<f32>::zeroed(&Architecture::by_name(name).unwrap()).unwrap().parameter_count() as f64 / 1e6
    };
    // 1605.07146 gives 1.7 M for both pre-activation networks and 36.5 M for WRN-28-10.
    assert!((millions("preact110") - 1.7).abs() < 0.05);
    assert!((millions("preact164") - 1.7).abs() < 0.05);
    assert!((millions("wrn-28-10") - 36.5).abs() < 0.05);
}

/// torchvision's `resnet18().state_dict()` without the `num_batches_tracked` counters begins and ends like this.
#[test]
fn names_are_those_of_torchvision() {
    let model = ResNet::<f32>::zeroed(&Architecture::by_name("resnet50").unwrap()).unwrap();
    let mut names = Vec::new();
    model.visit("", &mut |name, _, tensor| names.push(format!("{name} {:?}", tensor.shape())));
    assert_eq!(names.len(), 53 * 5 + 2);
    let expected = [
        "conv1.weight [64, 3, 7, 7]",
        "bn1.weight [64]",
        "bn1.bias [64]",
        "bn1.running_mean [64]",
        "bn1.running_var [64]",
        "layer1.0.conv1.weight [64, 64, 1, 1]",
    ];
    assert_eq!(names[..6], expected);
    assert!(names.contains(&"layer1.0.downsample.0.weight [256, 64, 1, 1]".to_string()));
    assert!(names.contains(&"layer4.2.bn3.running_var [2048]".to_string()));
    assert_eq!(names[names.len() - 2..], ["fc.weight [1000, 2048]", "fc.bias [1000]"]);
}

#[test]
fn a_bottlenecks_stride_sits_on_the_3x3_and_by_choice_on_the_first_1x1() {
    for (name, strides) in [("resnet50", [1, 2, 1, 2]), ("resnet50-v1", [2, 1, 1, 2])] {
        let mut model = ResNet::<f32>::zeroed(&Architecture::by_name(name).unwrap()).unwrap();
        let found: Vec<_> = model.stages[1][0].convs_mut().iter().map(|conv| conv.stride[0]).collect();
        assert_eq!(found, strides, "{name}");
    }
}
