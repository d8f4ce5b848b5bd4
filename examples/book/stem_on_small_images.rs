//! The effect of an ImageNet stem on a 32x32 image.
//!
//! `cargo run --release --example book -- stem_on_small_images`
//!
//! The ImageNet stem (7x7 stride 2, max pool stride 2) reduces a 32x32 photograph to 8x8 before the first stage. Here
//! the same ResNet-8 is trained with both stems, with the same recipe and seed: without an argument on the 1,400
//! embedded images for 20 epochs, with the path of CIFAR-10 on all 50,000 for the recipe's 10.
//!
//! What to look at: the pixels, and the cost of keeping them. On the embedded images:
//!
//! ```text
//! stem       pixels by stage    mult.-adds train loss  test accuracy
//! Cifar      32x32 16x16 8x8      12239488      1.344          45.0 %
//! ImageNet   8x8 4x4 2x2           1340032      1.274          47.8 %
//! ```
//!
//! The CIFAR stem costs nine times as many multiply-adds without any gain here: with 500 test images the difference is
//! within chance (one standard deviation of each is 2.2 points). Such a small training set is learnt from coarse
//! shapes, and 20 epochs are few; the effect of the lost pixels appears on the whole data set.

use resnet_by_hand::data::{cifar10, embedded};
use resnet_by_hand::engine::Engine;
use resnet_by_hand::model::{Architecture, ResNet, Stem};
use resnet_by_hand::train::{Recipe, Trainer, evaluate};
use std::ops::ControlFlow;
use std::sync::Arc;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (splits, recipe) = match &crate::arguments()[..] {
        [] => (embedded::load(), Recipe { epochs: 20, ..Recipe::by_name("demo")? }),
        [path] => (cifar10::load(path)?, Recipe::by_name("quick")?),
        _ => crate::wrong_arguments(),
    };
    let (train, test) = (Arc::new(splits.train), Arc::new(splits.test));
    println!(
        "{:<10} {:<16} {:>12} {:>10} {:>14}",
        "stem", "pixels by stage", "mult.-adds", "train loss", "test accuracy"
    );
    for stem in [Stem::Cifar, Stem::ImageNet] {
        let architecture = Architecture { stem, ..Architecture::by_name("resnet8")? };
        let model = ResNet::<f32>::new(&architecture, recipe.seed)?;
        let multiply_adds = model.cost(1, [32, 32])?.multiply_adds;
        let side = if stem == Stem::Cifar { 32 } else { 8 };
        let sides = [side, side / 2, side / 4].map(|side| format!("{side}x{side}")).join(" ");

        let engine = Arc::new(Engine::default());
        let mut trainer = Trainer::new(model, engine.clone(), recipe.clone(), train.clone())?;
        let mut loss = f64::NAN;
        while !trainer.is_done() {
            if let Some(epoch) = trainer.train_epoch(&mut |_| ControlFlow::Continue(()))? {
                loss = epoch.loss;
            }
        }
        let evaluation = evaluate(&*engine, trainer.model(), &test, trainer.recipe().evaluation())?;
        let name = format!("{stem:?}");
        println!("{name:<10} {sides:<16} {multiply_adds:>12} {loss:>10.3} {:>13.1} %", 100.0 * evaluation.accuracy());
    }
    Ok(())
}
