//! The layers of the library as the judge: what is right, and the faults that its oracle knows.

use crate::lesson::Mistake;
use crate::protocol::Case;
use ndarray::{ArrayD, Axis};
use resnet_by_hand::oracle::Mistake as Classic;
use resnet_by_hand::oracle::mutants::{Mutant, mutants};
use resnet_by_hand::oracle::pack;
use resnet_by_hand::tensors::{Tensor, Tensors};

/// A layer of the library with the names of an exercise.
#[derive(Clone, Copy)]
pub struct Reference {
    /// As on the oracle's command line.
    pub kind: &'static str,
    /// The oracle's settings for a case.
    pub settings: fn(&Case) -> &'static str,
    /// Names of the exercise and of the oracle.
    pub inputs: &'static [(&'static str, &'static str)],
    /// The same for the results.
    pub results: &'static [(&'static str, &'static str)],
}

impl Reference {
    fn oracle_case(&self, case: &Case) -> pack::Case {
        let mut input = Tensors::new();
        for &(ours, theirs) in self.inputs {
            match case.get(ours) {
                Some(array) if theirs == "target" => input.insert(theirs, array.mapv(|class| class as i64)),
                Some(array) => input.insert(theirs, to_oracle(self.kind, theirs, array)),
                None => {}
            }
        }
        let subject = pack::Subject::Layer(self.kind, (self.settings)(case));
        pack::Case { name: self.kind.to_string(), about: "", subject, input }
    }

    fn results_of(&self, tensors: &Tensors) -> Case {
        let mut results = Case::default();
        for &(ours, theirs) in self.results {
            if let Some(tensor) = tensors.get(theirs) {
                results = results.with(ours, of_oracle(self.kind, theirs, tensor));
            }
        }
        results
    }

    /// What is right.
    pub fn right(&self, case: &Case) -> Case {
        self.results_of(&self.oracle_case(case).expected(&[]))
    }

    /// Every fault that the oracle can inject, in the words of the exercise.
    pub fn mistakes(self) -> Vec<Mistake> {
        let of_mutant = |mutant: Mutant| {
            let part = match mutant.part {
                "result" => "output",
                part => part,
            };
            // A fault of a result that the exercise does not have cannot be made in it.
            let what = match self.results.iter().find(|(_, theirs)| *theirs == part) {
                Some((ours, _)) => format!("{ours} {}", mutant.what),
                None if mutant.part == "all" => mutant.what.to_string(),
                None => return None,
            };
            let compute = move |case: &Case| Some(self.results_of(&mutant.compute(&self.oracle_case(case))?));
            // The explanation of a classic mistake says both what is wrong and what is right.
            let (name, what, right) = match Classic::ALL.iter().find(|classic| classic.name() == mutant.what) {
                Some(classic) => (what, classic.explanation().to_string(), String::new()),
                None => (what.clone(), what, mutant.right.to_string()),
            };
            Some(Mistake { name, what, right, compute: Box::new(compute) })
        };
        mutants().into_iter().filter_map(of_mutant).collect()
    }
}

fn is_image(theirs: &str) -> bool {
    ["input", "grad_output", "output", "grad_input"].contains(&theirs)
}

/// PyTorch's order of axes: `(N, C, H, W)`. A ReLU takes rows as images of one pixel.
fn to_oracle(kind: &str, theirs: &str, array: &ArrayD<f64>) -> Tensor {
    let array = match array.ndim() {
        4 if is_image(theirs) => array.view().permuted_axes(vec![0, 3, 1, 2]).as_standard_layout().into_owned(),
        2 if kind == "relu" => array.clone().insert_axis(Axis(2)).insert_axis(Axis(3)),
        _ => array.clone(),
    };
    array.into()
}

fn of_oracle(kind: &str, theirs: &str, tensor: &Tensor) -> ArrayD<f64> {
    let array = tensor.to_f64();
    match array.ndim() {
        4 if kind == "relu" => array.index_axis_move(Axis(3), 0).index_axis_move(Axis(2), 0),
        4 if is_image(theirs) => array.permuted_axes(vec![0, 2, 3, 1]).as_standard_layout().into_owned(),
        1 if kind == "softmax_cross_entropy" => array.index_axis_move(Axis(0), 0),
        _ => array,
    }
}
