//! The reaper: waits for a server to end, and ends all processes that it left behind.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgid, getpid, getppid, kill_process, kill_process_group,
    set_child_subreaper, set_parent_process_death_signal, wait,
};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, timeout};

use super::exec::{COMMAND, EXIT_NOT_RUN, LAUNCHER_ROLE, PROGRAM, print_error, to_pid};
use super::process_tree::children;
use super::spawn_spec::SpawnSpec;

/// Between SIGTERM and SIGKILL, while the gateway runs.
const TERM_GRACE: Duration = Duration::from_millis(1500);

/// The same for a server's orphans, and for everything once the gateway is gone: all of it must then end
/// within a second.
const SHORT_GRACE: Duration = Duration::from_millis(200);

/// Between two checks of what still runs.
const POLL: Duration = Duration::from_millis(20);

/// After SIGKILL, a process in the middle of a disk operation, or on a busy machine, may take a while. A
/// running gateway does not wait for it.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until the server and all its descendants have ended. Returns the exit status of the server.
pub fn run(spec: &SpawnSpec, program: &[OsString]) -> ExitCode {
    close_fds::set_fds_cloexec(FIRST_FD_OF_OTHERS, &[]);
    let code = bind(spec)
        .and_then(|()| Builder::new_current_thread().enable_all().build())
        .and_then(|runtime| runtime.block_on(supervise(spec, program)));
    code.unwrap_or_else(|error| {
        print_error(&format!("the server cannot be supervised: {error}"));
        ExitCode::from(EXIT_NOT_RUN)
    })
}

/// After standard input, output and error.
const FIRST_FD_OF_OTHERS: i32 = 3;

/// The signal that the kernel sends a reaper when the gateway is gone: the only one that also wakes a stopped
/// process.
const GATEWAY_GONE: Signal = Signal::CONT;

/// Binds this process to the gateway, and makes it adopt what the server leaves behind.
fn bind(spec: &SpawnSpec) -> io::Result<()> {
    set_parent_process_death_signal(Some(GATEWAY_GONE))?;
    set_child_subreaper(Some(getpid()))?;
    // The gateway may have ended before the first of these calls.
    if getppid() == to_pid(spec.parent) { Ok(()) } else { Err(io::Error::other("the gateway has ended")) }
}

async fn supervise(spec: &SpawnSpec, program: &[OsString]) -> io::Result<ExitCode> {
    let mut ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut gateway_gone = signal(SignalKind::from_raw(GATEWAY_GONE.as_raw()))?;
    // Before the handler was installed, its end went unnoticed.
    if getppid() != to_pid(spec.parent) {
        return Err(io::Error::other("the gateway has ended"));
    }
    // Caught and ignored.
    let _ignored: Vec<Signals> = IGNORED.into_iter().map(signal).collect::<Result<_, _>>()?;
    let server = start_launcher(spec, program)?;
    // The pipes belong to the server alone, so that it sees their end, and so does the gateway.
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let mut status = None;
    loop {
        tokio::select! {
            _ = ended.recv() => {
                if reap(server, &mut status) == ReapOutcome::None {
                    break;
                }
                if status.is_some() {
                    if status.is_some_and(|status| status.exit_status() == Some(0)) {
                        print_error("the program has ended, so the processes that it started are ended too: it must stay");
                    }
                    end_all(server, &mut status, &mut ended, || SHORT_GRACE).await;
                    break;
                }
            }
            () = either(&mut terminate, &mut gateway_gone) => {
                // Checked repeatedly: the gateway's threads end one after the other.
                let grace = || if getppid() == to_pid(spec.parent) { TERM_GRACE } else { SHORT_GRACE };
                end_all(server, &mut status, &mut ended, grace).await;
                break;
            }
        }
    }
    Ok(exit_code(status))
}

async fn either(one: &mut Signals, other: &mut Signals) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Signals that a server, or a user at its terminal, may send to all processes around it, and that would end
/// this process.
const IGNORED: [SignalKind; 7] = [
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
    SignalKind::alarm(),
    SignalKind::pipe(),
];

/// Starts the launcher, as the user that the server runs as, in a group of its own: a signal that the server
/// sends to its whole group must not reach the reaper.
fn start_launcher(spec: &SpawnSpec, program: &[OsString]) -> io::Result<Pid> {
    let parent = u32::try_from(getpid().as_raw_nonzero().get()).unwrap_or_default();
    let launcher_spec = SpawnSpec { parent, ..spec.clone() };
    let mut command = Command::new(PROGRAM);
    command.arg0("metamcp").args([COMMAND, LAUNCHER_ROLE, &launcher_spec.to_text()]).args(program);
    if let Some(gid) = spec.gid {
        command.gid(gid);
    }
    if let Some(uid) = spec.uid {
        command.uid(uid);
    }
    command.process_group(0);
    // Not waited for by this handle: `reap` waits for all children.
    let child = command.spawn()?;
    to_pid(child.id()).ok_or_else(|| io::Error::other("the process has no id"))
}

/// Whether this process has children.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReapOutcome {
    None,
    Some,
}

/// Waits for all children that have ended, and records the server's exit status if it is among them.
fn reap(server: Pid, status: &mut Option<WaitStatus>) -> ReapOutcome {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, found))) if pid == server => *status = Some(found),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return ReapOutcome::Some,
            // There are none.
            Err(_) => return ReapOutcome::None,
        }
    }
}

/// Ends all descendants. Each generation becomes a child of this process when the one before has ended.
async fn end_all(
    server: Pid,
    status: &mut Option<WaitStatus>,
    ended: &mut Signals,
    grace: impl Fn() -> Duration,
) {
    signal_all(server, *status, Signal::TERM);
    let start = Instant::now();
    while reap(server, status) == ReapOutcome::Some {
        let (elapsed, grace) = (start.elapsed(), grace());
        if elapsed >= grace + KILL_TIMEOUT {
            return;
        }
        if elapsed >= grace {
            // None of these children was waited for, so their process ids cannot have been reused.
            for child in children() {
                let _ = kill_process(child, Signal::KILL);
            }
        }
        // Until a child has ended, or it is time to look for its children.
        drop(timeout(POLL, ended.recv()).await);
    }
}

/// Signals the server's process group, and the processes that left it.
fn signal_all(server: Pid, status: Option<WaitStatus>, signal: Signal) {
    let children = children();
    // The id of a group cannot be reused while a member of it was not waited for.
    if status.is_none() || children.iter().any(|child| getpgid(Some(*child)) == Ok(server)) {
        let _ = kill_process_group(server, signal);
    }
    for child in children {
        let _ = kill_process(child, signal);
    }
}

/// Returns an exit status as a shell does: that of the server, or 128 plus the signal that killed it.
fn exit_code(status: Option<WaitStatus>) -> ExitCode {
    let code = status.and_then(|status| {
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
    });
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
