//! How much memory a pass takes, before it is computed.
//!
//! ```text
//! training     kept arrays + 5 · Σ sizes + scratch + gradients        until the backward pass has used them
//! evaluation                 3 · Σ sizes + scratch
//! ```
//!
//! *Kept* are the images, the output of every convolution and that of every block; what is between them is computed again
//! (`unit.rs`). *Σ sizes* is the sum over the different lengths of these arrays: the shelf ([`buffers`](super::buffers))
//! reuses an array only for one of about its length. Backward needs five arrays of each length that are not kept (dy, ds,
//! the gradients of two units, and one that is padded or added), a prediction needs three (x, y and one between them).
//! *Scratch* are the transformed weights of the Winograd convolutions, one for each shape of a weight, and what each thread
//! works in.
//!
//! This is an estimate: what the allocator and the threads add is not known. `resnet train` prints it, and refuses a run
//! that would not fit.

use super::conv::Convolution;
use super::{Algorithm, Engine, Pass};
use crate::Result;
use crate::layers::Conv2d;
use crate::model::resnet::StemLayers;
use crate::model::shortcut::Shortcut;
use crate::model::{Block, ResNet};
use crate::parameters::Parameters as _;
use crate::shards::Shards;
use std::collections::{BTreeMap, BTreeSet};

/// Arrays of each length that the backward pass needs beside those that are kept.
const BACKWARD: u64 = 5;

/// Arrays of each length that a prediction needs.
const PREDICTION: u64 = 3;

/// Tiles that a thread transforms at once, of the input, of the output and of their gradients.
const TILES: u64 = 2 * 64;

/// Longer arrays (32 MiB) are returned to the system when they are freed; glibc keeps others for later.
const LARGE: u64 = 1 << 23;

/// Memory of the passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassMemory {
    /// A training step: forward, backward and the gradients.
    pub training: Arrays,
    /// A prediction.
    pub prediction: Arrays,
}

/// The arrays of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrays {
    /// Of all of them.
    pub bytes: u64,
    /// Of those from 32 MiB on.
    pub large: u64,
}

impl Arrays {
    fn add(&mut self, count: u64, length: u64) {
        let bytes = 4 * count * length;
        self.bytes += bytes;
        self.large += if length >= LARGE { bytes } else { 0 };
    }
}

/// What a walk through a network counts, in values.
struct Count<'a> {
    pass: &'a Pass,
    /// How many arrays of each length are kept.
    kept: BTreeMap<u64, u64>,
    /// Lengths of the transformed weights.
    transformed: BTreeSet<u64>,
    /// The most that a thread works in.
    work: u64,
}

impl Count<'_> {
    fn keep(&mut self, shape: [usize; 4]) {
        *self.kept.entry(shape.iter().map(|&d| d as u64).product()).or_default() += 1;
    }

    /// The output of a convolution, which is kept. Returns its shape.
    fn conv(&mut self, conv: &Conv2d<f32>, x: [usize; 4]) -> Result<[usize; 4]> {
        let convolution = Convolution::new(self.pass, conv, x)?;
        let (g, points) = (&convolution.g, convolution.points() as u64);
        let (c_in, c_out) = (g.c_in as u64, g.c_out as u64);
        if points > 0 {
            self.transformed.insert(points * c_in * c_out);
            self.work = self.work.max(points * TILES * (c_in + c_out));
        }
        let y = convolution.output().into();
        self.keep(y);
        Ok(y)
    }

    fn block(&mut self, block: &Block<f32>, x: [usize; 4]) -> Result<[usize; 4]> {
        let mut y = x;
        match block {
            Block::Residual(block) => {
                for unit in &block.branch {
                    y = self.conv(&unit.conv, y)?;
                }
                if let Shortcut::Projection(unit) = &block.shortcut {
                    self.conv(&unit.conv, x)?;
                }
                self.keep(y);
            }
            Block::PreActivation(block) => {
                for conv in &block.convs {
                    y = self.conv(conv, y)?;
                }
                if let Some(projection) = &block.projection {
                    self.conv(projection, x)?;
                }
            }
        }
        Ok(y)
    }
}

impl Engine {
    /// The memory of a pass over `batch` images of `[height, width]`, with `threads` threads.
    ///
    /// ```
    /// use resnet_by_hand::engine::Engine;
    /// use resnet_by_hand::model::{Architecture, ResNet};
    /// let model = ResNet::<f32>::zeroed(&Architecture::by_name("resnet20")?)?;
    /// let of = |batch| Engine::default().memory(&model, batch, [32, 32], 1);
    /// let (one, two) = (of(128)?, of(256)?);
    /// // A prediction keeps nothing for a backward pass; what does not grow with the batch is small here.
    /// assert!(3 * one.prediction.bytes < one.training.bytes);
    /// assert!(two.training.bytes > one.training.bytes * 19 / 10);
    /// # Ok::<(), resnet_by_hand::Error>(())
    /// ```
    ///
    /// # Errors
    /// If an image is too small for the strides.
    pub fn memory(
        &self,
        model: &ResNet<f32>,
        batch: usize,
        [height, width]: [usize; 2],
        threads: usize,
    ) -> Result<PassMemory> {
        let pass = &self.pass(&Shards::one(batch));
        let mut count = Count { pass, kept: BTreeMap::new(), transformed: BTreeSet::new(), work: 0 };
        let x = [batch, height, width, 3];
        count.keep(x);
        let mut h = match &model.stem {
            StemLayers::Unit(unit) => {
                let h = count.conv(&unit.conv, x)?;
                count.keep(h);
                h
            }
            StemLayers::Conv(conv) => count.conv(conv, x)?,
        };
        if let Some(pool) = &model.max_pool {
            h = pool.output_shape(&h)?;
            // The maxima and their positions.
            count.keep(h);
            count.keep(h);
        }
        for block in model.stages.iter().flatten() {
            h = count.block(block, h)?;
        }
        let (mut training, mut prediction) = (Arrays::default(), Arrays::default());
        for (&length, &kept) in &count.kept {
            training.add(kept + BACKWARD, length);
            prediction.add(PREDICTION, length);
        }
        for arrays in [&mut training, &mut prediction] {
            count.transformed.iter().for_each(|&length| arrays.add(1, length));
            arrays.add(threads as u64, count.work);
        }
        model.visit("", &mut |_, _, tensor| training.add(1, tensor.len() as u64));
        Ok(PassMemory { training, prediction })
    }
}

impl Convolution<'_> {
    /// Points of a Winograd transform; 0 without one.
    fn points(&self) -> usize {
        match self.algorithm() {
            Algorithm::Winograd2 => 16,
            Algorithm::Winograd4 => 36,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;
    use ndarray::{Array2, Array4};

    /// After a pass its arrays are on the shelf.
    #[test]
    fn the_estimate_is_what_a_pass_leaves() {
        let near = |estimate: Arrays, found: usize| {
            let ratio = estimate.bytes as f64 / (4 * found) as f64;
            assert!((0.8..1.25).contains(&ratio), "{estimate:?} {found} {ratio}");
        };
        let model = ResNet::<f32>::new(&Architecture::by_name("resnet20").unwrap(), 1).unwrap();
        let (engine, batch) = (Engine::default(), 32);
        let x = Array4::from_elem((batch, 32, 32, 3), 0.5).into_shared();
        let memory = engine.memory(&model, batch, [32, 32], 1).unwrap();
        engine.predict(&model, &x).unwrap();
        near(memory.prediction, engine.shelf.values());
        engine.release();
        let (_, cache) = engine.forward(&model, &x).unwrap();
        drop(engine.parameter_gradients(&model, &Array2::from_elem((batch, 10), 0.1), cache).unwrap());
        near(memory.training, engine.shelf.values());
    }
}
