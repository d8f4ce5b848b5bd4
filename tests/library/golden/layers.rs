//! Every layer against PyTorch, in several geometries, output and all gradients, in `f64` and `f32`.
//!
//! The reference is computed in `f64` from inputs that are exact in `f32`. If PyTorch's own result is rounded, it is
//! within the `f64` bound of the exact value, so a tolerance is bound(u of the type under test) + bound(2⁻⁵³).

use super::check::{Allowed, Report, gamma, nchw, wide};
use super::fixture::{Case, Fixture, exact};
use ndarray::{Array1, Array2, ArrayD, Axis};
use resnet_by_hand::Scalar;
use resnet_by_hand::engine::{Algorithm, Engine};
use resnet_by_hand::layers::conv2d::{Conv2dGrads, direct};
use resnet_by_hand::layers::{
    Activation, AvgPool2d, BatchNorm2d, Conv2d, GlobalAvgPool, Linear, MaxPool2d, Mode, Reduction, Relu,
    SoftmaxCrossEntropy,
};

const U64: f64 = <f64 as Scalar>::UNIT_ROUNDOFF;

fn fixture() -> Fixture {
    Fixture::open("layers.safetensors")
}

/// bound(u) + bound(2⁻⁵³): the crate's rounding and PyTorch's.
fn both<T: Scalar>(bound: impl Fn(f64) -> ArrayD<f64>) -> ArrayD<f64> {
    bound(T::UNIT_ROUNDOFF) + bound(U64)
}

fn absolute(x: &Activation<f64>) -> Activation<f64> {
    x.mapv(f64::abs).into_shared()
}

/// y, dx and the gradients of a convolution.
type Computed<T> = (Activation<T>, Activation<T>, Conv2dGrads<T>);

/// By im2col and matrix products.
fn reference<T: Scalar>(conv: &Conv2d<T>, x: &Activation<T>, dy: &Activation<T>) -> Computed<T> {
    let (y, cache) = conv.forward(x).unwrap();
    let (dx, grads) = conv.backward(dy, &cache).unwrap();
    (y, dx, grads)
}

/// By the definition.
fn definition<T: Scalar>(conv: &Conv2d<T>, x: &Activation<T>, dy: &Activation<T>) -> Computed<T> {
    let (y, dx) = (direct::forward(conv, x), direct::input_gradient(conv, x.dim(), dy));
    let bias = conv.bias.as_ref().map(|_| dy.sum_axis(Axis(0)).sum_axis(Axis(0)).sum_axis(Axis(0)));
    let grads = Conv2dGrads { weight: direct::weight_gradient(conv, x, dy), bias };
    (y.into_shared(), dx.into_shared(), grads)
}

/// By an algorithm of the engine.
fn engine(algorithm: Algorithm) -> impl Fn(&Conv2d<f32>, &Activation<f32>, &Activation<f32>) -> Computed<f32> {
    let engine = Engine::new(algorithm);
    move |conv, x, dy| {
        let y = engine.conv2d_forward(conv, x).unwrap();
        let dx = engine.conv2d_input_gradient(conv, dy, x.dim().into()).unwrap();
        (y, dx, engine.conv2d_parameter_gradients(conv, dy, x).unwrap())
    }
}

/// `f64`: the sums are exact (16-bit values, see `make_fixtures.py`), so there is one right answer: equality.
/// `f32`: a sum of K products is off by at most γ_K Σ |weight| |x|; K = taps (+ 1 for the bias) for y,
/// C_out/groups · kh · kw for dx, N · H_out · W_out for dweight and dbias. The Σ |·| |·| are convolutions of absolute
/// values, by definition in `f64`. Winograd has another bound and is not tested here.
fn conv2d<T: Scalar>(way: &str, compute: impl Fn(&Conv2d<T>, &Activation<T>, &Activation<T>) -> Computed<T>) {
    let mut report = Report::new(format!("conv2d by {way}, {}", T::NAME));
    for case in fixture().cases("conv2d/", 15) {
        let conv = Conv2d {
            bias: case.maybe("bias").map(|_| case.vector("bias")),
            stride: case.pair("stride"),
            padding: case.pair("padding"),
            dilation: case.pair("dilation"),
            groups: case.number("groups") as usize,
            ..Conv2d::<T>::new(case.weight4("weight"))
        };
        let (y, dx, grads) = compute(&conv, &case.activation("x"), &case.activation("dy"));

        let of_absolutes = Conv2d {
            weight: conv.weight.mapv(|w| w.as_f64().abs()),
            bias: conv.bias.as_ref().map(|b| b.mapv(|b| b.as_f64().abs())),
            stride: conv.stride,
            padding: conv.padding,
            dilation: conv.dilation,
            groups: conv.groups,
        };
        let (y_abs, dx_abs, grads_abs) =
            definition(&of_absolutes, &absolute(&case.activation("x")), &absolute(&case.activation("dy")));
        let (c_out, c_in_group, kh, kw) = conv.weight.dim();
        let pixels = y.len() / c_out;
        let (u, exact) = (T::UNIT_ROUNDOFF, T::UNIT_ROUNDOFF == U64);
        let mut check = |name: &str, got: ArrayD<f64>, size: ArrayD<f64>, k: usize| {
            let bound = size * gamma(k, u);
            let allowed = if exact { Allowed::Exact } else { Allowed::Bound(&bound) };
            report.check(&format!("{}/{name}", case.name), &got, &case.tensor(name), allowed);
        };
        check("y", nchw(&y), nchw(&y_abs), kh * kw * c_in_group + 1);
        check("dx", nchw(&dx), nchw(&dx_abs), kh * kw * c_out / conv.groups);
        check("dweight", wide(&grads.weight), wide(&grads_abs.weight), pixels);
        assert_eq!(grads.bias.is_some(), case.maybe("bias").is_some());
        if let (Some(bias), Some(size)) = (&grads.bias, &grads_abs.bias) {
            check("dbias", wide(bias), wide(size), pixels);
        }
    }
}

#[test]
fn conv2d_f64_is_equal() {
    conv2d::<f64>("im2col", reference);
    conv2d::<f64>("definition", definition);
}

#[test]
fn conv2d_f32_is_within_its_bound() {
    conv2d::<f32>("im2col", reference);
    conv2d::<f32>("definition", definition);
    for algorithm in [Algorithm::Gemm, Algorithm::Indirect] {
        conv2d::<f32>(algorithm.name(), engine(algorithm));
    }
}

/// As convolution: K = F_in + 1, F_out, N, N.
fn linear<T: Scalar>() {
    let mut report = Report::new(format!("linear {}", T::NAME));
    for case in fixture().cases("linear/", 3) {
        let layer = Linear::<T> { weight: case.matrix("weight"), bias: case.vector("bias") };
        let (y, cache) = layer.forward(&case.matrix("x")).unwrap();
        let (dx, grads) = layer.backward(&case.matrix("dy"), &cache).unwrap();
        let magnitude = |name: &str| case.matrix::<f64>(name).mapv(f64::abs);
        let (x, weight, dy) = (magnitude("x"), magnitude("weight"), magnitude("dy"));
        let bias = case.vector::<f64>("bias").mapv(f64::abs);
        let (n, f_in, f_out) = (x.nrows(), x.ncols(), dy.ncols());
        let mut check = |name: &str, got: ArrayD<f64>, size: ArrayD<f64>, k: usize| {
            let bound = size * gamma(k, T::UNIT_ROUNDOFF);
            let allowed = if T::UNIT_ROUNDOFF == U64 { Allowed::Exact } else { Allowed::Bound(&bound) };
            report.check(&format!("{}/{name}", case.name), &got, &case.tensor(name), allowed);
        };
        check("y", wide(&y), (x.dot(&weight.t()) + bias).into_dyn(), f_in + 1);
        check("dx", wide(&dx), dy.dot(&weight).into_dyn(), f_out);
        check("dweight", wide(&grads.weight), dy.t().dot(&x).into_dyn(), n);
        check("dbias", wide(&grads.bias), dy.sum_axis(Axis(0)).into_dyn(), n);
    }
}

#[test]
fn linear_agrees() {
    linear::<f64>();
    linear::<f32>();
}

/// Bounds of a batch norm's results, channel by channel, to first order in u (times 1.01 for the rest).
///
/// With X = max |x|, m values, c = x − mean, and δ· the error of ·:
///
/// ```text
/// δmean ≤ 3 γ_{m+4} X                  a sum of m terms |x − pivot| ≤ 2X, divided, pivot added back
/// δc    ≤ δmean + 3 u X =: d           in evaluation d = 2 u (|x| + |mean|)
/// δvar  ≤ 2 d Σ|c|/m + d² + γ_{m+6} var
/// r     = ½ δvar/(var + eps) + 4 u     relative error of rstd (eps itself is rounded: one more u)
/// δy    ≤ |gamma| rstd (d + |c| (r + 4u)) + 2 u (|gamma| rstd |c| + |beta|)
/// δdbeta  ≤ γ_m Σ|dy|                  δdgamma ≤ rstd (d Σ|dy| + (γ_{m+4} + r) Σ|dy c|)
/// δdx   ≤ |gamma| rstd ((r + 8u) B + δdbeta/m + d |s| + |c| (rstd δdgamma/m + r |s|)),   s = dgamma rstd/m
///         B = |dy| + |dbeta|/m + |c s|  (in evaluation: only |dy| in B, nothing after it)
/// ```
struct BatchNormBounds {
    y: ArrayD<f64>,
    dx: ArrayD<f64>,
    dgamma: ArrayD<f64>,
    dbeta: ArrayD<f64>,
    new_running_mean: ArrayD<f64>,
    new_running_var: ArrayD<f64>,
}

fn batch_norm_bounds(case: &Case, u: f64) -> BatchNormBounds {
    let (x, dy) = (case.tensor("x"), case.tensor("dy"));
    let (train, eps, momentum) = (case.flag("train"), case.number("eps"), case.number("momentum"));
    let [scale, shift, old_mean, old_var] =
        ["gamma", "beta", "running_mean", "running_var"].map(|name| case.vector::<f64>(name));
    let channels = scale.len();
    let zeros = || ArrayD::zeros(ndarray::IxDyn(&[channels]));
    let (mut y_bound, mut dx_bound) = (ArrayD::zeros(x.raw_dim()), ArrayD::zeros(x.raw_dim()));
    let [mut dgamma_bound, mut dbeta_bound, mut mean_bound, mut var_bound] = [(); 4].map(|()| zeros());
    for channel in 0..channels {
        let (x, dy) = (x.index_axis(Axis(1), channel), dy.index_axis(Axis(1), channel));
        let m = x.len() as f64;
        let largest = x.iter().fold(0.0f64, |a, x| a.max(x.abs()));
        let (mean, var) = if train {
            let mean = x.sum() / m;
            (mean, x.mapv(|x| (x - mean).powi(2)).sum() / m)
        } else {
            (old_mean[channel], old_var[channel])
        };
        let c = x.mapv(|x| x - mean);
        let rstd = 1.0 / (var + eps).sqrt();
        let error_mean = 3.0 * gamma(x.len() + 4, u) * largest;
        let d = if train { error_mean + 3.0 * u * largest } else { 2.0 * u * (largest + mean.abs()) };
        let error_var = 2.0 * d * c.mapv(f64::abs).sum() / m + d * d + gamma(x.len() + 6, u) * var;
        let r = if train { 0.5 * error_var / (var + eps) } else { 0.0 } + 4.0 * u;
        let (g, b) = (scale[channel].abs() * rstd, shift[channel].abs());
        let bound = c.mapv(|c| 1.01 * (g * (d + c.abs() * (r + 4.0 * u)) + 2.0 * u * (g * c.abs() + b)));
        y_bound.index_axis_mut(Axis(1), channel).assign(&bound);

        let sum_dy = dy.mapv(f64::abs).sum();
        let error_dbeta = gamma(x.len(), u) * sum_dy;
        let products = (&dy * &c).mapv(f64::abs).sum();
        let error_dgamma = rstd * (d * sum_dy + (gamma(x.len() + 4, u) + r) * products);
        (dbeta_bound[channel], dgamma_bound[channel]) = (1.01 * error_dbeta, 1.01 * error_dgamma);
        let (dbeta, s) = (dy.sum(), rstd * (&dy * &c).sum() * rstd / m);
        let bound = ndarray::Zip::from(&dy).and(&c).map_collect(|dy, c| {
            let train_only = if train {
                (r + 8.0 * u) * (dbeta.abs() / m + (c * s).abs())
                    + error_dbeta / m
                    + d * s.abs()
                    + c.abs() * (rstd * error_dgamma / m + r * s.abs())
            } else {
                0.0
            };
            1.01 * g * ((r + 8.0 * u) * dy.abs() + train_only)
        });
        dx_bound.index_axis_mut(Axis(1), channel).assign(&bound);
        // running ← (1 − momentum) running + momentum · batch: at most five roundings, momentum's own included.
        let (old, unbiased) = (old_mean[channel].abs(), var * m / (m - 1.0));
        if train {
            mean_bound[channel] = 1.01 * (momentum * error_mean + 5.0 * u * (old + momentum * mean.abs()));
            let error = momentum * error_var * m / (m - 1.0);
            var_bound[channel] = 1.01 * (error + 7.0 * u * (old_var[channel] + momentum * unbiased));
        }
    }
    BatchNormBounds {
        y: y_bound,
        dx: dx_bound,
        dgamma: dgamma_bound,
        dbeta: dbeta_bound,
        new_running_mean: mean_bound,
        new_running_var: var_bound,
    }
}

fn batch_norm<T: Scalar>() {
    let mut report = Report::new(format!("batch_norm {}", T::NAME));
    for case in fixture().cases("batch_norm/", 7) {
        let mut bn = BatchNorm2d {
            gamma: case.vector("gamma"),
            beta: case.vector("beta"),
            running_mean: case.vector("running_mean"),
            running_var: case.vector("running_var"),
            eps: T::of(case.number("eps")),
            momentum: T::of(case.number("momentum")),
            ..BatchNorm2d::<T>::new(1)
        };
        let mode = if case.flag("train") { Mode::Train } else { Mode::Eval };
        let (y, cache) = bn.forward(&case.activation("x"), mode).unwrap();
        let (dx, grads) = bn.backward(&case.activation("dy"), &cache).unwrap();
        bn.update_running_statistics(&cache);
        let (own, torch) = (batch_norm_bounds(&case, T::UNIT_ROUNDOFF), batch_norm_bounds(&case, U64));
        for (name, got, bound) in [
            ("y", nchw(&y), own.y + torch.y),
            ("dx", nchw(&dx), own.dx + torch.dx),
            ("dgamma", wide(&grads.gamma), own.dgamma + torch.dgamma),
            ("dbeta", wide(&grads.beta), own.dbeta + torch.dbeta),
            ("new_running_mean", wide(&bn.running_mean), own.new_running_mean + torch.new_running_mean),
            ("new_running_var", wide(&bn.running_var), own.new_running_var + torch.new_running_var),
        ] {
            report.check(&format!("{}/{name}", case.name), &got, &case.tensor(name), Allowed::Bound(&bound));
        }
    }
}

#[test]
fn batch_norm_agrees() {
    batch_norm::<f64>();
    batch_norm::<f32>();
}

/// A choice and at most one product: exact, except for a slope that `f32` rounds (2 u: the slope and the product).
fn relu<T: Scalar>() {
    let mut report = Report::new(format!("relu {}", T::NAME));
    for case in fixture().cases("relu/", 6) {
        let slope = T::of(case.number("slope"));
        let layer = if slope == T::zero() { Relu::new() } else { Relu::leaky(slope).unwrap() };
        let (y, cache) = layer.forward(&case.activation("x"));
        let dx = layer.backward(&case.activation("dy"), &cache).unwrap();
        for (name, got) in [("y", nchw(&y)), ("dx", nchw(&dx))] {
            let expected = case.tensor(name);
            let bound = expected.mapv(|v| if v.is_finite() { gamma(2, T::UNIT_ROUNDOFF) * v.abs() } else { 0.0 });
            let rounded = slope.as_f64() != case.number("slope");
            let allowed = if rounded { Allowed::Bound(&bound) } else { Allowed::Exact };
            report.check(&format!("{}/{name}", case.name), &got, &expected, allowed);
        }
    }
}

#[test]
fn relu_agrees() {
    relu::<f64>();
    relu::<f32>();
}

/// y is a choice: equal. dx is a sum over the at most ⌈extent/stride⌉² windows that contain a pixel, each extent =
/// dilation (kernel − 1) + 1; at most that many roundings in `f32`, none in `f64`.
fn max_pool<T: Scalar>() {
    let mut report = Report::new(format!("max_pool {}", T::NAME));
    for case in fixture().cases("max_pool/", 10) {
        let layer = MaxPool2d {
            dilation: case.pair("dilation"),
            ceil_mode: case.flag("ceil_mode"),
            ..MaxPool2d::new(case.pair("kernel"), case.pair("stride"), case.pair("padding"))
        };
        let (y, cache) = layer.forward(&case.activation::<T>("x")).unwrap();
        let dx = layer.backward(&case.activation::<T>("dy"), &cache).unwrap();
        report.check(&format!("{}/y", case.name), &nchw(&y), &case.tensor("y"), Allowed::Exact);
        let windows: usize =
            (0..2).map(|a| (layer.dilation[a] * (layer.kernel[a] - 1) + 1).div_ceil(layer.stride[a])).product();
        // The values are below 1, so a sum of `windows` of them is below `windows`.
        let bound = if T::UNIT_ROUNDOFF == U64 { 0.0 } else { gamma(windows, T::UNIT_ROUNDOFF) * windows as f64 };
        report.check(&format!("{}/dx", case.name), &nchw(&dx), &case.tensor("dx"), Allowed::Each(bound));
    }
}

#[test]
fn max_pool_agrees() {
    max_pool::<f64>();
    max_pool::<f32>();
}

/// y: kh·kw − 1 additions and a division, γ_{kh kw} of the average of |x|. dx: every window that contains a pixel adds a
/// quotient: one rounding each for the quotient and the sum.
fn avg_pool<T: Scalar>() {
    let mut report = Report::new(format!("avg_pool {}", T::NAME));
    for case in fixture().cases("avg_pool/", 8) {
        let divisor = case.number("divisor_override") as usize;
        let layer = AvgPool2d {
            ceil_mode: case.flag("ceil_mode"),
            count_include_pad: case.flag("count_include_pad"),
            divisor_override: (divisor > 0).then_some(divisor),
            ..AvgPool2d::new(case.pair("kernel"), case.pair("stride"), case.pair("padding"))
        };
        let (y, cache) = layer.forward(&case.activation::<T>("x")).unwrap();
        let dx = layer.backward(&case.activation::<T>("dy"), &cache).unwrap();
        let (y_abs, _) = layer.forward(&absolute(&case.activation("x"))).unwrap();
        let dx_abs = layer.backward(&absolute(&case.activation("dy")), &cache).unwrap();
        let windows: usize = (0..2).map(|a| layer.kernel[a].div_ceil(layer.stride[a])).product();
        let bound = both::<T>(|u| nchw(&y_abs) * gamma(layer.kernel[0] * layer.kernel[1], u));
        report.check(&format!("{}/y", case.name), &nchw(&y), &case.tensor("y"), Allowed::Bound(&bound));
        let bound = both::<T>(|u| nchw(&dx_abs) * gamma(windows + 1, u));
        report.check(&format!("{}/dx", case.name), &nchw(&dx), &case.tensor("dx"), Allowed::Bound(&bound));
    }
}

#[test]
fn avg_pool_agrees() {
    avg_pool::<f64>();
    avg_pool::<f32>();
}

/// y: H·W additions and a division (or a product with a rounded reciprocal: one more). dx: one division.
fn global_avg_pool<T: Scalar>() {
    let mut report = Report::new(format!("global_avg_pool {}", T::NAME));
    for case in fixture().cases("global_avg_pool/", 3) {
        let x = case.activation::<T>("x");
        let (y, cache) = GlobalAvgPool.forward(&x).unwrap();
        let dx = GlobalAvgPool.backward(&case.matrix::<T>("dy"), &cache).unwrap();
        let (y_abs, _) = GlobalAvgPool.forward(&absolute(&case.activation("x"))).unwrap();
        let pixels = x.shape()[1] * x.shape()[2];
        let bound = both::<T>(|u| wide(&y_abs) * gamma(pixels + 2, u));
        report.check(&format!("{}/y", case.name), &wide(&y), &case.tensor("y"), Allowed::Bound(&bound));
        let bound = both::<T>(|u| case.tensor("dx").mapv(f64::abs) * gamma(2, u));
        report.check(&format!("{}/dx", case.name), &nchw(&dx), &case.tensor("dx"), Allowed::Bound(&bound));
    }
}

#[test]
fn global_avg_pool_agrees() {
    global_avg_pool::<f64>();
    global_avg_pool::<f32>();
}

/// Bounds of (loss, dlogits), to first order in u (times 1.01 for the rest). With M = max z, d = |z − M|, K classes,
/// s = Σ exp(z − M) ≥ 1, and exp and log within two units in the last place:
///
/// ```text
/// δ log s ≤ u Σ p d + (K + 4) u + 2 u log s           arguments off by u d, exponentials, their sum, the logarithm
/// δ log p ≤ E = u d + δ log s + u (d + log s)         both subtractions; nothing grows with |z|
/// δ loss  ≤ Σ_n [(1 − ε) E_t + ε mean(E) + (K + 4) u ((1 − ε) |log p_t| + ε mean |log p|)] + N u Σ |loss_n|
/// δ dlogits ≤ p (E + 3 u) + 4 u (p + q) + smallest positive normal number
/// ```
fn softmax_bounds(case: &Case, u: f64, tiny: f64) -> (f64, Array2<f64>) {
    let (z, targets) = (case.matrix::<f64>("logits"), case.targets());
    let (epsilon, mean) = (case.number("label_smoothing"), case.flag("mean"));
    let (n, k) = z.dim();
    let share = if mean { 1.0 / n as f64 } else { 1.0 };
    let (mut loss_bound, mut bounds) = (0.0, Array2::zeros((n, k)));
    for (row, (z, &t)) in z.outer_iter().zip(&targets).enumerate() {
        let max = z.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let d = z.mapv(|z| max - z);
        let s = d.mapv(|d| (-d).exp()).sum();
        let p = d.mapv(|d| (-d).exp() / s);
        let size = d.mapv(|d| d + s.ln()); // |log p|
        let log_s = u * (&p * &d).sum() + (k + 4) as f64 * u + 2.0 * u * s.ln();
        let e: Array1<f64> = d.mapv(|d| u * d + log_s + u * (d + s.ln()));
        let average = |v: &Array1<f64>| v.sum() / k as f64;
        let loss = (1.0 - epsilon) * size[t] + epsilon * average(&size);
        let own = (1.0 - epsilon) * e[t] + epsilon * average(&e);
        loss_bound += share * 1.01 * (own + (k + 4 + n) as f64 * u * loss);
        for class in 0..k {
            let q = (1.0 - epsilon) * f64::from(u8::from(class == t)) + epsilon / k as f64;
            let bound = p[class] * (e[class] + 3.0 * u) + 4.0 * u * (p[class] + q) + tiny;
            bounds[[row, class]] = share * 1.01 * bound;
        }
    }
    (loss_bound, bounds)
}

fn softmax_cross_entropy<T: Scalar>() {
    let mut report = Report::new(format!("softmax_cross_entropy {}", T::NAME));
    for case in fixture().cases("softmax_cross_entropy/", 18) {
        let layer = SoftmaxCrossEntropy {
            label_smoothing: T::of(case.number("label_smoothing")),
            reduction: if case.flag("mean") { Reduction::Mean } else { Reduction::Sum },
        };
        let logits = exact::<T>(&case.tensor("logits")).into_dimensionality().unwrap();
        let (loss, cache) = layer.forward(&logits, &case.targets()).unwrap();
        let dlogits = layer.backward(&cache);
        let tiny = T::min_positive_value().as_f64();
        let (own, torch) = (softmax_bounds(&case, T::UNIT_ROUNDOFF, tiny), softmax_bounds(&case, U64, 0.0));
        let expected = case.tensor("y").first().copied().unwrap();
        report.check_number(&format!("{}/loss", case.name), loss.as_f64(), expected, own.0 + torch.0);
        let bound = (own.1 + torch.1).into_dyn();
        let expected = case.tensor("dlogits");
        report.check(&format!("{}/dlogits", case.name), &wide(&dlogits), &expected, Allowed::Bound(&bound));
    }
}

#[test]
fn softmax_cross_entropy_f64_agrees() {
    softmax_cross_entropy::<f64>();
}

#[test]
fn softmax_cross_entropy_f32_agrees() {
    softmax_cross_entropy::<f32>();
}
