//! How far a correctly computed result may be from the exact one, known before computing it.
//!
//! One rounded operation returns the exact result times (1 + δ), |δ| ≤ u, with u = 2⁻²⁴ in `f32` and 2⁻⁵³ in `f64`. A
//! product of k such factors is 1 + θ with |θ| ≤ γ_k = k u / (1 − k u) (Higham, *Accuracy and Stability of Numerical
//! Algorithms*, 2nd ed., lemma 3.1). An inner product of K terms, summed in **any** order, with or without fused
//! multiply-add, therefore satisfies (his section 3.1)
//!
//! ```text
//! |computed − exact| ≤ γ_K Σ |wᵢ| |xᵢ|
//! ```
//!
//! Any order: the bound covers the direct loops, the GEMM in chunks and the fixed tree alike, and rejects an algorithm
//! that is merely close. Convolutions, linear layers and averages are inner products; their bounds are the same
//! layer applied to absolute values in `f64`.
//!
//! The other layers are sequences of such steps. Their bounds are derived below *to first order* in the small quantities
//! (γ's and relative errors); products of two of them are covered by [`SECOND_ORDER`]. exp and ln are taken to be accurate
//! to 1 ulp, that is 2u relative. Underflow is ignored: no test comes near it.
//!
//! The comparison is between a layer in `f32` and the same layer in `f64` on the same inputs, widened exactly. The error of
//! `f64` itself is smaller by a factor of 2²⁹, which [`SECOND_ORDER`] covers, too.
//!
//! ```
//! use resnet_by_hand::verify::bounds::gamma;
//! // A 3x3 convolution over 64 channels in f32: 576 terms, 3.4e-5 of Σ |w| |x|.
//! assert!((gamma(576, 2f64.powi(-24)) - 3.4333e-5).abs() < 1e-9);
//! ```

use crate::layers::conv2d::direct;
use crate::layers::{AvgPool2d, BatchNorm2d, Conv2d, GlobalAvgPool, Linear, MaxPool2d, Mode, channel_sums, check_dy};
use crate::layers::{Reduction, SoftmaxCrossEntropy};
use crate::{Activation, Result, Scalar};
use ndarray::{Array1, Array2, Array4, ArrayBase, Axis, Data, Dimension};

pub use winograd::{conv2d_winograd, winograd_growth};

mod winograd;

/// Factor on first-order bounds. A sum of first-order terms, each at most 2⁻⁷ (checked), has second-order terms of at
/// most about 4 · 2⁻⁷ of it.
pub const SECOND_ORDER: f64 = 1.0 + 1.0 / 32.0;

/// γ_k = k u / (1 − k u).
///
/// # Panics
/// If k u ≥ 1: then there is no bound.
pub fn gamma(k: usize, u: f64) -> f64 {
    let ku = k as f64 * u;
    assert!(ku < 1.0, "gamma: k u = {ku} is not below 1");
    ku / (1.0 - ku)
}

/// Elementwise bounds of a layer with weight and bias: of y, dx, dweight and dbias.
#[derive(Clone, Debug)]
pub struct LinearMapBounds<X, W> {
    /// Bound of |y − exact|, in the shape of y.
    pub y: X,
    /// Bound of |dx − exact|.
    pub dx: X,
    /// Bound of |dweight − exact|.
    pub weight: W,
    /// Bound of |dbias − exact|.
    pub bias: Option<Array1<f64>>,
}

/// |a| in `f64`.
pub fn absolute<T: Scalar, D: Dimension>(a: &ArrayBase<impl Data<Elem = T>, D>) -> ndarray::Array<f64, D> {
    a.mapv(|v| v.as_f64().abs())
}

/// Bounds of a convolution computed with unit roundoff `u`, by any algorithm that multiplies and adds the defining terms
/// (Winograd's does not, see [`conv2d_winograd`]):
///
/// ```text
/// y        γ_{K+1} (|weight| ∗ |x| + |bias|)    K = kh·kw·C_in/groups, and one addition of the bias
/// dx       γ_{K'}  (|weight| ∗ᵀ |dy|)           K' = kh·kw·C_out/groups windows and output channels
/// dweight  γ_P     (|x| ⋆ |dy|)                 P = N·H_out·W_out pixels
/// dbias    γ_P     Σ |dy|
/// ```
///
/// # Errors
/// As the layer itself.
pub fn conv2d<T: Scalar>(
    conv: &Conv2d<T>,
    x: &Activation<T>,
    dy: &Activation<T>,
    u: f64,
) -> Result<LinearMapBounds<Array4<f64>, Array4<f64>>> {
    let magnitudes = Conv2d {
        weight: absolute(&conv.weight),
        bias: conv.bias.as_ref().map(|bias| absolute(bias)),
        stride: conv.stride,
        padding: conv.padding,
        dilation: conv.dilation,
        groups: conv.groups,
    };
    let (c_out, c_in_group, kh, kw) = conv.weight.dim();
    let y = magnitudes.output_shape(&x.dim().into())?;
    check_dy("conv2d", dy.shape(), &y)?;
    let (x, dy) = (absolute(x).into_shared(), absolute(dy).into_shared());
    let pixels = gamma(dy.len() / c_out.max(1), u) * SECOND_ORDER;
    Ok(LinearMapBounds {
        y: direct::forward(&magnitudes, &x) * (gamma(kh * kw * c_in_group + 1, u) * SECOND_ORDER),
        dx: direct::input_gradient(&magnitudes, x.dim(), &dy)
            * (gamma(kh * kw * c_out / conv.groups, u) * SECOND_ORDER),
        weight: direct::weight_gradient(&magnitudes, &x, &dy) * pixels,
        bias: conv.bias.as_ref().map(|_| channel_sums(&dy) * pixels),
    })
}

/// Bounds of a linear layer: inner products of F_in + 1 (y, with its bias), F_out (dx) and N (dweight, dbias) terms.
///
/// # Errors
/// As the layer itself.
pub fn linear<T: Scalar>(
    layer: &Linear<T>,
    x: &Array2<T>,
    dy: &Array2<T>,
    u: f64,
) -> Result<LinearMapBounds<Array2<f64>, Array2<f64>>> {
    let magnitudes = Linear { weight: absolute(&layer.weight), bias: absolute(&layer.bias) };
    let (f_out, f_in) = layer.weight.dim();
    let (y, cache) = magnitudes.forward(&absolute(x))?;
    let (dx, grads) = magnitudes.backward(&absolute(dy), &cache)?;
    let rows = gamma(x.nrows(), u) * SECOND_ORDER;
    Ok(LinearMapBounds {
        y: y * (gamma(f_in + 1, u) * SECOND_ORDER),
        dx: dx * (gamma(f_out, u) * SECOND_ORDER),
        weight: grads.weight * rows,
        bias: Some(grads.bias * rows),
    })
}

/// Bounds of (y, dx) of an average pooling: kh·kw terms and one division each way.
///
/// # Errors
/// As the layer itself.
pub fn avg_pool<T: Scalar>(
    pool: &AvgPool2d,
    x: &Activation<T>,
    dy: &Activation<T>,
    u: f64,
) -> Result<(Array4<f64>, Array4<f64>)> {
    let (y, cache) = pool.forward(&absolute(x).into_shared())?;
    let dx = pool.backward(&absolute(dy).into_shared(), &cache)?;
    let factor = gamma(pool.kernel[0] * pool.kernel[1] + 1, u) * SECOND_ORDER;
    Ok((y.into_owned() * factor, dx.into_owned() * factor))
}

/// Bounds of (y, dx) of the global average pooling: H·W terms and a division; one division.
///
/// # Errors
/// As the layer itself.
pub fn global_avg_pool<T: Scalar>(x: &Activation<T>, dy: &Array2<T>, u: f64) -> Result<(Array2<f64>, Array4<f64>)> {
    let (_, h, w, _) = x.dim();
    let (y, cache) = GlobalAvgPool.forward(&absolute(x).into_shared())?;
    let dx = GlobalAvgPool.backward(&absolute(dy), &cache)?;
    Ok((y * (gamma(h * w + 1, u) * SECOND_ORDER), dx.into_owned() * (gamma(1, u) * SECOND_ORDER)))
}

/// Bound of dx of a max pooling, in which a pixel sums up to kh·kw gradients. Its y is a copy: exact.
///
/// # Errors
/// As the layer itself.
pub fn max_pool<T: Scalar>(pool: &MaxPool2d, x: &Activation<T>, dy: &Activation<T>, u: f64) -> Result<Array4<f64>> {
    let (_, cache) = pool.forward(x)?;
    let dx = pool.backward(&absolute(dy).into_shared(), &cache)?;
    Ok(dx.into_owned() * (gamma(pool.kernel[0] * pool.kernel[1], u) * SECOND_ORDER))
}

/// Bounds of a batch norm: of y, dx, dgamma, dbeta.
#[derive(Clone, Debug)]
pub struct BatchNormBounds {
    /// Bound of |y − exact|.
    pub y: Array4<f64>,
    /// Bound of |dx − exact|.
    pub dx: Array4<f64>,
    /// Bound of |dgamma − exact|.
    pub gamma: Array1<f64>,
    /// Bound of |dbeta − exact|.
    pub beta: Array1<f64>,
}

/// Bounds of a batch norm, per channel, with m values, d = x − mean, D = max |x − pivot| for the pivot the mean is
/// computed about (at most max x − min x), σ² the biased variance.
///
/// **Moments.** x − pivot costs one rounding, a sum of at most m terms and a division γ_m, each of at most log₂ m merges
/// of means (δ = mean_b − mean_a, mean_a + δ · share, share ≤ 1, |δ| ≤ 2D) at most 8uD, adding the pivot u|mean|:
///
/// ```text
/// |error of mean|  ≤ e_mean = D γ_{m + 8 log₂ m + 2} + u |mean|
/// ```
///
/// In Σ (x − mean)² an error e common to all terms enters as 2 e Σ (x − mean) = 0 to first order; the rounding of each
/// centred value, at most 3uD, as 2 · 3uD · Σ |d| ≤ 6uD m σ (Cauchy–Schwarz); squaring and summing γ_{m+2}. A merge adds
/// δ² n_a n_b/n: its relative roundings are 6u a level, and an error of 2 e_mean in δ, summed over all merges with
/// Cauchy–Schwarz (Σ n_a n_b/n ≤ m/4 a level, Σ δ² n_a n_b/n ≤ m σ²), contributes at most 2 e_mean σ m √log₂ m. So
///
/// ```text
/// |error of var| / σ² ≤ r_var = γ_{m + 6 log₂ m + 3} + (6uD + 2 e_mean √log₂ m)/σ
/// |error of rstd| / rstd ≤ r = ½ r_var σ²/(σ² + eps) + 3u       (addition, root, reciprocal)
/// ```
///
/// In evaluation mean and var are given: e_mean = r_var = 0.
///
/// **Forward.** y = d · scale + beta with scale = gamma · rstd, four roundings on the product, one on the sum:
///
/// ```text
/// |error of y| ≤ |scale| (|d| (r + 4u) + e_mean) + u |y|
/// ```
///
/// **Backward.** dbeta is a sum; dgamma = rstd Σ dy d; dx = scale (dy − dbeta/m − d slope), slope = dgamma rstd/m:
///
/// ```text
/// |error of dbeta|  ≤ e_b = γ_m Σ |dy|
/// |error of dgamma| ≤ e_g = rstd (γ_{m+2} Σ |dy| |d| + e_mean |Σ dy|) + (r + u) |dgamma|
/// |error of slope|  ≤ e_s = rstd/m · (e_g + |dgamma| (r + 2u))
/// |error of dx|     ≤ |scale| (e_b/m + |d| e_s + e_mean |slope| + 4u (|dy| + |dbeta|/m + |d| |slope|)) + (r + 2u) |dx|
/// ```
///
/// # Panics
/// If the shapes do not fit, or the first-order terms are not small: more than about 10⁵ values per channel in `f32`, or σ
/// very much below D.
pub fn batch_norm<T: Scalar>(
    layer: &BatchNorm2d<T>,
    x: &Activation<T>,
    dy: &Activation<T>,
    mode: Mode,
    u: f64,
) -> BatchNormBounds {
    let c = layer.gamma.len();
    let m = (x.len() / c.max(1)).max(1);
    let (levels, m_real) = ((m as f64).log2().ceil(), m as f64);
    let eps = layer.eps.as_f64();
    let mut bounds = BatchNormBounds {
        y: Array4::zeros(x.dim()),
        dx: Array4::zeros(x.dim()),
        gamma: Array1::zeros(c),
        beta: Array1::zeros(c),
    };
    for k in 0..c {
        let x = x.index_axis(Axis(3), k).mapv(Scalar::as_f64);
        let dy = dy.index_axis(Axis(3), k).mapv(Scalar::as_f64);
        let (gain, shift) = (layer.gamma[k].as_f64(), layer.beta[k].as_f64());
        let (mean, var, e_mean, r_var) = match mode {
            Mode::Train => {
                let mean = x.sum() / m_real;
                let var = x.mapv(|x| (x - mean).powi(2)).sum() / m_real;
                let (low, high) = x.fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
                let e_mean = (high - low) * gamma(m + 8 * levels as usize + 2, u) + u * mean.abs();
                let spread =
                    if var > 0.0 { (6.0 * u * (high - low) + 2.0 * e_mean * levels.sqrt()) / var.sqrt() } else { 0.0 };
                (mean, var, e_mean, gamma(m + 6 * levels as usize + 3, u) + spread)
            }
            Mode::Eval => (layer.running_mean[k].as_f64(), layer.running_var[k].as_f64(), 0.0, 0.0),
        };
        let rstd = 1.0 / (var + eps).sqrt();
        let r = 0.5 * r_var * var / (var + eps) + 3.0 * u;
        assert!(r_var < 1.0 / 128.0, "batch_norm: the bound of the variance is not small, {r_var}");
        let d = x.mapv(|x| x - mean);
        let scale = gain * rstd;
        let y_bound = d.mapv(|d| scale.abs() * (d.abs() * (r + 4.0 * u) + e_mean) + u * (d * scale + shift).abs());
        bounds.y.index_axis_mut(Axis(3), k).assign(&y_bound);

        let (sum_dy, sum_abs) = (dy.sum(), absolute(&dy).sum());
        let dgamma = rstd * (&dy * &d).sum();
        let e_b = gamma(m, u) * sum_abs;
        let products = (&dy * &d).mapv(f64::abs).sum();
        let e_g = rstd * (gamma(m + 2, u) * products + e_mean * sum_dy.abs()) + (r + u) * dgamma.abs();
        let (slope, e_s, mean_dy, e_mean_dy) = match mode {
            Mode::Train => {
                let e_s = rstd / m_real * (e_g + dgamma.abs() * (r + 2.0 * u));
                (dgamma * rstd / m_real, e_s, sum_dy / m_real, e_b / m_real)
            }
            Mode::Eval => (0.0, 0.0, 0.0, 0.0),
        };
        let dx_bound = ndarray::Zip::from(&d).and(&dy).map_collect(|&d, &dy| {
            let terms = dy.abs() + mean_dy.abs() + (d * slope).abs();
            let dx = scale * (dy - mean_dy - d * slope);
            let inside = e_mean_dy + d.abs() * e_s + e_mean * slope.abs() + 4.0 * u * terms;
            scale.abs() * inside + (r + 2.0 * u) * dx.abs()
        });
        bounds.dx.index_axis_mut(Axis(3), k).assign(&dx_bound);
        (bounds.gamma[k], bounds.beta[k]) = (e_g, e_b);
    }
    bounds.y *= SECOND_ORDER;
    bounds.dx *= SECOND_ORDER;
    bounds.gamma *= SECOND_ORDER;
    bounds.beta *= SECOND_ORDER;
    bounds
}

/// Bounds of (loss, dlogits) of softmax and cross-entropy over K classes, per row with M = max z and R = M − min z:
///
/// z − M is rounded once, |error| ≤ u R; exp multiplies by 1 + 2u. The sum s of K positive terms, between 1 and K, has
/// relative error at most R u + (K + 1) u, which the logarithm turns into an absolute one, adding 2u ln s of its own;
/// log p = (z − M) − ln s adds the error u R of the first difference and one rounding of the result:
///
/// ```text
/// |error of log p_k| ≤ e_k = u (2 R + K + 1 + 2 ln K + |log p_k|)
/// |error of p_k|     ≤ p_k (e_k + 2u)
/// |error of loss[n]| ≤ max_k e_k + γ_{K+4} ((1 − ε) |log p_t| + ε/K Σ |log p_k|)
/// |error of loss|    ≤ mean or sum of those + γ_{N+1} mean or sum of |loss[n]|
/// |error of dlogits| ≤ (p_k (e_k + 2u) + 4u (p_k + q_k)) / N
/// ```
///
/// # Errors
/// As the layer itself.
pub fn softmax_cross_entropy<T: Scalar>(
    layer: &SoftmaxCrossEntropy<T>,
    logits: &Array2<T>,
    targets: &[usize],
    u: f64,
) -> Result<(f64, Array2<f64>)> {
    layer.forward(logits, targets)?;
    let (n, classes) = logits.dim();
    let (epsilon, k_real) = (layer.label_smoothing.as_f64(), classes as f64);
    let share = if layer.reduction == Reduction::Mean { 1.0 / n as f64 } else { 1.0 };
    let (mut loss_bound, mut magnitude) = (0.0, 0.0);
    let mut dlogits = Array2::zeros((n, classes));
    for (row, &target) in targets.iter().enumerate() {
        let z = logits.row(row).mapv(Scalar::as_f64);
        let (low, high) = z.fold((f64::MAX, f64::MIN), |(low, high), &z| (low.min(z), high.max(z)));
        let lse = high + z.mapv(|z| (z - high).exp()).sum().ln();
        let log_p = z.mapv(|z| z - lse);
        let e = log_p.mapv(|l| u * (2.0 * (high - low) + k_real + 1.0 + 2.0 * k_real.ln() + l.abs()));
        let terms = (1.0 - epsilon) * log_p[target].abs() + epsilon * absolute(&log_p).sum() / k_real;
        loss_bound += e.fold(0.0, |a: f64, &b| a.max(b)) + gamma(classes + 4, u) * terms;
        magnitude += terms;
        for k in 0..classes {
            let (p, q) = (log_p[k].exp(), epsilon / k_real + if k == target { 1.0 - epsilon } else { 0.0 });
            dlogits[[row, k]] = share * SECOND_ORDER * (p * (e[k] + 2.0 * u) + 4.0 * u * (p + q));
        }
    }
    Ok((share * SECOND_ORDER * (loss_bound + gamma(n + 1, u) * magnitude), dlogits))
}
