//! Draws the figures of the book as SVG: shapes and axes, readable on light and on dark pages.
//!
//! Positions are in pixels from the upper left corner. A colour is a class of the style sheet below, which has two sets of
//! them; `a` to `d` can be distinguished by people with colour blindness (Okabe & Ito 2008). All numbers are written with two
//! decimals, so two processors that round the last digit of a sum differently draw the same file.

mod png;

use ndarray::ArrayView3;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;

const STYLE: &str = "\
text{fill:#222}.muted{fill:#666}.bold{font-weight:bold}.ink{stroke:#222}.grid{stroke:#ddd}.paper{fill:#fff}\
.a{stroke:#0072b2}.b{stroke:#d55e00}.c{stroke:#009e73}.d{stroke:#cc79a7}\
.fa{fill:#0072b2}.fb{fill:#d55e00}.fc{fill:#009e73}.fd{fill:#cc79a7}.fgrid{fill:#ddd}\
@media(prefers-color-scheme:dark){text{fill:#e6e6e6}.muted{fill:#a0a0a0}.ink{stroke:#e6e6e6}.grid{stroke:#444}.paper{fill:#1b1b1b}\
.a{stroke:#56b4e9}.b{stroke:#e69f00}.c{stroke:#2fd3a4}.d{stroke:#e6a0cb}\
.fa{fill:#56b4e9}.fb{fill:#e69f00}.fc{fill:#2fd3a4}.fd{fill:#e6a0cb}.fgrid{fill:#444}}";

/// A drawing.
pub struct Figure {
    size: [f64; 2],
    title: String,
    body: String,
}

/// The end of a text at its position.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Figure {
    /// An empty drawing. `title` says in one sentence what it shows: screen readers read it aloud.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        Figure { size: [width, height], title: escaped(title), body: String::new() }
    }

    /// A straight line; `class` is `ink`, `grid` or `a` to `d`.
    pub fn line(&mut self, from: [f64; 2], to: [f64; 2], class: &str) {
        self.lines(&[from, to], class, false);
    }

    /// A line through the points.
    pub fn lines(&mut self, points: &[[f64; 2]], class: &str, dashed: bool) {
        let points: Vec<String> = points.iter().map(|[x, y]| format!("{x:.2},{y:.2}")).collect();
        let dash = if dashed { " stroke-dasharray='4 4'" } else { "" };
        self.push(format_args!(
            "<polyline class='{class}' fill='none' stroke-width='1.6'{dash} points='{}'/>",
            points.join(" ")
        ));
    }

    /// A line with a head at `to`.
    pub fn arrow(&mut self, from: [f64; 2], to: [f64; 2], class: &str) {
        self.line(from, to, class);
        let angle = (to[1] - from[1]).atan2(to[0] - from[0]);
        let barb = |turn: f64| [to[0] - 7.0 * (angle + turn).cos(), to[1] - 7.0 * (angle + turn).sin()];
        self.lines(&[barb(0.45), to, barb(-0.45)], class, false);
    }

    /// A rectangle: its outline in `class`, its inside in `fill` (`fa` to `fd`, `fgrid`, `paper`) with that opacity.
    pub fn rect(&mut self, [x, y]: [f64; 2], [w, h]: [f64; 2], class: &str, fill: &str, opacity: f64) {
        self.push(format_args!(
            "<rect class='{class} {fill}' x='{x:.2}' y='{y:.2}' width='{w:.2}' height='{h:.2}' fill-opacity='{opacity:.2}'/>"
        ));
    }

    /// A rectangle in a colour of its own, for pixels of a photograph.
    pub fn pixel(&mut self, [x, y]: [f64; 2], size: f64, [r, g, b]: [u8; 3]) {
        self.push(format_args!(
            "<rect x='{x:.2}' y='{y:.2}' width='{size:.2}' height='{size:.2}' fill='#{r:02x}{g:02x}{b:02x}'/>"
        ));
    }

    /// Makes a photograph `(H, W, 3)` known to [`Figure::window`] as `#id`, one unit for each pixel. It is a PNG inside the
    /// figure; 32 levels of each colour are enough for the eye, and compress better than 256.
    pub fn photograph(&mut self, id: &str, pixels: ArrayView3<'_, u8>) {
        let (height, width, _) = pixels.dim();
        let url = png::url(pixels.mapv(|p| p & 0xF8 | p >> 5).view());
        self.push(format_args!(
            "<defs><image id='{id}' width='{width}' height='{height}' style='image-rendering:pixelated' href='{url}'/></defs>"
        ));
    }

    /// A square of side `size` that shows the places 0 to `units` of `content`, which is SVG.
    pub fn window(&mut self, [x, y]: [f64; 2], size: f64, units: usize, content: &str) {
        self.push(format_args!(
            "<svg x='{x}' y='{y}' width='{size}' height='{size}' viewBox='0 0 {units} {units}'>{content}</svg>"
        ));
    }

    /// A dot; `fill` is `fa` to `fd`.
    pub fn dot(&mut self, [x, y]: [f64; 2], radius: f64, fill: &str) {
        self.push(format_args!("<circle class='{fill}' cx='{x:.2}' cy='{y:.2}' r='{radius:.2}'/>"));
    }

    /// A line of text whose baseline goes through `at`.
    pub fn text(&mut self, at: [f64; 2], anchor: Anchor, text: &str) {
        self.styled_text(at, anchor, "", 13.0, text);
    }

    /// A line of text of class `muted`, `bold` or none, in letters of that size.
    pub fn styled_text(&mut self, [x, y]: [f64; 2], anchor: Anchor, class: &str, size: f64, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.push(format_args!(
            "<text class='{class}' x='{x:.2}' y='{y:.2}' font-size='{size}' text-anchor='{anchor}'>{}</text>",
            escaped(text)
        ));
    }

    /// The file.
    pub fn finish(self) -> String {
        let ([w, h], title) = (self.size, self.title);
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {w} {h}' width='{w}' height='{h}' role='img' \
             font-family='sans-serif'>\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class='paper' width='{w}' height='{h}'/>\n{}</svg>\n",
            self.body
        )
    }

    fn push(&mut self, shape: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{shape}").expect("a string has room");
    }
}

/// A rectangle of a figure in which values are drawn.
pub struct Axes {
    /// Its corner and size in the figure.
    pub corner: [f64; 2],
    pub size: [f64; 2],
    pub x: Scale,
    pub y: Scale,
}

/// The values along an axis.
#[derive(Clone, Copy)]
pub enum Scale {
    /// From the first value to the last.
    Linear(f64, f64),
    /// The same, both positive; equal ratios are equally far apart.
    Log(f64, f64),
}

impl Scale {
    /// 0 at the first value, 1 at the last.
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear(first, last) => (value - first) / (last - first),
            Scale::Log(first, last) => (value / first).ln() / (last / first).ln(),
        }
    }
}

impl Axes {
    /// The position of a point.
    pub fn at(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [left, top] = self.corner;
        [left + self.size[0] * self.x.place(x), top + self.size[1] * (1.0 - self.y.place(y))]
    }

    /// Draws the frame, a grid line and a label for each tick `(value, label)`, and the names of the axes.
    pub fn draw(&self, figure: &mut Figure, x_ticks: &[(f64, &str)], y_ticks: &[(f64, &str)], names: [&str; 2]) {
        let ([left, top], [w, h]) = (self.corner, self.size);
        for (value, label) in x_ticks {
            let x = left + w * self.x.place(*value);
            figure.line([x, top], [x, top + h], "grid");
            figure.styled_text([x, top + h + 16.0], Anchor::Middle, "muted", 11.0, label);
        }
        for (value, label) in y_ticks {
            let y = top + h * (1.0 - self.y.place(*value));
            figure.line([left, y], [left + w, y], "grid");
            figure.styled_text([left - 6.0, y + 4.0], Anchor::End, "muted", 11.0, label);
        }
        figure.lines(&[[left, top], [left, top + h], [left + w, top + h]], "ink", false);
        figure.styled_text([left + w / 2.0, top + h + 34.0], Anchor::Middle, "", 12.0, names[0]);
        figure.styled_text([left, top - 8.0], Anchor::Start, "", 12.0, names[1]);
    }

    /// Draws a line through values.
    pub fn plot(&self, figure: &mut Figure, values: &[[f64; 2]], class: &str, dashed: bool) {
        let points: Vec<[f64; 2]> = values.iter().map(|value| self.at(*value)).collect();
        figure.lines(&points, class, dashed);
    }
}

/// Whether these arguments are the path of a figure, or none.
pub fn is_path(arguments: &[String]) -> bool {
    matches!(arguments, []) || matches!(arguments, [path] if path.ends_with(".svg"))
}

/// Writes the figure to the path given on the command line, if one is given.
///
/// # Errors
/// If the file cannot be written.
pub fn save(figure: Figure) -> Result<(), Box<dyn Error>> {
    match crate::arguments().first() {
        Some(path) => {
            Ok(fs::write(path, figure.finish()).map_err(|error| resnet_by_hand::Error::io(path, "write", error))?)
        }
        None => Ok(()),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
