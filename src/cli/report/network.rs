//! What a run's network has learnt: its filters, and what it makes of images it has not learnt from.
//!
//! Which images? Of a run that is over the test images, with the weights that were tested: the run looked at them then,
//! and nothing is chosen by this second look. Of a run that is not over the validation images: the test images are for
//! its end.

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

/// The most mistakes that are shown.
pub const MISTAKES: usize = 18;

/// A network with weights of a run.
pub struct Network {
    /// Its file.
    pub file: &'static str,
    /// Epochs done when they were saved.
    pub epoch: usize,
    /// Trained scalars.
    pub parameters: usize,
    /// Weights of the first convolution `(C_out, 3, h, w)`.
    pub filters: Option<Array4<f32>>,
    model: ResNet<f32>,
    trained: Trained,
}

/// What a network makes of images.
pub struct Judgement {
    pub set: Set,
    pub classes: Vec<String>,
    pub evaluation: Evaluation,
    /// The mistakes the network is surest of, the surest first.
    pub mistakes: Vec<Mistake>,
}

/// Which images.
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

/// An image that was classified wrong.
pub struct Mistake {
    pub prediction: Prediction,
    /// The image `(h, w, 3)`.
    pub image: Array3<u8>,
}

/// What was found out about a run, and why the rest was not.
#[derive(Default)]
pub struct Findings {
    pub network: Option<Network>,
    /// What the images are.
    pub kind: Option<&'static str>,
    pub judgement: Option<Judgement>,
    /// Why something is not there.
    pub notes: Vec<String>,
    /// What should not be.
    pub warnings: Vec<String>,
}

/// Opens the images of one run after another; several runs on the same images read them once.
pub struct Album {
    /// `--data`
    given: Option<PathBuf>,
    last: Option<(Place, Images)>,
}

/// A path, and the size its pictures are made.
type Place = (PathBuf, usize);

type Images = Rc<(Splits, About)>;

impl Album {
    pub fn new(given: Option<PathBuf>) -> Self {
        Album { given, last: None }
    }

    /// The images of a run, or why they are not there. Images that were asked for and are not there are an error.
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
                "there is no `{}` where `resnet report` was called; say with --data where the images are now",
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
    // Those that were tested; of a run that is not over the best so far.
    let tested = run.result.as_ref().map(|result| result.tested_weights_of_epoch);
    let chosen = networks.iter().position(|network| tested.is_none_or(|epoch| network.epoch == epoch));
    let opened = match album.open(run)? {
        Ok(opened) => {
            findings.kind = Some(kind(run, opened.1.kind));
            Some(opened)
        }
        Err(why) => {
            findings.notes.push(format!("No image could be looked at: {why}."));
            None
        }
    };
    let set = if run.result.is_some() { Set::Test } else { Set::Validation };
    match (chosen, tested) {
        (Some(_), None) if !run.has_validation() => findings.notes.push(
            "The run is not over, and it holds no images out for validation; the test images are for its end. So no \
             image was looked at."
                .to_string(),
        ),
        (Some(chosen), _) => {
            if let Some(opened) = opened {
                findings.judge(run, &networks[chosen], set, &opened.0)?;
            }
        }
        (None, Some(epoch)) => findings.warnings.push(format!(
            "The weights that were tested, those of epoch {epoch}, are not in the folder of the run. So no image was \
             looked at."
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
            let message =
                "expected weights that `resnet train` wrote, found some that do not say of which epoch they are";
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
    /// Has the network judge its images, if they are those of the run.
    fn judge(&mut self, run: &Run, network: &Network, set: Set, splits: &Splits) -> Result<()> {
        // Only with all of these: another data set, or another number of its images.
        let parts = train::train_and_validation(splits.train.clone(), run.config.train_images, &run.recipe);
        let Ok((train, validation)) = parts else {
            self.warnings.push(format!(
                "The images are not those of the run: it learnt from more training images than the {} there are. None \
                 was looked at.",
                text::thousands(splits.train.len() as u64)
            ));
            return Ok(());
        };
        let same_classes = network.classes()?.is_none_or(|classes| classes == splits.test.classes);
        match Checkpoints::new(run.path.join("checkpoints"), 1).peek() {
            Some(checkpoint) if checkpoint.data == data_hash(&train) && same_classes => {}
            None if same_classes => self.notes.push(
                "There is no whole checkpoint in the folder of the run, so it could not be checked that the images are \
                 those of the run."
                    .to_string(),
            ),
            _ => {
                self.warnings.push(
                    "The images are not those of the run: the training images, or the classes, are others. None was \
                     looked at; say with --data where the images of the run are."
                        .to_string(),
                );
                return Ok(());
            }
        }
        let dataset = match set {
            Set::Test => splits.test.clone(),
            Set::Validation => validation.expect("asked for only where there are some"),
        };
        drop(train);
        let dataset = Arc::new(dataset);
        let mut wrong = Vec::new();
        let spinner = ProgressBar::new_spinner().with_message(format!("classifying {} images", dataset.len()));
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
                "The loss of the {} images with the weights of epoch {} is {}: nothing can be said of single images.",
                set.name(),
                network.epoch,
                evaluation.loss
            ));
            return Ok(());
        }
        self.compare(run, network, set, &evaluation);
        let mistakes = surest(wrong).into_iter();
        let with_image =
            |prediction: Prediction| Mistake { prediction, image: dataset.image(prediction.index).to_owned() };
        let mistakes = mistakes.map(with_image).collect();
        self.judgement = Some(Judgement { set, classes: dataset.classes.clone(), evaluation, mistakes });
        Ok(())
    }

    /// Holds what was found against what the run found.
    fn compare(&mut self, run: &Run, network: &Network, set: Set, evaluation: &Evaluation) {
        let found = [evaluation.top1, evaluation.images()];
        let (expected, file) = match (set, &run.result) {
            (Set::Test, Some(result)) => (Some([result.test_correct, result.test_images]), "result.json"),
            // A share of as many images: 0.7 of 10 are 7.
            _ => {
                let accuracy: Option<f64> =
                    network.trained.about("validation_accuracy").and_then(|text| text.parse().ok());
                (accuracy.map(|accuracy| [(accuracy * found[1] as f64).round() as usize, found[1]]), network.file)
            }
        };
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let [now, then] = [found, expected].map(|[part, whole]| text::share(part, whole));
            self.warnings.push(format!(
                "Not what the run found: of the {} images {now} are right now, and {file} says {then}. The weights or \
                 the images have been changed since; if it is a few images only, another processor or RESNET_KERNELS \
                 may have rounded otherwise.",
                set.name()
            ));
        }
    }
}

/// The [`MISTAKES`] with the largest probability of the wrong class, of equal ones the first.
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
