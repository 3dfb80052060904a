//! Members of a server document that take one of a fixed set of values.

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::ServerKind;
use metamcp_config::server::{Sharing, ToolPinPolicy};

/// The transport of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ServerKind)]
#[serde(rename_all = "lowercase")]
pub enum KindKeyword {
    #[default]
    Http,
    /// The HTTP+SSE transport of MCP 2024-11-05.
    Sse,
    /// A child process.
    Stdio,
}

/// The protocol revisions that the gateway uses with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Era)]
#[serde(rename_all = "lowercase")]
pub enum EraKeyword {
    /// Detected by probing the server.
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// 2025-11-25 and earlier only.
    Legacy,
}

/// What to do with a tool whose definition differs from the approved one. The first definition that a server
/// lists counts as approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ChangedTools)]
#[serde(rename_all = "lowercase")]
pub enum ChangedToolsKeyword {
    /// No tool pins are stored.
    Allow,
    /// The change is logged, recorded in the audit log, and thereby approved.
    Warn,
    /// The tool is neither listed nor callable until it is approved.
    Quarantine,
}

/// Which sessions share a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Sharing)]
#[serde(rename_all = "lowercase")]
pub enum SharingKeyword {
    /// All sessions of all keys.
    Shared,
    /// The sessions of one key.
    Key,
    /// None: each session has its own process.
    Session,
}

impl From<KindKeyword> for ServerKind {
    fn from(keyword: KindKeyword) -> Self {
        match keyword {
            KindKeyword::Http => Self::Http,
            KindKeyword::Sse => Self::Sse,
            KindKeyword::Stdio => Self::Stdio,
        }
    }
}

impl From<ChangedToolsKeyword> for ToolPinPolicy {
    fn from(keyword: ChangedToolsKeyword) -> Self {
        match keyword {
            ChangedToolsKeyword::Allow => Self::Allow,
            ChangedToolsKeyword::Warn => Self::Warn,
            ChangedToolsKeyword::Quarantine => Self::Quarantine,
        }
    }
}

impl From<SharingKeyword> for Sharing {
    fn from(keyword: SharingKeyword) -> Self {
        match keyword {
            SharingKeyword::Shared => Self::Shared,
            SharingKeyword::Key => Self::Key,
            SharingKeyword::Session => Self::Session,
        }
    }
}
