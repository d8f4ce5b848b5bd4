//! The unit of which every network is built: convolution, batch norm and, optionally, an activation.
//!
//! ```text
//! y = act(bn(conv(x)))
//! ```
//!
//! The convolution has no bias: the batch norm after it would cancel it.

use crate::layers::batch_norm::{BatchNorm2dCache, BatchNorm2dGrads};
use crate::layers::conv2d::{Conv2dCache, Conv2dGrads};
use crate::layers::relu::ReluCache;
use crate::layers::{BatchNorm2d, Conv2d, Mode, Relu};
use crate::parameters::{Gradients, Parameters, Role, join};
use crate::{Activation, Result, Scalar};
use ndarray::{Array4, ArrayViewD, ArrayViewMutD};

/// Convolution, batch norm, activation; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Unit<T> {
    /// The convolution, without bias.
    pub conv: Conv2d<T>,
    /// Its batch norm.
    pub bn: BatchNorm2d<T>,
    /// ReLU or leaky ReLU, if the unit ends in one.
    pub activation: Option<Relu<T>>,
    /// Names of the convolution and of the batch norm in the state dict, e.g. `["conv1", "bn1"]`.
    pub names: [String; 2],
}

/// What [`Unit::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct UnitCache<T> {
    conv: Conv2dCache<T>,
    bn: BatchNorm2dCache<T>,
    activation: Option<ReluCache<T>>,
}

/// Gradients of a [`Unit`]'s parameters.
#[derive(Clone, Debug)]
pub struct UnitGrads<T> {
    /// The gradients of the convolution.
    pub conv: Conv2dGrads<T>,
    /// The gradients of the batch norm.
    pub bn: BatchNorm2dGrads<T>,
}

impl<T: Scalar> Unit<T> {
    /// A unit `names = [conv, bn]` with a square kernel, padding (kernel − 1)/2 and zero weights.
    pub fn new(names: [&str; 2], [c_in, c_out]: [usize; 2], kernel: usize, stride: usize, groups: usize) -> Self {
        Unit {
            conv: conv(c_in, c_out, kernel, stride, groups),
            bn: BatchNorm2d::new(c_out),
            activation: None,
            names: names.map(String::from),
        }
    }

    /// The same unit ending in a ReLU.
    pub fn with_relu(self) -> Self {
        Unit { activation: Some(Relu::new()), ..self }
    }

    /// Returns y and the cache.
    ///
    /// # Errors
    /// The errors of the convolution and the batch norm.
    pub fn forward(&self, x: &Activation<T>, mode: Mode) -> Result<(Activation<T>, UnitCache<T>)> {
        let (h, conv) = self.conv.forward(x)?;
        let (h, bn) = self.bn.forward(&h, mode)?;
        let (y, activation) = match &self.activation {
            Some(relu) => {
                let (y, cache) = relu.forward(&h);
                (y, Some(cache))
            }
            None => (h, None),
        };
        Ok((y, UnitCache { conv, bn, activation }))
    }

    /// `(dx, grads)` for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(&self, dy: &Activation<T>, cache: &UnitCache<T>) -> Result<(Activation<T>, UnitGrads<T>)> {
        let (dh, bn) = self.backward_to_conv(dy, cache)?;
        let (dx, conv) = self.conv.backward(&dh, &cache.conv)?;
        Ok((dx, UnitGrads { conv, bn }))
    }

    /// Only the gradients of the parameters: for the first unit of a network, whose dx is not needed.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn parameter_gradients(&self, dy: &Activation<T>, cache: &UnitCache<T>) -> Result<UnitGrads<T>> {
        let (dh, bn) = self.backward_to_conv(dy, cache)?;
        Ok(UnitGrads { conv: self.conv.parameter_gradients(&dh, &cache.conv)?, bn })
    }

    /// Backward through activation and batch norm: the gradient of the convolution's output.
    fn backward_to_conv(
        &self,
        dy: &Activation<T>,
        cache: &UnitCache<T>,
    ) -> Result<(Activation<T>, BatchNorm2dGrads<T>)> {
        match (&self.activation, &cache.activation) {
            (Some(relu), Some(activation)) => self.bn.backward(&relu.backward(dy, activation)?, &cache.bn),
            _ => self.bn.backward(dy, &cache.bn),
        }
    }

    /// Updates the running statistics with those of the batch of a training pass.
    pub fn update_running_statistics(&mut self, cache: &UnitCache<T>) {
        self.bn.update_running_statistics(&cache.bn);
    }
}

/// A convolution with a square kernel, padding (kernel − 1)/2, no bias and zero weights.
pub(crate) fn conv<T: Scalar>(c_in: usize, c_out: usize, kernel: usize, stride: usize, groups: usize) -> Conv2d<T> {
    Conv2d {
        stride: [stride; 2],
        padding: [(kernel - 1) / 2; 2],
        groups,
        ..Conv2d::new(Array4::zeros((c_out, c_in / groups, kernel, kernel)))
    }
}

impl<T: Scalar> Parameters<T> for Unit<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        self.conv.visit(&join(path, &self.names[0]), visitor);
        self.bn.visit(&join(path, &self.names[1]), visitor);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        self.conv.visit_mut(&join(path, &self.names[0]), visitor);
        self.bn.visit_mut(&join(path, &self.names[1]), visitor);
    }
}

impl<T: Scalar> UnitGrads<T> {
    /// Adds these gradients to `gradients` under the names of `unit` at `path`.
    pub fn collect(self, unit: &Unit<T>, path: &str, gradients: &mut Gradients<T>) {
        self.conv.collect(&join(path, &unit.names[0]), gradients);
        self.bn.collect(&join(path, &unit.names[1]), gradients);
    }
}
