use crate::lesson::{Mistake, random};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::{Array1, Array4, Axis, Ix1, Ix4};

const INPUTS: &[(&str, &str)] = &[
    ("x", "input"),
    ("gamma", "weight"),
    ("beta", "bias"),
    ("running_mean", "running_mean"),
    ("running_var", "running_var"),
];

const TRAIN: Reference = Reference {
    kind: "batch_norm",
    settings: |_| "eps=0.25,momentum=0.125",
    inputs: INPUTS,
    results: &[("y", "output"), ("running_mean", "running_mean"), ("running_var", "running_var")],
};

const EVALUATE: Reference = Reference {
    settings: |_| "mode=eval,eps=0.25,momentum=0.125",
    results: &[("y_in_evaluation", "output")],
    ..TRAIN
};

pub fn cases() -> Vec<Case> {
    // eps and momentum as in the settings above; a large eps shows where it is.
    let case = |seed, x: [usize; 4]| {
        let positive = |seed| -> Array1<f64> { random(seed, x[3]).mapv(|x: f64| 0.75 + x.abs()) };
        let case = Case::default().with("x", random(seed, x)).with("gamma", positive(seed + 1)).with("beta", random(seed + 2, x[3]));
        let case = case.with("running_mean", random(seed + 3, x[3])).with("running_var", positive(seed + 4));
        case.with_value("eps", 0.25).with_value("momentum", 0.125)
    };
    vec![case(150, [2, 1, 2, 1]), case(160, [2, 3, 4, 2]), case(170, [4, 2, 3, 5])]
}

/// With x̂ and rstd, which follow from y: y = gamma · x̂ + beta and x̂ = (x − mean) · rstd.
fn both(case: &Case, train: Case, evaluated: &Case) -> Case {
    let (x, y) = (case.array::<Ix4>("x"), train.array::<Ix4>("y"));
    let x_hat = (&y - &case.array::<Ix1>("beta")) / &case.array::<Ix1>("gamma");
    let range = |array: &Array4<f64>, c: usize| {
        let channel = array.index_axis(Axis(3), c);
        channel.fold(f64::NEG_INFINITY, |a, &b| a.max(b)) - channel.fold(f64::INFINITY, |a, &b| a.min(b))
    };
    let rstd = Array1::from_shape_fn(x.dim().3, |c| range(&x_hat, c) / range(&x, c));
    let train = train.with("x_hat", x_hat).with("rstd", rstd);
    match evaluated.get("y_in_evaluation") {
        Some(y) => train.with("y_in_evaluation", y.clone()),
        None => train,
    }
}

pub fn right(case: &Case) -> Case {
    both(case, TRAIN.right(case), &EVALUATE.right(case))
}

pub fn mistakes() -> Vec<Mistake> {
    // A mistake that is made in both functions, in training alone, and in evaluation alone.
    let pairs = || TRAIN.mistakes().into_iter().zip(Reference { results: &[("y", "output")], ..EVALUATE }.mistakes());
    let mut all = Vec::new();
    for which in [[true, true], [true, false], [false, true]] {
        for (train, evaluation) in all_pairs(pairs()) {
            let (name, what, right) = (train.name.clone(), train.what.clone(), train.right.clone());
            let compute = move |case: &Case| {
                let trained = if which[0] { (train.compute)(case) } else { None };
                let evaluated = if which[1] { (evaluation.compute)(case) } else { None };
                if trained.is_none() && evaluated.is_none() {
                    return None;
                }
                let evaluated = match evaluated.and_then(|evaluated| evaluated.get("y").cloned()) {
                    Some(y) => Case::default().with("y_in_evaluation", y),
                    None => EVALUATE.right(case),
                };
                Some(both(case, trained.unwrap_or_else(|| TRAIN.right(case)), &evaluated))
            };
            all.push(Mistake { name, what, right, compute: Box::new(compute) });
        }
    }
    all
}

/// Mistakes of training with the same one of evaluation; those of results that evaluation does not have are left out.
fn all_pairs(pairs: impl Iterator<Item = (Mistake, Mistake)>) -> Vec<(Mistake, Mistake)> {
    let (train, evaluation): (Vec<_>, Vec<_>) = pairs.unzip();
    let mut evaluation: Vec<Option<Mistake>> = evaluation.into_iter().map(Some).collect();
    let pair = |train: Mistake| {
        let same = |other: &&mut Option<Mistake>| other.as_ref().is_some_and(|other| other.name == train.name);
        let other = evaluation.iter_mut().find(same)?.take()?;
        Some((train, other))
    };
    train.into_iter().filter_map(pair).collect()
}
