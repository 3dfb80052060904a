//! TLS towards clients: the certificate of the gateway, which may change while it serves.
//!
//! Invariants: a connection keeps the configuration of its handshake; files that cannot be used change nothing.
//!
//! Does not know: sockets, HTTP, or who says that files have changed.

mod pem_files;
mod server_tls;

pub use server_tls::{ReloadOutcome, ServerTls, TlsError, TlsSettings};
