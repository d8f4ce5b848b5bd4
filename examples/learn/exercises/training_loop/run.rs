use super::exercise::{Images, Loss, Model, accuracy, train};
use crate::protocol::Case;
use ndarray::{Array1, Array2, Axis};

/// Logits x · weight, after the mean of the batch (or its running mean) is subtracted from x.
struct Network {
    weight: Array2<f64>,
    gradient: Array2<f64>,
    running_mean: Array1<f64>,
    x: Array2<f64>,
}

impl Model for Network {
    fn forward(&mut self, x: &Array2<f64>, training: bool) -> Array2<f64> {
        let mean = if training { x.mean_axis(Axis(0)).unwrap() } else { self.running_mean.clone() };
        if training {
            self.running_mean = &self.running_mean * 0.5 + &mean * 0.5;
        }
        self.x = x - &mean;
        self.x.dot(&self.weight)
    }

    fn backward(&mut self, dlogits: &Array2<f64>) {
        self.gradient += &self.x.t().dot(dlogits);
    }

    fn zero_gradients(&mut self) {
        self.gradient.fill(0.0);
    }

    fn step(&mut self, lr: f64) {
        self.weight -= &(&self.gradient * lr);
    }
}

struct CrossEntropy;

impl Loss for CrossEntropy {
    fn loss(&self, logits: &Array2<f64>, target: &[usize]) -> (f64, Array2<f64>) {
        let n = target.len() as f64;
        let (mut loss, mut dlogits) = (0.0, logits.mapv(f64::exp));
        for (mut row, &class) in dlogits.rows_mut().into_iter().zip(target) {
            row /= row.sum();
            loss -= row[class].ln() / n;
            row[class] -= 1.0;
        }
        (loss, dlogits / n)
    }
}

pub fn run(case: &Case) -> Case {
    let weight: Array2<f64> = case.array("weight");
    let x: Array2<f64> = case.array("x");
    let mut model = Network {
        gradient: Array2::zeros(weight.raw_dim()),
        running_mean: Array1::zeros(x.ncols()),
        x: x.clone(),
        weight,
    };
    let images = Images { x, target: case.counts("target") };
    let orders: Array2<f64> = case.array("orders");
    let orders: Vec<Vec<usize>> =
        orders.rows().into_iter().map(|row| row.iter().map(|&i| i as usize).collect()).collect();
    let lr: Array1<f64> = case.array("lr");
    let before = accuracy(&mut model, &images);
    let losses = train(&mut model, &CrossEntropy, &images, &orders, case.count("batch"), lr.as_slice().unwrap());
    let results = Case::default().with("losses", Array1::from(losses)).with("trained_weight", model.weight.clone());
    let accuracy = accuracy(&mut model, &images);
    results.with_value("accuracy_before", before).with_value("accuracy", accuracy)
}
