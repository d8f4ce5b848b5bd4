//! Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167, algorithms 1 and 2).
//!
//! ```text
//! x, y (N, H, W, C)     gamma, beta, running_mean, running_var (C)     m = N·H·W values per channel
//!
//! training:    mean = 1/m Σ x        var = 1/m Σ (x − mean)²  (biased)
//! evaluation:  mean = running_mean   var = running_var
//! both:        rstd = 1/√(var + eps)     x̂ = (x − mean) · rstd     y = gamma · x̂ + beta
//! ```
//!
//! After a training batch the running statistics move towards the batch's (momentum ρ = 0.1 is PyTorch's convention:
//! the weight of the *new* value; the paper and TensorFlow write 1 − ρ):
//!
//! ```text
//! running ← (1 − ρ) running + ρ batch       batch variance unbiased, Σ (x − mean)² / (m − 1), as PyTorch,
//!                                           or biased, Σ (x − mean)² / m, as ONNX; see [`RunningVariance`]
//! ```
//!
//! The forward pass does not do this itself: it changes nothing, and [`BatchNorm2d::update_running_statistics`] is a
//! step of the training loop one can see.
//!
//! # Backward
//!
//! In evaluation mean and var are constants: `dx = gamma · rstd · dy`. In training each x also moves the mean and the
//! variance it is normalised with. Write dx̂ = gamma · dy. Through x̂ᵢ = (xᵢ − mean) · rstd:
//!
//! ```text
//! dxᵢ = rstd · dx̂ᵢ                            directly
//!     − rstd · 1/m Σⱼ dx̂ⱼ                     through mean (Σ (x − mean) = 0, so var does not move with mean)
//!     − rstd · x̂ᵢ · 1/m Σⱼ dx̂ⱼ x̂ⱼ             through var: d rstd/d xᵢ = −rstd³ (xᵢ − mean)/m = −rstd² x̂ᵢ/m
//! ```
//!
//! so with dbeta = Σ dy and dgamma = Σ dy · x̂, two sums serve everything:
//!
//! ```text
//! dx = gamma · rstd · (dy − dbeta/m − x̂ · dgamma/m)
//! ```
//!
//! Read: dx is dy with its components along the constant and along x̂ removed (the second one up to a share
//! eps/(var + eps)), then scaled. That is why a check with dy = 1 proves nothing: it is exactly the part that is removed.
//!
//! # Numerics
//!
//! Mean and Σ(x − mean)² are computed leaf by leaf (256 pixels), two passes while the leaf is in cache, and merged
//! pairwise with Chan, Golub & LeVeque's update (1979) in the fixed tree of [`crate::parallel`]: no
//! `E[x²] − E[x]²` cancellation, and one pass over memory. All of it on x minus a pivot, the batch's first pixel, so that
//! a mean far from 0 costs no digits of the variance. x̂ is recomputed from x in backward rather than kept: a
//! multiply-add is cheaper than the memory. NaN and infinities go where the equations send them.
//!
//! Cost: about 8 operations a value forward, 10 backward; both are limited by memory. Cache: the handle of x, and mean
//! and rstd.
//!
//! ```
//! use ndarray::{Array1, Array4};
//! use resnet_by_hand::layers::{BatchNorm2d, Mode};
//! let x = Array4::from_shape_vec((2, 1, 2, 1), vec![1.0f64, 3.0, 5.0, 7.0])?.into_shared(); // mean 4, variance 5
//! let mut bn = BatchNorm2d { eps: 4.0, ..BatchNorm2d::new(1) };                              // rstd = 1/√(5 + 4) = 1/3
//! let (y, cache) = bn.forward(&x, Mode::Train)?;
//! assert_eq!(y.as_slice().unwrap(), [-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0]);
//! bn.update_running_statistics(&cache);
//! assert!((bn.running_mean[0] - 0.4).abs() < 1e-15); // 0.9 · 0 + 0.1 · 4
//! assert!((bn.running_var[0] - (0.9 + 0.1 * 20.0 / 3.0)).abs() < 1e-15); // unbiased: 20/3
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::{check_dy, contiguous, Activation};
use crate::kernels::simd::wide;
use crate::parallel::{add_slices, tree_sum};
use crate::parameters::{join, Gradients, Parameters, Role};
use crate::{Error, Result, Scalar};
use ndarray::{Array1, Array4, ArrayViewD, ArrayViewMutD};
use rayon::prelude::*;

/// Whether a pass trains (batch statistics) or evaluates (running statistics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Normalise with the statistics of this batch.
    Train,
    /// Normalise with the running statistics.
    Eval,
}

/// Which batch variance moves the running variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunningVariance {
    /// Σ (x − mean)² / (m − 1), as PyTorch does.
    #[default]
    Unbiased,
    /// Σ (x − mean)² / m, as the ONNX operator does.
    Biased,
}

/// A batch norm over the channels of `(N, H, W, C)`; see the [module documentation](self) for the equations.
#[derive(Clone, Debug)]
pub struct BatchNorm2d<T> {
    /// Scale γ `(C)`; `weight` in PyTorch.
    pub gamma: Array1<T>,
    /// Shift β `(C)`; `bias` in PyTorch.
    pub beta: Array1<T>,
    /// Running mean `(C)`.
    pub running_mean: Array1<T>,
    /// Running variance `(C)`.
    pub running_var: Array1<T>,
    /// Added to the variance before the root.
    pub eps: T,
    /// Weight of the new value in the running statistics.
    pub momentum: T,
    /// Which variance the running variance follows.
    pub running_variance: RunningVariance,
}

/// What [`BatchNorm2d::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct BatchNorm2dCache<T> {
    x: Activation<T>,
    mode: Mode,
    /// The mean x was normalised with `(C)`.
    pub mean: Array1<T>,
    /// 1/√(var + eps) `(C)`.
    pub rstd: Array1<T>,
    /// Biased variance Σ (x − mean)² / m of the batch `(C)`; empty in evaluation.
    pub batch_var: Array1<T>,
}

/// Gradients of a [`BatchNorm2d`]'s parameters.
#[derive(Clone, Debug)]
pub struct BatchNorm2dGrads<T> {
    /// ∂loss/∂gamma `(C)`.
    pub gamma: Array1<T>,
    /// ∂loss/∂beta `(C)`.
    pub beta: Array1<T>,
}

impl<T: Scalar> BatchNorm2d<T> {
    /// gamma 1, beta 0, running mean 0, running variance 1, eps 1e-5, momentum 0.1: PyTorch's defaults.
    pub fn new(channels: usize) -> Self {
        BatchNorm2d {
            gamma: Array1::ones(channels),
            beta: Array1::zeros(channels),
            running_mean: Array1::zeros(channels),
            running_var: Array1::ones(channels),
            eps: T::of(1e-5),
            momentum: T::of(0.1),
            running_variance: RunningVariance::Unbiased,
        }
    }

    /// y and what backward needs. Does not change the running statistics.
    ///
    /// # Errors
    /// If the channels do not fit, or in training with fewer than two values per channel, where every x̂ would be 0.
    pub fn forward(&self, x: &Activation<T>, mode: Mode) -> Result<(Activation<T>, BatchNorm2dCache<T>)> {
        let (n, h, w, c) = x.dim();
        if c == 0 {
            return Err(Error::shape("batch_norm", "x", "at least one channel", x.shape()));
        }
        for (name, vector) in [
            ("gamma", &self.gamma),
            ("beta", &self.beta),
            ("running_mean", &self.running_mean),
            ("running_var", &self.running_var),
        ] {
            if vector.len() != c {
                let expected = format!("({c},), one per channel of x {:?}", x.shape());
                return Err(Error::shape("batch_norm", name, expected, vector.shape()));
            }
        }
        let x = contiguous(x);
        let (mean, var, batch_var) = match mode {
            Mode::Train => {
                let m = n * h * w;
                if m < 2 {
                    let expected = "more than one value per channel in training (N·H·W ≥ 2)";
                    return Err(Error::shape("batch_norm", "x", expected, x.shape()));
                }
                let moments = batch_moments(x.as_slice().expect("contiguous"), c);
                let var = Array1::from(moments.m2) / T::of_usize(m);
                (Array1::from(moments.mean), var.clone(), var)
            }
            Mode::Eval => (self.running_mean.clone(), self.running_var.clone(), Array1::zeros(0)),
        };
        let rstd = var.mapv(|var| (var + self.eps).sqrt().recip());
        // y = gamma · x̂ + beta = (x − mean) · scale + beta
        let run = Run::of(c);
        let [means, scales, betas] = [&mean, &(&self.gamma * &rstd), &self.beta].map(|constants| run.repeat(constants));
        let mut y = vec![T::zero(); x.len()];
        let numbers = x.as_slice().expect("contiguous");
        run.for_each(&mut y, [numbers, numbers], |y, [x, _]| {
            for ((((y, &x), &mean), &scale), &beta) in y.iter_mut().zip(x).zip(&means).zip(&scales).zip(&betas) {
                *y = (x - mean) * scale + beta;
            }
        });
        let y = Array4::from_shape_vec(x.dim(), y).expect("the length of x").into_shared();
        Ok((y, BatchNorm2dCache { x, mode, mean, rstd, batch_var }))
    }

    /// `(dx, grads)` for `dy`, in the mode of the forward pass.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(
        &self,
        dy: &Activation<T>,
        cache: &BatchNorm2dCache<T>,
    ) -> Result<(Activation<T>, BatchNorm2dGrads<T>)> {
        check_dy("batch_norm", dy.shape(), cache.x.shape())?;
        let (n, h, w, c) = cache.x.dim();
        let dy = contiguous(dy);
        let (dgamma, dbeta) = self.parameter_sums(&dy, cache);

        // dx = gamma · rstd · (dy − dbeta/m − x̂ · dgamma/m), the last two terms in training only.
        let run = Run::of(c);
        let scales = run.repeat(&(&self.gamma * &cache.rstd));
        let arrays = [dy.as_slice().expect("contiguous"), cache.x.as_slice().expect("contiguous")];
        let mut dx = vec![T::zero(); dy.len()];
        match cache.mode {
            Mode::Eval => run.for_each(&mut dx, arrays, |dx, [dy, _]| {
                for ((dx, &dy), &scale) in dx.iter_mut().zip(dy).zip(&scales) {
                    *dx = scale * dy;
                }
            }),
            Mode::Train => {
                let m = T::of_usize(n * h * w);
                // x̂ · dgamma/m = (x − mean) · slope
                let (mean_dy, slope) = (dbeta.mapv(|sum| sum / m), &dgamma * &cache.rstd / m);
                let [means_dy, means, slopes] = [&mean_dy, &cache.mean, &slope].map(|constants| run.repeat(constants));
                run.for_each(&mut dx, arrays, |dx, [dy, x]| {
                    let constants = scales.iter().zip(&means_dy).zip(&means).zip(&slopes);
                    for (((dx, &dy), &x), (((&scale, &mean_dy), &mean), &slope)) in
                        dx.iter_mut().zip(dy).zip(x).zip(constants)
                    {
                        *dx = scale * (dy - mean_dy - (x - mean) * slope);
                    }
                });
            }
        }
        let dx = Array4::from_shape_vec((n, h, w, c), dx).expect("the length of x").into_shared();
        Ok((dx, BatchNorm2dGrads { gamma: dgamma, beta: dbeta }))
    }

    /// running ← (1 − momentum) running + momentum · batch, for the batch of a training forward pass; nothing for one in
    /// evaluation.
    pub fn update_running_statistics(&mut self, cache: &BatchNorm2dCache<T>) {
        if cache.mode == Mode::Eval {
            return;
        }
        let m = T::of_usize(cache.x.len() / self.gamma.len());
        let bessel = match self.running_variance {
            RunningVariance::Unbiased => m / (m - T::one()),
            RunningVariance::Biased => T::one(),
        };
        let keep = T::one() - self.momentum;
        self.running_mean.zip_mut_with(&cache.mean, |running, &mean| *running = keep * *running + self.momentum * mean);
        self.running_var.zip_mut_with(&cache.batch_var, |running, &var| {
            *running = keep * *running + self.momentum * (var * bessel)
        });
    }

    /// (dgamma, dbeta) = (Σ dy · x̂, Σ dy), in a fixed tree over leaves of [`LEAF_PIXELS`].
    fn parameter_sums(&self, dy: &Activation<T>, cache: &BatchNorm2dCache<T>) -> (Array1<T>, Array1<T>) {
        let c = self.gamma.len();
        let (x, dy) = (cache.x.as_slice().expect("contiguous"), dy.as_slice().expect("contiguous"));
        let run = Run::of(c);
        let means = run.repeat(&cache.mean);
        let leaf = |i: usize| {
            let (mut centred, mut plain) = (vec![T::zero(); run.len()], vec![T::zero(); run.len()]);
            wide(|| {
                for (x, dy) in leaf_of(x, c, i).chunks(run.len()).zip(leaf_of(dy, c, i).chunks(run.len())) {
                    let sums = centred.iter_mut().zip(&mut plain);
                    for ((((centred, plain), &x), &dy), &mean) in sums.zip(x).zip(dy).zip(&means) {
                        *centred += dy * (x - mean);
                        *plain += dy;
                    }
                }
            });
            (run.fold(centred), run.fold(plain))
        };
        let add = |left: &mut (Vec<T>, Vec<T>), right: (Vec<T>, Vec<T>)| {
            add_slices(&mut left.0, &right.0);
            add_slices(&mut left.1, &right.1);
        };
        let (centred, plain) =
            tree_sum(leaf_count(x, c), &leaf, &add).unwrap_or_else(|| (vec![T::zero(); c], vec![T::zero(); c]));
        // Σ dy · x̂ = rstd · Σ dy · (x − mean)
        (Array1::from(centred) * &cache.rstd, Array1::from(plain))
    }
}

/// Pixels per leaf of a sum over the batch.
const LEAF_PIXELS: usize = 256;

fn leaf_count<T>(x: &[T], c: usize) -> usize {
    x.len().div_ceil(LEAF_PIXELS * c.max(1))
}

fn leaf_of<T>(x: &[T], c: usize, index: usize) -> &[T] {
    let first = index * LEAF_PIXELS * c;
    &x[first..x.len().min(first + LEAF_PIXELS * c)]
}

/// Per channel: number of values, their mean (less a pivot), and m2 = Σ (x − mean)².
struct Moments<T> {
    count: usize,
    mean: Vec<T>,
    m2: Vec<T>,
}

/// Moments of `x (m, c)`; m is not 0.
fn batch_moments<T: Scalar>(x: &[T], c: usize) -> Moments<T> {
    let run = Run::of(c);
    let pivot = &x[..c];
    let pivots = pivot.repeat(run.times);
    let leaf = |index: usize| {
        let x = leaf_of(x, c, index);
        let count = x.len() / c;
        let mut mean = vec![T::zero(); run.len()];
        wide(|| {
            for x in x.chunks(run.len()) {
                for ((mean, &x), &pivot) in mean.iter_mut().zip(x).zip(&pivots) {
                    *mean += x - pivot;
                }
            }
        });
        let mut mean = run.fold(mean);
        mean.iter_mut().for_each(|sum| *sum /= T::of_usize(count));
        let means = mean.repeat(run.times);
        let mut m2 = vec![T::zero(); run.len()];
        wide(|| {
            for x in x.chunks(run.len()) {
                for (((m2, &x), &pivot), &mean) in m2.iter_mut().zip(x).zip(&pivots).zip(&means) {
                    let centred = (x - pivot) - mean;
                    *m2 += centred * centred;
                }
            }
        });
        let m2 = run.fold(m2);
        Moments { count, mean, m2 }
    };
    // Chan et al.: with δ = mean_b − mean_a, the joint mean is mean_a + δ n_b/n and m2 grows by δ² n_a n_b/n.
    let merge = |a: &mut Moments<T>, b: Moments<T>| {
        let (n_a, n_b, n) = (T::of_usize(a.count), T::of_usize(b.count), T::of_usize(a.count + b.count));
        let (share, cross) = (n_b / n, n_a * (n_b / n));
        for ((mean_a, m2_a), (&mean_b, &m2_b)) in a.mean.iter_mut().zip(&mut a.m2).zip(b.mean.iter().zip(&b.m2)) {
            let delta = mean_b - *mean_a;
            *mean_a += delta * share;
            *m2_a += m2_b + delta * delta * cross;
        }
        a.count += b.count;
    };
    let mut moments = tree_sum(leaf_count(x, c), &leaf, &merge).expect("at least one value");
    add_slices(&mut moments.mean, pivot);
    moments
}

/// A run of pixels that the inner loops treat as one: per-channel constants are repeated to its length, so that a loop
/// over 16 channels becomes one over 128 numbers, long enough for the vector unit. Sums keep one partial sum per place in
/// the run and add those up at the end.
#[derive(Clone, Copy)]
struct Run {
    c: usize,
    /// Pixels in a run: a power of two, so that it divides [`LEAF_PIXELS`].
    times: usize,
}

impl Run {
    fn of(c: usize) -> Self {
        let mut times = 1;
        while 2 * times * c <= 128 {
            times *= 2;
        }
        Run { c, times }
    }

    /// Numbers in a run.
    fn len(self) -> usize {
        self.times * self.c
    }

    fn repeat<T: Scalar>(self, constants: &Array1<T>) -> Vec<T> {
        constants.to_vec().repeat(self.times)
    }

    /// The sum of each channel over the run's pixels.
    fn fold<T: Scalar>(self, mut sums: Vec<T>) -> Vec<T> {
        let (first, others) = sums.split_at_mut(self.c);
        others.chunks_exact(self.c).for_each(|pixel| add_slices(first, pixel));
        sums.truncate(self.c);
        sums
    }

    /// Calls `write(run of out, [run of a, run of b])` for every run, in parallel. The last run may be shorter.
    fn for_each<T: Scalar>(self, out: &mut [T], [a, b]: [&[T]; 2], write: impl Fn(&mut [T], [&[T]; 2]) + Sync) {
        let (leaf, run) = (LEAF_PIXELS * self.c, self.len());
        out.par_chunks_mut(leaf).zip(a.par_chunks(leaf)).zip(b.par_chunks(leaf)).for_each(|((out, a), b)| {
            wide(|| {
                for ((out, a), b) in out.chunks_mut(run).zip(a.chunks(run)).zip(b.chunks(run)) {
                    write(out, [a, b]);
                }
            });
        });
    }
}

impl<T: Scalar> Parameters<T> for BatchNorm2d<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        visitor(&join(path, "weight"), Role::Gamma, self.gamma.view().into_dyn());
        visitor(&join(path, "bias"), Role::Beta, self.beta.view().into_dyn());
        visitor(&join(path, "running_mean"), Role::Statistic, self.running_mean.view().into_dyn());
        visitor(&join(path, "running_var"), Role::Statistic, self.running_var.view().into_dyn());
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        visitor(&join(path, "weight"), Role::Gamma, self.gamma.view_mut().into_dyn());
        visitor(&join(path, "bias"), Role::Beta, self.beta.view_mut().into_dyn());
        visitor(&join(path, "running_mean"), Role::Statistic, self.running_mean.view_mut().into_dyn());
        visitor(&join(path, "running_var"), Role::Statistic, self.running_var.view_mut().into_dyn());
    }
}

impl<T: Scalar> BatchNorm2dGrads<T> {
    /// Adds these gradients to `gradients` under the names of the layer at `path`.
    pub fn collect(self, path: &str, gradients: &mut Gradients<T>) {
        gradients.push(path, "weight", self.gamma);
        gradients.push(path, "bias", self.beta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mean of 10⁴ and a deviation of 10⁻²: E[x²] − E[x]² in f32 would return noise of the size of 10⁸ · 2⁻²⁴ = 6.
    #[test]
    fn variance_survives_a_large_mean_in_f32() {
        let x = Array4::from_shape_fn((4, 16, 16, 3), |(n, h, w, c)| {
            1e4 + ((n * 37 + h * 11 + w * 5 + c) % 7) as f32 * (1.0 / 64.0)
        });
        let exact = |c: usize| {
            let values: Vec<f64> = x.slice(ndarray::s![.., .., .., c]).iter().map(|&v| f64::from(v)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64
        };
        let (_, cache) = BatchNorm2d::new(3).forward(&x.clone().into_shared(), Mode::Train).unwrap();
        for c in 0..3 {
            // x − pivot is exact here. A leaf's sums have 256 terms, the tree 2 levels: (256 + 2 + a few) roundings each,
            // relative γ₂₆₄ = 264 u of a sum of squares, whose terms are all positive.
            let tolerance = 264.0 * f32::UNIT_ROUNDOFF;
            assert!((f64::from(cache.batch_var[c]) / exact(c) - 1.0).abs() < tolerance);
        }
    }

    #[test]
    fn one_value_per_channel_is_refused_in_training_alone() {
        let bn = BatchNorm2d::<f32>::new(3);
        let x = Array4::ones((1, 1, 1, 3)).into_shared();
        assert!(bn.forward(&x, Mode::Eval).is_ok());
        let message = bn.forward(&x, Mode::Train).unwrap_err().to_string();
        assert!(message.contains("more than one value per channel") && message.contains("[1, 1, 1, 3]"), "{message}");
    }

    #[test]
    fn wrong_channels_are_named() {
        let x = Array4::<f32>::ones((2, 1, 1, 3)).into_shared();
        let message = BatchNorm2d::new(4).forward(&x, Mode::Train).unwrap_err().to_string();
        assert!(message.contains("gamma") && message.contains("(3,)") && message.contains("[4]"), "{message}");
    }
}
