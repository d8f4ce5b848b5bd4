//! The progress display of a download.

use super::EVERY;
use crate::cli::text;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

/// The display of a download.
pub struct Transfer {
    bar: Option<ProgressBar>,
    last_line: Instant,
    /// When the transfer started, and how many bytes existed before.
    start: (Instant, u64),
    of: Option<u64>,
}

impl Transfer {
    pub fn new() -> Self {
        let now = Instant::now();
        Transfer { bar: bar("[{bar:24}] {msg}"), last_line: now, start: (now, 0), of: None }
    }

    /// Starts the transfer. The first `at` of `of` bytes exist already.
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

    /// The bytes so far, the speed since the start, and the remaining time at that speed.
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

    /// Prints a line on stderr, above the bar.
    pub fn say(&self, line: &str) {
        let print = || {
            // A closed stderr is no reason to stop.
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

/// A bar on stderr, if that is a terminal.
fn bar(template: &str) -> Option<ProgressBar> {
    io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
        ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10)).with_style(style)
    })
}
