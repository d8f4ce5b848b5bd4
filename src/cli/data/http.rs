//! One HTTP request, made by the program `curl`.
//!
//! macOS and Windows 10 contain it, Linux distributions have a package; it uses the system's certificates and proxies. An
//! HTTP client with TLS as a dependency adds about fifty crates and some C to every build, for one subcommand.
//!
//! With `--include`, curl writes to stdout the head of every answer, each ended by an empty line, then the body of the last
//! answer. An earlier head is informational (1xx) or a redirect that curl followed; the bodies of redirects are left out. The
//! exit code of curl says why the output ended, a line on stderr explains it. Every option used here is in curl 7.54 (2017).
//!
//! The silence of a server is measured here, by the pauses of curl's output: `--speed-time` counts whole seconds, and begins
//! several seconds after the last byte of a body. Until the head is there, curl's own limits apply.
//!
//! Limitation: fields after a chunked body (trailers, RFC 9112, section 7.1.2) would be read as part of the body. A server
//! sends them only if the request allows them, which ours does not (RFC 9110, section 6.5.1); the checksum of the whole would
//! detect them.

use crate::cli::text;
use std::io::{self, BufRead, ErrorKind, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The most redirects that are followed.
const REDIRECTS: u64 = 10;
/// The most bytes of all heads together; a server's head has a few kilobytes.
const LONGEST_HEADS: u64 = 1 << 18;
/// Bytes that are read from curl at once: what fits into a pipe of Linux.
const CHUNK: usize = 1 << 16;

/// For the bytes of `url` from byte `start` on.
pub struct Request<'a> {
    pub url: &'a str,
    pub start: u64,
    /// How long the server may be silent.
    pub silence: Duration,
}

/// Why there is no answer, or not all of it; for people.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// No server was reached: the address is wrong, or the connection bad.
    Unreachable(String),
    /// There was a connection, and it broke or fell silent. Another one may do better.
    Lost(String),
    /// Another try would end in the same way.
    Failed(String),
}

/// An answer, whose body is still to be read.
pub struct Answer {
    pub head: Head,
    output: Output,
    curl: Curl,
    silent: String,
}

impl Request<'_> {
    /// Waits for the head of the answer, after redirects.
    ///
    /// # Errors
    /// As curl ends, or if `silence` is over.
    pub fn send(&self) -> Result<Answer, Error> {
        // curl takes whole seconds, and not too many of them.
        let seconds = self.silence.as_secs_f64().ceil().clamp(1.0, 1e6) as u64;
        let (mut curl, chunks) = Curl::start(self.command(seconds))?;
        // For each answer of a chain the time to connect and the time to answer: curl ends before that by itself, and may keep
        // the heads of redirects back until there is a body. And a second in which the program starts.
        let patience = Duration::from_secs((REDIRECTS + 1) * 2 * seconds + 1);
        let mut output = Output { chunks, patience, chunk: Vec::new(), used: 0 };
        let silence = text::duration(self.silence.as_secs_f64());
        let head = last_head(&mut output).map_err(|error| {
            let silent = format!("no answer within {silence}");
            match error.kind() {
                ErrorKind::UnexpectedEof => curl.end().error(&silent),
                ErrorKind::TimedOut => Error::Lost(silent),
                _ => Error::Failed(error.to_string()),
            }
        })?;
        output.patience = self.silence;
        Ok(Answer { head, output, curl, silent: format!("the server was silent for {silence}") })
    }

    fn command(&self, seconds: u64) -> Command {
        let seconds = seconds.to_string();
        let mut command = Command::new("curl");
        // Without ~/.curlrc, which could change what is written to stdout. Read only as the first argument.
        command.arg("--disable");
        command.args(["--silent", "--show-error", "--include", "--suppress-connect-headers", "--no-buffer"]);
        // Braces and brackets of an address are part of it. HTTP/1.1 has a reason beside each status.
        command.args(["--globoff", "--http1.1", "--location", "--max-redirs", &REDIRECTS.to_string()]);
        command.args(["--proto", "=http,https", "--proto-redir", "=http,https"]);
        command.args(["--connect-timeout", &seconds, "--speed-limit", "1", "--speed-time", &seconds]);
        command.args(["--user-agent", concat!("resnet-by-hand/", env!("CARGO_PKG_VERSION"))]);
        // Bytes are counted and hashed as they are stored: no compression on the way.
        command.args(["--header", "Accept-Encoding: identity"]);
        if self.start > 0 {
            command.args(["--range", &format!("{}-", self.start)]);
        }
        command.args(["--", self.url]);
        // Of this variable curl knows the small letters only: a client of a web server could set the other in a script there.
        if std::env::var_os("http_proxy").is_none()
            && let Some(proxy) = std::env::var_os("HTTP_PROXY")
        {
            command.env("http_proxy", proxy);
        }
        command
    }
}

impl Answer {
    /// The next bytes of the body; none at its end. `buffer` has room for one at least.
    ///
    /// # Errors
    /// After the last byte that came, as curl ends; or if the server is silent too long.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        match self.output.read(buffer) {
            Ok(0) => match self.curl.end() {
                End { code: Some(0), .. } => Ok(0),
                end => Err(end.error(&self.silent)),
            },
            Ok(count) => Ok(count),
            Err(_) => Err(Error::Lost(self.silent.clone())),
        }
    }
}

/// What curl writes to stdout, with a limit on its pauses.
struct Output {
    chunks: Receiver<Vec<u8>>,
    /// The longest pause: after it, `ErrorKind::TimedOut`.
    patience: Duration,
    chunk: Vec<u8>,
    /// Bytes of the chunk that were read.
    used: usize,
}

impl BufRead for Output {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.chunk.len() {
            match self.chunks.recv_timeout(self.patience) {
                Ok(chunk) => (self.chunk, self.used) = (chunk, 0),
                Err(RecvTimeoutError::Disconnected) => {}
                Err(RecvTimeoutError::Timeout) => return Err(ErrorKind::TimedOut.into()),
            }
        }
        Ok(&self.chunk[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// The program while it runs. Dropped, it is killed.
struct Curl {
    child: Arc<Mutex<Child>>,
    /// Reads stderr.
    words: Option<JoinHandle<String>>,
}

/// The program that was started last, for [`kill`].
static LAST: Mutex<Option<Arc<Mutex<Child>>>> = Mutex::new(None);

/// Kills the curl that runs, if there is one. For whoever ends the program while another thread reads an answer: that thread
/// learns nothing of it and waits for ever.
pub fn kill() {
    if let Some(child) = lock(&LAST).as_ref()
        && let Ok(mut child) = child.try_lock()
    {
        let _ = child.kill();
        // Stays locked.
        std::mem::forget(child);
    }
}

impl Curl {
    fn start(mut command: Command) -> Result<(Self, Receiver<Vec<u8>>), Error> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for whoever reads, who calls `kill`. If both had it, curl's end could be reported before that.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| {
            Error::Failed(match error.kind() {
                ErrorKind::NotFound => "the program `curl`, which makes the connection, was not found; install the \
                                        package `curl` (macOS, and Windows from 10 on, have it) and try again"
                    .to_string(),
                _ => format!("cannot start the program `curl`, which makes the connection: {error}"),
            })
        })?;
        let (stdout, stderr) = (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
        let child = Arc::new(Mutex::new(child));
        *lock(&LAST) = Some(Arc::clone(&child));
        let words = Some(thread::spawn(move || collect(stderr)));
        Ok((Curl { child, words }, chunks(stdout)))
    }

    /// Waits for its end: when stdout ended, there is nothing left for it to do.
    fn end(&mut self) -> End {
        let status = lock(&self.child).wait();
        let words = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        End { code: status.ok().and_then(|status| status.code()), words }
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // It may have ended.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread reads from stdout, until that ends or nobody takes it.
fn chunks(mut stdout: ChildStdout) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            match stdout.read(&mut buffer) {
                Ok(count) if count > 0 && sender.send(buffer[..count].to_vec()).is_ok() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
    });
    receiver
}

/// The beginning of stderr. All of it is read, so that curl never waits for a reader.
fn collect(mut stderr: ChildStderr) -> String {
    let mut words = Vec::new();
    let _ = (&mut stderr).take(CHUNK as u64).read_to_end(&mut words);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&words).into_owned()
}

/// How curl ended.
struct End {
    /// None after a signal.
    code: Option<i32>,
    /// What it wrote to stderr.
    words: String,
}

impl End {
    /// What its exit code means (`man curl`, EXIT CODES); `silent` is the reason after a silence. 0 is an error too, for those
    /// who call this: curl knows no better where a connection ends within a head.
    fn error(&self, silent: &str) -> Error {
        let reason = self.reason();
        match self.code {
            Some(0 | 18) => Error::Lost("the connection was lost".to_string()),
            Some(28) => Error::Lost(silent.to_string()),
            Some(52) => Error::Lost("the server closed the connection without an answer".to_string()),
            // A proxy that does not connect to the server has the code of a lost connection.
            Some(56) if reason.contains("CONNECT") => Error::Unreachable(format!("no connection: {reason}")),
            Some(55 | 56) => Error::Lost(format!("the connection was lost: {reason}")),
            // No address of the proxy, none of the server; nobody there; a proxy that failed.
            Some(5 | 6 | 7 | 97) => Error::Unreachable(format!("no connection: {reason}")),
            // A server that speaks no TLS, and also a connection lost while they agree on it.
            Some(35) => Error::Unreachable(format!("TLS: {reason}")),
            // Certificates, ciphers, keys: the server will not be who it should be in a second either.
            Some(51 | 53 | 54 | 58 | 59 | 60 | 64 | 66 | 77 | 80 | 82 | 83 | 90 | 91 | 98) => Error::Failed(format!(
                "TLS: {reason}; the system decides which certificates to trust (on Linux: package ca-certificates, or \
                 the variable CURL_CA_BUNDLE)"
            )),
            Some(47) => Error::Failed("too many redirects".to_string()),
            Some(_) => Error::Failed(reason),
            None => Error::Unreachable(reason),
        }
    }

    /// Its own explanation, `curl: (6) Could not resolve host: example.org`, without what comes before it.
    fn reason(&self) -> String {
        let words = self.words.lines().find_map(|line| line.strip_prefix("curl: "));
        match (words, self.code) {
            (Some(words), _) => {
                let number = words.split_once(") ").filter(|(number, _)| number.starts_with('('));
                printable(number.map_or(words, |(_, rest)| rest))
            }
            (None, Some(code)) => format!("curl ended with exit code {code}"),
            (None, None) => "curl was ended by a signal".to_string(),
        }
    }
}

/// Text from elsewhere as it may be printed in a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}

/// The first lines of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    /// `Not Found`, for people; may be empty.
    reason: String,
    /// Names in small letters, values without surrounding space.
    fields: Vec<(String, String)>,
}

impl Head {
    /// `404 Not Found`.
    pub fn status_line(&self) -> String {
        format!("{} {}", self.status, self.reason).trim_end().to_string()
    }

    /// The first value of the field `name`, in small letters, that is not empty.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Whether curl goes on to another answer.
    fn is_followed(&self) -> bool {
        match self.status {
            100..200 => true,
            300..400 => self.value("location").is_some(),
            _ => false,
        }
    }
}

/// The head of the last answer. The body is what `input` has after it.
///
/// # Errors
/// Those of `input`; `UnexpectedEof` if there is none; `InvalidData` if this is not HTTP or too long.
fn last_head(input: &mut impl BufRead) -> io::Result<Head> {
    let mut left = LONGEST_HEADS;
    loop {
        let head = head(input, &mut left)?;
        if !head.is_followed() {
            return Ok(head);
        }
    }
}

/// One head, of `left` bytes at most, with the empty line at its end.
fn head(input: &mut impl BufRead, left: &mut u64) -> io::Result<Head> {
    let (status, reason) = status(&line(input, left)?)
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "expected an answer of HTTP, got something else"))?;
    let mut fields: Vec<(String, String)> = Vec::new();
    loop {
        let line = line(input, left)?;
        match (line.split_once(':'), fields.last_mut()) {
            _ if line.is_empty() => return Ok(Head { status, reason, fields }),
            // The value before it goes on (RFC 9112, section 5.2).
            (_, Some((_, value))) if line.starts_with([' ', '\t']) => {
                *value = format!("{value} {}", line.trim()).trim().to_string();
            }
            (Some((name, value)), _) => fields.push((name.to_ascii_lowercase(), value.trim().to_string())),
            (None, _) => {}
        }
    }
}

/// `HTTP/1.1 404 Not Found` is (404, Not Found).
fn status(line: &str) -> Option<(u16, String)> {
    let (_, rest) = line.strip_prefix("HTTP/")?.split_once(' ')?;
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let code = is_code.then(|| code.parse().ok())?.filter(|code| *code >= 100)?;
    Some((code, printable(reason.trim())))
}

/// A line without its end, of `left` bytes at most.
fn line(input: &mut impl BufRead, left: &mut u64) -> io::Result<String> {
    let mut line = Vec::new();
    *left -= input.take(*left).read_until(b'\n', &mut line)? as u64;
    match line.pop() {
        Some(b'\n') => {}
        _ if *left == 0 => {
            let message = format!("the head of the answer is longer than {} bytes", text::thousands(LONGEST_HEADS));
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        _ => return Err(ErrorKind::UnexpectedEof.into()),
    }
    let line = line.strip_suffix(b"\r").unwrap_or(&line);
    Ok(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last head of `input`, and the bytes after it.
    fn read(input: &str) -> (io::Result<Head>, &[u8]) {
        let mut rest = input.as_bytes();
        (last_head(&mut rest), rest)
    }

    fn kind(input: &str) -> ErrorKind {
        read(input).0.expect_err(input).kind()
    }

    #[test]
    fn a_head_and_its_fields() {
        let (head, body) = read(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\ncontent-RANGE:\t bytes 5-9/10 \r\nX:a:b\r\n\r\n\r\nbody\n",
        );
        let head = head.unwrap();
        assert_eq!((head.status, head.status_line().as_str()), (206, "206 Partial Content"));
        assert_eq!(head.value("content-length"), Some("5"));
        assert_eq!(head.value("content-range"), Some("bytes 5-9/10"));
        assert_eq!(head.value("x"), Some("a:b"));
        assert_eq!(body, b"\r\nbody\n");
    }

    #[test]
    fn fields_that_are_missing_empty_repeated_or_folded() {
        let (head, body) = read("HTTP/1.1 200 OK\r\n\r\n");
        let head = head.unwrap();
        assert_eq!((head.value("content-length"), head.fields.len(), body), (None, 0, &b""[..]));
        let (head, _) = read("HTTP/1.0 200 OK\nA:\nA: 1\nA: 2\nno field\nB: one\n  two \n\t three\nC:\n four\n\n");
        let head = head.unwrap();
        assert_eq!(head.value("a"), Some("1"));
        assert_eq!(head.value("b"), Some("one two three"));
        assert_eq!(head.value("c"), Some("four"));
        assert_eq!(head.value("no field"), None);
        // Nothing before it to continue.
        let (head, _) = read("HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\n");
        assert_eq!(head.unwrap().value("content-length"), None);
    }

    #[test]
    fn heads_before_the_last_are_skipped() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 9\r\n\r\n";
        let found = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/";
        for before in [
            moved.to_string(),
            moved.repeat(10),
            "HTTP/1.1 100 Continue\r\n\r\n".to_string(),
            format!("HTTP/1.1 100 Continue\r\n\r\n{moved}HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
            // Followed by curl, whatever the number.
            moved.replace("302 Found", "304 Not Modified"),
        ] {
            let input = format!("{before}{found}");
            let (head, body) = read(&input);
            assert_eq!(head.unwrap().value("content-length"), Some("5"), "{before}");
            assert_eq!(body, b"HTTP/");
            // curl ended after them: its exit code says why.
            assert_eq!(kind(&before), ErrorKind::UnexpectedEof);
        }
        // Nowhere to go: this is the answer, and what follows its body.
        for location in ["", "Location:\r\n", "Location: \t\r\n"] {
            let input = format!("HTTP/1.1 302 Found\r\n{location}\r\n{found}");
            let (head, body) = read(&input);
            assert_eq!((head.unwrap().status, body), (302, found.as_bytes()));
        }
        // A place without a redirect.
        assert_eq!(read("HTTP/1.1 201 Created\r\nLocation: /new\r\n\r\n").0.unwrap().status, 201);
    }

    #[test]
    fn status_lines() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK", Some((200, "OK"))),
            ("HTTP/1.0 404 Not Found ", Some((404, "Not Found"))),
            ("HTTP/2 503", Some((503, ""))),
            ("HTTP/1.1 500 ", Some((500, ""))),
            ("HTTP/1.1 999 \u{1b}[2Jred\u{7}", Some((999, "[2Jred"))),
            ("HTTP/1.1  200 OK", None),
            ("HTTP/1.1 2000 OK", None),
            ("HTTP/1.1 20 OK", None),
            ("HTTP/1.1 099 OK", None),
            ("HTTP/1.1 +20 OK", None),
            ("HTTP/1.1", None),
            ("HTTP 200 OK", None),
            (" HTTP/1.1 200 OK", None),
            ("ICY 200 OK", None),
            ("", None),
        ] {
            assert_eq!(status(line), expected.map(|(code, reason)| (code, reason.to_string())), "{line:?}");
        }
        let (head, _) = read("HTTP/2 503\r\n\r\n");
        assert_eq!(head.unwrap().status_line(), "503");
        assert_eq!(status(&format!("HTTP/1.1 200 {}", "x".repeat(1000))).unwrap().1.len(), 200);
    }

    #[test]
    fn what_is_no_head() {
        for garbage in
            ["hello\r\n\r\n", "\r\n", "\n", "\u{0}\u{1}\n", "HTTP/1.1 200 OK\r\n\r\n".trim_start_matches('H')]
        {
            assert_eq!(kind(garbage), ErrorKind::InvalidData, "{garbage:?}");
        }
        let mut rest = &b"\xff\xfe\xfd\n"[..];
        assert_eq!(last_head(&mut rest).unwrap_err().kind(), ErrorKind::InvalidData);
        for cut in ["", "H", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"] {
            assert_eq!(kind(cut), ErrorKind::UnexpectedEof, "{cut:?}");
        }
    }

    #[test]
    fn heads_have_a_limit() {
        let limit = LONGEST_HEADS as usize;
        let of_length = |length: usize| {
            let (begin, end) = ("HTTP/1.1 200 OK\r\nX: ", "\r\n\r\n");
            format!("{begin}{}{end}", "a".repeat(length - begin.len() - end.len()))
        };
        assert_eq!(read(&of_length(limit)).0.unwrap().status, 200);
        let error = read(&of_length(limit + 1)).0.unwrap_err();
        assert_eq!(error.to_string(), "the head of the answer is longer than 262,144 bytes");
        // Many heads, one line that does not end, and lines that do not: each without an end.
        assert_eq!(kind(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(limit)), ErrorKind::InvalidData);
        assert_eq!(kind(&"a".repeat(limit + 1)), ErrorKind::InvalidData);
        assert_eq!(kind(&format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(limit))), ErrorKind::InvalidData);
    }

    #[test]
    fn what_exit_codes_mean() {
        let end = |code: i32, words: &str| {
            End { code: Some(code), words: format!("curl: ({code}) {words}\n") }.error("silent for 5 s")
        };
        let lost = |reason: &str| Error::Lost(reason.to_string());
        let unreachable = |reason: &str| Error::Unreachable(reason.to_string());
        assert_eq!(end(18, "transfer closed with 3 bytes remaining to read"), lost("the connection was lost"));
        assert_eq!(End { code: Some(0), words: String::new() }.error(""), lost("the connection was lost"));
        assert_eq!(end(28, "Operation too slow"), lost("silent for 5 s"));
        assert_eq!(end(52, "Empty reply"), lost("the server closed the connection without an answer"));
        assert_eq!(end(55, "Send failure"), lost("the connection was lost: Send failure"));
        assert_eq!(end(56, "Recv failure"), lost("the connection was lost: Recv failure"));
        // Of different versions.
        for refused in ["Received HTTP code 403 from proxy after CONNECT", "CONNECT tunnel failed, response 403"] {
            assert_eq!(end(56, refused), unreachable(&format!("no connection: {refused}")));
        }
        for code in [5, 6, 7, 97] {
            assert_eq!(end(code, "words"), unreachable("no connection: words"));
        }
        assert_eq!(end(35, "wrong version number"), unreachable("TLS: wrong version number"));
        for code in [51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98] {
            let Error::Failed(reason) = end(code, "self-signed certificate") else { panic!("{code}") };
            assert!(
                reason.starts_with("TLS: self-signed certificate; ") && reason.contains("CURL_CA_BUNDLE"),
                "{reason}"
            );
        }
        assert_eq!(end(47, "Maximum (10) redirects followed"), Error::Failed("too many redirects".to_string()));
        for code in [1, 2, 3, 4, 8, 22, 23, 27, 43, 61, 63, 100, 1000] {
            assert_eq!(end(code, "words"), Error::Failed("words".to_string()));
        }
    }

    #[test]
    fn the_reason_in_curls_words() {
        let reason = |code: Option<i32>, words: &str| End { code, words: words.to_string() }.reason();
        let long = "Warning: something\ncurl: (60) SSL certificate problem: self-signed (a) certificate\nMore details here:\n\n\
                    curl failed to verify the legitimacy of the server\n";
        assert_eq!(reason(Some(60), long), "SSL certificate problem: self-signed (a) certificate");
        let usage = "curl: option --globoff: is unknown\ncurl: try 'curl --help' (or man) for more\n";
        assert_eq!(reason(Some(2), usage), "option --globoff: is unknown");
        assert_eq!(reason(Some(6), "curl: (6) no \u{1b}[1mhost\r\n"), "no [1mhost");
        assert_eq!(reason(Some(6), "words without a mark"), "curl ended with exit code 6");
        assert_eq!(reason(Some(6), ""), "curl ended with exit code 6");
        assert_eq!(reason(None, ""), "curl was ended by a signal");
        assert_eq!(End { code: None, words: String::new() }.error(""), Error::Unreachable(reason(None, "")));
    }

    /// The pauses of the output have a limit; what it has is not cut short by that.
    #[test]
    fn output_in_pieces() {
        let (sender, chunks) = mpsc::channel();
        let mut output = Output { chunks, patience: Duration::from_millis(1), chunk: Vec::new(), used: 0 };
        let mut buffer = [0; 3];
        assert_eq!(output.read(&mut buffer).unwrap_err().kind(), ErrorKind::TimedOut);
        for piece in [&b"HT"[..], b"TP/1.1 200 OK\r", b"\n\r\nab", b"cde"] {
            sender.send(piece.to_vec()).unwrap();
        }
        assert_eq!(last_head(&mut output).unwrap().status, 200);
        for expected in [&b"ab"[..], b"cde"] {
            let count = output.read(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], expected);
        }
        assert_eq!(output.read(&mut buffer).unwrap_err().kind(), ErrorKind::TimedOut);
        drop(sender);
        assert_eq!(output.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn the_command() {
        let arguments = |url: &str, start: u64| {
            let command = Request { url, start, silence: Duration::from_secs(30) }.command(30);
            command.get_args().map(|argument| argument.to_str().unwrap().to_string()).collect::<Vec<_>>()
        };
        let whole = arguments("http://host/--file", 0);
        // curl looks for it there only.
        assert_eq!(whole[0], "--disable");
        assert_eq!(whole[whole.len() - 2..], ["--", "http://host/--file"]);
        assert!(!whole.iter().any(|argument| argument == "--range"));
        let rest = arguments("http://host/", 170_052_170);
        let at = rest.iter().position(|argument| argument == "--range").unwrap();
        assert_eq!(rest[at + 1], "170052170-");
        assert_eq!(rest.iter().filter(|argument| *argument == "30").count(), 2);
    }
}
