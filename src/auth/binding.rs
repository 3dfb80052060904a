//! What of a row is bound to what is sealed in it, and how it is written down for that.
//!
//! ```text
//! associated data = 1 (version) | kind | field | field | ...
//! text, bytes     = length (8 bytes, little endian) | bytes          list = count (8 bytes) | item | item | ...
//! number          = 8 bytes, little endian                           optional = 0, or 1 | value
//! ```
//!
//! Each value says where it ends, and each kind has its fields in one order: two rows that differ in anything that decides
//! are never written alike. JSON is written as it is read back, members in the order of their names.

use crate::store::{
    Binder, Bound, EndpointRow, EndpointServer, JwtKeyRow, KeyRow, PinsRow, Plain, Sealed, ServerRow,
    ToolOverride,
};

use super::seal::{Purpose, Sealer};

/// What a row is sealed for, and with which associated data: all of it that decides. Not what is for people (a key's
/// description), what says when it was changed and how often, or the epoch that the database gives a key.
pub fn bound(row: Bound<'_>) -> (Purpose, Vec<u8>) {
    match row {
        Bound::Key(row) => (Purpose::KeyRow, key(row)),
        Bound::Server(row) => (Purpose::ServerSecrets, server(row)),
        Bound::Endpoint(row) => (Purpose::EndpointRow, endpoint(row)),
        Bound::JwtKey(row) => (Purpose::JwtKey, jwt_key(row)),
        Bound::ToolPins(row) => (Purpose::ToolPins, tool_pins(row)),
    }
}

impl Binder for Sealer {
    fn seal_row(&self, row: Bound<'_>, plain: &Plain) -> Sealed {
        let (purpose, aad) = bound(row);
        Sealed { bytes: self.seal(purpose, &aad, plain.expose()), key_version: self.version() }
    }

    fn open_row(&self, row: Bound<'_>) -> Option<Plain> {
        let (purpose, aad) = bound(row);
        let (sealed, version) = row.sealed();
        // Which version it is says what to do about one that does not open, and `rekey` what is left to do.
        let is_said = sealed.first() == Some(&version);
        is_said.then(|| self.open(purpose, &aad, sealed).ok()).flatten().map(Plain::new)
    }

    fn has_version(&self, version: u8) -> bool {
        self.knows(version)
    }

    fn sealing_version(&self) -> u8 {
        self.version()
    }
}

fn key(row: &KeyRow) -> Vec<u8> {
    let mut to = Fields::of(KEY);
    to.bytes(row.id.as_bytes());
    to.text(&row.key_id);
    to.text(&row.name);
    to.text(row.grants.role.as_str());
    to.optional(row.grants.endpoints.as_ref(), |to, names| to.texts(names));
    to.optional(row.grants.tools.as_ref(), |to, globs| to.texts(globs));
    to.optional(row.grants.rate, |to, rate| {
        to.number(rate.per_second.into());
        to.number(rate.burst.into());
    });
    to.optional(row.grants.concurrency, |to, calls| to.number(calls.into()));
    to.text(row.status.as_str());
    to.optional(row.expires_at, Fields::number);
    to.optional(row.grace_until, Fields::number);
    to.optional(row.successor, |to, id| to.bytes(id.as_bytes()));
    to.0
}

fn server(row: &ServerRow) -> Vec<u8> {
    let mut to = Fields::of(SERVER);
    to.bytes(row.id.as_bytes());
    to.text(&row.name);
    to.text(row.kind.as_str());
    to.text(&row.definition.to_string());
    to.0
}

fn endpoint(row: &EndpointRow) -> Vec<u8> {
    let mut to = Fields::of(ENDPOINT);
    to.bytes(row.id.as_bytes());
    to.text(&row.name);
    to.text(row.prefix.as_str());
    to.list(&row.servers, |to, EndpointServer { server_id, allow, deny, overrides }| {
        to.bytes(server_id.as_bytes());
        to.texts(allow);
        to.texts(deny);
        to.list(overrides, |to, ToolOverride { tool, name, title, description, annotations }| {
            to.text(tool);
            for instead in [name, title, description] {
                to.optional(instead.as_ref(), |to, text| to.text(text));
            }
            to.optional(annotations.as_ref(), |to, annotations| to.text(&annotations.to_string()));
        });
    });
    to.0
}

fn jwt_key(row: &JwtKeyRow) -> Vec<u8> {
    let mut to = Fields::of(JWT_KEY);
    to.text(&row.kid);
    to.text(row.algorithm.as_str());
    to.text(row.phase.as_str());
    to.number(row.created_at);
    to.number(row.changed_at);
    to.0
}

fn tool_pins(row: &PinsRow) -> Vec<u8> {
    let mut to = Fields::of(TOOL_PINS);
    to.text(&row.server);
    to.text(&row.pins.to_string());
    to.0
}

/// One after the other.
struct Fields(Vec<u8>);

impl Fields {
    fn of(kind: u8) -> Self {
        Self(vec![VERSION, kind])
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn list<T>(&mut self, items: &[T], item: impl Fn(&mut Self, &T)) {
        self.number(items.len() as u64);
        for one in items {
            item(self, one);
        }
    }

    fn texts(&mut self, texts: &[String]) {
        self.list(texts, |to, text| to.text(text));
    }

    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Part of what is at rest, as are the kinds: never to be changed, only followed by others.
const VERSION: u8 = 1;
const KEY: u8 = 1;
const SERVER: u8 = 2;
const ENDPOINT: u8 = 3;
const JWT_KEY: u8 = 4;
const TOOL_PINS: u8 = 5;

#[cfg(test)]
mod tests;
