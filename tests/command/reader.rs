//! Reads event files like TensorBoard 2.21 (`plugin_event_accumulator.py`), independently of the code of the crate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What TensorBoard shows for a folder: for every name its steps and values, in the order in which they were written.
pub type Scalars = BTreeMap<String, Vec<(u64, f32)>>;

/// The event files in a folder, sorted by name.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().contains("tfevents")).collect();
    files.sort();
    files
}

/// The folders in which TensorBoard finds the values of a run.
pub const SETS: [&str; 3] = ["train", "validation", "test"];

/// What TensorBoard shows for a run, with the folder before each name.
pub fn read_run(folder: &Path) -> Scalars {
    let sets = SETS.iter().filter(|set| folder.join(set).exists());
    sets.flat_map(|set| {
        read(&folder.join(set)).into_iter().map(move |(name, values)| (format!("{set}/{name}"), values))
    })
    .collect()
}

fn read(folder: &Path) -> Scalars {
    let (mut scalars, mut started) = (Scalars::new(), false);
    for file in files(folder) {
        let bytes = std::fs::read(&file).unwrap();
        for (place, data) in records(&bytes).into_iter().enumerate() {
            let event = Event::read(data);
            // Events from before version 2, and files without a version, are purged by another rule.
            assert_eq!(event.version == "brain.Event:2", place == 0, "{}: record {place}", file.display());
            // The very first start does not count as an interruption.
            if event.is_start && std::mem::replace(&mut started, true) {
                scalars.values_mut().for_each(|values| values.retain(|&(step, _)| step < event.step));
            }
            for (name, value) in event.values {
                scalars.entry(name).or_default().push((event.step, value));
            }
        }
    }
    scalars.retain(|_, values| !values.is_empty());
    scalars
}

/// The data of every complete record; nothing is read after an incomplete one.
pub fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some((data, rest)) = record(bytes) {
        records.push(data);
        bytes = rest;
    }
    records
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(8)?;
    let (length_crc, rest) = rest.split_at_checked(4)?;
    let (data, rest) = rest.split_at_checked(u64::from_le_bytes(length.try_into().unwrap()).try_into().ok()?)?;
    let (data_crc, rest) = rest.split_at_checked(4)?;
    let is_right = |bytes: &[u8], crc: &[u8]| masked_crc(bytes).to_le_bytes() == crc;
    (is_right(length, length_crc) && is_right(data, data_crc)).then_some((data, rest))
}

/// By polynomial division: the highest bit first, every byte mirrored, the remainder mirrored back.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for byte in bytes {
        remainder ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            let carry = remainder >> 31;
            remainder = (remainder << 1) ^ (carry * 0x1edc_6f41);
        }
    }
    let crc = u64::from((!remainder).reverse_bits());
    ((crc >> 15 | crc << 17) as u32).wrapping_add(0xa282_ead8)
}

#[derive(Debug, Default)]
struct Event {
    step: u64,
    version: String,
    is_start: bool,
    values: Vec<(String, f32)>,
}

impl Event {
    fn read(data: &[u8]) -> Self {
        let mut event = Event::default();
        fields(data, &mut |number, field| match (number, field) {
            (1, Field::Fixed(time)) => assert_eq!(time.len(), 8),
            (2, Field::Varint(step)) => event.step = step,
            (3, Field::Bytes(text)) => event.version = String::from_utf8(text.to_vec()).unwrap(),
            (5, Field::Bytes(summary)) => fields(summary, &mut |number, field| match (number, field) {
                (1, Field::Bytes(value)) => event.values.extend(read_value(value)),
                other => panic!("a summary has no {other:?}"),
            }),
            (7, Field::Bytes(log)) => fields(log, &mut |number, field| match (number, field) {
                (1, Field::Varint(status)) => event.is_start = status == 1,
                other => panic!("a session log has no {other:?}"),
            }),
            other => panic!("an event has no {other:?}"),
        });
        event
    }
}

/// `None` for what has no number: the settings of a run.
fn read_value(bytes: &[u8]) -> Option<(String, f32)> {
    let (mut tag, mut number) = (None, None);
    fields(bytes, &mut |field_number, field| match (field_number, field) {
        (1, Field::Bytes(text)) => tag = Some(String::from_utf8(text.to_vec()).unwrap()),
        (2, Field::Fixed(float)) => number = Some(f32::from_le_bytes(float.try_into().unwrap())),
        (8 | 9, Field::Bytes(_)) => {}
        other => panic!("a value has no {other:?}"),
    });
    number.map(|number| (tag.unwrap(), number))
}

#[derive(Debug)]
enum Field<'a> {
    Varint(u64),
    /// Four bytes or eight.
    Fixed(&'a [u8]),
    Bytes(&'a [u8]),
}

/// The fields of a message of Protocol Buffers.
fn fields<'a>(mut bytes: &'a [u8], see: &mut dyn FnMut(u64, Field<'a>)) {
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key % 8 {
            0 => Field::Varint(varint(&mut bytes)),
            1 => Field::Fixed(take(&mut bytes, 8)),
            2 => {
                let length = varint(&mut bytes);
                Field::Bytes(take(&mut bytes, length))
            }
            5 => Field::Fixed(take(&mut bytes, 4)),
            other => panic!("wire type {other}"),
        };
        see(key / 8, field);
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count as usize);
    *bytes = rest;
    taken
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let length = 1 + bytes.iter().position(|byte| *byte < 0x80).unwrap();
    take(bytes, length as u64).iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}
