//! Shares as bars, with their values.

use super::colour::{BLUE, Ink};
use super::{Anchor, LETTERS, Scene, WIDTH, font};

/// A bar.
pub struct Bar {
    pub name: String,
    /// Of `whole`.
    pub part: usize,
    pub whole: usize,
}

const ROW: f64 = 22.0;

/// Draws a bar for every share in percent, with its standard error, and a line at the share of all together.
///
/// The standard error of a share p of n is √(p (1 − p) / n).
pub fn draw(title: &str, label: &str, bars: &[Bar]) -> Scene {
    let number = |bar: &Bar| match bar.whole {
        0 => "none".to_string(),
        whole => format!("{:.1} % ({} of {whole})", percent(bar.part, whole), bar.part),
    };
    let names = bars.iter().map(|bar| font::width(&bar.name, LETTERS)).fold(0.0, f64::max).min(130.0);
    let numbers = bars.iter().map(|bar| font::width(&number(bar), LETTERS)).fold(0.0, f64::max);
    let (left, right, top) = (8.0 + names + 8.0, WIDTH - 8.0 - numbers - 8.0, 34.0);
    let x = |percent: f64| left + percent / 100.0 * (right - left);
    let bottom = top + ROW * bars.len() as f64;
    let mut scene = Scene::new(title, bottom + 44.0);
    for tick in [0.0, 20.0, 40.0, 60.0, 80.0, 100.0] {
        scene.line([x(tick), top], [x(tick), bottom], Ink::Grid, 1.0);
        scene.text([x(tick), bottom + 17.0], format!("{tick}"), Anchor::Middle, Ink::Muted);
    }
    for (row, bar) in bars.iter().enumerate() {
        let y = top + ROW * row as f64;
        let baseline = y + ROW / 2.0 + 4.0;
        scene.text([left - 8.0, baseline], font::shortened(&bar.name, LETTERS, names), Anchor::End, Ink::Text);
        scene.text([right + 8.0, baseline], number(bar), Anchor::Start, Ink::Text);
        if bar.whole > 0 {
            let share = percent(bar.part, bar.whole);
            scene.rect([left, y + 4.0], [x(share) - left, ROW - 8.0], BLUE, 0.75, None);
            let error = (share * (100.0 - share) / bar.whole as f64).sqrt();
            let (from, to) = (x((share - error).max(0.0)), x((share + error).min(100.0)));
            scene.line([from, y + ROW / 2.0], [to, y + ROW / 2.0], Ink::Text, 1.2);
        }
    }
    let (part, whole) = bars.iter().fold((0, 0), |(part, whole), bar| (part + bar.part, whole + bar.whole));
    if whole > 0 {
        let all = x(percent(part, whole));
        scene.line([all, top - 4.0], [all, bottom + 4.0], Ink::Text, 1.0);
    }
    scene.line([left, top], [left, bottom], Ink::Muted, 1.0);
    scene.text([(left + right) / 2.0, bottom + 35.0], label, Anchor::Middle, Ink::Text);
    scene
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::chart::Shape;

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let bar = |name: &str, part, whole| Bar { name: name.to_string(), part, whole };
        let scene = draw("t", "l", &[bar("a", 5, 10), bar("b", 10, 10), bar("c", 0, 0)]);
        let width = |shape: &Shape| match shape {
            Shape::Rect { size, .. } => Some(size[0]),
            _ => None,
        };
        let widths: Vec<f64> = scene.shapes.iter().filter_map(width).collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] - 2.0 * widths[0]).abs() < 1e-9);
        let says = |wanted: &str| scene.shapes.iter().any(|s| matches!(s, Shape::Text { text, .. } if text == wanted));
        assert!(says("50.0 % (5 of 10)") && says("100.0 % (10 of 10)") && says("none"));
    }
}
