//! The charts of a report: which values of the runs each of them shows.

use super::chart::bars::{self, Bar};
use super::chart::heat_map::{self, HeatMap};
use super::chart::lines::{self, Lines, Mark, Series, YAxis};
use super::chart::{Scene, confusion};
use super::network::Judgement;
use super::run::{Epoch, Run, Time};
use ndarray::Axis;

/// With more classes than this, not every class has a bar.
pub const BARS: usize = 40;

/// A chart and the name of its files.
pub struct Figure {
    pub stem: String,
    pub scene: Scene,
}

/// All charts that a report may have, by the names of the files.
pub const STEMS: [&str; 13] = [
    // The first two only in reports of earlier versions.
    "train_loss",
    "validation_loss",
    "loss",
    "validation_accuracy",
    "training_accuracy",
    "learning_rate",
    "gradient_norm",
    "confusion_matrix",
    "class_accuracy",
    "layer_gradient_norm",
    "layer_update_ratio",
    "seconds_per_epoch",
    "images_per_second",
];

/// The meaning of the lines in charts of both.
const SOLID_AND_DOTTED: [&str; 2] = ["validation images", "training images"];

/// The runs of a report, for the charts in which each is a line.
pub struct Overlay<'a>(pub &'a [&'a Run]);

impl Overlay<'_> {
    /// A line for each run, through `value` of its epochs.
    fn epochs(&self, value: impl Fn(&Epoch) -> Option<f64>) -> Vec<Series> {
        self.series(|run| run.epochs.iter().map(&value).collect())
    }

    fn times(&self, value: impl Fn(&Time) -> f64) -> Vec<Series> {
        self.series(|run| run.times.iter().map(|time| Some(value(time))).collect())
    }

    fn series(&self, values: impl Fn(&Run) -> Vec<Option<f64>>) -> Vec<Series> {
        let points = |run: &Run| {
            let values = values(run).into_iter().enumerate();
            values.filter_map(|(i, value)| Some([(i + 1) as f64, value?])).collect()
        };
        // A single run needs no name: the page is about it.
        let name = |run: &Run| if self.0.len() > 1 { run.name.clone() } else { String::new() };
        let series = |(i, run): (usize, &&Run)| Series { name: name(run), run: i, dotted: false, points: points(run) };
        self.0.iter().enumerate().map(series).collect()
    }

    fn chart(&self, stem: &str, title: &str, y_label: &str, y_axis: YAxis, series: Vec<Series>) -> Option<Figure> {
        let chart = Lines { title, y_label, y_axis, series, marks: Vec::new(), ring: None, styles: None };
        Some(Figure { stem: stem.to_string(), scene: lines::draw(&chart)? })
    }

    /// Validation loss as solid lines, training loss as dotted ones; only the latter if no run has validation images.
    pub fn loss(&self) -> Option<Figure> {
        let (label, mut training) = ("cross-entropy per image (nats)", self.epochs(|epoch| epoch.train_loss));
        let mut series = self.epochs(|epoch| epoch.validation_loss);
        if series.iter().all(|series| series.points.is_empty()) {
            return self.chart("loss", "Training loss", label, YAxis::Linear, training);
        }
        training.iter_mut().for_each(|series| series.dotted = true);
        series.extend(training);
        let (title, styles) = ("Loss", Some(SOLID_AND_DOTTED));
        let chart =
            Lines { title, y_label: label, y_axis: YAxis::Linear, series, marks: Vec::new(), ring: None, styles };
        Some(Figure { stem: "loss".to_string(), scene: lines::draw(&chart)? })
    }

    /// Validation accuracy as solid lines, training accuracy as dotted ones; only the latter if no run has validation
    /// images.
    pub fn accuracy(&self) -> Option<Figure> {
        let percent = |share: f64| 100.0 * share;
        let mut training = self.epochs(|epoch| Some(percent(epoch.train_top1)));
        let label = "accuracy (% of the images)";
        if self.0.iter().all(|run| run.best_epoch().is_none()) {
            return self.chart("training_accuracy", "Training accuracy", label, YAxis::Linear, training);
        }
        training.iter_mut().for_each(|series| series.dotted = true);
        let mut series = self.epochs(|epoch| epoch.validation_top1.map(percent));
        series.extend(training);
        let best: Vec<Option<(usize, f64)>> = self.0.iter().map(|run| run.best_epoch()).collect();
        let mark = |(i, best): (usize, &Option<(usize, f64)>)| {
            best.map(|(epoch, top1)| Mark { run: i, at: [epoch as f64, percent(top1)] })
        };
        let ring = match best.as_slice() {
            [Some((epoch, top1))] => format!("best, epoch {epoch}: {:.2} %", percent(*top1)),
            _ => "best epoch".to_string(),
        };
        let chart = Lines {
            title: "Validation accuracy",
            y_label: label,
            y_axis: YAxis::Linear,
            series,
            marks: best.iter().enumerate().filter_map(mark).collect(),
            ring: Some(ring),
            styles: Some(SOLID_AND_DOTTED),
        };
        Some(Figure { stem: "validation_accuracy".to_string(), scene: lines::draw(&chart)? })
    }

    pub fn learning_rate(&self) -> Option<Figure> {
        let (label, series) = ("learning rate, logarithmic", self.epochs(|epoch| Some(epoch.lr)));
        self.chart("learning_rate", "Learning rate", label, YAxis::Logarithmic, series)
    }

    pub fn gradient_norm(&self) -> Option<Figure> {
        let (label, series) = ("‖gradient‖, logarithmic", self.epochs(|epoch| epoch.gradient_norm));
        self.chart("gradient_norm", "Gradient norm, all layers together", label, YAxis::Logarithmic, series)
    }

    pub fn seconds_per_epoch(&self) -> Option<Figure> {
        let series = self.times(|time| time.seconds);
        self.chart("seconds_per_epoch", "Time per epoch", "seconds", YAxis::FromZero, series)
    }

    pub fn images_per_second(&self) -> Option<Figure> {
        let series = self.times(|time| time.images_per_second);
        self.chart("images_per_second", "Training throughput", "images per second", YAxis::FromZero, series)
    }
}

/// One run for the charts of a single run. Its place among `of` runs is part of the file names.
pub struct Single<'a> {
    pub run: &'a Run,
    pub place: usize,
    pub of: usize,
}

impl Single<'_> {
    fn figure(&self, stem: &str, title: &str, draw: impl FnOnce(&str) -> Scene) -> Figure {
        match self.of {
            1 => Figure { stem: stem.to_string(), scene: draw(title) },
            _ => Figure {
                stem: format!("{stem}_run{}", self.place + 1),
                scene: draw(&format!("{title}: {}", self.run.name)),
            },
        }
    }

    pub fn confusion_matrix(&self, judged: &Judgement) -> Figure {
        let counts = judged.evaluation.confusion.view();
        self.figure("confusion_matrix", "Confusion matrix", |title| confusion::draw(title, &judged.classes, counts))
    }

    /// A bar for each class; with many classes only for those with the lowest accuracy.
    pub fn class_accuracy(&self, judged: &Judgement) -> Figure {
        let rows = judged.evaluation.confusion.axis_iter(Axis(0)).enumerate();
        let mut bars: Vec<Bar> = rows
            .map(|(class, row)| Bar { name: judged.classes[class].clone(), part: row[class], whole: row.sum() })
            .collect();
        let mut title = "Accuracy of each class".to_string();
        if bars.len() > BARS {
            title = format!("The {BARS} classes with the lowest accuracy");
            // a/b < c/d as a·d < c·b, in whole numbers; classes without images last.
            bars.sort_by_key(|bar| bar.whole == 0);
            let some = bars.iter().filter(|bar| bar.whole > 0).count();
            bars[..some].sort_by(|a, b| (a.part * b.whole).cmp(&(b.part * a.whole)));
            bars.truncate(BARS);
        }
        let label = format!("accuracy (% of the {} images of the class)", judged.set.name());
        self.figure("class_accuracy", &title, |title| bars::draw(title, &label, &bars))
    }

    /// The heat map of a value of the layers `names`, if any is above 0; `range` is that of all runs.
    pub fn layers(
        &self,
        [stem, title, colour_label]: [&str; 3],
        names: &[String],
        values: &[Vec<Option<f64>>],
        range: Option<[f64; 2]>,
    ) -> Option<Figure> {
        let places = shown(self.run, names);
        let rows: Vec<String> = places.iter().map(|&place| short_name(&self.run.layers.names[place])).collect();
        let values: Vec<Vec<Option<f64>>> =
            values.iter().map(|epoch| places.iter().map(|&place| epoch[place]).collect()).collect();
        let range = range.filter(|_| !rows.is_empty() && !values.is_empty())?;
        let draw = |title: &str| heat_map::draw(&HeatMap { title, colour_label, rows: &rows, values: &values, range });
        Some(self.figure(stem, title, draw))
    }
}

/// The places in `layers.csv` of the layers named `names`.
fn shown(run: &Run, names: &[String]) -> Vec<usize> {
    (0..run.layers.names.len()).filter(|&place| names.contains(&run.layers.names[place])).collect()
}

/// The values above 0 of the layers named `names`.
pub fn numbers(run: &Run, names: &[String], values: &[Vec<Option<f64>>]) -> Vec<f64> {
    let places = shown(run, names);
    let numbers = values.iter().flat_map(|epoch| places.iter().filter_map(|&place| epoch[place]));
    numbers.filter(|number| *number > 0.0).collect()
}

/// The range of the colours of a heat map: from the smallest value, without the smallest twentieth of them, to the
/// largest. The last steps of a schedule that ends near 0 are smaller than the others by orders of magnitude, and would
/// take most of the colours.
pub fn range(mut numbers: Vec<f64>) -> Option<[f64; 2]> {
    numbers.sort_by(f64::total_cmp);
    Some([numbers.get(numbers.len() / 20).copied()?, numbers.last().copied()?])
}

/// `layer1.0.conv1.weight` without the suffix that every row has.
fn short_name(parameter: &str) -> String {
    parameter.strip_suffix(".weight").unwrap_or(parameter).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_all_but_the_smallest_numbers() {
        let mut numbers: Vec<f64> = (1..=40).map(f64::from).collect();
        numbers.reverse();
        assert_eq!(range(numbers), Some([3.0, 40.0]));
        assert_eq!((range(vec![7.0]), range(Vec::new())), (Some([7.0, 7.0]), None));
    }
}
