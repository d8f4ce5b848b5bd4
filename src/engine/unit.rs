//! Convolution, batch norm, activation, with the layers between convolutions fused into them.
//!
//! Of a unit `y = act(bn(conv(x)))` only h = conv(x) and the batch norm's statistics are kept; y is computed again
//! wherever it is read.

use super::buffers::Recycled;
use super::conv::Convolution;
use super::conv::operands::{AsIs, Epilogue, Prologue, apply_to_all, collect};
use super::fused::{GateAndSum, NormGradient, Normalize, Normalized, TakeMoments};
use super::leaves::PerLeaf;
use super::norm::{Affine, NormCache, PairSums};
use super::{Pass, shape};
use crate::layers::conv2d::Conv2dGrads;
use crate::layers::{BatchNorm2d, Conv2d, Mode, Relu};
use crate::model::unit::{Unit, UnitGrads};
use crate::{Activation, Result};

/// h = conv(x), with its moments computed while it is written: the input of the batch norm `bn`.
pub(super) fn forward(
    pass: &Pass,
    conv: &Conv2d<f32>,
    bn: &BatchNorm2d<f32>,
    x: &dyn Prologue,
    shape: [usize; 4],
) -> Result<NormCache> {
    let convolution = Convolution::new(pass, conv, shape)?;
    bn.check(pass.together(convolution.output()), Mode::Train)?;
    let moments = PerLeaf::new(&pass.shards, convolution.output());
    let h = convolution.forward(x, &TakeMoments { c: convolution.g.c_out, moments: &moments });
    Ok(NormCache::new(bn, pass.shelf.recycled(h), moments))
}

/// The gradient of `bn(h)`, and the sums of the batch norm's backward pass.
pub(super) struct Incoming {
    pub dy: Recycled,
    pub sums: PerLeaf<PairSums>,
}

impl Incoming {
    /// From the gradient `dy` of `act(bn(h))`, in a separate pass over memory.
    pub fn gated(
        pass: &Pass,
        dy: Activation<f32>,
        bn: &BatchNorm2d<f32>,
        cache: &NormCache,
        relu: Option<Relu<f32>>,
    ) -> Self {
        let (h, affine, sums) = (&*cache.x, cache.affine(bn), PerLeaf::new(&pass.shards, cache.x.dim()));
        let mut gated = dy.into_owned();
        let epilogue = GateAndSum { x: h, affine: &affine, relu, sums: &sums };
        apply_to_all(&pass.shards, gated.as_slice_mut().expect("contiguous"), h.dim(), &epilogue);
        Incoming { dy: pass.shelf.recycled(gated.into_shared()), sums }
    }
}

/// The gradients of a unit's parameters and, with an epilogue, dx.
pub(super) fn backward(
    pass: &Pass,
    unit: &Unit<f32>,
    cache: &NormCache,
    incoming: Incoming,
    (x, shape): (&dyn Prologue, [usize; 4]),
    epilogue: Option<&dyn Epilogue>,
) -> Result<(Option<Activation<f32>>, UnitGrads<f32>)> {
    let convolution = Convolution::new(pass, &unit.conv, shape)?;
    let grads = cache.gradients(incoming.sums);
    let backward = cache.backward(&unit.bn, &grads);
    let dh = NormGradient { dy: &incoming.dy, x: &cache.x, backward: &backward };
    let (weight, dx) = match epilogue {
        Some(epilogue) => {
            let (weight, dx) = convolution.gradients(&dh, x, epilogue);
            (weight, Some(dx))
        }
        None => (convolution.weight_gradient(&dh, x), None),
    };
    Ok((dx, UnitGrads { conv: Conv2dGrads { weight, bias: None }, bn: cache.of_parameters(&grads) }))
}

/// relu(bn(conv(x)) [+ s]) in evaluation mode, computed while the convolution writes.
pub(super) fn predict(
    pass: &Pass,
    unit: &Unit<f32>,
    x: &Activation<f32>,
    plus: Option<&Activation<f32>>,
    relu: Option<Relu<f32>>,
) -> Result<Activation<f32>> {
    let convolution = Convolution::new(pass, &unit.conv, shape(x))?;
    let affine = Affine::running(&unit.bn, convolution.output())?;
    Ok(convolution.forward(x, &Normalize { affine: &affine, plus, relu }))
}

/// What the backward pass of a stem needs.
#[derive(Clone, Debug)]
pub(super) struct StemCache {
    x: Recycled,
    pub norm: NormCache,
}

/// y = act(bn(conv(x))), stored.
pub(super) fn forward_stem(pass: &Pass, unit: &Unit<f32>, x: &Activation<f32>) -> Result<(Activation<f32>, StemCache)> {
    let norm = forward(pass, &unit.conv, &unit.bn, x, shape(x))?;
    let affine = norm.affine(&unit.bn);
    let y = Normalized { x: &norm.x, affine: &affine, relu: unit.activation };
    let y = collect(&y, shape(&norm.x), &pass.shelf);
    Ok((y, StemCache { x: pass.shelf.recycled(x.clone()), norm }))
}

/// `(dx if requested, grads)` of a stem.
pub(super) fn backward_stem(
    pass: &Pass,
    unit: &Unit<f32>,
    incoming: Incoming,
    cache: &StemCache,
    input_gradient: bool,
) -> Result<(Option<Activation<f32>>, UnitGrads<f32>)> {
    let epilogue: Option<&dyn Epilogue> = if input_gradient { Some(&AsIs) } else { None };
    backward(pass, unit, &cache.norm, incoming, (&*cache.x, shape(&cache.x)), epilogue)
}
