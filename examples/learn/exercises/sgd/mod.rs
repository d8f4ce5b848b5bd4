use crate::lesson::{Mistake, random};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::Array1;

const SGD: Reference = Reference {
    kind: "sgd",
    settings: |_| "lr=0.25,momentum=0.75,weight_decay=0.125",
    inputs: &[("theta", "param"), ("gradient", "grad"), ("b", "momentum_buffer")],
    results: &[("theta", "param"), ("b", "momentum_buffer")],
};

pub fn cases() -> Vec<Case> {
    // A first step and a later one; lr and the rest as in the settings above.
    let case = |seed, size: usize, buffer: bool| {
        let theta: Array1<f64> = random(seed, size).mapv(|theta: f64| theta + 0.125);
        let case = Case::default().with("theta", theta).with("gradient", random(seed + 1, size));
        let case = if buffer { case.with("b", random(seed + 2, size)) } else { case };
        case.with_value("lr", 0.25).with_value("momentum", 0.75).with_value("weight_decay", 0.125)
    };
    vec![case(240, 2, false), case(250, 3, true), case(260, 7, true)]
}

pub fn right(case: &Case) -> Case {
    SGD.right(case)
}

pub fn mistakes() -> Vec<Mistake> {
    SGD.mistakes()
}
