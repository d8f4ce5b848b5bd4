//! `resnet oracle diagnose`.

use super::layer::LayerInput;
use super::model::ModelInput;
use super::{ComputedInArgs, in_file, results};
use crate::cli::{Failure, Result};
use crate::formats;
use crate::oracle::diagnose::{Suspicion, diagnose_sgd, needed};
use crate::oracle::dump::names_of;
use crate::oracle::layer::{self, prepare};
use crate::oracle::{self, Diagnosis, Mistake};
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
    let diagnosis = match &args.what {
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
                    Err(_) => layer::run::<f64>(kind, settings, &input, &needed(&theirs, &stated))
                        .and_then(|ours| oracle::compare_as(&ours, &theirs, None, &stated))
                        .map(|right| Diagnosis { right, tried: Vec::new() }),
                },
            };
            diagnosis.map_err(in_file(path))?
        }
        What::Model(input) => {
            let task = input.task()?;
            args.computed_in.check(names_of(&task.program).iter().map(String::as_str))?;
            oracle::diagnose(&task, &theirs, &stated).map_err(in_file(&input.input))?
        }
    };
    let explains: Vec<Mistake> = diagnosis.explains().collect();
    if args.json {
        let named = |mistake: Mistake| json!({ "name": mistake.name(), "explanation": mistake.explanation() });
        let value = json!({
            "right": diagnosis.right.passed(),
            "first": diagnosis.right.first().map(|verdict| &verdict.name),
            "pattern": diagnosis.right.first().and_then(|verdict| verdict.pattern.as_ref()),
            "explains": explains.iter().copied().map(named).collect::<Vec<_>>(),
            "tried": diagnosis.tried.iter().map(|suspicion| suspicion.mistake.name()).collect::<Vec<_>>(),
        });
        writeln!(out, "{value:#}")?;
    } else {
        print_diagnosis(out, &diagnosis, &explains, &args.theirs)?;
    }
    if diagnosis.right.passed() { Ok(()) } else { Err(Failure::Verdict) }
}

fn print_diagnosis(
    out: &mut dyn Write,
    diagnosis: &Diagnosis,
    explains: &[Mistake],
    theirs: &Path,
) -> std::io::Result<()> {
    let (right, theirs) = (&diagnosis.right, theirs.display());
    if right.passed() {
        return writeln!(out, "{theirs} is right: all {} tensors fit", right.tried());
    }
    for (name, near) in &right.unknown {
        let hint = near.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        writeln!(out, "{name} is unknown{hint}")?;
    }
    if let Some(first) = right.first() {
        writeln!(out, "{theirs} is wrong: `{}` is the first tensor that does not fit", first.name)?;
        if let Some(pattern) = &first.pattern {
            writeln!(out, "  pattern: {pattern}")?;
        }
    }
    match explains {
        [] if diagnosis.tried.is_empty() => {
            writeln!(
                out,
                "no classic mistake is possible in this layer; `resnet oracle check` shows the pattern of the errors"
            )?;
        }
        [] => {
            writeln!(out, "none of {} classic mistakes explains all of it", diagnosis.tried.len())?;
            let fitting =
                |suspicion: &&Suspicion| suspicion.report.tensors.iter().filter(|v| v.tried() && v.passed()).count();
            let before = right.tensors.iter().filter(|verdict| verdict.tried() && verdict.passed()).count();
            let closest = diagnosis.tried.iter().rev().max_by_key(fitting).filter(|closest| fitting(closest) > before);
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
            writeln!(out, "one mistake explains everything in it: {}\n  {}", mistake.name(), mistake.explanation())?;
        }
        several => {
            writeln!(out, "each of these mistakes explains everything in it; these tensors cannot distinguish them:")?;
            for mistake in several {
                writeln!(out, "- {}\n  {}", mistake.name(), mistake.explanation())?;
            }
        }
    }
    Ok(())
}
