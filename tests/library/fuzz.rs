//! The random cases of `resnet oracle fuzz`: the reference in `f32` is right in all of them, a mistake is found and shrunk,
//! and a case is its text.

use resnet_by_hand::oracle::fuzz::{Answer, Case, Finding, Fuzzed, Range, USUAL, Values, fuzz};
use resnet_by_hand::oracle::{Arithmetic, ComputedIn, Expected, Settings, layer};
use resnet_by_hand::tensors::Tensors;
use resnet_by_hand::{Error, Result};

fn range(kind: &str, values: &[Values]) -> Range {
    Range::new(kind, &Settings::default(), values).unwrap()
}

fn tried(
    range: &Range,
    seeds: u64,
    arithmetic: Arithmetic,
    mut implementation: impl FnMut(&Case, &Tensors) -> Result<Tensors>,
) -> Fuzzed {
    let cases = (0..seeds).map(|seed| Case::draw(range, seed));
    let mut answer = |case: &Case, inputs: &Tensors| {
        Ok(implementation(case, inputs).map_or_else(|error| Answer::Failed(error.to_string()), Answer::Results))
    };
    fuzz(cases, &ComputedIn::all(arithmetic), &Expected::default(), &mut answer, &mut || {}).unwrap()
}

/// The fixed-seed sample of the matrix in `docs/oracle.md` that needs no other program: the reference in `f32`, which adds
/// term by term.
#[test]
fn the_reference_in_f32_fits_every_kind() {
    for kind in layer::KINDS {
        let found = tried(&range(kind, &USUAL), 25, Arithmetic::F32, |case, inputs| {
            layer::run::<f32>(case.kind, &case.settings(), inputs, &[])
        });
        assert!(found.passed() && found.right == 25, "{kind}: {:?}", found.first.map(|failure| failure.smallest));
        println!("{kind}: {:.2}", found.share);
    }
}

#[test]
fn values_at_the_ends_of_the_type_fit_too() {
    for kind in ["conv2d", "max_pool", "linear", "relu"] {
        let ends = [Values::Denormal, Values::NonFinite];
        let found = tried(&range(kind, &ends), 20, Arithmetic::F32, |case, inputs| {
            layer::run::<f32>(case.kind, &case.settings(), inputs, &[])
        });
        assert!(found.passed(), "{kind}: {:?}", found.first);
    }
}

/// Equal terms are all rounded in the same direction: a sum of thousands of them, formed one by one, loses far more digits than
/// one of random terms.
#[test]
fn a_constant_image_may_be_added_pixel_by_pixel() {
    for side in [8, 32, 112] {
        let mut input = Tensors::new();
        input.insert("input", ndarray::Array4::from_elem((1, 1, side, side), 0.1f32));
        let ours = layer::run::<f64>("global_avg_pool", &Settings::default(), &input, &[Arithmetic::F32]).unwrap();
        let pixels = side * side;
        let mean = |sum: f32| ndarray::array![[sum / pixels as f32]];
        let mut theirs = Tensors::new();
        theirs.insert("output", mean((0..pixels).fold(0.0f32, |sum, _| sum + 0.1)));
        let report = resnet_by_hand::oracle::compare(&ours, &theirs, None).unwrap();
        assert!(report.passed() && report.tensors[0].share() < 0.5, "{side}: {}", report.tensors[0].share());
        // One pixel too few is found, even among 12,544.
        theirs.insert("output", mean(0.1 * (pixels - 1) as f32));
        assert!(side > 32 || !resnet_by_hand::oracle::compare(&ours, &theirs, None).unwrap().passed(), "{side}");
    }
}

/// A pool that reads one pixel beyond each window, as a loop with `<=` would: only where there is one.
#[test]
fn a_mistake_is_shrunk_to_where_it_shows() {
    let wrong = |case: &Case, inputs: &Tensors| -> Result<Tensors> {
        let settings: Settings = case
            .settings()
            .iter()
            .map(|(name, value)| (name.to_string(), if name == "stride" { "1".to_string() } else { value.to_string() }))
            .collect();
        layer::run::<f32>(case.kind, &settings, inputs, &[])
    };
    let found = tried(&range("max_pool", &USUAL), 30, Arithmetic::F32, wrong);
    let first = found.first.unwrap();
    assert!(found.wrong.len() > 5 && found.right > 0, "{} wrong", found.wrong.len());
    let smallest = first.smallest.to_string();
    assert!(matches!(first.found, Finding::Failed(_) | Finding::Judged(_)), "{smallest}");
    // One row or column more than the stride skips, and nothing else.
    assert!(
        smallest.contains("n=1,c=1,") && smallest.contains("kernel_size=1x1") && smallest.contains("padding=0x0"),
        "{smallest}"
    );
    assert!(smallest.contains("h=2,w=1") || smallest.contains("h=1,w=2"), "{smallest}");
}

/// A case that is sent to somebody else today must be the same case in the next version.
#[test]
fn a_case_is_its_text() {
    let range = range("conv2d", &USUAL);
    for seed in 0..20 {
        let case = Case::draw(&range, seed).unwrap();
        let again = range.case(&case.to_string()).unwrap();
        assert_eq!(case, again);
        assert_eq!(case.inputs().unwrap(), again.inputs().unwrap());
    }
    let text = "seed=1,values=normal,n=3,groups=1,c_in=6,c_out=3,h=7,w=11,kernel=3x3,stride=2x2,padding=3x1,dilation=1x1,bias=true";
    assert_eq!(Case::draw(&range, 1).unwrap().to_string(), text);
    let first = range.case(text).unwrap().inputs().unwrap().get("input").unwrap().to_f64()[[0, 0, 0, 0]];
    assert!((first - FIRST).abs() < 1e-15, "{first:?}");
    let fixed = Range::new("conv2d", &"stride=2,n=1".parse().unwrap(), &USUAL).unwrap();
    for seed in 0..20 {
        let text = Case::draw(&fixed, seed).unwrap().to_string();
        assert!(text.contains(",n=1,") && text.contains(",stride=2x2,"), "{text}");
    }
    assert!(matches!(Range::new("conv3d", &Settings::default(), &USUAL), Err(Error::Unknown { .. })));
}

/// The first element of the input of seed 1.
const FIRST: f64 = 0.205438313772889;
