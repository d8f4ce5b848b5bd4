//! The metrics files: lines of comma-separated numbers and names, after a line with the names of the columns.
//!
//! A run may still be writing a file, so an incomplete last line is ignored.

use crate::{Error, Result};
use std::path::Path;

/// A line that was read, and its position.
pub struct Line<'a> {
    path: &'a Path,
    number: usize,
    columns: &'a str,
    text: &'a str,
    fields: Vec<&'a str>,
}

/// The complete lines of a file after the names of its columns.
pub fn lines<'a>(path: &'a Path, text: &'a str, columns: &'a str) -> Result<Vec<Line<'a>>> {
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut lines = Vec::new();
    for (i, text) in whole.lines().enumerate() {
        let line = Line { path, number: i + 1, columns, text, fields: text.split(',').collect() };
        match i {
            0 if text != columns => return Err(line.wrong("the names of the columns")),
            0 => {}
            _ if line.fields.len() != columns.split(',').count() => {
                return Err(line.wrong(&format!("{} values", columns.split(',').count())));
            }
            _ => lines.push(line),
        }
    }
    Ok(lines)
}

impl<'a> Line<'a> {
    /// A text.
    pub fn text(&self, column: usize) -> &'a str {
        self.fields[column]
    }

    /// A whole number.
    pub fn count(&self, column: usize) -> Result<usize> {
        self.fields[column].parse().map_err(|_| self.wrong_value(column, "a whole number"))
    }

    /// A number.
    pub fn number(&self, column: usize) -> Result<f64> {
        self.maybe(column)?.ok_or_else(|| self.wrong_value(column, "a number"))
    }

    /// A number, or nothing.
    pub fn maybe(&self, column: usize) -> Result<Option<f64>> {
        match self.fields[column] {
            "" => Ok(None),
            text => match text.parse::<f64>().ok().filter(|number| number.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong_value(column, "a number")),
            },
        }
    }

    /// The error for a line that is not as expected.
    pub fn wrong(&self, expected: &str) -> Error {
        let (number, columns, text) = (self.number, self.columns, self.text);
        Error::format(self.path, None, format!("line {number}: expected {expected} ({columns}), found `{text}`"))
    }

    fn wrong_value(&self, column: usize, expected: &str) -> Error {
        let name = self.columns.split(',').nth(column).unwrap_or_default();
        let (number, found) = (self.number, self.fields[column]);
        Error::format(self.path, None, format!("line {number}: expected {expected} as `{name}`, found `{found}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<Vec<(usize, Option<f64>)>, String> {
        let read = |lines: Vec<Line>| lines.iter().map(|line| Ok((line.count(0)?, line.maybe(1)?))).collect();
        lines(Path::new("f.csv"), text, "epoch,loss").and_then(read).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_lines_are_read_and_the_beginning_of_one_is_not() {
        assert_eq!(read("epoch,loss\n1,0.5\n2,\n3,1e-"), Ok(vec![(1, Some(0.5)), (2, None)]));
        assert_eq!(read("epoch,loss\n1,0.5\n2"), Ok(vec![(1, Some(0.5))]));
        assert_eq!(read("epoch,loss\n"), Ok(vec![]));
        assert_eq!(read("epoch,lo"), Ok(vec![]));
        assert_eq!(read(""), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let message = |text| read(text).unwrap_err();
        assert_eq!(
            message("epoch,lr\n"),
            "f.csv: line 1: expected the names of the columns (epoch,loss), found `epoch,lr`"
        );
        assert_eq!(message("epoch,loss\n1,0.5\n2\n"), "f.csv: line 3: expected 2 values (epoch,loss), found `2`");
        assert_eq!(message("epoch,loss\n1,0.5,7\n"), "f.csv: line 2: expected 2 values (epoch,loss), found `1,0.5,7`");
        assert_eq!(message("epoch,loss\n1,x\n"), "f.csv: line 2: expected a number as `loss`, found `x`");
        assert_eq!(message("epoch,loss\n1,NaN\n"), "f.csv: line 2: expected a number as `loss`, found `NaN`");
        assert_eq!(message("epoch,loss\n-1,0\n"), "f.csv: line 2: expected a whole number as `epoch`, found `-1`");
    }
}
