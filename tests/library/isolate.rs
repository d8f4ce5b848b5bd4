//! Every module of a network on trial with its own inputs.

use ndarray::Array4;
use resnet_by_hand::layers::{Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::oracle::isolate::{Isolated, isolate};
use resnet_by_hand::oracle::layer::Task;
use resnet_by_hand::oracle::{ComputedIn, Goal, Request, compare, dump};
use resnet_by_hand::parameters::Parameters as _;
use resnet_by_hand::program::{Layer, Program};
use resnet_by_hand::tensors::{Tensor, Tensors};

fn model() -> ResNet<f64> {
    let mut architecture = Architecture::by_name("resnet8").unwrap();
    architecture.stem_channels = 6;
    architecture.stages.iter_mut().zip([6, 8, 12]).for_each(|(stage, channels)| stage.channels = channels);
    let mut model = ResNet::<f64>::new(&architecture, 3).unwrap();
    // Numbers of float32, and no two channels alike.
    let mut i = 0.0;
    model.visit_mut("", &mut |_, role, mut values| {
        values.mapv_inplace(|value| {
            i += 1.0;
            let more = if role.is_trained() { 0.1 * f64::sin(i) } else { 0.0 };
            f64::from((value + more) as f32)
        });
    });
    model
}

fn task(model: &ResNet<f64>) -> Task {
    let x = Array4::from_shape_fn((4, 3, 12, 10), |(n, c, h, w)| {
        f64::from((1.7 * (n * 360 + c * 120 + h * 10 + w) as f32).sin())
    });
    let goal = Goal::CrossEntropy { target: vec![4, 0, 2, 9], loss: SoftmaxCrossEntropy::new() };
    let mut request = Request::new(Mode::Train, goal);
    request.computed_in.clear();
    Task { program: Program::of_network(model), input: x.into(), request }
}

fn judged(task: &Task, theirs: &Tensors) -> Isolated {
    isolate(&task.program, &task.input, &task.request, theirs, &ComputedIn::default()).unwrap()
}

fn computed(task: &Task) -> Tensors {
    dump::<f32>(&task.program, &task.input, &task.request).unwrap()
}

fn norm<'a>(task: &'a mut Task, name: &str) -> &'a mut resnet_by_hand::layers::BatchNorm2d<f64> {
    let step = task.program.steps.iter_mut().find(|step| step.name == name).unwrap();
    let Layer::BatchNorm2d(bn) = &mut step.layer else { panic!("{name} is no batch norm") };
    bn
}

#[test]
fn a_right_dump_fits_in_every_module() {
    let task = task(&model());
    for theirs in [computed(&task), dump::<f64>(&task.program, &task.input, &task.request).unwrap()] {
        let found = judged(&task, &theirs);
        assert!(found.passed() && found.lacking.is_empty(), "{:?}, {:?}", found.report.first(), found.lacking);
        // Everything that the dump contains, the gradient of the input included, is judged.
        assert_eq!(found.report.tried(), theirs.len());
        assert!(found.report.tensors.iter().all(|verdict| verdict.share() < 0.5));
    }
}

/// Two modules are wrong, one in each direction, and everything after them is different: exactly these two are named.
#[test]
fn all_wrong_modules_are_named_at_once() {
    let right = task(&model());
    let mut wrong = right.clone();
    norm(&mut wrong, "layer1.0.bn1").eps = 1.2e-5;
    norm(&mut wrong, "layer3.0.bn2").eps = 1.2e-5;
    let theirs = dump::<f64>(&wrong.program, &wrong.input, &wrong.request).unwrap();
    let found = judged(&right, &theirs);
    let mut names = found.wrong();
    names.sort();
    names.dedup();
    assert_eq!(names, ["layer1.0.bn1", "layer3.0.bn2"]);
    assert!(found.connections.is_empty());
}

/// A gradient that is 0.1 % too small is found in float32, in every parameter and in what each module sends back.
#[test]
fn a_thousandth_is_found_in_every_gradient() {
    let task = task(&model());
    let theirs = computed(&task);
    let gradients: Vec<&str> = theirs.names().filter(|name| name.starts_with("grad_")).collect();
    assert!(gradients.len() > 50);
    let scaled = |names: &[&str], factor: f64| {
        let mut wrong = theirs.clone();
        for name in names {
            wrong.insert(*name, theirs.get(name).unwrap().to_f64().mapv(|x| (x * factor) as f32));
        }
        judged(&task, &wrong)
    };
    // Nothing is computed from a parameter's gradient, so all may be wrong at once. A module's gradient is the next one's input.
    let (of_modules, of_parameters): (Vec<&str>, Vec<&str>) =
        gradients.into_iter().partition(|name| name.starts_with("grad_output.") || *name == "grad_input");
    for factor in [0.999, 1.001] {
        let found = scaled(&of_parameters, factor);
        for name in &of_parameters {
            let verdict = found.report.tensors.iter().find(|verdict| verdict.name == *name).unwrap();
            assert!(!verdict.passed(), "{name} times {factor}");
        }
    }
    for (index, name) in of_modules.into_iter().enumerate() {
        let factor = [0.999, 1.001][index % 2];
        let found = scaled(&[name], factor);
        assert!(found.report.first().is_some(), "{name} times {factor}");
    }
}

/// The residual is not added: every module is right for what it was given, but what the next one was given is not the sum.
#[test]
fn a_wrong_connection_is_seen_by_the_input_and_end_to_end() {
    let task = task(&model());
    let mut plain = task.clone();
    let sum = plain.program.steps.iter().position(|step| step.name == "layer2.0.add").unwrap();
    let branch = plain.program.steps[sum].reads[0];
    plain.program.steps[sum + 1].reads = vec![branch];
    let mut theirs = computed(&plain);
    let relu = plain.program.steps[sum + 1].name.clone();
    theirs.insert(format!("input.{relu}"), theirs.get("output.layer2.0.bn2").unwrap().clone());
    let found = judged(&task, &theirs);
    assert_eq!(found.connections, [(relu, "output.layer2.0.add".to_string())]);
    let mut request = task.request.clone();
    request.computed_in = vec![resnet_by_hand::oracle::Arithmetic::F32];
    let ours = dump::<f64>(&task.program, &task.input, &request).unwrap();
    assert_eq!(compare(&ours, &theirs, None).unwrap().first().unwrap().name, "output.layer2.0.relu#2");
}

/// A recorder that hooks modules sees no additions and no padded shortcuts: their results are the inputs of the next module.
#[test]
fn what_hooks_cannot_see_is_taken_from_the_next_module() {
    let task = task(&model());
    let whole = computed(&task);
    let mut theirs = Tensors::new();
    for (name, tensor) in whole.iter() {
        let module = name.trim_start_matches("grad_output.").trim_start_matches("output.");
        if module.ends_with(".add") {
            let relu = format!("{}relu#2", module.trim_end_matches("add"));
            let prefix = if name.starts_with("grad") { "grad_input" } else { "input" };
            theirs.insert(format!("{prefix}.{relu}"), tensor.clone());
        } else if !module.contains("downsample") {
            theirs.insert(name, tensor.clone());
        }
    }
    // `Flatten` and an empty `Sequential` pass on what they are given.
    theirs.insert("output.flatten", theirs.get("output.avgpool").unwrap().clone());
    let found = judged(&task, &theirs);
    assert!(found.passed() && found.lacking.is_empty(), "{:?}, {:?}", found.lacking, found.report.unknown);
    assert!(found.report.tensors.iter().any(|verdict| verdict.name == "input.layer1.0.relu#2"));
    // What is missing is said, and the rest is judged.
    theirs.remove("grad_output.layer2.0.bn1");
    theirs.remove("output.conv1");
    let found = judged(&task, &theirs);
    assert!(found.passed());
    let expected = [("bn1", "`output.conv1`"), ("layer2.0.bn1", "`grad_output.layer2.0.bn1`")];
    assert_eq!(found.lacking, expected.map(|(module, lacks)| (module.to_string(), lacks.to_string())));

    theirs.insert("output.layer9", Tensor::from(ndarray::arr1(&[1.0f32])));
    let found = judged(&task, &theirs);
    assert!(!found.passed() && found.report.unknown[0].0 == "output.layer9");
}

/// In `F.relu(bn(x) + shortcut)` the addition and the ReLU are functions, which hooks of modules do not see. What the next module was
/// given shows them, and all that is sent back to it is judged.
#[test]
fn functions_are_judged_by_what_the_next_module_was_given() {
    let task = task(&model());
    let (whole, steps) = (computed(&task), &task.program.steps);
    let is_module = |index: usize| !matches!(steps[index].layer, Layer::Add | Layer::Relu(_) | Layer::GlobalAvgPool);
    let mut theirs = Tensors::new();
    for (name, tensor) in whole.iter() {
        let module = name.trim_start_matches("grad_output.").trim_start_matches("output.");
        if steps.iter().enumerate().all(|(index, step)| step.name != module || is_module(index)) {
            theirs.insert(name, tensor.clone());
        }
    }
    for (index, step) in steps.iter().enumerate().filter(|(index, _)| is_module(*index)) {
        if let Some(before) = step.reads[0].checked_sub(1).filter(|before| !is_module(*before)) {
            assert!(index > before);
            for (own, of_before) in [("input", "output"), ("grad_input", "grad_output")] {
                let tensor = whole.get(&format!("{of_before}.{}", steps[before].name)).unwrap();
                theirs.insert(format!("{own}.{}", step.name), tensor.clone());
            }
        }
    }
    let found = judged(&task, &theirs);
    assert!(found.passed(), "{:?}, {:?}", found.report.first(), found.connections);
    let names: Vec<&str> = found.report.tensors.iter().map(|verdict| verdict.name.as_str()).collect();
    for name in ["input.layer2.0.conv1", "grad_input.layer2.0.conv1", "grad_output.layer1.0.bn2", "input.fc"] {
        assert!(names.contains(&name), "{name} is not judged: {names:?}");
    }
    // Of the last block nobody has recorded the gradient; what cannot be judged for that reason is said.
    let lacking = |found: &Isolated| -> Vec<String> {
        found.lacking.iter().map(|(module, lacks)| format!("{module}: {lacks}")).collect()
    };
    let last = ["layer3.0.add: `grad_output.layer3.0.add`", "layer3.0.relu#2: `grad_output.layer3.0.relu#2`"];
    assert_eq!(lacking(&found), last);
    let gradient = theirs.remove("grad_output.layer3.0.downsample").unwrap();
    let of_sum = "layer3.0.conv1: what `layer3.0.downsample` adds to `grad_input.layer3.0.conv1`";
    let expected = ["layer3.0.downsample: `grad_output.layer3.0.downsample`", last[0], last[1], of_sum];
    assert_eq!(lacking(&judged(&task, &theirs)), expected);
    theirs.insert("grad_output.layer3.0.downsample", gradient);

    let mut scaled = |name: &str| {
        let right = theirs.get(name).unwrap().clone();
        theirs.insert(name, right.to_f64().mapv(|x| (1.001 * x) as f32));
        let wrong = judged(&task, &theirs).wrong().join(", ");
        theirs.insert(name, right);
        wrong
    };
    // What is sent back to a sum, and the result of its ReLU.
    let wrong = scaled("grad_input.layer2.0.conv1");
    assert!(wrong.contains("layer2.0.conv1 + layer2.0.downsample"), "{wrong}");
    let wrong = scaled("input.layer2.0.conv1");
    assert!(wrong.contains("layer1.0.relu#2"), "{wrong}");
}
