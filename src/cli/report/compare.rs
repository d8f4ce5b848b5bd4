//! Several runs side by side: the settings that differ, and the accuracy of every class.

use super::markup::{Markup, element};
use super::network::Judgement;
use super::page::{Examined, Writer, table};
use super::run::Run;
use crate::cli::text;

/// With more classes than this, only the most different ones are shown at once.
const SHOWN: usize = 20;

impl Writer {
    /// A table of the settings that are not the same in all runs, without those that cannot change the result.
    pub fn differences(&mut self, runs: &[&Run]) {
        let settings = |run: &&Run| {
            let mut config = run.config.clone();
            config.take_without_effect();
            toml::Table::try_from(config).unwrap_or_default()
        };
        let tables: Vec<toml::Table> = runs.iter().map(settings).collect();
        let mut keys: Vec<&String> = tables.iter().flat_map(toml::Table::keys).collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| tables.iter().any(|table| table.get(*key) != tables[0].get(*key)));
        if keys.is_empty() {
            return self.paragraph("All settings that can change the result are the same in all runs.");
        }
        let mut rows = Markup::new();
        for key in keys {
            let mut row = element("td", &[], element("code", &[], key));
            for table in &tables {
                let value = table.get(key).map_or("–".to_string(), shown);
                row.push(element("td", &[("class", "name")], value));
            }
            rows.push(element("tr", &[], row));
        }
        let header: Vec<&str> =
            ["different setting"].into_iter().chain(runs.iter().map(|run| run.name.as_str())).collect();
        self.push(table(&header, rows));
    }

    /// The accuracy of every class in all runs that were evaluated on the same images, the most different class first.
    pub fn class_by_class(&mut self, runs: &[Examined]) {
        let judged: Vec<(&str, &Judgement)> = runs
            .iter()
            .filter_map(|examined| Some((examined.run.name.as_str(), examined.findings.judgement.as_ref()?)))
            .collect();
        let [(_, first), _, ..] = judged[..] else { return };
        self.push(element("h3", &[], "Class by class"));
        if judged.iter().any(|(_, judged)| judged.images != first.images || judged.set != first.set) {
            return self.note("The runs were evaluated on different images, so their classes are not compared.");
        }
        if let [(one, a), (other, b)] = judged[..] {
            self.paragraph(paired(one, &a.wrong, other, &b.wrong, a.evaluation.images()));
        }
        let last = if judged.len() == 2 { "difference" } else { "range" };
        let names = judged.iter().map(|(name, _)| *name);
        let header: Vec<&str> = ["class", "images"].into_iter().chain(names).chain([last]).collect();
        let mut rows = differences(&judged);
        let rest = if rows.len() > SHOWN { rows.split_off(SHOWN) } else { Vec::new() };
        self.push(table(&header, rows.into_iter().map(|row| cells(&row)).collect()));
        if !rest.is_empty() {
            let title = format!("The other {}", text::count(rest.len(), "class"));
            let mut details = element("summary", &[], title);
            details.push(table(&header, rest.into_iter().map(|row| cells(&row)).collect()));
            self.push(element("details", &[], details));
        }
    }
}

/// A setting as a text; the mean and standard deviation of images are shortened to six decimals.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        toml::Value::Float(number) if number.abs() >= 1e-3 => ((1e6 * number).round() / 1e6).to_string(),
        other => other.to_string(),
    }
}

/// The images that only one of two runs classifies correctly, and what follows for the difference of their accuracies.
///
/// With b and c such images of n, the difference is (b − c)/n, with the standard error √(b + c)/n.
fn paired(one: &str, its_wrong: &[usize], other: &str, others_wrong: &[usize], images: usize) -> String {
    let without = |these: &[usize], those: &[usize]| these.iter().filter(|i| those.binary_search(i).is_err()).count();
    let (only_one, only_other) = (without(others_wrong, its_wrong), without(its_wrong, others_wrong));
    let percent = |value: f64| 100.0 * value / images as f64;
    let difference = percent(only_other as f64 - only_one as f64);
    let error = percent(((only_one + only_other) as f64).sqrt());
    format!(
        "Of the {}, only {one} classifies {only_one} correctly, and only {other} {only_other}. The accuracy of \
         {other} minus that of {one} is {} points, with a standard error of {error:.2} points.",
        text::count(images, "image"),
        signed(difference)
    )
}

/// A class: its name, its number of images, the accuracy in each run in percent, and the last column.
type Row = (String, usize, Vec<Option<f64>>, Option<f64>);

/// A row for every class. The last column is the difference of two runs in percentage points, or the range of several. The
/// largest is first.
fn differences(judged: &[(&str, &Judgement)]) -> Vec<Row> {
    let accuracies: Vec<Vec<Option<f64>>> =
        judged.iter().map(|(_, judged)| judged.evaluation.class_accuracy()).collect();
    let first = judged[0].1;
    let row = |(class, name): (usize, &String)| {
        let shares: Vec<Option<f64>> =
            accuracies.iter().map(|classes| classes[class].map(|share| 100.0 * share)).collect();
        let known: Option<Vec<f64>> = shares.iter().copied().collect();
        let last = known.map(|known| match known[..] {
            [one, other] => other - one,
            _ => known.iter().copied().fold(f64::MIN, f64::max) - known.iter().copied().fold(f64::MAX, f64::min),
        });
        (name.clone(), first.evaluation.confusion.row(class).sum(), shares, last)
    };
    let mut rows: Vec<Row> = first.classes.iter().enumerate().map(row).collect();
    let size = |row: &Row| row.3.map_or(-1.0, f64::abs);
    rows.sort_by(|a, b| size(b).total_cmp(&size(a)));
    rows
}

fn cells((name, images, shares, last): &Row) -> Markup {
    let mut row = element("td", &[], name);
    row.push(element("td", &[], text::thousands(*images as u64)));
    for share in shares {
        row.push(element("td", &[], share.map_or("–".to_string(), |share| format!("{share:.1} %"))));
    }
    let last = last.map_or("–".to_string(), |last| if shares.len() == 2 { signed(last) } else { format!("{last:.1}") });
    row.push(element("td", &[], element("b", &[], last)));
    element("tr", &[], row)
}

/// `+1.25`, `−0.50`, `0.00`.
fn signed(value: f64) -> String {
    if value == 0.0 { "0.00".to_string() } else { format!("{value:+.2}").replace('-', "−") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::network::Set;
    use crate::train::Evaluation;
    use ndarray::{Array2, array};

    fn judgement(confusion: Array2<usize>, wrong: &[usize]) -> Judgement {
        let classes = ["cat", "dog", "owl"].map(String::from).to_vec();
        let evaluation = Evaluation { loss: 0.0, top1: 0, top5: 0, confusion };
        Judgement { set: Set::Test, images: 1, classes, evaluation, wrong: wrong.to_vec(), mistakes: Vec::new() }
    }

    #[test]
    fn the_most_different_class_is_first() {
        let a = judgement(array![[8, 2, 0], [0, 4, 0], [0, 0, 0]], &[0, 1]);
        let b = judgement(array![[9, 1, 0], [2, 2, 0], [0, 0, 0]], &[1, 12, 13]);
        let rows = differences(&[("a", &a), ("b", &b)]);
        let expected = [
            ("dog".to_string(), 4, vec![Some(100.0), Some(50.0)], Some(-50.0)),
            ("cat".to_string(), 10, vec![Some(80.0), Some(90.0)], Some(10.0)),
            ("owl".to_string(), 0, vec![None, None], None),
        ];
        assert_eq!(rows, expected);
        assert_eq!(differences(&[("a", &a), ("b", &b), ("a", &a)])[0].3, Some(50.0));
        // Image 0 is right in b only, 12 and 13 in a only: −1 of 14, √3 of 14.
        let text = paired("a", &a.wrong, "b", &b.wrong, 14);
        let expected = "Of the 14 images, only a classifies 2 correctly, and only b 1. The accuracy of b minus that of a is \
                        −7.14 points, with a standard error of 12.37 points.";
        assert_eq!(text, expected);
    }
}
