//! The choices of a forward pass: which ReLUs are open, which value of a window is the maximum.
//!
//! A ReLU network is piecewise linear between its normalisations. A *kink* lies where a choice flips: there the function
//! has no derivative, and a finite difference that steps across one measures something between the slopes of the two
//! sides. With a million ReLUs, a step of 10⁻⁵ crosses some nearly every time. [`Gates`] makes the choices visible so
//! that a gradient check can hold them at the base point ("kink-locked"): the network then *is* smooth, its gradient at
//! the base point is the same, and finite differences are accurate to ten digits; see [`crate::verify`].
//!
//! A plain pass is `Gates::Free` and costs nothing.

use super::pool::{MaxPool2d, MaxPool2dCache};
use super::relu::{Relu, ReluCache};
use super::Activation;
use crate::{Result, Scalar};
use std::collections::VecDeque;

/// The choices of one layer, one entry per value in memory order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Whether each ReLU is open.
    Relu(Vec<bool>),
    /// Which pixel of the image each max-pool output was taken from.
    MaxPool(Vec<u32>),
}

impl Choice {
    /// Number of entries in which two records of the same layer differ.
    ///
    /// # Panics
    /// If they are not of the same layer.
    pub fn differences(&self, other: &Choice) -> usize {
        match (self, other) {
            (Choice::Relu(a), Choice::Relu(b)) => a.iter().zip(b).filter(|(a, b)| a != b).count(),
            (Choice::MaxPool(a), Choice::MaxPool(b)) => a.iter().zip(b).filter(|(a, b)| a != b).count(),
            _ => panic!("choices of different layers"),
        }
    }
}

/// Who makes the choices of a forward pass.
#[derive(Clone, Debug, Default)]
pub enum Gates {
    /// Each layer, from its input: the usual pass.
    #[default]
    Free,
    /// The same, and every choice is written down in order.
    Record(Vec<Choice>),
    /// The choices come from an earlier pass, first in first out.
    Replay(VecDeque<Choice>),
}

impl Gates {
    /// `relu.forward(x)`, its gates recorded or replayed.
    pub fn relu<T: Scalar>(&mut self, relu: &Relu<T>, x: Activation<T>) -> (Activation<T>, ReluCache<T>) {
        match self {
            Gates::Free => relu.forward(x),
            Gates::Record(choices) => {
                let (y, cache) = relu.forward(x);
                choices.push(Choice::Relu(relu.gate(&cache)));
                (y, cache)
            }
            Gates::Replay(choices) => match choices.pop_front() {
                Some(Choice::Relu(gate)) => relu.forward_gated(x, &gate),
                other => panic!("replay out of step: a ReLU met {other:?}"),
            },
        }
    }

    /// `pool.forward(x)`, its maxima recorded or replayed.
    ///
    /// # Errors
    /// As [`MaxPool2d::forward`].
    pub fn max_pool<T: Scalar>(
        &mut self,
        pool: &MaxPool2d,
        x: &Activation<T>,
    ) -> Result<(Activation<T>, MaxPool2dCache)> {
        match self {
            Gates::Free => pool.forward(x),
            Gates::Record(choices) => {
                let (y, cache) = pool.forward(x)?;
                choices.push(Choice::MaxPool(cache.argmax().to_vec()));
                Ok((y, cache))
            }
            Gates::Replay(choices) => match choices.pop_front() {
                Some(Choice::MaxPool(argmax)) => pool.forward_chosen(x, argmax),
                other => panic!("replay out of step: a max pool met {other:?}"),
            },
        }
    }
}
