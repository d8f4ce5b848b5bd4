//! `resnet oracle compare`.

use super::html::{DETAILED, HtmlArgs, Section};
use super::{ComputedInArgs, results};
use crate::cli::{Failure, Result, args, text};
use crate::formats;
use crate::oracle::compare::{DECADES, Outcome, Whole, Worst};
use crate::oracle::pack::folder;
use crate::oracle::profile::{Plane, Profile};
use crate::oracle::{self, Report, Tolerance, Verdict};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

const COMPARE_HELP: &str = "\
A tensor fits if every element is within its tolerance, and if all together are neither too large by
a common factor nor shifted. Exit code 0 if every tensor in THEIRS fits, 1 if not.

Without --rtol and --atol the tolerances come from OURS. `resnet oracle layer` and `resnet oracle
model` derive them in advance: the error of each element that rounding in the arithmetic of THEIRS
causes in this computation. Tensors that are missing in THEIRS are not compared.

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

    #[command(flatten)]
    computed_in: ComputedInArgs,

    /// Show every tensor, including those that fit
    #[arg(long)]
    all: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    html: HtmlArgs,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    args.html.check()?;
    if args.ours.is_dir() {
        return compare_folders(args, out);
    }
    let (ours, theirs) = (formats::read(&args.ours)?, formats::read(&args.theirs)?);
    args.computed_in.check(results(&ours))?;
    let given = match (args.rtol, args.atol) {
        (None, None) => None,
        (relative, absolute) => {
            Some(Tolerance { relative: relative.unwrap_or(0.0), absolute: absolute.unwrap_or(0.0) })
        }
    };
    let report = oracle::compare_as(&ours, &theirs, given, &args.computed_in.stated())
        .map_err(|error| Failure::Failed(format!("{}: {error}", args.ours.display())))?;
    let ours = args.ours.display().to_string();
    let mut printed = Vec::new();
    print(&mut printed, &report, args.all, &ours, &args.theirs)?;
    let section = Section { title: "", report: &report, notes: Vec::new() };
    args.html.write(&ours, &args.theirs, &[section], &printed)?;
    match args.json {
        true => writeln!(out, "{:#}", to_json(&report))?,
        false => out.write_all(&printed)?,
    }
    if report.passed() { Ok(()) } else { Err(Failure::Verdict) }
}

/// Compares a folder of results with the folder of a pack.
fn compare_folders(args: &Args, out: &mut dyn Write) -> Result<()> {
    if args.rtol.is_some() || args.atol.is_some() {
        let message = "--rtol and --atol are for two files; a pack contains its own tolerances";
        return Err(Failure::Usage(message.to_string()));
    }
    let judged = folder::judge(&args.ours, &args.theirs)?;
    let found: Vec<(&str, &Report)> =
        judged.iter().filter_map(|judged| Some((judged.case.as_str(), &judged.found.as_ref()?.1))).collect();
    let passed = found.iter().filter(|(_, report)| report.passed()).count();
    let mut printed = Vec::new();
    print_folders(&mut printed, args, &found, judged.len())?;
    let wrong = found.iter().filter(|(_, report)| !report.passed());
    let sections: Vec<Section> = wrong.map(|&(title, report)| Section { title, report, notes: Vec::new() }).collect();
    args.html.write(&args.ours.display().to_string(), &args.theirs, &sections, &printed)?;
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
        out.write_all(&printed)?;
    }
    if passed == found.len() && passed > 0 { Ok(()) } else { Err(Failure::Verdict) }
}

/// A line for each case that does not fit, and the verdict.
fn print_folders(out: &mut dyn Write, args: &Args, found: &[(&str, &Report)], cases: usize) -> std::io::Result<()> {
    for (name, report) in found {
        match (report.passed(), report.first(), report.unknown.first()) {
            (true, ..) if args.all => writeln!(out, "fits   {name}: {}", text::count(report.tried(), "tensor"))?,
            (true, ..) => {}
            (false, Some(first), _) => writeln!(out, "WRONG  {name}: first in {}, {}", first.name, outcome(first))?,
            (false, None, Some((unknown, near))) => {
                let hint = near.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                writeln!(out, "WRONG  {name}: unknown tensor `{unknown}`{hint}")?;
            }
            (false, None, None) => writeln!(out, "WRONG  {name}: nothing could be compared")?,
        }
    }
    let passed = found.iter().filter(|(_, report)| report.passed()).count();
    let missing = cases - found.len();
    let missing = if missing > 0 { format!("; {missing} cases of the pack have no result") } else { String::new() };
    writeln!(out, "{}: {passed} of {} cases fit{missing}", args.theirs.display(), found.len())
}

/// A line for each tensor that is shown, what is known of the first that does not fit, and the verdict.
pub(super) fn print(out: &mut dyn Write, report: &Report, all: bool, ours: &str, theirs: &Path) -> std::io::Result<()> {
    let shown = |verdict: &&Verdict| verdict.tried() && (all || !verdict.passed());
    let width = report.tensors.iter().filter(shown).map(|verdict| verdict.name.len()).max().unwrap_or(0).max(6);
    let tensors: Vec<&Verdict> = report.tensors.iter().filter(shown).collect();
    if !tensors.is_empty() {
        writeln!(
            out,
            "{:width$}  {:>9} {:>10} {:>10} {:>10}  {:<18} verdict",
            "tensor", "of allowed", "error", "tolerance", "size", "at"
        )?;
    }
    for verdict in &tensors {
        writeln!(
            out,
            "{:width$}  {:>10} {:>10.2e} {:>10.2e} {:>10.2e}  {:<18} {}",
            verdict.name,
            percent(verdict.share()),
            verdict.worst.error,
            if verdict.worst.error == 0.0 { verdict.tolerance } else { verdict.worst.tolerance },
            verdict.rms,
            format!("{:?}", verdict.worst.at),
            outcome(verdict)
        )?;
    }
    let backward = report.tensors.iter().any(|verdict| verdict.name.starts_with("grad_"));
    for (name, near) in &report.unknown {
        let hint = match near {
            Some(near) => format!("; did you mean `{near}`?"),
            None if name.starts_with("grad_") && !backward => {
                ": without `grad_output` among the inputs there is no backward pass".to_string()
            }
            None => String::new(),
        };
        writeln!(out, "{name:width$}  is not in {ours}{hint}")?;
    }
    if let Some(first) = report.first() {
        print_first(out, report, first)?;
    }
    let (tried, tensors) = (report.tried(), report.tensors.len());
    let wrong = report.tensors.iter().filter(|verdict| !verdict.passed()).count();
    let looks_like = report.tensors.iter().find_map(|verdict| Some((verdict, verdict.looks_like?)));
    if let Some((verdict, float)) = looks_like {
        writeln!(
            out,
            "note: every element of `{}` is a number of {name}, though it is stored in float32. If it was computed in {name}, \
             say so: --computed-in {name}",
            verdict.name,
            name = float.name()
        )?;
    }
    let excused: Vec<&Verdict> = report.tensors.iter().filter(|verdict| verdict.excused.is_some()).collect();
    if let Some(first) = excused.first() {
        let reason = first.excused.as_deref().unwrap_or_default();
        writeln!(out, "note: {} expected failures, the first in {}: {reason}", excused.len(), first.name)?;
    }
    let not_finite =
        report.tensors.iter().filter(|verdict| verdict.tried() && verdict.fits() && verdict.ours_not_finite > 0);
    let (count, elements) = not_finite.fold((0, 0), |(n, sum), verdict| (n + 1, sum + verdict.ours_not_finite));
    if count > 0 {
        writeln!(
            out,
            "note: {} elements of {count} tensors that fit are NaN or infinite in both; they say nothing",
            text::thousands(elements as u64)
        )?;
    }
    let vague = report.tensors.iter().filter(|verdict| verdict.fits() && verdict.says_little()).count();
    if vague > 0 {
        writeln!(
            out,
            "note: {vague} of the tensors that fit could be a third larger or smaller by rounding alone, so this says \
             little of them"
        )?;
    }
    let not_tried = match tensors - tried {
        0 => String::new(),
        missing => format!("; {missing} of {tensors} are missing in it"),
    };
    let verdict = match (report.passed(), tried) {
        (true, 1) if excused.is_empty() => "the tensor fits".to_string(),
        (true, _) if excused.is_empty() => format!("all {tried} tensors fit"),
        (true, _) => format!("{} of {tried} tensors fit, the others as expected", tried - excused.len()),
        (false, 0) => "nothing could be compared".to_string(),
        (false, _) => format!("{wrong} of {tried} tensors do not fit, {} are unknown", report.unknown.len()),
    };
    writeln!(out, "{}: {verdict}{not_tried}", theirs.display())
}

/// What is known of the first tensor that does not fit.
fn print_first(out: &mut dyn Write, report: &Report, first: &Verdict) -> std::io::Result<()> {
    writeln!(out, "\nfirst failure in the order of execution: {}", first.name)?;
    let [ours, theirs] = first.dtypes;
    let pattern = first.pattern.as_ref().map_or(String::new(), |pattern| format!("  pattern: {pattern}\n"));
    if let Outcome::Shape(found) = &first.outcome {
        writeln!(out, "  shape {:?} in OURS, {found:?} in THEIRS", first.shape)?;
        write!(out, "{pattern}")?;
    } else {
        let Worst { values: [a, b], at, tolerance, .. } = &first.worst;
        writeln!(out, "  {ours} {a:e} in OURS, {theirs} {b:e} in THEIRS, at {at:?} of {:?}", first.shape)?;
        writeln!(out, "  tolerance there {tolerance:.2e}: {}", first.source)?;
        write!(out, "{pattern}")?;
        if let (Outcome::Factor, Some(Whole { found, tolerance })) = (&first.outcome, first.factor) {
            writeln!(
                out,
                "  each element fits, but THEIRS is {} times OURS, and rounding explains {tolerance:.1e}",
                factor(found)
            )?;
        }
        if let (Outcome::Mean, Some(Whole { found, tolerance })) = (&first.outcome, first.mean) {
            writeln!(
                out,
                "  each element fits, but the errors have the mean {found:.2e}, and rounding explains {tolerance:.1e}"
            )?;
        }
        if !tolerance.is_finite() {
            let reason = "rounding can make an element NaN or infinite, so only equal elements fit";
            writeln!(out, "  this is no bound: {reason}")?;
        }
        if first.ours_not_finite > 0 {
            let count = text::thousands(first.ours_not_finite as u64);
            writeln!(out, "  {count} elements in OURS are NaN or infinite: only the same value fits there")?;
        }
        if first.not_finite > 0 {
            writeln!(out, "  {} elements in THEIRS are NaN or infinite", text::thousands(first.not_finite as u64))?;
        }
        let ulps = if first.ulps < 1_000_000_000 { text::thousands(first.ulps) } else { "more than 1e9".to_string() };
        writeln!(out, "  errors by size, relative to the largest value: {}", histogram(&first.histogram))?;
        writeln!(out, "  largest distance: {ulps} units in the last place")?;
    }
    let before = report.tensors.iter().take_while(|verdict| verdict.passed()).filter(|verdict| verdict.tried());
    if let Some(last) = before.last() {
        writeln!(out, "  last tensor before it that fits: {}", last.name)?;
    }
    Ok(())
}

/// A factor: `0.999000`, `1 + 2.0e-7`.
fn factor(found: f64) -> String {
    match found - 1.0 {
        more if more.abs() >= 1e-5 => format!("{found:.6}"),
        more if more < 0.0 => format!("1 - {:.1e}", -more),
        more => format!("1 + {more:.1e}"),
    }
}

/// A share of a tolerance: `0.3 %`, `85 %`, `120x`.
pub(super) fn percent(share: f64) -> String {
    match share {
        share if share <= 0.0995 => format!("{:.1} %", 100.0 * share),
        share if share <= 1.0 => format!("{:.0} %", 100.0 * share),
        share if share < 1e4 => format!("{share:.3}x"),
        share if share.is_finite() => format!("{share:.0e}x"),
        // Equal elements are expected, or theirs is not finite.
        _ => "not equal".to_string(),
    }
}

pub(super) fn outcome(verdict: &Verdict) -> String {
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
        Outcome::Factor => format!("is {} times OURS", factor(verdict.factor.map_or(f64::NAN, |whole| whole.found))),
        Outcome::Mean => format!("MEAN ERROR {:.2e}", verdict.mean.map_or(f64::NAN, |whole| whole.found)),
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

/// Shares with three digits; an infinite one is `null`.
fn profile_json(profile: &Profile) -> Value {
    let short = |share: &f64| format!("{share:.2e}").parse::<f64>().unwrap_or(*share);
    let shares = |of: &mut dyn Iterator<Item = &f64>| of.map(short).collect::<Vec<f64>>();
    let plane = |plane: &Plane| {
        let rows = plane.shares.rows().into_iter().map(|row| shares(&mut row.iter())).collect::<Vec<_>>();
        json!({ "axes": plane.axes, "block": plane.block, "shares": rows })
    };
    json!({
        "names": profile.names,
        "axes": profile.axes.iter().map(|axis| shares(&mut axis.iter())).collect::<Vec<_>>(),
        "planes": profile.planes.iter().map(plane).collect::<Vec<_>>(),
    })
}

pub(super) fn to_json(report: &Report) -> Value {
    let worst = |worst: &Worst| {
        json!({
            "error": worst.error,
            "tolerance": worst.tolerance,
            "at": worst.at,
            "ours": worst.values[0],
            "theirs": worst.values[1],
        })
    };
    let whole = |whole: Option<Whole>| whole.map(|whole| json!({ "found": whole.found, "tolerance": whole.tolerance }));
    // Those that the page shows in detail; of hundreds of tensors they would be millions of values.
    let worst_first = report.worst_first();
    let detailed = |verdict: &Verdict| worst_first.iter().take(DETAILED).any(|shown| std::ptr::eq(*shown, verdict));
    let profile = |verdict: &Verdict| verdict.profile.as_ref().filter(|_| detailed(verdict)).map(profile_json);
    let tensor = |verdict: &Verdict| {
        json!({
            "name": verdict.name,
            "shape": verdict.shape,
            "dtypes": verdict.dtypes.map(|dtype| dtype.name()),
            "outcome": match &verdict.outcome {
                Outcome::Fits => "fits",
                Outcome::Leaves(_) => "leaves",
                Outcome::Factor => "factor",
                Outcome::Mean => "mean",
                Outcome::Shape(_) => "shape",
                Outcome::NotGiven => "not_given",
            },
            "leaving": if let Outcome::Leaves(count) = verdict.outcome { count } else { 0 },
            "their_shape": if let Outcome::Shape(shape) = &verdict.outcome { Some(shape) } else { None },
            "tolerance": verdict.tolerance,
            "tolerance_source": verdict.source.to_string(),
            "share": verdict.share(),
            "worst": worst(&verdict.worst),
            "factor": whole(verdict.factor),
            "mean": whole(verdict.mean),
            "rms": verdict.rms,
            "excused": verdict.excused,
            "looks_like": verdict.looks_like.map(|float| float.name()),
            "absolute": worst(&verdict.absolute),
            "relative": worst(&verdict.relative),
            "ulps": verdict.ulps,
            "not_finite": verdict.not_finite,
            "ours_not_finite": verdict.ours_not_finite,
            "scale": verdict.scale,
            "decades": verdict.histogram,
            "pattern": verdict.pattern,
            "profile": profile(verdict),
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
