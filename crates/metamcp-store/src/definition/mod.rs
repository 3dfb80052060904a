//! Server and endpoint definitions: reading them from JSON, validating them, and separating their secrets.
//!
//! Invariants: reading reports every error, not only the first; an error never quotes a value; a document that is
//! shown, stored unencrypted or logged contains no secret, only the placeholder for it. Does not know about HTTP
//! requests, the layout of the store, or who writes a definition.

mod merge_patch;
mod fields;
mod prefixes;
mod secrets;
mod server;
pub mod endpoint;
pub mod import;

pub use endpoint::{
    EndpointDefinition, EndpointDocument, EndpointServerDocument, PrefixKeyword, ToolOverrideDocument,
    endpoint_document,
};
pub use fields::{FieldError, FieldErrors, child_pointer};
pub use merge_patch::merge_patch;
pub use prefixes::check_prefixes;
pub use secrets::ServerSecrets;
pub use server::{
    CommandPolicy, DefinitionRules, KindKeyword, SERVED_KINDS, ServerDefinition, ServerDocument,
    SharingKeyword, StoredServerError, normalize_patch, server_document,
};
