//! Chapter 2 of the book: the chain rule on three functions, one neuron, and gradient descent on photographs.
//!
//! ```text
//! cargo run --release --example book -- chain_rule
//! cargo run --release --example book -- chain_rule chain_rule.svg     draws the figure too
//! ```

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use resnet_by_hand::data::{Dataset, embedded};

/// The learning rates of the two neurons below. Change them: chapter 2's exercise says what to expect.
const LR_OF_ONE_EXAMPLE: f64 = 0.05;
const LR_OF_PHOTOGRAPHS: f64 = 0.5;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    three_functions();
    used_twice();
    one_example();

    let splits = embedded::load();
    let (train, test) = (ships_and_frogs(&splits.train), ships_and_frogs(&splits.test));
    let (neuron, losses) = learn(&train, &test);
    figure::save(draw(&neuron, &losses, &train))
}

/// loss = (3x + 1)², as three functions.
fn three_functions() {
    println!("three functions at x = 1");
    // Forward: every line uses the result of the line before.
    let x = 1.0;
    let a = 3.0 * x;
    let b = a + 1.0;
    let loss = b * b;
    // Backward: the same lines, last first.
    let db = 2.0 * b;
    let da = db;
    let dx = 3.0 * da;
    println!("forward    a = {a}, b = {b}, loss = {loss}");
    println!("backward   db = {db}, da = {da}, dx = {dx}");
    let moved: f64 = 3.0 * 1.001 + 1.0;
    println!("measured   (loss(1.001) − loss(1)) / 0.001 = {:.3}", (moved * moved - loss) / 0.001);
}

/// loss = (x + 1) · 2x: both factors depend on x.
fn used_twice() {
    println!("\na value used twice, at x = 3");
    let x = 3.0;
    let a = x + 1.0;
    let b = 2.0 * x;
    let loss = a * b;
    let da = b;
    let db = a;
    let dx = da + 2.0 * db;
    println!("forward    a = {a}, b = {b}, loss = {loss}");
    println!("backward   da = {da}, db = {db}, dx = {da} + 2 · {db} = {dx}");
}

/// Four steps of gradient descent for one neuron and one example.
fn one_example() {
    println!("\none neuron, x = 2, target = 5, lr = {LR_OF_ONE_EXAMPLE}");
    println!("step  weight    bias       y      loss      dy  dweight   dbias");
    let (x, target) = (2.0, 5.0);
    let (mut weight, mut bias) = (3.0, 1.0);
    for step in 0..4 {
        let y = weight * x + bias;
        let loss = (y - target) * (y - target);
        let dy = 2.0 * (y - target);
        let (dweight, dbias) = (dy * x, dy);
        println!("{step:>4}{weight:>8.2}{bias:>8.2}{y:>8.2}{loss:>10.4}{dy:>8.2}{dweight:>9.2}{dbias:>8.2}");
        weight -= LR_OF_ONE_EXAMPLE * dweight;
        bias -= LR_OF_ONE_EXAMPLE * dbias;
    }
}

/// Two values that describe a photograph, and what the neuron shall answer: 1 for a ship, -1 for a frog.
struct Photograph {
    x: [f64; 2],
    target: f64,
}

/// The ships and frogs of a data set. x is the mean of their red and of their blue bytes, shifted and scaled to about
/// -2 to 2.
fn ships_and_frogs(dataset: &Dataset) -> Vec<Photograph> {
    let mean = |i: usize, channel: usize| {
        let image = dataset.image(i);
        let bytes = image.outer_iter().flat_map(|row| row.outer_iter().map(|pixel| pixel[channel]).collect::<Vec<_>>());
        bytes.map(f64::from).sum::<f64>() / 1024.0
    };
    let photographs = dataset.labels.iter().enumerate().filter_map(|(i, &label)| {
        let target = match dataset.classes[usize::from(label)].as_str() {
            "ship" => 1.0,
            "frog" => -1.0,
            _ => return None,
        };
        Some(Photograph { x: [(mean(i, 0) - 128.0) / 64.0, (mean(i, 2) - 128.0) / 64.0], target })
    });
    photographs.collect()
}

/// y = weight[0] · x[0] + weight[1] · x[1] + bias
struct Neuron {
    weight: [f64; 2],
    bias: f64,
}

impl Neuron {
    fn y(&self, x: &[f64; 2]) -> f64 {
        self.weight[0] * x[0] + self.weight[1] * x[1] + self.bias
    }

    /// The loss: the mean of (y − target)².
    fn loss(&self, photographs: &[Photograph]) -> f64 {
        let squares = photographs.iter().map(|p| (self.y(&p.x) - p.target) * (self.y(&p.x) - p.target));
        squares.sum::<f64>() / photographs.len() as f64
    }

    /// How many of the photographs get a y with the sign of their target.
    fn right(&self, photographs: &[Photograph]) -> usize {
        photographs.iter().filter(|p| self.y(&p.x) * p.target > 0.0).count()
    }

    /// One step of gradient descent.
    fn step(&mut self, photographs: &[Photograph], lr: f64) {
        let (mut dweight, mut dbias) = ([0.0, 0.0], 0.0);
        for Photograph { x, target } in photographs {
            let dy = 2.0 * (self.y(x) - target) / photographs.len() as f64;
            dweight[0] += dy * x[0];
            dweight[1] += dy * x[1];
            dbias += dy;
        }
        self.weight[0] -= lr * dweight[0];
        self.weight[1] -= lr * dweight[1];
        self.bias -= lr * dbias;
    }
}

const STEPS: usize = 50;

/// A neuron that has learnt, and its loss before every step and at the end.
fn learn(train: &[Photograph], test: &[Photograph]) -> (Neuron, Vec<f64>) {
    println!("\nships and frogs: {} photographs to learn from, {} others", train.len(), test.len());
    println!("step        loss   right   right of the others");
    let mut neuron = Neuron { weight: [0.0, 0.0], bias: 0.0 };
    let mut losses = Vec::new();
    for step in 0..=STEPS {
        losses.push(neuron.loss(train));
        if [0, 1, 2, 5, 10, 20, 50].contains(&step) {
            println!("{step:>4} {:>11.4} {:>7} {:>21}", losses[step], neuron.right(train), neuron.right(test));
        }
        if step < STEPS {
            neuron.step(train, LR_OF_PHOTOGRAPHS);
        }
    }
    let Neuron { weight: [red, blue], bias } = neuron;
    println!("y = {red:.2} · red + {blue:.2} · blue + {bias:.2}");
    (neuron, losses)
}

/// Above, the neuron with one example as a graph; below, the loss after every step, and what the neuron has learnt.
fn draw(neuron: &Neuron, losses: &[f64], photographs: &[Photograph]) -> Figure {
    let mut figure = Figure::new(
        860.0,
        590.0,
        "One neuron with its values and gradients; its loss falls during gradient descent; the line that it learns \
         between ships and frogs",
    );
    draw_graph(&mut figure);

    let axes = Axes {
        corner: [60.0, 290.0],
        size: [320.0, 240.0],
        x: Scale::Linear(0.0, STEPS as f64),
        y: Scale::Linear(0.0, 1.0),
    };
    let (steps, values) = (
        [(0.0, "0"), (10.0, "10"), (20.0, "20"), (30.0, "30"), (40.0, "40"), (50.0, "50")],
        [(0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1")],
    );
    axes.draw(&mut figure, &steps, &values, ["step", "loss"]);
    let points: Vec<[f64; 2]> = losses.iter().enumerate().map(|(step, &loss)| [step as f64, loss]).collect();
    axes.plot(&mut figure, &points, "a", false);
    for &point in &points {
        figure.dot(axes.at(point), 2.0, "fa");
    }

    let range = Scale::Linear(-2.0, 2.0);
    let axes = Axes { corner: [480.0, 290.0], size: [360.0, 240.0], x: range, y: range };
    let ticks = [(-2.0, "-2"), (-1.0, "-1"), (0.0, "0"), (1.0, "1"), (2.0, "2")];
    axes.draw(&mut figure, &ticks, &ticks, ["x[0], red", "x[1], blue"]);
    for photograph in photographs {
        figure.dot(axes.at(photograph.x), 2.6, if photograph.target > 0.0 { "fa" } else { "fb" });
    }
    // Where y = 0: weight[0] · red + weight[1] · blue + bias = 0.
    let blue = |red: f64| -(neuron.weight[0] * red + neuron.bias) / neuron.weight[1];
    axes.plot(&mut figure, &[[-2.0, blue(-2.0)], [2.0, blue(2.0)]], "ink", false);
    for (x, fill, label) in [(650.0, "fa", "ship"), (710.0, "fb", "frog")] {
        figure.dot([x, 278.0], 4.0, fill);
        figure.styled_text([x + 9.0, 282.0], Anchor::Start, "", 12.0, label);
    }
    figure.line([765.0, 278.0], [785.0, 278.0], "ink");
    figure.styled_text([791.0, 282.0], Anchor::Start, "", 12.0, "y = 0");
    figure
}

/// a = weight · x, y = a + bias, loss = (y − target)², with the values above the arrows and the gradients below.
fn draw_graph(figure: &mut Figure) {
    let (x, weight, bias, target) = (2.0, 3.0, 1.0, 5.0);
    let a = weight * x;
    let y = a + bias;
    let loss = (y - target) * (y - target);
    let dy = 2.0 * (y - target);
    let (da, dbias) = (dy, dy);
    let (dweight, dx) = (da * x, da * weight);

    let m = 110.0;
    for (left, width, text) in [(200.0, 90.0, "weight · x"), (400.0, 90.0, "a + bias"), (610.0, 110.0, "(y − target)²")]
    {
        figure.rect([left, m - 24.0], [width, 48.0], "ink", "fgrid", 0.4);
        figure.text([left + width / 2.0, m + 5.0], Anchor::Middle, text);
    }
    let mut arrow = |from: [f64; 2], to: [f64; 2], label: [f64; 2], name: &str, value: f64, gradient: f64| {
        figure.arrow(from, to, "ink");
        figure.styled_text(label, Anchor::Middle, "fa", 13.0, &format!("{name} = {value}"));
        figure.styled_text([label[0], label[1] + 27.0], Anchor::Middle, "fb", 13.0, &format!("d{name} = {gradient}"));
    };
    arrow([100.0, m - 50.0], [198.0, m - 12.0], [60.0, m - 58.0], "x", x, dx);
    arrow([100.0, m + 50.0], [198.0, m + 12.0], [60.0, m + 42.0], "weight", weight, dweight);
    arrow([290.0, m], [398.0, m], [344.0, m - 9.0], "a", a, da);
    arrow([350.0, m + 72.0], [398.0, m + 14.0], [300.0, m + 66.0], "bias", bias, dbias);
    arrow([490.0, m], [608.0, m], [549.0, m - 9.0], "y", y, dy);
    arrow([720.0, m], [840.0, m], [780.0, m - 9.0], "loss", loss, 1.0);
    for (at, anchor, class, text) in [
        ([20.0, 24.0], Anchor::Start, "bold", "One neuron, one example, target = 5"),
        ([840.0, 24.0], Anchor::End, "fa", "forward: values"),
        ([840.0, 44.0], Anchor::End, "fb", "backward: gradients"),
        ([20.0, 258.0], Anchor::Start, "bold", "Gradient descent on photographs"),
        ([440.0, 258.0], Anchor::Start, "bold", "What the neuron has learnt"),
    ] {
        figure.styled_text(at, anchor, class, 13.0, text);
    }
}
