//! Compares the results of an exercise with what is right, and finds the mistake that explains a wrong one.

use crate::lesson::{Lesson, Mistake, axes};
use crate::protocol::Case;
use ndarray::ArrayD;
use resnet_by_hand::oracle::pattern::describe;

/// What is said about an exercise.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Right,
    Wrong {
        /// The results that are wrong in some case.
        parts: Vec<String>,
        /// The mistakes that explain them; empty if none does.
        mistakes: Vec<String>,
        /// All of it, for the learner.
        text: String,
    },
}

/// Two results are the same if they differ by less than this share of the largest value. The exercises compute in `f64`, whose
/// roundings are 10⁻¹⁶ of a value; a sum of a thousand terms in another order is far within.
const TOLERANCE: f64 = 1e-9;

fn same(theirs: &ArrayD<f64>, right: &ArrayD<f64>) -> bool {
    let scale = right.iter().fold(0.0f64, |largest, value| largest.max(value.abs())).max(1e-3);
    // Two infinities of one sign are the same, and so are two NaN: what is right is finite.
    let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * scale || a == b || a.is_nan() && b.is_nan();
    theirs.shape() == right.shape() && theirs.iter().zip(right).all(|(&a, &b)| near(a, b))
}

fn same_part(theirs: &Case, right: &Case, part: &str) -> bool {
    match (theirs.get(part), right.get(part)) {
        (Some(theirs), Some(right)) => same(theirs, right),
        (theirs, right) => theirs.is_none() && right.is_none(),
    }
}

/// How well a mistake explains wrong results.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    /// Whether it explains everything.
    everything: bool,
    /// Whether it is one of the part that is wrong, and not of the whole.
    own_part: bool,
}

/// The results of a mistake in every case, where it changes something.
struct Tried {
    mistake: Mistake,
    results: Vec<Option<Case>>,
}

impl Tried {
    fn fit(&self, part: &str, theirs: &[Case], right: &[Case]) -> Option<Fit> {
        let of = |case: usize| self.results[case].as_ref().unwrap_or(&right[case]);
        let fits = |part: &str| (0..right.len()).all(|case| same_part(&theirs[case], of(case), part));
        let differs = (0..right.len()).any(|case| !same_part(of(case), &right[case], part));
        if !differs || !fits(part) {
            return None;
        }
        let everything = right[0].iter().all(|(part, _)| fits(part));
        Some(Fit { everything, own_part: self.mistake.what.split(' ').next() == Some(part) })
    }
}

/// The verdict on the results of every case.
pub fn grade(lesson: &Lesson, cases: &[Case], theirs: &[Case]) -> Verdict {
    let right: Vec<Case> = cases.iter().map(lesson.right).collect();
    let names: Vec<&str> = right[0].iter().map(|(name, _)| name).collect();
    let is_wrong = |part: &&str| theirs.iter().zip(&right).any(|(theirs, right)| !same_part(theirs, right, part));
    let (wrong, good): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(is_wrong);
    if wrong.is_empty() {
        return Verdict::Right;
    }
    let try_out =
        |mistake: Mistake| Tried { results: cases.iter().map(|case| (mistake.compute)(case)).collect(), mistake };
    let tried: Vec<Tried> = (lesson.mistakes)().into_iter().map(try_out).collect();

    let (mut text, mut mistakes) = (String::new(), Vec::new());
    if !good.is_empty() {
        text += &format!("  {} {} right.\n", list(&good), if good.len() == 1 { "is" } else { "are" });
    }
    for part in &wrong {
        let fits = tried.iter().filter_map(|tried| Some((tried.fit(part, theirs, &right)?, &tried.mistake)));
        // The first of the best: the list begins with the more specific ones.
        let best = fits.fold(None, |best: Option<(Fit, &Mistake)>, other| match best {
            Some(best) if best.0 >= other.0 => Some(best),
            _ => Some(other),
        });
        let smallest =
            (0..cases.len()).find(|&case| !same_part(&theirs[case], &right[case], part)).expect("it is wrong");
        match best {
            Some((_, mistake)) if mistakes.contains(&mistake.name) => {
                text += &format!("  The same mistake explains your {part}.\n");
                continue;
            }
            Some((_, mistake)) => {
                text += &format!("  Your {part} fits this mistake: {}.\n", mistake.what);
                if !mistake.right.is_empty() {
                    text += &format!("  Right is: {}.\n", mistake.right);
                }
                mistakes.push(mistake.name.clone());
            }
            None => {
                text += &format!("  Your {part} is wrong, and fits no classic mistake.");
                if let (Some(theirs), Some(right)) = (theirs[smallest].get(part), right[smallest].get(part)) {
                    text += &format!(" In the smallest case: {}.", describe(theirs, right, axes(part, right)));
                }
                text += "\n";
            }
        }
        // The numbers once: what is wrong first explains the rest more often than not.
        if part == &wrong[0] {
            text += &numbers(&cases[smallest], &theirs[smallest], &right[smallest], part);
        }
    }
    Verdict::Wrong { parts: wrong.iter().map(|part| part.to_string()).collect(), mistakes, text }
}

/// The inputs of a case, in numbers.
pub fn inputs(case: &Case) -> String {
    case.iter().map(|(name, array)| shown(name, array)).collect()
}

/// The smallest case that fails, in numbers.
fn numbers(case: &Case, theirs: &Case, right: &Case, part: &str) -> String {
    let mut text = String::from("\n  The smallest case in which it is wrong:\n");
    text += &inputs(case);
    match theirs.get(part) {
        Some(theirs) => text += &shown(&format!("your {part}"), theirs),
        None => text += &format!("    your {part} is missing\n"),
    }
    if let Some(right) = right.get(part) {
        text += &shown(&format!("right {part}"), right);
        if let Some(theirs) = theirs.get(part)
            && theirs.shape() == right.shape()
            && right.len() > MOST_SHOWN
        {
            let differ = |at: &ndarray::IxDyn| (theirs[at] - right[at]).abs() > TOLERANCE * right[at].abs().max(1e-3);
            if let Some((at, value)) = right.indexed_iter().find(|(at, _)| differ(at)) {
                let place: Vec<String> =
                    axes(part, right).iter().enumerate().map(|(axis, name)| format!("{name} {}", at[axis])).collect();
                text += &format!(
                    "    first at {}: yours {}, right {}\n",
                    place.join(", "),
                    short(theirs[&at]),
                    short(*value)
                );
            }
        }
    }
    text
}

/// Arrays with more values are not printed.
const MOST_SHOWN: usize = 36;

fn shown(name: &str, array: &ArrayD<f64>) -> String {
    let shape: Vec<String> = array.shape().iter().map(usize::to_string).collect();
    let shape = if shape.is_empty() { String::new() } else { format!(" ({})", shape.join(", ")) };
    if array.len() > MOST_SHOWN {
        return format!("    {name}{shape} = …\n");
    }
    // Axes of length 1 are left out, so that a picture of one channel is a matrix.
    let lengths: Vec<usize> = array.shape().iter().copied().filter(|length| *length > 1).collect();
    let array = array.to_shape(lengths).expect("as many values");
    let printed = format!("{}", array.mapv(Short));
    // Arrays with several axes begin on a line of their own.
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.len() {
        1 => format!("    {name}{shape} = {}\n", lines[0]),
        _ => format!("    {name}{shape} =\n{}", lines.iter().map(|line| format!("      {line}\n")).collect::<String>()),
    }
}

/// A number with at most five digits.
#[derive(Clone, Copy)]
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&short(self.0))
    }
}

fn short(value: f64) -> String {
    match format!("{value:.4e}").parse::<f64>() {
        Ok(rounded) if rounded == 0.0 || (1e-4..1e6).contains(&rounded.abs()) => rounded.to_string(),
        _ => format!("{value:.4e}"),
    }
}

fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => one.to_string(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
