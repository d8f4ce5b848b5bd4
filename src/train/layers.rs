//! The effect of one step on every trained tensor.
//!
//! ```text
//! weight norm      ‖w‖₂            before the step
//! gradient norm    ‖∂L/∂w‖₂        of the loss alone, without weight decay; after clipping, if the recipe clips
//! update ratio     ‖Δw‖₂ / ‖w‖₂    Δw = w after − w before: learning rate, momentum and weight decay included
//! ```
//!
//! Gradients that decrease from the last layer to the first are said to vanish. A ratio far below those of the other
//! tensors means that a layer hardly learns, one near 1 that it is overwritten at every step.
//!
//! Every norm is a sum in `f64` in the order of the tensor, on one thread, so it does not depend on the number of
//! threads. Cost: a copy of the weights and a pass over weights and gradients; so it is computed once per epoch, at its
//! last step ([`Trainer::layers`](super::Trainer::layers)).

use crate::Scalar;
use crate::parameters::{Gradients, Parameters};
use ndarray::ArrayD;

/// One trained tensor in one step: see the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct LayerMetrics {
    /// Its name, as in torchvision.
    pub parameter: String,
    /// ‖w‖₂ before the step.
    pub weight_norm: f64,
    /// ‖∂L/∂w‖₂.
    pub gradient_norm: f64,
    /// ‖Δw‖₂ / ‖w‖₂; `None` if ‖w‖₂ = 0, because then the ratio is undefined, even if Δw is 0 as well. This is so for β
    /// of batch norm before the first step.
    pub update_ratio: Option<f64>,
}

/// A copy of every trained tensor, in the model's order.
pub(super) fn copy<T: Scalar>(model: &impl Parameters<T>) -> Vec<ArrayD<T>> {
    let mut tensors = Vec::new();
    model.visit("", &mut |_, role, tensor| {
        if role.is_trained() {
            tensors.push(tensor.to_owned());
        }
    });
    tensors
}

/// Measures the step from `before` to `after` by `gradients`; all three have the same tensors in the same order.
pub(super) fn measure<T: Scalar>(
    before: &[ArrayD<T>],
    after: &impl Parameters<T>,
    gradients: &Gradients<T>,
) -> Vec<LayerMetrics> {
    let mut rest = before.iter().zip(gradients.iter());
    let mut layers = Vec::with_capacity(before.len());
    after.visit("", &mut |name, role, tensor| {
        if !role.is_trained() {
            return;
        }
        let (before, (_, gradient)) = rest.next().expect("a step keeps the model's tensors");
        let weight_norm = norm(before.iter().map(|w| w.as_f64()));
        let update_norm = norm(tensor.iter().zip(before).map(|(after, before)| after.as_f64() - before.as_f64()));
        layers.push(LayerMetrics {
            parameter: name.to_string(),
            weight_norm,
            gradient_norm: norm(gradient.iter().map(|g| g.as_f64())),
            update_ratio: (weight_norm != 0.0).then(|| update_norm / weight_norm),
        });
    });
    layers
}

/// √(Σ v²), in the order of the values.
fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Role;
    use ndarray::{Array1, ArrayViewD, ArrayViewMutD, arr1};

    struct Model(Array1<f32>, Array1<f32>);

    impl Parameters<f32> for Model {
        fn visit(&self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, f32>)) {
            visitor("bn1.weight", Role::Gamma, self.0.view().into_dyn());
            visitor("bn1.running_mean", Role::Statistic, self.0.view().into_dyn());
            visitor("bn1.bias", Role::Beta, self.1.view().into_dyn());
        }
        fn visit_mut(&mut self, _: &str, _: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, f32>)) {
            unreachable!("measuring changes nothing");
        }
    }

    #[test]
    fn norms_by_hand() {
        let before = copy(&Model(arr1(&[3.0, 4.0]), arr1(&[0.0, 0.0])));
        let mut gradients = Gradients::new();
        gradients.push("bn1", "weight", arr1(&[5.0f32, 12.0]));
        gradients.push("bn1", "bias", arr1(&[0.0f32, 2.0]));
        let layers = measure(&before, &Model(arr1(&[3.0, 4.5]), arr1(&[0.0, 1.0])), &gradients);
        let gamma = LayerMetrics {
            parameter: "bn1.weight".to_string(),
            weight_norm: 5.0,
            gradient_norm: 13.0,
            update_ratio: Some(0.1),
        };
        let beta = LayerMetrics {
            parameter: "bn1.bias".to_string(),
            weight_norm: 0.0,
            gradient_norm: 2.0,
            update_ratio: None,
        };
        assert_eq!(layers, [gamma, beta]);
    }
}
