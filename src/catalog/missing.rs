//! Servers whose items are not in a list, and why.

use serde_json::{Value, json};

use crate::base::ServerName;

/// A server whose items are not in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub server: ServerName,
    /// Its place in the endpoint.
    pub place: usize,
    /// Why.
    pub reason: Reason,
}

/// Why a server's items are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Its first answer is awaited.
    Loading,
    /// It speaks only the other era.
    OtherEra,
    /// It speaks only the Legacy era, and no Modern client has asked for it.
    Unasked,
    /// Its answer takes longer than a list request waits for it, and is still awaited.
    Slow,
    /// It failed.
    Failed(Failed),
}

/// How a server failed to list, for clients: without addresses, and without what a program said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What it did.
    pub text: String,
    /// How far the request had come.
    pub stage: Option<&'static str>,
    /// Since when it is so, in seconds since 1970. It does not move with each try: lists that say the same are the same.
    pub since: Option<u64>,
}

impl Missing {
    /// For `_meta` of a list.
    pub fn to_json(&self) -> Value {
        let (server, state) = (self.server.as_str(), self.reason.state());
        let mut said = json!({"server": server, "state": state, "reason": self.reason.text()});
        if let Reason::Failed(Failed { stage, since, .. }) = &self.reason {
            if let Some(since) = since {
                said["since"] = (*since).into();
            }
            if let Some(stage) = stage {
                said["stage"] = (*stage).into();
            }
        }
        said
    }
}

impl Reason {
    /// For clients.
    pub fn text(&self) -> &str {
        match self {
            Self::Loading => "it has not answered yet",
            Self::Slow => "it is slow to list",
            Self::Unasked => "it speaks earlier revisions, and is listed when a client of this one asks",
            Self::OtherEra => "it does not speak this revision of the protocol",
            Self::Failed(failed) => &failed.text,
        }
    }

    /// For programs.
    fn state(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Slow => "slow",
            Self::Unasked => "unasked",
            Self::OtherEra => "other era",
            Self::Failed(_) => "failed",
        }
    }
}
