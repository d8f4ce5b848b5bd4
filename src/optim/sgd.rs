//! Stochastic gradient descent with momentum, bit-identical to `torch.optim.SGD`.
//!
//! ```text
//! in: parameters θ, gradients ∂L/∂θ, learning rate η; momentum μ, dampening τ, weight decay λ
//!
//!     g = ∂L/∂θ + λ θ                  weight decay, coupled (below)
//!     b = g                            first step
//!     b = μ b + (1 − τ) g              later steps
//!     d = g + μ b    Nesterov          d = b    otherwise          d = g    when μ = 0
//!     θ = θ − η d
//! ```
//!
//! # Sources
//! He et al. 2015 §4.2 (μ = 0.9, λ = 1e-4: [`SgdConfig::default`]); Polyak 1964 for the momentum; Sutskever et al. 2013
//! §2 for Nesterov's. Two of their conventions differ from those of this code, which are PyTorch's:
//!
//! - *The position of η.* Sutskever et al. keep a velocity v = μ v − η g and add it: θ = θ + v. Here b does not contain
//!   η, so v = −η b. For a constant η both are the same method; when η drops tenfold, theirs continues at the old speed
//!   for about 1/(1 − μ) steps and this one slows down at once (Goyal et al. 2017 §3, remark on momentum correction).
//! - *Where the Nesterov gradient is taken.* Theirs is the gradient at the look-ahead point θ + μ v. Here it is taken at
//!   the stored θ, which *is* the look-ahead point: substituting θ' = θ + μ v turns their two lines into
//!   θ' = θ' − η (g + μ b), the line above (Bengio et al. 2012, arXiv 1212.0901, §3.5).
//!
//! # Coupled and decoupled weight decay
//! λ θ is added to the gradient, as if the loss had the term ½ λ ‖θ‖². It therefore passes through the momentum and is
//! scaled by η: where the loss is flat, a weight ends up shrinking by about η λ/(1 − μ) per step. *Decoupled* decay
//! (Loshchilov & Hutter 2017, arXiv 1711.05101) shrinks θ directly, θ = (1 − η λ') θ − η d, and is never part of b.
//! With a constant η one can be converted into the other to first order (λ' = λ/(1 − μ)), but a λ taken from one kind
//! of recipe is off by a factor of ten in the other at μ = 0.9. Weight decay in the papers cited here is the coupled
//! one.
//!
//! By default it acts on every trained tensor, as in He et al. and PyTorch, γ and β of batch norm included;
//! [`DecayExemption::NormAndBias`] exempts these and the biases.
//!
//! # Rounding: what "bit-identical" means
//! μ, 1 − τ, λ and −η are computed in f64 and rounded once to the tensors' type. Then, per element, each line has one
//! rounding (`fma(x, y, z)` is x y + z rounded once):
//!
//! ```text
//! g = fma(λ, θ, g)              grad.add(param, alpha=weight_decay)            skipped when λ = 0
//! b = fma(1 − τ, g, round(μ b)) buf.mul_(momentum).add_(grad, alpha=1-dampening): two roundings
//! d = fma(μ, b, g)              grad.add(buf, alpha=momentum)
//! θ = fma(−η, d, θ)             param.add_(grad, alpha=-lr)
//! ```
//!
//! This was measured: PyTorch 2.15.0 on x86-64, `add` with `alpha` compared with both candidates over 471,072 random
//! elements in f32 and as many in f64, sizes 1 to 70,000, contiguous, strided, transposed and channels-last. With its
//! AVX2 and AVX-512 kernels every element, including the remainder after the last full vector, is the fused one (the
//! unfused one differs in 9 % of them). With `ATEN_CPU_CAPABILITY=default`, its code for machines without FMA, every
//! element is the unfused one. So PyTorch is bit-identical across sizes and layouts, but not across machines. This file
//! gives the results of machines with FMA, and the same results on machines without it, because [`f32::mul_add`] rounds
//! once everywhere. `foreach=True` and `fused=True` gave the same bits as the plain loop.
//!
//! # Cost
//! Per parameter: up to 4 multiply-adds, reads θ, g, b, writes θ, b; one element of state (none when μ = 0). Nothing is
//! allocated after the first step. Elements are independent, so splitting tensors into pieces for the threads cannot
//! change a bit. The loop runs in [`wide`]: on a processor with FMA the step is memory-bound (11.2 million parameters,
//! 2 threads: about 15 ms); without FMA, each `mul_add` is a call of the mathematical library, about 7 ns.
//!
//! # Example
//! One weight at 1, gradients 0.5 and 0.25, η = 0.5, μ = 0.5, no decay:
//!
//! ```
//! use ndarray::{arr1, Array1, ArrayViewD, ArrayViewMutD};
//! use resnet_by_hand::optim::{Sgd, SgdConfig};
//! use resnet_by_hand::parameters::{Gradients, Parameters, Role};
//!
//! struct Model { weight: Array1<f64> }
//! impl Parameters<f64> for Model {
//!     fn visit(&self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, f64>)) {
//!         visitor("weight", Role::Weight, self.weight.view().into_dyn());
//!     }
//!     fn visit_mut(&mut self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, f64>)) {
//!         visitor("weight", Role::Weight, self.weight.view_mut().into_dyn());
//!     }
//! }
//!
//! let mut model = Model { weight: arr1(&[1.0]) };
//! let mut sgd = Sgd::new(SgdConfig { momentum: 0.5, weight_decay: 0.0, ..SgdConfig::default() })?;
//! let mut step = |model: &mut Model, gradient: f64| {
//!     let mut gradients = Gradients::new();
//!     gradients.push("", "weight", arr1(&[gradient]));
//!     sgd.step(model, &gradients, 0.5)
//! };
//! step(&mut model, 0.5)?; // b = 0.5,               θ = 1    − 0.5·0.5
//! assert_eq!(model.weight[0], 0.75);
//! step(&mut model, 0.25)?; // b = 0.5·0.5 + 0.25,   θ = 0.75 − 0.5·0.5
//! assert_eq!(model.weight[0], 0.5);
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use crate::engine::kernels::simd::wide;
use crate::parameters::{Gradients, Parameters, Role};
use crate::{Error, Result, Scalar};
use ndarray::{ArrayD, ArrayViewMutD};

/// The trained tensors that are exempt from weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecayExemption {
    /// None: decay acts on every trained tensor, as in He et al. 2015 and PyTorch's default.
    #[default]
    None,
    /// γ and β of batch norm, and biases ([`Role::Gamma`], [`Role::Beta`], [`Role::Bias`]), as in Goyal et al. 2017
    /// §5.1 for γ and β, and in most later recipes.
    NormAndBias,
}

impl DecayExemption {
    /// Whether tensors of this role are exempt.
    pub fn exempts(self, role: Role) -> bool {
        self == DecayExemption::NormAndBias && matches!(role, Role::Gamma | Role::Beta | Role::Bias)
    }
}

/// The constants of the method during a run; the learning rate is an argument of [`Sgd::step`].
///
/// [`SgdConfig::default`] is He et al. 2015 §4.2: momentum 0.9, weight decay 1e-4, neither dampening nor Nesterov.
/// (PyTorch's own default is 0 for all.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdConfig {
    /// μ ≥ 0; with 0 there are no buffers.
    pub momentum: f64,
    /// τ ≥ 0: the gradient enters the buffer with weight 1 − τ, from the second step on.
    pub dampening: f64,
    /// λ ≥ 0, coupled.
    pub weight_decay: f64,
    /// Nesterov's momentum; requires μ > 0 and τ = 0.
    pub nesterov: bool,
    /// The tensors that are exempt from λ.
    pub decay_exemption: DecayExemption,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig {
            momentum: 0.9,
            dampening: 0.0,
            weight_decay: 1e-4,
            nesterov: false,
            decay_exemption: DecayExemption::None,
        }
    }
}

/// The optimiser: its configuration and the momentum buffers. See the [module](self) for the equations.
#[derive(Clone, Debug)]
pub struct Sgd<T> {
    config: SgdConfig,
    /// `b` of every trained tensor, in the model's order and in standard layout; empty before the first step, and
    /// always when μ = 0.
    buffers: Vec<(String, ArrayD<T>)>,
}

impl<T: Scalar> Sgd<T> {
    /// An optimiser before its first step.
    ///
    /// # Errors
    /// If a number is negative, infinite or NaN, or for Nesterov's momentum without momentum or with dampening.
    pub fn new(config: SgdConfig) -> Result<Self> {
        for (name, value) in
            [("momentum", config.momentum), ("dampening", config.dampening), ("weight_decay", config.weight_decay)]
        {
            check_number(name, value)?;
        }
        if config.nesterov && !(config.momentum > 0.0 && config.dampening == 0.0) {
            let (momentum, dampening) = (config.momentum, config.dampening);
            return Err(Error::argument(
                "sgd",
                format!("nesterov expects momentum > 0 and dampening = 0, got {momentum} and {dampening}"),
            ));
        }
        Ok(Sgd { config, buffers: Vec::new() })
    }

    /// The configuration.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }

    /// Moves every trained tensor of `model` one step of length `lr` (η) against `gradients`.
    ///
    /// `gradients` has exactly the trained tensors of `model`, by name and in order
    /// (see [`Gradients::in_order_of`]).
    ///
    /// # Errors
    /// If `lr` is negative, infinite or NaN, or a gradient or momentum buffer does not fit its tensor by name or shape.
    /// Everything is checked before anything is changed: after an error model and optimiser are unchanged.
    ///
    /// # Panics
    /// If `visit` and `visit_mut` of `model` disagree.
    pub fn step(&mut self, model: &mut impl Parameters<T>, gradients: &Gradients<T>, lr: f64) -> Result<()> {
        check_number("lr", lr)?;
        check_fit("gradient", model, gradients.len(), gradients.iter())?;
        let first = self.buffers.is_empty();
        if !first {
            check_fit("momentum buffer", model, self.buffers.len(), self.buffers())?;
        } else if self.config.momentum != 0.0 {
            self.buffers = gradients.iter().map(|(name, g)| (name.into(), ArrayD::zeros(g.raw_dim()))).collect();
        }

        let config = self.config;
        let mut gradients = gradients.iter();
        let mut buffers = self.buffers.iter_mut();
        model.visit_mut("", &mut |name, role, theta| {
            if !role.is_trained() {
                return;
            }
            let (expected, gradient) = gradients.next().expect("visit_mut visits more tensors than visit");
            assert_eq!(name, expected, "visit_mut visits the tensors in another order than visit");
            let weight_decay = if config.decay_exemption.exempts(role) { 0.0 } else { config.weight_decay };
            let update = Update {
                first,
                nesterov: config.nesterov,
                momentum: T::of(config.momentum),
                undamped: T::of(1.0 - config.dampening),
                weight_decay: T::of(weight_decay),
                minus_lr: T::of(-lr),
            };
            update.tensor(theta, gradient, buffers.next().map(|(_, b)| b));
        });
        assert!(gradients.next().is_none(), "visit_mut visits fewer tensors than visit");
        Ok(())
    }

    /// The momentum buffer `b` of every trained tensor, under its parameter's name and in the model's order: with the
    /// configuration, all that a checkpoint needs. Empty before the first step and when μ = 0.
    pub fn buffers(&self) -> impl Iterator<Item = (&str, &ArrayD<T>)> {
        self.buffers.iter().map(|(name, buffer)| (name.as_str(), buffer))
    }

    /// Restores the momentum buffers of a checkpoint, in any order, for `model`. No buffers at all mean: before the
    /// first step.
    ///
    /// # Errors
    /// If μ = 0 and there are buffers, or if they are not exactly those of `model`'s trained tensors by name and shape.
    /// The optimiser is then unchanged.
    pub fn restore(
        &mut self,
        model: &impl Parameters<T>,
        buffers: impl IntoIterator<Item = (String, ArrayD<T>)>,
    ) -> Result<()> {
        let mut given: Vec<_> = buffers.into_iter().collect();
        if self.config.momentum == 0.0 && !given.is_empty() {
            let message = format!("momentum = 0 expects no momentum buffers, got {}", given.len());
            return Err(Error::argument("sgd", message));
        }
        if !given.is_empty() {
            // A stable sort by the model's order; an unknown name is last, where check_fit finds it.
            let mut order = Vec::new();
            model.visit("", &mut |name, role, _| {
                if role.is_trained() {
                    order.push(name.to_string());
                }
            });
            given.sort_by_key(|(name, _)| order.iter().position(|own| own == name).unwrap_or(usize::MAX));
            check_fit("momentum buffer", model, given.len(), given.iter().map(|(name, b)| (name.as_str(), b)))?;
        }
        self.buffers = given.into_iter().map(|(name, b)| (name, b.as_standard_layout().into_owned())).collect();
        Ok(())
    }
}

/// A tensor with more elements than this is split in two, so that several threads can work on it.
const PIECE: usize = 1 << 14;

/// The update of one tensor: the module's equations with every scalar rounded to `T`.
#[derive(Clone, Copy)]
struct Update<T> {
    first: bool,
    nesterov: bool,
    momentum: T,
    /// 1 − τ
    undamped: T,
    weight_decay: T,
    /// −η
    minus_lr: T,
}

impl<T: Scalar> Update<T> {
    fn tensor(&self, mut theta: ArrayViewMutD<'_, T>, gradient: &ArrayD<T>, buffer: Option<&mut ArrayD<T>>) {
        let gradient = gradient.as_standard_layout();
        let gradient = gradient.as_slice().expect("standard layout");
        let buffer = buffer.map(|b| b.as_slice_mut().expect("buffers are kept in standard layout"));
        if let Some(theta) = theta.as_slice_mut() {
            self.pieces(theta, gradient, buffer);
        } else {
            let mut copy: Vec<T> = theta.iter().copied().collect();
            self.pieces(&mut copy, gradient, buffer);
            theta.iter_mut().zip(copy).for_each(|(t, updated)| *t = updated);
        }
    }

    fn pieces(&self, theta: &mut [T], gradient: &[T], buffer: Option<&mut [T]>) {
        if theta.len() <= PIECE {
            return wide(
                #[inline(always)]
                || self.piece(theta, gradient, buffer),
            );
        }
        let half = theta.len() / 2;
        let (theta_a, theta_b) = theta.split_at_mut(half);
        let (gradient_a, gradient_b) = gradient.split_at(half);
        let (buffer_a, buffer_b) = buffer.map(|b| b.split_at_mut(half)).unzip();
        rayon::join(|| self.pieces(theta_a, gradient_a, buffer_a), || self.pieces(theta_b, gradient_b, buffer_b));
    }

    // Inlined, so that it is compiled for the instruction set of its caller.
    #[inline(always)]
    fn piece(&self, theta: &mut [T], gradient: &[T], buffer: Option<&mut [T]>) {
        match buffer {
            None => {
                for (t, &g) in theta.iter_mut().zip(gradient) {
                    let g = self.decayed(g, *t);
                    *t = self.minus_lr.mul_add(g, *t);
                }
            }
            Some(buffer) => {
                for ((t, &g), b) in theta.iter_mut().zip(gradient).zip(buffer) {
                    let g = self.decayed(g, *t);
                    *b = if self.first { g } else { self.undamped.mul_add(g, self.momentum * *b) };
                    let d = if self.nesterov { self.momentum.mul_add(*b, g) } else { *b };
                    *t = self.minus_lr.mul_add(d, *t);
                }
            }
        }
    }

    /// g + λ θ. Without decay g itself, because λ θ is NaN if θ is infinite, even if λ = 0.
    #[inline(always)]
    fn decayed(&self, g: T, theta: T) -> T {
        if self.weight_decay == T::zero() { g } else { self.weight_decay.mul_add(theta, g) }
    }
}

fn check_number(name: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(Error::argument("sgd", format!("{name} must be finite and at least 0, got {value}")))
    }
}

/// Checks that `tensors` (each a `kind`, e.g. gradient) are those of `model`'s trained tensors, in order.
fn check_fit<'a, T: Scalar>(
    kind: &'static str,
    model: &impl Parameters<T>,
    count: usize,
    mut tensors: impl Iterator<Item = (&'a str, &'a ArrayD<T>)>,
) -> Result<()> {
    let mut trained = 0;
    let mut misfit = None;
    model.visit("", &mut |name, role, theta| {
        if !role.is_trained() {
            return;
        }
        trained += 1;
        if misfit.is_some() {
            return;
        }
        misfit = match tensors.next() {
            None => Some(Error::argument("sgd", format!("no {kind} for the model's tensor `{name}`"))),
            Some((own, _)) if own != name => Some(Error::argument(
                "sgd",
                format!("{kind} {trained} belongs to `{own}`, the model's trained tensor {trained} is `{name}`"),
            )),
            Some((_, tensor)) if tensor.shape() != theta.shape() => {
                Some(Error::shape("sgd", kind, format!("the shape {:?} of `{name}`", theta.shape()), tensor.shape()))
            }
            Some(_) => None,
        };
    });
    match misfit {
        Some(error) => Err(error),
        None if count != trained => {
            Err(Error::argument("sgd", format!("the model has {trained} trained tensors, got {count} {kind}s")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2, ArrayViewD, arr1};

    /// A convolution-like weight, a batch norm's γ, a statistic and a bias.
    #[derive(Clone, Debug, PartialEq)]
    struct Model<T> {
        weight: Array2<T>,
        gamma: Array1<T>,
        running_mean: Array1<T>,
        bias: Array1<T>,
    }

    impl<T: Scalar> Parameters<T> for Model<T> {
        fn visit(&self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
            visitor("conv.weight", Role::Weight, self.weight.view().into_dyn());
            visitor("bn.weight", Role::Gamma, self.gamma.view().into_dyn());
            visitor("bn.running_mean", Role::Statistic, self.running_mean.view().into_dyn());
            visitor("fc.bias", Role::Bias, self.bias.view().into_dyn());
        }
        fn visit_mut(&mut self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
            visitor("conv.weight", Role::Weight, self.weight.view_mut().into_dyn());
            visitor("bn.weight", Role::Gamma, self.gamma.view_mut().into_dyn());
            visitor("bn.running_mean", Role::Statistic, self.running_mean.view_mut().into_dyn());
            visitor("fc.bias", Role::Bias, self.bias.view_mut().into_dyn());
        }
    }

    fn model(weight: Array2<f64>) -> Model<f64> {
        Model { weight, gamma: arr1(&[4.0, 8.0]), running_mean: arr1(&[3.0, 5.0]), bias: arr1(&[16.0]) }
    }

    fn gradients(weight: &Array2<f64>, gamma: [f64; 2], bias: f64) -> Gradients<f64> {
        let mut gradients = Gradients::new();
        gradients.push("conv", "weight", weight.clone());
        gradients.push("bn", "weight", arr1(&gamma));
        gradients.push("fc", "bias", arr1(&[bias]));
        gradients
    }

    fn config(momentum: f64, dampening: f64, weight_decay: f64, nesterov: bool) -> SgdConfig {
        SgdConfig { momentum, dampening, weight_decay, nesterov, decay_exemption: DecayExemption::None }
    }

    /// One parameter through `steps` of (gradient, η).
    fn trace(config: SgdConfig, theta: f64, steps: &[(f64, f64)]) -> Vec<f64> {
        let mut sgd = Sgd::new(config).unwrap();
        let mut model =
            Model { weight: Array2::zeros((0, 1)), gamma: arr1(&[]), running_mean: arr1(&[]), bias: arr1(&[theta]) };
        let step = |&(gradient, lr): &(f64, f64)| {
            let mut gradients = Gradients::new();
            gradients.push("conv", "weight", Array2::zeros((0, 1)));
            gradients.push("bn", "weight", arr1(&[]));
            gradients.push("fc", "bias", arr1(&[gradient]));
            sgd.step(&mut model, &gradients, lr).unwrap();
            model.bias[0]
        };
        steps.iter().map(step).collect()
    }

    // Every number below is a dyadic fraction, so nothing is rounded and `==` is correct.

    #[test]
    fn plain_descent_by_hand() {
        // 1 − ½·½ = 0.75;  0.75 − ¼·½ = 0.625
        assert_eq!(trace(config(0.0, 0.0, 0.0, false), 1.0, &[(0.5, 0.5), (0.5, 0.25)]), [0.75, 0.625]);
    }

    #[test]
    fn coupled_decay_and_momentum_by_hand() {
        // λ = ½, μ = ½, η = ¼.
        // g = 1 + ½·4 = 3,       b = 3,              θ = 4 − ¾        = 3.25
        // g = 2 + ½·3.25 = 3.625, b = 1.5 + 3.625 = 5.125, θ = 3.25 − 1.28125 = 1.96875
        assert_eq!(trace(config(0.5, 0.0, 0.5, false), 4.0, &[(1.0, 0.25), (2.0, 0.25)]), [3.25, 1.96875]);
    }

    #[test]
    fn dampening_spares_the_first_step_by_hand() {
        // μ = ½, τ = ¾.  b = 8, θ = 16 − 8 = 8;  b = 4 + ¼·4 = 5, θ = 3;  b = 2.5 + ¼·(−2) = 2, θ = 3 − ½·2 = 2
        assert_eq!(trace(config(0.5, 0.75, 0.0, false), 16.0, &[(8.0, 1.0), (4.0, 1.0), (-2.0, 0.5)]), [8.0, 3.0, 2.0]);
    }

    #[test]
    fn nesterov_by_hand() {
        // μ = ½.  b = 2, d = 2 + 1 = 3, θ = 5;  b = 1 + 4 = 5, d = 4 + 2.5 = 6.5, θ = −1.5
        assert_eq!(trace(config(0.5, 0.0, 0.0, true), 8.0, &[(2.0, 1.0), (4.0, 1.0)]), [5.0, -1.5]);
    }

    #[test]
    fn no_decay_means_no_product_with_the_parameter() {
        let infinite = trace(config(0.0, 0.0, 0.0, false), f64::INFINITY, &[(1.0, 0.5)]);
        assert_eq!(infinite, [f64::INFINITY]);
    }

    #[test]
    fn exemption_spares_norms_and_biases_but_not_weights_and_statistics_are_never_touched() {
        let weight = Array2::from_elem((2, 3), 2.0);
        let zero = gradients(&Array2::zeros((2, 3)), [0.0; 2], 0.0);
        for (exemption, gamma, bias) in
            [(DecayExemption::None, [2.0, 4.0], 8.0), (DecayExemption::NormAndBias, [4.0, 8.0], 16.0)]
        {
            let mut model = model(weight.clone());
            let config = SgdConfig { decay_exemption: exemption, ..config(0.0, 0.0, 0.5, false) };
            Sgd::new(config).unwrap().step(&mut model, &zero, 1.0).unwrap();
            assert_eq!(model.weight, Array2::from_elem((2, 3), 1.0));
            assert_eq!(model.gamma, arr1(&gamma));
            assert_eq!(model.bias, arr1(&[bias]));
            assert_eq!(model.running_mean, arr1(&[3.0, 5.0]));
        }
        assert!(DecayExemption::NormAndBias.exempts(Role::Beta));
    }

    #[test]
    fn refuses_what_is_not_a_number_of_the_method() {
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(Sgd::<f32>::new(config(bad, 0.0, 0.0, false)).is_err());
            assert!(Sgd::<f32>::new(config(0.9, bad, 0.0, false)).is_err());
            assert!(Sgd::<f32>::new(config(0.9, 0.0, bad, false)).is_err());
            let mut model = model(Array2::zeros((1, 1)));
            let gradients = gradients(&Array2::zeros((1, 1)), [0.0; 2], 0.0);
            assert!(Sgd::new(SgdConfig::default()).unwrap().step(&mut model, &gradients, bad).is_err());
        }
        assert!(Sgd::<f32>::new(config(0.0, 0.0, 0.0, true)).is_err());
        let message = Sgd::<f32>::new(config(0.9, 0.5, 0.0, true)).unwrap_err().to_string();
        assert_eq!(message, "sgd: nesterov expects momentum > 0 and dampening = 0, got 0.9 and 0.5");
    }

    #[test]
    fn a_misfit_changes_nothing() {
        let weight = Array2::from_elem((2, 3), 1.0);
        let good = gradients(&weight, [1.0; 2], 1.0);
        let mut shape = Gradients::new();
        let mut name = Gradients::new();
        let mut fewer = Gradients::new();
        let mut more = good.clone();
        // The misfit is last: an optimiser that checks tensor by tensor would already have changed the weight.
        for gradients in [&mut shape, &mut name, &mut fewer] {
            gradients.push("conv", "weight", weight.clone());
            gradients.push("bn", "weight", arr1(&[1.0, 1.0]));
        }
        shape.push("fc", "bias", arr1(&[1.0, 1.0]));
        name.push("fc", "weight", arr1(&[1.0]));
        more.push("fc", "extra", arr1(&[1.0]));
        for (bad, message) in [
            (shape, "sgd: gradient expects the shape [1] of `fc.bias`, got shape [2]"),
            (name, "sgd: gradient 3 belongs to `fc.weight`, the model's trained tensor 3 is `fc.bias`"),
            (fewer, "sgd: no gradient for the model's tensor `fc.bias`"),
            (more, "sgd: the model has 3 trained tensors, got 4 gradients"),
        ] {
            let mut sgd = Sgd::new(SgdConfig::default()).unwrap();
            let mut model = model(weight.clone());
            let before = model.clone();
            assert_eq!(sgd.step(&mut model, &bad, 0.1).unwrap_err().to_string(), message);
            assert_eq!(model, before);
            assert_eq!(sgd.buffers().count(), 0);
            sgd.step(&mut model, &good, 0.1).unwrap();
            let (before, buffers) = (model.clone(), sgd.buffers.clone());
            assert_eq!(sgd.step(&mut model, &bad, 0.1).unwrap_err().to_string(), message);
            assert_eq!((model, &sgd.buffers), (before, &buffers));
        }
        // Buffers of another model.
        let mut sgd = Sgd::new(SgdConfig::default()).unwrap();
        sgd.step(&mut model(weight.clone()), &good, 0.1).unwrap();
        let other = Array2::from_elem((3, 2), 1.0);
        assert!(sgd.step(&mut model(other.clone()), &gradients(&other, [1.0; 2], 1.0), 0.1).is_err());
    }

    #[test]
    fn a_restored_optimiser_goes_on_where_the_saved_one_was() {
        let weight = Array2::from_shape_fn((2, 3), |(i, j)| 0.3 * i as f64 - 0.7 * j as f64);
        let steps = [gradients(&weight, [0.1, 0.2], 0.3), gradients(&weight, [-0.4, 0.5], 0.6)];
        let mut straight = (model(weight.clone()), Sgd::new(SgdConfig::default()).unwrap());
        straight.1.step(&mut straight.0, &steps[0], 0.1).unwrap();
        let mut resumed = (straight.0.clone(), Sgd::new(SgdConfig::default()).unwrap());
        // A file may contain its tensors in another order and layout.
        let mut saved: Vec<_> = straight.1.buffers().map(|(name, b)| (name.to_string(), b.clone())).collect();
        saved.reverse();
        saved.iter_mut().for_each(|(_, b)| *b = b.t().as_standard_layout().into_owned().reversed_axes());
        resumed.1.restore(&resumed.0, saved.clone()).unwrap();
        straight.1.step(&mut straight.0, &steps[1], 0.1).unwrap();
        resumed.1.step(&mut resumed.0, &steps[1], 0.1).unwrap();
        assert_eq!(straight.0, resumed.0);
        assert_eq!(straight.1.buffers, resumed.1.buffers);

        let mut plain = Sgd::new(config(0.0, 0.0, 0.0, false)).unwrap();
        assert!(plain.restore(&straight.0, saved.clone()).is_err());
        plain.step(&mut straight.0, &steps[0], 0.1).unwrap();
        assert_eq!(plain.buffers().count(), 0, "no momentum, no buffers");
        for misfit in [saved[1..].to_vec(), [&saved[..], &saved[..1]].concat(), vec![("x".into(), saved[0].1.clone())]]
        {
            assert!(resumed.1.restore(&resumed.0, misfit).is_err());
            assert_eq!(straight.1.buffers, resumed.1.buffers);
        }
    }

    #[test]
    fn layout_does_not_change_a_bit() {
        let weight = Array2::from_shape_fn((5, 7), |(i, j)| (i as f64 + 0.1).sin() * (j as f64 + 0.3).cos());
        let gradient = weight.mapv(|w| (3.0 * w).sin());
        let transposed = |a: &Array2<f64>| a.t().as_standard_layout().into_owned().reversed_axes();
        let mut results = Vec::new();
        for (w, g) in [
            (weight.clone(), gradient.clone()),
            (transposed(&weight), gradient.clone()),
            (weight.clone(), transposed(&gradient)),
        ] {
            let mut sgd = Sgd::new(SgdConfig::default()).unwrap();
            let mut model = model(w);
            for _ in 0..2 {
                sgd.step(&mut model, &gradients(&g, [0.1, 0.2], 0.3), 0.1).unwrap();
            }
            results.push(model);
        }
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0], results[2]);
    }

    trait Bits: Scalar {
        fn bits(self) -> u64;
    }
    impl Bits for f32 {
        fn bits(self) -> u64 {
            self.to_bits().into()
        }
    }
    impl Bits for f64 {
        fn bits(self) -> u64 {
            self.to_bits()
        }
    }

    /// FNV-1a over 64-bit words, as in `tests/library/golden/sgd.py`.
    fn hashed<'a, T: Bits>(numbers: impl Iterator<Item = &'a T>) -> u64 {
        numbers.fold(0xCBF2_9CE4_8422_2325, |h, x| (h ^ x.bits()).wrapping_mul(0x0000_0100_0000_01B3))
    }

    /// The run of `tests/library/golden/sgd.py`, printed in the same way.
    fn golden_run<T: Bits>(config: SgdConfig) -> String {
        // One tensor of shape (40001, 1): more than two pieces, and an odd last one.
        let fill = |number: &dyn Fn(i64) -> T| Array2::from_shape_fn((40_001, 1), |(i, _)| number(i as i64));
        let whole = |value: i64| T::of(value as f64);
        let empty = || Array1::from_elem(0, T::zero());
        let mut model = Model {
            weight: fill(&|i| whole((i * 7919) % 1013 - 506) / whole(512)),
            gamma: empty(),
            running_mean: empty(),
            bias: empty(),
        };
        let mut sgd = Sgd::new(config).unwrap();
        for (step, lr) in [0.1, 0.1, 0.01].into_iter().enumerate() {
            let mut gradients = Gradients::new();
            let gradient = fill(&|i| whole((i * 104_729 + step as i64 * 31) % 2003 - 1001) / whole(1000));
            gradients.push("conv", "weight", gradient);
            gradients.push("bn", "weight", empty());
            gradients.push("fc", "bias", empty());
            sgd.step(&mut model, &gradients, lr).unwrap();
        }
        let first: Vec<_> = model.weight.iter().take(5).map(|x| format!("{:x}", x.bits())).collect();
        let buffers = sgd.buffers().next().map_or(0, |(_, b)| hashed(b.iter()));
        format!("{:016x} {} {buffers:016x}", hashed(model.weight.iter()), first.join(","))
    }

    #[test]
    fn equals_pytorch_to_the_bit_whatever_the_thread_count() {
        let golden = include_str!("../../tests/library/golden/sgd.txt");
        assert_eq!(golden.lines().count(), 12);
        for line in golden.lines() {
            let [dtype, momentum, dampening, weight_decay, nesterov, expected] =
                line.splitn(6, ' ').collect::<Vec<_>>().try_into().unwrap();
            let number = |text: &str| text.parse().unwrap();
            let config = config(number(momentum), number(dampening), number(weight_decay), nesterov.parse().unwrap());
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let got = pool.install(|| match dtype {
                    f32::NAME => golden_run::<f32>(config),
                    f64::NAME => golden_run::<f64>(config),
                    other => panic!("unknown type {other}"),
                });
                assert_eq!(got, expected, "{line} with {threads} threads");
            }
        }
    }
}
