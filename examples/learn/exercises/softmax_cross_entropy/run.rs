use super::exercise::loss_and_gradient;
use crate::protocol::Case;

pub fn run(case: &Case) -> Case {
    let (loss, dlogits) = loss_and_gradient(&case.array("logits"), &case.counts("target"));
    Case::default().with_value("loss", loss).with("dlogits", dlogits)
}
