//! Metrics of training and evaluation.

use super::Executor;
use crate::data::loader::LoaderOptions;
use crate::data::{Dataset, Loader, Normalization};
use crate::layers::softmax_cross_entropy::log_softmax;
use crate::model::ResNet;
use crate::processes::{Alone, Communicator};
use crate::{Activation, Error, Result, Scalar};
use ndarray::{Array2, ArrayView1, s};
use std::sync::Arc;

/// One training step.
#[derive(Clone, Copy, Debug)]
pub struct StepMetrics {
    /// Epoch, counted from 0.
    pub epoch: usize,
    /// Step within the epoch, counted from 0.
    pub step: usize,
    /// Steps per epoch.
    pub steps_per_epoch: usize,
    /// Images of this batch.
    pub images: usize,
    /// Learning rate of this step.
    pub lr: f64,
    /// Loss of this batch, before the step.
    pub loss: f64,
    /// Images of this batch classified correctly, before the step.
    pub correct: usize,
    /// √(Σ g²) over all gradients, before clipping.
    pub gradient_norm: f64,
}

/// One epoch of training, measured batch by batch while the weights change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochMetrics {
    /// Epoch, counted from 0.
    pub epoch: usize,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Mean loss per image.
    pub loss: f64,
    /// Share of images whose class has the largest logit.
    pub top1: f64,
    /// Share of images whose class is among the five largest logits.
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

/// The results of a network on a data set, exactly: every image counts once, including the last, smaller batch.
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

    /// Share of images classified correctly.
    pub fn accuracy(&self) -> f64 {
        self.top1 as f64 / self.images() as f64
    }

    /// Per class, the share of its images classified correctly; `None` for a class without images.
    pub fn class_accuracy(&self) -> Vec<Option<f64>> {
        let rows = self.confusion.outer_iter().enumerate();
        rows.map(|(class, row)| (row.sum() > 0).then(|| row[class] as f64 / row.sum() as f64)).collect()
    }
}

/// The prediction of a network for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Index of the image in the data set.
    pub index: usize,
    /// Its class.
    pub target: usize,
    /// The class with the largest logit.
    pub class: usize,
    /// The softmax of `class`, from the logits in `f64`: `f32` does not distinguish probabilities that are very near 1.
    pub probability: f64,
    /// The softmax of `target`, likewise.
    pub target_probability: f64,
}

/// How a network is evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationOptions {
    /// How bytes are converted to numbers, as in training.
    pub normalization: Normalization,
    /// Images per batch.
    pub batch_size: usize,
    /// Whether the [`logits`] of an image are averaged with those of its mirror image.
    pub test_flip: bool,
}

impl EvaluationOptions {
    /// Without mirror images.
    pub fn new(normalization: Normalization, batch_size: usize) -> Self {
        EvaluationOptions { normalization, batch_size, test_flip: false }
    }
}

/// The logits `(N, K)` of images `x (N, H, W, 3)` in evaluation mode, or, with `test_flip`, the mean of these logits
/// and those of the mirror images:
///
/// ```text
/// z = (f(x) + f(x mirrored left to right)) / 2
/// ```
///
/// A network that was trained with random flips has seen both. It makes different errors on the two, and the mean of
/// the logits makes fewer. It takes twice as long.
///
/// # Errors
/// If the network does not accept such images.
pub fn logits<T: Scalar>(
    executor: &dyn Executor<T>,
    model: &ResNet<T>,
    x: &Activation<T>,
    test_flip: bool,
) -> Result<Array2<T>> {
    let logits = executor.predict(model, x)?;
    if !test_flip {
        return Ok(logits);
    }
    let mirrored = x.slice(s![.., .., ..;-1, ..]).as_standard_layout().into_owned().into_shared();
    let half = T::of(0.5);
    Ok((logits + executor.predict(model, &mirrored)?).mapv_into(|z| half * z))
}

/// Classifies every image of `dataset`. The result depends on the batch size only by the rounding of the products, and
/// does not depend on the number of threads.
///
/// # Errors
/// If the data set is empty, has another number of classes than the network, or images that it does not accept.
pub fn evaluate<T: Scalar>(
    executor: &dyn Executor<T>,
    model: &ResNet<T>,
    dataset: &Arc<Dataset>,
    options: EvaluationOptions,
) -> Result<Evaluation> {
    evaluate_each(executor, model, dataset, options, &mut |_| ())
}

/// [`evaluate`], which also passes on the prediction of every image, in the order of the data set.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_each<T: Scalar>(
    executor: &dyn Executor<T>,
    model: &ResNet<T>,
    dataset: &Arc<Dataset>,
    options: EvaluationOptions,
    look: &mut dyn FnMut(Prediction),
) -> Result<Evaluation> {
    evaluate_among(&Alone, executor, model, dataset, options, look)
}

/// The same on several processes, which share the batches: each predicts every pth one, and gets the logits of the others.
/// All of them return the result of one process, bit for bit.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_among<T: Scalar>(
    processes: &dyn Communicator,
    executor: &dyn Executor<T>,
    model: &ResNet<T>,
    dataset: &Arc<Dataset>,
    options: EvaluationOptions,
    look: &mut dyn FnMut(Prediction),
) -> Result<Evaluation> {
    let EvaluationOptions { normalization, batch_size, test_flip } = options;
    let classes = model.architecture().classes;
    if dataset.is_empty() || dataset.classes.len() != classes {
        let found = format!("got {} images of {} classes", dataset.len(), dataset.classes.len());
        return Err(Error::argument("evaluate", format!("expects images of {classes} classes, {found}")));
    }
    let loader = Loader::<T>::new(dataset.clone(), LoaderOptions::evaluation(batch_size, normalization))?;
    let (mut loss, mut top1, mut top5) = (0.0, 0, 0);
    let mut confusion = Array2::zeros((classes, classes));
    let size = processes.size();
    let mut own = loader.every(processes.rank(), size);
    for first in (0..loader.batches_per_epoch()).step_by(size) {
        // A batch of each process.
        let mut of_all = Array2::zeros((0, classes));
        let batch = own.next().transpose()?;
        let predicted_now = batch.map(|batch| logits(executor, model, &batch.images, test_flip)).transpose()?;
        match (size, predicted_now) {
            (1, Some(logits)) => of_all = logits,
            (_, own) => exchange(processes, own.as_ref(), &mut of_all),
        }
        let log_p = log_softmax(&of_all);
        let p = log_softmax(&of_all.mapv(|z| z.as_f64())).mapv(f64::exp);
        for (i, row) in of_all.outer_iter().enumerate() {
            let index = first * batch_size + i;
            let target = usize::from(dataset.labels[index]);
            loss -= log_p[[i, target]].as_f64();
            let rank = rank(row, target);
            top1 += usize::from(rank == 0);
            top5 += usize::from(rank < 5);
            let class = predicted(row);
            confusion[[target, class]] += 1;
            let (probability, target_probability) = (p[[i, class]], p[[i, target]]);
            look(Prediction { index, target, class, probability, target_probability });
        }
    }
    Ok(Evaluation { loss: loss / dataset.len() as f64, top1, top5, confusion })
}

/// Appends the rows of every process, in the order of ranks.
fn exchange<T: Scalar>(processes: &dyn Communicator, own: Option<&Array2<T>>, all: &mut Array2<T>) {
    let own: Vec<u8> = own.into_iter().flatten().flat_map(|z| z.as_f64().to_bits().to_le_bytes()).collect();
    for bytes in processes.all_gather_bytes(&own) {
        let value = |bytes: &[u8]| T::of(f64::from_bits(u64::from_le_bytes(bytes.try_into().expect("eight bytes"))));
        let values: Vec<T> = bytes.chunks_exact(8).map(value).collect();
        let rows = values.chunks_exact(all.ncols().max(1));
        rows.for_each(|row| all.push_row(ArrayView1::from(row)).expect("a logit for every class"));
    }
}

/// The class with the largest logit, the first of several equal ones. A NaN is never the largest.
pub fn predicted<T: Scalar>(logits: ArrayView1<T>) -> usize {
    (0..logits.len()).find(|&k| rank(logits, k) == 0).unwrap_or(0)
}

/// The number of classes before `class` when sorted by decreasing logit, equal logits by class index. NaN is last.
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
    use crate::data::embedded;
    use crate::model::Architecture;
    use crate::train::Reference;
    use ndarray::{Array4, array};

    #[test]
    fn ranks_break_ties_by_number_and_put_nan_last() {
        let logits = array![1.0, 3.0, f64::NAN, 3.0];
        let ranks: Vec<_> = (0..4).map(|k| rank(logits.view(), k)).collect();
        assert_eq!(ranks, [2, 0, 3, 1]);
        assert_eq!(predicted(logits.view()), 1);
        assert_eq!(predicted(array![f32::NAN, f32::NEG_INFINITY].view()), 1);
    }

    /// The mean is bit-identical for an image and its mirror image; and it is the mean of the two.
    #[test]
    fn with_the_mirror_image_left_and_right_do_not_matter() {
        let model = ResNet::<f64>::new(&Architecture::by_name("resnet8").unwrap(), 1).unwrap();
        let x = Array4::from_shape_fn((2, 8, 7, 3), |(n, i, j, c)| ((13 * n + 5 * i + 3 * j * j + c) % 11) as f64);
        let mirrored = Array4::from_shape_fn((2, 8, 7, 3), |(n, i, j, c)| x[[n, i, 6 - j, c]]).into_shared();
        let x = x.into_shared();
        let plain = logits(&Reference, &model, &x, false).unwrap();
        let both = logits(&Reference, &model, &x, true).unwrap();
        assert_eq!(both, logits(&Reference, &model, &mirrored, true).unwrap());
        assert_eq!(both, (&plain + logits(&Reference, &model, &mirrored, false).unwrap()) / 2.0);
        assert_ne!(both, plain);
    }

    #[test]
    fn every_image_is_looked_at_once_and_what_is_said_of_it_is_what_is_counted() {
        let test = embedded::load().test;
        let some = Arc::new(test.subset(&[0, 7, 100, 250, 499]).unwrap());
        let model = ResNet::<f32>::new(&Architecture::by_name("resnet8").unwrap(), 3).unwrap();
        let mut seen = Vec::new();
        let options = EvaluationOptions::new(Normalization::CIFAR10, 2);
        let mut look = |prediction| seen.push(prediction);
        let evaluation = evaluate_each(&Reference, &model, &some, options, &mut look).unwrap();
        assert_eq!(evaluation, evaluate(&Reference, &model, &some, options).unwrap());
        assert_eq!(seen.iter().map(|p| p.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let mut confusion = Array2::<usize>::zeros((10, 10));
        for p in &seen {
            assert_eq!(p.target, usize::from(some.labels[p.index]));
            confusion[[p.target, p.class]] += 1;
            // The largest of ten that add up to 1, and at most 1.
            assert!(p.probability >= 0.1 && p.probability >= p.target_probability && p.probability <= 1.0, "{p:?}");
            assert_eq!(p.class == p.target, p.probability == p.target_probability, "{p:?}");
        }
        assert_eq!(confusion, evaluation.confusion);
        // The mean of −log p(target) is the loss, up to rounding in `f32` with u = 2⁻²⁴: z − max z and log p, each
        // below 16, by 16 u, and log Σ of ten exponentials by (10 + 2) u.
        let loss = seen.iter().map(|p| -p.target_probability.ln()).sum::<f64>() / 5.0;
        let bound = (16.0 + 16.0 + 12.0) * f64::from(f32::EPSILON) / 2.0;
        assert!(loss < 16.0 && (loss - evaluation.loss).abs() <= bound, "{loss} {}", evaluation.loss);
    }

    /// Against the definition: how many logits are larger than that of the image's class. (No two are equal here.)
    #[test]
    fn ranks_are_counted_as_they_are_defined() {
        let images = Arc::new(embedded::load().test.subset(&(0..40).collect::<Vec<_>>()).unwrap());
        let model = ResNet::<f64>::new(&Architecture::by_name("resnet8").unwrap(), 1).unwrap();
        let logits = model.predict(&Normalization::CIFAR10.apply(images.pixels.view()).unwrap()).unwrap();
        let rank =
            |(row, &label): (ArrayView1<f64>, &u16)| row.iter().filter(|&&z| z > row[usize::from(label)]).count();
        let ranks: Vec<usize> = logits.outer_iter().zip(&images.labels).map(rank).collect();
        let found = evaluate(&Reference, &model, &images, EvaluationOptions::new(Normalization::CIFAR10, 12)).unwrap();
        let below = |most: usize| ranks.iter().filter(|&&rank| rank < most).count();
        assert_eq!((found.top1, found.top5), (below(1), below(5)));
        // The ranks at the boundaries of top-1 and top-5 occur.
        assert!([0, 1, 4, 5].iter().all(|rank| ranks.contains(rank)), "{ranks:?}");
    }

    #[test]
    fn class_accuracy_is_the_diagonal_over_the_row() {
        let confusion = array![[3, 1], [0, 0]];
        let evaluation = Evaluation { loss: 0.0, top1: 3, top5: 4, confusion };
        assert_eq!((evaluation.images(), evaluation.accuracy()), (4, 0.75));
        assert_eq!(evaluation.class_accuracy(), [Some(0.75), None]);
    }
}
