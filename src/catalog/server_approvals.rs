//! Which tools of one server may be listed, and what the store has to record.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use metamcp_core::base::{ServerName, unix_seconds};

use super::quarantine::{QuarantineReason, QuarantinedTools};
use super::stored_pins::{PinsUpdate, RESTORE_ACTION, StoredPins};
use super::view::View;
use crate::upstream::UpstreamId;
use metamcp_config::server::ToolPinPolicy;
use metamcp_store::tool_pins::{LOGGED_TOOLS_MAX, ListedTool, ToolPins, format_code_points};

/// Whether the tools of a server may be listed.
#[derive(Debug, Clone)]
pub enum ToolVisibility {
    /// Every tool is listed except these.
    Show(Arc<QuarantinedTools>),
    /// None yet: the server was listed for the first time, and its pins are about to be written.
    Wait,
}

/// What is known of one server.
#[derive(Debug)]
pub(super) struct ServerApprovals {
    pub(super) policy: ToolPinPolicy,
    pub(super) views: HashMap<(UpstreamId, View), Arc<[ListedTool]>>,
    pub(super) invisible_chars: BTreeMap<String, BTreeSet<char>>,
    pub(super) visibility: ToolVisibility,
    pub(super) pending_update: Option<PinsUpdate>,
    /// Whether the last attempt to write the update failed.
    pub(super) has_write_failed: bool,
}

/// The store as far as it was read.
#[derive(Clone, Copy)]
pub(super) enum StoreState<'a> {
    Read(&'a HashMap<String, StoredPins>),
    /// The first read is pending.
    Pending,
    /// The first read failed.
    Unreadable,
}

/// Why approvals are settled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SettleTrigger {
    /// The server was listed.
    Listed,
    /// The store was read.
    StoreRead,
}

impl ToolVisibility {
    pub(super) fn all() -> Self {
        Self::Show(Arc::default())
    }
}

impl StoreState<'_> {
    /// Returns what the store has for a server. Without it, returns the visibility of the server's tools
    /// meanwhile.
    fn pins_of(
        &self,
        server: &ServerApprovals,
        name: &ServerName,
    ) -> Result<Option<&StoredPins>, ToolVisibility> {
        match self {
            Self::Read(stored) => Ok(stored.get(name.as_str())),
            Self::Pending => Err(ToolVisibility::Wait),
            Self::Unreadable => Err(server.quarantine_all(QuarantineReason::PinsUnread)),
        }
    }
}

impl ServerApprovals {
    pub(super) fn new(policy: ToolPinPolicy) -> Self {
        Self {
            policy,
            views: HashMap::new(),
            invisible_chars: BTreeMap::new(),
            visibility: ToolVisibility::all(),
            pending_update: None,
            has_write_failed: false,
        }
    }

    /// Returns every tool in every view.
    fn listed_tools(&self) -> impl Iterator<Item = &ListedTool> {
        self.views.values().flat_map(|tools| tools.iter())
    }

    /// Logs tools whose texts contain invisible characters: once, and again when these change.
    pub(super) fn log_invisible_chars(&mut self, server: &ServerName) {
        let mut by_tool: BTreeMap<String, BTreeSet<char>> = BTreeMap::new();
        for tool in self.listed_tools().filter(|tool| !tool.invisible_chars.is_empty()) {
            by_tool.entry(tool.name.clone()).or_default().extend(&tool.invisible_chars);
        }
        let is_news =
            |(tool, chars): &(&String, &BTreeSet<char>)| self.invisible_chars.get(*tool) != Some(*chars);
        for (tool, chars) in by_tool.iter().filter(is_news).take(LOGGED_TOOLS_MAX) {
            let code_points = format_code_points(chars).join(" ");
            // Escaped: the name may contain invisible characters too.
            let tool = tool.escape_debug();
            tracing::warn!(%server, %tool, code_points, "tool texts contain invisible characters");
        }
        self.invisible_chars = by_tool;
    }

    /// Decides which tools may be listed, and what to write to the store.
    pub(super) fn settle(&mut self, server: &ServerName, store: StoreState<'_>, trigger: SettleTrigger) {
        let before = self.pending_update.take();
        (self.visibility, self.pending_update) = match (self.policy, store.pins_of(self, server)) {
            (ToolPinPolicy::Allow, _) | (ToolPinPolicy::Warn, Err(_) | Ok(Some(StoredPins::Foreign))) => {
                (ToolVisibility::all(), None)
            }
            (ToolPinPolicy::Warn, Ok(stored)) => (ToolVisibility::all(), self.approve_listed(server, stored)),
            (ToolPinPolicy::Quarantine, Err(visibility)) => (visibility, None),
            (ToolPinPolicy::Quarantine, Ok(Some(StoredPins::Foreign))) => {
                (self.quarantine_all(QuarantineReason::PinsSealed), None)
            }
            (ToolPinPolicy::Quarantine, Ok(Some(StoredPins::Altered(version)))) => {
                let update = self.queue_unapproved(server, &ToolPins::default(), Some(*version), trigger);
                (self.quarantine_all(QuarantineReason::PinsSealed), update)
            }
            (ToolPinPolicy::Quarantine, Ok(Some(StoredPins::Pins(pins, version)))) => {
                // A pending update came from a list; a read of the store in between does not make it news
                // again.
                let trigger = if before.is_some() { SettleTrigger::Listed } else { trigger };
                let update = self.queue_unapproved(server, pins, Some(*version), trigger);
                (self.quarantine_unapproved(pins), update)
            }
            (ToolPinPolicy::Quarantine, Ok(Some(StoredPins::Lost(pins)))) => {
                (self.quarantine_unapproved(pins), Some(Self::restore(server, pins)))
            }
            (ToolPinPolicy::Quarantine, Ok(None)) => {
                let first = self.approve_listed(server, None);
                let visibility = match (first.is_some(), self.has_write_failed) {
                    (true, true) => self.quarantine_all(QuarantineReason::PinsUnwritten),
                    (true, false) => ToolVisibility::Wait,
                    (false, _) => ToolVisibility::all(),
                };
                (visibility, first)
            }
        };
        self.has_write_failed &= self.pending_update.is_some();
    }

    /// Returns the update that approves all listed tools.
    fn approve_listed(&self, server: &ServerName, stored: Option<&StoredPins>) -> Option<PinsUpdate> {
        let (mut pins, expected_version) = match stored {
            Some(StoredPins::Pins(pins, version)) => (pins.clone(), Some(*version)),
            Some(StoredPins::Altered(version)) => (ToolPins::default(), Some(*version)),
            Some(StoredPins::Lost(pins)) => return Some(Self::restore(server, pins)),
            Some(StoredPins::Foreign) => return None,
            None => (ToolPins::default(), None),
        };
        let before = pins.clone();
        let changes = pins.approve_listed(self.listed_tools(), unix_seconds());
        let action = expected_version.map(|_| "server.tools.change");
        (pins != before).then(|| PinsUpdate {
            server: server.clone(),
            pins,
            expected_version,
            action,
            changes,
        })
    }

    /// Returns the update that makes unapproved tools wait for approval.
    fn queue_unapproved(
        &self,
        server: &ServerName,
        stored: &ToolPins,
        expected_version: Option<u64>,
        trigger: SettleTrigger,
    ) -> Option<PinsUpdate> {
        let mut pins = stored.clone();
        // Another replica may list other tools. After a read of its write, this one must not undo it, or the
        // two would overwrite each other for ever.
        if trigger == SettleTrigger::Listed {
            let listed: HashSet<_> =
                self.listed_tools().map(|tool| (tool.name.as_str(), tool.fingerprint)).collect();
            pins.drop_unlisted(|name, fingerprint| listed.contains(&(name, *fingerprint)));
        }
        let changes = pins.add_pending(self.listed_tools(), unix_seconds());
        let action = Some(if changes.is_empty() { "server.tools.settle" } else { "server.tools.hold" });
        (pins != *stored).then(|| PinsUpdate {
            server: server.clone(),
            pins,
            expected_version,
            action,
            changes,
        })
    }

    /// Returns the update that writes lost pins again. Other updates follow it.
    fn restore(server: &ServerName, pins: &ToolPins) -> PinsUpdate {
        let (server, pins) = (server.clone(), pins.clone());
        PinsUpdate { server, pins, expected_version: None, action: Some(RESTORE_ACTION), changes: Vec::new() }
    }

    fn quarantine_unapproved(&self, pins: &ToolPins) -> ToolVisibility {
        let quarantined = self.listed_tools().filter_map(|tool| {
            let changed = pins.difference(tool)?;
            let why = if changed.is_some() { QuarantineReason::Changed } else { QuarantineReason::New };
            Some((tool.name.clone(), why))
        });
        ToolVisibility::Show(Arc::new(quarantined.collect()))
    }

    fn quarantine_all(&self, why: QuarantineReason) -> ToolVisibility {
        ToolVisibility::Show(Arc::new(self.listed_tools().map(|tool| (tool.name.clone(), why)).collect()))
    }
}
