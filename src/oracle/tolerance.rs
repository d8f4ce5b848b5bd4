//! The tolerances of a dump: of one step its own rounding ([`super::rounding`]), of many the rounding that travels through them
//! ([`super::simulation`]).

use super::arithmetic::Arithmetic;
use super::diagnose::Mistake;
use super::dump::{Goal, Request, Step, emit, inner, reshaped, step, tolerance_name, whole_key};
use super::rounding::{
    self, Allowed, Noise, Roots, Rounds, of_gradients, of_loss, of_result, of_running_statistics, target_weights, view,
};
use super::simulation::{
    Deviations, Kinks, Known, MULTIPLE, OF_KINKS, Simulation, Widened, amplitude, difference, disturbed,
    disturbed_tensor, runs, sums,
};
use crate::Result;
use crate::layers::{Mode, SoftmaxCrossEntropy};
use crate::parameters::{Parameters as _, join};
use crate::program::{self, Both, Choice, Disturb, Layer, Program, Record, Replay, Undisturbed, Value};
use crate::tensors::{Tensor, Tensors, Values};
use ndarray::{Array1, Array2, ArrayD, Axis, Zip, arr0};
use std::collections::HashMap;
use std::fmt::Write as _;

/// The dump in `f64`, with or without a mistake, and the tolerances of its tensors, under their names.
///
/// # Errors
/// As [`dump`](super::dump::dump).
pub(super) fn with_tolerances(
    program: &Program<f64>,
    input: &Tensor,
    request: &Request,
    mistake: Option<Mistake>,
    arithmetics: &[Arithmetic],
) -> Result<(Tensors, Vec<Tolerances>)> {
    let program = program.cast();
    let exact = Exact::new(&program, input, request, mistake)?;
    let tolerances = arithmetics.iter().map(|arithmetic| {
        let of_tensors = exact.tensors.names().map(str::to_string).zip(exact.tolerances(arithmetic)?).collect();
        Ok(Tolerances { arithmetic: *arithmetic, of_tensors })
    });
    let tolerances = tolerances.collect::<Result<_>>()?;
    Ok((exact.tensors, tolerances))
}

/// The tolerances of the tensors of a dump, by their names.
#[derive(Clone, Debug)]
pub(super) struct Tolerances {
    pub arithmetic: Arithmetic,
    pub of_tensors: Vec<(String, Allowed)>,
}

impl Tolerances {
    /// Adds them to the dump.
    pub fn attach(&self, dump: &mut Tensors) {
        let Tolerances { arithmetic, of_tensors } = self;
        let [mut factors, mut means] = [(); 2].map(|()| String::new());
        for (name, allowed) in of_tensors {
            dump.insert(tolerance_name(arithmetic, name), allowed.each.mapv(rounded_up));
            writeln!(factors, "{name} {:e}", allowed.factor).expect("a text can grow");
            writeln!(means, "{name} {:e}", allowed.mean).expect("a text can grow");
        }
        let arithmetic = arithmetic.to_string();
        dump.metadata.insert(whole_key("factor", &arithmetic), factors);
        dump.metadata.insert(whole_key("mean", &arithmetic), means);
    }
}

/// The next `f32` that is not smaller; infinite if it is no number: then there is no bound.
fn rounded_up(tolerance: f64) -> f32 {
    let single = tolerance as f32;
    match tolerance.is_nan() {
        true => f32::INFINITY,
        false if f64::from(single) < tolerance => single.next_up(),
        false => single,
    }
}

/// Above this unit roundoff so many gates can turn that their effects on each other count.
const COARSE: f64 = 1e-6;

/// Receives the place of a tensor in the dump, its exact value and another one.
type Each<'a> = dyn FnMut(usize, &ArrayD<f64>, &ArrayD<f64>) + 'a;

/// The deviation of a tensor by kinks: the sums over the groups of |deviation|, and of |Σ deviation · value| and
/// |Σ deviation|.
#[derive(Clone, Debug)]
struct ByKinks {
    each: ArrayD<f64>,
    whole: [f64; 2],
}

impl ByKinks {
    /// The larger of two of each element.
    fn or(own: &mut Option<ByKinks>, other: Option<ByKinks>) {
        let (Some(own), Some(other)) = (own, other) else { return };
        let larger = |own: &mut f64, other: f64| *own = if other > *own || other.is_nan() { other } else { *own };
        own.each.zip_mut_with(&other.each, |own, &other| larger(own, other));
        own.whole.iter_mut().zip(other.whole).for_each(|(own, other)| larger(own, other));
    }
}

/// The pass without noise, its dump, and what is needed to repeat the backward pass.
struct Exact<'a> {
    program: &'a Program<f64>,
    input: &'a Tensor,
    request: &'a Request,
    /// The mistake made in every pass.
    mistake: Option<Mistake>,
    tensors: Tensors,
    first: Step<f64>,
}

impl<'a> Exact<'a> {
    fn new(
        program: &'a Program<f64>,
        input: &'a Tensor,
        request: &'a Request,
        mistake: Option<Mistake>,
    ) -> Result<Self> {
        let first = with(mistake, &mut Undisturbed, |disturb| step(program, input, request, disturb))?;
        let mut tensors = Tensors::new();
        let sink = &mut |name, tensor| tensors.insert(name, tensor);
        with(mistake, &mut Undisturbed, |disturb| emit(program, input, request, &first, disturb, sink))?;
        Ok(Exact { program, input, request, mistake, tensors, first })
    }

    /// The tolerances of every tensor of the dump, in its order.
    fn tolerances(&self, arithmetic: &Arithmetic) -> Result<Vec<Allowed>> {
        let single = match self.request.goal {
            Goal::CrossEntropy { .. } => self.program.steps.is_empty(),
            _ => self.program.steps.len() <= 1,
        };
        if single && self.request.steps == 0 {
            let mut found = self.of_one_step(arithmetic)?;
            let nothing = |tensor: &Tensor| Allowed { each: ArrayD::zeros(tensor.shape()), factor: 0.0, mean: 0.0 };
            let own = |(name, tensor): (&str, &Tensor)| {
                let own = found.remove(name).unwrap_or_else(|| nothing(tensor));
                match self.request.shape {
                    Some(_) => Allowed { each: reshaped(&own.each, tensor.shape()), ..own },
                    None => own,
                }
            };
            return Ok(self.tensors.iter().map(own).collect());
        }
        self.of_many_steps(arithmetic)
    }

    fn loss(&self) -> Option<SoftmaxCrossEntropy<f64>> {
        match &self.request.goal {
            Goal::CrossEntropy { loss, .. } => Some(*loss),
            _ => None,
        }
    }

    /// Of one layer: its own rounding.
    fn of_one_step(&self, arithmetic: &Arithmetic) -> Result<HashMap<String, Allowed>> {
        let Step { forward, loss, backward } = &self.first;
        let mut found = HashMap::new();
        let x = &forward.values[0];
        if let (Goal::CrossEntropy { target, loss: layer }, Value::Rows(logits), Some(loss), Some(backward)) =
            (&self.request.goal, x, loss, backward)
            && let Some(Value::Rows(dlogits)) = &backward.values[0]
        {
            let (q, loss) = (target_weights(layer, target, logits.ncols()), arr0(*loss).into_dyn());
            let noise =
                of_loss(logits, &q, &Array1::ones(q.nrows()), &loss, dlogits, arithmetic, rounding::roundings(layer));
            found.insert("loss".to_string(), noise.loss.allowed(loss.view(), arithmetic, None));
            found.insert("grad_input".to_string(), noise.dlogits.allowed(dlogits.view().into_dyn(), arithmetic, None));
        }
        let Some(step) = self.program.steps.first() else { return Ok(found) };
        let (reads, mode) = (vec![x; step.reads.len()], self.request.mode);
        let dy = backward.as_ref().and_then(|backward| backward.values[1].as_ref());
        let (mut roots, rounds) = (Roots::default(), Rounds::of(step, x, dy, arithmetic));
        roots.forward(step, x)?;
        let y = &forward.values[1];
        let noise = of_result(step, &reads, y, mode, &roots, arithmetic, rounds);
        let of_value = |noise: &Noise, value: &Value<f64>, rounds: bool| {
            let values = view(value);
            let channel = rounds.then(|| Axis(values.ndim() - 1));
            let Allowed { each, factor, mean } = noise.allowed(values, arithmetic, channel);
            Allowed { each: in_dump_layout(each), factor, mean }
        };
        found.insert("output".to_string(), of_value(&noise, y, rounds.x || rounds.weight));
        if let (Some(dy), Some(backward)) = (dy, backward) {
            roots.backward(step, x, dy)?;
            let dx: Vec<Value<f64>> = backward.values[0].iter().cloned().collect();
            let passage = rounding::Backward { reads: &reads, dy, dx: &dx, parameters: &backward.parameters };
            let noise = of_gradients(step, &passage, mode, &roots, arithmetic, rounds);
            if let ([of_dx, ..], [dx, ..]) = (noise.reads.as_slice(), dx.as_slice()) {
                let mut allowed = of_value(of_dx, dx, rounds.dy || rounds.weight);
                allowed.each = inner(self.request.padding, allowed.each);
                found.insert("grad_input".to_string(), allowed);
            }
            for (name, noise) in &noise.parameters {
                let full = join(&step.name, name);
                if let Some(gradient) = backward.parameters.get(&full) {
                    let channel = (rounds.dy || rounds.x).then_some(Axis(0));
                    found.insert(format!("grad_{full}"), noise.allowed(gradient.view(), arithmetic, channel));
                }
            }
        }
        found.extend(self.of_running_statistics(arithmetic));
        Ok(found)
    }

    /// The rounding of each running statistic by itself.
    fn of_running_statistics(&self, arithmetic: &Arithmetic) -> HashMap<String, Allowed> {
        let mut found = HashMap::new();
        if self.request.mode == Mode::Eval {
            return found;
        }
        for step in &self.program.steps {
            let names = ["running_mean", "running_var"].map(|name| join(&step.name, name));
            let (Layer::BatchNorm2d(bn), Value::Images(x)) = (&step.layer, &self.first.forward.values[step.reads[0]])
            else {
                continue;
            };
            let after = names.each_ref().map(|name| self.tensors.get(name).map(float64));
            let [Some(mean), Some(var)] = after else { continue };
            let noise = of_running_statistics(bn, x, [mean.view(), var.view()], arithmetic);
            for ((name, noise), after) in names.into_iter().zip(noise).zip([mean, var]) {
                found.insert(name, noise.allowed(after.view(), arithmetic, None).of_one_cause(after.view()));
            }
        }
        found
    }

    /// Of many steps: by simulation.
    fn of_many_steps(&self, arithmetic: &Arithmetic) -> Result<Vec<Allowed>> {
        let mut known = Known::default();
        let (deviations, mut kinks) = self.simulate(arithmetic, &mut known)?;
        kinks.settle(self.program);
        let wholes: Vec<[f64; 2]> = deviations.iter().map(Deviations::whole).collect();
        let smooth = self.tensors.names().zip(deviations);
        let smooth: Vec<ArrayD<f64>> =
            smooth.map(|(name, own)| own.deviation(known.local(name), kinks.fragile) * MULTIPLE).collect();

        let mut by_kinks = self.turn(&mut kinks, &smooth, &[])?;
        if arithmetic.coarsest() > COARSE {
            // So many gates turn that what one passes on depends on the others.
            // And two that cancel in one group are in different ones then.
            kinks.deal_again();
            let again = self.turn(&mut kinks, &smooth, &by_kinks)?;
            by_kinks.iter_mut().zip(again).for_each(|(own, again)| ByKinks::or(own, again));
        }
        let own = self.of_single_tensors(arithmetic, &kinks);
        let before = if self.request.steps == 0 { HashMap::new() } else { parameters(self.program) };
        let (u, underflow) = (arithmetic.stored.unit_roundoff(), arithmetic.stored.underflow());
        let products = |step: &&program::Step<f64>| matches!(step.layer, Layer::Conv2d(_) | Layer::Linear(_));
        let depth = self.program.steps.iter().filter(products).count();
        let (bias, both) = (2.0 * depth as f64 * rounding::bias(arithmetic), rounding::of_both(arithmetic));
        let mut allowed = Vec::with_capacity(smooth.len());
        for (place, ((name, tensor), mut each)) in self.tensors.iter().zip(smooth).enumerate() {
            let values = float64(tensor);
            // Every implementation rounds at least the result.
            each.zip_mut_with(values, |each, value| *each += 2.0 * u * value.abs() + underflow);
            if let Some(before) = before.get(name) {
                let u = 2.0 * u * self.request.steps as f64;
                each.zip_mut_with(before, |each, before| *each += u * before.abs());
            }
            let finite = || values.iter().zip(&each).filter(|(value, _)| value.is_finite());
            let squares = finite().map(|(x, _)| x * x).sum::<f64>();
            let alone = finite().fold([0.0; 2], |[a, b], (x, each)| [a + (x * each).powi(2), b + each * each]);
            // Twice the multiple: the rms of so few runs may be small by chance.
            let [of_factor, of_mean] = wholes[place];
            let mut factor = alone[0].sqrt().max(2.0 * MULTIPLE * of_factor);
            let mut mean = alone[1].sqrt().max(2.0 * MULTIPLE * of_mean);
            if let Some(ByKinks { each: more, whole: [of_factor, of_mean] }) = &by_kinks[place] {
                (factor, mean) = (factor + OF_KINKS * of_factor, mean + OF_KINKS * of_mean);
                each.scaled_add(OF_KINKS, more);
            }
            each *= both;
            let count = values.len().max(1) as f64;
            factor = both * factor / squares + bias;
            mean = (both * mean + bias * values.sum().abs()) / count;
            if let Some(own) = own.get(name) {
                each += &own.each;
                (factor, mean) = (factor + own.factor, mean + own.mean);
            }
            allowed.push(Allowed { each, factor, mean });
        }
        Ok(allowed)
    }

    /// The deviations of every tensor in passes with drawn errors, with the choices of the exact pass, and the gates within
    /// their reach. Where batch norms are fragile the errors before them are widened, which may make others fragile.
    fn simulate(&self, arithmetic: &Arithmetic, known: &mut Known) -> Result<(Vec<Deviations>, Kinks<'_>)> {
        const ROUNDS: usize = 4;
        let mut widened = Widened::new();
        let (mut deviations, mut kinks) = self.passes(arithmetic, known, &widened)?;
        for _ in 1..ROUNDS {
            let more = self.fragile(&deviations, &widened);
            if more.is_empty() {
                break;
            }
            widened.extend(more);
            let (wider, of_wider) = self.passes(arithmetic, known, &widened)?;
            kinks = of_wider;
            kinks.fragile = true;
            for ((own, wider), name) in deviations.iter_mut().zip(wider).zip(self.tensors.names()) {
                // The values before a fragile norm are themselves known as before.
                if name.strip_prefix("output.").is_none_or(|step| !widened.contains_key(step)) {
                    *own = wider.or(own);
                }
            }
        }
        Ok((deviations, kinks))
    }

    /// The steps whose results a fragile batch norm reads, with the errors to be added to them; without those of `before`.
    fn fragile(&self, deviations: &[Deviations], before: &Widened) -> Widened {
        let places: HashMap<&str, usize> =
            self.tensors.names().enumerate().map(|(place, name)| (name, place)).collect();
        let mut found = Widened::new();
        for step in self.program.steps.iter().filter(|_| self.request.mode == Mode::Train) {
            let (Layer::BatchNorm2d(bn), Some(read)) = (&step.layer, step.reads[0].checked_sub(1)) else { continue };
            let (name, value) = (&self.program.steps[read].name, &self.first.forward.values[read + 1]);
            let place = places.get(format!("output.{name}").as_str());
            if let (Some(&place), Value::Images(x), false) = (place, value, before.contains_key(name))
                && let Some(sizes) = deviations[place].fragile(x, bn.eps)
            {
                found.insert(name.clone(), sizes);
            }
        }
        found
    }

    /// Passes with drawn errors.
    fn passes(
        &self,
        arithmetic: &Arithmetic,
        known: &mut Known,
        widened: &Widened,
    ) -> Result<(Vec<Deviations>, Kinks<'_>)> {
        let mut kinks = Kinks::new(&self.first.forward);
        let (choices, amplitude) = (self.choices(), amplitude(arithmetic));
        let of_tensor = |(name, tensor): (&str, &Tensor)| Deviations::new(name, tensor.shape());
        let mut deviations: Vec<Deviations> = self.tensors.iter().map(of_tensor).collect();
        let runs = runs(self.program);
        for run in 0..runs {
            // The errors of the weights are those of this run in all its products.
            let program = disturbed(self.program, arithmetic, run);
            let input = disturbed_tensor(self.input, arithmetic, run);
            let mut request = self.request.clone();
            if let Goal::GradOutput(gradient) = &mut request.goal {
                *gradient = disturbed_tensor(gradient, arithmetic, runs + run);
            }
            let mut replay = Replay::new(&program, &choices);
            let mut simulation = Simulation::new(*arithmetic, self.request.mode, self.loss(), run, known);
            (simulation.amplitude, simulation.widened) = (amplitude, widened);
            let first = with(self.mistake, &mut Both(&mut replay, &mut simulation), |disturb| {
                step(&program, &input, &request, disturb)
            })?;
            kinks.observe(self.program, &first.forward, amplitude, runs);
            self.compare(&first, &mut simulation, &mut |place, exact, noisy| {
                deviations[place].add(exact, noisy, amplitude, runs);
            })?;
        }
        Ok((deviations, kinks))
    }

    /// The deviations by kinks, a group of gates after the other. The gradient that a gate passes on may be off by `smooth`
    /// and by the deviations found `before`.
    fn turn(
        &self,
        kinks: &mut Kinks<'_>,
        smooth: &[ArrayD<f64>],
        before: &[Option<ByKinks>],
    ) -> Result<Vec<Option<ByKinks>>> {
        let mut found: Vec<Option<ByKinks>> = vec![None; self.tensors.len()];
        let Some(backward) = &self.first.backward else { return Ok(found) };
        for (place, (name, smooth)) in self.tensors.names().zip(smooth).enumerate() {
            if let (Some(step), 4) = (name.strip_prefix("grad_output."), smooth.ndim()) {
                let mut error = smooth.clone();
                if let Some(Some(before)) = before.get(place) {
                    error.scaled_add(OF_KINKS, &before.each);
                }
                kinks.allow(step, error.permuted_axes(vec![0, 2, 3, 1]).as_standard_layout().into_owned());
            }
        }
        let dy = backward.values.last().cloned().flatten().expect("dy itself");
        for group in 0..kinks.groups() {
            kinks.turn(group);
            let backward =
                with(self.mistake, kinks, |disturb| self.program.backward(dy.clone(), &self.first.forward, disturb))?;
            let (forward, loss) = (self.first.forward.clone(), self.first.loss);
            let first = Step { forward, loss, backward: Some(backward) };
            self.compare(&first, &mut Undisturbed, &mut |place, exact, turned| {
                let nothing = || ByKinks { each: ArrayD::zeros(exact.raw_dim()), whole: [0.0; 2] };
                let ByKinks { each, whole } = found[place].get_or_insert_with(nothing);
                let add = |sum: &mut f64, &exact: &f64, &turned: &f64| *sum += difference(exact, turned);
                Zip::from(each).and(exact).and(turned).for_each(add);
                whole.iter_mut().zip(sums(exact, turned)).for_each(|(whole, sum)| *whole += sum.abs());
            })?;
        }
        Ok(found)
    }

    /// What is known of tensors by themselves: the running statistics, and the results of ReLUs whose gates may open.
    fn of_single_tensors(&self, arithmetic: &Arithmetic, kinks: &Kinks<'_>) -> HashMap<String, Allowed> {
        let mut own = self.of_running_statistics(arithmetic);
        // Of the values, as far as they have such an error: of a ReLU's result, and of what copies it.
        let mut more: Vec<Option<Value<f64>>> = vec![None; self.program.steps.len() + 1];
        for (index, step) in self.program.steps.iter().enumerate() {
            let copied = match (&step.layer, &more[step.reads[0]]) {
                (Layer::ZeroPadShortcut(_) | Layer::MaxPool2d(_), Some(more)) => self.copied(step, more),
                _ => None,
            };
            if let Some(error) = kinks.of_result(step).or(copied) {
                more[index + 1] = as_images(&error);
                let each = in_dump_layout(error);
                let mean = each.sum() / each.len().max(1) as f64;
                let allowed = Allowed { each, factor: 0.0, mean };
                if index + 1 == self.program.steps.len() {
                    own.insert("output".to_string(), allowed.clone());
                }
                own.insert(format!("output.{}", step.name), allowed);
            }
        }
        own
    }

    /// What a step that copies values makes of their errors, none of which is negative.
    fn copied(&self, step: &program::Step<f64>, errors: &Value<f64>) -> Option<ArrayD<f64>> {
        let mut program = Program::new();
        program.push("", step.layer.clone(), 0);
        let forward = program.forward(errors.clone(), self.request.mode, &mut Undisturbed).ok()?;
        Some(view(&forward.values[1]).to_owned())
    }

    /// Which ReLUs are open and which pixels are maxima.
    fn choices(&self) -> Vec<Choice> {
        let mut record = Record::default();
        let mut nothing = Value::Rows(Array2::zeros((0, 0)));
        for step in &self.program.steps {
            let reads: Vec<&Value<f64>> = step.reads.iter().map(|&value| &self.first.forward.values[value]).collect();
            record.result(step, &reads, &mut nothing);
        }
        record.choices
    }

    /// Calls `with` for each tensor of the dump that begins with `first`, with its place and its exact value. Each is
    /// dropped before the next is computed: a second dump beside the first could take gigabytes.
    fn compare(&self, first: &Step<f64>, disturb: &mut dyn Disturb<f64>, each: &mut Each<'_>) -> Result<()> {
        let mut places = self.tensors.iter().enumerate();
        let sink = &mut |name: String, tensor: Tensor| {
            let (place, (expected, exact)) = places.next().expect("as many tensors as without noise");
            assert_eq!(name, expected, "the order of the tensors");
            each(place, float64(exact), float64(&tensor));
        };
        with(self.mistake, disturb, |disturb| emit(self.program, self.input, self.request, first, disturb, sink))
    }
}

/// An array (N, H, W, C) as a value.
fn as_images(array: &ArrayD<f64>) -> Option<Value<f64>> {
    let images = array.clone().into_dimensionality::<ndarray::Ix4>().ok()?;
    Some(Value::Images(images.into_shared()))
}

/// (N, H, W, C) as (N, C, H, W).
fn in_dump_layout(array: ArrayD<f64>) -> ArrayD<f64> {
    match array.ndim() {
        4 => array.permuted_axes(vec![0, 3, 1, 2]).as_standard_layout().into_owned(),
        _ => array,
    }
}

/// Every parameter by its name.
fn parameters(program: &Program<f64>) -> HashMap<String, ArrayD<f64>> {
    let mut found = HashMap::new();
    program.visit("", &mut |name, role, tensor| {
        if role.is_trained() {
            found.insert(name.to_string(), tensor.to_owned());
        }
    });
    found
}

/// Calls `run` with a [`Disturb`] that makes the mistake, if there is one, before `other` changes anything.
fn with<R>(mistake: Option<Mistake>, other: &mut dyn Disturb<f64>, run: impl FnOnce(&mut dyn Disturb<f64>) -> R) -> R {
    match mistake {
        Some(mut mistake) => run(&mut Both(&mut mistake, other)),
        None => run(other),
    }
}

/// The elements of a tensor that was computed in `f64`.
fn float64(tensor: &Tensor) -> &ArrayD<f64> {
    match tensor.values() {
        Values::F64(array) => array,
        other => panic!("expected float64, got {}", other.dtype()),
    }
}
