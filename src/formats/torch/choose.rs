//! Which dict of a checkpoint is the state dict.
//!
//! Every dict is a candidate that directly contains a tensor with at least one axis and a key of text, in the checkpoint
//! itself or under keys of text, at most [`DEEPEST`] of them. What belongs to an optimizer or to other machinery of a
//! training run is not searched ([`is_machinery`]). Among the candidates the first by this order is taken:
//!
//! 1. those under the usual keys [`KEYS`], by the order of that list. Other keys on the way do not matter: `state.model`
//!    is like `model`;
//! 2. the others, the checkpoint itself among them, by their number of elements;
//! 3. by their order in the file.

use super::mapping::{Entry, entries_of};
use super::view::Found;
use crate::Result;
use crate::formats::pickle::{Kind, Value};
use std::cmp::Reverse;
use std::collections::HashSet;

/// The keys under which checkpoints keep their state dict, in the order of preference: the weights that were trained before
/// their average, a student before its teacher only where neither is called a model.
pub const KEYS: [&str; 24] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "net_state_dict",
    "network",
    "network_state_dict",
    "weights",
    "params",
    "backbone",
    "encoder",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "model_ema",
    "ema_model",
    "ema",
    "params_ema",
    "averaged_model",
    "swa_model",
    "teacher",
    "student",
];

/// The most keys on the way to a state dict.
const DEEPEST: usize = 8;
/// The most items of a list that are searched.
const MOST_ITEMS: usize = 64;
/// A whole model has these two dicts among its attributes.
const MODULE: [&str; 2] = ["_parameters", "_modules"];

/// Whether what is under a key belongs to the machinery of a training run, which may have tensors in the shapes of the
/// weights.
fn is_machinery(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.starts_with("optim")
        || key.ends_with("_scaler")
        || ["schedul", "callback", "rng_state", "hyper_param", "hparam", "message_hub", "loops"]
            .iter()
            .any(|part| key.contains(part))
        || ["opt", "amp", "scaler", "args", "config", "cfg", "param_groups", "meta"].contains(&key.as_str())
}

/// A dict or list on the way to a state dict.
struct Place<'p> {
    /// The place that contains it.
    parent: Option<usize>,
    /// Its key there.
    key: String,
    value: Value<'p>,
}

struct Candidate {
    place: usize,
    tensors: usize,
    elements: usize,
    /// Whether some tensor has an axis.
    is_plausible: bool,
}

/// What was found in a checkpoint.
pub(super) struct Choice<'p> {
    /// The state dict that was taken.
    pub taken: Option<Value<'p>>,
    /// The keys that lead to it.
    pub path: Vec<String>,
    /// Others of at least half as many elements: the path and the number of tensors.
    pub others: Vec<(String, usize)>,
    /// A whole model, with the keys that lead to it.
    pub module: Option<(Vec<String>, Value<'p>)>,
}

/// Searches `root`.
pub(super) fn choose(root: Value<'_>) -> Choice<'_> {
    let mut search = Search { places: Vec::new(), candidates: Vec::new(), module: None };
    search.run(root);
    let Search { places, mut candidates, module } = search;
    let path_of = |place: usize| {
        let mut keys: Vec<String> = Vec::new();
        let mut at = place;
        while let Some(parent) = places[at].parent {
            keys.push(places[at].key.clone());
            at = parent;
        }
        keys.reverse();
        keys
    };
    if candidates.iter().any(|candidate| candidate.is_plausible) {
        candidates.retain(|candidate| candidate.is_plausible);
    }
    let rank = |candidate: &Candidate| {
        let path = path_of(candidate.place);
        let known: Vec<usize> = path.iter().filter_map(|key| KEYS.iter().position(|known| known == key)).collect();
        (known.is_empty(), known, Reverse(candidate.elements), candidate.place)
    };
    candidates.sort_by_cached_key(rank);
    let module = module.map(|(parent, key, value)| {
        let mut path = parent.map(path_of).unwrap_or_default();
        path.extend(key);
        (path, value)
    });
    // Beside a whole model a few tensors under no usual key are not the weights.
    if module.is_some() && candidates.first().is_some_and(|first| rank(first).0) {
        candidates.clear();
    }
    let Some((first, others)) = candidates.split_first() else {
        return Choice { taken: None, path: Vec::new(), others: Vec::new(), module };
    };
    let others = others.iter().filter(|other| other.elements >= first.elements.div_ceil(2)).take(10);
    Choice {
        taken: Some(places[first.place].value),
        path: path_of(first.place),
        others: others.map(|other| (path_of(other.place).join("."), other.tensors)).collect(),
        module,
    }
}

struct Search<'p> {
    places: Vec<Place<'p>>,
    candidates: Vec<Candidate>,
    /// The first whole model: the place that contains it, its key there.
    module: Option<(Option<usize>, Option<String>, Value<'p>)>,
}

impl<'p> Search<'p> {
    /// Visits every place once, in the order of the file; no recursion, because a pickle may nest without end.
    fn run(&mut self, root: Value<'p>) {
        let mut seen = HashSet::new();
        let mut open = vec![(None, None, root, 0)];
        while let Some((parent, key, value, depth)) = open.pop() {
            if !seen.insert(value.id()) {
                continue;
            }
            if is_module(value) {
                self.module.get_or_insert((parent, key, value));
                continue;
            }
            let place = self.places.len();
            let children: Vec<(String, Value<'p>)> = match value.kind() {
                Kind::List(items) | Kind::Tuple(items) => {
                    items.take(MOST_ITEMS).enumerate().map(|(i, item)| (i.to_string(), item)).collect()
                }
                _ => match entries_of(value) {
                    Some(entries) => self.visit(place, &entries),
                    None => continue,
                },
            };
            self.places.push(Place { parent, key: key.unwrap_or_default(), value });
            if depth < DEEPEST {
                let children = children.into_iter().filter(|(_, value)| has_parts(*value));
                let children = children.map(|(key, value)| (Some(place), Some(key), value, depth + 1));
                let from = open.len();
                open.extend(children);
                open[from..].reverse();
            }
        }
    }

    /// Counts the tensors of a dict; returns what else may contain some.
    fn visit(&mut self, place: usize, entries: &[Entry<'p>]) -> Vec<(String, Value<'p>)> {
        let mut candidate = Candidate { place, tensors: 0, elements: 0, is_plausible: false };
        let mut rest = Vec::new();
        for entry in entries {
            let Some(name) = entry.name else { continue };
            match Found::of(entry.value) {
                Found::Tensor(view) => {
                    candidate.tensors += 1;
                    if view.dtype.unit_roundoff().is_some() {
                        candidate.elements = candidate.elements.saturating_add(view.len());
                        candidate.is_plausible |= !view.shape.is_empty();
                    }
                }
                Found::Unreadable(_) | Found::Malformed(_) => {
                    candidate.tensors += 1;
                    candidate.elements = candidate.elements.saturating_add(1);
                    candidate.is_plausible = true;
                }
                Found::Whole(_) => candidate.tensors += 1,
                Found::Other if is_machinery(name) => {}
                Found::Other if has_parts(entry.value) => rest.push((name.to_string(), entry.value)),
                Found::Other => {}
            }
        }
        if candidate.tensors > 0 {
            self.candidates.push(candidate);
        }
        rest
    }
}

/// Whether a value may contain a state dict.
fn has_parts(value: Value<'_>) -> bool {
    match value.kind() {
        Kind::Dict(entries) => entries.len() > 0,
        Kind::List(items) | Kind::Tuple(items) => items.len() > 0,
        Kind::Call(_) => true,
        _ => false,
    }
}

/// Whether this is a whole model, which `torch.save(model)` writes: an object whose attributes have PyTorch's names.
fn is_module(value: Value<'_>) -> bool {
    let Kind::Call(call) = value.kind() else { return false };
    // `torch.fx` has the attributes among the arguments.
    call.state.into_iter().chain(call.args.get(0)).any(|attributes| match attributes.kind() {
        Kind::Dict(entries) => MODULE.iter().all(|key| entries.get(key).is_some()),
        _ => false,
    })
}

/// What `path`, keys joined by points, leads to from `root`, and the keys.
///
/// # Errors
/// If there is no such key; the message lists those that there are.
pub(super) fn follow<'p>(root: Value<'p>, path: &str) -> Result<(Value<'p>, Vec<String>)> {
    let (mut at, mut rest, mut keys) = (root, path, Vec::new());
    while !rest.is_empty() {
        let items: Vec<(String, Value<'p>)> = match at.kind() {
            Kind::List(items) | Kind::Tuple(items) => {
                let index = rest.split('.').next().unwrap_or_default();
                let item = index.parse().ok().and_then(|i: usize| items.get(i));
                item.map(|item| (index.to_string(), item)).into_iter().collect()
            }
            // A key may contain points itself: the longest that fits.
            _ => {
                let ends = rest.match_indices('.').map(|(end, _)| end).chain([rest.len()]);
                let starts: Vec<&str> = ends.map(|end| &rest[..end]).collect();
                let entries = entries_of(at).unwrap_or_default();
                let fitting = |start: &&str| {
                    let entry = entries.iter().find(|entry| entry.is(start))?;
                    Some((start.to_string(), entry.value))
                };
                starts.iter().rev().find_map(fitting).into_iter().collect()
            }
        };
        let Some((key, value)) = items.into_iter().next() else {
            let there = entries_of(at).unwrap_or_default();
            let there: Vec<String> = there.iter().take(20).map(Entry::shown).collect();
            let found = if there.is_empty() { at.describe() } else { there.join(", ") };
            let inside = if keys.is_empty() { String::new() } else { format!(" under `{}`", keys.join(".")) };
            return Err(at.error(format!("expected the key `{rest}`{inside}, found {found}")));
        };
        rest = rest[key.len()..].trim_start_matches('.');
        keys.push(key);
        at = value;
    }
    Ok((at, keys))
}
