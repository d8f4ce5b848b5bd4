//! A scan: the coded coefficients of one component, or of several in turn (T.81, annexes F.2 and G.2).
//!
//! A sequential scan has every coefficient of its blocks. Progressive scans have a band of frequencies each, `first..=last`,
//! and of its coefficients all bits from `low` on (a first scan), or bit `low` alone (a refinement).

use super::huffman::{Bits, Table};
use super::segments::{Tables, ZIGZAG};
use super::{Component, Fault, Frame, broken};

/// The most blocks in a unit of an interleaved scan.
const MOST_BLOCKS: usize = 10;

/// What a progressive scan has of its blocks.
struct Band {
    first: usize,
    last: usize,
    /// The lowest bit that earlier scans have, or 0 for the first scan of the band.
    high: u8,
    /// The bit from which on, or which alone, this scan has.
    low: u8,
}

/// A component in a scan, with its tables where the scan uses them.
struct Member<'a> {
    component: usize,
    dc: Option<&'a Table>,
    ac: Option<&'a Table>,
    /// The last DC coefficient; a block has its difference from it.
    previous: i32,
}

/// Reads the scan with this header, whose data are at `at`. Returns where they end, and whether the picture is complete: the
/// scan is sequential and has every component.
pub fn read(
    bytes: &[u8],
    at: usize,
    header: &[u8],
    tables: &Tables,
    frame: &mut Frame,
) -> Result<(usize, bool), Fault> {
    let (band, mut members) = parse(header, tables, frame)?;
    let mut bits = Bits::new(bytes, at);
    let is_interleaved = members.len() > 1;
    // A single component is not padded to whole units: its units are the blocks that have samples.
    let [rows, columns] = [0, 1].map(|axis| {
        let component = &frame.components[members[0].component];
        match is_interleaved {
            true => component.blocks[axis] / component.sampling[axis],
            false => component.size[axis].div_ceil(8),
        }
    });
    // Blocks, from the next one on, that have nothing more in this band.
    let mut run = 0;
    for unit in 0..rows * columns {
        if tables.restart_interval > 0 && unit > 0 && unit % tables.restart_interval == 0 {
            bits.restart((unit / tables.restart_interval - 1) % 8)?;
            members.iter_mut().for_each(|member| member.previous = 0);
            run = 0;
        }
        for member in &mut members {
            let component = &mut frame.components[member.component];
            let [height, width] = if is_interleaved { component.sampling } else { [1, 1] };
            for (i, j) in (0..height).flat_map(|i| (0..width).map(move |j| (i, j))) {
                let place = [unit / columns * height + i, unit % columns * width + j];
                match &band {
                    None => {
                        let block = member.sequential(&mut bits)?;
                        component.transform(&block, place);
                    }
                    Some(band) => {
                        let block = &mut component.coefficients[place[0] * component.blocks[1] + place[1]];
                        member.progressive(&mut bits, band, &mut run, block)?;
                    }
                }
            }
        }
        // A short file that claims to be large takes no time.
        bits.check()?;
    }
    Ok((bits.end()?, band.is_none() && members.len() == frame.components.len()))
}

/// The scan header: the components with their tables, then the band.
fn parse<'a>(header: &[u8], tables: &'a Tables, frame: &mut Frame) -> Result<(Option<Band>, Vec<Member<'a>>), Fault> {
    let count = usize::from(header.first().copied().unwrap_or(0));
    if !matches!(count, 1..=4) || header.len() != 4 + 2 * count {
        return Err(broken("damaged: a scan header of the wrong length"));
    }
    let [first, last, bits] = [1, 2, 3].map(|k| header[2 * count + k]);
    let band = Band { first: first.into(), last: last.into(), high: bits >> 4, low: bits & 15 };
    let band = frame.progressive.then_some(band);
    let mut members: Vec<Member> = Vec::new();
    for pair in header[1..=2 * count].chunks(2) {
        let is_new =
            |k: &usize| frame.components[*k].id == pair[0] && members.iter().all(|member| member.component != *k);
        let component = (0..frame.components.len()).find(is_new);
        let component = component
            .ok_or_else(|| broken(format!("damaged: a scan of component {}, which the frame lacks", pair[0])))?;
        let table = |tables: &'a [Option<Table>; 4], number: u8| {
            let table = tables.get(usize::from(number)).and_then(Option::as_ref);
            table.ok_or_else(|| broken("damaged: a scan without its Huffman table"))
        };
        let (has_dc, has_ac) =
            band.as_ref().map_or((true, true), |band| (band.first == 0 && band.high == 0, band.first > 0));
        let dc = has_dc.then(|| table(&tables.dc, pair[1] >> 4)).transpose()?;
        let ac = has_ac.then(|| table(&tables.ac, pair[1] & 15)).transpose()?;
        members.push(Member { component, dc, ac, previous: 0 });
    }
    let blocks = members.iter().map(|member| frame.components[member.component].sampling).map(|[v, h]| v * h);
    if count > 1 && blocks.sum::<usize>() > MOST_BLOCKS {
        return Err(broken(format!("damaged: a unit of more than {MOST_BLOCKS} blocks")));
    }
    for member in &members {
        let component = &mut frame.components[member.component];
        // The table of the first scan of a component is the one of all.
        let table = tables.quantization.get(component.table).copied().flatten();
        component.quantization = component.quantization.or(table);
        if component.quantization.is_none() {
            return Err(broken("damaged: a component without its quantisation table"));
        }
        if let Some(band) = &band {
            band.check(component, count)?;
        }
    }
    Ok((band, members))
}

impl Band {
    /// Whether the standard allows this scan after those before it, which are then noted: it brings something new.
    fn check(&self, component: &mut Component, members: usize) -> Result<(), Fault> {
        let is_band =
            if self.first == 0 { self.last == 0 } else { members == 1 && (self.first..64).contains(&self.last) };
        let is_refinement = self.high > 0;
        let is_new = is_band
            && self.low <= 13
            && (!is_refinement || self.high == self.low + 1)
            && component.missing_bits[self.first..=self.last]
                .iter()
                .all(|&missing| missing == is_refinement.then_some(self.high));
        if !is_new {
            let Band { first, last, high, low } = self;
            return Err(broken(format!(
                "damaged: a scan of frequencies {first} to {last}, bits {high} to {low}, out of order"
            )));
        }
        component.missing_bits[self.first..=self.last].fill(Some(self.low));
        Ok(())
    }
}

impl Member<'_> {
    /// The DC coefficient of the next block: the last one and a difference.
    fn dc(&mut self, bits: &mut Bits) -> Result<i32, Fault> {
        let size = bits.symbol(self.dc.expect("the scan has DC coefficients"))?;
        if size > 15 {
            return Err(broken("damaged: a difference of more than 15 bits"));
        }
        self.previous = self.previous.wrapping_add(bits.signed(size.into()));
        Ok(self.previous)
    }

    /// All coefficients of the next block.
    fn sequential(&mut self, bits: &mut Bits) -> Result<[i16; 64], Fault> {
        let mut block = [0; 64];
        block[0] = self.dc(bits)? as i16;
        let ac = self.ac.expect("the scan has AC coefficients");
        let mut k = 1;
        while k < 64 {
            // Zeros before the next coefficient, and its bits.
            let symbol = bits.symbol(ac)?;
            match (usize::from(symbol >> 4), u32::from(symbol & 15)) {
                (15, 0) => k += 16,
                (_, 0) => break,
                (zeros, size) => {
                    k += zeros;
                    *at(&mut block, k, 63)? = bits.signed(size) as i16;
                    k += 1;
                }
            }
        }
        Ok(block)
    }

    /// What a progressive scan has of the next block.
    fn progressive(&mut self, bits: &mut Bits, band: &Band, run: &mut u32, block: &mut [i16; 64]) -> Result<(), Fault> {
        match (band.first, band.high) {
            (0, 0) => block[0] = (self.dc(bits)? << band.low) as i16,
            (0, _) => block[0] |= (bits.take(1) << band.low) as i16,
            (_, 0) => first_bits(bits, band, run, self.ac.expect("the scan has AC coefficients"), block)?,
            _ => one_bit(bits, band, run, self.ac.expect("the scan has AC coefficients"), block)?,
        }
        Ok(())
    }
}

/// The coefficient with number `k` in a file's order, of a band that ends at `last`.
fn at(block: &mut [i16; 64], k: usize, last: usize) -> Result<&mut i16, Fault> {
    match k <= last {
        true => Ok(&mut block[usize::from(ZIGZAG[k])]),
        false => Err(broken("damaged: a block of more than 64 coefficients")),
    }
}

/// The high bits of the AC coefficients of a band.
fn first_bits(bits: &mut Bits, band: &Band, run: &mut u32, ac: &Table, block: &mut [i16; 64]) -> Result<(), Fault> {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let mut k = band.first;
    while k <= band.last {
        let symbol = bits.symbol(ac)?;
        match (symbol >> 4, u32::from(symbol & 15)) {
            (15, 0) => k += 16,
            (size, 0) => {
                // This block ends, and so do as many after it.
                *run = (1 << size) - 1 + bits.take(size.into());
                break;
            }
            (zeros, size) => {
                k += usize::from(zeros);
                *at(block, k, band.last)? = (bits.signed(size) << band.low) as i16;
                k += 1;
            }
        }
    }
    Ok(())
}

/// The next bit of the AC coefficients of a band: of those that are not 0 the bit itself, of the others those that become 1
/// or −1 in this bit.
fn one_bit(bits: &mut Bits, band: &Band, run: &mut u32, ac: &Table, block: &mut [i16; 64]) -> Result<(), Fault> {
    let bit = 1 << band.low;
    let mut k = band.first;
    // Passes over `zeros` coefficients that are 0, and corrects the others on the way.
    let pass = |bits: &mut Bits, k: &mut usize, mut zeros: usize, block: &mut [i16; 64]| {
        while *k <= band.last {
            let value = &mut block[usize::from(ZIGZAG[*k])];
            if *value == 0 {
                if zeros == 0 {
                    break;
                }
                zeros -= 1;
            } else if bits.take(1) == 1 {
                *value += if *value > 0 { bit } else { -bit };
            }
            *k += 1;
        }
    };
    while *run == 0 && k <= band.last {
        let symbol = bits.symbol(ac)?;
        let (zeros, size) = (symbol >> 4, symbol & 15);
        let new = match size {
            0 if zeros < 15 => {
                // This block ends, and so do as many after it; what is not 0 is corrected below.
                *run = (1 << zeros) + bits.take(zeros.into());
                break;
            }
            0 => 0,
            _ if bits.take(1) == 1 => bit,
            _ => -bit,
        };
        pass(bits, &mut k, zeros.into(), block);
        if new != 0 {
            *at(block, k, band.last)? = new;
        }
        k += 1;
    }
    if *run > 0 {
        pass(bits, &mut k, 64, block);
        *run -= 1;
    }
    Ok(())
}
