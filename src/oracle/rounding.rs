//! How far a correct implementation may be off, element by element: the rounding errors of one step.
//!
//! A layer computes sums of products. Let t be the terms of one element, K of them, and S = Σ t. In an [`Arithmetic`] with
//! unit roundoffs u_o of the operands, u_s of the sums and u of the stored results,
//!
//! ```text
//! sums        each of K partial sums is rounded. They grow like a random walk about a straight line, so
//!             var = u_s² Σᵢ (partial sumᵢ)²/3  ≈  u_s² (K + 2)/6 · (Σ t² + S²)
//!             over images, whose own sums Sₙ may all cancel:  … · (Σ t² + S² + Σₙ Sₙ²)
//!             if the partial sums P over the rows are larger than that, their mean square: 2 P² for Σₙ Sₙ²
//! operands    if x or w is no number of the operands' type, each is rounded first:
//!             var = u_o²/3 · Σ t²   for each of the two
//! result      rounded to its type once or, with a bias, twice: at most 2 u |y| and 2 u |y − bias|
//!
//! tolerance = MULTIPLE · √var + bound
//! ```
//!
//! The unit is the *terms*, not the result: where terms cancel, as in the gradient of a bias before a batch norm or in
//! p − target of an image that has been learnt, the result may be all rounding. Σ t² of every element costs one more pass of
//! the layer with the squares of its operands. Values that are only copied (ReLU, max pool, shortcuts of option A) are exact
//! and have the tolerance 0.
//!
//! That the variance grows with K and not with K², as the worst case does, is the theorem of Higham & Mary 2019, *A new
//! approach to probabilistic rounding error analysis*; with products in low precision and sums in a higher one,
//! Connolly, Higham & Mary 2021, *Stochastic rounding and its probabilistic backward error analysis*. A sum of more than
//! [`LONGEST`] terms is assumed to be formed in blocks of at most this many, as every parallel implementation does.
//!
//! The theorem needs terms that differ. Equal ones (a constant image, the gradient that a global pool passes to every pixel)
//! are all rounded in the same direction as long as the partial sum keeps its exponent, so their errors add up and do not
//! cancel (`steps`). Terms smaller than half a unit in the last place of the partial sum are not even rounded, they are lost:
//! where many of one sign are, their sum is added to the bound of a convolution's weight gradient (`swallowed`).
//!
//! A batch norm has errors that all pixels of a channel share, because they share the mean and the standard deviation
//! ([`Shared`]). `docs/checking_gradients.md` derives the formulas layer by layer.

use super::arithmetic::{Arithmetic, Float};
use crate::layers::batch_norm::GroupStatistics;
use crate::layers::{BatchNorm2d, Conv2d, Linear, Mode, Reduction, SoftmaxCrossEntropy};
use crate::program::{Layer, Step, Value};
use crate::verify::bounds::winograd_growth;
use crate::{Activation, Result};
use ndarray::{Array1, Array2, ArrayD, ArrayView3, ArrayView4, ArrayViewD, Axis, Ix2, Ix4, Zip, s};

/// How many standard deviations of the model are allowed for one element: of 10⁵ elements the largest error is 4.4 of them.
pub const MULTIPLE: f64 = 10.0;

/// The same for a sum over all elements of a tensor. These sums are few, and nothing hides near them.
const OF_WHOLE: f64 = 16.0;

/// The longest sum that is formed term by term. oneDNN does so on each thread: over 131,072 pixels the errors of a weight's
/// gradient still grow like √K.
pub const LONGEST: usize = 1 << 17;

/// The longest sum of a matrix unit that cuts bits off.
const BLOCK: usize = 4096;

/// The standard deviation, in units of the unit roundoff, of a statistic that may be rounded to the stored type.
const OF_STATISTIC: f64 = 0.35;

/// Roundings of Winograd's algorithm outside its sum.
const TRANSFORMS: usize = 14;

/// The errors of an array of results, with the array's shape.
#[derive(Clone, Debug)]
pub struct Noise {
    /// Standard deviation of the errors that are independent in every element.
    pub each: ArrayD<f64>,
    /// Errors that the elements of a channel share.
    pub shared: Vec<Shared>,
    /// The largest error by rounding the result itself and the statistics it depends on.
    pub bound: ArrayD<f64>,
    /// The largest relative error that all elements share: that of products on units that cut bits off.
    pub systematic: f64,
}

/// Errors of the form e_c · pattern, with one random e_c in each channel.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Standard deviation of e_c.
    pub size: Array1<f64>,
    /// What it multiplies; its last axis is the channel.
    pub pattern: ArrayD<f64>,
}

impl Noise {
    /// Only the rounding of the result.
    fn of_result(result: ArrayViewD<'_, f64>, stored: Float) -> Self {
        let u = stored.unit_roundoff();
        let bound = result.mapv(|y| 2.0 * u * y.abs() + stored.underflow());
        Noise { each: ArrayD::zeros(result.raw_dim()), shared: Vec::new(), bound, systematic: 0.0 }
    }

    /// A copy of values: exact, unless a value is no number of the stored type.
    fn of_copy(result: ArrayViewD<'_, f64>, stored: Float) -> Self {
        let u = stored.unit_roundoff();
        let bound = result.mapv(|y| if stored.contains(y) { 0.0 } else { 2.0 * u * y.abs() + stored.underflow() });
        Noise { each: ArrayD::zeros(result.raw_dim()), shared: Vec::new(), bound, systematic: 0.0 }
    }

    fn with(mut self, variance: ArrayD<f64>) -> Self {
        self.each = variance.mapv_into(f64::sqrt);
        self
    }

    /// The results are products of this arithmetic.
    fn of_products(mut self, arithmetic: &Arithmetic) -> Self {
        self.systematic = bias(arithmetic);
        self
    }

    /// What is allowed for `values`, whose errors these are. `coherent` is the channel's axis if an operand is rounded:
    /// the error of one weight is the same in all pixels of its channel.
    pub fn allowed(&self, values: ArrayViewD<'_, f64>, arithmetic: &Arithmetic, coherent: Option<Axis>) -> Allowed {
        let mut variance = self.each.mapv(|each| each * each);
        for Shared { size, pattern } in &self.shared {
            variance += &(pattern * size).mapv(|e| e * e);
        }
        let each = variance.mapv_into(|variance| MULTIPLE * variance.sqrt()) + &self.bound;

        let count = values.len().max(1) as f64;
        let weights = [&values.to_owned(), &ArrayD::ones(values.raw_dim())];
        let squares = values.iter().filter(|x| x.is_finite()).map(|x| x * x).sum::<f64>();
        let [factor, mean] = weights.map(|weight| {
            let size = &self.each * &weight.mapv(f64::abs);
            let alone = match coherent.filter(|axis| axis.index() < size.ndim()) {
                None => size.iter().map(|s| s * s).sum::<f64>(),
                Some(axis) => size.axis_iter(axis).map(|channel| channel.sum().powi(2)).sum(),
            };
            let shared = self.shared.iter().map(|Shared { size, pattern }| {
                let sums = (pattern * weight)
                    .axis_iter(Axis(pattern.ndim() - 1))
                    .map(|channel| channel.sum())
                    .collect::<Array1<f64>>();
                (sums * size).mapv(|s| s * s).sum()
            });
            let bound = self.bound.iter().zip(weight).map(|(b, w)| (b * w).powi(2)).sum::<f64>();
            // Results near the end of the range of the type are all rounded in the same direction, to 0.
            let underflow = arithmetic.stored.underflow() * weight.mapv(f64::abs).sum();
            OF_WHOLE * (alone + shared.sum::<f64>()).sqrt() + 2.0 * bound.sqrt() + underflow
        });
        let (bias, both) = (self.systematic, of_both(arithmetic));
        Allowed {
            each: each * both,
            factor: both * factor / squares + bias,
            mean: (both * mean + bias * values.sum().abs()) / count,
        }
    }
}

impl Allowed {
    /// The same where the errors of all elements may have one cause: the running statistics of all channels are multiplied by
    /// the same rounded momentum.
    pub fn of_one_cause(mut self, values: ArrayViewD<'_, f64>) -> Self {
        let (mut products, mut squares, mut sum) = (0.0, 0.0, 0.0);
        for (each, value) in self.each.iter().zip(&values) {
            (products, squares, sum) = (products + each * value.abs(), squares + value * value, sum + each);
        }
        self.factor = self.factor.max(products / squares);
        self.mean = self.mean.max(sum / values.len().max(1) as f64);
        self
    }
}

/// In `float64` the reference rounds as much as the other implementation does.
pub(super) fn of_both(arithmetic: &Arithmetic) -> f64 {
    if arithmetic.sums == Float::F64 { 2.0 } else { 1.0 }
}

/// How far the results of another implementation may be off.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// Each element.
    pub each: ArrayD<f64>,
    /// The fitted factor ⟨theirs, ours⟩/⟨ours, ours⟩, from 1.
    pub factor: f64,
    /// The mean error.
    pub mean: f64,
}

/// The largest systematic relative error. A unit that multiplies TF32 numbers may cut the last 13 bits of each operand
/// off instead of rounding, and an accumulator of a matrix unit may do the same with every partial sum.
pub(super) fn bias(arithmetic: &Arithmetic) -> f64 {
    let operands = if arithmetic.operands == Float::TF32 { 2.0 * Float::TF32.unit_roundoff() } else { 0.0 };
    let sums = if arithmetic.on_matrix_units() { BLOCK as f64 / 2.0 * arithmetic.sums.unit_roundoff() } else { 0.0 };
    operands + sums
}

/// Which operands of a step's products are rounded before they are multiplied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounds {
    /// The values read.
    pub x: bool,
    /// The weights.
    pub weight: bool,
    /// The gradients of the result.
    pub dy: bool,
}

impl Rounds {
    /// Those that are no numbers of the operands' type.
    pub fn of(step: &Step<f64>, x: &Value<f64>, dy: Option<&Value<f64>>, arithmetic: &Arithmetic) -> Self {
        let outside = |x: ArrayViewD<'_, f64>| !arithmetic.operands.contains_all(&x);
        let weight = match &step.layer {
            Layer::Conv2d(conv) => outside(conv.weight.view().into_dyn()),
            Layer::Linear(linear) => outside(linear.weight.view().into_dyn()),
            Layer::BatchNorm2d(bn) => outside(bn.gamma.view().into_dyn()) || outside(bn.beta.view().into_dyn()),
            _ => false,
        };
        Rounds { x: outside(view(x)), weight, dy: dy.is_some_and(|dy| outside(view(dy))) }
    }
}

/// A value as an array in its own layout, (N, H, W, C) or (N, F).
pub(super) fn view(value: &Value<f64>) -> ArrayViewD<'_, f64> {
    match value {
        Value::Images(x) => x.view().into_dyn(),
        Value::Rows(x) => x.view().into_dyn(),
    }
}

/// √Σ t² of everything that a convolution or linear layer returns, and how often its terms are equal.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    y: Option<OfProducts>,
    /// Of the values read, and of the parameters.
    backward: Option<(OfProducts, Vec<OfParameter>)>,
}

/// Sums of products of values and weights.
#[derive(Clone, Debug)]
struct OfProducts {
    /// √Σ t².
    root: ArrayD<f64>,
    /// How often a value occurs again within a channel, and how often a weight does ([`equal`]).
    values: f64,
    weights: f64,
    /// Terms of one channel: the pixels of the kernel.
    taps: usize,
}

impl OfProducts {
    /// How often two terms are equal.
    fn equal(&self) -> f64 {
        self.values * self.weights
    }

    /// The variance by rounding the operands that are `rounded`, values and weights, of the sums `sum`. Equal operands have
    /// equal errors, whose products with the other operand add up.
    fn of_operands(
        &self,
        arithmetic: &Arithmetic,
        sum: ArrayViewD<'_, f64>,
        [values, weights]: [bool; 2],
    ) -> ArrayD<f64> {
        let u = arithmetic.operands.unit_roundoff();
        let of = |on: bool, factor: f64| if on { u * u / 3.0 * factor } else { 0.0 };
        let squares = of(values, 1.0 + (self.taps - 1) as f64 * self.values) + of(weights, 1.0);
        let sums = of(weights, self.weights);
        let mut variance = self.root.clone();
        variance.zip_mut_with(&sum, |root, sum| *root = squares * *root * *root + sums * sum * sum);
        variance
    }
}

/// A parameter's gradient is a sum over the images, and over the pixels of each.
#[derive(Clone, Debug)]
struct OfParameter {
    /// The last part of its name.
    name: String,
    /// √Σ t².
    root: ArrayD<f64>,
    /// How large its partial sums are ([`partial_sums`]): √Σ S², S being the sum over one image, or more.
    images: ArrayD<f64>,
    /// How often two terms are equal, of each element.
    equal: Vec<f64>,
    /// How often a value occurs again within a channel of x, and within one of dy.
    operands: [Vec<f64>; 2],
}

/// How often two of `x` are equal and not 0: the probability for two elements drawn at random, estimated from 256 of
/// them. Equal means up to the rounding errors that a simulation adds.
fn equal<'a>(x: impl ExactSizeIterator<Item = &'a f64>) -> f64 {
    const SAMPLE: usize = 256;
    const BITS: u32 = 22;
    let step = x.len().div_ceil(SAMPLE).max(1);
    let mut sample: Vec<u64> = x.step_by(step).map(|x| (x.to_bits() + (1 << (51 - BITS))) >> (52 - BITS)).collect();
    let all = sample.len();
    sample.retain(|&x| x << 1 != 0);
    sample.sort_unstable();
    let pairs: usize = sample.chunk_by(|a, b| a == b).map(|same| same.len() * (same.len() - 1)).sum();
    // One pair may be chance.
    pairs.saturating_sub(2) as f64 / (all * all.saturating_sub(1)).max(1) as f64
}

/// The mean over the channels of how often two of their values are equal.
fn mean_equal(x: &Activation<f64>) -> f64 {
    let channels = equal_in_channels(x.view().into_dyn());
    channels.iter().sum::<f64>() / channels.len().max(1) as f64
}

/// Pixels of the kernel.
fn taps(conv: &Conv2d<f64>) -> usize {
    conv.weight.shape()[2..].iter().product()
}

/// The same of every channel of an array whose last axis is the channel.
fn equal_in_channels(x: ArrayViewD<'_, f64>) -> Vec<f64> {
    x.axis_iter(Axis(x.ndim() - 1)).map(|channel| equal(channel.iter())).collect()
}

/// A power of two of the size of the largest finite element: squares of elements in this unit do not overflow.
fn unit(x: ArrayViewD<'_, f64>) -> f64 {
    let largest = x.iter().filter(|x| x.is_finite()).fold(0.0f64, |largest, x| largest.max(x.abs()));
    if largest == 0.0 { 1.0 } else { 2f64.powi((largest.log2().ceil() as i32).clamp(-1000, 1000)) }
}

fn squared_images(x: &Activation<f64>) -> (Activation<f64>, f64) {
    let unit = unit(x.view().into_dyn());
    (x.mapv(|x| (x / unit).powi(2)).into_shared(), unit)
}

fn squared_rows(x: &Array2<f64>) -> (Array2<f64>, f64) {
    let unit = unit(x.view().into_dyn());
    (x.mapv(|x| (x / unit).powi(2)), unit)
}

fn rooted<D: ndarray::Dimension>(squares: ndarray::Array<f64, D>, unit: f64) -> ArrayD<f64> {
    // A convolution by a fast algorithm may leave a tiny negative number where all terms are 0.
    squares.into_dyn().mapv_into(|square| if square < 0.0 { 0.0 } else { square.sqrt() * unit })
}

/// The layer with squared weights and without a bias, and the unit of its weights.
fn squared_conv(conv: &Conv2d<f64>) -> (Conv2d<f64>, f64) {
    let unit = unit(conv.weight.view().into_dyn());
    let weight = conv.weight.mapv(|w| (w / unit).powi(2));
    (Conv2d { weight, bias: conv.bias.as_ref().map(|bias| Array1::zeros(bias.len())), ..conv.clone() }, unit)
}

fn squared_linear(linear: &Linear<f64>) -> (Linear<f64>, f64) {
    let unit = unit(linear.weight.view().into_dyn());
    let bias = Array1::zeros(linear.bias.len());
    (Linear { weight: linear.weight.mapv(|w| (w / unit).powi(2)), bias }, unit)
}

impl Roots {
    /// Those of the result.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn forward(&mut self, step: &Step<f64>, x: &Value<f64>) -> Result<()> {
        if self.y.is_some() {
            return Ok(());
        }
        self.y = match (&step.layer, x) {
            (Layer::Conv2d(conv), Value::Images(x)) => {
                let (values, weights, taps) = (mean_equal(x), equal(conv.weight.iter()), taps(conv));
                let ((conv, w), (x, u)) = (squared_conv(conv), squared_images(x));
                Some(OfProducts { root: rooted(conv.forward(&x)?.0.into_owned(), w * u), values, weights, taps })
            }
            (Layer::Linear(linear), Value::Rows(x)) => {
                let (values, weights) = (equal(x.iter()), equal(linear.weight.iter()));
                let ((linear, w), (x, u)) = (squared_linear(linear), squared_rows(x));
                Some(OfProducts { root: rooted(linear.forward(&x)?.0, w * u), values, weights, taps: 1 })
            }
            _ => None,
        };
        Ok(())
    }

    /// Those of the gradients.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn backward(&mut self, step: &Step<f64>, x: &Value<f64>, dy: &Value<f64>) -> Result<()> {
        if self.backward.is_some() {
            return Ok(());
        }
        self.backward = match (&step.layer, x, dy) {
            (Layer::Conv2d(conv), Value::Images(x), Value::Images(dy)) => {
                let plain = conv;
                let (values, weights, taps) = (mean_equal(dy), equal(conv.weight.iter()), taps(conv));
                let operands = [x, dy].map(|values| equal_in_channels(values.view().into_dyn()));
                let ((conv, w), (squared_x, u), (squared_dy, v)) =
                    (squared_conv(conv), squared_images(x), squared_images(dy));
                let (_, cache) = conv.forward(&squared_x)?;
                let (dx, grads) = conv.backward(&squared_dy, &cache)?;
                let mut parameters = vec![OfParameter {
                    name: "weight".to_string(),
                    equal: equal_in_elements(grads.weight.shape(), &operands),
                    root: rooted(grads.weight, u * v),
                    images: partial_sums(plain, x, dy)?,
                    operands: operands.clone(),
                }];
                parameters.extend(grads.bias.map(|bias| OfParameter {
                    name: "bias".to_string(),
                    root: rooted(bias, v),
                    images: image_sums(dy.view()).mapv_into(f64::sqrt).into_dyn(),
                    equal: operands[1].clone(),
                    operands,
                }));
                let root = rooted(dx.into_owned(), w * v);
                Some((OfProducts { root, values, weights, taps }, parameters))
            }
            (Layer::Linear(linear), Value::Rows(x), Value::Rows(dy)) => {
                let [weights, of_dy] = [equal(linear.weight.iter()), equal(dy.iter())];
                let operands = [x, dy].map(|values| equal_in_channels(values.view().into_dyn()));
                let ((linear, w), (x, u), (dy, v)) = (squared_linear(linear), squared_rows(x), squared_rows(dy));
                let (_, cache) = linear.forward(&x)?;
                let (dx, grads) = linear.backward(&dy, &cache)?;
                let of_weight = equal_in_elements(grads.weight.shape(), &operands);
                let parameters = [
                    ("weight", rooted(grads.weight, u * v), of_weight),
                    ("bias", rooted(grads.bias, v), operands[1].clone()),
                ];
                // A row is a term.
                let parameters = parameters.map(|(name, root, equal)| OfParameter {
                    name: name.to_string(),
                    images: root.clone(),
                    root,
                    equal,
                    operands: operands.clone(),
                });
                let products = OfProducts { root: rooted(dx, w * v), values: of_dy, weights, taps: 1 };
                Some((products, parameters.into()))
            }
            _ => None,
        };
        Ok(())
    }
}

/// How large the partial sums of every element of dweight are besides Σ t² and S²: √Σ Sₙ², Sₙ being the gradient of image n alone,
/// or √2 times the root of the mean square of the partial sums themselves, if that is larger. They are formed over all images, row
/// by row. Where x is smooth or constant, and dy is smooth, too, neighbouring terms are alike, and the partial sums within an image
/// grow far beyond what remains of them at its end.
fn partial_sums(conv: &Conv2d<f64>, x: &Activation<f64>, dy: &Activation<f64>) -> Result<ArrayD<f64>> {
    /// Rows of y are taken together if there would be more sums than this.
    const MOST: usize = 1 << 30;
    let (images, rows) = (dy.shape()[0], dy.shape()[1]);
    let band = (images * rows * conv.weight.len()).div_ceil(MOST).max(1);
    let (n, h, w, c) = x.dim();
    let [above, left] = conv.padding;
    let mut padded = ndarray::Array4::<f64>::zeros((n, h + 2 * above, w, c));
    padded.slice_mut(s![.., above..above + h, .., ..]).assign(x);
    let conv = Conv2d { padding: [0, left], ..conv.clone() };
    let taps = conv.dilation[0] * (conv.weight.shape()[2] - 1) + 1;
    let [mut of_images, mut sum, mut squares] = [(); 3].map(|()| ArrayD::<f64>::zeros(conv.weight.shape()));
    for n in 0..images {
        let before = sum.clone();
        for row in (0..rows).step_by(band) {
            let end = (row + band).min(rows);
            let (from, to) = (row * conv.stride[0], (end - 1) * conv.stride[0] + taps);
            let x = padded.slice(s![n..n + 1, from..to, .., ..]).to_owned().into_shared();
            let dy = dy.slice(s![n..n + 1, row..end, .., ..]).to_owned().into_shared();
            let (_, cache) = conv.forward(&x)?;
            sum += &conv.parameter_gradients(&dy, &cache)?.weight;
            let more = (end - row) as f64 / (images * rows) as f64;
            squares.zip_mut_with(&sum, |squares, sum| *squares += more * sum * sum);
        }
        Zip::from(&mut of_images).and(&sum).and(&before).for_each(|squares, sum, before| {
            *squares += (sum - before).powi(2);
        });
    }
    Ok(Zip::from(&of_images).and(&squares).map_collect(|&images, &partial| images.max(2.0 * partial).sqrt()))
}

/// What the sums of dweight lose of terms x · dy that are smaller than half a unit in the last place of their partial sums,
/// `half`: |Σ of these terms|. Random numbers have next to none of them. But if x is tiny at many pixels, as after a module that
/// returns a constant, or dy is, all of them may be lost. Looked for are values of one operand that make a typical value of
/// the other such a term.
fn swallowed(conv: &Conv2d<f64>, [x, dy]: [&Activation<f64>; 2], half: &ArrayD<f64>) -> Vec<ArrayD<f64>> {
    // The median of what is not 0.
    let typical = |x: &Activation<f64>| {
        const SAMPLE: usize = 4096;
        let step = x.len().div_ceil(SAMPLE).max(1);
        let mut sample: Vec<f64> = x.iter().step_by(step).map(|x| x.abs()).filter(|&x| x > 0.0).collect();
        sample.sort_unstable_by(f64::total_cmp);
        sample.get(sample.len() / 2).copied().unwrap_or(0.0)
    };
    let most = half.iter().copied().filter(|half| half.is_finite()).fold(0.0, f64::max);
    let up_to = |x: &Activation<f64>, largest: f64| -> (usize, Activation<f64>) {
        let kept = x.mapv(|x| if x.abs() <= largest { x } else { 0.0 });
        (kept.iter().filter(|x| **x != 0.0).count(), kept.into_shared())
    };
    let pixels = (dy.len() / dy.shape()[3].max(1)) as f64;
    let mut lost = Vec::new();
    for tiny_is_x in [true, false] {
        let [tiny, other] = if tiny_is_x { [x, dy] } else { [dy, x] };
        let of_other = typical(other);
        let (count, tiny) = up_to(tiny, most / of_other);
        if of_other == 0.0 || count < tiny.len() / 64 {
            continue;
        }
        let (_, other) = up_to(other, 2.0 * of_other);
        let [x, dy] = if tiny_is_x { [tiny, other] } else { [other, tiny] };
        let gradients = conv.forward(&x).and_then(|(_, cache)| conv.parameter_gradients(&dy, &cache));
        // Each loses at most half a unit.
        let sums = gradients.map(|grads| {
            Zip::from(&grads.weight.into_dyn()).and(half).map_collect(|sum, half| sum.abs().min(pixels * half))
        });
        lost.extend(sums);
    }
    lost
}

/// The same of the sum of every channel, squared.
fn image_sums(x: ArrayView4<'_, f64>) -> Array1<f64> {
    let of_images = x.sum_axis(Axis(1)).sum_axis(Axis(1)).mapv_into(|sum| sum * sum).sum_axis(Axis(0));
    let mut sum = Array1::<f64>::zeros(of_images.len());
    let mut squares = sum.clone();
    for pixel in x.rows() {
        Zip::from(&mut sum).and(&mut squares).and(&pixel).for_each(|sum, squares, x| {
            *sum += x;
            *squares += *sum * *sum;
        });
    }
    let pixels = (x.len() / of_images.len().max(1)).max(1) as f64;
    Zip::from(&of_images).and(&squares).map_collect(|&images, &squares| images.max(2.0 * squares / pixels))
}

/// How often two terms of each element of a weight's gradient are equal, of the weight's shape and of [`equal_in_channels`] of x
/// and dy: both operands are.
fn equal_in_elements(shape: &[usize], [x, dy]: &[Vec<f64>; 2]) -> Vec<f64> {
    let of = |index| {
        let [of_x, of_dy] = channels_of(index, shape, x.len());
        x[of_x] * dy[of_dy]
    };
    (0..shape.iter().product()).map(of).collect()
}

/// How many steps of a sum contribute to the variance of its error, of `terms` terms of which two are equal with the
/// probability `equal`; the error of a step has the variance u² S²/3, and the partial sums S grow.
///
/// Different terms: one by one, at most [`LONGEST`]. R = K · equal terms of one value, added one after another, are rounded in
/// the same direction, by at most u S each: together by 2/3 R u S at most if they are the whole sum, which is 4 standard
/// deviations of u S √(K R)/6.
fn steps(terms: usize, equal: f64) -> f64 {
    (terms.min(LONGEST) + 2) as f64 / 6.0 + (terms as f64).powi(2) * equal / 36.0
}

/// The variance of a sum of `steps` [`steps`] with the root `root` of the squares of its terms.
fn sum_variance(arithmetic: &Arithmetic, steps: f64, root: f64, sum: f64) -> f64 {
    let u = arithmetic.sums.unit_roundoff();
    let underflow = 6.0 * steps * arithmetic.sums.underflow().powi(2);
    u * u * steps * (root * root + sum * sum) + underflow
}

/// The variance of every element of an array of sums, of which `root` is √Σ t² and `sum` is Σ t.
fn of_sum(arithmetic: &Arithmetic, steps: f64, root: &ArrayD<f64>, sum: ArrayViewD<'_, f64>) -> ArrayD<f64> {
    let mut variance = root.clone();
    variance.zip_mut_with(&sum, |root, &sum| *root = sum_variance(arithmetic, steps, *root, sum));
    variance
}

/// The variance of sums of few terms of which `absolute` is Σ |t|, whose error is at most K u Σ |t|, and of which the operand is
/// `rounded`.
fn of_few(arithmetic: &Arithmetic, terms: usize, steps: f64, absolute: &ArrayD<f64>, rounded: bool) -> ArrayD<f64> {
    let (u, operand) = (arithmetic.sums.unit_roundoff(), arithmetic.operands.unit_roundoff());
    let steps = steps.min(0.5 * (terms as f64 / MULTIPLE).powi(2));
    let mut variance = of_sum(arithmetic, steps, absolute, absolute.view());
    let operand = if rounded { operand * operand / 3.0 } else { 0.0 };
    // The division.
    variance.zip_mut_with(absolute, |variance, absolute| *variance += (operand + u * u / 3.0) * absolute * absolute);
    variance
}

/// The same where a bias is added to every sum. It may be the first term: then every partial sum contains it.
fn of_sum_and_bias(
    arithmetic: &Arithmetic,
    steps: f64,
    root: &ArrayD<f64>,
    sum: ArrayViewD<'_, f64>,
    bias: &Array1<f64>,
) -> ArrayD<f64> {
    let mut variance = of_sum(arithmetic, steps, root, sum);
    variance += &bias.mapv(|bias| sum_variance(arithmetic, steps, bias, bias));
    variance
}

/// The variance that Winograd's algorithm adds: its transforms mix the pixels of a tile, so its errors have the size of the
/// channel.
fn tiled(arithmetic: &Arithmetic, channel: Axis, terms: f64, root: &ArrayD<f64>) -> Array1<f64> {
    let u = arithmetic.sums.unit_roundoff();
    let channels = root.axis_iter(channel);
    channels.map(|root| u * u * terms * root.iter().map(|r| r * r).sum::<f64>() / root.len().max(1) as f64).collect()
}

/// Whether an implementation may compute this convolution in tiles.
fn in_tiles(conv: &Conv2d<f64>, arithmetic: &Arithmetic) -> bool {
    let square = conv.weight.shape()[2..] == [3, 3] && conv.stride == [1, 1] && conv.dilation == [1, 1];
    arithmetic.winograd && square && conv.groups == 1
}

/// m of the tiles F(m x m, 3x3) that are allowed for.
const TILE: usize = 4;

/// The noise of the result of a step.
pub fn of_result(
    step: &Step<f64>,
    reads: &[&Value<f64>],
    y: &Value<f64>,
    mode: Mode,
    roots: &Roots,
    arithmetic: &Arithmetic,
    rounds: Rounds,
) -> Noise {
    let (x, result) = (reads[0], view(y));
    let stored = arithmetic.stored;
    let (arithmetic, rounds) = for_layer(step, arithmetic, rounds);
    let arithmetic = &arithmetic;
    match (&step.layer, x) {
        (Layer::Conv2d(conv), _) => {
            let of = roots.y.as_ref().expect("computed before");
            let steps = steps(conv.weight.len() / conv.weight.shape()[0].max(1), of.equal());
            let bias = conv.bias.clone().unwrap_or_else(|| Array1::zeros(conv.weight.shape()[0]));
            let products = &result - &bias;
            let mut variance = of_sum_and_bias(arithmetic, steps, &of.root, products.view(), &bias);
            variance += &of.of_operands(arithmetic, products.view(), [rounds.x, rounds.weight]);
            if in_tiles(conv, arithmetic) {
                let terms = winograd_growth(TILE)[0] * (conv.weight.shape()[1] + TRANSFORMS) as f64;
                variance += &tiled(arithmetic, Axis(3), terms, &of.root);
            }
            let mut noise = Noise::of_result(result, stored).with(variance).of_products(arithmetic);
            of_bias(&mut noise, &bias, arithmetic);
            with_bias(noise, &products, conv.bias.is_some(), stored)
        }
        (Layer::Linear(linear), _) => {
            let of = roots.y.as_ref().expect("computed before");
            let steps = steps(linear.weight.ncols(), of.equal());
            let products = &result - &linear.bias;
            let mut variance = of_sum_and_bias(arithmetic, steps, &of.root, products.view(), &linear.bias);
            variance += &of.of_operands(arithmetic, products.view(), [rounds.x, rounds.weight]);
            let mut noise = Noise::of_result(result, stored).with(variance).of_products(arithmetic);
            of_bias(&mut noise, &linear.bias, arithmetic);
            with_bias(noise, &products, true, stored)
        }
        (Layer::BatchNorm2d(bn), Value::Images(x)) => {
            Norm::new(bn, x, mode, arithmetic).of_result(bn, x, result, rounds)
        }
        (Layer::AvgPool2d(pool), Value::Images(x)) => {
            let absolute = pool.forward(&x.mapv(f64::abs).into_shared()).map(|(y, _)| y.into_owned().into_dyn());
            let absolute = absolute.unwrap_or_else(|_| result.to_owned());
            let terms = pool.kernel[0] * pool.kernel[1];
            let variance = of_few(arithmetic, terms, steps(terms, equal(x.iter())), &absolute, rounds.x);
            Noise::of_result(result, stored).with(variance)
        }
        (Layer::GlobalAvgPool, Value::Images(x)) => {
            let pixels = x.shape()[1] * x.shape()[2];
            let (squares, unit) = squared_images(x);
            let squares = squares.sum_axis(Axis(1)).sum_axis(Axis(1)) / (pixels as f64).powi(2);
            let mut variance = rooted(squares, unit);
            let partial = x.axis_chunks_iter(Axis(0), 1).map(|image| image_sums(image)).collect::<Vec<_>>();
            for (at, root) in variance.indexed_iter_mut() {
                let steps = steps(pixels, equal(x.slice(s![at[0], .., .., at[1]]).iter()));
                let operand = if rounds.x { (arithmetic.operands.unit_roundoff() * *root).powi(2) / 3.0 } else { 0.0 };
                let partial = partial[at[0]][at[1]].sqrt() / pixels as f64;
                *root = sum_variance(arithmetic, steps, *root, partial) + operand;
            }
            Noise::of_result(result, stored).with(variance)
        }
        (Layer::Relu(relu), _) if relu.is_leaky() => scaled(result, stored),
        (Layer::Add, _) => Noise::of_result(result, stored),
        _ => Noise::of_copy(result, stored),
    }
}

/// The noise of values multiplied by a constant, which may itself be rounded: the same error for all.
fn scaled(result: ArrayViewD<'_, f64>, stored: Float) -> Noise {
    let size = Array1::from_elem(result.shape().last().copied().unwrap_or(1), OF_STATISTIC * stored.unit_roundoff());
    let shared = vec![Shared { size, pattern: result.to_owned() }];
    Noise { shared, ..Noise::of_result(result, stored) }
}

/// The arithmetic of this layer, and what it rounds.
pub(super) fn for_layer(step: &Step<f64>, arithmetic: &Arithmetic, rounds: Rounds) -> (Arithmetic, Rounds) {
    let elementwise = arithmetic.elementwise();
    match step.layer {
        Layer::Conv2d(_) | Layer::Linear(_) => (*arithmetic, rounds),
        _ if elementwise == *arithmetic => (elementwise, rounds),
        _ => (elementwise, Rounds::default()),
    }
}

/// The bias may be rounded to the operands' type, the same in all pixels of a channel; TF32 is a type of products alone.
fn of_bias(noise: &mut Noise, bias: &Array1<f64>, arithmetic: &Arithmetic) {
    if arithmetic.elementwise() == *arithmetic && !arithmetic.operands.contains_all(bias) {
        let u = OF_STATISTIC * arithmetic.operands.unit_roundoff();
        let pattern = ArrayD::ones(noise.each.raw_dim());
        noise.shared.push(Shared { size: bias.mapv(|bias| u * bias.abs()), pattern });
    }
}

/// A convolution without its bias may be rounded before the bias is added.
fn with_bias(mut noise: Noise, products: &ArrayD<f64>, bias: bool, stored: Float) -> Noise {
    if bias {
        noise.bound.zip_mut_with(products, |bound, products| *bound += 2.0 * stored.unit_roundoff() * products.abs());
    }
    noise
}

/// The noise of the gradients that a step returns: of the values it read and of its parameters, `parameters` in their order.
pub struct GradientNoise {
    /// Of each value it read.
    pub reads: Vec<Noise>,
    /// Of each parameter's gradient, by the last part of its name.
    pub parameters: Vec<(String, Noise)>,
}

/// What a step was given and what it returned.
pub struct Backward<'a> {
    /// The values it read.
    pub reads: &'a [&'a Value<f64>],
    /// The gradient of its result.
    pub dy: &'a Value<f64>,
    /// The gradients of the values it read.
    pub dx: &'a [Value<f64>],
    /// The gradients of its parameters, by their full names.
    pub parameters: &'a crate::parameters::Gradients<f64>,
}

/// The noise of all gradients of a step.
pub fn of_gradients(
    step: &Step<f64>,
    passage: &Backward<'_>,
    mode: Mode,
    roots: &Roots,
    arithmetic: &Arithmetic,
    rounds: Rounds,
) -> GradientNoise {
    let Backward { reads, dy, dx, parameters } = *passage;
    let stored = arithmetic.stored;
    let (arithmetic, rounds) = for_layer(step, arithmetic, rounds);
    let arithmetic = &arithmetic;
    let own = |name: &str| parameters.iter().find(|(full, _)| full.rsplit('.').next() == Some(name)).map(|(_, g)| g);
    let products = |taps: usize, sums: usize, tiles: Option<[f64; 2]>| {
        let (of, roots) = roots.backward.as_ref().expect("computed before");
        let result = view(&dx[0]);
        let mut variance = of_sum(arithmetic, steps(taps, of.equal()), &of.root, result.view());
        variance += &of.of_operands(arithmetic, result.view(), [rounds.dy, rounds.weight]);
        if let Some([terms, _]) = tiles {
            variance += &tiled(arithmetic, Axis(3), terms, &of.root);
        }
        let parameters = roots.iter().filter_map(|OfParameter { name, root, images, equal, operands }| {
            let gradient = own(name)?;
            // A bias's gradient is a sum without products.
            let (own, rounded) = match name.as_str() {
                "weight" => (*arithmetic, [rounds.x, rounds.dy]),
                _ => (arithmetic.elementwise(), [false, rounds.dy && arithmetic.elementwise() == *arithmetic]),
            };
            let u = own.operands.unit_roundoff();
            let partial = Zip::from(gradient).and(images).map_collect(|sum, images| sum.hypot(*images));
            let mut variance = root.clone();
            for (index, (root, partial)) in variance.iter_mut().zip(&partial).enumerate() {
                let equal = equal.get(index).copied().unwrap_or(0.0);
                // Equal operands have equal errors; x and dy of the channels of this element.
                let of = channels_of(index, gradient.shape(), operands[0].len());
                let pairs = rounded.iter().zip(operands).zip(of);
                let coherent = pairs.filter(|((on, _), _)| **on).map(|((_, operand), at)| operand[at]);
                let operand = coherent.map(|e| u * u / 3.0 * (*root * *root + e * *partial * *partial)).sum::<f64>();
                *root = sum_variance(&own, steps(sums, equal), *root, *partial) + operand;
            }
            if let (Some([_, terms]), "weight") = (tiles, name.as_str()) {
                let each = tiled(arithmetic, Axis(0), terms, root);
                variance +=
                    &each.into_shape_with_order((root.shape()[0], 1, 1, 1)).expect("one per channel").into_dyn();
            }
            let mut noise = Noise::of_result(gradient.view(), stored).with(variance);
            if let (Layer::Conv2d(conv), Value::Images(x), Value::Images(dy), "weight") =
                (&step.layer, reads[0], dy, name.as_str())
            {
                let half = own.sums.unit_roundoff();
                swallowed(conv, [x, dy], &partial.mapv(|partial| half * partial))
                    .iter()
                    .for_each(|lost| noise.bound += lost);
            }
            Some((name.clone(), if name == "weight" { noise.of_products(arithmetic) } else { noise }))
        });
        let of_dx = Noise::of_result(result, stored).with(variance).of_products(arithmetic);
        GradientNoise { parameters: parameters.collect(), reads: vec![of_dx] }
    };
    match (&step.layer, reads[0], dy) {
        (Layer::Conv2d(conv), _, Value::Images(dy)) => {
            let [c_out, kh, kw] = [0, 2, 3].map(|axis| conv.weight.shape()[axis]);
            // Of the pixels that windows read most often.
            let [kh, kw] = [kh.div_ceil(conv.stride[0].max(1)), kw.div_ceil(conv.stride[1].max(1))];
            let taps = kh * kw * c_out / conv.groups.max(1);
            let pixels = dy.shape()[0] * dy.shape()[1] * dy.shape()[2];
            let tiles = in_tiles(conv, arithmetic).then(|| {
                let [growth, growth_weight] = winograd_growth(TILE);
                let tiles = dy.shape()[0] * dy.shape()[1].div_ceil(TILE) * dy.shape()[2].div_ceil(TILE);
                [growth * (c_out + TRANSFORMS) as f64, growth_weight * (tiles.min(LONGEST) + TRANSFORMS) as f64]
            });
            products(taps, pixels, tiles)
        }
        (Layer::Linear(linear), _, Value::Rows(dy)) => products(linear.weight.nrows(), dy.nrows(), None),
        (Layer::BatchNorm2d(bn), Value::Images(x), Value::Images(dy)) => {
            let norm = Norm::new(bn, x, mode, arithmetic);
            let (dx, parameters) = norm.of_gradients(bn, x, dy, view(&dx[0]), [own("weight"), own("bias")], rounds);
            GradientNoise { reads: vec![dx], parameters }
        }
        (Layer::AvgPool2d(pool), Value::Images(x), Value::Images(dy)) => {
            let absolute =
                pool.forward(x).and_then(|(_, cache)| pool.backward(&dy.mapv(f64::abs).into_shared(), &cache));
            only(summed(&dx[0], absolute, overlap(pool.kernel, pool.stride, [1, 1]), arithmetic, rounds))
        }
        (Layer::MaxPool2d(pool), Value::Images(x), Value::Images(dy)) => {
            let terms = overlap(pool.kernel, pool.stride, pool.dilation);
            if terms == 1 {
                return only(Noise::of_copy(view(&dx[0]), stored));
            }
            let absolute =
                pool.forward(x).and_then(|(_, cache)| pool.backward(&dy.mapv(f64::abs).into_shared(), &cache));
            let mut noise = summed(&dx[0], absolute, terms, arithmetic, rounds);
            // A pixel that is no maximum has the gradient 0, exactly.
            Zip::from(&mut noise.bound).and(&view(&dx[0])).and(&noise.each).for_each(|bound, &dx, &each| {
                if dx == 0.0 && each == 0.0 {
                    *bound = 0.0;
                }
            });
            only(noise)
        }
        (Layer::GlobalAvgPool, ..) => only(Noise::of_result(view(&dx[0]), stored)),
        (Layer::Relu(relu), ..) if relu.is_leaky() => only(scaled(view(&dx[0]), stored)),
        _ => GradientNoise {
            reads: dx.iter().map(|dx| Noise::of_copy(view(dx), stored)).collect(),
            parameters: Vec::new(),
        },
    }
}

/// The channels of x and of dy that an element of a parameter's gradient belongs to: of a weight (C_out, C_in/groups, …) or a
/// bias (C_out).
fn channels_of(index: usize, shape: &[usize], c_in: usize) -> [usize; 2] {
    let Some(&own) = shape.get(1) else { return [0, index] };
    let inner: usize = shape[2..].iter().product();
    let (out, channel) = (index / (own * inner), index / inner % own);
    let groups = c_in / own.max(1);
    [out / (shape[0] / groups.max(1)).max(1) * own + channel, out]
}

fn only(noise: Noise) -> GradientNoise {
    GradientNoise { reads: vec![noise], parameters: Vec::new() }
}

/// In how many windows a pixel can be.
fn overlap(kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2]) -> usize {
    let along = |axis: usize| {
        let covered = dilation[axis] * (kernel[axis] - 1) + 1;
        covered.div_ceil(stride[axis].max(1)).min(kernel[axis])
    };
    along(0) * along(1)
}

/// The noise of a sum of few terms, `absolute` being the sum of their absolute values.
fn summed(
    dx: &Value<f64>,
    absolute: Result<Activation<f64>>,
    terms: usize,
    arithmetic: &Arithmetic,
    rounds: Rounds,
) -> Noise {
    let absolute = absolute.map_or_else(|_| view(dx).mapv(f64::abs), |absolute| absolute.into_owned().into_dyn());
    // Each window adds to what is stored.
    let arithmetic = &Arithmetic { sums: arithmetic.stored, ..*arithmetic };
    let variance = of_few(arithmetic, terms, steps(terms, 0.0), &absolute, rounds.dy);
    Noise::of_result(view(dx), arithmetic.stored).with(variance)
}

/// The [`steps`] of the sum over each channel.
fn steps_of_channels<S: ndarray::Data<Elem = f64>>(x: &ndarray::ArrayBase<S, Ix4>) -> Array1<f64> {
    let channel = |x: ArrayView3<'_, f64>| steps(x.len(), equal(x.iter()));
    x.axis_iter(Axis(3)).map(channel).collect()
}

/// The statistics of a batch norm, their errors, and what those do to its results.
struct Norm {
    mode: Mode,
    /// Unit roundoffs: of sums, of stored results, of operands.
    u: f64,
    stored: Float,
    operands: f64,
    /// Values per channel.
    count: f64,
    mean: Array1<f64>,
    var: Array1<f64>,
    rstd: Array1<f64>,
    /// |gamma| rstd.
    slope: Array1<f64>,
    /// Standard deviation of the error of the mean.
    mean_error: Array1<f64>,
    /// The same of the variance.
    var_error: Array1<f64>,
    /// The same of rstd, relative.
    rstd_error: Array1<f64>,
}

impl Norm {
    fn new(bn: &BatchNorm2d<f64>, x: &Activation<f64>, mode: Mode, arithmetic: &Arithmetic) -> Self {
        let u = arithmetic.sums.unit_roundoff();
        let count = (x.len() / bn.gamma.len().max(1)) as f64;
        let cache = bn.forward(x, mode).map(|(_, cache)| cache);
        let (mean, var, rstd) = match cache {
            Ok(mut cache) => {
                let GroupStatistics { mean, var, rstd, .. } = cache.groups.swap_remove(0);
                (mean, var, rstd)
            }
            Err(_) => (bn.running_mean.clone(), bn.running_var.clone(), Array1::zeros(bn.gamma.len())),
        };
        let slope = (&bn.gamma * &rstd).mapv(f64::abs);
        let (mean_error, var_error) =
            match mode {
                Mode::Eval => (Array1::zeros(mean.len()), Array1::zeros(mean.len())),
                Mode::Train => {
                    // Σ x² / K = mean² + var.
                    let images = image_sums(x.view()) / (count * count);
                    let steps = steps_of_channels(x);
                    // The values may be added after one of them, the first, was subtracted from all: then the partial sums have the
                    // size of its distance from the mean.
                    let pivot = x.slice(s![0, 0, 0, ..]);
                    let shifted = steps_of_channels(&(x - &pivot)) * (&mean - &pivot).mapv_into(|shift| shift * shift);
                    let error = |mean: f64, var: f64, images: f64, steps: f64, shifted: f64| {
                        let squares = mean * mean + var;
                        u * (steps * (squares / count + mean * mean + images) + shifted).sqrt() + u * squares.sqrt()
                    };
                    let mean_error =
                        Zip::from(&mean).and(&var).and(&images).and(&steps).and(&shifted).map_collect(
                            |&mean, &var, &images, &steps, &shifted| error(mean, var, images, steps, shifted),
                        );
                    // A sum of squares, all positive; a wrong mean adds its square.
                    let error = |mean_error: f64, var: f64, steps: f64| {
                        u * var * (2.0 * steps).sqrt() + 2.0 * u * var + MULTIPLE * mean_error * mean_error
                    };
                    let var_error = Zip::from(&mean_error)
                        .and(&var)
                        .and(&steps)
                        .map_collect(|&mean_error, &var, &steps| error(mean_error, var, steps));
                    (mean_error, var_error)
                }
            };
        let rstd_error =
            Zip::from(&var_error).and(&rstd).map_collect(|error, rstd| 0.5 * error * rstd * rstd + 2.0 * u);
        let (stored, operands) = (arithmetic.stored, arithmetic.operands.unit_roundoff());
        Norm { mode, u, stored, operands, count, mean, var, rstd, slope, mean_error, var_error, rstd_error }
    }

    /// The error of a statistic that is rounded to the stored type.
    fn of_stored(&self, statistic: f64) -> f64 {
        OF_STATISTIC * (self.stored.unit_roundoff() * statistic.abs() + self.stored.underflow())
    }

    /// Variance of the error of x·rstd − mean·rstd in units of rstd², however the two products are grouped.
    fn centred(&self, x: f64, mean: f64, rounds: Rounds) -> f64 {
        let operand = if rounds.x { (self.operands * x).powi(2) / 3.0 } else { 0.0 };
        self.u * self.u * (x * x + mean * mean) * 2.0 / 3.0 + operand
    }

    fn of_result(&self, bn: &BatchNorm2d<f64>, x: &Activation<f64>, y: ArrayViewD<'_, f64>, rounds: Rounds) -> Noise {
        let v = self.stored.unit_roundoff();
        let mut noise = Noise::of_result(y.view(), self.stored);
        let centred = &y - &bn.beta;
        let constant =
            Zip::from(&self.slope).and(&self.mean).and(&self.mean_error).and(&bn.beta).map_collect(
                |slope, mean, error, beta| (slope * error).hypot(self.u * (beta.abs() + slope * mean.abs())),
            );
        // gamma and beta rounded: a factor and a constant.
        let weight = if rounds.weight { self.operands } else { 0.0 };
        let factor = self.rstd_error.mapv(|error| error + 2.0 * self.u + weight);
        // The mean and rstd may be rounded to the stored type before they are used.
        let mut constant = constant + bn.beta.mapv(|beta| weight * beta.abs());
        Zip::from(&mut constant).and(&self.slope).and(&self.mean).for_each(|constant, slope, mean| {
            *constant = constant.hypot(slope * self.of_stored(*mean));
        });
        let factor = factor.mapv(|factor| factor.hypot(OF_STATISTIC * v));
        let mut each = noise.each.view_mut().into_dimensionality::<Ix4>().expect("images");
        let mut bound = noise.bound.view_mut().into_dimensionality::<Ix4>().expect("images");
        let centred4 = centred.view().into_dimensionality::<Ix4>().expect("images");
        for c in 0..self.mean.len() {
            let (slope, mean) = (self.slope[c], self.mean[c]);
            Zip::from(each.index_axis_mut(Axis(3), c)).and(x.index_axis(Axis(3), c)).for_each(|each, &x| {
                *each = slope * self.centred(x, mean, rounds).sqrt();
            });
            // So may x̂ and gamma x̂.
            Zip::from(bound.index_axis_mut(Axis(3), c)).and(centred4.index_axis(Axis(3), c)).for_each(
                |bound, &centred| {
                    *bound += 2.0 * v * centred.abs();
                },
            );
        }
        let ones = ArrayD::ones(y.raw_dim());
        noise.shared = vec![Shared { size: constant, pattern: ones }, Shared { size: factor, pattern: centred }];
        noise
    }

    /// dx, and dgamma and dbeta as far as they are given.
    fn of_gradients(
        &self,
        bn: &BatchNorm2d<f64>,
        x: &Activation<f64>,
        dy: &Activation<f64>,
        dx: ArrayViewD<'_, f64>,
        [dgamma, dbeta]: [Option<&ArrayD<f64>>; 2],
        rounds: Rounds,
    ) -> (Noise, Vec<(String, Noise)>) {
        let (u, v, count) = (self.u, self.stored.unit_roundoff(), self.count);
        let operand = |on: bool| if on { self.operands } else { 0.0 };
        let channels = bn.gamma.len();
        let x_hat = (x - &self.mean) * &self.rstd;
        let of_dy = image_sums(dy.view()) / (count * count);
        let products = dy * &x_hat;
        let of_products = image_sums(products.view()) / (count * count);
        let [steps1, steps2] = [steps_of_channels(dy), steps_of_channels(&products)];
        let [mut d1, mut d2, mut d1_error, mut d2_error] = [(); 4].map(|()| Array1::<f64>::zeros(channels));
        for c in 0..channels {
            let (mean, rstd) = (self.mean[c], self.rstd[c]);
            let (mut squares, mut products, mut of_x) = (0.0, 0.0, 0.0);
            Zip::from(dy.index_axis(Axis(3), c))
                .and(x.index_axis(Axis(3), c))
                .and(x_hat.index_axis(Axis(3), c))
                .for_each(|&dy, &x, &x_hat| {
                    d1[c] += dy / count;
                    d2[c] += dy * x_hat / count;
                    squares += dy * dy;
                    products += dy * dy * (x_hat * x_hat + (rstd * mean).powi(2));
                    of_x += dy * dy * rstd * rstd * self.centred(x, mean, rounds);
                });
            let rounded = operand(rounds.dy).powi(2) / 3.0;
            let squares = squares / count / count;
            // The two means may be rounded to the stored type, as the statistics of the forward pass may.
            let stored = OF_STATISTIC * v;
            let [partial1, partial2] = [d1[c] * d1[c] + of_dy[c], d2[c] * d2[c] + of_products[c]];
            d1_error[c] = (u * u * steps1[c] * (squares + partial1) + rounded * squares).sqrt().hypot(stored * d1[c]);
            let products = products / count / count;
            let sum = u * u * steps2[c] * (products + partial2) + rounded * products;
            let shared = (d1[c] * rstd * self.mean_error[c]).powi(2) + (d2[c] * self.rstd_error[c]).powi(2);
            let statistics = (rstd * self.of_stored(mean) * d1[c]).powi(2) + 2.0 * (stored * d2[c]).powi(2);
            d2_error[c] = (sum + of_x / count / count + shared + statistics).sqrt();
        }
        let mut noise = Noise::of_result(dx.view(), self.stored);
        let (mut each, mut bound) = (noise.each.view_mut(), noise.bound.view_mut());
        match self.mode {
            Mode::Eval => {
                Zip::from(&mut each).and(&dx).for_each(|each, dx| *each = (u + operand(rounds.dy)) * dx.abs());
                Zip::from(&mut bound).and(&dx).for_each(|bound, dx| *bound += 2.0 * v * dx.abs());
                // dx = dy · (gamma · rstd): a channel has one factor.
                let factor = self.rstd_error.mapv(|error| error + u + operand(rounds.weight));
                noise.shared = vec![Shared { size: factor, pattern: dx.to_owned() }];
            }
            Mode::Train => {
                for c in 0..channels {
                    let (slope, mean, rstd, d1, d2) = (self.slope[c], self.mean[c], self.rstd[c], d1[c], d2[c]);
                    let rounded = operand(rounds.dy).powi(2) / 3.0;
                    Zip::from(each.index_axis_mut(Axis(3), c))
                        .and(dy.index_axis(Axis(3), c).into_dyn())
                        .and(x.index_axis(Axis(3), c).into_dyn())
                        .and(x_hat.index_axis(Axis(3), c).into_dyn())
                        .for_each(|each, &dy, &x, &x_hat| {
                            let terms = dy * dy + d1 * d1 + (x_hat * d2).powi(2);
                            let of_x = (d2 * rstd).powi(2) * self.centred(x, mean, rounds);
                            *each = slope * (u * u * 4.0 / 3.0 * terms + rounded * dy * dy + of_x).sqrt();
                        });
                    Zip::from(bound.index_axis_mut(Axis(3), c))
                        .and(dx.index_axis(Axis(3), c))
                        .and(x_hat.index_axis(Axis(3), c).into_dyn())
                        .for_each(|bound, &dx, &x_hat| {
                            // x̂ d2 may be rounded before it is subtracted, and so may the difference.
                            *bound += v * (slope * (x_hat * d2).abs() + dx.abs());
                        });
                }
                let slope = &self.slope;
                let constant = Zip::from(slope)
                    .and(&d1_error)
                    .and(&d2)
                    .and(&self.rstd)
                    .and(&self.mean_error)
                    .map_collect(|slope, d1_error, d2, rstd, error| slope * d1_error.hypot(d2 * rstd * error));
                let constant = Zip::from(&constant).and(slope).and(&d2).and(&self.rstd).and(&self.mean).map_collect(
                    |constant, slope, d2, rstd, mean| constant.hypot(slope * d2 * rstd * self.of_stored(*mean)),
                );
                let of_x_hat = Zip::from(slope).and(&d2_error).and(&d2).and(&self.rstd_error).map_collect(
                    |slope, d2_error, d2, error| slope * d2_error.hypot(d2 * error).hypot(OF_STATISTIC * v * d2),
                );
                let factor = self.rstd_error.mapv(|error| (error + u + operand(rounds.weight)).hypot(OF_STATISTIC * v));
                noise.shared = vec![
                    Shared { size: constant, pattern: ArrayD::ones(dx.raw_dim()) },
                    Shared { size: of_x_hat, pattern: x_hat.into_dyn() },
                    Shared { size: factor, pattern: dx.to_owned() },
                ];
            }
        }
        let mut parameters = Vec::new();
        for (name, gradient, error) in [("weight", dgamma, &d2_error), ("bias", dbeta, &d1_error)] {
            if let Some(gradient) = gradient {
                let mut noise = Noise::of_result(gradient.view(), self.stored);
                noise.each = (error * count).into_dyn();
                parameters.push((name.to_string(), noise));
            }
        }
        (noise, parameters)
    }

    /// The running mean and variance after the pass.
    fn of_running(&self, bn: &BatchNorm2d<f64>, [mean, var]: [ArrayViewD<'_, f64>; 2]) -> [Noise; 2] {
        let (v, momentum) = (self.stored.unit_roundoff(), bn.momentum.abs());
        let of = |running: ArrayViewD<'_, f64>, old: &Array1<f64>, batch: &Array1<f64>, error: &Array1<f64>| {
            let mut noise = Noise::of_result(running, self.stored);
            noise.each = error.mapv(|error| momentum * error).into_dyn();
            // Twice 2 u: the momentum, and 1 minus it, may be rounded to the type as well as the products.
            let terms = Zip::from(old).and(batch).map_collect(|old, batch| 4.0 * (old.abs() + momentum * batch.abs()));
            noise.bound += &(terms * v);
            noise
        };
        let bessel = self.count / (self.count - 1.0).max(1.0);
        [
            of(mean, &bn.running_mean, &self.mean, &self.mean_error),
            of(var, &bn.running_var, &(&self.var * bessel), &(&self.var_error * bessel)),
        ]
    }
}

/// The noise of the running mean and variance after a training pass on x.
pub fn of_running_statistics(
    bn: &BatchNorm2d<f64>,
    x: &Activation<f64>,
    after: [ArrayViewD<'_, f64>; 2],
    arithmetic: &Arithmetic,
) -> [Noise; 2] {
    Norm::new(bn, x, Mode::Train, arithmetic).of_running(bn, after)
}

/// The noise of the loss and of its gradient.
pub struct LossNoise {
    /// Of the loss, an array without axes.
    pub loss: Noise,
    /// Of the gradient of the logits.
    pub dlogits: Noise,
}

/// The noise of softmax and cross-entropy, loss = −Σ q log p and dlogits = g (s p − q) with s = Σ q of the row; `loss` has one
/// element, or one per row.
///
/// `of_q` is how often u q bounds the roundings of q: 2, and 2 more each with class weights and with smoothing.
///
/// log p = z − log Σ exp z is a difference: its error has the size of z and of log p. p inherits it as a relative
/// error, and p − q an error of the size of p and of q, even where both cancel.
pub fn of_loss(
    logits: &Array2<f64>,
    q: &Array2<f64>,
    g: &Array1<f64>,
    loss: &ArrayD<f64>,
    dlogits: &Array2<f64>,
    arithmetic: &Arithmetic,
    of_q: f64,
) -> LossNoise {
    // TF32 is a type of products, and there are none.
    let arithmetic = &arithmetic.elementwise();
    let (u, v) = (arithmetic.sums.unit_roundoff(), arithmetic.stored.unit_roundoff());
    let (rows, classes) = logits.dim();
    let log_p = crate::layers::softmax_cross_entropy::log_softmax(logits);
    let outside = !arithmetic.operands.contains_all(logits);
    let mut of_gradient = Noise::of_result(dlogits.view().into_dyn(), arithmetic.stored);
    // Of each row: Σ t², Σ |t|, the variance by errors of log p, and the bound by rounding log p.
    let mut of_rows = Array2::<f64>::zeros((rows, 4));
    let mut each = of_gradient.each.view_mut().into_dimensionality::<Ix2>().expect("rows");
    let mut bound = of_gradient.bound.view_mut().into_dimensionality::<Ix2>().expect("rows");
    for n in 0..rows {
        let largest = logits.row(n).iter().fold(f64::NEG_INFINITY, |largest, &z| largest.max(z));
        // Rounding the logits to a narrower type moves all p of the row.
        let operand = if outside { arithmetic.operands.unit_roundoff() } else { 0.0 };
        let moved = operand * logits.row(n).iter().fold(0.0f64, |most, z| most.max(z.abs()));
        let (weight, scale) = (q.row(n).sum().abs(), g[n].abs());
        for k in 0..classes {
            let (z, log_p, q) = (logits[[n, k]], log_p[[n, k]], q[[n, k]].abs());
            let p = log_p.exp();
            let magnitude = z.abs() + largest.abs() + log_p.abs() + (classes as f64).sqrt() + 2.0;
            let error = u * magnitude + moved;
            // Where Σ exp is stored, its rounding changes log Σ exp by u, however small log p is. And p of a hopeless class has
            // lost all its digits, and is 0 all the same.
            let (error_p, stored) = if p > 0.0 { (p * error, 2.0 * p * (2.0 * log_p.abs() + 1.0)) } else { (0.0, 0.0) };
            each[[n, k]] = scale * (weight * error_p).hypot(2.0 * u * (weight * p + q));
            bound[[n, k]] += scale * v * (weight * stored + of_q * q);
            if q > 0.0 {
                let term = q * log_p.abs();
                let more = [term * term, term, (q * error).powi(2), v * (of_q * term + 2.0 * q)];
                of_rows.row_mut(n).iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
        }
    }
    let (mut each, mut bound) = (loss.clone(), loss.mapv(|loss| 2.0 * v * loss.abs() + arithmetic.stored.underflow()));
    let variance =
        |steps, of: ndarray::ArrayView1<'_, f64>| sum_variance(arithmetic, steps, of[0].sqrt(), of[1]) + of[2];
    if loss.len() == rows && loss.ndim() == 1 {
        each.iter_mut()
            .zip(of_rows.outer_iter())
            .for_each(|(each, of)| *each = variance(steps(classes, 0.0), of).sqrt());
        bound.iter_mut().zip(of_rows.outer_iter()).for_each(|(bound, of)| *bound += of[3]);
    } else {
        let all = of_rows.sum_axis(Axis(0));
        // The losses of images with the same logits are equal: all log(classes) before the first step.
        let equal = equal(of_rows.column(1).iter());
        each.fill(variance(steps(rows * classes, equal / (classes as f64).powi(2)), all.view()).sqrt());
        bound += all[3];
    }
    LossNoise { loss: Noise { each, shared: Vec::new(), bound, systematic: 0.0 }, dlogits: of_gradient }
}

/// How often u q bounds the roundings of the plain loss's q.
pub fn roundings(loss: &SoftmaxCrossEntropy<f64>) -> f64 {
    if loss.label_smoothing == 0.0 { 2.0 } else { 4.0 }
}

/// q of the plain loss: the smoothed classes, divided by N for the mean.
pub fn target_weights(loss: &SoftmaxCrossEntropy<f64>, target: &[usize], classes: usize) -> Array2<f64> {
    let mut q = Array2::from_elem((target.len(), classes), loss.label_smoothing / classes.max(1) as f64);
    for (mut row, &target) in q.outer_iter_mut().zip(target) {
        row[target] += 1.0 - loss.label_smoothing;
    }
    match loss.reduction {
        Reduction::Mean => q / target.len().max(1) as f64,
        Reduction::Sum => q,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, name_hash, normal, stream};

    /// With every step rounded to the type, the running statistics and the loss use at most half of what they may.
    #[test]
    fn what_rounds_every_step_fits_twice() {
        let (bf16, fp16) = (Float::BF16, Float::F16);
        let mut rng = stream(0, Purpose::Verify, &[name_hash("every step")]);
        let mut bn = BatchNorm2d::new(1000);
        bn.running_mean.mapv_inplace(|_| bf16.round(normal(&mut rng)));
        let mut x = ndarray::Array4::<f64>::zeros((4, 1, 1, 1000));
        x.mapv_inplace(|_| bf16.round(normal(&mut rng)));
        let momentum = [1.0 - bn.momentum, bn.momentum];
        let after = |round: &dyn Fn(f64) -> f64| -> ArrayD<f64> {
            let mean = x.sum_axis(Axis(0)).into_shape_with_order(1000).expect("a channel each") / 4.0;
            let [keep, new] = momentum.map(round);
            let pairs = bn.running_mean.iter().zip(&mean);
            pairs
                .map(|(old, mean)| round(round(keep * old) + round(new * round(*mean))))
                .collect::<Array1<f64>>()
                .into_dyn()
        };
        let (exact, theirs) = (after(&|x| x), after(&|x| bf16.round(x)));
        let arithmetic = Arithmetic::BF16;
        let [noise, _] =
            of_running_statistics(&bn, &x.into_shared(), [exact.view(), bn.running_var.view().into_dyn()], &arithmetic);
        let largest = |exact: &ArrayD<f64>, theirs: &ArrayD<f64>, allowed: &ArrayD<f64>| {
            let shares = exact
                .iter()
                .zip(theirs)
                .zip(allowed)
                .map(|((exact, theirs), allowed)| (theirs - exact).abs() / allowed);
            shares.fold(0.0, f64::max)
        };
        let share = largest(&exact, &theirs, &noise.allowed(exact.view(), &arithmetic, None).each);
        assert!((0.1..0.5).contains(&share), "running mean: {share}");

        // (1 − ε) · mean of −log p of the class + ε/C · mean of Σ −log p, of three images with C = 10 classes; ε = 0.1.
        let mut most = 0.0f64;
        for _ in 0..1000 {
            let logits = Array2::from_shape_simple_fn((3, 10), || fp16.round(3.0 * normal(&mut rng)));
            let loss = |round: &dyn Fn(f64) -> f64| {
                let log_p = crate::layers::softmax_cross_entropy::log_softmax(&logits).mapv(|log_p| round(-log_p));
                let smooth = round(log_p.rows().into_iter().map(|row| round(row.sum())).sum::<f64>() / 3.0);
                round(round(round(0.9) * round(log_p.column(0).sum() / 3.0)) + round(round(0.01) * smooth))
            };
            let mut q = Array2::from_elem((3, 10), 0.01 / 3.0);
            q.column_mut(0).mapv_inplace(|q| q + 0.3);
            let [exact, theirs] = [loss(&|x| x), loss(&|x| fp16.round(x))].map(|x| ArrayD::from_elem(vec![], x));
            let arithmetic = Arithmetic::F16;
            let noise = of_loss(&logits, &q, &Array1::ones(3), &exact, &logits, &arithmetic, 4.0);
            most = most.max(largest(&exact, &theirs, &noise.loss.allowed(exact.view(), &arithmetic, None).each));
        }
        assert!((0.1..0.5).contains(&most), "loss: {most}");
    }

    #[test]
    fn equal_terms_are_counted() {
        let of = |value: &dyn Fn(usize) -> f64| {
            let x: Vec<f64> = (0..1000).map(value).collect();
            equal(x.iter())
        };
        assert!((of(&|_| 0.1) - 1.0).abs() < 1e-3);
        // Up to rounding in float32, which a simulation adds.
        assert!((of(&|i| 0.1 * (1.0 + 3e-8 * (i % 2) as f64)) - 1.0).abs() < 1e-3);
        // Zeros change no sum.
        assert!((of(&|i| if i % 8 < 4 { 0.1 } else { 0.0 }) - 0.25).abs() < 0.01);
        assert_eq!((of(&|_| 0.0), of(&|i| (i as f64).sin())), (0.0, 0.0));
        // All terms equal: four standard deviations are what they err by at most, 2/3 K u S.
        assert!((4.0 * steps(1000, 1.0).sqrt() / (2.0 / 3.0 * 1000.0) - 1.0).abs() < 0.01);
    }
}
