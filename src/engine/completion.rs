//! The gradients of the whole batch, from those of every process.
//!
//! The gradients of a batch norm are sums that the backward pass itself needs, so every process has them already; but not if
//! its statistics are those of groups of images. Those of the convolutions and of the last layer have many values, and nothing
//! needs them before the step. They are exchanged ([`Shards::complete`]), the large ones while the backward pass continues with
//! the block before.

use crate::model::ResNet;
use crate::parameters::{Gradients, Parameters as _, Role};
use crate::shards::{PIECE, Shards};
use ndarray::{Array, ArrayD, Dimension, IxDyn};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, channel};

/// The sums of the subtrees that a process has, all of this shape, stacked along the first axis: with one process, the sum.
pub(super) fn stacked<D: Dimension>(mut sums: Vec<Array<f32, D>>, mut shape: D) -> Array<f32, D> {
    if sums.len() == 1 {
        return sums.remove(0);
    }
    shape[0] *= sums.len();
    let sums: Vec<&[f32]> = sums.iter().map(|sum| sum.as_slice().expect("contiguous")).collect();
    let values = sums.concat();
    Array::from_shape_vec(shape, values).expect("all sums have this shape")
}

/// Names and shapes of tensors whose values follow each other.
type Parts = Vec<(String, IxDyn)>;

/// The gradients of a backward pass in progress.
pub(super) struct Completion<'a> {
    shards: &'a Shards,
    model: &'a ResNet<f32>,
    /// The shapes of the convolutions' weights and of the last layer's weight and bias, with groups also those of gamma and
    /// beta; empty with one process.
    shapes: HashMap<String, IxDyn>,
    complete: Gradients<f32>,
    /// Small tensors, which are exchanged together, because a message has a cost of its own: their names and shapes, and for
    /// each subtree the sums of all of them.
    small: (Parts, Vec<Vec<f32>>),
    /// Tensors whose exchange has begun, and their values.
    exchanged: Vec<(Parts, Receiver<Vec<f32>>)>,
}

impl<'a> Completion<'a> {
    pub fn new(shards: &'a Shards, model: &'a ResNet<f32>) -> Self {
        let mut shapes = HashMap::new();
        if shards.processes().size() > 1 {
            model.visit("", &mut |name, role, tensor| {
                if matches!(role, Role::Weight | Role::Bias) || (shards.has_groups() && role.is_trained()) {
                    shapes.insert(name.to_string(), tensor.raw_dim());
                }
            });
        }
        let small = (Vec::new(), vec![Vec::new(); shards.own_subtrees().len()]);
        Completion { shards, model, shapes, complete: Gradients::new(), small, exchanged: Vec::new() }
    }

    /// Takes the gradients of some layers: complete ones of batch norms without groups, and [`stacked`] ones of the others; the
    /// exchange of a large one begins.
    pub fn take(&mut self, gradients: Gradients<f32>) {
        for (name, gradient) in gradients.into_entries() {
            let Some(shape) = self.shapes.get(&name).cloned() else {
                self.complete.push("", &name, gradient);
                continue;
            };
            let stack = gradient.into_raw_vec_and_offset().0;
            if shape.size() >= PIECE {
                self.exchange(vec![(name, shape)], stack);
            } else {
                let sums = stack.chunks_exact(shape.size());
                self.small.1.iter_mut().zip(sums).for_each(|(all, sum)| all.extend_from_slice(sum));
                self.small.0.push((name, shape));
            }
        }
    }

    /// Begins the exchange of tensors, for each subtree the sums of all of them.
    fn exchange(&mut self, parts: Parts, mut stack: Vec<f32>) {
        let length = parts.iter().map(|(_, shape)| shape.size()).sum();
        let ((sender, receiver), shards) = (channel(), self.shards.clone());
        self.shards.processes().in_background(Box::new(move |processes| {
            shards.complete(processes, &mut stack, length);
            // The receiver is gone if the pass has failed.
            let _ = sender.send(stack);
        }));
        self.exchanged.push((parts, receiver));
    }

    /// Waits for the exchanges; all gradients in the order of the model.
    pub fn finish(mut self) -> Gradients<f32> {
        let (parts, sums) = std::mem::take(&mut self.small);
        if !parts.is_empty() {
            self.exchange(parts, sums.concat());
        }
        for (parts, receiver) in self.exchanged {
            let mut values = receiver.recv().expect("the exchange ends with the sums");
            for (name, shape) in parts {
                let rest = values.split_off(shape.size());
                let gradient = ArrayD::from_shape_vec(shape, std::mem::replace(&mut values, rest));
                self.complete.push("", &name, gradient.expect("the values of this tensor"));
            }
        }
        self.complete.in_order_of(self.model)
    }
}
