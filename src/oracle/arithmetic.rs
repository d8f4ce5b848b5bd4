//! The arithmetic that another implementation computes in, as its user states it.
//!
//! Three number types decide how far a correct result may be off: that of the *operands* of a product, that of the
//! *sums*, and that in which results are *stored*. Products of two 16-bit numbers are exact in `float32`, and that is
//! what matrix units do: they multiply bfloat16, float16 or TF32 numbers and add the products in `float32`.
//!
//! | `--computed-in` | operands | sums | stored |
//! |---|---|---|---|
//! | `f64` | float64 | float64 | float64 |
//! | `f32` | float32 | float32 | float32 |
//! | `tf32` | TF32: 8 bits of exponent, 11 of significand | float32 | float32 |
//! | `bf16` | bfloat16 | float32 | bfloat16 |
//! | `fp16` | float16 | float32 | float16 |
//!
//! `sums=same` adds in the type of the operands (an accelerator without wide accumulators), `stored=f32` keeps results in
//! another type (a matrix unit that returns its accumulators), and `winograd` allows for the rounding of Winograd's
//! algorithm in 3x3 convolutions with stride 1. A file may store numbers of a narrow type in a wide one:
//! a dump in float32 of a network computed in bf16 is judged by `bf16`.
//!
//! Sources: NVIDIA, *A100 Tensor Core GPU Architecture* (2020), for TF32 (operands rounded to 10 explicit bits, sums in
//! float32); Intel, *BFLOAT16 Hardware Numerics Definition* (2018), for bfloat16 products added in float32; Blanchard,
//! Higham, Lopez, Mary & Pranesh 2020, *Mixed precision block fused multiply-add*, for an error analysis of both.

use crate::tensors::{Dtype, Tensor};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A floating-point type; TF32 is one in which nothing is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the usual names")]
pub enum Float {
    F64,
    F32,
    TF32,
    BF16,
    F16,
}

impl Float {
    const ALL: [Float; 5] = [Float::F64, Float::F32, Float::TF32, Float::BF16, Float::F16];

    /// `f64`, `f32`, `tf32`, `bf16`, `fp16`.
    pub fn name(self) -> &'static str {
        match self {
            Float::F64 => "f64",
            Float::F32 => "f32",
            Float::TF32 => "tf32",
            Float::BF16 => "bf16",
            Float::F16 => "fp16",
        }
    }

    /// Bits of the significand, the implicit one included.
    fn digits(self) -> i32 {
        match self {
            Float::F64 => 53,
            Float::F32 => 24,
            Float::TF32 | Float::F16 => 11,
            Float::BF16 => 8,
        }
    }

    /// The smallest exponent of a normal number.
    fn least_exponent(self) -> i32 {
        match self {
            Float::F64 => -1022,
            Float::F32 | Float::TF32 | Float::BF16 => -126,
            Float::F16 => -14,
        }
    }

    /// u, the largest relative error of rounding to nearest.
    pub fn unit_roundoff(self) -> f64 {
        2f64.powi(-self.digits())
    }

    /// The largest finite value.
    pub fn largest(self) -> f64 {
        match self {
            Float::F64 => f64::MAX,
            Float::F32 => f32::MAX.into(),
            Float::TF32 | Float::BF16 => (2.0 - 2.0 * 2.0 * self.unit_roundoff()) * 2f64.powi(127),
            Float::F16 => 65504.0,
        }
    }

    /// The error of a tiny result: at most one step of the subnormal numbers of float16. In wide types fast code flushes
    /// subnormal numbers to zero, so there it is the smallest normal number.
    pub fn underflow(self) -> f64 {
        match self {
            Float::F16 => 2f64.powi(self.least_exponent() - self.digits() + 1),
            _ => 2f64.powi(self.least_exponent()),
        }
    }

    /// Whether `x` is a number of this type.
    pub fn contains(self, x: f64) -> bool {
        if x == 0.0 || !x.is_finite() {
            return true;
        }
        if x.abs() > self.largest() {
            return false;
        }
        if self == Float::F64 {
            return true;
        }
        // The place of the last bit at this size; a power of two, so the quotient is exact.
        let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(self.least_exponent());
        (x * 2f64.powi(self.digits() - 1 - exponent)).fract() == 0.0
    }

    /// `x` rounded to nearest, ties to even, as a number of this type.
    pub fn round(self, x: f64) -> f64 {
        if x == 0.0 || !x.is_finite() || self == Float::F64 {
            return x;
        }
        // The place of the last bit at this size. Scaling by a power of two is exact.
        let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(self.least_exponent());
        let unit = 2f64.powi(exponent - self.digits() + 1);
        let rounded = (x / unit).round_ties_even() * unit;
        if rounded.abs() > self.largest() { f64::INFINITY.copysign(x) } else { rounded }
    }

    /// Whether all of `x` are numbers of this type.
    pub fn contains_all<'a>(self, x: impl IntoIterator<Item = &'a f64>) -> bool {
        self == Float::F64 || x.into_iter().all(|&x| self.contains(x))
    }

    fn of_dtype(dtype: Dtype) -> Option<Float> {
        match dtype {
            Dtype::F64 => Some(Float::F64),
            Dtype::F32 => Some(Float::F32),
            Dtype::BF16 => Some(Float::BF16),
            Dtype::F16 => Some(Float::F16),
            _ => None,
        }
    }
}

/// How something was computed; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arithmetic {
    /// The type of the factors of products.
    pub operands: Float,
    /// The type in which sums are formed.
    pub sums: Float,
    /// The type to which results are rounded.
    pub stored: Float,
    /// Whether 3x3 convolutions with stride 1 may use Winograd's algorithm.
    pub winograd: bool,
}

impl Arithmetic {
    /// Everything in `float64`.
    pub const F64: Arithmetic = Arithmetic::usual(Float::F64);
    /// Everything in `float32`.
    pub const F32: Arithmetic = Arithmetic::usual(Float::F32);
    /// TF32 products, the rest in `float32`.
    pub const TF32: Arithmetic = Arithmetic::usual(Float::TF32);
    /// bfloat16, added in `float32`.
    pub const BF16: Arithmetic = Arithmetic::usual(Float::BF16);
    /// float16, added in `float32`.
    pub const F16: Arithmetic = Arithmetic::usual(Float::F16);
    /// Those that an element type suggests: of these every dump of a layer has tolerances.
    pub const USUAL: [Arithmetic; 4] = [Arithmetic::F64, Arithmetic::F32, Arithmetic::BF16, Arithmetic::F16];

    const fn usual(float: Float) -> Self {
        let (sums, stored) = match float {
            Float::F64 => (Float::F64, Float::F64),
            Float::F32 | Float::TF32 => (Float::F32, Float::F32),
            Float::BF16 | Float::F16 => (Float::F32, float),
        };
        Arithmetic { operands: float, sums, stored, winograd: false }
    }

    /// The arithmetic that tensors of this type suggest; `None` for integers.
    pub fn of_dtype(dtype: Dtype) -> Option<Self> {
        Float::of_dtype(dtype).map(Arithmetic::usual)
    }

    /// That of everything but matrix products: TF32 is a type of their operands alone.
    pub fn elementwise(&self) -> Self {
        match self.operands {
            Float::TF32 => Arithmetic { operands: Float::F32, ..*self },
            _ => *self,
        }
    }

    /// That of one tensor of a layer whose coarsest tensor suggests this arithmetic: a tensor that contains numbers which its
    /// results cannot be was not rounded to their type. In automatic mixed precision the results of a batch norm are stored in
    /// bfloat16, and the gradients of its parameters and its statistics in float32.
    pub fn as_stored(self, tensor: &Tensor) -> Self {
        match Float::of_dtype(tensor.dtype()) {
            Some(own) if own.digits() > self.stored.digits() && !self.stored.contains_all(tensor.to_f64().iter()) => {
                Arithmetic { stored: own, ..self }
            }
            _ => self,
        }
    }

    /// The largest unit roundoff among the three types.
    pub fn coarsest(&self) -> f64 {
        [self.operands, self.sums, self.stored].map(Float::unit_roundoff).into_iter().fold(0.0, f64::max)
    }

    /// Whether the sums may be formed by a matrix unit, whose accumulators may cut bits off instead of rounding.
    pub fn on_matrix_units(&self) -> bool {
        self.operands != self.sums
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Arithmetic::usual(self.operands);
        f.write_str(self.operands.name())?;
        if self.sums != usual.sums {
            write!(f, ",sums={}", if self.sums == self.operands { "same" } else { self.sums.name() })?;
        }
        if self.stored != usual.stored {
            write!(f, ",stored={}", self.stored.name())?;
        }
        if self.winograd {
            f.write_str(",winograd")?;
        }
        Ok(())
    }
}

impl FromStr for Arithmetic {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(',').map(str::trim);
        let mut arithmetic = Arithmetic::usual(float(parts.next().unwrap_or(""))?);
        for part in parts {
            match part.split_once('=') {
                Some(("sums", "same")) => arithmetic.sums = arithmetic.operands,
                Some(("sums", "f32")) => arithmetic.sums = Float::F32,
                Some(("stored", name)) => arithmetic.stored = float(name)?,
                None if part == "winograd" => arithmetic.winograd = true,
                _ => {
                    let message =
                        format!("expected `sums=f32`, `sums=same`, `stored=TYPE` or `winograd`, got `{part}`");
                    return Err(Error::argument("computed-in", message));
                }
            }
        }
        if arithmetic.sums.digits() < arithmetic.operands.digits() {
            let (sums, operands) = (arithmetic.sums.name(), arithmetic.operands.name());
            return Err(Error::argument(
                "computed-in",
                format!("sums in {sums} of products in {operands}: state {sums}"),
            ));
        }
        if arithmetic.stored == Float::TF32 {
            return Err(Error::argument(
                "computed-in",
                "tf32 is a type of operands, not of memory; results are stored=f32",
            ));
        }
        Ok(arithmetic)
    }
}

fn float(name: &str) -> Result<Float> {
    let lower = name.to_ascii_lowercase();
    let found = match lower.as_str() {
        "float64" | "double" => Some(Float::F64),
        "float32" | "float" | "single" => Some(Float::F32),
        "bfloat16" => Some(Float::BF16),
        "float16" | "f16" | "half" => Some(Float::F16),
        name => Float::ALL.into_iter().find(|float| float.name() == name),
    };
    found.ok_or_else(|| {
        let known = Float::ALL.map(Float::name).join(", ");
        let message = if lower.starts_with("int") || lower.contains("fp8") || lower.contains("float8") {
            format!(
                "`{name}` needs scales that belong to each tensor, and no tolerance follows from the type alone: \
                 dequantise to f32 and give --rtol and --atol; known: {known}"
            )
        } else {
            format!("unknown type `{name}`; known: {known}")
        };
        Error::argument("computed-in", message)
    })
}

/// The narrowest type, narrower than float32, to which all of `x` belong, if there are enough of them to tell: a hint that a
/// float32 tensor was computed in it.
pub fn looks_like<'a>(x: impl IntoIterator<Item = &'a f64> + Clone) -> Option<Float> {
    // A random float32 number is one of TF32 with probability 2⁻¹³. Small whole numbers belong to every type and tell nothing.
    let telling = x.clone().into_iter().filter(|x| x.is_finite() && (**x * 256.0).fract() != 0.0).take(64).count();
    if telling < 64 {
        return None;
    }
    [Float::BF16, Float::F16, Float::TF32].into_iter().find(|float| float.contains_all(x.clone()))
}

/// Which arithmetic theirs was computed in, as far as the caller states it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ComputedIn {
    /// For every tensor that no pattern selects; `None`: that of the coarsest element type.
    pub all: Option<Arithmetic>,
    /// For the tensors whose names match a pattern, in which `*` stands for any text. The last that matches counts.
    pub patterns: Vec<(String, Arithmetic)>,
}

impl ComputedIn {
    /// The same arithmetic for everything.
    pub fn all(arithmetic: Arithmetic) -> Self {
        ComputedIn { all: Some(arithmetic), patterns: Vec::new() }
    }

    /// What is stated for the tensor of this name. A pattern may name the tensor, `grad_layer1.*`, or its module,
    /// `layer1.0.conv1`.
    pub fn of(&self, name: &str) -> Option<Arithmetic> {
        let found = self.patterns.iter().rev().find(|(pattern, _)| selects(pattern, name));
        found.map(|(_, arithmetic)| *arithmetic).or(self.all)
    }

    /// The first pattern that selects no tensor of these names: most likely it is misspelt.
    pub fn without_tensor(&self, names: &[&str]) -> Option<&str> {
        let idle = |(pattern, _): &&(String, Arithmetic)| !names.iter().any(|name| selects(pattern, name));
        self.patterns.iter().find(idle).map(|(pattern, _)| pattern.as_str())
    }

    /// Every arithmetic that is stated.
    pub fn stated(&self) -> Vec<Arithmetic> {
        let mut all: Vec<Arithmetic> = self.all.into_iter().collect();
        for (_, arithmetic) in &self.patterns {
            if !all.contains(arithmetic) {
                all.push(*arithmetic);
            }
        }
        all
    }
}

/// Whether a pattern selects the tensor of this name, by its name or that of its module.
fn selects(pattern: &str, name: &str) -> bool {
    let plain =
        ["grad_output.", "grad_input.", "output.", "input.", "grad_"].iter().find_map(|start| name.strip_prefix(start));
    let module = plain.unwrap_or(name);
    let parameter = module.rsplit_once('.').map_or(module, |(module, _)| module);
    [name, module, parameter].iter().any(|name| matches(pattern, name))
}

/// Whether `text` has the form of `pattern`, in which `*` stands for any text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).filter(|&at| text.is_char_boundary(at)).any(|at| matches(rest, &text[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_states_is_read_and_written_back() {
        for text in ["f64", "f32", "tf32", "bf16", "fp16", "bf16,sums=same", "fp16,stored=f32", "f32,winograd"] {
            assert_eq!(text.parse::<Arithmetic>().unwrap().to_string(), text);
        }
        for (text, usual) in
            [("bf16,sums=f32", "bf16"), ("bfloat16", "bf16"), ("Half", "fp16"), ("f32,sums=f32", "f32")]
        {
            assert_eq!(text.parse::<Arithmetic>().unwrap().to_string(), usual);
        }
        for (text, expected) in [
            ("int8", "dequantise"),
            ("fp8", "dequantise"),
            ("f16,stored=int8", "dequantise"),
            ("f128", "unknown type `f128`; known: f64, f32, tf32, bf16, fp16"),
            ("", "unknown type ``"),
            ("bf16,sums=f64", "got `sums=f64`"),
            ("bf16,f32", "got `f32`"),
            ("f64,sums=f32", "sums in f32 of products in f64"),
            ("f32,stored=tf32", "stored=f32"),
        ] {
            let error = text.parse::<Arithmetic>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_of_a_type_are_recognised() {
        for x in [1.0f32, 0.1, -3.7e-20, 1e-40, 3e38, f32::MIN_POSITIVE] {
            let x = f64::from(x);
            assert!(Float::F32.contains(x) && Float::F64.contains(x), "{x}");
            assert!(!Float::F32.contains(x * (1.0 + 2f64.powi(-30))), "{x}");
        }
        // bfloat16 has 8 bits, float16 and TF32 eleven; float16 ends at 65504 and at 2⁻²⁴.
        for (x, types) in [
            (255.0, [true, true, true]),
            (257.0, [false, true, true]),
            (2047.0, [false, true, true]),
            (2049.0, [false, false, false]),
            (65536.0, [true, false, true]),
            (2f64.powi(-24), [true, true, true]),
            (1.5 * 2f64.powi(-24), [true, false, true]),
            (2f64.powi(-133), [true, false, true]),
            (2f64.powi(-134), [false, false, true]),
            (2f64.powi(-150), [false, false, false]),
        ] {
            assert_eq!([Float::BF16, Float::F16, Float::TF32].map(|float| float.contains(x)), types, "{x}");
        }
        let rounded = |bits: u32| -> Vec<f64> {
            let cut = |x: f32| f64::from(f32::from_bits(x.to_bits() >> bits << bits));
            (1..500).map(|i| cut((i as f32 * 0.7).sin())).collect()
        };
        assert_eq!(looks_like(&rounded(16)), Some(Float::BF16));
        assert_eq!(looks_like(&rounded(13)), Some(Float::F16));
        assert_eq!(looks_like(&rounded(0)), None);
        let whole: Vec<f64> = (0..500).map(f64::from).collect();
        assert_eq!(looks_like(&whole), None);
    }

    #[test]
    fn a_pattern_selects_tensors_and_modules() {
        let (bf16, f32) = (Arithmetic::BF16, Arithmetic::F32);
        let stated = ComputedIn { all: Some(bf16), patterns: vec![("bn*".into(), f32), ("*.conv2".into(), f32)] };
        for (name, expected) in [
            ("output.conv1", bf16),
            ("grad_conv1.weight", bf16),
            ("output.bn1", f32),
            ("grad_bn1.weight", f32),
            ("grad_output.layer1.0.conv2", f32),
            ("grad_layer1.0.conv2.weight", f32),
            ("grad_layer1.0.conv21.weight", bf16),
            ("logits", bf16),
            ("input.bn1", f32),
        ] {
            assert_eq!(stated.of(name), Some(expected), "{name}");
        }
        assert_eq!(stated.without_tensor(&["output.bn1", "grad_layer1.0.conv2.weight"]), None);
        assert_eq!(stated.without_tensor(&["output.bn1", "output.conv1"]), Some("*.conv2"));
        assert_eq!(ComputedIn::all(f32).without_tensor(&[]), None);
        assert!(matches("*", "") && matches("a*b*c", "aXbYc") && !matches("a*b", "aXbY") && matches("a**", "ab"));
    }
}
