//! One 3x3 filter on a picture of 5x5 pixels, forward and backward: three readings of one list of terms.
//!
//! `cargo run --release --example book -- convolution_on_5x5` prints every array; with a path as its argument it also
//! draws the figure of docs/conv2d.md. All values are whole numbers, so the results must equal those of `Conv2d`
//! exactly.

use crate::figure::{self, Anchor, Figure};
use ndarray::{Array2, array};
use resnet_by_hand::layers::Conv2d;

/// A place of an array: row, column.
type Place = [usize; 2];

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A dark left side and a bright right side.
    let x = array![[1, 2, 1, 8, 9], [2, 1, 2, 9, 8], [1, 2, 8, 9, 9], [2, 1, 9, 8, 9], [1, 8, 9, 9, 8]];
    // Right minus left, the middle row twice.
    let weight = array![[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]];
    // The gradient of some loss with respect to y. The digits 1 and 10 will show where each term goes.
    let dy = array![[1, 0, 0], [0, 10, 0], [0, 0, 0]];

    // The list: one term (place in y, place in weight, place in x) for every product of the forward pass.
    let mut terms: Vec<(Place, Place, Place)> = Vec::new();
    for ho in 0..3 {
        for wo in 0..3 {
            for p in 0..3 {
                for q in 0..3 {
                    terms.push(([ho, wo], [p, q], [ho + p, wo + q]));
                }
            }
        }
    }

    // Three readings of the list.
    let (mut y, mut dx, mut dweight) = (Array2::zeros((3, 3)), Array2::zeros((5, 5)), Array2::zeros((3, 3)));
    for &(at_y, at_weight, at_x) in &terms {
        y[at_y] += weight[at_weight] * x[at_x];
        dx[at_x] += weight[at_weight] * dy[at_y];
        dweight[at_weight] += x[at_x] * dy[at_y];
    }

    println!("{} terms; those of y[0,0] are", terms.len());
    for &(at_y, at_weight, at_x) in terms.iter().filter(|(at_y, ..)| *at_y == [0, 0]) {
        let ([ho, wo], [p, q], [h, w]) = (at_y, at_weight, at_x);
        let (left, right) = (weight[at_weight], x[at_x]);
        println!("y[{ho},{wo}] += weight[{p},{q}] · x[{h},{w}]     {left:>2} · {right} = {:>2}", left * right);
    }
    for (name, values) in [("x", &x), ("weight", &weight), ("y", &y), ("dy", &dy), ("dx", &dx), ("dweight", &dweight)] {
        println!("\n{name}");
        for row in values.rows() {
            println!("{}", row.iter().map(|value| format!("{value:>4}")).collect::<String>());
        }
    }

    // The same with the layer of the library.
    let image = |values: &Array2<i32>| {
        let (h, w) = values.dim();
        values.mapv(f64::from).into_shape_clone((1, h, w, 1)).map(|values| values.into_shared())
    };
    let conv = Conv2d::new(weight.mapv(f64::from).into_shape_clone((1, 1, 3, 3))?);
    let (layer_y, cache) = conv.forward(&image(&x)?)?;
    let (layer_dx, grads) = conv.backward(&image(&dy)?, &cache)?;
    assert_eq!((layer_y, layer_dx), (image(&y)?, image(&dx)?));
    assert!(grads.weight.iter().eq(dweight.mapv(f64::from).iter()));
    println!("\nConv2d computes the same y, dx and dweight");

    figure::save(draw(&x, &weight, &y, &dy, &dx, &dweight))
}

const CELL: f64 = 30.0;

/// One row of arrays for each reading; the two windows whose dy is not 0 have a colour each.
fn draw(
    x: &Array2<i32>,
    weight: &Array2<i32>,
    y: &Array2<i32>,
    dy: &Array2<i32>,
    dx: &Array2<i32>,
    dweight: &Array2<i32>,
) -> Figure {
    let mut figure =
        Figure::new(500.0, 650.0, "A convolution of a 5x5 picture: forward, gradient of x, gradient of weight");
    let both = [([0, 0], "a"), ([1, 1], "b")];
    let readings = [
        ("forward: window · weight, summed, is one y", [("x", x, 3), ("weight", weight, 0), ("y", y, 1)], "·"),
        (
            "backward: each dy adds weight · dy to its window of dx",
            [("dy", dy, 1), ("weight", weight, 0), ("dx", dx, 3)],
            "·",
        ),
        ("backward: each dy adds window · dy to dweight", [("x", x, 3), ("dy", dy, 1), ("dweight", dweight, 0)], "·"),
    ];
    for (row, (title, arrays, sign)) in readings.into_iter().enumerate() {
        let top = 24.0 + 214.0 * row as f64;
        figure.styled_text([20.0, top], Anchor::Start, "bold", 13.0, title);
        let mut left = 20.0;
        for (place, (name, values, size)) in arrays.into_iter().enumerate() {
            let (h, w) = values.dim();
            let y_top = top + 32.0 + CELL * (5 - h) as f64 / 2.0;
            grid(&mut figure, [left, y_top], values);
            figure.text([left, y_top - 6.0], Anchor::Start, name);
            // A window is 3x3 pixels of x, and one value of y.
            for (i, ([ho, wo], class)) in both.into_iter().enumerate().filter(|_| size > 0) {
                let inset = 2.0 + 2.0 * i as f64;
                let corner = [left + CELL * wo as f64 + inset, y_top + CELL * ho as f64 + inset];
                let side = CELL * f64::from(size) - 2.0 * inset;
                figure.rect(corner, [side, side], class, &format!("f{class}"), 0.12);
            }
            left += CELL * w as f64;
            if place < 2 {
                let middle = [left + 28.0, top + 32.0 + 2.5 * CELL + 5.0];
                figure.styled_text(middle, Anchor::Middle, "bold", 18.0, if place == 0 { sign } else { "→" });
            }
            left += 56.0;
        }
    }
    figure
}

fn grid(figure: &mut Figure, [left, top]: [f64; 2], values: &Array2<i32>) {
    for ((row, column), value) in values.indexed_iter() {
        let [x, y] = [left + CELL * column as f64, top + CELL * row as f64];
        figure.rect([x, y], [CELL, CELL], "grid", "paper", 0.0);
        let class = if *value == 0 { "muted" } else { "" };
        figure.styled_text([x + CELL / 2.0, y + CELL / 2.0 + 5.0], Anchor::Middle, class, 13.0, &value.to_string());
    }
}
