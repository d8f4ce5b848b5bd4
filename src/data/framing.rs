//! How a picture of any size becomes a square.

use std::fmt;

/// How a picture becomes a square; a `usize` is both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Length of the shorter side after resizing, R.
    pub resize: usize,
    /// Side of the square that is cut from the centre, S; at most R.
    pub crop: usize,
}

impl From<usize> for Framing {
    fn from(size: usize) -> Self {
        Framing { resize: size, crop: size }
    }
}

/// `224x224 pixels`, or `224x224 pixels, cut out after the shorter side is resized to 256`.
impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Framing { resize, crop } = self;
        write!(f, "{crop}x{crop} pixels")?;
        if resize == crop { Ok(()) } else { write!(f, ", cut out after the shorter side is resized to {resize}") }
    }
}
