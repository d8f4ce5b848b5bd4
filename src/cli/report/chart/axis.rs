//! Positions on an axis, and its labels.

/// An axis from `low` to `high`.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Whether equal ratios, not equal differences, are equally far apart.
    logarithmic: bool,
    low: f64,
    high: f64,
    /// Numbers with a label.
    pub ticks: Vec<(f64, String)>,
    /// Numbers with a thin line only.
    pub minor: Vec<f64>,
}

impl Axis {
    /// An axis that contains `low..=high`, from one round number to another, with about `ticks` labels.
    pub fn linear(low: f64, high: f64, ticks: usize) -> Self {
        let (low, high) = widened(low, high);
        let step = round_step((high - low) / ticks as f64);
        // With a tolerance: 0.30000000000000004 is on the tick 0.3.
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let count = (last - first) as usize;
        let values = (0..=count).map(|i| (first + i as f64) * step);
        let ticks = values.map(|value| (value, plain(value, step))).collect();
        Axis { logarithmic: false, low: first * step, high: last * step, ticks, minor: Vec::new() }
    }

    /// An axis of whole numbers that ends at `high`, even if this is not a round number.
    pub fn counting(high: usize, ticks: usize) -> Self {
        let high = high.max(1) as f64;
        let step = round_step(high / ticks as f64).max(1.0);
        let values = (0..=(high / step) as usize).map(|i| i as f64 * step);
        let ticks = values.map(|value| (value, plain(value, step))).collect();
        Axis { logarithmic: false, low: 0.0, high, ticks, minor: Vec::new() }
    }

    /// A logarithmic axis from `low` to `high`, both above 0; for a single number from half of it to twice as much.
    ///
    /// The labels are 1, 2 and 5 times a power of ten if there are at least two and not too many, otherwise powers of ten, or
    /// 1 to 9 times them; if even these are fewer than two, those of a linear axis.
    pub fn logarithmic(low: f64, high: f64, ticks: usize) -> Self {
        let (low, high) = if low < high { (low, high) } else { (low / 2.0, low * 2.0) };
        let inside = |digits: &[i32]| marks(low, high, digits);
        let (powers, some, all) = (inside(&[1]), inside(&[1, 2, 5]), inside(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let fits = |marks: &&Vec<Mark>| marks.len() > 1 && marks.len() <= ticks;
        let labelled = Some(&some).filter(fits).or([&powers, &all].into_iter().find(|marks| marks.len() > 1));
        let Some(labelled) = labelled else {
            let mut ticks = Axis::linear(low, high, ticks).ticks;
            ticks.retain(|(value, _)| (low..=high).contains(value));
            return Axis { logarithmic: true, low, high, ticks, minor: Vec::new() };
        };
        // Every second or third power where there are many.
        let every = labelled.len().div_ceil(ticks.max(1));
        let small = labelled.iter().all(|mark| (-3..=3).contains(&mark.power));
        let label = |mark: &Mark| (mark.value(), if small { mark.plain() } else { mark.with_power() });
        let ticks: Vec<(f64, String)> = labelled.iter().step_by(every).map(label).collect();
        // Lines between the labels, if there is room for them.
        let minor = match powers.len() {
            5.. => &powers,
            _ => &all,
        };
        Axis { logarithmic: true, low, high, ticks, minor: minor.iter().map(Mark::value).collect() }
    }

    /// The position of `value`: 0 at the start of the axis, 1 at its end.
    pub fn place(&self, value: f64) -> f64 {
        match self.logarithmic {
            false => (value - self.low) / (self.high - self.low),
            true => (value / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// Whether the axis can show `value`; a logarithmic axis cannot show 0.
    pub fn has(&self, value: f64) -> bool {
        value.is_finite() && (!self.logarithmic || value > 0.0)
    }
}

/// The range, widened if it is a single number.
fn widened(low: f64, high: f64) -> (f64, f64) {
    if high > low {
        return (low, high);
    }
    match low {
        0.0 => (0.0, 1.0),
        value => (value - 0.1 * value.abs(), value + 0.1 * value.abs()),
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= step * (1.0 - 1e-9));
    times.unwrap_or(10.0) * power
}

/// A multiple of `step` with as many decimals as the step has.
fn plain(value: f64, step: f64) -> String {
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    // Not "-0".
    let value = if value == 0.0 { 0.0 } else { value };
    format!("{value:.decimals$}").replace('-', "−")
}

/// `digit` · 10^`power`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mark {
    digit: i32,
    power: i32,
}

impl Mark {
    fn value(&self) -> f64 {
        // Parsed from the text 1e-7, because 10f64.powi(-7) is a different number.
        format!("{}e{}", self.digit, self.power).parse().expect("a number")
    }

    /// `0.002`, `20`.
    fn plain(&self) -> String {
        format!("{}", self.value())
    }

    /// `2·10⁻⁶`, `10⁴`.
    fn with_power(&self) -> String {
        let raised = |letter| match letter {
            '-' => '⁻',
            digit => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize - '0' as usize],
        };
        let power: String = self.power.to_string().chars().map(raised).collect();
        match self.digit {
            1 => format!("10{power}"),
            digit => format!("{digit}·10{power}"),
        }
    }
}

/// The marks from `low` to `high` with these digits.
fn marks(low: f64, high: f64, digits: &[i32]) -> Vec<Mark> {
    let powers = low.log10().floor() as i32 - 1..=high.log10().ceil() as i32 + 1;
    let all = powers.flat_map(|power| digits.iter().map(move |&digit| Mark { digit, power }));
    all.filter(|mark| (low..=high).contains(&mark.value())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn linear_axes_end_at_round_numbers() {
        let axis = Axis::linear(0.43, 1.62, 5);
        assert_eq!(labels(&axis), ["0.0", "0.5", "1.0", "1.5", "2.0"]);
        assert_eq!((axis.place(0.0), axis.place(1.0), axis.place(2.0)), (0.0, 0.5, 1.0));
        assert_eq!(labels(&Axis::linear(-0.2, 0.2, 4)), ["−0.2", "−0.1", "0.0", "0.1", "0.2"]);
        assert_eq!(labels(&Axis::linear(0.0, 30.0, 3)), ["0", "10", "20", "30"]);
        // Six decimals, because with fewer the labels would be equal.
        assert_eq!(labels(&Axis::linear(0.5, 0.500004, 4))[..2], ["0.500000", "0.500001"]);
        // A single value, and a single 0.
        assert_eq!(labels(&Axis::linear(50.0, 50.0, 5)), ["44", "46", "48", "50", "52", "54", "56"]);
        assert_eq!(labels(&Axis::linear(0.0, 0.0, 2)), ["0.0", "0.5", "1.0"]);
    }

    #[test]
    fn epochs_are_whole_numbers_and_end_with_the_last() {
        assert_eq!(labels(&Axis::counting(1, 8)), ["0", "1"]);
        assert_eq!(labels(&Axis::counting(5, 8)), ["0", "1", "2", "3", "4", "5"]);
        let axis = Axis::counting(182, 8);
        assert_eq!(labels(&axis), ["0", "50", "100", "150"]);
        assert_eq!(axis.place(182.0), 1.0);
        assert_eq!(labels(&Axis::counting(0, 8)), ["0", "1"]);
    }

    #[test]
    fn logarithmic_axes_are_labelled_by_powers_of_ten_where_there_are_some() {
        let axis = Axis::logarithmic(4e-7, 0.4, 8);
        assert_eq!(labels(&axis), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]);
        assert_eq!((axis.place(4e-7), axis.place(0.4)), (0.0, 1.0));
        assert!(axis.has(1e-300) && !axis.has(0.0) && !axis.has(f64::NAN));
        // Half of the way from 10⁻⁶ to 10⁻² is 10⁻⁴.
        let half = (axis.place(1e-6) + axis.place(1e-2)) / 2.0;
        assert!((axis.place(1e-4) - half).abs() < 1e-12);
        let axis = Axis::logarithmic(0.02, 3.0, 8);
        assert_eq!(labels(&axis), ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]);
        assert!(axis.minor.contains(&0.02) && axis.minor.contains(&0.9) && axis.minor.contains(&3.0));
        assert!(!axis.minor.contains(&0.01) && !axis.minor.contains(&4.0));
        assert_eq!(labels(&Axis::logarithmic(0.9, 3.1, 8)), ["1", "2"]);
        assert_eq!(labels(&Axis::logarithmic(1.2, 1.9e1, 8)), ["2", "5", "10"]);
        assert_eq!(labels(&Axis::logarithmic(2.5, 4.5, 8)), ["3", "4"]);
        assert_eq!(labels(&Axis::logarithmic(2.1, 2.2, 8)), ["2.10", "2.12", "2.14", "2.16", "2.18", "2.20"]);
        assert_eq!(labels(&Axis::logarithmic(2e5, 8e5, 8)), ["2·10⁵", "5·10⁵"]);
        // A constant rate also has an axis.
        assert_eq!(labels(&Axis::logarithmic(0.1, 0.1, 8)), ["0.05", "0.1", "0.2"]);
        // Every third of many.
        assert_eq!(labels(&Axis::logarithmic(1e-20, 1.0, 8))[..2], ["10⁻²⁰", "10⁻¹⁷"]);
    }
}
