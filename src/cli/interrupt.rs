//! Signals: Ctrl-C (SIGINT), SIGTERM (`kill`, Slurm, `docker stop`, a shutdown) and SIGHUP (a closed terminal); and the end
//! of `--max-hours`, which is treated like one.
//!
//! In a run, a signal during a training step is recorded, and the run stops after the step with a checkpoint; a second one
//! stops at once. Where everything is saved already, in an evaluation and before the first step, the first one stops at
//! once too ([`at_once`]), unless other processes may be in a step of another run ([`be_patient`]). A download stops at once, with a message ([`end_with`]).
//!
//! A shell or a batch system often forwards a signal that the process has received as well, so signals that arrive within
//! [`SAME`] count as one. Of a terminal that is closed, a process may receive SIGHUP twice, from the shell and from the
//! kernel: SIGHUP never counts as the second signal.

use super::{Failure, Result, progress};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often the flags that the signal handlers set are read.
const POLL: Duration = Duration::from_millis(50);

/// Signals within this time count as one.
const SAME: Duration = Duration::from_millis(200);

/// Why a run stops before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    CtrlC,
    Terminated,
    /// On Linux only, where it is known whether SIGHUP was ignored at the start.
    HungUp,
    /// `--max-hours` are over.
    TimeIsUp,
    /// A run that other processes train at the same time has failed.
    OtherRun,
}

impl Cause {
    /// What shells expect: 128 + the number of the signal.
    pub fn exit_code(self) -> u8 {
        match self {
            Cause::HungUp => 128 + 1,
            Cause::CtrlC => 128 + 2,
            Cause::Terminated => 128 + 15,
            Cause::TimeIsUp => 0,
            Cause::OtherRun => 1,
        }
    }

    /// The cause with this exit code.
    pub fn of_exit_code(code: u8) -> Option<Self> {
        [Cause::HungUp, Cause::CtrlC, Cause::Terminated, Cause::TimeIsUp, Cause::OtherRun]
            .into_iter()
            .find(|cause| cause.exit_code() == code)
    }

    fn name(self) -> &'static str {
        match self {
            Cause::HungUp => "SIGHUP",
            Cause::CtrlC => "Ctrl-C",
            Cause::Terminated => "SIGTERM",
            Cause::TimeIsUp => "--max-hours",
            Cause::OtherRun => "another run",
        }
    }
}

/// What has been requested, and what a request does now.
struct State {
    cause: Option<Cause>,
    /// A request ends the program at once, with this message. Otherwise it is recorded.
    at_once: Option<String>,
    /// Whether the program never ends at the first request, because the launcher would end the other processes with it.
    is_patient: bool,
}

static STATE: Mutex<State> = Mutex::new(State { cause: None, at_once: None, is_patient: false });

/// What a request leads to.
#[derive(Debug, PartialEq)]
enum Reaction {
    None,
    Say(String),
    /// The message for stdout, and the exit code.
    Exit(String, u8),
}

impl State {
    fn request(&mut self, cause: Cause) -> Reaction {
        match (&self.at_once, self.cause) {
            (Some(message), _) => Reaction::Exit(message.clone(), cause.exit_code()),
            (None, None) => {
                self.cause = Some(cause);
                let again = if cause == Cause::TimeIsUp { "" } else { "; a second signal stops at once" };
                Reaction::Say(format!("{}: stopping after this step{again}", cause.name()))
            }
            // The first signal after the end of the time; it decides the exit code.
            (None, Some(Cause::TimeIsUp)) => {
                self.cause = Some(cause);
                Reaction::None
            }
            (None, Some(_)) if matches!(cause, Cause::HungUp | Cause::TimeIsUp) => Reaction::None,
            (None, Some(_)) => Reaction::Exit("stopped".to_string(), cause.exit_code()),
        }
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program. The caller holds the lock of the state, so the run cannot begin to save something meanwhile. At any
/// other moment a file is written whole or not at all.
fn exit(message: &str, code: u8) -> ! {
    progress::clear();
    if progress::speaks_for_all() {
        // If stdout is closed, the message is lost.
        let _ = writeln!(std::io::stdout(), "{message}");
    }
    std::process::exit(code.into())
}

/// From now on a signal, or the `deadline`, is recorded for [`requested`], unless it ends the program [`at_once`].
pub fn listen(deadline: Option<Instant>) -> Result<()> {
    watch(deadline, |cause| {
        let mut state = state();
        match state.request(cause) {
            Reaction::None => {}
            Reaction::Say(line) => progress::say_for_all(&line),
            Reaction::Exit(message, code) => exit(&message, code),
        }
    })
}

/// From now on the first request is recorded at every moment.
pub fn be_patient() {
    state().is_patient = true;
}

/// Records what was requested of another process.
pub fn record(cause: Cause) {
    state().cause.get_or_insert(cause);
}

/// Runs `work`. Until it ends, a request ends the program at once, with this message; so does one that is already recorded.
pub fn at_once<R>(message: &str, work: impl FnOnce() -> R) -> R {
    {
        let mut state = state();
        if state.is_patient {
            drop(state);
            return work();
        }
        if let Some(cause) = state.cause {
            exit(message, cause.exit_code());
        }
        state.at_once = Some(message.to_string());
    }
    let result = work();
    state().at_once = None;
    result
}

/// From now on a signal ends the program with this message: for what can be ended at any moment and be continued. `last` is
/// done before that.
pub fn end_with(message: &'static str, last: fn()) -> Result<()> {
    watch(None, move |cause| {
        last();
        let _ = writeln!(std::io::stderr(), "\n{message}");
        std::process::exit(cause.exit_code().into());
    })
}

/// What has been requested.
pub fn requested() -> Option<Cause> {
    state().cause
}

/// Calls `react` on a thread of its own for every signal, and once at the deadline.
fn watch(deadline: Option<Instant>, mut react: impl FnMut(Cause) + Send + 'static) -> Result<()> {
    let failed = |error| Failure::Failed(format!("cannot handle signals: {error}"));
    let flags = register().map_err(failed)?;
    let mut deadline = deadline;
    let work = move || {
        loop {
            thread::sleep(POLL);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                deadline = None;
                react(Cause::TimeIsUp);
            }
            if let Some((cause, _)) = flags.iter().find(|(_, flag)| flag.load(Ordering::Relaxed)) {
                react(*cause);
                thread::sleep(SAME);
                flags.iter().for_each(|(_, flag)| flag.store(false, Ordering::Relaxed));
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(work).map_err(failed)?;
    Ok(())
}

/// A flag for every signal, which its handler sets.
fn register() -> std::io::Result<Vec<(Cause, Arc<AtomicBool>)>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = vec![(Cause::CtrlC, SIGINT), (Cause::Terminated, SIGTERM)];
    // With `nohup` a run must outlive its terminal.
    #[cfg(target_os = "linux")]
    if !hangup_is_ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()) {
        signals.push((Cause::HungUp, signal_hook::consts::SIGHUP));
    }
    let flag = |(cause, signal)| {
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal, flag.clone())?;
        Ok((cause, flag))
    };
    signals.into_iter().map(flag).collect()
}

/// Whether a process with this `/proc/PID/status` ignores SIGHUP: signal 1, the lowest bit of the mask.
#[cfg(target_os = "linux")]
fn hangup_is_ignored(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(at_once: Option<&str>, causes: &[Cause]) -> Vec<Reaction> {
        let mut state = State { cause: None, at_once: at_once.map(str::to_string), is_patient: false };
        causes.iter().map(|&cause| state.request(cause)).collect()
    }

    #[test]
    fn the_first_signal_waits_for_the_step_and_the_second_does_not() {
        use Cause::{CtrlC, HungUp, Terminated, TimeIsUp};
        let said =
            |name: &str| Reaction::Say(format!("{name}: stopping after this step; a second signal stops at once"));
        let stopped = |code| Reaction::Exit("stopped".to_string(), code);
        assert_eq!(requests(None, &[Terminated, Terminated]), [said("SIGTERM"), stopped(143)]);
        assert_eq!(requests(None, &[CtrlC, Terminated]), [said("Ctrl-C"), stopped(143)]);
        // The shell and the kernel each send SIGHUP.
        assert_eq!(requests(None, &[HungUp, HungUp, CtrlC]), [said("SIGHUP"), Reaction::None, stopped(130)]);
        let time = Reaction::Say("--max-hours: stopping after this step".to_string());
        assert_eq!(requests(None, &[TimeIsUp, Terminated, CtrlC]), [time, Reaction::None, stopped(130)]);
        assert_eq!(requests(None, &[CtrlC, TimeIsUp]), [said("Ctrl-C"), Reaction::None]);
    }

    #[test]
    fn every_cause_has_an_exit_code_of_its_own() {
        use Cause::{CtrlC, HungUp, OtherRun, Terminated, TimeIsUp};
        for cause in [CtrlC, HungUp, OtherRun, Terminated, TimeIsUp] {
            assert_eq!(Cause::of_exit_code(cause.exit_code()), Some(cause));
        }
        assert_eq!(Cause::of_exit_code(u8::MAX), None);
    }

    #[test]
    fn where_all_is_saved_the_first_signal_ends_the_program() {
        for (cause, code) in [(Cause::HungUp, 129), (Cause::CtrlC, 130), (Cause::Terminated, 143), (Cause::TimeIsUp, 0)]
        {
            assert_eq!(requests(Some("saved"), &[cause]), [Reaction::Exit("saved".to_string(), code)]);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nohup_is_the_lowest_bit_of_the_ignored_signals() {
        for (mask, expected) in [("0000000000000001", true), ("0000000000001000", false), ("0000000000001007", true)] {
            assert_eq!(hangup_is_ignored(&format!("Name:\tresnet\nSigIgn:\t{mask}\nSigCgt:\t0\n")), expected);
        }
        assert!(!hangup_is_ignored(""));
    }
}
