use super::exercise::gradients;
use crate::protocol::Case;

pub fn run(case: &Case) -> Case {
    let found = gradients(case.value("x"), case.value("weight"), case.value("bias"), case.value("target"));
    Case::default().with_value("dx", found.dx).with_value("dweight", found.dweight).with_value("dbias", found.dbias)
}
