//! Why tools are quarantined: left out of all lists until they are approved.

use std::collections::HashMap;

/// Why a tool is quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineReason {
    /// Its definition differs from what was approved.
    Changed,
    /// It did not exist when the server was first listed.
    New,
    /// The pins could not be read from the store yet.
    PinsUnread,
    /// The stored pins cannot be unsealed.
    PinsSealed,
    /// The first pins of the server could not be written to the store yet.
    PinsUnwritten,
}

/// The quarantined tools of a server, by the server's own names.
pub type QuarantinedTools = HashMap<String, QuarantineReason>;

impl QuarantineReason {
    /// Returns the text for clients.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Changed => {
                "its definition changed since it was approved; an administrator has to approve it"
            }
            Self::New => "it is new; an administrator has to approve it",
            Self::PinsUnread => "the approved definitions could not be read from the database yet",
            Self::PinsSealed => {
                "the approved definitions were altered in the database, or sealed under another ENCRYPTION_KEY"
            }
            Self::PinsUnwritten => "the approved definitions could not be written to the database yet",
        }
    }
}
