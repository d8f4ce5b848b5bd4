use super::exercise::{Block, Network, Unit};
use crate::layers::im2col::as_matrix;
use crate::layers::sgd::{Config, step};
use crate::layers::softmax_cross_entropy::loss_and_gradient;
use crate::protocol::Case;
use ndarray::{Array1, Array2, Array4, ArrayD, Axis};

fn unit(case: &Case, name: &str, norm: &str, stride: usize) -> Unit {
    let of = |part: &str| case.array(&format!("{norm}.{part}"));
    let weight = as_matrix(&case.array(&format!("{name}.weight")));
    Unit {
        weight,
        gamma: of("weight"),
        beta: of("bias"),
        running_mean: of("running_mean"),
        running_var: of("running_var"),
        stride,
    }
}

fn network(case: &Case) -> Network {
    let block = |name: &str, stride: usize| {
        let of =
            |index: usize, stride| unit(case, &format!("{name}.conv{index}"), &format!("{name}.bn{index}"), stride);
        Block { units: [of(1, stride), of(2, 1)] }
    };
    Network {
        stem: unit(case, "conv1", "bn1", 1),
        blocks: [block("layer1.0", 1), block("layer2.0", 2), block("layer3.0", 2)],
        weight: case.array("fc.weight"),
        bias: case.array("fc.bias"),
    }
}

/// The names of the gradients that `backward` returns, in its order.
fn names() -> Vec<String> {
    let mut names: Vec<String> = ["conv1.weight", "bn1.weight", "bn1.bias"].map(String::from).into();
    for block in 1..=3 {
        for unit in 1..=2 {
            for part in [format!("conv{unit}.weight"), format!("bn{unit}.weight"), format!("bn{unit}.bias")] {
                names.push(format!("layer{block}.0.{part}"));
            }
        }
    }
    names.extend(["fc.weight", "fc.bias"].map(String::from));
    names
}

/// dW (K, C_out) as (C_out, C_in, 3, 3).
fn as_weight(matrix: &ArrayD<f64>) -> Array4<f64> {
    let (c_in, c_out) = (matrix.shape()[0] / 9, matrix.shape()[1]);
    Array4::from_shape_fn((c_out, c_in, 3, 3), |(o, i, p, q)| matrix[[(p * 3 + q) * c_in + i, o]])
}

pub fn run(case: &Case) -> Case {
    let (mut network, x, target) = (network(case), case.array::<ndarray::Ix4>("x"), case.counts("target"));
    if case.get("epochs").is_some() {
        return train(case, network, &x, &target);
    }
    let (logits, cache) = network.forward(&x, true);
    let (loss, dlogits) = loss_and_gradient(&logits, &target);
    let gradients = network.backward(&dlogits, &cache);
    let mut results = Case::default().with_value("loss", loss);
    for (name, gradient) in names().iter().zip(gradients) {
        let gradient = if name.contains("conv") { as_weight(&gradient).into_dyn() } else { gradient };
        results = results.with(&format!("d{name}"), gradient);
    }
    results
}

/// Trains on the first images, tests on the others, and compares with the accuracy that is expected.
fn train(case: &Case, mut network: Network, x: &Array4<f64>, target: &[usize]) -> Case {
    let (epochs, images, batch) = (case.count("epochs"), case.count("images"), case.count("batch"));
    let mut buffers: Vec<Option<Array1<f64>>> = vec![None; names().len()];
    for epoch in 0..epochs {
        // As in chapter 14: a large rate, then a small one.
        let lr = if epoch + 2 < epochs { 0.05 } else { 0.005 };
        let config = Config { lr, momentum: 0.9, weight_decay: 1e-4 };
        let (mut sum, begun) = (0.0, std::time::Instant::now());
        let order: Vec<usize> = (0..images).map(|i| (i * 17 + epoch * 101) % images).collect();
        for indices in order.chunks(batch) {
            let classes: Vec<usize> = indices.iter().map(|&i| target[i]).collect();
            let (logits, cache) = network.forward(&x.select(Axis(0), indices), true);
            let (loss, dlogits) = loss_and_gradient(&logits, &classes);
            let gradients = network.backward(&dlogits, &cache);
            sum += loss * indices.len() as f64;
            for ((parameter, buffer), gradient) in parameters(&mut network).into_iter().zip(&mut buffers).zip(gradients)
            {
                update(parameter, buffer, gradient, config);
            }
        }
        println!("  epoch {:2}   loss {:.3}   {:.0} s", epoch + 1, sum / images as f64, begun.elapsed().as_secs_f64());
    }
    let tests: Vec<usize> = (images..target.len()).collect();
    let mut right = 0;
    for indices in tests.chunks(batch) {
        let (logits, _) = network.forward(&x.select(Axis(0), indices), false);
        let largest = |row: ndarray::ArrayView1<f64>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        right += logits.rows().into_iter().zip(indices).filter(|(row, i)| largest(*row) == Some(target[**i])).count();
    }
    let accuracy = 100.0 * right as f64 / tests.len() as f64;
    let (expected, deviation) = (case.value("expected"), case.value("deviation"));
    println!(
        "  Your network has {accuracy:.1} % of {} test photographs right; the reference has {expected:.1} % with a standard \
         deviation of {deviation:.1} over seeds.",
        tests.len()
    );
    let near = (accuracy - expected).abs() <= 2.0 * deviation;
    Case::default().with_value("accuracy_is_within_two_standard_deviations", if near { 1.0 } else { 0.0 })
}

enum Parameter<'a> {
    Matrix(&'a mut Array2<f64>),
    Vector(&'a mut Array1<f64>),
}

fn parameters(network: &mut Network) -> Vec<Parameter<'_>> {
    let mut all = Vec::new();
    let blocks = network.blocks.iter_mut().flat_map(|block| block.units.iter_mut());
    for unit in std::iter::once(&mut network.stem).chain(blocks) {
        all.push(Parameter::Matrix(&mut unit.weight));
        all.push(Parameter::Vector(&mut unit.gamma));
        all.push(Parameter::Vector(&mut unit.beta));
    }
    all.push(Parameter::Matrix(&mut network.weight));
    all.push(Parameter::Vector(&mut network.bias));
    all
}

/// One parameter's step: the learner's `step` takes a vector.
fn update(parameter: Parameter<'_>, buffer: &mut Option<Array1<f64>>, gradient: ArrayD<f64>, config: Config) {
    let gradient = Array1::from_iter(gradient.iter().copied());
    match parameter {
        Parameter::Vector(theta) => step(theta, buffer, &gradient, config),
        Parameter::Matrix(matrix) => {
            let mut theta = Array1::from_iter(matrix.iter().copied());
            step(&mut theta, buffer, &gradient, config);
            *matrix = theta.into_shape_with_order(matrix.raw_dim()).unwrap();
        }
    }
}
