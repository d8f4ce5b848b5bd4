//! Units and residual blocks in training and evaluation with their passes over memory fused.
//!
//! The same equations as in `unit.rs` and `block.rs`, in another order of memory traffic, with the sources and finishes of
//! [`crate::layers::fused`]. What is kept for the backward pass is smaller: of a unit only h, the output of its
//! convolution, and the batch norm's two vectors; `relu(batch_norm(h))` is computed again wherever it is read.
//!
//! ```text
//! forward    h₁ = conv₁(x)                  gathering the moments of h₁
//!            h₂ = conv₂(relu(bn₁(h₁)))      reading h₁, gathering the moments of h₂
//!            y  = relu(bn₂(h₂) + S(x))      one pass
//! backward   ds = relu'(y) dy               one pass, gathering the sums of bn₂
//!            d₁ = gate₁ · conv₂ᵀ dh₂        reading ds and h₂, gathering the sums of bn₁
//!            dx = conv₁ᵀ dh₁ + ds           reading d₁ and h₁
//! ```
//!
//! Results are those of the plain blocks to the bit.

use super::block::ResidualBlock;
use super::shortcut::Shortcut;
use super::unit::{Unit, UnitGrads};
use crate::kernels::buffers::{dirty, dirty_array, Recycled};
use crate::kernels::simd::wide;
use crate::layers::batch_norm::sums::{add_pairs, pair_sums, Gather, PairSums};
use crate::layers::batch_norm::{BatchNorm2dCache, Normalization};
use crate::layers::conv2d::frame::{AsIs, Finish, Source};
use crate::layers::conv2d::Conv2dGrads;
use crate::layers::fused::{GatherMoments, GatherPairs, Normalize, Normalized, Plus, Pulled};
use crate::layers::zero_pad_shortcut::ZeroPadShortcutCache;
use crate::layers::{check_dy, contiguous, Activation, Mode, Relu};
use crate::{Result, Scalar};
use ndarray::Array4;
use rayon::prelude::*;

/// What backward needs of a unit.
#[derive(Clone, Debug)]
pub(crate) struct UnitCache<T: Scalar> {
    pub bn: BatchNorm2dCache<T>,
}

/// What backward needs of a block.
#[derive(Clone, Debug)]
pub(crate) struct BlockCache<T: Scalar> {
    x: Recycled<T>,
    pub branch: Vec<UnitCache<T>>,
    pub projection: Option<UnitCache<T>>,
    zero_pad: Option<ZeroPadShortcutCache>,
    y: Recycled<T>,
}

/// h = conv(x) and its moments.
fn forward_unit<T: Scalar>(unit: &Unit<T>, x: &dyn Source<T>, shape: [usize; 4]) -> Result<UnitCache<T>> {
    let geometry = unit.conv.geometry_of(shape)?;
    let out = (geometry.n, geometry.h_out, geometry.w_out, geometry.c_out);
    unit.bn.check(out, Mode::Train)?;
    let gather = Gather::new(out);
    let h = unit.conv.forward_from(&geometry, x, &GatherMoments { c: geometry.c_out, gather: &gather });
    Ok(UnitCache { bn: unit.bn.training_cache(&h, gather) })
}

fn normalization<T: Scalar>(unit: &Unit<T>, cache: &UnitCache<T>) -> Normalization<T> {
    unit.bn.normalization(&cache.bn.mean, &cache.bn.rstd)
}

/// The gradient of `batch_norm(h)` and the sums it gives.
struct Incoming<T: Scalar> {
    dy: Recycled<T>,
    sums: Option<PairSums<T>>,
}

/// The gradients of a unit's parameters and, if `finish` is given, dx finished by it.
fn backward_unit<T: Scalar>(
    unit: &Unit<T>,
    cache: &UnitCache<T>,
    incoming: Incoming<T>,
    (x, shape): (&dyn Source<T>, [usize; 4]),
    finish: Option<&dyn Finish<T>>,
) -> Result<(Option<Activation<T>>, UnitGrads<T>)> {
    let geometry = unit.conv.geometry_of(shape)?;
    let bn = unit.bn.gradients(incoming.sums, &cache.bn);
    let pullback = unit.bn.pullback(&bn, &cache.bn);
    let dh = Pulled { dy: &incoming.dy, h: cache.bn.x(), pullback: &pullback };
    let weight = unit.conv.weight_gradient_from(&geometry, &dh, x);
    let dx = finish.map(|finish| unit.conv.input_gradient_from(&geometry, &dh, finish));
    Ok((dx, UnitGrads { conv: Conv2dGrads { weight, bias: None }, bn }))
}

/// y = relu(bn(conv(x))).
pub(crate) fn forward_stem<T: Scalar>(unit: &Unit<T>, x: &Activation<T>) -> Result<(Activation<T>, StemCache<T>)> {
    let x = contiguous(x);
    let cache = forward_unit(unit, &x, shape(&x))?;
    let normal = normalization(unit, &cache);
    let y = Normalized { h: cache.bn.x(), normal: &normal, relu: unit.activation };
    let y = y.collect(shape(cache.bn.x()));
    Ok((y, StemCache { x: x.into(), unit: cache }))
}

/// What backward needs of a stem.
#[derive(Clone, Debug)]
pub(crate) struct StemCache<T: Scalar> {
    x: Recycled<T>,
    pub unit: UnitCache<T>,
}

/// `(dx if asked for, grads)` of a stem.
pub(crate) fn backward_stem<T: Scalar>(
    unit: &Unit<T>,
    dy: &Activation<T>,
    cache: &StemCache<T>,
    input_gradient: bool,
) -> Result<(Option<Activation<T>>, UnitGrads<T>)> {
    let h = cache.unit.bn.x();
    check_dy("unit", dy.shape(), h.shape())?;
    let normal = normalization(unit, &cache.unit);
    let gather = Gather::new(h.dim());
    let dy = contiguous(dy);
    let mut gated = dirty_array(dy.dim());
    gated.assign(&dy);
    let finish = GatherPairs { h, normal: &normal, relu: unit.activation, gather: &gather };
    let image = h.len() / h.shape()[0].max(1);
    crate::layers::conv2d::frame::finish_all(gated.as_slice_mut().expect("contiguous"), image, &finish);
    let incoming = Incoming { dy: gated.into_shared().into(), sums: gather.total(&add_pairs) };
    let finish: Option<&dyn Finish<T>> = if input_gradient { Some(&AsIs) } else { None };
    backward_unit(unit, &cache.unit, incoming, (&*cache.x, shape(&cache.x)), finish)
}

/// relu(bn(conv(x)) [+ s]) in evaluation: everything as the convolution writes.
fn predict_unit<T: Scalar>(
    unit: &Unit<T>,
    x: &Activation<T>,
    plus: Option<&Activation<T>>,
    relu: Option<Relu<T>>,
) -> Result<Activation<T>> {
    let geometry = unit.conv.geometry_of(shape(x))?;
    unit.bn.check((geometry.n, geometry.h_out, geometry.w_out, geometry.c_out), Mode::Eval)?;
    let normal = unit.bn.running_normalization();
    Ok(unit.conv.forward_from(&geometry, x, &Normalize { normal: &normal, plus, relu }))
}

/// y = relu(bn(conv(x))) in evaluation.
pub(crate) fn predict_stem<T: Scalar>(unit: &Unit<T>, x: &Activation<T>) -> Result<Activation<T>> {
    predict_unit(unit, &contiguous(x), None, unit.activation)
}

impl<T: Scalar> ResidualBlock<T> {
    /// y in evaluation, keeping nothing.
    pub(crate) fn predict_fused(&self, x: &Activation<T>) -> Result<Activation<T>> {
        let x = contiguous(x);
        let s = match &self.shortcut {
            Shortcut::Absent => None,
            Shortcut::Identity => Some(x.clone()),
            Shortcut::ZeroPad(layer) => Some(layer.forward(&x)?.0),
            Shortcut::Projection(unit) => Some(predict_unit(unit, &x, None, None)?),
        };
        let s = s.map(Recycled::from);
        let (last, others) = self.branch.split_last().expect("a branch has units");
        let mut h = Recycled::from(x);
        for unit in others {
            h = predict_unit(unit, &h, None, unit.activation)?.into();
        }
        predict_unit(last, &h, s.as_deref(), Some(self.activation))
    }

    /// y and what backward needs, in training.
    pub(crate) fn forward_fused(&self, x: &Activation<T>) -> Result<(Activation<T>, BlockCache<T>)> {
        let x = contiguous(x);
        let mut branch: Vec<UnitCache<T>> = Vec::with_capacity(self.branch.len());
        for (i, unit) in self.branch.iter().enumerate() {
            let cache = match i.checked_sub(1) {
                None => forward_unit(unit, &x, shape(&x))?,
                Some(before) => {
                    let normal = normalization(&self.branch[before], &branch[before]);
                    let h = branch[before].bn.x();
                    let source = Normalized { h, normal: &normal, relu: self.branch[before].activation };
                    forward_unit(unit, &source, shape(h))?
                }
            };
            branch.push(cache);
        }
        let (mut projection, mut zero_pad, mut s) = (None, None, None);
        match &self.shortcut {
            Shortcut::Absent => {}
            Shortcut::Identity => s = Some(x.clone()),
            Shortcut::ZeroPad(layer) => {
                let (padded, cache) = layer.forward(&x)?;
                (s, zero_pad) = (Some(padded), Some(cache));
            }
            Shortcut::Projection(unit) => projection = Some(forward_unit(unit, &x, shape(&x))?),
        }
        let s = s.map(Recycled::from);
        let y = self.join(&branch[branch.len() - 1], projection.as_ref(), s.as_deref());
        Ok((y.clone(), BlockCache { x: x.into(), branch, projection, zero_pad, y: y.into() }))
    }

    /// relu(bn(h) + S(x)) in one pass; S(x) is stored, or the batch norm of a projection.
    fn join(&self, last: &UnitCache<T>, projection: Option<&UnitCache<T>>, s: Option<&Activation<T>>) -> Activation<T> {
        let (unit, h) = (self.branch.last().expect("a branch has units"), last.bn.x());
        let normal = normalization(unit, last);
        let projected = match (&self.shortcut, projection) {
            (Shortcut::Projection(unit), Some(cache)) => Some((normalization(unit, cache), cache.bn.x())),
            _ => None,
        };
        let summand = projected.as_ref().map(|(_, h)| *h).or(s).unwrap_or(h);
        let arrays = [h, summand].map(|array| array.as_slice().expect("contiguous"));
        let mut y = dirty(h.len());
        normal.run.for_each_piece(&mut y, arrays, |y, [h, s]| {
            let run = normal.run.len();
            let mut buffer = vec![T::zero(); run];
            wide(|| {
                for ((y, h), s) in y.chunks_mut(run).zip(h.chunks(run)).zip(s.chunks(run)) {
                    normal.apply(h, y);
                    match &projected {
                        Some((normal, _)) => {
                            normal.apply(s, &mut buffer);
                            y.iter_mut().zip(&buffer).for_each(|(y, &s)| *y = self.activation.of(*y + s));
                        }
                        None if matches!(self.shortcut, Shortcut::Absent) => {
                            y.iter_mut().for_each(|y| *y = self.activation.of(*y));
                        }
                        None => y.iter_mut().zip(s).for_each(|(y, &s)| *y = self.activation.of(*y + s)),
                    }
                }
            });
        });
        Array4::from_shape_vec(h.dim(), y).expect("the length of h").into_shared()
    }

    /// `(dx, grads of the branch, grads of the projection)` of a fused forward pass.
    #[expect(clippy::type_complexity, reason = "it is what the plain block returns, in parts")]
    pub(crate) fn backward_fused(
        &self,
        dy: &Activation<T>,
        cache: &BlockCache<T>,
    ) -> Result<(Activation<T>, Vec<UnitGrads<T>>, Option<UnitGrads<T>>)> {
        check_dy("residual block", dy.shape(), cache.y.shape())?;
        let (x, x_shape) = (&*cache.x, shape(&cache.x));
        let last = self.branch.len() - 1;
        // y = relu(F(x) + S(x)): the addition hands its gradient ds to both summands.
        let (ds, mut sums, projection_sums) = self.gate(dy, cache);
        let (mut through_shortcut, mut projection_grads) = (None, None);
        match (&self.shortcut, &cache.projection, &cache.zero_pad) {
            (Shortcut::Projection(unit), Some(cache), _) => {
                let incoming = Incoming { dy: ds.clone().into(), sums: projection_sums };
                let (dx, grads) = backward_unit(unit, cache, incoming, (x, x_shape), Some(&AsIs))?;
                (through_shortcut, projection_grads) = (dx, Some(grads));
            }
            (Shortcut::ZeroPad(layer), _, Some(cache)) => through_shortcut = Some(layer.backward(&ds, cache)?),
            (Shortcut::Absent, ..) => {}
            _ => through_shortcut = Some(ds.clone()), // dS/dx = 1
        }
        let mut branch = Vec::with_capacity(self.branch.len());
        let mut dh = Recycled::from(ds);
        for i in (1..=last).rev() {
            let (before, kept) = (&self.branch[i - 1], &cache.branch[i - 1]);
            let (h, normal) = (kept.bn.x(), normalization(before, kept));
            let gather = Gather::new(h.dim());
            let finish = GatherPairs { h, normal: &normal, relu: before.activation, gather: &gather };
            let source = Normalized { h, normal: &normal, relu: before.activation };
            let incoming = Incoming { dy: dh, sums };
            let (dx, grads) =
                backward_unit(&self.branch[i], &cache.branch[i], incoming, (&source, shape(h)), Some(&finish))?;
            branch.push(grads);
            (dh, sums) = (dx.expect("asked for").into(), gather.total(&add_pairs));
        }
        // x was used twice: its gradients add.
        let through_shortcut = through_shortcut.map(Recycled::from);
        let plus = through_shortcut.as_deref().map(Plus);
        let finish: &dyn Finish<T> = match &plus {
            Some(plus) => plus,
            None => &AsIs,
        };
        let incoming = Incoming { dy: dh, sums };
        let (dx, grads) = backward_unit(&self.branch[0], &cache.branch[0], incoming, (x, x_shape), Some(finish))?;
        branch.push(grads);
        branch.reverse();
        Ok((dx.expect("asked for"), branch, projection_grads))
    }

    /// ds = relu'(y) dy, and the sums of the batch norms it goes through: the branch's last and the projection's.
    fn gate(
        &self,
        dy: &Activation<T>,
        cache: &BlockCache<T>,
    ) -> (Activation<T>, Option<PairSums<T>>, Option<PairSums<T>>) {
        let dy = contiguous(dy);
        let last = &cache.branch[cache.branch.len() - 1].bn;
        let norms: Vec<_> = std::iter::once(last).chain(cache.projection.as_ref().map(|unit| &unit.bn)).collect();
        let gathers: Vec<_> = norms.iter().map(|_| Gather::new(last.x().dim())).collect();
        let run = crate::layers::batch_norm::sums::Run::of(last.mean.len());
        let means: Vec<_> = norms.iter().map(|norm| run.repeat(&norm.mean)).collect();
        let leaves = gathers[0].leaves;
        let image = last.x().len() / last.x().shape()[0].max(1);
        let [dy, y] = [&dy, &*cache.y].map(|array| array.as_slice().expect("contiguous"));
        let mut ds = dirty(dy.len());
        let piece = (leaves.images() * image).max(1);
        ds.par_chunks_mut(piece).enumerate().for_each(|(i, ds)| {
            let at = i * piece;
            for (leaf, range) in leaves.within(at, ds.len()) {
                let whole = at + range.start..at + range.end;
                let ds = &mut ds[range];
                wide(|| {
                    for ((ds, &dy), &y) in ds.iter_mut().zip(&dy[whole.clone()]).zip(&y[whole.clone()]) {
                        *ds = self.activation.pull(dy, y);
                    }
                });
                for ((norm, gather), means) in norms.iter().zip(&gathers).zip(&means) {
                    let h = &norm.x().as_slice().expect("contiguous")[whole.clone()];
                    gather.put(leaf, pair_sums(run, ds, h, means));
                }
            }
        });
        let ds = Array4::from_shape_vec(last.x().dim(), ds).expect("the length of dy").into_shared();
        let mut sums = gathers.into_iter().map(|gather| gather.total(&add_pairs));
        (ds, sums.next().flatten(), sums.next().flatten())
    }
}

fn shape<T: Scalar>(x: &Activation<T>) -> [usize; 4] {
    x.dim().into()
}

#[cfg(test)]
mod tests {
    use crate::layers::{Conv2dAlgorithm, Mode, SoftmaxCrossEntropy};
    use crate::model::{Architecture, ResNet};
    use crate::parameters::Parameters as _;
    use crate::rng::{stream, Purpose};
    use crate::{Activation, Scalar};
    use ndarray::Array4;
    use rand::RngExt as _;

    fn images<T: Scalar>(n: usize, size: usize) -> Activation<T> {
        let mut rng = stream(3, Purpose::Verify, &[]);
        Array4::from_shape_simple_fn((n, size, size, 3), || T::of(rng.random_range(-1.0..1.0))).into_shared()
    }

    /// One training pass and one evaluation: logits, dx, every gradient, the running statistics.
    fn everything<T: Scalar>(model: &ResNet<T>, x: &Activation<T>) -> Vec<(String, Vec<T>)> {
        let mut model = model.clone();
        let (logits, cache) = model.forward(x, Mode::Train).unwrap();
        let targets: Vec<usize> = (0..x.shape()[0]).map(|i| i % 10).collect();
        let (_, loss) = SoftmaxCrossEntropy::new().forward(&logits, &targets).unwrap();
        model.update_running_statistics(&cache);
        let (dx, gradients) = model.backward(&SoftmaxCrossEntropy::new().backward(&loss), cache).unwrap();
        let mut all =
            vec![("logits".into(), logits.iter().copied().collect()), ("dx".into(), dx.iter().copied().collect())];
        all.extend(gradients.iter().map(|(name, gradient)| (name.to_string(), gradient.iter().copied().collect())));
        all.push(("eval".into(), model.predict(x).unwrap().iter().copied().collect()));
        let (logits, _) = model.forward(x, Mode::Eval).unwrap();
        all.push(("eval, plainly".into(), logits.iter().copied().collect()));
        model.visit("", &mut |name, _, values| all.push((name.to_string(), values.iter().copied().collect())));
        all
    }

    fn fused_equals_plain<T: Scalar>(name: &str, n: usize, size: usize, algorithm: Conv2dAlgorithm) {
        let mut model = ResNet::<T>::new(&Architecture::by_name(name).unwrap().with_classes(10), 1).unwrap();
        model.convs_mut().into_iter().for_each(|conv| conv.algorithm = algorithm);
        for (i, bn) in model.norms_mut().into_iter().enumerate() {
            bn.beta.iter_mut().enumerate().for_each(|(c, beta)| *beta = T::of(((i + c) % 5) as f64 * 0.1 - 0.2));
            bn.gamma.iter_mut().enumerate().for_each(|(c, gamma)| *gamma = T::of(1.5 - ((i + c) % 3) as f64));
        }
        let x = images(n, size);
        model.set_fused(false);
        let plain = everything(&model, &x);
        model.set_fused(true);
        let fused = everything(&model, &x);
        assert_eq!(plain.len(), fused.len());
        for ((name_plain, plain), (name_fused, fused)) in plain.iter().zip(&fused) {
            assert_eq!(name_plain, name_fused);
            let bits = |values: &[T]| values.iter().map(|value| value.as_f64().to_bits()).collect::<Vec<_>>();
            assert!(bits(plain) == bits(fused), "{name_plain} of {name}, {algorithm:?}, {n} images of {size}");
        }
    }

    /// Identity, option A, projections, no shortcut; basic blocks and bottlenecks; sizes at which leaves, pieces and tiles
    /// end at different places; f64 too, where it is off by default.
    #[test]
    fn fused_passes_equal_the_plain_layers_to_the_bit() {
        use Conv2dAlgorithm::{Auto, Gemm, Implicit, Winograd2, Winograd4};
        for (name, n, size, algorithm) in [
            ("resnet8", 7, 32, Auto),
            ("resnet8", 5, 20, Winograd4),
            ("resnet8", 9, 18, Winograd2),
            ("resnet8", 3, 17, Gemm),
            ("plain8", 6, 12, Implicit),
            ("resnet18-cifar", 3, 14, Auto),
            ("resnet50-cifar", 3, 9, Auto),
            ("resnet18", 2, 40, Auto),
        ] {
            fused_equals_plain::<f32>(name, n, size, algorithm);
        }
        fused_equals_plain::<f64>("resnet8", 3, 16, Auto);
    }
}
