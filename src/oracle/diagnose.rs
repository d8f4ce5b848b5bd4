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

use super::arithmetic::{Arithmetic, ComputedIn};
use super::compare::{Outcome, Report, Verdict, coarsest, compare_as, compare_by};
use super::dump::{Request, dump, dump_disturbed};
use super::layer::{Settings, Task, name_loss, sgd, sgd_request};
use super::tolerance::{Tolerances, with_tolerances};
use crate::Result;
use crate::tensors::{Tensor, Tensors};
use std::cell::{OnceCell, RefCell};

/// A mistake explains a result only if the right result is off by this many times what the mistake's is off by, both in units of
/// their tolerances; or by this many times half a tolerance, which a correct result may use, if that is more. What just leaves
/// its tolerance may have any reason.
pub const MARGIN: f64 = 4.0;

/// A mistake made on purpose, and how theirs compares with its result.
#[derive(Clone, Debug)]
pub struct Suspicion {
    /// The mistake.
    pub mistake: Mistake,
    /// Theirs compared with the result of this mistake.
    pub report: Report,
    /// Whether the result of this mistake is nearer to theirs, at least twice as near as the right one, where theirs leaves the
    /// tolerance of the right one most. It may fit because the mistake makes rounding so uncertain there that anything does.
    pub nearer: bool,
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
    /// The mistakes that explain every tensor of theirs, which the right result does not by [`MARGIN`].
    pub fn explains(&self) -> impl Iterator<Item = Mistake> + '_ {
        let right = largest_share(&self.right);
        let explains = move |suspicion: &&Suspicion| {
            suspicion.report.passed() && suspicion.nearer && MARGIN * largest_share(&suspicion.report).max(0.5) <= right
        };
        self.tried.iter().filter(explains).map(|suspicion| suspicion.mistake)
    }
}

/// The largest error in units of its tolerance.
fn largest_share(report: &Report) -> f64 {
    let shares = report.tensors.iter().filter(|verdict| verdict.tried()).map(|verdict| match verdict.outcome {
        Outcome::Shape(_) => f64::INFINITY,
        _ => verdict.share(),
    });
    shares.fold(0.0, |largest, share| if share > largest || share.is_nan() { share } else { largest })
}

/// Compares theirs, computed as stated, with the right result of `task` and, if it does not fit, with the result of every
/// mistake.
///
/// # Errors
/// Those of the layers, while the right result is computed.
pub fn diagnose(task: &Task, theirs: &Tensors, stated: &ComputedIn) -> Result<Diagnosis> {
    FaultDictionary::new(task, &needed(theirs, stated, is_layer(task)))?.diagnose(theirs, stated)
}

fn is_layer(task: &Task) -> bool {
    task.program.steps.len() <= 1
}

/// The arithmetics for which tolerances are needed to compare theirs. If nothing is stated, the results of a layer are judged as
/// they are stored.
pub(crate) fn needed(theirs: &Tensors, stated: &ComputedIn, is_layer: bool) -> Vec<Arithmetic> {
    let mut all = stated.stated();
    let coarsest = coarsest(theirs).filter(|_| stated.all.is_none());
    all.extend(coarsest.filter(|coarsest| !all.contains(coarsest)));
    if let Some(coarsest) = coarsest.filter(|_| is_layer) {
        for (_, tensor) in theirs.iter() {
            let as_stored = coarsest.as_stored(tensor);
            if !all.contains(&as_stored) {
                all.push(as_stored);
            }
        }
    }
    if all.is_empty() {
        all.push(Arithmetic::F64);
    }
    all
}

/// The right result of a task and the result of every mistake that can be made in it, each computed once, when it is first
/// needed: to diagnose several dumps of one task.
pub struct FaultDictionary<'a> {
    /// With the tolerances of the right computation.
    right: Tensors,
    is_layer: bool,
    faults: Vec<Fault<'a>>,
}

/// A mistake that can be made in the task.
struct Fault<'a> {
    wrong: Wrong<'a>,
    /// Its result; `None` if it cannot be computed.
    result: OnceCell<Option<Tensors>>,
    /// The tolerances of the mistaken computation, as far as they were needed.
    tolerances: RefCell<Vec<Tolerances>>,
}

impl<'a> FaultDictionary<'a> {
    /// Computes the right result, and its tolerances for results computed in each of `computed_in`.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn new(task: &'a Task, computed_in: &[Arithmetic]) -> Result<Self> {
        let request = Request { computed_in: computed_in.to_vec(), ..task.request.clone() };
        let mut right = dump::<f64>(&task.program, &task.input, &request)?;
        name_loss(&task.program, &mut right);
        let fault = |wrong| Fault { wrong, result: OnceCell::new(), tolerances: RefCell::default() };
        let faults = Mistake::ALL.into_iter().filter_map(|mistake| Wrong::new(task, mistake)).map(fault).collect();
        Ok(FaultDictionary { right, is_layer: is_layer(task), faults })
    }

    /// [`diagnose`].
    ///
    /// # Errors
    /// Those of the comparison.
    pub fn diagnose(&self, theirs: &Tensors, stated: &ComputedIn) -> Result<Diagnosis> {
        let right = compare_as(&self.right, theirs, None, stated)?;
        let mut tried: Vec<(Suspicion, &Fault<'_>)> = Vec::new();
        for fault in self.faults.iter().filter(|_| !right.passed()) {
            let Some(result) = fault.result(&self.right) else { continue };
            let mut report = compare_by(result, &self.right, theirs, None, stated)?;
            if !report.passed() && report.tensors.iter().all(near) && report.unknown.is_empty() {
                report = self.closer(fault, theirs, stated)?;
            }
            let nearer = right.tensors.iter().all(|verdict| nearer(verdict, result, theirs));
            tried.push((Suspicion { mistake: fault.wrong.mistake, report, nearer }, fault));
        }
        if !tried.iter().any(|(suspicion, _)| suspicion.report.passed()) {
            // In float32 the gradients of a deep network may lose nearly all digits: then the likeliest mistake is examined.
            let fitting = |report: &Report| report.tensors.iter().filter(|v| v.tried() && v.passed()).count();
            let likeliest = tried.iter_mut().rev().max_by_key(|(suspicion, _)| fitting(&suspicion.report));
            if let Some((likeliest, fault)) =
                likeliest.filter(|(likeliest, _)| fitting(&likeliest.report) > fitting(&right))
            {
                likeliest.report = self.closer(fault, theirs, stated)?;
            }
        }
        Ok(Diagnosis { right, tried: tried.into_iter().map(|(suspicion, _)| suspicion).collect() })
    }

    /// Theirs compared with the result of a mistake, by the tolerances of the mistaken computation. Those of the right one may
    /// be too small, or belong to other elements: the mistake may amplify rounding far more, as a ResNet without its
    /// shortcuts does, or exchange two axes.
    fn closer(&self, fault: &Fault<'_>, theirs: &Tensors, stated: &ComputedIn) -> Result<Report> {
        let mut carrier = Tensors::new();
        for arithmetic in needed(theirs, stated, self.is_layer) {
            let mut known = fault.tolerances.borrow_mut();
            let place = match known.iter().position(|tolerances| tolerances.arithmetic == arithmetic) {
                Some(place) => place,
                None => {
                    known.push(fault.wrong.tolerances(arithmetic)?);
                    known.len() - 1
                }
            };
            known[place].attach(&mut carrier);
        }
        compare_by(fault.result(&self.right).expect("compared before"), &carrier, theirs, None, stated)
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

/// See [`Suspicion::nearer`]; true where that cannot be said.
fn nearer(verdict: &Verdict, wrong: &Tensors, theirs: &Tensors) -> bool {
    let (Some(wrong), Some(theirs)) = (wrong.get(&verdict.name), theirs.get(&verdict.name)) else { return true };
    if !matches!(verdict.outcome, Outcome::Leaves(_))
        || wrong.shape() != verdict.shape
        || theirs.shape() != verdict.shape
    {
        return true;
    }
    let [of_wrong, of_theirs] = [wrong, theirs].map(|tensor| tensor.to_f64()[verdict.worst.at.as_slice()]);
    !verdict.worst.error.is_finite() || 2.0 * (of_wrong - of_theirs).abs() <= verdict.worst.error
}

/// Whether the tensors agree to a quarter of their digits: |theirs − ours| ≤ ⁴√u · max |ours|. Rounding hardly ever exceeds this,
/// and few mistakes stay within it, so only those few are examined more closely.
fn near(verdict: &Verdict) -> bool {
    let u = verdict.dtypes[1].unit_roundoff().unwrap_or(0.0);
    match verdict.outcome {
        Outcome::Fits | Outcome::NotGiven | Outcome::Factor | Outcome::Mean => true,
        Outcome::Leaves(_) => verdict.absolute.error <= u.powf(0.25) * verdict.scale,
        Outcome::Shape(_) => false,
    }
}

/// [`diagnose`] for a step of SGD.
///
/// # Errors
/// For a wrong setting or a missing tensor.
pub fn diagnose_sgd(
    settings: &Settings,
    tensors: &Tensors,
    theirs: &Tensors,
    stated: &ComputedIn,
) -> Result<Diagnosis> {
    let request = sgd_request(settings)?;
    let ours = sgd::<f64>(&request, tensors, &needed(theirs, stated, true))?;
    let right = compare_as(&ours, theirs, None, stated)?;
    let mut tried = Vec::new();
    for mistake in Mistake::ALL.into_iter().filter(|_| !right.passed()) {
        let mut wrong = request.clone();
        if mistake.make_in_step(&mut wrong) {
            let result = sgd::<f64>(&wrong, tensors, &[])?;
            let report = compare_by(&result, &ours, theirs, None, stated)?;
            let nearer = right.tensors.iter().all(|verdict| nearer(verdict, &result, theirs));
            tried.push(Suspicion { mistake, report, nearer });
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

    /// The tolerances of the mistaken computation.
    fn tolerances(&self, arithmetic: Arithmetic) -> Result<Tolerances> {
        let Task { program, input, request } = &self.wrong;
        let (_, mut tolerances) = with_tolerances(program, input, request, Some(self.mistake), &[arithmetic])?;
        let mut tolerances = tolerances.pop().expect("for the arithmetic");
        if self.task.program.steps.is_empty() {
            tolerances
                .of_tensors
                .iter_mut()
                .filter(|(name, _)| name == "loss")
                .for_each(|(name, _)| *name = "output".into());
        }
        // What the mistake does to a tensor when it writes it, it does to its tolerances.
        let mut written = Tensors::new();
        for (name, allowed) in &tolerances.of_tensors {
            written.insert(name.clone(), allowed.each.clone());
        }
        self.mistake.write(&self.wrong, &mut written);
        for (name, allowed) in &mut tolerances.of_tensors {
            if let Some(other) = written.get(name).map(Tensor::to_f64) {
                let of =
                    |tolerances: &ndarray::ArrayD<f64>| tolerances.iter().fold(0.0f64, |most, t| most.max(t.abs()));
                let growth = if of(&allowed.each) > 0.0 { of(&other) / of(&allowed.each) } else { 1.0 };
                allowed.mean *= growth;
                allowed.each = other.mapv(f64::abs);
            }
        }
        Ok(tolerances)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::compare::compare;
    use ndarray::arr1;

    /// Theirs, 1, compared with `y`, whose tolerance is 0.1.
    fn report(y: f64) -> Report {
        let [mut ours, mut theirs] = [Tensors::new(), Tensors::new()];
        ours.insert("y", arr1(&[y]));
        ours.insert("tolerance.f64.y", arr1(&[0.1]));
        theirs.insert("y", arr1(&[1.0]));
        compare(&ours, &theirs, None).unwrap()
    }

    /// The right result has to be off by two tolerances, and by four times as much as that of the mistake.
    #[test]
    fn what_just_leaves_its_tolerance_is_not_explained() {
        let with = |right: f64, wrong: f64, nearer| {
            let tried = vec![Suspicion { mistake: Mistake::NoResidual, report: report(wrong), nearer }];
            Diagnosis { right: report(right), tried }.explains().count() == 1
        };
        let explained = |right, wrong| with(right, wrong, true);
        assert!(explained(1.25, 1.0) && explained(1.25, 0.94));
        assert!(!explained(1.15, 1.0) && !explained(1.25, 0.92));
        assert!(with(1.25, 1.0, true) && !with(1.25, 1.0, false));
    }

    /// Whatever the tolerances of the mistaken computation are.
    #[test]
    fn a_mistake_must_be_nearer_where_the_right_result_is_furthest() {
        let right = report(1.25);
        let of = |y: f64| {
            let mut all = Tensors::new();
            all.insert("y", arr1(&[y]));
            all
        };
        let is_nearer = |y: f64| nearer(&right.tensors[0], &of(y), &of(1.0));
        assert!(is_nearer(1.1) && is_nearer(0.9) && !is_nearer(1.2) && !is_nearer(0.0) && is_nearer(1.0));
    }
}
