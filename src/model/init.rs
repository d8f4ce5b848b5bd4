//! The initial parameters of a network.
//!
//! - convolutions: normal with mean 0 and standard deviation √(2 / fan_out), fan_out = C_out·kh·kw (He et al. 2015,
//!   arXiv 1502.01852, equation 14, the ReLU's gain √2). As in torchvision, fan_out is not divided by the groups.
//! - batch norm: γ = 1, β = 0, running mean 0, running variance 1;
//! - linear: weight and bias uniform in ±1/√fan_in, PyTorch's default;
//! - optionally γ = 0 in the last batch norm of every block (Goyal et al. 2017, arXiv 1706.02677, section 5.1):
//!   initially every block is its shortcut.
//!
//! Each tensor is drawn from its own stream, derived from the seed and its name ([`crate::rng`]), in `f64`, and rounded
//! to the network's type: adding a layer does not change the initial values of the others, and the f32 network is the
//! rounded f64 network.

use super::ResNet;
use crate::Scalar;
use crate::parameters::{Parameters, Role};
use crate::rng::{Purpose, Uniform, name_hash, normal, stream};

/// Initialises every tensor of `model` as described in the [module documentation](self).
pub fn initialise<T: Scalar>(model: &mut ResNet<T>, seed: u64) {
    let mut fan_in_of_linear = 1;
    model.visit_mut("", &mut |name, role, mut tensor| {
        let mut rng = stream(seed, Purpose::Initialise, &[name_hash(name)]);
        let shape = tensor.shape().to_vec();
        match (role, shape.as_slice()) {
            (Role::Weight, &[c_out, _, kh, kw]) => {
                let deviation = (2.0 / (c_out * kh * kw) as f64).sqrt();
                tensor.map_inplace(|v| *v = T::of(deviation * normal(&mut rng)));
            }
            (Role::Weight | Role::Bias, _) => {
                // The linear layer's weight (F_out, F_in) comes just before its bias.
                if let &[_, fan_in] = shape.as_slice() {
                    fan_in_of_linear = fan_in;
                }
                let bound = 1.0 / (fan_in_of_linear as f64).sqrt();
                let uniform = Uniform::new(-bound, bound);
                tensor.map_inplace(|v| *v = T::of(uniform.draw(&mut rng)));
            }
            (Role::Gamma, _) => tensor.fill(T::one()),
            (Role::Beta, _) => tensor.fill(T::zero()),
            (Role::Statistic, _) => tensor.fill(if name.ends_with("running_var") { T::one() } else { T::zero() }),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;
    use crate::parameters::fingerprint;

    /// A seed gives these weights, independently of the versions of other crates.
    ///
    /// One draw in 4,000 is in the tail of the ziggurat and uses a logarithm, which C libraries round differently in
    /// the last bit. Rounding to f32 hides the difference; in f64 it may show, so those bits are those of glibc on
    /// x86-64.
    #[test]
    fn seed_1_means_these_weights() {
        fn of<T: Scalar>() -> u64 {
            fingerprint(&ResNet::<T>::new(&Architecture::by_name("resnet20").unwrap(), 1).unwrap())
        }
        assert_eq!(of::<f32>(), 0xd95b77c689108d3b, "f32: {:#018x}", of::<f32>());
        if cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
            assert_eq!(of::<f64>(), 0x4d22bcee79acebdc, "f64: {:#018x}", of::<f64>());
        } else {
            eprintln!("SKIPPED: the f64 weights are known for glibc on x86-64 only");
        }
    }
}
