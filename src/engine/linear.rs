//! The last layer, shard by shard: the products of the reference, whose sums over images are added in the tree.

use super::Pass;
use super::completion::stacked;
use crate::Result;
use crate::layers::linear::{LinearCache, LinearGrads};
use crate::layers::{Linear, check_dy};
use crate::parallel::add_slices;
use ndarray::{Array2, s};

/// y (N, F_out) of x (N, F_in), and the cache of every shard.
pub(super) fn forward(
    pass: &Pass,
    layer: &Linear<f32>,
    x: &Array2<f32>,
) -> Result<(Array2<f32>, Vec<LinearCache<f32>>)> {
    let (mut y, mut caches) = (Array2::zeros((x.nrows(), layer.bias.len())), Vec::new());
    for images in pass.shards.ranges() {
        let rows = s![images, ..];
        let (of_shard, cache) = layer.forward(&x.slice(rows).to_owned())?;
        y.slice_mut(rows).assign(&of_shard);
        caches.push(cache);
    }
    Ok((y, caches))
}

/// `(dx, grads)` for `dy`; the gradients are [`stacked`].
pub(super) fn backward(
    pass: &Pass,
    layer: &Linear<f32>,
    dy: &Array2<f32>,
    caches: &[LinearCache<f32>],
) -> Result<(Array2<f32>, LinearGrads<f32>)> {
    let (f_out, f_in) = layer.weight.dim();
    let n = pass.shards.own().len();
    check_dy("linear", dy.shape(), &[n, f_out])?;
    let (mut dx, mut of_shards) = (Array2::zeros((n, f_in)), Vec::new());
    for (images, cache) in pass.shards.ranges().into_iter().zip(caches) {
        let rows = s![images, ..];
        let (of_shard, grads) = layer.backward(&dy.slice(rows).to_owned(), cache)?;
        dx.slice_mut(rows).assign(&of_shard);
        of_shards.push(grads);
    }
    let add = |left: &mut LinearGrads<f32>, right: LinearGrads<f32>| {
        let LinearGrads { weight, bias } = left;
        add_slices(weight.as_slice_mut().expect("contiguous"), right.weight.as_slice().expect("contiguous"));
        add_slices(bias.as_slice_mut().expect("contiguous"), right.bias.as_slice().expect("contiguous"));
    };
    let sums = pass.shards.own_sums(&|shard, _| of_shards[shard].clone(), &add);
    let (weights, biases) = sums.into_iter().map(|sum| (sum.weight, sum.bias)).unzip();
    let weight = stacked(weights, layer.weight.raw_dim());
    Ok((dx, LinearGrads { weight, bias: stacked(biases, layer.bias.raw_dim()) }))
}
