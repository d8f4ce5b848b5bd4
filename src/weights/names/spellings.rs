//! Spellings of the names of the stages: torchvision's and those of others.

/// How a family of programs calls the tensors before the last layer.
pub(super) struct Spelling {
    /// The first tensor of the first block.
    pub first_block: &'static str,
    /// Our name; `None` if it is not a tensor of the stages or the stem.
    pub ours: fn(&str) -> Option<String>,
    /// What to report.
    pub said: Option<&'static str>,
}

pub(super) const ALL: [Spelling; 3] = [
    Spelling { first_block: "layer1.0.conv1.weight", ours: |name| Some(name.into()), said: None },
    // `Sequential(*resnet.children())`: the index of the module.
    Spelling {
        first_block: "4.0.conv1.weight",
        ours: of_list,
        said: Some("`0.*`, `1.*`, `4.*` to `7.*` are `conv1.*`, `bn1.*`, `layer1.*` to `layer4.*`"),
    },
    // Transformers of Hugging Face.
    Spelling {
        first_block: "encoder.stages.0.layers.0.layer.0.convolution.weight",
        ours: of_transformers,
        said: Some("`embedder.*` and `encoder.stages.*` are `conv1.*`, `bn1.*` and `layer1.*` to `layer4.*`"),
    },
];

fn of_list(name: &str) -> Option<String> {
    let (index, rest) = name.split_once('.')?;
    let ours = match index {
        "0" => "conv1",
        "1" => "bn1",
        "4" => "layer1",
        "5" => "layer2",
        "6" => "layer3",
        "7" => "layer4",
        _ => return None,
    };
    Some(format!("{ours}.{rest}"))
}

fn of_transformers(name: &str) -> Option<String> {
    let next = |index: &str| index.parse::<u16>().ok().map(|index| u32::from(index) + 1);
    let parts: Vec<&str> = name.split('.').collect();
    Some(match parts[..] {
        ["embedder", "embedder", "convolution", last] => format!("conv1.{last}"),
        ["embedder", "embedder", "normalization", last] => format!("bn1.{last}"),
        ["encoder", "stages", stage, "layers", block, "shortcut", kind, last] => {
            let index = ["convolution", "normalization"].iter().position(|known| *known == kind)?;
            format!("layer{}.{block}.downsample.{index}.{last}", next(stage)?)
        }
        ["encoder", "stages", stage, "layers", block, "layer", index, kind, last] => {
            let module = match kind {
                "convolution" => "conv",
                "normalization" => "bn",
                _ => return None,
            };
            format!("layer{}.{block}.{module}{}.{last}", next(stage)?, next(index)?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_others_have_names_here() {
        let [_, list, transformers] = ALL;
        for (spelling, theirs, ours) in [
            (&list, "0.weight", Some("conv1.weight")),
            (&list, "7.2.bn3.running_var", Some("layer4.2.bn3.running_var")),
            (&list, "9.weight", None),
            (&transformers, "embedder.embedder.normalization.bias", Some("bn1.bias")),
            (&transformers, "encoder.stages.0.layers.2.layer.1.convolution.weight", Some("layer1.2.conv2.weight")),
            (&transformers, "encoder.stages.3.layers.0.layer.2.normalization.weight", Some("layer4.0.bn3.weight")),
            (
                &transformers,
                "encoder.stages.1.layers.0.shortcut.convolution.weight",
                Some("layer2.0.downsample.0.weight"),
            ),
            (
                &transformers,
                "encoder.stages.1.layers.0.shortcut.normalization.bias",
                Some("layer2.0.downsample.1.bias"),
            ),
            (&transformers, "encoder.stages.x.layers.0.shortcut.normalization.bias", None),
            (&transformers, "pooler.weight", None),
        ] {
            assert_eq!((spelling.ours)(theirs).as_deref(), ours, "{theirs}");
        }
    }
}
