//! Images per second of full training steps: forward in train mode, backward, running statistics, SGD step.
//!
//! ```text
//! cargo run --release --example train_throughput -- --model resnet20 --batch 128 --threads 2 --seconds 6
//! {"model":"resnet20","batch":128,"threads":2,"steps":…,"seconds":…,"images_per_second":…,"peak_rss_mib":…,…}
//! ```
//!
//! One line of JSON on standard output, for `benches/against_pytorch.py`. Images are Gaussian-like noise of unit scale at
//! 32x32 (no zeros, which some kernels skip); lr 0.1, momentum 0.9, weight decay 1e-4. Two warm-up steps are not
//! counted. `gflops` counts 2 operations a multiply-add and three passes (forward, both gradients) over convolutions and
//! linear layer. `--steps n` runs exactly n steps instead of as many as fit `--seconds`.

use ndarray::Array4;
use rand::RngExt as _;
use resnet_by_hand::layers::{Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{Sgd, SgdConfig};
use resnet_by_hand::rng::{stream, Purpose};
use std::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Options {
    model: String,
    batch: usize,
    threads: usize,
    seconds: f64,
    steps: Option<usize>,
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    if cfg!(debug_assertions) {
        eprintln!("warning: built with debug assertions; use --release for numbers that mean something");
    }
    resnet_by_hand::kernels::memory::keep_freed_memory(); // as the command does
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
    pool.install(|| run(&options))
}

fn run(options: &Options) -> Result<(), Failure> {
    let architecture = Architecture::by_name(&options.model)?.with_classes(10);
    let mut model = ResNet::<f32>::new(&architecture, 0)?;
    let multiply_adds = model.cost(options.batch, [32, 32])?.multiply_adds;
    let mut rng = stream(0, Purpose::Verify, &[]);
    // The sum of three uniform numbers on [-1, 1] has variance 1.
    let mut image = || (0..3).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>();
    let x = Array4::from_shape_simple_fn((options.batch, 32, 32, 3), &mut image).into_shared();
    let targets: Vec<usize> = (0..options.batch).map(|i| i * 7 % 10).collect();
    let mut sgd = Sgd::new(SgdConfig::default())?; // momentum 0.9, weight decay 1e-4
    let loss_layer = SoftmaxCrossEntropy::new();

    let mut step = || -> Result<f32, Failure> {
        let (logits, cache) = model.forward(&x, Mode::Train)?;
        let (loss, loss_cache) = loss_layer.forward(&logits, &targets)?;
        model.update_running_statistics(&cache);
        let gradients = model.parameter_gradients(&loss_layer.backward(&loss_cache), cache)?;
        sgd.step(&mut model, &gradients, 0.1)?;
        Ok(loss)
    };
    for _ in 0..2 {
        step()?;
    }
    let (start, mut steps, mut times, mut loss) = (Instant::now(), 0, Vec::new(), 0.0);
    while options.steps.map_or(start.elapsed().as_secs_f64() < options.seconds, |wanted| steps < wanted) {
        let begun = Instant::now();
        loss = step()?;
        times.push(begun.elapsed().as_secs_f64());
        steps += 1;
    }
    if !loss.is_finite() {
        return Err(format!("the loss became {loss}: such a step need not cost what a real one does").into());
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().ok_or("no step was timed; give --steps or --seconds above 0")?;
    let seconds: f64 = times.iter().sum();
    let rate = options.batch as f64 / median;
    println!(
        "{{\"model\":\"{}\",\"batch\":{},\"threads\":{},\"steps\":{steps},\"seconds\":{seconds:.3},\
         \"median_step_seconds\":{median:.6},\"best_step_seconds\":{:.6},\"images_per_second\":{rate:.3},\
         \"gflops\":{:.3},\"multiply_adds\":{multiply_adds},\"peak_rss_mib\":{},\"loss\":{loss:.6}}}",
        options.model,
        options.batch,
        options.threads,
        times[0],
        6.0 * multiply_adds as f64 / median / 1e9,
        peak_rss_mib().map_or("null".into(), |mib| format!("{mib:.1}")),
    );
    Ok(())
}

/// Peak resident memory, from Linux's `/proc`; unknown elsewhere.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { model: "resnet20".into(), batch: 128, threads: 2, seconds: 6.0, steps: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--model" => options.model = value,
            "--batch" => options.batch = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--steps" => options.steps = Some(value.parse()?),
            _ => {
                return Err(format!("unknown option {name}; known: --model --batch --threads --seconds --steps").into())
            }
        }
    }
    Ok(options)
}
