//! Is the conformance pack worth anything? Many faults are injected into every operation ([`mutants`]), and the wrong results
//! are compared with the pack, as another implementation's would be.
//!
//! A test suite that nothing fails may test nothing: the one case of a whole ResNet among ONNX's backend tests is said to
//! pass with every residual branch cut. So a mutant that no case detects is a defect of the pack, and [`score`] names it.

use super::arithmetic::Arithmetic;
use super::compare::compare;
use super::dump::tolerance_of;
use super::mutants::{Mutant, mutants};
use super::pack::{Case, Level};
use crate::Result;
use crate::tensors::Tensors;

/// The outcome of a mutant.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// The mutant.
    pub mutant: Mutant,
    /// Cases whose results its fault changes.
    pub cases: usize,
    /// Whether a case of a layer, of a block, of a network detected it, all in `float64`.
    pub caught: [bool; 3],
    /// Whether a case detected it in `float32`, with the wider tolerances of that type.
    pub caught_in_float32: bool,
    /// Whether a case detected it by results alone, without gradients and updated parameters.
    pub caught_forward: bool,
}

impl Scored {
    /// Whether the pack detects it in both types.
    pub fn is_caught(&self) -> bool {
        self.caught.contains(&true) && self.caught_in_float32
    }
}

/// Compares every mutant with every one of `cases`. `each` receives the number of cases done.
///
/// # Errors
/// Those of [`compare`], which the cases of this crate never cause.
pub fn score(cases: &[Case], mut each: impl FnMut(usize)) -> Result<Vec<Scored>> {
    let fresh =
        |mutant| Scored { mutant, cases: 0, caught: [false; 3], caught_in_float32: false, caught_forward: false };
    let mut all: Vec<Scored> = mutants().into_iter().map(fresh).collect();
    for (done, case) in cases.iter().enumerate() {
        each(done);
        let expected = case.expected(&[Arithmetic::F64, Arithmetic::F32]);
        for scored in &mut all {
            let Some(wrong) = scored.mutant.compute(case) else { continue };
            if same(&expected, &wrong) {
                continue;
            }
            scored.cases += 1;
            let level = match case.level() {
                Level::Layer => 0,
                Level::Block => 1,
                Level::Network => 2,
            };
            if wrong.is_empty() {
                // Nothing can be computed: no check overlooks that.
                scored.caught[level] = true;
                (scored.caught_in_float32, scored.caught_forward) = (true, true);
                continue;
            }
            scored.caught[level] |= !compare(&expected, &wrong, None)?.passed();
            if !scored.caught_in_float32 {
                scored.caught_in_float32 = !compare(&expected, &wrong.rounded(), None)?.passed();
            }
            let forward = forward(&wrong, level);
            if !scored.caught_forward && !forward.is_empty() {
                scored.caught_forward = !compare(&expected, &forward, None)?.passed();
            }
        }
    }
    each(cases.len());
    Ok(all)
}

fn same(expected: &Tensors, b: &Tensors) -> bool {
    let results = expected.names().filter(|name| tolerance_of(name).is_none()).count();
    results == b.len() && b.iter().all(|(name, tensor)| expected.get(name) == Some(tensor))
}

/// The results of a forward pass. A network's running statistics are left out: they are those after steps of SGD.
fn forward(tensors: &Tensors, level: usize) -> Tensors {
    let mut result = Tensors::new();
    for (name, tensor) in tensors.iter() {
        let of_forward = ["output", "logits", "loss"].iter().any(|start| name.starts_with(start));
        let statistic = name.ends_with("running_mean") || name.ends_with("running_var");
        if of_forward || statistic && level < 2 {
            result.insert(name, tensor.clone());
        }
    }
    result
}
