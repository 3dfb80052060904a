//! Certificates of TLS: the files of `[server.tls]`, which certificates are authorities, and when they are valid.
//!
//! Invariants: what is accepted here can be used for a handshake; a date refuses nothing, because the clock may be wrong and a
//! replacement may follow.
//!
//! Does not know: sockets, handshakes, or who says that files have changed.

mod authorities;
mod error;
mod pem_files;
mod validity;

pub use authorities::{NoAuthority, authorities};
pub use error::TlsError;
pub use pem_files::{FilesDigest, PemFiles};
pub use validity::{DatedContent, ValidityPeriod, ValidityProblem};

#[cfg(test)]
mod tests;
