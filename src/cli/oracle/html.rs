//! The page of `--html`: what does not fit, worst first, with the pattern of the errors and heat maps of where they are.
//!
//! A single file without scripts that needs no other.

use super::compare::{outcome, percent};
use crate::cli::report::markup::{Markup, element, void};
use crate::cli::report::page::{document, table};
use crate::cli::{Failure, Result, args, text};
use crate::formats::atomic;
use crate::oracle::compare::Outcome;
use crate::oracle::profile::{Plane, Profile};
use crate::oracle::{Report, Verdict};
use std::path::{Path, PathBuf};

/// The most tensors that are shown in detail.
pub const DETAILED: usize = 20;

/// Where the page goes.
#[derive(Debug, clap::Args)]
pub struct HtmlArgs {
    /// Write a page about what does not fit: the pattern of the errors in words, and heat maps of them
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Replace the files to be written if they exist
    #[arg(long)]
    pub force: bool,
}

impl HtmlArgs {
    /// Rejects an invalid output before anything is computed.
    pub fn check(&self) -> Result<()> {
        let Some(path) = &self.html else { return Ok(()) };
        if !path.extension().is_some_and(|extension| extension == "html" || extension == "htm") {
            return Err(Failure::Usage(format!("--html expects a name that ends in .html, got {}", path.display())));
        }
        args::check_output(path, self.force)
    }

    /// Writes the page, if one is wanted: `theirs` compared with `ours`, and what was `printed` about it.
    pub fn write(&self, ours: &str, theirs: &Path, sections: &[Section], printed: &[u8]) -> Result<()> {
        let Some(path) = &self.html else { return Ok(()) };
        let page = page(ours, &theirs.display().to_string(), sections, &String::from_utf8_lossy(printed));
        Ok(atomic::write(path, page.as_str().as_bytes())?)
    }
}

/// One comparison of the page.
pub struct Section<'a> {
    /// Empty if it is the only one.
    pub title: &'a str,
    pub report: &'a Report,
    /// What is wrong besides tensors.
    pub notes: Vec<String>,
}

fn page(ours: &str, theirs: &str, sections: &[Section], printed: &str) -> Markup {
    let passed = sections.iter().all(|section| section.report.passed() && section.notes.is_empty());
    let title = format!("{theirs} {}", if passed { "fits" } else { "does not fit" });
    let mut body = element("h1", &[], &title);
    body.push(element("p", &[("class", "lead")], format!("Compared with {ours}, element by element.")));
    if !passed {
        body.push(legend());
    }
    let wrong = sections.iter().filter(|section| !section.report.passed()).count().max(1);
    let mut left = DETAILED;
    for (number, section) in sections.iter().enumerate() {
        let shown = section.report.worst_first().len().min((DETAILED / wrong).max(1)).min(left);
        left -= shown;
        body.push(section.markup(number, shown));
    }
    body.push(element("h2", &[], "As printed"));
    body.push(element("pre", &[], printed.trim_end()));
    let version = concat!("Made by resnet oracle, version ", env!("CARGO_PKG_VERSION"), ".");
    body.push(element("footer", &[], element("p", &[], version)));
    let css = Markup::written_here(concat!(include_str!("../report/style.css"), include_str!("html.css")));
    document("resnet oracle", &title, css, body)
}

fn legend() -> Markup {
    let entry = |(level, label): (usize, String)| {
        let mut entry = element("i", &[("class", &format!("s{level}"))], "");
        entry.push(label);
        element("li", &[], entry)
    };
    let up_to = (1..7).map(|level| (level, format!("up to {}x", text::thousands(10u64.pow(level as u32)))));
    let ends = [(7, "more".to_string()), (8, "infinite or NaN, or only the same value fits".to_string())];
    let entries = [(0, "fits".to_string())].into_iter().chain(up_to).chain(ends).map(entry);
    let mut legend = element(
        "p",
        &[("class", "note")],
        "The colours of the heat maps: the largest error in units of its tolerance.",
    );
    legend.push(element("ul", &[("class", "legend")], entries.collect::<Markup>()));
    legend
}

/// The colour of a share: 0 if it fits, then by its decade, 8 if it is infinite.
fn level(share: f64) -> usize {
    match share {
        share if share <= 1.0 => 0,
        share if share.is_finite() => (share.log10().ceil() as usize).clamp(1, 7),
        _ => 8,
    }
}

fn times(share: f64) -> String {
    if share.is_finite() { percent(share) } else { "infinite".to_string() }
}

impl Section<'_> {
    fn markup(&self, number: usize, shown: usize) -> Markup {
        let report = self.report;
        let worst = report.worst_first();
        let anchor = |name: &str| format!("{number}-{name}");
        let mut all = Markup::new();
        if !self.title.is_empty() {
            all.push(element("h2", &[], self.title));
        }
        let missing = report.tensors.len() - report.tried();
        let missing = if missing > 0 { format!("; {missing} more are missing in the file") } else { String::new() };
        let status = match (worst.len(), report.first()) {
            (0, _) => match report.tensors.iter().filter(|verdict| verdict.excused.is_some()).count() {
                0 => format!("All {} tensors fit{missing}.", report.tried()),
                excused => format!(
                    "{} of {} tensors fit, the others fail as expected{missing}.",
                    report.tried() - excused,
                    report.tried()
                ),
            },
            (wrong, first) => format!(
                "{wrong} of {} tensors do not fit{missing}. The first in the order of execution: {}.",
                report.tried(),
                first.map_or("", |first| &first.name)
            ),
        };
        all.push(element("p", &[("class", "status")], status));
        let unknown = report.unknown.iter().map(|(name, near)| {
            let hint = near.as_ref().map_or(String::new(), |near| format!("; did you mean {near}?"));
            format!("{name} is not in the reference{hint}")
        });
        for note in self.notes.iter().cloned().chain(unknown) {
            all.push(element("p", &[("class", "warning")], note));
        }
        for verdict in &worst[..shown] {
            all.push(element("section", &[("class", "tensor"), ("id", &anchor(&verdict.name))], detail(verdict)));
        }
        if shown < worst.len() {
            let more = worst.len() - shown;
            all.push(element("p", &[("class", "note")], format!("{more} more do not fit; the table lists them.")));
        }
        let tried: Vec<&Verdict> = report.tensors.iter().filter(|verdict| verdict.tried()).collect();
        let row = |verdict: &&Verdict| {
            let detailed = worst[..shown].iter().any(|shown| std::ptr::eq(*shown, *verdict));
            let link = format!("#{}", anchor(&verdict.name));
            let name = match detailed {
                true => element("a", &[("href", &link)], &verdict.name),
                false => (&verdict.name).into(),
            };
            let (share, text) = match verdict.outcome {
                Outcome::Shape(_) => (f64::INFINITY, "–".to_string()),
                _ => (verdict.share(), times(verdict.share())),
            };
            let mut swatch = element("span", &[("class", &format!("swatch s{}", level(share)))], "");
            swatch.push(text);
            let mut cells: Markup = [name, swatch].into_iter().map(|cell| element("td", &[], cell)).collect();
            for cell in [outcome(verdict), verdict.pattern.clone().unwrap_or_default()] {
                cells.push(element("td", &[("class", "name")], cell));
            }
            element("tr", &[], cells)
        };
        let mut list = element("summary", &[], format!("All {} tensors, in the order of execution", tried.len()));
        let header = ["tensor", "of allowed", "verdict", "pattern"];
        list.push(table(&header, tried.iter().map(row).collect()));
        // Long lists are closed at first.
        all.push(element("details", if tried.len() <= 2 * DETAILED { &[("open", "")] } else { &[] }, list));
        all
    }
}

/// All that is known of a tensor that does not fit.
fn detail(verdict: &Verdict) -> Markup {
    let mut all = element("h3", &[], &verdict.name);
    let share = match verdict.outcome {
        Outcome::Shape(_) => String::new(),
        _ if verdict.share().is_finite() => format!("; the worst error is {} its tolerance", percent(verdict.share())),
        _ => "; the worst error is infinite, or there is no bound".to_string(),
    };
    all.push(element("p", &[], format!("{}{share}.", outcome(verdict))));
    all.push(element("p", &[("class", "pattern")], verdict.pattern.clone().unwrap_or_default()));
    if let Outcome::Shape(_) = verdict.outcome {
        return all;
    }
    let worst = &verdict.worst;
    let names = verdict.profile.as_ref().map_or(&[][..], |profile| profile.names);
    let named: Vec<String> = names.iter().zip(&worst.at).map(|(name, at)| format!("{name} {at}")).collect();
    let named = if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) };
    let [ours, theirs] = verdict.dtypes;
    let facts = [
        ("worst element", format!("{:?} of {:?}{named}", worst.at, verdict.shape)),
        ("right value", format!("{:e} ({ours})", worst.values[0])),
        ("their value", format!("{:e} ({theirs})", worst.values[1])),
        ("error", format!("{:.2e}", worst.error)),
        ("tolerance", format!("{:.2e}: {}", worst.tolerance, verdict.source)),
    ];
    let facts = facts.into_iter().map(|(what, fact)| row(what, fact)).collect::<Markup>();
    let mut maps = element("figure", &[], element("table", &[], element("tbody", &[], facts)));
    maps.push(histogram(verdict));
    if let Some(profile) = &verdict.profile {
        maps.push(strips(profile));
        maps.push(profile.planes.iter().filter_map(|plane| of_plane(profile, plane)).collect::<Markup>());
    }
    all.push(element("div", &[("class", "maps")], maps));
    all
}

/// A row of a table with two columns.
fn row(what: impl Into<Markup>, content: impl Into<Markup>) -> Markup {
    let mut row = element("th", &[("scope", "row")], what);
    row.push(element("td", &[], content));
    element("tr", &[], row)
}

/// A bar for every decade of error sizes.
fn histogram(verdict: &Verdict) -> Markup {
    let largest = verdict.histogram.iter().copied().max().unwrap_or(0).max(1);
    let bar = |(i, &count): (usize, &usize)| {
        let least = if count > 0 { 0.1 } else { 0.0 };
        let width = format!("width:{:.1}rem", (9.0 * count as f64 / largest as f64).max(least));
        let mut bar = element("span", &[("class", "bar"), ("style", &width)], "");
        bar.push(text::thousands(count as u64));
        row(format!("1e{}", i as i32 - 18), bar)
    };
    let mut bins: Vec<(usize, &usize)> = verdict.histogram.iter().enumerate().collect();
    while bins.pop_if(|(_, count)| **count == 0).is_some() {}
    let rows: Markup = bins.into_iter().skip_while(|(_, count)| **count == 0).map(bar).collect();
    let caption = "Errors by size, relative to the largest right value, and the number of elements";
    let mut figure = element("figcaption", &[], caption);
    figure.push(element("table", &[("class", "bars")], element("tbody", &[], rows)));
    element("figure", &[], figure)
}

/// The largest share at each place of every axis.
fn strips(profile: &Profile) -> Markup {
    let mut all = Markup::new();
    for (name, shares) in profile.names.iter().zip(&profile.axes).filter(|(_, shares)| shares.len() > 1) {
        let block = shares.len().div_ceil(Plane::SIDE);
        let cells: Vec<f64> = shares.chunks(block).map(|part| part.iter().copied().fold(0.0, f64::max)).collect();
        let wrong = shares.iter().filter(|share| **share > 1.0).count();
        let worst = (0..shares.len()).max_by(|&i, &j| shares[i].total_cmp(&shares[j]).then(j.cmp(&i))).unwrap_or(0);
        let caption = format!("by {name}: {wrong} of {} wrong, worst {worst} ({})", shares.len(), times(shares[worst]));
        let map = Map {
            rows: 1,
            columns: cells.len(),
            share: &|_, column| cells[column],
            names: ["", name],
            block: [1, block],
        };
        all.push(element("figcaption", &[], &caption));
        all.push(map.draw(&caption));
    }
    element("figure", &[], all)
}

fn of_plane(profile: &Profile, plane: &Plane) -> Option<Markup> {
    let names = plane.axes.map(|axis| profile.names[axis]);
    let (rows, columns) = plane.shares.dim();
    // A single row is one of the strips.
    if rows == 1 || columns == 1 {
        return None;
    }
    let blocks = match plane.block {
        [1, 1] => String::new(),
        [down, across] => format!("; a cell is the worst of {down} x {across}"),
    };
    let caption = format!("{} (down) by {} (across){blocks}", names[0], names[1]);
    let map = Map { rows, columns, share: &|row, column| plane.shares[[row, column]], names, block: plane.block };
    let mut figure = element("figcaption", &[], &caption);
    figure.push(map.draw(&format!("Heat map: {caption}")));
    Some(element("figure", &[], figure))
}

/// A heat map.
struct Map<'a> {
    rows: usize,
    columns: usize,
    share: &'a dyn Fn(usize, usize) -> f64,
    names: [&'a str; 2],
    /// How many places of the axes a cell is.
    block: [usize; 2],
}

impl Map<'_> {
    /// Pixels for the labels: left of the rows, and below the columns.
    const LEFT: f64 = 30.0;
    const BELOW: f64 = 16.0;

    fn draw(&self, label: &str) -> Markup {
        let Map { rows, columns, .. } = *self;
        let [height, width] = [rows, columns].map(|cells| (280.0 / cells as f64).floor().clamp(1.0, 20.0));
        let (left, right, below) = (Self::LEFT, Self::LEFT + width * columns as f64, height * rows as f64);
        let mut all: Markup = (0..rows).map(|row| self.row(row, [height, width])).collect();
        // Lines between the cells, if there is room.
        let down = (1..columns).filter(|_| width > 6.0).map(|i| format!("M{} 0V{below}", left + width * i as f64));
        let across = (1..rows).filter(|_| height > 6.0).map(|i| format!("M{left} {}H{right}", height * i as f64));
        all.push(element("path", &[("d", &down.chain(across).collect::<String>())], ""));
        let text = |x: f64, y: f64, anchor: &str, index: usize| {
            let at = [format!("{x:.1}"), format!("{y:.1}")];
            element("text", &[("x", &at[0]), ("y", &at[1]), ("text-anchor", anchor)], index.to_string())
        };
        // Every power of two for which there is room.
        let every = |room: f64, cell: f64| ((room / cell).ceil() as usize).next_power_of_two();
        for row in (0..rows).step_by(every(13.0, height)).filter(|_| rows > 1) {
            all.push(text(left - 4.0, height * (row as f64 + 0.5) + 4.0, "end", row * self.block[0]));
        }
        let room = if columns * self.block[1] > 1000 { 34.0 } else { 26.0 };
        for column in (0..columns).step_by(every(room, width)) {
            all.push(text(left + width * (column as f64 + 0.5), below + 12.0, "middle", column * self.block[1]));
        }
        let size = [right + 10.0, below + Self::BELOW].map(|x| format!("{x:.0}"));
        let view = format!("0 0 {} {}", size[0], size[1]);
        let attributes = [("viewBox", view.as_str()), ("width", &size[0]), ("height", &size[1])];
        element("svg", &[&attributes[..], &[("role", "img"), ("aria-label", label)]].concat(), all)
    }

    /// The cells of a row, equal neighbours as one; pointing at it shows its worst place.
    fn row(&self, row: usize, [height, width]: [f64; 2]) -> Markup {
        let cells: Vec<f64> = (0..self.columns).map(|column| (self.share)(row, column)).collect();
        let worst = (0..cells.len()).max_by(|&i, &j| cells[i].total_cmp(&cells[j]).then(j.cmp(&i))).unwrap_or(0);
        let [down, across] = self.names;
        let of_row = if down.is_empty() { String::new() } else { format!("{down} {}: ", row * self.block[0]) };
        let wrong = cells.iter().filter(|share| **share > 1.0).count();
        let place = worst * self.block[1];
        let title = format!(
            "{of_row}wrong in {wrong} of {} cells, worst at {across} {place} ({})",
            cells.len(),
            times(cells[worst])
        );
        let mut all = element("title", &[], title);
        let mut column = 0;
        for equal in cells.chunk_by(|&a, &b| level(a) == level(b)) {
            let class = format!("s{}", level(equal[0]));
            let at = [Self::LEFT + width * column as f64, height * row as f64, width * equal.len() as f64, height];
            let [x, y, w, h] = at.map(|x| x.to_string());
            let mut cell = void("rect", &[("class", &class), ("x", &x), ("y", &y), ("width", &w), ("height", &h)]);
            cell.push(Markup::written_here("</rect>"));
            all.push(cell);
            column += equal.len();
        }
        element("g", &[], all)
    }
}
