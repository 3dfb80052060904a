//! The process that keeps a server: it waits, and sees to it that nothing is left.

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

use super::kin::children;
use super::orders::Orders;
use super::{COMMAND, EXIT_NOT_RUN, PROGRAM, pid, say, stand_in};

/// What the arguments call it.
pub const ROLE: &str = "keep";

/// Between SIGTERM and SIGKILL, while the gateway lives.
const TERM_GRACE: Duration = Duration::from_millis(1500);

/// The same for what a server left behind, and when the gateway is gone: then all of it is to be gone within a second.
const SHORT_GRACE: Duration = Duration::from_millis(200);

/// Between two looks at what still runs, while something ends.
const POLL: Duration = Duration::from_millis(20);

/// After SIGKILL, a process in the midst of a disk operation, or on a busy machine, may take its time. A gateway that lives
/// does not wait for it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Keeps the server until it has ended, with all that it started; gives what it ended with.
pub fn run(orders: &Orders, program: &[OsString]) -> ExitCode {
    close_fds::set_fds_cloexec(FIRST_FD_OF_OTHERS, &[]);
    let kept = bind(orders)
        .and_then(|()| Builder::new_current_thread().enable_all().build())
        .and_then(|runtime| runtime.block_on(keep(orders, program)));
    kept.unwrap_or_else(|error| {
        say(&format!("the server cannot be kept: {error}"));
        ExitCode::from(EXIT_NOT_RUN)
    })
}

/// Behind standard input, output and error.
const FIRST_FD_OF_OTHERS: i32 = 3;

/// What the kernel sends a keeper when the gateway is gone: the only signal that also wakes one that somebody stopped.
const GATEWAY_GONE: Signal = Signal::CONT;

/// Ends with the gateway, and takes over what the server leaves behind.
fn bind(orders: &Orders) -> io::Result<()> {
    set_parent_process_death_signal(Some(GATEWAY_GONE))?;
    set_child_subreaper(Some(getpid()))?;
    // The gateway may have ended before the first of these was asked for.
    if getppid() == pid(orders.parent) { Ok(()) } else { Err(io::Error::other("the gateway has gone")) }
}

async fn keep(orders: &Orders, program: &[OsString]) -> io::Result<ExitCode> {
    let mut ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut gateway_gone = signal(SignalKind::from_raw(GATEWAY_GONE.as_raw()))?;
    // Until now it would have gone unnoticed.
    if getppid() != pid(orders.parent) {
        return Err(io::Error::other("the gateway has gone"));
    }
    // Taken and not looked at.
    let _ignored: Vec<Signals> = IGNORED.into_iter().map(signal).collect::<Result<_, _>>()?;
    let server = start(orders, program)?;
    // The pipes are the server's alone: it must see their end, and so must the gateway.
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let mut status = None;
    loop {
        tokio::select! {
            _ = ended.recv() => {
                let left = reap(server, &mut status);
                if left == Left::Nothing {
                    break;
                }
                if status.is_some() {
                    if status.is_some_and(|status| status.exit_status() == Some(0)) {
                        say("the program has ended, so what it started is ended too: it must stay");
                    }
                    end_all(server, &mut status, &mut ended, || SHORT_GRACE).await;
                    break;
                }
            }
            () = either(&mut terminate, &mut gateway_gone) => {
                // Looked at again and again: the gateway's threads end one after the other.
                let grace = || if getppid() == pid(orders.parent) { TERM_GRACE } else { SHORT_GRACE };
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

/// What a server, or a user at its terminal, may send to all around it, and what ends a process that does not expect it.
const IGNORED: [SignalKind; 7] = [
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
    SignalKind::alarm(),
    SignalKind::pipe(),
];

/// Starts the stand-in, as the user that the server is to run as, in a group of its own: a signal that it sends to its
/// whole group must not reach who is to end it.
fn start(orders: &Orders, program: &[OsString]) -> io::Result<Pid> {
    let own = u32::try_from(getpid().as_raw_nonzero().get()).unwrap_or_default();
    let theirs = Orders { parent: own, ..orders.clone() };
    let mut command = Command::new(PROGRAM);
    command.arg0("metamcp").args([COMMAND, stand_in::ROLE, &theirs.to_text()]).args(program);
    if let Some(gid) = orders.gid {
        command.gid(gid);
    }
    if let Some(uid) = orders.uid {
        command.uid(uid);
    }
    command.process_group(0);
    // Not waited for by this handle: `reap` waits for all children alike.
    let child = command.spawn()?;
    pid(child.id()).ok_or_else(|| io::Error::other("a process without a number"))
}

/// Whether this process has children.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

/// Takes note of all children that have ended, and of the server's status when it is among them.
fn reap(server: Pid, status: &mut Option<WaitStatus>) -> Left {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, found))) if pid == server => *status = Some(found),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Left::Something,
            // There are none.
            Err(_) => return Left::Nothing,
        }
    }
}

/// Ends all that runs: what the server started and left behind is ours, one generation after the other.
async fn end_all(
    server: Pid,
    status: &mut Option<WaitStatus>,
    ended: &mut Signals,
    grace: impl Fn() -> Duration,
) {
    tell_all(server, *status, Signal::TERM);
    let begun = Instant::now();
    while reap(server, status) == Left::Something {
        let (passed, grace) = (begun.elapsed(), grace());
        if passed >= grace + KILL_PATIENCE {
            return;
        }
        if passed >= grace {
            // Only children of our own, and none of them was waited for: their numbers are nobody else's.
            for child in children() {
                let _ = kill_process(child, Signal::KILL);
            }
        }
        // Whichever is first: one has ended, or it is time to look for those who took its place.
        drop(timeout(POLL, ended.recv()).await);
    }
}

/// The server's group, and those who left it.
fn tell_all(server: Pid, status: Option<WaitStatus>, signal: Signal) {
    let children = children();
    // The number of a group is nobody else's while one is in it that was not waited for.
    if status.is_none() || children.iter().any(|child| getpgid(Some(*child)) == Ok(server)) {
        let _ = kill_process_group(server, signal);
    }
    for child in children {
        let _ = kill_process(child, signal);
    }
}

/// As a shell gives it: what the server said, or 128 and the signal that ended it.
fn exit_code(status: Option<WaitStatus>) -> ExitCode {
    let code = status.and_then(|status| {
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
    });
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
