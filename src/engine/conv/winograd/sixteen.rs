//! The products of a layer with 16 input and 16 output channels, on a processor with vectors of 16 values.
//!
//! With K = 16 a microtile of the general product ([`Product`](crate::engine::kernels::indirect_gemm::Product)) ends soon
//! after it has begun. Here a row of a matrix is one vector and a whole 16x16 matrix stays in registers: U\[k\] while all
//! tiles pass, or dU\[k\] while it is summed over the tiles. The sums have the same order and the same bits.

#![expect(
    clippy::needless_range_loop,
    reason = "indices, as in kernels.rs: closures and arrays by value are slow here"
)]

use crate::engine::kernels::vector::Vector;

/// Channels, and values of a vector.
pub(super) const CHANNELS: usize = 16;

/// Tiles at once: 16 registers for U and 8 for these sums, of which enough are independent to keep the processor busy.
const TILES: usize = 8;

/// Whether this file's functions can be used.
#[inline(always)]
pub(super) fn applies<V: Vector<f32>>(channels: [usize; 2]) -> bool {
    V::LANES == CHANNELS && channels == [CHANNELS, CHANNELS]
}

/// `M[k] = V[k] · U[k]` for one point k: V and M (tiles, 16), U (16, 16).
#[inline(always)]
pub(super) fn product<V: Vector<f32>>(v: &[f32], u: &[f32], m: &mut [f32]) {
    let mut rows = [V::zero(); CHANNELS];
    for i in 0..CHANNELS {
        rows[i] = V::load(u, i * CHANNELS);
    }
    let (tiles, mut tile) = (v.len() / CHANNELS, 0);
    while tile < tiles {
        let (v, m) = (&v[tile * CHANNELS..], &mut m[tile * CHANNELS..]);
        if tile + TILES <= tiles {
            some_tiles::<V, TILES>(v, &rows, m);
            tile += TILES;
        } else {
            some_tiles::<V, 1>(v, &rows, m);
            tile += 1;
        }
    }
}

#[inline(always)]
fn some_tiles<V: Vector<f32>, const N: usize>(v: &[f32], u: &[V; CHANNELS], m: &mut [f32]) {
    let v = &v[..N * CHANNELS];
    let mut sums = [V::zero(); N];
    for i in 0..CHANNELS {
        for tile in 0..N {
            sums[tile] = u[i].multiply_add(v[tile * CHANNELS + i], sums[tile]);
        }
    }
    for tile in 0..N {
        sums[tile].store(m, tile * CHANNELS);
    }
}

/// `dU[k] ← [dU[k] +] V[k]ᵀ · dM[k]` for one point k: V and dM (tiles, 16), dU (16, 16).
#[inline(always)]
pub(super) fn correlate<V: Vector<f32>>(v: &[f32], dm: &[f32], du: &mut [f32], accumulate: bool) {
    let mut rows = [V::zero(); CHANNELS];
    if accumulate {
        for i in 0..CHANNELS {
            rows[i] = V::load(du, i * CHANNELS);
        }
    }
    for (v, dm) in v.chunks_exact(CHANNELS).zip(dm.chunks_exact(CHANNELS)) {
        let dm = V::load(dm, 0);
        for i in 0..CHANNELS {
            rows[i] = dm.multiply_add(v[i], rows[i]);
        }
    }
    for i in 0..CHANNELS {
        rows[i].store(du, i * CHANNELS);
    }
}
