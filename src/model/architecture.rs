//! A network as plain data, and all named networks.
//!
//! | family | names |
//! |---|---|
//! | ImageNet (He et al. 2015, table 1; bottleneck stride on the 3x3, "v1.5") | `resnet18` `resnet34` `resnet50` `resnet101` `resnet152` |
//! | the same with the bottleneck stride on the first 1x1, as in the paper | `resnet50-v1` `resnet101-v1` `resnet152-v1` |
//! | ResNeXt (Xie et al. 2016) and wide (Zagoruyko & Komodakis 2016), as in torchvision | `resnext50_32x4d` `resnext101_32x8d` `resnext101_64x4d` `wide_resnet50_2` `wide_resnet101_2` |
//! | ImageNet stages after the CIFAR stem | `resnet18-cifar` `resnet34-cifar` `resnet50-cifar` |
//! | CIFAR, 6n + 2 layers, option A (He et al. 2015, section 4.2) | `resnet8` `resnet14` `resnet20` `resnet32` `resnet44` `resnet56` `resnet110` `resnet1202` |
//! | the same with option B, as many published checkpoints | `resnet20-b` `resnet32-b` `resnet44-b` `resnet56-b` `resnet110-b` |
//! | the same without shortcuts | `plain8` … `plain110` |
//! | pre-activation (He et al. 2016): 110 basic, 164 bottleneck | `preact110` `preact164` |
//! | wide, pre-activation | `wrn-28-10` |
//! | ResNet-34 with a 7x7 stem of stride 1, a projection in every stage | `resnet34-cifar7x7` |
//! | the 18-layer network that results from a misplaced `return` in it: two blocks per stage | `resnet34-as-written` |

use crate::{Error, Result};

/// The layers of a block's branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1 to the inner width, 3x3 there, 1x1 to four times the stage's channels.
    Bottleneck,
}

impl BlockKind {
    /// Output channels of a block per channel of its stage.
    pub fn expansion(self) -> usize {
        match self {
            BlockKind::Basic => 1,
            BlockKind::Bottleneck => 4,
        }
    }
}

/// The position of the normalisation and the ReLU in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// After the convolution, and a ReLU after the addition (He et al. 2015).
    PostActivation,
    /// Before the convolution, nothing after the addition (He et al. 2016).
    PreActivation,
}

/// Which convolution of a bottleneck has the stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BottleneckStride {
    /// The 3x3 ("v1.5", torchvision): no pixel is skipped.
    Conv3x3,
    /// The first 1x1 (v1, the paper): three of four pixels are never read.
    Conv1x1,
}

/// The kind of the shortcuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortcutOption {
    /// None at all: a plain network.
    Absent,
    /// A: identity; subsampling and zero channels where the shape changes.
    A,
    /// B: identity; a projection where the shape changes.
    B,
    /// B, and a projection in the first block of every stage whether or not the shape changes.
    EveryStage,
    /// C: projections everywhere.
    C,
}

/// The layers before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7x7 convolution with stride 2, batch norm, ReLU, 3x3 max pool with stride 2: a quarter of the resolution.
    ImageNet,
    /// 3x3 convolution with stride 1, batch norm, ReLU: full resolution.
    Cifar,
    /// 7x7 convolution with stride 1, batch norm, ReLU, 3x3 max pool with stride 1: full resolution.
    Cifar7x7,
}

/// Consecutive blocks of the same width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Channels (in a bottleneck the inner ones; its output has four times as many).
    pub channels: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Stride of the first block.
    pub stride: usize,
}

/// A network as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Its name.
    pub name: String,
    /// The kind of the blocks.
    pub block: BlockKind,
    /// The position of their normalisation.
    pub order: Order,
    /// Which convolution of a bottleneck has the stride.
    pub bottleneck_stride: BottleneckStride,
    /// The kind of the shortcuts.
    pub shortcut: ShortcutOption,
    /// The layers before the first stage.
    pub stem: Stem,
    /// Channels of the stem.
    pub stem_channels: usize,
    /// The stages.
    pub stages: Vec<Stage>,
    /// Groups of a bottleneck's 3x3 convolution.
    pub groups: usize,
    /// Width of one group for a stage of 64 channels; a bottleneck is channels · width_per_group/64 · groups wide inside.
    pub width_per_group: usize,
    /// Number of classes.
    pub classes: usize,
    /// `[height, width]` of the images for which it was designed; other sizes work too.
    pub image: [usize; 2],
}

/// Every known name, in the order of the table above.
pub const NAMES: &[&str] = &[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet50-v1",
    "resnet101-v1",
    "resnet152-v1",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnet18-cifar",
    "resnet34-cifar",
    "resnet50-cifar",
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
    "resnet20-b",
    "resnet32-b",
    "resnet44-b",
    "resnet56-b",
    "resnet110-b",
    "plain8",
    "plain14",
    "plain20",
    "plain32",
    "plain44",
    "plain56",
    "plain110",
    "preact110",
    "preact164",
    "wrn-28-10",
    "resnet34-cifar7x7",
    "resnet34-as-written",
];

impl Architecture {
    /// The network called `name`, with 1000 classes for those designed for ImageNet and 10 for the others.
    ///
    /// # Errors
    /// If the name is not one of [`NAMES`]; the message lists them.
    ///
    /// ```
    /// use resnet_by_hand::model::Architecture;
    /// let resnet20 = Architecture::by_name("resnet20")?.with_classes(100);
    /// assert_eq!(resnet20.stages.len(), 3);
    /// assert!(Architecture::by_name("resnet21").unwrap_err().to_string().contains("resnet20"));
    /// # Ok::<(), resnet_by_hand::Error>(())
    /// ```
    pub fn by_name(name: &str) -> Result<Self> {
        use BlockKind::{Basic, Bottleneck};
        let imagenet = |block, blocks: [usize; 4]| Architecture {
            name: name.to_string(),
            block,
            order: Order::PostActivation,
            bottleneck_stride: BottleneckStride::Conv3x3,
            shortcut: ShortcutOption::B,
            stem: Stem::ImageNet,
            stem_channels: 64,
            stages: stages(&[64, 128, 256, 512], &blocks),
            groups: 1,
            width_per_group: 64,
            classes: 1000,
            image: [224, 224],
        };
        let v1 = |base| Architecture { bottleneck_stride: BottleneckStride::Conv1x1, ..base };
        let grouped = |base, groups, width_per_group| Architecture { groups, width_per_group, ..base };
        let small = |base: Architecture| Architecture { stem: Stem::Cifar, classes: 10, image: [32, 32], ..base };
        let with_7x7_stem = |blocks| Architecture {
            stem: Stem::Cifar7x7,
            shortcut: ShortcutOption::EveryStage,
            ..small(imagenet(Basic, blocks))
        };
        // Section 4.2: three stages of n blocks with 16, 32, 64 channels.
        let cifar = |block, n: usize| Architecture {
            shortcut: ShortcutOption::A,
            stem_channels: 16,
            stages: stages(&[16, 32, 64], &[n; 3]),
            ..small(imagenet(block, [0; 4]))
        };
        let pre = |base| Architecture { order: Order::PreActivation, ..base };
        let projected = |base| Architecture { shortcut: ShortcutOption::B, ..base };

        Ok(match name {
            "resnet18" => imagenet(Basic, [2, 2, 2, 2]),
            "resnet34" => imagenet(Basic, [3, 4, 6, 3]),
            "resnet50" => imagenet(Bottleneck, [3, 4, 6, 3]),
            "resnet101" => imagenet(Bottleneck, [3, 4, 23, 3]),
            "resnet152" => imagenet(Bottleneck, [3, 8, 36, 3]),
            "resnet50-v1" => v1(imagenet(Bottleneck, [3, 4, 6, 3])),
            "resnet101-v1" => v1(imagenet(Bottleneck, [3, 4, 23, 3])),
            "resnet152-v1" => v1(imagenet(Bottleneck, [3, 8, 36, 3])),
            "resnext50_32x4d" => grouped(imagenet(Bottleneck, [3, 4, 6, 3]), 32, 4),
            "resnext101_32x8d" => grouped(imagenet(Bottleneck, [3, 4, 23, 3]), 32, 8),
            "resnext101_64x4d" => grouped(imagenet(Bottleneck, [3, 4, 23, 3]), 64, 4),
            "wide_resnet50_2" => grouped(imagenet(Bottleneck, [3, 4, 6, 3]), 1, 128),
            "wide_resnet101_2" => grouped(imagenet(Bottleneck, [3, 4, 23, 3]), 1, 128),
            "resnet18-cifar" => small(imagenet(Basic, [2, 2, 2, 2])),
            "resnet34-cifar" => small(imagenet(Basic, [3, 4, 6, 3])),
            "resnet50-cifar" => small(imagenet(Bottleneck, [3, 4, 6, 3])),
            "preact110" => pre(cifar(Basic, 18)),
            "preact164" => pre(projected(cifar(Bottleneck, 18))),
            "wrn-28-10" => {
                Architecture { stages: stages(&[160, 320, 640], &[4; 3]), ..pre(projected(cifar(Basic, 4))) }
            }
            "resnet34-cifar7x7" => with_7x7_stem([3, 4, 6, 3]),
            "resnet34-as-written" => with_7x7_stem([2, 2, 2, 2]),
            _ if NAMES.contains(&name) => {
                // resnet and plain of depth 6n + 2: two convolutions per block, three stages, stem and linear layer.
                let (depth, shortcut) = match name.strip_suffix("-b") {
                    Some(depth) => (depth, ShortcutOption::B),
                    None if name.starts_with("plain") => (name, ShortcutOption::Absent),
                    None => (name, ShortcutOption::A),
                };
                let depth: usize = depth.trim_start_matches(char::is_alphabetic).parse().expect("a depth");
                Architecture { shortcut, ..cifar(Basic, (depth - 2) / 6) }
            }
            _ => {
                let known = NAMES.iter().map(|name| name.to_string()).collect();
                return Err(Error::Unknown { kind: "model", name: name.to_string(), known });
            }
        })
    }

    /// The same network for another number of classes.
    pub fn with_classes(self, classes: usize) -> Self {
        Architecture { classes, ..self }
    }

    /// Channels of the features before the linear layer.
    pub fn features(&self) -> usize {
        self.stages.last().map_or(self.stem_channels, |stage| stage.channels * self.block.expansion())
    }

    /// Rejects architectures that cannot be built.
    ///
    /// # Errors
    /// If there are no stages, a number is 0, or basic blocks have groups or another width. ([`super::ResNet::zeroed`]
    /// also rejects option A where the channels would decrease, and pre-activation without shortcuts.)
    pub fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::argument("architecture", message));
        if self.stages.is_empty() || self.classes == 0 || self.stem_channels == 0 {
            return refuse(format!("`{}` must have at least one stage, one class and one stem channel", self.name));
        }
        if let Some(stage) = self.stages.iter().find(|s| s.channels == 0 || s.blocks == 0 || s.stride == 0) {
            return refuse(format!("`{}`: channels, blocks and stride must be at least 1, got {stage:?}", self.name));
        }
        if self.block == BlockKind::Basic && (self.groups, self.width_per_group) != (1, 64) {
            let found = format!("got groups = {}, width_per_group = {}", self.groups, self.width_per_group);
            return refuse(format!("basic blocks must have groups = 1 and width_per_group = 64, {found}"));
        }
        let narrow = self.stages.iter().find(|stage| self.inner_width(stage) == 0);
        if self.groups == 0 || narrow.is_some() {
            return refuse(format!(
                "groups = {}, width_per_group = {} give an inner width of 0",
                self.groups, self.width_per_group
            ));
        }
        Ok(())
    }

    /// Inner width of a block of `stage`.
    pub(crate) fn inner_width(&self, stage: &Stage) -> usize {
        match self.block {
            BlockKind::Basic => stage.channels,
            BlockKind::Bottleneck => stage.channels * self.width_per_group / 64 * self.groups,
        }
    }
}

/// Stages with these channels and numbers of blocks; all but the first have stride 2.
fn stages(channels: &[usize], blocks: &[usize]) -> Vec<Stage> {
    let both = channels.iter().zip(blocks).enumerate();
    both.map(|(i, (&channels, &blocks))| Stage { channels, blocks, stride: if i == 0 { 1 } else { 2 } }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_and_buildable() {
        for name in NAMES {
            let architecture = Architecture::by_name(name).unwrap();
            assert_eq!(&architecture.name, name);
            architecture.check().unwrap();
        }
    }

    #[test]
    fn basic_blocks_refuse_groups() {
        let grouped = Architecture { groups: 2, ..Architecture::by_name("resnet18").unwrap() };
        assert!(grouped.check().unwrap_err().to_string().contains("got groups = 2"));
    }
}
