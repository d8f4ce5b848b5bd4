//! Values with which docs/play/test.mjs tests the arithmetic of the figures that can be played with.
//!
//! `cargo run --release --example book -- playable_values > docs/play/values.json`. All but those of batch norm are
//! exact: whole numbers, or single roundings that JavaScript makes in the same way.

use ndarray::{Array4, array};
use resnet_by_hand::Scalar;
use resnet_by_hand::layers::{BatchNorm2d, Conv2d, Linear, Mode};
use resnet_by_hand::rng::{Purpose, stream};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parts = [convolution()?, batch_norm()?, differences(), chain()?];
    let names = ["convolution", "batch_norm", "differences", "chain"];
    let parts = names.iter().zip(parts).map(|(name, cases)| format!("\"{name}\": [\n{}\n]", cases.join(",\n")));
    println!("{{\n{}\n}}", parts.collect::<Vec<_>>().join(",\n"));
    Ok(())
}

/// Whole numbers from −9 to 9.
fn random(count: usize, case: u64) -> Vec<f64> {
    let mut rng = stream(1, Purpose::Verify, &[case]);
    (0..count).map(|_| (rng.next_u64() % 19) as f64 - 9.0).collect()
}

/// The picture and the filter of `convolution_on_5x5`, with every stride and padding of the figure.
fn convolution() -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let x = [1, 2, 1, 8, 9, 2, 1, 2, 9, 8, 1, 2, 8, 9, 9, 2, 1, 9, 8, 9, 1, 8, 9, 9, 8].map(f64::from);
    let weight = [-1, 0, 1, -2, 0, 2, -1, 0, 1].map(f64::from);
    let x = Array4::from_shape_vec((1, 5, 5, 1), x.to_vec())?.into_shared();
    let weight = Array4::from_shape_vec((1, 1, 3, 3), weight.to_vec())?;
    let mut cases = Vec::new();
    for (stride, padding) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let conv = Conv2d { stride: [stride; 2], padding: [padding; 2], ..Conv2d::new(weight.clone()) };
        let (y, cache) = conv.forward(&x)?;
        let dy = Array4::from_shape_vec(y.raw_dim(), random(y.len(), cases.len() as u64))?.into_shared();
        let (dx, grads) = conv.backward(&dy, &cache)?;
        let [y, dy, dx] = [y, dy, dx].map(|values| values.iter().copied().collect::<Vec<_>>());
        let dweight: Vec<f64> = grads.weight.iter().copied().collect();
        cases.push(format!(
            "{{\"stride\": {stride}, \"padding\": {padding}, \"y\": {y:?}, \"dy\": {dy:?}, \"dx\": {dx:?}, \"dweight\": {dweight:?}}}"
        ));
    }
    Ok(cases)
}

fn batch_norm() -> resnet_by_hand::Result<Vec<String>> {
    let row = |values: &[f64]| Array4::from_shape_fn((4, 1, 1, 1), |(i, ..)| values[i]).into_shared();
    // Rounded, for the order of the sums is not the same in JavaScript.
    let rounded = |value: f64| (value * 1e9).round() / 1e9 + 0.0;
    let mut cases = Vec::new();
    let page = (vec![1.0, 3.0, 5.0, 7.0], vec![9.0, 0.0, 0.0, 0.0]);
    let ones = (random(4, 10), vec![1.0; 4]);
    for (x, dy) in [page, ones, (random(4, 11), random(4, 12)), (random(4, 13), random(4, 14))] {
        let bn = BatchNorm2d { gamma: array![3.0], eps: 4.0, ..BatchNorm2d::new(1) };
        let (_, cache) = bn.forward(&row(&x), Mode::Train)?;
        let (dx, grads) = bn.backward(&row(&dy), &cache)?;
        let dx: Vec<f64> = dx.iter().map(|&value| rounded(value)).collect();
        let [dgamma, dbeta] = [grads.gamma[0], grads.beta[0]].map(rounded);
        cases.push(format!(
            "{{\"x\": {x:?}, \"dy\": {dy:?}, \"dx\": {dx:?}, \"dgamma\": {dgamma:?}, \"dbeta\": {dbeta:?}}}"
        ));
    }
    Ok(cases)
}

/// The change of `loss` from `below` to `above`, divided by the step that was really made.
fn difference<T: Scalar>(loss: impl Fn(T) -> T, below: T, above: T) -> T {
    (loss(above) - loss(below)) / (above - below)
}

fn differences_in<T: Scalar>(type_name: &str, ks: &[i32]) -> Vec<String> {
    let mut cases = Vec::new();
    let loss = |name: &str, x: T| if name == "abs" { x.abs() } else { x * x * x };
    for name in ["abs", "cube"] {
        for x in [0.0, 0.25, 0.7, -0.45] {
            for &k in ks {
                let (place, h) = (T::of(x), T::of(2f64.powi(-k)));
                let forward = difference(|x| loss(name, x), place, place + h).as_f64();
                let central = difference(|x| loss(name, x), place - h, place + h).as_f64();
                cases.push(format!(
                    "{{\"loss\": \"{name}\", \"type\": \"{type_name}\", \"x\": {x:?}, \"k\": {k}, \
                     \"forward\": {forward:?}, \"central\": {central:?}}}"
                ));
            }
        }
    }
    cases
}

fn differences() -> Vec<String> {
    [differences_in::<f64>("f64", &[0, 1, 2, 5, 17, 30, 50]), differences_in::<f32>("f32", &[1, 8, 17, 22])].concat()
}

/// Blocks y = w·x and y = w·x + x of one number: the gradients of x after each backward pass, from the first block's on.
fn chain() -> resnet_by_hand::Result<Vec<String>> {
    let mut cases = Vec::new();
    for (w, blocks) in [(0.1, 10), (0.9, 27), (-0.5, 9)] {
        let layer = Linear { weight: array![[w]], bias: array![0.0] };
        let (_, cache) = layer.forward(&array![[2.0]])?;
        let (mut plain, mut residual) = (vec![1.0], vec![1.0]);
        for _ in 0..blocks {
            let through = |dy: f64| layer.backward(&array![[dy]], &cache).map(|(dx, _)| dx[[0, 0]]);
            plain.insert(0, through(plain[0])?);
            residual.insert(0, through(residual[0])? + residual[0]);
        }
        cases.push(format!("{{\"w\": {w:?}, \"blocks\": {blocks}, \"plain\": {plain:?}, \"residual\": {residual:?}}}"));
    }
    Ok(cases)
}
