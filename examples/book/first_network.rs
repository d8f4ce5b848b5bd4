//! A network that learns: linear, ReLU, linear, softmax cross-entropy, trained by plain gradient descent on photographs.
//!
//! `cargo run --release --example book -- first_network [FIGURE.svg]`; docs/first_network.md explains it line by line.
//!
//! All numbers are `f64`: the training is then the same, in all digits printed here, on every processor.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use ndarray::{Array1, Array2, Axis, s};
use resnet_by_hand::data::{Dataset, Normalization, embedded};
use resnet_by_hand::layers::linear::LinearGrads;
use resnet_by_hand::layers::{Activation, Linear, Relu, SoftmaxCrossEntropy};
use resnet_by_hand::rng::{Purpose, Rng, stream};
use std::error::Error;

/// Numbers of a photograph: 32 rows, 32 columns, 3 colours.
const PIXELS: usize = 32 * 32 * 3;
const HIDDEN: usize = 32;
const CLASSES: usize = 10;
const TRAINING: usize = 1000;
const BATCH: usize = 50;
const EPOCHS: usize = 30;
const LR: f64 = 0.02;

/// Photographs as rows of numbers, and the class of each.
struct Images {
    x: Array2<f64>,
    targets: Vec<usize>,
}

impl Images {
    fn new(dataset: &Dataset) -> Result<Self, Box<dyn Error>> {
        let x = Normalization::CIFAR10.apply(dataset.pixels.view())?;
        let x = x.into_owned().into_shape_with_order((dataset.len(), PIXELS))?;
        Ok(Images { x, targets: dataset.labels.iter().map(|&label| label.into()).collect() })
    }
}

#[derive(Clone)]
struct Network {
    linear1: Linear<f64>,
    linear2: Linear<f64>,
}

/// ∂loss/∂parameter for every parameter of a network; the fields have the same names.
struct Grads {
    linear1: LinearGrads<f64>,
    linear2: LinearGrads<f64>,
}

impl Network {
    /// Weights uniform in ±1/√F_in, biases 0.
    fn new(rng: &mut Rng) -> Self {
        let mut linear = |f_out, f_in| {
            let bound = 1.0 / (f_in as f64).sqrt();
            let weight = Array2::from_shape_simple_fn((f_out, f_in), || bound * uniform(rng));
            Linear { weight, bias: Array1::zeros(f_out) }
        };
        Network { linear1: linear(HIDDEN, PIXELS), linear2: linear(CLASSES, HIDDEN) }
    }

    /// The loss of a batch, and the gradient of every parameter.
    fn gradients(&self, x: &Array2<f64>, targets: &[usize]) -> Result<(f64, Grads), Box<dyn Error>> {
        // Forward: a layer returns its output and what its backward pass needs.
        let (h, linear1_cache) = self.linear1.forward(x)?;
        let (r, relu_cache) = Relu::new().forward(&maps(h)?);
        let (logits, linear2_cache) = self.linear2.forward(&rows(r)?)?;
        let (loss, loss_cache) = SoftmaxCrossEntropy::new().forward(&logits, targets)?;

        // Backward: the same layers, last one first.
        let dlogits = SoftmaxCrossEntropy::new().backward(&loss_cache);
        let (dr, linear2) = self.linear2.backward(&dlogits, &linear2_cache)?;
        let dh = Relu::new().backward(&maps(dr)?, &relu_cache)?;
        let (_dx, linear1) = self.linear1.backward(&rows(dh)?, &linear1_cache)?;
        Ok((loss, Grads { linear1, linear2 }))
    }

    /// Moves every parameter a small step against its gradient.
    fn descend(&mut self, grads: &Grads) {
        self.linear1.weight.scaled_add(-LR, &grads.linear1.weight);
        self.linear1.bias.scaled_add(-LR, &grads.linear1.bias);
        self.linear2.weight.scaled_add(-LR, &grads.linear2.weight);
        self.linear2.bias.scaled_add(-LR, &grads.linear2.bias);
    }

    /// The mean loss of the images, and the share of them whose class has the largest score, in percent.
    fn evaluate(&self, images: &Images) -> Result<[f64; 2], Box<dyn Error>> {
        let (r, _) = Relu::new().forward(&maps(self.linear1.forward(&images.x)?.0)?);
        let (logits, _) = self.linear2.forward(&rows(r)?)?;
        let (loss, _) = SoftmaxCrossEntropy::new().forward(&logits, &images.targets)?;
        let largest = |n: usize| logits.row(n).iter().fold(f64::NEG_INFINITY, |most, &score| most.max(score));
        let right = images.targets.iter().enumerate().filter(|&(n, &t)| logits[[n, t]] == largest(n)).count();
        Ok([loss, 100.0 * right as f64 / images.targets.len() as f64])
    }
}

pub fn main() -> Result<(), Box<dyn Error>> {
    let splits = embedded::load();
    let part = |range: std::ops::Range<usize>| splits.train.subset(&range.collect::<Vec<_>>());
    let training = Images::new(&part(0..TRAINING)?)?;
    let validation = Images::new(&part(TRAINING..splits.train.len())?)?;

    let mut rng = stream(1, Purpose::Initialise, &[]);
    let mut network = Network::new(&mut rng);
    check_one_weight(&network, &training)?;

    println!("        training          validation");
    println!("epoch   loss  accuracy    loss  accuracy");
    let (mut curves, mut best) = (Vec::new(), (f64::INFINITY, 0, network.clone()));
    let mut order: Vec<usize> = (0..TRAINING).collect();
    for epoch in 0..=EPOCHS {
        let ([loss, accuracy], [v_loss, v_accuracy]) = (network.evaluate(&training)?, network.evaluate(&validation)?);
        if [0, 1, 2, 3, 5, 10, 15, 20, 25, 30].contains(&epoch) {
            println!("{epoch:>5}   {loss:.2}   {accuracy:>5.1} %    {v_loss:.2}   {v_accuracy:>5.1} %");
        }
        curves.push([loss, v_loss, accuracy, v_accuracy]);
        if v_loss < best.0 {
            best = (v_loss, epoch, network.clone());
        }
        if epoch == EPOCHS {
            break;
        }

        // One epoch: every training image once, in a new order, in batches.
        order.sort_by_cached_key(|_| rng.next_u64());
        for batch in order.chunks(BATCH) {
            let x = training.x.select(Axis(0), batch);
            let targets: Vec<usize> = batch.iter().map(|&n| training.targets[n]).collect();
            let (_loss, grads) = network.gradients(&x, &targets)?;
            network.descend(&grads);
        }
    }

    let (v_loss, epoch, network) = best;
    let accuracy = curves[epoch][3];
    println!("smallest validation loss: epoch {epoch}, loss {v_loss:.2}, accuracy {accuracy:.1} %");
    let [loss, accuracy] = network.evaluate(&Images::new(&splits.test)?)?;
    println!("that network on the test images: loss {loss:.2}, accuracy {accuracy:.1} %");
    figure::save(draw(&curves, epoch))
}

/// Compares one entry of dweight with a central difference, as in docs/checking_gradients.md.
fn check_one_weight(network: &Network, images: &Images) -> Result<(), Box<dyn Error>> {
    let (x, targets) = (images.x.slice(s![..BATCH, ..]).to_owned(), &images.targets[..BATCH]);
    let (_, grads) = network.gradients(&x, targets)?;
    let (place, step) = ([3, 100], 2f64.powi(-17));
    let loss = |step: f64| -> Result<f64, Box<dyn Error>> {
        let mut moved = network.clone();
        moved.linear1.weight[place] += step;
        Ok(moved.gradients(&x, targets)?.0)
    };
    let difference = (loss(step)? - loss(-step)?) / (2.0 * step);
    println!("dweight[3, 100] of linear1: {:.2e}, by finite differences {difference:.2e}", grads.linear1.weight[place]);
    Ok(())
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

/// Loss and accuracy against the epoch; `curves` holds training and validation loss, training and validation accuracy.
fn draw(curves: &[[f64; 4]], best: usize) -> Figure {
    let mut figure = Figure::new(
        720.0,
        320.0,
        "Loss and accuracy of the training and the validation images after every epoch: training improves to the end, \
         validation stops early",
    );
    let last = EPOCHS as f64;
    let axes = |left, y| Axes { corner: [left, 40.0], size: [280.0, 220.0], x: Scale::Linear(0.0, last), y };
    let epochs = [(0.0, "0"), (10.0, "10"), (20.0, "20"), (30.0, "30")];
    let loss_ticks = [(0.0, "0"), (1.0, "1"), (2.0, "2"), (3.0, "3")];
    let accuracy_ticks = [(0.0, "0"), (25.0, "25"), (50.0, "50"), (75.0, "75"), (100.0, "100")];
    let panels = [
        (axes(50.0, Scale::Linear(0.0, 3.0)), &loss_ticks[..], "loss", 0, 10f64.ln(), "chance: ln 10"),
        (axes(410.0, Scale::Linear(0.0, 100.0)), &accuracy_ticks[..], "accuracy in %", 2, 10.0, "chance: 10 %"),
    ];
    for (axes, ticks, name, first, chance, text) in panels {
        axes.draw(&mut figure, &epochs, ticks, ["epoch", name]);
        axes.plot(&mut figure, &[[0.0, chance], [last, chance]], "ink", true);
        let [x, y] = axes.at([last, chance]);
        figure.styled_text([x, y - 5.0], Anchor::End, "muted", 11.0, text);
        for (curve, class) in [(first, "a"), (first + 1, "b")] {
            let points: Vec<[f64; 2]> =
                curves.iter().enumerate().map(|(e, values)| [e as f64, values[curve]]).collect();
            axes.plot(&mut figure, &points, class, false);
        }
        figure.dot(axes.at([best as f64, curves[best][first + 1]]), 4.0, "fb");
    }
    for (x, class, text) in [(50.0, "a", "training"), (150.0, "b", "validation")] {
        figure.line([x, 308.0], [x + 20.0, 308.0], class);
        figure.text([x + 26.0, 312.0], Anchor::Start, text);
    }
    figure.dot([275.0, 308.0], 4.0, "fb");
    figure.text([285.0, 312.0], Anchor::Start, "the smallest validation loss");
    figure
}
