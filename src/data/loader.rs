//! Prepares one batch after another while the network computes.
//!
//! An *epoch* uses every image once. Its order is a random permutation that depends on (seed, epoch), cut into batches
//! of `batch_size`; the last batch has the remaining images (50,000 images in batches of 64 are 781 full batches and one of
//! 16).
//!
//! ```text
//! background thread:  order → variant → normalize → mix → Batch ─┐
//!                                              channel, at most 2 waiting
//! training thread:                                               └→ forward, backward, step
//! ```
//!
//! A single thread prepares about 100,000 images per second, a hundred times as many as a ResNet-20 trains on, so one
//! suffices. Images that are not in memory are decoded by all threads, some hundred per second and thread. The channel's bound limits how far it runs ahead: at most [`PREPARED`] batches wait and one is in preparation.
//! An iterator that is dropped early closes the channel, which ends the thread at its next batch.

use super::mixup::{self, Mix, MixedTargets};
use super::{Augmentation, Dataset, Normalization, NormalizationTable, permutation};
use crate::processes::{Alone, Communicator};
use crate::rng::{Purpose, stream};
use crate::shards::Shards;
use crate::{Activation, Error, Result, Scalar};

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// How many finished batches may wait for the training loop.
pub const PREPARED: usize = 2;

/// A batch of images ready for the network.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// Normalized images `x (N, H, W, 3)`; of several processes, the part of this one.
    pub images: Activation<T>,
    /// The class of every image.
    pub labels: Vec<usize>,
    /// The index of every image in the data set.
    pub indices: Vec<usize>,
    /// The other classes of the images, if they are mixed with each other.
    pub mix: Option<MixedTargets>,
    /// How the whole batch is split.
    pub shards: Shards,
}

/// How a [`Loader`] prepares a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Images in a batch, except perhaps the last.
    pub batch_size: usize,
    /// How bytes are converted to floats.
    pub normalization: Normalization,
    /// Random variants of the images.
    pub augmentation: Augmentation,
    /// α of [`mixup`]; 0 disables it.
    pub mixup: f64,
    /// Whether every epoch has a new random order instead of the data set's.
    pub shuffle: bool,
    /// The seed of the order and the variants.
    pub seed: u64,
}

impl LoaderOptions {
    /// For training: shuffled, with crops and flips.
    pub fn training(batch_size: usize, normalization: Normalization, seed: u64) -> Self {
        LoaderOptions {
            batch_size,
            normalization,
            augmentation: Augmentation::STANDARD,
            mixup: 0.0,
            shuffle: true,
            seed,
        }
    }

    /// For evaluation: every image unchanged, in order.
    pub fn evaluation(batch_size: usize, normalization: Normalization) -> Self {
        LoaderOptions {
            batch_size,
            normalization,
            augmentation: Augmentation::NONE,
            mixup: 0.0,
            shuffle: false,
            seed: 0,
        }
    }
}

/// Prepares batches of a data set.
///
/// ```
/// use resnet_by_hand::data::{embedded, loader::LoaderOptions, Loader, Normalization};
/// use std::sync::Arc;
/// let test = Arc::new(embedded::load().test);
/// let loader = Loader::<f32>::new(test, LoaderOptions::evaluation(128, Normalization::CIFAR10))?;
/// let sizes: Vec<usize> = loader.epoch(0).map(|batch| Ok(batch?.labels.len())).collect::<resnet_by_hand::Result<_>>()?;
/// assert_eq!(sizes, [128, 128, 128, 116]); // 500 images
/// # Ok::<(), resnet_by_hand::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader<T> {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
    table: Arc<NormalizationTable<T>>,
    /// The number of shards of a batch, and the processes that have them.
    shards: usize,
    processes: Arc<dyn Communicator>,
}

impl<T: Scalar> Loader<T> {
    /// A loader of `dataset`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch size of 0 or an α outside its domain, and the errors of [`Dataset::new`] for a data set
    /// that it cannot return: without a label for every image, or with a label that is not a class.
    pub fn new(dataset: Arc<Dataset>, options: LoaderOptions) -> Result<Self> {
        if options.batch_size == 0 {
            return Err(Error::argument("Loader::new", "expected a batch size of at least 1, got 0"));
        }
        mixup::check_alpha(options.mixup)?;
        dataset.check()?;
        let table = Arc::new(options.normalization.table());
        Ok(Loader { dataset, options, table, shards: 1, processes: Arc::new(Alone) })
    }

    /// A loader of the same batches, split into shards, that prepares the part of this process. An image looks the same on
    /// every process.
    pub fn among(self, shards: usize, processes: Arc<dyn Communicator>) -> Self {
        Loader { shards, processes, ..self }
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The options.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// ⌈N / batch_size⌉.
    pub fn batches_per_epoch(&self) -> usize {
        self.dataset.len().div_ceil(self.options.batch_size)
    }

    /// The indices of the images in the order of `epoch`.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        if self.options.shuffle {
            permutation(self.dataset.len(), &mut stream(self.options.seed, Purpose::Shuffle, &[epoch]))
        } else {
            (0..self.dataset.len()).collect()
        }
    }

    /// The batch of the images `indices` as they look in `epoch`, prepared on this thread; of several processes, the part of
    /// this one.
    ///
    /// Image i of the data set looks the same at any place in a batch, except for the image it is mixed with.
    ///
    /// # Errors
    /// As [`Dataset::images`].
    ///
    /// # Panics
    /// If an index is out of range.
    pub fn batch(&self, epoch: u64, indices: &[usize]) -> Result<Batch<T>> {
        let (_, h, w, channels) = self.dataset.pixels.dim();
        let shards = Shards::new(indices.len(), self.shards, self.processes.clone());
        let own = shards.own();
        let (seed, alpha) = (self.options.seed, self.options.mixup);
        let first = indices.first().filter(|_| alpha > 0.0);
        let mix = first.map(|&first| Mix::draw(alpha, seed, epoch, first, indices.len()));
        // Of several processes, one may need the partners of its images as well.
        let needed: Vec<usize> = match &mix {
            Some(mix) => mix.needs(own.clone()).into_iter().map(|place| indices[place]).collect(),
            None => indices[own.clone()].to_vec(),
        };
        let pixels = self.dataset.images(&needed)?;
        let mut images = ndarray::Array4::zeros((needed.len(), h, w, channels));
        let y = images.as_slice_mut().expect("a new array is contiguous");
        let places = y.chunks_exact_mut((h * w * channels).max(1));
        for ((&index, image), y) in needed.iter().zip(&pixels).zip(places) {
            let variant = self.options.augmentation.variant(seed, epoch, index, [h, w]);
            variant.write(image, w, &self.table, y);
        }
        let labels: Vec<usize> = indices.iter().map(|&index| self.dataset.labels[index].into()).collect();
        let images = match &mix {
            Some(mix) => mix.images(&images.into_shared(), own.clone()),
            None => images.into_shared(),
        };
        let mix = mix.map(|mix| mix.targets(&labels, own.clone()));
        let (labels, indices) = (labels[own.clone()].to_vec(), indices[own].to_vec());
        Ok(Batch { images, labels, indices, mix, shards })
    }

    /// All batches of `epoch`, prepared ahead on a background thread.
    pub fn epoch(&self, epoch: u64) -> Epoch<T> {
        self.start(epoch, 0, 1)
    }

    /// Every `every`-th batch of the data set, from number `first` on: the part of one of several processes in an evaluation.
    ///
    /// # Panics
    /// If `every` is 0.
    pub fn every(&self, first: usize, every: usize) -> Epoch<T> {
        self.start(0, first, every)
    }

    /// The batches of `epoch` from number `first_batch` on: what [`epoch`](Self::epoch) returns after `first_batch` batches,
    /// without preparing those.
    ///
    /// # Errors
    /// [`Error::Argument`] when `first_batch` is above [`batches_per_epoch`](Self::batches_per_epoch) (if equal,
    /// no batch is left).
    pub fn epoch_from(&self, epoch: u64, first_batch: usize) -> Result<Epoch<T>> {
        let batches = self.batches_per_epoch();
        if first_batch > batches {
            let message = format!("expected a first batch of at most {batches}, got {first_batch}");
            return Err(Error::argument("Loader::epoch_from", message));
        }
        Ok(self.start(epoch, first_batch, 1))
    }

    fn start(&self, epoch: u64, first_batch: usize, every: usize) -> Epoch<T> {
        let remaining = self.batches_per_epoch().saturating_sub(first_batch).div_ceil(every);
        let (sender, receiver) = sync_channel(PREPARED);
        let loader = self.clone();
        let work = move || {
            for indices in loader.order(epoch).chunks(loader.options.batch_size).skip(first_batch).step_by(every) {
                let batch = loader.batch(epoch, indices);
                let is_last = batch.is_err();
                // An error of `send` means that the receiver is gone: the iterator was dropped.
                if sender.send(batch).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("loader".into()).spawn(work);
        let thread = thread.expect("the operating system starts a thread");
        Epoch { receiver: Some(receiver), thread: Some(thread), remaining }
    }
}

/// The batches of an epoch, in order; returned by [`Loader::epoch`]. The first error is the last item.
///
/// Dropping it ends its thread, after at most one more batch.
#[derive(Debug)]
pub struct Epoch<T> {
    receiver: Option<Receiver<Result<Batch<T>>>>,
    thread: Option<JoinHandle<()>>,
    remaining: usize,
}

impl<T> Epoch<T> {
    /// Waits for the thread to end; returns its panic, if it panicked.
    fn finish(&mut self) -> std::thread::Result<()> {
        // Drop the receiver first: a thread waiting to send then gets an error instead of waiting forever.
        self.receiver = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl<T> Iterator for Epoch<T> {
    type Item = Result<Batch<T>>;

    fn next(&mut self) -> Option<Result<Batch<T>>> {
        let batch = self.receiver.as_ref().and_then(|receiver| receiver.recv().ok());
        if batch.is_some() {
            self.remaining -= 1;
        } else if let Err(panic) = self.finish() {
            // After a panic the epoch must not look finished.
            std::panic::resume_unwind(panic);
        }
        batch
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl<T> ExactSizeIterator for Epoch<T> {}

impl<T> Drop for Epoch<T> {
    fn drop(&mut self) {
        // A panic of the thread has already been reported; it must not become a second one here.
        let _ = self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::counting;
    use super::*;
    use crate::processes::threads;
    use ndarray::Axis;

    fn options(batch_size: usize) -> LoaderOptions {
        LoaderOptions::training(batch_size, Normalization::CIFAR10, 42)
    }

    fn loader(n: usize, options: LoaderOptions) -> Loader<f32> {
        Loader::new(Arc::new(counting(n, 6, 5)), options).unwrap()
    }

    #[test]
    fn an_epoch_shows_every_image_once_with_its_label() {
        let loader = loader(23, options(4));
        let batches: Vec<Batch<f32>> = loader.epoch(3).map(Result::unwrap).collect();
        assert_eq!(batches.len(), loader.batches_per_epoch());
        assert_eq!(batches.iter().map(|b| b.labels.len()).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 3]);
        for batch in &batches {
            assert_eq!(batch.images.dim(), (batch.indices.len(), 6, 5, 3));
            for (&index, &label) in batch.indices.iter().zip(&batch.labels) {
                assert_eq!(label, index % 10);
            }
        }
        let order = batches.iter().flat_map(|b| b.indices.clone()).collect::<Vec<_>>();
        assert_eq!(order, loader.order(3));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..23).collect::<Vec<_>>());
        assert_ne!(order, sorted);
        assert_ne!(order, loader.order(4));
    }

    #[test]
    fn mixed_batches_are_the_others_mixed() {
        let (plain, mixed) = (loader(23, options(4)), loader(23, LoaderOptions { mixup: 0.5, ..options(4) }));
        for (plain, mixed) in plain.epoch(2).map(Result::unwrap).zip(mixed.epoch(2).map(Result::unwrap)) {
            assert!(plain.mix.is_none());
            assert_eq!((&mixed.labels, &mixed.indices), (&plain.labels, &plain.indices));
            let (n, mix) = (plain.indices.len(), Mix::draw(0.5, 42, 2, plain.indices[0], plain.indices.len()));
            assert_eq!(mixed.mix.unwrap(), mix.targets(&plain.labels, 0..n));
            assert_eq!(mixed.images, mix.images(&plain.images, 0..n));
        }
        let refused = Loader::<f32>::new(Arc::new(counting(3, 6, 5)), LoaderOptions { mixup: -1.0, ..options(4) });
        assert!(refused.unwrap_err().to_string().contains("alpha"));
    }

    /// Images, classes and mixes: the parts of three processes, one after another, are the batch of a single one.
    #[test]
    fn processes_prepare_parts_of_the_same_batches() {
        for mixup in [0.0, 0.5] {
            let loader = loader(23, LoaderOptions { mixup, ..options(9) });
            let parts = threads::run(3, 1, |processes| {
                let part = loader.clone().among(4, processes);
                part.epoch(2).map(Result::unwrap).collect::<Vec<_>>()
            });
            for (i, whole) in loader.epoch(2).map(Result::unwrap).enumerate() {
                let parts: Vec<&Batch<f32>> = parts.iter().map(|batches| &batches[i]).collect();
                let images: Vec<_> = parts.iter().map(|part| part.images.view()).collect();
                assert_eq!(ndarray::concatenate(Axis(0), &images).unwrap().into_shared(), whole.images);
                let all =
                    |of: fn(&Batch<f32>) -> Vec<usize>| parts.iter().flat_map(|part| of(part)).collect::<Vec<_>>();
                assert_eq!(all(|part| part.indices.clone()), whole.indices);
                assert_eq!(all(|part| part.labels.clone()), whole.labels);
                let others = |part: &Batch<f32>| part.mix.as_ref().map_or(Vec::new(), |mix| mix.labels.clone());
                assert_eq!(all(others), others(&whole));
            }
        }
    }

    #[test]
    fn an_image_looks_the_same_whatever_the_batch_size_order_and_place() {
        let by_image = |options| {
            let mut images = vec![None; 23];
            for batch in loader(23, options).epoch(5).map(Result::unwrap) {
                for (position, &index) in batch.indices.iter().enumerate() {
                    images[index] = Some(batch.images.index_axis(Axis(0), position).to_owned());
                }
            }
            images
        };
        let reference = by_image(options(1));
        assert!(reference.iter().all(Option::is_some));
        for other in [options(4), options(23), options(100), LoaderOptions { shuffle: false, ..options(7) }] {
            assert_eq!(by_image(other), reference);
        }
        assert_ne!(by_image(LoaderOptions { seed: 43, ..options(4) }), reference);
        // And it is the image of that index, with the crop of that index.
        let loader = loader(23, options(4));
        for (index, image) in reference.iter().enumerate() {
            let mut y = ndarray::Array3::zeros((6, 5, 3));
            let pixels = loader.dataset.image(index).to_owned();
            let variant = Augmentation::STANDARD.variant(42, 5, index, [6, 5]);
            variant.write(pixels.as_slice().unwrap(), 5, &loader.table, y.as_slice_mut().unwrap());
            assert_eq!(image.as_ref().unwrap(), &y);
        }
    }

    #[test]
    fn without_augmentation_the_batches_are_the_normalized_data_set() {
        let loader = loader(10, LoaderOptions::evaluation(4, Normalization::IMAGENET));
        let views: Vec<Batch<f32>> = loader.epoch(9).map(Result::unwrap).collect();
        let all = ndarray::concatenate(Axis(0), &views.iter().map(|b| b.images.view()).collect::<Vec<_>>()).unwrap();
        assert_eq!(all, Normalization::IMAGENET.apply::<f32>(loader.dataset.pixels.view()).unwrap());
    }

    #[test]
    fn resuming_inside_an_epoch_continues_it() {
        let loader = loader(23, options(4));
        let whole: Vec<Batch<f32>> = loader.epoch(1).map(Result::unwrap).collect();
        for first in 0..=6 {
            let rest = loader.epoch_from(1, first).unwrap();
            assert_eq!(rest.len(), 6 - first);
            let rest: Vec<Batch<f32>> = rest.map(Result::unwrap).collect();
            assert_eq!(rest.len(), 6 - first);
            for (a, b) in rest.iter().zip(&whole[first..]) {
                assert_eq!((&a.images, &a.labels, &a.indices), (&b.images, &b.labels, &b.indices));
            }
        }
        let error = loader.epoch_from(1, 7).unwrap_err().to_string();
        assert_eq!(error, "Loader::epoch_from: expected a first batch of at most 6, got 7");
    }

    #[test]
    fn dropping_an_epoch_early_ends_its_thread() {
        let loader = loader(1000, options(2));
        for taken in [0, 1, 5] {
            let mut epoch = loader.epoch(0);
            assert_eq!(epoch.by_ref().take(taken).count(), taken);
            assert_eq!(epoch.len(), 500 - taken);
            drop(epoch);
            // The thread owned a reference to the data set; joined, it has dropped it.
            assert_eq!(Arc::strong_count(&loader.dataset), 1);
        }
    }

    #[test]
    #[should_panic(expected = "range")]
    fn a_panic_in_the_thread_is_not_a_short_epoch() {
        // More labels than images, which Loader::new rejects: built without it.
        let mut dataset = counting(9, 2, 2);
        dataset.labels.extend([0; 3]);
        let options = LoaderOptions { shuffle: false, ..options(4) };
        let table = Arc::new(options.normalization.table::<f32>());
        let dataset = Arc::new(dataset);
        assert!(Loader::<f32>::new(Arc::clone(&dataset), options).is_err());
        let (shards, processes) = (1, Arc::new(Alone));
        assert_eq!(Loader { dataset, options, table, shards, processes }.epoch(0).count(), 3);
    }

    #[test]
    fn no_batch_of_nothing_and_no_batches_of_nothing() {
        assert!(Loader::<f32>::new(Arc::new(counting(3, 2, 2)), options(0)).is_err());
        let empty = loader(0, options(4));
        assert_eq!((empty.batches_per_epoch(), empty.epoch(0).count()), (0, 0));
    }
}
