//! Members of a server document that take one of a fixed set of values.

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::ServerKind;
use metamcp_config::server::Sharing;

/// The transport of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ServerKind)]
#[serde(rename_all = "lowercase")]
pub enum KindKeyword {
    #[default]
    Http,
    /// The HTTP+SSE transport of MCP 2024-11-05.
    Sse,
    Stdio,
}

/// Which sessions share a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Sharing)]
#[serde(rename_all = "lowercase")]
pub enum SharingKeyword {
    /// The sessions of one key, except for those to which the process may send what names no call: each of
    /// these has its own process.
    Auto,
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

impl From<SharingKeyword> for Sharing {
    fn from(keyword: SharingKeyword) -> Self {
        match keyword {
            SharingKeyword::Auto => Self::Auto,
            SharingKeyword::Shared => Self::Shared,
            SharingKeyword::Key => Self::Key,
            SharingKeyword::Session => Self::Session,
        }
    }
}
