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

    /// The orientation with this number in EXIF, 1 to 8.
    pub fn new(number: u8) -> Option<Self> {
        (1..=8).contains(&number).then_some(Orientation(number))
    }

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
pub(super) fn entry(file: &[u8], tag: u16) -> Option<Vec<u32>> {
    let entry = entries(file)?.find(|entry| entry.tag == tag)?;
    let size = if matches!(entry.kind, 1 | 3 | 4) { entry.size()? } else { return None };
    // As long as the file at most.
    let at = entry.place(file)?;
    (0..entry.count as usize).map(|k| Some(number(file, at + size * k, size)? as u32)).collect()
}

/// Where the values of a tag are.
pub(super) fn place_of(file: &[u8], tag: u16) -> Option<usize> {
    entries(file)?.find(|entry| entry.tag == tag)?.place(file)
}

/// The first of `tags` whose values are not in the file.
pub(super) fn outside(file: &[u8], tags: &[u16]) -> Option<u16> {
    let mut entries = entries(file)?.filter(|entry| tags.contains(&entry.tag) && entry.size().is_some());
    entries.find(|entry| entry.place(file).is_none()).map(|entry| entry.tag)
}

/// An entry of a directory.
struct Entry {
    tag: u16,
    /// The number of a type.
    kind: u64,
    count: u64,
    /// Where the values are if they fit there, and otherwise their offset.
    at: usize,
    /// The bytes of an offset.
    width: usize,
}

/// The entries of the first directory.
///
/// ```text
/// "II" or "MM" (order of bytes), 42, offset of the directory: count, and of each entry tag, type, count, values or offset
/// ```
///
/// Counts and offsets have four bytes, the count of the entries has two. In a BigTIFF there are 43, 8 and 0 in place of 42, and
/// all of them have eight.
fn entries(file: &[u8]) -> Option<impl Iterator<Item = Entry>> {
    let (width, width_of_count) = match number(file, 2, 2)? {
        42 => (4, 2),
        43 => (8, 8),
        _ => return None,
    };
    let directory = usize::try_from(number(file, width, width)?).ok()?;
    let count = number(file, directory, width_of_count)?;
    let start = directory + width_of_count;
    let entry = move |k| {
        let place = start + (4 + 2 * width) * k;
        let [tag, kind] = [number(file, place, 2)?, number(file, place + 2, 2)?];
        let count = number(file, place + 4, width)?;
        Some(Entry { tag: tag as u16, kind, count, at: place + 4 + width, width })
    };
    // The file ends before the number becomes too large.
    Some((0..usize::try_from(count).ok()?).map_while(entry))
}

impl Entry {
    /// The bytes of a value, if its type is known.
    fn size(&self) -> Option<usize> {
        match self.kind {
            1 | 2 | 6 | 7 => Some(1),
            3 | 8 => Some(2),
            4 | 9 | 11 | 13 => Some(4),
            5 | 10 | 12 | 16..=18 => Some(8),
            _ => None,
        }
    }

    /// Where the values are, if all of them are in the file.
    fn place(&self, file: &[u8]) -> Option<usize> {
        let bytes = usize::try_from(self.count).ok()?.checked_mul(self.size()?)?;
        let at = if bytes <= self.width { self.at } else { number(file, self.at, self.width)?.try_into().ok()? };
        file.get(at..at.checked_add(bytes)?)?;
        Some(at)
    }
}

/// A whole number, in the order of bytes with which the file begins.
fn number(file: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let value = file.get(at..at.checked_add(bytes)?)?;
    let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
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
