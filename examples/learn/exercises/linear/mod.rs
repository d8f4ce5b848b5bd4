use crate::lesson::{Mistake, random};
use crate::protocol::Case;
use crate::reference::Reference;

const LINEAR: Reference = Reference {
    kind: "linear",
    settings: |_| "",
    inputs: &[("x", "input"), ("weight", "weight"), ("bias", "bias"), ("dy", "grad_output")],
    results: &[("y", "output"), ("dx", "grad_input"), ("dweight", "grad_weight"), ("dbias", "grad_bias")],
};

pub fn cases() -> Vec<Case> {
    // Rows, inputs, outputs: all different, but for a square weight, whose transpose fits as well.
    let case = |seed, [n, f_in, f_out]: [usize; 3]| {
        let case = Case::default().with("x", random(seed, (n, f_in))).with("weight", random(seed + 1, (f_out, f_in)));
        case.with("bias", random(seed + 2, f_out)).with("dy", random(seed + 3, (n, f_out)))
    };
    vec![case(10, [2, 2, 3]), case(20, [3, 4, 4]), case(30, [5, 7, 3])]
}

pub fn right(case: &Case) -> Case {
    LINEAR.right(case)
}

pub fn mistakes() -> Vec<Mistake> {
    LINEAR.mistakes()
}
