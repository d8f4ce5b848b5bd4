//! The phases of a training step.

use super::median;
use serde_json::{Map, Value, json};
use std::time::Instant;

pub const COUNT: usize = 4;
pub const FORWARD: usize = 0;
pub const LOSS: usize = 1;
pub const BACKWARD: usize = 2;
pub const UPDATE: usize = 3;

const NAMES: [&str; COUNT] = ["forward", "loss", "backward", "update"];

/// Adds up the seconds of every phase of one step. The sum of the phases is the whole step.
pub struct Stopwatch {
    last: Instant,
    seconds: [f64; COUNT],
}

impl Stopwatch {
    pub fn start() -> Self {
        Stopwatch { last: Instant::now(), seconds: [0.0; COUNT] }
    }

    /// Adds the time since the last call, or the start, to `phase`.
    pub fn end_of(&mut self, phase: usize) {
        let now = Instant::now();
        self.seconds[phase] += (now - self.last).as_secs_f64();
        self.last = now;
    }

    /// The seconds of a step that ends with `phase`.
    pub fn finish(mut self, phase: usize) -> [f64; COUNT] {
        self.end_of(phase);
        self.seconds
    }
}

/// The median seconds of each phase.
pub struct Phases([f64; COUNT]);

impl Phases {
    /// The medians over `steps`, which must not be empty.
    pub fn of(steps: &[[f64; COUNT]]) -> Self {
        Phases(std::array::from_fn(|phase| median(&mut steps.iter().map(|step| step[phase]).collect::<Vec<_>>())))
    }

    /// A line for each phase; `step` is the duration of the whole step in seconds.
    pub fn lines(&self, step: f64) -> [String; COUNT] {
        std::array::from_fn(|phase| {
            let (name, seconds) = (NAMES[phase], self.0[phase]);
            format!("{name:<14} {:>9.2} ms  {:>5.1} %", 1e3 * seconds, 100.0 * seconds / step)
        })
    }

    pub fn json(&self, step: f64) -> Value {
        let phase = |(name, &seconds): (&&str, &f64)| {
            (name.to_string(), json!({ "median_seconds": seconds, "share_of_step": seconds / step }))
        };
        NAMES.iter().zip(&self.0).map(phase).collect::<Map<_, _>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_in_two_pieces_is_their_sum() {
        let piece = std::time::Duration::from_millis(2);
        let mut watch = Stopwatch::start();
        std::thread::sleep(piece);
        watch.end_of(UPDATE);
        watch.end_of(BACKWARD);
        std::thread::sleep(piece);
        // `sleep` never returns early.
        assert!(watch.finish(UPDATE)[UPDATE] >= 2.0 * piece.as_secs_f64());
    }

    #[test]
    fn medians_are_of_each_phase_alone() {
        let steps = [[4.0, 0.5, 9.0, 1.0], [5.0, 0.25, 8.0, 3.0], [6.0, 0.75, 7.0, 2.0]];
        let phases = Phases::of(&steps);
        assert_eq!(phases.0, [5.0, 0.5, 8.0, 2.0]);
        assert_eq!(phases.lines(16.0)[BACKWARD], "backward         8000.00 ms   50.0 %");
        let json = phases.json(16.0);
        assert_eq!(json["forward"], json!({ "median_seconds": 5.0, "share_of_step": 0.3125 }));
        assert_eq!(json.as_object().unwrap().len(), COUNT);
    }
}
