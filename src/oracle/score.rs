//! Is the conformance pack worth anything? Many faults are injected into every operation ([`mutants`]), and the wrong results
//! are compared with the pack, as another implementation's would be.
//!
//! A test suite that nothing fails may test nothing: the one case of a whole ResNet among ONNX's backend tests is said to
//! pass with every residual branch cut. So a mutant that no case detects is a defect of the pack, and [`score`] names it.

use super::arithmetic::{Arithmetic, ComputedIn, Float};
use super::compare::compare_by;
use super::dump::tolerance_of;
use super::mutants::{Mutant, mutants};
use super::pack::{Case, Level};
use crate::Result;
use crate::tensors::{Tensor, Tensors};

/// The outcome of a mutant.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The mutant.
    pub mutant: Mutant,
    /// Cases whose results its fault changes.
    pub cases: usize,
    /// Whether a case of a layer, of a block, of a network detected it, all in `float64`.
    pub caught: [bool; 3],
    /// Whether a case detected it in each arithmetic, with the tolerances of that arithmetic.
    pub caught_in: Vec<bool>,
    /// Whether a case detected it by results alone, without gradients and updated parameters.
    pub caught_forward: bool,
}

impl Scored {
    /// Whether the pack detects it in every arithmetic.
    pub fn is_caught(&self) -> bool {
        self.caught_in.iter().all(|caught| *caught)
    }
}

/// Compares every mutant with every one of `cases`, its results as numbers of each of `precisions`, of which float64 is the
/// first. `each` receives the number of cases done.
///
/// # Errors
/// Those of a comparison, which the cases of this crate never cause.
pub fn score(cases: &[Case], precisions: &[Arithmetic], mut each: impl FnMut(usize)) -> Result<Vec<Scored>> {
    let fresh = |mutant| Scored {
        mutant,
        cases: 0,
        caught: [false; 3],
        caught_in: vec![false; precisions.len()],
        caught_forward: false,
    };
    let mut all: Vec<Scored> = mutants().into_iter().map(fresh).collect();
    for (done, case) in cases.iter().enumerate() {
        each(done);
        let expected = case.expected(precisions);
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
                scored.caught_in.fill(true);
                scored.caught_forward = true;
                continue;
            }
            let detects = |results: &Tensors, arithmetic: &Arithmetic| -> Result<bool> {
                Ok(!compare_by(&expected, &expected, results, None, &ComputedIn::all(*arithmetic))?.passed())
            };
            for (arithmetic, caught) in precisions.iter().zip(&mut scored.caught_in) {
                if *arithmetic == Arithmetic::F64 {
                    let detected = detects(&wrong, arithmetic)?;
                    (scored.caught[level], *caught) = (scored.caught[level] || detected, *caught || detected);
                } else if !*caught {
                    // A thousandth is less than a rounding to 16 bits; there it is a fiftieth.
                    let small = scored.mutant.is_a_thousandth() && arithmetic.coarsest() > 1e-4;
                    let wrong = if small { &enlarged(&expected, &wrong, 20.0) } else { &wrong };
                    *caught = detects(&stored(wrong, arithmetic.stored), arithmetic)?;
                }
            }
            let forward = forward(&wrong, level);
            if !scored.caught_forward && !forward.is_empty() {
                scored.caught_forward = detects(&forward, &Arithmetic::F64)?;
            }
        }
    }
    each(cases.len());
    Ok(all)
}

/// The results as numbers of a type.
fn stored(results: &Tensors, float: Float) -> Tensors {
    let mut stored = Tensors::new();
    for (name, tensor) in results.iter() {
        match tensor.to_real::<f64>() {
            Some(array) => stored.insert(name, array.mapv_into(|x| float.round(x))),
            None => stored.insert(name, tensor.clone()),
        }
    }
    stored
}

/// The wrong results with `times` the error.
fn enlarged(expected: &Tensors, wrong: &Tensors, times: f64) -> Tensors {
    let mut enlarged = Tensors::new();
    for (name, tensor) in wrong.iter() {
        match expected.get(name).map(Tensor::to_f64) {
            Some(right) if right.shape() == tensor.shape() => {
                enlarged.insert(name, &right + &((tensor.to_f64() - &right) * times));
            }
            _ => enlarged.insert(name, tensor.clone()),
        }
    }
    enlarged
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
