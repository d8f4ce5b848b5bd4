//! Exercise 16: ResNet-8 of your own layers, trained on photographs. Chapter 13, docs/family.md.
//!
//! ```text
//! x (N, 32, 32, 3) ─ unit 3 → 16 ─ ReLU ─ block 16 → 16 ─ block 16 → 32, stride 2 ─ block 32 → 64, stride 2
//!                  ─ mean over the 8x8 pixels ─ linear 64 → 10 ─ logits (N, 10)
//!
//! unit    3x3 convolution with padding 1 and no bias, then batch norm
//! block   y = relu(unit2(relu(unit1(x))) + S(x))
//! S       x itself; with stride 2 every second pixel of every second row, and zero channels, half before and half after
//! ```
//!
//! `crate::layers` has the files that you wrote: im2col, batch_norm_forward, batch_norm_backward, linear. Written here are the
//! structures, the shortcut and the forward passes. You write the three backward passes: forward's lines, last one first.

use crate::layers::im2col::{Sizes, col2im, im2col};
use crate::layers::{batch_norm_backward, batch_norm_forward, linear};
use ndarray::{Array1, Array2, Array4, ArrayD, Axis, s};

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// A convolution and its batch norm.
pub struct Unit {
    /// W (K, C_out), as exercise 9 has it.
    pub weight: Array2<f64>,
    pub gamma: Array1<f64>,
    pub beta: Array1<f64>,
    pub running_mean: Array1<f64>,
    pub running_var: Array1<f64>,
    pub stride: usize,
}

/// What a unit keeps for its backward pass.
pub struct UnitCache {
    sizes: Sizes,
    cols: Array2<f64>,
    x_hat: Array4<f64>,
    rstd: Array1<f64>,
}

/// The gradients of a unit's parameters.
pub struct UnitGradients {
    pub weight: Array2<f64>,
    pub gamma: Array1<f64>,
    pub beta: Array1<f64>,
}

impl Unit {
    pub fn forward(&mut self, x: &Array4<f64>, training: bool) -> (Array4<f64>, UnitCache) {
        let (n, h, w, c_in) = x.dim();
        let sizes = Sizes { n, h, w, c_in, kh: 3, kw: 3, stride: self.stride, padding: 1 };
        let cols = im2col(x, sizes);
        let c_out = self.gamma.len();
        let a = cols.dot(&self.weight).into_shape_with_order((n, sizes.h_out(), sizes.w_out(), c_out)).unwrap();
        if training {
            let (mean, var) = (&mut self.running_mean, &mut self.running_var);
            let (y, x_hat, rstd) = batch_norm_forward::train(&a, &self.gamma, &self.beta, mean, var, EPS, MOMENTUM);
            return (y, UnitCache { sizes, cols, x_hat, rstd });
        }
        let (mean, var) = (&self.running_mean, &self.running_var);
        let y = batch_norm_forward::evaluate(&a, &self.gamma, &self.beta, mean, var, EPS);
        (y, UnitCache { sizes, cols, x_hat: Array4::zeros((0, 0, 0, 0)), rstd: Array1::zeros(0) })
    }

    /// dx and the gradients of the parameters.
    pub fn backward(&self, dy: &Array4<f64>, cache: &UnitCache) -> (Array4<f64>, UnitGradients) {
        // <solution>
        let (da, gamma, beta) = batch_norm_backward::backward(dy, &cache.x_hat, &cache.rstd, &self.gamma);
        let pixels = cache.cols.nrows();
        let da = da.into_shape_with_order((pixels, self.gamma.len())).unwrap();
        let weight = cache.cols.t().dot(&da);
        let dx = col2im(&da.dot(&self.weight.t()), cache.sizes);
        (dx, UnitGradients { weight, gamma, beta })
        // </solution>
    }
}

fn relu(x: &Array4<f64>) -> Array4<f64> {
    x.mapv(|x| if x > 0.0 { x } else { 0.0 })
}

/// dx of a ReLU whose result was y.
fn relu_backward(dy: &Array4<f64>, y: &Array4<f64>) -> Array4<f64> {
    ndarray::Zip::from(dy).and(y).map_collect(|&dy, &y| if y > 0.0 { dy } else { 0.0 })
}

/// S(x), with c_out channels.
fn shortcut(x: &Array4<f64>, c_out: usize, stride: usize) -> Array4<f64> {
    let (n, h, w, c) = x.dim();
    let before = (c_out - c) / 2;
    let mut y = Array4::zeros((n, h.div_ceil(stride), w.div_ceil(stride), c_out));
    let step = stride as isize;
    y.slice_mut(s![.., .., .., before..before + c]).assign(&x.slice(s![.., ..;step, ..;step, ..]));
    y
}

/// dx of the shortcut; `x` is the shape of its input.
fn shortcut_backward(dy: &Array4<f64>, x: (usize, usize, usize, usize), stride: usize) -> Array4<f64> {
    let before = (dy.dim().3 - x.3) / 2;
    let mut dx = Array4::zeros(x);
    let step = stride as isize;
    dx.slice_mut(s![.., ..;step, ..;step, ..]).assign(&dy.slice(s![.., .., .., before..before + x.3]));
    dx
}

pub struct Block {
    pub units: [Unit; 2],
}

pub struct BlockCache {
    x: (usize, usize, usize, usize),
    units: [UnitCache; 2],
    /// The results of the two ReLUs.
    h: Array4<f64>,
    y: Array4<f64>,
}

impl Block {
    pub fn forward(&mut self, x: &Array4<f64>, training: bool) -> (Array4<f64>, BlockCache) {
        let stride = self.units[0].stride;
        let (a, cache1) = self.units[0].forward(x, training);
        let h = relu(&a);
        let (b, cache2) = self.units[1].forward(&h, training);
        let sum = b + shortcut(x, self.units[1].gamma.len(), stride);
        let y = relu(&sum);
        (y.clone(), BlockCache { x: x.dim(), units: [cache1, cache2], h, y })
    }

    /// dx and the gradients of both units, the first unit's first.
    pub fn backward(&self, dy: &Array4<f64>, cache: &BlockCache) -> (Array4<f64>, [UnitGradients; 2]) {
        let stride = self.units[0].stride;
        // <solution>
        let ds = relu_backward(dy, &cache.y);
        let (dh, second) = self.units[1].backward(&ds, &cache.units[1]);
        let da = relu_backward(&dh, &cache.h);
        let (dx_branch, first) = self.units[0].backward(&da, &cache.units[0]);
        (dx_branch + shortcut_backward(&ds, cache.x, stride), [first, second])
        // </solution>
    }
}

pub struct Network {
    pub stem: Unit,
    pub blocks: [Block; 3],
    pub weight: Array2<f64>,
    pub bias: Array1<f64>,
}

pub struct Cache {
    stem: UnitCache,
    /// The result of the stem's ReLU.
    h: Array4<f64>,
    blocks: Vec<BlockCache>,
    /// Shape of the last block's result, and its means (N, 64).
    last: (usize, usize, usize, usize),
    features: Array2<f64>,
}

impl Network {
    pub fn forward(&mut self, x: &Array4<f64>, training: bool) -> (Array2<f64>, Cache) {
        let (a, stem) = self.stem.forward(x, training);
        let h = relu(&a);
        let (mut y, mut blocks) = (h.clone(), Vec::new());
        for block in &mut self.blocks {
            let (next, cache) = block.forward(&y, training);
            y = next;
            blocks.push(cache);
        }
        let features = y.mean_axis(Axis(2)).unwrap().mean_axis(Axis(1)).unwrap();
        let logits = linear::forward(&features, &self.weight, &self.bias);
        (logits, Cache { stem, h, blocks, last: y.dim(), features })
    }

    /// The gradients of all parameters: the stem's, those of the blocks in the order of the forward pass, weight and bias.
    pub fn backward(&self, dlogits: &Array2<f64>, cache: &Cache) -> Vec<ArrayD<f64>> {
        // <solution>
        let mut units = Vec::new();
        let (dfeatures, dweight, dbias) = linear::backward(dlogits, &cache.features, &self.weight);
        let (_, h, w, _) = cache.last;
        // Every pixel is 1/(H·W) of its mean.
        let mut dy = Array4::from_shape_fn(cache.last, |(n, _, _, c)| dfeatures[[n, c]] / (h * w) as f64);
        for (block, cache) in self.blocks.iter().zip(&cache.blocks).rev() {
            let (dx, [first, second]) = block.backward(&dy, cache);
            dy = dx;
            units.push(second);
            units.push(first);
        }
        let (_, stem) = self.stem.backward(&relu_backward(&dy, &cache.h), &cache.stem);
        units.push(stem);
        units.reverse();
        in_one_list(units, dweight, dbias)
        // </solution>
    }
}

/// The gradients of all units, in the order of the forward pass, and those of the linear layer.
fn in_one_list(units: Vec<UnitGradients>, dweight: Array2<f64>, dbias: Array1<f64>) -> Vec<ArrayD<f64>> {
    let of_unit = |unit: UnitGradients| [unit.weight.into_dyn(), unit.gamma.into_dyn(), unit.beta.into_dyn()];
    let mut all: Vec<ArrayD<f64>> = units.into_iter().flat_map(of_unit).collect();
    all.extend([dweight.into_dyn(), dbias.into_dyn()]);
    all
}
