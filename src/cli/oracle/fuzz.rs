//! `resnet oracle fuzz`.

use super::compare::{print, to_json};
use super::{ComputedInArgs, ExpectedArgs};
use crate::cli::{Failure, Result, args, interrupt, progress, text};
use crate::formats;
use crate::oracle::fuzz::{self, Answer, Case, Finding, Fuzzed, Range, USUAL, Value, Values};
use crate::oracle::{Settings, layer};
use crate::tensors::Tensors;
use crate::{Error, Result as LibraryResult};
use serde_json::json;
use std::io::{BufRead as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

const FUZZ_HELP: &str = "\
COMMAND is run by the shell, once for each case. In it stand
  {in}         the file with the inputs of the case, float64 for --computed-in f64 and float32 otherwise
  {out}        the file to which it writes its results, named as `resnet oracle layer` names them
  {settings}   the settings of the layer: stride=2x1,padding=0x0,...
  {kind}       the kind of the layer
Exit code 0: the results are written. 77: the case is not supported. Any other is a failure.

Sizes: n, c or c_in and c_out, h, w, kernel (conv2d), features_in, features_out, classes, rows, columns,
width (bottleneck); bias, affine, weight, ignored, momentum_buffer: true or false. Settings are those of
`resnet oracle layer`. If most cases are not supported, fix what your program lacks: --set dilation=1.

A case is its text, such as seed=7,values=small,n=1,c_in=2,...: --case computes it again. --set fixes
a setting or a size: --set stride=1,n=1.

Exit code 0 if all results are right, 1 if not.

Examples:
  resnet oracle fuzz conv2d --run './kernel {in} {out} {settings}'
  resnet oracle fuzz max_pool --set dilation=1 --values small,non-finite --run './pool {in} {out}'";

/// The exit code by which test programs say that they skip a test.
const SKIPPED: i32 = 77;

/// Try an implementation on random geometries and values; shrink what fails
///
/// Every seed is a case: a geometry, settings and values that show mistakes. The first case with a wrong
/// result is made smaller as long as it is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = FUZZ_HELP, verbatim_doc_comment)]
#[command(group(clap::ArgGroup::new("implementation").required(true).args(["run", "ask"])))]
pub struct Args {
    /// The kind of layer
    #[arg(value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(layer::KINDS))]
    kind: String,

    /// The implementation: a command line with {in} and {out}
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,

    /// Ask for the results on stdout and wait for them on stdin, in lines of JSON (for test frameworks;
    /// the Python package `resnet-oracle` does it)
    #[arg(long)]
    ask: bool,

    /// Number of cases
    #[arg(long, value_name = "N", default_value = "200", value_parser = args::count(1, usize::MAX))]
    seeds: usize,

    /// The first seed
    #[arg(long, value_name = "SEED", default_value = "0", value_parser = args::seed)]
    first: u64,

    /// Try this case only
    #[arg(long, value_name = "CASE", conflicts_with_all = ["seeds", "first"])]
    case: Option<String>,

    /// Settings and sizes that are fixed: stride=2,groups=1,n=1
    #[arg(long = "set", value_name = "NAME=VALUE,...", default_value = "")]
    fixed: Settings,

    /// Sorts of values: small, normal, wide, tiny, large-mean, cancelling, constant, zeros; and, if named
    /// here, denormal and non-finite [default: the first eight]
    #[arg(long, value_name = "SORT,...", value_delimiter = ',')]
    values: Vec<Values>,

    #[command(flatten)]
    computed_in: ComputedInArgs,

    #[command(flatten)]
    expected: ExpectedArgs,

    /// Format of the files
    #[arg(long, value_name = "FORMAT", default_value = "safetensors", value_parser = ["safetensors", "npz"])]
    format: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    if let Some(command) = &args.run
        && !(command.contains("{in}") && command.contains("{out}"))
    {
        return Err(Failure::Usage("--run: the command line must contain {in} and {out}".to_string()));
    }
    let usage = |error: Error| Failure::Usage(error.to_string());
    let expected = args.expected.read()?;
    let stated = args.computed_in.stated();
    let values = if args.values.is_empty() { USUAL.to_vec() } else { args.values.clone() };
    let range = Range::new(&args.kind, &args.fixed, &values).map_err(usage)?;
    let one = args.case.as_ref().map(|text| range.case(text)).transpose().map_err(usage)?;
    let cases: Box<dyn Iterator<Item = LibraryResult<Case>>> = match one {
        Some(case) => Box::new(std::iter::once(case.inputs().map(|_| case))),
        None => Box::new((0..args.seeds as u64).map(|seed| Case::draw(&range, args.first.wrapping_add(seed)))),
    };
    let folder = Folder::new(&args.format)?;
    let bar = progress::counter("cases", if args.case.is_some() { 1 } else { args.seeds });
    let mut done = 0;
    let mut progress = || {
        done += 1;
        bar.set_position(done);
    };
    let mut implementation = |case: &Case, inputs: &Tensors| {
        formats::write(&folder.input, inputs)?;
        let _ = std::fs::remove_file(&folder.output);
        let refused = match &args.run {
            Some(command) => run_command(command, case, &folder)?,
            None => ask(case, &folder, &mut *out)?,
        };
        Ok(match refused {
            Some(answer) => answer,
            None => match formats::read(&folder.output) {
                Ok(results) => Answer::Results(results),
                Err(error) => Answer::Failed(error.to_string()),
            },
        })
    };
    let found = fuzz::fuzz(cases, &stated, &expected, &mut implementation, &mut progress)?;
    bar.finish_and_clear();
    if !found.results.is_empty() {
        args.computed_in.check(found.results.iter().map(String::as_str))?;
    }
    let mut text = Vec::new();
    describe(&mut text, args, &found)?;
    args.expected.print(&mut text, &expected, &found.lines, args.case.is_none().then_some(&args.kind))?;
    if args.json || args.ask {
        let report = in_json(&found, &String::from_utf8_lossy(&text));
        match args.ask {
            true => writeln!(out, "{}", json!({ "report": report }))?,
            false => writeln!(out, "{report:#}")?,
        }
    } else {
        out.write_all(&text)?;
    }
    if found.passed() { Ok(()) } else { Err(Failure::Verdict) }
}

/// The folder of this run, for Ctrl-C.
static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

fn remove_folder() {
    if let Some(path) = FOLDER.lock().ok().and_then(|mut folder| folder.take()) {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// The files of a case, in a folder that is removed at the end.
struct Folder {
    input: PathBuf,
    output: PathBuf,
}

impl Folder {
    fn new(format: &str) -> Result<Folder> {
        let path = std::env::temp_dir().join(format!("resnet-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::io(&path, "create", error))?;
        if let Ok(mut folder) = FOLDER.lock() {
            *folder = Some(path.clone());
        }
        interrupt::end_with("stopped", remove_folder)?;
        let [input, output] = ["in", "out"].map(|name| path.join(format!("{name}.{format}")));
        Ok(Folder { input, output })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove_folder();
    }
}

/// Runs the command for a case. `None`: it says that it has written its results.
fn run_command(command: &str, case: &Case, folder: &Folder) -> LibraryResult<Option<Answer>> {
    let path = |path: &Path| path.display().to_string();
    let line = command
        .replace("{in}", &path(&folder.input))
        .replace("{out}", &path(&folder.output))
        .replace("{settings}", &settings(case))
        .replace("{kind}", case.kind);
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut command = Command::new(shell);
    command.args([flag, &line]).stdin(Stdio::null());
    let output = command.output().map_err(|error| Error::argument("fuzz", format!("cannot run `{line}`: {error}")))?;
    Ok(match output.status.code() {
        Some(0) if folder.output.exists() => None,
        Some(0) => Some(Answer::Failed("it ended with exit code 0, but wrote no results".to_string())),
        Some(SKIPPED) => Some(Answer::Unsupported(format!("exit code {SKIPPED}"))),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(Answer::Failed(format!("{}: {}", output.status, last_lines(&said))))
        }
    })
}

fn last_lines(text: &str) -> String {
    const SHOWN: usize = 10;
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

fn settings(case: &Case) -> String {
    let all: Vec<String> = case.typed_settings().map(|(name, value)| format!("{name}={value}")).collect();
    all.join(",")
}

/// Asks for the results of a case. `None`: they are written.
fn ask(case: &Case, folder: &Folder, out: &mut dyn Write) -> LibraryResult<Option<Answer>> {
    let typed = |value: Value| match value {
        Value::Count(count) => json!(count),
        Value::Pair(pair) => json!(pair),
        Value::Flag(flag) => json!(flag),
        Value::Word(word) => word.parse::<f64>().map_or(json!(word), |number| json!(number)),
    };
    let settings: serde_json::Map<String, serde_json::Value> =
        case.typed_settings().map(|(name, value)| (name.to_string(), typed(value))).collect();
    let question = json!({
        "case": case.to_string(),
        "kind": case.kind,
        "settings": settings,
        "in": folder.input,
        "out": folder.output,
    });
    let lost = |what: String| Error::argument("fuzz", what);
    writeln!(out, "{}", json!({ "run": question }))
        .and_then(|()| out.flush())
        .map_err(|error| lost(format!("cannot write to stdout: {error}")))?;
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.map_err(|error| lost(format!("cannot read stdin: {error}")))? == 0 {
        return Err(lost(format!("stdin was closed before the answer to {case}")));
    }
    let answer: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    let said = |name: &str| answer.get(name).and_then(|said| said.as_str()).map(str::to_string);
    match (said("error"), said("skip"), answer.is_object()) {
        (Some(error), ..) => Ok(Some(Answer::Failed(error))),
        (None, Some(reason), _) => Ok(Some(Answer::Unsupported(reason))),
        (None, None, true) => Ok(None),
        _ => {
            Err(lost(format!("expected {{}}, {{\"error\": …}} or {{\"skip\": …}} on one line, got `{}`", line.trim())))
        }
    }
}

/// The result in words.
fn describe(out: &mut dyn Write, args: &Args, found: &Fuzzed) -> std::io::Result<()> {
    let Fuzzed { right, unsupported, expected, wrong, first, share, missing, .. } = found;
    let mut counts = Vec::new();
    for (count, what) in
        [(*right, "right"), (wrong.len(), "wrong"), (*expected, "expected failures"), (*unsupported, "not supported")]
    {
        if count > 0 {
            counts.push(format!("{count} {what}"));
        }
    }
    let cases = right + unsupported + expected + wrong.len();
    writeln!(out, "{}, {}: {}", args.kind, text::count(cases, "case"), counts.join(", "))?;
    if *right > 0 {
        writeln!(out, "the largest share of a tolerance that a right result uses: {:.0} %", 100.0 * share)?;
    }
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
        writeln!(out, "never returned, so not judged: {}", missing.join(", "))?;
    }
    if right + expected + wrong.len() == 0 {
        writeln!(out, "no case was tried")?;
    }
    let Some(failure) = first else { return Ok(()) };
    writeln!(out, "\nwrong: {}", failure.case)?;
    if failure.smallest != failure.case {
        writeln!(out, "the smallest case found that is wrong: {}", failure.smallest)?;
    }
    match &failure.found {
        Finding::Judged(report) => print(out, report, false, "the reference", Path::new("in this case"))?,
        Finding::Failed(message) | Finding::Unsupported(message) => writeln!(out, "it failed: {message}")?,
    }
    if let Some(command) = &args.run {
        let mut options = String::new();
        for (pattern, arithmetic) in &args.computed_in.computed_in {
            let pattern = pattern.as_ref().map_or(String::new(), |pattern| format!("{pattern}:"));
            options += &format!(" --computed-in '{pattern}{arithmetic}'");
        }
        if args.format != "safetensors" {
            options += &format!(" --format {}", args.format);
        }
        let (kind, case) = (&args.kind, &failure.smallest);
        writeln!(out, "again: resnet oracle fuzz {kind} --case {case}{options} --run {}", text::shell(command))?;
    }
    Ok(())
}

fn in_json(found: &Fuzzed, text: &str) -> serde_json::Value {
    let failure = found.first.as_ref().map(|failure| {
        json!({
            "case": failure.case.to_string(),
            "shrunk": failure.smallest.to_string(),
            "report": if let Finding::Judged(report) = &failure.found { Some(to_json(report)) } else { None },
            "error": if let Finding::Failed(message) = &failure.found { Some(message) } else { None },
        })
    });
    json!({
        "passed": found.passed(),
        "right": found.right,
        "skipped": found.unsupported,
        "expected": found.expected,
        "wrong": found.wrong.iter().map(Case::to_string).collect::<Vec<_>>(),
        "share": found.share,
        "missing": found.missing,
        "first": failure,
        "text": text,
    })
}
