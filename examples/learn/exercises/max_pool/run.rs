use super::exercise::{backward, forward};
use crate::protocol::Case;

pub fn run(case: &Case) -> Case {
    let (x, kernel, stride) = (case.array("x"), case.count("kernel"), case.count("stride"));
    let dx = backward(&case.array("dy"), &x, kernel, stride);
    Case::default().with("y", forward(&x, kernel, stride)).with("dx", dx)
}
