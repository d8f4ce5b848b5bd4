//! A file over HTTP, in as many pieces as it takes.
//!
//! What has come is in one file, the part: the first bytes of the whole and nothing else. So it can be gone on with whatever
//! ended it: a lost connection, Ctrl-C, a power cut. The rest is asked for with the header `Range` (RFC 9110, section
//! 14.2); a server that does not know it sends everything, and the part begins anew. Whether what came at different times
//! is of one file, HTTP cannot promise: whoever calls compares the whole with its checksum.

use super::http::{self, Answer, Request};
use crate::Error;
use crate::cli::progress::Transfer;
use crate::cli::text;
use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

/// The most bytes of a whole whose size is not known: five times those of CIFAR's archives.
const MOST: u64 = 1_000_000_000;
/// After so many new bytes, the failures before them are forgotten: a long download may lose its connection many times, one
/// that does not get on may not.
const PROGRESS: u64 = 1_000_000;
/// The pause before another try is 1, 2, 4, ... seconds, and not longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What to download, and with how much patience.
pub struct Download<'a> {
    pub url: &'a str,
    /// The file in which it grows.
    pub part: &'a Path,
    /// How many bytes the whole has, where that is known.
    pub size: Option<u64>,
    /// Failures in a row.
    pub tries: usize,
    /// How long a server may be silent.
    pub silence: Duration,
}

impl Download<'_> {
    /// Downloads until the part is the whole, synced to disk. Returns how many of its bytes were there before.
    ///
    /// # Errors
    /// The reason, for people. What has come is in the part; if that is nothing, there is no part.
    pub fn run(&self) -> Result<u64, String> {
        let part = open(self.part)?;
        let mut session = Session { of: self, part, shown: Transfer::new(), from_before: 0, was_answered: false };
        let result = session.run();
        session.shown.finish();
        if result.is_err() && session.length().is_ok_and(|length| length == 0) {
            let _ = std::fs::remove_file(self.part);
        }
        match result {
            Ok(()) => Ok(session.from_before),
            Err(Stop::Lost(reason)) if self.tries > 1 => {
                Err(format!("{reason}; given up after {} failures in a row", self.tries))
            }
            Err(Stop::Lost(reason) | Stop::Failed(reason)) => Err(reason),
        }
    }

    /// Refuses a whole of `total` bytes that cannot be the right one.
    fn check(&self, total: u64) -> Result<(), Stop> {
        let expected = match self.size {
            Some(size) if total != size => text::thousands(size),
            None if total > MOST => format!("at most {}", text::thousands(MOST)),
            _ => return Ok(()),
        };
        let total = text::thousands(total);
        Err(Stop::Failed(format!("expected a file of {expected} bytes, the server announces one of {total}")))
    }
}

/// Why there is not more than there is.
enum Stop {
    /// Trying again may help.
    Lost(String),
    /// It will not.
    Failed(String),
}

/// The part, locked against another process that would write to it.
fn open(path: &Path) -> Result<File, String> {
    let file = File::options().create(true).append(true).open(path);
    let file = file.map_err(|error| Error::io(path, "create", error).to_string())?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(format!("{} is in use by another download", path.display())),
        // A file system without locks: better unlocked than not at all.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// A download while it runs.
struct Session<'a> {
    of: &'a Download<'a>,
    part: File,
    shown: Transfer,
    /// Bytes in the part that were there before.
    from_before: u64,
    was_answered: bool,
}

impl Session<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        self.from_before = self.length()?;
        let (mut most, mut failures) = (self.from_before, 0);
        while let Err(stop) = self.attempt() {
            let Stop::Lost(reason) = &stop else { return Err(stop) };
            let have = self.length()?;
            if have >= most + PROGRESS {
                (most, failures) = (have, 0);
            }
            failures += 1;
            if failures >= self.of.tries {
                return Err(stop);
            }
            let pause = Duration::from_secs(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
            self.shown.say(&format!("note: {reason}; trying again in {}", text::duration(pause.as_secs_f64())));
            std::thread::sleep(pause);
        }
        self.part.sync_all().map_err(|error| self.cannot("write", error))
    }

    /// Gets what is missing, or as much of it as comes.
    fn attempt(&mut self) -> Result<(), Stop> {
        match self.length()? {
            have if self.of.size == Some(have) => Ok(()),
            have if have > self.of.size.unwrap_or(MOST) => self.begin_anew("it is longer than the whole"),
            have => self.ask(have),
        }
    }

    /// One request, for what comes after the first `have` bytes, and its answer.
    fn ask(&mut self, have: u64) -> Result<(), Stop> {
        let request = Request { url: self.of.url, start: have, silence: self.of.silence };
        let answer = request.send().map_err(|error| self.judge(error))?;
        self.was_answered = true;

        let value = |name| answer.head.value(name);
        match answer.head.status {
            200 => {
                let total = value("content-length").and_then(|length| length.parse().ok());
                total.map_or(Ok(()), |total| self.of.check(total))?;
                if have > 0 {
                    self.note_anew("the server sends the whole only");
                }
                self.cut()?;
                self.receive(answer, 0, total)
            }
            206 if have > 0 => match value("content-range").and_then(content_range) {
                Some((Some(start), total))
                    if start == have && total.is_none_or(|total| self.of.check(total).is_ok()) =>
                {
                    self.receive(answer, have, total)
                }
                _ => {
                    drop(answer);
                    self.begin_anew("the server's answer does not continue it")
                }
            },
            416 if have > 0 => match value("content-range").and_then(content_range) {
                // Nothing is missing; a process was ended before it could look.
                Some((None, Some(total))) if total == have && self.of.check(total).is_ok() => Ok(()),
                _ => {
                    drop(answer);
                    self.begin_anew("the server's file ends before it")
                }
            },
            status => {
                let reason = format!("the server answered {}", answer.head.status_line());
                // Request Timeout, Too Many Requests, and trouble of the server's own.
                Err(if matches!(status, 408 | 429 | 500..600) { Stop::Lost(reason) } else { Stop::Failed(reason) })
            }
        }
    }

    /// Appends the answer to the part, which has `have` bytes of `total`.
    fn receive(&mut self, mut answer: Answer, mut have: u64, total: Option<u64>) -> Result<(), Stop> {
        let total = total.or(self.of.size);
        let most = total.unwrap_or(MOST);
        self.shown.begin(have, total);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = answer.read(&mut buffer).map_err(|error| self.judge(error))?;
            if count == 0 {
                break;
            }
            if have + count as u64 > most {
                self.cut()?;
                let most = text::thousands(most);
                return Err(Stop::Failed(format!("expected at most {most} bytes, the server sends more")));
            }
            (&self.part).write_all(&buffer[..count]).map_err(|error| self.cannot("write", error))?;
            have += count as u64;
            self.shown.reach(have);
        }
        match total {
            Some(total) if have < total => {
                let (have, total) = (text::thousands(have), text::thousands(total));
                Err(Stop::Lost(format!("the answer ended after {have} of {total} bytes")))
            }
            _ => Ok(()),
        }
    }

    fn length(&self) -> Result<u64, Stop> {
        self.part.metadata().map(|metadata| metadata.len()).map_err(|error| self.cannot("read", error))
    }

    /// Asks for the whole. The part is cut only when that comes.
    fn begin_anew(&mut self, reason: &str) -> Result<(), Stop> {
        self.note_anew(reason);
        self.ask(0)
    }

    fn note_anew(&self, reason: &str) {
        self.shown.say(&format!("note: {} is not gone on with, {reason}", self.of.part.display()));
    }

    /// Empties the part.
    fn cut(&mut self) -> Result<(), Stop> {
        self.from_before = 0;
        match self.length()? {
            0 => Ok(()),
            _ => self.part.set_len(0).map_err(|error| self.cannot("write", error)),
        }
    }

    fn cannot(&self, action: &'static str, error: io::Error) -> Stop {
        Stop::Failed(Error::io(self.of.part, action, error).to_string())
    }

    /// What to do after an error of the network. Until a server has answered, a wrong address is more likely than a bad
    /// connection.
    fn judge(&self, error: http::Error) -> Stop {
        match error {
            http::Error::Lost(reason) => Stop::Lost(reason),
            http::Error::Unreachable(reason) if self.was_answered => Stop::Lost(reason),
            http::Error::Unreachable(reason) | http::Error::Failed(reason) => Stop::Failed(reason),
        }
    }
}

/// `bytes 5-9/10` is (5, 10), `bytes 5-9/*` (5, unknown), `bytes */10` (none, 10).
fn content_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let number = |text: &str| match text.trim() {
        "*" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    let start = range.split_once('-').map_or(range, |(start, _)| start);
    Some((number(start)?, number(total)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(content_range("bytes */10"), Some((None, Some(10))));
        for wrong in
            ["", "bytes", "bytes 5-9", "bytes5-9/10", "pages 5-9/10", "bytes x-9/10", "bytes 5-9/x", "bytes -5-9/10"]
        {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
