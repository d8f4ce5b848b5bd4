use super::exercise::{evaluate, train};
use crate::protocol::Case;

pub fn run(case: &Case) -> Case {
    let (x, gamma, beta) = (case.array("x"), case.array("gamma"), case.array("beta"));
    let (mut mean, mut var) = (case.array("running_mean"), case.array("running_var"));
    let (eps, momentum) = (case.value("eps"), case.value("momentum"));
    let evaluated = evaluate(&x, &gamma, &beta, &mean, &var, eps);
    let (y, x_hat, rstd) = train(&x, &gamma, &beta, &mut mean, &mut var, eps, momentum);
    let results = Case::default().with("y", y).with("running_mean", mean).with("running_var", var);
    results.with("x_hat", x_hat).with("rstd", rstd).with("y_in_evaluation", evaluated)
}
