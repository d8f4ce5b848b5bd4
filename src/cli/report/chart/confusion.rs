//! A confusion matrix.
//!
//! Correct and wrong have separate colour scales; with a common one, all mistakes of a good network would be white. A cell
//! of the diagonal is blue by the share of its class that is correct, any other cell is red by its size relative to the
//! largest mistake.

use super::colour::{BLUE, Ink, VERMILLION};
use super::{Anchor, LETTERS, Scene, Shape, WIDTH, font};
use ndarray::ArrayView2;

/// With more classes than this, names and numbers are left out.
pub const WITH_NUMBERS: usize = 20;

/// Draws the matrix of counts `[true class, predicted class]`.
pub fn draw(title: &str, classes: &[String], counts: ArrayView2<usize>) -> Scene {
    let n = classes.len();
    let with_numbers = n <= WITH_NUMBERS;
    let letters = if n <= 12 { LETTERS } else { 9.0 };
    let names = match with_numbers {
        true => classes.iter().map(|name| font::width(name, letters)).fold(0.0, f64::max).min(90.0),
        false => font::width("255", letters),
    };
    let (left, top) = (26.0 + names + 6.0, 34.0);
    let side = (WIDTH - 8.0 - left) / n as f64;
    let end = top + side * n as f64;
    let mut scene = Scene::new(title, end + 6.0 + names + 26.0);

    let wrong = |&((row, column), _): &((usize, usize), &usize)| row != column;
    let most_wrong = counts.indexed_iter().filter(wrong).map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let strength = |row: usize, column: usize| match row == column {
        true => counts[[row, column]] as f64 / counts.row(row).sum().max(1) as f64,
        false => (counts[[row, column]] as f64 / most_wrong as f64).sqrt(),
    };
    let ink = |row: usize, column: usize| if row == column { BLUE } else { VERMILLION };
    if with_numbers {
        for ((row, column), &count) in counts.indexed_iter().filter(|&(_, &count)| count > 0) {
            let (x, y) = (left + side * column as f64, top + side * row as f64);
            // Not at full strength, so that the number on it is readable.
            let strength = 0.85 * strength(row, column);
            let (from, to) = (&classes[row], &classes[column]);
            let share = 100.0 * count as f64 / counts.row(row).sum() as f64;
            let note = match row == column {
                true => format!("{from}: {count} correct ({share:.1} %)"),
                false => format!("{from} classified as {to}: {count} ({share:.1} %)"),
            };
            scene.rect([x, y], [side, side], ink(row, column), strength, Some(note));
            let text = count.to_string();
            let size = (0.9 * letters * side / font::width(&text, letters)).min(letters);
            // White is more readable on blue than on orange.
            let dark = if row == column { 0.65 } else { 0.75 };
            let ink = if strength > dark { Ink::White } else { Ink::Text };
            let baseline = y + side / 2.0 + 0.36 * size;
            scene.sized_text([x + side / 2.0, baseline], text, size, Anchor::Middle, ink);
        }
    } else {
        let pixels = ndarray::Array3::from_shape_fn((n, n, 3), |(row, column, c)| {
            let share = strength(row, column);
            (255.0 * (1.0 - share) + f64::from(ink(row, column).on_white()[c]) * share).round() as u8
        });
        scene.shapes.push(Shape::Pixels { corner: [left, top], size: [side * n as f64; 2], pixels, on_white: true });
    }
    for edge in [0.0, n as f64] {
        let at = side * edge;
        scene.line([left + at, top], [left + at, end], Ink::Muted, 1.0);
        scene.line([left, top + at], [WIDTH - 8.0, top + at], Ink::Muted, 1.0);
    }
    for (i, name) in classes.iter().enumerate() {
        let middle = side * (i as f64 + 0.5) + 0.36 * letters;
        if with_numbers {
            if i > 0 {
                scene.line([left + side * i as f64, top], [left + side * i as f64, end], Ink::Grid, 0.5);
                scene.line([left, top + side * i as f64], [WIDTH - 8.0, top + side * i as f64], Ink::Grid, 0.5);
            }
            let name = font::shortened(name, letters, names);
            scene.sized_text([left - 6.0, top + middle], name.clone(), letters, Anchor::End, Ink::Text);
            let (at, ink, anchor) = ([left + middle, end + 6.0], Ink::Text, Anchor::End);
            scene.shapes.push(Shape::Text { at, text: name, size: letters, anchor, ink, bold: false, upwards: true });
        } else if i % 10 == 0 {
            scene.sized_text([left - 6.0, top + middle], i.to_string(), letters, Anchor::End, Ink::Muted);
            let x = left + side * (i as f64 + 0.5);
            scene.sized_text([x, end + 14.0], i.to_string(), letters, Anchor::Middle, Ink::Muted);
        }
    }
    let (rows, columns) = match with_numbers {
        true => ("true class", "predicted class"),
        false => ("number of the true class", "number of the predicted class"),
    };
    scene.upwards([18.0, (top + end) / 2.0], rows);
    scene.text([(left + WIDTH - 8.0) / 2.0, end + 6.0 + names + 18.0], columns, Anchor::Middle, Ink::Text);
    scene
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn rows_are_true_classes_and_every_image_is_in_a_cell() {
        let classes = ["cat".to_string(), "dog".to_string()];
        let scene = draw("t", &classes, array![[7, 3], [0, 4]].view());
        let notes: Vec<&str> = scene
            .shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::Rect { note, .. } => note.as_deref(),
                _ => None,
            })
            .collect();
        assert_eq!(notes, ["cat: 7 correct (70.0 %)", "cat classified as dog: 3 (30.0 %)", "dog: 4 correct (100.0 %)"]);
        // The first row at the top, the second column to the right.
        let corner = |wanted: &str| {
            scene.shapes.iter().find_map(|shape| match shape {
                Shape::Rect { corner, note: Some(note), .. } if note.starts_with(wanted) => Some(*corner),
                _ => None,
            })
        };
        let (cat, wrong, dog) = (corner("cat: ").unwrap(), corner("cat classified").unwrap(), corner("dog").unwrap());
        assert!(cat[1] == wrong[1] && cat[0] < wrong[0] && dog[0] == wrong[0] && dog[1] > wrong[1]);
    }

    #[test]
    fn a_hundred_classes_are_a_picture() {
        let classes: Vec<String> = (0..100).map(|i| format!("class {i}")).collect();
        let mut counts = ndarray::Array2::zeros((100, 100));
        counts[[0, 0]] = 5;
        counts[[2, 1]] = 3;
        let scene = draw("t", &classes, counts.view());
        let pixels = scene.shapes.iter().find_map(|shape| match shape {
            Shape::Pixels { pixels, .. } => Some(pixels),
            _ => None,
        });
        let at = |row: usize, column: usize| [0, 1, 2].map(|c| pixels.unwrap()[[row, column, c]]);
        assert_eq!([at(0, 0), at(2, 1), at(1, 2)], [BLUE.on_white(), VERMILLION.on_white(), [255; 3]]);
    }
}
