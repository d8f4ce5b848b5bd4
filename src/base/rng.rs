//! Random numbers that depend on their *purpose*, never on *when* they are drawn.
//!
//! A generator is derived from the run's seed and a path of whole numbers: the crop of image 17 in epoch 3 comes from
//! `stream(seed, Purpose::Augment, &[3, 17])`. So neither the order of the batches nor the number of threads changes
//! the numbers an image gets, and a resumed run needs no stored generator state.
//!
//! A seed must give the same weights, batches and mixes in every version of this crate, independently of the versions
//! of other crates, because published results depend on it. So the generator and all distributions are implemented here
//! and in `draws`, a dozen lines each. [`rand`] provides the traits: [`Rng`] is one of its generators, so checks, tests
//! and users can draw from a stream whatever `rand` can draw.

mod draws;
mod ziggurat;

pub(crate) use draws::{Uniform, beta, normal};

/// The generator of every random number in the crate: xoshiro256++ (Blackman & Vigna 2021, *Scrambled linear
/// pseudorandom number generators*, ACM Transactions on Mathematical Software 47(4)).
///
/// ```text
/// result = rotl(s₀ + s₃, 23) + s₀
///
/// s₀ ← s₀ ⊕ s₁ ⊕ s₃     s₁ ← s₀ ⊕ s₁ ⊕ s₂     s₂ ← s₀ ⊕ s₂ ⊕ (s₁ << 17)     s₃ ← rotl(s₁ ⊕ s₃, 45)
/// ```
///
/// Its period is 2²⁵⁶ − 1; [`stream`] never begins with the state 0, which would stay 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The state is four outputs of the generator SplitMix64, as its authors recommend.
    fn new(seed: u64) -> Self {
        Rng { state: [0, 1, 2, 3].map(|i: u64| mix(seed.wrapping_add(i.wrapping_mul(GOLDEN_RATIO)))) }
    }

    /// 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        self.state = [s0 ^ s1 ^ s3, s0 ^ s1 ^ s2, s0 ^ s2 ^ (s1 << 17), (s1 ^ s3).rotate_left(45)];
        s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0)
    }
}

/// A generator of `rand`, with the same outputs as its `Xoshiro256PlusPlus`.
impl rand::TryRng for Rng {
    type Error = std::convert::Infallible;

    /// The upper half: the lowest bits are the weakest.
    #[inline]
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok((self.next_u64() >> 32) as u32)
    }

    #[inline]
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for bytes in bytes.chunks_mut(8) {
            bytes.copy_from_slice(&self.next_u64().to_le_bytes()[..bytes.len()]);
        }
        Ok(())
    }
}

/// First element of a stream's path: what the numbers are used for. Different purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial parameters; the path continues with the hash of the parameter's name.
    Initialise = 1,
    /// The order of the images in an epoch; the path continues with the epoch.
    Shuffle = 2,
    /// Crop and flip of one image; the path continues with the epoch and the image's index.
    Augment = 3,
    /// Which training images are held out for validation.
    Validation = 4,
    /// Directions and points in the gradient checks.
    Verify = 5,
    /// Which images of a batch are mixed, and how much; the path continues with the epoch and the first image's index.
    Mixup = 6,
}

/// The generator for `purpose` at `path`, derived from `seed`.
///
/// ```
/// use resnet_by_hand::rng::{stream, Purpose};
/// let draw = |path: &[u64]| stream(1, Purpose::Augment, path).next_u64();
/// assert_eq!(draw(&[3, 17]), draw(&[3, 17]));
/// assert_ne!(draw(&[3, 17]), draw(&[17, 3]));
/// ```
pub fn stream(seed: u64, purpose: Purpose, path: &[u64]) -> Rng {
    let mut state = mix(seed ^ mix(purpose as u64));
    for &step in path {
        state = mix(state ^ mix(step));
    }
    Rng::new(state)
}

/// 2⁶⁴ divided by the golden ratio: the increment of the state of SplitMix64.
const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output of SplitMix64 (Steele, Lea & Flood 2014) for the state `value`: a bijection of the 64-bit numbers without
/// visible pattern.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(GOLDEN_RATIO);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a hash of a name, for use as an element of a stream's path.
pub fn name_hash(name: &str) -> u64 {
    fnv1a(FNV_OFFSET, name.as_bytes())
}

/// The hash of the empty string.
pub(crate) const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;

/// `hash` continued over `bytes` (Fowler, Noll & Vo, 64 bits).
pub(crate) fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_equal_the_published_vectors() {
        assert_eq!(name_hash(""), 0xcbf29ce484222325);
        assert_eq!(name_hash("foobar"), 0x85944171f73967e8);
        // First output of the reference splitmix64.c seeded with 0.
        assert_eq!(mix(0), 0xe220a8397b1dcdaf);
    }

    /// A seed gives these numbers, independently of the versions of other crates.
    #[test]
    fn seed_1_means_these_numbers() {
        let mut rng = stream(1, Purpose::Initialise, &[2, 3]);
        let numbers = [(); 4].map(|()| rng.next_u64());
        assert_eq!(numbers, [0xca4e9972a189a1aa, 0xf307cd6bcf68ca, 0xc082d6ae725889e0, 0x19e8a995f190e567]);
    }

    /// The first outputs of the authors' xoshiro256plusplus.c from the state 1, 2, 3, 4.
    #[test]
    fn the_generator_equals_the_published_one() {
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let expected =
            [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205, 9973669472204895162];
        assert_eq!(expected.map(|_| rng.next_u64()), expected);
    }

    /// Through every method that `rand` draws with.
    #[test]
    fn the_generator_equals_that_of_rand() {
        use rand::{Rng as _, SeedableRng as _};
        for seed in [0, 1, u64::MAX, GOLDEN_RATIO.wrapping_neg()] {
            let (mut rng, mut other) = (Rng::new(seed), rand::rngs::Xoshiro256PlusPlus::seed_from_u64(seed));
            for len in 0..20 {
                assert_eq!(rng.next_u64(), other.next_u64());
                assert_eq!(rng.next_u32(), other.next_u32());
                let (mut bytes, mut others) = (vec![0; len], vec![0; len]);
                rng.fill_bytes(&mut bytes);
                other.fill_bytes(&mut others);
                assert_eq!(bytes, others);
            }
        }
    }
}
