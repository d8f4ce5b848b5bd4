//! The written form of a schedule, `warmup:5@0.1+cosine`: parsing and printing. The forms are in the table of [`super`].

use super::{Anneal, Decay, OneCycle, Schedule, TimeUnit, Warmup, WarmupShape, refuse};
use crate::error::nearest;
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The forms that [`Schedule::from_str`] parses: name, example, meaning.
const FORMS: [(&str, &str, &str); 7] = [
    ("constant", "constant", "the base rate throughout"),
    ("multistep", "multistep:80,110,130@0.1", "x0.1 at epochs 80, 110 and 130; 32000s,48000s counts steps"),
    ("step", "step:10@0.1", "x0.1 every 10 epochs; 1000s counts steps"),
    ("cosine", "cosine", "half a cosine to 0; cosine@0.001 ends at 0.001; cosine:epoch changes once per epoch"),
    ("onecycle", "onecycle", "up, then down; onecycle:pct_start=0.3,div_factor=25,final_div_factor=10000,anneal=cos"),
    (
        "warmup",
        "warmup:5@0.1+cosine",
        "before any other: 5 epochs from 0.1 of the rate to the full rate; 400s counts steps",
    ),
    ("hold", "hold:400s@0.1+constant", "before any other: 400 steps at 0.1 of the rate"),
];

impl FromStr for Schedule {
    type Err = Error;

    /// Parses what [`Display`](fmt::Display) writes.
    ///
    /// ```
    /// use resnet_by_hand::optim::Schedule;
    /// let error = "multistp:80@0.1".parse::<Schedule>().unwrap_err().to_string();
    /// assert!(error.contains("did you mean `multistep`?") && error.contains("onecycle"));
    /// ```
    fn from_str(text: &str) -> Result<Self> {
        read(text.trim()).map_err(|error| match error {
            Error::Argument { op, message } => {
                let width = FORMS.iter().map(|(_, example, _)| example.len()).max().unwrap_or(0);
                let forms: String =
                    FORMS.map(|(_, example, meaning)| format!("\n  {example:width$}  {meaning}")).concat();
                Error::argument(op, format!("cannot use `{text}`: {message}\nknown forms:{forms}"))
            }
            other => other,
        })
    }
}

fn read(text: &str) -> Result<Schedule> {
    // name[:arguments][@value]; only warmup and hold are followed by +schedule.
    let name = text.split([':', '@', '+']).next().unwrap_or(text);
    let shape = match name {
        "warmup" => WarmupShape::Linear,
        "hold" => WarmupShape::Constant,
        _ => return Schedule::new(read_decay(text)?),
    };
    let Some((front, behind)) = text.split_once('+') else {
        return refuse(format!("{name} must be followed by another schedule, e.g. `{text}+constant`"));
    };
    let (_, arguments, value) = parts(front);
    let (length, unit) = read_count(name, required(name, "a length", arguments)?)?;
    let start_factor = read_number(name, required(name, "a factor", value)?)?;
    if matches!(behind.split([':', '@', '+']).next(), Some("warmup" | "hold")) {
        return refuse("only one warm-up is allowed");
    }
    Schedule::new(read_decay(behind)?)?.with_warmup(Warmup { shape, length, unit, start_factor })
}

fn read_decay(text: &str) -> Result<Decay> {
    let (name, arguments, value) = parts(text);
    match name {
        "constant" => {
            absent(name, "`:`", arguments)?;
            absent(name, "`@`", value)?;
            Ok(Decay::Constant)
        }
        "multistep" => {
            let (mut milestones, mut units) = (Vec::new(), Vec::new());
            for item in required(name, "milestones", arguments)?.split(',') {
                let (milestone, unit) = read_count(name, item)?;
                milestones.push(milestone);
                units.push(unit);
            }
            let unit = units[0];
            if units.iter().any(|&other| other != unit) {
                return refuse("milestones must be all in epochs or all in steps");
            }
            Ok(Decay::MultiStep { milestones, unit, gamma: read_number(name, required(name, "a factor", value)?)? })
        }
        "step" => {
            let (every, unit) = read_count(name, required(name, "a length", arguments)?)?;
            Ok(Decay::Step { every, unit, gamma: read_number(name, required(name, "a factor", value)?)? })
        }
        "cosine" => {
            let unit = match arguments {
                None => TimeUnit::Step,
                Some("epoch") => TimeUnit::Epoch,
                Some(other) => return refuse(format!("cosine takes only `epoch` after `:`, got `{other}`")),
            };
            Ok(Decay::Cosine { unit, eta_min: value.map_or(Ok(0.0), |value| read_number(name, value))? })
        }
        "onecycle" => {
            absent(name, "`@`", value)?;
            let mut cycle = OneCycle::default();
            for item in arguments.into_iter().flat_map(|arguments| arguments.split(',')) {
                match item.split_once('=') {
                    Some(("pct_start", value)) => cycle.pct_start = read_number(name, value)?,
                    Some(("div_factor", value)) => cycle.div_factor = read_number(name, value)?,
                    Some(("final_div_factor", value)) => cycle.final_div_factor = read_number(name, value)?,
                    Some(("anneal", "cos")) => cycle.anneal = Anneal::Cos,
                    Some(("anneal", "linear")) => cycle.anneal = Anneal::Linear,
                    _ => {
                        return refuse(format!(
                            "onecycle takes pct_start=, div_factor=, final_div_factor= and anneal=cos or linear, \
                             got `{item}`"
                        ));
                    }
                }
            }
            Ok(Decay::OneCycle(cycle))
        }
        _ => {
            let known = FORMS.map(|(name, ..)| name.to_string());
            let hint = nearest(name, &known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            refuse(format!("unknown schedule `{name}`{hint}"))
        }
    }
}

/// The parts of `name[:arguments][@value]`.
fn parts(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (head, value) = text.split_once('@').map_or((text, None), |(head, value)| (head, Some(value)));
    let (name, arguments) = head.split_once(':').map_or((head, None), |(name, arguments)| (name, Some(arguments)));
    (name, arguments, value)
}

fn required<'a>(name: &str, what: &str, part: Option<&'a str>) -> Result<&'a str> {
    match part {
        Some(part) if !part.is_empty() => Ok(part),
        _ => refuse(format!("{name} needs {what}")),
    }
}

fn absent(name: &str, what: &str, part: Option<&str>) -> Result<()> {
    match part {
        None => Ok(()),
        Some(part) => refuse(format!("{name} takes nothing after {what}, got `{part}`")),
    }
}

fn read_number(name: &str, text: &str) -> Result<f64> {
    text.parse().or_else(|_| refuse(format!("{name} expects a number, got `{text}`")))
}

/// `80` (epochs) or `32000s` (steps).
fn read_count(name: &str, text: &str) -> Result<(usize, TimeUnit)> {
    let (digits, unit) = text.strip_suffix('s').map_or((text, TimeUnit::Epoch), |digits| (digits, TimeUnit::Step));
    match digits.parse() {
        Ok(count) => Ok((count, unit)),
        Err(_) => refuse(format!("{name} expects whole numbers such as 80 (epochs) or 32000s (steps), got `{text}`")),
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |unit| match unit {
            TimeUnit::Epoch => "",
            TimeUnit::Step => "s",
        };
        if let Some(Warmup { shape, length, unit, start_factor }) = self.warmup {
            let name = match shape {
                WarmupShape::Linear => "warmup",
                WarmupShape::Constant => "hold",
            };
            write!(f, "{name}:{length}{}@{start_factor}+", suffix(unit))?;
        }
        match &self.decay {
            Decay::Constant => f.write_str("constant"),
            Decay::MultiStep { milestones, unit, gamma } => {
                let milestones: Vec<_> = milestones.iter().map(|m| format!("{m}{}", suffix(*unit))).collect();
                write!(f, "multistep:{}@{gamma}", milestones.join(","))
            }
            Decay::Step { every, unit, gamma } => write!(f, "step:{every}{}@{gamma}", suffix(*unit)),
            Decay::Cosine { unit, eta_min } => {
                f.write_str(match unit {
                    TimeUnit::Epoch => "cosine:epoch",
                    TimeUnit::Step => "cosine",
                })?;
                if *eta_min == 0.0 { Ok(()) } else { write!(f, "@{eta_min}") }
            }
            Decay::OneCycle(cycle) => {
                let default = OneCycle::default();
                let mut changed = Vec::new();
                for (name, value, usual) in [
                    ("pct_start", cycle.pct_start, default.pct_start),
                    ("div_factor", cycle.div_factor, default.div_factor),
                    ("final_div_factor", cycle.final_div_factor, default.final_div_factor),
                ] {
                    if value != usual {
                        changed.push(format!("{name}={value}"));
                    }
                }
                if cycle.anneal == Anneal::Linear {
                    changed.push("anneal=linear".into());
                }
                write!(f, "onecycle{}{}", if changed.is_empty() { "" } else { ":" }, changed.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TrainingTime;
    use super::super::tests::{WRITTEN, schedule};
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        for text in WRITTEN {
            assert_eq!(schedule(text).to_string(), text);
        }
        assert_eq!(schedule(" onecycle:anneal=cos,pct_start=0.3 ").to_string(), "onecycle");
        assert_eq!(schedule("cosine@1e-5"), schedule("cosine@0.00001"));
        for (_, example, _) in FORMS {
            assert_eq!(schedule(example).to_string(), example);
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (text, reason) in [
            ("", "unknown schedule ``"),
            ("cosin", "did you mean `cosine`?"),
            ("constant:1", "constant takes nothing after `:`, got `1`"),
            ("constant@1", "constant takes nothing after `@`, got `1`"),
            ("constant+cosine", "unknown schedule `constant+cosine`"),
            ("step:10@0.1+cosine", "step expects a number, got `0.1+cosine`"),
            ("multistep", "multistep needs milestones"),
            ("multistep:@0.1", "multistep needs milestones"),
            ("multistep:80,110", "multistep needs a factor"),
            ("multistep:80,,110@0.1", "got ``"),
            ("multistep:-1@0.1", "got `-1`"),
            ("multistep:110,80@0.1", "milestones must be increasing and at least 1, got [110, 80]"),
            ("multistep:80,80@0.1", "milestones must be increasing"),
            ("multistep:0,80@0.1", "milestones must be increasing and at least 1"),
            ("multistep:80,32000s@0.1", "milestones must be all in epochs or all in steps"),
            ("multistep:80@0", "gamma must be greater than 0 and at most 1, got 0"),
            ("multistep:80@-0.1", "gamma must be"),
            ("multistep:80@10", "gamma must be"),
            ("multistep:80@nan", "gamma must be"),
            ("step:0@0.1", "the length of a step must be at least 1, got 0"),
            ("step:10@x", "step expects a number, got `x`"),
            ("step:10@2", "gamma must be"),
            ("cosine:step", "cosine takes only `epoch` after `:`, got `step`"),
            ("cosine@-1", "eta_min must be finite and at least 0, got -1"),
            ("cosine@inf", "eta_min must be"),
            ("onecycle@0.1", "onecycle takes nothing after `@`"),
            ("onecycle:pct_start=0", "pct_start must be between 0 and 1, got 0"),
            ("onecycle:pct_start=1", "pct_start must be between 0 and 1, got 1"),
            ("onecycle:pct_start=nan", "pct_start must be"),
            ("onecycle:div_factor=0", "div_factor must be finite and at least 1, got 0"),
            ("onecycle:final_div_factor=inf", "final_div_factor must be"),
            ("onecycle:anneal=log", "got `anneal=log`"),
            ("warmup:5@0.1", "warmup must be followed by another schedule"),
            ("warmup:0@0.1+cosine", "the length of a warm-up must be at least 1, got 0"),
            ("warmup:5+cosine", "warmup needs a factor"),
            ("warmup:5@0+cosine", "the factor of a warm-up must be greater than 0 and at most 1, got 0"),
            ("warmup:5@0.1+hold:5@0.1+cosine", "only one warm-up"),
        ] {
            let message = text.parse::<Schedule>().map(|s| s.to_string()).unwrap_err().to_string();
            assert!(message.contains(reason), "`{text}`: {message}");
            assert!(FORMS.iter().all(|(_, example, _)| message.contains(example)), "`{text}`: {message}");
        }
        let none = Decay::MultiStep { milestones: vec![], unit: TimeUnit::Epoch, gamma: 0.1 };
        let message = Schedule::new(none).unwrap_err().to_string();
        assert_eq!(message, "schedule: multistep expects at least one milestone; without any, write `constant`");
        assert!(TrainingTime::new(0, 0, 1).is_err() && TrainingTime::new(0, 1, 0).is_err());
        assert!(TrainingTime::in_epoch(0, 0, 5, 0).is_err());
    }
}
