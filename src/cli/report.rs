//! `resnet report`: what became of a run, as a page to read.
//!
//! - [`mod@run`]: what the folder of a run says, [`csv`] its files of metrics;
//! - [`network`]: what the network makes of images;
//! - [`summary`]: what numbers come to;
//! - [`figures`] and [`chart`]: curves, heat maps, bars;
//! - [`page`], with [`headline`], [`sections`] and [`pictures`]: the page, of [`markup`], which escapes every text;
//! - [`output`]: the files.
//!
//! Everything in a report comes from the run, nothing from the clock: the same run gives the same bytes.

mod chart;
mod csv;
mod figures;
mod headline;
mod markup;
mod network;
mod output;
mod page;
mod pictures;
mod png;
mod run;
mod sections;
mod summary;

use super::{Failure, Result};
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
  resnet report runs/seed-1 runs/seed-2 runs/seed-3 --out seeds
  resnet report runs/resnet20-quick-1 --data /mnt/cifar10";

/// Make a page about a run
///
/// report.html is one file that needs nothing else: accuracy, curves, confusion matrix, the surest
/// mistakes as pictures, first-layer filters, gradients and updates of each layer, times, and the
/// configuration. Every chart is also a file of its own, NAME.svg and NAME.png. Several runs are laid
/// over each other.
///
/// RUN is the folder of a run. A run that is going on, or was broken off, is shown as far as it has
/// come; its test images are not looked at. Only what an earlier report made is replaced.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// Folders of runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,

    /// Folder for the report [default: `report` in the folder of the first run]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Where the images are now, if not where the configuration of the run says
    ///
    /// Without images the report has no confusion matrix and no mistakes.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    if args.runs.len() > colour::MOST {
        let message =
            format!("expected at most {} runs, whose lines can be told apart, got {}", colour::MOST, args.runs.len());
        return Err(Failure::Usage(message));
    }
    let out = args.out.clone().unwrap_or_else(|| args.runs[0].join("report"));
    let mut runs = args.runs.iter().map(|path| Run::read(path)).collect::<Result<Vec<Run>>>()?;
    tell_apart(&mut runs)?;
    if args.data.is_some() && runs.iter().all(|run| run.config.data().is_embedded()) {
        let message = "--data says where images of a run are now; these runs learnt from the images inside the program";
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
    let (done, of) = (run.epochs.len(), run.recipe.epochs);
    match &run.result {
        Some(result) => {
            let accuracy = super::text::share(result.test_correct, result.test_images);
            format!("{done} of {of} epochs, test accuracy {accuracy}")
        }
        None => format!("not over: {done} of {of} epochs"),
    }
}

/// Refuses the same run twice, and gives runs in folders of the same name the path as theirs.
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

/// Refuses runs on different classes: their accuracies are not about the same.
fn check_classes(runs: &[Examined]) -> Result<()> {
    let mut first: Option<(&Run, Vec<String>)> = None;
    for Examined { run, findings } in runs {
        let Some(classes) = findings.network.as_ref().map(network::Network::classes).transpose()?.flatten() else {
            continue;
        };
        match &first {
            Some((other, expected)) if *expected != classes => {
                return Err(Failure::Failed(format!(
                    "{} and {} tell different classes apart ({} and {}); expected runs on the same classes, give them \
                     reports of their own",
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

/// What went wrong, as a text.
fn message(failure: Failure) -> String {
    match failure {
        Failure::Usage(message) | Failure::Failed(message) | Failure::Diverged(message) => message,
        Failure::Verdict | Failure::Interrupted | Failure::PipeClosed => "it was broken off".to_string(),
    }
}
