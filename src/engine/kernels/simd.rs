//! Plain loops compiled for the vector unit of the processor on which they run.
//!
//! A program compiled for every x86-64 processor may use 128-bit vectors and no fused multiply-add. [`wide`] compiles
//! the same loop a second time for AVX2 and FMA and calls that version if the processor supports them. The results are
//! bit-identical: the compiler never fuses a product and a sum that the source keeps apart.
//!
//! `dispatch` does the same for a `Kernel`, a computation that depends on the processor: on its vectors, on whether a
//! product and a sum are one instruction, and on how many rows of a matrix fit into the registers.

#[cfg(target_arch = "x86_64")]
use super::vector::{F32x8, F32x16, F64x4, F64x8};
use super::vector::{Portable, Single, Vector};
use crate::parallel::add_slices;
use crate::{Error, Result};
use std::sync::OnceLock;

/// A version of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Supported by every processor.
    Portable,
    /// x86-64 with 256-bit vectors and fused multiply-add.
    Avx2,
    /// x86-64 with 512-bit vectors.
    Avx512,
}

impl Isa {
    /// Its name in `RESNET_KERNELS`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

/// The version this process uses: the best one that the processor supports, or the one named by the environment
/// variable `RESNET_KERNELS`.
///
/// # Panics
/// If `RESNET_KERNELS` names a version that does not exist or that this processor does not support. Otherwise a test of
/// that version would silently test another one.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| requested_isa().unwrap_or_else(|error| panic!("{error}")))
}

/// The same as [`isa`], but returns an error for a wrong name: for programs that report it before they start.
///
/// # Errors
/// If `RESNET_KERNELS` names a version that does not exist or that this processor does not support.
pub fn requested_isa() -> Result<Isa> {
    let has = |isa: Isa| isa <= best();
    match std::env::var("RESNET_KERNELS").ok().as_deref() {
        None | Some("" | "auto") => Ok(best()),
        Some(name) => {
            let known = [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().find(|isa| isa.name() == name);
            known.filter(|&isa| has(isa)).ok_or_else(|| {
                let expected = "expected auto, portable, avx2 or avx512, and a processor that supports it";
                Error::argument("RESNET_KERNELS", format!("{expected} (this one: {}), got `{name}`", best().name()))
            })
        }
    }
}

/// The best version that this processor supports.
fn best() -> Isa {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return if is_x86_feature_detected!("avx512f") { Isa::Avx512 } else { Isa::Avx2 };
    }
    Isa::Portable
}

/// Runs `work`, with its loops compiled for the best vectors that the processor supports.
///
/// `work` needs the attribute: without it a long closure may stay a function of its own, compiled for every processor.
///
/// ```
/// use resnet_by_hand::engine::kernels::simd::wide;
/// let mut y = [1.0f32, 2.0, 3.0];
/// wide(
///     #[inline(always)]
///     || y.iter_mut().for_each(|y| *y *= 2.0),
/// );
/// assert_eq!(y, [2.0, 4.0, 6.0]);
/// ```
#[inline(always)]
pub fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx2 {
        #[target_feature(enable = "avx2,fma")]
        fn compiled<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: `isa` returns Avx2 or more only after the processor has reported both features.
        return unsafe { compiled(work) };
    }
    work()
}

/// [`add_slices`] with wide vectors.
pub(crate) fn wide_add(left: &mut [f32], right: &[f32]) {
    wide(
        #[inline(always)]
        || add_slices(left, right),
    );
}

/// The vectors of a processor.
pub(crate) trait Arithmetic: Copy {
    /// Its `f32` vectors.
    type V: Vector<f32>;
    /// A single `f32`, with the same roundings.
    type S: Vector<f32>;
    /// Its `f64` vectors, for the transforms of the weights.
    type D: Vector<f64>;
}

/// AVX2 and FMA: a product and a sum in one instruction, with one rounding.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2;

/// AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512;

/// A product and a sum with two roundings: fast on every processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Any;

#[cfg(target_arch = "x86_64")]
impl Arithmetic for Avx2 {
    type V = F32x8;
    type S = Single<f32>;
    type D = F64x4;
}

#[cfg(target_arch = "x86_64")]
impl Arithmetic for Avx512 {
    type V = F32x16;
    type S = Single<f32>;
    type D = F64x8;
}

impl Arithmetic for Any {
    type V = Portable<f32, 4>;
    type S = Portable<f32, 1>;
    type D = Portable<f64, 4>;
}

/// A computation that is compiled once for each [`Isa`].
pub(crate) trait Kernel {
    /// The result.
    type Output;

    /// The computation; everything it calls must be `#[inline(always)]` to be compiled with it. `ROWS` rows of a matrix
    /// times two vectors fit into the registers as accumulators.
    fn run<A: Arithmetic, const ROWS: usize>(self) -> Self::Output;
}

/// Runs `kernel` in the version for this process; see [`isa`]. Avx2 and Avx512 give bit-identical results.
#[inline(always)]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512<K: Kernel>(kernel: K) -> K::Output {
                kernel.run::<Avx512, 8>()
            }
            // SAFETY: `isa` returns Avx512 only after the processor has reported all three features.
            unsafe { avx512(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            #[target_feature(enable = "avx2,fma")]
            fn avx2<K: Kernel>(kernel: K) -> K::Output {
                kernel.run::<Avx2, 6>()
            }
            // SAFETY: `isa` returns Avx2 only after the processor has reported both features.
            unsafe { avx2(kernel) }
        }
        _ => kernel.run::<Any, 6>(),
    }
}
