use super::exercise::backward;
use crate::protocol::Case;

pub fn run(case: &Case) -> Case {
    let (dy, x_hat) = (case.array("dy"), case.array("x_hat"));
    let (dx, dgamma, dbeta) = backward(&dy, &x_hat, &case.array("rstd"), &case.array("gamma"));
    Case::default().with("dx", dx).with("dgamma", dgamma).with("dbeta", dbeta)
}
