//! ONNX's own test cases of our operations: the expected outputs of its operators against those of our layers, in both types.
//!
//! The cases are in `tests/library/onnx/` (licence and origin in `cases.md`); neither Python nor ONNX is needed: a small parser
//! reads the files. Every case of these operations is either run or listed in `left_out.rs` with a reason that is checked
//! against the model; `docs/onnx.md` contains the same lists. Run with `cargo test --lib library::onnx -- --nocapture` to see
//! what ran and how much of its tolerance it used.

mod cases;
mod computed;
mod left_out;
mod others;
mod protobuf;
mod windows;

use self::cases::{Case, CaseData};
use self::computed::Computed;
use self::left_out::{LEFT_OUT, Reason};
use ndarray::ArrayD;
use resnet_by_hand::verify::{Tolerance, compare};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The outputs of our layers for a case.
fn compute<T: windows::Convolved>(case: &Case, data: &CaseData) -> Vec<Computed> {
    let compute = match case.node.op.as_str() {
        "AveragePool" => windows::average_pool::<T>,
        "BatchNormalization" => others::batch_norm::<T>,
        "Conv" => windows::conv::<T>,
        "ConvTranspose" => windows::conv_transpose::<T>,
        "Gemm" => others::gemm::<T>,
        "GlobalAveragePool" => windows::global_average_pool::<T>,
        "GlobalMaxPool" => windows::global_max_pool::<T>,
        "LeakyRelu" | "Relu" => others::relu::<T>,
        "LogSoftmax" => others::log_softmax::<T>,
        "MaxPool" => windows::max_pool::<T>,
        "MaxUnpool" => windows::max_unpool::<T>,
        "Momentum" => others::momentum::<T>,
        "Softmax" => others::softmax::<T>,
        "SoftmaxCrossEntropyLoss" => others::cross_entropy::<T>,
        other => panic!("{}: no layer for {other}", case.name),
    };
    compute(case, data)
}

/// How much of the tolerance the worst element uses; an error for an element beyond it or an output that was not computed.
fn judge(case: &Case, computed: &[Computed], expected: &[ArrayD<f64>]) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for Computed { output, how, got, tolerance } in computed {
        let found = compare(got, &expected[*output], Tolerance::Elementwise(tolerance.view()));
        if !found.passed() {
            return Err(format!("{}, output {output} {how}: {found}", case.name));
        }
        worst = worst.max(found.worst_share);
    }
    let outputs: BTreeSet<_> = computed.iter().map(|computed| computed.output).collect();
    if outputs.len() != expected.len() {
        return Err(format!("{}: computed {outputs:?} of {} outputs", case.name, expected.len()));
    }
    Ok(worst)
}

fn reason(case: &Case) -> Option<Reason> {
    LEFT_OUT.iter().find(|(name, _)| *name == case.title()).map(|&(_, reason)| reason)
}

/// The cases that are run, with their data.
fn run(all: &[Case]) -> impl Iterator<Item = (&Case, &CaseData)> {
    all.iter().filter(|case| reason(case).is_none()).map(|case| {
        let data = case.data.as_ref();
        (case, data.unwrap_or_else(|| panic!("{} is not left out, and the fixture has no data for it", case.name)))
    })
}

#[test]
fn every_case_is_as_expected_or_left_out_for_a_reason_that_holds() {
    let all = cases::all();
    for (k, (name, reason)) in LEFT_OUT.iter().enumerate() {
        let case = all.iter().find(|case| case.title() == *name);
        let case = case.unwrap_or_else(|| panic!("left out, and no case: {name}"));
        assert!(reason.holds(case), "{name} is not left out because of {reason:?}");
        assert!(LEFT_OUT[..k].iter().all(|(other, _)| other < name), "{name}: twice, or not in order");
    }
    let mut lines: BTreeMap<&str, (usize, [f64; 2])> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (case, data) in run(&all) {
        let (count, worst) = lines.entry(&case.node.op).or_default();
        *count += 1;
        let verdicts = [
            judge(case, &compute::<f64>(case, data), &data.outputs).map_err(|e| format!("float64: {e}")),
            judge(case, &compute::<f32>(case, data), &data.outputs).map_err(|e| format!("float32: {e}")),
        ];
        for (worst, verdict) in worst.iter_mut().zip(verdicts) {
            match verdict {
                Ok(share) => *worst = worst.max(share),
                Err(e) => wrong.push(e),
            }
        }
    }
    for (op, (count, [double, single])) in &lines {
        let percent = [double, single].map(|share| 100.0 * share);
        println!(
            "{op:24} {count:3} run, at most {:5.1} % of the tolerance in f64, {:5.1} % in f32",
            percent[0], percent[1]
        );
    }
    let ran: usize = lines.values().map(|(count, _)| count).sum();
    println!("{} cases: {ran} run, {} left out", all.len(), LEFT_OUT.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(ran + LEFT_OUT.len(), all.len());
}

/// The comparison detects every expected element that is moved out of its tolerance, and no tolerance is large: at most a
/// thousandth of the largest element.
#[test]
fn one_wrong_number_is_noticed_in_every_output_of_every_case() {
    let all = cases::all();
    for (case, data) in run(&all) {
        let computed = compute::<f64>(case, data);
        for output in 0..data.outputs.len() {
            let expected = &data.outputs[output];
            let largest = expected.fold(0.0f64, |largest, value| largest.max(value.abs()));
            let tolerances = computed.iter().filter(|computed| computed.output == output).map(|c| &c.tolerance);
            let most = tolerances.flatten().fold(0.0f64, |most, &tolerance| most.max(tolerance));
            assert!(most <= largest / 1000.0, "{}, output {output}: {most:e} of {largest:e}", case.name);
            for at in [0, expected.len() / 2, expected.len() - 1] {
                let mut wrong = data.outputs.clone();
                *wrong[output].iter_mut().nth(at).unwrap() += largest.max(1.0) / 400.0;
                let verdict = judge(case, &computed, &wrong);
                assert!(verdict.is_err(), "{}, output {output}: element {at} may be anything", case.name);
            }
        }
    }
}

/// `docs/onnx.md` contains the tables generated from these cases.
#[test]
fn the_page_says_what_is_run_and_what_is_left_out() {
    let all = cases::all();
    let mut tables = String::from("| operation | cases | run | left out |\n|---|--:|--:|--:|\n");
    let operations: BTreeSet<_> = all.iter().map(|case| case.node.op.as_str()).collect();
    let mut row = |name: &str, cases: Vec<&Case>| {
        let left_out = cases.iter().filter(|case| reason(case).is_some()).count();
        writeln!(tables, "| {name} | {} | {} | {left_out} |", cases.len(), cases.len() - left_out).unwrap();
    };
    for op in &operations {
        row(op, all.iter().filter(|case| case.node.op == *op).collect());
    }
    row("all", all.iter().collect());

    let mut reasons: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
    for (name, reason) in LEFT_OUT {
        reasons.entry(*reason).or_default().push(format!("`{name}`"));
    }
    let mut list = String::from("| why | which |\n|---|---|\n");
    for (reason, names) in reasons {
        writeln!(list, "| {} | {} |", reason.text(), names.join(", ")).unwrap();
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/onnx.md");
    let page = std::fs::read_to_string(path).expect("docs/onnx.md");
    for table in [tables, list] {
        assert!(page.contains(&table), "docs/onnx.md does not have this table:\n{table}");
    }
}
