//! The page: a single file that needs no other. Its top is in [`headline`], the rest in
//! [`sections`](super::sections).

use super::chart::{colour, svg};
use super::figures::Figure;
use super::headline;
use super::markup::{Markup, element, void};
use super::network::Findings;
use super::run::Run;
use crate::cli::Result;

/// A run and what was found out about it.
pub struct Examined {
    pub run: Run,
    pub findings: Findings,
}

/// The page, and its charts, which are also saved as files.
pub struct Page {
    pub html: Markup,
    pub figures: Vec<Figure>,
}

/// A page that is being written.
pub struct Writer {
    body: Markup,
    figures: Vec<Figure>,
}

impl Page {
    /// The page about these runs.
    pub fn of(runs: &[Examined]) -> Result<Page> {
        let mut page = Writer { body: Markup::new(), figures: Vec::new() };
        let title = headline::write(&mut page, runs);
        page.training(runs);
        page.classes(runs);
        page.filters(runs);
        page.layers(runs)?;
        page.times(runs);
        page.configuration(runs);
        page.footer();
        let css = Markup::written_here(include_str!("style.css"));
        Ok(Page { html: document("resnet report", &title, css, page.body), figures: page.figures })
    }
}

/// The whole file around the body; `generator` is the command that makes it.
pub fn document(generator: &str, title: &str, css: Markup, body: Markup) -> Markup {
    let mut head = void("meta", &[("charset", "utf-8")]);
    head.push(void("meta", &[("name", "generator"), ("content", generator)]));
    head.push(void("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]));
    head.push(element("title", &[], title));
    head.push(element("style", &[], css));
    let mut html = element("head", &[], head);
    html.push("\n");
    html.push(element("body", &[], body));
    let mut document = Markup::written_here("<!DOCTYPE html>\n");
    document.push(element("html", &[("lang", "en")], html));
    document.push("\n");
    document
}

impl Writer {
    pub fn push(&mut self, markup: Markup) {
        self.body.push(markup);
        self.body.push("\n");
    }

    pub fn section(&mut self, title: &str) {
        self.push(element("h2", &[], title));
    }

    pub fn paragraph(&mut self, text: impl Into<Markup>) {
        self.push(element("p", &[], text));
    }

    pub fn note(&mut self, text: impl Into<Markup>) {
        self.push(element("p", &[("class", "note")], text));
    }

    /// A chart with a caption; it is also saved as files.
    pub fn chart(&mut self, figure: Figure, caption: &str) -> Markup {
        let mut content = svg::inline(&figure.scene);
        if !caption.is_empty() {
            content.push(element("figcaption", &[], caption));
        }
        self.figures.push(figure);
        element("figure", &[], content)
    }

    /// The charts that exist, two side by side if there is room.
    pub fn charts(&mut self, charts: Vec<(Option<Figure>, &str)>) {
        let there = charts.into_iter().filter_map(|(figure, caption)| Some((figure?, caption)));
        let all: Markup = there.map(|(figure, caption)| self.chart(figure, caption)).collect();
        self.push(element("div", &[("class", "charts")], all));
    }

    /// The name of a run as a title, if there are several runs.
    pub fn run_title(&mut self, runs: &[Examined], i: usize) {
        if runs.len() > 1 {
            self.push(element("h3", &[], named(i, &runs[i].run.name)));
        }
    }

    fn footer(&mut self) {
        let version = concat!("Made by resnet report, version ", env!("CARGO_PKG_VERSION"), ".");
        let mut text = element("p", &[], version);
        let names: Vec<&str> = self.figures.iter().map(|figure| figure.stem.as_str()).collect();
        if !names.is_empty() {
            text.push(element(
                "p",
                &[],
                format!("Each chart is also saved beside this page, as NAME.svg and NAME.png: {}.", names.join(", ")),
            ));
        }
        self.push(element("footer", &[], text));
    }
}

/// A table with its header. It scrolls if it is too wide.
pub fn table(header: &[&str], rows: Markup) -> Markup {
    let header: Markup = header.iter().map(|name| element("th", &[("scope", "col")], *name)).collect();
    let mut content = element("thead", &[], element("tr", &[], header));
    content.push(element("tbody", &[], rows));
    element("div", &[("class", "wide")], element("table", &[], content))
}

/// The name of the `i`-th run, after a sample of its line in the charts.
pub fn named(i: usize, name: &str) -> Markup {
    let (ink, ring) = colour::of_line(i);
    let colour = format!("var(--{})", ink.name().unwrap_or("text"));
    let style = match ring {
        false => format!("background:{colour}"),
        true => format!("border:3px double {colour};border-width:3px 0"),
    };
    let mut named = element("span", &[("class", "swatch"), ("style", &style)], "");
    named.push(name);
    named
}
