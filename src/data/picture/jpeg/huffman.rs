//! The bits of a scan, and the Huffman codes in them (T.81, annexes C and F.2.2).

use super::{Fault, broken, truncated};

/// Bits of a code that the table resolves in one step.
const FAST: usize = 9;

/// A Huffman table.
pub struct Table {
    /// For every pattern of [`FAST`] bits that starts with a code of at most so many: its symbol, and its length, or 0.
    fast: [(u8, u8); 1 << FAST],
    /// For each length: the first pattern of 16 bits that is a longer code.
    end: [u32; 17],
    /// For each length: what is added to a code to get the place of its symbol.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// `counts[n]` codes of n + 1 bits, in the order of `symbols`.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, Fault> {
        let mut table = Table { fast: [(0, 0); 1 << FAST], end: [0; 17], offset: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16 {
            table.offset[length] = place as i32 - code as i32;
            for &symbol in symbols.iter().skip(place).take(counts[length - 1].into()) {
                if code >> length != 0 {
                    return Err(broken("a Huffman table with more codes than their bits can form"));
                }
                if length <= FAST {
                    let first = (code as usize) << (FAST - length);
                    table.fast[first..first + (1 << (FAST - length))].fill((symbol, length as u8));
                }
                (code, place) = (code + 1, place + 1);
            }
            table.end[length] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }
}

/// The bits of a scan, the highest of each byte first.
///
/// In a scan, `ff 00` is the byte ff; `ff` before another byte is a marker, before which the bits end. Zeros follow, so
/// that whole words can be read; a file is whole if they are not used.
pub struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte to be read.
    at: usize,
    /// Bits that are read and not used, from the highest on.
    buffer: u64,
    count: u32,
    /// How many of them are zeros after the end.
    zeros: u32,
    /// Whether the file ends before a marker.
    ends: bool,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Bits { bytes, at, buffer: 0, count: 0, zeros: 0, ends: false }
    }

    /// Reads bytes until there are more than 48 bits.
    fn fill(&mut self) {
        while self.count <= 48 {
            // Nearly always, four bytes without a marker.
            if let Some(four) = self.bytes[self.at..].first_chunk::<4>()
                && self.count <= 32
                && !four.contains(&0xff)
            {
                self.buffer |= u64::from(u32::from_be_bytes(*four)) << (32 - self.count);
                (self.at, self.count) = (self.at + 4, self.count + 32);
                continue;
            }
            let byte = match &self.bytes[self.at..] {
                &[byte, ..] if byte != 0xff => {
                    self.at += 1;
                    byte
                }
                rest => {
                    // Any number of ff may precede the second byte.
                    let fill = rest.iter().take_while(|&&byte| byte == 0xff).count();
                    if rest.get(fill) == Some(&0) {
                        self.at += fill + 1;
                        0xff
                    } else {
                        self.ends |= rest.get(fill).is_none();
                        self.zeros += 8;
                        0
                    }
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next `n` bits, at most 16.
    pub fn take(&mut self, n: u32) -> u32 {
        if self.count < n {
            self.fill();
        }
        let bits = (self.buffer >> 1 >> (63 - n)) as u32;
        self.skip(n);
        bits
    }

    fn skip(&mut self, n: u32) {
        self.buffer <<= n;
        self.count -= n;
    }

    /// A difference or coefficient of `n` bits: with the highest bit 0, it is negative (F.2.2.1, EXTEND).
    pub fn signed(&mut self, n: u32) -> i32 {
        let value = self.take(n) as i32;
        if n > 0 && value >> (n - 1) == 0 { value - (1 << n) + 1 } else { value }
    }

    /// The symbol of the next code.
    pub fn symbol(&mut self, table: &Table) -> Result<u8, Fault> {
        if self.count < 16 {
            self.fill();
        }
        let (symbol, length) = table.fast[(self.buffer >> (64 - FAST)) as usize];
        if length > 0 {
            self.skip(length.into());
            return Ok(symbol);
        }
        let pattern = (self.buffer >> 48) as u32;
        let length = (FAST + 1..=16).find(|&length| pattern < table.end[length]);
        let length = length.ok_or_else(|| broken("damaged: a code that is not in its Huffman table"))?;
        self.skip(length as u32);
        let place = (pattern >> (16 - length)) as i32 + table.offset[length];
        table
            .symbols
            .get(place as usize)
            .copied()
            .ok_or_else(|| broken("damaged: a code that is not in its Huffman table"))
    }

    /// An error if more bits were used than there are.
    pub fn check(&self) -> Result<(), Fault> {
        match self.count < self.zeros {
            false => Ok(()),
            true if self.ends => Err(truncated()),
            true => Err(broken("truncated or damaged: the data of a scan ends early")),
        }
    }

    /// Continues after the restart marker with this number, which is the next marker.
    pub fn restart(&mut self, number: usize) -> Result<(), Fault> {
        self.check()?;
        let (found, at) = next_marker(self.bytes, self.at).ok_or_else(truncated)?;
        let expected = 0xd0 + number as u8;
        if found != expected {
            return Err(broken(format!(
                "damaged: expected the restart marker ff {expected:02x}, found ff {found:02x}"
            )));
        }
        *self = Bits::new(self.bytes, at);
        Ok(())
    }

    /// Where the scan ends: at a marker, or before bytes that no code uses.
    pub fn end(&self) -> Result<usize, Fault> {
        self.check()?;
        // At least a marker follows.
        if self.at + 2 > self.bytes.len() { Err(truncated()) } else { Ok(self.at) }
    }
}

/// The next marker from `at` on, and the place after it. Bytes before it that belong to nothing are skipped.
pub fn next_marker(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let mut pairs = bytes.get(at..)?.windows(2).zip(at + 2..);
    pairs.find(|(pair, _)| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff)).map(|(pair, after)| (pair[1], after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 0, 10, 110, …, of up to 16 bits: of each length one, and the last pattern is no code.
    #[test]
    fn codes_of_every_length_are_found() {
        let symbols: Vec<u8> = (1..=16).collect();
        let table = Table::new(&[1; 16], &symbols).unwrap();
        let codes: Vec<u8> = symbols.iter().flat_map(|&length| (1..length).map(|_| 1).chain([0])).collect();
        let bytes: Vec<u8> = codes.chunks(8).map(|bits| bits.iter().fold(0, |sum, bit| sum << 1 | bit)).collect();
        // In a scan a 0 follows ff.
        let bytes: Vec<u8> =
            bytes.into_iter().flat_map(|byte| [byte, 0].into_iter().take(1 + usize::from(byte == 255))).collect();
        let mut bits = Bits::new(&bytes, 0);
        let found: Vec<u8> = symbols.iter().map(|_| bits.symbol(&table).ok().unwrap()).collect();
        assert_eq!(found, symbols);
        assert!(bits.check().is_ok() && bits.end().is_err());
        assert!(bits.symbol(&table).is_ok() && bits.check().is_err());
        assert!(Bits::new(&[255, 0, 255, 0, 255, 0], 0).symbol(&table).is_err());
        // Three codes of one bit.
        assert!(Table::new(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[1, 2, 3]).is_err());
    }

    #[test]
    fn values_are_extended_with_their_sign() {
        // 3 bits: 000 is −7, 011 is −4, 100 is 4, 111 is 7; none is 0.
        let mut bits = Bits::new(&[0b0000_1110, 0b0111_0000, 0, 0, 0, 0, 0, 0, 0, 0], 0);
        assert_eq!([0; 4].map(|_| bits.signed(3)), [-7, -4, 4, 7]);
        assert_eq!((bits.signed(0), bits.take(0)), (0, 0));
        // ff, with any number of ff before its 0.
        let mut bits = Bits::new(&[1, 0xff, 0, 2, 0xff, 0xff, 0xff, 0, 3, 0xff, 0xd9], 0);
        assert_eq!([0; 5].map(|_| bits.take(8)), [1, 0xff, 2, 0xff, 3]);
    }
}
