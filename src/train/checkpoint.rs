//! A run on disk: everything that is needed to resume it as if it had not been interrupted.
//!
//! | in the file | contents |
//! |---|---|
//! | `model.…` | parameters and running statistics |
//! | `momentum.…` | the optimiser's buffers |
//! | `average.…` | the moving average of the weights, if one is kept |
//! | `best.…` | the weights with the best validation accuracy so far, if there is a validation set |
//! | `sums` | the metrics of the unfinished epoch: Σ loss · images, Σ gradient norm, learning rate, seconds |
//! | `layers.…` | if all steps of the epoch are taken: norms of weight and gradient and the ratio of the update, if defined |
//! | metadata | the position, the configuration, the metrics so far, hashes of the images, a SHA-256 of everything |
//!
//! No state of a random number generator is saved, because there is none ([`Position`]); the schedule, too, is a
//! function of the position.
//!
//! A checkpoint is a safetensors file, written under a temporary name and renamed ([`atomic`]), so a run that is killed
//! at any moment leaves only complete checkpoints. If a file is damaged later, its SHA-256 does not match, and
//! [`Checkpoints::latest`] uses the checkpoint before it.

use super::trainer::{Position, Snapshot, Sums};
use super::{LayerMetrics, Trainer};
use crate::data::Dataset;
use crate::formats::{atomic, safetensors};
use crate::model::ResNet;
use crate::optim::WeightAverage;
use crate::rng::{FNV_OFFSET, fnv1a};
use crate::tensors::{Tensor, Tensors};
use crate::weights::state_dict;
use crate::{Error, Result};
use ndarray::{Array1, arr1};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The version of the file's layout. 2: the hash of the images includes their shape; `layers.csv` is one of the files.
/// 3: a checkpoint after the last step of an epoch, before its validation; the kernels at the start of the run.
const VERSION: u64 = 3;

/// The oldest version that can be read.
const OLDEST: u64 = 2;

/// The metadata entry that contains the state as JSON.
const STATE: &str = "resnet-by-hand.checkpoint";

/// The metadata entry that contains the SHA-256 of everything else.
const HASH: &str = "resnet-by-hand.sha256";

/// The best weights so far, by validation accuracy.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// Epochs completed when they were found.
    pub epoch: usize,
    /// Correctly classified validation images, and the number of validation images.
    pub correct: [usize; 2],
    /// The weights.
    pub weights: Tensors,
}

impl Best {
    /// Share of the validation images classified correctly.
    pub fn accuracy(&self) -> f64 {
        self.correct[0] as f64 / self.correct[1] as f64
    }
}

/// A run at some position.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The position in the run.
    pub position: Position,
    /// Parameters and running statistics.
    pub model: Tensors,
    /// The optimiser's buffers.
    pub momentum: Tensors,
    /// The average of the weights; empty if the recipe has none.
    pub average: Tensors,
    /// [`Trainer::layers`] of an epoch that is complete except for its validation.
    pub layers: Vec<LayerMetrics>,
    /// The best weights so far.
    pub best: Option<Best>,
    /// The configuration of the run, as text.
    pub config: String,
    /// The contents of the metrics files, by name.
    pub files: Vec<(String, String)>,
    /// The images of the run.
    pub data: ImageHashes,
    /// What computed the steps so far, in the words of the caller, each once; unknown before version 3.
    pub kernels: Vec<String>,
}

/// [`data_hash`] of the images of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageHashes {
    /// The training images.
    pub train: u64,
    /// The validation images, if there are any; not in the files of earlier versions of this program.
    pub validation: Option<u64>,
    /// The test images; not in the files of earlier versions of this program.
    pub test: Option<u64>,
}

impl ImageHashes {
    /// Those of these images.
    ///
    /// # Errors
    /// As [`data_hash`].
    pub fn of(train: &Dataset, validation: Option<&Dataset>, test: &Dataset) -> Result<Self> {
        let validation = validation.map(data_hash).transpose()?;
        Ok(ImageHashes { train: data_hash(train)?, validation, test: Some(data_hash(test)?) })
    }

    /// Which images are not those of a run that began with `saved`. What is not known there is not compared.
    pub fn different_from(&self, saved: &ImageHashes) -> Option<&'static str> {
        let differ = |here: Option<u64>, there: Option<u64>| here.zip(there).is_some_and(|(here, there)| here != there);
        let sets = [
            ("training", self.train != saved.train),
            ("validation", differ(self.validation, saved.validation)),
            ("test", differ(self.test, saved.test)),
        ];
        sets.into_iter().find(|(_, differ)| *differ).map(|(name, _)| name)
    }
}

/// A hash of images and labels, to detect that a run is resumed with other images.
///
/// # Errors
/// As [`Dataset::images`].
pub fn data_hash(dataset: &Dataset) -> Result<u64> {
    let (_, height, width, channels) = dataset.pixels.dim();
    let shape = format!("{:?}", [dataset.len(), height, width, channels]);
    let mut pixels = fnv1a(FNV_OFFSET, shape.as_bytes());
    dataset.for_each_image(|image| pixels = fnv1a(pixels, image))?;
    let labels: Vec<u8> = dataset.labels.iter().flat_map(|label| u64::from(*label).to_le_bytes()).collect();
    Ok(fnv1a(pixels, &labels))
}

impl Checkpoint {
    /// The state of a trainer, and the parts that the caller keeps.
    pub fn of(
        trainer: &Trainer<f32>,
        best: Option<Best>,
        config: String,
        files: Vec<(String, String)>,
        data: ImageHashes,
    ) -> Self {
        let (mut momentum, mut average) = (Tensors::new(), Tensors::new());
        trainer.sgd().buffers().for_each(|(name, buffer)| momentum.insert(name, Tensor::real(buffer.view())));
        let averages = trainer.average().into_iter().flat_map(WeightAverage::tensors);
        averages.for_each(|(name, tensor)| average.insert(name, Tensor::real(tensor.view())));
        let model = state_dict::collect(trainer.model());
        let layers = if trainer.has_all_steps() { trainer.layers().to_vec() } else { Vec::new() };
        let (position, kernels) = (trainer.position(), Vec::new());
        Checkpoint { position, model, momentum, average, layers, best, config, files, data, kernels }
    }

    /// What [`Trainer::resume`] needs in addition to the model.
    pub fn snapshot(&self) -> Snapshot<f32> {
        let real = |tensor: &Tensor| tensor.to_real::<f32>().expect("weights are real");
        let all = |tensors: &Tensors| tensors.iter().map(|(name, tensor)| (name.to_string(), real(tensor))).collect();
        let (momentum, average) = (all(&self.momentum), all(&self.average));
        Snapshot { momentum, average, layers: self.layers.clone(), position: self.position }
    }

    /// Copies the weights of `tensors`, those of the position or the best, to `model`.
    ///
    /// # Errors
    /// If they do not fit the model.
    pub fn load(path: &Path, tensors: &Tensors, model: &mut ResNet<f32>) -> Result<()> {
        state_dict::assign(path, tensors, model)
    }

    /// The content of the file. Consumes the weights, of which a large network should not have another copy here.
    fn into_tensors(self) -> Tensors {
        let Position { epoch, step, sums } = self.position;
        let mut all = Tensors::new();
        let about_best = self.best.as_ref().map(|best| json!({ "epoch": best.epoch, "correct": best.correct }));
        let best = self.best.map_or_else(Tensors::new, |best| best.weights);
        let parts = [("model.", self.model), ("momentum.", self.momentum), ("average.", self.average), ("best.", best)];
        for (prefix, part) in parts {
            for (name, tensor) in part {
                all.insert(format!("{prefix}{name}"), tensor);
            }
        }
        for layer in &self.layers {
            let known = [Some(layer.weight_norm), Some(layer.gradient_norm), layer.update_ratio];
            all.insert(format!("layers.{}", layer.parameter), Array1::from_iter(known.into_iter().flatten()));
        }
        // Values that must be restored bit-identically are tensors, not text.
        all.insert("sums", arr1(&[sums.loss, sums.gradient_norm, sums.lr, sums.seconds]));
        let hex = |hash: u64| format!("{hash:016x}");
        let state = json!({
            "version": VERSION,
            "epoch": epoch,
            "step": step,
            "top1": sums.top1,
            "top5": sums.top5,
            "images": sums.images,
            "best": about_best,
            "config": self.config,
            "files": self.files,
            "data": hex(self.data.train),
            "validation_data": self.data.validation.map(hex),
            "test_data": self.data.test.map(hex),
            "kernels": self.kernels,
            "layers": self.layers.iter().map(|layer| &layer.parameter).collect::<Vec<_>>(),
        });
        all.metadata.insert(STATE.to_string(), state.to_string());
        all.metadata.insert(HASH.to_string(), hash(&all));
        all
    }

    /// The configuration in the tensors of a checkpoint file, if they are of one and have not been taken apart.
    pub fn config_in(tensors: &Tensors) -> Option<String> {
        tensors.names().find(|name| name.starts_with("model."))?;
        let state: Value = serde_json::from_str(tensors.metadata.get(STATE)?).ok()?;
        state["config"].as_str().map(str::to_string)
    }

    /// Writes the file atomically: completely or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(self, path: &Path) -> Result<()> {
        let bytes = safetensors::to_bytes(path, &self.into_tensors())?;
        atomic::write(path, &bytes)
    }

    /// Reads a checkpoint and verifies its SHA-256.
    ///
    /// # Errors
    /// If it cannot be read, is not a checkpoint of this version, or its SHA-256 does not match.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
        let mut all = safetensors::read_bytes(path, &bytes)?;
        drop(bytes);
        let wrong = |message: String| Error::format(path, None, message);
        let (Some(text), Some(expected)) = (all.metadata.get(STATE).cloned(), all.metadata.remove(HASH)) else {
            return Err(wrong("expected a checkpoint of `resnet train`, found other tensors".to_string()));
        };
        let found = hash(&all);
        if found != expected {
            return Err(wrong(format!("damaged: expected the SHA-256 {expected}, found {found}")));
        }
        let state: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if !state["version"].as_u64().is_some_and(|version| (OLDEST..=VERSION).contains(&version)) {
            let versions = format!("{OLDEST} to {VERSION}");
            let message = format!("expected a checkpoint of version {versions}, found {}", state["version"]);
            return Err(wrong(format!("{message}; resume with the version of this program that wrote it")));
        }
        let whole = |value: &Value, key: &str| {
            let whole = value.as_u64().and_then(|number| usize::try_from(number).ok());
            whole.ok_or_else(|| wrong(format!("expected a whole number `{key}`, found {value}")))
        };
        let number = |key: &str| whole(&state[key], key);
        let text =
            |value: &Value| value.as_str().map(str::to_string).ok_or_else(|| wrong("expected a text".to_string()));
        let part = |prefix: &str| {
            let mut part = Tensors::new();
            for (name, tensor) in all.iter() {
                if let Some(name) = name.strip_prefix(prefix) {
                    part.insert(name, tensor.clone());
                }
            }
            part
        };
        let sums = all.get("sums").map(Tensor::to_f64).filter(|sums| sums.shape() == [4]);
        let sums = sums.ok_or_else(|| wrong("expected a tensor `sums` of four values".to_string()))?;
        let best = match &state["best"] {
            Value::Null => None,
            best => Some(Best {
                epoch: whole(&best["epoch"], "epoch")?,
                correct: [whole(&best["correct"][0], "correct")?, whole(&best["correct"][1], "correct")?],
                weights: part("best."),
            }),
        };
        let list = |key: &str| state[key].as_array().map_or(&[][..], Vec::as_slice).iter();
        let layer = |name: &Value| {
            let parameter = text(name)?;
            let values = all.get(&format!("layers.{parameter}")).map(Tensor::to_f64);
            let values: Vec<f64> = values.into_iter().flatten().collect();
            match values[..] {
                [weight_norm, gradient_norm, ref ratio @ ..] if ratio.len() < 2 => {
                    Ok(LayerMetrics { parameter, weight_norm, gradient_norm, update_ratio: ratio.first().copied() })
                }
                _ => Err(wrong(format!("expected two or three values `layers.{parameter}`, found {}", values.len()))),
            }
        };
        let image_hash = |value: &Value| {
            let hash = text(value)?;
            u64::from_str_radix(&hash, 16).map_err(|_| wrong(format!("expected a hash, found `{hash}`")))
        };
        let later = |key: &str| Some(&state[key]).filter(|hash| !hash.is_null()).map(image_hash).transpose();
        Ok(Checkpoint {
            position: Position {
                epoch: number("epoch")?,
                step: number("step")?,
                sums: Sums {
                    loss: sums[0],
                    gradient_norm: sums[1],
                    lr: sums[2],
                    seconds: sums[3],
                    top1: number("top1")?,
                    top5: number("top5")?,
                    images: number("images")?,
                },
            },
            model: part("model."),
            momentum: part("momentum."),
            average: part("average."),
            layers: list("layers").map(layer).collect::<Result<_>>()?,
            best,
            config: text(&state["config"])?,
            files: list("files").map(|file| Ok((text(&file[0])?, text(&file[1])?))).collect::<Result<_>>()?,
            kernels: list("kernels").map(text).collect::<Result<_>>()?,
            data: ImageHashes {
                train: image_hash(&state["data"])?,
                validation: later("validation_data")?,
                test: later("test_data")?,
            },
        })
    }
}

/// The SHA-256 of names, types, shapes and values, and of the metadata without the hash itself.
fn hash(tensors: &Tensors) -> String {
    let mut hash = Sha256::new();
    for (key, value) in tensors.metadata.iter().filter(|(key, _)| *key != HASH) {
        // With their lengths, so that no byte can move from one to the next unnoticed.
        for text in [key, value] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
    }
    for (name, tensor) in tensors.iter() {
        hash.update(format!("{name} {} {:?}\n", tensor.dtype(), tensor.shape()));
        match tensor.to_real::<f32>().filter(|_| tensor.dtype() == crate::tensors::Dtype::F32) {
            Some(numbers) => numbers.iter().for_each(|x| hash.update(x.to_le_bytes())),
            None => tensor.to_f64().iter().for_each(|x| hash.update(x.to_le_bytes())),
        }
    }
    crate::formats::hex(&hash.finalize())
}

/// The folder of checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

/// The result of [`Checkpoints::latest`].
#[derive(Clone, Debug)]
pub struct Latest {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Its file.
    pub path: PathBuf,
    /// Later checkpoints that could not be used, with the reason.
    pub damaged: Vec<(PathBuf, String)>,
}

impl Checkpoints {
    /// The checkpoints in `folder`, of which the last `keep` are kept.
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Checkpoints { folder, keep: keep.max(1) }
    }

    /// Writes a checkpoint and removes the oldest beyond the number to keep.
    ///
    /// # Errors
    /// If it cannot be written; the existing checkpoints are kept.
    pub fn save(&self, checkpoint: Checkpoint) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.folder).map_err(|error| Error::io(&self.folder, "create", error))?;
        let Position { epoch, step, .. } = checkpoint.position;
        let path = self.folder.join(format!("epoch-{epoch:06}-step-{step:08}.safetensors"));
        checkpoint.write(&path)?;
        for old in self.files()?.iter().rev().skip(self.keep) {
            // One file too many is harmless.
            let _ = std::fs::remove_file(old);
        }
        Ok(path)
    }

    /// Every checkpoint, the earliest first: names sort in the order of positions.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let failed = |error| Error::io(&self.folder, "list", error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with("epoch-") && name.ends_with(".safetensors") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// The latest complete checkpoint, if there is one, for callers that only read: no file is renamed, and a run may
    /// be writing the next checkpoint and removing the oldest at the same time.
    pub fn peek(&self) -> Option<Checkpoint> {
        self.files().ok()?.iter().rev().find_map(|path| Checkpoint::read(path).ok())
    }

    /// The latest complete checkpoint. Later damaged ones are renamed to `….damaged`: otherwise they would count as the
    /// latest, and good checkpoints would be removed instead of them.
    ///
    /// # Errors
    /// If there is none; then nothing is changed.
    pub fn latest(&self) -> Result<Latest> {
        let mut damaged: Vec<(PathBuf, String)> = Vec::new();
        for path in self.files()?.into_iter().rev() {
            match Checkpoint::read(&path) {
                Ok(checkpoint) => {
                    for (path, _) in &damaged {
                        std::fs::rename(path, path.with_extension("damaged"))
                            .map_err(|error| Error::io(path, "rename", error))?;
                    }
                    return Ok(Latest { checkpoint, path, damaged });
                }
                Err(error) => damaged.push((path, error.to_string())),
            }
        }
        let found = match damaged.as_slice() {
            [] => "found none".to_string(),
            damaged => damaged.iter().map(|(_, error)| error.as_str()).collect::<Vec<_>>().join("; "),
        };
        Err(Error::format(&self.folder, None, format!("expected a complete checkpoint, {found}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::embedded;
    use crate::engine::Engine;
    use crate::model::Architecture;
    use crate::parameters::fingerprint;
    use crate::train::Recipe;
    use ndarray::ArrayD;
    use std::ops::ControlFlow;
    use std::sync::{Arc, LazyLock};

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("resnet-by-hand-checkpoint-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Thirty images, and the hashes of them and of the test images: read once.
    static IMAGES: LazyLock<(Arc<Dataset>, ImageHashes)> = LazyLock::new(|| {
        let splits = embedded::load();
        let train = splits.train.subset(&(0..30).collect::<Vec<_>>()).unwrap();
        let hashes = ImageHashes::of(&train, None, &splits.test).unwrap();
        (Arc::new(train), hashes)
    });

    fn data() -> Arc<Dataset> {
        IMAGES.0.clone()
    }

    fn recipe() -> Recipe {
        Recipe { epochs: 2, batch_size: 7, ..Recipe::by_name("demo").unwrap() }
    }

    fn executor() -> Arc<Engine> {
        Arc::new(Engine::default())
    }

    fn trainer() -> Trainer<f32> {
        trainer_of(recipe())
    }

    fn trainer_of(recipe: Recipe) -> Trainer<f32> {
        let model = ResNet::new(&Architecture::by_name("resnet8").unwrap(), 3).unwrap();
        Trainer::new(model, executor(), recipe, data()).unwrap()
    }

    fn of(trainer: &Trainer<f32>) -> Checkpoint {
        let best = Best { epoch: 1, correct: [3, 10], weights: state_dict::collect(trainer.model()) };
        let files = vec![("metrics.csv".to_string(), "epoch,\"x\"\n1,2\n".to_string())];
        Checkpoint::of(trainer, Some(best), "model = \"resnet8\"".to_string(), files, IMAGES.1)
    }

    #[test]
    fn a_run_that_is_broken_off_anywhere_ends_with_the_same_bits() {
        break_after_every_step("steps", recipe(), 5);
        // Every option that adds to a run's state or changes a step. Two batches of 7 per step, two images in the last
        // step.
        let recipe = Recipe { mixup: 0.3, accumulate: 2, ema_decay: 0.9, ..recipe() };
        break_after_every_step("steps-all", recipe, 3);
    }

    /// Interrupted after every step, written, read, resumed: metrics and final weights are bit-identical.
    fn break_after_every_step(name: &str, recipe: Recipe, steps: usize) {
        let folder = folder(name);
        let path = folder.0.join("c.safetensors");
        let mut whole = trainer_of(recipe.clone());
        let (mut expected, mut expected_layers) = (Vec::new(), Vec::new());
        while !whole.is_done() {
            expected.push(whole.train_epoch(&mut |_| ControlFlow::Continue(())).unwrap().unwrap());
            expected_layers.push(whole.layers().to_vec());
        }
        let (mut broken, mut found, mut layers, mut breaks) = (trainer_of(recipe.clone()), Vec::new(), Vec::new(), 0);
        while !broken.is_done() {
            let epoch = broken.train_epoch(&mut |_| ControlFlow::Break(())).unwrap();
            if epoch.is_some() {
                layers.push(broken.layers().to_vec());
            }
            found.extend(epoch.iter().copied());
            of(&broken).write(&path).unwrap();
            let read = Checkpoint::read(&path).unwrap();
            assert_eq!(read, of(&broken));
            assert_eq!(read.layers.is_empty(), !broken.has_all_steps());
            let mut model = ResNet::new(&Architecture::by_name("resnet8").unwrap(), 99).unwrap();
            Checkpoint::load(&path, &read.model, &mut model).unwrap();
            broken = Trainer::resume(model, executor(), read.snapshot(), recipe.clone(), data()).unwrap();
            breaks += usize::from(epoch.is_none());
        }
        assert_eq!(breaks, 2 * steps);
        assert_eq!(fingerprint(broken.model()), fingerprint(whole.model()));
        assert_eq!(fingerprint(&broken.result()), fingerprint(&whole.result()));
        // The norms of the last step are those of the process that took it.
        assert_eq!(layers, expected_layers);
        for (a, b) in expected.iter().zip(&found) {
            // Seconds are not reproducible.
            assert_eq!(super::super::EpochMetrics { seconds: a.seconds, ..*b }, *a);
        }
    }

    #[test]
    fn every_damage_is_noticed_and_the_one_before_is_used() {
        let folder = folder("damage");
        let checkpoints = Checkpoints::new(folder.0.clone(), 2);
        let mut trainer = trainer();
        for _ in 0..3 {
            trainer.train_epoch(&mut |_| ControlFlow::Break(())).unwrap();
            checkpoints.save(of(&trainer)).unwrap();
        }
        let files = checkpoints.files().unwrap();
        assert_eq!(files.len(), 2, "the last two are kept");
        let latest = checkpoints.latest().unwrap();
        assert_eq!((latest.path, latest.checkpoint.position.step), (files[1].clone(), 3));
        assert!(latest.damaged.is_empty());
        let bytes = std::fs::read(&files[1]).unwrap();
        // A flipped bit in the header, in the values, at the end; a truncated file; an empty one.
        let flipped = |place: usize| {
            let mut bytes = bytes.clone();
            bytes[place] ^= 4;
            bytes
        };
        let damages = [
            flipped(200),
            flipped(bytes.len() / 2),
            flipped(bytes.len() - 1),
            bytes[..bytes.len() - 1].to_vec(),
            Vec::new(),
        ];
        for damage in damages {
            std::fs::write(&files[1], damage).unwrap();
            assert_eq!(checkpoints.files().unwrap().len(), 2);
            let latest = checkpoints.latest().unwrap();
            assert_eq!((&latest.path, latest.checkpoint.position.step), (&files[0], 2));
            assert_eq!((latest.damaged.len(), checkpoints.files().unwrap().len()), (1, 1));
        }
        std::fs::write(&files[0], b"").unwrap();
        assert!(checkpoints.latest().unwrap_err().to_string().contains("expected a complete checkpoint"));
    }

    #[test]
    fn other_images_are_named() {
        let folder = folder("images");
        let path = folder.0.join("c.safetensors");
        let saved = ImageHashes { train: 1, validation: Some(2), test: Some(u64::MAX) };
        Checkpoint { data: saved, ..of(&trainer()) }.write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap().data, saved);
        // Earlier versions hash only the training images.
        let unknown = ImageHashes { validation: None, test: None, ..saved };
        let mut old = Checkpoint { data: unknown, ..of(&trainer()) }.into_tensors();
        let state = old.metadata.get_mut(STATE).unwrap();
        *state = state.replace("\"validation_data\":null,", "").replace("\"test_data\":null,", "");
        assert!(!state.contains("_data"));
        let expected = hash(&old);
        old.metadata.insert(HASH.to_string(), expected);
        std::fs::write(&path, safetensors::to_bytes(&path, &old).unwrap()).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap().data, unknown);
        assert_eq!(saved.different_from(&unknown), None);
        assert_eq!(saved.different_from(&saved), None);
        for (other, expected) in [
            (ImageHashes { train: 0, ..saved }, "training"),
            (ImageHashes { validation: Some(0), ..saved }, "validation"),
            (ImageHashes { test: Some(0), ..saved }, "test"),
        ] {
            assert_eq!(other.different_from(&saved), Some(expected));
        }
    }

    #[test]
    fn positions_outside_the_run_and_buffers_of_another_are_refused() {
        let trainer = trainer();
        let resume = |position: Position, momentum: Vec<(String, ArrayD<f32>)>| {
            let snapshot = Snapshot { position, momentum, ..Snapshot::default() };
            let error = Trainer::resume(trainer.model().clone(), executor(), snapshot, recipe(), data());
            error.map(|_| ()).map_err(|error| error.to_string())
        };
        let at = |epoch, step| Position { epoch, step, ..Position::default() };
        for within in [at(1, 4), at(1, 5), at(2, 0)] {
            assert!(resume(within, Vec::new()).is_ok());
        }
        for wrong in [at(0, 6), at(2, 1), at(3, 0)] {
            assert!(resume(wrong, Vec::new()).unwrap_err().contains("2 epochs of 5 steps"));
        }
        let buffer = ("conv1.weight".to_string(), ArrayD::zeros(vec![1]));
        assert!(resume(at(1, 0), vec![buffer]).is_err());
        // A missing average.
        let recipe = Recipe { ema_decay: 0.9, ..recipe() };
        let error =
            Trainer::resume(trainer.model().clone(), executor(), Snapshot::default(), recipe, data()).map(|_| ());
        assert!(error.unwrap_err().to_string().contains("expects an average of conv1.weight, found none"));
    }
}
