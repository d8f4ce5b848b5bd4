//! `resnet train --repeat K`: the same run with K seeds, one after the other, and the mean of the results.
//!
//! | in the folder | what |
//! |---|---|
//! | `config.toml` | the common settings, with `repeat` and the first seed |
//! | `seed-1/`, `seed-2/`, … | one run each, see [`run_folder`](crate::cli::run_folder) |
//! | `repeat.json` | at the end: the test accuracy of each, mean and standard deviation |
//! | `lock` | locked by the process that runs here |
//!
//! A single seed says little: two runs that differ only in the seed differ by some tenths of a percent in accuracy, which hides
//! smaller improvements. The standard deviation is that of the sample, with K − 1 in the denominator.

use super::{Args, resume, start};
use crate::Error;
use crate::cli::config::Config;
use crate::cli::run_folder::{RESULT, check_out, first_free, has_begun, lock, was_lengthened_from};
use crate::cli::{Failure, Result, text};
use crate::formats::atomic;
use crate::processes::{Alone, Communicator};
use crate::train::checkpoint::Checkpoints;
use serde_json::{Value, json};
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The common configuration of the runs in the folder `path`, if it is a folder of repeated runs.
pub fn configuration(path: &Path) -> Result<Option<Config>> {
    let file = path.join("config.toml");
    // A single run resumes with the configuration in its checkpoint, even if its config.toml has changed.
    if path.join("checkpoints").is_dir() {
        return Ok(None);
    }
    let Some(run) = first_run(path) else {
        let config = file.is_file().then(|| Config::read(&file)).transpose()?;
        return Ok(config.filter(|config| config.repeat.is_some()));
    };
    let problem = match fs::read_to_string(&file).map(|text| Config::parse(&text)) {
        Ok(Ok(config)) if config.repeat.is_some() => return Ok(Some(config)),
        Ok(Ok(_)) => "config.toml contains no `repeat`".to_string(),
        Ok(Err(error)) => {
            format!("config.toml is damaged: {}", error.lines().map(str::trim).collect::<Vec<_>>().join(" "))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => "config.toml is missing".to_string(),
        Err(error) => return Err(Error::io(&file, "read", error).into()),
    };
    Err(Failure::Failed(format!(
        "{}: {problem}. Only this file contains the number of repeated runs. Copy {} there, set `seed` in it to the first \
         seed, remove `mean` and `std` unless you gave them, and add `repeat = ` with the number of runs",
        path.display(),
        run.join("config.toml").display()
    )))
}

/// The folder of the run with the smallest seed that has begun in a folder of repeated runs.
fn first_run(path: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(path).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut seeds: Vec<u64> = names.filter_map(|name| name.strip_prefix("seed-")?.parse().ok()).collect();
    seeds.sort_unstable();
    seeds.into_iter().map(|seed| folder_of(path, seed)).find(|folder| has_begun(folder))
}

/// Starts all runs, from the first.
pub fn begin(mut given: Config, args: &Args) -> Result<()> {
    let recipe = given.recipe()?;
    let runs = given.repeat.unwrap_or(1);
    if recipe.seed.checked_add(runs as u64 - 1).is_none() {
        let message =
            format!("--repeat {runs}: there are no {runs} seeds starting at {}; give a smaller --seed", recipe.seed);
        return Err(Failure::Usage(message));
    }
    let path = match &args.out {
        Some(out) => {
            check_out(out)?;
            fs::create_dir_all(out).map_err(|error| Error::io(out, "create", error))?;
            out.clone()
        }
        None => first_free(Path::new("runs"), &format!("{}-{}-repeated", recipe.model, recipe.name))?,
    };
    let _lock = lock(&path)?;
    given.make_paths_absolute()?;
    (given.recipe, given.seed) = (Some(recipe.name), Some(recipe.seed));
    atomic::write(&path.join("config.toml"), given.to_toml().as_bytes())?;
    all(&given, recipe.seed, runs, &path, args)
}

/// Resumes the runs in the folder `path`.
pub fn resume(mut flags: Config, mut config: Config, path: &Path, args: &Args) -> Result<()> {
    let changed = flags.take_changeable();
    if changed != Config::default() {
        config = changed.or(config);
        atomic::write(&path.join("config.toml"), config.to_toml().as_bytes())?;
    }
    let recipe = config.recipe()?;
    let runs = config.repeat.unwrap_or(1);
    let effective = Config { repeat: config.repeat, ..config.effective(&recipe)? };
    flags.refuse_conflicts(&effective, path, "repeated runs cannot be lengthened")?;
    let _lock = lock(path)?;
    all(&config, recipe.seed, runs, path, args)
}

fn all(config: &Config, first: u64, runs: usize, path: &Path, args: &Args) -> Result<()> {
    let seeds: Vec<u64> = (first..).take(runs).collect();
    for (number, &seed) in (1..).zip(&seeds) {
        writeln!(std::io::stdout(), "{}== seed {seed}, run {number} of {runs}", if number > 1 { "\n" } else { "" })?;
        one(config, seed, path, args)?;
    }
    summarise(&seeds, path)
}

fn folder_of(path: &Path, seed: u64) -> PathBuf {
    path.join(format!("seed-{seed}"))
}

/// Rejects common settings that are not those with which a run has begun: somebody edited the file.
fn check_common(config: &Config, folder: &Path) -> Result<()> {
    let Some(checkpoint) = Checkpoints::new(folder.join("checkpoints"), 1).peek() else { return Ok(()) };
    let wrong = |message| Failure::Failed(format!("{}: {message}", folder.display()));
    let mut begun = Config::parse(&checkpoint.config).map_err(wrong)?;
    let mut common = config.effective(&config.recipe()?)?;
    if config.mean.is_none() {
        // Those of the images.
        (common.mean, common.std) = (begun.mean, begun.std);
    }
    common.seed = begun.seed;
    if begun.engine.is_none() {
        // Of a version with a single engine.
        (common.engine, common.conv) = (None, None);
    }
    for config in [&mut begun, &mut common] {
        config.take_changeable();
    }
    let differences = common.differences(&begun);
    let Some((key, here, there)) = differences.first() else { return Ok(()) };
    if *key == "epochs" && common.epochs.is_some_and(|epochs| was_lengthened_from(folder, epochs)) {
        return Err(Failure::Failed(format!(
            "{} was lengthened from {here} to {there} epochs, so the runs no longer differ only in the seed; start new \
             runs with another --out",
            folder.display()
        )));
    }
    Err(Failure::Failed(format!(
        "config.toml was edited: {key} is {here}, but {} began with {there}; restore it, or start new runs with another --out",
        folder.display()
    )))
}

/// The folders of the runs that have begun, if `path` is a folder of repeated runs.
pub fn folders(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let Some(config) = configuration(path)? else { return Ok(None) };
    let seeds = (config.recipe()?.seed..).take(config.repeat.unwrap_or(1));
    Ok(Some(seeds.map(|seed| folder_of(path, seed)).filter(|folder| has_begun(folder)).collect()))
}

/// The run of one seed: starts it, resumes it, or does nothing if it is complete.
fn one(config: &Config, seed: u64, path: &Path, args: &Args) -> Result<()> {
    let folder = folder_of(path, seed);
    let alone: Arc<dyn Communicator> = Arc::new(Alone);
    let run = if has_begun(&folder) {
        check_common(config, &folder)?;
        // What may change may have changed; everything else is in the run's checkpoint.
        let flags = config.clone().take_changeable();
        super::before_first_step(|| resume::resume(flags, &folder, args, &alone))?
    } else {
        if folder.exists() {
            // Interrupted before its first checkpoint, so nothing was trained.
            fs::remove_dir_all(&folder).map_err(|error| Error::io(&folder, "remove", error))?;
        }
        let config = Config { seed: Some(seed), repeat: None, ..config.clone() };
        Some(super::before_first_step(|| start::begin(config, Some(&folder), args, &alone))?)
    };
    let Some(mut run) = run else { return Ok(()) };
    run.folder.set_all(path);
    run.go(args)
}

/// Prints mean and standard deviation (of the sample) of the test accuracy, and writes `repeat.json`.
fn summarise(seeds: &[u64], path: &Path) -> Result<()> {
    let results: Vec<Value> = seeds.iter().map(|&seed| read_result(&folder_of(path, seed))).collect::<Result<_>>()?;
    let accuracy = |result: &Value| result["test_accuracy"].as_f64().expect("checked when it was read");
    let accuracies: Vec<f64> = results.iter().map(accuracy).collect();
    let (mean, std) = mean_and_std(&accuracies);
    let runs = seeds.iter().zip(&results).map(|(seed, result)| {
        let mut run = result.clone();
        run["seed"] = json!(seed);
        run
    });
    let summary = json!({
        "test_accuracy_mean": mean,
        "test_accuracy_std": std,
        "test_accuracies": accuracies,
        "runs": runs.collect::<Vec<_>>(),
    });
    atomic::write(&path.join("repeat.json"), format!("{summary:#}\n").as_bytes())?;
    let mut out = std::io::stdout().lock();
    writeln!(out)?;
    for (seed, result) in seeds.iter().zip(&results) {
        let count = |key: &str| result[key].as_u64().unwrap_or(0) as usize;
        writeln!(out, "{:<14} {}", format!("seed {seed}"), text::share(count("test_correct"), count("test_images")))?;
    }
    let spread = std.map_or(String::new(), |std| format!(", standard deviation {:.2}", 100.0 * std));
    writeln!(out, "{:<14} {:.2} %{spread}", "mean", 100.0 * mean)?;
    writeln!(out, "{:<14} {}", "written", path.join("repeat.json").display())?;
    Ok(writeln!(out, "{:<14} resnet report {}", "for a report", text::shell(path))?)
}

fn read_result(folder: &Path) -> Result<Value> {
    let path = folder.join(RESULT);
    let text = fs::read_to_string(&path).map_err(|error| Error::io(&path, "read", error))?;
    let result: Option<Value> = serde_json::from_str(&text).ok();
    let complete = result.filter(|result| result["test_accuracy"].is_f64());
    Ok(complete.ok_or_else(|| Error::format(&path, None, "expected the result of a run, with `test_accuracy`"))?)
}

/// x̄ = Σ x / n and s = √(Σ (x − x̄)² / (n − 1)), which is undefined for a single value.
fn mean_and_std(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_deviation_by_hand() {
        assert_eq!(mean_and_std(&[2.0, 4.0, 9.0]), (5.0, Some(13f64.sqrt()))); // (9 + 1 + 16) / 2
        assert_eq!(mean_and_std(&[0.5]), (0.5, None));
    }
}
