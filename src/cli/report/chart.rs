//! Charts. Each is drawn once and written twice: as SVG and as PNG.
//!
//! - [`lines`], [`heat_map`], [`confusion`], [`bars`]: kinds of charts, each a function from numbers to a [`Scene`];
//! - [`axis`]: positions on an axis, and its labels;
//! - [`colour`]: colours that people with colour blindness can distinguish;
//! - [`svg`], [`raster`]: a scene as text and as pixels;
//! - [`font`]: the width of a text, and the outlines of its letters.
//!
//! A scene is a list of shapes. Its unit is a pixel at the original size of the chart.

pub mod axis;
pub mod bars;
pub mod colour;
pub mod confusion;
pub mod font;
pub mod heat_map;
pub mod lines;
pub mod raster;
pub mod svg;

use colour::Ink;
use ndarray::Array3;

/// The width of every chart: about that of a telephone, so that its letters are readable there, too.
pub const WIDTH: f64 = 420.0;

/// The usual size of letters.
pub const LETTERS: f64 = 12.0;

/// The size of a title's letters.
pub const TITLE: f64 = 14.0;

/// A drawing of [`WIDTH`] by `height`, the origin in the upper left corner.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Its title.
    pub title: String,
    /// Its height.
    pub height: f64,
    /// The shapes, each drawn over those before it.
    pub shapes: Vec<Shape>,
}

/// A part of a drawing.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Straight lines from point to point.
    Line { points: Vec<[f64; 2]>, ink: Ink, width: f64, dashed: bool },
    /// A filled rectangle; its `note` is shown as a tooltip.
    Rect { corner: [f64; 2], size: [f64; 2], ink: Ink, opacity: f64, note: Option<String> },
    /// A dot, or a ring of `ink` around nothing.
    Circle { centre: [f64; 2], radius: f64, ink: Ink, ring: bool },
    /// A line of text whose baseline goes through `at`.
    Text { at: [f64; 2], text: String, size: f64, anchor: Anchor, ink: Ink, bold: bool, upwards: bool },
    /// Pixels `(h, w, 3)`, each a rectangle of its own. Those `on_white` are shown on black on a dark page.
    Pixels { corner: [f64; 2], size: [f64; 2], pixels: Array3<u8>, on_white: bool },
}

/// Which part of a text is at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Scene {
    /// An empty drawing under its title.
    pub fn new(title: impl Into<String>, height: f64) -> Self {
        let title = title.into();
        let mut scene = Scene { title: title.clone(), height, shapes: Vec::new() };
        scene.shapes.push(Shape::Text {
            at: [8.0, 20.0],
            text: font::shortened(&title, TITLE, WIDTH - 16.0),
            size: TITLE,
            anchor: Anchor::Start,
            ink: Ink::Text,
            bold: true,
            upwards: false,
        });
        scene
    }

    /// Draws a line between two points.
    pub fn line(&mut self, from: [f64; 2], to: [f64; 2], ink: Ink, width: f64) {
        self.shapes.push(Shape::Line { points: vec![from, to], ink, width, dashed: false });
    }

    /// Writes a text.
    pub fn text(&mut self, at: [f64; 2], text: impl Into<String>, anchor: Anchor, ink: Ink) {
        self.sized_text(at, text, LETTERS, anchor, ink);
    }

    /// Writes a text in letters of another size.
    pub fn sized_text(&mut self, at: [f64; 2], text: impl Into<String>, size: f64, anchor: Anchor, ink: Ink) {
        let text = text.into();
        self.shapes.push(Shape::Text { at, text, size, anchor, ink, bold: false, upwards: false });
    }

    /// Writes a text that runs upwards, its middle at `at`.
    pub fn upwards(&mut self, at: [f64; 2], text: impl Into<String>) {
        let (text, size, ink) = (text.into(), LETTERS, Ink::Text);
        self.shapes.push(Shape::Text { at, text, size, anchor: Anchor::Middle, ink, bold: false, upwards: true });
    }

    /// Fills a rectangle.
    pub fn rect(&mut self, corner: [f64; 2], size: [f64; 2], ink: Ink, opacity: f64, note: Option<String>) {
        self.shapes.push(Shape::Rect { corner, size, ink, opacity, note });
    }
}
