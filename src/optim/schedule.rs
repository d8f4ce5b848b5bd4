//! The learning rate η as a pure function of the position in the run.
//!
//! A schedule holds no counter and changes nothing: [`Schedule::lr`] maps (base rate, position) to a rate. A resumed
//! run, a plot of the curve and the training loop all ask the same question and get the same number.
//!
//! # Equations
//! t is the step, counted from 0, and e = ⌊t / steps per epoch⌋ the epoch; T and E are the whole run's number of each.
//! A schedule written in epochs looks only at e, so that η is constant within an epoch, as when PyTorch's
//! `scheduler.step()` is called once an epoch.
//!
//! ```text
//! constant                  η = base
//! multistep:m₁,m₂,…@γ       η = base γᵏ,  k = number of milestones mᵢ ≤ e       (mᵢ ≤ t if written 32000s)
//! step:n@γ                  η = base γᵏ,  k = ⌊e / n⌋                           (⌊t / n⌋ if written 1000s)
//! cosine@η_min              η = η_min + (base − η_min)(1 + cos(π t/T))/2        (e/E if written cosine:epoch)
//! onecycle                  from base/div_factor up to base at t = pct_start·T − 1,
//!                           down to base/(div_factor·final_div_factor) at t = T − 1;
//!                           between a and b: b + (a − b)(1 + cos(π s))/2, or linearly a + (b − a) s, 0 ≤ s ≤ 1
//! warmup:n@f+…              η is multiplied by f + (1 − f) t/W for t < W        (W = n epochs, or n steps if ns)
//! hold:n@f+…                η is multiplied by f for t < W
//! ```
//!
//! # Sources and conventions
//! - Milestones: He et al. 2015 §4.2, 0.1 divided by 10 at 32k and 48k of 64k iterations:
//!   `multistep:32000s,48000s@0.1`. A milestone is the first epoch or step with the new rate, counted from 0. base γᵏ is
//!   k multiplications from the left, as in PyTorch, where each milestone multiplies the current rate; computing γᵏ
//!   first may round otherwise.
//! - Cosine: Loshchilov & Hutter 2016 (arXiv 1608.03983) eq. 5 without restarts; theirs moves every step, the default
//!   here. PyTorch's `CosineAnnealingLR(T_max=T)` computes the same by a recursion that gathers rounding errors.
//! - One cycle: Smith & Topin 2017 (arXiv 1708.07120) in the form of PyTorch's `OneCycleLR`, whose `max_lr` is our
//!   base rate. It also cycles the momentum between 0.95 and 0.85 unless told `cycle_momentum=False`; this does not.
//! - Warm-up: Goyal et al. 2017 (arXiv 1706.02677) §2.2. `warmup` is their gradual warm-up (PyTorch's `LinearLR`),
//!   which moves every step even when its length is given in epochs; `hold` their constant one (`ConstantLR`), which
//!   He et al. 2015 §4.2 use for 110 layers: 0.01 for about 400 iterations, then 0.1, is
//!   `hold:400s@0.1+multistep:32000s,48000s@0.1`.
//! - Warm-up is a factor and shifts nothing: epoch 80 behind `warmup:5@0.1+` is still the 80th of the run, as in Goyal
//!   et al. This is PyTorch's `ChainedScheduler`; its `SequentialLR` would start the second schedule's count at 5.
//! - At and after the end of the run (t ≥ T) the schedule stays where it ended: cosine at η_min, one cycle at its last
//!   rate.
//!
//! # Errors
//! [`Schedule::new`] refuses what has no meaning (no or unsorted milestones, γ outside (0, 1], `pct_start` outside
//! (0, 1), lengths of 0), so that every `Schedule` turns a finite base rate into one in [0, max(base, η_min)], up to rounding, everywhere. The
//! PyTorch write-up shows why: its function overwrote the argument `base_lr` with 0.1 and assigned the rate
//! only inside the branch "there are milestones", so that every base rate was 0.1 and a schedule without milestones had
//! none. Here the base rate is an argument that nothing can overwrite, "no milestones" is called [`Decay::Constant`],
//! and `match` has no branch without a value.
//!
//! # Example
//! ```
//! use resnet_by_hand::optim::{TrainingTime, Schedule};
//! let schedule: Schedule = "multistep:2,3@0.5".parse()?;
//! // Four epochs of ten steps.
//! let rates = [0, 19, 20, 29, 30, 39].map(|step| schedule.lr(8.0, TrainingTime::new(step, 10, 40).unwrap()));
//! assert_eq!(rates, [8.0, 8.0, 4.0, 4.0, 2.0, 2.0]);
//!
//! // A first epoch from a quarter up to the whole, by the step: 1/4 + 3/4 · t/10.
//! let schedule: Schedule = "warmup:1@0.25+multistep:2,3@0.5".parse()?;
//! let rates = [0, 5, 10].map(|step| schedule.lr(8.0, TrainingTime::new(step, 10, 40).unwrap()));
//! assert_eq!(rates, [2.0, 5.0, 8.0]);
//!
//! let schedule: Schedule = "cosine".parse()?;
//! assert_eq!(schedule.lr(8.0, TrainingTime::new(0, 10, 40)?), 8.0);
//! assert!((schedule.lr(8.0, TrainingTime::new(20, 10, 40)?) - 4.0).abs() < 1e-15);
//! assert_eq!(schedule.to_string(), "cosine");
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use crate::error::nearest;
use crate::{Error, Result};
use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

/// What a schedule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Passes over the training set.
    Epoch,
    /// Updates of the parameters, "iterations" in He et al. 2015.
    Step,
}

/// A position in a run: step `step` of `total_steps`, `steps_per_epoch` of them to an epoch.
///
/// ```
/// use resnet_by_hand::optim::TrainingTime;
/// // 50,000 images in batches of 64 are 782 steps an epoch, 10 epochs.
/// let progress = TrainingTime::in_epoch(3, 7, 782, 10)?;
/// assert_eq!((progress.step(), progress.total_steps()), (3 * 782 + 7, 7820));
/// assert_eq!((progress.epoch(), progress.step_in_epoch()), (3, 7));
/// // He et al. 2015: 64k iterations of 391 to an epoch end within epoch 163, the 164th.
/// assert_eq!(TrainingTime::new(63_999, 391, 64_000)?.epochs(), 164);
/// # Ok::<(), resnet_by_hand::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingTime {
    step: usize,
    steps_per_epoch: usize,
    total_steps: usize,
}

impl TrainingTime {
    /// Before update number `step`, counted from 0 over the whole run. `step` may be `total_steps` or more.
    ///
    /// # Errors
    /// If `steps_per_epoch` or `total_steps` is 0.
    pub fn new(step: usize, steps_per_epoch: usize, total_steps: usize) -> Result<Self> {
        if steps_per_epoch == 0 || total_steps == 0 {
            let message = format!("expects at least one step, got {steps_per_epoch} an epoch and {total_steps} in all");
            return Err(Error::argument("progress", message));
        }
        Ok(TrainingTime { step, steps_per_epoch, total_steps })
    }

    /// Before step `step_in_epoch` of epoch `epoch`, both counted from 0, in a run of whole epochs.
    ///
    /// # Errors
    /// If `steps_per_epoch` or `epochs` is 0.
    pub fn in_epoch(epoch: usize, step_in_epoch: usize, steps_per_epoch: usize, epochs: usize) -> Result<Self> {
        TrainingTime::new(epoch * steps_per_epoch + step_in_epoch, steps_per_epoch, epochs * steps_per_epoch)
    }

    /// Updates done so far.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Epochs completed so far.
    pub fn epoch(&self) -> usize {
        self.step / self.steps_per_epoch
    }

    /// Updates done so far in this epoch.
    pub fn step_in_epoch(&self) -> usize {
        self.step % self.steps_per_epoch
    }

    /// Updates in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps_per_epoch
    }

    /// Updates in the whole run.
    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Epochs in the whole run, one that is only begun included.
    pub fn epochs(&self) -> usize {
        self.total_steps.div_ceil(self.steps_per_epoch)
    }

    /// Units done so far, and in the whole run.
    fn counted(&self, unit: TimeUnit) -> (usize, usize) {
        match unit {
            TimeUnit::Epoch => (self.epoch(), self.epochs()),
            TimeUnit::Step => (self.step, self.total_steps),
        }
    }
}

/// How the rate goes down; [`Schedule::new`] checks it. The equations are in the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub enum Decay {
    /// The base rate throughout.
    Constant,
    /// Times `gamma` at each milestone.
    MultiStep {
        /// The first epoch or step of each lower rate; increasing, none of them 0.
        milestones: Vec<usize>,
        /// What the milestones count.
        unit: TimeUnit,
        /// Factor in (0, 1].
        gamma: f64,
    },
    /// Times `gamma` after every `every` epochs or steps.
    Step {
        /// Length of a stair, at least 1.
        every: usize,
        /// What `every` counts.
        unit: TimeUnit,
        /// Factor in (0, 1].
        gamma: f64,
    },
    /// Half a cosine from the base rate to `eta_min` over the whole run.
    Cosine {
        /// Whether the rate moves at every step or once an epoch.
        unit: TimeUnit,
        /// The rate at the end, at least 0.
        eta_min: f64,
    },
    /// Up to the base rate and down again.
    OneCycle(OneCycle),
}

/// The numbers of [`Decay::OneCycle`], under PyTorch's names and with its defaults. Its `max_lr` is the base rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneCycle {
    /// Share of the run spent going up, in (0, 1).
    pub pct_start: f64,
    /// The first rate is base / `div_factor`.
    pub div_factor: f64,
    /// The last rate is the first / `final_div_factor`.
    pub final_div_factor: f64,
    /// The shape of both slopes.
    pub anneal: Anneal,
}

impl Default for OneCycle {
    fn default() -> Self {
        OneCycle { pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4, anneal: Anneal::Cos }
    }
}

/// A way from one rate to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anneal {
    /// Half a cosine.
    Cos,
    /// A straight line.
    Linear,
}

impl Anneal {
    /// The rate at share `s` of the way from `start` to `end`; the operations are PyTorch's, in its order.
    fn between(self, start: f64, end: f64, s: f64) -> f64 {
        match self {
            Anneal::Cos => end + (start - end) / 2.0 * ((PI * s).cos() + 1.0),
            Anneal::Linear => (end - start) * s + start,
        }
    }
}

/// A gentle start: for the first `length` epochs or steps the rate is multiplied by a factor below 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// How the factor goes from `start_factor` to 1.
    pub shape: WarmupShape,
    /// Length, at least 1.
    pub length: usize,
    /// What `length` counts. The factor moves at every step in either case.
    pub unit: TimeUnit,
    /// The factor of the first step, in (0, 1].
    pub start_factor: f64,
}

/// The two shapes of [`Warmup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmupShape {
    /// Written `warmup`: in a straight line up to 1.
    Linear,
    /// Written `hold`: at `start_factor`, then 1 at once.
    Constant,
}

impl Warmup {
    fn factor(&self, progress: TrainingTime) -> f64 {
        let steps = match self.unit {
            TimeUnit::Epoch => self.length.saturating_mul(progress.steps_per_epoch),
            TimeUnit::Step => self.length,
        };
        if progress.step >= steps {
            return 1.0;
        }
        match self.shape {
            WarmupShape::Linear => self.start_factor + (1.0 - self.start_factor) * progress.step as f64 / steps as f64,
            WarmupShape::Constant => self.start_factor,
        }
    }
}

/// A [`Decay`], perhaps behind a [`Warmup`], known to be valid. Written and read as in the [module](self)'s table.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    decay: Decay,
    warmup: Option<Warmup>,
}

impl Schedule {
    /// The base rate throughout.
    pub fn constant() -> Self {
        Schedule { decay: Decay::Constant, warmup: None }
    }

    /// `decay` without warm-up.
    ///
    /// # Errors
    /// If a number of `decay` is outside the range that stands beside it.
    pub fn new(decay: Decay) -> Result<Self> {
        match &decay {
            Decay::Constant => {}
            Decay::MultiStep { milestones, gamma, .. } => {
                if milestones.is_empty() {
                    return refuse("multistep expects at least one milestone; without any, write `constant`");
                }
                if milestones[0] == 0 || !milestones.is_sorted_by(|a, b| a < b) {
                    return refuse(format!("milestones must be increasing and at least 1, got {milestones:?}"));
                }
                check_share("gamma", *gamma)?;
            }
            Decay::Step { every, gamma, .. } => {
                if *every == 0 {
                    return refuse("the length of a step must be at least 1, got 0");
                }
                check_share("gamma", *gamma)?;
            }
            Decay::Cosine { eta_min, .. } => {
                if !(*eta_min >= 0.0 && eta_min.is_finite()) {
                    return refuse(format!("eta_min must be finite and at least 0, got {eta_min}"));
                }
            }
            Decay::OneCycle(OneCycle { pct_start, div_factor, final_div_factor, .. }) => {
                if !(*pct_start > 0.0 && *pct_start < 1.0) {
                    return refuse(format!("pct_start must lie between 0 and 1, got {pct_start}"));
                }
                for (name, factor) in [("div_factor", div_factor), ("final_div_factor", final_div_factor)] {
                    if !(*factor >= 1.0 && factor.is_finite()) {
                        return refuse(format!("{name} must be finite and at least 1, got {factor}"));
                    }
                }
            }
        }
        Ok(Schedule { decay, warmup: None })
    }

    /// The same behind `warmup`, instead of the warm-up it had.
    ///
    /// # Errors
    /// If the length is 0 or the factor outside (0, 1].
    pub fn with_warmup(self, warmup: Warmup) -> Result<Self> {
        if warmup.length == 0 {
            return refuse("the length of a warm-up must be at least 1, got 0");
        }
        check_share("the factor of a warm-up", warmup.start_factor)?;
        Ok(Schedule { warmup: Some(warmup), ..self })
    }

    /// How the rate goes down.
    pub fn decay(&self) -> &Decay {
        &self.decay
    }

    /// The warm-up in front, if there is one.
    pub fn warmup(&self) -> Option<&Warmup> {
        self.warmup.as_ref()
    }

    /// The learning rate η for the update at `progress`, for a run whose base rate is `base_lr`.
    pub fn lr(&self, base_lr: f64, progress: TrainingTime) -> f64 {
        let lr = match &self.decay {
            Decay::Constant => base_lr,
            Decay::MultiStep { milestones, unit, gamma } => {
                let (position, _) = progress.counted(*unit);
                times_power(base_lr, *gamma, milestones.partition_point(|&milestone| milestone <= position))
            }
            Decay::Step { every, unit, gamma } => {
                let (position, _) = progress.counted(*unit);
                times_power(base_lr, *gamma, position / every)
            }
            Decay::Cosine { unit, eta_min } => {
                let (position, total) = progress.counted(*unit);
                let position = position.min(total);
                eta_min + (base_lr - eta_min) * (1.0 + (PI * position as f64 / total as f64).cos()) / 2.0
            }
            Decay::OneCycle(cycle) => {
                let (first, last) = (base_lr / cycle.div_factor, base_lr / cycle.div_factor / cycle.final_div_factor);
                let end = progress.total_steps - 1;
                let t = progress.step.min(end) as f64;
                // With fewer than 1/pct_start steps the top lies at or before step 0: there is only the way down, and
                // neither quotient is 0/0 (the second could be only for pct_start = 1).
                let top = cycle.pct_start * progress.total_steps as f64 - 1.0;
                if top > 0.0 && t <= top {
                    cycle.anneal.between(first, base_lr, t / top)
                } else {
                    cycle.anneal.between(base_lr, last, (t - top) / (end as f64 - top))
                }
            }
        };
        self.warmup.map_or(lr, |warmup| lr * warmup.factor(progress))
    }
}

/// `lr` times `gamma`, `times` times, rounded after each as when every milestone multiplies the current rate.
fn times_power(mut lr: f64, gamma: f64, times: usize) -> f64 {
    for _ in 0..times {
        let next = lr * gamma;
        if next == lr {
            break; // γ = 1 or nothing left to shrink: the remaining products change nothing
        }
        lr = next;
    }
    lr
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::argument("schedule", message))
}

fn check_share(name: &str, value: f64) -> Result<()> {
    if value > 0.0 && value <= 1.0 {
        Ok(())
    } else {
        refuse(format!("{name} must be above 0 and at most 1, got {value}"))
    }
}

/// What [`Schedule::from_str`] reads: name, example, meaning.
const FORMS: [(&str, &str, &str); 7] = [
    ("constant", "constant", "the base rate throughout"),
    ("multistep", "multistep:80,110,130@0.1", "x0.1 from epochs 80, 110, 130 on; 32000s,48000s counts steps"),
    ("step", "step:10@0.1", "x0.1 every 10 epochs; 1000s counts steps"),
    ("cosine", "cosine", "half a cosine to 0; cosine@0.001 ends there; cosine:epoch moves once an epoch"),
    ("onecycle", "onecycle", "up, then down; onecycle:pct_start=0.3,div_factor=25,final_div_factor=10000,anneal=cos"),
    (
        "warmup",
        "warmup:5@0.1+cosine",
        "in front of any other: 5 epochs from 0.1 of the rate up to it; 400s counts steps",
    ),
    ("hold", "hold:400s@0.1+constant", "in front of any other: 400 steps at 0.1 of the rate"),
];

impl FromStr for Schedule {
    type Err = Error;

    /// Reads what [`Display`](fmt::Display) writes.
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
        return refuse(format!("{name} stands in front of another schedule, e.g. `{text}+constant`"));
    };
    let (_, arguments, value) = parts(front);
    let (length, unit) = read_count(name, required(name, "a length", arguments)?)?;
    let start_factor = read_number(name, required(name, "a factor", value)?)?;
    if matches!(behind.split([':', '@', '+']).next(), Some("warmup" | "hold")) {
        return refuse("only one warm-up can stand in front");
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
                return refuse("milestones must be all epochs or all steps");
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
                        ))
                    }
                }
            }
            Ok(Decay::OneCycle(cycle))
        }
        _ => {
            let known = FORMS.map(|(name, ..)| name.to_string());
            let hint = nearest(name, &known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            refuse(format!("no schedule is called `{name}`{hint}"))
        }
    }
}

/// `name[:arguments][@value]` taken apart.
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
                if *eta_min == 0.0 {
                    Ok(())
                } else {
                    write!(f, "@{eta_min}")
                }
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
    use super::*;

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// How far PyTorch's rate and ours may lie apart; u = 2⁻⁵³.
    ///
    /// - Multi-step and step multiply the same numbers in the same order: not at all.
    /// - `hold`: PyTorch multiplies by f and later by 1/f: three roundings, and two milestones on either side may round
    ///   otherwise: 8 u relative to the rate.
    /// - One cycle: the same operations on both sides, but the cosine of two mathematical libraries may differ in its
    ///   last bit, which enters halved, times base: 8 u base covers it and the roundings behind it.
    /// - PyTorch updates cosine and warm-up by recursion, η ← η · factor, with 4 and 7 roundings a step, each relative
    ///   to at most base (the cosines telescope: what one quotient divides by, the one before multiplied by):
    ///   (12 t + 8) u base after t steps.
    fn tolerance(text: &str, base: f64, step: usize, expected: f64) -> f64 {
        let u = 2f64.powi(-53);
        if text.starts_with("warmup") || text.contains("cosine") {
            (12 * step + 8) as f64 * u * base
        } else if text.starts_with("hold") {
            8.0 * u * expected
        } else if text.starts_with("onecycle") {
            8.0 * u * base
        } else {
            0.0
        }
    }

    #[test]
    fn equals_pytorchs_schedulers() {
        let golden = include_str!("../../tests/golden/schedules.txt");
        assert_eq!(golden.lines().count(), 14);
        for line in golden.lines() {
            let mut words = line.split(' ');
            let text = words.next().unwrap();
            let schedule = schedule(text);
            let base: f64 = words.next().unwrap().parse().unwrap();
            let [per_epoch, total] = [(); 2].map(|()| words.next().unwrap().parse().unwrap());
            let mut compared = 0;
            let mut worst: f64 = 0.0;
            for word in words {
                let (step, expected) = word.split_once('=').unwrap();
                let (step, expected): (usize, f64) = (step.parse().unwrap(), expected.parse().unwrap());
                let got = schedule.lr(base, TrainingTime::new(step, per_epoch, total).unwrap());
                let error = (got - expected).abs();
                let bound = tolerance(text, base, step, expected);
                assert!(error <= bound, "{text} at step {step}: {got:e}, PyTorch {expected:e}, bound {bound:e}");
                worst = worst.max(error / base);
                compared += 1;
            }
            assert!(compared >= 6);
            println!("{text}: {compared} rates, worst error {worst:.1e} of the base rate");
        }
    }

    #[test]
    fn multistep_schedules_by_hand() {
        let steps_of_epochs = schedule("multistep:80,110,130@0.1");
        let at_epoch = |epoch, step| steps_of_epochs.lr(0.1, TrainingTime::in_epoch(epoch, step, 1563, 150).unwrap());
        // The last step of epoch 79 still has the old rate, the first of epoch 80 the new one.
        assert_eq!((at_epoch(79, 1562), at_epoch(80, 0)), (0.1, 0.1 * 0.1));
        assert_eq!(at_epoch(149, 1562), 0.1 * 0.1 * 0.1 * 0.1);
        // Its known error 3: the base rate is what the caller says.
        assert_eq!(steps_of_epochs.lr(0.02, TrainingTime::in_epoch(0, 0, 1563, 150).unwrap()), 0.02);

        let paper = schedule("hold:400s@0.1+multistep:32000s,48000s@0.1");
        let at_step = |step| paper.lr(0.1, TrainingTime::new(step, 391, 64_000).unwrap());
        assert_eq!((at_step(399), at_step(400)), (0.1 * 0.1, 0.1));
        assert_eq!((at_step(31_999), at_step(32_000)), (0.1, 0.1 * 0.1));
    }

    #[test]
    fn one_cycle_by_hand() {
        // 20 steps, half up: top at step 9; base 8, first 8/4 = 2, last 2/2 = 1 at step 19.
        let cycle = schedule("onecycle:pct_start=0.5,div_factor=4,final_div_factor=2,anneal=linear");
        let at = |step| cycle.lr(8.0, TrainingTime::new(step, 5, 20).unwrap());
        assert_eq!((at(0), at(3), at(9), at(19)), (2.0, 4.0, 8.0, 1.0));
        assert!((at(14) - 4.5).abs() < 1e-15, "half-way down from 8 to 1");
        assert_eq!((at(20), at(1000)), (1.0, 1.0));
    }

    #[test]
    fn epochs_and_steps_are_told_apart() {
        let at = |text: &str, step| schedule(text).lr(1.0, TrainingTime::new(step, 10, 40).unwrap());
        assert_eq!((at("step:2@0.5", 19), at("step:2@0.5", 20)), (1.0, 0.5));
        assert_eq!((at("step:2s@0.5", 1), at("step:2s@0.5", 20)), (1.0, 0.5f64.powi(10)));
        assert_eq!(at("cosine:epoch", 9), 1.0);
        assert!(at("cosine", 9) < 0.9);
        // A run that ends within its third epoch: E = 3, T = 25.
        let part = |text: &str, step| schedule(text).lr(1.0, TrainingTime::new(step, 10, 25).unwrap());
        assert!((part("cosine:epoch", 10) - 0.75).abs() < 1e-15, "(1 + cos(π/3))/2");
        assert_eq!((part("cosine@0.125", 25), part("cosine@0.125", 99)), (0.125, 0.125));
    }

    const WRITTEN: [&str; 15] = [
        "constant",
        "multistep:80,110,130@0.1",
        "multistep:32000s,48000s@0.1",
        "step:10@0.1",
        "step:1000s@0.97",
        "cosine",
        "cosine@0.001",
        "cosine:epoch",
        "cosine:epoch@0.00001",
        "onecycle",
        "onecycle:pct_start=0.4",
        "onecycle:pct_start=0.25,div_factor=10,final_div_factor=1000,anneal=linear",
        "warmup:5@0.1+cosine",
        "warmup:400s@0.001+multistep:80,110,130@0.1",
        "hold:400s@0.1+step:10@0.1",
    ];

    #[test]
    fn every_schedule_is_finite_and_within_its_bounds_everywhere() {
        for text in WRITTEN {
            let schedule = schedule(text);
            for (per_epoch, total) in [(1, 1), (1, 2), (3, 1), (1, 3), (2, 4), (7, 20), (391, 1000)] {
                for step in (0..2 * total).chain([usize::MAX]) {
                    let lr = schedule.lr(0.1, TrainingTime::new(step, per_epoch, total).unwrap());
                    assert!((0.0..=0.1000001).contains(&lr), "{text} at step {step} of {total}: {lr}");
                }
            }
        }
    }

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
            ("", "no schedule is called ``"),
            ("cosin", "did you mean `cosine`?"),
            ("constant:1", "constant takes nothing after `:`, got `1`"),
            ("constant@1", "constant takes nothing after `@`, got `1`"),
            ("constant+cosine", "no schedule is called `constant+cosine`"),
            ("step:10@0.1+cosine", "step expects a number, got `0.1+cosine`"),
            ("multistep", "multistep needs milestones"),
            ("multistep:@0.1", "multistep needs milestones"),
            ("multistep:80,110", "multistep needs a factor"),
            ("multistep:80,,110@0.1", "got ``"),
            ("multistep:-1@0.1", "got `-1`"),
            ("multistep:110,80@0.1", "milestones must be increasing and at least 1, got [110, 80]"),
            ("multistep:80,80@0.1", "milestones must be increasing"),
            ("multistep:0,80@0.1", "milestones must be increasing and at least 1"),
            ("multistep:80,32000s@0.1", "milestones must be all epochs or all steps"),
            ("multistep:80@0", "gamma must be above 0 and at most 1, got 0"),
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
            ("onecycle:pct_start=0", "pct_start must lie between 0 and 1, got 0"),
            ("onecycle:pct_start=1", "pct_start must lie between 0 and 1, got 1"),
            ("onecycle:pct_start=nan", "pct_start must lie"),
            ("onecycle:div_factor=0", "div_factor must be finite and at least 1, got 0"),
            ("onecycle:final_div_factor=inf", "final_div_factor must be"),
            ("onecycle:anneal=log", "got `anneal=log`"),
            ("warmup:5@0.1", "warmup stands in front of another schedule"),
            ("warmup:0@0.1+cosine", "the length of a warm-up must be at least 1, got 0"),
            ("warmup:5+cosine", "warmup needs a factor"),
            ("warmup:5@0+cosine", "the factor of a warm-up must be above 0 and at most 1, got 0"),
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
