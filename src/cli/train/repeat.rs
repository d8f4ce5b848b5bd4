//! `resnet train --repeat K`: the same run with K seeds, one after the other, and the mean of the results. On several
//! processes, some of them are trained at the same time: [`groups`].
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

use super::{Args, Run, groups, resume, start};
use crate::Error;
use crate::cli::config::Config;
use crate::cli::processes::{agree, expect_same, from_first};
use crate::cli::run_folder::{RESULT, check_out, first_free, has_begun, lock, was_lengthened_from};
use crate::cli::{Failure, Result, text};
use crate::formats::atomic;
use crate::processes::Communicator;
use crate::train::checkpoint::Checkpoints;
use serde_json::{Value, json};
use std::fs::{self, File};
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

/// The same on several processes: what the first one finds.
pub fn configuration_for_all(path: &Path, processes: &Arc<dyn Communicator>) -> Result<Option<Config>> {
    if processes.size() == 1 {
        return configuration(path);
    }
    let found = if processes.rank() == 0 { configuration(path) } else { Ok(None) };
    let found = agree(&**processes, found)?.map_or(String::new(), |config| config.to_toml());
    let found = from_first(&**processes, &found);
    (!found.is_empty()).then(|| Config::parse(&found).map_err(Failure::Failed)).transpose()
}

/// The common settings, the first seed, and a note.
type Settings = (Config, u64, Option<String>);

/// Starts all runs, from the first.
pub fn begin(given: Config, args: &Args, processes: &Arc<dyn Communicator>) -> Result<()> {
    let (config, first, note) = agree(&**processes, settings(given, args, processes))?;
    start::expect_same_settings(&**processes, &complete(&config)?)?;
    // One process writes, and only if all are ready.
    let create = || {
        let recipe = config.recipe()?;
        let path = match &args.out {
            Some(out) => {
                fs::create_dir_all(out).map_err(|error| Error::io(out, "create", error))?;
                out.clone()
            }
            None => first_free(Path::new("runs"), &format!("{}-{}-repeated", recipe.model, recipe.name))?,
        };
        let lock = lock(&path)?;
        atomic::write(&path.join("config.toml"), config.to_toml().as_bytes())?;
        Ok((path, lock))
    };
    let (path, _lock) = in_common(&**processes, create)?;
    all((config, first, note), &path, args, processes)
}

/// The settings of new runs.
fn settings(mut given: Config, args: &Args, processes: &Arc<dyn Communicator>) -> Result<Settings> {
    let recipe = given.recipe()?;
    let runs = given.repeat.unwrap_or(1);
    if recipe.seed.checked_add(runs as u64 - 1).is_none() {
        let message =
            format!("--repeat {runs}: there are no {runs} seeds starting at {}; give a smaller --seed", recipe.seed);
        return Err(Failure::Usage(message));
    }
    let note = groups::choose_shards(&mut given, processes.size())?;
    if let Some(out) = args.out.as_ref().filter(|_| processes.rank() == 0) {
        check_out(out)?;
    }
    given.make_paths_absolute()?;
    (given.recipe, given.seed) = (Some(recipe.name), Some(recipe.seed));
    Ok((given, recipe.seed, note))
}

/// Resumes the runs in the folder `path`.
pub fn resume(
    mut flags: Config,
    config: Config,
    path: &Path,
    args: &Args,
    processes: &Arc<dyn Communicator>,
) -> Result<()> {
    let changed = flags.take_changeable();
    let has_changed = changed != Config::default();
    let config = changed.or(config);
    let settings = || {
        flags.refuse_conflicts(&complete(&config)?, path, "repeated runs cannot be lengthened")?;
        Ok(config.recipe()?.seed)
    };
    let first = agree(&**processes, settings())?;
    start::expect_same_settings(&**processes, &complete(&config)?)?;
    let open = || {
        let lock = lock(path)?;
        if has_changed {
            atomic::write(&path.join("config.toml"), config.to_toml().as_bytes())?;
        }
        Ok((path.to_path_buf(), lock))
    };
    let (path, _lock) = in_common(&**processes, open)?;
    all((config, first, None), &path, args, processes)
}

/// All common settings.
fn complete(config: &Config) -> Result<Config> {
    Ok(Config { repeat: config.repeat, ..config.effective(&config.recipe()?)? })
}

/// The folder that the first process opens and locks. The others must see it.
fn in_common(
    processes: &dyn Communicator,
    open: impl FnOnce() -> Result<(PathBuf, File)>,
) -> Result<(PathBuf, Option<File>)> {
    let opened = if processes.rank() == 0 { open().map(Some) } else { Ok(None) };
    let opened = agree(processes, opened)?;
    let absolute = opened.as_ref().and_then(|(path, _)| std::path::absolute(path).ok());
    let of_first = PathBuf::from(from_first(processes, &absolute.unwrap_or_default().to_string_lossy()));
    let (path, lock) = opened.map_or((of_first, None), |(path, lock)| (path, Some(lock)));
    let config = fs::read_to_string(path.join("config.toml")).unwrap_or_else(|_| "no file".to_string());
    let name = format!("config.toml in {}", path.display());
    let hint = "the folder of the runs must be on a file system that all processes share";
    expect_same(processes, &[(&name, config, hint)])?;
    Ok((path, lock))
}

fn all((config, first, note): Settings, path: &Path, args: &Args, processes: &Arc<dyn Communicator>) -> Result<()> {
    let runs = config.repeat.unwrap_or(1);
    let seeds: Vec<u64> = (first..).take(runs).collect();
    if processes.size() > 1 {
        groups::train((&config, &seeds, path), note, args, processes)?;
    } else {
        for (number, &seed) in (1..).zip(&seeds) {
            writeln!(
                std::io::stdout(),
                "{}== seed {seed}, run {number} of {runs}",
                if number > 1 { "\n" } else { "" }
            )?;
            if let Some(run) = open(&config, seed, path, args, processes)? {
                run.go(args)?;
            }
        }
    }
    agree(&**processes, if processes.rank() == 0 { summarise(&seeds, path) } else { Ok(()) })
}

pub fn folder_of(path: &Path, seed: u64) -> PathBuf {
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

/// The run of one seed: a new one or an interrupted one; `None` if it is complete.
pub fn open(
    config: &Config,
    seed: u64,
    path: &Path,
    args: &Args,
    processes: &Arc<dyn Communicator>,
) -> Result<Option<Run>> {
    let folder = folder_of(path, seed);
    let look = || {
        let begun = has_begun(&folder);
        if begun {
            check_common(config, &folder)?;
        } else if folder.exists() {
            // Interrupted before its first checkpoint, so nothing was trained.
            fs::remove_dir_all(&folder).map_err(|error| Error::io(&folder, "remove", error))?;
        }
        Ok(if begun { "begun" } else { "new" })
    };
    let found = agree(&**processes, if processes.rank() == 0 { look() } else { Ok("") })?;
    let run = match from_first(&**processes, found).as_str() {
        "begun" => {
            // What may change may have changed; everything else is in the run's checkpoint.
            let flags = config.clone().take_changeable();
            super::before_first_step(|| resume::resume(flags, &folder, args, processes))?
        }
        _ => {
            let config = Config { seed: Some(seed), repeat: None, ..config.clone() };
            Some(super::before_first_step(|| start::begin(config, Some(&folder), args, processes))?)
        }
    };
    Ok(run.map(|mut run| {
        run.folder.set_all(path);
        run
    }))
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
