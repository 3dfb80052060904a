//! What a process was given at its start: listening sockets of systemd, or those of the process that it replaces.

use std::future::Future;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};

use listenfd::ListenFd;
use metamcp_config::Env;
use rustix::stdio::dup2_stdin;

use super::passing::{self, PassingError};
use crate::child;
use crate::server::{ListenError, ListeningSockets};

/// The sockets that were passed, and who passed them.
pub struct Inheritance {
    pub sockets: ListeningSockets,
    /// The process that this one replaces. `None` if systemd passed the sockets.
    pub predecessor: Option<Predecessor>,
}

/// The process that waits until this one accepts connections.
pub struct Predecessor(OwnedFd);

/// Set for a successor, whose standard input is the socket pair.
pub const MARK: &str = "METAMCP_HANDOVER";

impl Inheritance {
    /// Takes what was passed; `None` if nothing was. To be called before this process has threads and children.
    pub fn receive(env: &dyn Env) -> Result<Option<Self>, InheritanceError> {
        if env.var(MARK).is_some_and(|mark| !mark.is_empty()) {
            return Self::of_predecessor().map(Some);
        }
        // Without this variable, the others are meant for another process.
        if env.var("LISTEN_PID").is_none() {
            return Ok(None);
        }
        let names = env.var("LISTEN_FDNAMES").unwrap_or_default();
        // Removes the variables, so that no child takes them for its own.
        let mut passed = ListenFd::from_env();
        if passed.len() == 0 {
            return Ok(None);
        }
        let mut sockets = Vec::new();
        for number in 0..passed.len().min(SOCKETS_MAX) {
            let taken = passed.take_tcp_listener(number);
            let taken = taken.map_err(|source| ListenError::Inherited { number, source })?;
            sockets.extend(taken);
        }
        let (count, names) = (sockets.len(), names.to_string_lossy().into_owned());
        let sockets = ListeningSockets::inherit(sockets)?;
        tracing::info!(address = %sockets.address, count, names, "using the listening sockets of the service manager");
        Ok(Some(Self { sockets, predecessor: None }))
    }

    fn of_predecessor() -> Result<Self, InheritanceError> {
        let pair = std::io::stdin().as_fd().try_clone_to_owned().map_err(PassingError::Io)?;
        let (description, sockets, stdin): (_, Vec<TcpListener>, _) = passing::receive(&pair)?;
        // Otherwise the pair would stay open in two places, and its end would not be noticed.
        dup2_stdin(&stdin).map_err(|error| PassingError::Io(error.into()))?;
        child::inherit_initial_file_limit(description.program_files);
        if description.has_disabled_huge_pages {
            child::inherit_disabled_huge_pages();
        }
        let sockets = ListeningSockets::inherit(sockets)?;
        tracing::info!(address = %sockets.address, count = description.sockets, "taking over the listening sockets");
        Ok(Self { sockets, predecessor: Some(Predecessor(pair)) })
    }
}

impl Predecessor {
    /// Completes `start`, the start of this process, unless the predecessor ends before: what this process holds of the
    /// listening sockets would else outlive a gateway that was stopped.
    ///
    /// # Errors
    /// The predecessor has ended.
    pub async fn race<T>(&self, start: impl Future<Output = T>) -> Result<T, PassingError> {
        let mut messages = passing::messages(self.0.try_clone()?)?;
        tokio::select! {
            // Who has started tells the predecessor, and is told then whether it is there.
            biased;
            started = start => Ok(started),
            () = passing::predecessor_ended(&mut messages) => Err(PassingError::PredecessorEnded),
        }
    }

    /// Tells it that this process accepts connections.
    pub fn send_accepts(self) -> Result<(), PassingError> {
        passing::send_accepts(&self.0)
    }
}

/// Why sockets that were passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritanceError {
    #[error(transparent)]
    Passing(#[from] PassingError),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// systemd passes one socket, or one for each worker; no machine has more.
const SOCKETS_MAX: usize = 4096;
