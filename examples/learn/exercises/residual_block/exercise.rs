//! Exercise 13: a block with a shortcut. Chapter 12, docs/residual_block.md.
//!
//! ```text
//! y = relu(F(x) + S(x))          x, y (N, F)
//! ```
//!
//! F, the branch, and S, the shortcut, are layers whose backward passes exist: `branch.forward(x)` returns F(x), and
//! `branch.backward(ds)` returns ∂loss/∂x through F alone, if ds is the gradient of F's result. The ReLU is yours.

use ndarray::{Array2, Zip};

/// A part of a network, for one x.
pub trait Layer {
    fn forward(&self, x: &Array2<f64>) -> Array2<f64>;
    fn backward(&self, dy: &Array2<f64>) -> Array2<f64>;
}

/// y
pub fn forward(x: &Array2<f64>, branch: &dyn Layer, shortcut: &dyn Layer) -> Array2<f64> {
    // <solution>
    (branch.forward(x) + shortcut.forward(x)).mapv(|sum| if sum > 0.0 { sum } else { 0.0 })
    // </solution>
}

/// dx; `y` is the result of forward.
pub fn backward(dy: &Array2<f64>, y: &Array2<f64>, branch: &dyn Layer, shortcut: &dyn Layer) -> Array2<f64> {
    // <solution>
    let ds = Zip::from(dy).and(y).map_collect(|&dy, &y| if y > 0.0 { dy } else { 0.0 });
    branch.backward(&ds) + shortcut.backward(&ds)
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use ndarray::array;

    struct Times(f64);

    impl Layer for Times {
        fn forward(&self, x: &Array2<f64>) -> Array2<f64> {
            x * self.0
        }

        fn backward(&self, dy: &Array2<f64>) -> Array2<f64> {
            dy * self.0
        }
    }

    /// F(x) = ½ x and S(x) = x: y = relu(1½ x).
    #[test]
    fn by_hand() {
        let (branch, shortcut) = (Times(0.5), Times(1.0));
        let y = forward(&array![[2.0, -2.0]], &branch, &shortcut);
        assert_abs_diff_eq!(y, array![[3.0, 0.0]]);
        assert_abs_diff_eq!(backward(&array![[1.0, 1.0]], &y, &branch, &shortcut), array![[1.5, 0.0]]);
    }
}
