//! Where the errors of a tensor are: the largest share of a tolerance by place.

use super::compare::index;
use ndarray::Array2;

/// The largest share of a tolerance by place. It is infinite where an element is, or where only the same value fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What the axes stand for.
    pub names: &'static [&'static str],
    /// At each place of each axis.
    pub axes: Vec<Vec<f64>>,
    /// At each place of two axes: of a matrix, or of the first two and the last two axes of images or kernels.
    pub planes: Vec<Plane>,
}

/// The largest share of a tolerance at each place of two axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// The axes down and across.
    pub axes: [usize; 2],
    /// How many places of each are one here, so that there are at most [`Plane::SIDE`].
    pub block: [usize; 2],
    /// The shares.
    pub shares: Array2<f64>,
}

impl Plane {
    /// The most places of an axis.
    pub const SIDE: usize = 64;
}

impl Profile {
    pub(super) fn new(names: &'static [&'static str], shape: &[usize], share: &dyn Fn(usize) -> f64) -> Self {
        let axes = shape[..names.len()].iter().map(|&len| vec![0.0; len]).collect();
        let pairs: &[[usize; 2]] = match shape.len() {
            2 => &[[0, 1]],
            4 => &[[0, 1], [2, 3]],
            _ => &[],
        };
        let plane = |&axes: &[usize; 2]| {
            let block = axes.map(|axis| shape[axis].div_ceil(Plane::SIDE).max(1));
            let sides = [0, 1].map(|side| shape[axes[side]].div_ceil(block[side]));
            Plane { axes, block, shares: Array2::zeros(sides) }
        };
        let mut profile = Profile { names, axes, planes: pairs.iter().map(plane).collect() };
        for i in 0..shape.iter().product() {
            let share = share(i);
            if share > 0.0 {
                let at = index(i, shape);
                let raise = |old: &mut f64| *old = old.max(share);
                profile.axes.iter_mut().zip(&at).for_each(|(axis, &at)| raise(&mut axis[at]));
                for Plane { axes, block, shares } in &mut profile.planes {
                    raise(&mut shares[[0, 1].map(|side| at[axes[side]] / block[side])]);
                }
            }
        }
        profile
    }
}
