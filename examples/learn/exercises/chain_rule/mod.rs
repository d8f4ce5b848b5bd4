use crate::lesson::{Mistake, mistake};
use crate::protocol::Case;

pub fn cases() -> Vec<Case> {
    let case = |[x, weight, bias, target]: [f64; 4]| {
        let case = Case::default().with_value("x", x).with_value("weight", weight);
        case.with_value("bias", bias).with_value("target", target)
    };
    [[2.0, 3.0, 1.0, 13.0], [-1.5, 0.5, 2.0, 1.0], [3.0, -2.0, 0.25, 4.0]].map(case).into()
}

/// The factors of every line; the right ones by default.
struct Lines {
    square: f64,
    product_to_x: bool,
    a_to_x: bool,
    dy: fn(x: f64, y: f64) -> f64,
    dweight: fn(x: f64, weight: f64) -> f64,
    dbias: fn(x: f64) -> f64,
}

const RIGHT: Lines = Lines { square: 2.0, product_to_x: true, a_to_x: true, dy: |x, _| x, dweight: |x, _| x, dbias: |_| 1.0 };

impl Lines {
    fn gradients(&self, case: &Case) -> Case {
        let [x, weight, bias, target] = ["x", "weight", "bias", "target"].map(|name| case.value(name));
        let y = weight * x + bias;
        let dr = self.square * (y * x - target);
        let dy = dr * (self.dy)(x, y);
        let of = |used: bool, part: f64| if used { part } else { 0.0 };
        let dx = of(self.product_to_x, dr * y) + of(self.a_to_x, dy * weight);
        let results = Case::default().with_value("dx", dx).with_value("dweight", dy * (self.dweight)(x, weight));
        results.with_value("dbias", dy * (self.dbias)(x))
    }
}

pub fn right(case: &Case) -> Case {
    RIGHT.gradients(case)
}

pub fn mistakes() -> Vec<Mistake> {
    let of = |what, right, lines: Lines| mistake(what, right, move |case| lines.gradients(case));
    let sum = "a value that is used twice gets the sum of the gradients from both uses";
    vec![
        of("dx forgets the use of x in r = y · x", sum, Lines { product_to_x: false, ..RIGHT }),
        of("dx forgets the use of x in a = weight · x", sum, Lines { a_to_x: false, ..RIGHT }),
        of("the factor 2 of the square is forgotten", "the derivative of s² is 2 s", Lines { square: 1.0, ..RIGHT }),
        of("every gradient has the wrong sign", "dr = 2 (r − target): the larger r, the larger the loss", Lines {
            square: -2.0,
            ..RIGHT
        }),
        of("dy is multiplied by y instead of x", "a product multiplies the gradient by the other factor", Lines {
            dy: |_, y| y,
            ..RIGHT
        }),
        of("dweight is multiplied by weight instead of x", "a product multiplies the gradient by the other factor", Lines {
            dweight: |_, weight| weight,
            ..RIGHT
        }),
        of("dweight is not multiplied by x", "dweight = da · x: the local derivative of weight · x is x", Lines {
            dweight: |_, _| 1.0,
            ..RIGHT
        }),
        of("dbias is multiplied by x", "an addition passes its gradient on unchanged", Lines { dbias: |x| x, ..RIGHT }),
    ]
}
