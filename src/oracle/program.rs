//! A network taken apart into its steps.
//!
//! [`ResNet::forward`] hides its intermediate values, as it should: training needs none of them by name. Somebody who looks
//! for the first wrong number needs them all. A [`Program`] is the same computation written as a list, one step a layer,
//!
//! ```text
//! value 0 = x        value i + 1 = layer_i(value a [, value b])        a, b ≤ i
//! ```
//!
//! so that backward is the list read from its end, with one rule (a value that was used twice receives the sum of two
//! gradients) in place of the hand-written order of `model/`. The layers are the same, so the two must agree to the bit;
//! that they do is a test of both (`tests/oracle.rs`).
//!
//! Steps are named as torchvision names its modules. A module that is called again, as the one ReLU of a torchvision
//! block, gets `#2`, `#3`; an addition is no module in PyTorch and is called `add`.

use crate::layers::batch_norm::{BatchNorm2dCache, BatchNorm2dGrads};
use crate::layers::conv2d::{Conv2dCache, Conv2dGrads};
use crate::layers::linear::{LinearCache, LinearGrads};
use crate::layers::pool::{AvgPool2dCache, GlobalAvgPoolCache, MaxPool2dCache};
use crate::layers::relu::ReluCache;
use crate::layers::zero_pad_shortcut::ZeroPadShortcutCache;
use crate::layers::{
    AvgPool2d, BatchNorm2d, Conv2d, Conv2dAlgorithm, GlobalAvgPool, Linear, MaxPool2d, Mode, Relu, ZeroPadShortcut,
};
use crate::model::resnet::StemLayers;
use crate::model::shortcut::Shortcut;
use crate::model::unit::Unit;
use crate::model::{add, Block, ResNet};
use crate::parameters::{join, Gradients, Parameters, Role};
use crate::{Activation, Error, Result, Scalar};
use ndarray::{Array2, ArrayViewD, ArrayViewMutD};

/// What a step computes.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the layers' own names")]
pub enum Layer<T> {
    Conv2d(Conv2d<T>),
    BatchNorm2d(BatchNorm2d<T>),
    Relu(Relu<T>),
    MaxPool2d(MaxPool2d),
    AvgPool2d(AvgPool2d),
    GlobalAvgPool,
    ZeroPadShortcut(ZeroPadShortcut),
    Linear(Linear<T>),
    /// The sum of two values.
    Add,
}

/// A layer, what it is called and which values it reads.
#[derive(Clone, Debug)]
pub struct Step<T> {
    /// `layer1.0.conv1`
    pub name: String,
    /// What is computed.
    pub layer: Layer<T>,
    /// The values it reads: 0 is x, i + 1 the result of step i. Two for [`Layer::Add`], one for all others.
    pub reads: Vec<usize>,
}

/// Steps in the order of execution; the last one's result is the result of all.
#[derive(Clone, Debug, Default)]
pub struct Program<T> {
    /// The steps.
    pub steps: Vec<Step<T>>,
    /// Further names of values, `layer1.0` for the last step of that block: `(name, value)`.
    pub aliases: Vec<(String, usize)>,
}

/// A value between two steps.
#[derive(Clone, Debug)]
pub enum Value<T> {
    /// Images `(N, H, W, C)`.
    Images(Activation<T>),
    /// Feature vectors or logits `(N, F)`.
    Rows(Array2<T>),
}

/// What the layers keep for backward.
#[derive(Clone, Debug)]
enum Kept<T: Scalar> {
    Conv2d(Conv2dCache<T>),
    BatchNorm2d(BatchNorm2dCache<T>),
    Relu(ReluCache<T>),
    MaxPool2d(MaxPool2dCache),
    AvgPool2d(AvgPool2dCache),
    GlobalAvgPool(GlobalAvgPoolCache),
    ZeroPadShortcut(ZeroPadShortcutCache),
    Linear(LinearCache<T>),
    Add,
}

/// Every value of a forward pass, and what backward needs.
#[derive(Clone, Debug)]
pub struct Forward<T: Scalar> {
    /// `values[0]` is x, `values[i + 1]` the result of step i.
    pub values: Vec<Value<T>>,
    kept: Vec<Kept<T>>,
}

/// Every gradient of a backward pass.
#[derive(Clone, Debug)]
pub struct Backward<T: Scalar> {
    /// The gradient of each value; `None` for a value that nothing behind it read.
    pub values: Vec<Option<Value<T>>>,
    /// The gradient of each parameter that the result depends on, in the order of the steps.
    pub parameters: Gradients<T>,
}

/// What goes through a step.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a, T: Scalar> {
    /// What it read.
    pub reads: &'a [&'a Value<T>],
    /// What it made of it.
    pub result: &'a Value<T>,
    /// The gradient of that.
    pub dy: &'a Value<T>,
}

/// Somebody who may change each result as it is made: rounding ([`super::rounding`]), or a mistake ([`mod@super::diagnose`]).
pub trait Disturb<T: Scalar> {
    /// `value` is what `step` made of the values it read.
    fn result(&mut self, step: &Step<T>, reads: &[&Value<T>], value: &mut Value<T>);
    /// `logits` are what the loss is computed from.
    fn logits(&mut self, logits: &mut Array2<T>);
    /// `loss` and its gradient are what was made of `logits` and the classes `target`.
    fn loss(&mut self, _logits: &Array2<T>, _target: &[usize], _loss: &mut T, _dlogits: &mut Array2<T>) {}
    /// `gradients` are what `step` sends to the values it read, `parameters` those of its parameters.
    fn gradients(
        &mut self,
        step: &Step<T>,
        passage: Passage<'_, T>,
        gradients: &mut [Value<T>],
        parameters: &mut Gradients<T>,
    );
}

/// Changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Undisturbed;

impl<T: Scalar> Disturb<T> for Undisturbed {
    fn result(&mut self, _: &Step<T>, _: &[&Value<T>], _: &mut Value<T>) {}
    fn logits(&mut self, _: &mut Array2<T>) {}
    fn gradients(&mut self, _: &Step<T>, _: Passage<'_, T>, _: &mut [Value<T>], _: &mut Gradients<T>) {}
}

/// One after the other.
pub(super) struct Both<'a, T>(pub &'a mut dyn Disturb<T>, pub &'a mut dyn Disturb<T>);

impl<T: Scalar> Disturb<T> for Both<'_, T> {
    fn result(&mut self, step: &Step<T>, reads: &[&Value<T>], value: &mut Value<T>) {
        self.0.result(step, reads, value);
        self.1.result(step, reads, value);
    }

    fn logits(&mut self, logits: &mut Array2<T>) {
        self.0.logits(logits);
        self.1.logits(logits);
    }

    fn loss(&mut self, logits: &Array2<T>, target: &[usize], loss: &mut T, dlogits: &mut Array2<T>) {
        self.0.loss(logits, target, loss, dlogits);
        self.1.loss(logits, target, loss, dlogits);
    }

    fn gradients(
        &mut self,
        step: &Step<T>,
        passage: Passage<'_, T>,
        gradients: &mut [Value<T>],
        parameters: &mut Gradients<T>,
    ) {
        self.0.gradients(step, passage, gradients, parameters);
        self.1.gradients(step, passage, gradients, parameters);
    }
}

impl<T: Scalar> Value<T> {
    /// `(N, H, W, C)` or `(N, F)`.
    pub fn shape(&self) -> &[usize] {
        match self {
            Value::Images(x) => x.shape(),
            Value::Rows(x) => x.shape(),
        }
    }

    fn images(&self, step: &Step<T>) -> Result<&Activation<T>> {
        match self {
            Value::Images(x) => Ok(x),
            Value::Rows(x) => Err(Error::shape(step.layer.name(), "input", "(N, C, H, W)", x.shape())),
        }
    }

    fn rows(&self, step: &Step<T>) -> Result<&Array2<T>> {
        match self {
            Value::Rows(x) => Ok(x),
            Value::Images(x) => Err(Error::shape(step.layer.name(), "input", "(N, F)", x.shape())),
        }
    }

    /// self + other: what a value used twice receives.
    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Value::Images(a), Value::Images(b)) => Value::Images(add(a, &b)),
            (Value::Rows(a), Value::Rows(b)) => Value::Rows(a + b),
            _ => panic!("two gradients of one value have one shape"),
        }
    }
}

impl<T: Scalar> Layer<T> {
    /// As the oracle's command line calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Layer::Conv2d(_) => "conv2d",
            Layer::BatchNorm2d(_) => "batch_norm",
            Layer::Relu(relu) if relu.is_leaky() => "leaky_relu",
            Layer::Relu(_) => "relu",
            Layer::MaxPool2d(_) => "max_pool",
            Layer::AvgPool2d(_) => "avg_pool",
            Layer::GlobalAvgPool => "global_avg_pool",
            Layer::ZeroPadShortcut(_) => "zero_pad_shortcut",
            Layer::Linear(_) => "linear",
            Layer::Add => "add",
        }
    }
}

impl Layer<f64> {
    /// The same layer, its numbers rounded to `T`. In `T` as in `f64` the oracle's convolutions are plain sums of products.
    fn cast<T: Scalar>(&self) -> Layer<T> {
        match self {
            Layer::Conv2d(conv) => Layer::Conv2d(Conv2d {
                weight: conv.weight.mapv(T::of),
                bias: conv.bias.as_ref().map(|bias| bias.mapv(T::of)),
                stride: conv.stride,
                padding: conv.padding,
                dilation: conv.dilation,
                groups: conv.groups,
                algorithm: Conv2dAlgorithm::Gemm,
            }),
            Layer::BatchNorm2d(bn) => Layer::BatchNorm2d(BatchNorm2d {
                gamma: bn.gamma.mapv(T::of),
                beta: bn.beta.mapv(T::of),
                running_mean: bn.running_mean.mapv(T::of),
                running_var: bn.running_var.mapv(T::of),
                eps: T::of(bn.eps),
                momentum: T::of(bn.momentum),
                running_variance: bn.running_variance,
            }),
            Layer::Relu(relu) => Layer::Relu(relu.cast()),
            Layer::Linear(linear) => {
                Layer::Linear(Linear { weight: linear.weight.mapv(T::of), bias: linear.bias.mapv(T::of) })
            }
            Layer::MaxPool2d(pool) => Layer::MaxPool2d(*pool),
            Layer::AvgPool2d(pool) => Layer::AvgPool2d(*pool),
            Layer::ZeroPadShortcut(shortcut) => Layer::ZeroPadShortcut(*shortcut),
            Layer::GlobalAvgPool => Layer::GlobalAvgPool,
            Layer::Add => Layer::Add,
        }
    }
}

impl<T: Scalar> Step<T> {
    fn forward(&self, reads: &[&Value<T>], mode: Mode) -> Result<(Value<T>, Kept<T>)> {
        let x = reads[0];
        Ok(match &self.layer {
            Layer::Conv2d(conv) => {
                let (y, cache) = conv.forward(x.images(self)?)?;
                (Value::Images(y), Kept::Conv2d(cache))
            }
            Layer::BatchNorm2d(bn) => {
                let (y, cache) = bn.forward(x.images(self)?, mode)?;
                (Value::Images(y), Kept::BatchNorm2d(cache))
            }
            Layer::Relu(relu) => {
                let (y, cache) = relu.forward(x.images(self)?.clone());
                (Value::Images(y), Kept::Relu(cache))
            }
            Layer::MaxPool2d(pool) => {
                let (y, cache) = pool.forward(x.images(self)?)?;
                (Value::Images(y), Kept::MaxPool2d(cache))
            }
            Layer::AvgPool2d(pool) => {
                let (y, cache) = pool.forward(x.images(self)?)?;
                (Value::Images(y), Kept::AvgPool2d(cache))
            }
            Layer::GlobalAvgPool => {
                let (y, cache) = GlobalAvgPool.forward(x.images(self)?)?;
                (Value::Rows(y), Kept::GlobalAvgPool(cache))
            }
            Layer::ZeroPadShortcut(shortcut) => {
                let (y, cache) = shortcut.forward(x.images(self)?)?;
                (Value::Images(y), Kept::ZeroPadShortcut(cache))
            }
            Layer::Linear(linear) => {
                let (y, cache) = linear.forward(x.rows(self)?)?;
                (Value::Rows(y), Kept::Linear(cache))
            }
            Layer::Add => {
                let (a, b) = (x.images(self)?, reads[1].images(self)?);
                if a.shape() != b.shape() {
                    return Err(Error::shape("add", "input", format!("the other's shape {:?}", b.shape()), a.shape()));
                }
                (Value::Images(add(a.clone(), b)), Kept::Add)
            }
        })
    }

    fn backward(&self, dy: Value<T>, kept: &Kept<T>, gradients: &mut Gradients<T>) -> Result<Vec<Value<T>>> {
        let dx = match (&self.layer, kept) {
            (Layer::Conv2d(conv), Kept::Conv2d(cache)) => {
                let (dx, grads): (_, Conv2dGrads<T>) = conv.backward(dy.images(self)?, cache)?;
                grads.collect(&self.name, gradients);
                Value::Images(dx)
            }
            (Layer::BatchNorm2d(bn), Kept::BatchNorm2d(cache)) => {
                let (dx, grads): (_, BatchNorm2dGrads<T>) = bn.backward(dy.images(self)?, cache)?;
                grads.collect(&self.name, gradients);
                Value::Images(dx)
            }
            (Layer::Relu(relu), Kept::Relu(cache)) => Value::Images(relu.backward(dy.images(self)?, cache)?),
            (Layer::MaxPool2d(pool), Kept::MaxPool2d(cache)) => Value::Images(pool.backward(dy.images(self)?, cache)?),
            (Layer::AvgPool2d(pool), Kept::AvgPool2d(cache)) => Value::Images(pool.backward(dy.images(self)?, cache)?),
            (Layer::GlobalAvgPool, Kept::GlobalAvgPool(cache)) => {
                Value::Images(GlobalAvgPool.backward(dy.rows(self)?, cache)?)
            }
            (Layer::ZeroPadShortcut(shortcut), Kept::ZeroPadShortcut(cache)) => {
                Value::Images(shortcut.backward(dy.images(self)?, cache)?)
            }
            (Layer::Linear(linear), Kept::Linear(cache)) => {
                let (dx, grads): (_, LinearGrads<T>) = linear.backward(dy.rows(self)?, cache)?;
                grads.collect(&self.name, gradients);
                Value::Rows(dx)
            }
            // y = a + b: the addition hands its gradient to both.
            (Layer::Add, Kept::Add) => return Ok(vec![dy.clone(), dy]),
            _ => panic!("the cache of another step"),
        };
        Ok(vec![dx])
    }
}

impl<T: Scalar> Program<T> {
    /// No steps yet: its result is x.
    pub fn new() -> Self {
        Program { steps: Vec::new(), aliases: Vec::new() }
    }

    /// Adds a step that reads the value `from` and returns the value it makes.
    pub fn push(&mut self, name: &str, layer: Layer<T>, from: usize) -> usize {
        self.push_reading(name, layer, vec![from])
    }

    /// Adds a step that reads several values and returns the value it makes.
    pub fn push_reading(&mut self, name: &str, layer: Layer<T>, reads: Vec<usize>) -> usize {
        let calls = |step: &&Step<T>| step.name == name || step.name.starts_with(&format!("{name}#"));
        let name = match self.steps.iter().filter(calls).count() {
            0 => name.to_string(),
            earlier => format!("{name}#{}", earlier + 1),
        };
        self.steps.push(Step { name, layer, reads });
        self.steps.len()
    }

    /// The steps of a network, from the images to the logits.
    pub fn of_network(model: &ResNet<T>) -> Self {
        let mut program = Program::new();
        let mut at = match &model.stem {
            StemLayers::Unit(unit) => program.push_unit("", unit, "relu", 0),
            StemLayers::Conv(conv) => program.push("conv1", Layer::Conv2d(conv.clone()), 0),
        };
        if let Some(pool) = model.max_pool {
            at = program.push("maxpool", Layer::MaxPool2d(pool), at);
        }
        for (stage, blocks) in model.stages.iter().enumerate() {
            let stage = format!("layer{}", stage + 1);
            for (index, block) in blocks.iter().enumerate() {
                let path = format!("{stage}.{index}");
                at = program.push_block(&path, block, at);
                program.aliases.push((path, at));
            }
            program.aliases.push((stage, at));
        }
        if let Some(bn) = &model.final_norm {
            at = program.push("bn1", Layer::BatchNorm2d(bn.clone()), at);
            at = program.push("relu", Layer::Relu(Relu::new()), at);
        }
        at = program.push("avgpool", Layer::GlobalAvgPool, at);
        program.push("fc", Layer::Linear(model.fc.clone()), at);
        program
    }

    /// The steps of a block.
    pub fn of_block(block: &Block<T>) -> Self {
        let mut program = Program::new();
        program.push_block("", block, 0);
        program
    }

    fn push_unit(&mut self, path: &str, unit: &Unit<T>, relu: &str, from: usize) -> usize {
        let h = self.push(&join(path, &unit.names[0]), Layer::Conv2d(unit.conv.clone()), from);
        let h = self.push(&join(path, &unit.names[1]), Layer::BatchNorm2d(unit.bn.clone()), h);
        match unit.activation {
            Some(activation) => self.push(&join(path, relu), Layer::Relu(activation), h),
            None => h,
        }
    }

    fn push_block(&mut self, path: &str, block: &Block<T>, x: usize) -> usize {
        let (add, relu) = (join(path, "add"), join(path, "relu"));
        match block {
            Block::Residual(block) => {
                let mut h = x;
                for unit in &block.branch {
                    h = self.push_unit(path, unit, "relu", h);
                }
                let shortcut = match &block.shortcut {
                    Shortcut::Absent => None,
                    Shortcut::Identity => Some(x),
                    Shortcut::ZeroPad(layer) => {
                        Some(self.push(&join(path, "downsample"), Layer::ZeroPadShortcut(*layer), x))
                    }
                    Shortcut::Projection(unit) => {
                        let s = self.push_unit(path, unit, "relu", x);
                        self.aliases.push((join(path, "downsample"), s));
                        Some(s)
                    }
                };
                if let Some(shortcut) = shortcut {
                    h = self.push_reading(&add, Layer::Add, vec![h, shortcut]);
                }
                self.push(&relu, Layer::Relu(block.activation), h)
            }
            Block::PreActivation(block) => {
                let (mut h, mut shortcut) = (x, x);
                for (index, (bn, conv)) in block.norms.iter().zip(&block.convs).enumerate() {
                    let name = |layer: &str| join(path, &format!("{layer}{}", index + 1));
                    h = self.push(&name("bn"), Layer::BatchNorm2d(bn.clone()), h);
                    h = self.push(&relu, Layer::Relu(block.activation), h);
                    if let (Some(projection), 0) = (&block.projection, index) {
                        let name = join(path, "downsample.0");
                        shortcut = self.push(&name, Layer::Conv2d(projection.clone()), h);
                        self.aliases.push((join(path, "downsample"), shortcut));
                    }
                    h = self.push(&name("conv"), Layer::Conv2d(conv.clone()), h);
                }
                if let Some(layer) = block.zero_pad {
                    shortcut = self.push(&join(path, "downsample"), Layer::ZeroPadShortcut(layer), x);
                }
                self.push_reading(&add, Layer::Add, vec![h, shortcut])
            }
        }
    }

    /// Every value, from x on.
    ///
    /// # Errors
    /// Those of the layers, with the name of the step in front.
    pub fn forward(&self, x: Value<T>, mode: Mode, disturb: &mut dyn Disturb<T>) -> Result<Forward<T>> {
        let mut forward = Forward { values: vec![x], kept: Vec::with_capacity(self.steps.len()) };
        for step in &self.steps {
            let reads: Vec<&Value<T>> = step.reads.iter().map(|&value| &forward.values[value]).collect();
            let (mut y, kept) = step.forward(&reads, mode)?;
            disturb.result(step, &reads, &mut y);
            forward.values.push(y);
            forward.kept.push(kept);
        }
        Ok(forward)
    }

    /// Every gradient, from `dy`, that of the last value, back.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of the last value.
    pub fn backward(&self, dy: Value<T>, forward: &Forward<T>, disturb: &mut dyn Disturb<T>) -> Result<Backward<T>> {
        let mut values: Vec<Option<Value<T>>> = vec![None; forward.values.len()];
        values[self.steps.len()] = Some(dy);
        let mut of_steps = Vec::with_capacity(self.steps.len());
        for (index, (step, kept)) in self.steps.iter().zip(&forward.kept).enumerate().rev() {
            let Some(dy) = values[index + 1].clone() else { continue };
            let mut own = Gradients::new();
            let mut sent = step.backward(dy.clone(), kept, &mut own)?;
            let reads: Vec<&Value<T>> = step.reads.iter().map(|&value| &forward.values[value]).collect();
            let passage = Passage { reads: &reads, result: &forward.values[index + 1], dy: &dy };
            disturb.gradients(step, passage, &mut sent, &mut own);
            of_steps.push(own);
            for (&value, gradient) in step.reads.iter().zip(sent) {
                values[value] = Some(match values[value].take() {
                    Some(other) => other.plus(gradient),
                    None => gradient,
                });
            }
        }
        let mut parameters = Gradients::new();
        of_steps.into_iter().rev().for_each(|own| parameters.append(own));
        Ok(Backward { values, parameters })
    }

    /// Moves every batch norm's running statistics towards those of the batch of a training pass.
    pub fn update_running_statistics(&mut self, forward: &Forward<T>) {
        for (step, kept) in self.steps.iter_mut().zip(&forward.kept) {
            if let (Layer::BatchNorm2d(bn), Kept::BatchNorm2d(cache)) = (&mut step.layer, kept) {
                bn.update_running_statistics(cache);
            }
        }
    }
}

impl Program<f64> {
    /// The same program, its parameters rounded to `T`.
    pub fn cast<T: Scalar>(&self) -> Program<T> {
        let cast =
            |step: &Step<f64>| Step { name: step.name.clone(), layer: step.layer.cast(), reads: step.reads.clone() };
        Program { steps: self.steps.iter().map(cast).collect(), aliases: self.aliases.clone() }
    }
}

impl<T: Scalar> Parameters<T> for Step<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        match &self.layer {
            Layer::Conv2d(conv) => conv.visit(&join(path, &self.name), visitor),
            Layer::BatchNorm2d(bn) => bn.visit(&join(path, &self.name), visitor),
            Layer::Linear(linear) => linear.visit(&join(path, &self.name), visitor),
            _ => {}
        }
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        match &mut self.layer {
            Layer::Conv2d(conv) => conv.visit_mut(&join(path, &self.name), visitor),
            Layer::BatchNorm2d(bn) => bn.visit_mut(&join(path, &self.name), visitor),
            Layer::Linear(linear) => linear.visit_mut(&join(path, &self.name), visitor),
            _ => {}
        }
    }
}

impl<T: Scalar> Parameters<T> for Program<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        self.steps.iter().for_each(|step| step.visit(path, visitor));
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        self.steps.iter_mut().for_each(|step| step.visit_mut(path, visitor));
    }
}
