//! The convolutions of a network: their shapes, the algorithm that each uses, and the time of each by itself.

use super::{median, noise};
use crate::Error;
use crate::engine::Engine;
use crate::layers::{Activation, Conv2d};
use crate::model::resnet::StemLayers;
use crate::model::shortcut::Shortcut;
use crate::model::{Block, ResNet};
use ndarray::Array4;
use serde_json::json;
use std::time::Instant;

/// A convolution is timed for about this long in each direction, at least three times.
const SECONDS: f64 = 0.15;

/// Convolutions of one shape.
pub struct Group<'a> {
    conv: &'a Conv2d<f32>,
    /// The engine that computes it; `None`: the reference.
    engine: Option<Engine>,
    input: [usize; 4],
    output: [usize; 4],
    algorithm: &'static str,
    /// How many of the network's convolutions these are.
    pub count: usize,
    /// The first convolution of a network: the gradient of the images is not needed.
    is_stem: bool,
    /// Seconds of y, dx and dW, if they were measured.
    pub times: Option<Times>,
}

/// Median seconds of one convolution by itself.
pub struct Times {
    forward: f64,
    input_gradient: Option<f64>,
    weight_gradient: Option<f64>,
}

impl Times {
    /// The sum over the directions that the step needs.
    pub fn sum(&self) -> f64 {
        self.forward + self.input_gradient.unwrap_or(0.0) + self.weight_gradient.unwrap_or(0.0)
    }
}

/// The convolutions of `model` on images of shape `x`, in forward order of the first of each shape.
pub fn groups(model: &ResNet<f32>, x: [usize; 4], engine: Option<Engine>) -> Result<Vec<Group<'_>>, Error> {
    let mut groups: Vec<Group> = Vec::new();
    for (conv, input) in walk(model, x)? {
        let output = conv.output_shape(&input)?;
        let algorithm = match &engine {
            Some(engine) => engine.algorithm_for(conv, input)?.name(),
            None => "im2col",
        };
        let same = |group: &&mut Group| {
            let other = group.conv;
            (group.input, group.algorithm) == (input, algorithm)
                && other.weight.shape() == conv.weight.shape()
                && (other.stride, other.padding, other.dilation) == (conv.stride, conv.padding, conv.dilation)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.count += 1,
            None => {
                let is_stem = groups.is_empty();
                let engine = engine.clone();
                groups.push(Group { conv, engine, input, output, algorithm, count: 1, is_stem, times: None });
            }
        }
    }
    Ok(groups)
}

/// A convolution and the shape of its input.
type Placed<'a> = (&'a Conv2d<f32>, [usize; 4]);

/// Every convolution of the network.
fn walk(model: &ResNet<f32>, x: [usize; 4]) -> Result<Vec<Placed<'_>>, Error> {
    let stem = match &model.stem {
        StemLayers::Unit(unit) => &unit.conv,
        StemLayers::Conv(conv) => conv,
    };
    let mut found = vec![(stem, x)];
    let mut h = stem.output_shape(&x)?;
    if let Some(pool) = &model.max_pool {
        h = pool.output_shape(&h)?;
    }
    for block in model.stages.iter().flatten() {
        let (branch, projection): (Vec<&Conv2d<f32>>, _) = match block {
            Block::Residual(block) => {
                let projection = match &block.shortcut {
                    Shortcut::Projection(unit) => Some(&unit.conv),
                    _ => None,
                };
                (block.branch.iter().map(|unit| &unit.conv).collect(), projection)
            }
            Block::PreActivation(block) => (block.convs.iter().collect(), block.projection.as_ref()),
        };
        found.extend(projection.map(|conv| (conv, h)));
        for conv in branch {
            found.push((conv, h));
            h = conv.output_shape(&h)?;
        }
    }
    Ok(found)
}

impl Group<'_> {
    /// Multiply-adds of one of the convolutions, in one direction.
    pub fn multiply_adds(&self) -> u64 {
        let [n, height, width, _] = self.output;
        [n, height, width, self.conv.weight.len()].into_iter().map(|size| size as u64).product()
    }

    /// Measures y and, for training, dx and dW on noise.
    pub fn measure(&mut self, training: bool) -> Result<(), Error> {
        let tensor = |shape: [usize; 4], seed| -> Activation<f32> {
            let mut noise = noise(seed);
            Array4::from_shape_simple_fn(shape, &mut noise).into_shared()
        };
        let (x, dy) = (tensor(self.input, 1), tensor(self.output, 2));
        let conv = self.conv;
        let (_, cache) = conv.forward(&x)?;
        let y = || match &self.engine {
            Some(engine) => engine.conv2d_forward(conv, &x).map(drop),
            None => conv.forward(&x).map(drop),
        };
        let dx = || match &self.engine {
            Some(engine) => engine.conv2d_input_gradient(conv, &dy, self.input).map(drop),
            None => conv.input_gradient(&dy, &cache).map(drop),
        };
        let dw = || match &self.engine {
            Some(engine) => engine.conv2d_parameter_gradients(conv, &dy, &x).map(drop),
            None => conv.parameter_gradients(&dy, &cache).map(drop),
        };
        let forward = seconds(y)?;
        let input_gradient = (training && !self.is_stem).then(|| seconds(dx));
        let weight_gradient = training.then(|| seconds(dw));
        self.times = Some(Times {
            forward,
            input_gradient: input_gradient.transpose()?,
            weight_gradient: weight_gradient.transpose()?,
        });
        Ok(())
    }

    /// The header of the table of [`Group::line`].
    pub fn header(timed: bool) -> String {
        let columns = "count          input     kernel         output  stride  groups  algorithm    share";
        match timed {
            true => format!("{columns}{:>18}{:>18}{:>18}", "y ms, GFLOP/s", "dx ms, GFLOP/s", "dW ms, GFLOP/s"),
            false => columns.to_string(),
        }
    }

    /// A row of the table; `all` is the number of multiply-adds of all convolutions.
    pub fn line(&self, all: u64) -> String {
        let size = |[_, height, width, channels]: [usize; 4]| format!("{height}x{width}x{channels}");
        let (_, _, height, width) = self.conv.weight.dim();
        let mut line = format!(
            "{:>5}  {:>13}  {:>9}  {:>13}  {:>6}  {:>6}  {:<10} {:>5.1} %",
            self.count,
            size(self.input),
            format!("{height}x{width}"),
            size(self.output),
            either(self.conv.stride),
            self.conv.groups,
            self.algorithm,
            100.0 * (self.count as u64 * self.multiply_adds()) as f64 / all as f64,
        );
        if let Some(times) = &self.times {
            for time in [Some(times.forward), times.input_gradient, times.weight_gradient] {
                let cell = time.map_or("-".to_string(), |time| format!("{:.3} {:7.1}", 1e3 * time, self.gflops(time)));
                line += &format!("{cell:>18}");
            }
        }
        line
    }

    fn gflops(&self, seconds: f64) -> f64 {
        2.0 * self.multiply_adds() as f64 / seconds / 1e9
    }

    pub fn json(&self) -> serde_json::Value {
        let (_, _, height, width) = self.conv.weight.dim();
        let time =
            |time: Option<f64>| time.map(|seconds| json!({ "seconds": seconds, "gflops": self.gflops(seconds) }));
        let times = self.times.as_ref();
        json!({
            "count": self.count,
            "input": self.input,
            "output": self.output,
            "kernel": [height, width],
            "stride": self.conv.stride,
            "padding": self.conv.padding,
            "groups": self.conv.groups,
            "algorithm": self.algorithm,
            "multiply_adds": self.multiply_adds(),
            "forward": time(times.map(|times| times.forward)),
            "input_gradient": time(times.and_then(|times| times.input_gradient)),
            "weight_gradient": time(times.and_then(|times| times.weight_gradient)),
        })
    }
}

/// `2`, or `2x1` where the two directions differ.
fn either([vertical, horizontal]: [usize; 2]) -> String {
    if vertical == horizontal { vertical.to_string() } else { format!("{vertical}x{horizontal}") }
}

/// The median time of `work`, after a warm-up.
fn seconds(work: impl Fn() -> Result<(), Error>) -> Result<f64, Error> {
    work()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed().as_secs_f64() < SECONDS {
        let begun = Instant::now();
        work()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(&mut times))
}
