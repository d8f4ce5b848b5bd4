//! The settings of a training run, as plain data.

use super::Validation;
use super::metrics::EvaluationOptions;
use crate::data::{Augmentation, Normalization, mixup};
use crate::optim::{DecayExemption, Schedule, SgdConfig};
use crate::{Error, Result};

/// The settings of a training run.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// The model for which it was designed.
    pub model: String,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images per batch; a training step has [`accumulate`](Self::accumulate) batches.
    pub batch_size: usize,
    /// Images per step of an evaluation.
    pub eval_batch_size: usize,
    /// Base learning rate of the schedule (one-cycle: the largest).
    pub lr: f64,
    /// The learning rate over time.
    pub schedule: Schedule,
    /// Momentum, dampening, weight decay, Nesterov.
    pub sgd: SgdConfig,
    /// Label smoothing ε in [0, 1): with 1 nothing of the labels would be left.
    pub label_smoothing: f64,
    /// The largest norm of the gradient of all parameters together:
    /// [`Gradients::clip_norm`](crate::parameters::Gradients::clip_norm). 0: no limit.
    pub clip_norm: f64,
    /// α of mixup: [`data::mixup`](crate::data::mixup). 0: none.
    pub mixup: f64,
    /// Batches per step: the gradient is that of all their images, with the memory of one batch.
    pub accumulate: usize,
    /// Shards of a batch, a power of two: [`shards`](crate::shards). The result depends on their number, and not on how many
    /// processes have them.
    pub shards: usize,
    /// Images of a shard that a batch norm normalises together ("ghost" batch norm):
    /// [`BatchNorm2d::group`](crate::layers::BatchNorm2d::group). 0: all images of the batch.
    pub norm_group: usize,
    /// d of the moving average of the weights: [`WeightAverage`](crate::optim::WeightAverage). 0: none.
    pub ema_decay: f64,
    /// Random crops and flips.
    pub augmentation: Augmentation,
    /// How bytes are converted to numbers.
    pub normalization: Normalization,
    /// Whether an evaluation averages the logits of an image and of its mirror image.
    pub test_flip: bool,
    /// The images to choose the best epoch by.
    pub validation: Validation,
    /// Epochs between two validations; there is one after the last epoch, too.
    pub validate_every: usize,
    /// The run ends after this many epochs without a better validation accuracy. 0: never.
    pub early_stopping: usize,
    /// γ = 0 in the last batch norm of every block.
    pub zero_init_residual: bool,
    /// Seed of the initial weights, the order of the images, crops and flips, and the validation split.
    pub seed: u64,
}

/// Every named recipe with a description.
pub const RECIPES: &[(&str, &str)] = &[
    ("paper", "He et al. 2015 section 4.2: 64,000 steps, lr divided by 10 after 32,000 and 48,000"),
    ("resnet34-150", "a public ResNet-34 for CIFAR-10: 150 epochs of 32, lr 0.1 divided by 10 at epochs 80, 110, 130"),
    ("resnet50-10", "a public ResNet-50 notebook: 10 epochs of 64, lr 0.01, no crops or flips"),
    ("quick", "10 epochs of 128, one cycle up to lr 0.4, Nesterov, weight decay 5e-4"),
    ("demo", "for the embedded images: about a minute on two cores"),
];

impl Recipe {
    /// The recipe called `name`.
    ///
    /// # Errors
    /// If there is none; the message lists [`RECIPES`].
    ///
    /// ```
    /// use resnet_by_hand::train::Recipe;
    /// let paper = Recipe::by_name("paper")?;
    /// assert_eq!((paper.batch_size, paper.lr, paper.sgd.weight_decay), (128, 0.1, 1e-4));
    /// # Ok::<(), resnet_by_hand::Error>(())
    /// ```
    pub fn by_name(name: &str) -> Result<Self> {
        // Older run folders contain the earlier names.
        let name = match name {
            "system1" => "resnet34-150",
            "system2" => "resnet50-10",
            name => name,
        };
        let schedule = |text: &str| text.parse::<Schedule>().expect("a valid schedule");
        // Section 4.2 of the paper, except for the normalisation: the paper subtracts the mean image, here each channel
        // is normalised. (For 110 layers it warms up: `hold:400s@0.1+multistep:32000s,48000s@0.1`.)
        let paper = Recipe {
            name: name.to_string(),
            model: "resnet20".to_string(),
            // 45,000 images in batches of 128 are 352 steps; 182 epochs of them are the paper's 64k iterations.
            epochs: 182,
            batch_size: 128,
            eval_batch_size: 250,
            lr: 0.1,
            schedule: schedule("multistep:32000s,48000s@0.1"),
            sgd: SgdConfig {
                momentum: 0.9,
                dampening: 0.0,
                weight_decay: 1e-4,
                nesterov: false,
                decay_exemption: DecayExemption::None,
            },
            label_smoothing: 0.0,
            clip_norm: 0.0,
            mixup: 0.0,
            accumulate: 1,
            shards: 1,
            norm_group: 0,
            ema_decay: 0.0,
            augmentation: Augmentation::STANDARD,
            normalization: Normalization::CIFAR10,
            test_flip: false,
            validation: Validation::HeldOut(5000),
            validate_every: 1,
            early_stopping: 0,
            zero_init_residual: false,
            seed: 1,
        };
        match name {
            "paper" => Ok(paper),
            "resnet34-150" => Ok(Recipe {
                model: "resnet34-cifar7x7".to_string(),
                epochs: 150,
                batch_size: 32,
                eval_batch_size: 128,
                schedule: schedule("multistep:80,110,130@0.1"),
                validation: Validation::NONE,
                ..paper
            }),
            "resnet50-10" => Ok(Recipe {
                model: "resnet50".to_string(),
                epochs: 10,
                batch_size: 64,
                lr: 0.01,
                schedule: schedule("step:10@0.1"),
                augmentation: Augmentation::NONE,
                normalization: Normalization::CIFAR10_IMAGE_STD,
                validation: Validation::NONE,
                ..paper
            }),
            "quick" => Ok(Recipe {
                epochs: 10,
                lr: 0.4,
                schedule: schedule("onecycle"),
                sgd: SgdConfig { nesterov: true, weight_decay: 5e-4, ..paper.sgd },
                validation: Validation::NONE,
                ..paper
            }),
            "demo" => Ok(Recipe {
                // 1,400 images are few: a strong decay reduces overfitting.
                model: "resnet8".to_string(),
                epochs: 45,
                batch_size: 32,
                lr: 0.1,
                schedule: schedule("onecycle"),
                sgd: SgdConfig { nesterov: true, weight_decay: 5e-3, ..paper.sgd },
                validation: Validation::NONE,
                ..paper
            }),
            _ => {
                let known = RECIPES.iter().map(|(name, _)| name.to_string()).collect();
                Err(Error::Unknown { kind: "recipe", name: name.to_string(), known })
            }
        }
    }

    /// The evaluation of its networks.
    pub fn evaluation(&self) -> EvaluationOptions {
        let Recipe { normalization, eval_batch_size: batch_size, test_flip, .. } = *self;
        EvaluationOptions { normalization, batch_size, test_flip }
    }

    /// Rejects invalid settings.
    ///
    /// # Errors
    /// If there are no epochs or empty batches, or a number is out of its domain.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::argument("recipe", message));
        if !(self.clip_norm >= 0.0 && self.clip_norm.is_finite()) {
            return refuse(format!("clip_norm must be finite and at least 0, got {}", self.clip_norm));
        }
        if self.validate_every == 0 {
            return refuse("validate_every must be at least 1, got 0".to_string());
        }
        let (early, every) = (self.early_stopping, self.validate_every);
        if early > 0 && self.validation == Validation::NONE {
            let why = "the test set is never used for selection";
            return refuse(format!(
                "early stopping needs a validation split (--validation N, or --validation folder); {why}"
            ));
        }
        if early > 0 && early < every {
            let message =
                format!("early stopping after {early} epochs needs --validate-every of at most that, got {every}");
            return refuse(message);
        }
        mixup::check_alpha(self.mixup)?;
        if !(0.0..1.0).contains(&self.ema_decay) {
            return refuse(format!("ema_decay must be at least 0 and below 1, got {}", self.ema_decay));
        }
        if self.accumulate == 0 {
            return refuse("accumulate must be at least 1 batch per step, got 0".to_string());
        }
        if !self.shards.is_power_of_two() {
            return refuse(format!("shards must be a power of two, got {}", self.shards));
        }
        if self.shards > self.batch_size && self.batch_size > 0 {
            let found = format!("got {} of {}", self.shards, self.batch_size);
            return refuse(format!("a batch must have at least as many images as shards, {found}"));
        }
        if self.epochs == 0 || self.batch_size == 0 || self.eval_batch_size == 0 {
            let found = format!("got {}, {} and {}", self.epochs, self.batch_size, self.eval_batch_size);
            return refuse(format!("epochs, batch size and evaluation batch size must be at least 1, {found}"));
        }
        check_groups(self.batch_size, self.shards, self.norm_group)
            .map_err(|message| Error::argument("recipe", message))?;
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return refuse(format!("the learning rate must be a positive number, got {}", self.lr));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return refuse(format!("label smoothing must be at least 0 and below 1, got {}", self.label_smoothing));
        }
        Ok(())
    }
}

/// Rejects groups into which the shards of a full batch cannot be split. The last batch of an epoch, which may be shorter, has
/// groups of at most so many images, of nearly equal length.
pub(crate) fn check_groups(batch: usize, shards: usize, group: usize) -> std::result::Result<(), String> {
    let [short, long] = [batch / shards, batch.div_ceil(shards)];
    if group == 0 || [short, long].into_iter().all(|images| images.is_multiple_of(group)) {
        return Ok(());
    }
    let lengths = if short == long { short.to_string() } else { format!("{short} or {long}") };
    let divisors = (1..=short).filter(|n| short.is_multiple_of(*n) && long.is_multiple_of(*n));
    let divisors: Vec<String> = divisors.map(|n| n.to_string()).collect();
    // The nearest batch sizes that this group fits.
    let step = group.saturating_mul(shards);
    let batches = [batch / step * step, (batch / step + 1).saturating_mul(step)];
    let batches: Vec<String> = batches.iter().filter(|batch| **batch > 0).map(|batch| batch.to_string()).collect();
    let of = match shards {
        1 => format!("a batch has {batch} images"),
        _ => format!("a batch of {batch} images in {shards} shards has {lengths} images per shard"),
    };
    let (divisors, batches) = (divisors.join(", "), batches.join(" or "));
    Err(format!(
        "{of}, which is not a multiple of norm_group = {group}; expected a norm_group that divides it ({divisors}), or a batch \
         size such as {batches}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_known_valid_and_trains_a_known_model() {
        for (name, _) in RECIPES {
            let recipe = Recipe::by_name(name).unwrap();
            assert_eq!(&recipe.name, name);
            recipe.check().unwrap();
            crate::model::Architecture::by_name(&recipe.model).unwrap();
        }
        assert!(Recipe::by_name("papr").unwrap_err().to_string().contains("did you mean `paper`?"));
    }

    #[test]
    fn numbers_out_of_their_domain_are_refused() {
        let quick = Recipe::by_name("quick").unwrap();
        for wrong in [
            Recipe { epochs: 0, ..quick.clone() },
            Recipe { batch_size: 0, ..quick.clone() },
            Recipe { lr: f64::NAN, ..quick.clone() },
            Recipe { label_smoothing: 1.5, ..quick.clone() },
            Recipe { label_smoothing: 1.0, ..quick.clone() },
            Recipe { clip_norm: -1.0, ..quick.clone() },
            Recipe { validate_every: 0, ..quick.clone() },
            Recipe { early_stopping: 3, ..quick.clone() },
            Recipe { mixup: -1.0, ..quick.clone() },
            Recipe { accumulate: 0, ..quick.clone() },
            Recipe { shards: 3, ..quick.clone() },
            Recipe { shards: 256, ..quick.clone() },
            Recipe { norm_group: 24, ..quick.clone() },
            Recipe { norm_group: 32, shards: 8, ..quick.clone() },
            Recipe { norm_group: 256, ..quick.clone() },
            Recipe { ema_decay: 1.0, ..quick.clone() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    /// The images of a shard are a multiple of the group, and the error says what would be.
    #[test]
    fn groups_divide_every_shard() {
        let with = |batch_size, shards, norm_group| {
            let recipe = Recipe { batch_size, shards, norm_group, ..Recipe::by_name("quick").unwrap() };
            recipe.check().map_err(|error| error.to_string())
        };
        for (batch_size, shards, norm_group) in [(128, 1, 128), (128, 8, 16), (128, 8, 1), (96, 4, 8), (25, 4, 1)] {
            with(batch_size, shards, norm_group).unwrap();
        }
        assert_eq!(
            with(128, 8, 12).unwrap_err(),
            "recipe: a batch of 128 images in 8 shards has 16 images per shard, which is not a multiple of norm_group = 12; \
             expected a norm_group that divides it (1, 2, 4, 8, 16), or a batch size such as 96 or 192"
        );
        assert_eq!(
            with(25, 4, 6).unwrap_err(),
            "recipe: a batch of 25 images in 4 shards has 6 or 7 images per shard, which is not a multiple of norm_group = \
             6; expected a norm_group that divides it (1), or a batch size such as 24 or 48"
        );
        assert_eq!(
            with(10, 1, 16).unwrap_err(),
            "recipe: a batch has 10 images, which is not a multiple of norm_group = 16; expected a norm_group that divides it \
             (1, 2, 5, 10), or a batch size such as 16"
        );
    }
}
