use crate::lesson::{Mistake, mistake, random};
use crate::protocol::Case;
use ndarray::{Array2, Ix2, Zip};

pub fn cases() -> Vec<Case> {
    let case = |seed, [n, f, f_out]: [usize; 3]| {
        let case = Case::default().with("x", random(seed, (n, f))).with("branch", random(seed + 1, (f, f_out)));
        case.with("shortcut", random(seed + 2, (f, f_out))).with("dy", random(seed + 3, (n, f_out)))
    };
    vec![case(210, [2, 2, 3]), case(220, [4, 3, 5]), case(230, [3, 6, 2])]
}

type Matrix = Array2<f64>;

fn relu(x: Matrix) -> Matrix {
    x.mapv(|x| x.max(0.0))
}

fn open(dy: &Matrix, gates: &Matrix) -> Matrix {
    Zip::from(dy).and(gates).map_collect(|&dy, &gate| if gate > 0.0 { dy } else { 0.0 })
}

/// The backward pass of F or S.
type Backward<'a> = &'a dyn Fn(&Matrix) -> Matrix;

/// y from F(x) and S(x); dx from dy, y and the backward passes of F and S.
#[derive(Clone, Copy)]
struct Block {
    y: fn(branch: Matrix, shortcut: Matrix) -> Matrix,
    dx: fn(dy: &Matrix, y: &Matrix, branch: Backward<'_>, shortcut: Backward<'_>) -> Matrix,
}

const RIGHT: Block = Block {
    y: |branch, shortcut| relu(branch + shortcut),
    dx: |dy, y, branch, shortcut| branch(&open(dy, y)) + shortcut(&open(dy, y)),
};

impl Block {
    fn compute(self, case: &Case) -> Case {
        // F(x) = (x · a)² − 4 and S(x) = x · b
        let [x, a, b, dy] = ["x", "branch", "shortcut", "dy"].map(|name| case.array::<Ix2>(name));
        let product = x.dot(&a);
        let y = (self.y)(product.mapv(|a| a * a - 4.0), x.dot(&b));
        let branch = |ds: &Matrix| (ds * &product * 2.0).dot(&a.t());
        let dx = (self.dx)(&dy, &y, &branch, &|ds: &Matrix| ds.dot(&b.t()));
        Case::default().with("y", y).with("dx", dx)
    }
}

pub fn right(case: &Case) -> Case {
    RIGHT.compute(case)
}

pub fn mistakes() -> Vec<Mistake> {
    let of = |what, right, block: Block| mistake(what, right, move |case| block.compute(case));
    let both = "x is used by the branch and by the shortcut: dx is the sum of both gradients";
    let gates = "the ReLU is after the addition: ds = dy where y > 0, for both summands";
    let order = "y = relu(F(x) + S(x))";
    vec![
        of("dx misses the gradient through the shortcut", both, Block { dx: |dy, y, branch, _| branch(&open(dy, y)), ..RIGHT }),
        of("dx misses the gradient through the branch", both, Block { dx: |dy, y, _, shortcut| shortcut(&open(dy, y)), ..RIGHT }),
        of("dx passes the gradient of the shortcut around the ReLU", gates, Block {
            dx: |dy, y, branch, shortcut| branch(&open(dy, y)) + shortcut(dy),
            ..RIGHT
        }),
        of("dx passes the gradient of the branch around the ReLU", gates, Block {
            dx: |dy, y, branch, shortcut| branch(dy) + shortcut(&open(dy, y)),
            ..RIGHT
        }),
        of("dx ignores the ReLU", gates, Block { dx: |dy, _, branch, shortcut| branch(dy) + shortcut(dy), ..RIGHT }),
        of("dx has the gates of the ReLU from dy", "the gates are decided in the forward pass, by y", Block {
            dx: |dy, _, branch, shortcut| branch(&open(dy, dy)) + shortcut(&open(dy, dy)),
            ..RIGHT
        }),
        of("dx is divided by two", "an addition passes its gradient to both, whole", Block {
            dx: |dy, y, branch, shortcut| (branch(&open(dy, y)) + shortcut(&open(dy, y))) / 2.0,
            ..RIGHT
        }),
        of("dx has the shortcut of an identity", "S is a layer: use its backward pass", Block {
            dx: |dy, y, branch, _| {
                let (branch, ds) = (branch(&open(dy, y)), open(dy, y));
                if branch.raw_dim() == ds.raw_dim() { branch + ds } else { branch }
            },
            ..RIGHT
        }),
        // What forward does wrong changes the gates of backward as well.
        of("y adds the shortcut after the ReLU", order, Block { y: |branch, shortcut| relu(branch) + shortcut, ..RIGHT }),
        of("y misses the shortcut", order, Block { y: |branch, _| relu(branch), ..RIGHT }),
        of("y misses the branch", order, Block { y: |_, shortcut| relu(shortcut), ..RIGHT }),
        of("y misses the ReLU", order, Block { y: |branch, shortcut| branch + shortcut, ..RIGHT }),
    ]
}
