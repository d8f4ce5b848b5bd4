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
//! `E[x²] − E[x]²` cancellation, and one pass over memory. All of it on x minus a pivot, the leaf's first pixel, so that
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
use crate::kernels::buffers::{dirty, Recycled};
use crate::parameters::{join, Gradients, Parameters, Role};
use crate::{Error, Result, Scalar};
use ndarray::{Array1, Array4, ArrayViewD, ArrayViewMutD};
use rayon::prelude::*;
use sums::{add_pairs, pair_sums, Gather, Moments, PairSums, Run};

pub(crate) mod sums;

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
pub struct BatchNorm2dCache<T: Scalar> {
    x: Recycled<T>,
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
        self.check(x.dim(), mode)?;
        let x = contiguous(x);
        let cache = match mode {
            Mode::Train => {
                let gather = Gather::new(x.dim());
                let (numbers, c) = (x.as_slice().expect("contiguous"), self.gamma.len());
                (0..gather.leaves.count()).into_par_iter().for_each(|leaf| {
                    gather.put(leaf, Moments::of(&numbers[gather.leaves.range(leaf)], c));
                });
                self.training_cache(&x, gather)
            }
            Mode::Eval => BatchNorm2dCache {
                mean: self.running_mean.clone(),
                rstd: self.rstd(&self.running_var),
                batch_var: Array1::zeros(0),
                mode,
                x: x.clone().into(),
            },
        };
        let normal = self.normalization(&cache.mean, &cache.rstd);
        let mut y = dirty(x.len());
        let numbers = x.as_slice().expect("contiguous");
        normal.run.for_each(&mut y, [numbers, numbers], |y, [x, _]| normal.apply(x, y));
        Ok((Array4::from_shape_vec(x.dim(), y).expect("the length of x").into_shared(), cache))
    }

    /// Refuses an x of shape `(N, H, W, C)` that cannot be normalised.
    pub(crate) fn check(&self, shape: (usize, usize, usize, usize), mode: Mode) -> Result<()> {
        let (n, h, w, c) = shape;
        let found: [usize; 4] = shape.into();
        if c == 0 {
            return Err(Error::shape("batch_norm", "x", "at least one channel", &found));
        }
        for (name, vector) in [
            ("gamma", &self.gamma),
            ("beta", &self.beta),
            ("running_mean", &self.running_mean),
            ("running_var", &self.running_var),
        ] {
            if vector.len() != c {
                let expected = format!("({c},), one per channel of x {found:?}");
                return Err(Error::shape("batch_norm", name, expected, vector.shape()));
            }
        }
        if mode == Mode::Train && n * h * w < 2 {
            let expected = "more than one value per channel in training (N·H·W ≥ 2)";
            return Err(Error::shape("batch_norm", "x", expected, &found));
        }
        Ok(())
    }

    /// 1/√(var + eps)
    fn rstd(&self, var: &Array1<T>) -> Array1<T> {
        var.mapv(|var| (var + self.eps).sqrt().recip())
    }

    /// What backward needs of a training pass over x with these moments.
    pub(crate) fn training_cache(&self, x: &Activation<T>, moments: Gather<Moments<T>>) -> BatchNorm2dCache<T> {
        let moments = moments.total(&|a, b| a.merge(b)).expect("at least two values");
        let mean = moments.mean();
        let batch_var = Array1::from(moments.m2) / T::of_usize(moments.count);
        BatchNorm2dCache { x: x.clone().into(), mode: Mode::Train, mean, rstd: self.rstd(&batch_var), batch_var }
    }

    /// The map x ↦ y with this mean and rstd: y = (x − mean) · scale + beta, scale = gamma · rstd.
    pub(crate) fn normalization(&self, mean: &Array1<T>, rstd: &Array1<T>) -> Normalization<T> {
        let run = Run::of(self.gamma.len());
        let [means, scales, betas] = [mean, &(&self.gamma * rstd), &self.beta].map(|constants| run.repeat(constants));
        Normalization { run, means, scales, betas }
    }

    /// [`Self::normalization`] of the running statistics.
    pub(crate) fn running_normalization(&self) -> Normalization<T> {
        self.normalization(&self.running_mean, &self.rstd(&self.running_var))
    }

    /// (dgamma, dbeta) = (Σ dy · x̂, Σ dy), from the sums of a backward pass.
    pub(crate) fn gradients(&self, sums: Option<PairSums<T>>, cache: &BatchNorm2dCache<T>) -> BatchNorm2dGrads<T> {
        let zeros = || vec![T::zero(); self.gamma.len()];
        let (centred, plain) = sums.unwrap_or_else(|| (zeros(), zeros()));
        // Σ dy · x̂ = rstd · Σ dy · (x − mean)
        BatchNorm2dGrads { gamma: Array1::from(centred) * &cache.rstd, beta: Array1::from(plain) }
    }

    /// The map (dy, x) ↦ dx of a training pass: dx = gamma · rstd · (dy − dbeta/m − x̂ · dgamma/m).
    pub(crate) fn pullback(&self, grads: &BatchNorm2dGrads<T>, cache: &BatchNorm2dCache<T>) -> Pullback<T> {
        let run = Run::of(self.gamma.len());
        let m = T::of_usize(cache.x.len() / self.gamma.len());
        // x̂ · dgamma/m = (x − mean) · slope
        let (mean_dy, slope) = (grads.beta.mapv(|sum| sum / m), &grads.gamma * &cache.rstd / m);
        let [scales, means_dy, means, slopes] =
            [&(&self.gamma * &cache.rstd), &mean_dy, &cache.mean, &slope].map(|constants| run.repeat(constants));
        Pullback { run, scales, means_dy, means, slopes }
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
        let dy = contiguous(dy);
        let gather = Gather::new(cache.x.dim());
        let run = Run::of(self.gamma.len());
        let means = run.repeat(&cache.mean);
        let arrays = [dy.as_slice().expect("contiguous"), cache.x.as_slice().expect("contiguous")];
        (0..gather.leaves.count()).into_par_iter().for_each(|leaf| {
            let [dy, x] = arrays.map(|array| &array[gather.leaves.range(leaf)]);
            gather.put(leaf, pair_sums(run, dy, x, &means));
        });
        let grads = self.gradients(gather.total(&add_pairs), cache);

        let mut dx = dirty(dy.len());
        match cache.mode {
            Mode::Eval => {
                let scales = run.repeat(&(&self.gamma * &cache.rstd));
                run.for_each(&mut dx, arrays, |dx, [dy, _]| {
                    for ((dx, &dy), &scale) in dx.iter_mut().zip(dy).zip(&scales) {
                        *dx = scale * dy;
                    }
                });
            }
            Mode::Train => {
                let pullback = self.pullback(&grads, cache);
                run.for_each(&mut dx, arrays, |dx, [dy, x]| pullback.apply(dy, x, dx));
            }
        }
        let dx = Array4::from_shape_vec(cache.x.dim(), dx).expect("the length of x").into_shared();
        Ok((dx, grads))
    }

    /// running ← (1 − momentum) running + momentum · batch, for the batch of a training forward pass; nothing for one in
    /// evaluation.
    pub fn update_running_statistics(&mut self, cache: &BatchNorm2dCache<T>) {
        if cache.mode == Mode::Eval {
            return;
        }
        self.move_running_statistics(&cache.mean, &cache.batch_var, cache.x.len() / self.gamma.len());
    }

    /// The same for the mean and the biased variance of a batch of `m` values per channel.
    pub(crate) fn move_running_statistics(&mut self, mean: &Array1<T>, var: &Array1<T>, m: usize) {
        let m = T::of_usize(m);
        let bessel = match self.running_variance {
            RunningVariance::Unbiased => m / (m - T::one()),
            RunningVariance::Biased => T::one(),
        };
        let (keep, momentum) = (T::one() - self.momentum, self.momentum);
        self.running_mean.zip_mut_with(mean, |running, &mean| *running = keep * *running + momentum * mean);
        self.running_var.zip_mut_with(var, |running, &var| *running = keep * *running + momentum * (var * bessel));
    }
}

/// y = (x − mean) · scale + beta, its constants repeated to a [`Run`].
pub(crate) struct Normalization<T> {
    pub run: Run,
    pub means: Vec<T>,
    scales: Vec<T>,
    betas: Vec<T>,
}

impl<T: Scalar> Normalization<T> {
    /// One run, which begins at a pixel's first channel.
    #[inline(always)]
    pub fn apply(&self, x: &[T], y: &mut [T]) {
        for ((((y, &x), &mean), &scale), &beta) in
            y.iter_mut().zip(x).zip(&self.means).zip(&self.scales).zip(&self.betas)
        {
            *y = (x - mean) * scale + beta;
        }
    }
}

/// dx = scale · (dy − mean_dy − (x − mean) · slope), its constants repeated to a [`Run`].
pub(crate) struct Pullback<T> {
    pub run: Run,
    scales: Vec<T>,
    means_dy: Vec<T>,
    means: Vec<T>,
    slopes: Vec<T>,
}

impl<T: Scalar> Pullback<T> {
    /// One run, which begins at a pixel's first channel.
    #[inline(always)]
    pub fn apply(&self, dy: &[T], x: &[T], dx: &mut [T]) {
        let constants = self.scales.iter().zip(&self.means_dy).zip(&self.means).zip(&self.slopes);
        for (((dx, &dy), &x), (((&scale, &mean_dy), &mean), &slope)) in dx.iter_mut().zip(dy).zip(x).zip(constants) {
            *dx = scale * (dy - mean_dy - (x - mean) * slope);
        }
    }
}

impl<T: Scalar> BatchNorm2dCache<T> {
    /// What was normalised.
    pub(crate) fn x(&self) -> &Activation<T> {
        &self.x
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
