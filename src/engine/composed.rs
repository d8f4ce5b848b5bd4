//! The fused passes against the same passes composed of the engine's own primitives, bit for bit.
//!
//! A primitive reads stored arrays and stores its result: a convolution with nothing before or after it, a batch norm,
//! a ReLU, an addition. The network below calls them as `model/` calls the layers. Each primitive is verified against
//! the reference (`conv/tests.rs`, `tests/library/judge.rs`). Fusing only changes which values are stored, and this
//! must not change any bit.

use super::conv::Convolution;
use super::conv::operands::{AsIs, collect};
use super::fused::{NormGradient, Normalized, part};
use super::groups::PerGroup;
use super::leaves::PerLeaf;
use super::norm::{self, Affine, NormCache, Strip, pair_sums};
use super::pre_activation::Measured;
use super::{Algorithm, Engine, Pass, linear, pool, shape};
use crate::layers::{BatchNorm2d, Conv2d, GlobalAvgPool, MaxPool2d, Mode, Relu, SoftmaxCrossEntropy, ZeroPadShortcut};
use crate::model::resnet::{StemLayers, block_path};
use crate::model::shortcut::Shortcut;
use crate::model::unit::Unit;
use crate::model::{Architecture, Block, ResNet};
use crate::parallel::groups;
use crate::parameters::{Gradients, Parameters as _, join};
use crate::processes::Alone;
use crate::rng::{Purpose, stream};
use crate::shards::Shards;
use crate::verify::bounds::{self, BatchNormBounds};
use crate::verify::{Tolerance, compare};
use crate::{Activation, Scalar as _};
use ndarray::{Array1, Array2, Array4, s};
use rand::RngExt as _;
use std::num::NonZeroUsize;
use std::sync::Arc;

type X = Activation<f32>;

/// One pass through the network in training or evaluation mode, and the gradients of the backward pass.
struct Composed<'a> {
    pass: &'a Pass,
    training: bool,
    gradients: Gradients<f32>,
    /// The statistics of every batch norm, in the order of execution.
    norms: Vec<NormCache>,
}

/// Maps dlogits to dx.
type FromLogits<'a> = Box<dyn FnOnce(&mut Composed, &Array2<f32>) -> X + 'a>;

/// Maps dy to dx.
type Back<'a> = Box<dyn FnOnce(&mut Composed, X) -> X + 'a>;

impl Composed<'_> {
    fn conv<'m>(&mut self, conv: &'m Conv2d<f32>, name: String, x: X) -> (X, Back<'m>) {
        let y = Convolution::new(self.pass, conv, shape(&x)).unwrap().forward(&x, &AsIs);
        let back = move |all: &mut Composed, dy: X| {
            let convolution = Convolution::new(all.pass, conv, shape(&x)).unwrap();
            all.gradients.push(&name, "weight", convolution.weight_gradient(&dy, &x));
            convolution.input_gradient(&dy, &AsIs)
        };
        (y, Box::new(back))
    }

    fn norm<'m>(&mut self, bn: &'m BatchNorm2d<f32>, name: String, x: X) -> (X, Back<'m>) {
        let shelf = &self.pass.shelf;
        if !self.training {
            let affine = PerGroup::one(Affine::running(bn, x.dim()).unwrap());
            let y = collect(&Normalized { x: &x, affine: &affine, relu: None }, shape(&x), shelf);
            return (y, Box::new(|_, _| unreachable!("evaluation has no backward pass")));
        }
        let Measured { x, moments } = Measured::of(self.pass, &x);
        let cache = NormCache::new(bn, x, moments);
        let affine = cache.affine(bn);
        let y = collect(&Normalized { x: &cache.x, affine: &affine, relu: None }, shape(&cache.x), shelf);
        self.norms.push(cache.clone());
        let back = move |all: &mut Composed, dy: X| {
            let (x, sums) = (&cache.x, PerLeaf::new(&all.pass.shards, cache.x.dim()));
            let strip = Strip::of(bn.gamma.len());
            let means = cache.means(strip);
            sums.fill(|range| {
                let means = means.at(range.start);
                let [dy, x] = [&dy, &**x].map(|array| part(array, range.start, range.len()));
                pair_sums(strip, dy, x, means)
            });
            let grads = cache.gradients(sums);
            let backward = cache.backward(bn, &grads);
            cache.of_parameters(&grads).collect(&name, &mut all.gradients);
            collect(&NormGradient { dy: &dy, x, backward: &backward }, shape(x), &all.pass.shelf)
        };
        (y, Box::new(back))
    }

    fn relu<'m>(&mut self, relu: Relu<f32>, x: X) -> (X, Back<'m>) {
        let y = x.mapv(|x| relu.of(x)).into_shared();
        let kept = y.clone();
        let back = move |_: &mut Composed, dy: X| {
            ndarray::Zip::from(&dy).and(&kept).map_collect(|&dy, &y| relu.pull(dy, y)).into_shared()
        };
        (y, Box::new(back))
    }

    fn unit<'m>(&mut self, unit: &'m Unit<f32>, path: &str, x: X) -> (X, Back<'m>) {
        let (h, conv) = self.conv(&unit.conv, join(path, &unit.names[0]), x);
        let (h, norm) = self.norm(&unit.bn, join(path, &unit.names[1]), h);
        let Some(relu) = unit.activation else {
            return (
                h,
                Box::new(move |all, dy| {
                    let dh = norm(all, dy);
                    conv(all, dh)
                }),
            );
        };
        let (y, relu) = self.relu(relu, h);
        let back = move |all: &mut Composed, dy: X| {
            let dh = relu(all, dy);
            let dh = norm(all, dh);
            conv(all, dh)
        };
        (y, Box::new(back))
    }

    fn block<'m>(&mut self, block: &'m Block<f32>, path: &str, x: X) -> (X, Back<'m>) {
        match block {
            Block::Residual(block) => {
                let (mut h, mut branch) = (x.clone(), Vec::new());
                for unit in &block.branch {
                    let (y, back) = self.unit(unit, path, h);
                    h = y;
                    branch.push(back);
                }
                let (s, shortcut): (Option<X>, Option<Back>) = match &block.shortcut {
                    Shortcut::Absent => (None, None),
                    Shortcut::Identity => (Some(x), Some(Box::new(|_, ds| ds))),
                    Shortcut::ZeroPad(layer) => {
                        let (s, dim) = (pool::zero_pad(&self.pass.shelf, layer, &x).unwrap(), x.dim());
                        let back =
                            move |all: &mut Composed, ds: X| pool::zero_pad_backward(&all.pass.shelf, layer, &ds, dim);
                        (Some(s), Some(Box::new(back)))
                    }
                    Shortcut::Projection(unit) => {
                        let (s, back) = self.unit(unit, path, x);
                        (Some(s), Some(back))
                    }
                };
                let sum = match s {
                    Some(s) => (&h + &s).into_shared(),
                    None => h,
                };
                let (y, relu) = self.relu(block.activation, sum);
                let back = move |all: &mut Composed, dy: X| {
                    let ds = relu(all, dy);
                    let through_shortcut = shortcut.map(|back| back(all, ds.clone()));
                    let dx = branch.into_iter().rev().fold(ds, |dh, back| back(all, dh));
                    through_shortcut.map_or(dx.clone(), |other| (&dx + &other).into_shared())
                };
                (y, Box::new(back))
            }
            Block::PreActivation(block) => {
                let (mut h, mut layers, mut shortcut) = (x.clone(), Vec::new(), None);
                for (i, (bn, conv)) in block.norms.iter().zip(&block.convs).enumerate() {
                    let (normal, norm) = self.norm(bn, join(path, &format!("bn{}", i + 1)), h);
                    let (active, relu) = self.relu(block.activation, normal);
                    if let (Some(projection), 0) = (&block.projection, i) {
                        shortcut = Some(self.conv(projection, join(path, "downsample.0"), active.clone()));
                    }
                    let (y, conv) = self.conv(conv, join(path, &format!("conv{}", i + 1)), active);
                    h = y;
                    layers.push((norm, relu, conv));
                }
                let (s, projection) = match (shortcut, &block.zero_pad) {
                    (Some((s, back)), _) => (s, Some(back)),
                    (None, Some(layer)) => (pool::zero_pad(&self.pass.shelf, layer, &x).unwrap(), None),
                    (None, None) => (x.clone(), None),
                };
                let y = (&h + &s).into_shared();
                let back = move |all: &mut Composed, dy: X| {
                    let (mut dx, mut through_projection) = (dy.clone(), projection.map(|back| back(all, dy.clone())));
                    let projected = through_projection.is_some();
                    for (i, (norm, relu, conv)) in layers.into_iter().enumerate().rev() {
                        let mut dh = conv(all, dx);
                        if let (0, Some(other)) = (i, through_projection.take_if(|_| i == 0)) {
                            dh = (&dh + &other).into_shared();
                        }
                        let dh = relu(all, dh);
                        dx = norm(all, dh);
                    }
                    match &block.zero_pad {
                        _ if projected => dx,
                        Some(layer) => {
                            let other = pool::zero_pad_backward(&all.pass.shelf, layer, &dy, x.dim());
                            (&dx + &other).into_shared()
                        }
                        None => (&dx + &dy).into_shared(),
                    }
                };
                (y, Box::new(back))
            }
        }
    }

    /// Logits, and the backward pass from dlogits to dx.
    fn network<'m>(&mut self, model: &'m ResNet<f32>, x: X) -> (Array2<f32>, FromLogits<'m>) {
        let (mut h, stem) = match &model.stem {
            StemLayers::Unit(unit) => self.unit(unit, "", x),
            StemLayers::Conv(conv) => self.conv(conv, "conv1".to_string(), x),
        };
        let mut backs = vec![stem];
        if let Some(layer) = &model.max_pool {
            let (y, cache) = pool::max_pool(&self.pass.shelf, layer, &h).unwrap();
            h = y;
            backs.push(Box::new(move |all, dy| pool::max_pool_backward(&all.pass.shelf, &dy, &cache)));
        }
        for (stage, blocks) in model.stages.iter().enumerate() {
            for (index, block) in blocks.iter().enumerate() {
                let (y, back) = self.block(block, &block_path(stage, index), h);
                h = y;
                backs.push(back);
            }
        }
        if let Some(bn) = &model.final_norm {
            let (y, norm) = self.norm(bn, "bn1".to_string(), h);
            let (y, relu) = self.relu(Relu::new(), y);
            h = y;
            backs.push(Box::new(move |all, dy| {
                let dh = relu(all, dy);
                norm(all, dh)
            }));
        }
        let (features, _) = GlobalAvgPool.forward(&h).unwrap();
        let (logits, fc) = linear::forward(self.pass, &model.fc, &features).unwrap();
        let last = h.dim();
        let back = move |all: &mut Composed, dlogits: &Array2<f32>| {
            let (dfeatures, grads) = linear::backward(all.pass, &model.fc, dlogits, &fc).unwrap();
            grads.collect("fc", &mut all.gradients);
            let dh = pool::global_average_backward(&all.pass.shelf, &dfeatures, last);
            backs.into_iter().rev().fold(dh, |dy, back| back(all, dy))
        };
        (logits, Box::new(back))
    }
}

fn bits<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    values.into_iter().map(|value| value.to_bits()).collect()
}

fn fused_equals_composed(
    architecture: &Architecture,
    [n, shards, group]: [usize; 3],
    size: [usize; 2],
    algorithm: Algorithm,
) {
    let (name, algorithm_name) = (&architecture.name, algorithm.name());
    let case = format!("{name}, {n} images of {size:?} in {shards} shards and groups of {group}, {algorithm_name}");
    let mut model = ResNet::<f32>::new(architecture, 1).unwrap();
    for (i, bn) in model.norms_mut().into_iter().enumerate() {
        bn.group = NonZeroUsize::new(group);
        bn.beta.iter_mut().enumerate().for_each(|(c, beta)| *beta = ((i + c) % 5) as f32 * 0.1 - 0.2);
        bn.gamma.iter_mut().enumerate().for_each(|(c, gamma)| *gamma = 1.5 - ((i + c) % 3) as f32);
    }
    let mut rng = stream(3, Purpose::Verify, &[]);
    let shape = (n, size[0], size[1], 3);
    let x = Array4::from_shape_simple_fn(shape, || rng.random_range(-1.0f32..1.0)).into_shared();
    let targets: Vec<usize> = (0..n).map(|i| i % architecture.classes).collect();
    let engine = Engine::new(algorithm);
    let shards = Shards::new(n, shards, Arc::new(Alone));

    let (logits, cache) = engine.forward_shards(&model, &x, &shards).unwrap();
    let shards = shards.in_groups(NonZeroUsize::new(group));
    let mut composed =
        Composed { pass: &engine.pass(&shards), training: true, gradients: Gradients::new(), norms: Vec::new() };
    let (expected, back) = composed.network(&model, x.clone());
    assert!(bits(&logits) == bits(&expected), "logits of {case}");

    let loss = SoftmaxCrossEntropy::new();
    let dlogits = loss.backward(&loss.forward(&logits, &targets).unwrap().1);
    let mut moved = model.clone();
    engine.update_running_statistics(&mut moved, &cache);
    let (dx, gradients) = engine.backward(&model, &dlogits, cache).unwrap();
    assert!(bits(&dx) == bits(&back(&mut composed, &dlogits)), "dx of {case}");
    let expected = composed.gradients.in_order_of(&model);
    assert_eq!(gradients.len(), expected.len());
    for ((name, gradient), (other, expected)) in gradients.iter().zip(expected.iter()) {
        assert!(name == other && bits(gradient) == bits(expected), "{name} of {case}");
    }
    let mut expected = model.clone();
    let norms = std::mem::take(&mut composed.norms);
    norm::update(&shards, expected.norms_mut().into_iter().zip(&norms).collect());
    let all = |model: &ResNet<f32>| {
        let mut all = Vec::new();
        model.visit("", &mut |_, _, tensor| all.extend(bits(tensor.iter())));
        all
    };
    assert!(all(&moved) == all(&expected), "running statistics of {case}");

    let logits = engine.predict(&moved, &x).unwrap();
    let mut composed = Composed {
        pass: &engine.pass(&Shards::one(n)),
        training: false,
        gradients: Gradients::new(),
        norms: Vec::new(),
    };
    assert!(bits(&logits) == bits(&composed.network(&moved, x).0), "predictions of {case}");
}

/// The first stages of a network, each with its first block and one more: the other blocks and stages repeat them, the stages
/// with more channels.
fn short(name: &str) -> Architecture {
    let mut architecture = Architecture::by_name(name).unwrap().with_classes(10);
    architecture.stages.truncate(if architecture.stages[0].channels < 64 { 3 } else { 2 });
    architecture.stages.iter_mut().for_each(|stage| stage.blocks = stage.blocks.min(2));
    architecture
}

/// Identity, option A, projections, no shortcut; basic blocks, bottlenecks, both orders, groups; a max pool; sizes at
/// which leaves, chunks and tiles end at different positions; batches of one.
#[test]
fn fused_passes_equal_their_composition_bit_for_bit() {
    use Algorithm::{Auto, Gemm, Indirect, Winograd2, Winograd4};
    for (name, images, size, algorithm) in [
        ("resnet8", [7, 1, 0], [32, 32], Auto),
        ("resnet8", [1, 1, 0], [11, 13], Auto),
        ("resnet8", [5, 1, 0], [20, 20], Winograd4),
        ("resnet8", [9, 1, 0], [18, 18], Winograd2),
        ("resnet8", [3, 1, 0], [17, 17], Gemm),
        ("plain8", [6, 1, 0], [12, 12], Indirect),
        ("resnet50-cifar", [3, 1, 0], [9, 9], Auto),
        ("resnet18", [2, 1, 0], [40, 40], Auto),
        ("resnet34-as-written", [2, 1, 0], [9, 11], Auto),
        ("resnext50_32x4d", [2, 1, 0], [33, 40], Auto),
        ("preact110", [4, 1, 0], [16, 16], Auto),
        ("preact164", [3, 1, 0], [9, 15], Auto),
        // Shards of 3 and 4 images, of several leaves and of less than one; more shards than images.
        ("resnet8", [7, 2, 0], [32, 32], Auto),
        ("resnet8", [13, 4, 0], [10, 12], Winograd4),
        ("resnet8", [9, 4, 0], [11, 9], Gemm),
        ("resnet18", [5, 2, 0], [40, 40], Indirect),
        ("resnet50-cifar", [3, 8, 0], [9, 9], Auto),
        ("preact110", [4, 2, 0], [16, 16], Auto),
        // Groups that end inside what a chunk of a convolution would be, of one image, of nearly equal length.
        ("resnet8", [12, 2, 3], [32, 32], Auto),
        ("resnet8", [8, 1, 2], [10, 12], Winograd4),
        ("resnet8", [9, 1, 3], [11, 9], Gemm),
        ("resnet18", [4, 2, 1], [40, 40], Indirect),
        ("resnet50-cifar", [6, 1, 2], [9, 9], Auto),
        ("preact164", [5, 1, 2], [9, 9], Auto),
    ] {
        fused_equals_composed(&short(name), images, size, algorithm);
    }
    // So many channels that the weight is transformed in bands, each used while it is in the cache.
    let mut wide = short("resnet18-cifar");
    (wide.stages[1].channels, wide.stages[1].blocks) = (512, 1);
    fused_equals_composed(&wide, [3, 1, 0], [14, 14], Auto);
}

#[test]
fn a_convolution_with_bias_before_a_batch_norm_is_rejected() {
    let mut model = ResNet::<f32>::new(&Architecture::by_name("resnet8").unwrap(), 1).unwrap();
    model.convs_mut()[2].bias = Some(ndarray::Array1::zeros(16));
    let x = Array4::zeros((2, 8, 8, 3)).into_shared();
    let message = Engine::default().forward(&model, &x).map(drop).unwrap_err().to_string();
    assert!(message.contains("`layer1.0.conv2.bias`") && message.contains("use the reference"), "{message}");
}

/// The bounds of a batch norm in training, for each group of images by itself; the gradients of gamma and beta are sums over
/// the groups.
fn bounds_of_groups(bn: &BatchNorm2d<f32>, x: &X, dy: &X) -> BatchNormBounds {
    let (u, plain) = (f32::UNIT_ROUNDOFF, BatchNorm2d { group: None, ..bn.clone() });
    let Some(group) = bn.group else { return bounds::batch_norm(&plain, x, dy, Mode::Train, u) };
    let [y, dx] = [(); 2].map(|()| Array4::zeros(x.dim()));
    let [gamma, beta] = [(); 2].map(|()| Array1::zeros(bn.gamma.len()));
    let mut bounds = BatchNormBounds { y, dx, gamma, beta };
    for images in groups(0..x.dim().0, group) {
        let images = s![images, .., .., ..];
        let [x, dy] = [x, dy].map(|array| array.slice(images).to_owned().into_shared());
        let own = bounds::batch_norm(&plain, &x, &dy, Mode::Train, u);
        bounds.y.slice_mut(images).assign(&own.y);
        bounds.dx.slice_mut(images).assign(&own.dx);
        // Each is added in a tree of at most three levels.
        let (_, grads) = plain.backward(&dy, &plain.forward(&x, Mode::Train).unwrap().1).unwrap();
        let added = |gradient: &Array1<f32>| gradient.mapv(|g| 4.0 * u * f64::from(g.abs()));
        bounds.gamma = bounds.gamma + own.gamma + added(&grads.gamma);
        bounds.beta = bounds.beta + own.beta + added(&grads.beta);
    }
    bounds
}

/// The batch norm's primitives against the reference in `f64`, within the a-priori bounds of `verify`. The fused passes
/// share their arithmetic with the primitives, so the tests above cannot detect a fault in it.
#[test]
fn batch_norm_is_within_its_bound_of_the_reference() {
    for (n, h, w, c, mean, group) in [
        (3, 5, 7, 4, 0.0, 0),
        (2, 20, 15, 3, 0.0, 0),
        (9, 7, 7, 16, 0.0, 0),
        (5, 8, 8, 130, 0.0, 0),
        (3, 16, 17, 5, 30.0, 0),
        (9, 7, 7, 16, 0.0, 3),
        (4, 16, 17, 5, 30.0, 2),
        (5, 8, 8, 3, 0.0, 2),
    ] {
        let mut rng = stream(5, Purpose::Verify, &[c as u64]);
        let mut draw = |shape: [usize; 4]| Array4::from_shape_simple_fn(shape, || rng.random_range(-2.0f32..2.0));
        let (x, dy) = ((draw([n, h, w, c]) + mean).into_shared(), draw([n, h, w, c]).into_shared());
        let group = NonZeroUsize::new(group);
        let mut bn = BatchNorm2d::<f32> { group, ..BatchNorm2d::new(c) };
        bn.gamma.iter_mut().enumerate().for_each(|(c, gamma)| *gamma = 1.5 - (c % 3) as f32);
        bn.beta.iter_mut().enumerate().for_each(|(c, beta)| *beta = (c % 5) as f32 * 0.1 - 0.2);
        bn.running_mean.fill(0.25);
        bn.running_var.fill(1.75);
        let exact = BatchNorm2d::<f64> {
            gamma: bn.gamma.mapv(f64::from),
            beta: bn.beta.mapv(f64::from),
            running_mean: bn.running_mean.mapv(f64::from),
            running_var: bn.running_var.mapv(f64::from),
            eps: f64::from(bn.eps),
            momentum: f64::from(bn.momentum),
            group,
            ..BatchNorm2d::new(c)
        };
        let wide = |x: &X| x.mapv(f64::from).into_shared();
        let within = |what: &str, got: &X, expected: &Activation<f64>, bound: &Array4<f64>| {
            let comparison = compare(got, expected, Tolerance::Elementwise(bound.view().into_dyn()));
            comparison.assert_passed(&format!("{what} of {n} images of {h}x{w}x{c}, mean {mean}, groups {group:?}"));
        };
        let engine = Engine::default();
        let shards = Shards::one(n).in_groups(group);
        let whole = engine.pass(&shards);
        let pass = |training| Composed { pass: &whole, training, gradients: Gradients::new(), norms: Vec::new() };

        let mut composed = pass(true);
        let (y, back) = composed.norm(&bn, "bn".to_string(), x.clone());
        let dx = back(&mut composed, dy.clone());
        let (expected, cache) = exact.forward(&wide(&x), Mode::Train).unwrap();
        let (expected_dx, grads) = exact.backward(&wide(&dy), &cache).unwrap();
        let bound = bounds_of_groups(&bn, &x, &dy);
        within("y", &y, &expected, &bound.y);
        within("dx", &dx, &expected_dx, &bound.dx);
        for (name, expected, bound) in
            [("bn.weight", &grads.gamma, &bound.gamma), ("bn.bias", &grads.beta, &bound.beta)]
        {
            let got = composed.gradients.get(name).unwrap();
            compare(got, expected, Tolerance::Elementwise(bound.view().into_dyn())).assert_passed(name);
        }
        // running ← 0.9 running + 0.1 batch: the error of the moments, and a few roundings.
        let (mut moved, mut exactly) = (bn.clone(), exact.clone());
        norm::update(&shards, vec![(&mut moved, &composed.norms[0])]);
        exactly.update_running_statistics(&cache);
        let tolerance = 2.0 * bounds::gamma(n * h * w + 64, f32::UNIT_ROUNDOFF) * (f64::from(mean) + 4.0).powi(2);
        for (got, expected) in
            [(&moved.running_mean, &exactly.running_mean), (&moved.running_var, &exactly.running_var)]
        {
            assert!(got.iter().zip(expected).all(|(got, expected)| (f64::from(*got) - expected).abs() <= tolerance));
        }

        let (y, _) = pass(false).norm(&bn, "bn".to_string(), x.clone());
        let (expected, _) = exact.forward(&wide(&x), Mode::Eval).unwrap();
        within("y in evaluation", &y, &expected, &bounds::batch_norm(&bn, &x, &dy, Mode::Eval, f32::UNIT_ROUNDOFF).y);
    }
}

/// Layers that only copy values, or add whole numbers, against the reference, exactly.
#[test]
fn pools_and_the_zero_padded_shortcut_equal_the_reference_exactly() {
    let engine = Engine::default();
    let whole = |shape, seed: u64| {
        let mut rng = stream(seed, Purpose::Verify, &[]);
        Array4::from_shape_simple_fn(shape, || rng.random_range(-3..=3i32) as f32).into_shared()
    };
    for (kernel, stride, padding, size) in [
        ([3, 3], [2, 2], [1, 1], (3, 9, 8, 5)),
        ([3, 3], [1, 1], [1, 1], (2, 7, 6, 4)),
        ([2, 3], [3, 1], [0, 1], (4, 7, 9, 3)),
    ] {
        // Whole numbers from −3 to 3: many ties, and overlapping windows add in dx.
        let (layer, mut x) = (MaxPool2d::new(kernel, stride, padding), whole(size, 1));
        x[[1, 2, 3, 1]] = f32::NAN;
        let (y, cache) = pool::max_pool(&engine.shelf, &layer, &x).unwrap();
        let (expected, reference) = layer.forward(&x).unwrap();
        assert!(bits(&y) == bits(&expected) && cache.argmax == reference.argmax());
        let dy = whole(y.dim(), 2);
        let dx = pool::max_pool_backward(&engine.shelf, &dy, &cache);
        assert_eq!(dx, layer.backward(&dy, &reference).unwrap());
    }
    for (stride, c_out, size) in [(2, 9, (3, 7, 6, 4)), (1, 4, (2, 3, 3, 4)), (3, 8, (2, 8, 5, 3))] {
        let (layer, x) = (ZeroPadShortcut { stride, c_out }, whole(size, 3));
        let y = pool::zero_pad(&engine.shelf, &layer, &x).unwrap();
        let (expected, cache) = layer.forward(&x).unwrap();
        assert_eq!(y, expected);
        let dy = whole(y.dim(), 4);
        let dx = pool::zero_pad_backward(&engine.shelf, &layer, &dy, x.dim());
        assert_eq!(dx, layer.backward(&dy, &cache).unwrap());
    }
    let x = whole((3, 4, 4, 5), 5);
    let (y, cache) = GlobalAvgPool.forward(&x).unwrap();
    let dy = y.mapv(|y| (16.0 * y).round());
    let dx = pool::global_average_backward(&engine.shelf, &dy, x.dim());
    assert_eq!(dx, GlobalAvgPool.backward(&dy, &cache).unwrap());
}
