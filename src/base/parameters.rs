//! Named tensors in one order, shared by the optimiser, checkpoints, file formats and the gradient checks.

use crate::Scalar;
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD};

/// The role of a tensor in a model; the optimiser and the initialisation depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Weight of a convolution `(C_out, C_in/groups, kh, kw)` or linear layer `(out, in)`.
    Weight,
    /// Bias of a convolution or linear layer.
    Bias,
    /// Scale γ of a batch norm (`weight` in PyTorch).
    Gamma,
    /// Shift β of a batch norm (`bias` in PyTorch).
    Beta,
    /// Running mean or variance of a batch norm: saved, but not trained.
    Statistic,
}

impl Role {
    /// Whether the optimiser updates tensors of this role.
    pub fn is_trained(self) -> bool {
        self != Role::Statistic
    }
}

/// Something with named tensors: a layer, a block, a network.
///
/// Names and order are those of the `state_dict` of the same torchvision model.
pub trait Parameters<T: Scalar> {
    /// Calls `visitor(name, role, tensor)` for every tensor, names prefixed by `path`.
    fn visit(&self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewD<'_, T>));

    /// The same with mutable tensors, in the same order.
    fn visit_mut(&mut self, path: &str, visitor: &mut dyn FnMut(&str, Role, ArrayViewMutD<'_, T>));

    /// Number of trained scalars.
    fn parameter_count(&self) -> usize {
        let mut count = 0;
        self.visit("", &mut |_, role, tensor| {
            if role.is_trained() {
                count += tensor.len();
            }
        });
        count
    }
}

/// Whether this is one of PyTorch's batch counters, which this crate ignores.
///
/// ```
/// use resnet_by_hand::parameters::is_counter;
/// assert!(is_counter("layer1.0.bn1.num_batches_tracked") && !is_counter("bn1.running_mean"));
/// ```
pub fn is_counter(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

/// The name in this crate of the tensor that another program calls `name`: prefixes of wrappers are removed, `linear`
/// becomes `fc`, `shortcut` becomes `downsample`. The table is in `weights::state_dict`.
///
/// ```
/// use resnet_by_hand::parameters::our_name;
/// assert_eq!(our_name("module.layer2.0.shortcut.1.running_var"), "layer2.0.downsample.1.running_var");
/// assert_eq!(our_name("module.linear.bias"), "fc.bias");
/// assert_eq!(our_name("fc.bias"), "fc.bias");
/// ```
pub fn our_name(name: &str) -> String {
    let mut rest = name;
    while let Some(inner) = rest.strip_prefix("module.").or_else(|| rest.strip_prefix("_orig_mod.")) {
        rest = inner;
    }
    match rest.strip_prefix("linear.") {
        Some(last) => format!("fc.{last}"),
        None => rest.replace(".shortcut.", ".downsample."),
    }
}

/// Joins two parts of a name with a dot; an empty part adds nothing.
///
/// ```
/// use resnet_by_hand::parameters::join;
/// assert_eq!(join("layer1.0", "conv1"), "layer1.0.conv1");
/// assert_eq!(join("", "conv1"), "conv1");
/// ```
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() || name.is_empty() { [path, name].concat() } else { [path, ".", name].concat() }
}

/// The gradient of every trained tensor of a model, under its parameter's name and in the order of
/// [`Parameters::visit`].
#[derive(Clone, Debug, Default)]
pub struct Gradients<T> {
    entries: Vec<(String, ArrayD<T>)>,
}

impl<T: Scalar> Gradients<T> {
    /// No gradients yet.
    pub fn new() -> Self {
        Gradients { entries: Vec::new() }
    }

    /// Appends the gradient of the parameter `path.name`.
    pub fn push<D: ndarray::Dimension>(&mut self, path: &str, name: &str, gradient: ndarray::Array<T, D>) {
        self.entries.push((join(path, name), gradient.into_dyn()));
    }

    /// Every `(name, gradient)` in order, by value.
    pub fn into_entries(self) -> Vec<(String, ArrayD<T>)> {
        self.entries
    }

    /// Appends all entries of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.entries.append(&mut other.entries);
    }

    /// Every `(name, gradient)` in order, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut ArrayD<T>)> {
        self.entries.iter_mut().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// Sorts the gradients that a backward pass collected, last layer first, into the forward order of `model`.
    ///
    /// # Panics
    /// If a trained parameter of `model` has no gradient: the backward pass is incomplete.
    pub fn in_order_of(mut self, model: &impl Parameters<T>) -> Self {
        let mut entries = Vec::with_capacity(self.entries.len());
        model.visit("", &mut |name, role, _| {
            if role.is_trained() {
                let found = self.entries.iter().rposition(|(own, _)| own == name);
                entries.push(self.entries.swap_remove(found.unwrap_or_else(|| panic!("no gradient for {name}"))));
            }
        });
        Gradients { entries }
    }

    /// Adds the gradients of `other`, tensor by tensor.
    ///
    /// # Panics
    /// If `other` does not contain gradients of the same tensors in the same order.
    pub fn add(&mut self, other: &Self) {
        assert_eq!(self.len(), other.len(), "not the gradients of the same tensors");
        for ((name, sum), (other_name, gradient)) in self.entries.iter_mut().zip(&other.entries) {
            assert_eq!(name, other_name, "not the gradients of the same tensors");
            *sum += gradient;
        }
    }

    /// The gradient of the parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&ArrayD<T>> {
        self.entries.iter().find(|(own, _)| own == name).map(|(_, gradient)| gradient)
    }

    /// Every `(name, gradient)` in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ArrayD<T>)> {
        self.entries.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Scales all gradients, as one vector g, down to the norm `most` if theirs is greater: g ← g · min(1, most / ‖g‖),
    /// with the factor first rounded to `T` (Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063, algorithm 1). Returns ‖g‖
    /// before scaling.
    ///
    /// PyTorch's `clip_grad_norm_` adds 1e-6 to ‖g‖ because the norm may be 0. Here a gradient whose norm is 0 or not
    /// finite is not changed.
    pub fn clip_norm(&mut self, most: f64) -> f64 {
        let norm = self.norm();
        if norm > most && norm.is_finite() {
            let factor = T::of(most / norm);
            self.iter_mut().for_each(|(_, gradient)| gradient.mapv_inplace(|g| g * factor));
        }
        norm
    }

    /// The Euclidean norm of all gradients together, √(Σ g²), summed in `f64`.
    pub fn norm(&self) -> f64 {
        let squares: f64 = self.entries.iter().map(|(_, g)| g.iter().map(|v| v.as_f64().powi(2)).sum::<f64>()).sum();
        squares.sqrt()
    }
}

/// The 64-bit FNV-1a hash of all names and values in order: it changes when any bit of any tensor or any name changes.
/// It distinguishes runs; it is not meant for security.
pub fn fingerprint<T: Scalar>(model: &impl Parameters<T>) -> u64 {
    let mut hash = crate::rng::FNV_OFFSET;
    model.visit("", &mut |name, _, tensor| {
        hash = crate::rng::fnv1a(hash, name.as_bytes());
        for value in tensor.iter() {
            hash = crate::rng::fnv1a(hash, &value.as_f64().to_bits().to_le_bytes());
        }
    });
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr1;

    #[test]
    fn clipping_shortens_what_is_longer_and_nothing_else() {
        let gradients = |values: [f64; 2]| {
            let mut gradients = Gradients::new();
            gradients.push("a", "weight", arr1(&values[..1]));
            gradients.push("b", "weight", arr1(&values[1..]));
            gradients
        };
        let clipped = |values, most| {
            let mut gradients = gradients(values);
            let norm = gradients.clip_norm(most);
            (norm, gradients.iter().map(|(_, g)| g[[0]]).collect::<Vec<_>>())
        };
        assert_eq!(clipped([3.0, -4.0], 2.5), (5.0, vec![1.5, -2.0]));
        assert_eq!(clipped([3.0, -4.0], 5.0), (5.0, vec![3.0, -4.0]));
        assert_eq!(clipped([0.0, 0.0], 1.0), (0.0, vec![0.0, 0.0]));
        assert_eq!(clipped([f64::INFINITY, 1.0], 1.0), (f64::INFINITY, vec![f64::INFINITY, 1.0]));
    }
}
