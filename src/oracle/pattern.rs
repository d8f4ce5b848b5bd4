//! What a wrong array looks like, in words.
//!
//! If no mistake explains a wrong result, the pattern of its errors still tells much: a constant factor is a forgotten or an
//! extra division, errors at the border alone are a matter of padding, a transposed array is one of indices.
//!
//! ```
//! use ndarray::array;
//! use resnet_by_hand::oracle::pattern::describe;
//! let right = array![[1.0, 2.0], [3.0, 4.0]].into_dyn();
//! let axes = ["row", "column"];
//! assert_eq!(describe(&(&right * 0.5), &right, &axes), "every value is 0.5 times the right one");
//! assert_eq!(describe(&right.t().to_owned(), &right, &axes), "it is transposed: row and column are exchanged");
//! let wrong = array![[1.0, 2.0], [3.0, 9.0]].into_dyn();
//! assert_eq!(describe(&wrong, &right, &axes), "1 of 4 values is wrong: at row 1, column 1");
//! ```

use ndarray::{ArrayD, ArrayViewD, Axis};
use std::collections::BTreeSet;

/// Relative distance within which two values count as equal: the pattern is that of mistakes, not of rounding.
const CLOSE: f64 = 1e-9;

/// The errors of `theirs` in one sentence, most specific pattern first. `axes` names the axes of `right`.
pub fn describe(theirs: &ArrayD<f64>, right: &ArrayD<f64>, axes: &[&str]) -> String {
    if theirs.shape() != right.shape() {
        return of_shape(theirs, right);
    }
    let scale = right.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let near = |a: f64, b: f64| (a - b).abs() <= CLOSE * scale || a == b;
    let equal = |a: ArrayViewD<'_, f64>, b: ArrayViewD<'_, f64>| a.iter().zip(&b).all(|(&a, &b)| near(a, b));
    let wrong: Vec<_> =
        right.indexed_iter().filter(|(at, value)| !near(theirs[at], **value)).map(|(at, _)| at).collect();
    if wrong.is_empty() {
        return "every value is right".to_string();
    }
    let not_finite = theirs.iter().filter(|value| !value.is_finite()).count();
    if not_finite > 0 {
        return format!("{not_finite} of {} values are infinite or NaN", theirs.len());
    }
    if theirs.iter().all(|&value| value == 0.0) {
        return "every value is 0".to_string();
    }
    if right.len() > 1 {
        if let Some(factor) = constant(theirs, right, near) {
            return match factor {
                -1.0 => "every value has the wrong sign".to_string(),
                _ => format!("every value is {factor} times the right one"),
            };
        }
        let difference = theirs - right;
        let first = *difference.first().expect("not empty");
        if difference.iter().all(|&value| near(value, first)) {
            return format!("every value is too large by {}", rounded(first));
        }
    }
    for (i, j) in (0..right.ndim()).flat_map(|i| (0..i).map(move |j| (j, i))) {
        let mut exchanged = right.view();
        exchanged.swap_axes(i, j);
        if exchanged.shape() == right.shape() && equal(theirs.view(), exchanged) {
            return format!("it is transposed: {} and {} are exchanged", axes[i], axes[j]);
        }
    }
    for reversed in (0..right.ndim()).filter(|&axis| right.len_of(Axis(axis)) > 1) {
        let mut other = right.view();
        other.invert_axis(Axis(reversed));
        if equal(theirs.view(), other) {
            return format!("the {} is reversed", axes[reversed]);
        }
    }
    if equal(theirs.mapv(f64::abs).view(), right.mapv(f64::abs).view()) {
        return format!("{} of {} values have the wrong sign, nothing else is wrong", wrong.len(), right.len());
    }
    of_places(&wrong, right, axes)
}

/// A factor that all values share.
fn constant(theirs: &ArrayD<f64>, right: &ArrayD<f64>, near: impl Fn(f64, f64) -> bool) -> Option<f64> {
    let (largest, _) = right.indexed_iter().max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs()))?;
    let factor = theirs[&largest] / right[&largest];
    let all = theirs.iter().zip(right).all(|(&theirs, &right)| near(theirs, factor * right));
    (all && factor != 0.0 && factor.is_finite()).then(|| rounded(factor))
}

/// Four digits are enough to recognise a factor.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().expect("a number")
}

fn of_shape(theirs: &ArrayD<f64>, right: &ArrayD<f64>) -> String {
    let (theirs, right) = (theirs.shape(), right.shape());
    let mut reversed = theirs.to_vec();
    reversed.reverse();
    let hint = if reversed == right && right.len() > 1 { ": it is transposed" } else { "" };
    format!("it has the shape {theirs:?}, and {right:?} is right{hint}")
}

/// Where the errors are.
fn of_places(wrong: &[ndarray::IxDyn], right: &ArrayD<f64>, axes: &[&str]) -> String {
    let count =
        format!("{} of {} values {} wrong", wrong.len(), right.len(), if wrong.len() == 1 { "is" } else { "are" });
    let last = |axis: usize| right.len_of(Axis(axis)) - 1;
    let spatial: Vec<usize> = (0..right.ndim()).filter(|&axis| ["row", "column"].contains(&axes[axis])).collect();
    let at_border = |at: &ndarray::IxDyn| spatial.iter().any(|&axis| at[axis] == 0 || at[axis] == last(axis));
    if wrong.len() == 1 {
        let place: Vec<String> =
            axes.iter().enumerate().map(|(axis, name)| format!("{name} {}", wrong[0][axis])).collect();
        return format!("{count}: at {}", place.join(", "));
    }
    // Axes of which only some places are wrong.
    let mut places = Vec::new();
    for (axis, name) in axes.iter().enumerate() {
        let of_axis: BTreeSet<usize> = wrong.iter().map(|at| at[axis]).collect();
        let (few, all) = (of_axis.len(), right.len_of(Axis(axis)));
        if few == 1 && all > 1 {
            places.push(format!("{name} {}", of_axis.first().expect("one")));
        } else if few + 1 == all && all > 2 {
            let spared = (0..all).find(|at| !of_axis.contains(at)).expect("one is missing");
            places.push(format!("every {name} but {spared}"));
        }
    }
    let inside = spatial.iter().all(|&axis| right.len_of(Axis(axis)) > 2);
    if !spatial.is_empty() && inside && wrong.iter().all(at_border) {
        return format!("{count}, all of them at the border of the picture");
    }
    match places.is_empty() {
        true => format!("{count}, in no simple pattern"),
        false => format!("{count}, only in {}", places.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array4, IxDyn};

    const AXES: [&str; 4] = ["image", "row", "column", "channel"];

    fn images() -> ArrayD<f64> {
        Array4::from_shape_fn((2, 4, 4, 3), |(n, h, w, c)| {
            ((7 * n + 5 * h + 3 * w + 2 * c) % 11) as f64 + 1.0 + h as f64
        })
        .into_dyn()
    }

    fn changed(change: impl Fn(&IxDyn) -> bool) -> ArrayD<f64> {
        let mut wrong = images();
        for (at, value) in wrong.indexed_iter_mut() {
            if change(&at) {
                *value = 100.0 + *value * *value;
            }
        }
        wrong
    }

    #[test]
    fn every_pattern_is_named() {
        let right = images();
        let of = |theirs: &ArrayD<f64>| describe(theirs, &right, &AXES);
        let mut mirrored = right.clone();
        mirrored.invert_axis(Axis(1));
        let mut exchanged = right.clone();
        exchanged.swap_axes(1, 2);
        let mut signs = right.clone();
        signs[[0, 0, 0, 0].as_slice()] *= -1.0;
        for (theirs, expected) in [
            (right.clone(), "every value is right"),
            (&right * 0.0, "every value is 0"),
            (&right * -1.0, "every value has the wrong sign"),
            (&right * 2.0, "every value is 2 times the right one"),
            (&right / 3.0, "every value is 0.3333 times the right one"),
            (&right + 1.0, "every value is too large by 1"),
            (exchanged, "it is transposed: row and column are exchanged"),
            (mirrored, "the row is reversed"),
            (signs, "1 of 96 values have the wrong sign, nothing else is wrong"),
            (changed(|at| at[3] == 1), "32 of 96 values are wrong, only in channel 1"),
            (changed(|at| at[0] == 0), "48 of 96 values are wrong, only in image 0"),
            (changed(|at| at[3] != 1), "64 of 96 values are wrong, only in every channel but 1"),
            (
                changed(|at| [0, 3].contains(&at[1]) || [0, 3].contains(&at[2])),
                "72 of 96 values are wrong, all of them at the border of the picture",
            ),
            (changed(|at| (at[0] + at[1] + at[2]) % 2 == 0), "48 of 96 values are wrong, in no simple pattern"),
            (ArrayD::from_elem(right.raw_dim(), f64::NAN), "96 of 96 values are infinite or NaN"),
            (
                ArrayD::zeros(IxDyn(&[3, 4, 4, 2])),
                "it has the shape [3, 4, 4, 2], and [2, 4, 4, 3] is right: it is transposed",
            ),
        ] {
            assert_eq!(of(&theirs), expected);
        }
    }
}
