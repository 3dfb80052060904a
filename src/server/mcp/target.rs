//! The target of a message: a server of the endpoint, and the server's own name for the requested item.

use std::sync::Arc;

use bytes::Bytes;

use crate::journal::usage::OTHER;
use crate::route::OriginalName;
use metamcp_core::frame::Span;

/// The server's index in the endpoint, and the name to replace in the message.
pub type Target = (usize, Option<Rename>);

/// The span of the name in the message, and the server's own name for it.
pub type Rename = (Span, Arc<OriginalName>);

/// The name to count a call under. Names that no server listed are invented by clients; they are counted as
/// one, since their number has no bound.
pub fn counted(rename: Option<&Rename>) -> Option<&str> {
    rename.map(|(_, original_name)| if original_name.is_listed { original_name.text.as_str() } else { OTHER })
}

/// The edit that replaces the name in the message.
pub fn edit(rename: Option<&Rename>) -> Option<(Span, Bytes)> {
    rename.map(|(span, original_name)| (*span, original_name.json.clone()))
}
