//! The storages that a pickle mentions, and PyTorch's element types.

use super::mapping::name_of;
use crate::Result;
use crate::formats::pickle::{Kind, Name, Value};
use crate::tensors::Dtype;

/// An element type of PyTorch.
#[derive(Debug)]
pub(super) struct Element {
    /// `float32`, as in `torch.float32`.
    pub name: &'static str,
    /// `FloatStorage`, as in `torch.FloatStorage`; the newer types have none.
    class: &'static str,
    /// Bytes.
    pub size: usize,
    /// Ours, if it is read.
    pub dtype: Option<Dtype>,
}

impl Element {
    const fn new(name: &'static str, class: &'static str, size: usize, dtype: Option<Dtype>) -> Self {
        Element { name, class, size, dtype }
    }

    /// The element type of the name `torch.float32`.
    pub fn of_name(name: Name<'_>) -> Option<&'static Element> {
        ELEMENTS.iter().find(|element| name.module == "torch" && element.name == name.name)
    }

    /// The element type of the name `torch.FloatStorage`.
    fn of_class(name: Name<'_>) -> Option<&'static Element> {
        match (name.module, name.name) {
            ("torch.storage", "UntypedStorage") => Some(&BYTES),
            ("torch", class) => ELEMENTS.iter().find(|element| !class.is_empty() && element.class == class),
            _ => None,
        }
    }

    /// Whether this is a whole number, which no weights are.
    pub fn is_whole(&self) -> bool {
        self.name.starts_with("int") || self.name.starts_with("uint")
    }
}

/// The element type of a storage without one.
static BYTES: Element = Element::new("bytes without a type", "", 1, None);

static ELEMENTS: [Element; 26] = [
    Element::new("float32", "FloatStorage", 4, Some(Dtype::F32)),
    Element::new("float64", "DoubleStorage", 8, Some(Dtype::F64)),
    Element::new("float16", "HalfStorage", 2, Some(Dtype::F16)),
    Element::new("bfloat16", "BFloat16Storage", 2, Some(Dtype::BF16)),
    Element::new("int64", "LongStorage", 8, Some(Dtype::I64)),
    Element::new("int32", "IntStorage", 4, Some(Dtype::I32)),
    Element::new("uint8", "ByteStorage", 1, Some(Dtype::U8)),
    Element::new("bool", "BoolStorage", 1, Some(Dtype::Bool)),
    Element::new("int16", "ShortStorage", 2, None),
    Element::new("int8", "CharStorage", 1, None),
    Element::new("uint16", "", 2, None),
    Element::new("uint32", "", 4, None),
    Element::new("uint64", "", 8, None),
    Element::new("complex32", "", 4, None),
    Element::new("complex64", "ComplexFloatStorage", 8, None),
    Element::new("complex128", "ComplexDoubleStorage", 16, None),
    Element::new("float8_e4m3fn", "", 1, None),
    Element::new("float8_e4m3fnuz", "", 1, None),
    Element::new("float8_e5m2", "", 1, None),
    Element::new("float8_e5m2fnuz", "", 1, None),
    Element::new("float8_e8m0fnu", "", 1, None),
    Element::new("quint8", "QUInt8Storage", 1, None),
    Element::new("qint8", "QInt8Storage", 1, None),
    Element::new("qint32", "QInt32Storage", 4, None),
    Element::new("quint4x2", "QUInt4x2Storage", 1, None),
    Element::new("quint2x4", "QUInt2x4Storage", 1, None),
];

/// A storage as a pickle mentions it.
pub(super) struct Storage<'p> {
    pub element: &'static Element,
    pub key: &'p str,
    len: usize,
}

impl<'p> Storage<'p> {
    /// `('storage', class, key, device, numel)`; the older format adds None, or a part of another storage.
    pub fn parse(id: Value<'p>) -> Result<Self> {
        let expected = "('storage', class, key, device, numel)";
        let Kind::Tuple(mut items) = id.kind() else { return Err(id.unexpected(expected)) };
        let (Some(tag), Some(class), Some(key), Some(_device), Some(len)) =
            (items.next(), items.next(), items.next(), items.next(), items.next())
        else {
            return Err(id.unexpected(expected));
        };
        if tag.text()? != "storage" {
            return Err(tag.unexpected("the text \"storage\""));
        }
        if let Some(part) = items.next()
            && !matches!(part.kind(), Kind::None)
        {
            return Err(part.unexpected("None: parts of storages are not supported"));
        }
        let element = class.name().and_then(Element::of_class);
        let element = element.ok_or_else(|| class.unexpected("a class of storages, such as torch.FloatStorage"))?;
        Ok(Storage { element, key: name_of(key)?, len: len.usize()? })
    }

    /// How many elements of this type the storage has, if it may be read as such.
    pub fn elements(&self, element: &Element) -> Option<usize> {
        match self.element.size {
            // Bytes without a type.
            1 if self.element.dtype.is_none() && self.len.is_multiple_of(element.size) => Some(self.len / element.size),
            size => (size == element.size).then_some(self.len),
        }
    }
}
