//! `resnet data fetch` against a server on this machine that breaks off, forgets, sends too much or something else.

use super::common::{self, Folder, Run};
use resnet_by_hand::formats::hex;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const NAME: &str = "cifar-10-binary.tar.gz";
const PART: &str = "cifar-10-binary.tar.gz.part";
/// Of the published archive.
const SIZE: u64 = 170_052_171;
const MD5: &str = "c32a1d4ab5d03f1284b67883e8d87530";

/// What the server does with one connection: it reads the head of a request, sends these bytes, and closes the connection
/// or falls silent.
#[derive(Clone)]
struct Answer {
    head: String,
    body: Vec<u8>,
    silent: bool,
}

impl Answer {
    fn new(status: &str, headers: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
        Answer { head, body: body.to_vec(), silent: false }
    }

    /// 200, all of `bytes`.
    fn whole(bytes: &[u8]) -> Self {
        Answer::new("200 OK", &format!("Content-Length: {}\r\n", bytes.len()), bytes)
    }

    /// 206, `bytes` from `start` on.
    fn rest(bytes: &[u8], start: usize) -> Self {
        let (end, total) = (bytes.len() - 1, bytes.len());
        let headers = format!("Content-Length: {}\r\nContent-Range: bytes {start}-{end}/{total}\r\n", total - start);
        Answer::new("206 Partial Content", &headers, &bytes[start..])
    }

    /// No more than `count` bytes of the body, whatever the head says.
    fn cut(mut self, count: usize) -> Self {
        self.body.truncate(count);
        self
    }

    fn silent(mut self) -> Self {
        self.silent = true;
        self
    }
}

/// What was asked for: the path and the header `Range`.
type Request = (String, Option<String>);

/// A server that gives these answers, one for each connection, and then is gone.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn new(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answers, noted) = (answers.to_vec(), Arc::clone(&requests));
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                noted.lock().unwrap().push(request(&mut stream));
                // The client may have gone away.
                let _ = stream.write_all(answer.head.as_bytes()).and_then(|()| stream.write_all(&answer.body));
                if answer.silent {
                    // Until the client goes away; one that would wait for ever finds its connection lost instead.
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    thread::spawn(move || stream.read(&mut [0]));
                }
            }
        });
        Server { address, requests }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The header `Range` of each request.
    fn ranges(&self) -> Vec<Option<String>> {
        self.requests().into_iter().map(|(_, range)| range).collect()
    }
}

fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn request(stream: &mut TcpStream) -> Request {
    let head = head(stream);
    assert!(head.contains("\r\nAccept-Encoding: identity\r\n"), "{head}");
    assert!(head.contains(concat!("\r\nUser-Agent: resnet-by-hand/", env!("CARGO_PKG_VERSION"), "\r\n")), "{head}");
    let path = head.strip_prefix("GET ").unwrap().split(' ').next().unwrap().to_string();
    let range = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: ").map(str::to_string));
    (path, range)
}

fn from(start: usize) -> Option<String> {
    Some(format!("bytes={start}-"))
}

/// Bytes that are not the same shifted by anything, 100,000 of them.
fn archive() -> Vec<u8> {
    (0..25_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The arguments to fetch `bytes` from the folder of `server`.
fn fetch(server: &Server, bytes: &[u8]) -> String {
    format!("data fetch --url {}/ --sha256 {}", server.address, hash(bytes))
}

/// It failed, after notes that are not looked at.
#[track_caller]
fn fails_in_the_end(mut run: Run, parts: &[&str]) {
    let end = run.stderr.find("error: ").unwrap_or_else(|| panic!("{run:?}"));
    assert!(run.stderr[..end].lines().all(|line| line.starts_with("note: ")), "{run:?}");
    run.stderr.drain(..end);
    run.fails(1, parts);
}

#[track_caller]
fn has_only(folder: &Folder, names: &[&str]) {
    let mut found: Vec<_> =
        fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
}

#[track_caller]
fn has_archive(folder: &Folder, bytes: &[u8]) {
    has_only(folder, &[NAME]);
    assert!(fs::read(folder.path(NAME)).unwrap() == bytes, "other bytes");
}

/// The tests that mostly wait, seconds until the next attempt.
const WAITING: [(&str, fn()); 6] = [
    ("lost_connection", lost_connection),
    ("silent_server", silent_server),
    ("server_in_trouble", server_in_trouble),
    ("download_that_gets_on", download_that_gets_on),
    ("no_answer", no_answer),
    ("no_head", no_head),
];

/// They wait together: the first of them that runs begins all.
fn waiting(name: &str) {
    type Test = Mutex<Option<thread::JoinHandle<()>>>;
    static BEGUN: OnceLock<Vec<(&str, Test)>> = OnceLock::new();
    let begin = |(name, test): (&'static str, fn())| (name, Mutex::new(Some(thread::spawn(test))));
    let test = BEGUN.get_or_init(|| WAITING.map(begin).into()).iter().find(|(begun, _)| *begun == name);
    let test = test.unwrap().1.lock().unwrap().take().expect("every test runs once");
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_whole_download_and_what_is_asked_for() {
    if common::skip_without_curl() {
        return;
    }
    let bytes = archive();
    for (flags, path, file) in [
        ("--url URL/", "/cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz"),
        ("--url URL/mirror/ --python", "/mirror/cifar-10-python.tar.gz", "cifar-10-python.tar.gz"),
        ("--url URL/ --set cifar100", "/cifar-100-binary.tar.gz", "cifar-100-binary.tar.gz"),
        ("--url URL/ --set cifar100 --python", "/cifar-100-python.tar.gz", "cifar-100-python.tar.gz"),
        ("--url URL/some.tgz?key=1", "/some.tgz?key=1", "cifar-10-binary.tar.gz"),
    ] {
        let (folder, server) = (Folder::new("fetch-whole"), Server::new(&[Answer::whole(&bytes)]));
        let hash = hash(&bytes);
        let flags = flags.replace("URL", &server.address);
        let stdout = folder.ok(&format!("data fetch {flags} --out new/folder --sha256 {}", hash.to_uppercase()));
        assert_eq!(server.requests(), [(path.to_string(), None)]);
        assert!(fs::read(folder.path("new/folder").join(file)).unwrap() == bytes);
        assert_eq!(fs::read_dir(folder.path("new/folder")).unwrap().count(), 1);
        let lines: Vec<&str> = stdout.lines().collect();
        assert_eq!(lines[0], format!("from           {}{path}", server.address));
        assert_eq!(lines[1], format!("archive        new/folder/{file}, 100 kB"));
        assert_eq!(lines[2], format!("checked        SHA-256 {hash}"));
        assert_eq!(lines[3], format!("next           resnet train --data new/folder/{file}"));
    }
}

#[test]
fn after_a_lost_connection_only_the_rest_is_asked_for() {
    waiting("lost_connection");
}

fn lost_connection() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-lost"), archive());
    let server = Server::new(&[
        Answer::whole(&bytes).cut(40_000),
        Answer::rest(&bytes, 40_000).cut(1),
        Answer::rest(&bytes, 40_001),
    ]);
    let run = folder.run(&fetch(&server, &bytes));
    for note in [
        "note: the connection was lost; trying again in 1.0 s\n",
        "note: the connection was lost; trying again in 2.0 s\n",
    ] {
        assert!(run.stderr.contains(note), "{run:?}");
    }
    run.ok();
    assert_eq!(server.ranges(), [None, from(40_000), from(40_001)]);
    has_archive(&folder, &bytes);
}

#[test]
fn a_silent_server_is_left_and_asked_again() {
    waiting("silent_server");
}

fn silent_server() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-silent"), archive());
    let server = Server::new(&[Answer::whole(&bytes).cut(40_000).silent(), Answer::rest(&bytes, 40_000)]);
    let run = folder.run(&format!("{} --timeout 0.5s", fetch(&server, &bytes)));
    assert!(run.stderr.contains("note: the server was silent for 0.5 s; trying again"), "{run:?}");
    run.ok();
    assert_eq!(server.ranges(), [None, from(40_000)]);
    has_archive(&folder, &bytes);
}

#[test]
fn a_server_in_trouble_is_asked_again_but_not_for_ever() {
    waiting("server_in_trouble");
}

fn server_in_trouble() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-trouble"), archive());
    let trouble = Answer::new("503 Service Unavailable", "Content-Length: 4\r\n", b"busy");
    let server = Server::new(&[trouble.clone(), Answer::whole(&bytes)]);
    folder.ok(&fetch(&server, &bytes));
    assert_eq!(server.ranges(), [None, None]);
    has_archive(&folder, &bytes);

    let folder = Folder::new("fetch-given-up");
    let server = Server::new(&[trouble.clone(), trouble.clone(), trouble]);
    let parts = ["the server answered 503 Service Unavailable; given up after 2 failures in a row", "with a browser"];
    fails_in_the_end(folder.run(&format!("{} --tries 2", fetch(&server, &bytes))), &parts);
    assert_eq!(server.requests().len(), 2);
    has_only(&folder, &[]);
}

/// The same failures, of which each comes after more than a megabyte, do not count together.
#[test]
fn a_download_that_gets_on_is_not_given_up() {
    waiting("download_that_gets_on");
}

fn download_that_gets_on() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-progress"), archive().repeat(50));
    let server = Server::new(&[
        Answer::whole(&bytes).cut(2_000_000),
        Answer::rest(&bytes, 2_000_000).cut(2_000_000),
        Answer::rest(&bytes, 4_000_000),
    ]);
    folder.ok(&format!("{} --tries 2", fetch(&server, &bytes)));
    assert_eq!(server.ranges(), [None, from(2_000_000), from(4_000_000)]);
    has_archive(&folder, &bytes);
    // Less than that: given up, and everything is kept.
    let folder = Folder::new("fetch-no-progress");
    let server = Server::new(&[Answer::whole(&bytes).cut(1_500_000), Answer::rest(&bytes, 1_500_000).cut(900_000)]);
    let parts = ["the connection was lost; given up after 2", "2.40 MB are in", PART, "the same command goes on there"];
    fails_in_the_end(folder.run(&format!("{} --tries 2", fetch(&server, &bytes))), &parts);
    has_only(&folder, &[PART]);
    assert!(fs::read(folder.path(PART)).unwrap() == bytes[..2_400_000]);
}

#[test]
fn a_part_from_before_is_gone_on_with() {
    if common::skip_without_curl() {
        return;
    }
    let bytes = archive();
    let gone = Answer::new("416 Range Not Satisfiable", "Content-Range: bytes */100000\r\nContent-Length: 0\r\n", b"");
    let unknown = Answer::new("206 Partial Content", "Content-Range: bytes 30000-99999/*\r\n", &bytes[30_000..]);
    let moved = Answer::new("302 Found", "Location: /else/where\r\nContent-Length: 0\r\n", b"");
    for (have, answers) in [
        (30_000, &[Answer::rest(&bytes, 30_000)][..]),
        (30_000, &[unknown]),
        // A part that is the whole: the process was ended before it could look.
        (100_000, &[gone]),
        (30_000, &[moved, Answer::rest(&bytes, 30_000)]),
    ] {
        let (folder, server) = (Folder::new("fetch-before"), Server::new(answers));
        fs::write(folder.path(PART), &bytes[..have]).unwrap();
        let run = folder.run(&fetch(&server, &bytes));
        assert_eq!(run.stderr, "");
        run.ok();
        assert_eq!(server.ranges(), vec![from(have); answers.len()]);
        has_archive(&folder, &bytes);
    }
}

#[test]
fn a_part_that_cannot_be_gone_on_with_begins_anew() {
    if common::skip_without_curl() {
        return;
    }
    let bytes = archive();
    let shifted = |range: &str| {
        let headers = format!("Content-Length: 70000\r\nContent-Range: bytes {range}\r\n");
        Answer::new("206 Partial Content", &headers, &bytes[30_000..])
    };
    let shorter =
        Answer::new("416 Range Not Satisfiable", "Content-Range: bytes */20000\r\nContent-Length: 0\r\n", b"");
    let untold = Answer::new("416 Range Not Satisfiable", "Content-Length: 0\r\n", b"");
    let no_range = Answer::new("206 Partial Content", "Content-Length: 70000\r\n", &bytes[30_000..]);
    let whole = || Answer::whole(&bytes);
    for (note, answers) in [
        ("the server sends the whole only", vec![whole()]),
        ("the server's answer does not continue it", vec![shifted("29999-99999/100000"), whole()]),
        ("the server's answer does not continue it", vec![shifted("0-69999/100000"), whole()]),
        ("the server's answer does not continue it", vec![shifted("30000-99999/1000000001"), whole()]),
        ("the server's answer does not continue it", vec![no_range, whole()]),
        ("the server's file ends before it", vec![shorter, whole()]),
        ("the server's file ends before it", vec![untold, whole()]),
    ] {
        let (folder, server) = (Folder::new("fetch-anew"), Server::new(&answers));
        // Nothing of it may remain.
        fs::write(folder.path(PART), [7; 30_000]).unwrap();
        let run = folder.run(&fetch(&server, &bytes));
        assert_eq!(run.stderr, format!("note: {PART} is not gone on with, {note}\n"));
        run.ok();
        let asked = [from(30_000), None];
        assert_eq!(server.ranges(), asked[..answers.len()]);
        has_archive(&folder, &bytes);
    }
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-wrong"), archive());
    let mut other = bytes.clone();
    other[50_000] ^= 1;
    let [expected, found] = [hash(&bytes), hash(&other)];
    let difference = format!("is not the archive: expected the SHA-256 {expected}, found {found}");
    let server = Server::new(&[Answer::whole(&other)]);
    folder.fails(&fetch(&server, &bytes), 1, &[&server.address, &difference, "What came was removed", "Try again"]);
    has_only(&folder, &[]);

    // Part and rest are of different files; without the part all is well.
    fs::write(folder.path(PART), &other[..60_000]).unwrap();
    let server = Server::new(&[Answer::rest(&bytes, 60_000), Answer::whole(&bytes)]);
    let parts = [&difference[..], "60.0 kB of it had been in", PART, "the same command begins anew"];
    folder.fails(&fetch(&server, &bytes), 1, &parts);
    has_only(&folder, &[]);
    folder.ok(&fetch(&server, &bytes));
    has_archive(&folder, &bytes);
}

/// Against the published archive, of which all but ten bytes are "there": a hole in a file, which needs no room on disk.
#[test]
fn the_published_checksums_and_size_hold_for_a_mirror() {
    if common::skip_without_curl() {
        return;
    }
    let folder = Folder::new("fetch-published");
    let headers = |total: u64| format!("Content-Range: bytes {}-{}/{total}\r\n", SIZE - 10, SIZE - 1);
    let rest = Answer::new("206 Partial Content", &headers(SIZE), &[0; 10]);
    let too_much = Answer::new("206 Partial Content", &headers(SIZE), &[0; 11]);
    let (page, other) = (Answer::whole(b"welcome"), Answer::new("206 Partial Content", &headers(SIZE + 1), &[0; 10]));
    let part = |length: u64| File::create(folder.path(PART)).unwrap().set_len(length).unwrap();

    // A page to log in, say, which is no reason to forget the part.
    part(30_000);
    let server = Server::new(std::slice::from_ref(&page));
    let parts = ["expected a file of 170,052,171 bytes, the server announces one of 7", "30.0 kB are in"];
    folder.fails(&format!("data fetch --url {}/", server.address), 1, &parts);
    has_only(&folder, &[PART]);
    assert_eq!(fs::metadata(folder.path(PART)).unwrap().len(), 30_000);

    part(SIZE - 10);
    let server = Server::new(&[rest]);
    folder.fails(&format!("data fetch --url {}/", server.address), 1, &["is not the archive: expected the MD5", MD5]);
    has_only(&folder, &[]);

    part(SIZE - 10);
    let server = Server::new(&[too_much]);
    let parts = ["expected at most 170,052,171 bytes, the server sends more"];
    folder.fails(&format!("data fetch --url {}/", server.address), 1, &parts);
    has_only(&folder, &[]);

    // Neither is an answer about another file.
    part(SIZE - 10);
    let server = Server::new(&[other, page.clone()]);
    fails_in_the_end(folder.run(&format!("data fetch --url {}/", server.address)), &["announces one of 7"]);
    assert_eq!(server.ranges(), [from(SIZE as usize - 10), None]);
    assert_eq!(fs::metadata(folder.path(PART)).unwrap().len(), SIZE - 10);

    // A part that is complete needs no server, one that is too long no offer to go on.
    part(SIZE);
    folder.fails("data fetch --url http://127.0.0.1:1/", 1, &["is not the archive: expected the MD5", MD5]);
    has_only(&folder, &[]);
    part(SIZE + 1);
    let server = Server::new(&[page]);
    fails_in_the_end(folder.run(&format!("data fetch --url {}/", server.address)), &["announces one of 7"]);
    assert_eq!(server.ranges(), [None]);
}

#[test]
fn an_endless_answer_is_not_waited_for() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-endless"), archive());
    let server = Server::new(&[Answer::new("200 OK", "Content-Length: 1000000001\r\n", b"")]);
    let parts = ["expected a file of at most 1,000,000,000 bytes, the server announces one of 1,000,000,001"];
    folder.fails(&fetch(&server, &bytes), 1, &parts);
    // Nothing announced, and the part nearly full.
    File::create(folder.path(PART)).unwrap().set_len(999_999_999).unwrap();
    let more = Answer::new("206 Partial Content", "Content-Range: bytes 999999999-999999999/*\r\n", b"ab");
    let server = Server::new(&[more]);
    folder.fails(&fetch(&server, &bytes), 1, &["expected at most 1,000,000,000 bytes, the server sends more"]);
    has_only(&folder, &[]);
}

#[test]
fn redirects_are_followed_ten_times_at_most() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-redirect"), archive());
    let moved =
        |to: &str| Answer::new("301 Moved Permanently", &format!("Location: {to}\r\nContent-Length: 0\r\n"), b"");
    let elsewhere = Server::new(&[Answer::whole(&bytes)]);
    let server = Server::new(&[moved("/a/b"), moved("../c"), moved(&format!("{}/d", elsewhere.address))]);
    folder.ok(&fetch(&server, &bytes));
    let paths = |server: &Server| server.requests().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(paths(&server), ["/cifar-10-binary.tar.gz", "/a/b", "/c"]);
    assert_eq!(paths(&elsewhere), ["/d"]);
    has_archive(&folder, &bytes);

    let folder = Folder::new("fetch-circle");
    let server = Server::new(&vec![moved("/again"); 20]);
    folder.fails(&fetch(&server, &bytes), 1, &["too many redirects"]);
    assert_eq!(server.requests().len(), 11);
    has_only(&folder, &[]);
}

#[test]
fn what_trying_again_does_not_help_is_not_tried_again() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-refused"), archive());
    let server = Server::new(&vec![Answer::new("404 Not Found", "Content-Length: 4\r\n", b"none"); 2]);
    let url = format!("{}/{NAME}", server.address);
    let parts =
        ["cannot download", &url, "the server answered 404 Not Found", "https://www.cs.toronto.edu/~kriz/cifar.html"];
    folder.fails(&fetch(&server, &bytes), 1, &parts);
    assert_eq!(server.requests().len(), 1);
    has_only(&folder, &[]);

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = folder.run(&format!("data fetch --url http://{free}/"));
    assert!(!run.stderr.contains("trying again"), "{run:?}");
    run.fails(1, &["cannot download", "no connection: ", "--data"]);
    has_only(&folder, &[]);
}

/// A server that accepts a connection and says nothing, not even a status.
#[test]
fn a_server_that_does_not_answer_is_left_and_asked_again() {
    waiting("no_answer");
}

fn no_answer() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-mute"), archive());
    let mut mute = Answer::whole(&bytes).cut(0).silent();
    mute.head.clear();
    let mut half = mute.clone();
    half.head = "HTTP/1.1 200 OK\r\nContent-".to_string();
    let server = Server::new(&[mute, half, Answer::whole(&bytes)]);
    let run = folder.run(&format!("{} --timeout 0.5s", fetch(&server, &bytes)));
    assert_eq!(run.stderr.matches("note: no answer within 0.5 s; trying again in").count(), 2, "{run:?}");
    run.ok();
    assert_eq!(server.ranges(), [None, None, None]);
    has_archive(&folder, &bytes);
}

/// Connections that end before an answer, or within its head.
#[test]
fn an_answer_without_a_head_is_asked_for_again() {
    waiting("no_head");
}

fn no_head() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-no-head"), archive());
    let mut nothing = Answer::whole(&bytes).cut(0);
    nothing.head.clear();
    let mut half = nothing.clone();
    half.head = "HTTP/1.1 200 OK\r\nContent-".to_string();
    let server = Server::new(&[nothing, half, Answer::whole(&bytes)]);
    let run = folder.run(&fetch(&server, &bytes));
    assert_eq!(run.stderr.matches("; trying again in").count(), 2, "{run:?}");
    run.ok();
    has_archive(&folder, &bytes);
    // What is no HTTP would be none the second time.
    let folder = Folder::new("fetch-no-http");
    let mut garbage = Answer::whole(&bytes);
    garbage.head = "220 a server for mail\r\n\r\n".to_string();
    let server = Server::new(&[garbage, Answer::whole(&bytes)]);
    folder.fails(&fetch(&server, &bytes), 1, &["cannot download", "HTTP"]);
    assert_eq!(server.requests().len(), 1);
    has_only(&folder, &[]);
}

#[test]
fn heads_before_the_answer_are_skipped() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-early"), archive());
    let mut answer = Answer::whole(&bytes);
    answer.head = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n{}", answer.head);
    let server = Server::new(&[answer]);
    folder.ok(&fetch(&server, &bytes));
    has_archive(&folder, &bytes);
    // Chunks, one of which looks like a head.
    let folder = Folder::new("fetch-chunks");
    let text = b"HTTP/1.1 200 OK\r\n\r\nhello";
    let chunks = b"15\r\nHTTP/1.1 200 OK\r\n\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let server = Server::new(&[Answer::new("200 OK", "Transfer-Encoding: chunked\r\n", chunks)]);
    folder.ok(&fetch(&server, text));
    has_archive(&folder, text);
    // A redirect to nowhere, and one to what is not the web.
    let folder = Folder::new("fetch-nowhere");
    let nowhere = Answer::new("302 Found", "Content-Length: 5\r\n", b"where");
    let file = Answer::new("302 Found", "Location: file:///etc/passwd\r\nContent-Length: 0\r\n", b"");
    for (answer, part) in [(nowhere, "the server answered 302 Found"), (file, "rotocol")] {
        let server = Server::new(&[answer]);
        folder.fails(&fetch(&server, &bytes), 1, &["cannot download", part]);
        assert_eq!(server.requests().len(), 1);
        has_only(&folder, &[]);
    }
}

/// Neither a pattern of curl's in the address nor its file of settings has an effect.
#[test]
fn patterns_and_settings_of_curl_have_no_effect() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-curlrc"), archive());
    fs::write(folder.path(".curlrc"), "output = elsewhere\nuser-agent = mine\n").unwrap();
    let server = Server::new(&[Answer::whole(&bytes)]);
    let url = format!("{}/{{a,b}}[1-3].tgz", server.address);
    let mut command = folder.command(&format!("data fetch --url {url} --sha256 {}", hash(&bytes)));
    let output = command.env("HOME", &folder.0).env("CURL_HOME", &folder.0).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(server.requests(), [("/{a,b}[1-3].tgz".to_string(), None)]);
    has_only(&folder, &[".curlrc", NAME]);
    assert!(fs::read(folder.path(NAME)).unwrap() == bytes);
}

fn without_proxies(command: &mut Command) -> &mut Command {
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

/// A proxy for `http` gets the whole address; what it refuses is not asked for again.
#[test]
fn proxies_of_the_environment() {
    if common::skip_without_curl() {
        return;
    }
    let bytes = archive();
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        let (folder, proxy) = (Folder::new("fetch-proxy"), Server::new(&[Answer::whole(&bytes)]));
        let mut command = folder.command(&format!("data fetch --url http://host.invalid/ --sha256 {}", hash(&bytes)));
        let output = without_proxies(&mut command).env(variable, &proxy.address).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{variable}: {output:?}");
        assert_eq!(proxy.requests(), [(format!("http://host.invalid/{NAME}"), None)]);
        has_archive(&folder, &bytes);
    }
    for variable in ["https_proxy", "HTTPS_PROXY"] {
        let (folder, proxy) = (Folder::new("fetch-proxy"), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = format!("http://{}", proxy.local_addr().unwrap());
        let asked = thread::spawn(move || {
            let (mut stream, _) = proxy.accept().unwrap();
            let asked = head(&mut stream);
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            asked
        });
        let mut command = folder.command("data fetch --url https://host.invalid/");
        let output = without_proxies(&mut command).env(variable, address).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(asked.join().unwrap().starts_with("CONNECT host.invalid:443 "));
        assert_eq!(output.status.code(), Some(1), "{variable}: {stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains("403") && stderr.contains("no connection: "),
            "{stderr}"
        );
        has_only(&folder, &[]);
    }
}

/// TLS with a server that does not speak it, and with one that accepts connections and is silent.
#[test]
fn a_server_without_tls() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, server) = (Folder::new("fetch-tls"), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    folder.fails(&format!("data fetch --url https://{address}/"), 1, &["cannot download", "TLS: ", "--data"]);
    has_only(&folder, &[]);

    // The system accepts the connection.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, start) = (server.local_addr().unwrap(), Instant::now());
    let call = format!("data fetch --url https://{address}/ --timeout 0.5s --tries 1");
    folder.fails(&call, 1, &["cannot download", "no answer within 0.5 s"]);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    has_only(&folder, &[]);
}

/// In a folder of its own as the PATH. On Windows curl is found in the folder of the system as well.
#[cfg(unix)]
#[test]
fn without_curl_there_is_advice() {
    let folder = Folder::new("fetch-no-curl");
    let mut command = folder.command("data fetch --url http://127.0.0.1:1/");
    let output = command.env("PATH", &folder.0).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in [
        "error: cannot download http://127.0.0.1:1/cifar-10-binary.tar.gz: the program `curl`",
        "was not found",
        "install",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "--data",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    has_only(&folder, &[]);
}

#[test]
fn an_archive_that_is_there_is_checked_and_not_downloaded() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-there"), archive());
    let nobody = Server::new(&[]);
    fs::write(folder.path(NAME), &bytes).unwrap();
    let stdout = folder.ok(&fetch(&nobody, &bytes));
    assert!(stdout.starts_with("note           already there, not downloaded again\n"), "{stdout}");
    assert!(stdout.contains(&format!("\nnext           resnet train --data {NAME}\n")), "{stdout}");
    folder.ok(&format!("{} --force", fetch(&nobody, &bytes)));
    has_archive(&folder, &bytes);

    fs::write(folder.path(NAME), b"mine").unwrap();
    let parts = ["is there already and is not the archive: expected 170,052,171 bytes, found 4", "--force", "--out"];
    folder.fails("data fetch --url http://127.0.0.1:1/", 1, &parts);
    folder.fails(&fetch(&nobody, &bytes), 1, &["expected the SHA-256", "It was not changed"]);
    has_archive(&folder, b"mine");
    // Replaced, but not by something wrong.
    let server = Server::new(&[Answer::whole(b"neither"), Answer::whole(&bytes)]);
    folder.fails(&format!("{} --force", fetch(&server, &bytes)), 1, &["is not the archive"]);
    has_archive(&folder, b"mine");
    folder.ok(&format!("{} --force", fetch(&server, &bytes)));
    has_archive(&folder, &bytes);
}

#[test]
fn places_that_cannot_be_written_to() {
    let (folder, bytes) = (Folder::new("fetch-places"), archive());
    let server = Server::new(&[]);
    fs::write(folder.path("file"), "mine").unwrap();
    folder.fails(&format!("{} --out file", fetch(&server, &bytes)), 1, &["file: expected a folder, found a file"]);
    folder.fails(&format!("{} --out file/deeper", fetch(&server, &bytes)), 1, &["cannot create file/deeper"]);
    fs::create_dir(folder.path(PART)).unwrap();
    folder.fails(&fetch(&server, &bytes), 1, &["cannot create", PART]);
    fs::create_dir(folder.path(NAME)).unwrap();
    folder.fails(&fetch(&server, &bytes), 1, &[NAME, "is a folder"]);
    assert_eq!(folder.read("file"), "mine");

    fs::create_dir(folder.path("locked")).unwrap();
    let part = File::create(folder.path("locked").join(PART)).unwrap();
    part.lock().unwrap();
    let run = folder.run(&format!("{} --out locked", fetch(&server, &bytes)));
    run.fails(1, &[PART, "is in use by another download"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said() {
    if common::skip_without_curl() {
        return;
    }
    let (folder, bytes) = (Folder::new("fetch-full"), archive());
    std::os::unix::fs::symlink("/dev/full", folder.path(PART)).unwrap();
    let server = Server::new(&[Answer::whole(&bytes)]);
    folder.fails(&fetch(&server, &bytes), 1, &["cannot write", PART, "No space left on device"]);
    has_only(&folder, &[]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_the_part() {
    if common::skip_without_curl() {
        return;
    }
    use std::process::Stdio;
    let (folder, bytes) = (Folder::new("fetch-interrupt"), archive());
    let server = Server::new(&[Answer::whole(&bytes).cut(40_000).silent(), Answer::rest(&bytes, 40_000)]);
    let mut command = folder.command(&fetch(&server, &bytes));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while fs::metadata(folder.path(PART)).map_or(0, |metadata| metadata.len()) < 40_000 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        thread::yield_now();
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "\nstopped; the same command goes on where it was\n");
    has_only(&folder, &[PART]);
    folder.ok(&fetch(&server, &bytes));
    assert_eq!(server.ranges(), [None, from(40_000)]);
    has_archive(&folder, &bytes);
}

/// The client of a silent server would wait for half a minute more.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_curl_too() {
    use std::process::Stdio;
    if common::skip_without_curl() {
        return;
    }
    let (folder, server) = (Folder::new("fetch-orphan"), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut command = folder.command(&format!("data fetch --url http://{}/", server.local_addr().unwrap()));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stream, _) = server.accept().unwrap();
    head(&mut stream);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "\nstopped; the same command goes on where it was\n");
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let end = stream.read(&mut [0]);
    let is_closed = end.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |count| *count == 0);
    assert!(is_closed, "{end:?}");
}

#[test]
fn wrong_calls() {
    let folder = Folder::new("fetch-usage");
    for (arguments, parts) in [
        ("--url ftp://127.0.0.1/", &["--url", "expected an address such as https://www.cs.toronto.edu/~kriz/"][..]),
        ("--url 127.0.0.1", &["--url", "expected an address"]),
        ("--url http://", &["--url", "expected an address"]),
        ("--url /file.tar.gz", &["--url", "expected an address"]),
        ("--url http://127.0.0.1:1/ --sha256 abc", &["--sha256", "expected 64 hexadecimal digits, got 3"]),
        (&format!("--sha256 {}", "0".repeat(64)), &["--url"]),
        (&format!("--url http://127.0.0.1:1/ --sha256 {}", "g".repeat(64)), &["expected 64 hexadecimal digits"]),
        ("--set mnist", &["--set", "cifar10", "cifar100"]),
        ("--tries 0", &["--tries", "expected a whole number from 1"]),
        ("--timeout 0s", &["--timeout", "90s"]),
        ("cifar10", &["unexpected argument"]),
    ] {
        folder.fails(&format!("data fetch {arguments}"), 2, parts);
    }
    has_only(&folder, &[]);
    let help = folder.ok("data fetch --help");
    for line in help.lines() {
        assert!(line.chars().count() <= 110, "too long for a terminal: {line}");
    }
}
