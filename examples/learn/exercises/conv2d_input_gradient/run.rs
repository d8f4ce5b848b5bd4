use super::exercise::input_gradient;
use crate::protocol::Case;
use ndarray::Ix4;

pub fn run(case: &Case) -> Case {
    let [stride, padding] = ["stride", "padding"].map(|name| case.count(name));
    let x = case.array::<Ix4>("x").dim();
    Case::default().with("dx", input_gradient(&case.array("dy"), &case.array("weight"), x, stride, padding))
}
