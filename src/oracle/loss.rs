//! Cross-entropy in every form in which PyTorch has it: class weights, ignored rows, smoothed or given probabilities, a loss
//! per row, and an upstream gradient.
//!
//! All of them are one formula with another matrix q (N, K) and a factor g per row:
//!
//! ```text
//! lossₙ = −Σₖ qₙₖ log pₙₖ        dlogitsₙₖ = gₙ (sₙ pₙₖ − qₙₖ),   sₙ = Σₖ qₙₖ
//!
//! class y, weights w      qₙₖ = (1 − ε) w_y [k = y] + ε w_k/K, over D        D = Σₙ w_yₙ (mean), 1 (sum, none)
//! an ignored row          qₙₖ = 0, and it does not count in D
//! probabilities t         qₙₖ = w_k ((1 − ε) tₙₖ + ε/K), over D              D = N (mean), 1 (sum, none)
//! ```

use super::arithmetic::Arithmetic;
use super::rounding::of_loss;
use super::tolerance::Tolerances;
use crate::layers::softmax_cross_entropy::log_softmax;
use crate::tensors::{Tensor, Tensors};
use crate::{Error, Result, Scalar};
use ndarray::{Array1, Array2, ArrayD, Axis, Ix1, Ix2, arr0};

/// How the losses of the rows become the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Their weighted mean.
    Mean,
    /// Their sum.
    Sum,
    /// As they are, (N).
    None,
}

/// What is computed of the logits.
#[derive(Clone, Debug)]
pub struct Loss {
    /// q (N, K), divided by D.
    q: Array2<f64>,
    /// g (N); `None` without a backward pass.
    g: Option<Array1<f64>>,
    per_row: bool,
    /// How often u q bounds the roundings of q.
    roundings: f64,
}

/// The settings of a loss.
#[derive(Clone, Copy, Debug)]
pub struct LossSettings {
    /// The reduction.
    pub rows: Rows,
    /// ε.
    pub label_smoothing: f64,
    /// The class of the rows that are left out.
    pub ignore_index: i64,
}

impl Loss {
    /// The loss of these logits and targets.
    ///
    /// # Errors
    /// For a target that is no class, or a tensor of the wrong shape.
    pub fn new(
        settings: LossSettings,
        [rows, classes]: [usize; 2],
        target: &Tensor,
        weight: Option<&Tensor>,
        grad_output: Option<&Tensor>,
    ) -> Result<Self> {
        let wrong = |message: String| Error::argument("softmax_cross_entropy", message);
        let LossSettings { rows: reduction, label_smoothing: epsilon, ignore_index } = settings;
        if !(0.0..=1.0).contains(&epsilon) {
            return Err(wrong(format!("label_smoothing must be in [0, 1], got {epsilon}")));
        }
        let roundings = 2.0 * (1.0 + f64::from(u8::from(weight.is_some())) + f64::from(u8::from(epsilon != 0.0)));
        let weight = match weight {
            None => Array1::ones(classes),
            Some(weight) => {
                let found = || {
                    wrong(format!("`weight` expects floats ({classes},), got {} {:?}", weight.dtype(), weight.shape()))
                };
                let weight =
                    weight.to_real::<f64>().ok_or_else(found)?.into_dimensionality::<Ix1>().map_err(|_| found())?;
                if weight.len() == classes { weight } else { return Err(found()) }
            }
        };
        let smooth = &weight * (epsilon / classes as f64);
        let (mut q, mut divisor) = (Array2::zeros((rows, classes)), 0.0);
        if target.shape() == [rows, classes] && target.to_real::<f64>().is_some() {
            let given = target.to_f64().into_dimensionality::<Ix2>().expect("two axes");
            q = given * &(&weight * (1.0 - epsilon)) + &smooth;
            divisor = rows as f64;
        } else {
            let found = || {
                let shape = target.shape();
                wrong(format!(
                    "`target` expects classes ({rows},) of integers or probabilities ({rows}, {classes}) of floats, got {} {shape:?}",
                    target.dtype()
                ))
            };
            let integers = target.to_real::<f64>().is_none() && target.shape() == [rows];
            let target = if integers { target.to_f64() } else { return Err(found()) };
            for (n, target) in target.iter().map(|&target| target as i64).enumerate() {
                if target == ignore_index {
                    continue;
                }
                let class = usize::try_from(target).ok().filter(|&class| class < classes);
                let class = class.ok_or_else(|| {
                    let hint = "to leave rows out, set ignore_index";
                    wrong(format!(
                        "target {target} of row {n} is not one of the {classes} classes 0..{classes}; {hint}"
                    ))
                })?;
                q.row_mut(n).assign(&smooth);
                q[[n, class]] += (1.0 - epsilon) * weight[class];
                divisor += weight[class];
            }
        }
        if reduction == Rows::Mean {
            q /= divisor;
        }
        let per_row = reduction == Rows::None;
        let g = match (grad_output, per_row) {
            (None, true) => None,
            (None, false) => Some(Array1::ones(rows)),
            (Some(gradient), _) => {
                let expected = if per_row { vec![rows] } else { Vec::new() };
                let found = || {
                    Error::shape(
                        "softmax_cross_entropy",
                        "grad_output",
                        format!("{expected:?}, that of the loss"),
                        gradient.shape(),
                    )
                };
                let gradient = gradient
                    .to_real::<f64>()
                    .filter(|g| g.len() == expected.iter().product::<usize>())
                    .ok_or_else(found)?;
                Some(if per_row { gradient.iter().copied().collect() } else { Array1::from_elem(rows, gradient.sum()) })
            }
        };
        Ok(Loss { q, g, per_row, roundings })
    }

    /// `output`, and `grad_input` where there is a backward pass, with the tolerances for each of `computed_in`.
    pub fn run<T: Scalar>(&self, logits: &Array2<f64>, computed_in: &[Arithmetic]) -> Tensors {
        let mut result = Tensors::new();
        let (loss, dlogits) = self.compute(&logits.mapv(T::of));
        result.insert("output", Tensor::real(loss.view()));
        if let Some(dlogits) = &dlogits {
            result.insert("grad_input", Tensor::real(dlogits.view().into_dyn()));
        }
        if computed_in.is_empty() {
            return result;
        }
        let (loss, dlogits) = self.compute(logits);
        let gradient = dlogits.unwrap_or_else(|| Array2::zeros(logits.dim()));
        let ones = Array1::ones(logits.nrows());
        for arithmetic in computed_in {
            let noise = of_loss(
                logits,
                &self.q,
                self.g.as_ref().unwrap_or(&ones),
                &loss,
                &gradient,
                arithmetic,
                self.roundings,
            );
            let mut of_tensors = vec![("output".to_string(), noise.loss.allowed(loss.view(), arithmetic, None))];
            if self.g.is_some() {
                let allowed = noise.dlogits.allowed(gradient.view().into_dyn(), arithmetic, None);
                of_tensors.push(("grad_input".to_string(), allowed));
            }
            Tolerances { arithmetic: *arithmetic, of_tensors }.attach(&mut result);
        }
        result
    }

    fn compute<T: Scalar>(&self, logits: &Array2<T>) -> (ArrayD<T>, Option<Array2<T>>) {
        let log_p = log_softmax(logits);
        let q = self.q.mapv(T::of);
        // 0 · ∞ would be NaN: a class without weight adds nothing, however hopeless it is.
        let terms = ndarray::Zip::from(&q)
            .and(&log_p)
            .map_collect(|&q, &log_p| if q == T::zero() { T::zero() } else { -q * log_p });
        let rows = terms.sum_axis(Axis(1));
        let loss = if self.per_row { rows.into_dyn() } else { arr0(rows.sum()).into_dyn() };
        let dlogits = self.g.as_ref().map(|g| {
            let weight = q.sum_axis(Axis(1)).insert_axis(Axis(1));
            (log_p.mapv(T::exp) * &weight - &q) * &g.mapv(T::of).insert_axis(Axis(1))
        });
        (loss, dlogits)
    }
}
