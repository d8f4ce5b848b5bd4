//! A file over HTTP, in as many pieces as it takes.
//!
//! What has come is in one file, the part: the first bytes of the whole and nothing else. So it can be gone on with whatever
//! ended it: a lost connection, Ctrl-C, a power cut. The rest is asked for with the header `Range` (RFC 9110, section
//! 14.2); a server that does not know it sends everything, and the part begins anew. Whether what came at different times
//! is of one file, HTTP cannot promise: whoever calls compares the whole with its checksum.

use crate::Error;
use crate::cli::progress::Transfer;
use crate::cli::text;
use std::fmt::Display;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;
use ureq::http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, RANGE};
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

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
        let (part, agent) = (open(self.part)?, agent(self.silence));
        let mut session =
            Session { of: self, part, agent, shown: Transfer::new(), from_before: 0, was_answered: false };
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

fn agent(silence: Duration) -> Agent {
    let config = Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .user_agent(concat!("resnet-by-hand/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .timeout_resolve(Some(silence))
        .timeout_connect(Some(silence))
        .timeout_per_read(Some(silence))
        .timeout_per_write(Some(silence));
    config.build().new_agent()
}

/// A download while it runs.
struct Session<'a> {
    of: &'a Download<'a>,
    part: File,
    agent: Agent,
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
        // Bytes are counted and hashed as they are stored: no compression on the way.
        let mut request = self.agent.get(self.of.url).header(ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let response = request.call().map_err(|error| self.judge(error))?;
        self.was_answered = true;

        match response.status() {
            StatusCode::OK => {
                let total = value(response.headers(), CONTENT_LENGTH).and_then(|length| length.parse().ok());
                total.map_or(Ok(()), |total| self.of.check(total))?;
                if have > 0 {
                    self.note_anew("the server sends the whole only");
                }
                self.cut()?;
                self.receive(response, 0, total)
            }
            StatusCode::PARTIAL_CONTENT if have > 0 => match content_range(response.headers()) {
                Some((Some(start), total))
                    if start == have && total.is_none_or(|total| self.of.check(total).is_ok()) =>
                {
                    self.receive(response, have, total)
                }
                _ => self.begin_anew("the server's answer does not continue it"),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => match content_range(response.headers()) {
                // Nothing is missing; a process was ended before it could look.
                Some((None, Some(total))) if total == have && self.of.check(total).is_ok() => Ok(()),
                _ => self.begin_anew("the server's file ends before it"),
            },
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => Err(Stop::Lost(answered(status))),
            status if status.is_server_error() => Err(Stop::Lost(answered(status))),
            status => Err(Stop::Failed(answered(status))),
        }
    }

    /// Appends the answer to the part, which has `have` bytes of `total`.
    fn receive(&mut self, response: Response<Body>, mut have: u64, total: Option<u64>) -> Result<(), Stop> {
        let total = total.or(self.of.size);
        let most = total.unwrap_or(MOST);
        self.shown.begin(have, total);
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.judge(error.into())),
            };
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
    fn judge(&self, error: ureq::Error) -> Stop {
        let silence = text::duration(self.of.silence.as_secs_f64());
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                Stop::Lost(format!("no connection within {silence}"))
            }
            ureq::Error::Timeout(_) => Stop::Lost(format!("the server was silent for {silence}")),
            ureq::Error::Io(error) => match error.kind() {
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof => Stop::Lost("the connection was lost".to_string()),
                ErrorKind::InvalidData => not_trusted(error),
                _ if self.was_answered => Stop::Lost(error.to_string()),
                _ => Stop::Failed(error.to_string()),
            },
            ureq::Error::Rustls(error) => not_trusted(error),
            error => Stop::Failed(error.to_string()),
        }
    }
}

/// An error of TLS: the server will not be who it should be in a second either.
fn not_trusted(error: impl Display) -> Stop {
    Stop::Failed(format!(
        "TLS: {error}; whom to trust, the system says (on Linux: package ca-certificates, or SSL_CERT_FILE)"
    ))
}

fn answered(status: StatusCode) -> String {
    format!("the server answered {status}")
}

fn value(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `bytes 5-9/10` is (5, 10), `bytes 5-9/*` (5, unknown), `bytes */10` (none, 10).
fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = value(headers, CONTENT_RANGE)?.trim().strip_prefix("bytes ")?.split_once('/')?;
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
        let read = |text: &str| content_range(&HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]));
        assert_eq!(read("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(read("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(read("bytes */10"), Some((None, Some(10))));
        for wrong in
            ["", "bytes", "bytes 5-9", "bytes5-9/10", "pages 5-9/10", "bytes x-9/10", "bytes 5-9/x", "bytes -5-9/10"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(content_range(&HeaderMap::new()), None);
    }
}
