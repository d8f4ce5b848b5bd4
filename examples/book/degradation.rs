//! Deeper is worse, unless the input is added: He et al. 2015, figure 6, in small.
//!
//! ```text
//! cargo run --release --example book -- degradation                                      the table; with a path also the figure
//! cargo run --release --example book -- degradation train embedded [FOLDER]    trains on the embedded photographs
//! cargo run --release --example book -- degradation train CIFAR10 [FOLDER]     on the real CIFAR-10 at that path
//! ```
//!
//! Training prints the rows of docs/images/book/degradation.csv, from which table and figure are made. All networks are
//! trained side by side, from the same seed, at a constant learning rate: on CIFAR-10 with the recipe of the paper before
//! its first milestone; on the embedded photographs, scaled down to 16x16 pixels, with smaller batches, a smaller rate and
//! no crops. With a FOLDER it also saves the weights there, for `layer_responses`.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use ndarray::Array4;
use resnet_by_hand::data::{Augmentation, Dataset, Splits, cifar10, embedded};
use resnet_by_hand::engine::Engine;
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::optim::Schedule;
use resnet_by_hand::train::{Recipe, Trainer, Validation, evaluate};
use resnet_by_hand::weights;
use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const ROWS: &str = include_str!("../../docs/images/book/degradation.csv");
const NETWORKS: [&str; 4] = ["plain8", "plain32", "resnet8", "resnet32"];
/// The name of a run in the rows, the number of its photographs, and of its epochs.
const RUNS: [(&str, &str, usize); 2] = [("embedded", "1,400", 16), ("cifar10", "50,000", 3)];

/// The end of one epoch: mean training loss, test accuracy in percent, seconds of training.
type Row = [f64; 3];
/// The rows of each run and network, in the order of the epochs.
type Runs<'a> = BTreeMap<(&'a str, &'a str), Vec<Row>>;

pub fn main() -> Result<(), Box<dyn Error>> {
    let arguments = crate::arguments();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["train", data] => train(data, None),
        ["train", data, folder] => train(data, Some(Path::new(folder))),
        _ if !figure::is_path(&arguments) => crate::wrong_arguments(),
        _ => {
            let runs = read(ROWS)?;
            print(&runs);
            figure::save(draw(&runs))
        }
    }
}

fn train(data: &str, folder: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let paper = Recipe { schedule: Schedule::constant(), validation: Validation::NONE, ..Recipe::by_name("paper")? };
    let ((name, _, epochs), splits, recipe) = match data {
        "embedded" => {
            let Splits { train, test, .. } = embedded::load();
            let splits = Splits { train: halved(train), validation: None, test: halved(test) };
            // In batches of 128 an epoch would be only 11 steps.
            let recipe = Recipe { batch_size: 32, lr: 0.02, augmentation: Augmentation::NONE, ..paper };
            (RUNS[0], splits, recipe)
        }
        path => (RUNS[1], cifar10::load(path)?, paper),
    };
    let recipe = Recipe { epochs, ..recipe };
    let (photographs, test) = (Arc::new(splits.train), Arc::new(splits.test));
    let engine = Arc::new(Engine::default());
    let mut trainers = Vec::new();
    for network in NETWORKS {
        let model = ResNet::<f32>::new(&Architecture::by_name(network)?, recipe.seed)?;
        trainers.push((network, Trainer::new(model, engine.clone(), recipe.clone(), photographs.clone())?));
    }
    for epoch in 1..=epochs {
        for (network, trainer) in &mut trainers {
            let metrics = trainer.train_epoch(&mut |_| ControlFlow::Continue(()))?.expect("nothing interrupts it");
            let accuracy = 100.0 * evaluate(&*engine, trainer.model(), &test, recipe.evaluation())?.accuracy();
            println!("{name},{network},{epoch},{:.4},{accuracy:.2},{:.0}", metrics.loss, metrics.seconds);
            if let Some(folder) = folder {
                let path = folder.join(format!("{network}.safetensors"));
                weights::save(&path, trainer.model(), &weights::Metadata::new())?;
            }
        }
    }
    Ok(())
}

/// Photographs of half the height and width: a quarter of the work.
fn halved(photographs: Dataset) -> Dataset {
    let (n, h, w, c) = photographs.pixels.dim();
    let pixels = Array4::from_shape_fn((n, h / 2, w / 2, c), |(n, h, w, c)| {
        let four = [[0, 0], [0, 1], [1, 0], [1, 1]];
        let sum: u16 = four.iter().map(|[i, j]| u16::from(photographs.pixels[[n, 2 * h + i, 2 * w + j, c]])).sum();
        (sum / 4) as u8
    });
    let Dataset { labels, classes, source, .. } = photographs;
    Dataset::new(pixels, labels, classes, source).expect("one label per photograph")
}

fn read(text: &str) -> Result<Runs<'_>, Box<dyn Error>> {
    let mut runs = Runs::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split(',').collect();
        let [run, network, _epoch, loss, accuracy, seconds] = cells[..] else { return Err(line.into()) };
        runs.entry((run, network)).or_default().push([loss.parse()?, accuracy.parse()?, seconds.parse()?]);
    }
    Ok(runs)
}

/// The last row of every run and network, and the time of all.
fn print(runs: &Runs) {
    println!("photographs   network    epochs   training loss   test accuracy   minutes");
    for (run, photographs, _) in RUNS {
        for network in NETWORKS {
            let Some(rows) = runs.get(&(run, network)) else { continue };
            let ([loss, accuracy, _], epochs) = (rows[rows.len() - 1], rows.len());
            let minutes = rows.iter().map(|[.., seconds]| seconds).sum::<f64>() / 60.0;
            println!("{photographs:>11}   {network:<8} {epochs:>8} {loss:>15.2} {accuracy:>13.1} % {minutes:>9.1}");
        }
    }
}

/// Training loss against the epoch of the first run: left the plain networks, right the residual ones.
fn draw(runs: &Runs) -> Figure {
    let title =
        "Training loss on 1,400 photographs against the epoch, for plain and residual networks of 8 and 32 layers";
    let mut figure = Figure::new(660.0, 320.0, title);
    for (column, family) in ["plain networks", "residual networks"].into_iter().enumerate() {
        let axes = Axes {
            corner: [50.0 + 310.0 * column as f64, 40.0],
            size: [270.0, 200.0],
            x: Scale::Linear(0.0, 16.0),
            y: Scale::Linear(0.0, 2.5),
        };
        let x_ticks = [(0.0, "0"), (4.0, "4"), (8.0, "8"), (12.0, "12"), (16.0, "16")];
        let y_ticks = [(0.0, "0"), (0.5, "0.5"), (1.0, "1"), (1.5, "1.5"), (2.0, "2"), (2.5, "2.5")];
        axes.draw(&mut figure, &x_ticks, &y_ticks, ["epoch", &format!("training loss, {family}")]);
        for (network, class, fill) in [(NETWORKS[2 * column], "a", "fa"), (NETWORKS[2 * column + 1], "b", "fb")] {
            let losses = runs[&(RUNS[0].0, network)].iter().enumerate();
            let points: Vec<[f64; 2]> = losses.map(|(i, [loss, ..])| [i as f64 + 1.0, *loss]).collect();
            axes.plot(&mut figure, &points, class, false);
            points.iter().for_each(|point| figure.dot(axes.at(*point), 2.5, fill));
        }
    }
    for (x, class, text) in [(50.0, "a", "8 layers"), (160.0, "b", "32 layers")] {
        figure.line([x, 303.0], [x + 20.0, 303.0], class);
        figure.text([x + 26.0, 307.0], Anchor::Start, text);
    }
    figure
}
