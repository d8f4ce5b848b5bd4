//! Chapter 1 of the book: a photograph, the whole of ResNet-20, and its ten scores.
//!
//! ```text
//! cargo run --release --example book -- resnet20_on_one_page
//! cargo run --release --example book -- resnet20_on_one_page resnet20.svg     draws the network too
//! ```
//!
//! The trained network is the one inside the program (`resnet_by_hand::weights::pretrained`).

use crate::figure::{self, Anchor, Figure};
use ndarray::{Array2, ArrayView3, Axis};
use resnet_by_hand::data::{Dataset, Normalization, embedded};
use resnet_by_hand::layers::softmax_cross_entropy::softmax;
use resnet_by_hand::layers::{GlobalAvgPool, Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::resnet::StemLayers;
use resnet_by_hand::model::shortcut::Shortcut;
use resnet_by_hand::model::unit::Unit;
use resnet_by_hand::model::{Architecture, Block, ResNet};
use resnet_by_hand::weights::{pretrained, state_dict};
use resnet_by_hand::{Parameters, Result};
use std::error::Error;
use std::path::Path;

/// The photograph of the test set that goes through the network.
const PHOTOGRAPH: usize = 15;
/// With so many photographs of the test set the losses are compared.
const PHOTOGRAPHS: usize = 100;

pub fn main() -> std::result::Result<(), Box<dyn Error>> {
    let resnet20 = Architecture::by_name("resnet20")?;
    let fresh = ResNet::<f64>::new(&resnet20, 1)?;
    let mut trained = fresh.clone();
    state_dict::assign(Path::new(pretrained::NAME), &pretrained::tensors(), &mut trained)?;

    let test = embedded::load().test;
    let image = test.image(PHOTOGRAPH);
    let truth = usize::from(test.labels[PHOTOGRAPH]);
    let [red, green, blue] = [0, 1, 2].map(|channel| image[[0, 0, channel]]);
    println!("a photograph of a {}: {:?}, {} bytes", test.classes[truth], image.shape(), image.len());
    println!("its upper left pixel: red {red}, green {green}, blue {blue}");

    let (steps, logits) = follow(&trained, &test.subset(&[PHOTOGRAPH])?)?;
    println!("\nstep                  shape of the result   parameters");
    for Step { name, shape, parameters } in &steps {
        println!("{name:<20}  {:<20} {parameters:>11}", format!("{shape:?}"));
    }
    println!("{:<20}  {:<20} {:>11}", "together", "", trained.parameter_count());
    println!("multiplications for one photograph: {}", trained.cost(1, resnet20.image)?.multiply_adds);

    let probabilities = softmax(&logits);
    println!("\nclass          score   probability");
    for (class, name) in test.classes.iter().enumerate() {
        println!("{name:<12} {:>7.2}        {:.4}", logits[[0, class]], probabilities[[0, class]]);
    }
    let (p, loss) = (probabilities[[0, truth]], SoftmaxCrossEntropy::new().forward(&logits, &[truth])?.0);
    let loss = format!("probability of {}: {p:.4}, loss = −ln({p:.4}) = {loss:.4}", test.classes[truth]);
    println!("{loss}");

    println!("\n{PHOTOGRAPHS} photographs    loss   right");
    let photographs = test.subset(&(0..PHOTOGRAPHS).collect::<Vec<_>>())?;
    // A fresh network has no running statistics yet, so its batch norms use those of the batch (chapter 10).
    for (name, model, mode) in [("fresh network", &fresh, Mode::Train), ("trained network", &trained, Mode::Eval)] {
        let (loss, right) = measure(model, mode, &photographs)?;
        println!("{name:<16} {loss:>5.2} {right:>7}");
    }

    figure::save(draw(&trained, &steps, image, &test.classes, &logits, &loss))
}

/// A part of the network: its name, the shape of its result for one photograph, the number of its parameters.
struct Step {
    name: String,
    shape: Vec<usize>,
    parameters: usize,
}

/// The steps of `ResNet::forward`, and the ten scores.
fn follow(model: &ResNet<f64>, photograph: &Dataset) -> Result<(Vec<Step>, Array2<f64>)> {
    let mut steps = Vec::new();
    let mut record = |name: &str, shape: &[usize], parameters| {
        steps.push(Step { name: name.to_string(), shape: shape[1..].to_vec(), parameters });
    };
    let x = Normalization::CIFAR10.apply::<f64>(photograph.pixels.view())?;
    record("photograph", x.shape(), 0);
    let (mut h, _) = stem(model).forward(&x, Mode::Eval)?;
    record("first convolution", h.shape(), stem(model).parameter_count());
    for (stage, blocks) in model.stages.iter().enumerate() {
        for (i, block) in blocks.iter().enumerate() {
            h = block.forward(&h, Mode::Eval)?.0;
            record(&format!("stage {}, block {}", stage + 1, i + 1), h.shape(), block.parameter_count());
        }
    }
    let (features, _) = GlobalAvgPool.forward(&h)?;
    record("mean over the pixels", features.shape(), 0);
    let (logits, _) = model.fc.forward(&features)?;
    record("linear layer: scores", logits.shape(), model.fc.weight.len() + model.fc.bias.len());
    Ok((steps, logits))
}

/// The mean loss of the photographs, and how many get the highest score for their own class.
fn measure(model: &ResNet<f64>, mode: Mode, photographs: &Dataset) -> Result<(f64, usize)> {
    let x = Normalization::CIFAR10.apply::<f64>(photographs.pixels.view())?;
    let targets: Vec<usize> = photographs.labels.iter().map(|&label| label.into()).collect();
    let (logits, _) = model.forward(&x, mode)?;
    let right =
        logits.outer_iter().zip(&targets).filter(|(row, target)| row.iter().all(|&score| score <= row[**target]));
    let right = right.count();
    Ok((SoftmaxCrossEntropy::new().forward(&logits, &targets)?.0, right))
}

fn stem(model: &ResNet<f64>) -> &Unit<f64> {
    match &model.stem {
        StemLayers::Unit(unit) => unit,
        StemLayers::Conv(_) => panic!("resnet20 begins with a convolution, a batch norm and a ReLU"),
    }
}

/// Width and height of the box of a convolution, and the distance between two.
const BOX: [f64; 2] = [80.0, 34.0];
const GAP: f64 = 18.0;
/// Left and right edge of the drawing.
const LEFT: f64 = 20.0;
const RIGHT: f64 = 880.0;

fn draw(
    model: &ResNet<f64>,
    steps: &[Step],
    image: ArrayView3<'_, u8>,
    classes: &[String],
    logits: &Array2<f64>,
    loss: &str,
) -> Figure {
    let title = "ResNet-20: a photograph, the convolutions of three stages with their shortcuts, ten scores";
    let mut figure = Figure::new(900.0, 800.0, title);
    for ((i, j), red) in image.index_axis(Axis(2), 0).indexed_iter() {
        // A little larger than the grid, or thin lines would be seen between the pixels.
        let at = [LEFT + 4.0 * j as f64, 36.0 + 4.0 * i as f64];
        figure.pixel(at, 4.25, [*red, image[[i, j, 1]], image[[i, j, 2]]]);
    }
    figure.text([LEFT, 24.0], Anchor::Start, &format!("photograph, {}", sizes(&steps[0].shape)));
    let x = LEFT + 128.0;
    figure.arrow([x, 100.0], [x + 32.0, 100.0], "ink");
    convolution(&mut figure, [x + 32.0, 100.0], stem(model));
    let x = x + 32.0 + BOX[0];
    let end = result(&mut figure, [x, 100.0], &steps[1].shape);
    let mut middle = 280.0;
    let mut x = next_row(&mut figure, end, 460.0, middle);
    legend(&mut figure, [480.0, 30.0]);

    // One row for each stage.
    let mut shapes = steps[2..].iter();
    for (stage, blocks) in model.stages.iter().enumerate() {
        figure.styled_text([LEFT, middle - 46.0], Anchor::Start, "bold", 13.0, &format!("stage {}", stage + 1));
        let mut shape = &steps[1].shape;
        for (block, step) in blocks.iter().zip(&mut shapes) {
            x = residual_block(&mut figure, [x, middle], block);
            shape = &step.shape;
        }
        let end = result(&mut figure, [x, middle], shape);
        middle += 130.0;
        x = next_row(&mut figure, end, RIGHT, middle);
    }

    for (step, text) in shapes.zip(["mean over the pixels", "linear layer"]) {
        figure.rect([x, middle - 17.0], [150.0, 34.0], "ink", "fa", 0.15);
        figure.text([x + 75.0, middle + 5.0], Anchor::Middle, text);
        figure.arrow([x + 150.0, middle], [x + 205.0, middle], "ink");
        figure.text([x + 175.0, middle - 9.0], Anchor::Middle, &sizes(&step.shape));
        x += 205.0;
    }
    figure.text([LEFT, middle + 64.0], Anchor::Start, loss);
    figure.styled_text([520.0, middle - 46.0], Anchor::Start, "bold", 13.0, "scores");
    let highest = logits.iter().fold(f64::MIN, |highest, &score| highest.max(score));
    for (class, (name, score)) in classes.iter().zip(logits).enumerate() {
        let (y, zero) = (middle - 26.0 + 15.0 * class as f64, 680.0);
        let bar = 9.0 * score;
        figure.styled_text([520.0, y + 4.0], Anchor::Start, "", 12.0, name);
        let fill = if *score == highest { "fb" } else { "fa" };
        figure.rect([zero + bar.min(0.0), y - 5.0], [bar.abs(), 10.0], "", fill, 1.0);
        figure.styled_text([RIGHT, y + 4.0], Anchor::End, "", 12.0, &format!("{score:.2}"));
    }
    figure
}

/// A line from the end of a row, down at `turn`, to the beginning of the next one; returns where that begins.
fn next_row(figure: &mut Figure, [x, y]: [f64; 2], turn: f64, middle: f64) -> f64 {
    let between = middle - 68.0;
    let left = LEFT - 10.0;
    figure.lines(&[[x, y], [turn, y], [turn, between], [left, between], [left, middle], [LEFT, middle]], "ink", false);
    LEFT
}

/// Draws y = relu(F(x) + S(x)) and returns where it ends.
fn residual_block(figure: &mut Figure, [mut x, middle]: [f64; 2], block: &Block<f64>) -> f64 {
    let Block::Residual(block) = block else { panic!("resnet20 has the ReLU after the addition") };
    let start = x + GAP / 2.0;
    for unit in &block.branch {
        figure.arrow([x, middle], [x + GAP, middle], "ink");
        convolution(figure, [x + GAP, middle], unit);
        x += GAP + BOX[0];
    }
    figure.arrow([x, middle], [x + GAP, middle], "ink");
    plus(figure, [x + GAP + 9.0, middle]);
    let top = middle - 34.0;
    let corners = [[start, middle], [start, top], [x + GAP + 9.0, top], [x + GAP + 9.0, middle - 9.0]];
    figure.lines(&corners, "b", matches!(block.shortcut, Shortcut::ZeroPad(_)));
    x + GAP + 18.0
}

fn plus(figure: &mut Figure, [x, y]: [f64; 2]) {
    figure.rect([x - 9.0, y - 9.0], [18.0, 18.0], "b", "paper", 1.0);
    figure.text([x, y + 4.5], Anchor::Middle, "+");
}

/// A convolution: the size of its filters, their number, and its stride if it has one.
fn convolution(figure: &mut Figure, [x, middle]: [f64; 2], unit: &Unit<f64>) {
    let [filters, _, kh, kw] = unit.conv.weight.shape() else { panic!("weight (C_out, C_in, kh, kw)") };
    let stride = if unit.conv.stride == [1, 1] { "" } else { ", /2" };
    figure.rect([x, middle - BOX[1] / 2.0], BOX, "ink", "fa", 0.15);
    figure.text([x + BOX[0] / 2.0, middle + 5.0], Anchor::Middle, &format!("{kh}×{kw}, {filters}{stride}"));
}

/// Draws an array (H, W, C) as a pile of squares, to scale: two pixels of the figure for one of the array, one square for
/// eight channels. Returns where it ends.
fn result(figure: &mut Figure, [x, middle]: [f64; 2], shape: &[usize]) -> [f64; 2] {
    let (side, squares) = (2.0 * shape[0] as f64, shape[2] / 8);
    figure.arrow([x, middle], [x + GAP, middle], "ink");
    let left = x + GAP + 4.0;
    for i in (0..squares).rev() {
        let shift = 3.0 * i as f64;
        figure.rect([left + shift, middle - side / 2.0 - shift], [side, side], "c", "paper", 1.0);
    }
    figure.text([left, middle + 48.0], Anchor::Start, &sizes(shape));
    [left + side + 3.0 * squares as f64, middle]
}

/// `32 × 32 × 16`
fn sizes(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ")
}

fn legend(figure: &mut Figure, [x, y]: [f64; 2]) {
    figure.rect([x, y], BOX, "ink", "fa", 0.15);
    figure.text([x + BOX[0] / 2.0, y + 22.0], Anchor::Middle, "3×3, 16");
    plus(figure, [x + 37.0, y + 58.0]);
    figure.lines(&[[x + 10.0, y + 88.0], [x + 64.0, y + 88.0]], "b", false);
    figure.lines(&[[x + 10.0, y + 114.0], [x + 64.0, y + 114.0]], "b", true);
    for (below, text) in [
        (14.0, "convolution: 16 filters of 3×3, then batch norm,"),
        (30.0, "then ReLU if no + follows; /2: stride 2"),
        (62.0, "the sum of the block and its shortcut, then ReLU"),
        (92.0, "shortcut: the input of the block, unchanged"),
        (118.0, "its every second pixel, zeros for new channels"),
    ] {
        figure.styled_text([x + 88.0, y + below], Anchor::Start, "", 12.5, text);
    }
}
