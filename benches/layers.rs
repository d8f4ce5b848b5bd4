//! Single layers: `cargo bench --manifest-path benches/Cargo.toml`, with `-- "conv2d/3x3 16@32x32"` for some of them.
//!
//! Every convolution is measured in its three directions with every algorithm that can compute its shape, except the
//! definition. Criterion's `elem` are operations, two for each multiply-add of direct convolution, or elements of x for
//! the other layers. All threads are used, as in training; the loader uses one, also as in training.

use criterion::{BenchmarkId, Criterion, Throughput};
use ndarray::{Array1, Array4};
use rand::RngExt as _;
use resnet_by_hand::Activation;
use resnet_by_hand::data::loader::LoaderOptions;
use resnet_by_hand::data::{Loader, Normalization, embedded};
use resnet_by_hand::engine::{Algorithm, Engine};
use resnet_by_hand::layers::{BatchNorm2d, Conv2d, MaxPool2d, Mode, Relu};
use resnet_by_hand::rng::{Purpose, stream};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

struct Geometry {
    images: usize,
    channels: [usize; 2],
    size: usize,
    kernel: usize,
    stride: usize,
}

/// Square images and kernels, padded so that stride 1 keeps the size.
const fn geometry(images: usize, channels: [usize; 2], size: usize, kernel: usize, stride: usize) -> Geometry {
    Geometry { images, channels, size, kernel, stride }
}

const GEOMETRIES: [Geometry; 16] = [
    // ResNet-20's and ResNet-18's
    geometry(128, [16, 16], 32, 3, 1),
    geometry(128, [32, 32], 16, 3, 1),
    geometry(128, [64, 64], 8, 3, 1),
    geometry(64, [64, 64], 32, 3, 1),
    geometry(64, [128, 128], 16, 3, 1),
    geometry(64, [256, 256], 8, 3, 1),
    geometry(64, [512, 512], 4, 3, 1),
    // stride 2
    geometry(128, [16, 32], 32, 3, 2),
    geometry(64, [64, 128], 32, 3, 2),
    geometry(64, [256, 512], 8, 3, 2),
    // bottlenecks and projections
    geometry(64, [256, 64], 8, 1, 1),
    geometry(64, [64, 256], 8, 1, 1),
    geometry(64, [1024, 256], 2, 1, 1),
    geometry(64, [64, 128], 32, 1, 2),
    // stems
    geometry(64, [3, 64], 32, 7, 1),
    geometry(8, [3, 64], 224, 7, 2),
];

fn noise(shape: [usize; 4]) -> Activation<f32> {
    let mut rng = stream(0, Purpose::Verify, &[shape.iter().sum::<usize>() as u64]);
    Array4::from_shape_simple_fn(shape, || rng.random_range(-1.0f32..1.0)).into_shared()
}

fn conv2d(c: &mut Criterion) {
    for Geometry { images, channels: [c_in, c_out], size, kernel, stride } in GEOMETRIES {
        let weight = noise([c_out, c_in, kernel, kernel]).into_owned();
        let padding = [kernel / 2; 2];
        let conv = Conv2d { stride: [stride; 2], padding, ..Conv2d::new(weight) };
        let x_shape = [images, size, size, c_in];
        let y_shape = conv.output_shape(&x_shape).unwrap();
        let (x, dy) = (noise(x_shape), noise(y_shape));
        let operations = 2 * y_shape[..3].iter().product::<usize>() * conv.weight.len();

        let channels = if c_in == c_out { c_in.to_string() } else { format!("{c_in}-{c_out}") };
        let stride = if stride == 1 { String::new() } else { format!(" stride {stride}") };
        let mut group = c.benchmark_group(format!("conv2d/{kernel}x{kernel} {channels}@{size}x{size}{stride}"));
        group.throughput(Throughput::Elements(operations as u64));
        for (name, algorithm) in Algorithm::ALL {
            let engine = Engine::new(algorithm);
            // `auto` is one of the others, and so is the algorithm that replaces one that cannot compute this shape.
            if engine.algorithm_for(&conv, x_shape).unwrap() != algorithm {
                continue;
            }
            group.bench_function(BenchmarkId::new("y", name), |b| {
                b.iter(|| engine.conv2d_forward(&conv, black_box(&x)).unwrap())
            });
            if c_in != 3 {
                group.bench_function(BenchmarkId::new("dx", name), |b| {
                    b.iter(|| engine.conv2d_input_gradient(&conv, black_box(&dy), x_shape).unwrap())
                });
            }
            group.bench_function(BenchmarkId::new("dW", name), |b| {
                b.iter(|| engine.conv2d_parameter_gradients(&conv, black_box(&dy), &x).unwrap())
            });
        }
        group.finish();
    }
}

/// The widest activations of ResNet-20 and of ResNet-18 after the CIFAR stem.
const ACTIVATIONS: [[usize; 4]; 2] = [[128, 32, 32, 16], [64, 32, 32, 64]];

fn title(layer: &str, [n, h, w, channels]: [usize; 4]) -> String {
    format!("{layer}/{n} of {h}x{w}x{channels}")
}

fn batch_norm(c: &mut Criterion) {
    for shape in ACTIVATIONS {
        let mut bn = BatchNorm2d::<f32>::new(shape[3]);
        bn.gamma = Array1::from_elem(shape[3], 0.5);
        let (x, dy) = (noise(shape), noise(shape));
        let (_, cache) = bn.forward(&x, Mode::Train).unwrap();
        let mut group = c.benchmark_group(title("batch_norm", shape));
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function("train", |b| b.iter(|| bn.forward(black_box(&x), Mode::Train).unwrap()));
        group.bench_function("eval", |b| b.iter(|| bn.forward(black_box(&x), Mode::Eval).unwrap()));
        group.bench_function("backward", |b| b.iter(|| bn.backward(black_box(&dy), &cache).unwrap()));
        group.finish();
    }
}

fn relu(c: &mut Criterion) {
    for shape in ACTIVATIONS {
        let relu = Relu::<f32>::new();
        let (x, dy) = (noise(shape), noise(shape));
        let (_, cache) = relu.forward(&x);
        let mut group = c.benchmark_group(title("relu", shape));
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function("forward", |b| b.iter(|| relu.forward(black_box(&x))));
        group.bench_function("backward", |b| b.iter(|| relu.backward(black_box(&dy), &cache).unwrap()));
        group.finish();
    }
}

fn max_pool(c: &mut Criterion) {
    // The ImageNet stem's, and the one that keeps the size after the 7x7 stem for small images.
    for (shape, stride) in [([8, 112, 112, 64], 2), ([64, 32, 32, 64], 1)] {
        let pool = MaxPool2d::new([3, 3], [stride; 2], [1, 1]);
        let (x, dy) = (noise(shape), noise(pool.output_shape(&shape).unwrap()));
        let (_, cache) = pool.forward(&x).unwrap();
        let mut group = c.benchmark_group(format!("{} stride {stride}", title("max_pool", shape)));
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function("forward", |b| b.iter(|| pool.forward(black_box(&x)).unwrap()));
        group.bench_function("backward", |b| b.iter(|| pool.backward(black_box(&dy), &cache).unwrap()));
        group.finish();
    }
}

fn loader(c: &mut Criterion) {
    let images = Arc::new(embedded::load().train);
    let indices: Vec<usize> = (0..128).map(|i| i * 11 % images.len()).collect();
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(indices.len() as u64)); // images
    for (name, options) in [
        ("crop and flip", LoaderOptions::training(128, Normalization::CIFAR10, 0)),
        ("as they are", LoaderOptions::evaluation(128, Normalization::CIFAR10)),
    ] {
        let loader = Loader::<f32>::new(Arc::clone(&images), options).unwrap();
        group.bench_function(name, |b| b.iter(|| loader.batch(black_box(3), &indices).unwrap()));
    }
    group.finish();
}

fn main() {
    // On a thread of the pool, as the command computes.
    rayon::scope(|_| {
        let criterion = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200));
        let mut criterion = criterion.measurement_time(Duration::from_secs(1)).without_plots().configure_from_args();
        for benches in [conv2d, batch_norm, relu, max_pool, loader] {
            benches(&mut criterion);
        }
        criterion.final_summary();
    });
}
