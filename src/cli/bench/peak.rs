//! The peak speed of multiply-adds on this machine.
//!
//! All other speeds are compared with it: chains of multiply-adds in registers, without memory access, on all threads at once.

use crate::engine::kernels::chains::chains;
use std::time::Instant;

/// Multiply-adds of a chain: about half a millisecond.
const LENGTH: usize = 250_000;
/// Chains per measurement, each about half a millisecond.
const CALLS: usize = 60;
/// The best one counts, because disturbances only slow it down.
const MEASUREMENTS: usize = 5;

/// Operations per second (two for each multiply-add) of all threads of the pool together.
pub fn measure() -> f64 {
    let measurements = (0..MEASUREMENTS).map(|_| {
        let start = Instant::now();
        let operations: usize =
            rayon::broadcast(|_| (0..CALLS).map(|_| chains(LENGTH)).sum::<usize>()).into_iter().sum();
        operations as f64 / start.elapsed().as_secs_f64()
    });
    measurements.fold(0.0, f64::max)
}
