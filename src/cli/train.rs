//! `resnet train`.
//!
//! [`args`](Args): the flags; [`start`] and [`resume`]: create a [`Run`] from a configuration or a checkpoint; this file: runs
//! the epochs and the final test; [`repeat`]: several runs; [`groups`]: several runs at the same time, on several processes;
//! [`weights_files`]: what is in their weights files; [`words`]: texts about them; [`table`]: their epochs.

mod args;
mod groups;
mod repeat;
mod resume;
mod start;
mod table;
mod weights_files;
pub mod words;

use super::config::Config;
use super::images::About;
use super::progress::{Plan, Progress};
use super::run_folder::{RunFolder, place};
use super::{Failure, Result, init_from, interrupt, memory, processes, text};
use crate::Error;
use crate::data::Dataset;
use crate::model::ResNet;
use crate::parameters::fingerprint;
use crate::processes::{Communicator, Traffic, any};
use crate::train::checkpoint::{Best, Checkpoint, ImageHashes};
use crate::train::metrics::evaluate_among;
use crate::train::{EpochMetrics, Evaluation, Position, Prediction, Trainer};
use crate::weights::state_dict;
pub use args::Args;
use groups::Together;
pub use repeat::folders as repeated_runs;
pub use resume::kernels;
use serde_json::json;
pub use start::train_and_validation;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;
use weights_files::Scores;

/// A run that is about to start or to resume.
struct Run {
    /// The complete configuration.
    config: Config,
    folder: RunFolder,
    trainer: Trainer<f32>,
    best: Option<Best>,
    train: Arc<Dataset>,
    validation: Option<Arc<Dataset>>,
    test: Arc<Dataset>,
    about: About,
    /// Lines that report which weights `--init-from` loaded.
    initialised: Vec<String>,
    /// By which a resumed run recognises its images.
    data: ImageHashes,
    /// The processes that train together.
    processes: Arc<dyn Communicator>,
    /// The runs that others train at the same time.
    together: Option<Together>,
}

/// Starts or resumes one run or several.
pub fn run(args: &Args) -> Result<()> {
    let processes = processes::join()?;
    let result = run_among(args, &processes);
    processes::end(processes, result)
}

fn run_among(args: &Args, processes: &Arc<dyn Communicator>) -> Result<()> {
    // Too many hours for the clock are as good as none.
    interrupt::listen(args.max_hours.and_then(|hours| Instant::now().checked_add(hours)))?;
    let mut flags = args.flags()?;
    if let Some(path) = &args.resume {
        flags.make_paths_absolute()?;
        if let Some(config) = repeat::configuration_for_all(path, processes)? {
            return repeat::resume(flags, config, path, args, processes);
        }
        let Some(run) = before_first_step(|| resume::resume(flags, path, args, processes))? else { return Ok(()) };
        return run.go(args);
    }
    let given = match &args.config {
        Some(path) => flags.or(Config::read(path)?),
        None => flags,
    };
    init_from::check(&given)?;
    match given.repeat {
        None => before_first_step(|| start::begin(given, args.out.as_deref(), args, processes))?.go(args),
        Some(_) => repeat::begin(given, args, processes),
    }
}

/// Reads data and creates or opens the folder. A signal meanwhile ends the program at once.
fn before_first_step<R>(work: impl FnOnce() -> Result<R>) -> Result<R> {
    interrupt::at_once("stopped before the first step: nothing was trained, and nothing is lost", work)
}

impl Run {
    /// Runs from the current position to the end, or until `--steps` is reached.
    fn go(mut self, args: &Args) -> Result<()> {
        let mut progress = self.progress()?;
        match self.trainer.position() {
            _ if self.together.is_none() => self.describe(&mut progress)?,
            // What is common to all runs has been printed.
            position if position != Position::default() => progress.labelled(&format!("resumed {}", place(position))),
            _ => {}
        }
        let ended = self.epochs(args, &mut progress).map_err(|failure| match failure {
            Failure::Failed(message) => Failure::Failed(format!("{message}\n\n{}", self.folder.kept())),
            Failure::Diverged(message) => Failure::Failed(format!("{message}\n\n{}", self.folder.kept_good())),
            other => other,
        });
        let ended = ended.and_then(|ended| if ended { self.report(&mut progress) } else { Ok(()) });
        progress.finish();
        ended
    }

    /// The progress display of the remaining run.
    fn progress(&self) -> Result<Progress> {
        let (trainer, recipe) = (&self.trainer, self.trainer.recipe());
        let (_, height, width, _) = self.train.pixels.dim();
        let multiply_adds = trainer.model().cost(1, [height, width])?.multiply_adds;
        let plan = Plan {
            epochs: recipe.epochs,
            training_images: self.train.len(),
            validation_images: self.validation.as_ref().map_or(0, |images| images.len()),
            validate_every: recipe.validate_every,
            test_images: self.test.len(),
        };
        Ok(Progress::new(plan, trainer.position(), multiply_adds, recipe.early_stopping > 0))
    }

    /// Evaluates on `images` and shows the progress. Everything is in a checkpoint, so a signal ends the program at once.
    fn evaluate(
        &self,
        model: &ResNet<f32>,
        images: &Arc<Dataset>,
        what: &'static str,
        progress: &mut Progress,
    ) -> Result<Evaluation> {
        let (options, epoch) = (self.trainer.recipe().evaluation(), self.trainer.epoch());
        let saved = format!("epoch {epoch} is saved; resume with `{}`", self.folder.resume_command());
        let mut look = |prediction: Prediction| {
            let seen = prediction.index + 1;
            if seen.is_multiple_of(options.batch_size) || seen == images.len() {
                progress.evaluated(epoch, what, seen, images.len());
            }
        };
        let executor = &**self.trainer.executor();
        let evaluation = interrupt::at_once(&format!("stopped {what}: {saved}"), || {
            evaluate_among(&*self.processes, executor, model, images, options, &mut look)
        });
        executor.release();
        Ok(evaluation?)
    }

    fn checkpoint(&mut self) -> Result<()> {
        let config = self.config.to_toml();
        Ok(self.folder.checkpoint(&self.trainer, self.best.as_ref(), &config, self.data)?)
    }

    /// The remaining epochs: train, validate, save, report. Returns whether the run is complete; false after a stop by
    /// `--steps`.
    fn epochs(&mut self, args: &Args, progress: &mut Progress) -> Result<bool> {
        let (mut last_checkpoint, mut steps) = (Instant::now(), 0);
        let checkpoint_every = self.config.checkpoint_every()?;
        let processes = self.processes.clone();
        let world = self.together.as_ref().map(|together| together.world.clone());
        let requested = || processes::listen(world.as_deref());
        let used_up = |steps: usize| args.steps.is_some_and(|most| steps >= most);
        while !self.trainer.is_done() && !self.is_stopped_early() {
            if self.trainer.position().step == 0 {
                progress.begin_epoch();
            }
            let validates = self.validates(self.trainer.epoch() + 1);
            let trained = self.trainer.train_epoch(&mut |step| {
                progress.step(step);
                steps += 1;
                let due = checkpoint_every.is_some_and(|every| last_checkpoint.elapsed() >= every);
                let pauses = match step.step + 1 == step.steps_per_epoch {
                    // A kill in the validation must not cost the epoch. Otherwise there is nothing between this step and
                    // the checkpoint of the epoch.
                    true => validates,
                    false => requested().is_some() || due || used_up(steps),
                };
                // All processes pause if one does.
                if any(&*processes, pauses) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let trained = trained.map_err(|error| match error {
                Error::NotFinite { message } => Failure::Diverged(message),
                error => error.into(),
            })?;
            // What follows, saving and evaluating, needs memory of other sizes.
            self.trainer.executor().release();
            if let Some(epoch) = trained {
                self.end_of_epoch(&epoch, progress)?;
            }
            self.checkpoint()?;
            last_checkpoint = Instant::now();
            let interrupted = processes::common(&*processes, requested());
            // `--steps` ends with the validation that follows the last of them.
            let stops = interrupted.is_some() || (used_up(steps) && !self.trainer.has_all_steps());
            if stops && !self.trainer.is_done() && !self.is_stopped_early() {
                progress.finish();
                let place = place(self.trainer.position());
                match self.together {
                    None => progress.line(&format!("stopped {place}; resume with `{}`", self.folder.resume_command())),
                    Some(_) => progress.labelled(&format!("stopped {place}")),
                }
                return interrupted.map_or(Ok(false), |cause| Err(Failure::Interrupted(cause)));
            }
        }
        Ok(true)
    }

    /// Whether the validation images are evaluated after `epochs` epochs.
    fn validates(&self, epochs: usize) -> bool {
        let recipe = self.trainer.recipe();
        self.validation.is_some() && (epochs.is_multiple_of(recipe.validate_every) || epochs == recipe.epochs)
    }

    /// Whether the validation accuracy has not improved for as many epochs as the recipe waits.
    fn is_stopped_early(&self) -> bool {
        let (wait, epoch) = (self.trainer.recipe().early_stopping, self.trainer.epoch());
        wait > 0 && self.best.as_ref().is_some_and(|best| epoch - best.epoch >= wait)
    }

    fn end_of_epoch(&mut self, epoch: &EpochMetrics, progress: &mut Progress) -> Result<()> {
        let (recipe, model) = (self.trainer.recipe(), &self.trainer.result());
        let validated = self.validation.as_ref().filter(|_| self.validates(epoch.epoch + 1));
        let validated = validated.map(|images| self.evaluate(model, images, "validating", progress)).transpose()?;
        let about = Scores::of(epoch, validated.as_ref()).metadata(recipe, &self.test);
        self.folder.save(&self.folder.weights(), model, &about)?;
        let every = self.config.save_every.unwrap_or(0);
        if every > 0 && (epoch.epoch + 1).is_multiple_of(every) {
            self.folder.save(&self.folder.weights_of(epoch.epoch + 1, recipe.epochs), model, &about)?;
        }
        if let Some(validated) = &validated {
            let correct = [validated.top1, validated.images()];
            // The first of several equal epochs.
            if self.best.as_ref().is_none_or(|best| correct[0] > best.correct[0]) {
                let weights = state_dict::collect(model);
                self.folder.save(&self.folder.best(), model, &about)?;
                self.best = Some(Best { epoch: self.trainer.epoch(), correct, weights });
            }
        }
        self.folder.append(epoch, validated.as_ref(), self.trainer.layers())?;
        progress.row(&self.row(epoch, validated.as_ref()));
        Ok(())
    }

    /// Evaluates on the test images, once, and ends the run.
    fn report(&self, progress: &mut Progress) -> Result<()> {
        let (trainer, folder, test) = (&self.trainer, &self.folder, &self.test);
        let training_seconds = folder.seconds()?;
        let mut model = trainer.result();
        let hash = format!("{:016x}", fingerprint(&model));
        let (file, epoch) = match &self.best {
            Some(best) => {
                Checkpoint::load(&folder.best(), &best.weights, &mut model)?;
                (folder.best(), best.epoch)
            }
            None => (folder.weights(), trainer.epoch()),
        };
        let best = &self.best;
        let model = &model;
        let tested = self.evaluate(model, test, "testing", progress)?;
        progress.finish();
        let peak = memory::peak();
        let result = json!({
            "test_accuracy": tested.accuracy(),
            "test_correct": tested.top1,
            "test_images": tested.images(),
            "test_loss": tested.loss,
            "test_top5": tested.top5,
            "epochs": trainer.epoch(),
            "tested_weights_of_epoch": epoch,
            "seconds": training_seconds,
            "peak_memory_bytes": peak,
            "fingerprint": hash,
        });
        folder.write_json("result.json", &result)?;
        if self.together.is_some() {
            let accuracy = text::share(tested.top1, tested.images());
            let time = text::duration(training_seconds);
            progress.labelled(&format!("test accuracy {accuracy}, test loss {:.4}, {time} in total", tested.loss));
            return self.end(&tested);
        }

        let mut lines = vec![
            (
                "test accuracy",
                format!(
                    "{}; guessing: {}",
                    text::share(tested.top1, tested.images()),
                    text::chance(test.classes.len())
                ),
            ),
            ("test loss", format!("{:.4}", tested.loss)),
            (
                "time",
                format!(
                    "{} per epoch, {} in total",
                    text::duration(training_seconds / trainer.epoch() as f64),
                    text::duration(training_seconds)
                ),
            ),
        ];
        if let Some(best) = best {
            let found = format!("epoch {}, with {:.2} % on the validation images", best.epoch, 100.0 * best.accuracy());
            lines.insert(0, ("tested", found));
        }
        if !trainer.is_done() {
            let found =
                format!("after epoch {}: the validation accuracy last improved in epoch {epoch}", trainer.epoch());
            lines.insert(0, ("stopped early", found));
        }
        if let Some(peak) = peak {
            lines.push(("peak memory", text::bytes(peak)));
        }
        if self.processes.size() > 1 {
            let Traffic { bytes, seconds } = self.processes.traffic();
            let bytes = text::bytes(bytes);
            let time = text::duration(seconds);
            lines.push((
                "exchanged",
                format!("{bytes} sent by process 0; {time} in exchanges, with waiting for others"),
            ));
        }
        lines.push(("fingerprint", format!("{hash} (of the weights after the last epoch)")));
        lines.push(("weights", file.display().to_string()));
        progress.line("");
        for (key, value) in lines {
            progress.line(&format!("{key:<14} {value}"));
        }
        self.end(&tested)
    }

    /// Records that the test images were evaluated.
    fn end(&self, tested: &Evaluation) -> Result<()> {
        // After result.json: a run that can still be resumed has no record of its test.
        self.folder.append_test(self.trainer.epoch(), tested)?;
        if !tested.loss.is_finite() {
            return Err(Failure::Failed(format!("the test loss is {}; {}", tested.loss, self.folder.kept())));
        }
        Ok(())
    }
}
