//! The pack as a folder of npz and safetensors files, and the comparison of a folder of results with it.
//!
//! ```text
//! index.json                            every case: what it computes, its files, their SHA-256, its tolerances
//! README.md                             how to read that
//! pytorch.py                            checks PyTorch against it; a template for checking another implementation
//! float64/conv2d-3x3.in.npz             inputs            (.safetensors: the same tensors)
//! float64/conv2d-3x3.out.npz            expected results  (.safetensors: the same tensors; tolerances in its metadata)
//! float32/…                             the same rounded to float32; the inputs have the same values
//! ```

use super::{Case, Level, STEPS, Subject, cases};
use crate::formats;
use crate::layers::{Mode, Reduction};
use crate::oracle::arithmetic::Arithmetic;
use crate::oracle::compare::{Report, compare};
use crate::oracle::dump::{Goal, tolerance_of};
use crate::oracle::layer::{Task, sgd_request};
use crate::program::{Layer, Program};
use crate::tensors::Dtype;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The version of the index's layout.
pub const VERSION: u64 = 2;

/// The file that describes the others.
pub const INDEX: &str = "index.json";

const README: &str = include_str!("README.md");

const PYTORCH: &str = include_str!("pytorch.py");

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Cases.
    pub cases: usize,
    /// Files, the index included.
    pub files: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Writes the pack to `folder`, which must be new or empty. It appears whole or not at all: the files are written to a folder
/// beside it that is renamed at the end.
///
/// # Errors
/// If `folder` exists and is not empty, or cannot be written.
pub fn write(folder: &Path, each: impl FnMut(&Case)) -> Result<Written> {
    write_cases(folder, cases(), each)
}

/// The same with some of the cases.
///
/// # Errors
/// As [`write()`].
pub fn write_cases(folder: &Path, cases: Vec<Case>, mut each: impl FnMut(&Case)) -> Result<Written> {
    if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        let message = "already exists; the pack needs a new or empty folder";
        return Err(Error::argument("oracle", format!("{} {message}", folder.display())));
    }
    let temporary = beside(folder);
    // Left over from an interrupted run.
    let _ = std::fs::remove_dir_all(&temporary);
    let result = write_files(&temporary, cases, &mut each).and_then(|written| {
        // Not every system replaces an empty folder.
        let _ = std::fs::remove_dir(folder);
        std::fs::rename(&temporary, folder).map_err(|error| Error::io(folder, "create", error))?;
        Ok(written)
    });
    if result.is_err() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    result
}

fn beside(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    folder.with_file_name(name)
}

fn write_files(folder: &Path, cases: Vec<Case>, each: &mut dyn FnMut(&Case)) -> Result<Written> {
    for dtype in DTYPES {
        let folder = folder.join(dtype.name());
        std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, "create", error))?;
    }
    let (mut written, mut entries) = (Written::default(), Vec::new());
    let mut write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        written.files += 1;
        written.bytes += bytes.len() as u64;
        std::fs::write(&path, bytes).map_err(|error| Error::io(&path, "write", error))
    };
    for case in cases {
        each(&case);
        let expected = case.expected(&super::ARITHMETICS);
        let mut entry = description(&case);
        for dtype in DTYPES {
            let mut files = Map::new();
            for (part, tensors) in [("in", &case.input), ("out", &expected)] {
                for extension in ["npz", "safetensors"] {
                    let name = format!("{}/{}.{part}.{extension}", dtype.name(), case.name);
                    // All tolerances are beside the results in float64, with which `judge` compares.
                    let (own, all) = (Arithmetic::F32.to_string(), dtype == Dtype::F64);
                    let mut tensors = if dtype == Dtype::F32 { tensors.rounded() } else { tensors.clone() };
                    tensors.retain(|name| all || tolerance_of(name).is_none_or(|(arithmetic, _)| arithmetic == own));
                    let bytes = formats::to_bytes(Path::new(&name), &tensors)?;
                    write(&name, &bytes)?;
                    files.insert(format!("{part}.{extension}"), json!({ "path": name, "sha256": sha256(&bytes) }));
                }
            }
            entry.insert(dtype.name().to_string(), json!({ "files": files }));
        }
        entries.push(Value::Object(entry));
    }
    let count = entries.len();
    let index = json!({
        "version": VERSION,
        "made_by": concat!("resnet-by-hand ", env!("CARGO_PKG_VERSION")),
        "cases": entries,
    });
    write("README.md", README.as_bytes())?;
    write("pytorch.py", PYTORCH.as_bytes())?;
    write(INDEX, format!("{index:#}\n").as_bytes())?;
    written.cases = count;
    Ok(written)
}

const DTYPES: [Dtype; 2] = [Dtype::F64, Dtype::F32];

fn sha256(bytes: &[u8]) -> String {
    formats::hex(&Sha256::digest(bytes))
}

/// What a case computes, without its files.
fn description(case: &Case) -> Map<String, Value> {
    let level = match case.level() {
        Level::Layer => "layer",
        Level::Block => "block",
        Level::Network => "network",
    };
    let mut entry = Map::new();
    let mut set = |key: &str, value: Value| entry.insert(key.to_string(), value);
    set("name", json!(case.name));
    set("about", json!(case.about));
    set("level", json!(level));
    match &case.subject {
        Subject::Layer(kind, settings) => {
            set("kind", json!(kind));
            let set_flag = if settings.is_empty() { String::new() } else { format!(" --set {settings}") };
            let command = format!("resnet oracle layer {kind}{set_flag} --in {0}.in.npz --out {0}.out.npz", case.name);
            set("command", json!(command));
            if *kind == "sgd" {
                let request = sgd_request(&super::parsed(settings)).expect("settings of the pack are right");
                set("sgd", sgd(request.lr, &request.sgd));
            }
        }
        Subject::Network(architecture, mode) => {
            set("kind", json!("network"));
            set("model", json!(architecture.name));
            if *mode == Mode::Train {
                let request = super::Request::new(*mode, Goal::Forward);
                let Value::Object(mut sgd) = sgd(request.lr, &request.sgd) else { unreachable!("an object") };
                sgd.insert("steps".to_string(), json!(STEPS));
                set("sgd", Value::Object(sgd));
            }
        }
    }
    if let Some(Task { program, request, .. }) = case.task() {
        if program.steps.iter().any(|step| matches!(step.layer, Layer::BatchNorm2d(_))) {
            set("mode", json!(if request.mode == Mode::Train { "train" } else { "eval" }));
        }
        set("steps", steps(&program));
        if let Goal::CrossEntropy { loss, .. } = request.goal {
            let reduction = if loss.reduction == Reduction::Mean { "mean" } else { "sum" };
            set("loss", json!({ "reduction": reduction, "label_smoothing": loss.label_smoothing }));
        }
    }
    entry
}

fn sgd(lr: f64, sgd: &crate::optim::SgdConfig) -> Value {
    json!({
        "lr": lr,
        "momentum": sgd.momentum,
        "dampening": sgd.dampening,
        "weight_decay": sgd.weight_decay,
        "nesterov": sgd.nesterov,
    })
}

/// The description of a program: every step with its operation, what it reads and all of its settings.
fn steps(program: &Program<f64>) -> Value {
    let value = |value: &usize| match value {
        0 => "input".to_string(),
        step => program.steps[step - 1].name.clone(),
    };
    let step = |step: &crate::program::Step<f64>| {
        json!({
            "name": step.name,
            "operation": step.layer.name(),
            "reads": step.reads.iter().map(value).collect::<Vec<_>>(),
            "settings": settings(&step.layer),
        })
    };
    Value::Array(program.steps.iter().map(step).collect())
}

fn settings(layer: &Layer<f64>) -> Value {
    match layer {
        Layer::Conv2d(conv) => json!({
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
            "bias": conv.bias.is_some(),
        }),
        Layer::BatchNorm2d(bn) => json!({ "eps": bn.eps, "momentum": bn.momentum }),
        Layer::Relu(relu) => json!({ "negative_slope": relu.slope() }),
        Layer::MaxPool2d(pool) => json!({
            "kernel_size": pool.kernel,
            "stride": pool.stride,
            "padding": pool.padding,
            "dilation": pool.dilation,
            "ceil_mode": pool.ceil_mode,
        }),
        Layer::AvgPool2d(pool) => json!({
            "kernel_size": pool.kernel,
            "stride": pool.stride,
            "padding": pool.padding,
            "ceil_mode": pool.ceil_mode,
            "count_include_pad": pool.count_include_pad,
            "divisor_override": pool.divisor_override,
        }),
        Layer::ZeroPadShortcut(shortcut) => json!({ "stride": shortcut.stride, "channels": shortcut.c_out }),
        Layer::GlobalAvgPool | Layer::Linear(_) | Layer::Add => json!({}),
    }
}

/// The outcome of a case of a pack.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its name.
    pub case: String,
    /// The file with its results and the report on it; `None` if there is no file of this name.
    pub found: Option<(PathBuf, Report)>,
}

/// Compares the results in the folder `theirs`, one file per case (`conv2d-3x3.npz`, or `.safetensors`, or PyTorch's formats),
/// with the pack in the folder `pack`.
///
/// # Errors
/// If `pack` is not a pack or is damaged, or a file of theirs cannot be read or has the name of no case.
pub fn judge(pack: &Path, theirs: &Path) -> Result<Vec<Judged>> {
    let path = pack.join(INDEX);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, "read", error))?;
    let wrong = |message: String| Error::format(&path, None, message);
    let index: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("expected JSON: {error}")))?;
    if index["version"] != json!(VERSION) {
        return Err(wrong(format!("expected a pack of version {VERSION}, found `version`: {}", index["version"])));
    }
    let entries = index["cases"].as_array().ok_or_else(|| wrong("expected a list `cases`".to_string()))?;
    let mut results = results_in(theirs)?;
    let mut judged = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry["name"].as_str().ok_or_else(|| wrong("a case has no `name`".to_string()))?;
        let found = match results.iter().position(|(stem, _)| stem == name) {
            None => None,
            Some(position) => {
                let (_, file) = results.remove(position);
                let expected = &entry["float64"]["files"]["out.safetensors"];
                let (Some(relative), Some(hash)) = (expected["path"].as_str(), expected["sha256"].as_str()) else {
                    return Err(wrong(format!("{name} has no float64/files/out.safetensors with path and sha256")));
                };
                let expected = pack.join(relative);
                let bytes = std::fs::read(&expected).map_err(|error| Error::io(&expected, "read", error))?;
                if sha256(&bytes) != hash {
                    let message = format!("expected the SHA-256 {hash} of the index, found {}", sha256(&bytes));
                    return Err(Error::format(&expected, None, message));
                }
                let expected = formats::read_bytes(&expected, &bytes, None)?.complete(&expected)?;
                let report = compare(&expected, &formats::read(&file)?, None)?;
                Some((file, report))
            }
        };
        judged.push(Judged { case: name.to_string(), found });
    }
    if let Some((stem, file)) = results.first() {
        let known: Vec<String> = judged.iter().map(|judged| judged.case.clone()).collect();
        let hint =
            crate::error::nearest(stem, &known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        return Err(Error::format(file, None, format!("the pack has no case `{stem}`{hint}")));
    }
    Ok(judged)
}

/// Every file of tensors in a folder, with its name without the extension and without `.out`.
fn results_in(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |error| Error::io(folder, "read", error);
    let mut results: Vec<(String, PathBuf)> = Vec::new();
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if formats::Format::of_extension(&path).is_err() || !path.is_file() {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let stem = stem.strip_suffix(".out").map(str::to_string).unwrap_or(stem);
        if let Some((_, other)) = results.iter().find(|(other, _)| *other == stem) {
            let message = format!("{} is a result of the same case; keep only one of them", other.display());
            return Err(Error::format(&path, None, message));
        }
        results.push((stem, path));
    }
    results.sort();
    Ok(results)
}
