//! Exercise 1: the gradients of one neuron whose input is used twice. Chapter 2, docs/chain_rule.md.
//!
//! ```text
//! a    = weight · x
//! y    = a + bias
//! r    = y · x            x again: it is used in two places
//! loss = (r − target)²
//! ```

/// ∂loss/∂x, ∂loss/∂weight and ∂loss/∂bias.
#[derive(Debug, PartialEq)]
pub struct Gradients {
    pub dx: f64,
    pub dweight: f64,
    pub dbias: f64,
}

/// Write the forward lines that you need, then one line of backward for each line of forward, last line first.
pub fn gradients(x: f64, weight: f64, bias: f64, target: f64) -> Gradients {
    // <solution>
    let a = weight * x;
    let y = a + bias;
    let r = y * x;
    // loss = (r − target)²
    let dr = 2.0 * (r - target);
    // r = y · x
    let dy = dr * x;
    let dx_of_product = dr * y;
    // y = a + bias
    let (da, dbias) = (dy, dy);
    // a = weight · x
    let dweight = da * x;
    let dx_of_a = da * weight;
    Gradients { dx: dx_of_product + dx_of_a, dweight, dbias }
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    /// By hand: x = 2, weight = 3, bias = 1: a = 6, y = 7, r = 14. With target 13, dr = 2.
    #[test]
    fn by_hand() {
        let found = gradients(2.0, 3.0, 1.0, 13.0);
        assert_abs_diff_eq!(found.dbias, 4.0);
        assert_abs_diff_eq!(found.dweight, 8.0);
        assert_abs_diff_eq!(found.dx, 26.0);
    }
}
