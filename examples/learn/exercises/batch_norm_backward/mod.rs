use crate::lesson::{Mistake, mistake, random};
use crate::protocol::Case;
use crate::reference::Reference;
use ndarray::{Array1, Array4, Axis, Ix1, Ix4};

const NORM: Reference = Reference {
    kind: "batch_norm",
    settings: |_| "eps=0.25",
    inputs: &[("x", "input"), ("gamma", "weight"), ("beta", "bias"), ("dy", "grad_output")],
    results: &[("dx", "grad_input"), ("dgamma", "grad_weight"), ("dbeta", "grad_bias")],
};

pub fn cases() -> Vec<Case> {
    let case = |seed, x: [usize; 4]| {
        let images: Array4<f64> = random(seed, x);
        let mean = images.fold_axis(Axis(0), 0.0, |sum, x| sum + x).sum_axis(Axis(0)).sum_axis(Axis(0)) / (x[0] * x[1] * x[2]) as f64;
        let centred = &images - &mean;
        let squares = centred.mapv(|x| x * x).fold_axis(Axis(0), 0.0, |sum, x| sum + x);
        let var = squares.sum_axis(Axis(0)).sum_axis(Axis(0)) / (x[0] * x[1] * x[2]) as f64;
        let rstd: Array1<f64> = var.mapv(|var| 1.0 / (var + 0.25).sqrt());
        let gamma: Array1<f64> = random(seed + 1, x[3]).mapv(|gamma: f64| 1.25 + gamma.abs());
        let case = Case::default().with("dy", random(seed + 2, x)).with("x_hat", &centred * &rstd).with("rstd", rstd);
        // x and beta are for the reference; the exercise does not read them.
        case.with("gamma", gamma).with("beta", Array1::<f64>::zeros(x[3])).with("x", images)
    };
    vec![case(180, [2, 1, 2, 1]), case(190, [3, 2, 4, 2]), case(200, [4, 3, 2, 5])]
}

pub fn right(case: &Case) -> Case {
    NORM.right(case)
}

pub fn mistakes() -> Vec<Mistake> {
    let of = |what, right_text, dx: fn(dy: f64, x_hat: f64, mean_dy: f64, mean_product: f64, m: f64) -> f64| {
        mistake(what, right_text, move |case| {
            let (x_hat, dy) = (case.array::<Ix4>("x_hat"), case.array::<Ix4>("dy"));
            let (rstd, gamma) = (case.array::<Ix1>("rstd"), case.array::<Ix1>("gamma"));
            let results = right(case);
            let (dgamma, dbeta) = (results.array::<Ix1>("dgamma"), results.array::<Ix1>("dbeta"));
            let m = dy.len() as f64 / gamma.len() as f64;
            let wrong = Array4::from_shape_fn(dy.raw_dim(), |(n, h, w, c)| {
                let at = [n, h, w, c];
                gamma[c] * rstd[c] * dx(dy[at], x_hat[at], dbeta[c] / m, dgamma[c] / m, m)
            });
            results.with("dx", wrong)
        })
    };
    let formula = "dx = gamma · rstd · (dy − mean(dy) − x̂ · mean(dy · x̂))";
    let mut all = vec![
        of("dx has the variance term with the wrong sign", formula, |dy, x, mean, product, _| dy - mean + x * product),
        of("dx has the mean term with the wrong sign", formula, |dy, x, mean, product, _| dy + mean - x * product),
        of("dx misses x̂ in the variance term", formula, |dy, _, mean, product, _| dy - mean - product),
        of("dx divides by m once more", formula, |dy, x, mean, product, m| (dy - mean - x * product) / m),
    ];
    // The oracle has PyTorch's names for gamma and beta.
    let words = |text: &str| text.replace("the weight", "gamma").replace("dweight", "dgamma").replace("weight ·", "gamma ·").replace("factor weight", "factor gamma").replace("+ bias", "+ beta");
    all.extend(NORM.mistakes().into_iter().map(|mistake| Mistake {
        name: words(&mistake.name),
        what: words(&mistake.what),
        right: words(&mistake.right),
        ..mistake
    }));
    all
}
