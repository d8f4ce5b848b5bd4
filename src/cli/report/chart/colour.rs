//! Colours that people with colour blindness can distinguish.

/// The colour of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// The colour of text: dark on a light page, light on a dark page.
    Text,
    /// Less important text and lines.
    Muted,
    /// The lines of a grid.
    Grid,
    /// Always white.
    White,
    /// A colour. That of a line is brighter on a dark page; that of an area is the same, because there is text on it.
    Colour([u8; 3]),
}

impl Ink {
    /// Its name in the style sheet of a page, which may change the colour; `None` if it has no name there.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Ink::Text => Some("text"),
            Ink::Muted => Some("muted"),
            Ink::Grid => Some("grid"),
            BLUE => Some("blue"),
            VERMILLION => Some("vermillion"),
            GREEN => Some("green"),
            PURPLE => Some("purple"),
            ORANGE => Some("orange"),
            SKY => Some("sky"),
            Ink::White | Ink::Colour(_) => None,
        }
    }

    /// Red, green and blue on a white page.
    pub fn on_white(self) -> [u8; 3] {
        match self {
            Ink::Text => [0x1c, 0x20, 0x24],
            Ink::Muted => [0x5c, 0x64, 0x6c],
            Ink::Grid => [0xdd, 0xe1, 0xe5],
            Ink::White => [0xff; 3],
            Ink::Colour(colour) => colour,
        }
    }
}

/// Six of the eight colours of Okabe & Ito (2008): their yellow is hard to see on white, their black is that of text.
pub const BLUE: Ink = Ink::Colour([0x00, 0x72, 0xb2]);
pub const VERMILLION: Ink = Ink::Colour([0xd5, 0x5e, 0x00]);
const GREEN: Ink = Ink::Colour([0x00, 0x9e, 0x73]);
const PURPLE: Ink = Ink::Colour([0xcc, 0x79, 0xa7]);
const ORANGE: Ink = Ink::Colour([0xe6, 0x9f, 0x00]);
const SKY: Ink = Ink::Colour([0x56, 0xb4, 0xe9]);

/// The colours of lines, in their order.
const LINES: [Ink; 7] = [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, Ink::Text];

/// The number of distinct lines: each colour without and with rings.
pub const MOST: usize = 2 * LINES.len();

/// The colour of the `i`-th line, and whether it has rings.
pub fn of_line(i: usize) -> (Ink, bool) {
    (LINES[i % LINES.len()], i >= LINES.len())
}

/// Viridis (van der Walt & Smith 2015) at `share` of the way from dark violet to yellow, 0 to 1. The brightness grows with
/// the share, so that a print in grey is readable too. Linear between eleven of its 256 colours.
pub fn viridis(share: f64) -> [u8; 3] {
    const AT: [[u8; 3]; 11] = [
        [68, 1, 84],
        [72, 37, 118],
        [65, 68, 135],
        [53, 95, 141],
        [42, 120, 142],
        [33, 145, 140],
        [34, 168, 132],
        [66, 190, 113],
        [122, 209, 81],
        [189, 223, 38],
        [253, 231, 37],
    ];
    let place = share.clamp(0.0, 1.0) * (AT.len() - 1) as f64;
    let below = (place as usize).min(AT.len() - 2);
    let rest = place - below as f64;
    let mixed = |c: usize| f64::from(AT[below][c]) * (1.0 - rest) + f64::from(AT[below + 1][c]) * rest;
    [0, 1, 2].map(|c| mixed(c).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viridis_goes_from_dark_to_bright() {
        assert_eq!((viridis(0.0), viridis(0.5), viridis(1.0)), ([68, 1, 84], [33, 145, 140], [253, 231, 37]));
        assert_eq!((viridis(-1.0), viridis(2.0)), (viridis(0.0), viridis(1.0)));
        // Halfway between the first two colours, rounded.
        assert_eq!(viridis(0.05), [70, 19, 101]);
        // The weights of red, green and blue in brightness, ITU-R BT.709.
        let brightness = |share| {
            let [red, green, blue] = viridis(share).map(f64::from);
            0.2126 * red + 0.7152 * green + 0.0722 * blue
        };
        assert!((0..100).all(|i| brightness(f64::from(i) / 100.0) < brightness(f64::from(i + 1) / 100.0)));
    }

    #[test]
    fn no_two_lines_look_the_same() {
        let looks: Vec<_> = (0..MOST).map(of_line).collect();
        assert!((0..MOST).all(|i| (0..i).all(|j| looks[i] != looks[j])));
    }
}
