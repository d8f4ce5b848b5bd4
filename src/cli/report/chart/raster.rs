//! A scene as pixels, on white.

use super::{Anchor, Scene, Shape, WIDTH, colour::Ink, font};
use ndarray::Array3;
use tiny_skia::{
    Color, FillRule, FilterQuality, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, PixmapPaint, Rect, Stroke,
    StrokeDash, Transform,
};

/// Pixels for a unit of the scene.
const SCALE: f32 = 2.0;

/// The scene as a picture `(h, w, 3)`.
pub fn draw(scene: &Scene) -> Array3<u8> {
    let side = |length: f64| (length * f64::from(SCALE)).ceil() as u32;
    let mut canvas = Pixmap::new(side(WIDTH), side(scene.height)).expect("a chart has a size");
    canvas.fill(Color::WHITE);
    scene.shapes.iter().for_each(|shape| draw_shape(shape, &mut canvas));
    // Nothing is transparent, so the premultiplied colours are the colours themselves.
    let bytes = canvas.data().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    Array3::from_shape_vec((canvas.height() as usize, canvas.width() as usize, 3), bytes).expect("three bytes a pixel")
}

fn draw_shape(shape: &Shape, canvas: &mut Pixmap) {
    let scale = Transform::from_scale(SCALE, SCALE);
    match shape {
        Shape::Line { points, ink, width, dashed } => {
            let mut path = PathBuilder::new();
            for (i, &[x, y]) in points.iter().enumerate() {
                match i {
                    0 => path.move_to(x as f32, y as f32),
                    _ => path.line_to(x as f32, y as f32),
                }
            }
            let dash = if *dashed { StrokeDash::new(vec![1.0, 4.0], 0.0) } else { None };
            stroke(path.finish(), *ink, *width, dash, canvas);
        }
        Shape::Rect { corner: [x, y], size: [width, height], ink, opacity, .. } => {
            if let Some(rect) = Rect::from_xywh(*x as f32, *y as f32, *width as f32, *height as f32) {
                canvas.fill_rect(rect, &paint(*ink, *opacity), scale, None);
            }
        }
        Shape::Circle { centre: [x, y], radius, ink, ring } => {
            let circle = PathBuilder::from_circle(*x as f32, *y as f32, *radius as f32);
            match ring {
                true => stroke(circle, *ink, 1.5, None, canvas),
                false => fill(circle, *ink, scale, canvas),
            }
        }
        Shape::Text { at: [x, y], text, size, anchor, ink, bold, upwards } => {
            let (glyphs, width) = font::glyphs(text, *size);
            let before = match anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => width / 2.0,
                Anchor::End => width,
            };
            let turn = if *upwards { Transform::from_rotate(-90.0) } else { Transform::identity() };
            let place = turn.post_translate(*x as f32, *y as f32).post_concat(scale);
            let path = outlines(&glyphs, before, *size);
            if *bold {
                // The font has no bold letters: a line around each letter makes it bold.
                let line = Stroke { width: 0.04 * *size as f32, ..Stroke::default() };
                path.iter().for_each(|path| canvas.stroke_path(path, &paint(*ink, 1.0), &line, place, None));
            }
            fill(path, *ink, place, canvas);
        }
        Shape::Pixels { corner: [x, y], size: [width, height], pixels, .. } => {
            let (rows, columns, _) = pixels.dim();
            let Some(mut picture) = Pixmap::new(columns as u32, rows as u32) else { return };
            for (to, from) in picture.data_mut().chunks_exact_mut(4).zip(pixels.rows()) {
                to.copy_from_slice(&[from[0], from[1], from[2], 255]);
            }
            let (wide, high) = ((*width / columns as f64) as f32, (*height / rows as f64) as f32);
            let place = Transform::from_scale(wide, high).post_translate(*x as f32, *y as f32).post_concat(scale);
            let crisp = PixmapPaint { quality: FilterQuality::Nearest, ..PixmapPaint::default() };
            canvas.draw_pixmap(0, 0, picture.as_ref(), &crisp, place, None);
        }
    }
}

fn paint(ink: Ink, opacity: f64) -> Paint<'static> {
    let [red, green, blue] = ink.on_white();
    let mut paint = Paint::default();
    paint.set_color_rgba8(red, green, blue, (255.0 * opacity).round() as u8);
    paint
}

fn fill(path: Option<Path>, ink: Ink, place: Transform, canvas: &mut Pixmap) {
    if let Some(path) = path {
        canvas.fill_path(&path, &paint(ink, 1.0), FillRule::Winding, place, None);
    }
}

fn stroke(path: Option<Path>, ink: Ink, width: f64, dash: Option<StrokeDash>, canvas: &mut Pixmap) {
    if let Some(path) = path {
        let (line_cap, line_join) = (LineCap::Round, LineJoin::Round);
        let line = Stroke { width: width as f32, line_cap, line_join, dash, ..Stroke::default() };
        canvas.stroke_path(&path, &paint(ink, 1.0), &line, Transform::from_scale(SCALE, SCALE), None);
    }
}

/// The outlines of all letters: the width `before` is left of the origin, and the baseline goes through the origin.
fn outlines(glyphs: &[(ttf_parser::GlyphId, f64)], before: f64, size: f64) -> Option<Path> {
    let mut path = PathBuilder::new();
    for &(glyph, start) in glyphs {
        let pen = Pen { path: &mut path, left: (start - before) as f32, unit: font::unit(size) as f32 };
        font::outline(glyph, &mut { pen });
    }
    path.finish()
}

/// Draws a glyph: from units of the font, upwards, to those of the scene, downwards.
struct Pen<'a> {
    path: &'a mut PathBuilder,
    left: f32,
    unit: f32,
}

impl Pen<'_> {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (self.left + self.unit * x, -self.unit * y)
    }
}

impl ttf_parser::OutlineBuilder for Pen<'_> {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::chart::colour::{BLUE, VERMILLION};

    #[test]
    fn shapes_are_where_they_are_said_to_be() {
        let mut scene = Scene { title: String::new(), height: 50.0, shapes: Vec::new() };
        scene.rect([10.0, 20.0], [30.0, 5.0], BLUE, 1.0, None);
        scene.line([100.0, 10.0], [200.0, 10.0], VERMILLION, 4.0);
        let pixels = ndarray::array![[[1, 2, 3], [4, 5, 6]]];
        scene.shapes.push(Shape::Pixels { corner: [300.0, 0.0], size: [40.0, 20.0], pixels, on_white: false });
        let picture = draw(&scene);
        assert_eq!(picture.dim(), (100, 840, 3));
        let at = |x: usize, y: usize| [0, 1, 2].map(|c| picture[[y, x, c]]);
        let (white, blue, vermillion) = ([255; 3], BLUE.on_white(), VERMILLION.on_white());
        assert_eq!([at(20, 40), at(79, 49), at(19, 40), at(80, 40), at(20, 50)], [blue, blue, white, white, white]);
        assert_eq!([at(300, 16), at(300, 23), at(300, 15), at(300, 24)], [vermillion, vermillion, white, white]);
        // Two pixels become two rectangles, not a gradient.
        assert_eq!([at(600, 0), at(639, 39), at(640, 0), at(679, 39)], [[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]]);
    }

    #[test]
    fn texts_are_where_their_anchor_says() {
        let dark = |anchor, upwards| {
            let mut scene = Scene { title: String::new(), height: 100.0, shapes: Vec::new() };
            let (text, ink) = ("HHHH".to_string(), Ink::Text);
            scene.shapes.push(Shape::Text { at: [200.0, 50.0], text, size: 12.0, anchor, ink, bold: false, upwards });
            let picture = draw(&scene);
            let marked = picture.indexed_iter().filter(|&((_, _, c), &value)| c == 0 && value < 128);
            let (mut x, mut y) = ((840, 0), (200, 0));
            for ((row, column, _), _) in marked {
                x = (x.0.min(column), x.1.max(column));
                y = (y.0.min(row), y.1.max(row));
            }
            (x, y)
        };
        let ((left, right), (top, bottom)) = dark(Anchor::Start, false);
        // From the anchor to the right, and above the baseline, by about the height of a capital letter: 0.73 of the
        // size.
        assert!((400..404).contains(&left) && right > 440 && bottom == 99, "{left} {right} {bottom}");
        assert!((81..85).contains(&top), "{top}");
        assert!((395..400).contains(&dark(Anchor::End, false).0.1));
        let ((left, right), _) = dark(Anchor::Middle, false);
        assert!((left + right).abs_diff(799) <= 2, "{left} {right}");
        // Upwards: higher than wide, left of the anchor.
        let ((left, right), (top, bottom)) = dark(Anchor::Start, true);
        assert!(
            right == 399 && bottom - top > right - left && (95..100).contains(&bottom),
            "{left} {right} {top} {bottom}"
        );
    }
}
