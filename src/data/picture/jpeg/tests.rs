//! Files that are written here, coefficient by coefficient, in every order of scans; what Pillow makes of them; and files of
//! the crate `jpeg-encoder`.

use super::super::tests::{decode, sum};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use std::path::Path;

/// A file whose Huffman tables are trivial: a DC symbol is its own code of four bits, an AC symbol of eight.
struct Writer {
    bytes: Vec<u8>,
    /// Bits that are not yet a byte.
    bits: Vec<bool>,
    size: [usize; 2],
    samplings: Vec<[usize; 2]>,
    /// Of each component: rows and columns of blocks, and the blocks, in a file's order of frequencies.
    blocks: Vec<([usize; 2], Vec<[i32; 64]>)>,
    restart_interval: usize,
    /// Of a progressive scan: blocks that have nothing new from here on, and the bits that correct them.
    run: i32,
    corrections: Vec<i32>,
}

/// What a scan has: `first`, `last`, `high`, `low`.
type Band = [u8; 4];
const ALL: Band = [0, 63, 0, 0];

impl Writer {
    /// A picture of arbitrary coefficients. `frame` is its marker, c0 or c2; `ids` are the names of the components.
    fn new(frame: u8, size: [usize; 2], samplings: &[[usize; 2]], ids: &[u8]) -> Self {
        let most = [0, 1].map(|axis| samplings.iter().map(|sampling| sampling[axis]).max().unwrap());
        let mut seed = 1u32;
        let mut below = |n: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % n
        };
        let mut block = || {
            let mut block = [0; 64];
            block[0] = below(61) as i32 - 30;
            for _ in 0..below(9) * below(2) {
                block[1 + below(63) as usize] = below(19) as i32 - 9;
            }
            block
        };
        let blocks = samplings.iter().map(|sampling| {
            let blocks = [0, 1].map(|axis| size[axis].div_ceil(8 * most[axis]) * sampling[axis]);
            (blocks, (0..blocks[0] * blocks[1]).map(|_| block()).collect())
        });
        let mut writer = Writer {
            bytes: vec![0xff, 0xd8],
            bits: Vec::new(),
            size,
            samplings: samplings.to_vec(),
            blocks: blocks.collect(),
            restart_interval: 0,
            run: 0,
            corrections: Vec::new(),
        };
        // 8 for every coefficient: a step of a DC coefficient is one of a sample.
        writer.segment(0xdb, &[&[0][..], &[8; 64]].concat());
        // 15 codes of four bits; 255 of eight.
        let counts = |length: usize, count: u8| (1..=16).map(move |bits| if bits == length { count } else { 0 });
        writer.segment(0xc4, &[0].into_iter().chain(counts(4, 15)).chain(0..15).collect::<Vec<u8>>());
        writer.segment(0xc4, &[0x10].into_iter().chain(counts(8, 255)).chain(0..255).collect::<Vec<u8>>());
        let [h, w] = size.map(|side| (side as u16).to_be_bytes());
        let parts = ids.iter().zip(samplings).flat_map(|(&id, [v, h])| [id, (h << 4 | v) as u8, 0]);
        let header = [8, h[0], h[1], w[0], w[1], ids.len() as u8].into_iter().chain(parts);
        writer.segment(frame, &header.collect::<Vec<u8>>());
        writer
    }

    fn segment(&mut self, marker: u8, content: &[u8]) {
        self.bytes.extend([&[0xff, marker][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat());
    }

    fn put(&mut self, value: i32, count: usize) {
        self.bits.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
    }

    /// Ones up to the next byte, and the bytes.
    fn flush(&mut self) {
        self.end_run();
        for byte in std::mem::take(&mut self.bits).chunks(8) {
            let byte = (0..8).fold(0, |sum, bit| sum << 1 | u8::from(*byte.get(bit).unwrap_or(&true)));
            self.bytes.push(byte);
            if byte == 0xff {
                self.bytes.push(0);
            }
        }
    }

    /// A symbol of `code` bits, whose low half is the size of `value`, and the value.
    fn coefficient(&mut self, code: usize, zeros: usize, value: i32) {
        let size = 32 - value.unsigned_abs().leading_zeros() as usize;
        self.put((zeros << 4 | size) as i32, code);
        self.put(if value < 0 { value - 1 } else { value }, size);
    }

    /// A scan of these components.
    fn scan(mut self, components: &[usize], band @ [first, last, high, low]: Band) -> Self {
        let ids: Vec<u8> = self
            .bytes
            .windows(2)
            .position(|pair| matches!(pair, [0xff, 0xc0 | 0xc2]))
            .map(|frame| components.iter().map(|k| self.bytes[frame + 10 + 3 * k]).collect())
            .unwrap();
        let members = ids.iter().flat_map(|&id| [id, 0]);
        let header = [ids.len() as u8].into_iter().chain(members).chain([first, last, high << 4 | low]);
        self.segment(0xda, &header.collect::<Vec<u8>>());
        let most = [0, 1].map(|axis| self.samplings.iter().map(|sampling| sampling[axis]).max().unwrap());
        let units = |axis: usize| match components {
            [k] => (self.size[axis] * self.samplings[*k][axis]).div_ceil(8 * most[axis]),
            _ => self.size[axis].div_ceil(8 * most[axis]),
        };
        let (rows, columns) = (units(0), units(1));
        let mut previous = [0; 4];
        for unit in 0..rows * columns {
            if self.restart_interval > 0 && unit > 0 && unit % self.restart_interval == 0 {
                self.flush();
                self.bytes.extend([0xff, 0xd0 + ((unit / self.restart_interval - 1) % 8) as u8]);
                previous = [0; 4];
            }
            for &k in components {
                let [height, width] = if components.len() == 1 { [1, 1] } else { self.samplings[k] };
                for (i, j) in (0..height).flat_map(|i| (0..width).map(move |j| (i, j))) {
                    let (blocks, values) = &self.blocks[k];
                    let place = (unit / columns * height + i) * blocks[1] + unit % columns * width + j;
                    let block = values[place];
                    self.block(&block, &mut previous[k], band);
                }
            }
        }
        self.flush();
        self
    }

    fn block(&mut self, block: &[i32; 64], previous: &mut i32, [first, last, high, low]: Band) {
        // What earlier scans have of a coefficient, and what they and this one have: DC is shifted, AC divided.
        let [before, after] = [high, low].map(|bit| move |k: usize| block[k] / (1 << bit));
        if first == 0 && high == 0 {
            let value = block[0] >> low;
            self.coefficient(4, 0, value - *previous);
            *previous = value;
        } else if first == 0 {
            self.put(block[0] >> low & 1, 1);
        }
        let mut zeros = 0;
        let mut corrections: Vec<i32> = Vec::new();
        // Whatever follows the last coefficient that becomes new is only corrected.
        let is_new = |k: &usize| after(*k) != 0 && (high == 0 || before(*k) == 0);
        let end = (usize::from(first.max(1))..=last.into()).rev().find(is_new);
        for k in first.max(1).into()..=usize::from(last) {
            if high > 0 && before(k) != 0 {
                corrections.push(after(k) & 1);
                continue;
            }
            if after(k) == 0 {
                zeros += 1;
                if zeros == 16 && end.is_some_and(|end| k < end) {
                    self.end_run();
                    self.put(0xf0, 8);
                    corrections.drain(..).for_each(|bit| self.put(bit, 1));
                    zeros = 0;
                }
                continue;
            }
            self.end_run();
            if high == 0 {
                self.coefficient(8, zeros, after(k));
            } else {
                self.put((zeros << 4 | 1) as i32, 8);
                self.put(i32::from(after(k) > 0), 1);
                corrections.drain(..).for_each(|bit| self.put(bit, 1));
            }
            zeros = 0;
        }
        if last > 0 && (zeros > 0 || !corrections.is_empty()) {
            self.run += 1;
            self.corrections.extend(corrections);
            if first == 0 {
                self.end_run();
            }
        }
    }

    /// The code for blocks that have nothing new: the number of bits of their number, and these without the highest.
    fn end_run(&mut self) {
        if let Some(size) = self.run.checked_ilog2() {
            self.put((size << 4) as i32, 8);
            self.put(self.run - (1 << size), size as usize);
            std::mem::take(&mut self.corrections).into_iter().for_each(|bit| self.put(bit, 1));
            self.run = 0;
        }
    }

    fn file(mut self) -> Vec<u8> {
        self.bytes.extend([0xff, 0xd9]);
        self.bytes
    }
}

fn pixels(bytes: &[u8]) -> ndarray::Array3<u8> {
    decode(Path::new("test.jpg"), bytes).unwrap_or_else(|error| panic!("{error}"))
}

fn message(bytes: &[u8]) -> String {
    decode(Path::new("test.jpg"), bytes).unwrap_err().to_string()
}

const YCC: &[u8] = &[1, 2, 3];

/// A name, height and width, sampling factors, and the sum of what Pillow gives.
type Case = (&'static str, [usize; 2], Vec<[usize; 2]>, u64);

/// The same coefficients: in one scan, in scans of each component, of two and one, with restart markers, progressive. Sums
/// Σ (k + 1) y[k] of what Pillow 13.0.0 (libjpeg-turbo 3.2.0) gives.
#[test]
fn the_order_of_scans_does_not_matter_and_the_bytes_are_pillows() {
    let three = |a, b, c| vec![a, b, c];
    let cases: [Case; 14] = [
        ("4:4:4", [13, 21], three([1, 1], [1, 1], [1, 1]), 42181850),
        ("4:2:2", [13, 21], three([1, 2], [1, 1], [1, 1]), 39334383),
        ("4:2:0", [30, 35], three([2, 2], [1, 1], [1, 1]), 686486142),
        ("4:2:0, four columns", [35, 4], three([2, 2], [1, 1], [1, 1]), 11146284),
        ("4:2:0, one pixel", [1, 1], three([2, 2], [1, 1], [1, 1]), 595),
        ("4:4:0", [30, 21], three([2, 1], [1, 1], [1, 1]), 235325100),
        ("4:1:1", [13, 53], three([1, 4], [1, 1], [1, 1]), 278800672),
        ("4:1:0", [29, 53], three([2, 4], [1, 1], [1, 1]), 1403283689),
        ("3:1:1", [13, 53], three([1, 3], [1, 1], [1, 1]), 278322647),
        ("luma below chroma", [13, 21], three([1, 1], [1, 2], [1, 2]), 39938318),
        ("luma below red", [29, 21], three([1, 1], [1, 1], [2, 2]), 202993495),
        ("every ratio", [29, 35], three([2, 1], [1, 2], [1, 1]), 614704394),
        ("grey", [13, 21], vec![[2, 2]], 40269207),
        ("CMYK", [13, 21], vec![[1, 2], [1, 1], [1, 1], [1, 2]], 23532706),
    ];
    for (name, size, samplings, expected) in cases {
        let ids = [1, 2, 3, 4];
        let writer = |frame| Writer::new(frame, size, &samplings, &ids[..samplings.len()]);
        let all: Vec<usize> = (0..samplings.len()).collect();
        let y = pixels(&writer(0xc0).scan(&all, ALL).file());
        assert_eq!(y.dim(), (size[0], size[1], 3), "{name}");
        assert_eq!(sum(y.view()), expected, "{name}");
        let each = |writer: Writer, band| all.iter().rev().fold(writer, |writer, &k| writer.scan(&[k], band));
        let restarts = |mut writer: Writer, interval: u8| {
            writer.segment(0xdd, &[0, interval]);
            writer.restart_interval = interval.into();
            writer
        };
        // Two components first, the others each in a scan.
        let two = &all[all.len().saturating_sub(2)..];
        let rest = all[..all.len() - two.len()].iter();
        let two = rest.fold(writer(0xc0).scan(two, ALL), |writer, &k| writer.scan(&[k], ALL));
        let progressive = writer(0xc2).scan(&all, [0, 0, 0, 1]);
        let progressive = each(progressive, [1, 5, 0, 2]);
        let progressive = each(restarts(progressive, 2), [6, 63, 0, 2]);
        let progressive = each(each(progressive, [1, 63, 2, 1]).scan(&all, [0, 0, 1, 0]), [1, 63, 1, 0]);
        for (how, file) in [
            ("each alone", each(writer(0xc0), ALL).file()),
            ("two and one", two.file()),
            ("restarts", restarts(writer(0xc0), 1).scan(&all, ALL).file()),
            ("each with restarts", each(restarts(writer(0xc0), 3), ALL).file()),
            ("progressive", progressive.file()),
        ] {
            assert_eq!(pixels(&file), y, "{name}, {how}");
        }
    }
}

/// Segments that say what the components are, and names that do.
#[test]
fn colours_are_chosen_as_by_libjpeg() {
    let jfif = |writer: &mut Writer| writer.segment(0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    let adobe =
        |writer: &mut Writer, transform| writer.segment(0xee, &[&b"Adobe\0d\0\0\0\0"[..], &[transform]].concat());
    let file = |count: usize, ids: &[u8], about: &dyn Fn(&mut Writer)| {
        let all: Vec<usize> = (0..count).collect();
        let mut writer = Writer::new(0xc0, [8, 8], &vec![[1, 1]; count], ids);
        about(&mut writer);
        pixels(&writer.scan(&all, ALL).file())
    };
    let ycc = file(3, YCC, &|_| {});
    let rgb = file(3, b"RGB", &|_| {});
    assert_ne!(ycc, rgb);
    assert_eq!(file(3, b"RGB", &jfif), ycc);
    assert_eq!(file(3, &[7, 8, 9], &|_| {}), ycc);
    assert_eq!(file(3, YCC, &|writer| adobe(writer, 0)), rgb);
    assert_eq!(file(3, b"RGB", &|writer| adobe(writer, 1)), ycc);
    // JFIF allows only YCbCr.
    for first in [true, false] {
        let both = |writer: &mut Writer| {
            if first {
                jfif(writer);
            }
            adobe(writer, 0);
            if !first {
                jfif(writer);
            }
        };
        assert_eq!(file(3, YCC, &both), ycc);
    }
    let cmyk = file(4, b"CMYK", &|_| {});
    assert_eq!(file(4, b"CMYK", &|writer| adobe(writer, 0)), cmyk);
    assert_ne!(file(4, b"CMYK", &|writer| adobe(writer, 2)), cmyk);
}

#[test]
fn bytes_that_belong_to_nothing_are_skipped() {
    let file = Writer::new(0xc0, [13, 21], &[[2, 2], [1, 1], [1, 1]], YCC).scan(&[0, 1, 2], ALL).file();
    let expected = pixels(&file);
    let tables = file.windows(2).position(|pair| pair == [0xff, 0xc4]).unwrap();
    for junk in [&b"\xff\0\xff\0"[..], b"\0\x11\x22", b"\xff\xff\xff", b"\xff\x01", b"\xff\xfe\0\x06\xff\xda\0\0"] {
        assert_eq!(pixels(&[&file[..tables], junk, &file[tables..]].concat()), expected, "{junk:02x?}");
        let end = file.len() - 2;
        assert_eq!(pixels(&[&file[..end], junk, &file[end..], junk].concat()), expected, "{junk:02x?} at the end");
    }
    // Several scans, and fill bytes before a restart marker.
    let mut writer = Writer::new(0xc0, [13, 21], &[[2, 2], [1, 1], [1, 1]], YCC);
    writer.segment(0xdd, &[0, 1]);
    writer.restart_interval = 1;
    let file = writer.scan(&[1, 2], ALL).scan(&[0], ALL).file();
    let restart = file.windows(2).position(|pair| pair == [0xff, 0xd0]).unwrap();
    for junk in [&b"\xff\xff"[..], b"\x12\x34\xff\0", b""] {
        assert_eq!(pixels(&[&file[..restart], junk, &file[restart..]].concat()), expected, "{junk:02x?}");
    }
    for (without, expected) in [(restart..restart + 2, "damaged"), (restart - 1..restart, "ends early")] {
        let message = message(&[&file[..without.start], &file[without.end..]].concat());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_orientation_is_found() {
    let file = |about: &[(u8, &[u8])]| {
        let mut writer = Writer::new(0xc0, [8, 16], &[[1, 1]], &[1]);
        about.iter().for_each(|(marker, content)| writer.segment(*marker, content));
        super::super::decode(Path::new("test.jpg"), &writer.scan(&[0], ALL).file()).unwrap().orientation.number()
    };
    let exif = [&b"Exif\0\0"[..], &super::super::exif::tests::exif(b"MM", 8)].concat();
    let xmp = b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>3</tiff:Orientation>";
    assert_eq!((file(&[]), file(&[(0xe1, &exif)]), file(&[(0xe1, xmp)])), (1, 8, 3));
    assert_eq!(file(&[(0xe1, xmp), (0xe1, &exif)]), 8);
    // In two segments; in one that is not for it.
    let parts = [&exif[..20], &[&exif[..6], &exif[20..]].concat()[..]];
    assert_eq!((file(&[(0xe1, parts[0]), (0xe1, parts[1])]), file(&[(0xe2, &exif)])), (8, 1));
}

#[test]
fn what_is_missing_is_not_made_up() {
    let grey = |frame| Writer::new(frame, [20, 20], &[[1, 1]], &[1]);
    let sequential = grey(0xc0).scan(&[0], ALL).file();
    let progressive = grey(0xc2).scan(&[0], [0, 0, 0, 0]).scan(&[0], [1, 63, 0, 1]).scan(&[0], [1, 63, 1, 0]).file();
    for file in [sequential, progressive] {
        for end in 3..file.len() {
            let message = message(&file[..end]);
            assert!(message.contains("truncated"), "{end} of {}: {message}", file.len());
        }
        // An end that somebody added.
        let message = message(&[&file[..file.len() - 5], &[0xff, 0xd9]].concat());
        assert!(message.contains("truncated or damaged: the data of a scan ends early"), "{message}");
    }
    let missing = [
        Writer::new(0xc0, [8, 8], &[[1, 1]; 3], YCC).scan(&[0], ALL).scan(&[1], ALL),
        Writer::new(0xc2, [8, 8], &[[1, 1]; 3], YCC).scan(&[0, 1, 2], [0, 0, 0, 0]),
        grey(0xc2).scan(&[0], [0, 0, 0, 0]).scan(&[0], [1, 63, 0, 1]),
        grey(0xc2).scan(&[0], [1, 63, 0, 0]),
        grey(0xc0),
    ];
    for writer in missing {
        let message = message(&writer.file());
        assert!(message.contains("truncated: scans of component"), "{message}");
    }
    for (scans, expected) in [
        (&[[0, 0, 0, 0], [1, 63, 1, 0]][..], "a scan of frequencies 1 to 63, bits 1 to 0, out of order"),
        (&[[1, 63, 0, 2], [1, 63, 2, 0]], "bits 2 to 0, out of order"),
        (&[[1, 63, 0, 0], [1, 63, 0, 0]], "bits 0 to 0, out of order"),
        (&[[0, 63, 0, 0]], "frequencies 0 to 63"),
    ] {
        let file = scans.iter().fold(grey(0xc2), |writer, &band| writer.scan(&[0], band)).file();
        assert!(message(&file).contains(expected), "{}", message(&file));
    }
    let large = Writer::new(0xc0, [8, 8], &[[2, 2], [2, 2], [2, 2]], YCC).scan(&[0, 1, 2], ALL).file();
    assert!(message(&large).contains("a unit of more than 10 blocks"), "{}", message(&large));
}

/// A component keeps the quantisation table of its first scan.
#[test]
fn tables_may_change_between_scans() {
    let writer = || Writer::new(0xc0, [8, 8], &[[1, 1]; 3], YCC);
    let table = |mut writer: Writer, step: u8| {
        writer.segment(0xdb, &[&[0][..], &[step; 64]].concat());
        writer
    };
    let expected = pixels(&writer().scan(&[0], ALL).scan(&[1], ALL).scan(&[2], ALL).file());
    let again = table(writer().scan(&[0], ALL), 3).scan(&[0], ALL);
    assert_eq!(pixels(&table(again, 8).scan(&[1, 2], ALL).file()), expected);
    assert_ne!(pixels(&table(writer(), 3).scan(&[0, 1, 2], ALL).file()), expected);
}

#[test]
fn other_kinds_of_jpeg_are_named() {
    let file = Writer::new(0xc0, [8, 8], &[[1, 1]], &[1]).scan(&[0], ALL).file();
    let frame = file.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut file = file.clone();
        file[frame + at] = byte;
        message(&file)
    };
    for (at, byte, expected) in [
        (1, 0xc3, "found a lossless one"),
        (1, 0xc9, "found an arithmetic-coded one"),
        (1, 0xc5, "found a hierarchical one"),
        (4, 12, "found a 12-bit one"),
        (3, 5, "damaged: a frame header of less than six bytes"),
        (2, 1, "truncated"),
        (6, 0, "expected an image with pixels, found one of 0x8"),
        (9, 2, "expected a JPEG image with 1, 3 or 4 components, found 2"),
        (11, 0x01, "sampling factors"),
        (12, 1, "a component without its quantisation table"),
    ] {
        let message = changed(at, byte);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let mut short = file.clone();
    short[frame + 2..frame + 4].copy_from_slice(&[0, 1]);
    assert!(message(&short).contains("damaged: segment ff c0 has length 1"), "{}", message(&short));
    // Frames of a video have the tables of the standard, and do not contain them.
    let with = encoded([11, 19], &[[1u8, 100, 200], [50, 20, 90]].concat().repeat(105)[..627], ColorType::Rgb, |_| {});
    let mut without = with.clone();
    while let Some(tables) = without.windows(2).position(|pair| pair == [0xff, 0xc4]) {
        let length = usize::from(u16::from_be_bytes([without[tables + 2], without[tables + 3]]));
        without.drain(tables..tables + 2 + length);
    }
    assert!(without.len() + 400 < with.len());
    assert_eq!(pixels(&without), pixels(&with));
}

/// A file of `pixels`, whose colours are `colours`; `how` sets what is to be different from usual.
fn encoded(
    [height, width]: [u16; 2],
    pixels: &[u8],
    colours: ColorType,
    how: impl Fn(&mut Encoder<&mut Vec<u8>>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 100);
    how(&mut encoder);
    encoder.encode(pixels, width, height, colours).unwrap();
    bytes
}

/// At quality 100 the coefficients are whole numbers, and that of a constant block is eight times its sample, so a
/// constant picture loses only what conversion to YCbCr and back rounds: ½ in each of Y, Cb and Cr, which makes at
/// most ½ (1 + 1.772) in a colour, and ½ in the colour itself, together less than 2.
#[test]
fn colours_of_every_kind_of_jpeg() {
    let cmyk = [30, 90, 200, 60];
    // (255 − ink)(255 − black) / 255: 225 · 195 / 255, 165 · 195 / 255 and 55 · 195 / 255.
    let inks = [172, 126, 42];
    for (name, colours, colour, expected) in [
        ("grey", ColorType::Luma, &[77][..], [77; 3]),
        ("YCbCr", ColorType::Rgb, &[200, 100, 50], [200, 100, 50]),
        ("CMYK", ColorType::Cmyk, &cmyk, inks),
        ("YCCK", ColorType::CmykAsYcck, &cmyk, inks),
    ] {
        let pixels = pixels(&encoded([11, 19], &colour.repeat(11 * 19), colours, |_| {}));
        assert_eq!(pixels.dim(), (11, 19, 3), "{name}");
        for ((i, j, c), &byte) in pixels.indexed_iter() {
            assert!(byte.abs_diff(expected[c]) <= 2, "{name}: {byte} for {} at {i}, {j}, {c}", expected[c]);
        }
    }
}

/// The same coefficients in another order.
#[test]
fn a_progressive_picture_is_the_one_that_is_not() {
    let colours: Vec<u8> = (0..37 * 53 * 3).map(|k: u32| (k * k % 251) as u8).collect();
    for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_2_2] {
        let [baseline, progressive] = [false, true].map(|progressive| {
            pixels(&encoded([37, 53], &colours, ColorType::Rgb, |encoder| {
                encoder.set_sampling_factor(sampling);
                encoder.set_progressive(progressive);
            }))
        });
        assert_eq!(baseline, progressive, "{sampling:?}");
    }
}

/// Of the size that the header claims there is nothing in the file.
#[test]
fn a_picture_that_claims_to_be_too_large_is_rejected() {
    for (colours, height, width) in [(ColorType::Luma, 16_385, 16_385), (ColorType::Rgb, 65_535, 65_535)] {
        let mut bytes = encoded([1, 1], &[0; 3], colours, |_| {});
        // Start of frame: marker, length in two bytes, bits of a sample, height, width.
        let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        let size = [u16::to_be_bytes(height), u16::to_be_bytes(width)].concat();
        bytes[frame + 5..frame + 9].copy_from_slice(&size);
        let message = message(&bytes);
        assert!(message.contains("expected an image of at most 268435456 pixels"), "{message}");
    }
}
