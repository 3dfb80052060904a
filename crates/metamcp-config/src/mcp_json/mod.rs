//! `mcp.json`, the de-facto configuration file of MCP clients.
//!
//! Claude Desktop, Claude Code and Cursor write `mcpServers`; VS Code writes `servers` (in `settings.json`, below
//! `mcp`); Windsurf writes `serverUrl`. Unknown keys are ignored, because every client has some of its own.

mod entry;
mod jsonc;
mod entry_reader;
mod file;
mod names;
mod convert;

pub use convert::{http_definition, stdio_definition};
pub use entry::{Diagnostic, EntryKind, HttpTransport, McpJsonEntry, McpJsonFile};
pub use file::parse;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use jsonc::strip_comments;
pub use names::{derive_server_name, server_name_for};

#[cfg(test)]
mod tests;
