//! Ctrl-C. In a run: once stops after the current step, twice stops at once. In a download: stops at once, with a message.

use super::{Failure, Result, progress};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

/// What shells expect of a program stopped by Ctrl-C: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static LISTENING: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C (or `kill`, or closed terminal) is only recorded, for [`requested`].
///
/// Under `nohup` no handler is installed: the crate `ctrlc` handles all three signals or none, and with `nohup` the run
/// must outlive the terminal. Ctrl-C then ends the program immediately, as usual; files are written whole or not at all,
/// so the last complete checkpoint exists in that case too.
pub fn listen() -> Result<()> {
    // Repeated runs call this once each.
    if LISTENING.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    install(|| {
        let again = REQUESTED.swap(true, Ordering::Relaxed);
        if again {
            progress::clear();
            progress::say("stopped");
            std::process::exit(EXIT_CODE.into());
        }
        progress::say("stopping after this step; Ctrl-C again stops at once");
    })
}

/// From now on Ctrl-C ends the program with this message: for what can be ended at any moment and be gone on with. `last` is
/// done before that.
pub fn end_with(message: &'static str, last: fn()) -> Result<()> {
    install(move || {
        last();
        let _ = writeln!(std::io::stderr(), "\n{message}");
        std::process::exit(EXIT_CODE.into());
    })
}

fn install(handler: impl FnMut() + Send + 'static) -> Result<()> {
    if hangup_is_ignored() {
        return Ok(());
    }
    ctrlc::set_handler(handler).map_err(|error| Failure::Failed(format!("cannot handle Ctrl-C: {error}")))
}

/// Whether there was a Ctrl-C.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Whether the program was started with SIGHUP (signal 1, the lowest bit of the mask) ignored. Known on Linux only.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
