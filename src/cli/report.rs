//! `resnet report`: an HTML page about a run.
//!
//! - [`mod@run`]: reads the folder of a run, [`csv`] its metrics files;
//! - [`network`]: evaluates the network on images;
//! - [`summary`] computes the statistics;
//! - [`figures`] and [`chart`]: curves, heat maps, bars;
//! - [`page`], with [`headline`], [`sections`], [`compare`] and [`pictures`]: the page, made of [`markup`], which escapes every text;
//! - [`output`]: writes the files.
//!
//! Everything in a report comes from the run, nothing from the clock: the same run gives the same bytes.

mod chart;
mod compare;
mod csv;
mod figures;
mod headline;
pub(super) mod markup;
mod network;
mod output;
pub(super) mod page;
mod pictures;
mod png;
mod run;
mod sections;
mod summary;

use super::{Failure, Result, text, train};
use crate::Error;
use chart::colour;
use network::Album;
use page::{Examined, Page};
use run::Run;
use std::io::Write as _;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Examples:
  resnet report runs/resnet20-quick-1                    runs/resnet20-quick-1/report/report.html
  resnet report runs/resnet20-quick-repeated-1           all seeds of --repeat
  resnet report runs/resnet20-quick-1 runs/resnet20-quick-2 --out compared
  resnet report runs/resnet20-quick-1 --data /mnt/cifar10";

/// Make an HTML page about a run
///
/// report.html is a single file that needs no other: accuracy, curves, confusion matrix, pictures of
/// the most confident mistakes, first-layer filters, gradients and updates of each layer, times, and
/// the configuration. Every chart is also saved as NAME.svg and NAME.png. Several runs are plotted in
/// the same charts.
///
/// RUN is the folder of a run, or that of `resnet train --repeat`, which stands for all its runs. The report of an unfinished run covers the epochs so far and does not
/// use the test images. Only files of an earlier report are overwritten.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// Folders of runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,

    /// Folder for the report [default: `report` in the folder of the first run]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Location of the images, if they were moved after the run
    ///
    /// Without images the report has no confusion matrix and no mistakes.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let mut paths = Vec::new();
    for path in &args.runs {
        match train::repeated_runs(path)? {
            Some(runs) if runs.is_empty() => {
                let message = format!("{}: expected repeated runs, but none has begun yet", path.display());
                return Err(Failure::Failed(message));
            }
            Some(runs) => paths.extend(runs.into_iter().map(|run| (run, Some(path.clone())))),
            None => paths.push((path.clone(), None)),
        }
    }
    if paths.len() > colour::MOST {
        let message =
            format!("expected at most {} runs, as many as there are distinct lines, got {}", colour::MOST, paths.len());
        return Err(Failure::Usage(message));
    }
    let out = args.out.clone().unwrap_or_else(|| args.runs[0].join("report"));
    let read = |(path, repeated): (PathBuf, Option<PathBuf>)| Ok(Run { repeated, ..Run::read(&path)? });
    let mut runs = paths.into_iter().map(read).collect::<Result<Vec<Run>>>()?;
    tell_apart(&mut runs)?;
    if args.data.is_some() && runs.iter().all(|run| run.config.data().is_embedded()) {
        let message =
            "--data gives the location of images that were moved; these runs used the images embedded in the program";
        return Err(Failure::Usage(message.to_string()));
    }
    output::check(&out)?;

    let mut album = Album::new(args.data.clone());
    let mut examined = Vec::new();
    for run in runs {
        let findings = network::examine(&run, &mut album)?;
        examined.push(Examined { run, findings });
    }
    drop(album);
    check_classes(&examined)?;
    let page = Page::of(&examined)?;
    output::write(&out, &page.html, &page.figures)?;

    let mut stdout = std::io::stdout().lock();
    for Examined { run, findings } in &examined {
        writeln!(stdout, "{:<14} {}, {}", "run", run.path.display(), progress(run))?;
        for note in &findings.notes {
            writeln!(stdout, "{:<14} {note}", "note")?;
        }
        for warning in &findings.warnings {
            writeln!(stdout, "{:<14} {warning}", "WARNING")?;
        }
    }
    writeln!(stdout, "{:<14} {}.svg and .png", "charts", page.figures.len())?;
    Ok(writeln!(stdout, "{:<14} {}", "report", out.join("report.html").display())?)
}

fn progress(run: &Run) -> String {
    let (done, of) = (run.epochs.len(), text::count(run.recipe.epochs, "epoch"));
    match &run.result {
        Some(result) => {
            let accuracy = text::share(result.test_correct, result.test_images);
            format!("{done} of {of}, test accuracy {accuracy}")
        }
        None => format!("unfinished: {done} of {of}"),
    }
}

/// Rejects a run that is given twice. Runs in folders of the same name are named by their paths.
fn tell_apart(runs: &mut [Run]) -> Result<()> {
    let places = runs.iter().map(|run| run.path.canonicalize().map_err(|error| Error::io(&run.path, "open", error)));
    let places = places.collect::<std::result::Result<Vec<PathBuf>, Error>>()?;
    if let Some(i) = (0..runs.len()).find(|&i| places[..i].contains(&places[i])) {
        return Err(Failure::Usage(format!("{} is given twice", runs[i].path.display())));
    }
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in runs.iter_mut() {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = run.path.display().to_string();
        }
    }
    Ok(())
}

/// Rejects runs on different classes, because their accuracies cannot be compared.
fn check_classes(runs: &[Examined]) -> Result<()> {
    let mut first: Option<(&Run, Vec<String>)> = None;
    for Examined { run, findings } in runs {
        let Some(classes) = findings.network.as_ref().map(network::Network::classes).transpose()?.flatten() else {
            continue;
        };
        match &first {
            Some((other, expected)) if *expected != classes => {
                return Err(Failure::Failed(format!(
                    "{} and {} have different classes ({} and {}); expected runs on the same classes, make a separate \
                     report for each",
                    other.path.display(),
                    run.path.display(),
                    expected.join(", "),
                    classes.join(", ")
                )));
            }
            Some(_) => {}
            None => first = Some((run, classes)),
        }
    }
    Ok(())
}

/// The message of a failure.
fn message(failure: Failure) -> String {
    match failure {
        Failure::Usage(message) | Failure::Failed(message) | Failure::Diverged(message) => message,
        Failure::Verdict | Failure::Interrupted(_) | Failure::Elsewhere | Failure::PipeClosed => {
            "interrupted".to_string()
        }
    }
}
