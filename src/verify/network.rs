//! Whole networks: the gradient of every tensor against differences, with the kinks fixed.
//!
//! A network of ReLUs is full of kinks. A step of 10⁻⁵ in one weight of an early layer changes every value after it, and
//! some of them pass 0: the difference then measures a mean of two slopes, off by 10⁻⁵ where ten digits are expected.
//! Loosening the tolerance would let real mistakes through. Instead the choices of every ReLU and max pool are recorded at
//! the base point and replayed at every other ([`crate::program::kinks`]): the function so obtained is smooth, agrees with the
//! network in a neighbourhood of the base point, therefore has the same gradient there, and its differences are accurate
//! ("kink-locked"). Each probe is also measured without the lock, to show what it is for.
//!
//! What is checked is [`ResNet::backward`]. What is differentiated is the network as a [`Program`], whose passes can be
//! observed; its logits at the base point are bit-identical to those of [`ResNet::forward`], and that is asserted.
//!
//! # What is probed
//!
//! A full sweep costs forward passes in proportion to the number of parameters. Instead, for every trained tensor and the
//! input: a seeded sample of single entries, and one direction v with random signs over *all* entries. ⟨g, v⟩ is wrong
//! unless every entry of g is right, up to the chance that mistakes cancel; the sampled entries show where to look. Both
//! are reported at the scale of one entry: a direction is divided by its length √n, so that ⟨g, v⟩/√n is about as large as a
//! typical entry.
//!
//! The point: the initial weights of the given seed, but γ in (1/2, 3/2) and β in (−1/2, 1/2) rather than 1 and 0 (at the
//! usual start γ = 1, β = 0 some mistakes cancel), running statistics random too; images uniform in (−2, 2). All values are
//! rounded to multiples of 2⁻²², so that every step, a power of two, is exact.
//!
//! # The error model
//!
//! That of [`super::finite_difference`]. Rounding errors of successive layers are taken as independent, so their squares
//! add: K = Σ over tensors of the fan-in of a weight and of the values per channel of a batch norm. h is 2⁻⁸ of the root
//! mean square of the tensor's entries.

use super::compare::exceeds;
use super::finite_difference::{Step, derivative, power_of_two_below};
use super::layers::Draw;
use crate::layers::Mode;
use crate::model::{Architecture, ResNet};
use crate::parameters::{Parameters, Role};
use crate::program::{Choice, Disturb, Program, Record, Replay, Value};
use crate::rng::{Purpose, name_hash, stream};
use crate::{Activation, Result};
use ndarray::{Array2, Array4};
use rand::RngExt as _;
use rayon::prelude::*;
use std::fmt;

/// The step of the extrapolated differences, relative to the size of the entries.
const RELATIVE_STEP: f64 = 1.0 / 256.0;
/// The step of the plain differences: ∛ε, the best one for a function without kinks.
const PLAIN_STEP: f64 = 1.0 / 131072.0;

/// What to check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetworkCheck {
    /// Images in the batch.
    pub batch: usize,
    /// `[height, width]` of the images. Small ones are enough, if every layer has something to do.
    pub image: [usize; 2],
    /// Batch statistics or running ones.
    pub mode: Mode,
    /// Seed of the weights, images, dy, sample and directions.
    pub seed: u64,
    /// Single entries per tensor, besides the one direction.
    pub entries: usize,
}

impl Default for NetworkCheck {
    /// Three images of 12x16 in training mode, two entries and a direction per tensor.
    fn default() -> Self {
        NetworkCheck { batch: 3, image: [12, 16], mode: Mode::Train, seed: 1, entries: 2 }
    }
}

/// How the gradient of one tensor of a network compares with finite differences.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkTensorReport {
    /// Name of the tensor in the state dict, or `input`.
    pub tensor: String,
    /// Number of its entries.
    pub len: usize,
    /// Number of derivatives measured, the direction included.
    pub probes: usize,
    /// Largest |entry| of the gradient.
    pub gradient: f64,
    /// Largest |analytic − measured| with the choices fixed; NaN if any is.
    pub locked_absolute: f64,
    /// The largest error the model admits for these.
    pub tolerance: f64,
    /// Largest |analytic − measured| of plain differences.
    pub plain_absolute: f64,
    /// Choices that flipped between the base point and the ends of the plain steps, all probes together.
    pub kinks_crossed: usize,
}

impl NetworkTensorReport {
    /// The kink-locked error relative to the largest entry of the gradient.
    pub fn locked_relative(&self) -> f64 {
        relative(self.locked_absolute, self.gradient)
    }

    /// The plain error relative to the largest entry of the gradient.
    pub fn plain_relative(&self) -> f64 {
        relative(self.plain_absolute, self.gradient)
    }

    /// Whether the kink-locked error is within the tolerance.
    pub fn passed(&self) -> bool {
        !exceeds(self.locked_absolute, self.tolerance)
    }
}

fn relative(error: f64, scale: f64) -> f64 {
    if scale > 0.0 { error / scale } else { error }
}

impl fmt::Display for NetworkTensorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<32} {:>7} {:>6} ", self.tensor, self.len, self.probes)?;
        write!(f, "{:>9.1e} {:>10.1e} {:>10.1e} ", self.gradient, self.locked_absolute, self.tolerance)?;
        write!(f, "{:>10.1e} {:>10.1e} {:>6}", self.locked_relative(), self.plain_relative(), self.kinks_crossed)?;
        f.write_str(if self.passed() { "  ok" } else { "  WRONG" })
    }
}

/// The reports of every tensor of a network; displays as a table.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkReport {
    /// Name of the architecture.
    pub network: String,
    /// What was checked.
    pub check: NetworkCheck,
    /// The input, then every trained tensor in the order of [`Parameters::visit`].
    pub tensors: Vec<NetworkTensorReport>,
}

impl NetworkReport {
    /// Whether every tensor passed.
    pub fn passed(&self) -> bool {
        !self.tensors.is_empty() && self.tensors.iter().all(NetworkTensorReport::passed)
    }

    /// The largest kink-locked error relative to its gradient; NaN if any is.
    pub fn worst_relative(&self) -> f64 {
        let worse = |worst: f64, error: f64| if exceeds(error, worst) && !worst.is_nan() { error } else { worst };
        self.tensors.iter().map(NetworkTensorReport::locked_relative).fold(0.0, worse)
    }

    /// Choices flipped by plain differences, all tensors together.
    pub fn kinks_crossed(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.kinks_crossed).sum()
    }
}

impl fmt::Display for NetworkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NetworkCheck { batch, image, mode, seed, .. } = self.check;
        writeln!(f, "{}: {batch} images of {}x{}, {mode:?}, seed {seed}", self.network, image[0], image[1])?;
        writeln!(
            f,
            "{:<32} {:>7} {:>6} {:>9} {:>10} {:>10} {:>10} {:>10} {:>6}",
            "tensor", "entries", "probes", "gradient", "error", "tolerance", "relative", "plain", "kinks"
        )?;
        self.tensors.iter().try_for_each(|tensor| writeln!(f, "{tensor}"))?;
        let verdict = if self.passed() { "ok" } else { "WRONG" };
        write!(
            f,
            "worst relative error {:.1e}, kinks crossed by plain differences {}: {verdict}",
            self.worst_relative(),
            self.kinks_crossed()
        )
    }
}

/// Checks the gradient of every trained tensor of the network and of its input, in `f64`.
///
/// ```
/// use resnet_by_hand::model::Architecture;
/// use resnet_by_hand::verify::{check_network, NetworkCheck};
/// let check = NetworkCheck { image: [8, 8], entries: 1, ..NetworkCheck::default() };
/// let report = check_network(&Architecture::by_name("resnet8")?, &check)?;
/// assert!(report.passed(), "{report}");
/// assert!(report.worst_relative() < 1e-9, "{report}");
/// # Ok::<(), resnet_by_hand::Error>(())
/// ```
///
/// # Errors
/// If the architecture cannot be built, or the images are too small for it.
pub fn check_network(architecture: &Architecture, check: &NetworkCheck) -> Result<NetworkReport> {
    let point = Point::new(architecture, check)?;
    let probes: Vec<Probe> = point.tensors.iter().enumerate().flat_map(|(i, tensor)| tensor.probes(i, check)).collect();
    // In parallel, but collected in order: the report is the same for every number of threads.
    let measured: Vec<Measured> = probes.par_iter().map(|probe| point.measure(probe)).collect::<Result<_>>()?;
    let reports = point.tensors.iter().enumerate().map(|(i, tensor)| {
        let mut report = NetworkTensorReport {
            tensor: tensor.name.clone(),
            len: tensor.value.len(),
            probes: 0,
            gradient: tensor.scale(),
            locked_absolute: 0.0,
            tolerance: 0.0,
            plain_absolute: 0.0,
            kinks_crossed: 0,
        };
        for (_, measured) in probes.iter().zip(&measured).filter(|(probe, _)| probe.tensor == i) {
            report.probes += 1;
            report.kinks_crossed += measured.kinks_crossed;
            // Largest of each; a NaN is larger than anything and stays.
            for (worst, value) in [
                (&mut report.locked_absolute, measured.locked_error),
                (&mut report.tolerance, measured.tolerance),
                (&mut report.plain_absolute, measured.plain_error),
            ] {
                if exceeds(value, *worst) && !worst.is_nan() {
                    *worst = value;
                }
            }
        }
        report
    });
    Ok(NetworkReport { network: architecture.name.clone(), check: *check, tensors: reports.collect() })
}

/// A tensor at the base point with its analytic gradient, both flat.
struct Tensor {
    name: String,
    value: Vec<f64>,
    gradient: Vec<f64>,
}

impl Tensor {
    fn scale(&self) -> f64 {
        self.gradient.iter().fold(0.0, |scale, g| scale.max(g.abs()))
    }

    /// The sampled entries (all of a small tensor), then the direction.
    fn probes(&self, index: usize, check: &NetworkCheck) -> Vec<Probe> {
        let mut rng = stream(check.seed, Purpose::Verify, &[1, name_hash(&self.name)]);
        let len = self.value.len();
        let mut entries: Vec<usize> = if len <= check.entries {
            (0..len).collect()
        } else {
            (0..check.entries).map(|_| rng.random_range(0..len)).collect()
        };
        entries.sort_unstable();
        entries.dedup();
        let signs = (0..len).map(|_| if rng.random_range(0..2) == 0 { -1.0 } else { 1.0 }).collect();
        let mean_square = self.value.iter().map(|v| v * v).sum::<f64>() / len.max(1) as f64;
        let size = power_of_two_below(mean_square.sqrt());
        let along = |along| Probe { tensor: index, along, size };
        entries.into_iter().map(|entry| along(Along::Entry(entry))).chain([along(Along::Signs(signs))]).collect()
    }
}

/// One derivative to measure.
struct Probe {
    /// Which of the point's tensors moves.
    tensor: usize,
    along: Along,
    /// The size of its entries, a power of two.
    size: f64,
}

enum Along {
    Entry(usize),
    /// ±1 for every entry.
    Signs(Vec<f64>),
}

impl Along {
    /// tensor += t · v
    fn step<'a>(&self, t: f64, mut tensor: impl Iterator<Item = &'a mut f64>) {
        match self {
            Along::Entry(entry) => *tensor.nth(*entry).expect("an entry of the tensor") += t,
            Along::Signs(signs) => tensor.zip(signs).for_each(|(value, sign)| *value += t * sign),
        }
    }

    /// ⟨gradient, v⟩
    fn of(&self, gradient: &[f64]) -> f64 {
        match self {
            Along::Entry(entry) => gradient[*entry],
            Along::Signs(signs) => gradient.iter().zip(signs).map(|(g, sign)| g * sign).sum(),
        }
    }

    /// |v|
    fn length(&self) -> f64 {
        match self {
            Along::Entry(_) => 1.0,
            Along::Signs(signs) => (signs.len() as f64).sqrt(),
        }
    }
}

/// Errors of one probe, per unit length of its direction.
struct Measured {
    locked_error: f64,
    tolerance: f64,
    plain_error: f64,
    kinks_crossed: usize,
}

/// The base point: the network as a program, images, dy, the choices made there, and the analytic gradients.
struct Point {
    program: Program<f64>,
    images: Activation<f64>,
    dy: Array2<f64>,
    mode: Mode,
    choices: Vec<Choice>,
    /// The input first.
    tensors: Vec<Tensor>,
    /// K of the error model.
    terms: usize,
}

impl Point {
    fn new(architecture: &Architecture, check: &NetworkCheck) -> Result<Self> {
        let mut draw = Draw(stream(check.seed, Purpose::Verify, &[0, name_hash(&architecture.name)]));
        let [h, w] = check.image;
        let mut model = ResNet::<f64>::new(architecture, check.seed)?;
        let (mut terms, values_per_channel) = (0, check.batch * h * w);
        model.visit_mut("", &mut |name, role, mut tensor| {
            let random = draw.real(tensor.raw_dim()) / 4.0;
            match role {
                Role::Weight => tensor.mapv_inplace(|v| (v * 2f64.powi(20)).round() * 2f64.powi(-20)),
                Role::Gamma => tensor.assign(&(random + 1.0)),
                Role::Statistic if name.ends_with("running_var") => tensor.assign(&(random + 1.0)),
                Role::Bias | Role::Beta | Role::Statistic => tensor.assign(&random),
            }
            terms += match role {
                Role::Weight => tensor.len() / tensor.shape()[0].max(1),
                Role::Gamma => values_per_channel,
                _ => 0,
            };
        });
        let images: Array4<f64> = draw.real((check.batch, h, w, 3));
        let images = images.into_shared();
        let (logits, cache) = model.forward(&images, check.mode)?;
        let (program, mut record) = (Program::of_network(&model), Record::default());
        let own = forward(&program, &images, check.mode, &mut record)?;
        assert!(own.iter().eq(&logits), "the program's logits are bit-identical to its network's");
        let dy = draw.real(logits.dim());
        let (dx, gradients) = model.backward(&dy, cache)?;
        let flat = |values: ndarray::ArrayViewD<f64>| values.iter().copied().collect::<Vec<f64>>();
        assert_eq!(dx.shape(), images.shape(), "dx has the shape of x");
        let mut tensors = vec![Tensor {
            name: "input".to_string(),
            value: flat(images.view().into_dyn()),
            gradient: flat(dx.view().into_dyn()),
        }];
        model.visit("", &mut |name, role, tensor| {
            if role.is_trained() {
                let gradient = gradients.get(name).expect("every trained tensor has a gradient");
                assert_eq!(gradient.shape(), tensor.shape(), "the gradient of {name} has its shape");
                tensors.push(Tensor { name: name.to_string(), value: flat(tensor), gradient: flat(gradient.view()) });
            }
        });
        Ok(Point { program, images, dy, mode: check.mode, choices: record.choices, tensors, terms })
    }

    /// The logits with one tensor moved by t · v.
    fn logits(&self, probe: &Probe, t: f64, disturb: &mut dyn Disturb<f64>) -> Result<Vec<f64>> {
        let moving = &self.tensors[probe.tensor].name;
        if probe.tensor == 0 {
            let mut images = self.images.to_owned();
            probe.along.step(t, images.iter_mut());
            forward(&self.program, &images.into_shared(), self.mode, disturb)
        } else {
            let mut program = self.program.clone();
            program.visit_mut("", &mut |name, _, mut tensor| {
                if name == moving {
                    probe.along.step(t, tensor.iter_mut());
                }
            });
            forward(&program, &self.images, self.mode, disturb)
        }
    }

    fn measure(&self, probe: &Probe) -> Result<Measured> {
        let tensor = &self.tensors[probe.tensor];
        let (analytic, length) = (probe.along.of(&tensor.gradient), probe.along.length());
        let dy: Vec<f64> = self.dy.iter().copied().collect();

        let replay = Replay::new(&self.program, &self.choices);
        let locked = |t: f64| self.logits(probe, t, &mut replay.clone());
        let step = Step::Smooth { h: probe.size * RELATIVE_STEP, terms: self.terms };
        let locked = derivative(&dy, &locked, step)?;

        let kinks = std::cell::Cell::new(0);
        let plain = |t: f64| {
            let mut record = Record::default();
            let logits = self.logits(probe, t, &mut record)?;
            let flipped: usize =
                self.choices.iter().zip(&record.choices).map(|(base, here)| base.differences(here)).sum();
            kinks.set(kinks.get() + flipped);
            Ok(logits)
        };
        let plain = derivative(&dy, &plain, Step::Exact { h: probe.size * PLAIN_STEP })?;
        Ok(Measured {
            locked_error: (analytic - locked.value).abs() / length,
            tolerance: locked.tolerance(tensor.scale() * length) / length,
            plain_error: (analytic - plain.value).abs() / length,
            kinks_crossed: kinks.get(),
        })
    }
}

/// The logits of a program, one image after the other.
fn forward(
    program: &Program<f64>,
    x: &Activation<f64>,
    mode: Mode,
    disturb: &mut dyn Disturb<f64>,
) -> Result<Vec<f64>> {
    match program.forward(Value::Images(x.clone()), mode, disturb)?.values.pop() {
        Some(Value::Rows(logits)) => Ok(logits.into_iter().collect()),
        other => panic!("a network ends in logits, not in {other:?}"),
    }
}
