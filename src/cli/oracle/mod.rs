//! `resnet oracle`.

use super::args::Float;
use super::{args, progress, text, Failure, Result};
use clap::{Subcommand, ValueEnum};
use resnet_by_hand::formats::{self, Format};
use resnet_by_hand::layers::{Mode, Reduction, SoftmaxCrossEntropy};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::SgdConfig;
use resnet_by_hand::oracle::compare::{Outcome, DECADES};
use resnet_by_hand::oracle::diagnose::diagnose_sgd;
use resnet_by_hand::oracle::diagnose::Suspicion;
use resnet_by_hand::oracle::layer::{prepare, Task};
use resnet_by_hand::oracle::mutants::Mutant;
use resnet_by_hand::oracle::pack::{folder, Level};
use resnet_by_hand::oracle::score::Scored;
use resnet_by_hand::oracle::{self, Diagnosis, Goal, Mistake, Report, Request, Settings, Tolerance, Verdict};
use resnet_by_hand::program::Program;
use resnet_by_hand::tensors::{Tensor, Tensors};
use resnet_by_hand::weights::state_dict;
use resnet_by_hand::Error;
use serde_json::{json, Value};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Compute what a layer or network should, and judge what somebody else's computed
///
/// Tensors go in and out as .safetensors, .npz or PyTorch files, in PyTorch's shapes and under its
/// names. `docs/oracle.md` shows the way from a Python session to a verdict and back.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Layer(LayerArgs),
    Model(Box<ModelArgs>),
    Compare(CompareArgs),
    Diagnose(DiagnoseArgs),
    Pack(PackArgs),
    Score(ScoreArgs),
}

/// Where the result goes, and in what type it is computed.
#[derive(Debug, clap::Args)]
struct OutArgs {
    /// File to write: .safetensors (keeps order and tolerances), .npz, .pth
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Number type to compute in
    #[arg(long, value_name = "TYPE", default_value = "f64")]
    dtype: Float,

    /// Leave out how far an implementation may be off, which takes up to ten passes more
    #[arg(long)]
    no_tolerances: bool,

    /// Replace the output if it is there
    #[arg(long)]
    force: bool,
}

const LAYER_HELP: &str = "\
Kinds and their settings:
  conv2d                 stride padding dilation groups        reads input weight [bias]
  batch_norm             mode eps momentum                     reads input weight bias running_mean running_var
  relu, leaky_relu       negative_slope (leaky_relu)           reads input
  max_pool               kernel_size stride padding dilation ceil_mode
  avg_pool               kernel_size stride padding ceil_mode count_include_pad divisor_override
  global_avg_pool
  linear                                                       reads input weight [bias]
  softmax_cross_entropy  reduction label_smoothing             reads input target
  basic_block, bottleneck, preact_basic_block, preact_bottleneck
                         stride stride_on groups shortcut mode eps momentum
                                                               reads input and the block's state dict
  sgd                    lr momentum dampening weight_decay nesterov
                                                               reads param grad [momentum_buffer]
With grad_output in the input there is a backward pass, too.

Examples:
  resnet oracle layer conv2d --set stride=2,padding=1 --in in.npz --out out.npz
  resnet oracle layer batch_norm --set mode=train,momentum=0.1 --in in.npz --out out.safetensors
  resnet oracle layer bottleneck --set stride=2 --in block.safetensors --out out.safetensors";

/// Compute one layer, block or optimiser step on given tensors
#[derive(Debug, clap::Args)]
#[command(after_help = LAYER_HELP)]
struct LayerArgs {
    #[command(flatten)]
    input: LayerInput,

    #[command(flatten)]
    out: OutArgs,
}

/// A layer and what it gets.
#[derive(Debug, clap::Args)]
struct LayerInput {
    /// What to compute
    #[arg(value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(oracle::layer::KINDS))]
    kind: String,

    /// Settings, named as in PyTorch: stride=2,padding=1x0
    #[arg(long = "set", value_name = "NAME=VALUE,...", default_value = "")]
    settings: Settings,

    /// File of tensors
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
}

const MODEL_HELP: &str = "\
The input file holds `input` (N, 3, H, W), normalised already, and `target` (N) for a loss and all
gradients, or `grad_output` (N, classes) in place of a loss, or neither for a forward pass.

Example:
  resnet oracle model --model resnet20 --weights resnet20.th --in batch.npz --mode train --out ours.safetensors
  resnet oracle compare ours.safetensors theirs.safetensors";

/// Compute a whole network: every activation, every gradient, statistics, SGD steps
#[derive(Debug, clap::Args)]
#[command(after_help = MODEL_HELP)]
struct ModelArgs {
    #[command(flatten)]
    input: ModelInput,

    #[command(flatten)]
    out: OutArgs,

    /// Leave out what is between the input and the logits
    #[arg(long)]
    no_activations: bool,
}

/// A network and what it gets.
#[derive(Debug, clap::Args)]
struct ModelInput {
    /// The network, see `resnet models`
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Architecture,

    /// Its weights: .safetensors, .pth, .pt, .th, .npz
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,

    /// File with `input` and `target`
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,

    /// Batch norm with the statistics of the batch, or the running ones
    #[arg(long, value_name = "MODE", default_value = "train")]
    mode: ModeArg,

    /// Add up the losses of the images instead of taking their mean
    #[arg(long)]
    sum: bool,

    /// SGD steps to take on the batch; the parameters after them are in the output
    #[arg(long, value_name = "K", default_value = "0", value_parser = args::count(0, 10_000), allow_negative_numbers = true, help_heading = "SGD")]
    steps: usize,

    /// Learning rate
    #[arg(long, value_name = "LR", default_value = "0.1", value_parser = args::positive, allow_negative_numbers = true, help_heading = "SGD")]
    lr: f64,

    /// Momentum
    #[arg(long, value_name = "M", default_value = "0.9", value_parser = args::not_negative, allow_negative_numbers = true, help_heading = "SGD")]
    momentum: f64,

    /// Weight decay
    #[arg(long, value_name = "WD", default_value = "1e-4", value_parser = args::not_negative, allow_negative_numbers = true, help_heading = "SGD")]
    weight_decay: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Train,
    Eval,
}

const COMPARE_HELP: &str = "\
Exit code 0 if everything in THEIRS fits, 1 if something does not.

Without --rtol and --atol the tolerances are those that `resnet oracle layer` and `resnet oracle
model` worked out beforehand and noted in OURS: what rounding in the number type of THEIRS does to
this very computation. Tensors that THEIRS does not hold are not tried.

If OURS is the folder of a pack (`resnet oracle pack`), THEIRS is a folder of results, one file a
case: conv2d-3x3.npz, sgd-decay.safetensors.";

/// Compare two files of tensors; say where they part first
#[derive(Debug, clap::Args)]
#[command(after_help = COMPARE_HELP, verbatim_doc_comment)]
struct CompareArgs {
    /// The reference
    #[arg(value_name = "OURS")]
    ours: PathBuf,

    /// What is on trial
    #[arg(value_name = "THEIRS")]
    theirs: PathBuf,

    /// Relative tolerance; sets --atol to 0 unless that is given
    #[arg(long, value_name = "R", value_parser = args::not_negative, allow_negative_numbers = true)]
    rtol: Option<f64>,

    /// Absolute tolerance; sets --rtol to 0 unless that is given
    #[arg(long, value_name = "A", value_parser = args::not_negative, allow_negative_numbers = true)]
    atol: Option<f64>,

    /// Show every tensor, those that fit included
    #[arg(long)]
    all: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

const DIAGNOSE_HELP: &str = "\
Exit code 0 if THEIRS is right, 1 if it is not, whether or not a mistake explains it.

Examples:
  resnet oracle diagnose theirs.npz layer conv2d --set stride=2,padding=1 --in in.npz
  resnet oracle diagnose theirs.safetensors model --model resnet20 --weights resnet20.th --in batch.npz";

/// Name the classic misunderstanding that explains somebody's numbers
///
/// Computes the layer or network as it should be. If THEIRS does not fit, makes one classic mistake
/// after the other on purpose, and says with which of them it does.
#[derive(Debug, clap::Args)]
#[command(after_help = DIAGNOSE_HELP, verbatim_doc_comment)]
struct DiagnoseArgs {
    /// What is on trial
    #[arg(value_name = "THEIRS")]
    theirs: PathBuf,

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

/// Write the backward conformance pack: inputs and expected results of every layer, as files
///
/// For whoever cannot run this program beside their kernel: npz and safetensors files, an index in
/// JSON with the settings, the tolerances and the SHA-256 of everything, and a README.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
struct PackArgs {
    /// Folder to write to, new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Show that the pack notices mistakes: compute every operation wrongly, and count
///
/// Exit code 0 if the pack notices every mutant, 1 if one gets past it.
#[derive(Debug, clap::Args)]
struct ScoreArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Show every mutant
    #[arg(long)]
    all: bool,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Layer(args) => layer(args),
        Command::Model(args) => model(args),
        Command::Compare(args) => compare(args),
        Command::Diagnose(args) => diagnose(args),
        Command::Pack(args) => pack(args),
        Command::Score(args) => score(args),
    }
}

fn layer(args: &LayerArgs) -> Result<()> {
    check_output(&args.out)?;
    let LayerInput { kind, settings, input: path } = &args.input;
    let input = formats::read(path)?;
    let run = match args.out.dtype {
        Float::F32 => oracle::layer::run::<f32>,
        Float::F64 => oracle::layer::run::<f64>,
    };
    let result = run(kind, settings, &input, !args.out.no_tolerances).map_err(in_file(path))?;
    write(&args.out, &result)
}

/// An error of a computation on the tensors of a file.
fn in_file(path: &Path) -> impl Fn(Error) -> Failure + '_ {
    move |error| Failure::Failed(format!("{}: {error}", path.display()))
}

impl ModelInput {
    /// Reads the files.
    fn task(&self) -> Result<Task> {
        let weights = formats::read(&self.weights)?;
        let architecture = match state_dict::classes(&weights) {
            Some(classes) => self.model.clone().with_classes(classes),
            None => self.model.clone(),
        };
        let mut model = ResNet::<f64>::zeroed(&architecture)?;
        state_dict::assign(&self.weights, &weights, &mut model)?;
        let file = formats::read(&self.input)?;
        let wrong = |message: String| Error::format(&self.input, None, message);
        let Some(input) = file.get("input") else {
            return Err(wrong(format!("expected a tensor `input` (N, 3, H, W), found {}", names(&file))).into());
        };
        let goal = match (file.get("target"), file.get("grad_output")) {
            (Some(target), _) => {
                let found = target.dtype();
                let wrong = || wrong(format!("`target` expects class numbers from 0 on (int64), got {found}"));
                let reduction = if self.sum { Reduction::Sum } else { Reduction::Mean };
                let loss = SoftmaxCrossEntropy { reduction, ..SoftmaxCrossEntropy::new() };
                Goal::CrossEntropy { target: target.to_indices().ok_or_else(wrong)?, loss }
            }
            (None, Some(gradient)) => Goal::GradOutput(gradient.clone()),
            (None, None) => Goal::Forward,
        };
        let mode = if matches!(self.mode, ModeArg::Train) { Mode::Train } else { Mode::Eval };
        let request = Request {
            steps: self.steps,
            sgd: SgdConfig { momentum: self.momentum, weight_decay: self.weight_decay, ..SgdConfig::default() },
            lr: self.lr,
            ..Request::new(mode, goal)
        };
        Ok(Task { program: Program::of_network(&model), input: input.clone(), request })
    }
}

fn model(args: &ModelArgs) -> Result<()> {
    check_output(&args.out)?;
    let mut task = args.input.task()?;
    task.request.activations = !args.no_activations;
    task.request.tolerances = !args.out.no_tolerances;
    let Task { program, input, request } = &task;
    let result = match args.out.dtype {
        Float::F32 => oracle::dump::<f32>(program, input, request),
        Float::F64 => oracle::dump::<f64>(program, input, request),
    };
    let mut result = result.map_err(in_file(&args.input.input))?;
    result.metadata.insert("model".into(), args.input.model.name.clone());
    result.metadata.insert("mode".into(), format!("{:?}", args.input.mode).to_lowercase());
    write(&args.out, &result)
}

fn names(tensors: &Tensors) -> String {
    match tensors.is_empty() {
        true => "nothing".to_string(),
        false => tensors.names().collect::<Vec<_>>().join(", "),
    }
}

/// Refuses an output that cannot be, before anything is computed.
fn check_output(args: &OutArgs) -> Result<()> {
    Format::of_extension(&args.out).map_err(|error| Failure::Usage(error.to_string()))?;
    args::check_output(&args.out, args.force)
}

fn write(args: &OutArgs, result: &Tensors) -> Result<()> {
    formats::write(&args.out, result)?;
    let numbers: usize = result.iter().map(|(_, tensor)| tensor.len()).sum();
    let (tensors, numbers) = (text::thousands(result.len() as u64), text::thousands(numbers as u64));
    let mut out = std::io::stdout().lock();
    if let Some(loss) = result.get("loss") {
        writeln!(out, "loss   {:?}", loss.to_f64().sum())?;
    }
    writeln!(out, "wrote  {}: {tensors} tensors, {numbers} numbers", args.out.display())?;
    let not_finite = |tensor: &Tensor| tensor.to_f64().iter().any(|x| !x.is_finite());
    let broken: Vec<&str> = result.iter().filter(|(_, tensor)| not_finite(tensor)).map(|(name, _)| name).collect();
    if let Some(first) = broken.first() {
        let count = text::thousands(broken.len() as u64);
        writeln!(out, "note   {count} tensors hold NaN or infinities, first `{first}`: there only the same will fit")?;
    }
    if !args.no_tolerances && !Format::of_extension(&args.out)?.has_metadata() {
        writeln!(
            out,
            "note   only .safetensors has room for the tolerances; `compare` will use those usual for the type"
        )?;
    }
    Ok(())
}

fn pack(args: &PackArgs) -> Result<()> {
    let mut counts = [0; 3];
    let written = folder::write(&args.out, |case| {
        counts[match case.level() {
            Level::Layer => 0,
            Level::Block => 1,
            Level::Network => 2,
        }] += 1;
    })?;
    let mut out = std::io::stdout().lock();
    let [layers, blocks, networks] = counts;
    writeln!(out, "{} cases: {layers} of layers and SGD, {blocks} of blocks, {networks} of networks", written.cases)?;
    let megabytes = written.bytes as f64 / 1e6;
    writeln!(out, "wrote  {}: {} files, {megabytes:.0} MB; begin with README.md", args.out.display(), written.files)?;
    Ok(())
}

fn score(args: &ScoreArgs) -> Result<()> {
    let start = std::time::Instant::now();
    let cases = oracle::pack::cases();
    let bar = progress::counter("cases", cases.len());
    let all = oracle::score::score(&cases, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let survivors = all.iter().filter(|scored| !scored.is_caught()).count();
    let mut out = std::io::stdout().lock();
    if args.json {
        let mutant = |scored: &Scored| {
            json!({
                "operation": scored.mutant.operation,
                "part": scored.mutant.part,
                "what": scored.mutant.what,
                "cases": scored.cases,
                "layers": scored.caught[0],
                "blocks": scored.caught[1],
                "networks": scored.caught[2],
                "float32": scored.caught_in_float32,
                "forward": scored.caught_forward,
            })
        };
        let value = json!({
            "mutants": all.len(),
            "caught": all.len() - survivors,
            "all": all.iter().map(mutant).collect::<Vec<_>>(),
        });
        writeln!(out, "{value:#}")?;
    } else {
        print_score(&mut out, &all, args.all)?;
        let share = 100.0 * (all.len() - survivors) as f64 / all.len() as f64;
        let seconds = start.elapsed().as_secs();
        writeln!(
            out,
            "\nthe pack catches {} of {} mutants ({share:.1} %), in {seconds} s",
            all.len() - survivors,
            all.len()
        )?;
    }
    if survivors == 0 {
        Ok(())
    } else {
        Err(Failure::Verdict)
    }
}

/// A line for each operation, and one for each mutant that gets past the pack.
fn print_score(out: &mut impl Write, all: &[Scored], every: bool) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<22} {:>7} {:>7} {:>8}   caught by {:>6} {:>6} {:>8} {:>14}",
        "operation", "mutants", "caught", "float32", "layers", "blocks", "networks", "results alone"
    )?;
    let total = |name: &str, own: &dyn Fn(&&Scored) -> bool, out: &mut dyn Write| {
        let own: Vec<&Scored> = all.iter().filter(own).collect();
        let count = |is: &dyn Fn(&Scored) -> bool| own.iter().filter(|scored| is(scored)).count();
        let level = |level: usize| count(&|scored| scored.caught[level]);
        writeln!(
            out,
            "{name:<22} {:>7} {:>7} {:>8}             {:>6} {:>6} {:>8} {:>14}",
            own.len(),
            count(&|scored| scored.caught.contains(&true)),
            count(&|scored| scored.caught_in_float32),
            level(0),
            level(1),
            level(2),
            count(&|scored| scored.caught_forward)
        )
    };
    for operation in oracle::mutants::OPERATIONS {
        total(operation, &|scored| scored.mutant.operation == operation, out)?;
    }
    total("all", &|_| true, out)?;
    for scored in all.iter().filter(|scored| every || !scored.is_caught()) {
        let Mutant { operation, part, what, .. } = scored.mutant;
        let part = if part == "all" { String::new() } else { format!(" {part}") };
        let verdict = match (scored.caught.contains(&true), scored.caught_in_float32, scored.cases) {
            (true, true, _) => "caught",
            (true, false, _) => "GETS PAST in float32",
            (false, _, 0) => "CANNOT BE MADE in any case",
            (false, ..) => "GETS PAST",
        };
        writeln!(out, "{verdict}: {operation}{part} {what}")?;
    }
    Ok(())
}

/// A folder of results against the folder of a pack.
fn compare_folders(args: &CompareArgs) -> Result<()> {
    if args.rtol.is_some() || args.atol.is_some() {
        let message = "the tolerances of a pack are in it: --rtol and --atol are for two files";
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
                    writeln!(out, "WRONG  {name}: there is no tensor `{unknown}`{hint}")?;
                }
                (false, None, None) => writeln!(out, "WRONG  {name}: nothing could be compared")?,
            }
        }
        let missing = judged.len() - found.len();
        let missing = if missing > 0 { format!("; {missing} cases of the pack have no result") } else { String::new() };
        writeln!(out, "{}: {passed} of {} cases fit{missing}", args.theirs.display(), found.len())?;
    }
    if passed == found.len() && passed > 0 {
        Ok(())
    } else {
        Err(Failure::Verdict)
    }
}

fn compare(args: &CompareArgs) -> Result<()> {
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
    if report.passed() {
        Ok(())
    } else {
        Err(Failure::Verdict)
    }
}

fn diagnose(args: &DiagnoseArgs) -> Result<()> {
    let theirs = formats::read(&args.theirs)?;
    let diagnosis = match &args.what {
        What::Layer(LayerInput { kind, settings, input: path }) => {
            let input = formats::read(path)?;
            let diagnosis = match kind.as_str() {
                "sgd" => diagnose_sgd(settings, &input, &theirs),
                _ => prepare(kind, settings, &input).and_then(|task| oracle::diagnose(&task, &theirs)),
            };
            diagnosis.map_err(in_file(path))?
        }
        What::Model(input) => oracle::diagnose(&input.task()?, &theirs).map_err(in_file(&input.input))?,
    };
    let mut out = std::io::stdout().lock();
    let explains: Vec<Mistake> = diagnosis.explains().collect();
    if args.json {
        let named = |mistake: Mistake| json!({ "name": mistake.name(), "explanation": mistake.explanation() });
        let value = json!({
            "right": diagnosis.right.passed(),
            "first": diagnosis.right.first().map(|verdict| &verdict.name),
            "explains": explains.iter().copied().map(named).collect::<Vec<_>>(),
            "tried": diagnosis.tried.iter().map(|suspicion| suspicion.mistake.name()).collect::<Vec<_>>(),
        });
        writeln!(out, "{value:#}")?;
    } else {
        print_diagnosis(&mut out, &diagnosis, &explains, &args.theirs)?;
    }
    if diagnosis.right.passed() {
        Ok(())
    } else {
        Err(Failure::Verdict)
    }
}

fn print_diagnosis(
    out: &mut impl Write,
    diagnosis: &Diagnosis,
    explains: &[Mistake],
    theirs: &Path,
) -> std::io::Result<()> {
    let (right, theirs) = (&diagnosis.right, theirs.display());
    if right.passed() {
        return writeln!(out, "{theirs} is right: every one of the {} tensors fits", right.tried());
    }
    for (name, near) in &right.unknown {
        let hint = near.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        writeln!(out, "{name} is unknown{hint}")?;
    }
    if let Some(first) = right.first() {
        writeln!(out, "{theirs} is not right: `{}` is the first that does not fit", first.name)?;
    }
    match explains {
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
            writeln!(out, "each of these explains everything in it; with these tensors they cannot be told apart:")?;
            for mistake in several {
                writeln!(out, "- {}\n  {}", mistake.name(), mistake.explanation())?;
            }
        }
    }
    Ok(())
}

fn print(out: &mut impl Write, report: &Report, args: &CompareArgs) -> std::io::Result<()> {
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
        writeln!(out, "\nfirst in the order of execution: {}", first.name)?;
        let [ours, theirs] = first.dtypes;
        match &first.outcome {
            Outcome::Shape(found) => writeln!(out, "  shape {:?} here, {found:?} there", first.shape)?,
            _ => {
                let [a, b] = first.absolute.values;
                writeln!(
                    out,
                    "  {ours} {a:e} here, {theirs} {b:e} there, at {:?} of {:?}",
                    first.absolute.at, first.shape
                )?;
                writeln!(out, "  tolerance {:.2e}: {}", first.tolerance, first.source)?;
                if !first.tolerance.is_finite() {
                    writeln!(
                        out,
                        "  that is no bound: rounding can make an element NaN or infinite here, so only equal ones fit"
                    )?;
                }
                if first.ours_not_finite > 0 {
                    let count = text::thousands(first.ours_not_finite as u64);
                    writeln!(out, "  {count} elements here are NaN or infinite: there only the same fits")?;
                }
                if first.not_finite > 0 {
                    writeln!(out, "  {} elements there are NaN or infinite", text::thousands(first.not_finite as u64))?;
                }
                writeln!(out, "  errors by size, relative to the largest value: {}", histogram(&first.histogram))?;
            }
        }
        let before = report.tensors.iter().take_while(|verdict| verdict.passed()).filter(|verdict| verdict.tried());
        if let Some(last) = before.last() {
            writeln!(out, "  the last before it that fits: {}", last.name)?;
        }
    }
    let (tried, all) = (report.tried(), report.tensors.len());
    let wrong = report.tensors.iter().filter(|verdict| !verdict.passed()).count();
    let not_tried = if tried < all { format!("; {} of {} are not in it", all - tried, all) } else { String::new() };
    let verdict = match (report.passed(), tried) {
        (true, _) => format!("every one of the {tried} tensors fits"),
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
            format!("{} of {} LEAVE", text::thousands(*count as u64), text::thousands(all as u64))
        }
        Outcome::Shape(found) => format!("SHAPE {found:?}, expected {:?}", verdict.shape),
        Outcome::NotGiven => "not given".to_string(),
    }
}

/// `1e-8: 120, 1e-7: 8`
fn histogram(counts: &[usize; DECADES]) -> String {
    let bins = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    let bins: Vec<String> = bins.map(|(i, count)| format!("1e{}: {count}", i as i32 - 18)).collect();
    if bins.is_empty() {
        "none".to_string()
    } else {
        bins.join(", ")
    }
}

fn to_json(report: &Report) -> Value {
    let worst = |worst: &oracle::compare::Worst| json!({ "error": worst.error, "at": worst.at, "ours": worst.values[0], "theirs": worst.values[1] });
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
