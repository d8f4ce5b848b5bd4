//! One file per layer, forward directly above backward, the equations in the header.
use ndarray::{ArcArray, Ix4};

/// Activations `(N, H, W, C)`: a batch of N images of H x W pixels with C channels, channels last and contiguous.
///
/// Reference-counted: a layer that keeps its input for the backward pass clones the handle, not the numbers.
pub type Activation<T> = ArcArray<T, Ix4>;
