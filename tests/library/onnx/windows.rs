//! Operations with windows: convolutions and pools, in one and two dimensions.
//!
//! One dimension is two with a height of 1. ONNX pads the two ends of an axis independently, our layers equally: the larger
//! padding is used at both ends (a stride may require an even larger one, so that the windows match), and the windows that
//! ONNX does not have are cut off. The layer computes every window that remains, padding included.

use super::cases::{Case, CaseData};
use super::computed::{Computed, U, exact, nchw, wide};
use ndarray::{Array4, ArrayD, Axis, Ix4, Slice};
use resnet_by_hand::Scalar;
use resnet_by_hand::engine::{Algorithm, Engine};
use resnet_by_hand::layers::conv2d::direct;
use resnet_by_hand::layers::{Activation, AvgPool2d, Conv2d, GlobalAvgPool, MaxPool2d, nchw_to_nhwc};
use resnet_by_hand::verify::bounds::{self, SECOND_ORDER};

/// The node's first input.
fn input(data: &CaseData) -> &ArrayD<f64> {
    data.inputs[0].as_ref().expect("X")
}

/// (N, C, W) or (N, C, H, W) as (N, C, H, W).
fn image(values: &ArrayD<f64>) -> Array4<f64> {
    let values = if values.ndim() == 3 { values.clone().insert_axis(Axis(2)) } else { values.clone() };
    values.into_dimensionality().expect("three or four axes")
}

/// The same as our activations.
fn activation<T: Scalar>(values: &ArrayD<f64>) -> Activation<T> {
    nchw_to_nhwc(exact::<T>(&image(values).into_dyn()).into_dimensionality::<Ix4>().expect("four axes").view())
}

/// A window along the two axes of an image.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Padding before and after.
    begin: [usize; 2],
    end: [usize; 2],
    ceil_mode: bool,
}

/// Two values from one or two.
fn pair(values: &[i64], missing: i64) -> [usize; 2] {
    let number = |value: i64| usize::try_from(value).expect("not negative");
    match *values {
        [w] => [number(missing), number(w)],
        [h, w] => [number(h), number(w)],
        _ => panic!("expected one or two values, got {values:?}"),
    }
}

impl Window {
    /// From the attributes, for an image of this size.
    fn new(case: &Case, kernel: [usize; 2], size: [usize; 2]) -> Self {
        let ones = |name: &str| case.ints(name).map_or([1, 1], |values| pair(&values, 1));
        let (stride, dilation) = (ones("strides"), ones("dilations"));
        let (begin, end) = match case.text("auto_pad", "NOTSET").as_str() {
            "NOTSET" => match case.ints("pads") {
                None => ([0, 0], [0, 0]),
                Some(pads) => {
                    let (begin, end) = pads.split_at(pads.len() / 2);
                    (pair(begin, 0), pair(end, 0))
                }
            },
            "VALID" => ([0, 0], [0, 0]),
            same => {
                // As many windows as there are strides in the image; odd padding goes after, or before.
                let total = [0, 1].map(|axis| {
                    let last = (size[axis].div_ceil(stride[axis]) - 1) * stride[axis];
                    (last + dilation[axis] * (kernel[axis] - 1) + 1).saturating_sub(size[axis])
                });
                let (less, more) = (total.map(|total| total / 2), total.map(|total| total - total / 2));
                match same {
                    "SAME_UPPER" => (less, more),
                    "SAME_LOWER" => (more, less),
                    other => panic!("{}: auto_pad {other}", case.name),
                }
            }
        };
        Window { kernel, stride, dilation, begin, end, ceil_mode: case.int("ceil_mode", 0) != 0 }
    }

    /// Padding for both ends, and the first window that counts along each axis.
    fn symmetric(&self) -> ([usize; 2], [usize; 2]) {
        let along = [0, 1].map(|axis| {
            let (begin, end, stride) = (self.begin[axis], self.end[axis], self.stride[axis]);
            assert!(begin == end || !self.ceil_mode, "uneven padding and sizes rounded up");
            let skipped = end.saturating_sub(begin).div_ceil(stride);
            (begin + skipped * stride, skipped)
        });
        (along.map(|(padding, _)| padding), along.map(|(_, skipped)| skipped))
    }
}

/// The windows of (N, C, H, W) that count.
fn cut(values: ArrayD<f64>, skipped: [usize; 2], shape: &[usize]) -> ArrayD<f64> {
    let size = pair(&shape[2..].iter().map(|&size| size as i64).collect::<Vec<_>>(), 1);
    let mut values = values;
    for axis in [0, 1] {
        let range = Slice::from(skipped[axis]..skipped[axis] + size[axis]);
        values = values.slice_axis(Axis(axis + 2), range).to_owned();
    }
    values
}

fn kernel_of(case: &Case) -> [usize; 2] {
    pair(&case.ints("kernel_shape").expect("kernel_shape"), 1)
}

/// A convolution computed in one way: its name, m if it is Winograd's F(m x m, 3x3), and the result.
type Way<T> = (&'static str, Option<usize>, Activation<T>);

/// An element type with its ways to compute a convolution: the definition and im2col, and in `f32` the engine's algorithms.
pub trait Convolved: Scalar {
    /// y in every way.
    fn forward(conv: &Conv2d<Self>, x: &Activation<Self>) -> Vec<Way<Self>>;
    /// dx in every way, for an x of this shape.
    fn input_gradient(conv: &Conv2d<Self>, dy: &Activation<Self>, x: &Activation<Self>) -> Vec<Way<Self>>;
}

fn plainly<T: Scalar>(conv: &Conv2d<T>, x: &Activation<T>) -> Vec<Way<T>> {
    let (y, _) = conv.forward(x).unwrap();
    vec![("im2col", None, y), ("definition", None, direct::forward(conv, x).into_shared())]
}

fn plain_input_gradient<T: Scalar>(conv: &Conv2d<T>, dy: &Activation<T>, x: &Activation<T>) -> Vec<Way<T>> {
    let (_, cache) = conv.forward(x).unwrap();
    let dx = conv.input_gradient(dy, &cache).unwrap();
    vec![("im2col", None, dx), ("definition", None, direct::input_gradient(conv, x.dim(), dy).into_shared())]
}

impl Convolved for f64 {
    fn forward(conv: &Conv2d<f64>, x: &Activation<f64>) -> Vec<Way<f64>> {
        plainly(conv, x)
    }
    fn input_gradient(conv: &Conv2d<f64>, dy: &Activation<f64>, x: &Activation<f64>) -> Vec<Way<f64>> {
        plain_input_gradient(conv, dy, x)
    }
}

impl Convolved for f32 {
    fn forward(conv: &Conv2d<f32>, x: &Activation<f32>) -> Vec<Way<f32>> {
        let by_engine = engines(conv, x).map(|(name, m, engine)| (name, m, engine.conv2d_forward(conv, x).unwrap()));
        plainly(conv, x).into_iter().chain(by_engine).collect()
    }
    fn input_gradient(conv: &Conv2d<f32>, dy: &Activation<f32>, x: &Activation<f32>) -> Vec<Way<f32>> {
        let dx = |engine: Engine| engine.conv2d_input_gradient(conv, dy, x.dim().into()).unwrap();
        let by_engine = engines(conv, x).map(|(name, m, engine)| (name, m, dx(engine)));
        plain_input_gradient(conv, dy, x).into_iter().chain(by_engine).collect()
    }
}

fn engines(
    conv: &Conv2d<f32>,
    x: &Activation<f32>,
) -> impl Iterator<Item = (&'static str, Option<usize>, Engine)> + use<> {
    let (conv, x) = (conv.clone(), x.dim().into());
    Algorithm::ALL.into_iter().map(move |(name, algorithm)| {
        let engine = Engine::new(algorithm);
        let m = match engine.algorithm_for(&conv, x).unwrap() {
            Algorithm::Winograd2 => Some(2),
            Algorithm::Winograd4 => Some(4),
            _ => None,
        };
        (name, m, engine)
    })
}

/// Conv, in every way.
pub fn conv<T: Convolved>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"]);
    let x = activation::<T>(input(data));
    let weight: Array4<T> =
        exact::<T>(&image(data.inputs[1].as_ref().expect("W")).into_dyn()).into_dimensionality().unwrap();
    let (_, h, w, _) = x.dim();
    let window = Window::new(case, [weight.dim().2, weight.dim().3], [h, w]);
    assert!(case.ints("kernel_shape").is_none_or(|kernel| pair(&kernel, 1) == window.kernel));
    let bias = data.inputs.get(2).map(|bias| exact::<T>(bias.as_ref().expect("B")).into_dimensionality().unwrap());
    let (padding, skipped) = window.symmetric();
    let (stride, dilation, groups) = (window.stride, window.dilation, case.int("group", 1) as usize);
    let base = Conv2d { bias, stride, padding, dilation, groups, ..Conv2d::new(weight) };
    let shape = data.outputs[0].shape();
    let ways = T::forward(&base, &x).into_iter().map(|(name, m, y)| {
        let dy = y.mapv(|_| T::zero()).into_shared();
        let theirs = bounds::conv2d(&base, &x, &dy, U).unwrap().y.into_shared();
        // Winograd's algorithm has a bound of its own; the bias is one more addition.
        let own = match m {
            Some(m) => {
                let plain = Conv2d { bias: None, ..base.clone() };
                let bound = bounds::conv2d_winograd(&plain, &x, &dy, m, U).unwrap().y;
                (bound + &y.mapv(|y| y.as_f64().abs() * U * SECOND_ORDER)).into_shared()
            }
            None => theirs.clone(),
        };
        let [got, theirs, own] = [nchw(&y), nchw(&theirs), nchw(&own)].map(|values| cut(values, skipped, shape));
        Computed::with_own::<T>(0, name, got, theirs, own).shaped(shape)
    });
    ways.collect()
}

/// ConvTranspose is dx of a convolution: its X is our dy, its W (C, M/group, kh, kw) our weight (C_out, C_in/groups, kh, kw).
///
/// The x of that convolution has the size of the output. Where padding is uneven the gradient is that of the padded
/// image, without padding in the layer, and its border is cut off.
pub fn conv_transpose<T: Convolved>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&[
        "auto_pad",
        "dilations",
        "group",
        "kernel_shape",
        "output_padding",
        "output_shape",
        "pads",
        "strides",
    ]);
    let dy = activation::<T>(input(data));
    let weight: Array4<T> =
        exact::<T>(&image(data.inputs[1].as_ref().expect("W")).into_dyn()).into_dimensionality().unwrap();
    let (_, channels, kh, kw) = weight.dim();
    let (groups, n, size) = (case.int("group", 1) as usize, dy.dim().0, [dy.dim().1, dy.dim().2]);
    let ones = |name: &str| case.ints(name).map_or([1, 1], |values| pair(&values, 1));
    let (stride, dilation, kernel) = (ones("strides"), ones("dilations"), [kh, kw]);
    let surplus = case.ints("output_padding").map_or([0, 0], |values| pair(&values, 0));
    // Everything that the windows cover, including the surplus after it.
    let full =
        [0, 1].map(|axis| stride[axis] * (size[axis] - 1) + dilation[axis] * (kernel[axis] - 1) + 1 + surplus[axis]);
    let auto_pad = case.text("auto_pad", "NOTSET");
    let (begin, end) = match (case.ints("output_shape"), auto_pad.as_str()) {
        (None, "NOTSET") => case.ints("pads").map_or(([0, 0], [0, 0]), |pads| {
            let (begin, end) = pads.split_at(pads.len() / 2);
            (pair(begin, 0), pair(end, 0))
        }),
        (wanted, _) => {
            let wanted = match wanted {
                Some(shape) => pair(&shape, 1),
                None => [0, 1].map(|axis| size[axis] * stride[axis]),
            };
            // A requested size beyond the windows is a surplus: nothing to cut.
            let total = [0, 1].map(|axis| full[axis].saturating_sub(wanted[axis]));
            let (less, more) = (total.map(|total| total / 2), total.map(|total| total - total / 2));
            if auto_pad == "SAME_UPPER" || auto_pad == "NOTSET" { (less, more) } else { (more, less) }
        }
    };
    let shape = data.outputs[0].shape();
    let wanted = pair(&shape[2..].iter().map(|&size| size as i64).collect::<Vec<_>>(), 1);
    let (padding, image_size, skipped) = if begin == end {
        (begin, wanted, [0, 0])
    } else {
        ([0, 0], [0, 1].map(|axis| begin[axis] + wanted[axis] + end[axis]), begin)
    };
    let base = Conv2d { stride, padding, dilation, groups, ..Conv2d::new(weight) };
    let x = Array4::<T>::zeros((n, image_size[0], image_size[1], channels * groups)).into_shared();
    let ways = T::input_gradient(&base, &dy, &x).into_iter().map(|(name, m, dx)| {
        let theirs = bounds::conv2d(&base, &x, &dy, U).unwrap().dx.into_shared();
        let own = match m {
            Some(m) => bounds::conv2d_winograd(&base, &x, &dy, m, U).unwrap().dx.into_shared(),
            None => theirs.clone(),
        };
        let [got, theirs, own] = [nchw(&dx), nchw(&theirs), nchw(&own)].map(|values| cut(values, skipped, shape));
        Computed::with_own::<T>(0, name, got, theirs, own).shaped(shape)
    });
    ways.collect()
}

/// x with a border of `fill` where a pool is padded by more than half its window, which the layers reject; and the padding
/// that remains for the layer.
fn bordered<T: Scalar>(
    x: Activation<T>,
    padding: [usize; 2],
    kernel: [usize; 2],
    fill: T,
) -> (Activation<T>, [usize; 2]) {
    let border = [0, 1].map(|axis| padding[axis].saturating_sub(kernel[axis] / 2));
    if border == [0, 0] {
        return (x, padding);
    }
    let (n, h, w, c) = x.dim();
    let mut wider = Array4::from_elem((n, h + 2 * border[0], w + 2 * border[1], c), fill);
    let inside = ndarray::s![.., border[0]..border[0] + h, border[1]..border[1] + w, ..];
    wider.slice_mut(inside).assign(&x);
    (wider.into_shared(), [0, 1].map(|axis| padding[axis] - border[axis]))
}

/// MaxPool: y and, if the node requires them, the positions of the maxima in the whole X.
pub fn max_pool<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"]);
    let x = activation::<T>(input(data));
    let (_, h, w, c) = x.dim();
    let Window { kernel, stride, dilation, ceil_mode, .. } = Window::new(case, kernel_of(case), [h, w]);
    let (padding, skipped) = Window::new(case, kernel, [h, w]).symmetric();
    // The padding of a maximum is −∞ around the image.
    let (wider, padding) = bordered(x.clone(), padding, kernel, T::neg_infinity());
    let pool = MaxPool2d { kernel, stride, padding, dilation, ceil_mode };
    let (y, cache) = pool.forward(&wider).expect(&case.name);
    let shape = data.outputs[0].shape();
    let mut computed = vec![Computed::exact(0, cut(nchw(&y), skipped, shape)).shaped(shape)];
    if data.outputs.len() > 1 {
        assert_eq!((wider.dim(), skipped), (x.dim(), [0, 0]), "positions of another image");
        let column_major = case.int("storage_order", 0) == 1;
        let mut pixels = cache.argmax().iter().map(|&pixel| pixel as usize);
        let positions = Array4::from_shape_fn(y.dim(), |(n, _, _, channel)| {
            let pixel = pixels.next().expect("one position per value");
            let pixel = if column_major { pixel % w * h + pixel / w } else { pixel };
            ((n * c + channel) * h * w + pixel) as f64
        });
        computed.push(Computed::exact(1, nchw(&positions.into_shared())).shaped(shape));
    }
    computed
}

/// GlobalMaxPool: one window, the image.
pub fn global_max_pool<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&[]);
    let x = activation::<T>(input(data));
    let (_, h, w, _) = x.dim();
    let (y, _) = MaxPool2d::new([h, w], [1, 1], [0, 0]).forward(&x).expect(&case.name);
    vec![Computed::exact(0, nchw(&y))]
}

/// MaxUnpool is dx of a max pool: its X is our dy, its I are our positions.
pub fn max_unpool<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["kernel_shape", "strides"]);
    let dy = activation::<T>(input(data));
    let positions = activation::<f64>(data.inputs[1].as_ref().expect("I"));
    let shape = data.outputs[0].shape();
    let (pixels, all_channels) = (shape[2] * shape[3], shape[1]);
    let mut x = Array4::<T>::zeros((shape[0], shape[2], shape[3], shape[1]));
    let pool = MaxPool2d::new(kernel_of(case), pair(&case.ints("strides").expect("strides"), 1), [0, 0]);
    // An x with its maxima at these positions.
    let argmax = positions.indexed_iter().map(|((n, _, _, channel), &position)| {
        let pixel = position as usize - (n * all_channels + channel) * pixels;
        x[[n, pixel / shape[3], pixel % shape[3], channel]] = T::one();
        u32::try_from(pixel).expect("a pixel of its own image")
    });
    let argmax: Vec<u32> = argmax.collect();
    let (_, cache) = pool.forward(&x.into_shared()).expect(&case.name);
    assert_eq!(cache.argmax(), argmax, "{}: the windows do not overlap", case.name);
    vec![Computed::exact(0, nchw(&pool.backward(&dy, &cache).expect(&case.name)))]
}

/// The case whose values were copied from printed output: inputs and their average, rounded to four decimals. Each input is
/// off by up to half a digit, their average by that times their share of the window (padding has the rest), and the
/// printed average by half a digit more.
const PRINTED: &str = "node/test_averagepool_2d_ceil_last_window_starts_on_pad";
const HALF_DIGIT: f64 = 5e-5;

pub fn average_pool<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"]);
    let x = activation::<T>(input(data));
    let (_, h, w, _) = x.dim();
    let Window { kernel, stride, dilation, ceil_mode, .. } = Window::new(case, kernel_of(case), [h, w]);
    assert_eq!(dilation, [1, 1], "{}: an average pool has no dilation", case.name);
    let (padding, skipped) = Window::new(case, kernel, [h, w]).symmetric();
    let count_include_pad = case.int("count_include_pad", 0) != 0;
    let (x, padding) = if count_include_pad {
        // Counted zeros are zeros of the image.
        bordered(x, padding, kernel, T::zero())
    } else {
        (x, padding)
    };
    let pool = AvgPool2d { ceil_mode, count_include_pad, ..AvgPool2d::new(kernel, stride, padding) };
    let (y, _) = pool.forward(&x).expect(&case.name);
    let (mut theirs, _) = bounds::avg_pool(&pool, &x, &y.mapv(|_| T::zero()).into_shared(), U).unwrap();
    if case.name == PRINTED {
        let four_digits = |values: &ArrayD<f64>| values.iter().all(|v| (v * 1e4 - (v * 1e4).round()).abs() < 1e-2);
        assert!(four_digits(input(data)) && four_digits(&data.outputs[0]), "{}: four digits", case.name);
        let (share, _) = pool.forward(&x.mapv(|_| 1.0).into_shared()).unwrap();
        theirs += &share.mapv(|share| HALF_DIGIT * (1.0 + share));
    }
    let shape = data.outputs[0].shape();
    let [got, theirs] = [nchw(&y), nchw(&theirs.into_shared())].map(|values| cut(values, skipped, shape));
    vec![Computed::new::<T>(0, got, theirs).shaped(shape)]
}

pub fn global_average_pool<T: Scalar>(case: &Case, data: &CaseData) -> Vec<Computed> {
    case.knows(&[]);
    let x = activation::<T>(input(data));
    let (y, _) = GlobalAvgPool.forward(&x).expect(&case.name);
    let (theirs, _) = bounds::global_avg_pool(&x, &y, U).unwrap();
    vec![Computed::new::<T>(0, wide(&y), theirs.into_dyn()).shaped(data.outputs[0].shape())]
}
