//! One photograph through one residual block, forward and backward, with every intermediate value printed.
//!
//! `cargo run --release --example book -- inspect_block` prints the values; with a path as its argument it also draws
//! the three shortcuts, the figure of docs/residual_block.md.
//!
//! The block is `layer2.0` of a newly initialised ResNet-20: 16 to 32 channels, 32x32 to 16x16 pixels, option A on its
//! shortcut. The example calls the layers of the block one by one, as `ResidualBlock` does, and compares the results
//! with those of `ResidualBlock` at the end. dy is the true gradient of the loss of this one image, propagated back
//! through all layers after the block.
//!
//! What to look at:
//!
//! - bn1, bn2: mean 0 and standard deviation 1.00. Before them, after the convolutions, it is 1.58 and 0.885:
//!   batch norm removes the effect of a convolution on the scale.
//! - relu: 48 % zeros, nearly the half that is expected of values with mean 0; dbn1 has zeros at the same 48 %.
//! - S(x): 64 % zeros. 50 % are the 16 channels of padding, the others come from the ReLU before the block.
//! - F(x) + S(x) is negative down to -3.7: the ReLU comes after the addition, so a block can subtract as well as add.
//! - dconv2, dconv1: mean 0, up to rounding. Before a batch norm the gradient sums to zero, because there
//!   dx is gamma · rstd · (dy − mean(dy) − …).
//! - dx through S: 82 % zeros, because three of four pixels were skipped (75 %) and some gates of ds are closed. The
//!   rest is ds itself, unscaled: the extremes, -4.98e-3 and 6.40e-3, are those of ds. No weight has changed them.
//! - dx: every pixel has a gradient again. Through S alone three of four would have none.

use crate::figure::{self, Anchor, Figure};
use ndarray::Array2;
use resnet_by_hand::Activation;
use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::layers::{GlobalAvgPool, Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::resnet::StemLayers;
use resnet_by_hand::model::{Architecture, Block, ResNet};

const TRAIN: Mode = Mode::Train;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let image = embedded::load().train.subset(&[6])?;
    let x = Normalization::CIFAR10.apply::<f64>(image.pixels.view())?;
    let label = usize::from(image.labels[0]);
    println!("a {} ({})", image.classes[label], image.source);

    let model = ResNet::<f64>::new(&Architecture::by_name("resnet20")?, 1)?;
    let (StemLayers::Unit(stem), Block::Residual(block)) = (&model.stem, &model.stages[1][0]) else {
        panic!("resnet20 has a stem with batch norm and blocks with the ReLU after the addition");
    };

    // The layers before the block.
    let (mut x, _) = stem.forward(&x, TRAIN)?;
    for block in &model.stages[0] {
        x = block.forward(&x, TRAIN)?.0;
    }

    println!("\nforward: y = relu(F(x) + S(x)),  F = bn2(conv2(relu(bn1(conv1(x)))))");
    header();
    let [first, second] = block.branch.as_slice() else { panic!("a basic block has two units") };
    let relu1 = first.activation.as_ref().expect("the first unit ends in a ReLU");
    show("x", &x);
    let (a1, conv1) = first.conv.forward(&x)?;
    show("conv1(x)", &a1);
    let (b1, bn1) = first.bn.forward(&a1, TRAIN)?;
    show("bn1", &b1);
    let (h1, gate1) = relu1.forward(&b1);
    show("relu", &h1);
    let (a2, conv2) = second.conv.forward(&h1)?;
    show("conv2", &a2);
    let (f, bn2) = second.bn.forward(&a2, TRAIN)?;
    show("bn2 = F(x)", &f);
    let (s, shortcut) = block.shortcut.forward(&x, TRAIN)?;
    let s = s.expect("option A has a result");
    show("S(x)", &s);
    let sum = (&f + &s).into_shared();
    show("F(x) + S(x)", &sum);
    let (y, gate) = block.activation.forward(&sum);
    show("y", &y);

    // Forward to the loss, and backward to the block: dy is the gradient that this block receives.
    let rest: Vec<_> = model.stages.iter().flatten().skip(model.stages[0].len() + 1).collect();
    let (mut h, mut caches) = (y.clone(), Vec::new());
    for block in &rest {
        let (y, cache) = block.forward(&h, TRAIN)?;
        h = y;
        caches.push(cache);
    }
    let (features, pool) = GlobalAvgPool.forward(&h)?;
    let (logits, fc): (Array2<f64>, _) = model.fc.forward(&features)?;
    let (loss, loss_cache) = SoftmaxCrossEntropy::new().forward(&logits, &[label])?;
    let (dfeatures, _) = model.fc.backward(&SoftmaxCrossEntropy::new().backward(&loss_cache), &fc)?;
    let mut dy = GlobalAvgPool.backward(&dfeatures, &pool)?;
    for (block, cache) in rest.iter().zip(&caches).rev() {
        dy = block.backward(&dy, cache)?.0;
    }

    println!("\nbackward, loss {loss:.4}: the same names, last step first");
    header();
    show("dy", &dy);
    let ds = block.activation.backward(&dy, &gate)?;
    show("ds", &ds);
    let (da2, dbn2) = second.bn.backward(&ds, &bn2)?;
    show("dconv2", &da2);
    let (dh1, dconv2) = second.conv.backward(&da2, &conv2)?;
    show("drelu", &dh1);
    let db1 = relu1.backward(&dh1, &gate1)?;
    show("dbn1", &db1);
    let (da1, dbn1) = first.bn.backward(&db1, &bn1)?;
    show("dconv1", &da1);
    let (dx_branch, dconv1) = first.conv.backward(&da1, &conv1)?;
    show("dx through F", &dx_branch);
    let dx_shortcut = block.shortcut.backward(&ds, &shortcut)?.0.expect("option A has a result");
    show("dx through S", &dx_shortcut);
    let dx = (&dx_branch + &dx_shortcut).into_shared();
    show("dx", &dx);

    println!("\ngradients of the parameters");
    let norm = |values: &mut dyn Iterator<Item = &f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    for (name, shape, norm) in [
        ("conv1.weight", dconv1.weight.shape(), norm(&mut dconv1.weight.iter())),
        ("bn1.weight (gamma)", dbn1.gamma.shape(), norm(&mut dbn1.gamma.iter())),
        ("bn1.bias (beta)", dbn1.beta.shape(), norm(&mut dbn1.beta.iter())),
        ("conv2.weight", dconv2.weight.shape(), norm(&mut dconv2.weight.iter())),
        ("bn2.weight (gamma)", dbn2.gamma.shape(), norm(&mut dbn2.gamma.iter())),
        ("bn2.bias (beta)", dbn2.beta.shape(), norm(&mut dbn2.beta.iter())),
    ] {
        println!("{name:<20} {:<18} norm {norm:.3e}", format!("{shape:?}"));
    }

    // The block gives bit-identical results.
    let (y_block, cache) = block.forward(&x, TRAIN)?;
    let (dx_block, _) = block.backward(&dy, &cache)?;
    assert_eq!((y, dx), (y_block, dx_block));
    println!("\nResidualBlock::forward and backward give bit-identical y and dx");
    figure::save(draw())
}

fn header() {
    println!(
        "{:<14} {:<18} {:>10} {:>10} {:>10} {:>10} {:>7}",
        "", "(N, H, W, C)", "mean", "std", "min", "max", "zeros"
    );
}

fn show(name: &str, a: &Activation<f64>) {
    let m = a.len() as f64;
    let mean = a.sum() / m;
    let std = (a.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / m).sqrt();
    // The digits of a mean that is 0 up to rounding depend on the processor.
    let mean = if mean.abs() < 1e-12 * std { 0.0 } else { mean };
    let (min, max) = a.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), &v| (v.min(min), v.max(max)));
    let zeros = 100.0 * a.iter().filter(|&&v| v == 0.0).count() as f64 / m;
    let shape = format!("{:?}", a.shape());
    println!("{name:<14} {shape:<18} {mean:>10.2e} {std:>10.2e} {min:>10.2e} {max:>10.2e} {zeros:>5.1} %");
}

/// The block with the identity, option A and option B on its shortcut.
fn draw() -> Figure {
    let mut figure =
        Figure::new(780.0, 372.0, "A residual block with the identity, option A and option B as its shortcut");
    let panels = [
        ("identity", "x: 32x32, 16 channels", "conv₁ 3x3", "y: 32x32, 16 channels", None),
        (
            "option A",
            "x: 32x32, 16 channels",
            "conv₁ 3x3, stride 2",
            "y: 16x16, 32 channels",
            Some(["every 2nd pixel", "16 zero channels"]),
        ),
        (
            "option B, projection",
            "x: 32x32, 16 channels",
            "conv₁ 3x3, stride 2",
            "y: 16x16, 32 channels",
            Some(["conv 1x1, stride 2", "bn"]),
        ),
    ];
    for (panel, (title, x, conv, y, shortcut)) in panels.into_iter().enumerate() {
        let left = 20.0 + 256.0 * panel as f64;
        let (f, s) = (left + 62.0, left + 186.0);
        figure.styled_text([left, 22.0], Anchor::Start, "bold", 14.0, title);
        figure.text([f, 52.0], Anchor::Middle, x);
        // The shortcut leaves before the branch and ends at the addition.
        figure.lines(&[[f, 70.0], [s, 70.0], [s, 270.0], [f + 12.0, 270.0]], "b", false);
        figure.arrow([f + 30.0, 270.0], [f + 10.0, 270.0], "b");
        figure.line([f, 60.0], [f, 84.0], "ink");
        let mut boxed = |centre: f64, top: f64, class: &str, fill: &str, text: &str| {
            figure.rect([centre - 57.0, top], [114.0, 26.0], class, fill, if fill == "paper" { 1.0 } else { 0.15 });
            figure.styled_text([centre, top + 17.0], Anchor::Middle, "", 11.0, text);
        };
        for (i, text) in [conv, "bn₁, ReLU", "conv₂ 3x3", "bn₂"].into_iter().enumerate() {
            boxed(f, 84.0 + 40.0 * i as f64, "a", "fa", text);
        }
        for (i, text) in shortcut.into_iter().flatten().enumerate() {
            boxed(s, 114.0 + 56.0 * i as f64, "b", "paper", text);
        }
        boxed(f, 298.0, "a", "fa", "ReLU");
        for top in [110.0, 150.0, 190.0] {
            figure.arrow([f, top], [f, top + 14.0], "ink");
        }
        figure.arrow([f, 230.0], [f, 260.0], "ink");
        figure.text([f - 8.0, 249.0], Anchor::End, "F(x)");
        figure.text([s - 8.0, 264.0], Anchor::End, "S(x)");
        figure.rect([f - 10.0, 260.0], [20.0, 20.0], "ink", "paper", 1.0);
        figure.text([f, 275.0], Anchor::Middle, "+");
        figure.arrow([f, 280.0], [f, 298.0], "ink");
        figure.arrow([f, 324.0], [f, 342.0], "ink");
        figure.text([f, 358.0], Anchor::Middle, y);
    }
    figure
}
