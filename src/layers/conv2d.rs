//! Two-dimensional convolution (cross-correlation, as in every deep-learning framework).
//!
//! ```text
//! x      (N, H, W, C_in)           weight (C_out, C_in/groups, kh, kw)      bias (C_out)
//! y      (N, H_out, W_out, C_out)  H_out = ⌊(H + 2·padding − dilation·(kh − 1) − 1) / stride⌋ + 1
//!
//! y[n,ho,wo,o]      = bias[o] + Σ_{i,p,q} weight[o,i,p,q] · x[n, ho·stride + p·dilation − padding,
//!                                                                wo·stride + q·dilation − padding, g(o) + i]
//! ```
//!
//! where x is zero outside the image and output channel o of group ⌊o·groups/C_out⌋ reads the C_in/groups input
//! channels that start at g(o) = ⌊o·groups/C_out⌋·C_in/groups. `groups = C_in` is the depthwise convolution. Stride,
//! padding and dilation are `[vertical, horizontal]`.
//!
//! # Backward
//!
//! y is linear in x, in weight and in bias, so each gradient is the adjoint of a linear map: read the sum above as a
//! function of each variable in turn. Every term `weight[o,i,p,q] · x[..]` of `y[n,ho,wo,o]` contributes
//!
//! ```text
//! dx[n, ho·stride + p·dilation − padding, .., g(o) + i] += weight[o,i,p,q] · dy[n,ho,wo,o]
//! dweight[o,i,p,q]                                       += x[n, ho·stride + ..] · dy[n,ho,wo,o]
//! dbias[o]                                                += dy[n,ho,wo,o]
//! ```
//!
//! # As matrices
//!
//! Written as matrices (Chellapilla et al. 2006), where `cols (P, K)` contains for each of the P = N·H_out·W_out output
//! pixels the K = kh·kw·C_in/groups inputs under the kernel, and `W (K, C_out)` is the weight with its axes reordered:
//!
//! ```text
//! y = cols · W          dW = colsᵀ · dy          dcols = dy · Wᵀ,   dx = col2im(dcols)
//! ```
//!
//! `cols` is a linear function of x and col2im is its transpose: im2col copies one pixel to many places, col2im adds
//! those places up into the one pixel.
//!
//! [`Conv2d`] computes these products, a few images at a time, in parallel. [`direct`] is the definition above in seven
//! loops, against which [`Conv2d`] is tested. With groups the products are computed group by group.
//!
//! Cost: N·H_out·W_out·C_out·K multiply-adds forward, twice that backward, and K values of `cols` for each output pixel.
//! Cache: the handle of x; backward computes `cols` again.
//!
//! ```
//! use ndarray::{array, Array4};
//! use resnet_by_hand::layers::Conv2d;
//! // One 3x3 image, one 2x2 kernel: each output is the sum over the diagonal of its window.
//! let x = Array4::from_shape_vec((1, 3, 3, 1), vec![1., 2., 3., 4., 5., 6., 7., 8., 9.])?.into_shared();
//! let weight = Array4::from_shape_vec((1, 1, 2, 2), vec![1., 0., 0., 1.])?;
//! let conv = Conv2d::new(weight);
//! let (y, cache) = conv.forward(&x)?;
//! assert_eq!(y.as_slice().unwrap(), [6., 8., 12., 14.]);
//! // dy = 1 at the lower right output alone: its window's corner pixels get the weight, the weight gets the window.
//! let dy = Array4::from_shape_vec((1, 2, 2, 1), vec![0., 0., 0., 1.])?.into_shared();
//! let (dx, grads) = conv.backward(&dy, &cache)?;
//! assert_eq!(dx.as_slice().unwrap(), [0., 0., 0., 0., 1., 0., 0., 0., 1.]);
//! assert_eq!(grads.weight.as_slice().unwrap(), [5., 6., 8., 9.]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::{Activation, channel_sums, check_dy, contiguous};
use crate::parallel::tree_sum;
use crate::parameters::{Gradients, Parameters, Role, join};
use crate::{Error, Result, Scalar};
use im2col::{as_pixels, as_pixels_mut, channels, col2im, im2col, weight_matrices, weight_of_matrices};
use ndarray::{Array1, Array3, Array4, ArrayViewD, ArrayViewMutD, Axis, s};

pub mod direct;
pub(crate) mod im2col;

/// A convolution layer; see the [module documentation](self) for the equations.
#[derive(Clone, Debug)]
pub struct Conv2d<T> {
    /// `(C_out, C_in/groups, kh, kw)`.
    pub weight: Array4<T>,
    /// `(C_out)`; `None` for no bias, as is usual before a batch norm, which would cancel the bias.
    pub bias: Option<Array1<T>>,
    /// Step between windows, `[vertical, horizontal]`, at least 1.
    pub stride: [usize; 2],
    /// Zeros added on each side, `[above and below, left and right]`.
    pub padding: [usize; 2],
    /// Step between the kernel's taps, at least 1.
    pub dilation: [usize; 2],
    /// Number of groups; divides both C_in and C_out.
    pub groups: usize,
}

/// What [`Conv2d::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct Conv2dCache<T> {
    x: Activation<T>,
}

/// Gradients of a [`Conv2d`]'s parameters.
#[derive(Clone, Debug)]
pub struct Conv2dGrads<T> {
    /// ∂loss/∂weight `(C_out, C_in/groups, kh, kw)`.
    pub weight: Array4<T>,
    /// ∂loss/∂bias `(C_out)`, if there is a bias.
    pub bias: Option<Array1<T>>,
}

/// All sizes of one convolution, checked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c_in: usize,
    pub c_out: usize,
    pub kh: usize,
    pub kw: usize,
    pub h_out: usize,
    pub w_out: usize,
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
}

impl Geometry {
    /// Output pixels per image.
    pub fn pixels_out(&self) -> usize {
        self.h_out * self.w_out
    }

    /// K: inputs under the kernel, kh·kw·C_in/groups.
    pub fn taps(&self) -> usize {
        self.kh * self.kw * self.c_in / self.groups
    }
}

impl<T: Scalar> Conv2d<T> {
    /// A convolution with stride 1, no padding, dilation 1, one group and no bias; set the public fields for others.
    pub fn new(weight: Array4<T>) -> Self {
        Conv2d { weight, bias: None, stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }

    /// Returns y and the cache.
    ///
    /// # Errors
    /// If the channels of `x` do not fit the weight, a parameter is out of its domain, or the kernel does not fit into
    /// the padded image.
    pub fn forward(&self, x: &Activation<T>) -> Result<(Activation<T>, Conv2dCache<T>)> {
        let g = self.geometry(x.dim().into())?;
        let (x, w) = (contiguous(x), weight_matrices(&g, &self.weight));
        let mut y = Array4::zeros((g.n, g.h_out, g.w_out, g.c_out));
        g.for_each_chunk(&mut y, &x, |y, x| {
            let mut y = as_pixels_mut(y, g.c_out);
            for group in 0..g.groups {
                let cols = im2col(&g, x, group);
                // y (P, c_o) = cols (P, K) · W (K, c_o)
                let product = cols.dot(&w.index_axis(Axis(0), group));
                y.slice_mut(s![.., channels(g.c_out, g.groups, group)]).assign(&product);
            }
        });
        if let Some(bias) = &self.bias {
            y += bias;
        }
        Ok((y.into_shared(), Conv2dCache { x }))
    }

    /// `(dx, grads)` for `dy`, the gradient of the loss with respect to y.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(&self, dy: &Activation<T>, cache: &Conv2dCache<T>) -> Result<(Activation<T>, Conv2dGrads<T>)> {
        Ok((self.input_gradient(dy, cache)?, self.parameter_gradients(dy, cache)?))
    }

    /// Only dx: `dcols = dy · Wᵀ`, `dx = col2im(dcols)`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn input_gradient(&self, dy: &Activation<T>, cache: &Conv2dCache<T>) -> Result<Activation<T>> {
        let (g, dy) = self.check_backward(dy, cache)?;
        let w = weight_matrices(&g, &self.weight);
        let mut dx = Array4::zeros((g.n, g.h, g.w, g.c_in));
        g.for_each_chunk(&mut dx, &dy, |dx, dy| {
            let dy = as_pixels(dy, g.c_out);
            for group in 0..g.groups {
                // dcols (P, K) = dy (P, c_o) · Wᵀ (c_o, K)
                let dy = dy.slice(s![.., channels(g.c_out, g.groups, group)]);
                let dcols = dy.dot(&w.index_axis(Axis(0), group).t());
                col2im(&g, &dcols, group, dx);
            }
        });
        Ok(dx.into_shared())
    }

    /// Only dweight and dbias: `dW = colsᵀ · dy`, `dbias = Σ_pixels dy`. The first layer of a network needs no dx.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn parameter_gradients(&self, dy: &Activation<T>, cache: &Conv2dCache<T>) -> Result<Conv2dGrads<T>> {
        let (g, dy) = self.check_backward(dy, cache)?;
        let of_chunk = |chunk: usize| {
            let (x, dy) = (g.chunk(&cache.x, chunk), as_pixels(g.chunk(&dy, chunk), g.c_out));
            let mut dw = Array3::zeros((g.groups, g.taps(), g.c_out / g.groups));
            for (group, mut dw) in dw.outer_iter_mut().enumerate() {
                let cols = im2col(&g, x, group);
                // dW (K, c_o) = colsᵀ (K, P) · dy (P, c_o)
                dw.assign(&cols.t().dot(&dy.slice(s![.., channels(g.c_out, g.groups, group)])));
            }
            dw
        };
        // Chunks are summed in a fixed tree: bit-identical for any number of threads.
        let dw = tree_sum(g.chunks(), &of_chunk, &|sum: &mut Array3<T>, dw| *sum += &dw);
        let weight = dw.map_or_else(|| Array4::zeros(self.weight.dim()), |dw| weight_of_matrices(&g, dw));
        Ok(Conv2dGrads { weight, bias: self.bias.as_ref().map(|_| channel_sums(&dy)) })
    }

    /// Shape `(N, H_out, W_out, C_out)` of y for an x of shape `(N, H, W, C_in)`.
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn output_shape(&self, x: &[usize; 4]) -> Result<[usize; 4]> {
        let g = self.geometry(*x)?;
        Ok([g.n, g.h_out, g.w_out, g.c_out])
    }

    fn check_backward(&self, dy: &Activation<T>, cache: &Conv2dCache<T>) -> Result<(Geometry, Activation<T>)> {
        let g = self.geometry(cache.x.dim().into())?;
        check_dy("conv2d", dy.shape(), &[g.n, g.h_out, g.w_out, g.c_out])?;
        Ok((g, contiguous(dy)))
    }

    /// Checks everything about an x of shape `(N, H, W, C_in)`.
    pub(crate) fn geometry(&self, x: [usize; 4]) -> Result<Geometry> {
        let [n, h, w, c_in] = x;
        let (c_out, c_in_group, kh, kw) = self.weight.dim();
        let groups = self.groups;
        if self.weight.is_empty() {
            let expected = "at least one input channel, output channel and tap";
            return Err(Error::shape("conv2d", "weight", expected, self.weight.shape()));
        }
        if h == 0 || w == 0 {
            return Err(Error::shape("conv2d", "x", "at least one pixel per image", &x));
        }
        if groups == 0 || c_out % groups != 0 {
            return Err(Error::argument("conv2d", format!("groups must divide C_out = {c_out}, got {groups}")));
        }
        if c_in_group.checked_mul(groups) != Some(c_in) {
            let expected = format!("C_in = {} ({c_in_group} x {groups} groups)", c_in_group.saturating_mul(groups));
            return Err(Error::shape("conv2d", "x", expected, &x));
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.len() != c_out) {
            return Err(Error::shape("conv2d", "bias", format!("({c_out},), one per output channel"), bias.shape()));
        }
        let size = |axis: usize, input, kernel| {
            window_count("conv2d", input, kernel, self.stride[axis], self.padding[axis], self.dilation[axis])
        };
        let (h_out, w_out) = (size(0, h, kh)?, size(1, w, kw)?);
        // No array of the computation is longer than `cols` or the padded x; reject sizes that cannot be indexed.
        let padded = |axis: usize, size: usize| size + 2 * self.padding[axis]; // window_count checked the overflow
        let images = n.max(1);
        let arrays = [[images, h_out, w_out, kh * kw, c_in.max(c_out)], [images, padded(0, h), padded(1, w), c_in, 1]];
        let fits = |array: &[usize; 5]| {
            let bytes = array.iter().try_fold(size_of::<T>(), |product, &size| product.checked_mul(size));
            bytes.is_some_and(|bytes| bytes <= isize::MAX as usize)
        };
        if !arrays.iter().all(fits) {
            return Err(Error::shape("conv2d", "x", "a size whose products fit into the address space", &x));
        }
        let (stride, padding, dilation) = (self.stride, self.padding, self.dilation);
        Ok(Geometry { n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, padding, dilation, groups })
    }
}

/// Number of windows along one axis, ⌊(input + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1: the last window
/// must lie within the padded input; a remainder smaller than a stride is ignored.
pub(crate) fn window_count(
    op: &'static str,
    input: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> Result<usize> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        let found = format!("got kernel {kernel}, stride {stride}, dilation {dilation}");
        return Err(Error::argument(op, format!("kernel size, stride and dilation must be at least 1, {found}")));
    }
    let too_large = || Error::argument(op, format!("padding {padding} or dilation {dilation} overflows"));
    let padded = padding.checked_mul(2).and_then(|p| p.checked_add(input)).ok_or_else(too_large)?;
    let extent = (kernel - 1).checked_mul(dilation).and_then(|e| e.checked_add(1)).ok_or_else(too_large)?;
    match padded.checked_sub(extent) {
        Some(room) => Ok(room / stride + 1),
        None => {
            let kernel = format!("kernel of extent {extent} (size {kernel}, dilation {dilation})");
            Err(Error::argument(op, format!("the {kernel} does not fit into {padded} (input {input} + 2 x {padding})")))
        }
    }
}

impl<T: Scalar> Parameters<T> for Conv2d<T> {
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>)) {
        visitor(&join(path, "weight"), Role::Weight, self.weight.view().into_dyn());
        if let Some(bias) = &self.bias {
            visitor(&join(path, "bias"), Role::Bias, bias.view().into_dyn());
        }
    }

    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>)) {
        visitor(&join(path, "weight"), Role::Weight, self.weight.view_mut().into_dyn());
        if let Some(bias) = &mut self.bias {
            visitor(&join(path, "bias"), Role::Bias, bias.view_mut().into_dyn());
        }
    }
}

impl<T: Scalar> Conv2dGrads<T> {
    /// Adds these gradients to `gradients` under the names of the layer at `path`.
    pub fn collect(self, path: &str, gradients: &mut Gradients<T>) {
        gradients.push(path, "weight", self.weight);
        if let Some(bias) = self.bias {
            gradients.push(path, "bias", bias);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
