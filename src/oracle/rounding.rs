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
//! dweight, dbias                        K = N·H_out·W_out (N)                 a batch norm, all of it: 16 u of its terms
//! average pools                         K = the window                       everything else is exact or rounds once
//! ```
//!
//! A batch norm subtracts what may be much larger than what is left: the mean from x, and in backward nearly all of dy where there
//! are few values. Its rounding is in units of these terms, |slope| x and |slope| dy with slope = gamma·rstd, channel by channel.
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
use ndarray::{Array2, ArrayBase, ArrayView3, Axis, DataMut, Dimension};
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

    /// The same for a batch norm's y or dx, made of x or dy: in each channel in units of `|slope| · rms(terms)` where that is more.
    fn disturb_norm<T: Scalar>(&mut self, result: &mut Value<T>, terms: &Value<T>, slopes: &[f64]) {
        let (Value::Images(result), Value::Images(terms)) = (result, terms) else { return };
        for (channel, slope) in slopes.iter().enumerate() {
            let mut own = result.index_axis_mut(Axis(3), channel);
            let size = rms(own.view()).max(slope * rms(terms.index_axis(Axis(3), channel)));
            let size = MULTIPLE * self.u * BATCH_NORM_TERMS.sqrt() * size;
            own.iter_mut().for_each(|x| {
                let normal: f64 = StandardNormal.sample(&mut self.rng);
                *x = T::of(x.as_f64() + size * normal);
            });
        }
    }

    fn disturb_value<T: Scalar>(&mut self, x: &mut Value<T>, terms: f64) {
        match x {
            Value::Images(x) => self.disturb(x, terms),
            Value::Rows(x) => self.disturb(x, terms),
        }
    }
}

fn rms<T: Scalar>(x: ArrayView3<'_, T>) -> f64 {
    let squares: f64 = x.iter().map(|x| x.as_f64().powi(2)).sum();
    (squares / x.len().max(1) as f64).sqrt()
}

/// |gamma·rstd| of every channel, whichever statistics were used: the deviation of y over that of x.
fn slopes<T: Scalar>(x: &Value<T>, y: &Value<T>) -> Vec<f64> {
    let (Value::Images(x), Value::Images(y)) = (x, y) else { return Vec::new() };
    let deviation = |x: ArrayView3<'_, T>| {
        let mean = x.iter().map(|x| x.as_f64()).sum::<f64>() / x.len().max(1) as f64;
        x.iter().map(|x| (x.as_f64() - mean).powi(2)).sum::<f64>().sqrt()
    };
    let slope = |channel| {
        let of_x = deviation(x.index_axis(Axis(3), channel));
        // Where x is constant, nothing is known about the slope, and y is known exactly.
        if of_x == 0.0 {
            0.0
        } else {
            deviation(y.index_axis(Axis(3), channel)) / of_x
        }
    };
    (0..x.len_of(Axis(3))).map(slope).collect()
}

impl<T: Scalar> Disturb<T> for Rounding {
    fn result(&mut self, step: &Step<T>, reads: &[&Value<T>], value: &mut Value<T>) {
        let terms = match &step.layer {
            Layer::Conv2d(conv) => conv.weight.len() / conv.weight.shape()[0].max(1),
            Layer::Linear(linear) => linear.weight.ncols(),
            Layer::BatchNorm2d(_) => {
                let slopes = slopes(reads[0], value);
                return self.disturb_norm(value, reads[0], &slopes);
            }
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
        Passage { reads, result, dy }: Passage<'_, T>,
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
            Layer::BatchNorm2d(_) => {
                self.disturb_norm(&mut gradients[0], dy, &slopes(reads[0], result));
                parameters.iter_mut().for_each(|(_, gradient)| self.disturb(gradient, BATCH_NORM_TERMS));
                return;
            }
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
