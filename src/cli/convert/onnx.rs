//! `resnet convert … model.onnx`.

use super::super::args::{Float, write_three};
use super::super::trained::{self, Trained};
use super::super::{Failure, Result, text};
use super::Args;
use crate::formats::{atomic, onnx};
use crate::weights;
use std::io::Write as _;

/// Whether OUT is to be an ONNX model.
pub fn is_meant(args: &Args) -> bool {
    args.output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

pub fn run(args: &Args) -> Result<()> {
    if matches!(args.dtype, Some(Float::F64)) {
        return Err(Failure::Usage("an ONNX model is written in f32: leave out --dtype f64".to_string()));
    }
    let mut contents = trained::read(&args.input, args.key.as_deref())?;
    if let Some(prefix) = &args.prefix {
        contents.tensors = weights::names::under(&args.input, &contents.tensors, prefix)?;
    }
    let trained = Trained::of(&args.input, contents, args.model.as_ref())?;
    let (classes, names) = trained.classes()?;
    let model = trained.model::<f32>(classes)?;
    let architecture = model.architecture();
    let size = [trained.framing(args.image_size, None)?.crop; 2];
    // Without --with-normalization it is only described.
    let normalization = match args.with_normalization {
        true => Some(trained.normalization(&args.normalization)?.0),
        false => trained.normalization(&args.normalization).ok().map(|(normalization, _)| normalization),
    };
    let in_graph = normalization.filter(|_| args.with_normalization);

    let mut metadata = trained.metadata().clone();
    // That of another file.
    metadata.remove(weights::CHECKSUM);
    metadata.insert("model".into(), architecture.name.clone());
    metadata.insert("classes".into(), classes.to_string());
    let input = match (in_graph, normalization) {
        (Some(_), _) => "red, green, blue from 0 to 1; the graph normalises them",
        (None, Some(_)) => "red, green, blue; (value from 0 to 1 − mean) / std",
        (None, None) => "red, green, blue, normalised as in training",
    };
    metadata.insert("input".into(), input.to_string());
    metadata.insert("image_size".into(), size[0].to_string());
    if let Some(normalization) = normalization {
        metadata.insert("mean".into(), write_three(normalization.mean()));
        metadata.insert("std".into(), write_three(normalization.std()));
    }
    let first_operators = in_graph.map(|normalization| [normalization.mean(), normalization.std()]);
    let graph = weights::onnx::graph(&model, size, first_operators, metadata)
        .map_err(|error| Failure::Usage(format!("`{}`: {error}; give another --image-size", architecture.name)))?;
    let bytes = graph.to_bytes();
    atomic::write(&args.output, &bytes)?;

    trained.print_notes();
    let [height, width] = size;
    let named = if names.is_some() { ", named in the metadata" } else { "" };
    let mut out = std::io::stdout().lock();
    for (key, value) in [
        ("read", args.input.display().to_string()),
        ("model", format!("{}, {classes} classes{named}", architecture.name)),
        ("input", format!("images (N, 3, {height}, {width}): {input}")),
        ("output", format!("logits (N, {classes}), before the softmax")),
        ("operators", format!("{}, opset {}", graph.nodes.len(), onnx::OPSET)),
        ("wrote", format!("{} (ONNX), {} bytes", args.output.display(), text::thousands(bytes.len() as u64))),
    ] {
        writeln!(out, "{key:<14} {value}")?;
    }
    Ok(())
}
