//! The folder of a run.
//!
//! | file | when | what |
//! |---|---|---|
//! | `config.toml` | before the first step | all settings of the run |
//! | `metrics.csv`, `metrics.jsonl` | a line after every epoch | loss, accuracy, learning rate |
//! | `layers.csv` | a line for every learned tensor after every epoch | norms of weight, gradient and update in the epoch's last step |
//! | `times.csv` | a line after every epoch | seconds and images per second, which differ from run to run |
//! | `events.out.tfevents.…`, and in `train/`, `validation/`, `test/` | a record after every epoch, one at the end; new files when the run is resumed | the same for TensorBoard: [`events`](super::events) |
//! | `weights.safetensors` | replaced after every epoch | the weights, with the metadata needed to use them |
//! | `weights-epoch-001.safetensors`, … | after every Nth epoch, only with `--save-every N` | the weights of that epoch, which are kept |
//! | `best.safetensors` | when the validation accuracy improves | the same, only with `--validation` |
//! | `checkpoints/` | at the start, after every epoch and before its validation, every `--checkpoint-every`, on a signal | everything needed to resume |
//! | `result.json` | at the end | the test set's accuracy and loss |
//! | `result-of-epoch-….json` | when a complete run is lengthened | the result before that |
//! | `report/` | on `resnet report` | a page about the run |
//! | `lock` | always | locked by the process that writes here |
//!
//! A run never writes into the folder of another run: the folder is new or empty, or its run is resumed. Whatever was
//! written after the checkpoint that a run resumes from is written again, with the same bytes. Event files are kept; a new
//! one marks the epoch from which the earlier ones no longer count.

mod remains;

pub use remains::{has_begun, is_unbegun};

use super::events::Events;
use super::text;
use crate::formats::atomic;
use crate::model::ResNet;
use crate::train::checkpoint::{Best, Checkpoint, Checkpoints, ImageHashes, Latest};
use crate::train::{EpochMetrics, Evaluation, LayerMetrics, Position, Trainer};
use crate::weights;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The columns of `metrics.csv` and the keys of `metrics.jsonl`.
pub const COLUMNS: [&str; 9] = [
    "epoch",
    "lr",
    "train_loss",
    "train_top1",
    "train_top5",
    "gradient_norm",
    "images",
    "validation_loss",
    "validation_top1",
];

/// The columns of `times.csv`.
pub const TIMES: &str = "epoch,seconds,images_per_second";

/// The columns of `layers.csv`: see [`LayerMetrics`]. An undefined ratio is left empty.
pub const LAYERS: &str = "epoch,parameter,weight_norm,gradient_norm,update_ratio";

/// The files that grow with every epoch.
const GROWING: [&str; 4] = ["metrics.csv", "metrics.jsonl", "layers.csv", "times.csv"];

/// A killed process holds its lock until it has exited, which can be some time after `kill` returns. Resuming at once should
/// not fail because of that.
const PATIENCE: Duration = Duration::from_secs(2);

/// The file that marks a run as complete.
pub const RESULT: &str = "result.json";

/// The content of a growing file before the first epoch.
fn beginning(name: &str) -> String {
    match name {
        "metrics.csv" => format!("{}\n", COLUMNS.join(",")),
        "layers.csv" => format!("{LAYERS}\n"),
        "times.csv" => format!("{TIMES}\n"),
        _ => String::new(),
    }
}

/// The folder of a run, locked by this process; or, of several processes, by the first of them: then this one writes nothing.
pub struct RunFolder {
    path: PathBuf,
    checkpoints: Checkpoints,
    /// `None` in the processes that write nothing.
    writer: Option<Writer>,
    /// The position of the last checkpoint.
    saved: Option<Position>,
    /// What computed the steps of the run so far.
    kernels: Vec<String>,
    /// The folder of the repeated runs that this run belongs to.
    all: Option<PathBuf>,
}

struct Writer {
    /// Held while the folder is in use; the system releases it however the process ends.
    _lock: File,
    /// This process's files for TensorBoard.
    events: Events,
}

/// Rejects a folder given with `--out` that is not empty.
pub fn check_out(path: &Path) -> Result<()> {
    let in_use = |what: &str, advice: &str| {
        let message = format!("{what}; nothing was changed. Give another folder with --out, or {advice}");
        Err(Error::format(path, None, message))
    };
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) if is_unbegun(path) => Ok(()),
            Some(_) if has_begun(path) => {
                let advice = format!("resume the run: resnet train --resume {}", text::shell(path));
                in_use("expected a new or empty folder, found a run in it", &advice)
            }
            Some(_) => in_use("expected a new or empty folder, found files in it", "remove this one"),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            // Without a slash at its end, with which a file is not found.
            let path = path.components().as_path();
            match path.ancestors().find(|part| part.is_file()) {
                Some(file) if file != path => {
                    in_use(&format!("{} is a file, which cannot contain a folder", file.display()), "remove this file")
                }
                _ => in_use("expected a folder, found a file", "remove it"),
            }
        }
        Err(error) => Err(Error::io(path, "list", error)),
    }
}

impl RunFolder {
    /// Creates the folder `out`, or else `runs/<stem>-<n>` with the first free n, and the files of a run with this
    /// configuration. The configuration is the first: a run that is killed later can be started again with it.
    pub fn create(out: Option<&Path>, stem: &str, config: &str, keep: usize) -> Result<Self> {
        let path = match out {
            Some(out) => {
                check_out(out)?;
                fs::create_dir_all(out).map_err(|error| Error::io(out, "create", error))?;
                out.to_path_buf()
            }
            None => first_free(Path::new("runs"), stem)?,
        };
        let lock = lock(&path)?;
        // Again, with the lock: another process may have begun meanwhile.
        check_out(&path)?;
        remains::clear(&path)?;
        let writer = Some(Writer { _lock: lock, events: Events::new(&path)? });
        let checkpoints = checkpoints(&path, keep);
        let folder = RunFolder { checkpoints, path, writer, saved: None, kernels: Vec::new(), all: None };
        folder.write_text("config.toml", config)?;
        GROWING.iter().try_for_each(|name| folder.start_file(name, &beginning(name)))?;
        folder.with_events(|events| events.begin(config))?;
        Ok(folder)
    }

    /// The folder that the first process of the run writes.
    pub fn of_the_first_process(path: &Path) -> Self {
        let (checkpoints, path) = (checkpoints(path, 1), path.to_path_buf());
        RunFolder { checkpoints, path, writer: None, saved: None, kernels: Vec::new(), all: None }
    }

    /// Whether this process writes it.
    fn is_written_here(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes events, if this process does.
    fn with_events(&self, write: impl FnOnce(&Events) -> Result<()>) -> Result<()> {
        self.writer.as_ref().map_or(Ok(()), |writer| write(&writer.events))
    }

    /// Opens the folder of an interrupted run, and its latest checkpoint.
    pub fn open(path: &Path) -> Result<(Self, Latest)> {
        if !path.join("checkpoints").is_dir() {
            let message = format!("expected the folder of a run with `checkpoints` in it{}", from_the_start(path));
            return Err(Error::format(path, None, message));
        }
        let lock = lock(path)?;
        let checkpoints = checkpoints(path, 1);
        let latest = checkpoints.latest().map_err(|error| match error {
            Error::Format { path: folder, offset, message } => {
                Error::Format { path: folder, offset, message: message + &from_the_start(path) }
            }
            error => error,
        })?;
        let (saved, kernels) = (Some(latest.checkpoint.position), latest.checkpoint.kernels.clone());
        let writer = Some(Writer { _lock: lock, events: Events::new(path)? });
        Ok((RunFolder { path: path.to_path_buf(), checkpoints, writer, saved, kernels, all: None }, latest))
    }

    /// From now on this many checkpoints are kept.
    pub fn keep(&mut self, keep: usize) {
        self.checkpoints = checkpoints(&self.path, keep);
    }

    /// Removes the temporary files that an interrupted write left, and returns them.
    pub fn remove_temporary(&self) -> Vec<PathBuf> {
        remains::remove_temporary(&self.path)
    }

    /// Records what computes the steps of this process. Returns what computed those before, if it was something else.
    pub fn compute_with(&mut self, kernels: String) -> Option<String> {
        let before = self.kernels.last().filter(|before| **before != kernels).cloned();
        if before.is_some() || self.kernels.is_empty() {
            self.kernels.push(kernels);
        }
        before
    }

    /// Restores the metrics files to their state at a checkpoint, and starts a new event file.
    pub fn rewind(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.files.iter().try_for_each(|(name, content)| match GROWING.contains(&name.as_str()) {
            true => self.start_file(name, content),
            false => Ok(()),
        })?;
        self.with_events(|events| events.begin(&checkpoint.config))
    }

    /// Writes the metrics files of a complete run that are missing again, and returns them.
    pub fn restore_metrics(&self, checkpoint: &Checkpoint) -> Result<Vec<PathBuf>> {
        let is_missing = |name: &str| GROWING.contains(&name) && !self.path.join(name).exists();
        let missing = checkpoint.files.iter().filter(|(name, _)| is_missing(name));
        missing.map(|(name, content)| self.start_file(name, content).map(|()| self.path.join(name))).collect()
    }

    /// Marks it as one of the repeated runs in the folder `all`, which is then the folder to resume.
    pub fn set_all(&mut self, all: &Path) {
        self.all = Some(all.to_path_buf());
    }

    /// The command that resumes the run.
    pub fn resume_command(&self) -> String {
        format!("resnet train --resume {}", text::shell(self.all.as_ref().unwrap_or(&self.path)))
    }

    /// Whether the run is complete: its result exists.
    pub fn is_complete(&self) -> bool {
        self.path.join(RESULT).exists()
    }

    /// Keeps the result of a run that was complete after `epochs` epochs and is lengthened.
    pub fn set_result_aside(&self, epochs: usize) -> Result<()> {
        let aside = set_aside(&self.path, epochs);
        fs::rename(self.path.join(RESULT), &aside).map_err(|error| Error::io(aside, "write", error))
    }

    /// The contents of the metrics files, for a checkpoint.
    fn growing(&self) -> Result<Vec<(String, String)>> {
        let content = |name: &str| {
            let path = self.path.join(name);
            let content = fs::read_to_string(&path).map_err(|error| Error::io(&path, "read", error))?;
            Ok((name.to_string(), content))
        };
        GROWING.into_iter().map(content).collect()
    }

    /// Writes a checkpoint of the run.
    pub fn checkpoint(
        &mut self,
        trainer: &Trainer<f32>,
        best: Option<&Best>,
        config: &str,
        data: ImageHashes,
    ) -> Result<()> {
        if !self.is_written_here() {
            return Ok(());
        }
        let mut checkpoint = Checkpoint::of(trainer, best.cloned(), config.to_string(), self.growing()?, data);
        checkpoint.kernels.clone_from(&self.kernels);
        self.checkpoints.save(checkpoint)?;
        self.saved = Some(trainer.position());
        Ok(())
    }

    /// Replaces a file, whole or not at all.
    fn start_file(&self, name: &str, content: &str) -> Result<()> {
        if !self.is_written_here() {
            return Ok(());
        }
        atomic::write(&self.path.join(name), content.as_bytes())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn weights(&self) -> PathBuf {
        self.path.join("weights.safetensors")
    }

    /// The weights of the epoch with this number, counted from 1, of a run of `epochs`.
    pub fn weights_of(&self, epoch: usize, epochs: usize) -> PathBuf {
        let digits = epochs.to_string().len().max(3);
        self.path.join(format!("weights-epoch-{epoch:0digits$}.safetensors"))
    }

    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// What is saved on disk, for the error message of a run that failed.
    pub fn kept(&self) -> String {
        match self.saved() {
            None => "nothing has been saved yet".to_string(),
            Some(place) => format!("the last checkpoint is {place}; resume with `{}`", self.resume_command()),
        }
    }

    /// The same for a run that would diverge again if it were resumed.
    pub fn kept_good(&self) -> String {
        let place = self.saved().unwrap_or_else(|| "none".to_string());
        let config = self.path.join("config.toml");
        format!(
            "the last good checkpoint is {place}; a resumed run would diverge again. To start a new run with another \
             learning rate: resnet train --config {} --lr …",
            text::shell(config)
        )
    }

    /// The position of the last checkpoint, as a text.
    fn saved(&self) -> Option<String> {
        self.saved.map(place)
    }

    /// Wall-clock time of all epochs, including interrupted attempts as far as they count.
    pub fn seconds(&self) -> Result<f64> {
        if !self.is_written_here() {
            return Ok(0.0);
        }
        let path = self.path.join("times.csv");
        let times = fs::read_to_string(&path).map_err(|error| Error::io(&path, "read", error))?;
        Ok(times.lines().skip(1).filter_map(|line| line.split(',').nth(1)?.parse::<f64>().ok()).sum())
    }

    /// Writes `value` to the file `name`, whole or not at all.
    pub fn write_json(&self, name: &str, value: &Value) -> Result<()> {
        self.start_file(name, &format!("{value:#}\n"))
    }

    /// Writes a text to the file `name`, whole or not at all.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        self.start_file(name, text)
    }

    /// Writes weights to a file of this folder, whole or not at all.
    pub fn save(&self, path: &Path, model: &ResNet<f32>, about: &weights::Metadata) -> Result<()> {
        if !self.is_written_here() {
            return Ok(());
        }
        weights::save(path, model, about)
    }

    /// Appends an epoch to the metrics files.
    pub fn append(&self, epoch: &EpochMetrics, validation: Option<&Evaluation>, layers: &[LayerMetrics]) -> Result<()> {
        if !self.is_written_here() {
            return Ok(());
        }
        let values = [
            json!(epoch.epoch + 1),
            json!(epoch.lr),
            json!(epoch.loss),
            json!(epoch.top1),
            json!(epoch.top5),
            json!(epoch.gradient_norm),
            json!(epoch.images),
            json!(validation.map(|v| v.loss)),
            json!(validation.map(Evaluation::accuracy)),
        ];
        // Numbers and null: the text is the same in both formats, except that a missing value is empty in CSV.
        let text = |value: &Value| if value.is_null() { String::new() } else { value.to_string() };
        let row = values.each_ref().map(text);
        self.append_to("metrics.csv", &row.join(","))?;
        let entries = COLUMNS.iter().zip(&values).map(|(key, value)| format!("\"{key}\":{value}"));
        self.append_to("metrics.jsonl", &format!("{{{}}}", entries.collect::<Vec<_>>().join(",")))?;
        let rows = layers.iter().map(|layer| {
            let numbers = [json!(layer.weight_norm), json!(layer.gradient_norm), json!(layer.update_ratio)];
            format!("{},{},{}", epoch.epoch + 1, layer.parameter, numbers.each_ref().map(text).join(","))
        });
        self.append_to("layers.csv", &rows.collect::<Vec<_>>().join("\n"))?;
        self.append_to("times.csv", &format!("{},{},{}", epoch.epoch + 1, epoch.seconds, epoch.images_per_second()))?;
        self.with_events(|events| events.epoch(epoch, validation, layers))
    }

    /// Appends the test results to the event files.
    pub fn append_test(&self, epochs: usize, tested: &Evaluation) -> Result<()> {
        self.with_events(|events| events.test(epochs, tested))
    }

    /// A single write, so that a reader of the file never sees half an epoch.
    fn append_to(&self, name: &str, line: &str) -> Result<()> {
        let path = self.path.join(name);
        let file = File::options().append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        written.map_err(|error| Error::io(path, "append to", error))
    }
}

/// Whether the folder `path` contains a complete run.
pub fn is_complete(path: &Path) -> bool {
    has_begun(path) && path.join(RESULT).exists()
}

/// What to do about a run that cannot be resumed, for the end of an error message; empty if its settings are lost too.
fn from_the_start(run: &Path) -> String {
    let config = run.join("config.toml");
    if !config.is_file() {
        return String::new();
    }
    format!(
        "; without one the run cannot be resumed, only started again, in another folder: resnet train --config {} --out …",
        text::shell(config)
    )
}

/// The result of a run that was complete after `epochs` epochs and has been lengthened.
fn set_aside(run: &Path, epochs: usize) -> PathBuf {
    run.join(format!("result-of-epoch-{epochs}.json"))
}

/// Whether the run in the folder was complete after `epochs` epochs and has been lengthened.
pub fn was_lengthened_from(run: &Path, epochs: usize) -> bool {
    set_aside(run, epochs).exists()
}

/// A position as a text.
pub fn place(position: Position) -> String {
    match position {
        Position { epoch, step: 0, .. } => format!("after epoch {epoch}"),
        Position { epoch, step, .. } => format!("in epoch {}, after step {step}", epoch + 1),
    }
}

fn checkpoints(path: &Path, keep: usize) -> Checkpoints {
    Checkpoints::new(path.join("checkpoints"), keep)
}

/// Locks the folder of one run or of repeated runs against other processes.
pub fn lock(path: &Path) -> Result<File> {
    let name = path.join("lock");
    // Not truncated: another process may hold it.
    let file = File::options().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(|error| Error::io(&name, "create", error))?;
    let patience = Instant::now() + PATIENCE;
    let locked = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < patience => std::thread::sleep(PATIENCE / 20),
            locked => break locked,
        }
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = "in use by another `resnet train`; wait until it ends, or give another folder with --out";
            Err(Error::format(path, None, message))
        }
        // A file system without locks: running without a lock is better than not running.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

pub fn first_free(parent: &Path, stem: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).map_err(|error| Error::io(parent, "create", error))?;
    for n in 1.. {
        let path = parent.join(format!("{stem}-{n}"));
        // Creating the folder is the test: two runs started at the same time get two folders.
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(path, "create", error)),
        }
    }
    unreachable!("some number is free")
}
