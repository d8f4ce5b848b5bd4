//! Values over epochs as lines.

use super::axis::Axis;
use super::colour::{self, Ink};
use super::{Anchor, LETTERS, Scene, Shape, WIDTH, font};

/// What a chart of lines shows.
pub struct Lines<'a> {
    pub title: &'a str,
    /// The label of the vertical axis, with the unit.
    pub y_label: &'a str,
    pub y_axis: YAxis,
    pub series: Vec<Series>,
    /// Rings on lines.
    pub marks: Vec<Mark>,
    /// The meaning of the rings.
    pub ring: Option<String>,
    /// The meaning of solid and dotted lines, if there are both.
    pub styles: Option<[&'a str; 2]>,
}

/// The kind of the vertical axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YAxis {
    /// From about the smallest to about the largest number.
    Linear,
    /// From 0.
    FromZero,
    /// Equal ratios are equally far apart.
    Logarithmic,
}

/// A line.
pub struct Series {
    /// Its name. Lines with the same name share an entry in the legend; an empty name has no entry.
    pub name: String,
    /// The number of its run, which decides its colour.
    pub run: usize,
    pub dotted: bool,
    /// `[epochs done, value]`.
    pub points: Vec<[f64; 2]>,
}

/// A ring around a point.
pub struct Mark {
    pub run: usize,
    pub at: [f64; 2],
}

const PLOT_HEIGHT: f64 = 240.0;
const LEGEND_LINE: f64 = 18.0;
const SWATCH: f64 = 22.0;
const RIGHT: f64 = WIDTH - 14.0;

/// Lines with at most this many points have a dot on each point.
const FEW: usize = 12;

/// Draws the chart; `None` if it has no point.
pub fn draw(chart: &Lines) -> Option<Scene> {
    let logarithmic = chart.y_axis == YAxis::Logarithmic;
    let shown = |&&[_, y]: &&[f64; 2]| y.is_finite() && (!logarithmic || y > 0.0);
    let points = || chart.series.iter().flat_map(|series| series.points.iter().filter(shown));
    points().next()?;
    let low = points().map(|[_, y]| *y).fold(f64::INFINITY, f64::min);
    let high = points().map(|[_, y]| *y).fold(f64::NEG_INFINITY, f64::max);
    let epochs = points().map(|[x, _]| *x).fold(0.0, f64::max) as usize;
    let y_axis = match chart.y_axis {
        YAxis::Linear => Axis::linear(low, high, 5),
        YAxis::FromZero => Axis::linear(0.0, high, 5),
        // With a margin of a twentieth at both ends.
        YAxis::Logarithmic => {
            let room = (high / low).powf(0.05);
            Axis::logarithmic(low / room, high * room, 8)
        }
    };
    let x_axis = Axis::counting(epochs, 7);

    let entries = legend(chart);
    let legend_lines = entries.last().map_or(0, |entry| entry.line + 1);
    let top = 34.0 + LEGEND_LINE * legend_lines as f64;
    let labels = y_axis.ticks.iter().map(|(_, label)| font::width(label, LETTERS)).fold(0.0, f64::max);
    let plot = Plot { left: 34.0 + labels, top, x_axis, y_axis };

    let mut scene = Scene::new(chart.title, top + PLOT_HEIGHT + 44.0);
    entries.iter().for_each(|entry| entry.draw(&mut scene));
    plot.frame(&mut scene, chart.y_label);
    // Dotted lines first, so that the more important solid ones are on top.
    for dotted in [true, false] {
        chart.series.iter().filter(|series| series.dotted == dotted).for_each(|series| plot.line(&mut scene, series));
    }
    for mark in &chart.marks {
        if plot.y_axis.has(mark.at[1]) {
            let ink = colour::of_line(mark.run).0;
            scene.shapes.push(Shape::Circle { centre: plot.place(mark.at), radius: 5.0, ink, ring: true });
        }
    }
    Some(scene)
}

/// The area of the lines.
struct Plot {
    left: f64,
    top: f64,
    x_axis: Axis,
    y_axis: Axis,
}

impl Plot {
    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let across = self.left + self.x_axis.place(x) * (RIGHT - self.left);
        [across, self.top + (1.0 - self.y_axis.place(y)) * PLOT_HEIGHT]
    }

    /// Axes, grid and labels.
    fn frame(&self, scene: &mut Scene, y_label: &str) {
        let bottom = self.top + PLOT_HEIGHT;
        let height = |value: f64| self.place([0.0, value])[1];
        for &value in &self.y_axis.minor {
            scene.line([self.left, height(value)], [RIGHT, height(value)], Ink::Grid, 0.5);
        }
        for (value, label) in &self.y_axis.ticks {
            scene.line([self.left, height(*value)], [RIGHT, height(*value)], Ink::Grid, 1.0);
            scene.text([self.left - 6.0, height(*value) + 4.0], label, Anchor::End, Ink::Muted);
        }
        for (value, label) in &self.x_axis.ticks {
            let x = self.left + self.x_axis.place(*value) * (RIGHT - self.left);
            scene.line([x, self.top], [x, bottom], Ink::Grid, 1.0);
            scene.line([x, bottom], [x, bottom + 4.0], Ink::Muted, 1.0);
            scene.text([x, bottom + 17.0], label, Anchor::Middle, Ink::Muted);
        }
        scene.line([self.left, self.top], [self.left, bottom], Ink::Muted, 1.0);
        scene.line([self.left, bottom], [RIGHT, bottom], Ink::Muted, 1.0);
        scene.text([(self.left + RIGHT) / 2.0, bottom + 35.0], "epochs done", Anchor::Middle, Ink::Text);
        scene.upwards([18.0, self.top + PLOT_HEIGHT / 2.0], y_label);
    }

    fn line(&self, scene: &mut Scene, series: &Series) {
        let (ink, rings) = colour::of_line(series.run);
        let on_axis = |&&[_, y]: &&[f64; 2]| self.y_axis.has(y);
        let points: Vec<[f64; 2]> = series.points.iter().filter(on_axis).map(|&point| self.place(point)).collect();
        let centres = points.clone();
        if points.len() > 1 {
            scene.shapes.push(Shape::Line { points, ink, width: 2.0, dashed: series.dotted });
        }
        let dots = centres.len() <= FEW && !rings;
        // About twenty rings on a line.
        let every = if dots { 1 } else { centres.len().div_ceil(20) };
        if dots || rings {
            for centre in centres.into_iter().step_by(every) {
                let radius = if rings { 3.5 } else { 2.6 };
                scene.shapes.push(Shape::Circle { centre, radius, ink, ring: rings });
            }
        }
    }
}

/// An entry of the legend.
struct Entry {
    sample: Sample,
    text: String,
    line: usize,
    left: f64,
}

/// The sample before the text.
#[derive(Clone, Copy)]
enum Sample {
    Line { run: usize },
    Ring,
    Style { dotted: bool },
}

/// The legend, broken into lines; empty for a single line that the title names.
fn legend(chart: &Lines) -> Vec<Entry> {
    let mut wanted: Vec<(Sample, String)> = Vec::new();
    for series in chart.series.iter().filter(|series| !series.points.is_empty()) {
        if !series.name.is_empty() && wanted.iter().all(|(_, text)| *text != series.name) {
            wanted.push((Sample::Line { run: series.run }, series.name.clone()));
        }
    }
    for (dotted, text) in chart.styles.into_iter().flat_map(|[solid, dotted]| [(false, solid), (true, dotted)]) {
        wanted.push((Sample::Style { dotted }, text.to_string()));
    }
    wanted.extend(chart.ring.iter().map(|text| (Sample::Ring, text.clone())));
    let (mut line, mut left) = (0, 8.0);
    let mut entries = Vec::new();
    for (sample, text) in wanted {
        let text = font::shortened(&text, LETTERS, WIDTH - 16.0 - SWATCH - 6.0);
        let width = SWATCH + 6.0 + font::width(&text, LETTERS) + 18.0;
        if left > 8.0 && left + width - 18.0 > WIDTH - 8.0 {
            (line, left) = (line + 1, 8.0);
        }
        entries.push(Entry { sample, text, line, left });
        left += width;
    }
    entries
}

impl Entry {
    fn draw(&self, scene: &mut Scene) {
        let baseline = 42.0 + LEGEND_LINE * self.line as f64;
        let (from, to, middle) = (self.left, self.left + SWATCH, baseline - 4.0);
        let points = vec![[from, middle], [to, middle]];
        let centre = [(from + to) / 2.0, middle];
        match self.sample {
            Sample::Line { run } => {
                let (ink, rings) = colour::of_line(run);
                scene.shapes.push(Shape::Line { points, ink, width: 2.0, dashed: false });
                if rings {
                    scene.shapes.push(Shape::Circle { centre, radius: 3.5, ink, ring: true });
                }
            }
            Sample::Ring => {
                scene.shapes.push(Shape::Circle { centre, radius: 5.0, ink: Ink::Muted, ring: true });
            }
            Sample::Style { dotted } => {
                scene.shapes.push(Shape::Line { points, ink: Ink::Muted, width: 2.0, dashed: dotted });
            }
        }
        scene.text([to + 6.0, baseline], &self.text, Anchor::Start, Ink::Text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, run: usize, values: &[f64]) -> Series {
        let points = values.iter().enumerate().map(|(i, &y)| [(i + 1) as f64, y]).collect();
        Series { name: name.to_string(), run, dotted: false, points }
    }

    fn chart(y_axis: YAxis, series: Vec<Series>) -> Lines<'static> {
        Lines { title: "t", y_label: "y", y_axis, series, marks: Vec::new(), ring: None, styles: None }
    }

    fn lines(scene: &Scene) -> Vec<&Vec<[f64; 2]>> {
        let coloured = |shape| match shape {
            &Shape::Line { ref points, ink: Ink::Colour(_), .. } => Some(points),
            _ => None,
        };
        scene.shapes.iter().filter_map(coloured).collect()
    }

    #[test]
    fn points_are_where_the_axes_say() {
        let scene = draw(&chart(YAxis::FromZero, vec![series("", 0, &[0.0, 1.0])])).unwrap();
        let points = lines(&scene)[0];
        // The second and last epoch at the right end, its value, the largest, at the top; 0 at the bottom.
        assert_eq!(points[1], [RIGHT, 34.0]);
        assert_eq!(points[0][1], 34.0 + PLOT_HEIGHT);
        let left = points[1][0] - 2.0 * (points[1][0] - points[0][0]);
        assert!(left > 34.0 && left < 100.0, "{left}");
    }

    #[test]
    fn nothing_is_drawn_of_nothing_and_zeros_are_not_on_a_logarithmic_axis() {
        assert!(draw(&chart(YAxis::Linear, vec![series("", 0, &[])])).is_none());
        assert!(draw(&chart(YAxis::Logarithmic, vec![series("", 0, &[0.0])])).is_none());
        let scene = draw(&chart(YAxis::Logarithmic, vec![series("", 0, &[1.0, 0.0, 0.1])])).unwrap();
        assert_eq!(lines(&scene)[0].len(), 2);
        // A single point is a dot.
        let scene = draw(&chart(YAxis::Linear, vec![series("", 0, &[1.0])])).unwrap();
        assert!(lines(&scene).is_empty());
        assert!(scene.shapes.iter().any(|shape| matches!(shape, Shape::Circle { ring: false, .. })));
    }

    #[test]
    fn long_legends_take_several_lines_and_stay_inside() {
        let names = ["resnet20-quick-1", "a name that is as long as names of folders may be", "b", "resnet56-paper-2"];
        let all = names.iter().enumerate().map(|(i, name)| series(name, i, &[1.0, 2.0])).collect();
        let chart = chart(YAxis::Linear, all);
        let entries = legend(&chart);
        assert_eq!(entries.len(), 4);
        assert!(entries.last().unwrap().line >= 1);
        for entry in &entries {
            assert!(entry.left + SWATCH + 6.0 + font::width(&entry.text, LETTERS) <= WIDTH - 8.0, "{}", entry.text);
        }
    }
}
