//! The command `resnet` as people and scripts use it: its output, its exit codes, the files it writes.

use super::common::{Folder, photographs};
use super::report::{assert_self_contained, assert_well_formed};
use resnet_by_hand::formats;
use resnet_by_hand::tensors::Tensors;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The value of `key` in the lines `key   value` that the command prints.
#[track_caller]
fn value<'a>(stdout: &'a str, key: &str) -> &'a str {
    let found = stdout.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    found.unwrap_or_else(|| panic!("no `{key}` in\n{stdout}"))
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const TINY: &str = "train --train-images 60 --batch-size 25 --epochs 2 --eval-batch-size 100";

#[test]
fn help_and_version() {
    let folder = Folder::new("help");
    let help = folder.run("--help").ok();
    for part in ["train", "eval", "convert", "models", "gradcheck", "bench", "--threads", "Examples:", "resnet train"] {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
    let train = folder.run("train --help").ok();
    // The values of the recipes, from the recipes themselves.
    for part in [
        "paper:",
        "multistep:32000s,48000s@0.1",
        "resnet34-150:",
        "resnet34-cifar7x7",
        "quick:",
        "lr 0.4 onecycle",
        "demo:",
    ] {
        assert!(train.contains(part), "{part} is missing in\n{train}");
    }
    assert!(folder.run("train -h").ok().len() < train.len());
    assert_eq!(folder.run("--version").ok().trim(), format!("resnet {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(folder.run("help eval").ok(), folder.run("eval --help").ok());
    let bench = folder.run("bench --help").ok();
    for line in help.lines().chain(train.lines()).chain(bench.lines()) {
        assert!(line.chars().count() <= 110, "too long for a terminal: {line}");
    }
    assert!(files(&folder.0).is_empty());
}

/// Started by a launcher without MPI, every process would train into the folder of the others.
#[test]
#[cfg(not(feature = "mpi"))]
fn one_of_several_processes_says_that_mpi_is_missing() {
    let folder = Folder::new("processes");
    let run = |arguments: &str, variable: &str| folder.run_with(arguments, &[(variable, "4")]);
    for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
        let parts = ["one of 4 processes", "built without MPI", "--features mpi"];
        run(&format!("{TINY} --out x"), variable).fails(1, &parts);
    }
    run("models", "PMI_SIZE").fails(2, &["runs in one process, and 4 were started"]);
    assert!(files(&folder.0).is_empty());
}

#[test]
fn shards_are_a_setting_of_the_run() {
    let folder = Folder::new("shards");
    folder.fails(&format!("{TINY} --shards 3"), 2, &["power of two"]);
    folder.fails(&format!("{TINY} --shards 32"), 2, &["at least as many images as shards, got 32 of 25"]);
    folder.fails(&format!("{TINY} --shards 2 --engine reference"), 2, &["the reference adds over whole batches"]);
    let run = folder.ok(&format!("{TINY} --shards 4 --out a"));
    assert!(run.contains("batch size 25 in 4 shards"), "{run}");
    assert!(folder.read("a/config.toml").contains("shards = 4"));
    // Resumed with the same number, and no other.
    folder.ok(&format!("{TINY} --shards 4 --steps 4 --out b"));
    folder.fails("train --resume b --shards 2", 2, &["--shards is 2, but the run started with 4"]);
    folder.ok("train --resume b");
    for file in ["weights.safetensors", "metrics.csv", "layers.csv"] {
        assert!(
            fs::read(folder.path(&format!("a/{file}"))).unwrap()
                == fs::read(folder.path(&format!("b/{file}"))).unwrap()
        );
    }
}

#[test]
fn groups_of_batch_norm_are_a_setting_of_the_run() {
    let folder = Folder::new("norm-group");
    let parts = ["a batch has 25 images", "norm_group = 4", "divides it (1, 5, 25)", "24 or 28"];
    folder.fails(&format!("{TINY} --norm-group 4"), 2, &parts);
    let parts = ["6 or 7 images per shard", "divides it (1)", "20 or 40"];
    folder.fails(&format!("{TINY} --shards 4 --norm-group 5"), 2, &parts);
    let parts = ["a group of batch norm would contain a single image", "more than one value per channel"];
    folder.fails(&format!("{TINY} --model resnet18 --norm-group 1"), 2, &parts);
    let run = folder.ok(&format!("{TINY} --norm-group 5 --out a"));
    assert!(run.contains("batch size 25 (batch norm over groups of 5)"), "{run}");
    assert!(folder.read("a/config.toml").contains("norm_group = 5"));
    // Resumed with the same groups, and no others; the reference has them as well.
    folder.ok(&format!("{TINY} --norm-group 5 --steps 2 --out b"));
    folder.fails("train --resume b --norm-group 25", 2, &["--norm-group is 25, but the run started with 5"]);
    folder.ok("train --resume b");
    let weights = |run: &str| fs::read(folder.path(&format!("{run}/weights.safetensors"))).unwrap();
    assert!(weights("a") == weights("b"));
    folder.ok(&format!("{TINY} --steps 1 --out c"));
    folder.ok(&format!("{TINY} --steps 1 --norm-group 5 --out d --engine reference"));
    assert!(folder.read("c/config.toml").contains("norm_group = 0"));
    folder.fails("bench --norm-group 3 --batch-size 4", 2, &["a batch has 4 images", "divides it (1, 2, 4)"]);
    folder.fails("bench --norm-group 2 --mode eval", 2, &["an evaluation uses the running statistics"]);
    let bench = folder.ok("bench --model resnet8 --norm-group 2 --batch-size 4 --image 8x8 --steps 1");
    assert!(bench.contains("batch norm over groups of 2"), "{bench}");
}

#[test]
fn wrong_calls_are_refused_with_exit_code_2_before_anything_happens() {
    let folder = Folder::new("usage");
    fs::write(folder.path("w"), "").unwrap();
    for (arguments, parts) in [
        ("", &["Usage: resnet"][..]),
        ("trian", &["train"]),
        ("train --model resent20", &["did you mean `resnet20`?", "wrn-28-10", "resnet34-as-written"]),
        ("eval --weights w --model vgg", &["unknown model `vgg`", "known models: resnet18, "]),
        ("train --recipe papr", &["did you mean `paper`?", "resnet50-10"]),
        ("train --schedule cosin", &["did you mean `cosine`?", "multistep:80,110,130@0.1"]),
        ("gradcheck --layer conv3d", &["did you mean `conv2d`?", "batch_norm"]),
        ("train --lr 0", &["--lr", "expected a number above 0"]),
        ("train --lr -0.1", &["--lr", "expected a number above 0"]),
        ("train --lr nan", &["--lr"]),
        ("train --lr inf", &["--lr"]),
        ("train --lr 0.1.2", &["--lr"]),
        ("train --epochs 0", &["--epochs"]),
        ("train --epochs -3", &["--epochs", "expected a whole number from 1 to"]),
        ("train --epochs 18446744073709551615", &["--epochs"]),
        ("train --batch-size 0", &["--batch-size"]),
        ("train --batch-size 1.5", &["--batch-size"]),
        ("train --weight-decay -1", &["--weight-decay"]),
        ("train --label-smoothing 1", &["--label-smoothing", "below 1"]),
        ("train --cutout 32", &["--cutout is 32, which can hide images of 32x32 entirely; expected at most 31"]),
        ("train --momentum 0", &["--momentum above 0"]),
        ("train --train-images 1401", &["1401", "only 1400"]),
        ("train --validation 1400", &["1400 of 1400"]),
        ("train --recipe paper", &["5000 of 1400", "--validation"]),
        ("train --model preact110 --zero-init-residual", &["zero"]),
        ("train --mean 0,0,0", &["--std"]),
        ("train --mean 0,0,0 --std 1,0,1", &["--std must be above 0"]),
        ("train --mean 0,0 --std 1,1,1", &["three numbers"]),
        (
            "eval --mean 125.3,123,113.9 --std 63,62.1,66.7",
            &["divide by 255: mean 0.491373,0.482353,0.446667 and std 0.2"],
        ),
        ("train --no-augment --flip", &["cannot be used with"]),
        ("train --threads 0", &["--threads"]),
        ("eval --weights", &["--weights"]),
        ("train --mixup -1", &["--mixup", "from 0 to 100"]),
        ("train --no-augment --mixup 0.2", &["cannot be used with"]),
        ("train --ema-decay 1", &["--ema-decay", "from 0 to below 1"]),
        ("train --accumulate 0", &["--accumulate"]),
        ("models --image 32", &["32x32"]),
        ("gradcheck --layer relu --model resnet8", &["cannot be used with"]),
        ("gradcheck --model resnet8 --image 0x8", &["--image"]),
        ("train --seed -1", &["--seed", "expected a whole number from 0"]),
        ("train --seed 1e3", &["--seed"]),
        ("train --conv gem", &["--conv", "auto", "gemm"]),
        ("eval --weights w --conv fft", &["--conv", "auto", "gemm"]),
        ("bench --conv fft", &["--conv", "auto", "gemm"]),
        ("train --engine slow", &["--engine", "fast, reference"]),
        ("train --engine reference --conv winograd4", &["--conv winograd4", "engine", "remove --conv"]),
        ("eval --weights pretrained --engine reference --conv gemm", &["--conv gemm", "remove --conv"]),
        ("eval --weights pretrained --dtype f64 --engine fast", &["--engine fast", "--dtype f32"]),
        ("bench --engine reference --conv gemm", &["--conv gemm", "remove --conv"]),
        ("train --trace", &["--trace", "add --engine reference"]),
        ("train --steps 0", &["--steps", "from 1 to"]),
        ("train --steps 2 --repeat 2", &["cannot be used with"]),
        ("bench --model resnet21", &["unknown model `resnet21`", "did you mean `resnet20`?"]),
        ("bench --mode test", &["--mode", "train", "eval"]),
        ("bench --steps 0", &["--steps"]),
        ("bench --seconds 0", &["--seconds", "expected a number above 0"]),
        ("bench --steps 1 --seconds 1", &["cannot be used with"]),
        ("bench --batch-size 0", &["--batch-size"]),
        ("bench --image 32", &["32x32"]),
        (
            "bench --model resnet18 --image 32x32 --batch-size 1",
            &["`resnet18` cannot process 1 image of 32x32", "batch_norm"],
        ),
    ] {
        let run = folder.run(arguments);
        if arguments.is_empty() {
            // Help, not an error message.
            assert!(run.code == Some(2) && parts.iter().all(|part| run.stderr.contains(part)), "{run:?}");
        } else {
            run.fails(2, parts);
        }
    }
    assert_eq!(files(&folder.0), ["w"]);
}

#[test]
fn failures_have_exit_code_1_and_say_what_and_where() {
    let folder = Folder::new("failures");
    folder
        .run("train --data nowhere")
        .fails(1, &["nowhere does not exist", "`resnet data fetch`", "https://www.cs.toronto.edu/~kriz/cifar.html"]);
    fs::create_dir(folder.path("empty")).unwrap();
    folder.run("train --data empty").fails(1, &["empty", "cifar-10-batches-bin", "found"]);
    folder.run("eval --weights nothing.safetensors").fails(1, &["cannot read nothing.safetensors"]);
    // A file where the folder for the run should go.
    fs::write(folder.path("file"), "mine").unwrap();
    folder.run(&format!("{TINY} --out file")).fails(1, &["file: expected a folder"]);
    folder.run(&format!("{TINY} --out file/run")).fails(1, &["file"]);
    assert_eq!(folder.read("file"), "mine");
    assert_eq!(files(&folder.0), ["empty", "file"]);
}

/// One run, and all its files.
#[test]
fn a_run_leaves_everything_and_eval_finds_the_same_accuracy() {
    let folder = Folder::new("run");
    let stdout = folder.run(&format!("{TINY} --out run --seed 5 --validation 10 --save-every 1 --threads 2")).ok();
    let mut names = files(&folder.path("run"));
    let events =
        names.iter().position(|name| name.starts_with("events.out.tfevents.")).map(|place| names.remove(place));
    assert!(events.is_some_and(|name| name.ends_with(".resnet-by-hand")), "{names:?}");
    assert_eq!(
        names,
        [
            "best.safetensors",
            "checkpoints",
            "config.toml",
            "layers.csv",
            "lock",
            "metrics.csv",
            "metrics.jsonl",
            "result.json",
            "test",
            "times.csv",
            "train",
            "validation",
            "weights-epoch-001.safetensors",
            "weights-epoch-002.safetensors",
            "weights.safetensors"
        ]
    );
    // Weights of their own for each epoch; those of the last are also the weights of the run.
    let weights = |name: &str| fs::read(folder.path(&format!("run/{name}.safetensors"))).unwrap();
    assert!(weights("weights-epoch-002") == weights("weights") && weights("weights-epoch-001") != weights("weights"));
    assert_eq!(value(&stdout, "seed"), "5");
    assert_eq!(value(&stdout, "threads"), "2");
    assert!(value(&stdout, "model").starts_with("resnet8, 75,290 parameters, "), "{stdout}");
    assert!(
        value(&stdout, "data").starts_with("50 images for training, 10 for validation, 500 for testing: embedded"),
        "{stdout}"
    );
    assert!(value(&stdout, "normalisation").starts_with("mean 0.49139968,"), "{stdout}");
    assert!(value(&stdout, "test accuracy").ends_with(" of 500); guessing: 10 %"), "{stdout}");
    assert!(stdout.contains("\n  1/2 ") && stdout.contains("\n  2/2 "), "{stdout}");

    let config: toml::Table = folder.read("run/config.toml").parse().unwrap();
    for (key, expected) in [("model", "resnet8"), ("recipe", "demo"), ("data", "embedded"), ("schedule", "onecycle")] {
        assert_eq!(config[key].as_str(), Some(expected), "{key}");
    }
    for (key, expected) in [("seed", 5), ("epochs", 2), ("batch_size", 25), ("train_images", 60), ("validation", 10)] {
        assert_eq!(config[key].as_integer(), Some(expected), "{key}");
    }
    assert_eq!(files(&folder.path("run/checkpoints")).len(), 2);
    assert_eq!(folder.read("run/times.csv").lines().count(), 3);
    layers_of_two_epochs(&folder.read("run/layers.csv"));

    // The same two epochs in both metrics files.
    let csv = folder.read("run/metrics.csv");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let jsonl = folder.read("run/metrics.jsonl");
    assert_eq!((rows.len(), jsonl.lines().count()), (3, 2), "{csv}\n{jsonl}");
    for (row, line) in rows[1..].iter().zip(jsonl.lines()) {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object.as_object().unwrap().len(), rows[0].len());
        for (key, text) in rows[0].iter().zip(row) {
            assert_eq!(object[key], serde_json::from_str::<serde_json::Value>(text).unwrap(), "{key}");
        }
        assert_eq!(object["images"], 50);
        let top1 = object["train_top1"].as_f64().unwrap();
        let top5 = object["train_top5"].as_f64().unwrap();
        assert!((0.0..=top5).contains(&top1) && top5 <= 1.0 && object["train_loss"].as_f64().unwrap() > 0.0, "{line}");
    }

    // The tested weights are the best by validation, and `eval` gives the same accuracy and loss.
    let result: serde_json::Value = serde_json::from_str(&folder.read("run/result.json")).unwrap();
    let json = folder.run("eval --weights run/best.safetensors --batch-size 100 --json").ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["correct"], &json["loss"]), (&result["test_correct"], &result["test_loss"]));
    assert_eq!(json["model"].as_str(), config["model"].as_str());
    for key in ["mean", "std"] {
        let numbers = |value: &str| -> Vec<f64> { serde_json::from_str(value).unwrap() };
        assert_eq!(numbers(&json[key].to_string()), numbers(&config[key].to_string()), "{key}");
    }
    let last = folder.run("eval --weights run/weights.safetensors --json").ok();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["fingerprint"], result["fingerprint"]);

    let printed = folder.run("eval --weights run/best.safetensors --batch-size 100").ok();
    assert_eq!(value(&printed, "accuracy"), value(&stdout, "test accuracy"));
    assert!(value(&printed, "normalisation").ends_with("(from the weights file)"));
    // Rows of the confusion matrix: 50 images of every class, the right ones on the diagonal.
    let mut right = 0;
    for (i, class) in
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"].iter().enumerate()
    {
        let numbers = value(&printed, &format!("\n{class}")[1..]);
        let counts: Vec<usize> = numbers.split_whitespace().skip(2).map(|n| n.parse().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().sum::<usize>()), (10, 50), "{printed}");
        assert_eq!(numbers.split_whitespace().next().unwrap(), format!("{:.2}", 2.0 * counts[i] as f64));
        right += counts[i];
    }
    assert_eq!(right, result["test_correct"]);
    // Another normalisation is used if given, and another model does not fit.
    let other = folder.run("eval --weights run/best.safetensors --mean 0,0,0 --std 1,1,1 --json").ok();
    assert_ne!(serde_json::from_str::<serde_json::Value>(&other).unwrap()["loss"], json["loss"]);
    folder
        .run("eval --weights run/best.safetensors --model resnet14")
        .fails(1, &["layer1.1.conv1.weight", "`resnet14`"]);

    // A truncated file is rejected, and nothing is written to a folder in use.
    let bytes = fs::read(folder.path("run/best.safetensors")).unwrap();
    fs::write(folder.path("cut.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    folder.run("eval --weights cut.safetensors").fails(1, &["cut.safetensors", "expected a complete safetensors file"]);
    folder.run(&format!("{TINY} --out run")).fails(1, &["run: expected a new or empty folder", "--out"]);
    assert_eq!(fs::read(folder.path("run/best.safetensors")).unwrap(), bytes);
    assert_eq!(folder.read("run/metrics.csv"), csv);
    // A file of another program does not contain its model.
    let anonymous = [&2u64.to_le_bytes()[..], b"{}"].concat();
    fs::write(folder.path("anonymous.safetensors"), anonymous).unwrap();
    folder.run("eval --weights anonymous.safetensors").fails(1, &["does not have the tensors of a residual network"]);
    folder.run("eval --weights anonymous.safetensors --model resnet8").fails(2, &["--mean R,G,B and --std R,G,B"]);
}

/// Every learned tensor of ResNet-8 in the order of the network, twice; no running statistics.
fn layers_of_two_epochs(csv: &str) {
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["epoch", "parameter", "weight_norm", "gradient_norm", "update_ratio"]);
    // 3 tensors of the first unit, 6 of each of the three blocks, 2 of the linear layer; shortcuts have none.
    assert_eq!(rows.len(), 1 + 2 * 23, "{csv}");
    let names = |epoch: &str| rows.iter().filter(|row| row[0] == epoch).map(|row| row[1]).collect::<Vec<_>>();
    assert_eq!(names("1"), names("2"));
    assert_eq!((names("1")[0], names("1")[22]), ("conv1.weight", "fc.bias"));
    for row in &rows[1..] {
        let numbers: Vec<f64> = row[2..].iter().map(|text| text.parse().unwrap()).collect();
        // At the end of `onecycle` the learning rate may be too small to change a value.
        assert!(numbers[0] > 0.0 && numbers[1] > 0.0 && numbers[2] >= 0.0, "{row:?}");
        assert!(numbers.iter().all(|x| x.is_finite()), "{row:?}");
    }
}

/// A column of a metrics file, by name.
fn column(csv: &str, name: &str) -> Vec<Option<f64>> {
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let place = lines.next().unwrap().iter().position(|column| *column == name).unwrap();
    lines.map(|line| line[place].parse().ok()).collect()
}

#[test]
fn a_run_stops_early_when_the_validation_accuracy_rises_no_more() {
    let folder = Folder::new("early");
    const RUN: &str = "train --train-images 60 --validation 20 --batch-size 20 --schedule constant";
    // With such a learning rate only the running statistics move.
    let out = folder.ok(&format!("{RUN} --epochs 30 --lr 1e-12 --early-stopping 3 --out early"));
    let accuracy = column(&folder.read("early/metrics.csv"), "validation_top1");
    let best = |epochs: usize| {
        // The first of several equal epochs.
        (0..epochs).fold(0, |best, epoch| if accuracy[epoch] > accuracy[best] { epoch } else { best })
    };
    let epochs = accuracy.len();
    assert!(epochs < 30, "{out}");
    assert_eq!(epochs - 1 - best(epochs), 3, "{accuracy:?}");
    assert!((1..epochs).all(|epochs| epochs - 1 - best(epochs) < 3), "{accuracy:?}");
    let result: serde_json::Value = serde_json::from_str(&folder.read("early/result.json")).unwrap();
    assert_eq!((&result["epochs"], &result["tested_weights_of_epoch"]), (&epochs.into(), &(best(epochs) + 1).into()));
    let stopped = format!("after epoch {epochs}: the validation accuracy last improved in epoch {}", best(epochs) + 1);
    assert!(out.contains(&stopped), "{out}");
    assert!(folder.ok("train --resume early").contains("is complete"));

    folder.ok(&format!("{RUN} --epochs 3 --validate-every 2 --out every"));
    let seen = column(&folder.read("every/metrics.csv"), "validation_top1");
    assert_eq!(seen.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true]);

    folder.fails("train --early-stopping 2 --out none", 2, &["early stopping needs a validation split (--validation"]);
    let seldom = "train --validation 20 --early-stopping 2 --validate-every 3 --out none";
    folder.fails(seldom, 2, &["early stopping after 2 epochs needs --validate-every of at most that, got 3"]);
    folder.fails("train --validate-every 0 --out none", 2, &["--validate-every", "from 1 to"]);
    assert!(!folder.path("none").exists());
}

/// The estimate in the output of a run; it is above the table of epochs, and the output has no terminal codes.
#[track_caller]
fn estimate(stdout: &str) -> &str {
    let lines: Vec<&str> = stdout.lines().collect();
    let place = |start: &str| lines.iter().position(|line| line.starts_with(start));
    let (estimate, table) = (place("estimate ").unwrap(), place("epoch  ").unwrap());
    assert_eq!((table, lines[estimate + 1]), (estimate + 2, ""), "{stdout}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("estimate ")).count(), 1, "{stdout}");
    assert!(!stdout.contains('\x1b'), "{stdout}");
    value(stdout, "estimate")
}

#[test]
fn a_run_says_when_it_will_end() {
    let folder = Folder::new("estimate");
    let run =
        folder.run("train --model resnet8 --train-images 60 --batch-size 20 --epochs 3 --keep-checkpoints 4 --out run");
    let stdout = run.ok();
    let (length, end) = estimate(&stdout).split_once(", until about ").unwrap();
    let (duration, epochs) = length.split_once(" for ").unwrap();
    assert!(duration.ends_with(" s") && epochs == "3 epochs", "{length}");
    let (hours, minutes) = end.strip_suffix(" UTC").unwrap_or(&end[..5]).split_once(':').unwrap();
    assert!(hours.parse::<u8>().unwrap() < 24 && minutes.parse::<u8>().unwrap() < 60, "{end}");

    // The remaining run: with one short epoch it ends before there is an estimate.
    let resume_behind = |last: usize| {
        fs::remove_file(folder.path("run/result.json")).unwrap();
        for epoch in last + 1..=3 {
            fs::remove_file(folder.path(&format!("run/checkpoints/epoch-{epoch:06}-step-00000000.safetensors")))
                .unwrap();
        }
        folder.ok("train --resume run --keep-checkpoints 4")
    };
    assert!(!resume_behind(2).contains("estimate"));
    assert!(estimate(&resume_behind(1)).contains(" for the rest of 3 epochs, until about "));

    let early = "--validation 20 --early-stopping 2";
    let stdout =
        folder.ok(&format!("train --model resnet8 --train-images 60 --batch-size 20 --epochs 3 {early} --out early"));
    let told = estimate(&stdout);
    assert!(told.starts_with("at most ") && told.ends_with(" at the latest"), "{told}");
}

#[test]
fn gradients_are_clipped_and_squares_are_hidden_where_that_is_asked_for() {
    let folder = Folder::new("clip");
    const RUN: &str = "train --train-images 20 --batch-size 10 --epochs 1";
    let out = folder.ok(&format!("{RUN} --clip-norm 0.125 --out clipped"));
    assert!(out.contains("gradients clipped to 0.125"), "{out}");
    // The reported norm is taken before clipping; the applied one is at most the limit.
    assert!(column(&folder.read("clipped/metrics.csv"), "gradient_norm")[0].unwrap() > 0.125);
    let norms = column(&folder.read("clipped/layers.csv"), "gradient_norm");
    let norm = norms.iter().map(|norm| norm.unwrap().powi(2)).sum::<f64>().sqrt();
    // Every element is rounded twice, factor and product: at most 2u, u = 2^-24.
    assert!((norm / 0.125 - 1.0).abs() < 2.0 * 2f64.powi(-24) * 1.01, "{norm}");

    let out = folder.ok(&format!("{RUN} --cutout 8 --out hidden"));
    assert!(out.contains("cutout of 8 pixels"), "{out}");
    folder.ok(&format!("{RUN} --out plain"));
    let loss = |run: &str| column(&folder.read(&format!("{run}/metrics.csv")), "train_loss")[0].unwrap();
    assert_ne!(loss("hidden"), loss("plain"));
    // The configuration of the run starts it again, including cutout.
    folder.ok("train --config hidden/config.toml --out again");
    assert_eq!(folder.read("again/metrics.csv"), folder.read("hidden/metrics.csv"));
    folder.fails("train --clip-norm -1 --out none", 2, &["--clip-norm"]);
    folder.fails("train --cutout x --out none", 2, &["--cutout"]);
}

#[test]
fn the_thread_count_changes_nothing_and_every_run_gets_its_own_folder() {
    let folder = Folder::new("threads");
    let fingerprint = |threads: &str| {
        let stdout =
            folder.run(&format!("train --train-images 40 --batch-size 25 --epochs 1 --threads {threads}")).ok();
        value(&stdout, "fingerprint").split_whitespace().next().unwrap().to_string()
    };
    let one = fingerprint("1");
    assert_eq!(one.len(), 16);
    assert_eq!(one, fingerprint("3"));
    assert_eq!(files(&folder.path("runs")), ["resnet8-demo-1", "resnet8-demo-2"]);
    let weights = |n| fs::read(folder.path(&format!("runs/resnet8-demo-{n}/weights.safetensors"))).unwrap();
    assert_eq!(weights(1), weights(2));
    assert!(!folder.path("runs/resnet8-demo-1/best.safetensors").exists());
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_that_says_what_is_kept() {
    let folder = Folder::new("diverged");
    folder
        .run("train --train-images 60 --batch-size 10 --epochs 3 --lr 1e30 --schedule constant --out run")
        .fails(1, &["the loss became", "--lr", "the last good checkpoint is after epoch 0"]);
}

#[test]
fn models_and_gradcheck() {
    let folder = Folder::new("models");
    let models = folder.run("models").ok();
    let row = |name: &str| value(&models, name).split_whitespace().map(str::to_string).collect::<Vec<_>>();
    assert_eq!(row("resnet20 ")[..4], ["269,722", "40,551,040", "32x32", "10"]);
    assert_eq!(row("resnet50 ")[..4], ["25,557,032", "4,089,184,256", "224x224", "1000"]);
    let json = folder.run("models --image 32x32 --classes 10 --batch-size 1 --json").ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let resnet34 = json.as_array().unwrap().iter().find(|row| row["model"] == "resnet34-cifar").unwrap();
    assert_eq!((&resnet34["parameters"], &resnet34["multiply_adds"]), (&21_282_122.into(), &1_159_402_496.into()));
    // The memory is that of a run: without images and program it is the larger part of what the run prints.
    let json = folder.run("models --json --batch-size 100").ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let resnet20 = json.as_array().unwrap().iter().find(|row| row["model"] == "resnet20").unwrap();
    let bytes = resnet20["training_step_bytes"].as_f64().unwrap();
    let train =
        folder.run("train --model resnet20 --train-images 100 --batch-size 100 --steps 1 --epochs 1 --out run").ok();
    let step = value(&train, "memory").split_once("a step ").unwrap().1.split_once(" MB").unwrap().0;
    let ratio = bytes / 1e6 / step.parse::<f64>().unwrap();
    assert!((0.85..1.15).contains(&ratio), "{ratio}");

    let layer = folder.run("gradcheck --layer linear --seed 3").ok();
    assert!(layer.contains("weight") && layer.contains("gradients agree with finite differences"), "{layer}");
    let network = folder.run("gradcheck --model resnet8 --image 8x8 --entries 1").ok();
    assert!(network.contains("layer3.0.conv2.weight") && network.contains("ok"), "{network}");
}

#[test]
fn another_convolution_algorithm_is_recorded_and_gives_the_same_up_to_rounding() {
    let folder = Folder::new("conv");
    photographs(&folder);
    let train = "train --data photos --model resnet8 --train-images 20 --batch-size 10 --epochs 1";
    let losses = ["auto", "gemm", "indirect"].map(|name| {
        folder.run(&format!("{train} --conv {name} --out {name}")).ok();
        let config: toml::Table = folder.read(&format!("{name}/config.toml")).parse().unwrap();
        assert_eq!(config["conv"].as_str(), Some(name));
        let eval = format!("eval --data photos --weights {name}/weights.safetensors --conv {name} --json");
        let eval = folder.run(&eval).ok();
        serde_json::from_str::<serde_json::Value>(&eval).unwrap()["loss"].as_f64().unwrap()
    });
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 0.01 * losses[0]), "{losses:?}");
    folder.run(&format!("{train} --out default")).ok();
    assert_eq!(folder.read("default/config.toml"), folder.read("auto/config.toml"));
}

#[test]
fn bench_measures_what_it_says() {
    let folder = Folder::new("bench");
    let bench = |arguments: &str| folder.run(&format!("bench --model resnet8 --batch-size 4 --steps 1 {arguments}"));
    let json = |arguments: &str| -> serde_json::Value {
        serde_json::from_str(&bench(&format!("--json {arguments}")).ok()).unwrap()
    };
    let train = json("--threads 2 --layers");
    for (key, expected) in [("model", "resnet8"), ("mode", "train"), ("conv", "auto")] {
        assert_eq!(train[key], expected, "{key}");
    }
    for (key, expected) in [
        ("batch_size", 4),
        ("threads", 2),
        ("steps", 1),
        ("parameters", 75_290),
        ("multiply_adds_per_image", 12_239_488),
    ] {
        assert_eq!(train[key], expected, "{key}");
    }
    for key in [
        "seconds",
        "median_step_seconds",
        "best_step_seconds",
        "worst_step_seconds",
        "images_per_second",
        "gflops",
        "peak_gflops",
        "share_of_peak",
        "loader_batch_seconds",
        "loader_share_of_step",
    ] {
        assert!(train[key].as_f64().is_some_and(|value| value > 0.0 && value.is_finite()), "{key}: {train}");
    }
    // With a single step the medians are the values themselves, and the phases add up to the step.
    let phases = train["phases"].as_object().unwrap();
    let sum = |key: &str| -> f64 {
        ["forward", "loss", "backward", "update"].iter().map(|phase| phases[*phase][key].as_f64().unwrap()).sum()
    };
    assert_eq!(phases.len(), 4);
    assert!(phases.values().all(|phase| phase["median_seconds"].as_f64().unwrap() > 0.0), "{phases:?}");
    let step = train["median_step_seconds"].as_f64().unwrap();
    // Sums of four values: ε/2 for each of three additions, here and in the program, and ε for each value that is read. A share
    // is rounded once more, and so is a quotient.
    assert!((sum("median_seconds") / step - 1.0).abs() < 6.0 * f64::EPSILON, "{train}");
    assert!((sum("share_of_step") - 1.0).abs() < 6.0 * f64::EPSILON, "{train}");
    assert!(["avx512", "avx2", "portable"].iter().any(|isa| train["isa"] == *isa), "{}", train["isa"]);
    assert_eq!(train["peak_memory_bytes"].is_u64(), cfg!(target_os = "linux"));

    // Seven convolutions, and all multiply-adds except those of the linear layer.
    let convolutions = train["convolutions"].as_array().unwrap();
    let sum = |of: &dyn Fn(&serde_json::Value) -> u64| convolutions.iter().map(of).sum::<u64>();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert_eq!(sum(&|group| number(&group["count"])), 7);
    assert_eq!(
        sum(&|group| number(&group["count"]) * number(&group["multiply_adds"])),
        4 * (number(&train["multiply_adds_per_image"]) - 640)
    );
    let last = convolutions.last().unwrap();
    assert_eq!(
        (&last["input"], &last["output"]),
        (&serde_json::json!([4, 8, 8, 64]), &serde_json::json!([4, 8, 8, 64]))
    );
    assert!(last["algorithm"] != "auto", "{last}");

    // Every direction that a step needs is measured, and no other.
    let gradients = |group: &serde_json::Value| {
        ["forward", "input_gradient", "weight_gradient"].map(|direction| group[direction]["gflops"].is_f64())
    };
    let layers =
        |value: &serde_json::Value| value["convolutions"].as_array().unwrap().iter().map(gradients).collect::<Vec<_>>();
    let train = layers(&train);
    assert!(train[0] == [true, false, true] && train[1..].iter().all(|&group| group == [true; 3]), "{train:?}");
    assert!(layers(&json("--layers --mode eval")).iter().all(|&group| group == [true, false, false]));

    let other = json("--mode eval --conv gemm --image 16x24 --classes 7");
    assert_eq!(
        (&other["mode"], &other["classes"], &other["image"]),
        (&"eval".into(), &7.into(), &serde_json::json!([16, 24]))
    );
    assert!(other["convolutions"].as_array().unwrap().iter().all(|group| group["algorithm"] == "gemm"), "{other}");
    assert!(other["loader_batch_seconds"].is_null() && other["phases"].is_null());
    assert!(other["convolutions"][0]["forward"].is_null(), "{other}");

    let text = bench("").ok();
    assert!(value(&text, "step").ends_with("of 1 training step"), "{text}");
    assert!(value(&text, "GFLOP/s").contains("counted as direct convolution"), "{text}");
    for part in ["\nimages/s ", "\nloader ", "\nforward ", "\nloss ", "\nbackward ", "\nupdate "] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let text = bench("--layers --mode eval").ok();
    for part in ["32x32x16", "all of them, each measured by itself: "] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let folder = Folder::new("pipe");
    for arguments in ["models", "models --json", "gradcheck --layer relu"] {
        let mut child = folder.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Nothing reads the output.
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""), "{arguments}");
    }
    // Training continues without a reader: its result is the folder.
    let mut child =
        folder.command(&format!("{TINY} --out run")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(stderr.starts_with("note: cannot write to stdout any more"), "{stderr}");
    assert!(folder.path("run/result.json").exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_the_last_complete_checkpoint() {
    let folder = Folder::new("interrupt");
    let mut child = folder
        .command("train --train-images 60 --batch-size 10 --epochs 5000 --out run")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let complete = lines.by_ref().filter(|line| line.contains("/5000 ")).take(2).count();
    assert_eq!(complete, 2);
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let last = rest.last().unwrap();
    assert!(last.starts_with("stopped ") && last.ends_with("resume with `resnet train --resume run`"), "{rest:?}");
    // The metrics contain as many epochs as the weights, and the weights can be used.
    let epochs = folder.read("run/metrics.jsonl").lines().count();
    assert!((2..5000).contains(&epochs), "{last}, {epochs}");
    assert!(!folder.path("run/result.json").exists() && !folder.path("run/weights.safetensors.tmp").exists());
    let eval = folder.run("eval --weights run/weights.safetensors").ok();
    assert!(value(&eval, "weights").contains(&format!("(epoch {epochs} of 5000, recipe demo, seed 1)")), "{eval}");
}

/// A checkpoint written by PyTorch, of an unknown network.
fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/library/formats/checkpoint.pth")
}

#[test]
fn weights_are_converted_there_and_back_and_tested() {
    let folder = Folder::new("convert");
    folder.has_run(TINY, "run");
    let tested = folder.run("eval --weights run/weights.safetensors --json").ok();
    for (from, to) in [("run/weights.safetensors", "a.pth"), ("a.pth", "b.npz")] {
        let stdout = folder.run(&format!("convert {from} {to}")).ok();
        assert!(
            value(&stdout, "tensors").ends_with(" elements") && value(&stdout, "wrote").starts_with(to),
            "{stdout}"
        );
    }
    // For formats without metadata the network is recognised, the normalisation has to be given; a safetensors file then
    // contains both.
    folder.run("eval --weights b.npz").fails(2, &["b.npz does not contain the normalisation of its images", "--mean"]);
    let normalization = "--mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010";
    let stdout = folder.run(&format!("convert b.npz c.safetensors --model resnet8 {normalization}")).ok();
    assert_eq!(value(&stdout, "model"), "resnet8, 10 classes: all tensors found");
    let fingerprint = |json: &str| json.lines().find(|line| line.contains("fingerprint")).map(str::to_string);
    let again = folder.run("eval --weights c.safetensors --json").ok();
    assert!(fingerprint(&again).is_some());
    assert_eq!(fingerprint(&again), fingerprint(&tested));
    // f64 and back is exact; the file of f64 is about twice as large.
    folder.run("convert c.safetensors d.safetensors --dtype f64").ok();
    folder.run("convert d.safetensors e.safetensors --dtype f32").ok();
    assert_eq!(fs::read(folder.path("e.safetensors")).unwrap(), fs::read(folder.path("c.safetensors")).unwrap());
    assert!(fs::metadata(folder.path("d.safetensors")).unwrap().len() > 600_000);
}

/// A checkpoint is not a weights file: the command that makes one of it is printed, and works.
#[test]
fn checkpoints_of_a_run_are_named() {
    let folder = Folder::new("convert-checkpoint");
    folder.has_run(TINY, "run");
    for name in files(&folder.path("run/checkpoints")) {
        let (checkpoint, mut written) = (format!("run/checkpoints/{name}"), Vec::new());
        for command in [
            format!("convert {checkpoint} model.onnx"),
            format!("convert {checkpoint} other.npz --model resnet8"),
            format!("eval --weights {checkpoint}"),
            format!("train --model resnet8 --train-images 20 --init-from {checkpoint} --out none"),
        ] {
            let run = folder.run(&command);
            let found = run.stderr.lines().find(|line| line.starts_with("  resnet convert ")).map(str::to_string);
            run.fails(
                1,
                &["this is a checkpoint of `resnet train`, for --resume; the weights after the last epoch are in"],
            );
            let line = found.expect("the command that writes its weights");
            folder.run(&format!("{} --force", line.trim().strip_prefix("resnet ").unwrap())).ok();
            written.push(fs::read(folder.path("weights.safetensors")).unwrap());
        }
        assert!(written.iter().all(|weights| *weights == written[0]));
        folder.run("eval --weights weights.safetensors").ok();
    }
    folder.run("convert weights.safetensors model.onnx").ok();
    let fingerprint =
        |weights: &str| value(&folder.run(&format!("eval --weights {weights}")).ok(), "fingerprint").to_string();
    assert_eq!(fingerprint("weights.safetensors"), fingerprint("run/weights.safetensors"));
}

#[test]
fn conversion_says_what_it_left_out_and_what_does_not_fit() {
    let folder = Folder::new("convert-other");
    let checkpoint = checkpoint();
    let checkpoint = checkpoint.to_str().unwrap();
    let stdout = folder.run(&format!("convert {checkpoint} o.npz")).ok();
    for line in ["unwrapped      state_dict", "left out       epoch (the number 7)", "tensors        2, 18 elements"] {
        assert!(stdout.lines().any(|found| found == line), "`{line}` is missing in\n{stdout}");
    }
    folder.run(&format!("convert {checkpoint} p.safetensors --model resnet8")).fails(
        1,
        &["these are not the weights of `resnet8`", "missing conv1.weight [16, 3, 3, 3]", "extra module.f32 [2, 3, 2]"],
    );
    folder
        .run(&format!("convert {checkpoint} p.npz --key emma"))
        .fails(1, &["expected the key `emma`, found epoch, arch, state_dict, best_prec1, best, score"]);
    folder.run(&format!("convert {checkpoint} p.npy")).fails(1, &["an npy file holds one array, not 2"]);
    // A folder, an existing file, a missing file, a file in another format.
    fs::create_dir(folder.path("folder.npz")).unwrap();
    folder.run(&format!("convert {checkpoint} folder.npz --force")).fails(1, &["folder.npz is a folder"]);
    fs::write(folder.path("q.npz"), "mine").unwrap();
    folder.run(&format!("convert {checkpoint} q.npz")).fails(1, &["q.npz already exists", "--force"]);
    assert_eq!(folder.read("q.npz"), "mine");
    folder.run("convert q.npz r.npz").fails(1, &["q.npz", "expected safetensors, ", "6d, 69, 6e, 65"]);
    folder.run("convert none.pth r.npz").fails(1, &["cannot read none.pth"]);
    folder.run(&format!("convert {checkpoint} no/such/folder.npz")).fails(1, &["cannot write no/such/folder.npz.tmp"]);
    folder.run(&format!("convert {checkpoint} q.npz --force")).ok();
    assert_ne!(fs::read(folder.path("q.npz")).unwrap(), b"mine");
    for (arguments, parts) in [
        ("convert", &["<IN>", "<OUT>"][..]),
        ("convert q.npz", &["<OUT>"]),
        (
            "convert q.npz r.onx",
            &["expected one of the extensions .safetensors", "found .onx", "can also be written as .onnx"],
        ),
        ("convert q.npz r.onnx --dtype f64", &["an ONNX model is written in f32"]),
        ("convert q.npz r.npz --with-normalization", &["need an OUT in .onnx"]),
        ("convert q.npz r", &["found none"]),
        ("convert q.npz r.npz --dtype f16", &["--dtype", "f32"]),
        ("convert q.npz r.npz --model resnt20", &["did you mean `resnet20`?"]),
        ("convert q.npz r.npz --model resnet20 --mean 0,0,0 --std 1,1,1", &["other formats cannot store them"]),
        ("convert q.npz r.safetensors --mean 0,0,0 --std 1,1,1", &["--model"]),
    ] {
        folder.run(arguments).fails(2, parts);
    }
    // No --model would help.
    folder.run("convert q.npz r.onnx").fails(1, &["q.npz: this file does not have the tensors of a residual network"]);
    assert_eq!(files(&folder.0), ["folder.npz", "o.npz", "q.npz"]);
}

/// A small strided convolution: its input and the results of the oracle, in files.
fn convolution(folder: &Folder) -> Tensors {
    let ramp = |shape: [usize; 4], step: usize| {
        ndarray::Array4::from_shape_fn(shape, |(a, b, c, d)| ((a * 5 + b * 3 + c * step + d) % 7) as f64 / 3.0 - 1.0)
    };
    let mut input = Tensors::new();
    input.insert("input", ramp([2, 3, 6, 5], 2));
    input.insert("weight", ramp([4, 3, 3, 3], 4));
    input.insert("grad_output", ramp([2, 4, 3, 3], 5));
    formats::write(&folder.path("in.npz"), &input).unwrap();
    let arguments = "oracle layer conv2d --set stride=2,padding=1 --in in.npz --out ours.safetensors";
    let stdout = folder.run(arguments).ok();
    let tolerances = "and the tolerance of each for results computed in f64, f32, bf16, fp16";
    assert_eq!(stdout, format!("wrote  ours.safetensors: 3 tensors, 360 elements, {tolerances}\n"));
    formats::read(&folder.path("ours.safetensors")).unwrap()
}

#[test]
fn the_oracle_judges_a_layer() {
    let folder = Folder::new("oracle-layer");
    let ours = convolution(&folder);
    let mut theirs = Tensors::new();
    ours.iter().for_each(|(name, tensor)| theirs.insert(name, tensor.to_f64().mapv(|x| x as f32)));
    formats::write(&folder.path("right.npz"), &theirs).unwrap();
    let stdout = folder.run("oracle compare ours.safetensors right.npz --all").ok();
    assert!(stdout.ends_with("right.npz: all 3 tensors fit\n"), "{stdout}");
    assert!(
        folder
            .run("oracle diagnose right.npz layer conv2d --set stride=2,padding=1 --in in.npz")
            .ok()
            .contains("is right")
    );

    let mut gradient = ours.get("grad_weight").unwrap().to_f64();
    gradient[[1, 2, 0, 1]] *= 1.001;
    theirs.insert("grad_weight", gradient);
    formats::write(&folder.path("wrong.npz"), &theirs).unwrap();
    let run = folder.run("oracle compare ours.safetensors wrong.npz");
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), ""));
    for part in [
        "1 of 108 elements EXCEED",
        "first failure in the order of execution: grad_weight",
        "at [1, 2, 0, 1] of [4, 3, 3, 3]",
    ] {
        assert!(run.stdout.contains(part), "`{part}` is missing in\n{}", run.stdout);
    }
    let run = folder.run("oracle compare ours.safetensors wrong.npz --json");
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((report["passed"].as_bool(), report["first"].as_str()), (Some(false), Some("grad_weight")));
    folder.run("oracle compare ours.safetensors wrong.npz --rtol 0.01").ok();
    // The same in one step, with the tolerances alone in a file.
    let layer = "layer conv2d --set stride=2,padding=1 --in in.npz";
    let stdout = folder.run(&format!("oracle check right.npz --all --tolerances each.npz {layer}")).ok();
    assert!(stdout.starts_with("tensor ") && stdout.contains("right.npz: all "), "{stdout}");
    let tolerances = formats::read(&folder.path("each.npz")).unwrap();
    assert_eq!(tolerances.get("grad_weight").unwrap().shape(), ours.get("grad_weight").unwrap().shape());
    let run = folder.run(&format!("oracle check wrong.npz --json {layer}"));
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, report["end_to_end"]["first"].as_str()), (Some(1), Some("grad_weight")));
    // In bfloat16 a thousandth of one element is nothing.
    folder.run(&format!("oracle check wrong.npz --computed-in bf16 {layer}")).ok();
    folder.run("oracle compare ours.safetensors wrong.npz --computed-in grad_*:bf16").ok();
    // A pattern that selects nothing would be ignored.
    let known = ["--computed-in", "like `gradweight`; did you mean `grad_weight`?", "output, grad_weight, grad_input"];
    folder.fails("oracle compare ours.safetensors wrong.npz --computed-in gradweight:bf16", 2, &known);
    for command in ["check", "diagnose"] {
        folder.fails(&format!("oracle {command} wrong.npz --computed-in gradweight:bf16 {layer}"), 2, &known);
    }
    let failed = folder.run("oracle compare ours.safetensors wrong.npz --computed-in tf32");
    assert!(failed.code == Some(1) && failed.stderr.contains("compute it again with `--computed-in tf32`"));

    // Gradients of a sum instead of a mean.
    for name in ["grad_weight", "grad_input"] {
        theirs.insert(name, ours.get(name).unwrap().to_f64() * 2.0);
    }
    formats::write(&folder.path("doubled.npz"), &theirs).unwrap();
    let run = folder.run("oracle diagnose doubled.npz layer conv2d --set stride=2,padding=1 --in in.npz");
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("one mistake explains everything in it: gradient-times-batch"), "{}", run.stdout);
}

#[test]
fn the_oracle_makes_a_page_about_what_is_wrong() {
    let folder = Folder::new("oracle-page");
    let ours = convolution(&folder);
    let mut theirs = Tensors::new();
    for (name, tensor) in ours.iter().filter(|(name, _)| !name.starts_with("tolerance")) {
        theirs.insert(name, tensor.to_f64());
    }
    formats::write(&folder.path("right.npz"), &theirs).unwrap();
    let mut output = theirs.get("output").unwrap().to_f64();
    output.index_axis_mut(ndarray::Axis(3), 2).fill(0.0);
    theirs.insert("output", output);
    theirs.insert("grad_weight", theirs.get("grad_weight").unwrap().to_f64() * 2.0);
    formats::write(&folder.path("a&b.npz"), &theirs).unwrap();

    let compare = "oracle compare ours.safetensors a&b.npz";
    let layer = "layer conv2d --set stride=2,padding=1 --in in.npz";
    let [printed, run] =
        [compare.to_string(), format!("{compare} --html page.html")].map(|command| folder.run(&command));
    assert_eq!((run.code, &run.stdout, run.stderr.as_str()), (Some(1), &printed.stdout, ""));
    assert!(printed.stdout.contains("\n  pattern: 24 of 72 values are wrong, only in the last column (2), each 0\n"));
    let page = folder.read("page.html");
    assert_self_contained(&page);
    assert_well_formed(&page);
    for part in [
        "a&amp;b.npz does not fit",
        "24 of 72 values are wrong, only in the last column (2), each 0",
        "every value is 2 times the right one",
        "by column: 1 of 3 wrong, worst 2",
        "<title>row 1: wrong in 1 of 3 cells, worst at column 2 (",
        "output channel (down) by input channel (across)",
        "All 3 tensors, in the order of execution",
    ] {
        assert!(page.contains(part), "`{part}` is missing in\n{page}");
    }
    // Worst first: a gradient that is twice too large, of larger values.
    let place = |name: &str| page.find(&format!("<h3>{name}</h3>")).unwrap_or_else(|| panic!("no {name}"));
    let report: serde_json::Value = serde_json::from_str(&folder.run(&format!("{compare} --json")).stdout).unwrap();
    let tensor = |name: &str| {
        report["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == name).unwrap().clone()
    };
    let (output, weight) = (tensor("output"), tensor("grad_weight"));
    let share = |tensor: &serde_json::Value| tensor["share"].as_f64().unwrap();
    assert_eq!(share(&output) > share(&weight), place("output") < place("grad_weight"));
    assert_eq!(output["pattern"], "24 of 72 values are wrong, only in the last column (2), each 0");
    let profile = &output["profile"];
    assert_eq!((&profile["names"][3], profile["axes"][3].as_array().unwrap().len()), (&"column".into(), 3));
    assert!(profile["axes"][3][1].as_f64().unwrap() <= 1.0 && profile["axes"][3][2].as_f64().unwrap() > 1e6);
    assert_eq!(profile["planes"][1]["shares"].as_array().unwrap().len(), 3);
    assert!(tensor("grad_input")["pattern"].is_null());

    // The same of `check`; a page of results that are right; and only with --force instead of another file.
    folder.run(&format!("oracle check a&b.npz --html check.html {layer}"));
    assert!(folder.read("check.html").contains("only in the last column (2), each 0"));
    folder.ok("oracle compare ours.safetensors right.npz --html page.html --force");
    assert!(folder.read("page.html").contains("All 3 tensors fit."));
    let right = "oracle compare ours.safetensors right.npz --html";
    folder.fails(&format!("{right} page.html"), 1, &["page.html already exists and was not changed", "--force"]);
    fs::create_dir(folder.path("folder.html")).unwrap();
    folder.fails(&format!("{right} folder.html --force"), 1, &["folder.html is a folder"]);
    folder.fails(&format!("{right} page.txt"), 2, &["--html expects a name that ends in .html, got page.txt"]);
    folder.fails(&format!("{right} none/page.html"), 1, &["none/page.html"]);
    folder.fails(&format!("oracle check right.npz --html page.html {layer}"), 1, &["already exists"]);
}

#[test]
fn the_oracle_runs_a_network() {
    let folder = Folder::new("oracle-model");
    folder.has_run(TINY, "run");
    let mut batch = Tensors::new();
    // Other sizes than in training: the oracle is exact, so it takes long for large ones.
    batch.insert(
        "input",
        ndarray::Array4::from_shape_fn((3, 3, 12, 10), |(n, c, h, w)| ((n + 2 * c + h * w) % 5) as f32),
    );
    batch.insert("target", ndarray::arr1(&[1i64, 0, 9]));
    formats::write(&folder.path("batch.npz"), &batch).unwrap();
    let model = "--model resnet8 --weights run/weights.safetensors --in batch.npz --mode train";
    folder.run(&format!("oracle model {model} --steps 2 --out ours.safetensors")).ok();
    folder.run(&format!("oracle model {model} --steps 2 --dtype f32 --no-tolerances --out theirs.safetensors")).ok();
    let stdout = folder.run("oracle compare ours.safetensors theirs.safetensors").ok();
    assert!(stdout.contains("theirs.safetensors: all "), "{stdout}");
    let stdout = folder
        .run(&format!("oracle check theirs.safetensors {}", model.replacen("--model", "model --steps 2 --model", 1)))
        .ok();
    assert!(stdout.starts_with("every module with its own inputs:\ntheirs.safetensors: all "), "{stdout}");
    let names: Vec<String> =
        formats::read(&folder.path("ours.safetensors")).unwrap().names().map(String::from).collect();
    let place = |name: &str| names.iter().position(|other| other == name).unwrap_or_else(|| panic!("no {name}"));
    let order =
        ["output.conv1", "output.layer3.0.add", "logits", "loss", "grad_output.fc", "grad_fc.weight", "grad_input"];
    assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{names:?}");
    assert!(place("conv1.weight") > place("grad_input") && place("bn1.running_var") > place("grad_input"));
}

#[test]
fn the_oracle_says_what_is_wrong_with_its_input() {
    let folder = Folder::new("oracle-wrong");
    convolution(&folder);
    for (arguments, parts) in [
        ("oracle layer conv3d --in in.npz --out a.npz", &["conv3d", "conv2d"][..]),
        ("oracle layer conv2d --set stride --in in.npz --out a.npz", &["expected NAME=VALUE, got `stride`"]),
        ("oracle layer conv2d --in in.npz --out a.onnx", &["found .onnx"]),
        ("oracle layer conv2d --in in.npz", &["--out"]),
        ("oracle model --model resnet21 --weights w --in in.npz --out a.npz", &["resnet20"]),
        ("oracle compare ours.safetensors in.npz --rtol -1", &["--rtol"]),
        ("oracle diagnose in.npz", &["Usage"]),
        ("oracle check in.npz", &["Usage"]),
        ("oracle check in.npz --computed-in int8 layer conv2d --in in.npz", &["--computed-in", "dequantise"]),
        ("oracle layer conv2d --in in.npz --out a.npz --computed-in f33", &["unknown type `f33`; known: f64, f32"]),
        ("oracle check in.npz --tolerances a.txt layer conv2d --in in.npz", &["found .txt"]),
        ("oracle layer conv2d --set strid=2 --in in.npz --out a.npz", &["--set: conv2d", "did you mean `stride`?"]),
        ("oracle layer conv2d --set padding=1000000 --in in.npz --out a.npz", &["--set", "more than 2³¹ values"]),
        ("oracle check in.npz --isolate layer conv2d --in in.npz", &["--isolate judges the modules of a network"]),
    ] {
        folder.run(arguments).fails(2, parts);
    }
    for (arguments, parts) in [
        ("oracle layer conv2d --in none.npz --out a.npz", &["cannot read none.npz"][..]),
        ("oracle layer conv2d --in in.npz --out ours.safetensors", &["already exists", "--force"]),
        ("oracle layer conv2d --set stride=3 --in in.npz --out a.npz", &["in.npz", "grad_output"]),
        ("oracle layer linear --in in.npz --out a.npz", &["in.npz", "`weight` expects floats in 2 axes"]),
        ("oracle layer relu --in in.npz --out a.npz", &["in.npz", "relu does not read `weight`"]),
        (
            "oracle layer softmax_cross_entropy --in in.npz --out a.npz",
            &["needs `target`; the input has input, weight"],
        ),
        ("oracle model --model resnet8 --weights in.npz --in in.npz --out a.npz", &["missing conv1.weight"]),
    ] {
        folder.run(arguments).fails(1, parts);
    }
    assert_eq!(files(&folder.0), ["in.npz", "ours.safetensors"]);
}

#[test]
fn the_oracle_packs_and_judges_a_folder_of_results() {
    let folder = Folder::new("oracle-pack");
    let stdout = folder.run("oracle pack --out pack").ok();
    assert!(stdout.contains(" of blocks, ") && stdout.contains("wrote  pack: "), "{stdout}");
    folder.run("oracle pack --out pack").fails(1, &["pack already exists; the pack needs a new or empty folder"]);
    assert_eq!(files(&folder.0), ["pack"]);
    // tests/library/pack.rs looks at the other tolerances.
    for network in ["resnet20", "resnet20-eval", "bottleneck-network", "preact-network"] {
        let expected = formats::read(&folder.path(&format!("pack/float64/{network}.out.safetensors"))).unwrap();
        let tolerances: Vec<_> = expected.iter().filter(|(name, _)| name.starts_with("tolerance.f64.")).collect();
        assert!(!tolerances.is_empty(), "{network}");
        for (name, tolerance) in tolerances {
            assert!(tolerance.to_f64().iter().all(|x| x.is_finite()), "{network}: {name}");
        }
    }

    // With the commands in the index.
    fs::create_dir(folder.path("yours")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&folder.read("pack/index.json")).unwrap();
    for case in index["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if let (true, Some(command)) = (name.starts_with("conv2d-3x3-s"), case["command"].as_str()) {
            let command = command.replace(&format!("{name}.in"), &format!("pack/float32/{name}.in"));
            let command = command.replace(&format!("{name}.out"), &format!("yours/{name}"));
            folder.run(command.strip_prefix("resnet ").unwrap()).ok();
        }
    }
    assert_eq!(files(&folder.path("yours")), ["conv2d-3x3-stride2.npz", "conv2d-3x3-stride3.npz"]);
    let stdout = folder.run("oracle compare pack yours --all").ok();
    assert!(stdout.contains("fits   conv2d-3x3-stride2: 4 tensors\n"), "{stdout}");
    assert!(stdout.contains("yours: 2 of 2 cases fit; 77 cases of the pack have no result"), "{stdout}");

    let path = folder.path("yours/conv2d-3x3-stride2.npz");
    let mut wrong = formats::read(&path).unwrap();
    wrong.insert("grad_weight", wrong.get("grad_weight").unwrap().to_f64() * 1.5);
    formats::write(&path, &wrong).unwrap();
    let run = folder.run("oracle compare pack yours");
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), ""));
    assert!(
        run.stdout
            .starts_with("WRONG  conv2d-3x3-stride2: first in grad_weight, 90 of 90 elements EXCEED the tolerance\n"),
        "{}",
        run.stdout
    );
    let run = folder.run("oracle compare pack yours --json");
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((report["passed"].as_bool(), report["tried"].as_u64()), (Some(false), Some(2)));

    folder.run("oracle compare pack yours --rtol 1").fails(2, &["--rtol and --atol are for two files"]);
    folder.run("oracle compare pack none").fails(1, &["cannot read none"]);
    folder.run("oracle compare yours pack").fails(1, &["index.json"]);
    folder.run("oracle pack").fails(2, &["--out"]);
    fs::remove_dir_all(folder.path("yours")).unwrap();
    fs::create_dir(folder.path("yours")).unwrap();
    let run = folder.run("oracle compare pack yours");
    assert_eq!(run.code, Some(1), "nothing is no proof");
}

/// The reference and the engine train, test and predict the same up to rounding; a traced step equals a step of the reference.
#[test]
fn the_reference_and_the_engine() {
    let folder = Folder::new("engines");
    photographs(&folder);
    let run =
        |flags: &str| folder.ok(&format!("train --data photos --model resnet8 --batch-size 25 --epochs 1 {flags}"));
    assert_eq!(value(&run("--out fast"), "engine"), "fast, convolutions auto");
    let plain = run("--out plain --engine reference");
    assert_eq!(value(&plain, "engine"), "reference");
    let config = folder.read("plain/config.toml");
    assert!(config.contains("engine = \"reference\"") && !config.contains("conv ="), "{config}");

    // One traced step, then the rest as usual: bit-identical to an uninterrupted run.
    let traced = run("--out traced --engine reference --steps 1 --trace");
    for part in [
        "pass 1\n",
        "forward   layer1.0.conv1                   y         25x32x32x16",
        "backward  layer3.0.conv2.weight            gradient  64x64x3x3",
        "backward  fc                               dy        25x10",
        "stopped in epoch 1, after step 1; resume with `resnet train --resume traced`",
    ] {
        assert!(traced.contains(part), "{part} is missing in\n{traced}");
    }
    assert!(!traced.contains("pass 2\n") && !traced.contains("NaN"), "{traced}");
    folder.fails("train --resume traced --engine fast", 2, &["--engine is \"fast\"", "started with \"reference\""]);
    let resumed = folder.ok("train --resume traced");
    assert_eq!(value(&resumed, "fingerprint"), value(&plain, "fingerprint"));

    // The configuration of a version with a single engine.
    let old: String = folder
        .read("fast/config.toml")
        .lines()
        .filter(|line| !line.starts_with("engine"))
        .collect::<Vec<_>>()
        .join("\n");
    fs::write(folder.path("old.toml"), old.replace("\"auto\"", "\"implicit\"")).unwrap();
    let indirect = folder.ok("train --config old.toml --out old");
    assert_eq!(value(&indirect, "engine"), "fast, convolutions indirect");
    fs::write(folder.path("older.toml"), "conv = \"direct\"\n").unwrap();
    folder.fails("train --config older.toml", 2, &["direct", "--engine reference"]);

    let loss = |flags: &str| -> f64 {
        let json = folder.ok(&format!("eval --data photos --weights fast/weights.safetensors --json {flags}"));
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["loss"].as_f64().unwrap()
    };
    let (engine, reference, exact) = (loss(""), loss("--engine reference"), loss("--dtype f64"));
    // Logits of size 1 after nine layers: some hundred roundings of 2⁻²⁴.
    assert!((engine - exact).abs() < 1e-4 && (reference - exact).abs() < 1e-4, "{engine} {reference} {exact}");
}
