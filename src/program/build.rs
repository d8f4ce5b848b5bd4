//! A network as a list of steps.

use super::{Layer, Program};
use crate::Scalar;
use crate::layers::Relu;
use crate::model::resnet::StemLayers;
use crate::model::shortcut::Shortcut;
use crate::model::unit::Unit;
use crate::model::{Block, ResNet};
use crate::parameters::join;

impl<T: Scalar> Program<T> {
    /// The steps of a network, from the images to the logits.
    pub fn of_network(model: &ResNet<T>) -> Self {
        let mut program = Program::new();
        let mut at = match &model.stem {
            StemLayers::Unit(unit) => program.push_unit("", unit, "relu", 0),
            StemLayers::Conv(conv) => program.push("conv1", Layer::Conv2d(conv.clone()), 0),
        };
        if let Some(pool) = model.max_pool {
            at = program.push("maxpool", Layer::MaxPool2d(pool), at);
        }
        for (stage, blocks) in model.stages.iter().enumerate() {
            let stage = format!("layer{}", stage + 1);
            for (index, block) in blocks.iter().enumerate() {
                let path = format!("{stage}.{index}");
                at = program.push_block(&path, block, at);
                program.aliases.push((path, at));
            }
            program.aliases.push((stage, at));
        }
        if let Some(bn) = &model.final_norm {
            at = program.push("bn1", Layer::BatchNorm2d(bn.clone()), at);
            at = program.push("relu", Layer::Relu(Relu::new()), at);
        }
        at = program.push("avgpool", Layer::GlobalAvgPool, at);
        program.push("fc", Layer::Linear(model.fc.clone()), at);
        program
    }

    /// The steps of a block.
    pub fn of_block(block: &Block<T>) -> Self {
        let mut program = Program::new();
        program.push_block("", block, 0);
        program
    }

    fn push_unit(&mut self, path: &str, unit: &Unit<T>, relu: &str, from: usize) -> usize {
        let h = self.push(&join(path, &unit.names[0]), Layer::Conv2d(unit.conv.clone()), from);
        let h = self.push(&join(path, &unit.names[1]), Layer::BatchNorm2d(unit.bn.clone()), h);
        match unit.activation {
            Some(activation) => self.push(&join(path, relu), Layer::Relu(activation), h),
            None => h,
        }
    }

    fn push_block(&mut self, path: &str, block: &Block<T>, x: usize) -> usize {
        let (add, relu) = (join(path, "add"), join(path, "relu"));
        match block {
            Block::Residual(block) => {
                let mut h = x;
                for unit in &block.branch {
                    h = self.push_unit(path, unit, "relu", h);
                }
                let shortcut = match &block.shortcut {
                    Shortcut::Absent => None,
                    Shortcut::Identity => Some(x),
                    Shortcut::ZeroPad(layer) => {
                        Some(self.push(&join(path, "downsample"), Layer::ZeroPadShortcut(*layer), x))
                    }
                    Shortcut::Projection(unit) => {
                        let s = self.push_unit(path, unit, "relu", x);
                        self.aliases.push((join(path, "downsample"), s));
                        Some(s)
                    }
                };
                if let Some(shortcut) = shortcut {
                    h = self.push_reading(&add, Layer::Add, vec![h, shortcut]);
                }
                self.push(&relu, Layer::Relu(block.activation), h)
            }
            Block::PreActivation(block) => {
                let (mut h, mut shortcut) = (x, x);
                for (index, (bn, conv)) in block.norms.iter().zip(&block.convs).enumerate() {
                    let name = |layer: &str| join(path, &format!("{layer}{}", index + 1));
                    h = self.push(&name("bn"), Layer::BatchNorm2d(bn.clone()), h);
                    h = self.push(&relu, Layer::Relu(block.activation), h);
                    if let (Some(projection), 0) = (&block.projection, index) {
                        let name = join(path, "downsample.0");
                        shortcut = self.push(&name, Layer::Conv2d(projection.clone()), h);
                        self.aliases.push((join(path, "downsample"), shortcut));
                    }
                    h = self.push(&name("conv"), Layer::Conv2d(conv.clone()), h);
                }
                if let Some(layer) = block.zero_pad {
                    shortcut = self.push(&join(path, "downsample"), Layer::ZeroPadShortcut(layer), x);
                }
                self.push_reading(&add, Layer::Add, vec![h, shortcut])
            }
        }
    }
}
