//! The top of the page: what was trained, and how well it does.

use super::markup::{Markup, element};
use super::page::{Examined, Writer, named, table};
use super::run::{Outcome, Run};
use super::summary::{by_seed, mean_and_deviation, standard_error};
use crate::cli::text;
use crate::cli::train::words;
use crate::train::Validation;

/// Writes it; returns the title of the page.
pub fn write(page: &mut Writer, runs: &[Examined]) -> String {
    match runs {
        [only] => one(page, only),
        several => many(page, several),
    }
}

fn one(page: &mut Writer, examined: &Examined) -> String {
    let run = &examined.run;
    let title = format!("{} on {}", run.recipe.model, data(examined));
    page.push(element("h1", &[], &title));
    let recipe = &run.recipe;
    page.push(element("p", &[("class", "lead")], format!("{}, seed {}", words::steps(recipe), recipe.seed)));
    warnings(page, examined, None);
    if run.result.is_none() {
        page.push(element("p", &[("class", "status")], not_over(run)));
    }
    let cards: Markup = cards(run).into_iter().enumerate().map(|(i, card)| card.markup(i == 0)).collect();
    page.push(element("div", &[("class", "cards")], cards));
    let rows: Markup = facts(examined)
        .into_iter()
        .map(|(key, value)| {
            let mut row = element("th", &[("scope", "row")], key);
            row.push(element("td", &[("class", "name")], value));
            element("tr", &[], row)
        })
        .collect();
    page.push(element("table", &[], element("tbody", &[], rows)));
    title
}

/// The name of the data set, or its path in the configuration if it cannot be found.
fn data(examined: &Examined) -> String {
    let path = examined.run.config.data.as_ref().map_or("embedded".to_string(), |path| path.display().to_string());
    examined.findings.kind.map_or(path, str::to_string)
}

fn not_over(run: &Run) -> String {
    format!(
        "The run is unfinished: {} of {} done. It is still running or was interrupted. It has not been \
         evaluated on the test images.",
        run.epochs.len(),
        text::count(run.recipe.epochs, "epoch")
    )
}

fn warnings(page: &mut Writer, examined: &Examined, name: Option<&str>) {
    for warning in &examined.findings.warnings {
        let mut content = element("b", &[], "Warning: ");
        content.push(name.map_or(String::new(), |name| format!("{name}: ")));
        content.push(warning);
        page.push(element("p", &[("class", "warning")], content));
    }
}

/// A number at the top of the page.
struct Card {
    what: &'static str,
    value: String,
    more: String,
}

impl Card {
    fn markup(self, first: bool) -> Markup {
        let part = |class, text| element("div", &[("class", class)], text);
        let mut content = part("what", self.what.to_string());
        content.push(part("value", self.value));
        content.push(part("more", self.more));
        element("div", &[("class", if first { "card first" } else { "card" })], content)
    }
}

fn cards(run: &Run) -> Vec<Card> {
    let mut cards = Vec::new();
    if let Some(result) = &run.result {
        let error = 100.0 * standard_error(result.test_correct, result.test_images);
        let of = [text::thousands(result.test_correct as u64), text::count(result.test_images, "image")];
        cards.push(Card {
            what: "test accuracy",
            value: accuracy(result),
            more: format!("{} of {}; standard error {error:.2} points", of[0], of[1]),
        });
    } else if let Some((epoch, top1)) = run.best_epoch() {
        let images = match run.recipe.validation {
            Validation::HeldOut(images) => {
                let error = 100.0 * standard_error((top1 * images as f64).round() as usize, images);
                format!("{}; standard error {error:.2} points", text::count(images, "image"))
            }
            Validation::Folder => "the validation images of the data set".to_string(),
        };
        cards.push(Card {
            what: "best validation accuracy so far",
            value: format!("{:.2} %", 100.0 * top1),
            more: format!("epoch {epoch}, {images}"),
        });
    }
    let tested = match &run.result {
        Some(result) if run.has_validation() => {
            format!("tested: epoch {}, the best on the validation images", result.tested_weights_of_epoch)
        }
        Some(_) => "tested: the last epoch".to_string(),
        None => "done so far".to_string(),
    };
    cards.push(Card { what: "epochs", value: format!("{} of {}", run.epochs.len(), run.recipe.epochs), more: tested });
    if !run.times.is_empty() {
        let each = run.seconds() / run.times.len() as f64;
        let more = format!("{} per epoch", text::duration(each));
        cards.push(Card { what: "training time", value: text::duration(run.seconds()), more });
    }
    if let Some(peak) = run.result.as_ref().and_then(|result| result.peak_memory_bytes) {
        let (what, value) = ("peak memory", text::bytes(peak));
        cards.push(Card { what, value, more: "of the process, including the images".to_string() });
    }
    cards
}

fn accuracy(result: &Outcome) -> String {
    format!("{:.2} %", 100.0 * result.test_correct as f64 / result.test_images as f64)
}

/// The other facts, one per line.
fn facts(examined: &Examined) -> Vec<(&'static str, String)> {
    let Examined { run, findings } = examined;
    let recipe = &run.recipe;
    let parameters = findings.network.as_ref().map(|network| network.parameters);
    let parameters =
        parameters.map_or(String::new(), |count| format!(", {} parameters", text::thousands(count as u64)));
    let mut facts = vec![
        ("run", run.name.clone()),
        ("model", format!("{}{parameters}", recipe.model)),
        ("data", format!("{}{}", data(examined), images(run))),
        ("recipe", format!("{}: {}", recipe.name, words::steps(recipe))),
        ("optimiser", words::optimiser(recipe)),
        ("augmentation", words::augmentation(recipe)),
        ("seed", recipe.seed.to_string()),
    ];
    if let Some(result) = &run.result {
        facts.push(("test loss", result.test_loss.map_or("not finite".to_string(), |loss| format!("{loss:.4}"))));
        facts.push(("test top-5", text::share(result.test_top5, result.test_images)));
        facts.push(("fingerprint", format!("{} (of the weights after the last epoch)", result.fingerprint)));
    }
    facts
}

/// `; images: 45,000 for training, 5,000 for validation, 10,000 for testing`, as far as they are known.
fn images(run: &Run) -> String {
    let count = |count: usize| text::thousands(count as u64);
    let mut parts = Vec::new();
    parts.extend(run.epochs.first().map(|epoch| format!("{} for training", count(epoch.images))));
    match run.recipe.validation {
        Validation::NONE => {}
        Validation::HeldOut(images) => parts.push(format!("{} for validation", count(images))),
        Validation::Folder => parts.push("those of the data set for validation".to_string()),
    }
    parts.extend(run.result.as_ref().map(|result| format!("{} for testing", count(result.test_images))));
    if parts.is_empty() { String::new() } else { format!("; images: {}", parts.join(", ")) }
}

fn many(page: &mut Writer, runs: &[Examined]) -> String {
    let first = &runs[0];
    let same_model = runs.iter().all(|other| other.run.recipe.model == first.run.recipe.model);
    let same_data = runs.iter().all(|other| data(other) == data(first));
    let of = if same_model { format!(" of {}", first.run.recipe.model) } else { String::new() };
    let on = if same_data { format!(" on {}", data(first)) } else { String::new() };
    let title = format!("{} runs{of}{on}", runs.len());
    page.push(element("h1", &[], &title));
    runs.iter().for_each(|examined| warnings(page, examined, Some(&examined.run.name)));
    let unfinished = runs.iter().filter(|examined| examined.run.result.is_none());
    for Examined { run, .. } in unfinished {
        page.push(element("p", &[("class", "status")], format!("{}: {}", run.name, not_over(run))));
    }
    // What the title contains for all runs needs no column.
    let own = [(!same_model).then_some("model"), (!same_data).then_some("data")];
    let own: Vec<&str> = own.into_iter().flatten().collect();
    let rows: Markup = runs.iter().enumerate().map(|(i, examined)| row(i, examined, &own)).collect();
    let before = ["run", "test accuracy", "standard error", "images"];
    let after = ["recipe", "seed", "epochs", "time", "peak memory", "fingerprint"];
    page.push(table(&[&before[..], &own, &after[..]].concat(), rows));
    let all: Vec<&Run> = runs.iter().map(|examined| &examined.run).collect();
    page.differences(&all);
    for group in by_seed(&all) {
        let percents: Vec<f64> = group
            .iter()
            .filter_map(|&i| all[i].result.as_ref())
            .map(|result| 100.0 * result.test_correct as f64 / result.test_images as f64)
            .collect();
        let names: Vec<&str> = group.iter().map(|&i| all[i].name.as_str()).collect();
        let (mean, deviation) = mean_and_deviation(&percents);
        let mut text: Markup = format!("{} differ only in the seed: test accuracy ", names.join(", ")).into();
        text.push(element("b", &[], format!("{mean:.2} % on average, standard deviation {deviation:.2} points")));
        text.push(format!(" ({} runs, n − 1 in the denominator).", group.len()));
        page.paragraph(text);
    }
    page.note(
        "The standard error follows from the number of test images alone. It does not include the variation from seed \
         to seed.",
    );
    title
}

/// A row of the table, with the columns `own` for what is not the same in all runs.
fn row(i: usize, examined: &Examined, own: &[&str]) -> Markup {
    let run = &examined.run;
    let result = run.result.as_ref();
    let known = |value: Option<String>| value.unwrap_or_else(|| "–".to_string());
    let error =
        |result: &Outcome| format!("{:.2} points", 100.0 * standard_error(result.test_correct, result.test_images));
    let mut row = element("td", &[], named(i, &run.name));
    row.push(element("td", &[], element("b", &[], known(result.map(accuracy)))));
    let mut cells =
        vec![known(result.map(error)), known(result.map(|result| text::thousands(result.test_images as u64)))];
    cells.extend(own.iter().map(|column| if *column == "model" { run.recipe.model.clone() } else { data(examined) }));
    cells.extend([
        run.recipe.name.clone(),
        run.recipe.seed.to_string(),
        format!("{} of {}", run.epochs.len(), run.recipe.epochs),
        text::duration(run.seconds()),
        known(result.and_then(|result| result.peak_memory_bytes).map(text::bytes)),
    ]);
    cells.into_iter().for_each(|cell| row.push(element("td", &[], cell)));
    row.push(element("td", &[], element("code", &[], known(result.map(|result| result.fingerprint.clone())))));
    element("tr", &[], row)
}
