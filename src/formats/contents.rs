//! What a file of tensors contains.

use super::Format;
use crate::tensors::Tensors;
use crate::{Error, Result};
use std::path::Path;

/// The most entries that a message lists.
const MOST_LISTED: usize = 10;

/// The contents of a file of tensors.
#[derive(Clone, Debug)]
pub struct Contents {
    /// What kind of file it is.
    pub format: Format,
    /// The tensors, and metadata if there is any.
    pub tensors: Tensors,
    /// The keys under which a checkpoint keeps its tensors, the outermost first.
    pub unwrapped: Vec<String>,
    /// What else the file contains and is ignored: key and description.
    pub dropped: Vec<(String, String)>,
    /// Tensors that cannot be read, because of their type: name and reason. Whether they are needed is for the caller to
    /// decide.
    pub unreadable: Vec<(String, String)>,
    /// Other tensors in a checkpoint that could have been meant: their keys joined by points, and their number.
    pub others: Vec<(String, usize)>,
    /// Tensors whose type is not in the file: elements of two bytes in npz, which were read as bfloat16.
    pub guessed: Vec<String>,
}

impl Contents {
    /// A file of this format without tensors.
    pub fn new(format: Format) -> Self {
        Contents {
            format,
            tensors: Tensors::new(),
            unwrapped: Vec::new(),
            dropped: Vec::new(),
            unreadable: Vec::new(),
            others: Vec::new(),
            guessed: Vec::new(),
        }
    }

    /// Rejects a file in which something was found, but no tensor.
    pub(super) fn expect_tensors(self, path: &Path) -> Result<Self> {
        let found: Vec<&(String, String)> = self.unreadable.iter().chain(&self.dropped).collect();
        if self.tensors.is_empty() && !found.is_empty() {
            return Err(Error::format(
                path,
                None,
                format!("expected tensors that can be read, found{}", listed(&found)),
            ));
        }
        Ok(self)
    }

    /// The tensors of the file `path`, where all of them are needed.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn complete(self, path: &Path) -> Result<Tensors> {
        match self.why_unreadable() {
            None => Ok(self.tensors),
            Some(why) => Err(Error::format(path, None, why)),
        }
    }

    /// Which tensors cannot be read, and why, if there are some.
    pub fn why_unreadable(&self) -> Option<String> {
        let all: Vec<&(String, String)> = self.unreadable.iter().collect();
        (!all.is_empty()).then(|| format!("expected tensors that can be read, found{}", listed(&all)))
    }

    /// `error`, that these are not the tensors of a network, with the reasons why some were not read.
    pub fn explain(&self, error: Error) -> Error {
        match (error, self.why_unreadable()) {
            (Error::Format { path, offset, message }, Some(why)) => {
                Error::Format { path, offset, message: format!("{message}\n  {why}") }
            }
            (error, _) => error,
        }
    }

    /// What the file contains besides the tensors, as lines of a key and a text.
    pub fn left_out(&self) -> Vec<(&'static str, String)> {
        left_out(&self.dropped)
    }

    /// The tensors that could not be read, and were not needed, as lines of a key and a text.
    pub fn not_read(&self) -> Vec<(&'static str, String)> {
        left_out(&self.unreadable)
    }

    /// What was recognised in the file, as lines of a key and a text: what the user should know even where all is well.
    /// `flag` chooses other tensors: `--key`.
    pub fn notes(&self, flag: &str) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        if !self.unwrapped.is_empty() {
            lines.push(("unwrapped", self.unwrapped.join(", ")));
        }
        let others = self.others.iter().map(|(path, tensors)| format!("{path} ({tensors} tensors)"));
        if let Some((first, _)) = self.others.first() {
            let others = others.collect::<Vec<_>>().join(", ");
            lines.push(("not taken", format!("{others}; {flag} {first} takes it instead")));
        }
        if let [first, rest @ ..] = &self.guessed[..] {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            lines.push(("note", format!("{first}{more}: elements of 2 bytes without a type (V2), read as bfloat16")));
        }
        lines
    }
}

/// Lines about entries that are left out, the first ones if there are many.
fn left_out(entries: &[(String, String)]) -> Vec<(&'static str, String)> {
    let shown = entries.iter().take(2 * MOST_LISTED).map(|(key, what)| ("left out", format!("{key} ({what})")));
    let mut lines: Vec<_> = shown.collect();
    if let more @ 1.. = entries.len() - lines.len() {
        lines.push(("left out", format!("and {more} more entries")));
    }
    lines
}

/// Entries and descriptions, the first ones if there are many; several on lines of their own.
fn listed(entries: &[&(String, String)]) -> String {
    if let [(name, what)] = entries {
        return format!(" {name}, {what}");
    }
    let mut text = String::from(":");
    for (name, what) in entries.iter().take(MOST_LISTED) {
        text += &format!("\n    {name}, {what}");
    }
    if let more @ 1.. = entries.len().saturating_sub(MOST_LISTED) {
        text += &format!("\n    and {more} more");
    }
    text
}
