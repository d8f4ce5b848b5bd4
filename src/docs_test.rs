//! The documentation against the repository: links lead somewhere, quoted lines are lines of the file they are quoted from,
//! and paths in backticks exist.
//!
//! A code block is a quotation where the line before it is `<!-- quote: src/layers/batch_norm.rs -->`. Its lines are then
//! consecutive lines of that file; indentation and the marks of documentation comments do not count. The fence says `text`,
//! because rustdoc would compile a fragment of Rust.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `README.md` and `docs/*.md` with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.push(root().join("README.md"));
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The name of a page in a message.
fn name(page: &Path) -> String {
    page.strip_prefix(root()).unwrap_or(page).display().to_string()
}

/// The lines outside code blocks, and every code block with the line before it.
fn cut(text: &str) -> (Vec<&str>, Vec<(&str, Vec<&str>)>) {
    let (mut prose, mut blocks) = (Vec::new(), Vec::new());
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        match open.take() {
            None if fence => open = Some((prose.last().copied().unwrap_or(""), Vec::new())),
            None => prose.push(line),
            Some(block) if fence => blocks.push(block),
            Some((before, mut lines)) => {
                lines.push(line);
                open = Some((before, lines));
            }
        }
    }
    assert!(open.is_none(), "a code block without an end");
    (prose, blocks)
}

/// What is outside backticks, and every code in backticks.
fn code_apart(prose: &str) -> (String, Vec<&str>) {
    let parts: Vec<&str> = prose.split('`').collect();
    assert!(parts.len() % 2 == 1, "a backtick without its partner");
    (parts.iter().copied().step_by(2).collect(), parts.iter().copied().skip(1).step_by(2).collect())
}

/// The file that a block after this line quotes.
fn quoted_file(line: &str) -> Option<&str> {
    line.trim().strip_prefix("<!-- quote: ")?.strip_suffix(" -->")
}

/// A line without its indentation and without the mark of a documentation comment.
fn bare(line: &str) -> &str {
    let line = line.trim();
    line.strip_prefix("//!").or_else(|| line.strip_prefix("///")).map_or(line, str::trim)
}

/// Whether `block` is a run of lines of `text`.
fn is_quotation(block: &[&str], text: &str) -> bool {
    let block: Vec<&str> = block.iter().map(|line| bare(line)).collect();
    let lines: Vec<&str> = text.lines().map(bare).collect();
    !block.is_empty() && lines.windows(block.len()).any(|window| window == block.as_slice())
}

/// The targets of the links in `text`, which has no code in it.
fn targets(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in cut(text).0 {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let slug = kept.collect::<String>().to_lowercase().replace(' ', "-");
        let (mut anchor, mut earlier) = (slug.clone(), 0);
        while !anchors.insert(anchor) {
            earlier += 1;
            anchor = format!("{slug}-{earlier}");
        }
    }
    anchors
}

#[test]
fn every_link_leads_somewhere() {
    let (mut wrong, mut links) = (Vec::new(), 0);
    for (page, text) in pages() {
        let prose = cut(&text).0.join("\n");
        let (plain, _) = code_apart(&prose);
        for target in targets(&plain).into_iter().filter(|target| !target.contains("://")) {
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            if !file.exists() {
                wrong.push(format!("{}: there is no `{path}`", name(&page)));
            } else if !anchor.is_empty() && !anchors(&fs::read_to_string(&file).unwrap()).contains(anchor) {
                wrong.push(format!("{}: `{target}`: the page has no such heading", name(&page)));
            }
        }
    }
    assert!(links > 100, "only {links} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn quoted_lines_are_lines_of_their_files() {
    let (mut wrong, mut quotations) = (Vec::new(), 0);
    for (page, text) in pages() {
        let (prose, blocks) = cut(&text);
        let announced = prose.iter().filter(|line| quoted_file(line).is_some()).count();
        let blocks: Vec<_> = blocks.into_iter().filter(|(before, _)| quoted_file(before).is_some()).collect();
        if announced != blocks.len() {
            wrong.push(format!("{}: a code block must follow directly after `<!-- quote: … -->`", name(&page)));
        }
        for (before, block) in blocks {
            quotations += 1;
            let file = quoted_file(before).expect("a quotation");
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            if !is_quotation(&block, &text) {
                wrong.push(format!("{}: these are not lines of {file}:\n{}", name(&page), block.join("\n")));
            }
        }
    }
    assert!(quotations > 10, "only {quotations} quotations were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// mdBook shows the pages that `SUMMARY.md` lists, and no others.
#[test]
fn every_page_is_in_the_summary() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<&str> = targets(&summary).into_iter().collect();
    let here = pages().into_iter().filter(|(page, _)| page.parent().unwrap().ends_with("docs"));
    let here: BTreeSet<String> = here.map(|(page, _)| page.file_name().unwrap().to_string_lossy().into()).collect();
    let pages: BTreeSet<&str> = here.iter().map(String::as_str).filter(|page| *page != "SUMMARY.md").collect();
    assert_eq!(listed, pages);
}

#[test]
fn paths_in_backticks_exist() {
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        let prose = cut(&text).0.join("\n");
        for code in code_apart(&prose).1 {
            let folder =
                ["src/", "tests/", "examples/", "benches/", "docs/"].iter().any(|folder| code.starts_with(folder));
            let path = code.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if folder && path && !root().join(code).exists() {
                wrong.push(format!("{}: there is no `{code}`", name(&page)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The text of every file in `folder` that ends in `.rs`.
fn sources(folder: &Path) -> String {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.retain(|path| path.is_dir() && !path.ends_with("target") || path.extension().is_some_and(|e| e == "rs"));
    let text = |path: &PathBuf| if path.is_dir() { sources(path) } else { fs::read_to_string(path).unwrap() };
    entries.iter().map(text).collect()
}

/// `docs/mutations.md` names the tests that detect its faults. A name of four words or more is that of a test.
#[test]
fn tests_in_backticks_exist() {
    let sources = ["src", "tests"].map(|folder| sources(&root().join(folder))).concat();
    let text = fs::read_to_string(root().join("docs/mutations.md")).unwrap();
    let prose = cut(&text).0.join("\n");
    let is_name = |code: &&str| code.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let tests = code_apart(&prose).1.into_iter().filter(is_name).filter(|code| code.matches('_').count() >= 3);
    let (gone, there): (Vec<&str>, Vec<&str>) = tests.partition(|name| !sources.contains(&format!("fn {name}(")));
    assert!(there.len() > 100, "only {} tests were found", there.len());
    assert!(gone.is_empty(), "there is no test {}", gone.join(", "));
}

#[test]
fn pages_are_read_as_they_are_meant() {
    let text =
        "# A `b`, c\n[x](y.md#z)\n<!-- quote: f.rs -->\n```text\nlet a = 1;\n\n  a\n```\n## Done?\n## Done?\n`](no)`";
    let (prose, blocks) = cut(text);
    assert_eq!(blocks, [("<!-- quote: f.rs -->", vec!["let a = 1;", "", "  a"])]);
    assert_eq!(quoted_file(blocks[0].0), Some("f.rs"));
    let prose = prose.join("\n");
    let (plain, code) = code_apart(&prose);
    assert_eq!((targets(&plain), code), (vec!["y.md#z"], vec!["b", "](no)"]));
    assert_eq!(anchors(text), ["a-b-c", "done", "done-1"].map(String::from).into_iter().collect());
    let block = &blocks[0].1;
    assert!(is_quotation(block, "fn f() {\n    let a = 1;\n\n    a\n}"));
    assert!(is_quotation(&["a = b"], "//! a = b\n"));
    assert!(!is_quotation(block, "let a = 1;\nlet b;\n\na") && !is_quotation(block, "let a = 2;\n\na"));
    assert!(!is_quotation(&[], "anything") && !is_quotation(block, ""));
}
