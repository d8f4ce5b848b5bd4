//! How fast this machine could multiply and add, if there were nothing else to do.
//!
//! The yardstick of every other number: chains of fused multiply-adds on registers, no memory, on all threads at once.

use resnet_by_hand::kernels::simd::{isa, wide, Isa};
use std::hint::black_box;
use std::time::Instant;

/// A vector of the widest instruction set the kernels know.
const LANES: usize = 8;
/// A multiply-add takes 4 cycles and two begin in each: at least 8 chains are needed, and with two factors 14 of the 16
/// registers are left for them.
const CHAINS: usize = 12;
/// Of each chain; about a millisecond.
const LENGTH: usize = 250_000;
/// Milliseconds of one measurement, roughly.
const CALLS: usize = 30;
/// The best counts: whatever disturbs can only make it slower.
const MEASUREMENTS: usize = 5;

/// Operations per second (two for each multiply-add) of all threads of the pool together.
pub fn measure() -> f64 {
    let operations = (2 * LANES * CHAINS * LENGTH * CALLS * rayon::current_num_threads()) as f64;
    let seconds = (0..MEASUREMENTS).map(|_| {
        let start = Instant::now();
        rayon::broadcast(|_| (0..CALLS).for_each(|_| chains()));
        start.elapsed().as_secs_f64()
    });
    operations / seconds.fold(f64::INFINITY, f64::min)
}

/// Each chain is v ← v·a + b, which stays near b/(1 − a): no infinities, and no numbers so small that they are slow.
fn chains() {
    let (a, b) = black_box((0.5f32, 1.0f32));
    let mut values = black_box([[1.0f32; LANES]; CHAINS]);
    // Without the instruction `mul_add` would be a call into the C library.
    match isa() {
        Isa::Portable => wide(|| steps(&mut values, |v| v * a + b)),
        _ => wide(|| steps(&mut values, |v| v.mul_add(a, b))),
    }
    black_box(values);
}

#[inline(always)]
fn steps(values: &mut [[f32; LANES]; CHAINS], step: impl Fn(f32) -> f32) {
    // A copy of its own, which the compiler can keep in registers.
    let mut chains = *values;
    for _ in 0..LENGTH {
        for chain in &mut chains {
            for value in chain {
                *value = step(*value);
            }
        }
    }
    *values = chains;
}
