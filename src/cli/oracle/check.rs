//! `resnet oracle check`.

use super::compare::{print, to_json};
use super::html::{HtmlArgs, Section};
use super::layer::LayerInput;
use super::model::ModelInput;
use super::{ComputedInArgs, ExpectedArgs, in_file, results};
use crate::cli::{Failure, Result, args};
use crate::formats;
use crate::oracle::diagnose::needed;
use crate::oracle::dump::{names_of, tolerance_of};
use crate::oracle::expected::Lines;
use crate::oracle::isolate::{Isolated, isolate};
use crate::oracle::layer::{self, Task, is_block, prepare};
use crate::oracle::{self, Arithmetic, ComputedIn, Expected, Report};
use crate::tensors::Tensors;
use clap::Subcommand;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

const CHECK_HELP: &str = "\
Exit code 0 if THEIRS is right, 1 if it is not.

A network is judged twice. Isolated: every module is computed again from the tensors that THEIRS has
for its input and for the gradient of its result, so that each wrong module is found by itself, with
the tolerances of a single layer. End to end: the whole pass from the input, which also sees wrong
connections.

Examples:
  resnet oracle check theirs.npz layer conv2d --set stride=2,padding=1 --in in.npz
  resnet oracle check theirs.npz --computed-in bf16 layer linear --in in.npz
  resnet oracle check dump.safetensors model --model resnet20 --weights resnet20.th --in batch.npz";

/// Compute a layer or network and judge another implementation's results
///
/// The same as `resnet oracle layer` or `model` followed by `compare`, without a file between them.
#[derive(Debug, clap::Args)]
#[command(after_help = CHECK_HELP, verbatim_doc_comment)]
pub struct Args {
    /// The results to check
    #[arg(value_name = "THEIRS")]
    theirs: PathBuf,

    #[command(flatten)]
    computed_in: ComputedInArgs,

    #[command(flatten)]
    expected: ExpectedArgs,

    /// Judge every module of a network by itself only
    #[arg(long, conflicts_with = "end_to_end")]
    isolate: bool,

    /// Judge the whole pass from its input only
    #[arg(long)]
    end_to_end: bool,

    /// Write the tolerance of every element to this file
    #[arg(long, value_name = "FILE")]
    tolerances: Option<PathBuf>,

    /// Show every tensor, including those that fit
    #[arg(long)]
    all: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    html: HtmlArgs,

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

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Layer(input) => {
                write!(f, "{}", input.kind)?;
                input.settings.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
            What::Model(input) => write!(f, "{}", input.name()),
        }
    }
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    let is_layer = matches!(&args.what, What::Layer(input) if !is_block(&input.kind));
    if args.isolate && is_layer {
        let message =
            "--isolate judges the modules of a network or block; a layer is judged by its own inputs without it";
        return Err(Failure::Usage(message.to_string()));
    }
    if let Some(path) = &args.tolerances {
        formats::Format::of_extension(path).map_err(|error| Failure::Usage(error.to_string()))?;
        args::check_output(path, args.html.force)?;
    }
    let expected = args.expected.read()?;
    args.html.check()?;
    let theirs = formats::read(&args.theirs)?;
    let stated = args.computed_in.stated();
    let mut of_whole_pass = stated.clone();
    let (isolated, ours) = match &args.what {
        What::Layer(LayerInput { kind, settings, input: path }) => {
            let input = formats::read(path)?;
            let isolated = if args.isolate {
                let task = prepare(kind, settings, &input).map_err(in_file(path))?;
                Some(of_modules(&task, &theirs, &stated).map_err(in_file(&args.theirs))?)
            } else {
                None
            };
            let arithmetics = needed(&theirs, &stated, is_layer);
            (isolated, Some(layer::run::<f64>(kind, settings, &input, &arithmetics).map_err(in_file(path))?))
        }
        What::Model(input) => {
            let mut task = input.task()?;
            let names = names_of(&task.program);
            args.computed_in.check(names.iter().map(String::as_str))?;
            let isolated = match args.end_to_end {
                true => None,
                false => Some(of_modules(&task, &theirs, &stated).map_err(in_file(&args.theirs))?),
            };
            of_whole_pass = oracle::compare::of_whole_pass(&stated, names.iter().map(String::as_str), &theirs);
            task.request.computed_in = needed(&theirs, &of_whole_pass, false);
            let ours = if args.isolate {
                None
            } else {
                let Task { program, input: images, request } = &task;
                Some(oracle::dump::<f64>(program, images, request).map_err(in_file(&input.input))?)
            };
            (isolated, ours)
        }
    };
    if let (What::Layer(_), Some(ours)) = (&args.what, &ours) {
        args.computed_in.check(results(ours))?;
    }
    let ours = ours.filter(|_| !args.isolate);
    let whole = match &ours {
        Some(ours) => Some(oracle::compare_as(ours, &theirs, None, &of_whole_pass).map_err(in_file(&args.theirs))?),
        None => None,
    };
    if let (Some(path), Some(ours)) = (&args.tolerances, &ours) {
        formats::write(path, &tolerances(ours))?;
    }
    let mut judged = Judged { isolated, whole, lines: Lines::default() };
    judged.excuse(&expected, &args.what);
    let mut text = Vec::new();
    judged.print(&mut text, args.all, &args.theirs)?;
    // The settings of a layer are others in the next call; a network is all that there is.
    let all = matches!(args.what, What::Model(_)).then_some("model");
    args.expected.print(&mut text, &expected, &judged.lines, all)?;
    if !judged.fits()
        && let Some(other) = in_another_arithmetic(&args.what, &theirs, &stated)?
    {
        let how = if other == Arithmetic::TF32 { "uses TF32" } else { "adds in 16 bits" };
        writeln!(
            text,
            "note: computed in {other} everything fits. If your program {how}, say so: --computed-in {other}"
        )?;
    }
    let what = args.what.to_string();
    let title = args.theirs.file_name().map_or(what.clone(), |file| format!("{what}: {}", file.to_string_lossy()));
    args.html.write("the reference", Path::new(&title), &judged.sections(), &text)?;
    if args.json {
        let value = json!({
            "passed": judged.passed(),
            "isolated": judged.isolated.as_ref().map(isolated_json),
            "end_to_end": judged.whole.as_ref().map(to_json),
            "expected": lines_json(&expected, &judged.lines),
            "text": String::from_utf8_lossy(&text),
        });
        writeln!(out, "{value:#}")?;
    } else {
        out.write_all(&text)?;
    }
    if judged.passed() { Ok(()) } else { Err(Failure::Verdict) }
}

/// Both verdicts; one of them may not have been wanted.
struct Judged {
    isolated: Option<Isolated>,
    whole: Option<Report>,
    /// What became of the lines of expected failures.
    lines: Lines,
}

impl Judged {
    /// Excuses what is expected to fail.
    fn excuse(&mut self, expected: &Expected, what: &What) {
        let owned = |(name, value): (&str, &str)| (name.to_string(), value.to_string());
        let (kind, properties) = match what {
            What::Layer(input) => (input.kind.as_str(), input.settings.iter().map(owned).collect()),
            What::Model(input) => ("model", vec![("model".to_string(), input.name().to_string())]),
        };
        for report in self.isolated.iter_mut().map(|isolated| &mut isolated.report).chain(&mut self.whole) {
            self.lines.extend(expected.excuse(kind, &properties, report));
        }
    }

    fn passed(&self) -> bool {
        self.fits() && self.lines.superfluous().next().is_none()
    }

    fn fits(&self) -> bool {
        // A dump without the inputs of its modules is judged end to end alone.
        let isolated = self.isolated.as_ref().filter(|isolated| isolated.report.tried() > 0 || self.whole.is_none());
        isolated.is_none_or(Isolated::passed) && self.whole.as_ref().is_none_or(Report::passed)
    }

    fn sections(&self) -> Vec<Section<'_>> {
        let isolated = self.isolated.as_ref().filter(|isolated| isolated.report.tried() > 0).map(|isolated| {
            let wrong = |(module, expected): &(String, String)| {
                format!("Wrong connection: the input of {module} is not {expected}")
            };
            let notes = isolated.connections.iter().map(wrong).collect();
            Section { title: "Every module with its own inputs", report: &isolated.report, notes }
        });
        let title = if isolated.is_some() { "End to end" } else { "" };
        let whole = self.whole.as_ref().map(|report| Section { title, report, notes: Vec::new() });
        isolated.into_iter().chain(whole).collect()
    }

    fn print(&self, out: &mut dyn Write, all: bool, theirs: &Path) -> std::io::Result<()> {
        if let Some(isolated) = &self.isolated {
            print_isolated(out, isolated, all, theirs)?;
        }
        if let Some(whole) = &self.whole {
            if self.isolated.is_some() {
                writeln!(out, "\nend to end:")?;
            }
            print(out, whole, all, "the reference", theirs)?;
        }
        if let (Some(isolated), Some(whole)) = (&self.isolated, &self.whole)
            && isolated.passed()
            && isolated.lacking.is_empty()
            && let Some(first) = whole.first()
        {
            writeln!(
                out,
                "every module is right for what it was given: so it was given something else, from `{}` on",
                first.name
            )?;
        }
        Ok(())
    }
}

/// The arithmetic in which the results of a layer fit, if it is another one than was stated or than they suggest: with sums in
/// 16 bits, or TF32, which nothing in a file of float32 shows.
fn in_another_arithmetic(what: &What, theirs: &Tensors, stated: &ComputedIn) -> Result<Option<Arithmetic>> {
    let What::Layer(LayerInput { kind, settings, input }) = what else { return Ok(None) };
    let &[arithmetic] = needed(theirs, stated, false).as_slice() else { return Ok(None) };
    let other = match arithmetic {
        Arithmetic::F32 => Arithmetic::TF32,
        _ => Arithmetic { sums: arithmetic.operands, ..arithmetic },
    };
    if other == arithmetic || (other != Arithmetic::TF32 && arithmetic.stored.unit_roundoff() < 1e-4) {
        return Ok(None);
    }
    let ours = layer::run::<f64>(kind, settings, &formats::read(input)?, &[other]).map_err(in_file(input))?;
    let report = oracle::compare_as(&ours, theirs, None, &ComputedIn::all(other)).map_err(in_file(input))?;
    Ok(report.passed().then_some(other))
}

fn of_modules(task: &Task, theirs: &Tensors, stated: &ComputedIn) -> crate::Result<Isolated> {
    isolate(&task.program, &task.input, &task.request, theirs, stated)
}

/// The tolerances of a dump alone, by the names of their tensors.
fn tolerances(ours: &Tensors) -> Tensors {
    let mut alone = Tensors::new();
    let arithmetics: Vec<&str> = ours.names().filter_map(tolerance_of).map(|(arithmetic, _)| arithmetic).collect();
    let several = arithmetics.iter().any(|arithmetic| *arithmetic != arithmetics[0]);
    for (name, tensor) in ours.iter() {
        if let Some((arithmetic, tolerated)) = tolerance_of(name) {
            let name = if several { format!("{arithmetic}.{tolerated}") } else { tolerated.to_string() };
            alone.insert(name, tensor.clone());
        }
    }
    alone
}

fn print_isolated(out: &mut dyn Write, isolated: &Isolated, all: bool, theirs: &Path) -> std::io::Result<()> {
    let Isolated { report, connections, lacking, .. } = isolated;
    if report.tried() == 0 && connections.is_empty() {
        return writeln!(
            out,
            "{} has neither the inputs nor the results of modules: they cannot be judged one by one",
            theirs.display()
        );
    }
    writeln!(out, "every module with its own inputs:")?;
    print(out, report, all, "the reference", theirs)?;
    let wrong = isolated.wrong();
    if !wrong.is_empty() {
        writeln!(out, "wrong modules: {}", wrong.join(", "))?;
    }
    for (module, expected) in connections {
        writeln!(out, "WRONG CONNECTION: the input of {module} is not `{expected}`")?;
    }
    const SHOWN: usize = 3;
    for (module, lacks) in lacking.iter().take(SHOWN) {
        writeln!(out, "not judged: {module}, for which the dump lacks {lacks}")?;
    }
    if lacking.len() > SHOWN {
        writeln!(out, "not judged: {} more modules", lacking.len() - SHOWN)?;
    }
    if !lacking.is_empty() {
        writeln!(out, "docs/oracle.md, \"Recording a network\", shows how to record what is missing")?;
    }
    Ok(())
}

/// The lines of expected failures of which something was judged, by whether it failed.
fn lines_json(expected: &Expected, lines: &Lines) -> serde_json::Value {
    let texts = |lines: &mut dyn Iterator<Item = usize>| lines.map(|line| expected.line(line)).collect::<Vec<_>>();
    json!({ "failed": texts(&mut lines.failed.iter().copied()), "passed": texts(&mut lines.superfluous()) })
}

fn isolated_json(isolated: &Isolated) -> serde_json::Value {
    json!({
        "passed": isolated.passed(),
        "wrong": isolated.wrong(),
        "modules": isolated.modules,
        "connections": isolated.connections.iter().map(|(module, expected)| json!({ "module": module, "expected": expected })).collect::<Vec<_>>(),
        "lacking": isolated.lacking.iter().map(|(module, lacks)| json!({ "module": module, "lacks": lacks })).collect::<Vec<_>>(),
        "report": to_json(&isolated.report),
    })
}
