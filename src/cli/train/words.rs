//! Texts about a recipe, and about a run before it starts.

use super::table::Table;
use super::{Run, start};
use crate::cli::args::EngineKind;
use crate::cli::progress::{Progress, terminal_columns};
use crate::cli::{Result, args, text};
use crate::data::Dataset;
use crate::optim::DecayExemption;
use crate::train::{EpochMetrics, Evaluation, Position, Recipe, Validation, recipe};

/// The recipes with their values, for `--help`.
pub fn recipes() -> String {
    let mut help = "Recipes:\n".to_string();
    for (name, about) in recipe::RECIPES {
        let recipe = Recipe::by_name(name).expect("a known recipe");
        let held_out = match recipe.validation {
            Validation::NONE => String::new(),
            Validation::HeldOut(images) => format!("; {}", text::count(images, "validation image")),
            Validation::Folder => "; the validation images of the data set".to_string(),
        };
        help += &format!(
            "  {name}: {about}\n      {}, {}\n      {}; {}{held_out}\n      {}\n",
            recipe.model,
            steps(&recipe),
            optimiser(&recipe),
            augmentation(&recipe),
            normalization(&recipe)
        );
    }
    help.trim_end().to_string()
}

pub fn steps(recipe: &Recipe) -> String {
    let Recipe { epochs, batch_size, accumulate, shards, norm_group, lr, schedule, .. } = recipe;
    let mut batches = if *accumulate > 1 { format!("{accumulate} x {batch_size}") } else { batch_size.to_string() };
    if *shards > 1 {
        batches += &format!(" in {shards} shards");
    }
    if *norm_group > 0 {
        batches += &format!(" (batch norm over groups of {norm_group})");
    }
    format!("{}, batch size {batches}, lr {lr} {schedule}", text::count(*epochs, "epoch"))
}

pub fn optimiser(recipe: &Recipe) -> String {
    let sgd = &recipe.sgd;
    let nesterov = if sgd.nesterov { " (Nesterov)" } else { "" };
    let spared = match sgd.decay_exemption {
        DecayExemption::None => "",
        DecayExemption::NormAndBias => " except on batch norm and biases",
    };
    let mut text = format!("momentum {}{nesterov}, weight decay {}{spared}", sgd.momentum, sgd.weight_decay);
    if recipe.label_smoothing > 0.0 {
        text += &format!(", label smoothing {}", recipe.label_smoothing);
    }
    if recipe.clip_norm > 0.0 {
        text += &format!(", gradients clipped to {}", recipe.clip_norm);
    }
    if recipe.ema_decay > 0.0 {
        text += &format!(", weights averaged with decay {}", recipe.ema_decay);
    }
    if recipe.zero_init_residual {
        text += ", blocks initialised as their shortcut";
    }
    text
}

pub fn augmentation(recipe: &Recipe) -> String {
    let augmentation = recipe.augmentation;
    let mut text = match (augmentation.crop_padding, augmentation.flip) {
        (0, false) => "no crops or flips".to_string(),
        (0, true) => "flips".to_string(),
        (padding, false) => format!("crops with padding {padding}"),
        (padding, true) => format!("crops with padding {padding}, flips"),
    };
    if augmentation.cutout > 0 {
        text += &format!(", cutout of {}", text::count(augmentation.cutout, "pixel"));
    }
    if recipe.mixup > 0.0 {
        text += &format!(", mixup with alpha {}", recipe.mixup);
    }
    if recipe.test_flip {
        text += "; evaluations include mirror images";
    }
    text
}

fn normalization(recipe: &Recipe) -> String {
    let (mean, std) = (recipe.normalization.mean(), recipe.normalization.std());
    format!("mean {}, std {}", args::write_three(mean), args::write_three(std))
}

impl Run {
    /// Prints what the run is going to do.
    pub fn describe(&self, progress: &mut Progress) -> Result<()> {
        let recipe = self.trainer.recipe();
        let (_, height, width, _) = self.train.pixels.dim();
        let cost = self.trainer.model().cost(1, [height, width])?;
        let (model, validation) = (self.trainer.model(), self.validation.as_deref());
        let memory = start::memory_plan(
            &self.config,
            recipe,
            model,
            [&self.train, &self.test],
            validation,
            self.processes.size(),
        )?;
        let held_out = self.validation.as_ref();
        let held_out =
            held_out.map_or(String::new(), |v| format!(", {} for validation", text::thousands(v.len() as u64)));
        let count = |dataset: &Dataset| text::thousands(dataset.len() as u64);
        let position = self.trainer.position();
        let engine = match self.config.engine()? {
            EngineKind::Fast => format!("fast, convolutions {}", self.config.conv()?.unwrap_or_default().name()),
            EngineKind::Reference => "reference".to_string(),
        };
        let together = self.together.as_ref();
        let processes = together.map_or(&self.processes, |together| &together.world).size();
        let mut threads = rayon::current_num_threads().to_string();
        if processes > 1 {
            threads += &format!(" in each of {processes} processes");
        }
        let (seed, folder) = match together {
            None => (recipe.seed.to_string(), self.folder.path()),
            Some(together) => (together.seeds.clone(), &*together.folder),
        };
        let mut lines = vec![
            (
                "model",
                format!(
                    "{}, {} parameters, {} multiply-adds per image",
                    recipe.model,
                    text::thousands(cost.parameters),
                    text::short(cost.multiply_adds)
                ),
            ),
            ("memory", memory.estimate()?.describe()),
            (
                "data",
                format!(
                    "{} for training{held_out}, {} for testing: {}",
                    text::count(self.train.len(), "image"),
                    count(&self.test),
                    self.about.description
                ),
            ),
            ("recipe", format!("{}: {}", recipe.name, steps(recipe))),
            ("", optimiser(recipe)),
            ("augmentation", augmentation(recipe)),
            ("normalisation", normalization(recipe)),
            ("engine", engine),
            ("threads", threads),
            (if together.is_some() { "seeds" } else { "seed" }, seed),
            ("run folder", folder.display().to_string()),
        ];
        if position != Position::default() && together.is_none() {
            let place = match position.step {
                0 => format!("after epoch {} of {}", position.epoch, recipe.epochs),
                step => format!(
                    "in epoch {} of {}, after step {step} of {}",
                    position.epoch + 1,
                    recipe.epochs,
                    self.trainer.steps_per_epoch()
                ),
            };
            lines.push(("resumed", place));
        }
        lines.extend(self.about.notes.iter().map(|note| ("note", note.clone())));
        let keys = std::iter::once("initialised").chain(std::iter::repeat(""));
        lines.extend(keys.zip(self.initialised.iter().cloned()));
        for (key, value) in lines {
            progress.line(&format!("{key:<14} {value}"));
        }
        let header = self.table().header();
        match together {
            None => progress.header(&header),
            // Now, before the other runs print rows.
            Some(together) => {
                progress.line("");
                progress.line(&together.with_seed("seed", &header));
            }
        }
        Ok(())
    }

    /// The table of epochs. Those of several runs that are trained at the same time have their seed in front.
    fn table(&self) -> Table {
        let first = self.together.as_ref().map_or(0, |together| together.with_seed("", "").len());
        let room = terminal_columns().saturating_sub(first);
        Table::new(self.trainer.recipe().epochs, self.validation.is_some(), room)
    }

    /// An epoch as a row of the table.
    pub fn row(&self, epoch: &EpochMetrics, validation: Option<&Evaluation>) -> String {
        let row = self.table().row(epoch, validation);
        let seed = self.trainer.recipe().seed.to_string();
        self.together.as_ref().map_or(row.clone(), |together| together.with_seed(&seed, &row))
    }
}
