//! The sections of the page, each about one question.

use super::chart::confusion::WITH_NUMBERS;
use super::figures::{Overlay, Single, numbers, range};
use super::markup::{Markup, element};
use super::network::{self, Judgement, Set};
use super::page::{Examined, Writer, named, table};
use super::pictures;
use super::run::Run;
use super::summary::median_and_range;
use crate::cli::{Result, text};

impl Writer {
    pub fn training(&mut self, runs: &[Examined]) {
        self.section("Training");
        let all: Vec<&Run> = runs.iter().map(|examined| &examined.run).collect();
        if all.iter().all(|run| run.epochs.is_empty()) {
            return self.note("No epoch is finished yet, so there are no curves.");
        }
        let curves = Overlay(&all);
        let without: Vec<&str> =
            all.iter().filter(|run| run.best_epoch().is_none()).map(|run| run.name.as_str()).collect();
        let mut measured = "The training accuracy is measured batch by batch while the weights change.".to_string();
        let best = |run: &&Run| {
            run.best_epoch().map(|(epoch, top1)| format!("{} {:.2} % in epoch {epoch}", run.name, 100.0 * top1))
        };
        let best: Vec<String> = all.iter().filter_map(best).collect();
        if runs.len() > 1 && !best.is_empty() {
            measured += &format!(" The best epochs: {}.", best.join(", "));
        }
        let zero_lr = all.iter().any(|run| run.epochs.iter().any(|epoch| epoch.lr <= 0.0));
        let rate = match zero_lr {
            true => "Of the last step of each epoch. A logarithmic axis cannot show a rate of 0.",
            false => "Of the last step of each epoch.",
        };
        self.charts(vec![
            (
                curves.loss(),
                "On the training images the mean over the epoch, including label smoothing if the recipe uses it; on \
                 validation images without it.",
            ),
            (curves.accuracy(), measured.as_str()),
            (curves.learning_rate(), rate),
            (curves.gradient_norm(), "Mean over the steps of an epoch; before clipping, if the recipe clips."),
        ]);
        match without.as_slice() {
            [] => {}
            _ if without.len() == runs.len() => self.note("No images were held out for validation."),
            some => self.note(format!("No images were held out for validation in {}.", some.join(", "))),
        }
    }

    pub fn classes(&mut self, runs: &[Examined]) {
        self.section("Classes and mistakes");
        self.class_by_class(runs);
        let mut has_key = false;
        for (i, Examined { run, findings }) in runs.iter().enumerate() {
            self.run_title(runs, i);
            findings.notes.iter().for_each(|note| self.note(note));
            match (&findings.judgement, &findings.network) {
                (Some(judged), Some(network)) => {
                    let single = Single { run, place: i, of: runs.len() };
                    self.judgement(&single, judged, network.file, network.epoch, &mut has_key);
                }
                _ => self.note("The confusion matrix and the mistakes are left out."),
            }
        }
    }

    fn judgement(&mut self, single: &Single, judged: &Judgement, file: &str, epoch: usize, has_key: &mut bool) {
        let evaluation = &judged.evaluation;
        let images = text::count(evaluation.images(), &format!("{} image", judged.set.name()));
        let caveat = match judged.set {
            Set::Test => "",
            Set::Validation => {
                " The epoch was selected on these images, so the accuracy is slightly too high; the test images are \
                 used only at the end of a run."
            }
        };
        self.paragraph(format!(
            "The {images}, classified with the weights of epoch {epoch} ({file}): {} correct.{caveat}",
            text::share(evaluation.top1, evaluation.images())
        ));
        let mut matrix = self.chart(
            single.confusion_matrix(judged),
            "Rows are true classes, columns predicted classes. Blue: correct, as a share of the class. Orange: wrong, \
             proportional to the square root of the number of images.",
        );
        let mut beside = self.chart(
            single.class_accuracy(judged),
            "The thin line on a bar is its standard error in both directions, the vertical line the accuracy on all \
             images shown.",
        );
        beside.push(pictures::confusions(judged));
        // All runs have the same classes.
        if judged.classes.len() > WITH_NUMBERS && !std::mem::replace(has_key, true) {
            matrix.push(pictures::key(&judged.classes));
        }
        let all: Markup = [matrix, beside].into_iter().map(|column| element("div", &[], column)).collect();
        self.push(element("div", &[("class", "charts")], all));
        if judged.mistakes.is_empty() {
            return self.note("No image was classified wrongly.");
        }
        self.push(element("h3", &[], "The most confident mistakes"));
        self.paragraph(format!(
            "Of the {}, those whose wrong class has the largest probability (softmax). Below each picture: \
             the predicted class and its probability; the true class and its probability; the index among the {} \
             images.",
            text::count(evaluation.images() - evaluation.top1, "mistake"),
            judged.set.name()
        ));
        self.push(pictures::mistakes(judged));
    }

    pub fn filters(&mut self, runs: &[Examined]) {
        self.section("First-layer filters");
        let mut explained = false;
        for (i, Examined { findings, .. }) in runs.iter().enumerate() {
            self.run_title(runs, i);
            let network = findings.network.as_ref();
            let Some((network, filters)) = network.and_then(|network| Some((network, network.filters.as_ref()?)))
            else {
                self.note("There are no weights to show.");
                continue;
            };
            let (count, _, height, width) = filters.dim();
            let scaled = match explained {
                true => "",
                false => {
                    " Red, green and blue are the weights of the three channels. Each filter is scaled to its own \
                     range, from 0 for its smallest weight to 255 for its largest, so the brightness of different \
                     filters cannot be compared."
                }
            };
            explained = true;
            self.paragraph(format!(
                "The {count} filters of conv1.weight, {height}x{width} pixels each, enlarged, after epoch {} \
                 ({}).{scaled}",
                network.epoch, network.file
            ));
            self.push(pictures::filters(filters));
        }
    }

    pub fn layers(&mut self, runs: &[Examined]) -> Result<()> {
        self.section("Gradients and updates of each layer");
        let all: Vec<&Run> = runs.iter().map(|examined| &examined.run).collect();
        if all.iter().all(|run| run.layers.gradient_norm.is_empty()) {
            self.note("No epoch is finished yet, so there is nothing to show.");
            return Ok(());
        }
        self.paragraph(
            "For the last step of every epoch: the norm of the gradient of the loss with respect to the weight, and \
             the ratio of update to weight, ‖Δw‖ / ‖w‖. The rows are the weights of the convolutions and of the linear \
             layer, the first layer at the top; batch norm and biases are left out (layers.csv contains them). The \
             smallest twentieth of the values has the darkest colour; grey means 0 or no value.",
        );
        let names = all.iter().map(|run| network::weight_names(&run.recipe.model)).collect::<Result<Vec<_>>>()?;
        let over_all = |values: &dyn Fn(&Run) -> &Vec<Vec<Option<f64>>>| {
            range(all.iter().zip(&names).flat_map(|(run, names)| numbers(run, names, values(run))).collect())
        };
        let gradients = over_all(&|run| &run.layers.gradient_norm);
        let ratios = over_all(&|run| &run.layers.update_ratio);
        let what = [
            ["layer_gradient_norm", "Gradient norm of each layer", "‖gradient‖, logarithmic"],
            ["layer_update_ratio", "Update to weight ratio of each layer", "‖Δw‖ / ‖w‖, logarithmic"],
        ];
        let mut charts = Vec::new();
        for (i, (run, names)) in all.iter().zip(&names).enumerate() {
            let single = Single { run, place: i, of: runs.len() };
            let caption = if runs.len() > 1 { "All runs use the same colour scale." } else { "" };
            charts.push((single.layers(what[0], names, &run.layers.gradient_norm, gradients), caption));
            charts.push((single.layers(what[1], names, &run.layers.update_ratio, ratios), caption));
        }
        self.charts(charts);
        Ok(())
    }

    pub fn times(&mut self, runs: &[Examined]) {
        self.section("Time and memory");
        let all: Vec<&Run> = runs.iter().map(|examined| &examined.run).collect();
        if all.iter().all(|run| run.times.is_empty()) {
            return self.note("No epoch is finished yet, so there are no times.");
        }
        let mut rows = Markup::new();
        for (i, run) in all.iter().enumerate() {
            let seconds: Vec<f64> = run.times.iter().map(|time| time.seconds).collect();
            let speed: Vec<f64> = run.times.iter().map(|time| time.images_per_second).collect();
            let three = |values: &[f64], decimals: usize| {
                let found = median_and_range(values);
                found.map_or("–".to_string(), |[median, low, high]| {
                    format!("{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
                })
            };
            let peak = run.result.as_ref().and_then(|result| result.peak_memory_bytes);
            let mut row = Markup::new();
            if runs.len() > 1 {
                row.push(element("td", &[("class", "name")], named(i, &run.name)));
            }
            for cell in [
                text::duration(run.seconds()),
                three(&seconds, 1),
                three(&speed, 0),
                peak.map_or("unknown".to_string(), text::bytes),
            ] {
                row.push(element("td", &[], cell));
            }
            rows.push(element("tr", &[], row));
        }
        let mut header = vec!["all epochs", "seconds per epoch, median", "images per second, median", "peak memory"];
        if runs.len() > 1 {
            header.insert(0, "run");
        }
        self.push(table(&header, rows));
        self.note(
            "Training only: the times do not include evaluations, and images per second counts training images. The \
             peak memory is that of the last process of the run, and is known when the run is finished.",
        );
        let curves = Overlay(&all);
        self.charts(vec![(curves.seconds_per_epoch(), ""), (curves.images_per_second(), "")]);
    }

    pub fn configuration(&mut self, runs: &[Examined]) {
        self.section("Configuration");
        if runs.len() == 1 {
            self.paragraph(Markup::written_here(
                "The file <code>config.toml</code> of the run; <code>resnet train --config</code> starts the same run \
                 again.",
            ));
        }
        for (i, Examined { run, .. }) in runs.iter().enumerate() {
            self.run_title(runs, i);
            self.push(element("pre", &[], run.config_text.trim_end()));
        }
    }
}
