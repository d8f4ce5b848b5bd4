//! The exercises of the book: you write each forward and backward pass, and this program says which mistake you have made.
//!
//! ```text
//! cargo run --example learn              where you are, and what to do next
//! cargo run --example learn -- watch     checks an exercise whenever you save it
//! cargo run --example learn -- hint      one more hint
//! cargo run --example learn -- help      everything else
//! ```
//!
//! The first run makes the folder `exercises/`, which git ignores. An exercise is one file there: a signature, the equation,
//! and `todo!()` in place of the 5 to 30 lines that you write. It is built alone and run on small inputs whose sizes all differ;
//! `lesson.rs` describes an exercise, `workshop.rs` is the folder, `grade.rs` compares and explains, `reference.rs` asks the
//! library what is right and which faults its oracle knows.

mod exercises;
mod grade;
mod lesson;
mod protocol;
mod reference;
mod workshop;

use exercises::LESSONS;
use grade::Verdict;
use lesson::Lesson;
use rayon::prelude::*;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use std::{fs, io};
use workshop::{Run, Workshop};

/// After this time an exercise is stopped; a training after ten minutes.
const SECONDS: u64 = 10;
const SECONDS_OF_TRAINING: u64 = 600;

const HELP: &str = "\
The exercises of the book, in the folder exercises/

Usage: cargo run --example learn [-- COMMAND]

  (none)           check the exercises in order, up to the first that is not right
  watch            the same whenever you save a file; end it with Ctrl+C
  check [N]        check exercise N; without N, the first that is not right
  hint [N]         show one more hint
  next             which exercise is next, its file and its chapter
  list             all exercises
  solution N       print a solution of exercise N
  reset N          begin exercise N again; your file is kept as *.bak
  prove            try every solution, every stub and every classic mistake, as CI does
  reference        train the reference of exercise 16 with five seeds: the accuracy that it expects

N is the number or the name of an exercise.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Usage(message)) => {
            eprintln!("error: {message}\n\n{HELP}");
            ExitCode::from(2)
        }
        Err(Failure::File(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Usage(String),
    File(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::File(error)
    }
}

/// Whether all that was checked is right.
fn run(words: &[&str]) -> Result<bool, Failure> {
    match words {
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            return Ok(true);
        }
        ["list"] => {
            for (index, lesson) in LESSONS.iter().enumerate() {
                println!("{:2} {:28} {:45} docs/{}", index + 1, lesson.name, lesson.title, lesson.page);
            }
            return Ok(true);
        }
        ["solution", name] => {
            print!("{}", LESSONS[find(name)?].solution());
            return Ok(true);
        }
        ["prove"] => return Ok(prove()?),
        ["reference"] => {
            exercises::reference();
            return Ok(true);
        }
        _ => {}
    }
    let workshop = Workshop::of_learner();
    if !workshop.root.exists() {
        println!("Making exercises/ with {} files: your copy, which git ignores.\n", LESSONS.len());
    }
    workshop.prepare(LESSONS)?;
    match words {
        [] => Ok(check_in_order(&workshop)?),
        ["check"] => {
            let Some(index) = first_open(&workshop)? else { return Ok(all_done()) };
            Ok(check(&workshop, index)?)
        }
        ["check", name] => Ok(check(&workshop, find(name)?)?),
        ["watch"] => Ok(watch(&workshop)?),
        ["hint"] => {
            let Some(index) = first_open(&workshop)? else { return Ok(all_done()) };
            hint(&workshop, index)?;
            Ok(true)
        }
        ["hint", name] => {
            hint(&workshop, find(name)?)?;
            Ok(true)
        }
        ["next"] => {
            match first_open(&workshop)? {
                Some(index) => println!("{}", pointer(&workshop, index)),
                None => drop(all_done()),
            }
            Ok(true)
        }
        ["reset", name] => {
            let index = find(name)?;
            let file = workshop.file(LESSONS, index);
            let kept = file.with_extension("rs.bak");
            fs::rename(&file, &kept)?;
            workshop.prepare(LESSONS)?;
            println!("{} is as at the beginning; yours is {}", shown(&file), shown(&kept));
            Ok(true)
        }
        [command, ..] => Err(Failure::Usage(format!("unknown command or missing exercise: `{command}`"))),
    }
}

/// The index of an exercise by its number or name.
fn find(name: &str) -> Result<usize, Failure> {
    let by_number =
        name.parse().ok().filter(|number| (1..=LESSONS.len()).contains(number)).map(|number: usize| number - 1);
    let found = by_number.or_else(|| LESSONS.iter().position(|lesson| lesson.name == name));
    found.ok_or_else(|| {
        Failure::Usage(format!("there is no exercise `{name}`: 1 to {}, or a name that `list` shows", LESSONS.len()))
    })
}

/// Checks one exercise and prints the verdict.
fn check(workshop: &Workshop, index: usize) -> io::Result<bool> {
    let (lesson, file) = (&LESSONS[index], workshop.file(LESSONS, index));
    if !workshop.build(Some(lesson)) {
        println!("\n✗ {}: it does not compile; the compiler says why above", title(index));
        return Ok(false);
    }
    let cases = (lesson.cases)();
    let verdict = match workshop.run(lesson, &cases, SECONDS, None)? {
        Run::Finished(results) => grade::grade(lesson, &cases, &results),
        Run::NotWritten => {
            println!("· {} is still to be written", title(index));
            println!("{}", pointer(workshop, index));
            return Ok(false);
        }
        Run::Panicked(case, message) => {
            println!("✗ {}: it panics in case {} of {}:\n{}", title(index), case + 1, cases.len(), indented(&message));
            println!("{}", grade::inputs(&cases[case.min(cases.len() - 1)]));
            return Ok(false);
        }
        Run::TooSlow(seconds) => {
            println!("✗ {}: stopped after {seconds} s. Does a loop never end?", title(index));
            return Ok(false);
        }
    };
    match verdict {
        Verdict::Right => {
            for case in lesson.training {
                println!("  {}: the gradients are right. Now it trains, for some minutes.", title(index));
                let case = case();
                let good = match workshop.run(lesson, std::slice::from_ref(&case), SECONDS_OF_TRAINING, None)? {
                    Run::Finished(results) => grade::grade(lesson, &[case], &results) == Verdict::Right,
                    _ => false,
                };
                if !good {
                    println!("✗ {}: the training differs from that of the reference", title(index));
                    return Ok(false);
                }
            }
            println!("✓ {}", title(index));
            Ok(true)
        }
        Verdict::Wrong { parts, text, .. } => {
            println!(
                "✗ {}: {} {} not right yet",
                title(index),
                parts.join(", "),
                if parts.len() == 1 { "is" } else { "are" }
            );
            println!(
                "{text}\n  The file is {}; `cargo run --example learn -- hint {}` gives a hint.",
                shown(&file),
                index + 1
            );
            Ok(false)
        }
    }
}

/// Checks the exercises from the first one to the first that is not right.
fn check_in_order(workshop: &Workshop) -> io::Result<bool> {
    for index in 0..LESSONS.len() {
        if !check(workshop, index)? {
            return Ok(false);
        }
    }
    Ok(all_done())
}

/// The first exercise that is not right, silently.
fn first_open(workshop: &Workshop) -> io::Result<Option<usize>> {
    for (index, lesson) in LESSONS.iter().enumerate() {
        if !is_right(workshop, lesson)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn is_right(workshop: &Workshop, lesson: &Lesson) -> io::Result<bool> {
    if !workshop.build(Some(lesson)) {
        return Ok(false);
    }
    let cases = (lesson.cases)();
    Ok(match workshop.run(lesson, &cases, SECONDS, None)? {
        Run::Finished(results) => grade::grade(lesson, &cases, &results) == Verdict::Right,
        _ => false,
    })
}

fn all_done() -> bool {
    println!("\nAll {} exercises are right: you have written every backward pass of a ResNet.", LESSONS.len());
    true
}

/// Checks whatever is saved, until the program is stopped.
fn watch(workshop: &Workshop) -> io::Result<bool> {
    let files: Vec<_> = (0..LESSONS.len()).map(|index| workshop.file(LESSONS, index)).collect();
    let saved = |file: &Path| fs::metadata(file).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut known: Vec<SystemTime> = files.iter().map(|file| saved(file)).collect();
    check_in_order(workshop)?;
    println!("\nWaiting for you to save a file in exercises/ (Ctrl+C ends this) …");
    loop {
        std::thread::sleep(Duration::from_millis(200));
        for index in 0..files.len() {
            let now = saved(&files[index]);
            if now != known[index] {
                known[index] = now;
                println!("\n{}", "─".repeat(60));
                if check(workshop, index)? {
                    match first_open(workshop)? {
                        Some(next) => println!("{}", pointer(workshop, next)),
                        None => return Ok(all_done()),
                    }
                }
            }
        }
    }
}

/// Shows one more hint than before; the number shown is in `exercises/.hints`.
fn hint(workshop: &Workshop, index: usize) -> io::Result<()> {
    let (lesson, path) = (&LESSONS[index], workshop.root.join(".hints"));
    let shown_before = fs::read_to_string(&path).unwrap_or_default();
    let hints = lesson.hints();
    let count = (shown_before.lines().filter(|line| *line == lesson.name).count() + 1).min(hints.len());
    println!("{}", title(index));
    for (number, hint) in hints.iter().take(count).enumerate() {
        println!("\nHint {} of {}: {hint}", number + 1, hints.len());
    }
    match count == hints.len() {
        true => println!(
            "\nThat was the last one; `cargo run --example learn -- solution {}` prints a solution.",
            index + 1
        ),
        false => fs::write(path, format!("{shown_before}{}\n", lesson.name))?,
    }
    Ok(())
}

/// Tries the solution, the stub and every wrong solution of every exercise.
fn prove() -> io::Result<bool> {
    let workshop = Workshop::of_proof();
    workshop.prepare(LESSONS)?;
    if !workshop.build(None) {
        println!("✗ the solutions do not compile");
        return Ok(false);
    }
    let mut faults = Vec::new();
    if !workshop.solutions_pass_their_tests() {
        faults.push("a solution does not pass the tests in its own file".to_string());
    }
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/exercises.md"))?;
    // An exercise is a program with one thread, so several run at a time.
    let proofs =
        LESSONS.par_iter().map(|lesson| prove_one(&workshop, lesson, &page)).collect::<io::Result<Vec<_>>>()?;
    let mut named = 0;
    for (lesson, (right, wrong)) in LESSONS.iter().zip(proofs) {
        println!("{:24} a solution, a stub and {} wrong solutions", lesson.name, lesson.wrong_solutions().len());
        named += right;
        faults.extend(wrong);
    }
    faults.iter().for_each(|fault| println!("✗ {fault}"));
    println!("{} exercises: {named} wrong solutions are named right, {} faults", LESSONS.len(), faults.len());
    Ok(faults.is_empty())
}

/// Tries everything of one exercise: how many wrong solutions are named right, and the faults.
fn prove_one(workshop: &Workshop, lesson: &Lesson, page: &str) -> io::Result<(usize, Vec<String>)> {
    let (mut faults, mut named, cases) = (Vec::new(), 0, (lesson.cases)());
    for (number, (version, _)) in workshop::versions(lesson).iter().enumerate() {
        let verdict = match workshop.run(lesson, &cases, SECONDS, Some(number))? {
            Run::Finished(results) => grade::grade(lesson, &cases, &results),
            Run::NotWritten if version == "stub" => continue,
            Run::Panicked(case, message) => {
                faults.push(format!("{}, {version}: panics in case {case}: {message}", lesson.name));
                continue;
            }
            _ => {
                faults.push(format!("{}, {version}: no results", lesson.name));
                continue;
            }
        };
        match (version.as_str(), verdict) {
            ("solution", Verdict::Right) => {}
            ("solution", Verdict::Wrong { text, .. }) => {
                faults.push(format!("{}: the solution is accused\n{text}", lesson.name))
            }
            (_, Verdict::Right) => faults.push(format!("{}, {version}: is called right", lesson.name)),
            (expected, Verdict::Wrong { mistakes, text, .. }) => match mistakes.as_slice() {
                [first, ..] if first == expected => {
                    named += 1;
                    let mark = format!("<!-- verdict: {} {expected} -->\n```text\n", lesson.name);
                    if let Some((_, after)) = page.split_once(&mark)
                        && !after.starts_with(&format!("{}\n```", text.trim_end()))
                    {
                        faults.push(format!("docs/exercises.md shows another verdict than\n{text}"));
                    }
                }
                _ => faults.push(format!("{}: `{expected}` is named {mistakes:?}\n{text}", lesson.name)),
            },
        }
    }
    Ok((named, faults))
}

fn title(index: usize) -> String {
    format!("{:02} {}: {}", index + 1, LESSONS[index].name, LESSONS[index].title)
}

/// Where to write and what to read.
fn pointer(workshop: &Workshop, index: usize) -> String {
    format!(
        "  Next: {}\n  write in {}, read docs/{}\n  `cargo run --example learn -- watch` checks at every save, `-- hint` gives a hint.",
        title(index),
        shown(&workshop.file(LESSONS, index)),
        LESSONS[index].page
    )
}

/// A path as one would type it in the project's folder.
fn shown(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path).display().to_string()
}

fn indented(text: &str) -> String {
    text.lines().filter(|line| !line.contains("RUST_BACKTRACE")).map(|line| format!("    {line}\n")).collect()
}
