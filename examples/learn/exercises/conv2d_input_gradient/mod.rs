use super::conv2d_forward::{CONV2D, for_terms, inputs, pixel};
use crate::lesson::{Mistake, mistake};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::{Array4, Ix4};

const INPUT_GRADIENT: Reference = Reference { results: &[("dx", "grad_input")], ..CONV2D };

pub fn cases() -> Vec<Case> {
    inputs()
}

pub fn right(case: &Case) -> Case {
    INPUT_GRADIENT.right(case)
}

pub fn mistakes() -> Vec<Mistake> {
    let sum = "a pixel is used by several windows and channels, and gets the sum of their gradients";
    let overwrites = "dx overwrites where windows overlap, instead of adding";
    let mut all = vec![
        mistake(overwrites, sum, |case| {
            let (weight, dy) = (case.array::<Ix4>("weight"), case.array::<Ix4>("dy"));
            let shape = case.array::<Ix4>("x").raw_dim();
            // Channel 0 comes first for every pixel of y: it sets what the others add to.
            let (mut dx, mut window) = (Array4::zeros(shape), None);
            let mut terms = Vec::new();
            for_terms(case, pixel, |out, at, from| terms.push((out, at, from)));
            terms.sort_by_key(|([n, ho, wo, o], [i, p, q, _], _)| [*n, *ho, *wo, *o, *i, *p, *q]);
            let mut begun = std::collections::BTreeSet::new();
            for (out, at, from) in terms {
                if window != Some([out[0], out[1], out[2]]) {
                    window = Some([out[0], out[1], out[2]]);
                    begun.clear();
                }
                let term = weight[at] * dy[out];
                dx[from] = if begun.insert(from) { term } else { dx[from] + term };
            }
            Case::default().with("dx", dx)
        }),
        mistake("dx keeps the last term alone", "add every term: +=, not =", |case| {
            let (weight, dy) = (case.array::<Ix4>("weight"), case.array::<Ix4>("dy"));
            let mut dx = Array4::zeros(case.array::<Ix4>("x").raw_dim());
            for_terms(case, pixel, |out, at, from| dx[from] = weight[at] * dy[out]);
            Case::default().with("dx", dx)
        }),
        mistake("dx is divided by the number of windows", sum, |case| {
            let mut count = Array4::<f64>::zeros(case.array::<Ix4>("x").raw_dim());
            for_terms(case, pixel, |_, [o, ..], from| count[from] += if o == 0 { 1.0 } else { 0.0 });
            Case::default().with("dx", right(case).array::<Ix4>("dx") / count.mapv(|count| count.max(1.0)))
        }),
    ];
    all.extend(INPUT_GRADIENT.mistakes());
    all
}
