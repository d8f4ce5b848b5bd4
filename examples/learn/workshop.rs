//! The folder `exercises/`: a small package of its own, in which each exercise is a program.
//!
//! Git ignores the folder, and it is no part of the package around it: whatever a learner writes there, `cargo test` stays as
//! it is. The grader builds one exercise at a time, which takes a second or two, and runs it.

use crate::lesson::Lesson;
use crate::protocol::Case;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The exercises that the last one builds on.
const LAYERS: [&str; 6] =
    ["linear", "softmax_cross_entropy", "im2col", "batch_norm_forward", "batch_norm_backward", "sgd"];

/// What became of an exercise that was run.
pub enum Run {
    /// The results of every case.
    Finished(Vec<Case>),
    /// It calls `todo!()`.
    NotWritten,
    /// It stopped in the case of this index, with this message.
    Panicked(usize, String),
    /// It was stopped.
    TooSlow(u64),
}

/// The folder of a learner, or the one in which `learn prove` tries all solutions.
pub struct Workshop {
    pub root: PathBuf,
    optimised: bool,
}

impl Workshop {
    pub fn of_learner() -> Self {
        Workshop { root: Path::new(env!("CARGO_MANIFEST_DIR")).join("exercises"), optimised: true }
    }

    pub fn of_proof() -> Self {
        Workshop { root: Path::new(env!("CARGO_MANIFEST_DIR")).join("target/learn"), optimised: false }
    }

    /// Writes what is missing of the package: files of the grader always, those of the learner only if they do not exist.
    pub fn prepare(&self, lessons: &[Lesson]) -> std::io::Result<()> {
        let grader = self.root.join("grader");
        fs::create_dir_all(&grader)?;
        write(&self.root.join("Cargo.toml"), &self.manifest(lessons))?;
        let lock = self.root.join("Cargo.lock");
        if !lock.exists() {
            // The versions that have been fetched already: no network is needed.
            fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"), lock)?;
        }
        write(&grader.join("protocol.rs"), include_str!("protocol.rs"))?;
        for (index, lesson) in lessons.iter().enumerate() {
            write(&grader.join(format!("run_{}.rs", lesson.name)), lesson.run)?;
            write(&grader.join(format!("{}.rs", lesson.name)), &self.program(lessons, index))?;
            let file = self.file(lessons, index);
            if self.optimised && !file.exists() {
                write(&file, &lesson.stub())?;
            }
        }
        Ok(())
    }

    /// The learner's file of an exercise.
    pub fn file(&self, lessons: &[Lesson], index: usize) -> PathBuf {
        self.root.join(format!("{:02}_{}.rs", index + 1, lessons[index].name))
    }

    fn manifest(&self, lessons: &[Lesson]) -> String {
        let mut text = String::from(
            "# Written by `cargo run --example learn`. The exercises are the files beside this one.\n[package]\nname = \"exercises\"\n\
             version = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n[workspace]\n\n[dependencies]\n\
             ndarray = { version = \"0.17\", features = [\"approx\"] }\napprox = \"0.5\"\n\n\
             [lints.rust]\nunused = \"allow\"\ndead_code = \"allow\"\n\n[profile.dev.package.\"*\"]\nopt-level = 3\n",
        );
        // What the proof builds nobody debugs.
        text += if self.optimised { "\n[profile.dev]\nopt-level = 2\n" } else { "\n[profile.dev]\ndebug = false\n" };
        for lesson in lessons {
            text += &format!("\n[[bin]]\nname = \"{0}\"\npath = \"grader/{0}.rs\"\n", lesson.name);
        }
        text
    }

    /// The main file of an exercise. In the proof it contains the solution and every wrong one, and the third argument picks;
    /// its tests are those in the file of the solution.
    fn program(&self, lessons: &[Lesson], index: usize) -> String {
        let lesson = &lessons[index];
        let run = format!("#[path = \"run_{}.rs\"]\n", lesson.name);
        let layers = self.layers(lessons, lesson);
        if self.optimised {
            let name = format!("{:02}_{}.rs", index + 1, lesson.name);
            return format!(
                "//! Runs the exercise in `{name}`.\n#[path = \"../{name}\"]\nmod exercise;\nmod protocol;\n{layers}{run}mod run;\n\n\
                 fn main() {{\n    protocol::serve(run::run);\n}}\n"
            );
        }
        let mut text = format!("mod protocol;\n{layers}");
        let mut arms = String::new();
        for (number, solution) in versions(lesson).iter().enumerate() {
            let folder = self.root.join("grader").join(format!("{}_{number}", lesson.name));
            fs::create_dir_all(&folder).and_then(|()| write(&folder.join("exercise.rs"), &solution.1)).expect("a file");
            let attribute = if number == 0 { "" } else { "#[cfg(not(test))]\n" };
            text += &format!(
                "{attribute}mod v{number} {{\n    #[path = \"{}\"]\n    pub mod exercise;\n    #[path = \"{}\"]\n    pub mod run;\n}}\n",
                slashes(&folder.join("exercise.rs")),
                slashes(&self.root.join("grader").join(format!("run_{}.rs", lesson.name))),
            );
            arms += &format!("        {attribute}        \"{number}\" => protocol::serve(v{number}::run::run),\n");
        }
        text + &format!(
            "fn main() {{\n    match std::env::args().nth(3).unwrap().as_str() {{\n{arms}        _ => panic!(),\n    }}\n}}\n"
        )
    }

    /// The module `layers` of an exercise that uses it: the learner's files, or the solutions.
    fn layers(&self, lessons: &[Lesson], lesson: &Lesson) -> String {
        if !lesson.text.contains("crate::layers") {
            return String::new();
        }
        let mut text = String::from("mod layers {\n");
        for (index, other) in lessons.iter().enumerate().filter(|(_, other)| LAYERS.contains(&other.name)) {
            let path = match self.optimised {
                true => self.file(lessons, index),
                false => self.root.join("grader").join(format!("{}_0", other.name)).join("exercise.rs"),
            };
            text += &format!("    #[path = \"{}\"]\n    pub mod {};\n", slashes(&path), other.name);
        }
        text + "}\n"
    }

    fn cargo(&self, command: &str) -> Command {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string()));
        cargo.args([command, "--quiet", "--offline", "--manifest-path"]).arg(self.root.join("Cargo.toml"));
        cargo.arg("--target-dir").arg(self.root.join("target"));
        cargo
    }

    /// Runs the tests in the files of all solutions.
    pub fn solutions_pass_their_tests(&self) -> bool {
        let mut command = self.cargo("test");
        command.args(["--bins", "--", "v0::"]).stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Builds one exercise, or all; `false` if it does not compile. The compiler's messages go to the terminal.
    pub fn build(&self, lesson: Option<&Lesson>) -> bool {
        let mut command = self.cargo("build");
        match lesson {
            Some(lesson) => command.args(["--bin", lesson.name]),
            None => command.arg("--bins"),
        };
        command.status().is_ok_and(|status| status.success())
    }

    /// Runs a built exercise on the cases and stops it after some seconds; `version` picks one of the proof's.
    pub fn run(&self, lesson: &Lesson, cases: &[Case], seconds: u64, version: Option<usize>) -> std::io::Result<Run> {
        let folder = self.root.join("target");
        let program = folder.join("debug").join(format!("{}{}", lesson.name, std::env::consts::EXE_SUFFIX));
        let [input, output, messages] =
            ["cases", "results", "messages"].map(|kind| folder.join(format!("{}.{kind}", lesson.name)));
        fs::write(&input, cases.iter().map(Case::to_string).collect::<String>())?;
        fs::write(&output, "")?;
        let mut command = Command::new(program);
        command.arg(&input).arg(&output).args(version.map(|version| version.to_string()));
        command.env("RUST_BACKTRACE", "0");
        let mut child = command.stderr(Stdio::from(fs::File::create(&messages)?)).spawn()?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > Duration::from_secs(seconds) {
                child.kill()?;
                child.wait()?;
                return Ok(Run::TooSlow(seconds));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let results = Case::read_all(&fs::read_to_string(&output)?);
        // The compiler names the learner's file by the way from the grader's.
        let message = fs::read_to_string(&messages)?.replace("grader/../", "exercises/");
        Ok(match status.success() {
            true => Run::Finished(results),
            false if message.contains("not yet implemented") => Run::NotWritten,
            false => Run::Panicked(results.len(), message),
        })
    }
}

/// A path as it can be written between quotes, on every system.
fn slashes(path: &Path) -> String {
    path.display().to_string().replace('\\', "/")
}

/// Writes a file unless it has this text already: an unchanged file is not compiled again.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text)
}

/// What `learn prove` tries: the solution, the stub, and every wrong solution with the name of its mistake.
pub fn versions(lesson: &Lesson) -> Vec<(String, String)> {
    let mut all = vec![("solution".to_string(), lesson.solution()), ("stub".to_string(), lesson.stub())];
    all.extend(lesson.wrong_solutions());
    all
}
