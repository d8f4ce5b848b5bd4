use super::exercise::{Config, step};
use crate::protocol::Case;

pub fn run(case: &Case) -> Case {
    let config =
        Config { lr: case.value("lr"), momentum: case.value("momentum"), weight_decay: case.value("weight_decay") };
    let mut theta = case.array("theta");
    let mut buffer = case.get("b").map(|_| case.array("b"));
    step(&mut theta, &mut buffer, &case.array("gradient"), config);
    Case::default().with("theta", theta).with("b", buffer.expect("a buffer after the step"))
}
