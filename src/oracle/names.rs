//! The names of tensors in another program's dump.
//!
//! A name that this crate does not use is translated as names of weights are (`crate::parameters::our_name`), after the dump's
//! own prefix. What a dump has besides, such as parameters that a pass does not change, is no mistake; what has no place at
//! all is.

use super::dump::tolerance_of;
use crate::error::nearest;
use crate::parameters::{Parameters as _, Role, is_counter, join, our_name};
use crate::program::Program;
use crate::tensors::{Tensor, Tensors};
use std::collections::HashMap;

/// Theirs by the names used here.
pub(super) struct Matched {
    /// The name here and the name there, in their order.
    pub pairs: Vec<(String, String)>,
    /// What has no place here.
    pub unknown: Vec<String>,
}

impl Matched {
    /// `own` returns the name here for a name, if there is a tensor of this name; a tensor of which `known` holds is not
    /// compared, and no mistake.
    pub fn new(theirs: &Tensors, own: &dyn Fn(&str) -> Option<String>, known: &dyn Fn(&str) -> bool) -> Self {
        let mut matched = Matched { pairs: Vec::new(), unknown: Vec::new() };
        let mut placed: Vec<&str> = Vec::new();
        for name in theirs.names().filter(|name| !is_counter(name) && tolerance_of(name).is_none()) {
            let translated = translated(name);
            match own(name).or_else(|| own(&translated)) {
                Some(own) => matched.pairs.push((own, name.to_string())),
                None if known(name) || known(&translated) => {}
                None => {
                    matched.unknown.push(name.to_string());
                    continue;
                }
            }
            placed.push(name);
        }
        // A module that returns what it was given, such as an empty `Sequential` or `Flatten`, has no step here.
        matched.unknown.retain(|name| {
            let passes_on = |other: &&str| same_elements(theirs.get(name), theirs.get(other));
            module_tensor(name).is_none() || !placed.iter().any(passes_on)
        });
        matched
    }
}

/// What belongs to a module in a dump: its results, its inputs, and their gradients.
const OF_MODULES: [&str; 4] = ["output", "grad_output", "input", "grad_input"];

/// The prefix and the module of a tensor that belongs to a module.
fn module_tensor(name: &str) -> Option<(&'static str, &str)> {
    OF_MODULES.iter().find_map(|prefix| Some((*prefix, name.strip_prefix(prefix)?.strip_prefix('.')?)))
}

/// `output.conv1` of `input.conv1` and `grad_input.conv1`, which only [`super::isolate`] judges.
pub(super) fn module_input(name: &str) -> Option<String> {
    match module_tensor(name)? {
        ("input" | "grad_input", module) => Some(format!("output.{module}")),
        _ => None,
    }
}

/// Whether two tensors have the same elements in the same order, whatever their shapes.
fn same_elements(a: Option<&Tensor>, b: Option<&Tensor>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    a.len() == b.len() && a.dtype() == b.dtype() && {
        let (a, b) = (a.to_f64(), b.to_f64());
        a.iter().zip(&b).all(|(a, b)| a == b || a.is_nan() && b.is_nan())
    }
}

/// The tensors of theirs by the names that a program's modules have here.
pub(super) struct Names {
    theirs: HashMap<String, String>,
    /// What has no place in the program, with the nearest name that has one.
    pub unknown: Vec<(String, Option<String>)>,
    /// `logits`, or `output` if theirs calls them so.
    pub last: String,
}

impl Names {
    /// All tensors of theirs that belong to a module or a parameter of `program`.
    pub fn of_modules(program: &Program<f64>, theirs: &Tensors) -> Self {
        let mut here: HashMap<String, Option<String>> = HashMap::new();
        for name in ["input", "target", "logits", "output", "loss", "grad_input", "grad_output"] {
            here.insert(name.to_string(), Some(name.to_string()));
        }
        let mut place = |prefix: &str, name: &str, own: Option<&str>| {
            here.insert(join(prefix, name), own.map(|own| join(prefix, own)));
        };
        for step in &program.steps {
            OF_MODULES.iter().for_each(|prefix| place(prefix, &step.name, Some(&step.name)));
        }
        for (name, value) in &program.aliases {
            let own = &program.steps[value - 1].name;
            ["output", "grad_output"].iter().for_each(|prefix| place(prefix, name, Some(own)));
            // The input of a block is that of its first module.
            ["input", "grad_input"].iter().for_each(|prefix| place(prefix, name, None));
        }
        program.visit("", &mut |name, role, _| {
            // A parameter itself is no result; a running statistic is.
            let own = (role == Role::Statistic).then(|| name.to_string());
            here.insert(name.to_string(), own);
            here.insert(format!("grad_{name}"), Some(format!("grad_{name}")));
        });
        let own = |name: &str| here.get(name).cloned().flatten();
        let matched = Matched::new(theirs, &own, &|name| here.contains_key(name));
        let all: Vec<String> = here.into_keys().collect();
        let unknown = matched.unknown.into_iter().map(|name| {
            let near = nearest(&translated(&name), &all).map(str::to_string);
            (name, near)
        });
        let unknown = unknown.collect();
        let last = if theirs.get("logits").is_some() { "logits" } else { "output" };
        let mut theirs = HashMap::new();
        for (own, name) in matched.pairs {
            theirs.entry(own).or_insert(name);
        }
        Names { theirs, unknown, last: last.to_string() }
    }

    /// The name there of a tensor named as here.
    pub fn theirs(&self, name: &str) -> Option<&str> {
        self.theirs.get(name).map(String::as_str)
    }
}

/// Translates a name in another program's dump to the name used here.
pub(super) fn translated(name: &str) -> String {
    if let Some((prefix, module)) = module_tensor(name) {
        // The name of a module, `linear`; that of a parameter is `linear.weight`. A wrapper is the whole network.
        let module = our_name(&format!("{module}."));
        return join(prefix, module.strip_suffix('.').unwrap_or(&module));
    }
    match name.strip_prefix("grad_") {
        Some(parameter) => format!("grad_{}", our_name(parameter)),
        None => our_name(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
