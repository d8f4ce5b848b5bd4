//! The learning rate η as a pure function of the position in the run.
//!
//! A schedule has no counter and no state: [`Schedule::lr`] maps (base rate, position) to a rate. So a resumed run, a
//! plot of the curve and the training loop get the same values.
//!
//! # Equations
//! t is the step, counted from 0, and e = ⌊t / steps per epoch⌋ the epoch; T and E are the total numbers of steps and
//! epochs. A schedule written in epochs depends only on e, so η is constant within an epoch, as when PyTorch's
//! `scheduler.step()` is called once per epoch.
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
//!   first may round differently.
//! - Cosine: Loshchilov & Hutter 2016 (arXiv 1608.03983) eq. 5 without restarts; theirs changes every step, the default
//!   here. PyTorch's `CosineAnnealingLR(T_max=T)` computes the same by a recursion that accumulates rounding errors.
//! - One cycle: Smith & Topin 2017 (arXiv 1708.07120) in the form of PyTorch's `OneCycleLR`, whose `max_lr` is our
//!   base rate. It also cycles the momentum between 0.95 and 0.85 unless `cycle_momentum=False`; this schedule does not.
//! - Warm-up: Goyal et al. 2017 (arXiv 1706.02677) §2.2. `warmup` is their gradual warm-up (PyTorch's `LinearLR`),
//!   which changes at every step even if its length is given in epochs; `hold` their constant one (`ConstantLR`), which
//!   He et al. 2015 §4.2 use for 110 layers: 0.01 for about 400 iterations, then 0.1, is
//!   `hold:400s@0.1+multistep:32000s,48000s@0.1`.
//! - Warm-up is a factor and does not shift the schedule: epoch 80 after `warmup:5@0.1+` is still the 80th of the run,
//!   as in Goyal et al. This is PyTorch's `ChainedScheduler`; its `SequentialLR` would start the second schedule's
//!   count at 5.
//! - At and after the end of the run (t ≥ T) the rate stays at its final value: cosine at η_min, one cycle at its last
//!   rate.
//!
//! # Errors
//! [`Schedule::new`] rejects values without meaning (no or unsorted milestones, γ outside (0, 1], `pct_start` outside
//! (0, 1), lengths of 0), so every `Schedule` maps a finite base rate to a rate in [0, max(base, η_min)], up to
//! rounding, at every position. The PyTorch write-up shows why: its function overwrote the argument `base_lr` with 0.1
//! and assigned the rate only in the branch "there are milestones", so that every base rate was 0.1 and a schedule
//! without milestones had none. Here nothing can overwrite the base rate, "no milestones" is [`Decay::Constant`], and
//! every branch of `match` has a value.
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

mod text;

use crate::{Error, Result};
use std::f64::consts::PI;

/// The unit in which a schedule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Passes over the training set.
    Epoch,
    /// Updates of the parameters, "iterations" in He et al. 2015.
    Step,
}

/// A position in a run: step `step` of `total_steps`, with `steps_per_epoch` steps per epoch.
///
/// ```
/// use resnet_by_hand::optim::TrainingTime;
/// // 50,000 images in batches of 64 are 782 steps per epoch; 10 epochs.
/// let progress = TrainingTime::in_epoch(3, 7, 782, 10)?;
/// assert_eq!((progress.step(), progress.total_steps()), (3 * 782 + 7, 7820));
/// assert_eq!((progress.epoch(), progress.step_in_epoch()), (3, 7));
/// // He et al. 2015: 64k iterations, 391 per epoch, end within epoch 163, the 164th.
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
            let message =
                format!("expects at least one step, got {steps_per_epoch} per epoch and {total_steps} in total");
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

    /// Updates per epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps_per_epoch
    }

    /// Updates in the whole run.
    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Epochs in the whole run, including an incomplete last one.
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

/// How the rate decreases; [`Schedule::new`] checks it. The equations are in the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub enum Decay {
    /// The base rate throughout.
    Constant,
    /// Multiplied by `gamma` at each milestone.
    MultiStep {
        /// The first epoch or step of each lower rate; increasing, none of them 0.
        milestones: Vec<usize>,
        /// The unit of the milestones.
        unit: TimeUnit,
        /// Factor in (0, 1].
        gamma: f64,
    },
    /// Multiplied by `gamma` after every `every` epochs or steps.
    Step {
        /// Number of epochs or steps at one rate, at least 1.
        every: usize,
        /// The unit of `every`.
        unit: TimeUnit,
        /// Factor in (0, 1].
        gamma: f64,
    },
    /// Half a cosine from the base rate to `eta_min` over the whole run.
    Cosine {
        /// Whether the rate changes at every step or once per epoch.
        unit: TimeUnit,
        /// The rate at the end, at least 0.
        eta_min: f64,
    },
    /// Up to the base rate and down again.
    OneCycle(OneCycle),
}

/// The values of [`Decay::OneCycle`], under PyTorch's names and with its defaults. Its `max_lr` is the base rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneCycle {
    /// Share of the run in which the rate increases, in (0, 1).
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

/// A transition from one rate to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anneal {
    /// Half a cosine.
    Cos,
    /// A straight line.
    Linear,
}

impl Anneal {
    /// The rate at the fraction `s` from `start` to `end`; the operations and their order are PyTorch's.
    fn between(self, start: f64, end: f64, s: f64) -> f64 {
        match self {
            Anneal::Cos => end + (start - end) / 2.0 * ((PI * s).cos() + 1.0),
            Anneal::Linear => (end - start) * s + start,
        }
    }
}

/// Warm-up: for the first `length` epochs or steps the rate is multiplied by a factor of at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// How the factor changes from `start_factor` to 1.
    pub shape: WarmupShape,
    /// Length, at least 1.
    pub length: usize,
    /// The unit of `length`. The factor changes at every step in either case.
    pub unit: TimeUnit,
    /// The factor of the first step, in (0, 1].
    pub start_factor: f64,
}

/// The two shapes of [`Warmup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmupShape {
    /// Written `warmup`: linearly up to 1.
    Linear,
    /// Written `hold`: `start_factor`, then 1.
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

/// A valid [`Decay`], optionally after a [`Warmup`]. Written and read as in the table of the [module](self).
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
    /// If a value of `decay` is outside the range in its documentation.
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
                    return refuse(format!("pct_start must be between 0 and 1, got {pct_start}"));
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

    /// The same schedule with `warmup` in place of its warm-up.
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

    /// How the rate decreases.
    pub fn decay(&self) -> &Decay {
        &self.decay
    }

    /// The warm-up, if there is one.
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
                // With fewer than 1/pct_start steps the top is at or before step 0: the rate only decreases, and
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

/// `lr` multiplied `times` times by `gamma`, rounded each time, as if every milestone multiplied the current rate.
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
        refuse(format!("{name} must be greater than 0 and at most 1, got {value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn schedule(text: &str) -> Schedule {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The largest permitted difference between PyTorch's rate and ours; u = 2⁻⁵³.
    ///
    /// - Multi-step and step multiply the same values in the same order: 0.
    /// - `hold`: PyTorch multiplies by f and later by 1/f: three roundings, and two milestones on either side may round
    ///   differently: 8 u relative to the rate.
    /// - One cycle: the same operations on both sides, but the cosine of two mathematical libraries may differ in its
    ///   last bit, which enters halved, times base: 8 u base covers it and the roundings after it.
    /// - PyTorch updates cosine and warm-up by recursion, η ← η · factor, with 4 and 7 roundings per step, each relative
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
        let golden = include_str!("../../tests/library/golden/schedules.txt");
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
        // Its known error 3: the base rate is the one that the caller passes.
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

    pub(super) const WRITTEN: [&str; 15] = [
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
}
