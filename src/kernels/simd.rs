//! Plain loops compiled for the vector unit of the machine they run on.
//!
//! A program compiled for every x86-64 processor may use 128-bit vectors and no fused multiply-add. [`wide`] compiles the
//! same loop a second time for AVX2 and FMA and calls that version where the processor has them. The loop computes the
//! same bits either way: the compiler never fuses a product and a sum that the source keeps apart.

use crate::{Error, Result};
use std::sync::OnceLock;

/// A version of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every processor has.
    Portable,
    /// x86-64 with 256-bit vectors and fused multiply-add.
    Avx2,
}

/// The version this process uses: the best the processor has, or what the environment variable `RESNET_KERNELS` asks
/// for.
///
/// # Panics
/// If `RESNET_KERNELS` names a version that does not exist or that this processor cannot run: silently using another
/// would make a test of that version a test of nothing.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| requested_isa().unwrap_or_else(|error| panic!("{error}")))
}

/// What [`isa`] returns, with a wrong request as an error: for programs that want to say so before they start.
///
/// # Errors
/// If `RESNET_KERNELS` names a version that does not exist or that this processor cannot run.
pub fn requested_isa() -> Result<Isa> {
    let best = if avx2_and_fma() { Isa::Avx2 } else { Isa::Portable };
    match std::env::var("RESNET_KERNELS").ok().as_deref() {
        None | Some("" | "auto") => Ok(best),
        Some("portable") => Ok(Isa::Portable),
        Some("avx2") if best == Isa::Avx2 => Ok(Isa::Avx2),
        Some(other) => {
            let message = format!("expected auto, portable or avx2, and a processor that has it, got `{other}`");
            Err(Error::argument("RESNET_KERNELS", message))
        }
    }
}

fn avx2_and_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Runs `work`, its loops compiled for the best vectors the processor has.
///
/// ```
/// use resnet_by_hand::kernels::simd::wide;
/// let mut y = [1.0f32, 2.0, 3.0];
/// wide(|| y.iter_mut().for_each(|y| *y *= 2.0));
/// assert_eq!(y, [2.0, 4.0, 6.0]);
/// ```
#[inline(always)]
pub fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if isa() == Isa::Avx2 {
        #[target_feature(enable = "avx2,fma")]
        fn compiled<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: `isa` returns Avx2 only after the processor has reported both features.
        return unsafe { compiled(work) };
    }
    work()
}
