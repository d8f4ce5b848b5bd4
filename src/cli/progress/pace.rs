//! The remaining time of a run.
//!
//! ```text
//! work          1 for an image that is classified, 3 for one that is trained on: forward, dx, dweight
//! time left     work left · (time / work) so far
//! ```
//!
//! So the estimate includes validations and the test even before the first of them. That every pass takes the same time is an
//! approximation (a prediction keeps nothing for a backward pass and is a little faster), but evaluations are a small part of
//! a run.

use std::time::Instant;

/// Passes through the network for an image that is trained on.
pub const TRAINING: u64 = 3;

/// How many images a run processes, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub epochs: usize,
    pub training_images: usize,
    /// 0 without validation.
    pub validation_images: usize,
    /// The validation images are evaluated every `validate_every` epochs, and after the last.
    pub validate_every: usize,
    pub test_images: usize,
}

impl Plan {
    /// The remaining work after `epochs` epochs and `images` images of the next.
    pub fn left(&self, epochs: usize, images: usize) -> u64 {
        let training = (self.epochs - epochs) * self.training_images - images;
        let every = self.validate_every;
        let last = epochs < self.epochs && !self.epochs.is_multiple_of(every);
        let validations = self.epochs / every - epochs / every + usize::from(last);
        TRAINING * training as u64 + (validations * self.validation_images + self.test_images) as u64
    }
}

/// Work done, remaining work, and the time so far.
#[derive(Debug)]
pub struct Pace {
    begun: Instant,
    /// When the first piece of work was done. It is slower than the others, because it allocates the memory.
    first: Option<Instant>,
    last: Instant,
    /// Work done after the first piece.
    done: u64,
    left: u64,
}

impl Pace {
    pub fn new(left: u64, now: Instant) -> Self {
        Pace { begun: now, first: None, last: now, done: 0, left }
    }

    /// Records that a piece of work is done.
    pub fn done(&mut self, work: u64, now: Instant) {
        match self.first {
            None => self.first = Some(now),
            Some(_) => self.done += work,
        }
        self.last = now;
        self.left = self.left.saturating_sub(work);
    }

    /// Seconds from the start to the last piece of work.
    pub fn seconds(&self) -> f64 {
        (self.last - self.begun).as_secs_f64()
    }

    /// Estimated seconds from the last piece of work to the end; `None` before there are two pieces.
    pub fn seconds_left(&self) -> Option<f64> {
        let measured = (self.last - self.first?).as_secs_f64();
        (self.done > 0).then(|| self.left as f64 * measured / self.done as f64)
    }

    /// The share of the work that is done, if all of it was `whole`.
    pub fn share(&self, whole: u64) -> f64 {
        1.0 - self.left as f64 / whole.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn work_left_by_counting() {
        for validate_every in 1..=8 {
            for epochs in 1..=7 {
                let plan = Plan { epochs, training_images: 20, validation_images: 7, validate_every, test_images: 5 };
                for done in 0..=epochs {
                    let validations =
                        (done + 1..=epochs).filter(|epoch| epoch % validate_every == 0 || *epoch == epochs).count();
                    let expected = 3 * 20 * (epochs - done) + 7 * validations + 5;
                    assert_eq!(plan.left(done, 0), expected as u64, "{done} epochs of {plan:?}");
                }
                assert_eq!(plan.left(0, 0) - plan.left(0, 6), 18);
            }
        }
    }

    #[test]
    fn the_rest_takes_as_long_as_its_share_and_the_first_step_does_not_count() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut pace = Pace::new(100, begun);
        assert_eq!(pace.seconds_left(), None);
        pace.done(10, at(60));
        assert_eq!(pace.seconds_left(), None);
        pace.done(10, at(62));
        pace.done(20, at(66));
        // 30 in 6 seconds; 60 are left.
        assert_eq!(pace.seconds_left(), Some(12.0));
        assert_eq!((pace.seconds(), pace.share(100)), (66.0, 0.4));
        pace.done(60, at(70));
        assert_eq!((pace.seconds_left(), pace.share(100)), (Some(0.0), 1.0));
    }
}
