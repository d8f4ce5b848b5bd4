//! Flags that several subcommands share, and the parsers of values. Parsing is strict: a typo is an error and never starts
//! a run.

use super::{Failure, Result};
use crate::Error;
use crate::data::{Normalization, mixup::check_alpha};
use crate::engine::{Algorithm, Engine};
use crate::model::Architecture;
use crate::train::{Executor, Reference, Validation};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The largest batch size and number of epochs: far more than anyone runs, and small enough that no product of sizes
/// exceeds 64 bits.
pub const MOST: usize = 100_000;

/// The largest number of checkpoints to keep.
pub const MOST_CHECKPOINTS: usize = 1000;

/// The largest number of runs of `--repeat`.
pub const MOST_RUNS: usize = 1000;

/// A whole number in `least..=most`.
pub fn count(least: usize, most: usize) -> impl Fn(&str) -> std::result::Result<usize, String> + Clone {
    move |text| {
        let value = text.parse().ok().filter(|value| (least..=most).contains(value));
        value.ok_or_else(|| match most {
            usize::MAX => format!("expected a whole number, at least {least}"),
            most => format!("expected a whole number from {least} to {most}"),
        })
    }
}

/// The number of shards of a batch.
pub fn shards(text: &str) -> std::result::Result<usize, String> {
    let value = text.parse().ok().filter(|value: &usize| value.is_power_of_two() && *value <= 4096);
    value.ok_or_else(|| "expected a power of two: 1, 2, 4, 8, ... up to 4096".to_string())
}

/// A number of images held out for validation, or `folder`.
pub fn validation(text: &str) -> std::result::Result<Validation, String> {
    text.parse().map_err(|_| "expected a whole number, at least 0, or `folder`".to_string())
}

/// A seed.
pub fn seed(text: &str) -> std::result::Result<u64, String> {
    text.parse().map_err(|_| format!("expected a whole number from 0 to {}", u64::MAX))
}

/// A finite number above 0.
pub fn positive(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number above 0, such as 0.1 or 1e-3", |value| value > 0.0)
}

/// A finite number, 0 or more.
pub fn not_negative(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number that is 0 or above, such as 5e-4", |value| value >= 0.0)
}

/// A number from 0 to 1.
pub fn share(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number from 0 to 1, such as 0.1", |value| (0.0..=1.0).contains(&value))
}

/// The share of the target that is spread: of 1 nothing would be left.
pub fn smoothing(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number from 0 to below 1, such as 0.1", |value| (0.0..1.0).contains(&value))
}

/// A number from 0 to below 1.
pub fn decay(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number from 0 to below 1, such as 0.999", |value| (0.0..1.0).contains(&value))
}

/// α of mixup.
pub fn alpha(text: &str) -> std::result::Result<f64, String> {
    number(text, "a number from 0 to 100, such as 0.2", |value| check_alpha(value).is_ok())
}

fn number(text: &str, expected: &str, fits: impl Fn(f64) -> bool) -> std::result::Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && fits(*value));
    value.ok_or_else(|| format!("expected {expected}"))
}

/// A duration, such as `90s`, `10m` or `1.5h`.
pub fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || "expected a duration such as 90s, 10m or 1.5h".to_string();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        _ => return Err(wrong()),
    };
    let count: f64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    Some(count * seconds)
        .filter(|seconds| *seconds > 0.0 && *seconds < 1e9)
        .map(Duration::from_secs_f64)
        .ok_or_else(wrong)
}

/// Formats a duration so that [`duration`] can parse it.
pub fn write_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match [(3600.0, "h"), (60.0, "m")].into_iter().find(|(unit, _)| seconds % unit == 0.0) {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

/// A number of hours.
pub fn hours(text: &str) -> std::result::Result<Duration, String> {
    let hours = number(text, "a number of hours above 0, such as 12 or 0.5", |hours| hours > 0.0 && hours < 1e6)?;
    Ok(Duration::from_secs_f64(3600.0 * hours))
}

/// Three numbers, `R,G,B`.
pub fn three(text: &str) -> std::result::Result<[f64; 3], String> {
    let values: Option<Vec<f64>> =
        text.split(',').map(|part| part.trim().parse().ok().filter(|value: &f64| value.is_finite())).collect();
    let values = values.and_then(|values| <[f64; 3]>::try_from(values).ok());
    values.ok_or_else(|| "expected three numbers for red, green and blue, such as 0.4914,0.4822,0.4465".to_string())
}

/// Formats three numbers so that [`three`] can parse them.
pub fn write_three(values: [f64; 3]) -> String {
    values.map(|value| value.to_string()).join(",")
}

/// A size in pixels, `HxW`.
pub fn image_size(text: &str) -> std::result::Result<[usize; 2], String> {
    let side = |part: &str| part.parse().ok().filter(|side| (1..=2048).contains(side));
    let sides = text.split_once('x').and_then(|(height, width)| Some([side(height)?, side(width)?]));
    sides.ok_or_else(|| "expected height x width, each from 1 to 2048, such as 32x32".to_string())
}

/// The network named `name`; the error lists the known names.
pub fn model(name: &str) -> std::result::Result<Architecture, Error> {
    Architecture::by_name(name)
}

/// The number type of a computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Float {
    F32,
    F64,
}

/// Which implementation computes: the engine or the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineKind {
    /// The engine: f32, written for speed
    Fast,
    /// The reference: the layers that the documentation explains, several times slower
    Reference,
}

impl EngineKind {
    /// Its name on the command line and in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Fast => "fast",
            EngineKind::Reference => "reference",
        }
    }

    /// The implementation named `name`.
    pub fn by_name(name: &str) -> Result<Self> {
        match name {
            "fast" => Ok(EngineKind::Fast),
            "reference" => Ok(EngineKind::Reference),
            other => Err(Failure::Usage(format!("unknown engine `{other}`; known engines: fast, reference"))),
        }
    }

    /// The executor for `f32`, with the convolution algorithm `conv` if given.
    pub fn executor(self, conv: Option<Algorithm>) -> Result<Arc<dyn Executor<f32>>> {
        match (self, conv) {
            (EngineKind::Fast, conv) => Ok(Arc::new(Engine::new(conv.unwrap_or_default()))),
            (EngineKind::Reference, None | Some(Algorithm::Auto)) => Ok(Arc::new(Reference)),
            (EngineKind::Reference, Some(conv)) => Err(Failure::Usage(format!(
                "--conv {} selects an algorithm of the engine, but --engine reference has only one; remove --conv",
                conv.name()
            ))),
        }
    }
}

/// Which implementation computes the passes of a network.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Computation")]
pub struct EngineArgs {
    /// Implementation to compute with [default: fast]
    ///
    /// Both give the same result up to rounding.
    #[arg(long, value_name = "NAME", verbatim_doc_comment)]
    pub engine: Option<EngineKind>,

    /// Algorithm of the engine's convolutions [default: auto]
    ///
    /// For comparisons: it changes speed and memory, and the results only by rounding. A layer whose
    /// shape the algorithm does not support uses the algorithm that `auto` selects.
    #[arg(long, value_name = "NAME", value_parser = algorithm(), verbatim_doc_comment)]
    pub conv: Option<Algorithm>,
}

impl EngineArgs {
    /// The executor for `f32`.
    pub fn executor(&self) -> Result<Arc<dyn Executor<f32>>> {
        self.engine.unwrap_or(EngineKind::Fast).executor(self.conv)
    }

    /// The executor for `f64`: the reference. The engine supports only `f32`.
    pub fn executor_in_f64(&self) -> Result<Arc<dyn Executor<f64>>> {
        if self.engine == Some(EngineKind::Fast) {
            let message = "--engine fast computes only in f32; remove --engine, or use --dtype f32";
            return Err(Failure::Usage(message.to_string()));
        }
        EngineKind::Reference.executor(self.conv)?;
        Ok(Arc::new(Reference))
    }
}

/// The names come from the library, so the help lists every algorithm.
pub fn algorithm() -> impl TypedValueParser<Value = Algorithm> {
    let value = |(name, algorithm)| match algorithm {
        // Its name in older versions.
        Algorithm::Indirect => PossibleValue::new(name).alias("implicit"),
        _ => PossibleValue::new(name),
    };
    PossibleValuesParser::new(Algorithm::ALL.map(value)).try_map(|name| Algorithm::by_name(&name))
}

/// How the images are normalised.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Normalisation")]
pub struct NormalizationArgs {
    /// Mean of red, green and blue on the scale 0 to 1
    #[arg(long, value_name = "R,G,B", value_parser = three, requires = "std", allow_hyphen_values = true)]
    pub mean: Option<[f64; 3]>,

    /// Standard deviation of red, green and blue on the scale 0 to 1
    #[arg(long, value_name = "R,G,B", value_parser = three, requires = "mean", allow_hyphen_values = true)]
    pub std: Option<[f64; 3]>,
}

impl NormalizationArgs {
    /// The normalisation that the two flags give, if any.
    pub fn given(&self) -> Result<Option<Normalization>> {
        let (Some(mean), Some(std)) = (self.mean, self.std) else {
            return Ok(None);
        };
        if std.iter().any(|&std| std <= 0.0) {
            return Err(Failure::Usage(format!("--std must be above 0 for every colour, got {}", write_three(std))));
        }
        let normalization = Normalization::new(mean, std);
        normalization.map(Some).map_err(|error| Failure::Usage(format!("--mean and --std: {error}")))
    }
}

/// Rejects an output that is a folder, or that exists and may not be replaced, before anything is read.
pub fn check_output(output: &Path, force: bool) -> Result<()> {
    let path = output.display();
    if output.is_dir() {
        return Err(Failure::Failed(format!("{path} is a folder; give the name of a file")));
    }
    if output.exists() && !force {
        return Err(Failure::Failed(format!("{path} already exists and was not changed; use --force to replace it")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_strictly() {
        assert_eq!((positive("1e-3"), not_negative("0"), share("1")), (Ok(1e-3), Ok(0.0), Ok(1.0)));
        for wrong in ["0", "-1", "nan", "inf", "0.1x", "", "1e999"] {
            assert!(positive(wrong).is_err(), "{wrong}");
        }
        assert!(not_negative("-0.1").is_err() && not_negative("nan").is_err() && share("1.01").is_err());
    }

    #[test]
    fn durations() {
        for (text, seconds, written) in [("90s", 90.0, "90s"), ("10m", 600.0, "10m"), ("1.5h", 5400.0, "90m")] {
            let read = duration(text).unwrap();
            assert_eq!((read.as_secs_f64(), write_duration(read)), (seconds, written.to_string()));
        }
        for text in ["0.001s", "7h", "0.1s", "86399.5s"] {
            assert_eq!(write_duration(duration(text).unwrap()), text);
        }
        for wrong in ["10", "0s", "-1m", "1d", "", "h", "nan s", "1e99h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(hours("0.5"), Ok(Duration::from_secs(1800)));
        assert!(hours("0").is_err() && hours("1e9").is_err() && hours("2h").is_err());
    }

    #[test]
    fn whole_numbers_have_bounds() {
        let count = count(1, 10);
        assert_eq!((count("1"), count("10")), (Ok(1), Ok(10)));
        for wrong in ["0", "11", "-1", "1.0", "", "99999999999999999999"] {
            assert_eq!(count(wrong), Err("expected a whole number from 1 to 10".to_string()), "{wrong}");
        }
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert!(seed("-1").is_err());
    }

    #[test]
    fn triples_and_sizes() {
        assert_eq!(three("0.5, 0.25,1"), Ok([0.5, 0.25, 1.0]));
        assert_eq!(three(&write_three([0.1, 1.0 / 3.0, 2e-9])), Ok([0.1, 1.0 / 3.0, 2e-9]));
        for wrong in ["1,2", "1,2,3,4", "1,2,nan", "1,,2", "1;2;3"] {
            assert!(three(wrong).is_err(), "{wrong}");
        }
        assert_eq!(image_size("32x48"), Ok([32, 48]));
        for wrong in ["32", "0x32", "32x", "32x32x3", "4096x32", "-1x3"] {
            assert!(image_size(wrong).is_err(), "{wrong}");
        }
    }
}
