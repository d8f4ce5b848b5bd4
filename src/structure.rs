//! The arrows between the modules, read from their source: each may use what is listed beside it, and nothing else.
//!
//! ```text
//! base ← layers ← model ← {program, engine}      engine ← train ← cli
//! ```
//!
//! `docs/architecture.md` draws the whole. Code under `#[cfg(test)]` is exempt: there the reference judges the engine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module and what it may use. A path such as `engine::kernels` allows that part alone.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("layers", &["base"]),
    ("model", &["base", "layers"]),
    ("program", &["base", "layers", "model"]),
    ("engine", &["base", "layers", "model"]),
    ("verify", &["base", "layers", "model", "program"]),
    // The update is one loop over memory, compiled for the vector instructions at hand.
    ("optim", &["base", "engine::kernels"]),
    ("formats", &["base"]),
    ("weights", &["base", "layers", "model", "program", "formats"]),
    ("data", &["base", "formats"]),
    ("oracle", &["base", "layers", "model", "program", "verify", "optim", "formats"]),
    ("train", &["base", "layers", "model", "program", "engine", "optim", "data", "formats", "weights"]),
    (
        "cli",
        &[
            "base", "layers", "model", "program", "engine", "verify", "optim", "data", "formats", "weights", "oracle",
            "train",
        ],
    ),
];

/// What `lib.rs` re-exports from `base`.
const OF_BASE: &[&str] = &[
    "Activation",
    "Error",
    "Gradients",
    "Parameters",
    "Result",
    "Scalar",
    "activation",
    "error",
    "gemm",
    "parallel",
    "parameters",
    "processes",
    "rng",
    "scalar",
    "shards",
    "tensors",
];

/// Every file of a module that is not a test, with its text.
fn files(root: &Path, module: &str) -> Vec<(PathBuf, String)> {
    let (single, folder) = (root.join(format!("{module}.rs")), root.join(module));
    let mut paths: Vec<PathBuf> = [single].into_iter().filter(|path| path.is_file()).collect();
    let mut folders: Vec<PathBuf> = [folder].into_iter().filter(|path| path.is_dir()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => paths.push(path),
                false => {}
            }
        }
    }
    let mut files: Vec<_> = paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    let tests: BTreeSet<PathBuf> = files.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    files.retain(|(path, _)| !tests.contains(path));
    files
}

/// The files of the modules that `text` declares for tests alone.
fn test_files(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = match path.file_stem().unwrap().to_str().unwrap() {
        "mod" => path.parent().unwrap().to_path_buf(),
        _ => path.with_extension(""),
    };
    let declared = text.split("#[cfg(test)]\n").skip(1).filter_map(|item| {
        let line = item.lines().next()?.trim().strip_prefix("pub(crate) ").unwrap_or(item.lines().next()?.trim());
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    declared.map(|name| folder.join(format!("{name}.rs"))).collect()
}

/// The paths after `crate::` in the code, without comments and without tests: `engine::kernels`, `layers`, …
fn used(text: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(String::new(), |a, b| a + b + "\n");
    // A module of tests at the end of the file.
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let name = |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_string();
        let path = |text: &str| {
            let first = name(text);
            match text[first.len()..].strip_prefix("::") {
                Some(rest) if !name(rest).is_empty() => format!("{first}::{}", name(rest)),
                _ => first,
            }
        };
        match rest.strip_prefix('{') {
            None => drop(used.insert(path(rest))),
            Some(group) => {
                let (mut depth, mut start) = (0, 0);
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        ',' | '}' if depth == 0 => {
                            used.insert(path(group[start..i].trim()));
                            start = i + 1;
                            if c == '}' {
                                break;
                            }
                        }
                        '}' => depth -= 1,
                        _ => {}
                    }
                }
            }
        }
    }
    used.remove("");
    used
}

#[test]
fn no_arrow_goes_the_wrong_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (module, allowed) in ARROWS {
        let files = files(&root, module);
        assert!(!files.is_empty(), "there is no module `{module}`");
        for (path, text) in files {
            for used in used(&text) {
                let first = used.split("::").next().unwrap();
                let target = if OF_BASE.contains(&first) { "base" } else { first };
                let fits = |allowed: &&str| *allowed == target || used == **allowed;
                if target != *module && !allowed.iter().any(fits) {
                    let path = path.strip_prefix(&root).unwrap().display();
                    wrong.push(format!("{path} uses crate::{used}: `{module}` may use {allowed:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every module of the library is in the list.
#[test]
fn every_module_has_its_arrows() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for module in text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        assert!(ARROWS.iter().any(|(known, _)| *known == module), "`{module}` has no arrows");
    }
}

/// Closures for `wide` are inlined: a long one would otherwise be compiled without wide vectors, and nobody would notice.
#[test]
fn closures_for_wide_vectors_are_inlined() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut closures = 0;
    for (path, text) in ["engine", "optim"].iter().flat_map(|module| files(&root, module)) {
        for call in text.split(" wide(").skip(1).filter(|call| !call.starts_with("\n///")) {
            let inlined = call.trim_start().starts_with("#[inline(always)]");
            assert!(inlined, "{}: a closure for `wide` without #[inline(always)]", path.display());
            closures += 1;
        }
    }
    assert!(closures > 8, "only {closures} closures");
}

#[test]
fn uses_are_read() {
    let text = "use crate::layers::{Conv2d, relu};\n// use crate::train::x;\nuse crate::{data::{a, b}, Error};\nfn f() { \
                crate::engine::kernels::simd::wide() }\n#[cfg(test)]\nmod tests {\n use crate::oracle; }";
    let expected = ["Error", "data", "engine::kernels", "layers"].map(String::from);
    assert_eq!(used(text), expected.into_iter().collect());
}
