//! Files for TensorBoard: byte-identical to those of its own writer, and equal to the other files of a run.
//!
//! The golden file and the script that made it are in `tests/command/tensorboard/`; the test needs no Python.

use super::common::Folder;
use super::reader::{self, Scalars};
use resnet_by_hand::formats::tensorboard::hparams::{self, Metric, Setting};
use resnet_by_hand::formats::tensorboard::{scalars, start, version};
use std::fs;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn records_are_those_of_tensorboard_to_the_byte() {
    let one = |name: &str, value: f32| (name.to_string(), value);
    let many: Vec<_> =
        (0..500).map(|i| one(&format!("update_ratio/layer{i}.0.conv1.weight"), i as f32 / 1024.0)).collect();
    let records = [
        version(1700000000.25),
        start(1700000000.5, 3),
        scalars(1700000001.0, 0, &[one("train/loss", 0.0), one("train/accuracy", -0.0)]),
        scalars(1700000002.0, 127, &[one("train/loss", 0.1)]),
        scalars(1700000003.0, 128, &[one("train/loss", f32::INFINITY), one("größe/Übergang", -2.5e-40)]),
        scalars(1700000004.0, (1 << 32) + 5, &[one(&"t".repeat(200), 3.5)]),
        scalars(1700000005.0, 16384, &many),
    ];
    let golden = include_bytes!("tensorboard/golden.tfevents");
    let mut at = 0;
    for (place, record) in records.iter().enumerate() {
        assert!(golden[at..].starts_with(record), "record {place} differs: {record:02x?}");
        at += record.len();
    }
    assert_eq!(at, golden.len());
    // The reader of these tests also accepts what TensorBoard wrote.
    assert_eq!(reader::records(golden).len(), records.len());
}

#[test]
fn settings_are_those_of_tensorboard_to_the_byte() {
    let settings = [
        ("batch_size", Setting::Number(128.0)),
        ("clip_norm", Setting::Number(0.0)),
        ("flip", Setting::Bool(true)),
        ("mean", Setting::Text("[0.5, 0.25]".to_string())),
        ("nesterov", Setting::Bool(false)),
    ];
    let settings = settings.map(|(name, setting)| (name.to_string(), setting));
    let metrics = [
        Metric { run: "test", tag: "epoch/accuracy", title: "test accuracy" },
        Metric { run: "validation", tag: "epoch/loss", title: "validation loss" },
    ];
    let records =
        [version(1700000000.25), hparams::begin(1700000000.5, &settings, &metrics), hparams::end(1700000009.0)];
    assert!(records.concat() == include_bytes!("tensorboard/hparams.tfevents"));
}

/// What TensorBoard shows for a run. Of the top-5 accuracy on the validation images no other file has the values, so it is
/// checked here.
fn found(folder: &Folder, run: &str) -> Scalars {
    let mut found = reader::read_run(&folder.path(run));
    if let Some(top5) = found.remove("validation/epoch/top5") {
        let top1 = &found["validation/epoch/accuracy"];
        assert!(
            top5.len() == top1.len() && top5.iter().zip(top1).all(|(five, one)| five.0 == one.0 && five.1 >= one.1)
        );
    }
    found
}

/// The values in the other files of a run, under the names that TensorBoard shows.
fn expected(folder: &Folder, run: &str) -> Scalars {
    let mut expected = Scalars::new();
    let mut add = |name: String, epoch: &str, value: &str| {
        if let Ok(value) = value.parse::<f64>() {
            expected.entry(name).or_default().push((epoch.parse().unwrap(), value as f32));
        }
    };
    let rows = |file: &str| -> Vec<Vec<String>> {
        let csv = folder.read(&format!("{run}/{file}"));
        csv.lines().skip(1).map(|line| line.split(',').map(String::from).collect()).collect()
    };
    for row in rows("metrics.csv") {
        let [epoch, lr, loss, top1, top5, gradient_norm, _, validation_loss, validation_top1] = &row[..] else {
            panic!("columns {row:?}");
        };
        for (name, value) in [
            ("train/epoch_details/learning_rate", lr),
            ("train/epoch/loss", loss),
            ("train/epoch/accuracy", top1),
            ("train/epoch/top5", top5),
            ("train/epoch_details/gradient_norm", gradient_norm),
            ("validation/epoch/loss", validation_loss),
            ("validation/epoch/accuracy", validation_top1),
        ] {
            add(name.to_string(), epoch, value);
        }
    }
    for row in rows("layers.csv") {
        for (group, value) in ["weight_norm", "gradient_norm", "update_ratio"].iter().zip(&row[2..]) {
            add(format!("train/{group}/{}", row[1]), &row[0], value);
        }
    }
    for row in rows("times.csv") {
        add("train/epoch_details/images_per_second".to_string(), &row[0], &row[2]);
    }
    let result: serde_json::Value = serde_json::from_str(&folder.read(&format!("{run}/result.json"))).unwrap();
    let top5 = result["test_top5"].as_f64().unwrap() / result["test_images"].as_f64().unwrap();
    let [loss, accuracy] = ["test_loss", "test_accuracy"].map(|key| result[key].to_string());
    for (name, value) in [("loss", loss), ("accuracy", accuracy), ("top5", top5.to_string())] {
        add(format!("test/epoch/{name}"), &result["epochs"].to_string(), &value);
    }
    expected
}

const RUN: &str = "train --train-images 60 --validation 20 --batch-size 20 --seed 3";

#[test]
fn a_run_tells_tensorboard_what_its_other_files_say() {
    let folder = Folder::new("tensorboard-run");
    folder.ok(&format!("{RUN} --epochs 3 --validate-every 2 --out run"));
    let found = found(&folder, "run");
    assert_eq!(found, expected(&folder, "run"));
    // One file in each folder, three epochs, two of them validated; β has no ratio before its first step.
    for set in reader::SETS {
        assert_eq!(reader::files(&folder.path(&format!("run/{set}"))).len(), 1);
    }
    // Training, validation and test have the same names, so TensorBoard shows them in one card; and it shows the settings.
    let settings = fs::read(&reader::files(&folder.path("run"))[0]).unwrap();
    assert_eq!(reader::records(&settings).len(), 3);
    for text in ["_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info", "weight_decay"] {
        assert!(settings.windows(text.len()).any(|bytes| bytes == text.as_bytes()), "{text}");
    }
    let steps = |name: &str| found[name].iter().map(|(step, _)| *step).collect::<Vec<_>>();
    assert_eq!(steps("train/epoch/loss"), [1, 2, 3]);
    assert_eq!(steps("validation/epoch/accuracy"), [2, 3]);
    assert_eq!(steps("test/epoch/accuracy"), [3]);
    assert_eq!(found.len(), 6 + 2 + 3 + 3 * 23);
}

/// As after a kill in the record of the fourth epoch: half of it is written, and the last checkpoint is that of the second.
#[test]
fn a_resumed_run_tells_of_every_epoch_once() {
    let folder = Folder::new("tensorboard-resume");
    folder.ok(&format!("{RUN} --epochs 4 --keep-checkpoints 5 --out run"));
    let first = reader::files(&folder.path("run/train"))[0].clone();
    let whole = fs::read(&first).unwrap();
    let [.., last] = reader::records(&whole)[..] else { panic!("too few records") };
    let cut = whole.len() - (16 + last.len()) / 2;
    fs::write(&first, &whole[..cut]).unwrap();
    // It is not yet validated or tested.
    let validation = reader::files(&folder.path("run/validation"))[0].clone();
    let validated = fs::read(&validation).unwrap();
    let [.., last] = reader::records(&validated)[..] else { panic!("too few records") };
    fs::write(&validation, &validated[..validated.len() - 16 - last.len()]).unwrap();
    fs::remove_dir_all(folder.path("run/test")).unwrap();
    let mut checkpoints: Vec<_> =
        fs::read_dir(folder.path("run/checkpoints")).unwrap().map(|c| c.unwrap().path()).collect();
    checkpoints.sort();
    checkpoints[1..].iter().for_each(|checkpoint| fs::remove_file(checkpoint).unwrap());
    fs::remove_file(folder.path("run/result.json")).unwrap();

    let stdout = folder.ok("train --resume run");
    assert!(stdout.contains("after epoch 2 of 4"), "{stdout}");
    assert_eq!(found(&folder, "run"), expected(&folder, "run"));
    // The existing file does not change.
    let files = reader::files(&folder.path("run/train"));
    assert_eq!((files.len(), &files[0]), (2, &first));
    assert!(fs::read(&first).unwrap() == whole[..cut]);
}

/// `/dev/full` is a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_run_and_nothing_is_lost() {
    let folder = Folder::new("tensorboard-full");
    let long = format!("{} --epochs 8 --out run", RUN.replace("images 60", "images 200"));
    let child = folder.command(&long).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !folder.path("run/train").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    // From one epoch to the next the disk is full; its contents stay.
    let events = loop {
        match reader::files(&folder.path("run/train")).first() {
            Some(file) => break file.clone(),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    fs::hard_link(&events, folder.path("kept")).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path("full")).unwrap();
    fs::rename(folder.path("full"), &events).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let file = format!("run/train/{}", events.file_name().unwrap().to_string_lossy());
    for part in [
        format!("error: cannot append to {file}: No space left on device"),
        "the last checkpoint is in epoch ".to_string(),
        "resume with `resnet train --resume run`".to_string(),
    ] {
        assert!(stderr.contains(&part), "`{part}` is missing in\n{stderr}");
    }
    // With free space again, the events of all epochs are written.
    fs::rename(folder.path("kept"), &events).unwrap();
    folder.ok("train --resume run");
    assert_eq!(found(&folder, "run"), expected(&folder, "run"));
}
