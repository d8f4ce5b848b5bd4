//! Multiply-adds on registers and nothing else: the peak with which every kernel is compared.

use super::simd::{Arithmetic, Kernel, dispatch};
use super::vector::Vector;
use std::hint::black_box;

/// A multiply-add takes 4 cycles and two start per cycle: at least 8 chains are needed; with two factors, 12 fit into
/// 16 registers.
const CHAINS: usize = 12;

/// Lengthens 12 chains of f32 vectors by `length` multiply-adds each, with the vectors of [`super::simd::isa`], on the
/// calling thread. Returns the number of operations, two for each multiply-add of each lane.
///
/// ```
/// use resnet_by_hand::engine::kernels::chains::chains;
/// let start = std::time::Instant::now();
/// let operations = chains(1000);
/// println!("{:.0} GFLOP/s", operations as f64 / start.elapsed().as_secs_f64() / 1e9);
/// # assert!(operations >= 2 * 12 * 4 * 1000);
/// ```
pub fn chains(length: usize) -> usize {
    dispatch(Chains { length })
}

struct Chains {
    length: usize,
}

impl Kernel for Chains {
    type Output = usize;

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "a closure would be compiled by itself, without the vectors")]
    fn run<A: Arithmetic, const ROWS: usize>(self) -> usize {
        let lanes = A::V::LANES;
        // Each chain is v ← v·a + b, which stays near b/(1 − a): no infinities and no subnormal numbers, which are slow.
        // The compiler must not see that all chains are equal and compute only one.
        let (a, mut numbers) = black_box((0.5f32, [[1.0f32; 16]; CHAINS]));
        let b = A::V::load(&numbers[0], 0);
        let mut chains = [b; CHAINS];
        for chain in 0..CHAINS {
            chains[chain] = A::V::load(&numbers[chain], 0);
        }
        for _ in 0..self.length {
            for chain in 0..CHAINS {
                chains[chain] = chains[chain].multiply_add(a, b);
            }
        }
        for chain in 0..CHAINS {
            chains[chain].store(&mut numbers[chain], 0);
        }
        black_box(numbers);
        2 * lanes * CHAINS * self.length
    }
}
