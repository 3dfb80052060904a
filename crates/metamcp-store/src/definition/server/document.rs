//! The JSON document of a server, as the control plane shows and accepts it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::keywords::{KindKeyword, SharingKeyword};

/// A server behind the gateway. Secrets are shown as `(sealed)`; members that are not set have their default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = Server)]
#[serde(deny_unknown_fields)]
pub struct ServerDocument {
    /// Letters, digits, `-` and single `_`, not at either end, and not a UUID. Tools are listed as
    /// `NAME__TOOL`.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$",
        example = "github"
    )]
    pub name: String,
    /// The transport. `stdio` servers are served if the gateway may run the program. Requests may write
    /// `protocol` in place of `kind`, but not both.
    pub kind: KindKeyword,
    /// Whether the gateway serves it. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The tool prefix to use instead of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$")]
    pub alias: Option<String>,
    /// `http` and `sse`: `http://` or `https://`; `http` also `unix:/path/to/socket:/mcp`. Shown without its
    /// query and long path segments, which may contain tokens. Sent back as shown, the stored URL is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 8192, example = "https://mcp.example.com/mcp")]
    pub url: Option<String>,
    /// `http` and `sse`: headers sent with every request. Values are sealed and shown as `(sealed)`; sent
    /// back as `(sealed)`, the stored value is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// `stdio`: the absolute path of the program, exactly as listed in the gateway's `admin.stdio_commands`,
    /// together with any leading arguments that the entry requires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub command: Option<String>,
    /// `stdio`: the arguments, passed unchanged. They may be credentials, so all are sealed and shown as
    /// `(sealed)`; sent back as `(sealed)` at the same position, with the same command, the stored argument
    /// is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256)]
    pub args: Option<Vec<String>>,
    /// `stdio`: the absolute path of the working directory, exactly as listed in the gateway's
    /// `admin.stdio_dirs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub cwd: Option<String>,
    /// `stdio`: environment variables, sealed like headers. Names must be permitted by the gateway's
    /// `admin.stdio_env`. Variables that decide what a program loads or runs, such as `LD_PRELOAD` and
    /// `PATH`, are never permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// `stdio`: which sessions share a process. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<SharingKeyword>,
    /// Whether the address may be private. Default: true if the gateway listens on loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<bool>,
    /// The settings that are set. Their schema comes from [`metamcp_config::server::settings::SETTINGS`].
    #[serde(flatten)]
    #[schema(ignore)]
    pub settings: Map<String, Value>,
}
