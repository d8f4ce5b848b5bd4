//! Exercise 4: a ReLU. Chapter 5, docs/relu.md.
//!
//! ```text
//! y = x where x > 0, else 0                x, y, dy, dx: (N, F)
//! ```
//!
//! At x = 0 the gradient is 0, as in PyTorch. `ndarray::Zip::from(a).and(b).map_collect(|&a, &b| …)` computes a new array
//! element by element; `a.mapv(|a| …)` does it for one array.

use ndarray::{Array2, Zip};

pub fn forward(x: &Array2<f64>) -> Array2<f64> {
    // <solution>
    x.mapv(|x| if x > 0.0 { x } else { 0.0 })
    // </solution>
}

/// dx
pub fn backward(dy: &Array2<f64>, x: &Array2<f64>) -> Array2<f64> {
    // <solution>
    Zip::from(dy).and(x).map_collect(|&dy, &x| if x > 0.0 { dy } else { 0.0 })
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use ndarray::array;

    #[test]
    fn by_hand() {
        let x = array![[-2.0, 0.0, 3.0]];
        assert_abs_diff_eq!(forward(&x), array![[0.0, 0.0, 3.0]]);
        assert_abs_diff_eq!(backward(&array![[5.0, 5.0, -5.0]], &x), array![[0.0, 0.0, -5.0]]);
    }
}
