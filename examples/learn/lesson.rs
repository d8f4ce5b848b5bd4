//! An exercise, and the mistakes that can be made in it.

use crate::protocol::Case;
use ndarray::{ArrayD, Dimension, IntoDimension};
use resnet_by_hand::rng::{Purpose, stream};

/// An exercise.
pub struct Lesson {
    /// `linear`; with its number the name of the learner's file, `03_linear.rs`.
    pub name: &'static str,
    pub title: &'static str,
    /// The chapter it belongs to, a file in `docs/`.
    pub page: &'static str,
    /// The file with the solution; the learner gets it without the lines between `<solution>` and `</solution>`.
    pub text: &'static str,
    /// Calls the learner's functions.
    pub run: &'static str,
    /// Hints, divided by lines of `---`.
    pub hints: &'static str,
    /// Changes of the solution that make it wrong, each under the name of its mistake: what `learn prove` tries.
    pub wrong: &'static str,
    /// Inputs, the smallest first.
    pub cases: fn() -> Vec<Case>,
    /// What is right for a case.
    pub right: fn(&Case) -> Case,
    /// Classic mistakes, the more specific first.
    pub mistakes: fn() -> Vec<Mistake>,
    /// At most one more case, which takes minutes and is run when all others are right.
    pub training: &'static [fn() -> Case],
}

/// A classic mistake.
pub struct Mistake {
    /// What CI and `wrong.txt` call it; the same as `what`, or the short name of one of the oracle's classic mistakes.
    pub name: String,
    /// What is wrong, a sentence without its full stop: `dx treats the mean as a constant`.
    pub what: String,
    /// What is right instead; may be empty.
    pub right: String,
    /// The results of a case with this mistake; `None` if it changes nothing there.
    pub compute: Compute,
}

pub type Compute = Box<dyn Fn(&Case) -> Option<Case>>;

/// A mistake of one exercise alone.
pub fn mistake(what: &str, right: &str, compute: impl Fn(&Case) -> Case + 'static) -> Mistake {
    let (name, what) = (what.to_string(), what.to_string());
    Mistake { name, what, right: right.to_string(), compute: Box::new(move |case| Some(compute(case))) }
}

impl Lesson {
    /// The learner's file as it begins.
    pub fn stub(&self) -> String {
        let mut stub = String::new();
        let mut inside = false;
        for line in self.text.lines() {
            match line.trim() {
                "// <solution>" => {
                    inside = true;
                    let indentation = &line[..line.len() - line.trim_start().len()];
                    stub += &format!("{indentation}todo!()\n");
                }
                "// </solution>" => inside = false,
                _ if !inside => stub += &format!("{line}\n"),
                _ => {}
            }
        }
        stub
    }

    /// The learner's file as it may end.
    pub fn solution(&self) -> String {
        let marks = ["// <solution>", "// </solution>"];
        self.text.lines().filter(|line| !marks.contains(&line.trim())).map(|line| format!("{line}\n")).collect()
    }

    pub fn hints(&self) -> Vec<&'static str> {
        self.hints.split("\n---\n").map(str::trim).collect()
    }

    /// The wrong solutions: the name of each mistake and the text of the file.
    ///
    /// # Panics
    /// If what a change replaces does not occur exactly once.
    pub fn wrong_solutions(&self) -> Vec<(String, String)> {
        let solution = self.solution();
        let blocks = self
            .wrong
            .split("\n# ")
            .map(|block| block.trim_start_matches("# "))
            .filter(|block| !block.trim().is_empty());
        let solutions = blocks.map(|block| {
            let (name, changes) = block.split_once('\n').expect("a name and a change");
            let text = hunks(changes).iter().fold(solution.clone(), |text, [from, to]| {
                let found = solution.matches(from).count();
                assert_eq!(found, 1, "{}: `{name}` must replace lines that occur once:\n{from}", self.name);
                text.replace(from, to)
            });
            (name.trim().to_string(), text)
        });
        solutions.collect()
    }
}

/// The lines of `-` and those of `+` after them, again and again.
fn hunks(changes: &str) -> Vec<[String; 2]> {
    let mut hunks: Vec<[String; 2]> = vec![Default::default()];
    for line in changes.lines() {
        if line.starts_with('-') && hunks.last().is_some_and(|[_, to]| !to.is_empty()) {
            hunks.push(Default::default());
        }
        let [from, to] = hunks.last_mut().expect("one at least");
        match (line.strip_prefix('-'), line.strip_prefix('+')) {
            (Some(line), _) => *from += &format!("{line}\n"),
            (_, Some(line)) => *to += &format!("{line}\n"),
            _ => {}
        }
    }
    hunks
}

/// Random odd multiples of ⅛ between −2 and 2: exact, of both signs and never 0, so that no mistake is hidden by accident.
pub fn random<Sh: IntoDimension>(seed: u64, shape: Sh) -> ndarray::Array<f64, Sh::Dim> {
    let shape = shape.into_dimension();
    let mut draws = stream(seed, Purpose::Verify, &[]);
    let values = (0..shape.size()).map(|_| (draws.next_u64() % 16) as f64 / 4.0 - 1.875).collect();
    ndarray::Array::from_shape_vec(shape, values).expect("as many values")
}

/// The names of an array's axes, for messages.
pub fn axes(name: &str, array: &ArrayD<f64>) -> &'static [&'static str] {
    match (name, array.ndim()) {
        ("weight" | "dweight", 4) => &["output channel", "input channel", "row", "column"],
        ("weight" | "dweight", 2) => &["output", "input"],
        ("cols", 2) => &["output pixel", "tap"],
        (_, 4) => &["image", "row", "column", "channel"],
        (_, 2) => &["image", "feature"],
        (_, 1) => &["element"],
        (_, 0) => &[],
        _ => &["axis 0", "axis 1", "axis 2"],
    }
}
