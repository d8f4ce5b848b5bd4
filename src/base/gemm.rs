//! General matrix multiplication, C ← α A B + β C.
//!
//! It is called by the linear layer and by the engine's convolution by im2col; the reference's convolution calls
//! `ndarray`'s `dot`, which is the same product. The crate `matrixmultiply` does the work (through `ndarray`), on the
//! calling thread only. Layers parallelise: they split the data into chunks and multiply once per chunk. So the order
//! of every sum is fixed by the shapes alone.
//!
//! The rounding of a product depends on the processor (fused multiply-add or not), never on the number of threads.

use crate::Scalar;
use ndarray::{ArrayView2, ArrayViewMut2, linalg::general_mat_mul};

/// `c (m, n) ← alpha · a (m, k) · b (k, n) + beta · c`, for any strides.
///
/// With `beta = 0`, `c` is overwritten; its previous values may be anything, including NaN.
///
/// # Panics
/// If the shapes do not fit; the layers check them before they call it.
///
/// ```
/// use ndarray::array;
/// use resnet_by_hand::gemm::gemm;
/// let (a, b) = (array![[1.0, 2.0], [3.0, 4.0]], array![[5.0], [6.0]]);
/// let mut c = array![[f64::NAN], [f64::NAN]];
/// gemm(1.0, a.view(), b.view(), 0.0, c.view_mut());
/// assert_eq!(c, array![[17.0], [39.0]]);
/// ```
pub fn gemm<T: Scalar>(alpha: T, a: ArrayView2<T>, b: ArrayView2<T>, beta: T, mut c: ArrayViewMut2<T>) {
    general_mat_mul(alpha, &a, &b, beta, &mut c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, s};

    fn whole(m: usize, n: usize, step: i64) -> Array2<f32> {
        Array2::from_shape_fn((m, n), |(i, j)| ((i as i64 * 5 + j as i64 * step) % 7 - 3) as f32)
    }

    /// Whole numbers small enough that every partial sum is exact: the result must be equal, not close.
    #[test]
    fn equals_the_definition_on_whole_numbers_for_transposed_and_strided_operands() {
        for (m, k, n) in [(1, 1, 1), (5, 3, 2), (17, 9, 33), (64, 144, 16), (3, 300, 5)] {
            let (a, b) = (whole(k, m, 3), whole(k, 2 * n, 2));
            let (a, b) = (a.t(), b.slice(s![.., ..;2]));
            let mut c = whole(m, n, 1);
            let expected = Array2::from_shape_fn((m, n), |(i, j)| {
                2.0 * (0..k).map(|l| a[[i, l]] * b[[l, j]]).sum::<f32>() - c[[i, j]]
            });
            gemm(2.0, a, b, -1.0, c.view_mut());
            assert_eq!(c, expected, "m {m}, k {k}, n {n}");
        }
    }
}
