//! The loop: see the [parent module](super) for its outline.
//!
//! ```
//! use resnet_by_hand::data::embedded;
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
//! let mut trainer = Trainer::new(model, recipe, train.clone())?;
//! while !trainer.is_done() {
//!     trainer.train_epoch(&mut |step| {
//!         assert!(step.loss.is_finite());
//!         ControlFlow::Continue(())
//!     })?;
//! }
//! let evaluation = evaluate(trainer.model(), &train, trainer.recipe().normalization, 20)?;
//! assert_eq!(evaluation.images(), 20);
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use super::layers::{self, LayerMetrics};
use super::metrics::{rank, EpochMetrics, StepMetrics};
use super::Recipe;
use crate::data::loader::LoaderOptions;
use crate::data::{Batch, Dataset, Loader};
use crate::kernels::buffers::recycle;
use crate::layers::{Mode, Reduction, SoftmaxCrossEntropy};
use crate::model::ResNet;
use crate::optim::{Progress, Sgd};
use crate::oracle::program::{Program, Undisturbed, Value};
use crate::{Error, Result, Scalar};
use ndarray::ArrayD;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// A run: the model, the optimiser, the recipe and where in it we are.
#[derive(Clone, Debug)]
pub struct Trainer<T> {
    model: ResNet<T>,
    sgd: Sgd<T>,
    loss: SoftmaxCrossEntropy<T>,
    recipe: Recipe,
    loader: Loader<T>,
    position: Position,
    layers: Vec<LayerMetrics>,
}

/// Where in a run we are. There is no state of a random number generator: the order of an epoch and the crop of an image are
/// functions of the seed, the epoch and the image ([`crate::rng`]), so the position is all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Epochs completed.
    pub epoch: usize,
    /// Steps taken in the epoch after those.
    pub step: usize,
    /// What these steps have added up.
    pub sums: Sums,
}

/// The metrics of an epoch while it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ loss · images.
    pub loss: f64,
    /// Σ of the norms of the gradients.
    pub gradient_norm: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Images classified right.
    pub top1: usize,
    /// Images whose class was among the first five.
    pub top5: usize,
    /// Images seen.
    pub images: usize,
    /// Wall-clock time, that of interrupted attempts included.
    pub seconds: f64,
}

impl<T: Scalar> Trainer<T> {
    /// A run that has not begun. `train` is what to learn from, a held-out validation set already removed.
    ///
    /// # Errors
    /// If the recipe is not valid, there are no images, or their classes are not those of the model.
    pub fn new(model: ResNet<T>, recipe: Recipe, train: Arc<Dataset>) -> Result<Self> {
        recipe.check()?;
        let classes = model.architecture().classes;
        if train.is_empty() || train.classes.len() != classes {
            let found = format!("got {} images of {} classes", train.len(), train.classes.len());
            return Err(Error::argument("train", format!("expects images of {classes} classes, {found}")));
        }
        let options = LoaderOptions {
            augmentation: recipe.augmentation,
            ..LoaderOptions::training(recipe.batch_size, recipe.normalization, recipe.seed)
        };
        let label_smoothing = T::of(recipe.label_smoothing);
        Ok(Trainer {
            model,
            sgd: Sgd::new(recipe.sgd)?,
            loss: SoftmaxCrossEntropy { label_smoothing, reduction: Reduction::Mean },
            loader: Loader::new(train, options)?,
            recipe,
            position: Position::default(),
            layers: Vec::new(),
        })
    }

    /// A run that goes on at `position`, with `model` as it was there and the optimiser's buffers ([`Sgd::buffers`]). What follows
    /// has the same bits as if there had been no break.
    ///
    /// # Errors
    /// As [`Trainer::new`]; if the position is not one of this run, or the buffers are not those of the model.
    pub fn resume(
        model: ResNet<T>,
        buffers: impl IntoIterator<Item = (String, ArrayD<T>)>,
        recipe: Recipe,
        train: Arc<Dataset>,
        position: Position,
    ) -> Result<Self> {
        let mut trainer = Trainer::new(model, recipe, train)?;
        let (epochs, steps) = (trainer.recipe.epochs, trainer.loader.batches_per_epoch());
        let Position { epoch, step, .. } = position;
        // Behind the last epoch there are no steps.
        if epoch > epochs || step >= steps || (epoch == epochs && step > 0) {
            let found = format!("got epoch {epoch}, step {step}");
            let message = format!("expects a position within {epochs} epochs of {steps} steps, {found}");
            return Err(Error::argument("resume", message));
        }
        trainer.sgd.restore(&trainer.model, buffers)?;
        trainer.position = position;
        Ok(trainer)
    }

    /// Where the run is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The optimiser.
    pub fn sgd(&self) -> &Sgd<T> {
        &self.sgd
    }

    /// What the last step of the last completed epoch did to every learned tensor; empty before there is one.
    pub fn layers(&self) -> &[LayerMetrics] {
        &self.layers
    }

    /// Steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch()
    }

    /// The model as it is now.
    pub fn model(&self) -> &ResNet<T> {
        &self.model
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Epochs completed.
    pub fn epoch(&self) -> usize {
        self.position.epoch
    }

    /// Whether every epoch of the recipe is completed.
    pub fn is_done(&self) -> bool {
        self.position.epoch >= self.recipe.epochs
    }

    /// The rest of a pass over the training images. `observe` sees every step and may break off; then the result is `None`, the
    /// model has taken the steps seen so far, and the next call goes on behind them.
    ///
    /// # Errors
    /// If the loss is not finite any more, or a layer refuses its input.
    pub fn train_epoch(
        &mut self,
        observe: &mut dyn FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<Option<EpochMetrics>> {
        let Position { epoch, step: first, .. } = self.position;
        let (start, before) = (Instant::now(), self.position.sums.seconds);
        let steps_per_epoch = self.loader.batches_per_epoch();
        for (step, batch) in (first..).zip(self.loader.epoch_from(epoch as u64, first)?) {
            let progress = Progress::in_epoch(epoch, step, steps_per_epoch, self.recipe.epochs)?;
            let lr = self.recipe.schedule.lr(self.recipe.lr, progress);
            let outcome = self.step(&batch, step, lr)?;
            let count = batch.labels.len();
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
            // After the last step the epoch is complete, whatever the observer thinks.
            if observe(&metrics).is_break() && self.position.step < steps_per_epoch {
                return Ok(None);
            }
            recycle(batch.images);
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

    /// One step: forward, loss, backward, update.
    fn step(&mut self, batch: &Batch<T>, step: usize, lr: f64) -> Result<StepOutcome> {
        let (logits, cache) = self.model.forward(&batch.images, Mode::Train)?;
        let (loss, loss_cache) = self.loss.forward(&logits, &batch.labels)?;
        if !loss.is_finite() {
            // Before anything is updated: what is looked at is what was computed.
            return Err(self.diverged(batch, step, lr, loss.as_f64()));
        }
        self.model.update_running_statistics(&cache);
        let mut gradients = self.model.parameter_gradients(&self.loss.backward(&loss_cache), cache)?;
        let clip_norm = self.recipe.clip_norm;
        let gradient_norm = if clip_norm > 0.0 { gradients.clip_norm(clip_norm) } else { gradients.norm() };
        // Only the last step of an epoch is measured layer by layer: that takes a copy of the weights.
        let before = (step + 1 == self.loader.batches_per_epoch()).then(|| layers::copy(&self.model));
        self.sgd.step(&mut self.model, &gradients, lr)?;
        if let Some(before) = before {
            self.layers = layers::measure(&before, &self.model, &gradients);
        }

        let ranks = logits.outer_iter().zip(&batch.labels).map(|(row, &target)| rank(row, target));
        let (top1, top5) = ranks.fold((0, 0), |(one, five), r| (one + usize::from(r == 0), five + usize::from(r < 5)));
        Ok(StepOutcome { loss: loss.as_f64(), top1, top5, gradient_norm })
    }

    fn diverged(&self, batch: &Batch<T>, step: usize, lr: f64, loss: f64) -> Error {
        let place = format!("in epoch {}, step {}, at learning rate {lr:.4e}", self.position.epoch + 1, step + 1);
        let first = match self.first_not_finite(batch) {
            Some(layer) => format!("the first layer whose result is not finite is `{layer}`"),
            None => "every activation is finite".to_string(),
        };
        let advice = "try a smaller --lr, or a warm-up in front of the schedule";
        Error::NotFinite { message: format!("the loss became {loss} {place}; {first}; {advice}") }
    }

    /// The first layer, in the order of execution, whose result on the batch has an infinity or a NaN in it. The network runs once
    /// more for it, as a list of named steps.
    fn first_not_finite(&self, batch: &Batch<T>) -> Option<String> {
        let program = Program::of_network(&self.model);
        let forward = program.forward(Value::Images(batch.images.clone()), Mode::Train, &mut Undisturbed).ok()?;
        let finite = |value: &Value<T>| match value {
            Value::Images(x) => x.iter().all(|x| x.is_finite()),
            Value::Rows(x) => x.iter().all(|x| x.is_finite()),
        };
        // Value 0 is the batch itself.
        let results = program.steps.iter().zip(&forward.values[1..]);
        results.into_iter().find(|(_, value)| !finite(value)).map(|(step, _)| step.name.clone())
    }
}

struct StepOutcome {
    loss: f64,
    top1: usize,
    top5: usize,
    gradient_norm: f64,
}
