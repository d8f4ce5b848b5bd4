//! Chapter 13 of the book: every layer of ResNet-20, and the networks of its family.
//!
//! `cargo run --release --example book -- family` prints the layers, the networks of depth 6n + 2, networks whose names
//! look alike, and some of the others, with their sizes; with a path as its argument it also draws the figure of
//! docs/family.md. Everything is counted from the networks themselves.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use resnet_by_hand::data::{Normalization, embedded};
use resnet_by_hand::layers::{Mode, SoftmaxCrossEntropy};
use resnet_by_hand::model::resnet::StemLayers;
use resnet_by_hand::model::shortcut::Shortcut;
use resnet_by_hand::model::unit::Unit;
use resnet_by_hand::model::{Architecture, Block, Cost, ResNet};
use resnet_by_hand::{Gradients, Parameters, Result};

/// Some of the networks that `resnet models` lists.
const PUBLISHED: &str = "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d wide_resnet50_2 plain20 resnet20 \
                         preact110 preact164 wrn-28-10";

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let resnet20 = Architecture::by_name("resnet20")?;
    println!("layer              weight              output        parameters   multiply-adds");
    for layer in layers(&resnet20)? {
        let Layer { name, weight, stride, output, parameters, multiply_adds, .. } = layer;
        let weight = if stride == 1 { weight } else { format!("{weight} /{stride}") };
        println!("{name:<18} {weight:<19} {output:<12} {parameters:>11} {multiply_adds:>15}");
    }
    let Cost { parameters, multiply_adds, activations, .. } = cost(&resnet20, 1)?;
    println!("{:<51} {parameters:>11} {multiply_adds:>15}", "together");
    println!("values that one photograph leaves for the backward pass: {activations}");

    println!("\nnetwork       n   parameters   multiply-adds");
    for n in [1, 2, 3, 5, 7, 9, 18, 200] {
        let name = format!("resnet{}", 6 * n + 2);
        let Cost { parameters, multiply_adds, .. } = cost(&Architecture::by_name(&name)?, 1)?;
        assert_eq!((parameters, multiply_adds), (97_216 * n - 21_926, 14_155_776 * n - 1_916_288));
        println!("{name:<10} {n:>4} {parameters:>12} {multiply_adds:>15}");
    }

    println!("\n10 classes, 32x32   layers   blocks x channels           pixels      parameters   multiply-adds");
    for name in ["resnet20", "resnet18-cifar", "resnet18", "resnet34-cifar7x7", "resnet34-as-written"] {
        let network = on_cifar(name)?;
        let layers = layers(&network)?;
        let counted = layers.iter().filter(|layer| layer.counts).count();
        let blocks = network.stages.iter().map(|stage| format!("{}x{}", stage.blocks, stage.channels));
        let pixels = (1..=network.stages.len()).map(|part| {
            let last = layers.iter().rfind(|layer| layer.part == part).expect("a stage has layers");
            last.output.split('x').next().expect("rows of pixels").to_string()
        });
        let [blocks, pixels] = [blocks.collect::<Vec<_>>(), pixels.collect()].map(|words| words.join(" "));
        let Cost { parameters, multiply_adds, .. } = cost(&network, 1)?;
        println!("{name:<19} {counted:>6}   {blocks:<27} {pixels:<11} {parameters:>10} {multiply_adds:>15}");
    }

    println!("\nas published        image   classes   parameters   multiply-adds   memory, batch 128");
    for name in PUBLISHED.split(' ') {
        let network = Architecture::by_name(name)?;
        let Cost { parameters, multiply_adds, .. } = cost(&network, 1)?;
        let megabytes = cost(&network, 128)?.training_bytes(4) as f64 / 1e6;
        let [height, width] = network.image;
        let image = format!("{height}x{width}");
        let classes = network.classes;
        println!("{name:<16} {image:>8} {classes:>9} {parameters:>12} {multiply_adds:>15} {megabytes:>16.0} MB");
    }

    check_the_first_weight()?;
    figure::save(draw()?)
}

/// A layer with weights: a convolution with its batch norm, or the linear layer.
struct Layer {
    /// 0 is the stem, then come the stages and the head.
    part: usize,
    name: String,
    weight: String,
    stride: usize,
    output: String,
    parameters: usize,
    multiply_adds: usize,
    /// Whether the name of the network counts it.
    counts: bool,
}

impl Layer {
    /// A convolution on an input of shape `x`, and the shape of its output.
    fn unit(part: usize, path: &str, unit: &Unit<f32>, x: [usize; 4]) -> Result<(Self, [usize; 4])> {
        let y = unit.conv.output_shape(&x)?;
        let name = &unit.names[0];
        let layer = Layer {
            part,
            name: format!("{path}{name}"),
            weight: sizes(unit.conv.weight.shape()),
            stride: unit.conv.stride[0],
            output: sizes(&y[1..]),
            parameters: unit.parameter_count(),
            multiply_adds: y[1] * y[2] * unit.conv.weight.len(),
            counts: !name.starts_with("downsample"),
        };
        Ok((layer, y))
    }
}

/// Every layer with weights, in the order of `ResNet::forward`.
fn layers(network: &Architecture) -> Result<Vec<Layer>> {
    let model = ResNet::<f32>::zeroed(network)?;
    let [height, width] = network.image;
    let StemLayers::Unit(stem) = &model.stem else { panic!("a pre-activation network") };
    let (layer, mut h) = Layer::unit(0, "", stem, [1, height, width, 3])?;
    let mut layers = vec![layer];
    if let Some(pool) = &model.max_pool {
        h = pool.output_shape(&h)?;
    }
    for (stage, blocks) in model.stages.iter().enumerate() {
        for (i, block) in blocks.iter().enumerate() {
            let Block::Residual(block) = block else { panic!("a pre-activation network") };
            let (path, x) = (format!("layer{}.{i}.", stage + 1), h);
            for unit in &block.branch {
                let (layer, y) = Layer::unit(stage + 1, &path, unit, h)?;
                layers.push(layer);
                h = y;
            }
            if let Shortcut::Projection(unit) = &block.shortcut {
                layers.push(Layer::unit(stage + 1, &path, unit, x)?.0);
            }
        }
    }
    let weight = &model.fc.weight;
    layers.push(Layer {
        part: model.stages.len() + 1,
        name: "fc".to_string(),
        weight: sizes(weight.shape()),
        stride: 1,
        output: network.classes.to_string(),
        parameters: weight.len() + model.fc.bias.len(),
        multiply_adds: weight.len(),
        counts: true,
    });
    Ok(layers)
}

fn sizes(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// A network for photographs of 32x32 pixels in ten classes.
fn on_cifar(name: &str) -> Result<Architecture> {
    Ok(Architecture { image: [32, 32], classes: 10, ..Architecture::by_name(name)? })
}

fn cost(network: &Architecture, batch: usize) -> Result<Cost> {
    ResNet::<f32>::zeroed(network)?.cost(batch, network.image)
}

/// The gradient of a weight of the first layer, from the whole backward pass and by a central difference of the whole
/// forward pass.
fn check_the_first_weight() -> Result<()> {
    const PLACE: [usize; 4] = [3, 1, 2, 0];
    const H: f64 = 1e-6;
    let four = embedded::load().train.subset(&[0, 1, 2, 3])?;
    let x = Normalization::CIFAR10.apply::<f64>(four.pixels.view())?;
    let targets: Vec<usize> = four.labels.iter().map(|&label| label.into()).collect();
    let step = |model: &ResNet<f64>| -> Result<(f64, Gradients<f64>)> {
        let (logits, cache) = model.forward(&x, Mode::Train)?;
        let (loss, loss_cache) = SoftmaxCrossEntropy::new().forward(&logits, &targets)?;
        let dlogits = SoftmaxCrossEntropy::new().backward(&loss_cache);
        Ok((loss, model.backward(&dlogits, cache)?.1))
    };
    let model = ResNet::<f64>::new(&Architecture::by_name("resnet8")?, 1)?;
    let moved = |by: f64| -> Result<f64> {
        let mut model = model.clone();
        model.convs_mut()[0].weight[PLACE] += by;
        Ok(step(&model)?.0)
    };
    let (_, gradients) = step(&model)?;
    let dweight = gradients.get("conv1.weight").expect("every tensor has a gradient")[PLACE];
    let difference = (moved(H)? - moved(-H)?) / (2.0 * H);
    println!("\nresnet8 has {} tensors with a gradient; that of conv1.weight{PLACE:?}", gradients.len());
    println!("is {dweight:.2e}, by finite differences {difference:.2e}");
    Ok(())
}

fn draw() -> Result<Figure> {
    let mut figure =
        Figure::new(860.0, 420.0, "Where parameters and multiply-adds are, and how large the networks are");
    figure.rect([300.0, 14.0], [10.0, 10.0], "", "fa", 1.0);
    figure.styled_text([314.0, 23.0], Anchor::Start, "", 12.0, "parameters");
    figure.rect([300.0, 32.0], [10.0, 10.0], "", "fb", 1.0);
    figure.styled_text([314.0, 41.0], Anchor::Start, "", 12.0, "multiply-adds");
    let y = bars(&mut figure, 24.0, "ResNet-20", &on_cifar("resnet20")?)?;
    bars(&mut figure, y + 30.0, "ResNet-18 after a 3x3 stem", &on_cifar("resnet18-cifar")?)?;

    let axes = Axes { corner: [500.0, 40.0], size: [340.0, 310.0], x: Scale::Log(5e4, 1e8), y: Scale::Log(1e7, 1e10) };
    let x_ticks = [(1e5, "0.1 M"), (1e6, "1 M"), (1e7, "10 M"), (1e8, "100 M")];
    let y_ticks = [(1e7, "10 M"), (1e8, "100 M"), (1e9, "1 G"), (1e10, "10 G")];
    axes.draw(&mut figure, &x_ticks, &y_ticks, ["parameters", "multiply-adds for 32x32 pixels"]);
    let cifar = [8, 20, 56, 110, 1202].map(|depth| (format!("resnet{depth}"), depth.to_string()));
    let [stem3x3, imagenet] = ["-cifar", ""]
        .map(|suffix| [18, 34, 50].map(|depth| (format!("resnet{depth}{suffix}"), depth.to_string())).to_vec());
    let wide = vec![("wrn-28-10".to_string(), "28".to_string())];
    let groups = [
        ("a", "CIFAR's networks, depth 6n + 2", cifar.to_vec()),
        ("b", "ResNet-18, 34, 50 after a 3x3 stem", stem3x3),
        ("c", "the same after the ImageNet stem", imagenet),
        ("d", "WRN-28-10, ten times as wide", wide),
    ];
    for (i, (class, legend, networks)) in groups.into_iter().enumerate() {
        let fill = format!("f{class}");
        let mut points = Vec::new();
        let last = networks.len() - 1;
        for (j, (name, depth)) in networks.into_iter().enumerate() {
            let Cost { parameters, multiply_adds, .. } = cost(&on_cifar(&name)?, 1)?;
            let point = [parameters as f64, multiply_adds as f64];
            let [x, y] = axes.at(point);
            // The last two of a group may be close together.
            let (side, anchor) = if j == last { (8.0, Anchor::Start) } else { (-8.0, Anchor::End) };
            figure.styled_text([x + side, y + 3.0], anchor, "", 11.0, &depth);
            figure.dot([x, y], 4.0, &fill);
            points.push(point);
        }
        axes.plot(&mut figure, &points, class, false);
        let [x, y] = [514.0, 60.0 + 17.0 * i as f64];
        figure.dot([x, y - 4.0], 4.0, &fill);
        figure.styled_text([x + 9.0, y], Anchor::Start, "", 11.0, legend);
    }
    Ok(figure)
}

/// The shares of the parts of a network in its parameters and multiply-adds; returns where the bars end.
fn bars(figure: &mut Figure, top: f64, title: &str, network: &Architecture) -> Result<f64> {
    let layers = layers(network)?;
    let all = cost(network, 1)?;
    figure.styled_text([20.0, top], Anchor::Start, "bold", 13.0, title);
    let parts = network.stages.len() + 1;
    let mut y = top + 12.0;
    for part in 0..=parts {
        let name = match part {
            0 => "stem".to_string(),
            _ if part == parts => "head".to_string(),
            stage => format!("stage {stage}"),
        };
        figure.styled_text([80.0, y + 14.0], Anchor::End, "", 12.0, &name);
        let layers: Vec<&Layer> = layers.iter().filter(|layer| layer.part == part).collect();
        let parameters = layers.iter().map(|layer| layer.parameters).sum::<usize>() as f64 / all.parameters as f64;
        let operations =
            layers.iter().map(|layer| layer.multiply_adds).sum::<usize>() as f64 / all.multiply_adds as f64;
        for (i, (share, fill)) in [(parameters, "fa"), (operations, "fb")].into_iter().enumerate() {
            let y = y + 10.0 * i as f64;
            figure.rect([88.0, y], [300.0 * share, 8.0], "", fill, 1.0);
            figure.styled_text([92.0 + 300.0 * share, y + 8.0], Anchor::Start, "muted", 9.0, &percent(share));
        }
        y += 26.0;
    }
    Ok(y)
}

fn percent(share: f64) -> String {
    if share < 0.001 { "< 0.1 %".to_string() } else { format!("{:.1} %", 100.0 * share) }
}
