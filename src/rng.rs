//! Random numbers that depend on *what* they are for, never on *when* they are drawn.
//!
//! A generator is derived from the run's seed and a path of whole numbers: the crop of image 17 in epoch 3 comes from
//! `stream(seed, Purpose::Augment, &[3, 17])`. So neither the order of the batches nor the number of threads changes what an
//! image gets, and a resumed run needs no stored generator state.

use rand::rngs::Xoshiro256PlusPlus;
use rand::SeedableRng;

/// The generator behind every random number of the crate (Blackman & Vigna, xoshiro256++), named so that a seed means
/// the same numbers in every future version.
pub type Rng = Xoshiro256PlusPlus;

/// First element of a stream's path: what the numbers are used for. Distinct purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial parameters; the path goes on with the hash of the parameter's name.
    Initialise = 1,
    /// The order of the images in an epoch; the path goes on with the epoch.
    Shuffle = 2,
    /// Crop and flip of one image; the path goes on with the epoch and the image's index.
    Augment = 3,
    /// Which training images are held out for validation.
    Validation = 4,
    /// Directions and points in the gradient checks.
    Verify = 5,
    /// Which images of a batch are mixed, and how much; the path goes on with the epoch and the first image's index.
    Mixup = 6,
}

/// The generator for `purpose` at `path`, derived from `seed`.
///
/// ```
/// use rand::Rng as _;
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
    Rng::seed_from_u64(state)
}

/// SplitMix64's output function (Steele, Lea & Flood 2014): a bijection of the 64-bit numbers without visible pattern.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a hash of a name, to use it as a step of a stream's path.
pub fn name_hash(name: &str) -> u64 {
    fnv1a(FNV_OFFSET, name.as_bytes())
}

/// The hash of no bytes.
pub(crate) const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;

/// `hash` carried on over `bytes` (Fowler, Noll & Vo, 64 bits).
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

    /// A seed means these numbers, whatever version of whatever crate is compiled in.
    #[test]
    fn seed_1_means_these_numbers() {
        use rand::Rng as _;
        let mut rng = stream(1, Purpose::Initialise, &[2, 3]);
        let numbers = [(); 4].map(|()| rng.next_u64());
        assert_eq!(numbers, [0xca4e9972a189a1aa, 0xf307cd6bcf68ca, 0xc082d6ae725889e0, 0x19e8a995f190e567]);
    }
}
