use crate::lesson::{Mistake, mistake, random};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::{Array4, Ix1, Ix4};

pub const CONV2D: Reference = Reference {
    kind: "conv2d",
    settings: |case| match (case.count("stride"), case.count("padding")) {
        (1, 0) => "",
        (1, 1) => "padding=1",
        (2, 1) => "stride=2,padding=1",
        (2, 0) => "stride=2",
        other => panic!("no settings for {other:?}"),
    },
    inputs: &[("x", "input"), ("weight", "weight"), ("bias", "bias"), ("dy", "grad_output")],
    results: &[("y", "output"), ("dx", "grad_input"), ("dweight", "grad_weight"), ("dbias", "grad_bias")],
};

/// Inputs of a convolution: the smallest first, then sizes that all differ, with padding and stride.
pub fn inputs() -> Vec<Case> {
    // x (N, H, W, C_in), C_out, kernel, stride, padding
    let case = |seed, x: [usize; 4], c_out: usize, [kh, kw]: [usize; 2], stride: usize, padding: usize| {
        let out = |size: usize, taps: usize| (size + 2 * padding - taps) / stride + 1;
        let case = Case::default().with("x", random(seed, x)).with("weight", random(seed + 1, [c_out, x[3], kh, kw]));
        let case = case.with("bias", random(seed + 2, c_out));
        let case = case.with_value("stride", stride as f64).with_value("padding", padding as f64);
        case.with("dy", random(seed + 3, [x[0], out(x[1], kh), out(x[2], kw), c_out]))
    };
    vec![
        case(60, [1, 3, 3, 1], 1, [2, 2], 1, 0),
        case(70, [1, 3, 4, 1], 1, [3, 3], 1, 1),
        case(80, [2, 5, 4, 3], 2, [3, 2], 1, 0),
        case(90, [2, 6, 5, 2], 3, [3, 3], 2, 1),
        case(100, [3, 4, 6, 2], 2, [1, 1], 2, 0),
    ]
}

pub fn cases() -> Vec<Case> {
    // Without dy there is no backward pass.
    inputs().iter().map(|case| case.iter().filter(|(name, _)| *name != "dy").fold(Case::default(), |c, (n, a)| c.with(n, a.clone()))).collect()
}

pub fn right(case: &Case) -> Case {
    CONV2D.right(case)
}

/// A convolution by its definition, whose places are computed by `place(out, p, stride, padding, size)`; `each` sees every term
/// of `[n, ho, wo, o]` with the indices of weight and x.
pub fn for_terms(
    case: &Case,
    place: impl Fn(usize, usize, usize, usize, usize) -> Option<usize>,
    mut each: impl FnMut([usize; 4], [usize; 4], [usize; 4]),
) {
    let (x, weight) = (case.array::<Ix4>("x"), case.array::<Ix4>("weight"));
    let [stride, padding] = ["stride", "padding"].map(|name| case.count(name));
    let ((n, h, w, c_in), (c_out, _, kh, kw)) = (x.dim(), weight.dim());
    let out = |size: usize, taps: usize| (size + 2 * padding - taps) / stride + 1;
    for (n, ho, wo, o) in ndarray::indices((n, out(h, kh), out(w, kw), c_out)) {
        for (i, p, q) in ndarray::indices((c_in, kh, kw)) {
            if let (Some(row), Some(column)) = (place(ho, p, stride, padding, h), place(wo, q, stride, padding, w)) {
                each([n, ho, wo, o], [o, i, p, q], [n, row, column, i]);
            }
        }
    }
}

fn forward(case: &Case, place: impl Fn(usize, usize, usize, usize, usize) -> Option<usize>, bias_of_term: bool) -> Case {
    let (x, weight, bias) = (case.array::<Ix4>("x"), case.array::<Ix4>("weight"), case.array::<Ix1>("bias"));
    let right = CONV2D.right(case).array::<Ix4>("y");
    let mut y = Array4::from_shape_fn(right.raw_dim(), |(_, _, _, o)| bias[o]);
    for_terms(case, place, |out, at, from| {
        y[out] += weight[at] * x[from] + if bias_of_term { bias[at[0]] } else { 0.0 };
    });
    Case::default().with("y", y)
}

/// The place that is right.
pub fn pixel(out: usize, p: usize, stride: usize, padding: usize, size: usize) -> Option<usize> {
    (out * stride + p).checked_sub(padding).filter(|at| *at < size)
}

pub fn mistakes() -> Vec<Mistake> {
    let zero = "x is 0 outside the picture";
    let place = "tap p of output row ho reads row ho · stride + p − padding";
    let mut all = vec![
        mistake("the bias is added to every term", "y = bias + Σ …: once for every output", |case| forward(case, pixel, true)),
        mistake("y reads beyond the border as if the picture were repeated", zero, |case| {
            forward(case, |out, p, stride, padding, size| Some((out * stride + p + size - padding) % size), false)
        }),
        mistake("y reads the nearest pixel beyond the border, instead of 0", zero, |case| {
            forward(case, |out, p, stride, padding, size| Some((out * stride + p).saturating_sub(padding).min(size - 1)), false)
        }),
        mistake("y does not shift by the padding", place, |case| {
            forward(case, |out, p, stride, _, size| pixel(out, p, stride, 0, size), false)
        }),
        mistake("y does not move by the stride", place, |case| {
            forward(case, |out, p, _, padding, size| pixel(out, p, 1, padding, size), false)
        }),
        mistake("y has rows and columns of the kernel exchanged", "p counts rows, q columns: height before width", exchanged),
    ];
    all.extend(CONV2D.mistakes());
    all
}

/// p moves along the columns of x, and q along its rows.
fn exchanged(case: &Case) -> Case {
    let (x, weight, bias) = (case.array::<Ix4>("x"), case.array::<Ix4>("weight"), case.array::<Ix1>("bias"));
    let [stride, padding] = ["stride", "padding"].map(|name| case.count(name));
    let (_, h, w, c_in) = x.dim();
    let (_, _, kh, kw) = weight.dim();
    let y = Array4::from_shape_fn(CONV2D.right(case).array::<Ix4>("y").raw_dim(), |(n, ho, wo, o)| {
        let mut sum = bias[o];
        for (i, p, q) in ndarray::indices((c_in, kh, kw)) {
            if let (Some(row), Some(column)) = (pixel(ho, q, stride, padding, h), pixel(wo, p, stride, padding, w)) {
                sum += weight[[o, i, p, q]] * x[[n, row, column, i]];
            }
        }
        sum
    });
    Case::default().with("y", y)
}
