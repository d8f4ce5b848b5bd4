//! Batch norm with wrong statistics, or with a part of its gradient missing.

use super::Mistake;
use crate::Activation;
use crate::layers::BatchNorm2d;
use ndarray::Array1;

/// A batch norm that computes its statistics in another way: x̂ = (x − mean) r(var), where
///
/// ```text
/// dx = gamma (r (dy − mean(dy)) − (x − mean) r k mean(dy (x − mean)))        k = −2 r'(var)/r
/// dgamma = Σ r dy (x − mean)
/// ```
///
/// or that forgets a part of the gradient.
#[derive(Clone, Copy, Debug)]
pub(in crate::oracle) struct WrongNorm {
    /// r and k for a biased variance of m values and eps.
    pub r: fn(f64, f64, f64) -> [f64; 2],
    /// Whether every image has statistics of its own.
    pub per_sample: bool,
    /// Whether dx contains mean(dy): how the mean depends on x.
    pub mean_term: bool,
    /// Whether dx contains the term with k: how the variance depends on x.
    pub variance_term: bool,
    /// Whether dx is multiplied by gamma.
    pub gamma: bool,
    /// Whether the sums over a channel in dx are divided by m.
    pub averages: bool,
    /// Whether dx is multiplied by r.
    pub dx_rstd: bool,
    /// Whether dgamma is multiplied by r.
    pub rstd: bool,
    /// Whether dgamma subtracts the mean.
    pub centred: bool,
}

impl WrongNorm {
    /// A correct batch norm.
    pub const RIGHT: WrongNorm = WrongNorm {
        r: |var, _, eps| [1.0 / (var + eps).sqrt(), 1.0 / (var + eps)],
        per_sample: false,
        mean_term: true,
        variance_term: true,
        gamma: true,
        averages: true,
        dx_rstd: true,
        rstd: true,
        centred: true,
    };

    pub(super) fn of(mistake: Mistake) -> Option<Self> {
        let wrong = WrongNorm::RIGHT;
        Some(match mistake {
            Mistake::NormalizesUnbiased => WrongNorm {
                r: |var, m, eps| {
                    let bessel = m / (m - 1.0);
                    [1.0 / (bessel * var + eps).sqrt(), bessel / (bessel * var + eps)]
                },
                ..wrong
            },
            Mistake::EpsOutsideRoot => WrongNorm {
                r: |var, _, eps| {
                    let r = 1.0 / (var.sqrt() + eps);
                    [r, r / var.sqrt()]
                },
                ..wrong
            },
            Mistake::StatisticsPerSample => WrongNorm { per_sample: true, ..wrong },
            Mistake::StatisticsConstant => WrongNorm { mean_term: false, variance_term: false, ..wrong },
            _ => return None,
        })
    }

    /// Calls `each(images, channel, mean, var)` for every set of values with statistics of its own.
    fn sets(&self, x: &Activation<f64>, mut each: impl FnMut(std::ops::Range<usize>, usize, f64, f64)) {
        let (n, _, _, c) = x.dim();
        let size = if self.per_sample { 1 } else { n };
        for images in (0..n).step_by(size.max(1)).map(|first| first..first + size) {
            for channel in 0..c {
                let values = x.slice(ndarray::s![images.clone(), .., .., channel]);
                let mean = values.mean().unwrap_or(0.0);
                let var = values.mapv(|x| (x - mean).powi(2)).mean().unwrap_or(0.0);
                each(images.clone(), channel, mean, var);
            }
        }
    }

    pub fn forward(&self, bn: &BatchNorm2d<f64>, x: &Activation<f64>) -> Activation<f64> {
        let mut y = x.to_owned();
        self.sets(x, |images, c, mean, var| {
            let mut y = y.slice_mut(ndarray::s![images, .., .., c]);
            let [r, _] = (self.r)(var, y.len() as f64, bn.eps);
            y.mapv_inplace(|x| bn.gamma[c] * (x - mean) * r + bn.beta[c]);
        });
        y.into_shared()
    }

    pub fn backward(
        &self,
        bn: &BatchNorm2d<f64>,
        x: &Activation<f64>,
        dy: &Activation<f64>,
    ) -> (Activation<f64>, Array1<f64>) {
        let (mut dx, mut dgamma) = (dy.to_owned(), Array1::zeros(bn.gamma.len()));
        self.sets(x, |images, c, mean, var| {
            let at = ndarray::s![images, .., .., c];
            let (x, dy) = (x.slice(at), dy.slice(at));
            let m = x.len() as f64;
            let [r, k] = (self.r)(var, m, bn.eps);
            let mean_dy = dy.sum() / m;
            let product = ndarray::Zip::from(x).and(dy).fold(0.0, |sum, &x, &dy| sum + (x - mean) * dy);
            let uncentred = if self.centred { 0.0 } else { mean * dy.sum() };
            dgamma[c] += if self.rstd { r * (product + uncentred) } else { product };
            let gamma = if self.gamma { bn.gamma[c] } else { 1.0 };
            let sums = if self.averages { 1.0 } else { m };
            let mean_term = if self.mean_term { sums * mean_dy } else { 0.0 };
            let variance_term = if self.variance_term { sums * k * product / m } else { 0.0 };
            let scale = if self.dx_rstd { gamma * r } else { gamma };
            ndarray::Zip::from(dx.slice_mut(at)).and(x).and(dy).for_each(|dx, &x, &dy| {
                *dx = scale * (dy - mean_term - (x - mean) * variance_term);
            });
        });
        (dx.into_shared(), dgamma)
    }
}
