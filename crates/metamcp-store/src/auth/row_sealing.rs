//! Seals rows of the store. The columns that matter are authenticated as associated data; this is how they are encoded.
//!
//! ```text
//! associated data = 1 (version) | kind | field | field | ...
//! text, bytes     = length (8 bytes, little endian) | bytes          list = count (8 bytes) | item | item | ...
//! number          = 8 bytes, little endian                           optional = 0, or 1 | value
//! ```
//!
//! Each value says where it ends, and each kind has its fields in a fixed order. Two rows that differ in any encoded
//! column therefore have different encodings. JSON is encoded as it is read back, members ordered by name.

use crate::store::{
    EndpointRow, EndpointServer, JwtKeyRow, KeyRow, Plaintext, QuotaKind, RowSealer, SealedRow, SealedValue,
    ServerRow, ToolOverride, ToolPinsRow,
};

use super::seal::{Purpose, Sealer};

/// The purpose of a row's sealed value, and the associated data: every column that decides something. Left out are
/// texts for people (a key's description), times and version counters, and the epoch that the database assigns to a key.
pub fn associated_data(row: SealedRow<'_>) -> (Purpose, Vec<u8>) {
    match row {
        SealedRow::Key(row) => (Purpose::KeyRow, encode_key(row)),
        SealedRow::Server(row) => (Purpose::ServerSecrets, encode_server(row)),
        SealedRow::Endpoint(row) => (Purpose::EndpointRow, encode_endpoint(row)),
        SealedRow::JwtKey(row) => (Purpose::JwtKey, encode_jwt_key(row)),
        SealedRow::ToolPins(row) => (Purpose::ToolPins, encode_tool_pins(row)),
    }
}

impl RowSealer for Sealer {
    fn seal_row(&self, row: SealedRow<'_>, plain: &Plaintext) -> SealedValue {
        let (purpose, aad) = associated_data(row);
        SealedValue { bytes: self.seal(purpose, &aad, plain.expose()), key_version: self.current_version() }
    }

    fn open_row(&self, row: SealedRow<'_>) -> Option<Plaintext> {
        let (purpose, aad) = associated_data(row);
        let (sealed, version) = row.sealed();
        // The column must name the version that sealed the value: error messages and `rekey` rely on it.
        let is_consistent = sealed.first() == Some(&version);
        is_consistent.then(|| self.open(purpose, &aad, sealed).ok()).flatten().map(Plaintext::new)
    }

    fn has_version(&self, version: u8) -> bool {
        self.has_key_version(version)
    }

    fn sealing_version(&self) -> u8 {
        self.current_version()
    }
}

fn encode_key(row: &KeyRow) -> Vec<u8> {
    let mut to = FieldEncoder::for_kind(KEY);
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
    to.optional(row.expires_at, FieldEncoder::number);
    to.optional(row.grace_until, FieldEncoder::number);
    to.optional(row.successor, |to, id| to.bytes(id.as_bytes()));
    // Rows from before there were quotas must still open: without a quota, nothing follows.
    if !row.grants.quotas.is_none() {
        for kind in QuotaKind::ALL {
            to.optional(row.grants.quotas.limit(kind), FieldEncoder::number);
        }
    }
    to.0
}

fn encode_server(row: &ServerRow) -> Vec<u8> {
    let mut to = FieldEncoder::for_kind(SERVER);
    to.bytes(row.id.as_bytes());
    to.text(&row.name);
    to.text(row.kind.as_str());
    to.text(&row.definition.to_string());
    to.0
}

fn encode_endpoint(row: &EndpointRow) -> Vec<u8> {
    let mut to = FieldEncoder::for_kind(ENDPOINT);
    to.bytes(row.id.as_bytes());
    to.text(&row.name);
    to.text(row.prefix.as_str());
    to.list(&row.servers, |to, EndpointServer { server_id, allow, deny, overrides }| {
        to.bytes(server_id.as_bytes());
        to.texts(allow);
        to.texts(deny);
        to.list(overrides, |to, ToolOverride { tool, name, title, description, annotations }| {
            to.text(tool);
            for replacement in [name, title, description] {
                to.optional(replacement.as_ref(), |to, text| to.text(text));
            }
            to.optional(annotations.as_ref(), |to, annotations| to.text(&annotations.to_string()));
        });
    });
    to.0
}

fn encode_jwt_key(row: &JwtKeyRow) -> Vec<u8> {
    let mut to = FieldEncoder::for_kind(JWT_KEY);
    to.text(&row.kid);
    to.text(row.algorithm.as_str());
    to.text(row.phase.as_str());
    to.number(row.created_at);
    to.number(row.changed_at);
    to.0
}

fn encode_tool_pins(row: &ToolPinsRow) -> Vec<u8> {
    let mut to = FieldEncoder::for_kind(TOOL_PINS);
    to.text(&row.server);
    to.text(&row.pins.to_string());
    to.0
}

/// The encoding of a row, one field after the other.
struct FieldEncoder(Vec<u8>);

impl FieldEncoder {
    fn for_kind(kind: u8) -> Self {
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

/// Version and kinds are part of the stored format: existing ones must never change.
const VERSION: u8 = 1;
const KEY: u8 = 1;
const SERVER: u8 = 2;
const ENDPOINT: u8 = 3;
const JWT_KEY: u8 = 4;
const TOOL_PINS: u8 = 5;

#[cfg(test)]
mod tests;
