//! Max pooling, average pooling and global average pooling, with PyTorch's semantics.
//!
//! ```text
//! x (N, H, W, C)    y (N, H_out, W_out, C)
//! window of (ho, wo): pixels (ho·stride + p·dilation − padding, wo·stride + q·dilation − padding), 0 ≤ p < kh, 0 ≤ q < kw
//!
//! max:      y = max of the window's pixels inside the image          dx[the pixel that was the maximum] += dy
//! average:  y = Σ of the window's pixels / divisor                   dx[each pixel of the window]      += dy / divisor
//! global:   y (N, C) = 1/(H·W) Σ x                                   dx[every pixel]                    = dy / (H·W)
//! ```
//!
//! Sizes: H_out = ⌊(H + 2·padding − dilation·(kh − 1) − 1)/stride⌋ + 1. With `ceil_mode` the quotient is rounded up, so
//! that a remainder smaller than a stride gets a window too; but a window that would start in the padding after the
//! image is dropped, as in PyTorch. Padding is at most half the kernel, as in PyTorch. All taps of a dilated window can
//! still be outside the image; such a window is rejected (PyTorch returns −∞, and a gradient for a pixel outside the
//! window).
//!
//! Conventions, all PyTorch's:
//! - ties: the first of several equal maxima in row order receives the gradient;
//! - NaN: a window with a NaN yields NaN, and the last NaN of the window receives the gradient;
//! - `count_include_pad` (the default): the divisor counts padding, but not the part of a `ceil_mode` window beyond the
//!   padding; without it the divisor counts pixels of the image only.
//!
//! Cost: kh·kw comparisons or additions per value. Cache: the position of each maximum (4 bytes per value); for the
//! averages only shapes.
//!
//! ```
//! use ndarray::Array4;
//! use resnet_by_hand::layers::{AvgPool2d, MaxPool2d};
//! let x = Array4::from_shape_vec((1, 2, 3, 1), vec![1.0f64, 5.0, 5.0, 4.0, 2.0, 3.0])?.into_shared();
//! let dy = Array4::<f64>::ones((1, 1, 2, 1)).into_shared();
//! let (y, cache) = MaxPool2d::new([2, 2], [1, 1], [0, 0]).forward(&x)?;
//! assert_eq!(y.as_slice().unwrap(), [5.0, 5.0]);
//! let dx = MaxPool2d::new([2, 2], [1, 1], [0, 0]).backward(&dy, &cache)?;
//! assert_eq!(dx.as_slice().unwrap(), [0.0, 2.0, 0.0, 0.0, 0.0, 0.0]); // the tie goes to the first
//! let (y, _) = AvgPool2d::new([2, 2], [1, 1], [0, 0]).forward(&x)?;
//! assert_eq!(y.as_slice().unwrap(), [3.0, 3.75]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::conv2d::window_count;
use super::{Activation, check_dy, contiguous};
use crate::parallel::add_slices;
use crate::{Error, Result, Scalar};
use ndarray::{Array2, Array4};
use rayon::prelude::*;

type Dim4 = (usize, usize, usize, usize);

/// Max pooling; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    /// Window `[height, width]`.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// −∞ added on each side; at most half the kernel.
    pub padding: [usize; 2],
    /// Step between a window's pixels.
    pub dilation: [usize; 2],
    /// Round sizes up instead of down.
    pub ceil_mode: bool,
}

/// What [`MaxPool2d::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct MaxPool2dCache {
    x: Dim4,
    y: Dim4,
    /// For each value of y the pixel h·W + w of its image from which it was taken.
    argmax: Vec<u32>,
}

impl MaxPool2dCache {
    /// For each value of y, in memory order (N, H_out, W_out, C), the pixel h·W + w of its image from which it was taken.
    pub fn argmax(&self) -> &[u32] {
        &self.argmax
    }
}

impl MaxPool2d {
    /// Dilation 1, sizes rounded down.
    pub fn new(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Self {
        MaxPool2d { kernel, stride, padding, dilation: [1, 1], ceil_mode: false }
    }

    /// Returns y and the cache.
    ///
    /// # Errors
    /// If the window does not fit the image, the padding exceeds half the kernel, or a dilated window has no tap inside
    /// the image.
    pub fn forward<T: Scalar>(&self, x: &Activation<T>) -> Result<(Activation<T>, MaxPool2dCache)> {
        let (x, windows) = (contiguous(x), self.windows(x.dim())?);
        let (_, h, w, c) = x.dim();
        if h.checked_mul(w).is_none_or(|pixels| pixels > u32::MAX as usize) {
            return Err(Error::shape("max_pool", "x", "fewer than 2³² pixels per image", x.shape()));
        }
        let mut y = Array4::zeros(windows.y);
        let mut argmax = vec![0u32; y.len()];
        let (image_in, image_out) = ((h * w * c).max(1), (windows.image_out() * c).max(1));
        let images = x.as_slice().expect("contiguous").par_chunks(image_in);
        let outputs = y.as_slice_mut().expect("contiguous").par_chunks_mut(image_out);
        outputs.zip(argmax.par_chunks_mut(image_out)).zip(images).for_each(|((y, argmax), x)| {
            let cells = y.chunks_exact_mut(c).zip(argmax.chunks_exact_mut(c));
            for ((y, argmax), window) in cells.zip(windows.of_an_image()) {
                y.fill(T::neg_infinity());
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
        Ok((y.into_shared(), MaxPool2dCache { x: x.dim(), y: windows.y, argmax }))
    }

    /// dx for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward<T: Scalar>(&self, dy: &Activation<T>, cache: &MaxPool2dCache) -> Result<Activation<T>> {
        let (n, h_out, w_out, c) = cache.y;
        check_dy("max_pool", dy.shape(), &[n, h_out, w_out, c])?;
        let dy = contiguous(dy);
        let mut dx = Array4::zeros(cache.x);
        let (image_in, image_out) = ((cache.x.1 * cache.x.2 * c).max(1), (h_out * w_out * c).max(1));
        let gradients = dy.as_slice().expect("contiguous").par_chunks(image_out);
        let images = dx.as_slice_mut().expect("contiguous").par_chunks_mut(image_in);
        images.zip(gradients).zip(cache.argmax.par_chunks(image_out)).for_each(|((dx, dy), argmax)| {
            for (dy, argmax) in dy.chunks_exact(c).zip(argmax.chunks_exact(c)) {
                for (channel, (&dy, &pixel)) in dy.iter().zip(argmax).enumerate() {
                    dx[pixel as usize * c + channel] += dy;
                }
            }
        });
        Ok(dx.into_shared())
    }

    /// Shape of y for an x of shape `(N, H, W, C)`.
    ///
    /// # Errors
    /// As [`MaxPool2d::forward`].
    pub fn output_shape(&self, x: &[usize; 4]) -> Result<[usize; 4]> {
        let y = self.windows((x[0], x[1], x[2], x[3]))?.y;
        Ok([y.0, y.1, y.2, y.3])
    }

    pub(crate) fn windows(&self, x: Dim4) -> Result<Windows> {
        let MaxPool2d { kernel, stride, padding, dilation, ceil_mode } = *self;
        Windows::new("max_pool", x, kernel, stride, padding, dilation, ceil_mode)
    }
}

/// Average pooling; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvgPool2d {
    /// Window `[height, width]`.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Zeros added on each side; at most half the kernel.
    pub padding: [usize; 2],
    /// Round sizes up instead of down.
    pub ceil_mode: bool,
    /// Whether the divisor includes padding.
    pub count_include_pad: bool,
    /// A divisor that replaces the count.
    pub divisor_override: Option<usize>,
}

/// What [`AvgPool2d::backward`] needs from the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct AvgPool2dCache {
    x: Dim4,
}

impl AvgPool2d {
    /// Sizes rounded down, padding counted.
    pub fn new(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Self {
        AvgPool2d { kernel, stride, padding, ceil_mode: false, count_include_pad: true, divisor_override: None }
    }

    /// Returns y and the cache.
    ///
    /// # Errors
    /// If the window does not fit the image, the padding exceeds half the kernel, or `divisor_override` is 0.
    pub fn forward<T: Scalar>(&self, x: &Activation<T>) -> Result<(Activation<T>, AvgPool2dCache)> {
        let (x, windows) = (contiguous(x), self.windows(x.dim())?);
        let (_, h, w, c) = x.dim();
        let mut y = Array4::zeros(windows.y);
        let (image_in, image_out) = ((h * w * c).max(1), (windows.image_out() * c).max(1));
        let images = x.as_slice().expect("contiguous").par_chunks(image_in);
        y.as_slice_mut().expect("contiguous").par_chunks_mut(image_out).zip(images).for_each(|(y, x)| {
            for (y, window) in y.chunks_exact_mut(c).zip(windows.of_an_image()) {
                for pixel in window.pixels(w) {
                    add_slices(y, &x[pixel * c..(pixel + 1) * c]);
                }
                let divisor = self.divisor(&window);
                y.iter_mut().for_each(|y| *y /= divisor);
            }
        });
        Ok((y.into_shared(), AvgPool2dCache { x: x.dim() }))
    }

    /// dx for `dy`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward<T: Scalar>(&self, dy: &Activation<T>, cache: &AvgPool2dCache) -> Result<Activation<T>> {
        let windows = self.windows(cache.x)?;
        let ((_, h, w, c), (n, h_out, w_out, _)) = (cache.x, windows.y);
        check_dy("avg_pool", dy.shape(), &[n, h_out, w_out, c])?;
        let dy = contiguous(dy);
        let mut dx = Array4::zeros(cache.x);
        let (image_in, image_out) = ((h * w * c).max(1), (windows.image_out() * c).max(1));
        let gradients = dy.as_slice().expect("contiguous").par_chunks(image_out);
        dx.as_slice_mut().expect("contiguous").par_chunks_mut(image_in).zip(gradients).for_each(|(dx, dy)| {
            for (dy, window) in dy.chunks_exact(c).zip(windows.of_an_image()) {
                let divisor = self.divisor(&window);
                for pixel in window.pixels(w) {
                    for (dx, &dy) in dx[pixel * c..(pixel + 1) * c].iter_mut().zip(dy) {
                        *dx += dy / divisor;
                    }
                }
            }
        });
        Ok(dx.into_shared())
    }

    fn divisor<T: Scalar>(&self, window: &Window) -> T {
        T::of_usize(match (self.divisor_override, self.count_include_pad) {
            (Some(divisor), _) => divisor,
            (None, true) => window.padded_area,
            (None, false) => window.pixels(0).count(),
        })
    }

    fn windows(&self, x: Dim4) -> Result<Windows> {
        if self.divisor_override == Some(0) {
            return Err(Error::argument("avg_pool", "divisor_override must not be 0"));
        }
        Windows::new("avg_pool", x, self.kernel, self.stride, self.padding, [1, 1], self.ceil_mode)
    }
}

/// The mean over all pixels, `(N, H, W, C)` to `(N, C)`; see the [module documentation](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalAvgPool;

/// What [`GlobalAvgPool::backward`] needs from the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct GlobalAvgPoolCache {
    x: Dim4,
}

impl GlobalAvgPool {
    /// Returns y and the cache.
    ///
    /// # Errors
    /// If the images have no pixels.
    pub fn forward<T: Scalar>(&self, x: &Activation<T>) -> Result<(Array2<T>, GlobalAvgPoolCache)> {
        let (n, h, w, c) = x.dim();
        if h * w * c == 0 {
            return Err(Error::shape("global_avg_pool", "x", "at least one pixel and one channel", x.shape()));
        }
        let x = contiguous(x);
        let mut y = Array2::zeros((n, c));
        for (y, x) in y.outer_iter_mut().zip(x.outer_iter()) {
            let y = y.into_slice().expect("contiguous");
            x.to_slice().expect("contiguous").chunks_exact(c).for_each(|pixel| add_slices(y, pixel));
        }
        y /= T::of_usize(h * w);
        Ok((y, GlobalAvgPoolCache { x: (n, h, w, c) }))
    }

    /// dx for `dy (N, C)`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward<T: Scalar>(&self, dy: &Array2<T>, cache: &GlobalAvgPoolCache) -> Result<Activation<T>> {
        let (n, h, w, c) = cache.x;
        check_dy("global_avg_pool", dy.shape(), &[n, c])?;
        let share = dy / T::of_usize(h * w);
        let mut dx = Array4::zeros((n, h, w, c));
        for (mut dx, share) in dx.outer_iter_mut().zip(share.outer_iter()) {
            dx.assign(&share);
        }
        Ok(dx.into_shared())
    }
}

/// All windows of a pooling layer over one image.
pub(crate) struct Windows {
    x: Dim4,
    pub y: Dim4,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl Windows {
    fn new(
        op: &'static str,
        x: Dim4,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
        ceil_mode: bool,
    ) -> Result<Self> {
        if x.1 == 0 || x.2 == 0 || x.3 == 0 {
            return Err(Error::shape(op, "x", "at least one pixel and one channel", &[x.0, x.1, x.2, x.3]));
        }
        if kernel[0].checked_mul(kernel[1]).is_none() {
            return Err(Error::argument(op, format!("a window of {} x {} pixels overflows", kernel[0], kernel[1])));
        }
        let size = |axis: usize, input: usize| {
            let (kernel, stride, padding, dilation) = (kernel[axis], stride[axis], padding[axis], dilation[axis]);
            if padding > kernel / 2 {
                let message = format!("padding must be at most half the kernel size {kernel}, got {padding}");
                return Err(Error::argument(op, message));
            }
            let floor = match window_count(op, input, kernel, stride, padding, dilation) {
                Ok(floor) => floor,
                Err(error) => {
                    let extent = kernel.checked_sub(1).and_then(|taps| taps.checked_mul(dilation));
                    // Rounded up there is one window, if less than a stride is missing for it.
                    let one = ceil_mode && extent.is_some_and(|extent| extent + 1 < input + 2 * padding + stride);
                    return if one && dilation > 0 { Ok(1) } else { Err(error) };
                }
            };
            let leftover = (input + 2 * padding - dilation * (kernel - 1) - 1) % stride;
            // One more window for the leftover, if it starts before the padding after the image.
            let one_more = ceil_mode && leftover > 0 && floor * stride < input + padding;
            Ok(floor + usize::from(one_more))
        };
        let y = (x.0, size(0, x.1)?, size(1, x.2)?, x.3);
        let windows = Windows { x, y, kernel, stride, padding, dilation };
        for (axis, size, count) in [(0, x.1, y.1), (1, x.2, y.2)] {
            let misses = |&o: &usize| {
                let ((first, end), _) = windows.along(axis, o, size);
                first >= end
            };
            if let Some(o) = (0..count).find(misses) {
                let (kernel, padding, dilation) = (kernel[axis], padding[axis], dilation[axis]);
                let window = format!("window {o} of kernel {kernel}, dilation {dilation}, padding {padding}");
                return Err(Error::argument(
                    op,
                    format!("{window} has no tap inside the {size} pixels of axis {axis}"),
                ));
            }
        }
        Ok(windows)
    }

    pub fn image_out(&self) -> usize {
        self.y.1 * self.y.2
    }

    /// The windows of one image, row by row.
    pub fn of_an_image(&self) -> impl Iterator<Item = Window> + '_ {
        (0..self.y.1).flat_map(move |ho| {
            let (rows, height) = self.along(0, ho, self.x.1);
            (0..self.y.2).map(move |wo| {
                let (columns, width) = self.along(1, wo, self.x.2);
                Window { rows, columns, dilation: self.dilation, padded_area: height * width }
            })
        })
    }

    /// Along one axis of length `size`: the first pixel of window `o` inside the image and one after its last, and the
    /// window's length within the padded image.
    fn along(&self, axis: usize, o: usize, size: usize) -> ((usize, usize), usize) {
        let (start, padding, dilation) = (o * self.stride[axis], self.padding[axis], self.dilation[axis]);
        let end = (start + dilation * (self.kernel[axis] - 1) + 1).min(size + 2 * padding);
        // In padded coordinates the image begins at `padding`; skip the taps before it.
        let skipped = padding.saturating_sub(start).div_ceil(dilation) * dilation;
        let first = (start + skipped).saturating_sub(padding);
        ((first, end.saturating_sub(padding).min(size)), end - start)
    }
}

/// One window, clipped to the image.
pub(crate) struct Window {
    rows: (usize, usize),
    columns: (usize, usize),
    dilation: [usize; 2],
    /// Pixels of the window inside the padded image (dilation 1).
    padded_area: usize,
}

impl Window {
    /// The window's pixels h·width + w inside the image, in row order.
    pub fn pixels(&self, width: usize) -> impl Iterator<Item = usize> + '_ {
        let rows = (self.rows.0..self.rows.1).step_by(self.dilation[0]);
        rows.flat_map(move |h| (self.columns.0..self.columns.1).step_by(self.dilation[1]).map(move |w| h * width + w))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::check_layer;

    fn row(values: &[f64]) -> Activation<f64> {
        Array4::from_shape_vec((1, 1, values.len(), 1), values.to_vec()).unwrap().into_shared()
    }

    fn max_row(kernel: usize, stride: usize, padding: usize) -> MaxPool2d {
        MaxPool2d::new([1, kernel], [1, stride], [0, padding])
    }

    #[test]
    fn the_last_nan_of_a_window_wins() {
        let x = row(&[1.0, f64::NAN, 7.0, f64::NAN, 9.0]);
        let (y, cache) = max_row(5, 1, 0).forward(&x).unwrap();
        assert!(y[[0, 0, 0, 0]].is_nan());
        assert_eq!(cache.argmax(), [3]);
    }

    #[test]
    fn a_window_of_minus_infinity_has_its_first_position() {
        let (y, cache) = max_row(2, 1, 1).forward(&row(&[f64::NEG_INFINITY; 3])).unwrap();
        assert_eq!(y, row(&[f64::NEG_INFINITY; 4]));
        assert_eq!(cache.argmax(), [0, 0, 1, 2]);
    }

    #[test]
    fn ceil_mode_adds_a_window_for_the_leftover_but_not_one_in_the_padding() {
        let x = row(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let ceil = |kernel, stride, padding| MaxPool2d { ceil_mode: true, ..max_row(kernel, stride, padding) };
        assert_eq!(max_row(3, 2, 0).forward(&x).unwrap().0, row(&[3.0, 5.0]));
        assert_eq!(ceil(3, 2, 0).forward(&x).unwrap().0, row(&[3.0, 5.0, 6.0]));
        // 6 + 2 - 2 = 6 = 1 * 4 + 2: a second window would start at 8 - 1 = 7, after the image.
        assert_eq!(ceil(2, 7, 1).forward(&x).unwrap().0, row(&[1.0]));
    }

    /// As PyTorch: one window, clipped to the image, if less than a stride is missing.
    #[test]
    fn ceil_mode_allows_a_window_larger_than_the_image() {
        let x = row(&[1.0, 3.0, 2.0]);
        let max = |kernel, stride| MaxPool2d { ceil_mode: true, ..max_row(kernel, stride, 0) };
        let (y, cache) = max(4, 4).forward(&x).unwrap();
        assert_eq!((y, cache.argmax()), (row(&[3.0]), &[1u32][..]));
        assert_eq!(max(6, 4).forward(&x).unwrap().0, row(&[3.0]));
        assert!(max(7, 4).forward(&x).is_err() && max_row(4, 4, 0).forward(&x).is_err());
        let average = AvgPool2d { ceil_mode: true, ..AvgPool2d::new([1, 4], [1, 4], [0, 0]) };
        assert_eq!(average.forward(&x).unwrap().0, row(&[2.0])); // divided by the 3 pixels in the image
    }

    #[test]
    fn the_average_divides_by_what_it_is_told_to() {
        let x = row(&[2.0, 4.0, 6.0]);
        let pool = AvgPool2d::new([1, 2], [1, 2], [0, 1]);
        assert_eq!(pool.forward(&x).unwrap().0, row(&[1.0, 5.0]));
        let inside = AvgPool2d { count_include_pad: false, ..pool };
        assert_eq!(inside.forward(&x).unwrap().0, row(&[2.0, 5.0]));
        let divided = AvgPool2d { divisor_override: Some(4), ..pool };
        assert_eq!(divided.forward(&x).unwrap().0, row(&[0.5, 2.5]));
        // The third window has one pixel of right padding and extends one pixel beyond it. PyTorch divides by its
        // pixels inside the padded image.
        let ceil = AvgPool2d { kernel: [1, 3], padding: [0, 1], stride: [1, 3], ceil_mode: true, ..pool };
        assert_eq!(ceil.forward(&x).unwrap().0, row(&[2.0, 3.0]));
    }

    #[test]
    fn wrong_windows_are_refused() {
        let x = row(&[1.0, 2.0]);
        let message = |pool: MaxPool2d| pool.forward(&x).unwrap_err().to_string();
        assert!(message(max_row(2, 1, 2)).contains("at most half the kernel size 2, got 2"));
        assert!(message(max_row(3, 1, 0)).contains("does not fit"));
        assert!(message(max_row(2, 0, 0)).contains("at least 1"));
        // Taps at −1 and 2 of two pixels: none is inside the image.
        let beside = MaxPool2d { dilation: [1, 3], ..max_row(2, 1, 1) };
        assert!(message(beside).contains("window 0 of kernel 2, dilation 3, padding 1 has no tap inside the 2 pixels"));
        let empty = Array4::<f64>::zeros((1, 0, 2, 1)).into_shared();
        assert!(MaxPool2d::new([2, 1], [1, 1], [1, 0]).forward(&empty).unwrap_err().to_string().contains("one pixel"));
        assert!(AvgPool2d { divisor_override: Some(0), ..AvgPool2d::new([1, 1], [1, 1], [0, 0]) }.forward(&x).is_err());
    }

    /// Verifies the backward pass: every gradient against finite differences in `f64`.
    #[test]
    fn gradients_equal_finite_differences() {
        for layer in ["max_pool", "avg_pool", "global_avg_pool"] {
            for report in check_layer(layer, 1).unwrap() {
                assert!(report.passed(), "{report}");
            }
        }
    }
}
