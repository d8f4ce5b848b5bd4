//! `resnet oracle fuzz`, `serve` and files of expected failures.

use crate::common::Folder;
use resnet_by_hand::formats;
use resnet_by_hand::tensors::Tensors;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

const RESNET: &str = env!("CARGO_BIN_EXE_resnet");

/// Runs `fuzz` with a command line, which contains spaces.
fn fuzz(folder: &Folder, arguments: &str, command: &str) -> (Option<i32>, String, String) {
    let mut fuzz = folder.command(&format!("oracle fuzz {arguments}"));
    let output = fuzz.args(["--run", command]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
#[cfg(unix)]
fn a_program_is_tried_and_what_fails_is_shrunk() {
    let folder = Folder::new("fuzz");
    let right = format!(
        "{RESNET} oracle layer {{kind}} --set {{settings}} --in {{in}} --out {{out}} --no-tolerances --dtype f32"
    );
    let (code, stdout, stderr) = fuzz(&folder, "avg_pool --seeds 4", &right);
    assert!(code == Some(0) && stdout.starts_with("avg_pool, 4 cases: 4 right\n"), "{stdout}{stderr}");
    let (code, _, stderr) = fuzz(&folder, "avg_pool --seeds 4 --computed-in grad_inptu:bf16", &right);
    assert!(code == Some(2) && stderr.contains("like `grad_inptu`; did you mean `grad_input`?"), "{stderr}");
    assert!(stderr.contains("the tensors are grad_input, output"), "{stderr}");

    // A program that does not know count_include_pad.
    let wrong = right.replace("{settings}", "$(echo {settings} | sed s/pad=true/pad=false/)");
    let fixed = "--set kernel_size=2,stride=2,ceil_mode=false,c=1";
    let (code, stdout, stderr) = fuzz(&folder, &format!("avg_pool --seeds 8 {fixed}"), &wrong);
    assert!(code == Some(1) && stderr.is_empty(), "{stdout}{stderr}");
    for part in
        ["wrong\n", "the smallest case found that is wrong: ", "EXCEED", "again: resnet oracle fuzz avg_pool --case "]
    {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let smallest = stdout.split("is wrong: ").nth(1).unwrap().lines().next().unwrap();
    assert!(
        smallest
            .ends_with("n=1,c=1,h=1,w=1,kernel_size=2x2,stride=2x2,padding=1x1,ceil_mode=false,count_include_pad=true"),
        "{smallest}"
    );
    let (code, stdout, _) = fuzz(&folder, &format!("avg_pool --json --case {smallest}"), &wrong);
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(
        code == Some(1) && found["first"]["case"] == smallest && found["first"]["report"]["first"] == "output",
        "{stdout}"
    );

    // What is known is excused, and what is not supported is counted.
    std::fs::write(folder.path("known.txt"), "avg_pool count_include_pad=true # later\n").unwrap();
    let (code, stdout, _) = fuzz(&folder, &format!("avg_pool --seeds 8 {fixed} --xfail known.txt"), &wrong);
    assert!(code == Some(0) && stdout.contains(" right, ") && stdout.contains(" expected failures\n"), "{stdout}");
    // What is expected to fail must fail; a line for another kind is not concerned.
    let lines = "max_pool output\navg_pool count_include_pad=* # later\navg_pool count_include_pad=false # now\n";
    std::fs::write(folder.path("known.txt"), lines).unwrap();
    let arguments = format!("avg_pool --seeds 8 {fixed} --xfail known.txt");
    let (code, stdout, _) = fuzz(&folder, &arguments, &wrong);
    let superfluous = "EXPECTED TO FAIL, PASSED: known.txt, line 3: avg_pool count_include_pad=false # now\n";
    assert!(code == Some(1) && stdout.contains(superfluous) && stdout.matches("PASSED").count() == 1, "{stdout}");
    std::fs::write(folder.path("known.txt"), lines.replace("false #", "false strict=false #")).unwrap();
    assert_eq!(fuzz(&folder, &arguments, &wrong).0, Some(0));
    std::fs::write(folder.path("known.txt"), format!("{lines}avg_pool h=100\n").replace("false #", "true #")).unwrap();
    let (code, stdout, _) = fuzz(&folder, &arguments, &wrong);
    assert!(
        code == Some(0) && stdout.contains("note: nothing matches known.txt, line 4: avg_pool h=100\n"),
        "{stdout}"
    );

    let (code, stdout, _) = fuzz(&folder, "relu --seeds 2", "test {in} -a {out}; exit 77");
    assert!(code == Some(1) && stdout == "relu, 2 cases: 2 not supported\nno case was tried\n", "{stdout}");
    let (code, stdout, _) = fuzz(&folder, "relu --seeds 2", "test {in} -a {out}; echo out of memory >&2; exit 3");
    assert!(code == Some(1) && stdout.contains("it failed: exit status: 3: out of memory"), "{stdout}");
    let (code, stdout, _) = fuzz(&folder, "relu --seeds 1", "true {in} {out}");
    assert!(code == Some(1) && stdout.contains("wrote no results"), "{stdout}");
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("resnet-fuzz-{}", std::process::id()))
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn fuzz_says_what_is_wrong_with_its_arguments() {
    let folder = Folder::new("fuzz-usage");
    std::fs::write(folder.path("bad.txt"), "stride=2\n").unwrap();
    for (arguments, parts) in [
        ("relu", &["--run <COMMAND>", "--ask"][..]),
        ("relu --run kernel", &["--run", "must contain {in} and {out}"]),
        ("relux --ask", &["relux", "relu"]),
        ("conv2d --ask --set strid=3", &["conv2d has no `strid`; did you mean `stride`?", "known: n, groups"]),
        ("conv2d --ask --set stride=a", &["`stride` expects a whole number or height x width, got `a`"]),
        ("relu --ask --values tinny", &["unknown value sort `tinny`", "tiny"]),
        ("relu --ask --case n=1,c=1,h=1,w=1,values=tiny", &["it lacks `seed`"]),
        ("relu --ask --case seed=1,values=tiny,c=1,h=1,w=1", &["it lacks `n`"]),
        ("relu --ask --case seed=1 --seeds 3", &["--case", "--seeds"]),
        ("relu --ask --seeds 0", &["--seeds"]),
        ("relu --ask --format txt", &["--format"]),
    ] {
        folder.fails(&format!("oracle fuzz {arguments}"), 2, parts);
    }
    for (arguments, parts) in [
        ("conv2d --ask --set kernel=5,h=1,w=1,padding=0", &["conv2d: no geometry is possible with these settings"][..]),
        ("relu --ask --xfail no.txt", &["cannot read no.txt"]),
        ("relu --ask --xfail bad.txt", &["bad.txt", "line 1", "kind of layer first"]),
        ("relu --ask", &["stdin was closed before the answer to seed=0"]),
    ] {
        folder.fails(&format!("oracle fuzz {arguments}"), 1, parts);
    }
}

/// A process that answers lines.
struct Process(Child);

impl Process {
    fn start(folder: &Folder, arguments: &str) -> Process {
        let mut command = folder.command(arguments);
        Process(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn say(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Every line of its output, while `answer` answers it.
    fn talk(mut self, mut answer: impl FnMut(&mut Self, serde_json::Value)) -> Option<i32> {
        let stdout = BufReader::new(self.0.stdout.take().unwrap());
        for line in stdout.lines() {
            answer(&mut self, serde_json::from_str(&line.unwrap()).unwrap());
        }
        drop(self.0.stdin.take());
        self.0.wait().unwrap().code()
    }
}

#[test]
fn a_caller_is_asked_for_results() {
    let folder = Folder::new("fuzz-ask");
    let (mut asked, mut report) = (0, None);
    let fuzz =
        Process::start(&folder, "oracle fuzz leaky_relu --ask --seeds 6 --computed-in f64 --set negative_slope=0.2");
    let code = fuzz.talk(|fuzz, mut line| {
        if let Some(run) = line.get("run") {
            asked += 1;
            assert_eq!(run["settings"], serde_json::json!({ "negative_slope": 0.2 }), "{run}");
            let inputs = formats::read(run["in"].as_str().unwrap().as_ref()).unwrap();
            let mut results = Tensors::new();
            let leaky = |x: &f64| if *x > 0.0 { *x } else { 0.2 * x };
            results.insert("output", inputs.get("input").unwrap().to_f64().map(leaky));
            formats::write(run["out"].as_str().unwrap().as_ref(), &results).unwrap();
            // One case is not supported, and one fails.
            fuzz.say(["{\"skip\": \"odd\"}", "{\"error\": \"overflow\"}", "{}"][(asked - 1usize).min(2)]);
        } else {
            report = Some(line["report"].take());
        }
    });
    let report = report.unwrap();
    // After the failure smaller cases were tried, and they are right.
    assert!(code == Some(1) && asked > 6, "{report}");
    assert!(
        report["skipped"] == 1 && report["right"] == 4 && report["wrong"].as_array().unwrap().len() == 1,
        "{report}"
    );
    assert!(report["first"]["error"] == "overflow" && report["first"]["case"] == report["first"]["shrunk"], "{report}");
}

#[test]
fn many_commands_are_served_by_one_process() {
    let folder = Folder::new("serve");
    let mut input = Tensors::new();
    input.insert("input", ndarray::array![[1.0, 2.0], [3.0, 5.0]]);
    input.insert("weight", ndarray::array![[1.0, -1.0]]);
    formats::write(&folder.path("in.npz"), &input).unwrap();
    let mut theirs = Tensors::new();
    theirs.insert("output", ndarray::array![[-1.0], [2.0]]);
    formats::write(&folder.path("wrong.npz"), &theirs).unwrap();
    let mut serve = Process::start(&folder, "oracle serve");
    let check = r#"["check", "wrong.npz", "--json", "layer", "linear", "--in", "in.npz"]"#;
    std::fs::write(folder.path("known.txt"), "linear output # signs\n").unwrap();
    let excused = check.replace("\"--json\"", "\"--xfail\", \"known.txt\"");
    std::fs::write(folder.path("old.txt"), "linear output # signs\n* grad_bias\n").unwrap();
    let passes = check.replace("wrong.npz", "right.npz").replace("\"--json\"", "\"--json\", \"--xfail\", \"old.txt\"");
    theirs.insert("output", ndarray::array![[-1.0], [-2.0]]);
    formats::write(&folder.path("right.npz"), &theirs).unwrap();
    let none = r#"["check", "none.npz", "layer", "linear", "--in", "in.npz"]"#;
    for line in [check, "nonsense", none, "", &excused, &passes] {
        serve.say(line);
    }
    drop(serve.0.stdin.take());
    let mut answers = Vec::new();
    let code = serve.talk(|_, answer| answers.push(answer));
    let codes: Vec<i64> = answers.iter().map(|answer| answer["code"].as_i64().unwrap()).collect();
    assert_eq!((code, codes), (Some(0), vec![1, 2, 1, 0, 1]));
    let passes: serde_json::Value = serde_json::from_str(answers[4]["out"].as_str().unwrap()).unwrap();
    let line = "line 1: linear output # signs";
    assert_eq!(passes["expected"], serde_json::json!({ "failed": [], "passed": [line] }));
    assert!(passes["passed"] == false && passes["end_to_end"]["passed"] == true, "{passes}");
    let text = passes["text"].as_str().unwrap();
    assert!(text.ends_with("or add strict=false if it fails sometimes\n") && text.contains(line), "{text}");
    // What the command itself prints.
    let alone = folder.run("oracle check wrong.npz --json layer linear --in in.npz");
    assert_eq!(answers[0]["out"], alone.stdout);
    let printed: serde_json::Value = serde_json::from_str(&alone.stdout).unwrap();
    let text = folder.run("oracle check wrong.npz layer linear --in in.npz").stdout;
    assert_eq!(printed["text"], text);
    assert!(text.contains("1 of 2 elements EXCEED the tolerance"), "{text}");
    assert_eq!(answers[2]["error"], "error: cannot read none.npz: No such file or directory (os error 2)");
    let excused = answers[3]["out"].as_str().unwrap();
    assert!(
        excused.contains("1 expected failures, the first in output: signs")
            && excused.contains("0 of 1 tensors fit, the others as expected"),
        "{excused}"
    );
}
