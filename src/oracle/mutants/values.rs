//! Wrong values: the faults that every result and gradient can have.

use super::{Fault, Mutant, OPERATIONS};
use crate::program::Value;
use ndarray::{ArrayViewMutD, Axis};

/// One way to make values wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Nothing,
    Thousandth,
    LastImage,
    MiddleChannel,
    Exchanged,
    LastColumn,
    Shifted,
}

impl Change {
    const ALL: [Change; 7] = [
        Change::Nothing,
        Change::Thousandth,
        Change::LastImage,
        Change::MiddleChannel,
        Change::Exchanged,
        Change::LastColumn,
        Change::Shifted,
    ];

    fn what(self) -> &'static str {
        match self {
            Change::Nothing => "is 0",
            Change::Thousandth => "is larger by a thousandth",
            Change::LastImage => "is 0 for the last image",
            Change::MiddleChannel => "is 0 in one channel",
            Change::Exchanged => "has two channels exchanged",
            Change::LastColumn => "is 0 in the last column",
            Change::Shifted => "is shifted by a column",
        }
    }

    /// Changes images `(N, H, W, C)`, rows `(N, F)`, or the gradient of a parameter, whose channels are its first axis.
    pub fn make(self, mut numbers: ArrayViewMutD<'_, f64>, parameter: bool) {
        let channels = Axis(if parameter { 0 } else { numbers.ndim() - 1 });
        let count = numbers.len_of(channels);
        let images = !parameter && numbers.ndim() == 4;
        match self {
            Change::Nothing => numbers.fill(0.0),
            Change::Thousandth => numbers.map_inplace(|x| *x *= 1.0 + 1.0 / 1024.0),
            Change::LastImage => {
                let last = numbers.len_of(Axis(0)) - 1;
                numbers.index_axis_mut(Axis(0), last).fill(0.0);
            }
            Change::MiddleChannel => numbers.index_axis_mut(channels, count / 2).fill(0.0),
            Change::Exchanged => {
                let (middle, before) = (count / 2, (count / 2).saturating_sub(1));
                let one = numbers.index_axis(channels, middle).to_owned();
                let other = numbers.index_axis(channels, before).to_owned();
                numbers.index_axis_mut(channels, middle).assign(&other);
                numbers.index_axis_mut(channels, before).assign(&one);
            }
            Change::LastColumn if images => {
                let last = numbers.len_of(Axis(2)) - 1;
                numbers.index_axis_mut(Axis(2), last).fill(0.0);
            }
            Change::Shifted if images => {
                let before = numbers.to_owned();
                let width = numbers.len_of(Axis(2));
                for column in 0..width {
                    let from = before.index_axis(Axis(2), (column + width - 1) % width);
                    numbers.index_axis_mut(Axis(2), column).assign(&from);
                }
            }
            Change::LastColumn | Change::Shifted => {}
        }
    }

    pub fn make_in(self, value: &mut Value<f64>) {
        match value {
            Value::Images(x) => {
                let mut changed = x.to_owned();
                self.make(changed.view_mut().into_dyn(), false);
                *x = changed.into_shared();
            }
            Value::Rows(x) => self.make(x.view_mut().into_dyn(), false),
        }
    }
}

/// Every change of every result and gradient for which it is meaningful.
pub(super) fn wrong_values(all: &mut Vec<Mutant>) {
    for operation in OPERATIONS {
        let parts: &[&str] = match operation {
            "conv2d" | "batch_norm" | "linear" => &["result", "grad_input", "grad_weight", "grad_bias"],
            "sgd" => &[],
            _ => &["result", "grad_input"],
        };
        for &part in parts {
            let parameter = part.starts_with("grad_") && part != "grad_input";
            let images = match operation {
                "linear" | "softmax_cross_entropy" => false,
                "global_avg_pool" => part == "grad_input",
                _ => true,
            };
            for change in Change::ALL {
                let meaningful = match change {
                    Change::LastImage => !parameter,
                    Change::LastColumn => images && !parameter,
                    // The gradient of an image's mean is the same in every pixel.
                    Change::Shifted => images && !parameter && operation != "global_avg_pool",
                    // A loss is one value.
                    Change::MiddleChannel | Change::Exchanged => {
                        (operation, part) != ("softmax_cross_entropy", "result")
                    }
                    Change::Nothing | Change::Thousandth => true,
                };
                let scalar = (operation, part) == ("softmax_cross_entropy", "result");
                if meaningful && !(scalar && change == Change::LastImage) {
                    all.push(Mutant { operation, part, what: change.what(), right: "", fault: Fault::Values(change) });
                }
            }
        }
    }
}
