//! The oracle as a library: a program is bit-identical to the network it was made from, dumps contain what they should, and
//! comparisons find what was changed.

use ndarray::{Array4, ArrayD};
use resnet_by_hand::Scalar;
use resnet_by_hand::layers::{Mode, SoftmaxCrossEntropy, nchw_to_nhwc};
use resnet_by_hand::model::{Architecture, ResNet, Stage};
use resnet_by_hand::optim::{Sgd, SgdConfig};
use resnet_by_hand::oracle::diagnose::{FaultDictionary, mistaken};
use resnet_by_hand::oracle::dump::tolerance_of;
use resnet_by_hand::oracle::layer::Task;
use resnet_by_hand::oracle::{
    Arithmetic, ComputedIn, Goal, Mistake, Request, Settings, compare, diagnose, dump, layer,
};
use resnet_by_hand::parameters::Parameters;
use resnet_by_hand::program::{Layer, Program};
use resnet_by_hand::tensors::{Dtype, Tensor, Tensors};

/// Architectures with every kind of stem, block, shortcut and order, one block per stage so that they stay small.
fn architectures() -> Vec<Architecture> {
    let names = [
        "resnet8",
        "plain8",
        "resnet18",
        "resnet50",
        "resnet50-v1",
        "resnext50_32x4d",
        "resnet34-cifar7x7",
        "preact110",
        "preact164",
        "wrn-28-10",
    ];
    let small = |name| {
        let mut architecture = Architecture::by_name(name).unwrap().with_classes(5);
        let stage = |stage: &Stage| Stage { blocks: 1, channels: stage.channels.min(64), ..*stage };
        architecture.stages = architecture.stages.iter().take(3).map(stage).collect();
        architecture
    };
    names.map(small).to_vec()
}

/// Weights and statistics that are different everywhere.
fn network(architecture: &Architecture) -> ResNet<f64> {
    let mut model = ResNet::<f64>::new(architecture, 1).unwrap();
    for (i, norm) in model.norms_mut().into_iter().enumerate() {
        for k in 0..norm.gamma.len() {
            let wave = |scale: usize| ((k * scale + 3 * i) % 11) as f64 / 10.0;
            norm.gamma[k] = 0.5 + wave(3);
            norm.beta[k] = wave(5) - 0.5;
            norm.running_mean[k] = wave(7) - 0.4;
            norm.running_var[k] = 0.3 + wave(2);
        }
    }
    model
}

/// The same network, its parameters rounded to `T`.
fn rounded<T: Scalar>(model: &ResNet<f64>) -> ResNet<T> {
    let mut parameters = Vec::new();
    model.visit("", &mut |_, _, tensor| parameters.push(tensor.mapv(T::of)));
    let (mut result, mut parameters) = (ResNet::zeroed(model.architecture()).unwrap(), parameters.into_iter());
    result.visit_mut("", &mut |_, _, mut own| own.assign(&parameters.next().unwrap()));
    result
}

const TARGET: [usize; 3] = [4, 0, 2];

/// Small enough for every stem, and of another height than width.
fn images() -> Array4<f64> {
    Array4::from_shape_fn((3, 3, 18, 14), |(n, c, h, w)| ((7 * n + 5 * c + 3 * h + w * w) % 13) as f64 / 6.0 - 1.0)
}

fn cross_entropy() -> Goal {
    Goal::CrossEntropy { target: TARGET.to_vec(), loss: SoftmaxCrossEntropy::new() }
}

fn tensor<T: Scalar>(tensors: &Tensors, name: &str) -> ArrayD<T> {
    tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).to_real().unwrap()
}

/// How many tensors of a dump are no tolerances.
fn results(dump: &Tensors) -> usize {
    dump.names().filter(|name| tolerance_of(name).is_none()).count()
}

/// The network's own forward and backward against the program's list of steps: bit-identical.
fn same_bits<T: Scalar>() {
    for architecture in architectures() {
        let what = &architecture.name;
        let model = rounded::<T>(&network(&architecture));
        let program = Program::of_network(&network(&architecture));
        let x = images().mapv(T::of);
        for mode in [Mode::Train, Mode::Eval] {
            let mut request = Request::new(mode, cross_entropy());
            (request.computed_in, request.steps) = (Vec::new(), 2);
            let got = dump::<T>(&program, &Tensor::from(images()), &request).unwrap();

            let mut own = model.clone();
            let mut sgd = Sgd::new(SgdConfig::default()).unwrap();
            for step in 0..2 {
                let (logits, cache) = own.forward(&nchw_to_nhwc(x.view()), mode).unwrap();
                let (loss, loss_cache) = SoftmaxCrossEntropy::new().forward(&logits, &TARGET).unwrap();
                let dlogits = SoftmaxCrossEntropy::new().backward(&loss_cache);
                own.update_running_statistics(&cache);
                let (dx, gradients) = own.backward(&dlogits, cache).unwrap();
                if step == 0 {
                    assert_eq!(tensor::<T>(&got, "logits"), logits.into_dyn(), "{what}, {mode:?}");
                    assert_eq!(tensor::<T>(&got, "loss").sum(), loss);
                    let dx = resnet_by_hand::layers::nhwc_to_nchw(&dx).into_dyn();
                    assert_eq!(tensor::<T>(&got, "grad_input"), dx, "{what}, {mode:?}");
                    for (name, gradient) in gradients.iter() {
                        assert_eq!(&tensor::<T>(&got, &format!("grad_{name}")), gradient, "{what}, {mode:?}: {name}");
                    }
                }
                sgd.step(&mut own, &gradients, request.lr).unwrap();
            }
            own.visit("", &mut |name, role, value| {
                if role.is_trained() || mode == Mode::Train {
                    assert_eq!(tensor::<T>(&got, name), value, "{what}, {mode:?}: {name} after two steps");
                } else {
                    assert!(got.get(name).is_none());
                }
            });
        }
    }
}

#[test]
fn a_program_gives_the_bits_of_its_network_in_f64() {
    same_bits::<f64>();
}

#[test]
fn a_program_gives_the_bits_of_its_network_in_f32() {
    same_bits::<f32>();
}

/// The rounding of `f32` is within the tolerance computed in `f64`, and a wrong step is not.
#[test]
fn f32_fits_and_a_small_mistake_does_not() {
    for name in ["resnet8", "preact110"] {
        let architecture = architectures().into_iter().find(|architecture| architecture.name == name).unwrap();
        let program = Program::of_network(&network(&architecture));
        let input = Tensor::from(images());
        let ours = dump::<f64>(&program, &input, &Request::new(Mode::Train, cross_entropy())).unwrap();
        let theirs = dump::<f32>(&program, &input, &Request::new(Mode::Train, cross_entropy())).unwrap();
        let report = compare(&ours, &theirs, None).unwrap();
        let first = report.first();
        assert!(report.passed(), "{name}: {first:?}");
        assert_eq!(report.tried(), results(&ours));

        // One batch norm with another eps: the first tensor beyond its tolerance is its result, in either type.
        let mut wrong = network(&architecture);
        wrong.norms_mut()[1].eps = 1.1e-5;
        let wrong = Program::of_network(&wrong);
        let theirs = dump::<f64>(&wrong, &input, &Request::new(Mode::Train, cross_entropy())).unwrap();
        let report = compare(&ours, &theirs, None).unwrap();
        let expected = if name == "resnet8" { "output.layer1.0.bn1" } else { "output.layer1.0.bn2" };
        assert_eq!(report.first().unwrap().name, expected);
    }
}

#[test]
fn what_is_called_by_another_name_is_compared_and_what_is_misspelt_is_refused() {
    let architecture = &architectures()[0];
    let program = Program::of_network(&network(architecture));
    let ours = dump::<f64>(&program, &Tensor::from(images()), &Request::new(Mode::Eval, cross_entropy())).unwrap();
    let mut theirs = Tensors::new();
    // The block's output is that of its last ReLU.
    theirs.insert("output.layer1.0", ours.get("output.layer1.0.relu#2").unwrap().clone());
    let report = compare(&ours, &theirs, None).unwrap();
    assert!(report.passed() && report.tried() == 1);
    theirs.insert("grad_layer1.0.conv1.wieght", ours.get("grad_layer1.0.conv1.weight").unwrap().clone());
    let report = compare(&ours, &theirs, None).unwrap();
    assert!(!report.passed());
    assert_eq!(report.unknown[0].1.as_deref(), Some("grad_layer1.0.conv1.weight"));
}

/// DataParallel's and CIFAR code's names of everything, gradients and results included.
#[test]
fn the_names_of_others_are_understood_in_dumps() {
    let architecture = &architectures()[2]; // resnet18: shortcuts with parameters
    let program = Program::of_network(&network(architecture));
    let ours = dump::<f64>(&program, &Tensor::from(images()), &Request::new(Mode::Train, cross_entropy())).unwrap();
    let mut theirs = Tensors::new();
    for (name, tensor) in ours.iter().filter(|(name, _)| tolerance_of(name).is_none()) {
        let theirs_name = match name {
            "logits" => "output.module".to_string(),
            "loss" | "grad_input" => name.to_string(),
            _ => {
                let prefix = ["output.", "grad_output.", "grad_"].into_iter().find(|prefix| name.starts_with(prefix));
                let prefix = prefix.unwrap_or("");
                let rest = name[prefix.len()..].replace(".downsample", ".shortcut").replace("fc", "linear");
                format!("{prefix}module.{rest}")
            }
        };
        theirs.insert(theirs_name, tensor.clone());
    }
    theirs.insert("module.bn1.num_batches_tracked", ndarray::arr0(1i64));
    theirs.insert("grad_output.module", ours.get("grad_output.fc").unwrap().clone());
    let report = compare(&ours, &theirs, None).unwrap();
    assert!(report.passed(), "{:?}, {:?}", report.first(), report.unknown);
    assert_eq!(report.tried(), results(&ours) + 1);
    assert!(report.tensors.iter().any(|verdict| verdict.name == "grad_module.layer2.0.shortcut.0.weight"));
}

/// An element that is not finite does not affect the tolerance of the others; a tensor that rounding alone can make
/// infinite has no bound.
#[test]
fn tolerances_survive_numbers_that_are_not_finite() {
    let mut tensors = input(&[("input", &[2, 3, 4, 4]), ("weight", &[5, 3, 1, 1])]);
    let tolerance = |ours: &Tensors| ours.get("tolerance.f64.output").unwrap().to_f64()[[1, 0, 0, 0]];
    let run =
        |tensors: &Tensors| layer::run::<f64>("conv2d", &Settings::default(), tensors, &[Arithmetic::F64]).unwrap();
    let usual = tolerance(&run(&tensors));
    for broken in [f64::NAN, f64::INFINITY] {
        let mut x = tensor::<f64>(&tensors, "input");
        x[[0, 1, 2, 3]] = broken;
        tensors.insert("input", x);
        let ours = run(&tensors);
        let found = tolerance(&ours);
        assert_eq!(found, usual);
        let mut theirs = ours.clone();
        let report = compare(&ours, &theirs, None).unwrap();
        assert!(report.passed() && report.tensors[0].ours_not_finite == 5);
        let mut y = tensor::<f64>(&ours, "output");
        y[[1, 0, 0, 0]] += 2.0 * usual;
        theirs.insert("output", y);
        assert!(!compare(&ours, &theirs, None).unwrap().passed());
    }

    let mut tensors = Tensors::new();
    tensors.insert("input", ArrayD::from_elem(vec![2, 1, 1, 1], f64::MAX / 2.0));
    tensors.insert("weight", ArrayD::from_elem(vec![1, 1, 1, 1], 1.5));
    let ours = run(&tensors);
    assert_eq!(tolerance(&ours), f64::INFINITY);
    assert!(compare(&ours, &ours, None).unwrap().passed());
    tensors.insert("output", ArrayD::from_elem(vec![2, 1, 1, 1], f64::MAX / 2.0));
    tensors.remove("input");
    tensors.remove("weight");
    let report = compare(&ours, &tensors, None).unwrap();
    assert!(!report.passed() && report.tensors[0].tolerance == f64::INFINITY);
}

/// y and all gradients of a strided convolution on integers, from the definition.
#[test]
fn a_layer_is_computed_from_tensors_in_pytorchs_order() {
    let whole = |shape: [usize; 4], step: usize| {
        Array4::from_shape_fn(shape, |(a, b, c, d)| ((a * 5 + b * 3 + c * 2 + d * step) % 7) as f64 - 3.0)
    };
    let (x, weight, dy) = (whole([2, 3, 5, 6], 1), whole([4, 3, 3, 3], 2), whole([2, 4, 3, 3], 3));
    let mut tensors = Tensors::new();
    tensors.insert("input", x.clone());
    tensors.insert("weight", weight.clone());
    tensors.insert("grad_output", dy.clone());
    let settings: Settings = "stride=2,padding=1".parse().unwrap();
    let got = layer::run::<f64>("conv2d", &settings, &tensors, &[]).unwrap();
    assert_eq!(got.names().collect::<Vec<_>>(), ["output", "grad_weight", "grad_input"]);
    let (mut y, mut dx, mut dw) =
        (Array4::<f64>::zeros(dy.raw_dim()), Array4::<f64>::zeros(x.raw_dim()), Array4::<f64>::zeros(weight.raw_dim()));
    for ((n, o, i, j), &dy) in dy.indexed_iter() {
        for ((_, c, p, q), _) in weight.indexed_iter().filter(|((out, ..), _)| *out == o) {
            let (Some(h), Some(w)) = ((2 * i + p).checked_sub(1), (2 * j + q).checked_sub(1)) else { continue };
            if h < 5 && w < 6 {
                y[[n, o, i, j]] += weight[[o, c, p, q]] * x[[n, c, h, w]];
                dx[[n, c, h, w]] += weight[[o, c, p, q]] * dy;
                dw[[o, c, p, q]] += x[[n, c, h, w]] * dy;
            }
        }
    }
    assert_eq!(tensor::<f64>(&got, "output"), y.into_dyn());
    assert_eq!(tensor::<f64>(&got, "grad_input"), dx.into_dyn());
    assert_eq!(tensor::<f64>(&got, "grad_weight"), dw.into_dyn());
    assert_eq!(got.get("output").unwrap().dtype(), Dtype::F64);
}

#[test]
fn wrong_input_to_a_layer_says_what_was_expected() {
    let mut tensors = Tensors::new();
    tensors.insert("input", Array4::<f32>::zeros((1, 2, 3, 3)));
    let message = |kind: &str, settings: &str, tensors: &Tensors| {
        let settings =
            settings.parse::<Settings>().and_then(|settings| layer::run::<f64>(kind, &settings, tensors, &[]));
        settings.unwrap_err().to_string()
    };
    assert!(message("conv2", "", &tensors).contains("did you mean `conv2d`?"));
    assert!(message("conv2d", "", &tensors).contains("conv2d needs `weight`; the input has input"));
    assert!(message("relu", "slope=1", &tensors).contains("relu has no setting `slope`"));
    assert!(message("leaky_relu", "negative_slop=1", &tensors).contains("did you mean `negative_slope`?"));
    assert!(message("max_pool", "", &tensors).contains("needs the setting `kernel_size`"));
    assert!(message("max_pool", "kernel_size=a", &tensors).contains("got `a`"));
    assert!(message("max_pool", "kernel_size", &tensors).contains("expected NAME=VALUE"));
    assert!(message("batch_norm", "mode=eval", &tensors).contains("running_mean and running_var"));
    assert!(message("basic_block", "", &tensors).contains("`conv1.weight` is missing; `conv2.weight` is missing"));
    assert!(message("softmax_cross_entropy", "", &tensors).contains("`target`"));
    tensors.insert("grad_output", Array4::<f32>::zeros((1, 2, 3, 4)));
    assert!(message("relu", "", &tensors).contains("[1, 2, 3, 3]"));
    tensors.insert("input", ndarray::arr1(&[1i64]));
    assert!(message("relu", "", &tensors).contains("relu: `input` expects float32 or float64, got int64"));
    tensors.insert("input", Array4::<f32>::zeros((2, 3, 1, 1)).into_shape_with_order((2, 3)).unwrap());
    let shapes = "relu: `grad_output` expects the output's shape [2, 3], got [1, 2, 3, 4]";
    assert!(message("relu", "", &tensors).contains(shapes));
}

/// A ReLU takes an array of any shape, and its results have the same.
#[test]
fn a_relu_takes_any_shape() {
    for shape in [&[][..], &[7], &[3, 5], &[2, 3, 4], &[2, 3, 2, 2], &[2, 1, 3, 2, 2]] {
        let (x, dy) = (wave(shape, 1), wave(shape, 2));
        let mut tensors = Tensors::new();
        tensors.insert("input", x.clone());
        tensors.insert("grad_output", dy.clone());
        let settings: Settings = "negative_slope=0.25".parse().unwrap();
        let leaky = |x: &f64, value: &f64| if *x > 0.0 { *value } else { 0.25 * value };
        let mut right = Tensors::new();
        right.insert("output", x.mapv(|x| leaky(&x, &x)));
        right.insert("grad_input", ndarray::Zip::from(&x).and(&dy).map_collect(leaky));
        let ours = layer::run::<f64>("leaky_relu", &settings, &tensors, &[Arithmetic::F64, Arithmetic::F32]).unwrap();
        for (name, tensor) in ours.iter() {
            assert_eq!(tensor.shape(), shape, "{name}");
        }
        for (name, tensor) in right.iter() {
            assert_eq!(ours.get(name), Some(tensor), "{shape:?}");
        }
        let single = layer::run::<f32>("leaky_relu", &settings, &tensors, &[]).unwrap();
        assert!(compare(&ours, &single, None).unwrap().passed(), "{shape:?}");
        let task = layer::prepare("leaky_relu", &settings, &tensors).unwrap();
        let found = diagnose(&task, &mistaken(&task, Mistake::LeakySlope).unwrap(), &ComputedIn::default()).unwrap();
        let negative = x.iter().any(|x| *x < 0.0);
        assert_eq!(found.explains().any(|mistake| mistake == Mistake::LeakySlope), negative, "{shape:?}");
    }
}

fn wave(shape: &[usize], seed: usize) -> ArrayD<f64> {
    // Incommensurable frequencies: no symmetry can hide a mistake.
    let mut i = 0.0;
    ArrayD::from_shape_simple_fn(shape, || {
        i += 1.0;
        let phase: f64 = i * 1.618_033_988_749_895 + seed as f64;
        phase.sin() + 0.3 * (phase * 0.577).cos()
    })
}

fn input(entries: &[(&str, &[usize])]) -> Tensors {
    let mut tensors = Tensors::new();
    for (seed, (name, shape)) in entries.iter().enumerate() {
        let mut tensor = wave(shape, seed);
        if name.ends_with("running_var") {
            tensor.mapv_inplace(|x| 1.5 + x);
        }
        tensors.insert(*name, tensor);
    }
    tensors
}

/// Tasks in which every kind of mistake can be made.
fn tasks() -> Vec<(&'static str, Task)> {
    let layer = |kind: &str, settings: &str, tensors: &Tensors| {
        layer::prepare(kind, &settings.parse().unwrap(), tensors).unwrap()
    };
    let conv =
        input(&[("input", &[4, 3, 8, 8]), ("weight", &[5, 3, 3, 3]), ("bias", &[5]), ("grad_output", &[4, 5, 4, 4])]);
    let norm = input(&[
        ("input", &[4, 3, 5, 6]),
        ("weight", &[3]),
        ("bias", &[3]),
        ("running_mean", &[3]),
        ("running_var", &[3]),
        ("grad_output", &[4, 3, 5, 6]),
    ]);
    let mut relu = input(&[("input", &[2, 3, 4, 4]), ("grad_output", &[2, 3, 4, 4])]);
    relu.insert("input", wave(&[2, 3, 4, 4], 0).mapv(|x| (2.0 * x).round()));
    let pool = input(&[("input", &[2, 3, 6, 6]), ("grad_output", &[2, 3, 3, 3])]);
    let mut loss = input(&[("input", &[5, 7])]);
    loss.insert("target", ndarray::arr1(&[0i64, 6, 2, 3, 3]));
    let network = |name: &str, steps: usize, side: usize| {
        let mut architecture = architectures().into_iter().find(|architecture| architecture.name == name).unwrap();
        // The second stage has a stride; more stages and channels would only take longer.
        architecture.stages.truncate(2);
        (architecture.stem_channels, architecture.stages[0].channels, architecture.stages[1].channels) = (8, 8, 12);
        let mut request = Request::new(Mode::Train, cross_entropy());
        (request.steps, request.lr) = (steps, 0.05);
        request.sgd.weight_decay = 0.01;
        let program = Program::of_network(&network(&architecture));
        Task { program, input: wave(&[3, 3, side, side], 1).into(), request }
    };
    let mut forward = conv.clone();
    forward.remove("grad_output");
    vec![
        ("conv2d", layer("conv2d", "stride=2,padding=1", &conv)),
        ("conv2d forward", layer("conv2d", "stride=2,padding=1", &forward)),
        ("batch_norm", layer("batch_norm", "momentum=0.2", &norm)),
        ("relu", layer("relu", "", &relu)),
        ("leaky_relu", layer("leaky_relu", "", &relu)),
        ("avg_pool", layer("avg_pool", "kernel_size=3,stride=2,padding=1", &pool)),
        ("loss", layer("softmax_cross_entropy", "", &loss)),
        ("summed loss", layer("softmax_cross_entropy", "reduction=sum", &loss)),
        ("resnet8", network("resnet8", 2, 12)),
        ("resnet50", network("resnet50", 0, 24)),
    ]
}

/// Every mistake that can be made in a task is recognised, every one is the only explanation in some task, and a right result,
/// in `f64` or rounded in `f32`, is never diagnosed as a mistake.
#[test]
fn every_mistake_is_named_and_what_is_right_is_never_accused() {
    let mut alone = std::collections::BTreeSet::new();
    for (label, task) in tasks() {
        let faults = FaultDictionary::new(&task, &[Arithmetic::F64, Arithmetic::F32]).unwrap();
        let whole =
            dump::<f64>(&task.program, &task.input, &Request { computed_in: Vec::new(), ..task.request.clone() })
                .unwrap();
        let single =
            dump::<f32>(&task.program, &task.input, &Request { computed_in: Vec::new(), ..task.request.clone() })
                .unwrap();
        for mut theirs in [whole.clone(), single] {
            if task.program.steps.is_empty() {
                let loss = theirs.remove("loss").unwrap();
                theirs.remove("logits");
                theirs.insert("output", loss);
            }
            let diagnosis = faults.diagnose(&theirs, &ComputedIn::default()).unwrap();
            assert!(diagnosis.right.passed() && diagnosis.tried.is_empty(), "{label}: {:?}", diagnosis.right.first());
        }
        for mistake in Mistake::ALL {
            let Some(theirs) = mistaken(&task, mistake) else { continue };
            let diagnosis = faults.diagnose(&theirs, &ComputedIn::default()).unwrap();
            if diagnosis.right.passed() {
                continue; // It makes no difference here, such as padding that is already 0.
            }
            let explains: Vec<Mistake> = diagnosis.explains().collect();
            assert!(explains.contains(&mistake), "{label}: {mistake:?} was taken for {explains:?}");
            if explains.len() == 1 {
                alone.insert(mistake.name());
            } else {
                println!("{label}: {mistake:?} cannot be distinguished from {explains:?}");
            }
        }
    }
    let never: Vec<&str> = Mistake::ALL.map(Mistake::name).into_iter().filter(|name| !alone.contains(name)).collect();
    assert!(never.is_empty(), "nowhere the only explanation: {never:?}");
}

/// A ResNet without its shortcuts amplifies rounding far more than with them. The mistake is still recognised in `f32`: the
/// tolerances are those of the mistaken computation.
#[test]
fn a_mistake_is_recognised_in_f32_where_it_amplifies_rounding() {
    let mut architecture = Architecture::by_name("resnet50").unwrap().with_classes(5);
    architecture.stem_channels = 16;
    for (stage, channels) in architecture.stages.iter_mut().zip([4, 8, 12, 16]) {
        (stage.channels, stage.blocks) = (channels, 4);
    }
    let program = Program::of_network(&network(&architecture));
    let input: Tensor = wave(&[4, 3, 32, 32], 1).into();
    let goal = Goal::CrossEntropy { target: vec![4, 0, 2, 1], loss: SoftmaxCrossEntropy::new() };
    let task = Task { program, input, request: Request::new(Mode::Train, goal) };
    let mut plain = task.clone();
    for sum in 0..plain.program.steps.len() {
        if matches!(plain.program.steps[sum].layer, Layer::Add) {
            let branch = plain.program.steps[sum].reads[0];
            for step in &mut plain.program.steps[sum + 1..] {
                step.reads.iter_mut().filter(|value| **value == sum + 1).for_each(|value| *value = branch);
            }
        }
    }
    plain.request.computed_in.clear();
    let theirs = dump::<f32>(&plain.program, &plain.input, &plain.request).unwrap();
    let diagnosis = diagnose(&task, &theirs, &ComputedIn::default()).unwrap();
    assert_eq!(diagnosis.explains().collect::<Vec<_>>(), [Mistake::NoResidual]);
}
