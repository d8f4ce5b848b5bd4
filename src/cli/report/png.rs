//! PNG files in memory.

use crate::data::picture::png;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use ndarray::ArrayView3;

/// The bytes of a picture `(h, w, 3)`, which say who made them.
pub fn encode(pixels: ArrayView3<u8>) -> Vec<u8> {
    png::encode(pixels, "resnet report").expect("memory takes everything, and a picture has pixels")
}

/// A picture as an address that is the picture itself.
pub fn data_uri(pixels: ArrayView3<u8>) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(encode(pixels)))
}
