//! How the predictions are printed.
//!
//! | format | what |
//! |---|---|
//! | `list` | the picture, and below it a line for each of its most likely classes |
//! | `table` | a line for each picture, in columns |
//! | `csv` | the same as RFC 4180 has it, with a header |
//! | `jsonl` | an object for each picture, one per line |
//! | `json` | one object with all of it |
//!
//! A row is printed as soon as it is known; `json` alone waits for the end.
//!
//! The name of a file may be any bytes. Those that are not UTF-8 are printed as `\xff`, so that the output is text, and two
//! files keep two names.

use super::{Guess, Prediction};
use crate::cli::text::printable;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The picture, and below it its most likely classes
    List,
    /// A line for each picture, in columns
    Table,
    /// Comma-separated values with a header
    Csv,
    /// JSON Lines: an object for each picture
    Jsonl,
    /// One JSON object with the network and all pictures
    Json,
}

impl Format {
    /// The number of classes printed for each picture if `--top` is not given.
    pub fn top(self) -> usize {
        match self {
            Format::Table | Format::Csv => 1,
            Format::List | Format::Jsonl | Format::Json => 5,
        }
    }
}

/// Paths longer than this do not widen the table.
const WIDEST: usize = 60;

/// Prints predictions as they come.
pub struct Output<'a, W> {
    out: W,
    format: Format,
    classes: &'a [String],
    /// The number of classes printed for each picture.
    top: usize,
    /// Widths of the table's columns: path, class.
    widths: [usize; 2],
    /// The pictures printed so far.
    pictures: usize,
    /// For `json`.
    predictions: Vec<Value>,
}

impl<'a, W: Write> Output<'a, W> {
    /// Prints the header if the format has one. `paths` are the pictures that will be printed.
    pub fn begin(mut out: W, format: Format, top: usize, classes: &'a [String], paths: &[PathBuf]) -> io::Result<Self> {
        let top = top.min(classes.len());
        let path = paths.iter().map(|path| width(&printable(&name(path)))).filter(|&width| width <= WIDEST).max();
        let class = classes.iter().map(|class| width(&printable(class))).max();
        let widths = [path.unwrap_or(0).max("image".len()), class.unwrap_or(0).max("class".len())];
        match format {
            Format::Table => {
                let columns = (0..top).map(|_| format!("{}  probability", pad("class", widths[1])));
                let columns = columns.collect::<Vec<_>>().join("  ");
                writeln!(out, "{}  {columns}", pad("image", widths[0]))?;
            }
            Format::Csv => {
                let columns = (1..=top).flat_map(|rank| {
                    let rank = if rank == 1 { String::new() } else { format!("_{rank}") };
                    ["label", "class", "probability"].map(|column| format!("{column}{rank}"))
                });
                writeln!(out, "image,{}", columns.collect::<Vec<_>>().join(","))?;
            }
            Format::List | Format::Jsonl | Format::Json => {}
        }
        Ok(Output { out, format, classes, top, widths, pictures: 0, predictions: Vec::new() })
    }

    /// Prints a picture. The prediction has as many classes as are printed, or more.
    pub fn picture(&mut self, path: &Path, prediction: &Prediction) -> io::Result<()> {
        self.pictures += 1;
        let (name, guesses) = (name(path), &prediction.guesses[..self.top]);
        let class = |guess: &Guess| &self.classes[guess.class];
        match self.format {
            Format::List => {
                writeln!(self.out, "{}", printable(&name))?;
                for guess in guesses {
                    writeln!(self.out, "  {:>6.2} %  {}", 100.0 * guess.probability, printable(class(guess)))?;
                }
            }
            Format::Table => {
                let columns = guesses.iter().map(|guess| {
                    format!("{}  {:>9.2} %", pad(&printable(class(guess)), self.widths[1]), 100.0 * guess.probability)
                });
                let columns = columns.collect::<Vec<_>>().join("  ");
                writeln!(self.out, "{}  {columns}", pad(&printable(&name), self.widths[0]))?;
            }
            Format::Csv => {
                let columns = guesses
                    .iter()
                    .map(|guess| format!("{},{},{:?}", guess.class, quoted(class(guess)), guess.probability));
                writeln!(self.out, "{},{}", quoted(&name), columns.collect::<Vec<_>>().join(","))?;
            }
            Format::Jsonl => writeln!(self.out, "{}", self.to_json(&name, prediction))?,
            Format::Json => self.predictions.push(self.to_json(&name, prediction)),
        }
        Ok(())
    }

    fn to_json(&self, name: &str, Prediction { guesses, orientation }: &Prediction) -> Value {
        let guess = |Guess { class, probability }: &Guess| json!({ "label": class, "class": self.classes[*class], "probability": probability });
        let top: Vec<Value> = guesses[..self.top].iter().map(guess).collect();
        json!({ "image": name, "exif_orientation": orientation.number(), "top": top })
    }

    /// The number of pictures printed.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Prints `about` with the predictions, if the format is `json`.
    pub fn end(mut self, mut about: Value) -> io::Result<()> {
        if self.format == Format::Json {
            about["predictions"] = Value::Array(self.predictions);
            writeln!(self.out, "{about:#}")?;
        }
        self.out.flush()
    }
}

/// The name of a file as text; bytes that are not UTF-8 as `\xff`.
pub fn name(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        text += chunk.valid();
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
    }
    text
}

/// A field of a CSV file: in quotation marks where it needs them.
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) || field.trim() != field {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_string(),
    }
}

/// The columns of a terminal that `text` takes.
fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::picture::Orientation;

    fn printed(format: Format, top: usize) -> String {
        let classes = ["cat, tabby", "the \"dog\"", "鹿"].map(String::from);
        let paths = [PathBuf::from("a.png"), PathBuf::from("new\nline, and comma.png")];
        let guesses = [(2, 0.75), (0, 0.25), (1, 0.0)].map(|(class, probability)| Guess { class, probability });
        let prediction = Prediction { guesses: guesses.into(), orientation: Orientation::NORMAL };
        let mut bytes = Vec::new();
        let mut output = Output::begin(&mut bytes, format, top, &classes, &paths).unwrap();
        paths.iter().for_each(|path| output.picture(path, &prediction).unwrap());
        output.end(json!({ "model": "resnet8" })).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_format_as_written_by_hand() {
        let expected = "\
a.png
   75.00 %  鹿
   25.00 %  cat, tabby
new\\nline, and comma.png
   75.00 %  鹿
   25.00 %  cat, tabby
";
        assert_eq!(printed(Format::List, 2), expected);
        let expected = "\
image                     class       probability
a.png                     鹿              75.00 %
new\\nline, and comma.png  鹿              75.00 %
";
        assert_eq!(printed(Format::Table, 1), expected);
        let expected = "\
image,label,class,probability,label_2,class_2,probability_2,label_3,class_3,probability_3
a.png,2,鹿,0.75,0,\"cat, tabby\",0.25,1,\"the \"\"dog\"\"\",0.0
\"new\nline, and comma.png\",2,鹿,0.75,0,\"cat, tabby\",0.25,1,\"the \"\"dog\"\"\",0.0
";
        // There are three classes, and more are not printed.
        assert_eq!(printed(Format::Csv, 7), expected);

        let lines = printed(Format::Jsonl, 1);
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let top = json!([{ "label": 2, "class": "鹿", "probability": 0.75 }]);
        let expected = ["a.png", "new\nline, and comma.png"]
            .map(|image| json!({ "image": image, "exif_orientation": 1, "top": top }));
        assert_eq!(lines, expected);
        let whole: Value = serde_json::from_str(&printed(Format::Json, 1)).unwrap();
        assert_eq!(whole, json!({ "model": "resnet8", "predictions": expected }));
    }

    #[cfg(unix)]
    #[test]
    fn two_names_that_are_not_utf_8_stay_two() {
        use std::os::unix::ffi::OsStrExt as _;
        let names = [b"gr\xfcn.png", b"gr\xf6n.png"].map(|bytes| name(Path::new(std::ffi::OsStr::from_bytes(bytes))));
        assert_eq!(names, ["gr\\xfcn.png", "gr\\xf6n.png"]);
        assert_eq!(name(Path::new("grün.png")), "grün.png");
    }
}
