//! The conformance pack: a right implementation passes it, in either type, and a wrong one does not.

use resnet_by_hand::formats;
use resnet_by_hand::oracle::dump::tolerance_of;
use resnet_by_hand::oracle::pack::{Case, Level, Subject, cases, folder};
use resnet_by_hand::oracle::score::score;
use resnet_by_hand::oracle::{Arithmetic, compare, dump, layer};
use resnet_by_hand::tensors::{Tensor, Tensors};
use std::collections::BTreeSet;
use std::path::PathBuf;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("resnet-by-hand-pack-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The results of a case computed in `f32`: a right implementation that rounds.
fn single(case: &Case) -> Tensors {
    match &case.subject {
        Subject::Layer(kind, settings) => {
            layer::run::<f32>(kind, &settings.parse().unwrap(), &case.input, &[]).unwrap()
        }
        Subject::Network(..) => {
            let mut task = case.task().unwrap();
            task.request.computed_in.clear();
            dump::<f32>(&task.program, &task.input, &task.request).unwrap()
        }
    }
}

/// Inputs are multiples of small powers of two, so that both types have the same values; the tolerances are finite; and the
/// results of a case in `f32` fit.
#[test]
fn f32_fits_every_case_and_every_input_is_exact() {
    let mut names = BTreeSet::new();
    for case in cases() {
        let name = &case.name;
        assert!(names.insert(name.clone()), "{name} occurs twice");
        for (tensor, values) in case.input.iter() {
            assert!(values.to_f64().iter().all(|&x| x == f64::from(x as f32)), "{name}: {tensor} is not exact in f32");
        }
        // The tolerances of networks take long; tests/command reads those for `f64` from a pack.
        let networks = case.level() == Level::Network;
        let expected = case.expected(&[Arithmetic::F32, Arithmetic::F64][..if networks { 1 } else { 2 }]);
        assert!(expected.iter().all(|(_, tensor)| tensor.to_f64().iter().all(|x| x.is_finite())), "{name}");
        let report = compare(&expected, &single(&case), None).unwrap();
        assert!(report.passed(), "{name}: {:?}", report.first());
        let results = expected.names().filter(|name| tolerance_of(name).is_none()).count();
        assert_eq!(report.tried(), results, "{name}");
    }
    assert!(names.len() > 60);
}

/// In `f64` a convolution of these inputs never rounds: the direct sums, in another order, are bit-identical.
#[test]
fn convolutions_are_exact() {
    use resnet_by_hand::layers::conv2d::direct;
    use resnet_by_hand::program::Layer;
    let mut tried = 0;
    for case in cases().iter().filter(|case| matches!(case.subject, Subject::Layer("conv2d", _))) {
        let mut task = case.task().unwrap();
        task.request.computed_in.clear();
        let ours = dump::<f64>(&task.program, &task.input, &task.request).unwrap();
        let Layer::Conv2d(conv) = &task.program.steps[0].layer else { panic!("a convolution") };
        let x = resnet_by_hand::layers::nchw_to_nhwc(four(&task.input).view());
        let dy = resnet_by_hand::layers::nchw_to_nhwc(four(case.input.get("grad_output").unwrap()).view());
        let (y, dx) =
            (direct::forward(conv, &x).into_shared(), direct::input_gradient(conv, x.dim(), &dy).into_shared());
        let back = |x| resnet_by_hand::layers::nhwc_to_nchw(x).into_dyn();
        assert_eq!(ours.get("output").unwrap().to_f64(), back(&y), "{}", case.name);
        assert_eq!(ours.get("grad_input").unwrap().to_f64(), back(&dx), "{}", case.name);
        assert_eq!(
            ours.get("grad_weight").unwrap().to_f64(),
            direct::weight_gradient(conv, &x, &dy).into_dyn(),
            "{}",
            case.name
        );
        tried += 1;
    }
    assert!(tried > 10);
}

fn four(tensor: &Tensor) -> ndarray::Array4<f64> {
    tensor.to_f64().into_dimensionality().unwrap()
}

/// The cases of layers and blocks catch every mutant of every operation (the networks, which take longer, are for
/// `resnet oracle score`), and results alone would miss nearly half of them.
#[test]
fn every_mutant_is_caught() {
    let small: Vec<Case> = cases().into_iter().filter(|case| case.level() != Level::Network).collect();
    let all = score(&small, &[Arithmetic::F64, Arithmetic::F32], |_| {}).unwrap();
    assert!(all.len() > 250);
    for scored in &all {
        assert!(scored.is_caught(), "{:?}, made in {} cases", scored.mutant, scored.cases);
    }
    let forward = all.iter().filter(|scored| scored.caught_forward).count();
    assert!(2 * forward < all.len() + 20, "{forward} of {} by results alone", all.len());
    // Without cases nothing is caught.
    assert!(
        score(&[], &[Arithmetic::F64], |_| {}).unwrap().iter().all(|scored| !scored.is_caught() && scored.cases == 0)
    );
}

/// The pack is written and read back, and results are compared with it.
#[test]
fn a_pack_is_written_and_judges() {
    let root = Folder::new("judge");
    let (pack, theirs) = (root.0.join("pack"), root.0.join("theirs"));
    let mut seen = 0;
    // All but the large networks, which `resnet oracle pack` writes in tests/command.
    let small = |case: &Case| case.level() != Level::Network || case.name == "preact-network";
    let written = folder::write_cases(&pack, cases().into_iter().filter(small).collect(), |_| seen += 1).unwrap();
    assert_eq!(written.cases, seen);
    assert!(!root.0.join("pack.tmp").exists());
    let index = std::fs::read_to_string(pack.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let files = index["cases"].as_array().unwrap().iter().flat_map(|case| {
        ["float64", "float32"].into_iter().flat_map(|dtype| case[dtype]["files"].as_object().unwrap().values())
    });
    let mut count = 0;
    for file in files {
        count += 1;
        let path = pack.join(file["path"].as_str().unwrap());
        assert!(path.is_file() && file["sha256"].as_str().unwrap().len() == 64, "{}", path.display());
    }
    assert_eq!(written.files, count + 3); // the index, the README, pytorch.py

    // Both formats contain the same tensors, and in float32 the inputs have the same values.
    let read = |name: &str| formats::read(&pack.join(name)).unwrap();
    let (npz, safetensors) = (read("float64/conv2d-3x3.out.npz"), read("float64/conv2d-3x3.out.safetensors"));
    assert!(npz.iter().eq(safetensors.iter()));
    let (double, single_input) = (read("float64/bottleneck.in.npz"), read("float32/bottleneck.in.npz"));
    for (name, tensor) in double.iter() {
        assert_eq!(tensor.to_f64(), single_input.get(name).unwrap().to_f64());
    }

    std::fs::create_dir_all(&theirs).unwrap();
    let all = cases();
    for case in all.iter().filter(|case| case.level() != Level::Network).take(5) {
        formats::write(&theirs.join(format!("{}.npz", case.name)), &single(case)).unwrap();
    }
    let verdicts = |pack: &PathBuf| {
        let judged = folder::judge(pack, &theirs)?;
        Ok::<_, resnet_by_hand::Error>(
            judged.into_iter().filter_map(|one| Some((one.case, one.found?.1))).collect::<Vec<_>>(),
        )
    };
    let found = verdicts(&pack).unwrap();
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|(_, report)| report.passed()));

    let mut wrong = single(&all[3]);
    wrong.insert("grad_weight", wrong.get("grad_weight").unwrap().to_f64() * 1.001);
    std::fs::remove_file(theirs.join(format!("{}.npz", all[3].name))).unwrap();
    formats::write(&theirs.join(format!("{}.out.safetensors", all[3].name)), &wrong).unwrap();
    let found = verdicts(&pack).unwrap();
    let wrong: Vec<&str> = found.iter().filter(|(_, report)| !report.passed()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(wrong, [all[3].name.as_str()]);

    // A file with the name of no case, a pack that was changed, no pack.
    let message = |pack: &PathBuf| verdicts(pack).unwrap_err().to_string();
    std::fs::copy(theirs.join("conv2d-1x1.npz"), theirs.join("conv2d-1x.npz")).unwrap();
    assert!(message(&pack).contains("did you mean `conv2d-"), "{}", message(&pack));
    std::fs::remove_file(theirs.join("conv2d-1x.npz")).unwrap();
    let file = pack.join("float64/conv2d-1x1.out.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(message(&pack).contains("expected the SHA-256"), "{}", message(&pack));
    assert!(message(&theirs).contains("index.json"), "{}", message(&theirs));
    let refused = folder::write(&pack, |_| {}).unwrap_err().to_string();
    assert!(refused.contains("a new or empty folder"), "{refused}");
}
