//! The one-dimensional transforms of F(2, 3) and F(4, 3), and their adjoints.

use crate::engine::kernels::vector::Vector;

/// The one-dimensional transforms of F(M, 3) with S = M + 2 points.
pub(super) trait Transforms<const M: usize, const S: usize>: Copy + Sync {
    /// Bᵀ d
    fn input<V: Vector<f32>>(self, d: [V; S]) -> [V; S];
    /// Aᵀ m
    fn output<V: Vector<f32>>(self, m: [V; S]) -> [V; M];
    /// A y
    fn output_adjoint<V: Vector<f32>>(self, y: [V; M]) -> [V; S];
    /// G w
    fn weight<V: Vector<f64>>(self, w: [V; 3]) -> [V; S];
    /// Gᵀ u
    fn weight_adjoint<V: Vector<f64>>(self, u: [V; S]) -> [V; 3];
}

/// F(2, 3): the points 0, 1, −1, ∞.
///
/// ```text
///      1  0 -1  0          1   0   0
/// Bᵀ = 0  1  1  0     G = 1/2 1/2 1/2     Aᵀ = 1  1  1  0
///      0 -1  1  0         1/2-1/2 1/2          0  1 -1  1
///      0 -1  0  1          0   0   1
/// ```
#[derive(Clone, Copy)]
pub(super) struct F2;

impl Transforms<2, 4> for F2 {
    #[inline(always)]
    fn input<V: Vector<f32>>(self, [d0, d1, d2, d3]: [V; 4]) -> [V; 4] {
        [d0 - d2, d1 + d2, d2 - d1, d3 - d1]
    }

    #[inline(always)]
    fn output<V: Vector<f32>>(self, [m0, m1, m2, m3]: [V; 4]) -> [V; 2] {
        [m0 + (m1 + m2), (m1 - m2) + m3]
    }

    #[inline(always)]
    fn output_adjoint<V: Vector<f32>>(self, [y0, y1]: [V; 2]) -> [V; 4] {
        [y0, y0 + y1, y0 - y1, y1]
    }

    #[inline(always)]
    fn weight<V: Vector<f64>>(self, [w0, w1, w2]: [V; 3]) -> [V; 4] {
        let (ends, zero) = (w0 + w2, V::zero());
        [w0, (ends + w1).times(0.5, zero), (ends - w1).times(0.5, zero), w2]
    }

    #[inline(always)]
    fn weight_adjoint<V: Vector<f64>>(self, [u0, u1, u2, u3]: [V; 4]) -> [V; 3] {
        let middle = u1 + u2;
        [middle.times(0.5, u0), (u1 - u2).times(0.5, V::zero()), middle.times(0.5, u3)]
    }
}

/// F(4, 3): the points 0, 1, −1, 2, −2, ∞.
///
/// ```text
///      4  0 -5  0  1  0          1/4    0    0
///      0 -4 -4  1  1  0         -1/6 -1/6 -1/6          1  1  1  1  1  0
/// Bᵀ = 0  4 -4 -1  1  0     G = -1/6  1/6 -1/6     Aᵀ = 0  1 -1  2 -2  0
///      0 -2 -1  2  1  0         1/24 1/12  1/6          0  1  1  4  4  0
///      0  2 -1 -2  1  0         1/24-1/12  1/6          0  1 -1  8 -8  1
///      0  4  0 -5  0  1            0    0    1
/// ```
#[derive(Clone, Copy)]
pub(super) struct F4;

impl Transforms<4, 6> for F4 {
    #[inline(always)]
    fn input<V: Vector<f32>>(self, [d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
        let (even, odd) = (d2.times(-4.0, d4), d1.times(-4.0, d3));
        let (even_2, odd_2) = (d4 - d2, d3 - d1);
        [
            d0.times(4.0, d2.times(-5.0, d4)),
            even + odd,
            even - odd,
            odd_2.times(2.0, even_2),
            odd_2.times(-2.0, even_2),
            d1.times(4.0, d3.times(-5.0, d5)),
        ]
    }

    #[inline(always)]
    fn output<V: Vector<f32>>(self, [m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
        let (sum, difference) = (m1 + m2, m1 - m2);
        let (sum_2, difference_2) = (m3 + m4, m3 - m4);
        [
            m0 + (sum + sum_2),
            difference_2.times(2.0, difference),
            sum_2.times(4.0, sum),
            difference_2.times(8.0, difference) + m5,
        ]
    }

    #[inline(always)]
    fn output_adjoint<V: Vector<f32>>(self, [y0, y1, y2, y3]: [V; 4]) -> [V; 6] {
        let (even, odd) = (y0 + y2, y1 + y3);
        let (even_2, odd_2) = (y2.times(4.0, y0), y3.times(4.0, y1));
        [y0, even + odd, even - odd, odd_2.times(2.0, even_2), odd_2.times(-2.0, even_2), y3]
    }

    #[inline(always)]
    fn weight<V: Vector<f64>>(self, [w0, w1, w2]: [V; 3]) -> [V; 6] {
        let zero = V::zero();
        let (ends, ends_2) = (w0 + w2, w2.times(4.0, w0));
        let middle_2 = w1.times(2.0, zero);
        [
            w0.times(0.25, zero),
            (ends + w1).times(-1.0 / 6.0, zero),
            (ends - w1).times(-1.0 / 6.0, zero),
            (ends_2 + middle_2).times(1.0 / 24.0, zero),
            (ends_2 - middle_2).times(1.0 / 24.0, zero),
            w2,
        ]
    }

    #[inline(always)]
    fn weight_adjoint<V: Vector<f64>>(self, [u0, u1, u2, u3, u4, u5]: [V; 6]) -> [V; 3] {
        let (sum, sum_2, zero) = (u1 + u2, u3 + u4, V::zero());
        let (difference, difference_2) = (u1 - u2, u3 - u4);
        [
            u0.times(0.25, sum.times(-1.0 / 6.0, sum_2.times(1.0 / 24.0, zero))),
            difference.times(-1.0 / 6.0, difference_2.times(1.0 / 12.0, zero)),
            sum.times(-1.0 / 6.0, sum_2.times(1.0 / 6.0, u5)),
        ]
    }
}
