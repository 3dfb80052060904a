//! Reads the members of `http` and `sse` servers: the URL, and the headers sent with every request.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};

use super::super::fields::{ObjectReader, child_pointer};
use super::super::secrets::ServerSecrets;
use super::definition::ServerDefinition;
use super::document::ServerDocument;
use super::keywords::KindKeyword;
use super::reader::{DefinitionReader, PAIRS_MAX, seal_values};
use metamcp_config::server::headers::{self, HeaderOwner};
use metamcp_config::server::{ServerAddress, address, is_private_address};

pub(super) fn read_address(
    reader: &mut DefinitionReader<'_>,
    fields: &mut ObjectReader<'_>,
    document: &mut ServerDocument,
    secrets: &mut ServerSecrets,
) -> Option<ServerAddress> {
    let written = fields.required("url", reader.errors)?;
    // A URL sent back in its redacted form stands for the stored one.
    let stored = reader.stored.filter(|stored| stored.document.url.as_deref() == Some(written));
    let text = stored.and_then(|stored| stored.secrets.url.as_deref()).unwrap_or(written);
    let parsed = match document.kind {
        KindKeyword::Sse => address::parse(text).and_then(address::into_sse),
        KindKeyword::Http | KindKeyword::Stdio => address::parse(text),
    };
    let address = match parsed {
        Ok(address) => address,
        Err(detail) => {
            reader.fail("/url", detail);
            return None;
        }
    };
    if !document.allow_private.unwrap_or(reader.rules.allow_private) && is_private_address(&address) {
        reader.fail("/url", PRIVATE_ADDRESS);
    }
    // `kind` already says that the server is an SSE server.
    let redacted = address::format_redacted(&address).trim_start_matches("sse:").to_owned();
    let full = address::format_full(&address);
    secrets.url = (redacted != full).then_some(full);
    document.url = Some(redacted);
    Some(address)
}

pub(super) fn read_headers(
    reader: &mut DefinitionReader<'_>,
    fields: &mut ObjectReader<'_>,
    address: Option<&ServerAddress>,
    document: &mut ServerDocument,
    secrets: &mut ServerSecrets,
) -> Vec<(HeaderName, HeaderValue)> {
    // A stored credential is reused only for the peer it was stored for. Otherwise a caller could read it by
    // pointing the server at an address of their own.
    let has_same_peer = |stored: &&ServerDefinition| is_same_peer(stored.address.as_ref(), address);
    let stored: Option<&BTreeMap<String, String>> =
        reader.stored.filter(has_same_peer).map(|stored| &stored.secrets.headers);
    let mut parsed = Vec::new();
    for (name, written) in fields.text_map("headers", PAIRS_MAX, reader.errors) {
        let pointer = child_pointer("/headers", name);
        let stored = stored.and_then(|stored| stored.get(&name.to_ascii_lowercase()));
        let Some(value) = reader.resolve_sealed(stored, written, &pointer) else { continue };
        match headers::parse(name, &value) {
            Err(detail) => reader.fail(pointer, detail),
            Ok((name, _)) if headers::header_owner(&name) == HeaderOwner::Gateway => {
                reader.fail(pointer, "is set by metamcp itself, on every request; leave it out");
            }
            Ok((name, _)) if secrets.headers.contains_key(name.as_str()) => {
                reader.fail(pointer, "is a duplicate: header names are case-insensitive");
            }
            Ok((name, header)) => {
                secrets.headers.insert(name.as_str().to_owned(), value);
                parsed.push((name, header));
            }
        }
    }
    document.headers = seal_values(&secrets.headers);
    parsed
}

/// Whether both addresses have the same origin or socket; paths and queries may differ.
fn is_same_peer(stored: Option<&ServerAddress>, new: Option<&ServerAddress>) -> bool {
    match (stored, new) {
        (
            Some(ServerAddress::Http(stored) | ServerAddress::Sse(stored)),
            Some(ServerAddress::Http(new) | ServerAddress::Sse(new)),
        ) => stored.origin() == new.origin(),
        (Some(ServerAddress::Unix { socket: stored, .. }), Some(ServerAddress::Unix { socket: new, .. })) => {
            stored == new
        }
        // The missing address is already reported at `/url`.
        (_, None) => true,
        _ => false,
    }
}

const PRIVATE_ADDRESS: &str = "is a private address (loopback, link-local or private network); set \
                               allow_private (keyadm: --allow-private) to permit it";
