//! A network as a list of steps.
//!
//! [`ResNet::forward`](crate::model::ResNet::forward) hides its intermediate values, because training does not need
//! them by name. The search for the first wrong value needs all of them. A [`Program`] is the same computation written
//! as a list, one step per layer,
//!
//! ```text
//! value 0 = x        value i + 1 = layer_i(value a [, value b])        a, b ≤ i
//! ```
//!
//! so that backward is the list in reverse order, with one rule (a value that was used twice receives the sum of two
//! gradients) instead of the hand-written order of `model/`. The layers are the same, so the results must be
//! bit-identical, and the test of this (`tests/library/oracle.rs`) verifies both.
//!
//! Steps have the names of torchvision's modules. A module that is called again, such as the one ReLU of a torchvision
//! block, gets `#2`, `#3`; an addition is not a module in PyTorch and is called `add`.
//!
//! The values of a pass can be observed and changed ([`Disturb`]): the oracle adds rounding or a mistake, a gradient
//! check holds the choices of the ReLUs and max pools fixed ([`kinks`]).
//!
//! ```
//! use ndarray::Array4;
//! use resnet_by_hand::layers::Mode;
//! use resnet_by_hand::model::{Architecture, ResNet};
//! use resnet_by_hand::program::{Program, Undisturbed, Value};
//! let model = ResNet::<f64>::new(&Architecture::by_name("resnet8")?, 1)?;
//! let program = Program::of_network(&model);
//! let names: Vec<&str> = program.steps.iter().map(|step| step.name.as_str()).collect();
//! assert_eq!(names[..7], ["conv1", "bn1", "relu", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.relu", "layer1.0.conv2"]);
//! let x = Array4::from_shape_fn((2, 8, 8, 3), |(n, h, w, c)| ((n + 2 * h + 3 * w + 5 * c) % 7) as f64).into_shared();
//! let forward = program.forward(Value::Images(x.clone()), Mode::Train, &mut Undisturbed)?;
//! let (logits, _) = model.forward(&x, Mode::Train)?;
//! assert!(matches!(forward.values.last(), Some(Value::Rows(rows)) if *rows == logits));
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

mod build;
mod disturb;
pub mod kinks;

pub use disturb::{Both, Disturb, Passage, Undisturbed};
pub use kinks::{Choice, Record, Replay};

use crate::layers::batch_norm::{BatchNorm2dCache, BatchNorm2dGrads};
use crate::layers::conv2d::{Conv2dCache, Conv2dGrads};
use crate::layers::linear::{LinearCache, LinearGrads};
use crate::layers::pool::{AvgPool2dCache, GlobalAvgPoolCache, MaxPool2dCache};
use crate::layers::relu::ReluCache;
use crate::layers::zero_pad_shortcut::ZeroPadShortcutCache;
use crate::layers::{AvgPool2d, BatchNorm2d, Conv2d, GlobalAvgPool, Linear, MaxPool2d, Mode, Relu, ZeroPadShortcut};
use crate::model::add;
use crate::parameters::{Gradients, Parameters, Role, join};
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

/// A layer, its name and the values it reads.
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
enum Kept<T> {
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

/// Every value of a forward pass, and the caches for backward.
#[derive(Clone, Debug)]
pub struct Forward<T> {
    /// `values[0]` is x, `values[i + 1]` the result of step i.
    pub values: Vec<Value<T>>,
    kept: Vec<Kept<T>>,
}

/// Every gradient of a backward pass.
#[derive(Clone, Debug)]
pub struct Backward<T: Scalar> {
    /// The gradient of each value; `None` for a value that no later step read.
    pub values: Vec<Option<Value<T>>>,
    /// The gradient of each parameter that the result depends on, in the order of the steps.
    pub parameters: Gradients<T>,
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

    /// self + other: the gradient of a value that is used twice.
    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Value::Images(a), Value::Images(b)) => Value::Images(add(a, &b)),
            (Value::Rows(a), Value::Rows(b)) => Value::Rows(a + b),
            _ => panic!("two gradients of one value must have the same shape"),
        }
    }
}

impl<T: Scalar> Layer<T> {
    /// The name of the layer on the oracle's command line.
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
    /// The same layer, its parameters rounded to `T`. In `T` as in `f64` the oracle's convolutions are plain sums of
    /// products.
    fn cast<T: Scalar>(&self) -> Layer<T> {
        match self {
            Layer::Conv2d(conv) => Layer::Conv2d(Conv2d {
                weight: conv.weight.mapv(T::of),
                bias: conv.bias.as_ref().map(|bias| bias.mapv(T::of)),
                stride: conv.stride,
                padding: conv.padding,
                dilation: conv.dilation,
                groups: conv.groups,
            }),
            Layer::BatchNorm2d(bn) => Layer::BatchNorm2d(BatchNorm2d {
                gamma: bn.gamma.mapv(T::of),
                beta: bn.beta.mapv(T::of),
                running_mean: bn.running_mean.mapv(T::of),
                running_var: bn.running_var.mapv(T::of),
                eps: T::of(bn.eps),
                momentum: T::of(bn.momentum),
                running_variance: bn.running_variance,
                group: bn.group,
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
                let (y, cache) = relu.forward(x.images(self)?);
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
            // y = a + b: the addition passes its gradient to both.
            (Layer::Add, Kept::Add) => return Ok(vec![dy.clone(), dy]),
            _ => panic!("the cache belongs to another step"),
        };
        Ok(vec![dx])
    }
}

impl<T: Scalar> Program<T> {
    /// A program without steps: its result is x.
    pub fn new() -> Self {
        Program { steps: Vec::new(), aliases: Vec::new() }
    }

    /// Appends a step that reads the value `from`; returns the index of its result.
    pub fn push(&mut self, name: &str, layer: Layer<T>, from: usize) -> usize {
        self.push_reading(name, layer, vec![from])
    }

    /// Appends a step that reads several values; returns the index of its result.
    pub fn push_reading(&mut self, name: &str, layer: Layer<T>, reads: Vec<usize>) -> usize {
        let calls = |step: &&Step<T>| step.name == name || step.name.starts_with(&format!("{name}#"));
        let name = match self.steps.iter().filter(calls).count() {
            0 => name.to_string(),
            earlier => format!("{name}#{}", earlier + 1),
        };
        self.steps.push(Step { name, layer, reads });
        self.steps.len()
    }

    /// Computes every value, starting with x.
    ///
    /// # Errors
    /// The errors of the layers; or if the inputs of a step do not fit.
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

    /// Computes every gradient, starting with `dy`, the gradient of the last value.
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

    /// The cache of every batch norm in a forward pass, with the name of its step, in the order of execution.
    pub fn batch_norms<'a>(
        &'a self,
        forward: &'a Forward<T>,
    ) -> impl Iterator<Item = (&'a str, &'a BatchNorm2dCache<T>)> {
        self.steps.iter().zip(&forward.kept).filter_map(|(step, kept)| match kept {
            Kept::BatchNorm2d(cache) => Some((step.name.as_str(), cache)),
            _ => None,
        })
    }

    /// Updates the running statistics of every batch norm with those of the batch of a training pass.
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
