//! Why files of TLS cannot be used.

use std::fmt::Display;
use std::path::Path;

/// The files cannot be used. The text names the setting and its file, and says what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("server.tls.{setting}: {file}: {reason}")]
pub struct TlsError {
    setting: &'static str,
    file: String,
    reason: String,
}

impl TlsError {
    /// `setting` is the key in `[server.tls]`.
    pub fn new(setting: &'static str, path: &Path, reason: impl Display) -> Self {
        Self { setting, file: path.display().to_string(), reason: reason.to_string() }
    }
}
