//! Convolutions of the engine: four algorithms for one equation, that of [`crate::layers::conv2d`].
//!
//! | algorithm | file | geometry |
//! |---|---|---|
//! | [`Gemm`](Algorithm::Gemm) | `gemm.rs` | every |
//! | [`Indirect`](Algorithm::Indirect) | `indirect.rs` | every |
//! | [`Winograd2`](Algorithm::Winograd2), [`Winograd4`](Algorithm::Winograd4) | `winograd/` | 3x3, stride 1, one group |
//!
//! Each reads its operands through a prologue and passes on its output through an epilogue (`operands.rs`).

mod gemm;
mod indirect;
pub(crate) mod operands;
mod padded;
#[cfg(test)]
mod tests;
mod winograd;

use super::completion::stacked;
use super::kernels::simd::wide_add;
use super::{Engine, Pass};
use crate::layers::conv2d::Conv2dGrads;
pub(crate) use crate::layers::conv2d::Geometry;
use crate::layers::{Conv2d, channel_sums, check_dy, contiguous};
use crate::parallel::left_pieces;
use crate::shards::Shards;
use crate::{Activation, Error, Result};
use ndarray::Array4;
use operands::{AsIs, Epilogue, Prologue, Shifted};
use std::ops::Range;
use winograd::Size;

/// How the engine computes a convolution. Every algorithm gives the same result up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The fastest one for the shape.
    #[default]
    Auto,
    /// im2col and matrix multiplication; every geometry.
    Gemm,
    /// Indirect GEMM: matrix multiplication that reads the image in place; every geometry.
    Indirect,
    /// F(2x2, 3x3), 2.25 times fewer multiplications; 3x3 kernels with stride 1, otherwise as [`Auto`](Self::Auto).
    Winograd2,
    /// F(4x4, 3x3), 4 times fewer multiplications, about ten times the rounding error; 3x3 kernels with stride 1,
    /// otherwise as [`Auto`](Self::Auto).
    Winograd4,
}

impl Algorithm {
    /// Every algorithm with its name on the command line.
    pub const ALL: [(&'static str, Algorithm); 5] = [
        ("auto", Algorithm::Auto),
        ("gemm", Algorithm::Gemm),
        ("indirect", Algorithm::Indirect),
        ("winograd2", Algorithm::Winograd2),
        ("winograd4", Algorithm::Winograd4),
    ];

    /// The algorithm called `name`; `implicit` is the name of [`Algorithm::Indirect`] in older run folders.
    ///
    /// # Errors
    /// If there is none; the message lists the known names.
    ///
    /// ```
    /// use resnet_by_hand::engine::Algorithm;
    /// assert_eq!(Algorithm::by_name("winograd4")?, Algorithm::Winograd4);
    /// assert_eq!(Algorithm::by_name("implicit")?.name(), "indirect");
    /// assert!(Algorithm::by_name("fft").unwrap_err().to_string().contains("known: auto, gemm"));
    /// # Ok::<(), resnet_by_hand::Error>(())
    /// ```
    pub fn by_name(name: &str) -> Result<Self> {
        let current = if name == "implicit" { "indirect" } else { name };
        let found = Self::ALL.into_iter().find(|(known, _)| *known == current);
        found.map(|(_, algorithm)| algorithm).ok_or_else(|| {
            let known = Self::ALL.map(|(name, _)| name).join(", ");
            Error::argument("conv", format!("unknown algorithm `{name}`; known: {known}"))
        })
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, algorithm)| *algorithm == self).expect("every algorithm is listed").0
    }

    /// The algorithm for a geometry: this one if it applies, otherwise the fastest; never [`Algorithm::Auto`].
    fn for_geometry(self, g: &Geometry) -> Algorithm {
        let winograd = |size| match size {
            Size::Two => Algorithm::Winograd2,
            Size::Four => Algorithm::Winograd4,
        };
        match self {
            Algorithm::Winograd2 | Algorithm::Winograd4 if winograd::applies(g) => self,
            Algorithm::Gemm | Algorithm::Indirect => self,
            // With few output channels per group most columns of a microtile would be empty.
            _ if g.c_out / g.groups < 8 => Algorithm::Gemm,
            Algorithm::Auto if winograd::applies(g) => winograd::fastest(g).map_or(Algorithm::Indirect, winograd),
            _ => Algorithm::Indirect,
        }
    }
}

/// The three products of a convolution without bias, for one shape of input.
pub(super) struct Convolution<'a> {
    pass: &'a Pass,
    pub g: Geometry,
    algorithm: Algorithm,
    weight: &'a Array4<f32>,
}

impl<'a> Convolution<'a> {
    /// The products for an input of shape `x (N, H, W, C_in)`.
    pub fn new(pass: &'a Pass, conv: &'a Conv2d<f32>, x: [usize; 4]) -> Result<Self> {
        let g = conv.geometry(x)?;
        Ok(Convolution { pass, algorithm: pass.algorithm.for_geometry(&g), weight: &conv.weight, g })
    }

    /// How it is computed.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Shape of y.
    pub fn output(&self) -> (usize, usize, usize, usize) {
        (self.g.n, self.g.h_out, self.g.w_out, self.g.c_out)
    }

    /// y.
    pub fn forward(&self, x: &dyn Prologue, epilogue: &dyn Epilogue) -> Activation<f32> {
        let (Pass { shelf, shards, .. }, g, weight) = (self.pass, &self.g, self.weight);
        let mut y = shelf.dirty_array(self.output());
        let out = y.as_slice_mut().expect("contiguous");
        match self.algorithm {
            Algorithm::Winograd2 => winograd::forward(self.pass, Size::Two, g, x, weight, out, epilogue),
            Algorithm::Winograd4 => winograd::forward(self.pass, Size::Four, g, x, weight, out, epilogue),
            Algorithm::Indirect => indirect::forward(shelf, shards, g, x, weight, out, epilogue),
            Algorithm::Gemm | Algorithm::Auto => gemm::forward(shards, g, x, weight, out, epilogue),
        }
        y.into_shared()
    }

    /// dx.
    pub fn input_gradient(&self, dy: &dyn Prologue, epilogue: &dyn Epilogue) -> Activation<f32> {
        let (Pass { shelf, shards, .. }, g, weight) = (self.pass, &self.g, self.weight);
        let mut dx = shelf.dirty_array((g.n, g.h, g.w, g.c_in));
        let out = dx.as_slice_mut().expect("contiguous");
        match self.algorithm {
            Algorithm::Winograd2 => winograd::input_gradient(self.pass, Size::Two, g, dy, weight, out, epilogue),
            Algorithm::Winograd4 => winograd::input_gradient(self.pass, Size::Four, g, dy, weight, out, epilogue),
            Algorithm::Indirect => indirect::input_gradient(shelf, shards, g, dy, weight, out, epilogue),
            Algorithm::Gemm | Algorithm::Auto => gemm::input_gradient(shards, g, dy, weight, out, epilogue),
        }
        dx.into_shared()
    }

    /// dweight: the sum over the images of this process. If the process has several subtrees of the shards' tree, their sums
    /// are stacked along the first axis; [`Completion`](super::completion::Completion) makes the gradient of them.
    pub fn weight_gradient(&self, dy: &dyn Prologue, x: &dyn Prologue) -> Array4<f32> {
        let subtrees = self.pass.shards.own_subtrees();
        let sums = subtrees.iter().map(|shards| self.sum_over(shards, dy, x)).collect();
        stacked(sums, self.weight.raw_dim())
    }

    /// `(dweight, dx)`: [`weight_gradient`](Self::weight_gradient) and [`input_gradient`](Self::input_gradient).
    pub fn gradients(
        &self,
        dy: &dyn Prologue,
        x: &dyn Prologue,
        epilogue: &dyn Epilogue,
    ) -> (Array4<f32>, Activation<f32>) {
        let in_two_passes = || (self.weight_gradient(dy, x), self.input_gradient(dy, epilogue));
        self.in_one_pass(dy, x, epilogue).unwrap_or_else(in_two_passes)
    }

    /// The same bits in one pass over dy, where that is of use.
    fn in_one_pass(
        &self,
        dy: &dyn Prologue,
        x: &dyn Prologue,
        epilogue: &dyn Epilogue,
    ) -> Option<(Array4<f32>, Activation<f32>)> {
        let size = match self.algorithm {
            Algorithm::Winograd2 => Size::Two,
            Algorithm::Winograd4 => Size::Four,
            _ => return None,
        };
        let (sums, dx) = winograd::gradients(self.pass, size, &self.g, [dy, x], self.weight, epilogue)?;
        Some((stacked(sums, self.weight.raw_dim()), dx.into_shared()))
    }

    /// dweight, summed over some shards in their tree. A large dweight is computed in blocks, so that a block's sums of all
    /// shards stay in the cache: the sums are the same, but those of the shards are never written to memory.
    fn sum_over(&self, shards: &[Range<usize>], dy: &dyn Prologue, x: &dyn Prologue) -> Array4<f32> {
        self.in_blocks(shards, dy, x).unwrap_or_else(|| match shards {
            [images] => self.of_shard(images, dy, x),
            _ => {
                let (left, right) = shards.split_at(left_pieces(shards.len()));
                let (mut left, right) = rayon::join(|| self.sum_over(left, dy, x), || self.sum_over(right, dy, x));
                let (sum, values) = (left.as_slice_mut().expect("contiguous"), right.as_slice().expect("contiguous"));
                wide_add(sum, values);
                self.pass.shelf.recycle(right.into_shared());
                left
            }
        })
    }

    /// The same in blocks, where that is of use.
    fn in_blocks(&self, shards: &[Range<usize>], dy: &dyn Prologue, x: &dyn Prologue) -> Option<Array4<f32>> {
        let (shelf, g) = (&self.pass.shelf, &self.g);
        match self.algorithm {
            Algorithm::Winograd2 => winograd::weight_gradient_in_blocks(shelf, Size::Two, g, shards, dy, x),
            Algorithm::Winograd4 => winograd::weight_gradient_in_blocks(shelf, Size::Four, g, shards, dy, x),
            Algorithm::Indirect => indirect::weight_gradient_in_blocks(shelf, g, shards, dy, x),
            Algorithm::Gemm | Algorithm::Auto => None,
        }
    }

    /// dweight of one shard.
    fn of_shard(&self, images: &Range<usize>, dy: &dyn Prologue, x: &dyn Prologue) -> Array4<f32> {
        let Pass { shelf, shards, .. } = self.pass;
        let g = &Geometry { n: images.len(), ..self.g };
        let dy = &Shifted { prologue: dy, by: images.start * g.pixels_out() * g.c_out };
        let x = &Shifted { prologue: x, by: images.start * g.h * g.w * g.c_in };
        match self.algorithm {
            Algorithm::Winograd2 => winograd::weight_gradient(shelf, Size::Two, g, shards.count(), dy, x),
            Algorithm::Winograd4 => winograd::weight_gradient(shelf, Size::Four, g, shards.count(), dy, x),
            Algorithm::Indirect => indirect::weight_gradient(shelf, g, dy, x),
            Algorithm::Gemm | Algorithm::Auto => gemm::weight_gradient(g, dy, x),
        }
    }
}

/// Single convolutions, for tests and measurements.
impl Engine {
    /// The algorithm that computes y, dx and dweight for an x of shape `(N, H, W, C_in)`; never [`Algorithm::Auto`].
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn algorithm_for(&self, conv: &Conv2d<f32>, x: [usize; 4]) -> Result<Algorithm> {
        Ok(Convolution::new(&self.pass(&Shards::one(x[0])), conv, x)?.algorithm)
    }

    /// y of one convolution.
    ///
    /// # Errors
    /// As [`Conv2d::forward`].
    pub fn conv2d_forward(&self, conv: &Conv2d<f32>, x: &Activation<f32>) -> Result<Activation<f32>> {
        let pass = self.pass(&Shards::one(x.dim().0));
        let convolution = Convolution::new(&pass, conv, x.dim().into())?;
        let y = convolution.forward(&contiguous(x), &AsIs);
        Ok(match &conv.bias {
            Some(bias) => (y.into_owned() + bias).into_shared(),
            None => y,
        })
    }

    /// dx of one convolution of an `x (N, H, W, C_in)`, for `dy`.
    ///
    /// # Errors
    /// As [`Conv2d::input_gradient`].
    pub fn conv2d_input_gradient(
        &self,
        conv: &Conv2d<f32>,
        dy: &Activation<f32>,
        x: [usize; 4],
    ) -> Result<Activation<f32>> {
        let pass = self.pass(&Shards::one(x[0]));
        let convolution = Convolution::new(&pass, conv, x)?;
        check_dy("conv2d", dy.shape(), &<[usize; 4]>::from(convolution.output()))?;
        Ok(convolution.input_gradient(&contiguous(dy), &AsIs))
    }

    /// dweight and dbias of one convolution of `x`, for `dy`.
    ///
    /// # Errors
    /// As [`Conv2d::parameter_gradients`].
    pub fn conv2d_parameter_gradients(
        &self,
        conv: &Conv2d<f32>,
        dy: &Activation<f32>,
        x: &Activation<f32>,
    ) -> Result<Conv2dGrads<f32>> {
        let pass = self.pass(&Shards::one(x.dim().0));
        let convolution = Convolution::new(&pass, conv, x.dim().into())?;
        check_dy("conv2d", dy.shape(), &<[usize; 4]>::from(convolution.output()))?;
        let (dy, x) = (contiguous(dy), contiguous(x));
        let weight = convolution.weight_gradient(&dy, &x);
        Ok(Conv2dGrads { weight, bias: conv.bias.as_ref().map(|_| channel_sums(&dy)) })
    }
}
