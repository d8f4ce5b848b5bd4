//! The table of epochs. It fits the width of the terminal: the columns that matter least are left out until it does. The
//! files of the run contain all of them.

use crate::cli::text;
use crate::train::{EpochMetrics, Evaluation};

/// A column: its title, its width, and its cell in a row.
struct Column {
    title: &'static str,
    width: usize,
    cell: fn(&EpochMetrics, Option<&Evaluation>) -> String,
}

/// All columns but the first, which is the epoch.
const COLUMNS: [Column; 9] = [
    Column { title: "lr", width: 7, cell: |epoch, _| format!("{:.2e}", epoch.lr) },
    Column { title: "loss", width: 7, cell: |epoch, _| loss(epoch.loss) },
    Column { title: "top-1", width: 8, cell: |epoch, _| percent(epoch.top1) },
    Column { title: "top-5", width: 8, cell: |epoch, _| percent(epoch.top5) },
    Column { title: "gradient", width: 8, cell: |epoch, _| format!("{:.3}", epoch.gradient_norm) },
    Column { title: "images/s", width: 8, cell: |epoch, _| format!("{:.0}", epoch.images_per_second()) },
    Column { title: "time", width: 11, cell: |epoch, _| text::duration(epoch.seconds) },
    Column { title: "val loss", width: 8, cell: |_, found| found.map_or(String::new(), |found| loss(found.loss)) },
    Column {
        title: "val top-1",
        width: 9,
        cell: |_, found| found.map_or(String::new(), |found| percent(found.accuracy())),
    },
];

/// The columns that are left out if there is no room, in this order.
const LEAST_IMPORTANT: [&str; 6] = ["top-5", "gradient", "images/s", "lr", "time", "top-1"];

/// Four decimals, and never more than eight characters.
fn loss(value: f64) -> String {
    if value < 1000.0 { format!("{value:.4}") } else { format!("{value:.2e}") }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// The columns of a run's table.
pub struct Table {
    epochs: usize,
    columns: Vec<&'static Column>,
}

impl Table {
    /// The table of a run of `epochs` epochs, with or without validation, on a terminal of this width.
    pub fn new(epochs: usize, with_validation: bool, terminal: usize) -> Self {
        let is_shown = |column: &&Column| with_validation || !column.title.starts_with("val");
        let mut table = Table { epochs, columns: COLUMNS.iter().filter(is_shown).collect() };
        for title in LEAST_IMPORTANT {
            if table.width() <= terminal {
                break;
            }
            table.columns.retain(|column| column.title != title);
        }
        table
    }

    /// Of the first column: `12/40`.
    fn first(&self) -> usize {
        (2 * self.epochs.to_string().len() + 1).max("epoch".len())
    }

    fn width(&self) -> usize {
        self.first() + self.columns.iter().map(|column| 2 + column.width).sum::<usize>()
    }

    pub fn header(&self) -> String {
        self.line("epoch", |column| column.title.to_string())
    }

    /// An epoch as a row.
    pub fn row(&self, epoch: &EpochMetrics, validation: Option<&Evaluation>) -> String {
        let first = format!("{}/{}", epoch.epoch + 1, self.epochs);
        self.line(&first, |column| (column.cell)(epoch, validation))
    }

    fn line(&self, first: &str, cell: impl Fn(&Column) -> String) -> String {
        let mut line = format!("{first:>width$}", width = self.first());
        for column in &self.columns {
            line += &format!("  {:>width$}", cell(column), width = column.width);
        }
        line.trim_end().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn table(epochs: usize, with_validation: bool, terminal: usize) -> [String; 2] {
        let metrics = EpochMetrics {
            epoch: epochs - 1,
            loss: 1.64804,
            top1: 1.0,
            top5: 1.0,
            lr: 0.0411,
            gradient_norm: 1.2094,
            images: 50_000,
            seconds: 3_599.0,
        };
        let validation = Evaluation { loss: 0.59436, top1: 3, top5: 4, confusion: array![[3, 1], [0, 0]] };
        let table = Table::new(epochs, with_validation, terminal);
        [table.header(), table.row(&metrics, with_validation.then_some(&validation))]
    }

    #[test]
    fn what_fits_is_shown() {
        let expected = [
            "epoch       lr     loss     top-1     top-5  gradient  images/s         time",
            "40/40  4.11e-2   1.6480  100.00 %  100.00 %     1.209        14  59 min 59 s",
        ];
        assert_eq!(table(40, false, 80), expected);
    }

    #[test]
    fn it_fits_80_and_60_columns() {
        for epochs in [1, 40, 999] {
            for (with_validation, terminal) in [(false, 80), (true, 80), (false, 60), (true, 60)] {
                for line in table(epochs, with_validation, terminal) {
                    assert!(line.len() <= terminal, "{line}");
                }
            }
        }
        // With validation its columns and the loss are always there.
        assert_eq!(table(40, true, 1)[0], "epoch     loss  val loss  val top-1");
    }
}
