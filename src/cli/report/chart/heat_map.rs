//! A number for every layer and epoch as a colour.
//!
//! Twenty lines in a chart can be distinguished with some patience, fifty-six cannot. Here each layer has its own row, the
//! first at the top, for any number of layers.

use super::axis::Axis;
use super::colour::{Ink, viridis};
use super::{Anchor, LETTERS, Scene, Shape, WIDTH, font};
use ndarray::Array3;

/// What a heat map shows.
pub struct HeatMap<'a> {
    pub title: &'a str,
    /// The label of the colour scale.
    pub colour_label: &'a str,
    /// The names of the rows.
    pub rows: &'a [String],
    /// `values[epoch][row]`; a value that is not above 0 is grey.
    pub values: &'a [Vec<Option<f64>>],
    /// The smallest and the largest value of the colour scale.
    pub range: [f64; 2],
}

/// The colour of a missing value.
const NONE: [u8; 3] = [0xb4, 0xb8, 0xbc];

/// Draws the chart, its colours on a logarithmic scale.
pub fn draw(map: &HeatMap) -> Scene {
    let (rows, epochs) = (map.rows.len(), map.values.len());
    let row_height = (420.0 / rows as f64).clamp(5.0, 15.0);
    let letters = row_height.clamp(8.0, 10.5);
    let [low, high] = map.range;
    let colours = Axis::logarithmic(low, high, 8);

    let left = 8.0 + map.rows.iter().map(|name| font::width(name, letters)).fold(0.0, f64::max).min(150.0) + 6.0;
    let labels = colours.ticks.iter().map(|(_, label)| font::width(label, LETTERS)).fold(0.0, f64::max);
    let bar = WIDTH - 26.0 - labels - 6.0 - 14.0;
    let (top, right) = (34.0, bar - 16.0);
    let height = row_height * rows as f64;
    let mut scene = Scene::new(map.title, top + height.max(120.0) + 44.0);

    let share = |value: f64| colours.place(value);
    let pixels = Array3::from_shape_fn((rows, epochs, 3), |(row, epoch, c)| match map.values[epoch][row] {
        Some(value) if colours.has(value) => viridis(share(value))[c],
        _ => NONE[c],
    });
    scene.shapes.push(Shape::Pixels { corner: [left, top], size: [right - left, height], pixels, on_white: false });

    // As many names as there is room for, including that of the last layer.
    let every = (letters * 1.1 / row_height).ceil().max(1.0) as usize;
    let has_room = |row: usize| row + 1 == rows || (row.is_multiple_of(every) && row + every < rows);
    for (row, name) in map.rows.iter().enumerate().filter(|(row, _)| has_room(*row)) {
        let baseline = top + row_height * (row as f64 + 0.5) + 0.36 * letters;
        let name = font::shortened(name, letters, left - 14.0);
        scene.sized_text([left - 6.0, baseline], name, letters, Anchor::End, Ink::Muted);
    }
    let x_axis = Axis::counting(epochs, 6);
    for (value, label) in &x_axis.ticks {
        let x = left + x_axis.place(*value) * (right - left);
        scene.line([x, top + height], [x, top + height + 4.0], Ink::Muted, 1.0);
        scene.text([x, top + height + 17.0], label, Anchor::Middle, Ink::Muted);
    }
    scene.text([(left + right) / 2.0, top + height + 35.0], "epochs done", Anchor::Middle, Ink::Text);

    const STEPS: usize = 128;
    let bar_height = height.max(120.0);
    let scale = Array3::from_shape_fn((STEPS, 1, 3), |(i, _, c)| viridis(1.0 - (i as f64 + 0.5) / STEPS as f64)[c]);
    scene.shapes.push(Shape::Pixels { corner: [bar, top], size: [14.0, bar_height], pixels: scale, on_white: false });
    for (value, label) in &colours.ticks {
        let y = top + (1.0 - share(*value)) * bar_height;
        scene.line([bar + 14.0, y], [bar + 18.0, y], Ink::Muted, 1.0);
        scene.text([bar + 20.0, y + 4.0], label, Anchor::Start, Ink::Muted);
    }
    scene.upwards([WIDTH - 8.0, top + bar_height / 2.0], map.colour_label);
    scene
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_layers_and_columns_epochs() {
        let rows = ["conv1".to_string(), "fc".to_string()];
        let values = vec![vec![Some(0.1), Some(10.0)], vec![None, Some(1.0)], vec![Some(0.0), Some(0.1)]];
        let map = HeatMap { title: "t", colour_label: "c", rows: &rows, values: &values, range: [0.1, 10.0] };
        let scene = draw(&map);
        let pixels: Vec<_> = scene
            .shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::Pixels { pixels, .. } => Some(pixels),
                _ => None,
            })
            .collect();
        let at = |row: usize, epoch: usize| [0, 1, 2].map(|c| pixels[0][[row, epoch, c]]);
        assert_eq!(pixels[0].dim(), (2, 3, 3));
        assert_eq!([at(0, 0), at(0, 1), at(0, 2)], [viridis(0.0), NONE, NONE]);
        assert_eq!([at(1, 0), at(1, 1), at(1, 2)], [viridis(1.0), viridis(0.5), viridis(0.0)]);
        // The scale beside it is bright at the top.
        assert!(pixels[1][[0, 0, 0]] > 240 && pixels[1][[127, 0, 0]] < 80);
    }

    #[test]
    fn a_hundred_layers_stay_on_a_page() {
        let rows: Vec<String> = (0..110).map(|i| format!("layer{i}.0.conv1")).collect();
        let values = vec![vec![Some(1.0); 110]];
        let map = HeatMap { title: "t", colour_label: "c", rows: &rows, values: &values, range: [1.0, 1.0] };
        let scene = draw(&map);
        assert!(scene.height < 700.0, "{}", scene.height);
        let small = |shape: &&Shape| matches!(shape, Shape::Text { size, .. } if *size < LETTERS);
        // Every second name: five units a row are too few for letters of eight.
        assert_eq!(scene.shapes.iter().filter(small).count(), 55);
        let says =
            |wanted: &str| scene.shapes.iter().any(|shape| matches!(shape, Shape::Text { text, .. } if text == wanted));
        assert!(says("layer0.0.conv1") && says("layer109.0.conv1") && !says("layer108.0.conv1"));
    }
}
