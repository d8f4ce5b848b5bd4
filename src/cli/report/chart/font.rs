//! The width of a text, and the outlines of its letters.
//!
//! The font is embedded in the program ([`font/README.md`](../font/README.md)), so that a picture is the same on every
//! machine. An SVG is shown in a font of the viewer; most fonts are narrower than this one.

use std::sync::LazyLock;
use ttf_parser::{Face, GlyphId};

static FACE: LazyLock<Face> = LazyLock::new(|| {
    let bytes = include_bytes!("../font/DejaVuSans-subset.ttf");
    Face::parse(bytes, 0).expect("the embedded font is valid")
});

/// The glyph of every letter and where it begins, in letters of `size`, and the total width. A letter that the font lacks
/// is a box.
pub fn glyphs(text: &str, size: f64) -> (Vec<(GlyphId, f64)>, f64) {
    let mut end = 0.0;
    let mut glyphs = Vec::new();
    for letter in text.chars() {
        let glyph = FACE.glyph_index(letter).unwrap_or(GlyphId(0));
        glyphs.push((glyph, end));
        end += f64::from(FACE.glyph_hor_advance(glyph).unwrap_or(0)) * unit(size);
    }
    (glyphs, end)
}

/// The width of a text in letters of `size`.
pub fn width(text: &str, size: f64) -> f64 {
    glyphs(text, size).1
}

/// The text, or as much of its beginning as fits into the width `most`, with `…`.
pub fn shortened(text: &str, size: f64, most: f64) -> String {
    if width(text, size) <= most {
        return text.to_string();
    }
    let mut letters: Vec<char> = text.chars().collect();
    loop {
        letters.pop();
        let short: String = letters.iter().chain(['…'].iter()).collect();
        if letters.is_empty() || width(&short, size) <= most {
            return short;
        }
    }
}

/// Draws the outline of a glyph with `pen`, in units of the font.
pub fn outline(glyph: GlyphId, pen: &mut dyn ttf_parser::OutlineBuilder) {
    // A space has no outline.
    let _ = FACE.outline_glyph(glyph, pen);
}

/// The size of a unit of the font in letters of `size`.
pub fn unit(size: f64) -> f64 {
    size / f64::from(FACE.units_per_em())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_add_up_and_long_texts_are_cut() {
        assert_eq!(width("", 12.0), 0.0);
        let (m, i) = (width("m", 12.0), width("i", 12.0));
        assert!(m > 2.0 * i && i > 0.0);
        assert!((width("mi", 12.0) - m - i).abs() < 1e-12 && (width("m", 24.0) - 2.0 * m).abs() < 1e-12);
        assert_eq!(shortened("airplane", 12.0, 100.0), "airplane");
        let short = shortened("airplane", 12.0, 40.0);
        assert!(short.ends_with('…') && short.starts_with("air") && width(&short, 12.0) <= 40.0, "{short}");
        assert_eq!(shortened("airplane", 12.0, 0.0), "…");
    }

    #[test]
    fn every_letter_the_charts_use_is_there_and_others_are_a_box() {
        let used = "0123456789.,%−–·‖Δ…→⁰¹²³⁴⁵⁶⁷⁸⁹⁻()/: abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZäéšßЖ";
        for letter in used.chars() {
            assert_ne!(glyphs(&letter.to_string(), 1.0).0[0].0, GlyphId(0), "{letter}");
        }
        assert_eq!(glyphs("猫", 1.0).0[0].0, GlyphId(0));
        assert!(width("猫", 12.0) > 0.0);
    }
}
