//! The network: stem, stages of residual blocks, global average pool, linear layer.
//!
//! ```text
//! x (N, H, W, 3)
//! h = stem(x)                    convolution, batch norm, ReLU; a max pool if the stem has one
//! h = block(h)                   for every block of every stage
//! [h = relu(bn(h))]              pre-activation networks only: their last block ends in a sum
//! f = mean of h over the pixels  (N, features)
//! logits = f · weightᵀ + bias    (N, classes)
//! ```
//!
//! `forward` and `backward` change nothing. A complete training step is:
//!
//! ```
//! use ndarray::Array4;
//! use resnet_by_hand::layers::{Mode, SoftmaxCrossEntropy};
//! use resnet_by_hand::model::{Architecture, ResNet};
//!
//! let mut model = ResNet::<f64>::new(&Architecture::by_name("resnet8")?, 0)?;
//! let images = Array4::from_shape_fn((2, 8, 8, 3), |(n, h, w, c)| ((n + 2 * h + 3 * w + 5 * c) % 7) as f64).into_shared();
//! let loss_layer = SoftmaxCrossEntropy::new();
//!
//! let (logits, cache) = model.forward(&images, Mode::Train)?;
//! let (loss, loss_cache) = loss_layer.forward(&logits, &[3, 7])?;
//! model.update_running_statistics(&cache);
//! let (_, gradients) = model.backward(&loss_layer.backward(&loss_cache), cache)?;
//! assert_eq!(gradients.get("conv1.weight").unwrap().shape(), [16, 3, 3, 3]);
//! // … and optim::Sgd::step(&mut model, &gradients, lr).
//! # assert!(loss > 0.0);
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use super::architecture::{Architecture, BlockKind, BottleneckStride, Order, ShortcutOption, Stem};
use super::block::{Block, BlockCache, ResidualBlock};
use super::pre_activation::PreActivationBlock;
use super::shortcut::Shortcut;
use super::unit::{Unit, UnitCache, conv};
use super::{Cost, init};
use crate::layers::batch_norm::BatchNorm2dCache;
use crate::layers::conv2d::Conv2dCache;
use crate::layers::linear::LinearCache;
use crate::layers::pool::{GlobalAvgPoolCache, MaxPool2dCache};
use crate::layers::relu::ReluCache;
use crate::layers::{BatchNorm2d, Conv2d, GlobalAvgPool, Linear, MaxPool2d, Mode, Relu, ZeroPadShortcut};
use crate::parameters::{Gradients, Parameters, Role, join};
use crate::{Activation, Error, Result, Scalar};
use ndarray::{Array1, Array2, ArrayViewD, ArrayViewMutD};

/// A residual network; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct ResNet<T> {
    architecture: Architecture,
    /// The layers before the first block.
    pub stem: StemLayers<T>,
    /// The stem's max pool, if there is one.
    pub max_pool: Option<MaxPool2d>,
    /// The blocks of each stage: `layer1`, `layer2`, … in the state dict.
    pub stages: Vec<Vec<Block<T>>>,
    /// The batch norm after the last block of a pre-activation network: `bn1` in the state dict.
    pub final_norm: Option<BatchNorm2d<T>>,
    /// The classifier: `fc` in the state dict.
    pub fc: Linear<T>,
}

/// The first layers of a network.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has few of them, and they own far larger arrays")]
pub enum StemLayers<T> {
    /// `conv1`, `bn1`, ReLU.
    Unit(Unit<T>),
    /// `conv1` alone: the blocks of a pre-activation network begin with a batch norm.
    Conv(Conv2d<T>),
}

#[derive(Clone, Debug)]
enum StemCache<T> {
    Unit(Box<UnitCache<T>>),
    Conv(Conv2dCache<T>),
}

/// What [`ResNet::backward`] needs from the forward pass. Backward consumes it, so the activations of a block are freed
/// as soon as its gradient has been computed.
#[derive(Clone, Debug)]
pub struct ResNetCache<T> {
    stem: StemCache<T>,
    max_pool: Option<MaxPool2dCache>,
    stages: Vec<Vec<BlockCache<T>>>,
    final_norm: Option<(BatchNorm2dCache<T>, ReluCache<T>)>,
    pool: GlobalAvgPoolCache,
    fc: LinearCache<T>,
}

impl<T: Scalar> ResNet<T> {
    /// A freshly initialised network ([`init`]); the same seed gives the same values, in `f32` those of `f64` rounded.
    ///
    /// # Errors
    /// If the architecture cannot be built.
    pub fn new(architecture: &Architecture, seed: u64) -> Result<Self> {
        let mut model = Self::zeroed(architecture)?;
        init::initialise(&mut model, seed);
        Ok(model)
    }

    /// The network with all weights 0, for loading weights or for counting.
    ///
    /// # Errors
    /// If the architecture cannot be built.
    pub fn zeroed(architecture: &Architecture) -> Result<Self> {
        architecture.check()?;
        let channels = architecture.stem_channels;
        let (kernel, stride, max_pool) = match architecture.stem {
            Stem::ImageNet => (7, 2, Some(MaxPool2d::new([3, 3], [2, 2], [1, 1]))),
            Stem::Cifar => (3, 1, None),
            Stem::Cifar7x7 => (7, 1, Some(MaxPool2d::new([3, 3], [1, 1], [1, 1]))),
        };
        let pre_activation = architecture.order == Order::PreActivation;
        let stem = if pre_activation {
            StemLayers::Conv(conv(3, channels, kernel, stride, 1))
        } else {
            StemLayers::Unit(Unit::new(["conv1", "bn1"], [3, channels], kernel, stride, 1).with_relu())
        };
        let mut c_in = channels;
        let stages = architecture.stages.iter().map(|stage| {
            let width = architecture.inner_width(stage);
            let c_out = stage.channels * architecture.block.expansion();
            let blocks = (0..stage.blocks).map(|index| {
                let shape = BlockShape { c_in, width, c_out, stride: if index == 0 { stage.stride } else { 1 }, index };
                c_in = c_out;
                build_block(architecture, shape)
            });
            blocks.collect::<Result<Vec<_>>>()
        });
        let stages = stages.collect::<Result<Vec<_>>>()?;
        let features = architecture.features();
        Ok(ResNet {
            architecture: architecture.clone(),
            stem,
            max_pool,
            stages,
            final_norm: pre_activation.then(|| BatchNorm2d::new(features)),
            fc: Linear {
                weight: Array2::zeros((architecture.classes, features)),
                bias: Array1::zeros(architecture.classes),
            },
        })
    }

    /// The architecture of the network.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Logits `(N, classes)` for images `x (N, H, W, 3)`, and the cache.
    ///
    /// # Errors
    /// If `x` does not have three channels, an image is too small for the strides, or a batch norm in training mode
    /// gets only one value per channel.
    pub fn forward(&self, x: &Activation<T>, mode: Mode) -> Result<(Array2<T>, ResNetCache<T>)> {
        let (mut h, stem, max_pool) = self.forward_stem(x, mode)?;
        let mut stages = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            let mut caches = Vec::with_capacity(stage.len());
            for block in stage {
                let (y, cache) = block.forward(&h, mode)?;
                h = y;
                caches.push(cache);
            }
            stages.push(caches);
        }
        let (h, final_norm) = self.forward_final_norm(h, mode)?;
        let (features, pool) = GlobalAvgPool.forward(&h)?;
        let (logits, fc) = self.fc.forward(&features)?;
        Ok((logits, ResNetCache { stem, max_pool, stages, final_norm, pool, fc }))
    }

    /// `(dx, gradients)` for `dlogits`, the gradient of the loss with respect to the logits: forward's steps in reverse.
    ///
    /// # Errors
    /// If the shape of `dlogits` is not that of the logits.
    pub fn backward(&self, dlogits: &Array2<T>, cache: ResNetCache<T>) -> Result<(Activation<T>, Gradients<T>)> {
        let (dx, gradients) = self.backward_to_stem(dlogits, cache, true)?;
        Ok((dx.expect("requested above"), gradients))
    }

    /// Only the gradients of the parameters: training needs no others, and this saves the gradient of the images.
    ///
    /// # Errors
    /// If the shape of `dlogits` is not that of the logits.
    pub fn parameter_gradients(&self, dlogits: &Array2<T>, cache: ResNetCache<T>) -> Result<Gradients<T>> {
        self.backward_to_stem(dlogits, cache, false).map(|(_, gradients)| gradients)
    }

    fn backward_to_stem(
        &self,
        dlogits: &Array2<T>,
        cache: ResNetCache<T>,
        input_gradient: bool,
    ) -> Result<(Option<Activation<T>>, Gradients<T>)> {
        let ResNetCache { stem, max_pool, stages, final_norm, pool, fc } = cache;
        let mut gradients = Gradients::new();
        // logits = fc(f), f = mean(h)
        let (dfeatures, grads) = self.fc.backward(dlogits, &fc)?;
        grads.collect("fc", &mut gradients);
        let mut dh = GlobalAvgPool.backward(&dfeatures, &pool)?;
        // [h = relu(bn(h))]
        if let (Some(bn), Some((bn_cache, relu_cache))) = (&self.final_norm, &final_norm) {
            let (dx, grads) = bn.backward(&Relu::new().backward(&dh, relu_cache)?, bn_cache)?;
            grads.collect("bn1", &mut gradients);
            dh = dx;
        }
        drop(final_norm);
        // h = block(h), last block first; each cache is dropped as soon as it is used
        for (index, (stage, caches)) in self.stages.iter().zip(stages).enumerate().rev() {
            for (i, (block, cache)) in stage.iter().zip(caches).enumerate().rev() {
                let (dx, grads) = block.backward(&dh, &cache)?;
                grads.collect(block, &block_path(index, i), &mut gradients);
                dh = dx;
            }
        }
        // h = max_pool(stem(x))
        if let (Some(pool), Some(cache)) = (&self.max_pool, &max_pool) {
            dh = pool.backward(&dh, cache)?;
        }
        let dx = match (&self.stem, &stem) {
            (StemLayers::Unit(unit), StemCache::Unit(cache)) => {
                let (dx, grads) = if input_gradient {
                    let (dx, grads) = unit.backward(&dh, cache)?;
                    (Some(dx), grads)
                } else {
                    (None, unit.parameter_gradients(&dh, cache)?)
                };
                grads.collect(unit, "", &mut gradients);
                dx
            }
            (StemLayers::Conv(conv), StemCache::Conv(cache)) => {
                conv.parameter_gradients(&dh, cache)?.collect("conv1", &mut gradients);
                input_gradient.then(|| conv.input_gradient(&dh, cache)).transpose()?
            }
            _ => panic!("the cache belongs to a network of another kind"),
        };
        Ok((dx, gradients.in_order_of(self)))
    }

    /// Logits in evaluation mode.
    ///
    /// # Errors
    /// As [`ResNet::forward`].
    pub fn predict(&self, x: &Activation<T>) -> Result<Array2<T>> {
        Ok(self.forward(x, Mode::Eval)?.0)
    }

    fn forward_stem(&self, x: &Activation<T>, mode: Mode) -> Result<StemResult<T>> {
        check_channels(x)?;
        let (h, stem) = match &self.stem {
            StemLayers::Unit(unit) => {
                let (h, cache) = unit.forward(x, mode)?;
                (h, StemCache::Unit(Box::new(cache)))
            }
            StemLayers::Conv(conv) => {
                let (h, cache) = conv.forward(x)?;
                (h, StemCache::Conv(cache))
            }
        };
        match &self.max_pool {
            Some(pool) => {
                let (h, cache) = pool.forward(&h)?;
                Ok((h, stem, Some(cache)))
            }
            None => Ok((h, stem, None)),
        }
    }

    fn forward_final_norm(&self, h: Activation<T>, mode: Mode) -> Result<FinalNormResult<T>> {
        match &self.final_norm {
            Some(bn) => {
                let (h, bn_cache) = bn.forward(&h, mode)?;
                let (h, relu_cache) = Relu::new().forward(&h);
                Ok((h, Some((bn_cache, relu_cache))))
            }
            None => Ok((h, None)),
        }
    }

    /// Updates the running statistics of every batch norm with those of the batch of a training pass.
    pub fn update_running_statistics(&mut self, cache: &ResNetCache<T>) {
        if let (StemLayers::Unit(unit), StemCache::Unit(cache)) = (&mut self.stem, &cache.stem) {
            unit.update_running_statistics(cache);
        }
        for (block, cache) in self.stages.iter_mut().flatten().zip(cache.stages.iter().flatten()) {
            block.update_running_statistics(cache);
        }
        if let (Some(bn), Some((cache, _))) = (&mut self.final_norm, &cache.final_norm) {
            bn.update_running_statistics(cache);
        }
    }

    /// Sets γ = 0 in the last batch norm of every block, so that every block is initially its shortcut (Goyal et al.
    /// 2017, section 5.1).
    ///
    /// # Errors
    /// For pre-activation networks, whose blocks do not end in a batch norm.
    pub fn zero_init_residual(&mut self) -> Result<()> {
        for block in self.stages.iter_mut().flatten() {
            match block.last_norm_of_branch() {
                Some(bn) => bn.gamma.fill(T::zero()),
                None => {
                    let message = format!("`{}` has blocks that do not end in a batch norm", self.architecture.name);
                    return Err(Error::argument("zero_init_residual", message));
                }
            }
        }
        Ok(())
    }

    /// Every convolution in forward order, e.g. to count or to change them.
    pub fn convs_mut(&mut self) -> Vec<&mut Conv2d<T>> {
        let stem = match &mut self.stem {
            StemLayers::Unit(unit) => &mut unit.conv,
            StemLayers::Conv(conv) => conv,
        };
        let blocks = self.stages.iter_mut().flatten().flat_map(Block::convs_mut);
        std::iter::once(stem).chain(blocks).collect()
    }

    /// Every batch norm in forward order.
    pub fn norms(&self) -> Vec<&BatchNorm2d<T>> {
        let stem = match &self.stem {
            StemLayers::Unit(unit) => Some(&unit.bn),
            StemLayers::Conv(_) => None,
        };
        let blocks = self.stages.iter().flatten().flat_map(Block::norms);
        stem.into_iter().chain(blocks).chain(&self.final_norm).collect()
    }

    /// Every batch norm in forward order, e.g. to set its momentum.
    pub fn norms_mut(&mut self) -> Vec<&mut BatchNorm2d<T>> {
        let stem = match &mut self.stem {
            StemLayers::Unit(unit) => Some(&mut unit.bn),
            StemLayers::Conv(_) => None,
        };
        let blocks = self.stages.iter_mut().flatten().flat_map(Block::norms_mut);
        stem.into_iter().chain(blocks).chain(&mut self.final_norm).collect()
    }

    /// Cost of a forward pass over `batch` images of `[height, width]`.
    ///
    /// # Errors
    /// If an image is too small for the strides.
    pub fn cost(&self, batch: usize, [height, width]: [usize; 2]) -> Result<Cost> {
        let mut cost = Cost { parameters: self.parameter_count() as u64, ..Cost::default() };
        let x = [batch, height, width, 3];
        cost.kept(x);
        let mut h = match &self.stem {
            StemLayers::Unit(unit) => cost.unit(unit, x)?,
            StemLayers::Conv(conv) => cost.conv(conv, x)?,
        };
        if let Some(pool) = &self.max_pool {
            h = pool.output_shape(&h)?;
            cost.kept(h); // the pooled values …
            cost.kept(h); // … and the positions of the maxima
        }
        for block in self.stages.iter().flatten() {
            h = block.cost(h, &mut cost)?;
        }
        if self.final_norm.is_some() {
            cost.kept(h);
        }
        cost.multiply_adds += (batch * self.fc.weight.len()) as u64;
        Ok(cost)
    }
}

pub(crate) fn check_channels<T: Scalar>(x: &Activation<T>) -> Result<()> {
    match x.shape()[3] {
        3 => Ok(()),
        _ => Err(Error::shape("resnet", "x", "three channels (N, H, W, 3)", x.shape())),
    }
}

type StemResult<T> = (Activation<T>, StemCache<T>, Option<MaxPool2dCache>);
type FinalNormResult<T> = (Activation<T>, Option<(BatchNorm2dCache<T>, ReluCache<T>)>);

/// The position of a block and its input and output.
struct BlockShape {
    c_in: usize,
    width: usize,
    c_out: usize,
    stride: usize,
    /// Its index in its stage.
    index: usize,
}

fn build_block<T: Scalar>(architecture: &Architecture, shape: BlockShape) -> Result<Block<T>> {
    let BlockShape { c_in, width, c_out, stride, index } = shape;
    // (input channels, output channels, kernel, stride, groups) of each convolution of the branch
    let (first, second) = match architecture.bottleneck_stride {
        BottleneckStride::Conv3x3 => (1, stride),
        BottleneckStride::Conv1x1 => (stride, 1),
    };
    let branch = match architecture.block {
        BlockKind::Basic => vec![(c_in, c_out, 3, stride, 1), (c_out, c_out, 3, 1, 1)],
        BlockKind::Bottleneck => {
            vec![(c_in, width, 1, first, 1), (width, width, 3, second, architecture.groups), (width, c_out, 1, 1, 1)]
        }
    };
    let changes = stride != 1 || c_in != c_out;
    let projects = match architecture.shortcut {
        ShortcutOption::Absent | ShortcutOption::A => false,
        ShortcutOption::B => changes,
        ShortcutOption::EveryStage => changes || index == 0,
        ShortcutOption::C => true,
    };
    let zero_pads = changes && architecture.shortcut == ShortcutOption::A;
    if zero_pads && c_in > c_out {
        let message = format!("option A cannot reduce the channels from {c_in} to {c_out}");
        return Err(Error::argument("architecture", message));
    }
    let zero_pad = zero_pads.then_some(ZeroPadShortcut { stride, c_out });

    if architecture.order == Order::PreActivation {
        if architecture.shortcut == ShortcutOption::Absent {
            return Err(Error::argument("architecture", "a pre-activation block must have a shortcut"));
        }
        return Ok(Block::PreActivation(PreActivationBlock {
            norms: branch.iter().map(|&(c_in, ..)| BatchNorm2d::new(c_in)).collect(),
            convs: branch
                .iter()
                .map(|&(c_in, c_out, k, stride, groups)| conv(c_in, c_out, k, stride, groups))
                .collect(),
            projection: projects.then(|| conv(c_in, c_out, 1, stride, 1)),
            zero_pad,
            activation: Relu::new(),
        }));
    }
    let last = branch.len() - 1;
    let units = branch.into_iter().enumerate().map(|(i, (c_in, c_out, kernel, stride, groups))| {
        let names = [format!("conv{}", i + 1), format!("bn{}", i + 1)];
        let unit = Unit::new([&names[0], &names[1]], [c_in, c_out], kernel, stride, groups);
        if i == last { unit } else { unit.with_relu() }
    });
    let shortcut = match (architecture.shortcut, zero_pad) {
        (ShortcutOption::Absent, _) => Shortcut::Absent,
        (_, Some(layer)) => Shortcut::ZeroPad(layer),
        _ if projects => {
            Shortcut::Projection(Box::new(Unit::new(["downsample.0", "downsample.1"], [c_in, c_out], 1, stride, 1)))
        }
        _ => Shortcut::Identity,
    };
    Ok(Block::Residual(ResidualBlock { branch: units.collect(), shortcut, activation: Relu::new() }))
}

/// `layer2.0`: torchvision counts stages from 1 and blocks from 0.
pub(crate) fn block_path(stage: usize, block: usize) -> String {
    format!("layer{}.{block}", stage + 1)
}

impl<T: Scalar> Parameters<T> for ResNet<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        match &self.stem {
            StemLayers::Unit(unit) => unit.visit(path, visitor),
            StemLayers::Conv(conv) => conv.visit(&join(path, "conv1"), visitor),
        }
        for (index, stage) in self.stages.iter().enumerate() {
            for (i, block) in stage.iter().enumerate() {
                block.visit(&join(path, &block_path(index, i)), visitor);
            }
        }
        if let Some(bn) = &self.final_norm {
            bn.visit(&join(path, "bn1"), visitor);
        }
        self.fc.visit(&join(path, "fc"), visitor);
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        match &mut self.stem {
            StemLayers::Unit(unit) => unit.visit_mut(path, visitor),
            StemLayers::Conv(conv) => conv.visit_mut(&join(path, "conv1"), visitor),
        }
        for (index, stage) in self.stages.iter_mut().enumerate() {
            for (i, block) in stage.iter_mut().enumerate() {
                block.visit_mut(&join(path, &block_path(index, i)), visitor);
            }
        }
        if let Some(bn) = &mut self.final_norm {
            bn.visit_mut(&join(path, "bn1"), visitor);
        }
        self.fc.visit_mut(&join(path, "fc"), visitor);
    }
}
