//! Whole networks: CIFAR ResNet-20 with option A, and torchvision's ResNet-18. Logits in both modes, loss, every gradient,
//! every new running statistic, and the losses of ten SGD steps.
//!
//! Weights and images are not stored but given by a formula. For each large tensor the fixture contains a summary (norm,
//! largest entry, four projections on vectors of ±1, sixteen entries): an error of size |d| anywhere in a tensor changes
//! a projection by about |d|.

use super::MULTIPLE;
use super::check::{Allowed, Report, wide};
use super::fixture::{Case, Fixture, nhwc, numbers, parameter, words};
use ndarray::{Array2, ArrayD};
use resnet_by_hand::Scalar;
use resnet_by_hand::layers::{Activation, Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{Sgd, SgdConfig};
use resnet_by_hand::parameters::{Gradients, Parameters};
use resnet_by_hand::program::{Choice, Disturb, Forward, Program, Record, Replay, Value};

/// The upper limit of every relative error in `f64`, whatever the model of rounding allows.
const CONTRACT: f64 = 1e-10;

struct Network<'a> {
    case: Case<'a>,
    targets: Vec<usize>,
}

impl<'a> Network<'a> {
    fn open(fixture: &'a Fixture, name: &str) -> Self {
        let case = fixture.case(name);
        let targets = case.targets();
        Network { case, targets }
    }

    /// The network with the formula's weights; names, order and number of parameters as in PyTorch.
    fn build<T: Scalar>(&self, fixture: &Fixture) -> ResNet<T> {
        let name = &self.case.name;
        let mut model = ResNet::<T>::zeroed(&Architecture::by_name(name).unwrap().with_classes(10)).unwrap();
        let mut names = Vec::new();
        model.visit_mut("", &mut |tensor_name, _, mut tensor| {
            names.push(tensor_name.to_string());
            let value = parameter(name, tensor_name, tensor.shape());
            tensor.assign(&value.mapv(T::of));
        });
        assert_eq!(names, fixture.words(&format!("names:{name}")), "state dict of {name}");
        assert_eq!(model.parameter_count() as f64, self.case.number("parameters"));
        model
    }

    fn images<T: Scalar>(&self) -> Activation<T> {
        nhwc(&numbers(&format!("{}/x", self.case.name), &self.case.list("x"), 2.0, 0.0))
    }

    /// Compares one tensor of the pass with its summary (or with the whole tensor, if it is small). Tolerance: `MULTIPLE` times
    /// the change that the model of rounding causes in this tensor, relative to its norm for norm and projections, and to its
    /// largest entry for entries.
    fn check(&self, report: &mut Report, name: &str, got: &ArrayD<f64>, u: f64) {
        let (what, expected) = (format!("{}/{name}", self.case.name), self.case.tensor(name));
        let contract = if u < 1e-12 { CONTRACT } else { f64::INFINITY };
        // The script puts a batch norm's noise (16 u, see `Noise`) on its output; its statistics are such sums, too.
        let own = if name.starts_with("stat/") { 16.0 } else { 0.0 };
        let tolerance = |rounding: f64| {
            let tolerance = MULTIPLE * (rounding + own) * u;
            assert!(tolerance <= contract, "{what}: the model of rounding allows {tolerance:.1e}");
            tolerance
        };
        if let Some(rounding) = self.case.maybe(&format!("{name}/rounding")) {
            let largest = expected.iter().fold(0.0f64, |a, v| a.max(v.abs()));
            report.check(&what, got, &expected, Allowed::Each(tolerance(rounding[1]) * largest));
            return;
        }
        let expected = expected.as_slice().expect("a vector");
        let (expected, rounding) = expected.split_at(SUMMARY);
        let (norm, largest) = (expected[0], expected[1]);
        let own = summary(&what, got);
        let vector = |v: &[f64]| ArrayD::from_shape_vec(ndarray::IxDyn(&[v.len()]), v.to_vec()).unwrap();
        let mut bounds = vec![tolerance(rounding[0]) * norm; SUMMARY];
        bounds[1] = tolerance(rounding[1]) * largest;
        bounds[2 + PROJECTIONS..].fill(tolerance(rounding[1]) * largest);
        report.check(&what, &vector(&own), &vector(expected), Allowed::Bound(&vector(&bounds)));
    }

    /// Compares the logits of both modes and the loss; returns the gradient of the loss.
    fn check_logits<T: Scalar>(&self, report: &mut Report, eval: &Array2<T>, train: &Array2<T>) -> Array2<T> {
        self.check(report, "eval_logits", &wide(eval), T::UNIT_ROUNDOFF);
        self.check(report, "logits", &wide(train), T::UNIT_ROUNDOFF);
        let (loss, cache) = SoftmaxCrossEntropy::new().forward(train, &self.targets).unwrap();
        self.check(report, "loss", &ArrayD::from_elem(ndarray::IxDyn(&[]), loss.as_f64()), T::UNIT_ROUNDOFF);
        SoftmaxCrossEntropy::new().backward(&cache)
    }

    /// Compares every gradient and every running statistic after the training pass.
    fn check_parameters<T: Scalar>(
        &self,
        fixture: &Fixture,
        report: &mut Report,
        after: &dyn Parameters<T>,
        gradients: &Gradients<T>,
    ) {
        let mut compared = 0;
        after.visit("", &mut |name, role, tensor| {
            if role.is_trained() {
                let gradient = wide(gradients.get(name).unwrap());
                self.check(report, &format!("grad/{name}"), &gradient, T::UNIT_ROUNDOFF);
            } else {
                self.check(report, &format!("stat/{name}"), &tensor.mapv(Scalar::as_f64), T::UNIT_ROUNDOFF);
            }
            compared += 1;
        });
        assert_eq!(compared, fixture.words(&format!("names:{}", self.case.name)).len());
    }
}

const PROJECTIONS: usize = 4;
const ENTRIES: usize = 16;
const SUMMARY: usize = 2 + PROJECTIONS + ENTRIES;

/// Norm, largest absolute entry, projections, entries: `summary` of `make_fixtures.py`.
fn summary(name: &str, tensor: &ArrayD<f64>) -> Vec<f64> {
    let flat: Vec<f64> = tensor.iter().copied().collect();
    let mut projections = [0.0; PROJECTIONS];
    for (&value, word) in flat.iter().zip(words(&format!("signs/{name}"))) {
        for (j, projection) in projections.iter_mut().enumerate() {
            *projection += if word >> j & 1 == 1 { -value } else { value };
        }
    }
    let norm = flat.iter().map(|v| v * v).sum::<f64>().sqrt();
    let largest = flat.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    let indices = words(&format!("entries/{name}")).take(ENTRIES);
    let entries = indices.map(|word| flat[(word % flat.len() as u64) as usize]);
    [norm, largest].into_iter().chain(projections).chain(entries).collect()
}

/// The choices of the two forward passes, one in evaluation and one in training.
struct Choices {
    eval: Vec<Choice>,
    train: Vec<Choice>,
}

/// A forward pass of a program: the logits, and the whole pass.
fn run<T: Scalar>(
    program: &Program<T>,
    x: &Activation<T>,
    mode: Mode,
    disturb: &mut dyn Disturb<T>,
) -> (Array2<T>, Forward<T>) {
    let forward = program.forward(Value::Images(x.clone()), mode, disturb).unwrap();
    match forward.values.last() {
        Some(Value::Rows(logits)) => (logits.clone(), forward),
        other => panic!("a network ends in logits, not in {other:?}"),
    }
}

/// One pass of the network itself, forward and backward; returns the logits in evaluation and in training.
fn free<T: Scalar>(network: &Network, fixture: &Fixture) -> [Array2<T>; 2] {
    let mut report = Report::new(format!("{} {} (free)", network.case.name, T::NAME));
    let (x, mut model) = (network.images::<T>(), network.build::<T>(fixture));
    let (eval_logits, _) = model.forward(&x, Mode::Eval).unwrap();
    let (logits, cache) = model.forward(&x, Mode::Train).unwrap();
    let dlogits = network.check_logits(&mut report, &eval_logits, &logits);
    model.update_running_statistics(&cache);
    let (_, gradients) = model.backward(&dlogits, cache).unwrap();
    network.check_parameters(fixture, &mut report, &model, &gradients);
    [eval_logits, logits]
}

/// The same network as a program, with the choices of another pass fixed.
fn held<T: Scalar>(network: &Network, fixture: &Fixture, choices: &Choices) {
    let mut report = Report::new(format!("{} {} (ReLUs held)", network.case.name, T::NAME));
    let (x, mut program) = (network.images::<T>(), Program::of_network(&network.build::<T>(fixture)));
    let [mut eval, mut train] = [&choices.eval, &choices.train].map(|choices| Replay::new(&program, choices));
    let (eval_logits, _) = run(&program, &x, Mode::Eval, &mut eval);
    let (logits, forward) = run(&program, &x, Mode::Train, &mut train);
    let dlogits = network.check_logits(&mut report, &eval_logits, &logits);
    let gradients = program.backward(Value::Rows(dlogits), &forward, &mut train).unwrap().parameters;
    program.update_running_statistics(&forward);
    network.check_parameters(fixture, &mut report, &program, &gradients);
}

/// The choices of a free pass. The program makes the same ones as its network: it gives the same logits.
fn choices<T: Scalar>(network: &Network, fixture: &Fixture, [eval, train]: &[Array2<T>; 2]) -> Choices {
    let (program, x) = (Program::of_network(&network.build::<T>(fixture)), network.images::<T>());
    let [eval, train] = [(Mode::Eval, eval), (Mode::Train, train)].map(|(mode, own)| {
        let mut record = Record::default();
        let (logits, _) = run(&program, &x, mode, &mut record);
        assert_eq!(logits, own, "{} {}, {mode:?}", network.case.name, T::NAME);
        record.choices
    });
    Choices { eval, train }
}

/// How many of the choices of a free `f32` pass differ from those of the `f64` pass: the reason why the gradients are
/// compared with the choices fixed.
fn flips(network: &Network, fixture: &Fixture, reference: &[Choice]) -> (usize, usize) {
    let (model, x) = (network.build::<f32>(fixture), network.images::<f32>());
    let logits = [Mode::Eval, Mode::Train].map(|mode| model.forward(&x, mode).unwrap().0);
    let own = choices::<f32>(network, fixture, &logits).train;
    let flips = own.iter().zip(reference).map(|(a, b)| a.differences(b)).sum();
    (flips, reference.iter().map(Choice::len).sum())
}

/// The loss before each of the first SGD steps on one batch, and after the last.
fn losses<T: Scalar>(network: &Network, fixture: &Fixture, steps: usize) -> Vec<f64> {
    let mut model = network.build::<T>(fixture);
    let x = network.images::<T>();
    let [momentum, weight_decay, lr] = ["momentum", "weight_decay", "lr"].map(|key| network.case.number(key));
    let mut sgd = Sgd::new(SgdConfig { momentum, weight_decay, ..SgdConfig::default() }).unwrap();
    let mut losses = Vec::new();
    for step in 0..=steps {
        let (logits, cache) = model.forward(&x, Mode::Train).unwrap();
        let (loss, loss_cache) = SoftmaxCrossEntropy::new().forward(&logits, &network.targets).unwrap();
        losses.push(loss.as_f64());
        if step < steps {
            model.update_running_statistics(&cache);
            let dlogits = SoftmaxCrossEntropy::new().backward(&loss_cache);
            let gradients = model.parameter_gradients(&dlogits, cache).unwrap();
            sgd.step(&mut model, &gradients, lr).unwrap();
        }
    }
    losses
}

/// Compares the network, and the losses of at most `steps` of the ten recorded steps.
fn whole_network(name: &str, steps: usize) {
    let fixture = Fixture::open("networks.safetensors");
    let network = Network::open(&fixture, name);
    let logits = free::<f64>(&network, &fixture);
    let exact = choices::<f64>(&network, &fixture, &logits);
    held::<f32>(&network, &fixture, &exact);
    if name == "resnet20" {
        let (flips, choices) = flips(&network, &fixture, &exact.train);
        println!("{name}: {flips} of {choices} ReLUs and maxima choose otherwise in a free f32 pass");
    }

    // f64: within `MULTIPLE` times the model of rounding, and within 1e-10 of the loss (+ 1e-12 where it is tiny).
    let expected = network.case.tensor("losses");
    let rounding = network.case.tensor("losses/rounding");
    let mut report = Report::new(format!("{name} float64, SGD"));
    for (step, (&got, &expected)) in losses::<f64>(&network, &fixture, steps).iter().zip(&expected).enumerate() {
        // The loss of a nearly certain prediction is a difference of logits: its rounding error is relative to them.
        let allowed = MULTIPLE * rounding[[0, step]] + 8.0 * f64::UNIT_ROUNDOFF * expected.max(1.0);
        assert!(allowed <= CONTRACT * expected.abs() + 1e-12, "step {step}: {allowed:.1e} of {expected:.1e}");
        report.check_number(&format!("loss before step {step}"), got, expected, allowed);
    }
}

#[test]
fn resnet20_agrees() {
    whole_network("resnet20", 10);
}

#[test]
fn resnet18_agrees() {
    // A step takes seconds; the others, with the momentum of the first, are those of ResNet-20.
    whole_network("resnet18", 1);
}
