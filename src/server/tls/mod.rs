//! TLS towards clients: the certificate of the gateway, which may change while it serves, and the certificates of clients.
//!
//! Invariants: a connection keeps the settings of its handshake, and ends soon if these have accepted a certificate of the
//! client by what is replaced; files that cannot be used change nothing; what a
//! client certificate stands for is decided only for one that TLS has verified.
//!
//! Does not know: sockets, HTTP, what a key may do, or who says that files have changed.

mod client_rules;
mod server_tls;

pub use server_tls::{ClientGeneration, ReloadOutcome, ServerTls, TlsSettings, VerifiedClient};
