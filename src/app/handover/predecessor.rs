//! The process that is replaced: starts its successor at SIGUSR2, and waits until that accepts connections.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use metamcp_config::{Env, ProcessEnv};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::Signal;
use tokio::time::timeout;

use super::inheritance::MARK;
use super::notify::ServiceManager;
use super::passing::{self, Description};
use super::program;
use crate::child;
use crate::server::ListeningSockets;

/// Replaces this process at SIGUSR2.
pub struct HandoverSwitch {
    requests: Signal,
    manager: ServiceManager,
    program: PathBuf,
    args: Vec<OsString>,
}

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
enum HandoverError {
    #[error(
        "the program {} that this process was started from is not there any more; install it there and send SIGUSR2 again", .0.display()
    )]
    NoProgram(PathBuf),
    #[error("cannot start the successor: {0}")]
    Start(#[from] io::Error),
    #[error("the successor ended ({0}); its own log lines say why")]
    Ended(ExitStatus),
    #[error("the successor did not accept connections within {} s", READY_TIMEOUT.as_secs())]
    TimedOut,
}

/// For a successor to accept connections. A start takes about a second, and longer with a slow database.
const READY_TIMEOUT: Duration = Duration::from_mins(1);

impl HandoverSwitch {
    /// `requests` receives SIGUSR2. Finds out what this process was started as.
    pub fn new(requests: Signal, manager: ServiceManager) -> Self {
        let mut args = std::env::args_os();
        let started_as = args.next();
        let cwd = std::env::current_dir().unwrap_or_default();
        let program = program::find(started_as.as_deref(), &ProcessEnv as &dyn Env, &cwd);
        let program = program.or_else(|| std::env::current_exe().ok());
        let program = program.unwrap_or_else(|| PathBuf::from(OWN_PROGRAM));
        Self { requests, manager, program, args: args.collect() }
    }

    /// Tells the service manager that this process ends, and has no successor.
    pub fn note_stopping(&self) {
        self.manager.stopping();
    }

    /// Waits for SIGUSR2 and starts a successor, until one accepts connections from `sockets`. Without sockets, requests are
    /// refused.
    ///
    /// Cancel safe: dropping it ends a successor that is still starting.
    pub async fn hand_over(&mut self, sockets: Option<&ListeningSockets>) {
        // A closed signal would be ready forever.
        while self.requests.recv().await.is_some() {
            let Some(sockets) = sockets else {
                tracing::warn!("SIGUSR2 is ignored: this gateway serves the one client that started it");
                continue;
            };
            if let Some(reason) = refusal_as(std::process::id()) {
                tracing::error!("{reason}");
                continue;
            }
            self.manager.reloading();
            match self.start_successor(sockets).await {
                Ok(successor) => {
                    self.manager.replaced_by(successor);
                    tracing::info!(process = successor, "handed over to the successor");
                    return;
                }
                Err(error) => {
                    self.manager.ready();
                    tracing::error!(%error, "no hand-over; this process serves on");
                }
            }
        }
        std::future::pending::<()>().await;
    }

    /// Returns the process id of a successor that accepts connections.
    async fn start_successor(&mut self, sockets: &ListeningSockets) -> Result<u32, HandoverError> {
        let (ours, theirs) = passing::open_pair()?;
        let descriptors = sockets.descriptors();
        let description = Description {
            sockets: descriptors.len(),
            program_files: child::initial_file_limit(),
            has_disabled_huge_pages: child::has_disabled_huge_pages(),
        };
        passing::send(&ours, description, &descriptors, io::stdin().as_fd())?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).env(MARK, "1");
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        let spawned = command.stdin(Stdio::from(theirs)).spawn();
        let successor = StartingSuccessor(Some(spawned.map_err(|error| self.start_error(error))?));
        // It holds the successor's end, whose close is to be noticed.
        drop(command);
        let process = successor.id();
        tracing::info!(process, "starting a successor");
        let answered = self.wait_for_answer(passing::messages(ours)?).await;
        match (answered, process) {
            (Ok(true), Some(process)) => {
                successor.keep();
                Ok(process)
            }
            (Ok(_), _) => Err(HandoverError::Ended(successor.end().await?)),
            (Err(error), _) => {
                successor.end().await?;
                Err(error)
            }
        }
    }

    /// Why the program cannot be started.
    fn start_error(&self, error: io::Error) -> HandoverError {
        if error.kind() == io::ErrorKind::NotFound && !self.program.exists() {
            return HandoverError::NoProgram(self.program.clone());
        }
        HandoverError::Start(error)
    }

    /// Whether the successor accepts connections. Refuses further requests meanwhile.
    async fn wait_for_answer(&mut self, mut answers: UnixStream) -> Result<bool, HandoverError> {
        let mut accepts = pin!(timeout(READY_TIMEOUT, passing::receive_accepts(&mut answers)));
        loop {
            tokio::select! {
                accepts = &mut accepts => return accepts.map_err(|_| HandoverError::TimedOut),
                Some(()) = self.requests.recv() => {
                    tracing::warn!("SIGUSR2 is refused: a successor is starting already");
                }
            }
        }
    }
}

/// Why a process with this id cannot hand over; `None` if it can.
fn refusal_as(process: u32) -> Option<&'static str> {
    // The kernel kills all processes of a PID namespace when its first process ends (`pid_namespaces(7)`).
    (process == 1).then_some(
        "SIGUSR2 is refused: this process is process 1 of its container, and the kernel would end the successor together with it; start a new container and stop this one (a rolling restart by the orchestrator)",
    )
}

/// A successor that may not take over yet. Killed when dropped: it has the listening sockets, and would keep connections in
/// their queues that nobody accepts.
struct StartingSuccessor(Option<Child>);

impl StartingSuccessor {
    fn id(&self) -> Option<u32> {
        self.0.as_ref()?.id()
    }

    /// Lets it go on after this process.
    fn keep(mut self) {
        self.0 = None;
    }

    /// Ends one that cannot take over, and waits for it.
    async fn end(mut self) -> io::Result<ExitStatus> {
        let Some(successor) = &mut self.0 else { return Err(io::Error::other("it was let go")) };
        // One that has closed its end is about to exit; its status says more than that of a kill.
        if let Ok(status) = timeout(EXIT_TIMEOUT, successor.wait()).await {
            return status;
        }
        successor.kill().await?;
        successor.wait().await
    }
}

impl Drop for StartingSuccessor {
    fn drop(&mut self) {
        // It has ended if this fails.
        if let Some(successor) = &mut self.0 {
            let _ = successor.start_kill();
        }
    }
}

/// For a successor to exit by itself.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The program of this process, if its path cannot be found.
const OWN_PROGRAM: &str = "/proc/self/exe";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_1_is_told_what_to_do_instead() {
        let check = |process: u32, expected: Option<&str>| {
            let reason = refusal_as(process);
            let is_expected = match (reason, expected) {
                (Some(reason), Some(expected)) => reason.contains(expected),
                (reason, expected) => reason == expected,
            };
            assert!(is_expected, "{process}: {reason:?}");
        };
        check(1, Some("a rolling restart by the orchestrator"));
        check(2, None);
    }
}
