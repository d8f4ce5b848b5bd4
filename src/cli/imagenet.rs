//! What torchvision does to a picture before its ImageNet networks see it, and the names of the classes.
//!
//! Its weights contain neither. The size to which a picture is resized differs between its two generations of weights; the
//! hash in a file's name tells which it is. Source: `torchvision/models/resnet.py` and, for the names,
//! `torchvision/models/_meta.py`, `_IMAGENET_CATEGORIES` (torchvision 0.29, BSD 3-Clause).

use super::args;
use crate::data::{Framing, Normalization};
use crate::model::Architecture;
use crate::weights::Metadata;
use std::path::Path;

/// The number of classes.
const CLASSES: usize = 1000;

/// The side of the square that the network sees.
const CROP: usize = 224;

/// The length of the shorter side before the crop: of the first and of the second generation.
const RESIZE: [usize; 2] = [256, 232];

/// Files of torchvision: network, the start of the SHA-256 in the file's name, name of the weights, length of the shorter
/// side. Those without a number are earlier uploads for the first generation.
const FILES: [(&str, &str, &str, usize); 22] = [
    ("resnet18", "f37072fd", "IMAGENET1K_V1", RESIZE[0]),
    ("resnet34", "b627a593", "IMAGENET1K_V1", RESIZE[0]),
    ("resnet50", "0676ba61", "IMAGENET1K_V1", RESIZE[0]),
    ("resnet50", "11ad3fa6", "IMAGENET1K_V2", RESIZE[1]),
    ("resnet101", "63fe2227", "IMAGENET1K_V1", RESIZE[0]),
    ("resnet101", "cd907fc2", "IMAGENET1K_V2", RESIZE[1]),
    ("resnet152", "394f9c45", "IMAGENET1K_V1", RESIZE[0]),
    ("resnet152", "f82ba261", "IMAGENET1K_V2", RESIZE[1]),
    ("resnext50_32x4d", "7cdf4587", "IMAGENET1K_V1", RESIZE[0]),
    ("resnext50_32x4d", "1a0047aa", "IMAGENET1K_V2", RESIZE[1]),
    ("resnext101_32x8d", "8ba56ff5", "IMAGENET1K_V1", RESIZE[0]),
    ("resnext101_32x8d", "110c445d", "IMAGENET1K_V2", RESIZE[1]),
    ("resnext101_64x4d", "173b62eb", "IMAGENET1K_V1", RESIZE[1]),
    ("wide_resnet50_2", "95faca4d", "IMAGENET1K_V1", RESIZE[0]),
    ("wide_resnet50_2", "9ba9bcbe", "IMAGENET1K_V2", RESIZE[1]),
    ("wide_resnet101_2", "32ee1156", "IMAGENET1K_V1", RESIZE[0]),
    ("wide_resnet101_2", "d733dc28", "IMAGENET1K_V2", RESIZE[1]),
    ("resnet18", "5c106cde", "earlier IMAGENET1K_V1", RESIZE[0]),
    ("resnet34", "333f7ec4", "earlier IMAGENET1K_V1", RESIZE[0]),
    ("resnet50", "19c8e357", "earlier IMAGENET1K_V1", RESIZE[0]),
    ("resnet101", "5d3b4d8f", "earlier IMAGENET1K_V1", RESIZE[0]),
    ("resnet152", "b121ed2d", "earlier IMAGENET1K_V1", RESIZE[0]),
];

/// The preparation of pictures for weights of ImageNet.
pub struct Preset {
    /// How a picture is cut.
    pub framing: Framing,
    /// The line that reports what was recognised, and by what.
    pub line: String,
}

impl Preset {
    /// Writes the preparation of pictures to the metadata of the weights. The names of the classes are recognised again: in
    /// a folder of ImageNet's images the classes have other names, and `eval` would reject it.
    pub fn store(&self, about: &mut Metadata) {
        let normalization = Normalization::IMAGENET;
        about.extend([
            ("image_size".into(), self.framing.crop.to_string()),
            ("resize_size".into(), self.framing.resize.to_string()),
            ("mean".into(), args::write_three(normalization.mean())),
            ("std".into(), args::write_three(normalization.std())),
        ]);
    }
}

/// Whether the network was designed for ImageNet.
pub fn is_meant(architecture: &Architecture) -> bool {
    architecture.image == [CROP, CROP]
}

/// The preparation for the weights in the file `path`, if they are of ImageNet: by the network and the number of classes.
pub fn preset(path: &Path, architecture: &Architecture, classes: usize) -> Option<Preset> {
    if !is_meant(architecture) || classes != CLASSES {
        return None;
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let known = FILES.iter().find(|(network, hash, ..)| *network == architecture.name && file.contains(hash));
    let (resize, origin) = match known {
        Some((network, _, weights, resize)) => (*resize, format!("{file} is torchvision's {network}, {weights}")),
        None => (
            RESIZE[0],
            format!(
                "the name of the file is none of torchvision's, so as for its V1 weights (V2: --resize-size {})",
                RESIZE[1]
            ),
        ),
    };
    let line = format!(
        "ImageNet, because of the 1,000 classes: shorter side to {resize}, centre {CROP}x{CROP}, normalisation and class names \
         of torchvision, unless given otherwise; {origin}"
    );
    Some(Preset { framing: Framing { resize, crop: CROP }, line })
}

/// The names of the classes.
pub fn classes() -> impl Iterator<Item = &'static str> {
    include_str!("imagenet-classes.txt").lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_torchvision_are_known_by_the_hash_in_their_name() {
        let resize = |file: &str, network: &str, classes| {
            let preset = preset(Path::new(file), &Architecture::by_name(network).unwrap(), classes)?;
            assert!(preset.line.contains(&format!("shorter side to {}", preset.framing.resize)));
            Some((preset.framing.resize, preset.line.contains("is torchvision's")))
        };
        for (file, network, expected) in [
            ("models/resnet50-0676ba61.pth", "resnet50", (256, true)),
            ("models/resnet50-11ad3fa6.pth", "resnet50", (232, true)),
            ("my copy of resnet50-11ad3fa6 (1).pth", "resnet50", (232, true)),
            ("resnext101_64x4d-173b62eb.pth", "resnext101_64x4d", (232, true)),
            ("resnet18-5c106cde.pth", "resnet18", (256, true)),
            // The hash of another network says nothing.
            ("resnet50-11ad3fa6.pth", "resnet18", (256, false)),
            ("x.pth", "resnet50-v1", (256, false)),
        ] {
            assert_eq!(resize(file, network, 1000), Some(expected), "{file}");
        }
        assert_eq!(resize("resnet50-11ad3fa6.pth", "resnet50", 10), None);
        assert_eq!(resize("x.pth", "resnet18-cifar", 1000), None);
        for (network, hash, ..) in FILES {
            assert!(is_meant(&Architecture::by_name(network).unwrap()) && hash.len() == 8);
        }
    }

    #[test]
    fn the_classes_are_in_the_order_of_imagenet() {
        let classes: Vec<_> = classes().collect();
        assert_eq!(classes.len(), CLASSES);
        assert_eq!(
            [classes[0], classes[207], classes[281], classes[999]],
            ["tench", "golden retriever", "tabby", "toilet tissue"]
        );
    }
}
