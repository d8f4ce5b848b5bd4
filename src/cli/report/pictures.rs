//! Mistakes and filters as pictures, a table of the confused classes, and the numbers of the classes.

use super::markup::{Markup, element, void};
use super::network::{Judgement, Mistake};
use super::page::table;
use super::png;
use ndarray::{Array3, Array4, ArrayView3, Axis};

/// Pairs of classes in the table.
const PAIRS: usize = 8;

/// A table of the most frequent confusions.
pub fn confusions(judged: &Judgement) -> Markup {
    let counts = &judged.evaluation.confusion;
    let mut pairs: Vec<((usize, usize), usize)> =
        counts.indexed_iter().filter(|&((t, p), &n)| t != p && n > 0).map(|(pair, &n)| (pair, n)).collect();
    pairs.sort_by(|(first, a), (second, b)| b.cmp(a).then(first.cmp(second)));
    pairs.truncate(PAIRS);
    if pairs.is_empty() {
        return Markup::new();
    }
    let rows: Markup = pairs
        .iter()
        .map(|&((target, class), count)| {
            let of = counts.row(target).sum();
            let cells: Markup = [
                judged.classes[target].clone(),
                judged.classes[class].clone(),
                count.to_string(),
                format!("{:.1} % of {of}", 100.0 * count as f64 / of as f64),
            ]
            .into_iter()
            .map(|cell| element("td", &[("class", "name")], cell))
            .collect();
            element("tr", &[], cells)
        })
        .collect();
    let mut markup = element("h3", &[], "Most often confused");
    markup.push(table(&["true class", "predicted class", "images", "share of the class"], rows));
    markup
}

/// The names of the classes, where a chart has only their numbers.
pub fn key(classes: &[String]) -> Markup {
    let mut details = element("summary", &[], format!("The names of the {} classes", classes.len()));
    let names = classes.iter().map(|name| element("li", &[], name)).collect::<Markup>();
    details.push(element("ol", &[("class", "key"), ("start", "0")], names));
    element("details", &[("open", "")], details)
}

/// The most confident mistakes, each with its true and its predicted class.
pub fn mistakes(judged: &Judgement) -> Markup {
    let figures: Markup = judged.mistakes.iter().map(|mistake| figure(judged, mistake)).collect();
    element("div", &[("class", "pictures")], figures)
}

fn figure(judged: &Judgement, mistake: &Mistake) -> Markup {
    let prediction = &mistake.prediction;
    let (target, class) = (&judged.classes[prediction.target], &judged.classes[prediction.class]);
    let about = format!("{target}, classified as {class}");
    let source = png::data_uri(mistake.image.view());
    let mut figure = void("img", &[("src", &source), ("alt", &about)]);
    let mut caption = element("b", &[], class);
    caption.push(format!(" {}", percent(prediction.probability)));
    caption.push(void("br", &[]));
    let mut truth = Markup::from(format!("true: {target}, {}", percent(prediction.target_probability)));
    truth.push(void("br", &[]));
    truth.push(format!("no. {}", prediction.index));
    caption.push(element("span", &[("class", "true")], truth));
    figure.push(element("figcaption", &[], caption));
    element("figure", &[], figure)
}

/// A probability with two decimals, or more if it would look like certainty; without a line break.
pub fn percent(probability: f64) -> String {
    let percent = 100.0 * probability;
    let text = match probability {
        p if p > 0.999_999 => "> 99.9999 %".to_string(),
        p if p > 0.9999 => format!("{percent:.4} %"),
        p if p < 0.000_001 => "< 0.0001 %".to_string(),
        p if p < 0.0001 => format!("{percent:.4} %"),
        _ => format!("{percent:.2} %"),
    };
    text.replace(' ', "\u{a0}")
}

/// Every filter of `weight (C_out, 3, h, w)` as a picture.
pub fn filters(weight: &Array4<f32>) -> Markup {
    let picture = |(i, filter): (usize, ArrayView3<f32>)| {
        let source = png::data_uri(scaled(filter).view());
        void("img", &[("src", source.as_str()), ("alt", &format!("filter {i}"))])
    };
    let pictures: Markup = weight.axis_iter(Axis(0)).enumerate().map(picture).collect();
    element("div", &[("class", "filters")], pictures)
}

/// A filter `(3, h, w)` as pixels `(h, w, 3)`: its smallest weight becomes 0, its largest 255; grey if all weights are
/// equal.
fn scaled(filter: ArrayView3<f32>) -> Array3<u8> {
    let low = filter.iter().copied().fold(f32::INFINITY, f32::min);
    let high = filter.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let byte = |w: f32| if high > low { (255.0 * (w - low) / (high - low)).round() as u8 } else { 127 };
    filter.permuted_axes([1, 2, 0]).mapv(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn filters_use_their_own_range() {
        let filter = array![[[-1.0f32, 0.0]], [[1.0, 0.5]], [[-0.5, 1.0]]];
        let pixels = scaled(filter.view());
        assert_eq!(pixels, array![[[0, 255, 64], [128, 191, 255]]]);
        assert_eq!(scaled(Array3::zeros((3, 1, 1)).view()), array![[[127, 127, 127]]]);
    }

    #[test]
    fn nothing_looks_certain() {
        let shown = [0.5, 0.9999, 0.99995, 0.9999995, 1.0, 0.00005, 0.0].map(|p| percent(p).replace('\u{a0}', " "));
        assert_eq!(shown, ["50.00 %", "99.99 %", "99.9950 %", "> 99.9999 %", "> 99.9999 %", "0.0050 %", "< 0.0001 %"]);
    }
}
