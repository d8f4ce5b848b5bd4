//! Why a network needs a non-linearity: two linear layers are one linear layer, with a ReLU between them they are more.
//!
//! `cargo run --release --example book -- two_linear_layers [FIGURE.svg]`; the page is docs/relu.md.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use ndarray::{Array1, Array2, array};
use resnet_by_hand::layers::{Activation, Linear, Relu};
use resnet_by_hand::rng::{Purpose, Rng, stream};
use std::error::Error;
use std::f64::consts::TAU;

/// Outputs of the first layer of the trained networks.
const HIDDEN: usize = 8;

/// Two linear layers, with or without a ReLU between them.
struct TwoLayers {
    linear1: Linear<f64>,
    linear2: Linear<f64>,
    relu: bool,
}

impl TwoLayers {
    fn forward(&self, x: &Array2<f64>) -> Result<Array2<f64>, Box<dyn Error>> {
        let (mut h, _) = self.linear1.forward(x)?;
        if self.relu {
            h = rows(Relu::new().forward(&maps(h)?).0)?;
        }
        Ok(self.linear2.forward(&h)?.0)
    }

    /// One step of gradient descent on loss = 1/N Σ ½ (y − target)²; returns the loss.
    fn step(&mut self, x: &Array2<f64>, target: &Array2<f64>, lr: f64) -> Result<f64, Box<dyn Error>> {
        let (h, linear1_cache) = self.linear1.forward(x)?;
        let (r, relu_cache) = Relu::new().forward(&maps(h.clone())?);
        let r = if self.relu { rows(r)? } else { h };
        let (y, linear2_cache) = self.linear2.forward(&r)?;

        let n = x.nrows() as f64;
        let dy = (&y - target) / n;
        let (dr, grads2) = self.linear2.backward(&dy, &linear2_cache)?;
        let dh = if self.relu { rows(Relu::new().backward(&maps(dr)?, &relu_cache)?)? } else { dr };
        let (_dx, grads1) = self.linear1.backward(&dh, &linear1_cache)?;

        for (linear, grads) in [(&mut self.linear1, grads1), (&mut self.linear2, grads2)] {
            linear.weight.scaled_add(-lr, &grads.weight);
            linear.bias.scaled_add(-lr, &grads.bias);
        }
        Ok((&y - target).mapv(|error| 0.5 * error * error).sum() / n)
    }
}

pub fn main() -> Result<(), Box<dyn Error>> {
    println!("Two linear layers are one");
    let linear1 = Linear { weight: array![[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]], bias: array![0.0, 1.0, -2.0] };
    let linear2 = Linear { weight: array![[1.0, -1.0, 2.0], [0.0, 2.0, 1.0]], bias: array![6.0, 1.0] };
    let one =
        Linear { weight: linear2.weight.dot(&linear1.weight), bias: linear2.weight.dot(&linear1.bias) + &linear2.bias };
    let mut two = TwoLayers { linear1, linear2, relu: false };
    println!("weight2 · weight1 = {:?}, weight2 · bias1 + bias2 = {:?}", lists(&one.weight), one.bias.to_vec());
    let x = array![[1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]];
    println!("two layers:          {:?}", lists(&two.forward(&x)?));
    println!("one layer:           {:?}", lists(&one.forward(&x)?.0));
    two.relu = true;
    println!("with a ReLU between: {:?}", lists(&two.forward(&x)?));

    println!("\nExclusive or");
    let xor = |relu| TwoLayers {
        linear1: Linear { weight: array![[1.0, 1.0], [1.0, 1.0]], bias: array![0.0, -1.0] },
        linear2: Linear { weight: array![[1.0, -2.0]], bias: array![0.0] },
        relu,
    };
    let x = array![[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];
    let (with, without) = (xor(true).forward(&x)?, xor(false).forward(&x)?);
    println!("a  b    with the ReLU   without");
    for (x, (with, without)) in x.outer_iter().zip(with.iter().zip(&without)) {
        println!("{}  {}    {with:>13}   {without:>7}", x[0], x[1]);
    }

    println!("\nA disc in a ring");
    let (x, target) = disc_and_ring();
    let mut trained = Vec::new();
    for (name, relu) in [("two linear layers", false), ("with a ReLU between", true)] {
        let mut rng = stream(1, Purpose::Initialise, &[]);
        let mut linear = |f_out, f_in| Linear {
            weight: Array2::from_shape_simple_fn((f_out, f_in), || uniform(&mut rng)),
            bias: Array1::zeros(f_out),
        };
        let mut network = TwoLayers { linear1: linear(HIDDEN, 2), linear2: linear(1, HIDDEN), relu };
        let mut losses = [0.0; 2];
        for step in 0..2000 {
            let loss = network.step(&x, &target, 0.1)?;
            losses[usize::from(step > 0)] = loss;
        }
        let y = network.forward(&x)?;
        let right = y.iter().zip(&target).filter(|(y, target)| (**y > 0.0) == (**target > 0.0)).count();
        println!("{name:<20} loss {:.3} to {:.3}, {right} of {} points right", losses[0], losses[1], x.nrows());
        trained.push(network);
    }
    figure::save(draw(&x, &target, &trained)?)
}

/// 100 points of a disc, target −1, and 100 points of a ring around it, target 1.
fn disc_and_ring() -> (Array2<f64>, Array2<f64>) {
    let mut rng = stream(2, Purpose::Initialise, &[]);
    let (mut x, mut target) = (Array2::zeros((200, 2)), Array2::zeros((200, 1)));
    for n in 0..200 {
        let ring = n % 2 == 1;
        let (radius, angle) = (0.5 + 0.5 * uniform(&mut rng), TAU * uniform(&mut rng));
        let radius = if ring { 1.5 + 0.5 * radius } else { radius };
        x[[n, 0]] = radius * angle.cos();
        x[[n, 1]] = radius * angle.sin();
        target[[n, 0]] = if ring { 1.0 } else { -1.0 };
    }
    (x, target)
}

/// Uniform in -1 to 1.
fn uniform(rng: &mut Rng) -> f64 {
    rng.next_u64() as f64 / 2f64.powi(63) - 1.0
}

/// (N, F) as N maps of one pixel with F channels, which is what the ReLU takes.
fn maps(rows: Array2<f64>) -> Result<Activation<f64>, ndarray::ShapeError> {
    let (n, f) = rows.dim();
    Ok(rows.into_shape_with_order((n, 1, 1, f))?.into_shared())
}

/// The reverse of `maps`.
fn rows(maps: Activation<f64>) -> Result<Array2<f64>, ndarray::ShapeError> {
    let (n, _, _, f) = maps.dim();
    maps.into_owned().into_shape_with_order((n, f))
}

/// The rows of a matrix, to print them on one line.
fn lists(matrix: &Array2<f64>) -> Vec<Vec<f64>> {
    matrix.outer_iter().map(|row| row.to_vec()).collect()
}

/// The ReLU; the points, and where each trained network says "ring".
fn draw(x: &Array2<f64>, target: &Array2<f64>, trained: &[TwoLayers]) -> Result<Figure, Box<dyn Error>> {
    let mut figure = Figure::new(
        760.0,
        320.0,
        "Left: the ReLU. Middle: a straight line cannot separate a disc from the ring around it. Right: the network with \
         a ReLU separates them by a polygon",
    );
    let axes = |left, low, high| Axes {
        corner: [left, 40.0],
        size: [210.0, 210.0],
        x: Scale::Linear(-2.4, 2.4),
        y: Scale::Linear(low, high),
    };
    let ticks = [(-2.0, "−2"), (-1.0, "−1"), (0.0, "0"), (1.0, "1"), (2.0, "2")];
    let relu = axes(35.0, -2.4, 2.4);
    relu.draw(&mut figure, &ticks, &ticks, ["x", "y"]);
    figure.styled_text([140.0, 32.0], Anchor::Middle, "bold", 12.0, "y = ReLU(x)");
    relu.plot(&mut figure, &[[-2.4, 0.0], [0.0, 0.0], [2.4, 2.4]], "a", false);

    for (network, (left, name)) in trained.iter().zip([(285.0, "two linear layers"), (535.0, "a ReLU between them")]) {
        let axes = axes(left, -2.4, 2.4);
        axes.draw(&mut figure, &ticks, &ticks, ["x[0]", "x[1]"]);
        figure.styled_text([left + 105.0, 32.0], Anchor::Middle, "bold", 12.0, name);
        // Strips of 3 pixels, from left to right; where y changes its sign, a straight line between two samples says where.
        let samples: Vec<f64> = (0..=96).map(|i| -2.4 + 0.05 * f64::from(i)).collect();
        for strip in 0..70 {
            let height = 2.4 - 4.8 * (f64::from(strip) + 0.5) / 70.0;
            let y =
                network.forward(&Array2::from_shape_fn((97, 2), |(i, j)| if j == 0 { samples[i] } else { height }))?;
            let mut start = (y[[0, 0]] > 0.0).then_some(samples[0]);
            for i in 1..97 {
                let (before, now) = (y[[i - 1, 0]], y[[i, 0]]);
                let crossing = samples[i - 1] + 0.05 * before / (before - now);
                match start {
                    None if now > 0.0 => start = Some(crossing),
                    Some(from) if now <= 0.0 || i == 96 => {
                        let to = if now <= 0.0 { crossing } else { samples[i] };
                        let corner = [axes.at([from, 0.0])[0], 40.0 + 3.0 * f64::from(strip)];
                        figure.rect(corner, [axes.at([to, 0.0])[0] - corner[0], 3.0], "", "fb", 0.2);
                        start = None;
                    }
                    _ => {}
                }
            }
        }
        for (x, target) in x.outer_iter().zip(target) {
            figure.dot(axes.at([x[0], x[1]]), 2.0, if *target > 0.0 { "fb" } else { "fa" });
        }
    }
    figure.dot([285.0, 307.0], 3.0, "fa");
    figure.styled_text([292.0, 311.0], Anchor::Start, "", 11.0, "disc");
    figure.dot([335.0, 307.0], 3.0, "fb");
    figure.styled_text([342.0, 311.0], Anchor::Start, "", 11.0, "ring; coloured: the network says ring, y > 0");
    Ok(figure)
}
