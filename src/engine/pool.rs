//! Pools and the zero-padded shortcut: the passes of the reference with reused arrays.

use super::buffers::Shelf;
use crate::layers::{MaxPool2d, ZeroPadShortcut};
use crate::{Activation, Result};
use ndarray::{Array2, s};
use rayon::prelude::*;

type Dim4 = (usize, usize, usize, usize);

/// What the backward pass of a max pool needs.
#[derive(Clone, Debug)]
pub(super) struct MaxPoolCache {
    x: Dim4,
    y: Dim4,
    /// For each value of y the pixel h·W + w of its image from which it was taken.
    pub argmax: Vec<u32>,
}

/// y, the largest value of every window: of equal maxima the first, of several NaN the last.
pub(super) fn max_pool(
    shelf: &Shelf,
    pool: &MaxPool2d,
    x: &Activation<f32>,
) -> Result<(Activation<f32>, MaxPoolCache)> {
    let windows = pool.windows(x.dim())?;
    let (_, h, w, c) = x.dim();
    let (mut y, mut argmax) = (shelf.dirty_array(windows.y), vec![0u32; windows.y.0 * windows.image_out() * c]);
    let (image_in, image_out) = ((h * w * c).max(1), (windows.image_out() * c).max(1));
    let images = x.as_slice().expect("contiguous").par_chunks(image_in);
    let outputs = y.as_slice_mut().expect("contiguous").par_chunks_mut(image_out);
    outputs.zip(argmax.par_chunks_mut(image_out)).zip(images).for_each(|((y, argmax), x)| {
        let cells = y.chunks_exact_mut(c).zip(argmax.chunks_exact_mut(c));
        for ((y, argmax), window) in cells.zip(windows.of_an_image()) {
            y.fill(f32::NEG_INFINITY);
            let mut first = true;
            for pixel in window.pixels(w) {
                let values = &x[pixel * c..(pixel + 1) * c];
                for ((y, argmax), &value) in y.iter_mut().zip(argmax.iter_mut()).zip(values) {
                    // `first`: a window of only −∞ has a position, too.
                    if first || value > *y || value.is_nan() {
                        *y = value;
                        *argmax = pixel as u32;
                    }
                }
                first = false;
            }
        }
    });
    Ok((y.into_shared(), MaxPoolCache { x: x.dim(), y: windows.y, argmax }))
}

/// dx: each dy to the pixel that was the maximum.
pub(super) fn max_pool_backward(shelf: &Shelf, dy: &Activation<f32>, cache: &MaxPoolCache) -> Activation<f32> {
    let (_, h_out, w_out, c) = cache.y;
    let mut dx = shelf.dirty_array(cache.x);
    let (image_in, image_out) = ((cache.x.1 * cache.x.2 * c).max(1), (h_out * w_out * c).max(1));
    let gradients = dy.as_slice().expect("contiguous").par_chunks(image_out);
    let images = dx.as_slice_mut().expect("contiguous").par_chunks_mut(image_in);
    images.zip(gradients).zip(cache.argmax.par_chunks(image_out)).for_each(|((dx, dy), argmax)| {
        dx.fill(0.0);
        for (dy, argmax) in dy.chunks_exact(c).zip(argmax.chunks_exact(c)) {
            for (channel, (&dy, &pixel)) in dy.iter().zip(argmax).enumerate() {
                dx[pixel as usize * c + channel] += dy;
            }
        }
    });
    dx.into_shared()
}

/// dx of the global average: dy / (H·W) at every pixel.
pub(super) fn global_average_backward(shelf: &Shelf, dy: &Array2<f32>, x: Dim4) -> Activation<f32> {
    let share = dy / (x.1 * x.2) as f32;
    let mut dx = shelf.dirty_array(x);
    for (mut dx, share) in dx.outer_iter_mut().zip(share.outer_iter()) {
        dx.assign(&share);
    }
    dx.into_shared()
}

/// y of option A: every stride-th pixel, with channels of zeros on both sides.
pub(super) fn zero_pad(shelf: &Shelf, layer: &ZeroPadShortcut, x: &Activation<f32>) -> Result<Activation<f32>> {
    let step = layer.stride as isize;
    let mut y = shelf.dirty_array(layer.output_shape(x.dim())?);
    y.fill(0.0);
    y.slice_mut(s![.., .., .., layer.kept(x.dim().3)]).assign(&x.slice(s![.., ..;step, ..;step, ..]));
    Ok(y.into_shared())
}

/// dx of option A: dy at the kept pixels and channels, 0 elsewhere.
pub(super) fn zero_pad_backward(
    shelf: &Shelf,
    layer: &ZeroPadShortcut,
    dy: &Activation<f32>,
    x: Dim4,
) -> Activation<f32> {
    let step = layer.stride as isize;
    let mut dx = shelf.dirty_array(x);
    dx.fill(0.0);
    dx.slice_mut(s![.., ..;step, ..;step, ..]).assign(&dy.slice(s![.., .., .., layer.kept(x.3)]));
    dx.into_shared()
}
