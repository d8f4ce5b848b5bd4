//! Max, average and global average pooling of a picture of 4x4 pixels, forward and backward.
//!
//! `cargo run --release --example book -- pooling_on_4x4` prints every array; with a path as its argument it also draws
//! the figure of docs/pooling.md.

use crate::figure::{self, Anchor, Figure};
use ndarray::{Array2, array};
use resnet_by_hand::Activation;
use resnet_by_hand::layers::{AvgPool2d, GlobalAvgPool, MaxPool2d};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let x = image(&array![[1.0, 3.0, 2.0, 0.0], [5.0, 4.0, 1.0, 6.0], [0.0, 2.0, 9.0, 8.0], [7.0, 1.0, 8.0, 3.0]]);
    let dy = image(&array![[4.0, 8.0], [12.0, 16.0]]);
    show("x", &x);
    show("dy", &dy);

    // Windows of 2x2 pixels that do not overlap.
    let max = MaxPool2d::new([2, 2], [2, 2], [0, 0]);
    let (max_y, cache) = max.forward(&x)?;
    let max_dx = max.backward(&dy, &cache)?;
    show("max pool: y", &max_y);
    show("max pool: dx", &max_dx);

    let average = AvgPool2d::new([2, 2], [2, 2], [0, 0]);
    let (average_y, cache) = average.forward(&x)?;
    let average_dx = average.backward(&dy, &cache)?;
    show("average pool: y", &average_y);
    show("average pool: dx", &average_dx);

    let (global_y, cache) = GlobalAvgPool.forward(&x)?;
    let global_dx = GlobalAvgPool.backward(&array![[32.0]], &cache)?;
    println!("\nglobal average pool: y = {}; for dy = 32 every dx is {}", global_y[[0, 0]], global_dx[[0, 0, 0, 0]]);

    // Windows of 3x3 pixels that overlap: all four have the same maximum.
    let overlapping = MaxPool2d::new([3, 3], [1, 1], [0, 0]);
    let (overlapping_y, cache) = overlapping.forward(&x)?;
    show("max pool of 3x3 with stride 1: y", &overlapping_y);
    show("max pool of 3x3 with stride 1: dx", &overlapping.backward(&dy, &cache)?);

    let mut figure = Figure::new(640.0, 352.0, "Max and average pooling of 4x4 pixels, forward and backward");
    let rows = [
        ("max pooling: the largest of each window; its pixel gets all of dy", &max_y, &max_dx),
        ("average pooling: the mean of each window; every pixel gets a quarter of dy", &average_y, &average_dx),
    ];
    for (row, (title, y, dx)) in rows.into_iter().enumerate() {
        let top = 24.0 + 170.0 * row as f64;
        figure.styled_text([20.0, top], Anchor::Start, "bold", 13.0, title);
        let arrays = [(20.0, "x", &x, 2.0), (206.0, "y", y, 1.0), (338.0, "dy", &dy, 1.0), (470.0, "dx", dx, 2.0)];
        for (left, name, values, size) in arrays {
            grid(&mut figure, [left, top + 26.0], name, values, size);
        }
        for (middle, sign) in [(173.0, "→"), (302.0, ""), (434.0, "→")] {
            figure.styled_text([middle, top + 26.0 + 2.0 * CELL + 6.0], Anchor::Middle, "bold", 18.0, sign);
        }
    }
    figure::save(figure)
}

fn image(values: &Array2<f64>) -> Activation<f64> {
    let (h, w) = values.dim();
    values.to_shape((1, h, w, 1)).expect("as many values").to_owned().into_shared()
}

fn rows(values: &Activation<f64>) -> Array2<f64> {
    let (_, h, w, _) = values.dim();
    values.to_shape((h, w)).expect("one image of one channel").to_owned()
}

fn show(name: &str, values: &Activation<f64>) {
    println!("\n{name}");
    for row in rows(values).rows() {
        println!("{}", row.iter().map(|value| format!("{value:>6}")).collect::<String>());
    }
}

const CELL: f64 = 30.0;

/// Values in squares, with a colour for each window of `size` x `size` squares.
fn grid(figure: &mut Figure, [left, middle]: [f64; 2], name: &str, values: &Activation<f64>, size: f64) {
    let values = rows(values);
    let top = middle + CELL * (4 - values.nrows()) as f64 / 2.0;
    figure.text([left, top - 6.0], Anchor::Start, name);
    for ((row, column), value) in values.indexed_iter() {
        let [x, y] = [left + CELL * column as f64, top + CELL * row as f64];
        figure.rect([x, y], [CELL, CELL], "grid", "paper", 0.0);
        let class = if *value == 0.0 { "muted" } else { "" };
        let text = value.to_string();
        let size = if text.len() > 3 { 10.5 } else { 13.0 };
        figure.styled_text([x + CELL / 2.0, y + CELL / 2.0 + 5.0], Anchor::Middle, class, size, &text);
    }
    for (window, class) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let corner = [left + CELL * size * (window % 2) as f64 + 1.5, top + CELL * size * (window / 2) as f64 + 1.5];
        figure.rect(corner, [CELL * size - 3.0; 2], class, &format!("f{class}"), 0.12);
    }
}
