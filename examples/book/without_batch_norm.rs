//! The same plain network trained with and without batch norm, from the same initial weights.
//!
//! `cargo run --release --example book -- without_batch_norm` prints the loss after some steps of gradient descent for
//! several learning rates and scales of the initial weights; with a path as its argument it also draws the figure of
//! docs/batch_norm.md.
//!
//! "Without" is the evaluation mode of a fresh network: its running mean is 0 and its running variance is 1, so a batch
//! norm computes y = gamma · x + beta and normalises nothing. Both have the same parameters, gamma and beta included.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use ndarray::{Array2, Axis};
use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::layers::{AvgPool2d, Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::architecture::Stage;
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::{Sgd, SgdConfig};
use resnet_by_hand::{Activation, Result};

const STEPS: usize = 30;

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // Ten photographs, one of each class, scaled down to 8x8 pixels.
    let batch = embedded::load().train.subset(&(0..10).collect::<Vec<_>>())?;
    let images = Normalization::CIFAR10.apply::<f64>(batch.pixels.view())?;
    let (images, _) = AvgPool2d::new([4, 4], [4, 4], [0, 0]).forward(&images)?;
    let labels: Vec<usize> = batch.labels.iter().map(|&label| label.into()).collect();

    let mut curves = Vec::new();
    println!("                                  with batch norm      without batch norm");
    println!("initial weights   learning rate     first   after {STEPS}     first   after {STEPS}");
    for (scale, class) in [(0.5, "a"), (1.0, "b"), (2.0, "c")] {
        for lr in [0.01, 0.1, 1.0] {
            print!("{scale:>3} x Kaiming's   {lr:>13}");
            for mode in [Mode::Train, Mode::Eval] {
                let losses = train(&images, &labels, mode, lr, scale)?;
                print!("{:>10.2}{:>11.2}", losses[0], losses[STEPS]);
                if lr == 0.1 {
                    curves.push((losses, scale, class, mode));
                }
            }
            println!();
        }
    }
    println!("\nguessing all ten classes equally: {:.2}", 10f64.ln());

    println!("\nhow far the scores of the ten photographs differ, before the first step");
    for scale in [0.5, 1.0, 2.0] {
        let [with, without] = [Mode::Train, Mode::Eval].map(|mode| differences(&images, mode, scale));
        println!("{scale:>3} x Kaiming's   with {:.1e}   without {:.1e}", with?, without?);
    }
    figure::save(draw(&curves))
}

/// Nine 3x3 convolutions of 8 channels, each followed by a batch norm and a ReLU; then a linear layer.
fn network(scale: f64) -> Result<ResNet<f64>> {
    let stages = vec![Stage { channels: 8, blocks: 4, stride: 1 }];
    let plain = Architecture { stem_channels: 8, stages, ..Architecture::by_name("plain8")? };
    let mut model = ResNet::new(&plain, 1)?;
    for conv in model.convs_mut() {
        conv.weight *= scale;
    }
    Ok(model)
}

/// The root of the mean square distance of a score from its mean over the photographs.
fn differences(images: &Activation<f64>, mode: Mode, scale: f64) -> Result<f64> {
    let (logits, _) = network(scale)?.forward(images, mode)?;
    Ok(logits.var_axis(Axis(0), 0.0).mean().expect("ten classes").sqrt())
}

/// The loss before every step, and after the last; NaN once it is not a number any more.
fn train(images: &Activation<f64>, labels: &[usize], mode: Mode, lr: f64, scale: f64) -> Result<Vec<f64>> {
    let mut model = network(scale)?;
    let mut sgd = Sgd::new(SgdConfig { momentum: 0.0, weight_decay: 0.0, ..SgdConfig::default() })?;
    let loss_layer = SoftmaxCrossEntropy::new();
    let mut losses = vec![f64::NAN; STEPS + 1];
    for known in &mut losses {
        let (logits, cache) = model.forward(images, mode)?;
        let (loss, loss_cache) = loss_layer.forward(&logits, labels)?;
        if !loss.is_finite() {
            break;
        }
        *known = loss;
        let dlogits: Array2<f64> = loss_layer.backward(&loss_cache);
        let gradients = model.parameter_gradients(&dlogits, cache)?;
        sgd.step(&mut model, &gradients, lr)?;
    }
    Ok(losses)
}

/// Loss against step for learning rate 0.1, solid with batch norm, dashed without; only the part below 3 is drawn.
fn draw(curves: &[(Vec<f64>, f64, &str, Mode)]) -> Figure {
    let mut figure = Figure::new(
        640.0,
        330.0,
        "Loss of a plain network against steps for three initial scales, with and without batch norm",
    );
    let axes = Axes {
        corner: [50.0, 50.0],
        size: [360.0, 230.0],
        x: Scale::Linear(0.0, STEPS as f64),
        y: Scale::Linear(1.0, 3.0),
    };
    let y_ticks = [(1.0, "1"), (1.5, "1.5"), (2.0, "2"), (2.303, "2.303"), (3.0, "3")];
    axes.draw(
        &mut figure,
        &[(0.0, "0"), (10.0, "10"), (20.0, "20"), (30.0, "30")],
        &y_ticks,
        ["step", "loss, learning rate 0.1"],
    );
    for (place, (losses, scale, class, mode)) in curves.iter().enumerate() {
        let points = losses.iter().enumerate().filter(|(_, loss)| **loss < 3.0);
        let points: Vec<[f64; 2]> = points.map(|(step, &loss)| [step as f64, loss]).collect();
        let (dashed, name) = if *mode == Mode::Train { (false, "with") } else { (true, "without") };
        axes.plot(&mut figure, &points, class, dashed);
        let y = 80.0 + 24.0 * place as f64 + 16.0 * (place / 2) as f64;
        figure.lines(&[[430.0, y], [455.0, y]], class, dashed);
        figure.text([462.0, y + 4.5], Anchor::Start, &format!("{name}, {scale} x weights"));
    }
    figure
}
