//! Nine mistakes on the sanity ladder: what the first loss, the first step and ten photographs say about each.
//!
//! `cargo run --release --example book -- sanity_ladder` trains the same small network on ten photographs ten times,
//! once as it should be and once with each mistake; with a path as its argument it also draws the figure of
//! docs/training_a_network.md.
//!
//! The figure shows a recorded run, `docs/images/book/demo_run.csv`. These commands make that file in half a minute:
//!
//! ```sh
//! resnet train --validation 400 --seed 1 --out run
//! paste -d, <(cut -d, -f1-4,8,9 run/metrics.csv) \
//!     <(grep -E 'update_ratio|,layer2.0.conv1.weight,' run/layers.csv | cut -d, -f5) |
//!     awk -F, -v OFS=, 'NR > 1 { for (i = 2; i <= 7; i++) $i = sprintf("%.4g", $i) } 1'
//! ```

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use ndarray::{Array2, ArrayD, Axis};
use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::engine::Engine;
use resnet_by_hand::layers::SoftmaxCrossEntropy;
use resnet_by_hand::layers::softmax_cross_entropy::softmax;
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{Sgd, SgdConfig};
use resnet_by_hand::parameters::Role;
use resnet_by_hand::{Activation, Parameters, Result};

const STEPS: usize = 32;
const LR: f64 = 0.05;

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    LargeScores,
    TwoSoftmaxes,
    SumOfLosses,
    WrongSign,
    MixedLabels,
    NoGradient,
    SmallRate,
    LargeRate,
    NoStatistics,
}

const MISTAKES: [(Mistake, &str); 10] = [
    (Mistake::None, "none"),
    (Mistake::LargeScores, "last layer 20 times too large"),
    (Mistake::TwoSoftmaxes, "softmax applied twice"),
    (Mistake::SumOfLosses, "losses added, not averaged"),
    (Mistake::WrongSign, "gradient added, not subtracted"),
    (Mistake::MixedLabels, "other labels in every step"),
    (Mistake::NoGradient, "gradient of stage 2 forgotten"),
    (Mistake::SmallRate, "learning rate 1000 times smaller"),
    (Mistake::LargeRate, "learning rate 100 times larger"),
    (Mistake::NoStatistics, "running statistics not updated"),
];

/// What the rungs show.
struct Signs {
    first_loss: f64,
    /// ‖Δweight‖ / ‖weight‖ in the first step: the smallest and the largest of all convolutions and the linear layer.
    update_ratio: [f64; 2],
    last_loss: f64,
    /// Photographs classified correctly after the last step, in training mode and in evaluation mode.
    right: [usize; 2],
}

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // Ten photographs, one of each class.
    let ten = embedded::load().train.subset(&(0..10).collect::<Vec<_>>())?;
    let images = Normalization::CIFAR10.apply::<f32>(ten.pixels.view())?;
    let labels: Vec<usize> = ten.labels.iter().map(|&label| label.into()).collect();

    println!("                                    first   update ratio     loss after   right of ten");
    println!("mistake                              loss  least    most       {STEPS} steps   train  evaluate");
    for (mistake, name) in MISTAKES {
        let Signs { first_loss, update_ratio: [least, most], last_loss, right: [train, evaluate] } =
            climb(mistake, &images, &labels)?;
        print!("{name:<34}{first_loss:>7.2}{least:>7.0e}{most:>8.0e}");
        if last_loss < first_loss {
            println!("{last_loss:>15.1}{train:>8}{evaluate:>10}");
        } else {
            // What it is depends on the last bit of every sum, so on the processor.
            println!("{:>15}{:>8}{:>10}", "no less", "-", "-");
        }
    }
    figure::save(draw())
}

/// Trains on the ten photographs, with one mistake.
fn climb(mistake: Mistake, images: &Activation<f32>, labels: &[usize]) -> Result<Signs> {
    let engine = Engine::default();
    let mut model = ResNet::<f32>::new(&Architecture::by_name("resnet8")?, 1)?;
    let mut sgd = Sgd::new(SgdConfig { weight_decay: 0.0, ..SgdConfig::default() })?;
    if mistake == Mistake::LargeScores {
        model.fc.weight *= 20.0;
    }
    let lr = match mistake {
        Mistake::SmallRate => LR / 1000.0,
        Mistake::LargeRate => LR * 100.0,
        _ => LR,
    };

    let (mut first_loss, mut update_ratio) = (0.0, [0.0; 2]);
    for step in 0..STEPS {
        let targets = targets(mistake, labels, step);
        let (logits, cache) = engine.forward(&model, images)?;
        let (loss, dlogits) = loss(mistake, &logits, &targets)?;
        if mistake != Mistake::NoStatistics {
            engine.update_running_statistics(&mut model, &cache);
        }
        let mut gradients = engine.parameter_gradients(&model, &dlogits, cache)?;
        for (name, gradient) in gradients.iter_mut() {
            match mistake {
                Mistake::WrongSign => *gradient *= -1.0,
                Mistake::NoGradient if name.starts_with("layer2.") => gradient.fill(0.0),
                _ => (),
            }
        }
        let before = weights(&model);
        sgd.step(&mut model, &gradients, lr)?;
        if step == 0 {
            let ratios =
                before.iter().zip(weights(&model)).map(|(before, after)| norm(&(after - before)) / norm(before));
            update_ratio =
                ratios.fold([f64::INFINITY, 0.0], |[least, most], ratio| [ratio.min(least), ratio.max(most)]);
            first_loss = loss;
        }
    }
    let (logits, _) = engine.forward(&model, images)?;
    let (last_loss, _) = loss(mistake, &logits, &targets(mistake, labels, STEPS))?;
    let right = [logits, engine.predict(&model, images)?].map(|logits| right(&logits, labels));
    Ok(Signs { first_loss, update_ratio, last_loss, right })
}

/// The labels of a step.
fn targets(mistake: Mistake, labels: &[usize], step: usize) -> Vec<usize> {
    let mut targets = labels.to_vec();
    if mistake == Mistake::MixedLabels {
        targets.rotate_left(step % labels.len());
    }
    targets
}

/// The loss, and its gradient with respect to the logits.
fn loss(mistake: Mistake, logits: &Array2<f32>, targets: &[usize]) -> Result<(f64, Array2<f32>)> {
    let layer = SoftmaxCrossEntropy::new();
    // Softmax of the softmax: p goes into the loss instead of the logits, and dp has to come back through the first.
    if mistake == Mistake::TwoSoftmaxes {
        let p = softmax(logits);
        let (loss, cache) = layer.forward(&p, targets)?;
        let dp = layer.backward(&cache);
        let mean = (&p * &dp).sum_axis(Axis(1)).insert_axis(Axis(1));
        return Ok((loss.into(), p * (dp - mean)));
    }
    let (loss, cache) = layer.forward(logits, targets)?;
    let factor = if mistake == Mistake::SumOfLosses { targets.len() as f32 } else { 1.0 };
    Ok(((factor * loss).into(), factor * layer.backward(&cache)))
}

/// How many rows have their largest score at the target.
fn right(logits: &Array2<f32>, targets: &[usize]) -> usize {
    let rows = logits.outer_iter().zip(targets);
    rows.filter(|(row, target)| row.iter().all(|&score| score <= row[**target])).count()
}

/// The weights of every convolution and of the linear layer.
fn weights(model: &ResNet<f32>) -> Vec<ArrayD<f32>> {
    let mut weights = Vec::new();
    model.visit("", &mut |_, role, tensor| {
        if role == Role::Weight {
            weights.push(tensor.to_owned());
        }
    });
    weights
}

/// √(Σ v²).
fn norm(values: &ArrayD<f32>) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// The recorded run, a row for each epoch: epoch, learning rate, training loss and accuracy, validation loss and
/// accuracy, update ratio of one convolution.
fn recorded() -> Vec<[f64; 7]> {
    let row = |line: &str| {
        let mut values = line.split(',').map(|value| value.parse().expect("a number"));
        std::array::from_fn(|_| values.next().expect("seven columns"))
    };
    include_str!("../../docs/images/book/demo_run.csv").lines().skip(1).map(row).collect()
}

/// Learning rate, update ratio, loss and accuracy of the recorded run against the epoch.
fn draw() -> Figure {
    let mut figure = Figure::new(
        720.0,
        600.0,
        "Learning rate, update ratio, loss and accuracy of a run of 45 epochs: the validation accuracy settles when the \
         learning rate becomes small",
    );
    let rows = recorded();
    let epochs = [(0.0, "0"), (15.0, "15"), (30.0, "30"), (45.0, "45")];
    let rates = [(1e-6, "1e-6"), (1e-5, "1e-5"), (1e-4, "1e-4"), (1e-3, "1e-3"), (1e-2, "1e-2"), (1e-1, "1e-1")];
    let losses = [(0.0, "0"), (1.0, "1"), (2.0, "2"), (3.0, "3"), (4.0, "4"), (5.0, "5")];
    let shares = [(0.0, "0"), (25.0, "25"), (50.0, "50"), (75.0, "75"), (100.0, "100")];
    let panels = [
        ([50.0, 40.0], Scale::Log(1e-7, 0.3), &rates[..], "learning rate", &[(1, "c")][..], 1.0),
        ([410.0, 40.0], Scale::Log(1e-7, 0.3), &rates[..], "update ratio of one convolution", &[(6, "c")][..], 1.0),
        ([50.0, 330.0], Scale::Linear(0.0, 5.0), &losses[..], "loss", &[(2, "a"), (4, "b")][..], 1.0),
        ([410.0, 330.0], Scale::Linear(0.0, 100.0), &shares[..], "accuracy in %", &[(3, "a"), (5, "b")][..], 100.0),
    ];
    for (corner, y, ticks, name, curves, unit) in panels {
        let axes = Axes { corner, size: [280.0, 210.0], x: Scale::Linear(0.0, 45.0), y };
        axes.draw(&mut figure, &epochs, ticks, ["epoch", name]);
        for &(column, class) in curves {
            let points: Vec<[f64; 2]> = rows.iter().map(|row| [row[0], unit * row[column]]).collect();
            axes.plot(&mut figure, &points, class, false);
        }
    }
    for (x, class, text) in [(50.0, "a", "training images"), (210.0, "b", "validation images")] {
        figure.line([x, 588.0], [x + 20.0, 588.0], class);
        figure.text([x + 26.0, 592.0], Anchor::Start, text);
    }
    figure
}
