//! How rounding errors travel through many steps.
//!
//! The errors of one step are known element by element ([`super::rounding`]). Through twenty steps they are followed by
//! simulation, **before** the results to be checked are read:
//!
//! **Smooth part.** With its choices held fixed (which ReLUs are open, which pixels are maxima;
//! [`Replay`](crate::program::Replay)) a network is smooth, and small errors add like independent random numbers. The pass is
//! repeated a few times ([`runs`]) with an error drawn for every element of every result ([`Simulation`]), of the size that one
//! correct implementation makes. Let D be the deviations of an element in these passes, and s² the mean of D². Few runs
//! measure one element badly, but its neighbours well, so
//!
//! ```text
//! deviation = the largest of   s                                this element
//!                              rms of s over its channel        if s ≠ 0: an exact zero stays exact
//!                              κ · local error of this element  κ = rms s / rms of the local error: large terms err more
//! ```
//!
//! **Fragile norms.** A batch norm over few values divides by a deviation that may itself be little more than error: over two
//! values it returns ±1, and rounding decides the signs. Its derivative says nothing of that. So if [`MULTIPLE`] times the error
//! of a channel's values is half of what separates them or more ([`Deviations::fragile`]), the passes are repeated with
//! errors of that size drawn there ([`Simulation::widened`]), and the rest of the network shows what follows. Which signs change
//! is chance, and a few passes do not show all: then any element of a tensor may deviate as much as the one that does most.
//!
//! **Kinks.** Where |x| of a ReLU is within [`REACH`] standard deviations of 0, rounding decides whether its gate is open:
//! one correct implementation has dx = 0, another dx = dy. Such gates are listed, and so are the pixels of a max pool that may
//! be the maximum. They are dealt into at most [`GROUPS`] groups (in a block, [`GROUPS_OF_BLOCKS`]). For each group, backward is repeated with its gates turned;
//! the deviations of the groups are added without their signs. Two gates that cancel in one group count for nothing there: in
//! coarse types, where groups are large, the gates are dealt a second time, and the larger sum counts. A gate thus gives its tolerance to the elements that it
//! reaches, and to no others. What it passes on has an error of its own, which counts as well.
//!
//! ```text
//! tolerance = MULTIPLE · deviation + OF_KINKS · Σ over groups |deviation by kinks| + rounding of the result itself
//! ```

use super::arithmetic::Arithmetic;
use super::rounding::{self, Backward, Noise, Roots, Rounds, of_gradients, of_loss, of_result, target_weights, view};
use crate::Activation;
use crate::layers::{MaxPool2d, Mode, SoftmaxCrossEntropy};
use crate::parameters::Gradients;
use crate::program::{Disturb, Forward, Layer, Passage, Program, Step, Value};
use crate::rng::{Purpose, Rng, name_hash, normal, stream};
use crate::tensors::Tensor;
use ndarray::{Array1, Array2, ArrayD, ArrayViewMutD, Axis, Zip};
use std::collections::HashMap;

/// How many standard deviations of the simulation are allowed: more than of a single step, since it follows the errors through
/// steps in another order than the implementation.
pub const MULTIPLE: f64 = 12.0;

/// How often the deviation by kinks is allowed: the gates of a group may cancel.
pub const OF_KINKS: f64 = 3.0;

/// Passes with drawn errors, in a network.
const RUNS: u64 = 4;

/// The same in a program of at most [`SMALL`] steps, such as a block. There an element may have no like: behind a ReLU that is
/// nearly always closed, the few open pixels are measured by themselves. An error is larger than [`MULTIPLE`] times the rms of
/// four others once in 3,600 times (Student's t), and of sixteen once in 5·10⁸.
const RUNS_OF_BLOCKS: u64 = 16;

/// How many passes with drawn errors a program gets.
pub fn runs(program: &Program<f64>) -> u64 {
    if program.steps.len() <= SMALL { RUNS_OF_BLOCKS } else { RUNS }
}

/// Within this many standard deviations of the error from a kink, an element may be on either side of it.
pub const REACH: f64 = 8.0;

/// Groups of gates that are turned together, in a network.
pub const GROUPS: usize = 8;

/// The same in a program of at most [`SMALL`] steps, such as a block: there a few gates may be all that an element depends on,
/// and two in one group may cancel.
pub const GROUPS_OF_BLOCKS: usize = 64;

/// The steps of the largest block.
pub const SMALL: usize = 16;

/// The share of a bound that its error has as standard deviation: 2 u |y| bounds an error that is uniform in ± u |y|.
const OF_BOUND: f64 = 0.3;

/// Draws an error for every element of every result.
pub struct Simulation<'a> {
    arithmetic: Arithmetic,
    mode: Mode,
    loss: Option<SoftmaxCrossEntropy<f64>>,
    rng: Rng,
    /// Whether equal values get equal errors.
    alike: bool,
    /// Errors of this many times their size are drawn; 1 for one implementation.
    pub amplitude: f64,
    /// Errors that are added to the channels of the results of some steps, by their names.
    pub widened: &'a Widened,
    known: &'a mut Known,
}

/// Standard deviations of additional errors: of each channel of the results of some steps.
pub type Widened = HashMap<String, Array1<f64>>;

/// No additional errors.
pub static NOT_WIDENED: std::sync::LazyLock<Widened> = std::sync::LazyLock::new(Widened::new);

/// How many times too large the errors of `arithmetic` are drawn: the simulation itself computes in `f64`, which has to resolve
/// them. Deviations are proportional to errors as small as these.
pub fn amplitude(arithmetic: &Arithmetic) -> f64 {
    (2f64.powi(-41) / arithmetic.coarsest()).max(1.0)
}

/// What does not change from run to run.
#[derive(Default)]
pub struct Known {
    /// √Σ t² by the name of the step. They are those of the first pass with noise: a rounding error changes them by nothing.
    roots: HashMap<String, Roots>,
    /// The local error (standard deviation) of each result and gradient in the first run, by the name it has in a dump.
    local: HashMap<String, ArrayD<f64>>,
}

impl<'a> Simulation<'a> {
    /// Errors of `arithmetic`; every `run` draws others. In every second one equal values get equal errors: equal operands are
    /// rounded alike, and a constant channel stays constant. A batch norm after it divides by √eps then; errors of their own
    /// would be what it divides by.
    pub fn new(
        arithmetic: Arithmetic,
        mode: Mode,
        loss: Option<SoftmaxCrossEntropy<f64>>,
        run: u64,
        known: &'a mut Known,
    ) -> Self {
        let rng = stream(run, Purpose::Verify, &[name_hash("rounding")]);
        let alike = run % 2 == 1;
        Simulation { arithmetic, mode, loss, rng, alike, amplitude: 1.0, widened: &NOT_WIDENED, known }
    }

    /// Adds a drawn error to every element.
    fn draw(&mut self, noise: &Noise, mut result: ArrayViewMutD<'_, f64>) {
        let Simulation { rng, alike, amplitude, .. } = self;
        let salt = rng.next_u64();
        Zip::from(&mut result).and(&noise.each).and(&noise.bound).for_each(|x, &each, &bound| {
            let size = each.hypot(OF_BOUND * bound);
            if size > 0.0 {
                *x += *amplitude * size * if *alike { of_value(salt, *x) } else { normal(rng) };
            }
        });
        for shared in &noise.shared {
            let drawn = shared.size.mapv(|size| *amplitude * size * normal(rng));
            result += &(&shared.pattern * &drawn);
        }
    }

    /// A narrow type of operands rounds even values that are stored exactly.
    fn rounds(&self, x: bool) -> Rounds {
        let again = self.arithmetic.operands.unit_roundoff() > self.arithmetic.stored.unit_roundoff();
        // The weights are disturbed once for all products ([`disturbed`]).
        Rounds { x: again && x, weight: false, dy: again }
    }

    fn remember(&mut self, name: String, noise: &Noise) {
        self.known.local.entry(name).or_insert_with(|| noise.each.clone());
    }
}

fn view_mut(value: &mut Value<f64>) -> ArrayViewMutD<'_, f64> {
    match value {
        Value::Images(x) => x.view_mut().into_dyn(),
        Value::Rows(x) => x.view_mut().into_dyn(),
    }
}

/// Whether the step copies values: what was rounded before is not rounded again.
fn copies(step: &Step<f64>) -> bool {
    match &step.layer {
        Layer::Relu(relu) => !relu.is_leaky(),
        Layer::MaxPool2d(_) | Layer::ZeroPadShortcut(_) => true,
        _ => false,
    }
}

impl Disturb<f64> for Simulation<'_> {
    fn result(&mut self, step: &Step<f64>, reads: &[&Value<f64>], value: &mut Value<f64>) {
        if let Some(sizes) = self.widened.get(&step.name) {
            let (rng, amplitude) = (&mut self.rng, self.amplitude);
            for mut pixel in view_mut(value).rows_mut() {
                pixel.zip_mut_with(sizes, |x, size| *x += amplitude * size * normal(rng));
            }
        }
        if copies(step) {
            return;
        }
        let roots = self.known.roots.entry(step.name.clone()).or_default();
        if roots.forward(step, reads[0]).is_err() {
            return;
        }
        let rounds = self.rounds(true);
        let noise = of_result(step, reads, value, self.mode, &self.known.roots[&step.name], &self.arithmetic, rounds);
        self.draw(&noise, view_mut(value));
    }

    fn logits(&mut self, _: &mut Array2<f64>) {}

    fn loss(&mut self, logits: &Array2<f64>, target: &[usize], loss: &mut f64, dlogits: &mut Array2<f64>) {
        let Some(layer) = self.loss else { return };
        let q = target_weights(&layer, target, logits.ncols());
        let mut value = ArrayD::from_elem(ndarray::IxDyn(&[]), *loss);
        let noise = of_loss(
            logits,
            &q,
            &Array1::ones(q.nrows()),
            &value,
            dlogits,
            &self.arithmetic,
            rounding::roundings(&layer),
        );
        self.draw(&noise.dlogits, dlogits.view_mut().into_dyn());
        self.draw(&noise.loss, value.view_mut());
        *loss = value.sum();
    }

    fn gradients(
        &mut self,
        step: &Step<f64>,
        passage: Passage<'_, f64>,
        gradients: &mut [Value<f64>],
        parameters: &mut Gradients<f64>,
    ) {
        // An addition passes its gradient on; a max pool adds where windows overlap.
        if matches!(step.layer, Layer::Add) || copies(step) && !matches!(step.layer, Layer::MaxPool2d(_)) {
            return;
        }
        let roots = self.known.roots.entry(step.name.clone()).or_default();
        if roots.backward(step, passage.reads[0], passage.dy).is_err() {
            return;
        }
        let rounds = self.rounds(true);
        let noise = {
            let backward = Backward { reads: passage.reads, dy: passage.dy, dx: gradients, parameters };
            of_gradients(step, &backward, self.mode, &self.known.roots[&step.name], &self.arithmetic, rounds)
        };
        for (gradient, noise) in gradients.iter_mut().zip(&noise.reads) {
            self.draw(noise, view_mut(gradient));
        }
        for (name, noise) in &noise.parameters {
            let own = parameters.iter_mut().find(|(full, _)| full.rsplit('.').next() == Some(name));
            if let Some((full, gradient)) = own {
                let full = format!("grad_{full}");
                self.draw(noise, gradient.view_mut());
                self.remember(full, noise);
            }
        }
    }
}

impl Known {
    /// The local error of a tensor of the dump, if it is known.
    pub fn local(&self, name: &str) -> Option<&ArrayD<f64>> {
        self.local.get(name)
    }
}

/// The same program with its weights rounded at random, where they are no numbers of the operands' type: one error for
/// all products of a weight.
pub fn disturbed(program: &Program<f64>, arithmetic: &Arithmetic, run: u64) -> Program<f64> {
    let mut rng = stream(run, Purpose::Verify, &[name_hash("weights")]);
    let mut program = program.clone();
    for step in &mut program.steps {
        match &mut step.layer {
            Layer::Conv2d(conv) => round(conv.weight.view_mut().into_dyn(), arithmetic, &mut rng),
            Layer::Linear(linear) => round(linear.weight.view_mut().into_dyn(), arithmetic, &mut rng),
            Layer::BatchNorm2d(bn) => {
                round(bn.gamma.view_mut().into_dyn(), arithmetic, &mut rng);
                round(bn.beta.view_mut().into_dyn(), arithmetic, &mut rng);
            }
            _ => {}
        }
    }
    program
}

/// The same for images or a gradient that another program computed.
pub fn disturbed_tensor(tensor: &Tensor, arithmetic: &Arithmetic, run: u64) -> Tensor {
    let Some(mut array) = tensor.to_real::<f64>() else { return tensor.clone() };
    round(array.view_mut(), arithmetic, &mut stream(run, Purpose::Verify, &[name_hash("input")]));
    array.into()
}

/// Rounds to the type of the operands: equal values alike.
fn round(mut x: ArrayViewMutD<'_, f64>, arithmetic: &Arithmetic, rng: &mut Rng) {
    let (u, salt) = (arithmetic.operands.unit_roundoff(), rng.next_u64());
    let rounded = |x: f64| x * (1.0 + u / 3f64.sqrt() * of_value(salt, x));
    x.mapv_inplace(|x| if arithmetic.operands.contains(x) { x } else { rounded(x) });
}

/// A normal number that depends on `x`.
fn of_value(salt: u64, x: f64) -> f64 {
    normal(&mut stream(salt, Purpose::Verify, &[x.to_bits()]))
}

/// The deviations of one tensor: means over all runs.
#[derive(Clone, Debug)]
pub struct Deviations {
    /// Of D².
    squares: ArrayD<f64>,
    /// Whether the channel is the first axis (a weight), the second (a result) or none (a vector).
    channel: Option<Axis>,
    /// Of the squares of Σ error · value and of Σ error.
    whole: [f64; 2],
}

impl Deviations {
    /// Those of a tensor of this name and shape, as a dump has it: (N, C, H, W).
    pub fn new(name: &str, shape: &[usize]) -> Self {
        let of_values = ["output", "grad_output", "grad_input"].iter().any(|start| name.starts_with(start));
        let channel = match shape.len() {
            4 if of_values => Some(Axis(1)),
            4 => Some(Axis(0)),
            _ => None,
        };
        Deviations { squares: ArrayD::zeros(shape), channel, whole: [0.0; 2] }
    }

    /// Adds those of one of `runs` passes, whose errors were drawn `amplitude` times too large.
    pub fn add(&mut self, exact: &ArrayD<f64>, noisy: &ArrayD<f64>, amplitude: f64, runs: u64) {
        let share = 1.0 / runs as f64;
        Zip::from(&mut self.squares).and(exact).and(noisy).for_each(|squares, &exact, &noisy| {
            *squares += share * (difference(exact, noisy) / amplitude).powi(2);
        });
        for (whole, sum) in self.whole.iter_mut().zip(sums(exact, noisy)) {
            *whole += share * (sum / amplitude).powi(2);
        }
    }

    /// The error of the values of each channel times [`MULTIPLE`], if that can change what a batch norm in training makes of
    /// them: the channels' x, (N, H, W, C), and their eps. Of m values the deviation σ is known to about error/√m.
    pub fn fragile(&self, x: &Activation<f64>, eps: f64) -> Option<Array1<f64>> {
        let (channel, count) = (self.channel?, (x.len() / x.shape()[3].max(1)) as f64);
        let sizes = self.squares.axis_iter(channel).zip(x.axis_iter(Axis(3))).map(|(squares, x)| {
            let error = MULTIPLE * (squares.sum() / squares.len().max(1) as f64).sqrt();
            let apart = (x.var(0.0) + eps).sqrt() * count.sqrt();
            if error >= 0.5 * apart { error } else { 0.0 }
        });
        let sizes: Array1<f64> = sizes.collect();
        sizes.iter().any(|size| *size > 0.0 && size.is_finite()).then_some(sizes)
    }

    /// The larger deviation of each element: larger errors may make others smaller, since a norm divides by them.
    pub fn or(mut self, other: &Deviations) -> Self {
        self.squares.zip_mut_with(&other.squares, |own, &other| *own = larger(*own, other));
        self.whole.iter_mut().zip(other.whole).for_each(|(own, other)| *own = own.max(other));
        self
    }

    /// √(mean of squares) over the runs of Σ error · value and of Σ error.
    pub fn whole(&self) -> [f64; 2] {
        self.whole.map(f64::sqrt)
    }

    /// The deviation of each element; see the [module documentation](self). `fragile`: behind a fragile norm.
    pub fn deviation(self, local: Option<&ArrayD<f64>>, fragile: bool) -> ArrayD<f64> {
        let Deviations { mut squares, channel, .. } = self;
        if fragile {
            let most = squares.iter().copied().filter(|s| s.is_finite()).fold(0.0, f64::max);
            squares.mapv_inplace(|s| if s == 0.0 { 0.0 } else { larger(s, most) });
        }
        let mean = |squares: ndarray::ArrayViewD<'_, f64>| {
            let (sum, count) =
                squares.iter().filter(|s| s.is_finite()).fold((0.0, 0usize), |(sum, n), s| (sum + s, n + 1));
            sum / count.max(1) as f64
        };
        let pooled = |mut own: ArrayViewMutD<'_, f64>| {
            let mean = mean(own.view());
            own.mapv_inplace(|s| if s == 0.0 { 0.0 } else { larger(s, mean) });
        };
        let whole = mean(squares.view());
        match channel {
            Some(axis) => squares.axis_iter_mut(axis).for_each(pooled),
            None => pooled(squares.view_mut()),
        }
        if let Some(local) = local.filter(|local| local.shape() == squares.shape()) {
            let size = mean(local.mapv(|local| local * local).view());
            if size > 0.0 {
                let growth = (whole / size).max(1.0);
                Zip::from(&mut squares).and(local).for_each(|s, &local| *s = larger(*s, growth * local * local));
            }
        }
        squares.mapv_into(f64::sqrt)
    }
}

/// Σ error · value and Σ error, of the finite elements.
pub fn sums(exact: &ArrayD<f64>, other: &ArrayD<f64>) -> [f64; 2] {
    let pairs = exact.iter().zip(other).map(|(&exact, &other)| (exact, other - exact));
    let finite = pairs.filter(|(exact, error)| exact.is_finite() && error.is_finite());
    finite.fold([0.0; 2], |[products, sum], (exact, error)| [products + exact * error, sum + error])
}

/// The larger of two values, or NaN if the first is NaN.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// |a − b|; NaN or infinite if only one of two elements is finite. Equal infinities and two NaN do not differ.
pub fn difference(a: f64, b: f64) -> f64 {
    if a == b || a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() }
}

/// The gates that rounding can turn; see the [module documentation](self).
pub struct Kinks<'a> {
    exact: &'a Forward<f64>,
    /// By the name of the step: the mean over all runs of the squared deviations of its input, element by element.
    squares: HashMap<String, ArrayD<f64>>,
    /// The same as a reach; filled by [`Kinks::settle`].
    reach: HashMap<String, ArrayD<f64>>,
    /// The number of the first gate of each step, and of all gates.
    first: HashMap<String, usize>,
    count: usize,
    /// Which group is turned now.
    group: usize,
    /// In which way the gates are dealt into groups.
    dealing: usize,
    /// By the name of the step: how far the gradient of its result may be off.
    uncertain: HashMap<String, ArrayD<f64>>,
    /// Whether the program has a fragile norm in this pass.
    pub fragile: bool,
}

impl<'a> Kinks<'a> {
    /// The kinks of a program in the pass `exact`.
    pub fn new(exact: &'a Forward<f64>) -> Self {
        let (squares, reach, first) = (HashMap::new(), HashMap::new(), HashMap::new());
        Kinks {
            exact,
            squares,
            reach,
            first,
            count: 0,
            group: 0,
            dealing: 0,
            uncertain: HashMap::new(),
            fragile: false,
        }
    }

    /// Measures how far the input of each kink deviates, in one of `runs` passes, whose errors were drawn `amplitude` times too
    /// large.
    pub fn observe(&mut self, program: &Program<f64>, noisy: &Forward<f64>, amplitude: f64, runs: u64) {
        for step in &program.steps {
            if matches!(step.layer, Layer::Relu(_) | Layer::MaxPool2d(_)) {
                let [exact, noisy] = [self.exact, noisy].map(|pass| view(&pass.values[step.reads[0]]));
                let squares = self.squares.entry(step.name.clone()).or_insert_with(|| ArrayD::zeros(exact.raw_dim()));
                Zip::from(squares).and(&exact).and(&noisy).for_each(|squares, &exact, &noisy| {
                    *squares += (difference(exact, noisy) / amplitude).powi(2) / runs as f64;
                });
            }
        }
    }

    /// Finds the gates within reach.
    pub fn settle(&mut self, program: &Program<f64>) {
        for step in &program.steps {
            let Some(squares) = self.squares.remove(&step.name) else { continue };
            let x = &self.exact.values[step.reads[0]];
            // The pixels of a channel share errors: so few runs measure a channel badly, but all of them together well.
            let mean = squares.iter().filter(|s| s.is_finite()).sum::<f64>() / squares.len().max(1) as f64;
            let channel = Some(Axis(squares.ndim() - 1));
            let own = Deviations { squares, channel, whole: [0.0; 2] }.deviation(None, self.fragile);
            let mut reach = own.mapv_into(|s| if s == 0.0 { 0.0 } else { REACH * larger(s, mean.sqrt()) });
            if let (Layer::MaxPool2d(_), Value::Images(x)) = (&step.layer, x) {
                // An exact 0 after a ReLU, whose own gate is within reach, may be positive: let it reach as far.
                if let Some(relu) = step.reads[0].checked_sub(1).map(|index| &program.steps[index])
                    && let (Layer::Relu(_), Some(before)) = (&relu.layer, self.reach.get(&relu.name))
                {
                    let input = view(&self.exact.values[relu.reads[0]]);
                    Zip::from(&mut reach).and(&input).and(before).and(&x.view().into_dyn()).for_each(
                        |reach, &input, &before, &x| {
                            if x == 0.0 {
                                *reach = (input + before).max(0.0);
                            }
                        },
                    );
                }
            }
            self.first.insert(step.name.clone(), self.count);
            let mut count = 0;
            match (&step.layer, x) {
                (Layer::Relu(_), x) => {
                    Zip::from(&view(x)).and(&reach).for_each(|x, reach| count += usize::from(x.abs() < *reach))
                }
                (Layer::MaxPool2d(pool), Value::Images(x)) => near_ties(pool, x, &reach, |_, _, _| count += 1),
                _ => {}
            }
            self.count += count;
            self.reach.insert(step.name.clone(), reach);
        }
    }

    /// How many groups there are; 0 if rounding can turn no gate.
    pub fn groups(&self) -> usize {
        let most = if self.exact.values.len() <= SMALL + 1 { GROUPS_OF_BLOCKS } else { GROUPS };
        self.count.min(most)
    }

    /// Allows for an error of the gradient that a turned gate passes on: of the result of the step `name`, in the layout of
    /// this crate.
    pub fn allow(&mut self, name: &str, error: ArrayD<f64>) {
        if self.reach.contains_key(name) {
            self.uncertain.insert(name.to_string(), error);
        }
    }

    /// Deals the gates into other groups.
    pub fn deal_again(&mut self) {
        self.dealing += 1;
    }

    /// Turns the gates of this group from now on.
    pub fn turn(&mut self, group: usize) {
        self.group = group;
    }

    /// By how much the result of a ReLU may differ where its gate is within reach, in addition to the smooth part: a closed
    /// gate may let x + reach through. 0 for every other step.
    pub fn of_result(&self, step: &Step<f64>) -> Option<ArrayD<f64>> {
        let (Layer::Relu(relu), Some(reach)) = (&step.layer, self.reach.get(&step.name)) else { return None };
        let mut more = reach.clone();
        let x = &self.exact.values[step.reads[0]];
        Zip::from(&mut more).and(&view(x)).for_each(|reach, &x| {
            *reach =
                if x.abs() < *reach { (x + *reach).max(0.0).min(*reach) * (1.0 - relu.slope()).abs() } else { 0.0 };
        });
        Some(more)
    }
}

impl Disturb<f64> for Kinks<'_> {
    fn result(&mut self, _: &Step<f64>, _: &[&Value<f64>], _: &mut Value<f64>) {}

    fn logits(&mut self, _: &mut Array2<f64>) {}

    fn gradients(
        &mut self,
        step: &Step<f64>,
        passage: Passage<'_, f64>,
        gradients: &mut [Value<f64>],
        _: &mut Gradients<f64>,
    ) {
        let (Some(reach), Some(&first)) = (self.reach.get(&step.name), self.first.get(&step.name)) else { return };
        let (groups, alone) = (self.groups().max(1), self.count <= self.groups());
        let mut gate = first;
        let mut turned = || {
            gate += 1;
            // Dealt in turn, the gates of a channel would all be in one group: channels are often a power of two.
            let dealt = if alone { gate } else { dealt(gate, self.dealing) };
            dealt % groups == self.group % groups
        };
        match (&step.layer, passage.reads[0], passage.dy, &mut gradients[0]) {
            (Layer::Relu(relu), x, dy, dx) => {
                // `Zip` may visit the elements in any order; the gates have numbers.
                let (x, dy) = (view(x), view(dy));
                let mut dx = view_mut(dx);
                let mut errors = self.uncertain.get(&step.name).map(|errors| errors.iter());
                let elements = x.iter().zip(reach).zip(&dy).zip(&mut dx);
                for (((x, reach), dy), dx) in elements {
                    let error = errors.as_mut().and_then(Iterator::next).copied().unwrap_or(0.0);
                    if x.abs() < *reach && turned() {
                        let more = error.copysign(*dy) * (1.0 - relu.slope());
                        *dx = if *x > 0.0 { relu.slope() * dy - more } else { dy + more };
                    }
                }
            }
            (Layer::MaxPool2d(pool), Value::Images(x), Value::Images(dy), Value::Images(dx)) => {
                near_ties(pool, x, reach, |y, a, b| {
                    if turned() {
                        dx[a] -= dy[y];
                        dx[b] += dy[y];
                    }
                });
            }
            _ => {}
        }
    }
}

/// A number of a gate that says nothing of its place, another in each dealing.
fn dealt(gate: usize, dealing: usize) -> usize {
    let mixed = gate.wrapping_mul(0x9e37_79b9).wrapping_add(dealing.wrapping_mul(0x85eb_ca6b)) & 0xffff_ffff;
    (mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d) >> 12 & 0xffff
}

/// Calls `found(y, a, b)` with the indices of each window of x and of two of its pixels: a is the largest, and b another
/// that is smaller by less than the two of them can deviate. Equal pixels of which neither can do not depend on
/// rounding: the first wins.
fn near_ties(
    pool: &MaxPool2d,
    x: &Activation<f64>,
    reach: &ArrayD<f64>,
    mut found: impl FnMut([usize; 4], [usize; 4], [usize; 4]),
) {
    let (n, h, w, channels) = x.dim();
    let Ok([_, h_out, w_out, _]) = pool.output_shape(&[n, h, w, channels]) else { return };
    // Row or column `tap` of window `at`, if it is not in the padding.
    let place = |axis: usize, at: usize, tap: usize, size: usize| {
        let place = (at * pool.stride[axis] + tap * pool.dilation[axis]).checked_sub(pool.padding[axis])?;
        (place < size).then_some(place)
    };
    for y in ndarray::indices([n, h_out, w_out, channels]) {
        let (image, i, j, c) = y;
        let pixels = || {
            ndarray::indices(pool.kernel)
                .into_iter()
                .filter_map(|(p, q)| Some([image, place(0, i, p, h)?, place(1, j, q, w)?, c]))
        };
        let Some(a) = pixels().reduce(|a, b| if x[b] > x[a] { b } else { a }) else { continue };
        for b in pixels().filter(|&b| b != a) {
            if x[a] - x[b] < reach[a] + reach[b] {
                found([image, i, j, c], a, b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Undisturbed;
    use ndarray::arr1;

    #[test]
    fn what_is_not_finite_is_no_small_difference() {
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        assert_eq!((difference(1.0, 1.5), difference(nan, nan), difference(infinite, infinite)), (0.5, 0.0, 0.0));
        assert!(difference(nan, 1.0).is_nan() && difference(1.0, nan).is_nan());
        assert_eq!((difference(infinite, 1.0), difference(infinite, -infinite)), (infinite, infinite));
        assert!(larger(nan, 1.0).is_nan() && larger(1.0, 2.0) == 2.0 && larger(2.0, 1.0) == 2.0);
        assert_eq!(sums(&arr1(&[2.0, nan, infinite]).into_dyn(), &arr1(&[3.0, 1.0, 1.0]).into_dyn()), [2.0, 1.0]);
    }

    /// One element measured by chance as too good is corrected by its neighbours and by its own terms; an exact zero stays.
    #[test]
    fn a_deviation_is_that_of_the_element_its_channel_and_its_terms() {
        let exact = arr1(&[1.0, 1.0, 1.0, 0.0]).into_dyn();
        let mut deviations = Deviations::new("grad_bias", &[4]);
        for _ in 0..RUNS {
            deviations.add(&exact, &(&exact + &arr1(&[3e-3, 1e-3, 0.5e-3, 0.0])), 1.0, RUNS);
        }
        let rms = ((9.0 + 1.0 + 0.25) / 4.0f64).sqrt() * 1e-3;
        let close = |a: &ArrayD<f64>, b: [f64; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(&deviations.clone().deviation(None, false), [3e-3, rms, rms, 0.0]));
        // Locally the third has ten times the error of the others.
        let local = arr1(&[1e-4, 1e-4, 1e-3, 0.0]).into_dyn();
        let growth = rms / (1.02e-6f64 / 4.0).sqrt();
        assert!(close(&deviations.deviation(Some(&local), false), [3e-3, rms, growth * 1e-3, 0.0]));
    }

    /// The error of an element without like is within the multiple of its deviation in the passes of a block.
    #[test]
    fn an_element_by_itself_is_measured_well_enough() {
        let mut rng = stream(0, Purpose::Verify, &[name_hash("alone")]);
        let mut block = Program::new();
        block.push("relu", Layer::Relu(crate::layers::Relu::new()), 0);
        let exact = arr1(&[0.0]).into_dyn();
        let mut largest = 0.0f64;
        for _ in 0..20_000 {
            let mut deviations = Deviations::new("output", &[1]);
            for _ in 0..runs(&block) {
                deviations.add(&exact, &arr1(&[normal(&mut rng)]).into_dyn(), 1.0, runs(&block));
            }
            largest = largest.max(normal(&mut rng).abs() / deviations.deviation(None, false)[[0]]);
        }
        assert!((3.0..MULTIPLE).contains(&largest), "{largest}");
    }

    /// In every second run equal values have one error, and as operands in all runs; others have errors of their own.
    #[test]
    fn equal_values_are_rounded_alike() {
        let exact = arr1(&[1.3, 1.3, 1.4]).into_dyn();
        for run in 0..4 {
            let mut known = Known::default();
            let mut simulation = Simulation::new(Arithmetic::BF16, Mode::Train, None, run, &mut known);
            let mut result = exact.clone();
            let each = exact.mapv(|x| x * Arithmetic::BF16.stored.unit_roundoff());
            let noise = Noise { bound: ArrayD::zeros(each.raw_dim()), each, shared: Vec::new(), systematic: 0.0 };
            simulation.draw(&noise, result.view_mut());
            let Some(operand) = disturbed_tensor(&exact.clone().into(), &Arithmetic::BF16, run).to_real::<f64>() else {
                panic!("a tensor of real numbers")
            };
            let error = |x: &ArrayD<f64>, i: usize| x[[i]] / exact[[i]] - 1.0;
            assert_eq!(result[[0]] == result[[1]], run % 2 == 1, "{run}: {result}");
            assert_eq!(operand[[0]], operand[[1]]);
            for x in [&result, &operand] {
                assert!(error(x, 0) != 0.0 && (error(x, 0) - error(x, 2)).abs() > 1e-6, "{run}: {x}");
            }
        }
    }

    #[test]
    fn near_ties_are_those_of_the_definition() {
        // Windows of 3x3 with stride 2 and padding.
        let x = Activation::from_shape_fn((2, 5, 6, 2), |(n, i, j, c)| ((31 * n + 7 * i + 11 * j + 5 * c) % 17) as f64);
        let pool = MaxPool2d::new([3, 3], [2, 2], [1, 1]);
        let (y, _) = pool.forward(&x).unwrap();
        let reach = |size| ArrayD::from_elem(vec![2, 5, 6, 2], size);
        let mut found = 0;
        near_ties(&pool, &x, &reach(0.75), |at, a, b| {
            assert!(x[a] == y[at] && x[b] >= y[at] - 1.0 && a != b, "{at:?}");
            for (axis, size) in [(1, 3), (2, 3)] {
                let begin = (2 * at[axis] as isize) - 1;
                for place in [a, b] {
                    assert!((begin..begin + size).contains(&(place[axis] as isize)), "{at:?}: {place:?}");
                }
            }
            found += 1;
        });
        let mut expected = 0;
        for ((n, i, j, c), y) in y.indexed_iter() {
            let window = (0..9).filter_map(|tap| {
                let at = [(2 * i + tap / 3).checked_sub(1)?, (2 * j + tap % 3).checked_sub(1)?];
                x.get([n, at[0], at[1], c]).copied()
            });
            expected += window.filter(|&x| x >= y - 1.0).count() - 1;
        }
        assert!(found == expected && found > 0, "{found} and {expected}");
        // Equal pixels that do not depend on rounding are no tie.
        near_ties(&pool, &x, &reach(0.0), |at, _, _| panic!("{at:?}: nothing can deviate"));
    }

    /// Of two values that are ±σ apart from their mean, an error of σ decides the sign.
    #[test]
    fn a_norm_over_values_that_rounding_separates_is_fragile() {
        let x = ndarray::arr3(&[[[1.0, 1e-3]], [[-1.0, -1e-3]]]).insert_axis(Axis(1)).into_shared();
        let mut deviations = Deviations::new("output.conv", &[2, 2, 1, 1]);
        for _ in 0..RUNS {
            let exact = ArrayD::zeros(vec![2, 2, 1, 1]);
            deviations.add(&exact, &(&exact + 1e-3), 1.0, RUNS);
        }
        let sizes = deviations.fragile(&x, 0.0).unwrap();
        assert!(sizes[0] == 0.0 && (sizes[1] - MULTIPLE * 1e-3).abs() < 1e-12, "{sizes}");
        // A large eps is under the root as well: nothing is fragile.
        assert!(deviations.fragile(&x, 1.0).is_none());
        // The larger deviation of two rounds counts.
        let larger = deviations.clone().or(&Deviations::new("output.conv", &[2, 2, 1, 1]));
        assert_eq!(larger.squares, deviations.squares);
    }

    /// Every ReLU within reach of 0 is turned in exactly one group, and one beyond it in none.
    #[test]
    fn gates_within_reach_are_turned_once() {
        let x = Activation::from_shape_vec((1, 1, 1, 5), vec![1e-7, -1e-7, 0.5, -0.5, 2e-7]).unwrap();
        let mut program = Program::new();
        program.push("relu", Layer::Relu(crate::layers::Relu::new()), 0);
        let forward = |x: &Activation<f64>| program.forward(Value::Images(x.clone()), Mode::Train, &mut Undisturbed);
        let exact = forward(&x).unwrap();
        let mut kinks = Kinks::new(&exact);
        for _ in 0..RUNS {
            kinks.observe(&program, &forward(&(&x + 1e-7).into_shared()).unwrap(), 1.0, RUNS);
        }
        kinks.settle(&program);
        assert_eq!(kinks.groups(), 3);
        let dy = Activation::from_shape_vec((1, 1, 1, 5), vec![1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let right = [1.0, 0.0, 3.0, 0.0, 5.0];
        let mut turned = [0.0; 5];
        for group in 0..kinks.groups() {
            kinks.turn(group);
            let backward = program.backward(Value::Images(dy.clone()), &exact, &mut kinks).unwrap();
            let Some(Value::Images(dx)) = &backward.values[0] else { panic!("no dx") };
            turned.iter_mut().zip(dx.iter().zip(right)).for_each(|(sum, (dx, right))| *sum += dx - right);
        }
        assert_eq!(turned, [-1.0, 2.0, 0.0, 0.0, -5.0]);
        // A closed gate may let something through: no more than its reach above x.
        let more = kinks.of_result(&program.steps[0]).unwrap();
        assert!(more[[0, 0, 0, 1]] > 6e-7 && more[[0, 0, 0, 1]] < 8e-7 && more[[0, 0, 0, 2]] == 0.0, "{more}");
    }

    /// The simulation draws errors that its own arithmetic, `f64`, resolves.
    #[test]
    fn errors_of_f64_are_drawn_enlarged() {
        assert_eq!((amplitude(&Arithmetic::F32), amplitude(&Arithmetic::BF16)), (1.0, 1.0));
        assert_eq!(amplitude(&Arithmetic::F64), 4096.0);
    }
}
