//! The inverse discrete cosine transform of a block, as `jidctint.c` of libjpeg computes it.
//!
//! ```text
//! y[i, j] = 128 + ¼ Σₖ Σₗ c(k) c(l) x[k, l] cos((2i + 1) k π / 16) cos((2j + 1) l π / 16)      c(0) = √½, else 1
//! ```
//!
//! First along the columns, then along the rows, each by the factorisation of Loeffler, Ligtenberg and Moschytz (ICASSP
//! 1989) with 12 products of eight values: in whole numbers, constants with 13 bits after the point, two more bits kept
//! between the two passes. Only a damaged file has values that exceed these numbers; they wrap or are clamped, as in
//! libjpeg-turbo's vector code.

use std::num::Wrapping;

/// Bits after the point, of the constants and between the passes.
const CONSTANT_BITS: usize = 13;
const PASS_BITS: usize = 2;

type Lanes = [[Wrapping<i32>; 8]; 8];

/// The samples of a block of coefficients.
pub fn inverse(coefficients: &[i16; 64], quantization: &[u16; 64]) -> [[u8; 8]; 8] {
    let mut x = [[Wrapping(0); 8]; 8];
    for (k, row) in x.iter_mut().enumerate() {
        for (l, value) in row.iter_mut().enumerate() {
            let product = coefficients[8 * k + l].wrapping_mul(quantization[8 * k + l] as i16);
            *value = Wrapping(i32::from(product));
        }
    }
    let columns = pass(&x, CONSTANT_BITS - PASS_BITS);
    for (i, row) in columns.iter().enumerate() {
        for (j, value) in row.iter().enumerate() {
            x[j][i] = Wrapping(value.0.clamp(i16::MIN.into(), i16::MAX.into()));
        }
    }
    let rows = pass(&x, CONSTANT_BITS + PASS_BITS + 3);
    let mut y = [[0; 8]; 8];
    for (j, column) in rows.iter().enumerate() {
        for (i, value) in column.iter().enumerate() {
            y[i][j] = (value.0 + 128).clamp(0, 255) as u8;
        }
    }
    y
}

/// A constant of the transform.
const fn fix(value: f64) -> Wrapping<i32> {
    Wrapping((value * (1 << CONSTANT_BITS) as f64 + 0.5) as i32)
}

/// One dimension: over the first index of `x`, for each second index. The result is rounded at `shift` bits.
fn pass(x: &Lanes, shift: usize) -> Lanes {
    // Every value is √8 times that of the equation: the last shift contains the 8 of both passes.
    let half = Wrapping(1 << (shift - 1));
    let mut y = [[Wrapping(0); 8]; 8];
    for j in 0..8 {
        // Even frequencies.
        let z = (x[2][j] + x[6][j]) * fix(0.541196100);
        let a2 = z - x[6][j] * fix(1.847759065);
        let a3 = z + x[2][j] * fix(0.765366865);
        let a0 = (x[0][j] + x[4][j]) << CONSTANT_BITS;
        let a1 = (x[0][j] - x[4][j]) << CONSTANT_BITS;
        let even = [a0 + a3, a1 + a2, a1 - a2, a0 - a3];
        // Odd frequencies.
        let [b0, b1, b2, b3] = [x[7][j], x[5][j], x[3][j], x[1][j]];
        let z5 = (b0 + b2 + b1 + b3) * fix(1.175875602);
        let z1 = (b0 + b3) * -fix(0.899976223);
        let z2 = (b1 + b2) * -fix(2.562915447);
        let z3 = (b0 + b2) * -fix(1.961570560) + z5;
        let z4 = (b1 + b3) * -fix(0.390180644) + z5;
        let odd = [
            b3 * fix(1.501321110) + z1 + z4,
            b2 * fix(3.072711026) + z2 + z3,
            b1 * fix(2.053119869) + z2 + z4,
            b0 * fix(0.298631336) + z1 + z3,
        ];
        for k in 0..4 {
            y[k][j] = (even[k] + odd[k] + half) >> shift;
            y[7 - k][j] = (even[k] - odd[k] + half) >> shift;
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition in f64: at most one from rounding between the passes and at the end.
    #[test]
    fn the_transform_is_the_sum_of_cosines() {
        let angle = |i: usize, k: usize| ((2 * i + 1) * k) as f64 * std::f64::consts::PI / 16.0;
        let scale = |k: usize| if k == 0 { 0.5_f64.sqrt() } else { 1.0 };
        let mut exact = 0;
        for seed in 1..=16 {
            let x: [i16; 64] = std::array::from_fn(|k| ((k * k * 31 + k * 7 * seed + seed) % 19) as i16 - 9);
            let table: [u16; 64] = std::array::from_fn(|k| 1 + (k % 5) as u16);
            let y = inverse(&x, &table);
            for (i, row) in y.iter().enumerate() {
                for (j, &found) in row.iter().enumerate() {
                    let mut sum = 0.0;
                    for k in 0..64 {
                        let (row, column) = (k / 8, k % 8);
                        let value = f64::from(x[k]) * f64::from(table[k]) * scale(row) * scale(column);
                        sum += value * angle(i, row).cos() * angle(j, column).cos() / 4.0;
                    }
                    let expected = (sum + 128.0).clamp(0.0, 255.0);
                    assert!((f64::from(found) - expected).abs() < 1.0, "{found} for {expected}");
                    exact += usize::from(found == expected.round() as u8);
                }
            }
        }
        assert!(exact > 16 * 64 * 95 / 100, "{exact} of 1024 are the nearest byte");
    }

    #[test]
    fn values_of_a_damaged_file_do_not_overflow() {
        for value in [i16::MIN, i16::MAX, -1, 1] {
            inverse(&[value; 64], &[u16::MAX; 64]);
            inverse(&std::array::from_fn(|k| if k % 3 == 0 { value } else { -1 - value }), &[1; 64]);
        }
    }
}
