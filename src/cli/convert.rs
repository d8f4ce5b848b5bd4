//! `resnet convert`.

mod onnx;

use super::args::Float;
use super::{Failure, Result, args, imagenet, text, trained};
use crate::Error;
use crate::formats::{self, Contents, Format};
use crate::model::{Architecture, ResNet};
use crate::tensors::{Dtype, Tensor, Tensors, Values};
use crate::weights::{self, names, recognise, state_dict};
use std::io::Write as _;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Examples:
  resnet convert resnet20-12fca82f.th resnet20.safetensors --model resnet20 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  resnet eval --weights resnet20.safetensors --data cifar10/
  resnet convert runs/resnet8-demo-1/weights.safetensors resnet8.pth    for torch.load
  resnet convert checkpoint.pth arrays.npz --dtype f64                   for numpy.load
  resnet convert weights.safetensors model.onnx --with-normalization     for ONNX Runtime";

/// Convert weights between file formats
///
/// IN is a safetensors file, a PyTorch checkpoint (.pth, .pt, .th, in both of PyTorch's formats; no code
/// in it is executed), or a NumPy file (.npz, .npy). Its format is detected from its content. The
/// extension of OUT selects the format to write: .safetensors, .pth, .pt, .th, .npz, or .npy for a
/// single array; or .onnx for the whole network as an ONNX model (standard operators, opset 13), for any
/// number of images of one size, its input `images` (N, 3, H, W), its output `logits` (N, classes).
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
    /// such as `model_ema`. `.` are the tensors of the checkpoint itself, beside other keys.
    #[arg(long, value_name = "PATH", verbatim_doc_comment)]
    key: Option<String>,

    /// Only the tensors whose names begin with PREFIX, without it, such as `teacher.`
    ///
    /// For a file with more than one network.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,

    /// If the weights do not fit --model, list every problem, not only the first ten
    #[arg(long, requires = "model")]
    all: bool,

    /// Convert floats to this type [default: unchanged, but 16 bits become 32]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Float>,

    /// ONNX: normalise the images in the model, so that its input is red, green and blue from 0 to 1
    #[arg(long)]
    with_normalization: bool,

    /// ONNX: height and width of the images [default: from IN, or those the network was designed for]
    #[arg(long, value_name = "N", value_parser = args::count(1, 2048), allow_negative_numbers = true)]
    image_size: Option<usize>,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    normalization: args::NormalizationArgs,
}

pub fn run(args: &Args) -> Result<()> {
    if onnx::is_meant(args) {
        args::check_output(&args.output, args.force)?;
        return onnx::run(args);
    }
    let format = Format::of_extension(&args.output)
        .map_err(|error| Failure::Usage(format!("{error}; a network can also be written as .onnx")))?;
    if args.with_normalization || args.image_size.is_some() {
        let message = "--with-normalization and --image-size need an OUT in .onnx; other formats contain weights only";
        return Err(Failure::Usage(message.to_string()));
    }
    let normalization = args.normalization.given()?;
    if normalization.is_some() && !(args.model.is_some() && format.has_metadata()) {
        let message = "--mean and --std need --model and an OUT in .safetensors; other formats cannot store them";
        return Err(Failure::Usage(message.to_string()));
    }
    args::check_output(&args.output, args.force)?;
    let contents = trained::read(&args.input, args.key.as_deref())?;

    let mut lines = vec![("read", format!("{} ({})", args.input.display(), contents.format))];
    lines.extend(contents.notes("--key"));
    lines.extend(contents.left_out());
    let mut tensors = contents.tensors.clone();
    let mut about = weights::metadata_of(&args.input, &tensors)?;
    if let Some(prefix) = &args.prefix {
        let all = tensors.len();
        tensors = names::under(&args.input, &tensors, prefix)?;
        lines.push(("left out", format!("{} tensors outside of `{prefix}`", all - tensors.len())));
        // A part is another network, or none.
        ["model", "classes", "class_names"].iter().for_each(|key| drop(about.remove(*key)));
    }
    if let Some(architecture) = &args.model {
        trained::check_no_checkpoint(&args.input, &tensors)?;
        let reading = names::read(&args.input, &tensors)?;
        lines.extend(reading.line().map(|line| ("names", line)));
        let counters = reading.left_out.iter().filter(|name| state_dict::is_counter(name)).count();
        if counters > 0 {
            lines.push(("left out", format!("{counters} counters num_batches_tracked")));
        }
        let (fitted, classes) = fit(args, &contents, &tensors, architecture)?;
        lines.extend(contents.not_read());
        lines.push(("model", format!("{}, {}: all tensors found", architecture.name, text::count(classes, "class"))));
        about.extend([("model".into(), architecture.name.clone()), ("classes".into(), classes.to_string())]);
        if let Some(preset) =
            imagenet::preset(&args.input, architecture, classes).filter(|_| !about.contains_key("class_names"))
        {
            preset.store(&mut about);
            lines.push(("imagenet", preset.line));
        }
        if let Some(normalization) = normalization {
            about.insert("mean".into(), args::write_three(normalization.mean()));
            about.insert("std".into(), args::write_three(normalization.std()));
        }
        tensors = fitted;
    } else {
        let is_wanted = |name: &str| args.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix.as_str()));
        if contents.unreadable.iter().any(|(name, _)| is_wanted(name)) {
            contents.complete(&args.input)?;
        }
        let named = about.get("model").map(|name| format!("{name}, as the file says"));
        let network = || names::read(&args.input, &tensors).ok().and_then(|reading| recognised(&reading));
        lines.extend(named.or_else(network).map(|line| ("network", line)));
    }
    if let Some(float) = args.dtype {
        if float == Float::F32 {
            check_narrowing(&args.input, &tensors)?;
        }
        tensors = as_float(&tensors, float);
    }
    lines.extend(widened(&tensors));
    // Last, because it contains the checksum of the tensors.
    if !about.is_empty() {
        weights::set_metadata(&mut tensors, &about);
    }
    if !format.has_metadata() && !tensors.metadata.is_empty() {
        lines.push(("left out", format!("metadata, which {format} cannot store")));
    }

    formats::write(&args.output, &tensors)?;
    let numbers: usize = tensors.iter().map(|(_, tensor)| tensor.len()).sum();
    let size = std::fs::metadata(&args.output).map_err(|error| Error::io(&args.output, "read", error))?.len();
    let (count, numbers) = (text::thousands(tensors.len() as u64), text::count(numbers, "element"));
    lines.push(("tensors", format!("{count}, {numbers}")));
    lines.push(("wrote", format!("{} ({format}), {} bytes", args.output.display(), text::thousands(size))));
    let mut out = std::io::stdout().lock();
    for (key, value) in lines {
        writeln!(out, "{key:<14} {value}")?;
    }
    Ok(())
}

/// The network that fits, and what `--model` would do.
fn recognised(reading: &names::Reading) -> Option<String> {
    let candidates = recognise::candidates(reading);
    let names: Vec<&str> = candidates.iter().map(|network| network.name.as_str()).collect();
    let first = names.first()?;
    let changes = if reading.changes.is_empty() {
        "stores it in OUT"
    } else {
        "stores it in OUT and changes the names to its own"
    };
    Some(format!("{}, recognised by its tensors; --model {first} {changes}", names.join(" or ")))
}

/// The tensors of the network under its own names, and the number of classes.
fn fit(args: &Args, contents: &Contents, tensors: &Tensors, architecture: &Architecture) -> Result<(Tensors, usize)> {
    let path = &args.input;
    let classes = state_dict::classes(tensors).unwrap_or(architecture.classes);
    let model = ResNet::<f32>::zeroed(&architecture.clone().with_classes(classes))?;
    let fitting = state_dict::fit(path, tensors, &model);
    if args.all && fitting.is_err() {
        return Err(trained::every_problem(path, tensors, &model)?);
    }
    let mut fitted = Tensors::new();
    for (name, tensor) in fitting.map_err(|error| trained::explain(contents, "--key", error))? {
        fitted.insert(name, tensor.clone());
    }
    fitted.metadata = tensors.metadata.clone();
    Ok((fitted, classes))
}

/// Rejects values that are finite in 64 bits and infinite in 32.
fn check_narrowing(path: &Path, tensors: &Tensors) -> Result<()> {
    for (name, tensor) in tensors.iter() {
        let Values::F64(values) = tensor.values() else { continue };
        if let Some(value) = values.iter().find(|value| value.is_finite() && (**value as f32).is_infinite()) {
            let message =
                format!("{name} contains {value:e}, which is too large for 32-bit floats (at most {:e})", f32::MAX);
            return Err(Error::format(path, None, message).into());
        }
    }
    Ok(())
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
