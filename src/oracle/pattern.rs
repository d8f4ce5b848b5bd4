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

use ndarray::{ArrayD, ArrayViewD, Axis, Slice};
use std::ops::Range;

/// Relative distance within which two values count as equal: the pattern is that of mistakes, not of rounding.
const CLOSE: f64 = 1e-9;

/// The errors of `theirs` in one sentence, most specific pattern first. `axes` names the axes of `right`.
pub fn describe(theirs: &ArrayD<f64>, right: &ArrayD<f64>, axes: &[&str]) -> String {
    let scale = right.iter().filter(|value| value.is_finite()).fold(0.0f64, |largest, value| largest.max(value.abs()));
    describe_within(theirs, right, &ArrayD::from_elem(right.raw_dim(), CLOSE * scale), axes)
}

/// The same with a tolerance for each element of `right`. A pattern is named only if every element has it within its
/// tolerance, and if it is distinct from the right result. Sorting is the most expensive step.
pub fn describe_within(theirs: &ArrayD<f64>, right: &ArrayD<f64>, allowed: &ArrayD<f64>, axes: &[&str]) -> String {
    if theirs.shape() != right.shape() {
        let hint = of_axes(theirs, right, allowed, axes).map_or(String::new(), |hint| format!(": {hint}"));
        return format!("it has the shape {:?}, and {:?} is right{hint}", theirs.shape(), right.shape());
    }
    let flat = |array: &ArrayD<f64>| array.iter().copied().collect::<Vec<f64>>();
    let (t, r, mut a) = (flat(theirs), flat(right), flat(allowed));
    // Where there is no bound, only the same value is right.
    a.iter_mut().filter(|allowed| !allowed.is_finite()).for_each(|allowed| *allowed = 0.0);
    let wrong = (0..t.len()).filter(|&i| !near(t[i], r[i], a[i])).collect();
    Pair { shape: right.shape(), t: &t, r: &r, a: &a, axes, wrong }.describe()
}

/// How the axes of `theirs`, which has another shape, are those of `right`.
pub(super) fn of_axes(
    theirs: &ArrayD<f64>,
    right: &ArrayD<f64>,
    allowed: &ArrayD<f64>,
    axes: &[&str],
) -> Option<String> {
    let is = |order: &&Vec<usize>| {
        let [right, allowed] = [right, allowed].map(|array| array.view().permuted_axes(order.as_slice()));
        right.shape() == theirs.shape() && equal(theirs.iter(), &right, &allowed)
    };
    if let Some(order) = orders(right.ndim()).iter().find(is) {
        let names: Vec<&str> = order.iter().map(|&axis| axes[axis]).collect();
        return Some(format!("its axes are {}", names.join(", ")));
    }
    let reversed = theirs.shape().iter().rev().eq(right.shape()) && right.ndim() > 1;
    reversed.then(|| "it is transposed".to_string())
}

/// What the axes of a tensor of this name stand for.
pub(super) fn axes_of(name: &str, dimensions: usize) -> &'static [&'static str] {
    let last = name.rsplit(['.', '_', '#']).next().unwrap_or(name);
    let parameter = ["weight", "param", "grad", "buffer"].contains(&last);
    match dimensions {
        1 if ["loss", "target"].contains(&last) => &["image"],
        1 => &["channel"],
        2 if parameter => &["output", "input"],
        2 if last == "logits" => &["image", "class"],
        2 => &["image", "feature"],
        4 if parameter => &["output channel", "input channel", "row", "column"],
        4 => &["image", "channel", "row", "column"],
        n => &["axis 0", "axis 1", "axis 2", "axis 3", "axis 4", "axis 5"][..n.min(6)],
    }
}

fn near(a: f64, b: f64, allowed: f64) -> bool {
    a == b || (a - b).abs() <= allowed || a.is_nan() && b.is_nan()
}

fn equal<'a>(theirs: impl Iterator<Item = &'a f64>, right: &ArrayViewD<f64>, allowed: &ArrayViewD<f64>) -> bool {
    theirs.zip(right).zip(allowed).all(|((&theirs, &right), &allowed)| near(theirs, right, allowed))
}

/// Every order of `n` axes but their own, those first that move few; none of more than four axes.
fn orders(n: usize) -> Vec<Vec<usize>> {
    fn all(n: usize) -> Vec<Vec<usize>> {
        let insert = |order: Vec<usize>| {
            (0..n).map(move |at| [&order[..at], &[n - 1], &order[at..]].concat()).collect::<Vec<_>>()
        };
        if n == 0 { vec![Vec::new()] } else { all(n - 1).into_iter().flat_map(insert).collect() }
    }
    let mut orders = if n <= 4 { all(n) } else { Vec::new() };
    orders.retain(|order| !moved(order).is_empty());
    orders.sort_by_key(|order| moved(order).len());
    orders
}

/// The places of a permutation that are not their own.
fn moved(order: &[usize]) -> Vec<usize> {
    (0..order.len()).filter(|&i| order[i] != i).collect()
}

/// The fewest digits, at most four, that give `value` within a relative distance of `blur`.
fn rounded(value: f64, blur: f64) -> f64 {
    let digits = |digits: usize| format!("{value:.digits$e}").parse().unwrap_or(value);
    (0..3).map(digits).find(|short| (short - value).abs() <= blur * value.abs()).unwrap_or_else(|| digits(3))
}

/// `0.5`, `1e-7`; near 1 the difference: `1 - 2.0e-7`.
pub(super) fn number(value: f64, blur: f64) -> String {
    match rounded(value, blur) {
        1.0 if value != 1.0 && (value - 1.0).abs() > blur => {
            format!("1 {} {:.1e}", if value < 1.0 { '-' } else { '+' }, (value - 1.0).abs())
        }
        short if short != 0.0 && !(1e-4..1e6).contains(&short.abs()) => format!("{short:e}"),
        short => short.to_string(),
    }
}

/// Two arrays of one shape, in row-major order.
struct Pair<'a> {
    shape: &'a [usize],
    /// Theirs, the right values, and how far each may be off.
    t: &'a [f64],
    r: &'a [f64],
    a: &'a [f64],
    axes: &'a [&'a str],
    /// The places of the wrong values.
    wrong: Vec<usize>,
}

impl Pair<'_> {
    fn describe(&self) -> String {
        let Pair { t, r, a, wrong, .. } = self;
        let all = t.len();
        if wrong.is_empty() {
            return "every value is right".to_string();
        }
        let not_finite: Vec<usize> = wrong.iter().copied().filter(|&i| !t[i].is_finite()).collect();
        if !not_finite.is_empty() {
            let finite: Vec<usize> = wrong.iter().copied().filter(|&i| t[i].is_finite()).collect();
            let only = |of: &[usize]| only_in(&self.places(of));
            let more = match finite.len() {
                0 => String::new(),
                more => format!("; {more} more are wrong{}", only(&finite)),
            };
            return format!("{} of {all} values are infinite or NaN{}{more}", not_finite.len(), only(&not_finite));
        }
        if all == 1 {
            return match if r[0].is_finite() { t[0] / r[0] } else { f64::NAN } {
                0.0 => "it is 0".to_string(),
                -1.0 => "it has the wrong sign".to_string(),
                factor if factor.is_finite() => format!("it is {} times the right one", number(factor, 0.0)),
                _ => format!("it is {}, and {} is right", number(t[0], 0.0), number(r[0], 0.0)),
            };
        }
        if t.iter().all(|&value| value == 0.0) {
            return "every value is 0".to_string();
        }
        // One wrong value has every pattern and none.
        if wrong.len() > 1
            && let Some(text) = self.of_values().or_else(|| self.of_order())
        {
            return text;
        }
        let places = self.places(wrong);
        if wrong.iter().all(|&i| near(-t[i], r[i], a[i])) {
            let count = wrong.len();
            return match only_in(&places).as_str() {
                only if only.is_empty() || count == 1 => {
                    format!("{count} of {all} values have the wrong sign, nothing else is wrong")
                }
                only => format!("{count} of {all} values have the wrong sign{only}; nothing else is wrong"),
            };
        }
        self.of_places(&places)
    }

    /// A pattern that every value has.
    fn of_values(&self) -> Option<String> {
        if let Some((factor, blur)) = self.factor(0..self.t.len()) {
            return Some(match rounded(factor, blur) {
                -1.0 => "every value has the wrong sign".to_string(),
                _ => format!("every value is {} times the right one", number(factor, blur)),
            });
        }
        let (shift, blur) = self.shift()?;
        let size = if shift < 0.0 { "small" } else { "large" };
        Some(format!("every value is too {size} by {}", number(shift.abs(), blur / shift.abs())))
    }

    /// The factor that these values share, and how far it may be off; `None` if rounding alone could be the reason.
    fn factor(&self, of: impl Iterator<Item = usize> + Clone) -> Option<(f64, f64)> {
        let Pair { t, r, a, wrong, .. } = self;
        // The largest value in units of its tolerance determines it best.
        let precision = |i: usize| r[i].abs() / a[i];
        let by = |&i: &usize, &j: &usize| precision(i).total_cmp(&precision(j)).then(r[i].abs().total_cmp(&r[j].abs()));
        let best = of.clone().filter(|&i| r[i] != 0.0 && r[i].is_finite()).max_by(by)?;
        let (factor, blur) = (t[best] / r[best], a[best] / r[best].abs());
        // Exact values times a factor are rounded, too.
        let slack = blur + (0.01 * (factor - 1.0).abs()).min(1e-6);
        let has = |i: usize| near(t[i], factor * r[i], factor.abs() * (a[i] + slack * r[i].abs()));
        let distinct =
            of.clone().filter(|&i| ((factor - 1.0) * r[i]).abs() > 2.0 * a[i] * factor.abs().max(1.0)).count();
        let explained = distinct > 1 && 2 * distinct >= wrong.len() && factor != 0.0 && factor.is_finite();
        (explained && of.clone().all(has)).then_some((factor, blur))
    }

    /// The difference that all values share, and how far it may be off.
    fn shift(&self) -> Option<(f64, f64)> {
        let Pair { t, r, a, wrong, .. } = self;
        let best = (0..t.len()).min_by(|&i, &j| a[i].total_cmp(&a[j]))?;
        let shift = t[best] - r[best];
        let slack = |i: usize| a[best] + (0.01 * shift.abs()).min(1e-7 * r[i].abs());
        let distinct = a.iter().filter(|&&a| shift.abs() > 2.0 * a).count();
        let has = |i: usize| near(t[i] - r[i], shift, a[i] + slack(i));
        (2 * distinct >= wrong.len() && (0..t.len()).all(has)).then_some((shift, a[best]))
    }

    /// Theirs, the right values and the tolerances, with their axes.
    fn views(&self) -> [ArrayViewD<'_, f64>; 3] {
        [self.t, self.r, self.a].map(|x| ArrayViewD::from_shape(self.shape, x).expect("as many values"))
    }

    /// Whether theirs is the right array with a change of its axes.
    fn is(&self, change: impl Fn(&mut ArrayViewD<f64>)) -> bool {
        let [_, mut right, mut allowed] = self.views();
        change(&mut right);
        change(&mut allowed);
        equal(self.t.iter(), &right, &allowed)
    }

    /// The right values in other places.
    fn of_order(&self) -> Option<String> {
        let Pair { shape, axes, .. } = self;
        for order in orders(shape.len()) {
            if !self.is(|array| *array = array.clone().permuted_axes(order.as_slice())) {
                continue;
            }
            return Some(match moved(&order).as_slice() {
                [i, j] if shape[*i] == shape[*j] => {
                    format!("it is transposed: {} and {} are exchanged", axes[*i], axes[*j])
                }
                _ => {
                    let names: Vec<&str> = order.iter().map(|&axis| axes[axis]).collect();
                    format!("its elements are in the order {}", names.join(", "))
                }
            });
        }
        let long = |least: usize| (0..axes.len()).filter(move |&axis| shape[axis] >= least);
        for axis in long(2) {
            if self.is(|array| array.invert_axis(Axis(axis))) {
                return Some(format!("the {} is reversed", axes[axis]));
            }
        }
        for (i, j) in long(2).flat_map(|j| long(2).take_while(move |i| *i < j).map(move |i| (i, j))) {
            if self.is(|array| [i, j].into_iter().for_each(|axis| array.invert_axis(Axis(axis)))) {
                return Some(format!("{} and {} are reversed", axes[i], axes[j]));
            }
        }
        long(3).find_map(|axis| self.shifted(axis)).or_else(|| long(2).find_map(|axis| self.slices(axis)))
    }

    /// Whether places `to` of an axis of theirs are the right places `from`; adds the number of comparisons to `work`.
    fn has_moved(&self, axis: usize, to: Range<usize>, from: Range<usize>, work: &mut usize) -> bool {
        let [mut theirs, mut right, mut allowed] = self.views();
        theirs.slice_axis_inplace(Axis(axis), Slice::from(to));
        right.slice_axis_inplace(Axis(axis), Slice::from(from.clone()));
        allowed.slice_axis_inplace(Axis(axis), Slice::from(from));
        equal(theirs.iter().inspect(|_| *work += 1), &right, &allowed)
    }

    /// The order of the values in the only place of an axis that is wrong.
    fn inside(&self) -> Option<String> {
        let only = |axis: usize| {
            let at = |i: usize| i / self.stride(axis) % self.shape[axis];
            let first = at(*self.wrong.first()?);
            (self.shape[axis] > 1 && self.wrong.iter().all(|&i| at(i) == first)).then_some((axis, first))
        };
        let (axis, at) = (0..self.axes.len()).find_map(only)?;
        let part = self.views().map(|x| x.index_axis_move(Axis(axis), at).iter().copied().collect::<Vec<f64>>());
        let [t, r, a] = part.each_ref().map(Vec::as_slice);
        let (mut shape, mut axes) = (self.shape.to_vec(), self.axes.to_vec());
        shape.remove(axis);
        axes.remove(axis);
        let wrong = (0..t.len()).filter(|&i| !near(t[i], r[i], a[i])).collect();
        let inside = Pair { shape: &shape, t, r, a, axes: &axes, wrong };
        inside.of_order().or_else(|| inside.inside())
    }

    /// A shift by one place along an axis.
    fn shifted(&self, axis: usize) -> Option<String> {
        let (len, stride) = (self.shape[axis], self.stride(axis));
        let (all_but_last, all_but_first) = (0..len - 1, 1..len);
        for (by, to, from, end) in [(1, &all_but_first, &all_but_last, 0), (-1, &all_but_last, &all_but_first, len - 1)]
        {
            // Where the array does not change along the axis, a shift of it is no different.
            let inside = self.wrong.iter().filter(|&&i| to.contains(&(i / stride % len))).count();
            if 2 * inside > self.wrong.len() && self.has_moved(axis, to.clone(), from.clone(), &mut 0) {
                let other = len - 1 - end;
                let rolled = self.has_moved(axis, end..end + 1, other..other + 1, &mut 0);
                let how = if rolled { "rolled" } else { "shifted" };
                return Some(format!("it is {how} by {by} along the {}", self.axes[axis]));
            }
        }
        None
    }

    /// Another order of the places of an axis.
    fn slices(&self, axis: usize) -> Option<String> {
        let len = self.shape[axis];
        // Single values are for `permuted`, and ever more slices would take ever more time.
        if self.t.len() == len || len > 2048 {
            return None;
        }
        let mut work = 0;
        let mut same = |to: usize, from: usize| {
            self.has_moved(axis, to..to + 1, from..from + 1, &mut work) && work < 32 * self.t.len() + (1 << 22)
        };
        let mut order: Vec<usize> = (0..len).collect();
        let mut free: Vec<usize> = (0..len).filter(|&at| !same(at, at)).collect();
        for at in free.clone() {
            let found = free.iter().position(|&from| same(at, from))?;
            order[at] = free.remove(found);
        }
        let name = self.axes[axis];
        Some(match moved(&order).as_slice() {
            [i, j] => format!("{} are exchanged", listed(name, &[*i, *j])),
            _ => format!("the {} are in another order", plural(name)),
        })
    }

    /// Whether these values are the right ones in another order. Values that cannot be distinguished prove nothing.
    fn permuted(&self, of: &[usize]) -> bool {
        let mut theirs: Vec<f64> = of.iter().map(|&i| self.t[i]).collect();
        let mut right: Vec<(f64, f64)> = of.iter().map(|&i| (self.r[i], self.a[i])).collect();
        theirs.sort_by(f64::total_cmp);
        right.sort_by(|a, b| a.0.total_cmp(&b.0));
        let blurred =
            |pair: &&[(f64, f64)]| pair[0].0 != pair[1].0 && near(pair[0].0, pair[1].0, pair[0].1 + pair[1].1);
        theirs.iter().zip(&right).all(|(&theirs, &(right, allowed))| near(theirs, right, allowed))
            && 10 * right.windows(2).filter(blurred).count() <= of.len()
    }

    fn stride(&self, axis: usize) -> usize {
        self.shape[axis + 1..].iter().product()
    }

    /// The axes of which only some places are among these: `channel 1`, `the last column (7)`.
    fn places(&self, of: &[usize]) -> Vec<String> {
        let of_axis = |(axis, name): (usize, &&str)| {
            let (len, stride) = (self.shape[axis], self.stride(axis));
            let mut hit = vec![false; len];
            of.iter().for_each(|i| hit[i / stride % len] = true);
            some_of(name, &(0..len).filter(|&at| hit[at]).collect::<Vec<_>>(), len, of.len())
        };
        self.axes.iter().enumerate().filter_map(of_axis).collect()
    }

    /// Where the errors are, and what the values there have in common.
    fn of_places(&self, places: &[String]) -> String {
        let Pair { shape, axes, wrong, t, r, a } = self;
        let is = if wrong.len() == 1 { "is" } else { "are" };
        let count = format!("{} of {} values {is} wrong", wrong.len(), t.len());
        let at = |i: usize, axis: usize| i / self.stride(axis) % shape[axis];
        if let [one] = wrong.as_slice() {
            let place: Vec<String> =
                axes.iter().enumerate().map(|(axis, name)| format!("{name} {}", at(*one, axis))).collect();
            return format!("{count}: at {}", place.join(", "));
        }
        let spatial: Vec<usize> = (0..axes.len()).filter(|&axis| is_spatial(axes[axis])).collect();
        let inside = !spatial.is_empty() && spatial.iter().all(|&axis| shape[axis] > 2);
        let at_border = |&i: &usize| spatial.iter().any(|&axis| [0, shape[axis] - 1].contains(&at(i, axis)));
        let mut place = only_in(places);
        // A row is a better answer than the border.
        let few = |place: &&String| !place.starts_with("every") && (place.contains("row") || place.contains("column"));
        if inside && !places.iter().any(|place| few(&place)) && wrong.iter().all(at_border) {
            let of = if axes[0] == "output channel" { "kernel" } else { "picture" };
            place = format!(", all of them at the border of the {of}{place}");
        }
        let what = if wrong.iter().all(|&i| t[i] == 0.0) {
            ", each 0".to_string()
        } else if let Some((factor, blur)) = self.factor(wrong.iter().copied()) {
            format!(", each {} times the right one", number(factor, blur))
        } else if let Some(text) = self.inside() {
            format!(", where {text}")
        } else if self.permuted(wrong) {
            match (place.as_str(), 2 * wrong.len() > t.len(), axes) {
                ("", true, [only]) => return format!("the {} are in another order", plural(only)),
                ("", true, _) => return "the elements are those of the right tensor in another order".to_string(),
                _ => ", the right ones in another order".to_string(),
            }
        } else {
            String::new()
        };
        if place.is_empty() && what.is_empty() {
            let mut shares: Vec<f64> = wrong.iter().map(|&i| (t[i] - r[i]).abs() / a[i]).collect();
            shares.sort_by(f64::total_cmp);
            let (median, largest) = (shares[shares.len() / 2], shares[shares.len() - 1]);
            let small =
                format!("; the errors are small, {median:.1} tolerances in the median and {largest:.1} at most");
            return format!("{count}, in no simple pattern{}", if largest <= 100.0 { small } else { String::new() });
        }
        format!("{count}{place}{what}")
    }
}

fn is_spatial(axis: &str) -> bool {
    ["row", "column"].contains(&axis)
}

fn only_in(places: &[String]) -> String {
    if places.is_empty() { String::new() } else { format!(", only in {}", places.join(", ")) }
}

/// The places `at` of an axis of length `len` in words, if they have a pattern that `count` values make credible.
fn some_of(name: &str, at: &[usize], len: usize, count: usize) -> Option<String> {
    let (&first, &last) = (at.first()?, at.last()?);
    let step = at.get(1).map_or(1, |second| second - first);
    let even = at.windows(2).all(|pair| pair[1] - pair[0] == step);
    let to_the_ends = first < step && last + step >= len;
    match at.len() {
        few if few == len => None,
        1 if first == 0 && is_spatial(name) => Some(format!("the first {name}")),
        1 if first + 1 == len && (len > 2 || is_spatial(name)) => Some(format!("the last {name} ({first})")),
        1 => Some(format!("{name} {first}")),
        few if few + 1 == len => {
            let spared = (0..len).find(|i| !at.contains(i))?;
            Some(format!("every {name} but {spared}"))
        }
        // Two errors are in two places, whatever their reason.
        few if count < 2 * few => None,
        few if even && step > 1 && to_the_ends && (few > 2 || step == 2) => {
            Some(format!("every {} {name}, from {name} {first} on", ordinal(step)))
        }
        few if even && step == 1 && first == 0 => Some(format!("the first {few} {}", plural(name))),
        few if even && step == 1 && last + 1 == len => Some(format!("the last {few} {}", plural(name))),
        _ if even && step == 1 => Some(format!("{} {first} to {last}", plural(name))),
        2..=4 => Some(listed(name, at)),
        _ => None,
    }
}

/// `channels 1, 5 and 9`
fn listed(name: &str, at: &[usize]) -> String {
    let at: Vec<String> = at.iter().map(usize::to_string).collect();
    let (last, others) = at.split_last().expect("not empty");
    format!("{} {} and {last}", plural(name), others.join(", "))
}

fn plural(name: &str) -> String {
    match name {
        axis if axis.starts_with("axis") => format!("places of {axis}"),
        "class" => "classes".to_string(),
        name => format!("{name}s"),
    }
}

fn ordinal(n: usize) -> String {
    let ending = match (n % 10, n / 10 % 10) {
        (1, ten) if ten != 1 => "st",
        (2, ten) if ten != 1 => "nd",
        (3, ten) if ten != 1 => "rd",
        _ => "th",
    };
    ["second", "third", "fourth"].get(n - 2).map_or(format!("{n}{ending}"), |word| word.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array4, Dimension, IxDyn};

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

    const NCHW: [&str; 4] = ["image", "channel", "row", "column"];

    /// Values without any symmetry.
    fn right() -> ArrayD<f64> {
        let value = |(n, c, h, w): (usize, usize, usize, usize)| (1 + 240 * n + 40 * c + 8 * h + w) as f64;
        Array4::from_shape_fn((4, 6, 5, 8), |at| (1.7 * value(at)).sin() + 0.1 * value(at).sqrt()).into_dyn()
    }

    fn replaced(change: impl Fn(&[usize]) -> bool, value: impl Fn(f64, usize) -> f64) -> ArrayD<f64> {
        let mut wrong = right();
        for (i, (at, x)) in wrong.indexed_iter_mut().enumerate() {
            if change(at.slice()) {
                *x = value(*x, i);
            }
        }
        wrong
    }

    /// Theirs is the right array after `change`, in another order of the places of an axis.
    fn taken(axis: usize, order: &[usize]) -> ArrayD<f64> {
        right().select(Axis(axis), order)
    }

    #[test]
    fn places_are_named() {
        let of = |change: fn(&[usize]) -> bool| describe(&replaced(change, |x, i| 3.0 + x + i as f64), &right(), &NCHW);
        for (change, expected) in [
            ((|at| at[3] == 7) as fn(&[usize]) -> bool, "120 of 960 values are wrong, only in the last column (7)"),
            (|at| at[2] == 0, "192 of 960 values are wrong, only in the first row"),
            (|at| at[1] == 5, "160 of 960 values are wrong, only in the last channel (5)"),
            (|at| at[0] == 3, "240 of 960 values are wrong, only in the last image (3)"),
            (|at| at[0] == 2, "240 of 960 values are wrong, only in image 2"),
            (|at| at[1] % 2 == 1, "480 of 960 values are wrong, only in every second channel, from channel 1 on"),
            (|at| at[3] % 3 == 0, "360 of 960 values are wrong, only in every third column, from column 0 on"),
            (|at| at[3] >= 5, "360 of 960 values are wrong, only in the last 3 columns"),
            (|at| at[1] < 3, "480 of 960 values are wrong, only in the first 3 channels"),
            (|at| (2..5).contains(&at[3]), "360 of 960 values are wrong, only in columns 2 to 4"),
            (|at| [0, 2, 5].contains(&at[1]), "480 of 960 values are wrong, only in channels 0, 2 and 5"),
            (|at| at[0] == 2 && at[3] == 7, "30 of 960 values are wrong, only in image 2, the last column (7)"),
            // Near misses: one more place.
            (|at| at[3] == 7 || at[..3] == [0, 0, 2], "127 of 960 values are wrong, in no simple pattern"),
            (|at| at[..] == [0, 1, 2, 3] || at[..] == [3, 4, 0, 6], "2 of 960 values are wrong, in no simple pattern"),
        ] {
            assert_eq!(of(change), expected);
        }
        assert_eq!([2, 8, 21, 32, 112].map(ordinal), ["second", "8th", "21st", "32nd", "112th"]);
    }

    #[test]
    fn values_of_the_wrong_places_are_described() {
        let of = |change: fn(&[usize]) -> bool, value: fn(f64, usize) -> f64| {
            describe(&replaced(change, value), &right(), &NCHW)
        };
        let image = |at: &[usize]| at[0] == 2;
        assert_eq!(of(image, |_, _| 0.0), "240 of 960 values are wrong, only in image 2, each 0");
        let half = "240 of 960 values are wrong, only in image 2, each 0.5 times the right one";
        assert_eq!(of(image, |x, _| 0.5 * x), half);
        assert!(of(image, |x, i| if i % 7 == 0 { x } else { 0.5 * x }).ends_with("each 0.5 times the right one"));
        assert!(!of(image, |x, i| x * if i % 7 == 0 { 0.7 } else { 0.5 }).contains("times"));
        let signs = "240 of 960 values have the wrong sign, only in image 2; nothing else is wrong";
        assert_eq!(of(image, |x, _| -x), signs);
        assert_eq!(of(image, |_, _| f64::NAN), "240 of 960 values are infinite or NaN, only in image 2");
        let first = "1 of 960 values are infinite or NaN, only in image 2, channel 0, the first row, the first column";
        let said = of(image, |x, i| if i == 480 { f64::INFINITY } else { 3.0 + x + i as f64 });
        assert_eq!(said, format!("{first}; 239 more are wrong, only in image 2"));
        // Everywhere, but not everything.
        let scattered = |at: &[usize]| at.iter().sum::<usize>() % 3 == 0;
        assert!(of(scattered, |_, _| 0.0).ends_with("values are wrong, each 0"));
        let mut within = right();
        within.index_axis_mut(Axis(0), 2).as_slice_mut().unwrap().reverse();
        let text = "240 of 960 values are wrong, only in image 2, where row and column are reversed";
        let mut flipped = right();
        (2..4).for_each(|axis| flipped.invert_axis(Axis(axis)));
        let mut theirs = right();
        theirs.index_axis_mut(Axis(0), 2).assign(&flipped.index_axis(Axis(0), 2));
        assert_eq!(describe(&theirs, &right(), &NCHW), text);
        let text = "240 of 960 values are wrong, only in image 2, the right ones in another order";
        assert_eq!(describe(&within, &right(), &NCHW), text);
        within[[2, 0, 0, 0].as_slice()] += 1e-3;
        assert_eq!(describe(&within, &right(), &NCHW), "240 of 960 values are wrong, only in image 2");
    }

    #[test]
    fn another_order_is_recognised() {
        let right = right();
        let mut flipped = right.clone();
        (2..4).for_each(|axis| flipped.invert_axis(Axis(axis)));
        let flat =
            |array: ArrayD<f64>| ArrayD::from_shape_vec(right.raw_dim(), array.iter().copied().collect()).unwrap();
        let nhwc = flat(right.clone().permuted_axes([0, 2, 3, 1].as_slice()));
        let mut scrambled: Vec<f64> = right.iter().copied().collect();
        (0..960).for_each(|i| scrambled.swap(i, i * 7 % 960));
        let scrambled = ArrayD::from_shape_vec(right.raw_dim(), scrambled).unwrap();
        let mut shifted = taken(2, &[0, 0, 1, 2, 3]);
        shifted.index_axis_mut(Axis(2), 0).fill(0.0);
        for (theirs, expected) in [
            (&nhwc, "its elements are in the order image, row, column, channel"),
            (&flipped, "row and column are reversed"),
            (&taken(3, &[7, 0, 1, 2, 3, 4, 5, 6]), "it is rolled by 1 along the column"),
            (&taken(2, &[1, 2, 3, 4, 0]), "it is rolled by -1 along the row"),
            (&shifted, "it is shifted by 1 along the row"),
            (&taken(1, &[3, 0, 5, 1, 2, 4]), "the channels are in another order"),
            (&taken(1, &[2, 1, 0, 3, 4, 5]), "channels 0 and 2 are exchanged"),
            (&scrambled, "the elements are those of the right tensor in another order"),
        ] {
            assert_eq!(describe(theirs, &right, &NCHW), expected);
            // Not if another value differs.
            for place in [[1, 1, 2, 3], [3, 4, 3, 6]] {
                let mut near = theirs.clone();
                near[place.as_slice()] += 1e-3;
                let said = describe(&near, &right, &NCHW);
                assert!(said.contains("values are wrong, "), "{said} instead of not {expected}");
            }
        }
        // Another shape, and vectors.
        let moved = right.clone().permuted_axes([0, 2, 3, 1].as_slice());
        let said = describe(&moved, &right, &NCHW);
        assert!(said.ends_with("[4, 6, 5, 8] is right: its axes are image, row, column, channel"), "{said}");
        let vector = ndarray::array![1.0, 2.0, 3.0, 5.0].into_dyn();
        let other = ndarray::array![3.0, 1.0, 5.0, 2.0].into_dyn();
        assert_eq!(describe(&other, &vector, &["channel"]), "the channels are in another order");
        for (theirs, expected) in
            [(6.0, "it is 2 times the right one"), (0.0, "it is 0"), (-3.0, "it has the wrong sign")]
        {
            let [theirs, right] = [theirs, 3.0].map(|x| ndarray::arr0(x).into_dyn());
            assert_eq!(describe(&theirs, &right, &[]), expected);
        }
    }

    /// Each element within its own tolerance: rounding hides no pattern and makes none.
    #[test]
    fn patterns_hold_within_the_tolerances() {
        let right = right();
        let allowed = right.mapv(|x| 1e-3 * x.abs() + 1e-4);
        let rounded = |array: ArrayD<f64>, size: f64| {
            let noise = |i: usize| size * (3.7 * i as f64).sin();
            let values = array.iter().enumerate().map(|(i, x)| x + noise(i) * (1e-3 * x.abs() + 1e-4)).collect();
            ArrayD::from_shape_vec(array.raw_dim(), values).unwrap()
        };
        let of = |theirs: &ArrayD<f64>| describe_within(theirs, &right, &allowed, &NCHW);
        assert_eq!(of(&rounded(right.clone(), 0.99)), "every value is right");
        assert_eq!(of(&rounded(&right * 0.5, 0.4)), "every value is 0.5 times the right one");
        assert_eq!(of(&rounded(&right / 3.0, 0.3)).get(..18), Some("every value is 0.3"));
        assert_eq!(of(&rounded(&right + 0.5, 0.1)), "every value is too large by 0.5");
        assert_eq!(of(&rounded(&right - 0.5, 0.1)), "every value is too small by 0.5");
        assert_eq!(of(&rounded(taken(1, &[3, 0, 5, 1, 2, 4]), 0.9)), "the channels are in another order");
        let mut theirs = rounded(right.clone(), 0.9);
        theirs.index_axis_mut(Axis(3), 7).mapv_inplace(|x| x * 1.5 + 0.1);
        assert_eq!(of(&theirs), "120 of 960 values are wrong, only in the last column (7)");
        // Three times what is allowed is no factor, no shift and no permutation, but small.
        let said = of(&rounded(right.clone(), 3.0));
        assert!(said.contains("values are wrong, in no simple pattern; the errors are small, 2."), "{said}");
        // So many values so close together are in any order within their tolerances.
        let dense = ndarray::Array1::from_shape_fn(4000, |i| (i as f64).sin()).into_dyn();
        let other = ndarray::Array1::from_shape_fn(4000, |i| (5e3 + i as f64).sin()).into_dyn();
        let said = describe_within(&other, &dense, &ArrayD::from_elem(dense.raw_dim(), 2e-2), &["channel"]);
        assert!(said.contains("in no simple pattern"), "{said}");
        // A constant array has no order, and no bound allows nothing.
        let ones = ArrayD::from_elem(right.raw_dim(), 1.0);
        let mut theirs = ones.clone();
        theirs.index_axis_mut(Axis(2), 0).fill(2.0);
        let said = describe(&theirs, &ones, &NCHW);
        assert_eq!(said, "192 of 960 values are wrong, only in the first row, each 2 times the right one");
        let none = ArrayD::from_elem(ones.raw_dim(), f64::INFINITY);
        assert_eq!(describe_within(&theirs, &ones, &none, &NCHW), said);
    }
}
