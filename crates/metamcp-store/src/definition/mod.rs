//! Server and endpoint definitions: reading them from JSON, validating them, and separating their secrets.
//!
//! Invariants: reading reports every error, not only the first; an error never quotes a value; a document that is
//! shown, stored unencrypted or logged contains no secret, only the placeholder for it. Does not know about HTTP
//! requests, the layout of the store, or who writes a definition.

pub mod address;
pub mod headers;
pub mod settings;
pub mod strict_json;
mod merge_patch;
mod fields;
mod secrets;
mod server;
pub mod endpoint;
pub mod mcp_json;
pub mod import;

pub use endpoint::{
    EndpointDefinition, EndpointDocument, EndpointServerDocument, PrefixKeyword, ToolOverrideDocument,
    endpoint_document,
};
pub use fields::{FieldError, FieldErrors, child_pointer};
pub use merge_patch::merge_patch;
pub use secrets::{SEALED_PLACEHOLDER, ServerSecrets};
pub use server::{
    AllowedCommand, AllowlistViolation, ChangedToolsKeyword, CommandPolicy, DefinitionRules, EnvPattern,
    EnvPatternError, EraKeyword, KIND_ALIAS, KindKeyword, MODERN_OVER_SSE, SERVED_KINDS, ServerDefinition,
    ServerDocument, ServingPolicy, SharingKeyword, StdioAllowlist, StoredServerError, UnservedReason,
    server_document,
};
