//! The progress display of a run: two bars on a terminal, otherwise a line from time to time.
//!
//! ```text
//! epoch 12/40 [=====>      ] 170/391  loss 1.234, accuracy 45.6 %, 812 images/s
//! run         [===>        ]    29 %  38 min 12 s left, 66.1 GFLOP/s
//! ```
//!
//! - [`pace`]: the remaining time;
//! - [`layout`]: how much of it fits on a line;
//! - [`transfer`]: the display of a download.
//!
//! GFLOP/s are counted as in `resnet bench`, as those of direct convolution: two operations per multiply-add, three passes for
//! an image that is trained on.

mod layout;
mod pace;
mod transfer;

pub use pace::Plan;
pub use transfer::Transfer;

use super::text;
use crate::train::{Position, StepMetrics};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use layout::Line;
use pace::{Pace, TRAINING};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Without a terminal: the shortest time between two lines about the steps of an epoch or the bytes of a download.
const EVERY: Duration = Duration::from_secs(30);

/// The estimated end of the run is printed after this many steps and seconds, or else after the first epoch.
const ESTIMATE_STEPS: usize = 10;
const ESTIMATE_SECONDS: f64 = 5.0;

/// The bars on the screen, for [`say`].
static ON_SCREEN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Whether this process prints nothing, because another process of the same run does.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether another process prints what concerns all of them.
static FOLLOWS: AtomicBool = AtomicBool::new(false);

/// What this process is about, if others print at the same time.
static LABEL: Mutex<String> = Mutex::new(String::new());

/// From now on nothing is printed, because another process does.
pub fn be_quiet() {
    [&QUIET, &FOLLOWS].iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
}

/// From now on this process prints what concerns its own run.
pub fn speak_for_own_run() {
    QUIET.store(false, Ordering::Relaxed);
}

fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether this process prints what concerns all processes.
pub fn speaks_for_all() -> bool {
    !FOLLOWS.load(Ordering::Relaxed)
}

/// From now on lines begin with this label, such as `seed 2: `, and there are no bars.
pub fn set_label(label: &str) {
    *LABEL.lock().unwrap_or_else(PoisonError::into_inner) = label.to_string();
}

/// What lines begin with; empty if no other process prints.
pub fn label() -> String {
    LABEL.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The display of a training run.
pub struct Progress {
    bars: Option<Bars>,
    stdout_is_open: bool,
    last_line: Instant,
    /// The header of the table of epochs, until it is printed.
    header: Option<String>,
    plan: Plan,
    /// The work of the whole run.
    work: u64,
    pace: Pace,
    multiply_adds: u64,
    /// Whether the run may end before the estimate, and whether a part of it was done by an earlier process.
    may_stop_early: bool,
    is_resumed: bool,
    estimate_is_told: bool,
    steps: usize,
    /// Sums over this epoch, including the part before an interruption.
    images: usize,
    correct: usize,
    loss: f64,
    speed: Speed,
    evaluation: Option<Speed>,
}

/// Images and the time they took.
struct Speed {
    begun: Instant,
    images: usize,
    seconds: f64,
}

impl Speed {
    fn new() -> Self {
        Speed { begun: Instant::now(), images: 0, seconds: 0.0 }
    }

    fn add(&mut self, images: usize) {
        self.images += images;
        self.seconds = self.begun.elapsed().as_secs_f64();
    }

    fn images_per_second(&self) -> f64 {
        self.images as f64 / self.seconds
    }
}

struct Bars {
    both: MultiProgress,
    /// A blank line above the bars.
    space: ProgressBar,
    epoch: ProgressBar,
    run: ProgressBar,
    /// The width of the terminal for which the bars are styled.
    columns: usize,
}

/// A bar that counts. It is shown only on a terminal.
pub fn counter(what: &'static str, of: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:24}] {pos}/{len} {msg}").expect("a valid template");
    ProgressBar::new(of as u64).with_style(style.progress_chars("=> ")).with_message(what)
}

/// Prints a line on stderr, above the bars if there are any. Can be called from any thread.
pub fn say(line: &str) {
    if !is_quiet() {
        print(&format!("{}{line}", label()));
    }
}

/// The same for what concerns all processes.
pub fn say_for_all(line: &str) {
    if speaks_for_all() {
        print(line);
    }
}

fn print(line: &str) {
    let print = || {
        // A closed stderr is no reason to stop.
        let _ = writeln!(io::stderr(), "{}", text::printable_lines(line));
    };
    match on_screen().as_ref() {
        Some(bars) => bars.suspend(print),
        None => print(),
    }
}

/// Removes the bars from the screen, at the end of the process. Can be called from any thread.
pub fn clear() {
    if let Some(bars) = on_screen().take() {
        let _ = bars.clear();
    }
}

fn on_screen() -> std::sync::MutexGuard<'static, Option<MultiProgress>> {
    ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bars {
    /// `None` without a terminal that can draw them.
    fn new() -> Option<Self> {
        let both = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        if both.is_hidden() || is_quiet() || !label().is_empty() {
            return None;
        }
        // The cursor stays in the last column. If the terminal prints `^C` there, the text wraps, and clearing then starts one
        // line too low. The first line stays on the screen, so it is a blank one.
        let blank = ProgressStyle::with_template(" ").expect("a valid template");
        let space = both.add(ProgressBar::new(0).with_style(blank));
        let (epoch, run) = (both.add(ProgressBar::new(0)), both.add(ProgressBar::new(0)));
        *on_screen() = Some(both.clone());
        Some(Bars { both, space, epoch, run, columns: 0 })
    }

    fn draw(&mut self, lines: &[Line; 2], positions: [(usize, usize); 2]) {
        let columns = usize::from(console::Term::stderr().size().1);
        if columns != self.columns {
            self.columns = columns;
            // `wide_msg` cuts the text at the edge, in case the terminal has just become narrower.
            let template = match layout::bar(columns) {
                Some(width) => format!("{{prefix}} [{{bar:{width}}}] {{wide_msg}}"),
                None => "{prefix} {wide_msg}".to_string(),
            };
            let style = ProgressStyle::with_template(&template).expect("a valid template").progress_chars("=> ");
            [&self.epoch, &self.run].into_iter().for_each(|bar| bar.set_style(style.clone()));
        }
        self.space.tick();
        let bars = [&self.epoch, &self.run].into_iter().zip(positions);
        for ((bar, (position, of)), [name, text]) in bars.zip(layout::fit(lines, columns)) {
            bar.set_prefix(name);
            bar.set_length(of as u64);
            bar.set_message(text);
            bar.set_position(position as u64);
        }
    }
}

impl Progress {
    /// The display of a run that starts or resumes at `position`, for a network with this many multiply-adds per image.
    pub fn new(plan: Plan, position: Position, multiply_adds: u64, may_stop_early: bool) -> Self {
        Progress::on(Bars::new(), plan, position, multiply_adds, may_stop_early)
    }

    fn on(bars: Option<Bars>, plan: Plan, position: Position, multiply_adds: u64, may_stop_early: bool) -> Self {
        let (now, sums) = (Instant::now(), position.sums);
        Progress {
            bars,
            stdout_is_open: !is_quiet(),
            last_line: now,
            header: None,
            plan,
            work: plan.left(0, 0),
            pace: Pace::new(plan.left(position.epoch, sums.images), now),
            multiply_adds,
            may_stop_early,
            is_resumed: position != Position::default(),
            estimate_is_told: false,
            steps: 0,
            images: sums.images,
            correct: sums.top1,
            loss: sums.loss,
            speed: Speed::new(),
            evaluation: None,
        }
    }

    pub fn begin_epoch(&mut self) {
        (self.images, self.correct, self.loss, self.speed) = (0, 0, 0.0, Speed::new());
    }

    pub fn step(&mut self, step: &StepMetrics) {
        self.steps += 1;
        self.images += step.images;
        self.correct += step.correct;
        self.loss += step.loss * step.images as f64;
        self.speed.add(step.images);
        self.pace.done(TRAINING * step.images as u64, Instant::now());
        let (epoch, done, of) = (step.epoch + 1, step.step + 1, step.steps_per_epoch);
        self.estimate(done == of && epoch < self.plan.epochs);

        let images = self.images as f64;
        let parts = [
            format!("loss {:.3}", self.loss / images),
            format!("accuracy {:.1} %", 100.0 * self.correct as f64 / images),
            format!("{:.0} images/s", self.speed.images_per_second()),
        ];
        self.show(&format!("epoch {epoch}/{}", self.plan.epochs), "step", (done, of), parts.to_vec());
    }

    /// `images` of `of` images have been classified; `what` is "validating" or "testing".
    pub fn evaluated(&mut self, epochs: usize, what: &'static str, images: usize, of: usize) {
        let speed = self.evaluation.get_or_insert_with(Speed::new);
        self.pace.done((images - speed.images) as u64, Instant::now());
        speed.add(images - speed.images);
        let parts = vec![what.to_string(), format!("{:.0} images/s", speed.images_per_second())];
        if images == of {
            self.evaluation = None;
        }
        self.show(&format!("epoch {epochs}/{}", self.plan.epochs), "image", (images, of), parts);
    }

    /// Shows the current activity and the remaining run.
    fn show(&mut self, name: &str, unit: &str, (done, of): (usize, usize), parts: Vec<String>) {
        let rest = self.rest();
        if let Some(bars) = &mut self.bars {
            let share = self.pace.share(self.work);
            let line = |name: &str, count, parts| Line { name: name.to_string(), count, parts };
            let lines =
                [line(name, format!("{done}/{of}"), parts), line("run", format!("{:.0} %", 100.0 * share), rest)];
            bars.draw(&lines, [(done, of), ((1000.0 * share) as usize, 1000)]);
        } else if self.last_line.elapsed() >= EVERY {
            self.last_line = Instant::now();
            say(&format!("{name}, {unit} {done}/{of}: {}", [parts, rest].concat().join(", ")));
        }
    }

    /// The remaining time and the current speed.
    fn rest(&self) -> Vec<String> {
        let mut rest = Vec::new();
        let left = self.pace.seconds_left();
        rest.extend(left.map(|seconds| format!("{} left", text::duration(seconds))));
        if self.speed.images > 0 {
            let flops = 2.0 * (TRAINING * self.multiply_adds) as f64 * self.speed.images_per_second();
            rest.push(format!("{:.1} GFLOP/s", flops / 1e9));
        }
        rest.extend(left.map(|seconds| format!("until about {}", text::clock(now(), seconds))));
        rest
    }

    /// Prints the estimated end of the run once: as soon as it is known, or now.
    fn estimate(&mut self, now_at_the_latest: bool) {
        let is_known = self.steps >= ESTIMATE_STEPS && self.pace.seconds() >= ESTIMATE_SECONDS;
        if self.estimate_is_told || !(is_known || now_at_the_latest) || !speaks_for_all() {
            return;
        }
        let Some(left) = self.pace.seconds_left() else { return };
        self.estimate_is_told = true;
        let (at_most, at_the_latest) = if self.may_stop_early { ("at most ", " at the latest") } else { ("", "") };
        let rest = if self.is_resumed { "the rest of " } else { "" };
        let epochs = text::count(self.plan.epochs, "epoch");
        let whole = text::duration(self.pace.seconds() + left);
        let end = text::clock(now(), left);
        let value = format!("{at_most}{whole} for {rest}{epochs}, until about {end}{at_the_latest}");
        match label() {
            label if label.is_empty() => self.line(&format!("{:<14} {value}", "estimate")),
            _ => self.labelled(&format!("estimate: {value}")),
        }
    }

    /// Sets the header of the table of epochs. It is printed together with the first row, so that the estimate, which is known
    /// later, is printed above it.
    pub fn header(&mut self, header: &str) {
        self.header = Some(header.to_string());
    }

    /// Prints a row of the table of epochs.
    pub fn row(&mut self, row: &str) {
        if let Some(header) = self.header.take() {
            self.line("");
            self.line(&header);
        }
        self.line(row);
    }

    /// Prints a line that begins with the label.
    pub fn labelled(&mut self, line: &str) {
        self.line(&format!("{}{line}", label()));
    }

    /// Prints a line on stdout, above the bars. If stdout is closed, the run continues without it.
    pub fn line(&mut self, line: &str) {
        if !self.stdout_is_open {
            return;
        }
        let print = || writeln!(io::stdout(), "{line}");
        let printed = self.bars.as_ref().map_or_else(print, |bars| bars.both.suspend(print));
        if let Err(error) = printed {
            self.stdout_is_open = false;
            say(&format!("note: cannot write to stdout any more ({error}); the run continues"));
        }
    }

    /// Removes the bars.
    pub fn finish(&mut self) {
        if let Some(bars) = self.bars.take() {
            [bars.space, bars.epoch, bars.run].iter().for_each(ProgressBar::finish_and_clear);
        }
        clear();
    }
}

/// The width of the terminal on stdout. If it is unknown, `$COLUMNS`, or 60; if stdout is no terminal, `$COLUMNS` or 80.
pub fn terminal_columns() -> usize {
    let stdout = console::Term::stdout();
    let of_terminal = stdout.size_checked().map(|(_, columns)| usize::from(columns));
    let given = || std::env::var("COLUMNS").ok()?.parse().ok().filter(|&columns| columns > 0);
    of_terminal.or_else(given).unwrap_or(if stdout.is_term() { 60 } else { 80 })
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_direct_convolution_and_training_is_three_passes() {
        let plan = Plan { epochs: 2, training_images: 50, validation_images: 0, validate_every: 1, test_images: 10 };
        let mut progress = Progress::on(None, plan, Position::default(), 40_000_000, false);
        assert_eq!(progress.rest(), [""; 0]);
        progress.speed = Speed { begun: Instant::now(), images: 250, seconds: 0.5 };
        // 2 · 3 · 4e7 · 500 per second.
        assert_eq!(progress.rest(), ["120.0 GFLOP/s"]);
        assert_eq!(progress.work, 3 * 2 * 50 + 10);

        // An image counts once, whether its batch was the first of the evaluation or another.
        for images in [4, 8, 10] {
            progress.evaluated(2, "testing", images, 10);
        }
        assert!((progress.pace.share(progress.work) - 10.0 / 310.0).abs() < 1e-12);
        assert!(progress.evaluation.is_none());
        let rest = progress.rest();
        assert!(
            rest[0].ends_with(" left") && rest[1] == "120.0 GFLOP/s" && rest[2].starts_with("until about "),
            "{rest:?}"
        );
    }
}
