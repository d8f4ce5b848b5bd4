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
//! The forward pass does not do this: it changes nothing, and [`BatchNorm2d::update_running_statistics`] is an explicit
//! step of the training loop.
//!
//! # Backward
//!
//! In evaluation mean and var are constants: `dx = gamma · rstd · dy`. In training each x also changes the mean and the
//! variance with which it is normalised. Write dx̂ = gamma · dy. Through x̂ᵢ = (xᵢ − mean) · rstd:
//!
//! ```text
//! dxᵢ = rstd · dx̂ᵢ                            directly
//!     − rstd · 1/m Σⱼ dx̂ⱼ                     through mean (Σ (x − mean) = 0, so ∂var/∂mean = 0)
//!     − rstd · x̂ᵢ · 1/m Σⱼ dx̂ⱼ x̂ⱼ             through var: d rstd/d xᵢ = −rstd³ (xᵢ − mean)/m = −rstd² x̂ᵢ/m
//! ```
//!
//! With dbeta = Σ dy and dgamma = Σ dy · x̂, two sums suffice:
//!
//! ```text
//! dx = gamma · rstd · (dy − dbeta/m − x̂ · dgamma/m)
//! ```
//!
//! In words: dx is dy without its components along the constant and along x̂, then scaled. (Of the second component a
//! fraction of eps/(var + eps) remains.) So a check with dy = 1 proves nothing: that is exactly the part that is
//! removed.
//!
//! # Groups
//!
//! "Ghost" batch norm (Hoffer, Hubara & Soudry 2017, arXiv 1705.08741, algorithm 1): a training batch is split into groups of
//! consecutive images, each of [`BatchNorm2d::group`] images, and everything above is done for each group by itself, with m =
//! group·H·W. It is another function of the batch: y of an image does not depend on the images of other groups, and a smaller
//! group has noisier statistics. If the images are not a multiple of the group, there are ⌈N / group⌉ groups of nearly equal length.
//!
//! gamma and beta are used by every group, so their gradients are sums over the groups. The running statistics are updated
//! once per batch, with the means over the G groups of the mean and of the (unbiased) variance:
//!
//! ```text
//! dgamma = Σ_g dgamma_g     dbeta = Σ_g dbeta_g     running ← (1 − ρ) running + ρ 1/G Σ_g batch_g
//! ```
//!
//! The paper makes one update after another instead, for each group one, so that they have different weights and move the
//! running statistics further; DistributedDataParallel of PyTorch, where a group is the images of a process, keeps those of one
//! process alone. Evaluation is the same as without groups.
//!
//! # Numerics
//!
//! Mean and variance are computed in two passes over x minus a pivot; `moments` below explains why. Sums over the batch
//! use the fixed tree of [`crate::parallel`]. Backward recomputes x̂ from x, because a multiply-add is cheaper than the
//! memory. NaN and infinities propagate as in the equations.
//!
//! Cost: about 8 operations per element forward, 10 backward; both are memory-bound. Cache: the handle of x, and mean and
//! rstd.
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

use super::{Activation, channel_sums, check_dy, contiguous};
use crate::parallel::{groups, tree_sum};
use crate::parameters::{Gradients, Parameters, Role, join};
use crate::{Error, Result, Scalar};
use ndarray::{Array1, ArrayViewD, ArrayViewMutD, Axis, concatenate, s};
use std::num::NonZeroUsize;
use std::ops::Range;

/// Whether a pass trains (batch statistics) or evaluates (running statistics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Normalise with the statistics of this batch.
    Train,
    /// Normalise with the running statistics.
    Eval,
}

/// Which batch variance updates the running variance.
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
    /// Added to the variance before the square root.
    pub eps: T,
    /// Weight of the new value in the running statistics.
    pub momentum: T,
    /// Which batch variance updates the running variance.
    pub running_variance: RunningVariance,
    /// Images that are normalised together in training: [groups](self#groups). `None`: all images of the batch.
    pub group: Option<NonZeroUsize>,
}

/// What [`BatchNorm2d::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct BatchNorm2dCache<T> {
    x: Activation<T>,
    mode: Mode,
    /// The statistics of each group; one, if there are no groups.
    pub groups: Vec<GroupStatistics<T>>,
}

/// The statistics with which a group of images was normalised.
#[derive(Clone, Debug)]
pub struct GroupStatistics<T> {
    /// The images of the group.
    pub images: Range<usize>,
    /// The mean with which x was normalised `(C)`.
    pub mean: Array1<T>,
    /// The variance with which x was normalised `(C)`: the biased variance of the group, or the running variance.
    pub var: Array1<T>,
    /// 1/√(var + eps) `(C)`.
    pub rstd: Array1<T>,
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
    /// gamma 1, beta 0, running mean 0, running variance 1, eps 1e-5, momentum 0.1, no groups: PyTorch's defaults.
    pub fn new(channels: usize) -> Self {
        BatchNorm2d {
            gamma: Array1::ones(channels),
            beta: Array1::zeros(channels),
            running_mean: Array1::zeros(channels),
            running_var: Array1::ones(channels),
            eps: T::of(1e-5),
            momentum: T::of(0.1),
            running_variance: RunningVariance::Unbiased,
            group: None,
        }
    }

    /// Returns y and the cache. Does not change the running statistics.
    ///
    /// # Errors
    /// If the channels do not fit, or if a training batch or a group of it has fewer than two values per channel: every x̂ would
    /// be 0.
    pub fn forward(&self, x: &Activation<T>, mode: Mode) -> Result<(Activation<T>, BatchNorm2dCache<T>)> {
        let (n, h, w, c) = x.dim();
        let groups = match (mode, self.group) {
            (Mode::Train, Some(group)) => groups(0..n, group).collect(),
            _ => std::iter::once(0..n).collect::<Vec<_>>(),
        };
        self.check((groups.iter().map(Range::len).min().unwrap_or(0), h, w, c), mode)?;
        let x = contiguous(x);
        let (y, groups) = groups.into_iter().map(|group| self.forward_group(&x, group, mode)).unzip();
        Ok((join_groups(y), BatchNorm2dCache { x, mode, groups }))
    }

    /// y of the images of a group, and its statistics.
    fn forward_group(
        &self,
        x: &Activation<T>,
        images: Range<usize>,
        mode: Mode,
    ) -> (Activation<T>, GroupStatistics<T>) {
        let x = part(x, &images);
        let (mean, var) = match mode {
            Mode::Train => moments(&x),
            Mode::Eval => (self.running_mean.clone(), self.running_var.clone()),
        };
        let rstd = var.mapv(|var| (var + self.eps).sqrt().recip());
        let x_hat = (x.to_owned() - &mean) * &rstd;
        let y = x_hat * &self.gamma + &self.beta;
        (y.into_shared(), GroupStatistics { images, mean, var, rstd })
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
        let of_groups = cache.groups.iter().map(|group| self.backward_group(&dy, cache, group));
        let (dx, grads): (_, Vec<_>) = of_groups.unzip();
        // gamma and beta were used by every group: their gradients add.
        let grads = tree_sum(grads.len(), &|group| grads[group].clone(), &|a, b| {
            a.gamma += &b.gamma;
            a.beta += &b.beta;
        });
        Ok((join_groups(dx), grads.expect("there is a group")))
    }

    /// dx of the images of a group, and its part of the parameters' gradients.
    fn backward_group(
        &self,
        dy: &Activation<T>,
        BatchNorm2dCache { x, mode, .. }: &BatchNorm2dCache<T>,
        GroupStatistics { images, mean, rstd, .. }: &GroupStatistics<T>,
    ) -> (Activation<T>, BatchNorm2dGrads<T>) {
        let (x, dy) = (&part(x, images), part(dy, images));
        let m = T::of_usize(x.len() / self.gamma.len());
        let x_hat = (x.to_owned() - mean) * rstd;
        let dbeta = channel_sums(&dy);
        let dgamma = channel_sums(&(&dy * &x_hat).into_shared());
        let dx = match mode {
            Mode::Train => (dy.to_owned() - &(&dbeta / m) - x_hat * &(&dgamma / m)) * &(&self.gamma * rstd),
            Mode::Eval => dy.to_owned() * &(&self.gamma * rstd), // mean and var are constants
        };
        (dx.into_shared(), BatchNorm2dGrads { gamma: dgamma, beta: dbeta })
    }

    /// Rejects an x of shape `(N, H, W, C)` whose images, the fewest of a group, cannot be normalised.
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
            let expected = match self.group {
                None => "more than one value per channel in training (N·H·W ≥ 2)",
                Some(_) => "more than one value per channel in every group of images (N·H·W ≥ 2)",
            };
            return Err(Error::shape("batch_norm", "x", expected, &found));
        }
        Ok(())
    }

    /// running ← (1 − momentum) running + momentum · batch, for the batch of a training pass, with groups for the means of their
    /// statistics; does nothing after an evaluation pass.
    pub fn update_running_statistics(&mut self, cache: &BatchNorm2dCache<T>) {
        if cache.mode == Mode::Eval {
            return;
        }
        let pixels = cache.x.len_of(Axis(1)) * cache.x.len_of(Axis(2));
        let of_group = |group: usize| {
            let GroupStatistics { images, mean, var, .. } = &cache.groups[group];
            (mean.clone(), self.unbiased(var, images.len() * pixels))
        };
        let sums = tree_sum(cache.groups.len(), &of_group, &|a, b| {
            a.0 += &b.0;
            a.1 += &b.1;
        });
        let ((mean, var), groups) = (sums.expect("there is a group"), T::of_usize(cache.groups.len()));
        self.move_running_statistics(&(mean / groups), &(var / groups));
    }

    /// The variance with which the running variance is updated, from the biased variance of `m` values per channel.
    pub(crate) fn unbiased(&self, var: &Array1<T>, m: usize) -> Array1<T> {
        let m = T::of_usize(m);
        let bessel = match self.running_variance {
            RunningVariance::Unbiased => m / (m - T::one()),
            RunningVariance::Biased => T::one(),
        };
        var * bessel
    }

    /// Moves the running statistics towards a mean and an [`unbiased`](Self::unbiased) variance.
    pub(crate) fn move_running_statistics(&mut self, mean: &Array1<T>, var: &Array1<T>) {
        let (keep, momentum) = (T::one() - self.momentum, self.momentum);
        self.running_mean.zip_mut_with(mean, |running, &mean| *running = keep * *running + momentum * mean);
        self.running_var.zip_mut_with(var, |running, &var| *running = keep * *running + momentum * var);
    }
}

/// These images of x, without copying them.
fn part<T: Scalar>(x: &Activation<T>, images: &Range<usize>) -> Activation<T> {
    x.clone().slice_move(s![images.clone(), .., .., ..])
}

/// The images of all groups, one after another.
fn join_groups<T: Scalar>(mut groups: Vec<Activation<T>>) -> Activation<T> {
    if groups.len() == 1 {
        return groups.remove(0);
    }
    let views: Vec<_> = groups.iter().map(|group| group.view()).collect();
    concatenate(Axis(0), &views).expect("the images have the same shape").into_shared()
}

/// Mean and biased variance of each channel of `x (N, H, W, C)`.
///
/// Computed on x − pivot, where the pivot is one of the values, so that a mean far from 0 costs no digits; and in two
/// passes: Σ (x − mean)² of values near 0, because E\[x²\] − E\[x\]² would subtract two large numbers that are nearly
/// equal. The second pass subtracts the pivot and the distance of the mean from it one after the other, because their
/// rounded sum, the mean, may be off by more than a small deviation.
fn moments<T: Scalar>(x: &Activation<T>) -> (Array1<T>, Array1<T>) {
    let m = T::of_usize(x.len() / x.dim().3);
    let pivot = x.slice(s![0, 0, 0, ..]).to_owned();
    let from_pivot = (x.to_owned() - &pivot).into_shared();
    let offset = channel_sums(&from_pivot) / m;
    let squares = (from_pivot.to_owned() - &offset).mapv_into(|centred| centred * centred);
    (pivot + &offset, channel_sums(&squares.into_shared()) / m)
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
    use crate::verify::check_layer;
    use ndarray::Array4;

    /// A mean of 10⁴ and a deviation of 10⁻²: E[x²] − E[x]² in f32 would return rounding noise of about 10⁸ · 2⁻²⁴ = 6.
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
            assert!((f64::from(cache.groups[0].var[c]) / exact(c) - 1.0).abs() < tolerance);
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

    /// Verifies the backward pass: every gradient against finite differences in `f64`.
    #[test]
    fn gradients_equal_finite_differences() {
        for report in check_layer("batch_norm", 1).unwrap() {
            assert!(report.passed(), "{report}");
        }
    }
}
