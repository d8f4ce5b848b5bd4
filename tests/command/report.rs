//! `resnet report`: a page contains the results of the run and the real predictions of its network, and needs no other file.

use super::common::{Folder, from_png};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use ndarray::{Array3, Axis, s};
use resnet_by_hand::data::{Dataset, Normalization, embedded, picture};
use resnet_by_hand::engine::Engine;
use resnet_by_hand::model::{Architecture, ResNet};
use resnet_by_hand::weights;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const TRAIN: &str = "train --train-images 120 --batch-size 25 --epochs 2 --eval-batch-size 100";

/// The folder of a small run with 30 validation images.
fn trained(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.has_run(&format!("{TRAIN} --validation 30 --seed 5"), "run");
    folder
}

/// A copy of a run in the same folder.
fn copy(folder: &Folder, from: &str, to: &str) {
    fs::create_dir_all(folder.path(to)).unwrap();
    for entry in fs::read_dir(folder.path(from)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap().is_dir() {
            true if name == "report" => {}
            true => copy(folder, &format!("{from}/{name}"), &format!("{to}/{name}")),
            false => {
                fs::copy(entry.path(), folder.path(to).join(name)).unwrap();
            }
        }
    }
}

/// Changes a file of a run.
#[track_caller]
fn change(folder: &Folder, file: &str, from: &str, to: &str) {
    let text = folder.read(file);
    assert!(text.contains(from), "no `{from}` in\n{text}");
    fs::write(folder.path(file), text.replacen(from, to, 1)).unwrap();
}

/// Every file of a report.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Every text between `from` and `to`.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    text.split(from).skip(1).map(|rest| rest.split(to).next().unwrap()).collect()
}

/// The counts of a confusion matrix: correct and wrong, from the notes on its cells.
fn counts(svg: &str) -> (usize, usize) {
    let (mut right, mut wrong) = (0, 0);
    for note in between(svg, "<title>", "</title>") {
        let number = |text: &str| text.split(' ').next().unwrap().parse::<usize>().unwrap();
        match note.split_once(" classified as ") {
            Some((_, rest)) => wrong += number(rest.rsplit_once(": ").unwrap().1),
            None => right += number(note.rsplit_once(": ").unwrap().1),
        }
    }
    (right, wrong)
}

/// Every tag that is opened is closed, in order, and there is no other `<` or `&`.
#[track_caller]
pub fn assert_well_formed(markup: &str) {
    let mut open = Vec::new();
    let mut rest = markup;
    while let Some(start) = rest.find('<') {
        let tag = &rest[start + 1..];
        let end = if tag.starts_with("!--") { tag.find("-->").unwrap() + 2 } else { tag.find('>').unwrap() };
        let name = tag[..end].split([' ', '\n']).next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "in …{}", &tag[..end]),
            None if name.starts_with('!') || ["meta", "img", "br"].contains(&name) => {}
            None => open.push(name),
        }
        rest = &tag[end + 1..];
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    for entity in between(markup, "&", ";") {
        assert!(["amp", "lt", "gt", "quot", "#39"].contains(&entity), "&{entity};");
    }
}

/// The page refers to nothing outside of it.
#[track_caller]
pub fn assert_self_contained(html: &str) {
    for word in ["http:", "https:", "<script", "<link", "<iframe", "@import", "url(", "file:", "javascript:", "srcset"]
    {
        assert!(!html.contains(word), "{word}");
    }
    for address in between(html, "src=", " ").into_iter().chain(between(html, "href=", " ")) {
        let own = ["\"data:image/png;base64,", "\"#"].iter().any(|start| address.starts_with(start));
        assert!(own, "{}", &address[..address.len().min(60)]);
    }
}

#[test]
fn a_report_says_what_the_run_found_and_needs_nothing_else() {
    let folder = trained("report");
    let stdout = folder.ok("report run");
    assert!(stdout.contains("run/report/report.html") && !stdout.contains("WARNING"), "{stdout}");
    let html = folder.read("run/report/report.html");
    assert_self_contained(&html);
    assert_well_formed(&html);

    let result: Value = serde_json::from_str(&folder.read("run/result.json")).unwrap();
    let (correct, images) = (result["test_correct"].as_u64().unwrap(), result["test_images"].as_u64().unwrap());
    let p = correct as f64 / images as f64;
    let epoch = result["tested_weights_of_epoch"].as_u64().unwrap();
    for part in [
        format!(">{:.2} %<", 100.0 * p),
        format!("{correct} of {images} images; standard error {:.2} points", 100.0 * (p * (1.0 - p) / 500.0).sqrt()),
        format!("{:.4}", result["test_loss"].as_f64().unwrap()),
        format!("({} of {images})", result["test_top5"]),
        result["fingerprint"].as_str().unwrap().to_string(),
        format!("tested: epoch {epoch}, the best on the validation images"),
        format!("The {images} test images, classified with the weights of epoch {epoch} (best.safetensors)"),
        "90 for training, 30 for validation, 500 for testing".to_string(),
        "resnet8, 75,290 parameters".to_string(),
        "The 16 filters of conv1.weight, 3x3 pixels each".to_string(),
    ] {
        assert!(html.contains(&part), "`{part}` is missing");
    }
    // The whole configuration, its quotation marks escaped.
    assert!(html.contains(&folder.read("run/config.toml").trim_end().replace('"', "&quot;")));

    let files = files(&folder.path("run/report"));
    let stems = [
        "class_accuracy",
        "confusion_matrix",
        "gradient_norm",
        "images_per_second",
        "layer_gradient_norm",
        "layer_update_ratio",
        "learning_rate",
        "loss",
        "seconds_per_epoch",
        "validation_accuracy",
    ];
    let mut expected: Vec<String> =
        stems.iter().flat_map(|stem| ["png", "svg"].map(|end| format!("{stem}.{end}"))).collect();
    expected.push("report.html".to_string());
    expected.sort();
    assert_eq!(files.keys().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    for stem in stems {
        let svg = std::str::from_utf8(&files[&format!("{stem}.svg")]).unwrap();
        assert_well_formed(svg);
        assert!(svg.contains("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 420 "), "{stem}");
        let png = from_png(&files[&format!("{stem}.png")]);
        let height: f64 = between(svg, "viewBox=\"0 0 420 ", "\"")[0].parse().unwrap();
        assert_eq!(png.dim(), ((2.0 * height).ceil() as usize, 840, 3), "{stem}");
        // White, with something drawn on it.
        let dark = png.lanes(Axis(2)).into_iter().filter(|pixel| pixel.iter().all(|&c| c < 120)).count();
        assert!(png.slice(s![0, 0, ..]).iter().all(|&c| c == 255) && dark > 500, "{stem}: {dark}");
    }
    assert_eq!(
        counts(&folder.read("run/report/confusion_matrix.svg")),
        (correct as usize, (images - correct) as usize)
    );
}

/// The model of a run, with the weights of a file of it.
fn model(path: &Path) -> ResNet<f32> {
    let mut model = ResNet::<f32>::zeroed(&Architecture::by_name("resnet8").unwrap()).unwrap();
    weights::load(path, &mut model).unwrap();
    model
}

/// `(index, class, probability)` of every image that is classified wrongly, in the same batches as in the run.
fn mistakes(model: &ResNet<f32>, dataset: &Dataset) -> Vec<(usize, usize, f64)> {
    let mut mistakes = Vec::new();
    for from in (0..dataset.len()).step_by(100) {
        let batch = dataset.pixels.slice(s![from..dataset.len().min(from + 100), .., .., ..]);
        let logits = Engine::default().predict(model, &Normalization::CIFAR10.apply(batch).unwrap()).unwrap();
        for (index, logits) in (from..).zip(logits.outer_iter()) {
            let logits: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
            let class = (0..10).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            if class != usize::from(dataset.labels[index]) {
                // p = 1 / Σ exp(z − z_class).
                let p = 1.0 / logits.iter().map(|z| (z - logits[class]).exp()).sum::<f64>();
                mistakes.push((index, class, p));
            }
        }
    }
    mistakes
}

#[test]
fn the_mistakes_shown_are_the_surest_there_are() {
    let folder = trained("mistakes");
    folder.ok("report run");
    let html = folder.read("run/report/report.html");
    let test = embedded::load().test;
    let mut wrong = mistakes(&model(&folder.path("run/best.safetensors")), &test);
    wrong.sort_by(|a, b| b.2.total_cmp(&a.2));

    let pictures = between(&html, "<div class=\"pictures\">", "</div>")[0];
    let shown = between(pictures, "<figure>", "</figure>");
    assert_eq!(shown.len(), 18);
    for (figure, &(index, class, p)) in shown.iter().zip(&wrong) {
        assert_eq!(between(figure, "no. ", "<"), [index.to_string()]);
        let target = &test.classes[usize::from(test.labels[index])];
        assert!(figure.contains(&format!("alt=\"{target}, classified as {}\"", test.classes[class])), "{figure}");
        assert!(figure.contains(&format!("<b>{}</b>", test.classes[class])), "{figure}");
        // More decimals are only for probabilities that two epochs do not reach.
        assert!(p < 0.9999 && figure.contains(&format!("</b> {:.2}\u{a0}%", 100.0 * p)), "{p} in {figure}");
        let bytes = BASE64_STANDARD.decode(between(figure, "base64,", "\"")[0]).unwrap();
        assert_eq!(from_png(&bytes), test.image(index));
    }

    // The first filter, from the weights file: the smallest of its 27 weights is 0, the largest 255.
    let mut filter = None;
    resnet_by_hand::Parameters::visit(&model(&folder.path("run/best.safetensors")), "", &mut |name, _, w| {
        if name == "conv1.weight" {
            filter = Some(w.index_axis(Axis(0), 0).to_owned().into_shape_with_order((3, 3, 3)).unwrap());
        }
    });
    let filter = filter.unwrap();
    let source = between(between(&html, "<div class=\"filters\">", "</div>")[0], "base64,", "\"")[0];
    let picture = from_png(&BASE64_STANDARD.decode(source).unwrap());
    let (low, high) = filter.iter().fold((f32::MAX, f32::MIN), |(low, high), &w| (low.min(w), high.max(w)));
    assert_eq!(picture.dim(), (3, 3, 3));
    for ((y, x, c), &byte) in picture.indexed_iter() {
        let expected = 255.0 * (filter[[c, y, x]] - low) / (high - low);
        assert!((f32::from(byte) - expected).abs() <= 0.51, "{x} {y} {c}");
    }
}

/// The points of the lines of an SVG whose attributes have `like`.
fn polylines(svg: &str, like: &str) -> Vec<Vec<[f64; 2]>> {
    let number = |text: &str| text.parse::<f64>().unwrap();
    let point = |text: &str| text.split_once(',').map(|(x, y)| [number(x), number(y)]).unwrap();
    let lines = between(svg, "<polyline points=\"", ">").into_iter().filter(|line| line.contains(like));
    lines.map(|line| line.split('"').next().unwrap().split(' ').map(point).collect()).collect()
}

#[test]
fn curves_go_through_the_numbers_of_the_run() {
    let folder = trained("curves");
    folder.ok("report run");
    let rows: Vec<Vec<f64>> = folder
        .read("run/metrics.csv")
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|field| field.parse().unwrap()).collect())
        .collect();
    // From loss and accuracy to heights: any two labels of the vertical axis give the scale.
    for (stem, columns) in [("loss", [2, 7]), ("validation_accuracy", [3, 8])] {
        let svg = folder.read(&format!("run/report/{stem}.svg"));
        let labels: Vec<[f64; 2]> = between(&svg, "<text ", "</text>")
            .into_iter()
            .filter(|text| text.contains("text-anchor=\"end\""))
            .map(|text| {
                // A label's baseline is 4 below its line.
                let y: f64 = between(text, "y=\"", "\"")[0].parse().unwrap();
                [text.rsplit('>').next().unwrap().parse().unwrap(), y - 4.0]
            })
            .collect();
        let ([low, bottom], [high, top]) = (labels[0], labels[labels.len() - 1]);
        let frame = polylines(&svg, "stroke-width=\"1\"").concat();
        let [left, right] = [f64::min, f64::max].map(|which| frame.iter().map(|point| point[0]).reduce(which).unwrap());
        // The legend's lines are grey.
        let lines = polylines(&svg, "stroke=\"#0072b2\"");
        assert_eq!(lines.len(), columns.len(), "{stem}");
        for (line, &column) in lines.iter().zip(&columns) {
            assert_eq!(line.len(), 2, "{stem}");
            for (epoch, (point, row)) in line.iter().zip(&rows).enumerate() {
                let value = if stem == "loss" { row[column] } else { 100.0 * row[column] };
                let x = left + (right - left) * (epoch + 1) as f64 / 2.0;
                let y = bottom + (top - bottom) * (value - low) / (high - low);
                // Two decimals, of the point and of the ends it is computed from.
                assert!(
                    (point[0] - x).abs() <= 0.015 && (point[1] - y).abs() <= 0.015,
                    "{stem}: {point:?} for {x}, {y}"
                );
            }
        }
    }
}

#[test]
fn the_same_run_gives_the_same_bytes_and_only_reports_are_replaced() {
    let folder = trained("bytes");
    folder.ok("report run");
    let first = files(&folder.path("run/report"));
    folder.ok("report run --threads 1");
    folder.ok("report run --out elsewhere/deep --threads 3");
    assert!(first == files(&folder.path("run/report")) && first == files(&folder.path("elsewhere/deep")));

    // A chart of an earlier report that this one does not have is removed, all other files stay.
    let charts = ["confusion_matrix_run2.svg", "training_accuracy.png"];
    fs::write(folder.path("elsewhere/deep").join(charts[0]), &first["loss.svg"]).unwrap();
    fs::write(folder.path("elsewhere/deep").join(charts[1]), &first["loss.png"]).unwrap();
    fs::write(folder.path("elsewhere/deep/training_accuracy.svg"), "<svg>mine</svg>").unwrap();
    fs::write(folder.path("elsewhere/deep/notes.txt"), "resnet report").unwrap();
    folder.ok("report run --out elsewhere/deep");
    let mut kept = files(&folder.path("elsewhere/deep"));
    assert_eq!(kept.remove("training_accuracy.svg"), Some(b"<svg>mine</svg>".to_vec()));
    assert_eq!(kept.remove("notes.txt"), Some(b"resnet report".to_vec()));
    assert!(kept == first);

    // A file that no report wrote is not replaced, and nothing is written beside it.
    for name in ["report.html", "learning_rate.png"] {
        fs::create_dir(folder.path("mine")).unwrap();
        fs::write(folder.path("mine").join(name), "mine").unwrap();
        folder.fails("report run --out mine", 1, &[name, "was not made by `resnet report`", "--out"]);
        assert_eq!(files(&folder.path("mine")), BTreeMap::from([(name.to_string(), b"mine".to_vec())]));
        fs::remove_dir_all(folder.path("mine")).unwrap();
    }
    fs::write(folder.path("file"), "mine").unwrap();
    folder.fails("report run --out file", 1, &["file: expected a folder"]);
    folder.fails("report run --out file/report", 1, &["file"]);
    assert_eq!(folder.read("file"), "mine");
}

#[test]
fn a_run_that_is_not_over_is_shown_as_far_as_it_has_come() {
    let folder = trained("going");
    // The folder of a run that was killed after its first epoch, in the middle of a line.
    copy(&folder, "run", "going");
    fs::remove_file(folder.path("going/result.json")).unwrap();
    for file in ["metrics.csv", "layers.csv", "times.csv"] {
        let text = folder.read(&format!("going/{file}"));
        let first: String =
            text.lines().filter(|line| !line.starts_with("2,")).map(|line| format!("{line}\n")).collect();
        fs::write(folder.path(&format!("going/{file}")), first + "2,0.01").unwrap();
    }
    let stdout = folder.ok("report going");
    assert!(stdout.contains("unfinished: 1 of 2 epochs") && !stdout.contains("WARNING"), "{stdout}");
    let html = folder.read("going/report/report.html");
    assert_self_contained(&html);
    assert_well_formed(&html);
    for part in
        ["The run is unfinished: 1 of 2 epochs done", "best validation accuracy so far", "The 30 validation images"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("test accuracy") && !html.contains(" test images, classified"));
    let validated =
        embedded::load().train.subset(&(0..120).collect::<Vec<_>>()).unwrap().split_validation(30, 5).unwrap().1;
    let wrong = mistakes(&model(&folder.path("going/best.safetensors")), &validated).len();
    assert_eq!(counts(&folder.read("going/report/confusion_matrix.svg")), (30 - wrong, wrong));

    // Without validation images, the test images are not used instead.
    folder.has_run(TRAIN, "plain");
    fs::remove_file(folder.path("plain/result.json")).unwrap();
    let stdout = folder.ok("report plain");
    assert!(stdout.contains("has no validation images"), "{stdout}");
    let html = folder.read("plain/report/report.html");
    assert!(
        html.contains("The confusion matrix and the mistakes are left out") && !html.contains("class=\"pictures\"")
    );
    assert!(html.contains("No images were held out for validation"));
    let names: Vec<String> = files(&folder.path("plain/report")).into_keys().collect();
    assert!(
        names.contains(&"training_accuracy.svg".to_string()) && !names.iter().any(|name| name.contains("confusion"))
    );

    // Before the end of the first epoch there are no weights and no lines.
    for file in ["metrics.csv", "layers.csv", "times.csv"] {
        let columns = folder.read(&format!("going/{file}")).lines().next().unwrap().to_string();
        fs::write(folder.path(&format!("going/{file}")), columns + "\n").unwrap();
    }
    // Only the first lines of the first epoch, while the others are being written: they are not all layers.
    let begun: String = folder.read("run/layers.csv").lines().take(3).map(|line| format!("{line}\n")).collect();
    fs::write(folder.path("going/layers.csv"), begun).unwrap();
    fs::remove_file(folder.path("going/weights.safetensors")).unwrap();
    fs::remove_file(folder.path("going/best.safetensors")).unwrap();
    folder.ok("report going");
    let html = folder.read("going/report/report.html");
    assert_self_contained(&html);
    assert_well_formed(&html);
    assert!(html.contains("0 of 2 epochs done") && html.contains("No epoch is finished yet, so there are no curves"));
    assert_eq!(files(&folder.path("going/report")).into_keys().collect::<Vec<_>>(), ["report.html"]);
}

#[test]
fn images_that_are_gone_or_others_are_said_to_be() {
    let folder = trained("images");
    folder.ok("report run");
    let whole = files(&folder.path("run/report"));
    copy(&folder, "run", "moved");
    change(&folder, "moved/config.toml", "data = \"embedded\"", "data = \"nowhere\"");
    let stdout = folder.ok("report moved");
    assert!(stdout.contains("`nowhere` does not exist") && stdout.contains("--data"), "{stdout}");
    let html = folder.read("moved/report/report.html");
    assert!(html.contains("resnet8 on nowhere") && html.contains("No images could be evaluated"));
    assert!(html.contains("class=\"filters\"") && !html.contains("class=\"pictures\""));
    assert!(!folder.path("moved/report/confusion_matrix.svg").exists());
    // Together with a run whose images exist: its images are not used for the other run.
    let stdout = folder.ok("report run moved --out both");
    assert!(stdout.contains("`nowhere` does not exist"), "{stdout}");
    // With the new location.
    folder.ok("report moved --data embedded");
    assert!(files(&folder.path("moved/report"))["confusion_matrix.svg"] == whole["confusion_matrix.svg"]);
    folder.fails("report moved --data gone", 1, &["gone does not exist"]);
    folder.fails("report run --data embedded", 2, &["--data", "embedded in the program"]);

    // Training images that differ from those of the checkpoint, and too few of them.
    copy(&folder, "run", "other");
    change(&folder, "other/config.toml", "train_images = 120", "train_images = 119");
    let stdout = folder.ok("report other");
    assert!(stdout.contains("WARNING        The images are not those of the run"), "{stdout}");
    let html = folder.read("other/report/report.html");
    assert!(html.contains("<p class=\"warning\"><b>Warning: </b>The images are not those of the run"));
    assert!(!html.contains("class=\"pictures\""));
    change(&folder, "other/config.toml", "train_images = 119", "train_images = 1401");
    assert!(folder.ok("report other").contains("WARNING        The images are not those of the run"));

    // Without a checkpoint the images cannot be checked.
    copy(&folder, "run", "bare");
    fs::remove_dir_all(folder.path("bare/checkpoints")).unwrap();
    let stdout = folder.ok("report bare");
    assert!(stdout.contains("could not be checked") && !stdout.contains("WARNING"), "{stdout}");
}

#[test]
fn numbers_and_weights_that_do_not_belong_together_are_said_loudly() {
    let folder = trained("loud");
    let result: Value = serde_json::from_str(&folder.read("run/result.json")).unwrap();
    let correct = result["test_correct"].as_u64().unwrap();
    copy(&folder, "run", "changed");
    let [from, to] = [correct, correct + 1].map(|correct| format!("\"test_correct\": {correct}"));
    change(&folder, "changed/result.json", &from, &to);
    let stdout = folder.ok("report changed");
    let says = format!("({correct} of 500) are correct now, but result.json contains");
    assert!(
        stdout.contains("WARNING        The results differ from those of the run") && stdout.contains(&says),
        "{stdout}"
    );
    assert!(folder.read("changed/report/report.html").contains(&says));

    // For an unfinished run, the weights file contains the accuracy of its epoch.
    fs::remove_file(folder.path("changed/result.json")).unwrap();
    assert!(!folder.ok("report changed").contains("WARNING"));
    let best = folder.path("changed/best.safetensors");
    let mut other = model(&best);
    let mut about = weights::read_metadata(&best).unwrap();
    let accuracy: f64 = about["validation_accuracy"].parse().unwrap();
    about.insert("validation_accuracy".to_string(), (1.0 - accuracy).to_string());
    weights::save(&best, &other, &about).unwrap();
    let stdout = folder.ok("report changed");
    assert!(
        stdout.contains("WARNING        The results differ from those of the run: of the validation images"),
        "{stdout}"
    );

    // Weights that are NaN.
    resnet_by_hand::Parameters::visit_mut(&mut other, "", &mut |_, _, mut tensor| tensor.fill(f32::NAN));
    weights::save(&best, &other, &about).unwrap();
    let stdout = folder.ok("report changed");
    assert!(stdout.contains("WARNING        The loss of the validation images"), "{stdout}");

    // The weights that were tested are missing; those of another epoch are not used instead.
    let tested = result["tested_weights_of_epoch"].as_u64().unwrap();
    copy(&folder, "run", "gone");
    let says = [format!("\"tested_weights_of_epoch\": {tested}"), "\"tested_weights_of_epoch\": 7".to_string()];
    change(&folder, "gone/result.json", &says[0], &says[1]);
    let stdout = folder.ok("report gone");
    assert!(stdout.contains("WARNING        The weights that were tested, those of epoch 7, are not"), "{stdout}");
    assert!(!folder.path("gone/report/confusion_matrix.svg").exists());
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    let folder = trained("wrong");
    for (file, from, to, parts) in [
        ("metrics.csv", "\n2,", "\n2,x", &["metrics.csv: line 3: expected a number as `lr`", "found `x"][..]),
        ("metrics.csv", "\n2,", "\n4,", &["metrics.csv: line 3: expected epoch 2", "found `4,"]),
        ("metrics.csv", "epoch,lr", "epoch,rate", &["metrics.csv: line 1: expected the names of the columns"]),
        ("times.csv", "\n2,", "\n2,1,", &["times.csv: line 3: expected 3 values (epoch,seconds,images_per_second)"]),
        ("layers.csv", "1,bn1.weight", "1,bn1.weight,7", &["layers.csv: line 3: expected 5 values"]),
        ("layers.csv", "\n2,bn1.weight", "\n2,fc.weight", &["layers.csv: line ", "expected `bn1.weight` in epoch 2"]),
        ("result.json", "\"test_correct\"", "\"right\"", &["result.json: expected a whole number as `test_correct`"]),
        ("result.json", "{", "", &["result.json: "]),
        ("config.toml", "epochs = 2", "epochs = 0", &["config.toml: `epochs` = 0"]),
        ("config.toml", "resnet8", "resnet9", &["config.toml: ", "resnet9"]),
    ] {
        copy(&folder, "run", "damaged");
        change(&folder, &format!("damaged/{file}"), from, to);
        folder.fails("report damaged", 1, parts);
        assert!(!folder.path("damaged/report").exists(), "{file}");
        fs::remove_dir_all(folder.path("damaged")).unwrap();
    }
    copy(&folder, "run", "damaged");
    let mut result: Value = serde_json::from_str(&folder.read("run/result.json")).unwrap();
    (result["test_correct"], result["test_images"]) = (0.into(), 0.into());
    fs::write(folder.path("damaged/result.json"), result.to_string()).unwrap();
    folder.fails("report damaged", 1, &["result.json: expected at most as many images"]);
    fs::copy(folder.path("run/result.json"), folder.path("damaged/result.json")).unwrap();
    fs::write(folder.path("damaged/best.safetensors"), "x").unwrap();
    folder.fails("report damaged", 1, &["best.safetensors"]);
    folder.fails("report nowhere", 1, &["nowhere does not exist", "the folder of a run"]);
    folder.fails("report .", 1, &["expected the folder of a run", "config.toml"]);
    folder.fails("report run/config.toml", 1, &["expected the folder of a run"]);
    folder.fails("report run run/../run", 2, &["run/../run is given twice"]);
    folder.fails("report", 2, &["RUN"]);
    let many = (0..15).map(|i| format!(" r{i}")).collect::<String>();
    folder.fails(&format!("report{many}"), 2, &["at most 14 runs", "got 15"]);
}

#[test]
fn several_runs_are_laid_over_each_other() {
    let folder = Folder::new("several");
    for seed in [1, 2, 3] {
        folder.ok(&format!("{TRAIN} --validation 30 --seed {seed} --out seed-{seed}"));
    }
    folder.ok(&format!("{TRAIN} --lr 0.02 --seed 4 --out runs/seed-1"));
    copy(&folder, "seed-2", "again");
    let stdout = folder.ok("report seed-1 seed-2 seed-3 runs/seed-1 again --out all");
    assert!(!stdout.contains("WARNING"), "{stdout}");
    let html = folder.read("all/report.html");
    assert_self_contained(&html);
    assert_well_formed(&html);
    let mut percents = Vec::new();
    for run in ["seed-1", "seed-2", "seed-3", "runs/seed-1"] {
        let result: Value = serde_json::from_str(&folder.read(&format!("{run}/result.json"))).unwrap();
        percents.push(100.0 * result["test_accuracy"].as_f64().unwrap());
        assert!(html.contains(&format!("<b>{:.2} %</b>", percents.last().unwrap())), "{run}");
        assert!(html.contains(result["fingerprint"].as_str().unwrap()), "{run}");
    }
    // The fourth has another learning rate, and the fifth is the second once more: n = 3.
    let seeds = &percents[..3];
    let mean = seeds.iter().sum::<f64>() / 3.0;
    let deviation = (seeds.iter().map(|p| (p - mean) * (p - mean)).sum::<f64>() / 2.0).sqrt();
    let said = format!("<b>{mean:.2} % on average, standard deviation {deviation:.2} points</b> (3 runs");
    assert!(html.contains(&format!("seed-1, seed-2, seed-3 differ only in the seed: test accuracy {said}")), "{said}");
    // Runs of the same name are named by their paths.
    let svg = folder.read("all/learning_rate.svg");
    assert!(svg.contains(">seed-1</text>") && svg.contains(">runs/seed-1</text>") && svg.contains(">seed-3</text>"));
    let lines = between(&svg, "<polyline points=", ">");
    let colours: Vec<&str> = lines
        .iter()
        .filter(|line| line.contains("stroke-width=\"2\""))
        .map(|line| between(line, "stroke=\"", "\"")[0])
        .collect();
    let each = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];
    // In the legend and in the plot.
    assert_eq!(colours, [each, each].concat());
    for name in ["confusion_matrix_run1.png", "confusion_matrix_run4.svg", "layer_update_ratio_run2.svg"] {
        assert!(folder.path("all").join(name).exists(), "{name}");
    }
    assert!(html.contains("<code>lr</code>") && html.contains("<td class=\"name\">0.02</td>"));
    assert!(html.contains("No images were held out for validation in runs/seed-1."));

    // Two runs, class by class; which images only one of them classifies correctly is computed again.
    folder.ok("report seed-1 seed-2 --out two");
    let html = folder.read("two/report.html");
    let test = embedded::load().test;
    let wrong = |run: &str| -> BTreeSet<usize> {
        let network = model(&folder.path(&format!("{run}/best.safetensors")));
        mistakes(&network, &test).into_iter().map(|(index, ..)| index).collect()
    };
    let (a, b) = (wrong("seed-1"), wrong("seed-2"));
    let (only_a, only_b) = (b.difference(&a).count(), a.difference(&b).count());
    let said = format!("only seed-1 classifies {only_a} correctly, and only seed-2 {only_b}.");
    assert!(html.contains(&said) && only_a + only_b > 0, "{said}");
    // What differs is at the top, before the curves.
    assert!(html.find("different setting").unwrap() < html.find("<h2>Training</h2>").unwrap());

    // The folder of repeated runs stands for its runs.
    fs::create_dir(folder.path("three")).unwrap();
    fs::write(folder.path("three/config.toml"), format!("repeat = 3\n{}", folder.read("seed-1/config.toml"))).unwrap();
    folder.fails("report three", 1, &["three: expected repeated runs, but none has begun yet"]);
    for seed in [1, 2] {
        fs::rename(folder.path(&format!("seed-{seed}")), folder.path(&format!("three/seed-{seed}"))).unwrap();
    }
    folder.ok("report three");
    // The same page, though the runs are elsewhere.
    assert!(folder.read("three/report/report.html") == html);
}

/// Six pictures of about one colour for each class, each a little different.
fn pictures(folder: &Folder, classes: &[&str]) {
    for (c, class) in classes.iter().enumerate() {
        let path = folder.path("photos").join(class);
        fs::create_dir_all(&path).unwrap();
        for i in 0..6 {
            let pixels = Array3::from_shape_fn((32, 32, 3), |(y, x, k)| (60 * c + 20 * i + (x * y + k) % 16) as u8);
            picture::write_png(&path.join(format!("{i}.png")), pixels.view()).unwrap();
        }
    }
}

#[test]
fn names_of_folders_stay_text_and_runs_on_different_classes_are_not_compared() {
    let folder = Folder::new("names");
    let evil = "<script>&\"";
    pictures(&folder, &[evil, "plain", "猫"]);
    folder.ok("train --data photos --model resnet8 --epochs 1 --batch-size 5 --out <b>run&");
    folder.ok("report <b>run& --out out");
    let html = folder.read("out/report.html");
    assert_self_contained(&html);
    assert_well_formed(&html);
    assert!(html.contains("&lt;script&gt;&amp;&quot;") && html.contains("猫"));
    assert!(html.contains("&lt;b&gt;run&amp;") && !html.contains("<b>run"));
    let svg = folder.read("out/confusion_matrix.svg");
    assert_well_formed(&svg);
    assert!(svg.contains(">&lt;script&gt;&amp;&quot;</text>"));
    // One image in five is for testing: one of the six of each class.
    let (right, wrong) = counts(&svg);
    assert_eq!(right + wrong, 3);
    folder.has_run(TRAIN, "other");
    folder.fails("report <b>run& other", 1, &["have different classes", "plain", "airplane"]);
}

#[test]
fn a_hundred_classes_have_a_picture_of_their_matrix() {
    let folder = Folder::new("hundred");
    let names: Vec<String> = (0..100).map(|i| format!("class-{i:02}")).collect();
    for (i, name) in names.iter().enumerate() {
        let path = folder.path("photos").join(name);
        fs::create_dir_all(&path).unwrap();
        for k in 0..2 {
            let pixels = Array3::from_shape_fn((8, 8, 3), |(y, x, c)| (2 * i + y * 3 + x * (c + k)) as u8);
            picture::write_png(&path.join(format!("{k}.png")), pixels.view()).unwrap();
        }
    }
    folder.ok("train --data photos --image-size 8 --model resnet8 --epochs 20 --batch-size 50 --no-augment --out run");
    folder.ok("report run");
    let html = folder.read("run/report/report.html");
    assert_self_contained(&html);
    assert_well_formed(&html);
    assert!(html.contains("The 40 classes with the lowest accuracy"));
    // The matrix has numbers; below it are the names.
    assert!(html.contains("The names of the 100 classes") && html.contains("<li>class-99</li></ol>"));
    // One image of each class was tested. Some are correct, and at least 40 are not: those are shown.
    let result: Value = serde_json::from_str(&folder.read("run/result.json")).unwrap();
    assert!((1..=60).contains(&result["test_correct"].as_u64().unwrap()), "{result}");
    let bars = folder.read("run/report/class_accuracy.svg");
    assert_eq!(bars.matches(">0.0 % (0 of 1)</text>").count(), 40);
    let svg = folder.read("run/report/confusion_matrix.svg");
    let source = between(&svg, "base64,", "\"")[0];
    let matrix = from_png(&BASE64_STANDARD.decode(source).unwrap());
    assert_eq!(matrix.dim(), (100, 100, 3));
    // A row for each class, with one tested image: one cell of the row is not white.
    let marked = matrix.map_axis(Axis(2), |pixel| pixel.iter().any(|&c| c != 255));
    assert!(marked.outer_iter().all(|row| row.iter().filter(|&&marked| marked).count() == 1));
}
