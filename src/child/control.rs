//! What the gateway does with reapers.

use rustix::process::{DumpableBehavior, Signal, kill_process, set_dumpable_behavior};

use super::exec::{COMMAND, REAPER_ROLE, to_pid};
use super::spawn_spec::SpawnSpec;

/// Returns the arguments that make this program a reaper. The server's program and its arguments follow them.
pub fn reaper_args(spec: &SpawnSpec) -> [String; 3] {
    [COMMAND.to_owned(), REAPER_ROLE.to_owned(), spec.to_text()]
}

/// Asks a reaper to end its server: all its processes get SIGTERM, and SIGKILL soon after.
pub fn terminate_reaper(reaper: u32) {
    if let Some(pid) = to_pid(reaper) {
        // Fails if it is gone already.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Kills a reaper that does not end by itself, and its server with it. The other descendants are left to
/// `end_orphans`.
pub fn kill_reaper(reaper: u32) {
    if let Some(pid) = to_pid(reaper) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Keeps servers that run as the same user from reading the gateway's memory. Also disables core dumps.
pub fn protect_memory() {
    // A kernel that refuses leaves things as they were.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
