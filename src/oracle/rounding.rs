//! How far a correct implementation may be off in arithmetic with unit roundoff u.
//!
//! The bounds of [`crate::verify::bounds`] are rigorous for one layer, but useless for twenty in a row: the product of the
//! worst cases is far too large for a tolerance. In practice the rounding errors of a network behave like a random walk, so
//! that is simulated, once for every tensor of a dump, **before** the results to be checked are read:
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
//! A batch norm subtracts terms that may be much larger than their difference: the mean from x, and in backward nearly all
//! of dy where there are few values. Its rounding error is in units of these terms, |slope| x and |slope| dy with
//! slope = gamma·rstd, channel by channel.
//!
//! (Higham & Mary 2019, *A new approach to probabilistic rounding error analysis*, prove √K.) The pass is
//! repeated in `f64` with such noise of [`MULTIPLE`] times that size; the largest deviation of a tensor in
//! [`RUNS`] passes is the first part of its tolerance.
//!
//! # Kinks
//!
//! Noise measures the error of smooth functions. The gradient of a ReLU is not smooth: where x is so close to 0 that rounding
//! decides its sign, one correct implementation has dx = 0 and another dx = dy. This affects a few elements in a million, but
//! one of them may carry the largest gradient of its tensor, and it is a matter of chance whether noise flips that one. So
//! these elements are not left to chance ([`Kinks`]). Let s be the standard deviation of the noise at the input of this
//! ReLU. The backward pass is repeated twice without noise, once with the gate open wherever |x| < [`REACH`] s, once with it
//! closed. Each gate that can flip is flipped in one of the two. A max pool whose two largest pixels, a > b, differ by less
//! than 2 [`REACH`] s sends its gradient to b in the first. The larger deviation of the two is the second part:
//!
//! ```text
//! tolerance = largest deviation by noise + largest deviation by kinks + MULTIPLE · u · largest value
//! ```
//!
//! In `f64` an element is hardly ever so close; then the second part is 0.
//!
//! This is a model, not a proof: it gives the order of magnitude of an implementation's errors, not the constant, hence the
//! multiple. A mistake exceeds both by far: in `f64` by a factor of 10⁶ and more.

use crate::layers::MaxPool2d;
use crate::parameters::Gradients;
use crate::program::{Disturb, Forward, Layer, Passage, Program, Step, Value};
use crate::rng::{Purpose, Rng, name_hash, normal, stream};
use crate::{Activation, Scalar};
use ndarray::{Array2, ArrayBase, ArrayView3, Axis, DataMut, Dimension, Zip};
use std::collections::HashMap;

/// How many times the model's rounding error is allowed.
pub const MULTIPLE: f64 = 8.0;

/// Within this many standard deviations of the noise from a kink, an element counts as on either side of it.
pub const REACH: f64 = 3.0;

/// Passes with noise, of which the largest deviation counts.
pub const RUNS: u64 = 3;

/// The number of terms assumed for a batch norm: two sums of many terms, each in blocks, and a few products.
pub(super) const BATCH_NORM_TERMS: f64 = 256.0;

/// Adds noise of [`MULTIPLE`] times the rounding error of arithmetic with unit roundoff `u`.
#[derive(Debug)]
pub struct Rounding {
    u: f64,
    rng: Rng,
}

impl Rounding {
    /// Noise for unit roundoff `u`; every `run` draws other noise.
    pub fn new(u: f64, run: u64) -> Self {
        Rounding { u, rng: stream(run, Purpose::Verify, &[name_hash("rounding")]) }
    }

    /// `x + MULTIPLE · u √terms · rms(x) · N(0, 1)`, rms of the finite elements: an infinite one, which does not change,
    /// would spoil all others.
    pub fn disturb<T: Scalar, D: Dimension>(&mut self, x: &mut ArrayBase<impl DataMut<Elem = T>, D>, terms: f64) {
        let size = MULTIPLE * self.u * terms.sqrt() * rms(x.iter().map(|x| x.as_f64()));
        x.iter_mut().for_each(|x| *x = T::of(x.as_f64() + size * normal(&mut self.rng)));
    }

    /// The same for a batch norm's y or dx, computed from x or dy: in each channel in units of `|slope| · rms(terms)` if that is
    /// larger.
    fn disturb_norm<T: Scalar>(&mut self, result: &mut Value<T>, terms: &Value<T>, slopes: &[f64]) {
        let (Value::Images(result), Value::Images(terms)) = (result, terms) else { return };
        for (channel, slope) in slopes.iter().enumerate() {
            let mut own = result.index_axis_mut(Axis(3), channel);
            let of = |x: ArrayView3<'_, T>| rms(x.iter().map(|x| x.as_f64()));
            let size = of(own.view()).max(slope * of(terms.index_axis(Axis(3), channel)));
            let size = MULTIPLE * self.u * BATCH_NORM_TERMS.sqrt() * size;
            own.iter_mut().for_each(|x| *x = T::of(x.as_f64() + size * normal(&mut self.rng)));
        }
    }

    fn disturb_value<T: Scalar>(&mut self, x: &mut Value<T>, terms: f64) {
        match x {
            Value::Images(x) => self.disturb(x, terms),
            Value::Rows(x) => self.disturb(x, terms),
        }
    }
}

/// |gamma·rstd| of every channel, whichever statistics were used: the deviation of y divided by that of x.
fn slopes<T: Scalar>(x: &Value<T>, y: &Value<T>) -> Vec<f64> {
    let (Value::Images(x), Value::Images(y)) = (x, y) else { return Vec::new() };
    let deviation = |x: ArrayView3<'_, T>| {
        let mean = x.iter().map(|x| x.as_f64()).sum::<f64>() / x.len().max(1) as f64;
        x.iter().map(|x| (x.as_f64() - mean).powi(2)).sum::<f64>().sqrt()
    };
    let slope = |channel| {
        let of_x = deviation(x.index_axis(Axis(3), channel));
        // If x is constant, the slope is unknown and y is exact.
        if of_x == 0.0 { 0.0 } else { deviation(y.index_axis(Axis(3), channel)) / of_x }
    };
    (0..x.len_of(Axis(3))).map(slope).collect()
}

/// √(Σ x²/n) of the finite x, 0 if there are none.
fn rms(numbers: impl Iterator<Item = f64> + Clone) -> f64 {
    let finite = numbers.filter(|x| x.is_finite());
    let of = |scale: f64| {
        let (sum, n) = finite.clone().fold((0.0, 0usize), |(sum, n), x| (sum + (x / scale).powi(2), n + 1));
        scale * (sum / n.max(1) as f64).sqrt()
    };
    match of(1.0) {
        // A square overflows: compute in units of the largest x.
        rms if rms.is_infinite() => of(finite.clone().fold(0.0, |largest, x| x.abs().max(largest))),
        rms => rms,
    }
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
        // Differences of logits are rounded before the exponential is taken.
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
            // A copy. Where two copies are added again, their sum rounds once, far less than the error of either.
            Layer::Add | Layer::ZeroPadShortcut(_) => return,
        };
        gradients.iter_mut().for_each(|gradient| self.disturb_value(gradient, terms as f64));
        parameters.iter_mut().for_each(|(_, gradient)| self.disturb(gradient, sums));
    }
}

/// Flips every gate that rounding can flip; see the [module documentation](self).
#[derive(Debug)]
pub struct Kinks<'a> {
    exact: &'a Forward<f64>,
    /// By the name of the step, the distance from its kink within which rounding can move an element to the other side.
    reach: HashMap<String, f64>,
    /// Whether the gates are opened or closed.
    pub open: bool,
}

impl<'a> Kinks<'a> {
    /// The kinks of `program` in the pass `exact`; each has reach 0 until [`Kinks::observe`] is called.
    pub fn new(program: &Program<f64>, exact: &'a Forward<f64>) -> Self {
        let has_kink = |step: &&Step<f64>| matches!(step.layer, Layer::Relu(_) | Layer::MaxPool2d(_));
        let reach = program.steps.iter().filter(has_kink).map(|step| (step.name.clone(), 0.0)).collect();
        Kinks { exact, reach, open: true }
    }

    /// Measures in a pass with noise how far the input of each kink deviates.
    pub fn observe(&mut self, program: &Program<f64>, noisy: &Forward<f64>) {
        for step in &program.steps {
            let Some(reach) = self.reach.get_mut(&step.name) else { continue };
            let value = step.reads[0];
            if let (Value::Images(a), Value::Images(b)) = (&self.exact.values[value], &noisy.values[value]) {
                *reach = reach.max(REACH * rms(a.iter().zip(b).map(|(a, b)| a - b)));
            }
        }
    }

    /// Whether rounding can flip any element.
    pub fn any(&self, program: &Program<f64>) -> bool {
        program.steps.iter().any(|step| {
            let Some(&reach) = self.reach.get(&step.name) else { return false };
            match (&step.layer, &self.exact.values[step.reads[0]]) {
                (Layer::Relu(_), Value::Images(x)) => x.iter().any(|x| x.abs() < reach),
                (Layer::MaxPool2d(pool), Value::Images(x)) => {
                    let mut found = false;
                    near_ties(pool, x, 2.0 * reach, |_, _, _| found = true);
                    found
                }
                _ => false,
            }
        })
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
        let Some(&reach) = self.reach.get(&step.name) else { return };
        let (Value::Images(x), Value::Images(dy), Value::Images(dx)) =
            (passage.reads[0], passage.dy, &mut gradients[0])
        else {
            return;
        };
        match &step.layer {
            Layer::Relu(relu) => {
                let slope = if self.open { 1.0 } else { relu.slope() };
                Zip::from(dx).and(x).and(dy).for_each(|dx, x, dy| {
                    if x.abs() < reach {
                        *dx = slope * dy;
                    }
                });
            }
            Layer::MaxPool2d(pool) if self.open => near_ties(pool, x, 2.0 * reach, |y, a, b| {
                dx[a] -= dy[y];
                dx[b] += dy[y];
            }),
            _ => {}
        }
    }
}

/// Calls `found(y, a, b)` with the indices of each window of x whose largest pixel, at a, exceeds the second, at b, by less
/// than `reach`. Equal pixels do not depend on rounding: the first wins.
fn near_ties(
    pool: &MaxPool2d,
    x: &Activation<f64>,
    reach: f64,
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
        let (mut a, mut b) = (None::<(f64, [usize; 4])>, None::<(f64, [usize; 4])>);
        for (p, q) in ndarray::indices(pool.kernel) {
            let (Some(row), Some(column)) = (place(0, i, p, h), place(1, j, q, w)) else { continue };
            let at = [image, row, column, c];
            let value = x[at];
            if a.is_none_or(|(largest, _)| value > largest) {
                (a, b) = (Some((value, at)), a);
            } else if a.is_some_and(|(largest, _)| value < largest) && b.is_none_or(|(second, _)| value > second) {
                b = Some((value, at));
            }
        }
        if let (Some((largest, a)), Some((second, b))) = (a, b)
            && largest - second < reach
        {
            found([image, i, j, c], a, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr1;

    #[test]
    fn what_is_not_finite_stays_and_spoils_nothing() {
        assert_eq!(rms([3.0, -4.0].into_iter()), 12.5f64.sqrt());
        assert_eq!(rms([3.0, f64::NAN, -4.0, f64::INFINITY].into_iter()), 12.5f64.sqrt());
        let huge = 2f64.powi(1000);
        assert_eq!(rms([3.0 * huge, -4.0 * huge].into_iter()), 4.0 * huge * (1.5625f64 / 2.0).sqrt());
        assert_eq!((rms([f64::NAN].into_iter()), rms([].into_iter())), (0.0, 0.0));

        let mut x = arr1(&[1.0, f64::INFINITY, f64::NAN, -2.0]);
        Rounding::new(2f64.powi(-24), 0).disturb(&mut x, 9.0);
        assert!((x[0] - 1.0).abs() < 1e-4 && x[0] != 1.0 && (x[3] + 2.0).abs() < 1e-4);
        assert!(x[1] == f64::INFINITY && x[2].is_nan());
    }

    #[test]
    fn near_ties_are_those_of_the_definition() {
        // Windows of 3x3 with stride 2 and padding.
        let x = Activation::from_shape_fn((2, 5, 6, 2), |(n, i, j, c)| ((31 * n + 7 * i + 11 * j + 5 * c) % 17) as f64);
        let pool = MaxPool2d::new([3, 3], [2, 2], [1, 1]);
        let (y, _) = pool.forward(&x).unwrap();
        let mut windows = 0;
        near_ties(&pool, &x, 1.5, |at, a, b| {
            assert_eq!((x[a], x[b]), (y[at], y[at] - 1.0), "{at:?}");
            for (axis, size) in [(1, 3), (2, 3)] {
                let begin = (2 * at[axis] as isize) - 1;
                for place in [a, b] {
                    assert!((begin..begin + size).contains(&(place[axis] as isize)), "{at:?}: {place:?}");
                }
            }
            windows += 1;
        });
        let mut expected = 0;
        for ((n, i, j, c), y) in y.indexed_iter() {
            let window = (0..9).filter_map(|tap| {
                let at = [(2 * i + tap / 3).checked_sub(1)?, (2 * j + tap % 3).checked_sub(1)?];
                x.get([n, at[0], at[1], c]).copied()
            });
            expected += usize::from(window.into_iter().any(|x| x == y - 1.0));
        }
        assert!(windows == expected && windows > 0, "{windows} and {expected}");
        near_ties(&pool, &x, 0.5, |at, _, _| panic!("{at:?}: no two values are so close"));
    }

    /// A ReLU's x within reach of 0 is opened once and closed once; one beyond does not change.
    #[test]
    fn gates_within_reach_are_turned() {
        let x = Activation::from_shape_vec((1, 1, 1, 4), vec![1e-7, -1e-7, 0.5, -0.5]).unwrap();
        let mut program = Program::new();
        program.push("relu", Layer::Relu(crate::layers::Relu::new()), 0);
        let forward = |x: &Activation<f64>| {
            program.forward(Value::Images(x.clone()), crate::layers::Mode::Train, &mut crate::program::Undisturbed)
        };
        let exact = forward(&x).unwrap();
        let mut kinks = Kinks::new(&program, &exact);
        assert!(!kinks.any(&program));
        kinks.observe(&program, &forward(&(&x + 2e-7).into_shared()).unwrap());
        assert!(kinks.any(&program));
        let dy = Activation::from_shape_vec((1, 1, 1, 4), vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        for (open, expected) in [(true, [1.0, 2.0, 3.0, 0.0]), (false, [0.0, 0.0, 3.0, 0.0])] {
            kinks.open = open;
            let backward = program.backward(Value::Images(dy.clone()), &exact, &mut kinks).unwrap();
            let Some(Value::Images(dx)) = &backward.values[0] else { panic!("no dx") };
            assert_eq!(dx.as_slice().unwrap(), expected);
        }
    }
}
