//! `resnet oracle compare`.

use crate::cli::{Failure, Result, args, text};
use crate::formats;
use crate::oracle::compare::{DECADES, Outcome, Worst};
use crate::oracle::pack::folder;
use crate::oracle::{self, Report, Tolerance, Verdict};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

const COMPARE_HELP: &str = "\
A tensor fits if every element is within the tolerance. Exit code 0 if every tensor in THEIRS fits,
1 if not.

Without --rtol and --atol the tolerances come from OURS. `resnet oracle layer` and `resnet oracle
model` compute them in advance: the error that rounding in the number type of THEIRS causes in this
computation. Tensors that are missing in THEIRS are not compared.

If OURS is the folder of a pack (`resnet oracle pack`), THEIRS is a folder of results with one file
per case: conv2d-3x3.npz, sgd-decay.safetensors.";

/// Compare two files of tensors; report the first one that differs
#[derive(Debug, clap::Args)]
#[command(after_help = COMPARE_HELP, verbatim_doc_comment)]
pub struct Args {
    /// The correct results
    #[arg(value_name = "OURS")]
    ours: PathBuf,

    /// The results to check
    #[arg(value_name = "THEIRS")]
    theirs: PathBuf,

    /// Relative tolerance; sets --atol to 0 unless that is given
    #[arg(long, value_name = "R", value_parser = args::not_negative, allow_negative_numbers = true)]
    rtol: Option<f64>,

    /// Absolute tolerance; sets --rtol to 0 unless that is given
    #[arg(long, value_name = "A", value_parser = args::not_negative, allow_negative_numbers = true)]
    atol: Option<f64>,

    /// Show every tensor, including those that fit
    #[arg(long)]
    all: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if args.ours.is_dir() {
        return compare_folders(args);
    }
    let (ours, theirs) = (formats::read(&args.ours)?, formats::read(&args.theirs)?);
    let given = match (args.rtol, args.atol) {
        (None, None) => None,
        (relative, absolute) => {
            Some(Tolerance { relative: relative.unwrap_or(0.0), absolute: absolute.unwrap_or(0.0) })
        }
    };
    let report = oracle::compare(&ours, &theirs, given)
        .map_err(|error| Failure::Failed(format!("{}: {error}", args.ours.display())))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", to_json(&report))?;
    } else {
        print(&mut out, &report, args)?;
    }
    if report.passed() { Ok(()) } else { Err(Failure::Verdict) }
}

/// Compares a folder of results with the folder of a pack.
fn compare_folders(args: &Args) -> Result<()> {
    if args.rtol.is_some() || args.atol.is_some() {
        let message = "--rtol and --atol are for two files; a pack contains its own tolerances";
        return Err(Failure::Usage(message.to_string()));
    }
    let judged = folder::judge(&args.ours, &args.theirs)?;
    let found: Vec<(&str, &Report)> =
        judged.iter().filter_map(|judged| Some((judged.case.as_str(), &judged.found.as_ref()?.1))).collect();
    let passed = found.iter().filter(|(_, report)| report.passed()).count();
    let mut out = std::io::stdout().lock();
    if args.json {
        let case = |(name, report): &(&str, &Report)| json!({ "case": name, "report": to_json(report) });
        let value = json!({
            "passed": passed == found.len() && passed > 0,
            "cases": judged.len(),
            "tried": found.len(),
            "all": found.iter().map(case).collect::<Vec<_>>(),
        });
        writeln!(out, "{value:#}")?;
    } else {
        for (name, report) in &found {
            match (report.passed(), report.first(), report.unknown.first()) {
                (true, ..) if args.all => writeln!(out, "fits   {name}: {} tensors", report.tried())?,
                (true, ..) => {}
                (false, Some(first), _) => writeln!(out, "WRONG  {name}: first in {}, {}", first.name, outcome(first))?,
                (false, None, Some((unknown, near))) => {
                    let hint = near.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                    writeln!(out, "WRONG  {name}: unknown tensor `{unknown}`{hint}")?;
                }
                (false, None, None) => writeln!(out, "WRONG  {name}: nothing could be compared")?,
            }
        }
        let missing = judged.len() - found.len();
        let missing = if missing > 0 { format!("; {missing} cases of the pack have no result") } else { String::new() };
        writeln!(out, "{}: {passed} of {} cases fit{missing}", args.theirs.display(), found.len())?;
    }
    if passed == found.len() && passed > 0 { Ok(()) } else { Err(Failure::Verdict) }
}

fn print(out: &mut impl Write, report: &Report, args: &Args) -> std::io::Result<()> {
    let shown = |verdict: &&Verdict| verdict.tried() && (args.all || !verdict.passed());
    let width = report.tensors.iter().filter(shown).map(|verdict| verdict.name.len()).max().unwrap_or(0).max(6);
    let tensors: Vec<&Verdict> = report.tensors.iter().filter(shown).collect();
    if !tensors.is_empty() {
        writeln!(
            out,
            "{:width$}  {:>10} {:>10} {:>10} {:>9}  {:<18} verdict",
            "tensor", "tolerance", "error", "relative", "ulps", "at"
        )?;
    }
    for verdict in &tensors {
        let ulps = if verdict.ulps < 1_000_000_000 { verdict.ulps.to_string() } else { "> 1e9".to_string() };
        write!(
            out,
            "{:width$}  {:>10.2e} {:>10.2e} {:>10.2e} {:>9}  {:<18} {}",
            verdict.name,
            verdict.tolerance,
            verdict.absolute.error,
            verdict.relative.error,
            ulps,
            format!("{:?}", verdict.absolute.at),
            outcome(verdict)
        )?;
        writeln!(out)?;
    }
    for (name, near) in &report.unknown {
        let hint = near.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        writeln!(out, "{name:width$}  is not in {}{hint}", args.ours.display())?;
    }
    if let Some(first) = report.first() {
        writeln!(out, "\nfirst failure in the order of execution: {}", first.name)?;
        let [ours, theirs] = first.dtypes;
        match &first.outcome {
            Outcome::Shape(found) => writeln!(out, "  shape {:?} in OURS, {found:?} in THEIRS", first.shape)?,
            _ => {
                let [a, b] = first.absolute.values;
                writeln!(
                    out,
                    "  {ours} {a:e} in OURS, {theirs} {b:e} in THEIRS, at {:?} of {:?}",
                    first.absolute.at, first.shape
                )?;
                writeln!(out, "  tolerance {:.2e}: {}", first.tolerance, first.source)?;
                if !first.tolerance.is_finite() {
                    writeln!(
                        out,
                        "  this is no bound: rounding can make an element NaN or infinite, so only equal elements fit"
                    )?;
                }
                if first.ours_not_finite > 0 {
                    let count = text::thousands(first.ours_not_finite as u64);
                    writeln!(out, "  {count} elements in OURS are NaN or infinite: only the same value fits there")?;
                }
                if first.not_finite > 0 {
                    writeln!(
                        out,
                        "  {} elements in THEIRS are NaN or infinite",
                        text::thousands(first.not_finite as u64)
                    )?;
                }
                writeln!(out, "  errors by size, relative to the largest value: {}", histogram(&first.histogram))?;
            }
        }
        let before = report.tensors.iter().take_while(|verdict| verdict.passed()).filter(|verdict| verdict.tried());
        if let Some(last) = before.last() {
            writeln!(out, "  last tensor before it that fits: {}", last.name)?;
        }
    }
    let (tried, all) = (report.tried(), report.tensors.len());
    let wrong = report.tensors.iter().filter(|verdict| !verdict.passed()).count();
    let not_tried = if tried < all { format!("; {} of {} are missing in it", all - tried, all) } else { String::new() };
    let verdict = match (report.passed(), tried) {
        (true, _) => format!("all {tried} tensors fit"),
        (false, 0) => "nothing could be compared".to_string(),
        (false, _) => format!("{wrong} of {tried} tensors do not fit, {} are unknown", report.unknown.len()),
    };
    writeln!(out, "{}: {verdict}{not_tried}", args.theirs.display())
}

fn outcome(verdict: &Verdict) -> String {
    match &verdict.outcome {
        Outcome::Fits => "fits".to_string(),
        Outcome::Leaves(count) => {
            let all: usize = verdict.shape.iter().product();
            format!(
                "{} of {} elements EXCEED the tolerance",
                text::thousands(*count as u64),
                text::thousands(all as u64)
            )
        }
        Outcome::Shape(found) => format!("SHAPE {found:?}, expected {:?}", verdict.shape),
        Outcome::NotGiven => "not given".to_string(),
    }
}

/// `1e-8: 120, 1e-7: 8`
fn histogram(counts: &[usize; DECADES]) -> String {
    let bins = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    let bins: Vec<String> = bins.map(|(i, count)| format!("1e{}: {count}", i as i32 - 18)).collect();
    if bins.is_empty() { "none".to_string() } else { bins.join(", ") }
}

fn to_json(report: &Report) -> Value {
    let worst = |worst: &Worst| json!({ "error": worst.error, "at": worst.at, "ours": worst.values[0], "theirs": worst.values[1] });
    let tensor = |verdict: &Verdict| {
        json!({
            "name": verdict.name,
            "shape": verdict.shape,
            "dtypes": verdict.dtypes.map(|dtype| dtype.name()),
            "outcome": match &verdict.outcome {
                Outcome::Fits => "fits",
                Outcome::Leaves(_) => "leaves",
                Outcome::Shape(_) => "shape",
                Outcome::NotGiven => "not_given",
            },
            "leaving": if let Outcome::Leaves(count) = verdict.outcome { count } else { 0 },
            "their_shape": if let Outcome::Shape(shape) = &verdict.outcome { Some(shape) } else { None },
            "tolerance": verdict.tolerance,
            "tolerance_source": verdict.source.to_string(),
            "absolute": worst(&verdict.absolute),
            "relative": worst(&verdict.relative),
            "ulps": verdict.ulps,
            "not_finite": verdict.not_finite,
            "ours_not_finite": verdict.ours_not_finite,
            "scale": verdict.scale,
            "decades": verdict.histogram,
        })
    };
    json!({
        "passed": report.passed(),
        "tried": report.tried(),
        "first": report.first().map(|verdict| &verdict.name),
        "unknown": report.unknown.iter().map(|(name, near)| json!({ "name": name, "nearest": near })).collect::<Vec<_>>(),
        "tensors": report.tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}
