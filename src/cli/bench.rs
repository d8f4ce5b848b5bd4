//! `resnet bench`.

mod convolutions;
mod peak;
mod phases;

use super::args::{self, EngineKind};
use super::processes::{self, DEFAULT_SHARDS};
use super::{Failure, Result, memory, text};
use crate::data::loader::LoaderOptions;
use crate::data::{Loader, Normalization, embedded};
use crate::engine::kernels::simd::isa;
use crate::engine::{Algorithm, Engine};
use crate::layers::SoftmaxCrossEntropy;
use crate::model::{Architecture, Cost, ResNet};
use crate::optim::{Sgd, SgdConfig};
use crate::processes::{Communicator, Traffic, any};
use crate::rng::{Purpose, stream};
use crate::shards::Shards;
use crate::train::{Executor, recipe};
use crate::{Activation, Error};
use convolutions::Group;
use ndarray::Array4;
use phases::{Phases, Stopwatch};
use rand::RngExt as _;
use serde_json::json;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

/// Steps that are not measured: the first ones allocate their memory.
const WARM_UP: usize = 2;
/// The minimum for a median, however short --seconds is.
const LEAST_STEPS: usize = 3;

const AFTER_HELP: &str = "\
Examples:
  resnet bench                                               training steps of ResNet-20
  resnet bench --model resnet50 --batch-size 8 --mode eval   inference at 224x224
  resnet bench --model resnet18-cifar --layers --threads 1   also every convolution by itself
  resnet bench --conv gemm --json                            another algorithm, output for scripts
  resnet bench --engine both                                 the engine compared with the reference";

/// Measure how fast a network is on this machine
///
/// Measures steps on one batch of noise, after two warm-up steps. A training step consists of the
/// forward pass in training mode, the loss and its gradient, the backward pass, and the update of the
/// weights (SGD) and of the running statistics. An evaluation step is a prediction. In training another
/// thread loads the images, so loading is measured separately.
///
/// Operations are counted as those of direct convolution: two per multiply-add, three passes in
/// training. An algorithm that needs fewer operations therefore shows more GFLOP/s. The peak is the
/// speed of chains of multiply-adds in registers on the same threads.
///
/// Run it on an otherwise idle machine.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// The network, see `resnet models`
    #[arg(long, value_name = "NAME", default_value = "resnet20", value_parser = args::model)]
    model: Architecture,

    /// Images per step
    #[arg(long, value_name = "N", default_value = "128", value_parser = args::count(1, args::MOST), allow_negative_numbers = true)]
    batch_size: usize,

    /// Split the batch into S shards, a power of two [default: 1, on several processes 8]
    ///
    /// Several processes (mpirun) share the training steps of one batch.
    #[arg(long, value_name = "S", value_parser = args::shards, allow_negative_numbers = true)]
    shards: Option<usize>,

    /// Batch norm over groups of N images of a shard ("ghost" batch norm); 0: over the whole batch
    #[arg(long, value_name = "N", default_value = "0", value_parser = args::count(0, args::MOST), allow_negative_numbers = true)]
    norm_group: usize,

    /// Size of the images [default: the size that the model was designed for]
    #[arg(long, value_name = "HxW", value_parser = args::image_size)]
    image: Option<[usize; 2]>,

    /// Number of classes [default: the number that the model was designed for]
    #[arg(long, value_name = "N", value_parser = args::count(1, 100_000), allow_negative_numbers = true)]
    classes: Option<usize>,

    /// Kind of step
    #[arg(long, value_name = "MODE", default_value = "train")]
    mode: Mode,

    /// Measure for about this long, at least three steps
    #[arg(long, value_name = "S", default_value = "5", value_parser = args::positive, allow_negative_numbers = true)]
    seconds: f64,

    /// Measure exactly this many steps instead
    #[arg(long, value_name = "N", value_parser = args::count(1, 1_000_000), allow_negative_numbers = true, conflicts_with = "seconds")]
    steps: Option<usize>,

    /// Also measure each kind of convolution by itself
    #[arg(long)]
    layers: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Implementation to measure
    #[arg(long, value_name = "NAME", default_value = "fast", help_heading = "Computation")]
    engine: Measure,

    /// Algorithm of the engine's convolutions [default: auto]
    #[arg(long, value_name = "NAME", value_parser = args::algorithm(), help_heading = "Computation")]
    conv: Option<Algorithm>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Measure {
    /// The engine
    Fast,
    /// The reference
    Reference,
    /// Both, and their ratio
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Mode {
    /// A training step
    Train,
    /// A prediction in evaluation mode
    Eval,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Train => "train",
            Mode::Eval => "eval",
        }
    }

    /// Passes through the network: forward, and in training the gradients of the inputs and of the weights.
    fn passes(self) -> f64 {
        match self {
            Mode::Train => 3.0,
            Mode::Eval => 1.0,
        }
    }
}

/// All measurements except those of single convolutions.
struct Measured<'a> {
    args: &'a Args,
    cost: Cost,
    image: [usize; 2],
    classes: usize,
    /// Seconds of every step, shortest first.
    times: Vec<f64>,
    /// The phases of a training step.
    phases: Option<Phases>,
    /// Median seconds of a step of the reference, if it was measured too.
    reference: Option<f64>,
    peak_memory: Option<u64>,
    peak_flops: f64,
    /// Seconds that one thread needs to load a batch.
    loader: Option<f64>,
    shards: Shards,
    /// What this process has exchanged in all steps, and their seconds.
    exchanged: (Traffic, f64),
}

pub fn run(args: &Args) -> Result<()> {
    let processes = processes::join()?;
    let result = run_among(args, &processes);
    processes::end(processes, result)
}

/// How the batch is split.
fn split(args: &Args, processes: &Arc<dyn Communicator>) -> Result<Shards> {
    let size = processes.size();
    let count = args.shards.unwrap_or(if size > 1 { DEFAULT_SHARDS } else { 1 });
    let refuse = |message: String| Err(Failure::Usage(message));
    if count > 1 && (args.mode == Mode::Eval || args.engine != Measure::Fast) {
        return refuse("--shards and several processes are for training steps of the engine".to_string());
    }
    if size > count || count > args.batch_size {
        let shards = text::count(count, "shard");
        return refuse(format!(
            "{size} processes and a batch of {} do not fit {shards}; see --shards",
            args.batch_size
        ));
    }
    if args.norm_group > 0 && args.mode == Mode::Eval {
        return refuse("--norm-group is for training steps; an evaluation uses the running statistics".to_string());
    }
    recipe::check_groups(args.batch_size, count, args.norm_group).map_err(Failure::Usage)?;
    Ok(Shards::new(args.batch_size, count, processes.clone()))
}

fn run_among(args: &Args, processes: &Arc<dyn Communicator>) -> Result<()> {
    let shards = processes::agree(&**processes, split(args, processes))?;
    let classes = args.classes.unwrap_or(args.model.classes);
    let image @ [height, width] = args.image.unwrap_or(args.model.image);
    let mut model = ResNet::<f32>::new(&args.model.clone().with_classes(classes), 0)?;
    model.norms_mut().into_iter().for_each(|bn| bn.group = NonZeroUsize::new(args.norm_group));
    let kind = if args.engine == Measure::Reference { EngineKind::Reference } else { EngineKind::Fast };
    let executor = kind.executor(args.conv)?;
    let refuse = |error: Error| {
        let name = &args.model.name;
        let images = text::count(args.batch_size, "image");
        Failure::Usage(format!("`{name}` cannot process {images} of {height}x{width}: {error}"))
    };
    let cost = model.cost(args.batch_size, image).map_err(refuse)?;

    let shape = [shards.own().len(), height, width, 3];
    let begun = Instant::now();
    let x = Array4::from_shape_simple_fn(shape, &mut noise(0)).into_shared();
    let measured = match args.mode {
        Mode::Train => train(args, &*executor, &mut model, &x, &shards).map(|steps| {
            let phases = Phases::of(&steps);
            (steps.iter().map(|phases| phases.iter().sum()).collect(), Some(phases))
        }),
        Mode::Eval => timed(args, &shards, || predict(&*executor, &model, &x)).map(|times| (times, None)),
    };
    let (mut times, phases): (Vec<f64>, _) = measured.map_err(|error| match error {
        // For example a batch norm with a single value per channel.
        Error::Shape { .. } | Error::Argument { .. } => refuse(error),
        error => error.into(),
    })?;
    let exchanged = (processes.traffic(), begun.elapsed().as_secs_f64());
    if processes.rank() > 0 {
        return Ok(());
    }
    times.sort_by(f64::total_cmp);
    let peak_memory = memory::peak();
    let reference = match args.engine {
        Measure::Both => Some(of_reference(args, &mut model, &x, &shards)?),
        _ => None,
    };
    drop(x);

    let loader = (args.mode == Mode::Train && image == [32, 32]).then(|| load(args.batch_size)).transpose()?;
    let mut groups = convolutions::groups(
        &model,
        shape,
        (args.engine != Measure::Reference).then(|| Engine::new(args.conv.unwrap_or_default())),
    )?;
    if args.layers {
        for group in &mut groups {
            group.measure(args.mode == Mode::Train)?;
        }
    }
    let peak_flops = peak::measure();
    let measured = Measured {
        args,
        cost,
        image,
        classes,
        times,
        phases,
        reference,
        peak_memory,
        peak_flops,
        loader,
        shards,
        exchanged,
    };
    if cfg!(debug_assertions) {
        let _ = writeln!(std::io::stderr(), "note: this is a debug build; use --release for measurements");
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{:#}", measured.json(&groups))?);
    }
    Ok(measured.write(&mut out, &groups)?)
}

/// Random numbers with mean 0 and variance 1: sums of three uniform ones. None is 0, which some loops could skip.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut rng = stream(seed, Purpose::Verify, &[]);
    move || (0..3).map(|_| rng.random_range(-1.0f32..1.0)).sum()
}

/// Seconds of a prediction.
fn predict(executor: &dyn Executor<f32>, model: &ResNet<f32>, x: &Activation<f32>) -> std::result::Result<f64, Error> {
    let start = Instant::now();
    drop(executor.predict(model, x)?);
    Ok(start.elapsed().as_secs_f64())
}

/// Median seconds of a step of the reference.
fn of_reference(args: &Args, model: &mut ResNet<f32>, x: &Activation<f32>, shards: &Shards) -> Result<f64> {
    let reference = EngineKind::Reference.executor(None)?;
    let mut times: Vec<f64> = match args.mode {
        Mode::Train => train(args, &*reference, model, x, shards)?.iter().map(|phases| phases.iter().sum()).collect(),
        Mode::Eval => timed(args, shards, || predict(&*reference, model, x))?,
    };
    Ok(median(&mut times))
}

/// Seconds of the phases of each step.
fn train(
    args: &Args,
    executor: &dyn Executor<f32>,
    model: &mut ResNet<f32>,
    x: &Activation<f32>,
    shards: &Shards,
) -> std::result::Result<Vec<[f64; phases::COUNT]>, Error> {
    let classes = model.architecture().classes;
    let targets: Vec<usize> = (0..x.dim().0).map(|i| i * 7 % classes).collect();
    let mut sgd = Sgd::new(SgdConfig::default())?; // momentum 0.9, weight decay 1e-4
    let loss_layer = SoftmaxCrossEntropy::new();
    let mut last = 0.0;
    let steps = timed(args, shards, || {
        let mut watch = Stopwatch::start();
        let (logits, pass) = executor.forward(model, x, shards)?;
        watch.end_of(phases::FORWARD);
        let (loss, loss_cache) = loss_layer.forward(&logits, &targets)?;
        let dlogits = loss_layer.backward(&loss_cache);
        drop((logits, loss_cache));
        watch.end_of(phases::LOSS);
        // Before the backward pass, which consumes what the forward pass kept.
        pass.update_running_statistics(model);
        watch.end_of(phases::UPDATE);
        let gradients = pass.parameter_gradients(model, &dlogits)?;
        drop(dlogits);
        watch.end_of(phases::BACKWARD);
        sgd.step(model, &gradients, 0.1)?;
        executor.recycle(gradients);
        last = loss;
        Ok(watch.finish(phases::UPDATE))
    })?;
    if !last.is_finite() {
        let message = format!("the loss became {last}: such a step may not cost as much as a real one");
        return Err(Error::NotFinite { message });
    }
    Ok(steps)
}

/// The measurements of all steps.
fn timed<T>(
    args: &Args,
    shards: &Shards,
    mut step: impl FnMut() -> std::result::Result<T, Error>,
) -> std::result::Result<Vec<T>, Error> {
    for _ in 0..WARM_UP {
        step()?;
    }
    let (start, mut measured) = (Instant::now(), Vec::new());
    let done = |steps: usize| match args.steps {
        Some(wanted) => steps >= wanted,
        None => steps >= LEAST_STEPS && start.elapsed().as_secs_f64() >= args.seconds,
    };
    // All processes take the same number of steps.
    while !any(&**shards.processes(), done(measured.len())) {
        measured.push(step()?);
    }
    Ok(measured)
}

/// Seconds that one thread needs to load a batch of the embedded images, with crops and flips.
fn load(batch_size: usize) -> Result<f64> {
    let images = embedded::load().train;
    let indices: Vec<usize> = (0..batch_size).map(|i| i % images.len()).collect();
    let options = LoaderOptions::training(batch_size, Normalization::CIFAR10, 0);
    let loader = Loader::<f32>::new(Arc::new(images), options)?;
    let mut times: Vec<f64> = (0..12)
        .map(|epoch| {
            let start = Instant::now();
            std::hint::black_box(loader.batch(epoch, &indices)?);
            Ok(start.elapsed().as_secs_f64())
        })
        .collect::<Result<_>>()?;
    Ok(median(&mut times[2..]))
}

/// Sorts `times`, which must not be empty.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

impl Measured<'_> {
    fn median(&self) -> f64 {
        self.times[self.times.len() / 2]
    }

    fn images_per_second(&self) -> f64 {
        self.args.batch_size as f64 / self.median()
    }

    fn flops(&self) -> f64 {
        2.0 * self.args.mode.passes() * self.cost.multiply_adds as f64 / self.median()
    }

    /// The time to load the images of a step on one thread, as a share of the time of all threads in a step.
    fn loader_share(&self) -> Option<f64> {
        self.loader.map(|seconds| seconds / (self.median() * rayon::current_num_threads() as f64))
    }

    fn write(&self, out: &mut impl std::io::Write, groups: &[Group]) -> std::io::Result<()> {
        let Measured { args, cost, image: [height, width], times, .. } = self;
        let milliseconds = |seconds: f64| format!("{:.2} ms", 1e3 * seconds);
        let what = match args.mode {
            Mode::Train => text::count(times.len(), "training step"),
            Mode::Eval => text::count(times.len(), "prediction"),
        };
        let images = text::count(args.batch_size, "image");
        let (threads, isa) = (rayon::current_num_threads(), isa().name());
        let (shards, processes) = (self.shards.count(), self.shards.processes().size());
        let shared = match (shards, processes) {
            (1, _) => String::new(),
            (_, 1) => format!(", in {shards} shards"),
            _ => format!(", in {shards} shards on {processes} processes"),
        };
        let grouped = match args.norm_group {
            0 => String::new(),
            group => format!(", batch norm over groups of {group}"),
        };
        let mut lines = vec![
            (
                "model",
                format!(
                    "{}, {} parameters, {} multiply-adds per image",
                    args.model.name,
                    text::thousands(cost.parameters),
                    text::short(cost.multiply_adds / args.batch_size as u64)
                ),
            ),
            ("batch", format!("{images} of {height}x{width}, {}{shared}{grouped}", text::count(self.classes, "class"))),
            (
                "threads",
                format!(
                    "{threads}, instruction set {isa}, {}",
                    match args.engine {
                        Measure::Reference => "the reference".to_string(),
                        _ => format!("the engine with convolutions {}", args.conv.unwrap_or_default().name()),
                    }
                ),
            ),
            ("", String::new()),
            (
                "step",
                format!(
                    "median {}, best {}, worst {} of {what}",
                    milliseconds(self.median()),
                    milliseconds(times[0]),
                    milliseconds(times[times.len() - 1])
                ),
            ),
            ("images/s", format!("{:.1}", self.images_per_second())),
            (
                "GFLOP/s",
                format!(
                    "{:.1}, counted as direct convolution; {:.1} % of the measured peak of {:.1}",
                    self.flops() / 1e9,
                    100.0 * self.flops() / self.peak_flops,
                    self.peak_flops / 1e9
                ),
            ),
        ];
        if let Some(reference) = self.reference {
            let ratio = reference / self.median();
            lines.push((
                "reference",
                format!("median {}: the engine is {ratio:.2} times as fast", milliseconds(reference)),
            ));
        }
        let (Traffic { bytes, seconds }, all) = self.exchanged;
        if bytes > 0 {
            let per_step = text::bytes(bytes / (times.len() + WARM_UP) as u64);
            let share = 100.0 * seconds / all;
            lines.push((
                "exchanged",
                format!("{per_step} sent per step and process; {share:.1} % of the time, with waiting"),
            ));
        }
        if let Some(peak) = self.peak_memory {
            lines.push(("peak memory", text::bytes(peak)));
        }
        if let (Some(seconds), Some(share)) = (self.loader, self.loader_share()) {
            let share = 100.0 * share;
            let seconds = milliseconds(seconds);
            lines.push((
                "loader",
                format!("{seconds} per batch on one thread: {share:.2} % of the time of all threads in a step"),
            ));
        }
        for (key, value) in lines {
            writeln!(out, "{}", format!("{key:<14} {value}").trim_end())?;
        }
        if let Some(phases) = &self.phases {
            writeln!(out, "\nphases of a step: median time, share of the median step")?;
            for line in phases.lines(self.median()) {
                writeln!(out, "{line}")?;
            }
        }

        let all = groups.iter().map(|group| group.count as u64 * group.multiply_adds()).sum();
        writeln!(out, "\nconvolutions by shape, and their share of the multiply-adds of all convolutions")?;
        writeln!(out, "{}", Group::header(args.layers))?;
        for group in groups {
            writeln!(out, "{}", group.line(all))?;
        }
        let alone = groups.iter().map(|group| Some(group.count as f64 * group.times.as_ref()?.sum()));
        if let Some(alone) = alone.sum::<Option<f64>>() {
            let share = 100.0 * alone / self.median();
            writeln!(out, "all of them, each measured by itself: {}, {share:.1} % of a step", milliseconds(alone))?;
        }
        Ok(())
    }

    fn json(&self, groups: &[Group]) -> serde_json::Value {
        let Measured { args, cost, times, .. } = self;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": args.model.name,
            "parameters": cost.parameters,
            "image": self.image,
            "classes": self.classes,
            "batch_size": args.batch_size,
            "mode": args.mode.name(),
            "engine": if args.engine == Measure::Reference { "reference" } else { "fast" },
            "conv": args.conv.unwrap_or_default().name(),
            "reference_median_step_seconds": self.reference,
            "threads": rayon::current_num_threads(),
            "shards": self.shards.count(),
            "norm_group": args.norm_group,
            "processes": self.shards.processes().size(),
            "sent_bytes_per_step": self.exchanged.0.bytes / (times.len() + WARM_UP) as u64,
            "share_of_time_in_exchanges": self.exchanged.0.seconds / self.exchanged.1,
            "isa": isa().name(),
            "steps": times.len(),
            "seconds": times.iter().sum::<f64>(),
            "median_step_seconds": self.median(),
            "best_step_seconds": times[0],
            "worst_step_seconds": times[times.len() - 1],
            "phases": self.phases.as_ref().map(|phases| phases.json(self.median())),
            "images_per_second": self.images_per_second(),
            "multiply_adds_per_image": cost.multiply_adds / args.batch_size as u64,
            "gflops": self.flops() / 1e9,
            "peak_gflops": self.peak_flops / 1e9,
            "share_of_peak": self.flops() / self.peak_flops,
            "peak_memory_bytes": self.peak_memory,
            "loader_batch_seconds": self.loader,
            "loader_share_of_step": self.loader_share(),
            "convolutions": groups.iter().map(Group::json).collect::<Vec<_>>(),
        })
    }
}
