use crate::lesson::{Mistake, random};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::array;

const RELU: Reference = Reference {
    kind: "relu",
    settings: |_| "",
    inputs: &[("x", "input"), ("dy", "grad_output")],
    results: &[("y", "output"), ("dx", "grad_input")],
};

pub fn cases() -> Vec<Case> {
    // Zeros, and dy of both signs for both signs of x.
    let small = Case::default().with("x", array![[-2.0, 0.0, 3.0, 1.0]]).with("dy", array![[5.0, 4.0, -5.0, 0.5]]);
    vec![small, Case::default().with("x", random(40, (3, 7))).with("dy", random(41, (3, 7)))]
}

pub fn right(case: &Case) -> Case {
    RELU.right(case)
}

pub fn mistakes() -> Vec<Mistake> {
    RELU.mistakes()
}
