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
//! where x is zero outside the image and output channel o of group ⌊o·groups/C_out⌋ sees the C_in/groups input channels
//! from g(o) = ⌊o·groups/C_out⌋·C_in/groups on. `groups = C_in` is the depthwise convolution. Stride, padding and
//! dilation are `[vertical, horizontal]`.
//!
//! # Backward
//!
//! y is linear in x, in weight and in bias, so each gradient is the adjoint of one linear map: read the sum above with
//! another variable free. Every term `weight[o,i,p,q] · x[..]` of `y[n,ho,wo,o]` sends
//!
//! ```text
//! dx[n, ho·stride + p·dilation − padding, .., g(o) + i] += weight[o,i,p,q] · dy[n,ho,wo,o]
//! dweight[o,i,p,q]                                       += x[n, ho·stride + ..] · dy[n,ho,wo,o]
//! dbias[o]                                                += dy[n,ho,wo,o]
//! ```
//!
//! # As matrices
//!
//! Written as matrices (Chellapilla et al. 2006), with `cols (P, K)` holding for each of the P = N·H_out·W_out output
//! pixels the K = kh·kw·C_in/groups inputs under the kernel, and `W (K, C_out)` the weight with its axes reordered:
//!
//! ```text
//! y = cols · W          dW = colsᵀ · dy          dcols = dy · Wᵀ,   dx = col2im(dcols)
//! ```
//!
//! `cols` is a linear function of x and col2im is its transpose: what was copied from one pixel to many places is
//! summed from the many places back into the one pixel.
//!
//! Cost: N·H_out·W_out·C_out·K multiply-adds forward, twice that backward. Cache: the handle of x. The algorithm is
//! chosen by shape and number type alone, see [`Conv2dAlgorithm`]; `conv2d/direct.rs` is the definition, in seven loops.
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

use super::{check_dy, contiguous, Activation};
use crate::kernels::buffers::{dirty, Recycled};
use crate::parallel::{add_slices, tree_sum};
use crate::parameters::{join, Gradients, Parameters, Role};
use crate::{Error, Result, Scalar};
use frame::{finish_all, AsIs, Finish, Source};
use ndarray::{Array1, Array4, ArrayViewD, ArrayViewMutD};
use winograd::Size;
use Conv2dAlgorithm as Algorithm;

mod direct;
pub(crate) mod frame;
pub(crate) mod im2col;
mod implicit;
mod winograd;

/// How a convolution is computed. Every algorithm gives the same result up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conv2dAlgorithm {
    /// The fastest one for the shape and number type.
    #[default]
    Auto,
    /// im2col and matrix multiplication; every geometry.
    Gemm,
    /// Matrix multiplication that reads the image in place; every geometry.
    Implicit,
    /// F(2x2, 3x3), 2.25 times fewer multiplications; 3x3 kernels with stride 1.
    Winograd2,
    /// F(4x4, 3x3), 4 times fewer multiplications, about ten times the rounding error; 3x3 kernels with stride 1.
    Winograd4,
    /// The definition in seven loops; slow, for comparison.
    Direct,
}

impl Conv2dAlgorithm {
    /// Every algorithm with the name it has on the command line.
    pub const ALL: [(&'static str, Conv2dAlgorithm); 6] = [
        ("auto", Conv2dAlgorithm::Auto),
        ("gemm", Conv2dAlgorithm::Gemm),
        ("implicit", Conv2dAlgorithm::Implicit),
        ("winograd2", Conv2dAlgorithm::Winograd2),
        ("winograd4", Conv2dAlgorithm::Winograd4),
        ("direct", Conv2dAlgorithm::Direct),
    ];

    /// The algorithm called `name`.
    ///
    /// # Errors
    /// If there is none; the message lists those there are.
    pub fn by_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, algorithm)| algorithm).ok_or_else(|| {
            let known = Self::ALL.map(|(name, _)| name).join(", ");
            Error::argument("conv2d", format!("there is no algorithm `{name}`; known: {known}"))
        })
    }

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, algorithm)| *algorithm == self).expect("every algorithm is listed").0
    }
}

/// A convolution layer; see the [module documentation](self) for the equations.
#[derive(Clone, Debug)]
pub struct Conv2d<T> {
    /// `(C_out, C_in/groups, kh, kw)`.
    pub weight: Array4<T>,
    /// `(C_out)`; `None` for a convolution without bias, the rule in front of a batch norm, which would cancel it.
    pub bias: Option<Array1<T>>,
    /// Step between windows, `[vertical, horizontal]`, at least 1.
    pub stride: [usize; 2],
    /// Zeros added on each side, `[above and below, left and right]`.
    pub padding: [usize; 2],
    /// Step between the kernel's taps, at least 1.
    pub dilation: [usize; 2],
    /// Number of groups; divides both C_in and C_out.
    pub groups: usize,
    /// How it is computed.
    pub algorithm: Conv2dAlgorithm,
}

/// What [`Conv2d::backward`] needs from the forward pass.
#[derive(Clone, Debug)]
pub struct Conv2dCache<T: Scalar> {
    x: Recycled<T>,
}

/// Gradients of a [`Conv2d`]'s parameters.
#[derive(Clone, Debug)]
pub struct Conv2dGrads<T> {
    /// ∂loss/∂weight `(C_out, C_in/groups, kh, kw)`.
    pub weight: Array4<T>,
    /// ∂loss/∂bias `(C_out)`, where there is a bias.
    pub bias: Option<Array1<T>>,
}

/// All the whole numbers of one convolution, checked once at the door.
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
    /// Output pixels of one image.
    pub fn pixels_out(&self) -> usize {
        self.h_out * self.w_out
    }

    /// K: inputs under the kernel, kh·kw·C_in/groups.
    pub fn taps(&self) -> usize {
        self.kh * self.kw * self.c_in / self.groups
    }
}

impl<T: Scalar> Conv2d<T> {
    /// A convolution with stride 1, no padding, dilation 1, one group and no bias; change the public fields for others.
    pub fn new(weight: Array4<T>) -> Self {
        Conv2d {
            weight,
            bias: None,
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
            algorithm: Conv2dAlgorithm::Auto,
        }
    }

    /// y and what backward needs.
    ///
    /// # Errors
    /// If the channels of `x` do not fit the weight, a parameter is out of its domain, or the kernel does not fit into
    /// the padded image.
    pub fn forward(&self, x: &Activation<T>) -> Result<(Activation<T>, Conv2dCache<T>)> {
        let geometry = self.geometry(x)?;
        let x = contiguous(x);
        let y = self.forward_from(&geometry, &x, &AsIs);
        Ok((y, Conv2dCache { x: x.into() }))
    }

    /// `(dx, grads)` for `dy`, the gradient of the loss with respect to y.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn backward(&self, dy: &Activation<T>, cache: &Conv2dCache<T>) -> Result<(Activation<T>, Conv2dGrads<T>)> {
        Ok((self.input_gradient(dy, cache)?, self.parameter_gradients(dy, cache)?))
    }

    /// dx alone: `dcols = dy · Wᵀ`, `dx = col2im(dcols)`.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn input_gradient(&self, dy: &Activation<T>, cache: &Conv2dCache<T>) -> Result<Activation<T>> {
        let (geometry, dy) = self.check_backward(dy, cache)?;
        Ok(self.input_gradient_from(&geometry, &dy, &AsIs))
    }

    /// dweight and dbias alone: `dW = colsᵀ · dy`, `dbias = Σ_pixels dy`. The first layer of a network needs no more.
    ///
    /// # Errors
    /// If the shape of `dy` is not that of y.
    pub fn parameter_gradients(&self, dy: &Activation<T>, cache: &Conv2dCache<T>) -> Result<Conv2dGrads<T>> {
        let (geometry, dy) = self.check_backward(dy, cache)?;
        let weight = self.weight_gradient_from(&geometry, &dy, &*cache.x);
        Ok(Conv2dGrads { weight, bias: self.bias.as_ref().map(|_| channel_sums(&dy)) })
    }

    /// y of the x that a source yields, finished by `finish`.
    pub(crate) fn forward_from(&self, g: &Geometry, x: &dyn Source<T>, finish: &dyn Finish<T>) -> Activation<T> {
        let shape = (g.n, g.h_out, g.w_out, g.c_out);
        let mut y = dirty(g.n * g.pixels_out() * g.c_out);
        // Nothing may happen to y before its bias is there.
        let last = if self.bias.is_some() { &AsIs } else { finish };
        match self.chosen_algorithm(g) {
            Algorithm::Direct => direct::forward(self, g, x, &mut y, last),
            Algorithm::Implicit => implicit::forward(g, x, &self.weight, &mut y, last),
            Algorithm::Winograd2 => winograd::forward(Size::Two, g, x, &self.weight, &mut y, last),
            Algorithm::Winograd4 => winograd::forward(Size::Four, g, x, &self.weight, &mut y, last),
            Algorithm::Gemm | Algorithm::Auto => im2col::forward(g, x, &self.weight, &mut y, last),
        }
        let mut y = Array4::from_shape_vec(shape, y).expect("the product of the shape");
        if let Some(bias) = &self.bias {
            y += bias;
            finish_all(y.as_slice_mut().expect("contiguous"), g.pixels_out() * g.c_out, finish);
        }
        y.into_shared()
    }

    /// dx of the dy that a source yields, finished by `finish`.
    pub(crate) fn input_gradient_from(
        &self,
        g: &Geometry,
        dy: &dyn Source<T>,
        finish: &dyn Finish<T>,
    ) -> Activation<T> {
        let mut dx = dirty(g.n * g.h * g.w * g.c_in);
        match self.chosen_algorithm(g) {
            Algorithm::Direct => direct::input_gradient(self, g, dy, &mut dx, finish),
            Algorithm::Implicit => implicit::input_gradient(g, dy, &self.weight, &mut dx, finish),
            Algorithm::Winograd2 => winograd::input_gradient(Size::Two, g, dy, &self.weight, &mut dx, finish),
            Algorithm::Winograd4 => winograd::input_gradient(Size::Four, g, dy, &self.weight, &mut dx, finish),
            Algorithm::Gemm | Algorithm::Auto => im2col::input_gradient(g, dy, &self.weight, &mut dx, finish),
        }
        Array4::from_shape_vec((g.n, g.h, g.w, g.c_in), dx).expect("the product of the shape").into_shared()
    }

    /// dweight of the dy and x that two sources yield.
    pub(crate) fn weight_gradient_from(&self, g: &Geometry, dy: &dyn Source<T>, x: &dyn Source<T>) -> Array4<T> {
        match self.chosen_algorithm(g) {
            Algorithm::Direct => direct::weight_gradient(self, g, dy, x),
            Algorithm::Implicit => implicit::weight_gradient(g, dy, x),
            Algorithm::Winograd2 => winograd::weight_gradient(Size::Two, g, dy, x),
            Algorithm::Winograd4 => winograd::weight_gradient(Size::Four, g, dy, x),
            Algorithm::Gemm | Algorithm::Auto => im2col::weight_gradient(g, dy, x),
        }
    }

    /// Shape `(N, H_out, W_out, C_out)` of y for an x of shape `(N, H, W, C_in)`.
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn output_shape(&self, x: &[usize; 4]) -> Result<[usize; 4]> {
        let g = self.geometry_of(*x)?;
        Ok([g.n, g.h_out, g.w_out, g.c_out])
    }

    /// The algorithm that computes y, dx and dweight for an x of shape `(N, H, W, C_in)`; never [`Conv2dAlgorithm::Auto`].
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn algorithm_for(&self, x: &[usize; 4]) -> Result<Conv2dAlgorithm> {
        Ok(self.chosen_algorithm(&self.geometry_of(*x)?))
    }

    /// The algorithm a pass uses: the forced one where it applies, otherwise the fastest for the shape and number type. In
    /// f64 that is always plain GEMM, whose code is the simplest: f64 is the oracle.
    fn chosen_algorithm(&self, g: &Geometry) -> Algorithm {
        match self.algorithm {
            Algorithm::Winograd2 | Algorithm::Winograd4 if winograd::applies(g) => self.algorithm,
            Algorithm::Gemm | Algorithm::Implicit | Algorithm::Direct => self.algorithm,
            // A group of few output channels would leave most of a tile's columns empty.
            _ if T::NAME != "float32" || g.c_out / g.groups < 8 => Algorithm::Gemm,
            Algorithm::Auto if winograd::applies(g) => winograd::fastest(g).unwrap_or(Algorithm::Implicit),
            _ => Algorithm::Implicit,
        }
    }

    pub(crate) fn check_backward(
        &self,
        dy: &Activation<T>,
        cache: &Conv2dCache<T>,
    ) -> Result<(Geometry, Activation<T>)> {
        let g = self.geometry(&cache.x)?;
        check_dy("conv2d", dy.shape(), &[g.n, g.h_out, g.w_out, g.c_out])?;
        Ok((g, contiguous(dy)))
    }

    pub(crate) fn geometry(&self, x: &Activation<T>) -> Result<Geometry> {
        let (n, h, w, c) = x.dim();
        self.geometry_of([n, h, w, c])
    }

    pub(crate) fn geometry_of(&self, x: [usize; 4]) -> Result<Geometry> {
        let [n, h, w, c_in] = x;
        let (c_out, c_in_group, kh, kw) = self.weight.dim();
        let groups = self.groups;
        if self.weight.is_empty() {
            let expected = "at least one channel on both sides and one tap";
            return Err(Error::shape("conv2d", "weight", expected, self.weight.shape()));
        }
        if h == 0 || w == 0 {
            return Err(Error::shape("conv2d", "x", "at least one pixel an image", &x));
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
        // No array of the computation is longer than `cols` or the padded x; refuse what cannot be indexed.
        let padded = |axis: usize, size: usize| size + 2 * self.padding[axis]; // window_count saw that it does not overflow
        let images = n.max(1);
        let arrays = [[images, h_out, w_out, kh * kw, c_in.max(c_out)], [images, padded(0, h), padded(1, w), c_in, 1]];
        let fits = |array: &[usize; 5]| {
            let bytes = array.iter().try_fold(size_of::<T>(), |product, &size| product.checked_mul(size));
            bytes.is_some_and(|bytes| bytes <= isize::MAX as usize)
        };
        if !arrays.iter().all(fits) {
            return Err(Error::shape("conv2d", "x", "a size whose products fit the address space", &x));
        }
        let (stride, padding, dilation) = (self.stride, self.padding, self.dilation);
        Ok(Geometry { n, h, w, c_in, c_out, kh, kw, h_out, w_out, stride, padding, dilation, groups })
    }
}

/// Number of windows along one axis, ⌊(input + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1: the last window
/// must lie within the padded input, a leftover smaller than a stride is not seen.
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

/// Σ over images and pixels of each channel, summed in a fixed tree over the images.
pub(crate) fn channel_sums<T: Scalar>(x: &Activation<T>) -> Array1<T> {
    let (n, h, w, c) = x.dim();
    let pixels = x.as_slice().expect("contiguous");
    let image_sum = |n: usize| {
        let mut sum = vec![T::zero(); c];
        pixels[n * h * w * c..(n + 1) * h * w * c].chunks_exact(c).for_each(|pixel| add_slices(&mut sum, pixel));
        sum
    };
    tree_sum(n, &image_sum, &|a, b| add_slices(a, &b)).map_or_else(|| Array1::zeros(c), Array1::from)
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
mod tests;
