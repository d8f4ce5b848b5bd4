//! Exercise 15: the training loop. Chapter 16, docs/training_a_network.md.
//!
//! ```text
//! for every epoch:
//!     for every batch of `batch` images, in the order of this epoch (the last batch may be smaller):
//!         forward in training, loss, backward, one step with the learning rate of this epoch
//!     the mean loss of all images of the epoch
//! ```
//!
//! A model *adds* its gradients to those it has, so set them to zero before each batch.

use ndarray::{Array2, Axis};

/// A network. `forward` remembers what `backward` needs.
pub trait Model {
    /// Logits (N, K). In training it normalises with the batch, in evaluation with running statistics.
    fn forward(&mut self, x: &Array2<f64>, training: bool) -> Array2<f64>;
    /// Adds the gradients of the last batch to those that it has.
    fn backward(&mut self, dlogits: &Array2<f64>);
    fn zero_gradients(&mut self);
    /// parameter ← parameter − lr · gradient
    fn step(&mut self, lr: f64);
}

/// The mean cross-entropy of a batch and its gradient.
pub trait Loss {
    fn loss(&self, logits: &Array2<f64>, target: &[usize]) -> (f64, Array2<f64>);
}

/// x (N, F), the class of each row.
pub struct Images {
    pub x: Array2<f64>,
    pub target: Vec<usize>,
}

/// Trains one epoch for each of `orders`, which lists the images of an epoch in the order in which they are used; `lr` has the
/// learning rate of each epoch. Returns the mean loss over the images of each epoch.
pub fn train(
    model: &mut dyn Model,
    loss: &dyn Loss,
    images: &Images,
    orders: &[Vec<usize>],
    batch: usize,
    lr: &[f64],
) -> Vec<f64> {
    let mut losses: Vec<f64> = Vec::new();
    // <solution>
    for (order, &lr) in orders.iter().zip(lr) {
        let mut sum = 0.0;
        for indices in order.chunks(batch) {
            let x = images.x.select(Axis(0), indices);
            let target: Vec<usize> = indices.iter().map(|&i| images.target[i]).collect();
            model.zero_gradients();
            let logits = model.forward(&x, true);
            let (loss, dlogits) = loss.loss(&logits, &target);
            model.backward(&dlogits);
            model.step(lr);
            sum += loss * indices.len() as f64;
        }
        losses.push(sum / order.len() as f64);
    }
    losses
    // </solution>
}

/// The share of images whose largest logit is that of their class, from 0 to 1, in evaluation.
pub fn accuracy(model: &mut dyn Model, images: &Images) -> f64 {
    // <solution>
    let logits = model.forward(&images.x, false);
    let largest = |row: ndarray::ArrayView1<f64>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let right = logits.rows().into_iter().zip(&images.target).filter(|(row, target)| largest(*row) == **target).count();
    right as f64 / images.target.len() as f64
    // </solution>
}
