//! The format of a file, by its content: names are often wrong.

use super::{Decoder, bmp, gif, jpeg, png, tiff, webp};

/// The formats that are read.
pub const READ: &str = "PNG, JPEG, WebP, BMP, GIF or TIFF";

/// The decoder for a file, or what the file is instead.
pub fn of(bytes: &[u8]) -> Result<Decoder, String> {
    let decoders: [(bool, Decoder); 8] = [
        (bytes.starts_with(png::START), png::decode),
        (bytes.starts_with(jpeg::START), jpeg::decode),
        (bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"), webp::decode),
        (bytes.starts_with(b"BM"), bmp::decode),
        (bytes.starts_with(b"GIF8"), gif::decode),
        (bytes.starts_with(b"II*\0"), tiff::decode),
        (bytes.starts_with(b"MM\0*"), tiff::decode),
        (bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+"), tiff::decode),
    ];
    let decoder = decoders.into_iter().find_map(|(is_it, decoder)| is_it.then_some(decoder));
    decoder.ok_or_else(|| other(bytes))
}

/// The name of a format that is not read.
fn other(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_lowercase();
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    // ISO base media: the length of the first box, its kind, the brand.
    let brand = bytes.get(4..8).filter(|kind| *kind == b"ftyp").and(bytes.get(8..12));
    let name = match bytes {
        [] => "an empty file",
        _ if brand.is_some_and(|brand| brand.starts_with(b"avi")) => "an AVIF image",
        _ if brand
            .is_some_and(|brand| [b"hei", b"hev", b"mif", b"msf"].iter().any(|name| brand.starts_with(*name))) =>
        {
            "a HEIC image"
        }
        _ if brand.is_some() => "a film",
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "a JPEG XL image",
        [0xff, 0x4f, 0xff, 0x51, ..] | [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] => "a JPEG 2000 image",
        [b'8', b'B', b'P', b'S', ..] => "a Photoshop file",
        [b'%', b'P', b'D', b'F', ..] => "a PDF file",
        [b'P', b'1'..=b'7', b'\n' | b' ' | b'\r' | b'\t', ..] => "a PNM image",
        [0, 0, 1 | 2, 0, ..] => "an icon",
        [b'P', b'K', 3, 4, ..] => "a zip archive",
        _ if text.starts_with("<svg") || text.starts_with("<?xml") && text.contains("<svg") => "an SVG image",
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => "a web page",
        _ if text.starts_with("version https://git-lfs") => "a pointer of Git LFS",
        start => return format!("a file that starts {:02x?}", &start[..start.len().min(8)]),
    };
    name.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_named() {
        for (start, expected) in [
            (&b""[..], "an empty file"),
            (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF image"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0", "a HEIC image"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0", "a film"),
            (b"\xff\x0a\xfa\x7f", "a JPEG XL image"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
            (b"8BPS\0\x01", "a Photoshop file"),
            (b"%PDF-1.7", "a PDF file"),
            (b"P6\n8 8\n255\n", "a PNM image"),
            (b"\0\0\x01\0\x01\0", "an icon"),
            (b"\xef\xbb\xbf  <svg xmlns=", "an SVG image"),
            (b"<?xml version=\"1.0\"?>\n<!-- x --><svg", "an SVG image"),
            (b"\n<!DOCTYPE html><html>", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
            (b"this is a text", "a file that starts [74, 68, 69, 73, 20, 69, 73, 20]"),
            (b"RIFF\0\0\0\0WAVE", "a file that starts [52, 49, 46, 46, 00, 00, 00, 00]"),
        ] {
            assert_eq!(of(start).err().as_deref(), Some(expected), "{start:02x?}");
        }
    }
}
