//! Compares the tensors of a file with those of a model, and says what differs.

use super::super::names::{Entry, Reading};
use super::MOST_LISTED;
use crate::Scalar;
use crate::error::nearest;
use crate::model::ResNet;
use crate::parameters::Parameters;
use crate::tensors::Tensor;
use std::collections::{HashMap, HashSet};

/// What a file and a model have in common.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    /// The tensors of the model, those without a problem, in its order.
    pub fitting: Vec<(String, &'a Tensor)>,
    /// Every other tensor of the model or the file: `missing conv1.weight [16, 3, 3, 3]`.
    pub problems: Vec<String>,
}

/// A tensor of the file or of the model that the other does not have in this form.
enum Problem<'a> {
    Wrong(String),
    Missing(String, Vec<usize>),
    Extra(&'a Entry<'a>),
}

/// Compares the tensors of a file with those of `model`.
pub fn compare<'a, T: Scalar>(reading: &Reading<'a>, model: &ResNet<T>) -> Comparison<'a> {
    let mut own: Vec<(String, Vec<usize>)> = Vec::new();
    model.visit("", &mut |name, _, tensor| own.push((name.to_string(), tensor.shape().to_vec())));
    let is_own: HashSet<String> = own.iter().map(|(name, _)| name.clone()).collect();

    let (mut wrong, mut missing, mut extra) = (Vec::new(), Vec::new(), Vec::new());
    let mut given: HashMap<&str, &Entry<'a>> = HashMap::new();
    for entry in &reading.entries {
        if !is_own.contains(&entry.name) {
            extra.push(Problem::Extra(entry));
        } else if let Some(first) = given.get(entry.name.as_str()) {
            wrong.push(Problem::Wrong(twice(first, entry)));
        } else {
            given.insert(&entry.name, entry);
        }
    }
    let mut fitting = Vec::with_capacity(own.len());
    // Without it the number of classes is not known, so that nothing is said about the shapes of its tensors.
    let no_last_layer = reading.no_last_layer();
    wrong.extend(no_last_layer.clone().map(Problem::Wrong));
    for (name, shape) in own {
        if no_last_layer.is_some() && name.starts_with("fc.") {
            continue;
        }
        match given.get(name.as_str()).map(|entry| entry.tensor) {
            None => missing.push(Problem::Missing(name, shape)),
            Some(tensor) if tensor.shape() != shape => {
                wrong.push(Problem::Wrong(format!("{name} expects shape {shape:?}, got {:?}", tensor.shape())));
            }
            Some(tensor) if tensor.dtype().unit_roundoff().is_none() => {
                wrong.push(Problem::Wrong(format!("{name} expects floats, got {}", tensor.dtype())));
            }
            Some(tensor) => fitting.push((name, tensor)),
        }
    }
    let all = in_turn(in_turn(wrong, missing), extra);
    // A search for a similar name compares it with all others: only for the lines that are read first.
    let line = |(i, problem)| Problem::line(problem, if i < MOST_LISTED { &all } else { &[] });
    Comparison { fitting, problems: all.iter().enumerate().map(line).collect() }
}

impl Problem<'_> {
    /// What is wrong, and which of `all` could be the other name of the same tensor: one that is missing where this one is
    /// extra, or the other way round, with as many axes.
    fn line(&self, all: &[Problem]) -> String {
        match self {
            Problem::Wrong(what) => what.clone(),
            Problem::Missing(name, shape) => {
                let extra = all.iter().filter_map(|other| match other {
                    Problem::Extra(Entry { theirs, tensor, .. }) => {
                        (tensor.shape().len() == shape.len()).then_some(*theirs)
                    }
                    _ => None,
                });
                let hint = nearest(name, extra).map_or(String::new(), |near| format!(" (found `{near}`)"));
                format!("missing {name} {shape:?}{hint}")
            }
            Problem::Extra(Entry { name, theirs, tensor }) => {
                let missing = all.iter().filter_map(|other| match other {
                    Problem::Missing(name, shape) => (tensor.shape().len() == shape.len()).then_some(name.as_str()),
                    _ => None,
                });
                let hint = nearest(name, missing).map_or(String::new(), |near| format!(" (near `{near}`)"));
                format!("extra {theirs} {:?}{hint}", tensor.shape())
            }
        }
    }
}

/// One of `a`, one of `b`, and so on, so that the first lines of a long list show both kinds.
fn in_turn<P>(a: Vec<P>, b: Vec<P>) -> Vec<P> {
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut all = Vec::with_capacity(a.len() + b.len());
    while a.len() + b.len() > 0 {
        all.extend(a.next());
        all.extend(b.next());
    }
    all
}

pub(super) fn twice(first: &Entry, second: &Entry) -> String {
    format!("{} occurs twice, as `{}` and as `{}`", first.name, first.theirs, second.theirs)
}
