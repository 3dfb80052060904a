//! Where a message goes: a server of the endpoint, and the server's own name for what is asked for.

use std::sync::Arc;

use bytes::Bytes;

use crate::journal::usage::OTHER;
use crate::route::OriginalName;
use metamcp_core::frame::Span;

/// A place in the endpoint, and what is to be replaced in the message.
pub type Target = (usize, Option<Rename>);

/// Where in the message a name stands, and what the server calls it.
pub type Rename = (Span, Arc<OriginalName>);

/// What a call is counted as at its server: a name that nobody listed yet is the client's own invention, and such
/// names are counted as one, or there would be no end of them.
pub fn counted(rename: Option<&Rename>) -> Option<&str> {
    rename.map(|(_, original_name)| if original_name.is_listed { original_name.text.as_str() } else { OTHER })
}

/// The edit of the message that renames.
pub fn edit(rename: Option<&Rename>) -> Option<(Span, Bytes)> {
    rename.map(|(span, original_name)| (*span, original_name.json.clone()))
}
