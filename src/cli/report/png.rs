//! PNG files in memory.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ndarray::ArrayView3;
use png::{BitDepth, ColorType, Encoder};

/// The bytes of a picture `(h, w, 3)`, which say who made them.
pub fn encode(pixels: ArrayView3<u8>) -> Vec<u8> {
    let (height, width, _) = pixels.dim();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let written = encoder
        .add_text_chunk("Software".to_string(), "resnet report".to_string())
        .and_then(|()| encoder.write_header())
        .and_then(|mut writer| writer.write_image_data(&pixels.iter().copied().collect::<Vec<u8>>()));
    written.expect("memory takes everything, and a picture has pixels");
    bytes
}

/// A picture as an address that is the picture itself.
pub fn data_uri(pixels: ArrayView3<u8>) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(encode(pixels)))
}
