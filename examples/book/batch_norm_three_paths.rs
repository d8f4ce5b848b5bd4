//! One x reaches the loss of a batch norm on three paths: directly, through the mean and through the variance.
//!
//! `cargo run --release --example book -- batch_norm_three_paths` gives each path its own copy of x, moves one value of
//! one copy, and so measures how much of dx comes through each path; the three add up to the dx of the layer. With a
//! path as its argument it also draws the figure of docs/batch_norm.md.

use crate::figure::{self, Anchor, Figure};
use ndarray::Array4;
use resnet_by_hand::layers::{BatchNorm2d, Mode};

const X: [f64; 4] = [1.0, 3.0, 5.0, 7.0];
const DY: [f64; 4] = [9.0, 0.0, 0.0, 0.0];
const GAMMA: f64 = 3.0;
const BETA: f64 = 0.0;
const EPS: f64 = 4.0;

fn mean(x: [f64; 4]) -> f64 {
    x.iter().sum::<f64>() / 4.0
}

fn var(x: [f64; 4]) -> f64 {
    x.iter().map(|x_i| (x_i - mean(x)).powi(2)).sum::<f64>() / 4.0
}

/// Σ dyᵢ yᵢ, where y is the batch norm of three copies of x: the values that are normalised, those whose mean is taken,
/// and those whose variance is taken. If all three are the same x, this is batch norm.
fn loss([direct, for_mean, for_var]: [[f64; 4]; 3]) -> f64 {
    let rstd = 1.0 / (var(for_var) + EPS).sqrt();
    let y = |x: f64| GAMMA * (x - mean(for_mean)) * rstd + BETA;
    direct.iter().zip(DY).map(|(&x, dy)| dy * y(x)).sum()
}

/// The derivative of the loss by value i of one of the three copies.
fn through(path: usize, i: usize) -> f64 {
    let h = 2f64.powi(-17);
    let moved = |by: f64| {
        let mut copies = [X; 3];
        copies[path][i] += by;
        loss(copies)
    };
    (moved(h) - moved(-h)) / (2.0 * h)
}

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: [[f64; 4]; 3] = [0, 1, 2].map(|path| [0, 1, 2, 3].map(|i| through(path, i)));
    let dx: [f64; 4] = [0, 1, 2, 3].map(|i| paths.iter().map(|path| path[i]).sum());

    println!("mean {}, var {}, rstd 1/{}", mean(X), var(X), (var(X) + EPS).sqrt());
    println!("\n                    x1      x2      x3      x4     sum");
    for (name, values) in ["directly", "through mean", "through var", "dx"].iter().zip(paths.iter().chain([&dx])) {
        let cells: String = values.iter().map(|&v| format!("{:>8}", two_decimals(v))).collect();
        println!("{name:<14}{cells}{:>8}", two_decimals(values.iter().sum()));
    }

    // The layer of the library.
    let row = |values: [f64; 4]| Array4::from_shape_fn((4, 1, 1, 1), |(i, ..)| values[i]).into_shared();
    let mut bn = BatchNorm2d { eps: EPS, ..BatchNorm2d::new(1) };
    (bn.gamma[0], bn.beta[0]) = (GAMMA, BETA);
    let (_, cache) = bn.forward(&row(X), Mode::Train)?;
    let (layer_dx, _) = bn.backward(&row(DY), &cache)?;
    let cells = layer_dx.iter().map(|&v| format!("{:>8}", two_decimals(v)));
    println!("{:<14}{}", "BatchNorm2d", cells.collect::<String>());
    assert!(layer_dx.iter().zip(dx).all(|(layer, dx)| (layer - dx).abs() < 1e-8));

    figure::save(draw(&paths, &dx))
}

/// Rounded to two decimals; never −0.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0 + 0.0
}

fn two_decimals(value: f64) -> String {
    format!("{:.2}", rounded(value))
}

/// Above: the three paths from x1. Below: what comes through each path for every x.
fn draw(paths: &[[f64; 4]; 3], dx: &[f64; 4]) -> Figure {
    let mut figure = Figure::new(640.0, 450.0, "The three paths from one x through a batch norm to the loss");
    let mut node = |[x, y]: [f64; 2], width: f64, label: &str| {
        figure.rect([x - width / 2.0, y - 16.0], [width, 32.0], "ink", "paper", 1.0);
        figure.text([x, y + 4.5], Anchor::Middle, label);
    };
    node([60.0, 110.0], 44.0, "x1");
    node([200.0, 110.0], 60.0, "mean");
    node([200.0, 190.0], 60.0, "var");
    node([300.0, 190.0], 60.0, "rstd");
    node([420.0, 110.0], 110.0, "x̂1 x̂2 x̂3 x̂4");
    node([540.0, 110.0], 60.0, "loss");
    figure.arrow([475.0, 110.0], [509.0, 110.0], "ink");
    figure.text([492.0, 100.0], Anchor::Middle, "y");
    // Directly: to its own x̂ only.
    figure.lines(&[[60.0, 94.0], [60.0, 46.0], [382.0, 46.0]], "a", false);
    figure.arrow([382.0, 46.0], [382.0, 93.0], "a");
    figure.text([221.0, 38.0], Anchor::Middle, "directly, to x̂1 alone");
    figure.arrow([82.0, 110.0], [169.0, 110.0], "b");
    figure.arrow([230.0, 110.0], [364.0, 110.0], "b");
    figure.text([297.0, 102.0], Anchor::Middle, "to all x̂");
    figure.lines(&[[60.0, 126.0], [60.0, 190.0]], "c", false);
    figure.arrow([60.0, 190.0], [169.0, 190.0], "c");
    figure.arrow([230.0, 190.0], [269.0, 190.0], "c");
    figure.lines(&[[330.0, 190.0], [420.0, 190.0]], "c", false);
    figure.arrow([420.0, 190.0], [420.0, 127.0], "c");
    figure.text([432.0, 180.0], Anchor::Start, "to all x̂");

    let names = [("directly", "a"), ("through mean", "b"), ("through var", "c"), ("dx, their sum", "ink")];
    let (zero, unit) = (360.0, 10.0);
    figure.styled_text([20.0, 246.0], Anchor::Start, "bold", 13.0, "dx for dy = (9, 0, 0, 0)");
    for (i, sum) in dx.iter().enumerate() {
        let left = 40.0 + 150.0 * i as f64;
        figure.text([left + 56.0, 436.0], Anchor::Middle, &format!("x{} = {}", i + 1, X[i]));
        let bars = paths.iter().map(|path| path[i]).chain([*sum]).map(rounded);
        for (place, (value, (_, class))) in bars.zip(names).enumerate() {
            let (x, height) = (left + 30.0 * place as f64, unit * value.abs());
            let fill = if class == "ink" { "fgrid".to_string() } else { format!("f{class}") };
            let top = if value < 0.0 { zero } else { zero - height };
            if height > 0.0 {
                figure.rect([x, top], [24.0, height], class, &fill, 0.5);
            }
            let label = if value < 0.0 { top + height + 12.0 } else { top - 4.0 };
            figure.styled_text([x + 12.0, label], Anchor::Middle, "", 10.0, &two_decimals(value));
        }
        figure.line([left - 6.0, zero], [left + 120.0, zero], "ink");
    }
    for (place, (name, class)) in names.iter().enumerate() {
        let x = [192.0, 282.0, 412.0, 522.0][place];
        let fill = if *class == "ink" { "fgrid".to_string() } else { format!("f{class}") };
        figure.rect([x, 235.0], [12.0, 12.0], class, &fill, 0.5);
        figure.text([x + 18.0, 246.0], Anchor::Start, name);
    }
    figure
}
