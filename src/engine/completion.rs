//! The gradients of the whole batch, from those of every process.
//!
//! The gradients of a batch norm are sums that the backward pass itself needs, so every process has them already. Those of
//! the convolutions and of the last layer have many values, and nothing needs them before the step. They are exchanged
//! ([`Shards::complete`]) block by block, while the backward pass continues with the block before.

use crate::model::ResNet;
use crate::parameters::{Gradients, Parameters as _, Role};
use crate::shards::Shards;
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

/// Tensors are exchanged together until they have this many values (1 MB): a message has a cost of its own.
const BUCKET: usize = 1 << 18;

/// Names and shapes of tensors whose values follow each other.
type Parts = Vec<(String, IxDyn)>;

/// The gradients of a backward pass in progress.
pub(super) struct Completion<'a> {
    shards: &'a Shards,
    model: &'a ResNet<f32>,
    /// The shapes of the convolutions' weights and of the last layer's weight and bias; empty with one process.
    shapes: HashMap<String, IxDyn>,
    complete: Gradients<f32>,
    /// Tensors whose exchange has not begun: names and shapes, and for each subtree the sums of all of them.
    parts: Parts,
    own: Vec<Vec<f32>>,
    /// Tensors that are exchanged together, and their values.
    exchanged: Vec<(Parts, Receiver<Vec<f32>>)>,
}

impl<'a> Completion<'a> {
    pub fn new(shards: &'a Shards, model: &'a ResNet<f32>) -> Self {
        let mut shapes = HashMap::new();
        if shards.processes().size() > 1 {
            model.visit("", &mut |name, role, tensor| {
                if matches!(role, Role::Weight | Role::Bias) {
                    shapes.insert(name.to_string(), tensor.raw_dim());
                }
            });
        }
        let (complete, parts, own, exchanged) = (Gradients::new(), Vec::new(), Vec::new(), Vec::new());
        Completion { shards, model, shapes, complete, parts, own, exchanged }
    }

    /// Takes the gradients of some layers: complete ones of batch norms, [`stacked`] ones of the others, whose exchange begins
    /// if they are many.
    pub fn take(&mut self, gradients: Gradients<f32>) {
        let (stacks, complete): (Vec<_>, Vec<_>) =
            gradients.into_entries().into_iter().partition(|(name, _)| self.shapes.contains_key(name));
        complete.into_iter().for_each(|(name, gradient)| self.complete.push("", &name, gradient));
        for (name, stack) in stacks {
            let shape = self.shapes[&name].clone();
            let values = stack.as_slice().expect("contiguous").chunks_exact(shape.size());
            self.own.resize(self.shards.own_subtrees(), Vec::new());
            self.own.iter_mut().zip(values).for_each(|(own, sum)| own.extend_from_slice(sum));
            self.parts.push((name, shape));
        }
        if self.waiting() >= BUCKET {
            self.exchange();
        }
    }

    /// Values of the tensors whose exchange has not begun.
    fn waiting(&self) -> usize {
        self.parts.iter().map(|(_, shape)| shape.size()).sum()
    }

    /// Begins the exchange of what waits for it.
    fn exchange(&mut self) {
        let (length, parts, own) = (self.waiting(), std::mem::take(&mut self.parts), std::mem::take(&mut self.own));
        let ((sender, receiver), shards) = (channel(), self.shards.clone());
        self.shards.processes().in_background(Box::new(move |processes| {
            // The receiver is gone if the pass has failed.
            let _ = sender.send(shards.complete(processes, own, length));
        }));
        self.exchanged.push((parts, receiver));
    }

    /// Waits for the exchanges; all gradients in the order of the model.
    pub fn finish(mut self) -> Gradients<f32> {
        if !self.parts.is_empty() {
            self.exchange();
        }
        for (parts, receiver) in self.exchanged {
            let values = receiver.recv().expect("the exchange ends with the sums");
            let mut rest = &values[..];
            for (name, shape) in parts {
                let (values, others) = rest.split_at(shape.size());
                rest = others;
                let gradient = ArrayD::from_shape_vec(shape, values.to_vec()).expect("the values of this tensor");
                self.complete.push("", &name, gradient);
            }
        }
        self.complete.in_order_of(self.model)
    }
}
