//! Chapter 15 of the book: from photographs to batches.
//!
//! `cargo run --release --example book -- augmentation` prints the mean and the spread of the training photographs,
//! windows of a small picture that can be checked by hand, the batches of some epochs, and what a seed makes of one
//! photograph; with a path as its argument it also draws the figure of docs/augmentation.md.

use crate::figure::{self, Anchor, Figure};
use ndarray::Axis;
use resnet_by_hand::Result;
use resnet_by_hand::data::augment::{Augmentation, Hole, Variant};
use resnet_by_hand::data::loader::LoaderOptions;
use resnet_by_hand::data::mixup::Mix;
use resnet_by_hand::data::{Batch, Dataset, Loader, Normalization, embedded};
use std::sync::Arc;

/// The seed of everything that is random here. With this one mixup gives the horse the ship in all four epochs; in a batch of
/// two, the partner is in half of the cases the horse itself.
const SEED: u64 = 80;
/// Two photographs of the training set: a horse, and the ship with which it is mixed.
const HORSE: usize = 47;
const SHIP: usize = 28;
/// The epochs whose variants are drawn.
const EPOCHS: [u64; 4] = [0, 1, 2, 3];
/// The side of the square that cutout hides, and the α of mixup.
const HIDDEN: usize = 16;
const ALPHA: f64 = 1.0;

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let train = Arc::new(embedded::load().train);
    statistics(&train)?;
    windows_of_a_small_picture()?;

    println!("\nten photographs in batches of four");
    let ten = Arc::new(train.subset(&(0..10).collect::<Vec<_>>())?);
    let loader = Loader::<f32>::new(ten, LoaderOptions::training(4, Normalization::CIFAR10, SEED))?;
    for epoch in EPOCHS {
        let batches: Vec<String> =
            loader.epoch(epoch).map(|batch| Ok(format!("{:?}", batch?.indices))).collect::<Result<_>>()?;
        println!("epoch {epoch}: {}", batches.join("  "));
    }

    println!("\nphotograph {HORSE}, seed {SEED}");
    println!("epoch   top   left   mirrored   hole around   mixed with      λ");
    let augmentation = Augmentation { cutout: HIDDEN, ..Augmentation::STANDARD };
    for epoch in EPOCHS {
        let Variant { top, left, flip, hole, .. } = augmentation.variant(SEED, epoch, HORSE, [32, 32]);
        let Mix { lambda, partners } = mix(epoch);
        let partner = [HORSE, SHIP][partners[0]];
        let middle = format!("{:?}", hole.expect("cutout hides a square").middle);
        println!("{epoch:>5} {top:>5} {left:>6} {flip:>10} {middle:>13} {partner:>12} {lambda:>6.2}");
    }

    let loader = Loader::<f32>::new(train.clone(), LoaderOptions::training(128, Normalization::CIFAR10, SEED))?;
    let batches: Vec<Batch<f32>> = loader.epoch(1).collect::<Result<_>>()?;
    let batch = batches.iter().find(|batch| batch.indices.contains(&HORSE)).expect("an epoch uses every photograph");
    let at = batch.indices.iter().position(|&index| index == HORSE).expect("found above");
    println!("\nphotograph {HORSE} in epoch 1 is number {at} of a batch of {}", batch.indices.len());
    for epoch in [1, 2] {
        let alone = loader.batch(epoch, &[HORSE])?.images;
        let equal = alone.index_axis(Axis(0), 0) == batch.images.index_axis(Axis(0), at);
        println!("the same values as in a batch of its own, epoch {epoch}: {equal}");
    }

    figure::save(draw(&train))
}

/// Mean and standard deviation of the colours, and what they mean for the steps of the training.
fn statistics(train: &Dataset) -> Result<()> {
    let (mean, std) = train.mean_and_std()?;
    let mut own = [0.0; 3];
    for i in 0..train.len() {
        let (_, std) = train.subset(&[i])?.mean_and_std()?;
        own.iter_mut().zip(std).for_each(|(own, std)| *own += std / train.len() as f64);
    }
    println!("{} training photographs                  red    green     blue", train.len());
    for (name, values) in [("mean", mean), ("standard deviation", std), ("mean of each photograph's own", own)] {
        println!("{name:<36}{}", values.map(|v| format!("{v:>9.4}")).concat());
    }

    println!("\nred as x of y = weight · x + bias         E[x]      E[x²]   steepest/flattest");
    let (m, s) = (mean[0], std[0]);
    for (x, m, s) in [("p", 255.0 * m, 255.0 * s), ("p/255", m, s), ("(p/255 − mean)/std", 0.0, 1.0)] {
        // The matrix of the curvatures, [E[x²], E[x]; E[x], 1], has this trace, the determinant s², and two eigenvalues.
        let trace = m * m + s * s + 1.0;
        let root = (trace * trace - 4.0 * s * s).max(0.0).sqrt();
        // The product of the eigenvalues is s²: so the smaller one is not computed as a difference.
        let steepest = (trace + root) / 2.0;
        println!("{x:<36} {m:>9.2} {:>10.2} {:>19.1}", m * m + s * s, steepest * steepest / (s * s));
    }
    Ok(())
}

/// 4x4 pixels, padded with one black pixel on each side.
fn windows_of_a_small_picture() -> Result<()> {
    let image: Vec<u8> = (1..=16).flat_map(|p| [p; 3]).collect();
    // (p/255 − 0) / (1/255) = p: the bytes themselves.
    let bytes = Normalization::new([0.0; 3], [1.0 / 255.0; 3])?.table::<f64>();
    let unchanged = Variant { padding: 1, top: 1, left: 1, flip: false, hole: None };
    let moved = Variant { top: 0, left: 2, ..unchanged };
    let variants = [
        ("top 1, left 1", unchanged),
        ("top 0, left 2", moved),
        ("and mirrored", Variant { flip: true, ..moved }),
        ("hole at (2, 2)", Variant { hole: Some(Hole { middle: [2, 2], side: 2 }), ..unchanged }),
    ];
    let written = variants.map(|(_, variant)| {
        let mut y = vec![f64::NAN; image.len()];
        variant.write(&image, 4, &bytes, &mut y);
        y
    });
    println!("\n{}", variants.map(|(name, _)| format!("{name:<17}")).concat().trim_end());
    for row in 0..4 {
        let red = |y: &Vec<f64>| (0..4).map(|column| format!("{:>3.0}", y[3 * (4 * row + column)])).collect::<String>();
        println!("{}", written.each_ref().map(|y| format!("{:<17}", red(y))).concat().trim_end());
    }
    Ok(())
}

/// How a batch of the horse and the ship is mixed.
fn mix(epoch: u64) -> Mix {
    Mix::draw(ALPHA, SEED, epoch, HORSE, 2)
}

/// The side of a picture in the figure, and the left edge of that of an epoch.
const SIDE: f64 = 96.0;
fn column(epoch: usize) -> f64 {
    196.0 + 108.0 * epoch as f64
}

fn draw(train: &Dataset) -> Figure {
    let title =
        "A photograph of a horse, four random windows of it, the same with a hidden square, and mixed with a ship";
    let mut figure = Figure::new(640.0, 466.0, title);
    figure.photograph("horse", train.image(HORSE));
    figure.photograph("ship", train.image(SHIP));

    // The padded photograph, 40 pixels wide, and the windows of the epochs in it.
    let (corner, pixel) = ([20.0, 40.0], 3.75);
    figure.window(corner, 40.0 * pixel, 40, "<rect width='40' height='40'/><use href='#horse' x='4' y='4'/>");
    caption(&mut figure, [20.0, 206.0], "padded with 4 black pixels,");
    caption(&mut figure, [20.0, 221.0], "and the windows of the epochs");
    figure.window([20.0, 330.0], SIDE, 32, "<use href='#ship'/>");
    caption(&mut figure, [20.0, 442.0], "another photograph");

    let standard = Augmentation::STANDARD;
    let cutout = Augmentation { cutout: HIDDEN, ..standard };
    for (i, (epoch, class)) in EPOCHS.into_iter().zip(["a", "b", "c", "d"]).enumerate() {
        let variant = |augmentation: Augmentation, index| augmentation.variant(SEED, epoch, index, [32, 32]);
        let left = column(i);
        figure.text([left, 28.0], Anchor::Start, &format!("epoch {epoch}"));

        let horse = variant(standard, HORSE);
        let at = [corner[0] + pixel * horse.left as f64, corner[1] + pixel * horse.top as f64];
        figure.rect(at, [32.0 * pixel; 2], class, "paper", 0.0);
        figure.window([left, 40.0], SIDE, 32, &shown("horse", horse));
        figure.rect([left, 40.0], [SIDE; 2], class, "paper", 0.0);
        let mirrored = if horse.flip { ", mirrored" } else { "" };
        caption(&mut figure, [left, 152.0], &format!("{}, {}{mirrored}", horse.top, horse.left));

        figure.window([left, 185.0], SIDE, 32, &shown("horse", variant(cutout, HORSE)));
        caption(&mut figure, [left, 297.0], "cutout");

        let Mix { lambda, partners } = mix(epoch);
        let partner = ["horse", "ship"][partners[0]];
        let other = shown(partner, variant(standard, [HORSE, SHIP][partners[0]]));
        let mixed = format!("{}<g opacity='{:.2}'>{other}</g>", shown("horse", horse), 1.0 - lambda);
        figure.window([left, 330.0], SIDE, 32, &mixed);
        caption(&mut figure, [left, 442.0], &format!("mixup, λ = {lambda:.2}"));
    }
    figure
}

fn caption(figure: &mut Figure, at: [f64; 2], text: &str) {
    figure.styled_text(at, Anchor::Start, "muted", 11.0, text);
}

/// What a variant shows of the photograph `id`, as SVG in pixels of the photograph.
fn shown(id: &str, Variant { padding, top, left, flip, hole }: Variant) -> String {
    let [right, down] = [left, top].map(|offset| padding as i64 - offset as i64);
    let mirror = if flip { "translate(32)scale(-1 1)" } else { "" };
    let picture =
        format!("<rect width='32' height='32'/><use href='#{id}' transform='{mirror}translate({right} {down})'/>");
    let hidden = hole.map(|Hole { middle: [r, s], side }| {
        let [x, y] = [s, r].map(|middle| middle as i64 - (side / 2) as i64);
        // The mean colour, which is 0 after the normalisation.
        format!("<rect x='{x}' y='{y}' width='{side}' height='{side}' fill='#7d7b72'/>")
    });
    picture + &hidden.unwrap_or_default()
}
