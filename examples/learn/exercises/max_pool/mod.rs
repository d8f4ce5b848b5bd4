use crate::lesson::{Mistake, mistake, random};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::{Array4, Ix4, s};

const MAX_POOL: Reference = Reference {
    kind: "max_pool",
    settings: |case| match (case.count("kernel"), case.count("stride")) {
        (2, 1) => "kernel_size=2,stride=1",
        (2, 2) => "kernel_size=2,stride=2",
        (3, 2) => "kernel_size=3,stride=2",
        other => panic!("no settings for {other:?}"),
    },
    inputs: &[("x", "input"), ("dy", "grad_output")],
    results: &[("y", "output"), ("dx", "grad_input")],
};

pub fn cases() -> Vec<Case> {
    let case = |seed, x: [usize; 4], kernel: usize, stride: usize| {
        let out = |size: usize| (size - kernel) / stride + 1;
        // Halves, so that some values are equal.
        let images = random(seed, x).mapv(|x| (x * 2.0).round() / 2.0);
        let case = Case::default().with("x", images).with_value("kernel", kernel as f64).with_value("stride", stride as f64);
        case.with("dy", random(seed + 1, [x[0], out(x[1]), out(x[2]), x[3]]))
    };
    vec![case(110, [1, 2, 3, 1], 2, 1), case(120, [1, 4, 4, 1], 2, 2), case(130, [2, 5, 6, 3], 2, 1), case(140, [3, 7, 5, 2], 3, 2)]
}

pub fn right(case: &Case) -> Case {
    MAX_POOL.right(case)
}

pub fn mistakes() -> Vec<Mistake> {
    // Calls `each` with the places of every window.
    fn for_windows(case: &Case, mut each: impl FnMut([usize; 4], ndarray::ArrayView2<'_, f64>, [usize; 2])) {
        let (x, dy) = (case.array::<Ix4>("x"), case.array::<Ix4>("dy"));
        let (kernel, stride) = (case.count("kernel"), case.count("stride"));
        for (n, ho, wo, c) in ndarray::indices(dy.raw_dim()) {
            let (row, column) = (ho * stride, wo * stride);
            each([n, ho, wo, c], x.slice(s![n, row..row + kernel, column..column + kernel, c]), [row, column]);
        }
    }
    let mut all = MAX_POOL.mistakes();
    all.push(mistake("y is the mean of the window", "a max pool takes the largest value", |case| {
        let mut y = Array4::zeros(case.array::<Ix4>("dy").raw_dim());
        for_windows(case, |at, window, _| y[at] = window.mean().expect("a window"));
        right(case).with("y", y)
    }));
    all.push(mistake("dx is spread over the window", "y depends on the maximum alone, so dy goes to it alone", |case| {
        let dy = case.array::<Ix4>("dy");
        let mut dx = Array4::zeros(case.array::<Ix4>("x").raw_dim());
        for_windows(case, |[n, ho, wo, c], window, [row, column]| {
            let (kh, kw) = window.dim();
            let share = dy[[n, ho, wo, c]] / (kh * kw) as f64;
            dx.slice_mut(s![n, row..row + kh, column..column + kw, c]).mapv_inplace(|dx| dx + share);
        });
        right(case).with("dx", dx)
    }));
    all
}
