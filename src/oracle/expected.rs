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

use super::arithmetic::matches;
use super::compare::Report;
use super::layer::KINDS;
use crate::error::nearest;
use crate::{Error, Result};
use std::str::FromStr;

/// The expected failures of an implementation; see the [module documentation](self).
#[derive(Clone, Debug, Default)]
pub struct Expected {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    kind: String,
    conditions: Vec<(String, String)>,
    tensors: Vec<String>,
    reason: String,
}

impl FromStr for Expected {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            // `relu#2` is the second call of a module, not a comment.
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
                    Some((name, value)) => entry.conditions.push((name.to_string(), value.to_string())),
                    None => entry.tensors.push(word.to_string()),
                }
            }
            entries.push(entry);
        }
        Ok(Expected { entries })
    }
}

impl Entry {
    fn applies(&self, kind: &str, properties: &[(String, String)]) -> bool {
        let holds = |(name, value): &(String, String)| {
            properties.iter().any(|(property, found)| property == name && matches(value, found))
        };
        matches(&self.kind, kind) && self.conditions.iter().all(holds)
    }
}

impl Expected {
    /// Excuses the failures of `report` that are expected of this kind with these properties.
    pub fn excuse(&self, kind: &str, properties: &[(String, String)], report: &mut Report) {
        for entry in self.entries.iter().filter(|entry| entry.applies(kind, properties)) {
            for verdict in report.tensors.iter_mut().filter(|verdict| !verdict.fits()) {
                if entry.tensors.is_empty() || entry.tensors.iter().any(|pattern| matches(pattern, &verdict.name)) {
                    verdict.excused = Some(entry.reason.clone());
                }
            }
        }
    }

    /// Why it is expected that there are no results at all.
    pub fn of_failure(&self, kind: &str, properties: &[(String, String)]) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| entry.tensors.is_empty() && entry.applies(kind, properties));
        entry.map(|entry| entry.reason.as_str())
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
            ("linear stride=2*", 2, true),
            ("linear stride=1*", 0, false),
            ("linear padding=1", 0, false),
            ("# a comment\n\nlinear grad_weight # w\nlinear grad_input # x", 2, true),
            ("linear grad_*#2", 0, false),
        ] {
            let mut report = report();
            text.parse::<Expected>().unwrap().excuse("linear", &properties, &mut report);
            assert_eq!(report.tensors.iter().filter(|verdict| verdict.excused.is_some()).count(), excused, "{text}");
            assert_eq!(report.passed(), passed, "{text}");
        }
        let expected: Expected = "linear grad_weight\nlinear stride=2x1 # slow".parse().unwrap();
        assert_eq!(expected.of_failure("linear", &properties), Some("slow"));
        assert_eq!(expected.of_failure("linear", &[]), None);
        let error = "stride=2".parse::<Expected>().unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("kind of layer first"), "{error}");
        let error = "relu\nrleu output".parse::<Expected>().unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("did you mean `relu`?"), "{error}");
    }
}
