//! The book against its programs: printed blocks are what the programs print, figures are what they draw.
//!
//! A block after `<!-- output: chain_rule -->` is a run of lines that `examples/book/chain_rule.rs` prints. A figure
//! after `<!-- figure: chain_rule -->` is the file that the program writes to the path which is its only argument.

use super::common::Folder;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Runs the programs of the book. Cargo puts the examples beside the command; `cargo test` builds both.
fn book() -> Option<Command> {
    let folder = Path::new(env!("CARGO_BIN_EXE_resnet")).parent().unwrap().join("examples");
    let path = folder.join(format!("book{}", std::env::consts::EXE_SUFFIX));
    if !path.is_file() {
        println!(
            "SKIPPED: the programs of the book are NOT built, so nothing is compared: `cargo build --example book`"
        );
        return None;
    }
    Some(Command::new(path))
}

/// The pages of the book with their text.
fn pages() -> Vec<(String, String)> {
    let files = fs::read_dir(docs()).unwrap().map(|entry| entry.unwrap().path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut pages: Vec<_> = pages.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect();
    pages.sort();
    pages
}

/// What follows each `<!-- KIND: PROGRAM -->`: the name of the program, and the lines after the mark.
fn marked<'a>(text: &'a str, kind: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let lines: Vec<&str> = text.lines().collect();
    let start = format!("<!-- {kind}: ");
    let program = |line: &'a str| line.trim().strip_prefix(&start)?.strip_suffix(" -->");
    let marks = lines.iter().enumerate().filter_map(|(i, line)| Some((program(line)?, lines[i + 1..].to_vec())));
    marks.collect()
}

/// The lines of the code block that begins at once.
fn block<'a>(lines: &[&'a str]) -> Option<Vec<&'a str>> {
    let (fence, rest) = lines.split_first()?;
    let length = rest.iter().position(|line| *line == "```")?;
    fence.starts_with("```").then(|| rest[..length].to_vec())
}

fn is_run(part: &[&str], whole: &str) -> bool {
    let whole: Vec<&str> = whole.lines().map(str::trim_end).collect();
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}

/// What a program prints, and the figure that it draws.
struct Run {
    printed: String,
    figure: Option<Vec<u8>>,
}

/// Runs each of `names` once, with a path for its figure, several at a time.
fn run_all(names: &BTreeSet<&str>, folder: &Folder) -> BTreeMap<String, Run> {
    let (runs, names) = (Mutex::new(BTreeMap::new()), Mutex::new(names.iter()));
    let work = || {
        while let Some(&name) = { names.lock().unwrap().next() } {
            let Some(mut book) = book() else { continue };
            let figure = folder.path(&format!("{name}.svg"));
            let output = book.arg(name).arg(&figure).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let printed = String::from_utf8(output.stdout).unwrap();
            runs.lock().unwrap().insert(name.to_string(), Run { printed, figure: fs::read(&figure).ok() });
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    runs.into_inner().unwrap()
}

#[test]
fn pages_show_what_the_programs_print_and_draw() {
    let (mut wrong, folder, pages) = (Vec::new(), Folder::new("figures"), pages());
    let names = pages.iter().flat_map(|(_, text)| ["output", "figure"].map(|kind| marked(text, kind))).flatten();
    let runs = run_all(&names.map(|(name, _)| name).collect(), &folder);
    for (page, text) in &pages {
        for (name, lines) in marked(text, "output") {
            let Some(run) = runs.get(name) else { continue };
            match block(&lines) {
                None => {
                    wrong.push(format!("{page}: a code block must follow directly after `<!-- output: {name} -->`"))
                }
                Some(block) if !is_run(&block, &run.printed) => {
                    wrong.push(format!("{page}: {name} does not print\n{}\nbut\n{}", block.join("\n"), run.printed));
                }
                Some(_) => {}
            }
        }
        for (name, lines) in marked(text, "figure") {
            let Some(run) = runs.get(name) else { continue };
            let target = lines.first().and_then(|line| line.split_once("](")?.1.split(')').next());
            let Some(target) = target.filter(|target| target.ends_with(".svg")) else {
                wrong.push(format!("{page}: an image must follow directly after `<!-- figure: {name} -->`"));
                continue;
            };
            if fs::read(docs().join(target)).ok() != run.figure {
                let command = format!("cargo run --release --example book -- {name} docs/{target}");
                wrong.push(format!("{page}: {target} is not what `{command}` draws"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// docs/play/test.mjs compares the arithmetic of the playable figures with these values.
#[test]
fn playable_figures_are_tested_with_what_the_program_computes() {
    let Some(mut book) = book() else { return };
    let output = book.arg("playable_values").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let same = fs::read(docs().join("play/values.json")).unwrap() == output.stdout;
    assert!(same, "not what `cargo run --release --example book -- playable_values > docs/play/values.json` writes");
}

/// Output and exit code.
fn run(arguments: &[&str]) -> Option<(String, String, Option<i32>)> {
    let output = book()?.args(arguments).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Some((out, err, output.status.code()))
}

#[test]
fn every_program_of_the_book_is_listed_with_its_page() {
    let Some((list, _, code)) = run(&["help"]) else { return };
    assert_eq!(code, Some(0));
    let listed = list.lines().filter_map(|line| line.strip_prefix("  "));
    let listed = listed.map(|line| line.split_once(' ').unwrap().0.to_string()).collect::<BTreeSet<_>>();
    let folder = docs().join("../examples/book");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files = files.filter_map(|name| name.strip_suffix(".rs").map(str::to_string));
    let programs = files.filter(|name| !["main", "figure"].contains(&name.as_str())).collect::<BTreeSet<_>>();
    assert_eq!(listed, programs);
    for line in list.lines().filter(|line| line.starts_with("  ")) {
        let page = line.rsplit(' ').next().unwrap().strip_prefix("docs/").unwrap();
        let (name, text) = (line.split_whitespace().next().unwrap(), fs::read_to_string(docs().join(page)).unwrap());
        assert!(text.contains(name), "docs/{page} does not name `{name}`");
    }
}

#[test]
fn wrong_usage_of_the_book_says_what_to_do() {
    let Some((_, list, code)) = run(&[]) else { return };
    assert!(list.starts_with("error: expected the name of a program\n") && code == Some(2), "{list}");
    for (arguments, expected) in [
        (&["chain_rul"][..], "there is no program `chain_rul`; did you mean `chain_rule`?\n"),
        (&["vgg"], "there is no program `vgg`\n"),
        (&["linear", "--help"], "`linear` expects [FIGURE.svg], got --help\n"),
        (&["degradation", "tain", "."], "`degradation` expects [FIGURE.svg | train DATA [FOLDER]], got tain .\n"),
        (&["overfit_one_batch", "a"], "`overfit_one_batch` expects no arguments, got a\n"),
        (&["pictures"], "`pictures` expects FOLDER [CLASS...], got no arguments\n"),
    ] {
        let (out, error, code) = run(arguments).unwrap();
        assert!(error.starts_with(&format!("error: {expected}")) && out.is_empty() && code == Some(2), "{error}");
    }
    let path = docs().join("no folder/linear.svg");
    let (_, error, code) = run(&["linear", path.to_str().unwrap()]).unwrap();
    assert!(error.starts_with(&format!("error: cannot write {}: ", path.display())) && code == Some(1), "{error}");
}

#[test]
fn marks_and_blocks_are_read() {
    let text = "a\n<!-- output: x -->\n```text\n1\n 2\n```\n<!-- figure: y -->\n![alt](images/y.svg)\n";
    let (outputs, figures) = (marked(text, "output"), marked(text, "figure"));
    assert_eq!((outputs.len(), outputs[0].0, block(&outputs[0].1)), (1, "x", Some(vec!["1", " 2"])));
    assert_eq!((figures[0].0, figures[0].1[0]), ("y", "![alt](images/y.svg)"));
    assert!(is_run(&["1", " 2"], "0\n1 \n 2\n3") && !is_run(&["1", "3"], "1\n2\n3") && !is_run(&[], "1"));
    assert_eq!(block(&["text"]), None);
}
