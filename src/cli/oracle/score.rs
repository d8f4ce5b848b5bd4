//! `resnet oracle score`.

use crate::cli::{Failure, Result, progress};
use crate::oracle;
use crate::oracle::mutants::Mutant;
use crate::oracle::pack::ARITHMETICS;
use crate::oracle::score::Scored;
use serde_json::json;
use std::io::Write;

/// Count how many injected faults the conformance pack detects
///
/// Computes every operation with one fault after the other; each is called a mutant.
///
/// Exit code 0 if the pack catches every mutant in float64 and in float32, 1 if it misses one.
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
    let all = oracle::score::score(&cases, &ARITHMETICS, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    // The first two are float64 and float32; a fault may be less than what 16 bits resolve.
    let survivors = all.iter().filter(|scored| scored.caught_in[..2].contains(&false)).count();
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
                "caught_in": ARITHMETICS.iter().zip(&scored.caught_in).map(|(arithmetic, caught)| (arithmetic.to_string(), *caught)).collect::<std::collections::BTreeMap<_, _>>(),
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
        writeln!(out)?;
        for (place, arithmetic) in ARITHMETICS.iter().enumerate() {
            let caught = all.iter().filter(|scored| scored.caught_in[place]).count();
            let share = 100.0 * caught as f64 / all.len() as f64;
            writeln!(
                out,
                "{:<5} the pack catches {caught} of {} mutants ({share:.1} %)",
                arithmetic.to_string(),
                all.len()
            )?;
        }
        writeln!(out, "in {} s", start.elapsed().as_secs())?;
    }
    if survivors == 0 { Ok(()) } else { Err(Failure::Verdict) }
}

/// A line for each operation, and one for each mutant that the pack misses.
fn print_score(out: &mut dyn Write, all: &[Scored], every: bool) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<22} {:>7} caught in{}   by {:>6} {:>6} {:>8} {:>14}",
        "operation",
        "mutants",
        ARITHMETICS.map(|arithmetic| format!("{:>5}", arithmetic.to_string())).concat(),
        "layers",
        "blocks",
        "networks",
        "results alone"
    )?;
    let total = |name: &str, own: &dyn Fn(&&Scored) -> bool, out: &mut dyn Write| {
        let own: Vec<&Scored> = all.iter().filter(own).collect();
        let count = |is: &dyn Fn(&Scored) -> bool| own.iter().filter(|scored| is(scored)).count();
        let level = |level: usize| count(&|scored| scored.caught[level]);
        writeln!(
            out,
            "{name:<22} {:>7}          {}      {:>6} {:>6} {:>8} {:>14}",
            own.len(),
            [0, 1, 2, 3, 4].map(|place| format!("{:>5}", count(&|scored| scored.caught_in[place]))).concat(),
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
    for scored in all.iter().filter(|scored| every || scored.caught_in.contains(&false)) {
        let Mutant { operation, part, what, .. } = scored.mutant;
        let part = if part == "all" { String::new() } else { format!(" {part}") };
        let missed = ARITHMETICS.iter().zip(&scored.caught_in).filter(|(_, caught)| !**caught);
        let missed: Vec<String> = missed.map(|(arithmetic, _)| arithmetic.to_string()).collect();
        let verdict = match (missed.is_empty(), scored.cases) {
            (true, _) => "caught".to_string(),
            (false, 0) => "NOT POSSIBLE in any case".to_string(),
            (false, _) => format!("MISSED in {}", missed.join(", ")),
        };
        let small = scored.mutant.is_a_thousandth() && !missed.is_empty();
        let small = if small { " (a fiftieth in 16 bits)" } else { "" };
        writeln!(out, "{verdict}: {operation}{part} {what}{small}")?;
    }
    Ok(())
}
