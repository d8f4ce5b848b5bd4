//! A tensor as a pickle describes it: a view of a storage.

use super::mapping::entries_of;
use super::storage::{Element, Storage};
use crate::formats::numbers::{self, MOST_AXES};
use crate::formats::pickle::{Items, Kind, Name, Value};
use crate::tensors::Dtype;
use crate::{Error, Result};

const REBUILD_TENSOR: [&str; 2] = ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"];
/// With the element type as seventh argument.
const REBUILD_TENSOR_3: &str = "torch._utils._rebuild_tensor_v3";
/// `(tensor, requires_grad, hooks)`, the second with the attributes of a Python object.
const REBUILD_PARAMETER: [&str; 2] = ["torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"];
/// `(function, class, arguments, state)`: a tensor with attributes, or of a subclass, which has the elements of the tensor
/// that `function` rebuilds.
const REBUILD_FROM_TYPE: [&str; 2] = ["torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"];
/// The most such calls around a tensor; PyTorch writes two.
const MOST_WRAPPED: usize = 4;

/// Tensors whose elements are not plainly in a storage: the last part of the function's name, what it makes, what to do.
const UNREADABLE: [(&str, &str, &str); 8] = [
    ("_rebuild_sparse_tensor", "a sparse tensor", "save `tensor.to_dense()`"),
    ("_rebuild_sparse_csr_tensor", "a sparse tensor", "save `tensor.to_dense()`"),
    ("_rebuild_qtensor", "a quantized tensor", "save `tensor.dequantize()`"),
    ("_rebuild_nested_tensor", "a nested tensor", "save its parts, `tensor.unbind()`"),
    ("_rebuild_meta_tensor_no_storage", "a tensor of the device `meta`, which has no elements", "load the model first"),
    ("_rebuild_device_tensor_from_numpy", "a tensor of another device", "save `tensor.cpu()`"),
    ("_rebuild_device_tensor_from_cpu_tensor", "a tensor of another device", "save `tensor.cpu()`"),
    ("UninitializedParameter", "a parameter without elements", "run the model once before it is saved"),
];

/// What a value is as an entry of a state dict.
pub(super) enum Found<'p> {
    Tensor(View<'p>),
    /// A tensor that cannot be read: what it is, and what to do.
    Unreadable(String),
    /// A tensor that contradicts itself: the file is damaged.
    Malformed(Error),
    /// A tensor of whole numbers of a type that is not read: a description.
    Whole(String),
    /// No tensor.
    Other,
}

/// A tensor as a pickle describes it.
pub(super) struct View<'p> {
    pub at: Value<'p>,
    pub dtype: Dtype,
    pub key: &'p str,
    /// Number of elements in the storage.
    pub storage_len: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    /// Whether every element is the negative of the stored one: the imaginary part of a conjugate.
    pub negative: bool,
}

impl<'p> Found<'p> {
    /// Describes `value`.
    pub fn of(value: Value<'p>) -> Self {
        match parse(value) {
            Ok(found) => found,
            Err(error) => Found::Malformed(error),
        }
    }
}

fn parse(value: Value<'_>) -> Result<Found<'_>> {
    let mut at = value;
    for _ in 0..=MOST_WRAPPED {
        let Kind::Call(call) = at.kind() else { break };
        let Some(mut name) = call.name() else { break };
        let mut args = call.args;
        if REBUILD_PARAMETER.iter().any(|parameter| name.is(parameter)) {
            at = args.get(0).ok_or_else(|| at.error("expected a parameter, found one without a tensor"))?;
            continue;
        }
        if REBUILD_FROM_TYPE.iter().any(|rebuild| name.is(rebuild)) {
            let (Some(function), Some(Kind::Tuple(inner))) =
                (args.get(0).and_then(|function| function.name()), args.get(2).map(|args| args.kind()))
            else {
                return Err(at.error("expected a tensor with attributes, found one without a function and arguments"));
            };
            (name, args) = (function, inner);
        }
        if let Some(tensor) = View::parse(at, name, args)? {
            return Ok(tensor);
        }
        if at.id() == value.id() || is_tensor(name) {
            return Ok(unreadable(name));
        }
        break;
    }
    if at.id() != value.id() {
        return Ok(Found::Unreadable(format!("a parameter whose tensor is {}: save `parameter.data`", at.describe())));
    }
    Ok(Found::Other)
}

/// Whether an object that a function of this name makes is probably a tensor: of PyTorch's own functions, or by its name.
fn is_tensor(name: Name<'_>) -> bool {
    matches!(name.module, "torch._utils" | "torch._tensor" | "torch.nn.parameter")
        || ["Tensor", "Parameter"].iter().any(|end| name.name.ends_with(end))
}

fn unreadable<'p>(name: Name<'_>) -> Found<'p> {
    match UNREADABLE.iter().find(|(function, ..)| *function == name.name) {
        Some((_, what, advice)) => Found::Unreadable(format!("{what}: {advice}")),
        None if is_tensor(name) => Found::Unreadable(format!(
            "made by `{name}`, a class of tensors that is not read: save a plain tensor, such as `tensor.detach().clone()`"
        )),
        None => Found::Other,
    }
}

impl<'p> View<'p> {
    /// The tensor that the function `name` makes of `args`, if it is one that makes plain tensors:
    /// `(storage, offset, size, stride, requires_grad, hooks, metadata)`.
    fn parse(at: Value<'p>, name: Name<'p>, args: Items<'p>) -> Result<Option<Found<'p>>> {
        let has_dtype = name.is(REBUILD_TENSOR_3);
        if !has_dtype && !REBUILD_TENSOR.iter().any(|rebuild| name.is(rebuild)) {
            return Ok(None);
        }
        let (Some(storage), Some(offset), Some(shape), Some(strides)) =
            (args.get(0), args.get(1), args.get(2), args.get(3))
        else {
            return Err(at.error(format!("expected at least 4 arguments of `{name}`")));
        };
        let Kind::Persistent(id) = storage.kind() else { return Err(storage.unexpected("a storage")) };
        let storage = Storage::parse(id)?;
        let element = match args.get(6).filter(|_| has_dtype) {
            Some(dtype) => {
                let element = dtype.name().and_then(Element::of_name);
                let Some(element) = element else {
                    let what = format!("a tensor of {}, which is not read: save `tensor.float()`", dtype.describe());
                    return Ok(Some(Found::Unreadable(what)));
                };
                element
            }
            None => storage.element,
        };
        let (offset, sizes, steps) = (offset.usize()?, lengths(shape)?, lengths(strides)?);
        if sizes.len() != steps.len() {
            return Err(strides.error(format!("expected {} strides, found {}", sizes.len(), steps.len())));
        }
        let Some(storage_len) = storage.elements(element) else {
            return Err(at.error(format!("expected a storage of {}, found {}", element.name, storage.element.name)));
        };
        let inside = numbers::extent(offset, &sizes, &steps).filter(|&(_, extent)| extent <= storage_len);
        if inside.is_none() {
            let message = format!(
                "expected a tensor inside its storage of {storage_len} elements, found shape {sizes:?}, \
                 strides {steps:?}, offset {offset}",
            );
            return Err(at.error(message));
        }
        let Some(dtype) = element.dtype else {
            return Ok(Some(match element.is_whole() {
                true => Found::Whole(format!("a tensor of {}, which is not read", element.name)),
                false => {
                    let advice = if element.name.starts_with("complex") {
                        "its real and imaginary parts"
                    } else {
                        "`tensor.float()`"
                    };
                    Found::Unreadable(format!("a tensor of {}, which is not read: save {advice}", element.name))
                }
            }));
        };
        let negative = match negative(args.get(if has_dtype { 7 } else { 6 }))? {
            Ok(negative) => negative,
            Err(property) => {
                let what = format!("a tensor with the property {property}, which is not known: save `tensor.clone()`");
                return Ok(Some(Found::Unreadable(what)));
            }
        };
        if negative && dtype.unit_roundoff().is_none() {
            let what = format!("a negated view of {dtype}: save `tensor.resolve_neg()`");
            return Ok(Some(Found::Unreadable(what)));
        }
        let view = View { at, dtype, key: storage.key, storage_len, offset, shape: sizes, strides: steps, negative };
        Ok(Some(Found::Tensor(view)))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // What View::parse accepts has at most isize::MAX / 8 elements.
        numbers::len(&self.shape).unwrap_or(0)
    }

    /// Bytes of this tensor in memory.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.widened().size()
    }

    /// Bytes of its storage.
    pub fn storage_bytes(&self) -> usize {
        self.storage_len.saturating_mul(self.dtype.size())
    }

    /// Rejects a storage whose length in the file is not the stated one.
    pub fn check_storage(&self, size: usize) -> Result<()> {
        if self.storage_bytes() != size {
            let View { key, dtype, storage_len, .. } = self;
            let message = format!("expected {storage_len} {dtype} in the storage {key:?}, found {size} bytes");
            return Err(self.at.error(message));
        }
        Ok(())
    }
}

/// Whether the metadata of a tensor says that its elements are negated, `{'neg': True}`; the inner error is a property that
/// is not known.
fn negative(metadata: Option<Value<'_>>) -> Result<std::result::Result<bool, String>> {
    let Some(metadata) = metadata.filter(|metadata| !matches!(metadata.kind(), Kind::None)) else {
        return Ok(Ok(false));
    };
    let entries = entries_of(metadata).ok_or_else(|| metadata.unexpected("the properties of a tensor, a dict"))?;
    let mut negative = false;
    for entry in entries {
        match (entry.name, entry.value.bool()?) {
            (Some("neg"), value) => negative = value,
            (_, false) => {}
            _ => return Ok(Err(format!("`{}`", entry.shown()))),
        }
    }
    Ok(Ok(negative))
}

/// Sizes or strides: a tuple of integers that are not negative.
fn lengths(value: Value) -> Result<Vec<usize>> {
    let Kind::Tuple(items) = value.kind() else { return Err(value.unexpected("a tuple of sizes")) };
    if items.len() > MOST_AXES {
        return Err(value.unexpected(format!("at most {MOST_AXES} axes")));
    }
    items.map(|item| item.usize()).collect()
}
