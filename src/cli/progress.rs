//! What is seen of a run or a download while it runs: a bar on a terminal, a line now and then elsewhere.

use super::text;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use resnet_by_hand::train::StepMetrics;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Without a terminal, a line about the steps within an epoch or the bytes of a download at most this often.
const EVERY: Duration = Duration::from_secs(30);

/// The display of a training run.
pub struct Progress {
    bar: Option<ProgressBar>,
    stdout_is_open: bool,
    epochs: usize,
    start: Instant,
    last_line: Instant,
    steps: usize,
    /// Of this epoch.
    images: usize,
    correct: usize,
    loss: f64,
    epoch_start: Instant,
}

/// A bar that counts, on a terminal; elsewhere nothing is seen of it.
pub fn counter(what: &'static str, of: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:24}] {pos}/{len} {msg}").expect("a valid template");
    ProgressBar::new(of as u64).with_style(style.progress_chars("=> ")).with_message(what)
}

/// A bar on stderr, if that is a terminal.
fn bar(template: &str) -> Option<ProgressBar> {
    io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
        ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10)).with_style(style)
    })
}

impl Progress {
    pub fn new(epochs: usize) -> Self {
        let now = Instant::now();
        Progress {
            bar: bar("{prefix} [{bar:24}] {pos}/{len} {msg}"),
            stdout_is_open: true,
            epochs,
            start: now,
            last_line: now,
            steps: 0,
            images: 0,
            correct: 0,
            loss: 0.0,
            epoch_start: now,
        }
    }

    pub fn begin_epoch(&mut self) {
        (self.images, self.correct, self.loss, self.epoch_start) = (0, 0, 0.0, Instant::now());
    }

    pub fn step(&mut self, step: &StepMetrics) {
        self.steps += 1;
        self.images += step.images;
        self.correct += step.correct;
        self.loss += step.loss * step.images as f64;
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("epoch {}/{}", step.epoch + 1, self.epochs));
            bar.set_length(step.steps_per_epoch as u64);
            bar.set_message(self.message(step));
            bar.set_position(step.step as u64 + 1);
        } else if self.last_line.elapsed() >= EVERY {
            self.last_line = Instant::now();
            let (epoch, done, of) = (step.epoch + 1, step.step + 1, step.steps_per_epoch);
            // Nobody to tell: not a reason to stop.
            let _ = writeln!(io::stderr(), "epoch {epoch}/{}, step {done}/{of}: {}", self.epochs, self.message(step));
        }
    }

    /// Loss and accuracy of this epoch so far, speed, and the time the rest of the run takes at the speed so far.
    fn message(&self, step: &StepMetrics) -> String {
        let images = self.images as f64;
        let left = self.epochs * step.steps_per_epoch - (step.epoch * step.steps_per_epoch + step.step + 1);
        let seconds_left = self.start.elapsed().as_secs_f64() / self.steps as f64 * left as f64;
        format!(
            "loss {:.3}, accuracy {:.1} %, {:.0} images/s, {} left",
            self.loss / images,
            100.0 * self.correct as f64 / images,
            images / self.epoch_start.elapsed().as_secs_f64(),
            text::duration(seconds_left)
        )
    }

    /// A line on stdout, above the bar. A reader that has gone away does not end a run of hours: its files go on.
    pub fn line(&mut self, line: &str) {
        if !self.stdout_is_open {
            return;
        }
        let print = || writeln!(io::stdout(), "{line}");
        let printed = self.bar.as_ref().map_or_else(print, |bar| bar.suspend(print));
        if let Err(error) = printed {
            self.stdout_is_open = false;
            let _ = writeln!(io::stderr(), "note: cannot write to stdout any more ({error}); the run goes on");
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The display of a download.
pub struct Transfer {
    bar: Option<ProgressBar>,
    last_line: Instant,
    /// When the bytes began to come, and how many there were before them.
    start: (Instant, u64),
    of: Option<u64>,
}

impl Transfer {
    pub fn new() -> Self {
        let now = Instant::now();
        Transfer { bar: bar("[{bar:24}] {msg}"), last_line: now, start: (now, 0), of: None }
    }

    /// From here on bytes come, the first `at` of `of` being there already.
    pub fn begin(&mut self, at: u64, of: Option<u64>) {
        (self.start, self.of) = ((Instant::now(), at), of);
        if let (Some(bar), Some(of)) = (&self.bar, of) {
            bar.set_length(of);
        }
        self.reach(at);
    }

    pub fn reach(&mut self, at: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(self.message(at));
            bar.set_position(at);
        } else if self.last_line.elapsed() >= EVERY {
            self.last_line = Instant::now();
            self.say(&self.message(at));
        }
    }

    /// How much is there, the speed since the bytes began to come, and the time the rest takes at that speed.
    fn message(&self, at: u64) -> String {
        let (start, before) = self.start;
        let speed = (at - before) as f64 / start.elapsed().as_secs_f64().max(1e-3);
        let so_far = text::bytes(at);
        match self.of {
            Some(of) if speed > 0.0 => {
                let left = text::duration(of.saturating_sub(at) as f64 / speed);
                format!("{so_far} of {}, {}/s, {left} left", text::bytes(of), text::bytes(speed as u64))
            }
            Some(of) => format!("{so_far} of {}", text::bytes(of)),
            None => format!("{so_far}, {}/s", text::bytes(speed as u64)),
        }
    }

    /// A line on stderr, above the bar.
    pub fn say(&self, line: &str) {
        let print = || {
            // Nobody to tell: not a reason to stop.
            let _ = writeln!(io::stderr(), "{line}");
        };
        self.bar.as_ref().map_or_else(print, |bar| bar.suspend(print));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
