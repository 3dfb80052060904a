//! Orphans: the processes that a killed reaper leaves behind. The gateway adopts and ends them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::process_tree::children;

/// The reapers that were started and not waited for. Locked while one is started, so that none exists
/// unknown; and while orphans are killed and waited for, so that a process id stays theirs between the two.
static REAPERS: Mutex<Option<HashSet<i32>>> = Mutex::new(None);

/// The limit of core dumps of a server and all its descendants. It distinguishes them from other processes
/// that the gateway may have adopted. One byte allows no dump, and unlike zero it also keeps dumps from a
/// program that collects them (`core(5)`; Linux, `fs/coredump.c`).
pub const CORE_BYTES: u64 = 1;

/// Between two passes: each generation is adopted when the one before it has ended.
const POLL: Duration = Duration::from_millis(20);

/// After SIGKILL, a process in the midst of a disk operation may take its time.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes the gateway adopt what killed reapers leave behind.
pub fn adopt_orphans() {
    // A kernel that refuses leaves things as they were.
    let _ = set_child_subreaper(Some(getpid()));
}

pub fn spawn_reaper(command: &mut Command) -> io::Result<Child> {
    let mut reapers = reapers();
    let child = command.spawn()?;
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        reapers.get_or_insert_default().insert(pid);
    }
    Ok(child)
}

/// Forgets a reaper that was waited for.
pub fn forget_reaper(reaper: u32) {
    if let (Ok(pid), Some(reapers)) = (i32::try_from(reaper), reapers().as_mut()) {
        reapers.remove(&pid);
    }
}

/// Ends all orphans, one generation after the other. Cancel safe: the next call continues.
pub async fn end_orphans() {
    let start = Instant::now();
    while kill_orphans() > 0 {
        if start.elapsed() > END_TIMEOUT {
            tracing::error!("orphans of a killed reaper do not end, not even after SIGKILL");
            return;
        }
        sleep(POLL).await;
    }
}

/// Kills all orphans and waits for those that have ended. Returns how many there were.
fn kill_orphans() -> usize {
    let reapers = reapers();
    let is_reaper =
        |pid: &Pid| reapers.as_ref().is_some_and(|reapers| reapers.contains(&pid.as_raw_nonzero().get()));
    let orphans: Vec<Pid> =
        children().into_iter().filter(|pid| !is_reaper(pid) && is_of_server(*pid)).collect();
    for orphan in &orphans {
        let _ = kill_process(*orphan, Signal::KILL);
        // If it has not ended yet, the next pass waits for it.
        let _ = waitpid(Some(*orphan), WaitOptions::NOHANG);
    }
    orphans.len()
}

fn is_of_server(pid: Pid) -> bool {
    let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap_or_default();
    has_core_limit(&limits)
}

/// Whether `/proc/PID/limits` shows the limit of a server.
fn has_core_limit(limits: &str) -> bool {
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    core.is_some_and(|core| {
        let mut both = core.split_ascii_whitespace().take(2).map(str::parse);
        both.next() == Some(Ok(CORE_BYTES)) && both.next() == Some(Ok(CORE_BYTES))
    })
}

fn reapers() -> MutexGuard<'static, Option<HashSet<i32>>> {
    // No panic can leave a partial change behind.
    REAPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_server_have_its_limit() {
        let check = |soft: &str, hard: &str, expected| {
            let limits = format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max stack size            1                    1                    bytes     \n\
                 Max core file size        {soft:<20} {hard:<20} bytes     \n"
            );
            assert_eq!(has_core_limit(&limits), expected, "{limits}");
        };
        check("1", "1", true);
        check("0", "0", false);
        check("1", "unlimited", false);
        check("unlimited", "unlimited", false);
        check("11", "1", false);
        assert!(!has_core_limit(""));
    }
}
