//! From bytes to floats around zero.
//!
//! ```text
//! x = (p/255 − mean_c) / std_c        p = 0..255, channel c = red, green, blue
//! ```
//!
//! computed in exactly this order in the target type: p/255 rounded, minus mean_c (itself rounded to the type), rounded,
//! divided by std_c (rounded to the type), rounded. That is the order of torchvision's `ToTensor` and `Normalize`, so
//! in `f32` the values are bit-identical to theirs. There are only 3·256 of them: [`NormalizationTable`].

use crate::{Activation, Error, Result, Scalar};
use ndarray::{Array, ArrayView4};

/// Mean and standard deviation of the three colour channels, on the scale 0 to 1.
///
/// ```
/// use resnet_by_hand::data::Normalization;
/// let half = Normalization::new([0.5; 3], [0.25; 3])?;
/// // (255/255 − 0.5) / 0.25 = 2 and (0/255 − 0.5) / 0.25 = −2.
/// assert_eq!(half.table::<f32>().value(0, 255), 2.0);
/// assert_eq!(half.table::<f64>().value(2, 0), -2.0);
/// assert!(Normalization::new([0.5; 3], [0.25, 0.0, 0.25]).is_err());
/// # Ok::<(), resnet_by_hand::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    mean: [f64; 3],
    std: [f64; 3],
}

impl Normalization {
    /// The statistics of CIFAR-10's 50,000 training images, as many programs print them. Exact sums
    /// ([`Dataset::channel_statistics`](super::Dataset::channel_statistics)) agree to six digits: mean 0.49139968,
    /// 0.48215841, 0.44653091, std 0.24703223, 0.24348513, 0.26158784; the rest is rounding by those who computed them.
    pub const CIFAR10: Normalization =
        Normalization { mean: [0.49139968, 0.48215827, 0.44653124], std: [0.24703233, 0.24348505, 0.26158768] };

    /// The values of many public recipes for CIFAR-10. The deviations are not those of the training set: they are the mean
    /// over the images of each image's own deviation (the unbiased one, 1/(1024−1)), 18 to 23 % smaller.
    pub const CIFAR10_IMAGE_STD: Normalization =
        Normalization { mean: [0.4914, 0.4822, 0.4465], std: [0.2023, 0.1994, 0.2010] };

    /// The statistics of ImageNet, which pretrained torchvision models and the public CIFAR-10 checkpoints expect.
    pub const IMAGENET: Normalization = Normalization { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// A normalization by these values.
    ///
    /// # Errors
    /// [`Error::Argument`] when a mean is outside of 0 to 1, or a standard deviation not above 0 and at most 1. The message
    /// suggests values on the scale 0 to 1, if these are on the scale 0 to 255.
    pub fn new(mean: [f64; 3], std: [f64; 3]) -> Result<Self> {
        let fits = |[mean, std]: [[f64; 3]; 2]| {
            [mean.iter().all(|m| (0.0..=1.0).contains(m)), std.iter().all(|&s| s > 0.0 && s <= 1.0)]
        };
        let given = [mean, std];
        if fits(given) == [true, true] {
            return Ok(Normalization { mean, std });
        }
        let shown = |[mean, std]: [[f64; 3]; 2]| {
            let list = |values: [f64; 3]| values.map(|v| ((v * 1e6).round() / 1e6).to_string()).join(",");
            format!("mean {} and std {}", list(mean), list(std))
        };
        let mut message = format!(
            "expected means from 0 to 1 and standard deviations above 0 and at most 1, because pixels are from 0 to 1 here, \
             got {}",
            shown(given)
        );
        // Those that are too large, as if they were of pixels from 0 to 255.
        let [is_mean, is_std] = fits(given);
        let divided = [(mean, is_mean), (std, is_std)].map(|(v, fits)| if fits { v } else { v.map(|v| v / 255.0) });
        if fits(divided) == [true, true] {
            message += &format!("; for pixels from 0 to 255, divide by 255: {}", shown(divided));
        }
        Err(Error::argument("normalisation", message))
    }

    /// The mean of red, green and blue.
    pub fn mean(&self) -> [f64; 3] {
        self.mean
    }

    /// The standard deviation of red, green and blue.
    pub fn std(&self) -> [f64; 3] {
        self.std
    }

    /// x for every channel and byte.
    pub fn table<T: Scalar>(&self) -> NormalizationTable<T> {
        let values = [0, 1, 2].map(|c| {
            let (mean, std) = (T::of(self.mean[c]), T::of(self.std[c]));
            std::array::from_fn(|p| (T::of_usize(p) / T::of(255.0) - mean) / std)
        });
        NormalizationTable { values }
    }

    /// Converts images `pixels (N, H, W, 3)` to the input of the network, `x (N, H, W, 3)`, without augmentation.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are three channels.
    pub fn apply<T: Scalar>(&self, pixels: ArrayView4<'_, u8>) -> Result<Activation<T>> {
        if pixels.dim().3 != 3 {
            return Err(Error::shape("Normalization::apply", "pixels", "(N, H, W, 3)", pixels.shape()));
        }
        let table = self.table();
        Ok(Array::from_shape_fn(pixels.dim(), |i| table.value(i.3, pixels[i])).into_shared())
    }
}

/// The normalized value of every byte in every channel.
#[derive(Clone, Debug)]
pub struct NormalizationTable<T> {
    values: [[T; 256]; 3],
}

impl<T: Scalar> NormalizationTable<T> {
    /// The normalized value of `byte` in `channel` 0, 1 or 2.
    ///
    /// # Panics
    /// If `channel` is above 2.
    #[inline]
    pub fn value(&self, channel: usize, byte: u8) -> T {
        self.values[channel][usize::from(byte)]
    }

    /// The normalized values of one pixel.
    #[inline]
    pub(crate) fn pixel(&self, pixel: &[u8; 3]) -> [T; 3] {
        [self.value(0, pixel[0]), self.value(1, pixel[1]), self.value(2, pixel[2])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array4;

    #[test]
    fn torchvision_gives_the_same_bits() {
        // Normalize(mean, std)(ToTensor()(image)), PyTorch 2.15, torchvision 0.29: some values, and all
        // 3·256, channel after channel, folded into one number.
        let table = Normalization::CIFAR10.table::<f32>();
        let some =
            [(0, 0, 0xbffe9e80), (0, 1, 0xbffc9651), (1, 127, 0x3d8593e3), (2, 254, 0x400673bf), (2, 255, 0x4007695d)];
        for (channel, byte, bits) in some {
            assert_eq!(table.value(channel, byte).to_bits(), bits, "channel {channel}, byte {byte}");
        }
        let all = table.values.as_flattened().iter();
        let folded = all.fold(0u64, |fold, x| fold.wrapping_mul(31).wrapping_add(x.to_bits().into()));
        assert_eq!(folded, 0x337f_75b2_b9f3_1140);
    }

    #[test]
    fn the_formula_in_f64() {
        let image = Array4::from_shape_vec((1, 1, 2, 3), vec![0, 10, 20, 30, 40, 255]).unwrap();
        let x = Normalization::CIFAR10_IMAGE_STD.apply::<f64>(image.view()).unwrap();
        for (place, &p) in image.indexed_iter() {
            let c = place.3;
            let expected = (f64::from(p) / 255.0 - Normalization::CIFAR10_IMAGE_STD.mean[c])
                / Normalization::CIFAR10_IMAGE_STD.std[c];
            assert_eq!(x[place], expected);
        }
        assert!(Normalization::CIFAR10_IMAGE_STD.apply::<f64>(Array4::zeros((1, 3, 4, 4)).view()).is_err());
    }

    #[test]
    fn only_numbers_of_pixels_from_0_to_1() {
        let ok = [0.5; 3];
        assert!(Normalization::new(ok, ok).is_ok());
        for bad in [0.0, -1.0, 1.01, f64::NAN, f64::INFINITY] {
            assert!(Normalization::new(ok, [0.5, bad, 0.5]).is_err());
        }
        for bad in [-0.01, 1.01, f64::NAN] {
            assert!(Normalization::new([0.5, bad, 0.5], ok).is_err());
        }
        let message = |mean, std| Normalization::new(mean, std).unwrap_err().to_string();
        // The other usual notation, in both or in one of the two.
        let said = message([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]);
        let suggested = "divide by 255: mean 0.491373,0.482353,0.446667 and std 0.247059,0.243529,0.261569";
        assert!(said.contains("got mean 125.3,123,113.9 and std 63,62.1,66.7") && said.ends_with(suggested), "{said}");
        assert!(message(ok, [51.0; 3]).ends_with("divide by 255: mean 0.5,0.5,0.5 and std 0.2,0.2,0.2"));
        assert!(!message([300.0; 3], ok).contains("divide") && !message(ok, [-1.0; 3]).contains("divide"));
    }
}
