//! Operations without windows.

use super::cases::{Case, CaseData};
use super::computed::{Computed, U, exact, nchw, wide};
use ndarray::{Array1, Array2, ArrayD, ArrayViewD, ArrayViewMutD, Axis, Ix2, Ix4, IxDyn, Zip};
use resnet_by_hand::Scalar;
use resnet_by_hand::layers::{
    Activation, BatchNorm2d, Linear, Mode, Reduction, Relu, RunningVariance, SoftmaxCrossEntropy, nchw_to_nhwc,
};
use resnet_by_hand::optim::{DecayExemption, Sgd, SgdConfig};
use resnet_by_hand::parameters::{Gradients, Parameters, Role};
use resnet_by_hand::verify::bounds::{self, SECOND_ORDER, gamma};

fn input(data: &CaseData, index: usize) -> &ArrayD<f64> {
    data.inputs[index].as_ref().expect("an input that is given")
}

/// Relu and LeakyRelu. A ReLU copies values; a leaky one multiplies: theirs may first round the slope to `f32`.
pub fn relu<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["alpha"]);
    let x = input(data, 0);
    let flat: Activation<T> = exact::<T>(x).into_shape_with_order((1, 1, 1, x.len())).unwrap().into_shared();
    let leaky = case.node.op == "LeakyRelu";
    let slope = if leaky { case.float("alpha", 0.01) } else { 0.0 };
    let relu = if leaky { Relu::leaky(T::of(slope)).expect(&case.name) } else { Relu::new() };
    let got = wide(&relu.forward(&flat).0.into_owned());
    let theirs = x.mapv(|x| if x < 0.0 { 2.0 * U * slope * x.abs() * SECOND_ORDER } else { 0.0 });
    let theirs = theirs.into_shape_with_order(got.shape()).unwrap();
    vec![Computed::new::<T>(0, got, theirs).shaped(x.shape())]
}

/// Gemm, Y = α A' B' + β C, is Linear with x = A', weight = α B'ᵀ and bias = β C, where C is a row or a scalar. A matrix C
/// is one more block of features: Y = [A' I] [α B'; β C].
///
/// An inner product of F_in + 1 terms, γ_{F_in+1} times Σ |·| |·|; α and β rounded to `f32`, and multiplied before the
/// sum on one side and after it on the other: 3 more roundings.
pub fn gemm<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["alpha", "beta", "broadcast", "transA", "transB"]);
    let matrix = |index: usize, flag: &str| {
        let matrix: Array2<T> = exact::<T>(input(data, index)).into_dimensionality::<Ix2>().expect("two axes");
        if case.int(flag, 0) != 0 { matrix.reversed_axes() } else { matrix }
    };
    let (alpha, beta) = (T::of(case.float("alpha", 1.0)), T::of(case.float("beta", 1.0)));
    let (mut x, b) = (matrix(0, "transA"), matrix(1, "transB") * alpha);
    let (m, n) = (x.nrows(), b.ncols());
    let mut weight = b.reversed_axes();
    let mut bias = Array1::zeros(n);
    if let Some(Some(c)) = data.inputs.get(2) {
        let c = exact::<T>(c) * beta;
        if c.ndim() == 2 && c.shape()[0] == m && m > 1 {
            let c = c.broadcast((m, n)).expect("C broadcasts").to_owned();
            x = ndarray::concatenate![Axis(1), x, Array2::eye(m)];
            weight = ndarray::concatenate![Axis(1), weight, c.t()];
        } else {
            let row = c.broadcast((1, n)).expect("C broadcasts").row(0).to_owned();
            bias = row;
        }
    }
    let linear = Linear { weight, bias };
    let (y, _) = linear.forward(&x).expect(&case.name);
    let terms = x.ncols() + 1;
    let theirs = bounds::linear(&linear, &x, &y, U).unwrap().y * (gamma(terms + 3, U) / gamma(terms, U));
    vec![Computed::new::<T>(0, wide(&y), theirs.into_dyn())]
}

/// The classes of `axis` moved last: (rows, classes), and the shape with the axis moved.
fn rows_of(values: &ArrayD<f64>, axis: usize) -> (Array2<f64>, Vec<usize>) {
    let mut order: Vec<_> = (0..values.ndim()).filter(|&other| other != axis).collect();
    order.push(axis);
    let moved = values.view().permuted_axes(order).as_standard_layout().into_owned();
    let (shape, classes) = (moved.shape().to_vec(), values.shape()[axis]);
    (moved.into_shape_with_order((values.len() / classes, classes)).unwrap(), shape)
}

/// (rows, classes) with the axis moved back.
fn rows_back(rows: Array2<f64>, shape: &[usize], axis: usize) -> ArrayD<f64> {
    let last = shape.len() - 1;
    let mut order: Vec<_> = (0..last).collect();
    order.insert(axis, last);
    rows.into_shape_with_order(shape).unwrap().permuted_axes(order).as_standard_layout().into_owned()
}

/// The axis of the classes. Before operator set 13 everything from `axis` on was one row: the same for the last axis.
fn class_axis(case: &Case, rank: usize) -> usize {
    case.knows(&["axis"]);
    let axis = case.int("axis", if case.opset < 13 { 1 } else { -1 });
    let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).expect("an axis");
    assert!(case.opset >= 13 || axis == rank - 1, "{}: rows of several axes", case.name);
    axis
}

/// How far NumPy's and PyTorch's softmax in `f32` may be off: for p and for log p.
///
/// exp is taken to be off by 3 and ln by 4 units in the last place, 6u and 8u, as NumPy's own tests allow. With R = max z −
/// min z over a row of K: z − max z costs uR, exp 6u, the sum of K terms (R + 6 + K − 1)u, the division u:
///
/// ```text
/// |error of p|     ≤ p · u (2R + K + 12)
/// |error of log p| ≤ u (2R + K + 12 + 8 ln K + 8 |log p|)
/// ```
///
/// the second for both ways: ln of that p, 8u |log p| more; or z − max z − ln Σ, which is off by uR + u(R + K + 5) +
/// 8u ln K + u |log p|.
fn softmax_bounds(logits: &Array2<f64>) -> (Array2<f64>, Array2<f64>) {
    let classes = logits.ncols() as f64;
    let (mut of_p, mut of_log_p) = (logits.clone(), logits.clone());
    for ((z, mut of_p), mut of_log_p) in logits.outer_iter().zip(of_p.outer_iter_mut()).zip(of_log_p.outer_iter_mut()) {
        let (low, high) = z.fold((f64::MAX, f64::MIN), |(low, high), &z| (low.min(z), high.max(z)));
        let range = high - low;
        let log_sum = high + z.mapv(|z| (z - high).exp()).sum().ln();
        Zip::from(&mut of_p).and(&mut of_log_p).and(z).for_each(|of_p, of_log_p, &z| {
            let log_p = z - log_sum;
            *of_p = log_p.exp() * U * (2.0 * range + classes + 12.0) * SECOND_ORDER;
            *of_log_p = U * (2.0 * range + classes + 12.0 + 8.0 * classes.ln() + 8.0 * log_p.abs()) * SECOND_ORDER;
        });
    }
    (of_p, of_log_p)
}

fn summed<T: Scalar>() -> SoftmaxCrossEntropy<T> {
    SoftmaxCrossEntropy { reduction: Reduction::Sum, ..SoftmaxCrossEntropy::new() }
}

/// Softmax is part of the gradient of the summed loss, dlogits = p − onehot: once with the first class as every row's target,
/// once with the last, so that every p is also checked where nothing was subtracted from it.
pub fn softmax<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    let z = input(data, 0);
    let axis = class_axis(case, z.ndim());
    let (rows, shape) = rows_of(z, axis);
    let logits: Array2<T> = exact::<T>(&rows.clone().into_dyn()).into_dimensionality().unwrap();
    let (theirs, _) = softmax_bounds(&rows);
    let last = rows.ncols() - 1;
    let ways = [0, last].into_iter().map(|target| {
        let targets = vec![target; rows.nrows()];
        let (_, cache) = summed::<T>().forward(&logits, &targets).expect(&case.name);
        let mut p = summed::<T>().backward(&cache);
        p.column_mut(target).mapv_inplace(|dlogit| dlogit + T::one());
        let (_, mut own) = bounds::softmax_cross_entropy(&summed::<T>(), &logits, &targets, U).unwrap();
        // Adding the onehot again rounds p, at most 1.
        own.column_mut(target).mapv_inplace(|bound| bound + U * SECOND_ORDER);
        let [got, theirs, own] =
            [p.mapv(Scalar::as_f64), theirs.clone(), own].map(|rows| rows_back(rows, &shape, axis));
        Computed::with_own::<T>(0, format!("target {target}"), got, theirs, own)
    });
    ways.collect()
}

/// log p and its own bound: minus the loss of one row, with every class as its target.
fn log_p<T: Scalar>(logits: &Array2<T>) -> (Array2<f64>, Array2<f64>) {
    let (mut log_p, mut own) = (Array2::zeros(logits.dim()), Array2::zeros(logits.dim()));
    for (n, row) in logits.outer_iter().enumerate() {
        let row = row.to_owned().insert_axis(Axis(0));
        for class in 0..logits.ncols() {
            let (loss, _) = summed::<T>().forward(&row, &[class]).unwrap();
            log_p[[n, class]] = -loss.as_f64();
            own[[n, class]] = bounds::softmax_cross_entropy(&summed::<T>(), &row, &[class], U).unwrap().0;
        }
    }
    (log_p, own)
}

pub fn log_softmax<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    let z = input(data, 0);
    let axis = class_axis(case, z.ndim());
    let (rows, shape) = rows_of(z, axis);
    let (got, own) = log_p::<T>(&exact::<T>(&rows.clone().into_dyn()).into_dimensionality().unwrap());
    let (_, theirs) = softmax_bounds(&rows);
    let [got, theirs, own] = [got, theirs, own].map(|rows| rows_back(rows, &shape, axis));
    vec![Computed::with_own::<T>(0, "", got, theirs, own)]
}

/// SoftmaxCrossEntropyLoss. (N, C, d₁, …) is N·d₁·… rows; an ignored row is left out of the batch, and its loss,
/// without a reduction, is 0. Without a reduction every row is a batch of one. The second output is log p.
///
/// Theirs: |error of log p| of every row; the sum of N, the division and a weight of 1 for each: γ_{N+3}.
pub fn cross_entropy<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["ignore_index", "reduction"]);
    assert_eq!(data.inputs.len(), 2, "{}: weights of classes", case.name);
    let (scores, labels) = (input(data, 0), input(data, 1));
    let (rows, shape) = rows_of(scores, 1);
    let logits: Array2<T> = exact::<T>(&rows.clone().into_dyn()).into_dimensionality().unwrap();
    let (_, row_bounds) = softmax_bounds(&rows);
    let ignored = case.attribute("ignore_index").map(|_| case.int("ignore_index", 0) as f64);
    let counted: Vec<(usize, usize)> = labels
        .iter()
        .enumerate()
        .filter(|&(_, &label)| Some(label) != ignored)
        .map(|(n, &l)| (n, l as usize))
        .collect();
    let targets: Vec<usize> = counted.iter().map(|&(_, target)| target).collect();

    let reduction = case.text("reduction", "mean");
    let loss = if reduction == "none" {
        let [mut got, mut theirs, mut own] = [(); 3].map(|()| ArrayD::zeros(labels.raw_dim()));
        let [losses, all_theirs, all_own] =
            [&mut got, &mut theirs, &mut own].map(|array: &mut ArrayD<f64>| array.as_slice_mut().unwrap());
        for &(n, target) in &counted {
            let row = logits.row(n).to_owned().insert_axis(Axis(0));
            losses[n] = summed::<T>().forward(&row, &[target]).expect(&case.name).0.as_f64();
            all_theirs[n] = row_bounds[[n, target]];
            all_own[n] = bounds::softmax_cross_entropy(&summed::<T>(), &row, &[target], U).unwrap().0;
        }
        Computed::with_own::<T>(0, "", got, theirs, own)
    } else {
        let kept: Vec<_> = counted.iter().map(|&(n, _)| n).collect();
        let batch = logits.select(Axis(0), &kept);
        let (layer, share) = match reduction.as_str() {
            "mean" => (SoftmaxCrossEntropy::new(), 1.0 / kept.len() as f64),
            "sum" => (summed::<T>(), 1.0),
            other => panic!("{}: reduction {other}", case.name),
        };
        let (loss, _) = layer.forward(&batch, &targets).expect(&case.name);
        let (own, _) = bounds::softmax_cross_entropy(&layer, &batch, &targets, U).unwrap();
        let of_rows: f64 = counted.iter().map(|&(n, target)| row_bounds[[n, target]]).sum();
        // Losses are not negative: their sum is that of their magnitudes.
        let theirs = share * of_rows + gamma(kept.len() + 3, U) * loss.as_f64() * SECOND_ORDER;
        let [got, theirs, own] = [loss.as_f64(), theirs, own].map(|value| ArrayD::from_elem(IxDyn(&[]), value));
        Computed::with_own::<T>(0, "", got, theirs, own)
    };
    let mut computed = vec![loss];
    if data.outputs.len() > 1 {
        let (got, own) = log_p(&logits);
        let [got, theirs, own] = [got, row_bounds, own].map(|rows| rows_back(rows, &shape, 1));
        computed.push(Computed::with_own::<T>(1, "log p", got, theirs, own));
    }
    computed
}

/// BatchNormalization. It does not depend on the arrangement of pixels: (N, C, d₁, …) is (N, C, 1, d₁·…). In training the
/// new running statistics are momentum · old + (1 − momentum) · batch, our momentum being 1 − theirs, with the biased variance.
///
/// Theirs: y by [`bounds::batch_norm`], whose mean about a pivot may be off by more than NumPy's, γ_m max |x|, as long as
/// 0 is between the smallest and the largest x (checked). Σ (x − mean')² with a mean' that is off by e is
/// Σ (x − mean)² + m e², each term rounded: m + 3 roundings. With μ rounded to `f32` where the generator had a double
/// (u μ, in 1 − μ too), two products and a sum:
///
/// ```text
/// |error of batch mean| ≤ e = γ_m max |x|                       |error of batch variance| ≤ γ_{m+3} σ² + 2 e²
/// |error of running|    ≤ (1 − μ) |error of batch| + γ_4 (μ |old| + (1 − μ) |batch|) + u μ (|old| + |batch|)
/// ```
///
/// Ours: the same with the errors of mean and variance that [`bounds::batch_norm`] derives.
pub fn batch_norm<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["epsilon", "is_test", "momentum", "training_mode"]);
    let train = case.int("training_mode", 0) != 0;
    assert!(case.opset >= 14 || case.int("is_test", 0) != 0, "{}: training before operator set 14", case.name);
    let x = input(data, 0);
    let (n, c) = (x.shape()[0], x.shape()[1]);
    let pixels = exact::<T>(x).into_shape_with_order((n, c, 1, x.len() / (n * c))).unwrap();
    let pixels = nchw_to_nhwc(pixels.into_dimensionality::<Ix4>().unwrap().view());
    let vector = |index: usize| -> Array1<T> { exact::<T>(input(data, index)).into_dimensionality().unwrap() };
    let momentum = case.float("momentum", 0.9);
    let mut layer = BatchNorm2d {
        gamma: vector(1),
        beta: vector(2),
        running_mean: vector(3),
        running_var: vector(4),
        eps: T::of(case.float("epsilon", 1e-5)),
        momentum: T::of(1.0 - momentum),
        running_variance: RunningVariance::Biased,
        group: None,
    };
    let mode = if train { Mode::Train } else { Mode::Eval };
    let (y, cache) = layer.forward(&pixels, mode).expect(&case.name);
    let theirs = bounds::batch_norm(&layer, &pixels, &y.mapv(|_| T::zero()).into_shared(), mode, U).y;
    let mut computed = vec![Computed::new::<T>(0, nchw(&y), nchw(&theirs.into_shared())).shaped(x.shape())];
    if train {
        let (old_mean, old_var) = (layer.running_mean.clone(), layer.running_var.clone());
        layer.update_running_statistics(&cache);
        let m = x.len() / c;
        let levels = (m as f64).log2().ceil();
        let mut bounds = [(); 4].map(|()| Array1::<f64>::zeros(c));
        for k in 0..c {
            let x = x.index_axis(Axis(1), k);
            let (low, high) = x.fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
            assert!(low <= 0.0 && high >= 0.0, "{}: the mean's bound requires 0 between them", case.name);
            let mean = x.sum() / m as f64;
            let var = x.mapv(|x| (x - mean).powi(2)).sum() / m as f64;
            let e_theirs = gamma(m, U) * high.max(-low);
            let e_own = (high - low) * gamma(m + 8 * levels as usize + 2, U) + U * mean.abs();
            let var_own = gamma(m + 6 * levels as usize + 3, U) * var
                + (6.0 * U * (high - low) + 2.0 * e_own * levels.sqrt()) * var.sqrt();
            let running = |error: f64, old: f64, batch: f64| {
                let (old, batch) = (old.abs(), batch.abs());
                let rounding = gamma(4, U) * (momentum * old + (1.0 - momentum) * batch);
                ((1.0 - momentum) * error + rounding + U * momentum * (old + batch)) * SECOND_ORDER
            };
            bounds[0][k] = running(e_theirs, old_mean[k].as_f64(), mean);
            bounds[1][k] = running(e_own, old_mean[k].as_f64(), mean);
            bounds[2][k] = running(gamma(m + 3, U) * var + 2.0 * e_theirs.powi(2), old_var[k].as_f64(), var);
            bounds[3][k] = running(var_own, old_var[k].as_f64(), var);
        }
        let [mean_theirs, mean_own, var_theirs, var_own] = bounds.map(Array1::into_dyn);
        let mean = wide(&layer.running_mean);
        computed.push(Computed::with_own::<T>(1, "running mean", mean, mean_theirs, mean_own));
        let var = wide(&layer.running_var);
        computed.push(Computed::with_own::<T>(2, "running variance", var, var_theirs, var_own));
    }
    computed
}

/// The tensors that Momentum optimises.
struct Tensors<T>(Vec<(String, ArrayD<T>)>);

impl<T: Scalar> Parameters<T> for Tensors<T> {
    fn visit(&self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        self.0.iter().for_each(|(name, tensor)| visitor(name, Role::Weight, tensor.view()));
    }

    fn visit_mut(&mut self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        self.0.iter_mut().for_each(|(name, tensor)| visitor(name, Role::Weight, tensor.view_mut()));
    }
}

/// Momentum is SGD: inputs R (our η), T (steps so far), then all X (θ), all G, all V (b); α is μ, norm_coefficient λ, and
/// β, 1 in the first step, is 1 − τ. V is the buffer that SGD restores from a checkpoint.
///
/// X_new = X − R d is a sum of products of the terms λX, G and V. The longest term, R·μ·β·λ·X in Nesterov's, has
/// the roundings to `f32` of μ, β and λ, 4 products and 4 sums: γ_11 times the same sum of absolute values.
pub fn momentum<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["alpha", "beta", "mode", "norm_coefficient"]);
    let nesterov = case.text("mode", "") == "nesterov";
    assert!(nesterov || case.text("mode", "") == "standard", "{}: mode", case.name);
    let number = |index: usize| input(data, index).sum();
    let beta = if number(1) > 0.0 { case.float("beta", 0.0) } else { 1.0 };
    let config = SgdConfig {
        momentum: case.float("alpha", 0.0),
        dampening: 1.0 - beta,
        weight_decay: case.float("norm_coefficient", 0.0),
        nesterov,
        decay_exemption: DecayExemption::None,
    };
    let lr = number(0);
    let count = (data.inputs.len() - 2) / 3;
    let named = |part: usize| {
        let tensor = move |k: usize| exact::<T>(input(data, 2 + part * count + k));
        (0..count).map(move |k| (format!("x{k}"), tensor(k)))
    };
    let mut model = Tensors(named(0).collect());
    let mut gradients = Gradients::new();
    named(1).for_each(|(name, gradient)| gradients.push("", &name, gradient));
    let mut sgd = Sgd::new(config).expect(&case.name);
    sgd.restore(&model, named(2)).expect(&case.name);
    sgd.step(&mut model, &gradients, lr).expect(&case.name);

    // Outputs: all X, then all V.
    let results = model.0.iter().map(|(_, x)| x).chain(sgd.buffers().map(|(_, b)| b));
    let computed = results.enumerate().map(|(output, result)| {
        let k = output % count;
        let [x, g, v] = [0, 1, 2].map(|part| input(data, 2 + part * count + k).mapv(f64::abs));
        let decayed = g + &x * config.weight_decay;
        let buffer = &decayed * beta + v * config.momentum;
        let direction = if nesterov { decayed + &buffer * config.momentum } else { buffer.clone() };
        let magnitude = if output < count { x + direction * lr } else { buffer };
        let what = if output < count { "X" } else { "V" };
        let theirs = magnitude * (gamma(11, U) * SECOND_ORDER);
        Computed::with_own::<T>(output, what, wide(&result.clone()), theirs.clone(), theirs)
    });
    computed.collect()
}
