//! Servers: the JSON document, its validated form, and its conversion to and from rows of the store.

mod keywords;
mod document;
mod policy;
mod definition;
mod reader;
mod http;
mod program;
mod settings;
mod read;
mod patch;
mod stored;

pub use definition::ServerDefinition;
pub use document::ServerDocument;
pub use keywords::{KindKeyword, SharingKeyword};
pub use patch::normalize_patch;
pub use policy::{CommandPolicy, DefinitionRules, SERVED_KINDS};
pub use stored::{StoredServerError, server_document};

#[cfg(test)]
mod tests;
