//! TensorBoard's event files: values over the steps of a run.
//!
//! A file is a sequence of records. A record is TFRecord's frame around one `Event`, a message of Protocol Buffers:
//!
//! ```text
//! record   length of the data, u64 | masked CRC-32C of these 8 bytes, u32 | data | masked CRC-32C of the data, u32
//!          all little-endian; masked(crc) = (crc rotated right by 15 bits) + 0xa282ead8 mod 2³²
//! ```
//!
//! Of the messages (`event.proto`, `summary.proto` of TensorFlow) these fields are written, in order of field number,
//! as Google's library does. A step of 0 is left out. A value of 0 is not: its presence shows which
//! alternative was chosen.
//!
//! | message | fields |
//! |---|---|
//! | `Event` | 1 `wall_time` double, 2 `step` int64, and one of: 3 `file_version` string, 5 `summary`, 7 `session_log` |
//! | `Summary` | 1 `value`, repeated |
//! | `Summary.Value` | 1 `tag` string, 2 `simple_value` float |
//! | `SessionLog` | 1 `status` enum, `START` = 1 |
//!
//! The messages of the tab HPARAMS are in [`hparams`].
//!
//! The first record of a file is [`version`], the second [`start`], which states the first step in the file. A resumed run
//! begins a new file, and its [`start`] makes TensorBoard discard what earlier files contain for that step and later ones;
//! the first [`start`] of a run discards nothing, but is required. TensorBoard reads the files of a folder in the order of
//! their names, `….tfevents.SECONDS.…`, and ignores a last record that is cut off.
//!
//! ```
//! use resnet_by_hand::formats::tensorboard;
//!
//! let mut file = tensorboard::version(1.7e9);
//! file.extend(tensorboard::start(1.7e9, 1));
//! for (step, loss) in [(1, 2.25), (2, 1.5)] {
//!     file.extend(tensorboard::scalars(1.7e9, step, &[("train/loss".to_string(), loss)]));
//! }
//! // Of every record, the frame has 16 bytes, the time 9, the step 2, and every text or message within begins with 2.
//! assert_eq!(file.len(), (16 + 9 + 2 + 13) + (16 + 9 + 2 + 2 + 2) + 2 * (16 + 9 + 2 + 2 + (2 + 2 + 10 + 5)));
//! ```

pub mod hparams;

use super::protobuf::Message;

/// The first record of a file: the version of its format.
pub fn version(wall_time: f64) -> Vec<u8> {
    record(&event(wall_time, 0).text(3, "brain.Event:2"))
}

/// The record with which a process begins to write; `step` is the first step that it will write.
pub fn start(wall_time: f64, step: u64) -> Vec<u8> {
    const START: u64 = 1;
    record(&event(wall_time, step).message(7, &Message::default().varint(1, START)))
}

/// What was measured at `step`: names and values. TensorBoard groups names by the part before the first `/`.
///
/// `wall_time` is in seconds since 1970.
pub fn scalars(wall_time: f64, step: u64, values: &[(String, f32)]) -> Vec<u8> {
    let summary = values.iter().fold(Message::default(), |summary, (tag, value)| {
        summary.message(1, &Message::default().text(1, tag).float(2, *value))
    });
    record(&event(wall_time, step).message(5, &summary))
}

/// CRC-32C (Castagnoli), as iSCSI uses it (RFC 3720, 12.1): polynomial 0x1edc6f41, bits reflected, all ones before and after.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const REFLECTED: u32 = 0x82f6_3b78;
    let shift = |crc: u32, _| (crc >> 1) ^ (if crc & 1 == 1 { REFLECTED } else { 0 });
    // One bit at a time is enough: an epoch writes a few kilobytes.
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), shift))
}

/// TFRecord's frame around `data`.
fn record(data: &Message) -> Vec<u8> {
    // The CRC of bytes that contain their own CRC is always the same; the mask avoids that for nested records.
    let masked = |bytes: &[u8]| crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (data.bytes().len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data.bytes(), &masked(data.bytes())].concat()
}

/// An event with the fields that every event has.
fn event(wall_time: f64, step: u64) -> Message {
    let event = Message::default().double(1, wall_time);
    match step {
        0 => event,
        step => event.varint(2, step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4, and the check value of the catalogues.
    #[test]
    fn crc_of_published_vectors() {
        let counting: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        let mut read_command = [0; 48];
        for (at, byte) in [(0, 0x01), (1, 0xc0), (16, 0x14), (22, 0x04), (27, 0x14), (31, 0x18), (32, 0x28), (40, 0x02)]
        {
            read_command[at] = byte;
        }
        for (bytes, expected) in [
            (&b""[..], 0),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&counting, 0x46dd_794e),
            (&falling, 0x113f_db5c),
            (&read_command, 0xd996_3a56),
        ] {
            assert_eq!(crc32c(bytes), expected, "{bytes:02x?}: {:08x}", crc32c(bytes));
        }
    }
}
