//! Prints a step: the shape and magnitude of every y, dy and dweight in the layers.
//!
//! [`Trace`] is the reference as a list of steps ([`crate::program`]), so what is printed is what the layers computed, and
//! the weights after a traced step are bit-identical to those of [`Reference`](super::Reference).

use super::executor::{Executor, Pass, expect_one};
use crate::layers::Mode;
use crate::model::ResNet;
use crate::parameters::Gradients;
use crate::program::{Disturb, Forward, Passage, Program, Step, Undisturbed, Value};
use crate::shards::Shards;
use crate::{Activation, Error, Result, Scalar};
use ndarray::Array2;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Receives a line.
type Line = dyn FnMut(&str) + Send;

/// The reference, with a line for every value of a pass.
///
/// ```text
/// forward   layer1.0.conv1                   y         128x32x32x16     rms 1.013e0    largest 5.802e0
/// backward  layer1.0.conv1                   dy        128x32x32x16     rms 2.117e-6   largest 4.391e-5
/// backward  layer1.0.conv1.weight            gradient  16x16x3x3        rms 1.240e-3   largest 4.962e-3
/// ```
///
/// Activations are `(N, H, W, C)`; rms = √(Σ v²/count), largest = max |v|.
#[derive(Clone)]
pub struct Trace {
    line: Arc<Mutex<Line>>,
    passes: Arc<AtomicUsize>,
}

impl Trace {
    /// Calls `line` with every line.
    pub fn new(line: impl FnMut(&str) + Send + 'static) -> Self {
        Trace { line: Arc::new(Mutex::new(line)), passes: Arc::default() }
    }

    fn write<'a, T: Scalar>(
        &self,
        pass: &str,
        name: &str,
        what: &str,
        shape: &[usize],
        values: impl Iterator<Item = &'a T>,
    ) {
        let (mut squares, mut largest, mut count) = (0.0, 0f64, 0usize);
        for value in values {
            let value = value.as_f64();
            squares += value * value;
            // NaN counts as the largest value.
            largest = if value.is_nan() || largest.is_nan() { f64::NAN } else { largest.max(value.abs()) };
            count += 1;
        }
        let rms = (squares / count.max(1) as f64).sqrt();
        let shape = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        let line = format!("{pass:<9} {name:<32} {what:<9} {shape:<16} rms {rms:<10.3e} largest {largest:.3e}");
        (self.line.lock().expect("no line panics"))(line.trim_end());
    }

    fn value<T: Scalar>(&self, pass: &str, name: &str, what: &str, value: &Value<T>) {
        match value {
            Value::Images(x) => self.write(pass, name, what, x.shape(), x.iter()),
            Value::Rows(x) => self.write(pass, name, what, x.shape(), x.iter()),
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

impl<T: Scalar> Disturb<T> for Trace {
    fn result(&mut self, step: &Step<T>, _: &[&Value<T>], value: &mut Value<T>) {
        self.value("forward", &step.name, "y", value);
    }

    fn logits(&mut self, _: &mut Array2<T>) {}

    fn gradients(
        &mut self,
        step: &Step<T>,
        passage: Passage<'_, T>,
        _: &mut [Value<T>],
        parameters: &mut Gradients<T>,
    ) {
        self.value("backward", &step.name, "dy", passage.dy);
        for (name, gradient) in parameters.iter() {
            self.write("backward", name, "gradient", gradient.shape(), gradient.iter());
        }
    }
}

impl<T: Scalar> Executor<T> for Trace {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn forward(&self, model: &ResNet<T>, x: &Activation<T>, shards: &Shards) -> Result<(Array2<T>, Box<dyn Pass<T>>)> {
        expect_one(shards)?;
        let program = Program::of_network(model);
        let pass = self.passes.fetch_add(1, Ordering::Relaxed) + 1;
        (self.line.lock().expect("no line panics"))(&format!("pass {pass}"));
        self.write("forward", "images", "x", x.shape(), x.iter());
        let forward = program.forward(Value::Images(x.clone()), Mode::Train, &mut self.clone())?;
        let logits = logits(&forward)?;
        Ok((logits, Box::new(Traced { trace: self.clone(), program, forward })))
    }

    fn predict(&self, model: &ResNet<T>, x: &Activation<T>) -> Result<Array2<T>> {
        model.predict(x)
    }
}

fn logits<T: Scalar>(forward: &Forward<T>) -> Result<Array2<T>> {
    match forward.values.last() {
        Some(Value::Rows(logits)) => Ok(logits.clone()),
        _ => Err(Error::argument("trace", "expects a network that ends in logits (N, classes)")),
    }
}

struct Traced<T: Scalar> {
    trace: Trace,
    program: Program<T>,
    forward: Forward<T>,
}

impl<T: Scalar> Pass<T> for Traced<T> {
    fn update_running_statistics(&self, model: &mut ResNet<T>) {
        let mut norms = model.norms_mut().into_iter();
        self.program.batch_norms(&self.forward).for_each(|(name, cache)| {
            let bn = norms.next().unwrap_or_else(|| panic!("the model has no batch norm `{name}`"));
            bn.update_running_statistics(cache);
        });
    }

    fn parameter_gradients(self: Box<Self>, model: &ResNet<T>, dlogits: &Array2<T>) -> Result<Gradients<T>> {
        let Traced { mut trace, program, forward } = *self;
        let backward = program.backward(Value::Rows(dlogits.clone()), &forward, &mut trace)?;
        Ok(backward.parameters.in_order_of(model))
    }
}

/// The first step of `model`, in the order of execution, whose result on `x` contains an infinity or a NaN.
pub(super) fn first_not_finite<T: Scalar>(model: &ResNet<T>, x: &Activation<T>) -> Option<String> {
    let program = Program::of_network(model);
    let forward = program.forward(Value::Images(x.clone()), Mode::Train, &mut Undisturbed).ok()?;
    let finite = |value: &Value<T>| match value {
        Value::Images(x) => x.iter().all(|x| x.is_finite()),
        Value::Rows(x) => x.iter().all(|x| x.is_finite()),
    };
    // Value 0 is the batch itself.
    let results = program.steps.iter().zip(&forward.values[1..]);
    results.into_iter().find(|(_, value)| !finite(value)).map(|(step, _)| step.name.clone())
}
