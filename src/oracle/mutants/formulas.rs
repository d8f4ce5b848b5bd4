//! The wrong formulas of the longer faults in the list.

use super::{Passing, WrongNorm};
use crate::Activation;
use crate::layers::{Conv2d, MaxPool2d, SoftmaxCrossEntropy};
use crate::program::Layer;
use ndarray::{Array2, Array4, Axis, s};

/// Every group gets the kernels of the next one.
pub(super) fn groups_exchanged(conv: &mut Conv2d<f64>) -> bool {
    let group = conv.weight.len_of(Axis(0)) / conv.groups.max(1);
    let (first, rest) = (conv.weight.slice(s![..group, .., .., ..]), conv.weight.slice(s![group.., .., .., ..]));
    conv.weight = ndarray::concatenate(Axis(0), &[rest, first]).expect("the same kernels");
    conv.groups > 1
}

/// dx of a convolution with the kernel rotated by 180 degrees.
pub(super) fn kernel_not_turned(layer: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    let Layer::Conv2d(conv) = layer else { return None };
    let mut turned = conv.clone();
    turned.weight.invert_axis(Axis(2));
    turned.weight.invert_axis(Axis(3));
    turned.weight = turned.weight.as_standard_layout().into_owned();
    let (_, cache) = turned.forward(passing.x).ok()?;
    Some(turned.backward(passing.dy, &cache).ok()?.0)
}

/// dy with 0 for all images but the last.
pub(super) fn of_last_image(dy: &Activation<f64>) -> Activation<f64> {
    let mut last = Array4::zeros(dy.raw_dim());
    let image = dy.len_of(Axis(0)) - 1;
    last.index_axis_mut(Axis(0), image).assign(&dy.index_axis(Axis(0), image));
    last.into_shared()
}

/// dy with 0 everywhere but at the last pixel of the last image.
pub(super) fn of_last_pixel(dy: &Activation<f64>) -> Activation<f64> {
    let mut last = Array4::zeros(dy.raw_dim());
    let (n, h, w, _) = dy.dim();
    last.slice_mut(s![n - 1, h - 1, w - 1, ..]).assign(&dy.slice(s![n - 1, h - 1, w - 1, ..]));
    last.into_shared()
}

/// dy/N.
pub(super) fn averaged(dy: &Activation<f64>) -> Activation<f64> {
    let images = dy.len_of(Axis(0)) as f64;
    dy.mapv(|dy| dy / images).into_shared()
}

/// dy/m, where m is the number of values of a channel.
pub(super) fn averaged_over_channel(dy: &Activation<f64>) -> Activation<f64> {
    let (n, h, w, _) = dy.dim();
    dy.mapv(|dy| dy / (n * h * w) as f64).into_shared()
}

/// A convolution with its input and output channels exchanged; `false` if they are not equally many.
pub(super) fn channels_exchanged(conv: &mut Conv2d<f64>) -> bool {
    let (c_out, c_in, ..) = conv.weight.dim();
    if c_out != c_in || c_in == 1 {
        return false;
    }
    conv.weight.swap_axes(0, 1);
    conv.weight = conv.weight.as_standard_layout().into_owned();
    true
}

/// Calls `each([n, h, w, i], [o, i, p, q], [n, ho, wo, o])` for every term of a convolution, where the pixel h, w is computed with
/// the given stride and padding. `false` if they are those of the convolution.
fn for_terms(
    conv: &Conv2d<f64>,
    [stride, padding]: [[usize; 2]; 2],
    x: [usize; 4],
    dy: [usize; 4],
    mut each: impl FnMut([usize; 4], [usize; 4], [usize; 4]),
) -> bool {
    let (c_out, c_in, kh, kw) = conv.weight.dim();
    let place = |axis: usize, out: usize, tap: usize| {
        let place = out * stride[axis] + tap * conv.dilation[axis];
        place.checked_sub(padding[axis]).filter(|place| *place < x[axis + 1])
    };
    for (n, ho, wo, o) in ndarray::indices(dy) {
        for (i, p, q) in ndarray::indices((c_in, kh, kw)) {
            if let (Some(h), Some(w)) = (place(0, ho, p), place(1, wo, q)) {
                let group = o * conv.groups / c_out;
                each([n, h, w, group * c_in + i], [o, i, p, q], [n, ho, wo, o]);
            }
        }
    }
    (stride, padding) != (conv.stride, conv.padding)
}

/// The shape of an array with four axes.
fn shape(array: &Activation<f64>) -> [usize; 4] {
    array.dim().into()
}

/// Layers larger than this are left out where a mutant computes with plain loops.
const MOST_TERMS: usize = 2_000_000;

fn input_gradient(conv: &Conv2d<f64>, placed: [[usize; 2]; 2], passing: &Passing<'_>) -> Option<Activation<f64>> {
    if passing.dy.len() * conv.weight.len() > MOST_TERMS * conv.weight.len_of(Axis(0)) {
        return None;
    }
    let mut dx = Array4::zeros(passing.x.raw_dim());
    let differs = for_terms(conv, placed, shape(passing.x), shape(passing.dy), |x, weight, y| {
        dx[x] += conv.weight[weight] * passing.dy[y];
    });
    differs.then(|| dx.into_shared())
}

fn weight_gradient(
    conv: &Conv2d<f64>,
    placed: [[usize; 2]; 2],
    x: &Activation<f64>,
    dy: &Activation<f64>,
) -> Option<Array4<f64>> {
    if dy.len() * conv.weight.len() > MOST_TERMS * conv.weight.len_of(Axis(0)) {
        return None;
    }
    let mut dweight = Array4::zeros(conv.weight.raw_dim());
    let differs = for_terms(conv, placed, shape(x), shape(dy), |at, weight, y| dweight[weight] += x[at] * dy[y]);
    differs.then_some(dweight)
}

/// dx of a convolution as if its stride were 1.
pub(super) fn input_gradient_of_stride_1(layer: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    let Layer::Conv2d(conv) = layer else { return None };
    input_gradient(conv, [[1, 1], conv.padding], passing)
}

/// dx of a convolution as if it had no padding.
pub(super) fn input_gradient_without_padding(layer: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    let Layer::Conv2d(conv) = layer else { return None };
    input_gradient(conv, [conv.stride, [0, 0]], passing)
}

/// dweight of a convolution as if its stride were 1.
pub(super) fn weight_gradient_of_stride_1(
    conv: &Conv2d<f64>,
    x: &Activation<f64>,
    dy: &Activation<f64>,
) -> Option<Array4<f64>> {
    weight_gradient(conv, [[1, 1], conv.padding], x, dy)
}

/// dweight of a convolution as if it had no padding.
pub(super) fn weight_gradient_without_padding(
    conv: &Conv2d<f64>,
    x: &Activation<f64>,
    dy: &Activation<f64>,
) -> Option<Array4<f64>> {
    weight_gradient(conv, [conv.stride, [0, 0]], x, dy)
}

/// A batch norm that divides by the variance instead of the deviation.
pub(super) fn divided_by_variance(layer: &Layer<f64>, x: &Activation<f64>, y: &mut Activation<f64>) {
    let Layer::BatchNorm2d(bn) = layer else { return };
    let wrong = WrongNorm { r: |var, _, eps| [1.0 / (var + eps), 0.0], ..WrongNorm::RIGHT };
    *y = wrong.forward(bn, x);
}

/// dy with 0 in the first and last row and column.
pub(super) fn without_border(dy: &Activation<f64>) -> Activation<f64> {
    let mut inner = dy.to_owned();
    let (_, h, w, _) = dy.dim();
    for row in [0, h - 1] {
        inner.slice_mut(s![.., row, .., ..]).fill(0.0);
    }
    for column in [0, w - 1] {
        inner.slice_mut(s![.., .., column, ..]).fill(0.0);
    }
    inner.into_shared()
}

/// The result of a max pool whose padding is 0 instead of −∞.
pub(super) fn padded_with_0(layer: &Layer<f64>, x: &Activation<f64>, y: &mut Activation<f64>) {
    let Layer::MaxPool2d(pool) = layer else { return };
    for_windows(pool, x, y, |y, window| {
        if window.padded {
            *y = y.max(0.0);
        }
    });
}

/// dx of a max pool that sends dy to the last of several equal maxima.
pub(super) fn to_last_of_equal(layer: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    let Layer::MaxPool2d(pool) = layer else { return None };
    Some(of_equal(pool, passing, |equal| equal.drain(..equal.len() - 1).for_each(drop)))
}

/// dx of a max pool that sends dy to each of several equal maxima.
pub(super) fn to_all_of_equal(layer: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    let Layer::MaxPool2d(pool) = layer else { return None };
    Some(of_equal(pool, passing, |_| {}))
}

/// dx of an average pool that is not divided by the number of values in the window.
pub(super) fn times_window(layer: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    let Layer::AvgPool2d(pool) = layer else { return None };
    let count = (pool.kernel[0] * pool.kernel[1]) as f64;
    Some(passing.dx.mapv(|dx| dx * count).into_shared())
}

/// The result of a max pool in place of an average pool.
pub(super) fn largest(layer: &Layer<f64>, x: &Activation<f64>, y: &mut Activation<f64>) {
    let Layer::AvgPool2d(pool) = layer else { return };
    let max = MaxPool2d { ceil_mode: pool.ceil_mode, ..MaxPool2d::new(pool.kernel, pool.stride, pool.padding) };
    if let Ok((largest, _)) = max.forward(x) {
        *y = largest;
    }
}

/// dx of a global average pool that is not divided by the number of pixels.
pub(super) fn times_pixels(_: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    let (_, h, w, _) = passing.x.dim();
    Some(passing.dx.mapv(|dx| dx * (h * w) as f64).into_shared())
}

/// dlogits = p/N.
pub(super) fn without_target(logits: &Array2<f64>, target: &[usize], _: &mut f64, dlogits: &mut Array2<f64>) {
    let layer = SoftmaxCrossEntropy::<f64>::new();
    if let Ok((_, cache)) = layer.forward(logits, target) {
        *dlogits = cache.probabilities / target.len() as f64;
    }
}

/// dlogits = (q − p)/N.
pub(super) fn negated(_: &Array2<f64>, _: &[usize], _: &mut f64, dlogits: &mut Array2<f64>) {
    dlogits.mapv_inplace(|dlogits| -dlogits);
}

/// dlogits = (p − q)/K.
pub(super) fn over_classes(logits: &Array2<f64>, target: &[usize], _: &mut f64, dlogits: &mut Array2<f64>) {
    let factor = target.len() as f64 / logits.ncols() as f64;
    dlogits.mapv_inplace(|dlogits| dlogits * factor);
}

/// The loss with exp of the unshifted logits: infinite or NaN if it overflows, right if it does not.
pub(super) fn without_largest(logits: &Array2<f64>, target: &[usize], loss: &mut f64, dlogits: &mut Array2<f64>) {
    let sums = logits.mapv(f64::exp).sum_axis(Axis(1));
    if sums.iter().any(|sum| sum.is_infinite()) {
        let of_row = |(n, &class): (usize, &usize)| sums[n].ln() - logits[[n, class]];
        *loss = target.iter().enumerate().map(of_row).sum::<f64>() / target.len() as f64;
        dlogits.fill(f64::NAN);
    }
}

/// A window of a pool: the pixels of the image in it, and whether it extends beyond the border.
struct Window {
    pixels: Vec<[usize; 2]>,
    padded: bool,
}

/// Calls `each` for every value of `y` with its window.
fn for_windows(
    pool: &MaxPool2d,
    x: &Activation<f64>,
    y: &mut Activation<f64>,
    mut each: impl FnMut(&mut f64, &Window),
) {
    let (_, h, w, _) = x.dim();
    for ((_, i, j, _), y) in y.indexed_iter_mut() {
        each(y, &window(pool, [i, j], [h, w]));
    }
}

fn window(pool: &MaxPool2d, at: [usize; 2], size: [usize; 2]) -> Window {
    let mut window = Window { pixels: Vec::new(), padded: false };
    for p in 0..pool.kernel[0] {
        for q in 0..pool.kernel[1] {
            let place = |axis: usize, tap: usize| {
                let place = at[axis] * pool.stride[axis] + tap * pool.dilation[axis];
                place.checked_sub(pool.padding[axis]).filter(|place| *place < size[axis])
            };
            match (place(0, p), place(1, q)) {
                (Some(row), Some(column)) => window.pixels.push([row, column]),
                _ => window.padded = true,
            }
        }
    }
    window
}

/// The gradient of a max pool that sends each dy to those of its equal maxima that `choose` keeps.
fn of_equal(pool: &MaxPool2d, passing: &Passing<'_>, choose: impl Fn(&mut Vec<[usize; 2]>)) -> Activation<f64> {
    let (x, mut dx) = (passing.x, Array4::zeros(passing.x.raw_dim()));
    let (_, h, w, _) = x.dim();
    for ((n, i, j, c), &dy) in passing.dy.indexed_iter() {
        let window = window(pool, [i, j], [h, w]);
        let largest =
            window.pixels.iter().fold(f64::NEG_INFINITY, |max, &[row, column]| max.max(x[[n, row, column, c]]));
        let mut equal = window.pixels;
        equal.retain(|&[row, column]| x[[n, row, column, c]] == largest);
        choose(&mut equal);
        for [row, column] in equal {
            dx[[n, row, column, c]] += dy;
        }
    }
    dx.into_shared()
}

/// dx in which every pixel keeps only the contribution of the last window that reads it. One backward pass per window: for
/// small images.
pub(super) fn last_window(layer: &Layer<f64>, passing: &Passing<'_>) -> Option<Activation<f64>> {
    const MOST: usize = 120;
    let (_, h, w, _) = passing.dy.dim();
    if h * w > MOST {
        return None;
    }
    type Backward<'a> = Box<dyn Fn(&Activation<f64>) -> Option<Activation<f64>> + 'a>;
    let backward: Backward<'_> = match layer {
        Layer::Conv2d(conv) => {
            let (_, cache) = conv.forward(passing.x).ok()?;
            Box::new(move |dy| Some(conv.backward(dy, &cache).ok()?.0))
        }
        Layer::MaxPool2d(pool) => {
            let (_, cache) = pool.forward(passing.x).ok()?;
            Box::new(move |dy| pool.backward(dy, &cache).ok())
        }
        Layer::AvgPool2d(pool) => {
            let (_, cache) = pool.forward(passing.x).ok()?;
            Box::new(move |dy| pool.backward(dy, &cache).ok())
        }
        _ => return None,
    };
    let mut dx = Array4::<f64>::zeros(passing.x.raw_dim());
    for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
        let mut one = Array4::zeros(passing.dy.raw_dim());
        one.slice_mut(s![.., i, j, ..]).assign(&passing.dy.slice(s![.., i, j, ..]));
        let part = backward(&one.into_shared())?;
        dx.zip_mut_with(&part, |dx, &part| {
            if part != 0.0 {
                *dx = part;
            }
        });
    }
    Some(dx.into_shared())
}
