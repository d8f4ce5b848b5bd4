//! A step of SGD whose terms can be left out or changed.

use crate::oracle::dump::Request;
use crate::tensors::{Tensor, Tensors};
use ndarray::ArrayD;

/// The terms of a step of SGD, each of which can be left out or changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SgdTerms {
    pub lr: f64,
    pub momentum: f64,
    /// Weight of the gradient in the buffer, and in the buffer of the first step.
    pub gradient: [f64; 2],
    pub decay: f64,
    pub nesterov: bool,
    /// Whether the decay is added after the buffer.
    pub late_decay: bool,
    /// Whether the learning rate is in the buffer.
    pub lr_in_buffer: bool,
}

impl SgdTerms {
    pub fn of(request: &Request) -> Self {
        let sgd = &request.sgd;
        SgdTerms {
            lr: request.lr,
            momentum: sgd.momentum,
            gradient: [1.0 - sgd.dampening, 1.0],
            decay: sgd.weight_decay,
            nesterov: sgd.nesterov,
            late_decay: false,
            lr_in_buffer: false,
        }
    }

    /// `param` and `momentum_buffer` after a step.
    pub fn step(&self, input: &Tensors) -> Tensors {
        let real = |name: &str| input.get(name).map(Tensor::to_f64);
        let (mut param, grad) = (real("param").expect("given"), real("grad").expect("given"));
        let (early, late) = if self.late_decay { (0.0, self.decay) } else { (self.decay, 0.0) };
        let scale = if self.lr_in_buffer { self.lr } else { 1.0 };
        let gradient: ArrayD<f64> = (&grad + &(&param * early)) * scale;
        let buffer = match real("momentum_buffer") {
            Some(buffer) => buffer * self.momentum + &gradient * self.gradient[0],
            None => &gradient * self.gradient[1],
        };
        let mut result = Tensors::new();
        let mut step = if self.momentum == 0.0 { gradient.clone() } else { buffer.clone() };
        if self.nesterov {
            step = &gradient + &(&buffer * self.momentum);
        }
        step = step + &param * late;
        param = param - step * if self.lr_in_buffer { 1.0 } else { self.lr };
        result.insert("param", param);
        if self.momentum != 0.0 {
            result.insert("momentum_buffer", buffer);
        }
        result
    }
}
