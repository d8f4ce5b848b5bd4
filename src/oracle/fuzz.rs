//! Tries an implementation of a layer on random geometries and values, and shrinks what fails.
//!
//! A kernel is usually right for the shapes that its author had in mind. The mistakes are in the others: a last row that no
//! window covers, an even kernel, one image, a padding on one side only, a channel that is constant. [`Case::draw`] makes such
//! a case of every seed (`parameters.rs` lists what may occur), [`fuzz`] gives it to the implementation and
//! judges the results, and a case that fails is *shrunk*: one parameter after another is made smaller or simpler as long as
//! the case still fails. What remains is most often small enough to compute by hand.
//!
//! A case is its text: `seed=7,values=cancelling,n=1,c_in=1,…`. The text determines every element of its inputs, so it can be
//! sent to somebody else and replayed.

mod parameters;
mod tensors;

pub use parameters::Value;
pub use tensors::{USUAL, Values};

use super::arithmetic::{Arithmetic, ComputedIn};
use super::compare::{Report, coarsest, compare_as};
use super::diagnose::needed;
use super::expected::{Expected, Lines};
use super::layer::{self, Settings};
use crate::tensors::Tensors;
use crate::{Error, Result};
use parameters::Parameter;
use std::collections::BTreeSet;
use std::fmt;

/// How many geometries are drawn for a seed before it counts as impossible.
const DRAWS: u64 = 1000;
/// How many smaller cases are tried at most while one is shrunk.
const SHRINKS: usize = 400;

/// A geometry with its values; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The kind of layer.
    pub kind: &'static str,
    /// Determines the values.
    pub seed: u64,
    /// What is special about them.
    pub values: Values,
    /// Sizes and settings, in the order of [`parameters`].
    chosen: Vec<Value>,
    /// Which of them may not change.
    fixed: Vec<bool>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={},values={}", self.seed, self.values.name())?;
        self.each().try_for_each(|(parameter, value)| write!(f, ",{}={value}", parameter.name))
    }
}

/// What a case may look like.
#[derive(Clone, Debug)]
pub struct Range {
    kind: &'static str,
    /// `None` for a parameter that is drawn.
    fixed: Vec<Option<Value>>,
    values: Vec<Values>,
}

impl Range {
    /// All cases of a kind, but for parameters that are `fixed`, with values of one of these sorts.
    ///
    /// # Errors
    /// For an unknown kind or parameter, and a value that it cannot have.
    pub fn new(kind: &str, fixed: &Settings, values: &[Values]) -> Result<Range> {
        let kind = layer::KINDS.into_iter().find(|known| *known == kind).ok_or_else(|| {
            let known = layer::KINDS.iter().map(|kind| kind.to_string()).collect();
            Error::Unknown { kind: "layer", name: kind.to_string(), known }
        })?;
        let mut range = Range { kind, fixed: vec![None; parameters::of(kind).len()], values: values.to_vec() };
        for (name, value) in fixed.iter() {
            let (place, parameter) = range.find(name)?;
            range.fixed[place] = Some(parameter.parse(value)?);
        }
        Ok(range)
    }

    fn find(&self, name: &str) -> Result<(usize, &'static Parameter)> {
        let all = parameters::of(self.kind);
        all.iter().enumerate().find(|(_, parameter)| parameter.name == name).ok_or_else(|| {
            let known: Vec<String> = all.iter().map(|parameter| parameter.name.to_string()).collect();
            let hint =
                crate::error::nearest(name, &known).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            let message = format!("{} has no `{name}`{hint} (known: {})", self.kind, known.join(", "));
            Error::argument("fuzz", message)
        })
    }

    /// The case of a text, as [`Case`] prints it.
    ///
    /// # Errors
    /// If the text is not one, or lacks a parameter.
    pub fn case(&self, text: &str) -> Result<Case> {
        let settings: Settings = text.parse()?;
        let wrong =
            |what: &str| Error::argument("fuzz", format!("a case begins with seed=N,values=…; {what}: `{text}`"));
        let mut chosen = self.fixed.clone();
        let (mut seed, mut values) = (None, None);
        for (name, value) in settings.iter() {
            match name {
                "seed" => seed = Some(value.parse().map_err(|_| wrong("its seed is no whole number"))?),
                "values" => values = Some(value.parse()?),
                _ => {
                    let (place, parameter) = self.find(name)?;
                    chosen[place] = Some(parameter.parse(value)?);
                }
            }
        }
        let missing = chosen.iter().position(Option::is_none);
        if let Some(place) = missing {
            return Err(wrong(&format!("it lacks `{}`", parameters::of(self.kind)[place].name)));
        }
        Ok(Case {
            kind: self.kind,
            seed: seed.ok_or_else(|| wrong("it lacks `seed`"))?,
            values: values.ok_or_else(|| wrong("it lacks `values`"))?,
            chosen: chosen.into_iter().flatten().collect(),
            fixed: self.fixed.iter().map(Option::is_some).collect(),
        })
    }
}

impl Case {
    /// The case of a seed.
    ///
    /// # Errors
    /// If no geometry is possible with the fixed parameters.
    pub fn draw(range: &Range, seed: u64) -> Result<Case> {
        let mut last = None;
        for attempt in 0..DRAWS {
            let mut rng = tensors::generator(seed, range.kind, attempt);
            let values = range.values[tensors::below(&mut rng, range.values.len())];
            let draw = |(parameter, fixed): (&Parameter, &Option<Value>)| {
                let drawn = parameter.draw(&mut rng);
                fixed.unwrap_or(drawn)
            };
            let chosen = parameters::of(range.kind).iter().zip(&range.fixed).map(draw).collect();
            let fixed = range.fixed.iter().map(Option::is_some).collect();
            let case = Case { kind: range.kind, seed, values, chosen, fixed };
            match case.inputs() {
                Ok(_) => return Ok(case),
                Err(error) => last = Some(error),
            }
        }
        let reason = last.map_or(String::new(), |error| format!(": {error}"));
        Err(Error::argument("fuzz", format!("{}: no geometry is possible with these settings{reason}", range.kind)))
    }

    fn each(&self) -> impl Iterator<Item = (&'static Parameter, Value)> + '_ {
        parameters::of(self.kind).iter().zip(self.chosen.iter().copied())
    }

    /// The value of a parameter.
    fn get(&self, name: &str) -> Option<Value> {
        self.each().find(|(parameter, _)| parameter.name == name).map(|(_, value)| value)
    }

    /// Sizes and settings by name, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, Value)> + '_ {
        self.each().map(|(parameter, value)| (parameter.name, value))
    }

    /// The settings of the layer by name.
    pub fn typed_settings(&self) -> impl Iterator<Item = (&'static str, Value)> + '_ {
        self.each().filter(|(parameter, _)| parameter.setting).map(|(parameter, value)| (parameter.name, value))
    }

    /// The settings of the layer.
    pub fn settings(&self) -> Settings {
        self.typed_settings().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    /// The inputs of the layer, `grad_output` included, in `f64`.
    ///
    /// # Errors
    /// If the geometry is impossible: those of the layer.
    pub fn inputs(&self) -> Result<Tensors> {
        tensors::of(self)
    }

    /// Cases that differ from this one by a parameter that is smaller or simpler, the largest step first.
    fn smaller(&self) -> Vec<Case> {
        let mut smaller = Vec::new();
        for (place, (parameter, value)) in self.each().enumerate().filter(|(place, _)| !self.fixed[*place]) {
            smaller.extend(parameter.smaller(value).into_iter().map(|value| {
                let mut case = self.clone();
                case.chosen[place] = value;
                case
            }));
        }
        if self.values != Values::Small {
            smaller.push(Case { values: Values::Small, ..self.clone() });
        }
        smaller
    }
}

/// What an implementation did with a case.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It computed these results.
    Results(Tensors),
    /// It failed, with this message.
    Failed(String),
    /// It does not do this kind of thing, for this reason.
    Unsupported(String),
}

/// What was found in a case.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Results were compared.
    Judged(Report),
    /// The implementation failed.
    Failed(String),
    /// It does not support the case.
    Unsupported(String),
}

impl Finding {
    /// Whether the case is wrong.
    pub fn is_wrong(&self) -> bool {
        match self {
            Finding::Judged(report) => !report.passed(),
            Finding::Failed(_) => true,
            Finding::Unsupported(_) => false,
        }
    }
}

/// Gives a case to an implementation and judges its results.
///
/// # Errors
/// Those of `implementation`, and of the layer if the case is impossible.
pub fn judge(
    case: &Case,
    stated: &ComputedIn,
    implementation: &mut dyn FnMut(&Case, &Tensors) -> Result<Answer>,
) -> Result<Finding> {
    // Every implementation is given the values that its number type has.
    let inputs = tensors::rounded(&case.inputs()?, stated);
    Ok(match implementation(case, &inputs)? {
        Answer::Failed(message) => Finding::Failed(message),
        Answer::Unsupported(reason) => Finding::Unsupported(reason),
        Answer::Results(theirs) => {
            let mut stated = stated.clone();
            // The inputs are float32 then, and so are sums, in whatever the result is stored.
            if stated.all.is_none() && coarsest(&theirs) == Some(Arithmetic::F64) {
                stated.all = Some(Arithmetic::F32);
            }
            let ours = layer::run::<f64>(
                case.kind,
                &case.settings(),
                &inputs,
                &needed(&theirs, &stated, !layer::is_block(case.kind)),
            )?;
            Finding::Judged(compare_as(&ours, &theirs, None, &stated)?)
        }
    })
}

/// The names of the sizes and settings of a kind.
pub(super) fn parameters_of(kind: &str) -> impl Iterator<Item = &'static str> {
    parameters::of(kind).iter().map(|parameter| parameter.name)
}

/// The smallest case found that is wrong as `case` is, with what was found in it. `wrong` judges a case; an impossible one
/// is an error, and is skipped.
pub fn shrink(case: Case, found: Finding, mut wrong: impl FnMut(&Case) -> Option<Finding>) -> (Case, Finding) {
    let mut smallest = (case, found);
    let mut tried = 0;
    'shrinking: loop {
        for smaller in smallest.0.smaller() {
            if tried == SHRINKS {
                break 'shrinking;
            }
            if smaller.inputs().is_err() {
                continue;
            }
            tried += 1;
            if let Some(found) = wrong(&smaller) {
                smallest = (smaller, found);
                continue 'shrinking;
            }
        }
        break;
    }
    smallest
}

/// A case that is wrong, and the smallest one that is wrong, too.
#[derive(Clone, Debug)]
pub struct Failure {
    /// As it was drawn.
    pub case: Case,
    /// What remained of it.
    pub smallest: Case,
    /// What was found in the smallest case.
    pub found: Finding,
}

/// What [`fuzz`] found.
#[derive(Clone, Debug, Default)]
pub struct Fuzzed {
    /// Cases whose results fit.
    pub right: usize,
    /// Cases that the implementation does not support.
    pub unsupported: usize,
    /// Cases with expected failures.
    pub expected: usize,
    /// Cases that are wrong.
    pub wrong: Vec<Case>,
    /// The first of them, shrunk.
    pub first: Option<Failure>,
    /// The largest share of a tolerance that a right result used.
    pub share: f64,
    /// Results that were not returned in any case.
    pub missing: BTreeSet<String>,
    /// What became of the lines of expected failures.
    pub lines: Lines,
    /// The names of all results that a case had.
    pub results: BTreeSet<String>,
}

impl Fuzzed {
    /// Whether something was right, nothing wrong, and everything failed that is expected to.
    pub fn passed(&self) -> bool {
        self.wrong.is_empty() && self.right + self.expected > 0 && self.lines.superfluous().next().is_none()
    }
}

/// Gives every case to an implementation, judges the results, and shrinks the first case that is wrong. `progress` is called
/// after each case.
///
/// ```
/// use resnet_by_hand::oracle::fuzz::{self, Answer, Case, Range, USUAL};
/// use resnet_by_hand::oracle::{ComputedIn, Arithmetic, Expected, layer};
///
/// // An implementation that ignores the padding.
/// let mut wrong = |case: &Case, inputs: &_| {
///     let settings = case.settings().iter().filter(|(name, _)| *name != "padding")
///         .map(|(name, value)| (name.to_string(), value.to_string())).collect();
///     Ok(match layer::run::<f64>(case.kind, &settings, inputs, &[]) {
///         Ok(results) => Answer::Results(results),
///         Err(error) => Answer::Failed(error.to_string()),
///     })
/// };
/// let range = Range::new("avg_pool", &"".parse()?, &USUAL)?;
/// let stated = ComputedIn::all(Arithmetic::F64);
/// let found = fuzz::fuzz((0..20).map(|seed| Case::draw(&range, seed)), &stated, &Expected::default(), &mut wrong, &mut || {})?;
/// assert!(!found.passed() && found.right > 0);
/// let smallest = found.first.unwrap().smallest.to_string();
/// assert!(smallest.contains(",n=1,c=1,h=1,w=1,") && !smallest.contains("padding=0x0"), "{smallest}");
/// # Ok::<(), resnet_by_hand::Error>(())
/// ```
///
/// # Errors
/// Those of the cases and of `implementation`.
pub fn fuzz(
    cases: impl Iterator<Item = Result<Case>>,
    stated: &ComputedIn,
    expected: &Expected,
    implementation: &mut dyn FnMut(&Case, &Tensors) -> Result<Answer>,
    progress: &mut dyn FnMut(),
) -> Result<Fuzzed> {
    let (mut fuzzed, mut returned) = (Fuzzed::default(), BTreeSet::new());
    for case in cases {
        let case = case?;
        let (found, lines) = excuse(expected, &case, judge(&case, stated, implementation)?);
        let excused = !lines.failed.is_empty();
        fuzzed.lines.extend(lines);
        progress();
        if let Finding::Judged(report) = &found {
            for verdict in &report.tensors {
                fuzzed.results.insert(verdict.name.clone());
                let seen = if verdict.tried() { &mut returned } else { &mut fuzzed.missing };
                seen.insert(verdict.name.clone());
            }
        }
        match &found {
            _ if found.is_wrong() => {
                fuzzed.wrong.push(case.clone());
                if fuzzed.first.is_none() {
                    let mut failed = None;
                    // Wrong results must not shrink to a geometry that the implementation rejects.
                    let kind = std::mem::discriminant(&found);
                    let same = |found: &Finding| found.is_wrong() && std::mem::discriminant(found) == kind;
                    let wrong = |smaller: &Case| match judge(smaller, stated, implementation) {
                        Ok(found) => Some(excuse(expected, smaller, found).0).filter(same),
                        // The connection to the implementation is lost: nothing smaller can be found.
                        Err(error) => {
                            failed = Some(error);
                            None
                        }
                    };
                    let (smallest, found) = shrink(case.clone(), found, wrong);
                    if let Some(error) = failed {
                        return Err(error);
                    }
                    fuzzed.first = Some(Failure { case, smallest, found });
                }
            }
            _ if excused => fuzzed.expected += 1,
            Finding::Judged(report) => {
                fuzzed.right += 1;
                let shares = report.tensors.iter().filter(|verdict| verdict.tried()).map(|verdict| verdict.share());
                fuzzed.share = shares.fold(fuzzed.share, f64::max);
            }
            _ => fuzzed.unsupported += 1,
        }
    }
    fuzzed.missing.retain(|name| !returned.contains(name));
    Ok(fuzzed)
}

/// What remains to be said of a finding if expected failures are excused, and what became of the lines that say so.
fn excuse(expected: &Expected, case: &Case, found: Finding) -> (Finding, Lines) {
    let own = [("seed".to_string(), case.seed.to_string()), ("values".to_string(), case.values.name().to_string())];
    let chosen = case.parameters().map(|(name, value)| (name.to_string(), value.to_string()));
    let properties: Vec<(String, String)> = own.into_iter().chain(chosen).collect();
    match found {
        Finding::Judged(mut report) => {
            let lines = expected.excuse(case.kind, &properties, &mut report);
            (Finding::Judged(report), lines)
        }
        Finding::Failed(message) => match expected.of_failure(case.kind, &properties) {
            Some((reason, lines)) => (Finding::Unsupported(reason.to_string()), lines),
            None => (Finding::Failed(message), Lines::default()),
        },
        Finding::Unsupported(reason) => (Finding::Unsupported(reason), Lines::default()),
    }
}
