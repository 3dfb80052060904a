//! Why the gateway cannot start.

use std::net::SocketAddr;
use std::path::PathBuf;

use metamcp_core::base::EndpointName;

use super::handover::{InheritanceError, PassingError};
use crate::journal::JournalError;
use crate::server::ListenError;
use metamcp_config::certificates::TlsError;
use metamcp_connect::ConnectError;
use metamcp_http::InvalidTarget;
use metamcp_store::auth::{
    AuthError, CreateKeyError, EncryptionKeyError, FirstStartError, SealerError, SecretsError, WeakJwtSecret,
    WrongEncryptionKey,
};
use metamcp_store::store::StoreError;

/// Why the gateway cannot start. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The secrets in the data directory cannot be read or created.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The secrets in the data directory are missing, and must not be created or cannot be.
    #[error(transparent)]
    FirstStart(#[from] FirstStartError),
    #[error("{place}: {error}")]
    EncryptionKey { place: String, error: EncryptionKeyError },
    #[error(transparent)]
    WrongEncryptionKey(WrongEncryptionKey),
    /// `JWT_SECRET` is too weak.
    #[error("{place}: {error}")]
    JwtSecret { place: String, error: WeakJwtSecret },
    /// The versions of `ENCRYPTION_KEY` conflict.
    #[error(transparent)]
    Sealer(#[from] SealerError),
    /// The database cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The API keys or token keys in the database cannot be read.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The first API key cannot be created.
    #[error("cannot create the first API key: {0}")]
    FirstKey(#[from] CreateKeyError),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}; choose another with --data-dir")]
    DataDir { path: PathBuf, source: std::io::Error },
    /// The usage journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A listening socket cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Sockets that were passed to this process cannot be used.
    #[error(transparent)]
    Inheritance(#[from] InheritanceError),
    /// The process that this one replaces is gone.
    #[error(transparent)]
    Handover(#[from] PassingError),
    /// Without keys, only this machine may reach the gateway.
    #[error(
        "auth.mode = \"none\" asks nobody for a key, but the inherited socket listens on {0}, which is not loopback; pass a loopback socket, or require keys"
    )]
    OpenSocket(SocketAddr),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// SIGTERM or SIGINT arrived during startup.
    #[error("stopped by a signal before startup was complete")]
    Stopped,
    /// A panic has ended a worker thread, and with it all its connections.
    #[error("a worker thread ended unexpectedly, see the log; start the gateway again, and report it")]
    WorkerEnded,
    /// Signal handlers cannot be installed.
    #[error("cannot install signal handlers: {0}")]
    Signals(std::io::Error),
    /// Standard input and output cannot be used to reach the client.
    #[error("cannot use standard input and output: {0}; start this from a program that speaks MCP over them")]
    Pipes(std::io::Error),
    /// The directory of the private socket cannot be created.
    #[error(
        "cannot create a private directory for a socket: {0}; check that the temporary directory (TMPDIR) is writable"
    )]
    PrivateDir(std::io::Error),
    /// The endpoint named for the one client does not exist.
    #[error("there is no endpoint `{name}`; there are: {known}")]
    NoEndpoint {
        name: EndpointName,
        /// The endpoints that exist, separated by commas.
        known: String,
    },
    /// The address of the trace collector cannot be used.
    #[error("telemetry.traces.endpoint: {0}")]
    Collector(InvalidTarget),
    /// The file of call records cannot be written.
    #[error(
        "records.file: cannot open {path}: {source}; create its directory, or make it writable for this user"
    )]
    Records { path: PathBuf, source: std::io::Error },
    /// The writer of call records has no thread.
    #[error("cannot start the thread that writes call records: {0}")]
    RecordsThread(std::io::Error),
    /// The address of the collector of call records cannot be used.
    #[error("records.endpoint: {0}")]
    RecordsCollector(InvalidTarget),
    /// The address of a webhook cannot be used.
    #[error("webhooks.url: {0}")]
    Webhook(InvalidTarget),
    /// The client cannot be connected to the endpoint of `metamcp connect`.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}
