//! Servers whose items are missing from a list.

use serde_json::{Value, json};

use metamcp_core::base::ServerName;

/// A server whose items are missing from a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingServer {
    pub server: ServerName,
    /// The position of the server in the endpoint.
    pub server_index: usize,
    pub reason: MissingReason,
}

/// Why a server's items are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissingReason {
    /// Its first response is pending.
    Loading,
    /// It speaks only the other era.
    OtherEra,
    /// It speaks only the Legacy era, and no Modern client has asked for it.
    NotRequested,
    /// Its response takes longer than a list request waits, and is still pending.
    Slow,
    Failed(ListFailure),
}

/// How a server failed to list. For clients: without addresses and without the output of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFailure {
    /// What the server did.
    pub text: String,
    /// How far the request got.
    pub stage: Option<&'static str>,
    /// Since when it fails, in seconds since 1970. A retry that fails in the same way does not change it, so
    /// that equal lists stay equal.
    pub since: Option<u64>,
}

impl MissingServer {
    /// Returns the entry for `_meta` of a list.
    pub fn to_json(&self) -> Value {
        let (server, state) = (self.server.as_str(), self.reason.state());
        let mut entry = json!({"server": server, "state": state, "reason": self.reason.text()});
        if let MissingReason::Failed(ListFailure { stage, since, .. }) = &self.reason {
            if let Some(since) = since {
                entry["since"] = (*since).into();
            }
            if let Some(stage) = stage {
                entry["stage"] = (*stage).into();
            }
        }
        entry
    }
}

impl MissingReason {
    /// Returns the text for clients.
    pub fn text(&self) -> &str {
        match self {
            Self::Loading => "it has not answered yet",
            Self::Slow => "it is slow to list",
            Self::NotRequested => "it speaks earlier revisions, and is listed when a client of this one asks",
            Self::OtherEra => "it does not speak this revision of the protocol",
            Self::Failed(failed) => &failed.text,
        }
    }

    /// Returns the state for programs.
    fn state(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Slow => "slow",
            Self::NotRequested => "unasked",
            Self::OtherEra => "other era",
            Self::Failed(_) => "failed",
        }
    }
}
