use crate::lesson::Mistake;
use crate::protocol::Case;
use ndarray::{ArrayD, Axis};
use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::layers::{Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{Sgd, SgdConfig};
use resnet_by_hand::oracle::diagnose::{Mistake as Classic, mistaken};
use resnet_by_hand::oracle::layer::Task;
use resnet_by_hand::oracle::{Goal, Request, dump};
use resnet_by_hand::parameters::{Gradients, Parameters};
use resnet_by_hand::program::{Disturb, Layer, Passage, Program, Step, Value};
use resnet_by_hand::tensors::{Tensor, Tensors};

const EPOCHS: usize = 6;
const BATCH: usize = 50;
/// Training images; the embedded data has 1,400 and 500 to test with.
const IMAGES: usize = 1000;
/// Accuracy of the reference trained in the same way, and its standard deviation, from the seeds 1 to 5: `learn reference`.
const EXPECTED: f64 = 36.9;
const DEVIATION: f64 = 0.9;

fn model(seed: u64) -> ResNet<f64> {
    ResNet::new(&Architecture::by_name("resnet8").expect("it exists"), seed).expect("it can be built")
}

/// The parameters, and as many photographs with their classes; test photographs after those to train with.
fn case(seed: u64, train: usize, test: usize) -> Case {
    let splits = embedded::load();
    let mut case = Case::default();
    model(seed).visit("", &mut |name, _, tensor| case = std::mem::take(&mut case).with(name, tensor.to_owned()));
    let (mut images, mut classes) = (Vec::new(), Vec::new());
    for (dataset, count) in [(&splits.train, train), (&splits.test, test)] {
        let part = dataset.subset(&(0..count).collect::<Vec<_>>()).expect("so many images");
        classes.extend(part.labels.iter().map(|&label| f64::from(label)));
        images.push(Normalization::CIFAR10.apply::<f64>(part.pixels.view()).expect("colour images").into_owned());
    }
    let images: Vec<_> = images.iter().map(|part| part.view()).collect();
    let x = ndarray::concatenate(Axis(0), &images).expect("images of one size");
    case.with("x", x).with("target", ndarray::Array1::from(classes))
}

pub fn cases() -> Vec<Case> {
    vec![case(1, 4, 0)]
}

/// The training itself, after the gradients are right.
pub fn training() -> Case {
    let case = case(1, IMAGES, 500).with_value("epochs", EPOCHS as f64).with_value("images", IMAGES as f64);
    case.with_value("batch", BATCH as f64).with_value("expected", EXPECTED).with_value("deviation", DEVIATION)
}

/// Trains the reference as `run.rs` trains the learner's network, with five seeds, and prints the accuracies.
pub fn reference() {
    let accuracies: Vec<f64> = (1..=5).map(train_reference).collect();
    let mean = accuracies.iter().sum::<f64>() / 5.0;
    let deviation = (accuracies.iter().map(|accuracy| (accuracy - mean).powi(2)).sum::<f64>() / 4.0).sqrt();
    println!("accuracies {accuracies:?}: mean {mean:.2}, standard deviation {deviation:.2}");
}

fn train_reference(seed: u64) -> f64 {
    let case = case(seed, IMAGES, 500);
    let (x, target) = (case.array::<ndarray::Ix4>("x"), case.counts("target"));
    let (mut model, loss) = (model(seed), SoftmaxCrossEntropy::new());
    let mut sgd = Sgd::new(SgdConfig::default()).expect("its own settings");
    for epoch in 0..EPOCHS {
        let lr = if epoch + 2 < EPOCHS { 0.05 } else { 0.005 };
        let order: Vec<usize> = (0..IMAGES).map(|i| (i * 17 + epoch * 101) % IMAGES).collect();
        for indices in order.chunks(BATCH) {
            let classes: Vec<usize> = indices.iter().map(|&i| target[i]).collect();
            let images = x.select(Axis(0), indices).into_shared();
            let (logits, cache) = model.forward(&images, Mode::Train).expect("it fits");
            let (_, of_loss) = loss.forward(&logits, &classes).expect("it fits");
            model.update_running_statistics(&cache);
            let gradients = model.parameter_gradients(&loss.backward(&of_loss), cache).expect("it fits");
            sgd.step(&mut model, &gradients, lr).expect("it fits");
        }
    }
    let tests: Vec<usize> = (IMAGES..target.len()).collect();
    let mut right = 0;
    for indices in tests.chunks(BATCH) {
        let logits = model.predict(&x.select(Axis(0), indices).into_shared()).expect("it fits");
        let largest = |row: ndarray::ArrayView1<f64>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        right += logits.rows().into_iter().zip(indices).filter(|(row, i)| largest(*row) == Some(target[**i])).count();
    }
    let accuracy = 100.0 * right as f64 / tests.len() as f64;
    println!("seed {seed}: {accuracy:.1} %");
    accuracy
}

/// The network of a case, and what is asked of it.
fn task(case: &Case) -> Task {
    let mut model = model(0);
    model.visit_mut("", &mut |name, _, mut own| own.assign(case.get(name).expect("every parameter")));
    let goal = Goal::CrossEntropy { target: case.counts("target"), loss: SoftmaxCrossEntropy::new() };
    let x = case.array::<ndarray::Ix4>("x").permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned();
    Task { program: Program::of_network(&model), input: Tensor::from(x), request: Request::new(Mode::Train, goal) }
}

fn results(tensors: &Tensors) -> Case {
    let loss: ArrayD<f64> = tensors.get("loss").expect("a loss").to_f64();
    let mut results = Case::default().with_value("loss", *loss.first().expect("one value"));
    for (name, tensor) in tensors.iter() {
        if let Some(parameter) =
            name.strip_prefix("grad_").filter(|name| name.ends_with("weight") || name.ends_with("bias"))
        {
            results = results.with(&format!("d{parameter}"), tensor.to_f64());
        }
    }
    results
}

pub fn right(case: &Case) -> Case {
    if case.get("epochs").is_some() {
        return Case::default().with_value("accuracy_is_within_two_standard_deviations", 1.0);
    }
    let task = task(case);
    results(&dump::<f64>(&task.program, &task.input, &task.request).expect("the reference can compute it"))
}

/// A step of backward that is left out.
#[derive(Clone, Copy)]
enum Left {
    /// The ReLUs for which this holds, given the name of the step.
    Relu(fn(&str) -> bool),
    /// The 1/(H·W) of the mean.
    Mean,
}

impl Disturb<f64> for Left {
    fn result(&mut self, _: &Step<f64>, _: &[&Value<f64>], _: &mut Value<f64>) {}

    fn logits(&mut self, _: &mut ndarray::Array2<f64>) {}

    fn gradients(
        &mut self,
        step: &Step<f64>,
        passage: Passage<'_, f64>,
        gradients: &mut [Value<f64>],
        _: &mut Gradients<f64>,
    ) {
        match (*self, &step.layer, &mut gradients[0]) {
            (Left::Relu(which), Layer::Relu(_), gradient) if which(&step.name) => *gradient = passage.dy.clone(),
            (Left::Mean, Layer::GlobalAvgPool, Value::Images(dx)) => {
                let pixels = (dx.dim().1 * dx.dim().2) as f64;
                *dx = dx.mapv(|dx| dx * pixels).into_shared();
            }
            _ => {}
        }
    }
}

pub fn mistakes() -> Vec<Mistake> {
    let left = |what: &str, right: &str, left: Left| Mistake {
        name: what.to_string(),
        what: what.to_string(),
        right: right.to_string(),
        compute: Box::new(move |case| Some(disturbed(case, left))),
    };
    let gates = "a ReLU passes the gradient on where its result is positive, and 0 elsewhere";
    let mut all = vec![
        left("the mean over the pixels is not divided by their number", "a pixel is 1/(H·W) of its mean", Left::Mean),
        left("the stem's ReLU is missing in backward", gates, Left::Relu(|name| !name.contains("layer"))),
        left(
            "the ReLU inside the blocks is missing in backward",
            gates,
            Left::Relu(|name| name.contains("layer") && !last_of_block(name)),
        ),
        left(
            "the ReLU after the addition is missing in backward",
            gates,
            Left::Relu(|name| name.contains("layer") && last_of_block(name)),
        ),
    ];
    for classic in Classic::ALL {
        let compute = move |case: &Case| {
            if case.get("epochs").is_some() {
                return None;
            }
            mistaken(&task(case), classic).map(|tensors| results(&tensors))
        };
        all.push(Mistake {
            name: classic.name().to_string(),
            what: classic.explanation().to_string(),
            right: String::new(),
            compute: Box::new(compute),
        });
    }
    all
}

/// The ReLU after an addition is the second call of the block's ReLU.
fn last_of_block(name: &str) -> bool {
    name.ends_with("#2")
}

/// Forward as it is right, backward with something left out.
fn disturbed(case: &Case, mut left: Left) -> Case {
    let task = task(case);
    let x = case.array::<ndarray::Ix4>("x").into_shared();
    let forward = task.program.forward(Value::Images(x), Mode::Train, &mut left).expect("it fits");
    let Some(Value::Rows(logits)) = forward.values.last() else { panic!("a network ends in logits") };
    let loss = SoftmaxCrossEntropy::new();
    let (value, cache) = loss.forward(logits, &case.counts("target")).expect("it fits");
    let dlogits = Value::Rows(loss.backward(&cache));
    let backward = task.program.backward(dlogits, &forward, &mut left).expect("it fits");
    let mut results = Case::default().with_value("loss", value);
    for (name, gradient) in backward.parameters.iter() {
        results = results.with(&format!("d{name}"), gradient.to_owned());
    }
    results
}
