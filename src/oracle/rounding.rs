//! How far an implementation may be off that does everything right, in arithmetic with unit roundoff u.
//!
//! The bounds of [`crate::verify::bounds`] are rigorous for one layer, and useless for twenty in a row: each would be taken
//! at its worst, and the product of the worsts is no tolerance. What rounding really does to a network is a random walk,
//! so that is what is simulated, once for every tensor of a dump, **before** anybody's numbers are looked at:
//!
//! ```text
//! a sum of K terms rounds K times; after i terms the error is about u times the partial sum, √i of K;
//! together  u √(Σ i) ≈ u √(K/2)  in units of the sum:                         every result  +  u √K · rms · N(0, 1)
//!
//! y  of a convolution or linear layer   K = kh·kw·C_in/groups (F_in)          dx   K = kh·kw·C_out/groups (F_out)
//! dweight, dbias                        K = N·H_out·W_out (N)                 a batch norm, all of it: 16 u
//! average pools                         K = the window                       everything else is exact or rounds once
//! ```
//!
//! (Higham & Mary 2019, *A new approach to probabilistic rounding error analysis*, has √K as a theorem.) The pass is
//! repeated in `f64` with such noise of [`MULTIPLE`] times that size; the largest deviation of a tensor in
//! [`RUNS`] passes is its tolerance. The ReLUs are left free: at that size some near 0 choose otherwise, as they do in an
//! implementation, and what that does to the gradients is in the tolerance too.
//!
//! It is a model, not a proof: it knows the order of an implementation's errors, not the constant, hence the multiple. A mistake
//! is off by far more than both: in `f64` by a factor of 10⁶ and more.

use super::program::{Disturb, Layer, Passage, Step, Value};
use crate::parameters::Gradients;
use crate::rng::{name_hash, stream, Purpose, Rng};
use crate::Scalar;
use ndarray::{Array2, ArrayBase, DataMut, Dimension};
use rand_distr::{Distribution, StandardNormal};

/// How many times the model's rounding is allowed.
pub const MULTIPLE: f64 = 8.0;

/// Passes with noise, of which the largest deviation counts.
pub const RUNS: u64 = 3;

/// Terms that stand for a batch norm: two sums of many terms, each in pieces, and a few products.
pub(super) const BATCH_NORM_TERMS: f64 = 256.0;

/// Adds the rounding of arithmetic with unit roundoff `u`, [`MULTIPLE`] times over.
#[derive(Debug)]
pub struct Rounding {
    u: f64,
    rng: Rng,
}

impl Rounding {
    /// Noise for unit roundoff `u`; every `run` is another draw.
    pub fn new(u: f64, run: u64) -> Self {
        Rounding { u, rng: stream(run, Purpose::Verify, &[name_hash("rounding")]) }
    }

    /// `x + MULTIPLE · u √terms · rms(x) · N(0, 1)`.
    pub fn disturb<T: Scalar, D: Dimension>(&mut self, x: &mut ArrayBase<impl DataMut<Elem = T>, D>, terms: f64) {
        let squares: f64 = x.iter().map(|x| x.as_f64().powi(2)).sum();
        let size = MULTIPLE * self.u * terms.sqrt() * (squares / x.len().max(1) as f64).sqrt();
        x.iter_mut().for_each(|x| {
            let normal: f64 = StandardNormal.sample(&mut self.rng);
            *x = T::of(x.as_f64() + size * normal);
        });
    }

    fn disturb_value<T: Scalar>(&mut self, x: &mut Value<T>, terms: f64) {
        match x {
            Value::Images(x) => self.disturb(x, terms),
            Value::Rows(x) => self.disturb(x, terms),
        }
    }
}

impl<T: Scalar> Disturb<T> for Rounding {
    fn result(&mut self, step: &Step<T>, reads: &[&Value<T>], value: &mut Value<T>) {
        let terms = match &step.layer {
            Layer::Conv2d(conv) => conv.weight.len() / conv.weight.shape()[0].max(1),
            Layer::Linear(linear) => linear.weight.ncols(),
            Layer::BatchNorm2d(_) => return self.disturb_value(value, BATCH_NORM_TERMS),
            Layer::AvgPool2d(pool) => pool.kernel[0] * pool.kernel[1],
            Layer::GlobalAvgPool => reads[0].shape().iter().skip(1).take(2).product(),
            Layer::Add | Layer::Relu(_) => 1,
            Layer::MaxPool2d(_) | Layer::ZeroPadShortcut(_) => return,
        };
        self.disturb_value(value, terms as f64);
    }

    fn logits(&mut self, logits: &mut Array2<T>) {
        // Differences of logits are rounded, and only then is the exponential taken.
        self.disturb(logits, 1.0);
    }

    fn gradients(
        &mut self,
        step: &Step<T>,
        _: Passage<'_, T>,
        gradients: &mut [Value<T>],
        parameters: &mut Gradients<T>,
    ) {
        let (terms, sums) = match &step.layer {
            Layer::Conv2d(conv) => {
                let (c_out, taps) = (conv.weight.shape()[0], conv.weight.shape()[2] * conv.weight.shape()[3]);
                let pixels = gradients[0].shape().iter().take(3).product::<usize>();
                let stride = conv.stride[0] * conv.stride[1];
                (taps * c_out / conv.groups.max(1), (pixels / stride.max(1)) as f64)
            }
            Layer::Linear(linear) => (linear.weight.nrows(), gradients[0].shape()[0] as f64),
            Layer::BatchNorm2d(_) => (BATCH_NORM_TERMS as usize, BATCH_NORM_TERMS),
            Layer::MaxPool2d(pool) => (pool.kernel[0] * pool.kernel[1], 0.0),
            Layer::AvgPool2d(pool) => (pool.kernel[0] * pool.kernel[1], 0.0),
            Layer::Relu(_) | Layer::GlobalAvgPool => (1, 0.0),
            // A copy; where two copies meet again their sum rounds once, far less than what either brings.
            Layer::Add | Layer::ZeroPadShortcut(_) => return,
        };
        gradients.iter_mut().for_each(|gradient| self.disturb_value(gradient, terms as f64));
        parameters.iter_mut().for_each(|(_, gradient)| self.disturb(gradient, sums));
    }
}
