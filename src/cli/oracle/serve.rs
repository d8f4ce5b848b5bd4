//! `resnet oracle serve`.

use super::run_to;
use crate::cli::{Failure, Result};
use clap::Parser;
use serde_json::{Value, json};
use std::io::{BufRead as _, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

const SERVE_HELP: &str = r#"
Each line of stdin is a JSON array of strings: the arguments of a command after `resnet oracle`.
Each is answered by one line of JSON: the exit code, and what the command prints to stdout and stderr.

Example:
  $ resnet oracle serve
  ["check", "theirs.npz", "--json", "layer", "conv2d", "--set", "stride=2", "--in", "in.npz"]
  {"code":0,"error":"","out":"{\n  \"end_to_end\": …"}

It ends when stdin is closed. `serve` and `fuzz`, which read stdin themselves, cannot be served."#;

/// Run many oracle commands in one process, one per line of stdin
///
/// For test suites: a case then costs half a millisecond besides its arithmetic, instead of the start
/// of a process.
#[derive(Debug, clap::Args)]
#[command(after_help = SERVE_HELP.trim_start(), verbatim_doc_comment)]
pub struct Args {}

/// A line, as the rest of a command line.
#[derive(Debug, Parser)]
#[command(name = "resnet oracle", bin_name = "resnet oracle", no_binary_name = true)]
struct Request {
    #[command(flatten)]
    args: super::Args,
}

/// What a command would have printed, and its exit code.
struct Answer {
    code: u8,
    out: String,
    error: String,
}

pub fn run(_: &Args, out: &mut dyn Write) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Failure::Failed(format!("cannot read stdin: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let Answer { code, out: printed, error } = answer(&line);
        writeln!(out, "{}", json!({ "code": code, "out": printed, "error": error }))?;
        out.flush()?;
    }
    Ok(())
}

fn answer(line: &str) -> Answer {
    let usage = |error: String| Answer { code: 2, out: String::new(), error };
    let Some(words) = words(line) else {
        return usage(r#"error: expected a JSON array of strings on one line: ["check", "theirs.npz", …]"#.to_string());
    };
    let args = match Request::try_parse_from(&words) {
        Ok(Request { args }) => args,
        // `--help` is an answer, not an error.
        Err(error) if !error.use_stderr() => {
            return Answer { code: 0, out: error.to_string(), error: String::new() };
        }
        Err(error) => return usage(error.to_string()),
    };
    if args.reads_stdin() {
        return usage(format!("error: `{}` cannot be served: start it in a process of its own", words[0]));
    }
    let mut out = Vec::new();
    let ended = catch_unwind(AssertUnwindSafe(|| run_to(&args, &mut out)));
    let (code, error) = match ended {
        Ok(Ok(())) | Ok(Err(Failure::PipeClosed | Failure::Elsewhere)) => (0, String::new()),
        Ok(Err(Failure::Verdict)) => (1, String::new()),
        Ok(Err(Failure::Failed(message) | Failure::Diverged(message))) => (1, format!("error: {message}")),
        Ok(Err(Failure::Usage(message))) => (2, format!("error: {message}")),
        Ok(Err(Failure::Interrupted(cause))) => (cause.exit_code(), String::new()),
        // The message of the panic is on the stderr of this process.
        Err(_) => (101, "error: a bug in resnet: the command panicked; its stderr shows where".to_string()),
    };
    Answer { code, out: String::from_utf8_lossy(&out).into_owned(), error }
}

fn words(line: &str) -> Option<Vec<String>> {
    let Value::Array(words) = serde_json::from_str(line).ok()? else { return None };
    words.into_iter().map(|word| word.as_str().map(str::to_string)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(line: &str) -> (u8, String) {
        let Answer { code, out, error } = answer(line);
        (code, out + &error)
    }

    #[test]
    fn a_line_is_answered_as_its_command_line_would_be() {
        let (code, out) = answered(r#"["check", "--help"]"#);
        assert!(code == 0 && out.contains("Usage: resnet oracle check"), "{out}");
        for (line, expected) in [
            ("check x", "expected a JSON array of strings"),
            ("[1]", "expected a JSON array of strings"),
            ("[]", "Usage: resnet oracle"),
            (r#"["chekc"]"#, "similar subcommand exists: 'check'"),
            (r#"["serve"]"#, "`serve` cannot be served"),
            (r#"["layer", "relu", "--in", "x.npz", "--out", "x.csv"]"#, "x.csv"),
        ] {
            let (code, error) = answered(line);
            assert!(code == 2 && error.contains(expected), "{line}: {code} {error}");
        }
        let (code, error) = answered(r#"["compare", "no-such.npz", "neither.npz"]"#);
        assert!(code == 1 && error.starts_with("error: ") && error.contains("no-such.npz"), "{error}");
    }
}
