//! `resnet oracle layer`.

use super::{OutArgs, check_output, in_file, write};
use crate::cli::Result;
use crate::cli::args::Float;
use crate::formats;
use crate::oracle::{self, Arithmetic, Settings};
use std::io::Write;
use std::path::PathBuf;

const LAYER_HELP: &str = "\
Kinds and their settings:
  conv2d                 stride padding dilation groups        reads input weight [bias]
                         padding: 1, 1x0, before:after 1:2x0:1, same, valid
  batch_norm             mode eps momentum                     reads input [weight bias running_mean running_var]
                         momentum=none averages all batches    and [num_batches_tracked]
  relu, leaky_relu       negative_slope (leaky_relu)           reads input, of any shape
  max_pool               kernel_size stride padding dilation ceil_mode
  avg_pool               kernel_size stride padding ceil_mode count_include_pad divisor_override
  global_avg_pool
  linear                                                       reads input weight [bias]
  softmax_cross_entropy  reduction label_smoothing ignore_index
                         reduction: mean, sum, none            reads input target [weight]
  basic_block, bottleneck, preact_basic_block, preact_bottleneck
                         stride stride_on groups shortcut mode eps momentum
                                                               reads input and the block's state dict
  sgd                    lr momentum dampening weight_decay nesterov
                                                               reads param grad [momentum_buffer]
If the input contains grad_output, the backward pass is computed as well.

Examples:
  resnet oracle layer conv2d --set stride=2,padding=1 --in in.npz --out out.npz
  resnet oracle layer batch_norm --set mode=train,momentum=0.1 --in in.npz --out out.safetensors
  resnet oracle layer bottleneck --set stride=2 --in block.safetensors --out out.safetensors";

/// Compute one layer, block or optimiser step on given tensors
#[derive(Debug, clap::Args)]
#[command(after_help = LAYER_HELP)]
pub struct Args {
    #[command(flatten)]
    input: LayerInput,

    #[command(flatten)]
    out: OutArgs,
}

/// A layer and its input.
#[derive(Debug, clap::Args)]
pub struct LayerInput {
    /// What to compute
    #[arg(value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(oracle::layer::KINDS))]
    pub kind: String,

    /// Settings, named as in PyTorch: stride=2,padding=1x0
    #[arg(long = "set", value_name = "NAME=VALUE,...", default_value = "")]
    pub settings: Settings,

    /// File of tensors
    #[arg(long = "in", value_name = "FILE")]
    pub input: PathBuf,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    check_output(&args.out)?;
    let LayerInput { kind, settings, input: path } = &args.input;
    let input = formats::read(path)?;
    let run = match args.out.dtype {
        Float::F32 => oracle::layer::run::<f32>,
        Float::F64 => oracle::layer::run::<f64>,
    };
    let result = run(kind, settings, &input, &args.out.arithmetics(&Arithmetic::USUAL)).map_err(in_file(path))?;
    write(&args.out, &result, out)
}
