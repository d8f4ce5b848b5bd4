//! Named tensors outside a model: the content of a file, and what is compared with another program.
//!
//! A file stores values in many types; in memory there are four ([`Values`]). Smaller types are widened, which is
//! exact, and [`Tensor::dtype`] returns the stored type:
//!
//! ```text
//! float16, bfloat16, float32 → f32      float64 → f64      int32, int64 → i64      uint8, bool → u8
//! ```
//!
//! ```
//! use ndarray::array;
//! use resnet_by_hand::tensors::{Dtype, Tensors};
//! let mut tensors = Tensors::new();
//! tensors.insert("fc.bias", array![0.5f32, -1.0].into_dyn());
//! tensors.insert("labels", array![3i64, 7].into_dyn());
//!
//! assert_eq!(tensors.names().collect::<Vec<_>>(), ["fc.bias", "labels"]);
//! let bias = tensors.get("fc.bias").unwrap();
//! assert_eq!((bias.dtype(), bias.shape()), (Dtype::F32, &[2][..]));
//! assert_eq!(bias.to_real::<f64>(), Some(array![0.5, -1.0].into_dyn()));
//! assert_eq!(tensors.get("labels").unwrap().to_indices(), Some(vec![3, 7]));
//! ```

use crate::Scalar;
use ndarray::{Array, ArrayD, ArrayViewD, Dimension};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// The number type in which a tensor was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE half precision: 11 significant bits.
    F16,
    /// The upper half of a `float32`: 8 significant bits.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Signed integers of 32 bits.
    I32,
    /// Signed integers of 64 bits.
    I64,
    /// Unsigned integers of 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Dtype; 8] =
        [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64, Dtype::I32, Dtype::I64, Dtype::U8, Dtype::Bool];

    /// The name as NumPy and PyTorch write it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
            Dtype::I32 => "int32",
            Dtype::I64 => "int64",
            Dtype::U8 => "uint8",
            Dtype::Bool => "bool",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Dtype::U8 | Dtype::Bool => 1,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F64 | Dtype::I64 => 8,
        }
    }

    /// Half the distance between 1 and the next larger number, for floating-point types.
    ///
    /// ```
    /// use resnet_by_hand::tensors::Dtype;
    /// assert_eq!(Dtype::F16.unit_roundoff(), Some(2f64.powi(-11)));
    /// assert_eq!(Dtype::BF16.unit_roundoff(), Some(2f64.powi(-8)));
    /// assert_eq!(Dtype::F32.unit_roundoff(), Some(2f64.powi(-24)));
    /// assert_eq!(Dtype::F64.unit_roundoff(), Some(2f64.powi(-53)));
    /// assert_eq!(Dtype::I64.unit_roundoff(), None);
    /// ```
    pub fn unit_roundoff(self) -> Option<f64> {
        match self {
            Dtype::F16 => Some(2f64.powi(-11)),
            Dtype::BF16 => Some(2f64.powi(-8)),
            Dtype::F32 => Some(f32::UNIT_ROUNDOFF),
            Dtype::F64 => Some(f64::UNIT_ROUNDOFF),
            Dtype::I32 | Dtype::I64 | Dtype::U8 | Dtype::Bool => None,
        }
    }

    /// The type to which it is widened in memory.
    pub fn widened(self) -> Dtype {
        match self {
            Dtype::F16 | Dtype::BF16 | Dtype::F32 => Dtype::F32,
            Dtype::F64 => Dtype::F64,
            Dtype::I32 | Dtype::I64 => Dtype::I64,
            Dtype::U8 | Dtype::Bool => Dtype::U8,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Values in memory: F16 and BF16 are widened to `f32`, I32 to `i64`, Bool to `u8`; all of this is exact.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// F16, BF16, F32.
    F32(ArrayD<f32>),
    /// F64.
    F64(ArrayD<f64>),
    /// I32, I64.
    I64(ArrayD<i64>),
    /// U8, Bool.
    U8(ArrayD<u8>),
}

impl Values {
    /// The type of these values.
    pub fn dtype(&self) -> Dtype {
        match self {
            Values::F32(_) => Dtype::F32,
            Values::F64(_) => Dtype::F64,
            Values::I64(_) => Dtype::I64,
            Values::U8(_) => Dtype::U8,
        }
    }
}

/// An array and the type in which it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: Dtype,
    values: Values,
}

impl Tensor {
    /// `values` that were stored as `dtype`, which widens to their type.
    #[cfg(feature = "formats")]
    pub(crate) fn stored_as(dtype: Dtype, values: Values) -> Self {
        assert_eq!(dtype.widened(), values.dtype(), "{dtype} is not widened to the type of the values");
        Tensor { dtype, values }
    }

    /// A copy of an array of `f32` or `f64`.
    ///
    /// ```
    /// use ndarray::array;
    /// use resnet_by_hand::tensors::{Dtype, Tensor};
    /// assert_eq!(Tensor::real(array![1.0f64].view().into_dyn()).dtype(), Dtype::F64);
    /// ```
    pub fn real<T: Scalar>(array: ArrayViewD<'_, T>) -> Self {
        match T::NAME {
            // Exact: the value is an f32.
            "float32" => array.mapv(|value| value.as_f64() as f32).into(),
            _ => array.mapv(Scalar::as_f64).into(),
        }
    }

    /// The type in which the values were stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The values.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Length of every axis.
    pub fn shape(&self) -> &[usize] {
        match &self.values {
            Values::F32(array) => array.shape(),
            Values::F64(array) => array.shape(),
            Values::I64(array) => array.shape(),
            Values::U8(array) => array.shape(),
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The floats as `T`, `f64` rounded if `T` is `f32`; `None` for integers.
    pub fn to_real<T: Scalar>(&self) -> Option<ArrayD<T>> {
        match &self.values {
            Values::F32(array) => Some(array.mapv(|value| T::of(value.into()))),
            Values::F64(array) => Some(array.mapv(T::of)),
            Values::I64(_) | Values::U8(_) => None,
        }
    }

    /// The values as `f64`, for comparison; integers beyond 2⁵³ are rounded.
    pub fn to_f64(&self) -> ArrayD<f64> {
        match &self.values {
            Values::F32(array) => array.mapv(f64::from),
            Values::F64(array) => array.clone(),
            Values::I64(array) => array.mapv(|value| value as f64),
            Values::U8(array) => array.mapv(f64::from),
        }
    }

    /// Non-negative integers in row-major order, such as labels. `None` for floats, or if a value is negative.
    pub fn to_indices(&self) -> Option<Vec<usize>> {
        match &self.values {
            Values::I64(array) => array.iter().map(|&value| usize::try_from(value).ok()).collect(),
            Values::U8(array) => Some(array.iter().map(|&value| value.into()).collect()),
            Values::F32(_) | Values::F64(_) => None,
        }
    }
}

macro_rules! from_array {
    ($($number:ty => $variant:ident),+) => { $(
        impl<D: Dimension> From<Array<$number, D>> for Tensor {
            fn from(array: Array<$number, D>) -> Self {
                Tensor { dtype: Dtype::$variant, values: Values::$variant(array.into_dyn()) }
            }
        }
    )+ };
}
from_array!(f32 => F32, f64 => F64, i64 => I64, u8 => U8);

/// Named tensors in the order in which they were added, with unique names, and metadata.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors {
    entries: Vec<(String, Tensor)>,
    /// The index of each name in `entries`.
    places: HashMap<String, usize>,
    /// Keys and values that describe a file, if its format supports them.
    pub metadata: BTreeMap<String, String>,
}

impl Tensors {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a tensor, or replaces the one of the same name in its place.
    pub fn insert(&mut self, name: impl Into<String>, tensor: impl Into<Tensor>) {
        let (name, tensor) = (name.into(), tensor.into());
        match self.places.get(&name) {
            Some(&place) => self.entries[place].1 = tensor,
            None => {
                self.places.insert(name.clone(), self.entries.len());
                self.entries.push((name, tensor));
            }
        }
    }

    /// Renames the tensor `name` to `other`, which must not be in use; its place stays the same.
    pub(crate) fn rename(&mut self, name: &str, other: &str) {
        if let Some(place) = self.places.remove(name) {
            self.entries[place].0 = other.to_string();
            self.places.insert(other.to_string(), place);
        }
    }

    /// The same tensors and metadata with every `float64` rounded to `float32`.
    pub fn rounded(&self) -> Tensors {
        let mut result = self.clone();
        for (_, tensor) in &mut result.entries {
            if let Values::F64(array) = tensor.values() {
                *tensor = Tensor::from(array.mapv(|x| x as f32));
            }
        }
        result
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.places.get(name).map(|&place| &self.entries[place].1)
    }

    /// Removes the tensor called `name`; the others keep their order.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        let place = self.places.remove(name)?;
        self.places.values_mut().filter(|later| **later > place).for_each(|later| *later -= 1);
        Some(self.entries.remove(place).1)
    }

    /// Keeps the tensors whose names `keep` accepts, in their order.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|(name, _)| keep(name));
        self.places = self.entries.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
    }

    /// Every `(name, tensor)` in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Every name in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Every `(name, tensor)` in order.
impl IntoIterator for Tensors {
    type Item = (String, Tensor);
    type IntoIter = std::vec::IntoIter<(String, Tensor)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn numbered(names: &[&str]) -> Tensors {
        let mut tensors = Tensors::new();
        names.iter().enumerate().for_each(|(i, name)| tensors.insert(*name, array![i as i64]));
        tensors
    }

    #[test]
    fn order_is_kept_and_names_are_unique() {
        let mut tensors = numbered(&["b", "a", "c", "a"]);
        assert_eq!(tensors.names().collect::<Vec<_>>(), ["b", "a", "c"]);
        assert_eq!(tensors.get("a").unwrap().to_indices(), Some(vec![3]));
        assert_eq!(tensors.remove("b").unwrap().to_indices(), Some(vec![0]));
        assert_eq!((tensors.remove("b"), tensors.len()), (None, 2));
        assert_eq!(tensors.get("c").unwrap().to_indices(), Some(vec![2]));
        tensors.insert("b", array![9i64]);
        let mut some = tensors.clone();
        some.retain(|name| name != "a");
        assert_eq!(some.names().collect::<Vec<_>>(), ["c", "b"]);
        assert_eq!((some.get("a"), some.get("b").unwrap().to_indices()), (None, Some(vec![9])));
        assert_eq!(tensors.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "c", "b"]);
        assert_eq!(tensors.get("b").unwrap().to_indices(), Some(vec![9]));
    }

    #[test]
    fn numbers_become_others_only_where_that_makes_sense() {
        let float = Tensor::from(array![[1.5f64, 1.0 + 2f64.powi(-30)]]);
        assert_eq!(float.to_real::<f32>(), Some(array![[1.5f32, 1.0]].into_dyn()));
        assert_eq!((float.to_indices(), float.shape(), float.len()), (None, &[1, 2][..], 2));
        let whole = Tensor::from(array![2i64, -1]);
        assert_eq!((whole.to_real::<f32>(), whole.to_indices()), (None, None));
        assert_eq!(whole.to_f64(), array![2.0, -1.0].into_dyn());
        assert_eq!(Tensor::from(array![7u8]).to_indices(), Some(vec![7]));
        assert_eq!(Tensor::real(array![0.1f32].view().into_dyn()), Tensor::from(array![0.1f32]));
        assert!(Tensor::from(ndarray::arr0(1.0f32)).shape().is_empty());
        assert!(Tensor::from(Array::<u8, _>::zeros((0, 3))).is_empty());
    }
}
