//! What a file of tensors contains.

use super::Format;
use crate::tensors::Tensors;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// The most entries that a message lists.
const MOST_LISTED: usize = 10;
/// The most names of entries that are the same, such as tensors beside the state dict.
const MOST_ALIKE: usize = 3;

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

/// Whether a name may be in messages as it is: no character of it moves the cursor, begins a line or changes the direction.
pub(super) fn is_printable(name: &str) -> bool {
    name.chars().all(is_plain)
}

/// A name that is not printable, for messages.
pub(super) fn escaped(name: &str) -> String {
    let escape = |c: char| if is_plain(c) { c.to_string() } else { c.escape_debug().to_string() };
    name.chars().take(200).map(escape).collect()
}

fn is_plain(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\') || c.escape_debug().len() == 1
}

/// Lines about entries that are left out: one for all that are the same, and the first ones if there are many.
fn left_out(entries: &[(String, String)]) -> Vec<(&'static str, String)> {
    let mut kinds: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (key, what) in entries {
        let place = *places.entry(what).or_insert(kinds.len());
        if place == kinds.len() {
            kinds.push((what, Vec::new()));
        }
        kinds[place].1.push(key);
    }
    let shown = kinds.iter().take(2 * MOST_LISTED).map(|(what, keys)| {
        let (first, rest) = keys.split_at(keys.len().min(MOST_ALIKE));
        let each = if keys.len() > 1 { "each " } else { "" };
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        ("left out", format!("{}{more} ({each}{what})", first.join(", ")))
    });
    let mut lines: Vec<_> = shown.collect();
    if let more @ 1.. = kinds.iter().skip(lines.len()).map(|(_, keys)| keys.len()).sum::<usize>() {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A state dict with another one under a key: its hundred tensors are one line.
    #[test]
    fn entries_that_are_the_same_are_one_line() {
        let mut contents = Contents::new(Format::Torch);
        contents.dropped.push(("epoch".into(), "the number 7".into()));
        contents.dropped.extend((0..100).map(|i| (format!("layer{i}.weight"), "a tensor".to_string())));
        contents.dropped.push(("arch".into(), "the text \"a\"".into()));
        contents.dropped.extend(["lr", "seed"].map(|key| (key.to_string(), "the number 0".to_string())));
        let expected = [
            "epoch (the number 7)",
            "layer0.weight, layer1.weight, layer2.weight and 97 more (each a tensor)",
            "arch (the text \"a\")",
            "lr, seed (each the number 0)",
        ];
        let lines: Vec<String> = contents.left_out().into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, expected);
        // Many that differ.
        contents.dropped = (0..50).map(|i| (format!("k{i}"), format!("the number {i}"))).collect();
        let lines = contents.left_out();
        assert_eq!((lines.len(), lines.last().unwrap().1.as_str()), (21, "and 30 more entries"));
    }
}
