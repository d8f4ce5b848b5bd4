//! Two edge filters on a photograph: one convolution with two output channels.
//!
//! `cargo run --release --example book -- filter_on_a_photograph` prints one output value with all its terms, and how
//! many weights are needed; with a path as its argument it also draws the figure of docs/conv2d.md. Pixels and weights
//! are whole numbers.

use crate::figure::{self, Anchor, Figure};
use ndarray::{Array4, ArrayView2, array, s};
use resnet_by_hand::data::embedded;
use resnet_by_hand::layers::Conv2d;

/// The photograph, and a place in y: row, column.
const PHOTOGRAPH: usize = 47;
const PLACE: [usize; 2] = [15, 20];

/// The side of a pixel in the figure, and how far its square reaches below the next: without it, zooming shows gaps.
const PIXEL: f64 = 6.0;
const OVERLAP: f64 = 0.5;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let train = embedded::load().train;
    let class = &train.classes[usize::from(train.labels[PHOTOGRAPH])];
    // x (1, 32, 32, 3): red, green and blue from 0 to 255.
    let x = train.subset(&[PHOTOGRAPH])?.pixels.mapv(f64::from).into_shared();

    // weight (C_out, C_in, kh, kw): filter 0 is right minus left, filter 1 is below minus above, the same in each colour.
    let right_minus_left = array![[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]];
    let mut weight = Array4::zeros((2, 3, 3, 3));
    for colour in 0..3 {
        weight.slice_mut(s![0, colour, .., ..]).assign(&right_minus_left);
        weight.slice_mut(s![1, colour, .., ..]).assign(&right_minus_left.t());
    }
    let conv = Conv2d::new(weight);
    let (y, _) = conv.forward(&x)?;

    println!("photograph {PHOTOGRAPH}: {class}, x {:?}, y {:?}", x.shape(), y.shape());
    let [ho, wo] = PLACE;
    println!("\nred + green + blue of the pixels under the filter at row {ho}, column {wo}:");
    let window = x.slice(s![0, ho..ho + 3, wo..wo + 3, ..]).sum_axis(ndarray::Axis(2));
    window.rows().into_iter().for_each(|row| println!("{}", row.iter().map(|v| format!("{v:>5}")).collect::<String>()));
    println!("y[0, {ho}, {wo}, 0] = {}    right minus left", y[[0, ho, wo, 0]]);
    println!("y[0, {ho}, {wo}, 1] = {}    below minus above", y[[0, ho, wo, 1]]);

    println!("\nweights of this convolution:                {:>9}", conv.weight.len());
    println!("weights of a linear layer from x to this y: {:>9}", x.len() * y.len());

    // The same picture one pixel further left: without its first column.
    let (y_moved, _) = conv.forward(&x.slice(s![.., .., 1.., ..]).to_owned().into_shared())?;
    println!("\na moved picture gives a moved y: {}", y_moved == y.slice(s![.., .., 1.., ..]));

    let mut figure =
        Figure::new(640.0, 250.0, "A photograph and its edges, found by two filters of 3x3 weights per colour");
    for ((row, column), _) in x.slice(s![0, .., .., 0]).indexed_iter() {
        let colour = [0, 1, 2].map(|c| x[[0, row, column, c]] as u8);
        figure.pixel([20.0 + PIXEL * column as f64, 30.0 + PIXEL * row as f64], PIXEL + OVERLAP, colour);
    }
    figure.text([20.0, 22.0], Anchor::Start, &format!("x: {class}"));
    for (c, name) in ["y, channel 0: right − left", "y, channel 1: below − above"].into_iter().enumerate() {
        let left = 20.0 + 206.0 * (c + 1) as f64;
        edges(&mut figure, [left, 30.0 + PIXEL], y.slice(s![0, .., .., c]));
        figure.text([left, 22.0], Anchor::Start, name);
    }
    figure.styled_text(
        [20.0, 243.0],
        Anchor::Start,
        "muted",
        12.0,
        "y: 0 is grey, positive is white, negative is black",
    );
    figure::save(figure)
}

/// Draws y in nine greys. Most of it is near 0: one square of middle grey, and pixels where y is not.
fn edges(figure: &mut Figure, [left, top]: [f64; 2], y: ArrayView2<'_, f64>) {
    let side = y.nrows() as f64 * PIXEL;
    figure.pixel([left, top], side, [128; 3]);
    for ((row, column), value) in y.indexed_iter() {
        let level = (value / 250.0).round().clamp(-4.0, 4.0);
        if level != 0.0 {
            let grey = (127.5 + 127.5 * level / 4.0) as u8;
            figure.pixel([left + PIXEL * column as f64, top + PIXEL * row as f64], PIXEL + OVERLAP, [grey; 3]);
        }
    }
}
