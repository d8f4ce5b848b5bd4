//! From scores to probabilities, from probabilities to the loss, and the gradient p − q.
//!
//! `cargo run --release --example book -- softmax [FIGURE.svg]`; the page is docs/softmax_cross_entropy.md.

use crate::figure::{self, Anchor, Axes, Figure, Scale};
use ndarray::{Array2, array};
use resnet_by_hand::layers::SoftmaxCrossEntropy;
use resnet_by_hand::layers::softmax_cross_entropy::softmax;

const CLASSES: [&str; 4] = ["cat", "dog", "ship", "frog"];

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (logits, target) = (array![[2.0, 1.0, -1.0, 0.0]], 1);
    let layer = SoftmaxCrossEntropy::new();
    let (loss, cache) = layer.forward(&logits, &[target])?;
    let dlogits = layer.backward(&cache);
    let p = &cache.probabilities;

    println!("class  score z   exp z       p   q   p - q   by finite differences");
    for (k, class) in CLASSES.iter().enumerate() {
        let z: f64 = logits[[0, k]];
        // The loss one step above, and one step below.
        let moved = |step: f64| {
            let mut logits = logits.clone();
            logits[[0, k]] += step;
            layer.forward(&logits, &[target]).map(|(loss, _)| loss)
        };
        let step = 2f64.powi(-17);
        let difference = (moved(step)? - moved(-step)?) / (2.0 * step);
        let (exp, p, q, d) = (z.exp(), p[[0, k]], u8::from(k == target), dlogits[[0, k]]);
        println!("{class:<5}  {z:>7}  {exp:>6.3}  {p:>6.3}  {q:>2}  {d:>6.3}  {difference:>6.3}");
    }
    println!("the right class is {}: loss = -ln {:.3} = {loss:.3}", CLASSES[target], p[[0, target]]);

    println!("\nthe same scores, all made larger by 5: p = {:.3}", softmax(&(&logits + 5.0)));
    println!("all made 5 times larger:               p = {:.3}", softmax(&(&logits * 5.0)));
    let (chance, _) = layer.forward(&Array2::<f64>::zeros((1, 10)), &[3])?;
    println!("ten equal scores:                      loss = {chance:.3}");
    figure::save(draw(&logits, target, p, &dlogits))
}

/// Scores, probabilities, the loss as a function of the right class's probability, and the gradient.
fn draw(logits: &Array2<f64>, target: usize, p: &Array2<f64>, dlogits: &Array2<f64>) -> Figure {
    let mut figure = Figure::new(
        850.0,
        270.0,
        "Four panels: the scores of four classes as bars, their probabilities, the loss −ln p of the right class, and the \
         gradient p − q: negative for the right class, positive for the others",
    );
    let panel =
        |left, x, low, high| Axes { corner: [left, 40.0], size: [160.0, 170.0], x, y: Scale::Linear(low, high) };
    let bars = [
        (40.0, "scores z", logits, [-1.5, 2.5], &[(-1.0, "−1"), (0.0, "0"), (1.0, "1"), (2.0, "2")][..]),
        (
            255.0,
            "probabilities p",
            p,
            [0.0, 1.0],
            &[(0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1")],
        ),
        (
            675.0,
            "gradient p − q",
            dlogits,
            [-1.0, 1.0],
            &[(-1.0, "−1"), (-0.5, "−0.5"), (0.0, "0"), (0.5, "0.5"), (1.0, "1")],
        ),
    ];
    for (left, name, values, [low, high], ticks) in bars {
        let axes = panel(left, Scale::Linear(-0.6, 3.6), low, high);
        axes.draw(&mut figure, &[], ticks, ["", name]);
        axes.plot(&mut figure, &[[-0.6, 0.0], [3.6, 0.0]], "ink", false);
        for (k, &value) in values.iter().enumerate() {
            let fill = if k == target { "fb" } else { "fa" };
            let [x, top] = axes.at([k as f64 - 0.3, value.max(0.0)]);
            let [right, bottom] = axes.at([k as f64 + 0.3, value.min(0.0)]);
            figure.rect([x, top], [right - x, bottom - top], "", fill, 0.8);
            figure.styled_text([(x + right) / 2.0, 226.0], Anchor::Middle, "muted", 11.0, CLASSES[k]);
        }
    }
    let axes = panel(465.0, Scale::Linear(0.0, 1.0), 0.0, 4.0);
    let ticks = [(0.0, "0"), (1.0, "1"), (2.0, "2"), (3.0, "3"), (4.0, "4")];
    axes.draw(&mut figure, &[(0.0, "0"), (0.5, "0.5"), (1.0, "1")], &ticks, ["p of the right class", "loss −ln p"]);
    let curve: Vec<[f64; 2]> = (2..=100).map(|i| f64::from(i) / 100.0).map(|p: f64| [p, -p.ln()]).collect();
    axes.plot(&mut figure, &curve, "ink", false);
    let here = p[[0, target]];
    figure.dot(axes.at([here, -here.ln()]), 5.0, "fb");
    figure.rect([40.0, 250.0], [10.0, 10.0], "", "fb", 0.8);
    figure.styled_text([56.0, 259.0], Anchor::Start, "", 12.0, "the right class");
    figure
}
