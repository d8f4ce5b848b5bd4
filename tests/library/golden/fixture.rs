//! Reads the fixtures and repeats the formula of `make_fixtures.py` with bit-identical results.

use ndarray::{Array1, Array2, Array4, ArrayD, IxDyn};
use resnet_by_hand::Scalar;
use resnet_by_hand::layers::{Activation, nchw_to_nhwc};
use resnet_by_hand::rng::name_hash;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;

const SEED: u64 = 20240;

/// One `.safetensors` file of `tests/library/golden`.
pub struct Fixture {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

/// The parameters of one case, `key=value` words.
pub struct Case<'a> {
    fixture: &'a Fixture,
    pub name: String,
    parameters: HashMap<String, String>,
}

impl Fixture {
    pub fn open(name: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/library/golden").join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let metadata: HashMap<String, String> = header.metadata().clone().expect("metadata").into_iter().collect();
        assert_eq!(metadata["seed"], SEED.to_string(), "fixture and test use the same formula");
        println!("{name}: made by torch {}, seed {}", metadata["torch"], metadata["seed"]);
        Fixture { bytes, metadata }
    }

    /// Every case whose name starts with `prefix`, in the order of their names; at least `least`, so that a fixture
    /// with missing cases does not pass.
    pub fn cases(&self, prefix: &str, least: usize) -> Vec<Case<'_>> {
        let names = self.metadata.keys().filter_map(|key| key.strip_prefix("case:"));
        let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        assert!(names.len() >= least, "{} cases of {prefix}, expected at least {least}", names.len());
        names.into_iter().map(|name| self.case(name)).collect()
    }

    pub fn case(&self, name: &str) -> Case<'_> {
        let words = self.metadata[&format!("case:{name}")].split_whitespace();
        let pairs = words.map(|word| word.split_once('=').expect("key=value"));
        let parameters = pairs.map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Case { fixture: self, name: name.to_string(), parameters }
    }

    /// The words of the metadata entry `key`.
    pub fn words(&self, key: &str) -> Vec<&str> {
        self.metadata[key].split_whitespace().collect()
    }

    /// A tensor as `f64`, exact for every type in the files.
    pub fn tensor(&self, name: &str) -> Option<ArrayD<f64>> {
        let file = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let view = file.tensor(name).ok()?;
        let values: Vec<f64> = match view.dtype() {
            Dtype::F64 => view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F32 => {
                view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            Dtype::I64 => {
                view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            }
            other => panic!("{name}: unexpected type {other:?}"),
        };
        Some(ArrayD::from_shape_vec(IxDyn(view.shape()), values).expect("shape of the header"))
    }
}

impl Case<'_> {
    /// The tensor `case/name`, if the case has one.
    pub fn maybe(&self, name: &str) -> Option<ArrayD<f64>> {
        self.fixture.tensor(&format!("{}/{name}", self.name))
    }

    pub fn tensor(&self, name: &str) -> ArrayD<f64> {
        self.maybe(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.name))
    }

    /// An NCHW tensor as activations of type `T`; inputs are exact in `f32`.
    pub fn activation<T: Scalar>(&self, name: &str) -> Activation<T> {
        nhwc(&self.tensor(name))
    }

    pub fn vector<T: Scalar>(&self, name: &str) -> Array1<T> {
        exact(&self.tensor(name)).into_dimensionality().expect("one axis")
    }

    pub fn matrix<T: Scalar>(&self, name: &str) -> Array2<T> {
        exact(&self.tensor(name)).into_dimensionality().expect("two axes")
    }

    pub fn weight4<T: Scalar>(&self, name: &str) -> Array4<T> {
        exact(&self.tensor(name)).into_dimensionality().expect("four axes")
    }

    pub fn targets(&self) -> Vec<usize> {
        self.tensor("targets").iter().map(|&t| t as usize).collect()
    }

    pub fn number(&self, key: &str) -> f64 {
        self.parameters[key].parse().unwrap_or_else(|_| panic!("{}: {key} is not a number", self.name))
    }

    pub fn list(&self, key: &str) -> Vec<usize> {
        self.parameters[key].split(',').map(|v| v.parse().expect("a whole number")).collect()
    }

    pub fn pair(&self, key: &str) -> [usize; 2] {
        self.list(key).try_into().expect("two numbers")
    }

    pub fn flag(&self, key: &str) -> bool {
        self.number(key) != 0.0
    }
}

/// `values` in type `T`, where each must be exact.
pub fn exact<T: Scalar>(values: &ArrayD<f64>) -> ArrayD<T> {
    values.mapv(|v| {
        let t = T::of(v);
        assert!(t.as_f64() == v || v.is_nan(), "{v:e} is not exact in {}", T::NAME);
        t
    })
}

/// NCHW values as activations.
pub fn nhwc<T: Scalar>(values: &ArrayD<f64>) -> Activation<T> {
    nchw_to_nhwc(exact(values).into_dimensionality().expect("four axes").view())
}

/// SplitMix64's output function.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// 64 pseudo-random bits for each index, from the name.
pub fn words(name: &str) -> impl Iterator<Item = u64> + use<> {
    let start = mix(name_hash(name) ^ SEED);
    (0u64..).map(move |i| mix(start.wrapping_add(i)))
}

/// offset + scale · v, v uniform on the 2¹⁶ multiples of 2⁻¹⁵ in [−1, 1).
pub fn numbers(name: &str, shape: &[usize], scale: f64, offset: f64) -> ArrayD<f64> {
    let count = shape.iter().product();
    let v = words(name).map(|word| offset + scale * ((word >> 48) as f64 / 32768.0 - 1.0));
    ArrayD::from_shape_vec(IxDyn(shape), v.take(count).collect()).expect("one value per index")
}

/// The value of one tensor of a state dict, as `parameter` in `make_fixtures.py`.
pub fn parameter(prefix: &str, name: &str, shape: &[usize]) -> ArrayD<f64> {
    let full = format!("{prefix}/{name}");
    if name.ends_with("running_var") {
        numbers(&full, shape, 0.5, 1.0)
    } else if name.ends_with("running_mean") || name.ends_with("bias") {
        numbers(&full, shape, 0.25, 0.0)
    } else if shape.len() == 1 {
        numbers(&full, shape, 0.5, 1.0)
    } else {
        let fan_in: usize = shape[1..].iter().product();
        let e = (0..).find(|&e| fan_in <= 8 * 4usize.pow(e)).expect("fan_in is finite");
        numbers(&full, shape, 0.5f64.powi(e as i32), 0.0)
    }
}

/// The formula itself, against values printed by the script: without this test a slip on one side would make every other
/// test fail at once.
#[test]
fn the_formula_gives_the_numbers_of_the_script() {
    assert_eq!(numbers("formula", &[3], 1.0, 0.0).as_slice().unwrap(), FORMULA);
    assert_eq!(parameter("resnet20", "layer1.0.conv1.weight", &[16, 16, 3, 3])[[1, 2, 0, 1]], FORMULA_WEIGHT);
}
const FORMULA: &[f64] = &[0.47784423828125, 0.93896484375, 0.016754150390625];
const FORMULA_WEIGHT: f64 = 0.0100860595703125;
