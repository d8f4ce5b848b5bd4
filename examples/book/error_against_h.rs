//! Is my gradient right? Differences, their errors, and what a check can miss: docs/checking_gradients.md.
//!
//! `cargo run --release --example book -- error_against_h` prints the tables of the chapter. With a path it also draws
//! the figure there. Everything is built from + − · / and square roots, which every processor rounds in the same way.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use resnet_by_hand::Scalar;
use resnet_by_hand::rng::{Purpose, stream};
use resnet_by_hand::verify::{TensorReport, check_layer};

/// The change of `loss` from x to x + h, divided by the step that was really made.
fn forward_difference<T: Scalar>(loss: impl Fn(T) -> T, x: T, h: T) -> T {
    let above = x + h;
    (loss(above) - loss(x)) / (above - x)
}

/// The change of `loss` from x − h to x + h, divided by the step that was really made.
fn central_difference<T: Scalar>(loss: impl Fn(T) -> T, x: T, h: T) -> T {
    let (above, below) = (x + h, x - h);
    (loss(above) - loss(below)) / (above - below)
}

/// ∂loss/∂x for every x in turn; the others stay where they are.
fn measured_gradient<const N: usize>(loss: impl Fn([f64; N]) -> f64, x: [f64; N], h: f64) -> [f64; N] {
    std::array::from_fn(|i| {
        let moved = |value: f64| {
            let mut x = x;
            x[i] = value;
            loss(x)
        };
        central_difference(moved, x[i], h)
    })
}

fn dot<const N: usize>(a: [f64; N], b: [f64; N]) -> f64 {
    a.iter().zip(&b).map(|(a, b)| a * b).sum()
}

fn cube<T: Scalar>(x: T) -> T {
    x * x * x
}

fn step(k: i32) -> f64 {
    2f64.powi(-k)
}

/// 2⁻¹⁷.
const H: f64 = 1.0 / 131072.0;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    by_hand();
    neuron();
    error_against_h();
    relative_errors();
    random_dy();
    kink();
    whole_numbers();
    reports()?;
    figure::save(drawing())
}

fn by_hand() {
    println!("loss = x³ at x = 2, derivative 12");
    println!("{:>8} {:>10} {:>10}", "h", "forward", "central");
    for h in [1.0, 0.5, 0.25, 0.125] {
        println!("{h:>8} {:>10} {:>10}", forward_difference(cube, 2.0, h), central_difference(cube, 2.0, h));
    }
}

/// The neuron of chapter 2: its backward pass says dx = 12, dweight = 8, dbias = 4.
fn neuron() {
    let target = 5.0;
    let loss = |[x, weight, bias]: [f64; 3]| {
        let y = weight * x + bias;
        (y - target) * (y - target)
    };
    let [dx, dweight, dbias] = measured_gradient(loss, [2.0, 3.0, 1.0], H);
    println!("\none neuron, measured: dx = {dx}, dweight = {dweight}, dbias = {dbias}");
}

/// The errors of the forward and of the central difference of x³ for h = 2⁻ᵏ. Each is the largest at ten points x, because
/// the rounding errors of a single one may happen to be small. `None` where x + h is rounded to x.
fn errors<T: Scalar>(k: i32) -> Option<[f64; 2]> {
    let mut worst = [0.0, 0.0];
    for i in 0..10 {
        let (x, h) = (T::of(0.70 + 0.01 * f64::from(i)), T::of(step(k)));
        if x + h == x {
            return None;
        }
        let derivative = 3.0 * x.as_f64() * x.as_f64();
        let measured = [forward_difference(cube, x, h), central_difference(cube, x, h)];
        worst = [0, 1].map(|i| f64::max(worst[i], (measured[i].as_f64() - derivative).abs()));
    }
    Some(worst)
}

fn error_against_h() {
    println!("\nerror of the measured derivative of x³ near x = 0.7");
    println!("{:>6} {:>20} {:>20}", "", "f64", "f32");
    println!("{:>6} {:>10} {:>9} {:>10} {:>9}", "h", "forward", "central", "forward", "central");
    for k in [1, 2, 3, 4, 7, 8, 12, 17, 20, 23, 26, 30, 40, 50] {
        let [double, single] = [errors::<f64>(k), errors::<f32>(k)].map(|errors| match errors {
            Some([forward, central]) => format!("{forward:>10.1e} {central:>9.1e}"),
            None => format!("{:>20}", "x + h is x"),
        });
        println!("{:>6} {double} {single}", format!("2^-{k}"));
    }
    let double: Vec<_> = (1..=52).map_while(errors::<f64>).collect();
    let single: Vec<_> = (1..=52).map_while(errors::<f32>).collect();
    for (name, errors, rules) in [("f64", double, [26, 17]), ("f32", single, [12, 8])] {
        for (method, rule) in rules.into_iter().enumerate() {
            let error = |k: usize| errors[k - 1][method];
            let best = (1..=errors.len()).min_by(|&a, &b| error(a).total_cmp(&error(b))).expect("a step");
            let difference = ["forward", "central"][method];
            print!("{name}, {difference}: {:.1e} at h = 2^-{rule}, the rule; ", error(rule));
            println!("least {:.1e} at h = 2^-{best}", error(best));
        }
    }
}

/// Relative to the larger of the two, as most checks do it.
fn relative_error(dx: f64, measured: f64) -> f64 {
    (dx - measured).abs() / dx.abs().max(measured.abs())
}

fn relative_errors() {
    println!("\n{:<30} {:>10} {:>10} {:>9}", "", "dx", "measured", "relative");
    let row = |name: &str, dx: f64, loss: &dyn Fn(f64) -> f64, x: f64| {
        let measured = central_difference(loss, x, H);
        println!("{name:<30} {dx:>10.3e} {measured:>10.3e} {:>9.0e}", relative_error(dx, measured));
    };
    row("x³ at 0.7, right", 1.47, &cube, 0.7);
    row("the factor 3 forgotten", 0.49, &cube, 0.7);
    row("the sign wrong", -1.47, &cube, 0.7);
    row("wrong by a millionth", 1.47 * (1.0 + 1e-6), &cube, 0.7);
    row("1000 + x³ at 0.001, right", 3e-6, &|x| 1000.0 + cube(x), 0.001);
    row("(x − ½)² at ½, right", 0.0, &|x| (x - 0.5) * (x - 0.5), 0.5);
}

/// y = (x − mean) / (standard deviation): four outputs with mean 0 and mean square 1.
fn standardise(x: [f64; 4]) -> [f64; 4] {
    let mean = x.iter().sum::<f64>() / 4.0;
    let var = x.map(|x| (x - mean) * (x - mean)).iter().sum::<f64>() / 4.0;
    x.map(|x| (x - mean) / var.sqrt())
}

/// Backward passes of [`standardise`], one of them right: dx = (f dy − a mean(dy) − b y mean(dy · y)) / 5 with these f, a, b.
/// 5 is the standard deviation of the x below.
const CANDIDATES: [(&str, [f64; 3]); 4] = [
    ("A: (dy − mean(dy) − y mean(dy · y)) / 5", [1.0, 1.0, 1.0]),
    ("B: (dy − mean(dy)) / 5", [1.0, 1.0, 0.0]),
    ("C: (dy − y mean(dy · y)) / 5", [1.0, 0.0, 1.0]),
    ("D: 0", [0.0, 0.0, 0.0]),
];

fn random_dy() {
    let x = [1.0, 7.0, 9.0, 15.0];
    let y = standardise(x);
    let mut rng = stream(1, Purpose::Verify, &[]);
    let random = [0; 4].map(|_| (rng.next_u64() % 21) as f64 / 10.0 - 1.0);
    println!("\nx = {x:?}, y = {y:?}, random dy = {random:.1?}");
    println!("{:<40} {:>10} {:>10} {:>10}", "dx", "dy = 1", "dy = y", "random dy");
    for (name, [f, a, b]) in CANDIDATES {
        let verdict = |dy: [f64; 4]| {
            let measured = measured_gradient(|x| dot(dy, standardise(x)), x, H);
            let (mean, mean_product) = (dy.iter().sum::<f64>() / 4.0, dot(dy, y) / 4.0);
            let error = |i: usize| ((f * dy[i] - a * mean - b * y[i] * mean_product) / 5.0 - measured[i]).abs();
            if (0..4).all(|i| error(i) <= 1e-9) { "passes" } else { "FAILS" }
        };
        println!("{name:<40} {:>10} {:>10} {:>10}", verdict([1.0; 4]), verdict(y), verdict(random));
    }
}

fn kink() {
    println!("\nmeasured derivative of |x| near 0");
    for x_over_h in [-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0] {
        println!("x = {x_over_h:>5} h: {:>5}", central_difference(f64::abs, x_over_h * H, H));
    }
}

/// Two neurons with three inputs.
fn neurons([x1, x2, x3]: [f64; 3]) -> [f64; 2] {
    [2.0 * x1 - x2, 3.0 * x2 + x3]
}

/// dx of [`neurons`].
fn neurons_backward([dy1, dy2]: [f64; 2]) -> [f64; 3] {
    [2.0 * dy1, -dy1 + 3.0 * dy2, dy2]
}

fn whole_numbers() {
    let (x, dy) = ([1.0, 4.0, 6.0], [5.0, 7.0]);
    let (y, dx) = (neurons(x), neurons_backward(dy));
    println!("\nx = {x:?}, dy = {dy:?}, y = {y:?}");
    println!("dx by backward              {dx:?}");
    println!("dx by differences, h = 1    {:?}", measured_gradient(|x| dot(dy, neurons(x)), x, 1.0));
    println!("dx by differences, h = 0.1  {:?}", measured_gradient(|x| dot(dy, neurons(x)), x, 0.1));
    println!("⟨y, dy⟩ = {}, ⟨x, dx⟩ = {}", dot(y, dy), dot(x, dx));
}

fn reports() -> resnet_by_hand::Result<()> {
    println!("\n{}", TensorReport::table_header());
    for layer in ["linear", "batch_norm"] {
        for report in check_layer(layer, 1)?.iter().take(3) {
            println!("{report}");
        }
    }
    Ok(())
}

/// The curve x³ and |x| with chords in the upper row, errors in the lower one.
fn drawing() -> Figure {
    let title = "Chords of a smooth curve and across a kink; error of forward and central differences for every step";
    let mut figure = Figure::new(760.0, 610.0, title);

    // x³ around 0.7
    let (x, y) = (Scale::Linear(0.0, 1.4), Scale::Linear(-0.4, 2.2));
    let axes = Axes { corner: [60.0, 40.0], size: [330.0, 180.0], x, y };
    let ticks = [(0.0, "0"), (0.2, "x − h"), (0.7, "x"), (1.2, "x + h")];
    axes.draw(&mut figure, &ticks, &[(0.0, "0"), (1.0, "1"), (2.0, "2")], ["", "(a)  loss = x³ at x = 0.7, h = ½"]);
    let curve: Vec<_> = (0..=26).map(|i| 0.05 * f64::from(i)).map(|x| [x, cube(x)]).collect();
    axes.plot(&mut figure, &curve, "ink", false);
    let tangent = |x: f64| [x, cube(0.7) + 1.47 * (x - 0.7)];
    let chords = [
        ("b", "forward: slope 2.77", [[0.7, cube(0.7)], [1.2, cube(1.2)]]),
        ("a", "central: slope 1.72", [[0.2, cube(0.2)], [1.2, cube(1.2)]]),
        ("c", "tangent: slope 1.47", [tangent(0.3), tangent(1.2)]),
    ];
    for (row, (class, label, chord)) in chords.into_iter().enumerate() {
        let y = 58.0 + 18.0 * row as f64;
        axes.plot(&mut figure, &chord, class, class == "c");
        figure.lines(&[[75.0, y], [97.0, y]], class, class == "c");
        figure.styled_text([103.0, y + 4.0], Anchor::Start, "", 12.0, label);
    }

    // |x|
    let (x, y) = (Scale::Linear(-2.0, 2.0), Scale::Linear(-0.4, 2.2));
    let axes = Axes { corner: [460.0, 40.0], size: [280.0, 180.0], x, y };
    let ticks = [(-0.5, "x − h"), (0.5, "x"), (1.5, "x + h")];
    axes.draw(&mut figure, &ticks, &[(0.0, "0"), (1.0, "h"), (2.0, "2h")], ["", "(b)  loss = |x| at x = h/2"]);
    axes.plot(&mut figure, &[[-2.0, 2.0], [0.0, 0.0], [2.0, 2.0]], "ink", false);
    axes.plot(&mut figure, &[[-0.5, 0.5], [1.5, 1.5]], "a", false);
    figure.styled_text(axes.at([-0.4, 1.85]), Anchor::Start, "", 12.0, "central: slope ½");
    figure.styled_text(axes.at([-0.4, 1.6]), Anchor::Start, "", 12.0, "derivative: 1");

    let corner = panel(&mut figure, 60.0, "(c)  error in f64", errors::<f64>, &[52, 44, 35, 26, 17, 8, 1]);
    panel(&mut figure, 550.0, "(d)  error in f32", errors::<f32>, &[23, 17, 8, 1]);
    for (h, error, label) in [(8, 5e-2, "forward: ~ h"), (2, 2e-10, "central: ~ h²"), (35, 2e-8, "rounding: ~ 1/h")] {
        figure.styled_text(corner.at([step(h), error]), Anchor::End, "", 12.0, label);
    }
    figure
}

/// The errors for h = 2⁻ᵏ, from the first k of `ticks` to the last. A factor of 2 in h is as wide in every panel.
fn panel(figure: &mut Figure, left: f64, name: &str, errors: fn(i32) -> Option<[f64; 2]>, ticks: &[i32]) -> Axes {
    let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
    let (x, y) = (Scale::Log(step(first), step(last)), Scale::Log(2e-12, 8.0));
    let axes = Axes { corner: [left, 290.0], size: [8.2 * f64::from(first - last), 270.0], x, y };
    let steps: Vec<_> = ticks.iter().map(|&k| (step(k), power_of_two(k))).collect();
    let steps: Vec<_> = steps.iter().map(|(value, label)| (*value, label.as_str())).collect();
    let powers = [(1e-10, "1e-10"), (1e-8, "1e-8"), (1e-6, "1e-6"), (1e-4, "1e-4"), (1e-2, "0.01"), (1.0, "1")];
    axes.draw(figure, &steps, &powers, ["step h", name]);
    for (method, [class, fill]) in [["b", "fb"], ["a", "fa"]].into_iter().enumerate() {
        let points: Vec<_> = (last..=first).filter_map(|k| Some([step(k), errors(k)?[method]])).collect();
        axes.plot(figure, &points, class, false);
        points.iter().for_each(|point| figure.dot(axes.at(*point), 2.0, fill));
    }
    axes
}

/// "2⁻¹⁷" for 17.
fn power_of_two(k: i32) -> String {
    let raised = |digit: char| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(digit.to_digit(10)? as usize);
    format!("2⁻{}", k.to_string().chars().filter_map(raised).collect::<String>())
}
