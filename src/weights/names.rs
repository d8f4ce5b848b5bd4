//! What the names of the tensors in a file mean: [`read`] translates them to ours, which are torchvision's.
//!
//! One pass over the file finds how its names differ:
//!
//! | in the file | here | whose |
//! |---|---|---|
//! | `module.`, `_orig_mod.`, … as any part of a name | removed | `DataParallel`, `torch.compile` and other wrappers |
//! | `model.`, `net.`, `backbone.`, any prefix of all stages | removed | the object that contains the network |
//! | `shortcut.0`, `shortcut.1` | `downsample.0`, `downsample.1` | CIFAR code |
//! | `0.`, `1.`, `4.` … `7.` | `conv1.`, `bn1.`, `layer1.` … `layer4.` | `Sequential(*resnet.children())` |
//! | `embedder.`, `encoder.stages.` | the same | Transformers (`names/spellings.rs`) |
//! | `linear`, `last_linear`, `classifier.1`, `fc.1`, … | `fc` | the last layer: the only one with a matrix |
//! | `num_batches_tracked`, `n_averaged`, … | left out | counters and other state that no layer uses |
//!
//! The prefix is what precedes `layer1.0.conv1.weight`. If the file has this name with two prefixes, it contains two
//! networks, and the file is rejected, because nothing in it says which one is meant. The last layer may be outside of the
//! prefix (`backbone.…` and `head.…`); everything else outside of it is kept under its own name, so that no layer is
//! dropped. Whether the translated tensors are those of a network is for the reader of the result to check, by names and
//! shapes ([`super::state_dict`]).

mod spellings;

use crate::tensors::{Tensor, Tensors};
use crate::{Error, Result};
use spellings::{ALL, Spelling};
use std::collections::BTreeSet;
use std::path::Path;

/// Parts of a name that wrappers add, at any level.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Last parts of the names of state that no layer uses: of PyTorch, of MoCo, of a profiler.
const STATE: [&str; 6] = ["num_batches_tracked", "n_averaged", "queue", "queue_ptr", "total_ops", "total_params"];

/// Parts of names of losses and metrics, which a training program keeps beside its network.
const BESIDE: [&str; 4] = ["criterion", "loss", "metric", "accuracy"];

/// The most names or prefixes that a message contains.
const MOST_SHOWN: usize = 10;

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its name here.
    pub name: String,
    /// Its name in the file.
    pub theirs: &'a str,
    /// Its value.
    pub tensor: &'a Tensor,
}

/// The tensors of a file under our names, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Reading<'a> {
    /// The tensors.
    pub entries: Vec<Entry<'a>>,
    /// What was changed in their names: `` `model.` removed ``.
    pub changes: Vec<String>,
    /// Names in the file of counters and other state that is left out.
    pub left_out: Vec<&'a str>,
}

impl Reading<'_> {
    /// What was changed, in one line; `None` if every name is as it was. Counters of batches are not mentioned.
    pub fn line(&self) -> Option<String> {
        let left_out = self.left_out.iter().filter(|name| last(name) != STATE[0]);
        let left_out = left_out.map(|name| format!("`{name}` left out"));
        let parts: Vec<String> = self.changes.iter().cloned().chain(left_out).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// The tensor with our name `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.tensor)
    }

    /// The number of classes: the rows of the last layer.
    pub fn classes(&self) -> Option<usize> {
        match self.get("fc.weight")?.shape() {
            // The caller creates a network of that many classes: accept only rows that contain values.
            &[classes, features] if features > 0 => Some(classes),
            _ => None,
        }
    }

    /// Why it is not known which tensor is the last layer: there is no matrix, or there are several. `None` if it is known.
    pub fn no_last_layer(&self) -> Option<String> {
        if self.get("fc.weight").is_some() {
            return None;
        }
        let is_one = |entry: &&Entry| entry.tensor.shape().len() == 2 && !is_of_trunk(&entry.name);
        let matrices: Vec<&Entry> = self.entries.iter().filter(is_one).collect();
        let some =
            matrices.iter().take(MOST_SHOWN).map(|entry| format!("`{}` {:?}", entry.theirs, entry.tensor.shape()));
        let some = some.collect::<Vec<_>>().join(", ");
        let found = match matrices.len() {
            0 => "no matrix".to_string(),
            1 => format!("only {some}"),
            n if n > MOST_SHOWN => format!("{n} matrices: {some}, …"),
            n => format!("{n} matrices: {some}"),
        };
        Some(format!("expected one last layer, `fc.weight` (classes, features), found {found}"))
    }
}

/// Translates the names of the tensors that were read from `path`; see the [module documentation](self).
///
/// # Errors
/// If the file contains more than one network.
pub fn read<'a>(path: &Path, tensors: &'a Tensors) -> Result<Reading<'a>> {
    let mut reading = Reading::default();
    let mut wrappers = BTreeSet::new();
    for (theirs, tensor) in tensors.iter() {
        if STATE.contains(&last(theirs)) {
            reading.left_out.push(theirs);
            continue;
        }
        let parts = theirs.split('.');
        let (wrapping, own): (Vec<&str>, Vec<&str>) = parts.partition(|part| WRAPPERS.contains(part));
        wrappers.extend(wrapping);
        reading.entries.push(Entry { name: own.join("."), theirs, tensor });
    }
    reading.changes.extend(WRAPPERS.iter().filter(|w| wrappers.contains(**w)).map(|w| format!("`{w}.` removed")));

    let spellings = ALL.iter().map(|spelling| (spelling, networks(&reading, spelling)));
    let Some((spelling, mut prefixes)) = spellings.into_iter().find(|(_, prefixes)| !prefixes.is_empty()) else {
        return Ok(reading);
    };
    if prefixes.len() > 1 {
        return Err(Error::format(path, None, several(&prefixes)));
    }
    let prefix = prefixes.pop_first().expect("there is one");
    if !prefix.is_empty() {
        reading.changes.push(format!("`{prefix}` removed"));
    }
    rename(&mut reading, &prefix, spelling.ours);
    reading.changes.extend(spelling.said.map(String::from));
    let shortcuts = reading.entries.iter().filter(|entry| entry.name.contains(".shortcut.")).count();
    if shortcuts > 0 {
        rename(&mut reading, "", |name| is_of_trunk(name).then(|| name.replace(".shortcut.", ".downsample.")));
        reading.changes.push("`shortcut.*` is `downsample.*`".to_string());
    }
    leave_out_beside(&mut reading);
    name_last_layer(&mut reading);
    Ok(reading)
}

/// The tensors whose names begin with `prefix`, without it, and the metadata. The parts that wrappers add do not count.
///
/// # Errors
/// If there are none.
pub fn under(path: &Path, tensors: &Tensors, prefix: &str) -> Result<Tensors> {
    let prefix = format!("{}.", prefix.trim_end_matches('.'));
    let mut some = Tensors::new();
    for (name, tensor) in tensors.iter() {
        let own = unwrapped(name);
        if let Some(rest) = name.strip_prefix(&prefix).or_else(|| own.strip_prefix(&prefix)) {
            some.insert(rest, tensor.clone());
        }
    }
    some.metadata = tensors.metadata.clone();
    match some.is_empty() {
        false => Ok(some),
        true => {
            let first = tensors.names().next().unwrap_or("no tensor at all");
            let message =
                format!("expected tensors whose names begin with `{prefix}`, found none (the first is `{first}`)");
            Err(Error::format(path, None, message))
        }
    }
}

/// A name without the parts that wrappers add.
fn unwrapped(name: &str) -> String {
    let own: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    own.join(".")
}

/// The prefixes under which there is a network in this spelling: its first convolution and its first block. A stray tensor
/// is no network; only if nothing has both, a first block is enough.
fn networks(reading: &Reading, spelling: &Spelling) -> BTreeSet<String> {
    let blocks = prefixes(reading, spelling.first_block);
    let stems = prefixes(reading, spelling.stem);
    let whole: BTreeSet<String> = blocks.intersection(&stems).cloned().collect();
    if whole.is_empty() { blocks } else { whole }
}

/// Everything that precedes `name`.
fn prefixes(reading: &Reading, name: &str) -> BTreeSet<String> {
    let prefix = |entry: &Entry| {
        let prefix = entry.name.strip_suffix(name)?;
        (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_string())
    };
    reading.entries.iter().filter_map(prefix).collect()
}

/// Parts of the names of networks that are made from another one: its average, or its state of some time ago.
const COPIES: [&str; 11] =
    ["ema", "average", "avg", "swa", "teacher", "momentum", "target", "shadow", "previous", "initial", "encoder_k"];

fn several(prefixes: &BTreeSet<String>) -> String {
    let is_copy = |prefix: &str| COPIES.iter().any(|word| prefix.to_ascii_lowercase().contains(word));
    let mut all: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    all.sort_by_key(|prefix| is_copy(prefix));
    let shown = |prefix: &&str| if prefix.is_empty() { "no prefix".to_string() } else { format!("`{prefix}`") };
    let mut some: Vec<String> = all.iter().take(MOST_SHOWN).map(shown).collect();
    if all.len() > MOST_SHOWN {
        some.push(format!("{} others", all.len() - MOST_SHOWN));
    }
    let first = all.iter().find(|prefix| !prefix.is_empty()).expect("at most one is empty");
    format!(
        "expected one network, found {}, under {}; write the one that you mean to another file: `resnet convert FILE OUT \
         --prefix {first}`",
        all.len(),
        some.join(" and ")
    )
}

/// Gives the entries under `prefix` the name that `to` makes of the rest; `None` leaves it as it is.
fn rename(reading: &mut Reading, prefix: &str, to: impl Fn(&str) -> Option<String>) {
    for entry in &mut reading.entries {
        if let Some(name) = entry.name.strip_prefix(prefix).and_then(&to) {
            entry.name = name;
        }
    }
}

/// Removes what is not in the network: losses and metrics, and whole numbers such as an epoch, which no layer learns.
fn leave_out_beside(reading: &mut Reading) {
    let is_metric = |name: &str| name.split('.').any(|part| BESIDE.iter().any(|word| part.contains(word)));
    // A bias of whole numbers is a mistake, and not left out.
    let is_learnt = |name: &str| ["weight", "bias"].contains(&last(name));
    let is_whole = |e: &Entry| e.tensor.dtype().unit_roundoff().is_none() && !is_learnt(&e.name);
    let is_beside = |e: &Entry| !is_of_trunk(&e.name) && (is_metric(&e.name) || is_whole(e));
    let (beside, rest) = reading.entries.drain(..).partition(is_beside);
    reading.entries = rest;
    reading.left_out.extend(Vec::from_iter(beside).iter().map(|entry: &Entry| entry.theirs));
}

/// Calls the only linear layer `fc`, whatever its name.
fn name_last_layer(reading: &mut Reading) {
    let layers = reading.entries.iter().filter(|entry| !is_of_trunk(&entry.name) && entry.tensor.shape().len() == 2);
    let names: Vec<String> = layers.filter_map(|entry| entry.name.strip_suffix(".weight")).map(String::from).collect();
    if let [name] = &names[..]
        && name != "fc"
    {
        rename(reading, &format!("{name}."), |rest| ["weight", "bias"].contains(&rest).then(|| format!("fc.{rest}")));
        reading.changes.push(format!("`{name}.*` is `fc.*`"));
    }
}

/// Whether a tensor with this name of ours is before the last layer.
fn is_of_trunk(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    let is_stage = first.strip_prefix("layer").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    is_stage || first == "conv1" || first == "bn1"
}

/// The last part of a name.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests;
