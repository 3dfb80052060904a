//! What a keeper left that was killed itself: it comes to the gateway, which ends it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::kin::children;

/// The keepers that were started and not waited for. Locked while one is started, so that none is there and not known;
/// and while strays are killed and waited for, so that a number stays theirs between the two.
static KEEPERS: Mutex<Option<HashSet<i32>>> = Mutex::new(None);

/// The limit on core dumps that a server and all that it starts are under: by it they are told from what else may have
/// come to the gateway. One byte is no dump, and in contrast to none it also keeps dumps from a program that collects them
/// (`core(5)`; Linux, `fs/coredump.c`).
pub const CORE_BYTES: u64 = 1;

/// Between two looks: each generation comes when the one before it has ended.
const POLL: Duration = Duration::from_millis(20);

/// After SIGKILL, a process in the midst of a disk operation may take its time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes over what keepers leave when they are killed.
pub fn adopt() {
    // A kernel that refuses leaves things as they were.
    let _ = set_child_subreaper(Some(getpid()));
}

/// Starts a keeper.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let mut keepers = keepers();
    let child = command.spawn()?;
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        keepers.get_or_insert_default().insert(pid);
    }
    Ok(child)
}

/// A keeper has ended and was waited for.
pub fn forget(keeper: u32) {
    if let (Ok(pid), Some(keepers)) = (i32::try_from(keeper), keepers().as_mut()) {
        keepers.remove(&pid);
    }
}

/// Ends what was left by keepers that were killed, one generation after the other. Cancel safe: the next goes on.
pub async fn end() {
    let begun = Instant::now();
    while kill() > 0 {
        if begun.elapsed() > PATIENCE {
            tracing::error!("what a killed keeper left does not end, not even by SIGKILL");
            return;
        }
        sleep(POLL).await;
    }
}

/// Kills those there are, takes note of those that have ended, and gives how many there were.
fn kill() -> usize {
    let keepers = keepers();
    let is_keeper =
        |pid: &Pid| keepers.as_ref().is_some_and(|keepers| keepers.contains(&pid.as_raw_nonzero().get()));
    let strays: Vec<Pid> =
        children().into_iter().filter(|pid| !is_keeper(pid) && is_of_a_server(*pid)).collect();
    for stray in &strays {
        let _ = kill_process(*stray, Signal::KILL);
        // If it has not ended yet, the next look does it.
        let _ = waitpid(Some(*stray), WaitOptions::NOHANG);
    }
    strays.len()
}

fn is_of_a_server(pid: Pid) -> bool {
    let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap_or_default();
    is_marked(&limits)
}

/// Whether `/proc/PID/limits` shows that limit.
fn is_marked(limits: &str) -> bool {
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    core.is_some_and(|core| {
        let mut both = core.split_ascii_whitespace().take(2).map(str::parse);
        both.next() == Some(Ok(CORE_BYTES)) && both.next() == Some(Ok(CORE_BYTES))
    })
}

/// Every change under the lock is whole when it is let go.
fn keepers() -> MutexGuard<'static, Option<HashSet<i32>>> {
    KEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_a_server_is_known_by_its_limit() {
        let check = |soft: &str, hard: &str, expected| {
            let limits = format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max stack size            1                    1                    bytes     \n\
                 Max core file size        {soft:<20} {hard:<20} bytes     \n"
            );
            assert_eq!(is_marked(&limits), expected, "{limits}");
        };
        check("1", "1", true);
        check("0", "0", false);
        check("1", "unlimited", false);
        check("unlimited", "unlimited", false);
        check("11", "1", false);
        assert!(!is_marked(""));
    }
}
