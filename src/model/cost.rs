//! The cost of a pass: multiply-adds and memory.

use super::unit::Unit;
use crate::layers::Conv2d;
use crate::{Result, Scalar};

/// Cost of a forward pass over a batch, as counted by [`crate::model::ResNet::cost`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-adds of convolutions and linear layers, the usual count ("FLOPs" in many papers). Backward costs twice
    /// as many.
    pub multiply_adds: u64,
    /// Elements kept from the forward pass for the backward pass.
    pub activations: u64,
    /// The largest array of one layer.
    pub largest: u64,
    /// Trained scalars.
    pub parameters: u64,
}

impl Cost {
    /// Bytes that a training step needs with `bytes` per element: parameters with gradients and momentum, activations,
    /// and the gradients that exist at the same time in the backward pass (about three arrays of the largest layer).
    pub fn training_bytes(&self, bytes: u64) -> u64 {
        bytes * (3 * self.parameters + self.activations + 3 * self.largest)
    }

    pub(crate) fn kept(&mut self, y: [usize; 4]) {
        let values = y.iter().map(|&d| d as u64).product();
        self.activations += values;
        self.largest = self.largest.max(values);
    }

    /// Adds a convolution on an input of shape `x`; its output is kept (as the input of a batch norm). Returns its
    /// shape.
    pub(crate) fn conv<T: Scalar>(&mut self, conv: &Conv2d<T>, x: [usize; 4]) -> Result<[usize; 4]> {
        let y = conv.output_shape(&x)?;
        let per_pixel: usize = conv.weight.shape().iter().product();
        self.multiply_adds += (y[0] * y[1] * y[2] * per_pixel) as u64;
        self.kept(y);
        Ok(y)
    }

    /// Adds a unit on an input of shape `x`; returns the shape of its output.
    pub(crate) fn unit<T: Scalar>(&mut self, unit: &Unit<T>, x: [usize; 4]) -> Result<[usize; 4]> {
        let y = self.conv(&unit.conv, x)?;
        if unit.activation.is_some() {
            self.kept(y);
        }
        Ok(y)
    }
}
