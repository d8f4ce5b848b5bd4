//! The linear layer on two inputs of three numbers, forward and backward, and the shapes that force its formulas.
//!
//! `cargo run --release --example book -- linear [FIGURE.svg]`; the page is docs/linear.md.

use crate::figure::{self, Anchor, Figure};
use ndarray::{Array2, array};
use resnet_by_hand::layers::Linear;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let linear = Linear { weight: array![[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]], bias: array![0.5, 0.0, 0.0] };
    let x = array![[1.0, 1.0], [2.0, -1.0]];
    let dy = array![[1.0, 0.0, 2.0], [0.0, 3.0, -1.0]];

    let (y, cache) = linear.forward(&x)?;
    let (dx, grads) = linear.backward(&dy, &cache)?;
    println!("y       = {:?}", lists(&y));
    println!("dx      = {:?}", lists(&dx));
    println!("dweight = {:?}", lists(&grads.weight));
    println!("dbias   = {:?}", grads.bias.to_vec());

    // The loss is Σ dy ⊙ y. It is linear in every weight, so a difference with the step 1 has no error.
    let loss = |linear: &Linear<f64>| linear.forward(&x).map(|(y, _)| (&dy * &y).sum());
    let mut differences = Array2::zeros(linear.weight.dim());
    for (place, difference) in differences.indexed_iter_mut() {
        let (mut more, mut less) = (linear.clone(), linear.clone());
        more.weight[place] += 1.0;
        less.weight[place] -= 1.0;
        *difference = (loss(&more)? - loss(&less)?) / 2.0;
    }
    println!("dweight by finite differences = {:?}", lists(&differences));
    figure::save(draw())
}

/// The rows of a matrix, to print them on one line.
fn lists(matrix: &Array2<f64>) -> Vec<Vec<f64>> {
    matrix.outer_iter().map(|row| row.to_vec()).collect()
}

/// A matrix with its name: rows and columns with the names of their lengths, and the class of its colour.
struct Matrix {
    name: &'static str,
    rows: (usize, &'static str),
    columns: (usize, &'static str),
    colour: &'static str,
}

/// The three products of the layer as grids, N = 2, F_in = 3, F_out = 4.
fn draw() -> Figure {
    let (n, f_in, f_out) = ((2, "N"), (3, "F_in"), (4, "F_out"));
    let matrix = |name, rows, columns, colour| Matrix { name, rows, columns, colour };
    let products = [
        [matrix("y", n, f_out, "b"), matrix("x", n, f_in, "a"), matrix("weightᵀ", f_in, f_out, "c")],
        [matrix("dx", n, f_in, "a"), matrix("dy", n, f_out, "b"), matrix("weight", f_out, f_in, "c")],
        [matrix("dweight", f_out, f_in, "c"), matrix("dyᵀ", f_out, n, "b"), matrix("x", n, f_in, "a")],
    ];
    let mut figure = Figure::new(
        720.0,
        430.0,
        "Three matrix products drawn as grids: y = x weightᵀ, dx = dy weight, dweight = dyᵀ x; the shapes fit in one way only",
    );
    for (row, (product, title)) in products.iter().zip(["forward", "backward", "backward"]).enumerate() {
        let middle = 70.0 + 140.0 * row as f64;
        figure.styled_text([14.0, middle + 4.0], Anchor::Start, "muted", 12.0, title);
        for (matrix, (centre, sign)) in product.iter().zip([(210.0, "="), (410.0, "·"), (600.0, "")]) {
            grid(&mut figure, [centre, middle], matrix);
            let between = if sign == "=" { 305.0 } else { 505.0 };
            figure.styled_text([between, middle + 5.0], Anchor::Middle, "bold", 18.0, sign);
        }
    }
    figure.styled_text([14.0, 420.0], Anchor::Start, "muted", 12.0, "here N = 2, F_in = 3, F_out = 4");
    figure
}

fn grid(figure: &mut Figure, [x, y]: [f64; 2], matrix: &Matrix) {
    const CELL: f64 = 18.0;
    let (rows, columns) = (matrix.rows.0 as f64, matrix.columns.0 as f64);
    let (left, top) = (x - columns * CELL / 2.0, y - rows * CELL / 2.0);
    for i in 0..matrix.rows.0 {
        for j in 0..matrix.columns.0 {
            let corner = [left + j as f64 * CELL, top + i as f64 * CELL];
            figure.rect(corner, [CELL, CELL], matrix.colour, &format!("f{}", matrix.colour), 0.25);
        }
    }
    figure.styled_text([x, top - 18.0], Anchor::Middle, "bold", 13.0, matrix.name);
    figure.styled_text([x, top - 4.0], Anchor::Middle, "muted", 11.0, matrix.columns.1);
    figure.styled_text([left - 6.0, y + 4.0], Anchor::End, "muted", 11.0, matrix.rows.1);
}
