//! The choices of a pass: which ReLUs are open, which pixel of a window is the maximum.
//!
//! A ReLU network is smooth only between its kinks. A *kink* is a point where a choice changes: there the function has
//! no derivative, and a finite difference across it is between the slopes of the two sides. With a million ReLUs, a
//! step of 10⁻⁵ crosses some nearly every time. So the choices of one pass are recorded ([`Record`]) and imposed on
//! another ([`Replay`]):
//!
//! ```text
//! ReLU       y = x where it was open,  slope · x elsewhere        dx = dy where it was open,  slope · dy elsewhere
//! max pool   y = x[the pixel that was the maximum]                dx[the pixel that was the maximum] += dy
//! ```
//!
//! With its choices held fixed, a network is smooth. It equals the original network in a neighbourhood of the recorded
//! point, so it has the same gradient there, and its finite differences are accurate to ten digits; see
//! [`crate::verify::network`]. And two passes in different arithmetic can be compared even where an input is so near 0
//! that rounding decides its sign.
//!
//! ```
//! use ndarray::Array4;
//! use resnet_by_hand::layers::{Mode, Relu};
//! use resnet_by_hand::program::{Layer, Program, Record, Replay, Value};
//! let mut program = Program::new();
//! program.push("relu", Layer::Relu(Relu::new()), 0);
//! let images = |x: [f64; 2]| Value::Images(Array4::from_shape_vec((1, 1, 2, 1), x.to_vec()).unwrap().into_shared());
//!
//! let mut record = Record::default();
//! program.forward(images([3.0, -3.0]), Mode::Eval, &mut record)?;
//! let forward = program.forward(images([-1.0, 1.0]), Mode::Eval, &mut Replay::new(&program, &record.choices))?;
//! let Some(Value::Images(y)) = forward.values.last() else { panic!("a ReLU makes images of images") };
//! assert_eq!(y.as_slice().unwrap(), [-1.0, 0.0]); // the first passes, the second does not
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use super::{Disturb, Layer, Passage, Program, Step, Value};
use crate::layers::Relu;
use crate::parameters::Gradients;
use crate::{Activation, Scalar};
use ndarray::{Array2, Array4};
use std::collections::HashMap;

/// The choices of one step, one entry per value of its result in memory order (N, H, W, C).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Whether each ReLU is open.
    Relu(Vec<bool>),
    /// The pixel h·W + w of its image from which each maximum was taken.
    MaxPool(Vec<u32>),
}

impl Choice {
    /// Number of entries in which two records of the same step differ.
    ///
    /// # Panics
    /// If they belong to different steps.
    pub fn differences(&self, other: &Choice) -> usize {
        assert_eq!(self.len(), other.len(), "choices of different steps");
        match (self, other) {
            (Choice::Relu(a), Choice::Relu(b)) => a.iter().zip(b).filter(|(a, b)| a != b).count(),
            (Choice::MaxPool(a), Choice::MaxPool(b)) => a.iter().zip(b).filter(|(a, b)| a != b).count(),
            _ => panic!("choices of different steps"),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Choice::Relu(open) => open.len(),
            Choice::MaxPool(argmax) => argmax.len(),
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn what(&self) -> &'static str {
        match self {
            Choice::Relu(_) => "a ReLU",
            Choice::MaxPool(_) => "a max pool",
        }
    }
}

/// Records the choices of a forward pass.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The choices of every ReLU and max pool so far, in the order of the steps.
    pub choices: Vec<Choice>,
}

impl<T: Scalar> Disturb<T> for Record {
    fn result(&mut self, step: &Step<T>, reads: &[&Value<T>], _: &mut Value<T>) {
        let Value::Images(x) = reads[0] else { return };
        match &step.layer {
            Layer::Relu(_) => self.choices.push(Choice::Relu(x.iter().map(|&x| x > T::zero()).collect())),
            Layer::MaxPool2d(pool) => {
                let (_, cache) = pool.forward(x).expect("the pass has just done the same");
                self.choices.push(Choice::MaxPool(cache.argmax().to_vec()));
            }
            _ => {}
        }
    }

    fn logits(&mut self, _: &mut Array2<T>) {}

    fn gradients(&mut self, _: &Step<T>, _: Passage<'_, T>, _: &mut [Value<T>], _: &mut Gradients<T>) {}
}

/// Imposes the choices of an earlier pass, forward and backward. It has no state: one `Replay` can be used for any
/// number of passes.
#[derive(Clone, Debug)]
pub struct Replay<'a> {
    /// By the name of the step.
    choices: HashMap<String, &'a Choice>,
}

impl<'a> Replay<'a> {
    /// `choices` are those of all ReLUs and max pools of `program`, in the order of its steps.
    ///
    /// # Panics
    /// If they do not belong to `program`.
    pub fn new<T: Scalar>(program: &Program<T>, choices: &'a [Choice]) -> Self {
        let kinds = program.steps.iter().filter_map(|step| match step.layer {
            Layer::Relu(_) => Some((&step.name, "a ReLU")),
            Layer::MaxPool2d(_) => Some((&step.name, "a max pool")),
            _ => None,
        });
        let kinds: Vec<_> = kinds.collect();
        let (found, steps) = (choices.len(), kinds.len());
        assert_eq!(found, steps, "replay: choices of {found} layers for a program with {steps} ReLUs and max pools");
        for ((name, kind), choice) in kinds.iter().zip(choices) {
            assert_eq!(*kind, choice.what(), "replay: `{name}` is {kind}, but its choice is of {}", choice.what());
        }
        Replay { choices: kinds.into_iter().map(|(name, _)| name.clone()).zip(choices).collect() }
    }

    /// The choices at `step`, one entry for each of its `values`.
    fn of<T: Scalar>(&self, step: &Step<T>, values: usize) -> &'a Choice {
        let name = &step.name;
        let choice = self.choices.get(name).unwrap_or_else(|| panic!("replay: no choice for `{name}`"));
        let found = choice.len();
        assert_eq!(found, values, "replay: {found} choices for the {values} values of `{name}`");
        choice
    }
}

impl<T: Scalar> Disturb<T> for Replay<'_> {
    fn result(&mut self, step: &Step<T>, reads: &[&Value<T>], value: &mut Value<T>) {
        let (Value::Images(x), Value::Images(y)) = (reads[0], value) else { return };
        match &step.layer {
            Layer::Relu(relu) => *y = gated(relu, x, self.of(step, y.len())),
            Layer::MaxPool2d(_) => {
                let places = places(x, y.dim(), self.of(step, y.len()));
                y.iter_mut().zip(places).for_each(|(y, place)| *y = x[place]);
            }
            _ => {}
        }
    }

    fn logits(&mut self, _: &mut Array2<T>) {}

    fn gradients(
        &mut self,
        step: &Step<T>,
        Passage { reads, dy, .. }: Passage<'_, T>,
        gradients: &mut [Value<T>],
        _: &mut Gradients<T>,
    ) {
        let (Value::Images(x), Value::Images(dy), Value::Images(dx)) = (reads[0], dy, &mut gradients[0]) else {
            return;
        };
        match &step.layer {
            Layer::Relu(relu) => *dx = gated(relu, dy, self.of(step, dy.len())),
            Layer::MaxPool2d(_) => {
                dx.fill(T::zero());
                let places = places(x, dy.dim(), self.of(step, dy.len()));
                dy.iter().zip(places).for_each(|(&dy, place)| dx[place] += dy);
            }
            _ => {}
        }
    }
}

/// The values where the ReLU was open, slope · value elsewhere; for a slope of 0 that is 0, even for an infinite value.
fn gated<T: Scalar>(relu: &Relu<T>, values: &Activation<T>, choice: &Choice) -> Activation<T> {
    let Choice::Relu(open) = choice else { panic!("replay: a ReLU got the choice of {}", choice.what()) };
    let closed = |value: T| if relu.is_leaky() { relu.slope() * value } else { T::zero() };
    let gated = values.iter().zip(open).map(|(&value, &open)| if open { value } else { closed(value) });
    Array4::from_shape_vec(values.dim(), gated.collect()).expect("one gate per value").into_shared()
}

/// The index in x of each value of a max pool of shape `y`.
fn places<'a, T: Scalar>(
    x: &Activation<T>,
    y: (usize, usize, usize, usize),
    choice: &'a Choice,
) -> impl Iterator<Item = [usize; 4]> + use<'a, T> {
    let Choice::MaxPool(argmax) = choice else { panic!("replay: a max pool got the choice of {}", choice.what()) };
    let (_, height, width, _) = x.dim();
    let pixels = height * width;
    ndarray::indices(y).into_iter().zip(argmax).map(move |((image, _, _, channel), &pixel)| {
        let pixel = pixel as usize;
        assert!(pixel < pixels, "replay: pixel {pixel} of a max pool whose images have {pixels} pixels");
        [image, pixel / width, pixel % width, channel]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{MaxPool2d, Mode};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn row(values: &[f64]) -> Activation<f64> {
        Array4::from_shape_vec((1, 1, values.len(), 1), values.to_vec()).unwrap().into_shared()
    }

    fn only(layer: Layer<f64>) -> Program<f64> {
        let mut program = Program::new();
        program.push("only", layer, 0);
        program
    }

    /// y and dx of a program of one step with its choices held fixed.
    fn replayed(
        program: &Program<f64>,
        x: &Activation<f64>,
        dy: &Activation<f64>,
        choice: &Choice,
    ) -> [Activation<f64>; 2] {
        let mut replay = Replay::new(program, std::slice::from_ref(choice));
        let forward = program.forward(Value::Images(x.clone()), Mode::Train, &mut replay).unwrap();
        let mut backward = program.backward(Value::Images(dy.clone()), &forward, &mut replay).unwrap();
        let images = |value: Option<Value<f64>>| match value {
            Some(Value::Images(x)) => x,
            other => panic!("images, not {other:?}"),
        };
        [images(forward.values.last().cloned()), images(backward.values.swap_remove(0))]
    }

    fn recorded(program: &Program<f64>, x: &Activation<f64>) -> Choice {
        let mut record = Record::default();
        program.forward(Value::Images(x.clone()), Mode::Train, &mut record).unwrap();
        record.choices.remove(0)
    }

    /// A recorded ReLU is open only above 0, whatever the sign of a zero: where its gradient passes.
    #[test]
    fn a_relu_is_recorded_as_open_above_zero_alone() {
        let x = row(&[0.0, -0.0, f64::MIN_POSITIVE, -f64::MIN_POSITIVE, 1.0]);
        for relu in [Relu::new(), Relu::leaky(0.25).unwrap()] {
            let choice = recorded(&only(Layer::Relu(relu)), &x);
            assert_eq!(choice, Choice::Relu(vec![false, false, true, false, true]));
        }
    }

    /// Only the replayed gates decide: an open one passes a negative value, a closed one scales a positive value; and
    /// backward uses the same gates, whatever the sign of y.
    #[test]
    fn a_replayed_gate_ignores_the_sign_of_its_input() {
        let (x, dy) = (row(&[8.0, -8.0, 4.0, -4.0]), row(&[1.0, 2.0, -3.0, 4.0]));
        for (relu, slope) in [(Relu::new(), 0.0), (Relu::leaky(0.25).unwrap(), 0.25)] {
            let choice = Choice::Relu(vec![true, true, false, false]);
            let [y, dx] = replayed(&only(Layer::Relu(relu)), &x, &dy, &choice);
            assert_eq!(y, row(&[8.0, -8.0, 4.0 * slope, -4.0 * slope]));
            assert_eq!(dx, row(&[1.0, 2.0, -3.0 * slope, 4.0 * slope]));
        }
        let infinite = row(&[f64::INFINITY, f64::NEG_INFINITY]);
        let [y, dx] = replayed(&only(Layer::Relu(Relu::new())), &infinite, &infinite, &Choice::Relu(vec![false, true]));
        assert_eq!((y, dx), (row(&[0.0, f64::NEG_INFINITY]), row(&[0.0, f64::NEG_INFINITY])));
    }

    /// Two images, two channels, overlapping windows: replayed in the recorded pass the choices change nothing; in
    /// another pass, y = x[argmax], and dx is its adjoint.
    #[test]
    fn a_replayed_max_pool_takes_the_pixels_of_the_record() {
        let whole = |shape, of: fn(usize) -> usize| {
            let mut i = 0;
            Array4::from_shape_simple_fn(shape, || {
                i += 1;
                of(i) as f64
            })
            .into_shared()
        };
        let pool = MaxPool2d::new([2, 3], [1, 2], [1, 1]);
        let program = only(Layer::MaxPool2d(pool));
        let x = whole((2, 3, 5, 2), |i| (i * 37) % 61);
        let (y, cache) = pool.forward(&x).unwrap();
        let dy = whole(y.dim(), |i| (i * 11) % 13);
        let choice = recorded(&program, &x);
        assert_eq!(choice, Choice::MaxPool(cache.argmax().to_vec()));
        assert_eq!(replayed(&program, &x, &dy, &choice), [y, pool.backward(&dy, &cache).unwrap()]);

        let other = whole((2, 3, 5, 2), |i| (i * 17) % 59);
        let [y, dx] = replayed(&program, &other, &dy, &choice);
        let pixels = |image: usize, channel: usize| {
            other.slice(ndarray::s![image, .., .., channel]).into_iter().collect::<Vec<_>>()
        };
        for (((image, _, _, channel), y), &argmax) in y.indexed_iter().zip(cache.argmax()) {
            assert_eq!(y, pixels(image, channel)[argmax as usize]);
        }
        assert_ne!(y, pool.forward(&other).unwrap().0, "the other pass must have other maxima");
        assert_eq!((&y * &dy).sum(), (&other * &dx).sum());
    }

    #[test]
    fn differences_are_counted() {
        assert_eq!(Choice::Relu(vec![true, false, true]).differences(&Choice::Relu(vec![true, true, false])), 2);
        assert_eq!(Choice::MaxPool(vec![3, 1]).differences(&Choice::MaxPool(vec![3, 2])), 1);
    }

    /// Everything in a record that does not fit the program is reported with its place.
    #[test]
    fn a_replay_out_of_step_is_refused() {
        let message = |choices: &[Choice]| {
            let mut program = only(Layer::Relu(Relu::new()));
            program.push("pool", Layer::MaxPool2d(MaxPool2d::new([1, 1], [1, 1], [0, 0])), 1);
            let pass = || {
                let mut replay = Replay::new(&program, choices);
                program.forward(Value::Images(row(&[1.0, 2.0])), Mode::Train, &mut replay)
            };
            *catch_unwind(AssertUnwindSafe(pass)).unwrap_err().downcast::<String>().unwrap()
        };
        let relu = |gates: usize| Choice::Relu(vec![true; gates]);
        let pool = |pixel| Choice::MaxPool(vec![0, pixel]);
        assert!(message(&[relu(2)]).contains("choices of 1 layers for a program with 2 ReLUs and max pools"));
        assert!(message(&[pool(1), relu(2)]).contains("`only` is a ReLU, but its choice is of a max pool"));
        assert!(message(&[relu(3), pool(1)]).contains("3 choices for the 2 values of `only`"));
        assert!(message(&[relu(2), pool(2)]).contains("pixel 2 of a max pool whose images have 2"));
        let other = only(Layer::Relu(Relu::<f64>::new()));
        let (choices, mut program) = ([relu(2)], Program::new());
        program.push("another", Layer::Relu(Relu::new()), 0);
        let mut replay = Replay::new(&other, &choices);
        let pass = || program.forward(Value::Images(row(&[1.0, 2.0])), Mode::Train, &mut replay);
        let message = *catch_unwind(AssertUnwindSafe(pass)).unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("no choice for `another`"), "{message}");
    }
}
