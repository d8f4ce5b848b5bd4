use crate::lesson::{Mistake, mistake, random};
use crate::protocol::Case;
use ndarray::{Array1, Array2, Axis, Ix1, Ix2, array};

pub fn cases() -> Vec<Case> {
    let case = |seed, [n, f, k]: [usize; 3], batch: usize, orders: Array2<f64>, lr: Array1<f64>| {
        let target = Array1::from_shape_fn(n, |i| ((3 * i + i / 2) % k) as f64);
        let case = Case::default().with("x", random(seed, (n, f)) + 3.0).with("target", target);
        let case = case.with("weight", random(seed + 1, (f, k)) * 0.5).with_value("batch", batch as f64);
        case.with("orders", orders).with("lr", lr)
    };
    vec![
        case(270, [3, 2, 2], 2, array![[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]], array![0.5, 0.25]),
        case(
            280,
            [7, 3, 4],
            3,
            array![
                [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                [6.0, 4.0, 2.0, 0.0, 1.0, 3.0, 5.0],
                [3.0, 6.0, 1.0, 5.0, 0.0, 2.0, 4.0]
            ],
            array![0.5, 0.25, 0.125],
        ),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum Zero {
    EveryBatch,
    EveryEpoch,
    Never,
}

/// A training loop, and what can be wrong in it.
#[derive(Clone, Copy)]
struct Loop {
    zero: Zero,
    last_batch: bool,
    over_images: bool,
    orders: bool,
    rates: bool,
    training: bool,
    evaluation: bool,
    backward_first: bool,
    step_per_batch: bool,
    share: bool,
}

const RIGHT: Loop = Loop {
    zero: Zero::EveryBatch,
    last_batch: true,
    over_images: true,
    orders: true,
    rates: true,
    training: true,
    evaluation: true,
    backward_first: true,
    step_per_batch: true,
    share: true,
};

impl Loop {
    fn compute(self, case: &Case) -> Case {
        let [x, mut weight, orders] = ["x", "weight", "orders"].map(|name| case.array::<Ix2>(name));
        let (lr, batch, target) = (case.array::<Ix1>("lr"), case.count("batch"), case.counts("target"));
        let (mut gradient, mut running) = (Array2::<f64>::zeros(weight.raw_dim()), Array1::<f64>::zeros(x.ncols()));
        let all = if self.share { target.len() as f64 } else { 1.0 };
        let accuracy = |weight: &Array2<f64>, mean: &Array1<f64>| {
            let logits = (&x - mean).dot(weight);
            let largest = |row: ndarray::ArrayView1<f64>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            let right = logits.rows().into_iter().zip(&target).filter(|(row, class)| largest(*row) == Some(**class));
            right.count() as f64 / all
        };
        let mean = x.mean_axis(Axis(0)).expect("images");
        let before = accuracy(&weight, if self.evaluation { &running } else { &mean });
        if !self.evaluation {
            running = &mean * 0.5;
        }
        let mut losses = Vec::new();
        for epoch in 0..orders.nrows() {
            let order = orders.row(if self.orders { epoch } else { 0 });
            let order: Vec<usize> = order.iter().map(|&i| i as usize).collect();
            let lr = lr[if self.rates { epoch } else { 0 }];
            if self.zero == Zero::EveryEpoch {
                gradient.fill(0.0);
            }
            let (mut sum, mut batches) = (0.0, 0.0);
            for indices in order.chunks(batch).filter(|indices| self.last_batch || indices.len() == batch) {
                if self.zero == Zero::EveryBatch && self.step_per_batch {
                    gradient.fill(0.0);
                }
                let part = x.select(Axis(0), indices);
                let mean = if self.training { part.mean_axis(Axis(0)).expect("images") } else { running.clone() };
                if self.training {
                    running = &running * 0.5 + &mean * 0.5;
                }
                let centred = part - &mean;
                let mut p = centred.dot(&weight).mapv(f64::exp);
                let images = indices.len() as f64;
                let mut loss = 0.0;
                for (mut row, &index) in p.rows_mut().into_iter().zip(indices) {
                    row /= row.sum();
                    loss -= row[target[index]].ln() / images;
                    row[target[index]] -= 1.0;
                }
                let own = centred.t().dot(&p) / images;
                if self.backward_first {
                    gradient += &own;
                }
                if self.step_per_batch {
                    weight -= &(&gradient * lr);
                }
                if !self.backward_first {
                    gradient += &own;
                }
                sum += if self.over_images { loss * images } else { loss };
                batches += 1.0;
            }
            if !self.step_per_batch {
                weight -= &(&gradient * lr);
                gradient.fill(0.0);
            }
            losses.push(sum / if self.over_images { order.len() as f64 } else { batches });
        }
        let after = accuracy(&weight, if self.evaluation { &running } else { &mean });
        let results = Case::default().with("losses", Array1::from(losses)).with("trained_weight", weight);
        results.with_value("accuracy_before", before).with_value("accuracy", after)
    }
}

pub fn right(case: &Case) -> Case {
    RIGHT.compute(case)
}

pub fn mistakes() -> Vec<Mistake> {
    let of = |what, right, wrong: Loop| mistake(what, right, move |case| wrong.compute(case));
    let zero = "backward adds to the gradients, so they must be 0 before every batch";
    vec![
        of("the gradients are not set to zero", zero, Loop { zero: Zero::Never, ..RIGHT }),
        of("the gradients are set to zero once per epoch", zero, Loop { zero: Zero::EveryEpoch, ..RIGHT }),
        of("the last, smaller batch is left out", "every image counts: `chunks`, not `chunks_exact`", Loop {
            last_batch: false,
            ..RIGHT
        }),
        of("losses is a mean over batches", "the last batch has fewer images and must count less", Loop {
            over_images: false,
            ..RIGHT
        }),
        of("every epoch has the order of the first one", "orders[epoch]", Loop { orders: false, ..RIGHT }),
        of("every epoch has the learning rate of the first one", "lr[epoch]", Loop { rates: false, ..RIGHT }),
        of("the model is trained in evaluation mode", "forward(x, true): statistics of the batch, which also update the running ones", Loop {
            training: false,
            ..RIGHT
        }),
        of("accuracy is measured in training mode", "forward(x, false): the answer for an image must not depend on the others", Loop {
            evaluation: false,
            ..RIGHT
        }),
        of("the step comes before backward", "forward, loss, backward, step", Loop { backward_first: false, ..RIGHT }),
        of("there is one step per epoch", "one step for every batch", Loop { step_per_batch: false, ..RIGHT }),
        of("accuracy is a count", "a share from 0 to 1: divide by the number of images", Loop { share: false, ..RIGHT }),
    ]
}
