//! Runs that are killed, interrupted, damaged and resumed with the command.

use super::common::{self, Folder};
use super::reader;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Everything of a run that must not depend on interruptions and threads.
fn results(run: &Path) -> Vec<(String, Vec<u8>)> {
    let names =
        ["weights.safetensors", "best.safetensors", "metrics.csv", "metrics.jsonl", "layers.csv", "config.toml"];
    let mut results: Vec<_> = names.map(|name| (name.to_string(), fs::read(run.join(name)).unwrap())).to_vec();
    let result: serde_json::Value = serde_json::from_slice(&fs::read(run.join("result.json")).unwrap()).unwrap();
    for key in ["fingerprint", "test_correct", "test_loss", "tested_weights_of_epoch"] {
        results.push((key.to_string(), result[key].to_string().into_bytes()));
    }
    // What TensorBoard shows, without the speed; the files themselves contain times. The test is recorded after the result, so
    // a kill in between leaves it out.
    let mut shown = reader::read_run(run);
    shown.retain(|name, _| name != "train/epoch_details/images_per_second" && !name.starts_with("test/"));
    results.push(("events".to_string(), format!("{shown:?}").into_bytes()));
    results
}

#[track_caller]
fn same_results(a: &Path, b: &Path) {
    for ((name, a), (_, b)) in results(a).iter().zip(results(b)) {
        assert!(*a == b, "{name} is different");
    }
}

const RUN: &str = "train --train-images 130 --validation 30 --batch-size 10 --epochs 12 --seed 4";

/// All options that add to the state of a run or change a step.
const EVERYTHING: &str = "--ema-decay 0.9 --mixup 0.3 --accumulate 2 --cutout 8 --clip-norm 2 --test-flip";

/// SIGKILL at twenty random moments, different in every run of the test, in the middle of any activity: checkpoints are
/// written after every step. Resumed on 1, 2 and 3 threads in turn, the run ends with the bytes of an uninterrupted one.
#[test]
fn a_run_killed_at_twenty_moments_ends_with_the_same_bytes() {
    let folder = Folder::new("resume-kill");
    let run_flags = format!("{RUN} {EVERYTHING}");
    folder.ok(&format!("{run_flags} --threads 2 --out whole"));
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("delays drawn with seed {seed}");
    let (mut state, mut kills, mut runs, mut inside) = (seed | 1, 0, 0, 0);
    while kills < 20 {
        let run = format!("run{runs}");
        runs += 1;
        assert!(runs <= 20, "runs end before they are killed: {kills} kills");
        let mut next = format!("{run_flags} --out {run} --checkpoint-every 0.001s");
        for attempt in 0.. {
            let threads = 1 + attempt % 3;
            let mut child = folder
                .command(&format!("{next} --threads {threads}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // xorshift; somewhere between the start of the process and some steps later.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let end = Instant::now() + Duration::from_millis(20 + state % 400);
            let ended = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break Some(status),
                    None if kills < 20 && Instant::now() >= end => break None,
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            if let Some(status) = ended {
                assert!(status.success(), "{next}: {status}");
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            // Before its first checkpoint a run cannot be resumed.
            let begun = fs::read_dir(folder.path(&run).join("checkpoints")).is_ok_and(|files| {
                files.flatten().any(|file| file.file_name().to_string_lossy().ends_with(".safetensors"))
            });
            if begun {
                inside += 1;
                next = format!("train --resume {run} --checkpoint-every 0.001s");
            } else {
                let _ = fs::remove_dir_all(folder.path(&run));
            }
        }
        same_results(&folder.path("whole"), &folder.path(&run));
    }
    println!("{kills} kills in {runs} runs, {inside} of them after a checkpoint");
    assert!(inside > 5, "only {inside} of {kills} kills hit a run with a checkpoint");
}

/// SIGTERM and Ctrl-C finish the step and save; the resumed run ends with the same bytes.
#[test]
fn an_interrupted_run_says_how_to_go_on_and_does() {
    if common::skip_under_nohup() {
        return;
    }
    let folder = Folder::new("resume-interrupt");
    folder.ok(&format!("{RUN} --out whole"));
    for signal in ["-TERM", "-INT"] {
        let run = format!("run{signal}");
        let child = folder.command(&format!("{RUN} --out {run}")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.unwrap();
        // An epoch takes longer than this, the start does not.
        while !folder.path(&run).join("weights.safetensors").exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        if output.status.code() == Some(0) {
            continue; // It had ended before the signal.
        }
        assert_eq!(output.status.code(), Some(130), "{stdout}");
        let last = stdout.lines().last().unwrap();
        let advice = format!("resume with `resnet train --resume {run}`");
        assert!(last.starts_with("stopped ") && last.ends_with(&advice), "{stdout}");
        let stdout = folder.ok(&format!("train --resume {run} --threads 1"));
        assert!(stdout.lines().any(|line| line.starts_with("resumed ")), "{stdout}");
        same_results(&folder.path("whole"), &folder.path(&run));
        // Resumed once more, there is nothing to do, and nothing changes.
        assert_eq!(folder.ok(&format!("train --resume {run}")), format!("{run} is complete: nothing to do\n"));
        same_results(&folder.path("whole"), &folder.path(&run));
    }
}

/// A run with all its files except the result.
fn broken_off(folder: &Folder) {
    folder.ok(&format!("{RUN} --out run"));
    fs::remove_file(folder.path("run/result.json")).unwrap();
}

fn checkpoints(folder: &Folder) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder.path("run/checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let folder = Folder::new("resume-damage");
    folder.ok(&format!("{RUN} --out whole"));
    broken_off(&folder);
    let files = checkpoints(&folder);
    assert_eq!(files.len(), 2);
    let mut bytes = fs::read(&files[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&files[1], bytes).unwrap();
    // A file that was being written at a power cut.
    fs::write(folder.path("run/checkpoints/epoch-000099-step-00000000.safetensors.tmp"), "half").unwrap();
    // Also with a limit of one checkpoint: the damaged one, whose position is later, must not replace the good one.
    let stdout = folder.ok("train --resume run --keep-checkpoints 1 --checkpoint-every 0.001s");
    assert!(stdout.contains("is unusable, using the previous checkpoint: "), "{stdout}");
    assert!(stdout.contains("damaged: expected the SHA-256") && stdout.contains("after epoch 11 of 12"), "{stdout}");
    same_results(&folder.path("whole"), &folder.path("run"));
    let left = checkpoints(&folder);
    let ends = |end: &str| left.iter().filter(|file| file.to_string_lossy().ends_with(end)).count();
    assert_eq!((ends(".safetensors"), ends(".damaged")), (1, 1), "{left:?}");

    fs::remove_file(folder.path("run/result.json")).unwrap();
    checkpoints(&folder).iter().for_each(|file| fs::write(file, "").unwrap());
    folder.fails("train --resume run", 1, &["run/checkpoints", "expected a complete checkpoint"]);
}

#[test]
fn what_cannot_be_gone_on_with_is_refused_and_nothing_is_overwritten() {
    let folder = Folder::new("resume-refused");
    broken_off(&folder);
    let before = fs::read(folder.path("run/metrics.csv")).unwrap();
    folder.fails(
        "train --resume run --epochs 13",
        2,
        &["--epochs is 13, but the run started with 12", "resnet train --config run/config.toml --epochs 13"],
    );
    folder.fails("train --resume run --seed 5", 2, &["--seed is 5, but the run started with 4"]);
    folder.fails("train --resume run --conv gemm", 2, &["--conv is \"gemm\", but the run started with \"auto\""]);
    folder.fails("train --resume run --out other", 2, &["--resume", "--out"]);
    folder.fails("train --resume nothing", 1, &["nothing: expected the folder of a run with `checkpoints` in it"]);
    folder.fails("train --resume run --data nowhere", 1, &["nowhere does not exist"]);
    // The settings are in the checkpoint of the run; an edited file is ignored.
    fs::write(folder.path("run/config.toml"), "repeat = 2\nepochs = ").unwrap();
    // The same settings may be repeated.
    assert_eq!(fs::read(folder.path("run/metrics.csv")).unwrap(), before);
    folder.ok("train --resume run --epochs 12 --seed 4");

    // Two at once.
    let mut child = folder
        .command("train --train-images 60 --batch-size 10 --epochs 5000 --out busy")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !folder.path("busy/weights.safetensors").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    folder.fails("train --resume busy", 1, &["busy: in use by another `resnet train`"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `/dev/full` is a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_run_and_leaves_the_last_checkpoint() {
    let folder = Folder::new("resume-full");
    folder.ok(&format!("{RUN} --out whole"));
    // A run that was killed after its eleventh epoch, and is resumed on a disk without space for the weights.
    broken_off(&folder);
    fs::remove_file(&checkpoints(&folder)[1]).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path("run/weights.safetensors.tmp")).unwrap();
    let weights = fs::read(folder.path("run/weights.safetensors")).unwrap();
    folder.fails(
        "train --resume run",
        1,
        &[
            "cannot write run/weights.safetensors.tmp",
            "No space left on device",
            "the last checkpoint is after epoch 11",
            "resume with `resnet train --resume run`",
        ],
    );
    assert_eq!(fs::read(folder.path("run/weights.safetensors")).unwrap(), weights);
    // With free space again it ends as it would have without the interruption.
    folder.ok("train --resume run");
    same_results(&folder.path("whole"), &folder.path("run"));
    // If the folder cannot be created, nothing is trained.
    folder.fails(&format!("{RUN} --out /proc/run"), 1, &["cannot create /proc/run"]);
}

#[test]
fn a_configuration_file_starts_the_same_run_again() {
    let folder = Folder::new("resume-config");
    fs::write(folder.path("run.toml"), "epochs = 2\nbatch_size = 10\ntrain_images = 40\nvalidation = 10\n").unwrap();
    folder.ok("train --config run.toml --seed 7 --out a");
    folder.ok("train --config a/config.toml --out b");
    same_results(&folder.path("a"), &folder.path("b"));
    let config = fs::read_to_string(folder.path("a/config.toml")).unwrap();
    assert!(config.contains("seed = 7\n") && config.contains("model = \"resnet8\"\n"), "{config}");
    fs::write(folder.path("wrong.toml"), "epochs = 2\nlearning_rate = 0.1\n").unwrap();
    folder.fails("train --config wrong.toml", 1, &["wrong.toml", "line 2", "learning_rate"]);
    fs::write(folder.path("wrong.toml"), "lr = \"fast\"\n").unwrap();
    folder.fails("train --config wrong.toml", 1, &["wrong.toml", "line 1"]);
    folder.fails("train --config nothing.toml", 1, &["cannot read nothing.toml"]);
}

/// A loss that is not finite: the error gives the place, and the first layer.
#[test]
fn a_loss_that_is_not_finite_is_explained() {
    let folder = Folder::new("resume-nan");
    folder.fails(
        "train --train-images 40 --batch-size 10 --epochs 3 --schedule constant --lr 1e30 --out run",
        1,
        &[
            "the loss became ",
            " in epoch 1, step ",
            "the first layer whose result is not finite is `",
            "train --config run/config.toml --lr",
        ],
    );
}

/// Two seeds, interrupted in the second one and before its first checkpoint; the first is not trained again.
#[test]
fn repeated_runs_are_those_of_their_seeds_and_go_on() {
    let folder = Folder::new("resume-repeat");
    const SHORT: &str = "train --train-images 60 --batch-size 10 --epochs 2";
    let stdout = folder.ok(&format!("{SHORT} --seed 7 --repeat 2 --out all"));
    folder.ok(&format!("{SHORT} --seed 8 --out eight"));
    let json = |path: &str| serde_json::from_str::<serde_json::Value>(&folder.read(path)).unwrap();
    let names = ["weights.safetensors", "metrics.csv", "layers.csv", "config.toml"];
    for name in names {
        let bytes = |run: &str| fs::read(folder.path(run).join(name)).unwrap();
        assert!(bytes("all/seed-8") == bytes("eight"), "{name}");
    }
    let accuracies =
        ["all/seed-7", "all/seed-8"].map(|run| json(&format!("{run}/result.json"))["test_accuracy"].clone());
    let summary = folder.read("all/repeat.json");
    assert_eq!(json("all/repeat.json")["test_accuracies"], serde_json::json!(accuracies));
    let [a, b] = accuracies.map(|accuracy| accuracy.as_f64().unwrap());
    // For two values: |a − b| / √2.
    let (mean, std) = (50.0 * (a + b), 100.0 * (a - b).abs() / 2f64.sqrt());
    let line = format!("mean           {mean:.2} %, standard deviation {std:.2}");
    assert!(stdout.lines().any(|found| found == line), "{line}\n{stdout}");

    // The second run as if it had been killed after an epoch, then as if it had been before its first checkpoint.
    let done = fs::metadata(folder.path("all/seed-7/result.json")).unwrap().modified().unwrap();
    fs::remove_file(folder.path("all/seed-8/result.json")).unwrap();
    fs::remove_file(folder.path("all/repeat.json")).unwrap();
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder.path("all/seed-8/checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    fs::remove_file(files.last().unwrap()).unwrap();
    let stdout = folder.ok("train --resume all");
    assert!(stdout.contains("all/seed-7 is complete") && stdout.contains("after epoch 1 of 2"), "{stdout}");
    assert!(stdout.contains(&line), "{stdout}");
    let without_times = |text: &str| {
        let times = |line: &&str| !line.contains("\"seconds\"") && !line.contains("peak_memory_bytes");
        text.lines().filter(times).map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(without_times(&folder.read("all/repeat.json")), without_times(&summary));
    fs::remove_file(folder.path("all/seed-8/result.json")).unwrap();
    fs::remove_dir_all(folder.path("all/seed-8/checkpoints")).unwrap();
    folder.ok("train --resume all --repeat 2 --epochs 2");
    assert_eq!(without_times(&folder.read("all/repeat.json")), without_times(&summary));
    assert_eq!(fs::metadata(folder.path("all/seed-7/result.json")).unwrap().modified().unwrap(), done);

    folder.fails("train --resume all --repeat 3", 2, &["--repeat is 3, but the run started with 2"]);
    folder.fails("train --resume all --lr 3", 2, &["--lr is 3.0, but the run started with 0.1"]);
    folder.fails("train --repeat 2 --out all", 1, &["expected a new or empty folder"]);
    folder.fails("train --repeat 0", 2, &["from 1 to 1000"]);
    let seed = u64::MAX.to_string();
    folder.fails(&format!("train --repeat 2 --seed {seed}"), 2, &["there are no 2 seeds starting at"]);
}
