//! The orientation that a camera notes in a file: tag 274 of EXIF, which has the layout of a TIFF file, or
//! `tiff:Orientation` of XMP, which counts where EXIF has none. As `ImageOps.exif_transpose` of Pillow applies it.

use ndarray::{ArrayView3, Axis};

/// What becomes of the orientation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exif {
    /// It turns the picture upright.
    Apply,
    /// The pixels stay as stored.
    Ignore,
}

/// 1: as stored. 2 to 8: how a picture becomes upright.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orientation(u8);

impl Orientation {
    /// The picture is upright as it is stored.
    pub const NORMAL: Orientation = Orientation(1);

    /// The number in EXIF.
    pub fn number(self) -> u8 {
        self.0
    }

    /// What is done to make a picture upright, or `None`.
    pub fn change(self) -> Option<&'static str> {
        match self.0 {
            3 | 6 | 8 => Some("rotated"),
            2 | 4 => Some("mirrored"),
            5 | 7 => Some("mirrored and rotated"),
            _ => None,
        }
    }

    /// `pixels (h, w, 3)` upright, which may be `(w, h, 3)`.
    pub fn upright(self, mut pixels: ArrayView3<'_, u8>) -> ArrayView3<'_, u8> {
        if self.0 >= 5 {
            pixels.swap_axes(0, 1);
        }
        if matches!(self.0, 3 | 4 | 7 | 8) {
            pixels.invert_axis(Axis(0));
        }
        if matches!(self.0, 2 | 3 | 6 | 7) {
            pixels.invert_axis(Axis(1));
        }
        pixels
    }
}

/// The orientation in a file's EXIF and XMP; each is empty if there is none.
pub(super) fn orientation(mut exif: &[u8], xmp: &[u8]) -> Orientation {
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    let number = entry(exif, 274).and_then(|values| values.first().copied()).or_else(|| in_xmp(xmp));
    Orientation(number.filter(|number| (1..=8).contains(number)).unwrap_or(1) as u8)
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn in_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let at = (0..xmp.len()).find(|&at| {
        let rest = xmp[at..].strip_prefix(NAME);
        rest.is_some_and(|rest| rest.starts_with(b"=\"") || rest.starts_with(b">"))
    })?;
    let value = xmp[at + NAME.len()..].iter().find(|byte| !b"=\">".contains(byte))?;
    char::from(*value).to_digit(10)
}

/// The values of a tag in the first directory of a TIFF file: whole numbers of one, two or four bytes.
///
/// ```text
/// "II" or "MM" (order of bytes), 42, offset of the directory: count, and of each entry tag, type, count, values or offset
/// ```
pub(super) fn entry(file: &[u8], tag: u16) -> Option<Vec<u32>> {
    let place = entry_place(file, tag)?;
    let number = |at: usize, bytes: usize| number(file, at, bytes);
    let size = [1, 2, 4][[1, 3, 4].iter().position(|&kind| number(place + 2, 2) == Some(kind))?];
    let count = number(place + 4, 4)? as usize;
    let at = if count <= 4 / size { place + 8 } else { number(place + 8, 4)? as usize };
    // As long as the file at most.
    file.get(at..at.checked_add(count.checked_mul(size)?)?)?;
    (0..count).map(|k| number(at + size * k, size)).collect()
}

/// Where the entry of a tag is.
pub(super) fn entry_place(file: &[u8], tag: u16) -> Option<usize> {
    if number(file, 2, 2)? != 42 {
        return None;
    }
    let directory = number(file, 4, 4)? as usize;
    let count = number(file, directory, 2)? as usize;
    (0..count).map(|k| directory + 2 + 12 * k).find(|&place| number(file, place, 2) == Some(tag.into()))
}

/// A whole number, in the order of bytes with which the file begins.
fn number(file: &[u8], at: usize, bytes: usize) -> Option<u32> {
    let value = file.get(at..at.checked_add(bytes)?)?;
    let add = |sum: u32, &byte: &u8| sum << 8 | u32::from(byte);
    match file.get(..2)? {
        b"II" => Some(value.iter().rev().fold(0, add)),
        b"MM" => Some(value.iter().fold(0, add)),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ndarray::{Array3, array};

    /// A directory of two entries in either order of bytes.
    pub fn exif(order: &[u8; 2], orientation: u16) -> Vec<u8> {
        let short = |value: u16| if order == b"II" { value.to_le_bytes() } else { value.to_be_bytes() };
        let long = |value: u32| if order == b"II" { value.to_le_bytes() } else { value.to_be_bytes() };
        let entry = |tag, value| [&short(tag)[..], &short(3), &long(1), &short(value), &[0, 0]].concat();
        [&order[..], &short(42), &long(8), &short(2), &entry(256, 7), &entry(274, orientation), &long(0)].concat()
    }

    #[test]
    fn the_orientation_is_found_in_exif_and_in_xmp() {
        let of = |exif: &[u8], xmp: &[u8]| orientation(exif, xmp).number();
        for order in [b"II", b"MM"] {
            for number in 1..=8 {
                let exif = exif(order, number);
                assert_eq!(of(&exif, b""), number as u8);
                assert_eq!(of(&[b"Exif\0\0", &exif[..]].concat(), b"tiff:Orientation=\"3\""), number as u8);
                for end in 0..exif.len() - 6 {
                    assert_eq!(of(&exif[..end], b""), 1, "{end}");
                }
            }
            assert_eq!((of(&exif(order, 0), b""), of(&exif(order, 9), b"tiff:Orientation=\"3\"")), (1, 1));
        }
        for (xmp, expected) in [
            ("<rdf tiff:Orientation=\"6\" x=\"1\">", 6),
            ("a<tiff:Orientation>8</tiff:Orientation>", 8),
            ("tiff:OrientationX tiff:Orientation=\"2\"", 2),
            ("tiff:Orientation=\"", 1),
            ("tiff:Orientation", 1),
        ] {
            assert_eq!(of(b"", xmp.as_bytes()), expected, "{xmp}");
        }
        // Offsets and counts beyond the file.
        let mut far = exif(b"II", 6);
        far[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(of(&far, b""), 1);
        let mut many = exif(b"II", 6);
        many[26..30].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(of(&many, b""), 1);
    }

    /// What `exif_transpose` of Pillow makes of 1 2 3 over 4 5 6.
    #[test]
    fn pictures_become_upright() {
        let stored = Array3::from_shape_fn((2, 3, 3), |(i, j, _)| (3 * i + j + 1) as u8);
        let upright = |number| Orientation(number).upright(stored.view()).slice(ndarray::s![.., .., 0]).to_owned();
        assert_eq!(upright(1), array![[1, 2, 3], [4, 5, 6]]);
        assert_eq!(upright(2), array![[3, 2, 1], [6, 5, 4]]);
        assert_eq!(upright(3), array![[6, 5, 4], [3, 2, 1]]);
        assert_eq!(upright(4), array![[4, 5, 6], [1, 2, 3]]);
        assert_eq!(upright(5), array![[1, 4], [2, 5], [3, 6]]);
        assert_eq!(upright(6), array![[4, 1], [5, 2], [6, 3]]);
        assert_eq!(upright(7), array![[6, 3], [5, 2], [4, 1]]);
        assert_eq!(upright(8), array![[3, 6], [2, 5], [1, 4]]);
    }
}
