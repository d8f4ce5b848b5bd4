//! What is measured during training and evaluation.

use crate::data::loader::LoaderOptions;
use crate::data::{Dataset, Loader, Normalization};
use crate::kernels::buffers::recycle;
use crate::layers::softmax_cross_entropy::log_softmax;
use crate::model::ResNet;
use crate::{Error, Result, Scalar};
use ndarray::{Array2, ArrayView1};
use std::sync::Arc;

/// One training step.
#[derive(Clone, Copy, Debug)]
pub struct StepMetrics {
    /// Epoch, counted from 0.
    pub epoch: usize,
    /// Step within the epoch, counted from 0.
    pub step: usize,
    /// Steps in an epoch.
    pub steps_per_epoch: usize,
    /// Images of this batch.
    pub images: usize,
    /// Learning rate of this step.
    pub lr: f64,
    /// Loss of this batch, before the step.
    pub loss: f64,
    /// Images of this batch classified right, before the step.
    pub correct: usize,
    /// √(Σ g²) over all gradients, before they are clipped.
    pub gradient_norm: f64,
}

/// One epoch of training, measured batch by batch while the weights move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochMetrics {
    /// Epoch, counted from 0.
    pub epoch: usize,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Mean loss per image.
    pub loss: f64,
    /// Share of images whose class had the largest logit.
    pub top1: f64,
    /// Share of images whose class was among the five largest logits.
    pub top5: f64,
    /// Mean over the steps of √(Σ g²).
    pub gradient_norm: f64,
    /// Images seen.
    pub images: usize,
    /// Wall-clock time.
    pub seconds: f64,
}

impl EpochMetrics {
    /// Training throughput.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.seconds
    }
}

/// How a network does on a data set, exactly: every image counts once, the last smaller batch included.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy per image, without label smoothing.
    pub loss: f64,
    /// Images whose class has the largest logit.
    pub top1: usize,
    /// Images whose class is among the five largest logits.
    pub top5: usize,
    /// `confusion[[true class, predicted class]]`: number of images.
    pub confusion: Array2<usize>,
}

impl Evaluation {
    /// Number of images.
    pub fn images(&self) -> usize {
        self.confusion.sum()
    }

    /// Share of images classified right.
    pub fn accuracy(&self) -> f64 {
        self.top1 as f64 / self.images() as f64
    }

    /// Per class, the share of its images classified right; `None` for a class without images.
    pub fn class_accuracy(&self) -> Vec<Option<f64>> {
        let rows = self.confusion.outer_iter().enumerate();
        rows.map(|(class, row)| (row.sum() > 0).then(|| row[class] as f64 / row.sum() as f64)).collect()
    }
}

/// Classifies every image of `dataset`, batches of `batch_size`; the result does not depend on the batch size up to the
/// rounding of the products, and not at all on the number of threads.
///
/// # Errors
/// If the data set is empty, has classes the network does not know, or images it cannot take.
pub fn evaluate<T: Scalar>(
    model: &ResNet<T>,
    dataset: &Arc<Dataset>,
    normalization: Normalization,
    batch_size: usize,
) -> Result<Evaluation> {
    evaluate_with(model, dataset, normalization, batch_size, &mut |_| ())
}

/// [`evaluate`]; after every batch `observe` is told how many images were classified so far.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_with<T: Scalar>(
    model: &ResNet<T>,
    dataset: &Arc<Dataset>,
    normalization: Normalization,
    batch_size: usize,
    observe: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let classes = model.architecture().classes;
    if dataset.is_empty() || dataset.classes.len() != classes {
        let found = format!("got {} images of {} classes", dataset.len(), dataset.classes.len());
        return Err(Error::argument("evaluate", format!("expects images of {classes} classes, {found}")));
    }
    let loader = Loader::<T>::new(dataset.clone(), LoaderOptions::evaluation(batch_size, normalization))?;
    let (mut loss, mut top1, mut top5, mut seen) = (0.0, 0, 0, 0);
    let mut confusion = Array2::zeros((classes, classes));
    for batch in loader.epoch(0) {
        let logits = model.predict(&batch.images)?;
        recycle(batch.images);
        let log_p = log_softmax(&logits);
        for ((row, log_p), &target) in logits.outer_iter().zip(log_p.outer_iter()).zip(&batch.labels) {
            loss -= log_p[target].as_f64();
            let rank = rank(row, target);
            top1 += usize::from(rank == 0);
            top5 += usize::from(rank < 5);
            confusion[[target, predicted(row)]] += 1;
        }
        seen += batch.labels.len();
        observe(seen);
    }
    Ok(Evaluation { loss: loss / dataset.len() as f64, top1, top5, confusion })
}

/// The class with the largest logit, the first of several equal ones. A NaN is never the largest.
pub fn predicted<T: Scalar>(logits: ArrayView1<T>) -> usize {
    (0..logits.len()).find(|&k| rank(logits, k) == 0).unwrap_or(0)
}

/// How many classes stand before `class` in the order of falling logits, equal ones in the order of their numbers. A NaN
/// stands behind everything.
pub fn rank<T: Scalar>(logits: ArrayView1<T>, class: usize) -> usize {
    let own = logits[class];
    let before = |(k, &z): (usize, &T)| match (z.is_nan(), own.is_nan()) {
        (false, false) => z > own || (z == own && k < class),
        (false, true) => true,
        (true, false) => false,
        (true, true) => k < class,
    };
    logits.iter().enumerate().filter(|&entry| before(entry)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn ranks_break_ties_by_number_and_put_nan_last() {
        let logits = array![1.0, 3.0, f64::NAN, 3.0];
        let ranks: Vec<_> = (0..4).map(|k| rank(logits.view(), k)).collect();
        assert_eq!(ranks, [2, 0, 3, 1]);
        assert_eq!(predicted(logits.view()), 1);
        assert_eq!(predicted(array![f32::NAN, f32::NEG_INFINITY].view()), 1);
    }

    #[test]
    fn class_accuracy_is_the_diagonal_over_the_row() {
        let confusion = array![[3, 1], [0, 0]];
        let evaluation = Evaluation { loss: 0.0, top1: 3, top5: 4, confusion };
        assert_eq!((evaluation.images(), evaluation.accuracy()), (4, 0.75));
        assert_eq!(evaluation.class_accuracy(), [Some(0.75), None]);
    }
}
