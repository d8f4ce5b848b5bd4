//! How much of the gradient reaches each layer? Plain against residual networks of growing depth, before training.
//!
//! `cargo run --release --example book -- vanishing_gradient` prints a table; with a path as its argument it also draws
//! the figure of docs/residual_block.md. dh is ∂loss/∂(output of the stem or a block), the signal that is propagated
//! back; ‖dweight‖ is what the optimiser gets. Three embedded photographs, seed 1, f64.
//!
//! What to look at: the ratios "first / last". The textbook case is only one of three.
//!
//! - *No batch norm, weights 1/√2 of Kaiming's*, an initialisation like Glorot's of 2010: each ReLU halves the variance
//!   and nothing compensates for it. In plain110 ‖dh‖ falls from 4.0e-2 to 8.9e-20 on the way back, a factor of 1/√2
//!   per layer: the vanishing gradient. resnet110 keeps it within a factor of 100, because the identity carries it past
//!   the weights.
//! - ‖dweight‖ of the same plain110 is between 1e-21 and 1e-18 in *every* layer, in the first ones no smaller than in
//!   the last. dweight = colsᵀ · dy is a product of the forward and the backward signal; both shrink on their way, and
//!   the product is about the same at every depth. All layers learn equally little.
//! - *No batch norm, Kaiming's start*: the variance 2/fan_out compensates for the ReLU on average, and plain110 loses
//!   only a factor of 25. Now the residual networks have a problem: each block doubles the variance, and ‖dh‖ of
//!   resnet110 grows 1e8-fold. A shortcut alone does not help; it needs a branch that starts small (zero-init gamma) or
//!   is normalised.
//! - *Batch norm, Kaiming's start*, the networks that the paper trained: in plain110 the gradient does not vanish, it
//!   *explodes*, 2.7e8-fold, 1.20 per layer. Yang et al. 2019 (arXiv 1902.08129) show that batch norm itself causes this.
//!   In resnet110 it grows 99-fold over the same depth. The paper says that vanishing gradients are unlikely to be the
//!   reason why deep plain networks fail (section 4.1); here they explode.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use resnet_by_hand::Gradients;
use resnet_by_hand::data::{Dataset, Normalization, embedded};
use resnet_by_hand::layers::{GlobalAvgPool, Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::resnet::StemLayers;
use resnet_by_hand::model::{Architecture, ResNet};
use std::f64::consts::FRAC_1_SQRT_2;

const DEPTHS: [usize; 4] = [8, 20, 56, 110];
/// The depths in the figure.
const DRAWN: [usize; 2] = [20, 110];
const IMAGES: usize = 3;

/// (title, mode, factor on the convolutions' initial weights). `Eval` on a fresh network: running mean 0 and variance 1
/// make every batch norm the identity (up to eps).
const SETTINGS: [(&str, Mode, f64); 3] = [
    ("batch norm", Mode::Train, 1.0),
    ("no batch norm", Mode::Eval, 1.0),
    ("no batch norm, weights / √2", Mode::Eval, FRAC_1_SQRT_2),
];

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batch = embedded::load().train.subset(&(0..IMAGES).collect::<Vec<_>>())?;
    let mut panels = Vec::new();
    for (title, mode, factor) in SETTINGS {
        println!("{title}");
        println!("{:<10} {:>29} {:>31}", "", "‖dh‖ after the", "‖dweight‖ of the");
        println!("{:<10} {:>9} {:>9} {:>9}   {:>9} {:>9} {:>9}", "", "stem", "last", "ratio", "first", "last", "ratio");
        let (mut signals, mut weights) = (Vec::new(), Vec::new());
        for depth in DEPTHS {
            for family in ["plain", "resnet"] {
                let (dh, dweight) = norms(&format!("{family}{depth}"), &batch, mode, factor)?;
                print!("{:<10}", format!("{family}{depth}"));
                for norms in [&dh, &dweight] {
                    let (first, last) = (norms[0], norms[norms.len() - 1]);
                    print!(" {first:>9.1e} {last:>9.1e} {:>9.1e}  ", first / last);
                }
                println!();
                signals.push((family, depth, dh));
                weights.push((family, depth, dweight));
            }
        }
        println!();
        panels.push((format!("‖dh‖, {title}"), signals));
        panels.push((format!("‖dweight‖, {title}"), weights));
    }
    figure::save(draw(&panels))
}

/// (‖dh‖ after the stem and after every block, ‖dweight‖ of every convolution), first layer first, of a fresh network.
/// In `f64`: some of these values are too small for `f32`.
fn norms(name: &str, batch: &Dataset, mode: Mode, factor: f64) -> resnet_by_hand::Result<(Vec<f64>, Vec<f64>)> {
    let labels: Vec<usize> = batch.labels.iter().map(|&label| label.into()).collect();
    let images = Normalization::CIFAR10.apply::<f64>(batch.pixels.view())?;
    let mut model = ResNet::<f64>::new(&Architecture::by_name(name)?, 1)?;
    for conv in model.convs_mut() {
        conv.weight *= factor;
    }
    let StemLayers::Unit(stem) = &model.stem else { panic!("{name} has a stem with batch norm") };
    let blocks: Vec<_> = model.stages.iter().flatten().collect();

    // Forward: the same as ResNet::forward.
    let (mut h, stem_cache) = stem.forward(&images, mode)?;
    let mut caches = Vec::new();
    for block in &blocks {
        let (y, cache) = block.forward(&h, mode)?;
        h = y;
        caches.push(cache);
    }
    let (features, pool) = GlobalAvgPool.forward(&h)?;
    let (logits, fc) = model.fc.forward(&features)?;
    let (_, loss) = SoftmaxCrossEntropy::new().forward(&logits, &labels)?;

    // Backward: the same steps in reverse, with a measurement after every block.
    let (dfeatures, _) = model.fc.backward(&SoftmaxCrossEntropy::new().backward(&loss), &fc)?;
    let mut dh = GlobalAvgPool.backward(&dfeatures, &pool)?;
    let (mut signals, mut weights) = (vec![norm(&dh)], Vec::new());
    for (block, cache) in blocks.iter().zip(&caches).rev() {
        let (dx, grads) = block.backward(&dh, cache)?;
        let mut gradients = Gradients::new();
        grads.collect(block, "", &mut gradients);
        weights.extend(["conv2.weight", "conv1.weight"].map(|name| norm(gradients.get(name).expect("a basic block"))));
        signals.push(norm(&dx));
        dh = dx;
    }
    weights.push(norm(&stem.parameter_gradients(&dh, &stem_cache)?.conv.weight));
    signals.reverse();
    weights.reverse();
    Ok((signals, weights))
}

fn norm<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// A family, its depth, and a norm for every layer from the first to the last.
type Curve = (&'static str, usize, Vec<f64>);

/// The curves of `DRAWN`: a column for each setting, above ‖dh‖, below ‖dweight‖; first layer left, last layer right.
fn draw(panels: &[(String, Vec<Curve>)]) -> Figure {
    let title = "Norms of the gradients in fresh plain and residual networks against the layer, for three settings";
    let mut figure = Figure::new(760.0, 540.0, title);
    for (i, (title, curves)) in panels.iter().enumerate() {
        let drawn = || curves.iter().filter(|(_, depth, _)| DRAWN.contains(depth));
        let logs = || drawn().flat_map(|(_, _, norms)| norms.iter().map(|norm| norm.log10()));
        let (low, high) = (logs().fold(f64::MAX, f64::min).floor(), logs().fold(f64::MIN, f64::max).ceil());
        let power = |log: f64| 10f64.powf(log);
        let axes = Axes {
            corner: [50.0 + 245.0 * (i / 2) as f64, 40.0 + 245.0 * (i % 2) as f64],
            size: [190.0, 180.0],
            x: Scale::Linear(0.0, 1.0),
            y: Scale::Log(power(low), power(high)),
        };
        let step = ((high - low) / 6.0).ceil() as usize;
        let labels: Vec<_> = (low as i32..=high as i32).step_by(step).map(|log| (log, format!("1e{log}"))).collect();
        let y_ticks: Vec<_> = labels.iter().map(|(log, label)| (power(f64::from(*log)), label.as_str())).collect();
        let title = title.replace("no batch norm", "no norm");
        axes.draw(&mut figure, &[(0.0, "first layer"), (1.0, "last")], &y_ticks, ["", &title]);
        for (family, depth, norms) in drawn() {
            let last = (norms.len() - 1) as f64;
            let points: Vec<_> = norms.iter().enumerate().map(|(i, norm)| [i as f64 / last, *norm]).collect();
            // A curve of 109 convolutions looks the same with every fourth one.
            let points: Vec<_> = points.iter().copied().step_by(norms.len().div_ceil(30)).collect();
            axes.plot(&mut figure, &points, class(family), *depth != DRAWN[1]);
        }
    }
    for (i, family) in ["plain", "resnet"].into_iter().enumerate() {
        for (j, depth) in DRAWN.into_iter().enumerate() {
            let x = 50.0 + 130.0 * (2 * i + j) as f64;
            figure.lines(&[[x, 522.0], [x + 24.0, 522.0]], class(family), j == 0);
            figure.text([x + 30.0, 526.0], Anchor::Start, &format!("{family}{depth}"));
        }
    }
    figure
}

fn class(family: &str) -> &'static str {
    if family == "plain" { "b" } else { "a" }
}
