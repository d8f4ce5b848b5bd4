//! Which network a file is for, from the names and shapes of its tensors.
//!
//! These show the stem, the kind and number of the blocks, their widths, groups and projections: everything but strides
//! and shortcuts without parameters. So some networks look alike: `resnet50` and `resnet50-v1`, whose stride is in
//! another convolution, or `resnet20` and `plain20`. [`candidates`] returns all of them, the usual one first.

use super::names::Reading;
use crate::model::Architecture;
use crate::model::architecture::{BlockKind, NAMES, Order, ShortcutOption, Stem};
use std::collections::HashMap;

/// What shows of an architecture in its tensors, apart from the number of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Visible {
    block: BlockKind,
    order: Order,
    /// Height of the first convolution's kernel, and its channels.
    stem: [usize; 2],
    groups: usize,
    stages: Vec<VisibleStage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct VisibleStage {
    /// Channels inside a block.
    inner: usize,
    /// Channels after a block.
    out: usize,
    /// Whether each block has a projection.
    projections: Vec<bool>,
}

impl Visible {
    /// In tensors; `None` if they do not have the names of a residual network.
    fn in_tensors(reading: &Reading) -> Option<Self> {
        let shapes: HashMap<&str, &[usize]> =
            reading.entries.iter().map(|entry| (entry.name.as_str(), entry.tensor.shape())).collect();
        // The first axis of a weight has the outputs, the second the inputs of one group.
        let of = |name: String| shapes.get(name.as_str()).filter(|shape| shape.len() == 4 && !shape.contains(&0));
        let &&[channels, _, kernel, _] = of("conv1.weight".into())? else { return None };
        let block = match of("layer1.0.conv3.weight".into()) {
            Some(_) => BlockKind::Bottleneck,
            None => BlockKind::Basic,
        };
        let last = if block == BlockKind::Bottleneck { "conv3" } else { "conv2" };
        let mut stages = Vec::new();
        while let Some(first) = of(format!("layer{}.0.conv1.weight", stages.len() + 1)) {
            let layer = format!("layer{}", stages.len() + 1);
            let blocks = (0..).take_while(|i| of(format!("{layer}.{i}.conv1.weight")).is_some());
            let projections = blocks.map(|i| of(format!("{layer}.{i}.downsample.0.weight")).is_some()).collect();
            stages.push(VisibleStage { inner: first[0], out: of(format!("{layer}.0.{last}.weight"))?[0], projections });
        }
        let middle = of("layer1.0.conv2.weight".into())?;
        // Before the first stage there are the channels of the stem, after the last stage there are others.
        let order = match shapes.get("bn1.weight")? {
            &&[n] if n != channels && Some(n) == stages.last().map(|stage| stage.out) => Order::PreActivation,
            _ => Order::PostActivation,
        };
        Some(Visible { block, order, stem: [kernel, channels], groups: stages.first()?.inner / middle[1], stages })
    }

    /// In the tensors of an architecture.
    fn in_architecture(architecture: &Architecture) -> Self {
        let kernel = match architecture.stem {
            Stem::Cifar => 3,
            Stem::ImageNet | Stem::Cifar7x7 => 7,
        };
        let mut channels = architecture.stem_channels;
        let stages = architecture.stages.iter().map(|stage| {
            let out = stage.channels * architecture.block.expansion();
            let changes = stage.stride != 1 || channels != out;
            channels = out;
            let projects = |i| match architecture.shortcut {
                ShortcutOption::Absent | ShortcutOption::A => false,
                ShortcutOption::B => i == 0 && changes,
                ShortcutOption::EveryStage => i == 0,
                ShortcutOption::C => true,
            };
            let projections = (0..stage.blocks).map(projects).collect();
            VisibleStage { inner: architecture.inner_width(stage), out, projections }
        });
        Visible {
            block: architecture.block,
            order: architecture.order,
            stem: [kernel, architecture.stem_channels],
            groups: architecture.groups,
            stages: stages.collect(),
        }
    }
}

/// The networks of [`NAMES`] whose tensors look like those of the file, in their order; the numbers of classes are those of
/// publication.
pub fn candidates(reading: &Reading) -> Vec<Architecture> {
    let Some(visible) = Visible::in_tensors(reading) else { return Vec::new() };
    let all = NAMES.iter().map(|name| Architecture::by_name(name).expect("a known name"));
    all.filter(|architecture| Visible::in_architecture(architecture) == visible).collect()
}

/// The name of a network, in words where it needs them.
pub fn words(name: &str) -> String {
    match name.strip_suffix("-b") {
        Some(usual) => format!("{usual} with option-B shortcuts"),
        None => name.to_string(),
    }
}

/// For an error about weights that are not those of `expected`: the network that they are for, if it is another one.
pub fn hint(reading: &Reading, expected: &Architecture) -> String {
    let candidates = candidates(reading);
    match candidates.first() {
        Some(found) if candidates.iter().all(|other| other.name != expected.name) => {
            format!("; this file is a {} (`--model {}`)", words(&found.name), found.name)
        }
        Some(_) => String::new(),
        // With a first block, but without a stem: the list of missing tensors says more.
        None if Visible::in_tensors(reading).is_none() && reading.get("layer1.0.conv1.weight").is_some() => {
            String::new()
        }
        None => format!("; {}", describe(reading)),
    }
}

/// What the file is, where it is none of [`NAMES`].
pub fn describe(reading: &Reading) -> String {
    let Some(visible) = Visible::in_tensors(reading) else {
        return "this file does not have the tensors of a residual network (conv1, layer1.0.conv1, …)".to_string();
    };
    let all = |number: fn(&VisibleStage) -> usize| {
        visible.stages.iter().map(|stage| number(stage).to_string()).collect::<Vec<_>>().join(", ")
    };
    let kind = if visible.block == BlockKind::Bottleneck { "bottleneck" } else { "basic" };
    let [kernel, channels] = visible.stem;
    format!(
        "this file is none of the networks of `resnet models`: stem {kernel}x{kernel} with {channels} channels, stages of {} \
         {kind} blocks with {} channels, {} projections",
        all(|stage| stage.projections.len()),
        all(|stage| stage.out),
        visible.stages.iter().flat_map(|stage| &stage.projections).filter(|projects| **projects).count()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ResNet;
    use crate::tensors::Tensors;
    use crate::weights::{names, state_dict};
    use std::path::Path;

    /// The networks as which the tensors of `tensors` are recognised.
    fn found(tensors: &Tensors) -> Vec<String> {
        let reading = names::read(Path::new("f"), tensors).unwrap();
        candidates(&reading).into_iter().map(|architecture| architecture.name).collect()
    }

    fn tensors(name: &str, classes: usize) -> Tensors {
        let architecture = Architecture::by_name(name).unwrap().with_classes(classes);
        state_dict::collect(&ResNet::<f32>::zeroed(&architecture).unwrap())
    }

    #[test]
    fn networks_are_recognised_by_their_tensors() {
        for (name, classes, expected) in [
            ("resnet18", 10, &["resnet18"][..]),
            ("resnet50", 1000, &["resnet50", "resnet50-v1"]),
            ("resnet50-v1", 3, &["resnet50", "resnet50-v1"]),
            ("resnext50_32x4d", 7, &["resnext50_32x4d"]),
            ("resnet18-cifar", 100, &["resnet18-cifar"]),
            ("resnet20", 10, &["resnet20", "plain20"]),
            ("resnet20-b", 2, &["resnet20-b"]),
            ("preact110", 10, &["preact110"]),
            ("resnet34-as-written", 10, &["resnet34-as-written"]),
        ] {
            assert_eq!(found(&tensors(name, classes)), expected, "{name}");
        }
        assert!(found(&Tensors::new()).is_empty());
    }

    /// Without its tensors: no other network of the list looks like it, except for its twins.
    #[test]
    fn only_twins_look_alike() {
        let all: Vec<_> = NAMES.iter().map(|name| Architecture::by_name(name).unwrap()).collect();
        let seen: Vec<_> = all.iter().map(Visible::in_architecture).collect();
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate().skip(i + 1) {
                let twins = b.name == format!("{}-v1", a.name) || b.name == a.name.replace("resnet", "plain");
                assert_eq!(seen[i] == seen[j], twins, "{} and {}", a.name, b.name);
            }
        }
    }

    #[test]
    fn another_network_is_named_or_described() {
        let resnet20 = Architecture::by_name("resnet20").unwrap();
        let hint = |tensors: &Tensors| hint(&names::read(Path::new("f"), tensors).unwrap(), &resnet20);
        assert_eq!(
            hint(&tensors("resnet20-b", 10)),
            "; this file is a resnet20 with option-B shortcuts (`--model resnet20-b`)"
        );
        assert_eq!(hint(&tensors("plain20", 10)), "");
        let mut shallow = tensors("resnet18-cifar", 10);
        shallow.retain(|name| !name.starts_with("layer4") && !name.starts_with("layer3.1"));
        assert_eq!(
            hint(&shallow),
            "; this file is none of the networks of `resnet models`: stem 3x3 with 64 channels, stages of 2, 2, 1 basic blocks \
             with 64, 128, 256 channels, 2 projections"
        );
        assert!(hint(&Tensors::new()).contains("does not have the tensors of a residual network"));
    }
}
