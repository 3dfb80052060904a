//! JSON-RPC error codes (JSON-RPC 2.0, section 5.1; MCP 2026-07-28, basic).

/// The bytes are not JSON.
pub const PARSE: i32 = -32700;
/// JSON, but not a JSON-RPC message of the revision.
pub const INVALID_REQUEST: i32 = -32600;
/// No such method here.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// No such tool, prompt, resource or cursor, or a member of the wrong form.
pub const INVALID_PARAMS: i32 = -32602;
/// The gateway or a server behind it failed.
pub const INTERNAL: i32 = -32603;
/// Sessions and transport, as the Legacy SDKs number them; without meaning in the Modern era.
pub const LEGACY_TRANSPORT: i32 = -32000;
/// A resource that is not there, up to 2025-11-25.
pub const LEGACY_RESOURCE_NOT_FOUND: i32 = -32002;
/// A header is missing, malformed, or says other than the body.
pub const HEADER_MISMATCH: i32 = -32020;
/// The revision asked for is not spoken here.
pub const UNSUPPORTED_VERSION: i32 = -32022;
/// The call needs what the client did not declare (2026-07-28).
pub const MISSING_CAPABILITY: i32 = -32021;
