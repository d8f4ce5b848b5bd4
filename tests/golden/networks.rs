//! Whole networks: CIFAR ResNet-20 with option A, and torchvision's ResNet-18. Logits in both modes, loss, every gradient,
//! every new running statistic, and the losses of ten SGD steps.
//!
//! Weights and images are not stored but given by a formula; of each large tensor the fixture holds a summary (norm,
//! largest entry, four projections on vectors of ±1, sixteen entries): an error of size |d| anywhere in a tensor shows in
//! a projection with about |d|.

use crate::check::{wide, Allowed, Report};
use crate::fixture::{nhwc, numbers, parameter, words, Case, Fixture};
use crate::MULTIPLE;
use ndarray::ArrayD;
use resnet_by_hand::layers::{Activation, Conv2dAlgorithm, Gates, Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{Sgd, SgdConfig};
use resnet_by_hand::parameters::Parameters;
use resnet_by_hand::Scalar;

/// What every relative error in `f64` must stay under, whatever the model of rounding allows.
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
        // The rounding of GEMM convolutions is what the tolerances are made for; Winograd has its own test and bound.
        model.convs_mut().into_iter().for_each(|conv| conv.algorithm = Conv2dAlgorithm::Gemm);
        model
    }

    fn images<T: Scalar>(&self) -> Activation<T> {
        nhwc(&numbers(&format!("{}/x", self.case.name), &self.case.list("x"), 2.0, 0.0))
    }

    /// Compares one tensor of the pass with its summary (or with itself, if it is small). Tolerance: `MULTIPLE` times
    /// what the model of rounding moves this tensor by, of its norm for norm and projections, of its largest entry for
    /// entries.
    fn check(&self, report: &mut Report, name: &str, got: &ArrayD<f64>, u: f64) {
        let (what, expected) = (format!("{}/{name}", self.case.name), self.case.tensor(name));
        let contract = if u < 1e-12 { CONTRACT } else { f64::INFINITY };
        // The script puts a batch norm's noise (16 u, see `Noise`) on its output; its statistics are such sums themselves.
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

/// One pass, forward and backward. `gates`: `None` for a free pass (whose choices are returned), else the choices of
/// another pass to replay.
fn pass<T: Scalar>(network: &Network, fixture: &Fixture, gates: Option<(Gates, Gates)>) -> (Gates, Gates) {
    let title = if gates.is_some() { "ReLUs held" } else { "free" };
    let mut report = Report::new(format!("{} {} ({title})", network.case.name, T::NAME));
    let (mut eval_gates, mut train_gates) =
        gates.unwrap_or_else(|| (Gates::Record(Vec::new()), Gates::Record(Vec::new())));
    let (u, x, mut model) = (T::UNIT_ROUNDOFF, network.images::<T>(), network.build::<T>(fixture));
    let (logits, _) = model.forward_gated(&x, Mode::Eval, &mut eval_gates).unwrap();
    network.check(&mut report, "eval_logits", &wide(&logits), u);
    let (logits, cache) = model.forward_gated(&x, Mode::Train, &mut train_gates).unwrap();
    network.check(&mut report, "logits", &wide(&logits), u);
    let (loss, loss_cache) = SoftmaxCrossEntropy::new().forward(&logits, &network.targets).unwrap();
    network.check(&mut report, "loss", &ArrayD::from_elem(ndarray::IxDyn(&[]), loss.as_f64()), u);
    model.update_running_statistics(&cache);
    let dlogits = SoftmaxCrossEntropy::new().backward(&loss_cache);
    let (_, gradients) = model.backward(&dlogits, cache).unwrap();
    let mut compared = 0;
    model.visit("", &mut |name, role, tensor| {
        if role.is_trained() {
            network.check(&mut report, &format!("grad/{name}"), &wide(gradients.get(name).unwrap()), u);
        } else {
            network.check(&mut report, &format!("stat/{name}"), &tensor.mapv(Scalar::as_f64), u);
        }
        compared += 1;
    });
    assert_eq!(compared, fixture.words(&format!("names:{}", network.case.name)).len());
    (eval_gates, train_gates)
}

fn replay(gates: &Gates) -> Gates {
    match gates {
        Gates::Record(choices) => Gates::Replay(choices.clone().into()),
        _ => panic!("a recorded pass"),
    }
}

/// How many of the choices of a free `f32` pass differ from those of the `f64` pass: why the gradients are compared with
/// the choices held.
fn flips(network: &Network, fixture: &Fixture, reference: &Gates) -> (usize, usize) {
    let mut gates = Gates::Record(Vec::new());
    network.build::<f32>(fixture).forward_gated(&network.images(), Mode::Train, &mut gates).unwrap();
    let (Gates::Record(own), Gates::Record(reference)) = (gates, reference) else { panic!("recorded passes") };
    let count = |choice: &resnet_by_hand::layers::gates::Choice| match choice {
        resnet_by_hand::layers::gates::Choice::Relu(gates) => gates.len(),
        resnet_by_hand::layers::gates::Choice::MaxPool(argmax) => argmax.len(),
    };
    let flips = own.iter().zip(reference).map(|(a, b)| a.differences(b)).sum();
    (flips, reference.iter().map(count).sum())
}

/// The loss before each of ten SGD steps on one batch, and after the last.
fn losses<T: Scalar>(network: &Network, fixture: &Fixture) -> Vec<f64> {
    let mut model = network.build::<T>(fixture);
    let x = network.images::<T>();
    let [momentum, weight_decay, lr] = ["momentum", "weight_decay", "lr"].map(|key| network.case.number(key));
    let mut sgd = Sgd::new(SgdConfig { momentum, weight_decay, ..SgdConfig::default() }).unwrap();
    let steps = network.case.number("steps") as usize;
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

fn whole_network(name: &str) {
    let fixture = Fixture::open("networks.safetensors");
    let network = Network::open(&fixture, name);
    let (eval, train) = pass::<f64>(&network, &fixture, None);
    pass::<f32>(&network, &fixture, Some((replay(&eval), replay(&train))));
    let (flips, choices) = flips(&network, &fixture, &train);
    println!("{name}: {flips} of {choices} ReLUs and maxima choose otherwise in a free f32 pass");

    // f64: within `MULTIPLE` times the model of rounding, and within 1e-10 of the loss (+ 1e-12 where it is tiny).
    let expected = network.case.tensor("losses");
    let rounding = network.case.tensor("losses/rounding");
    let mut report = Report::new(format!("{name} float64, SGD"));
    for (step, (&got, &expected)) in losses::<f64>(&network, &fixture).iter().zip(&expected).enumerate() {
        // The loss of a nearly certain answer is a difference of logits: rounded to u of them, whatever its own size.
        let allowed = MULTIPLE * rounding[[0, step]] + 8.0 * f64::UNIT_ROUNDOFF * expected.max(1.0);
        assert!(allowed <= CONTRACT * expected.abs() + 1e-12, "step {step}: {allowed:.1e} of {expected:.1e}");
        report.check_number(&format!("loss before step {step}"), got, expected, allowed);
    }
}

#[test]
fn resnet20_agrees() {
    whole_network("resnet20");
}

#[test]
fn resnet18_agrees() {
    whole_network("resnet18");
}
