//! The network of a run: its filters, and its predictions for images that it was not trained on.
//!
//! Which images? For a finished run the test images, with the weights that were tested: the run has already evaluated on
//! them, and nothing is selected by this second evaluation. For an unfinished run the validation images: the test images
//! are used only at the end of a run.

use super::run::Run;
use crate::Error;
use crate::cli::images::{About, DEFAULT_SIZE, DataArgs};
use crate::cli::trained::Trained;
use crate::cli::{Result, text, train};
use crate::data::{Kind, Splits};
use crate::model::{Architecture, ResNet};
use crate::parameters::{Parameters as _, Role};
use crate::train::checkpoint::{Checkpoints, data_hash};
use crate::train::{Evaluation, Prediction, evaluate_each};
use indicatif::ProgressBar;
use ndarray::{Array3, Array4, ArrayViewD, Ix4};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The largest number of mistakes that are shown.
pub const MISTAKES: usize = 18;

/// A network with weights of a run.
pub struct Network {
    /// The name of its file.
    pub file: &'static str,
    /// Epochs completed when the weights were saved.
    pub epoch: usize,
    /// The number of trained values.
    pub parameters: usize,
    /// Weights of the first convolution `(C_out, 3, h, w)`.
    pub filters: Option<Array4<f32>>,
    model: ResNet<f32>,
    trained: Trained,
}

/// The results of a network on images.
pub struct Judgement {
    pub set: Set,
    pub classes: Vec<String>,
    pub evaluation: Evaluation,
    /// A hash of the images, by which runs on the same images are recognised.
    pub images: u64,
    /// The places of the images that are classified wrongly, in order.
    pub wrong: Vec<usize>,
    /// The most confident mistakes, the most confident first.
    pub mistakes: Vec<Mistake>,
}

/// The set of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Test,
    Validation,
}

impl Set {
    pub fn name(self) -> &'static str {
        match self {
            Set::Test => "test",
            Set::Validation => "validation",
        }
    }
}

/// An image that was classified wrongly.
pub struct Mistake {
    pub prediction: Prediction,
    /// The image `(h, w, 3)`.
    pub image: Array3<u8>,
}

/// What was found out about a run, and why the rest is missing.
#[derive(Default)]
pub struct Findings {
    pub network: Option<Network>,
    /// The name of the data set.
    pub kind: Option<&'static str>,
    pub judgement: Option<Judgement>,
    /// Why something is missing.
    pub notes: Vec<String>,
    /// Contradictions between the run and its files.
    pub warnings: Vec<String>,
}

/// Opens the images of one run after another; several runs on the same images read them once.
pub struct Album {
    /// `--data`
    given: Option<PathBuf>,
    last: Option<(Place, Images)>,
}

/// A path, and the size to which its pictures are resized.
type Place = (PathBuf, usize);

type Images = Rc<(Splits, About)>;

impl Album {
    pub fn new(given: Option<PathBuf>) -> Self {
        Album { given, last: None }
    }

    /// The images of a run, or why they are missing. If `--data` was given, missing images are an error.
    fn open(&mut self, run: &Run) -> Result<std::result::Result<Images, String>> {
        let configured = run.config.data();
        let path = match &self.given {
            Some(given) if !configured.is_embedded() => given.clone(),
            _ => configured.data.clone().unwrap_or_else(|| "embedded".into()),
        };
        let size = configured.image_size.unwrap_or(DEFAULT_SIZE);
        let place = (path.clone(), size);
        if let Some((_, opened)) = self.last.as_ref().filter(|(last, _)| *last == place) {
            return Ok(Ok(opened.clone()));
        }
        let data = DataArgs { data: Some(path.clone()), image_size: configured.image_size };
        match data.load(size) {
            Ok(opened) => {
                let opened = Rc::new(opened);
                self.last = Some((place, opened.clone()));
                Ok(Ok(opened))
            }
            Err(failure) if self.given.is_some() && !configured.is_embedded() => Err(failure),
            Err(failure) if path.exists() => Ok(Err(super::message(failure))),
            Err(_) => Ok(Err(format!(
                "`{}` does not exist; if the images were moved, give their location with --data",
                path.display()
            ))),
        }
    }
}

/// Finds out what can be found out about a run.
pub fn examine(run: &Run, album: &mut Album) -> Result<Findings> {
    let mut findings = Findings::default();
    let mut networks = Vec::new();
    for file in ["best.safetensors", "weights.safetensors"] {
        let path = run.path.join(file);
        if path.exists() {
            networks.push(Network::read(&path, file, run)?);
        }
    }
    // The weights that were tested; for an unfinished run the best so far.
    let tested = run.result.as_ref().map(|result| result.tested_weights_of_epoch);
    let chosen = networks.iter().position(|network| tested.is_none_or(|epoch| network.epoch == epoch));
    let opened = match album.open(run)? {
        Ok(opened) => {
            findings.kind = Some(kind(run, opened.1.kind));
            Some(opened)
        }
        Err(why) => {
            findings.notes.push(format!("No images could be evaluated: {why}."));
            None
        }
    };
    let set = if run.result.is_some() { Set::Test } else { Set::Validation };
    match (chosen, tested) {
        (Some(_), None) if !run.has_validation() => findings.notes.push(
            "The run is unfinished and has no validation images, and the test images are used only at the end of a run. \
             So no images were evaluated."
                .to_string(),
        ),
        (Some(chosen), _) => {
            if let Some(opened) = opened {
                findings.judge(run, &networks[chosen], set, &opened.0)?;
            }
        }
        (None, Some(epoch)) => findings.warnings.push(format!(
            "The weights that were tested, those of epoch {epoch}, are not in the folder of the run. So no images were \
             evaluated."
        )),
        (None, None) => {
            findings.notes.push("There are no weights yet: they are saved after every epoch.".to_string());
        }
    }
    findings.network = (!networks.is_empty()).then(|| networks.swap_remove(chosen.unwrap_or(0)));
    Ok(findings)
}

fn kind(run: &Run, kind: Kind) -> &'static str {
    match kind {
        _ if run.config.data().is_embedded() => "the embedded part of CIFAR-10",
        Kind::Cifar10 => "CIFAR-10",
        Kind::Cifar100 => "CIFAR-100",
        Kind::Folder => "pictures in folders",
    }
}

impl Network {
    fn read(path: &Path, file: &'static str, run: &Run) -> Result<Self> {
        let architecture = Architecture::by_name(&run.recipe.model)?;
        let trained = Trained::read(path, Some(&architecture))?;
        let model = trained.model::<f32>(trained.classes()?.0)?;
        let Some(epoch) = trained.about("epoch").and_then(|epoch| epoch.parse().ok()) else {
            let message = "expected weights written by `resnet train`, found weights without their epoch";
            return Err(Error::format(path, None, message).into());
        };
        let mut filters = None;
        model.visit("", &mut |name, role, tensor: ArrayViewD<f32>| {
            if name == "conv1.weight" && role == Role::Weight {
                filters = tensor.to_owned().into_dimensionality::<Ix4>().ok();
            }
        });
        Ok(Network { file, epoch, parameters: model.parameter_count(), filters, model, trained })
    }

    /// The names of the classes, if the file has them.
    pub fn classes(&self) -> Result<Option<Vec<String>>> {
        Ok(self.trained.classes()?.1)
    }
}

impl Findings {
    /// Evaluates the network on its images, if they are those of the run.
    fn judge(&mut self, run: &Run, network: &Network, set: Set, splits: &Splits) -> Result<()> {
        // An error here means another data set, or another number of images.
        let (train, own) = (splits.train.clone(), splits.validation.clone());
        let parts = train::train_and_validation(train, own, run.config.train_images, &run.recipe);
        let Ok((train, validation)) = parts else {
            self.warnings.push(format!(
                "The images are not those of the run: it used more training images than the {} that were found, or \
                 validation images that were not found. No images were evaluated.",
                text::thousands(splits.train.len() as u64)
            ));
            return Ok(());
        };
        let same_classes = network.classes()?.is_none_or(|classes| classes == splits.test.classes);
        match Checkpoints::new(run.path.join("checkpoints"), 1).peek() {
            Some(checkpoint) if checkpoint.data.train == data_hash(&train)? && same_classes => {}
            None if same_classes => self.notes.push(
                "There is no valid checkpoint in the folder of the run, so it could not be checked whether the images \
                 are those of the run."
                    .to_string(),
            ),
            _ => {
                self.warnings.push(
                    "The images are not those of the run: the training images or the classes differ. No images were \
                     evaluated; give the location of the images of the run with --data."
                        .to_string(),
                );
                return Ok(());
            }
        }
        let dataset = match set {
            Set::Test => splits.test.clone(),
            Set::Validation => validation.expect("the validation set is used only if there is one"),
        };
        drop(train);
        let dataset = Arc::new(dataset);
        let mut wrong = Vec::new();
        let spinner =
            ProgressBar::new_spinner().with_message(format!("classifying {}", text::count(dataset.len(), "image")));
        spinner.enable_steady_tick(Duration::from_millis(100));
        let executor = run.config.executor()?;
        let evaluated =
            evaluate_each(&*executor, &network.model, &dataset, run.recipe.evaluation(), &mut |prediction| {
                if prediction.class != prediction.target {
                    wrong.push(prediction);
                }
            });
        spinner.finish_and_clear();
        let evaluation = evaluated?;
        if !evaluation.loss.is_finite() {
            self.warnings.push(format!(
                "The loss of the {} images with the weights of epoch {} is {}, so single images are not evaluated.",
                set.name(),
                network.epoch,
                evaluation.loss
            ));
            return Ok(());
        }
        self.compare(run, network, set, &evaluation);
        let places = wrong.iter().map(|prediction| prediction.index).collect();
        let mistakes = surest(wrong).into_iter();
        let (_, height, width, _) = dataset.pixels.dim();
        let with_image = |prediction: Prediction| {
            let pixels = dataset.images(&[prediction.index])?.remove(0).into_owned();
            let image = Array3::from_shape_vec((height, width, 3), pixels).expect("(H, W, 3)");
            Ok(Mistake { prediction, image })
        };
        let mistakes = mistakes.map(with_image).collect::<Result<_>>()?;
        self.judgement = Some(Judgement {
            set,
            classes: dataset.classes.clone(),
            evaluation,
            images: data_hash(&dataset)?,
            wrong: places,
            mistakes,
        });
        Ok(())
    }

    /// Compares the results with those of the run.
    fn compare(&mut self, run: &Run, network: &Network, set: Set, evaluation: &Evaluation) {
        let found = [evaluation.top1, evaluation.images()];
        let (expected, file) = match (set, &run.result) {
            (Set::Test, Some(result)) => (Some([result.test_correct, result.test_images]), "result.json"),
            // An accuracy on the same number of images: 0.7 of 10 are 7.
            _ => {
                let accuracy: Option<f64> =
                    network.trained.about("validation_accuracy").and_then(|text| text.parse().ok());
                (accuracy.map(|accuracy| [(accuracy * found[1] as f64).round() as usize, found[1]]), network.file)
            }
        };
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let [now, then] = [found, expected].map(|[part, whole]| text::share(part, whole));
            self.warnings.push(format!(
                "The results differ from those of the run: of the {} images {now} are correct now, but {file} contains \
                 {then}. The weights or the images have changed since then; if only a few images differ, the cause may \
                 be the rounding of another processor or RESNET_KERNELS setting.",
                set.name()
            ));
        }
    }
}

/// The [`MISTAKES`] with the largest probability of the wrong class; equal ones in their order.
fn surest(mut wrong: Vec<Prediction>) -> Vec<Prediction> {
    wrong.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.index.cmp(&b.index)));
    wrong.truncate(MISTAKES);
    wrong
}

/// The weights of the convolutions and of the linear layer of a network by name, in its order.
pub fn weight_names(model: &str) -> Result<Vec<String>> {
    let model = ResNet::<f32>::zeroed(&Architecture::by_name(model)?)?;
    let mut names = Vec::new();
    model.visit("", &mut |name, role, _| {
        if role == Role::Weight {
            names.push(name.to_string());
        }
    });
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surest_mistakes_come_first() {
        let mistake =
            |index, probability| Prediction { index, target: 0, class: 1, probability, target_probability: 0.0 };
        let all = (0..30).map(|i| mistake(i, [0.5, 0.9, 0.7][i % 3])).collect();
        let indices: Vec<usize> = surest(all).iter().map(|prediction| prediction.index).collect();
        assert_eq!(indices, [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 2, 5, 8, 11, 14, 17, 20, 23]);
    }

    #[test]
    fn layers_are_convolutions_and_the_linear_layer() {
        let names = weight_names("resnet20").unwrap();
        // 1 + 18 + 1 layers; option A has no convolution in its shortcuts.
        assert_eq!((names.len(), names[0].as_str(), names[19].as_str()), (20, "conv1.weight", "fc.weight"));
        assert!(names.iter().all(|name| !name.contains("bn")));
    }
}
