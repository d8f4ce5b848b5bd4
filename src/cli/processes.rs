//! The processes of a run that a launcher, `mpirun` or `srun`, has started together. Rank 0 prints and writes; the others
//! compute, and are quiet.
//!
//! Until the first step, the processes [`agree`] on every outcome: an error on one of them is printed once and ends all of
//! them. Later an error that only one process has ends the others, too ([`end`]); a signal is a common decision. Groups that
//! train different networks tell each other when they have to stop ([`listen`]), and meet again at the end ([`conclude`]).

#[cfg(feature = "mpi")]
use super::mpi;
use super::{Failure, Result, interrupt, progress};
use crate::processes::{Alone, Communicator};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Whether all processes have failed with the same error, so that none of them waits for another.
static ALL_FAIL: AtomicBool = AtomicBool::new(false);

/// The number of shards on several processes, if nothing else is said.
pub const DEFAULT_SHARDS: usize = 8;

/// Whether this process has told the others that they have to stop.
static HAS_TOLD: AtomicBool = AtomicBool::new(false);

/// How many others have told this process so.
static HEARD: AtomicUsize = AtomicUsize::new(0);

/// How often a process that waits for other groups looks whether it has received a signal.
const LOOK: Duration = Duration::from_millis(100);

/// How long an error waits for the same error of rank 0.
const PATIENCE: Duration = Duration::from_secs(2);

/// Variables in which launchers write the number of processes: Open MPI; MPICH, Intel MPI and `srun --mpi=pmi2`; Slurm, for
/// the processes of one `srun`.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The number of processes on this machine, likewise.
const LOCAL_SIZES: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"];

/// The first number in the environment.
fn number(variables: &[&str], value: impl Fn(&str) -> Option<String>) -> Option<usize> {
    variables.iter().find_map(|variable| value(variable)?.trim().parse().ok())
}

fn environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

/// Threads of a process that shares its machine with others, if a launcher has started them and `--threads` is not given.
pub fn threads() -> Option<usize> {
    let here = number(&LOCAL_SIZES, environment).filter(|&processes| processes > 1)?;
    // The launcher may have bound the process to some cores.
    let bound = std::thread::available_parallelism().map_or(1, usize::from);
    let all = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let all = all.lines().filter(|line| line.starts_with("processor")).count().max(bound);
    Some(bound.min((all / here).max(1)))
}

/// Joins the processes that were started together; this one alone if there are no others.
pub fn join() -> Result<Arc<dyn Communicator>> {
    let Some(expected) = number(&SIZES, environment).filter(|&size| size > 1) else { return Ok(Arc::new(Alone)) };
    let processes = begin(expected)?;
    if processes.rank() > 0 {
        progress::be_quiet();
    }
    Ok(processes)
}

/// Rejects several processes, for commands that do not share their work.
pub fn expect_one() -> Result<()> {
    match number(&SIZES, environment) {
        Some(size) if size > 1 => Err(Failure::Usage(format!(
            "this command runs in one process, and {size} were started; `train`, `eval`, `predict` and `bench` can share their \
             work"
        ))),
        _ => Ok(()),
    }
}

#[cfg(feature = "mpi")]
fn begin(expected: usize) -> Result<Arc<dyn Communicator>> {
    match mpi::World::begin() {
        Some(world) if world.size() == expected => Ok(Arc::new(world)),
        Some(world) => Err(Failure::Failed(format!(
            "the launcher started {expected} processes, but MPI sees {}: start them with the `mpirun` of the MPI library that \
             this program was built with, or with `srun --mpi=pmix` (`srun --mpi=list` shows what there is)",
            world.size()
        ))),
        None => Err(Failure::Failed("MPI has begun already".to_string())),
    }
}

#[cfg(not(feature = "mpi"))]
fn begin(expected: usize) -> Result<Arc<dyn Communicator>> {
    Err(Failure::Failed(format!(
        "started as one of {expected} processes, but this `resnet` is built without MPI, so each would do all of the work \
         by itself; build it with `cargo install --path . --features mpi`, or start one process"
    )))
}

/// The name of this machine, in parentheses.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { String::new() } else { format!(" on {}", name.trim()) }
}

/// The exit code and the message of a failure.
fn parts(failure: &Failure) -> (u8, String) {
    match failure {
        Failure::Usage(message) => (2, message.clone()),
        Failure::Failed(message) | Failure::Diverged(message) => (1, message.clone()),
        Failure::Verdict => (1, String::new()),
        Failure::Interrupted(cause) => (cause.exit_code(), String::new()),
        Failure::Elsewhere | Failure::PipeClosed => (0, String::new()),
    }
}

/// This process in a message of another one.
fn name(processes: &dyn Communicator) -> String {
    format!("process {}{}: ", processes.started_as(), host())
}

/// The exit code and the message of a failure, for the other processes; empty if there is none. The message is about `what`.
fn outcome<R>(processes: &dyn Communicator, what: &str, result: &Result<R>) -> Vec<u8> {
    let Err(failure) = result else { return Vec::new() };
    let (code, mut message) = parts(failure);
    if !message.is_empty() {
        // Of a group, another process may have failed.
        let has_name = processes.rank() == 0 || message.starts_with("process ");
        message = format!("{what}{}{message}", if has_name { String::new() } else { name(processes) });
    }
    [&[code], message.as_bytes()].concat()
}

/// The common result, from the outcomes of all processes.
fn settle<R>(rank: usize, all: &[Vec<u8>], result: Result<R>) -> Result<R> {
    // A process that stops because of another one has no message.
    let first = |least: usize| all.iter().position(|outcome| outcome.len() > least);
    let Some(first) = first(1).or_else(|| first(0)) else { return result };
    ALL_FAIL.store(true, Ordering::Relaxed);
    let (code, message) = (all[first][0], String::from_utf8_lossy(&all[first][1..]).into_owned());
    match (rank, interrupt::Cause::of_exit_code(code)) {
        (0, _) if first == 0 && message.is_empty() => result,
        (0, Some(cause)) if message.is_empty() => Err(Failure::Interrupted(cause)),
        (0, _) if code == 2 => Err(Failure::Usage(message)),
        (0, _) => Err(Failure::Failed(message)),
        _ => Err(Failure::Elsewhere),
    }
}

/// The result of this process, if no process failed. Otherwise rank 0 fails with the message of the first that did, and the
/// others silently.
pub fn agree<R>(processes: &dyn Communicator, result: Result<R>) -> Result<R> {
    agree_about(processes, "", result)
}

/// The same for groups: a message is about `what` a group does.
pub fn agree_about<R>(processes: &dyn Communicator, what: &str, result: Result<R>) -> Result<R> {
    let all = processes.all_gather_bytes(&outcome(processes, what, &result));
    settle(processes.rank(), &all, result)
}

/// The same at the end, when groups have to wait for others: without keeping a core busy, and they still pass on signals.
pub fn conclude<R>(processes: &dyn Communicator, what: &str, result: Result<R>) -> Result<R> {
    if let Err(Failure::Usage(_) | Failure::Failed(_) | Failure::Diverged(_)) = &result {
        tell(processes, interrupt::Cause::OtherRun);
    }
    let own = outcome(processes, what, &result);
    let (sender, receiver) = channel();
    processes.in_background(Box::new(move |processes| {
        let _ = sender.send(processes.all_gather_bytes(&own));
    }));
    let all = loop {
        match receiver.recv_timeout(LOOK) {
            Ok(all) => break all,
            Err(_) => drop(listen(Some(processes))),
        }
    };
    // MPI ends when everything that was sent has been received.
    let have_told = processes.all_gather_bytes(&[HAS_TOLD.load(Ordering::Relaxed).into()]);
    let others = have_told.iter().enumerate().filter(|(rank, told)| *rank != processes.rank() && **told == [1]).count();
    while HEARD.load(Ordering::Relaxed) < others {
        listen(Some(processes));
    }
    settle(processes.rank(), &all, result)
}

/// What has been requested of this process or, if `all` are told by the one that knows, of any.
pub fn listen(all: Option<&dyn Communicator>) -> Option<interrupt::Cause> {
    if let Some(all) = all {
        while let Some(code) = all.told() {
            HEARD.fetch_add(1, Ordering::Relaxed);
            interrupt::Cause::of_exit_code(code).into_iter().for_each(interrupt::record);
        }
        interrupt::requested().into_iter().for_each(|cause| tell(all, cause));
    }
    interrupt::requested()
}

/// Tells the others to stop, unless they have been told already.
fn tell(all: &dyn Communicator, cause: interrupt::Cause) {
    if HEARD.load(Ordering::Relaxed) == 0 && !HAS_TOLD.swap(true, Ordering::Relaxed) {
        all.tell(cause.exit_code());
    }
}

/// Fails if a process has another value than rank 0. A value has a name and, for the message, a hint.
pub fn expect_same(processes: &dyn Communicator, values: &[(&str, String, &str)]) -> Result<()> {
    let result = values.iter().try_for_each(|(name, own, hint)| {
        let all = processes.all_gather_bytes(format!("{}\0{own}", host()).as_bytes());
        let all: Vec<_> = all.iter().map(|text| String::from_utf8_lossy(text)).collect();
        let part = |text: &str| text.split_once('\0').map(|(host, value)| (host.to_string(), value.to_string()));
        let all: Vec<(String, String)> = all.iter().filter_map(|text| part(text)).collect();
        let Some((rank, (host, other))) = all.iter().enumerate().find(|(_, (_, value))| *value != all[0].1) else {
            return Ok(());
        };
        let pairs = all[0].1.lines().zip(other.lines()).find(|(first, other)| first != other);
        let (expected, found) = pairs.unwrap_or((&all[0].1, other));
        Err(Failure::Failed(format!(
            "process {rank}{host} has another {name} than process 0: expected {expected}, found {found}; {hint}"
        )))
    });
    // Every process has come to the same conclusion.
    ALL_FAIL.fetch_or(result.is_err(), Ordering::Relaxed);
    match result {
        Err(_) if processes.rank() > 0 => Err(Failure::Elsewhere),
        result => result,
    }
}

/// A text of rank 0.
pub fn from_first(processes: &dyn Communicator, text: &str) -> String {
    let own = if processes.rank() == 0 { text.as_bytes() } else { &[] };
    String::from_utf8_lossy(&processes.all_gather_bytes(own)[0]).into_owned()
}

/// The request that any process knows.
pub fn common(processes: &dyn Communicator, own: Option<interrupt::Cause>) -> Option<interrupt::Cause> {
    let all = processes.all_gather_bytes(&[own.map_or(u8::MAX, |cause| cause.exit_code())]);
    all.iter().find_map(|code| interrupt::Cause::of_exit_code(code[0]))
}

/// Ends the part of this process in a run. If it has failed while the others compute, they are ended as well.
pub fn end(processes: Arc<dyn Communicator>, result: Result<()>) -> Result<()> {
    let alone = processes.size() == 1 || ALL_FAIL.load(Ordering::Relaxed);
    match result {
        Err(failure @ (Failure::Usage(_) | Failure::Failed(_) | Failure::Diverged(_))) if !alone => {
            let (code, message) = parts(&failure);
            let who = if processes.started_as() == 0 { String::new() } else { name(&*processes) };
            // If all have failed in the same way, rank 0 says so and ends this process now.
            if processes.rank() > 0 {
                std::thread::sleep(PATIENCE);
            }
            // If stderr is closed, the message is lost.
            let _ = writeln!(std::io::stderr(), "error: {}{who}{message}", progress::label());
            abort(code)
        }
        Err(Failure::Interrupted(_)) if processes.rank() > 0 => Err(Failure::Elsewhere),
        result => result,
    }
}

#[cfg(feature = "mpi")]
fn abort(code: u8) -> ! {
    mpi::abort(code)
}

#[cfg(not(feature = "mpi"))]
fn abort(code: u8) -> ! {
    std::process::exit(code.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::threads;

    #[test]
    fn an_error_of_one_process_is_the_error_of_all() {
        let results = threads::run(3, 1, |processes| {
            let own = if processes.rank() == 1 { Err(Failure::Usage("no such file".to_string())) } else { Ok(()) };
            agree(&*processes, own)
        });
        let Err(Failure::Usage(message)) = &results[0] else { panic!("{results:?}") };
        assert!(message.starts_with("process 1") && message.ends_with(": no such file"), "{message}");
        assert!(results[1..].iter().all(|result| matches!(result, Err(Failure::Elsewhere))), "{results:?}");
        let results = threads::run(2, 1, |processes| agree(&*processes, Ok(processes.rank())));
        assert!(matches!(results[..], [Ok(0), Ok(1)]), "{results:?}");
    }

    #[test]
    fn an_error_counts_more_than_the_stops_that_it_causes() {
        use interrupt::Cause::{OtherRun, Terminated};
        let results = threads::run(4, 1, |processes| {
            let own: Result<()> = match processes.rank() {
                1 => Err(Failure::Interrupted(OtherRun)),
                2 => Err(Failure::Failed("the disk is full".to_string())),
                _ => Ok(()),
            };
            agree_about(&*processes, "seed 3: ", own)
        });
        let Err(Failure::Failed(message)) = &results[0] else { panic!("{results:?}") };
        assert!(message.starts_with("seed 3: process 2") && message.ends_with(": the disk is full"), "{message}");
        assert!(results[1..].iter().all(|result| matches!(result, Err(Failure::Elsewhere))), "{results:?}");

        let results = threads::run(3, 1, |processes| {
            let failure = if processes.rank() == 1 { Failure::Interrupted(Terminated) } else { Failure::Elsewhere };
            agree(&*processes, if processes.rank() == 0 { Ok(()) } else { Err(failure) })
        });
        assert!(matches!(results[0], Err(Failure::Interrupted(Terminated))), "{results:?}");
    }

    /// Two groups of two; the fourth process fails. The first of its group is not the one that failed.
    #[test]
    fn an_error_in_a_group_names_the_process_among_all() {
        let results = threads::run(4, 1, |processes| {
            let group = processes.split(processes.rank() / 2);
            let own = if processes.rank() == 3 { Err(Failure::Usage("no such file".to_string())) } else { Ok(()) };
            agree_about(&*processes, &format!("seed {}: ", processes.rank() / 2), agree(&*group, own))
        });
        let Err(Failure::Usage(message)) = &results[0] else { panic!("{results:?}") };
        assert!(message.starts_with("seed 1: process 3") && message.ends_with(": no such file"), "{message}");
        assert_eq!(message.matches("process").count(), 1, "{message}");
    }

    #[test]
    fn a_process_with_other_values_is_named() {
        let results = threads::run(3, 1, |processes| {
            let text = if processes.rank() == 2 { "lr = 1\nseed = 3" } else { "lr = 1\nseed = 2" };
            let values =
                [("version", "1".to_string(), "update it"), ("configuration", text.to_string(), "give the same")];
            expect_same(&*processes, &values)
        });
        let Err(Failure::Failed(message)) = &results[0] else { panic!("{results:?}") };
        assert!(message.contains("has another configuration than process 0"), "{message}");
        assert!(message.ends_with("expected seed = 2, found seed = 3; give the same"), "{message}");
        assert!(matches!(results[2], Err(Failure::Elsewhere)), "{results:?}");
        assert_eq!(threads::run(2, 1, |processes| from_first(&*processes, &processes.rank().to_string())), ["0", "0"]);
    }

    #[test]
    fn the_number_of_processes_is_that_of_the_launcher() {
        let of = |pairs: &'static [(&str, &str)]| {
            number(&SIZES, |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
        };
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "4")]), Some(4));
        assert_eq!(of(&[("PMI_SIZE", " 3 "), ("SLURM_STEP_NUM_TASKS", "5")]), Some(3));
        assert_eq!(of(&[("SLURM_NTASKS", "8")]), None);
    }
}
