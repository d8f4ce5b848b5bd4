//! The shortcut S(x) of a residual block y = relu(F(x) + S(x)).
//!
//! If x and F(x) have the same shape, S is the identity and costs nothing. Its derivative is 1, so the gradient reaches
//! the first layers of a deep network undiminished. If the shape changes (He et al. 2015, section 3.3):
//!
//! - option A: subsample and pad channels with zeros, no parameters ([`ZeroPadShortcut`]);
//! - option B: a 1x1 convolution with the stride and a batch norm, the *projection*;
//! - option C: projections everywhere, even where the shape does not change;
//! - a plain network has no shortcut: S(x) = 0.

use super::unit::{Unit, UnitCache, UnitGrads};
use crate::layers::zero_pad_shortcut::ZeroPadShortcutCache;
use crate::layers::{Mode, ZeroPadShortcut};
use crate::{Activation, Result, Scalar};

/// S(x); see the [module documentation](self).
#[derive(Clone, Debug)]
pub enum Shortcut<T> {
    /// S(x) = 0: a plain network.
    Absent,
    /// S(x) = x.
    Identity,
    /// Option A.
    ZeroPad(ZeroPadShortcut),
    /// Options B and C: `downsample.0`, `downsample.1` in the state dict.
    Projection(Box<Unit<T>>),
}

/// The gradient with respect to x through S (`None` for 0), and the gradients of a projection's parameters.
pub type ShortcutGradients<T> = (Option<Activation<T>>, Option<UnitGrads<T>>);

/// What [`Shortcut::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub enum ShortcutCache<T> {
    /// Nothing.
    Trivial,
    /// The cache of option A.
    ZeroPad(ZeroPadShortcutCache),
    /// The cache of a projection.
    Projection(Box<UnitCache<T>>),
}

impl<T: Scalar> Shortcut<T> {
    /// Returns S(x) (`None` for 0) and the cache.
    ///
    /// # Errors
    /// The errors of its layers.
    pub fn forward(&self, x: &Activation<T>, mode: Mode) -> Result<(Option<Activation<T>>, ShortcutCache<T>)> {
        Ok(match self {
            Shortcut::Absent => (None, ShortcutCache::Trivial),
            Shortcut::Identity => (Some(x.clone()), ShortcutCache::Trivial),
            Shortcut::ZeroPad(layer) => {
                let (y, cache) = layer.forward(x)?;
                (Some(y), ShortcutCache::ZeroPad(cache))
            }
            Shortcut::Projection(unit) => {
                let (y, cache) = unit.forward(x, mode)?;
                (Some(y), ShortcutCache::Projection(Box::new(cache)))
            }
        })
    }

    /// Returns the gradient with respect to x through S (`None` for 0), and the projection's gradients.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of S(x).
    pub fn backward(&self, dy: &Activation<T>, cache: &ShortcutCache<T>) -> Result<ShortcutGradients<T>> {
        Ok(match (self, cache) {
            (Shortcut::Absent, _) => (None, None),
            (Shortcut::ZeroPad(layer), ShortcutCache::ZeroPad(cache)) => (Some(layer.backward(dy, cache)?), None),
            (Shortcut::Projection(unit), ShortcutCache::Projection(cache)) => {
                let (dx, grads) = unit.backward(dy, cache)?;
                (Some(dx), Some(grads))
            }
            // dS/dx = 1: the gradient is not changed.
            _ => (Some(dy.clone()), None),
        })
    }

    /// Updates a projection's running statistics with those of the batch of a training pass.
    pub fn update_running_statistics(&mut self, cache: &ShortcutCache<T>) {
        if let (Shortcut::Projection(unit), ShortcutCache::Projection(cache)) = (self, cache) {
            unit.update_running_statistics(cache);
        }
    }
}
