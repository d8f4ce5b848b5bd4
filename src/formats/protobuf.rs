//! Messages of Protocol Buffers, which are only written: TensorBoard's events and ONNX's models are made of them.
//!
//! ```text
//! message  a sequence of fields: key, value; key = field number · 8 + wire type, a varint
//!          wire type 0  varint             7 bits a byte, the lowest first, the highest bit is set if another byte follows
//!                    1  64-bit             8 bytes, little-endian
//!                    2  length-delimited   varint n, n bytes: a text, a message, or the bytes of elements
//!                    5  32-bit             4 bytes, little-endian
//! ```

/// A message; its fields are added in order of field number, as Google's library writes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// The bytes of the message.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, without a copy.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn varint(self, number: u64, value: u64) -> Self {
        self.field(number, 0, |message| message.push_varint(value))
    }

    pub(super) fn double(self, number: u64, value: f64) -> Self {
        self.field(number, 1, |message| message.0.extend(value.to_le_bytes()))
    }

    pub(super) fn data(self, number: u64, bytes: &[u8]) -> Self {
        self.field(number, 2, |message| {
            message.push_varint(bytes.len() as u64);
            message.0.extend(bytes);
        })
    }

    pub(super) fn text(self, number: u64, text: &str) -> Self {
        self.data(number, text.as_bytes())
    }

    pub(super) fn message(self, number: u64, message: &Message) -> Self {
        self.data(number, &message.0)
    }

    /// A repeated field of whole numbers; a negative one is its two's complement in 64 bits.
    pub(super) fn varints(self, number: u64, values: impl IntoIterator<Item = i64>) -> Self {
        values.into_iter().fold(self, |message, value| message.varint(number, value as u64))
    }

    pub(super) fn float(self, number: u64, value: f32) -> Self {
        self.field(number, 5, |message| message.0.extend(value.to_le_bytes()))
    }

    fn field(mut self, number: u64, wire_type: u64, write: impl FnOnce(&mut Self)) -> Self {
        self.push_varint(number << 3 | wire_type);
        write(&mut self);
        self
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the description of the format (protobuf.dev, "Encoding"), and one of each other kind.
    #[test]
    fn published_examples() {
        let a_of = |value| Message::default().varint(1, value);
        assert_eq!(a_of(150).bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").bytes(), b"\x12\x07testing");
        assert_eq!(Message::default().message(3, &a_of(150)).bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().varints(5, [1, 2, 3]).bytes(), [0x28, 1, 0x28, 2, 0x28, 3]);
        // −2 in ten bytes.
        let minus_two = [0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Message::default().varints(1, [-2]).bytes(), minus_two);
        assert_eq!(Message::default().float(2, 1.0).double(3, 1.0).bytes()[..6], [0x15, 0, 0, 0x80, 0x3f, 0x19]);
    }
}
