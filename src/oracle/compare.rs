//! Compares two dumps tensor by tensor: how far they differ, how far they may differ, and where that begins.
//!
//! `ours` is the reference and defines the order of execution; `theirs` is to be checked. A tensor of theirs *fits* if it
//! has the shape of ours and every element satisfies
//!
//! ```text
//! |theirs − ours| ≤ tolerance        tested as `!(error <= tolerance)`, so that a NaN fails
//! ```
//!
//! The tolerance is the [`Tolerance`] that is given; otherwise the one in the dump for the element type of theirs
//! ([`super::rounding`]); for a dump without any, [`Tolerance::of_dtype`].
//!
//! A name of theirs that ours does not have is translated as names of weights are (`crate::parameters::our_name`), after the
//! dump's own prefix: `grad_module.linear.weight` is `grad_fc.weight`, `output.layer2.0.shortcut` is
//! `output.layer2.0.downsample`; PyTorch's batch counters are skipped. A tensor that theirs lacks is not compared, and the
//! report says so. A tensor that only theirs has is an error: most likely its name is misspelt, and a comparison that
//! silently compares less than it was given is worthless. Axes of length 1 are ignored: `(N, C, 1, 1)` equals `(N, C)`.

use super::dump::{ALIASES, tolerance_key};
use crate::error::nearest;
use crate::parameters::{is_counter, join, our_name};
use crate::tensors::{Dtype, Tensor, Tensors};
use crate::{Error, Result};
use std::collections::HashMap;
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
    /// The dump: rounding in this type, simulated through the computation.
    Rounding(Dtype),
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
            Source::Rounding(dtype) => {
                write!(f, "rounding in {} (u = {:.1e})", dtype.name(), dtype.unit_roundoff().unwrap_or(0.0))
            }
            Source::Given => write!(f, "given"),
            Source::Type(dtype) => write!(f, "usual for {}", dtype.name()),
            Source::Exact => write!(f, "exact"),
        }
    }
}

/// An element and its error.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// The error.
    pub error: f64,
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
    /// This many elements exceed the tolerance.
    Leaves(usize),
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
    /// Number of elements with an error of about 10^(i − 18) times `scale`; those without error are not counted.
    pub histogram: [usize; DECADES],
    /// The largest error allowed in any finite element; infinite if the dump has no bound for this tensor, and then only
    /// equal elements fit.
    pub tolerance: f64,
    /// Where the tolerance comes from.
    pub source: Source,
}

impl Verdict {
    /// Whether it fits or was not compared.
    pub fn passed(&self) -> bool {
        matches!(self.outcome, Outcome::Fits | Outcome::NotGiven)
    }

    /// Whether it was compared.
    pub fn tried(&self) -> bool {
        self.outcome != Outcome::NotGiven
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
}

/// Compares `theirs` with `ours`.
///
/// # Errors
/// If the metadata of `ours` is damaged.
pub fn compare(ours: &Tensors, theirs: &Tensors, given: Option<Tolerance>) -> Result<Report> {
    let aliases = pairs(ours, ALIASES)?;
    let mut carried = HashMap::new();
    for dtype in [Dtype::F32, Dtype::F64] {
        for (name, tolerance) in pairs(ours, &tolerance_key(dtype))? {
            let tolerance: f64 = tolerance.parse().map_err(|_| damaged(&tolerance_key(dtype), tolerance))?;
            let tolerance = if tolerance.is_nan() { f64::INFINITY } else { tolerance };
            carried.insert((name, dtype.name()), tolerance);
        }
    }
    let aliases: HashMap<&str, &str> = aliases.into_iter().collect();
    let named = |name: &str| ours.names().find(|own| *own == name);
    let own = |name: &str| named(name).or_else(|| named(aliases.get(name)?));
    // The names that theirs uses for each tensor of ours; there may be several: `layer1` and its last ReLU.
    let mut called: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut unknown = Vec::new();
    for name in theirs.names().filter(|name| !is_counter(name)) {
        match own(name).or_else(|| own(&translated(name))) {
            Some(own) => called.entry(own).or_default().push(name),
            None => unknown.push(name),
        }
    }
    let missing = ours.names().filter(|name| !called.contains_key(name));
    let missing: Vec<String> = missing.map(str::to_string).collect();
    let unknown = unknown.into_iter().map(|name| {
        let near = nearest(&translated(name), &missing).map(str::to_string);
        (name.to_string(), near)
    });
    let entries = ours.names().flat_map(|own| match called.get(own) {
        Some(names) => names.iter().map(|&name| (name, own)).collect(),
        None => vec![(own, own)],
    });
    let tensors = entries.map(|(name, own)| {
        let tensor = ours.get(own).expect("one of ours");
        verdict(name, tensor, theirs.get(name), given, |dtype| match dtype {
            Dtype::F16 | Dtype::BF16 => {
                let ratio = dtype.unit_roundoff()? / Dtype::F32.unit_roundoff()?;
                carried.get(&(own, Dtype::F32.name())).map(|tolerance| tolerance * ratio)
            }
            _ => carried.get(&(own, dtype.name())).copied(),
        })
    });
    Ok(Report { tensors: tensors.collect(), unknown: unknown.collect() })
}

/// Translates a name in another program's dump to the name used here.
fn translated(name: &str) -> String {
    for prefix in ["output", "grad_output"] {
        if let Some(module) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
            // The name of a module, `linear`; that of a parameter is `linear.weight`. A wrapper is the whole network.
            let module = our_name(&format!("{module}."));
            return join(prefix, module.strip_suffix('.').unwrap_or(&module));
        }
    }
    match name.strip_prefix("grad_") {
        Some(parameter) => format!("grad_{}", our_name(parameter)),
        None => our_name(name),
    }
}

/// The `key value` lines of an entry of the metadata.
fn pairs<'a>(tensors: &'a Tensors, key: &str) -> Result<Vec<(&'a str, &'a str)>> {
    let lines = tensors.metadata.get(key).map_or("", String::as_str).lines();
    lines.map(|line| line.rsplit_once(' ').ok_or_else(|| damaged(key, line))).collect()
}

fn damaged(key: &str, line: &str) -> Error {
    Error::argument("compare", format!("the reference's metadata `{key}` has the line `{line}`, expected `name value`"))
}

fn verdict(
    name: &str,
    ours: &Tensor,
    theirs: Option<&Tensor>,
    given: Option<Tolerance>,
    carried: impl Fn(Dtype) -> Option<f64>,
) -> Verdict {
    let nothing = Worst { error: 0.0, at: Vec::new(), values: [0.0; 2] };
    let mut verdict = Verdict {
        name: name.to_string(),
        shape: ours.shape().to_vec(),
        dtypes: [ours.dtype(), theirs.map_or(ours.dtype(), Tensor::dtype)],
        outcome: Outcome::NotGiven,
        absolute: nothing.clone(),
        relative: nothing,
        ulps: 0,
        not_finite: 0,
        ours_not_finite: 0,
        scale: 0.0,
        histogram: [0; DECADES],
        tolerance: 0.0,
        source: Source::Exact,
    };
    let Some(theirs) = theirs else { return verdict };
    if squeezed(ours.shape()) != squeezed(theirs.shape()) {
        verdict.outcome = Outcome::Shape(theirs.shape().to_vec());
        return verdict;
    }
    // Both in row-major order, whatever axes of length 1 theirs has.
    let [a, b] = [ours, theirs].map(|tensor| tensor.to_f64().iter().copied().collect::<Vec<f64>>());
    // Of the finite elements only: an infinity would allow any error in every other element.
    verdict.scale = a.iter().filter(|x| x.is_finite()).fold(0.0f64, |scale, x| scale.max(x.abs()));

    let dtype = theirs.dtype();
    let allowed = |value: f64| match given {
        Some(Tolerance { relative, absolute }) => absolute + relative * value.abs(),
        None => 0.0,
    };
    let (whole, source) = match (given, dtype.unit_roundoff(), carried(dtype)) {
        (Some(_), ..) => (0.0, Source::Given),
        (None, None, _) => (0.0, Source::Exact),
        (None, Some(_), Some(tolerance)) => (tolerance, Source::Rounding(dtype)),
        (None, Some(_), None) => {
            let Tolerance { relative, absolute } = Tolerance::of_dtype(dtype);
            (absolute.min(relative * verdict.scale) + relative * verdict.scale, Source::Type(dtype))
        }
    };
    verdict.source = source;

    let mut leaves = 0;
    // The place in row-major order of the worst element, and its error.
    let (mut absolute, mut relative) = ((0, 0.0f64), (0, 0.0f64));
    for (i, (&ours, &theirs)) in a.iter().zip(&b).enumerate() {
        // The same infinity, or both NaN: theirs agrees.
        let error = if ours == theirs || ours.is_nan() && theirs.is_nan() { 0.0 } else { (theirs - ours).abs() };
        let tolerance = whole + allowed(ours);
        // A tolerance relative to an infinity allows everything, but an infinity matches only itself.
        if ours.is_finite() {
            verdict.tolerance = verdict.tolerance.max(tolerance);
        }
        verdict.ours_not_finite += usize::from(!ours.is_finite());
        verdict.not_finite += usize::from(ours.is_finite() && !theirs.is_finite());
        if beyond(error, tolerance) {
            leaves += 1;
        }
        if error == 0.0 {
            continue;
        }
        let larger = |error: f64, worst: f64| beyond(error, worst) && !worst.is_nan();
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
    for ((i, error), worst) in [(absolute, &mut verdict.absolute), (relative, &mut verdict.relative)] {
        if error != 0.0 {
            *worst = Worst { error, at: index(i, ours.shape()), values: [a[i], b[i]] };
        }
    }
    verdict.outcome = if leaves == 0 { Outcome::Fits } else { Outcome::Leaves(leaves) };
    verdict
}

/// The index of element `i` in row-major order.
fn index(i: usize, shape: &[usize]) -> Vec<usize> {
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
        for none in ["inf", "NaN"] {
            ours.metadata.insert(tolerance_key(Dtype::F64), format!("y {none}\n"));
            let report = compare(&ours, &tensors(&[("y", array![2.0].into_dyn())]), None).unwrap();
            assert!(!report.passed() && report.tensors[0].tolerance == f64::INFINITY);
            assert!(compare(&ours, &ours, None).unwrap().passed());
        }
    }

    #[test]
    fn names_are_translated_as_those_of_weights_are() {
        for (theirs, here) in [
            ("grad_module.layer1.0.conv1.weight", "grad_layer1.0.conv1.weight"),
            ("grad__orig_mod.module.linear.bias", "grad_fc.bias"),
            ("grad_layer2.0.shortcut.0.weight", "grad_layer2.0.downsample.0.weight"),
            ("module.layer2.0.shortcut.1.running_var", "layer2.0.downsample.1.running_var"),
            ("output.module.linear", "output.fc"),
            ("grad_output.linear", "grad_output.fc"),
            ("output.layer2.0.shortcut", "output.layer2.0.downsample"),
            ("output.module.layer1.0.relu#2", "output.layer1.0.relu#2"),
            ("output.module", "output"),
            ("grad_output.module", "grad_output"),
            ("output.conv1", "output.conv1"),
            ("grad_input", "grad_input"),
            ("loss", "loss"),
        ] {
            assert_eq!(translated(theirs), here);
        }
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
}
