//! The JSON document of a server, as the control plane shows and accepts it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::keywords::{ChangedToolsKeyword, EraKeyword, KindKeyword, SharingKeyword};

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
    /// `stdio`: which sessions share a process. Default: `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<SharingKeyword>,
    /// Whether the address may be private. Default: true if the gateway listens on loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<bool>,
    /// The protocol revisions to use. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub era: Option<EraKeyword>,
    /// Time to establish a connection, with a unit. Default: `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub connect_timeout: Option<String>,
    /// Time to the head of a response. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub first_byte_timeout: Option<String>,
    /// Time between two reads of a response. Default: `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub stream_idle_timeout: Option<String>,
    /// Requests in flight; further requests are queued. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub in_flight_max: Option<usize>,
    /// Time a request may be queued. Default: `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub queue_timeout: Option<String>,
    /// Requests that may be queued. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub queue_max: Option<usize>,
    /// Idle connections kept open, per worker. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 65_536)]
    pub idle_connections_max: Option<usize>,
    /// Time an idle connection is kept: less than the server's own keep-alive. Default: `4s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub idle_age_max: Option<String>,
    /// What to do with a tool whose definition changed since it was approved. Default: `warn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_tools: Option<ChangedToolsKeyword>,
}
