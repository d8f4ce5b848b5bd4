//! Every module on trial with its own inputs.
//!
//! An end-to-end comparison of a network follows rounding errors through twenty layers, and its tolerances grow with them. If
//! a dump contains what each module was given, the values it read and the gradient of its result, each module can be computed
//! again from *these* tensors and judged as a single layer: all wrong modules at once, ReLUs with the gates of their own
//! values, tolerances of one layer ([`super::rounding`]), in any arithmetic.
//!
//! | judged | computed from theirs |
//! |---|---|
//! | `output.M` | the inputs of M: `input.M`, or the results of the modules before it |
//! | `grad_M.weight`, … | the inputs of M and `grad_output.M` |
//! | `grad_output.P` | the inputs and `grad_output` of all modules that read the result of P; their gradients are added |
//! | `M.running_mean`, … | the inputs of M |
//! | `loss` and the gradient of the logits | the logits |
//! | `input.M` | the result of the module before it: it must be the same tensor |
//!
//! A sum and its ReLU may be functions and no modules, `F.relu(y + x)`, which hooks do not see. They are computed from what the
//! modules before them returned, and judged by what the next module was given; the gradient of the sum is that of the ReLU
//! where its result is positive.
//!
//! What this cannot see is the connection of the modules: a missing residual addition that the dump does not show, another
//! order, another input. That is seen end to end, and by `input.M`.

use super::arithmetic::{Arithmetic, ComputedIn};
use super::compare::{Allowed as Given, Report, Verdict, verdict};
use super::dump::{Goal, Request, in_shape, tensor, value};
use super::names::Names;
use super::rounding::{
    self, Allowed, Backward, Noise, Roots, Rounds, of_gradients, of_loss, of_result, of_running_statistics,
    target_weights, view,
};
use crate::layers::{Mode, SoftmaxCrossEntropy};
use crate::parameters::{Gradients, join};
use crate::program::{Layer, Program, Step, Undisturbed, Value};
use crate::tensors::{Tensor, Tensors};
use crate::{Error, Result};
use ndarray::{Array1, ArrayD, Axis, Zip, arr0};
use std::cell::RefCell;
use std::rc::Rc;

/// What was found for the modules of a dump.
#[derive(Clone, Debug)]
pub struct Isolated {
    /// The verdicts, forward and then backward; the name of each is that of the tensor.
    pub report: Report,
    /// The module of each verdict, in the same order.
    pub modules: Vec<String>,
    /// The inputs that are not the tensors they should be: of this module, and the name of that tensor.
    pub connections: Vec<(String, String)>,
    /// The modules whose forward or backward pass was not judged, and what the dump lacks for it.
    pub lacking: Vec<(String, String)>,
}

impl Isolated {
    /// The modules with a wrong tensor, in the order in which they are executed.
    pub fn wrong(&self) -> Vec<&str> {
        let mut wrong: Vec<&str> = Vec::new();
        for (module, verdict) in self.modules.iter().zip(&self.report.tensors) {
            if !verdict.passed() && !wrong.contains(&module.as_str()) {
                wrong.push(module);
            }
        }
        wrong
    }

    /// Whether something was judged and nothing is wrong.
    pub fn passed(&self) -> bool {
        self.report.passed() && self.connections.is_empty()
    }
}

/// Judges every module of `program` in the dump `theirs`, computed as stated.
///
/// # Errors
/// If a tensor of theirs has a shape that its module cannot have.
pub fn isolate(
    program: &Program<f64>,
    input: &Tensor,
    request: &Request,
    theirs: &Tensors,
    stated: &ComputedIn,
) -> Result<Isolated> {
    let names = Names::of_modules(program, theirs);
    let unknown = names.unknown.clone();
    let trial = Trial { program, input, request, theirs, names, stated };
    let mut found = Isolated {
        report: Report { tensors: Vec::new(), unknown },
        modules: Vec::new(),
        connections: Vec::new(),
        lacking: Vec::new(),
    };
    let mut backward = Vec::new();
    // The gradient of each value, as far as the modules that read it send it back.
    let mut sent: Vec<Vec<Option<Sent>>> = vec![Vec::new(); program.steps.len() + 1];
    for index in 0..program.steps.len() {
        trial.module(index, &mut found, &mut backward, &mut sent)?;
    }
    trial.loss(&mut found)?;
    for (module, verdict) in backward.into_iter().rev().flatten() {
        found.modules.push(module);
        found.report.tensors.push(verdict);
    }
    trial.gradients_of_values(&sent, &mut found);
    Ok(found)
}

/// The gradient that a module sends to a value it read, and what is allowed for it.
#[derive(Clone)]
struct Sent {
    module: String,
    gradient: ArrayD<f64>,
    usual: Arithmetic,
    allowed: Option<Allowed>,
}

struct Trial<'a> {
    program: &'a Program<f64>,
    input: &'a Tensor,
    request: &'a Request,
    theirs: &'a Tensors,
    names: Names,
    stated: &'a ComputedIn,
}

impl Trial<'_> {
    fn get(&self, name: &str) -> Option<&Tensor> {
        self.theirs.get(self.names.theirs(name)?)
    }

    /// The steps that read a value.
    fn readers(&self, value: usize) -> impl Iterator<Item = (usize, &Step<f64>)> {
        self.program.steps.iter().enumerate().filter(move |(_, step)| step.reads.contains(&value))
    }

    /// The first of some names that the dump has, or the first.
    fn named(&self, names: Vec<String>) -> String {
        let found = names.iter().find(|name| self.get(name).is_some());
        found.or(names.first()).cloned().expect("at least one name")
    }

    /// The name of a value in the dump: the result of its step, or the input of a module that reads it.
    fn result_name(&self, value: usize) -> String {
        let mut names = match value.checked_sub(1) {
            None => vec!["input".to_string()],
            Some(step) => vec![join("output", &self.program.steps[step].name)],
        };
        if value == self.program.steps.len() {
            names.push(self.names.last.clone());
        }
        names.extend(
            self.readers(value).filter(|(_, step)| step.reads.len() == 1).map(|(_, step)| join("input", &step.name)),
        );
        self.named(names)
    }

    /// The name of the gradient of a value: of the result of its step, or of the input of a module that reads it.
    fn gradient_name(&self, value: usize) -> String {
        let mut names = match value.checked_sub(1) {
            None => vec!["grad_input".to_string()],
            Some(step) => vec![join("grad_output", &self.program.steps[step].name)],
        };
        if value == self.program.steps.len() {
            names.push("grad_output".to_string());
        }
        let readers = self.readers(value).filter(|(_, step)| step.reads.len() == 1);
        names.extend(readers.map(|(_, step)| join("grad_input", &step.name)));
        self.named(names)
    }

    /// A value of theirs. What a shortcut of option A copies, a sum, and its ReLU need not be recorded: where they are functions and
    /// no modules, hooks do not see them. A sum is not rounded here; whoever reads it allows for that ([`Rounds`]).
    fn value_of(&self, value: usize, rows: bool) -> std::result::Result<Value<f64>, String> {
        let name = self.result_name(value);
        let input = if value == 0 { Some(self.input) } else { None };
        if let Some(tensor) = self.get(&name).or(input) {
            return as_value(tensor, rows).map_err(|_| format!("floats in `{name}`"));
        }
        let step = value.checked_sub(1).map(|step| &self.program.steps[step]);
        let computed = step.filter(|step| match &step.layer {
            Layer::ZeroPadShortcut(_) => true,
            // Rounding may change which pixel is the maximum.
            Layer::Add => !self.readers(value).any(|(_, reader)| matches!(reader.layer, Layer::MaxPool2d(_))),
            Layer::Relu(relu) => !relu.is_leaky(),
            _ => false,
        });
        let Some(step) = computed else { return Err(format!("`{name}`")) };
        let reads = step.reads.iter().map(|&read| self.value_of(read, false));
        let reads = reads.collect::<std::result::Result<_, _>>().map_err(|_| format!("`{name}`"))?;
        Done::new(step, reads, self.request.mode, None).map(|done| done.y).map_err(|_| format!("`{name}`"))
    }

    /// Adds the names of what a value that is not recorded is computed from.
    fn sources(&self, value: usize, names: &mut Vec<String>) {
        if let (Some(step), None) = (value.checked_sub(1), self.get(&self.result_name(value))) {
            for &read in &self.program.steps[step].reads {
                names.push(self.result_name(read));
                self.sources(read, names);
            }
        }
    }

    /// The gradient of a value. An addition passes its own on, and the ReLU of a sum does where its result is positive. That of a module
    /// must be recorded: what a ReLU passes on is the ReLU's to answer for.
    fn gradient_of(&self, value: usize, rows: bool) -> std::result::Result<Value<f64>, String> {
        let name = self.gradient_name(value);
        if let Some(tensor) = self.get(&name) {
            return as_value(tensor, rows).map_err(|_| format!("floats in `{name}`"));
        }
        let lacks = || format!("`{name}`");
        let readers: Vec<(usize, &Step<f64>)> = self.readers(value).collect();
        let [(index, step)] = readers.as_slice() else { return Err(lacks()) };
        let is_sum = value.checked_sub(1).is_some_and(|step| matches!(self.program.steps[step].layer, Layer::Add));
        match &step.layer {
            Layer::Add => self.gradient_of(index + 1, rows).map_err(|_| lacks()),
            Layer::Relu(relu) if is_sum && !relu.is_leaky() => {
                let (y, dy) = (self.value_of(index + 1, rows), self.gradient_of(index + 1, rows));
                let (Ok(Value::Images(y)), Ok(Value::Images(dy))) = (y, dy) else { return Err(lacks()) };
                if y.shape() != dy.shape() {
                    return Err(lacks());
                }
                let gate = |&y: &f64, &dy: &f64| if y > 0.0 { dy } else { 0.0 };
                Ok(Value::Images(Zip::from(&y).and(&dy).map_collect(gate).into_shared()))
            }
            _ => Err(lacks()),
        }
    }

    /// The values that a step read.
    fn reads(&self, index: usize) -> std::result::Result<Vec<Value<f64>>, String> {
        let step = &self.program.steps[index];
        let rows = matches!(step.layer, Layer::Linear(_));
        let own = join("input", &step.name);
        if let (Some(recorded), 1) = (self.get(&own), step.reads.len()) {
            return Ok(vec![as_value(recorded, rows).map_err(|_| format!("floats in `{own}`"))?]);
        }
        step.reads.iter().map(|&read| self.value_of(read, rows)).collect()
    }

    /// The arithmetic of a module, if none is stated: that of its coarsest tensor. In automatic mixed precision the results of
    /// a convolution are stored in bfloat16 and the gradient of its weight, computed from them, in float32.
    fn usual(&self, module: &str, more: &[String]) -> Arithmetic {
        let own = ["input", "output", "grad_output"].map(|prefix| join(prefix, module));
        let types = own.iter().chain(more).filter_map(|name| Arithmetic::of_dtype(self.get(name)?.dtype()));
        types.fold(Arithmetic::F64, |coarsest, of| if of.coarsest() > coarsest.coarsest() { of } else { coarsest })
    }

    /// The arithmetic of a tensor of theirs: what is stated for this name; otherwise, in a module with this usual one, as the tensor
    /// is stored.
    fn arithmetic(&self, name: &str, theirs: &Tensor, usual: Arithmetic) -> Arithmetic {
        let own = Arithmetic::of_dtype(theirs.dtype()).unwrap_or(Arithmetic::F64);
        let usual = if own.coarsest() > usual.coarsest() { own } else { usual.as_stored(theirs) };
        self.stated.of(name).unwrap_or(usual)
    }

    /// The verdict on the tensor `name`, which is called `by_module` if its name is that of the module that computes it.
    fn judge(
        &self,
        [name, by_module]: [&str; 2],
        ours: ArrayD<f64>,
        usual: Arithmetic,
        allowed: &dyn Fn(&Arithmetic) -> Allowed,
    ) -> Option<Verdict> {
        let theirs = self.get(name)?;
        let arithmetic = self.arithmetic(by_module, theirs, usual);
        let Allowed { each, factor, mean } = allowed(&arithmetic);
        let given = Given::Carried { arithmetic, each, whole: Some([factor, mean]) };
        Some(verdict(name, &in_shape(self.request, ours.into()), Some((theirs, given)), true))
    }

    fn module(
        &self,
        index: usize,
        found: &mut Isolated,
        backward: &mut Vec<Vec<(String, Verdict)>>,
        sent: &mut [Vec<Option<Sent>>],
    ) -> Result<()> {
        let step = &self.program.steps[index];
        let module = &step.name;
        self.connection(index, found);
        let nothing = |sent: &mut [Vec<Option<Sent>>]| step.reads.iter().for_each(|&read| sent[read].push(None));
        let reads = match self.reads(index) {
            Ok(reads) => reads,
            Err(lacks) => {
                found.lacking.push((module.clone(), lacks));
                nothing(sent);
                return Ok(());
            }
        };
        let wrong =
            |error: Error| Error::argument("oracle", format!("the dump's tensors of `{module}` do not fit: {error}"));
        let rows = matches!(step.layer, Layer::Linear(_) | Layer::GlobalAvgPool);
        let (dy, lacks) = match (&self.request.goal, self.gradient_of(index + 1, rows)) {
            (Goal::Forward, _) => (None, None),
            (_, Ok(dy)) => (Some(dy), None),
            (_, Err(lacks)) => (None, Some(lacks)),
        };
        found.lacking.extend(lacks.map(|lacks| (module.clone(), lacks)));
        let mode = self.request.mode;
        let done = Done::new(step, reads, mode, dy).map_err(wrong)?;
        let (result, gradient) = (self.result_name(index + 1), self.gradient_name(index + 1));
        let mut more = vec![result.clone(), gradient];
        if self.get(&join("input", module)).is_none() {
            step.reads.iter().for_each(|&read| self.sources(read, &mut more));
        }
        let usual = self.usual(module, &more);
        let of_result = |arithmetic: &Arithmetic| done.of_result(arithmetic, mode);
        let by_module = join("output", module);
        if let Some(verdict) = self.judge([&result, &by_module], in_dump(&done.y), usual, &of_result) {
            found.modules.push(module.clone());
            found.report.tensors.push(verdict);
        }
        // Logits that are recorded twice, by the last module and by themselves.
        if index + 1 == self.program.steps.len()
            && result != self.names.last
            && let Some(verdict) = self.judge([&self.names.last, &by_module], in_dump(&done.y), usual, &of_result)
        {
            found.modules.push(module.clone());
            found.report.tensors.push(verdict);
        }
        self.statistics(step, &done, usual, found);
        let Some(gradients) = &done.gradients else {
            nothing(sent);
            return Ok(());
        };
        let mut own = Vec::new();
        for (full, gradient) in gradients.parameters.iter() {
            let allowed = |arithmetic: &Arithmetic| done.of_parameter(full, arithmetic, mode);
            let name = format!("grad_{full}");
            let verdict = self.judge([&name, &name], gradient.clone(), usual, &allowed);
            own.extend(verdict.map(|verdict| (module.clone(), verdict)));
        }
        backward.push(own);
        for (place, (&read, dx)) in step.reads.iter().zip(&gradients.dx).enumerate() {
            let name = self.gradient_name(read);
            let allowed = self.get(&name).map(|theirs| {
                // It is stored under the name of another module, but computed by this one.
                let arithmetic = self.arithmetic(&join("grad_input", module), theirs, usual);
                (arithmetic, done.of_read(place, &arithmetic, mode))
            });
            sent[read].push(Some(Sent {
                module: module.clone(),
                gradient: in_dump(dx),
                usual,
                allowed: allowed.map(|(_, allowed)| allowed),
            }));
        }
        Ok(())
    }

    /// Whether the recorded input of a module is the result of the module before it.
    fn connection(&self, index: usize, found: &mut Isolated) {
        let step = &self.program.steps[index];
        let [read] = step.reads.as_slice() else { return };
        let before = self.result_name(*read);
        let (Some(recorded), Some(result)) = (self.get(&join("input", &step.name)), self.get(&before)) else { return };
        let [a, b] = [recorded, result].map(Tensor::to_f64);
        // One of them may be stored in a narrower type.
        let share = if recorded.dtype() == result.dtype() { 0.0 } else { 0.01 };
        let same = |a: &f64, b: &f64| (a - b).abs() <= share * b.abs() || a == b || a.is_nan() && b.is_nan();
        if a.len() != b.len() || !a.iter().zip(&b).all(|(a, b)| same(a, b)) {
            found.connections.push((step.name.clone(), before));
        }
    }

    fn statistics(&self, step: &Step<f64>, done: &Done<'_>, usual: Arithmetic, found: &mut Isolated) {
        let (Layer::BatchNorm2d(bn), Mode::Train, Value::Images(x)) = (&step.layer, self.request.mode, &done.reads[0])
        else {
            return;
        };
        if self.request.steps > 1 {
            return; // They are those after further passes, of which nothing else is recorded.
        }
        let Ok((_, cache)) = bn.forward(x, Mode::Train) else { return };
        let mut after = bn.clone();
        after.update_running_statistics(&cache);
        for (place, (name, array)) in
            [("running_mean", &after.running_mean), ("running_var", &after.running_var)].into_iter().enumerate()
        {
            let full = join(&step.name, name);
            let allowed = |arithmetic: &Arithmetic| {
                let running = [after.running_mean.view().into_dyn(), after.running_var.view().into_dyn()];
                let noise = of_running_statistics(bn, x, running, arithmetic);
                noise[place].allowed(array.view().into_dyn(), arithmetic, None).of_one_cause(array.view().into_dyn())
            };
            if let Some(verdict) = self.judge([&full, &full], array.clone().into_dyn(), usual, &allowed) {
                found.modules.push(step.name.clone());
                found.report.tensors.push(verdict);
            }
        }
    }

    /// The loss and its gradient, from their logits.
    fn loss(&self, found: &mut Isolated) -> Result<()> {
        let Goal::CrossEntropy { target, loss } = &self.request.goal else { return Ok(()) };
        let Some(last) = self.program.steps.last() else { return Ok(()) };
        let end = self.program.steps.len();
        let name = self.result_name(end);
        let Some(Value::Rows(logits)) = self.get(&name).and_then(|logits| as_value(logits, true).ok()) else {
            found.lacking.push(("loss".to_string(), format!("`{name}`")));
            return Ok(());
        };
        let usual = self.usual(&last.name, &[name]);
        let layer: &SoftmaxCrossEntropy<f64> = loss;
        let (value, cache) = layer.forward(&logits, target)?;
        let (dlogits, q) = (layer.backward(&cache), target_weights(layer, target, logits.ncols()));
        let value = arr0(value).into_dyn();
        let noise = |arithmetic: &Arithmetic| {
            of_loss(&logits, &q, &Array1::ones(q.nrows()), &value, &dlogits, arithmetic, rounding::roundings(layer))
        };
        let of_loss = |arithmetic: &Arithmetic| noise(arithmetic).loss.allowed(value.view(), arithmetic, None);
        let of_logits =
            |arithmetic: &Arithmetic| noise(arithmetic).dlogits.allowed(dlogits.view().into_dyn(), arithmetic, None);
        let gradient = self.gradient_name(end);
        let verdicts = [
            self.judge(["loss", "loss"], value.clone(), usual, &of_loss),
            self.judge([&gradient, &gradient], dlogits.clone().into_dyn(), usual, &of_logits),
        ];
        for verdict in verdicts.into_iter().flatten() {
            found.modules.push("loss".to_string());
            found.report.tensors.push(verdict);
        }
        Ok(())
    }

    /// The gradient of every value: the sum of what the modules that read it sent back.
    fn gradients_of_values(&self, sent: &[Vec<Option<Sent>>], found: &mut Isolated) {
        for (value, sent) in sent.iter().enumerate().rev() {
            let name = self.gradient_name(value);
            if self.get(&name).is_some() {
                // The gradient is a sum: without one summand nothing can be said of the others.
                let senders = || self.readers(value).map(|(_, step)| &step.name).zip(sent);
                let lacking = senders().find(|(_, sent)| sent.is_none()).map(|(name, _)| name.clone());
                for (module, _) in senders().filter(|(_, sent)| lacking.is_some() && sent.is_some()) {
                    let lacks = format!("what `{}` adds to `{name}`", lacking.clone().unwrap_or_default());
                    found.lacking.push((module.clone(), lacks));
                }
            }
            let sent: Option<Vec<&Sent>> = sent.iter().map(Option::as_ref).collect();
            let Some(sent) = sent.filter(|sent| !sent.is_empty() && self.get(&name).is_some()) else { continue };
            let mut gradient = sent[0].gradient.clone();
            sent[1..].iter().for_each(|more| gradient += &more.gradient);
            let size =
                sent.iter().fold(ArrayD::zeros(gradient.raw_dim()), |sum, sent| sum + sent.gradient.mapv(f64::abs));
            let allowed = |arithmetic: &Arithmetic| {
                let mut each = size
                    .mapv(|size| if sent.len() == 1 { 0.0 } else { 2.0 * arithmetic.stored.unit_roundoff() * size });
                let (mut factor, mut mean) = (0.0, 0.0);
                let norm = |x: &ArrayD<f64>| x.iter().map(|x| x * x).sum::<f64>();
                for sent in &sent {
                    if let Some(allowed) = &sent.allowed {
                        each += &allowed.each;
                        mean += allowed.mean;
                        // The factor of a part counts by the size of the part.
                        factor += allowed.factor * norm(&sent.gradient) / norm(&gradient);
                    }
                }
                let rounding = 2.0 * arithmetic.stored.unit_roundoff() / (gradient.len().max(1) as f64).sqrt();
                let both = rounding * norm(&size) / norm(&gradient);
                let mean = mean + rounding * (norm(&size) / gradient.len().max(1) as f64).sqrt();
                Allowed { each, factor: factor + both, mean }
            };
            let modules: Vec<&str> = sent.iter().map(|sent| sent.module.as_str()).collect();
            let usual = sent.iter().fold(Arithmetic::F64, |coarsest, sent| {
                if sent.usual.coarsest() > coarsest.coarsest() { sent.usual } else { coarsest }
            });
            let by_module = join("grad_input", &sent[0].module);
            if let Some(verdict) = self.judge([&name, &by_module], gradient.clone(), usual, &allowed) {
                found.modules.push(modules.join(" + "));
                found.report.tensors.push(verdict);
            }
        }
    }
}

/// A module computed from their tensors.
struct Done<'a> {
    step: &'a Step<f64>,
    reads: Vec<Value<f64>>,
    y: Value<f64>,
    dy: Option<Value<f64>>,
    gradients: Option<OfModule>,
    roots: Roots,
    /// The noise of its gradients, as far as it was needed.
    noise: RefCell<Vec<(Arithmetic, Rc<rounding::GradientNoise>)>>,
}

struct OfModule {
    dx: Vec<Value<f64>>,
    parameters: Gradients<f64>,
}

impl<'a> Done<'a> {
    fn new(step: &'a Step<f64>, reads: Vec<Value<f64>>, mode: Mode, dy: Option<Value<f64>>) -> Result<Self> {
        let mut roots = Roots::default();
        roots.forward(step, &reads[0])?;
        if let Some(dy) = &dy {
            roots.backward(step, &reads[0], dy)?;
        }
        if let (Layer::Add, [a, b]) = (&step.layer, reads.as_slice()) {
            let (Value::Images(a), Value::Images(b)) = (a, b) else {
                return Err(Error::shape("add", "input", "(N, C, H, W)", a.shape()));
            };
            if a.shape() != b.shape() {
                return Err(Error::shape("add", "input", format!("{:?}", b.shape()), a.shape()));
            }
            let y = Value::Images((a + b).into_shared());
            let gradients =
                dy.as_ref().map(|dy| OfModule { dx: vec![dy.clone(), dy.clone()], parameters: Gradients::new() });
            return Ok(Done { step, reads, y, dy, gradients, roots, noise: RefCell::default() });
        }
        let mut program = Program::new();
        program.push(&step.name, step.layer.clone(), 0);
        let forward = program.forward(reads[0].clone(), mode, &mut Undisturbed)?;
        let y = forward.values[1].clone();
        let gradients = match &dy {
            Some(dy) if dy.shape() != y.shape() => {
                return Err(Error::shape("oracle", "grad_output", format!("{:?}", y.shape()), dy.shape()));
            }
            Some(dy) => {
                let backward = program.backward(dy.clone(), &forward, &mut Undisturbed)?;
                Some(OfModule { dx: backward.values[0].iter().cloned().collect(), parameters: backward.parameters })
            }
            None => None,
        };
        Ok(Done { step, reads, y, dy, gradients, roots, noise: RefCell::default() })
    }

    fn rounds(&self, arithmetic: &Arithmetic) -> Rounds {
        Rounds::of(self.step, &self.reads[0], self.dy.as_ref(), arithmetic)
    }

    fn of_result(&self, arithmetic: &Arithmetic, mode: Mode) -> Allowed {
        let rounds = self.rounds(arithmetic);
        let reads: Vec<&Value<f64>> = self.reads.iter().collect();
        let noise = of_result(self.step, &reads, &self.y, mode, &self.roots, arithmetic, rounds);
        of_value(&noise, &self.y, arithmetic, rounds.x || rounds.weight)
    }

    fn noise(&self, arithmetic: &Arithmetic, mode: Mode) -> Rc<rounding::GradientNoise> {
        let known = self.noise.borrow().iter().find(|(own, _)| own == arithmetic).map(|(_, noise)| noise.clone());
        known.unwrap_or_else(|| {
            let (Some(dy), Some(gradients)) = (&self.dy, &self.gradients) else { panic!("there are no gradients") };
            let reads: Vec<&Value<f64>> = self.reads.iter().collect();
            let backward = Backward { reads: &reads, dy, dx: &gradients.dx, parameters: &gradients.parameters };
            let noise = of_gradients(self.step, &backward, mode, &self.roots, arithmetic, self.rounds(arithmetic));
            let noise = Rc::new(noise);
            self.noise.borrow_mut().push((*arithmetic, noise.clone()));
            noise
        })
    }

    fn of_read(&self, place: usize, arithmetic: &Arithmetic, mode: Mode) -> Allowed {
        let rounds = self.rounds(arithmetic);
        let noise = self.noise(arithmetic, mode);
        let dx = &self.gradients.as_ref().expect("there are gradients").dx[place];
        of_value(&noise.reads[place], dx, arithmetic, rounds.dy || rounds.weight)
    }

    fn of_parameter(&self, full: &str, arithmetic: &Arithmetic, mode: Mode) -> Allowed {
        let rounds = self.rounds(arithmetic);
        let noise = self.noise(arithmetic, mode);
        let gradient = self.gradients.as_ref().and_then(|own| own.parameters.get(full)).expect("one of its own");
        let own = noise.parameters.iter().find(|(name, _)| full.rsplit('.').next() == Some(name));
        let (_, noise) = own.expect("every parameter has noise");
        noise.allowed(gradient.view(), arithmetic, (rounds.dy || rounds.x).then_some(Axis(0)))
    }
}

fn of_value(noise: &Noise, value: &Value<f64>, arithmetic: &Arithmetic, coherent: bool) -> Allowed {
    let values = view(value);
    let channel = coherent.then(|| Axis(values.ndim() - 1));
    let Allowed { each, factor, mean } = noise.allowed(values, arithmetic, channel);
    let each = match each.ndim() {
        4 => each.permuted_axes(vec![0, 3, 1, 2]).as_standard_layout().into_owned(),
        _ => each,
    };
    Allowed { each, factor, mean }
}

fn in_dump(value: &Value<f64>) -> ArrayD<f64> {
    tensor(value).to_f64()
}

/// A tensor of theirs as a value; (N, C, 1, 1) as rows where rows are read.
fn as_value(tensor: &Tensor, rows: bool) -> Result<Value<f64>> {
    match (rows, tensor.shape()) {
        (true, &[n, c, 1, 1]) => {
            let array = tensor.to_f64().into_shape_with_order(vec![n, c]).expect("as many elements");
            value("tensor", &array.into())
        }
        _ => value("tensor", tensor),
    }
}
