//! How strong is the response of each layer? He et al. 2015, figure 7, in small.
//!
//! ```text
//! cargo run --release --example book -- layer_responses                              the table; with a path also the figure
//! cargo run --release --example book -- layer_responses measure FOLDER     rows of docs/images/book/layer_responses.csv
//! ```
//!
//! A response is the output of a batch norm, before the ReLU and before the addition. Its standard deviation is taken
//! over all its values for some test photographs, in evaluation mode, in f64. FOLDER holds the weights that
//! `cargo run --release --example book -- degradation train embedded FOLDER` saves. The trained ResNet-20 inside the
//! program is measured each time.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::layers::{AvgPool2d, Mode};
use resnet_by_hand::model::resnet::StemLayers;
use resnet_by_hand::model::unit::Unit;
use resnet_by_hand::model::{Architecture, Block, ResNet};
use resnet_by_hand::weights::{self, pretrained, state_dict};
use resnet_by_hand::{Activation, Result};
use std::path::Path;

const ROWS: &str = include_str!("../../docs/images/book/layer_responses.csv");
const PHOTOGRAPHS: usize = 10;

/// The name of a network, and the standard deviation of the responses of each of its convolutions, first to last.
type Responses = (String, Vec<f64>);

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments = crate::arguments();
    if let [measure, folder] = &arguments[..]
        && measure == "measure"
    {
        // These networks were trained on photographs of 16x16 pixels.
        let (photographs, _) = AvgPool2d::new([2, 2], [2, 2], [0, 0]).forward(&photographs()?)?;
        for name in ["plain8", "plain32", "resnet8", "resnet32"] {
            let mut model = ResNet::zeroed(&Architecture::by_name(name)?)?;
            weights::load(&Path::new(folder).join(format!("{name}.safetensors")), &mut model)?;
            let row: Vec<String> = responses(&model, &photographs)?.iter().map(|std| format!("{std:.4}")).collect();
            println!("{name},{}", row.join(","));
        }
        return Ok(());
    }
    if !figure::is_path(&arguments) {
        crate::wrong_arguments();
    }

    let mut networks = Vec::new();
    for line in ROWS.lines() {
        let (name, row) = line.split_once(',').ok_or(line)?;
        let stds: std::result::Result<Vec<f64>, _> = row.split(',').map(str::parse).collect();
        networks.push((name.to_string(), stds?));
    }
    let mut trained = ResNet::zeroed(&Architecture::by_name("resnet20")?)?;
    state_dict::assign(Path::new(pretrained::NAME), &pretrained::tensors(), &mut trained)?;
    networks.push(("resnet20".to_string(), responses(&trained, &photographs()?)?));

    println!("standard deviation of the responses, mean over the layers");
    println!("            all   first of a block   second of a block");
    for (name, stds) in &networks {
        // stds[0] is the first convolution of the network; then two for each block.
        let mean = |stds: Vec<f64>| stds.iter().sum::<f64>() / stds.len() as f64;
        let of_block = |place: usize| mean(stds[1..].iter().copied().skip(place).step_by(2).collect());
        println!("{name:<9} {:>5.2} {:>18.2} {:>19.2}", mean(stds.clone()), of_block(0), of_block(1));
    }
    figure::save(draw(&networks))
}

fn photographs() -> Result<Activation<f64>> {
    let photographs = embedded::load().test.subset(&(0..PHOTOGRAPHS).collect::<Vec<_>>())?;
    Normalization::CIFAR10.apply(photographs.pixels.view())
}

/// The standard deviation of the output of every batch norm for the photographs x.
fn responses(model: &ResNet<f64>, x: &Activation<f64>) -> Result<Vec<f64>> {
    let mut stds = Vec::new();
    let mut follow = |unit: &Unit<f64>, x: &Activation<f64>| -> Result<Activation<f64>> {
        let (response, _) = unit.bn.forward(&unit.conv.forward(x)?.0, Mode::Eval)?;
        stds.push(response.std(0.0));
        Ok(unit.activation.as_ref().map_or(response.clone(), |relu| relu.forward(&response).0))
    };
    let StemLayers::Unit(stem) = &model.stem else { panic!("a stem with batch norm") };
    let mut h = follow(stem, x)?;
    for block in model.stages.iter().flatten() {
        let Block::Residual(block) = block else { panic!("a block with the ReLU after the addition") };
        let mut sum = h.clone();
        for unit in &block.branch {
            sum = follow(unit, &sum)?;
        }
        if let Some(s) = block.shortcut.forward(&h, Mode::Eval)?.0 {
            sum = (&sum + &s).into_shared();
        }
        h = block.activation.forward(&sum).0;
    }
    Ok(stds)
}

/// Standard deviation against the layer: a panel for each depth.
fn draw(networks: &[Responses]) -> Figure {
    let title =
        "Standard deviation of the responses of every layer of plain and residual networks of 8, 32 and 20 layers";
    let mut figure = Figure::new(760.0, 300.0, title);
    let panels = [
        (7, ["1", "3", "5", "7"], "8 layers"),
        (31, ["1", "11", "21", "31"], "32 layers"),
        (19, ["1", "7", "13", "19"], "20 layers, 40 epochs of CIFAR-10"),
    ];
    for (panel, (layers, ticks, title)) in panels.into_iter().enumerate() {
        let axes = Axes {
            corner: [40.0 + 245.0 * panel as f64, 40.0],
            size: [205.0, 180.0],
            x: Scale::Linear(1.0, layers as f64),
            y: Scale::Linear(0.0, 1.5),
        };
        let x_ticks = ticks.map(|label| (label.parse().expect("a number"), label));
        axes.draw(&mut figure, &x_ticks, &[(0.0, "0"), (0.5, "0.5"), (1.0, "1"), (1.5, "1.5")], ["convolution", title]);
        for (name, stds) in networks.iter().filter(|(_, stds)| stds.len() == layers) {
            let points: Vec<[f64; 2]> = stds.iter().enumerate().map(|(i, std)| [i as f64 + 1.0, *std]).collect();
            axes.plot(&mut figure, &points, class(name), false);
        }
    }
    for (x, name) in [(40.0, "residual"), (140.0, "plain")] {
        figure.line([x, 282.0], [x + 20.0, 282.0], class(name));
        figure.text([x + 26.0, 286.0], Anchor::Start, name);
    }
    figure
}

fn class(name: &str) -> &'static str {
    if name.starts_with("plain") { "b" } else { "a" }
}
