//! Why files of TLS cannot be used.

use std::fmt::Display;
use std::path::Path;

/// The files cannot be used. The text names the file and says what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the TLS certificate: {file}: {reason}")]
pub struct TlsError {
    file: String,
    reason: String,
}

impl TlsError {
    pub fn new(path: &Path, reason: impl Display) -> Self {
        Self { file: path.display().to_string(), reason: reason.to_string() }
    }
}
