//! The signals that stop the program.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::AppError;

/// SIGTERM and SIGINT. Created before anything else, so that a signal during startup is not lost.
pub struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
    /// When the last signal arrived that is no repetition.
    last: Option<Instant>,
}

/// A signal so soon after another one is the same: `timeout`, shells and service managers send it to the process and to its
/// group. Nobody decides anew in so short a time.
const REPEAT_INTERVAL: Duration = Duration::from_millis(200);

impl ShutdownSignals {
    /// Installs the signal handlers.
    pub fn install() -> Result<Self, AppError> {
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            last: None,
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
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            let now = Instant::now();
            if self.last.is_none_or(|last| now.duration_since(last) >= REPEAT_INTERVAL) {
                self.last = Some(now);
                return;
            }
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
