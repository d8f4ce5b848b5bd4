//! Real random numbers: uniform, normal and beta.
//!
//! ```text
//! uniform   low + (high − low) k/(2⁵² − 1)                                      k uniform in 0..2⁵²
//! normal    density exp(−x²/2)/√(2π)                                            a ziggurat (Marsaglia & Tsang 2000)
//! beta      density proportional to λ^(α−1) (1−λ)^(α−1), both parameters α      rejection (Cheng 1978)
//! ```
//!
//! The crate `rand_distr` has them. But a seed must give the same weights in every version of this crate, and
//! `rand_distr` may improve its algorithms; its λ even depends on which features another crate enables in `num-traits`.
//! So the distributions are implemented here, with the results of `rand_distr` 0.6.0, which the first versions of this
//! crate used. A test compares the two bit by bit.
//!
//! `exp` and `ln` are those of the C library, whose last bit may differ between systems. Beta numbers are computed with
//! them, and so are the normal numbers of the tail, one in 4,000. Elsewhere they only decide whether a number is
//! accepted, where the last bit almost never matters.
//!
//! G. Marsaglia & W. W. Tsang 2000, *The ziggurat method for generating random variables*, Journal of Statistical
//! Software 5(8); J. A. Doornik 2005, *An improved ziggurat method to generate normal random samples* (u and the index
//! of the strip from different bits); R. C. H. Cheng 1978, *Generating beta variates with nonintegral shape
//! parameters*, Communications of the ACM 21(4).

use super::Rng;
use super::ziggurat::{F, R, X};

const HALF_ULP: f64 = f64::EPSILON / 2.0; // 2⁻⁵³

/// Uniform in (0, 1): (k + 1/2)/2⁵², k the upper 52 bits. Never 0, so its logarithm exists.
fn open(rng: &mut Rng) -> f64 {
    (2 * (rng.next_u64() >> 12) + 1) as f64 * HALF_ULP
}

/// Uniform in [0, 1): k/2⁵³, k the upper 53 bits.
fn half_open(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * HALF_ULP
}

/// Uniform in [low, high]: low + scale · k/2⁵², k the upper 52 bits, scale such that the largest k gives high.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uniform {
    low: f64,
    scale: f64,
}

impl Uniform {
    /// # Panics
    /// If `low` is above `high`, or `high - low` is not finite.
    pub(crate) fn new(low: f64, high: f64) -> Self {
        assert!(low <= high && (high - low).is_finite(), "uniform: expected a finite range, got {low} to {high}");
        let largest = 1.0 - f64::EPSILON;
        let mut scale = (high - low) / largest;
        // Rounding may exceed `high`.
        while scale * largest + low > high {
            scale = scale.next_down();
        }
        Uniform { low, scale }
    }

    pub(crate) fn draw(self, rng: &mut Rng) -> f64 {
        (rng.next_u64() >> 12) as f64 * f64::EPSILON * self.scale + self.low
    }
}

/// Normal with mean 0 and standard deviation 1.
///
/// The area under f(x) = exp(−x²/2) is covered by 256 strips of equal area (`ziggurat.rs`). A point drawn uniformly
/// from the strips that lies under f has a normal x. Strip i is 2 x\[i\] wide, and up to |x| = x\[i+1\] all of it is
/// under f: in almost all cases this suffices, and y need not be drawn. The lowest strip continues as the tail beyond
/// R: if
///
/// ```text
/// a = −ln(U₁)/R,  b = −ln(U₂),  2b ≥ a²     then R + a has the distribution of the tail     (Marsaglia 1964)
/// ```
pub(crate) fn normal(rng: &mut Rng) -> f64 {
    loop {
        let bits = rng.next_u64();
        let strip = (bits & 0xFF) as usize;
        let u = (bits >> 12) as f64 * f64::EPSILON * 2.0 - 1.0;
        let x = u * X[strip];
        if x.abs() < X[strip + 1] {
            return x;
        }
        if strip == 0 {
            return tail(rng).copysign(u);
        }
        let y = F[strip + 1] + (F[strip] - F[strip + 1]) * half_open(rng);
        if y < (-x * x / 2.0).exp() {
            return x;
        }
    }
}

/// A normal number above R.
#[cold]
fn tail(rng: &mut Rng) -> f64 {
    loop {
        let a = -open(rng).ln() / R;
        let b = -open(rng).ln();
        if 2.0 * b >= a * a {
            return R + a;
        }
    }
}

/// Beta(α, α), in [0, 1]: Cheng's algorithms BB (α > 1) and BC (α ≤ 1) for a = b = α.
///
/// ```text
/// β = 1/√α for α > 1, else 1/α      v = β ln(U₁/(1 − U₁))      w = α eᵛ      λ = w/(α + w)
///
/// accepted if    ln(U₁² U₂) ≤ (α + 1/β) v + 2α ln(2α/(α + w)) − ln 4
/// ```
///
/// λ is drawn with a density near the wanted one. The right side, minus ln U₁², is the logarithm of the ratio of the
/// wanted density to that one, scaled so that it is at most 0. Cheng's other conditions only save logarithms, which
/// does not matter for one number per batch.
///
/// # Panics
/// If α is not greater than 0.
pub(crate) fn beta(alpha: f64, rng: &mut Rng) -> f64 {
    assert!(alpha > 0.0, "beta: alpha must be greater than 0, got {alpha}");
    let sum = 2.0 * alpha;
    let beta = if alpha > 1.0 {
        // 1/√α, in the order in which Cheng computes it from a and b.
        ((sum - 2.0) / (sum * alpha - sum)).sqrt()
    } else {
        1.0 / alpha
    };
    loop {
        let (u1, u2) = (open(rng), open(rng));
        let v = beta * (u1 / (1.0 - u1)).ln();
        let w = alpha * v.exp();
        let z = u1 * u1 * u2;
        let bound = (alpha + 1.0 / beta) * v + sum * (sum / (alpha + w)).ln() - LN_4;
        // For α ≤ 1 and v ≥ 0 the bound is at least −ln 4, even if eᵛ overflows.
        if z.ln() <= bound || alpha <= 1.0 && u1 >= 0.5 && z <= 0.25 {
            // `rand_distr`'s version of BB returns 1 − λ, which is equally likely.
            return if alpha > 1.0 {
                alpha / (alpha + w)
            } else if w == f64::INFINITY {
                1.0
            } else {
                w / (alpha + w)
            };
        }
    }
}

const LN_4: f64 = 2.0 * std::f64::consts::LN_2;

#[cfg(test)]
mod tests {
    use super::super::{Purpose, stream};
    use super::*;
    use rand_distr::Distribution;

    /// `mine` and `theirs` draw the same numbers, bit by bit, with the same calls of the generator.
    fn same_draws(name: &str, draws: usize, mine: impl Fn(&mut Rng) -> f64, theirs: impl Distribution<f64>) {
        for seed in 0..4 {
            let mut rng = stream(seed, Purpose::Verify, &[]);
            let mut other = rng.clone();
            for i in 0..draws {
                let (x, y) = (mine(&mut rng), theirs.sample(&mut other));
                assert!(x.to_bits() == y.to_bits() && rng == other, "{name}, seed {seed}, draw {i}: {x:?} and {y:?}");
            }
        }
    }

    #[test]
    fn numbers_between_0_and_1_are_those_of_rand() {
        same_draws("open", 100_000, open, rand::distr::Open01);
        same_draws("half open", 100_000, half_open, rand::distr::StandardUniform);
    }

    #[test]
    fn normal_numbers_are_those_of_rand_distr() {
        same_draws("normal", 1_000_000, normal, rand_distr::StandardNormal);
    }

    #[test]
    fn uniform_numbers_are_those_of_rand_distr() {
        for (low, high) in
            [(-0.125, 0.125), (-1.0 / 3.0, 1.0 / 3.0), (-0.1, 0.3), (0.0, 1e300), (-5e-324, 1e-323), (2.0, 2.0)]
        {
            let uniform = Uniform::new(low, high);
            let theirs = rand_distr::Uniform::new_inclusive(low, high).unwrap();
            same_draws(&format!("{low} to {high}"), 100_000, |rng| uniform.draw(rng), theirs);
        }
    }

    #[test]
    fn beta_numbers_are_those_of_rand_distr() {
        for alpha in
            [1e-320, 1e-9, 0.01, 0.1, 0.2, 0.3, 0.4, 0.7, 1.0, 1.0 + f64::EPSILON, 1.1, 1.5, 2.0, 8.0, 30.0, 100.0]
        {
            let theirs = rand_distr::Beta::new(alpha, alpha).unwrap();
            same_draws(&format!("beta({alpha})"), 100_000, |rng| beta(alpha, rng), theirs);
        }
    }

    /// Without any other crate; the numbers are those of `rand_distr` 0.6.0. With another C library those of the tail
    /// and the betas may differ in the last bits.
    #[test]
    fn seed_1_means_these_draws() {
        let rng = || stream(1, Purpose::Verify, &[]);
        let near = |x: f64, y: f64| (x - y).abs() <= 8.0 * f64::EPSILON * y.abs();
        let mut normals = rng();
        assert_eq!(
            [(); 3].map(|()| normal(&mut normals)),
            [1.0384702508855688, -2.342298768742252, 0.5265204048215953]
        );
        let mut normals = rng();
        let tail = (0..).map(|i| (i, normal(&mut normals))).find(|(_, x)| x.abs() > R).unwrap();
        assert!(tail.0 == 7821 && near(tail.1, 3.759740621238072), "{tail:?}");
        let mut uniforms = rng();
        let uniforms = [(); 2].map(|()| Uniform::new(-0.1, 0.7).draw(&mut uniforms));
        assert_eq!(uniforms, [0.5145010890551404, -0.07031290437066336]);
        for (alpha, expected) in [(0.2, 0.997499618511704), (1.0, 0.7681263613189254), (2.0, 0.3000740190939501)] {
            let lambda = beta(alpha, &mut rng());
            assert!(near(lambda, expected), "beta({alpha}): {lambda} instead of {expected}");
        }
    }

    /// x\[i\] (f(x\[i+1\]) − f(x\[i\])) = V except for the rounding of f, 2⁻⁵³ at most. V has 12 digits; the topmost
    /// strip is the remainder, so it alone is off by more.
    #[test]
    fn the_strips_of_the_ziggurat_have_one_area() {
        let density = |x: f64| (-x * x / 2.0).exp();
        let v = X[0] * density(R);
        assert_eq!((X[1], X[256], F[256]), (R, 0.0, 1.0));
        for i in 0..256 {
            let error = (F[i] - density(X[i])).abs();
            assert!(error <= f64::EPSILON, "F[{i}] is off by {error:e}");
            let (error, tolerance) = ((X[i] * (F[i + 1] - F[i]) - v).abs(), if i == 255 { 1e-11 } else { 5e-16 });
            assert!(i == 0 || error <= tolerance, "strip {i} is off by {error:e}");
        }
        // The rectangle of the lowest strip and the tail: R f(R) + ∫ f beyond R, by Simpson's rule.
        let h = 1.0 / 512.0;
        let tail =
            (0..4096).map(|i| R + h * f64::from(i)).map(|x| density(x) + 4.0 * density(x + h / 2.0) + density(x + h));
        let error = R * density(R) + tail.sum::<f64>() * h / 6.0 - v;
        assert!(error.abs() <= 1e-12, "the lowest strip is off by {error:e}");
    }

    /// Moments of n draws: E x = 0, E x² = 1, E x⁴ = 3, within five standard deviations of their means: √(1, 2, 96 / n). And
    /// 1.29e-4 of them are beyond R on either side: 129 ± 11 of a million.
    #[test]
    fn normal_numbers_are_normal() {
        let n = 1_000_000;
        let mut rng = stream(5, Purpose::Verify, &[]);
        let (mut sums, mut beyond) = ([0.0; 3], [0; 2]);
        for x in (0..n).map(|_| normal(&mut rng)) {
            sums = [sums[0] + x, sums[1] + x * x, sums[2] + x.powi(4)];
            beyond = [beyond[0] + usize::from(x < -R), beyond[1] + usize::from(x > R)];
        }
        for ((sum, expected), variance) in sums.into_iter().zip([0.0, 1.0, 3.0]).zip([1.0, 2.0, 96.0]) {
            let (mean, tolerance) = (sum / f64::from(n), 5.0 * (variance / f64::from(n)).sqrt());
            assert!((mean - expected).abs() <= tolerance, "{mean} instead of {expected} ± {tolerance}");
        }
        assert!(beyond.iter().all(|count| (72..=186).contains(count)), "{beyond:?} beyond R");
    }
}
