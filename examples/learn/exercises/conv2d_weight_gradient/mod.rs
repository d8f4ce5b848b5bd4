use super::conv2d_forward::{CONV2D, for_terms, inputs, pixel};
use crate::lesson::{Mistake, mistake};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::{Array4, Ix4};

const WEIGHT_GRADIENT: Reference =
    Reference { results: &[("dweight", "grad_weight"), ("dbias", "grad_bias")], ..CONV2D };

pub fn cases() -> Vec<Case> {
    inputs()
}

pub fn right(case: &Case) -> Case {
    WEIGHT_GRADIENT.right(case)
}

pub fn mistakes() -> Vec<Mistake> {
    let mut all = vec![mistake("dweight keeps the last term alone", "add every term: +=, not =", |case| {
        let (x, dy) = (case.array::<Ix4>("x"), case.array::<Ix4>("dy"));
        let mut dweight = Array4::zeros(case.array::<Ix4>("weight").raw_dim());
        for_terms(case, pixel, |out, at, from| dweight[at] = x[from] * dy[out]);
        right(case).with("dweight", dweight)
    })];
    all.extend(WEIGHT_GRADIENT.mistakes());
    all
}
