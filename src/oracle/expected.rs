//! What an implementation is known not to do: failures that are expected.
//!
//! A line of the file for each:
//!
//! ```text
//! # kind      what fails                     # why
//! conv2d      dilation=2* grad_weight        # no gradient of dilated weights yet
//! max_pool    values=small                   # ties: the last maximum gets the gradient
//! model       grad_layer4.*                  # not converted yet
//! *           mode=eval
//! ```
//!
//! A word with `=` is compared with the settings of the layer, and in `fuzz` with all that a case consists of; any other word
//! is a pattern of names of tensors. `*` stands for any text. A failure is excused if the kind and all words with `=` match
//! and, where tensors are named, the tensor is one of them.
//!
//! What is expected to fail must fail, as pytest's strict xfail demands: a line whose tensors were judged and all fit is
//! itself a failure ([`Lines::superfluous`]), because nobody would notice otherwise that it can be removed. `strict=false` in a
//! line says that it fails sometimes.

use super::arithmetic::matches;
use super::compare::Report;
use super::fuzz;
use super::layer::{KINDS, can_have, settings_of};
use crate::error::nearest;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::str::FromStr;

/// The expected failures of an implementation; see the [module documentation](self).
#[derive(Clone, Debug, Default)]
pub struct Expected {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Its number, from 1, and its text.
    line: usize,
    text: String,
    /// Whether it must fail.
    strict: bool,
    kind: String,
    conditions: Vec<(String, String)>,
    tensors: Vec<String>,
    reason: String,
}

/// What became of the lines that apply to something, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Those that excuse a failure.
    pub failed: BTreeSet<usize>,
    /// Those with a tensor that was judged and fits.
    pub passed: BTreeSet<usize>,
    /// Those that apply and name a result, whether or not it was judged.
    pub named: BTreeSet<usize>,
}

impl Lines {
    /// Adds what became of the lines in something else.
    pub fn extend(&mut self, other: Lines) {
        self.failed.extend(other.failed);
        self.passed.extend(other.passed);
        self.named.extend(other.named);
    }

    /// The lines of which something was judged and nothing failed.
    pub fn superfluous(&self) -> impl Iterator<Item = usize> + '_ {
        self.passed.difference(&self.failed).copied()
    }
}

impl FromStr for Expected {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            // `relu#2` is the second call of a module, not a comment.
            let text = line.trim().to_string();
            let padded = format!(" {line}");
            let (line, reason) = padded.split_once(" #").unwrap_or((&padded, ""));
            let mut words = line.split_whitespace();
            let Some(kind) = words.next() else { continue };
            if kind.contains('=') {
                let message =
                    format!("line {}: expected the kind of layer first, such as conv2d or *, got `{kind}`", index + 1);
                return Err(Error::argument("expected failures", message));
            }
            let known = KINDS.iter().chain(&["model"]);
            if !known.clone().any(|known| matches(kind, known)) {
                let known: Vec<String> = known.map(|kind| kind.to_string()).collect();
                let hint = nearest(kind, &known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                let message = format!("line {}: there is no kind of layer `{kind}`{hint}", index + 1);
                return Err(Error::argument("expected failures", message));
            }
            let mut entry = Entry {
                line: index + 1,
                text,
                strict: true,
                kind: kind.to_string(),
                conditions: Vec::new(),
                tensors: Vec::new(),
                reason: reason.trim().to_string(),
            };
            if entry.reason.is_empty() {
                entry.reason = format!("line {}", index + 1);
            }
            for word in words {
                match word.split_once('=') {
                    Some(("strict", value)) => {
                        let read = value.to_ascii_lowercase().parse::<bool>();
                        let message = format!("line {}: `strict` expects true or false, got `{value}`", index + 1);
                        entry.strict = read.map_err(|_| Error::argument("expected failures", message))?;
                    }
                    Some((name, _)) if KINDS.contains(&kind) && !can_be_set(kind, name) => {
                        let message = format!("line {}: {kind} has no setting or size `{name}`", index + 1);
                        return Err(Error::argument("expected failures", message));
                    }
                    Some((name, value)) => entry.conditions.push((name.to_string(), value.to_string())),
                    None if KINDS.contains(&kind) && !can_have(kind, word) => {
                        let message = format!("line {}: {kind} has no result with a name like `{word}`", index + 1);
                        return Err(Error::argument("expected failures", message));
                    }
                    None => entry.tensors.push(word.to_string()),
                }
            }
            entries.push(entry);
        }
        Ok(Expected { entries })
    }
}

/// Whether a case of this kind can have a property of this name.
fn can_be_set(kind: &str, name: &str) -> bool {
    let own = settings_of(kind).contains(&name) || fuzz::parameters_of(kind).any(|parameter| parameter == name);
    own || ["seed", "values"].contains(&name)
}

impl Entry {
    fn applies(&self, kind: &str, properties: &[(String, String)]) -> bool {
        let holds = |(name, value): &(String, String)| {
            properties.iter().any(|(property, found)| property == name && matches(value, found))
        };
        matches(&self.kind, kind) && self.conditions.iter().all(holds)
    }

    fn names(&self, tensor: &str) -> bool {
        self.tensors.is_empty() || self.tensors.iter().any(|pattern| matches(pattern, tensor))
    }
}

impl Expected {
    /// Excuses the failures of `report` that are expected of this kind with these properties.
    pub fn excuse(&self, kind: &str, properties: &[(String, String)], report: &mut Report) -> Lines {
        let mut lines = Lines::default();
        for entry in self.entries.iter().filter(|entry| entry.applies(kind, properties)) {
            for verdict in report.tensors.iter_mut().filter(|verdict| entry.names(&verdict.name)) {
                lines.named.insert(entry.line);
                if !verdict.fits() {
                    verdict.excused = Some(entry.reason.clone());
                    lines.failed.insert(entry.line);
                } else if verdict.tried() && entry.strict {
                    lines.passed.insert(entry.line);
                }
            }
        }
        lines
    }

    /// Why it is expected that there are no results at all.
    pub fn of_failure(&self, kind: &str, properties: &[(String, String)]) -> Option<(&str, Lines)> {
        let entries = self.entries.iter().filter(|entry| entry.tensors.is_empty() && entry.applies(kind, properties));
        let failed: BTreeSet<usize> = entries.clone().map(|entry| entry.line).collect();
        let first = entries.clone().next()?;
        Some((first.reason.as_str(), Lines { named: failed.clone(), failed, passed: BTreeSet::new() }))
    }

    /// The line of this number, for a reader.
    pub fn line(&self, number: usize) -> String {
        let text = self.entries.iter().find(|entry| entry.line == number).map_or("", |entry| entry.text.as_str());
        format!("line {number}: {text}")
    }

    /// The lines for this very kind that named nothing: they did not apply, or to no result.
    pub fn idle(&self, kind: &str, lines: &Lines) -> Vec<usize> {
        let of_kind = self.entries.iter().filter(|entry| entry.kind == kind).map(|entry| entry.line);
        of_kind.filter(|line| !lines.named.contains(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Arithmetic, compare, layer};
    use crate::tensors::Tensors;
    use ndarray::array;

    fn report() -> Report {
        let mut input = Tensors::new();
        input.insert("input", array![[1.0, 2.0]]);
        input.insert("weight", array![[3.0, 4.0]]);
        input.insert("grad_output", array![[1.0]]);
        let ours = layer::run::<f64>("linear", &"".parse().unwrap(), &input, &[Arithmetic::F64]).unwrap();
        let mut theirs = Tensors::new();
        theirs.insert("output", array![[11.0]]);
        theirs.insert("grad_weight", array![[0.0, 0.0]]);
        theirs.insert("grad_input", array![[0.0, 0.0]]);
        compare(&ours, &theirs, None).unwrap()
    }

    #[test]
    fn an_expected_failure_is_excused_and_no_other() {
        let properties = [("stride".to_string(), "2x1".to_string())];
        for (text, excused, passed) in [
            ("", 0, false),
            ("linear", 2, true),
            ("* # all", 2, true),
            ("conv2d", 0, false),
            ("linear grad_weight", 1, false),
            ("linear grad_*", 2, true),
            ("* stride=2*", 2, true),
            ("* stride=1*", 0, false),
            ("* padding=1", 0, false),
            ("# a comment\n\nlinear grad_weight # w\nlinear grad_input # x", 2, true),
            ("* grad_*#2", 0, false),
        ] {
            let mut report = report();
            text.parse::<Expected>().unwrap().excuse("linear", &properties, &mut report);
            assert_eq!(report.tensors.iter().filter(|verdict| verdict.excused.is_some()).count(), excused, "{text}");
            assert_eq!(report.passed(), passed, "{text}");
        }
        let expected: Expected = "linear grad_weight\nlin* stride=2x1 # slow".parse().unwrap();
        let (reason, lines) = expected.of_failure("linear", &properties).unwrap();
        assert_eq!((reason, lines.failed), ("slow", [2].into()));
        assert_eq!(expected.of_failure("linear", &[]), None);
        let error = "stride=2".parse::<Expected>().unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("kind of layer first"), "{error}");
        let error = "relu\nrleu output".parse::<Expected>().unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("did you mean `relu`?"), "{error}");
        let error = "\nlinear grad_*\nlinear grad_wieght".parse::<Expected>().unwrap_err().to_string();
        assert!(error.contains("line 3: linear has no result with a name like `grad_wieght`"), "{error}");
        let error = "conv2d stride=2 n=1 values=small\nconv2d dilaton=2".parse::<Expected>().unwrap_err().to_string();
        assert!(error.contains("line 2: conv2d has no setting or size `dilaton`"), "{error}");
        let error = "* strict=no".parse::<Expected>().unwrap_err().to_string();
        assert!(error.contains("`strict` expects true or false, got `no`"), "{error}");
    }

    /// In the report `grad_weight` and `grad_input` are wrong, `output` is right and `grad_bias` is not given.
    #[test]
    fn what_is_expected_to_fail_must_fail() {
        for (text, superfluous) in [
            ("linear grad_weight", &[][..]),
            ("linear output # once", &[1]),
            ("linear output strict=false", &[]),
            ("linear grad_bias", &[]),
            ("linear", &[]),
            ("conv2d output\nlinear output\n* output stride=9", &[2]),
            ("linear output grad_weight\nlinear output", &[2]),
        ] {
            let expected: Expected = text.parse().unwrap();
            let lines = expected.excuse("linear", &[], &mut report());
            assert_eq!(lines.superfluous().collect::<Vec<_>>(), superfluous, "{text}");
        }
        let expected: Expected = "linear bias=true\n* grad_*\n* bias\nrelu".parse().unwrap();
        let mut lines = expected.excuse("linear", &[], &mut report());
        assert_eq!((expected.idle("linear", &lines), expected.line(2)), (vec![1], "line 2: * grad_*".to_string()));
        // A line that one layer needs is not superfluous in another.
        lines.passed.insert(2);
        assert_eq!(lines.superfluous().count(), 0);
    }
}
