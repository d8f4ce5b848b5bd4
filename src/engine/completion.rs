//! The gradients of the whole batch, from those of every process.
//!
//! The gradients of a batch norm are sums that the backward pass itself needs, so every process has them already. Those of
//! the convolutions and of the last layer have many values, and nothing needs them before the step: at the end of the
//! backward pass they are exchanged together ([`Shards::complete`]).

use crate::model::ResNet;
use crate::parameters::{Gradients, Parameters as _, Role};
use crate::shards::Shards;
use ndarray::{Array, ArrayD, Dimension};
use std::collections::HashMap;

/// The sums of the subtrees that a process has, all of this shape, stacked along the first axis: with one process, the sum.
pub(super) fn stacked<D: Dimension>(mut sums: Vec<Array<f32, D>>, mut shape: D) -> Array<f32, D> {
    if sums.len() == 1 {
        return sums.remove(0);
    }
    shape[0] *= sums.len();
    let values = sums.iter().flat_map(|sum| sum.iter().copied()).collect();
    Array::from_shape_vec(shape, values).expect("all sums have this shape")
}

/// The gradients of `model` for the whole batch, in its order, from the [`stacked`] sums of the convolutions and the last
/// layer and the complete gradients of the batch norms.
pub(super) fn complete(shards: &Shards, model: &ResNet<f32>, gradients: Gradients<f32>) -> Gradients<f32> {
    let gradients = gradients.in_order_of(model);
    let processes = shards.processes();
    if processes.size() == 1 {
        return gradients;
    }
    let mut shapes = HashMap::new();
    model.visit("", &mut |name, role, tensor| {
        if matches!(role, Role::Weight | Role::Bias) {
            shapes.insert(name.to_string(), tensor.raw_dim());
        }
    });
    let length: usize = shapes.values().map(Dimension::size).sum();
    // One vector for each subtree: its sum of every tensor.
    let mut own = vec![Vec::with_capacity(length); shards.own_subtrees()];
    for (name, stack) in gradients.iter() {
        if let Some(shape) = shapes.get(name) {
            let stack = stack.as_slice().expect("contiguous");
            own.iter_mut().zip(stack.chunks_exact(shape.size())).for_each(|(own, sum)| own.extend_from_slice(sum));
        }
    }
    let mut values = shards.complete(&**processes, own, length).into_iter();
    let mut complete = Gradients::new();
    for (name, gradient) in gradients.into_entries() {
        let gradient = match shapes.remove(&name) {
            Some(shape) => {
                let values = values.by_ref().take(shape.size()).collect();
                ArrayD::from_shape_vec(shape, values).expect("the values of this tensor")
            }
            None => gradient,
        };
        complete.push("", &name, gradient);
    }
    complete
}
