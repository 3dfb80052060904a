//! An event as the log keeps it.

use bytes::Bytes;
use metamcp_core::base::{EventKind, KeyId, ServerName, Severity};

/// An event in the log: its JSON, and what filters ask for.
#[derive(Debug)]
pub struct LoggedEvent {
    pub number: u64,
    pub kind: EventKind,
    pub severity: Severity,
    pub server: Option<ServerName>,
    pub endpoint: Option<Box<str>>,
    pub key: Option<KeyId>,
    /// The whole event as one JSON object.
    pub json: Bytes,
}
