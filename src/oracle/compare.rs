//! Compares two dumps tensor by tensor: how far they differ, how far they may differ, and where that begins.
//!
//! `ours` is the reference and defines the order of execution; `theirs` is to be checked. A tensor of theirs *fits* if it
//! has the shape of ours and
//!
//! ```text
//! every element     |theirs − ours| ≤ tolerance of this element      tested as `!(error <= tolerance)`, so that a NaN fails
//! fitted factor     f = ⟨theirs, ours⟩/⟨ours, ours⟩ is 1             within the error that follows for f
//! mean error        1/n Σ (theirs − ours) is 0                       within the error that follows for it
//! ```
//!
//! The last two find an error that is the same everywhere, such as a factor of 0.999, far below any element's tolerance:
//! in a sum over n elements rounding errors cancel, and such an error does not.
//!
//! The tolerances are those in the dump ([`super::rounding`]) for the [`Arithmetic`] that the caller states or that the
//! element type of theirs suggests; or one [`Tolerance`] that is given. For a dump without any, [`Tolerance::of_dtype`].
//!
//! A name of theirs that ours does not have is translated as names of weights are (`crate::parameters::our_name`), after the
//! dump's own prefix: `grad_module.linear.weight` is `grad_fc.weight`, `output.layer2.0.shortcut` is
//! `output.layer2.0.downsample`; PyTorch's batch counters are skipped. A tensor that theirs lacks is not compared, and the
//! report says so. A tensor that only theirs has is an error: most likely its name is misspelt, and a comparison that
//! silently compares less than it was given is worthless. Axes of length 1 are ignored: `(N, C, 1, 1)` equals `(N, C)`.

use super::arithmetic::{Arithmetic, ComputedIn, Float, looks_like};
use super::dump::{ALIASES, UNCHANGED, tolerance_name, tolerance_of, whole_key};
use super::names::{Matched, module_input, translated};
use super::pattern;
use super::profile::Profile;
use crate::error::nearest;
use crate::tensors::{Dtype, Tensor, Tensors};
use crate::{Error, Result};
use ndarray::ArrayD;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Bins of a histogram: one for each decade from 10⁻¹⁸ to 1 of the largest reference value, and one for larger errors.
pub const DECADES: usize = 20;
/// Where a bin ends and the next begins.
const POWERS: [f64; DECADES - 1] = [
    1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0,
    1e1,
];

/// How far two values may differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative to the reference value.
    pub relative: f64,
    /// Added to that.
    pub absolute: f64,
}

impl Tolerance {
    /// What `torch.testing.assert_close` allows between tensors of this type. [`compare`] takes the relative part of the
    /// largest value of the tensor, and no larger absolute part.
    pub fn of_dtype(dtype: Dtype) -> Tolerance {
        let (relative, absolute) = match dtype {
            Dtype::F16 => (1e-3, 1e-5),
            Dtype::BF16 => (1.6e-2, 1e-5),
            Dtype::F32 => (1.3e-6, 1e-5),
            Dtype::F64 => (1e-7, 1e-7),
            _ => (0.0, 0.0),
        };
        Tolerance { relative, absolute }
    }
}

/// Where a tensor's tolerance comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The dump: rounding in this arithmetic.
    Rounding(Arithmetic),
    /// The caller.
    Given,
    /// The element type alone.
    Type(Dtype),
    /// Integers: they must be equal.
    Exact,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Rounding(arithmetic) => {
                write!(f, "rounding in {arithmetic} (u = {:.1e})", arithmetic.coarsest())
            }
            Source::Given => write!(f, "given"),
            Source::Type(dtype) => write!(f, "usual for {}", dtype.name()),
            Source::Exact => write!(f, "exact"),
        }
    }
}

/// A property of the whole tensor and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whole {
    /// The fitted factor, or the mean error.
    pub found: f64,
    /// Its distance from 1, or from 0, that rounding explains.
    pub tolerance: f64,
}

/// An element and its error.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// The error.
    pub error: f64,
    /// The tolerance of this element.
    pub tolerance: f64,
    /// Where it is.
    pub at: Vec<usize>,
    /// The value there, ours and theirs.
    pub values: [f64; 2],
}

/// The outcome of the comparison of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every element is within the tolerance.
    Fits,
    /// This many elements exceed their tolerance.
    Leaves(usize),
    /// Every element is within its tolerance, but all together are too large or too small by the fitted factor.
    Factor,
    /// Every element is within its tolerance, but the mean of the errors is not 0.
    Mean,
    /// The shape differs; this is theirs.
    Shape(Vec<usize>),
    /// Theirs does not contain it.
    NotGiven,
}

/// What was found for a tensor of ours.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The element types, ours and theirs.
    pub dtypes: [Dtype; 2],
    /// The outcome of the comparison.
    pub outcome: Outcome,
    /// The element that uses the largest share of its tolerance.
    pub worst: Worst,
    /// Largest |theirs − ours|.
    pub absolute: Worst,
    /// Largest |theirs − ours| / |ours| among the elements where ours is not 0.
    pub relative: Worst,
    /// Largest distance in units in the last place of their type.
    pub ulps: u64,
    /// Elements of theirs that are NaN or infinite where ours is neither.
    pub not_finite: usize,
    /// Elements of ours that are NaN or infinite; these match only the same value.
    pub ours_not_finite: usize,
    /// Largest |ours|.
    pub scale: f64,
    /// √(mean of squares) of ours.
    pub rms: f64,
    /// √(mean of squares) of the tolerances; infinite if the dump has no bound for some element, where only the same value
    /// fits.
    pub tolerance: f64,
    /// Number of elements with an error of about 10^(i − 18) times `scale`; those without error are not counted.
    pub histogram: [usize; DECADES],
    /// The factor that fits ours to theirs best, if that is checked.
    pub factor: Option<Whole>,
    /// The mean error, if that is checked.
    pub mean: Option<Whole>,
    /// Where the tolerance comes from.
    pub source: Source,
    /// The narrower type to which all elements of theirs belong, if nobody stated how they were computed.
    pub looks_like: Option<Float>,
    /// Why it was expected not to fit ([`super::expected`]).
    pub excused: Option<String>,
    /// What its errors look like, in words, if it does not fit.
    pub pattern: Option<String>,
    /// Where its errors are, if elements exceed their tolerance.
    pub profile: Option<Profile>,
}

impl Verdict {
    /// Whether it fits, was not compared or is excused.
    pub fn passed(&self) -> bool {
        self.fits() || self.excused.is_some()
    }

    /// Whether it fits or was not compared.
    pub fn fits(&self) -> bool {
        matches!(self.outcome, Outcome::Fits | Outcome::NotGiven)
    }

    /// Whether it was compared.
    pub fn tried(&self) -> bool {
        self.outcome != Outcome::NotGiven
    }

    /// The largest share of a tolerance that is used, by an element, the factor or the mean.
    pub fn share(&self) -> f64 {
        let of = |error: f64, tolerance: f64| match error / tolerance {
            _ if error == 0.0 => 0.0,
            // `max` would ignore it.
            share if share.is_nan() => f64::INFINITY,
            share => share,
        };
        let factor = self.factor.map_or(0.0, |whole| of((whole.found - 1.0).abs(), whole.tolerance));
        let mean = self.mean.map_or(0.0, |whole| of(whole.found.abs(), whole.tolerance));
        of(self.worst.error, self.worst.tolerance).max(factor).max(mean)
    }

    /// Whether rounding alone may change the tensor by a third of its size: then fitting says little.
    pub fn says_little(&self) -> bool {
        self.tried() && self.rms > 0.0 && self.tolerance > self.rms / 3.0
    }
}

/// What [`compare`] found.
#[derive(Clone, Debug)]
pub struct Report {
    /// A verdict for every tensor of ours, in the order of execution.
    pub tensors: Vec<Verdict>,
    /// Names only theirs has, with the nearest name of ours that theirs lacks.
    pub unknown: Vec<(String, Option<String>)>,
}

impl Report {
    /// Whether something was compared and everything that was given fits.
    pub fn passed(&self) -> bool {
        self.tried() > 0 && self.unknown.is_empty() && self.tensors.iter().all(Verdict::passed)
    }

    /// How many tensors were compared.
    pub fn tried(&self) -> usize {
        self.tensors.iter().filter(|verdict| verdict.tried()).count()
    }

    /// The first tensor in the order of execution that does not fit.
    pub fn first(&self) -> Option<&Verdict> {
        self.tensors.iter().find(|verdict| !verdict.passed())
    }

    /// The tensors that do not fit; those that use the largest share of a tolerance first.
    pub fn worst_first(&self) -> Vec<&Verdict> {
        let mut wrong: Vec<&Verdict> = self.tensors.iter().filter(|verdict| !verdict.passed()).collect();
        let share = |verdict: &Verdict| match verdict.outcome {
            Outcome::Shape(_) => f64::INFINITY,
            _ => verdict.share(),
        };
        wrong.sort_by(|a, b| share(b).total_cmp(&share(a)));
        wrong
    }
}

/// Compares `theirs` with `ours`, in the arithmetic that the coarsest element type of theirs suggests.
///
/// # Errors
/// As [`compare_as`].
pub fn compare(ours: &Tensors, theirs: &Tensors, given: Option<Tolerance>) -> Result<Report> {
    compare_as(ours, theirs, given, &ComputedIn::default())
}

/// Compares `theirs`, computed as stated, with `ours`.
///
/// # Errors
/// If the metadata of `ours` is damaged, or if `ours` has tolerances, but not for an arithmetic that is needed.
pub fn compare_as(ours: &Tensors, theirs: &Tensors, given: Option<Tolerance>, stated: &ComputedIn) -> Result<Report> {
    judge(ours, ours, theirs, given, stated, true)
}

/// The same with the tolerances of another dump, `carrier`, and without patterns.
pub(super) fn compare_by(
    ours: &Tensors,
    carrier: &Tensors,
    theirs: &Tensors,
    given: Option<Tolerance>,
    stated: &ComputedIn,
) -> Result<Report> {
    judge(ours, carrier, theirs, given, stated, false)
}

fn judge(
    ours: &Tensors,
    carrier: &Tensors,
    theirs: &Tensors,
    given: Option<Tolerance>,
    stated: &ComputedIn,
    explain: bool,
) -> Result<Report> {
    let aliases: HashMap<&str, &str> = pairs(ours, ALIASES)?.into_iter().collect();
    let mut carried: Vec<&str> = Vec::new();
    for (arithmetic, _) in carrier.names().filter_map(tolerance_of) {
        if !carried.contains(&arithmetic) {
            carried.push(arithmetic);
        }
    }
    let mut whole: HashMap<(String, &str), [f64; 2]> = HashMap::new();
    for &arithmetic in &carried {
        for (place, what) in ["factor", "mean"].into_iter().enumerate() {
            let key = whole_key(what, arithmetic);
            for (name, tolerance) in pairs(carrier, &key)? {
                let tolerance: f64 = tolerance.parse().map_err(|_| damaged(&key, tolerance))?;
                whole.entry((arithmetic.to_string(), name)).or_insert([f64::INFINITY; 2])[place] = tolerance;
            }
        }
    }
    let unchanged = ours.metadata.get(UNCHANGED).map_or("", String::as_str);
    let unchanged: HashSet<&str> = unchanged.lines().collect();
    let results = || ours.names().filter(|name| tolerance_of(name).is_none());
    let own = |name: &str| {
        let named = |name: &str| results().find(|own| *own == name).map(str::to_string);
        named(name).or_else(|| named(aliases.get(name)?))
    };
    let known =
        |name: &str| unchanged.contains(name) || module_input(name).is_some_and(|output| own(&output).is_some());
    let matched = Matched::new(theirs, &own, &known);
    // The names that theirs uses for each tensor of ours; there may be several: `layer1` and its last ReLU.
    let mut called: HashMap<&str, Vec<&str>> = HashMap::new();
    for (own, name) in &matched.pairs {
        called.entry(own).or_default().push(name);
    }
    let missing: Vec<String> = results().filter(|name| !called.contains_key(name)).map(str::to_string).collect();
    let unknown = matched.unknown.into_iter().map(|name| {
        let near = nearest(&translated(&name), &missing).map(str::to_string);
        (name, near)
    });
    let entries = results().flat_map(|own| match called.get(own) {
        Some(names) => names.iter().map(|&name| (name, own)).collect(),
        None => vec![(own, own)],
    });
    // What was computed from a coarse tensor is no finer, whatever it is stored in: the loss of a network in bfloat16.
    let coarsest = coarsest(theirs);
    let allowed = |own: &str, theirs: &Tensor| -> Result<Allowed> {
        if let Some(tolerance) = given {
            return Ok(Allowed::Given(tolerance));
        }
        let Some(arithmetic) = coarsest.filter(|_| theirs.dtype().unit_roundoff().is_some()) else {
            return Ok(Allowed::Given(Tolerance { relative: 0.0, absolute: 0.0 }));
        };
        let arithmetic = stated.of(own).unwrap_or_else(|| {
            let as_stored = arithmetic.as_stored(theirs);
            // In a block or network the steps before have rounded their results.
            if carried.contains(&as_stored.to_string().as_str()) { as_stored } else { arithmetic }
        });
        match carrier.get(&tolerance_name(&arithmetic, own)) {
            Some(each) => {
                let whole = whole.get(&(arithmetic.to_string(), own)).copied();
                Ok(Allowed::Carried { arithmetic, each: each.to_f64(), whole })
            }
            None if carried.is_empty() => Ok(Allowed::Type(theirs.dtype())),
            // What a mistake leaves as it was, such as running statistics in evaluation.
            None if carried.contains(&arithmetic.to_string().as_str()) => {
                Ok(Allowed::Given(Tolerance { relative: 0.0, absolute: 0.0 }))
            }
            None => {
                let known = carried.join(" and ");
                let message = format!(
                    "`{own}` of theirs is computed in {arithmetic}, but the reference has tolerances for {known} only: \
                     compute it again with `--computed-in {arithmetic}`"
                );
                Err(Error::argument("compare", message))
            }
        }
    };
    let mut tensors = Vec::new();
    for (name, own) in entries {
        let (tensor, theirs) = (ours.get(own).expect("one of ours"), theirs.get(name));
        let allowed = theirs.map(|theirs| allowed(own, theirs)).transpose()?;
        let mut verdict = verdict(name, tensor, theirs.zip(allowed), explain);
        if let (Some(theirs), None, None) = (theirs, stated.of(own), given)
            && theirs.dtype() == Dtype::F32
        {
            verdict.looks_like = looks_like(theirs.to_f64().iter());
        }
        tensors.push(verdict);
    }
    Ok(Report { tensors, unknown: unknown.collect() })
}

/// The arithmetic that the coarsest element type of a dump suggests; `None` for a dump of integers.
pub(super) fn coarsest(dump: &Tensors) -> Option<Arithmetic> {
    let results = dump.iter().filter(|(name, _)| tolerance_of(name).is_none());
    let types = results.filter_map(|(_, tensor)| Arithmetic::of_dtype(tensor.dtype()));
    types.reduce(|a, b| if b.coarsest() > a.coarsest() { b } else { a })
}

/// What is stated for a whole pass with these results, in which errors travel: for each result the coarsest arithmetic of all, and
/// for those that are no gradients (`grad_…`) the coarsest of those. The same if no pattern is stated.
pub fn of_whole_pass<'a>(stated: &ComputedIn, results: impl Iterator<Item = &'a str>, theirs: &Tensors) -> ComputedIn {
    if stated.patterns.is_empty() {
        return stated.clone();
    }
    let usual = coarsest(theirs).unwrap_or(Arithmetic::F64);
    let coarser = |a: Arithmetic, b: Arithmetic| if b.coarsest() > a.coarsest() { b } else { a };
    let [mut forward, mut all] = [Arithmetic::F64; 2];
    for name in results {
        let arithmetic = stated.of(name).unwrap_or(usual);
        all = coarser(all, arithmetic);
        if !name.starts_with("grad_") {
            forward = coarser(forward, arithmetic);
        }
    }
    ComputedIn { all: Some(forward), patterns: vec![("grad_*".to_string(), all)] }
}

/// How far a tensor of theirs may be off.
pub(super) enum Allowed {
    /// As the caller says.
    Given(Tolerance),
    /// As the dump says.
    Carried { arithmetic: Arithmetic, each: ArrayD<f64>, whole: Option<[f64; 2]> },
    /// As is usual for the type.
    Type(Dtype),
}

/// The `key value` lines of an entry of the metadata.
fn pairs<'a>(tensors: &'a Tensors, key: &str) -> Result<Vec<(&'a str, &'a str)>> {
    let lines = tensors.metadata.get(key).map_or("", String::as_str).lines();
    lines.map(|line| line.rsplit_once(' ').ok_or_else(|| damaged(key, line))).collect()
}

fn damaged(key: &str, line: &str) -> Error {
    Error::argument("compare", format!("the reference's metadata `{key}` has the line `{line}`, expected `name value`"))
}

/// The verdict on a tensor; with `explain` also the pattern and the profile of its errors.
pub(super) fn verdict(name: &str, ours: &Tensor, theirs: Option<(&Tensor, Allowed)>, explain: bool) -> Verdict {
    let nothing = Worst { error: 0.0, tolerance: 0.0, at: Vec::new(), values: [0.0; 2] };
    let dtype = theirs.as_ref().map_or(ours.dtype(), |(theirs, _)| theirs.dtype());
    let mut verdict = Verdict {
        name: name.to_string(),
        shape: ours.shape().to_vec(),
        dtypes: [ours.dtype(), dtype],
        outcome: Outcome::NotGiven,
        worst: nothing.clone(),
        absolute: nothing.clone(),
        relative: nothing,
        ulps: 0,
        not_finite: 0,
        ours_not_finite: 0,
        scale: 0.0,
        rms: 0.0,
        tolerance: 0.0,
        histogram: [0; DECADES],
        factor: None,
        mean: None,
        source: Source::Exact,
        looks_like: None,
        excused: None,
        pattern: None,
        profile: None,
    };
    let Some((theirs, allowed)) = theirs else { return verdict };
    if squeezed(ours.shape()) != squeezed(theirs.shape()) {
        verdict.outcome = Outcome::Shape(theirs.shape().to_vec());
        if explain {
            verdict.explain_shape(&ours.to_f64(), &theirs.to_f64());
        }
        return verdict;
    }
    // Both in row-major order, whatever axes of length 1 theirs has.
    let [a, b] = [ours, theirs].map(|tensor| tensor.to_f64().iter().copied().collect::<Vec<f64>>());
    // Of the finite elements only: an infinity would allow any error in every other element.
    verdict.scale = a.iter().filter(|x| x.is_finite()).fold(0.0f64, |scale, x| scale.max(x.abs()));
    verdict.rms = rms(a.iter().copied().filter(|x| x.is_finite()), verdict.scale);

    let real = dtype.unit_roundoff().is_some();
    let (tolerances, largest): (Vec<f64>, f64) = match &allowed {
        Allowed::Given(Tolerance { relative, absolute }) => {
            verdict.source = if real { Source::Given } else { Source::Exact };
            (a.iter().map(|a| absolute + relative * a.abs()).collect(), f64::INFINITY)
        }
        Allowed::Type(dtype) => {
            verdict.source = Source::Type(*dtype);
            let Tolerance { relative, absolute } = Tolerance::of_dtype(*dtype);
            (vec![absolute.min(relative * verdict.scale) + relative * verdict.scale; a.len()], f64::INFINITY)
        }
        Allowed::Carried { arithmetic, each, .. } => {
            verdict.source = Source::Rounding(*arithmetic);
            // A mistake may give a tensor another shape than the right one, whose tolerances these are.
            let each = match each.len() == a.len() {
                true => each.iter().copied().collect(),
                false => vec![each.iter().copied().fold(0.0, f64::max); a.len()],
            };
            (each, arithmetic.stored.largest())
        }
    };
    verdict.tolerance = rms(
        tolerances.iter().zip(&a).filter(|(_, a)| a.is_finite()).map(|(tolerance, _)| *tolerance),
        tolerances.iter().copied().fold(0.0, f64::max),
    );

    let mut leaves = 0;
    // The place in row-major order of the worst element, and its error or share.
    let [mut worst, mut absolute, mut relative] = [(0, 0.0f64); 3];
    for (i, ((&ours, &theirs), &tolerance)) in a.iter().zip(&b).zip(&tolerances).enumerate() {
        let error = error(ours, theirs, tolerance, largest);
        verdict.ours_not_finite += usize::from(!ours.is_finite());
        verdict.not_finite += usize::from(ours.is_finite() && !theirs.is_finite());
        if beyond(error, tolerance) {
            leaves += 1;
        }
        if error == 0.0 {
            continue;
        }
        let larger = |error: f64, worst: f64| error > worst || error.is_nan() && !worst.is_nan();
        let share = if tolerance.is_finite() { error / tolerance } else { f64::INFINITY };
        if larger(share, worst.1) || worst.1 == 0.0 {
            worst = (i, share);
        }
        if larger(error, absolute.1) {
            absolute = (i, error);
        }
        if ours != 0.0 && larger(error / ours.abs(), relative.1) {
            relative = (i, error / ours.abs());
        }
        verdict.ulps = verdict.ulps.max(ulps(dtype, ours, theirs));
        if error > 0.0 {
            let share = error / verdict.scale;
            verdict.histogram[POWERS.partition_point(|&power| power <= share)] += 1;
        }
    }
    let element = |i: usize, error: f64| {
        let tolerance = tolerances[i];
        Worst { error, tolerance, at: index(i, ours.shape()), values: [a[i], b[i]] }
    };
    if worst.1 != 0.0 {
        let i = worst.0;
        verdict.worst = element(i, if a[i] == b[i] { 0.0 } else { (b[i] - a[i]).abs() });
    }
    for ((i, error), place) in [(absolute, &mut verdict.absolute), (relative, &mut verdict.relative)] {
        if error != 0.0 {
            *place = element(i, error);
        }
    }
    verdict.outcome = if leaves == 0 { Outcome::Fits } else { Outcome::Leaves(leaves) };
    if let (Outcome::Fits, Allowed::Carried { whole: Some(whole), arithmetic, .. }) = (&verdict.outcome, &allowed) {
        verdict.judge_whole(&a, &b, &tolerances, arithmetic.stored, *whole);
    }
    if explain && !verdict.passed() {
        verdict.explain(a, b, tolerances, largest);
    }
    verdict
}

impl Verdict {
    /// The pattern and the profile of the errors.
    fn explain(&mut self, ours: Vec<f64>, mut theirs: Vec<f64>, tolerances: Vec<f64>, largest: f64) {
        let whole = |whole: Option<Whole>| whole.map_or(f64::NAN, |whole| whole.found);
        self.pattern = match self.outcome {
            Outcome::Factor => {
                Some(format!("every value is {} times the right one", pattern::number(whole(self.factor), 0.0)))
            }
            Outcome::Mean => {
                let mean = whole(self.mean);
                let size = if mean < 0.0 { "small" } else { "large" };
                Some(format!("the values are too {size} by {} in the mean", pattern::number(mean.abs(), 0.0)))
            }
            _ => {
                // What is right for another reason than its distance, see above.
                for ((theirs, &ours), &tolerance) in theirs.iter_mut().zip(&ours).zip(&tolerances) {
                    if error(ours, *theirs, tolerance, largest) == 0.0 {
                        *theirs = ours;
                    }
                }
                let names = pattern::axes_of(&self.name, self.shape.len());
                self.profile = Some(Profile::new(names, &self.shape, &|i| {
                    let error = error(ours[i], theirs[i], tolerances[i], largest);
                    let share = if error == 0.0 { 0.0 } else { error / tolerances[i] };
                    if share.is_nan() || error > 0.0 && !tolerances[i].is_finite() { f64::INFINITY } else { share }
                }));
                let [theirs, ours, tolerances] =
                    [theirs, ours, tolerances].map(|x| ArrayD::from_shape_vec(self.shape.as_slice(), x).ok());
                let described = theirs.zip(ours).zip(tolerances);
                described.map(|((theirs, ours), each)| pattern::describe_within(&theirs, &ours, &each, names))
            }
        };
    }

    /// The same if the shape is another one: the axes may be in another order.
    fn explain_shape(&mut self, ours: &ArrayD<f64>, theirs: &ArrayD<f64>) {
        let scale = ours.iter().filter(|x| x.is_finite()).fold(0.0f64, |scale, x| scale.max(x.abs()));
        let Tolerance { relative, .. } = Tolerance::of_dtype(self.dtypes[1]);
        let allowed = ArrayD::from_elem(ours.raw_dim(), relative * scale);
        let names = pattern::axes_of(&self.name, self.shape.len());
        self.pattern = pattern::of_axes(theirs, ours, &allowed, names);
    }

    /// The fitted factor and the mean error of a tensor whose elements fit.
    fn judge_whole(
        &mut self,
        ours: &[f64],
        theirs: &[f64],
        tolerances: &[f64],
        stored: Float,
        [factor, mean]: [f64; 2],
    ) {
        let pairs = || ours.iter().zip(theirs).map(|(&a, &b)| (a / self.scale, (b - a) / self.scale));
        let finite = |(a, error): &(f64, f64)| a.is_finite() && error.is_finite();
        let (mut products, mut squares, mut sum, mut count) = (0.0, 0.0, 0.0, 0usize);
        for (a, error) in pairs().filter(finite) {
            (products, squares, sum, count) = (products + a * error, squares + a * a, sum + error, count + 1);
        }
        if squares == 0.0 || count < 2 {
            return;
        }
        let mut found = [
            Whole { found: 1.0 + products / squares, tolerance: factor },
            Whole { found: sum / count as f64 * self.scale, tolerance: mean },
        ];
        // Where there is no bound, nothing is checked.
        let off = |[factor, mean]: &[Whole; 2], share: f64| {
            [(factor.found - 1.0).abs() > share * factor.tolerance, mean.found.abs() > share * mean.tolerance]
        };
        if off(&found, 0.25).contains(&true) {
            // Equal values are rounded in the same way: their errors are one error.
            let [factor, mean] = of_like_values(ours, tolerances, self.scale, stored);
            found[0].tolerance = found[0].tolerance.max(factor);
            found[1].tolerance = found[1].tolerance.max(mean);
        }
        match off(&found, 1.0) {
            [true, _] => self.outcome = Outcome::Factor,
            [_, true] => self.outcome = Outcome::Mean,
            _ => {}
        }
        [self.factor, self.mean] = found.map(Some);
    }
}

/// The tolerances of the factor and of the mean if equal elements have one error and if elements that round to one number of
/// the type `stored` have one rounding of the result.
///
/// Values that differ by less than a step of the type, such as the results of a batch norm of tiny inputs, are all rounded in
/// one direction.
fn of_like_values(ours: &[f64], tolerances: &[f64], scale: f64, stored: Float) -> [f64; 2] {
    let mut order: Vec<usize> = (0..ours.len()).filter(|&i| ours[i].is_finite()).collect();
    order.sort_by(|&i, &j| ours[i].abs().total_cmp(&ours[j].abs()));
    let of_result = |i: usize| tolerances[i].min(2.0 * stored.unit_roundoff() * ours[i].abs() + stored.underflow());
    let equal = of_groups(&order, &|i| ours[i].abs(), ours, &|i| tolerances[i], scale);
    let like = of_groups(&order, &|i| stored.round(ours[i].abs()), ours, &of_result, scale);
    [equal[0].max(like[0]), equal[1].max(like[1])]
}

/// The tolerances of the factor and of the mean if all neighbours in `order` with one `key` have one error.
fn of_groups(
    order: &[usize],
    key: &dyn Fn(usize) -> f64,
    ours: &[f64],
    tolerance: &dyn Fn(usize) -> f64,
    scale: f64,
) -> [f64; 2] {
    let (mut of_factor, mut of_mean, mut squares) = (0.0, 0.0, 0.0);
    for group in order.chunk_by(|&i, &j| key(i) == key(j)) {
        let (mut products, mut sum) = (0.0, 0.0);
        for (value, tolerance) in group.iter().map(|&i| (ours[i].abs() / scale, tolerance(i) / scale)) {
            (products, sum, squares) = (products + value * tolerance, sum + tolerance, squares + value * value);
        }
        (of_factor, of_mean) = (of_factor + products * products, of_mean + sum * sum);
    }
    [2.0 * of_factor.sqrt() / squares, 2.0 * of_mean.sqrt() / order.len().max(1) as f64 * scale]
}

/// How far an element is off; `largest` is the largest number of the type of theirs.
fn error(ours: f64, theirs: f64, tolerance: f64, largest: f64) -> f64 {
    // The same infinity, or both NaN: theirs agrees. So does an infinity where the type of theirs ends.
    let same = ours == theirs || ours.is_nan() && theirs.is_nan();
    let overflow = theirs.is_infinite() && ours.abs() + tolerance >= largest && theirs.signum() == ours.signum();
    if same || overflow { 0.0 } else { (theirs - ours).abs() }
}

/// √(Σ x²/n), in units of `largest`.
fn rms(x: impl Iterator<Item = f64>, largest: f64) -> f64 {
    if largest == 0.0 || !largest.is_finite() {
        return largest;
    }
    let (sum, count) = x.fold((0.0, 0usize), |(sum, n), x| (sum + (x / largest).powi(2), n + 1));
    largest * (sum / count.max(1) as f64).sqrt()
}

/// The index of element `i` in row-major order.
pub(super) fn index(i: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = i;
    let mut index = vec![0; shape.len()];
    for (at, &axis) in index.iter_mut().zip(shape).rev() {
        (*at, rest) = (rest % axis, rest / axis);
    }
    index
}

/// Whether `error` exceeds `allowed`. A NaN does, and every error but 0 does if `allowed` is no bound: infinite or NaN.
// `error > allowed` would be false for NaN: exactly what must not happen.
fn beyond(error: f64, allowed: f64) -> bool {
    error != 0.0 && !(error <= allowed && allowed.is_finite())
}

fn squeezed(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&axis| axis != 1).collect()
}

/// The distance of two values in steps from one floating-point number of the type to the next.
fn ulps(dtype: Dtype, a: f64, b: f64) -> u64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() && b.is_nan() { 0 } else { u64::MAX };
    }
    // The bit pattern of a positive float increases with its value; negative ones are mirrored at 0.
    let signed = |x: f64, bits: i128| if x < 0.0 { -bits } else { bits };
    let place64 = |x: f64| signed(x, x.abs().to_bits().into());
    let place32 = |x: f64| signed(x, (x as f32).abs().to_bits().into());
    let distance = match dtype {
        Dtype::F64 => place64(a) - place64(b),
        Dtype::F32 => place32(a) - place32(b),
        // As in f32, with fewer bits in the significand.
        Dtype::BF16 => (place32(a) - place32(b)) >> 16,
        Dtype::F16 => (place32(a) - place32(b)) >> 13,
        _ => (a - b) as i128,
    };
    u64::try_from(distance.unsigned_abs()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{ArrayD, array};

    fn tensors(entries: &[(&str, ArrayD<f64>)]) -> Tensors {
        let mut tensors = Tensors::new();
        entries.iter().for_each(|(name, tensor)| tensors.insert(*name, tensor.clone()));
        tensors
    }

    #[test]
    fn the_first_in_the_order_of_execution_is_named() {
        let x = array![1.0, -2.0, 4.0].into_dyn();
        let ours = tensors(&[("output.b", x.clone()), ("output.a", x.clone()), ("loss", x.clone())]);
        let theirs = tensors(&[("loss", &x + 1.0), ("output.a", &x + 1.0), ("output.b", x.clone())]);
        let report = compare(&ours, &theirs, None).unwrap();
        assert!(!report.passed());
        assert_eq!(report.first().unwrap().name, "output.a");
        assert!(compare(&ours, &ours, None).unwrap().passed());
    }

    #[test]
    fn one_wrong_element_is_found_and_measured() {
        let ours = tensors(&[("y", array![[1.0, -2.0], [4.0, 0.0]].into_dyn())]);
        let theirs = tensors(&[("y", array![[1.0, -2.0 - 2f64.powi(-40)], [4.0, 0.0]].into_dyn())]);
        let given = |absolute| Some(Tolerance { relative: 0.0, absolute });
        let verdict = &compare(&ours, &theirs, given(1e-13)).unwrap().tensors[0];
        assert_eq!(verdict.outcome, Outcome::Leaves(1));
        assert_eq!((verdict.worst.error, verdict.worst.tolerance), (2f64.powi(-40), 1e-13));
        assert_eq!((verdict.absolute.error, verdict.absolute.at.as_slice()), (2f64.powi(-40), &[0, 1][..]));
        assert_eq!(verdict.relative.error, 2f64.powi(-41));
        assert_eq!(verdict.ulps, 1 << 11); // between 2 and 4 adjacent floats are 2⁻⁵¹ apart
        assert_eq!(verdict.histogram[18 - 13], 1); // 9.1e-13 / 4 is 2.3e-13
        assert!(compare(&ours, &theirs, given(1e-12)).unwrap().passed());
    }

    #[test]
    fn nan_shape_names_and_nothing_at_all_fail() {
        let ours = tensors(&[("y", array![1.0, 2.0].into_dyn()), ("z", array![[1.0], [2.0]].into_dyn())]);
        let nan = tensors(&[("y", array![1.0, f64::NAN].into_dyn())]);
        let report = compare(&ours, &nan, Some(Tolerance { relative: 1e9, absolute: 1e9 })).unwrap();
        assert!(!report.passed() && report.tensors[0].absolute.error.is_nan() && report.tensors[0].not_finite == 1);
        let shape = compare(&ours, &tensors(&[("y", array![1.0, 2.0, 3.0].into_dyn())]), None).unwrap();
        assert_eq!(shape.first().unwrap().outcome, Outcome::Shape(vec![3]));
        // Axes of length 1 are ignored; a missing tensor is not compared and does not fail.
        let squeezed = compare(&ours, &tensors(&[("z", array![1.0, 2.0].into_dyn())]), None).unwrap();
        assert!(squeezed.passed() && squeezed.tried() == 1 && squeezed.tensors[0].outcome == Outcome::NotGiven);
        let misspelt = compare(&ours, &tensors(&[("zz", array![1.0].into_dyn())]), None).unwrap();
        assert!(!misspelt.passed());
        assert!(!compare(&ours, &Tensors::new(), None).unwrap().passed());
    }

    #[test]
    fn an_infinity_of_ours_excuses_nothing() {
        let ours = tensors(&[("y", array![f64::INFINITY, 1.0].into_dyn())]);
        let theirs = |x: f64, y: f64| tensors(&[("y", array![x, y].into_dyn())]);
        for given in [None, Some(Tolerance { relative: 0.1, absolute: 0.1 })] {
            assert!(compare(&ours, &theirs(f64::INFINITY, 1.0), given).unwrap().passed());
            for (x, y) in [(f64::INFINITY, 2.0), (5.0, 1.0), (f64::NEG_INFINITY, 1.0), (f64::NAN, 1.0)] {
                assert!(!compare(&ours, &theirs(x, y), given).unwrap().passed(), "{x}, {y}, {given:?}");
            }
        }
        // Nor does an infinite or NaN tolerance.
        let mut ours = tensors(&[("y", array![1.0].into_dyn())]);
        for none in [f64::INFINITY, f64::NAN] {
            ours.insert("tolerance.f64.y", array![none]);
            let report = compare(&ours, &tensors(&[("y", array![2.0].into_dyn())]), None).unwrap();
            assert!(!report.passed() && !report.tensors[0].worst.tolerance.is_finite());
            assert!(compare(&ours, &ours, None).unwrap().passed());
        }
    }

    /// Each element has its own tolerance, and the largest share of one decides.
    #[test]
    fn every_element_has_its_own_tolerance() {
        let mut ours = tensors(&[("y", array![1.0, 1.0, 0.0].into_dyn())]);
        ours.insert("tolerance.f64.y", array![0.5, 0.125, 0.0]);
        let judge = |theirs: [f64; 3]| {
            let report = compare(&ours, &tensors(&[("y", array![theirs[0], theirs[1], theirs[2]].into_dyn())]), None);
            report.unwrap().tensors.swap_remove(0)
        };
        let fits = judge([1.25, 1.125, 0.0]);
        assert_eq!((fits.outcome, fits.worst.at, fits.worst.tolerance), (Outcome::Fits, vec![1], 0.125));
        assert_eq!((fits.absolute.at, fits.absolute.error), (vec![0], 0.25));
        assert_eq!(judge([1.0, 1.25, 0.0]).outcome, Outcome::Leaves(1));
        assert_eq!(judge([1.0, 1.0, 1e-300]).outcome, Outcome::Leaves(1));
    }

    /// An error that is the same everywhere is found far below any element's tolerance; but equal values are rounded in the
    /// same way, and that is no mistake.
    #[test]
    fn a_common_factor_and_a_common_shift_are_found() {
        let y: ndarray::Array1<f64> = (0..1000).map(|i| f64::from(i).sin()).collect();
        let mut ours = tensors(&[("y", y.clone().into_dyn())]);
        ours.insert("tolerance.f64.y", ndarray::Array1::from_elem(1000, 0.05));
        ours.metadata.insert(whole_key("factor", "f64"), "y 5e-3\n".to_string());
        ours.metadata.insert(whole_key("mean", "f64"), "y 5e-3\n".to_string());
        let judge = |theirs: ndarray::Array1<f64>| {
            compare(&ours, &tensors(&[("y", theirs.into_dyn())]), None).unwrap().tensors.swap_remove(0)
        };
        let scaled = judge(&y * 0.99);
        assert_eq!(scaled.outcome, Outcome::Factor);
        assert!((scaled.factor.unwrap().found - 0.99).abs() < 1e-12 && scaled.share() > 1.9);
        assert_eq!(scaled.pattern.as_deref(), Some("every value is 0.99 times the right one"));
        let shifted = judge(&y + 0.01);
        assert_eq!(shifted.outcome, Outcome::Mean);
        assert_eq!(shifted.pattern.as_deref(), Some("the values are too large by 0.01 in the mean"));
        let alternating = ndarray::Array1::from_shape_fn(1000, |i| y[i] + if i % 2 == 0 { 0.04 } else { -0.04 });
        assert_eq!(judge(alternating).outcome, Outcome::Fits);

        ours.insert("y", ndarray::Array1::from_elem(1000, 1.0 / 3.0));
        let third = ndarray::Array1::from_elem(1000, 0.336);
        let report = compare(&ours, &tensors(&[("y", third.into_dyn())]), None).unwrap();
        assert!(report.passed(), "{:?}", report.first());

        // Values between two numbers of bf16, all of which are rounded up by nearly u; and values spread over many numbers.
        let judge = |step: f64, theirs: &dyn Fn(f64) -> f64| {
            let y = ndarray::Array1::from_shape_fn(1000, |i| 1.0 + 2f64.powi(-8) * (1.01 + step * i as f64));
            let mut ours = tensors(&[("y", y.clone().into_dyn())]);
            ours.insert("tolerance.bf16.y", y.mapv(|y| 2f64.powi(-7) * y));
            for what in ["factor", "mean"] {
                ours.metadata.insert(whole_key(what, "bf16"), "y 1e-3\n".to_string());
            }
            let stated = ComputedIn::all(Arithmetic::BF16);
            let report = compare_as(&ours, &tensors(&[("y", y.mapv(theirs).into_dyn())]), None, &stated).unwrap();
            report.tensors[0].outcome.clone()
        };
        assert_eq!(judge(1e-4, &|y| Float::BF16.round(y)), Outcome::Fits);
        assert_eq!(judge(0.1, &|y| Float::BF16.round(y)), Outcome::Fits);
        assert_eq!(judge(0.1, &|y| 0.9945 * y), Outcome::Factor);
    }

    #[test]
    fn the_arithmetic_is_the_stated_one_or_that_of_the_type() {
        let (bf16, f32) = (Arithmetic::BF16, Arithmetic::F32);
        let mut ours = tensors(&[("y", array![1.0].into_dyn())]);
        ours.insert("tolerance.f64.y", array![0.0]);
        ours.insert("tolerance.bf16.y", array![0.5]);
        let theirs = tensors(&[("y", array![1.25].into_dyn())]);
        assert!(!compare(&ours, &theirs, None).unwrap().passed());
        assert!(compare_as(&ours, &theirs, None, &ComputedIn::all(bf16)).unwrap().passed());
        let error = compare_as(&ours, &theirs, None, &ComputedIn::all(f32)).unwrap_err().to_string();
        assert!(error.contains("tolerances for f64 and bf16 only") && error.contains("--computed-in f32"), "{error}");
        // Beyond the largest number of the type an infinity is right.
        let mut ours = tensors(&[("y", array![1e39, -1e39, 1e38].into_dyn())]);
        ours.insert("tolerance.f32.y", array![1e32, 1e32, 1e31]);
        let mut theirs = Tensors::new();
        let infinite = |x: f32| array![f32::INFINITY, f32::NEG_INFINITY, x];
        theirs.insert("y", infinite(1e38));
        assert!(compare(&ours, &theirs, None).unwrap().passed());
        theirs.insert("y", infinite(f32::INFINITY));
        assert!(!compare(&ours, &theirs, None).unwrap().passed());
    }

    /// Nothing is worse than an element that is infinite or NaN, wherever others follow.
    #[test]
    fn the_worst_element_is_the_one_that_is_not_finite() {
        let ours = tensors(&[("y", array![1.0, 2.0, 3.0, 4.0].into_dyn())]);
        for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let theirs = tensors(&[("y", array![1.1, value, 3.0 + 1e-9, 5.0].into_dyn())]);
            let given = Some(Tolerance { relative: 0.0, absolute: 1e-3 });
            let report = compare(&ours, &theirs, given).unwrap();
            assert_eq!(report.tensors[0].worst.at, [1]);
        }
    }

    #[test]
    fn other_names_are_compared_in_our_order() {
        let x = array![1.0, -2.0].into_dyn();
        let ours = tensors(&[("logits", x.clone()), ("grad_fc.bias", x.clone()), ("grad_conv1.weight", x.clone())]);
        let theirs = tensors(&[
            ("bn1.num_batches_tracked", x.clone()),
            ("grad_module.conv1.weight", &x + 1.0),
            ("grad_conv1.weight", x.clone()),
            ("grad_module.linear.bias", x.clone()),
            ("grad_module.linear.bais", x.clone()),
        ]);
        let report = compare(&ours, &theirs, None).unwrap();
        let found: Vec<(&str, bool)> = report.tensors.iter().map(|v| (v.name.as_str(), v.passed())).collect();
        // Under their own names, in our order; a tensor given twice is compared twice.
        let expected = [
            ("logits", true),
            ("grad_module.linear.bias", true),
            ("grad_module.conv1.weight", false),
            ("grad_conv1.weight", true),
        ];
        assert_eq!(found, expected);
        assert_eq!(report.unknown, [("grad_module.linear.bais".to_string(), None)]);
    }

    #[test]
    fn ulps_count_the_numbers_between() {
        let next = |x: f32, n: u32| f64::from(f32::from_bits(x.to_bits() + n));
        assert_eq!(ulps(Dtype::F32, 1.0, next(1.0, 3)), 3);
        assert_eq!(ulps(Dtype::F64, 1.0, 1.0 + f64::EPSILON), 1);
        assert_eq!(ulps(Dtype::F64, 0.0, -0.0), 0);
        assert_eq!(ulps(Dtype::F64, f64::from_bits(1), -f64::from_bits(1)), 2);
        assert_eq!(ulps(Dtype::F32, f64::NAN, 1.0), u64::MAX);
    }

    #[test]
    fn what_does_not_fit_has_a_pattern_and_a_profile() {
        let right =
            ArrayD::from_shape_fn([2, 3, 100, 4].as_slice(), |at| (at[0] + 2 * at[1] + 3 * at[2] + at[3]) as f64);
        let mut ours = tensors(&[("output", right.clone()), ("grad_fc.weight", array![[1.0, 2.0, 4.0]].into_dyn())]);
        ours.insert("tolerance.f64.output", ArrayD::from_elem(right.raw_dim(), 0.5));
        ours.insert("tolerance.f64.grad_fc.weight", array![[0.0, 0.0, 1.0]]);
        let mut wrong = right;
        wrong.slice_each_axis_mut(|axis| if axis.axis.index() == 3 { (3..).into() } else { (..).into() }).fill(9e9);
        wrong[[1, 2, 99, 3].as_slice()] = f64::NAN;
        let theirs = tensors(&[("output", wrong), ("grad_fc.weight", array![[1.0, 2.0, 4.5]].into_dyn())]);
        let report = compare(&ours, &theirs, None).unwrap();
        let [output, fits] = report.tensors.as_slice() else { panic!("{report:?}") };
        assert!(fits.pattern.is_none() && fits.profile.is_none());
        assert!(output.pattern.as_ref().unwrap().starts_with("1 of 2400 values are infinite or NaN"), "{output:?}");
        let Profile { names, axes, planes } = output.profile.as_ref().unwrap();
        assert_eq!((names[3], axes[3][2], axes[0][1]), ("column", 0.0, f64::INFINITY));
        assert!((axes[0][0] / 1.8e10 - 1.0).abs() < 1e-6, "{:?}", axes[0]);
        let [first, last] = planes.as_slice() else { panic!("{planes:?}") };
        assert_eq!((first.axes, first.block, first.shares.dim()), ([0, 1], [1, 1], (2, 3)));
        assert_eq!((last.axes, last.block, last.shares.dim()), ([2, 3], [2, 1], (50, 4)));
        assert_eq!((last.shares[[49, 3]], last.shares[[49, 2]]), (f64::INFINITY, 0.0));
        // The axes of another shape, and without a bound only the same value is right.
        let moved = tensors(&[("output", ours.get("output").unwrap().to_f64().permuted_axes([0, 2, 3, 1].as_slice()))]);
        let pattern = compare(&ours, &moved, None).unwrap().tensors[0].pattern.clone();
        assert_eq!(pattern.as_deref(), Some("its axes are image, row, column, channel"));
        ours.insert("tolerance.f64.grad_fc.weight", array![[0.0, 0.0, f64::INFINITY]]);
        let verdict = compare(&ours, &theirs, None).unwrap().tensors.swap_remove(1);
        assert_eq!(verdict.pattern.as_deref(), Some("1 of 3 values is wrong: at output 0, input 2"));
        assert_eq!(verdict.profile.unwrap().axes, [vec![f64::INFINITY], vec![0.0, 0.0, f64::INFINITY]]);
    }
}
