//! Which of the classic mistakes explains another implementation's results?
//!
//! A comparison reports *that* and *where* two computations differ. The same few reasons are common, so [`diagnose`] makes
//! each of these mistakes in turn, on purpose and in `f64`, and compares: if theirs fits one of the wrong results as closely
//! as it would have to fit the right one, that is the mistake. If theirs fits the right result, no mistake is tried.
//!
//! A mistake is made where it belongs: in the program (`stride` on the wrong convolution), in the tensors (`OIHW` read as
//! `HWIO`), in the request (a sum of losses), or by a [`Disturb`](crate::program::Disturb) that replaces what a
//! step returns (statistics per sample). The layers stay unchanged.
//!
//! `mistake.rs` is the list, `make.rs` makes each mistake, `wrong_norm.rs` contains the wrong batch norms.

mod make;
mod mistake;
mod wrong_norm;

pub use mistake::Mistake;
pub(super) use wrong_norm::WrongNorm;

use super::compare::{Outcome, Report, Verdict, compare};
use super::dump::{Request, dump, dump_disturbed, largest, tolerance_key, with_tolerances};
use super::layer::{Settings, Task, name_loss, sgd, sgd_request};
use crate::Result;
use crate::tensors::{Dtype, Tensors};
use std::cell::OnceCell;

/// A mistake made on purpose, and how theirs compares with its result.
#[derive(Clone, Debug)]
pub struct Suspicion {
    /// The mistake.
    pub mistake: Mistake,
    /// Theirs compared with the result of this mistake.
    pub report: Report,
}

/// What [`diagnose`] found.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// Theirs compared with the right result.
    pub right: Report,
    /// Every mistake that can be made here; empty if theirs is right.
    pub tried: Vec<Suspicion>,
}

impl Diagnosis {
    /// The mistakes that explain every tensor of theirs.
    pub fn explains(&self) -> impl Iterator<Item = Mistake> + '_ {
        self.tried.iter().filter(|suspicion| suspicion.report.passed()).map(|suspicion| suspicion.mistake)
    }
}

/// Compares theirs with the right result of `task` and, if it does not fit, with the result of every mistake.
///
/// # Errors
/// Those of the layers, while the right result is computed.
pub fn diagnose(task: &Task, theirs: &Tensors) -> Result<Diagnosis> {
    FaultDictionary::new(task)?.diagnose(theirs)
}

/// The right result of a task and the result of every mistake that can be made in it, each computed once, when it is first
/// needed: to diagnose several dumps of one task.
pub struct FaultDictionary<'a> {
    /// With the tolerances of the right computation.
    right: Tensors,
    faults: Vec<Fault<'a>>,
}

/// A mistake that can be made in the task.
struct Fault<'a> {
    wrong: Wrong<'a>,
    /// Its result, with the tolerances of the right computation; `None` if it cannot be computed.
    result: OnceCell<Option<Tensors>>,
    /// The tolerances of the mistaken computation, for elements of [`DTYPES`].
    tolerances: [OnceCell<(String, String)>; 2],
}

const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::F64];

impl<'a> FaultDictionary<'a> {
    /// Computes the right result.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn new(task: &'a Task) -> Result<Self> {
        let request = Request { tolerances: true, ..task.request.clone() };
        let mut right = dump::<f64>(&task.program, &task.input, &request)?;
        name_loss(&task.program, &mut right);
        let fault = |wrong| Fault { wrong, result: OnceCell::new(), tolerances: Default::default() };
        let faults = Mistake::ALL.into_iter().filter_map(|mistake| Wrong::new(task, mistake)).map(fault).collect();
        Ok(FaultDictionary { right, faults })
    }

    /// [`diagnose`].
    ///
    /// # Errors
    /// Those of the comparison.
    pub fn diagnose(&self, theirs: &Tensors) -> Result<Diagnosis> {
        let right = compare(&self.right, theirs, None)?;
        let mut tried: Vec<(Suspicion, &Fault<'_>)> = Vec::new();
        for fault in self.faults.iter().filter(|_| !right.passed()) {
            let Some(result) = fault.result(&self.right) else { continue };
            let mut report = compare(result, theirs, None)?;
            if !report.passed() && report.tensors.iter().all(near) && report.unknown.is_empty() {
                report = self.closer(fault, theirs)?;
            }
            tried.push((Suspicion { mistake: fault.wrong.mistake, report }, fault));
        }
        if !tried.iter().any(|(suspicion, _)| suspicion.report.passed()) {
            // In float32 the gradients of a deep network may lose nearly all digits: then the likeliest mistake is examined.
            let fitting = |report: &Report| report.tensors.iter().filter(|v| v.tried() && v.passed()).count();
            let likeliest = tried.iter_mut().rev().max_by_key(|(suspicion, _)| fitting(&suspicion.report));
            if let Some((likeliest, fault)) =
                likeliest.filter(|(likeliest, _)| fitting(&likeliest.report) > fitting(&right))
            {
                likeliest.report = self.closer(fault, theirs)?;
            }
        }
        Ok(Diagnosis { right, tried: tried.into_iter().map(|(suspicion, _)| suspicion).collect() })
    }

    /// Theirs compared with the result of a mistake, by the tolerances of the mistaken computation. Those of the right one may
    /// be too small: the mistake may amplify rounding far more, as a ResNet without its shortcuts does.
    fn closer(&self, fault: &Fault<'_>, theirs: &Tensors) -> Result<Report> {
        let mut result = fault.result(&self.right).expect("compared before").clone();
        for (dtype, tolerances) in DTYPES.iter().zip(&fault.tolerances) {
            if theirs.iter().any(|(_, tensor)| tensor.dtype().widened() == *dtype) {
                if tolerances.get().is_none() {
                    let _ = tolerances.set(fault.wrong.tolerances(*dtype)?);
                }
                result.metadata.extend(tolerances.get().cloned());
            }
        }
        compare(&result, theirs, None)
    }
}

impl Fault<'_> {
    fn result(&self, right: &Tensors) -> Option<&Tensors> {
        let compute = || {
            let mut result = self.wrong.result().ok()?;
            result.metadata = right.metadata.clone();
            Some(result)
        };
        self.result.get_or_init(compute).as_ref()
    }
}

/// Whether the tensors agree to a quarter of their digits: |theirs − ours| ≤ ⁴√u · max |ours|. Rounding hardly ever exceeds this,
/// and few mistakes stay within it, so only those few are examined more closely.
fn near(verdict: &Verdict) -> bool {
    let u = verdict.dtypes[1].unit_roundoff().unwrap_or(0.0);
    match verdict.outcome {
        Outcome::Fits | Outcome::NotGiven => true,
        Outcome::Leaves(_) => verdict.absolute.error <= u.powf(0.25) * verdict.scale,
        Outcome::Shape(_) => false,
    }
}

/// [`diagnose`] for a step of SGD.
///
/// # Errors
/// For a wrong setting or a missing tensor.
pub fn diagnose_sgd(settings: &Settings, tensors: &Tensors, theirs: &Tensors) -> Result<Diagnosis> {
    let request = sgd_request(settings)?;
    let ours = sgd::<f64>(&request, tensors)?;
    let right = compare(&ours, theirs, None)?;
    let mut tried = Vec::new();
    for mistake in Mistake::ALL.into_iter().filter(|_| !right.passed()) {
        let mut wrong = request.clone();
        if mistake.make_in_step(&mut wrong) {
            let mut result = sgd::<f64>(&wrong, tensors)?;
            result.metadata = ours.metadata.clone();
            tried.push(Suspicion { mistake, report: compare(&result, theirs, None)? });
        }
    }
    Ok(Diagnosis { right, tried })
}

/// A task with a mistake in it, ready to be computed.
struct Wrong<'a> {
    task: &'a Task,
    wrong: Task,
    mistake: Mistake,
}

impl<'a> Wrong<'a> {
    /// `None` if the mistake can change nothing.
    fn new(task: &'a Task, mistake: Mistake) -> Option<Self> {
        let mut wrong = task.clone();
        mistake.make(&mut wrong).then_some(Wrong { task, wrong, mistake })
    }

    fn result(&self) -> Result<Tensors> {
        let Task { program, input, request } = &self.wrong;
        let mut result = dump_disturbed(program, input, request, &mut self.mistake.clone())?;
        name_loss(&self.task.program, &mut result);
        self.mistake.write(&self.wrong, &mut result);
        Ok(result)
    }

    /// The tolerances of the mistaken computation for elements of `dtype`, as an entry of the metadata.
    fn tolerances(&self, dtype: Dtype) -> Result<(String, String)> {
        let Task { program, input, request } = &self.wrong;
        let (mut result, tolerances) = with_tolerances(program, input, request, Some(self.mistake), &[dtype])?;
        result.metadata.extend(tolerances);
        name_loss(&self.task.program, &mut result);
        let mut written = result.clone();
        self.mistake.write(&self.wrong, &mut written);
        // A tensor that is written larger than it was computed has larger errors.
        let size = |tensors: &Tensors, name: &str| tensors.get(name).map_or(0.0, |tensor| largest(&tensor.to_f64()));
        let scaled = |line: &str| match line.rsplit_once(' ').map(|(name, value)| (name, value.parse::<f64>())) {
            Some((name, Ok(tolerance))) if size(&result, name) > 0.0 => {
                format!("{name} {:e}\n", tolerance * size(&written, name) / size(&result, name))
            }
            _ => format!("{line}\n"),
        };
        let key = tolerance_key(dtype);
        let lines = result.metadata.get(&key).map_or("", String::as_str).lines().map(scaled).collect();
        Ok((key, lines))
    }
}

/// The result of `task` with a mistake in it; `None` if the mistake can change nothing, or if its result cannot be computed.
pub fn mistaken(task: &Task, mistake: Mistake) -> Option<Tensors> {
    made(task, mistake)?.ok()
}

/// The same, with the error if the result cannot be computed.
pub(super) fn made(task: &Task, mistake: Mistake) -> Option<Result<Tensors>> {
    Some(Wrong::new(task, mistake)?.result())
}
