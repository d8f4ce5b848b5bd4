//! The memory of a training run, before it begins.
//!
//! ```text
//! program + images + state + the most of { a training step, an evaluation, saving }
//! ```
//!
//! *State* are the weights, the momentum, the average and the best weights. The phases follow each other, and each frees what
//! it has used; but only large arrays return to the system at once. Within 15 % of the measured peak for the networks in
//! `docs/training.md`.

use super::Room;
use crate::cli::args::EngineKind;
use crate::cli::{Failure, Result, text};
use crate::data::loader::PREPARED;
use crate::engine::{Algorithm, Arrays, Engine};
use crate::model::ResNet;
use crate::parameters::Parameters as _;
use crate::train::{Recipe, Validation};

/// The program and its small arrays, measured with small networks.
const PROGRAM: u64 = 12_000_000;

/// Percent of a training step's arrays, except large ones, that the allocator has not returned to the system when an
/// evaluation begins, because others lie between them. Measured with glibc.
const LEFT: u64 = 85;

/// Bytes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub images: u64,
    pub state: u64,
    pub training: u64,
    pub evaluation: u64,
    pub saving: u64,
    /// In an evaluation: what the allocator still has of the training step, and the large arrays of the evaluation.
    left: u64,
}

/// What decides about the memory of a run.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub model: &'a ResNet<f32>,
    pub recipe: &'a Recipe,
    pub engine: EngineKind,
    pub conv: Algorithm,
    /// Height and width.
    pub size: [usize; 2],
    pub training_images: usize,
    /// The larger of the validation and the test set.
    pub evaluated_images: usize,
    /// Bytes of all images.
    pub images: u64,
    pub threads: usize,
    /// The processes that share a batch.
    pub processes: usize,
}

impl Plan<'_> {
    /// The estimate with these batch sizes.
    fn with(&self, batch: usize, eval_batch: usize) -> Result<Estimate> {
        let Plan { model, recipe, size, threads, processes, .. } = *self;
        let (batch, eval_batch) = (batch.min(self.training_images), eval_batch.min(self.evaluated_images));
        // The process with the most shards.
        let shards = recipe.shards.min(batch).max(1);
        let batch = batch.div_ceil(shards) * shards.div_ceil(processes);
        let mut values = 0;
        model.visit("", &mut |_, _, tensor| values += tensor.len() as u64);
        let weights = 4 * values;
        // Momentum, average and best weights.
        let others = [recipe.sgd.momentum > 0.0, recipe.ema_decay > 0.0, recipe.validation != Validation::NONE];
        let saved = weights * (1 + others.iter().filter(|kept| **kept).count() as u64);
        // Those that wait, the one that is prepared and the one in use.
        let loader = |batch: usize| (4 * 3 * size[0] * size[1] * batch * (PREPARED + 2)) as u64;
        let (step, prediction) = match self.engine {
            EngineKind::Fast => {
                let of = |batch| Engine::new(self.conv).memory(model, batch, size, threads);
                (of(batch)?.training, of(eval_batch)?.prediction)
            }
            EngineKind::Reference => {
                let all = model.cost(batch, size)?.training_bytes(4) - 2 * weights;
                let largest = 4 * model.cost(eval_batch, size)?.largest;
                (Arrays { bytes: all, large: 0 }, Arrays { bytes: 4 * largest, large: 0 })
            }
        };
        let mirrored = if recipe.test_flip { loader(eval_batch) / (PREPARED as u64 + 2) } else { 0 };
        let accumulated = if recipe.accumulate > 1 { weights } else { 0 };
        // What the process sends, what it receives, and the sum.
        let exchanged = if processes > 1 { 3 * weights } else { 0 };
        Ok(Estimate {
            images: self.images,
            state: saved,
            // The last step of an epoch compares the weights with a copy.
            training: step.bytes + loader(batch) + weights + accumulated + exchanged,
            // A copy of the weights is evaluated.
            evaluation: prediction.bytes + loader(eval_batch) + mirrored + weights,
            left: (step.bytes - step.large) / 100 * LEFT + prediction.large,
            // A copy of all, and the bytes of the file.
            saving: 2 * saved,
        })
    }

    pub fn estimate(&self) -> Result<Estimate> {
        self.with(self.recipe.batch_size, self.recipe.eval_batch_size)
    }

    /// Rejects a run that does not fit into the memory there is; the error names batch sizes that do.
    pub fn check(&self, room: Option<Room>) -> Result<()> {
        let Some(room) = room else { return Ok(()) };
        // The program and the images are there already.
        let to_come = |estimate: Estimate| estimate.peak() - PROGRAM - estimate.images;
        let estimate = self.estimate()?;
        if to_come(estimate) <= room.bytes {
            return Ok(());
        }
        let (batch, eval_batch) = (self.recipe.batch_size, self.recipe.eval_batch_size);
        // What is proposed leaves a tenth for what an estimate does not know.
        let goal = room.bytes / 10 * 9;
        let fits = |batch, eval_batch| Ok::<_, Failure>(to_come(self.with(batch, eval_batch)?) <= goal);
        let advice = if !fits(1, 1)? {
            "not even batches of one image fit; use a smaller network".to_string()
        } else if fits(batch, 1)? {
            format!("--eval-batch-size {} fits", largest(eval_batch, |size| fits(batch, size))?)
        } else {
            let training = largest(batch, |size| fits(size, 1))?;
            match largest(eval_batch, |size| fits(training, size))? {
                size if size == eval_batch => format!("--batch-size {training} fits"),
                size => format!("--batch-size {training} --eval-batch-size {size} fits"),
            }
        };
        let eval_batch = eval_batch.min(self.evaluated_images);
        Err(Failure::Failed(format!(
            "not enough memory: `{}` needs about {} for a training step with {} images, {} for an evaluation with {} and {} \
             for its weights, but {} is available ({}); {advice}",
            self.recipe.model,
            text::bytes(estimate.training),
            batch.min(self.training_images),
            text::bytes(estimate.evaluation),
            eval_batch,
            text::bytes(estimate.state.max(estimate.saving)),
            text::bytes(room.bytes),
            room.limit
        )))
    }
}

impl Estimate {
    pub fn peak(&self) -> u64 {
        PROGRAM
            + self.images
            + self.state
            + [self.training, self.evaluation, self.saving, self.left].into_iter().max().unwrap_or(0)
    }

    /// For the line `memory` of a run.
    pub fn describe(&self) -> String {
        let [peak, step, evaluation, images] =
            [self.peak(), self.training, self.evaluation, self.images].map(text::bytes);
        format!("about {peak}: a step {step}, an evaluation {evaluation}, images {images}")
    }
}

/// The largest size from 1 to below `too_large` that fits, by bisection: memory grows with the batch. 1 fits.
fn largest(too_large: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    if fits(too_large)? {
        return Ok(too_large);
    }
    let (mut good, mut bad) = (1, too_large);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    fn message(bytes: u64, recipe: &Recipe) -> Option<String> {
        let model = ResNet::zeroed(&Architecture::by_name("resnet20").unwrap()).unwrap();
        let plan = Plan {
            model: &model,
            recipe,
            engine: EngineKind::Fast,
            conv: Algorithm::Auto,
            size: [32, 32],
            training_images: 50_000,
            evaluated_images: 10_000,
            images: 184_000_000,
            threads: 2,
            processes: 1,
        };
        match plan.check(Some(Room { bytes, limit: "a limit".to_string() })) {
            Ok(()) => None,
            Err(Failure::Failed(message)) => Some(message),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_sizes_that_do() {
        let recipe = Recipe { batch_size: 128, eval_batch_size: 250, ..Recipe::by_name("demo").unwrap() };
        assert_eq!(message(1_000_000_000, &recipe), None);
        for bytes in [200_000_000, 100_000_000, 60_000_000] {
            let text = message(bytes, &recipe).unwrap();
            assert!(text.contains("(a limit); --batch-size "), "{text}");
            let after = |flag: &str| text.split_once(flag)?.1.split(' ').next()?.parse().ok();
            let batch_size = after("--batch-size ").unwrap();
            let eval_batch_size = after("--eval-batch-size ").unwrap_or(250);
            let smaller = Recipe { batch_size, eval_batch_size, ..recipe.clone() };
            assert_eq!(message(bytes, &smaller), None, "{text}");
            let larger = Recipe { batch_size: 1 + batch_size * 5 / 4, ..smaller };
            assert!(message(bytes, &larger).is_some(), "{text}");
        }
        // The evaluation alone is too large.
        let small = Recipe { batch_size: 16, ..recipe.clone() };
        let text = message(80_000_000, &small).unwrap();
        assert!(text.contains("; --eval-batch-size ") && !text.contains("--batch-size 16"), "{text}");
        assert!(message(1_000_000, &recipe).unwrap().contains("not even batches of one image fit"));
    }
}
