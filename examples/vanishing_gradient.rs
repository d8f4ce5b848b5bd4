//! How much of the gradient reaches each layer? Plain against residual networks of growing depth, before training.
//!
//! `cargo run --example vanishing_gradient` prints a table and writes `vanishing_gradient.svg` (or the path you give).
//! docs/images/vanishing_gradient.svg is its output. dh is ∂loss/∂(output of the stem or a block), the signal that
//! is propagated back; ‖dweight‖ is what the optimiser gets. 20 embedded images, seed 1, f64.
//!
//! What to look at: the ratios "first / last". The textbook case is only one of three.
//!
//! - *No batch norm, weights 1/√2 of Kaiming's*, an initialisation like Glorot's of 2010: each ReLU halves the variance
//!   and nothing compensates for it. In plain110 ‖dh‖ falls from 1.5e-2 to 3.6e-20 on the way back, a factor of 1/√2
//!   per layer: the vanishing gradient. resnet110 keeps it within a factor of 110, because the identity carries it past
//!   the weights.
//! - ‖dweight‖ of the same plain110 is between 1e-21 and 1e-19 in *every* layer, in the first ones no smaller than in
//!   the last. dweight = colsᵀ · dy is a product of the forward and the backward signal; both shrink on their way, and
//!   the product is about the same at every depth. All layers learn equally little.
//! - *No batch norm, Kaiming start*: the variance 2/fan_out compensates for the ReLU on average, and plain110 loses
//!   only a factor of 23. Now the residual networks have a problem: each block doubles the variance, and ‖dh‖ of
//!   resnet110 grows 1e8-fold. A shortcut alone does not help; it needs a branch that starts small (zero-init gamma) or
//!   is normalised.
//! - *Batch norm, Kaiming start*, the networks that the paper trained: in plain110 the gradient does not vanish, it
//!   *explodes*, 7e7-fold, 1.18 per layer. Yang et al. 2019 (arXiv 1902.08129) show that batch norm itself causes this.
//!   In resnet110 it grows 110-fold over the same depth, and ‖dweight‖ stays between 0.2 and 12. The paper says that
//!   vanishing gradients are unlikely to be the reason why deep plain networks fail (section 4.1); here they explode.

use resnet_by_hand::Gradients;
use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::layers::{GlobalAvgPool, Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::resnet::StemLayers;
use resnet_by_hand::model::{Architecture, ResNet};
use std::f64::consts::FRAC_1_SQRT_2;
use std::fmt::Write as _;

const DEPTHS: [usize; 4] = [8, 20, 56, 110];
const IMAGES: usize = 20;

/// (title, mode, factor on the convolutions' initial weights). `Eval` on a fresh network: running mean 0 and variance 1
/// make every batch norm the identity (up to eps).
const SETTINGS: [(&str, Mode, f64); 3] = [
    ("batch norm, Kaiming start", Mode::Train, 1.0),
    ("no batch norm, Kaiming start", Mode::Eval, 1.0),
    ("no batch norm, weights 1/√2 of it", Mode::Eval, FRAC_1_SQRT_2),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut panels = Vec::new();
    for (title, mode, factor) in SETTINGS {
        println!("\n{title}");
        println!("{:<10} {:>29} {:>31}", "", "‖dh‖ after the", "‖dweight‖ of the");
        println!("{:<10} {:>9} {:>9} {:>9}   {:>9} {:>9} {:>9}", "", "stem", "last", "ratio", "first", "last", "ratio");
        let (mut signals, mut weights) = (Vec::new(), Vec::new());
        for depth in DEPTHS {
            for family in ["plain", "resnet"] {
                let (dh, dweight) = norms(&format!("{family}{depth}"), mode, factor)?;
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
        panels.push((format!("‖dh‖: {title}"), signals));
        panels.push((format!("‖dweight‖: {title}"), weights));
    }
    let path = std::env::args().nth(1).unwrap_or_else(|| "vanishing_gradient.svg".to_string());
    std::fs::write(&path, svg(&panels))?;
    println!("\nplot written to {path}");
    Ok(())
}

/// (‖dh‖ after the stem and after every block, ‖dweight‖ of every convolution), first layer first, of a fresh network.
/// In `f64`: some of these values are too small for `f32`.
fn norms(name: &str, mode: Mode, factor: f64) -> resnet_by_hand::Result<(Vec<f64>, Vec<f64>)> {
    let batch = embedded::load().train.subset(&(0..IMAGES).collect::<Vec<_>>())?;
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

/// Panels in two rows, filled column by column; first layer left, last layer right, norms on a log scale.
fn svg(panels: &[(String, Vec<Curve>)]) -> String {
    let (width, height, left, top) = (290.0, 250.0, 60.0, 40.0);
    let total = panels.len().div_ceil(2) as f64 * (width + left) + 110.0;
    let view = format!("viewBox='0 0 {total} {}'", 2.0 * (height + top) + 40.0);
    let mut s = format!("<svg xmlns='http://www.w3.org/2000/svg' {view} font-family='sans-serif' font-size='12'>\n");
    let _ = writeln!(s, "<rect width='100%' height='100%' fill='white'/>");
    for (i, (title, curves)) in panels.iter().enumerate() {
        let (x0, y0) = (left + (i / 2) as f64 * (width + left), top + (i % 2) as f64 * (height + top + 10.0));
        let logs = || curves.iter().flat_map(|(_, _, norms)| norms.iter().map(|n| n.log10()));
        let (low, high) = (logs().fold(f64::MAX, f64::min).floor(), logs().fold(f64::MIN, f64::max).ceil());
        let y_of = |log: f64| y0 + height * (high - log) / (high - low);
        let _ = writeln!(s, "<text x='{x0}' y='{}' font-weight='bold'>{title}</text>", y0 - 8.0);
        let _ = writeln!(s, "<rect x='{x0}' y='{y0}' width='{width}' height='{height}' fill='none' stroke='#888'/>");
        for tick in (low as i32..=high as i32).step_by(((high - low) / 8.0).ceil() as usize) {
            let y = y_of(f64::from(tick));
            let _ = writeln!(s, "<path d='M{x0} {y:.1} h{width}' stroke='#ddd'/>");
            let _ = writeln!(s, "<text x='{}' y='{:.1}' text-anchor='end'>1e{tick}</text>", x0 - 5.0, y + 4.0);
        }
        for (family, depth, norms) in curves {
            let x_of = |place: usize| x0 + width * place as f64 / (norms.len() - 1) as f64;
            let points = norms.iter().enumerate().map(|(i, n)| format!("{:.1},{:.1} ", x_of(i), y_of(n.log10())));
            let (points, colour) = (points.collect::<String>(), colour(family, *depth));
            let _ = writeln!(s, "<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1.5'/>");
        }
        let _ = writeln!(s, "<text x='{x0}' y='{}'>first layer</text>", y0 + height + 14.0);
        let (x, y) = (x0 + width, y0 + height + 14.0);
        let _ = writeln!(s, "<text x='{x}' y='{y}' text-anchor='end'>last layer</text>");
    }
    for (i, (family, depth, _)) in panels[0].1.iter().enumerate() {
        let (x, y, colour) = (total - 95.0, top + 10.0 + 20.0 * i as f64, colour(family, *depth));
        let _ = writeln!(s, "<path d='M{x} {y} h20' stroke='{colour}' stroke-width='3'/>");
        let _ = writeln!(s, "<text x='{}' y='{}'>{family}{depth}</text>", x + 26.0, y + 4.0);
    }
    s + "</svg>\n"
}

/// Reds for plain, blues for residual networks, darker with depth.
fn colour(family: &str, depth: usize) -> &'static str {
    let shade = DEPTHS.iter().position(|&d| d == depth).expect("one of the depths");
    match family {
        "plain" => ["#f4a582", "#e9705a", "#c92a33", "#7f0018"][shade],
        _ => ["#92c5de", "#5a9fca", "#2166ac", "#0b2f66"][shade],
    }
}
