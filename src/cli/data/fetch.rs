//! `resnet data fetch`: the published archives, downloaded and checked.

use super::download::Download;
use super::http;
use crate::Error;
use crate::cli::{Failure, Result, args, interrupt, text};
use crate::formats::{atomic, hex};
use md5::Md5;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the archives are published.
const BASE: &str = "https://www.cs.toronto.edu/~kriz/";
/// And where people find them.
pub const PAGE: &str = "https://www.cs.toronto.edu/~kriz/cifar.html";

/// A published archive.
struct Archive {
    set: Set,
    python: bool,
    name: &'static str,
    size: u64,
    /// From [`PAGE`]. Two different files of one MD5 can be made on purpose, hence the other checksum.
    md5: &'static str,
    /// What TensorFlow Datasets expects of the binary archives, and Keras of the Python ones.
    sha256: &'static str,
}

const ARCHIVES: [Archive; 4] = [
    Archive {
        set: Set::Cifar10,
        python: false,
        name: "cifar-10-binary.tar.gz",
        size: 170_052_171,
        md5: "c32a1d4ab5d03f1284b67883e8d87530",
        sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    },
    Archive {
        set: Set::Cifar10,
        python: true,
        name: "cifar-10-python.tar.gz",
        size: 170_498_071,
        md5: "c58f30108f718f92721af3b95e74349a",
        sha256: "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    },
    Archive {
        set: Set::Cifar100,
        python: false,
        name: "cifar-100-binary.tar.gz",
        size: 168_513_733,
        md5: "03b5dce01913d631647c71ecec9e9cb8",
        sha256: "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    },
    Archive {
        set: Set::Cifar100,
        python: true,
        name: "cifar-100-python.tar.gz",
        size: 169_001_437,
        md5: "eb9058c3a382ffc7106e4002c42a8d85",
        sha256: "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Set {
    Cifar10,
    Cifar100,
}

const EXAMPLES: &str = "\
Examples:
  resnet data fetch                                 CIFAR-10 into this folder, 170 MB
  resnet data fetch --set cifar100 --out data
  resnet data fetch --url https://mirror.example.org/cifar/
  resnet data fetch --url http://nas/images.tar.gz --sha256 HEX     another archive of the same images";

/// Download CIFAR-10 or CIFAR-100
///
/// The archive is left as it is published; --data of every command takes it. What has come is in a
/// file `….part` beside it: after a lost connection, Ctrl-C or a power cut the same command goes on
/// there. Only an archive whose checksums are right gets its name. One that is there already is
/// checked, and not downloaded again.
///
/// The program `curl` makes the connection. A proxy named by ALL_PROXY, HTTPS_PROXY or HTTP_PROXY is
/// used.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub struct Args {
    /// What to download
    #[arg(long, value_name = "NAME", default_value = "cifar10")]
    set: Set,

    /// The archive of Python's pickles instead of the binary one; the images are the same
    #[arg(long)]
    python: bool,

    /// Folder for the archive, made if there is none [default: this one]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// A mirror: the address of the archive, or of the folder it is in, with a / at the end
    ///
    /// What comes from there must be the published archive, by its checksums, unless --sha256 says
    /// otherwise. [default: `https://www.cs.toronto.edu/~kriz/`]
    #[arg(long, value_name = "URL", value_parser = address, verbatim_doc_comment)]
    url: Option<String>,

    /// What the archive's SHA-256 must be, in place of the published checksums
    ///
    /// For a mirror that has the images in an archive of its own.
    #[arg(long, value_name = "HEX", value_parser = sha256, requires = "url")]
    sha256: Option<String>,

    /// Failures in a row, the first one included, after which to give up
    #[arg(long, value_name = "N", default_value = "5", value_parser = args::count(1, 1000), allow_negative_numbers = true)]
    tries: usize,

    /// How long the server may be silent
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,

    /// Replace a file that is there and is not the archive
    #[arg(long)]
    force: bool,
}

impl Args {
    /// Whether the archive comes from elsewhere, and must be the published one all the same.
    fn is_mirror_of_published(&self) -> bool {
        self.url.is_some() && self.sha256.is_none()
    }
}

/// An address with a scheme that can be spoken and a host. The rest is left to curl.
fn address(text: &str) -> std::result::Result<String, String> {
    let fits = text.split_once("://").is_some_and(|(scheme, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let is_known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        is_known
            && !host.is_empty()
            && !host.starts_with(':')
            && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    });
    match fits {
        true => Ok(text.to_string()),
        false => Err(format!("expected an address such as {BASE}{} or {BASE}", ARCHIVES[0].name)),
    }
}

fn sha256(text: &str) -> std::result::Result<String, String> {
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("expected 64 hexadecimal digits, got {}", text.chars().count())),
    }
}

pub fn run(args: &Args) -> Result<()> {
    let archive = ARCHIVES.iter().find(|archive| archive.set == args.set && archive.python == args.python);
    let archive = archive.expect("there is one of every kind");
    let expected = Expected::new(archive, args.sha256.as_deref());
    let url = match args.url.as_deref().unwrap_or(BASE) {
        folder if folder.ends_with('/') => format!("{folder}{}", archive.name),
        file => file.to_string(),
    };
    let folder = args.out.clone().unwrap_or_default();
    let (path, part) = (folder.join(archive.name), folder.join(format!("{}.part", archive.name)));

    if is_there(&path, &expected, args.force)? {
        line("note", "already there, not downloaded again")?;
        return report(&path, &expected);
    }
    if args.out.is_some() {
        make(&folder)?;
    }
    interrupt::end_with("stopped; the same command goes on where it was", http::kill)?;
    line("from", &url)?;
    let (tries, silence) = (args.tries, args.timeout);
    let download = Download { url: &url, part: &part, size: expected.size, tries, silence };
    let from_before = download.run().map_err(|reason| failed(args, &url, &part, &reason))?;
    if let Err(difference) = expected.check(&part)? {
        fs::remove_file(&part).map_err(|error| Error::io(&part, "remove", error))?;
        return Err(wrong(args, &url, &part, from_before, &difference));
    }
    atomic::rename(&part, &path)?;
    report(&path, &expected)
}

/// Whether the archive is in its place. What is there and is something else is an error, or with `force` not there.
fn is_there(path: &Path, expected: &Expected, force: bool) -> Result<bool> {
    if path.is_dir() {
        return Err(Failure::Failed(format!("{} is a folder; choose another one with --out", path.display())));
    }
    if !path.exists() {
        return Ok(false);
    }
    match expected.check(path)? {
        Ok(()) => Ok(true),
        Err(_) if force => Ok(false),
        Err(difference) => Err(Failure::Failed(format!(
            "{} is there already and is not the archive: {difference}\n\n\
             It was not changed; --force replaces it, --out DIR downloads to another folder",
            path.display()
        ))),
    }
}

fn make(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        let message = format!("{}: expected a folder, found a file; give another --out", folder.display());
        return Err(Failure::Failed(message));
    }
    Ok(fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create", error))?)
}

/// What the whole must be.
struct Expected<'a> {
    size: Option<u64>,
    md5: Option<&'a str>,
    sha256: &'a str,
}

impl<'a> Expected<'a> {
    fn new(archive: &Archive, own: Option<&'a str>) -> Self {
        match own {
            Some(sha256) => Expected { size: None, md5: None, sha256 },
            None => Expected { size: Some(archive.size), md5: Some(archive.md5), sha256: archive.sha256 },
        }
    }

    /// Whether the file is that; if not, in what it differs.
    fn check(&self, path: &Path) -> Result<std::result::Result<(), String>> {
        let cannot_read = |error| Error::io(path, "read", error);
        let mut file = File::open(path).map_err(cannot_read)?;
        let length = file.metadata().map_err(cannot_read)?.len();
        if let Some(size) = self.size.filter(|&size| size != length) {
            let (size, length) = (text::thousands(size), text::thousands(length));
            return Ok(Err(format!("expected {size} bytes, found {length}")));
        }
        let (mut md5, mut sha256) = (Md5::new(), Sha256::new());
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut buffer).map_err(cannot_read)?;
            if count == 0 {
                break;
            }
            md5.update(&buffer[..count]);
            sha256.update(&buffer[..count]);
        }
        let found = [("MD5", self.md5, hex(&md5.finalize())), ("SHA-256", Some(self.sha256), hex(&sha256.finalize()))];
        let differs = |(name, expected, found): &(&str, Option<&str>, String)| {
            let expected = expected.filter(|expected| expected != found)?;
            Some(format!("expected the {name} {expected}, found {found}"))
        };
        Ok(found.iter().find_map(differs).map_or(Ok(()), Err))
    }
}

fn failed(args: &Args, url: &str, part: &Path, reason: &str) -> Failure {
    let kept = match fs::metadata(part).map_or(0, |metadata| metadata.len()) {
        0 => String::new(),
        bytes => format!("{} are in {}; the same command goes on there. ", text::bytes(bytes), part.display()),
    };
    let own = if args.is_mirror_of_published() { "An archive of the mirror's own needs its --sha256. " } else { "" };
    Failure::Failed(format!(
        "cannot download {url}: {reason}\n\n\
         {kept}{own}The archive can also be downloaded with a browser, from {PAGE}, and given as --data"
    ))
}

fn wrong(args: &Args, url: &str, part: &Path, from_before: u64, difference: &str) -> Failure {
    let part = part.display();
    let advice = match from_before {
        0 if args.is_mirror_of_published() => {
            "If it is an archive of the mirror's own that you trust, give its checksum as --sha256".to_string()
        }
        0 => "Try again: it may have been damaged on the way".to_string(),
        bytes => format!("{} of it had been in {part} before; the same command begins anew", text::bytes(bytes)),
    };
    Failure::Failed(format!("{url} is not the archive: {difference}\n\nWhat came was removed. {advice}"))
}

/// What there is now, and what to do with it.
fn report(path: &Path, expected: &Expected) -> Result<()> {
    let length = fs::metadata(path).map_err(|error| Error::io(path, "read", error))?.len();
    line("archive", &format!("{}, {}", path.display(), text::bytes(length)))?;
    let Expected { md5, sha256, .. } = expected;
    line("checked", &md5.map_or(format!("SHA-256 {sha256}"), |md5| format!("MD5 {md5}, SHA-256 {sha256}")))?;
    line("next", &format!("resnet train --data {}", text::shell(path)))
}

fn line(key: &str, value: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{key:<14} {value}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for right in [
            BASE,
            "http://h",
            "HTTPS://host",
            "http://[::1]:8080/a.tgz?key={1}[2]#part",
            "http://user:word@host:80/",
            "https://m\u{fc}nchen.example/",
        ] {
            assert_eq!(address(right), Ok(right.to_string()));
        }
        for wrong in [
            "",
            "host",
            "://host",
            "ftp://host/",
            "file:///etc/passwd",
            "--output",
            "--output=x://host",
            "http:host",
            "http:/host",
            "http://",
            "http:///path",
            "http://?a",
            "http://#a",
            "http://:80/",
            "http://user@/",
            "http://user@:80/",
            "http://host/a b",
            "http://host/\n",
            " http://host/",
            "http://host/\0",
        ] {
            assert!(address(wrong).is_err(), "{wrong:?}");
        }
    }
}
