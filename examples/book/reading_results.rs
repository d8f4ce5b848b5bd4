//! What an accuracy says: chance of the test images, chance of the seed, and what choosing the best adds.
//!
//! `cargo run --release --example book -- reading_results` prints the numbers of docs/reading_results.md; with a path
//! as its argument it also draws the figure. `docs/images/book/six_seeds.csv` lists the results of six runs that differ
//! only in their seed. They come from these commands, in about three minutes:
//!
//! ```sh
//! resnet train --validation 400 --repeat 6 --out seeds        # result.json: the weights of the best epoch, tested
//! resnet eval --weights seeds/seed-1/weights.safetensors      # the weights after the last epoch; likewise for 2 to 6
//! ```

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use resnet_by_hand::rng::{Purpose, Rng, stream};

/// Images in the validation set and in the test set of the six runs.
const VALIDATION: usize = 400;
const TEST: usize = 500;

/// How many are compared: k.
const COMPARED: [usize; 6] = [2, 5, 10, 20, 50, 100];

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut rng = stream(1, Purpose::Verify, &[]);

    println!("the accuracy of one network on 10,000 test sets, in percentage points");
    println!("true p   images n   √(p(1 − p)/n)   simulated   within 1   within 2 of them");
    for (p, n) in [(0.5, 500), (0.9, 500), (0.9, 10_000)] {
        let measured: Vec<f64> = (0..10_000).map(|_| accuracy(p, n, &mut rng)).collect();
        let error = standard_error(p, n);
        let within = |errors: f64| 100.0 * share(&measured, |accuracy| (accuracy - 100.0 * p).abs() <= errors * error);
        let (_, deviation) = mean_and_deviation(&measured);
        println!("{p:>6}{n:>11}{error:>16.2}{deviation:>12.2}{:>9.0} %{:>9.0} %", within(1.0), within(2.0));
    }

    let runs = runs();
    let column = |i: usize, images: usize| runs.iter().map(|run| 100.0 * run[i] / images as f64).collect::<Vec<f64>>();
    let [best_validation, last_validation] = [column(2, VALIDATION), column(3, VALIDATION)];
    let [best_test, last_test] = [column(4, TEST), column(5, TEST)];

    let (mean, deviation) = mean_and_deviation(&last_test);
    let (low, high) = last_test.iter().fold((100.0f64, 0.0f64), |(low, high), &v| (low.min(v), high.max(v)));
    println!("\nsix runs that differ only in the seed, after the last epoch, on the same {TEST} test images");
    println!("mean {mean:.1} %, standard deviation {deviation:.1} points, from {low:.1} to {high:.1} %");
    println!(
        "standard error of one accuracy of about {mean:.0} % on {TEST} images: {:.1} points",
        standard_error(mean / 100.0, TEST)
    );

    println!("\nthe means of the six         validation    test   difference");
    for (name, validation, test) in
        [("best epoch", &best_validation, &best_test), ("last epoch", &last_validation, &last_test)]
    {
        let [validation, test] = [validation, test].map(|values| mean_and_deviation(values).0);
        println!("weights of the {name:<14}{validation:>9.1} %{test:>6.1} %{:>13.1}", validation - test);
    }

    // Networks that are all equally good, p = 0.5: the best of k on 500 images is better by chance alone.
    let above = best_of(2_000, &mut rng, |rng| accuracy(0.5, 500, rng) - 50.0);
    let normal = best_of(50_000, &mut rng, normal);
    let real = COMPARED.map(|k| best_of_runs(&last_test, k));
    println!("\nhow much the best of k is above the mean of all, in percentage points");
    println!("         equal networks, p = 0.5,        p = 0.9,        the six runs,");
    println!("    k    500 images    by formula   10,000 images    500 images");
    for (i, k) in COMPARED.into_iter().enumerate() {
        let [few, many] = [standard_error(0.5, 500), standard_error(0.9, 10_000)].map(|error| error * normal[i]);
        let real = real[i].map_or("".to_string(), |points| format!("{points:.1}"));
        let line = format!("{k:>5}{:>14.1}{few:>14.1}{many:>16.2}{real:>14}", above[i]);
        println!("{}", line.trim_end());
    }

    println!("\nHe et al. 2015, table 6: error on the 10,000 test images");
    for (layers, error) in [(20, 8.75), (32, 7.51), (44, 7.17), (56, 6.97), (110, 6.61)] {
        println!("{layers:>4} layers   {error:.2} %   standard error {:.2}", standard_error(error / 100.0, 10_000));
    }
    let five = normal[COMPARED.iter().position(|&k| k == 5).expect("five")];
    println!("the best of five runs with 6.61 ± 0.16: about 6.61 - {five:.2} · 0.16 = {:.2}", 6.61 - five * 0.16);

    figure::save(draw(&last_test, &above, &normal, &real))
}

/// √(p(1 − p)/n) in percentage points.
fn standard_error(p: f64, n: usize) -> f64 {
    100.0 * (p * (1.0 - p) / n as f64).sqrt()
}

/// In percent: n images, each classified correctly with probability p.
fn accuracy(p: f64, n: usize, rng: &mut Rng) -> f64 {
    100.0 * (0..n).filter(|_| uniform(rng) < p).count() as f64 / n as f64
}

/// The mean, over the trials, of the largest of k draws, for each k compared.
fn best_of(trials: usize, rng: &mut Rng, mut draw: impl FnMut(&mut Rng) -> f64) -> [f64; COMPARED.len()] {
    let mut sums = [0.0; COMPARED.len()];
    for _ in 0..trials {
        let mut best = f64::NEG_INFINITY;
        for k in 1..=COMPARED[COMPARED.len() - 1] {
            best = best.max(draw(rng));
            if let Some(i) = COMPARED.iter().position(|&compared| compared == k) {
                sums[i] += best / trials as f64;
            }
        }
    }
    sums
}

/// How far the largest of k values is above the mean of all, on average over all choices of k; none if k is too large.
fn best_of_runs(values: &[f64], k: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (n, mean) = (sorted.len(), mean_and_deviation(values).0);
    // The value at place i, counted from 1, is the largest in C(i − 1, k − 1) of the C(n, k) choices.
    let choices = |n: usize, k: usize| (0..k).map(|j| (n as f64 - j as f64) / (k - j) as f64).product::<f64>();
    let best = |(i, value): (usize, &f64)| value * choices(i, k - 1) / choices(n, k);
    (k <= n).then(|| sorted.iter().enumerate().map(best).sum::<f64>() - mean)
}

/// The mean, and the standard deviation with n − 1 in the denominator.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

fn share(values: &[f64], is: impl Fn(f64) -> bool) -> f64 {
    values.iter().filter(|value| is(**value)).count() as f64 / values.len() as f64
}

/// Uniform in 0 to 1.
fn uniform(rng: &mut Rng) -> f64 {
    rng.next_u64() as f64 / 2f64.powi(64)
}

/// Normal with mean 0 and standard deviation 1 (Box & Muller 1958).
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - uniform(rng)).ln()).sqrt() * (2.0 * std::f64::consts::PI * uniform(rng)).cos()
}

/// Each run: seed, best epoch, and correct answers: of 400 validation images with the weights of the best epoch and of
/// the last, of 500 test images with the same two.
fn runs() -> Vec<[f64; 6]> {
    let row = |line: &str| {
        let mut values = line.split(',').map(|value| value.parse().expect("a number"));
        std::array::from_fn(|_| values.next().expect("six columns"))
    };
    include_str!("../../docs/images/book/six_seeds.csv").lines().skip(1).map(row).collect()
}

/// Left, the accuracy of every run; right, the best of k above the mean.
fn draw(runs: &[f64], above: &[f64], normal: &[f64], real: &[Option<f64>]) -> Figure {
    let mut figure = Figure::new(
        720.0,
        340.0,
        "Six runs that differ only in the seed have different accuracies; and the best of k equal networks looks better \
         the more are compared",
    );
    let (mean, deviation) = mean_and_deviation(runs);
    let count = runs.len() as f64;
    let axes = Axes {
        corner: [50.0, 40.0],
        size: [280.0, 230.0],
        x: Scale::Linear(43.0, 57.0),
        y: Scale::Linear(0.0, count + 1.0),
    };
    let percent = [(44.0, "44"), (47.0, "47"), (50.0, "50"), (53.0, "53"), (56.0, "56")];
    axes.draw(
        &mut figure,
        &percent,
        &[(1.0, "1"), (2.0, "2"), (3.0, "3"), (4.0, "4"), (5.0, "5"), (6.0, "6")],
        ["test accuracy in %", "seed"],
    );
    let error = standard_error(mean / 100.0, TEST);
    for (i, &accuracy) in runs.iter().enumerate() {
        let y = i as f64 + 1.0;
        axes.plot(&mut figure, &[[accuracy - error, y], [accuracy + error, y]], "a", false);
        figure.dot(axes.at([accuracy, y]), 3.0, "fa");
    }
    axes.plot(&mut figure, &[[mean, 0.0], [mean, count + 1.0]], "ink", true);
    for side in [-deviation, deviation] {
        axes.plot(&mut figure, &[[mean + side, 0.0], [mean + side, count + 1.0]], "b", true);
    }
    figure.line([50.0, 320.0], [70.0, 320.0], "a");
    figure.text([76.0, 324.0], Anchor::Start, "± standard error");
    figure.lines(&[[205.0, 320.0], [225.0, 320.0]], "b", true);
    figure.text([231.0, 324.0], Anchor::Start, "± deviation of the seeds");

    let axes =
        Axes { corner: [410.0, 40.0], size: [280.0, 230.0], x: Scale::Log(2.0, 100.0), y: Scale::Linear(0.0, 6.0) };
    let ks = [(2.0, "2"), (5.0, "5"), (10.0, "10"), (20.0, "20"), (50.0, "50"), (100.0, "100")];
    let points = [(0.0, "0"), (1.0, "1"), (2.0, "2"), (3.0, "3"), (4.0, "4"), (5.0, "5"), (6.0, "6")];
    axes.draw(&mut figure, &ks, &points, ["k, networks compared", "best of k above the mean, in points"]);
    let many = standard_error(0.9, 10_000);
    let curve = |values: &[f64], factor: f64| -> Vec<[f64; 2]> {
        COMPARED.iter().zip(values).map(|(&k, value)| [k as f64, factor * value]).collect()
    };
    axes.plot(&mut figure, &curve(above, 1.0), "a", false);
    axes.plot(&mut figure, &curve(normal, many), "c", false);
    for (&k, points) in COMPARED.iter().zip(real) {
        if let Some(points) = points {
            figure.dot(axes.at([k as f64, *points]), 4.0, "fb");
        }
    }
    let names = [("a", "500 images, p = 0.5"), ("c", "10,000 images, p = 0.9")];
    for (i, (class, name)) in names.into_iter().enumerate() {
        let y = 60.0 + 20.0 * i as f64;
        figure.line([420.0, y], [440.0, y], class);
        figure.text([446.0, y + 4.0], Anchor::Start, name);
    }
    figure.dot([430.0, 100.0], 4.0, "fb");
    figure.text([446.0, 104.0], Anchor::Start, "the six runs");
    figure
}
