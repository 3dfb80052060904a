//! What a server and an endpoint are said to be: read from JSON with every mistake told, secrets split off.
//!
//! Invariants: no mistake hides another; a mistake never quotes a value; what is shown, stored in the clear and logged
//! holds no secret, only that there is one. Does not know: HTTP requests, how things are stored, or who writes.

pub mod address;
pub mod bounds;
pub mod endpoint;
mod fields;
pub mod headers;
pub mod import;
pub mod json;
pub mod mcp_json;
mod secrets;
mod server;

pub use endpoint::{
    Endpoint, EndpointDocument, EndpointServerDocument, PrefixWord, ToolOverrideDocument,
    document_of as endpoint_document,
};
pub use fields::{Errors, FieldError, below};
pub use secrets::{SEALED, Secrets};
pub use server::{
    Allowed, AllowedCommand, ChangedToolsWord, Commands, EnvPattern, EraWord, Forbidden, KindWord,
    MODERN_SSE, PatternError, Rules, SERVED, Server, ServerDocument, Serving, SharingWord, Unreadable,
    Unserved, document_of as server_document, merge_patch,
};
