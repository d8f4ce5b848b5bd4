//! Resumes the run in a folder, from its last checkpoint. The settings are those in the checkpoint; `config.toml` is a copy
//! for people, and for a run that was killed before its first checkpoint.

use super::start::{self, Prepared};
use super::{Args, Run, weights_files};
use crate::cli::args::EngineKind;
use crate::cli::config::Config;
use crate::cli::progress::{label, say};
use crate::cli::run_folder::{self, RunFolder};
use crate::cli::{Failure, Result, processes, text};
use crate::engine::kernels::simd::{Isa, isa};
use crate::optim::TrainingTime;
use crate::processes::Communicator;
use crate::train::Recipe;
use crate::train::checkpoint::Checkpoint;
use crate::{Error, formats::atomic};
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that receives an edited `config.toml` when the settings of the run are written again.
const EDITED: &str = "config.edited.toml";

/// Why the number of epochs of an unfinished run cannot change.
const UNFINISHED: &str = "only a complete run can be lengthened";

/// What the first process has found in the folder of a run.
enum Found {
    /// The settings of a run that was killed before its first checkpoint: nothing was trained.
    Unbegun(Box<Config>),
    Complete,
    /// The run, and the file of its last checkpoint.
    Interrupted(Box<Run>, PathBuf),
}

/// The run in a folder; `None` if it is complete. The first process opens the folder, and the others do as it says.
pub fn resume(flags: Config, path: &Path, args: &Args, processes: &Arc<dyn Communicator>) -> Result<Option<Run>> {
    let found = if processes.rank() == 0 { find(flags, path, args, processes).map(Some) } else { Ok(None) };
    let found = processes::agree(&**processes, found)?;
    let said = found.as_ref().map_or(String::new(), Found::say);
    let said = processes::from_first(&**processes, &said);
    let (what, config) = said.split_once('\n').unwrap_or((&said, ""));
    let config = Config::parse(config).map_err(Failure::Failed);
    match (found, what) {
        (_, "complete") => Ok(None),
        (_, "unbegun") => start::begin(config?, Some(path), args, processes).map(Some),
        (Some(Found::Interrupted(run, _)), _) => {
            processes::agree(&**processes, Ok(()))?;
            run.expect_same()?;
            Ok(Some(*run))
        }
        (_, file) => {
            let run = processes::agree(
                &**processes,
                config.and_then(|config| follow(config, Path::new(file), args, processes)),
            )?;
            run.expect_same()?;
            Ok(Some(run))
        }
    }
}

impl Found {
    /// A line, and the settings.
    fn say(&self) -> String {
        match self {
            Found::Unbegun(config) => format!("unbegun\n{}", config.to_toml()),
            Found::Complete => "complete".to_string(),
            Found::Interrupted(run, file) => format!("{}\n{}", file.display(), run.config.to_toml()),
        }
    }
}

fn find(flags: Config, path: &Path, args: &Args, processes: &Arc<dyn Communicator>) -> Result<Found> {
    match run_folder::is_unbegun(path) {
        true => settings(flags, path).map(|config| Found::Unbegun(Box::new(config))),
        false => from_checkpoint(flags, path, args, processes),
    }
}

/// The run that the first process resumes from this checkpoint.
fn follow(config: Config, file: &Path, args: &Args, processes: &Arc<dyn Communicator>) -> Result<Run> {
    let checkpoint = Checkpoint::read(file).map_err(|error| {
        Failure::Failed(format!("{error}; the folder of the run must be on a file system that all processes share"))
    })?;
    let prepared = Prepared::from_checkpoint(config, (file, &checkpoint), args, processes)?;
    Ok(prepared.within(RunFolder::of_the_first_process(file), checkpoint.best))
}

/// The settings of a run that was killed before its first checkpoint.
fn settings(mut flags: Config, path: &Path) -> Result<Config> {
    let file = path.join("config.toml");
    if !file.exists() {
        let message =
            "the run was killed before its settings were saved; start it again with the same command and --out";
        return Err(Error::format(path, None, format!("{message} {}", text::shell(path))).into());
    }
    note("the run was killed before its first checkpoint, so it starts again")?;
    let saved = Config::read(&file)?;
    let changed = flags.take_changeable();
    flags.refuse_conflicts(&saved, path, UNFINISHED)?;
    Ok(changed.or(saved))
}

fn from_checkpoint(mut flags: Config, path: &Path, args: &Args, processes: &Arc<dyn Communicator>) -> Result<Found> {
    let (mut folder, latest) = RunFolder::open(path)?;
    for (file, problem) in &latest.damaged {
        note(&format!("{} is unusable, using the previous checkpoint: {problem}", file.display()))?;
    }
    for file in folder.remove_temporary() {
        note(&format!("removed {}, which an interrupted write left", file.display()))?;
    }
    let checkpoint = latest.checkpoint;
    let wrong = |message: String| Failure::Failed(format!("{}: {message}", latest.path.display()));
    let saved = Config::parse(&checkpoint.config).map_err(wrong)?;
    check_file(path, &saved, &checkpoint.config)?;
    let mut config = flags.take_changeable().or(saved.clone());
    if config.engine.is_none() {
        note("started by a version with a single engine; --engine fast gives bit-identical results")?;
        config.engine = Some(EngineKind::Fast.name().to_string());
        config.conv = config.conv()?.map(|algorithm| algorithm.name().to_string());
    }
    let mut nothing_to_train = false;
    if folder.is_complete() {
        match (flags.epochs.take(), config.epochs) {
            (Some(epochs), Some(before)) if epochs > before => lengthen(&mut config, epochs, path, &checkpoint)?,
            (epochs, _) => {
                flags.epochs = epochs;
                flags.refuse_conflicts(
                    &config,
                    path,
                    "a complete run can be lengthened to more epochs, not shortened",
                )?;
                written_again(&folder.restore_metrics(&checkpoint)?)?;
                if weights_files::missing(&folder, &checkpoint).is_empty() {
                    writeln!(std::io::stdout(), "{} is complete: nothing to do", path.display())?;
                    return Ok(Found::Complete);
                }
                nothing_to_train = true;
            }
        }
    }
    flags.refuse_conflicts(&config, path, UNFINISHED)?;
    folder.keep(config.keep_checkpoints());
    if let Some(before) = folder.compute_with(kernels(config.engine()?)) {
        let now = kernels(config.engine()?);
        note(&format!(
            "the steps so far were computed with {before}, the following ones with {now}, which round differently: the \
             result will not be bit-identical to that of an uninterrupted run"
        ))?;
    }
    let prepared = Prepared::from_checkpoint(config, (&latest.path, &checkpoint), args, processes)?;
    written_again(&weights_files::restore(&folder, &checkpoint, prepared.trainer(), prepared.test())?)?;
    if nothing_to_train {
        writeln!(std::io::stdout(), "{} is complete: nothing else to do", path.display())?;
        return Ok(Found::Complete);
    }
    folder.rewind(&checkpoint)?;
    let mut run = prepared.within(folder, checkpoint.best);
    let changes = run.config.differences(&saved);
    // First: a run without a result is complete only after another test, whatever its number of epochs.
    if run.folder.is_complete() {
        run.folder.set_result_aside(run.trainer.epoch())?;
    }
    if !changes.is_empty() {
        // The checkpoint is the truth; the file is written after it.
        run.checkpoint()?;
        run.folder.write_text("config.toml", &run.config.to_toml())?;
        for (key, now, before) in changes.iter().filter(|(key, ..)| !matches!(*key, "engine" | "conv" | "epochs")) {
            note(&format!("{key} is {now} from now on; it was {before}"))?;
        }
    }
    let file = std::path::absolute(&latest.path).map_err(|error| Error::io(&latest.path, "find", error))?;
    Ok(Found::Interrupted(Box::new(run), file))
}

fn note(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{:<14} {}{text}", "note", label())?)
}

fn written_again(files: &[PathBuf]) -> Result<()> {
    files
        .iter()
        .try_for_each(|file| note(&format!("{} was missing, and is written again from the checkpoint", file.display())))
}

/// Compares `config.toml` with the settings in the checkpoint, which are those of the run. If they differ, the file is
/// written again, and what was in it is kept beside it.
fn check_file(run: &Path, saved: &Config, text: &str) -> Result<()> {
    let file = run.join("config.toml");
    let found = fs::read_to_string(&file);
    let problem = match &found {
        Ok(found) if found == text => return Ok(()),
        Ok(found) => match Config::parse(found) {
            Ok(edited) => match edited.differences(saved).as_slice() {
                // Comments, or another order.
                [] => return Ok(()),
                differences => {
                    let each = differences.iter().map(|(key, here, there)| format!("{key} is {here}, not {there}"));
                    format!("was edited: {}", each.collect::<Vec<_>>().join("; "))
                }
            },
            Err(error) => format!("is damaged: {}", error.lines().map(str::trim).collect::<Vec<_>>().join(" ")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => "is missing".to_string(),
        Err(error) => format!("cannot be read: {error}"),
    };
    let kept = match fs::rename(&file, run.join(EDITED)) {
        Ok(()) => format!(", what was in it is in {EDITED}"),
        Err(_) => String::new(),
    };
    atomic::write(&file, text.as_bytes())?;
    note(&format!("{} {problem}. The settings of the run are those in its checkpoint", file.display()))?;
    Ok(writeln!(std::io::stdout(), "{:<14} and are written into the file again{kept}", "")?)
}

/// A complete run that is to train for more epochs.
fn lengthen(config: &mut Config, epochs: usize, path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let (before, done) = (config.recipe()?, checkpoint.position.epoch);
    if done < before.epochs {
        return Err(Failure::Usage(format!(
            "--epochs {epochs}: the run stopped early, after epoch {done} of {}, so more epochs would not be trained",
            before.epochs
        )));
    }
    config.epochs = Some(epochs);
    let after = config.recipe()?;
    let schedule = if rates(&before, done)? == rates(&after, done)? {
        "its learning rates do not depend on the number of epochs, so the weights will be those of an uninterrupted run"
            .to_string()
    } else {
        let [last, next] = [(&before, done - 1), (&after, done)].map(|(recipe, epoch)| rate(recipe, epoch));
        format!(
            "its schedule now ends after epoch {epochs}: the learning rate, {:.2e} in epoch {done}, is {:.2e} in the next. A \
             run of {epochs} epochs from the start has other rates: resnet train --config {} --epochs {epochs}",
            last?,
            next?,
            text::shell(path.join("config.toml"))
        )
    };
    say(&format!("note: {} is lengthened from {done} to {epochs} epochs; {schedule}", text::shell(path)));
    say("note: the test images have been evaluated already; a result that is selected by them is too good");
    Ok(())
}

/// The learning rate at the beginning of an epoch, counted from 0, in which there are 100 steps.
fn rate(recipe: &Recipe, epoch: usize) -> Result<f64> {
    Ok(recipe.schedule.lr(recipe.lr, TrainingTime::in_epoch(epoch, 0, 100, recipe.epochs)?))
}

/// The learning rates of the first epochs.
fn rates(recipe: &Recipe, epochs: usize) -> Result<Vec<f64>> {
    let rate =
        |epoch, step| Ok(recipe.schedule.lr(recipe.lr, TrainingTime::in_epoch(epoch, step, 100, recipe.epochs)?));
    (0..epochs).flat_map(|epoch| [0, 50, 99].map(|step| (epoch, step))).map(|(epoch, step)| rate(epoch, step)).collect()
}

/// What decides how a step rounds. The engine's kernels for AVX2 and AVX-512 give the same bits, and so do the matrix
/// products of the crate `matrixmultiply` on all processors with FMA; the reference consists of those products.
pub fn kernels(engine: EngineKind) -> String {
    #[cfg(target_arch = "x86_64")]
    let fma = is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let fma = cfg!(target_arch = "aarch64");
    let products = if fma { "products with FMA" } else { "products without FMA" };
    match (engine, isa()) {
        (EngineKind::Reference, _) => format!("the reference, {products}"),
        (EngineKind::Fast, Isa::Portable) => format!("the portable kernels, {products}"),
        (EngineKind::Fast, Isa::Avx2 | Isa::Avx512) => format!("the kernels for AVX2 and AVX-512, {products}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_depend_on_the_number_of_epochs_are_noticed() {
        let same = |schedule: &str| {
            let of =
                |epochs| Recipe { epochs, schedule: schedule.parse().unwrap(), ..Recipe::by_name("demo").unwrap() };
            rates(&of(4), 4).unwrap() == rates(&of(6), 4).unwrap()
        };
        assert!(same("constant") && same("multistep:2,5@0.1"));
        assert!(!same("cosine") && !same("warmup:2@0.1+cosine"));
    }
}
