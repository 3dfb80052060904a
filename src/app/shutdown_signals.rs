//! The signals that stop the program.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::AppError;

/// SIGTERM and SIGINT. Created before anything else, so that a signal during startup is not lost.
pub struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    /// Installs the signal handlers.
    pub fn install() -> Result<Self, AppError> {
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    /// Runs `work` until it is done or a signal arrives: waiting for a database may take any time.
    pub async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Result<T, AppError> {
        tokio::select! {
            done = work => Ok(done),
            () = self.received() => Err(AppError::Stopped),
        }
    }

    /// Waits for a signal; one that arrived since the last call counts. Cancel safe.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Installs the handler of SIGHUP, which reloads the configuration.
pub fn install_hangup() -> Result<Signal, AppError> {
    install(SignalKind::hangup())
}

/// Installs the handler of SIGUSR2, which hands over to a successor. Without it, the signal would end the process.
pub fn install_handover() -> Result<Signal, AppError> {
    install(SignalKind::user_defined2())
}

fn install(kind: SignalKind) -> Result<Signal, AppError> {
    signal(kind).map_err(AppError::Signals)
}
