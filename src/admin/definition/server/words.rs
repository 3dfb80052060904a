//! The words of a server's document that are one of a few.

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::ServerKind;
use crate::upstream::ChangedTools;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ServerKind)]
#[serde(rename_all = "lowercase")]
pub enum KindWord {
    /// Streamable HTTP.
    #[default]
    Http,
    /// The transport of 2024-11-05.
    Sse,
    /// A child process.
    Stdio,
}

/// Which revisions a server is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Era)]
#[serde(rename_all = "lowercase")]
pub enum EraWord {
    /// Found out.
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// 2025-11-25 and earlier only.
    Legacy,
}

/// What becomes of a tool that is not as it was approved: as the server listed it first, or as it was approved since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ChangedTools)]
#[serde(rename_all = "lowercase")]
pub enum ChangedToolsWord {
    /// Nothing; nothing is remembered.
    Allow,
    /// It is logged and in the audit log, and approved by that.
    Warn,
    /// It is neither shown nor called until it is approved.
    Quarantine,
}

/// Who shares a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Sharing)]
#[serde(rename_all = "lowercase")]
pub enum SharingWord {
    /// Everybody.
    Shared,
    /// The sessions of one key.
    Key,
    /// Nobody: each session has its own.
    Session,
}

impl From<KindWord> for ServerKind {
    fn from(word: KindWord) -> Self {
        match word {
            KindWord::Http => Self::Http,
            KindWord::Sse => Self::Sse,
            KindWord::Stdio => Self::Stdio,
        }
    }
}

impl From<ChangedToolsWord> for ChangedTools {
    fn from(word: ChangedToolsWord) -> Self {
        match word {
            ChangedToolsWord::Allow => Self::Allow,
            ChangedToolsWord::Warn => Self::Warn,
            ChangedToolsWord::Quarantine => Self::Quarantine,
        }
    }
}
