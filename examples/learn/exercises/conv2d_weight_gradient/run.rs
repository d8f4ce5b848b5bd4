use super::exercise::weight_gradient;
use crate::protocol::Case;
use ndarray::Ix4;

pub fn run(case: &Case) -> Case {
    let [stride, padding] = ["stride", "padding"].map(|name| case.count(name));
    let (_, _, kh, kw) = case.array::<Ix4>("weight").dim();
    let (dweight, dbias) = weight_gradient(&case.array("dy"), &case.array("x"), (kh, kw), stride, padding);
    Case::default().with("dweight", dweight).with("dbias", dbias)
}
