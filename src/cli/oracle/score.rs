//! `resnet oracle score`.

use crate::cli::{Failure, Result, progress};
use crate::oracle;
use crate::oracle::mutants::Mutant;
use crate::oracle::score::Scored;
use serde_json::json;
use std::io::Write;

/// Count how many injected faults the conformance pack detects
///
/// Computes every operation with one fault after the other; each is called a mutant.
///
/// Exit code 0 if the pack catches every mutant, 1 if it misses one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Show every mutant
    #[arg(long)]
    all: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    let start = std::time::Instant::now();
    let cases = oracle::pack::cases();
    let bar = progress::counter("cases", cases.len());
    let all = oracle::score::score(&cases, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let survivors = all.iter().filter(|scored| !scored.is_caught()).count();
    if args.json {
        let mutant = |scored: &Scored| {
            json!({
                "operation": scored.mutant.operation,
                "part": scored.mutant.part,
                "what": scored.mutant.what,
                "cases": scored.cases,
                "layers": scored.caught[0],
                "blocks": scored.caught[1],
                "networks": scored.caught[2],
                "float32": scored.caught_in_float32,
                "forward": scored.caught_forward,
            })
        };
        let value = json!({
            "mutants": all.len(),
            "caught": all.len() - survivors,
            "all": all.iter().map(mutant).collect::<Vec<_>>(),
        });
        writeln!(out, "{value:#}")?;
    } else {
        print_score(out, &all, args.all)?;
        let share = 100.0 * (all.len() - survivors) as f64 / all.len() as f64;
        let seconds = start.elapsed().as_secs();
        writeln!(
            out,
            "\nthe pack catches {} of {} mutants ({share:.1} %), in {seconds} s",
            all.len() - survivors,
            all.len()
        )?;
    }
    if survivors == 0 { Ok(()) } else { Err(Failure::Verdict) }
}

/// A line for each operation, and one for each mutant that the pack misses.
fn print_score(out: &mut dyn Write, all: &[Scored], every: bool) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<22} {:>7} {:>7} {:>8}   caught by {:>6} {:>6} {:>8} {:>14}",
        "operation", "mutants", "caught", "float32", "layers", "blocks", "networks", "results alone"
    )?;
    let total = |name: &str, own: &dyn Fn(&&Scored) -> bool, out: &mut dyn Write| {
        let own: Vec<&Scored> = all.iter().filter(own).collect();
        let count = |is: &dyn Fn(&Scored) -> bool| own.iter().filter(|scored| is(scored)).count();
        let level = |level: usize| count(&|scored| scored.caught[level]);
        writeln!(
            out,
            "{name:<22} {:>7} {:>7} {:>8}             {:>6} {:>6} {:>8} {:>14}",
            own.len(),
            count(&|scored| scored.caught.contains(&true)),
            count(&|scored| scored.caught_in_float32),
            level(0),
            level(1),
            level(2),
            count(&|scored| scored.caught_forward)
        )
    };
    for operation in oracle::mutants::OPERATIONS {
        total(operation, &|scored| scored.mutant.operation == operation, out)?;
    }
    total("all", &|_| true, out)?;
    for scored in all.iter().filter(|scored| every || !scored.is_caught()) {
        let Mutant { operation, part, what, .. } = scored.mutant;
        let part = if part == "all" { String::new() } else { format!(" {part}") };
        let verdict = match (scored.caught.contains(&true), scored.caught_in_float32, scored.cases) {
            (true, true, _) => "caught",
            (true, false, _) => "MISSED in float32",
            (false, _, 0) => "NOT POSSIBLE in any case",
            (false, ..) => "MISSED",
        };
        writeln!(out, "{verdict}: {operation}{part} {what}")?;
    }
    Ok(())
}
