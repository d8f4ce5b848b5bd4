//! Exercise 14: a step of SGD. Chapter 14, docs/sgd.md.
//!
//! ```text
//! g = gradient + weight_decay · theta
//! b = momentum · b + g                     (in the first step there is no b yet, and b = g)
//! theta = theta − lr · b
//! ```

use ndarray::Array1;

/// What stays the same from step to step.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
}

/// Changes theta, and the buffer, which is `None` before the first step.
pub fn step(theta: &mut Array1<f64>, buffer: &mut Option<Array1<f64>>, gradient: &Array1<f64>, config: Config) {
    let Config { lr, momentum, weight_decay } = config;
    // <solution>
    let g = gradient + &(&*theta * weight_decay);
    let b = match buffer.take() {
        Some(b) => b * momentum + &g,
        None => g.clone(),
    };
    *theta -= &(&b * lr);
    *buffer = Some(b);
    // </solution>
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;
    use ndarray::array;

    /// theta = 4, gradients 1 and 2, lr = ¼, momentum = ½, weight decay = ½.
    #[test]
    fn by_hand() {
        let config = Config { lr: 0.25, momentum: 0.5, weight_decay: 0.5 };
        let (mut theta, mut buffer) = (array![4.0], None);
        step(&mut theta, &mut buffer, &array![1.0], config);
        assert_abs_diff_eq!(theta, array![3.25]);
        step(&mut theta, &mut buffer, &array![2.0], config);
        assert_abs_diff_eq!(theta, array![1.96875]);
    }
}
