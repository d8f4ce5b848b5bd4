use crate::lesson::{Mistake, random};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::{Array1, Array2, array};

const LOSS: Reference = Reference {
    kind: "softmax_cross_entropy",
    settings: |_| "",
    inputs: &[("logits", "input"), ("target", "target")],
    results: &[("loss", "output"), ("dlogits", "grad_input")],
};

pub fn cases() -> Vec<Case> {
    let case = |logits: Array2<f64>, target: Array1<f64>| Case::default().with("logits", logits).with("target", target);
    vec![
        case(array![[0.0, 2.0, -1.0]], array![0.0]),
        case(random(50, (4, 3)), array![2.0, 0.0, 1.0, 1.0]),
        case(random(51, (2, 5)) * 1000.0, array![4.0, 1.0]),
    ]
}

pub fn right(case: &Case) -> Case {
    LOSS.right(case)
}

pub fn mistakes() -> Vec<Mistake> {
    LOSS.mistakes()
}
