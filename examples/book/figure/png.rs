//! A photograph as a PNG file in text form, so small that it can be part of a figure.
//!
//! A PNG file is a signature and chunks: the length of the contents, a name, the contents, a checksum. The chunk `IDAT` has
//! the pixels, in the format of zlib. They are not compressed: whatever stores the figure compresses it as a whole.

use ndarray::ArrayView3;

/// `data:image/png;base64,…` with `pixels (H, W, 3)`.
///
/// # Panics
/// If they do not fit into one block of zlib, 65,535 bytes.
pub fn url(pixels: ArrayView3<'_, u8>) -> String {
    let (height, width, _) = pixels.dim();
    let mut header = [width, height].map(|side| (side as u32).to_be_bytes()).concat();
    header.extend([8, 2, 0, 0, 0]); // 8 bits each for red, green, blue
    let mut rows = Vec::new();
    for row in pixels.outer_iter() {
        rows.push(0); // the bytes of the row as they are, not their differences
        rows.extend(row.iter());
    }
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, contents) in [(b"IHDR", header), (b"IDAT", stored(&rows)), (b"IEND", Vec::new())] {
        let chunk = [name, contents.as_slice()].concat();
        file.extend((contents.len() as u32).to_be_bytes());
        file.extend(&chunk);
        file.extend(crc32(&chunk).to_be_bytes());
    }
    format!("data:image/png;base64,{}", base64(&file))
}

/// `bytes` in the format of zlib, as one block that is not compressed.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a small photograph");
    let (a, b) = bytes.iter().fold((1, 0), |(a, b), &byte| {
        let a = (a + u32::from(byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    let mut stream = vec![0x78, 0x01, 0x01];
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend(bytes);
    stream.extend((b << 16 | a).to_be_bytes());
    stream
}

fn crc32(bytes: &[u8]) -> u32 {
    let shifted = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| shifted(crc)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().zip([16, 8, 0]).fold(0, |bits, (&byte, shift)| bits | usize::from(byte) << shift);
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            // n bytes need n + 1 digits.
            text.push(if i <= three.len() { DIGITS[bits >> shift & 63] as char } else { '=' });
        }
    }
    text
}
