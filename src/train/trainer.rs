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

use super::metrics::{rank, EpochMetrics, StepMetrics};
use super::Recipe;
use crate::data::loader::LoaderOptions;
use crate::data::{Batch, Dataset, Loader};
use crate::kernels::buffers::recycle;
use crate::layers::{Mode, Reduction, SoftmaxCrossEntropy};
use crate::model::ResNet;
use crate::optim::{Progress, Sgd};
use crate::{Error, Result, Scalar};
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
    epoch: usize,
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
            epoch: 0,
        })
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
        self.epoch
    }

    /// Whether every epoch of the recipe is completed.
    pub fn is_done(&self) -> bool {
        self.epoch >= self.recipe.epochs
    }

    /// One pass over the training images. `observe` sees every step and may break off; then the result is `None`, and
    /// the model has taken the steps seen so far.
    ///
    /// # Errors
    /// If the loss is not finite any more, or a layer refuses its input.
    pub fn train_epoch(
        &mut self,
        observe: &mut dyn FnMut(&StepMetrics) -> ControlFlow<()>,
    ) -> Result<Option<EpochMetrics>> {
        let start = Instant::now();
        let (mut loss, mut top1, mut top5, mut images, mut norms, mut lr) = (0.0, 0, 0, 0, 0.0, 0.0);
        let steps_per_epoch = self.loader.batches_per_epoch();
        for (step, batch) in self.loader.epoch(self.epoch as u64).enumerate() {
            let progress = Progress::in_epoch(self.epoch, step, steps_per_epoch, self.recipe.epochs)?;
            lr = self.recipe.schedule.lr(self.recipe.lr, progress);
            let outcome = self.step(&batch, lr)?;
            let count = batch.labels.len();
            if !outcome.loss.is_finite() {
                return Err(self.diverged(step, lr, outcome.loss));
            }
            loss += outcome.loss * count as f64;
            top1 += outcome.top1;
            top5 += outcome.top5;
            norms += outcome.gradient_norm;
            images += count;
            let metrics = StepMetrics {
                epoch: self.epoch,
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
            recycle(batch.images);
        }
        let seen = images as f64;
        let metrics = EpochMetrics {
            epoch: self.epoch,
            lr,
            loss: loss / seen,
            top1: top1 as f64 / seen,
            top5: top5 as f64 / seen,
            gradient_norm: norms / steps_per_epoch as f64,
            images,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.epoch += 1;
        Ok(Some(metrics))
    }

    /// One step: forward, loss, backward, update.
    fn step(&mut self, batch: &Batch<T>, lr: f64) -> Result<StepOutcome> {
        let (logits, cache) = self.model.forward(&batch.images, Mode::Train)?;
        let (loss, loss_cache) = self.loss.forward(&logits, &batch.labels)?;
        self.model.update_running_statistics(&cache);
        let gradients = self.model.parameter_gradients(&self.loss.backward(&loss_cache), cache)?;
        self.sgd.step(&mut self.model, &gradients, lr)?;

        let ranks = logits.outer_iter().zip(&batch.labels).map(|(row, &target)| rank(row, target));
        let (top1, top5) = ranks.fold((0, 0), |(one, five), r| (one + usize::from(r == 0), five + usize::from(r < 5)));
        Ok(StepOutcome { loss: loss.as_f64(), top1, top5, gradient_norm: gradients.norm() })
    }

    fn diverged(&self, step: usize, lr: f64, loss: f64) -> Error {
        let place = format!("in epoch {}, step {}, at learning rate {lr:.4e}", self.epoch + 1, step + 1);
        let advice = "try a smaller --lr, or a warm-up in front of the schedule";
        Error::NotFinite { message: format!("the loss became {loss} {place}; {advice}") }
    }
}

struct StepOutcome {
    loss: f64,
    top1: usize,
    top5: usize,
    gradient_norm: f64,
}
