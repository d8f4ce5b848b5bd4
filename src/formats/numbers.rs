//! From bytes to elements and back, for every format: an element type, a byte order, a shape and strides.
//!
//! ```text
//! value[i₀, i₁, …] = element at offset + Σ i_a · stride_a
//! ```
//!
//! Offset and strides count elements. Row by row (C order) the stride of an axis is the product of the lengths after it,
//! column by column (Fortran order) of those before it; PyTorch's views have any strides.

use crate::tensors::{Dtype, Tensor, Values};
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

/// The most axes of a tensor: as many as NumPy allowed before version 2. Every axis takes memory of its own, and a
/// pickle can name a list of a million lengths a million times.
pub(super) const MOST_AXES: usize = 32;

/// How many elements an array of this shape has; `None` if it has more than [`MOST_AXES`] axes, or if that number, or the
/// product of the lengths that are not 0, is more than memory can hold.
pub(super) fn len(shape: &[usize]) -> Option<usize> {
    if shape.len() > MOST_AXES {
        return None;
    }
    let most = isize::MAX as usize / 8;
    let (mut product, mut is_empty) = (1usize, false);
    for &length in shape {
        is_empty |= length == 0;
        product = product.checked_mul(length.max(1)).filter(|&product| product <= most)?;
    }
    Some(if is_empty { 0 } else { product })
}

/// How many elements [`read`] returns, and how many of the stored ones, counted from the first, it can access; `None` if
/// either overflows.
pub(super) fn extent(offset: usize, shape: &[usize], strides: &[usize]) -> Option<(usize, usize)> {
    let len = len(shape)?;
    if len == 0 {
        return Some((0, 0));
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(offset, |at, (&length, &stride)| at.checked_add((length - 1).checked_mul(stride)?));
    Some((len, last?.checked_add(1)?))
}

/// Strides row by row.
pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides: Vec<usize> = column_major(&shape.iter().rev().copied().collect::<Vec<_>>());
    strides.reverse();
    strides
}

/// Strides column by column.
pub(super) fn column_major(shape: &[usize]) -> Vec<usize> {
    let strides = shape.iter().scan(1usize, |product, &length| {
        let stride = *product;
        // Only wrong if some length is 0 or [`len`] rejects the shape: then no stride is used.
        *product = product.saturating_mul(length);
        Some(stride)
    });
    strides.collect()
}

/// Where the elements of a tensor are in a slice of bytes.
pub(super) struct Placed<'a> {
    pub dtype: Dtype,
    pub big_endian: bool,
    pub offset: usize,
    pub shape: &'a [usize],
    pub strides: &'a [usize],
}

/// The tensor in `bytes`; `None` if it is not inside them.
///
/// It takes as much memory as its shape requires. The caller has bounded that: without strides of 0 it is proportional to
/// the size of `bytes`.
pub(super) fn read(bytes: &[u8], placed: &Placed) -> Option<Tensor> {
    let (len, extent) = extent(placed.offset, placed.shape, placed.strides)?;
    if extent > bytes.len() / placed.dtype.size() || placed.shape.len() != placed.strides.len() {
        return None;
    }
    let values = match placed.dtype {
        Dtype::F16 => Values::F32(gather(bytes, placed, len, |b| f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Values::F32(gather(bytes, placed, len, |b| bf16::from_le_bytes(b).to_f32())),
        Dtype::F32 => Values::F32(gather(bytes, placed, len, f32::from_le_bytes)),
        Dtype::F64 => Values::F64(gather(bytes, placed, len, f64::from_le_bytes)),
        Dtype::I32 => Values::I64(gather(bytes, placed, len, |b| i32::from_le_bytes(b).into())),
        Dtype::I64 => Values::I64(gather(bytes, placed, len, i64::from_le_bytes)),
        Dtype::U8 => Values::U8(gather(bytes, placed, len, |[b]| b)),
        Dtype::Bool => Values::U8(gather(bytes, placed, len, |[b]| u8::from(b != 0))),
    };
    Some(Tensor::stored_as(placed.dtype, values))
}

/// Reads `N` bytes for each element; `number` takes them in little-endian order.
fn gather<T, const N: usize>(bytes: &[u8], placed: &Placed, len: usize, number: impl Fn([u8; N]) -> T) -> ArrayD<T> {
    let number = |bytes: &[u8]| {
        let mut own: [u8; N] = bytes.try_into().expect("N bytes");
        if placed.big_endian {
            own.reverse();
        }
        number(own)
    };
    let Placed { offset, shape, strides, .. } = *placed;
    let values: Vec<T> = if len == 0 {
        Vec::new()
    } else if strides == row_major(shape) {
        bytes[offset * N..(offset + len) * N].chunks_exact(N).map(number).collect()
    } else {
        let mut values = Vec::with_capacity(len);
        let (mut index, mut at) = (vec![0; shape.len()], offset);
        for _ in 0..len {
            values.push(number(&bytes[at * N..(at + 1) * N]));
            // The next index: the last axis first, carrying into those before it. Wrapping, because the stride of
            // an axis of length 1 may be anything: it is added and subtracted again.
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                at = at.wrapping_add(strides[axis]);
                if index[axis] < shape[axis] {
                    break;
                }
                at = at.wrapping_sub(shape[axis].wrapping_mul(strides[axis]));
                index[axis] = 0;
            }
        }
        values
    };
    ArrayD::from_shape_vec(IxDyn(shape), values).expect("as many values as the shape has")
}

/// A tensor of floats with every sign changed.
pub(super) fn negated(tensor: Tensor) -> Tensor {
    let values = match tensor.values() {
        Values::F32(array) => Values::F32(-array),
        Values::F64(array) => Values::F64(-array),
        other => other.clone(),
    };
    Tensor::stored_as(tensor.dtype(), values)
}

/// The values row by row, each in its type in memory, as little-endian bytes.
pub(super) fn little_endian(values: &Values) -> Vec<u8> {
    match values {
        Values::F32(array) => array.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Values::F64(array) => array.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Values::I64(array) => array.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Values::U8(array) => array.iter().copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// The elements 0 to 11 in a tensor of this shape and strides.
    fn placed(offset: usize, shape: &[usize], strides: &[usize]) -> Option<Tensor> {
        let bytes: Vec<u8> = (0..12u8).collect();
        read(&bytes, &Placed { dtype: Dtype::U8, big_endian: false, offset, shape, strides })
    }

    #[test]
    fn strides_by_hand() {
        assert_eq!((row_major(&[2, 3, 4]), column_major(&[2, 3, 4])), (vec![12, 4, 1], vec![1, 2, 6]));
        assert_eq!(
            placed(0, &[3, 4], &[4, 1]),
            Some(Tensor::from(array![[0u8, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]))
        );
        assert_eq!(
            placed(0, &[4, 3], &[1, 4]),
            Some(Tensor::from(array![[0u8, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]))
        );
        assert_eq!(placed(1, &[2, 1, 2], &[6, usize::MAX, 2]), Some(Tensor::from(array![[[1u8, 3]], [[7, 9]]])));
        assert_eq!(placed(11, &[2, 2], &[0, 0]), Some(Tensor::from(array![[11u8, 11], [11, 11]])));
        assert_eq!(placed(11, &[], &[]), Some(Tensor::from(ndarray::arr0(11u8))));
    }

    #[test]
    fn what_does_not_lie_in_the_bytes_is_refused() {
        for (offset, shape, strides) in [
            (12, &[][..], &[][..]),
            (0, &[13], &[1]),
            (1, &[3, 4], &[4, 1]),
            (0, &[2], &[12]),
            (usize::MAX, &[1], &[1]),
            (0, &[usize::MAX], &[1]),
            (0, &[usize::MAX, 2], &[0, 0]),
            (0, &[3, 3], &[usize::MAX / 2, 1]),
            (0, &[0, usize::MAX, usize::MAX], &[1, 1, 1]),
            (0, &[3], &[1, 1]),
            (0, &[1; MOST_AXES + 1], &[1; MOST_AXES + 1]),
        ] {
            assert_eq!(placed(offset, shape, strides), None, "{offset} {shape:?} {strides:?}");
        }
        // If nothing is read, its position does not matter.
        assert!(placed(99, &[0, 5], &[1, 1]).is_some_and(|tensor| tensor.is_empty()));
    }

    #[test]
    fn every_type_in_both_byte_orders() {
        let values = [1.0f64, -2.5, 0.0];
        for dtype in Dtype::ALL {
            let expected: Vec<f64> = match dtype {
                Dtype::Bool => vec![1.0, 1.0, 0.0],
                Dtype::U8 => vec![1.0, 2.0, 0.0],
                Dtype::I32 | Dtype::I64 => vec![1.0, -2.0, 0.0],
                _ => values.to_vec(),
            };
            let bytes = |big: bool| -> Vec<u8> {
                let number = |value: f64| {
                    let mut bytes = match dtype {
                        Dtype::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
                        Dtype::BF16 => bf16::from_f64(value).to_le_bytes().to_vec(),
                        Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
                        Dtype::F64 => value.to_le_bytes().to_vec(),
                        Dtype::I32 => (value as i32).to_le_bytes().to_vec(),
                        Dtype::I64 => (value as i64).to_le_bytes().to_vec(),
                        Dtype::U8 => vec![value.abs() as u8],
                        Dtype::Bool => vec![u8::from(value != 0.0)],
                    };
                    if big {
                        bytes.reverse();
                    }
                    bytes
                };
                values.iter().flat_map(|&value| number(value)).collect()
            };
            for big_endian in [false, true] {
                let bytes = bytes(big_endian);
                assert_eq!(bytes.len(), 3 * dtype.size());
                let tensor =
                    read(&bytes, &Placed { dtype, big_endian, offset: 0, shape: &[3], strides: &[1] }).unwrap();
                assert_eq!(tensor.dtype(), dtype);
                assert_eq!(tensor.to_f64().into_raw_vec_and_offset().0, expected, "{dtype} {big_endian}");
                if dtype == dtype.widened() && !big_endian {
                    assert_eq!(little_endian(tensor.values()), bytes);
                }
            }
        }
    }
}
