//! JSON-RPC error codes (JSON-RPC 2.0, section 5.1; MCP 2026-07-28, basic).

/// The body is not JSON.
pub const PARSE: i32 = -32700;
/// The body is JSON, but not a JSON-RPC message of the revision.
pub const INVALID_REQUEST: i32 = -32600;
/// The method is unknown, or not supported by this endpoint.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// Unknown tool, prompt, resource or cursor, or a param of the wrong type.
pub const INVALID_PARAMS: i32 = -32602;
/// The gateway or a server failed.
pub const INTERNAL: i32 = -32603;
/// Session and transport errors of the Legacy SDKs. Undefined in the Modern era.
pub const LEGACY_TRANSPORT: i32 = -32000;
/// Unknown resource, up to revision 2025-11-25.
pub const LEGACY_RESOURCE_NOT_FOUND: i32 = -32002;
/// A header is missing or malformed, or contradicts the body (2026-07-28).
pub const HEADER_MISMATCH: i32 = -32020;
/// The revision is not supported (2026-07-28).
pub const UNSUPPORTED_VERSION: i32 = -32022;
/// The call needs a capability that the client did not declare (2026-07-28).
pub const MISSING_CAPABILITY: i32 = -32021;
