//! What the grader and an exercise tell each other: cases of named arrays, as text.
//!
//! ```text
//! x 2 3 : 1.0 2.0 3.0 4.0 5.0 6.0
//! stride : 2.0
//! ```
//!
//! A line has the name of an array, its shape and its values in row-major order. An empty line ends a case. An exercise is
//! a program of its own: it reads cases from one file and writes its results to another, so its mistakes (a panic, a loop
//! without end) cannot stop the grader.

use ndarray::{Array, ArrayD, Dimension, IxDyn};
use std::fmt;
use std::io::Write;

/// Named arrays: the inputs of a case, or its results.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case(Vec<(String, ArrayD<f64>)>);

impl Case {
    /// The same case with one more array; one value is an array without axes.
    #[must_use]
    pub fn with<D: Dimension>(mut self, name: &str, array: Array<f64, D>) -> Case {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_string(), array.into_dyn()));
        self
    }

    /// The same case with one more value.
    #[must_use]
    pub fn with_value(self, name: &str, value: f64) -> Case {
        self.with(name, ndarray::arr0(value))
    }

    /// Every name and array, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ArrayD<f64>)> {
        self.0.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// The array `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&ArrayD<f64>> {
        self.iter().find(|(other, _)| *other == name).map(|(_, array)| array)
    }

    /// The array `name` with its number of axes.
    pub fn array<D: Dimension>(&self, name: &str) -> Array<f64, D> {
        let array = self.get(name).unwrap_or_else(|| panic!("the case has no `{name}`"));
        array.clone().into_dimensionality().unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The one value of `name`.
    pub fn value(&self, name: &str) -> f64 {
        *self.array::<IxDyn>(name).first().expect("one value")
    }

    /// The one value of `name`, a count.
    pub fn count(&self, name: &str) -> usize {
        self.value(name) as usize
    }

    /// The values of `name` as counts or classes.
    pub fn counts(&self, name: &str) -> Vec<usize> {
        self.array::<IxDyn>(name).iter().map(|&value| value as usize).collect()
    }

    /// All complete cases of a text.
    pub fn read_all(text: &str) -> Vec<Case> {
        let (mut cases, mut case) = (Vec::new(), Case::default());
        for line in text.lines() {
            match read_line(line) {
                Some((name, array)) => case = case.with(name, array),
                None => cases.push(std::mem::take(&mut case)),
            }
        }
        cases
    }
}

/// `None` for the empty line after a case.
fn read_line(line: &str) -> Option<(&str, ArrayD<f64>)> {
    let (head, values) = line.split_once(" :")?;
    let mut head = head.split(' ');
    let name = head.next()?;
    let shape: Vec<usize> = head.map(|length| length.parse().expect("a length")).collect();
    let values = values.split_whitespace().map(|value| value.parse().expect("a number")).collect();
    Some((name, ArrayD::from_shape_vec(shape, values).expect("as many values as the shape has")))
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, array) in self.iter() {
            write!(f, "{name}")?;
            array.shape().iter().try_for_each(|length| write!(f, " {length}"))?;
            write!(f, " :")?;
            array.iter().try_for_each(|value| write!(f, " {value:?}"))?;
            writeln!(f)?;
        }
        writeln!(f)
    }
}

/// The main function of an exercise: reads the cases of the first file and writes the results of each to the second one.
#[allow(dead_code)] // The grader itself does not call it.
pub fn serve(run: impl Fn(&Case) -> Case) {
    let mut paths = std::env::args().skip(1);
    let (input, output) = (paths.next().expect("a file of cases"), paths.next().expect("a file for the results"));
    let cases = std::fs::read_to_string(input).expect("the cases can be read");
    let mut results = std::fs::File::create(output).expect("the results can be written");
    for case in Case::read_all(&cases) {
        results.write_all(run(&case).to_string().as_bytes()).expect("the results can be written");
    }
}
