//! `resnet convert`.

use super::args::Float;
use super::{Failure, Result, args, text};
use crate::Error;
use crate::formats::{self, Format};
use crate::model::{Architecture, ResNet};
use crate::tensors::{Dtype, Tensor, Tensors};
use crate::weights::{self, state_dict};
use std::io::Write as _;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Examples:
  resnet convert resnet20-12fca82f.th resnet20.safetensors --model resnet20 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  resnet eval --weights resnet20.safetensors --data cifar10/
  resnet convert runs/resnet8-demo-1/weights.safetensors resnet8.pth    for torch.load
  resnet convert checkpoint.pth arrays.npz --dtype f64                   for numpy.load";

/// Convert weights between file formats
///
/// IN is a safetensors file, a PyTorch checkpoint (.pth, .pt, .th, in both of PyTorch's formats; no code
/// in it is executed), or a NumPy file (.npz, .npy). Its format is detected from its content. The
/// extension of OUT selects the format to write: .safetensors, .pth, .pt, .th, .npz, or .npy for a
/// single array.
///
/// Tensor names do not change. With --model they are converted to those of torchvision, and the
/// tensors must be exactly those of the network.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = AFTER_HELP)]
pub struct Args {
    /// The file to read
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// The network whose weights these are, see `resnet models`
    ///
    /// A .safetensors file stores the name, so that `resnet eval` needs no --model.
    #[arg(long, value_name = "NAME", value_parser = args::model)]
    model: Option<Architecture>,

    /// The tensors under this key of a PyTorch checkpoint, keys joined by points
    ///
    /// By default the first of `state_dict`, `model`, `net` and other usual keys, before averaged weights
    /// such as `model_ema`.
    #[arg(long, value_name = "PATH", verbatim_doc_comment)]
    key: Option<String>,

    /// Convert floats to this type [default: unchanged, but 16 bits become 32]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Float>,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    normalization: args::NormalizationArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let format = Format::of_extension(&args.output).map_err(|error| Failure::Usage(error.to_string()))?;
    let normalization = args.normalization.given()?;
    if normalization.is_some() && !(args.model.is_some() && format.has_metadata()) {
        let message = "--mean and --std need --model and an OUT in .safetensors; other formats cannot store them";
        return Err(Failure::Usage(message.to_string()));
    }
    args::check_output(&args.output, args.force)?;
    let contents = formats::open_at(&args.input, args.key.as_deref())?;

    let mut lines = vec![("read", format!("{} ({})", args.input.display(), contents.format))];
    lines.extend(contents.notes("--key"));
    lines.extend(contents.left_out());
    let mut tensors = contents.tensors.clone();
    if let Some(architecture) = &args.model {
        let mut about = weights::metadata_of(&args.input, &tensors)?;
        let (fitted, classes) = fit(&args.input, &tensors, architecture).map_err(|error| contents.explain(error))?;
        lines.extend(contents.not_read());
        lines.extend(renamed(&tensors, &fitted));
        lines.push(("model", format!("{}, {classes} classes: all tensors found", architecture.name)));
        about.extend([("model".into(), architecture.name.clone()), ("classes".into(), classes.to_string())]);
        if let Some(normalization) = normalization {
            about.insert("mean".into(), args::write_three(normalization.mean()));
            about.insert("std".into(), args::write_three(normalization.std()));
        }
        tensors = fitted;
        weights::set_metadata(&mut tensors, &about);
    } else {
        tensors = contents.complete(&args.input)?;
    }
    if let Some(float) = args.dtype {
        tensors = as_float(&tensors, float);
    }
    lines.extend(widened(&tensors));
    if !format.has_metadata() && !tensors.metadata.is_empty() {
        lines.push(("left out", format!("metadata, which {format} cannot store")));
    }

    formats::write(&args.output, &tensors)?;
    let numbers: usize = tensors.iter().map(|(_, tensor)| tensor.len()).sum();
    let size = std::fs::metadata(&args.output).map_err(|error| Error::io(&args.output, "read", error))?.len();
    let (count, numbers) = (text::thousands(tensors.len() as u64), text::thousands(numbers as u64));
    lines.push(("tensors", format!("{count}, {numbers} elements")));
    lines.push(("wrote", format!("{} ({format}), {} bytes", args.output.display(), text::thousands(size))));
    let mut out = std::io::stdout().lock();
    for (key, value) in lines {
        writeln!(out, "{key:<14} {value}")?;
    }
    Ok(())
}

/// The tensors of the network under its own names, and the number of classes.
fn fit(path: &Path, tensors: &Tensors, architecture: &Architecture) -> crate::Result<(Tensors, usize)> {
    let classes = state_dict::classes(tensors).unwrap_or(architecture.classes);
    let model = ResNet::<f32>::zeroed(&architecture.clone().with_classes(classes))?;
    let mut fitted = Tensors::new();
    for (name, tensor) in state_dict::fit(path, tensors, &model)? {
        fitted.insert(name, tensor.clone());
    }
    fitted.metadata = tensors.metadata.clone();
    Ok((fitted, classes))
}

/// The number of changed names with an example, and the number of omitted counters.
fn renamed(given: &Tensors, fitted: &Tensors) -> Vec<(&'static str, String)> {
    let counters = given.names().filter(|name| state_dict::is_counter(name)).count();
    let changed: Vec<&str> =
        given.names().filter(|name| fitted.get(name).is_none() && !state_dict::is_counter(name)).collect();
    let mut lines = Vec::new();
    if let Some(last) = changed.last() {
        lines.push((
            "renamed",
            format!("{} tensors, for example {last} to {}", changed.len(), state_dict::our_name(last)),
        ));
    }
    if counters > 0 {
        lines.push(("left out", format!("{counters} counters num_batches_tracked")));
    }
    lines
}

/// Converts every tensor of floats to this type; the others do not change.
fn as_float(tensors: &Tensors, float: Float) -> Tensors {
    let mut converted = Tensors::new();
    for (name, tensor) in tensors.iter() {
        let other: Option<Tensor> = match float {
            Float::F32 => tensor.to_real::<f32>().map(Tensor::from),
            Float::F64 => tensor.to_real::<f64>().map(Tensor::from),
        };
        converted.insert(name, other.unwrap_or_else(|| tensor.clone()));
    }
    converted.metadata = tensors.metadata.clone();
    converted
}

/// The tensors that are written in a wider type than they were stored in, one line per type.
fn widened(tensors: &Tensors) -> Vec<(&'static str, String)> {
    let lines = Dtype::ALL.into_iter().filter(|dtype| dtype.widened() != *dtype).filter_map(|dtype| {
        let count = tensors.iter().filter(|(_, tensor)| tensor.dtype() == dtype).count();
        (count > 0).then(|| ("widened", format!("{count} from {dtype} to {}", dtype.widened())))
    });
    lines.collect()
}
