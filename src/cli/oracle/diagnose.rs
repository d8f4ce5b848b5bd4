//! `resnet oracle diagnose`.

use super::layer::LayerInput;
use super::model::ModelInput;
use super::{ComputedInArgs, in_file, results};
use crate::cli::{Failure, Result};
use crate::formats;
use crate::oracle::compare::of_whole_pass;
use crate::oracle::diagnose::{Suspicion, diagnose_sgd, needed};
use crate::oracle::dump::names_of;
use crate::oracle::isolate::{Isolated, isolate};
use crate::oracle::layer::{self, Task, prepare};
use crate::oracle::{self, Diagnosis, Mistake, Verdict};
use clap::Subcommand;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

const DIAGNOSE_HELP: &str = "\
Exit code 0 if THEIRS is right, 1 if it is not, whether or not a mistake explains it.

Examples:
  resnet oracle diagnose theirs.npz layer conv2d --set stride=2,padding=1 --in in.npz
  resnet oracle diagnose theirs.safetensors model --model resnet20 --weights resnet20.th --in batch.npz";

/// Name the classic mistake that explains wrong results
///
/// Computes the layer or network correctly. If THEIRS does not fit, repeats the computation with one
/// classic mistake after the other, and reports the mistakes with which THEIRS fits.
#[derive(Debug, clap::Args)]
#[command(after_help = DIAGNOSE_HELP, verbatim_doc_comment)]
pub struct Args {
    /// The results to check
    #[arg(value_name = "THEIRS")]
    theirs: PathBuf,

    #[command(flatten)]
    computed_in: ComputedInArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A layer, block or step of SGD, as in `resnet oracle layer`
    Layer(LayerInput),
    /// A network, as in `resnet oracle model`
    Model(Box<ModelInput>),
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    let theirs = formats::read(&args.theirs)?;
    let stated = args.computed_in.stated();
    let (diagnosis, isolated) = match &args.what {
        What::Layer(LayerInput { kind, settings, input: path }) => {
            let input = formats::read(path)?;
            if !stated.patterns.is_empty() {
                let ours = layer::run::<f64>(kind, settings, &input, &[]).map_err(in_file(path))?;
                args.computed_in.check(results(&ours))?;
            }
            let diagnosis = match kind.as_str() {
                "sgd" => diagnose_sgd(settings, &input, &theirs, &stated),
                _ => match prepare(kind, settings, &input) {
                    Ok(task) => oracle::diagnose(&task, &theirs, &stated),
                    // A loss with class weights and the like is right or wrong, but no mistake can be made in it.
                    Err(_) => layer::run::<f64>(kind, settings, &input, &needed(&theirs, &stated, true))
                        .and_then(|ours| oracle::compare_as(&ours, &theirs, None, &stated))
                        .map(|right| Diagnosis { right, tried: Vec::new() }),
                },
            };
            (diagnosis.map_err(in_file(path))?, None)
        }
        What::Model(input) => {
            let (task, names) = (input.task()?, |task: &Task| names_of(&task.program));
            args.computed_in.check(names(&task).iter().map(String::as_str))?;
            let isolated = isolate(&task.program, &task.input, &task.request, &theirs, &stated);
            let isolated = isolated.map_err(in_file(&args.theirs))?;
            let stated = of_whole_pass(&stated, names(&task).iter().map(String::as_str), &theirs);
            let diagnosis = oracle::diagnose(&task, &theirs, &stated).map_err(in_file(&input.input))?;
            (diagnosis, Some(isolated).filter(|isolated| isolated.report.tried() > 0))
        }
    };
    // What a module does wrong may be lost in the rounding of a whole pass.
    let is_right = diagnosis.right.passed() && isolated.as_ref().is_none_or(Isolated::passed);
    let wrong_modules = isolated.as_ref().map_or(Vec::new(), Isolated::wrong);
    let first = isolated.as_ref().and_then(|isolated| isolated.report.first()).or(diagnosis.right.first());
    let explains: Vec<Mistake> = diagnosis.explains().collect();
    if args.json {
        let named = |mistake: Mistake| json!({ "name": mistake.name(), "explanation": mistake.explanation() });
        let value = json!({
            "right": is_right,
            "first": first.map(|verdict| &verdict.name),
            "pattern": first.and_then(|verdict| verdict.pattern.as_ref()),
            "wrong_modules": wrong_modules,
            "explains": explains.iter().copied().map(named).collect::<Vec<_>>(),
            "tried": diagnosis.tried.iter().map(|suspicion| suspicion.mistake.name()).collect::<Vec<_>>(),
        });
        writeln!(out, "{value:#}")?;
    } else {
        let found =
            Found { diagnosis: &diagnosis, is_right, first, wrong_modules: &wrong_modules, explains: &explains };
        found.print(out, &args.theirs)?;
    }
    if is_right { Ok(()) } else { Err(Failure::Verdict) }
}

/// What is reported.
struct Found<'a> {
    diagnosis: &'a Diagnosis,
    is_right: bool,
    /// The first tensor that does not fit.
    first: Option<&'a Verdict>,
    /// Of a network, the modules that are wrong for what they were given.
    wrong_modules: &'a [&'a str],
    explains: &'a [Mistake],
}

impl Found<'_> {
    fn print(&self, out: &mut dyn Write, theirs: &Path) -> std::io::Result<()> {
        let Found { diagnosis, first, wrong_modules, explains, .. } = *self;
        let (right, theirs) = (&diagnosis.right, theirs.display());
        if self.is_right {
            return writeln!(out, "{theirs} is right: all {} tensors fit", right.tried());
        }
        for (name, near) in &right.unknown {
            let hint = near.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            writeln!(out, "{name} is unknown{hint}")?;
        }
        if let Some(first) = first {
            writeln!(out, "{theirs} is wrong: `{}` is the first tensor that does not fit", first.name)?;
            if let Some(pattern) = &first.pattern {
                writeln!(out, "  pattern: {pattern}")?;
            }
        }
        if !wrong_modules.is_empty() {
            writeln!(out, "wrong modules, each for what it was given: {}", wrong_modules.join(", "))?;
        }
        match explains {
            [] if right.passed() => {
                writeln!(out, "end to end everything fits, so no classic mistake is tried in the whole network")?;
            }
            [] if diagnosis.tried.is_empty() => {
                writeln!(
                    out,
                    "no classic mistake is possible in this layer; `resnet oracle check` shows the pattern of the errors"
                )?;
            }
            [] => {
                writeln!(out, "none of {} classic mistakes explains all of it", diagnosis.tried.len())?;
                let fitting = |suspicion: &&Suspicion| {
                    suspicion.report.tensors.iter().filter(|v| v.tried() && v.passed()).count()
                };
                let before = right.tensors.iter().filter(|verdict| verdict.tried() && verdict.passed()).count();
                let closest =
                    diagnosis.tried.iter().rev().max_by_key(fitting).filter(|closest| fitting(closest) > before);
                if let Some(closest) = closest {
                    let (count, all) = (fitting(&closest), right.tried());
                    writeln!(
                        out,
                        "the closest is {}, with which {count} of {all} tensors fit instead of {before}",
                        closest.mistake.name()
                    )?;
                }
            }
            [mistake] => {
                writeln!(
                    out,
                    "one mistake explains everything in it: {}\n  {}",
                    mistake.name(),
                    mistake.explanation()
                )?;
            }
            several => {
                writeln!(
                    out,
                    "each of these mistakes explains everything in it; these tensors cannot distinguish them:"
                )?;
                for mistake in several {
                    writeln!(out, "- {}\n  {}", mistake.name(), mistake.explanation())?;
                }
            }
        }
        Ok(())
    }
}
