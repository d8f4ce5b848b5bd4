//! What happens to the scale of the values and of the gradients with depth, before training, for three initial scales of
//! the weights.
//!
//! `cargo run --release --example book -- initialisation` measures plain networks of 3x3 convolutions and ReLUs,
//! without batch norm, on embedded photographs; with a path as its argument it also draws the figure of
//! docs/initialisation.md.
//!
//! The library draws weights with the standard deviation √2/√fan_out (the gain √2). Here they are multiplied to get other
//! gains. "Without batch norm" is the evaluation mode of a fresh network, whose running mean is 0 and running variance 1.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::layers::{GlobalAvgPool, Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::architecture::{ShortcutOption, Stage};
use resnet_by_hand::model::resnet::StemLayers;
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::{Activation, Gradients, Result};
use std::f64::consts::SQRT_2;

const BLOCKS: usize = 25;
const CHANNELS: usize = 16;

/// The library's gain √2 is multiplied by the second value.
const GAINS: [(&str, f64, &str); 3] = [("1", 1.0 / SQRT_2, "b"), ("√2", 1.0, "a"), ("2", SQRT_2, "c")];

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (images, labels) = photographs()?;

    println!("rms of the values h and of dh in a plain network of {} convolutions", 2 * BLOCKS + 1);
    println!("gain   h first   h last   per layer    dh last   dh first   per layer   predicted");
    let mut curves = Vec::new();
    for (name, factor, class) in GAINS {
        let mut model = network(ShortcutOption::Absent)?;
        model.convs_mut().into_iter().for_each(|conv| conv.weight *= factor);
        let (h, dh, _) = measure(&model, Mode::Eval, &images, &labels)?;
        let (h_last, dh_last) = (h[BLOCKS], dh[BLOCKS]);
        let per_layer = |ratio: f64| ratio.powf(0.5 / BLOCKS as f64);
        println!(
            "{name:<4}{:>10.2}{h_last:>9.1e}{:>12.2}{dh_last:>11.1e}{:>11.1e}{:>12.2}{:>12.2}",
            h[0],
            per_layer(h_last / h[0]),
            dh[0],
            per_layer(dh[0] / dh_last),
            factor,
        );
        curves.push((name, class, h, dh));
    }

    println!("\na residual network of as many convolutions, with batch norm");
    println!("              rms of h after block                        gradients in the first block");
    println!("                 0      5     10     15     20     25        ‖dgamma‖    ‖dweight‖");
    for (name, zero) in [("last gamma 1", false), ("last gamma 0", true)] {
        let mut model = network(ShortcutOption::A)?;
        if zero {
            model.zero_init_residual()?;
        }
        let (h, _, first) = measure(&model, Mode::Train, &images, &labels)?;
        let cells: String = h.iter().step_by(5).map(|rms| format!("{rms:>7.2}")).collect();
        let norm = |name| first.get(name).expect("a basic block").iter().map(|g| g * g).sum::<f64>().sqrt();
        println!("{name} {cells}{:>16.1e}{:>13.1e}", norm("bn2.weight"), norm("conv2.weight"));
    }
    figure::save(draw(&curves))
}

/// Five photographs as the network reads them, and their classes.
fn photographs() -> Result<(Activation<f64>, Vec<usize>)> {
    let batch = embedded::load().train.subset(&(0..5).collect::<Vec<_>>())?;
    let images = Normalization::CIFAR10.apply(batch.pixels.view())?;
    Ok((images, batch.labels.iter().map(|&label| label.into()).collect()))
}

/// A stem and blocks of two 3x3 convolutions, all of the same width.
fn network(shortcut: ShortcutOption) -> Result<ResNet<f64>> {
    let stages = vec![Stage { channels: CHANNELS, blocks: BLOCKS, stride: 1 }];
    let base = Architecture::by_name("resnet8")?;
    ResNet::new(&Architecture { stem_channels: CHANNELS, stages, shortcut, ..base }, 1)
}

/// The rms of h after the stem and after every block, the rms of dh, the gradient of the loss with respect to h, and the
/// gradients of the first block's parameters.
fn measure(
    model: &ResNet<f64>,
    mode: Mode,
    x: &Activation<f64>,
    labels: &[usize],
) -> Result<(Vec<f64>, Vec<f64>, Gradients<f64>)> {
    let StemLayers::Unit(stem) = &model.stem else { panic!("resnet8 has a stem with batch norm") };
    let blocks = &model.stages[0];
    let (mut h, _) = stem.forward(x, mode)?;
    let (mut h_rms, mut caches) = (vec![rms(&h)], Vec::new());
    for block in blocks {
        let (y, cache) = block.forward(&h, mode)?;
        h = y;
        h_rms.push(rms(&h));
        caches.push(cache);
    }
    let (features, pool) = GlobalAvgPool.forward(&h)?;
    let (logits, fc) = model.fc.forward(&features)?;
    let loss_layer = SoftmaxCrossEntropy::new();
    let (_, loss) = loss_layer.forward(&logits, labels)?;

    let (dfeatures, _) = model.fc.backward(&loss_layer.backward(&loss), &fc)?;
    let mut dh = GlobalAvgPool.backward(&dfeatures, &pool)?;
    let (mut dh_rms, mut gradients) = (vec![rms(&dh)], Gradients::new());
    for (block, cache) in blocks.iter().zip(&caches).rev() {
        let (dx, grads) = block.backward(&dh, cache)?;
        dh = dx;
        dh_rms.push(rms(&dh));
        gradients = Gradients::new();
        grads.collect(block, "", &mut gradients);
    }
    dh_rms.reverse();
    Ok((h_rms, dh_rms, gradients))
}

/// The root of the mean of the squares.
fn rms(values: &Activation<f64>) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
}

/// A name, a colour, the rms of h and that of dh.
type Curve = (&'static str, &'static str, Vec<f64>, Vec<f64>);

fn draw(curves: &[Curve]) -> Figure {
    let mut figure = Figure::new(640.0, 330.0, "Scale of values and gradients against depth for three gains");
    let ticks = [(1e-8, "1e-8"), (1e-4, "1e-4"), (1.0, "1"), (1e4, "1e4"), (1e8, "1e8")];
    let titles = ["rms of h, divided by that of the first layer", "rms of dh, divided by that of the last layer"];
    for (panel, title) in titles.into_iter().enumerate() {
        let axes = Axes {
            corner: [52.0 + 300.0 * panel as f64, 44.0],
            size: [240.0, 220.0],
            x: Scale::Linear(0.0, 50.0),
            y: Scale::Log(1e-11, 1e9),
        };
        axes.draw(&mut figure, &[(0.0, "1"), (25.0, "26"), (50.0, "51")], &ticks, ["convolution", title]);
        for (name, class, h, dh) in curves {
            let (values, first) = if panel == 0 { (h, h[0]) } else { (dh, dh[BLOCKS]) };
            let points: Vec<_> = values.iter().enumerate().map(|(i, rms)| [2.0 * i as f64, rms / first]).collect();
            axes.plot(&mut figure, &points, class, false);
            // Beside the middle of the curve, on its upper side.
            let [x, y] = axes.at(points[BLOCKS / 2]);
            let (x, anchor) =
                if values[BLOCKS] > values[0] { (x - 8.0, Anchor::End) } else { (x + 8.0, Anchor::Start) };
            figure.styled_text([x, y - 8.0], anchor, "", 12.0, &format!("gain {name}"));
        }
    }
    figure
}
