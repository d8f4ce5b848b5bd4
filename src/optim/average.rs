//! An exponential moving average of the weights, which varies less than the weights themselves.
//!
//! With the weights w_t after step t = 0, 1, …, and the average w̄ that begins as the initial weights,
//!
//! ```text
//! d_t = min(d, (1 + t) / (10 + t))
//! w̄  ← w̄ + (1 − d_t) (w_t − w̄)
//! ```
//!
//! While the learning rate is high, the weights move around a minimum; their average is nearer to it (Polyak & Juditsky
//! 1992; Izmailov et al. 2018, arXiv 1803.05407). d = 0.999 averages over about 1/(1 − d) = 1,000 steps. With d_t the
//! first steps forget the random initial weights sooner; it is that of TensorFlow's
//! `ExponentialMovingAverage(num_updates)`. With a learning rate that ends at 0 the average gains little.
//!
//! Running means and variances of batch norm are averaged like weights (torchvision's `use_buffers=True`): a network
//! must be evaluated with the statistics of its own activations, and the averaged statistics are nearer to them.
//!
//! The average is evaluated and saved; training continues with the weights themselves.
//!
//! ```
//! use ndarray::arr1;
//! use resnet_by_hand::model::{Architecture, ResNet};
//! use resnet_by_hand::optim::WeightAverage;
//! let model = ResNet::<f64>::new(&Architecture::by_name("resnet8")?, 1)?;
//! let mut average = WeightAverage::new(0.999, &model)?;
//! average.update(&model, 0); // of equal weights: the same
//! let mut averaged = ResNet::<f64>::zeroed(&Architecture::by_name("resnet8")?)?;
//! average.copy_to(&mut averaged);
//! # use resnet_by_hand::parameters::fingerprint;
//! assert_eq!(fingerprint(&averaged), fingerprint(&model));
//! # Ok::<(), resnet_by_hand::Error>(())
//! ```

use crate::parameters::Parameters;
use crate::{Error, Result, Scalar};
use ndarray::ArrayD;
use rayon::prelude::*;

/// Elements that one thread averages at a time.
const PIECE: usize = 1 << 14;

/// w̄: see the [module](self).
#[derive(Clone, Debug)]
pub struct WeightAverage<T> {
    decay: f64,
    tensors: Vec<(String, ArrayD<T>)>,
}

impl<T: Scalar> WeightAverage<T> {
    /// The average before the first step: the weights of `model`, running statistics included.
    ///
    /// # Errors
    /// If `decay` d is not in 0..1.
    pub fn new(decay: f64, model: &impl Parameters<T>) -> Result<Self> {
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::argument("ema_decay", format!("must be at least 0 and below 1, got {decay}")));
        }
        let mut tensors = Vec::new();
        model.visit("", &mut |name, _, tensor| {
            tensors.push((name.to_string(), tensor.as_standard_layout().into_owned()));
        });
        Ok(WeightAverage { decay, tensors })
    }

    /// Adds the weights of `model` after step `step`, counted from 0 over the whole run, to the average.
    ///
    /// # Panics
    /// If the tensors of `model` are not those of the model with which the average was created.
    pub fn update(&mut self, model: &impl Parameters<T>, step: usize) {
        let t = step as f64;
        let rest = T::of(1.0 - self.decay.min((1.0 + t) / (10.0 + t)));
        let mut averages = self.tensors.iter_mut();
        model.visit("", &mut |name, _, weights| {
            let (own, average) = averages.next().expect("as many tensors");
            assert_eq!(own, name, "the tensors of the model");
            let (average, weights) = (average.as_slice_mut().expect("standard layout"), weights.as_standard_layout());
            let weights = weights.as_slice().expect("standard layout");
            assert_eq!(average.len(), weights.len(), "the tensors of the model");
            let pieces = average.par_chunks_mut(PIECE).zip(weights.par_chunks(PIECE));
            pieces.for_each(|(average, weights)| {
                for (a, &w) in average.iter_mut().zip(weights) {
                    *a = rest.mul_add(w - *a, *a);
                }
            });
        });
    }

    /// Copies the average to `model`.
    ///
    /// # Panics
    /// If `model` has other tensors.
    pub fn copy_to(&self, model: &mut impl Parameters<T>) {
        let mut averages = self.tensors.iter();
        model.visit_mut("", &mut |name, _, mut weights| {
            let (own, average) = averages.next().expect("as many tensors");
            assert_eq!(own, name, "the tensors of the model");
            weights.assign(average);
        });
    }

    /// Every averaged tensor with its name, in the model's order: for a checkpoint.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &ArrayD<T>)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Restores what [`tensors`](Self::tensors) returned, in any order.
    ///
    /// # Errors
    /// If a tensor is missing, unknown or of another shape; then nothing is changed.
    pub fn restore(&mut self, tensors: impl IntoIterator<Item = (String, ArrayD<T>)>) -> Result<()> {
        let mut given: Vec<_> = tensors.into_iter().collect();
        let wrong = |message: String| Error::argument("ema", message);
        let mut restored = Vec::with_capacity(self.tensors.len());
        for (name, own) in &self.tensors {
            let found = given.iter().position(|(other, _)| other == name);
            let found = found.ok_or_else(|| wrong(format!("expects an average of {name}, found none")))?;
            let (_, tensor) = given.swap_remove(found);
            if tensor.shape() != own.shape() {
                let shapes = format!("{:?}, got {:?}", own.shape(), tensor.shape());
                return Err(wrong(format!("expects an average of {name} of shape {shapes}")));
            }
            restored.push((name.clone(), tensor.as_standard_layout().into_owned()));
        }
        if let Some((name, _)) = given.first() {
            return Err(wrong(format!("the model has no tensor {name}")));
        }
        self.tensors = restored;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Role;
    use ndarray::{Array1, ArrayViewD, ArrayViewMutD, arr1};

    struct Model(Array1<f64>, Array1<f64>);

    impl Parameters<f64> for Model {
        fn visit(&self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, f64>)) {
            visitor("bn1.weight", Role::Gamma, self.0.view().into_dyn());
            visitor("bn1.running_mean", Role::Statistic, self.1.view().into_dyn());
        }
        fn visit_mut(&mut self, _: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, f64>)) {
            visitor("bn1.weight", Role::Gamma, self.0.view_mut().into_dyn());
            visitor("bn1.running_mean", Role::Statistic, self.1.view_mut().into_dyn());
        }
    }

    /// d_0 = 1/10 and d_1 = 2/11 of the warm-up, then d = 1/4, which is exact; for running statistics, too.
    #[test]
    fn three_steps_by_hand() {
        let mut average = WeightAverage::new(0.25, &Model(arr1(&[10.0]), arr1(&[0.0]))).unwrap();
        let step = |average: &mut WeightAverage<f64>, w: f64, step| {
            average.update(&Model(arr1(&[w]), arr1(&[-w])), step);
            let mut model = Model(arr1(&[0.0]), arr1(&[0.0]));
            average.copy_to(&mut model);
            [model.0[0], model.1[0]]
        };
        // 1/10 · 10 + 9/10 · 20; two roundings.
        let [gamma, mean] = step(&mut average, 20.0, 0);
        assert!((gamma - 19.0).abs() <= 19.0 * f64::EPSILON && (mean + 18.0).abs() <= 18.0 * f64::EPSILON);
        let [gamma, _] = step(&mut average, 8.0, 1);
        assert!((gamma - 10.0).abs() <= 40.0 * f64::EPSILON, "{gamma}"); // 2/11 · 19 + 9/11 · 8
        let [gamma, _] = step(&mut average, 2.0, 100);
        assert!((gamma - 4.0).abs() <= 40.0 * f64::EPSILON, "{gamma}"); // 1/4 · 10 + 3/4 · 2
    }

    /// Larger than a piece: every element is averaged once.
    #[test]
    fn large_tensors_are_averaged_whole() {
        let n = 2 * PIECE + 7;
        let numbers = Array1::from_iter((0..n).map(|i| i as f64));
        let mut average = WeightAverage::new(0.5, &Model(Array1::zeros(n), arr1(&[0.0]))).unwrap();
        average.update(&Model(numbers.clone(), arr1(&[0.0])), 1000);
        assert_eq!(average.tensors[0].1, (numbers / 2.0).into_dyn());
    }

    #[test]
    fn what_is_saved_is_restored_and_nothing_else() {
        let model = Model(arr1(&[1.0, 2.0]), arr1(&[3.0, 4.0]));
        let mut average = WeightAverage::new(0.9, &model).unwrap();
        average.update(&Model(arr1(&[5.0, 6.0]), arr1(&[7.0, 8.0])), 3);
        let saved: Vec<(String, ArrayD<f64>)> =
            average.tensors().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
        let mut restored = WeightAverage::new(0.9, &model).unwrap();
        restored.restore(saved.iter().rev().cloned()).unwrap();
        assert_eq!(restored.tensors, average.tensors);
        let message =
            |tensors: Vec<_>| WeightAverage::new(0.9, &model).unwrap().restore(tensors).unwrap_err().to_string();
        assert!(message(saved[..1].to_vec()).contains("an average of bn1.running_mean, found none"));
        let other = |name: &str, n| (name.to_string(), ArrayD::zeros(vec![n]));
        assert!(message(vec![other("bn1.weight", 3), saved[1].clone()]).contains("[2], got [3]"));
        assert!(message([saved, vec![other("fc.bias", 2)]].concat()).contains("the model has no tensor fc.bias"));
        for wrong in [1.0, -0.1, f64::NAN] {
            assert!(WeightAverage::new(wrong, &model).is_err());
        }
    }
}
