//! Repeated runs on several processes: groups of processes train runs with different seeds at the same time.
//!
//! Of p processes and k runs that are not complete, there are min(p, k) groups of processes with consecutive ranks, as equal
//! as possible, and none larger than the number of shards. Group g of G trains the runs g, g + G, … of these. So a resumed
//! command can have any number of processes: **the result of a run depends on its seed and its shards, and not on its group.**
//! Therefore the number of shards must not be chosen by the size of a group; its default is that of several processes.
//!
//! All groups begin, or none: they compare what they read before the first step. When one has failed or received a signal, the
//! others save a checkpoint and stop.

use super::{Args, Run, repeat, start};
use crate::cli::args::EngineKind;
use crate::cli::config::Config;
use crate::cli::processes::{
    DEFAULT_SHARDS, agree, agree_about, common, conclude, end, expect_same, from_first, listen,
};
use crate::cli::run_folder::is_complete;
use crate::cli::{Failure, Result, interrupt, progress, text};
use crate::processes::{Alone, Communicator};
use crate::rng::{FNV_OFFSET, fnv1a};
use crate::train::Validation;
use crate::train::checkpoint::ImageHashes;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a run knows about the others that are trained at the same time.
#[derive(Clone)]
pub struct Together {
    /// The processes of all groups.
    pub world: Arc<dyn Communicator>,
    /// The folder of all runs.
    pub folder: PathBuf,
    /// The seeds, for people, and the width of the longest.
    pub seeds: String,
    width: usize,
}

impl Together {
    /// A row of the common table, of the run with this seed.
    pub fn with_seed(&self, seed: &str, row: &str) -> String {
        format!("{seed:>width$}  {row}", width = self.width)
    }
}

/// The ranks of every group. The last processes are in none if there are more than shards.
fn groups(processes: usize, runs: usize, shards: usize) -> Vec<Range<usize>> {
    let groups = processes.min(runs).max(1);
    let used = processes.min(groups * shards);
    let first = |group: usize| group * used / groups;
    (0..groups).map(|group| first(group)..first(group + 1)).collect()
}

/// Sets the number of shards of new runs on `size` processes. Returns a note about it.
pub fn choose_shards(given: &mut Config, size: usize) -> Result<Option<String>> {
    let is_reference = given.engine()? == EngineKind::Reference;
    let note = (size > 1 && given.shards.is_none() && !is_reference).then(|| start::note_about_shards(size));
    if note.is_some() {
        given.shards = Some(DEFAULT_SHARDS);
    }
    let (runs, shards) = (given.repeat.unwrap_or(1), given.shards.unwrap_or(1));
    if size <= runs.saturating_mul(shards) {
        return Ok(note);
    }
    let most = text::count(runs.saturating_mul(shards), "process");
    Err(Failure::Usage(match is_reference {
        true => format!(
            "the reference trains a run on one process, and there are {size} for {}; start at most {most}, or remove \
             --engine reference",
            text::count(runs, "run")
        ),
        false => format!(
            "{size} processes cannot share {} of {}; add --shards {} (the result depends on this number), or start at most \
             {most}",
            text::count(runs, "run"),
            text::count(shards, "shard"),
            size.div_ceil(runs).next_power_of_two(),
        ),
    }))
}

/// Trains all runs, with one process or several.
pub fn train(
    (config, seeds, path): (&Config, &[u64], &Path),
    note: Option<String>,
    args: &Args,
    world: &Arc<dyn Communicator>,
) -> Result<()> {
    // A process that ends at once would take the others with it.
    interrupt::be_patient();
    let left = unfinished(config, seeds, path, args, &**world)?;
    let groups = groups(world.size(), left.len(), config.recipe()?.shards);
    let own = groups.iter().position(|ranks| ranks.contains(&world.rank()));
    let group = world.split(own.unwrap_or(groups.len()));
    if own.is_some() && group.rank() == 0 {
        progress::speak_for_own_run();
    }
    let seeds = describe(&left, seeds, &groups);
    let width = left.iter().map(|seed| seed.to_string().len()).max().unwrap_or(0).max("seed".len());
    let together = Together { world: world.clone(), folder: path.to_path_buf(), seeds, width };
    let open = |seed: u64| {
        progress::set_label(&format!("seed {seed}: "));
        let run = repeat::open(config, seed, path, args, &group)?;
        Ok(run.map(|run| Run { together: Some(together.clone()), ..run }))
    };
    let mut own_seeds = own.into_iter().flat_map(|own| left.iter().copied().skip(own).step_by(groups.len()));

    let first = own_seeds.next().map_or(Ok(None), open);
    let mut first = agree_about(&**world, &progress::label(), first)?;
    expect_same_images(&**world, first.as_ref())?;
    let used = groups.last().map_or(0, |ranks| ranks.end);
    let idle = (used < world.size() && !left.is_empty()).then(|| {
        let (idle, runs) = (text::count(world.size() - used, "process"), text::count(left.len(), "run"));
        format!("{idle} have nothing to do: {used} can train the {runs} that are left")
    });
    let described = match &mut first {
        Some(run) if world.rank() == 0 => {
            run.about.notes.extend(note.into_iter().chain(idle));
            run.progress().and_then(|mut progress| run.describe(&mut progress))
        }
        _ => Ok(()),
    };
    agree(&**world, described)?;

    let next = |seed: u64| match common(&*group, listen(Some(&**world))) {
        Some(cause) => Err(Failure::Interrupted(cause)),
        None => open(seed)?.map_or(Ok(()), |run| run.go(args)),
    };
    let result = first.map_or(Ok(()), |run| run.go(args)).and_then(|()| own_seeds.try_for_each(next));
    // If a process of the group has failed, and the others wait for it, this call does not return.
    let result = end(group.clone(), result);
    let result = conclude(&**world, &progress::label(), result);
    progress::set_label("");
    if let (Err(Failure::Interrupted(_)), 0) = (&result, world.rank()) {
        // If stdout is closed, everything is saved all the same.
        let _ = writeln!(std::io::stdout(), "stopped; resume with `resnet train --resume {}`", text::shell(path));
    }
    result
}

/// The seeds of the runs that are not complete. The first process visits those that are.
fn unfinished(config: &Config, seeds: &[u64], path: &Path, args: &Args, world: &dyn Communicator) -> Result<Vec<u64>> {
    let alone: Arc<dyn Communicator> = Arc::new(Alone);
    let look = |seed: &u64| match is_complete(&repeat::folder_of(path, *seed)) {
        true => Ok(repeat::open(config, *seed, path, args, &alone)?.map(|_| *seed)),
        false => Ok(Some(*seed)),
    };
    let left = match world.rank() {
        0 => seeds.iter().filter_map(|seed| look(seed).transpose()).collect::<Result<Vec<u64>>>(),
        _ => Ok(Vec::new()),
    };
    let left: Vec<String> = agree(world, left)?.iter().map(u64::to_string).collect();
    let left = from_first(world, &left.join(" "));
    Ok(left.split_whitespace().map(|seed| seed.parse().expect("written above")).collect())
}

/// Which seeds are trained, how many at the same time, and by how many processes each.
fn describe(left: &[u64], all: &[u64], groups: &[Range<usize>]) -> String {
    let mut text = match (left, all) {
        (&[only], _) => only.to_string(),
        (&[first, .., last], _) if left.len() == all.len() => format!("{first} to {last}"),
        _ => left.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    };
    match groups.len() {
        1 => {}
        count if count == left.len() => text += ", at the same time",
        count => drop(write!(text, ", {count} at a time")),
    }
    let least = groups.iter().map(Range::len).min().unwrap_or(1);
    let most = groups.iter().map(Range::len).max().unwrap_or(1);
    let processes = text::count(most, "process");
    match least == most {
        true => format!("{text}, on {processes} each"),
        false => format!("{text}, on {least} or {processes} each"),
    }
}

/// Rejects groups that have read other images than the first one.
fn expect_same_images(world: &dyn Communicator, run: Option<&Run>) -> Result<()> {
    let images = agree_about(world, &progress::label(), run.map(images).transpose())?;
    // A process without a run has read none.
    let of_first = from_first(world, images.as_deref().unwrap_or_default());
    let hint = "these are hashes of the training, validation and test images: copy them again";
    expect_same(world, &[("data set", images.unwrap_or(of_first), hint)])
}

/// Hashes of all images of a run. Which ones are held out for validation depends on the seed, so the hash of these and the
/// training images does not depend on their order.
fn images(run: &Run) -> Result<String> {
    let ImageHashes { train, validation, test } = run.data;
    let test = test.unwrap_or(0);
    if matches!(run.trainer.recipe().validation, Validation::NONE | Validation::Folder) {
        return Ok(format!("{train:016x}, {:016x}, {test:016x}", validation.unwrap_or(0)));
    }
    let mut sum = 0u64;
    for images in [Some(&run.train), run.validation.as_ref()].into_iter().flatten() {
        let mut labels = images.labels.iter();
        images.for_each_image(|image| {
            let label = labels.next().copied().unwrap_or_default().to_le_bytes();
            sum = sum.wrapping_add(fnv1a(fnv1a(FNV_OFFSET, &label), image));
        })?;
    }
    Ok(format!("{sum:016x}, {test:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_divided_by_hand() {
        let lengths = |processes, runs, shards| {
            let groups = groups(processes, runs, shards);
            assert_eq!(groups[0].start, 0);
            assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start));
            groups.iter().map(Range::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(2, 3, 8), [1, 1]);
        assert_eq!(lengths(8, 8, 1), [1; 8]);
        assert_eq!(lengths(8, 3, 8), [2, 3, 3]);
        assert_eq!(lengths(4, 1, 8), [4]);
        // More processes than shards: some have nothing to do.
        assert_eq!(lengths(9, 1, 8), [8]);
        assert_eq!(lengths(8, 3, 1), [1, 1, 1]);
        assert_eq!(lengths(3, 0, 8), [3]);
    }

    #[test]
    fn the_division_in_words() {
        let words = |left: &[u64], all: &[u64], processes| describe(left, all, &groups(processes, left.len(), 8));
        assert_eq!(words(&[1, 2, 3, 4], &[1, 2, 3, 4], 2), "1 to 4, 2 at a time, on 1 process each");
        assert_eq!(words(&[1, 2], &[1, 2], 5), "1 to 2, at the same time, on 2 or 3 processes each");
        assert_eq!(words(&[2, 4], &[1, 2, 3, 4], 2), "2, 4, at the same time, on 1 process each");
        assert_eq!(words(&[7], &[6, 7], 3), "7, on 3 processes each");
    }

    #[test]
    fn the_number_of_shards_does_not_depend_on_the_groups() {
        let chosen = |repeat, shards, engine: Option<&str>, size| {
            let mut given =
                Config { repeat: Some(repeat), shards, engine: engine.map(str::to_string), ..Config::default() };
            choose_shards(&mut given, size).map(|note| (given.shards, note.is_some()))
        };
        assert_eq!(chosen(3, None, None, 1).unwrap(), (None, false));
        for size in [2, 3, 4, 24] {
            assert_eq!(chosen(3, None, None, size).unwrap(), (Some(8), true));
        }
        assert_eq!(chosen(3, Some(1), None, 3).unwrap(), (Some(1), false));
        assert_eq!(chosen(3, None, Some("reference"), 3).unwrap(), (None, false));
        let message = |result: Result<_>| match result {
            Err(Failure::Usage(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(message(chosen(3, None, None, 25)).contains("add --shards 16 "));
        assert!(message(chosen(2, Some(1), None, 3)).ends_with("or start at most 2 processes"));
        assert!(
            message(chosen(2, None, Some("reference"), 3)).starts_with("the reference trains a run on one process")
        );
    }
}
