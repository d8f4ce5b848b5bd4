//! Batch norm in pieces that fit into the passes of the convolutions.
//!
//! The equations are those of [`crate::layers::batch_norm`], split to save memory traffic. The moments of a leaf are
//! computed while the leaf is in the cache ([`Moments`]); with mean and rstd known, y is an affine map of x, applied
//! while x is read ([`Affine`]); the two sums of the backward pass are computed while dy is written ([`PairSums`]);
//! with these known, dx is a map of dy and x, applied while they are read ([`NormBackward`]).
//!
//! ```text
//! y  = (x − mean) · scale + beta                                     scale = gamma · rstd
//! dx = scale · (dy − mean_dy − (x − mean) · slope)                   mean_dy = dbeta/m,  slope = dgamma · rstd/m
//! ```
//!
//! Mean and Σ (x − mean)² are computed leaf by leaf, in two passes while the leaf is in the cache, and merged pairwise
//! by the update of Chan, Golub & LeVeque (1979): one pass over memory, and no cancellation as in E\[x²\] − E\[x\]².
//! All of this is computed on x minus a pivot, the leaf's first pixel, so that a mean far from 0 costs no digits of the
//! variance.

use super::buffers::Recycled;
use super::completion::stacked;
use super::groups::PerGroup;
use super::kernels::simd::wide;
use super::leaves::{LEAF_PIXELS, LeafSum, PerLeaf};
use crate::Result;
use crate::layers::batch_norm::BatchNorm2dGrads;
use crate::layers::{BatchNorm2d, Mode};
use crate::parallel::add_slices;
use crate::shards::{Exchanged, Shards};
use ndarray::{Array1, Ix1};
use rayon::prelude::*;

/// A strip of pixels that the inner loops treat as one: per-channel constants are repeated to its length, so that a
/// loop over 16 channels becomes one over 128 values, long enough for the vector unit. Sums keep one partial sum per
/// position in the strip and add them at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strip {
    c: usize,
    /// Pixels per strip: a power of two.
    times: usize,
}

impl Strip {
    pub fn of(c: usize) -> Self {
        let mut times = 1;
        while 2 * times * c <= 128 {
            times *= 2;
        }
        Strip { c, times }
    }

    /// Values per strip.
    pub fn len(self) -> usize {
        self.times * self.c
    }

    pub fn repeat(self, constants: &Array1<f32>) -> Vec<f32> {
        constants.to_vec().repeat(self.times)
    }

    /// The sum of each channel over the strip's pixels.
    fn fold(self, mut sums: Vec<f32>) -> Vec<f32> {
        let (first, others) = sums.split_at_mut(self.c);
        others.chunks_exact(self.c).for_each(|pixel| add_slices(first, pixel));
        sums.truncate(self.c);
        sums
    }

    /// Calls `write(at, chunk of out, [chunk of a, chunk of b])` for chunks of many strips, which begin at value `at`, in
    /// parallel.
    pub fn for_each_chunk(
        self,
        out: &mut [f32],
        [a, b]: [&[f32]; 2],
        write: impl Fn(usize, &mut [f32], [&[f32]; 2]) + Sync,
    ) {
        let chunk = LEAF_PIXELS * self.c;
        let chunks = out.par_chunks_mut(chunk).zip(a.par_chunks(chunk)).zip(b.par_chunks(chunk)).enumerate();
        chunks.for_each(|(i, ((out, a), b))| write(i * chunk, out, [a, b]));
    }
}

/// Per channel: number of values, their mean, and m2 = Σ (x − mean)². The mean is kept as its distance from a pivot, one
/// of the values, so that a mean far from 0 costs no digits.
pub(crate) struct Moments {
    count: usize,
    pivot: Vec<f32>,
    offset: Vec<f32>,
    m2: Vec<f32>,
}

impl Moments {
    /// The moments of a leaf `x (m, c)`, m ≥ 1: two passes while it is in the cache.
    pub fn of(x: &[f32], c: usize) -> Self {
        let strip = Strip::of(c);
        let (pivot, count) = (x[..c].to_vec(), x.len() / c);
        let pivots = pivot.repeat(strip.times);
        let mut offset = vec![0.0; strip.len()];
        wide(
            #[inline(always)]
            || {
                for x in x.chunks(strip.len()) {
                    for ((offset, &x), &pivot) in offset.iter_mut().zip(x).zip(&pivots) {
                        *offset += x - pivot;
                    }
                }
            },
        );
        let mut offset = strip.fold(offset);
        offset.iter_mut().for_each(|sum| *sum /= count as f32);
        let offsets = offset.repeat(strip.times);
        let mut m2 = vec![0.0; strip.len()];
        wide(
            #[inline(always)]
            || {
                for x in x.chunks(strip.len()) {
                    for (((m2, &x), &pivot), &offset) in m2.iter_mut().zip(x).zip(&pivots).zip(&offsets) {
                        let centred = (x - pivot) - offset;
                        *m2 += centred * centred;
                    }
                }
            },
        );
        Moments { count, pivot, offset, m2: strip.fold(m2) }
    }
}

impl LeafSum for Moments {
    /// Merges the moments of two sets (Chan, Golub & LeVeque 1979): with δ = mean_b − mean_a, the joint mean is
    /// mean_a + δ n_b/n, and m2 increases by δ² n_a n_b/n.
    fn add(&mut self, b: Moments) {
        let (n_a, n_b, n) = (self.count as f32, b.count as f32, (self.count + b.count) as f32);
        let (share, cross) = (n_b / n, n_a * (n_b / n));
        for c in 0..self.m2.len() {
            let delta = (b.pivot[c] - self.pivot[c]) + (b.offset[c] - self.offset[c]);
            self.offset[c] += delta * share;
            self.m2[c] += b.m2[c] + delta * delta * cross;
        }
        self.count += b.count;
    }

    fn length(channels: usize) -> usize {
        1 + 3 * channels
    }
}

/// The count as the bits of a number, then the three vectors.
impl Exchanged for Moments {
    fn into_values(self) -> Vec<f32> {
        let count = u32::try_from(self.count).expect("a batch has fewer than 2³² pixels");
        [vec![f32::from_bits(count)], self.pivot, self.offset, self.m2].concat()
    }

    fn from_values(values: Vec<f32>) -> Self {
        let mut vectors = values[1..].chunks_exact(values.len() / 3).map(<[f32]>::to_vec);
        let mut next = || vectors.next().expect("three vectors");
        Moments { count: values[0].to_bits() as usize, pivot: next(), offset: next(), m2: next() }
    }
}

/// (Σ dy · (x − mean), Σ dy) per channel.
pub(crate) type PairSums = (Vec<f32>, Vec<f32>);

impl LeafSum for PairSums {
    fn add(&mut self, other: PairSums) {
        add_slices(&mut self.0, &other.0);
        add_slices(&mut self.1, &other.1);
    }

    fn length(channels: usize) -> usize {
        2 * channels
    }
}

impl Exchanged for PairSums {
    fn into_values(self) -> Vec<f32> {
        [self.0, self.1].concat()
    }

    fn from_values(mut values: Vec<f32>) -> Self {
        let plain = values.split_off(values.len() / 2);
        (values, plain)
    }
}

/// [`PairSums`] of a leaf; `means` is repeated to a [`Strip`].
pub(crate) fn pair_sums(strip: Strip, dy: &[f32], x: &[f32], means: &[f32]) -> PairSums {
    let (mut centred, mut plain) = (vec![0.0; strip.len()], vec![0.0; strip.len()]);
    wide(
        #[inline(always)]
        || {
            for (x, dy) in x.chunks(strip.len()).zip(dy.chunks(strip.len())) {
                let sums = centred.iter_mut().zip(&mut plain);
                for ((((centred, plain), &x), &dy), &mean) in sums.zip(x).zip(dy).zip(means) {
                    *centred += dy * (x - mean);
                    *plain += dy;
                }
            }
        },
    );
    (strip.fold(centred), strip.fold(plain))
}

/// What backward needs of a batch norm in training mode.
#[derive(Clone, Debug)]
pub(crate) struct NormCache {
    /// The input of the batch norm.
    pub x: Recycled,
    statistics: PerGroup<Statistics>,
    shards: Shards,
}

/// The statistics of images that are normalised together.
#[derive(Clone, Debug)]
struct Statistics {
    /// Values per channel; of the whole batch, those of all processes.
    count: usize,
    mean: Array1<f32>,
    rstd: Array1<f32>,
    /// Biased variance.
    var: Array1<f32>,
}

impl Statistics {
    fn new(bn: &BatchNorm2d<f32>, moments: &Moments) -> Self {
        let mean = moments.pivot.iter().zip(&moments.offset).map(|(&pivot, &offset)| pivot + offset).collect();
        let var = Array1::from(moments.m2.clone()) / moments.count as f32;
        Statistics { count: moments.count, mean, rstd: rstd(bn, &var), var }
    }
}

impl NormCache {
    /// The cache for `x`, which has these moments.
    pub fn new(bn: &BatchNorm2d<f32>, x: Recycled, moments: PerLeaf<Moments>) -> Self {
        let shards = moments.shards.clone();
        NormCache { x, statistics: moments.sums().map(|moments| Statistics::new(bn, moments)), shards }
    }

    /// The means, repeated to a [`Strip`].
    pub fn means(&self, strip: Strip) -> PerGroup<Vec<f32>> {
        self.statistics.map(|own| strip.repeat(&own.mean))
    }

    /// The map x ↦ y.
    pub fn affine(&self, bn: &BatchNorm2d<f32>) -> PerGroup<Affine> {
        self.statistics.map(|own| Affine::new(bn, &own.mean, &own.rstd))
    }

    /// (dgamma, dbeta) = (Σ dy · x̂, Σ dy) of the batch, or of each group, from the sums of a backward pass.
    pub fn gradients(&self, sums: PerLeaf<PairSums>) -> PerGroup<BatchNorm2dGrads<f32>> {
        self.statistics.map_with(&sums.sums(), |own, (centred, plain)| {
            // Σ dy · x̂ = rstd · Σ dy · (x − mean)
            BatchNorm2dGrads { gamma: Array1::from(centred.clone()) * &own.rstd, beta: Array1::from(plain.clone()) }
        })
    }

    /// The gradients of gamma and beta. With groups they are the sums over those of this process, [`stacked`], because other
    /// processes have others.
    pub fn of_parameters(&self, grads: &PerGroup<BatchNorm2dGrads<f32>>) -> BatchNorm2dGrads<f32> {
        if !self.shards.has_groups() {
            return grads.get(0).clone();
        }
        let add = |left: &mut BatchNorm2dGrads<f32>, right: BatchNorm2dGrads<f32>| {
            left.gamma += &right.gamma;
            left.beta += &right.beta;
        };
        let sums = self.shards.own_sums_over_groups(&|group| grads.get(group).clone(), &add);
        let (gammas, betas) = sums.into_iter().map(|sum| (sum.gamma, sum.beta)).unzip();
        let channels = Ix1(self.x.dim().3);
        BatchNorm2dGrads { gamma: stacked(gammas, channels), beta: stacked(betas, channels) }
    }

    /// The map (dy, x) ↦ dx.
    pub fn backward(&self, bn: &BatchNorm2d<f32>, grads: &PerGroup<BatchNorm2dGrads<f32>>) -> PerGroup<NormBackward> {
        let strip = Strip::of(self.x.dim().3);
        self.statistics.map_with(grads, |own, grads| {
            let m = own.count as f32;
            // x̂ · dgamma/m = (x − mean) · slope
            let (mean_dy, slope) = (grads.beta.mapv(|sum| sum / m), &grads.gamma * &own.rstd / m);
            let [scales, means_dy, means, slopes] =
                [&(&bn.gamma * &own.rstd), &mean_dy, &own.mean, &slope].map(|constants| strip.repeat(constants));
            NormBackward { strip, scales, means_dy, means, slopes }
        })
    }
}

/// Updates the running statistics of batch norms with those of a batch: with the means over its groups, which takes one
/// exchange for all of them, or with those of the whole batch, which every process knows.
pub(crate) fn update(shards: &Shards, norms: Vec<(&mut BatchNorm2d<f32>, &NormCache)>) {
    if !shards.has_groups() {
        for (bn, cache) in norms {
            let own = cache.statistics.get(0);
            let var = bn.unbiased(&own.var, own.count);
            bn.move_running_statistics(&own.mean, &var);
        }
        return;
    }
    let of_group = |group: usize| -> Vec<f32> {
        let all = norms.iter().flat_map(|(bn, cache)| {
            let own = cache.statistics.get(group);
            [own.mean.to_vec(), bn.unbiased(&own.var, own.count).to_vec()].concat()
        });
        all.collect()
    };
    let length = norms.iter().map(|(_, cache)| 2 * cache.x.dim().3).sum();
    let sums =
        shards.sum_over_groups(length, &of_group, &|left: &mut Vec<f32>, right: Vec<f32>| add_slices(left, &right));
    let means = Array1::from(sums) / shards.group_count() as f32;
    let mut rest = means.as_slice().expect("contiguous");
    for (bn, _) in norms {
        let channels = bn.gamma.len();
        let (of_norm, others) = rest.split_at(2 * channels);
        rest = others;
        let [mean, var] = [&of_norm[..channels], &of_norm[channels..]].map(|values| Array1::from(values.to_vec()));
        bn.move_running_statistics(&mean, &var);
    }
}

/// 1/√(var + eps)
fn rstd(bn: &BatchNorm2d<f32>, var: &Array1<f32>) -> Array1<f32> {
    var.mapv(|var| (var + bn.eps).sqrt().recip())
}

/// y = (x − mean) · scale + beta, its constants repeated to a [`Strip`].
pub(crate) struct Affine {
    pub strip: Strip,
    pub means: Vec<f32>,
    scales: Vec<f32>,
    betas: Vec<f32>,
}

impl Affine {
    fn new(bn: &BatchNorm2d<f32>, mean: &Array1<f32>, rstd: &Array1<f32>) -> Self {
        let strip = Strip::of(bn.gamma.len());
        let [means, scales, betas] = [mean, &(&bn.gamma * rstd), &bn.beta].map(|constants| strip.repeat(constants));
        Affine { strip, means, scales, betas }
    }

    /// The map in evaluation mode, with the running statistics, for an x of shape `(N, H, W, C)`.
    pub fn running(bn: &BatchNorm2d<f32>, x: (usize, usize, usize, usize)) -> Result<Self> {
        bn.check(x, Mode::Eval)?;
        Ok(Affine::new(bn, &bn.running_mean, &rstd(bn, &bn.running_var)))
    }

    /// One strip, which begins at a pixel's first channel.
    #[inline(always)]
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        for ((((y, &x), &mean), &scale), &beta) in
            y.iter_mut().zip(x).zip(&self.means).zip(&self.scales).zip(&self.betas)
        {
            *y = (x - mean) * scale + beta;
        }
    }
}

/// dx = scale · (dy − mean_dy − (x − mean) · slope), its constants repeated to a [`Strip`].
pub(crate) struct NormBackward {
    pub strip: Strip,
    scales: Vec<f32>,
    means_dy: Vec<f32>,
    means: Vec<f32>,
    slopes: Vec<f32>,
}

impl NormBackward {
    /// One strip, which begins at a pixel's first channel.
    #[inline(always)]
    pub fn apply(&self, dy: &[f32], x: &[f32], dx: &mut [f32]) {
        let constants = self.scales.iter().zip(&self.means_dy).zip(&self.means).zip(&self.slopes);
        for (((dx, &dy), &x), (((&scale, &mean_dy), &mean), &slope)) in dx.iter_mut().zip(dy).zip(x).zip(constants) {
            *dx = scale * (dy - mean_dy - (x - mean) * slope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scalar as _;
    use crate::shards::Shards;

    /// A mean of 10⁵ and a deviation of 10⁻²: a computation without the pivot, or with the rounded mean, loses the
    /// digits that the variance needs. Four leaves, so that they are merged.
    #[test]
    fn variance_survives_a_large_mean() {
        let x: Vec<f32> = (0..4 * LEAF_PIXELS * 3).map(|i| 1e5 + (i * 37 % 53 % 7) as f32 / 64.0).collect();
        let moments = PerLeaf::new(&Shards::one(4), (4, 16, 16, 3));
        moments.fill(|range| Moments::of(&x[range], 3));
        let moments = moments.sums();
        let moments = moments.get(0);
        for c in 0..3 {
            let values: Vec<f64> = x.iter().skip(c).step_by(3).map(|&v| v.into()).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let m2: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
            // x − pivot is exact here; at most 256 + 2 + a few roundings of positive terms.
            assert!((f64::from(moments.m2[c]) / m2 - 1.0).abs() < 264.0 * f32::UNIT_ROUNDOFF);
        }
    }
}
