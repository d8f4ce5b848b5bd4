//! What the tests of the command share: a folder to run it in, and the result of a run.

use ndarray::Array3;
use resnet_by_hand::data::embedded;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// An empty folder in which commands run; it is removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        // Two tests may choose the same name.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("resnet-by-hand-{process}-{count}-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_resnet"));
        command.args(arguments.split_whitespace()).current_dir(&self.0).stdin(Stdio::null()).env("RUST_BACKTRACE", "1");
        // The servers of the tests are on this machine, so no proxy may be used for them.
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        command
    }

    /// Runs `resnet` with these arguments, separated by spaces.
    pub fn run(&self, arguments: &str) -> Run {
        self.run_with(arguments, &[])
    }

    /// The same with these variables in the environment.
    pub fn run_with(&self, arguments: &str, variables: &[(&str, &str)]) -> Run {
        let output = self.command(arguments).envs(variables.iter().copied()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let run = Run {
            arguments: arguments.to_string(),
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!run.stderr.contains("panicked") && !run.stderr.contains("backtrace"), "{run:?}");
        run
    }
}

impl Folder {
    /// Runs `resnet`, which succeeds; returns stdout.
    #[track_caller]
    pub fn ok(&self, arguments: &str) -> String {
        self.run(arguments).ok()
    }

    /// The files of `resnet ARGUMENTS --out OUT`. They are the same every time (`resume.rs` compares them), so the tests
    /// that only read or change them share one run.
    pub fn has_run(&self, arguments: &str, out: &str) {
        static RUNS: Mutex<BTreeMap<String, Arc<OnceLock<Files>>>> = Mutex::new(BTreeMap::new());
        let run = Arc::clone(RUNS.lock().unwrap().entry(arguments.to_string()).or_default());
        let files = run.get_or_init(|| {
            let folder = Folder::new("shared");
            folder.ok(&format!("{arguments} --out run"));
            let mut files = Files::new();
            read_files(&folder.path("run"), Path::new(""), &mut files);
            files
        });
        for (name, bytes) in files {
            let path = self.path(out).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// Runs `resnet`, which fails with this exit code; stderr contains all of `parts`.
    #[track_caller]
    pub fn fails(&self, arguments: &str, code: i32, parts: &[&str]) {
        self.run(arguments).fails(code, parts);
    }
}

/// Files of a folder, by their paths in it.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn read_files(folder: &Path, within: &Path, files: &mut Files) {
    for entry in fs::read_dir(folder.join(within)).unwrap() {
        let path = within.join(entry.unwrap().file_name());
        match folder.join(&path).is_dir() {
            true => read_files(folder, &path, files),
            false => drop(files.insert(path.clone(), fs::read(folder.join(path)).unwrap())),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `photos/CLASS/NUMBER.png`: six of the embedded images of each class, of which five are for training and one for testing.
/// (The embedded data set has 500 for testing, which take the reference long.)
pub fn photographs(folder: &Folder) {
    let train = embedded::load().train;
    for (i, &label) in train.labels[..60].iter().enumerate() {
        let class = folder.path("photos").join(&train.classes[usize::from(label)]);
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join(format!("{i:02}.png")), to_png(&train.image(i).to_owned())).unwrap();
    }
}

/// Whether this process ignores SIGHUP, as under nohup. Known on Linux only.
pub fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(|mask| mask.trim().to_string());
    mask.is_some_and(|mask| u64::from_str_radix(&mask, 16).unwrap() & 1 == 1)
}

/// Whether this machine lacks the program `curl`, with which `resnet` downloads; says so.
pub fn skip_without_curl() -> bool {
    let is_missing = Command::new("curl").arg("--version").output().is_err();
    if is_missing {
        // Not with `eprintln!`, whose lines are shown for tests that fail only.
        let line = "!! SKIPPED: this machine has no program `curl`, so downloads were NOT tested";
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    is_missing
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Run {
    pub arguments: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// It succeeded; returns stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "resnet {}\n{}\n{}", self.arguments, self.stdout, self.stderr);
        self.stdout
    }

    /// It failed with this exit code, and stderr contains all of `parts`.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "resnet {}\n{}\n{}", self.arguments, self.stdout, self.stderr);
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "resnet {}: expected `{part}` in\n{}", self.arguments, self.stderr);
        }
    }
}

/// The bytes of a PNG file with `pixels (h, w, 3)`; by the crate `png` alone, not by the function that is tested.
pub fn to_png(pixels: &Array3<u8>) -> Vec<u8> {
    let (height, width, _) = pixels.dim();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(pixels.as_slice().unwrap()).unwrap();
    bytes
}

/// The pixels `(h, w, 3)` of a PNG file with colours of 8 bits; by the crate `png` alone too.
pub fn from_png(bytes: &[u8]) -> Array3<u8> {
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
    assert_eq!(reader.output_color_type(), (png::ColorType::Rgb, png::BitDepth::Eight));
    let (width, height) = reader.info().size();
    let mut pixels = Array3::zeros((height as usize, width as usize, 3));
    reader.next_frame(pixels.as_slice_mut().unwrap()).unwrap();
    pixels
}
