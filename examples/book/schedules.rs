//! Every schedule of the learning rate: a picture and some values.
//!
//! `cargo run --release --example book -- schedules` prints the learning rate of some steps; with a path as its
//! argument it also draws the figure of docs/sgd.md. The run has 20 epochs of 5 steps, and the base rate is 0.1.

use crate::figure::{self, Axes, Figure, Scale};
use resnet_by_hand::Result;
use resnet_by_hand::optim::{Schedule, TrainingTime};

const BASE: f64 = 0.1;
const STEPS_PER_EPOCH: usize = 5;
const STEPS: usize = 20 * STEPS_PER_EPOCH;

const SCHEDULES: [&str; 9] = [
    "constant",
    "multistep:10,15@0.1",
    "step:5@0.5",
    "cosine",
    "cosine:epoch@0.02",
    "onecycle",
    "onecycle:pct_start=0.5,anneal=linear",
    "warmup:4@0.1+cosine",
    "hold:2@0.1+multistep:10,15@0.1",
];

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut figure = Figure::new(690.0, 600.0, "The learning rate during a run of 20 epochs, for nine schedules");
    println!("step                                       0       10       25       50       75       99");
    for (panel, text) in SCHEDULES.into_iter().enumerate() {
        let rates = rates(&text.parse()?)?;
        let cells: String = [0, 10, 25, 50, 75, 99].iter().map(|&step| format!(" {:>8.5}", rates[step])).collect();
        println!("{text:<36}{cells}");

        let axes = Axes {
            corner: [45.0 + 225.0 * (panel % 3) as f64, 30.0 + 195.0 * (panel / 3) as f64],
            size: [180.0, 130.0],
            x: Scale::Linear(0.0, 20.0),
            y: Scale::Linear(0.0, BASE),
        };
        // Without what is too long or already in another title.
        let name = text
            .replace("onecycle:pct_start=0.5,", "onecycle:…,")
            .replace("hold:2@0.1+multistep:10,15@0.1", "hold:2@0.1+multistep:…");
        let x_ticks = [(0.0, "0"), (5.0, "5"), (10.0, "10"), (15.0, "15"), (20.0, "20")];
        axes.draw(&mut figure, &x_ticks, &[(0.0, "0"), (0.05, "0.05"), (0.1, "0.1")], ["", &name]);
        axes.plot(&mut figure, &corners(&rates), "a", false);
    }
    figure::save(figure)
}

/// The rate of every step.
fn rates(schedule: &Schedule) -> Result<Vec<f64>> {
    (0..STEPS).map(|step| Ok(schedule.lr(BASE, TrainingTime::new(step, STEPS_PER_EPOCH, STEPS)?))).collect()
}

/// The points (epoch, rate) of a curve, without most of those that lie on the line between their neighbours, or nearly so.
fn corners(rates: &[f64]) -> Vec<[f64; 2]> {
    let bend = |i: usize| (rates[i - 1] + rates[i + 1] - 2.0 * rates[i]).abs();
    let kept = (0..STEPS).filter(|&i| i % (STEPS - 1) == 0 || bend(i) > 2e-4 || (i % 3 == 0 && bend(i) > 1e-9));
    kept.map(|i| [i as f64 / STEPS_PER_EPOCH as f64, rates[i]]).collect()
}
