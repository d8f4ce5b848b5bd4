//! The judge of the engine: whole networks in `f32`, computed fast, against the same network in `f64`, computed plainly.
//!
//! The weights and images of the fast pass are widened to `f64`, exactly, and the network runs once more as a list of steps.
//! It replays the choices of the fast pass, which ReLUs are open and which pixels are maxima ([`Replay`]), so no tolerance
//! has to cover a kink. A separate check is that each of these choices is right or within rounding of its kink. The test
//! compares the logits, dx, the gradient of every parameter, every new running statistic, and the logits of a prediction.
//!
//! # Tolerances
//!
//! They are computed without the results of the fast pass. The pass in `f64` is repeated with noise in every step, of the
//! size of the rounding to `f32` there ([`resnet_by_hand::oracle::simulation`]; where the fast pass computes a convolution in
//! Winograd's tiles, of the rounding in those). Let δ be the change that noise of four times that size
//! causes in a tensor ĝ, with the mean of squares over [`RUNS`] passes. Then the fast pass's g must satisfy
//!
//! ```text
//! whole tensor     ‖g − ĝ‖ ≤ rms ‖δ‖                              4 standard deviations of the model
//! one element      |g − ĝ| ≤ 4 · rms of δ, over its channel       16: there are many, and they differ within a channel
//! fitted factor    |⟨g − ĝ, ĝ⟩| ≤ 4 · rms ⟨δ, ĝ⟩                  16: the rms of four values can be small by chance
//!                  or 4 · √Σ (ĝ · rms of δ)², if that is larger
//! ```
//!
//! The last means that ⟨g, ĝ⟩/⟨ĝ, ĝ⟩, the factor that fits g to ĝ best, is 1. That all this is tight enough is asserted, too:
//! every tensor of every network here, multiplied by 0.999, is rejected.
//!
//! The exceptions are listed by name: where a gradient is a difference of much larger terms, rounding leaves no digits to
//! check. A batch norm with only two values per channel turns both into ±1 whatever they were. Almost no gradient flows back
//! through it, and the rest is that difference. These tensors must be as close to 0 as the noise.
//!
//! `cargo test --lib library::judge -- --nocapture` prints how much of each tolerance was used.

use ndarray::{Array, Array2, Array4, ArrayD, ArrayView3, ArrayViewD, Axis, Dimension, ShapeBuilder, Zip, s};
use rand::RngExt as _;
use resnet_by_hand::engine::{Algorithm, Chosen, Engine};
use resnet_by_hand::layers::{BatchNorm2d, Conv2d, Mode};
use resnet_by_hand::model::{Architecture, BlockKind, BottleneckStride, Order, ResNet, ShortcutOption, Stage, Stem};
use resnet_by_hand::oracle::Arithmetic;
use resnet_by_hand::oracle::simulation::{Known, Simulation};
use resnet_by_hand::parameters::{Gradients, Parameters, Role};
use resnet_by_hand::processes::Alone;
use resnet_by_hand::program::{Both, Choice, Disturb, Passage, Record, Replay, Undisturbed};
use resnet_by_hand::program::{Forward, Layer, Program, Step, Value};
use resnet_by_hand::rng::{Purpose, Rng, name_hash, normal, stream};
use resnet_by_hand::shards::Shards;
use resnet_by_hand::{Activation, Scalar};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

// ---------------------------------------------------------------------------------------------- the subject

/// The results of a training pass of the subject.
struct Pass {
    logits: Array2<f32>,
    dx: Activation<f32>,
    gradients: Gradients<f32>,
    /// Every running statistic after the pass.
    statistics: Vec<(String, ArrayD<f32>)>,
    /// Which ReLUs were open and which pixels the maxima, in the order of the program's steps.
    choices: Vec<Choice>,
}

fn fast_pass(engine: &Engine, model: &ResNet<f32>, x: &Activation<f32>, dlogits: &Array2<f32>, shards: usize) -> Pass {
    let shards = Shards::new(x.dim().0, shards, Arc::new(Alone));
    let (logits, cache) = engine.forward_shards(model, x, &shards).unwrap();
    let mut after = model.clone();
    engine.update_running_statistics(&mut after, &cache);
    let choices = cache.chosen(model).into_iter().map(|chosen| match chosen {
        Chosen::Open(open) => Choice::Relu(open),
        Chosen::Pixel(argmax) => Choice::MaxPool(argmax),
    });
    let choices = choices.collect();
    let (dx, gradients) = engine.backward(model, dlogits, cache).unwrap();
    Pass { logits, dx, gradients, statistics: statistics(&after), choices }
}

/// m of the tiles F(m x m, 3x3) with which the subject computes a convolution of x `(N, H, W, C)`; `None` without tiles.
fn fast_tile(engine: &Engine, conv: &Conv2d<f32>, x: &[usize]) -> Option<usize> {
    match engine.algorithm_for(conv, [x[0], x[1], x[2], x[3]]).unwrap() {
        Algorithm::Winograd2 => Some(2),
        Algorithm::Winograd4 => Some(4),
        _ => None,
    }
}

// ---------------------------------------------------------------------------------------------- the judge

/// Passes with noise.
const RUNS: u64 = 4;
/// The size of the noise, in standard deviations of the model of rounding.
const DEVIATIONS: f64 = 4.0;
/// How far one element may be off, in units of the rms of the noise in its channel.
const ELEMENT: f64 = 4.0;
/// How far the fitted factor may be off, in units of the rms of the noise's factor.
const FACTOR: f64 = 4.0;
/// The number of terms assumed for the rounding of a running statistic, as for its batch norm.
const STATISTIC_TERMS: f64 = 256.0;
/// The factor that every tensor's tolerance must distinguish from 1.
const WRONG_FACTOR: f64 = 0.999;

/// Named tensors in the order of execution.
type Tensors = Vec<(String, ArrayD<f64>)>;

fn rows<T: Scalar>(forward: &Forward<T>) -> &Array2<T> {
    match forward.values.last() {
        Some(Value::Rows(logits)) => logits,
        other => panic!("a network ends in logits, not in {other:?}"),
    }
}

fn images<T: Scalar>(value: &Value<T>) -> &Activation<T> {
    match value {
        Value::Images(x) => x,
        Value::Rows(_) => panic!("images expected"),
    }
}

fn statistics<T: Scalar>(model: &dyn Parameters<T>) -> Vec<(String, ArrayD<T>)> {
    let mut found = Vec::new();
    model.visit("", &mut |name, role, tensor: ArrayViewD<T>| {
        if role == Role::Statistic {
            found.push((name.to_string(), tensor.to_owned()));
        }
    });
    found
}

fn wide<T: Scalar, D: Dimension>(x: &Array<T, D>) -> ArrayD<f64> {
    x.mapv(T::as_f64).into_dyn()
}

/// The tensors that are compared: logits, dx, gradients, running statistics.
fn listed<T: Scalar>(
    logits: &Array2<T>,
    dx: &Activation<T>,
    gradients: &Gradients<T>,
    statistics: &[(String, ArrayD<T>)],
) -> Tensors {
    let ends = [("logits".to_string(), wide(logits)), ("dx".to_string(), wide(&dx.to_owned()))];
    let gradients = gradients.iter().map(|(name, gradient)| (name.to_string(), wide(gradient)));
    let statistics = statistics.iter().map(|(name, value)| (name.clone(), wide(value)));
    ends.into_iter().chain(gradients).chain(statistics).collect()
}

/// The same network in `f64`: every parameter and setting widened, nothing rounded.
fn widened(model: &ResNet<f32>) -> ResNet<f64> {
    let mut parameters = HashMap::new();
    model.visit("", &mut |name, _, tensor| {
        parameters.insert(name.to_string(), tensor.mapv(f64::from));
    });
    let mut exact = ResNet::<f64>::zeroed(model.architecture()).unwrap();
    exact.visit_mut("", &mut |name, _, mut tensor| tensor.assign(&parameters[name]));
    for (exact, own) in exact.norms_mut().into_iter().zip(model.clone().norms_mut()) {
        (exact.eps, exact.momentum, exact.group) = (own.eps.into(), own.momentum.into(), own.group);
    }
    exact
}

/// m of each convolution that the subject computes in tiles, by the name of its step; `forward` has the shapes.
fn tiles(engine: &Engine, model: &ResNet<f32>, forward: &Forward<f64>) -> HashMap<String, usize> {
    let steps = Program::of_network(model).steps.into_iter();
    let tiled = steps.filter_map(|step| match &step.layer {
        Layer::Conv2d(conv) => Some((step.name, fast_tile(engine, conv, forward.values[step.reads[0]].shape())?)),
        _ => None,
    });
    tiled.collect()
}

/// The rounding of the subject's arithmetic: another one for convolutions in tiles.
struct Noise<'a> {
    plain: Simulation<'a>,
    tiled: Simulation<'a>,
    /// m by the name of the step.
    tiles: &'a HashMap<String, usize>,
}

impl<'a> Noise<'a> {
    /// [`DEVIATIONS`] times the rounding of `f32`.
    fn new(mode: Mode, run: u64, [plain, tiled]: &'a mut [Known; 2], tiles: &'a HashMap<String, usize>) -> Self {
        let of = |winograd, known| {
            let arithmetic = Arithmetic { winograd, ..Arithmetic::F32 };
            let mut simulation = Simulation::new(arithmetic, mode, None, run, known);
            simulation.amplitude = DEVIATIONS;
            simulation
        };
        Noise { plain: of(false, plain), tiled: of(true, tiled), tiles }
    }

    fn of(&mut self, step: &Step<f64>) -> &mut Simulation<'a> {
        if self.tiles.contains_key(&step.name) { &mut self.tiled } else { &mut self.plain }
    }
}

/// A batch norm with groups of images as one without for each group, with its images; any other step is `None`.
fn by_group(step: &Step<f64>, images: usize) -> Option<Vec<(Step<f64>, Range<usize>)>> {
    let Layer::BatchNorm2d(bn) = &step.layer else { return None };
    let group = bn.group?.get();
    let layer = Layer::BatchNorm2d(BatchNorm2d { group: None, ..bn.clone() });
    let of = |first: usize| {
        let step = Step { name: format!("{}, from image {first}", step.name), layer: layer.clone(), ..step.clone() };
        (step, first..first + group)
    };
    Some((0..images).step_by(group).map(of).collect())
}

fn part(value: &Value<f64>, range: &Range<usize>) -> Value<f64> {
    Value::Images(images(value).slice(s![range.clone(), .., .., ..]).to_owned().into_shared())
}

fn put(value: &mut Value<f64>, range: &Range<usize>, part: &Value<f64>) {
    let Value::Images(all) = value else { panic!("images expected") };
    all.slice_mut(s![range.clone(), .., .., ..]).assign(images(part));
}

impl Disturb<f64> for Noise<'_> {
    fn result(&mut self, step: &Step<f64>, reads: &[&Value<f64>], value: &mut Value<f64>) {
        let Some(groups) = by_group(step, value.shape()[0]) else { return self.of(step).result(step, reads, value) };
        for (step, range) in groups {
            let (x, mut y) = (part(reads[0], &range), part(value, &range));
            self.plain.result(&step, &[&x], &mut y);
            put(value, &range, &y);
        }
    }

    fn logits(&mut self, _: &mut Array2<f64>) {}

    fn gradients(
        &mut self,
        step: &Step<f64>,
        passage: Passage<'_, f64>,
        gradients: &mut [Value<f64>],
        parameters: &mut Gradients<f64>,
    ) {
        let Some(groups) = by_group(step, passage.dy.shape()[0]) else {
            return self.of(step).gradients(step, passage, gradients, parameters);
        };
        // The parameters' gradients are sums over the groups, and so is their noise.
        for (step, range) in groups {
            let [x, y, dy] = [passage.reads[0], passage.result, passage.dy].map(|value| part(value, &range));
            let (passage, mut dx) = (Passage { reads: &[&x], result: &y, dy: &dy }, [part(&gradients[0], &range)]);
            self.plain.gradients(&step, passage, &mut dx, parameters);
            put(&mut gradients[0], &range, &dx[0]);
        }
    }
}

/// Noise in a running statistic.
fn disturb_statistic(statistic: &mut ArrayD<f64>, rng: &mut Rng) {
    let size = DEVIATIONS * f32::UNIT_ROUNDOFF * (STATISTIC_TERMS * square(statistic) / statistic.len() as f64).sqrt();
    statistic.mapv_inplace(|x| x + size * normal(rng));
}

/// A tensor of the exact pass and its deviation by noise.
struct Expected {
    name: String,
    exact: ArrayD<f64>,
    /// rms ‖δ‖
    norm: f64,
    /// rms of δ in each channel; for a tensor without channels, in all of it.
    element: Vec<f64>,
    /// rms ⟨δ, ĝ⟩/⟨ĝ, ĝ⟩
    factor: f64,
}

/// Weights have their output channels first, images their channels last; vectors are one channel.
fn channels(name: &str, tensor: &ArrayD<f64>) -> Option<Axis> {
    match (tensor.ndim(), name) {
        (4, "dx") => Some(Axis(3)),
        (4, _) => Some(Axis(0)),
        _ => None,
    }
}

fn square(x: &ArrayD<f64>) -> f64 {
    x.iter().map(|x| x * x).sum()
}

fn dot(x: &ArrayD<f64>, y: &ArrayD<f64>) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Calls `with` for every channel of a tensor.
fn each_channel(axis: Option<Axis>, tensor: &ArrayD<f64>, mut with: impl FnMut(usize, ArrayViewD<f64>)) {
    match axis {
        Some(axis) => tensor.axis_iter(axis).enumerate().for_each(|(channel, part)| with(channel, part)),
        None => with(0, tensor.view()),
    }
}

impl Expected {
    fn new(name: &str, exact: &ArrayD<f64>, noisy: &[&ArrayD<f64>]) -> Self {
        let axis = channels(name, exact);
        let mut element = vec![0.0; axis.map_or(1, |axis| exact.len_of(axis))];
        let (mut norm, mut factor) = (0.0, 0.0);
        let runs = noisy.len() as f64;
        for &noisy in noisy {
            let delta = noisy - exact;
            norm += square(&delta) / runs;
            factor += (dot(&delta, exact) / square(exact)).powi(2) / runs;
            each_channel(axis, &delta, |channel, delta| {
                element[channel] += delta.iter().map(|d| d * d).sum::<f64>() / delta.len() as f64 / runs;
            });
        }
        element.iter_mut().for_each(|square| *square = square.sqrt());
        // So few passes may have a small factor by chance: it is at least that of errors independent in every element.
        let mut alone = 0.0;
        each_channel(axis, exact, |channel, exact| {
            alone += element[channel].powi(2) * exact.iter().map(|x| x * x).sum::<f64>();
        });
        let factor = factor.sqrt().max(alone.sqrt() / square(exact));
        Expected { name: name.to_string(), exact: exact.clone(), norm: norm.sqrt(), element, factor }
    }

    /// The shares of the three tolerances that `got` uses, above 1 where it exceeds one: whole tensor, one element, factor.
    fn used(&self, got: &ArrayD<f64>) -> [f64; 3] {
        assert_eq!(got.shape(), self.exact.shape(), "{}", self.name);
        let share = |error: f64, tolerance: f64| if error == 0.0 { 0.0 } else { error / tolerance };
        let error = got - &self.exact;
        let mut element = 0.0f64;
        each_channel(channels(&self.name, &error), &error, |channel, error| {
            // Not `max`, which ignores a NaN.
            for &error in error {
                let used = share(error.abs(), ELEMENT * self.element[channel]);
                element = if used > element || used.is_nan() { used } else { element };
            }
        });
        let fitted = share(dot(&error, &self.exact).abs(), square(&self.exact) * FACTOR * self.factor);
        [share(square(&error).sqrt(), self.norm), element, fitted]
    }

    /// Whether rounding may change the tensor as much as the factor that must be detected: then its terms cancel, and the rest
    /// has too few digits for that check.
    fn cancels(&self) -> bool {
        self.norm >= (1.0 - WRONG_FACTOR) * square(&self.exact).sqrt()
    }
}

/// Whether a tolerance is exceeded; a NaN exceeds every one.
fn exceeded(used: [f64; 3]) -> bool {
    used.into_iter().any(|used| used > 1.0 || used.is_nan())
}

/// The exact pass with the subject's choices, and the tolerances.
struct Judge {
    program: Program<f64>,
    forward: Forward<f64>,
    /// rms of the noise in each channel of a step's input, by the step's name: for the steps that choose.
    reach: HashMap<String, Vec<f64>>,
    expected: Vec<Expected>,
    tiles: HashMap<String, usize>,
}

impl Judge {
    fn new(
        engine: &Engine,
        model: &ResNet<f32>,
        x: &Activation<f32>,
        dlogits: &Array2<f32>,
        choices: &[Choice],
    ) -> Self {
        let program = Program::of_network(&widened(model));
        let (x, dlogits) = (x.mapv(f64::from).into_shared(), dlogits.mapv(f64::from));
        let mut replay = Replay::new(&program, choices);
        let (forward, exact) = pass(&program, &x, &dlogits, &mut replay, |_| {});

        let tiles = tiles(engine, model, &forward);
        let mut reach: HashMap<String, Vec<f64>> = HashMap::new();
        let mut known = [(); 2].map(|()| Known::default());
        let noisy: Vec<Tensors> = (0..RUNS)
            .map(|run| {
                let mut noise = Noise::new(Mode::Train, run, &mut known, &tiles);
                let mut both = Both(&mut replay, &mut noise);
                let mut rng = stream(run, Purpose::Verify, &[name_hash("statistics")]);
                let (noisy, tensors) =
                    pass(&program, &x, &dlogits, &mut both, |statistic| disturb_statistic(statistic, &mut rng));
                for step in program.steps.iter().filter(|step| chooses(step)) {
                    let [exact, noisy] = [&forward, &noisy].map(|pass| images(&pass.values[step.reads[0]]));
                    let channels = exact.len_of(Axis(3));
                    let reach = reach.entry(step.name.clone()).or_insert_with(|| vec![0.0; channels]);
                    let squares = (noisy - exact).mapv(|d| d * d);
                    let values = (exact.len() / channels) as f64;
                    for (reach, squares) in reach.iter_mut().zip(squares.axis_iter(Axis(3))) {
                        *reach += squares.sum() / values / RUNS as f64;
                    }
                }
                tensors
            })
            .collect();
        reach.values_mut().flatten().for_each(|square| *square = square.sqrt());
        let expected = exact.iter().enumerate().map(|(i, (name, exact))| {
            let noisy: Vec<&ArrayD<f64>> = noisy.iter().map(|tensors| &tensors[i].1).collect();
            Expected::new(name, exact, &noisy)
        });
        let expected = expected.collect();
        Judge { program, forward, reach, expected, tiles }
    }

    /// The wrong choices: one that the exact pass does not make is right only within the noise of the kink.
    fn wrong_choices(&self, choices: &[Choice]) -> Vec<String> {
        let mut wrong = Vec::new();
        let choosing = self.program.steps.iter().filter(|step| chooses(step));
        for (step, choice) in choosing.zip(choices) {
            let x = images(&self.forward.values[step.reads[0]]);
            let reach = |channel: usize| ELEMENT * self.reach[&step.name][channel];
            let mut complain =
                |at, x: f64| wrong.push(format!("{}: the wrong choice at {at:?}, {x:.1e} from its kink", step.name));
            match (&step.layer, choice) {
                (Layer::Relu(_), Choice::Relu(open)) => {
                    for ((at, &x), &open) in x.indexed_iter().zip(open) {
                        if open != (x > 0.0) && (x.abs() > reach(at.3) || x.is_nan()) {
                            complain(at, x);
                        }
                    }
                }
                (Layer::MaxPool2d(pool), Choice::MaxPool(argmax)) => {
                    let (largest, _) = pool.forward(x).unwrap();
                    let width = x.dim().2;
                    for ((at, &largest), &pixel) in largest.indexed_iter().zip(argmax) {
                        let chosen = x[[at.0, pixel as usize / width, pixel as usize % width, at.3]];
                        let gap = largest - chosen;
                        if gap > 2.0 * reach(at.3) || gap.is_nan() {
                            complain(at, gap);
                        }
                    }
                }
                _ => wrong.push(format!("{}: the choices of another layer", step.name)),
            }
        }
        wrong
    }

    /// Everything that is wrong with a pass.
    fn verdict(&self, pass: &Pass) -> Verdict {
        let mut verdict = Verdict { wrong: self.wrong_choices(&pass.choices), used: [0.0; 3] };
        let got = listed(&pass.logits, &pass.dx, &pass.gradients, &pass.statistics);
        assert_eq!(got.len(), self.expected.len(), "as many tensors as the program has");
        for expected in &self.expected {
            let name = &expected.name;
            let (_, got) = got.iter().find(|(own, _)| own == name).unwrap_or_else(|| panic!("no {name}"));
            let used = expected.used(got);
            if exceeded(used) {
                let [norm, element, factor] = used;
                verdict
                    .wrong
                    .push(format!("{name}: {norm:.2} of its tolerance, element {element:.2}, factor {factor:.2}"));
            }
            for (worst, used) in verdict.used.iter_mut().zip(used) {
                *worst = worst.max(used);
            }
        }
        verdict
    }

    /// Names of the tensors to which rounding leaves too few digits; each of the others, multiplied by 0.999, must be rejected.
    fn cancelled(&self) -> Vec<&str> {
        for expected in self.expected.iter().filter(|expected| !expected.cancels()) {
            for factor in [WRONG_FACTOR, 2.0 - WRONG_FACTOR] {
                let used = expected.used(&(&expected.exact * factor));
                assert!(used[0] > 1.0 && used[2] > 1.0, "{} multiplied by {factor} uses {used:.2?}", expected.name);
            }
        }
        self.expected.iter().filter(|expected| expected.cancels()).map(|expected| expected.name.as_str()).collect()
    }
}

struct Verdict {
    wrong: Vec<String>,
    /// The largest share of each tolerance.
    used: [f64; 3],
}

fn chooses<T>(step: &Step<T>) -> bool {
    matches!(step.layer, Layer::Relu(_) | Layer::MaxPool2d(_))
}

/// A training pass of a program: everything it computed, and the tensors that are compared. `statistic` may change each
/// running statistic.
fn pass(
    program: &Program<f64>,
    x: &Activation<f64>,
    dlogits: &Array2<f64>,
    disturb: &mut dyn Disturb<f64>,
    mut statistic: impl FnMut(&mut ArrayD<f64>),
) -> (Forward<f64>, Tensors) {
    let forward = program.forward(Value::Images(x.clone()), Mode::Train, disturb).unwrap();
    let mut backward = program.backward(Value::Rows(dlogits.clone()), &forward, disturb).unwrap();
    let Some(Value::Images(dx)) = backward.values.swap_remove(0) else { panic!("no dx") };
    let mut after = program.clone();
    after.update_running_statistics(&forward);
    let mut statistics = statistics(&after);
    statistics.iter_mut().for_each(|(_, value)| statistic(value));
    let tensors = listed(rows(&forward), &dx, &backward.parameters, &statistics);
    (forward, tensors)
}

/// The share of its tolerances that a prediction uses. Logits need no fixed choices: ReLU and maximum are continuous.
fn judge_prediction(engine: &Engine, model: &ResNet<f32>, x: &Activation<f32>, got: &Array2<f32>) -> [f64; 3] {
    let program = Program::of_network(&widened(model));
    let x = x.mapv(f64::from).into_shared();
    let exact = program.forward(Value::Images(x.clone()), Mode::Eval, &mut Undisturbed).unwrap();
    let tiles = tiles(engine, model, &exact);
    let mut known = [(); 2].map(|()| Known::default());
    let noisy: Vec<ArrayD<f64>> = (0..RUNS)
        .map(|run| {
            let mut noise = Noise::new(Mode::Eval, run, &mut known, &tiles);
            wide(rows(&program.forward(Value::Images(x.clone()), Mode::Eval, &mut noise).unwrap()))
        })
        .collect();
    let expected = Expected::new("logits", &wide(rows(&exact)), &noisy.iter().collect::<Vec<_>>());
    assert!(!expected.cancels() && exceeded(expected.used(&(&expected.exact * WRONG_FACTOR))));
    expected.used(&wide(got))
}

// ---------------------------------------------------------------------------------------------- the networks

/// A network, a batch, and an algorithm forced on its convolutions.
struct Case {
    architecture: Architecture,
    batch: usize,
    image: [usize; 2],
    algorithm: Algorithm,
    shards: usize,
    /// Images per group of the batch norms; 0: all.
    group: usize,
    /// The tensors to which rounding leaves too few digits.
    cancelled: &'static [&'static str],
}

fn random<D: Dimension>(name: &str, shape: impl ShapeBuilder<Dim = D>, low: f32, high: f32) -> Array<f32, D> {
    let mut rng = stream(11, Purpose::Verify, &[name_hash(name)]);
    Array::from_shape_simple_fn(shape, || rng.random_range(low..high))
}

impl Case {
    fn new(architecture: Architecture, batch: usize, image: [usize; 2]) -> Self {
        Case { architecture, batch, image, algorithm: Algorithm::Auto, shards: 1, group: 0, cancelled: &[] }
    }

    fn title(&self) -> String {
        let [h, w] = self.image;
        let Case { architecture: Architecture { name, .. }, batch, algorithm, shards, group, .. } = self;
        format!("{name}, {batch} images of {h}x{w} in {shards} shards, groups of {group}, {}", algorithm.name())
    }

    /// gamma of either sign and beta not 0, so that nothing cancels here that does not cancel in training.
    fn model(&self) -> ResNet<f32> {
        let mut model = ResNet::<f32>::new(&self.architecture, 1).unwrap();
        model.visit_mut("", &mut |name, role, mut tensor| {
            let values = random(name, tensor.raw_dim(), -1.0, 1.0);
            match role {
                Role::Weight => {}
                Role::Gamma => tensor.assign(&values.mapv(|v| v + 0.5f32.copysign(v))),
                Role::Statistic if name.ends_with("running_var") => tensor.assign(&values.mapv(|v| 1.0 + v / 2.0)),
                Role::Bias | Role::Beta | Role::Statistic => tensor.assign(&(values / 2.0)),
            }
        });
        model.norms_mut().into_iter().for_each(|bn| bn.group = NonZeroUsize::new(self.group));
        model
    }

    fn images(&self) -> Activation<f32> {
        let [h, w] = self.image;
        random("x", (self.batch, h, w, 3), -1.5, 2.0).into_shared()
    }

    fn dlogits(&self) -> Array2<f32> {
        random("dlogits", (self.batch, self.architecture.classes), -1.0, 1.0)
    }

    fn run(&self) {
        let (model, x, dlogits) = (self.model(), self.images(), self.dlogits());
        let engine = Engine::new(self.algorithm);
        let pass = fast_pass(&engine, &model, &x, &dlogits, self.shards);
        let judge = Judge::new(&engine, &model, &x, &dlogits, &pass.choices);
        let verdict = judge.verdict(&pass);
        let prediction = judge_prediction(&engine, &model, &x, &engine.predict(&model, &x).unwrap());
        let title = self.title();
        let relative = |e: &Expected| e.norm / square(&e.exact).sqrt();
        let widest = judge.expected.iter().filter(|e| !e.cancels()).map(relative).fold(0.0, f64::max);
        let tiles = judge.tiles.len();
        println!(
            "{title}: used {:.2?}, prediction {prediction:.2?}, widest {widest:.1e}, {tiles} in tiles",
            verdict.used
        );
        let winograd = matches!(self.algorithm, Algorithm::Winograd2 | Algorithm::Winograd4);
        assert!(!winograd || tiles > 0, "{title}: no convolution is computed in tiles");
        assert!(verdict.wrong.is_empty(), "{title}\n{}", verdict.wrong.join("\n"));
        assert!(!exceeded(prediction), "{title}: the prediction uses {prediction:.2?} of its tolerances");
        assert_eq!(judge.cancelled(), self.cancelled, "{title}");
    }
}

fn forced(algorithm: Algorithm, case: Case) -> Case {
    Case { algorithm, ..case }
}

fn named(name: &str) -> Architecture {
    Architecture::by_name(name).unwrap().with_classes(10)
}

/// Two stages of 16 and 24 channels, everything else as given.
fn small(name: &str, block: BlockKind, shortcut: ShortcutOption) -> Architecture {
    Architecture {
        name: name.to_string(),
        block,
        order: Order::PostActivation,
        bottleneck_stride: BottleneckStride::Conv3x3,
        shortcut,
        stem: Stem::Cifar,
        stem_channels: 16,
        stages: vec![Stage { channels: 16, blocks: 2, stride: 1 }, Stage { channels: 24, blocks: 1, stride: 2 }],
        groups: 1,
        width_per_group: 64,
        classes: 7,
        image: [13, 10],
    }
}

const ODD: [usize; 2] = [13, 10];

fn run(cases: impl IntoIterator<Item = Case>) {
    cases.into_iter().for_each(|case| case.run());
}

#[test]
fn basic_blocks_with_every_shortcut() {
    use ShortcutOption::{A, B, C, EveryStage};
    let basic = |name: &str, shortcut| small(name, BlockKind::Basic, shortcut);
    // More channels than a block of any algorithm holds, and not a multiple of it.
    let mut many_channels = basic("basic, 72 and 136 channels", B);
    many_channels.stages =
        vec![Stage { channels: 72, blocks: 1, stride: 1 }, Stage { channels: 136, blocks: 1, stride: 2 }];
    let mut very_many = basic("basic, 512 channels", B);
    very_many.stages = vec![Stage { channels: 512, blocks: 1, stride: 1 }];
    run([
        Case::new(basic("basic, option A", A), 5, ODD),
        Case::new(basic("basic, option B", B), 3, ODD),
        Case::new(basic("basic, option C", C), 7, ODD),
        Case::new(basic("basic, every stage", EveryStage), 1, ODD),
        Case::new(named("plain8"), 5, [12, 9]),
        Case::new(named("resnet14"), 3, [11, 16]),
        Case::new(many_channels, 2, [9, 14]),
        Case::new(very_many, 2, [6, 5]),
    ]);
}

/// Every way to compute a convolution, batches whole and in shards, single images, sizes that divide into tiles and sizes that do not.
#[test]
fn every_algorithm() {
    use Algorithm::{Auto, Gemm, Indirect, Winograd2, Winograd4};
    for (algorithm, batch, image, shards) in [
        (Auto, 7, [20, 18], 1),
        // More images, each a chunk of its own, than there are sums of dU at the same time.
        (Winograd2, 17, [12, 11], 1),
        (Auto, 17, [11, 12], 4),
        (Auto, 1, [15, 20], 1),
        (Gemm, 3, [13, 11], 2),
        (Indirect, 5, [13, 11], 4),
        (Winograd2, 7, [13, 11], 1),
        (Winograd4, 3, [18, 11], 2),
        (Winograd4, 1, [16, 16], 1),
    ] {
        run([forced(algorithm, Case { shards, ..Case::new(named("resnet8"), batch, image) })]);
    }
}

/// Batch norm over groups of images: one, several and all images of a shard.
#[test]
fn groups_of_images() {
    use Algorithm::{Auto, Gemm, Winograd4};
    let bottleneck = small("bottleneck, option C", BlockKind::Bottleneck, ShortcutOption::C);
    let pre = small("pre-activation", BlockKind::Basic, ShortcutOption::B);
    let pre = Architecture { order: Order::PreActivation, ..pre };
    let stem = small("7x7 stem", BlockKind::Basic, ShortcutOption::A);
    let stem = Architecture { stem: Stem::Cifar7x7, ..stem };
    for (architecture, algorithm, batch, shards, group) in [
        (named("resnet8"), Winograd4, 12, 2, 3),
        (bottleneck, Auto, 4, 2, 2),
        (pre, Auto, 6, 1, 2),
        (stem, Gemm, 3, 1, 1),
    ] {
        run([forced(algorithm, Case { shards, group, ..Case::new(architecture, batch, ODD) })]);
    }
}

#[test]
fn bottlenecks() {
    use ShortcutOption::{B, C, EveryStage};
    let bottleneck = |name: &str, shortcut| small(name, BlockKind::Bottleneck, shortcut);
    let v1 = Architecture { bottleneck_stride: BottleneckStride::Conv1x1, ..bottleneck("bottleneck v1", C) };
    let resnext = |name, groups| Architecture { groups, width_per_group: 32, ..bottleneck(name, B) };
    let wide = Architecture { width_per_group: 128, ..bottleneck("wide bottleneck", EveryStage) };
    run([
        Case::new(bottleneck("bottleneck v1.5", B), 3, ODD),
        Case::new(v1, 5, ODD),
        Case::new(resnext("ResNeXt, 2 groups", 2), 3, ODD),
        Case::new(resnext("ResNeXt, 4 groups", 4), 1, ODD),
        Case::new(wide, 3, ODD),
    ]);
}

/// Two images that have one pixel in the last stage: two values per channel, which a batch norm turns into ±1. Almost no
/// gradient flows back through it; see the top of this file.
#[test]
fn what_cancels() {
    let stage = |channels, stride| Stage { channels, blocks: 1, stride };
    let few = Architecture {
        stem_channels: 4,
        stages: vec![stage(4, 1), stage(6, 2), stage(8, 2)],
        ..small("two values per channel", BlockKind::Basic, ShortcutOption::A)
    };
    let cancelled = &["layer3.0.conv1.weight", "layer3.0.bn1.weight", "layer3.0.bn1.bias", "layer3.0.conv2.weight"];
    run([Case { cancelled, ..Case::new(few, 2, [4, 3]) }]);
}

#[test]
fn pre_activation() {
    use ShortcutOption::{A, B};
    let pre =
        |name: &str, block, shortcut| Architecture { order: Order::PreActivation, ..small(name, block, shortcut) };
    let mut wrn = named("wrn-28-10");
    wrn.stages = vec![Stage { channels: 32, blocks: 1, stride: 1 }, Stage { channels: 64, blocks: 1, stride: 2 }];
    run([
        Case::new(pre("pre-activation basic, option A", BlockKind::Basic, A), 3, ODD),
        Case::new(pre("pre-activation basic, option B", BlockKind::Basic, B), 5, ODD),
        Case::new(pre("pre-activation bottleneck", BlockKind::Bottleneck, B), 3, ODD),
        Case::new(wrn, 1, [15, 12]),
    ]);
}

#[test]
fn stems_with_a_max_pool() {
    let base = small("7x7 stem, every stage", BlockKind::Basic, ShortcutOption::EveryStage);
    let imagenet = small("ImageNet stem", BlockKind::Bottleneck, ShortcutOption::B);
    run([
        Case::new(Architecture { stem: Stem::Cifar7x7, ..base }, 3, ODD),
        Case::new(Architecture { stem: Stem::ImageNet, ..imagenet.clone() }, 5, [45, 38]),
        Case::new(Architecture { stem: Stem::ImageNet, ..imagenet }, 1, [51, 63]),
    ]);
}

// ---------------------------------------------------------------------------------------------- wrong passes

/// A mistake in one step of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    /// An addition sends nothing to the shortcut.
    NoShortcut,
    /// A batch norm's dx without the mean of dy.
    NoMean,
    /// A batch norm's dx without the part through the variance.
    NoVariance,
    /// A ReLU sends all of dy back.
    NoGate,
    /// A max pool sends its gradient one pixel to the right.
    OtherPixel,
    /// A dweight, or dgamma and dbeta, without the last image.
    LastImage,
    /// A convolution's dx without the first pixel of the last image.
    OnePixel,
    /// A running variance updated with the biased variance.
    Biased,
    /// One ReLU open that should be closed, or the reverse: the one with the largest |x|.
    OneGate,
    /// A batch norm with another eps, forward.
    Eps,
    /// A ReLU that opens at 0.01, forward and backward.
    Threshold,
}

struct Wrong<'a> {
    step: &'a str,
    mistake: Mistake,
}

/// gamma·rstd and the mean of x, channel by channel.
fn normalization(step: &Step<f32>, x: &Activation<f32>) -> Option<Vec<(f32, f32, f32)>> {
    let Layer::BatchNorm2d(bn) = &step.layer else { return None };
    let of = |(c, x): (usize, ArrayView3<f32>)| {
        let mean = x.mean().expect("some values");
        let variance = x.mapv(|x| (x - mean).powi(2)).mean().expect("some values");
        (bn.gamma[c], 1.0 / (variance + bn.eps).sqrt(), mean)
    };
    Some(x.axis_iter(Axis(3)).enumerate().map(of).collect())
}

impl Disturb<f32> for Wrong<'_> {
    fn result(&mut self, step: &Step<f32>, reads: &[&Value<f32>], value: &mut Value<f32>) {
        if step.name != self.step {
            return;
        }
        let Value::Images(y) = value else { return };
        match self.mistake {
            Mistake::Eps => {
                let Layer::BatchNorm2d(bn) = &step.layer else { return };
                let mut bn = bn.clone();
                bn.eps *= 100.0;
                *y = bn.forward(images(reads[0]), Mode::Train).unwrap().0;
            }
            Mistake::Threshold => y.mapv_inplace(|y| if y > 0.01 { y } else { 0.0 }),
            _ => {}
        }
    }

    fn logits(&mut self, _: &mut Array2<f32>) {}

    fn gradients(
        &mut self,
        step: &Step<f32>,
        passage: Passage<'_, f32>,
        gradients: &mut [Value<f32>],
        parameters: &mut Gradients<f32>,
    ) {
        if step.name != self.step {
            return;
        }
        let Value::Images(dy) = passage.dy else { return };
        let x = images(passage.reads[0]);
        let values = (x.len() / x.len_of(Axis(3))) as f32;
        let last = if self.mistake == Mistake::NoShortcut { 1 } else { 0 };
        let Value::Images(dx) = &mut gradients[last] else { return };
        match (self.mistake, &step.layer) {
            (Mistake::NoShortcut, Layer::Add) => dx.fill(0.0),
            (Mistake::NoGate, Layer::Relu(_)) => *dx = dy.clone(),
            (Mistake::Threshold, Layer::Relu(_)) => Zip::from(dx).and(x).for_each(|dx, &x| {
                if x <= 0.01 {
                    *dx = 0.0;
                }
            }),
            (Mistake::NoMean | Mistake::NoVariance, Layer::BatchNorm2d(_)) => {
                let normalization = normalization(step, x).expect("a batch norm");
                for (c, (gamma, rstd, mean)) in normalization.into_iter().enumerate() {
                    let [dy, x] = [dy, x].map(|array| array.index_axis(Axis(3), c));
                    let mut dx = dx.index_axis_mut(Axis(3), c);
                    if self.mistake == Mistake::NoMean {
                        dx += gamma * rstd * dy.sum() / values;
                    } else {
                        let normal = x.mapv(|x| (x - mean) * rstd);
                        let slope = (&normal * &dy).sum() / values;
                        dx += &(normal * (gamma * rstd * slope));
                    }
                }
            }
            (Mistake::OtherPixel, Layer::MaxPool2d(_)) => {
                let width = dx.dim().2;
                *dx = Array4::from_shape_fn(dx.dim(), |(n, h, w, c)| dx[[n, h, (w + width - 1) % width, c]])
                    .into_shared();
            }
            (Mistake::LastImage, layer) => {
                let mut dy = dy.to_owned();
                let images = dy.dim().0;
                dy.index_axis_mut(Axis(0), images - 1).fill(0.0);
                let (dy, mut own) = (dy.into_shared(), Gradients::new());
                match layer {
                    Layer::Conv2d(conv) => {
                        let (_, cache) = conv.forward(x).unwrap();
                        conv.parameter_gradients(&dy, &cache).unwrap().collect(&step.name, &mut own);
                    }
                    Layer::BatchNorm2d(bn) => {
                        let (_, cache) = bn.forward(x, Mode::Train).unwrap();
                        bn.backward(&dy, &cache).unwrap().1.collect(&step.name, &mut own);
                    }
                    _ => {}
                }
                *parameters = own;
            }
            (Mistake::OnePixel, Layer::Conv2d(_)) => {
                let n = dx.dim().0;
                dx.slice_mut(ndarray::s![n - 1, 0, 0, ..]).fill(0.0);
            }
            _ => {}
        }
    }
}

/// A pass of the program with a mistake in it.
fn wrong_pass(program: &Program<f32>, x: &Activation<f32>, dlogits: &Array2<f32>, wrong: &mut Wrong) -> Pass {
    let mut record = Record::default();
    let forward = program.forward(Value::Images(x.clone()), Mode::Train, &mut Both(wrong, &mut record)).unwrap();
    let at = program.steps.iter().position(|step| step.name == wrong.step).expect("a step of the program");
    if matches!(wrong.mistake, Mistake::Threshold | Mistake::OneGate) {
        let choosing = program.steps.iter().filter(|step| chooses(step));
        let index = choosing.into_iter().position(|step| step.name == wrong.step).expect("a step that chooses");
        let Choice::Relu(open) = &mut record.choices[index] else { panic!("a ReLU") };
        if wrong.mistake == Mistake::Threshold {
            *open = images(&forward.values[at + 1]).iter().map(|&y| y > 0.0).collect();
        } else {
            let x = images(&forward.values[program.steps[at].reads[0]]).iter();
            let (largest, _) = x.enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).expect("some values");
            open[largest] = !open[largest];
        }
    }
    let mut backward = program.backward(Value::Rows(dlogits.clone()), &forward, wrong).unwrap();
    let Some(Value::Images(dx)) = backward.values.swap_remove(0) else { panic!("no dx") };
    let mut after = program.clone();
    after.update_running_statistics(&forward);
    let mut statistics = statistics(&after);
    if wrong.mistake == Mistake::Biased {
        let (x, name) = (images(&forward.values[program.steps[at].reads[0]]), format!("{}.running_var", wrong.step));
        let values = (x.len() / x.len_of(Axis(3))) as f32;
        let batch = normalization(&program.steps[at], x).expect("a batch norm").into_iter();
        let (_, variance) = statistics.iter_mut().find(|(own, _)| *own == name).expect("a running variance");
        // 0.1 of Σ (x − mean)²/m instead of Σ (x − mean)²/(m − 1); rstd⁻² is the former, except for eps.
        variance.iter_mut().zip(batch).for_each(|(v, (_, rstd, _))| *v -= 0.1 / (rstd * rstd) / (values - 1.0));
    }
    Pass { logits: rows(&forward).clone(), dx, gradients: backward.parameters, statistics, choices: record.choices }
}

/// The judge can fail: it rejects every mistake in every step where it can be made.
#[test]
fn every_mistake_in_every_step_is_rejected() {
    use Mistake::*;
    // Few channels and blocks: many of the mistakes need a judge of their own. So many values that each ReLU has one from 0 to
    // 0.01.
    let few = |architecture: Architecture| {
        let mut few = Architecture { stem_channels: 8, ..architecture };
        few.stages
            .iter_mut()
            .zip([8, 12, 40])
            .for_each(|(stage, channels)| (stage.blocks, stage.channels) = (1, channels));
        few
    };
    let pre = few(small("pre-activation", BlockKind::Basic, ShortcutOption::B));
    let stem = few(small("7x7 stem", BlockKind::Bottleneck, ShortcutOption::B));
    for case in [
        Case::new(few(named("resnet8")), 4, [9, 11]),
        Case::new(Architecture { order: Order::PreActivation, ..pre }, 3, ODD),
        Case::new(Architecture { stem: Stem::Cifar7x7, ..stem }, 3, ODD),
    ] {
        let (model, x, dlogits) = (case.model(), case.images(), case.dlogits());
        let program = Program::of_network(&model);
        // Mistakes are made in the steps of a program, so the right pass is also a program: a ReLU's mistake in a convolution
        // changes nothing.
        let mut none = Wrong { step: &program.steps[0].name, mistake: NoGate };
        let (engine, right) = (Engine::new(Algorithm::Gemm), wrong_pass(&program, &x, &dlogits, &mut none));
        let judge = Judge::new(&engine, &model, &x, &dlogits, &right.choices);
        assert!(judge.verdict(&right).wrong.is_empty());
        for expected in &judge.expected {
            let mut broken = expected.exact.clone();
            *broken.iter_mut().last().expect("no tensor is empty") = f64::NAN;
            assert!(exceeded(expected.used(&broken)), "{}: a NaN passes", expected.name);
        }
        let mut rejected = 0;
        for step in &program.steps {
            let mistakes: &[Mistake] = match step.layer {
                Layer::Add => &[NoShortcut],
                Layer::BatchNorm2d(_) => &[NoMean, NoVariance, LastImage, Eps, Biased],
                Layer::Relu(_) => &[NoGate, Threshold, OneGate],
                Layer::MaxPool2d(_) => &[OtherPixel],
                Layer::Conv2d(_) => &[LastImage, OnePixel],
                _ => &[],
            };
            for &mistake in mistakes {
                let wrong = wrong_pass(&program, &x, &dlogits, &mut Wrong { step: &step.name, mistake });
                let own;
                let judge = if matches!(mistake, Eps | Threshold | OneGate) {
                    own = Judge::new(&engine, &model, &x, &dlogits, &wrong.choices);
                    &own
                } else {
                    &judge
                };
                let verdict = judge.verdict(&wrong);
                assert!(!verdict.wrong.is_empty(), "{}: {mistake:?} in {} passes", case.title(), step.name);
                rejected += 1;
            }
        }
        println!("{}: {rejected} mistakes rejected", case.title());
    }
}
