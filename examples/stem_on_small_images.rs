//! What an ImageNet stem does to a 32x32 image.
//!
//! `cargo run --example stem_on_small_images`
//!
//! ...

use resnet_by_hand::data::embedded;
use resnet_by_hand::model::{Architecture, ResNet, Stem};
use resnet_by_hand::train::{evaluate, Recipe, Trainer};
use std::ops::ControlFlow;
use std::sync::Arc;

fn main() -> resnet_by_hand::Result<()> {
    let splits = embedded::load();
    let (train, test) = (Arc::new(splits.train), Arc::new(splits.test));
    println!(
        "{:<10} {:<16} {:>12} {:>10} {:>14}",
        "stem", "pixels by stage", "mult.-adds", "train loss", "test accuracy"
    );
    for stem in [Stem::Cifar, Stem::ImageNet] {
        let architecture = Architecture { stem, ..Architecture::by_name("resnet8")? };
        let recipe = Recipe { epochs: 20, ..Recipe::by_name("demo")? };
        let model = ResNet::<f32>::new(&architecture, recipe.seed)?;
        let multiply_adds = model.cost(1, [32, 32])?.multiply_adds;
        let side = if stem == Stem::Cifar { 32 } else { 8 };
        let sides = [side, side / 2, side / 4].map(|side| format!("{side}x{side}")).join(" ");

        let mut trainer = Trainer::new(model, recipe, train.clone())?;
        let mut loss = f64::NAN;
        while !trainer.is_done() {
            if let Some(epoch) = trainer.train_epoch(&mut |_| ControlFlow::Continue(()))? {
                loss = epoch.loss;
            }
        }
        let evaluation = evaluate(trainer.model(), &test, trainer.recipe().normalization, 100)?;
        let name = format!("{stem:?}");
        println!("{name:<10} {sides:<16} {multiply_adds:>12} {loss:>10.3} {:>13.1} %", 100.0 * evaluation.accuracy());
    }
    Ok(())
}
