use crate::lesson::{Mistake, mistake, random};
use crate::protocol::Case;
use ndarray::{Array1, Ix1, array};

pub fn cases() -> Vec<Case> {
    let case = |x: Array1<f64>, c: Array1<f64>, h: f64| Case::default().with("x", x).with("c", c).with_value("h", h);
    vec![
        case(array![2.0], array![1.0], 0.5),
        case(array![1.0, -2.0, 0.5], array![1.0, 0.5, -1.0], 0.25),
        case(random(1, 5), random(2, 5), 0.125),
    ]
}

fn loss(case: &Case, x: &Array1<f64>) -> f64 {
    let c = case.array::<Ix1>("c");
    let cubes: f64 = x.iter().zip(&c).map(|(x, c)| c * x * x * x).sum();
    cubes + (1..x.len()).map(|i| x[i - 1] * x[i]).sum::<f64>()
}

/// dx[i] from the losses above, at and below x, and h. `rest` is what an element that was measured keeps, in steps of h; `all`
/// moves all elements.
fn measured(case: &Case, all: bool, rest: f64, quotient: fn([f64; 3], f64) -> f64) -> Case {
    let (x, h) = (case.array::<Ix1>("x"), case.value("h"));
    let mut point = x.clone();
    let mut dx = Array1::zeros(x.len());
    for i in 0..x.len() {
        let at = |step: f64| {
            let mut moved = point.clone();
            moved.iter_mut().enumerate().filter(|(j, _)| all || *j == i).for_each(|(_, x)| *x += step);
            loss(case, &moved)
        };
        dx[i] = quotient([at(h), at(0.0), at(-h)], h);
        point[i] += rest * h;
    }
    Case::default().with("dx", dx)
}

fn central([above, _, below]: [f64; 3], h: f64) -> f64 {
    (above - below) / (2.0 * h)
}

pub fn right(case: &Case) -> Case {
    measured(case, false, 0.0, central)
}

pub fn mistakes() -> Vec<Mistake> {
    let of = |what, right, quotient: fn([f64; 3], f64) -> f64| {
        mistake(what, right, move |case| measured(case, false, 0.0, quotient))
    };
    let back = "everything but x[i] stays where it is, so put x[i] back before the next one moves";
    let put_back = move |rest| {
        let what = "dx is measured at a point that moves: the element is not put back";
        mistake(what, back, move |case| measured(case, false, rest, central))
    };
    vec![
        of("dx is a forward difference", "the central difference, whose error is h² and not h", |[above, at, _], h| {
            (above - at) / h
        }),
        of("dx is a backward difference", "the central difference, whose error is h² and not h", |[_, at, below], h| {
            (at - below) / h
        }),
        of("dx is divided by h instead of 2h", "the two points are 2h apart", |[above, _, below], h| (above - below) / h),
        of("dx is not divided by the step", "the slope is the difference divided by 2h", |[above, _, below], _| above - below),
        of("dx has the wrong sign", "loss above minus loss below", |[above, _, below], h| (below - above) / (2.0 * h)),
        put_back(-1.0),
        put_back(1.0),
        put_back(-2.0),
        mistake("dx moves all elements at once", "one element moves, the others stay where they are", |case| {
            measured(case, true, 0.0, central)
        }),
    ]
}
