//! The pins of one server as the store has them, and a write to them.

use metamcp_core::base::ServerName;

use metamcp_store::tool_pins::{PinChange, ToolPins};

/// What the store has for one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPins {
    /// The pins, and the version of their row.
    Pins(ToolPins, u64),
    /// A row that cannot be unsealed. It is overwritten; the number is its version.
    Altered(u64),
    /// A row that was sealed with a version of `ENCRYPTION_KEY` that this process does not have.
    Foreign,
    /// The row of a served server has disappeared. These are its last known pins.
    Lost(ToolPins),
}

/// A write of one server's pins to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinsUpdate {
    pub server: ServerName,
    pub pins: ToolPins,
    /// The version of the row that is overwritten; `None` if there is no row.
    pub expected_version: Option<u64>,
    /// The action for the audit log: `server.tools.` and one of `change`, `hold`, `settle`, `restore`. `None`
    /// when the server is listed for the first time.
    pub action: Option<&'static str>,
    pub changes: Vec<PinChange>,
}

/// The [`PinsUpdate::action`] that writes lost pins again.
pub const RESTORE_ACTION: &str = "server.tools.restore";

impl StoredPins {
    /// Returns what remains when the row has disappeared. Without this, anyone who can delete a row could
    /// make a changed server look like one that is listed for the first time.
    pub(super) fn into_lost(self) -> Option<Self> {
        match self {
            Self::Pins(pins, _) | Self::Lost(pins) => Some(Self::Lost(pins)),
            Self::Altered(_) | Self::Foreign => None,
        }
    }
}
