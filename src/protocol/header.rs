//! Header fields of the Streamable HTTP transport.

use http::HeaderName;

/// The revision of a request.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Mirrors `method` (2026-07-28).
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// Mirrors `params.name` or `params.uri` (2026-07-28).
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Mirrors arguments that the tool's schema marks; the rest of the name follows (2026-07-28).
pub const PARAM_PREFIX: &str = "mcp-param-";
/// The id of a Legacy session.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// Where a broken stream is to be taken up again.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Both forms in which a server may answer.
pub const ACCEPT_BOTH: &str = "application/json, text/event-stream";
/// A JSON body.
pub const JSON: &str = "application/json";
/// An event stream.
pub const EVENT_STREAM: &str = "text/event-stream";
