//! The loop: see the [parent module](super) for its outline.
//!
//! ```
//! use resnet_by_hand::data::embedded;
//! use resnet_by_hand::engine::Engine;
//! use resnet_by_hand::model::{Architecture, ResNet};
//! use resnet_by_hand::train::{evaluate, Recipe, Trainer};
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! let splits = embedded::load();
//! let train = Arc::new(splits.train.subset(&(0..20).collect::<Vec<_>>())?);
//! let recipe = Recipe { epochs: 1, batch_size: 10, ..Recipe::by_name("demo")? };
//! let model = ResNet::<f32>::new(&Architecture::by_name("resnet8")?, recipe.seed)?;
//!
//! let engine = Arc::new(Engine::default());
//! let mut trainer = Trainer::new(model, engine.clone(), recipe, train.clone())?;
//! while !trainer.is_done() {
//!     trainer.train_epoch(&mut |step| {
//!         assert!(step.loss.is_finite());
//!         ControlFlow::Continue(())
//!     })?;
//! }
//! let evaluation = evaluate(&*engine, &trainer.result(), &train, trainer.recipe().evaluation())?;
//! assert_eq!(evaluation.images(), 20);
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use super::Executor;
use super::Recipe;
use super::layers::{self, LayerMetrics};
use super::metrics::{EpochMetrics, StepMetrics, rank};
use super::trace::first_not_finite;
use crate::data::loader::LoaderOptions;
use crate::data::{Batch, Dataset, Epoch, Loader};
use crate::layers::{Reduction, SoftmaxCrossEntropy};
use crate::model::ResNet;
use crate::optim::{Sgd, TrainingTime, WeightAverage};
use crate::parameters::Gradients;
use crate::processes::{Alone, Communicator};
use crate::{Error, Result, Scalar};
use ndarray::{Array2, ArrayD, s};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// A run: the model, the optimiser, the recipe and the position.
#[derive(Clone, Debug)]
pub struct Trainer<T: Scalar> {
    model: ResNet<T>,
    executor: Arc<dyn Executor<T>>,
    sgd: Sgd<T>,
    loss: SoftmaxCrossEntropy<T>,
    recipe: Recipe,
    loader: Loader<T>,
    position: Position,
    layers: Vec<LayerMetrics>,
    average: Option<WeightAverage<T>>,
}

/// What [`Trainer::resume`] needs in addition to the model: tensors with their names, and the position.
#[derive(Clone, Debug, Default)]
pub struct Snapshot<T> {
    /// The optimiser's buffers ([`Sgd::buffers`]).
    pub momentum: Vec<(String, ArrayD<T>)>,
    /// The average of the weights ([`WeightAverage::tensors`]), if the recipe has one.
    pub average: Vec<(String, ArrayD<T>)>,
    /// [`Trainer::layers`], if all steps of the epoch are taken.
    pub layers: Vec<LayerMetrics>,
    /// The position of the run.
    pub position: Position,
}

/// The position in a run. There is no state of a random number generator: the order of an epoch and the crop of an
/// image are functions of the seed, the epoch and the image ([`crate::rng`]), so the position determines everything.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Epochs completed.
    pub epoch: usize,
    /// Steps taken in the epoch after these; all of them if only its metrics are still to be returned.
    pub step: usize,
    /// The sums over these steps.
    pub sums: Sums,
}

/// The metrics of an unfinished epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ loss · images.
    pub loss: f64,
    /// Σ of the norms of the gradients.
    pub gradient_norm: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Images classified correctly.
    pub top1: usize,
    /// Images whose class is among the five largest logits.
    pub top5: usize,
    /// Images seen.
    pub images: usize,
    /// Wall-clock time, including that of interrupted attempts.
    pub seconds: f64,
}

impl<T: Scalar> Trainer<T> {
    /// A run before its first step. `train` are the training images, without a held-out validation set. The recipe decides
    /// about the groups of the model's batch norms.
    ///
    /// # Errors
    /// If the recipe is not valid, there are no images, or their classes are not those of the model.
    pub fn new(
        mut model: ResNet<T>,
        executor: Arc<dyn Executor<T>>,
        recipe: Recipe,
        train: Arc<Dataset>,
    ) -> Result<Self> {
        recipe.check()?;
        let classes = model.architecture().classes;
        if train.is_empty() || train.classes.len() != classes {
            let found = format!("got {} images of {} classes", train.len(), train.classes.len());
            return Err(Error::argument("train", format!("expects images of {classes} classes, {found}")));
        }
        let group = NonZeroUsize::new(recipe.norm_group);
        model.norms_mut().into_iter().for_each(|bn| bn.group = group);
        let options = LoaderOptions {
            augmentation: recipe.augmentation,
            mixup: recipe.mixup,
            ..LoaderOptions::training(recipe.batch_size, recipe.normalization, recipe.seed)
        };
        let label_smoothing = T::of(recipe.label_smoothing);
        let average = (recipe.ema_decay > 0.0).then(|| WeightAverage::new(recipe.ema_decay, &model)).transpose()?;
        Ok(Trainer {
            model,
            executor,
            sgd: Sgd::new(recipe.sgd)?,
            loss: SoftmaxCrossEntropy { label_smoothing, reduction: Reduction::Mean },
            loader: Loader::new(train, options)?.among(recipe.shards, Arc::new(Alone)),
            recipe,
            position: Position::default(),
            layers: Vec::new(),
            average,
        })
    }

    /// A run that continues where the snapshot was taken, with the `model` of that position. The results are
    /// bit-identical to those of an uninterrupted run.
    ///
    /// # Errors
    /// As [`Trainer::new`]; or if the position is not in this run, or the tensors do not fit the model.
    pub fn resume(
        model: ResNet<T>,
        executor: Arc<dyn Executor<T>>,
        snapshot: Snapshot<T>,
        recipe: Recipe,
        train: Arc<Dataset>,
    ) -> Result<Self> {
        let Snapshot { momentum, average, layers, position } = snapshot;
        let mut trainer = Trainer::new(model, executor, recipe, train)?;
        let (epochs, steps) = (trainer.recipe.epochs, trainer.steps_per_epoch());
        let Position { epoch, step, .. } = position;
        // There are no steps after the last epoch.
        if epoch > epochs || step > steps || (epoch == epochs && step > 0) {
            let found = format!("got epoch {epoch}, step {step}");
            let message = format!("expects a position within {epochs} epochs of {steps} steps, {found}");
            return Err(Error::argument("resume", message));
        }
        trainer.sgd.restore(&trainer.model, momentum)?;
        if let Some(own) = &mut trainer.average {
            own.restore(average)?;
        }
        (trainer.position, trainer.layers) = (position, layers);
        Ok(trainer)
    }

    /// The same run on several processes, of which this is one: all of them train it together, step by step, and each has
    /// the complete model. The result is bit-identical to that of one process.
    ///
    /// # Errors
    /// If there are more processes than shards.
    pub fn among(mut self, processes: Arc<dyn Communicator>) -> Result<Self> {
        let (shards, size) = (self.recipe.shards, processes.size());
        if size > shards {
            let found = format!("got {size} processes and {shards} shards");
            return Err(Error::argument("Trainer::among", format!("expects at least one shard per process, {found}")));
        }
        self.loader = self.loader.among(shards, processes);
        Ok(self)
    }

    /// The position of the run.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The optimiser.
    pub fn sgd(&self) -> &Sgd<T> {
        &self.sgd
    }

    /// The effect of the last step of the last completed epoch on every trained tensor; empty before the first.
    pub fn layers(&self) -> &[LayerMetrics] {
        &self.layers
    }

    /// Steps per epoch: ⌈batches / accumulate⌉.
    pub fn steps_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch().div_ceil(self.recipe.accumulate)
    }

    /// The executor that computes the passes.
    pub fn executor(&self) -> &Arc<dyn Executor<T>> {
        &self.executor
    }

    /// The current model.
    pub fn model(&self) -> &ResNet<T> {
        &self.model
    }

    /// The average of its weights over the steps, if the recipe has one.
    pub fn average(&self) -> Option<&WeightAverage<T>> {
        self.average.as_ref()
    }

    /// The model to evaluate and to save: the average if the recipe has one, otherwise the current model.
    pub fn result(&self) -> ResNet<T> {
        let mut model = self.model.clone();
        if let Some(average) = &self.average {
            average.copy_to(&mut model);
        }
        model
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Epochs completed.
    pub fn epoch(&self) -> usize {
        self.position.epoch
    }

    /// Whether all steps of the current epoch are taken, and only its metrics are still to be returned.
    pub fn has_all_steps(&self) -> bool {
        self.position.step == self.steps_per_epoch()
    }

    /// Whether every epoch of the recipe is completed.
    pub fn is_done(&self) -> bool {
        self.position.epoch >= self.recipe.epochs
    }

    /// Trains on the rest of the epoch. `observe` is called after every step and may interrupt the epoch; then the
    /// result is `None`, the model has taken the steps so far, and the next call continues after them. After the last
    /// step there is nothing left to train on, and the next call returns the metrics at once.
    ///
    /// # Errors
    /// If the loss is no longer finite, or a layer rejects its input.
    pub fn train_epoch(
        &mut self,
        observe: &mut dyn FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<Option<EpochMetrics>> {
        let Position { epoch, step: first, .. } = self.position;
        let (start, before) = (Instant::now(), self.position.sums.seconds);
        let (steps_per_epoch, accumulate) = (self.steps_per_epoch(), self.recipe.accumulate);
        let first_batch = (first * accumulate).min(self.loader.batches_per_epoch());
        let mut batches = self.loader.epoch_from(epoch as u64, first_batch)?;
        for step in first..steps_per_epoch {
            let progress = TrainingTime::in_epoch(epoch, step, steps_per_epoch, self.recipe.epochs)?;
            let lr = self.recipe.schedule.lr(self.recipe.lr, progress);
            let outcome = self.step(&mut batches, step, lr)?;
            let count = outcome.images;
            let sums = &mut self.position.sums;
            sums.loss += outcome.loss * count as f64;
            sums.gradient_norm += outcome.gradient_norm;
            sums.lr = lr;
            sums.top1 += outcome.top1;
            sums.top5 += outcome.top5;
            sums.images += count;
            sums.seconds = before + start.elapsed().as_secs_f64();
            self.position.step += 1;
            let metrics = StepMetrics {
                epoch,
                step,
                steps_per_epoch,
                images: count,
                lr,
                loss: outcome.loss,
                correct: outcome.top1,
                gradient_norm: outcome.gradient_norm,
            };
            if observe(&metrics).is_break() {
                return Ok(None);
            }
        }
        let sums = self.position.sums;
        let seen = sums.images as f64;
        let metrics = EpochMetrics {
            epoch,
            lr: sums.lr,
            loss: sums.loss / seen,
            top1: sums.top1 as f64 / seen,
            top5: sums.top5 as f64 / seen,
            gradient_norm: sums.gradient_norm / steps_per_epoch as f64,
            images: sums.images,
            seconds: sums.seconds,
        };
        self.position = Position { epoch: epoch + 1, ..Position::default() };
        Ok(Some(metrics))
    }

    /// One step: forward, loss and backward for each of its batches, then the update.
    ///
    /// The gradient of a step is that of the mean loss over all its images, g = Σ_b (n_b / n) g_b. With batches of
    /// different sizes this is not the mean of the batches' gradients. Batch norm normalises each batch by itself, and all
    /// its shards together, unless the recipe has groups.
    fn step(&mut self, batches: &mut Epoch<T>, step: usize, lr: f64) -> Result<StepOutcome> {
        let Recipe { batch_size, accumulate, clip_norm, .. } = self.recipe;
        let images = (batch_size * accumulate).min(self.loader.dataset().len() - step * batch_size * accumulate);
        let (mut loss, mut top1, mut top5, mut sum) = (0.0, 0, 0, None::<Gradients<T>>);
        for batch in batches.take(accumulate) {
            let batch = batch?;
            let (logits, pass) = self.executor.forward(&self.model, &batch.images, &batch.shards)?;
            let (sums, dlogits) = self.loss(&logits, &batch, images)?;
            if !sums.loss.is_finite() {
                // Before the update: the diagnosis needs the weights that gave this loss.
                return Err(self.diverged(&batch, step, lr, sums.loss));
            }
            pass.update_running_statistics(&mut self.model);
            (loss, top1, top5) = (loss + sums.loss, top1 + sums.top1, top5 + sums.top5);
            let gradients = pass.parameter_gradients(&self.model, &dlogits)?;
            sum = Some(match sum {
                None => gradients,
                Some(mut sum) => {
                    sum.add(&gradients);
                    self.executor.recycle(gradients);
                    sum
                }
            });
        }
        let mut gradients = sum.expect("a step has a batch");
        let gradient_norm = if clip_norm > 0.0 { gradients.clip_norm(clip_norm) } else { gradients.norm() };
        // Only the last step of an epoch is measured layer by layer: that takes a copy of the weights.
        let steps_per_epoch = self.steps_per_epoch();
        let before = (step + 1 == steps_per_epoch).then(|| layers::copy(&self.model));
        self.sgd.step(&mut self.model, &gradients, lr)?;
        if let Some(average) = &mut self.average {
            average.update(&self.model, self.position.epoch * steps_per_epoch + step);
        }
        if let Some(before) = before {
            self.layers = layers::measure(&before, &self.model, &gradients);
        }
        self.executor.recycle(gradients);
        Ok(StepOutcome { loss, top1, top5, images, gradient_norm })
    }

    /// The loss of a batch as a part of a step with `images` images, of all processes, and its gradient with respect to the
    /// logits of this one: that of a shard times its share of the images. With one shard per step the share is 1, and
    /// multiplying by it changes no bit.
    fn loss(&self, logits: &Array2<T>, batch: &Batch<T>, images: usize) -> Result<(LossSums, Array2<T>)> {
        let (mut own, mut dlogits) = (Vec::new(), Array2::zeros(logits.raw_dim()));
        for shard in batch.shards.ranges().into_iter().filter(|shard| !shard.is_empty()) {
            let logits = logits.slice(s![shard.clone(), ..]).to_owned();
            let labels = &batch.labels[shard.clone()];
            let mix = batch.mix.as_ref().map(|mix| (mix.lambda, &mix.labels[shard.clone()]));
            let (loss, gradient) = self.loss_of_shard(&logits, labels, mix)?;
            let share = shard.len() as f64 / images as f64;
            dlogits.slice_mut(s![shard, ..]).assign(&(gradient * T::of(share)));
            let ranks = logits.outer_iter().zip(labels).map(|(row, &target)| rank(row, target));
            let (top1, top5) =
                ranks.fold((0, 0), |(one, five), r| (one + usize::from(r == 0), five + usize::from(r < 5)));
            own.push(LossSums { loss: share * loss.as_f64(), top1, top5 });
        }
        let own: Vec<u8> = own.iter().flat_map(LossSums::to_bytes).collect();
        let of_all = batch.shards.processes().all_gather_bytes(&own).concat();
        // In the order of the shards.
        let sum = of_all.chunks_exact(LossSums::BYTES).map(LossSums::from_bytes).reduce(|a, b| LossSums {
            loss: a.loss + b.loss,
            top1: a.top1 + b.top1,
            top5: a.top5 + b.top5,
        });
        Ok((sum.expect("a batch has a shard"), dlogits))
    }

    /// The mean loss and its gradient with respect to the logits. For images that are mixed with those of other classes
    /// ([`mixup`](crate::data::mixup)) it is λ L(t) + (1 − λ) L(t ∘ π).
    fn loss_of_shard(
        &self,
        logits: &Array2<T>,
        labels: &[usize],
        mix: Option<(f64, &[usize])>,
    ) -> Result<(T, Array2<T>)> {
        let loss_of = |targets: &[usize]| -> Result<(T, Array2<T>)> {
            let (loss, cache) = self.loss.forward(logits, targets)?;
            Ok((loss, self.loss.backward(&cache)))
        };
        let (loss, dlogits) = loss_of(labels)?;
        let Some((lambda, others)) = mix else { return Ok((loss, dlogits)) };
        let (partner_loss, partner_dlogits) = loss_of(others)?;
        let (lambda, rest) = (T::of(lambda), T::of(1.0 - lambda));
        Ok((lambda * loss + rest * partner_loss, dlogits * lambda + partner_dlogits * rest))
    }

    fn diverged(&self, batch: &Batch<T>, step: usize, lr: f64, loss: f64) -> Error {
        let place = format!("in epoch {}, step {}, at learning rate {lr:.4e}", self.position.epoch + 1, step + 1);
        // Of several processes, perhaps only another one has the image.
        let own = first_not_finite(&self.model, &batch.images).unwrap_or_default();
        let all = batch.shards.processes().all_gather_bytes(own.as_bytes());
        let first = all.iter().find(|layer| !layer.is_empty()).map(|layer| String::from_utf8_lossy(layer));
        let first = match (first, self.executor.name()) {
            (Some(layer), _) => format!("the first layer whose result is not finite is `{layer}`"),
            (None, "fast") => {
                "the reference is finite on this batch, only the engine overflows: use --conv indirect or \
                               --engine reference"
                    .to_string()
            }
            (None, _) => "every activation is finite".to_string(),
        };
        let advice = "try a smaller --lr, or a warm-up before the schedule";
        Error::NotFinite { message: format!("the loss became {loss} {place}; {first}; {advice}") }
    }
}

/// Sums over the images of a shard.
struct LossSums {
    /// The mean loss times the share of the step's images.
    loss: f64,
    top1: usize,
    top5: usize,
}

impl LossSums {
    const BYTES: usize = 24;

    fn to_bytes(&self) -> [u8; Self::BYTES] {
        let words = [self.loss.to_bits(), self.top1 as u64, self.top5 as u64].map(u64::to_le_bytes);
        words.concat().try_into().expect("three words")
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("eight bytes"));
        LossSums { loss: f64::from_bits(word(0)), top1: word(1) as usize, top5: word(2) as usize }
    }
}

struct StepOutcome {
    loss: f64,
    top1: usize,
    top5: usize,
    images: usize,
    gradient_norm: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{embedded, mixup::Mix};
    use crate::layers::Mode;
    use crate::layers::softmax_cross_entropy::softmax;
    use crate::model::Architecture;
    use crate::parameters::Parameters as _;
    use crate::shards::Shards;
    use crate::train::Reference;
    use ndarray::array;

    fn trainer(recipe: Recipe, images: usize) -> Trainer<f64> {
        let train = embedded::load().train.subset(&(0..images).collect::<Vec<_>>()).unwrap();
        let model = ResNet::new(&Architecture::by_name("resnet8").unwrap(), 3).unwrap();
        Trainer::new(model, Arc::new(Reference), recipe, Arc::new(train)).unwrap()
    }

    fn recipe() -> Recipe {
        Recipe { epochs: 1, label_smoothing: 0.2, ..Recipe::by_name("demo").unwrap() }
    }

    /// The two losses compared with one loss whose target has two classes: loss = −Σ q log p / N, dlogits = (p − q) / N.
    #[test]
    fn the_loss_of_mixed_images_is_that_of_mixed_targets() {
        let trainer = trainer(recipe(), 4);
        let logits = array![[0.5, -1.0, 2.0], [0.1, 0.2, -0.3], [1.5, 0.0, 0.3]];
        let (labels, mix) = ([2, 0, 1], Mix { lambda: 0.625, partners: vec![1, 0, 2] });
        let targets = mix.targets(&labels, 0..3);
        let (loss, dlogits) = trainer.loss_of_shard(&logits, &labels, Some((mix.lambda, &targets.labels))).unwrap();
        // 0.8 of the target as below, 0.2 over three classes.
        let targets = array![[0.375, 0.0, 0.625], [0.625, 0.0, 0.375], [0.0, 1.0, 0.0]];
        let (q, p) = (targets * 0.8 + 0.2 / 3.0, softmax(&logits));
        let expected = -(&q * &p.mapv(f64::ln)).sum() / 3.0;
        // About ten roundings of numbers near 1.
        assert!((loss - expected).abs() <= 10.0 * f64::EPSILON, "{loss} {expected}");
        let expected = (p - q) / 3.0;
        assert!(dlogits.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 10.0 * f64::EPSILON));
    }

    /// Shards of two and three images, which count by their images; half of the images of the step.
    #[test]
    fn the_loss_of_shards_is_that_of_their_images() {
        let trainer = trainer(recipe(), 4);
        let logits = Array2::from_shape_fn((5, 3), |(n, k)| ((7 * n + 5 * k) % 11) as f64 / 4.0 - 1.0);
        let (labels, images) = (vec![2, 0, 1, 1, 0], ndarray::Array4::zeros((5, 1, 1, 3)).into_shared());
        let loss_of = |shards: usize| {
            let shards = Shards::new(5, shards, Arc::new(Alone));
            let (labels, images) = (labels.clone(), images.clone());
            let batch = Batch { images, labels, indices: vec![0, 1, 2, 3, 4], mix: None, shards };
            trainer.loss(&logits, &batch, 10).unwrap()
        };
        let ((one, gradient), (two, of_shards)) = (loss_of(1), loss_of(2));
        let (mean, _) = trainer.loss_of_shard(&logits, &labels, None).unwrap();
        // A few roundings of numbers near 1.
        let near = |a: f64, b: f64| (a - b).abs() <= 8.0 * f64::EPSILON;
        assert!(near(one.loss, mean / 2.0) && near(two.loss, one.loss), "{} {} {mean}", one.loss, two.loss);
        assert!(gradient.iter().zip(&of_shards).all(|(&a, &b)| near(a, b)), "{gradient} {of_shards}");
        assert_eq!((one.top1, one.top5), (two.top1, two.top5));
    }

    #[test]
    fn the_recipe_decides_whether_images_are_mixed() {
        let first_loss = |mixup: f64| {
            let mut trainer = trainer(Recipe { mixup, batch_size: 8, ..recipe() }, 8);
            trainer.train_epoch(&mut |_| ControlFlow::Continue(())).unwrap().unwrap().loss
        };
        assert!(first_loss(0.0) != first_loss(1.0));
    }

    /// Ten images in batches of four, three batches per step: one step with batches of 4, 4 and 2. Its gradient is the
    /// sum of the gradients of the summed losses, divided by 10, every batch with its own statistics; without momentum
    /// and decay the step is −lr times that.
    #[test]
    fn accumulated_gradients_are_those_of_all_images() {
        let sgd = crate::optim::SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 0.0, ..recipe().sgd };
        let constant = crate::optim::Schedule::constant();
        let recipe = Recipe { batch_size: 4, accumulate: 3, lr: 0.5, schedule: constant, sgd, ..recipe() };
        let mut trainer = trainer(recipe, 10);
        assert_eq!(trainer.steps_per_epoch(), 1);
        let mut model = trainer.model().clone();
        let loss = SoftmaxCrossEntropy { reduction: Reduction::Sum, ..trainer.loss };
        let mut sum: Vec<(String, ArrayD<f64>)> = Vec::new();
        let mut losses = 0.0;
        for batch in trainer.loader.epoch(0).map(Result::unwrap) {
            let (logits, cache) = model.forward(&batch.images, Mode::Train).unwrap();
            let (batch_loss, loss_cache) = loss.forward(&logits, &batch.labels).unwrap();
            losses += batch_loss;
            model.update_running_statistics(&cache);
            let gradients = model.parameter_gradients(&loss.backward(&loss_cache), cache).unwrap();
            let gradients = gradients.iter().map(|(name, g)| (name.to_string(), g.clone()));
            match sum.is_empty() {
                true => sum = gradients.collect(),
                false => sum.iter_mut().zip(gradients).for_each(|((_, sum), (_, g))| *sum += &g),
            }
        }
        let mut steps = 0;
        let epoch = trainer.train_epoch(&mut |step| {
            steps += 1;
            assert_eq!((step.images, step.steps_per_epoch), (10, 1));
            ControlFlow::Continue(())
        });
        let epoch = epoch.unwrap().unwrap();
        assert_eq!((steps, epoch.images), (1, 10));
        assert!((epoch.loss - losses / 10.0).abs() <= 1e-14 * losses, "{} {losses}", epoch.loss);
        let mut rest = sum.iter();
        model.visit_mut("", &mut |name, role, mut tensor| {
            if role.is_trained() {
                let (own, gradient) = rest.next().unwrap();
                assert_eq!(own, name);
                tensor.zip_mut_with(gradient, |w, g| *w -= 0.5 * g / 10.0);
            }
        });
        // The same sums with dlogits divided by ten before instead of after: 2⁻⁵² for each of about a thousand
        // consecutive operations on numbers near 1.
        let mut all = Vec::new();
        model.visit("", &mut |_, _, tensor| all.push(tensor.to_owned()));
        let mut rest = all.iter();
        trainer.model().visit("", &mut |name, _, tensor| {
            let expected = rest.next().unwrap();
            for (a, b) in tensor.iter().zip(expected) {
                assert!((a - b).abs() <= 1e-12, "{name}: {a} {b}");
            }
        });
    }

    /// The evaluated weights are the average, by its definition, of the weights after every step.
    #[test]
    fn the_result_is_the_average_of_the_weights() {
        let recipe = Recipe { epochs: 2, batch_size: 5, ema_decay: 0.3, ..recipe() };
        let mut trainer = trainer(recipe, 20);
        let weight = |model: &ResNet<f64>| {
            let mut first = 0.0;
            model.visit("", &mut |name, _, tensor| {
                if name == "fc.weight" {
                    first = tensor[[0, 0]];
                }
            });
            first
        };
        let mut average = weight(trainer.model());
        // Two epochs of four steps; the count of steps continues.
        for d in [1.0 / 10.0, 2.0 / 11.0, 3.0 / 12.0, 0.3, 0.3, 0.3, 0.3, 0.3] {
            if trainer.has_all_steps() {
                assert!(trainer.train_epoch(&mut |_| panic!("a step too many")).unwrap().is_some());
            }
            assert!(trainer.train_epoch(&mut |_| ControlFlow::Break(())).unwrap().is_none());
            average = d * average + (1.0 - d) * weight(trainer.model());
            assert!((weight(&trainer.result()) - average).abs() <= 1e-15, "{d}");
        }
        assert!(weight(trainer.model()) != average);
    }
}
