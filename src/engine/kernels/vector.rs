//! SIMD vectors: a few neighbouring channels that are added, subtracted and multiplied at once.
//!
//! The compiler vectorises plain loops ([`super::simd`]), but not the long straight-line code of a Winograd transform:
//! written with arrays of 8 values, F(4x4, 3x3) ran at a third of the speed of these wrappers.
//!
//! The engine computes in `f32`; the transforms of the weights are computed in `f64` and rounded once. So there are
//! vectors of both types.
//!
//! A [`Vector`] type may only be used if the processor supports its instructions. Inside the crate it is used in a
//! [`super::simd::Kernel`], which gets the right type from [`super::simd::dispatch`]; nothing in this module is public.

use num_traits::{Float, FromPrimitive};
use std::ops::{Add, Sub};

/// `LANES` values. Every operation is rounded in each lane exactly like the scalar one.
pub(crate) trait Vector<T: FromPrimitive>: Copy + Add<Output = Self> + Sub<Output = Self> {
    /// Number of values.
    const LANES: usize;
    /// 0 in every lane.
    fn zero() -> Self;
    /// `from[at..at + LANES]`.
    fn load(from: &[T], at: usize) -> Self;
    /// `to[at..at + LANES] ← self`.
    fn store(self, to: &mut [T], at: usize);
    /// self · factor + sum, rounded once, or twice if it takes two instructions.
    fn multiply_add(self, factor: T, sum: Self) -> Self;
    /// The same with a constant, rounded to T if T cannot represent it exactly.
    #[inline(always)]
    fn times(self, factor: f64, sum: Self) -> Self {
        self.multiply_add(T::from_f64(factor).expect("f32 and f64 have a value for every f64"), sum)
    }
}

/// L values in an array, a · b + c rounded twice: for every processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable<T, const L: usize>([T; L]);

impl<T: Float + FromPrimitive, const L: usize> Vector<T> for Portable<T, L> {
    const LANES: usize = L;
    #[inline(always)]
    fn zero() -> Self {
        Portable([T::zero(); L])
    }
    #[inline(always)]
    fn load(from: &[T], at: usize) -> Self {
        Portable(from[at..at + L].try_into().expect("L values"))
    }
    #[inline(always)]
    fn store(self, to: &mut [T], at: usize) {
        to[at..at + L].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn multiply_add(self, factor: T, sum: Self) -> Self {
        Portable(std::array::from_fn(|l| self.0[l] * factor + sum.0[l]))
    }
}

impl<T: Float, const L: usize> Add for Portable<T, L> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Portable(std::array::from_fn(|l| self.0[l] + other.0[l]))
    }
}

impl<T: Float, const L: usize> Sub for Portable<T, L> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Portable(std::array::from_fn(|l| self.0[l] - other.0[l]))
    }
}

/// One value, a · b + c rounded once: for the channels that do not fill a 256- or 512-bit vector.
#[derive(Clone, Copy)]
pub(crate) struct Single<T>(T);

impl<T: Float + FromPrimitive> Vector<T> for Single<T> {
    const LANES: usize = 1;
    #[inline(always)]
    fn zero() -> Self {
        Single(T::zero())
    }
    #[inline(always)]
    fn load(from: &[T], at: usize) -> Self {
        Single(from[at])
    }
    #[inline(always)]
    fn store(self, to: &mut [T], at: usize) {
        to[at] = self.0;
    }
    #[inline(always)]
    fn multiply_add(self, factor: T, sum: Self) -> Self {
        Single(self.0.mul_add(factor, sum.0))
    }
}

impl<T: Float> Add for Single<T> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Single(self.0 + other.0)
    }
}

impl<T: Float> Sub for Single<T> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Single(self.0 - other.0)
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{F32x8, F32x16, F64x4, F64x8};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;
    use std::ops::{Add, Sub};

    /// A wrapper of a vector register.
    macro_rules! vector {
        ($name:ident, $number:ty, $register:ty, $lanes:literal, $zero:ident, $splat:ident, $load:ident, $store:ident,
         $add:ident, $sub:ident, $fma:ident) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name($register);

            // SAFETY, of every block below: a value of this type is only made and used where the processor has the instructions
            // (see the module documentation). Loads and stores go to a slice of exactly LANES values, at any alignment.
            impl Vector<$number> for $name {
                const LANES: usize = $lanes;
                #[inline(always)]
                fn zero() -> Self {
                    $name(unsafe { $zero() })
                }
                #[inline(always)]
                fn load(from: &[$number], at: usize) -> Self {
                    $name(unsafe { $load(from[at..at + $lanes].as_ptr()) })
                }
                #[inline(always)]
                fn store(self, to: &mut [$number], at: usize) {
                    unsafe { $store(to[at..at + $lanes].as_mut_ptr(), self.0) }
                }
                #[inline(always)]
                fn multiply_add(self, factor: $number, sum: Self) -> Self {
                    $name(unsafe { $fma(self.0, $splat(factor), sum.0) })
                }
            }

            impl Add for $name {
                type Output = Self;
                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    $name(unsafe { $add(self.0, other.0) })
                }
            }

            impl Sub for $name {
                type Output = Self;
                #[inline(always)]
                fn sub(self, other: Self) -> Self {
                    $name(unsafe { $sub(self.0, other.0) })
                }
            }
        };
    }

    vector!(
        F32x8,
        f32,
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_fmadd_ps
    );
    vector!(
        F64x4,
        f64,
        __m256d,
        4,
        _mm256_setzero_pd,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_add_pd,
        _mm256_sub_pd,
        _mm256_fmadd_pd
    );
    vector!(
        F32x16,
        f32,
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_fmadd_ps
    );
    vector!(
        F64x8,
        f64,
        __m512d,
        8,
        _mm512_setzero_pd,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_add_pd,
        _mm512_sub_pd,
        _mm512_fmadd_pd
    );
}
