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
    // How often a run is saved does not change its result.
    let config = String::from_utf8(results.pop().unwrap().1).unwrap();
    let config: Vec<&str> =
        config.lines().filter(|line| !line.contains("_checkpoint") && !line.contains("checkpoint_")).collect();
    results.push(("config.toml".to_string(), config.join("\n").into_bytes()));
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

const RUN: &str = "train --train-images 130 --validation 30 --batch-size 10 --epochs 6 --seed 4";

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
            let begun = fs::read_dir(folder.path(&run).join("checkpoints")).is_ok_and(|files| {
                files.flatten().any(|file| file.file_name().to_string_lossy().ends_with(".safetensors"))
            });
            inside += usize::from(begun);
            // Before its settings are saved, a run is started again by the same command.
            if folder.path(&run).join("config.toml").exists() {
                next = format!("train --resume {run}");
            }
        }
        same_results(&folder.path("whole"), &folder.path(&run));
    }
    println!("{kills} kills in {runs} runs, {inside} of them after a checkpoint");
    assert!(inside > 5, "only {inside} of {kills} kills hit a run with a checkpoint");
}

/// A signal finishes the step and saves; the resumed run ends with the same bytes.
#[test]
fn an_interrupted_run_says_how_to_go_on_and_does() {
    let folder = Folder::new("resume-interrupt");
    folder.has_run(RUN, "whole");
    for (signal, code) in [("-TERM", 143), ("-INT", 130), ("-HUP", 129)] {
        if signal == "-HUP" && (common::ignores_hangup() || !cfg!(target_os = "linux")) {
            continue;
        }
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
        assert_eq!(output.status.code(), Some(code), "{stdout}");
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
    folder.has_run(RUN, "run");
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
    folder.has_run(RUN, "whole");
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
    // The one before is of the same epoch: all its steps, before its validation.
    assert!(stdout.contains("damaged: expected the SHA-256"), "{stdout}");
    assert!(stdout.contains("in epoch 6 of 6, after step 10 of 10"), "{stdout}");
    assert!(stdout.contains("removed run/checkpoints/epoch-000099-step-00000000.safetensors.tmp"), "{stdout}");
    same_results(&folder.path("whole"), &folder.path("run"));
    let left = checkpoints(&folder);
    let ends = |end: &str| left.iter().filter(|file| file.to_string_lossy().ends_with(end)).count();
    assert_eq!((ends(".safetensors"), ends(".damaged")), (1, 1), "{left:?}");

    fs::remove_file(folder.path("run/result.json")).unwrap();
    // Files of the last epoch and of the best are in the checkpoint, whether the run has its result or not.
    for with_result in [true, false] {
        if with_result {
            folder.ok("train --resume run");
        }
        let files = ["run/weights.safetensors", "run/best.safetensors"];
        files.iter().for_each(|file| fs::remove_file(folder.path(file)).unwrap());
        if with_result {
            fs::remove_file(folder.path("run/metrics.csv")).unwrap();
        } else {
            fs::remove_file(folder.path("run/result.json")).unwrap();
        }
        let stdout = folder.ok("train --resume run");
        let note =
            |file: &str| format!("note           {file} was missing, and is written again from the checkpoint\n");
        assert!(files.iter().all(|file| stdout.contains(&note(file))), "{stdout}");
        assert_eq!(stdout.ends_with("run is complete: nothing else to do\n"), with_result, "{stdout}");
        same_results(&folder.path("whole"), &folder.path("run"));
    }

    fs::remove_file(folder.path("run/result.json")).unwrap();
    checkpoints(&folder).iter().for_each(|file| fs::write(file, "").unwrap());
    let advice = "only started again, in another folder: resnet train --config run/config.toml --out …";
    folder.fails("train --resume run", 1, &["run/checkpoints", "expected a complete checkpoint", advice]);
    fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    fs::create_dir(folder.path("run/checkpoints")).unwrap();
    folder.fails("train --resume run", 1, &["expected a complete checkpoint, found none", advice]);
}

#[test]
fn what_cannot_be_gone_on_with_is_refused_and_nothing_is_overwritten() {
    let folder = Folder::new("resume-refused");
    broken_off(&folder);
    let before = fs::read(folder.path("run/metrics.csv")).unwrap();
    folder.fails(
        "train --resume run --epochs 7",
        2,
        &[
            "--epochs is 7, but the run has 6; only a complete run can be lengthened",
            "resnet train --config run/config.toml --epochs 7",
        ],
    );
    folder.fails("train --resume run --seed 5", 2, &["--seed is 5, but the run started with 4"]);
    folder.fails("train --resume run --conv gemm", 2, &["--conv is \"gemm\", but the run started with \"auto\""]);
    folder.fails("train --resume run --out other", 2, &["--resume", "--out"]);
    folder.fails("train --resume nothing", 1, &["nothing: expected the folder of a run with `checkpoints` in it"]);
    folder.fails(
        "train --resume run --data nowhere",
        1,
        &["nowhere does not exist", "If they were moved, give their location with --data"],
    );
    assert_eq!(fs::read(folder.path("run/metrics.csv")).unwrap(), before);
    // The settings are in the checkpoint of the run. An edited file is noticed, and one that cannot be read.
    let config = folder.read("run/config.toml");
    fs::write(folder.path("run/config.toml"), config.replace("seed = 4", "seed = 40")).unwrap();
    let stdout = folder.ok("train --resume run --epochs 6 --seed 4");
    assert!(stdout.contains("run/config.toml was edited: seed is 40, not 4. "), "{stdout}");
    assert_eq!(folder.read("run/config.toml"), config);
    assert!(folder.read("run/config.edited.toml").contains("seed = 40"));
    fs::remove_file(folder.path("run/result.json")).unwrap();
    fs::write(folder.path("run/config.toml"), "repeat = 2\nepochs = ").unwrap();
    let stdout = folder.ok("train --resume run");
    assert!(stdout.contains("run/config.toml is damaged: TOML parse error at line 2"), "{stdout}");
    assert_eq!(folder.read("run/config.toml"), config);

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
    folder.has_run(RUN, "whole");
    // A run that was killed after its fifth epoch, and is resumed on a disk without space for the weights.
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
            "the last checkpoint is in epoch 6, after step 10",
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

/// What does not change the result may be changed and is remembered; a complete run can be lengthened.
#[test]
fn settings_that_do_not_change_the_result_are_remembered() {
    const SHORT: &str = "train --train-images 40 --batch-size 10 --validation 10 --schedule constant";
    let folder = Folder::new("resume-settings");
    folder.ok(&format!("{SHORT} --epochs 3 --out whole"));
    // A path with a space, in all commands that messages propose.
    let words = |arguments: &str| {
        let mut command = folder.command(arguments);
        command.args(["--resume", "my run"]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let mut begin = folder.command(&format!("{SHORT} --epochs 2 --steps 1 --checkpoint-every 0.001s"));
    assert!(begin.args(["--out", "my run"]).status().unwrap().success());
    let (code, stdout, _) = words("train --steps 1 --eval-batch-size 3 --keep-checkpoints 5");
    assert!(code == Some(0) && stdout.ends_with("resume with `resnet train --resume 'my run'`\n"), "{stdout}");
    assert!(stdout.contains("eval_batch_size is 3 from now on; it was 250"), "{stdout}");
    let (code, stdout, _) = words("train");
    assert!(code == Some(0) && !stdout.contains("eval_batch_size"), "{stdout}");
    // One after every step and one after every epoch.
    assert_eq!(fs::read_dir(folder.path("my run/checkpoints")).unwrap().count(), 5);
    let config = folder.read("my run/config.toml");
    assert!(config.contains("checkpoint_every = \"0.001s\"\nkeep_checkpoints = 5\n"), "{config}");

    let (code, _, stderr) = words("train --epochs 1");
    assert!(stderr.contains("the run has 2; a complete run can be lengthened to more epochs"), "{stderr}");
    assert!(code == Some(2) && stderr.contains("resnet train --config 'my run/config.toml' --epochs 1"), "{stderr}");
    let (code, _, stderr) = words("train --epochs 3");
    assert!(code == Some(0) && stderr.contains("note: 'my run' is lengthened from 2 to 3 epochs"), "{stderr}");
    assert!(stderr.contains("the weights will be those of an uninterrupted run"), "{stderr}");
    for name in ["metrics.csv", "layers.csv", "weights.safetensors"] {
        let bytes = |run: &str| fs::read(folder.path(run).join(name)).unwrap();
        // The weights name the number of epochs of the run.
        assert!(bytes("my run") == bytes("whole") || name == "weights.safetensors", "{name}");
    }
    let fingerprint = |run: &str| {
        folder.read(&format!("{run}/result.json")).lines().find(|l| l.contains("fingerprint")).unwrap().to_string()
    };
    assert_eq!(fingerprint("my run"), fingerprint("whole"));
    assert!(folder.path("my run/result-of-epoch-2.json").exists());
    assert!(folder.read("my run/config.toml").contains("epochs = 3\n"));
}

/// Killed before its first checkpoint, and before its settings were saved.
#[test]
fn a_run_that_has_not_begun_starts_again() {
    const SHORT: &str = "train --train-images 40 --batch-size 10 --epochs 1";
    let folder = Folder::new("resume-unbegun");
    folder.ok(&format!("{SHORT} --out whole"));
    fs::create_dir_all(folder.path("run/checkpoints")).unwrap();
    fs::write(folder.path("run/lock"), "").unwrap();
    folder.fails("train --resume run", 1, &["run: the run was killed before its settings were saved", "--out run"]);
    fs::copy(folder.path("whole/config.toml"), folder.path("run/config.toml")).unwrap();
    fs::write(folder.path("run/checkpoints/epoch-000000-step-00000000.safetensors.tmp"), "half").unwrap();
    folder.fails("train --resume run --seed 9", 2, &["--seed is 9, but the run started with 1"]);
    let stdout = folder.ok("train --resume run");
    assert!(
        stdout.starts_with("note           the run was killed before its first checkpoint, so it starts again\n"),
        "{stdout}"
    );
    fs::create_dir_all(folder.path("again")).unwrap();
    fs::write(folder.path("again/lock"), "").unwrap();
    folder.ok(&format!("{SHORT} --out again"));
    for run in ["run", "again"] {
        assert!(
            fs::read(folder.path(run).join("weights.safetensors")).unwrap()
                == fs::read(folder.path("whole/weights.safetensors")).unwrap()
        );
    }
    folder.fails(&format!("{SHORT} --out run"), 1, &["found a run in it", "resnet train --resume run"]);
    fs::write(folder.path("file"), "").unwrap();
    for out in ["file", "file/", "file/run", "file/a/b"] {
        let part = if out.starts_with("file/") && out.len() > 5 {
            "file is a file, which cannot contain a folder"
        } else {
            "found a file"
        };
        folder.fails(&format!("{SHORT} --out {out}"), 1, &[part]);
    }
}

/// `--max-hours` saves and ends with success.
#[test]
fn the_time_of_a_run_can_be_limited() {
    let folder = Folder::new("resume-hours");
    let stdout = folder.ok("train --train-images 60 --batch-size 10 --epochs 5000 --max-hours 0.0001 --out run");
    let last = stdout.lines().last().unwrap();
    assert!(last.starts_with("stopped ") && last.contains("resnet train --resume run"), "{stdout}");
    assert!(!folder.path("run/result.json").exists());
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
    folder.fails("train --config wrong.toml", 2, &["wrong.toml", "line 2", "learning_rate"]);
    fs::write(folder.path("wrong.toml"), "lr = \"fast\"\n").unwrap();
    folder.fails("train --config wrong.toml", 2, &["wrong.toml", "line 1"]);
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
    folder.fails("train --resume all --epochs 3", 2, &["but the run has 2; repeated runs cannot be lengthened"]);
    folder.fails("train --repeat 2 --out all", 1, &["expected a new or empty folder"]);
    folder.fails("train --repeat 0", 2, &["from 1 to 1000"]);
    folder.ok("train --resume all/seed-7 --epochs 3");
    folder.fails("train --resume all", 1, &["all/seed-7 was lengthened from 2 to 3 epochs"]);
    fs::remove_file(folder.path("all/config.toml")).unwrap();
    let lost = ["all: config.toml is missing", "Copy all/seed-7/config.toml there", "repeat = "];
    folder.fails("train --resume all", 1, &lost);
    fs::write(folder.path("all/config.toml"), "repeat = ").unwrap();
    folder.fails("train --resume all", 1, &["all: config.toml is damaged: TOML parse error at line 1", lost[1]]);
    let seed = u64::MAX.to_string();
    folder.fails(&format!("train --repeat 2 --seed {seed}"), 2, &["there are no 2 seeds starting at"]);
}
