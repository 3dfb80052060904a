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
    program: Option<PathBuf>,
    args: Vec<OsString>,
}

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
enum HandoverError {
    #[error("the program that this process was started from is not there any more")]
    NoProgram,
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
        Self { requests, manager, program, args: args.collect() }
    }

    /// Tells the service manager that this process ends, and has no successor.
    pub fn note_stopping(&self) {
        self.manager.stopping();
    }

    /// Waits for SIGUSR2 and starts a successor, until one accepts connections from `sockets`. Without sockets, requests are
    /// refused.
    pub async fn hand_over(&mut self, sockets: Option<&ListeningSockets>) {
        // A closed signal would be ready forever.
        while self.requests.recv().await.is_some() {
            let Some(sockets) = sockets else {
                tracing::warn!("SIGUSR2 is ignored: this gateway serves the one client that started it");
                continue;
            };
            tracing::info!("starting a successor");
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
        let program = self.program.as_deref().ok_or(HandoverError::NoProgram)?;
        let mut command = Command::new(program);
        command.args(&self.args).env(MARK, "1");
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
        let mut successor = command.stdin(Stdio::from(theirs)).spawn()?;
        // It holds the successor's end, whose close is to be noticed.
        drop(command);
        let answered = self.wait_for_answer(passing::answers(ours)?).await;
        match answered {
            Ok(true) => successor.id().ok_or_else(|| io::Error::other("it has ended").into()),
            Ok(false) => Err(HandoverError::Ended(end(&mut successor).await?)),
            Err(error) => {
                end(&mut successor).await?;
                Err(error)
            }
        }
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

/// Ends a successor that cannot take over, and waits for it.
async fn end(successor: &mut Child) -> io::Result<ExitStatus> {
    // One that has closed its end is about to exit; its status says more than that of a kill.
    if let Ok(status) = timeout(EXIT_TIMEOUT, successor.wait()).await {
        return status;
    }
    successor.kill().await?;
    successor.wait().await
}

/// For a successor to exit by itself.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
