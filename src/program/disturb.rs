//! Observing the values of a pass through a program, and changing them.

use super::{Step, Value};
use crate::Scalar;
use crate::parameters::Gradients;
use ndarray::Array2;

/// The values of a step.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a, T: Scalar> {
    /// The values it read.
    pub reads: &'a [&'a Value<T>],
    /// Its result.
    pub result: &'a Value<T>,
    /// The gradient of its result.
    pub dy: &'a Value<T>,
}

/// Observes the values of a pass and may change them, for example by rounding ([`crate::oracle::rounding`]) or a
/// mistake ([`mod@crate::oracle::diagnose`]).
pub trait Disturb<T: Scalar> {
    /// `value` is the result of `step` for the values it read.
    fn result(&mut self, step: &Step<T>, reads: &[&Value<T>], value: &mut Value<T>);
    /// `logits` are the input of the loss.
    fn logits(&mut self, logits: &mut Array2<T>);
    /// `loss` and its gradient `dlogits` are computed from `logits` and the classes `target`.
    fn loss(&mut self, _logits: &Array2<T>, _target: &[usize], _loss: &mut T, _dlogits: &mut Array2<T>) {}
    /// `gradients` are those that `step` returns for the values it read, `parameters` those of its parameters.
    fn gradients(
        &mut self,
        step: &Step<T>,
        passage: Passage<'_, T>,
        gradients: &mut [Value<T>],
        parameters: &mut Gradients<T>,
    );
}

/// Changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Undisturbed;

impl<T: Scalar> Disturb<T> for Undisturbed {
    fn result(&mut self, _: &Step<T>, _: &[&Value<T>], _: &mut Value<T>) {}
    fn logits(&mut self, _: &mut Array2<T>) {}
    fn gradients(&mut self, _: &Step<T>, _: Passage<'_, T>, _: &mut [Value<T>], _: &mut Gradients<T>) {}
}

/// Calls both, one after the other.
pub struct Both<'a, T>(pub &'a mut dyn Disturb<T>, pub &'a mut dyn Disturb<T>);

impl<T: Scalar> Disturb<T> for Both<'_, T> {
    fn result(&mut self, step: &Step<T>, reads: &[&Value<T>], value: &mut Value<T>) {
        self.0.result(step, reads, value);
        self.1.result(step, reads, value);
    }

    fn logits(&mut self, logits: &mut Array2<T>) {
        self.0.logits(logits);
        self.1.logits(logits);
    }

    fn loss(&mut self, logits: &Array2<T>, target: &[usize], loss: &mut T, dlogits: &mut Array2<T>) {
        self.0.loss(logits, target, loss, dlogits);
        self.1.loss(logits, target, loss, dlogits);
    }

    fn gradients(
        &mut self,
        step: &Step<T>,
        passage: Passage<'_, T>,
        gradients: &mut [Value<T>],
        parameters: &mut Gradients<T>,
    ) {
        self.0.gradients(step, passage, gradients, parameters);
        self.1.gradients(step, passage, gradients, parameters);
    }
}
