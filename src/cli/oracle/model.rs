//! `resnet oracle model`.

use super::{OutArgs, check_output, in_file, write};
use crate::Error;
use crate::cli::Result;
use crate::cli::args::{self, Float};
use crate::formats;
use crate::layers::{Mode, Reduction, SoftmaxCrossEntropy};
use crate::model::{Architecture, ResNet};
use crate::optim::SgdConfig;
use crate::oracle::layer::Task;
use crate::oracle::{self, Goal, Request};
use crate::program::Program;
use crate::tensors::Tensors;
use crate::weights::state_dict;
use clap::ValueEnum;
use std::io::Write;
use std::path::PathBuf;

const MODEL_HELP: &str = "\
The input file contains `input` (N, 3, H, W), already normalised. With `target` (N) the loss and all
gradients are computed, with `grad_output` (N, classes) all gradients without a loss, and with neither
of them only the forward pass.

Example:
  resnet oracle model --model resnet20 --weights resnet20.th --in batch.npz --mode train --out ours.safetensors
  resnet oracle compare ours.safetensors theirs.safetensors";

/// Compute a whole network: every activation, every gradient, statistics, SGD steps
#[derive(Debug, clap::Args)]
#[command(after_help = MODEL_HELP)]
pub struct Args {
    #[command(flatten)]
    input: ModelInput,

    #[command(flatten)]
    out: OutArgs,

    /// Leave out the activations between the input and the logits
    #[arg(long)]
    no_activations: bool,
}

/// A network and its input.
#[derive(Debug, clap::Args)]
pub struct ModelInput {
    /// The network, see `resnet models`
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Architecture,

    /// Its weights: .safetensors, .pth, .pt, .th, .npz
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,

    /// Input file, with `input` and `target`
    #[arg(long = "in", value_name = "FILE")]
    pub input: PathBuf,

    /// Mode of batch norm: statistics of the batch (train) or running statistics (eval)
    #[arg(long, value_name = "MODE", default_value = "train")]
    mode: ModeArg,

    /// Sum the losses of the images instead of averaging them
    #[arg(long)]
    sum: bool,

    /// Number of SGD steps on the batch; the output contains the parameters after them
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

pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    check_output(&args.out)?;
    let mut task = args.input.task()?;
    task.request.activations = !args.no_activations;
    task.request.computed_in = args.out.arithmetics(&task.request.computed_in);
    let Task { program, input, request } = &task;
    let result = match args.out.dtype {
        Float::F32 => oracle::dump::<f32>(program, input, request),
        Float::F64 => oracle::dump::<f64>(program, input, request),
    };
    let mut result = result.map_err(in_file(&args.input.input))?;
    result.metadata.insert("model".into(), args.input.model.name.clone());
    result.metadata.insert("mode".into(), format!("{:?}", args.input.mode).to_lowercase());
    write(&args.out, &result, out)
}

impl ModelInput {
    /// The name of the network.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// Reads the files.
    pub fn task(&self) -> Result<Task> {
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
                let wrong = || wrong(format!("`target` expects class indices from 0 (int64), got {found}"));
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

fn names(tensors: &Tensors) -> String {
    match tensors.is_empty() {
        true => "nothing".to_string(),
        false => tensors.names().collect::<Vec<_>>().join(", "),
    }
}
