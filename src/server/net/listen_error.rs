//! Why the gateway cannot listen.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the workers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address}: {source}; is another program there, or the address not of this machine? Choose another by --host and --port"
    )]
    Bind { address: SocketAddr, source: io::Error },
    #[error(
        "cannot use inherited socket {number}: {source}; pass TCP sockets of one address (systemd: one ListenStream=PORT)"
    )]
    Inherited { number: usize, source: io::Error },
    /// The certificate or its key cannot be used.
    #[error("cannot use the TLS certificate: {0}")]
    Tls(String),
    #[error(
        "cannot listen on the private socket {path}: {source}; is there room in the directory for temporary files (TMPDIR)?"
    )]
    Private { path: PathBuf, source: io::Error },
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
}
